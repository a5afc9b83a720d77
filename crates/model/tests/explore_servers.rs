//! Two jobs on two devices, by two servers that share one journal: every interleaving, breadth first.
//!
//! Each server may take either job, by its lease. Servers are killed, come back, are paused and wake late; the devices swap
//! their addresses; transfers break, answers are lost or are lies; looks are lost; a device comes back late, or with its old
//! image. Every decision is made by the real `next`, `standing`, `outcome` and `Job::record_after`; the explorer plays the
//! devices, the network, the store (leases, fenced writes) and the engine (what is stored when).
//!
//! Time runs in ticks of the whole world: as long as a server that runs has something to do, none passes.
//! Times enter a state's key only as ages, so equal situations at different hours are one state; a key is kept as 128 bits.
//!
//! Each of the eight job rules (ARCHITECTURE.md, "The job machine") can be taken away, by playing the engine or the store
//! without it; the last test holds that each one is missed.
//!
//! Assumed of the world, and therefore not proven here:
//! - Addresses do not swap between the identity that was read and the first byte, while the lease is held.
//! - A server renews its leases as long as it runs, and once more just before the first byte of a push.
//! - A sender whose lease is lost does not send on; a device lets go of a silent sender within its stall limit.
//! - A driver says [`Reach::Part`] only if the last byte did not arrive, and an error in the device's own words is true.
//! - A device that has taken an image is gone within `gone_within`.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hasher;
use std::rc::Rc;
use std::time::Duration;

use model::device::{Hardware, Health, Ota, Snapshot};
use model::family::{Fault, FaultKind, Label, Method, Reach, Reason, Timing, Verdict};
use model::id::{DeviceId, FamilyId, Sha256};
use model::image::{ImageInfo, VersionSource};
use model::installed::{Installed, standing};
use model::job::{Act, Job, Look, MAX_PUSHES, Order, Phase, Proof, Seen, next};
use model::outcome::{End, Ending, Outcome};
use model::precheck::Precheck;
use model::time::Now;
use model::version::{Relation, Versions};

/// Longer than the tolerance for moments of boot, so that every restart moves them by more.
const TICK_S: u32 = 10;
/// For so long a device holds a session whose sender has fallen silent.
const STALL_TICKS: u8 = 1;
const QUIET_TICKS: u8 = 2;
const GONE_WITHIN_TICKS: u8 = 2;
const BACK_WITHIN_TICKS: u8 = 3;
const SOAK_TICKS: u8 = 1;
/// So long after the last renewal another server takes over.
const LEASE_TICKS: u8 = 3;
const BEGIN_TICK: u32 = 100;
/// Ages beyond this are alike: all bounds are shorter.
const OLD_TICKS: i64 = 6;
/// Jobs of one device.
const MAX_TRIES: u8 = 2;
/// More states than this mean that something counts without end.
const MAX_STATES: usize = 12_000_000;

/// A job rule that is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// 1: the intent is stored only after the push.
    Intent,
    /// 2: whoever takes a job over goes on where it stood, without a look.
    LookFirst,
    /// 3: everybody works on every device.
    Lease,
    /// 4: whoever answers just before the push is taken for the right device.
    Identity,
    /// 5: another takes over at once, and waits for nothing.
    Quiet,
    /// 6: who does not answer is taken for what it was.
    SeenOld,
    /// 7: whoever writes is believed.
    Fence,
    /// 8: the device's yes is believed.
    Truth,
    /// Beside the rules: the lease is not looked at again before the first byte.
    LastRenewal,
}

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug)]
struct Budget {
    crashes: u8,
    pauses: u8,
    swaps: u8,
    /// Pushes that do not end as they should.
    faults: u8,
    /// Looks that get lost.
    lost: u8,
    /// Devices that stay away for longer than a tick.
    late: u8,
    roll_backs: u8,
}

const NOTHING_HAPPENS: Budget = Budget {
    crashes: 0,
    pauses: 0,
    swaps: 0,
    faults: 0,
    lost: 0,
    late: 0,
    roll_backs: 0,
};

#[derive(Clone, Copy, Debug)]
struct World {
    n_jobs: usize,
    may: Budget,
    without: Without,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Old,
    New,
}

#[derive(Clone, Copy, Debug)]
struct Device {
    is_up: bool,
    since_tick: u32,
    runs: Slot,
    /// What it will run after its next start.
    boots: Slot,
    /// Ticks within which it will have restarted by itself.
    restarts_in: Option<u8>,
    session: Option<Session>,
    /// `receiving` events.
    n_received: u8,
}

/// Somebody sends to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Session {
    server: usize,
    silent_ticks: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    Up,
    Paused,
    Dead,
}

/// What a worker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Probe,
    CommitUndo,
    Prepare,
    CommitIntent,
    Push,
    Sends,
    /// Its last byte has left while it was paused.
    HasSent,
    Waits,
    Look,
    Finish,
}

/// One server at work on one device.
#[derive(Clone)]
struct Worker {
    epoch: u8,
    job_number: u8,
    job: Rc<Job>,
    does: Does,
    /// What the device had received when the outcome was found, and what was wrong with that outcome then.
    found_at: u8,
    found: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    epoch: u8,
    held: bool,
    server: usize,
    /// The process that holds it is dead, and that can be told.
    is_dead: bool,
    age: u8,
}

/// What the store has of one device.
#[derive(Clone)]
struct Entry {
    lease: Lease,
    /// Jobs that were begun.
    n_jobs: u8,
    open: Option<Rc<Job>>,
    /// How the last job ended.
    ended: Option<(Ending, u8)>,
    /// Jobs that count as tries.
    n_tries: u8,
    /// Pushes of jobs that are over.
    n_pushes: u8,
    record: Option<Rc<Installed>>,
}

#[derive(Clone)]
struct State {
    tick: u32,
    swapped: bool,
    may: Budget,
    devices: [Device; 2],
    servers: [Server; 2],
    /// By server and device.
    workers: [[Option<Worker>; 2]; 2],
    journal: [Entry; 2],
}

/// What happened, by which server, at which device.
#[derive(Clone, Copy, Debug)]
struct Step {
    what: &'static str,
    server: u8,
    device: u8,
}

