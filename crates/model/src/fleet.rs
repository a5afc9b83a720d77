//! Many devices, and many rollouts at once, as one pure state machine.
//!
//! [`step`] takes what happened and answers with what to do; nothing here does it, waits, or stores anything.
//! The one who calls it
//! - stores what [`Fleet::take_changes`] names *before* carrying out the commands of the same step, so that after a crash
//!   no job runs that the fleet knows nothing of;
//! - after a restart builds the fleet by [`Fleet::restored`], tells the standing of its members, and then [`Event::Recovered`];
//! - calls again at the moment of the last [`Command::Wake`], which takes the place of every earlier one.
//!
//! What holds at every moment, whatever happens in whatever order:
//! - a device has one job at most, over all rollouts; a rollout has [`Course::n_at_once`] at most, a group what the rules say;
//! - nothing begins outside the window of a rollout that has one, as [`Event::Window`] tells of it;
//! - nothing begins in a rollout that is not running, and nothing at all until each job of an earlier process is settled;
//! - no other member begins before all canaries have succeeded;
//! - every member ends, and with it every rollout that nobody holds up;
//! - a device is put back once at most, in the place that its own job has held, whatever has become of the rollout but an abort.

mod after;
mod counts;
mod rehearse;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{DeviceId, RolloutId, Sha256};
use crate::outcome::{Ending, Outcome};
use crate::plan::{AtOnce, Member, Plan, Reason};
use crate::time::Now;

use counts::Derived;
pub(crate) use rehearse::rehearse;
pub use steps::step;

/// All rollouts that are not over, and those that are and were not taken off yet.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    rollouts: BTreeMap<RolloutId, Rollout>,
    /// Open members of each device.
    members_of: BTreeMap<DeviceId, Vec<(RolloutId, u32)>>,
    /// Whether each device answers, of those that were told of: it may be in no rollout yet.
    heard: BTreeMap<DeviceId, bool>,
    /// The rollout whose job runs on each device.
    busy: BTreeMap<DeviceId, RolloutId>,
    /// The rollouts of the jobs that run in each group, one entry per job.
    in_group: BTreeMap<String, Vec<RolloutId>>,
    /// Jobs of an earlier process that are not settled; nothing begins until none is left.
    unsettled: BTreeSet<(RolloutId, u32)>,
    /// Restored, and not yet told to go on.
    asleep: bool,
}

/// A plan that is being carried out.
#[derive(Clone, Debug)]
pub struct Rollout {
    plan: Arc<Plan>,
    course: Course,
    members: Vec<Standing>,
    /// Its window as was last told; closed until then.
    opening: Opening,
    derived: Derived,
}

/// The window of a rollout, as it was last told. It is not stored: whoever restores a fleet tells it anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Until when it is open; none, or what is past: it is closed.
    pub until: Option<Now>,
    /// When it opens next, where that is known.
    pub next: Option<Now>,
}

/// How far a rollout is, without its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Course {
    /// Where it stands.
    pub state: State,
    /// Why it has halted.
    #[serde(default)]
    pub cause: Option<Reason>,
    /// The wave whose members, with those of all waves before it, may begin.
    pub wave: u32,
    /// How many jobs at the same time, as things are.
    pub n_at_once: u32,
    /// Failures that its owner has seen and that no longer count; each member knows whether it is one of them.
    #[serde(default)]
    pub forgiven: u32,
    /// Since when nobody who answers is left to be updated, where nobody is waited for by a deadline.
    #[serde(default)]
    pub idle_since: Option<Now>,
    /// The most bytes per second that were seen before [`Course::n_at_once`] grew last.
    #[serde(default)]
    pub rate_before: u64,
    /// Whether its window was open since it began, so that jobs may have begun.
    #[serde(default)]
    pub has_opened: bool,
}

