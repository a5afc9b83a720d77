//! What is said of a device by MQTT: topics and payloads, without a clock or a broker.
//!
//! Home Assistant refuses a whole message of an update for one key that it does not know or one value that it does not take
//! (`../shared/HOME_ASSISTANT.md` 3), so they are made here and held to that by tests.

use model::inventory::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::views::DeviceView;

/// The longest text that Home Assistant takes as a state or a summary, characters (`../shared/HOME_ASSISTANT.md` 3).
const TEXT_MAX_CHARS: usize = 255;
/// The longest name of a device in an announcement, characters. Guess: names of ours have at most 64.
const NAME_MAX_CHARS: usize = 100;

/// What is written on a button and must come back.
pub(super) const INSTALL: &str = "install";
pub(super) const ROLL_BACK: &str = "rollback";
pub(super) const ON: &str = "ON";
pub(super) const OFF: &str = "OFF";

/// Where things are said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Topics {
    /// Where all of ours is, as `reflash`.
    pub(super) prefix: String,
    /// Where Home Assistant looks for announcements, as `homeassistant`.
    pub(super) discovery_prefix: String,
}

/// A command of a device, by its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Install,
    Ota(bool),
    RollBack,
}

impl Topics {
    pub(super) fn availability(&self) -> String {
        format!("{}/bridge/availability", self.prefix)
    }

    pub(super) fn state(&self, device: &str) -> String {
        format!("{}/{device}/state", self.prefix)
    }

    pub(super) fn update(&self, device: &str) -> String {
        format!("{}/{device}/update", self.prefix)
    }

    pub(super) fn config(&self, device: &str) -> String {
        format!("{}/device/reflash_{device}/config", self.discovery_prefix)
    }

    /// Where Home Assistant says that it has started.
    pub(super) fn birth(&self) -> String {
        format!("{}/status", self.discovery_prefix)
    }

    /// All that is retained of a device, the announcement first: without it the rest means nothing.
    pub(super) fn all_of(&self, device: &str) -> [String; 3] {
        [self.config(device), self.update(device), self.state(device)]
    }

    /// Where commands come from.
    pub(super) fn commands(&self) -> [String; 3] {
        ["update", "ota", "rollback"].map(|what| format!("{}/+/{what}/set", self.prefix))
    }

    fn command(&self, device: &str, what: &str) -> String {
        format!("{}/{device}/{what}/set", self.prefix)
    }

    /// Which device is meant by a command, and what it is to do; none where the topic or the payload is none of ours.
    pub(super) fn command_in<'t>(&self, topic: &'t str, payload: &[u8]) -> Option<(&'t str, Command)> {
        let rest = topic.strip_prefix(&self.prefix)?.strip_prefix('/')?;
        let (device, what) = rest.strip_suffix("/set")?.split_once('/')?;
        let command = match (what, std::str::from_utf8(payload).ok()?) {
            ("update", INSTALL) => Command::Install,
            ("ota", ON) => Command::Ota(true),
            ("ota", OFF) => Command::Ota(false),
            ("rollback", ROLL_BACK) => Command::RollBack,
            _ => return None,
        };
        Some((device, command))
    }
}

/// At most so many characters, none of which does something else than being seen.
fn text(text: &str, max_chars: usize) -> String {
    let seen = |c: char| if c.is_control() { ' ' } else { c };
    if text.chars().count() <= max_chars {
        return text.chars().map(seen).collect();
    }
    let mut cut: String = text.chars().take(max_chars - 1).map(seen).collect();
    cut.push('…');
    cut
}

/// What the update entity is told: these keys and no others.
pub(super) fn update(device: &DeviceView, not_begun: Option<&str>) -> Value {
    let mut said = Map::new();
    let job = device.job.as_ref().filter(|job| job.running);
    let installed = device
        .installed
        .as_ref()
        .map(|installed| text(&installed.text, TEXT_MAX_CHARS));
    let latest = device.latest.as_ref().filter(|_| device.offered);
    let latest = latest.map(|latest| text(&latest.text, TEXT_MAX_CHARS));
    if let Some(installed) = &installed {
        said.insert("installed_version".to_owned(), json!(installed));
    }
    // Where nothing is offered, nothing is newer: Home Assistant compares by itself, and knows nothing of pins and skips.
    if let Some(latest) = latest.or(installed) {
        said.insert("latest_version".to_owned(), json!(latest));
    }
    said.insert("title".to_owned(), json!(text(&device.title, TEXT_MAX_CHARS)));
    said.insert("in_progress".to_owned(), json!(job.is_some()));
    let percent = job.and_then(|job| job.percent).map(|percent| percent.min(100));
    said.insert("update_percentage".to_owned(), json!(percent));
    if let Some(summary) = summary(device, not_begun) {
        said.insert(
            "release_summary".to_owned(),
            json!(text(&summary, TEXT_MAX_CHARS)),
        );
    }
    Value::Object(said)
}

