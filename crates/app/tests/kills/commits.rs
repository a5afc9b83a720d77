//! Every commit of one job is the last one of a server.
//!
//! Commits are counted from outside, in the index of the database's log; a lock on it lets no further one happen until the
//! server is dead. Once so many commits are asked for that the rollout is over before, every one was met.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::case::{Case, Last, ROLLOUT, check, steps_told, watch};
use crate::world::{Goal, Reached, World};

/// Servers that are being brought to their commit at the same time.
const N_AT_ONCE: usize = 5;
/// Tries to meet one commit: a busy machine may look at the count too late.
const N_TRIES: u32 = 16;
/// How many points are tried behind the last one that was met: not every run has a commit more or less.
const BEHIND: u32 = 2;

/// When the server dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Side {
    /// As soon as the commit is durable: what it allows has not been done, or not to its end.
    After,
    /// Just before the next one: what it allows was done, and nobody has written down what came of it.
    BeforeNext,
}

/// What one run was.
struct Run {
    /// Commits on the disk when it was killed; none where it was not.
    n_commits: Option<u32>,
    /// Events of jobs on the disk then, or in the end.
    steps: Vec<String>,
    last: Last,
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_reflash"))
}

/// Rolls out, and kills at the `k`-th commit if there is one.
async fn run(case: Case, point: Option<(Goal, Side)>, active: Arc<Semaphore>) -> Run {
    let place = active.acquire().await.unwrap();
    let mut world = case.world(program()).await;
    let firmware = case.bring(&world);
    let commits = world.commits();
    let before = commits.n();
    let wish = world.wish(&case.wanted(&firmware));
    let goal = point.map(|(goal, _)| goal);
    let reached = tokio::task::block_in_place(|| {
        std::thread::scope(|threads| {
            let wished = threads.spawn(wish.clone());
            let reached = world.hold_at(&commits, before, goal, ROLLOUT);
            if let (Reached::At(_), Some((_, side))) = (&reached, point) {
                if side == Side::BeforeNext {
                    settle(&world);
                }
                world.kill();
            }
            // It may have been answered, or not.
            drop(wished.join());
            reached
        })
    });
    drop(commits);
    let mut killed = None;
    let mut looks = None;
    if let (Reached::At(n), Some(_)) = (reached, point) {
        killed = Some((n, world.steps().await));
        let (mark, asked) = (world.events.mark(), world.units[0].n_asked());
        world.start().await;
        // Who got no answer asks again, and gets that answer, or is told of the rollout that there is; never a second one.
        let answer = wish().unwrap();
        let is_told =
            answer.status == 422 && answer.body["detail"].to_string().contains("part of rollout 1,");
        let is_same = answer.status == 201 && answer.body["id"] == ROLLOUT;
        assert!(is_told || is_same, "{}: {:#}", answer.status, answer.body);
        drop(place);
        looks = watch(&world, mark, asked).await;
    }
    let what = format!("{case:?} killed at {point:?}, {killed:?}");
    check(case, &world, &what, looks).await;
    let (n_commits, steps) = match killed {
        Some((n, steps)) => (Some(n), steps),
        None => (None, steps_told(&world)),
    };
    Run {
        n_commits,
        steps,
        last: Case::last(&world),
    }
}

/// Waits until the device sees nothing new: the server has done what it may and wants to write.
fn settle(world: &World) {
    let now = || (world.events.mark(), world.units[0].n_asked());
    let mut seen = now();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(120));
        if seen == now() {
            return;
        }
        seen = now();
    }
}

