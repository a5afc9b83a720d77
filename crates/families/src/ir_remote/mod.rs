//! The IR Remote Mini: an ESP32 with `ArduinoOTA`, a web server and a status API (PROTOCOLS.md sections B, C and E).

mod driver;
pub(crate) mod pull;
pub(crate) mod status;

use std::net::IpAddr;
use std::time::Duration;

use model::device::{Device, Hardware, Ota, Snapshot};
use model::family::{Driver, Family, Label, Method, Target, Timing, Undo};
use model::id::{DeviceId, FamilyId, Strength};
use model::image::{Image, ImageInfo, Inspection, Refusal};
use model::installed::Installed;
use model::sighting::{Candidate, Certainty, Lookout, Sighting};
use model::version::{Relation, Versions};
use net::Site;
use proto::espota::DEVICE_STALL;

use self::status::Status;
use crate::Ways;
use crate::esp::{self, ESPOTA, HTTP, MQTT, image::FIRMWARE};

/// What one takes in a second, bytes: a fair middle of published rates (PERFORMANCE.md section 3).
const BYTES_PER_S: u64 = 100_000;

/// What the founding document and the vendor's own client have as the OTA password (PROTOCOLS.md B2).
const PUBLIC_PASSWORD: &str = "ir_remote_update";
/// What its host name begins with, in small letters (PROTOCOLS.md B4).
const HOST_NAME: &str = "ir-remote-mini";

/// The family.
pub(crate) struct IrRemote {
    site: Site,
    ways: Ways,
}

impl IrRemote {
    pub(crate) fn new(site: Site, ways: Ways) -> Self {
        Self { site, ways }
    }

    /// Whether this device can be told by the broker: it was heard there under its own name.
    fn is_heard_at_the_broker(&self, id: &DeviceId) -> bool {
        let heard = |pull: &std::sync::Arc<net::pull::PullSite>| pull.has_heard(&id.hardware);
        id.strength == Strength::Hardware && self.site.pull.as_ref().is_some_and(heard)
    }
}

/// How long an `ArduinoOTA` device takes.
pub(crate) fn timing(image_len_bytes: u64) -> Timing {
    Timing {
        push: Duration::from_millis(image_len_bytes.saturating_mul(1000) / BYTES_PER_S),
        quiet: DEVICE_STALL,
        gone_within: Duration::from_secs(30),
        back_within: Duration::from_mins(3),
        look_every: Duration::from_millis(250),
    }
}

/// The version in a name like `ir_remote_v2.0.0.bin` (PROTOCOLS.md E6): the last three numbers joined by dots.
fn version_in_name(file_name: &str) -> Option<Versions> {
    let stem = file_name.strip_suffix(".bin").unwrap_or(file_name);
    let start = stem
        .rfind(|c: char| !(c.is_ascii_digit() || c == '.'))
        .map_or(0, |idx| idx + 1);
    let version = stem.get(start..)?;
    let parts: Vec<&str> = version.split('.').collect();
    let is_version = parts.len() == 3 && parts.iter().all(|part| !part.is_empty() && part.len() <= 9);
    is_version.then(|| Versions::one(FIRMWARE, version))
}

impl Family for IrRemote {
    fn id(&self) -> FamilyId {
        FamilyId::new("ir-remote")
    }