fn at(what: &'static str, server: usize, device: usize) -> Step {
    let small = |n: usize| u8::try_from(n).expect("there are two");
    Step {
        what,
        server: small(server),
        device: small(device),
    }
}

fn ticks(n: u8) -> Duration {
    seconds(u32::from(n))
}

fn seconds(ticks: u32) -> Duration {
    Duration::from_secs(u64::from(ticks) * u64::from(TICK_S))
}

fn in_ticks(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).expect("a world lasts minutes") / i64::from(TICK_S)
}

fn fault(kind: FaultKind, reason: Reason, reach: Reach) -> Fault {
    Fault {
        kind,
        reason,
        text: String::new(),
        reach,
        failed_answers: 0,
        next_step: None,
        said: None,
    }
}

fn silent() -> Fault {
    fault(FaultKind::Unreachable, Reason::NoAnswer, Reach::Nothing)
}

fn label_of(slot: Slot) -> Versions {
    Versions::one("", if slot == Slot::Old { "1" } else { "2" })
}

fn id(device: usize) -> DeviceId {
    DeviceId::from_hardware(&FamilyId::new(""), if device == 0 { "a" } else { "b" })
}

fn concluded(phase: &Phase) -> Option<&Outcome> {
    match phase {
        Phase::Undoing { outcome, .. } | Phase::Finished { outcome } => Some(outcome),
        _ => None,
    }
}

fn is_away(job: &Job) -> bool {
    matches!(job.phase, Phase::Watching { gone_at: Some(_), .. })
}

impl World {
    fn order(self, device: usize, entry: &Entry) -> Order {
        let bounded = |n| {
            if self.without == Without::Quiet {
                Duration::ZERO
            } else {
                ticks(n)
            }
        };
        Order {
            device: id(device),
            image: ImageInfo {
                version_source: VersionSource::Image,
                family: None,
                kind: String::new(),
                chip: None,
                versions: Some(label_of(Slot::New)),
                hint: None,
                project: None,
                signature: None,
                len_bytes: 3,
                sha256: digest(Slot::New),
                warnings: Vec::new(),
            },
            method: Method::new(""),
            timing: Timing {
                push: ticks(1),
                quiet: bounded(QUIET_TICKS),
                gone_within: bounded(GONE_WITHIN_TICKS),
                back_within: ticks(BACK_WITHIN_TICKS),
                look_every: ticks(1),
            },
            soak: ticks(SOAK_TICKS),
            proof: Proof::Watched,
            rollout: None,
            max_pushes: MAX_PUSHES.saturating_sub(entry.n_pushes).max(1),
            record: entry.record.as_deref().cloned(),
        }
    }

    fn begin(self) -> State {
        let device = Device {
            is_up: true,
            since_tick: 0,
            runs: Slot::Old,
            boots: Slot::Old,
            restarts_in: None,
            session: None,
            n_received: 0,
        };
        let entry = |number: usize| Entry {
            lease: Lease {
                epoch: 0,
                held: false,
                server: 0,
                is_dead: false,
                age: 0,
            },
            n_jobs: 0,
            open: None,
            // One that is not to be updated is done.
            ended: (number >= self.n_jobs).then_some((Ending::AlreadyCurrent, 0)),
            n_tries: 0,
            n_pushes: 0,
            record: None,
        };
        State {
            tick: BEGIN_TICK,
            swapped: false,
            may: self.may,
            devices: [device; 2],
            servers: [Server::Up; 2],
            workers: [[None, None], [None, None]],
            journal: [entry(0), entry(1)],
        }
    }
}

fn digest(slot: Slot) -> Sha256 {
    static DIGESTS: std::sync::OnceLock<[Sha256; 2]> = std::sync::OnceLock::new();
    DIGESTS.get_or_init(|| [Sha256::of(b"old"), Sha256::of(b"new")])[slot as usize]
}

impl Entry {
    /// Whether the rollout wants another job: nothing was done, or nobody was reached, or the old image was seen.
    fn wants_another(&self) -> bool {
        match self.ended {
            None | Some((Ending::Cancelled, 0)) => true,
            Some((Ending::KeptOld, _) | (Ending::Failed, 0)) => {
                self.n_tries < MAX_TRIES && self.n_pushes < MAX_PUSHES
            }
            Some(_) => false,
        }
    }

    fn is_over(&self) -> bool {
        self.open.is_none() && !self.wants_another()
    }
}

impl State {
    fn now(&self) -> Now {
        Now {
            boot: seconds(self.tick),
            wall_ms: i64::from(self.tick * TICK_S) * 1_000,
        }
    }

    fn is_over(&self) -> bool {
        self.journal.iter().all(Entry::is_over)
    }

    /// Which device stands at the address of this one.
    fn at_address_of(&self, device: usize) -> usize {
        if self.swapped { 1 - device } else { device }
    }

    /// What answers at the address of a device; none if nothing does. It answers also while it receives.
    fn read(&self, device: usize) -> Option<Snapshot> {
        let there = self.at_address_of(device);
        let answering = self.devices[there];
        answering.is_up.then(|| Snapshot {
            id: id(there),
            versions: label_of(answering.runs),
            uptime: Some(seconds(self.tick - answering.since_tick)),
            ota: Ota::Enabled,
            busy: false,
            host_name: None,
            hardware: Hardware::default(),
            health: Health::default(),
        })
    }

    fn holds(&self, worker: &Worker, device: usize) -> bool {
        let lease = self.journal[device].lease;
        lease.held && lease.epoch == worker.epoch
    }
}

/// What was found wrong, by the invariant's name, with the way there.
type Violations = BTreeMap<&'static str, String>;

struct Explorer {
    world: World,
    ids: HashMap<u128, u32, std::hash::BuildHasherDefault<Short>>,
    /// From where each state was first reached, and by what.
    parents: Vec<(u32, Step)>,
    edges: Vec<(u32, u32)>,
    ends: Vec<u32>,
    violations: Violations,
    endings: BTreeMap<String, usize>,
    /// The state whose successors are being made.
    at: u32,
}