/// What there is to say about the update, the most important first.
fn summary(device: &DeviceView, not_begun: Option<&str>) -> Option<String> {
    if let Some(text) = not_begun {
        return Some(text.to_owned());
    }
    if let Some(why_not) = &device.supported.why_not {
        return Some(sentences(why_not, device.supported.next_step.as_deref()));
    }
    if let Some(last) = device.last_update.as_ref().filter(|last| !last.ok)
        && let Some(text) = &last.text
    {
        return Some(sentences(text, last.next_step.as_deref()));
    }
    let seconds = device.estimate_s.filter(|_| device.offered)?;
    let minutes = seconds.div_ceil(60).max(1);
    let plural = if minutes == 1 { "" } else { "s" };
    Some(format!("This takes about {minutes} minute{plural}."))
}

fn sentences(what: &str, next_step: Option<&str>) -> String {
    match next_step {
        Some(next_step) => format!("{what} {next_step}"),
        None => what.to_owned(),
    }
}

/// What the other entities are told.
pub(super) fn state(device: &DeviceView) -> Value {
    let is_online = device.state == State::Online;
    let job = device.job.as_ref();
    let firmware = device
        .installed
        .as_ref()
        .map(|installed| text(&installed.text, TEXT_MAX_CHARS));
    json!({
        "status": device.state.name(),
        "firmware": firmware,
        "reported_version": device.reported_version.as_ref().map(|version| text(version, TEXT_MAX_CHARS)),
        "update_state": job.map_or("idle", |job| job.state.as_str()),
        "reason": job.and_then(|job| job.reason.as_ref()).map(|reason| text(reason, TEXT_MAX_CHARS)),
        "next_step": job.and_then(|job| job.next_step.as_ref()).map(|step| text(step, TEXT_MAX_CHARS)),
        "percent": job.and_then(|job| job.percent),
        "last_update": device.last_update.as_ref().and_then(|last| last.ended_ms).and_then(iso),
        "last_outcome": device.last_update.as_ref().map(|last| &last.outcome),
        "free_memory": device.free_heap_bytes.filter(|_| is_online),
        "uptime": device.uptime_s,
        "signal": device.signal_dbm.filter(|_| is_online),
        "address": device.address.map(|address| address.to_string()),
        "ota": if is_ota_on(device) { ON } else { OFF },
    })
}

/// Whether updates are to be possible: what its owner wants, else what it says.
fn is_ota_on(device: &DeviceView) -> bool {
    device.ota_wanted.unwrap_or(device.ota == "enabled")
}

fn iso(ms: i64) -> Option<String> {
    Some(jiff::Timestamp::from_millisecond(ms).ok()?.to_string())
}

