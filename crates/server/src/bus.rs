//! The connection to the owner's broker, where the configuration names one.

use std::pin::Pin;

use net::mqtt::{Broker, Bus};

use crate::config::Mqtt;

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

/// Where it says whether the server is there (INTERFACES.md section 4).
fn availability_topic(mqtt: &Mqtt) -> String {
    format!("{}/bridge/availability", mqtt.prefix)
}
