//! One device's update, as a pure state machine.
//!
//! [`next`] takes what was seen and answers with what to do. The engine does it, stores the job before each act, and comes back.
//! The eight job rules (DESIGN.md section 3) live here; each is marked where it is kept.

mod again;
mod next;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::device::Snapshot;
use crate::family::{Fault, Label, Method, Timing, Undo, Verdict};
use crate::id::{DeviceId, RolloutId, Sha256};
use crate::image::ImageInfo;
use crate::installed::Installed;
use crate::outcome::{End, Ending, Outcome};
use crate::precheck::Precheck;
use crate::time::Now;
use crate::version::Versions;

pub use again::{Correction, Record, end_in, reconsider};
pub use next::next;

/// How far two readings of the moment of boot may differ without a restart: uptimes are whole seconds, read over a network.
const BOOT_MOMENT_TOLERANCE: Duration = Duration::from_secs(2);

/// Whether the end is proven or merely taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// Watch the device come back and judge what it runs.
    Watched,
    /// Stop after its answer (`--no-verify`).
    NotAsked,
}

/// What was decided before the job began; it does not change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The device.
    pub device: DeviceId,
    /// The image.
    pub image: ImageInfo,
    /// How to bring it there.
    pub method: Method,
    /// How long things take.
    pub timing: Timing,
    /// How long it must stay up afterwards.
    pub soak: Duration,
    /// Whether the end is proven.
    pub proof: Proof,
    /// What the device is believed to run before the push.
    pub record: Option<Installed>,
    /// The rollout that it is part of; none for a push by hand.
    #[serde(default)]
    pub rollout: Option<RolloutId>,
    /// Pushes that it may begin at most, 1 or [`MAX_PUSHES`].
    #[serde(default = "most")]
    pub max_pushes: u8,
}

/// Pushes of one job: the first, and one more after a death in mid-stream (DESIGN.md, "A push").
pub const MAX_PUSHES: u8 = 2;

/// What orders were given that were stored before they said it.
fn most() -> u8 {
    MAX_PUSHES
}

/// A reading of the device, and when it was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// What was read.
    pub snapshot: Snapshot,
    /// When.
    pub at: Now,
    /// It was taken in an earlier boot of this machine: how long ago is not known, and `at` is the latest that it can have been.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub earlier_boot: bool,
}

impl Look {
    /// A look that was taken now.
    pub fn new(snapshot: Snapshot, now: Now) -> Self {
        Self {
            snapshot,
            at: now,
            earlier_boot: false,
        }
    }

    /// When the device booted, on our clock; none where it tells no uptime.
    fn booted_at(&self) -> Option<Duration> {
        // An uptime can be longer than our own: then the moment lies before our boot, which only differences of it may see.
        self.snapshot
            .uptime
            .map(|uptime| (self.at.boot + FAR).saturating_sub(uptime))
    }

    /// Whether it seems to have booted after this moment: its uptime, in whole seconds, may make the boot look up to 1 s late.
    pub(crate) fn seems_booted_after(&self, moment: Now) -> bool {
        self.booted_at()
            .is_some_and(|booted_at| booted_at > moment.boot + FAR)
    }

    /// Whether the uptime has stood still until a later look: it is then no uptime, unless a restart lies in between.
    pub(crate) fn stands_still_until(&self, later: &Self) -> bool {
        self.snapshot.uptime.is_some()
            && later.snapshot.uptime == self.snapshot.uptime
            && !self.is_of_another_boot_than(later)
            && later.at.since(self.at) > BOOT_MOMENT_TOLERANCE
    }

    /// Whether the device has restarted between this look and a later one; none where its uptime does not tell.
    ///
    /// Where this machine itself has started anew in between, only a shorter uptime does: a longer one is what a device shows that
    /// stayed, and also one that restarted long enough ago. The wall clock could tell them apart, if it was never set.
    pub fn restarted_until(&self, later: &Self) -> Option<bool> {
        let (before, after) = (self.booted_at()?, later.booted_at()?);
        if later.snapshot.uptime < self.snapshot.uptime {
            return Some(true);
        }
        if self.is_of_another_boot_than(later) {
            return None;
        }
        Some(after > before + BOOT_MOMENT_TOLERANCE)
    }

    /// Whether the time between the two is not known.
    pub(crate) fn is_of_another_boot_than(&self, later: &Self) -> bool {
        self.earlier_boot && !later.earlier_boot
    }
}

/// Added to every moment of boot so that none is negative: longer than any uptime, 100 years.
const FAR: Duration = Duration::from_hours(100 * 365 * 24);

/// What proves the outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The device's own words about the push.
    pub verdict: Option<String>,
    /// How long the last push took.
    pub push: Option<Duration>,
    /// How long it was away.
    pub away: Option<Duration>,
    /// How long it was watched after it came back.
    pub watched: Option<Duration>,
    /// The last look before the push.
    pub before: Option<Look>,
    /// The last look.
    pub after: Option<Look>,
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "phase")]
pub enum Phase {
    /// Looking at the device for the first time.
    Looking {
        /// Looks without an answer so far.
        n_silent: u8,
    },
    /// The undo is being committed.
    CommittingUndo,
    /// The device is being made ready.
    Preparing,
    /// The intent is being committed.
    CommittingIntent,
    /// Bytes may be leaving.
    Pushing,
    /// Waiting for it to go away and come back.
    Watching {
        /// How the push ended.
        end: End,
        /// When it ended.
        since: Now,
        /// When it was first found silent.
        gone_at: Option<Now>,
    },
    /// It is back; it must stay up.
    Soaking(Box<Soak>),
    /// Putting back what was changed.
    Undoing {
        /// How the job will have ended.
        outcome: Outcome,
        /// Tries so far.
        n_tries: u8,
    },
    /// Over.
    Finished {
        /// How it ended.
        outcome: Outcome,
    },
}