/// The announcement of a device with all its entities.
pub(super) fn config(device: &DeviceView, topics: &Topics, has_commands: bool) -> Value {
    let id = device.id.as_str();
    let unique = |what: &str| format!("reflash_{id}_{what}");
    let state_topic = topics.state(id);
    let availability = topics.availability();
    let mut entities = Map::new();
    let mut add = |key: &str, mut entity: Value| {
        if let Value::Object(entity) = &mut entity {
            entity.insert("unique_id".to_owned(), json!(unique(key)));
            entity.insert("avty_t".to_owned(), json!(availability));
        }
        entities.insert(key.to_owned(), entity);
    };
    let mut update = json!({
        "p": "update", "name": "Firmware", "dev_cla": "firmware", "stat_t": topics.update(id),
    });
    if has_commands
        && device.supported.install
        && let Value::Object(update) = &mut update
    {
        update.insert("cmd_t".to_owned(), json!(topics.command(id, "update")));
        // There is no default for it (`../shared/HOME_ASSISTANT.md` 3).
        update.insert("payload_install".to_owned(), json!(INSTALL));
    }
    add("update", update);
    let sensor = |name: &str, key: &str| {
        json!({ "p": "sensor", "name": name, "stat_t": state_topic, "ent_cat": "diagnostic",
                "val_tpl": format!("{{{{ value_json.{key} }}}}") })
    };
    let with = |mut entity: Value, more: Value| {
        if let (Value::Object(entity), Value::Object(more)) = (&mut entity, more) {
            entity.extend(more);
        }
        entity
    };
    add("status", sensor("Status", "status"));
    add("firmware", sensor("Firmware version", "firmware"));
    add("update_state", sensor("Update state", "update_state"));
    let last = sensor("Last update", "last_update");
    add("last_update", with(last, json!({ "dev_cla": "timestamp" })));
    let is_esp = device.chip.is_some();
    if is_esp || device.free_heap_bytes.is_some() {
        let memory = sensor("Free memory", "free_memory");
        let more = json!({ "dev_cla": "data_size", "unit_of_meas": "B", "stat_cla": "measurement" });
        add("free_memory", with(memory, more));
    }
    if is_esp || device.uptime_s.is_some() {
        let uptime = sensor("Uptime", "uptime");
        add(
            "uptime",
            with(uptime, json!({ "dev_cla": "duration", "unit_of_meas": "s" })),
        );
    }
    if is_esp || device.signal_dbm.is_some() {
        let signal = sensor("Signal", "signal");
        let more = json!({ "dev_cla": "signal_strength", "unit_of_meas": "dBm", "en": false });
        add("signal", with(signal, more));
    }
    if has_commands && device.ota != "unknown" {
        add(
            "ota",
            json!({ "p": "switch", "name": "OTA", "stat_t": state_topic, "val_tpl": "{{ value_json.ota }}",
                    "cmd_t": topics.command(id, "ota"), "pl_on": ON, "pl_off": OFF, "ent_cat": "config" }),
        );
    }
    if has_commands && device.supported.install {
        add(
            "rollback",
            json!({ "p": "button", "name": "Roll back", "cmd_t": topics.command(id, "rollback"),
                    "payload_press": ROLL_BACK, "ent_cat": "config" }),
        );
    }
    let mut about = json!({
        "ids": [format!("reflash_{id}")],
        "name": text(&device.name, NAME_MAX_CHARS),
        "mdl": text(&device.title, NAME_MAX_CHARS),
    });
    if let Value::Object(about) = &mut about {
        if let Some(mac) = device.mac.as_deref().and_then(with_colons) {
            about.insert("cns".to_owned(), json!([["mac", mac]]));
        }
        if let Some(installed) = &device.installed {
            about.insert("sw".to_owned(), json!(text(&installed.text, TEXT_MAX_CHARS)));
        }
        if let Some(chip) = device.chip.as_ref().or(device.model.as_ref()) {
            about.insert("hw".to_owned(), json!(text(chip, NAME_MAX_CHARS)));
        }
    }
    json!({
        "dev": about,
        "o": { "name": "Reflash", "sw": env!("CARGO_PKG_VERSION") },
        "cmps": entities,
    })
}