/// The key is a hash already.
#[derive(Default)]
struct Short(u64);

impl Hasher for Short {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("keys are numbers");
    }
    fn write_u128(&mut self, key: u128) {
        self.0 = u64::try_from((key >> 64) ^ (key & u128::from(u64::MAX))).expect("the upper half is gone");
    }
}

type Successors = Vec<(Step, State)>;

impl Explorer {
    fn violated(&mut self, invariant: &'static str, last: Step) {
        if self.violations.contains_key(invariant) {
            return;
        }
        let mut way = vec![last];
        let mut at = self.at;
        while at != 0 {
            let (parent, step) = self.parents[at as usize];
            way.push(step);
            at = parent;
        }
        let words = way
            .iter()
            .rev()
            .map(|step| format!("{} {}/{}", step.what, step.server, step.device));
        let way = words.collect::<Vec<_>>().join(" > ");
        self.violations.insert(invariant, way);
    }

    fn require(&mut self, holds: bool, invariant: &'static str, step: Step) {
        if !holds {
            self.violated(invariant, step);
        }
    }

    /// A write to the journal, fenced as the store does it. Whoever is refused stops.
    fn may_write(&self, state: &State, worker: &Worker, device: usize) -> bool {
        let entry = &state.journal[device];
        let open = entry.open.is_some() && entry.n_jobs == worker.job_number;
        let fence = matches!(self.world.without, Without::Fence | Without::Lease);
        open && (fence || state.holds(worker, device))
    }

    /// Feeds the job, stores it where the engine does, and judges an outcome at the moment when it is found.
    fn feed(&self, mut state: State, step: Step, seen: Seen) -> State {
        let (server, device) = (usize::from(step.server), usize::from(step.device));
        let Some(mut worker) = state.workers[server][device].take() else {
            return state;
        };
        let before = Rc::clone(&worker.job);
        let is_verdict = matches!(seen, Seen::Pushed { .. });
        let (job, act) = next((*before).clone(), seen, state.now());
        worker.job = Rc::new(job);
        let stored_by_act = matches!(act, Act::CommitUndo | Act::CommitIntent | Act::Push | Act::Finish);
        let went_away = is_away(&worker.job) && !is_away(&before);
        let moved = before.phase.name() != worker.job.phase.name();
        if !stored_by_act && (is_verdict || went_away || moved) {
            if !self.may_write(&state, &worker, device) {
                return state;
            }
            state.journal[device].open = Some(Rc::clone(&worker.job));
        }
        worker.does = does(&act);
        if concluded(&before.phase).is_none()
            && let Some(outcome) = concluded(&worker.job.phase)
        {
            worker.found_at = state.devices[device].n_received;
            worker.found = untrue(&state.devices[device], &worker.job, outcome);
        }
        state.workers[server][device] = Some(worker);
        state
    }

    /// Everything that can happen next.
    fn successors(&mut self, state: &State) -> Successors {
        let mut all = Vec::new();
        if state.is_over() {
            return all;
        }
        let mut is_somebody_busy = false;
        for server in 0..2 {
            match state.servers[server] {
                Server::Up => {
                    for device in 0..2 {
                        match &state.workers[server][device] {
                            None => self.acquire(state, server, device, &mut all),
                            Some(worker) => {
                                is_somebody_busy |= !matches!(worker.does, Does::Waits | Does::Sends);
                                let worker = worker.clone();
                                self.work(state, server, device, &worker, &mut all);
                            }
                        }
                    }
                }
                Server::Paused => {
                    let mut awake = state.clone();
                    awake.servers[server] = Server::Up;
                    all.push((at("wakes", server, 0), awake));
                }
                Server::Dead => {
                    let mut back = state.clone();
                    back.servers[server] = Server::Up;
                    all.push((at("starts again", server, 0), back));
                }
            }
            stopped(state, server, &mut all);
        }
        if state.may.swaps > 0 && !is_between_look_and_byte(state) {
            let mut swapped = state.clone();
            swapped.may.swaps -= 1;
            swapped.swapped = !swapped.swapped;
            all.push((at("addresses swap", 0, 0), swapped));
        }
        if !is_somebody_busy {
            ticked(state, &mut all);
        }
        all
    }

    fn acquire(&mut self, state: &State, server: usize, device: usize, all: &mut Successors) {
        let entry = &state.journal[device];
        if entry.is_over() {
            return;
        }
        let lease = entry.lease;
        let granted = !lease.held
            || lease.is_dead
            || lease.age >= LEASE_TICKS
            || match self.world.without {
                Without::Lease => true,
                Without::Quiet => state.servers[lease.server] != Server::Up,
                _ => false,
            };
        if !granted {
            return;
        }
        let mut after = state.clone();
        let entry = &mut after.journal[device];
        entry.lease = Lease {
            epoch: lease.epoch + u8::from(self.world.without != Without::Lease),
            held: true,
            server,
            is_dead: false,
            age: 0,
        };
        let (job, seen, step) = match &entry.open {
            Some(open) if self.world.without == Without::LookFirst => {
                (Rc::clone(open), Seen::Begun, at("goes on", server, device))
            }
            Some(open) => (Rc::clone(open), Seen::Restarted, at("takes over", server, device)),
            None => {
                entry.n_jobs += 1;
                entry.ended = None;
                let job = Rc::new(Job::new(self.world.order(device, entry)));
                entry.open = Some(Rc::clone(&job));
                (job, Seen::Begun, at("begins", server, device))
            }
        };
        after.workers[server][device] = Some(Worker {
            epoch: entry.lease.epoch,
            job_number: entry.n_jobs,
            job,
            does: Does::Waits,
            found_at: 0,
            found: None,
        });
        all.push((step, self.feed(after, step, seen)));
    }

