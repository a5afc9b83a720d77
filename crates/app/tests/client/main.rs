//! The command line as a client of the server: what it asks, what it says, and what it never does.
#![recursion_limit = "256"]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod backup;
mod fake;
mod fleet;
mod real;
mod real_rollouts;
mod rollouts;
mod secure;
mod windows;

use std::os::unix::fs::PermissionsExt as _;

use insta::{Settings, assert_snapshot};
use serde_json::{Value, json};

use fake::{Answer, Fake, good, nothing, problem};
use fleet::{TOKEN, devices, firmware, serve};
use support::{Ended, reflash, run};

/// Hides what differs from run to run.
fn settings() -> Settings {
    let mut settings = Settings::clone_current();
    settings.add_filter(r"\b\d+ (s|min|h|days) ago", "[ago]");
    settings
}

/// What it says to people; nothing else, and no line wider than a terminal.
#[track_caller]
fn words(ended: &Ended) -> &str {
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:#?}");
    for line in ended.stdout.lines() {
        let width = unicode_width::UnicodeWidthStr::width(line);
        assert!(width <= 80, "{width} columns: {line}");
    }
    &ended.stdout
}

// ---- What people read

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_read() {
    let fake = Fake::start(serve);
    for (name, arguments) in [
        ("device_list", &["device", "list"][..]),
        (
            "device_list_online",
            &["device", "list", "--state", "online", "--family", "ir-remote"],
        ),
        ("device_list_nobody", &["device", "list", "--tag", "nowhere"]),
        ("device_show", &["device", "show", "living room ir"]),
        ("device_show_trouble", &["device", "show", "a0b1c2d3e4f6"]),
        ("device_show_conflict", &["device", "show", "Ventilation"]),
        ("device_scan", &["device", "scan"]),
        ("device_health", &["device", "health", "192.168.1.40"]),
        ("firmware_list", &["firmware", "list"]),
        ("firmware_show", &["firmware", "show", "2.0.0"]),
        ("firmware_show_refused", &["firmware", "show", "firmware.bin"]),
        ("firmware_check", &["firmware", "check", "komfovent"]),
        ("firmware_notes", &["firmware", "notes", "2.0.0"]),
        ("token_list", &["token", "list"]),
        (
            "token_create",
            &["token", "create", "Home Assistant", "--role", "operator"],
        ),
    ] {
        let ended = run(fake.command(arguments)).await;
        settings().bind(|| assert_snapshot!(name, words(&ended)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wide_list_leaves_nothing_out() {
    let fake = Fake::start(serve);
    let ended = run(fake.command(&["device", "list", "--wide"])).await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(!ended.stdout.contains('…'), "{}", ended.stdout);
    for device in devices() {
        let line = ended.stdout.lines().find(|line| line.contains(&device.id));
        let line = line.unwrap_or_else(|| panic!("{} is missing: {}", device.id, ended.stdout));
        assert!(line.contains(&device.name), "{line}");
    }
}

// ---- What programs read

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_is_what_the_server_said() {
    let fake = Fake::start(serve);
    let list = serde_json::to_value(devices()).unwrap();
    let mut online = list.clone();
    online
        .as_array_mut()
        .unwrap()
        .retain(|device| device["state"] == "online");
    let firmware = serde_json::to_value(firmware()).unwrap();
    for (arguments, expected) in [
        (&["device", "list"][..], &list),
        (&["device", "list", "--state", "online"], &online),
        (&["device", "show", "Living Room IR"], &list[0]),
        (&["firmware", "list"], &firmware),
        (&["firmware", "show", "6b6b6b6b"], &firmware["firmware"][0]),
    ] {
        let mut command = fake.command(arguments);
        command.arg("--json");
        let ended = run(command).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:#?}");
        let mut said = ended.json();
        let mut expected = expected.clone();
        // The fake's clock has gone on.
        forget_times(&mut said);
        forget_times(&mut expected);
        assert_eq!(said, expected, "{arguments:?}");
    }
}

fn forget_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name.ends_with("_ms") || name.ends_with("_at") {
                    *value = json!(!value.is_null());
                }
                forget_times(value);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(forget_times),
        _ => {}
    }
}

#[tokio::test]
async fn wrong_usage_with_json_is_told_in_json() {
    for (arguments, hint) in [
        ("device list --stat offline --json", "--state"),
        ("device frob --json", "device"),
        ("device show --json", "<DEVICE>"),
        ("device ota maybe kitchen --json", "on"),
        ("firmware add --json", "<FILE>"),
        ("firmware inspect --json", "<FILES>"),
        ("token create x --role king --json", "admin"),
        ("backup --json", "create"),
        ("push 127.0.0.1 --json", "<FILE>"),
        ("push 127.0.0.1 a.bin --forse --json", "--force"),
        ("push 127.0.0.1 a.bin --allow downgrad --json", "downgrade"),
        ("push 127.0.0.1 a.bin --allow wrong-chip --json", "never"),
    ] {
        let ended = run(reflash(arguments.split_whitespace())).await;
        assert_eq!(
            (ended.code, ended.stderr.as_str()),
            (Some(64), ""),
            "{arguments}: {ended:#?}"
        );
        let said = ended.json();
        assert!(
            said.to_string().contains(hint),
            "{arguments}: no {hint:?} in {said:#}"
        );
        assert!(said["next_step"].is_string(), "{arguments}: {said:#}");
        let (text, others) = if arguments.starts_with("push") {
            assert_eq!(said["outcome"], "failed", "{said:#}");
            ("text", &["reason", "method", "evidence"][..])
        } else {
            ("error", &[][..])
        };
        assert!(said[text].is_string(), "{arguments}: {said:#}");
        for field in others {
            assert!(
                said.get(field).is_some(),
                "{arguments}: {field} is missing: {said:#}"
            );
        }
    }
    // What stands behind `--` is no option.
    let ended = run(reflash(["device", "frob", "--", "--json"])).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(64), ""), "{ended:#?}");
}

