//! The JSON of plans, rollouts, jobs and their history.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{NoteView, RefusalView, RolloutWindowView};

/// What kind of rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutKind {
    /// To the newest approved image, or to the one that is named.
    #[default]
    Update,
    /// Back to an earlier image: the one before, or the one that is named.
    Rollback,
}

impl RolloutKind {
    /// Its name in JSON and in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Rollback => "rollback",
        }
    }
}

/// What is wanted of which devices: the body of a plan and of a rollout. What is left out is the policy's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WantedRollout {
    /// Devices by id, name or address.
    pub devices: Vec<String>,
    /// Every enrolled device.
    pub all: bool,
    /// Devices that are left out.
    pub exclude: Vec<String>,
    /// Only devices with one of these tags.
    pub tags: Vec<String>,
    /// Whether they go forward or back.
    pub kind: RolloutKind,
    /// The image: a SHA-256, a version, a name, a file name, or a path in the firmware folder. None: for an update the newest
    /// approved one of each device, for a rollback the one that it ran before.
    pub firmware: Option<String>,
    /// Also where it is installed already.
    pub force: bool,
    /// Also where one part would get newer and another older.
    pub yes: bool,
    /// Rules that are overridden, as with a push.
    pub allow: Vec<String>,
    /// How many devices go first.
    pub canary: Option<u32>,
    /// How many at the same time: `auto` or a number.
    pub at_once: Option<String>,
    /// How much may fail: a number, or a share as `5%`.
    pub max_failures: Option<String>,
    /// How long a device must stay up after its update.
    pub soak_s: Option<u64>,
    /// How long the first ones must.
    pub canary_soak_s: Option<u64>,
    /// For how long devices that are offline may come back and still be updated. None: they are left out.
    pub when_back_s: Option<u64>,
    /// The window in which updates begin, by name. None: at once.
    pub window: Option<String>,
    /// The only method to use, such as `espota`. None: those of each device, in their order.
    pub method: Option<String>,
    /// What people call it.
    pub name: Option<String>,
    /// The number of an open rollout whose place this one takes: its devices that have not begun, with the images that were
    /// planned for them, by its rules, except for what is said here. What has begun ends there.
    pub instead_of: Option<i64>,
}

/// What would happen, and what not, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// Whether they go forward or back.
    pub kind: RolloutKind,
    /// The devices that would be updated, in the order of their waves.
    pub members: Vec<PlannedView>,
    /// The devices that would not, each with its reason.
    pub left_out: Vec<LeftOutView>,
    /// How many waves there would be.
    pub n_waves: u32,
    /// What it goes by.
    pub rules: RulesView,
    /// How long all of it takes, seconds, if nothing fails and everybody is there.
    pub estimate_s: u64,
    /// All of it in sentences that can be read aloud.
    pub sentences: Vec<String>,
}

/// One device of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlannedView {
    /// Its id.
    pub device: String,
    /// What people call it.
    pub name: String,
    /// What it runs, in words.
    pub runs: String,
    /// The image.
    pub sha256: String,
    /// The image in words.
    pub firmware: String,
    /// In which wave; 0 goes first.
    pub wave: u32,
    /// By which methods, the first one first.
    pub methods: Vec<String>,
    /// How long it takes without its soak, seconds.
    pub estimate_s: u64,
    /// Whether it does not answer now and is updated when it is back.
    pub waits_until_back: bool,
    /// The image that it can go back to; null where there is none.
    pub way_back: Option<String>,
    /// What stands still meanwhile.
    pub interrupts: Option<String>,
    /// What its owner should know.
    pub notes: Vec<NoteView>,
}

/// One device that a plan leaves out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftOutView {
    /// Its id.
    pub device: String,
    /// What people call it.
    pub name: String,
    /// Why.
    pub reason: RefusalView,
}

/// What a rollout goes by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RulesView {
    /// How many devices go first.
    pub canary: u32,
    /// How long they must stay up.
    pub canary_soak_s: u64,
    /// How long the others must.
    pub soak_s: u64,
    /// How many at the same time: `auto` or a number.
    pub at_once: String,
    /// How much may fail: a number, or a share as `5%`.
    pub max_failures: String,
    /// Until when devices that are offline may come back; null where they are left out.
    pub when_back_until_ms: Option<i64>,
    /// The window in which updates begin; null where they begin at any time.
    pub window: Option<String>,
    /// Whether a device that keeps restarting is put back to what it ran before, once.
    #[serde(default)]
    pub puts_back: bool,
}

/// A rollout without its devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutSummaryView {
    /// Its number.
    pub id: i64,
    /// What people call it.
    pub name: Option<String>,
    /// Whether its devices go forward or back.
    pub kind: RolloutKind,
    /// `scheduled`, `running`, `paused`, `halted`, `finished`, `aborted`.
    pub state: String,
    /// Why it stands so; only where that needs saying.
    pub cause: Option<RefusalView>,
    /// The images that it brings, in words.
    pub firmware: Vec<String>,
    /// When it was made.
    pub created_ms: i64,
    /// By whom.
    pub created_by: String,
    /// The rollout whose place it has taken.
    #[serde(default)]
    pub predecessor: Option<i64>,
    /// When its last device had ended.
    pub ended_ms: Option<i64>,
    /// When its window opens next; null where that is open, or it has none, or nothing waits for it.
    pub opens_ms: Option<i64>,
    /// The wave that is open.
    pub wave: u32,
    /// How many waves there are.
    pub n_waves: u32,
    /// How many devices stand how, by their state's word.
    pub counts: BTreeMap<String, u32>,
    /// How many devices there are.
    pub n_devices: u32,
    /// Whether every device ended as it was meant to: true or false once it is over.
    pub ok: Option<bool>,
}

