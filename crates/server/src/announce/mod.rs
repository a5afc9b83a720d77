//! MQTT discovery: devices as Home Assistant finds them at the owner's broker, without our integration.
//!
//! What a device is to show is worked out from what the API says of it, compared with what was said last, and the difference
//! is published. Every message is retained, so whatever is announced is first written down: what nobody announces any more is
//! taken away, also after a crash, and also after discovery was switched off.

mod commands;
mod payload;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::Clock;
use model::chain::chain;
use net::mqtt::{Bus, Outgoing, Weight};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Digest as _;
use store::Store;
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;
use crate::home_assistant::HomeAssistant;
use crate::rollout::Rollouts;
use crate::views::DeviceView;
use payload::Topics;

/// The setting that holds what is announced.
const ANNOUNCED: &str = "mqtt_announced";
/// How often all devices are looked through: uptime and memory move without an event. Guess: half a minute is often enough
/// for what people look at, and 1,000 devices are a message a 30th of a second.
const ALL_EVERY: Duration = Duration::from_secs(30);
/// How long events are gathered before devices are looked through.
const GATHER: Duration = Duration::from_millis(200);
/// How often the connection is looked at, and what found no room is tried again.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long to wait after something could not be read or stored.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Messages that the line to the broker keeps free for others.
const ROOM_KEPT: usize = 200;

/// What the configuration says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Whether devices are announced.
    pub(crate) discovery: bool,
    /// Whether commands are taken.
    pub(crate) commands: bool,
    /// Where all of ours is.
    pub(crate) prefix: String,
    /// Where Home Assistant looks.
    pub(crate) discovery_prefix: String,
}

/// What it is made of.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Clock,
    pub(crate) fleet: Fleet,
    pub(crate) rollouts: Rollouts,
    pub(crate) home_assistant: HomeAssistant,
    pub(crate) bus: Bus,
}

/// Announces devices. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Announcer {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    settings: Settings,
    topics: Topics,
    state: Mutex<State>,
    /// Something is to be said.
    due: Notify,
}

#[derive(Default)]
struct State {
    /// Devices to be looked through; all of them where that is said.
    due: BTreeSet<String>,
    all_due: bool,
    /// Devices whose update is to be said again although nothing has changed: Home Assistant has forgotten what it was told
    /// when it sent a command (`../shared/HOME_ASSISTANT.md` 3).
    again: BTreeSet<String>,
    /// All of it is to be said again.
    all_again: bool,
    /// Why a command of a device did nothing, until the next one.
    not_begun: HashMap<String, String>,
}

/// What is retained at the broker because of us, as it is kept: written before anything is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Announced {
    /// Where the devices are announced.
    topics: Topics,
    /// The devices, by their ids.
    devices: BTreeSet<String>,
    /// Topics that are to be emptied.
    leaving: BTreeSet<String>,
}

impl Announced {
    /// The same with all announcements at these topics: what is announced elsewhere is to be emptied.
    fn at(mut self, topics: &Topics) -> Self {
        if self.topics != *topics {
            let devices = std::mem::take(&mut self.devices);
            self.leaving
                .extend(devices.iter().flat_map(|device| self.topics.all_of(device)));
            self.topics = topics.clone();
        }
        self
    }
}

/// Tells one payload from another without keeping it.
type Mark = [u8; 32];

fn mark(payload: &[u8]) -> Mark {
    sha2::Sha256::digest(payload).into()
}

impl Announcer {
    pub(crate) fn new(parts: Parts, settings: Settings) -> Self {
        let topics = Topics {
            prefix: settings.prefix.clone(),
            discovery_prefix: settings.discovery_prefix.clone(),
        };
        Self {
            inner: Arc::new(Inner {
                parts,
                settings,
                topics,
                state: Mutex::default(),
                due: Notify::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces devices, takes commands, and takes away what is not announced any more, until it is cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let work = async {
            if !self.inner.settings.discovery {
                // What was announced before is taken away, and then there is nothing to say.
                return self.say().await;
            }
            tokio::join!(
                self.say(),
                self.hear_events(),
                self.hear_progress(),
                self.hear_births(),
                self.obey()
            );
        };
        // What was published is in the line of the bus, which outlives this; the record says what is still to be said.
        cancel.run_until_cancelled(Box::pin(work)).await;
    }

    fn all_are_due(&self) {
        self.state().all_due = true;
        self.inner.due.notify_one();
    }

    fn is_due(&self, device: &str) {
        self.state().due.insert(device.to_owned());
        self.inner.due.notify_one();
    }

    async fn hear_events(&self) {
        let mut events = self.inner.parts.fleet.events();
        let mut shown = self.inner.parts.home_assistant.shown_changes();
        loop {
            // Both can be dropped: neither has taken anything then.
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => match event.device {
                        Some(device) => {
                            // It has begun, or it has come: what stood against a command is over.
                            if matches!(event.kind.as_str(), "job.started" | "device.online") {
                                self.state().not_begun.remove(&device);
                            }
                            self.is_due(&device);
                        }
                        // A rollout, or firmware: it may concern any of them.
                        None => self.all_are_due(),
                    },
                    Err(RecvError::Lagged(_)) => self.all_are_due(),
                    Err(RecvError::Closed) => return,
                },
                changed = shown.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.all_are_due();
                }
            }
        }
    }

