//! Every interleaving of one or two rollouts with a small world, breadth first.
//!
//! The world holds two or three devices that come and go, a journal in which jobs begin, push and end in every way that a
//! real one can, owners who pause, resume, abort, cancel, exclude and stop everything at any moment, and a process that
//! may be killed between any two steps and is taken over from what was stored. Every decision is made by the real `step`.
//! The oracle counts for itself: it looks at the world and at commands, and at the fleet's own words only for waves and ends.
//!
//! Time stands still but for one step, to the moment of the last `Wake`; whatever else may happen before that moment does so
//! before it. Times enter a state's key only as ages.
//!
//! Assumed of the one who calls `step`, and broken on purpose in tests here:
//! - What changed is stored before the commands of the same step are carried out.
//! - A job begins in the journal before its first byte, and keeps to the pushes that it was given.
//! - After a restart each job is settled by the journal, and the standing of each device is told before `Recovered`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use model::fleet::{self, Command, Ended, Event, Fleet, MemberState, Rollout, is_failure, step};
use model::id::{DeviceId, FamilyId, RolloutId, Sha256};
use model::outcome::{Ending, Outcome};
use model::plan::{AtOnce, MaxFailures, Member, Plan, Reason, Rules};
use model::time::Now;

/// More states than this mean that something counts without end.
const MAX_STATES: usize = 600_000;

/// What a rollout of the world is like: for each member its device, and its wave.
#[derive(Clone, Copy, Debug)]
struct Shape {
    members: &'static [(u8, u32)],
    n_canaries: u32,
    at_once: u32,
    /// So many failures halt it.
    max_failures: u32,
    /// Members that are in the group.
    grouped: &'static [u8],
    /// Whether it waits for devices until a deadline.
    when_back: bool,
    max_tries: u8,
    max_pushes: u8,
    /// Whether devices that keep restarting are put back; those with an even number can be.
    put_back: bool,
}

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Budget {
    kills: u8,
    flips: u8,
    pauses: u8,
    resumes: u8,
    aborts: u8,
    stops: u8,
    cancels: u8,
    excludes: u8,
    /// What was not proven is seen again.
    corrections: u8,
    quarantines: u8,
}

const NOTHING_HAPPENS: Budget = Budget {
    kills: 0,
    flips: 0,
    pauses: 0,
    resumes: 0,
    aborts: 0,
    stops: 0,
    cancels: 0,
    excludes: 0,
    corrections: 0,
    quarantines: 0,
};

/// A rule that is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    AtOnce,
    OneJobPerDevice,
    Groups,
    Canary,
    Halt,
    Stop,
    Exclude,
    Pushes,
    Tries,
    Settling,
    Standing,
    Time,
    StoreFirst,
    PutBackOnce,
    Quarantine,
}

#[derive(Clone, Copy, Debug)]
struct World {
    rollouts: &'static [Shape],
    n_devices: u8,
    /// Devices that do not answer at first.
    away: &'static [u8],
    /// How jobs may end, of `ENDS`.
    ends: &'static [usize],
    may: Budget,
    broken: Broken,
}

/// A canary, then two; one after the other has a try too few.
const THREE: Shape = Shape {
    members: &[(0, 0), (1, 1), (2, 1)],
    n_canaries: 1,
    at_once: 2,
    max_failures: 2,
    grouped: &[],
    when_back: false,
    max_tries: 2,
    max_pushes: 2,
    put_back: false,
};

/// Two devices at once, of one group.
const PAIR: Shape = Shape {
    members: &[(0, 0), (1, 0)],
    n_canaries: 0,
    grouped: &[0, 1],
    max_tries: 1,
    ..THREE
};

const WORLD: World = World {
    rollouts: &[THREE],
    n_devices: 3,
    away: &[],
    ends: FEW_ENDS,
    may: NOTHING_HAPPENS,
    broken: Broken::Nothing,
};

/// A job as the journal and the devices know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// It was asked for; the journal knows nothing of it.
    Asked { n_pushes: u8 },
    /// It is in the journal.
    Begun { n_pushed: u8, may_push: u8 },
    /// Its end is in the journal, and was not told yet.
    Over { n_pushed: u8, end: usize },
}

/// How a job may end: what the fleet is told, and from how many pushes on. What comes before the first push comes only then.
const ENDS: [(Ending, &str, bool); 8] = [
    (Ending::Failed, "no answer", false),
    (Ending::AlreadyCurrent, "", false),
    (Ending::Refused, "wrong password", false),
    (Ending::Updated, "", true),
    (Ending::KeptOld, "transfer broke off", true),
    (Ending::Unverified, "no return", true),
    (Ending::Cancelled, "cancelled", false),
    (Ending::Failed, "boot loop", true),
];

/// The last of them.
const BOOT_LOOP: usize = 7;

const ALL_ENDS: &[usize] = &[0, 1, 2, 3, 4, 5, 6, BOOT_LOOP];

/// Nobody was reached, nothing was to be done, updated, kept old.
const FEW_ENDS: &[usize] = &[0, 1, 3, 4];

/// What the oracle remembers of a rollout.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that has happened"
)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Memory {
    /// Its owner has paused or aborted it.
    held: bool,
    aborted: bool,
    /// Failures that were told since its owner last let it go on.
    n_failures: u32,
    canary_failed: bool,
    /// Devices that were told to be updated.
    updated: BTreeSet<u8>,
    /// Devices that were cancelled or excluded.
    barred: BTreeSet<u8>,
    n_pushes: BTreeMap<u8, u8>,
    n_tries: BTreeMap<u8, u8>,
    /// Devices that were told to keep restarting, and of these those that were pushed their way back.
    looping: BTreeSet<u8>,
    put_back: BTreeSet<u8>,
    /// Devices whose end was told as unproven.
    unproven: BTreeSet<u8>,
    quarantined: bool,
}

#[derive(Clone)]
struct State {
    now: Now,
    /// None while no process runs.
    fleet: Fleet,
    /// What a killed process would leave, where that is not the fleet as it is.
    stored: Option<Fleet>,
    wake: Option<Now>,
    online: Vec<bool>,
    jobs: BTreeMap<(u8, u8), Job>,
    /// Jobs of an earlier process that the fleet wants settled.
    unsettled: BTreeSet<(u8, u8)>,
    memories: Vec<Memory>,
    may: Budget,
}

