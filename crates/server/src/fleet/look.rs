//! Looks at devices: in turn, many at once, and the slow ones never in the way of the others.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use engine::NoAnswers;
use model::device::{Ota, Snapshot};
use model::family::{Driver, Family, Fault, FaultKind, Notes, Reason, Target};
use model::id::DeviceId;
use model::inventory::{MISSES_TO_OFFLINE, State as Standing};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::Fleet;
use super::arrive::How;
use super::entry::Conflict;

/// Looks at once at devices that answered last time. Guess: enough for 1,000 devices in a few seconds.
const N_PROMPT: usize = 32;
/// Looks at once at devices that did not, or were never reached: they may take their 5 s without holding up the others.
const N_SLOW: usize = 64;
/// How soon after a miss to look again: three of them in less than two polls (RELIABILITY.md G10).
/// Guess: longer than a device takes to restart its network.
const AFTER_MISS: Duration = Duration::from_secs(10);
/// How many looks are mere glances between two full ones.
const N_GLANCES: u32 = 20;
/// How often a device tells a broker that it is there. Guess: the real one's interval is not known; most tell every 30 s.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How long the poller sleeps at most.
const MAX_SLEEP: Duration = Duration::from_mins(1);

/// What is due so soon is looked at now, in parts of the time between two looks and at most: a few large batches cost less than
/// many small ones. Guess: nobody sees the difference, and 1,000 devices that have drifted apart come together again.
const SOON_PART: u32 = 50;
const SOON_MAX: Duration = Duration::from_secs(1);

/// What a look needs to know.
struct Due {
    key: String,
    id: DeviceId,
    family: Arc<dyn Family>,
    address: Option<IpAddr>,
    given_as: Option<String>,
    notes: Notes,
    chip: Option<String>,
    full: bool,
    /// It was listed and never reached: its identity is not known yet.
    placeholder: bool,
    clones: Option<[IpAddr; 2]>,
    heard_at: Option<Duration>,
    ota_wanted: Option<bool>,
    poll_every: Duration,
    slow: bool,
}

/// Devices that are due and wait for their turn, by key.
#[derive(Default)]
struct Line {
    prompt: VecDeque<String>,
    slow: VecDeque<String>,
}

impl Fleet {
    /// Looks at every device in turn.
    pub(super) async fn poll(self, cancel: CancellationToken) {
        // Each look says whether it was a slow one, and when the next at the same device is due.
        let mut looks: JoinSet<(bool, Option<Instant>)> = JoinSet::new();
        let (mut n_prompt, mut n_slow) = (0, 0);
        let mut line = Line::default();
        let (mut next, mut woken) = (Instant::now(), true);
        loop {
            // Going through all devices is dear with many of them, and done once a turn instead of after each look.
            if woken || next <= Instant::now() {
                next = self.line_up(&mut line);
            }
            for due in self.due(&mut line, N_PROMPT - n_prompt, N_SLOW - n_slow) {
                *if due.slow { &mut n_slow } else { &mut n_prompt } += 1;
                let fleet = self.clone();
                let span = tracing::info_span!("look", device = %due.id);
                looks.spawn(
                    async move {
                        let slow = due.slow;
                        (slow, fleet.poll_one(due).await)
                    }
                    .instrument(span),
                );
            }
            woken = false;
            let mut ended = tokio::select! {
                () = cancel.cancelled() => break,
                // A lost notification is made up for by the next look at what is due.
                () = self.inner.wake.notified() => {
                    woken = true;
                    None
                }
                () = tokio::time::sleep_until(next) => None,
                Some(ended) = looks.join_next() => Some(ended),
            };
            while let Some(look) = ended {
                match look {
                    Ok((slow, again)) => {
                        *if slow { &mut n_slow } else { &mut n_prompt } -= 1;
                        next = again.map_or(next, |again| next.min(again));
                    }
                    Err(error) => {
                        tracing::error!(%error, "a look has ended early");
                        (n_prompt, n_slow) = self.count_looking();
                    }
                }
                ended = looks.try_join_next();
            }
        }
        looks.shutdown().await;
    }

    /// Looks that are under way, counted anew.
    fn count_looking(&self) -> (usize, usize) {
        let state = self.state();
        let looking = state.entries.values().filter(|entry| entry.looking);
        let slow = looking
            .filter(|entry| is_slow(entry.presence.state(), entry.presence.misses()))
            .count();
        (0, slow.min(N_SLOW))
    }

    /// What is due within this time is looked at now.
    fn soon(&self) -> Duration {
        let settings = self.settings();
        let most_often = settings.families.iter().map(|family| family.poll_every).min();
        (most_often.unwrap_or_default() / SOON_PART).min(SOON_MAX)
    }

