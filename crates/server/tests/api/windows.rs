//! Rollouts that wait for a window, and those that begin by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use engine::Clock;
use model::window::{ALL_DAYS, Window};
use serde_json::{Value, json};
use server::config::{Schedule, What};
use server::rollout::Policy;

use crate::firmware::mini;
use crate::house::{Answer, BEDROOM, House, LIVING_ROOM};

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

/// Opens only in three days.
fn later() -> Window {
    let day = (Clock.now().wall_ms / DAY_MS + 3).rem_euclid(7);
    // The first of January 1970 was a Thursday.
    let day = (day + 3).rem_euclid(7);
    Window {
        name: "later".to_owned(),
        start_s: 0,
        duration: Duration::from_hours(2),
        days: 1 << day,
        timezone: Some("UTC".to_owned()),
    }
}

fn schedule(cron: &str, window: Option<&str>) -> Schedule {
    Schedule {
        cron: cron.to_owned(),
        window: window.map(str::to_owned),
        what: What::NewestApproved,
        tags: BTreeSet::new(),
        timezone: Some("Europe/Vilnius".to_owned()),
    }
}

fn policy(schedules: &[(&str, Schedule)]) -> Policy {
    let night = Window {
        name: "night".to_owned(),
        days: ALL_DAYS,
        ..later()
    };
    let schedules = schedules.iter().cloned();
    Policy {
        windows: BTreeMap::from([("later".to_owned(), later()), ("night".to_owned(), night)]),
        schedules: schedules
            .map(|(name, schedule)| (name.to_owned(), schedule))
            .collect(),
        ..Policy::default()
    }
}

/// Two enrolled devices, of which one answers, and a newer image for both.
async fn house(schedules: &[(&str, Schedule)]) -> House {
    let house = House::new().await;
    house.rollouts.apply(policy(schedules));
    let added = house.upload("file_name=mini_1.2.bin", &mini("1.2", 1)).await;
    assert_eq!(added.status, 201, "{added:?}");
    let enrolled = json!({ "devices": [LIVING_ROOM, BEDROOM] });
    let enrolled = house
        .post(&house.admin, "/api/v1/devices/enroll", &enrolled)
        .await;
    assert_eq!(enrolled.status, 200, "{enrolled:?}");
    let all = json!({ "all": true, "when_back_s": 60 });
    let plan = house.post(&house.viewer, "/api/v1/plans", &all).await.json();
    assert_eq!(plan["members"].as_array().unwrap().len(), 2, "{plan}");
    house
}

async fn create(house: &House, body: Value) -> Answer {
    house.post(&house.operator, "/api/v1/rollouts", &body).await
}

async fn rollouts(house: &House) -> Vec<Value> {
    let answer = house.get(&house.viewer, "/api/v1/rollouts").await;
    answer.json().as_array().unwrap().clone()
}

