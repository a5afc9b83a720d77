//! The fleet as a server keeps it: rows, looks, health, enrolment, removal, replacement.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::net::IpAddr;

use common::{ADDRESS, DIGEST, device, event, fleet_row, id, open, poll, sample, snapshot};
use model::family::{Notes, Undo};
use model::id::Sha256;
use model::installed::Installed;
use model::version::Versions;
use serde_json::{Value, json};
use store::{
    Event, FleetRow, Holder, InventoryError, JournalError, LeaseError, Poll, RemoveDeviceError, Sample,
    Store, process_is_alive,
};

const ELSEWHERE: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

/// A row in which every field holds something.
fn full_row(hardware: &str) -> FleetRow {
    FleetRow {
        address: Some(ELSEWHERE),
        given_as: Some("hall.lan".to_owned()),
        name: Some("Hall".to_owned()),
        sources: vec!["scan".to_owned(), "mqtt".to_owned()],
        first_seen_ms: 3,
        seen_ms: Some(9),
        snapshot: Some(snapshot(hardware, "1.0")),
        online: true,
        restarts: 4,
        tags: vec!["up, \"stairs\"".to_owned()],
        group: Some("house".to_owned()),
        pinned: Some("1.0".to_owned()),
        skipped: vec!["1.1".to_owned(), "1.2".to_owned()],
        username: Some("admin".to_owned()),
        sealed_password: Some(vec![0, 255, 7]),
        chip: Some("esp32c6".to_owned()),
        slot_bytes: Some(1_900_000),
        ota_wanted: Some(false),
        ..fleet_row(hardware)
    }
}

fn installed(bytes: &[u8]) -> Installed {
    Installed {
        digest: Some(Sha256::of(bytes)),
        label: Versions::one("firmware", "1.0"),
        label_moves: true,
    }
}

async fn row(store: &Store, hardware: &str) -> FleetRow {
    store.fleet_row(&id(hardware)).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_row_comes_back_as_it_was_put_and_keeps_what_has_its_own_way_in() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    assert_eq!(store.fleet_row(&id("a")).await.unwrap(), None);
    for expected in [fleet_row("a"), full_row("a"), full_row("b"), fleet_row("b")] {
        store.put_fleet_row(&expected).await.unwrap();
        assert_eq!(store.fleet_row(&expected.id).await.unwrap(), Some(expected));
    }
    store.enroll_by(&id("a"), "Ann", 5).await.unwrap();
    store.save_notes(&id("a"), &Notes(json!({"n": 1}))).await.unwrap();
    store
        .set_installed(&id("a"), Some(&installed(b"x")), 6)
        .await
        .unwrap();
    store.put_fleet_row(&full_row("a")).await.unwrap();
    store.close().await;

    let store = open(folder.path()).await;
    let expected = FleetRow {
        enrolled_ms: Some(5),
        enrolled_by: Some("Ann".to_owned()),
        notes: Notes(json!({"n": 1})),
        installed: Some(installed(b"x")),
        ..full_row("a")
    };
    assert_eq!(store.fleet().await.unwrap(), [expected, fleet_row("b")]);
}

#[tokio::test]
async fn a_device_that_push_stored_is_of_the_fleet() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let expected = FleetRow {
        sources: vec!["push".to_owned()],
        seen_ms: Some(1),
        ..fleet_row("a")
    };
    assert_eq!(store.fleet().await.unwrap(), [expected]);
    store.put_fleet_row(&full_row("a")).await.unwrap();
    store.upsert_device(&id("a"), ADDRESS, None, 50).await.unwrap();
    let seen_again = FleetRow {
        address: Some(ADDRESS),
        seen_ms: Some(50),
        ..full_row("a")
    };
    assert_eq!(store.fleet().await.unwrap(), [seen_again]);
}