    fn work(&mut self, state: &State, server: usize, device: usize, worker: &Worker, all: &mut Successors) {
        match worker.does {
            Does::Waits => {}
            Does::Probe | Does::Prepare | Does::Look => {
                if state.may.lost > 0 {
                    let mut lost = state.clone();
                    lost.may.lost -= 1;
                    let step = at("look gets lost", server, device);
                    let seen = self.seen(worker, None, state.now());
                    all.push((step, self.feed(lost, step, seen)));
                }
                let step = match worker.does {
                    Does::Probe => at("probes", server, device),
                    Does::Prepare => at("prepares", server, device),
                    _ => at("looks", server, device),
                };
                let seen = self.seen(worker, state.read(device), state.now());
                all.push((step, self.feed(state.clone(), step, seen)));
            }
            Does::CommitUndo | Does::CommitIntent => {
                let step = at("commits", server, device);
                let is_late = self.world.without == Without::Intent && worker.does == Does::CommitIntent;
                let mut after = state.clone();
                if !is_late {
                    if !self.may_write(state, worker, device) {
                        after.workers[server][device] = None;
                        all.push((at("is fenced", server, device), after));
                        return;
                    }
                    after.journal[device].open = Some(Rc::clone(&worker.job));
                }
                all.push((step, self.feed(after, step, Seen::Committed)));
            }
            Does::Push => self.begin_push(state, server, device, worker, all),
            Does::Sends => self.end_push(state, server, device, all),
            Does::HasSent => {
                for (what, taken, fault) in PUSH_ENDS {
                    let is_silent = fault.is_some_and(|(_, reason, _)| reason == Reason::VerdictLost);
                    if taken && (!is_silent || state.may.faults > 0) {
                        let mut after = state.clone();
                        after.may.faults -= u8::from(is_silent);
                        let step = at(what, server, device);
                        all.push((step, self.feed(after, step, pushed(fault))));
                    }
                }
            }
            Does::Finish => {
                let step = at("finishes", server, device);
                let mut after = state.clone();
                after.workers[server][device] = None;
                if !self.may_write(state, worker, device) {
                    all.push((at("is fenced", server, device), after));
                    return;
                }
                let Some(outcome) = worker.job.outcome() else {
                    return self.violated("I2 a finished job has its outcome", step);
                };
                let reason = outcome.reason.as_deref().unwrap_or("");
                let name = format!("{} ({reason})", outcome.ending.name());
                *self.endings.entry(name).or_insert(0) += 1;
                if let Some(invariant) = worker.found {
                    self.violated(invariant, step);
                }
                let says_what_runs = outcome.ending.is_success()
                    || matches!(outcome.ending, Ending::KeptOld | Ending::Cancelled);
                let is_of_today = worker.found_at == state.devices[device].n_received;
                self.require(
                    !says_what_runs || is_of_today,
                    "I7 what is written was found after the last push",
                    step,
                );
                let entry = &mut after.journal[device];
                entry.record = worker.job.record_after().map(Rc::new).or(entry.record.take());
                entry.open = None;
                entry.n_pushes += worker.job.n_pushes;
                entry.n_tries += u8::from(outcome.ending != Ending::Cancelled || worker.job.n_pushes > 0);
                entry.ended = Some((outcome.ending, worker.job.n_pushes));
                if state.holds(worker, device) {
                    entry.lease.held = false;
                }
                all.push((step, after));
            }
        }
    }

    /// What a look becomes for the job.
    fn seen(&self, worker: &Worker, read: Option<Snapshot>, now: Now) -> Seen {
        let order = &worker.job.order;
        let mut answer = read.ok_or_else(silent);
        match worker.does {
            Does::Probe => Seen::Checked(answer.map(|snapshot| {
                let by_label = if snapshot.versions == label_of(Slot::New) {
                    Relation::Same
                } else {
                    Relation::Newer
                };
                let standing = standing(order.record.as_ref(), &snapshot.versions, &order.image, by_label);
                let precheck = Precheck {
                    standing,
                    refusals: Vec::new(),
                    overridden: Vec::new(),
                };
                (snapshot, precheck, None)
            })),
            Does::Prepare => {
                if self.world.without == Without::Identity
                    && let Ok(snapshot) = &mut answer
                {
                    snapshot.id.clone_from(&order.device);
                }
                Seen::Prepared(answer)
            }
            _ => {
                let before = worker.job.evidence.before.as_ref();
                let end = match &worker.job.phase {
                    Phase::Watching { end, .. } => Some(end),
                    Phase::Soaking(soak) => Some(&soak.end),
                    _ => None,
                };
                if self.world.without == Without::SeenOld && answer.is_err() {
                    answer = before.map(|look| look.snapshot.clone()).ok_or_else(silent);
                    if let (Ok(snapshot), Some(look)) = (&mut answer, before) {
                        snapshot.uptime = snapshot.uptime.map(|uptime| uptime + now.since(look.at));
                    }
                }
                if self.world.without == Without::Truth && matches!(end, Some(End::Accepted(_))) {
                    answer = before.map(|look| look.snapshot.clone()).ok_or_else(silent);
                    if let Ok(snapshot) = &mut answer {
                        snapshot.versions = label_of(Slot::New);
                        snapshot.uptime = match &worker.job.phase {
                            Phase::Soaking(soak) => soak
                                .last
                                .snapshot
                                .uptime
                                .map(|uptime| uptime + now.since(soak.last.at)),
                            _ => Some(Duration::ZERO),
                        };
                    }
                }
                Seen::Looked(answer.map(|snapshot| {
                    let old = before.map(|look| &look.snapshot.versions);
                    let label = if Some(&snapshot.versions) != old {
                        Label::Target
                    } else if order.record.as_ref().is_some_and(|record| record.label_moves) {
                        Label::Old
                    } else {
                        Label::Unmoved
                    };
                    (snapshot, label)
                }))
            }
        }
    }

