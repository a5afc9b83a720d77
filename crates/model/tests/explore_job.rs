//! Every interleaving of one job with a small world, breadth first.
//!
//! The world holds one device (up or away, what it runs, what it would boot, whether its OTA is on), another device that may
//! be swapped in at its address, a network that may swallow any look, and a process that may be killed before and during
//! every act and is taken over from the job that was stored last. The driver and the engine are played by the explorer; every
//! decision is made by the real `next`, `standing`, `outcome` and `Job::record_after`.
//!
//! Time runs in ticks, only while watching and while no process runs; deadlines are a few ticks long.
//! Times enter a state's key only as ages, so equal situations at different hours are one state.
//!
//! Assumed of the world, and therefore not proven here:
//! - Between the identity read by `prepare` and the first byte nobody is swapped in (RELIABILITY.md 4.1 has the same limit).
//! - A driver's `undo` refuses another device.
//! - A driver says [`Reach::Part`] only if the last byte did not arrive, and an error in the device's own words is true.
//! - A device that has taken an image is gone within `gone_within`, and one whose sender died is done with it within `quiet`.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use model::device::{Hardware, Health, Ota, Snapshot};
use model::family::{Fault, FaultKind, Label, Method, Reach, Reason, Timing, Undo, Verdict};
use model::id::{DeviceId, FamilyId, Sha256};
use model::image::ImageInfo;
use model::installed::{Installed, Standing, standing};
use model::job::{Act, Job, Look, MAX_PUSHES, Order, Phase, Proof, Seen, next};
use model::outcome::{End, Ending, Outcome};
use model::precheck::Precheck;
use model::time::Now;
use model::version::{Relation, Versions};

/// Longer than the tolerance for moments of boot, so that every restart moves them by more.
const TICK_S: u32 = 10;
const QUIET_TICKS: u8 = 2;
const GONE_WITHIN_TICKS: u8 = 3;
const BACK_WITHIN_TICKS: u8 = 4;
/// No process runs for longer than every deadline.
const MAX_DEAD_TICKS: u8 = BACK_WITHIN_TICKS + 1;
const BEGIN_TICK: u32 = 100;
/// More states than this mean that something counts without end.
const MAX_STATES: usize = 3_000_000;

/// What the device's label tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Labels {
    /// Each image has its own.
    Move,
    /// All images show the same.
    Stick,
}

/// What is known of the device before the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Record {
    None,
    /// It runs the old image, and its label has moved before, or not.
    Old {
        label_moves: bool,
    },
    /// It runs the very image that is to be pushed.
    Target,
}

/// How the other device differs from ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stranger {
    /// By its hardware identity.
    Id,
    /// The identity is weak: only by its version.
    Version,
    /// The identity is weak: only by its model.
    Model,
}

/// One world: what holds in it, and how much may happen.
#[derive(Clone, Copy, Debug)]
struct World {
    labels: Labels,
    record: Record,
    stranger: Stranger,
    tells_uptime: bool,
    ota_at_first: bool,
    proof: Proof,
    soak_ticks: u8,
    may: Budget,
}

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug)]
struct Budget {
    kills: u8,
    swaps: u8,
    restarts: u8,
    cancels: u8,
    roll_backs: u8,
    exchanges: u8,
    host_reboots: u8,
}

const WORLD: World = World {
    labels: Labels::Move,
    record: Record::None,
    stranger: Stranger::Id,
    tells_uptime: true,
    ota_at_first: false,
    proof: Proof::Watched,
    soak_ticks: 1,
    may: Budget {
        kills: 2,
        swaps: 1,
        restarts: 2,
        cancels: 0,
        roll_backs: 1,
        exchanges: 0,
        host_reboots: 0,
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Old,
    New,
    /// An image that somebody on the path put in ours' place.
    Third,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    Up { since_tick: u32 },
    Away,
}

#[derive(Clone, Copy, Debug)]
struct Device {
    power: Power,
    runs: Slot,
    /// What it will run after its next start.
    boots: Slot,
    /// Ticks within which it will have restarted by itself.
    restarts_in: Option<u8>,
    /// Ticks for which it is still busy with a dead transfer.
    receiving: Option<u8>,
    ota: bool,
}

/// How the last push ended, as only the world knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastPush {
    None,
    MidStream,
    Other,
    Killed,
}

/// What the oracle remembers.
#[derive(Clone, Copy, Debug)]
struct Facts {
    /// `receiving` events at the device.
    n_pushes: u8,
    last_push: LastPush,
    /// Our device was read since the last push.
    looked: bool,
    ok_said: bool,
    /// Starts since the last push, at most 3.
    n_boots: u8,
}

#[derive(Clone)]
enum Process {
    Running { job: Rc<Job>, act: Act },
    Dead { ticks: u8 },
    Over { job: Rc<Job> },
}

#[derive(Clone)]
struct State {
    tick: u32,
    host_booted_tick: u32,
    device: Device,
    stranger_is_here: bool,
    may: Budget,
    facts: Facts,
    process: Process,
    stored: Rc<Job>,
    stored_tick: u32,
    stored_host_booted_tick: u32,
}

fn ticks(n: u8) -> Duration {
    seconds(u32::from(n))
}

