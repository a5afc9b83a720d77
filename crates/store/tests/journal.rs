//! The journal, the leases that fence it, and what is committed with it.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::{DIGEST, device, event, id, now, open};
use model::family::Undo;
use model::id::JobId;
use model::installed::Installed;
use model::lease::{GRACE, TTL};
use model::time::Now;
use model::version::Versions;
use serde_json::{Value, json};
use store::{Change, Event, Holder, JournalError, LeaseError, LeaseGrant, Liveness, Store};

fn holder(pid: u32) -> Holder {
    Holder {
        host: "host".to_owned(),
        boot_id: "boot".to_owned(),
        pid,
        process_start_ticks: u64::MAX,
    }
}

async fn lease(store: &Store, name: &str) -> i64 {
    let grant = store
        .acquire_lease(&id(name), &holder(1), now(), |_| Liveness::Alive)
        .await;
    grant.unwrap().epoch()
}

#[tokio::test]
async fn a_job_is_its_events_in_order_and_ends_with_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let epoch = lease(&store, "a").await;
    let state = json!({"at": "look"});
    let first = event("look", &state);
    let job = store
        .start_job(&id("a"), epoch, *DIGEST, None, &first)
        .await
        .unwrap();
    assert_eq!(
        store.open_job(&id("a")).await.unwrap().unwrap().state,
        json!({"at": "look"})
    );
    let (state, detail) = (json!({"at": "push"}), json!(["evidence", 7, null]));
    let second = Event {
        attempt: 2,
        detail: &detail,
        ..event("intent", &state)
    };
    assert_eq!(store.append(job, epoch, &second).await.unwrap(), 2);
    let open_job = store.open_job(&id("a")).await.unwrap().unwrap();
    assert_eq!((open_job.job, open_job.image), (job, *DIGEST));
    assert_eq!((open_job.last, open_job.boot_id.as_str()), (now(), "boot"));
    assert_eq!(open_job.state, state);
    let last = Event {
        finished: true,
        ..event("finish", &Value::Null)
    };
    assert_eq!(store.append(job, epoch, &last).await.unwrap(), 3);
    assert_eq!(store.open_job(&id("a")).await.unwrap(), None);

    let late = store.append(job, epoch, &second).await;
    assert!(matches!(late, Err(JournalError::Finished(finished)) if finished == job));
    let events = store.events(job).await.unwrap();
    let steps: Vec<_> = events.iter().map(|row| (row.seq, row.step.as_str())).collect();
    assert_eq!(steps, [(1, "look"), (2, "intent"), (3, "finish")]);
    let second = &events[1];
    assert_eq!(
        (second.attempt, second.epoch, &second.detail),
        (2, epoch, &detail)
    );
    assert_eq!((second.now, second.boot_id.as_str()), (now(), "boot"));
}

#[tokio::test]
async fn a_state_that_is_a_bare_number_or_text_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let epoch = lease(&store, "a").await;
    let job = store
        .start_job(&id("a"), epoch, *DIGEST, None, &event("look", &json!(7)))
        .await
        .unwrap();
    for state in [
        json!(7),
        json!(1.5),
        json!("7"),
        json!("it's ü\u{0}"),
        json!(null),
        json!(u64::MAX),
    ] {
        store.append(job, epoch, &event("look", &state)).await.unwrap();
        assert_eq!(store.open_job(&id("a")).await.unwrap().unwrap().state, state);
    }
}

#[tokio::test]
async fn a_device_has_one_unfinished_job() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let epoch = lease(&store, "a").await;
    let first = event("look", &Value::Null);
    let job = store
        .start_job(&id("a"), epoch, *DIGEST, None, &first)
        .await
        .unwrap();
    let second = store.start_job(&id("a"), epoch, *DIGEST, None, &first).await;
    assert!(matches!(second, Err(JournalError::JobOpen(open)) if open == job));
    let end = Event {
        finished: true,
        ..first
    };
    store.append(job, epoch, &end).await.unwrap();
    let next = store
        .start_job(&id("a"), epoch, *DIGEST, None, &end)
        .await
        .unwrap();
    assert!(next > job);
    assert_eq!(
        store.open_job(&id("a")).await.unwrap(),
        None,
        "it began and ended in one event"
    );
}

