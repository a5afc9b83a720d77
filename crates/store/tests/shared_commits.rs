//! Those who write at the same time share a commit, and nothing else.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::future::Future;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use common::children::{childs_folder, fill, run_on_disk};
use common::{DIGEST, device, event, id, open};
use model::id::JobId;
use serde_json::{Value, json};
use store::{Holder, JournalError, Liveness, Store, StoreErrorKind};
use tokio::task::JoinSet;

const N_DEVICES: usize = 40;

/// The commits of a folder's database since it was opened.
fn n_commits(folder: &Path) -> u32 {
    // "iChange", the third word of the index of the log (sqlite.org/walformat.html, "The WAL-Index Header").
    let index = std::fs::File::open(folder.join("reflash.db-shm")).unwrap();
    let mut word = [0; 4];
    index.read_exact_at(&mut word, 8).unwrap();
    u32::from_ne_bytes(word)
}

/// A device with its lease and a job that has begun.
async fn begun(store: &Store, name: &str) -> (JobId, i64) {
    store
        .upsert_device(&id(name), common::ADDRESS, None, 1)
        .await
        .unwrap();
    let holder = Holder {
        host: "host".to_owned(),
        boot_id: "boot".to_owned(),
        pid: 1,
        process_start_ticks: u64::MAX,
    };
    let grant = store
        .acquire_lease(&id(name), &holder, common::now(), |_| Liveness::Alive)
        .await
        .unwrap();
    let state = json!("begun");
    let job = store
        .start_job(&id(name), grant.epoch(), *DIGEST, None, &event("begun", &state))
        .await
        .unwrap();
    (job, grant.epoch())
}

async fn begun_all(store: &Store) -> Vec<(JobId, i64)> {
    let mut jobs = Vec::new();
    for n in 0..N_DEVICES {
        jobs.push(begun(store, &format!("device-{n}")).await);
    }
    jobs
}

/// The last event's number of each job, as another connection sees it.
async fn last_seqs(folder: &Path, jobs: &[(JobId, i64)]) -> Vec<usize> {
    let store = open(folder).await;
    let mut last = Vec::new();
    for (job, _) in jobs {
        last.push(store.events(*job).await.unwrap().len());
    }
    last
}