fn seconds(ticks: u32) -> Duration {
    Duration::from_secs(u64::from(ticks) * u64::from(TICK_S))
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

fn versions(text: &str) -> Versions {
    Versions::one("", text)
}

impl World {
    fn label_of(self, slot: Slot) -> &'static str {
        match (self.labels, slot) {
            (Labels::Stick, _) | (Labels::Move, Slot::Old) => "1",
            (Labels::Move, Slot::New) => "2",
            (Labels::Move, Slot::Third) => "3",
        }
    }

    fn runs_at_first(self) -> Slot {
        if self.record == Record::Target {
            Slot::New
        } else {
            Slot::Old
        }
    }

    fn id(self) -> DeviceId {
        let family = FamilyId::new("");
        match self.stranger {
            Stranger::Id => DeviceId::from_hardware(&family, ""),
            Stranger::Version | Stranger::Model => DeviceId::weak(&family, ""),
        }
    }

    fn order(self) -> Order {
        let record = |bytes: &[u8], slot, label_moves| {
            Some(Installed {
                digest: Some(Sha256::of(bytes)),
                label: versions(self.label_of(slot)),
                label_moves,
            })
        };
        Order {
            device: self.id(),
            image: ImageInfo {
                version_source: model::image::VersionSource::Image,
                family: None,
                kind: String::new(),
                chip: None,
                versions: (self.labels == Labels::Move).then(|| versions("2")),
                hint: None,
                project: None,
                signature: None,
                len_bytes: 3,
                sha256: Sha256::of(b"new"),
                warnings: Vec::new(),
            },
            method: Method::new(""),
            timing: Timing {
                push: ticks(1),
                quiet: ticks(QUIET_TICKS),
                gone_within: ticks(GONE_WITHIN_TICKS),
                back_within: ticks(BACK_WITHIN_TICKS),
                look_every: ticks(1),
            },
            soak: ticks(self.soak_ticks),
            proof: self.proof,
            rollout: None,
            max_pushes: MAX_PUSHES,
            record: match self.record {
                Record::None => None,
                Record::Old { label_moves } => record(b"old", Slot::Old, label_moves),
                Record::Target => record(b"new", Slot::New, false),
            },
        }
    }

    /// What a family would say of the label.
    fn label(self, before: &Versions, after: &Versions) -> Label {
        if after == before {
            match self.record {
                Record::Old { label_moves: true } => Label::Old,
                _ => Label::Unmoved,
            }
        } else if *after == versions(self.label_of(Slot::New)) {
            Label::Target
        } else {
            Label::Other
        }
    }

    fn begin(self) -> State {
        let runs = self.runs_at_first();
        let mut state = State {
            tick: BEGIN_TICK,
            host_booted_tick: 0,
            device: Device {
                // Young, so that a restart must be told by the moment of boot and not by a smaller uptime.
                power: Power::Up {
                    since_tick: BEGIN_TICK - 1,
                },
                runs,
                boots: runs,
                restarts_in: None,
                receiving: None,
                ota: self.ota_at_first,
            },
            stranger_is_here: false,
            may: self.may,
            facts: Facts {
                n_pushes: 0,
                last_push: LastPush::None,
                looked: false,
                ok_said: false,
                n_boots: 0,
            },
            process: Process::Dead { ticks: 0 },
            stored: Rc::new(Job::new(self.order())),
            stored_tick: BEGIN_TICK,
            stored_host_booted_tick: 0,
        };
        let (job, act) = next((*state.stored).clone(), Seen::Begun, state.now());
        state.process = Process::Running {
            job: Rc::new(job),
            act,
        };
        state
    }
}

impl State {
    fn now(&self) -> Now {
        Now {
            boot: seconds(self.tick - self.host_booted_tick),
            wall_ms: i64::from(self.tick * TICK_S) * 1_000,
        }
    }

    fn is_up(&self) -> bool {
        matches!(self.device.power, Power::Up { .. })
    }

    /// What answers at the address; none if nothing does.
    fn read(&self, world: World) -> Option<Snapshot> {
        let mut snapshot = Snapshot {
            id: world.id(),
            versions: versions(world.label_of(self.device.runs)),
            uptime: None,
            ota: if self.device.ota {
                Ota::Enabled
            } else {
                Ota::Disabled
            },
            busy: false,
            host_name: None,
            hardware: Hardware::default(),
            health: Health::default(),
        };
        if self.stranger_is_here {
            snapshot.ota = Ota::Enabled;
            snapshot.uptime = world.tells_uptime.then_some(Duration::ZERO);
            match world.stranger {
                Stranger::Id => {
                    "other".clone_into(&mut snapshot.id.hardware);
                    snapshot.versions = versions("2");
                }
                Stranger::Version => snapshot.versions = versions("0"),
                Stranger::Model => snapshot.hardware.model = Some("other".to_owned()),
            }
            return Some(snapshot);
        }
        let Power::Up { since_tick } = self.device.power else {
            return None;
        };
        let uptime = seconds(self.tick - since_tick);
        snapshot.uptime = world.tells_uptime.then_some(uptime);
        Some(snapshot)
    }

    /// All that can become of the device in one tick.
    fn after_a_tick(&self) -> Vec<Self> {
        let mut later = self.clone();
        later.tick += 1;
        later.device.receiving = later
            .device
            .receiving
            .and_then(|left| left.checked_sub(1))
            .filter(|&left| left > 0);
        let mut all = Vec::new();
        match (later.device.power, later.device.restarts_in) {
            (Power::Up { .. }, None) => all.push(later),
            (Power::Up { .. }, Some(within)) => {
                if within > 1 {
                    let mut stays = later.clone();
                    stays.device.restarts_in = Some(within - 1);
                    all.push(stays);
                }
                later.go_away();
                all.extend(later.starts());
                all.push(later);
            }
            (Power::Away, _) => {
                all.extend(later.starts());
                all.push(later);
            }
        }
        all
    }

    fn go_away(&mut self) {
        self.device.power = Power::Away;
        self.device.restarts_in = None;
        self.device.receiving = None;
    }