#[tokio::test]
async fn no_event_is_written_to_a_job_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let epoch = lease(&store, "a").await;
    let lost = store.append(JobId(7), epoch, &event("look", &Value::Null)).await;
    assert!(matches!(lost, Err(JournalError::NoSuchJob(JobId(7)))));
}

fn turn_off() -> Undo {
    Undo {
        text: "turn OTA off again".to_owned(),
        value: json!({"ota": false}),
    }
}

fn runs(version: &str) -> Installed {
    Installed {
        digest: Some(*DIGEST),
        label: Versions::one("firmware", version),
        label_moves: true,
    }
}

#[tokio::test]
async fn a_fenced_write_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let late = lease(&store, "a").await;
    let (undo, installed) = (turn_off(), runs("1.0"));
    let first = Event {
        undo: Change::Set(&undo),
        installed: Change::Set(&installed),
        ..event("look", &Value::Null)
    };
    let job = store
        .start_job(&id("a"), late, *DIGEST, None, &first)
        .await
        .unwrap();
    let grant = store
        .acquire_lease(&id("a"), &holder(2), now(), |_| Liveness::Dead)
        .await
        .unwrap();
    assert_eq!(grant, LeaseGrant::TookOverDead { epoch: late + 1 });
    let before = (
        store.events(job).await.unwrap(),
        store.open_job(&id("a")).await.unwrap(),
    );
    let other = runs("2.0");
    let last = Event {
        finished: true,
        undo: Change::Clear,
        installed: Change::Set(&other),
        ..event("finish", &Value::Null)
    };
    for epoch in [late, late + 2, 0] {
        assert!(matches!(
            store.append(job, epoch, &last).await,
            Err(JournalError::Fenced)
        ));
        let begun = store.start_job(&id("a"), epoch, *DIGEST, None, &first).await;
        assert!(matches!(begun, Err(JournalError::Fenced)));
        assert!(matches!(
            store.clear_undo(&id("a"), epoch).await,
            Err(JournalError::Fenced)
        ));
        let set = store.set_undo(&id("a"), epoch, None, &undo, 0).await;
        assert!(matches!(set, Err(JournalError::Fenced)));
        assert!(matches!(
            store.renew_lease(&id("a"), epoch, now()).await,
            Err(LeaseError::Fenced)
        ));
        assert!(matches!(
            store.release_lease(&id("a"), epoch).await,
            Err(LeaseError::Fenced)
        ));
    }
    let after = (
        store.events(job).await.unwrap(),
        store.open_job(&id("a")).await.unwrap(),
    );
    assert_eq!(before, after);
    assert_eq!(store.pending_undo(&id("a")).await.unwrap(), Some(undo));
    assert_eq!(store.installed(&id("a")).await.unwrap(), Some(installed));
    assert_eq!(store.append(job, grant.epoch(), &last).await.unwrap(), 2);
}

#[tokio::test]
async fn the_lease_of_another_device_fences_nothing_in() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    device(folder.path(), "b").await;
    let a = lease(&store, "a").await;
    let job = store
        .start_job(&id("a"), a, *DIGEST, None, &event("look", &Value::Null))
        .await
        .unwrap();
    store.release_lease(&id("a"), a).await.unwrap();
    assert_eq!(lease(&store, "b").await, a);
    let late = store.append(job, a, &event("push", &Value::Null)).await;
    assert!(matches!(late, Err(JournalError::Fenced)));
}

