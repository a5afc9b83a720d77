//! Rollouts in virtual time, by the thousand: plan, fleet, job and outcome as they are, against devices that were written
//! apart from them, with some thirty kinds of misfortune, each world from one seed.
//!
//! - `cargo test -p model --test torture` plays 10,000 worlds; `just torture-worlds N` as many as you like.
//! - A world that breaks an invariant prints the command that plays it again, with everything that happens in it.

#![expect(clippy::unwrap_used, reason = "all of it is a test")]

mod device;
mod dice;
mod oracle;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use model::fleet::MemberState;
use model::plan::{AtOnce, Plan};

use world::{FAULTS, World};

/// A fault that is planted in what is played around the real code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// A job that is taken over sends again without a look.
    NoLookOnResume,
    /// The device's yes is the proof.
    SuccessByAck,
    CanarySkipped,
    HaltIgnored,
    WindowIgnored,
    StopIgnored,
    InFlightOffByOne,
    /// Other bytes than those that were validated.
    NotValidated,
    SameTargetAgain,
    IntentAfterPush,
    LeaseIgnored,
    /// Who does not answer runs what it ran.
    OldKeptUnseen,
}

impl Bug {
    /// The plan as a fleet with this fault understands it.
    fn plan(self, plan: &Plan) -> Plan {
        let mut plan = plan.clone();
        match self {
            Self::CanarySkipped => plan.n_canaries = 0,
            Self::WindowIgnored => plan.rules.window = None,
            Self::InFlightOffByOne => {
                if let AtOnce::AtMost(n) = &mut plan.rules.at_once {
                    *n += 1;
                }
            }
            _ => {}
        }
        plan
    }
}

/// What some worlds came to.
#[derive(Default)]
struct Sums {
    n_worlds: u64,
    n_rollouts: u64,
    n_jobs: u64,
    n_pushes: u64,
    hits: BTreeMap<&'static str, u64>,
    ends: BTreeMap<String, u64>,
    wrong: BTreeMap<u64, Vec<String>>,
    trace: u64,
}

impl Sums {
    fn add(&mut self, world: &World) {
        self.n_worlds += 1;
        self.n_rollouts += world.store.rollouts.len() as u64;
        self.n_jobs += world.store.jobs.len() as u64;
        for device in &world.devices {
            let begins = |(_, entry): &&(device::Ms, device::Entry)| matches!(entry, device::Entry::Begin(_));
            self.n_pushes += device.log.iter().filter(begins).count() as u64;
        }
        for (&fault, n) in &world.hits {
            *self.hits.entry(fault).or_default() += n;
        }
        for standing in world.store.rollouts.values().flat_map(|kept| &kept.members) {
            if let MemberState::Ended(ended) = &standing.state {
                *self.ends.entry(ended.name().to_owned()).or_default() += 1;
            }
        }
        // The order in which threads come in must not matter.
        self.trace ^= world.trace.wrapping_mul(world.seed | 1);
        let wrong = oracle::judge(world);
        if !wrong.is_empty() && self.wrong.len() < 10 {
            self.wrong.insert(world.seed, wrong);
        }
    }

    fn join(&mut self, other: Self) {
        self.n_worlds += other.n_worlds;
        self.n_rollouts += other.n_rollouts;
        self.n_jobs += other.n_jobs;
        self.n_pushes += other.n_pushes;
        for (fault, n) in other.hits {
            *self.hits.entry(fault).or_default() += n;
        }
        for (end, n) in other.ends {
            *self.ends.entry(end).or_default() += n;
        }
        self.wrong.extend(other.wrong);
        self.trace ^= other.trace;
    }

    #[track_caller]
    fn assert_right(&self) {
        let lines = self.wrong.iter().map(|(seed, wrong)| {
            format!(
                "seed {seed}: {}\n  to see it: just replay {seed}\n",
                wrong.join("; ")
            )
        });
        let text: String = lines.collect();
        assert!(self.wrong.is_empty(), "{text}");
    }
}

