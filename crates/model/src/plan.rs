//! What a rollout would do: per device the image, or why not; who goes first, and in which waves the others follow.
//!
//! [`plan`] takes facts and rules and answers with a [`Plan`], which never changes afterwards: another wish is another plan.
//! A rollback is a plan like any other, with older images.

mod arrange;
pub(crate) mod sentences;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::family::Method;
use crate::id::{DeviceId, RolloutId, Sha256};
use crate::inventory;
use crate::precheck::Permits;
use crate::window::Window;

pub use arrange::plan;

/// What is known of a device when a plan is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The device.
    pub device: DeviceId,
    /// What its owner calls it.
    pub name: String,
    /// Its model, where it tells one.
    pub model: Option<String>,
    /// What it runs, in its family's words.
    pub runs: String,
    /// Whether it answers.
    pub standing: inventory::State,
    /// Its Wi-Fi signal, dBm, where it tells it.
    pub signal_dbm: Option<i32>,
    /// Whether its owner has approved it.
    pub enrolled: bool,
    /// The conflict of identities that it is part of, in words.
    pub conflict: Option<String>,
    /// The group that it shares a bottleneck with, such as an access point.
    pub group: Option<String>,
    /// The rollout that it is still part of.
    pub busy_with: Option<RolloutId>,
    /// Whether it was left out by name.
    pub excluded: bool,
    /// The image for it, or why there is none.
    pub choice: Result<Choice, Reason>,
}

/// The image for one device, and how it would get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The image.
    pub image: Sha256,
    /// What it is called.
    pub image_name: String,
    /// Its length, bytes.
    pub len_bytes: u64,
    /// The ways to bring it there, the preferred one first.
    pub methods: Vec<Method>,
    /// How long the transfer and the restart should take; without the soak.
    pub estimate: Duration,
    /// The kept image of what it runs now; none where it is not kept.
    pub way_back: Option<Sha256>,
    /// Whether its identity is weak, so that it is compared with version and model just before the push.
    pub weak: bool,
    /// What it interrupts, as a sentence: "Ventilation pauses about 3 minutes."
    pub interrupts: Option<String>,
}

/// The rule's name where an image has failed on too many devices.
pub const QUARANTINED: &str = "quarantined";

/// Why something is not done, or has stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Its name, such as `offline`: stable, for programs.
    pub rule: String,
    /// One or two sentences: what is the matter.
    pub text: String,
    /// What to do next.
    pub next_step: String,
}

impl Reason {
    /// A reason of these words.
    pub fn new(rule: impl Into<String>, text: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self {
            rule: rule.into(),
            text: text.into(),
            next_step: next_step.into(),
        }
    }
}

/// How many devices are updated at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AtOnce {
    /// From [`AUTO_FIRST`] on as many as make it quicker.
    Auto,
    /// At most so many; 0 counts as 1.
    AtMost(u32),
}

/// How many devices are updated at the same time to begin with, where that is found out (RELIABILITY.md 5, 16).
pub const AUTO_FIRST: u32 = 4;

impl AtOnce {
    /// How many at the same time to begin with.
    pub fn at_first(self) -> u32 {
        match self {
            Self::Auto => AUTO_FIRST,
            Self::AtMost(n_devices) => n_devices.max(1),
        }
    }
}

/// How much may fail before a rollout halts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaxFailures {
    /// It halts with this many failures; 0 counts as 1.
    Count(u32),
    /// It halts when more than so many of a hundred devices have failed.
    Percent(u8),
}

impl MaxFailures {
    /// Whether a rollout to `n_members` devices halts with this many failures.
    pub fn is_reached(self, n_failures: u32, n_members: u32) -> bool {
        match self {
            Self::Count(most) => n_failures >= most.max(1),
            Self::Percent(percent) => u64::from(n_failures) * 100 > u64::from(percent) * u64::from(n_members),
        }
    }
}

/// How a rollout goes about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// How many devices go first, one success each, before any other follows; 0 for none.
    pub canary: u32,
    /// How long those must stay up.
    pub canary_soak: Duration,
    /// How long the others must stay up.
    pub soak: Duration,
    /// How many at the same time.
    pub at_once: AtOnce,
    /// How many at the same time in each group, over all rollouts; a group that is not named: 1.
    pub groups: BTreeMap<String, u32>,
    /// How much may fail.
    pub max_failures: MaxFailures,
    /// Devices that do not answer are waited for until then, milliseconds since 1970; none: they are left out.
    pub when_back_until_ms: Option<i64>,
    /// Updates begin only while this window is open, and only where they fit in before it closes; none: at any time.
    pub window: Option<Window>,
    /// How many jobs a device gets at most.
    pub max_tries: u8,
    /// How many pushes a device gets at most, over all of its jobs.
    pub max_pushes: u8,
    /// How long after a failure the next try may begin; twice as long after each further one.
    pub retry_after: Duration,
    /// Push what is already current.
    pub force: bool,
    /// Rules that the owner overrides by name.
    pub allow: Vec<String>,
    /// Push images of which one part is newer and another older.
    pub mixed: bool,
    /// Put a device that keeps restarting with its new image back to what it ran before, once.
    pub put_back: bool,
}