    /// The device starts: into what it is to boot, or back into the old image.
    fn starts(&self) -> Vec<Self> {
        let mut up = self.clone();
        up.device.power = Power::Up { since_tick: up.tick };
        up.device.runs = up.device.boots;
        up.facts.n_boots = (up.facts.n_boots + 1).min(3);
        let mut all = vec![up.clone()];
        if up.device.boots != Slot::Old && up.may.roll_backs > 0 {
            up.may.roll_backs -= 1;
            up.device.boots = Slot::Old;
            up.device.runs = Slot::Old;
            all.push(up);
        }
        all
    }

    fn store(&mut self, job: &Rc<Job>) {
        self.stored = Rc::clone(job);
        self.stored_tick = self.tick;
        self.stored_host_booted_tick = self.host_booted_tick;
    }
}

/// What was found wrong, by the invariant's name, with the way there.
type Violations = BTreeMap<&'static str, String>;

struct Explorer {
    world: World,
    ids: HashMap<Vec<u8>, u32>,
    /// From where each state was first reached, and by what.
    parents: Vec<(u32, &'static str)>,
    edges: Vec<(u32, u32)>,
    over: Vec<bool>,
    violations: Violations,
    endings: BTreeMap<String, usize>,
    /// The state whose successors are being made, and the step.
    at: u32,
}

impl Explorer {
    fn violated(&mut self, invariant: &'static str, step: &'static str) {
        let mut way = vec![step];
        let mut at = self.at;
        while at != 0 {
            let (parent, step) = self.parents[at as usize];
            way.push(step);
            at = parent;
        }
        way.reverse();
        self.violations
            .entry(invariant)
            .or_insert_with(|| way.join(" > "));
    }

    fn require(&mut self, holds: bool, invariant: &'static str, step: &'static str) {
        if !holds {
            self.violated(invariant, step);
        }
    }

    /// Feeds the job, stores it where the engine does, and judges an outcome at the moment when it is found.
    fn feed(&mut self, mut state: State, seen: Seen, step: &'static str) -> State {
        let Process::Running { job: before, .. } = &state.process else {
            return state;
        };
        let before = Rc::clone(before);
        let is_verdict = matches!(seen, Seen::Pushed { .. });
        let (job, act) = next((*before).clone(), seen, state.now());
        let job = Rc::new(job);
        let watching = matches!(before.phase, Phase::Watching { .. } | Phase::Soaking { .. });
        let moved = std::mem::discriminant(&before.phase) != std::mem::discriminant(&job.phase);
        if is_verdict || (watching && moved) {
            state.store(&job);
        }
        if concluded(&before.phase).is_none()
            && let Some(outcome) = concluded(&job.phase)
        {
            self.judge(&state, &job, outcome, step);
        }
        state.process = Process::Running { job, act };
        state
    }

    /// I7 and its kin: no outcome says more than is true.
    fn judge(&mut self, state: &State, job: &Job, outcome: &Outcome, step: &'static str) {
        let Device { runs, boots, .. } = state.device;
        let at_first = self.world.runs_at_first();
        let stays_old = runs == at_first && boots == at_first;
        let facts = state.facts;
        let reason = outcome.reason.as_deref().unwrap_or("");
        let name = format!("{} ({reason})", outcome.ending.name());
        *self.endings.entry(name).or_insert(0) += 1;
        match (outcome.ending, reason) {
            (Ending::Updated, _) => self.require(runs == Slot::New, "I7 updated: the new image runs", step),
            (Ending::UpdatedLabelUnchanged, _) => {
                self.require(facts.ok_said, "I7 label unchanged: the device said OK", step);
                let restarted = facts.n_boots > 0 || !self.world.tells_uptime;
                self.require(restarted, "I7 label unchanged: it restarted", step);
                let told = self.world.label_of(runs) != self.world.label_of(Slot::Old)
                    || self.world.record == (Record::Old { label_moves: true });
                self.require(!told, "I7 label unchanged: the label cannot tell", step);
                self.require(
                    outcome.text.contains("cannot tell"),
                    "I7 label unchanged: it names its doubt",
                    step,
                );
            }
            (Ending::KeptOld, _) => self.require(stays_old, "I7 kept-old: the old image runs", step),
            (Ending::Cancelled, _) => self.require(stays_old, "I7 cancelled: the old image runs", step),
            (Ending::RolledBack, _) if self.world.tells_uptime => {
                self.require(stays_old, "I7 rolled-back: the old image runs", step);
                self.require(facts.ok_said, "I7 rolled-back: the device said OK", step);
            }
            (Ending::Failed, "not applied") if self.world.tells_uptime => {
                self.require(stays_old, "I7 not applied: the old image runs", step);
            }
            (Ending::Failed, "boot loop") => {
                self.require(
                    facts.n_boots >= 3,
                    "I7 boot loop: it restarted twice in the soak",
                    step,
                );
            }
            (Ending::Failed, "no answer" | "no call-back")
            | (Ending::Refused | Ending::AlreadyCurrent, _) => {
                self.require(
                    facts.n_pushes == 0,
                    "I7 before the first byte: no byte was sent",
                    step,
                );
            }
            (Ending::Unverified, _) => {
                self.require(
                    facts.n_pushes > 0 || job.n_pushes > 0,
                    "I7 unverified: a push was begun",
                    step,
                );
            }
            _ => {}
        }
        if outcome.ending == Ending::AlreadyCurrent {
            self.require(runs == Slot::New, "I7 already current: the new image runs", step);
        }
        // What is recorded decides the next job: it may not be believed of a device that runs something else.
        let mut finished = job.clone();
        finished.phase = Phase::Finished {
            outcome: outcome.clone(),
        };
        let record = finished.record_after().or(finished.order.record);
        if let Some(Installed {
            digest: Some(digest),
            label,
            ..
        }) = record
            && label == versions(self.world.label_of(boots))
        {
            let believed = if digest == Sha256::of(b"new") {
                boots == Slot::New || outcome.ending == Ending::UpdatedLabelUnchanged
            } else {
                boots == Slot::Old
            };
            self.require(believed, "the record says what the device runs", step);
        }
    }

