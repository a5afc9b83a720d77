//! Thousands of small rollouts in virtual time, each from a seed: devices come and go, jobs take their time and end in every
//! way, owners change their minds, and the process is killed.
//!
//! The oracle counts what the world saw; the sums of the fleet are compared with a count from scratch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::counts::Derived;
use super::*;
use crate::family::Method;
use crate::inventory;
use crate::plan::{Choice, Facts, plan};
use crate::window::Window;

/// So many worlds; each has one to three rollouts.
const N_SEEDS: u64 = 2_500;

/// Longer than everything that may happen in a world, its deadlines and its patience.
const TOO_LONG: Duration = Duration::from_hours(100);

/// Whatever the owners hold up, they let go on by now.
const OWNERS_ARE_DONE: Duration = Duration::from_hours(2);

/// The random numbers of one world (xorshift64*).
struct Dice(u64);

impl Dice {
    fn of(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn seconds(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.below(most * 1_000) + 1)
    }
}

#[derive(Clone, Copy)]
struct Job {
    n_pushes: u8,
    may_push: u8,
    /// It is in the journal.
    is_begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Add(RolloutId),
    JobGoesOn(RolloutId, usize),
    ComesOrGoes(usize),
    Window(RolloutId),
    Owner,
    Kill,
    OwnersAreDone,
}

#[derive(Default)]
struct Memory {
    held: bool,
    /// Failures since its owner last let it go on, and whether a canary is among them.
    n_failures: u32,
    canary_failed: bool,
    n_proven: u32,
    n_pushes: BTreeMap<usize, u8>,
    n_tries: BTreeMap<usize, u8>,
}

struct Sim {
    seed: u64,
    dice: Dice,
    bed: Bed,
    plans: BTreeMap<RolloutId, Plan>,
    online: Vec<bool>,
    /// What will happen when; the number keeps the order of equals.
    ahead: BTreeMap<(Duration, u64), Happening>,
    n_happenings: u64,
    jobs: BTreeMap<(RolloutId, usize), Job>,
    unsettled: BTreeSet<(RolloutId, usize)>,
    memories: BTreeMap<RolloutId, Memory>,
    /// Until when the window of each rollout is open; none: it is closed.
    open_until: BTreeMap<RolloutId, Option<Duration>>,
    n_started: usize,
    /// The virtual clock; that of the fleet begins anew with each boot.
    clock: Duration,
}

fn device_of(idx: usize) -> DeviceId {
    id(&format!("d{idx}"))
}