/// One thing that happens, to which rollout and device.
#[derive(Clone, Copy, Debug)]
struct Step {
    what: &'static str,
    rollout: u8,
    device: u8,
}

fn at(what: &'static str, rollout: u8, device: u8) -> Step {
    Step {
        what,
        rollout,
        device,
    }
}

fn id(rollout: u8) -> RolloutId {
    RolloutId(i64::from(rollout))
}

fn number_of(id: RolloutId) -> u8 {
    u8::try_from(id.0).expect("there are two")
}

/// Whichever name the fleet knows the device by.
fn number_of_device(device: &DeviceId) -> u8 {
    let first = device.hardware.split(' ').next().unwrap_or_default();
    first.parse().expect("devices are numbered")
}

impl World {
    fn shape(self, rollout: u8) -> Shape {
        self.rollouts[usize::from(rollout)]
    }

    /// As the fleet knows the device.
    fn device(self, rollout: u8, device: u8) -> DeviceId {
        let name = match self.broken {
            Broken::OneJobPerDevice => format!("{device} of {rollout}"),
            _ => device.to_string(),
        };
        DeviceId::from_hardware(&FamilyId::new(""), name)
    }

    fn plan(self, rollout: u8) -> Plan {
        let shape = self.shape(rollout);
        let members = shape.members.iter().map(|&(device, wave)| Member {
            device: self.device(rollout, device),
            name: String::new(),
            runs: String::new(),
            image: Sha256::of(b"new"),
            image_name: String::new(),
            len_bytes: 0,
            methods: Vec::new(),
            estimate: Duration::ZERO,
            wave,
            group: shape.grouped.contains(&device).then(String::new),
            was_offline: self.away.contains(&device),
            way_back: device.is_multiple_of(2).then(|| Sha256::of(b"old")),
            interrupts: None,
            notes: Vec::new(),
        });
        let mut plan = Plan {
            members: members.collect(),
            left_out: Vec::new(),
            n_waves: shape.members.iter().map(|&(_, wave)| wave + 1).max().unwrap_or(0),
            n_canaries: shape.n_canaries,
            rules: Rules {
                at_once: AtOnce::AtMost(shape.at_once),
                max_failures: MaxFailures::Count(shape.max_failures),
                when_back_until_ms: shape.when_back.then_some(10_000_000),
                max_tries: shape.max_tries,
                max_pushes: shape.max_pushes,
                put_back: shape.put_back,
                ..Rules::default()
            },
        };
        match self.broken {
            Broken::AtOnce => plan.rules.at_once = AtOnce::AtMost(shape.at_once + 1),
            Broken::Groups => plan.members.iter_mut().for_each(|member| member.group = None),
            Broken::Canary => plan.n_canaries = 0,
            Broken::Halt => plan.rules.max_failures = MaxFailures::Count(100),
            Broken::Tries => plan.rules.max_tries = 100,
            _ => {}
        }
        plan
    }

    fn begin(self) -> State {
        State {
            now: Now {
                boot: Duration::from_secs(1_000),
                wall_ms: 1_000_000,
            },
            fleet: Fleet::default(),
            stored: None,
            wake: None,
            online: (0..self.n_devices)
                .map(|device| !self.away.contains(&device))
                .collect(),
            jobs: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            memories: vec![Memory::default(); self.rollouts.len()],
            may: self.may,
        }
    }
}

type Violations = BTreeMap<&'static str, String>;

struct Explorer {
    world: World,
    ids: HashMap<Vec<u8>, u32>,
    parents: Vec<(u32, Step)>,
    edges: Vec<(u32, u32)>,
    /// States in which nothing more has to happen.
    may_end: Vec<bool>,
    violations: Violations,
    endings: BTreeMap<String, usize>,
    at: u32,
}

impl Explorer {
    fn violated(&mut self, invariant: &'static str, last: Step) {
        let mut way = vec![last];
        let mut at = self.at;
        while at != 0 {
            let (parent, step) = self.parents[at as usize];
            way.push(step);
            at = parent;
        }
        way.reverse();
        let words = way
            .iter()
            .map(|step| format!("{} {}/{}", step.what, step.rollout, step.device));
        let way = words.collect::<Vec<_>>().join(" > ");
        self.violations.entry(invariant).or_insert(way);
    }

    fn require(&mut self, holds: bool, invariant: &'static str, step: Step) {
        if !holds {
            self.violated(invariant, step);
        }
    }

    /// One step of the fleet, and what it asks for.
    fn feed(&mut self, state: &mut State, event: Event, step_name: Step) {
        let is_swallowed = matches!(
            (self.world.broken, &event),
            (
                Broken::Stop,
                Event::Pause(_) | Event::Abort { .. } | Event::StopAll
            ) | (Broken::Exclude, Event::Exclude { .. })
                | (Broken::Quarantine, Event::Quarantined { .. })
                | (Broken::Standing, Event::Standing { .. })
                | (Broken::Time, Event::Tick)
        );
        if is_swallowed {
            return;
        }
        if self.world.broken == Broken::StoreFirst {
            state.stored = Some(state.fleet.clone());
        }
        let waves: Vec<u32> = state
            .fleet
            .rollouts()
            .map(|(_, rollout)| rollout.course().wave)
            .collect();
        let commands = step(&mut state.fleet, event, state.now);
        state.wake = None;
        for command in commands {
            match command {
                Command::Start { id, device, n_pushes } => {
                    let key = (number_of(id), number_of_device(&device));
                    self.require_leave_to_begin(state, key, step_name);
                    let job = if state.may.kills > 0 {
                        Job::Asked { n_pushes }
                    } else {
                        Job::Begun {
                            n_pushed: 0,
                            may_push: n_pushes,
                        }
                    };
                    state.jobs.insert(key, job);
                }
                Command::PutBack { id, device } => {
                    let key = (number_of(id), number_of_device(&device));
                    self.require_leave_to_put_back(state, key, step_name);
                    state.jobs.insert(key, Job::Asked { n_pushes: 1 });
                }
                Command::Recover { id, device } => {
                    state.unsettled.insert((number_of(id), number_of_device(&device)));
                }
                // Any job may end as cancelled at any time, so whether it was asked to makes no difference here.
                Command::Cancel { .. } => {}
                Command::Wake { at } => {
                    let later = at.boot > state.now.boot;
                    self.require(later, "a wake lies ahead", step_name);
                    state.wake = Some(at);
                }
            }
        }
        for ((_, rollout), wave) in state.fleet.rollouts().zip(waves) {
            let now = rollout.course().wave;
            let holds_up = |standing: &fleet::Standing| match standing.state {
                MemberState::Ended(_) => false,
                MemberState::Running { .. } | MemberState::PuttingBack { .. } => true,
                MemberState::Queued | MemberState::Waiting { .. } => standing.online,
            };
            let before = rollout.members().iter().filter(|standing| standing.wave < now);
            let waits = now > wave && before.clone().any(holds_up);
            self.require(!waits, "a wave begins when those before it have ended", step_name);
        }
    }