    /// Everything that can happen next.
    fn successors(&mut self, state: &State) -> Vec<(&'static str, State)> {
        let mut all = Vec::new();
        let (in_flight, phase) = match &state.process {
            Process::Over { .. } => return all,
            Process::Running { job, act } => (matches!(act, Act::CommitIntent | Act::Push), Some(&job.phase)),
            Process::Dead { .. } => (false, None),
        };
        let may_swap = match self.world.stranger {
            Stranger::Id => !in_flight,
            // A weak identity is compared only between the first look and the push.
            Stranger::Version | Stranger::Model => {
                matches!(phase, Some(Phase::CommittingUndo | Phase::Preparing)) && state.facts.n_pushes == 0
            }
        };
        if state.may.swaps > 0 && may_swap {
            let mut swapped = state.clone();
            swapped.may.swaps -= 1;
            swapped.stranger_is_here = !swapped.stranger_is_here;
            all.push(("swap", swapped));
        }
        if state.may.restarts > 0 && state.is_up() {
            let mut restarting = state.clone();
            restarting.may.restarts -= 1;
            restarting.go_away();
            all.push(("device restarts", restarting));
        }
        match &state.process {
            Process::Dead { ticks } => {
                if *ticks < MAX_DEAD_TICKS {
                    for mut later in state.after_a_tick() {
                        later.process = Process::Dead { ticks: ticks + 1 };
                        all.push(("dead tick", later));
                    }
                }
                all.push(("resume", self.resume(state.clone())));
                if state.may.host_reboots > 0 && *ticks > 0 {
                    let mut rebooted = state.clone();
                    rebooted.may.host_reboots -= 1;
                    rebooted.host_booted_tick = rebooted.tick;
                    all.push(("resume after a reboot of the host", self.resume(rebooted)));
                }
            }
            Process::Running { job, act } => {
                if state.may.kills > 0 {
                    all.push(("kill", killed(state.clone())));
                }
                if state.may.cancels > 0 && *act != Act::Finish {
                    let mut state = state.clone();
                    state.may.cancels -= 1;
                    all.push(("cancel", self.feed(state, Seen::Cancel, "cancel")));
                }
                let (job, act) = (Rc::clone(job), act.clone());
                self.perform(state, &job, &act, &mut all);
            }
            Process::Over { .. } => {}
        }
        all
    }

    fn resume(&mut self, mut state: State) -> State {
        let n_pushes = state.stored.n_pushes;
        self.require(
            n_pushes >= state.facts.n_pushes,
            "I8 every push is counted before its first byte",
            "resume",
        );
        let mut job = Rc::clone(&state.stored);
        if state.stored_elsewhere() {
            let mut rebased = (*job).clone();
            let last = Now {
                boot: seconds(state.stored_tick - state.stored_host_booted_tick),
                wall_ms: i64::from(state.stored_tick * TICK_S) * 1_000,
            };
            rebased.rebase(last, state.now());
            job = Rc::new(rebased);
        }
        // The act is replaced by what the job asks for.
        state.process = Process::Running {
            job,
            act: Act::Finish,
        };
        self.feed(state, Seen::Restarted, "resume")
    }