/// A MAC address as Home Assistant writes it.
fn with_colons(mac: &str) -> Option<String> {
    let is_mac = mac.len() == 12 && mac.bytes().all(|byte| byte.is_ascii_hexdigit());
    let pairs = (0..12).step_by(2).filter_map(|at| mac.get(at..at + 2));
    is_mac.then(|| pairs.collect::<Vec<_>>().join(":"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topics() -> Topics {
        Topics {
            prefix: "reflash".to_owned(),
            discovery_prefix: "homeassistant".to_owned(),
        }
    }

    pub(super) fn device() -> DeviceView {
        const DEVICE: &str = r#"{
            "id": "a0b1c2d3e4f5", "family": "ir-remote", "title": "IR Remote Mini", "name": "Living Room IR", "named": true,
            "identity": "hardware", "mac": "a0b1c2d3e4f5", "address": "192.168.1.40", "host_name": null,
            "sources": ["scan"], "configured": false, "enrolled": true, "enrolled_ms": 1,
            "state": "online", "trouble": null, "first_seen_ms": 1, "last_seen_ms": 2,
            "reported_version": "1.0", "versions": { "firmware": "1.0" }, "model": "mini", "chip": "esp32c6",
            "chip_revision": 2, "flash_bytes": 4194304, "slot_bytes": null, "free_heap_bytes": 212344,
            "uptime_s": 86400, "signal_dbm": -61, "running": null, "restarts": 3, "ota": "enabled", "ota_wanted": null,
            "busy": false, "has_password": true,
            "installed": { "sha256": "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a", "name": "1.4.2", "text": "1.4.2", "kept": true },
            "latest": { "sha256": "6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b", "name": "2.0.0", "text": "2.0.0", "file_name": "v2.bin", "why_not": null },
            "offered": true, "estimate_s": 61, "tags": [], "group": null, "pinned": null, "skipped": [], "conflict": null,
            "warnings": []
        }"#;
        serde_json::from_str(DEVICE).unwrap()
    }

    fn job(state: &str, running: bool, percent: Option<u8>) -> crate::views::DeviceJobView {
        crate::views::DeviceJobView {
            id: Some(1),
            rollout: Some(2),
            state: state.to_owned(),
            running,
            percent,
            firmware: None,
            reason: None,
            text: None,
            next_step: None,
        }
    }

    /// What Home Assistant takes, and nothing else (`../shared/HOME_ASSISTANT.md` 3).
    #[track_caller]
    fn check_strict(update: &Value) {
        const KEYS: [&str; 8] = [
            "installed_version",
            "latest_version",
            "title",
            "release_summary",
            "release_url",
            "entity_picture",
            "in_progress",
            "update_percentage",
        ];
        let said = update.as_object().unwrap();
        for (key, value) in said {
            assert!(KEYS.contains(&key.as_str()), "{key}");
            match key.as_str() {
                "in_progress" => assert!(value.is_boolean(), "{update}"),
                "update_percentage" => {
                    assert!(
                        value.is_null() || value.as_u64().is_some_and(|n| n <= 100),
                        "{update}"
                    );
                }
                _ => {
                    let text = value.as_str().unwrap();
                    assert!(text.chars().count() <= 255, "{key}: {text}");
                    assert!(!text.chars().any(char::is_control), "{key}: {text:?}");
                }
            }
        }
        // A percentage means that it goes on, whatever else is said.
        assert!(
            said["update_percentage"].is_null() || said["in_progress"] == true,
            "{update}"
        );
    }

    #[test]
    fn an_offer_an_update_and_its_end_are_said_in_words_that_home_assistant_takes() {
        let mut device = device();
        let said = update(&device, None);
        check_strict(&said);
        assert_eq!(
            said,
            json!({ "installed_version": "1.4.2", "latest_version": "2.0.0", "title": "IR Remote Mini", "in_progress": false,
                    "update_percentage": null, "release_summary": "This takes about 2 minutes." })
        );
        device.job = Some(job("uploading", true, Some(57)));
        let said = update(&device, None);
        assert_eq!(
            (&said["in_progress"], &said["update_percentage"]),
            (&json!(true), &json!(57))
        );
        // It is watched: it still goes on, and nobody knows how far.
        device.job = Some(job("soaking", true, None));
        let said = update(&device, None);
        assert_eq!(
            (&said["in_progress"], &said["update_percentage"]),
            (&json!(true), &Value::Null)
        );
        for (state, percent) in [
            ("queued", None),
            ("waiting", None),
            ("failed", Some(57)),
            ("interrupted", Some(3)),
        ] {
            device.job = Some(job(state, false, percent));
            let said = update(&device, None);
            check_strict(&said);
            assert_eq!(
                (&said["in_progress"], &said["update_percentage"]),
                (&json!(false), &Value::Null),
                "{state}"
            );
        }
    }

    #[test]
    fn what_is_not_offered_is_no_update() {
        let mut device = device();
        device.offered = false;
        assert_eq!(update(&device, None)["latest_version"], "1.4.2");
        device.latest = None;
        assert_eq!(update(&device, None)["latest_version"], "1.4.2");
        device.installed = None;
        let said = update(&device, None);
        check_strict(&said);
        assert!(
            said.get("installed_version").is_none() && said.get("latest_version").is_none(),
            "{said}"
        );
    }

    #[test]
    fn commands_are_announced_only_where_they_are_taken() {
        let mut device = device();
        let off = config(&device, &topics(), false);
        assert!(!off.to_string().contains("cmd_t"), "{off}");
        let on = config(&device, &topics(), true);
        let update = &on["cmps"]["update"];
        assert_eq!(
            (&update["cmd_t"], &update["payload_install"]),
            (&json!("reflash/a0b1c2d3e4f5/update/set"), &json!("install"))
        );
        assert_eq!(on["cmps"]["ota"]["cmd_t"], "reflash/a0b1c2d3e4f5/ota/set");
        assert_eq!(
            on["cmps"]["rollback"]["cmd_t"],
            "reflash/a0b1c2d3e4f5/rollback/set"
        );
        device.supported.install = false;
        device.ota = "unknown".to_owned();
        let too_old = config(&device, &topics(), true);
        assert!(!too_old.to_string().contains("cmd_t"), "{too_old}");
    }

    #[test]
    fn every_entity_goes_with_the_bridge_and_has_a_name_of_its_own() {
        let said = config(&device(), &topics(), true);
        assert_eq!(said["dev"]["ids"], json!(["reflash_a0b1c2d3e4f5"]));
        assert_eq!(said["dev"]["cns"], json!([["mac", "a0:b1:c2:d3:e4:f5"]]));
        let entities = said["cmps"].as_object().unwrap();
        let mut unique = std::collections::BTreeSet::new();
        for (key, entity) in entities {
            assert_eq!(entity["avty_t"], "reflash/bridge/availability", "{key}");
            assert!(unique.insert(entity["unique_id"].as_str().unwrap()), "{key}");
            assert!(entity["p"].is_string(), "{key}");
        }
        assert_eq!(entities["update"]["stat_t"], "reflash/a0b1c2d3e4f5/update");
    }

    #[test]
    fn only_the_very_words_on_the_very_topics_are_commands() {
        let topics = topics();
        let read = |topic: &str, payload: &str| {
            topics
                .command_in(topic, payload.as_bytes())
                .map(|(_, command)| command)
        };
        assert_eq!(read("reflash/x/update/set", "install"), Some(Command::Install));
        assert_eq!(read("reflash/x/ota/set", "ON"), Some(Command::Ota(true)));
        assert_eq!(read("reflash/x/ota/set", "OFF"), Some(Command::Ota(false)));
        assert_eq!(
            read("reflash/x/rollback/set", "rollback"),
            Some(Command::RollBack)
        );
        for (topic, payload) in [
            ("reflash/x/update/set", "INSTALL"),
            ("reflash/x/update/set", "install "),
            ("reflash/x/update/set", "{\"version\":\"1.1\"}"),
            ("reflash/x/update/set", ""),
            ("reflash/x/ota/set", "on"),
            ("reflash/x/ota/set", "1"),
            ("reflash/x/rollback/set", "install"),
            ("reflash/x/update", "install"),
            ("reflash/x/y/update/set", "install"),
            ("reflash/x/reboot/set", "install"),
            ("reflash/update/set", "install"),
            ("other/x/update/set", "install"),
            ("reflashx/x/update/set", "install"),
        ] {
            assert_eq!(read(topic, payload), None, "{topic} {payload}");
        }
        assert_eq!(topics.command_in("reflash/x/update/set", b"\xff\xfe"), None);
    }

    proptest! {
        /// Whatever a device or its owner says, Home Assistant gets what it takes.
        #[test]
        fn any_words_are_said_within_bounds(name in any::<String>(), words in ".{0,400}", step in any::<String>(),
                                            percent in any::<Option<u8>>(), running: bool, offered: bool) {
            let mut device = device();
            device.name.clone_from(&name);
            device.title.clone_from(&words);
            device.offered = offered;
            if let Some(installed) = &mut device.installed {
                installed.text.clone_from(&words);
            }
            if let Some(latest) = &mut device.latest {
                latest.text = format!("{words}+");
            }
            device.job = Some(crate::views::DeviceJobView { reason: Some(step.clone()), ..job("uploading", running, percent) });
            device.supported = crate::views::SupportView { install: false, why_not: Some(words), next_step: Some(step) };
            check_strict(&update(&device, None));
            check_strict(&update(&device, Some(&name)));
            let said = config(&device, &topics(), true);
            prop_assert!(said["dev"]["name"].as_str().unwrap().chars().count() <= 100);
            prop_assert!(state(&device)["status"].is_string());
            prop_assert!(said.to_string().len() < 16 * 1024);
        }
    }
}
