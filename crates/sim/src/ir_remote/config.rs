//! What a simulated IR Remote Mini is made of.

use std::{fmt, net::Ipv4Addr, str::FromStr, time::Duration};

use anyhow::{Context, Result};

use super::fault::Fault;
use crate::{Mac, mdns};

/// How a device asks for its password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Arduino core up to 3.3.0: 32-hex nonce, MD5.
    Md5,
    /// Arduino core from 3.3.1: 64-hex nonce, PBKDF2 over the password's SHA-256.
    Pbkdf2,
    /// Arduino core from 3.3.1 whose sketch called `setPasswordHash(<md5>)`: 64-hex nonce, PBKDF2 over its MD5.
    Pbkdf2Md5,
    /// No password.
    None,
}

impl FromStr for Auth {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "md5" => Ok(Self::Md5),
            "pbkdf2" => Ok(Self::Pbkdf2),
            "pbkdf2-md5" => Ok(Self::Pbkdf2Md5),
            "none" => Ok(Self::None),
            _ => anyhow::bail!("unknown authentication {name:?} (md5, pbkdf2, pbkdf2-md5, none)"),
        }
    }
}

/// Chips by name, with the `chip_id` of their image headers (PROTOCOLS.md D1).
const CHIPS: &[Chip] = &[
    Chip {
        name: "esp32",
        model: "ESP32",
        id: 0,
    },
    Chip {
        name: "esp32s2",
        model: "ESP32-S2",
        id: 2,
    },
    Chip {
        name: "esp32c3",
        model: "ESP32-C3",
        id: 5,
    },
    Chip {
        name: "esp32s3",
        model: "ESP32-S3",
        id: 9,
    },
    Chip {
        name: "esp32c2",
        model: "ESP32-C2",
        id: 12,
    },
    Chip {
        name: "esp32c6",
        model: "ESP32-C6",
        id: 13,
    },
    Chip {
        name: "esp32h2",
        model: "ESP32-H2",
        id: 16,
    },
    Chip {
        name: "esp32p4",
        model: "ESP32-P4",
        id: 18,
    },
    Chip {
        name: "esp32c61",
        model: "ESP32-C61",
        id: 20,
    },
    Chip {
        name: "esp32c5",
        model: "ESP32-C5",
        id: 23,
    },
    Chip {
        name: "esp32h21",
        model: "ESP32-H21",
        id: 25,
    },
    Chip {
        name: "esp32h4",
        model: "ESP32-H4",
        id: 28,
    },
    Chip {
        name: "esp32e22",
        model: "ESP32-E22",
        id: 31,
    },
    Chip {
        name: "esp32s31",
        model: "ESP32-S31",
        id: 32,
    },
];

/// Which chip a device has; made from its name, like `esp32c6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chip {
    /// Lower case, without a dash.
    pub name: &'static str,
    /// As the device reports it in `chipModel`.
    pub model: &'static str,
    /// `chip_id` of the image header.
    pub id: u16,
}

impl FromStr for Chip {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let plain = name.to_ascii_lowercase().replace('-', "");
        CHIPS
            .iter()
            .find(|chip| chip.name == plain)
            .copied()
            .with_context(|| format!("unknown chip {name:?} ({})", chip_names()))
    }
}

impl fmt::Display for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// All known names, for an error text.
fn chip_names() -> String {
    CHIPS.iter().map(|chip| chip.name).collect::<Vec<_>>().join(", ")
}

/// Where a device reports by MQTT.
#[derive(Clone, Debug)]
pub struct Mqtt {
    /// `HOST:PORT`.
    pub broker: String,
    /// Where it says that it is online; `<mac>` stands for the twelve hex digits of its MAC.
    pub topic: String,
    /// Between two reports. Guess: 30 s; to be measured on the device.
    pub heartbeat: Duration,
    /// Between two attempts to connect. Guess: 5 s, as in the examples of `PubSubClient`.
    pub retry: Duration,
}

