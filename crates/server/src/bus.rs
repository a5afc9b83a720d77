//! The connection to the owner's broker, where the configuration names one.

use std::pin::Pin;
use std::sync::Arc;

use engine::Clock;
use net::mqtt::{Broker, Bus};
use net::pull::{PullSettings, PullSite};

use crate::config::{Config, Mqtt};

/// What keeps a part of it, until it is dropped.
pub(crate) type Keep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What comes of the broker.
pub(crate) struct Parts {
    /// The connection to it.
    pub(crate) bus: Option<Bus>,
    /// The door for devices that are told by it to fetch their image.
    pub(crate) pull: Option<Arc<PullSite>>,
    /// What keeps them.
    pub(crate) kept: Vec<Keep>,
}

/// All that comes of the broker that is configured; without one nothing does, and everything else works.
pub(crate) fn open(config: &Config, clock: Clock) -> Parts {
    let Some(mqtt) = &config.mqtt else {
        return Parts {
            bus: None,
            pull: None,
            kept: Vec::new(),
        };
    };
    let broker = Broker {
        // Two of one name throw each other out for ever, and whoever listens for devices has that name already.
        client_id: mqtt
            .client_id
            .as_ref()
            .map(|client_id| format!("{client_id}-bus")),
        ..crate::wiring::broker(mqtt)
    };
    let (bus, keep_bus) = Bus::new(&broker, &availability_topic(mqtt));
    let pull = &config.server.pull;
    let settings = PullSettings {
        bind: pull.bind,
        port: pull.port,
        host: pull.host.clone(),
    };
    let (pull, keep_pull) = PullSite::new(bus.clone(), settings, move || clock.now().wall_ms / 1000);
    let noting = note_devices(bus.clone(), pull.clone(), mqtt.status_prefix.clone());
    Parts {
        bus: Some(bus),
        pull: Some(pull),
        kept: vec![Box::pin(keep_bus), Box::pin(keep_pull), Box::pin(noting)],
    }
}

/// Notes which devices are heard at the broker under their own name, and which the broker says are gone.
///
/// A hint and nothing else: it says only which devices could be told something there.
async fn note_devices(bus: Bus, pull: Arc<PullSite>, status_prefix: String) {
    let topics = ["status", "availability"].map(|last| format!("{status_prefix}/+/{last}"));
    let mut listening = bus.listen(&topics);
    loop {
        let message = listening.next().await;
        if let Some((mac, is_there)) = noted(&status_prefix, &message.topic, &message.payload) {
            pull.note(&mac, is_there);
        }
    }
}

/// Which device this message is of, and whether it is there.
fn noted(status_prefix: &str, topic: &str, payload: &[u8]) -> Option<(String, bool)> {
    let levels = topic.strip_prefix(status_prefix)?.strip_prefix('/')?;
    let (name, _) = levels.split_once('/')?;
    let mac: String = name.chars().filter(|c| !matches!(c, ':' | '-')).collect();
    // Nothing else becomes part of a topic that we publish to (RELIABILITY.md T28).
    let is_mac = mac.len() == 12 && mac.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_mac.then(|| (mac.to_ascii_lowercase(), payload != b"offline"))
}

/// Where it says whether the server is there (INTERFACES.md section 4).
fn availability_topic(mqtt: &Mqtt) -> String {
    format!("{}/bridge/availability", mqtt.prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_noted_by_its_mac_and_by_nothing_else() {
        // RELIABILITY.md T28.
        let noted = |topic: &str, payload: &str| noted("home/ir", topic, payload.as_bytes());
        let there = |mac: &str| Some((mac.to_owned(), true));
        assert_eq!(noted("home/ir/a0b1c2d3e4f5/status", "{}"), there("a0b1c2d3e4f5"));
        assert_eq!(
            noted("home/ir/A0:B1:C2:D3:E4:F5/status", "{}"),
            there("a0b1c2d3e4f5")
        );
        assert_eq!(
            noted("home/ir/a0b1c2d3e4f5/availability", "online"),
            there("a0b1c2d3e4f5")
        );
        assert_eq!(
            noted("home/ir/a0b1c2d3e4f5/availability", "offline"),
            Some(("a0b1c2d3e4f5".to_owned(), false))
        );
        for topic in [
            "home/ir/status",
            "home/ir/kitchen/status",
            "home/ir/a0b1c2d3e4f/status",
            "home/ir/a0b1c2d3e4+5/status",
            "home/ir/a0b1c2d3e4#5/status",
            "home/other/a0b1c2d3e4f5/status",
            "home/ir//status",
        ] {
            assert_eq!(noted(topic, "online"), None, "{topic}");
        }
    }
}