#[tokio::test]
async fn a_device_without_an_address_is_at_no_address() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let nowhere = FleetRow {
        address: None,
        ..fleet_row("a")
    };
    store.put_fleet_row(&nowhere).await.unwrap();
    assert_eq!(store.fleet().await.unwrap(), [nowhere]);
    assert_eq!(store.device(&id("a")).await.unwrap(), None);
    assert_eq!(store.devices_at(ADDRESS).await.unwrap(), []);
    store.upsert_device(&id("a"), ADDRESS, None, 7).await.unwrap();
    assert_eq!(store.device(&id("a")).await.unwrap().unwrap().address, ADDRESS);
}

#[tokio::test]
async fn enrolment_keeps_who_was_first_and_can_be_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    store.enroll_by(&id("a"), "Ann", 5).await.unwrap();
    store.enroll_by(&id("a"), "Bob", 6).await.unwrap();
    let enrolled = row(&store, "a").await;
    assert_eq!(
        (enrolled.enrolled_by.as_deref(), enrolled.enrolled_ms),
        (Some("Ann"), Some(5))
    );
    store.unenroll(&id("a")).await.unwrap();
    let proposed = row(&store, "a").await;
    assert_eq!((proposed.enrolled_by, proposed.enrolled_ms), (None, None));
    assert!(!store.device(&id("a")).await.unwrap().unwrap().enrolled());
    // `push` enrols without a name, and nobody takes the credit later.
    store.enroll(&id("a"), 7).await.unwrap();
    store.enroll_by(&id("a"), "Bob", 8).await.unwrap();
    assert_eq!(row(&store, "a").await.enrolled_by, None);
    let unknown = |result| matches!(result, Err(InventoryError::UnknownDevice { .. }));
    assert!(unknown(store.enroll_by(&id("b"), "Ann", 5).await));
    assert!(unknown(store.unenroll(&id("b")).await));
}

#[tokio::test]
async fn looks_change_what_was_seen_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    store.put_fleet_row(&full_row("a")).await.unwrap();
    let moved = Poll {
        address: Some(ADDRESS),
        snapshot: Some(snapshot("a", "2.0")),
        restarts: 5,
        ..poll("a", 20)
    };
    store.save_polls(&[moved]).await.unwrap();
    let expected = FleetRow {
        address: Some(ADDRESS),
        seen_ms: Some(20),
        snapshot: Some(snapshot("a", "2.0")),
        restarts: 5,
        ..full_row("a")
    };
    assert_eq!(row(&store, "a").await, expected);
    let missed = Poll {
        snapshot: None,
        online: false,
        restarts: 5,
        sample: None,
        ..poll("a", 30)
    };
    store.save_polls(&[missed]).await.unwrap();
    let offline = FleetRow {
        online: false,
        ..expected
    };
    assert_eq!(row(&store, "a").await, offline, "what was seen last stays");
}

#[tokio::test]
async fn of_two_looks_at_one_device_the_later_counts_and_both_are_history() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let later = Poll {
        snapshot: Some(snapshot("a", "2.0")),
        restarts: 1,
        ..poll("a", 20)
    };
    store
        .save_polls(&[poll("a", 10), later, poll("unknown", 15)])
        .await
        .unwrap();
    let seen = row(&store, "a").await;
    assert_eq!((seen.seen_ms, seen.restarts), (Some(20), 1));
    assert_eq!(seen.snapshot, Some(snapshot("a", "2.0")));
    assert_eq!(
        store.samples(&id("a"), 0, 10).await.unwrap(),
        [sample(10), sample(20)]
    );
    assert_eq!(
        store.fleet().await.unwrap().len(),
        1,
        "nobody becomes known by a look"
    );
    assert_eq!(store.samples(&id("unknown"), 0, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_look_that_failed_does_not_undo_the_one_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let answered = Poll {
        snapshot: Some(snapshot("a", "2.0")),
        address: Some(ELSEWHERE),
        ..poll("a", 10)
    };
    let missed = Poll {
        snapshot: None,
        online: false,
        ..poll("a", 20)
    };
    store.save_polls(&[answered, missed]).await.unwrap();
    let seen = row(&store, "a").await;
    assert_eq!(
        (seen.seen_ms, seen.online, seen.address),
        (Some(10), false, Some(ELSEWHERE))
    );
    assert_eq!(seen.snapshot, Some(snapshot("a", "2.0")));
}

#[tokio::test]
async fn any_number_of_looks_is_stored_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let names: Vec<String> = (0..120).map(|n| format!("device {n:03}")).collect();
    for name in &names {
        store.put_fleet_row(&fleet_row(name)).await.unwrap();
    }
    for (nth, n_polls) in (1..).zip([1, 3, 4, 5, 49, 50, 51, 100, 101, 120]) {
        let at_ms = nth * 1000;
        let mut polls: Vec<Poll> = names[..n_polls].iter().map(|name| poll(name, at_ms)).collect();
        // Not every look is worth a sample.
        polls[0].sample = None;
        store.save_polls(&polls).await.unwrap();
        let fleet = store.fleet().await.unwrap();
        let n_seen = fleet.iter().filter(|row| row.seen_ms == Some(at_ms)).count();
        assert_eq!(n_seen, n_polls);
        let mut n_samples = 0;
        for name in &names {
            n_samples += store.samples(&id(name), at_ms, 10).await.unwrap().len();
        }
        assert_eq!(n_samples, n_polls - 1);
    }
    store.save_polls(&[]).await.unwrap();
}