fn play(seed: u64, bug: Bug) -> World {
    let mut world = World::new(seed, bug);
    world.run();
    world
}

/// Plays these worlds on all cores.
fn play_all(first: u64, n_worlds: u64) -> Sums {
    let next = AtomicU64::new(0);
    let total = Mutex::new(Sums::default());
    let n_threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                let mut sums = Sums::default();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= n_worlds || sums.wrong.len() >= 10 {
                        break;
                    }
                    sums.add(&play(first + n, Bug::None));
                }
                total.lock().unwrap().join(sums);
            });
        }
    });
    total.into_inner().unwrap()
}

fn asked(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.replace([',', '_'], "")
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not {text}")),
    )
}

/// `REFLASH_ROLLOUTS` worlds, from seed `REFLASH_FIRST` on.
#[test]
fn in_ten_thousand_rollouts_no_invariant_breaks() {
    let first = asked("REFLASH_FIRST").unwrap_or(0);
    let n_worlds = asked("REFLASH_ROLLOUTS").unwrap_or(10_000);
    let begun = Instant::now();
    let sums = play_all(first, n_worlds);
    let took = begun.elapsed().as_secs_f64();
    println!(
        "seeds {first} to {}: {} worlds, {} rollouts, {} jobs, {} pushes in {took:.1} s; trace {:016x}",
        first + n_worlds - 1,
        sums.n_worlds,
        sums.n_rollouts,
        sums.n_jobs,
        sums.n_pushes,
        sums.trace
    );
    println!("faults: {:#?}", sums.hits);
    println!("ends: {:#?}", sums.ends);
    sums.assert_right();
    // A world in which too little happens proves nothing.
    let missed: Vec<_> = FAULTS
        .iter()
        .filter(|fault| !sums.hits.contains_key(*fault))
        .collect();
    assert!(missed.is_empty() || n_worlds < 1_000, "never hit: {missed:?}");
    for fault in sums.hits.keys() {
        assert!(FAULTS.contains(fault), "{fault} is not counted");
    }
}

#[test]
fn the_same_seed_plays_the_same_world() {
    for seed in 0..1_000 {
        assert_eq!(
            play(seed, Bug::None).trace,
            play(seed, Bug::None).trace,
            "seed {seed}"
        );
    }
}

/// Each planted fault breaks this invariant within a thousand worlds.
#[test]
fn each_planted_fault_is_found_within_a_thousand_rollouts() {
    let rows: [(Bug, &[&str]); 12] = [
        (Bug::NoLookOnResume, &["I8", "I13"]),
        (Bug::SuccessByAck, &["I7"]),
        (Bug::CanarySkipped, &["canaries go first"]),
        (Bug::HaltIgnored, &["a halt holds"]),
        (Bug::WindowIgnored, &["I6"]),
        (Bug::StopIgnored, &["I12"]),
        (Bug::InFlightOffByOne, &["I5"]),
        (Bug::NotValidated, &["I1 "]),
        (Bug::SameTargetAgain, &["I13"]),
        (Bug::IntentAfterPush, &["I8"]),
        (Bug::LeaseIgnored, &["I8"]),
        (Bug::OldKeptUnseen, &["I7"]),
    ];
    let mut missed = Vec::new();
    for (bug, invariants) in rows {
        for invariant in invariants {
            let found = (0..1_000).find(|&seed| {
                let wrong = oracle::judge(&play(seed, bug));
                wrong.iter().any(|wrong| wrong.starts_with(invariant))
            });
            match found {
                Some(seed) => println!("{bug:?}: {invariant} in world {seed}"),
                None => missed.push((bug, invariant)),
            }
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// With `REFLASH_SEED`: that world, and everything that happens in it.
#[test]
fn a_world_can_be_played_again() {
    let seed = asked("REFLASH_SEED");
    let mut world = World::new(seed.unwrap_or(0), Bug::None);
    world.is_told = seed.is_some();
    world.run();
    let wrong = oracle::judge(&world);
    assert!(wrong.is_empty(), "seed {}: {wrong:#?}", world.seed);
}
