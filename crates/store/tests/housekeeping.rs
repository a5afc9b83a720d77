//! What is old goes; what is still needed stays.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::{ADDRESS, device, event, fleet_row, id, member, new_rollout, now, open, poll};
use model::family::Undo;
use model::id::{JobId, RolloutId, Sha256};
use model::time::Now;
use serde_json::{Value, json};
use store::{ANSWERS_KEPT_MS, Answered, Event, Holder, Housekept, Liveness, Retention, Store};

const DAY_MS: i64 = 86_400_000;
const NOW_MS: i64 = 1_000 * DAY_MS;
/// Ten days of everything.
const TEN_DAYS: Retention = Retention {
    samples: Duration::from_hours(240),
    events: Duration::from_hours(240),
    jobs: Duration::from_hours(240),
    answers: Duration::from_hours(240),
};

async fn housekeep(store: &Store) -> Housekept {
    store.housekeep(NOW_MS, &TEN_DAYS).await.unwrap()
}

async fn job(store: &Store, hardware: &str, image: &[u8], wall_ms: i64) -> JobId {
    job_of(store, hardware, image, None, wall_ms).await
}

async fn job_of(
    store: &Store,
    hardware: &str,
    image: &[u8],
    rollout: Option<RolloutId>,
    wall_ms: i64,
) -> JobId {
    let holder = Holder::this_process().unwrap();
    let grant = store
        .acquire_lease(&id(hardware), &holder, common::now(), |_| Liveness::Dead)
        .await;
    let epoch = grant.unwrap().epoch();
    let at = Now { wall_ms, ..now() };
    let first = Event {
        now: at,
        ..event("look", &Value::Null)
    };
    let job = store
        .start_job(&id(hardware), epoch, Sha256::of(image), rollout, &first)
        .await
        .unwrap();
    let last = Event {
        finished: true,
        ..first
    };
    store.append(job, epoch, &last).await.unwrap();
    job
}

#[tokio::test]
async fn with_nothing_in_it_nothing_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    assert_eq!(housekeep(&store).await, Housekept::default());
    let store = device(folder.path(), "a").await;
    assert_eq!(housekeep(&store).await, Housekept::default());
    assert_eq!(store.fleet().await.unwrap().len(), 1, "a device is never too old");
}

#[tokio::test]
async fn old_samples_go_and_the_edge_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for name in ["a", "b"] {
        store.put_fleet_row(&fleet_row(name)).await.unwrap();
        for days in [0, 9, 10, 11, 400] {
            let at_ms = NOW_MS - days * DAY_MS;
            store.save_polls(&[poll(name, at_ms)]).await.unwrap();
        }
    }
    assert_eq!(housekeep(&store).await.n_samples, 4);
    for name in ["a", "b"] {
        assert_eq!(store.samples(&id(name), 0, 100).await.unwrap().len(), 3);
    }
    assert_eq!(housekeep(&store).await, Housekept::default());
}

#[tokio::test]
async fn old_events_go_from_the_front_without_a_gap_and_their_numbers_are_not_given_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    // The fourth was written while the clock was wrong.
    for days in [50, 20, 5, 400, 1] {
        let at_ms = NOW_MS - days * DAY_MS;
        store.append_event("x", None, &Value::Null, at_ms).await.unwrap();
    }
    assert_eq!(housekeep(&store).await.n_events, 2);
    let seqs = |events: Vec<store::FleetEvent>| events.iter().map(|event| event.seq).collect::<Vec<_>>();
    assert_eq!(seqs(store.events_after(0, 100).await.unwrap()), [3, 4, 5]);
    let went = store.housekeep(NOW_MS + 100 * DAY_MS, &TEN_DAYS).await.unwrap();
    assert_eq!(went.n_events, 3);
    assert_eq!(store.last_event().await.unwrap(), 5);
    assert_eq!(store.append_event("x", None, &Value::Null, 1).await.unwrap(), 6);
}