fn idx_of(device: &DeviceId) -> usize {
    device.hardware[1..].parse().unwrap()
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::of(seed);
        let n_devices = usize::try_from(dice.below(14) + 1).unwrap();
        let online: Vec<bool> = (0..n_devices).map(|_| dice.chance(80)).collect();
        let mut sim = Self {
            seed,
            dice,
            bed: Bed::new(),
            plans: BTreeMap::new(),
            online,
            ahead: BTreeMap::new(),
            n_happenings: 0,
            jobs: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            memories: BTreeMap::new(),
            open_until: BTreeMap::new(),
            n_started: 0,
            clock: Duration::ZERO,
        };
        for number in 1..=i64::try_from(sim.dice.below(3) + 1).unwrap() {
            let id = RolloutId(number);
            let plan = sim.plan();
            if plan.rules.window.is_some() {
                let at = sim.dice.seconds(3_600);
                sim.ahead_at(at, Happening::Window(id));
            }
            sim.plans.insert(id, plan);
            let at = sim.dice.seconds(600);
            sim.ahead_at(at, Happening::Add(id));
        }
        for _ in 0..sim.dice.below(12) {
            let (at, idx) = (sim.dice.seconds(3_600), sim.dice.below(n_devices as u64));
            sim.ahead_at(at, Happening::ComesOrGoes(usize::try_from(idx).unwrap()));
        }
        for _ in 0..sim.dice.below(5) {
            let at = sim.dice.seconds(3_600);
            sim.ahead_at(at, Happening::Owner);
        }
        for _ in 0..sim.dice.below(4) {
            let at = sim.dice.seconds(3_600);
            sim.ahead_at(at, Happening::Kill);
        }
        sim.ahead_at(OWNERS_ARE_DONE, Happening::OwnersAreDone);
        sim
    }

    fn ahead_at(&mut self, at: Duration, happening: Happening) {
        self.n_happenings += 1;
        self.ahead.insert((at, self.n_happenings), happening);
    }

    fn plan(&mut self) -> Plan {
        let dice = &mut self.dice;
        let mut facts = Vec::new();
        for (idx, &online) in self.online.iter().enumerate() {
            facts.push(Facts {
                device: device_of(idx),
                name: format!("d{idx}"),
                model: dice.chance(60).then(|| "mini".to_owned()),
                runs: "1".to_owned(),
                standing: if online {
                    inventory::State::Online
                } else {
                    inventory::State::Offline
                },
                signal_dbm: None,
                enrolled: dice.chance(95),
                conflict: None,
                group: dice.chance(40).then(|| format!("g{}", dice.below(2))),
                busy_with: None,
                excluded: dice.chance(5),
                choice: Ok(Choice {
                    image: Sha256::of(&[u8::try_from(dice.below(2)).unwrap()]),
                    image_name: "2".to_owned(),
                    len_bytes: 1,
                    methods: vec![Method::new("espota")],
                    estimate: MINUTE,
                    way_back: None,
                    weak: false,
                    interrupts: None,
                }),
            });
        }
        let count = |dice: &mut Dice, most: u64| u32::try_from(dice.below(most)).unwrap();
        let small = |dice: &mut Dice, most: u64| u8::try_from(dice.below(most) + 1).unwrap();
        let rules = Rules {
            canary: count(dice, 3),
            at_once: if dice.chance(30) {
                AtOnce::Auto
            } else {
                AtOnce::AtMost(count(dice, 6))
            },
            groups: if dice.chance(50) {
                BTreeMap::from([("g0".to_owned(), count(dice, 4))])
            } else {
                BTreeMap::new()
            },
            max_failures: if dice.chance(50) {
                MaxFailures::Count(count(dice, 4))
            } else {
                MaxFailures::Percent(u8::try_from(dice.below(60)).unwrap())
            },
            when_back_until_ms: dice
                .chance(50)
                .then(|| 1_000_000 + i64::try_from(dice.below(20_000_000)).unwrap()),
            window: dice.chance(40).then(|| Window {
                name: "night".to_owned(),
                start_s: 0,
                duration: Duration::from_mins(9 + dice.below(40)),
                days: crate::window::ALL_DAYS,
                timezone: None,
            }),
            max_tries: small(dice, 4),
            max_pushes: small(dice, 3),
            ..Rules::default()
        };
        plan(&facts, rules)
    }

    #[track_caller]
    fn require(&self, holds: bool, invariant: &str) {
        assert!(holds, "seed {} at {:?}: {invariant}", self.seed, self.clock);
    }

    fn tell(&mut self, event: Event) {
        let begun = self.n_started;
        self.bed.wake = None;
        for command in step(&mut self.bed.fleet, event, self.bed.now) {
            match command {
                Command::Start { id, device, n_pushes } => {
                    let idx = idx_of(&device);
                    self.require_leave_to_begin(id, idx);
                    self.jobs.insert(
                        (id, idx),
                        Job {
                            n_pushes: 0,
                            may_push: n_pushes,
                            is_begun: false,
                        },
                    );
                    self.n_started += 1;
                    let at = self.clock + self.dice.seconds(20);
                    self.ahead_at(at, Happening::JobGoesOn(id, idx));
                }
                Command::Recover { id, device } => {
                    let idx = idx_of(&device);
                    self.unsettled.insert((id, idx));
                    let at = self.clock + self.dice.seconds(60);
                    self.ahead_at(at, Happening::JobGoesOn(id, idx));
                }
                Command::PutBack { .. } => {
                    self.require(false, "nothing is put back where the rules do not say so");
                }
                Command::Cancel { .. } => {}
                Command::Wake { at } => {
                    self.require(at.boot > self.bed.now.boot, "a wake lies ahead");
                    self.bed.wake = Some(at);
                }
            }
        }
        if self.n_started > begun || self.dice.chance(10) {
            self.recount();
        }
    }

    /// The sums of the fleet are those that a count from scratch gives.
    fn recount(&self) {
        let fresh = Fleet::restored(self.bed.fleet.rollouts().map(|(id, rollout)| {
            (
                id,
                Rollout::restored(
                    rollout.plan().clone(),
                    rollout.course().clone(),
                    rollout.members().to_vec(),
                )
                .unwrap(),
            )
        }));
        for ((_, kept), (_, fresh)) in self.bed.fleet.rollouts().zip(fresh.rollouts()) {
            let sums = |derived: &Derived| {
                let counts = [
                    derived.n_open,
                    derived.n_running,
                    derived.n_away,
                    derived.n_failed,
                    derived.n_proven,
                    derived.n_places,
                ];
                (counts, derived.ready.clone(), derived.waits.clone())
            };
            assert_eq!(sums(&kept.derived), sums(&fresh.derived), "seed {}", self.seed);
            for wave in 0..kept.plan.n_waves {
                self.require(
                    kept.n_holding_up_to(wave) == fresh.n_holding_up_to(wave),
                    "the count of a wave is true",
                );
            }
        }
        self.require(self.bed.fleet.busy == fresh.busy, "the busy devices are true");
        self.require(
            self.bed.fleet.in_group.len() == fresh.in_group.len(),
            "the jobs in groups are true",
        );
    }

    fn require_leave_to_begin(&self, id: RolloutId, idx: usize) {
        let plan = &self.plans[&id];
        let memory = &self.memories[&id];
        let rollout = self.bed.fleet.rollout(id).unwrap();
        let member = plan.members.iter().find(|member| member.device == device_of(idx));
        let group = member.expect("it is a member").group.as_deref();
        let n_of_rollout = self.jobs.keys().filter(|(other, _)| *other == id).count();
        // Auto may be anything from 4 to all.
        let at_once = match plan.rules.at_once {
            AtOnce::Auto => rollout.course().n_at_once,
            AtOnce::AtMost(n) => n.max(1),
        };
        self.require(
            n_of_rollout < at_once as usize,
            "I5 no more at once than asked for",
        );
        let n_of_device = self.jobs.keys().filter(|(_, other)| *other == idx).count();
        self.require(n_of_device == 0, "I5 one job per device");
        if let Some(group) = group {
            let is_of_group = |id: &RolloutId, idx: usize| {
                let members = &self.plans[id].members;
                let member = members.iter().find(|member| member.device == device_of(idx));
                member.and_then(|member| member.group.as_deref()) == Some(group)
            };
            let n_of_group = self.jobs.keys().filter(|(id, idx)| is_of_group(id, *idx)).count();
            let most = plan.rules.at_once_in(group);
            self.require(
                n_of_group < most as usize,
                "I5 no more in a group than the rules say",
            );
        }
        self.require(!memory.held, "I12 nothing begins after a stop");
        let n_members = u32::try_from(plan.members.len()).unwrap();
        let halted = memory.canary_failed
            || (memory.n_failures > 0 && plan.rules.max_failures.is_reached(memory.n_failures, n_members));
        self.require(!halted, "nothing begins after too many failures");
        let n_running = u32::try_from(n_of_rollout).unwrap();
        self.require(
            memory.n_proven >= plan.n_canaries || n_running + memory.n_proven < plan.n_canaries,
            "nobody begins before the canaries have succeeded",
        );
        self.require(self.unsettled.is_empty(), "nothing begins before all is settled");
        self.require(self.online[idx], "nothing begins on an absent device");
        if plan.rules.window.is_some() {
            let ends = self.clock + MINUTE + rollout.soak_of(&device_of(idx));
            let holds = self.open_until[&id].is_some_and(|until| self.clock < until && ends <= until);
            self.require(holds, "I6 nothing begins outside its window, or would end there");
        }
        let n_tries = memory.n_tries.get(&idx).copied().unwrap_or(0);
        self.require(n_tries < plan.rules.max_tries, "I2 no more tries than permitted");
    }

    fn job_goes_on(&mut self, id: RolloutId, idx: usize) {
        let is_unsettled = self.unsettled.contains(&(id, idx));
        let Some(mut job) = self.jobs.get(&(id, idx)).copied() else {
            if is_unsettled {
                self.unsettled.remove(&(id, idx));
                self.tell(Event::NothingDone {
                    id,
                    device: device_of(idx),
                });
            }
            return;
        };
        if !is_unsettled && (!job.is_begun || (job.n_pushes < job.may_push.min(2) && self.dice.chance(60))) {
            if job.is_begun {
                job.n_pushes += 1;
                let n_pushes = self
                    .memories
                    .get_mut(&id)
                    .unwrap()
                    .n_pushes
                    .entry(idx)
                    .or_default();
                *n_pushes += 1;
                let holds = *n_pushes <= self.plans[&id].rules.max_pushes;
                self.require(holds, "I8 no more pushes than permitted");
            }
            job.is_begun = true;
            self.jobs.insert((id, idx), job);
            let at = self.clock + self.dice.seconds(120);
            self.ahead_at(at, Happening::JobGoesOn(id, idx));
            return;
        }
        self.jobs.remove(&(id, idx));
        self.unsettled.remove(&(id, idx));
        let outcome = self.outcome(job.n_pushes);
        let is_canary_time = self.memories[&id].n_proven < self.plans[&id].n_canaries;
        let n_tries = self
            .memories
            .get_mut(&id)
            .unwrap()
            .n_tries
            .entry(idx)
            .or_default();
        if outcome.reason.as_deref() != Some("interrupted") {
            *n_tries += 1;
        }
        if outcome.ending.is_success() {
            self.memories.get_mut(&id).unwrap().n_proven += 1;
        }
        // Told in the journal: it counts from the moment when the fleet takes it as the end of this member.
        let before = self.n_failed(id);
        let memory_before = (is_failure(outcome.ending), is_canary_time);
        let event = Event::Ended {
            id,
            device: device_of(idx),
            outcome,
            n_pushes: job.n_pushes,
        };
        // The failure is booked before the step, so that what begins in the same step is judged by it.
        let (_, standing) = self
            .bed
            .fleet
            .rollout(id)
            .unwrap()
            .member(&device_of(idx))
            .unwrap();
        let is_last = self.is_last_try(id, idx, standing, &event);
        if memory_before.0 && is_last {
            let memory = self.memories.get_mut(&id).unwrap();
            memory.n_failures += 1;
            memory.canary_failed |= memory_before.1;
        }
        self.tell(event);
        let counted = self.n_failed(id) > before;
        self.require(
            counted == (memory_before.0 && is_last),
            "a failure counts when it is the last word",
        );
    }

    /// Whether no other try may follow, by the rules of the plan.
    fn is_last_try(&self, id: RolloutId, idx: usize, standing: &Standing, event: &Event) -> bool {
        let Event::Ended { outcome, .. } = event else {
            return true;
        };
        let rules = &self.plans[&id].rules;
        let worth = outcome.ending == Ending::KeptOld
            || matches!(outcome.reason.as_deref(), Some("no answer" | "no call-back"));
        let memory = &self.memories[&id];
        !worth
            || standing.leave.is_some()
            || memory.n_tries[&idx] >= rules.max_tries
            || memory.n_pushes.get(&idx).copied().unwrap_or(0) >= rules.max_pushes
    }

    fn n_failed(&self, id: RolloutId) -> usize {
        let rollout = self.bed.fleet.rollout(id).unwrap();
        rollout
            .members()
            .iter()
            .filter(|standing| matches!(&standing.state, MemberState::Ended(ended) if ended.is_failure()))
            .count()
    }

    fn outcome(&mut self, n_pushes: u8) -> Outcome {
        let with = |ending, reason: &str| Outcome {
            reason: Some(reason.to_owned()),
            ..outcome(ending)
        };
        if n_pushes == 0 {
            match self.dice.below(8) {
                0..4 => failed("no answer"),
                4 => failed("no call-back"),
                5 => outcome(Ending::AlreadyCurrent),
                6 => with(Ending::Cancelled, "interrupted"),
                _ => with(Ending::Refused, "wrong password"),
            }
        } else {
            match self.dice.below(20) {
                0 => with(Ending::Unverified, "no return"),
                1 => with(Ending::RolledBack, "old version came back"),
                2..5 => with(Ending::KeptOld, "transfer broke off"),
                5 => with(Ending::Cancelled, "cancelled"),
                6 => with(Ending::UpdatedLabelUnchanged, "label unchanged"),
                _ => outcome(Ending::Updated),
            }
        }
    }

    fn owner(&mut self) {
        let ids: Vec<RolloutId> = self.memories.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[usize::try_from(self.dice.below(ids.len() as u64)).unwrap()];
        let idx = usize::try_from(self.dice.below(self.online.len() as u64)).unwrap();
        match self.dice.below(9) {
            0..3 => {
                let state = self.bed.fleet.rollout(id).unwrap().state();
                if matches!(state, State::Running | State::Scheduled) {
                    self.memories.get_mut(&id).unwrap().held = true;
                }
                self.tell(Event::Pause(id));
            }
            3..6 => self.resume(id),
            6 => {
                self.memories.get_mut(&id).unwrap().held = true;
                let force = self.dice.chance(50);
                self.tell(Event::Abort { id, force });
            }
            7 => self.tell(Event::Cancel(id, device_of(idx))),
            _ if self.dice.chance(20) => {
                for memory in self.memories.values_mut() {
                    memory.held = true;
                }
                self.tell(Event::StopAll);
            }
            _ => {
                let reason = Reason::new("removed", "", "");
                let device = device_of(idx);
                self.tell(Event::Exclude { device, reason });
            }
        }
    }

    fn resume(&mut self, id: RolloutId) {
        let state = self.bed.fleet.rollout(id).unwrap().state();
        let memory = self.memories.get_mut(&id).unwrap();
        match state {
            State::Halted => {
                memory.n_failures = 0;
                memory.canary_failed = false;
                memory.held = false;
            }
            State::Paused => memory.held = false,
            _ => {}
        }
        self.tell(Event::Resume(id));
    }

    fn kill(&mut self) {
        self.bed.killed(Duration::ZERO);
        self.unsettled.clear();
        self.jobs.retain(|_, job| job.is_begun);
        self.ahead
            .retain(|_, happening| !matches!(happening, Happening::JobGoesOn(..)));
        let devices: Vec<(usize, bool)> = self.online.iter().copied().enumerate().collect();
        for (idx, online) in devices {
            let device = device_of(idx);
            self.tell(Event::Standing { device, online });
        }
        // What is told of a window comes before, and of some windows nothing is known yet.
        for id in self.open_until.keys().copied().collect::<Vec<_>>() {
            if self.dice.chance(60) {
                self.tell_of_window(id);
            } else {
                self.open_until.insert(id, None);
            }
        }
        self.tell(Event::Recovered);
    }

    /// A window opens, or closes; sooner than was said, as when a clock is set.
    fn window_turns(&mut self, id: RolloutId) {
        if !self.memories.contains_key(&id) {
            let at = self.clock + MINUTE;
            return self.ahead_at(at, Happening::Window(id));
        }
        if self.bed.fleet.rollout(id).unwrap().is_over() {
            return;
        }
        let is_open = self.open_until[&id].is_some_and(|until| self.clock < until);
        let next = if is_open {
            self.open_until.insert(id, None);
            self.clock + self.dice.seconds(3_600)
        } else {
            let duration = self.plans[&id].rules.window.as_ref().unwrap().duration;
            let until = self.clock + duration;
            self.open_until.insert(id, Some(until));
            if self.dice.chance(20) {
                self.clock + self.dice.seconds(duration.as_secs())
            } else {
                // Nobody says that it has closed.
                until + self.dice.seconds(3_600)
            }
        };
        self.ahead_at(next, Happening::Window(id));
        self.tell_of_window(id);
    }

    fn tell_of_window(&mut self, id: RolloutId) {
        let (clock, now) = (self.clock, self.bed.now);
        let until = self.open_until[&id].filter(|until| clock < *until);
        let next = self.dice.chance(50).then(|| now.later(MINUTE));
        self.tell(Event::Window {
            id,
            open_until: until.map(|until| now.later(until.saturating_sub(clock))),
            next,
        });
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Add(id) => {
                self.memories.insert(id, Memory::default());
                self.open_until.insert(id, None);
                let plan = self.plans[&id].clone();
                self.tell(Event::Add(id, plan));
            }
            Happening::JobGoesOn(id, idx) => self.job_goes_on(id, idx),
            Happening::ComesOrGoes(idx) => {
                self.online[idx] = !self.online[idx];
                let (device, online) = (device_of(idx), self.online[idx]);
                self.tell(Event::Standing { device, online });
            }
            Happening::Window(id) => self.window_turns(id),
            Happening::Owner => self.owner(),
            Happening::Kill => self.kill(),
            Happening::OwnersAreDone => {
                let ids: Vec<RolloutId> = self.plans.keys().copied().collect();
                let mut goes_on = false;
                for id in ids {
                    let rollout = self.bed.fleet.rollout(id).unwrap();
                    if !rollout.is_over() {
                        goes_on = true;
                        self.resume(id);
                    }
                }
                if goes_on {
                    let at = self.clock + Duration::from_mins(30);
                    self.ahead_at(at, Happening::OwnersAreDone);
                }
            }
        }
    }

    fn run(mut self) -> (usize, BTreeMap<&'static str, u32>) {
        loop {
            let next = self.ahead.keys().next().map(|&(at, _)| at);
            let wake = self.bed.wake.map(|wake| self.clock + wake.since(self.bed.now));
            let Some(at) = next.into_iter().chain(wake).min() else {
                break;
            };
            self.require(at < TOO_LONG, "I2 everything ends");
            self.bed.now = self.bed.now.later(at.saturating_sub(self.clock));
            self.clock = at;
            if next.is_some_and(|next| next <= at) {
                let (_, happening) = self.ahead.pop_first().unwrap();
                self.happens(happening);
            } else {
                self.tell(Event::Tick);
            }
            if self.dice.chance(20) {
                let bytes_per_s = self.jobs.len() as u64 * 100;
                self.tell(Event::Throughput { bytes_per_s });
            }
        }
        let mut tally = BTreeMap::new();
        for (_, rollout) in self.bed.fleet.rollouts() {
            self.require(rollout.is_over(), "I2 everything ends");
            let state = rollout.state();
            self.require(
                matches!(state, State::Finished | State::Aborted),
                "I2 a rollout ends",
            );
            *tally.entry(state.name()).or_default() += 1;
            for (word, n) in rollout.tally() {
                *tally.entry(word).or_default() += n;
            }
        }
        self.require(self.jobs.is_empty(), "I2 no job is left");
        (self.n_started, tally)
    }
}

#[test]
fn in_thousands_of_worlds_no_invariant_breaks() {
    let mut n_started = 0;
    let mut total: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 0..N_SEEDS {
        let (n, tally) = Sim::new(seed).run();
        n_started += n;
        for (word, n) in tally {
            *total.entry(word).or_default() += n;
        }
    }
    // A world in which too little happens proves nothing.
    for word in [
        "aborted",
        "already-current",
        "cancelled",
        "failed",
        "finished",
        "kept-old",
        "missed-window",
        "refused",
        "rolled-back",
        "skipped",
        "unverified",
        "updated",
        "updated-label-unchanged",
    ] {
        assert!(total.get(word).is_some_and(|&n| n > 20), "{word} in {total:?}");
    }
    assert!(n_started > 10_000, "{n_started} jobs, {total:?}");
}
