//! Devices: what was read from one, at one moment.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::DeviceId;
use crate::version::Versions;

/// Whether a device takes updates now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ota {
    /// It takes updates.
    Enabled,
    /// It does not until it is told to.
    Disabled,
    /// It does not say.
    Unknown,
}

/// What a device is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// Its model, as its family names it.
    pub model: Option<String>,
    /// Its chip, as `esp32c6`.
    pub chip: Option<String>,
    /// Its chip's revision as major × 100 + minor.
    pub chip_revision: Option<u16>,
    /// Its flash, bytes.
    pub flash_bytes: Option<u64>,
}

/// How a device fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Free heap, bytes.
    pub free_heap_bytes: Option<u64>,
    /// Signal strength, dBm; negative.
    pub signal_dbm: Option<i32>,
    /// Whether the machine that it controls is switched on.
    pub running: Option<bool>,
}

/// What was read from a device in one look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which device answered.
    pub id: DeviceId,
    /// The versions that it reports; empty where it reports none.
    pub versions: Versions,
    /// How long it has been up, where it says so; whole seconds on the devices known.
    pub uptime: Option<Duration>,
    /// Whether it takes updates.
    pub ota: Ota,
    /// Whether it is in the middle of an update that somebody else started.
    pub busy: bool,
    /// What it calls itself on the network.
    pub host_name: Option<String>,
    /// What it is made of.
    pub hardware: Hardware,
    /// How it fares.
    pub health: Health,
}

/// A device that we know, as far as a family needs it to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Which device it is.
    pub id: DeviceId,
    /// Where it is.
    pub address: IpAddr,
    /// What it is made of, from the device or from its owner.
    pub hardware: Hardware,
    /// The largest image that its owner says it takes, bytes.
    pub slot_bytes: Option<u64>,
    /// The versions that it reported last.
    pub versions: Versions,
}
