//! What is shown of windows and schedules.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::RefusalView;

/// Where a window or a schedule was written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OriginView {
    /// `configuration`: it can only be changed there; `api`: it is kept by the server and changed over its API.
    pub kept_in: String,
    /// The file, where it is one.
    pub file: Option<String>,
    /// Its place: `windows.night`.
    pub key: String,
}

/// When a window is open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpeningView {
    /// When it closes, milliseconds since 1970; null while it is closed.
    pub open_until_ms: Option<i64>,
    /// The same by its own clock: `2026-11-23T05:00:00+02:00[Europe/Vilnius]`.
    pub open_until_local: Option<String>,
    /// When it opens next, milliseconds since 1970.
    pub next_ms: Option<i64>,
    /// The same by its own clock.
    pub next_local: Option<String>,
}

/// A window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WindowView {
    /// Its name.
    pub name: String,
    /// When it opens, in words.
    pub opens: String,
    /// When it opens by its own clock: `02:00`, `02:00:30`.
    pub start: String,
    /// On which days, from Monday: `mon` … `sun`.
    pub days: Vec<String>,
    /// Where its clock hangs, IANA name; null where this machine's zone has no name.
    pub timezone: Option<String>,
    /// For how long it is open.
    pub duration_s: u64,
    /// When it is open.
    #[serde(flatten)]
    pub opening: OpeningView,
    /// Where it was written down.
    pub origin: OriginView,
    /// The schedules that go by it.
    pub schedules: Vec<String>,
    /// The open rollouts that were planned with a window of this name; they keep it as it was then.
    pub rollouts: Vec<i64>,
    /// Why it does not open, though it should.
    pub trouble: Option<RefusalView>,
}

/// The window that a rollout goes by, as it was when it was planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutWindowView {
    /// Its name.
    pub name: String,
    /// When it opens, in words.
    pub opens: String,
    /// When it is open; all null once the rollout is over.
    #[serde(flatten)]
    pub opening: OpeningView,
}

/// What a schedule did last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleTurnView {
    /// When, milliseconds since 1970.
    pub at_ms: i64,
    /// The same by its own clock.
    pub at_local: Option<String>,
    /// The date and minute that had come: `2026-11-23T02:15`; null where somebody ran it.
    pub due: Option<String>,
    /// `rollout`: it made one. `nothing`: nothing was to be done. `failed`: it could not. `unknown`: it is at it, or the server
    /// ended just then; what it did is among the rollouts.
    pub did: String,
    /// The rollout that it made.
    pub rollout: Option<i64>,
    /// What it did, in a sentence.
    pub text: String,
    /// Who ran it; null where its time had come.
    pub by: Option<String>,
}

/// A schedule: rollouts that begin by themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleView {
    /// Its name; its rollouts are called so.
    pub name: String,
    /// When it is due: minute, hour, day of the month, month, day of the week.
    pub cron: String,
    /// Where its clock hangs, IANA name; null where this machine's zone has no name.
    pub timezone: Option<String>,
    /// The zone that it names itself; null where it goes by that of its window or this machine's.
    pub own_timezone: Option<String>,
    /// The window in which its updates begin; null where they begin at any time.
    pub window: Option<String>,
    /// What it installs: `newest-approved`.
    pub what: String,
    /// Only devices with one of these tags; empty: all.
    pub tags: Vec<String>,
    /// When it is due next, milliseconds since 1970; null where that never comes.
    pub next_ms: Option<i64>,
    /// The same by its own clock.
    pub next_local: Option<String>,
    /// When the updates of that next time may begin: at once, or when its window opens; milliseconds since 1970.
    pub begins_ms: Option<i64>,
    /// The same by its own clock.
    pub begins_local: Option<String>,
    /// What it did last; null where its time has not come yet.
    pub last: Option<ScheduleTurnView>,
    /// Where it was written down.
    pub origin: OriginView,
    /// Why it does not run, though it should.
    pub trouble: Option<RefusalView>,
}

/// A time in which a window is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenSpanView {
    /// When it opens, milliseconds since 1970.
    pub opens_ms: i64,
    /// When it closes.
    pub closes_ms: i64,
}

/// When a window is open in a span of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WindowTimesView {
    /// Its name.
    pub name: String,
    /// Its openings, the earliest first; one that began before the span is told as well.
    pub open: Vec<OpenSpanView>,
}

/// When a schedule is due in a span of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleTimesView {
    /// Its name.
    pub name: String,
    /// When it is due, milliseconds since 1970, the earliest first.
    pub due_ms: Vec<i64>,
    /// Whether it is due more often than is told here.
    pub more: bool,
}

/// All windows and schedules in a span of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TimetableView {
    /// From when, milliseconds since 1970.
    pub from_ms: i64,
    /// Until when.
    pub until_ms: i64,
    /// The windows.
    pub windows: Vec<WindowTimesView>,
    /// The schedules.
    pub schedules: Vec<ScheduleTimesView>,
}

/// A window to be made or changed, with the keys of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WantedWindow {
    /// When it opens: `02:00`.
    pub start: String,
    /// For how long: `3h`, `90m`, or a number of seconds; at most a day.
    pub duration: String,
    /// On which days: `mon` … `sun`; every day where it is missing.
    pub days: Option<Vec<String>>,
    /// Where its clock hangs, IANA name; that of this machine where it is missing.
    pub timezone: Option<String>,
}

/// A schedule to be made or changed, with the keys of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WantedSchedule {
    /// When it is due: minute, hour, day of the month, month, day of the week.
    pub cron: String,
    /// The window in which its updates begin, by name; at any time where it is missing.
    pub window: Option<String>,
    /// What it installs: `newest-approved`.
    pub what: Option<String>,
    /// Only devices with one of these tags; all where it is missing.
    pub tags: Option<Vec<String>>,
    /// Where its clock hangs, IANA name; that of its window, or else of this machine, where it is missing.
    pub timezone: Option<String>,
}
