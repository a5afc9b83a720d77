//! Telling people: a web hook and the owner's broker hear of what has happened, in few messages and each once.
//!
//! The stored events are the source: they are read in order from the last one that was taken in. What they mean is worked out
//! without doing anything (`digest.rs`, `words.rs`), stored together with the messages that come of it, and only then sent.
//! A crash in between sends a message a second time under the same id, and never tells the same thing in another one.

mod desk;
mod digest;
mod happened;
mod message;
mod queue;
mod run;
mod webhook;
mod words;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use engine::Clock;
use net::mqtt::{Bus, Outgoing, Weight};
use store::{Store, StoreError};
use tokio::sync::Notify;

use crate::config;
use crate::fleet::Fleet;
use crate::metrics::Metrics;
use crate::rollout::Rollouts;
use crate::views::{NoteView, NotifyTestView, ReceiverTestView};
use desk::{Desk, Receiver};
use digest::Rules;
use message::{Kind, Message};

pub use queue::Pace;

/// Where what is known is stored among the settings.
const STORED: &str = "notify";
/// How long a test waits for the broker. Guess: a connection on the home's network.
const BROKER_WAIT: Duration = Duration::from_secs(5);

/// What the configuration says of notifications.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Who is told of what.
    pub notify: config::Notify,
    /// Where the broker is told, as `reflash/event`.
    pub topic: String,
    /// How long things may take.
    pub pace: Pace,
}

impl Settings {
    /// Whether anybody is told.
    fn tells(&self) -> bool {
        self.notify.webhook.is_some() || self.notify.mqtt
    }

    fn rules(&self) -> Rules {
        Rules {
            digest: self.notify.digest,
            about: self.notify.about.clone(),
        }
    }
}

/// Why nothing can be tried.
#[derive(Debug, thiserror::Error)]
#[error("nobody is told of anything: the configuration names neither a web hook nor the broker")]
pub struct NobodyIsTold;

/// What tells people. Cloning shares it.
#[derive(Clone)]
pub struct Notifier {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<Store>,
    clock: Clock,
    fleet: Fleet,
    rollouts: Rollouts,
    metrics: Metrics,
    bus: Option<Bus>,
    settings: RwLock<Arc<Settings>>,
    desk: Mutex<Desk>,
    /// One write at a time, so that an older one never comes after a newer.
    storing: tokio::sync::Mutex<()>,
    /// Other settings have come.
    changed: Notify,
    /// There is something for the web hook.
    for_webhook: Notify,
    /// There is something for the broker.
    for_broker: Notify,
}

