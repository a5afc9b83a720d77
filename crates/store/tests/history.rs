//! The history: jobs in pages, of devices and rollouts, and how they ended.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{event, id, member, new_rollout, now, open};
use model::id::{DeviceId, FamilyId, JobId, RolloutId, Sha256};
use model::outcome::{Ending, Outcome};
use model::time::Now;
use serde_json::{Value, json};
use store::{Change, Event, Holder, JobFilter, JobRow, JournalError, Liveness, OutcomeCount, Store};

async fn put_device(store: &Store, id: &DeviceId) {
    store.upsert_device(id, common::ADDRESS, None, 1).await.unwrap();
}

/// A job of two events that began at `wall_ms`, and ended 10 ms later if its outcome is told.
async fn job(
    store: &Store,
    id: &DeviceId,
    image: &[u8],
    rollout: Option<RolloutId>,
    wall_ms: i64,
    outcome: Option<&Outcome>,
) -> JobId {
    let holder = Holder::this_process().unwrap();
    let grant = store
        .acquire_lease(id, &holder, common::now(), |_| Liveness::Dead)
        .await;
    let epoch = grant.unwrap().epoch();
    let first = Event {
        now: Now { wall_ms, ..now() },
        // What is said before the end is not kept.
        outcome,
        ..event("look", &Value::Null)
    };
    let job = store
        .start_job(id, epoch, Sha256::of(image), rollout, &first)
        .await
        .unwrap();
    let state = json!({"at": "last"});
    let last = Event {
        now: Now {
            wall_ms: wall_ms + 10,
            ..now()
        },
        attempt: 2,
        finished: outcome.is_some(),
        outcome,
        ..event("last", &state)
    };
    store.append(job, epoch, &last).await.unwrap();
    job
}

fn updated() -> Outcome {
    Outcome::plain(Ending::Updated, "It runs \"1.1\".")
}

fn kept_old() -> Outcome {
    Outcome::because(Ending::KeptOld, "no answer", "It runs 1.0.", "Push again.")
}

fn numbers(jobs: &[JobRow]) -> Vec<i64> {
    jobs.iter().map(|row| row.job.0).collect()
}

#[tokio::test]
async fn a_job_is_told_with_its_rollout_its_pushes_and_how_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    put_device(&store, &id("a")).await;
    let members = [member("a", 0, &Value::Null)];
    let rollout = store.create_rollout(&new_rollout(&[]), &members).await.unwrap();
    let ended = job(&store, &id("a"), b"one", Some(rollout), 100, Some(&kept_old())).await;
    let running = job(&store, &id("a"), b"two", None, 200, None).await;
    let expected = JobRow {
        job: ended,
        device: id("a"),
        rollout: Some(rollout),
        image: Sha256::of(b"one"),
        n_pushes: 2,
        started_ms: 100,
        ended_ms: Some(110),
        finished: true,
        outcome: Some(kept_old()),
    };
    let (row, state) = store.job_row(ended).await.unwrap().unwrap();
    assert_eq!((row, state), (expected.clone(), json!({"at": "last"})));
    let open_row = JobRow {
        job: running,
        rollout: None,
        image: Sha256::of(b"two"),
        started_ms: 200,
        ended_ms: None,
        finished: false,
        outcome: None,
        ..expected.clone()
    };
    assert_eq!(
        store.jobs(&JobFilter::latest(9)).await.unwrap(),
        [open_row, expected]
    );
    assert_eq!(store.job_row(JobId(9)).await.unwrap(), None);
}

#[tokio::test]
async fn a_job_that_begins_and_ends_in_one_event_tells_how() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    put_device(&store, &id("a")).await;
    let holder = Holder::this_process().unwrap();
    let grant = store
        .acquire_lease(&id("a"), &holder, common::now(), |_| Liveness::Dead)
        .await
        .unwrap();
    let outcome = updated();
    let only = Event {
        finished: true,
        outcome: Some(&outcome),
        ..event("finished", &Value::Null)
    };
    let job = store
        .start_job(&id("a"), grant.epoch(), Sha256::of(b"x"), None, &only)
        .await
        .unwrap();
    let (row, _) = store.job_row(job).await.unwrap().unwrap();
    assert_eq!((row.outcome, row.ended_ms), (Some(outcome), Some(now().wall_ms)));
}

