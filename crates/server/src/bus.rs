//! The connection to the owner's broker, where the configuration names one.

use std::pin::Pin;
use std::sync::Arc;

use engine::Clock;
use net::mqtt::{Broker, Bus};
use net::pull::{PullSettings, PullSite};

use crate::config::{Mqtt, Pull};

/// What keeps the bus, until it is dropped.
pub(crate) type Keep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The bus and what keeps it; without a broker there is none, and everything else works.
pub(crate) fn open(mqtt: Option<&Mqtt>) -> (Option<Bus>, Keep) {
    let Some(mqtt) = mqtt else {
        return (None, Box::pin(std::future::pending()));
    };
    let broker = Broker {
        // Two of one name throw each other out for ever, and whoever listens for devices has that name already.
        client_id: mqtt
            .client_id
            .as_ref()
            .map(|client_id| format!("{client_id}-bus")),
        ..crate::wiring::broker(mqtt)
    };
    let (bus, keep) = Bus::new(&broker, &availability_topic(mqtt));
    (Some(bus), Box::pin(keep))
}

/// The door for devices that are told by the bus to fetch their image, and what keeps it; none without a bus.
pub(crate) fn open_pull(bus: Option<&Bus>, pull: &Pull, clock: Clock) -> (Option<Arc<PullSite>>, Keep) {
    let Some(bus) = bus else {
        return (None, Box::pin(std::future::pending()));
    };
    let settings = PullSettings {
        bind: pull.bind,
        port: pull.port,
        host: pull.host.clone(),
    };
    let (site, keep) = PullSite::new(bus.clone(), settings, move || clock.now().wall_ms / 1000);
    (Some(site), Box::pin(keep))
}

/// Where it says whether the server is there (INTERFACES.md section 4).
fn availability_topic(mqtt: &Mqtt) -> String {
    format!("{}/bridge/availability", mqtt.prefix)
}