/// A rollout with its devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutView {
    /// All but its devices.
    #[serde(flatten)]
    pub summary: RolloutSummaryView,
    /// What it goes by.
    pub rules: RulesView,
    /// The window that it goes by; null where it has none.
    pub window: Option<RolloutWindowView>,
    /// Why nothing begins now, though devices wait; null where nothing waits or something goes on.
    pub held: Option<RefusalView>,
    /// How many devices are updated at the same time now.
    pub n_at_once: u32,
    /// Its devices, in the order of their waves.
    pub members: Vec<MemberView>,
    /// The devices that its plan left out.
    pub left_out: Vec<LeftOutView>,
}

/// One device of a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemberView {
    /// Its id.
    pub device: String,
    /// What people call it.
    pub name: String,
    /// In which wave.
    pub wave: u32,
    /// What it ran when the plan was made.
    pub runs: String,
    /// The image.
    pub sha256: String,
    /// The image in words.
    pub firmware: String,
    /// `queued`, `waiting`, `looking`, `preparing`, `uploading`, `rebooting`, `soaking`, `restoring`, or how it ended: `updated`,
    /// `updated-label-unchanged`, `already-current`, `kept-old`, `rolled-back`, `failed`, `unverified`, `refused`, `skipped`,
    /// `cancelled`, `missed-window`.
    pub state: String,
    /// How much of the image has arrived, of a hundred; only while it is uploaded.
    pub percent: Option<u8>,
    /// The reason's name.
    pub reason: Option<String>,
    /// What happened, in a sentence.
    pub text: Option<String>,
    /// What to do about it.
    pub next_step: Option<String>,
    /// Its last job.
    pub job: Option<i64>,
    /// Jobs so far.
    pub n_tries: u8,
    /// Pushes so far.
    pub n_pushes: u8,
}

/// One update of one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// Its number.
    pub id: i64,
    /// The device's id.
    pub device: String,
    /// What people call it now.
    pub name: Option<String>,
    /// The rollout that it belongs to; null for a push by hand.
    pub rollout: Option<i64>,
    /// The image.
    pub sha256: String,
    /// The image in words, where it is still here.
    pub firmware: Option<String>,
    /// Where it stands, or how it ended: see the states of a rollout's devices.
    pub state: String,
    /// The reason's name.
    pub reason: Option<String>,
    /// What happened, in a sentence.
    pub text: Option<String>,
    /// What to do about it.
    pub next_step: Option<String>,
    /// When it began.
    pub started_ms: i64,
    /// When it ended.
    pub ended_ms: Option<i64>,
}

/// One update of one device, with what proves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobDetailView {
    /// All but the evidence.
    #[serde(flatten)]
    pub job: JobView,
    /// By which method.
    pub method: Option<String>,
    /// How many pushes were begun.
    pub n_pushes: u8,
    /// What was seen, as `push --json` tells it.
    #[schema(value_type = Object)]
    pub evidence: serde_json::Value,
    /// What happened in it, in order.
    pub events: Vec<JobEventView>,
}

/// One step of a job, as its journal holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobEventView {
    /// Its number in the job.
    pub seq: i64,
    /// When.
    pub at_ms: i64,
    /// What.
    pub step: String,
    /// Which push it belongs to; 0 before the first.
    pub attempt: u8,
}

/// How updates went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatsView {
    /// Since when, milliseconds since 1970.
    pub since_ms: i64,
    /// Updates that ended, by how they did.
    pub outcomes: BTreeMap<String, u64>,
    /// Of a hundred that were to be updated, how many were proven to be; null without any.
    pub success_percent: Option<f64>,
    /// Updates that did not succeed, by their reason's name.
    pub reasons: BTreeMap<String, u64>,
    /// Devices by what they run, in words.
    pub running: BTreeMap<String, u64>,
    /// Enrolled devices.
    pub n_enrolled: u64,
    /// Of these, for which nothing newer is offered.
    pub n_current: u64,
    /// The same in steps, where steps were asked for; the oldest first.
    #[serde(default)]
    pub course: Vec<StatsSpanView>,
}

/// How updates went in a span of time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatsSpanView {
    /// From when, milliseconds since 1970.
    pub from_ms: i64,
    /// Until when.
    pub until_ms: i64,
    /// Updates that ended in it and were proven to have succeeded.
    pub n_proven: u64,
    /// Updates that ended in it and were to succeed.
    pub n_meant: u64,
    /// Enrolled devices by what they ran at its end, in words, as far as updates by this server tell.
    pub running: BTreeMap<String, u64>,
}
