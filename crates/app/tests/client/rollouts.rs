//! Plans, rollouts, jobs and history: what is asked of the server, what is said, and how a rollout is watched.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use insta::assert_snapshot;
use serde_json::{Value, json};
use server::views::{JobDetailView, JobView, PlanView, RolloutSummaryView, RolloutView, StatsView};

use crate::fake::{Answer, Asked, Fake, good, problem};
use crate::fleet::{self, ago_ms};
use crate::support::{Ended, Running, reflash, run};
use crate::{is_harmless, settings, words};

const LONG_NAME: &str = "居間のリモコンでとても長い名前のもの";

/// What is told in JSON is what the server's types say.
fn as_view<T: serde::Serialize + serde::de::DeserializeOwned>(value: Value) -> Value {
    let view: T = serde_json::from_value(value).unwrap();
    serde_json::to_value(view).unwrap()
}

fn rules() -> Value {
    json!({
        "canary": 1, "canary_soak_s": 600, "soak_s": 120, "at_once": "auto", "max_failures": "2",
        "when_back_until_ms": null,
    })
}

fn planned(device: &str, name: &str, wave: u32) -> Value {
    json!({
        "device": device, "name": name, "runs": "1.4.2", "sha256": "6b".repeat(32), "firmware": "2.0.0", "wave": wave,
        "methods": ["espota", "http"], "estimate_s": 95, "waits_until_back": false, "way_back": "5a".repeat(32),
        "interrupts": null, "notes": [],
    })
}

fn plan() -> Value {
    let mut kitchen = planned("a0b1c2d3e4f6", LONG_NAME, 1);
    kitchen["waits_until_back"] = json!(true);
    kitchen["way_back"] = Value::Null;
    let mut unit = planned("komfovent--192-168-1-60", "Ventilation", 1);
    unit["runs"] = json!("C6 1.3.44.70 / P 1.1.5.46");
    unit["firmware"] = json!("1.5.46.72 / P 1.1.5.48");
    unit["estimate_s"] = json!(400);
    unit["interrupts"] = json!("Ventilation pauses about 3 minutes.");
    unit["notes"] = json!([{ "rule": "identity-weak", "text": "Its identity is only its address." }]);
    let reason = json!({
        "rule": "not-enrolled", "text": "It is not enrolled.", "next_step": "Enrol it: reflash device enroll c0ffee000001.",
    });
    as_view::<PlanView>(json!({
        "kind": "update",
        "members": [planned("a0b1c2d3e4f5", "Living Room IR", 0), kitchen, unit],
        "left_out": [
            { "device": "c0ffee000001", "name": "IR Remote Mini 000001", "reason": reason },
            { "device": "c0ffee000002", "name": "IR Remote Mini 000002", "reason": reason },
        ],
        "n_waves": 2, "rules": rules(), "estimate_s": 1800,
        "sentences": [
            "Living Room IR goes first and is watched for 10 minutes.",
            "Then 2 devices follow, as many at once as the network takes; all of it takes about 30 minutes.",
            "Ventilation: Ventilation pauses about 3 minutes.",
            "IR Remote Mini 000001 and IR Remote Mini 000002 are left out: They are not enrolled. Enrol them.",
        ],
    }))
}

fn nothing_planned() -> Value {
    let mut plan = plan();
    plan["members"] = json!([]);
    plan["left_out"] = json!([{
        "device": "a0b1c2d3e4f5", "name": "Living Room IR",
        "reason": { "rule": "already-current", "text": "It runs 2.0.0 already.", "next_step": "" },
    }]);
    plan["sentences"] = json!(["Nothing would be updated."]);
    plan
}

fn member(device: &str, name: &str, wave: u32, state: &str) -> Value {
    json!({
        "device": device, "name": name, "wave": wave, "runs": "1.4.2", "sha256": "6b".repeat(32), "firmware": "2.0.0",
        "state": state, "percent": null, "reason": null, "text": null, "next_step": null, "job": null, "n_tries": 0,
        "n_pushes": 0,
    })
}

