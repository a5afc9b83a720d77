//! What simulated devices report: one JSON object a line, and an in-memory log for tests.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::{mpsc, watch};

/// Events kept in memory; the oldest go first, so that a simulator may run for days.
const LOG_MAX: usize = 200_000;

/// What happened at a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The device answers for the first time; carries its addresses and ports.
    Ready,
    /// An invitation to update was read.
    Invited,
    /// An authentication answer was judged.
    Auth,
    /// Somebody logged in (Komfovent).
    Login,
    /// The first byte of an image arrived.
    Receiving,
    /// The last byte of an image arrived; emitted before the reply goes out.
    Received,
    /// The device restarts.
    Rebooting,
    /// The device is back.
    Up,
    /// Multicast DNS: the host name is its own and was announced.
    Announced,
    /// MQTT: the broker let it in, and it said that it is online.
    Published,
    /// MQTT: somebody told it to update; says what became of that.
    Commanded,
    /// A fault took effect.
    Fault,
}

impl EventKind {
    /// The word used in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Invited => "invited",
            Self::Auth => "auth",
            Self::Login => "login",
            Self::Receiving => "receiving",
            Self::Received => "received",
            Self::Rebooting => "rebooting",
            Self::Up => "up",
            Self::Announced => "announced",
            Self::Published => "published",
            Self::Commanded => "commanded",
            Self::Fault => "fault",
        }
    }
}

/// One thing that happened at one device.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Which device: twelve hex digits of its MAC, or whatever else names it for its family.
    pub device: String,
    /// What happened.
    pub kind: EventKind,
    /// Seconds since the sink was made.
    pub t: f64,
    /// Further fields in the order in which they are printed.
    pub fields: Vec<(&'static str, Value)>,
}

impl Event {
    /// A further field by name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// A further field that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// A further field that is a whole number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.as_u64()
    }

    /// True when it is of this kind and from this device.
    pub fn is(&self, kind: EventKind, device: &str) -> bool {
        self.kind == kind && self.device == device
    }
}

/// One JSON object without a line break: `event`, `device`, `t`, then the further fields.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.as_str();
        let device = Value::from(self.device.as_str());
        write!(f, r#"{{"event":"{kind}","device":{device},"t":{:.3}"#, self.t)?;
        for (name, value) in &self.fields {
            write!(f, ",{}:{value}", Value::from(*name))?;
        }
        f.write_str("}")
    }
}

/// Where devices put their events; clones share one log.
#[derive(Clone)]
pub struct EventSink(Arc<Inner>);

struct Inner {
    start: Instant,
    log: Mutex<Log>,
    n_emitted: watch::Sender<usize>,
}

#[derive(Default)]
struct Log {
    events: VecDeque<Event>,
    n_dropped: usize,
    listeners: Vec<mpsc::UnboundedSender<Event>>,
}

impl EventSink {
    /// An empty sink; its clock starts now.
    #[expect(
        clippy::new_without_default,
        reason = "a clock that starts now is no default value"
    )]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            start: Instant::now(),
            log: Mutex::default(),
            n_emitted: watch::Sender::new(0),
        }))
    }

    /// All events from now on, in order; the caller drains it or drops it.
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Event> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.lock().listeners.push(sender);
        receiver
    }

    /// Adds an event.
    pub fn emit(&self, device: &str, kind: EventKind, fields: Vec<(&'static str, Value)>) {
        let t = self.0.start.elapsed().as_secs_f64();
        let event = Event {
            device: device.to_owned(),
            kind,
            t,
            fields,
        };
        let mut log = self.lock();
        log.listeners
            .retain(|listener| listener.send(event.clone()).is_ok());
        if log.events.len() == LOG_MAX {
            log.events.pop_front();
            log.n_dropped += 1;
        }
        log.events.push_back(event);
        let n_emitted = log.n_dropped + log.events.len();
        drop(log);
        self.0.n_emitted.send_replace(n_emitted);
    }

    /// A copy of what is in the log.
    pub fn log(&self) -> Vec<Event> {
        self.lock().events.iter().cloned().collect()
    }

    /// How many logged events fit.
    pub fn count(&self, mut fits: impl FnMut(&Event) -> bool) -> usize {
        self.lock().events.iter().filter(|event| fits(event)).count()
    }

    /// A mark to wait from: the number of events so far.
    pub fn mark(&self) -> usize {
        let log = self.lock();
        log.n_dropped + log.events.len()
    }

    /// The first event that fits, past ones included, or `None` when there is none in time.
    pub async fn wait_for(&self, fits: impl FnMut(&Event) -> bool, deadline: Duration) -> Option<Event> {
        self.wait_after(0, fits, deadline).await
    }

    /// The first event after `mark` that fits, or `None` when there is none in time.
    pub async fn wait_after(
        &self,
        mark: usize,
        mut fits: impl FnMut(&Event) -> bool,
        deadline: Duration,
    ) -> Option<Event> {
        let mut n_emitted = self.0.n_emitted.subscribe();
        let mut n_seen = mark;
        tokio::time::timeout(deadline, async {
            loop {
                n_emitted.mark_unchanged();
                if let Some(event) = self.next_fitting(&mut n_seen, &mut fits) {
                    return Some(event);
                }
                n_emitted.changed().await.ok()?;
            }
        })
        .await
        .ok()?
    }

    fn next_fitting(&self, n_seen: &mut usize, fits: &mut impl FnMut(&Event) -> bool) -> Option<Event> {
        let log = self.lock();
        let skip = n_seen.saturating_sub(log.n_dropped);
        let found = log.events.iter().skip(skip).find(|event| fits(event)).cloned();
        *n_seen = log.n_dropped + log.events.len();
        found
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_begins_with_event_device_and_time_and_keeps_the_order_of_fields() {
        let event = Event {
            device: "a0b1c2d3e4f5".to_owned(),
            kind: EventKind::Received,
            t: 1.25,
            fields: vec![("len_bytes", 3000.into()), ("peer", "127.0.0.1\n".into())],
        };
        assert_eq!(
            event.to_string(),
            r#"{"event":"received","device":"a0b1c2d3e4f5","t":1.250,"len_bytes":3000,"peer":"127.0.0.1\n"}"#
        );
    }

    #[tokio::test]
    async fn waiting_sees_past_and_coming_events_and_ends_without_one() {
        let sink = EventSink::new();
        sink.emit("a", EventKind::Ready, vec![]);
        let short = Duration::from_millis(30);
        assert!(
            sink.wait_for(|e| e.is(EventKind::Ready, "a"), short)
                .await
                .is_some()
        );
        let mark = sink.mark();
        assert!(
            sink.wait_after(mark, |e| e.is(EventKind::Ready, "a"), short)
                .await
                .is_none()
        );
        let other = sink.clone();
        let (seen, ()) = tokio::join!(
            sink.wait_after(mark, |e| e.is(EventKind::Up, "a"), Duration::from_secs(5)),
            async { other.emit("a", EventKind::Up, vec![("n", 1.into())]) }
        );
        assert_eq!(seen.unwrap().number("n"), Some(1));
    }
}