/// How a member of a rollout stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Where it stands.
    pub state: MemberState,
    /// The wave that it is in now: a canary that does not answer gives its place to another.
    pub wave: u32,
    /// Whether it answers, as was last heard.
    #[serde(default)]
    pub online: bool,
    /// Jobs that have ended.
    #[serde(default)]
    pub n_tries: u8,
    /// Pushes that were begun, over all jobs.
    #[serde(default)]
    pub n_pushes: u8,
    /// Set while a job runs after which no other may follow: how the member ends if that job does nothing.
    #[serde(default)]
    pub leave: Option<Ended>,
    /// It has failed, and its owner has seen that and let the rollout go on.
    #[serde(default)]
    pub forgiven: bool,
}

/// Where a rollout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its window has not opened yet.
    Scheduled,
    /// Jobs begin as the rules let.
    Running,
    /// Its owner holds it up: nothing begins, what runs goes on.
    Paused,
    /// It holds itself up, because too much has failed.
    Halted,
    /// All of its members have ended.
    Finished,
    /// Its owner has ended it; jobs may still be ending.
    Aborted,
}

impl State {
    /// Its name in JSON and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Halted => "halted",
            Self::Finished => "finished",
            Self::Aborted => "aborted",
        }
    }
}

/// Where a member stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberState {
    /// It waits for its turn, or until it answers.
    Queued,
    /// A try has failed; the next comes later.
    Waiting {
        /// When it may begin.
        until: Now,
    },
    /// A job was asked for, and has not ended.
    Running {
        /// Since when.
        since: Now,
    },
    /// The device keeps restarting with the image: what it ran before is pushed again, once. It counts as failed already.
    PuttingBack {
        /// Since when, or since its last try that did not reach it.
        since: Now,
        /// Tries that did not reach it, so that nothing was sent: it answers only between two restarts.
        #[serde(default)]
        n_missed: u8,
        /// How its own job has ended.
        failed: Outcome,
    },
    /// Over.
    Ended(Ended),
}

impl MemberState {
    /// Whether a job of it was asked for that has not ended.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::PuttingBack { .. })
    }

    /// Its name in JSON and tables; of one that has ended, the word for how.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Waiting { .. } => "waiting",
            Self::Running { .. } => "running",
            Self::PuttingBack { .. } => "putting-back",
            Self::Ended(ended) => ended.name(),
        }
    }
}

/// How a member ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// By its last job.
    Outcome(Outcome),
    /// It was taken out before its turn, or stopped answering for good.
    Skipped(Reason),
    /// Its owner took it, or the whole rollout, off before its turn.
    Cancelled,
    /// Its turn did not come before the deadline: it did not answer, or the window closed.
    MissedWindow(Reason),
}

impl Ended {
    /// The word for it in JSON and tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Outcome(outcome) => outcome.ending.name(),
            Self::Skipped(_) => "skipped",
            Self::Cancelled => Ending::Cancelled.name(),
            Self::MissedWindow(_) => "missed-window",
        }
    }

    /// Whether it counts against the rollout (DESIGN.md 4; `unverified` counts).
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Outcome(outcome) if is_failure(outcome.ending))
    }

    /// Whether the device runs the image, as far as can be proven, by this rollout or from before.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Outcome(outcome) if outcome.ending.is_success() || outcome.ending == Ending::AlreadyCurrent)
    }
}

/// Whether a job's end counts against its rollout.
pub fn is_failure(ending: Ending) -> bool {
    match ending {
        Ending::KeptOld | Ending::RolledBack | Ending::Failed | Ending::Unverified | Ending::Refused => true,
        Ending::Updated | Ending::UpdatedLabelUnchanged | Ending::AlreadyCurrent | Ending::Cancelled => false,
    }
}

