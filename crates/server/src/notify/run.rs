//! Reads what happens, and sends what comes of it; each receiver by itself, so that none holds up another, nor anything else.

use std::sync::Arc;
use std::time::Duration;

use model::chain::chain;
use model::id::RolloutId;
use model::inventory::State;
use net::mqtt::Bus;
use store::{FleetEvent, StoreError};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::desk::Receiver;
use super::digest::{Digest, Standing};
use super::happened::{Happened, rollout_of};
use super::message::Message;
use super::queue::{After, Undelivered};
use super::{Notifier, STORED, Settings, outgoing, webhook};
use crate::rollout::RolloutError;
use crate::views::RolloutView;

/// Events that are read at once.
const PAGE: u32 = 256;
/// How long to wait after the store has failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// How many events that mean nothing may be read again after a crash, so that not each of them is a write.
const N_EVENTS_AGAIN: i64 = 1000;
/// The shortest pause between two looks at what is due, so that no fault of ours becomes a busy loop.
const PAUSE: Duration = Duration::from_millis(200);
/// How often to look whether the broker is there.
const BROKER_WAIT: Duration = Duration::from_mins(1);

impl Notifier {
    /// Tells people until it is cancelled; what is not told by then is left to the next start.
    pub async fn run(self, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            // Dropped at any point, they leave what was stored last, and the next start goes on from there.
            () = async { tokio::join!(self.gather(), self.call_webhook(), self.tell_broker()); } => {}
        }
    }

    /// Takes in what happens, and makes messages of it.
    async fn gather(&self) {
        let mut events = self.inner.fleet.events();
        loop {
            let due = match self.take_in().await {
                Ok(due) => due.map(|due| due.max(PAUSE)),
                Err(error) => {
                    tracing::warn!(
                        error = chain(&error),
                        "what is to be told cannot be stored, or read"
                    );
                    tokio::time::sleep(AFTER_FAILURE).await;
                    continue;
                }
            };
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep(due).await,
                    None => std::future::pending().await,
                }
            };
            // All only wait; what is missed is in the store.
            tokio::select! {
                event = events.recv() => {
                    if matches!(event, Err(RecvError::Closed)) {
                        return;
                    }
                    while events.try_recv().is_ok() {}
                }
                () = self.inner.changed.notified() => {}
                () = due => {}
            }
        }
    }

    /// Reads the events that have come, stores what follows from them, and says when to look again.
    async fn take_in(&self) -> Result<Option<Duration>, StoreError> {
        let settings = self.settings();
        if !settings.tells() {
            let is_stored = {
                let mut desk = self.desk();
                desk.end();
                desk.is_stored
            };
            if is_stored {
                // Whoever wants to be told again later is told of what happens then.
                self.inner.store.set_setting(STORED, None).await?;
                self.desk().is_stored = false;
            }
            return Ok(None);
        }
        self.begin().await?;
        let mut changed = false;
        loop {
            let cursor = self.desk().digest.as_ref().map_or(0, Digest::cursor);
            let events = self.inner.store.events_after(cursor, PAGE).await?;
            let n_events = events.len();
            for event in events {
                let rollout = self.rollout(&event).await?;
                let happened = Happened::of(&event, rollout.as_ref());
                let mut desk = self.desk();
                let now = desk.now(self.inner.clock.now().boot);
                if let Some(digest) = &mut desk.digest {
                    changed |= digest.take(happened, now, &settings.rules());
                }
            }
            if n_events < PAGE as usize {
                break;
            }
        }
        let must_store = {
            let mut desk = self.desk();
            let now = desk.now(self.inner.clock.now().boot);
            let look = |key: &str| self.standing(key);
            let messages = desk
                .digest
                .as_mut()
                .map(|digest| digest.turn(now, &settings.rules(), &look));
            desk.add(messages.unwrap_or_default());
            let cursor = desk.digest.as_ref().map_or(0, Digest::cursor);
            changed || desk.has_fresh() || cursor - desk.stored_cursor >= N_EVENTS_AGAIN
        };
        if must_store {
            self.store(&settings).await?;
        }
        let next = self.desk().digest.as_ref().and_then(Digest::next);
        Ok(next)
    }

    /// The first time that anybody is told: from now on.
    async fn begin(&self) -> Result<(), StoreError> {
        let has_begun = self.desk().digest.is_some();
        if has_begun {
            return Ok(());
        }
        let last = self.inner.store.last_event().await?;
        let boot = self.inner.clock.now().boot;
        self.desk().begin(Digest::after(last), boot);
        self.store(&self.settings()).await
    }

    /// The rollout that an event is about, where that is to be told.
    async fn rollout(&self, event: &FleetEvent) -> Result<Option<RolloutView>, StoreError> {
        let Some(id) = rollout_of(event) else {
            return Ok(None);
        };
        match self.inner.rollouts.show(RolloutId(id)).await {
            Ok(view) => Ok(Some(view)),
            Err(RolloutError::Store(_)) => {
                // What is wrong with the store is told by the same question to it.
                self.inner.store.last_event().await?;
                Ok(None)
            }
            // Removed for its age, or written by another version.
            Err(_) => Ok(None),
        }
    }

    /// How a device stands now.
    fn standing(&self, key: &str) -> Option<Standing> {
        let known = self.inner.fleet.known(key).ok()?;
        let may_be_updated = known.enrolled && known.conflict.is_none();
        let offer = known
            .offer
            .filter(|offer| may_be_updated && offer.why_not.is_none());
        Some(Standing {
            busy: self.inner.rollouts.works_on(&known.id),
            name: known.name,
            runs: Some(known.runs.name).filter(|runs| !runs.is_empty()),
            enrolled: known.enrolled,
            offline: known.standing == State::Offline,
            offered: offer.map(|offer| offer.sha256),
        })
    }

    /// Stores everything; then what is fresh may be sent.
    async fn store(&self, settings: &Settings) -> Result<(), StoreError> {
        let _storing = self.inner.storing.lock().await;
        let receivers: Vec<Receiver> = Receiver::ALL
            .into_iter()
            .filter(|receiver| match receiver {
                Receiver::Webhook => settings.notify.webhook.is_some(),
                Receiver::Broker => settings.notify.mqtt,
            })
            .collect();
        let to_store = {
            let mut desk = self.desk();
            for receiver in Receiver::ALL {
                // Who is not told any more is not told of what was meant for him.
                if !receivers.contains(&receiver) {
                    *desk.queue(receiver) = super::queue::Queue::default();
                }
            }
            desk.to_store(&receivers)
        };
        let Some((value, cursor, n_fresh)) = to_store else {
            return Ok(());
        };
        self.inner.store.set_setting(STORED, Some(&value)).await?;
        let given_up = self.desk().stored(cursor, n_fresh, &receivers);
        for (receiver, n_gone) in given_up {
            for _ in 0..n_gone {
                self.given_up(receiver);
            }
        }
        self.count_waiting();
        if n_fresh > 0 {
            self.inner.for_webhook.notify_one();
            self.inner.for_broker.notify_one();
        }
        Ok(())
    }

    fn count_waiting(&self) {
        let mut desk = self.desk();
        for receiver in Receiver::ALL {
            let n_waiting = desk.queue(receiver).len();
            self.inner
                .metrics
                .notifications_waiting(receiver.name(), n_waiting);
        }
    }

    fn given_up(&self, receiver: Receiver) {
        self.inner.metrics.notified(receiver.name(), "given-up");
        tracing::error!(
            receiver = receiver.name(),
            "a message was given up: nobody has taken it"
        );
    }

    async fn call_webhook(&self) {
        loop {
            let settings = self.settings();
            let boot = self.inner.clock.now().boot;
            let (due, next) = {
                let mut desk = self.desk();
                let queue = desk.queue(Receiver::Webhook);
                (queue.due(boot).cloned(), queue.next(boot))
            };
            let (Some(hook), Some(message)) = (&settings.notify.webhook, due) else {
                let next = next.filter(|_| settings.notify.webhook.is_some());
                wait(next, &self.inner.for_webhook).await;
                continue;
            };
            let at_s = self.inner.clock.now().wall_ms / 1000;
            let sent = webhook::send(hook, &message, at_s, settings.pace.deadline).await;
            if let Err(error) = &sent {
                tracing::warn!(
                    receiver = webhook::place(hook),
                    error = error.text,
                    id = message.id,
                    "a message was not taken"
                );
            }
            self.became(Receiver::Webhook, &settings, &message, sent.map(drop))
                .await;
        }
    }

    async fn tell_broker(&self) {
        loop {
            let settings = self.settings();
            let boot = self.inner.clock.now().boot;
            let (due, next) = {
                let mut desk = self.desk();
                let queue = desk.queue(Receiver::Broker);
                (queue.due(boot).cloned(), queue.next(boot))
            };
            let (Some(bus), Some(message), true) = (&self.inner.bus, due, settings.notify.mqtt) else {
                let next = next.filter(|_| self.inner.bus.is_some() && settings.notify.mqtt);
                wait(next, &self.inner.for_broker).await;
                continue;
            };
            if !bus.connected(BROKER_WAIT).await {
                continue;
            }
            // It keeps results until the broker has taken them (RELIABILITY.md F81).
            let told = hand_on(bus, &settings, &message);
            self.became(Receiver::Broker, &settings, &message, told).await;
        }
    }

    /// Takes in what became of a message.
    async fn became(
        &self,
        receiver: Receiver,
        settings: &Arc<Settings>,
        message: &Message,
        sent: Result<(), Undelivered>,
    ) {
        let boot = self.inner.clock.now().boot;
        let result = if sent.is_ok() { "sent" } else { "failed" };
        self.inner.metrics.notified(receiver.name(), result);
        let is_of_old_settings = !Arc::ptr_eq(settings, &self.settings());
        let after = {
            let mut desk = self.desk();
            match sent {
                // What the old place says is nothing to the new one.
                Err(_) if is_of_old_settings => {
                    desk.queue(receiver).hurry();
                    Some(After::Kept)
                }
                Ok(()) => {
                    desk.queue(receiver).arrived(&message.id);
                    None
                }
                Err(why) => {
                    let after = desk
                        .queue(receiver)
                        .failed(&message.id, why, boot, &settings.pace);
                    desk.n_given_up += u64::from(after == After::GivenUp);
                    Some(after)
                }
            }
        };
        match after {
            Some(After::Kept) => {}
            Some(After::GivenUp) => self.given_up(receiver),
            None => tracing::info!(receiver = receiver.name(), id = message.id, "a message was sent"),
        }
        if after != Some(After::Kept)
            && let Err(error) = self.store(&self.settings()).await
        {
            tracing::warn!(
                error = chain(&error),
                "that a message was sent is not stored: after a restart it may be sent again"
            );
        }
        self.count_waiting();
    }
}

fn hand_on(bus: &Bus, settings: &Settings, message: &Message) -> Result<(), Undelivered> {
    if bus.publish(outgoing(&settings.topic, message)) {
        return Ok(());
    }
    Err(Undelivered {
        text: "too much waits for the broker already".to_owned(),
        because_of_message: false,
    })
}

/// Waits for this long, or until it is woken; both can be dropped.
async fn wait(next: Option<Duration>, woken: &tokio::sync::Notify) {
    let next = async {
        match next {
            Some(next) => tokio::time::sleep(next.max(PAUSE)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = woken.notified() => {}
        () = next => {}
    }
}