#[tokio::test]
async fn the_last_event_the_record_and_the_undo_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let epoch = lease(&store, "a").await;
    let (undo, installed) = (turn_off(), runs("2.0"));
    let first = Event {
        undo: Change::Set(&undo),
        ..event("look", &Value::Null)
    };
    let job = store
        .start_job(&id("a"), epoch, *DIGEST, None, &first)
        .await
        .unwrap();
    let pending = store.pending_undos().await.unwrap();
    assert_eq!(
        (pending.len(), &pending[0].device, pending[0].job),
        (1, &id("a"), Some(job))
    );
    assert_eq!(
        (&pending[0].undo, pending[0].since_wall_ms),
        (&undo, now().wall_ms)
    );
    let last = Event {
        finished: true,
        installed: Change::Set(&installed),
        ..event("finish", &Value::Null)
    };
    store.append(job, epoch, &last).await.unwrap();
    assert_eq!(store.installed(&id("a")).await.unwrap(), Some(installed));
    assert_eq!(
        store.pending_undo(&id("a")).await.unwrap(),
        Some(undo),
        "it outlives the job"
    );
    store.clear_undo(&id("a"), epoch).await.unwrap();
    assert_eq!(store.pending_undo(&id("a")).await.unwrap(), None);
}

#[tokio::test]
async fn of_two_that_race_for_a_lease_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let one = device(folder.path(), "a").await;
    let two = open(folder.path()).await;
    for round in 1..=20 {
        let a = id("a");
        let (left, right) = (holder(1), holder(2));
        let (left, right) = tokio::join!(
            one.acquire_lease(&a, &left, now(), |_| Liveness::Alive),
            two.acquire_lease(&a, &right, now(), |_| Liveness::Unknown),
        );
        let (won, lost) = match (left, right) {
            (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
            other => panic!("not one winner: {other:?}"),
        };
        assert_eq!(won, LeaseGrant::Fresh { epoch: round });
        assert!(
            matches!(lost, LeaseError::Held { free_in, .. } if free_in == TTL + GRACE),
            "{lost:?}"
        );
        one.release_lease(&a, round).await.unwrap();
    }
}

/// So long after the first moment by the clock since boot, while the wall clock was set by so many days.
fn at(after: Duration, days: i64) -> Now {
    Now {
        boot: now().boot + after,
        wall_ms: now().wall_ms + days * 86_400_000,
    }
}

#[tokio::test]
async fn a_lease_that_may_be_alive_is_kept_for_its_time_and_the_grace_however_the_wall_clock_is_set() {
    let ms = Duration::from_millis(1);
    let begun = Duration::from_secs(4);
    let free = begun + TTL + GRACE;
    let almost = free.saturating_sub(ms);
    for alive in [Liveness::Alive, Liveness::Unknown] {
        for days in [-3_650, -1, 0, 1, 3_650] {
            let folder = tempfile::tempdir().unwrap();
            let store = device(folder.path(), "a").await;
            let epoch = lease(&store, "a").await;
            let renewed = at(Duration::from_secs(4), 0);
            store.renew_lease(&id("a"), epoch, renewed).await.unwrap();
            let ask = async |after| {
                store
                    .acquire_lease(&id("a"), &holder(2), at(after, days), |_| alive)
                    .await
            };
            for (after, left) in [(begun, TTL + GRACE), (almost, ms)] {
                let Err(LeaseError::Held { by, free_in }) = ask(after).await else {
                    panic!("a living lease was taken, the wall clock set by {days} days");
                };
                assert_eq!((by, free_in), (holder(1), left));
            }
            assert_eq!(ask(free).await.unwrap(), LeaseGrant::Expired { epoch: epoch + 1 });
        }
    }
}