    async fn hear_progress(&self) {
        let mut progress = self.inner.parts.rollouts.live();
        loop {
            match progress.recv().await {
                Ok(event) => {
                    if let Some(device) = event.device {
                        self.is_due(&device);
                    }
                }
                Err(RecvError::Lagged(_)) => self.all_are_due(),
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Home Assistant has started: it is told everything again.
    async fn hear_births(&self) {
        let mut births = self.inner.parts.bus.listen(&[self.inner.topics.birth()]);
        loop {
            if births.next().await.payload == b"online" {
                self.state().all_again = true;
                self.all_are_due();
            }
        }
    }

    /// Says what has changed.
    async fn say(&self) {
        let Ok(mut record) = self.read_record().await else {
            return;
        };
        let bus = &self.inner.parts.bus;
        let mut said: HashMap<String, Mark> = HashMap::new();
        let mut connection = 0;
        let mut due = BTreeSet::new();
        let mut all_due = true;
        let mut looked = Instant::now();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.inner.due.notified() => tokio::time::sleep(GATHER).await,
                _ = look.tick() => {}
            }
            if !bus.is_connected() {
                continue;
            }
            // A broker that was away may have forgotten what it had kept.
            if connection != bus.n_connections() {
                connection = bus.n_connections();
                said.clear();
                all_due = true;
            }
            {
                let mut state = self.state();
                due.append(&mut state.due);
                all_due |= std::mem::take(&mut state.all_due) || looked.elapsed() >= ALL_EVERY;
                if std::mem::take(&mut state.all_again) {
                    said.clear();
                }
                for device in std::mem::take(&mut state.again) {
                    said.remove(&self.inner.topics.update(&device));
                    due.insert(device);
                }
            }
            if !all_due && due.is_empty() && record.leaving.is_empty() {
                continue;
            }
            let wanted = match self.wanted(all_due, &due).await {
                Ok(wanted) => wanted,
                Err(error) => {
                    tracing::warn!(error, "what is announced could not be worked out");
                    tokio::time::sleep(AFTER_FAILURE).await;
                    continue;
                }
            };
            if all_due {
                looked = Instant::now();
            }
            if !self.keep(&mut record, &wanted, all_due, &due).await {
                tokio::time::sleep(AFTER_FAILURE).await;
                continue;
            }
            if self.publish(&record, &mut said, wanted) {
                all_due = false;
                due.clear();
                self.forget_emptied(&mut record, &mut said).await;
            }
            if !self.inner.settings.discovery && record.devices.is_empty() && record.leaving.is_empty() {
                return;
            }
        }
    }

    /// What is to be retained of each device; none of one that is not announced.
    async fn wanted(
        &self,
        all: bool,
        due: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, Vec<(String, Value)>>, String> {
        let parts = &self.inner.parts;
        let mut wanted = BTreeMap::new();
        if !self.inner.settings.discovery {
            return Ok(wanted);
        }
        let mut devices = parts.fleet.devices();
        devices.retain(|device| {
            (all || due.contains(&device.id)) && device.enrolled && !parts.home_assistant.shows(&device.id)
        });
        if devices.is_empty() {
            return Ok(wanted);
        }
        parts
            .rollouts
            .complete(&mut devices)
            .await
            .map_err(|error| chain(&error))?;
        let not_begun = self.state().not_begun.clone();
        for device in devices {
            let messages = self.messages(&device, not_begun.get(&device.id).map(String::as_str));
            wanted.insert(device.id, messages);
        }
        Ok(wanted)
    }

    fn messages(&self, device: &DeviceView, not_begun: Option<&str>) -> Vec<(String, Value)> {
        let topics = &self.inner.topics;
        vec![
            (
                topics.config(&device.id),
                payload::config(device, topics, self.inner.settings.commands),
            ),
            (topics.update(&device.id), payload::update(device, not_begun)),
            (topics.state(&device.id), payload::state(device)),
        ]
    }

    /// Brings the record in line with what is wanted, and stores it where that changes it. Says whether it is stored.
    async fn keep(
        &self,
        record: &mut Announced,
        wanted: &BTreeMap<String, Vec<(String, Value)>>,
        all: bool,
        due: &BTreeSet<String>,
    ) -> bool {
        let topics = &self.inner.topics;
        let mut next = record.clone();
        let stays = |device: &String| wanted.contains_key(device) || !(all || due.contains(device));
        for device in record.devices.iter().filter(|device| !stays(device)) {
            next.devices.remove(device);
            next.leaving.extend(topics.all_of(device));
        }
        for device in wanted.keys() {
            next.devices.insert(device.clone());
            for topic in topics.all_of(device) {
                next.leaving.remove(&topic);
            }
        }
        if next == *record {
            return true;
        }
        self.store_record(record, next).await
    }

    async fn store_record(&self, record: &mut Announced, next: Announced) -> bool {
        let value = json!(next);
        let kept = (!next.devices.is_empty() || !next.leaving.is_empty()).then_some(&value);
        match self.inner.parts.store.set_setting(ANNOUNCED, kept).await {
            Ok(()) => {
                *record = next;
                true
            }
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "nothing is announced that cannot be written down"
                );
                false
            }
        }
    }