    /// Puts all that are due in line, and says when the next is.
    fn line_up(&self, line: &mut Line) -> Instant {
        line.prompt.clear();
        line.slow.clear();
        let now = Instant::now();
        let soon = now + self.soon();
        let mut next = now + MAX_SLEEP;
        for (key, entry) in &self.state().entries {
            if entry.looking || entry.held {
                continue;
            }
            if entry.next_look > soon {
                next = next.min(entry.next_look);
                continue;
            }
            let is_slow = is_slow(entry.presence.state(), entry.presence.misses());
            let part = if is_slow { &mut line.slow } else { &mut line.prompt };
            part.push_back(key.clone());
        }
        next
    }

    /// The devices to look at now: the first of the line, as many as there is room for.
    fn due(&self, line: &mut Line, n_prompt: usize, n_slow: usize) -> Vec<Due> {
        let settings = self.settings();
        let soon = Instant::now() + self.soon();
        let mut state = self.state();
        let mut due = Vec::new();
        let (mut prompt, mut slow) = (n_prompt, n_slow);
        loop {
            let (is_slow, key) = match (prompt, slow) {
                (1.., _) if !line.prompt.is_empty() => (false, line.prompt.pop_front()),
                (_, 1..) => (true, line.slow.pop_front()),
                _ => break,
            };
            let Some(key) = key else { break };
            // It may have gone or been looked at since it was put in line.
            let Some(entry) = state.entries.get_mut(&key) else {
                continue;
            };
            if entry.looking || entry.held || entry.next_look > soon {
                continue;
            }
            let Some(family) = settings.family(entry.row.id.family.as_str()) else {
                continue;
            };
            *if is_slow { &mut slow } else { &mut prompt } -= 1;
            entry.looking = true;
            let clones = match &entry.conflict {
                Some(Conflict::Clones { addresses, .. }) => Some(*addresses),
                _ => None,
            };
            due.push(Due {
                key,
                id: entry.row.id.clone(),
                family: entry.family.clone(),
                address: entry.row.address,
                given_as: entry.row.given_as.clone(),
                notes: entry.row.notes.clone(),
                chip: entry.row.chip.clone(),
                full: entry.glances == 0 || entry.glances > N_GLANCES,
                placeholder: entry.row.seen_ms.is_none() && entry.row.given_as.is_some(),
                clones,
                heard_at: entry.heard_at,
                ota_wanted: entry.row.ota_wanted.filter(|_| entry.row.enrolled_ms.is_some()),
                poll_every: family.poll_every,
                slow: is_slow,
            });
        }
        due
    }

    /// Looks at one device, and says when to look again.
    async fn poll_one(&self, due: Due) -> Option<Instant> {
        let began = Instant::now();
        let answered = self.poll_answered(&due).await;
        self.inner
            .metrics
            .polled(due.id.family.as_str(), answered, began.elapsed());
        let mut state = self.state();
        let entry = state.entries.get_mut(&due.key)?;
        entry.looking = false;
        let soon = !answered && entry.presence.misses() < MISSES_TO_OFFLINE;
        let pause = if soon {
            due.poll_every.min(AFTER_MISS)
        } else {
            due.poll_every
        };
        entry.next_look = Instant::now() + pause;
        Some(entry.next_look)
    }

    /// Looks at one device. Says whether it answered.
    async fn poll_answered(&self, due: &Due) -> bool {
        if let Some(addresses) = due.clones {
            let looks = addresses.map(|address| self.glance(&due.family, address, None));
            let [one, other] = looks;
            let (one, other) = tokio::join!(one, other);
            let is_it = |look: Result<Snapshot, Fault>| look.is_ok_and(|seen| seen.id == due.id);
            self.clones_looked(&due.key, [is_it(one), is_it(other)]);
            return true;
        }
        let Some(address) = self.whereabouts(due).await else {
            return self.unplaced(due);
        };
        let given_as = due.given_as.as_deref();
        let mut driver = driver(&due.family, address, given_as, due);
        let look = if due.full {
            driver.probe().await
        } else {
            driver.glance().await
        };
        match look {
            Ok(snapshot) if due.placeholder => {
                let how = How {
                    source: Some("config"),
                    full: due.full,
                    given_as: due.given_as.clone(),
                };
                let id = self.arrived(&due.family, address, snapshot, &how).await;
                self.identified(&due.id, &id);
                true
            }
            Ok(snapshot) if snapshot.id == due.id => {
                let switch = due.ota_wanted.filter(|wanted| snapshot.ota == ota(!wanted));
                let how = How {
                    source: None,
                    full: due.full,
                    given_as: None,
                };
                self.arrived(&due.family, address, snapshot, &how).await;
                if let Some(on) = switch {
                    self.switch_again(&due.id, &mut *driver, on).await;
                }
                true
            }
            Ok(snapshot) => {
                let other = snapshot.id.clone();
                let how = How {
                    source: Some("scan"),
                    full: due.full,
                    given_as: None,
                };
                self.arrived(&due.family, address, snapshot, &how).await;
                let text = format!("Another device, {other}, answers at {address}.");
                let fault = Fault::before_push(FaultKind::Refused, Reason::OtherDevice, text);
                self.missed(&due.key, &fault);
                false
            }
            Err(fault) => {
                // During an update the device is silent, and nothing is wrong with it (RELIABILITY.md F43).
                let updating = matches!(self.inner.store.open_job(&due.id).await, Ok(Some(_)));
                if !updating {
                    self.inner
                        .metrics
                        .failed(due.id.family.as_str(), fault.reason.name());
                    self.missed(&due.key, &fault);
                }
                updating
            }
        }
    }