/// A moment in the middle of a local minute of Vilnius that lies at this minute of the hour.
fn at_minute(minute: i64) -> i64 {
    let hour_ms = 60 * MINUTE_MS;
    Clock.now().wall_ms / hour_ms * hour_ms + minute * MINUTE_MS + 30_000
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_with_a_window_waits_until_it_opens() {
    let house = house(&[]).await;
    let body = json!({ "all": true, "window": "later", "when_back_s": 600_000 });
    let plan = house.post(&house.viewer, "/api/v1/plans", &body).await;
    assert_eq!(plan.json()["rules"]["window"], "later", "{plan:?}");
    let made = create(&house, body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    assert_eq!(made["state"], "scheduled");
    let opens_ms = made["opens_ms"].as_i64().unwrap();
    let left_ms = opens_ms - Clock.now().wall_ms;
    assert!(
        left_ms > DAY_MS && left_ms <= 3 * DAY_MS && opens_ms % DAY_MS == 0,
        "{made}"
    );
    let member = |id: &str| {
        let members = made["members"].as_array().unwrap();
        members
            .iter()
            .find(|member| member["device"] == id)
            .unwrap()
            .clone()
    };
    let waits = member(LIVING_ROOM);
    assert_eq!(
        (&waits["state"], &waits["reason"]),
        (&json!("waiting"), &json!("window"))
    );
    let text = waits["text"].as_str().unwrap();
    assert!(
        text.contains("window later") && text.contains("00:00 on "),
        "{text}"
    );
    assert_eq!(
        member(BEDROOM)["reason"],
        "offline",
        "whoever does not answer waits for that"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_is_not_there_is_told_with_the_nearest() {
    let house = house(&[]).await;
    let answer = create(&house, json!({ "all": true, "window": "nigth" })).await;
    assert_eq!(answer.status, 422, "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["next_step"], "Did you mean night?", "{problem}");
    let answer = create(&house, json!({ "all": true, "window": "xxxxxxxx\u{7}" })).await;
    assert_eq!(answer.status, 422, "{answer:?}");
    assert!(!answer.json().to_string().contains("\\u0007"), "{answer:?}");
    assert!(rollouts(&house).await.is_empty());
}

/// RELIABILITY.md 5 (17): once for each date and minute, whatever the clocks do and however often the server begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_begins_one_rollout_for_each_of_its_minutes() {
    let house = house(&[("hourly", schedule("7 * * * *", Some("later")))]).await;
    let (before, after) = (at_minute(6), at_minute(7));
    assert!(house.rollouts.begin_due(Some(before - MINUTE_MS), before).await);
    assert!(rollouts(&house).await.is_empty(), "not yet");
    assert!(house.rollouts.begin_due(Some(before), after).await);
    let made = rollouts(&house).await;
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(made[0]["name"], "hourly");
    assert_eq!(made[0]["created_by"], "schedule hourly");
    assert_eq!(made[0]["state"], "scheduled");
    let shown = house
        .get(&house.viewer, &format!("/api/v1/rollouts/{}", made[0]["id"]))
        .await
        .json();
    let deadline_ms = shown["rules"]["when_back_until_ms"].as_i64().unwrap();
    let closes_ms = made[0]["opens_ms"].as_i64().unwrap() + 2 * 60 * MINUTE_MS;
    // The plan counts from its own now, which may lie before or after the minute that was pretended.
    assert!((deadline_ms - closes_ms).abs() <= 60 * MINUTE_MS, "{shown}");
    // The devices would be free for another.
    let aborted = house
        .post(
            &house.operator,
            &format!("/api/v1/rollouts/{}/abort", made[0]["id"]),
            &json!({}),
        )
        .await;
    assert_eq!(aborted.status, 200, "{aborted:?}");
    // A clock that is set back, and a server that begins anew.
    assert!(house.rollouts.begin_due(Some(before), after).await);
    assert!(house.rollouts.begin_due(None, after).await);
    assert_eq!(rollouts(&house).await.len(), 1, "the same minute");
    let next = after + 60 * MINUTE_MS;
    assert!(house.rollouts.begin_due(Some(next - MINUTE_MS), next).await);
    assert_eq!(rollouts(&house).await.len(), 2, "another minute");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_due_before_a_schedule_was_known_or_long_ago_is_not_made_up_for() {
    let house = house(&[("hourly", schedule("7 * * * *", Some("later")))]).await;
    let due = at_minute(7);
    assert!(house.rollouts.begin_due(None, due).await);
    assert!(rollouts(&house).await.is_empty(), "it was not known before");
    assert!(
        house
            .rollouts
            .begin_due(Some(due - 60 * MINUTE_MS), due + 11 * MINUTE_MS)
            .await
    );
    assert!(rollouts(&house).await.is_empty(), "eleven minutes ago");
    assert!(house.rollouts.begin_due(None, due + 5 * MINUTE_MS).await);
    assert_eq!(rollouts(&house).await.len(), 1, "a restart over the minute");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_with_nothing_to_do_makes_no_rollout() {
    let mut upstairs = schedule("7 * * * *", None);
    upstairs.tags.insert("upstairs".to_owned());
    let house = house(&[("upstairs", upstairs)]).await;
    let due = at_minute(7);
    assert!(house.rollouts.begin_due(Some(due - MINUTE_MS), due).await);
    assert!(rollouts(&house).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_and_schedules_say_when_they_come_next() {
    let house = house(&[("nightly", schedule("15 2 * * *", Some("night")))]).await;
    let windows = house.get(&house.viewer, "/api/v1/windows").await.json();
    assert_eq!(windows[0]["name"], "later");
    assert_eq!(windows[0]["open_until_ms"], Value::Null);
    assert_eq!(windows[1]["opens"], "00:00 on every day (UTC) for 2 hours");
    let now_ms = Clock.now().wall_ms;
    let next_ms = windows[1]["next_ms"].as_i64().unwrap();
    assert!(next_ms % DAY_MS == 0 && next_ms - now_ms <= DAY_MS, "{windows}");
    let schedules = house.get(&house.viewer, "/api/v1/schedules").await.json();
    assert_eq!(schedules[0]["name"], "nightly");
    assert_eq!(schedules[0]["timezone"], "Europe/Vilnius");
    assert_eq!(schedules[0]["what"], "newest-approved");
    let next_ms = schedules[0]["next_ms"].as_i64().unwrap();
    // 02:15 in Vilnius is 00:15 UTC in winter and 23:15 in summer.
    assert!(
        [15, 23 * 60 + 15].contains(&(next_ms % DAY_MS / MINUTE_MS)),
        "{schedules}"
    );
}