    fn begin_push(
        &mut self,
        state: &State,
        server: usize,
        device: usize,
        worker: &Worker,
        all: &mut Successors,
    ) {
        let unlooked = matches!(
            self.world.without,
            Without::Lease | Without::Fence | Without::LastRenewal
        );
        if !unlooked && !state.holds(worker, device) {
            let mut after = state.clone();
            after.workers[server][device] = None;
            all.push((at("is fenced", server, device), after));
            return;
        }
        let mut renewed = state.clone();
        if state.holds(worker, device) {
            renewed.journal[device].lease.age = 0;
        }
        let state = &renewed;
        let there = state.at_address_of(device);
        let target = state.devices[there];
        let nothing = || pushed(Some((FaultKind::Unreachable, Reason::NoCallBack, Reach::Nothing)));
        if !target.is_up {
            let step = at("nobody connects back", server, device);
            all.push((step, self.feed(state.clone(), step, nothing())));
            return;
        }
        if state.may.faults > 0 {
            let mut after = state.clone();
            after.may.faults -= 1;
            let step = at("call-back gets lost", server, device);
            all.push((step, self.feed(after, step, nothing())));
        }
        let step = at("sends", server, device);
        if there != device {
            return self.violated("I1 no byte to another device", step);
        }
        let entry = &state.journal[device];
        let is_free = target.session.is_none();
        self.require(is_free, "I4 one session at a device", step);
        let n_received = target.n_received + 1;
        self.require(n_received <= MAX_PUSHES, "I8 no more pushes than permitted", step);
        let n_counted = entry.n_pushes + entry.open.as_ref().map_or(0, |job| job.n_pushes);
        self.require(
            n_received <= n_counted,
            "I8 a push is counted before its first byte",
            step,
        );
        let at_target = target.runs == Slot::New || target.boots == Slot::New;
        self.require(
            !at_target,
            "I13 a device at the target is not flashed again",
            step,
        );
        if n_received > MAX_PUSHES + 1 {
            return;
        }
        let mut after = state.clone();
        after.devices[device].n_received = n_received;
        after.devices[device].session = Some(Session {
            server,
            silent_ticks: 0,
        });
        if let Some(worker) = &mut after.workers[server][device] {
            worker.does = Does::Sends;
        }
        all.push((step, after));
    }

    fn end_push(&mut self, state: &State, server: usize, device: usize, all: &mut Successors) {
        let is_open = state.devices[device]
            .session
            .is_some_and(|session| session.server == server);
        if !is_open {
            let step = at("finds the connection closed", server, device);
            let seen = pushed(Some((FaultKind::Unsure, Reason::MidStream, Reach::Part)));
            all.push((step, self.feed(state.clone(), step, seen)));
            return;
        }
        for (idx, (what, taken, fault)) in PUSH_ENDS.into_iter().enumerate() {
            let mut after = state.clone();
            if idx > 0 {
                if state.may.faults == 0 {
                    break;
                }
                after.may.faults -= 1;
            }
            let target = &mut after.devices[device];
            target.session = None;
            if taken {
                take(target);
            }
            let step = at(what, server, device);
            all.push((step, self.feed(after, step, pushed(fault))));
        }
    }

    /// All states; then every one must lead to an end. Goes on behind a violation until all of `wanted` are found.
    fn explore(world: World, wanted: &[&str]) -> Self {
        let mut explorer = Self {
            world,
            ids: HashMap::default(),
            parents: vec![(0, at("begin", 0, 0))],
            edges: Vec::new(),
            ends: Vec::new(),
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
                if state.is_over() {
                    explorer.ends.push(id);
                }
                for (step, successor) in explorer.successors(&state) {
                    let n_states = number(explorer.parents.len());
                    let known = *explorer.ids.entry(successor.key()).or_insert(n_states);
                    if wanted.is_empty() {
                        explorer.edges.push((id, known));
                    }
                    if known == n_states {
                        explorer.parents.push((id, step));
                        next_layer.push((known, successor));
                    }
                }
            }
            assert!(explorer.parents.len() < MAX_STATES, "{world:?}");
            layer = next_layer;
            let is_found = |&name: &&str| {
                let mut found = explorer.violations.keys();
                found.any(|found| found.starts_with(name))
            };
            let is_done = if wanted.is_empty() {
                !explorer.violations.is_empty()
            } else {
                wanted.iter().all(is_found)
            };
            if is_done {
                return explorer;
            }
        }
        if wanted.is_empty() {
            explorer.check_that_every_state_leads_to_an_end();
        }
        explorer
    }

    /// Guards against a world in which too little can happen.
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

    /// Liveness: from every state an end can be reached.
    fn check_that_every_state_leads_to_an_end(&mut self) {
        let n_states = self.parents.len();
        let mut begins = vec![0_u32; n_states + 1];
        for &(_, to) in &self.edges {
            begins[to as usize + 1] += 1;
        }
        for idx in 0..n_states {
            begins[idx + 1] += begins[idx];
        }
        let mut places = begins.clone();
        let mut into = vec![0_u32; self.edges.len()];
        for &(from, to) in &self.edges {
            into[places[to as usize] as usize] = from;
            places[to as usize] += 1;
        }
        let mut leads = vec![false; n_states];
        let mut ready = self.ends.clone();
        for &end in &ready {
            leads[end as usize] = true;
        }
        while let Some(id) = ready.pop() {
            let (from, to) = (begins[id as usize] as usize, begins[id as usize + 1] as usize);
            for &before in &into[from..to] {
                if !std::mem::replace(&mut leads[before as usize], true) {
                    ready.push(before);
                }
            }
        }
        if let Some(lost) = leads.iter().position(|leads| !leads) {
            self.at = number(lost);
            self.violated(
                "liveness: from every state an end can be reached",
                at("stuck", 0, 0),
            );
        }
    }
}

/// I7: what an outcome says more than is true, at the moment when it is found.
fn untrue(device: &Device, job: &Job, outcome: &Outcome) -> Option<&'static str> {
    let stays_old = device.runs == Slot::Old && device.boots == Slot::Old;
    let (holds, invariant) = match outcome.ending {
        Ending::Updated | Ending::AlreadyCurrent => {
            (device.runs == Slot::New, "I7 updated: the new image runs")
        }
        Ending::KeptOld => (stays_old, "I7 kept-old: the old image runs"),
        Ending::Cancelled => (stays_old, "I7 cancelled: the old image runs"),
        Ending::Refused => (!job.bytes_left, "I7 refused: no byte of this job has left"),
        // Its label is not known to move: an image that goes back by itself leaves a doubt, and that is said.
        Ending::UpdatedLabelUnchanged => (
            outcome.text.contains("cannot tell"),
            "I7 label unchanged: it names its doubt",
        ),
        Ending::RolledBack | Ending::Failed | Ending::Unverified => (true, ""),
    };
    (!holds).then_some(invariant)
}