#[tokio::test]
async fn the_history_is_told_from_a_moment_on_and_its_latest_first_in_line() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    for at_ms in [10, 30, 20, 40] {
        store.save_polls(&[poll("a", at_ms)]).await.unwrap();
    }
    let other = Poll {
        sample: Some(Sample {
            restarted: true,
            ..sample(40)
        }),
        ..poll("a", 40)
    };
    store.save_polls(&[other]).await.unwrap();
    let at = |samples: Vec<Sample>| samples.iter().map(|sample| sample.at_ms).collect::<Vec<_>>();
    assert_eq!(at(store.samples(&id("a"), 20, 10).await.unwrap()), [20, 30, 40]);
    assert_eq!(at(store.samples(&id("a"), 0, 2).await.unwrap()), [30, 40]);
    assert_eq!(
        store.samples(&id("a"), 40, 1).await.unwrap(),
        [sample(40)],
        "one moment has one sample, the first"
    );
}

async fn lease(store: &Store, hardware: &str) -> i64 {
    let holder = Holder::this_process().unwrap();
    let grant = store
        .acquire_lease(&id(hardware), &holder, common::now(), process_is_alive)
        .await;
    grant.unwrap().epoch()
}

async fn finish_job(store: &Store, hardware: &str) -> model::id::JobId {
    let epoch = lease(store, hardware).await;
    let last = Event {
        finished: true,
        ..event("done", &Value::Null)
    };
    let job = store
        .start_job(&id(hardware), epoch, *DIGEST, None, &last)
        .await
        .unwrap();
    store.release_lease(&id(hardware), epoch).await.unwrap();
    job
}