#[tokio::test]
async fn a_lease_of_another_machine_is_free_once_it_was_not_renewed_for_as_long_as_it_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let epoch = lease(&store, "a").await;
    let elsewhere = Holder {
        boot_id: "elsewhere".to_owned(),
        ..holder(2)
    };
    let ask = async |after, days| {
        let asks = at(after, days);
        store
            .acquire_lease(&id("a"), &elsewhere, asks, |_| Liveness::Unknown)
            .await
    };
    let (hour, second) = (Duration::from_hours(1), Duration::from_secs(1));
    // Its own clock says nothing of when the lease was renewed, however far it has gone.
    assert!(ask(hour, 1).await.is_err());
    let almost = (hour + TTL + GRACE).saturating_sub(second);
    assert!(matches!(ask(almost, 3_650).await, Err(LeaseError::Held { free_in, .. }) if free_in == second));
    store.renew_lease(&id("a"), epoch, at(second, -1)).await.unwrap();
    assert!(ask(almost + second, -1).await.is_err(), "it was renewed");
    let free = almost + second + TTL + GRACE;
    assert_eq!(
        ask(free, -1).await.unwrap(),
        LeaseGrant::Expired { epoch: epoch + 1 }
    );
    // What was asked before counts for the lease before.
    let back = store
        .acquire_lease(&id("a"), &holder(1), at(2 * hour, 0), |_| Liveness::Unknown)
        .await;
    assert!(back.is_err(), "{back:?}");
}

#[tokio::test]
async fn a_device_that_was_never_stored_has_no_lease() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let none = store
        .acquire_lease(&id("a"), &holder(1), now(), |_| Liveness::Alive)
        .await;
    assert!(matches!(none, Err(LeaseError::UnknownDevice { .. })));
}

#[tokio::test]
async fn many_writers_in_one_folder_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..6 {
        let path = folder.path().to_owned();
        writers.spawn(async move {
            let name = format!("device {writer}");
            let store = device(&path, &name).await;
            let epoch = lease(&store, &name).await;
            let first = event("look", &Value::Null);
            let job = store
                .start_job(&id(&name), epoch, *DIGEST, None, &first)
                .await
                .unwrap();
            for _ in 0..30 {
                store
                    .append(job, epoch, &event("step", &Value::Null))
                    .await
                    .unwrap();
            }
            (job, store.events(job).await.unwrap().len())
        });
    }
    let mut jobs = Vec::new();
    while let Some(ended) = writers.join_next().await {
        let (job, n_events) = ended.unwrap();
        assert_eq!(n_events, 31);
        jobs.push(job);
    }
    jobs.sort();
    jobs.dedup();
    assert_eq!(jobs.len(), 6);
}

#[tokio::test]
async fn a_thousand_events_are_written_and_their_rate_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let epoch = lease(&store, "a").await;
    let state = json!({"at": "push", "evidence": "x".repeat(400)});
    let job = store
        .start_job(&id("a"), epoch, *DIGEST, None, &event("look", &state))
        .await
        .unwrap();
    let begin = std::time::Instant::now();
    let mut slowest = Duration::ZERO;
    for _ in 0..1_000 {
        let one = std::time::Instant::now();
        store.append(job, epoch, &event("step", &state)).await.unwrap();
        slowest = slowest.max(one.elapsed());
    }
    let rate = 1_000.0 / begin.elapsed().as_secs_f64();
    println!("{rate:.0} durable events/s, the slowest took {slowest:?}");
    let seqs: Vec<_> = store
        .events(job)
        .await
        .unwrap()
        .iter()
        .map(|row| row.seq)
        .collect();
    assert_eq!(seqs, (1..=1_001).collect::<Vec<i64>>());
}

#[tokio::test]
async fn the_devices_with_unfinished_jobs_are_told_in_the_order_of_their_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let mut begun = Vec::new();
    for name in ["b", "a", "c"] {
        let store = device(folder.path(), name).await;
        let epoch = lease(&store, name).await;
        let first = event("look", &Value::Null);
        let job = store
            .start_job(&id(name), epoch, *DIGEST, None, &first)
            .await
            .unwrap();
        begun.push((store, job, epoch));
    }
    let (store, job, epoch) = &begun[1];
    let last = Event {
        finished: true,
        ..event("done", &Value::Null)
    };
    store.append(*job, *epoch, &last).await.unwrap();
    assert_eq!(store.devices_with_open_jobs().await.unwrap(), [id("b"), id("c")]);
}