#[tokio::test]
async fn an_unknown_rule_to_allow_is_answered_with_the_nearest() {
    let ended = run(reflash(["push", "127.0.0.1", "a.bin", "--allow", "to-large"])).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(64), ""));
    assert!(ended.stderr.contains("too-large"), "{ended:#?}");
}

// ---- Which device, which image

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_named_by_key_name_address_or_the_beginning_of_its_key() {
    let fake = Fake::start(serve);
    for wanted in [
        "a0b1c2d3e4f5",
        "A0:B1:C2:D3:E4:F5",
        "living room ir",
        "192.168.1.40",
        "ir-a0b1c2d3e4f5.local",
    ] {
        let ended = run(fake.command(&["device", "show", wanted, "--json"])).await;
        assert_eq!(ended.json()["id"], "a0b1c2d3e4f5", "{wanted}: {ended:#?}");
    }
    for wanted in ["c0ff", "C0FFEE"] {
        let ended = run(fake.command(&["device", "show", wanted, "--json"])).await;
        assert_eq!(ended.json()["id"], "c0ffee000001", "{wanted}: {ended:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_unknown_or_ambiguous_ends_with_3_and_names_what_may_be_meant() {
    let fake = Fake::start(serve);
    for (arguments, hints) in [
        (&["device", "show", "Livingroom IR"][..], &["Living Room IR"][..]),
        (&["device", "show", "a0b1"], &["a0b1c2d3e4f5", "a0b1c2d3e4f6"]),
        (
            &["device", "enroll", "c0ffee000001", "nobody"],
            &["reflash device list"],
        ),
        (&["device", "pin", "", "1.0"], &["reflash device list"]),
        (&["device", "show", "10.0.0.1"], &["reflash device list"]),
        (&["firmware", "show", "2.0.1"], &["2.0.0"]),
        (&["firmware", "approve", "6"], &["reflash firmware list"]),
        (&["token", "revoke", "Home Assistent"], &["Home Assistant"]),
        (&["token", "revoke", "7"], &["reflash token list"]),
    ] {
        let ended = run(fake.command(arguments)).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""), "{ended:#?}");
        for hint in hints {
            assert!(
                ended.stderr.contains(hint),
                "{arguments:?}: no {hint:?} in {ended:#?}"
            );
        }
        let mut command = fake.command(arguments);
        command.arg("--json");
        let ended = run(command).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(3), ""), "{ended:#?}");
        assert!(ended.json()["error"].is_string() && ended.json()["next_step"].is_string());
    }
    assert!(fake.take_changes().is_empty(), "nothing was changed on the way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_named_by_digest_name_file_or_version() {
    let fake = Fake::start(serve);
    let digest = "6b".repeat(32);
    for wanted in [digest.as_str(), "6b6b", "6B6B6B", "2.0.0", "ir_remote_v2.0.0.bin"] {
        let ended = run(fake.command(&["firmware", "show", wanted, "--json"])).await;
        assert_eq!(ended.json()["sha256"], digest.as_str(), "{wanted}: {ended:#?}");
    }
}