    /// The device was told to keep restarting, in the place that its own job has held, and gets one such job.
    fn require_leave_to_put_back(&mut self, state: &State, (rollout, device): (u8, u8), step: Step) {
        let memory = &state.memories[usize::from(rollout)];
        let of_device = state.jobs.keys().filter(|(_, other)| *other == device).count();
        let rules = [
            (
                memory.looping.contains(&device) && device.is_multiple_of(2),
                "only what keeps restarting is put back",
            ),
            (
                !memory.put_back.contains(&device),
                "F91 a device is put back once in a rollout",
            ),
            (of_device == 0, "I5 one job per device"),
            (
                !memory.aborted && !memory.barred.contains(&device),
                "nobody is put back whose update was called off",
            ),
        ];
        for (holds, invariant) in rules {
            self.require(holds, invariant, step);
        }
    }

    fn require_leave_to_begin(&mut self, state: &State, key: (u8, u8), step: Step) {
        let (rollout, device) = key;
        let shape = self.world.shape(rollout);
        let memory = &state.memories[usize::from(rollout)];
        let of_rollout = state.jobs.keys().filter(|(other, _)| *other == rollout).count();
        let in_group = state
            .jobs
            .keys()
            .filter(|(other, device)| self.world.shape(*other).grouped.contains(device));
        let n_in_group = in_group.count();
        let n_proven = memory.updated.len();
        let n_canaries = shape.n_canaries as usize;
        let of_device = state.jobs.keys().filter(|(_, other)| *other == device).count();
        // One that is put back is a canary no more.
        let updates = |(other, device): &&(u8, u8)| *other == rollout && !memory.looping.contains(device);
        let n_updating = state.jobs.keys().filter(updates).count();
        let rules = [
            (
                of_rollout < shape.at_once as usize,
                "I5 no more at once than asked for",
            ),
            (of_device == 0, "I5 one job per device"),
            (
                !shape.grouped.contains(&device) || n_in_group == 0,
                "I5 one job per group",
            ),
            (!memory.held, "I12 nothing begins after a stop"),
            (!memory.quarantined, "nothing begins after a quarantine"),
            (
                memory.n_failures < shape.max_failures && !memory.canary_failed,
                "nothing begins after too many failures",
            ),
            (
                n_proven >= n_canaries || n_updating + n_proven < n_canaries,
                "nobody begins before the canaries have succeeded",
            ),
            (
                state.unsettled.is_empty(),
                "nothing begins before what was interrupted is settled",
            ),
            (
                !memory.barred.contains(&device),
                "nothing begins on a device that was cancelled or excluded",
            ),
            (
                !memory.updated.contains(&device),
                "I13 an updated device is not begun again",
            ),
            (
                state.online[usize::from(device)],
                "nothing begins on an absent device",
            ),
            (
                memory.n_tries.get(&device).is_none_or(|&n| n < shape.max_tries),
                "I2 no more tries than permitted",
            ),
        ];
        for (holds, invariant) in rules {
            self.require(holds, invariant, step);
        }
    }

    fn successors(&mut self, state: &State) -> Vec<(Step, State)> {
        let mut all = Vec::new();
        self.jobs_go_on(state, &mut all);
        self.settle(state, &mut all);
        self.owners(state, &mut all);
        for device in 0..self.world.n_devices {
            if state.may.flips > 0 {
                let step = at("comes or goes", 0, device);
                let mut flipped = state.clone();
                flipped.may.flips -= 1;
                let online = !state.online[usize::from(device)];
                flipped.online[usize::from(device)] = online;
                self.hear(&mut flipped, device, step);
                all.push((step, flipped));
            }
        }
        if let Some(wake) = state.wake {
            let step = at("time passes", 0, 0);
            let mut later = state.clone();
            later.now = wake;
            later.wake = None;
            self.feed(&mut later, Event::Tick, step);
            all.push((step, later));
        }
        if state.may.kills > 0 {
            let step = at("kill", 0, 0);
            let killed = self.killed(state, step);
            all.push((step, killed));
        }
        all
    }

    fn hear(&mut self, state: &mut State, device: u8, step: Step) {
        for rollout in 0..u8::try_from(self.world.rollouts.len()).expect("there are two") {
            let event = Event::Standing {
                device: self.world.device(rollout, device),
                online: state.online[usize::from(device)],
            };
            self.feed(state, event, step);
        }
    }

    fn jobs_go_on(&mut self, state: &State, all: &mut Vec<(Step, State)>) {
        for (&key, &job) in &state.jobs {
            let (rollout, device) = key;
            // A job of an earlier process goes on only by being settled.
            if state.unsettled.contains(&key) {
                continue;
            }
            match job {
                Job::Asked { n_pushes } => {
                    let mut begun = state.clone();
                    begun.jobs.insert(
                        key,
                        Job::Begun {
                            n_pushed: 0,
                            may_push: n_pushes,
                        },
                    );
                    all.push((at("begins", rollout, device), begun));
                }
                Job::Begun { n_pushed, may_push } => {
                    if n_pushed < may_push.min(2) {
                        all.push(self.push(state, key, n_pushed, may_push));
                    }
                    for end in ends_after(self.world, n_pushed) {
                        let step = at(ENDS[end].0.name(), rollout, device);
                        let mut over = state.clone();
                        over.jobs.insert(key, Job::Over { n_pushed, end });
                        if state.may.kills == 0 {
                            self.deliver(&mut over, key, step);
                        }
                        all.push((step, over));
                    }
                }
                Job::Over { .. } => {
                    let step = at("is told", rollout, device);
                    let mut told = state.clone();
                    self.deliver(&mut told, key, step);
                    all.push((step, told));
                }
            }
        }
    }

