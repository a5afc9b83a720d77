//! WHERE: looks for devices by multicast DNS, by asking a whole network, and at an MQTT broker.
//!
//! It knows no family: it looks where the [`model::sighting::Lookout`]s say, and hands on what it saw as
//! [`model::sighting::Sighting`]s.
//! A sighting is a hint and never a proof; nothing here sends a password, an image or a command.
//! Every source ends by itself when it cannot go on, says why, and leaves it to its caller when to try again.
#![warn(missing_docs)]

mod coverage;
mod modbus;
mod pace;
mod range;
mod scan;

pub use coverage::Coverage;
pub use pace::Pace;
pub use range::{RangeError, check_range, check_range_within};
pub use scan::{Scan, scan};

/// A broker; replaced by the real one.
#[derive(Clone, Debug)]
pub struct Broker {
    /// Where it is.
    pub url: url::Url,
}

/// Replaced by the real one.
pub async fn mdns(
    _: &[model::sighting::Lookout],
    _: &[String],
    _: &net::Dialer,
    _: tokio::sync::mpsc::Sender<model::sighting::Sighting>,
) -> std::io::Error {
    std::future::pending().await
}

/// Replaced by the real one.
pub async fn mqtt(
    _: &Broker,
    _: &[model::sighting::Lookout],
    _: tokio::sync::mpsc::Sender<model::sighting::Sighting>,
) -> std::io::Error {
    std::future::pending().await
}