    /// Where to look; a name is asked for anew whenever its device did not answer.
    async fn whereabouts(&self, due: &Due) -> Option<IpAddr> {
        let is_name = |host: &&String| host.parse::<IpAddr>().is_err();
        if let Some(host) = due.given_as.as_ref().filter(is_name)
            && (due.placeholder || due.slow)
        {
            let found = net::resolve(host).await.ok()?;
            let first = found
                .into_iter()
                .find(|address| self.inner.site.dialer.allows(*address));
            return first.or(due.address);
        }
        if due.address.is_some() {
            return due.address;
        }
        let mac = due.id.mac_bytes()?;
        net::address_of(mac).filter(|address| self.inner.site.dialer.allows(*address))
    }

    /// One that nobody knows the address of: its heartbeats are all there is.
    fn unplaced(&self, due: &Due) -> bool {
        let now = self.boot();
        let silent_for = due.heard_at.map(|heard| now.saturating_sub(heard));
        let interval = due.poll_every.max(HEARTBEAT);
        if silent_for.is_some_and(|silent| silent < interval * u32::from(MISSES_TO_OFFLINE)) {
            return true;
        }
        let text = match &due.given_as {
            Some(host) => format!("The name {host} has no address that may be reached."),
            None => "Its address is not known, and nothing was heard of it at the broker.".to_owned(),
        };
        let fault = Fault::before_push(FaultKind::Unreachable, Reason::NoAnswer, text);
        // Three intervals of silence are three misses.
        for _ in 0..MISSES_TO_OFFLINE {
            self.missed(&due.key, &fault);
        }
        false
    }

    /// Its owner wants the switch the other way, and a restart has put it back.
    async fn switch_again(&self, id: &DeviceId, driver: &mut dyn Driver, on: bool) {
        // Somebody else may be updating it: the next look tries again.
        let Ok(lease) = self.inner.engine.lease(id).await else {
            return;
        };
        if let Err(fault) = driver.switch_ota(on).await {
            tracing::warn!(device = %id, fault = fault.text, "the OTA switch could not be put as its owner wants it");
        }
        self.inner.engine.release(lease).await;
    }

    /// Reads what changes from a device at an address.
    pub(super) async fn glance(
        &self,
        family: &Arc<dyn Family>,
        address: IpAddr,
        given_as: Option<&str>,
    ) -> Result<Snapshot, Fault> {
        family.open(target(address, given_as)).glance().await
    }

    /// Reads everything from a device at an address.
    pub(super) async fn probe(
        &self,
        family: &Arc<dyn Family>,
        address: IpAddr,
        given_as: Option<&str>,
    ) -> Result<Snapshot, Fault> {
        family.open(target(address, given_as)).probe().await
    }
}

/// Talks to a device that is known.
fn driver(family: &Arc<dyn Family>, address: IpAddr, given_as: Option<&str>, due: &Due) -> Box<dyn Driver> {
    let mut target = target(address, given_as);
    target.notes = due.notes.clone();
    target.chip.clone_from(&due.chip);
    family.open(target)
}

/// A look never logs in and never answers: it gets no password.
fn target(address: IpAddr, given_as: Option<&str>) -> Target {
    Target {
        address,
        given_as: given_as.map_or_else(|| address.to_string(), str::to_owned),
        username: None,
        secret: None,
        chip: None,
        notes: Notes::default(),
        answers: Arc::new(NoAnswers),
    }
}

/// Whether a device is one that may take its time.
fn is_slow(standing: Standing, misses: u8) -> bool {
    standing != Standing::Online || misses > 0
}

pub(super) fn ota(on: bool) -> Ota {
    if on { Ota::Enabled } else { Ota::Disabled }
}