    fn push(&mut self, state: &State, key: (u8, u8), n_pushed: u8, may_push: u8) -> (Step, State) {
        let (rollout, device) = key;
        let step = at("pushes", rollout, device);
        let mut pushed = state.clone();
        let memory = &mut pushed.memories[usize::from(rollout)];
        memory.pushes(device);
        // Putting back has one push of its own.
        let more = u8::from(memory.put_back.contains(&device));
        let counted = memory.n_pushes.entry(device).or_default();
        *counted += 1;
        let holds = *counted <= self.world.shape(rollout).max_pushes + more;
        self.require(holds, "I8 no more pushes than permitted", step);
        let job = Job::Begun {
            n_pushed: n_pushed + 1,
            may_push,
        };
        pushed.jobs.insert(key, job);
        (step, pushed)
    }

    /// The end of a job reaches the fleet.
    fn deliver(&mut self, state: &mut State, key: (u8, u8), step: Step) {
        let Some(Job::Over { n_pushed, end }) = state.jobs.remove(&key) else {
            return;
        };
        let (rollout, device) = key;
        let (ending, reason, _) = ENDS[end];
        state.unsettled.remove(&key);
        let shape = self.world.shape(rollout);
        let memory = &mut state.memories[usize::from(rollout)];
        if self.world.broken == Broken::PutBackOnce {
            memory.put_back.insert(device);
        }
        let is_back = memory.looping.contains(&device);
        let n_tries = memory.n_tries.entry(device).or_default();
        *n_tries += 1;
        let n_pushes = memory.n_pushes.get(&device).copied().unwrap_or(0);
        let another = (ending == Ending::KeptOld || reason == "no answer")
            && *n_tries < shape.max_tries
            && n_pushes < shape.max_pushes
            && !memory.barred.contains(&device)
            && !memory.aborted;
        if ending.is_success() && !is_back {
            memory.updated.insert(device);
        }
        if end == BOOT_LOOP && shape.put_back {
            memory.looping.insert(device);
        }
        if ending == Ending::Unverified && !is_back {
            memory.unproven.insert(device);
        }
        if is_failure(ending) && !another && !is_back {
            memory.n_failures += 1;
            memory.canary_failed |= memory.updated.len() < shape.n_canaries as usize;
        }
        let event = Event::Ended {
            id: id(rollout),
            device: self.world.device(rollout, device),
            outcome: Outcome {
                ending,
                reason: Some(reason.to_owned()),
                text: String::new(),
                next_step: None,
            },
            n_pushes: if self.world.broken == Broken::Pushes {
                0
            } else {
                n_pushed
            },
        };
        self.feed(state, event, step);
    }

    /// Jobs of an earlier process, by what the journal says.
    fn settle(&mut self, state: &State, all: &mut Vec<(Step, State)>) {
        for &key in &state.unsettled {
            let (rollout, device) = key;
            let nothing = |explorer: &mut Self, mut state: State| {
                let step = at("nothing was done", rollout, device);
                state.unsettled.remove(&key);
                let event = Event::NothingDone {
                    id: id(rollout),
                    device: explorer.world.device(rollout, device),
                };
                explorer.feed(&mut state, event, step);
                (step, state)
            };
            match state.jobs.get(&key) {
                _ if self.world.broken == Broken::Settling => all.push(nothing(self, state.clone())),
                None | Some(Job::Asked { .. }) => all.push(nothing(self, state.clone())),
                Some(&Job::Begun { n_pushed, .. }) => {
                    for end in ends_after(self.world, n_pushed) {
                        let step = at("is settled", rollout, device);
                        let mut settled = state.clone();
                        settled.jobs.insert(key, Job::Over { n_pushed, end });
                        self.deliver(&mut settled, key, step);
                        all.push((step, settled));
                    }
                }
                Some(Job::Over { .. }) => {
                    let step = at("is told late", rollout, device);
                    let mut told = state.clone();
                    self.deliver(&mut told, key, step);
                    all.push((step, told));
                }
            }
        }
    }