#[tokio::test]
async fn a_removed_device_is_unknown_everywhere_and_its_jobs_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    store.put_fleet_row(&full_row("a")).await.unwrap();
    store.enroll_by(&id("a"), "Ann", 5).await.unwrap();
    store
        .set_installed(&id("a"), Some(&installed(b"x")), 6)
        .await
        .unwrap();
    store.save_polls(&[poll("a", 10)]).await.unwrap();
    store.count_answer(&id("a"), 7).await.unwrap();
    let job = finish_job(&store, "a").await;
    let epoch = lease(&store, "a").await;

    store.remove_device(&id("a")).await.unwrap();
    assert_eq!(store.fleet().await.unwrap(), []);
    assert_eq!(store.fleet_row(&id("a")).await.unwrap(), None);
    assert_eq!(store.device(&id("a")).await.unwrap(), None);
    assert_eq!(store.devices_at(ELSEWHERE).await.unwrap(), []);
    assert_eq!(store.installed(&id("a")).await.unwrap(), None);
    assert_eq!(store.samples(&id("a"), 0, 10).await.unwrap(), []);
    let unknown = |result| matches!(result, Err(InventoryError::UnknownDevice { .. }));
    assert!(unknown(store.enroll(&id("a"), 1).await));
    assert!(unknown(store.enroll_by(&id("a"), "Ann", 1).await));
    assert!(unknown(store.unenroll(&id("a")).await));
    assert!(unknown(store.save_notes(&id("a"), &Notes::default()).await));
    assert!(unknown(store.set_installed(&id("a"), None, 1).await));
    assert!(unknown(store.unlock(&id("a")).await));
    assert!(unknown(store.count_answer(&id("a"), 1).await.map(drop)));
    store.save_polls(&[poll("a", 20)]).await.unwrap();
    assert_eq!(store.samples(&id("a"), 0, 10).await.unwrap(), []);
    let holder = Holder::this_process().unwrap();
    let leased = store
        .acquire_lease(&id("a"), &holder, common::now(), process_is_alive)
        .await;
    assert!(
        matches!(leased, Err(LeaseError::UnknownDevice { .. })),
        "{leased:?}"
    );
    let begun = store
        .start_job(&id("a"), epoch, *DIGEST, None, &event("look", &Value::Null))
        .await;
    assert!(matches!(begun, Err(JournalError::Fenced)), "{begun:?}");
    let removed = store.remove_device(&id("a")).await;
    assert!(
        matches!(removed, Err(RemoveDeviceError::UnknownDevice { .. })),
        "{removed:?}"
    );
    assert_eq!(store.events(job).await.unwrap().len(), 1);

    store.put_fleet_row(&fleet_row("a")).await.unwrap();
    assert_eq!(row(&store, "a").await, fleet_row("a"), "who comes back is new");
    assert_eq!(
        store.failed_answers_since(&id("a"), 0).await.unwrap(),
        1,
        "and gets no new tries"
    );
    assert!(
        lease(&store, "a").await > epoch,
        "and an epoch is never given twice"
    );
    store.remove_device(&id("a")).await.unwrap();
    store.upsert_device(&id("a"), ADDRESS, None, 77).await.unwrap();
    let again = row(&store, "a").await;
    assert_eq!(
        (again.first_seen_ms, again.sources),
        (77, vec!["push".to_owned()])
    );
}

#[tokio::test]
async fn a_device_in_the_middle_of_something_is_neither_removed_nor_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    store.upsert_device(&id("b"), ADDRESS, None, 1).await.unwrap();
    let epoch = lease(&store, "a").await;
    let job = store
        .start_job(&id("a"), epoch, *DIGEST, None, &event("look", &Value::Null))
        .await
        .unwrap();
    let before = store.fleet().await.unwrap();
    for refused in [
        store.remove_device(&id("a")).await,
        store.replace_device(&id("a"), &id("b")).await,
    ] {
        assert!(
            matches!(refused, Err(RemoveDeviceError::JobOpen(open)) if open == job),
            "{refused:?}"
        );
    }
    let last = Event {
        finished: true,
        ..event("done", &Value::Null)
    };
    store.append(job, epoch, &last).await.unwrap();
    let undo = Undo {
        text: "switch updates off again".to_owned(),
        value: Value::Null,
    };
    store
        .set_undo(&id("a"), epoch, Some(job), &undo, 1)
        .await
        .unwrap();
    for refused in [
        store.remove_device(&id("a")).await,
        store.replace_device(&id("a"), &id("b")).await,
    ] {
        assert!(
            matches!(refused, Err(RemoveDeviceError::UndoPending)),
            "{refused:?}"
        );
    }
    assert_eq!(store.fleet().await.unwrap(), before, "nothing was changed");
    store.clear_undo(&id("a"), epoch).await.unwrap();
    store.remove_device(&id("a")).await.unwrap();
    assert_eq!(store.fleet().await.unwrap().len(), 1);
}

