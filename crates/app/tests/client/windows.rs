//! Windows and schedules: what is asked of the server, and what people read.

use insta::assert_snapshot;
use serde_json::{Value, json};
use server::views::{RolloutView, ScheduleView, WindowView};

use crate::fake::{Answer, Asked, Fake, good, nothing, problem};
use crate::fleet::ago_ms;
use crate::support::{Ended, run};
use crate::{settings, words};

const FILE: &str = "/etc/reflash/reflash.yaml";

fn origin(file: bool, key: &str) -> Value {
    json!({
        "kept_in": if file { "configuration" } else { "api" },
        "file": file.then_some(FILE), "key": key,
    })
}

fn window(name: &str, file: bool) -> Value {
    let view = json!({
        "name": name, "opens": "02:00 on Monday, Tuesday, Wednesday, Thursday and Friday (Europe/Vilnius) for 3 hours",
        "start": "02:00", "days": ["mon", "tue", "wed", "thu", "fri"], "timezone": "Europe/Vilnius", "duration_s": 10_800,
        "open_until_ms": null, "open_until_local": null, "next_ms": 1_795_392_000_000_i64,
        "next_local": "2026-11-23T02:00:00+02:00[Europe/Vilnius]", "origin": origin(file, &format!("windows.{name}")),
        "schedules": ["nightly", "upstairs"], "rollouts": [7], "trouble": null,
    });
    serde_json::to_value(serde_json::from_value::<WindowView>(view).unwrap()).unwrap()
}

fn windows() -> Vec<Value> {
    let mut open = window("a-window-with-a-name-that-is-rather-long-for-a-table", false);
    open["open_until_ms"] = json!(1);
    open["open_until_local"] = json!("2026-11-22T14:30:00+00:00[America/Argentina/ComodRivadavia]");
    open["timezone"] = json!("America/Argentina/ComodRivadavia");
    open["days"] = json!(["mon", "wed", "sun"]);
    open["schedules"] = json!([]);
    open["rollouts"] = json!([]);
    let mut early = window("early", false);
    early["trouble"] = json!({
        "rule": "clock", "text": "The server's clock shows a time that has passed, so no window opens and no schedule runs.",
        "next_step": "Set the clock, or let a time server set it.",
    });
    vec![open, early, window("night", true)]
}

fn schedule(name: &str, last: &Value) -> Value {
    let view = json!({
        "name": name, "cron": "55 1 * * mon-fri", "timezone": "Europe/Vilnius", "own_timezone": null, "window": "night",
        "what": "newest-approved", "tags": [], "next_ms": 1_795_391_700_000_i64,
        "next_local": "2026-11-23T01:55:00+02:00[Europe/Vilnius]", "begins_ms": 1_795_392_000_000_i64,
        "begins_local": "2026-11-23T02:00:00+02:00[Europe/Vilnius]", "last": last, "trouble": null,
        "origin": origin(name == "nightly", &format!("schedules.{name}")),
    });
    serde_json::to_value(serde_json::from_value::<ScheduleView>(view).unwrap()).unwrap()
}

fn last(did: &str, rollout: Option<i64>, text: &str) -> Value {
    json!({
        "at_ms": ago_ms(3_600 * 5), "at_local": "2026-11-20T01:55:00+02:00[Europe/Vilnius]", "due": "2026-11-20T01:55",
        "did": did, "rollout": rollout, "text": text, "by": null,
    })
}

fn schedules() -> Vec<Value> {
    let idle = last(
        "nothing",
        None,
        "Nothing is to be done: none of 12 devices would be updated (11 already-current, 1 offline)",
    );
    let mut upstairs = schedule(
        "upstairs",
        &last("rollout", Some(7), "It made rollout 7 for 3 devices."),
    );
    upstairs["tags"] = json!(["upstairs", "attic"]);
    upstairs["window"] = Value::Null;
    upstairs["begins_ms"] = upstairs["next_ms"].clone();
    let mut weekly = schedule("weekly", &Value::Null);
    weekly["trouble"] = json!({
        "rule": "window", "text": "There is no window night, so it begins nothing.",
        "next_step": "Make one: reflash window set night, or change the schedule.",
    });
    vec![schedule("nightly", &idle), upstairs, weekly]
}