    fn owners(&mut self, state: &State, all: &mut Vec<(Step, State)>) {
        let n_rollouts = u8::try_from(self.world.rollouts.len()).expect("there are two");
        for rollout in 0..n_rollouts {
            let Some(real) = state.fleet.rollout(id(rollout)) else {
                // The world begins with its rollouts being added, one after the other.
                let step = at("add", rollout, 0);
                let mut added = state.clone();
                self.feed(
                    &mut added,
                    Event::Add(id(rollout), self.world.plan(rollout)),
                    step,
                );
                all.push((step, added));
                return;
            };
            if real.is_over() {
                continue;
            }
            let held_by_owner_or_itself = matches!(real.state(), fleet::State::Paused | fleet::State::Halted);
            if state.may.pauses > 0 && real.state() == fleet::State::Running {
                let step = at("pause", rollout, 0);
                let mut paused = state.clone();
                paused.may.pauses -= 1;
                paused.memories[usize::from(rollout)].held = true;
                self.feed(&mut paused, Event::Pause(id(rollout)), step);
                all.push((step, paused));
            }
            if state.may.resumes > 0 && held_by_owner_or_itself {
                let step = at("resume", rollout, 0);
                let mut resumed = state.clone();
                resumed.may.resumes -= 1;
                let memory = &mut resumed.memories[usize::from(rollout)];
                memory.held = false;
                if real.state() == fleet::State::Halted {
                    memory.n_failures = 0;
                    memory.canary_failed = false;
                    memory.quarantined = false;
                }
                self.feed(&mut resumed, Event::Resume(id(rollout)), step);
                all.push((step, resumed));
            }
            self.corrections(state, rollout, all);
            if state.may.aborts > 0 {
                let step = at("abort", rollout, 0);
                let mut aborted = state.clone();
                aborted.may.aborts -= 1;
                aborted.memories[usize::from(rollout)].held = true;
                aborted.memories[usize::from(rollout)].aborted = true;
                let event = Event::Abort {
                    id: id(rollout),
                    force: false,
                };
                self.feed(&mut aborted, event, step);
                all.push((step, aborted));
            }
            for &(device, _) in self.world.shape(rollout).members {
                if state.may.cancels > 0 {
                    let step = at("cancel", rollout, device);
                    let mut cancelled = state.clone();
                    cancelled.may.cancels -= 1;
                    cancelled.memories[usize::from(rollout)].barred.insert(device);
                    let event = Event::Cancel(id(rollout), self.world.device(rollout, device));
                    self.feed(&mut cancelled, event, step);
                    all.push((step, cancelled));
                }
            }
        }
        if state.may.stops > 0 {
            let step = at("stop everything", 0, 0);
            let mut stopped = state.clone();
            stopped.may.stops -= 1;
            for memory in &mut stopped.memories {
                memory.held = true;
                memory.aborted = true;
            }
            self.feed(&mut stopped, Event::StopAll, step);
            all.push((step, stopped));
        }
        for device in 0..self.world.n_devices {
            if state.may.excludes > 0 {
                let step = at("exclude", 0, device);
                let mut excluded = state.clone();
                excluded.may.excludes -= 1;
                for memory in &mut excluded.memories {
                    memory.barred.insert(device);
                }
                let event = Event::Exclude {
                    device: self.world.device(0, device),
                    reason: Reason::new("", "", ""),
                };
                self.feed(&mut excluded, event, step);
                all.push((step, excluded));
            }
        }
    }

    /// What was not proven is seen again, and the image is put in quarantine.
    fn corrections(&mut self, state: &State, rollout: u8, all: &mut Vec<(Step, State)>) {
        if state.may.quarantines > 0 {
            let step = at("quarantine", rollout, 0);
            let mut halted = state.clone();
            halted.may.quarantines -= 1;
            halted.memories[usize::from(rollout)].quarantined = true;
            let event = Event::Quarantined {
                image: Sha256::of(b"new"),
                reason: Reason::new("quarantined", "", ""),
            };
            self.feed(&mut halted, event, step);
            all.push((step, halted));
        }
        for &device in &state.memories[usize::from(rollout)].unproven {
            for ending in [Ending::Updated, Ending::KeptOld] {
                if state.may.corrections == 0 {
                    continue;
                }
                let step = at("is seen again", rollout, device);
                let mut seen = state.clone();
                seen.may.corrections -= 1;
                let memory = &mut seen.memories[usize::from(rollout)];
                memory.unproven.remove(&device);
                if ending.is_success() {
                    memory.updated.insert(device);
                    memory.n_failures = memory.n_failures.saturating_sub(1);
                }
                let event = Event::Corrected {
                    id: id(rollout),
                    device: self.world.device(rollout, device),
                    outcome: Outcome::plain(ending, ""),
                };
                self.feed(&mut seen, event, step);
                all.push((step, seen));
            }
        }
    }

    /// The process dies and another takes over, after a boot of the machine.
    fn killed(&mut self, state: &State, step: Step) -> State {
        let mut state = state.clone();
        state.may.kills -= 1;
        state.now.boot = Duration::from_secs(1);
        state.unsettled.clear();
        state.jobs.retain(|_, job| !matches!(job, Job::Asked { .. }));
        let stored = state.stored.take().unwrap_or_else(|| state.fleet.clone());
        let parts = stored.rollouts().map(|(id, rollout)| {
            let (course, members) = (rollout.course().clone(), rollout.members().to_vec());
            let restored = Rollout::restored(rollout.plan().clone(), course, members);
            (id, restored.expect("the parts belong together"))
        });
        state.fleet = Fleet::restored(parts);
        for device in 0..self.world.n_devices {
            self.hear(&mut state, device, step);
        }
        self.feed(&mut state, Event::Recovered, step);
        state
    }

    /// I2: nothing more has to happen where every rollout is over or held up by its owner or itself.
    fn may_end(state: &State) -> bool {
        let done = |rollout: &Rollout| {
            rollout.is_over() || matches!(rollout.state(), fleet::State::Paused | fleet::State::Halted)
        };
        state.jobs.is_empty() && state.fleet.rollouts().all(|(_, rollout)| done(rollout))
    }

    fn count_endings(&mut self, state: &State) {
        for (_, rollout) in state.fleet.rollouts() {
            *self.endings.entry(rollout.state().name().to_owned()).or_default() += 1;
            for standing in rollout.members() {
                let word = match &standing.state {
                    MemberState::Ended(Ended::Cancelled) => "taken off",
                    state => state.name(),
                };
                *self.endings.entry(word.to_owned()).or_default() += 1;
            }
        }
    }

    fn explore(world: World) -> Self {
        let mut explorer = Self {
            world,
            ids: HashMap::new(),
            parents: vec![(0, at("begin", 0, 0))],
            edges: Vec::new(),
            may_end: vec![false],
            violations: Violations::new(),
            endings: BTreeMap::new(),
            at: 0,
        };
        let first = world.begin();
        explorer.ids.insert(first.key(), 0);
        let mut layer = vec![(0, first)];
        while !layer.is_empty() {
            let mut next_layer = Vec::new();
            for (id, state) in layer {
                explorer.at = id;
                let successors = explorer.successors(&state);
                if successors.is_empty() {
                    explorer.count_endings(&state);
                }
                for (step, successor) in successors {
                    let n_states = number(explorer.parents.len());
                    let known = *explorer.ids.entry(successor.key()).or_insert(n_states);
                    explorer.edges.push((id, known));
                    if known == n_states {
                        explorer.parents.push((id, step));
                        explorer.may_end.push(Self::may_end(&successor));
                        next_layer.push((known, successor));
                    }
                }
            }
            assert!(explorer.parents.len() < MAX_STATES, "{world:?}");
            layer = next_layer;
            if !explorer.violations.is_empty() {
                return explorer;
            }
        }
        explorer.check_that_every_way_ends();
        explorer
    }