// ---- What is asked

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "it is one table")]
async fn each_command_asks_for_just_what_it_says() {
    let fake = Fake::start(serve);
    let notes = fake.file("notes.md", b"Faster.");
    let bytes = support::image(Some("2.0.0"), 1);
    let image = fake.file("ir remote.bin", &bytes);
    let (notes, image) = (notes.to_str().unwrap(), image.to_str().unwrap());
    let digest = "6b".repeat(32);
    let uploaded = support::sha256(&bytes);
    let living = "/devices/a0b1c2d3e4f5";
    for (arguments, expected) in [
        (
            &[
                "device",
                "add",
                "ir.local",
                "--name",
                "Attic",
                "--slot-bytes",
                "1900544",
            ][..],
            vec![(
                "POST /devices".to_owned(),
                json!({ "host": "ir.local", "name": "Attic", "slot_bytes": 1_900_544 }),
            )],
        ),
        (
            &["device", "remove", "living room ir", "--yes"],
            vec![(format!("DELETE {living}"), Value::Null)],
        ),
        (
            &["device", "enroll", "c0ffee000001", "c0ff", "living room ir"],
            vec![(
                "POST /devices/enroll".to_owned(),
                json!({ "devices": ["c0ffee000001"] }),
            )],
        ),
        (
            &["device", "enroll", "--all"],
            vec![(
                "POST /devices/enroll".to_owned(),
                json!({ "devices": ["c0ffee000001"] }),
            )],
        ),
        (
            &["device", "unenroll", "living room ir"],
            vec![(format!("DELETE {living}/enroll"), Value::Null)],
        ),
        (
            &["device", "pin", "living room ir", "1.4.2"],
            vec![(format!("PUT {living}/pin"), json!({ "version": "1.4.2" }))],
        ),
        (
            &["device", "unpin", "c0ff"],
            vec![("DELETE /devices/c0ffee000001/pin".to_owned(), Value::Null)],
        ),
        (
            &["device", "skip", "living room ir", "2.0.0"],
            vec![(format!("PUT {living}/skip"), json!({ "version": "2.0.0" }))],
        ),
        (
            &["device", "unskip", "a0b1c2d3e4f6", "1.9.0"],
            vec![(
                "DELETE /devices/a0b1c2d3e4f6/skip?version=1.9.0".to_owned(),
                Value::Null,
            )],
        ),
        (
            &["device", "unskip", "a0b1c2d3e4f6"],
            vec![("DELETE /devices/a0b1c2d3e4f6/skip".to_owned(), Value::Null)],
        ),
        (
            &["device", "scan"],
            vec![("POST /discovery/scan".to_owned(), Value::Null)],
        ),
        (
            &["device", "name", "living room ir", " Attic / 1? "],
            vec![(format!("PATCH {living}"), json!({ "name": "Attic / 1?" }))],
        ),
        (
            &["device", "name", "living room ir", ""],
            vec![(format!("PATCH {living}"), json!({ "name": null }))],
        ),
        (
            &["device", "tag", "living room ir", "+attic", "-downstairs", "new"],
            vec![(format!("PATCH {living}"), json!({ "tags": ["attic", "new"] }))],
        ),
        (
            &[
                "device",
                "set",
                "living room ir",
                "--group",
                "west",
                "--chip",
                "",
                "--slot-bytes",
                "0",
            ],
            vec![(
                format!("PATCH {living}"),
                json!({ "group": "west", "chip": null, "slot_bytes": null }),
            )],
        ),
        (
            &["device", "password", "living room ir", "--forget"],
            vec![(format!("PUT {living}/password"), json!({ "password": null }))],
        ),
        (
            &["device", "replace", "living room ir", "c0ff"],
            vec![(format!("POST {living}/replace"), json!({ "by": "c0ffee000001" }))],
        ),
        (
            &["device", "ota", "off", "living room ir"],
            vec![(format!("PUT {living}/ota"), json!({ "enabled": false }))],
        ),
        (
            &[
                "firmware",
                "add",
                image,
                "--running-on",
                "living room ir",
                "--notes",
                notes,
            ],
            vec![
                (
                    "POST /firmware?file_name=ir+remote.bin&running_on=a0b1c2d3e4f5".to_owned(),
                    Value::Null,
                ),
                (
                    format!("PUT /firmware/{uploaded}/notes"),
                    json!({ "notes": "Faster." }),
                ),
            ],
        ),
        (
            &["firmware", "remove", "2.0.0", "--yes"],
            vec![(format!("DELETE /firmware/{digest}"), Value::Null)],
        ),
        (
            &["firmware", "check", "komfovent"],
            vec![(
                "POST /firmware/check".to_owned(),
                json!({ "family": "komfovent" }),
            )],
        ),
        (
            &["firmware", "approve", "7c7c7c7c"],
            vec![(format!("POST /firmware/{}/approve", "7c".repeat(32)), Value::Null)],
        ),
        (
            &["token", "create", "Attic tablet"],
            vec![(
                "POST /tokens".to_owned(),
                json!({ "name": "Attic tablet", "role": "viewer" }),
            )],
        ),
        (
            &["token", "revoke", "home assistant"],
            vec![("DELETE /tokens/3".to_owned(), Value::Null)],
        ),
    ] {
        let ended = run(fake.command(arguments)).await;
        // Notes go to an image that the fake does not know.
        let code = if expected.len() > 1 { Some(3) } else { Some(0) };
        assert_eq!(ended.code, code, "{arguments:?}: {ended:#?}");
        let asked = fake.take_changes();
        if arguments[..2] == ["firmware", "add"] {
            assert_eq!(asked[0].body, bytes, "the image goes as it is");
            assert_eq!(asked[0].header("content-type"), Some("application/octet-stream"));
        }
        let asked: Vec<(String, Value)> = asked.iter().map(|asked| (asked.line(), asked.json())).collect();
        assert_eq!(asked, expected, "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_is_nothing_to_do_nothing_is_asked_and_it_ends_with_2() {
    let fake = Fake::start(serve);
    for arguments in [
        &["device", "enroll", "living room ir"][..],
        &["device", "unenroll", "c0ff"],
        &["device", "pin", "c0ff", "1.0"],
        &["device", "unpin", "living room ir"],
        &["device", "skip", "a0b1c2d3e4f6", "1.9.0"],
        &["device", "unskip", "living room ir"],
        &["device", "unskip", "a0b1c2d3e4f6", "3.0"],
        &["device", "name", "a0b1c2d3e4f5", "Living Room IR"],
        &["device", "name", "c0ff", ""],
        &["device", "tag", "living room ir", "downstairs", "-upstairs"],
        &["device", "password", "c0ff", "--forget"],
        &["device", "ota", "on", "living room ir"],
        &["firmware", "approve", "2.0.0"],
    ] {
        let ended = run(fake.command(arguments)).await;
        assert_eq!(
            (ended.code, ended.stderr.as_str()),
            (Some(2), ""),
            "{arguments:?}: {ended:#?}"
        );
        assert!(!ended.stdout.is_empty(), "{arguments:?}");
        assert!(fake.take_changes().is_empty(), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_removed_without_a_yes() {
    let fake = Fake::start(serve);
    for arguments in [
        &["device", "remove", "living room ir"][..],
        &["firmware", "remove", "2.0.0"],
        &["firmware", "remove", "2.0.0", "--json"],
    ] {
        let ended = run(fake.command(arguments)).await;
        assert_eq!(ended.code, Some(64), "{ended:#?}");
        assert!((ended.stderr + &ended.stdout).contains("--yes"), "{arguments:?}");
    }
    // What the configuration lists is not the command line's to take away.
    let ended = run(fake.command(&["device", "remove", "Ventilation", "--yes"])).await;
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stderr.contains("reflash.yaml"), "{ended:#?}");
    assert!(fake.take_changes().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_quarantine_is_approved_only_by_its_digest() {
    let fake = Fake::start(serve);
    // By its name, and by so few digits that somebody could make another file to them.
    for wanted in ["C6_1_5_46_72_P1_1_1_5_48.mbin", "7c7c7c"] {
        let ended = run(fake.command(&["firmware", "approve", wanted])).await;
        assert_eq!(ended.code, Some(64), "{ended:#?}");
        assert!(ended.stderr.contains(&"7c".repeat(32)), "{ended:#?}");
    }
    assert!(fake.take_changes().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_is_written_only_where_nothing_is_and_only_as_it_was_named() {
    let bytes = b"the vendor's bytes".to_vec();
    let digest = support::sha256(&bytes);
    let fake = Fake::start(move |asked| {
        let mut feed = fleet::feed(None);
        feed.sha256 = Some(digest.clone());
        feed.filename = Some("../../.evil/C6.mbin".to_owned());
        match asked.line().as_str() {
            "POST /firmware/check" => good(&json!([feed])),
            line if line == format!("GET /firmware/{digest}/image") => Answer {
                status: 200,
                head: String::new(),
                body: bytes.clone(),
            },
            _ => problem(404, "no", None),
        }
    });
    let folder = fake.folder.path().join("out");
    std::fs::create_dir(&folder).unwrap();
    let check =
        |output: &std::path::Path| fake.command(&["firmware", "check", "--output", output.to_str().unwrap()]);
    let file = folder.join("new.mbin");
    let ended = run(check(&file)).await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"the vendor's bytes");
    let ended = run(check(&file)).await;
    assert_eq!(ended.code, Some(1), "it is not written over: {ended:#?}");
    // In a folder it gets the last part of the vendor's name, and no more of it.
    let ended = run(check(&folder)).await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(
        std::fs::read(folder.join("C6.mbin")).unwrap(),
        b"the vendor's bytes"
    );

    let lying = Fake::start(serve_other_bytes);
    let file = lying.folder.path().join("x.mbin");
    let ended = run(lying.command(&["firmware", "check", "--output", file.to_str().unwrap()])).await;
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(!file.exists());
}

fn serve_other_bytes(asked: &fake::Asked) -> Answer {
    match asked.method.as_str() {
        "POST" => good(&json!([fleet::feed(None)])),
        _ => Answer {
            status: 200,
            head: String::new(),
            body: b"other".to_vec(),
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_look_at_a_download_ends_with_1() {
    let fake = Fake::start(|_| {
        good(&json!([fleet::feed(Some(
            "the vendor's server did not answer in time"
        ))]))
    });
    let ended = run(fake.command(&["firmware", "check"])).await;
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stdout.contains("did not answer"), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_refused_ends_with_1_and_says_why() {
    let refused = serde_json::to_value(&firmware().firmware[3]).unwrap();
    let fake = Fake::start(move |_| good(&refused));
    let file = fake.file("firmware.bin", b"This is a placeholder.\n");
    let ended = run(fake.command(&["firmware", "add", file.to_str().unwrap()])).await;
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(
        ended.stdout.contains("next") && ended.stdout.contains("(text)"),
        "{ended:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_written_for_its_owner_alone_and_then_not_shown() {
    let fake = Fake::start(serve);
    let file = fake.folder.path().join("ha.token");
    let path = file.to_str().unwrap();
    for more in [&[][..], &["--json"]] {
        let _ = std::fs::remove_file(&file);
        let mut command = fake.command(&["token", "create", "ha", "--output", path]);
        command.args(more);
        let ended = run(command).await;
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        assert!(!ended.stdout.contains(TOKEN), "{ended:#?}");
        assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), TOKEN);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    fake.take();
    // A file that is there is found before a token is made that nobody would have.
    let ended = run(fake.command(&["token", "create", "ha", "--output", path])).await;
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(fake.take().is_empty());
    // And where none is made, no file is left.
    let refusing = Fake::start(|_| problem(403, "a viewer may not do that", None));
    let other = refusing.folder.path().join("other.token");
    let ended = run(refusing.command(&["token", "create", "ha", "--output", other.to_str().unwrap()])).await;
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(!other.exists());
}

// ---- What goes wrong

#[tokio::test]
async fn without_a_server_it_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["device", "list"][..],
        &["device", "show", "kitchen"],
        &["firmware", "list"],
        &["token", "list"],
    ] {
        let mut command = reflash(arguments);
        command.arg("--data").arg(folder.path());
        let ended = run(command).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:#?}");
        assert!(ended.stderr.contains("reflash serve"), "{ended:#?}");
        assert!(ended.stderr.contains("reflash.sock"), "{ended:#?}");
    }
    // A socket that nobody listens at any more.
    drop(tokio::net::UnixListener::bind(folder.path().join("reflash.sock")).unwrap());
    let mut command = reflash(["device", "list", "--json", "--data"]);
    command.arg(folder.path());
    let ended = run(command).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(1), ""), "{ended:#?}");
    assert!(
        ended.json()["next_step"]
            .as_str()
            .unwrap()
            .contains("reflash serve")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn problems_of_the_server_become_ours() {
    for (status, detail, next_step, code, hints) in [
        (
            400,
            "the body is not JSON",
            None,
            64,
            &["The body is not JSON."][..],
        ),
        (
            401,
            "this token is not known",
            Some("send `Authorization: Bearer`"),
            1,
            &["--token-file"],
        ),
        (
            403,
            "a viewer may not do that",
            None,
            1,
            &["A viewer may not do that.", "--role operator"],
        ),
        (404, "there is no device \"x\"", None, 3, &["reflash device list"]),
        (
            409,
            "a job of it is open",
            Some("wait for it"),
            1,
            &["A job of it is open.", "Wait for it."],
        ),
        (
            421,
            "this server is not called evil.example",
            None,
            1,
            &["name that its configuration lists"],
        ),
        (422, "a name is 1 to 64 characters", None, 64, &["1 to 64"]),
        (429, "too many requests", None, 1, &["Wait 7 s"]),
        (500, "the server failed at this request", None, 1, &["log"]),
    ] {
        let fake = Fake::start(move |_| {
            let mut answer = problem(status, detail, next_step);
            answer.head += "retry-after: 7\r\n";
            answer
        });
        let ended = run(fake.command(&["device", "list"])).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(code), ""),
            "{ended:#?}"
        );
        for hint in hints {
            assert!(
                ended.stderr.contains(hint),
                "{status}: no {hint:?} in {}",
                ended.stderr
            );
        }
        assert_eq!(ended.stderr.lines().count(), 2, "{ended:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_none_are_told_as_such() {
    let plain = |status: u16, head: &'static str, body: Vec<u8>| {
        Fake::start(move |_| Answer {
            status,
            head: head.to_owned(),
            body: body.clone(),
        })
    };
    for (what, fake) in [
        ("a page", plain(200, "", b"<html>A router</html>".to_vec())),
        (
            "an error page",
            plain(502, "", b"<html>Bad gateway</html>".to_vec()),
        ),
        ("nothing", plain(200, "", Vec::new())),
        ("another shape", plain(200, "", br#"[{"id": 7}]"#.to_vec())),
        ("no list", plain(200, "", br#"{"devices": []}"#.to_vec())),
        (
            "too much",
            plain(
                200,
                "",
                format!("[{}]", " ".repeat(33 * 1024 * 1024)).into_bytes(),
            ),
        ),
        (
            "a compressed one",
            plain(200, "content-encoding: gzip\r\n", b"\x1f\x8b\x08".to_vec()),
        ),
        (
            "a way elsewhere",
            plain(302, "location: http://127.0.0.1:9/\r\n", Vec::new()),
        ),
    ] {
        let ended = run(fake.command(&["device", "list"])).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(1), ""),
            "{what}: {ended:#?}"
        );
        assert!(ended.stderr.contains("next:"), "{what}: {ended:#?}");
        assert_eq!(fake.take().len(), 1, "{what}");
    }
}

// ---- Foreign text

const EVIL: &str = "x\u{1b}[2J\u{1b}]0;title\u{7}\r\nINJECTED\u{9b}31m\u{8}\u{202e}\u{200b}\u{2028}";

#[track_caller]
fn is_harmless(text: &str) {
    let odd = text
        .chars()
        .find(|c| *c != '\n' && (c.is_control() || matches!(c, '\u{200b}' | '\u{2028}' | '\u{202e}')));
    assert_eq!(odd, None, "{text:?}");
    let injected = text
        .lines()
        .find(|line| line.trim_start().starts_with("INJECTED"));
    assert_eq!(injected, None, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_from_the_network_does_more_to_a_terminal_than_show() {
    /// Puts the evil text everywhere where there is one.
    fn spoil(value: &mut Value) {
        match value {
            Value::String(text)
                if !["online", "offline", "approved", "quarantined", "refused"].contains(&text.as_str())
                    && text.parse::<std::net::IpAddr>().is_err() =>
            {
                *text = EVIL.to_owned();
            }
            Value::Array(values) => values.iter_mut().for_each(spoil),
            Value::Object(fields) => fields.values_mut().for_each(spoil),
            _ => {}
        }
    }
    let fake = Fake::start(|asked| {
        let mut answer = serve(asked);
        if let Ok(mut value) = serde_json::from_slice::<Value>(&answer.body) {
            let ids = ["id", "sha256", "role"].map(|name| (name, value.get(name).cloned()));
            spoil(&mut value);
            for (name, id) in ids {
                if let Some(id) = id {
                    value[name] = id;
                }
            }
            // One that can be named.
            if let Some(first) = value.get_mut(0).filter(|first| first.get("id").is_some()) {
                first["id"] = json!("k1");
                first["mac"] = json!("k1");
                first["role"] = json!("admin");
            }
            if let Some(first) = value.get_mut("firmware").and_then(|list| list.get_mut(0)) {
                first["sha256"] = json!("6b".repeat(32));
            }
            answer.body = value.to_string().into_bytes();
        }
        if asked.path.starts_with("/devices/k1") {
            let mut value = serde_json::to_value(&devices()[0]).unwrap();
            spoil(&mut value);
            answer = good(&value);
        }
        answer
    });
    let digest = "6b".repeat(32);
    for arguments in [
        &["device", "list"][..],
        &["device", "list", "--wide"],
        &["device", "show", "k1"],
        &["device", "name", "k1", "y"],
        &["device", "show", "nobody"],
        &["device", "enroll", "--all"],
        &["firmware", "list"],
        &["firmware", "show", &digest],
        &["firmware", "check"],
    ] {
        for more in [&[][..], &["--json"]] {
            let mut command = fake.command(arguments);
            command.args(more);
            let ended = run(command).await;
            assert!(matches!(ended.code, Some(0 | 2 | 3)), "{arguments:?}: {ended:#?}");
            is_harmless(&ended.stdout);
            is_harmless(&ended.stderr);
            if !more.is_empty() {
                ended.json();
            }
        }
    }
    // Notes have lines of their own, and nothing more.
    let ended = run(fake.command(&["firmware", "notes", &digest])).await;
    assert!(ended.stdout.contains("INJECTED"), "{ended:#?}");
    is_harmless(&ended.stdout.replace("INJECTED", ""));
    let fake = Fake::start(|_| problem(409, EVIL, Some(EVIL)));
    let ended = run(fake.command(&["device", "list"])).await;
    is_harmless(&ended.stderr);
    assert!(ended.stderr.contains("INJECTED"), "it is shown: {ended:#?}");
}

// ---- Completions and manual pages

#[tokio::test]
async fn completions_and_pages_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let ended = run(reflash(["completions", shell])).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{shell}");
        for word in ["device", "enroll", "firmware", "token-file", "completions"] {
            assert!(ended.stdout.contains(word), "{shell} does not know {word}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man/man1");
    let mut command = reflash(["man", "--output"]);
    command.arg(&pages);
    let ended = run(command).await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    for page in [
        "reflash.1",
        "reflash-device.1",
        "reflash-device-list.1",
        "reflash-push.1",
    ] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(".SH") && text.contains("Example"), "{page}");
    }
    // The shell itself has nothing against what it is given.
    let ended = run(reflash(["completions", "bash"])).await;
    let file = folder.path().join("reflash.bash");
    std::fs::write(&file, ended.stdout).unwrap();
    let checked = std::process::Command::new("bash").arg("-n").arg(&file).output();
    if let Ok(checked) = checked {
        assert!(checked.status.success(), "{checked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_cannot_be_written_ends_with_1_and_says_so() {
    let fake = Fake::start(serve);
    for (arguments, code) in [
        (&["device", "list"][..], 1),
        (&["device", "list", "--json"], 1),
        (&["device", "show", "nobody", "--json"], 3),
        (&["--help"], 1),
    ] {
        let mut command = match arguments {
            ["--help"] => reflash(arguments),
            _ => fake.command(arguments),
        };
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        command.stdout(full).stderr(std::process::Stdio::piped());
        let ended = tokio::task::spawn_blocking(move || command.output().unwrap());
        let ended = ended.await.unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(
            said.contains("could not be written: No space left") && said.contains("next:"),
            "{arguments:?}: {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_left_out_are_named_or_counted() {
    for (n_files, last) in [(5, "4.bin is odd."), (6, "  and 1 more"), (10, "  and 5 more")] {
        let mut list = firmware();
        let folder = list.folder.as_mut().unwrap();
        folder.ignored = (0..n_files)
            .map(|n| server::views::NoteView {
                rule: "odd-name".to_owned(),
                text: format!("{n}.bin is odd."),
            })
            .collect();
        let list = serde_json::to_value(list).unwrap();
        let fake = Fake::start(move |_| good(&list));
        let ended = run(fake.command(&["firmware", "list"])).await;
        assert_eq!(ended.stdout.matches("is odd").count(), 5, "{ended:#?}");
        assert!(ended.stdout.trim_end().ends_with(last), "{ended:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_standard_output_stops_no_change() {
    let fake = Fake::start(|asked| match asked.method.as_str() {
        "GET" => serve(asked),
        _ => nothing(),
    });
    let mut command = fake.command(&["device", "unenroll", "living room ir"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = command.stdout(writer).spawn().unwrap();
    let code = tokio::task::spawn_blocking(move || child.wait().unwrap().code());
    assert_eq!(code.await.unwrap(), Some(0));
    assert_eq!(fake.take_changes().len(), 1);
}