/// Somebody has read the identity, holds the lease, and may send at any moment.
fn is_between_look_and_byte(state: &State) -> bool {
    (0..2).any(|device| {
        let workers = state.workers.iter().filter_map(|of| of[device].as_ref());
        let mut sending = workers.filter(|worker| {
            matches!(worker.does, Does::CommitIntent | Does::Push | Does::Sends)
                && state.holds(worker, device)
        });
        sending.next().is_some() || state.devices[device].session.is_some()
    })
}

/// A server is killed, or paused: in the middle of what it sends, or when the last byte has left it.
fn stopped(state: &State, server: usize, all: &mut Successors) {
    let works = state.workers[server].iter().any(Option::is_some);
    if !works {
        return;
    }
    let with_last_byte = |state: &State| {
        let sends = |device: &usize| {
            let worker = state.workers[server][*device].as_ref();
            worker.is_some_and(|worker| worker.does == Does::Sends)
                && state.devices[*device]
                    .session
                    .is_some_and(|session| session.server == server)
        };
        let mut ways = vec![state.clone()];
        for device in (0..2).filter(sends) {
            let mut after = state.clone();
            take(&mut after.devices[device]);
            if let Some(worker) = &mut after.workers[server][device] {
                worker.does = Does::HasSent;
            }
            ways.push(after);
        }
        ways
    };
    if state.servers[server] != Server::Dead && state.may.crashes > 0 {
        for mut crashed in with_last_byte(state) {
            crashed.may.crashes -= 1;
            crashed.servers[server] = Server::Dead;
            crashed.workers[server] = [None, None];
            for entry in &mut crashed.journal {
                if entry.lease.held && entry.lease.server == server {
                    entry.lease.is_dead = true;
                }
            }
            all.push((at("is killed", server, 0), crashed));
        }
    }
    if state.servers[server] == Server::Up && state.may.pauses > 0 {
        for mut paused in with_last_byte(state) {
            paused.may.pauses -= 1;
            paused.servers[server] = Server::Paused;
            all.push((at("is paused", server, 0), paused));
        }
    }
}

/// The device has received everything, and will restart with it.
fn take(device: &mut Device) {
    device.session = None;
    device.boots = Slot::New;
    device.restarts_in = Some(GONE_WITHIN_TICKS);
}

/// A tick passes for everybody.
fn ticked(state: &State, all: &mut Successors) {
    let mut later = state.clone();
    later.tick += 1;
    for (device, entry) in later.journal.iter_mut().enumerate() {
        let lease = &mut entry.lease;
        let works =
            state.servers[lease.server] == Server::Up && state.workers[lease.server][device].is_some();
        lease.age = if works {
            0
        } else {
            (lease.age + u8::from(lease.held)).min(LEASE_TICKS)
        };
    }
    for of_server in &mut later.workers {
        for worker in of_server.iter_mut().flatten() {
            if worker.does == Does::Waits {
                worker.does = Does::Look;
            }
        }
    }
    for (number, device) in later.devices.iter_mut().enumerate() {
        if let Some(session) = &mut device.session {
            let sender = state.workers[session.server][number].as_ref();
            let sends = state.servers[session.server] == Server::Up
                && sender.is_some_and(|worker| worker.does == Does::Sends);
            session.silent_ticks = if sends { 0 } else { session.silent_ticks + 1 };
            if session.silent_ticks > STALL_TICKS {
                device.session = None;
            }
        }
    }
    let mut ways = vec![later];
    for device in 0..2 {
        ways = ways.into_iter().flat_map(|way| restarted(&way, device)).collect();
    }
    all.extend(ways.into_iter().map(|way| (at("a tick", 0, 0), way)));
}

/// All that can become of one device in a tick.
fn restarted(state: &State, number: usize) -> Vec<State> {
    let device = state.devices[number];
    let mut all = Vec::new();
    if device.is_up {
        let Some(within) = device.restarts_in else {
            return vec![state.clone()];
        };
        if within > 1 {
            let mut stays = state.clone();
            stays.devices[number].restarts_in = Some(within - 1);
            all.push(stays);
        }
        if state.may.late > 0 {
            let mut away = state.clone();
            away.may.late -= 1;
            away.devices[number].is_up = false;
            away.devices[number].restarts_in = None;
            all.push(away);
        }
    } else {
        all.push(state.clone());
    }
    let mut up = state.clone();
    let boots = device.boots;
    up.devices[number] = Device {
        is_up: true,
        since_tick: state.tick,
        runs: boots,
        restarts_in: None,
        ..device
    };
    if boots == Slot::New && state.may.roll_backs > 0 {
        let mut back = up.clone();
        back.may.roll_backs -= 1;
        back.devices[number].runs = Slot::Old;
        back.devices[number].boots = Slot::Old;
        all.push(back);
    }
    all.push(up);
    all
}

/// A fault of a push; none stands for OK.
type PushFault = Option<(FaultKind, Reason, Reach)>;

/// How a push ends: its name, whether the device takes the image, and what the driver says. The first is as it should be.
const PUSH_ENDS: [(&str, bool, PushFault); 6] = [
    ("hears OK, taken", true, None),
    ("hears OK, a lie", false, None),
    (
        "hears nothing, taken",
        true,
        Some((FaultKind::Unsure, Reason::VerdictLost, Reach::Whole)),
    ),
    (
        "hears nothing, not taken",
        false,
        Some((FaultKind::Unsure, Reason::VerdictLost, Reach::Whole)),
    ),
    (
        "breaks off",
        false,
        Some((FaultKind::Unsure, Reason::MidStream, Reach::Part)),
    ),
    (
        "hears an error",
        false,
        Some((FaultKind::Refused, Reason::DeviceError, Reach::Whole)),
    ),
];

fn pushed(push_fault: PushFault) -> Seen {
    let result = match push_fault {
        None => Ok(Verdict { text: String::new() }),
        Some((kind, reason, reach)) => Err(fault(kind, reason, reach)),
    };
    Seen::Pushed {
        result,
        took: Duration::ZERO,
    }
}