    fn title(&self) -> &'static str {
        "IR Remote Mini"
    }

    fn public_password(&self) -> Option<&'static str> {
        Some(PUBLIC_PASSWORD)
    }

    fn lookouts(&self) -> Vec<Lookout> {
        vec![
            Lookout::Mdns {
                service: "_arduino._tcp",
            },
            Lookout::Mdns {
                service: "_http._tcp",
            },
            Lookout::Host {
                name: "IR-Remote-Mini.local",
            },
            Lookout::Http {
                port: self.ways.http_port,
                path: "/api/status",
            },
            // The real firmware publishes without a device id, the founding document with one (PROTOCOLS.md E3).
            Lookout::Mqtt {
                topic: format!("{}/status", self.ways.status_topic),
            },
            Lookout::Mqtt {
                topic: format!("{}/+/status", self.ways.status_topic),
            },
        ]
    }

    fn recognise(&self, sighting: &Sighting) -> Option<Candidate> {
        recognise(&self.id(), &self.ways.status_topic, sighting)
    }

    fn inspect(&self, image: &Image) -> Inspection {
        if image.file_name().to_lowercase().ends_with(".mbin") {
            return Inspection::NotMine;
        }
        esp::image::inspect(&self.id(), image, version_in_name(image.file_name()))
    }

    fn relate(&self, installed: &Versions, offered: &Versions) -> Relation {
        relate(installed, offered)
    }

    fn accepts(&self, device: &Device, _image: &ImageInfo, bytes: &Image) -> Vec<Refusal> {
        esp::image::accepts(device, bytes)
    }

    fn methods(&self, device: &Device) -> Vec<Method> {
        let mut methods = vec![Method::new(ESPOTA), Method::new(HTTP)];
        // The last: it takes a broker and firmware that knows of it, and most of what it says comes by way of others.
        if self.is_heard_at_the_broker(&device.id) {
            methods.push(Method::new(MQTT));
        }
        methods
    }

    fn timing(&self, _device: &Device, image_len_bytes: u64) -> Timing {
        timing(image_len_bytes)
    }

    fn undo(&self, before: &Snapshot) -> Option<Undo> {
        (before.ota == Ota::Disabled).then(|| Undo {
            text: "turn OTA off again".to_owned(),
            value: serde_json::json!({ "ota": "off" }),
        })
    }

    fn label(
        &self,
        before: &Snapshot,
        image: &ImageInfo,
        record: Option<&Installed>,
        after: &Snapshot,
    ) -> Label {
        label(before, image, record, after)
    }

    fn open(&self, target: Target) -> Box<dyn Driver> {
        Box::new(driver::IrRemoteDriver::new(
            self.site.clone(),
            self.ways.clone(),
            target,
        ))
    }
}

/// Only the status tells for certain; names and topics make it likely.
fn recognise(family: &FamilyId, status_topic: &str, sighting: &Sighting) -> Option<Candidate> {
    let likely = |address: IpAddr| {
        Some(Candidate {
            family: family.clone(),
            address: Some(address),
            id: None,
            certainty: Certainty::Likely,
            told: None,
        })
    };
    match sighting {
        Sighting::Http {
            address,
            path,
            status: 200,
            body,
            ..
        } if path == "/api/status" => {
            let status = Status::parse(body).ok()?;
            if !status.is_mini() {
                return None;
            }
            let hardware = Hardware {
                model: status.device_type.clone(),
                ..Hardware::default()
            };
            let told = status.snapshot(*address, hardware);
            Some(Candidate {
                family: family.clone(),
                address: Some(*address),
                id: (told.id.strength == Strength::Hardware).then(|| told.id.clone()),
                certainty: Certainty::Told,
                told: Some(Box::new(told)),
            })
        }
        Sighting::Mdns {
            service,
            instance,
            address,
            ..
        } => {
            let is_ours = matches!(
                service.trim_end_matches(".local."),
                "_arduino._tcp" | "_http._tcp"
            ) && instance.to_lowercase().starts_with(HOST_NAME);
            if is_ours { likely(*address) } else { None }
        }
        Sighting::Host { name, address } => {
            let is_ours = name.to_lowercase().starts_with(HOST_NAME);
            if is_ours { likely(*address) } else { None }
        }
        Sighting::Mqtt { topic, payload } => heartbeat(family, status_topic, topic, payload),
        Sighting::Http { .. } | Sighting::Modbus { .. } => None,
    }
}

/// A heartbeat says how the device fares; which one it is, only the topic may tell (PROTOCOLS.md E3).
fn heartbeat(family: &FamilyId, status_topic: &str, topic: &str, payload: &[u8]) -> Option<Candidate> {
    let levels: Vec<&str> = topic.strip_prefix(status_topic)?.split('/').collect();
    let named = match levels[..] {
        ["", "status"] => None,
        ["", named, "status"] => Some(named),
        _ => return None,
    };
    // A bare "online" says no more than that the topic is in use.
    let says: serde_json::Value = serde_json::from_slice(payload).ok()?;
    if says.get("device")?.as_str()? != "ir_receiver_mini" {
        return None;
    }
    let status = Status::parse(payload).ok()?;
    let mac = status.mac.clone().or_else(|| named.and_then(status::normal_mac));
    let id = match (mac, named) {
        (Some(mac), _) => DeviceId::from_hardware(family, mac),
        // The topic is all that tells it from others.
        (None, Some(named)) => DeviceId::weak(family, format!("mqtt:{}", printable(named))),
        (None, None) => DeviceId::weak(family, "mqtt:home/ir_remote_mini"),
    };
    let address = status.address;
    let hardware = Hardware {
        model: Some("mini".to_owned()),
        ..Hardware::default()
    };
    let mut told = status.snapshot(address.unwrap_or(IpAddr::from([0, 0, 0, 0])), hardware);
    told.id = id.clone();
    Some(Candidate {
        family: family.clone(),
        address,
        id: (id.strength == Strength::Hardware).then_some(id),
        certainty: Certainty::Likely,
        told: Some(Box::new(told)),
    })
}