/// A device that is back and is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Soak {
    /// How the push ended.
    pub end: End,
    /// When it came back.
    pub since: Now,
    /// The soak's end.
    pub until: Duration,
    /// Restarts seen in the soak.
    pub n_restarts: u8,
    /// The last look at it.
    pub last: Look,
}

impl Phase {
    /// Its name: the word a person reads, and the step's name in the journal.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Looking { .. } => "looking",
            Self::CommittingUndo | Self::Preparing => "preparing",
            Self::CommittingIntent | Self::Pushing => "uploading",
            Self::Watching { .. } => "rebooting",
            Self::Soaking(_) => "soaking",
            Self::Undoing { .. } => "restoring",
            Self::Finished { .. } => "finished",
        }
    }
}

/// One device's update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What was decided.
    pub order: Order,
    /// Where it stands.
    pub phase: Phase,
    /// Pushes begun, counted before the first byte.
    pub n_pushes: u8,
    /// Image bytes may have reached the device.
    pub bytes_left: bool,
    /// What is to be put back; none once that is done.
    pub undo: Option<Undo>,
    /// What the owner has overridden.
    pub overridden: Vec<String>,
    /// Its owner wants it stopped.
    pub cancelled: bool,
    /// What proves its outcome.
    pub evidence: Evidence,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seen {
    /// The job begins.
    Begun,
    /// The process that ran it is gone, and another has taken over.
    Restarted,
    /// The first look, with what was found wrong and what will have to be undone.
    Checked(Result<(Snapshot, Precheck, Option<Undo>), Fault>),
    /// What was to be committed is durable.
    Committed,
    /// The intent of another push could not be stored: it must not begin.
    NotCommitted,
    /// The device was made ready and read once more.
    Prepared(Result<Snapshot, Fault>),
    /// The push ended.
    Pushed {
        /// How.
        result: Result<Verdict, Fault>,
        /// How long it took.
        took: Duration,
    },
    /// A look while watching; the label is the family's judgement of it.
    Looked(Result<(Snapshot, Label), Fault>),
    /// Putting back ended.
    Undone(Result<(), Fault>),
    /// Its owner wants it stopped.
    Cancel,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Read the device and check the image against it, after a pause.
    Probe {
        /// The pause.
        after: Duration,
    },
    /// Store the job, and with it what will have to be undone.
    CommitUndo,
    /// Make the device ready.
    Prepare,
    /// Store the job, and with it the intent to push and the number of this push.
    CommitIntent,
    /// Send the image.
    Push,
    /// Look after a pause.
    Watch {
        /// The pause.
        every: Duration,
    },
    /// Put back what was changed, after a pause.
    Undo {
        /// The pause.
        after: Duration,
    },
    /// Store the job and release the device.
    Finish,
}

impl Job {
    /// A new job.
    pub fn new(order: Order) -> Self {
        Self {
            order,
            phase: Phase::Looking { n_silent: 0 },
            n_pushes: 0,
            bytes_left: false,
            undo: None,
            overridden: Vec::new(),
            cancelled: false,
            evidence: Evidence::default(),
        }
    }

    /// How it ended, once it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::Finished { outcome } => Some(outcome),
            _ => None,
        }
    }

    /// What is to be recorded of the device when the job ends; none leaves the record as it is.
    pub fn record_after(&self) -> Option<Installed> {
        let outcome = self.outcome()?;
        let before = self.evidence.before.as_ref()?;
        let label = self
            .evidence
            .after
            .as_ref()
            .unwrap_or(before)
            .snapshot
            .versions
            .clone();
        let moved_earlier = self
            .order
            .record
            .as_ref()
            .is_some_and(|record| record.label_moves);
        let installed = |digest: Option<Sha256>, label_moves: bool| Installed {
            digest,
            label,
            label_moves,
        };
        match outcome.ending {
            Ending::Updated | Ending::UpdatedLabelUnchanged => {
                let moved = label_of(self.evidence.after.as_ref()) != Some(&before.snapshot.versions);
                Some(installed(Some(self.order.image.sha256), moved || moved_earlier))
            }
            // What it runs is not known, so the old record may not speak for it any longer.
            Ending::Unverified | Ending::Failed if self.bytes_left => Some(installed(None, moved_earlier)),
            _ => None,
        }
    }

    /// Brings a job over from another boot of this machine, whose last stored moment was `last`.
    ///
    /// How long ago that was cannot be known: the wall clock may have been set meanwhile, and the clock since boot began anew.
    /// So nothing is concluded from that time. It counts as none in all that is waited for, which is then waited for in full, once;
    /// and looks from before it are marked as such.
    pub fn rebase(&mut self, last: Now, now: Now) {
        let shift = |at: &mut Now| at.boot = now.boot.saturating_sub(last.boot.saturating_sub(at.boot));
        let shift_look = |look: &mut Look| {
            shift(&mut look.at);
            look.earlier_boot = true;
        };
        for look in [&mut self.evidence.before, &mut self.evidence.after]
            .into_iter()
            .flatten()
        {
            shift_look(look);
        }
        match &mut self.phase {
            Phase::Watching { since, gone_at, .. } => {
                shift(since);
                gone_at.iter_mut().for_each(shift);
            }
            Phase::Soaking(soak) => {
                shift(&mut soak.since);
                shift_look(&mut soak.last);
                soak.until = now.boot + self.order.soak;
            }
            _ => {}
        }
    }
}

fn label_of(look: Option<&Look>) -> Option<&Versions> {
    look.map(|look| &look.snapshot.versions)
}