    fn perform(&mut self, state: &State, job: &Rc<Job>, act: &Act, all: &mut Vec<(&'static str, State)>) {
        match act {
            Act::Probe { .. } => {
                let silence = Seen::Checked(Err(silent()));
                all.push((
                    "probe: silence",
                    self.feed(state.clone(), silence, "probe: silence"),
                ));
                if let Some(snapshot) = state.read(self.world) {
                    let seen = Seen::Checked(Ok(self.check(snapshot)));
                    all.push(("probe", self.feed(state.clone(), seen, "probe")));
                }
            }
            Act::CommitUndo | Act::CommitIntent => {
                let mut state = state.clone();
                state.store(job);
                all.push(("commit", self.feed(state, Seen::Committed, "commit")));
            }
            Act::Prepare => self.prepare(state, all),
            Act::Push => self.push(state, job, all),
            Act::Watch { .. } => {
                for mut later in state.after_a_tick() {
                    let silence = Seen::Looked(Err(silent()));
                    all.push((
                        "look: silence",
                        self.feed(later.clone(), silence, "look: silence"),
                    ));
                    if let Some(snapshot) = later.read(self.world) {
                        later.facts.looked |= !later.stranger_is_here;
                        let before = versions(self.world.label_of(self.world.runs_at_first()));
                        let label = self.world.label(&before, &snapshot.versions);
                        let seen = Seen::Looked(Ok((snapshot, label)));
                        all.push(("look", self.feed(later, seen, "look")));
                    }
                }
            }
            Act::Undo { .. } => {
                let failed = Seen::Undone(Err(silent()));
                all.push((
                    "undo: fails",
                    self.feed(state.clone(), failed.clone(), "undo: fails"),
                ));
                if state.is_up() && !state.stranger_is_here {
                    let mut done = state.clone();
                    done.device.ota = self.world.ota_at_first;
                    all.push((
                        "undo: answer lost",
                        self.feed(done.clone(), failed, "undo: answer lost"),
                    ));
                    all.push(("undo", self.feed(done, Seen::Undone(Ok(())), "undo")));
                }
            }
            Act::Finish => {
                let mut state = state.clone();
                state.store(job);
                let forgotten = job.undo.is_none() && state.device.ota != self.world.ota_at_first;
                self.require(!forgotten, "a pending undo is never forgotten", "finish");
                self.require(
                    job.outcome().is_some(),
                    "I2 a finished job has its outcome",
                    "finish",
                );
                self.require(state.facts.n_pushes <= 2, "I8 two pushes at most", "finish");
                state.process = Process::Over { job: Rc::clone(job) };
                all.push(("finish", state));
            }
        }
    }

    fn check(&self, snapshot: Snapshot) -> (Snapshot, Precheck, Option<Undo>) {
        let order = self.world.order();
        let by_label = match (&order.image.versions, self.world.labels) {
            (Some(offered), Labels::Move) if *offered == snapshot.versions => Relation::Same,
            (Some(_), Labels::Move) => Relation::Newer,
            _ => Relation::Unknown,
        };
        let standing: Standing = standing(order.record.as_ref(), &snapshot.versions, &order.image, by_label);
        let undo = (snapshot.ota == Ota::Disabled).then(|| Undo {
            text: String::new(),
            value: serde_json::Value::Null,
        });
        let precheck = Precheck {
            standing,
            refusals: Vec::new(),
            overridden: Vec::new(),
        };
        (snapshot, precheck, undo)
    }

    fn prepare(&mut self, state: &State, all: &mut Vec<(&'static str, State)>) {
        let failed = Seen::Prepared(Err(silent()));
        let step = "prepare: fails";
        all.push((step, self.feed(state.clone(), failed.clone(), step)));
        let Some(as_it_is) = state.read(self.world) else {
            return;
        };
        if state.stranger_is_here {
            let step = "prepare: another device";
            all.push((step, self.feed(state.clone(), Seen::Prepared(Ok(as_it_is)), step)));
            return;
        }
        if as_it_is.ota == Ota::Disabled {
            let step = "prepare: OTA stays off";
            all.push((step, self.feed(state.clone(), Seen::Prepared(Ok(as_it_is)), step)));
        }
        let undo = self.world.ota_at_first || state.stored.undo.is_some();
        self.require(undo, "the undo is stored before anything is changed", "prepare");
        let mut ready = state.clone();
        ready.device.ota = true;
        let step = "prepare: answer lost";
        all.push((step, self.feed(ready.clone(), failed, step)));
        if ready.may.kills > 0 {
            all.push(("prepare: killed", killed(ready.clone())));
        }
        if ready.may.swaps > 0 && self.world.stranger == Stranger::Id {
            let mut swapped = ready.clone();
            swapped.may.swaps -= 1;
            swapped.stranger_is_here = true;
            if let Some(snapshot) = swapped.read(self.world) {
                let step = "prepare: swapped before the identity is read";
                all.push((step, self.feed(swapped, Seen::Prepared(Ok(snapshot)), step)));
            }
        }
        ready.facts.looked = true;
        if let Some(snapshot) = ready.read(self.world) {
            all.push((
                "prepare",
                self.feed(ready, Seen::Prepared(Ok(snapshot)), "prepare"),
            ));
        }
    }

    fn push(&mut self, state: &State, job: &Rc<Job>, all: &mut Vec<(&'static str, State)>) {
        let nothing = "push: nothing arrives";
        let (kind, reason) = if job.cancelled {
            (FaultKind::Refused, Reason::Cancelled)
        } else {
            (FaultKind::Unreachable, Reason::NoCallBack)
        };
        let seen = pushed(Some((kind, reason, Reach::Nothing)));
        all.push((nothing, self.feed(state.clone(), seen, nothing)));
        if state.stranger_is_here {
            self.violated("I1 no byte to another device", "push");
            return;
        }
        if !state.is_up() || !state.device.ota {
            return;
        }
        self.require_leave_to_push(state);
        for (step, taken, fault) in PUSH_ENDS {
            let mut after = received(state);
            after.facts.ok_said = fault.is_none();
            after.facts.last_push = match fault {
                Some((_, Reason::MidStream, _)) => LastPush::MidStream,
                _ => LastPush::Other,
            };
            match fault {
                Some((_, Reason::Cancelled, _)) if !job.cancelled => continue,
                Some((_, Reason::MidStream | Reason::Cancelled, Reach::Part)) => {
                    after.device.receiving = Some(QUIET_TICKS);
                }
                Some((_, Reason::DeviceErrorRestarts, _)) => {
                    after.device.restarts_in = Some(GONE_WITHIN_TICKS);
                }
                _ => {}
            }
            if taken {
                take(&mut after, Slot::New);
                if after.may.exchanges > 0 {
                    let mut exchanged = after.clone();
                    exchanged.may.exchanges -= 1;
                    take(&mut exchanged, Slot::Third);
                    let step = "push: another image taken in its place";
                    all.push((step, self.feed(exchanged, pushed(fault), step)));
                }
            }
            all.push((step, self.feed(after, pushed(fault), step)));
        }
        if state.may.kills > 0 {
            let mut part = received(state);
            part.facts.last_push = LastPush::Killed;
            let mut taken = part.clone();
            let not_taken = part.clone();
            part.device.receiving = Some(QUIET_TICKS);
            take(&mut taken, Slot::New);
            all.push(("push: killed in mid-stream", killed(part)));
            all.push(("push: killed after the last byte, taken", killed(taken)));
            all.push(("push: killed after the last byte, not taken", killed(not_taken)));
        }
    }

    fn require_leave_to_push(&mut self, state: &State) {
        let State {
            facts,
            device,
            stored,
            ..
        } = state;
        let step = "push";
        self.require(facts.n_pushes < 2, "I8 two pushes at most", step);
        let looked = facts.n_pushes == 0 || facts.looked;
        self.require(looked, "no second push without a look in between", step);
        let leave = matches!(facts.last_push, LastPush::None | LastPush::MidStream);
        self.require(leave, "a second push only after a death in mid-stream", step);
        let intent = matches!(stored.phase, Phase::CommittingIntent) && stored.n_pushes > facts.n_pushes;
        self.require(intent, "I8 the intent is stored before the first byte", step);
        self.require(device.receiving.is_none(), "I4 no push into a busy device", step);
        let at_target = device.runs == Slot::New || device.boots == Slot::New;
        self.require(!at_target, "I13 a device at the target is not pushed", step);
    }

    /// All states; then every way must end.
    fn explore(world: World) -> Self {
        let mut explorer = Self {
            world,
            ids: HashMap::new(),
            parents: vec![(0, "begin")],
            edges: Vec::new(),
            over: vec![false],
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
                for (step, successor) in explorer.successors(&state) {
                    let n_states = number(explorer.parents.len());
                    let known = *explorer.ids.entry(successor.key()).or_insert(n_states);
                    explorer.edges.push((id, known));
                    if known == n_states {
                        explorer.parents.push((id, step));
                        explorer
                            .over
                            .push(matches!(successor.process, Process::Over { .. }));
                        next_layer.push((known, successor));
                    }
                }
            }
            assert!(explorer.parents.len() < MAX_STATES, "{world:?}");
            layer = next_layer;
            if !explorer.violations.is_empty() {
                // The shortest way to it is found; behind it everything may run wild.
                return explorer;
            }
        }
        explorer.check_that_every_way_ends();
        explorer
    }

    /// I2: no state without a way on but the end, and no way that returns to where it was.
    fn check_that_every_way_ends(&mut self) {
        let n_states = self.parents.len();
        let mut n_out = vec![0_u32; n_states];
        let mut into: Vec<Vec<u32>> = vec![Vec::new(); n_states];
        for &(from, to) in &self.edges {
            n_out[from as usize] += 1;
            into[to as usize].push(from);
        }
        // Taken off from the ends backwards, nothing may be left over.
        let mut ready: Vec<usize> = (0..n_states).filter(|&id| n_out[id] == 0).collect();
        for &id in &ready {
            if !self.over[id] {
                self.at = number(id);
                self.violated("I2 every job ends: nothing more to do", "stuck");
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
            self.violated("I2 every job ends: goes round for ever", "round");
        }
    }
}

impl Explorer {
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

    fn steps(&self) -> impl Iterator<Item = &'static str> {
        self.parents.iter().map(|&(_, step)| step)
    }
}

fn concluded(phase: &Phase) -> Option<&Outcome> {
    match phase {
        Phase::Undoing { outcome, .. } | Phase::Finished { outcome } => Some(outcome),
        _ => None,
    }
}

/// A fault of a push; none stands for OK.
type PushFault = Option<(FaultKind, Reason, Reach)>;

/// How a push that reaches the device ends: its name, whether the device takes the image, and what the driver says.
const PUSH_ENDS: [(&str, bool, PushFault); 11] = [
    // Part of the image arrives.
    (
        "push: dies in mid-stream",
        false,
        Some((FaultKind::Unsure, Reason::MidStream, Reach::Part)),
    ),
    (
        "push: device error in mid-stream",
        false,
        Some((FaultKind::Refused, Reason::DeviceError, Reach::Part)),
    ),
    (
        "push: cancelled in mid-stream",
        false,
        Some((FaultKind::Refused, Reason::Cancelled, Reach::Part)),
    ),
    // All of it arrives.
    (
        "push: device error",
        false,
        Some((FaultKind::Refused, Reason::DeviceError, Reach::Whole)),
    ),
    (
        "push: HTTP FAIL",
        false,
        Some((FaultKind::Refused, Reason::DeviceErrorRestarts, Reach::Whole)),
    ),
    (
        "push: not taken, verdict lost",
        false,
        Some((FaultKind::Unsure, Reason::VerdictLost, Reach::Whole)),
    ),
    (
        "push: not taken, dies at the end",
        false,
        Some((FaultKind::Unsure, Reason::MidStream, Reach::Whole)),
    ),
    ("push: OK is a lie", false, None),
    (
        "push: taken, verdict lost",
        true,
        Some((FaultKind::Unsure, Reason::VerdictLost, Reach::Whole)),
    ),
    (
        "push: taken, dies at the end",
        true,
        Some((FaultKind::Unsure, Reason::MidStream, Reach::Whole)),
    ),
    ("push: OK", true, None),
];

fn pushed(push_fault: PushFault) -> Seen {
    let result = match push_fault {
        None => Ok(Verdict {
            text: "OK".to_owned(),
        }),
        Some((kind, reason, reach)) => Err(fault(kind, reason, reach)),
    };
    Seen::Pushed {
        result,
        took: Duration::ZERO,
    }
}

fn killed(mut state: State) -> State {
    state.may.kills -= 1;
    state.process = Process::Dead { ticks: 0 };
    state
}

fn received(state: &State) -> State {
    let mut state = state.clone();
    state.facts.n_pushes += 1;
    state.facts.looked = false;
    state.facts.n_boots = 0;
    state.facts.ok_said = false;
    state
}

fn take(state: &mut State, slot: Slot) {
    state.device.boots = slot;
    state.device.restarts_in = Some(GONE_WITHIN_TICKS);
}

// The key of a state: all that can make a difference later.

impl State {
    fn key(&self) -> Vec<u8> {
        let mut key = Key {
            bytes: Vec::with_capacity(64),
            tick: i64::from(self.tick),
            booted: match self.device.power {
                Power::Up { since_tick } => i64::from(since_tick),
                // The earliest that it can be.
                Power::Away => i64::from(self.tick) + 1,
            },
        };
        let Budget {
            kills,
            swaps,
            restarts,
            cancels,
            roll_backs,
            exchanges,
            host_reboots,
        } = self.may;
        key.bytes.extend([
            kills,
            swaps,
            restarts,
            cancels,
            roll_backs,
            exchanges,
            host_reboots,
        ]);
        let Device {
            power,
            runs,
            boots,
            restarts_in,
            receiving,
            ota,
        } = self.device;
        key.bytes.extend([
            u8::from(power != Power::Away),
            u8::from(ota),
            u8::from(self.stranger_is_here),
        ]);
        let (job, process) = match &self.process {
            Process::Running { job, act } => (job, act_number(act)),
            Process::Dead { ticks } => (&self.stored, 20 + ticks),
            Process::Over { job } => (job, 50),
        };
        key.bytes.extend([process, self.facts.n_pushes]);
        let stored_host_booted_tick = self.stored_host_booted_tick;
        let host_booted_tick = match self.process {
            Process::Running { .. } | Process::Over { .. } => self.host_booted_tick,
            Process::Dead { .. } => stored_host_booted_tick,
        };
        key.job(job, host_booted_tick);
        let stored_matters = kills > 0 && !Rc::ptr_eq(job, &self.stored);
        if stored_matters {
            key.job(&self.stored, stored_host_booted_tick);
        }
        // Once an outcome is found for good, only what is to be put back counts.
        let settled =
            concluded(&job.phase).is_some() && (!stored_matters || concluded(&self.stored.phase).is_some());
        if settled {
            return key.bytes;
        }
        let Facts {
            n_pushes: _,
            last_push,
            looked,
            ok_said,
            n_boots,
        } = self.facts;
        key.bytes.extend([
            runs as u8,
            boots as u8,
            restarts_in.unwrap_or(0),
            receiving.unwrap_or(0),
            last_push as u8,
            u8::from(looked),
            u8::from(ok_said),
            n_boots,
        ]);
        // What `rebase` works with.
        if self.stored_elsewhere() || host_reboots > 0 {
            key.age(i64::from(self.tick - self.stored_tick), 20);
            key.age(i64::from(self.tick - self.host_booted_tick), 20);
        }
        key.bytes
    }

    /// The stored moments are those of an earlier boot of this machine.
    fn stored_elsewhere(&self) -> bool {
        self.stored_host_booted_tick != self.host_booted_tick
    }
}

fn act_number(act: &Act) -> u8 {
    match act {
        Act::Probe { .. } => 1,
        Act::CommitUndo => 2,
        Act::Prepare => 3,
        Act::CommitIntent => 4,
        Act::Push => 5,
        Act::Watch { .. } => 6,
        Act::Undo { .. } => 7,
        Act::Finish => 8,
    }
}

struct Key {
    bytes: Vec<u8>,
    tick: i64,
    /// When the device booted.
    booted: i64,
}

impl Key {
    fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    fn text(&mut self, text: &str) {
        self.bytes.extend(text.as_bytes());
        self.byte(0);
    }

    /// A number of ticks; all that are farther from nought than `most` are alike.
    fn age(&mut self, ticks: i64, most: i64) {
        self.byte(u8::try_from(ticks.clamp(-most, most) + most).expect("all ages asked for are small"));
    }

    /// Of the moment only one thing is ever asked: whether the device has restarted since.
    fn look(&mut self, look: Option<&Look>, host_booted_tick: u32) {
        let Some(look) = look else {
            return self.byte(253);
        };
        self.text(look.snapshot.versions.part("").unwrap_or(""));
        match look.snapshot.uptime {
            None => self.byte(254),
            Some(uptime) => {
                let booted = in_ticks(look.at.boot) + i64::from(host_booted_tick) - in_ticks(uptime);
                self.age(self.booted - booted, 1);
            }
        }
    }

    fn end(&mut self, end: &End) {
        match end {
            End::Accepted(_) => self.byte(0),
            End::Rejected(fault) | End::Lost(fault) => {
                self.byte(if matches!(end, End::Lost(_)) { 2 } else { 1 });
                self.bytes
                    .extend([fault.kind as u8, fault.reason as u8, fault.reach as u8]);
            }
        }
    }

    fn outcome(&mut self, outcome: &Outcome) {
        self.byte(outcome.ending as u8);
        self.text(outcome.reason.as_deref().unwrap_or(""));
    }

    fn job(&mut self, job: &Job, host_booted_tick: u32) {
        let now = self.tick - i64::from(host_booted_tick);
        match &job.phase {
            Phase::Looking { n_silent } => self.bytes.extend([1, *n_silent]),
            Phase::CommittingUndo => self.byte(2),
            Phase::Preparing => self.byte(3),
            Phase::CommittingIntent => self.byte(4),
            Phase::Pushing => self.byte(5),
            Phase::Watching { end, since, gone_at } => {
                self.byte(6);
                self.end(end);
                self.age(now - in_ticks(since.boot), i64::from(BACK_WITHIN_TICKS));
                // Only whether it was silent decides, and for how many looks; the rest is evidence.
                self.byte(u8::from(gone_at.is_some()));
                self.age(gone_at.map_or(0, |gone_at| now - in_ticks(gone_at.boot)), 2);
            }
            Phase::Soaking(soak) => {
                self.byte(7);
                self.end(&soak.end);
                self.age(now - in_ticks(soak.until), i64::from(BACK_WITHIN_TICKS));
                self.byte(soak.n_restarts);
                self.look(Some(&soak.last), host_booted_tick);
            }
            Phase::Undoing { outcome, n_tries } => {
                self.bytes.extend([8, *n_tries]);
                self.outcome(outcome);
            }
            Phase::Finished { outcome } => {
                self.byte(9);
                self.outcome(outcome);
            }
        }
        self.bytes.extend([
            job.n_pushes,
            u8::from(job.bytes_left),
            u8::from(job.undo.is_some()),
            u8::from(job.cancelled),
        ]);
        // Once an outcome is found the evidence decides nothing any more.
        if concluded(&job.phase).is_none() {
            self.look(job.evidence.before.as_ref(), host_booted_tick);
        }
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).expect("there are fewer than `MAX_STATES`")
}

fn in_ticks(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).expect("a world lasts minutes") / i64::from(TICK_S)
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

#[test]
fn with_labels_that_move_no_interleaving_breaks_an_invariant() {
    let explorer = explore("moving labels", WORLD);
    explorer.assert_reached(&[
        "cancelled (interrupted)",
        "failed (boot loop)",
        "failed (no answer)",
        "failed (no call-back)",
        "failed (not applied)",
        "kept-old (device error)",
        "kept-old (identity)",
        "kept-old (interrupted)",
        "kept-old (transfer broke off)",
        "kept-old (verdict lost)",
        "refused (OTA stays off)",
        "refused (identity)",
        "unverified (no return)",
        "unverified (verdict lost)",
        "updated ()",
        "updated-label-unchanged (label unchanged)",
    ]);
}

#[test]
fn with_labels_that_never_move_no_interleaving_breaks_an_invariant() {
    let explorer = explore(
        "sticking labels",
        World {
            labels: Labels::Stick,
            record: Record::Old { label_moves: false },
            ..WORLD
        },
    );
    explorer.assert_reached(&[
        "updated-label-unchanged (label unchanged)",
        "unverified (verdict lost)",
    ]);
}

#[test]
fn on_a_device_whose_label_is_known_to_move_a_roll_back_is_told_apart() {
    let explorer = explore(
        "recorded labels",
        World {
            record: Record::Old { label_moves: true },
            may: Budget {
                kills: 1,
                ..WORLD.may
            },
            ..WORLD
        },
    );
    explorer.assert_reached(&["rolled-back (old version came back)", "updated ()"]);
}

#[test]
fn a_device_recorded_at_the_target_is_never_pushed() {
    for labels in [Labels::Move, Labels::Stick] {
        let world = World {
            labels,
            record: Record::Target,
            may: Budget {
                roll_backs: 0,
                ..WORLD.may
            },
            ..WORLD
        };
        let explorer = explore("at the target", world);
        explorer.assert_reached(&["already-current ()"]);
        assert!(!explorer.steps().any(|step| step.starts_with("push")));
    }
}

#[test]
fn a_cancel_at_any_moment_breaks_no_invariant() {
    let explorer = explore(
        "cancel",
        World {
            may: Budget {
                kills: 1,
                cancels: 1,
                restarts: 1,
                ..WORLD.may
            },
            ..WORLD
        },
    );
    explorer.assert_reached(&["cancelled (cancelled)", "cancelled (interrupted)", "updated ()"]);
}

#[test]
fn a_restart_of_this_machine_breaks_no_invariant() {
    explore(
        "host reboot",
        World {
            may: Budget {
                kills: 1,
                swaps: 0,
                restarts: 1,
                host_reboots: 1,
                ..WORLD.may
            },
            ..WORLD
        },
    );
}

#[test]
fn an_exchanged_image_is_never_called_a_success() {
    let explorer = explore(
        "exchanged image",
        World {
            may: Budget {
                kills: 1,
                restarts: 1,
                exchanges: 1,
                ..WORLD.may
            },
            ..WORLD
        },
    );
    explorer.assert_reached(&["unverified (version mismatch)"]);
}

#[test]
fn a_stranger_that_comes_and_goes_is_never_taken_for_ours() {
    explore(
        "two swaps",
        World {
            may: Budget {
                kills: 1,
                swaps: 2,
                restarts: 1,
                ..WORLD.may
            },
            ..WORLD
        },
    );
}

#[test]
fn a_weak_identity_gets_no_byte_once_its_version_or_model_differs() {
    for stranger in [Stranger::Version, Stranger::Model] {
        let explorer = explore(
            "weak identity",
            World {
                stranger,
                may: Budget {
                    kills: 1,
                    ..WORLD.may
                },
                ..WORLD
            },
        );
        explorer.assert_reached(&["refused (identity)", "updated ()"]);
    }
}

#[test]
fn without_an_uptime_no_interleaving_breaks_an_invariant() {
    for labels in [Labels::Move, Labels::Stick] {
        explore(
            "no uptime",
            World {
                labels,
                tells_uptime: false,
                may: Budget {
                    kills: 1,
                    ..WORLD.may
                },
                ..WORLD
            },
        );
    }
}

#[test]
fn an_ota_that_was_on_at_first_is_left_on() {
    let explorer = explore(
        "OTA on",
        World {
            ota_at_first: true,
            may: Budget {
                kills: 1,
                restarts: 1,
                ..WORLD.may
            },
            ..WORLD
        },
    );
    assert!(!explorer.steps().any(|step| step.starts_with("undo")));
}

#[test]
fn without_a_proof_or_without_a_soak_no_interleaving_breaks_an_invariant() {
    let may = Budget {
        kills: 1,
        ..WORLD.may
    };
    let not_asked = World {
        proof: Proof::NotAsked,
        may,
        ..WORLD
    };
    explore("not asked", not_asked).assert_reached(&["unverified (not asked)"]);
    let no_soak = World {
        soak_ticks: 0,
        may,
        ..WORLD
    };
    explore("no soak", no_soak).assert_reached(&["updated ()"]);
}