/// A level of a topic, bounded and in plain letters.
fn printable(level: &str) -> String {
    level
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
        .take(64)
        .collect()
}

/// What one label says after a push.
fn label(before: &Snapshot, image: &ImageInfo, record: Option<&Installed>, after: &Snapshot) -> Label {
    let part = |versions: &Versions| versions.part(FIRMWARE).map(str::to_owned);
    let Some(now) = part(&after.versions) else {
        return Label::Unreadable;
    };
    let then = part(&before.versions);
    let moved = then.as_ref() != Some(&now);
    match image.versions.as_ref().and_then(part) {
        Some(stated) if stated == now && moved => Label::Target,
        Some(stated) if stated == now => Label::Same,
        // The image itself states no version: then any move is its doing.
        None if moved => Label::Target,
        _ if moved => Label::Other,
        _ if record.is_some_and(|record| record.label_moves) => Label::Old,
        _ => Label::Unmoved,
    }
}

/// Compares versions made of numbers and dots; anything else only as equal or not.
fn relate(installed: &Versions, offered: &Versions) -> Relation {
    let (Some(installed), Some(offered)) = (installed.part(FIRMWARE), offered.part(FIRMWARE)) else {
        return Relation::Unknown;
    };
    if installed == offered {
        return Relation::Same;
    }
    let (Some(mut installed), Some(mut offered)) = (numbers(installed), numbers(offered)) else {
        return Relation::Unknown;
    };
    let len = installed.len().max(offered.len());
    installed.resize(len, 0);
    offered.resize(len, 0);
    match offered.cmp(&installed) {
        std::cmp::Ordering::Less => Relation::Older,
        std::cmp::Ordering::Equal => Relation::Same,
        std::cmp::Ordering::Greater => Relation::Newer,
    }
}