#[tokio::test]
async fn many_who_write_at_once_share_commits_and_each_has_its_own_when_it_returns() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let jobs = begun_all(&store).await;
    let other = open(folder.path()).await;
    let before = n_commits(folder.path());
    let mut writers = JoinSet::new();
    for (job, epoch) in jobs {
        let (store, other) = (store.clone(), other.clone());
        writers.spawn(async move {
            for n in 2..=4 {
                let state = json!(n);
                let seq = store.append(job, epoch, &event("next", &state)).await.unwrap();
                assert_eq!(seq, n);
                let seen = other.events(job).await.unwrap().len();
                assert_eq!(i64::try_from(seen).unwrap(), n, "it returned before its commit");
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    let n_commits = n_commits(folder.path()) - before;
    let n_writes = u32::try_from(3 * N_DEVICES).unwrap();
    assert!(
        n_commits <= n_writes / 4,
        "{n_commits} commits for {n_writes} writes"
    );
}

#[tokio::test]
async fn one_who_writes_alone_commits_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let (job, epoch) = begun(&store, "b").await;
    let before = n_commits(folder.path());
    for n in 0..5 {
        store.append(job, epoch, &event("next", &json!(n))).await.unwrap();
    }
    assert_eq!(n_commits(folder.path()) - before, 5);
}

#[tokio::test]
async fn one_who_is_refused_takes_nothing_of_the_others_with_him() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let jobs = begun_all(&store).await;
    let mut writers = JoinSet::new();
    for (n, (job, epoch)) in jobs.clone().into_iter().enumerate() {
        let store = store.clone();
        writers.spawn(async move {
            let state = json!(n);
            match n % 4 {
                // One whose lease is gone, and one whose statement fails after another was done.
                1 => {
                    let fenced = store.append(job, epoch + 1, &event("next", &state)).await;
                    assert!(matches!(fenced, Err(JournalError::Fenced)), "{fenced:?}");
                }
                2 => {
                    let twice = [common_member(n), common_member(n)];
                    let plan = Value::Null;
                    let broken = store.create_rollout(&rollout(&plan), &twice).await;
                    assert!(broken.is_err(), "a member twice at one place");
                }
                _ => assert_eq!(store.append(job, epoch, &event("next", &state)).await.unwrap(), 2),
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    assert!(!store.is_lost());
    assert_eq!(
        store.rollouts(10, None).await.unwrap(),
        [],
        "half a rollout is none"
    );
    store.close().await;
    let expected: Vec<usize> = (0..N_DEVICES)
        .map(|n| if matches!(n % 4, 1 | 2) { 1 } else { 2 })
        .collect();
    assert_eq!(last_seqs(folder.path(), &jobs).await, expected);
}

fn common_member(n: usize) -> store::MemberRow {
    store::MemberRow {
        device: id(&format!("device-{n}")),
        idx: 0,
        state: json!("queued"),
    }
}

fn rollout(plan: &Value) -> store::NewRollout<'_> {
    store::NewRollout {
        asked: None,
        name: None,
        kind: "update",
        plan,
        state: plan,
        created_ms: 1,
        created_by: "test",
        predecessor: None,
        images: &[],
    }
}

/// Polls a future so often, with a moment in between, and drops it.
async fn give_up_after(n_polls: usize, write: impl Future) {
    let mut write = pin!(write);
    for _ in 0..n_polls {
        let polled = write.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if polled.is_ready() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn one_who_is_gone_in_the_middle_holds_up_nobody_and_leaves_nothing_half() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let jobs = begun_all(&store).await;
    let gone = *jobs.last().unwrap();
    for n_polls in 1..=12 {
        // Alone, and between others.
        give_up_after(
            n_polls,
            store.append(gone.0, gone.1, &event("gone", &Value::Null)),
        )
        .await;
        let other = open(folder.path()).await;
        let first = id("device-0");
        let alone = other.count_answer(&first, 1);
        tokio::time::timeout(Duration::from_secs(4), alone)
            .await
            .unwrap_or_else(|_| panic!("given up after {n_polls} polls, it still keeps others from writing"))
            .unwrap();
        let state = json!(n_polls);
        let next = event("next", &state);
        let others = async {
            let (first, second) = tokio::join!(
                store.append(jobs[0].0, jobs[0].1, &next),
                store.append(jobs[1].0, jobs[1].1, &next),
            );
            (first.unwrap(), second.unwrap())
        };
        let given_up = event("gone", &Value::Null);
        let ((first, second), ()) = tokio::join!(
            others,
            give_up_after(n_polls, store.append(gone.0, gone.1, &given_up))
        );
        let seq = i64::try_from(n_polls).unwrap() + 1;
        assert_eq!((first, second), (seq, seq));
    }
    assert!(!store.is_lost());
    let (job, epoch) = gone;
    let last = store
        .append(job, epoch, &event("last", &Value::Null))
        .await
        .unwrap();
    let events = store.events(job).await.unwrap();
    assert_eq!(
        i64::try_from(events.len()).unwrap(),
        last,
        "no event is half there"
    );
}

#[tokio::test]
async fn child_writes_together_until_the_disk_is_full() {
    let Some(folder) = childs_folder() else { return };
    println!("was a child");
    let store = device(&folder, "a").await;
    let jobs = begun_all(&store).await;
    let filler = fill(&folder);
    let mut writers = JoinSet::new();
    for (job, epoch) in jobs.clone() {
        let store = store.clone();
        writers.spawn(async move {
            let state = json!("x".repeat(3_000));
            let mut told = 1;
            loop {
                match store.append(job, epoch, &event("next", &state)).await {
                    Ok(seq) => told = seq,
                    Err(JournalError::Store(error)) => {
                        assert_eq!(error.kind, StoreErrorKind::Full, "{error:?}");
                        return (job, told);
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
    }
    let mut told = Vec::new();
    while let Some(ended) = writers.join_next().await {
        told.push(ended.unwrap());
    }
    assert!(!store.is_lost());
    for (job, told) in told {
        let n_events = store.events(job).await.unwrap().len();
        assert_eq!(
            i64::try_from(n_events).unwrap(),
            told,
            "what was told is there, and nothing else"
        );
    }
    std::fs::remove_file(&filler).unwrap();
    let (job, epoch) = jobs[0];
    store
        .append(job, epoch, &event("next", &Value::Null))
        .await
        .unwrap();
}

#[test]
fn on_a_full_disk_all_that_was_told_is_there_and_nothing_that_was_not() {
    run_on_disk("size=4m", "child_writes_together_until_the_disk_is_full");
}