fn made_rollout() -> Value {
    let view = json!({
        "id": 7, "name": "nightly", "kind": "update", "state": "scheduled", "cause": null, "firmware": ["2.0.0"],
        "created_ms": ago_ms(5), "created_by": "schedule nightly", "ended_ms": null, "opens_ms": 1_795_392_000_000_i64,
        "wave": 0, "n_waves": 1, "counts": { "waiting": 1 }, "n_devices": 1, "ok": null,
        "rules": { "canary": 1, "canary_soak_s": 600, "soak_s": 120, "at_once": "auto", "max_failures": "2",
                   "when_back_until_ms": null, "window": "night" },
        "window": { "name": "night", "opens": "02:00 on every day (Europe/Vilnius) for 3 hours", "open_until_ms": null,
                    "open_until_local": null, "next_ms": 1_795_392_000_000_i64,
                    "next_local": "2026-11-23T02:00:00+02:00[Europe/Vilnius]" },
        "held": { "rule": "window", "text": "The window night is closed; it opens at 02:00 on Monday, 23 November.",
                  "next_step": "Wait for it, or abort this and begin one without a window." },
        "n_at_once": 1, "left_out": [],
        "members": [{
            "device": "a0b1c2d3e4f5", "name": "Living Room IR", "wave": 0, "runs": "1.4.2", "sha256": "6b".repeat(32),
            "firmware": "2.0.0", "state": "waiting", "percent": null, "reason": "window",
            "text": "It waits for the window night, which opens at 02:00 on every day.", "next_step": null, "job": null,
            "n_tries": 0, "n_pushes": 0,
        }],
    });
    serde_json::to_value(serde_json::from_value::<RolloutView>(view).unwrap()).unwrap()
}