#[tokio::test]
async fn old_jobs_go_but_the_way_back_the_open_and_the_latest_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    device(folder.path(), "b").await;
    device(folder.path(), "gone").await;
    let old = NOW_MS - 50 * DAY_MS;
    let gone = job(&store, "gone", b"one", old).await;
    let one = job(&store, "a", b"one", old).await;
    let two = job(&store, "a", b"two", old).await;
    let three_once = job(&store, "a", b"three", old).await;
    let three = job(&store, "a", b"three", old).await;
    let of_b = job(&store, "b", b"one", old).await;
    let holder = Holder::this_process().unwrap();
    let epoch = store
        .acquire_lease(&id("b"), &holder, common::now(), |_| Liveness::Dead)
        .await
        .unwrap()
        .epoch();
    let undone = job(&store, "b", b"one", old).await;
    let undo = Undo {
        text: "switch updates off again".to_owned(),
        value: Value::Null,
    };
    store
        .set_undo(&id("b"), epoch + 1, Some(of_b), &undo, 1)
        .await
        .unwrap();
    let first = Event {
        now: Now {
            wall_ms: old,
            ..now()
        },
        ..event("look", &Value::Null)
    };
    let open_job = store
        .start_job(&id("b"), epoch + 1, Sha256::of(b"x"), None, &first)
        .await
        .unwrap();
    store.remove_device(&id("gone")).await.unwrap();

    assert_eq!(housekeep(&store).await.n_jobs, 3);
    for (job, stays) in [
        (gone, false),
        (one, false),
        (two, true),
        (three_once, false),
        (three, true),
        (of_b, true),
        (undone, true),
        (open_job, true),
    ] {
        assert_eq!(!store.events(job).await.unwrap().is_empty(), stays, "{job}");
    }
    assert_eq!(housekeep(&store).await.n_jobs, 0);
}

/// A rollout of one device.
async fn rollout(store: &Store, hardware: &str, predecessor: Option<RolloutId>) -> RolloutId {
    let wanted = store::NewRollout {
        predecessor,
        ..new_rollout(&[])
    };
    let members = [member(hardware, 0, &Value::Null)];
    store.create_rollout(&wanted, &members).await.unwrap()
}

async fn end(store: &Store, rollout: RolloutId, ended_ms: i64) {
    store
        .save_rollout(rollout, &Value::Null, Some(ended_ms), &[])
        .await
        .unwrap();
}

#[tokio::test]
async fn jobs_of_an_open_rollout_stay_however_old_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let old = NOW_MS - 50 * DAY_MS;
    let of = rollout(&store, "a", None).await;
    let mut jobs = Vec::new();
    for image in [b"one", b"two", b"six"] {
        jobs.push(job_of(&store, "a", image, Some(of), old).await);
    }
    assert_eq!(housekeep(&store).await, Housekept::default());
    assert_eq!(store.jobs_of(of, &id("a")).await.unwrap().len(), 3);
    end(&store, of, NOW_MS).await;
    assert_eq!(housekeep(&store).await.n_jobs, 1, "the last two are the way back");
    assert!(store.job_row(jobs[0]).await.unwrap().is_none());
}

#[tokio::test]
async fn old_rollouts_go_but_the_open_those_they_follow_and_the_latest_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let old = NOW_MS - 10 * DAY_MS - 1;
    let gone = rollout(&store, "a", None).await;
    let way_back = job_of(&store, "a", b"one", Some(gone), old).await;
    let recent = rollout(&store, "a", Some(gone)).await;
    let followed = rollout(&store, "a", None).await;
    let open_one = rollout(&store, "a", Some(followed)).await;
    let latest = rollout(&store, "a", None).await;
    for ended in [gone, followed, latest] {
        end(&store, ended, old).await;
    }
    end(&store, recent, old + 1).await;
    let went = housekeep(&store).await;
    assert_eq!((went.n_rollouts, went.n_jobs), (1, 0));
    for (rollout, stays) in [
        (gone, false),
        (recent, true),
        (followed, true),
        (open_one, true),
        (latest, true),
    ] {
        assert_eq!(
            store.rollout(rollout).await.unwrap().is_some(),
            stays,
            "{rollout}"
        );
    }
    // What belonged to it stays without it.
    let (row, _) = store.job_row(way_back).await.unwrap().unwrap();
    assert_eq!(row.rollout, None);
    let row = store.rollout(recent).await.unwrap().unwrap().row;
    assert_eq!(row.predecessor, None);

    end(&store, open_one, old).await;
    assert_eq!(housekeep(&store).await.n_rollouts, 2);
    assert_eq!(housekeep(&store).await.n_rollouts, 0);
    assert!(
        rollout(&store, "a", None).await > latest,
        "no number is given again"
    );
}

#[tokio::test]
async fn many_old_rollouts_go_in_several_steps() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    for _ in 0..25 {
        let old = rollout(&store, "a", None).await;
        end(&store, old, 5).await;
    }
    assert_eq!(housekeep(&store).await.n_rollouts, 24);
}

