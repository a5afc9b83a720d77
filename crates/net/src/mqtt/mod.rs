//! The bus: one connection to the owner's MQTT broker, for what the server tells and for what it hears.
//!
//! It never blocks and holds only so much: whoever publishes puts into a bounded queue, whoever listens takes from one.
//! A connection that is lost is made again, later each time, with all subscriptions and with everything that the broker
//! had not taken yet.
//! Commands to devices are the exception: what was not taken while the connection stood is never sent later.

mod broker;
mod connection;
mod queue;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub use broker::{Broker, BrokerError, CONNECT_WAIT};
use queue::{Queues, Ticket};

/// Longest payload that is sent or handed on, bytes. Guess: no message of ours or for us needs a tenth of it.
pub const PAYLOAD_MAX_LEN: usize = 64 * 1024;

/// The connection to the owner's broker. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Bus {
    shared: Arc<Shared>,
}

/// A message for the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub topic: String,
    /// What; at most [`PAYLOAD_MAX_LEN`].
    pub payload: Vec<u8>,
    /// Whether the broker keeps it for those who come later.
    pub retain: bool,
    /// What is given up first where there is no room.
    pub weight: Weight,
}

/// What a message is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// The next one says more: the oldest goes first where there is no room.
    Progress,
    /// It is kept until the broker has taken it.
    Result,
}

/// A message from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Where from.
    pub topic: String,
    /// What; at most [`PAYLOAD_MAX_LEN`].
    pub payload: Vec<u8>,
    /// Whether the broker had kept it: nothing may be done because of such a message, as it is from some time or other.
    pub retained: bool,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commanded {
    /// The broker has it, and hands it on.
    Taken,
    /// It did not leave, and never will.
    NotSent,
    /// It left, and nobody knows whether the broker has it.
    Unknown,
}

/// What is heard of some topics, until it is dropped.
#[derive(Debug)]
pub struct Listening {
    id: u64,
    shared: Arc<Shared>,
    changes: watch::Receiver<u64>,
}

#[derive(Debug)]
struct Shared {
    queues: Mutex<Queues>,
    /// Counts what happened to the queues; whoever waits for something looks again then.
    changes: watch::Sender<u64>,
}

impl Bus {
    /// A connection to this broker, and the future that keeps it, which its caller runs: dropping that is its end.
    ///
    /// `availability_topic` says `online` as long as it stands, and `offline` otherwise (retained; the broker's last
    /// will of us). The broker's prefix stands before it as before every topic, and is taken off again.
    pub fn new(broker: &Broker, availability_topic: &str) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let shared = Arc::new(Shared {
            queues: Mutex::new(Queues::default()),
            changes: watch::Sender::new(0),
        });
        let run = connection::keep(broker.clone(), availability_topic.to_owned(), Arc::clone(&shared));
        (Self { shared }, run)
    }

    /// Puts a message in line for the broker; never waits.
    ///
    /// Whether it is in line: not, if it is longer than [`PAYLOAD_MAX_LEN`], its topic is none, or if there is no room
    /// even after every older progress was given up.
    pub fn publish(&self, message: Outgoing) -> bool {
        let taken = self.shared.queues().push(message);
        self.shared.changed();
        taken
    }

    /// Sends a command, while the connection stands and within this time, and waits until the broker has it.
    ///
    /// It is not retained, and never sent a second time. Whoever drops this takes it back if it has not left yet.
    pub async fn command(&self, topic: &str, payload: Vec<u8>, within: Duration) -> Commanded {
        let Some(ticket) = self.shared.queues().push_command(topic, payload) else {
            return Commanded::NotSent;
        };
        self.shared.changed();
        let mut waiting = Waiting {
            shared: &self.shared,
            ticket: Some(ticket),
        };
        let mut changes = self.shared.changes.subscribe();
        let ended = async {
            loop {
                if let Some(ended) = self.shared.queues().ended(ticket) {
                    return ended;
                }
                if changes.changed().await.is_err() {
                    return Commanded::Unknown;
                }
            }
        };
        let ended = tokio::time::timeout(within, ended).await;
        waiting.ticket = None;
        ended.unwrap_or_else(|_| self.shared.queues().give_up(ticket))
    }

    /// Listens to these topics, which may hold wildcards, now and after every reconnect.
    ///
    /// What two who listen have in common both get; what the broker had kept only the first of them.
    /// Whoever is slow to take messages loses the oldest.
    pub fn listen(&self, topics: &[String]) -> Listening {
        let id = self.shared.queues().listen(topics);
        self.shared.changed();
        Listening {
            id,
            shared: Arc::clone(&self.shared),
            changes: self.shared.changes.subscribe(),
        }
    }

    /// Whether the broker has let us in and was not lost since.
    pub fn is_connected(&self) -> bool {
        self.shared.queues().is_connected()
    }

    /// Waits until it is connected, or until this time is over; whether it is.
    pub async fn connected(&self, within: Duration) -> bool {
        let mut changes = self.shared.changes.subscribe();
        let connected = async {
            while !self.is_connected() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(within, connected).await.is_ok()
    }

    /// How often the broker has let us in so far: with each new one it may have forgotten what it had kept.
    pub fn n_connections(&self) -> u64 {
        self.shared.queues().n_connections
    }

    /// How many more messages find room in line.
    pub fn room(&self) -> usize {
        self.shared.queues().room()
    }

    /// Whether the broker has confirmed all that it was to get.
    pub fn is_idle(&self) -> bool {
        self.shared.queues().is_idle()
    }

    /// Messages given up so far because there was no room for them.
    pub fn given_up(&self) -> u64 {
        self.shared.queues().n_given_up
    }
}

impl Listening {
    /// The next message. Safe to drop and to call again. It waits for ever where nothing comes.
    pub async fn next(&mut self) -> Incoming {
        loop {
            if let Some(message) = self.shared.queues().hear(self.id) {
                return message;
            }
            if self.changes.changed().await.is_err() {
                // Impossible while this holds the other end; but if so, nothing ever comes.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the broker has agreed to hand on these topics, or has refused one, or this time is over; whether it
    /// has agreed to all.
    pub async fn ready(&mut self, within: Duration) -> bool {
        let mut changes = self.changes.clone();
        let agreed = async {
            loop {
                if let Some(agreed) = self.shared.queues().is_agreed(self.id) {
                    return agreed;
                }
                if changes.changed().await.is_err() {
                    return false;
                }
            }
        };
        tokio::time::timeout(within, agreed).await.unwrap_or(false)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.shared.queues().unlisten(self.id);
        self.shared.changed();
    }
}

/// Takes a command back whose caller does not wait any more.
struct Waiting<'a> {
    shared: &'a Shared,
    ticket: Option<Ticket>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.shared.queues().give_up(ticket);
        }
    }
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        // Never held across anything that waits; what is in there is sound at every step.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes
            .send_modify(|n_changes| *n_changes = n_changes.wrapping_add(1));
    }
}
