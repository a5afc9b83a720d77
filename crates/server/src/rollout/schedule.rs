//! Rollouts that begin by themselves, at set times.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::clock::Verdict;
use super::{Policy, RolloutError, Rollouts, window};
use crate::config::{Cron, Due, Schedule};
use crate::views::{ScheduleView, WantedRollout, WindowView};

/// How often the clock is looked at: whoever sets it wakes nobody.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// What was due longer ago is not made up for. Guess: longer than a restart of the server, shorter than any window.
const LOOK_BACK_MS: i64 = 10 * 60_000;
/// Minutes that are remembered of each schedule, so that none comes twice.
const N_REMEMBERED: usize = 32;

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
    /// once, whatever the clocks do and however often the server begins anew. Without a last look, those that have run before
    /// are looked at for the last ten minutes.
    ///
    /// False where that could not be stored, so that nothing was begun and it is to be tried again.
    pub async fn begin_due(&self, looked_ms: Option<i64>, now_ms: i64) -> bool {
        let policy = self.policy();
        let mut all_kept = true;
        for (name, schedule) in &policy.schedules {
            let setting = format!("schedule.{name}");
            let done = match self.inner.store.setting(&setting).await {
                Ok(done) => done.and_then(|done| serde_json::from_value::<Vec<String>>(done).ok()),
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
            let from_ms = match (looked_ms, &done) {
                (Some(looked_ms), _) => looked_ms.max(now_ms.saturating_sub(LOOK_BACK_MS)),
                (None, Some(_)) => now_ms.saturating_sub(LOOK_BACK_MS),
                (None, None) => now_ms,
            };
            let Some(due) = last_due(schedule, &policy, from_ms, now_ms) else {
                if done.is_none() {
                    all_kept &= self.remember(&setting, &[]).await;
                }
                continue;
            };
            let mut done = done.unwrap_or_default();
            if done.contains(&due.local) {
                continue;
            }
            done.push(due.local.clone());
            let n_forgotten = done.len().saturating_sub(N_REMEMBERED);
            // Before the rollout is made: one too few is made up for the next time, one too many is not.
            if !self.remember(&setting, &done[n_forgotten..]).await {
                all_kept = false;
                continue;
            }
            self.begin_scheduled(name, schedule, &policy, now_ms).await;
        }
        all_kept
    }

    async fn remember(&self, setting: &str, done: &[String]) -> bool {
        let stored = self.inner.store.set_setting(setting, Some(&json!(done))).await;
        if let Err(error) = &stored {
            tracing::warn!(
                setting,
                error = model::chain::chain(error),
                "a schedule cannot be kept, so it does not begin"
            );
        }
        stored.is_ok()
    }

    async fn begin_scheduled(&self, name: &str, schedule: &Schedule, policy: &Policy, now_ms: i64) {
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
        match self.create(&wanted, &format!("schedule {name}")).await {
            Ok(rollout) => tracing::info!(
                schedule = name,
                rollout = rollout.summary.id,
                "a schedule has begun"
            ),
            Err(RolloutError::Nothing { text }) => tracing::info!(schedule = name, "{text}"),
            Err(error) => tracing::warn!(
                schedule = name,
                error = model::chain::chain(&error),
                "a schedule could not begin"
            ),
        }
    }

    /// The windows of the configuration, and when they open.
    pub fn windows(&self) -> Vec<WindowView> {
        let now_ms = self.inner.engine.clock().now().wall_ms;
        let policy = self.policy();
        let views = policy.windows.values().map(|window| {
            let zone = window::zone(window.timezone.as_deref());
            let zone = zone.as_ref();
            WindowView {
                name: window.name.clone(),
                opens: window.words(),
                timezone: window.timezone.clone(),
                duration_s: window.duration.as_secs(),
                open_until_ms: zone.and_then(|zone| window.open_at(zone, now_ms)),
                next_ms: zone.and_then(|zone| window.next_opening(zone, now_ms)),
            }
        });
        views.collect()
    }

    /// The schedules of the configuration, and when they are due.
    pub fn schedules(&self) -> Vec<ScheduleView> {
        let now_ms = self.inner.engine.clock().now().wall_ms;
        let policy = self.policy();
        let views = policy.schedules.iter().map(|(name, schedule)| ScheduleView {
            name: name.clone(),
            cron: schedule.cron.clone(),
            timezone: zone_name(schedule, &policy),
            window: schedule.window.clone(),
            what: schedule.what.name().to_owned(),
            tags: schedule.tags.iter().cloned().collect(),
            next_ms: next(schedule, &policy, now_ms).map(|due| due.at_ms),
        });
        views.collect()
    }
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