#[expect(clippy::needless_pass_by_value, reason = "callers write it down in place")]
fn rollout(id: i64, state: &str, members: Value) -> Value {
    let mut counts = serde_json::Map::new();
    for member in members.as_array().unwrap() {
        let n = counts
            .entry(member["state"].as_str().unwrap())
            .or_insert(json!(0));
        *n = json!(n.as_u64().unwrap() + 1);
    }
    let is_over = matches!(state, "finished" | "aborted");
    as_view::<RolloutView>(json!({
        "id": id, "name": "weekly", "kind": "update", "state": state, "cause": null, "firmware": ["2.0.0"],
        "created_ms": ago_ms(600), "created_by": "local user 0", "ended_ms": is_over.then(|| ago_ms(5)), "wave": 0,
        "n_waves": 2, "counts": counts, "n_devices": members.as_array().unwrap().len(), "ok": null, "rules": rules(),
        "n_at_once": 4, "members": members, "left_out": [],
    }))
}

/// One of each: proven, failed, going on, waiting.
fn in_the_middle() -> Value {
    let mut good = member("a0b1c2d3e4f5", "Living Room IR", 0, "updated");
    good["job"] = json!(41);
    let mut failed = member("a0b1c2d3e4f6", LONG_NAME, 1, "failed");
    failed["job"] = json!(42);
    failed["reason"] = json!("no answer");
    failed["text"] = json!("It did not answer the invitation within 10 s, so nothing was sent to it.");
    failed["next_step"] = json!("Look whether it is switched on: reflash device show a0b1c2d3e4f6.");
    let mut uploading = member("komfovent--192-168-1-60", "Ventilation", 1, "uploading");
    uploading["percent"] = json!(62);
    uploading["job"] = json!(43);
    let mut waiting = member("c0ffee000001", "Attic", 1, "waiting");
    waiting["text"] = json!("It is tried again in 30 s.");
    let mut rollout = rollout(7, "running", json!([good, failed, uploading, waiting]));
    rollout["wave"] = json!(1);
    rollout
}

fn halted() -> Value {
    let mut rollout = in_the_middle();
    rollout["state"] = json!("halted");
    rollout["cause"] = json!({
        "rule": "failures", "text": "2 devices did not succeed: Kitchen, Ventilation.",
        "next_step": "Look at what they have in common: reflash rollout show 7.",
    });
    rollout["members"][2]["state"] = json!("kept-old");
    rollout["members"][2]["percent"] = Value::Null;
    rollout["members"][2]["reason"] = json!("upload cut");
    rollout["members"][2]["text"] = json!("The upload broke off at 62 %; it still runs what it ran.");
    rollout["members"][3]["state"] = json!("queued");
    rollout["members"][3]["text"] = Value::Null;
    rollout["left_out"] = plan()["left_out"].clone();
    as_view::<RolloutView>(rollout)
}

fn job_view(id: i64, state: &str) -> Value {
    as_view::<JobView>(json!({
        "id": id, "device": "a0b1c2d3e4f5", "name": "Living Room IR", "rollout": 7, "sha256": "6b".repeat(32),
        "firmware": "2.0.0", "state": state, "reason": null, "text": "It runs 2.0.0.", "next_step": null,
        "started_ms": ago_ms(500), "ended_ms": ago_ms(380),
    }))
}

fn job(id: i64, state: &str) -> Value {
    let mut job = job_view(id, state);
    let started_ms = job["started_ms"].as_i64().unwrap();
    job["method"] = json!("espota");
    job["n_pushes"] = json!(1);
    job["evidence"] = json!({
        "sha256": "6b".repeat(32), "len_bytes": 1_251_632, "verdict": "OK", "away_s": 4.2, "uptime_before_s": 86_400,
        "uptime_after_s": 3, "version_before": "1.4.2", "version_after": "2.0.0", "identity_before": "a0b1c2d3e4f5",
        "identity_after": "a0b1c2d3e4f5", "push_s": 21.5, "watched_s": 120.0,
    });
    job["events"] = json!([
        { "seq": 1, "at_ms": started_ms, "step": "begun", "attempt": 0 },
        { "seq": 2, "at_ms": started_ms + 1_500, "step": "push", "attempt": 1 },
    ]);
    as_view::<JobDetailView>(job)
}

