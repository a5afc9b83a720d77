//! What an IR Remote Mini says of itself, read tolerantly (PROTOCOLS.md E2 and E4).
//!
//! Only the fields named here are taken out. The password that `/api/ota/status` leaks is not one of them: it ends here.

use std::net::IpAddr;
use std::time::Duration;

use model::device::{Hardware, Health, Ota, Snapshot};
use model::id::{DeviceId, FamilyId};
use model::version::Versions;
use serde_json::{Map, Value};

use crate::esp::image::FIRMWARE;

/// Longest text taken from a device, characters (RELIABILITY.md T25).
const TEXT_MAX_CHARS: usize = 64;

/// A status, as far as it was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) device_type: Option<String>,
    /// Twelve lower-case hexadecimal digits.
    pub(crate) mac: Option<String>,
    /// Where it says that it is.
    pub(crate) address: Option<IpAddr>,
    pub(crate) version: Option<String>,
    pub(crate) host_name: Option<String>,
    pub(crate) uptime: Option<Duration>,
    pub(crate) ota_enabled: Option<bool>,
    pub(crate) ota_in_progress: bool,
    pub(crate) free_heap_bytes: Option<u64>,
    pub(crate) signal_dbm: Option<i32>,
    pub(crate) chip_model: Option<String>,
    pub(crate) chip_revision: Option<u16>,
    pub(crate) flash_bytes: Option<u64>,
}

/// Why an answer is no status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAStatus {
    #[error("it is not JSON")]
    NotJson,
    #[error("it is JSON, but not an object")]
    NotAnObject,
}

impl Status {
    /// Reads an answer. Unknown keys and values of the wrong type are as absent ones.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, NotAStatus> {
        let value: Value = serde_json::from_slice(body).map_err(|_| NotAStatus::NotJson)?;
        let Value::Object(object) = value else {
            return Err(NotAStatus::NotAnObject);
        };
        Ok(Self {
            device_type: text(&object, &["deviceType", "device_type"]).map(|kind| kind.to_lowercase()),
            mac: text(&object, &["macAddress", "mac", "mac_address", "MAC"]).and_then(|mac| normal_mac(&mac)),
            address: text(&object, &["ipAddress", "ip", "ip_address"]).and_then(|text| text.parse().ok()),
            version: text(
                &object,
                &["firmwareVersion", "version", "firmware_version", "fw_version"],
            ),
            host_name: text(&object, &["hostname", "host_name"]),
            uptime: find(&object, &["uptime"]).and_then(uptime),
            ota_enabled: find(&object, &["otaEnabled", "enabled", "ota_enabled"]).and_then(truth),
            ota_in_progress: find(&object, &["otaInProgress"]).and_then(truth).unwrap_or(false),
            free_heap_bytes: find(&object, &["freeHeap", "free_heap"]).and_then(number),
            signal_dbm: find(&object, &["rssi"]).and_then(number),
            chip_model: text(&object, &["chipModel"]),
            chip_revision: find(&object, &["chipRevision"]).and_then(number),
            flash_bytes: find(&object, &["flashSize"]).and_then(number),
        })
    }
}

impl Status {
    /// Whether it is that of an IR Remote Mini.
    pub(crate) fn is_mini(&self) -> bool {
        self.device_type.as_deref() == Some("mini")
    }

    /// The same as a look at a device of this family.
    pub(crate) fn snapshot(self, address: IpAddr, hardware: Hardware) -> Snapshot {
        let family = FamilyId::new("ir-remote");
        let id = match &self.mac {
            Some(mac) => DeviceId::from_hardware(&family, mac.as_str()),
            None => DeviceId::weak(
                &family,
                format!("{}@{}", self.host_name.as_deref().unwrap_or(""), address),
            ),
        };
        Snapshot {
            id,
            versions: self
                .version
                .map(|version| Versions::one(FIRMWARE, version))
                .unwrap_or_default(),
            uptime: self.uptime,
            ota: match self.ota_enabled {
                Some(true) => Ota::Enabled,
                Some(false) => Ota::Disabled,
                None => Ota::Unknown,
            },
            busy: self.ota_in_progress,
            host_name: self.host_name,
            hardware,
            health: Health {
                free_heap_bytes: self.free_heap_bytes,
                signal_dbm: self.signal_dbm,
                running: None,
            },
        }
    }
}

fn find<'a>(object: &'a Map<String, Value>, keys: &[&str]) -> Option<&'a Value> {
    keys.iter().find_map(|key| object.get(*key))
}

