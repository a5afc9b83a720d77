//! A fleet and its firmware, as the server would tell them.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use server::views::{DeviceView, FirmwareListView, FirmwareView};

use crate::fake::{Answer, Asked, good, nothing, problem};

/// Milliseconds since 1970, so many seconds ago.
pub(crate) fn ago_ms(seconds: i64) -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the fake server's clock")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap() - seconds * 1000
}

/// A device with nothing unusual about it.
pub(crate) fn device(id: &str, name: &str) -> DeviceView {
    let value = json!({
        "id": id, "family": "ir-remote", "title": "IR Remote Mini", "name": name, "named": true,
        "identity": "hardware", "mac": id, "address": "192.168.1.40", "host_name": format!("ir-{id}"),
        "sources": ["scan", "mdns"], "configured": false, "enrolled": true, "enrolled_ms": ago_ms(90_000),
        "state": "online", "trouble": null, "first_seen_ms": ago_ms(900_000), "last_seen_ms": ago_ms(5),
        "reported_version": "1.0", "versions": { "firmware": "1.0" }, "model": "mini", "chip": "esp32c6",
        "chip_revision": 2, "flash_bytes": 4_194_304, "slot_bytes": null, "free_heap_bytes": 212_344,
        "uptime_s": 86_400, "signal_dbm": -61, "running": null, "restarts": 3, "ota": "enabled", "ota_wanted": true,
        "busy": false, "has_password": true,
        "installed": { "sha256": "5a".repeat(32), "name": "1.4.2", "kept": true },
        "latest": { "sha256": "6b".repeat(32), "name": "2.0.0", "file_name": "ir_remote_v2.0.0.bin", "why_not": null },
        "offered": true, "tags": ["downstairs"], "group": null, "pinned": null, "skipped": [], "conflict": null,
        "warnings": [],
    });
    serde_json::from_value(value).unwrap()
}

/// Four devices, each with something of its own.
pub(crate) fn devices() -> Vec<DeviceView> {
    let living_room = device("a0b1c2d3e4f5", "Living Room IR");
    let mut kitchen = device("a0b1c2d3e4f6", "居間のリモコンでとても長い名前のもの");
    kitchen.address = Some("192.168.1.41".parse().unwrap());
    kitchen.state = serde_json::from_value(json!("offline")).unwrap();
    kitchen.trouble = Some("no answer within 2 s".to_owned());
    kitchen.offered = false;
    kitchen.latest = None;
    kitchen.installed = None;
    kitchen.tags = vec!["upstairs".to_owned()];
    kitchen.skipped = vec!["1.9.0".to_owned()];
    let mut new = device("c0ffee000001", "IR Remote Mini 000001");
    new.named = false;
    new.address = Some("192.168.1.42".parse().unwrap());
    new.enrolled = false;
    new.enrolled_ms = None;
    new.has_password = false;
    new.installed = None;
    new.pinned = Some("1.0".to_owned());
    new.tags.clear();
    let mut unit = device("a0b1c2d3e4f5", "Ventilation");
    "komfovent--192-168-1-60".clone_into(&mut unit.id);
    "komfovent".clone_into(&mut unit.family);
    "Komfovent".clone_into(&mut unit.title);
    "weak".clone_into(&mut unit.identity);
    unit.mac = None;
    unit.host_name = None;
    unit.configured = true;
    unit.address = Some("192.168.1.60".parse().unwrap());
    unit.installed = None;
    unit.latest = None;
    unit.model = Some("C6".to_owned());
    unit.chip = None;
    unit.chip_revision = None;
    unit.flash_bytes = None;
    unit.free_heap_bytes = None;
    unit.uptime_s = None;
    unit.signal_dbm = None;
    unit.running = Some(true);
    unit.restarts = 0;
    "unknown".clone_into(&mut unit.ota);
    unit.ota_wanted = None;
    unit.reported_version = Some("C6 1.3.44.70 / P 1.1.5.46".to_owned());
    unit.offered = false;
    unit.conflict = Some(server::views::ConflictView {
        kind: "one-address-two-macs".to_owned(),
        text: "Two devices answer at 192.168.1.60.".to_owned(),
        next_step: "Give one of them another address.".to_owned(),
    });
    vec![living_room, kitchen, new, unit]
}

/// An image that is approved.
pub(crate) fn image(sha256: &str, name: &str, file_name: &str) -> FirmwareView {
    let value = json!({
        "sha256": sha256, "file_name": file_name, "also_named": [], "name": name, "len_bytes": 1_251_632,
        "family": "ir-remote", "kind": "esp-app", "chip": "esp32c6", "version": name, "version_source": "file-name",
        "project": "ir_remote", "signature": null, "state": "approved", "refusals": [], "warnings": [],
        "source": "upload", "origin": null, "added_ms": ago_ms(7_200), "approved_by": "token 1",
        "approved_ms": ago_ms(3_600), "latest_for": ["mini"], "running_on": [], "has_notes": true,
    });
    serde_json::from_value(value).unwrap()
}