#[tokio::test]
async fn jobs_are_told_in_pages_of_a_device_of_a_rollout_of_both_or_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for name in ["a", "b"] {
        put_device(&store, &id(name)).await;
    }
    let members = [member("a", 0, &Value::Null), member("b", 1, &Value::Null)];
    let mut rollouts = Vec::new();
    for _ in 0..2 {
        rollouts.push(store.create_rollout(&new_rollout(&[]), &members).await.unwrap());
    }
    // 1: a, none; 2: b, none; 3: a, first; 4: b, first; 5: a, second; 6: b, second; and again 7 to 12.
    let outcome = updated();
    for round in 0..2 {
        for (nth, rollout) in (0..).zip([None, Some(rollouts[0]), Some(rollouts[1])]) {
            for name in ["a", "b"] {
                let wall_ms = round * 1_000 + nth * 100;
                job(&store, &id(name), b"x", rollout, wall_ms, Some(&outcome)).await;
            }
        }
    }
    let all = JobFilter::latest(100);
    let of_a = JobFilter {
        device: Some(id("a")),
        ..all.clone()
    };
    let of_first = JobFilter {
        rollout: Some(rollouts[0]),
        ..all.clone()
    };
    let of_both = JobFilter {
        rollout: Some(rollouts[1]),
        ..of_a.clone()
    };
    let of_nobody = JobFilter {
        device: Some(id("never")),
        ..all.clone()
    };
    let since = JobFilter {
        since_ms: Some(1_100),
        ..all.clone()
    };
    let cases: [(&JobFilter, &[i64]); 6] = [
        (&all, &[12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        (&of_a, &[11, 9, 7, 5, 3, 1]),
        (&of_first, &[10, 9, 4, 3]),
        (&of_both, &[11, 5]),
        (&of_nobody, &[]),
        (&since, &[12, 11, 10, 9]),
    ];
    for (filter, expected) in cases {
        assert_eq!(
            numbers(&store.jobs(filter).await.unwrap()),
            expected,
            "{filter:?}"
        );
        // In pages of two, none is left out and none comes twice.
        let mut paged = Vec::new();
        loop {
            let page = JobFilter {
                limit: 2,
                before: paged.last().copied().map(JobId),
                ..filter.clone()
            };
            let page = numbers(&store.jobs(&page).await.unwrap());
            assert!(page.len() <= 2);
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, expected, "{filter:?}");
    }
    assert_eq!(
        numbers(&store.jobs_of(rollouts[0], &id("b")).await.unwrap()),
        [4, 10],
        "the oldest first"
    );
}

#[tokio::test]
async fn endings_are_counted_by_family_and_image_from_a_moment_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let other = DeviceId::from_hardware(&FamilyId::new("other"), "a");
    put_device(&store, &id("a")).await;
    put_device(&store, &other).await;
    let (good, bad) = (updated(), kept_old());
    for (device, image, wall_ms, outcome) in [
        (&id("a"), b"one", 90, Some(&good)),
        (&id("a"), b"one", 89, Some(&good)),
        (&id("a"), b"one", 91, Some(&good)),
        (&id("a"), b"one", 92, Some(&bad)),
        (&id("a"), b"two", 93, Some(&bad)),
        (&other, b"one", 94, Some(&good)),
        (&id("a"), b"two", 95, None),
    ] {
        job(&store, device, image, None, wall_ms, outcome).await;
    }
    let count = |family: &str, image: &[u8], ending, n_jobs| OutcomeCount {
        family: FamilyId::new(family),
        image: Sha256::of(image),
        ending,
        n_jobs,
    };
    let mut counts = store.outcome_counts(100).await.unwrap();
    counts.sort_by_key(|count| {
        (
            count.family.to_string(),
            count.n_jobs,
            count.image == Sha256::of(b"two"),
        )
    });
    assert_eq!(
        counts,
        [
            count("other", b"one", Ending::Updated, 1),
            count("test", b"one", Ending::KeptOld, 1),
            count("test", b"two", Ending::KeptOld, 1),
            count("test", b"one", Ending::Updated, 2),
        ]
    );
    assert_eq!(store.outcome_counts(1_000).await.unwrap(), []);
}

