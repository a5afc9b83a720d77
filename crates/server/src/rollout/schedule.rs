//! Rollouts that begin by themselves, at set times.

use std::time::Duration;

use jiff::tz::TimeZone;
use model::window::Window;
use serde_json::json;
use store::{AuditEntry, ScheduleTurn, TimetableKind};
use tokio_util::sync::CancellationToken;

use super::clock::Verdict;
use super::timetable::TimetableError;
use super::{Policy, RolloutError, Rollouts, window};
use crate::config::{Cron, Due, Schedule};
use crate::views::{
    OpenSpanView, RefusalView, RolloutView, ScheduleTimesView, ScheduleTurnView, ScheduleView, TimetableView,
    WantedRollout, WindowTimesView, WindowView,
};

/// How often the clock is looked at: whoever sets it wakes nobody.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// What was due longer ago is not made up for. Guess: longer than a restart of the server, shorter than any window.
const LOOK_BACK_MS: i64 = 10 * 60_000;
/// Minutes that are remembered of each schedule, so that none comes twice.
const N_REMEMBERED: usize = 32;
/// The longest span that is told of at once: five weeks, as a page of a calendar shows.
const TIMETABLE_MAX_MS: i64 = 35 * 86_400_000;
/// So often in a span it is told when a schedule is due. Guess: more cannot be seen apart in a picture.
const N_DUE_MAX: usize = 500;

