//! One world: devices, servers, a journal, owners and misfortune, in virtual time, all from one seed.
//!
//! The plan, what begins when, what a job does next and how it ended are decided by the real code; played here are the
//! engine (acts, what is stored when, leases), the store (fenced writes) and the server around them.
//!
//! Assumed, as of the code around the model:
//! - One server owns the rollouts of a journal; one that wakes after another has taken over is refused whatever it writes of them.
//! - A server renews its leases every ten seconds, and once more just before the first byte.
//! - A machine that goes down takes all of its servers with it, and each machine has a name of its own.
//! - Addresses do not swap between the identity that was read and the first byte.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::OnceLock;
use std::time::Duration;

use jiff::tz::TimeZone;
use model::family::{Fault, FaultKind, Label, Method, Reach, Reason, Timing, Verdict};
use model::fleet::{Command, Course, Event, Fleet, MemberState, Rollout, Standing, State, step};
use model::id::{RolloutId, Sha256};
use model::image::{ImageInfo, VersionSource};
use model::installed::{self, Installed, standing};
use model::inventory;
use model::job::{Act, Job, Order, Phase, Proof, Seen, next};
use model::lease::{GRACE, Held, Liveness, Ruling, TTL, ruling};
use model::outcome::{Ending, Outcome};
use model::plan::{self, AtOnce, Choice, Facts, MaxFailures, Plan, Rules, plan};
use model::precheck::Precheck;
use model::time::Now;
use model::version::{Relation, Versions};
use model::window::{ALL_DAYS, Window};

use super::Bug;
use super::device::{Device, FOREIGN, Fate, Img, Kind, Ms, Session, Way, id_of, idx_of, label_of};
use super::dice::Dice;

/// When a world begins; everything that is older has its place before it.
pub(crate) const BEGIN: Ms = 100_000_000;
const SECOND: Ms = 1_000;
const MINUTE: Ms = 60 * SECOND;
const HOUR: Ms = 60 * MINUTE;
/// Longer than all deadlines and all patience in a world.
const TOO_LONG: Ms = 250 * HOUR;
/// So long the turns of one device may take: a try a day, where a window is short and each failure halts its rollout until the
/// next day; three tries, and one to put back, in each of two rollouts.
const TURNS_OF_A_DEVICE: Ms = 8 * 24 * HOUR;
/// Whatever the owners hold up, they let go on by now.
const OWNERS_ARE_DONE: Ms = 3 * HOUR;
const RENEW_EVERY: Ms = 10 * SECOND;
/// After so long without a byte a device lets go (RELIABILITY.md F37: one to four seconds).
const STALL: Ms = 4 * SECOND;
/// So long the server waits for somebody else who works on a device, and so often it asks.
const OTHER_HANDS: Ms = 2 * MINUTE;
const ASK_AGAIN: Ms = 2 * SECOND;
/// 1 November 2026.
const WALL: i64 = 1_793_491_200_000;
const MAX_EVENTS: u64 = 2_000_000;

/// Every misfortune that a world may meet.
pub(crate) const FAULTS: [&str; 30] = [
    "addresses swap",
    "boot loop",
    "call-back lost",
    "clock jumps",
    "comes back late",
    "device error",
    "device error and restart",
    "device restarts by itself",
    "goes back to the old image",
    "killed after a journal write",
    "killed before a journal write",
    "killed in mid-push",
    "look lost",
    "machine reboots",
    "never comes back",
    "offline for hours",
    "owner aborts",
    "owner aborts by force",
    "owner cancels",
    "owner excludes",
    "owner pauses",
    "owner stops everything",
    "partition",
    "paused",
    "paused for longer than the lease",
    "power cut in mid-push",
    "put back",
    "second server takes over",
    "transfer broken",
    "verdict lost",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Power {
    Goes,
    Boots,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ev {
    Add(RolloutId),
    Work(u32, u32),
    Power(usize, u32, Power),
    Cut(usize, u32),
    Stall(usize, u32),
    Presence(usize),
    Wake(usize, u32),
    Start { host: usize, reboot: bool },
    TakeOver(usize),
    SwapBack(usize, usize),
    Misfortune,
    Owner,
    OwnersAreDone,
}

/// A job as the journal has it.
pub(crate) struct JobRow {
    pub(crate) device: usize,
    pub(crate) rollout: RolloutId,
    pub(crate) image: Img,
    state: Job,
    last: Now,
    boot_id: u32,
    begun_wall: i64,
    pub(crate) begun: Ms,
    pub(crate) ended: Option<Ms>,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) n_pushes: u8,
}

/// A rollout as the journal has it.
pub(crate) struct Kept {
    pub(crate) plan: Plan,
    pub(crate) course: Course,
    pub(crate) members: Vec<Standing>,
}

struct Lease {
    epoch: u64,
    held: bool,
    server: usize,
    renewed: Ms,
    /// When it was first asked for in vain by somebody of this boot.
    asked: BTreeMap<u32, Ms>,
}

#[derive(Default)]
pub(crate) struct Store {
    pub(crate) rollouts: BTreeMap<RolloutId, Kept>,
    /// The server that owns them.
    owner: usize,
    pub(crate) jobs: Vec<JobRow>,
    leases: Vec<Lease>,
    installed: Vec<Option<Installed>>,
    n_writes: u64,
    /// Members that began to run, and that no longer do.
    pub(crate) turns: Vec<Turn>,
}

pub(crate) struct Turn {
    pub(crate) at: Ms,
    /// By the server that wrote it.
    pub(crate) wall_ms: i64,
    pub(crate) rollout: RolloutId,
    pub(crate) device: usize,
    pub(crate) wave: u32,
    pub(crate) state: MemberState,
}

struct Server {
    fleet: Fleet,
    host: usize,
    boot_id: u32,
    alive: bool,
    stopped: Ms,
    paused_until: Ms,
    wake: u32,
    told: Vec<bool>,
    last: Option<Now>,
    hold_until: Duration,
}

enum Stage {
    Leasing {
        since: Ms,
    },
    Runs {
        row: usize,
        job: Box<Job>,
        act: Act,
        session: Option<u32>,
        settles: bool,
    },
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "what was asked for, and what was heard since"
)]
struct Worker {
    server: usize,
    rollout: RolloutId,
    device: usize,
    since: Now,
    recover: bool,
    /// It brings back what the device ran before.
    puts_back: bool,
    may_push: u8,
    stage: Stage,
    epoch: u64,
    renewed: Ms,
    cancel: bool,
    cancel_seen: bool,
    token: u32,
}

/// What the owners did; before which turn of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Holds,
    /// It was told to go on; it may have been halted.
    LetsGo,
}

/// Why an act of a server went no further.
enum Stop {
    Dead,
    Fenced,
}

enum Done {
    Ended(Outcome, u8),
    Nothing,
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) bug: Bug,
    pub(crate) dice: Dice,
    pub(crate) at: Ms,
    pub(crate) devices: Vec<Device>,
    address: Vec<usize>,
    fates: BTreeMap<(usize, Img), Fate>,
    pub(crate) store: Store,
    servers: Vec<Server>,
    workers: BTreeMap<u32, Worker>,
    n_numbers: u32,
    host_booted: [Ms; 2],
    boot_ids: [u32; 2],
    /// How far the wall clock was set, from when on.
    jumps: Vec<(Ms, i64)>,
    kill_at: Option<(u64, bool)>,
    ahead: BinaryHeap<Reverse<(Ms, u64, Ev)>>,
    n_ahead: u64,
    to_come: BTreeMap<RolloutId, Plan>,
    pub(crate) planned: BTreeMap<RolloutId, Plan>,
    pub(crate) deeds: Vec<(usize, RolloutId, Deed)>,
    pub(crate) soak_of: BTreeMap<RolloutId, Ms>,
    pub(crate) hits: BTreeMap<&'static str, u64>,
    pub(crate) trace: u64,
    pub(crate) wrong: Vec<String>,
    pub(crate) is_told: bool,
    n_events: u64,
}

fn digests() -> &'static [Sha256; 10] {
    static DIGESTS: OnceLock<[Sha256; 10]> = OnceLock::new();
    DIGESTS.get_or_init(|| std::array::from_fn(|image| Sha256::of(&[u8::try_from(image).unwrap()])))
}