#[tokio::test]
async fn every_word_for_an_ending_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    put_device(&store, &id("a")).await;
    let endings = [
        Ending::Updated,
        Ending::UpdatedLabelUnchanged,
        Ending::AlreadyCurrent,
        Ending::KeptOld,
        Ending::RolledBack,
        Ending::Failed,
        Ending::Unverified,
        Ending::Refused,
        Ending::Cancelled,
    ];
    for ending in endings {
        job(&store, &id("a"), b"x", None, 1, Some(&Outcome::plain(ending, ""))).await;
    }
    let counts = store.outcome_counts(0).await.unwrap();
    assert_eq!(counts.len(), endings.len());
    for ending in endings {
        assert!(
            counts
                .iter()
                .any(|count| (count.ending, count.n_jobs) == (ending, 1)),
            "{ending:?}"
        );
    }
}

#[tokio::test]
async fn the_history_of_a_removed_device_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    put_device(&store, &id("a")).await;
    let members = [member("a", 0, &Value::Null)];
    let rollout = store.create_rollout(&new_rollout(&[]), &members).await.unwrap();
    job(&store, &id("a"), b"x", Some(rollout), 1, Some(&updated())).await;
    store.remove_device(&id("a")).await.unwrap();
    let of_a = JobFilter {
        device: Some(id("a")),
        ..JobFilter::latest(9)
    };
    assert_eq!(store.jobs(&of_a).await.unwrap()[0].device, id("a"));
    assert_eq!(store.rollout(rollout).await.unwrap().unwrap().members, members);
}

fn unverified() -> Outcome {
    Outcome::because(Ending::Unverified, "no return", "It is away.", "Look.")
}

async fn lease(store: &Store, id: &DeviceId) -> i64 {
    let holder = Holder::this_process().unwrap();
    let grant = store
        .acquire_lease(id, &holder, common::now(), |_| Liveness::Dead)
        .await;
    grant.unwrap().epoch()
}

async fn unproven(store: &Store, since_ms: i64) -> Vec<i64> {
    let jobs = store.unproven_jobs(since_ms).await.unwrap();
    jobs.into_iter().map(|unproven| unproven.job.0).collect()
}

#[tokio::test]
async fn what_was_not_proven_is_asked_for_until_it_is_old_proven_or_followed_by_another_job() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for device in ["a", "b", "c"] {
        put_device(&store, &id(device)).await;
    }
    let old = job(&store, &id("a"), b"one", None, 100, Some(&unverified())).await;
    let new = job(&store, &id("b"), b"one", None, 200, Some(&unverified())).await;
    job(&store, &id("c"), b"one", None, 300, Some(&kept_old())).await;
    assert_eq!(unproven(&store, 0).await, [old.0, new.0]);
    assert_eq!(unproven(&store, 150).await, [new.0]);
    // Another job of the device, even one that has not ended, speaks for it from now on.
    job(&store, &id("b"), b"two", None, 400, None).await;
    assert_eq!(unproven(&store, 0).await, [old.0]);
}