/// Kills at every commit there is, and after what each event of the journal allows was done.
async fn every_commit(case: Case, active: Arc<Semaphore>) {
    let undisturbed = run(case, None, Arc::clone(&active)).await;
    assert_eq!(undisturbed.last.n_flashed, 1, "{:#?}", undisturbed.last);
    assert!(undisturbed.last.is_as_found, "{:#?}", undisturbed.last);
    let met = after_every_commit(case, &undisturbed, &active).await;
    let undisturbed = Arc::new(undisturbed);
    let mut all = JoinSet::new();
    let mut n_points = met.len();
    for n_events in 0..=undisturbed.steps.len() {
        // Numbers shift from run to run, so that an event may have slipped between two.
        let missed = (!met.values().any(|n| *n == n_events)).then_some(Side::After);
        let exactly = met.iter().filter(|(_, n)| **n == n_events).map(|(k, _)| *k);
        let last_before = met.iter().filter(|(_, n)| **n < n_events).map(|(k, _)| *k).max();
        let near = exactly
            .chain((0..3).map(|n| last_before.unwrap_or(1) + n))
            .collect();
        let near: Arc<Vec<u32>> = Arc::new(near);
        for side in missed.into_iter().chain([Side::BeforeNext]) {
            n_points += 1;
            let (active, undisturbed) = (Arc::clone(&active), Arc::clone(&undisturbed));
            let near = Arc::clone(&near);
            all.spawn(async move {
                at_event(case, n_events, side, &near, &undisturbed, &active).await;
            });
        }
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    println!(
        "{case:?}: {n_points} points: after each of {} commits, and before the one that follows each of {:?}",
        met.len(),
        undisturbed.steps
    );
}

/// Kills when jobs have exactly so many events on the disk; `near` are commits about there.
async fn at_event(
    case: Case,
    n_events: usize,
    side: Side,
    near: &[u32],
    undisturbed: &Run,
    active: &Arc<Semaphore>,
) {
    let mut near = near.iter().cycle();
    for n in 0..N_TRIES {
        let goal = if n % 3 == 2 && n_events > 0 {
            Goal::Events(n_events)
        } else {
            Goal::Commits(*near.next().unwrap_or(&1))
        };
        let run = run(case, Some((goal, side)), Arc::clone(active)).await;
        assert_eq!(
            run.last, undisturbed.last,
            "{case:?} killed at {goal:?}, {side:?}"
        );
        if run.n_commits.is_some() && run.steps.len() == n_events {
            return;
        }
    }
    panic!("{case:?}: {n_events} events were never met, {side:?}");
}

/// Kills at every commit there is; by number of commits, how many events of jobs were on the disk.
async fn after_every_commit(case: Case, undisturbed: &Run, active: &Arc<Semaphore>) -> BTreeMap<u32, usize> {
    let mut met = BTreeMap::new();
    let mut n_tries: BTreeMap<u32, u32> = BTreeMap::new();
    let mut all = JoinSet::new();
    let (mut next, mut first_over) = (1, u32::MAX);
    let at = |k: u32| {
        let active = Arc::clone(active);
        async move { (k, run(case, Some((Goal::Commits(k), Side::After)), active).await) }
    };
    loop {
        while all.len() < case.n_waiting() && next < first_over.saturating_add(BEHIND) {
            all.spawn(at(next));
            next += 1;
        }
        let Some(done) = all.join_next().await else {
            break;
        };
        let (k, run) = done.unwrap();
        assert_eq!(run.last, undisturbed.last, "{case:?} killed at commit {k}");
        match run.n_commits {
            None => first_over = first_over.min(k),
            Some(n) => drop(met.insert(n, run.steps.len())),
        }
        let n_tries = n_tries.entry(k).or_default();
        *n_tries += 1;
        if run.n_commits.is_some() && !met.contains_key(&k) {
            assert!(
                *n_tries < N_TRIES,
                "{case:?}: commit {k} could not be met: {met:?}"
            );
            all.spawn(at(k));
        }
    }
    // Every number that no run was over before.
    let is_every = (1..first_over).all(|k| met.contains_key(&k));
    assert!(is_every, "{case:?}: some were never met: {met:?}");
    met
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_at_every_commit_of_a_job_it_ends_as_if_nothing_had_been() {
    let active = Arc::new(Semaphore::new(N_AT_ONCE));
    let mut all = JoinSet::new();
    for case in [Case::Espota, Case::Http, Case::Vent] {
        let active = Arc::clone(&active);
        all.spawn(async move { every_commit(case, active).await });
    }
    let mut n_failed = 0;
    while let Some(done) = all.join_next().await {
        // What it says of itself is printed where it fails.
        n_failed += u32::from(done.is_err());
    }
    assert_eq!(n_failed, 0, "see above");
}