/// Which job of a member has ended without its rollout having been told, of all that brought it this image, the oldest first.
///
/// `begun` is, for each, how many pushes it began and when it did, milliseconds since 1970; `n_told` is how many pushes the
/// rollout knows of. They are compared first, as nobody sets them. Only of a job that sent nothing the wall clock has the last
/// word, and that it began no earlier than it was decided (`since_ms`): if that is wrong, the device is looked at once more.
pub fn untold(begun: &[(u8, i64)], n_told: u8, since_ms: i64) -> Option<usize> {
    let n_pushes = begun.iter().fold(0_u8, |sum, (n, _)| sum.saturating_add(*n));
    let (n_of_last, begun_ms) = begun.last()?;
    let is_untold = if *n_of_last == 0 {
        *begun_ms >= since_ms
    } else {
        n_pushes > n_told
    };
    is_untold.then_some(begun.len() - 1)
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A plan is to be carried out, from now on, and [`Rollout::new`] of it is stored. A number that is taken changes nothing.
    Add(RolloutId, Plan),
    /// Its owner wants nothing more to begin.
    Pause(RolloutId),
    /// Its owner wants it to go on, also after a halt: what has failed is forgiven.
    Resume(RolloutId),
    /// Its owner wants it ended.
    Abort {
        /// The rollout.
        id: RolloutId,
        /// Jobs are interrupted also after their first byte.
        force: bool,
    },
    /// Everything is to be ended: an abort of every rollout.
    StopAll,
    /// One member is to be left as it is.
    Cancel(RolloutId, DeviceId),
    /// A device answers, or no longer does. It is remembered, also of devices that are in no rollout.
    Standing {
        /// The device.
        device: DeviceId,
        /// Whether it answers.
        online: bool,
    },
    /// A device was removed, pinned, skipped or is in a conflict: whatever has not begun with it, does not.
    Exclude {
        /// The device.
        device: DeviceId,
        /// Why.
        reason: Reason,
    },
    /// How the window of a rollout stands. Told after each change, and after a restart before [`Event::Recovered`]; until then
    /// it is closed.
    Window {
        /// The rollout.
        id: RolloutId,
        /// Until when it is open; none: it is closed.
        open_until: Option<Now>,
        /// When it opens next, where that is known.
        next: Option<Now>,
    },
    /// A job has ended, and its end is in the journal.
    Ended {
        /// The rollout.
        id: RolloutId,
        /// The device.
        device: DeviceId,
        /// How.
        outcome: Outcome,
        /// Pushes that this job has begun.
        n_pushes: u8,
    },
    /// A job that was asked for is not in the journal and will not come: nothing was done.
    NothingDone {
        /// The rollout.
        id: RolloutId,
        /// The device.
        device: DeviceId,
    },
    /// A job that had ended as `unverified` is in the journal with a proven end now: the device was seen again.
    Corrected {
        /// The rollout.
        id: RolloutId,
        /// The device.
        device: DeviceId,
        /// How it has ended, as is known now.
        outcome: Outcome,
    },
    /// An image has failed on too many devices: every rollout that would bring it to one more halts.
    Quarantined {
        /// The image.
        image: Sha256,
        /// Why.
        reason: Reason,
    },
    /// The fleet was restored, and the standing of its members was told.
    Recovered,
    /// Bytes of images that arrived, over all devices, in the last 100 ms.
    Throughput {
        /// Bytes per second.
        bytes_per_s: u64,
    },
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Begin a job; it ends with [`Event::Ended`] or [`Event::NothingDone`].
    Start {
        /// The rollout.
        id: RolloutId,
        /// The device.
        device: DeviceId,
        /// Pushes that this job may begin, at least 1.
        n_pushes: u8,
    },
    /// Push what the device ran before, [`Member::way_back`], by a job with one push; it ends as one that was started.
    PutBack {
        /// The rollout.
        id: RolloutId,
        /// The device.
        device: DeviceId,
    },
    /// Settle the job of an earlier process by the journal and the device; it ends as one that was started.
    Recover {
        /// The rollout.
        id: RolloutId,
        /// The device.
        device: DeviceId,
    },
    /// Cancel a job that runs: before its first byte, with `force` also later, never after its last.
    Cancel {
        /// The rollout.
        id: RolloutId,
        /// The device.
        device: DeviceId,
        /// Also after its first byte.
        force: bool,
    },
    /// Come back with [`Event::Tick`] at this moment, and forget every earlier one.
    Wake {
        /// The moment.
        at: Now,
    },
}