    /// No state without a way on but those that may end, and no way that returns to where it was.
    fn check_that_every_way_ends(&mut self) {
        let n_states = self.parents.len();
        let mut n_out = vec![0_u32; n_states];
        let mut into: Vec<Vec<u32>> = vec![Vec::new(); n_states];
        for &(from, to) in &self.edges {
            n_out[from as usize] += 1;
            into[to as usize].push(from);
        }
        let mut ready: Vec<usize> = (0..n_states).filter(|&id| n_out[id] == 0).collect();
        for &id in &ready {
            if !self.may_end[id] {
                self.at = number(id);
                self.violated("I2 every rollout ends: nothing more to do", at("stuck", 0, 0));
            }
        }
        let mut n_done = 0;
        while let Some(id) = ready.pop() {
            n_done += 1;
            for &from in &into[id] {
                n_out[from as usize] -= 1;
                if n_out[from as usize] == 0 {
                    ready.push(from as usize);
                }
            }
        }
        if n_done < n_states {
            self.at = (0..n_states).find(|&id| n_out[id] > 0).map_or(0, number);
            self.violated("I2 every rollout ends: goes round for ever", at("round", 0, 0));
        }
    }

    #[track_caller]
    fn assert_reached(&self, endings: &[&str]) {
        for &ending in endings {
            assert!(
                self.endings.contains_key(ending),
                "{ending} is not in {:?}",
                self.endings
            );
        }
    }
}

/// The ends that a job may come to after so many pushes.
fn ends_after(world: World, n_pushed: u8) -> impl Iterator<Item = usize> {
    world.ends.iter().copied().filter(move |&end| {
        let (ending, _, needs_push) = ENDS[end];
        needs_push == (n_pushed > 0) || ending == Ending::Cancelled
    })
}

impl Memory {
    /// A push of this device is in the journal.
    fn pushes(&mut self, device: u8) {
        if self.looping.contains(&device) {
            self.put_back.insert(device);
        }
    }
}

// The key of a state: all that can make a difference later.

impl State {
    fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(160);
        let Budget {
            kills,
            flips,
            pauses,
            resumes,
            aborts,
            stops,
            cancels,
            excludes,
            corrections,
            quarantines,
        } = self.may;
        key.extend([kills, flips, pauses, resumes, aborts, stops, cancels, excludes]);
        key.extend([corrections, quarantines]);
        key.extend(self.online.iter().map(|&online| u8::from(online)));
        let age = |key: &mut Vec<u8>, moment: Option<Now>| {
            let ms = moment.map_or(u128::MAX, |moment| {
                // None lies in the past but where it is only kept for people.
                moment.boot.saturating_sub(self.now.boot).as_millis()
            });
            key.extend(u32::try_from(ms).unwrap_or(u32::MAX).to_le_bytes());
        };
        for (_, rollout) in self.fleet.rollouts() {
            let course = rollout.course();
            key.extend([
                course.state as u8,
                small(course.wave),
                small(course.forgiven),
                small(course.n_at_once),
            ]);
            age(
                &mut key,
                course
                    .idle_since
                    .map(|since| since.later(Duration::from_mins(10))),
            );
            if let Some(deadline_ms) = rollout.plan().rules.when_back_until_ms {
                key.extend((deadline_ms - self.now.wall_ms).max(0).to_le_bytes());
            }
            for standing in rollout.members() {
                key_of_standing(&mut key, standing);
                match standing.state {
                    MemberState::Waiting { until } => age(&mut key, Some(until)),
                    _ => age(&mut key, None),
                }
            }
        }
        for (&(rollout, device), job) in &self.jobs {
            key.extend([rollout, device]);
            key.extend(match *job {
                Job::Asked { n_pushes } => [1, n_pushes, 0],
                Job::Begun { n_pushed, may_push } => [2, n_pushed, may_push],
                Job::Over { n_pushed, end } => [3, n_pushed, u8::try_from(end).unwrap_or(255)],
            });
        }
        key.push(250);
        for &(rollout, device) in &self.unsettled {
            key.extend([rollout, device]);
        }
        key.push(251);
        for memory in &self.memories {
            key.extend([
                u8::from(memory.held),
                u8::from(memory.aborted),
                small(memory.n_failures),
                u8::from(memory.canary_failed),
            ]);
            let bits = |devices: &BTreeSet<u8>| devices.iter().fold(0_u8, |bits, device| bits | 1 << device);
            key.extend([bits(&memory.updated), bits(&memory.barred)]);
            key.extend([
                bits(&memory.looping),
                bits(&memory.put_back),
                bits(&memory.unproven),
            ]);
            key.push(u8::from(memory.quarantined));
            for counts in [&memory.n_pushes, &memory.n_tries] {
                for (&device, &n) in counts {
                    key.extend([device, n]);
                }
                key.push(252);
            }
        }
        if let Some(stored) = &self.stored {
            for (_, rollout) in stored.rollouts() {
                for standing in rollout.members() {
                    key_of_standing(&mut key, standing);
                }
            }
        }
        key
    }
}

fn key_of_standing(key: &mut Vec<u8>, standing: &fleet::Standing) {
    key.extend([
        match &standing.state {
            MemberState::Queued => 1,
            MemberState::Waiting { .. } => 2,
            MemberState::Running { .. } => 3,
            MemberState::PuttingBack { n_missed, .. } => 70 + n_missed,
            MemberState::Ended(Ended::Cancelled) => 4,
            MemberState::Ended(Ended::Skipped(_)) => 5,
            MemberState::Ended(Ended::MissedWindow(_)) => 6,
            MemberState::Ended(Ended::Outcome(outcome)) => 10 + outcome.ending as u8,
        },
        small(standing.wave),
        u8::from(standing.online),
        standing.n_tries,
        standing.n_pushes,
        match standing.leave {
            None => 0,
            Some(Ended::Cancelled) => 1,
            Some(_) => 2,
        },
        u8::from(standing.forgiven),
    ]);
}