impl Notifier {
    /// Takes in what was told before. Nothing is told before [`Notifier::run`].
    ///
    /// # Errors
    /// What was told before cannot be read from the store.
    pub async fn open(
        store: Arc<Store>,
        clock: Clock,
        fleet: Fleet,
        rollouts: Rollouts,
        metrics: Metrics,
        bus: Option<Bus>,
        settings: Settings,
    ) -> Result<Self, StoreError> {
        let stored = store.setting(STORED).await?;
        let desk = Desk::open(stored, clock.now().boot);
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                clock,
                fleet,
                rollouts,
                metrics,
                bus,
                settings: RwLock::new(Arc::new(settings)),
                desk: Mutex::new(desk),
                storing: tokio::sync::Mutex::new(()),
                changed: Notify::new(),
                for_webhook: Notify::new(),
                for_broker: Notify::new(),
            }),
        })
    }

    /// Exchanges the settings; what waits for somebody who is still told goes to the new place.
    pub fn apply(&self, settings: Settings) {
        *self
            .inner
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        self.desk().queue(Receiver::Webhook).hurry();
        self.inner.changed.notify_one();
        self.inner.for_webhook.notify_one();
        self.inner.for_broker.notify_one();
    }

    /// What its owner should know.
    pub fn troubles(&self) -> Vec<NoteView> {
        let settings = self.settings();
        let mut troubles = Vec::new();
        let mut desk = self.desk();
        let waiting = |n_waiting: usize| match n_waiting {
            1 => "One message waits".to_owned(),
            n_waiting => format!("{n_waiting} messages wait"),
        };
        if let Some(hook) = &settings.notify.webhook {
            let queue = desk.queue(Receiver::Webhook);
            if let Some(trouble) = queue.trouble() {
                let (place, n_waiting) = (webhook::place(hook), waiting(queue.len()));
                troubles.push(NoteView {
                    rule: "webhook".to_owned(),
                    text: format!(
                        "The web hook at {place} takes no messages: {trouble}. {n_waiting}, and it is tried again. Once it is \
                         mended: reflash notify test."
                    ),
                });
            }
        }
        let n_waiting = desk.queue(Receiver::Broker).len();
        let is_connected = self.inner.bus.as_ref().is_some_and(Bus::is_connected);
        if settings.notify.mqtt && !is_connected && n_waiting > 0 {
            troubles.push(NoteView {
                rule: "notify-broker".to_owned(),
                text: format!(
                    "The broker cannot be told of anything: there is no connection to it. {}.",
                    waiting(n_waiting)
                ),
            });
        }
        if desk.n_given_up > 0 {
            troubles.push(NoteView {
                rule: "messages-lost".to_owned(),
                text: format!(
                    "{} were given up because nobody took them; what they told is in: reflash history, reflash rollout list.",
                    match desk.n_given_up {
                        1 => "One message".to_owned(),
                        n => format!("{n} messages"),
                    }
                ),
            });
        }
        troubles
    }

    /// Sends a test to everybody who is told, and says what came of it.
    ///
    /// # Errors
    /// Nobody is told.
    pub async fn test(&self) -> Result<NotifyTestView, NobodyIsTold> {
        let settings = self.settings();
        if !settings.tells() {
            return Err(NobodyIsTold);
        }
        let wall_ms = self.inner.clock.now().wall_ms;
        let text = "This is a test: Reflash can tell you what happens. Nothing has happened, and nothing is left to do.";
        let words = ("Reflash can reach you", text);
        let message = Message::new(Kind::Test, words, Vec::new(), None, &[(0, wall_ms)]);
        let mut receivers = Vec::new();
        if let Some(hook) = &settings.notify.webhook {
            let sent = webhook::send(hook, &message, wall_ms / 1000, settings.pace.deadline).await;
            let ok = sent.is_ok();
            if ok {
                // What waits for it need not wait any longer.
                self.desk().queue(Receiver::Webhook).hurry();
                self.inner.for_webhook.notify_one();
            }
            receivers.push(ReceiverTestView {
                receiver: Receiver::Webhook.name().to_owned(),
                place: webhook::place(hook),
                ok,
                text: match sent {
                    Ok(answer) if answer.said.is_empty() => format!("It answers HTTP {}.", answer.status),
                    Ok(answer) => format!("It answers HTTP {}: {}", answer.status, answer.said),
                    Err(error) => model::chain::sentence(&error.to_string()),
                },
            });
        }
        if settings.notify.mqtt {
            let told = self.tell_broker_once(&settings, &message).await;
            receivers.push(ReceiverTestView {
                receiver: Receiver::Broker.name().to_owned(),
                place: settings.topic.clone(),
                ok: told.is_ok(),
                text: match told {
                    Ok(()) => "It is handed to the broker.".to_owned(),
                    Err(why) => model::chain::sentence(why),
                },
            });
        }
        Ok(NotifyTestView {
            id: message.id,
            ok: receivers.iter().all(|receiver| receiver.ok),
            receivers,
        })
    }

    async fn tell_broker_once(&self, settings: &Settings, message: &Message) -> Result<(), &'static str> {
        let Some(bus) = &self.inner.bus else {
            return Err(
                "there is no connection to a broker: the block `mqtt` takes effect at the next start",
            );
        };
        if !bus.connected(BROKER_WAIT).await {
            return Err("there is no connection to the broker");
        }
        if bus.publish(outgoing(&settings.topic, message)) {
            Ok(())
        } else {
            Err("too much waits for the broker already")
        }
    }

    fn settings(&self) -> Arc<Settings> {
        self.inner
            .settings
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.inner.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message for the broker. It is not kept there: whoever comes later is not told of old news.
fn outgoing(topic: &str, message: &Message) -> Outgoing {
    Outgoing {
        topic: topic.to_owned(),
        payload: message.json().to_string().into_bytes(),
        retain: false,
        weight: Weight::Result,
    }
}