impl Mqtt {
    /// Topic of the real firmware, which names no device (PROTOCOLS.md E3).
    pub const TOPIC: &str = "home/ir_remote_mini/status";

    /// Reports to the broker at `HOST:PORT` as the real firmware does.
    pub fn new(broker: impl Into<String>) -> Self {
        Self {
            broker: broker.into(),
            topic: Self::TOPIC.to_owned(),
            heartbeat: Duration::from_secs(30),
            retry: Duration::from_secs(5),
        }
    }
}

/// A simulated device.
#[derive(Clone, Debug)]
pub struct Config {
    /// The device's own address; its call-back connection comes from it too.
    pub bind: Ipv4Addr,
    /// UDP port of `ArduinoOTA` (3232 on the real device); 0 = any free one.
    pub ota_port: u16,
    /// TCP port of the web server (80 on the real device); 0 = any free one.
    pub http_port: u16,
    /// OTA password; `None` = none asked for.
    pub password: Option<String>,
    /// How the password is asked for.
    pub auth: Auth,
    /// Images for other chips are refused once they are complete.
    pub chip: Chip,
    /// Hardware address; `None` = [`Mac::of_address`].
    pub mac: Option<Mac>,
    /// Host name in the status pages and in multicast DNS.
    pub host_name: String,
    /// `firmwareVersion` at the start.
    pub version: String,
    /// `firmwareVersion` after a flash; `None` = what the image's descriptor states, else unchanged.
    pub version_after: Option<String>,
    /// Pace of the flash, bytes/s; `None` = as fast as the host sends.
    pub rate_bytes_per_s: Option<u32>,
    /// From a restart to the first answer.
    pub boot: Duration,
    /// Silence of the host after which a receiving device sends its last count again, or drops a host that never said
    /// anything; a stalled connection lasts four times as long.
    pub idle: Duration,
    /// Uptime at the start, seconds.
    pub uptime_s: u32,
    /// Size of the second application slot, bytes.
    pub slot_bytes: u32,
    /// Size of the flash, bytes.
    pub flash_bytes: u32,
    /// Port on which it announces itself by multicast DNS (5353 on the real device); `None` = it does not.
    pub mdns_port: Option<u16>,
    /// Where it reports by MQTT; `None` = nowhere.
    pub mqtt: Option<Mqtt>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Decides the nonces, and the delays of multicast DNS.
    pub seed: u64,
}

impl Config {
    /// Port of multicast DNS (RFC 6762 3), for `mdns_port`.
    pub const MDNS_PORT: u16 = mdns::PORT;

    /// A faultless device at `bind` on free ports, as the real firmware comes (PROTOCOLS.md E): XIAO ESP32-C6,
    /// MD5 authentication, label `1.0`, slot 0x140000.
    pub fn new(bind: Ipv4Addr) -> Self {
        Self {
            bind,
            ota_port: 0,
            http_port: 0,
            password: Some("ir_remote_update".to_owned()),
            auth: Auth::Md5,
            chip: Chip {
                name: "esp32c6",
                model: "ESP32-C6",
                id: 13,
            },
            mac: None,
            host_name: "IR-Remote-Mini".to_owned(),
            version: "1.0".to_owned(),
            version_after: None,
            rate_bytes_per_s: None,
            boot: Duration::from_secs(3),
            // PROTOCOLS.md B1a: 1.07 s, 4.3 s in all.
            idle: Duration::from_millis(1070),
            uptime_s: 4711,
            slot_bytes: 0x14_0000,
            flash_bytes: 4_194_304,
            mdns_port: None,
            mqtt: None,
            faults: Vec::new(),
            seed: 0,
        }
    }

    /// The authentication that is really asked for: none without a password.
    pub(super) fn auth(&self) -> Auth {
        match &self.password {
            Some(password) if !password.is_empty() => self.auth,
            _ => Auth::None,
        }
    }
}