/// What is to be stored of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The rollout.
    pub id: RolloutId,
    /// Whether its course has changed.
    pub course: bool,
    /// The indexes of the members that have changed, ascending.
    pub members: Vec<u32>,
}

/// Parts of a rollout that do not belong together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plan has {n_planned} members, but {n_stored} were stored")]
pub struct TornRollout {
    /// Members of the plan.
    pub n_planned: usize,
    /// Members that were stored.
    pub n_stored: usize,
}

impl Fleet {
    /// The fleet as it was stored; nothing begins in it before [`Event::Recovered`].
    pub fn restored(rollouts: impl IntoIterator<Item = (RolloutId, Rollout)>) -> Self {
        let mut fleet = Self {
            asleep: true,
            ..Self::default()
        };
        for (id, rollout) in rollouts {
            fleet.take_in(id, rollout);
        }
        let ids: Vec<RolloutId> = fleet.rollouts.keys().copied().collect();
        for id in ids {
            fleet.recount_all(id);
        }
        fleet
    }

    /// One rollout.
    pub fn rollout(&self, id: RolloutId) -> Option<&Rollout> {
        self.rollouts.get(&id)
    }

    /// All rollouts, the oldest first.
    pub fn rollouts(&self) -> impl Iterator<Item = (RolloutId, &Rollout)> {
        self.rollouts.iter().map(|(&id, rollout)| (id, rollout))
    }

    /// The rollout that a device has not ended in, if any; the oldest of several.
    pub fn busy_with(&self, device: &DeviceId) -> Option<RolloutId> {
        self.members_of.get(device)?.iter().map(|&(id, _)| id).min()
    }

    /// Whether a device answers, as was last told; none where nothing was.
    pub fn answers(&self, device: &DeviceId) -> Option<bool> {
        self.heard.get(device).copied()
    }

    /// Whether [`Event::Throughput`] can change anything: a rollout may try more at the same time.
    pub fn weighs_throughput(&self) -> bool {
        self.rollouts.values().any(|rollout| {
            rollout.plan.rules.at_once == AtOnce::Auto
                && rollout.state() == State::Running
                && rollout.course.n_at_once < rollout.derived.n_open
        })
    }

    /// How many jobs run.
    pub fn n_running(&self) -> usize {
        self.busy.len()
    }

    /// Takes a rollout off that is over; none where it is not.
    pub fn remove(&mut self, id: RolloutId) -> Option<Rollout> {
        if self.rollouts.get(&id)?.is_over() {
            self.rollouts.remove(&id)
        } else {
            None
        }
    }
}

impl Rollout {
    /// A rollout as it begins; this is what [`Event::Add`] makes of its plan.
    pub fn new(plan: Plan) -> Self {
        let members = plan.members.iter().map(|member| Standing {
            state: MemberState::Queued,
            wave: member.wave,
            online: !member.was_offline,
            n_tries: 0,
            n_pushes: 0,
            leave: None,
            forgiven: false,
        });
        Self {
            members: members.collect(),
            course: Course {
                state: if plan.rules.window.is_some() {
                    State::Scheduled
                } else {
                    State::Running
                },
                cause: None,
                wave: 0,
                n_at_once: plan.rules.at_once.at_first(),
                forgiven: 0,
                idle_since: None,
                rate_before: 0,
                has_opened: false,
            },
            plan: Arc::new(plan),
            opening: Opening::default(),
            derived: Derived::default(),
        }
    }

    /// A rollout from its stored parts; the members in the order of the plan.
    pub fn restored(plan: Plan, course: Course, members: Vec<Standing>) -> Result<Self, TornRollout> {
        if plan.members.len() == members.len() {
            Ok(Self {
                plan: Arc::new(plan),
                course,
                members,
                opening: Opening::default(),
                derived: Derived::default(),
            })
        } else {
            Err(TornRollout {
                n_planned: plan.members.len(),
                n_stored: members.len(),
            })
        }
    }