pub(crate) fn image_of(digest: Sha256) -> Img {
    let idx = digests().iter().position(|known| *known == digest).unwrap();
    Img::try_from(idx).unwrap()
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

fn millis(ms: Ms) -> Duration {
    Duration::from_millis(ms)
}

fn signed(ms: Ms) -> i64 {
    i64::try_from(ms).unwrap()
}

impl World {
    pub(crate) fn new(seed: u64, bug: Bug) -> Self {
        let mut dice = Dice::of(seed);
        let n_devices = match dice.below(100) {
            0..70 => dice.between(2, 6),
            70..95 => dice.between(7, 14),
            _ => dice.between(15, 50),
        };
        let devices: Vec<Device> = (0..usize::try_from(n_devices).unwrap())
            .map(|idx| {
                let kind = match dice.below(10) {
                    0 => Kind::Sticky,
                    1 | 2 => Kind::Unit,
                    _ => Kind::Esp,
                };
                let mut device = Device::new(idx, kind, BEGIN - dice.below(BEGIN / 2));
                device.talks_while_receiving = dice.chance(30);
                device
            })
            .collect();
        let n = devices.len();
        let mut world = Self {
            seed,
            bug,
            dice,
            at: BEGIN,
            address: (0..n).collect(),
            devices,
            fates: BTreeMap::new(),
            store: Store {
                leases: (0..n)
                    .map(|_| Lease {
                        epoch: 0,
                        held: false,
                        server: 0,
                        renewed: 0,
                        asked: BTreeMap::new(),
                    })
                    .collect(),
                installed: vec![None; n],
                ..Store::default()
            },
            servers: Vec::new(),
            workers: BTreeMap::new(),
            n_numbers: 0,
            host_booted: [0, 0],
            boot_ids: [1, 2],
            jumps: vec![(0, WALL)],
            kill_at: None,
            ahead: BinaryHeap::new(),
            n_ahead: 0,
            to_come: BTreeMap::new(),
            planned: BTreeMap::new(),
            deeds: Vec::new(),
            soak_of: BTreeMap::new(),
            hits: BTreeMap::new(),
            trace: 0xcbf2_9ce4_8422_2325,
            wrong: Vec::new(),
            is_told: false,
            n_events: 0,
        };
        world.jumps[0].1 += signed(world.dice.below(24) * HOUR);
        world.store.owner = 0;
        world.serve(0);
        let n_rollouts = if world.dice.chance(25) { 2 } else { 1 };
        for number in 1..=n_rollouts {
            let id = RolloutId(number);
            let plan = world.plan(number);
            world
                .soak_of
                .insert(id, u64::try_from(plan.rules.soak.as_millis()).unwrap());
            world.planned.insert(id, plan.clone());
            world.to_come.insert(id, plan);
            let wait = world.dice.below(MINUTE)
                + if number > 1 {
                    world.dice.below(20 * MINUTE)
                } else {
                    0
                };
            world.later(wait, Ev::Add(id));
        }
        for _ in 0..world.dice.below(7) {
            let wait = world.dice.below(20 * MINUTE);
            world.later(wait, Ev::Misfortune);
        }
        for _ in 0..world.dice.below(4) {
            let wait = world.dice.below(20 * MINUTE);
            world.later(wait, Ev::Owner);
        }
        world.later(OWNERS_ARE_DONE, Ev::OwnersAreDone);
        world
    }

    fn plan(&mut self, number: i64) -> Plan {
        let dice = &mut self.dice;
        let once_more = dice.chance(50);
        let mut facts = Vec::new();
        for device in &self.devices {
            let image: Img = match (number, device.idx % 3) {
                (2.., _) if !once_more => 3,
                (_, 0 | 1) => 1,
                _ => 2,
            };
            let online = dice.chance(92);
            facts.push(Facts {
                device: id_of(device.idx),
                name: String::new(),
                model: Some(["mini", "maxi", "unit"][device.idx % 3].to_owned()),
                runs: String::new(),
                standing: if online {
                    inventory::State::Online
                } else {
                    inventory::State::Offline
                },
                signal_dbm: None,
                enrolled: dice.chance(97),
                conflict: None,
                group: dice.chance(30).then(|| format!("g{}", dice.below(2))),
                busy_with: None,
                excluded: dice.chance(3),
                choice: Ok(Choice {
                    image: digests()[usize::from(image)],
                    image_name: String::new(),
                    len_bytes: 1,
                    methods: vec![Method::new("espota")],
                    estimate: millis(2 * MINUTE),
                    way_back: dice.chance(80).then(|| digests()[0]),
                    weak: false,
                    interrupts: None,
                }),
            });
        }
        let windowed = dice.chance(25);
        let rules = Rules {
            canary: u32::from(dice.small(0, 2)),
            canary_soak: millis(dice.between(30, 120) * SECOND),
            soak: millis(dice.between(20, 60) * SECOND),
            at_once: if dice.chance(15) {
                AtOnce::Auto
            } else {
                AtOnce::AtMost(dice.small(1, 5).into())
            },
            groups: if dice.chance(50) {
                BTreeMap::from([("g0".to_owned(), u32::from(dice.small(1, 3)))])
            } else {
                BTreeMap::new()
            },
            max_failures: if dice.chance(60) {
                MaxFailures::Count(dice.small(1, 3).into())
            } else {
                MaxFailures::Percent(dice.small(5, 50))
            },
            when_back_until_ms: dice
                .chance(50)
                .then(|| WALL + signed(dice.between(24, 60) * HOUR)),
            window: windowed.then(|| Window {
                name: "night".to_owned(),
                start_s: u32::try_from(dice.below(86_400)).unwrap(),
                duration: millis(dice.between(10, 240) * MINUTE),
                days: ALL_DAYS,
                timezone: None,
            }),
            max_tries: dice.small(1, 3),
            max_pushes: dice.small(1, 3),
            retry_after: millis(dice.between(5, 60) * SECOND),
            put_back: dice.chance(50),
            ..Rules::default()
        };
        plan(&facts, rules)
    }

    // Time.

    pub(crate) fn wall_at(&self, at: Ms) -> i64 {
        let offset = self.jumps.iter().rev().find(|(since, _)| *since <= at);
        offset.map_or(0, |(_, offset)| *offset) + signed(at)
    }

    fn now(&self, server: usize) -> Now {
        Now {
            boot: millis(self.at - self.host_booted[self.servers[server].host]),
            wall_ms: self.wall_at(self.at),
        }
    }

    fn later(&mut self, wait: Ms, event: Ev) {
        self.n_ahead += 1;
        self.ahead.push(Reverse((self.at + wait, self.n_ahead, event)));
    }

    fn number(&mut self) -> u32 {
        self.n_numbers += 1;
        self.n_numbers
    }

    fn hit(&mut self, fault: &'static str) {
        *self.hits.entry(fault).or_default() += 1;
        self.say(|| fault.to_owned());
    }

    #[expect(clippy::print_stdout, reason = "a replay is told")]
    fn say(&self, words: impl FnOnce() -> String) {
        if self.is_told {
            println!(
                "{:>9.3} {}",
                f64::from(u32::try_from(self.at - BEGIN).unwrap_or(0)) / 1e3,
                words()
            );
        }
    }

    fn note(&mut self, n: u64) {
        self.trace = (self.trace ^ n)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(17);
    }

    pub(crate) fn run(&mut self) {
        while let Some(Reverse((at, _, event))) = self.ahead.pop() {
            if self.is_done() {
                break;
            }
            self.at = at;
            self.n_events += 1;
            self.note(at);
            self.note(match event {
                Ev::Work(worker, _) => u64::from(worker) << 8,
                Ev::Power(device, ..) => (device as u64) << 8 | 1,
                _ => 2,
            });
            let too_long = TOO_LONG + TURNS_OF_A_DEVICE * self.devices.len() as u64;
            if at > BEGIN + too_long || self.n_events > MAX_EVENTS {
                self.wrong.push("I2 everything ends".to_owned());
                return;
            }
            self.happens(event);
        }
        if !self.is_done() {
            self.wrong
                .push("I2 everything ends: nothing more happens".to_owned());
        }
    }

    fn is_done(&self) -> bool {
        let over = |kept: &Kept| {
            kept.members
                .iter()
                .all(|standing| matches!(standing.state, MemberState::Ended(_)))
        };
        self.to_come.is_empty() && self.workers.is_empty() && self.store.rollouts.values().all(over)
    }

    fn happens(&mut self, event: Ev) {
        match event {
            Ev::Work(number, token) => {
                let Some(worker) = self.workers.get(&number).filter(|worker| worker.token == token) else {
                    return;
                };
                let paused_until = self.servers[worker.server].paused_until;
                if paused_until > self.at {
                    return self.later(paused_until - self.at, event);
                }
                self.work(number);
            }
            Ev::Wake(server, token) => {
                let it = &self.servers[server];
                if !it.alive || it.wake != token {
                    return;
                }
                if it.paused_until > self.at {
                    return self.later(it.paused_until - self.at, event);
                }
                self.tell(server, Event::Tick);
            }
            Ev::Power(device, power, what) => {
                if self.devices[device].power == power {
                    self.power(device, what);
                }
            }
            Ev::Cut(device, session) => self.cut(device, session),
            Ev::Stall(device, session) => {
                if self.devices[device]
                    .session
                    .is_some_and(|it| it.number == session)
                    && !self.is_sent(device, session)
                {
                    self.devices[device].end(self.at, false, false);
                }
            }
            Ev::Presence(device) => self.presence(device),
            Ev::Add(id) => self.add(id),
            Ev::Start { host, reboot } => {
                if reboot {
                    self.host_booted[host] = self.at - SECOND;
                    self.boot_ids[host] += 2;
                }
                if !self.servers[self.store.owner].alive {
                    self.serve(host);
                }
            }
            Ev::TakeOver(from) => {
                if self.store.owner == from
                    && self.servers[from].alive
                    && self.servers[from].paused_until > self.at
                {
                    self.hit("second server takes over");
                    let host = 1 - self.servers[from].host;
                    self.serve(host);
                }
            }
            Ev::SwapBack(one, other) => self.swap(one, other, false),
            Ev::Misfortune => self.misfortune(),
            Ev::Owner => self.owner(),
            Ev::OwnersAreDone => {
                let mut goes_on = !self.to_come.is_empty();
                let ids: Vec<RolloutId> = self.store.rollouts.keys().copied().collect();
                for id in ids {
                    goes_on |= self.is_open(id);
                    self.owner_tells(id, Event::Resume(id), Some(Deed::LetsGo));
                }
                if goes_on {
                    self.later(30 * MINUTE, Ev::OwnersAreDone);
                }
            }
        }
    }

    fn is_open(&self, id: RolloutId) -> bool {
        let members = &self.store.rollouts[&id].members;
        !members
            .iter()
            .all(|standing| matches!(standing.state, MemberState::Ended(_)))
    }

    // Servers.

    /// A server begins, with what the journal has.
    fn serve(&mut self, host: usize) {
        let stored = self.store.rollouts.iter().map(|(&id, kept)| {
            let plan = self.bug.plan(&kept.plan);
            let rollout = Rollout::restored(plan, kept.course.clone(), kept.members.clone());
            (id, rollout.unwrap())
        });
        let server = Server {
            fleet: Fleet::restored(stored),
            host,
            boot_id: self.boot_ids[host],
            alive: true,
            stopped: 0,
            paused_until: 0,
            wake: 0,
            told: vec![true; self.devices.len()],
            last: None,
            hold_until: Duration::ZERO,
        };
        let number = self.servers.len();
        self.servers.push(server);
        self.store.owner = number;
        for device in 0..self.devices.len() {
            let online = self.is_there(device);
            self.servers[number].told[device] = online;
            self.tell(
                number,
                Event::Standing {
                    device: id_of(device),
                    online,
                },
            );
        }
        self.tell(number, Event::Recovered);
    }

    fn is_running(&self, server: usize) -> bool {
        let it = &self.servers[server];
        it.alive && it.paused_until <= self.at
    }

    /// A write to the journal; the server may be killed before it, or just after.
    fn write<T>(&mut self, server: usize, change: impl FnOnce(&mut Store) -> T) -> Result<T, Stop> {
        if !self.servers[server].alive {
            return Err(Stop::Dead);
        }
        self.store.n_writes += 1;
        let dies = self.kill_at.filter(|(at, _)| *at <= self.store.n_writes);
        if let Some((_, before)) = dies {
            self.kill_at = None;
            let done = (!before).then(|| change(&mut self.store));
            self.hit(if before {
                "killed before a journal write"
            } else {
                "killed after a journal write"
            });
            drop(done);
            self.kill(server);
            return Err(Stop::Dead);
        }
        Ok(change(&mut self.store))
    }

    fn kill(&mut self, server: usize) {
        self.end_server(server);
        if self.store.owner != server {
            return;
        }
        let host = self.servers[server].host;
        let wait = self.dice.between(1, 60) * SECOND;
        let event = match self.dice.below(5) {
            0 => {
                self.hit("machine reboots");
                for other in 0..self.servers.len() {
                    if self.servers[other].host == host && self.servers[other].alive {
                        self.end_server(other);
                    }
                }
                Ev::Start { host, reboot: true }
            }
            1 => {
                self.hit("second server takes over");
                Ev::Start {
                    host: 1 - host,
                    reboot: false,
                }
            }
            _ => Ev::Start { host, reboot: false },
        };
        self.later(wait, event);
    }

    /// Its process is gone, and with it its connections.
    fn end_server(&mut self, server: usize) {
        self.servers[server].alive = false;
        self.servers[server].stopped = self.at;
        let gone: Vec<u32> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.server == server)
            .map(|(&number, _)| number)
            .collect();
        for number in gone {
            if let Some(worker) = self.workers.remove(&number)
                && let Stage::Runs {
                    session: Some(session),
                    ..
                } = worker.stage
            {
                self.hit("killed in mid-push");
                self.fall_silent(worker.device, session);
            }
        }
    }

    /// The sender of this session has stopped: all may have left it, or the device waits in vain.
    fn fall_silent(&mut self, device: usize, session: u32) {
        if self.devices[device].session.is_none_or(|it| it.number != session) {
            return;
        }
        if self.dice.chance(25) {
            self.devices[device].end(self.at, true, true);
            self.restart_soon(device);
        } else {
            self.later(STALL, Ev::Stall(device, session));
        }
    }

    /// Whether somebody who runs sends in this session.
    fn is_sent(&self, device: usize, number: u32) -> bool {
        self.workers.values().any(|worker| {
            let sends =
                matches!(worker.stage, Stage::Runs { session: Some(session), .. } if session == number);
            sends && worker.device == device && self.is_running(worker.server)
        })
    }

    /// Tells the fleet of a server, after what the clock says of windows.
    fn tell(&mut self, server: usize, event: Event) {
        if !self.servers[server].alive {
            return;
        }
        for event in self.turns(server).into_iter().chain([event]) {
            self.step(server, event);
        }
        if self.bug == Bug::HaltIgnored && self.servers[server].alive {
            let halted: Vec<RolloutId> = self.servers[server]
                .fleet
                .rollouts()
                .filter(|(_, rollout)| rollout.state() == State::Halted)
                .map(|(id, _)| id)
                .collect();
            for id in halted {
                self.step(server, Event::Resume(id));
            }
        }
        if self.servers[server].alive && self.dice.chance(5) {
            let bytes_per_s = self.workers.len() as u64 * 100;
            self.step(server, Event::Throughput { bytes_per_s });
        }
    }

    /// What is to be told of windows; a clock that was set is not believed for a while.
    fn turns(&mut self, server: usize) -> Vec<Event> {
        let now = self.now(server);
        let it = &mut self.servers[server];
        if it
            .fleet
            .rollouts()
            .all(|(_, rollout)| rollout.plan().rules.window.is_none())
        {
            return Vec::new();
        }
        if let Some(last) = it.last.replace(now) {
            let by_boot = i64::try_from(now.since(last).as_millis()).unwrap();
            if (now.wall_ms - last.wall_ms).abs_diff(by_boot) > MINUTE {
                it.hold_until = now.boot + millis(10 * SECOND);
            }
        }
        let is_sane = now.boot >= it.hold_until;
        let mut turns = Vec::new();
        for (id, rollout) in it.fleet.rollouts() {
            let window = rollout.plan().rules.window.as_ref();
            let Some(window) = window.filter(|_| is_sane && !rollout.is_over()) else {
                if rollout.opening().until.is_some() {
                    turns.push(Event::Window {
                        id,
                        open_until: None,
                        next: None,
                    });
                }
                continue;
            };
            let opening = rollout.opening();
            let passed = |moment: Option<Now>| moment.is_some_and(|moment| moment.boot <= now.boot);
            let moved = |moment: Option<Now>| {
                moment.is_some_and(|moment| {
                    let ahead = i64::try_from(moment.boot.saturating_sub(now.boot).as_millis()).unwrap();
                    (moment.wall_ms - now.wall_ms - ahead).abs() > 1_000
                })
            };
            let known = opening.until.or(opening.next);
            if known.is_some() && !passed(known) && !moved(known) {
                continue;
            }
            let moment = |at_ms: i64| now.later(millis(Ms::try_from(at_ms - now.wall_ms).unwrap_or(0)));
            turns.push(Event::Window {
                id,
                open_until: window.open_at(&TimeZone::UTC, now.wall_ms).map(moment),
                next: window.next_opening(&TimeZone::UTC, now.wall_ms).map(moment),
            });
        }
        turns
    }

    fn step(&mut self, server: usize, event: Event) {
        if !self.servers[server].alive {
            return;
        }
        let stops = matches!(event, Event::Pause(_) | Event::Abort { .. } | Event::StopAll);
        if self.bug == Bug::StopIgnored && stops {
            return;
        }
        let now = self.now(server);
        let fleet = &mut self.servers[server].fleet;
        let commands = step(fleet, event, now);
        let changes = fleet.take_changes();
        if !changes.is_empty() {
            let stands: Vec<_> = changes
                .iter()
                .filter_map(|change| {
                    let rollout = fleet.rollout(change.id)?;
                    let members = change.members.iter().map(|&idx| {
                        let idx = usize::try_from(idx).unwrap();
                        (idx, rollout.members()[idx].clone())
                    });
                    Some((change.id, rollout.course().clone(), members.collect::<Vec<_>>()))
                })
                .collect();
            if self.store.owner != server {
                // The folder is another's now: it ends.
                return self.end_server(server);
            }
            let (at, wall_ms) = (self.at, now.wall_ms);
            let written = self.write(server, |store| {
                for (id, course, mut members) in stands {
                    let kept = store.rollouts.get_mut(&id).unwrap();
                    kept.course = course;
                    // Who ends makes room for who begins.
                    members.sort_by_key(|(_, standing)| standing.state.is_running());
                    for (idx, standing) in members {
                        // One that is put back has failed already.
                        let runs = |state: &MemberState| matches!(state, MemberState::Running { .. });
                        if runs(&standing.state) != runs(&kept.members[idx].state) {
                            store.turns.push(Turn {
                                at,
                                wall_ms,
                                rollout: id,
                                device: idx_of(&kept.plan.members[idx].device),
                                wave: standing.wave,
                                state: standing.state.clone(),
                            });
                        }
                        kept.members[idx] = standing;
                    }
                }
            });
            if written.is_err() {
                return;
            }
        }
        for command in commands {
            self.carry_out(server, command);
        }
    }

    fn carry_out(&mut self, server: usize, command: Command) {
        match command {
            Command::Start { id, device, n_pushes } => {
                self.begin(server, id, idx_of(&device), n_pushes, false);
            }
            Command::Recover { id, device } => self.begin(server, id, idx_of(&device), 1, true),
            Command::Cancel { id, device, force } => {
                let device = idx_of(&device);
                let found = self
                    .workers
                    .iter_mut()
                    .find(|(_, it)| it.server == server && it.rollout == id && it.device == device);
                let Some((&number, worker)) = found else { return };
                let (uploads, sends) = match &worker.stage {
                    Stage::Runs { job, session, .. } => (job.phase.name() == "uploading", *session),
                    Stage::Leasing { .. } => (false, None),
                };
                if !force && uploads {
                    return;
                }
                worker.cancel = true;
                let late = self.dice.chance(30);
                if let Some(session) = sends
                    && !late
                    && self.devices[device]
                        .session
                        .is_some_and(|it| it.number == session)
                {
                    self.devices[device].end(self.at, false, false);
                    let worker = self.workers.get_mut(&number).unwrap();
                    worker.cancel_seen = true;
                    if let Stage::Runs { job, session, .. } = &mut worker.stage {
                        *session = None;
                        job.cancelled = true;
                    }
                    let stopped = fault(FaultKind::Refused, Reason::Cancelled, Reach::Part);
                    self.fed(number, pushed(Err(stopped)));
                }
            }
            Command::Wake { at } => {
                let now = self.now(server);
                let it = &mut self.servers[server];
                it.wake += 1;
                let event = Ev::Wake(server, it.wake);
                let wait = at.boot.saturating_sub(now.boot).as_millis();
                // A moment of less than a millisecond ahead is rounded up.
                self.later(Ms::try_from(wait).unwrap() + 1, event);
            }
            Command::PutBack { id, device } => {
                self.hit("put back");
                self.begin(server, id, idx_of(&device), 1, false);
            }
        }
    }

    fn begin(&mut self, server: usize, rollout: RolloutId, device: usize, may_push: u8, recover: bool) {
        let now = self.now(server);
        let standing = self.servers[server]
            .fleet
            .rollout(rollout)
            .and_then(|rollout| rollout.member(&id_of(device)));
        let (since, puts_back) = match standing.map(|(_, standing)| &standing.state) {
            Some(MemberState::Running { since }) => (*since, false),
            Some(MemberState::PuttingBack { since, .. }) => (*since, true),
            _ => (now, false),
        };
        let number = self.number();
        self.say(|| {
            format!(
                "worker {number} of server {server}: rollout {rollout}, device {device}, recover {recover}"
            )
        });
        self.workers.insert(
            number,
            Worker {
                server,
                rollout,
                device,
                since,
                recover,
                puts_back,
                may_push,
                stage: Stage::Leasing { since: self.at },
                epoch: 0,
                renewed: 0,
                cancel: false,
                cancel_seen: false,
                token: 0,
            },
        );
        let wait = self.dice.between(1, 200);
        self.later(wait, Ev::Work(number, 0));
    }

    fn add(&mut self, id: RolloutId) {
        let owner = self.store.owner;
        if !self.is_running(owner) {
            return self.later(10 * SECOND, Ev::Add(id));
        }
        let Some(plan) = self.to_come.remove(&id) else {
            return;
        };
        let as_told = self.bug.plan(&plan);
        let fresh = Rollout::new(as_told.clone());
        let kept = Kept {
            course: fresh.course().clone(),
            members: fresh.members().to_vec(),
            plan: plan.clone(),
        };
        if self
            .write(owner, |store| store.rollouts.insert(id, kept))
            .is_err()
        {
            // Nobody has answered its owner: it is asked for again, if it is not there.
            if !self.store.rollouts.contains_key(&id) {
                self.to_come.insert(id, plan);
                self.later(2 * MINUTE, Ev::Add(id));
            }
            return;
        }
        self.tell(owner, Event::Add(id, as_told));
    }

    // Devices.

    fn is_there(&self, device: usize) -> bool {
        self.address[device] == device && self.devices[device].is_reachable(self.at)
    }

    fn presence(&mut self, device: usize) {
        let online = self.is_there(device);
        for server in 0..self.servers.len() {
            let held = self
                .workers
                .values()
                .any(|worker| worker.server == server && worker.device == device);
            if self.is_running(server) && !held && self.servers[server].told[device] != online {
                self.servers[server].told[device] = online;
                self.tell(
                    server,
                    Event::Standing {
                        device: id_of(device),
                        online,
                    },
                );
            }
        }
        let cut_until = self.devices[device].cut_until;
        if cut_until > self.at {
            let wait = cut_until - self.at + self.dice.below(30 * SECOND);
            self.later(wait, Ev::Presence(device));
        }
    }

    fn presence_soon(&mut self, device: usize) {
        let wait = self.dice.below(30 * SECOND);
        self.later(wait, Ev::Presence(device));
    }

    fn restart_soon(&mut self, device: usize) {
        let wait = self.dice.between(100, 8_000);
        let power = self.devices[device].power;
        self.later(wait, Ev::Power(device, power, Power::Goes));
    }

    fn power(&mut self, device: usize, what: Power) {
        self.say(|| format!("device {device} {what:?}"));
        let fate = match self.devices[device].staged {
            // What it ran at first has run well.
            None | Some(0) => Fate::Good,
            Some(image) => {
                let dice = &mut self.dice;
                *self
                    .fates
                    .entry((device, image))
                    .or_insert_with(|| match dice.below(100) {
                        0..4 => Fate::RollsBack,
                        4..7 => Fate::BootLoop,
                        7..9 => Fate::NoReturn,
                        9..12 => Fate::Late,
                        _ => Fate::Good,
                    })
            }
        };
        match what {
            Power::Goes => {
                self.devices[device].down(self.at);
                self.presence_soon(device);
                let wait = match fate {
                    Fate::NoReturn => {
                        self.hit("never comes back");
                        return;
                    }
                    Fate::Late => {
                        self.hit("comes back late");
                        self.dice.between(200, 4_000) * SECOND
                    }
                    _ => self.dice.between(2, 60) * SECOND,
                };
                let power = self.devices[device].power;
                self.later(wait, Ev::Power(device, power, Power::Boots));
            }
            Power::Boots => {
                if fate == Fate::RollsBack {
                    self.hit("goes back to the old image");
                }
                if fate == Fate::BootLoop {
                    self.hit("boot loop");
                    self.devices[device].n_loops = 12;
                }
                if self.devices[device].staged.is_some() && fate != Fate::BootLoop {
                    self.devices[device].n_loops = 0;
                }
                self.devices[device].boot(self.at, fate);
                self.presence_soon(device);
                if self.devices[device].n_loops > 0 {
                    self.devices[device].n_loops -= 1;
                    let wait = self.dice.between(4, 15) * SECOND;
                    let power = self.devices[device].power;
                    self.later(wait, Ev::Power(device, power, Power::Goes));
                }
            }
        }
    }

    /// A session meets the end that it was to meet.
    fn cut(&mut self, device: usize, number: u32) {
        let Some(session) = self.devices[device].session.filter(|it| it.number == number) else {
            return;
        };
        if session.way == Way::PowerCut {
            self.hit("power cut in mid-push");
            self.power_off(device);
        } else {
            self.hit("transfer broken");
            self.devices[device].end(self.at, false, false);
        }
    }

    fn power_off(&mut self, device: usize) {
        self.devices[device].down(self.at);
        let wait = self.dice.between(2, 60) * SECOND;
        let power = self.devices[device].power;
        self.later(wait, Ev::Power(device, power, Power::Boots));
        self.presence_soon(device);
    }

    fn swap(&mut self, one: usize, other: usize, counts: bool) {
        let about_to_send = |world: &Self, device: usize| {
            world.workers.values().any(|worker| {
                worker.device == device
                    && matches!(
                        &worker.stage,
                        Stage::Runs {
                            act: Act::CommitIntent | Act::Push,
                            ..
                        }
                    )
            })
        };
        if about_to_send(self, one) || about_to_send(self, other) {
            return self.later(SECOND, Ev::SwapBack(one, other));
        }
        if counts {
            self.hit("addresses swap");
        }
        self.address.swap(one, other);
        self.presence_soon(one);
        self.presence_soon(other);
    }

    fn misfortune(&mut self) {
        let device = self.dice.index(self.devices.len());
        let owner = self.store.owner;
        match self.dice.below(100) {
            0..8 => {
                self.hit("partition");
                let until = self.at + self.dice.between(5, 300) * SECOND;
                self.is_cut(device, until);
            }
            8..13 => {
                self.hit("offline for hours");
                let until = self.at + self.dice.between(60, 8 * 60) * MINUTE;
                self.is_cut(device, until);
            }
            13..22 => {
                if self.devices[device].is_up {
                    self.hit("device restarts by itself");
                    self.power_off(device);
                }
            }
            22..32 => {
                let other = self.dice.index(self.devices.len());
                if device != other && self.address[device] == device && self.address[other] == other {
                    self.swap(device, other, true);
                    let wait = self.dice.between(10, 1_200) * SECOND;
                    self.later(wait, Ev::SwapBack(device, other));
                }
            }
            32..65 => {
                let within = self.dice.between(1, 12);
                let before = self.dice.chance(50);
                self.kill_at = Some((self.store.n_writes + within, before));
            }
            65..88 => self.pause(owner),
            _ => {
                self.hit("clock jumps");
                let by = match self.dice.below(4) {
                    0 => 86_400_000,
                    1 => -86_400_000,
                    2 => signed(self.dice.below(6 * HOUR)),
                    _ => -signed(self.dice.below(6 * HOUR)),
                };
                let offset = self.jumps.last().map_or(0, |(_, offset)| *offset) + by;
                self.jumps.push((self.at, offset));
                // The clocks are compared every quarter of a minute.
                let wait = self.dice.below(15 * SECOND);
                self.servers[owner].wake += 1;
                let event = Ev::Wake(owner, self.servers[owner].wake);
                self.later(wait, event);
            }
        }
    }

    fn is_cut(&mut self, device: usize, until: Ms) {
        self.devices[device].cut_until = until;
        self.devices[device].end(self.at, false, false);
        self.presence_soon(device);
    }

    fn pause(&mut self, server: usize) {
        if !self.is_running(server) {
            return;
        }
        let is_long = self.dice.chance(70);
        let wait = if is_long {
            self.hit("paused for longer than the lease");
            self.dice.between(95, 900) * SECOND
        } else {
            self.hit("paused");
            self.dice.between(1, 85) * SECOND
        };
        self.servers[server].paused_until = self.at + wait;
        self.servers[server].stopped = self.at;
        let sending: Vec<(usize, u32)> = self
            .workers
            .values()
            .filter(|worker| worker.server == server)
            .filter_map(|worker| match worker.stage {
                Stage::Runs {
                    session: Some(session),
                    ..
                } => Some((worker.device, session)),
                _ => None,
            })
            .collect();
        for (device, session) in sending {
            self.later(STALL, Ev::Stall(device, session));
        }
        if is_long && self.dice.chance(70) {
            let wait = self.dice.between(92, 95 + wait / SECOND) * SECOND;
            self.later(wait, Ev::TakeOver(server));
        }
    }

    // Owners.

    fn owner_tells(&mut self, id: RolloutId, event: Event, deed: Option<Deed>) {
        let owner = self.store.owner;
        if !self.is_running(owner) || !self.store.rollouts.contains_key(&id) {
            return;
        }
        let of_all = event == Event::StopAll;
        let place = self.store.turns.len();
        self.tell(owner, event);
        // Who lets go on is heard at once; who holds up, once that is stored.
        let place = match deed {
            Some(Deed::LetsGo) => place,
            _ => self.store.turns.len(),
        };
        if let Some(deed) = deed.filter(|deed| *deed == Deed::LetsGo || self.servers[owner].alive) {
            let ids = self.store.rollouts.keys().copied();
            let meant = ids.filter(|&other| of_all || other == id);
            self.deeds.extend(meant.map(|id| (place, id, deed)));
        }
    }

    fn owner(&mut self) {
        let ids: Vec<RolloutId> = self.store.rollouts.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.dice.index(ids.len())];
        let device = id_of(self.dice.index(self.devices.len()));
        match self.dice.below(12) {
            0..4 => {
                self.hit("owner pauses");
                self.owner_tells(id, Event::Pause(id), Some(Deed::Holds));
                let wait = self.dice.below(20 * MINUTE);
                self.later(wait, Ev::Owner);
            }
            4..7 => self.owner_tells(id, Event::Resume(id), Some(Deed::LetsGo)),
            7 => {
                let force = self.dice.chance(50);
                self.hit(if force {
                    "owner aborts by force"
                } else {
                    "owner aborts"
                });
                self.owner_tells(id, Event::Abort { id, force }, Some(Deed::Holds));
            }
            8 | 9 => {
                self.hit("owner cancels");
                self.owner_tells(id, Event::Cancel(id, device), None);
            }
            10 => {
                self.hit("owner excludes");
                let reason = plan::Reason::new("removed", "", "");
                self.owner_tells(id, Event::Exclude { device, reason }, None);
            }
            _ => {
                self.hit("owner stops everything");
                self.owner_tells(id, Event::StopAll, Some(Deed::Holds));
            }
        }
    }

    // Work on one device: the lease, what was left, the job.

    fn again(&mut self, number: u32, wait: Ms) {
        let Some(worker) = self.workers.get_mut(&number) else {
            return;
        };
        worker.token += 1;
        let token = worker.token;
        self.later(wait, Ev::Work(number, token));
    }

    fn work(&mut self, number: u32) {
        let Some(worker) = self.workers.get(&number) else {
            return;
        };
        match &worker.stage {
            Stage::Leasing { since } => {
                let (since, device, server, cancel) = (*since, worker.device, worker.server, worker.cancel);
                if let Some(epoch) = self.acquire(server, device) {
                    let worker = self.workers.get_mut(&number).unwrap();
                    worker.epoch = epoch;
                    worker.renewed = self.at;
                    return self.leased(number);
                }
                if self.workers.get(&number).is_none_or(|worker| worker.recover) {
                    // What was under way is settled, however long that takes.
                    return self.again(number, ASK_AGAIN);
                }
                if cancel {
                    let outcome = Outcome::because(Ending::Cancelled, "cancelled", "", "");
                    return self.done(number, Done::Ended(outcome, 0));
                }
                if self.at - since >= OTHER_HANDS {
                    let outcome = Outcome::because(Ending::Failed, "in other hands", "", "");
                    return self.done(number, Done::Ended(outcome, 0));
                }
                self.again(number, ASK_AGAIN);
            }
            Stage::Runs { .. } => self.perform(number),
        }
    }

    /// Until when the lease was renewed: all the time while its holder ran.
    fn renewed(&self, device: usize) -> Ms {
        let lease = &self.store.leases[device];
        let until = if self.is_running(lease.server) {
            self.at
        } else {
            self.servers[lease.server].stopped
        };
        let until = until.max(lease.renewed);
        until - (until - lease.renewed) % RENEW_EVERY
    }

    fn acquire(&mut self, server: usize, device: usize) -> Option<u64> {
        let at = self.at;
        let lease = &self.store.leases[device];
        if lease.held && self.bug != Bug::LeaseIgnored {
            let (holder, asks) = (&self.servers[lease.server], &self.servers[server]);
            let renewed = self.renewed(device);
            let on_clock = |moment: Ms| millis(moment.saturating_sub(self.host_booted[asks.host]));
            let of_this_boot = holder.boot_id == asks.boot_id;
            let asked = lease.asked.get(&asks.boot_id).filter(|asked| **asked >= renewed);
            let held = Held {
                holder: match (of_this_boot, holder.alive) {
                    (true, true) => Liveness::Alive,
                    (true, false) => Liveness::Dead,
                    (false, _) if holder.host == asks.host => Liveness::Dead,
                    (false, _) => Liveness::Unknown,
                },
                renewed: of_this_boot.then(|| on_clock(renewed)),
                asked: asked.map(|asked| on_clock(*asked)),
            };
            let (boot_id, asked, lives) = (asks.boot_id, asked.copied(), self.is_running(lease.server));
            if let Ruling::Waits(_) = ruling(held, on_clock(at)) {
                self.store.leases[device]
                    .asked
                    .insert(boot_id, asked.unwrap_or(at));
                // Once nobody renews it, it is free after that time, whatever was set meanwhile.
                let free =
                    Ms::try_from((TTL + GRACE).as_millis()).unwrap() + renewed.max(asked.unwrap_or(at));
                if at > free {
                    self.wrong.push(format!(
                        "I2 a lease that nobody renews is free: device {device} at {at}"
                    ));
                }
                return None;
            }
            if lives {
                self.wrong
                    .push(format!("I4 a living lease is not taken: device {device} at {at}"));
            }
        }
        let lease = &self.store.leases[device];
        let ignored = self.bug == Bug::LeaseIgnored;
        let epoch = lease.epoch + u64::from(!ignored);
        let taken = self.write(server, |store| {
            store.leases[device] = Lease {
                epoch,
                held: true,
                server,
                renewed: at,
                asked: BTreeMap::new(),
            };
        });
        taken.is_ok().then_some(epoch)
    }

    /// Looks first what an earlier process has left: it may be the very job that is asked for.
    fn leased(&mut self, number: u32) {
        let Some(worker) = self.workers.get(&number) else {
            return;
        };
        let (device, server, rollout, recover) =
            (worker.device, worker.server, worker.rollout, worker.recover);
        let (since_wall, puts_back) = (worker.since.wall_ms, worker.puts_back);
        let now = self.now(server);
        let boot_id = self.servers[server].boot_id;
        let mut rows = self.store.jobs.iter().enumerate().rev();
        if let Some((row, open)) = rows.find(|(_, row)| row.device == device && row.ended.is_none()) {
            let mut job = open.state.clone();
            if open.boot_id != boot_id {
                job.rebase(open.last, now);
            }
            let seen = if self.bug == Bug::NoLookOnResume {
                Seen::Begun
            } else {
                Seen::Restarted
            };
            let settles = open.rollout != rollout;
            self.say(|| format!("worker {number} resumes a job in {}", job.phase.name()));
            return self.run_job(number, row, job, seen, settles);
        }
        if recover {
            let last = self.store.jobs.iter().rfind(|row| {
                row.device == device
                    && row.rollout == rollout
                    && row.begun_wall >= since_wall
                    && (row.image == 0) == puts_back
            });
            let done = match last.and_then(|row| Some((row.outcome.clone()?, row.n_pushes))) {
                Some((outcome, n_pushes)) => Done::Ended(outcome, n_pushes),
                None => Done::Nothing,
            };
            return self.done(number, done);
        }
        self.new_job(number);
    }

    fn new_job(&mut self, number: u32) {
        let Some(worker) = self.workers.get(&number) else {
            return;
        };
        let (device, server, rollout) = (worker.device, worker.server, worker.rollout);
        let may_push = worker.may_push;
        let now = self.now(server);
        let boot_id = self.servers[server].boot_id;
        let Some(kept) = self.store.rollouts.get(&rollout) else {
            return;
        };
        let member = kept
            .plan
            .members
            .iter()
            .find(|member| member.device == id_of(device));
        let member = member.unwrap();
        let image = image_of(if worker.puts_back {
            member.way_back.unwrap()
        } else {
            member.image
        });
        let soak = self.servers[server]
            .fleet
            .rollout(rollout)
            .map_or(Duration::ZERO, |rollout| rollout.soak_of(&id_of(device)));
        let kind = self.devices[device].kind;
        let order = Order {
            device: id_of(device),
            image: ImageInfo {
                version_source: VersionSource::Image,
                family: None,
                kind: String::new(),
                chip: None,
                versions: (kind != Kind::Sticky).then(|| label_of(kind, image)),
                hint: None,
                project: None,
                signature: None,
                len_bytes: 1,
                sha256: digests()[usize::from(image)],
                warnings: Vec::new(),
            },
            method: Method::new("espota"),
            timing: Timing {
                push: millis(MINUTE),
                quiet: millis(10 * SECOND),
                gone_within: millis(30 * SECOND),
                back_within: millis(3 * MINUTE),
                look_every: millis(5 * SECOND),
            },
            soak,
            proof: Proof::Watched,
            record: self.store.installed[device].clone(),
            rollout: Some(rollout),
            max_pushes: may_push,
        };
        let job = Job::new(order);
        let at = self.at;
        if self.store.owner != server {
            return self.end_server(server);
        }
        let state = job.clone();
        let written = self.write(server, |store| {
            store.jobs.push(JobRow {
                device,
                rollout,
                image,
                state,
                last: now,
                boot_id,
                begun_wall: now.wall_ms,
                begun: at,
                ended: None,
                outcome: None,
                n_pushes: 0,
            });
            store.jobs.len() - 1
        });
        if let Ok(row) = written {
            self.run_job(number, row, job, Seen::Begun, false);
        }
    }

    fn run_job(&mut self, number: u32, row: usize, job: Job, seen: Seen, settles: bool) {
        let now = self.now_of(number);
        let (job, act) = next(job, seen, now);
        if let Some(worker) = self.workers.get_mut(&number) {
            worker.stage = Stage::Runs {
                row,
                job: Box::new(job),
                act,
                session: None,
                settles,
            };
        }
        self.go(number);
    }

    fn now_of(&self, number: u32) -> Now {
        self.now(self.workers[&number].server)
    }

    /// Whether the lease was lost, as a renewal tells.
    fn is_fenced(&mut self, number: u32, always: bool) -> bool {
        let at = self.at;
        let Some(worker) = self.workers.get_mut(&number) else {
            return true;
        };
        if self.bug == Bug::LeaseIgnored || (!always && at - worker.renewed < RENEW_EVERY) {
            return false;
        }
        let lease = &mut self.store.leases[worker.device];
        if !lease.held || lease.epoch != worker.epoch {
            return true;
        }
        worker.renewed = at;
        lease.renewed = at;
        false
    }

    /// Begins the act that the job waits for.
    fn go(&mut self, number: u32) {
        let Some(worker) = self.workers.get_mut(&number) else {
            return;
        };
        let Stage::Runs { act, .. } = &worker.stage else {
            return;
        };
        let act = act.clone();
        if act != Act::Finish && worker.cancel && !worker.cancel_seen {
            worker.cancel_seen = true;
            return self.fed(number, Seen::Cancel);
        }
        if self.is_fenced(number, act == Act::Push) {
            return self.fenced(number);
        }
        let latency = self.dice.between(5, 300);
        let pause = |after: Duration| Ms::try_from(after.as_millis()).unwrap();
        match act {
            Act::Probe { after } | Act::Watch { every: after } | Act::Undo { after } => {
                self.again(number, pause(after) + latency);
            }
            Act::Prepare => self.again(number, latency),
            Act::CommitUndo | Act::CommitIntent | Act::Finish => self.again(number, self.at % 4 + 1),
            Act::Push => self.push(number),
        }
    }

    fn perform(&mut self, number: u32) {
        let worker = &self.workers[&number];
        let (device, server) = (worker.device, worker.server);
        let Stage::Runs { act, session, .. } = &worker.stage else {
            return;
        };
        let (act, session) = (act.clone(), *session);
        match act {
            Act::Probe { .. } => {
                let seen = self.look(device);
                let checked = seen.map(|snapshot| self.check(number, snapshot));
                self.fed(number, Seen::Checked(checked));
            }
            Act::Prepare => {
                let seen = self.look(device);
                self.fed(number, Seen::Prepared(seen));
            }
            Act::Watch { .. } => {
                let seen = self.look(device);
                self.looked(number, seen);
            }
            Act::CommitUndo | Act::CommitIntent => {
                let skips = self.bug == Bug::IntentAfterPush && act == Act::CommitIntent;
                match if skips { Ok(()) } else { self.append(number, false) } {
                    Ok(()) => self.fed(number, Seen::Committed),
                    Err(Stop::Fenced) => self.fenced(number),
                    Err(Stop::Dead) => {}
                }
            }
            Act::Push => {
                if self.is_fenced(number, false) {
                    return self.fenced(number);
                }
                let result = self.pushed(device, session);
                if let Some(Worker {
                    stage: Stage::Runs { session, .. },
                    ..
                }) = self.workers.get_mut(&number)
                {
                    *session = None;
                }
                self.fed(number, pushed(result));
            }
            Act::Undo { .. } => self.fed(number, Seen::Undone(Ok(()))),
            Act::Finish => {
                match self.append(number, true) {
                    Ok(()) => {}
                    Err(Stop::Fenced) => return self.fenced(number),
                    Err(Stop::Dead) => return,
                }
                let Some(worker) = self.workers.get_mut(&number) else {
                    return;
                };
                let Stage::Runs { job, settles, .. } = &worker.stage else {
                    return;
                };
                let outcome = job.outcome().cloned().unwrap();
                let (n_pushes, settles) = (job.n_pushes, *settles);
                self.say(|| format!("worker {number}: {outcome:?}"));
                if !settles {
                    return self.done(number, Done::Ended(outcome, n_pushes));
                }
                let Some(worker) = self.workers.get_mut(&number) else {
                    return;
                };
                if worker.recover {
                    return self.done(number, Done::Nothing);
                }
                worker.cancel_seen = false;
                worker.stage = Stage::Leasing { since: self.at };
                self.leased(number);
            }
        }
        let _ = server;
    }

    /// What answers at the address of a device.
    fn look(&mut self, device: usize) -> Result<model::device::Snapshot, Fault> {
        if self.dice.chance(1) {
            self.hit("look lost");
            return Err(silent());
        }
        let there = self.address[device];
        self.devices[there].answer(self.at).ok_or_else(silent)
    }

    fn check(
        &self,
        number: u32,
        snapshot: model::device::Snapshot,
    ) -> (model::device::Snapshot, Precheck, Option<model::family::Undo>) {
        let Stage::Runs { job, .. } = &self.workers[&number].stage else {
            unreachable!("it runs");
        };
        let by_label = match &job.order.image.versions {
            None => Relation::Unknown,
            Some(offered) => relate(&snapshot.versions, offered),
        };
        let mut standing = standing(
            job.order.record.as_ref(),
            &snapshot.versions,
            &job.order.image,
            by_label,
        );
        if self.bug == Bug::SameTargetAgain && standing == installed::Standing::AlreadyCurrent {
            standing = installed::Standing::Wanted;
        }
        let precheck = Precheck {
            standing,
            refusals: Vec::new(),
            overridden: Vec::new(),
        };
        (snapshot, precheck, None)
    }

    fn looked(&mut self, number: u32, mut seen: Result<model::device::Snapshot, Fault>) {
        let now = self.now_of(number);
        let Stage::Runs { job, .. } = &self.workers[&number].stage else {
            return;
        };
        let before = job.evidence.before.as_ref();
        let lost = matches!(
            &job.phase,
            Phase::Watching {
                end: model::outcome::End::Lost(_),
                ..
            }
        );
        let accepted = match &job.phase {
            Phase::Watching { end, .. } => matches!(end, model::outcome::End::Accepted(_)),
            Phase::Soaking(soak) => matches!(soak.end, model::outcome::End::Accepted(_)),
            _ => false,
        };
        if let Some(before) = before {
            if self.bug == Bug::OldKeptUnseen && lost && seen.is_err() {
                let mut as_before = before.snapshot.clone();
                as_before.uptime = as_before.uptime.map(|uptime| uptime + now.since(before.at));
                seen = Ok(as_before);
            }
            if self.bug == Bug::SuccessByAck && accepted {
                let mut as_wanted = before.snapshot.clone();
                if let Some(versions) = &job.order.image.versions {
                    as_wanted.versions.clone_from(versions);
                }
                as_wanted.uptime = match &job.phase {
                    Phase::Soaking(soak) => soak
                        .last
                        .snapshot
                        .uptime
                        .map(|uptime| uptime + now.since(soak.last.at)),
                    _ => as_wanted.uptime.map(|_| Duration::ZERO),
                };
                seen = Ok(as_wanted);
            }
        }
        let order = &job.order;
        let old = before.map(|look| &look.snapshot.versions);
        let judged = seen.map(|snapshot| {
            let label = label(old, order, &snapshot.versions);
            (snapshot, label)
        });
        self.fed(number, Seen::Looked(judged));
    }

    /// The first byte.
    fn push(&mut self, number: u32) {
        let at = self.at;
        let (device, mut image) = match &self.workers[&number] {
            Worker {
                device,
                stage: Stage::Runs { job, .. },
                ..
            } => (*device, image_of(job.order.image.sha256)),
            _ => return,
        };
        if self.bug == Bug::NotValidated && self.dice.chance(20) {
            image = FOREIGN;
        }
        let there = self.address[device];
        let reached = self.devices[there].is_reachable(at);
        if !reached || self.dice.chance(4) {
            if reached {
                self.hit("call-back lost");
            }
            let nothing = fault(FaultKind::Unreachable, Reason::NoCallBack, Reach::Nothing);
            return self.fed(number, pushed(Err(nothing)));
        }
        if there != device {
            self.wrong
                .push(format!("I1 device {there} gets bytes that are for {device}"));
        }
        let takes = self.dice.between(1, 40) * SECOND;
        let way = match self.dice.below(100) {
            0..5 => Way::PowerCut,
            5..12 => Way::Breaks,
            12..16 => Way::LostTaken,
            16..19 => Way::LostNotTaken,
            19..22 => Way::Error,
            22..24 => Way::ErrorRestarts,
            24..26 => Way::Lie,
            _ => Way::Taken,
        };
        let session = Session {
            number: self.number(),
            image,
            way,
        };
        if self.devices[there].session.is_some() {
            self.devices[there].log.push((at, super::device::Entry::Second));
            let busy = fault(FaultKind::Refused, Reason::Busy, Reach::Nothing);
            return self.fed(number, pushed(Err(busy)));
        }
        self.say(|| format!("device {there} receives {image} from worker {number}, {way:?}"));
        self.devices[there].begin(session, at);
        if let Some(Worker {
            stage: Stage::Runs { session: of, .. },
            ..
        }) = self.workers.get_mut(&number)
        {
            *of = Some(session.number);
        }
        let wait = match way {
            Way::PowerCut | Way::Breaks => {
                let cut = takes * self.dice.between(1, 99) / 100;
                self.later(cut, Ev::Cut(there, session.number));
                cut + if way == Way::Breaks { 50 } else { 15 * SECOND }
            }
            Way::LostTaken | Way::LostNotTaken => takes + 15 * SECOND,
            _ => takes,
        };
        self.again(number, wait);
    }

    /// How it ended, for the sender.
    fn pushed(&mut self, device: usize, number: Option<u32>) -> Result<Verdict, Fault> {
        let at = self.at;
        let session = self.devices[device]
            .session
            .filter(|it| Some(it.number) == number);
        let Some(session) = session else {
            return Err(fault(FaultKind::Unsure, Reason::MidStream, Reach::Part));
        };
        let takes = matches!(session.way, Way::Taken | Way::LostTaken);
        self.devices[device].end(at, true, takes);
        if takes || session.way == Way::ErrorRestarts {
            self.restart_soon(device);
        }
        match session.way {
            Way::Taken | Way::Lie => Ok(Verdict { text: String::new() }),
            Way::Error => {
                self.hit("device error");
                Err(fault(FaultKind::Refused, Reason::DeviceError, Reach::Whole))
            }
            Way::ErrorRestarts => {
                self.hit("device error and restart");
                Err(fault(
                    FaultKind::Refused,
                    Reason::DeviceErrorRestarts,
                    Reach::Whole,
                ))
            }
            Way::LostTaken | Way::LostNotTaken | Way::Breaks | Way::PowerCut => {
                self.hit("verdict lost");
                Err(fault(FaultKind::Unsure, Reason::VerdictLost, Reach::Whole))
            }
        }
    }

    /// Feeds the job, stores it where the engine does, and goes on.
    fn fed(&mut self, number: u32, seen: Seen) {
        let now = self.now_of(number);
        let Some(worker) = self.workers.get_mut(&number) else {
            return;
        };
        let Stage::Runs { job, act, .. } = &mut worker.stage else {
            return;
        };
        let name = job.phase.name();
        let is_away = |job: &Job| matches!(job.phase, Phase::Watching { gone_at: Some(_), .. });
        let was_away = is_away(job);
        let is_verdict = matches!(seen, Seen::Pushed { .. });
        let (after, next_act) = next((**job).clone(), seen, now);
        let stored_by_act = matches!(
            next_act,
            Act::CommitUndo | Act::CommitIntent | Act::Push | Act::Finish
        );
        let went_away = is_away(&after) && !was_away;
        let moved = after.phase.name() != name;
        **job = after;
        *act = next_act;
        if !stored_by_act && (is_verdict || went_away || moved) {
            match self.append(number, false) {
                Ok(()) => {}
                Err(Stop::Fenced) => return self.fenced(number),
                Err(Stop::Dead) => return,
            }
        }
        self.go(number);
    }

    /// Writes the job as it is; refused once the lease is another's.
    fn append(&mut self, number: u32, finished: bool) -> Result<(), Stop> {
        let at = self.at;
        let now = self.now_of(number);
        let bug = self.bug;
        let worker = &self.workers[&number];
        let (device, server, epoch) = (worker.device, worker.server, worker.epoch);
        let boot_id = self.servers[server].boot_id;
        let Stage::Runs { row, job, .. } = &worker.stage else {
            return Err(Stop::Dead);
        };
        let (row, job) = (*row, (**job).clone());
        let written = self.write(server, |store| {
            let lease = &store.leases[device];
            let holds = lease.held && lease.epoch == epoch || bug == Bug::LeaseIgnored;
            let kept = &mut store.jobs[row];
            if !holds || kept.ended.is_some() {
                return false;
            }
            kept.last = now;
            kept.boot_id = boot_id;
            kept.n_pushes = job.n_pushes;
            if finished {
                kept.ended = Some(at);
                kept.outcome = job.outcome().cloned();
                if let Some(record) = job.record_after() {
                    store.installed[device] = Some(record);
                }
            }
            kept.state = job;
            true
        })?;
        if written { Ok(()) } else { Err(Stop::Fenced) }
    }

    /// Another has taken over: this one stops, and writes nothing.
    fn fenced(&mut self, number: u32) {
        self.say(|| format!("worker {number} is fenced"));
        let outcome = Outcome::because(Ending::Unverified, "taken over", "", "");
        self.done(number, Done::Ended(outcome, model::job::MAX_PUSHES));
    }

    fn done(&mut self, number: u32, done: Done) {
        let Some(worker) = self.workers.remove(&number) else {
            return;
        };
        let (server, device, epoch) = (worker.server, worker.device, worker.epoch);
        if let Stage::Runs {
            session: Some(session),
            ..
        } = worker.stage
        {
            self.fall_silent(device, session);
        }
        let released = self.write(server, |store| {
            let lease = &mut store.leases[device];
            if lease.held && lease.epoch == epoch && lease.server == server {
                lease.held = false;
            }
        });
        if released.is_err() {
            return;
        }
        self.presence_soon(device);
        let (id, device) = (worker.rollout, id_of(device));
        self.tell(
            server,
            match done {
                Done::Ended(outcome, n_pushes) => Event::Ended {
                    id,
                    device,
                    outcome,
                    n_pushes,
                },
                Done::Nothing => Event::NothingDone { id, device },
            },
        );
    }
}

fn pushed(result: Result<Verdict, Fault>) -> Seen {
    Seen::Pushed {
        result,
        took: Duration::ZERO,
    }
}

fn relate(installed: &Versions, offered: &Versions) -> Relation {
    match installed.part("").cmp(&offered.part("")) {
        std::cmp::Ordering::Less => Relation::Newer,
        std::cmp::Ordering::Equal => Relation::Same,
        std::cmp::Ordering::Greater => Relation::Older,
    }
}

/// What a family would say of the label.
fn label(before: Option<&Versions>, order: &Order, after: &Versions) -> Label {
    let offered = order.image.versions.as_ref();
    if before == Some(after) {
        if offered == Some(after) {
            Label::Same
        } else if order.record.as_ref().is_some_and(|record| record.label_moves) {
            Label::Old
        } else {
            Label::Unmoved
        }
    } else if offered.is_none_or(|offered| offered == after) {
        Label::Target
    } else {
        Label::Other
    }
}