#[tokio::test]
async fn the_row_of_a_removed_device_stays_as_long_as_a_rollout_tells_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    device(folder.path(), "b").await;
    let of_a = rollout(&store, "a", None).await;
    store.remove_device(&id("a")).await.unwrap();
    assert_eq!(housekeep(&store).await.n_devices, 0);
    assert_eq!(
        store.rollout(of_a).await.unwrap().unwrap().members[0].device,
        id("a")
    );
    end(&store, of_a, 5).await;
    rollout(&store, "b", None).await;
    let went = housekeep(&store).await;
    assert_eq!((went.n_rollouts, went.n_devices), (1, 1));
}

/// An index that tells of jobs which are not in the table, as damage may leave it, must not be asked for ever.
#[tokio::test]
async fn housekeeping_of_a_damaged_table_ends_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    for _ in 0..3 {
        job(&store, "a", b"one", 5).await;
        let old = rollout(&store, "a", None).await;
        end(&store, old, 5).await;
    }
    common::tamper(
        folder.path(),
        "create trigger stays before delete on job begin select raise(ignore); end; \
         create trigger stays_too before delete on rollout begin select raise(ignore); end",
    )
    .await;
    let kept = store.housekeep(NOW_MS, &TEN_DAYS).await;
    assert_eq!(kept.unwrap_err().kind, store::StoreErrorKind::Corrupt);
    common::tamper(folder.path(), "drop trigger stays").await;
    let kept = store.housekeep(NOW_MS, &TEN_DAYS).await;
    assert_eq!(kept.unwrap_err().kind, store::StoreErrorKind::Corrupt);
    common::tamper(folder.path(), "drop trigger stays_too").await;
    assert_eq!(housekeep(&store).await.n_rollouts, 2);
}

#[tokio::test]
async fn a_job_number_is_never_given_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let old = job(&store, "a", b"one", 5).await;
    let latest = job(&store, "a", b"one", 5).await;
    store.remove_device(&id("a")).await.unwrap();
    assert_eq!(housekeep(&store).await.n_jobs, 1);
    assert!(store.events(old).await.unwrap().is_empty());
    store.upsert_device(&id("a"), ADDRESS, None, 1).await.unwrap();
    assert!(job(&store, "a", b"one", 5).await > latest);
}

#[tokio::test]
async fn many_old_jobs_go_in_several_steps() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    for _ in 0..130 {
        job(&store, "a", b"one", 5).await;
    }
    assert_eq!(housekeep(&store).await.n_jobs, 129);
}

#[tokio::test]
async fn counted_answers_go_and_an_unlock_forgives_no_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    for _ in 0..5 {
        store.count_answer(&id("a"), NOW_MS - 50 * DAY_MS).await.unwrap();
    }
    store.unlock(&id("a")).await.unwrap();
    assert_eq!(housekeep(&store).await.n_answers, 4);
    for n_failed in 1..=5 {
        store.count_answer(&id("a"), NOW_MS).await.unwrap();
        let counted = store
            .failed_answers_since(&id("a"), NOW_MS - DAY_MS)
            .await
            .unwrap();
        assert_eq!(counted, n_failed);
    }
    // Whatever is asked for, the day that decides about the lock is kept.
    let nothing = Retention {
        answers: Duration::ZERO,
        ..TEN_DAYS
    };
    store.housekeep(NOW_MS + DAY_MS, &nothing).await.unwrap();
    assert_eq!(store.failed_answers_since(&id("a"), NOW_MS).await.unwrap(), 5);
}

#[tokio::test]
async fn answers_to_requests_go_after_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let answered = Answered {
        fingerprint: String::new(),
        status: 200,
        body: json!({}).to_string(),
    };
    for (request, at_ms) in [
        ("old", NOW_MS - ANSWERS_KEPT_MS),
        ("new", NOW_MS - ANSWERS_KEPT_MS + 1),
    ] {
        store.save_answer(request, "ann", &answered, at_ms).await.unwrap();
    }
    assert_eq!(housekeep(&store).await.n_request_answers, 1);
    assert_eq!(store.answer_to("old", "ann").await.unwrap(), None);
    assert_eq!(store.answer_to("new", "ann").await.unwrap(), Some(answered));
}

#[tokio::test]
async fn of_a_removed_device_the_row_goes_with_the_last_that_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "seen once").await;
    device(folder.path(), "pushed to").await;
    job(&store, "pushed to", b"one", NOW_MS).await;
    for name in ["seen once", "pushed to"] {
        store.remove_device(&id(name)).await.unwrap();
    }
    assert_eq!(housekeep(&store).await.n_devices, 1);
    assert_eq!(store.events(JobId(1)).await.unwrap().len(), 2);
    store
        .upsert_device(&id("seen once"), ADDRESS, None, 1)
        .await
        .unwrap();
    assert_eq!(store.fleet().await.unwrap().len(), 1);
}