    /// What it does.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How far it is.
    pub fn course(&self) -> &Course {
        &self.course
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.course.state
    }

    /// How its members stand, in the order of the plan.
    pub fn members(&self) -> &[Standing] {
        &self.members
    }

    /// One member, as planned and as it stands.
    pub fn member(&self, device: &DeviceId) -> Option<(&Member, &Standing)> {
        let idx = self
            .plan
            .members
            .iter()
            .position(|member| member.device == *device)?;
        Some((&self.plan.members[idx], &self.members[idx]))
    }

    /// How long a device must stay up after its update, as things stand.
    pub fn soak_of(&self, device: &DeviceId) -> Duration {
        match self.member(device) {
            Some((_, standing)) if self.is_canary(standing) => self.plan.rules.canary_soak,
            _ => self.plan.rules.soak,
        }
    }

    /// Its window, as was last told.
    pub fn opening(&self) -> Opening {
        self.opening
    }

    /// Whether jobs may begin by its window; always, where it has none.
    pub fn is_open(&self, now: Now) -> bool {
        self.plan.rules.window.is_none() || self.opening.until.is_some_and(|until| now.boot < until.boot)
    }

    /// Whether the job of the member at this place of the plan, begun now, would have ended when the window closes.
    pub(crate) fn fits(&self, place: usize, now: Now) -> bool {
        if self.plan.rules.window.is_none() {
            return true;
        }
        let Some((member, standing)) = self.plan.members.get(place).zip(self.members.get(place)) else {
            return false;
        };
        let soak = if self.is_canary(standing) {
            self.plan.rules.canary_soak
        } else {
            self.plan.rules.soak
        };
        let needed = member.estimate.saturating_add(soak);
        let left = self
            .opening
            .until
            .and_then(|until| until.boot.checked_sub(now.boot));
        left.is_some_and(|left| !left.is_zero() && needed <= left)
    }

    /// Whether the member at this place of the plan waits for nothing but the window: it is closed, or closes too soon.
    pub fn waits_for_window(&self, place: usize, now: Now) -> bool {
        let is_queued = self
            .members
            .get(place)
            .is_some_and(|standing| standing.online && standing.state == MemberState::Queued);
        is_queued && matches!(self.state(), State::Scheduled | State::Running) && !self.fits(place, now)
    }

    /// Whether a member goes before the others.
    pub fn is_canary(&self, standing: &Standing) -> bool {
        self.plan.n_canaries > 0 && standing.wave == 0
    }

    /// Whether all of its members have ended.
    pub fn is_over(&self) -> bool {
        self.members
            .iter()
            .all(|standing| matches!(standing.state, MemberState::Ended(_)))
    }

    /// How many members stand how, by [`MemberState::name`].
    pub fn tally(&self) -> BTreeMap<&'static str, u32> {
        let mut tally = BTreeMap::new();
        for standing in &self.members {
            *tally.entry(standing.state.name()).or_default() += 1;
        }
        tally
    }

    /// The end of the member that ended worst so far: its word is that of the rollout.
    pub fn worst(&self) -> Option<&Ended> {
        self.members
            .iter()
            .filter_map(|standing| match &standing.state {
                MemberState::Ended(ended) => Some(ended),
                _ => None,
            })
            .max_by_key(|ended| badness(ended))
    }
}

/// How bad an end is, the worst last: what nobody knows before what is known to be wrong, and that before what was not done.
fn badness(ended: &Ended) -> u8 {
    match ended {
        Ended::Outcome(outcome) => match outcome.ending {
            Ending::Updated => 0,
            Ending::AlreadyCurrent => 1,
            Ending::UpdatedLabelUnchanged => 2,
            Ending::Cancelled => 3,
            Ending::Refused => 6,
            Ending::KeptOld => 7,
            Ending::RolledBack => 8,
            Ending::Failed => 9,
            Ending::Unverified => 10,
        },
        Ended::Cancelled => 3,
        Ended::Skipped(_) => 4,
        Ended::MissedWindow(_) => 5,
    }
}