fn small(n: u32) -> u8 {
    u8::try_from(n).expect("the world is small")
}

fn number(n: usize) -> u32 {
    u32::try_from(n).expect("there are fewer than `MAX_STATES`")
}

#[track_caller]
#[expect(clippy::print_stdout, reason = "the number of states is a result of its own")]
fn explore(name: &str, world: World) -> Explorer {
    let begun = std::time::Instant::now();
    let explorer = Explorer::explore(world);
    println!(
        "{name}: {} states, {} steps, {:.1} s; {:?}",
        explorer.parents.len(),
        explorer.edges.len(),
        begun.elapsed().as_secs_f64(),
        explorer.endings
    );
    assert!(
        explorer.violations.is_empty(),
        "{name}: {:#?}",
        explorer.violations
    );
    explorer
}

/// The rule is missed, under the name of an invariant.
#[track_caller]
fn check_that_it_is_missed(world: World, invariant: &str) {
    let explorer = Explorer::explore(world);
    assert!(
        explorer.violations.contains_key(invariant),
        "without {:?}: {:#?}",
        world.broken,
        explorer.violations
    );
    // The world is one in which nothing is amiss as long as the rule holds.
    explore(
        invariant,
        World {
            broken: Broken::Nothing,
            ..world
        },
    );
}

/// One push and one try each, so that more can happen beside it.
const BRIEF: Shape = Shape {
    max_tries: 1,
    max_pushes: 1,
    ..THREE
};

/// A canary and two others, of which each may be tried twice; a halt is lifted once.
const CANARY_AND_TWO: World = World {
    ends: ALL_ENDS,
    may: Budget {
        resumes: 1,
        ..NOTHING_HAPPENS
    },
    ..WORLD
};

/// Two rollouts for the same two devices, which are one group.
const RIVALS: World = World {
    rollouts: &[PAIR, PAIR],
    n_devices: 2,
    ..WORLD
};

/// As [`RIVALS`], and no group.
const UNGROUPED_RIVALS: World = World {
    rollouts: &[Shape { grouped: &[], ..PAIR }, Shape { grouped: &[], ..PAIR }],
    ..RIVALS
};

/// Three without a canary.
const WIDE: Shape = Shape {
    members: &[(0, 0), (1, 0), (2, 0)],
    n_canaries: 0,
    ..BRIEF
};

/// Three, one after the other, and a halt with the first that fails.
const ONE_FAILURE: Shape = Shape {
    at_once: 1,
    max_failures: 1,
    ..WIDE
};

/// Two canaries of three.
const TWO_CANARIES: Shape = Shape {
    members: &[(0, 0), (1, 0), (2, 1)],
    n_canaries: 2,
    ..BRIEF
};

/// One device, which may be tried twice.
const ALONE: Shape = Shape {
    members: &[(0, 0)],
    n_canaries: 0,
    ..THREE
};

#[test]
fn a_canary_and_two_that_follow_break_no_invariant() {
    let explorer = explore("canary and two", CANARY_AND_TWO);
    explorer.assert_reached(&[
        "already-current",
        "cancelled",
        "failed",
        "finished",
        "halted",
        "kept-old",
        "queued",
        "refused",
        "unverified",
        "updated",
    ]);
}

#[test]
fn kills_at_any_moment_break_no_invariant() {
    let kills = |rollouts, kills| World {
        rollouts,
        may: Budget {
            kills,
            ..NOTHING_HAPPENS
        },
        ..WORLD
    };
    explore("one kill", kills(&[THREE], 1)).assert_reached(&["finished", "halted"]);
    explore(
        "two kills",
        kills(
            &[Shape {
                max_pushes: 1,
                ..THREE
            }],
            2,
        ),
    )
    .assert_reached(&["finished", "halted"]);
}

#[test]
fn two_canaries_of_three_break_no_invariant() {
    let world = World {
        rollouts: &[TWO_CANARIES],
        may: Budget {
            kills: 1,
            flips: 1,
            resumes: 1,
            ..NOTHING_HAPPENS
        },
        ..WORLD
    };
    explore("two canaries", world).assert_reached(&["finished", "skipped"]);
}

#[test]
fn a_pause_at_any_moment_breaks_no_invariant() {
    let world = World {
        rollouts: &[BRIEF],
        may: Budget {
            kills: 1,
            pauses: 1,
            resumes: 1,
            flips: 1,
            ..NOTHING_HAPPENS
        },
        ..WORLD
    };
    explore("pause", world).assert_reached(&["finished", "paused", "skipped"]);
}

#[test]
fn an_abort_at_any_moment_breaks_no_invariant() {
    let world = World {
        may: Budget {
            aborts: 1,
            kills: 1,
            ..NOTHING_HAPPENS
        },
        rollouts: &[Shape {
            max_pushes: 1,
            ..THREE
        }],
        ..WORLD
    };
    explore("abort", world).assert_reached(&["aborted", "taken off"]);
}

#[test]
fn a_cancel_and_an_exclusion_at_any_moment_break_no_invariant() {
    let world = World {
        rollouts: &[BRIEF],
        may: Budget {
            cancels: 1,
            excludes: 1,
            kills: 1,
            ..NOTHING_HAPPENS
        },
        ..WORLD
    };
    explore("cancel and exclude", world).assert_reached(&["skipped", "taken off"]);
}

#[test]
fn devices_that_come_and_go_break_no_invariant() {
    for when_back in [false, true] {
        let world = World {
            rollouts: if when_back {
                &[Shape {
                    when_back: true,
                    ..BRIEF
                }]
            } else {
                &[BRIEF]
            },
            may: Budget {
                flips: 3,
                kills: 1,
                ..NOTHING_HAPPENS
            },
            ..WORLD
        };
        let gave_up = if when_back { "missed-window" } else { "skipped" };
        explore("come and go", world).assert_reached(&["finished", "halted", gave_up]);
    }
}