#[tokio::test]
async fn a_correction_is_one_more_event_and_changes_outcome_and_record_and_nothing_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    put_device(&store, &id("a")).await;
    let members = [member("a", 0, &Value::Null)];
    let rollout = store.create_rollout(&new_rollout(&[]), &members).await.unwrap();
    let job = job(&store, &id("a"), b"one", Some(rollout), 100, Some(&unverified())).await;
    let before = store.events(job).await.unwrap();
    let epoch = lease(&store, &id("a")).await;
    let outcome = updated();
    let installed = model::installed::Installed {
        digest: Some(Sha256::of(b"one")),
        label: model::version::Versions::one("firmware", "2.0"),
        label_moves: true,
    };
    let state = json!({"at": "corrected"});
    let event = Event {
        attempt: 2,
        finished: true,
        outcome: Some(&outcome),
        installed: Change::Set(&installed),
        ..event("corrected", &state)
    };
    let fenced = store.correct(job, epoch - 1, &event).await;
    assert!(matches!(fenced, Err(JournalError::Fenced)), "{fenced:?}");
    assert_eq!(store.correct(job, epoch, &event).await.unwrap(), 3);
    let (row, stored) = store.job_row(job).await.unwrap().unwrap();
    assert_eq!(
        (row.outcome, row.ended_ms, row.n_pushes),
        (Some(outcome.clone()), Some(110), 2)
    );
    assert_eq!(stored, state);
    let events = store.events(job).await.unwrap();
    assert_eq!(
        (&events[..2], events[2].step.as_str()),
        (&before[..], "corrected")
    );
    assert_eq!(
        store.installed(&id("a")).await.unwrap().as_ref(),
        Some(&installed)
    );
    assert!(unproven(&store, 0).await.is_empty());
    assert_eq!(numbers(&store.corrected_jobs(0).await.unwrap()), [job.0]);
    // Once is enough.
    let again = store.correct(job, epoch, &event).await;
    assert!(
        matches!(again, Err(JournalError::NotUnproven(told)) if told == job),
        "{again:?}"
    );
    let none = store.correct(JobId(99), epoch, &event).await;
    assert!(matches!(none, Err(JournalError::NoSuchJob(_))), "{none:?}");
}

#[tokio::test]
async fn the_end_of_a_job_that_another_has_followed_is_not_corrected() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    put_device(&store, &id("a")).await;
    let first = job(&store, &id("a"), b"one", None, 100, Some(&unverified())).await;
    job(&store, &id("a"), b"two", None, 200, Some(&updated())).await;
    let epoch = lease(&store, &id("a")).await;
    let outcome = updated();
    let event = Event {
        finished: true,
        outcome: Some(&outcome),
        ..event("corrected", &Value::Null)
    };
    let refused = store.correct(first, epoch, &event).await;
    assert!(
        matches!(refused, Err(JournalError::NotUnproven(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_member_is_corrected_once_its_rollout_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    put_device(&store, &id("a")).await;
    let members = [member("a", 0, &json!("unverified"))];
    let rollout = store.create_rollout(&new_rollout(&[]), &members).await.unwrap();
    let state = json!("updated");
    let early = store.correct_member(rollout, &id("a"), &state).await;
    assert!(early.is_err(), "an open rollout is stored as a whole");
    store
        .save_rollout(rollout, &Value::Null, Some(9), &[])
        .await
        .unwrap();
    assert!(store.correct_member(rollout, &id("b"), &state).await.is_err());
    store.correct_member(rollout, &id("a"), &state).await.unwrap();
    let whole = store.rollout(rollout).await.unwrap().unwrap();
    assert_eq!(whole.members[0].state, state);
}

#[tokio::test]
async fn how_an_image_fared_is_told_since_its_quarantine_was_lifted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for device in ["a", "b"] {
        put_device(&store, &id(device)).await;
    }
    let image = model::image::Image::new("one.bin", b"one".to_vec());
    store.put_firmware(&common::firmware_row(&image)).await.unwrap();
    job(&store, &id("a"), b"one", None, 100, Some(&kept_old())).await;
    job(&store, &id("b"), b"two", None, 200, Some(&updated())).await;
    let ends = store.ends_of_image(image.sha256()).await.unwrap();
    assert_eq!(ends, [(id("a"), kept_old())]);
    // An approval of what is in no quarantine forgets nothing.
    store.approve_firmware(image.sha256(), "Ann", 1).await.unwrap();
    assert_eq!(store.ends_of_image(image.sha256()).await.unwrap().len(), 1);
    let quarantine = store::Quarantine {
        since_ms: 1,
        devices: Vec::new(),
    };
    store
        .quarantine_firmware(image.sha256(), &quarantine)
        .await
        .unwrap();
    store.approve_firmware(image.sha256(), "Ann", 2).await.unwrap();
    assert!(store.ends_of_image(image.sha256()).await.unwrap().is_empty());
    job(&store, &id("b"), b"one", None, 300, Some(&updated())).await;
    let ends = store.ends_of_image(image.sha256()).await.unwrap();
    assert_eq!(ends, [(id("b"), updated())]);
}
