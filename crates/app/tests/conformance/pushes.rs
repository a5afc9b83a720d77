//! Pushes to simulated devices, by the real engine.

use model::outcome::Ending;
use tokio::task::JoinSet;

use crate::bench::Bench;
use crate::entries::{self, Cut, Entry, Wish};

async fn all_of(mut all: JoinSet<()>) {
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
}

async fn the_best(entry: Entry) {
    let simulated = (entry.start)(Wish::Good).await;
    let bench = Bench::new(&entry, &*simulated).await;
    let standing = simulated.standing();
    let image = &(entry.images)()[0];
    assert!(!simulated.runs(image), "{}: it runs it already", entry.name);
    let job = bench.push(image, entry.password).await;
    let outcome = job.outcome().unwrap();
    assert_eq!(
        (outcome.ending, outcome.reason.as_deref()),
        entry.best,
        "{}: {outcome:?}",
        entry.name
    );
    assert!(simulated.runs(image), "{}", entry.name);
    assert_eq!(simulated.n_pushes(), 1, "{}", entry.name);
    assert_eq!(simulated.standing(), standing, "{}", entry.name);
    assert_eq!(job.undo, None, "{}", entry.name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_ends_in_the_best_that_its_family_can_prove() {
    let mut all = JoinSet::new();
    for entry in entries::all() {
        all.spawn(the_best(entry));
    }
    all_of(all).await;
}

async fn cut(entry: Entry, at: Cut) {
    let what = format!("{}, cut {at:?}", entry.name);
    let simulated = (entry.start)(Wish::CutAt(at)).await;
    let bench = Bench::new(&entry, &*simulated).await;
    let standing = simulated.standing();
    let image = &(entry.images)()[0];
    let job = bench.push(image, entry.password).await;
    let outcome = job.outcome().unwrap();
    assert!(!simulated.runs(image), "{what}");
    assert!(!outcome.ending.is_success(), "{what}: {outcome:?}");
    assert_ne!(outcome.ending, Ending::AlreadyCurrent, "{what}: {outcome:?}");
    assert!(outcome.next_step.is_some(), "{what}: {outcome:?}");
    let n_pushes = simulated.n_pushes();
    assert!(n_pushes <= 2, "{what}: {n_pushes} pushes");
    // A transfer that dies before the first byte of the image has arrived is not seen as one.
    assert!(n_pushes > 0 || at == Cut::AtOnce, "{what}: not pushed");
    assert_eq!(simulated.standing(), standing, "{what}");
    // And nothing of it is taken for the truth later.
    let id = bench.enroll().await.id;
    let record = bench.store.installed(&id).await.unwrap();
    let digest = record.and_then(|record| record.digest);
    assert_ne!(digest, Some(image.sha256()), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_is_cut_anywhere_never_claims_success() {
    let mut all = JoinSet::new();
    for at in Cut::ALL {
        for entry in entries::all() {
            all.spawn(cut(entry, at));
        }
    }
    all_of(all).await;
}

async fn wrong_password(entry: Entry) {
    let simulated = (entry.start)(Wish::ToBePutBack).await;
    let bench = Bench::new(&entry, &*simulated).await;
    let standing = simulated.standing();
    let job = bench.push(&(entry.images)()[0], "not the password").await;
    let outcome = job.outcome().unwrap();
    assert_eq!(
        (outcome.ending, outcome.reason.as_deref()),
        (Ending::Refused, Some("wrong password")),
        "{}: {outcome:?}",
        entry.name
    );
    assert_eq!(simulated.n_pushes(), 0, "{}", entry.name);
    assert_eq!(
        simulated.standing(),
        standing,
        "{}: it was left changed",
        entry.name
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_refused_before_the_first_byte_and_leaves_nothing_changed() {
    let mut all = JoinSet::new();
    for entry in entries::all() {
        all.spawn(wrong_password(entry));
    }
    all_of(all).await;
}
