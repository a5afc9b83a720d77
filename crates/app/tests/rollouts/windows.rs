//! Windows and schedules by the real server: what the devices have seen of them.

use std::time::Duration;

use serde_json::{Value, json};
use sim::ir_remote::Fault;
use tokio::time::{Instant, sleep};

use crate::home::Home;

/// A schedule that is due every minute comes within one, and two busy cores.
const A_MINUTE: Duration = Duration::from_secs(100);

/// A window that opens so many minutes from now, by UTC, for two hours.
fn opens_in(minutes: i64) -> Value {
    let minute = (engine::Clock.now().wall_ms / 60_000 + minutes).rem_euclid(24 * 60);
    json!({ "start": format!("{:02}:{:02}", minute / 60, minute % 60), "duration": "2h", "timezone": "UTC" })
}

/// What the schedule did, once it did it because its time had come and `fits` is true of it.
async fn until_did(home: &Home, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + A_MINUTE;
    loop {
        let schedule = home.get("schedules/nightly");
        let last = &schedule["last"];
        // While it is at it, nobody knows.
        if last["due"].is_string() && last["did"] != "unknown" && fits(last) {
            return last.clone();
        }
        assert!(
            Instant::now() < deadline,
            "never {what}: {schedule:#}\n{}",
            home.told()
        );
        sleep(Duration::from_millis(200)).await;
    }
}

/// How much the device has got from anybody: invitations, and pushes.
fn got(home: &Home, idx: usize) -> (u64, usize) {
    (home.devices[idx].counters().datagrams, home.n_pushes(idx))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_device_whose_label_never_changes_is_updated_once_and_the_nightly_schedule_sends_it_nothing() {
    let mut home = Home::quick(1).await;
    home.fault(0, Fault::LabelUnchanged);
    let new = home.firmware(Some("1.1"), 1);
    let id = home.roll_out(&json!({}));
    let finished = home.until_state(id, "finished").await;
    home.check(&finished, &["updated-label-unchanged"]);
    assert!(home.runs(0, &new), "{}", home.log());
    assert_eq!(home.devices[0].running().version, "1.0", "{}", home.log());
    let before = got(&home, 0);
    assert_eq!(before.1, 1, "{}", home.log());

    // Whenever its minute comes, by the clock on the wall.
    let nightly = json!({ "cron": "* * * * *", "timezone": "Europe/Vilnius" });
    home.put("schedules/nightly", &nightly).is(201);
    let last = until_did(&home, "due", |_| true).await;
    assert_eq!(
        (&last["did"], &last["rollout"]),
        (&json!("nothing"), &Value::Null),
        "{last:#}"
    );
    let text = last["text"].as_str().unwrap().to_lowercase();
    assert!(text.contains("already"), "{text}");
    // Run by hand, and by a server that was killed.
    home.post("schedules/nightly/run", &json!({})).is(422);
    home.kill();
    home.start().await;
    assert_eq!(
        home.get("schedules/nightly")["last"]["did"],
        "nothing",
        "it is kept"
    );
    home.post("schedules/nightly/run", &json!({})).is(422);
    assert_eq!(
        got(&home, 0),
        before,
        "not as much as an invitation: {}",
        home.log()
    );
    assert_eq!(
        home.get("rollouts").as_array().unwrap().len(),
        1,
        "and no rollout"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_schedule_brings_a_newer_release_to_each_device_once_and_only_while_its_window_is_open() {
    let mut home = Home::quick(2).await;
    home.fault(0, Fault::LabelUnchanged);
    home.firmware(Some("1.1"), 1);
    let id = home.roll_out(&json!({}));
    let finished = home.until_state(id, "finished").await;
    assert_eq!(finished["ok"], true, "{finished:#}");
    let before = [got(&home, 0), got(&home, 1)];

    // Its minute comes while the window is closed.
    home.put("windows/night", &opens_in(180)).is(201);
    let nightly = json!({ "cron": "* * * * *", "window": "night" });
    home.put("schedules/nightly", &nightly).is(201);
    let newer = home.firmware(Some("1.2"), 2);
    let last = until_did(&home, "rolled out", |last| last["did"] == "rollout").await;
    let early = last["rollout"].as_i64().unwrap();
    let shown = home.rollout(early);
    assert_eq!(
        (&shown["state"], &shown["created_by"], &shown["held"]["rule"]),
        (&json!("scheduled"), &json!("schedule nightly"), &json!("window")),
        "{shown:#}"
    );
    // A window that is moved is for the next; this one keeps its own, over a kill as well.
    home.put("windows/night", &opens_in(-30)).is(200);
    home.delete("windows/night").is(409);
    home.kill();
    home.start().await;
    let shown = home
        .until(early, "scheduled again", |rollout| rollout["opens_ms"].is_i64())
        .await;
    assert_eq!(shown["state"], "scheduled", "{shown:#}");
    assert_eq!([got(&home, 0), got(&home, 1)], before, "{}", home.log());
    home.post(&format!("rollouts/{early}/abort"), &json!({})).is(200);

    // The window is open: whoever comes first, the minute or the hand, each device is updated once.
    for idx in 0..2 {
        home.until_device(idx, "online", |device| device["state"] == "online")
            .await;
    }
    home.post("schedules/nightly/run", &json!({}));
    let newest = home.get("rollouts")[0]["id"].clone();
    let late = newest.as_i64().filter(|late| *late > early).unwrap();
    let finished = home.until_state(late, "finished").await;
    home.check(&finished, &["updated-label-unchanged", "updated"]);
    for idx in 0..2 {
        assert_eq!(
            home.n_pushes(idx),
            2,
            "one by hand, one by the schedule: {}",
            home.log()
        );
        assert!(home.runs(idx, &newer), "{}", home.log());
    }
    let after = [got(&home, 0), got(&home, 1)];
    home.post("schedules/nightly/run", &json!({})).is(422);
    assert_eq!([got(&home, 0), got(&home, 1)], after, "{}", home.log());
    let audit = home.get("audit");
    let by_schedule =
        |entry: &&Value| entry["actor"] == "schedule nightly" && entry["action"] == "rollout.create";
    let made = audit.as_array().unwrap().iter().find(by_schedule);
    assert_eq!(
        made.map(|made| &made["target"]),
        Some(&json!(early.to_string())),
        "{audit:#}"
    );
}
