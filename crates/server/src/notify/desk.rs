//! What is known, what waits for whom, and how that is stored.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::digest::Digest;
use super::message::Message;
use super::queue::Queue;

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiver {
    Webhook,
    Broker,
}

impl Receiver {
    pub(super) const ALL: [Self; 2] = [Self::Webhook, Self::Broker];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Broker => "mqtt",
        }
    }
}

/// What is known, and what waits for whom.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// None as long as nobody is told.
    pub(super) digest: Option<Digest>,
    /// The digest's own time when the machine booted, which may be before it began.
    began: Clockwork,
    queues: [Queue; 2],
    /// Messages that are not stored yet, and so are not sent.
    fresh: Vec<Message>,
    /// Messages that were given up since the start of the program.
    pub(super) n_given_up: u64,
    /// The number of the last event that is stored as taken in.
    pub(super) stored_cursor: i64,
    /// What an earlier process has stored is not wanted any more.
    pub(super) is_stored: bool,
}

/// What the digest's time was at a moment since boot.
#[derive(Clone, Copy, Debug, Default)]
struct Clockwork {
    digest: Duration,
    boot: Duration,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    digest: Digest,
    #[serde(default)]
    webhook: Vec<Message>,
    #[serde(default)]
    mqtt: Vec<Message>,
}

impl Desk {
    /// As it was stored; `boot` is now, since boot.
    pub(super) fn open(stored: Option<Value>, boot: Duration) -> Self {
        let mut desk = Self {
            is_stored: stored.is_some(),
            ..Self::default()
        };
        let Some(stored) = stored else { return desk };
        match serde_json::from_value::<Stored>(stored) {
            Ok(stored) => {
                desk.stored_cursor = stored.digest.cursor();
                desk.queues = [Queue::of(stored.webhook), Queue::of(stored.mqtt)];
                desk.begin(stored.digest, boot);
            }
            // Another version has written it: from now on is better than everything again.
            Err(error) => tracing::warn!(%error, "what was told before cannot be read; news begin now"),
        }
        desk
    }

    /// Begins with this.
    pub(super) fn begin(&mut self, digest: Digest, boot: Duration) {
        self.began = Clockwork {
            digest: digest.now(),
            boot,
        };
        self.digest = Some(digest);
    }

    /// Nobody is told any more.
    pub(super) fn end(&mut self) {
        *self = Self {
            n_given_up: self.n_given_up,
            is_stored: self.is_stored,
            ..Self::default()
        };
    }

    /// The digest's time.
    pub(super) fn now(&self, boot: Duration) -> Duration {
        self.began.digest + boot.saturating_sub(self.began.boot)
    }

    pub(super) fn queue(&mut self, receiver: Receiver) -> &mut Queue {
        match receiver {
            Receiver::Webhook => &mut self.queues[0],
            Receiver::Broker => &mut self.queues[1],
        }
    }

    /// Takes messages in that are to be stored before they are sent.
    pub(super) fn add(&mut self, messages: Vec<Message>) {
        self.fresh.extend(messages);
    }

    /// Whether anything waits to be stored before it is sent.
    pub(super) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// Everything, to be stored, and how many messages of it are fresh; none as long as nobody is told.
    pub(super) fn to_store(&self, receivers: &[Receiver]) -> Option<(Value, i64, usize)> {
        let digest = self.digest.as_ref()?;
        let waiting = |receiver: Receiver| -> Vec<&Message> {
            let fresh = self.fresh.iter().filter(|_| receivers.contains(&receiver));
            let [webhook, broker] = &self.queues;
            let queue = match receiver {
                Receiver::Webhook => webhook,
                Receiver::Broker => broker,
            };
            queue.messages().chain(fresh).collect()
        };
        let stored = json!({ "digest": digest, "webhook": waiting(Receiver::Webhook), "mqtt": waiting(Receiver::Broker) });
        Some((stored, digest.cursor(), self.fresh.len()))
    }

    /// This many fresh messages are stored: they may go. Gives the number of those that had to go for them, by receiver.
    pub(super) fn stored(
        &mut self,
        cursor: i64,
        n_fresh: usize,
        receivers: &[Receiver],
    ) -> Vec<(Receiver, u64)> {
        self.is_stored = true;
        self.stored_cursor = cursor;
        let mut given_up = Vec::new();
        let fresh: Vec<Message> = self.fresh.drain(..n_fresh.min(self.fresh.len())).collect();
        for receiver in receivers {
            let queue = self.queue(*receiver);
            let gone = fresh
                .iter()
                .filter_map(|message| queue.push(message.clone()))
                .count();
            given_up.push((*receiver, gone as u64));
        }
        self.n_given_up += given_up.iter().map(|(_, n_gone)| n_gone).sum::<u64>();
        given_up
    }
}
