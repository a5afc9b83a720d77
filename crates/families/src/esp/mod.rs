//! What the families on ESP chips share: the image format, `ArduinoOTA`, the web update, and what is remembered of a device.

pub(crate) mod espota;
pub(crate) mod image;
pub(crate) mod web_update;

use serde::{Deserialize, Serialize};

/// The name of the method that talks `ArduinoOTA`.
pub(crate) const ESPOTA: &str = "espota";
/// The name of the method that uploads to `/update`.
pub(crate) const HTTP: &str = "http";
/// The name of the method by which a device fetches its image, told by the broker.
pub(crate) const MQTT: &str = "mqtt";

/// How image bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// As fast as the device's TCP takes them.
    Pipelined,
    /// A chunk, then its acknowledgement, then the next: what `espota.py` does.
    StopAndWait,
}

/// What is remembered of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Memory {
    /// The authentication form that worked.
    pub(crate) form: Option<String>,
    /// It has shown a nonce of 64 digits: one of 32 is not answered any more.
    pub(crate) seen_64: bool,
    /// The pace that it needs.
    pub(crate) pace: Option<Pace>,
}

impl Memory {
    /// Reads what was remembered; anything that cannot be read is as nothing.
    pub(crate) fn read(notes: &model::family::Notes) -> Self {
        serde_json::from_value(notes.0.clone()).unwrap_or_default()
    }

    /// What is to be remembered.
    pub(crate) fn write(&self) -> model::family::Notes {
        model::family::Notes(serde_json::to_value(self).unwrap_or_default())
    }
}
