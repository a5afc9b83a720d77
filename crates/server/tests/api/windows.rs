//! Rollouts that wait for a window, and those that begin by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use engine::Clock;
use model::window::{ALL_DAYS, Window};
use serde_json::{Value, json};
use server::config::{Schedule, What};
use server::rollout::Policy;

use crate::firmware::mini;
use crate::house::{Answer, BEDROOM, House, LIVING_ROOM, Request};

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

/// A moment as it stands in a calendar, milliseconds since 1970.
fn moment(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// Over the night in which Vilnius leaps from three to four.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timetable_tells_each_opening_and_each_due_minute_of_a_span() {
    let house = house(&[
        ("nightly", schedule("30 3 * * *", None)),
        ("often", schedule("* * * * *", None)),
    ])
    .await;
    let leap = json!({ "start": "03:30", "duration": "1h", "timezone": "Europe/Vilnius" });
    let made = put(&house, &house.admin, "/api/v1/windows/leap", &leap).await;
    assert_eq!(made.status, 201, "{made:?}");
    // Begins while the window is open, ends just as it opens.
    let (from, until) = (moment("2027-03-27T02:00:00Z"), moment("2027-03-30T00:30:00Z"));
    let path = format!("/api/v1/timetable?from_ms={from}&until_ms={until}");
    let told = house.get(&house.viewer, &path).await.json();
    let of = |kind: &str, name: &str| {
        let all = told[kind].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap().clone()
    };
    let spans = [
        ("2027-03-27T01:30:00Z", "2027-03-27T02:30:00Z"),
        // The hour that does not come: at the end of the leap, for an hour.
        ("2027-03-28T01:00:00Z", "2027-03-28T02:00:00Z"),
        ("2027-03-29T00:30:00Z", "2027-03-29T01:30:00Z"),
    ];
    let spans =
        spans.map(|(opens, closes)| json!({ "opens_ms": moment(opens), "closes_ms": moment(closes) }));
    assert_eq!(of("windows", "leap")["open"], json!(spans));
    let due = ["2027-03-28T01:00:00Z", "2027-03-29T00:30:00Z"].map(moment);
    assert_eq!(of("schedules", "nightly")["due_ms"], json!(due));
    // What cannot be told apart in a picture is told in part, and that it is.
    let often = of("schedules", "often");
    assert_eq!(
        (&often["more"], often["due_ms"].as_array().unwrap().len()),
        (&json!(true), 500)
    );
    assert_eq!(often["due_ms"][0], from);

    // Nothing is worked out for years, backwards, or beyond all calendars.
    for (from, until, shown) in [
        (from, i64::MAX, from + 35 * DAY_MS),
        (from, from - 1, from),
        (i64::MAX - 1, i64::MAX, i64::MAX),
    ] {
        let path = format!("/api/v1/timetable?from_ms={from}&until_ms={until}");
        let told = house.get(&house.viewer, &path).await;
        assert_eq!(told.status, 200, "{told:?}");
        assert_eq!(told.json()["until_ms"], shown);
    }
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
    let hour_ms = 60 * MINUTE_MS;
    assert!(house.rollouts.begin_due(Some(due - 5 * MINUTE_MS), due).await);
    assert!(house.rollouts.begin_due(None, due + 5 * MINUTE_MS).await);
    assert!(rollouts(&house).await.is_empty(), "it was not known before");
    assert!(
        house
            .rollouts
            .begin_due(Some(due), due + hour_ms + 11 * MINUTE_MS)
            .await
    );
    assert!(rollouts(&house).await.is_empty(), "eleven minutes ago");
    assert!(
        house
            .rollouts
            .begin_due(None, due + hour_ms + 5 * MINUTE_MS)
            .await
    );
    assert_eq!(rollouts(&house).await.len(), 1, "a restart over the minute");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_with_other_times_makes_up_for_nothing_and_one_known_by_a_wrong_clock_still_runs() {
    let house = house(&[("hourly", schedule("7 * * * *", Some("later")))]).await;
    let due = at_minute(7);
    assert!(house.rollouts.begin_due(None, due - 30 * MINUTE_MS).await);
    house
        .rollouts
        .apply(policy(&[("hourly", schedule("6,7 * * * *", Some("later")))]));
    assert!(house.rollouts.begin_due(Some(due - 30 * MINUTE_MS), due).await);
    assert!(house.rollouts.begin_due(None, due + MINUTE_MS).await);
    assert!(rollouts(&house).await.is_empty(), "these times are new");
    // Known in the year to come, by a clock that was set right since.
    house
        .rollouts
        .apply(policy(&[("hourly", schedule("8 * * * *", Some("later")))]));
    assert!(house.rollouts.begin_due(None, due + 365 * DAY_MS).await);
    assert!(house.rollouts.begin_due(None, due + MINUTE_MS).await);
    assert_eq!(rollouts(&house).await.len(), 1);
}

/// RELIABILITY.md F85: a clock that goes on while the machine sleeps makes a long pause of it, and nothing more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_due_while_the_machine_slept_is_made_up_for_when_it_was_just_now_and_once() {
    let house = house(&[("hourly", schedule("7 * * * *", Some("later")))]).await;
    let due = at_minute(7);
    let asleep = due - 200 * MINUTE_MS;
    assert!(house.rollouts.begin_due(Some(asleep - MINUTE_MS), asleep).await);
    // Three of its minutes have passed meanwhile.
    for woken in [due + 4 * MINUTE_MS, due + 5 * MINUTE_MS] {
        assert!(house.rollouts.begin_due(Some(asleep), woken).await);
        assert_eq!(rollouts(&house).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_with_nothing_to_do_makes_no_rollout() {
    let mut upstairs = schedule("7 * * * *", None);
    upstairs.tags.insert("upstairs".to_owned());
    let house = house(&[("upstairs", upstairs)]).await;
    let due = at_minute(7);
    let known = due - MINUTE_MS;
    assert!(house.rollouts.begin_due(Some(known - MINUTE_MS), known).await);
    let path = "/api/v1/schedules/upstairs";
    assert_eq!(house.get(&house.viewer, path).await.json()["last"], Value::Null);
    assert!(house.rollouts.begin_due(Some(known), due).await);
    assert!(rollouts(&house).await.is_empty());
    let last = house.get(&house.viewer, path).await.json()["last"].clone();
    assert_eq!(
        (&last["did"], &last["rollout"]),
        (&json!("nothing"), &Value::Null)
    );
    assert_eq!(last["at_ms"], due);
    assert!(last["due"].as_str().unwrap().ends_with(":07"), "{last}");
    let text = last["text"].as_str().unwrap();
    assert!(text.contains("no device is meant"), "{text}");
    assert!(
        actions(&house)
            .await
            .iter()
            .all(|action| action != "rollout.create"),
        "nothing was made"
    );
}

/// What is in the audit, in order.
async fn actions(house: &House) -> Vec<String> {
    let rows = house.audit().await;
    rows.into_iter().map(|row| row.entry.action).collect()
}

async fn put(house: &House, token: &str, path: &str, body: &Value) -> Answer {
    house
        .send(&Request::new("PUT", path).token(token).json(body))
        .await
}

async fn delete(house: &House, path: &str) -> Answer {
    house
        .send(&Request::new("DELETE", path).token(&house.admin))
        .await
}

/// A window that is open now, for an hour or more.
fn open_now() -> Value {
    let minute = (Clock.now().wall_ms / MINUTE_MS).rem_euclid(24 * 60) - 60;
    let minute = minute.rem_euclid(24 * 60);
    json!({ "start": format!("{:02}:{:02}", minute / 60, minute % 60), "duration": "3h", "timezone": "UTC" })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_is_made_and_changed_while_the_server_runs() {
    let house = house(&[]).await;
    let path = "/api/v1/windows/early";
    assert_eq!(house.get(&house.viewer, path).await.status, 404);
    let wanted = json!({ "start": "04:30", "duration": "90m", "days": ["sat", "sun"], "timezone": "UTC" });
    for token in [&house.viewer, &house.operator] {
        assert_eq!(put(&house, token, path, &wanted).await.status, 403);
    }
    let made = put(&house, &house.admin, path, &wanted).await;
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    assert_eq!(made["opens"], "04:30 on Saturday and Sunday (UTC) for 90 minutes");
    assert_eq!(
        (&made["start"], &made["days"], &made["duration_s"]),
        (&json!("04:30"), &json!(["sat", "sun"]), &json!(5_400))
    );
    assert_eq!(
        made["origin"],
        json!({ "kept_in": "api", "file": null, "key": "windows.early" })
    );
    let next_ms = made["next_ms"].as_i64().unwrap();
    assert_eq!(next_ms % DAY_MS, 270 * MINUTE_MS);
    let local = made["next_local"].as_str().unwrap();
    assert!(local.contains("T04:30:00+00:00[UTC]"), "{local}");
    assert_eq!(house.get(&house.viewer, path).await.json(), made);

    // It holds at once.
    let planned = create(
        &house,
        json!({ "all": true, "window": "early", "when_back_s": 900_000 }),
    )
    .await;
    assert_eq!(planned.status, 201, "{planned:?}");
    let planned = planned.json();
    assert_eq!(planned["opens_ms"], next_ms);
    assert_eq!(planned["window"]["next_ms"], next_ms);
    let held = &planned["held"];
    assert_eq!(held["rule"], "window", "{planned}");
    let text = held["text"].as_str().unwrap();
    assert!(text.contains("early is closed; it opens at 04:30 on S"), "{text}");

    // A rollout keeps the window that it was planned with.
    let changed = put(&house, &house.admin, path, &open_now()).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let changed = changed.json();
    assert!(changed["open_until_ms"].is_i64(), "{changed}");
    assert_eq!(changed["rollouts"], json!([planned["id"]]));
    let rollout = format!("/api/v1/rollouts/{}", planned["id"]);
    assert_eq!(
        house.get(&house.viewer, &rollout).await.json()["opens_ms"],
        next_ms
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_something_goes_by_is_not_removed_and_every_change_is_written_down_and_told() {
    let house = house(&[]).await;
    let path = "/api/v1/windows/early";
    for status in [201, 200] {
        let wanted = json!({ "start": "04:30", "duration": "90m", "days": ["sat"], "timezone": "UTC" });
        let made = put(&house, &house.admin, path, &wanted).await;
        assert_eq!(made.status, status, "{made:?}");
    }
    let wanted = json!({ "all": true, "window": "early", "when_back_s": 900_000 });
    let planned = create(&house, wanted).await.json();
    let rollout = format!("/api/v1/rollouts/{}", planned["id"]);
    // What is in use stays, and is named.
    let refused = delete(&house, path).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(refused.problem().contains("in-use"), "{refused:?}");
    let users = format!("in use by rollout {}", planned["id"]);
    assert!(
        refused.json()["detail"].as_str().unwrap().contains(&users),
        "{refused:?}"
    );
    house
        .post(&house.operator, &format!("{rollout}/abort"), &json!({}))
        .await;
    let by_it = json!({ "cron": "1 4 * * *", "window": "early" });
    assert_eq!(
        put(&house, &house.admin, "/api/v1/schedules/weekly", &by_it)
            .await
            .status,
        201
    );
    let refused = delete(&house, path).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    let detail = refused.json()["detail"].to_string();
    assert!(detail.contains("by the schedule weekly"), "{detail}");
    assert_eq!(delete(&house, "/api/v1/schedules/weekly").await.status, 204);
    assert_eq!(delete(&house, path).await.status, 204);
    assert_eq!(house.get(&house.viewer, path).await.status, 404);
    assert_eq!(delete(&house, path).await.status, 404);

    let rows = house.audit().await;
    let rows: Vec<_> = rows
        .iter()
        .map(|row| &row.entry)
        .filter(|entry| entry.action.starts_with("window.") && entry.detail["status"] != 403)
        .map(|entry| {
            (
                entry.action.as_str(),
                entry.target.as_str(),
                entry.detail["status"].as_i64().unwrap(),
            )
        })
        .collect();
    let told = |action, status| (action, "early", status);
    assert_eq!(
        rows,
        [
            told("window.set", 201),
            told("window.set", 200),
            told("window.remove", 409),
            told("window.remove", 409),
            told("window.remove", 204),
            told("window.remove", 404)
        ]
    );
    // Events are written behind; whoever makes a rollout waits for them.
    create(&house, json!({ "all": true, "window": "early" })).await;
    let events = house.store.events_after(0, 100).await.unwrap();
    let kinds: Vec<_> = events
        .iter()
        .map(|event| event.kind.as_str())
        .filter(|kind| kind.starts_with("window.") || kind.starts_with("schedule."))
        .collect();
    assert_eq!(
        kinds,
        [
            "window.changed",
            "window.changed",
            "schedule.changed",
            "schedule.removed",
            "window.removed"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_says_why_nothing_of_it_begins_now() {
    let house = house(&[]).await;
    let held = async |id: &Value| {
        let path = format!("/api/v1/rollouts/{id}");
        house.get(&house.viewer, &path).await.json()["held"].clone()
    };
    let does = async |id: &Value, verb: &str| {
        let path = format!("/api/v1/rollouts/{id}/{verb}");
        let answer = house.post(&house.operator, &path, &json!({})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let waits = json!({ "all": true, "window": "later", "when_back_s": 900_000 });
    let id = create(&house, waits).await.json()["id"].clone();
    assert_eq!(held(&id).await["rule"], "window");
    does(&id, "pause").await;
    assert_eq!(held(&id).await["rule"], "paused");
    does(&id, "resume").await;
    assert_eq!(held(&id).await["rule"], "window");
    does(&id, "abort").await;
    assert_eq!(held(&id).await, Value::Null, "it is over");

    // It is open, and closes too soon.
    let mut soon = open_now();
    soon["duration"] = json!("61m");
    put(&house, &house.admin, "/api/v1/windows/soon", &soon).await;
    let one = json!({ "devices": [LIVING_ROOM], "window": "soon" });
    let id = create(&house, one).await.json()["id"].clone();
    let text = held(&id).await["text"].clone();
    assert!(text.as_str().unwrap().contains("soon closes at "), "{text}");
    does(&id, "abort").await;

    // Nobody is there.
    let away = json!({ "devices": [BEDROOM], "when_back_s": 600 });
    let id = create(&house, away).await.json()["id"].clone();
    assert_eq!(held(&id).await["rule"], "offline");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_in_the_configuration_is_only_changed_there() {
    let house = house(&[]).await;
    let nightly = schedule("15 2 * * *", Some("night"));
    let configured = Policy {
        file: Some("/etc/reflash.yaml".into()),
        ..policy(&[("nightly", nightly)])
    };
    house.rollouts.apply(configured);
    for (path, key) in [
        ("/api/v1/windows/night", "windows.night"),
        ("/api/v1/schedules/nightly", "schedules.nightly"),
    ] {
        let wanted = json!({ "start": "04:30", "duration": "90m", "cron": "1 2 * * *" });
        let origin = house.get(&house.viewer, path).await.json()["origin"].clone();
        assert_eq!(
            origin,
            json!({ "kept_in": "configuration", "file": "/etc/reflash.yaml", "key": key })
        );
        for answer in [
            put(&house, &house.admin, path, &wanted).await,
            delete(&house, path).await,
        ] {
            assert_eq!(answer.status, 409, "{answer:?}");
            let problem = answer.json();
            let detail = problem["detail"].as_str().unwrap();
            assert!(
                detail.contains(key) && detail.contains("/etc/reflash.yaml"),
                "{detail}"
            );
        }
    }
    // The file may take a name later on, and then wins; what is hidden comes back with the name.
    let path = "/api/v1/windows/morning";
    assert_eq!(put(&house, &house.admin, path, &open_now()).await.status, 201);
    let mut with_it = policy(&[]);
    with_it.windows.insert("morning".to_owned(), later());
    house.rollouts.apply(with_it);
    let shown = house.get(&house.viewer, path).await.json();
    assert_eq!(shown["origin"]["kept_in"], "configuration");
    assert_eq!(shown["open_until_ms"], Value::Null, "{shown}");
    house.rollouts.apply(policy(&[]));
    let shown = house.get(&house.viewer, path).await.json();
    assert_eq!(shown["origin"]["kept_in"], "api");
    assert!(shown["open_until_ms"].is_i64(), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_file_would_refuse_the_api_refuses_in_the_same_words() {
    let house = house(&[]).await;
    for (path, body, words) in [
        ("windows/x", json!({}), "`windows.x.start` is missing"),
        (
            "windows/x",
            json!({ "start": "02:00", "duration": "25h" }),
            "it must be from 1m to 1d",
        ),
        (
            "windows/x",
            json!({ "start": "02:00", "duration": "3h", "day": ["mon"] }),
            "there is no key `day` in `windows.x`",
        ),
        ("windows/x", json!([1]), "`windows.x` is a list"),
        (
            "windows/a%20b",
            json!({ "start": "02:00", "duration": "3h" }),
            "holds something else than letters and digits",
        ),
        (
            "schedules/x",
            json!({ "cron": "1 2 * * *", "window": "nigth" }),
            "there is no such window; did you mean `night`?",
        ),
        (
            "schedules/x",
            json!({ "cron": "61 2 * * *" }),
            "`schedules.x.cron`",
        ),
    ] {
        let answer = put(&house, &house.admin, &format!("/api/v1/{path}"), &body).await;
        assert_eq!(answer.status, 422, "{path} {body}: {answer:?}");
        let problem = answer.json();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{detail}");
        assert!(!problem["next_step"].as_str().unwrap().is_empty(), "{problem}");
    }
    assert_eq!(house.store.timetable().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_that_is_made_while_the_server_runs_begins_rollouts_that_name_it() {
    let house = house(&[]).await;
    let path = "/api/v1/schedules/hourly";
    let wanted = json!({ "cron": "7 * * * *", "window": "later", "timezone": "Europe/Vilnius" });
    let made = put(&house, &house.admin, path, &wanted).await;
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    assert!(
        made["next_ms"].as_i64().unwrap() < made["begins_ms"].as_i64().unwrap(),
        "{made}"
    );
    assert!(
        made["next_local"].as_str().unwrap().contains(":07:00+0"),
        "{made}"
    );
    assert!(
        made["begins_local"]
            .as_str()
            .unwrap()
            .ends_with("T00:00:00+00:00[UTC]"),
        "{made}"
    );
    let (before, due) = (at_minute(6), at_minute(7));
    assert!(house.rollouts.begin_due(Some(before - MINUTE_MS), before).await);
    assert!(house.rollouts.begin_due(Some(before), due).await);
    let begun = rollouts(&house).await;
    assert_eq!(begun.len(), 1, "{begun:?}");
    assert_eq!(begun[0]["created_by"], "schedule hourly");
    let shown = house.get(&house.viewer, path).await.json();
    assert_eq!(
        (&shown["last"]["did"], &shown["last"]["rollout"]),
        (&json!("rollout"), &begun[0]["id"]),
        "{shown}"
    );
    let rows = house.audit().await;
    let row = rows
        .iter()
        .find(|row| row.entry.action == "rollout.create")
        .unwrap();
    assert_eq!(
        (row.entry.actor.as_str(), &row.entry.target),
        ("schedule hourly", &begun[0]["id"].to_string())
    );
    assert_eq!(row.entry.detail["devices"].as_array().unwrap().len(), 2);

    // Run by hand there is nothing left to do, and it says so.
    let run = format!("{path}/run");
    assert_eq!(house.post(&house.viewer, &run, &json!({})).await.status, 403);
    let answer = house.post(&house.operator, &run, &json!({})).await;
    assert_eq!(answer.status, 422, "{answer:?}");
    assert!(answer.problem().contains("nothing-to-do"), "{answer:?}");
    let last = house.get(&house.viewer, path).await.json()["last"].clone();
    assert_eq!((&last["did"], &last["due"]), (&json!("nothing"), &Value::Null));
    assert!(last["text"].as_str().unwrap().contains("2 busy"), "{last}");
    assert!(last["by"].is_string(), "{last}");
    let abort = format!("/api/v1/rollouts/{}/abort", begun[0]["id"]);
    house.post(&house.operator, &abort, &json!({})).await;
    let answer = house.post(&house.operator, &run, &json!({})).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let answer = answer.json();
    assert_eq!(
        (&answer["state"], &answer["created_by"]),
        (&json!("scheduled"), &json!("schedule hourly")),
        "its window is closed all the same"
    );
    assert!(actions(&house).await.contains(&"schedule.run".to_owned()));

    assert_eq!(delete(&house, path).await.status, 204);
    assert!(house.rollouts.begin_due(Some(due), due + 60 * MINUTE_MS).await);
    assert_eq!(rollouts(&house).await.len(), 2, "what is removed begins nothing");
    assert_eq!(house.post(&house.operator, &run, &json!({})).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_whose_window_is_gone_begins_nothing_and_says_why() {
    let house = house(&[]).await;
    let path = "/api/v1/schedules/hourly";
    let wanted = json!({ "cron": "7 * * * *", "window": "later" });
    assert_eq!(put(&house, &house.admin, path, &wanted).await.status, 201);
    // The file has lost it.
    house.rollouts.apply(Policy::default());
    let (before, due) = (at_minute(6), at_minute(7));
    assert!(house.rollouts.begin_due(Some(before - MINUTE_MS), before).await);
    assert!(house.rollouts.begin_due(Some(before), due).await);
    assert!(rollouts(&house).await.is_empty());
    let shown = house.get(&house.viewer, path).await.json();
    assert_eq!(shown["last"]["did"], "failed", "{shown}");
    assert!(
        shown["last"]["text"].as_str().unwrap().contains("no window"),
        "{shown}"
    );
    assert_eq!(shown["trouble"]["rule"], "window", "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_and_schedules_say_when_they_come_next() {
    let house = house(&[("nightly", schedule("15 2 * * *", Some("night")))]).await;
    let windows = house.get(&house.viewer, "/api/v1/windows").await.json();
    assert_eq!(windows[0]["name"], "later");
    assert_eq!(windows[0]["open_until_ms"], Value::Null);
    assert_eq!(windows[1]["opens"], "00:00 on every day (UTC) for 2 hours");
    assert_eq!(windows[1]["schedules"], json!(["nightly"]));
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
