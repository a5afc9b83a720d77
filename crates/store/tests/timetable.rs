//! Windows and schedules that are kept, and what schedules have done.

mod common;

use common::open;
use serde_json::{Value, json};
use store::{ScheduleTurn, TimetableKind, TimetableRow};

fn row(kind: TimetableKind, name: &str, entry: Value) -> TimetableRow {
    TimetableRow {
        kind,
        name: name.to_owned(),
        entry,
        changed_ms: 5,
        changed_by: "admin".to_owned(),
    }
}

fn turn(times: &str, done: &[&str]) -> ScheduleTurn {
    ScheduleTurn {
        times: times.to_owned(),
        since_ms: 7,
        done: done.iter().map(|&done| done.to_owned()).collect(),
        last: None,
    }
}

#[tokio::test]
async fn windows_and_schedules_outlive_a_restart_and_are_apart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    assert_eq!(store.timetable().await.unwrap(), []);
    let window = row(TimetableKind::Window, "night", json!({"start": "02:00"}));
    let schedule = row(TimetableKind::Schedule, "night", json!({"cron": "1 2 * * *"}));
    let replaced = row(TimetableKind::Window, "night", json!({"start": "03:00"}));
    for row in [&window, &schedule, &replaced] {
        store.save_timetable(row).await.unwrap();
    }
    store.close().await;
    let store = open(folder.path()).await;
    assert_eq!(store.timetable().await.unwrap(), [schedule.clone(), replaced]);
    assert!(
        store
            .remove_timetable(TimetableKind::Window, "night")
            .await
            .unwrap()
    );
    assert!(
        !store
            .remove_timetable(TimetableKind::Window, "night")
            .await
            .unwrap()
    );
    assert_eq!(store.timetable().await.unwrap(), [schedule]);
}

#[tokio::test]
async fn what_a_schedule_did_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    assert_eq!(store.schedule_turn("nightly").await.unwrap(), None);
    let first = turn("1 2 * * *", &["2026-11-22T02:01"]);
    let second = ScheduleTurn {
        last: Some(json!({"did": "nothing"})),
        ..turn("1 2 * * *", &["2026-11-22T02:01", "2026-11-23T02:01"])
    };
    for turn in [first, second.clone()] {
        store.save_schedule_turn("nightly", &turn).await.unwrap();
        assert_eq!(store.schedule_turn("nightly").await.unwrap(), Some(turn));
    }
    // A window of that name is another thing.
    store
        .remove_timetable(TimetableKind::Window, "nightly")
        .await
        .unwrap();
    assert_eq!(store.schedule_turn("nightly").await.unwrap(), Some(second));
    store
        .remove_timetable(TimetableKind::Schedule, "nightly")
        .await
        .unwrap();
    assert_eq!(store.schedule_turn("nightly").await.unwrap(), None);
}