fn does(act: &Act) -> Does {
    match act {
        Act::Probe { .. } => Does::Probe,
        Act::CommitUndo => Does::CommitUndo,
        Act::Prepare => Does::Prepare,
        Act::CommitIntent => Does::CommitIntent,
        Act::Push => Does::Push,
        Act::Watch { .. } => Does::Waits,
        Act::Undo { .. } => unreachable!("these devices have nothing that is put back"),
        Act::Finish => Does::Finish,
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).expect("there are fewer than `MAX_STATES`")
}

// The key of a state: all that can make a difference later.

impl State {
    /// The same for states that differ only in which server, or which device, is called the first.
    fn key(&self) -> u128 {
        let mut bytes = Vec::with_capacity(160);
        let mut least = u128::MAX;
        for flip_servers in [0, 1] {
            for flip_devices in [0, 1] {
                bytes = self.write_key(flip_servers, flip_devices, bytes);
                // FNV-1a, 128 bits.
                let hash =
                    bytes
                        .iter()
                        .fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash: u128, byte| {
                            (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
                        });
                least = least.min(hash);
            }
        }
        least
    }

    fn write_key(&self, flip_servers: usize, flip_devices: usize, mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.clear();
        let mut key = Key {
            bytes,
            tick: i64::from(self.tick),
            booted: 0,
            flip_servers,
        };
        let Budget {
            crashes,
            pauses,
            swaps,
            faults,
            lost,
            late,
            roll_backs,
        } = self.may;
        key.bytes
            .extend([crashes, pauses, swaps, faults, lost, late, roll_backs]);
        key.bytes.push(u8::from(self.swapped));
        for server in 0..2 {
            key.bytes.push(self.servers[server ^ flip_servers] as u8);
        }
        for number in 0..2 {
            let number = number ^ flip_devices;
            let entry = &self.journal[number];
            key.bytes.push(u8::from(entry.is_over()));
            let works = self.workers.iter().any(|of| of[number].is_some());
            // Of a device that is done, nothing matters any more but whoever still believes to work on it.
            if entry.is_over() && !works {
                continue;
            }
            let device = self.devices[number];
            key.booted = if device.is_up {
                i64::from(device.since_tick)
            } else {
                // The earliest that it can be.
                key.tick + 1
            };
            key.device(&device);
            key.entry(entry);
            for server in 0..2 {
                let Some(worker) = &self.workers[server ^ flip_servers][number] else {
                    continue;
                };
                key.bytes.extend([
                    if server == 0 { 240 } else { 241 },
                    worker.does as u8,
                    entry.lease.epoch - worker.epoch,
                    entry.n_jobs - worker.job_number,
                    worker.job.order.max_pushes,
                    u8::from(worker.found_at == device.n_received),
                    u8::from(worker.found.is_some()),
                ]);
                key.job(&worker.job);
            }
        }
        key.bytes
    }
}

struct Key {
    bytes: Vec<u8>,
    tick: i64,
    /// When the device booted.
    booted: i64,
    flip_servers: usize,
}

impl Key {
    fn server(&self, server: usize) -> u8 {
        u8::from(server ^ self.flip_servers == 1)
    }

    /// A number of ticks; all that are farther from nought than `most` are alike.
    fn age(&mut self, ticks: i64, most: i64) {
        self.bytes
            .push(u8::try_from(ticks.clamp(-most, most) + most).expect("all ages asked for are small"));
    }

    fn device(&mut self, device: &Device) {
        self.age(self.tick - self.booted, OLD_TICKS);
        self.bytes.extend([
            u8::from(device.is_up),
            device.runs as u8,
            device.boots as u8,
            device.restarts_in.unwrap_or(0),
            device.n_received,
        ]);
        match device.session {
            None => self.bytes.push(99),
            Some(session) => self
                .bytes
                .extend([self.server(session.server), session.silent_ticks]),
        }
    }

    fn entry(&mut self, entry: &Entry) {
        let lease = entry.lease;
        let server = self.server(lease.server);
        self.bytes.extend(match (lease.held, lease.is_dead) {
            (false, _) => [0, 0, 0],
            (true, true) => [1, 0, 0],
            (true, false) => [2, lease.age, server],
        });
        self.bytes.extend([entry.n_tries, entry.n_pushes]);
        match &entry.record {
            None => self.bytes.push(98),
            Some(record) => self.bytes.extend([
                u8::from(record.digest == Some(digest(Slot::New))),
                u8::from(record.digest.is_some()),
                u8::from(record.label == label_of(Slot::New)),
                u8::from(record.label_moves),
            ]),
        }
        match (&entry.open, entry.ended) {
            (Some(open), _) => self.job(open),
            (None, Some((ending, n_pushes))) => self.bytes.extend([97, ending as u8, n_pushes]),
            (None, None) => self.bytes.push(96),
        }
    }

    /// Of the moment only two things are ever asked: whether the device has restarted since, and whether its uptime is the same.
    fn look(&mut self, look: Option<&Look>) {
        let Some(look) = look else {
            return self.bytes.push(253);
        };
        self.bytes
            .push(u8::from(look.snapshot.versions == label_of(Slot::New)));
        let uptime = look.snapshot.uptime.map_or(0, in_ticks);
        self.age(uptime, OLD_TICKS);
        self.age(self.booted - (in_ticks(look.at.boot) - uptime), 1);
    }

    fn end(&mut self, end: &End) {
        match end {
            End::Accepted(_) => self.bytes.push(0),
            End::Rejected(fault) | End::Lost(fault) => {
                self.bytes.push(if matches!(end, End::Lost(_)) { 2 } else { 1 });
                self.bytes
                    .extend([fault.kind as u8, fault.reason as u8, fault.reach as u8]);
            }
        }
    }

    fn outcome(&mut self, outcome: &Outcome) {
        self.bytes.push(outcome.ending as u8);
        self.bytes
            .extend(outcome.reason.as_deref().unwrap_or("").as_bytes());
        self.bytes.push(0);
    }