fn history() -> Value {
    let mut by_hand = job_view(40, "kept-old");
    by_hand["rollout"] = Value::Null;
    by_hand["firmware"] = Value::Null;
    by_hand["name"] = json!(LONG_NAME);
    by_hand["reason"] = json!("upload cut");
    json!([
        job_view(41, "updated"),
        by_hand,
        job_view(39, "updated-label-unchanged")
    ])
}

fn summaries() -> Value {
    let summary = |rollout: Value| as_view::<RolloutSummaryView>(rollout);
    let mut aborted = rollout(
        5,
        "aborted",
        json!([member("a", "A", 0, "cancelled"), member("b", "B", 0, "updated")]),
    );
    aborted["name"] = Value::Null;
    aborted["kind"] = json!("rollback");
    json!([
        summary(in_the_middle()),
        summary(rollout(6, "finished", json!([member("a", "A", 0, "updated")]))),
        summary(aborted),
    ])
}

fn serve(asked: &Asked) -> Answer {
    let path = asked.path.split('?').next().unwrap_or_default();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match (asked.method.as_str(), &segments[..]) {
        ("POST", ["plans"]) => good(&plan()),
        ("POST", ["rollouts"]) => good(&rollout(
            7,
            "running",
            json!([member("a0b1c2d3e4f5", "Living Room IR", 0, "queued")]),
        )),
        ("GET", ["rollouts"]) => good(&summaries()),
        ("GET", ["rollouts", "8"]) => good(&halted()),
        ("POST", ["rollouts", "stop"]) => good(&json!([summaries()[0]])),
        ("POST", ["rollouts", "7", "pause"]) => {
            let mut paused = in_the_middle();
            paused["state"] = json!("paused");
            good(&paused)
        }
        ("POST", ["rollouts", "7", "abort"]) => {
            let mut aborted = in_the_middle();
            aborted["state"] = json!("aborted");
            aborted["members"][3]["state"] = json!("cancelled");
            good(&aborted)
        }
        ("GET", ["rollouts", "7"]) | ("POST", ["rollouts", "7", ..]) => good(&in_the_middle()),
        ("GET" | "POST", ["jobs", id @ ("41" | "42" | "43"), ..]) => {
            good(&job(id.parse().unwrap(), "updated"))
        }
        ("GET", ["history"]) => good(&history()),
        ("GET", ["stats"]) => good(&as_view::<StatsView>(json!({
            "since_ms": 0,
            "outcomes": { "updated": 1_240, "failed": 3, "updated-label-unchanged": 12 },
            "success_percent": 99.76, "reasons": { "no answer": 2, "boot loop": 1 },
            "running": { "2.0.0": 12, "1.4.2": 2 }, "n_enrolled": 14, "n_current": 12,
        }))),
        ("GET", ["audit", "check"]) => good(&json!({ "n_rows": 1_234, "broken_at": null })),
        ("GET" | "POST", ["rollouts" | "jobs", ..]) => problem(404, "there is no such thing", None),
        _ => fleet::serve(asked),
    }
}

