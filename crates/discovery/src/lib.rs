//! WHERE: looks for devices by multicast DNS, by asking a whole network, and at an MQTT broker.
//!
//! It knows no family: it looks where the [`model::sighting::Lookout`]s say, and hands on what it saw as
//! [`model::sighting::Sighting`]s.
//! A sighting is a hint and never a proof; nothing here sends a password, an image or a command.
//! Every source ends by itself when it cannot go on, says why, and leaves it to its caller when to try again.
#![warn(missing_docs)]

mod coverage;
mod here;
mod mdns;
mod modbus;
mod mqtt;
mod pace;
mod range;
mod scan;

pub use coverage::Coverage;
pub use mdns::{MdnsError, mdns};
pub use mqtt::{MqttError, mqtt};
pub use net::mqtt::{Broker, BrokerError};
pub use pace::Pace;
pub use range::{RangeError, check_range, check_range_within};
pub use scan::{Scan, scan};