fn numbers(version: &str) -> Option<Vec<u32>> {
    let version = version.strip_prefix(['v', 'V']).unwrap_or(version);
    version.split('.').map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(text: &str) -> Versions {
        Versions::one(FIRMWARE, text)
    }

    #[test]
    fn the_version_in_a_file_name_is_its_last_three_numbers() {
        for (name, version) in [
            ("ir_remote_v2.0.0.bin", Some("2.0.0")),
            ("v11.0.0.bin", Some("11.0.0")),
            ("ir_remote-1.2.3.bin", Some("1.2.3")),
            ("latest.bin", None),
            ("ir_remote_v2.bin", None),
            ("ir_remote_1.2.3-rc1.bin", None),
            ("1..2.bin", None),
        ] {
            assert_eq!(version_in_name(name), version.map(versions), "{name}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        for (installed, offered, relation) in [
            ("1.9", "1.10", Relation::Newer),
            ("1.10", "1.9", Relation::Older),
            ("1.0", "1.0.0", Relation::Same),
            ("v1.0", "1.0", Relation::Same),
            ("1.0", "beta", Relation::Unknown),
            ("beta", "beta", Relation::Same),
        ] {
            assert_eq!(
                relate(&versions(installed), &versions(offered)),
                relation,
                "{installed} {offered}"
            );
            assert_eq!(
                relate(&versions(offered), &versions(installed)),
                relation.reversed()
            );
        }
    }

    /// What the label says: `stated` is the image's own version, `moves` whether earlier labels moved.
    #[track_caller]
    fn check_label(before: &str, stated: Option<&str>, moves: Option<bool>, after: &str, expected: &Label) {
        let snapshot = |version: &str| Snapshot {
            id: model::id::DeviceId::from_hardware(&FamilyId::new("ir-remote"), "a0b1c2d3e4f5"),
            versions: if version.is_empty() {
                Versions::default()
            } else {
                versions(version)
            },
            uptime: None,
            ota: Ota::Enabled,
            busy: false,
            host_name: None,
            hardware: model::device::Hardware::default(),
            health: model::device::Health::default(),
        };
        let image = ImageInfo {
            version_source: model::image::VersionSource::Image,
            family: None,
            kind: "esp-app".to_owned(),
            chip: None,
            versions: stated.map(versions),
            hint: Some(versions("9.9.9")),
            project: None,
            signature: None,
            len_bytes: 1,
            sha256: model::id::Sha256::of(b"x"),
            warnings: Vec::new(),
        };
        let record = moves.map(|label_moves| Installed {
            digest: None,
            label: versions(before),
            label_moves,
        });
        assert_eq!(
            label(&snapshot(before), &image, record.as_ref(), &snapshot(after)),
            *expected
        );
    }

    #[test]
    fn a_label_is_the_target_when_it_moved_to_what_the_image_states() {
        check_label("1.0", Some("2.0"), None, "2.0", &Label::Target);
        check_label("1.0", Some("2.0"), None, "3.0", &Label::Other);
    }

    #[test]
    fn a_label_that_was_the_target_before_proves_nothing() {
        check_label("2.0", Some("2.0"), Some(true), "2.0", &Label::Same);
    }

    #[test]
    fn any_move_is_the_doing_of_an_image_that_states_nothing() {
        check_label("1.0", None, None, "1.1", &Label::Target);
    }

    #[test]
    fn an_unmoved_label_is_the_old_one_only_where_labels_are_known_to_move() {
        check_label("1.0", None, None, "1.0", &Label::Unmoved);
        check_label("1.0", None, Some(false), "1.0", &Label::Unmoved);
        check_label("1.0", None, Some(true), "1.0", &Label::Old);
        check_label("1.0", Some("2.0"), Some(true), "1.0", &Label::Old);
    }

    #[test]
    fn no_label_is_unreadable() {
        check_label("1.0", Some("2.0"), None, "", &Label::Unreadable);
    }

    fn seen(path: &str, body: &str) -> Option<Candidate> {
        let address = IpAddr::from([192, 168, 1, 40]);
        let sighting = Sighting::Http {
            address,
            path: path.to_owned(),
            status: 200,
            server: None,
            body: body.as_bytes().to_vec(),
        };
        recognise(&FamilyId::new("ir-remote"), "home/ir_remote_mini", &sighting)
    }

    #[test]
    fn a_status_of_type_mini_tells_the_device() {
        let candidate = seen(
            "/api/status",
            r#"{"deviceType":"Mini","macAddress":"A0:B1:C2:D3:E4:F5"}"#,
        )
        .unwrap();
        assert_eq!(candidate.certainty, Certainty::Told);
        assert_eq!(candidate.id.unwrap().hardware, "a0b1c2d3e4f5");
    }

    #[test]
    fn another_type_or_another_page_is_not_ours() {
        assert_eq!(seen("/api/status", r#"{"deviceType":"maxi"}"#), None);
        assert_eq!(seen("/", r#"{"deviceType":"mini"}"#), None);
        assert_eq!(seen("/api/status", "<html>"), None);
    }

    fn heard(topic: &str, payload: &str) -> Option<Candidate> {
        let sighting = Sighting::Mqtt {
            topic: topic.to_owned(),
            payload: payload.as_bytes().to_vec(),
        };
        recognise(&FamilyId::new("ir-remote"), "home/ir_remote_mini", &sighting)
    }

    const HEARTBEAT: &str =
        r#"{"status":"online","uptime":4711,"free_heap":251234,"device":"ir_receiver_mini"}"#;

    #[test]
    fn a_heartbeat_tells_health_and_only_the_topic_tells_which_device() {
        let told = |topic| *heard(topic, HEARTBEAT).unwrap().told.unwrap();
        let named = told("home/ir_remote_mini/A0:B1:C2:D3:E4:F5/status");
        assert_eq!(named.id.mac(), Some("a0b1c2d3e4f5"));
        assert_eq!(named.uptime, Some(Duration::from_secs(4711)));
        assert_eq!(named.health.free_heap_bytes, Some(251_234));
        let nameless = told("home/ir_remote_mini/status");
        assert_eq!(nameless.id.strength, Strength::Weak);
        assert_eq!(heard("home/ir_remote_mini/status", HEARTBEAT).unwrap().id, None);
    }

    #[test]
    fn what_stands_in_a_topic_never_becomes_more_than_a_plain_word() {
        let topic = "home/ir_remote_mini/a+#\u{0}\u{202e}b/status";
        let id = heard(topic, HEARTBEAT).unwrap().told.unwrap().id;
        assert_eq!((id.hardware.as_str(), id.strength), ("mqtt:ab", Strength::Weak));
    }

    #[test]
    fn other_topics_and_payloads_are_no_heartbeat() {
        for (topic, payload) in [
            ("home/ir_remote_mini/button", HEARTBEAT),
            ("home/ir_remote_mini/a/b/status", HEARTBEAT),
            ("home/other/status", HEARTBEAT),
            ("home/ir_remote_mini_x/status", HEARTBEAT),
            ("home/ir_remote_mini/status", "online"),
            ("home/ir_remote_mini/status", r#"{"device":"something else"}"#),
            ("home/ir_remote_mini/status", ""),
        ] {
            assert_eq!(heard(topic, payload), None, "{topic} {payload}");
        }
    }
}