impl Rollouts {
    /// Begins rollouts when they are due, until it is cancelled.
    pub async fn keep_schedules(&self, cancel: CancellationToken) {
        let mut looked_ms = None;
        loop {
            let now = self.inner.engine.clock().now();
            let verdict = self.state().look_at_clock(now);
            if verdict == Verdict::Sane && self.begin_due(looked_ms, now.wall_ms).await {
                looked_ms = Some(now.wall_ms);
            }
            let left = self.next_due(now.wall_ms).map(|at_ms| {
                Duration::from_millis(u64::try_from(at_ms.saturating_sub(now.wall_ms)).unwrap_or(0))
            });
            let pause = left.map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY));
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause.max(Duration::from_millis(10))) => {}
                // A change that is told while nobody listens is kept until somebody does.
                () = self.inner.timetable.changed.notified() => {}
            }
        }
    }

    fn next_due(&self, now_ms: i64) -> Option<i64> {
        let policy = self.policy();
        let schedules = policy.schedules.values();
        let due = schedules.filter_map(|schedule| Some(next(schedule, &policy, now_ms)?.at_ms));
        due.min()
    }

    /// Begins the rollouts of all schedules that came due after the last look, up to now: each date and minute of a schedule
    /// once, whatever the clocks do and however often the server begins anew. Without a last look, the last ten minutes are
    /// looked at. What was due before a schedule was known with its times is not made up for.
    ///
    /// False where that could not be stored, so that nothing was begun and it is to be tried again.
    pub async fn begin_due(&self, looked_ms: Option<i64>, now_ms: i64) -> bool {
        let policy = self.policy();
        let mut all_kept = true;
        for (name, schedule) in &policy.schedules {
            let turn = match self.inner.store.schedule_turn(name).await {
                Ok(turn) => turn,
                Err(error) => {
                    tracing::warn!(
                        schedule = name,
                        error = model::chain::chain(&error),
                        "what a schedule has done cannot be read"
                    );
                    all_kept = false;
                    continue;
                }
            };
            let times = times(schedule, &policy);
            let Some(mut turn) = turn.clone().filter(|turn| turn.times == times) else {
                let known = known_from(turn, times, now_ms);
                all_kept &= self.remember(name, &known).await;
                continue;
            };
            let from_ms = now_ms
                .saturating_sub(LOOK_BACK_MS)
                .max(looked_ms.unwrap_or(i64::MIN));
            // A clock that was wrong when the schedule became known must not hold it up until then.
            let from_ms = if turn.since_ms > now_ms {
                from_ms
            } else {
                from_ms.max(turn.since_ms)
            };
            let Some(due) = last_due(schedule, &policy, from_ms, now_ms) else {
                continue;
            };
            if turn.done.contains(&due.local) {
                continue;
            }
            turn.done.push(due.local.clone());
            turn.done.drain(..turn.done.len().saturating_sub(N_REMEMBERED));
            turn.last = Some(json!(ScheduleTurnView {
                did: "unknown".to_owned(),
                text: "It is at it. Where that stays so, the server ended just then: see the rollouts."
                    .to_owned(),
                ..came(schedule, &policy, now_ms, Some(&due), None)
            }));
            // Before the rollout is made: one too few is made up for the next time, one too many is not.
            if !self.remember(name, &turn).await {
                all_kept = false;
                continue;
            }
            let made = self.begin_scheduled(name, schedule, &policy, now_ms).await;
            if let Ok(rollout) = &made {
                self.write_down(name, rollout, &due, now_ms).await;
            }
            turn.last = Some(json!(told(
                name,
                &made,
                came(schedule, &policy, now_ms, Some(&due), None)
            )));
            // It has run all the same; only what is shown of it is older.
            self.remember(name, &turn).await;
        }
        all_kept
    }

    /// Does now what a schedule does when it is due, in its window.
    ///
    /// # Errors
    /// There is no such schedule, or no rollout came of it.
    pub async fn run_schedule(&self, name: &str, actor: &str) -> Result<RolloutView, RunError> {
        let policy = self.policy();
        let schedule = policy
            .schedules
            .get(name)
            .ok_or_else(|| self.unknown(TimetableKind::Schedule, name))?;
        let now_ms = self.inner.engine.clock().now().wall_ms;
        let made = self.begin_scheduled(name, schedule, &policy, now_ms).await;
        let last = told(
            name,
            &made,
            came(schedule, &policy, now_ms, None, Some(actor.to_owned())),
        );
        let times = times(schedule, &policy);
        match self.inner.store.schedule_turn(name).await {
            Ok(turn) => {
                let turn = turn.filter(|turn| turn.times == times);
                let mut turn = turn.unwrap_or_else(|| known_from(None, times, now_ms));
                turn.last = Some(json!(last));
                self.remember(name, &turn).await;
            }
            Err(error) => {
                tracing::warn!(
                    schedule = name,
                    error = model::chain::chain(&error),
                    "what a schedule has done cannot be read"
                );
            }
        }
        Ok(made?)
    }

    async fn remember(&self, name: &str, turn: &ScheduleTurn) -> bool {
        let stored = self.inner.store.save_schedule_turn(name, turn).await;
        if let Err(error) = &stored {
            tracing::warn!(
                schedule = name,
                error = model::chain::chain(error),
                "what a schedule does cannot be kept"
            );
        }
        stored.is_ok()
    }

    async fn begin_scheduled(
        &self,
        name: &str,
        schedule: &Schedule,
        policy: &Policy,
        now_ms: i64,
    ) -> Result<RolloutView, RolloutError> {
        // Whoever is away may come back as long as the window is open.
        let window = schedule.window.as_ref().and_then(|name| policy.windows.get(name));
        let closes_ms = window.and_then(|window| {
            let zone = window::zone(window.timezone.as_deref())?;
            window.next_closing(&zone, now_ms)
        });
        let left_s = closes_ms.map(|closes_ms| closes_ms.saturating_sub(now_ms) / 1_000);
        let wanted = WantedRollout {
            all: true,
            tags: schedule.tags.iter().cloned().collect(),
            window: schedule.window.clone(),
            when_back_s: left_s.and_then(|left_s| u64::try_from(left_s).ok()),
            name: Some(name.to_owned()),
            ..WantedRollout::default()
        };
        self.create(&wanted, &creator(name), None).await
    }

    /// Puts a rollout that nobody has asked for into the audit.
    async fn write_down(&self, name: &str, rollout: &RolloutView, due: &Due, at_ms: i64) {
        let devices: Vec<_> = rollout.members.iter().map(|member| &member.device).collect();
        let entry = AuditEntry {
            at_ms,
            actor: creator(name),
            source: "server".to_owned(),
            action: "rollout.create".to_owned(),
            target: rollout.summary.id.to_string(),
            detail: json!({ "kind": rollout.summary.kind, "firmware": rollout.summary.firmware, "devices": devices,
                            "due": due.local }),
        };
        if let Err(error) = self.inner.store.append_audit(&entry).await {
            tracing::error!(
                schedule = name,
                error = model::chain::chain(&error),
                "a rollout of a schedule could not be written down"
            );
        }
    }

    /// All windows, and when they open.
    pub fn windows(&self) -> Vec<WindowView> {
        let names = self.policy().windows.into_keys();
        names.filter_map(|name| self.window(&name)).collect()
    }

    /// One window.
    pub fn window(&self, name: &str) -> Option<WindowView> {
        let now_ms = self.inner.engine.clock().now().wall_ms;
        let policy = self.policy();
        let window = policy.windows.get(name)?;
        let zone = window::zone(window.timezone.as_deref());
        let opening = zone.as_ref().map(|zone| {
            let (until, next) = (window.open_at(zone, now_ms), window.next_opening(zone, now_ms));
            window::opening_view(zone, until, next)
        });
        Some(WindowView {
            name: window.name.clone(),
            opens: window.words(),
            start: window::start(window),
            days: window::days(window),
            timezone: window.timezone.clone(),
            duration_s: window.duration.as_secs(),
            opening: opening.unwrap_or_default(),
            origin: self.origin(TimetableKind::Window, name),
            schedules: self.schedules_by(name),
            rollouts: self.rollouts_by(name).into_iter().map(|id| id.0).collect(),
            trouble: self.trouble_of(window.timezone.as_deref()),
        })
    }

    /// All schedules, when they are due, and what they did last.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn schedules(&self) -> Result<Vec<ScheduleView>, TimetableError> {
        let mut views = Vec::new();
        for name in self.policy().schedules.into_keys() {
            match self.schedule(&name).await {
                Ok(view) => views.push(view),
                // Removed in between.
                Err(TimetableError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(views)
    }

    /// One schedule.
    ///
    /// # Errors
    /// There is none of that name, or the store cannot be read.
    pub async fn schedule(&self, name: &str) -> Result<ScheduleView, TimetableError> {
        let turn = self.inner.store.schedule_turn(name).await?;
        let now_ms = self.inner.engine.clock().now().wall_ms;
        let policy = self.policy();
        let schedule = policy
            .schedules
            .get(name)
            .ok_or_else(|| self.unknown(TimetableKind::Schedule, name))?;
        let timezone = zone_name(schedule, &policy);
        let zone = window::zone(timezone.as_deref());
        let window = schedule
            .window
            .as_ref()
            .map(|name| (name, policy.windows.get(name)));
        let next_ms = next(schedule, &policy, now_ms).map(|due| due.at_ms);
        let (begins_ms, begins_zone) = match window {
            None => (next_ms, zone.clone()),
            Some((_, window)) => {
                let zone = window.and_then(|window| window::zone(window.timezone.as_deref()));
                let begins_ms = next_ms.zip(window).zip(zone.as_ref());
                let begins_ms = begins_ms.and_then(|((next_ms, window), zone)| {
                    let is_open = window.open_at(zone, next_ms).is_some();
                    if is_open {
                        Some(next_ms)
                    } else {
                        window.next_opening(zone, next_ms)
                    }
                });
                (begins_ms, zone)
            }
        };
        let local = |zone: &Option<TimeZone>, at_ms: Option<i64>| window::local(zone.as_ref()?, at_ms?);
        let trouble = match window {
            Some((name, None)) => Some(RefusalView {
                rule: "window".to_owned(),
                text: format!("There is no window {name}, so it begins nothing."),
                next_step: format!("Make one: reflash window set {name}, or change the schedule."),
            }),
            _ => self.trouble_of(timezone.as_deref()),
        };
        Ok(ScheduleView {
            name: name.to_owned(),
            cron: schedule.cron.clone(),
            own_timezone: schedule.timezone.clone(),
            window: schedule.window.clone(),
            what: schedule.what.name().to_owned(),
            tags: schedule.tags.iter().cloned().collect(),
            next_ms,
            next_local: local(&zone, next_ms),
            begins_ms,
            begins_local: local(&begins_zone, begins_ms),
            last: turn.and_then(|turn| serde_json::from_value(turn.last?).ok()),
            origin: self.origin(TimetableKind::Schedule, name),
            trouble,
            timezone,
        })
    }

    /// When windows are open and schedules due in a span of time; in one that is too long only in its beginning.
    pub fn timetable(&self, from_ms: i64, until_ms: i64) -> TimetableView {
        let policy = self.policy();
        let until_ms = until_ms
            .min(from_ms.saturating_add(TIMETABLE_MAX_MS))
            .max(from_ms);
        let windows = policy.windows.values().map(|window| WindowTimesView {
            name: window.name.clone(),
            open: open_spans(window, from_ms, until_ms),
        });
        let schedules = policy.schedules.iter().map(|(name, schedule)| {
            let first = next(schedule, &policy, from_ms.saturating_sub(1));
            let due = std::iter::successors(first, |due| next(schedule, &policy, due.at_ms));
            let due = due.map(|due| due.at_ms).take_while(|at_ms| *at_ms < until_ms);
            let mut due_ms: Vec<i64> = due.take(N_DUE_MAX + 1).collect();
            let more = due_ms.len() > N_DUE_MAX;
            due_ms.truncate(N_DUE_MAX);
            ScheduleTimesView {
                name: name.clone(),
                due_ms,
                more,
            }
        });
        TimetableView {
            from_ms,
            until_ms,
            windows: windows.collect(),
            schedules: schedules.collect(),
        }
    }

    /// Why nothing opens and nothing is due.
    fn trouble_of(&self, timezone: Option<&str>) -> Option<RefusalView> {
        let now = self.inner.engine.clock().now();
        let verdict = self.state().look_at_clock(now);
        window::trouble(timezone, verdict)
    }
}

/// Why a schedule that somebody wanted to run did not.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is none of that name.
    #[error(transparent)]
    Timetable(#[from] TimetableError),
    /// No rollout came of it.
    #[error(transparent)]
    Rollout(#[from] RolloutError),
}

/// The openings of a window that have a part in a span of time.
fn open_spans(window: &Window, from_ms: i64, until_ms: i64) -> Vec<OpenSpanView> {
    let Some(zone) = window::zone(window.timezone.as_deref()) else {
        return Vec::new();
    };
    let duration_ms = i64::try_from(window.duration.as_millis()).unwrap_or(i64::MAX);
    // One that is open at the beginning has opened less than its length before.
    let first = window.next_opening(&zone, from_ms.saturating_sub(duration_ms));
    std::iter::successors(first, |opens_ms| window.next_opening(&zone, *opens_ms))
        .take_while(|opens_ms| *opens_ms < until_ms)
        .map(|opens_ms| OpenSpanView {
            opens_ms,
            closes_ms: opens_ms.saturating_add(duration_ms),
        })
        .collect()
}

/// Who makes the rollouts of a schedule.
fn creator(name: &str) -> String {
    format!("schedule {name}")
}

/// A schedule that is known from now on, with these times. What it did counts on: a minute never comes twice.
fn known_from(turn: Option<ScheduleTurn>, times: String, now_ms: i64) -> ScheduleTurn {
    let (done, last) = turn.map(|turn| (turn.done, turn.last)).unwrap_or_default();
    ScheduleTurn {
        times,
        since_ms: now_ms,
        done,
        last,
    }
}

/// That the time of a schedule has come, or that somebody ran it.
fn came(
    schedule: &Schedule,
    policy: &Policy,
    at_ms: i64,
    due: Option<&Due>,
    by: Option<String>,
) -> ScheduleTurnView {
    let zone = window::zone(zone_name(schedule, policy).as_deref());
    ScheduleTurnView {
        at_ms,
        at_local: zone.and_then(|zone| window::local(&zone, at_ms)),
        due: due.map(|due| due.local.clone()),
        did: String::new(),
        rollout: None,
        text: String::new(),
        by,
    }
}

/// What has come of it, also in the log.
fn told(name: &str, made: &Result<RolloutView, RolloutError>, came: ScheduleTurnView) -> ScheduleTurnView {
    let (did, rollout, text) = match made {
        Ok(rollout) => {
            let id = rollout.summary.id;
            tracing::info!(schedule = name, rollout = id, "a schedule has begun");
            let n_devices = rollout.summary.n_devices;
            let devices = if n_devices == 1 { "device" } else { "devices" };
            (
                "rollout",
                Some(id),
                format!("It made rollout {id} for {n_devices} {devices}."),
            )
        }
        Err(RolloutError::Nothing { text }) => {
            tracing::info!(schedule = name, "{text}");
            ("nothing", None, text.clone())
        }
        Err(error) => {
            let error = model::chain::chain(error);
            tracing::warn!(schedule = name, error, "a schedule could not begin");
            ("failed", None, error)
        }
    };
    ScheduleTurnView {
        did: did.to_owned(),
        rollout,
        text,
        ..came
    }
}

/// The times of a schedule: with others, nothing earlier is made up for.
fn times(schedule: &Schedule, policy: &Policy) -> String {
    let zone = zone_name(schedule, policy);
    format!("{} {}", schedule.cron, zone.as_deref().unwrap_or("local"))
}

/// The name of a schedule's zone: its own, that of its window, or none for this machine's.
fn zone_name(schedule: &Schedule, policy: &Policy) -> Option<String> {
    let of_window = || policy.windows.get(schedule.window.as_ref()?)?.timezone.clone();
    schedule.timezone.clone().or_else(of_window)
}

fn clock_of(schedule: &Schedule, policy: &Policy) -> Option<(Cron, TimeZone)> {
    let zone = window::zone(zone_name(schedule, policy).as_deref())?;
    Some((Cron::parse(&schedule.cron).ok()?, zone))
}

fn next(schedule: &Schedule, policy: &Policy, after_ms: i64) -> Option<Due> {
    let (cron, zone) = clock_of(schedule, policy)?;
    cron.next(&zone, after_ms)
}

/// The last that came due after one moment and up to another: where several did, one rollout does for all.
fn last_due(schedule: &Schedule, policy: &Policy, after_ms: i64, until_ms: i64) -> Option<Due> {
    let (cron, zone) = clock_of(schedule, policy)?;
    let first = cron.next(&zone, after_ms);
    let due = std::iter::successors(first, |due| cron.next(&zone, due.at_ms));
    due.take_while(|due| due.at_ms <= until_ms).last()
}