impl Default for Rules {
    /// As DESIGN.md 4 and RELIABILITY.md 5 (16) have them.
    fn default() -> Self {
        Self {
            canary: 1,
            canary_soak: Duration::from_mins(10),
            soak: Duration::from_mins(2),
            at_once: AtOnce::Auto,
            groups: BTreeMap::new(),
            max_failures: MaxFailures::Count(2),
            when_back_until_ms: None,
            window: None,
            max_tries: 3,
            max_pushes: 2,
            retry_after: Duration::from_secs(30),
            force: false,
            allow: Vec::new(),
            mixed: false,
            // Not in what was stored before there was such a thing: its owner was told of nothing like it.
            put_back: false,
        }
    }
}

impl Rules {
    /// What each of its jobs is permitted.
    pub fn permits(&self) -> Permits {
        Permits {
            allow: self.allow.clone(),
            force: self.force,
            mixed: self.mixed,
        }
    }

    /// What a job is permitted that puts a device back: to go to an older image is its purpose.
    pub fn permits_back(&self) -> Permits {
        let mut permits = self.permits();
        permits.allow.push("downgrade".to_owned());
        permits.mixed = true;
        permits.force = false;
        permits
    }

    /// How many devices of a group may be updated at the same time, at least 1.
    pub fn at_once_in(&self, group: &str) -> u32 {
        self.groups.get(group).copied().unwrap_or(1).max(1)
    }
}

/// What a rollout does; it never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The devices that are updated, by wave.
    pub members: Vec<Member>,
    /// The devices that are not, and why.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    /// How many waves there are. The canaries are wave 0; where there are none, wave 0 is the first of the others.
    pub n_waves: u32,
    /// How many devices have to succeed in wave 0 before any other begins; 0 where there is no canary.
    ///
    /// Wave 0 holds fewer members where fewer answer: those that are back first take the places that are left.
    #[serde(default)]
    pub n_canaries: u32,
    /// How it goes about it.
    #[serde(default)]
    pub rules: Rules,
}

/// A device that is updated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The device.
    pub device: DeviceId,
    /// What its owner calls it.
    pub name: String,
    /// What it runs, in its family's words.
    pub runs: String,
    /// The image.
    pub image: Sha256,
    /// What the image is called.
    pub image_name: String,
    /// Its length, bytes.
    pub len_bytes: u64,
    /// The ways to bring it there, the preferred one first.
    #[serde(default)]
    pub methods: Vec<Method>,
    /// How long the transfer and the restart should take; without the soak.
    #[serde(default)]
    pub estimate: Duration,
    /// The wave that it is planned in.
    pub wave: u32,
    /// The group that it shares a bottleneck with.
    #[serde(default)]
    pub group: Option<String>,
    /// Whether it did not answer when the plan was made, so that it is waited for.
    #[serde(default)]
    pub was_offline: bool,
    /// The kept image of what it runs now; none where it is not kept.
    #[serde(default)]
    pub way_back: Option<Sha256>,
    /// What it interrupts, as a sentence.
    #[serde(default)]
    pub interrupts: Option<String>,
    /// What its owner should know before.
    #[serde(default)]
    pub notes: Vec<Note>,
}

/// Something to know of a device before it is updated; it prevents nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Its name, such as `no-way-back`: stable, for programs.
    pub rule: String,
    /// One sentence, to be read after the device's name and a colon.
    pub text: String,
}

/// A device that is not updated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The device.
    pub device: DeviceId,
    /// What its owner calls it.
    pub name: String,
    /// Why not.
    pub reason: Reason,
}

impl Plan {
    /// How long it takes if all goes well: waves one after the other, as many at once as rules and groups let, soaks included.
    ///
    /// Where the number at once is found out, [`AUTO_FIRST`] are assumed. Devices that are waited for are not counted.
    pub fn estimate(&self) -> Duration {
        crate::fleet::rehearse(self)
    }

    /// The plan in sentences that can be read aloud.
    pub fn sentences(&self) -> Vec<String> {
        sentences::of(self)
    }
}