#[tokio::test]
async fn new_hardware_takes_the_place_of_the_broken_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    store.put_fleet_row(&full_row("old")).await.unwrap();
    store.enroll_by(&id("old"), "Ann", 5).await.unwrap();
    store
        .set_installed(&id("old"), Some(&installed(b"x")), 6)
        .await
        .unwrap();
    let job = finish_job(&store, "old").await;
    let new = FleetRow {
        name: Some("somebody".to_owned()),
        tags: vec!["new".to_owned()],
        seen_ms: Some(50),
        chip: Some("esp32c3".to_owned()),
        ..fleet_row("new")
    };
    store.put_fleet_row(&new).await.unwrap();
    store.replace_device(&id("old"), &id("new")).await.unwrap();
    let old = full_row("old");
    let expected = FleetRow {
        name: old.name,
        tags: old.tags,
        group: old.group,
        pinned: old.pinned,
        skipped: old.skipped,
        username: old.username,
        sealed_password: old.sealed_password,
        slot_bytes: old.slot_bytes,
        ota_wanted: old.ota_wanted,
        enrolled_ms: Some(5),
        enrolled_by: Some("Ann".to_owned()),
        ..new
    };
    assert_eq!(store.fleet().await.unwrap(), [expected]);
    assert_eq!(
        store.installed(&id("new")).await.unwrap(),
        None,
        "it runs what it runs"
    );
    assert_eq!(store.events(job).await.unwrap().len(), 1);
}

#[tokio::test]
async fn who_is_not_known_replaces_nobody_and_nobody_replaces_himself() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    store.put_fleet_row(&full_row("a")).await.unwrap();
    for (old, new, missing) in [("a", "b", "test:b"), ("b", "a", "test:b"), ("b", "c", "test:b")] {
        let replaced = store.replace_device(&id(old), &id(new)).await;
        assert!(
            matches!(&replaced, Err(RemoveDeviceError::UnknownDevice { device }) if device == missing),
            "{replaced:?}"
        );
    }
    let replaced = store.replace_device(&id("a"), &id("a")).await;
    assert!(
        matches!(replaced, Err(RemoveDeviceError::SameDevice)),
        "{replaced:?}"
    );
    assert_eq!(store.fleet().await.unwrap(), [full_row("a")]);
}

#[tokio::test]
async fn what_was_written_beside_the_server_is_found_by_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for (hardware, enrolled_ms) in [("a0b1c2d3e4f5", 100), ("a0b1c2d3e4f6", 200)] {
        store.put_fleet_row(&fleet_row(hardware)).await.unwrap();
        store
            .enroll_by(&id(hardware), "somebody", enrolled_ms)
            .await
            .unwrap();
    }
    let since = |wall_ms| {
        let store = &store;
        async move {
            let rows = store.fleet_since(wall_ms).await.unwrap();
            rows.into_iter().map(|row| row.id.hardware).collect::<Vec<_>>()
        }
    };
    assert_eq!(since(101).await, ["a0b1c2d3e4f6"]);
    assert_eq!(since(100).await.len(), 2);
    assert!(since(201).await.is_empty());
    let installed = Installed {
        digest: Some(*DIGEST),
        label: Versions::one("firmware", "1.0"),
        label_moves: false,
    };
    store
        .set_installed(&id("a0b1c2d3e4f5"), Some(&installed), 300)
        .await
        .unwrap();
    assert_eq!(since(201).await, ["a0b1c2d3e4f5"]);
}

#[tokio::test]
async fn a_device_that_is_new_is_stored_and_enrolled_in_one_commit() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    store
        .put_enrolled_row(&fleet_row("a"), "config", 7)
        .await
        .unwrap();
    let row = store.fleet_row(&id("a")).await.unwrap().unwrap();
    assert_eq!(
        (row.enrolled_ms, row.enrolled_by.as_deref()),
        (Some(7), Some("config"))
    );
    store
        .put_enrolled_row(&fleet_row("a"), "policy", 8)
        .await
        .unwrap();
    let row = store.fleet_row(&id("a")).await.unwrap().unwrap();
    assert_eq!(
        (row.enrolled_ms, row.enrolled_by.as_deref()),
        (Some(7), Some("config")),
        "the first time stays"
    );
}