fn serve(asked: &Asked) -> Answer {
    let path: Vec<&str> = asked.path.split('/').skip(1).collect();
    let one = |all: Vec<Value>, name: &str| match all.into_iter().find(|one| one["name"] == name) {
        Some(one) => good(&one),
        None => problem(404, &format!("There is no such thing {name:?}."), None),
    };
    match (asked.method.as_str(), &path[..]) {
        ("GET", ["windows"]) => good(&json!(windows())),
        ("GET", ["schedules"]) => good(&json!(schedules())),
        ("GET", ["windows", name]) => one(windows(), name),
        ("GET", ["schedules", name]) => one(schedules(), name),
        ("PUT", ["windows", "night"]) => problem(
            409,
            "The window night stands in the configuration, as windows.night in /etc/reflash/reflash.yaml.",
            Some("Change it there, and let the server read it again: systemctl reload reflash."),
        ),
        ("PUT", ["windows", name]) => good(&window(name, false)),
        ("PUT", ["schedules", name]) => good(&schedule(name, &Value::Null)),
        ("DELETE", [_, "nigth"]) => problem(404, "There is no window \"nigth\".", None),
        ("DELETE", _) => nothing(),
        ("POST", ["schedules", "nightly", "run"]) => {
            let mut answer = good(&made_rollout());
            answer.status = 201;
            answer
        }
        ("POST", ["schedules", "upstairs", "run"]) => {
            let mut answer = problem(
                422,
                "Nothing is to be done: no device is meant",
                Some("look at the plan"),
            );
            let document = String::from_utf8(answer.body).unwrap();
            answer.body = document
                .replace("problem:test", "problem:nothing-to-do")
                .into_bytes();
            answer
        }
        ("GET", ["rollouts", "7"]) => good(&made_rollout()),
        _ => problem(404, "there is no such route", None),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_read_of_windows_and_schedules() {
    let fake = Fake::start(serve);
    for (name, arguments) in [
        ("window_list", &["window", "list"][..]),
        ("window_show", &["window", "show", "night"]),
        ("window_show_trouble", &["window", "show", "early"]),
        ("window_set", &["window", "set", "early", "--days", "sat,sun"]),
        ("window_remove", &["window", "remove", "early"]),
        ("schedule_list", &["schedule", "list"]),
        ("schedule_show", &["schedule", "show", "nightly"]),
        ("schedule_show_tags", &["schedule", "show", "upstairs"]),
        ("schedule_show_trouble", &["schedule", "show", "weekly"]),
        (
            "schedule_set",
            &[
                "schedule",
                "set",
                "new",
                "--cron",
                "1 2 * * *",
                "--window",
                "night",
            ],
        ),
        ("schedule_remove", &["schedule", "remove", "upstairs"]),
        ("schedule_run_now", &["schedule", "run-now", "nightly"]),
        ("rollout_show_window", &["rollout", "show", "7"]),
    ] {
        let ended = run(fake.command(arguments)).await;
        settings().bind(|| assert_snapshot!(name, words(&ended)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_said_stays_as_it_was() {
    let fake = Fake::start(serve);
    let asked = async |arguments: &[&str]| {
        let ended = run(fake.command(arguments)).await;
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        fake.take().pop().unwrap().json()
    };
    assert_eq!(
        asked(&["window", "set", "early", "--duration", "4h"]).await,
        json!({ "start": "02:00", "duration": "4h", "days": ["mon", "tue", "wed", "thu", "fri"], "timezone": "Europe/Vilnius" })
    );
    assert_eq!(
        asked(&[
            "window",
            "set",
            "early",
            "--days",
            "all",
            "--start",
            "03:00",
            "--timezone",
            "UTC"
        ])
        .await,
        json!({ "start": "03:00", "duration": 10_800, "timezone": "UTC" })
    );
    assert_eq!(
        asked(&["window", "set", "new", "--start", "03:00", "--duration", "1h"]).await,
        json!({ "start": "03:00", "duration": "1h" })
    );
    let upstairs =
        json!({ "cron": "1 2 * * *", "window": null, "tags": ["upstairs", "attic"], "timezone": null });
    assert_eq!(
        asked(&["schedule", "set", "upstairs", "--cron", "1 2 * * *"]).await,
        upstairs
    );
    assert_eq!(
        asked(&[
            "schedule",
            "set",
            "nightly",
            "--at-any-time",
            "--tag",
            "a",
            "--tag",
            "b"
        ])
        .await,
        json!({ "cron": "55 1 * * mon-fri", "window": null, "tags": ["a", "b"], "timezone": null })
    );
    assert_eq!(
        asked(&[
            "schedule",
            "set",
            "upstairs",
            "--all-devices",
            "--window",
            "night",
            "--timezone",
            "UTC"
        ])
        .await,
        json!({ "cron": "55 1 * * mon-fri", "window": "night", "tags": [], "timezone": "UTC" })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_with_windows_is_told_with_a_next_step() {
    #[track_caller]
    fn check(ended: &Ended, code: i32, words: &[&str]) {
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(code), ""),
            "{ended:#?}"
        );
        for word in words.iter().chain(&["next: "]) {
            assert!(ended.stderr.contains(word), "{word}: {ended:#?}");
        }
    }
    let fake = Fake::start(serve);
    let cases: [(&[&str], i32, &[&str]); 7] = [
        (
            &["window", "set", "night", "--start", "03:00"],
            1,
            &["windows.night", FILE, "systemctl reload"],
        ),
        (
            &["window", "set", "new", "--start", "03:00"],
            64,
            &["--duration 3h"],
        ),
        (&["schedule", "set", "new", "--window", "night"], 64, &["--cron"]),
        (&["window", "show", "nigth"], 3, &["Perhaps you mean night"]),
        (&["window", "remove", "nigth"], 3, &["Perhaps you mean night"]),
        (&["schedule", "run-now", "xxxxxx"], 3, &["reflash schedule list"]),
        (&["schedule", "run-now", "upstairs"], 2, &["no device is meant"]),
    ];
    for (arguments, code, words) in cases {
        let ended = run(fake.command(arguments)).await;
        check(&ended, code, words);
    }
    // In JSON as well.
    let ended = run(fake.command(&["window", "show", "nigth", "--json"])).await;
    assert_eq!(ended.code, Some(3), "{ended:#?}");
    let told: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert!(told["next_step"].as_str().unwrap().contains("night"), "{told}");
    let ended = run(fake.command(&["window", "list", "--json"])).await;
    assert_eq!(
        serde_json::from_str::<Value>(&ended.stdout).unwrap(),
        json!(windows())
    );
}