    async fn read_record(&self) -> Result<Announced, ()> {
        match self.inner.parts.store.setting(ANNOUNCED).await {
            // What a newer program has written is not understood, and not taken away either.
            Ok(kept) => {
                let kept = kept.and_then(|kept| serde_json::from_value::<Announced>(kept).ok());
                let none = || Announced {
                    topics: self.inner.topics.clone(),
                    devices: BTreeSet::new(),
                    leaving: BTreeSet::new(),
                };
                Ok(kept.unwrap_or_else(none).at(&self.inner.topics))
            }
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    "devices are not announced: what was announced cannot be read"
                );
                Err(())
            }
        }
    }

    /// Publishes what differs from what was said. Says whether there was room for all of it.
    fn publish(
        &self,
        record: &Announced,
        said: &mut HashMap<String, Mark>,
        wanted: BTreeMap<String, Vec<(String, Value)>>,
    ) -> bool {
        let bus = &self.inner.parts.bus;
        let retained = |topic: &str, payload: Vec<u8>| Outgoing {
            topic: topic.to_owned(),
            payload,
            retain: true,
            weight: Weight::Result,
        };
        // An empty payload takes a message away that the broker has kept.
        let emptied = record.leaving.iter().map(|topic| (topic.clone(), Vec::new()));
        let wanted = wanted.into_values().flatten();
        let wanted = wanted.map(|(topic, value)| (topic, value.to_string().into_bytes()));
        for (topic, payload) in emptied.chain(wanted) {
            let mark = mark(&payload);
            if said.get(&topic) == Some(&mark) {
                continue;
            }
            if bus.room() < ROOM_KEPT || !bus.publish(retained(&topic, payload)) {
                return false;
            }
            said.insert(topic, mark);
        }
        true
    }

    /// Forgets what was emptied, once the broker has confirmed all that was said.
    async fn forget_emptied(&self, record: &mut Announced, said: &mut HashMap<String, Mark>) {
        let bus = &self.inner.parts.bus;
        if record.leaving.is_empty() || !bus.is_connected() || !bus.is_idle() {
            return;
        }
        for topic in &record.leaving {
            said.remove(topic);
        }
        let next = Announced {
            leaving: BTreeSet::new(),
            ..record.clone()
        };
        self.store_record(record, next).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(prefix: &str, discovery_prefix: &str) -> Topics {
        Topics {
            prefix: prefix.to_owned(),
            discovery_prefix: discovery_prefix.to_owned(),
        }
    }

    #[test]
    fn what_was_announced_under_other_names_is_taken_away_there() {
        let old = topics("reflash", "homeassistant");
        let announced = || Announced {
            topics: old.clone(),
            devices: BTreeSet::from(["a0b1c2d3e4f5".to_owned()]),
            leaving: BTreeSet::new(),
        };
        assert_eq!(announced().at(&old), announced());
        let new = topics("attic", "homeassistant");
        let moved = announced().at(&new);
        assert_eq!(moved.topics, new);
        assert!(moved.devices.is_empty());
        let leaving: Vec<_> = moved.leaving.iter().map(String::as_str).collect();
        assert_eq!(
            leaving,
            [
                "homeassistant/device/reflash_a0b1c2d3e4f5/config",
                "reflash/a0b1c2d3e4f5/state",
                "reflash/a0b1c2d3e4f5/update"
            ]
        );
    }
}