    fn job(&mut self, job: &Job) {
        match &job.phase {
            Phase::Looking { n_silent } => self.bytes.extend([1, *n_silent]),
            Phase::CommittingUndo => self.bytes.push(2),
            Phase::Preparing => self.bytes.push(3),
            Phase::CommittingIntent => self.bytes.push(4),
            Phase::Pushing => self.bytes.push(5),
            Phase::Watching { end, since, gone_at } => {
                self.bytes.push(6);
                self.end(end);
                let most = i64::from(BACK_WITHIN_TICKS) + 2;
                self.age(self.tick - in_ticks(since.boot), most);
                self.bytes.push(u8::from(gone_at.is_some()));
                self.age(gone_at.map_or(0, |gone_at| self.tick - in_ticks(gone_at.boot)), 2);
            }
            Phase::Soaking(soak) => {
                self.bytes.push(7);
                self.end(&soak.end);
                self.age(self.tick - in_ticks(soak.until), i64::from(BACK_WITHIN_TICKS));
                self.bytes.push(soak.n_restarts);
                self.look(Some(&soak.last));
            }
            Phase::Undoing { outcome, n_tries } => {
                self.bytes.extend([8, *n_tries]);
                self.outcome(outcome);
            }
            Phase::Finished { outcome } => {
                self.bytes.push(9);
                self.outcome(outcome);
            }
        }
        self.bytes
            .extend([job.n_pushes, u8::from(job.bytes_left), u8::from(job.cancelled)]);
        // Once an outcome is found, the evidence only tells what is recorded.
        self.look(job.evidence.before.as_ref());
        if concluded(&job.phase).is_some() {
            self.look(job.evidence.after.as_ref());
        }
    }
}

#[track_caller]
#[expect(clippy::print_stdout, reason = "the number of states is a result of its own")]
fn explore(name: &str, world: World) -> Explorer {
    let begun = std::time::Instant::now();
    let explorer = Explorer::explore(world, &[]);
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

#[test]
fn two_jobs_by_two_servers_of_which_one_is_killed_break_no_invariant() {
    let explorer = explore(
        "two jobs, a kill, a swap and a fault",
        World {
            n_jobs: 2,
            may: Budget {
                crashes: 1,
                swaps: 1,
                faults: 1,
                ..NOTHING_HAPPENS
            },
            without: Without::Nothing,
        },
    );
    explorer.assert_reached(&[
        "cancelled (interrupted)",
        "failed (not applied)",
        "kept-old (device error)",
        "kept-old (identity)",
        "kept-old (interrupted)",
        "kept-old (verdict lost)",
        "refused (identity)",
        "updated ()",
    ]);
}

#[test]
fn two_jobs_by_two_servers_of_which_one_wakes_late_break_no_invariant() {
    let explorer = explore(
        "two jobs, a pause and a fault",
        World {
            n_jobs: 2,
            may: Budget {
                pauses: 1,
                faults: 1,
                ..NOTHING_HAPPENS
            },
            without: Without::Nothing,
        },
    );
    explorer.assert_reached(&["kept-old (transfer broke off)", "updated ()"]);
}

#[test]
fn one_job_by_two_servers_with_everything_against_it_breaks_no_invariant() {
    let explorer = explore(
        "one job, each of five things once",
        World {
            n_jobs: 1,
            may: Budget {
                crashes: 1,
                pauses: 1,
                swaps: 1,
                faults: 1,
                lost: 1,
                ..NOTHING_HAPPENS
            },
            without: Without::Nothing,
        },
    );
    explorer.assert_reached(&["unverified (no return)", "updated ()"]);
}

#[test]
fn a_device_that_is_late_or_goes_back_breaks_no_invariant() {
    let explorer = explore(
        "one job, a device that is late or goes back",
        World {
            n_jobs: 1,
            may: Budget {
                crashes: 2,
                late: 1,
                roll_backs: 1,
                lost: 1,
                ..NOTHING_HAPPENS
            },
            without: Without::Nothing,
        },
    );
    explorer.assert_reached(&[
        "unverified (no return)",
        "unverified (verdict lost)",
        "updated ()",
        "updated-label-unchanged (label unchanged)",
    ]);
}

/// RELIABILITY.md 4.1: each rule is needed. What is missed without it, and what has to happen for that.
#[test]
fn each_rule_that_is_taken_away_is_missed() {
    let may = NOTHING_HAPPENS;
    let rows: [(Without, usize, Budget, &[&str]); 9] = [
        (Without::Intent, 1, Budget { crashes: 3, ..may }, &["I8 no more"]),
        (
            Without::LookFirst,
            1,
            Budget { crashes: 2, ..may },
            &["I4 ", "I8 no more", "I13 "],
        ),
        (
            Without::Lease,
            1,
            Budget { faults: 1, ..may },
            &["I4 ", "I7 ", "I8 ", "I13 "],
        ),
        (Without::Identity, 2, Budget { swaps: 1, ..may }, &["I1 "]),
        (
            Without::Quiet,
            1,
            Budget { pauses: 1, ..may },
            &["I4 ", "I7 ", "I13 "],
        ),
        (
            Without::SeenOld,
            1,
            Budget {
                faults: 1,
                late: 1,
                ..may
            },
            &["I7 "],
        ),
        (Without::Fence, 1, Budget { pauses: 1, ..may }, &["I7 "]),
        (Without::Truth, 1, Budget { faults: 1, ..may }, &["I7 "]),
        (
            Without::LastRenewal,
            1,
            Budget { pauses: 1, ..may },
            &["I4 ", "I7 ", "I13 "],
        ),
    ];
    for (without, n_jobs, may, wanted) in rows {
        let world = World { n_jobs, may, without };
        let explorer = Explorer::explore(world, wanted);
        println!(
            "without {without:?}: {} states, {:#?}",
            explorer.parents.len(),
            explorer.violations
        );
        for invariant in wanted {
            let mut found = explorer.violations.keys();
            assert!(
                found.any(|name| name.starts_with(invariant)),
                "{invariant} is not missed without {without:?}: {:?}",
                explorer.violations
            );
        }
        // The same world breaks nothing as long as the rule is kept.
        let kept = World {
            without: Without::Nothing,
            ..world
        };
        explore("with all rules", kept);
    }
}