/// What the repository holds.
pub(crate) fn firmware() -> FirmwareListView {
    let mut quarantined = image(
        &"7c".repeat(32),
        "1.5.46.72 / P 1.1.5.48",
        "C6_1_5_46_72_P1_1_1_5_48.mbin",
    );
    quarantined.state = model::firmware::State::Quarantined;
    quarantined.family = Some("komfovent".to_owned());
    quarantined.chip = None;
    quarantined.approved_by = None;
    quarantined.approved_ms = None;
    quarantined.has_notes = false;
    quarantined.origin = Some("https://www.komfovent.com/firmware.php?file=mbin".to_owned());
    "feed".clone_into(&mut quarantined.source);
    let mut placeholder = image(&"8d".repeat(32), "firmware.bin", "firmware.bin");
    placeholder.state = model::firmware::State::Refused;
    placeholder.version = None;
    placeholder.family = None;
    placeholder.chip = None;
    placeholder.project = None;
    placeholder.approved_by = None;
    placeholder.approved_ms = None;
    placeholder.latest_for.clear();
    placeholder.has_notes = false;
    "text".clone_into(&mut placeholder.kind);
    placeholder.refusals = vec![server::views::RefusalView {
        rule: "text".to_owned(),
        text: "This is a text file of 23 bytes, not compiled firmware.".to_owned(),
        next_step: "Put the real image in its place.".to_owned(),
    }];
    FirmwareListView {
        firmware: vec![
            image(&"6b".repeat(32), "2.0.0", "ir_remote_v2.0.0.bin"),
            image(&"6c".repeat(32), "1.4.2", "ir_remote_v1.4.2.bin"),
            quarantined,
            placeholder,
        ],
        used_bytes: 4_000_000,
        free_bytes: Some(20_000_000_000),
        feeds: vec![feed(Some("the vendor's server did not answer in time"))],
        folder: Some(server::views::FolderView {
            path: "/config/ir_remote_firmware".to_owned(),
            trouble: None,
            n_files: 2,
            ignored: vec![server::views::NoteView {
                rule: "unfinished".to_owned(),
                text: "new.bin is still being written.".to_owned(),
            }],
        }),
    }
}

/// The vendor's download.
pub(crate) fn feed(error: Option<&str>) -> server::views::FeedView {
    server::views::FeedView {
        name: "komfovent-C6".to_owned(),
        url: "https://www.komfovent.com/firmware.php?file=mbin".to_owned(),
        last_checked_at: Some(ago_ms(10)),
        last_ok_at: Some(ago_ms(700_000)),
        error: error.map(str::to_owned),
        filename: Some("C6_1_5_46_72_P1_1_1_5_48.mbin".to_owned()),
        sha256: Some("7c".repeat(32)),
        controller_version: Some([6, 1, 5, 46, 72]),
        panel_version: Some([0, 1, 1, 5, 48]),
        file_path: None,
    }
}

/// Answers as a server with this fleet would.
pub(crate) fn serve(asked: &Asked) -> Answer {
    let as_json = |value: Result<Value, serde_json::Error>| good(&value.unwrap());
    let path = asked.path.split('?').next().unwrap_or_default();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let device = |id: &str| devices().into_iter().find(|device| device.id == id);
    match (asked.method.as_str(), &segments[..]) {
        ("GET", ["devices"]) => as_json(serde_json::to_value(devices())),
        ("POST", ["devices"]) => as_json(serde_json::to_value(&devices()[0])),
        ("POST", ["devices", "enroll"]) => good(&json!([])),
        ("GET", ["devices", _, "health"]) => good(&json!([
            { "at_ms": ago_ms(30), "online": true, "uptime_s": 20, "free_heap_bytes": 200_000, "signal_dbm": -60, "restarted": true },
            { "at_ms": ago_ms(60), "online": false, "uptime_s": null, "free_heap_bytes": null, "signal_dbm": null, "restarted": false },
        ])),
        ("DELETE", _) => nothing(),
        ("PATCH" | "PUT" | "GET" | "POST", ["devices", id, ..]) => match device(id) {
            Some(device) => as_json(serde_json::to_value(device)),
            None => problem(
                404,
                "there is no such device",
                Some("list them: reflash device list"),
            ),
        },
        ("POST", ["discovery", "scan"]) => good(&json!({
            "n_addresses": 256, "n_asked": 254, "n_answered": 10, "n_refused": 3, "n_silent": 241, "n_failed": 0,
            "paced": null, "took_ms": 1600, "ended_ms": ago_ms(0),
        })),
        ("GET", ["firmware"]) => as_json(serde_json::to_value(firmware())),
        ("POST", ["firmware"]) => as_json(serde_json::to_value(&firmware().firmware[0])),
        ("POST", ["firmware", "check"]) => as_json(serde_json::to_value([feed(None)])),
        ("GET", ["firmware", _, "notes"]) => good(&json!({ "notes": "# 2.0.0\nFaster.\n" })),
        ("GET" | "POST" | "PUT", ["firmware", sha256, ..]) => {
            match firmware().firmware.iter().find(|image| image.sha256 == *sha256) {
                Some(image) => as_json(serde_json::to_value(image)),
                None => problem(404, "there is no such image", None),
            }
        }
        ("GET", ["tokens"]) => good(&json!([
            { "id": 1, "name": "first", "role": "admin", "created_ms": ago_ms(90_000), "used_ms": ago_ms(60) },
            { "id": 3, "name": "Home Assistant", "role": "operator", "created_ms": ago_ms(9_000), "used_ms": null },
        ])),
        ("POST", ["tokens"]) => {
            let wanted = asked.json();
            good(&json!({ "id": 4, "name": wanted["name"], "role": wanted["role"], "token": TOKEN }))
        }
        _ => problem(404, "there is no such route", None),
    }
}

/// The token that is made.
pub(crate) const TOKEN: &str = "rft_0123456789abcdef";