/// A text, without control characters and bounded; an empty one is as none.
fn text(object: &Map<String, Value>, keys: &[&str]) -> Option<String> {
    let text = match find(object, keys)? {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let printable: String = text
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(TEXT_MAX_CHARS)
        .collect();
    (!printable.is_empty()).then_some(printable)
}

/// A number, or a text that holds one.
fn number<T: TryFrom<i64>>(value: &Value) -> Option<T> {
    let number = match value {
        Value::Number(number) => number.as_i64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    T::try_from(number).ok()
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::String(text) => text.trim().to_lowercase().parse().ok(),
        Value::Number(number) => number.as_i64().map(|number| number != 0),
        _ => None,
    }
}

/// An uptime: whole seconds, `"4711s"`, or `"1d 02:03:04"`.
fn uptime(value: &Value) -> Option<Duration> {
    if let Some(seconds) = number::<u64>(value) {
        return Some(Duration::from_secs(seconds));
    }
    let text = value.as_str()?.trim();
    if let Some(seconds) = text.strip_suffix('s') {
        return seconds.trim().parse().ok().map(Duration::from_secs);
    }
    let (days, clock) = match text.split_once('d') {
        Some((days, clock)) => (days.trim().parse::<u64>().ok()?, clock.trim()),
        None => (0, text),
    };
    let mut seconds = 0_u64;
    let mut n_parts = 0;
    for part in clock.split(':') {
        seconds = seconds.checked_mul(60)?.checked_add(part.trim().parse().ok()?)?;
        n_parts += 1;
    }
    if n_parts != 3 {
        return None;
    }
    days.checked_mul(86_400)?
        .checked_add(seconds)
        .map(Duration::from_secs)
}

/// A MAC address without its separators; none where it is not one, all zeros, or that of a group.
pub(super) fn normal_mac(text: &str) -> Option<String> {
    let digits: String = text
        .chars()
        .filter(|c| !matches!(c, ':' | '-'))
        .collect::<String>()
        .to_lowercase();
    let is_mac = digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    // The lowest bit of the first byte marks a group (IEEE 802): no single device has such an address.
    let is_group = digits
        .as_bytes()
        .get(1)
        .is_some_and(|digit| b"13579bdf".contains(digit));
    (is_mac && !is_group && digits.bytes().any(|byte| byte != b'0')).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(json: &str) -> Status {
        Status::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn the_two_answers_of_the_real_firmware_are_read() {
        let short = status(
            r#"{"lastButton":"None","uptime":"4711s","freeHeap":251234,"deviceType":"mini","buttonCount":"4 / 100",
                "macAddress":"A0:B1:C2:D3:E4:F5","chipId":"d3c2b1a0","hostname":"IR-Remote-Mini","firmwareVersion":"1.0",
                "otaEnabled":true,"otaInProgress":false,"history":[]}"#,
        );
        assert_eq!(short.mac.as_deref(), Some("a0b1c2d3e4f5"));
        assert_eq!(short.uptime, Some(Duration::from_secs(4711)));
        assert_eq!(short.version.as_deref(), Some("1.0"));
        assert_eq!(short.ota_enabled, Some(true));
        let long = status(
            r#"{"deviceType":"mini","chipModel":"ESP32-C6","chipRevision":0,"flashSize":4194304,"rssi":-60,"uptime":4711}"#,
        );
        assert_eq!(long.chip_model.as_deref(), Some("ESP32-C6"));
        assert_eq!(
            (long.chip_revision, long.flash_bytes, long.signal_dbm),
            (Some(0), Some(4_194_304), Some(-60))
        );
        assert_eq!(long.uptime, Some(Duration::from_secs(4711)));
    }

    #[test]
    fn the_leaked_password_is_not_taken() {
        let status = status(r#"{"deviceType":"mini","otaPassword":"canary-7f3a"}"#);
        assert!(!format!("{status:?}").contains("canary"));
    }

    #[test]
    fn uptimes_are_read_in_every_form() {
        for (json, seconds) in [
            (r#"{"uptime":"1d 02:03:04"}"#, 93_784),
            (r#"{"uptime":"00:00:09"}"#, 9),
            (r#"{"uptime":"12"}"#, 12),
            (r#"{"uptime":12}"#, 12),
        ] {
            assert_eq!(status(json).uptime, Some(Duration::from_secs(seconds)), "{json}");
        }
        for json in [
            r#"{"uptime":-1}"#,
            r#"{"uptime":"soon"}"#,
            r#"{"uptime":"1:2"}"#,
            r#"{"uptime":[1]}"#,
        ] {
            assert_eq!(status(json).uptime, None, "{json}");
        }
    }

    #[test]
    fn values_of_the_wrong_type_are_as_absent() {
        let status =
            status(r#"{"macAddress":7,"otaEnabled":[],"freeHeap":"many","rssi":99999999999,"hostname":{}}"#);
        assert_eq!(status, Status::default());
    }

    #[test]
    fn a_mac_address_is_normal_or_none() {
        assert_eq!(normal_mac("A0-B1-C2-D3-E4-F5").as_deref(), Some("a0b1c2d3e4f5"));
        for bad in [
            "",
            "00:00:00:00:00:00",
            "a0b1c2d3e4",
            "g0b1c2d3e4f5",
            "a0b1c2d3e4f5a",
            "ff:ff:ff:ff:ff:ff",
        ] {
            assert_eq!(normal_mac(bad), None, "{bad}");
        }
    }

    #[test]
    fn control_characters_do_not_pass() {
        assert_eq!(
            status(r#"{"firmwareVersion":"1.0\u001b[2J\n"}"#)
                .version
                .as_deref(),
            Some("1.0[2J")
        );
    }

    #[test]
    fn a_text_is_cut_at_64_characters() {
        let long = "\u{e9}".repeat(10_000);
        let status = status(&format!(r#"{{"firmwareVersion":"{long}","hostname":"{long}"}}"#));
        for text in [status.version, status.host_name] {
            assert_eq!(text, Some("\u{e9}".repeat(64)));
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert_eq!(Status::parse(b"\xff\xfe"), Err(NotAStatus::NotJson));
        assert_eq!(Status::parse(b"[1]"), Err(NotAStatus::NotAnObject));
        assert_eq!(Status::parse(&b"[".repeat(60_000)), Err(NotAStatus::NotJson));
    }
}