#[test]
fn where_nobody_answers_at_first_no_invariant_breaks() {
    let world = World {
        rollouts: &[Shape {
            members: &[(0, 1), (1, 1), (2, 1)],
            when_back: true,
            ..BRIEF
        }],
        away: &[0, 1, 2],
        may: Budget {
            flips: 4,
            ..NOTHING_HAPPENS
        },
        ..WORLD
    };
    explore("nobody at first", world).assert_reached(&["finished", "halted", "missed-window", "updated"]);
}

#[test]
fn two_rollouts_for_the_same_devices_break_no_invariant() {
    let world = World {
        may: Budget {
            kills: 1,
            ..NOTHING_HAPPENS
        },
        ..RIVALS
    };
    explore("rivals", world).assert_reached(&["finished"]);
    let beside = World {
        rollouts: &[BRIEF, PAIR],
        ..WORLD
    };
    explore("three and two", beside).assert_reached(&["finished", "halted"]);
}

#[test]
fn stopping_everything_at_any_moment_breaks_no_invariant() {
    let world = World {
        may: Budget {
            stops: 1,
            flips: 1,
            ..NOTHING_HAPPENS
        },
        ..RIVALS
    };
    explore("stop everything", world).assert_reached(&["aborted", "taken off"]);
    let killed = World {
        rollouts: &[BRIEF],
        may: Budget {
            stops: 1,
            kills: 1,
            ..NOTHING_HAPPENS
        },
        ..WORLD
    };
    explore("stop everything, kill", killed).assert_reached(&["aborted", "taken off"]);
}

/// Devices that keep restarting are put back where there is a way, beside kills, aborts, cancels and exclusions.
#[test]
fn putting_back_at_any_moment_breaks_no_invariant() {
    const LOOPING: &[usize] = &[0, 1, 3, BOOT_LOOP];
    let world = |may| World {
        rollouts: &[Shape {
            put_back: true,
            ..BRIEF
        }],
        ends: LOOPING,
        may,
        ..WORLD
    };
    let nothing = NOTHING_HAPPENS;
    let kill_and_resume = Budget {
        kills: 1,
        resumes: 1,
        ..nothing
    };
    explore("put back, kill", world(kill_and_resume)).assert_reached(&["failed", "finished", "halted"]);
    let two_kills = Budget { kills: 2, ..nothing };
    explore("put back, two kills", world(two_kills)).assert_reached(&["failed", "halted"]);
    let stopped = Budget {
        aborts: 1,
        cancels: 1,
        excludes: 1,
        ..nothing
    };
    explore("put back, stops", world(stopped)).assert_reached(&["aborted", "failed", "taken off"]);
    let again = World {
        rollouts: &[
            Shape {
                put_back: true,
                ..PAIR
            },
            Shape {
                put_back: true,
                ..PAIR
            },
        ],
        n_devices: 2,
        ends: LOOPING,
        ..WORLD
    };
    explore("put back, rivals", again).assert_reached(&["failed", "finished"]);
}

#[test]
fn what_is_seen_again_and_what_is_in_quarantine_break_no_invariant() {
    let world = |may| World {
        rollouts: &[BRIEF],
        ends: &[1, 3, 4, 5],
        may,
        ..WORLD
    };
    let corrected = Budget {
        corrections: 2,
        resumes: 1,
        kills: 1,
        ..NOTHING_HAPPENS
    };
    explore("seen again", world(corrected)).assert_reached(&["finished", "halted", "updated", "kept-old"]);
    let quarantined = Budget {
        quarantines: 1,
        resumes: 1,
        pauses: 1,
        kills: 1,
        ..NOTHING_HAPPENS
    };
    explore("quarantine", world(quarantined)).assert_reached(&["finished", "halted"]);
}

#[test]
fn each_rule_that_is_taken_away_is_missed() {
    let world = |rollouts, may| World {
        rollouts,
        may,
        ..WORLD
    };
    let alone = |may| World {
        rollouts: &[ALONE],
        n_devices: 1,
        may,
        ..WORLD
    };
    let nothing = NOTHING_HAPPENS;
    let kill = Budget { kills: 1, ..nothing };
    let pause = Budget { pauses: 1, ..nothing };
    let exclude = Budget {
        excludes: 1,
        ..nothing
    };
    let flip = Budget { flips: 1, ..nothing };
    let put_back = World {
        rollouts: &[Shape {
            put_back: true,
            ..ALONE
        }],
        ends: &[1, BOOT_LOOP],
        ..alone(nothing)
    };
    let quarantine = Budget {
        quarantines: 1,
        ..nothing
    };
    let cases: [(Broken, World, &str); 15] = [
        (
            Broken::PutBackOnce,
            put_back,
            "F91 a device is put back once in a rollout",
        ),
        (
            Broken::Quarantine,
            world(&[BRIEF], quarantine),
            "nothing begins after a quarantine",
        ),
        (
            Broken::AtOnce,
            world(&[WIDE], nothing),
            "I5 no more at once than asked for",
        ),
        (Broken::OneJobPerDevice, UNGROUPED_RIVALS, "I5 one job per device"),
        (Broken::Groups, RIVALS, "I5 one job per group"),
        (
            Broken::Canary,
            world(&[BRIEF], nothing),
            "nobody begins before the canaries have succeeded",
        ),
        (
            Broken::Halt,
            world(&[ONE_FAILURE], nothing),
            "nothing begins after too many failures",
        ),
        (
            Broken::Stop,
            world(&[BRIEF], pause),
            "I12 nothing begins after a stop",
        ),
        (
            Broken::Exclude,
            world(&[BRIEF], exclude),
            "nothing begins on a device that was cancelled or excluded",
        ),
        (Broken::Pushes, alone(nothing), "I8 no more pushes than permitted"),
        (Broken::Tries, alone(nothing), "I2 no more tries than permitted"),
        (Broken::Settling, alone(kill), "I5 one job per device"),
        (
            Broken::Standing,
            world(&[BRIEF], flip),
            "nothing begins on an absent device",
        ),
        (
            Broken::Time,
            alone(nothing),
            "I2 every rollout ends: nothing more to do",
        ),
        (Broken::StoreFirst, alone(kill), "I5 one job per device"),
    ];
    for (broken, world, invariant) in cases {
        check_that_it_is_missed(World { broken, ..world }, invariant);
    }
}