// ---- What people read

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_read_of_rollouts() {
    let fake = Fake::start(serve);
    for (name, arguments) in [
        ("plan", &["plan", "--all"][..]),
        ("rollout_list", &["rollout", "list"]),
        ("rollout_show", &["rollout", "show", "7"]),
        ("rollout_show_halted", &["rollout", "show", "8"]),
        ("rollout_pause", &["rollout", "pause", "7"]),
        ("rollout_abort", &["rollout", "abort"]),
        ("rollout_stop", &["rollout", "stop"]),
        ("job_show", &["job", "show", "41"]),
        ("history", &["history"]),
        ("stats", &["stats"]),
        ("audit_verify", &["audit", "verify"]),
    ] {
        let ended = run(fake.command(arguments)).await;
        settings().bind(|| assert_snapshot!(name, words(&ended)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_of_rollouts_is_what_the_server_said() {
    let fake = Fake::start(serve);
    for (arguments, field, expected) in [
        (&["plan", "--all"][..], "/members/0/name", "Living Room IR"),
        (&["rollout", "list"], "/0/name", "weekly"),
        (&["rollout", "show"], "/members/2/state", "uploading"),
        (&["job", "show", "41"], "/evidence/verdict", "OK"),
        (&["history"], "/1/reason", "upload cut"),
        (&["update", "kitchen-nobody"], "/error", ""),
    ] {
        let mut command = fake.command(arguments);
        command.arg("--json");
        let ended = run(command).await;
        assert_eq!(ended.stderr, "", "{ended:#?}");
        let said = ended.json();
        let found = said.pointer(field).and_then(Value::as_str);
        assert!(found.is_some_and(|found| found.contains(expected)), "{said:#}");
    }
}

// ---- What is asked

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "it is one table")]
async fn each_command_about_rollouts_asks_for_just_what_it_says() {
    let fake = Fake::start(serve);
    let options: Vec<&str> = ["plan", "living room ir"]
        .into_iter()
        .chain(
            "A0:B1:C2:D3:E4:F6 --exclude ventilation --tag up --tag down --firmware 2.0.0 --force --canary 2 \
            --at-once 8 --max-failures 5% --soak 1.5s --canary-soak 10m --when-back 7d --window night --allow downgrade --yes"
                .split_whitespace(),
        )
        .collect();
    for (arguments, expected) in [
        (
            &options[..],
            vec![(
                "POST /plans",
                json!({
                    "devices": ["a0b1c2d3e4f5", "a0b1c2d3e4f6"], "exclude": ["komfovent--192-168-1-60"],
                    "tags": ["up", "down"], "kind": "update", "firmware": "2.0.0", "force": true, "yes": true,
                    "allow": ["downgrade"], "canary": 2, "at_once": "8", "max_failures": "5%", "soak_s": 2,
                    "canary_soak_s": 600, "when_back_s": 604_800, "window": "night",
                }),
            )],
        ),
        (
            &["plan", "--tag", "upstairs"],
            vec![(
                "POST /plans",
                json!({ "all": true, "tags": ["upstairs"], "kind": "update" }),
            )],
        ),
        (
            &["update", "--all", "--yes", "--detach", "--name", "weekly"],
            vec![
                (
                    "POST /plans",
                    json!({ "all": true, "kind": "update", "yes": true, "name": "weekly" }),
                ),
                (
                    "POST /rollouts",
                    json!({ "all": true, "kind": "update", "yes": true, "name": "weekly" }),
                ),
            ],
        ),
        (
            &["update", "--all", "--dry-run"],
            vec![("POST /plans", json!({ "all": true, "kind": "update" }))],
        ),
        (
            &["rollback", "living room ir", "--to", "1.0", "--yes", "--detach"],
            vec![
                (
                    "POST /plans",
                    json!({ "devices": ["a0b1c2d3e4f5"], "kind": "rollback", "firmware": "1.0", "yes": true }),
                ),
                (
                    "POST /rollouts",
                    json!({ "devices": ["a0b1c2d3e4f5"], "kind": "rollback", "firmware": "1.0", "yes": true }),
                ),
            ],
        ),
        (
            &["rollout", "pause"],
            vec![("POST /rollouts/7/pause", Value::Null)],
        ),
        (
            &["rollout", "resume", "7"],
            vec![("POST /rollouts/7/resume", Value::Null)],
        ),
        (
            &["rollout", "abort", "7", "--force"],
            vec![("POST /rollouts/7/abort", json!({ "force": true }))],
        ),
        (
            &["rollout", "abort"],
            vec![("POST /rollouts/7/abort", json!({ "force": false }))],
        ),
        (
            &["rollout", "cancel", "ventilation"],
            vec![(
                "POST /rollouts/7/devices/komfovent--192-168-1-60/cancel",
                Value::Null,
            )],
        ),
        (&["rollout", "stop"], vec![("POST /rollouts/stop", Value::Null)]),
        (
            &["job", "cancel", "41"],
            vec![("POST /jobs/41/cancel", Value::Null)],
        ),
    ] {
        let ended = run(fake.command(arguments)).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:#?}");
        let asked: Vec<(String, Value)> = fake
            .take_changes()
            .iter()
            .map(|asked| (asked.line(), asked.json()))
            .collect();
        let expected: Vec<(String, Value)> = expected
            .into_iter()
            .map(|(line, body)| (line.to_owned(), body))
            .collect();
        assert_eq!(asked, expected, "{arguments:?}");
    }
    let ended = run(fake.command(&[
        "history",
        "--device",
        "Living Room IR",
        "--limit",
        "5",
        "--before",
        "40",
    ]))
    .await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let last = fake.take().pop().unwrap();
    assert_eq!(last.path, "/history?device=a0b1c2d3e4f5&limit=5&before=40");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_is_asked_for_with_a_key_and_again_with_the_same() {
    let n_asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&n_asked);
    let fake = Fake::start(move |asked| {
        if asked.line() == "POST /rollouts" && counter.fetch_add(1, Ordering::SeqCst) == 0 {
            return problem(503, "the server is ending", None);
        }
        serve(asked)
    });
    let ended = run(fake.command(&["update", "--all", "--yes", "--detach"])).await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let keys: Vec<String> = fake
        .take_changes()
        .iter()
        .filter(|asked| asked.line() == "POST /rollouts")
        .map(|asked| asked.header("idempotency-key").unwrap().to_owned())
        .collect();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0], keys[1]);
    let ended = run(fake.command(&["update", "--all", "--yes", "--detach"])).await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let again = fake.take_changes().pop().unwrap();
    assert_ne!(again.header("idempotency-key").unwrap(), keys[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_devices_are_not_updated_without_a_yes() {
    let fake = Fake::start(serve);
    for more in [&[][..], &["--json"]] {
        let mut command = fake.command(&["update", "--all", "--detach"]);
        command.args(more);
        let ended = run(command).await;
        assert_eq!(ended.code, Some(64), "{ended:#?}");
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(said.contains("Update 3 devices in 2 waves?"), "{said}");
        assert!(said.contains("--yes"), "{said}");
        if more.is_empty() {
            assert!(said.contains("Living Room IR"), "the plan comes first: {said}");
        } else {
            ended.json();
        }
    }
    let asked: Vec<String> = fake.take_changes().iter().map(Asked::line).collect();
    assert_eq!(asked, ["POST /plans", "POST /plans"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_to_do_ends_with_2_and_begins_nothing() {
    let fake = Fake::start(|asked| match asked.line().as_str() {
        "POST /plans" => good(&nothing_planned()),
        "POST /rollouts/stop" | "GET /rollouts?limit=20" => good(&json!([])),
        _ => serve(asked),
    });
    for arguments in [
        &["plan", "living room ir"][..],
        &["update", "living room ir"],
        &["update", "--all", "--yes"],
        &["rollback", "living room ir", "--dry-run"],
        &["rollout", "stop"],
    ] {
        for more in [&[][..], &["--json"]] {
            let mut command = fake.command(arguments);
            command.args(more);
            let ended = run(command).await;
            assert_eq!((ended.code, ended.stderr.as_str()), (Some(2), ""), "{ended:#?}");
            if more.is_empty() {
                assert!(!ended.stdout.is_empty());
            } else {
                ended.json();
            }
        }
    }
    let asked: Vec<String> = fake.take_changes().iter().map(Asked::line).collect();
    assert!(!asked.contains(&"POST /rollouts".to_owned()), "{asked:?}");
    let ended = run(fake.command(&["plan", "living room ir"])).await;
    settings().bind(|| assert_snapshot!("plan_nothing", ended.stdout));
    let ended = run(fake.command(&["rollout", "list"])).await;
    assert!(words(&ended).contains("reflash plan --all"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_devices_rollouts_and_jobs_end_with_3() {
    let fake = Fake::start(serve);
    for (arguments, hint) in [
        (&["plan", "Livingroom IR"][..], "Living Room IR"),
        (&["update", "living room ir", "nobody"], "reflash device list"),
        (&["update", "--all", "--exclude", "a0b1", "--yes"], "a0b1c2d3e4f5"),
        (&["rollback", "nobody"], "reflash device list"),
        (&["rollout", "show", "99"], "reflash rollout list"),
        (&["rollout", "watch", "99"], "reflash rollout list"),
        (&["rollout", "pause", "99"], "reflash rollout list"),
        (&["rollout", "cancel", "nobody", "7"], "reflash device list"),
        (&["job", "show", "99"], "reflash history"),
        (&["history", "--device", "nobody"], "reflash device list"),
    ] {
        for json in [false, true] {
            let mut command = fake.command(arguments);
            command.args(json.then_some("--json"));
            let ended = run(command).await;
            assert_eq!(ended.code, Some(3), "{arguments:?}: {ended:#?}");
            let said = if json {
                ended.json()["next_step"].to_string()
            } else {
                ended.stderr.clone()
            };
            assert!(said.contains(hint), "{arguments:?}: no {hint:?} in {said}");
        }
    }
    assert!(
        fake.take_changes()
            .iter()
            .all(|asked| asked.path.starts_with("/rollouts/99"))
    );
    // Which one, if several are open or none is?
    for (ids, hint) in [(&[][..], "No rollout is open"), (&[3, 4], "2 rollouts are open")] {
        let open: Vec<Value> = ids
            .iter()
            .map(|id| as_view::<RolloutSummaryView>(rollout(*id, "paused", json!([]))))
            .collect();
        let fake = Fake::start(move |asked| match asked.path.split('?').next() {
            Some("/rollouts") => good(&json!(open)),
            _ => serve(asked),
        });
        let ended = run(fake.command(&["rollout", "abort"])).await;
        assert_eq!(ended.code, Some(3), "{ended:#?}");
        assert!(ended.stderr.contains(hint), "{ended:#?}");
        assert!(fake.take_changes().is_empty());
    }
}

#[tokio::test]
async fn wrong_words_about_rollouts_end_with_64() {
    for (arguments, hint) in [
        ("plan", "<DEVICE"),
        ("update", "<DEVICE"),
        ("update kitchen --all", "cannot be used with"),
        ("update --all --at-once 0", "auto"),
        ("update --all --at-once many", "auto"),
        ("update --all --max-failures 101%", "5%"),
        ("update --all --max-failures few", "5%"),
        ("update --all --when-back soon", "12h"),
        ("update --all --soak 2d", "write 10s"),
        ("update --all --canary some", "canary"),
        ("update --all --allow wrong-chip", "never"),
        ("update --all --dry-run --detach", "cannot be used with"),
        ("rollback", "<DEVICE>"),
        ("rollback --all", "--all"),
        ("rollout", "reflash rollout"),
        ("rollout show seven", "seven"),
        ("rollout pause 0", "0"),
        ("rollout list --limit 0", "0"),
        ("rollout cancel", "<DEVICE>"),
        ("job show", "<ID>"),
        ("history --limit x", "x"),
        ("stats --since 30", "7d"),
        ("audit", "reflash audit"),
    ] {
        let ended = run(reflash(arguments.split_whitespace())).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(64), ""),
            "{arguments}: {ended:#?}"
        );
        assert!(
            ended.stderr.contains(hint),
            "{arguments}: no {hint:?} in {ended:#?}"
        );
        let ended = run(reflash(arguments.split_whitespace().chain(["--json"]))).await;
        assert_eq!(
            (ended.code, ended.stderr.as_str()),
            (Some(64), ""),
            "{arguments}: {ended:#?}"
        );
        assert!(ended.json()["next_step"].is_string(), "{arguments}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_audit_ends_with_1() {
    let fake = Fake::start(|_| good(&json!({ "n_rows": 12, "broken_at": 13 })));
    let ended = run(fake.command(&["audit", "verify"])).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(1), ""), "{ended:#?}");
    assert!(ended.stdout.contains("Entry 13"), "{ended:#?}");
}

// ---- Watching

/// A server whose rollout takes a step with every look, and which tells these events once.
fn in_steps(steps: Vec<Value>, events: &'static str) -> Fake {
    let n_looks = AtomicUsize::new(0);
    let n_streams = AtomicUsize::new(0);
    Fake::start(move |asked| match asked.path.as_str() {
        "/rollouts/7" => {
            let n = n_looks.fetch_add(1, Ordering::SeqCst).min(steps.len() - 1);
            match &steps[n] {
                Value::Null => problem(503, "the server is ending", None),
                step => good(step),
            }
        }
        "/events" => {
            let is_first = n_streams.fetch_add(1, Ordering::SeqCst) == 0;
            Answer {
                status: 200,
                head: "content-type: text/event-stream\r\n".to_owned(),
                body: if is_first { events } else { "" }.as_bytes().to_vec(),
            }
        }
        _ => serve(asked),
    })
}

fn living_room(state: &str) -> Value {
    let mut member = member("a0b1c2d3e4f5", "Living Room IR", 0, state);
    if !matches!(state, "queued") {
        member["job"] = json!(41);
    }
    member
}

const EVENTS: &str = "event: hello\ndata: {\"last\":11}\n\n\
    id: 12\ndata: {\"seq\":12,\"at_ms\":1,\"kind\":\"job.started\",\"device\":\"a0b1c2d3e4f5\",\"detail\":{\"rollout\":7,\
    \"job\":41,\"device\":\"a0b1c2d3e4f5\",\"name\":\"Living Room IR\",\"state\":\"looking\"}}\n\n\
    data: {\"seq\":0,\"at_ms\":2,\"kind\":\"job.progress\",\"device\":null,\"detail\":{\"rollout\":7,\
    \"device\":\"a0b1c2d3e4f5\",\"state\":\"uploading\",\"percent\":50,\"acked_bytes\":1,\"len_bytes\":2}}\n\n\
    id: 13\ndata: {\"seq\":13,\"at_ms\":3,\"kind\":\"job.state\",\"device\":\"b\",\"detail\":{\"rollout\":8,\"job\":9,\
    \"device\":\"b\",\"name\":\"Not ours\",\"state\":\"failed\"}}\n\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_is_watched_to_its_end_and_told_with_its_evidence() {
    let steps = vec![
        rollout(7, "running", json!([living_room("looking")])),
        rollout(7, "running", json!([living_room("soaking")])),
        rollout(7, "finished", json!([living_room("updated")])),
    ];
    let fake = in_steps(steps, EVENTS);
    let ended = run(fake.command(&["update", "living room ir", "--yes"])).await;
    settings().bind(|| assert_snapshot!("update_watched", words(&ended)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watching_in_json_is_a_line_for_each_event_and_last_the_rollout() {
    let steps = vec![
        rollout(7, "running", json!([living_room("queued")])),
        rollout(7, "running", json!([living_room("soaking")])),
        rollout(7, "finished", json!([living_room("updated-label-unchanged")])),
    ];
    let fake = in_steps(steps, EVENTS);
    let ended = run(fake.command(&["rollout", "watch", "7", "--json"])).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:#?}");
    let lines: Vec<Value> = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let kinds: Vec<&str> = lines.iter().filter_map(|line| line["kind"].as_str()).collect();
    assert_eq!(kinds, ["job.started", "job.progress", "update"], "{ended:#?}");
    assert_eq!(lines.last().unwrap()["state"], "finished");
    assert_eq!(
        lines.last().unwrap()["members"][0]["state"],
        "updated-label-unchanged"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_is_waited_for_and_asked_for_what_was_missed() {
    let steps = vec![
        rollout(7, "running", json!([living_room("looking")])),
        rollout(7, "running", json!([living_room("looking")])),
        Value::Null,
        Value::Null,
        rollout(7, "running", json!([living_room("soaking")])),
        rollout(7, "finished", json!([living_room("updated")])),
    ];
    let fake = in_steps(steps, EVENTS);
    let ended = run(fake.command(&["rollout", "watch", "7"])).await;
    let said = words(&ended);
    let gone = said.find("Server gone, waiting").expect(said);
    let back = said.find("The server is back.").expect(said);
    assert!(gone < back, "{said}");
    assert_eq!(said.matches("Server gone").count(), 1, "{said}");
    let streams: Vec<Asked> = fake
        .take()
        .into_iter()
        .filter(|asked| asked.path == "/events")
        .collect();
    assert_eq!(streams[0].header("last-event-id"), None);
    assert!(streams.len() > 1, "{said}");
    assert_eq!(
        streams[1].header("last-event-id"),
        Some("13"),
        "it goes on after the last one"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watching_ends_as_the_worst_device_did() {
    let with = |state: &str, members: &[&str]| {
        let members: Vec<Value> = members.iter().map(|state| living_room(state)).collect();
        rollout(7, state, json!(members))
    };
    for (rollout, code) in [
        (with("finished", &["updated", "updated-label-unchanged"]), 0),
        (with("finished", &["updated", "already-current"]), 0),
        (with("finished", &["already-current"]), 2),
        (with("finished", &[]), 2),
        (with("finished", &["updated", "unverified"]), 1),
        (with("finished", &["updated", "kept-old"]), 1),
        (with("finished", &["updated", "skipped"]), 1),
        (with("finished", &["updated", "missed-window"]), 1),
        (with("finished", &["updated", "a word of tomorrow"]), 1),
        (with("aborted", &["updated", "cancelled"]), 1),
        (with("aborted", &["updated"]), 1),
        (with("halted", &["updated", "failed", "queued"]), 1),
    ] {
        let fake = in_steps(vec![rollout.clone()], "");
        for more in [&[][..], &["--json"]] {
            let mut command = fake.command(&["rollout", "watch", "7"]);
            command.args(more);
            let ended = run(command).await;
            assert_eq!(
                (ended.code, ended.stderr.as_str()),
                (Some(code), ""),
                "{rollout:#}: {ended:#?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_says_how_to_go_on() {
    let fake = Fake::start(|asked| match asked.path.as_str() {
        "/rollouts/8" => good(&halted()),
        _ => serve(asked),
    });
    let ended = run(fake.command(&["rollout", "watch", "8"])).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(1), ""), "{ended:#?}");
    settings().bind(|| assert_snapshot!("rollout_watch_halted", ended.stdout));
}

/// Waits until it was asked for this so often.
async fn is_watching(running: &Running) {
    running.says("weekly").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_says_that_it_goes_on_and_a_second_one_ends_the_watching() {
    let fake = in_steps(
        vec![rollout(7, "running", json!([living_room("soaking")]))],
        EVENTS,
    );
    let running = Running::start(fake.command(&["rollout", "watch", "7"]));
    is_watching(&running).await;
    running.interrupt();
    running.tells("reflash rollout watch 7").await;
    let told = running.told();
    assert!(
        told.contains("goes on in the server") && told.contains("reflash rollout abort 7"),
        "{told}"
    );
    running.interrupt();
    let ended: Ended = running.end().await;
    assert_eq!(ended.code, Some(1), "nobody knows how it ends: {ended:#?}");
    assert!(fake.take_changes().is_empty(), "nothing was aborted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_rollout_tells_does_more_to_a_terminal_than_show() {
    const EVIL: &str = "x\u{1b}[2J\u{1b}]0;title\u{7}\r\nINJECTED\u{9b}31m\u{8}\u{202e}\u{200b}\u{2028}";
    fn spoil(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if !matches!(
                        name.as_str(),
                        "state" | "kind" | "device" | "id" | "sources" | "ota" | "identity"
                    ) {
                        spoil(value);
                    }
                }
            }
            Value::Array(values) => values.iter_mut().for_each(spoil),
            Value::String(text) if text.parse::<std::net::IpAddr>().is_err() => *text = EVIL.to_owned(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let fake = Fake::start(|asked| {
        let mut answer = serve(asked);
        if asked.path == "/rollouts/7" {
            answer = good(&halted());
        }
        if let Ok(mut value) = serde_json::from_slice::<Value>(&answer.body) {
            spoil(&mut value);
            answer.body = value.to_string().into_bytes();
        }
        answer
    });
    for arguments in [
        &["plan", "--all"][..],
        &["update", "--all", "--dry-run"],
        &["update", "--all", "--yes", "--detach"],
        &["rollout", "list"],
        &["rollout", "show", "7"],
        &["rollout", "watch", "7"],
        &["rollout", "stop"],
        &["rollout", "abort", "7"],
        &["job", "show", "41"],
        &["history"],
        &["stats"],
    ] {
        for more in [&[][..], &["--json"]] {
            let mut command = fake.command(arguments);
            command.args(more);
            let ended = run(command).await;
            assert!(matches!(ended.code, Some(0 | 1)), "{arguments:?}: {ended:#?}");
            assert!(!ended.stdout.is_empty(), "{arguments:?}: {ended:#?}");
            is_harmless(&ended.stdout);
            is_harmless(&ended.stderr);
        }
    }
}
