//! What is shown of plans, rollouts and jobs.

use std::collections::{BTreeMap, BTreeSet};

use model::fleet::{Ended, MemberState, Rollout, State};
use model::id::{DeviceId, JobId, RolloutId};
use model::job::Job;
use model::outcome::Outcome;
use model::plan::{AtOnce, MaxFailures, Member, Plan, Reason, Rules};
use model::time::Now;
use serde_json::{Value, json};
use store::{JobFilter, JobRow};

use super::held::{held, opens_ms, window_view};
use super::restore::restored;
use super::{About, RolloutError, Rollouts};
use crate::views::{
    JobDetailView, JobEventView, JobView, LeftOutView, MemberView, NoteView, PlanView, PlannedView,
    RefusalView, RolloutKind, RolloutSummaryView, RolloutView, RulesView, StatsView,
};

/// Rollouts and jobs of one answer at most.
const N_PAGE_MAX: u32 = 200;

/// How a member ended, in words.
pub(super) fn words(ended: &Ended) -> (Option<String>, Option<String>) {
    match ended {
        Ended::Outcome(outcome) => (outcome.reason.clone(), Some(outcome.text.clone())),
        Ended::Skipped(reason) | Ended::MissedWindow(reason) => {
            (Some(reason.rule.clone()), Some(reason.text.clone()))
        }
        Ended::Cancelled => (None, Some("Cancelled before anything was sent.".to_owned())),
    }
}

/// What to do about a member that ended so.
pub(super) fn next_step(ended: &Ended) -> Option<String> {
    match ended {
        Ended::Outcome(outcome) => outcome.next_step.clone(),
        Ended::Skipped(reason) | Ended::MissedWindow(reason) => Some(reason.next_step.clone()),
        Ended::Cancelled => Some("Update it again when you like.".to_owned()),
    }
}

/// What is told of a member while it is put back.
pub(super) fn putting_back(member: &Member, failed: &Outcome) -> String {
    format!("{} It is being put back to {}.", failed.text, member.runs)
}

/// The event that tells of a new state.
pub(super) fn event(was: Option<State>, is: State) -> &'static str {
    match (was, is) {
        (None, State::Scheduled | State::Running) => "rollout.created",
        (Some(State::Scheduled), State::Running) => "rollout.opened",
        (Some(_), State::Running) => "rollout.resumed",
        (Some(_), State::Scheduled) => "rollout.scheduled",
        (_, State::Paused) => "rollout.paused",
        (_, State::Halted) => "rollout.halted",
        (_, State::Finished) => "rollout.finished",
        (_, State::Aborted) => "rollout.aborted",
    }
}

/// Why a member waits for the window.
fn waiting(rollout: &Rollout, now: Now) -> String {
    let Some(window) = &rollout.plan().rules.window else {
        return String::new();
    };
    if rollout.is_open(now) {
        return format!(
            "Its update would not have ended when the window {} closes; it waits for the next.",
            window.name
        );
    }
    format!(
        "It waits for the window {}, which opens at {}.",
        window.name,
        window.words()
    )
}

fn reason_view(reason: &Reason) -> RefusalView {
    RefusalView {
        rule: reason.rule.clone(),
        text: reason.text.clone(),
        next_step: reason.next_step.clone(),
    }
}

fn rules_view(rules: &Rules) -> RulesView {
    RulesView {
        canary: rules.canary,
        canary_soak_s: rules.canary_soak.as_secs(),
        soak_s: rules.soak.as_secs(),
        at_once: match rules.at_once {
            AtOnce::Auto => "auto".to_owned(),
            AtOnce::AtMost(n_devices) => n_devices.to_string(),
        },
        max_failures: match rules.max_failures {
            MaxFailures::Count(n_failures) => n_failures.to_string(),
            MaxFailures::Percent(percent) => format!("{percent}%"),
        },
        when_back_until_ms: rules.when_back_until_ms,
        window: rules.window.as_ref().map(|window| window.name.clone()),
        puts_back: rules.put_back,
    }
}

fn left_out_views(plan: &Plan) -> Vec<LeftOutView> {
    let left_out = plan.left_out.iter();
    left_out
        .map(|left_out| LeftOutView {
            device: left_out.device.key(),
            name: left_out.name.clone(),
            reason: reason_view(&left_out.reason),
        })
        .collect()
}

/// A plan as it is shown.
pub(super) fn plan_view(kind: RolloutKind, plan: &Plan) -> PlanView {
    let members = plan.members.iter().map(|member| PlannedView {
        device: member.device.key(),
        name: member.name.clone(),
        runs: member.runs.clone(),
        sha256: member.image.to_string(),
        firmware: member.image_name.clone(),
        wave: member.wave,
        methods: member
            .methods
            .iter()
            .map(|method| method.as_str().to_owned())
            .collect(),
        estimate_s: member.estimate.as_secs(),
        waits_until_back: member.was_offline,
        way_back: member.way_back.map(|digest| digest.to_string()),
        interrupts: member.interrupts.clone(),
        notes: member
            .notes
            .iter()
            .map(|note| NoteView {
                rule: note.rule.clone(),
                text: note.text.clone(),
            })
            .collect(),
    });
    PlanView {
        kind,
        members: members.collect(),
        left_out: left_out_views(plan),
        n_waves: plan.n_waves,
        rules: rules_view(&plan.rules),
        estimate_s: plan.estimate().as_secs(),
        sentences: plan.sentences(),
    }
}

/// Whether every device has ended as it was meant to.
pub(super) fn all_well(rollout: &Rollout) -> bool {
    let mut members = rollout.members().iter();
    members.all(|standing| matches!(&standing.state, MemberState::Ended(ended) if ended.is_success()))
}

fn kind_of(about: &About) -> RolloutKind {
    if about.kind == RolloutKind::Rollback.name() {
        RolloutKind::Rollback
    } else {
        RolloutKind::Update
    }
}

impl Rollouts {
    /// Rollouts, the newest first, those before a number.
    pub async fn list(
        &self,
        limit: u32,
        before: Option<RolloutId>,
    ) -> Result<Vec<RolloutSummaryView>, RolloutError> {
        let rows = self
            .inner
            .store
            .rollouts(limit.clamp(1, N_PAGE_MAX), before)
            .await;
        let mut views = Vec::new();
        for row in rows.map_err(|error| RolloutError::store(&error))? {
            match self.show(row.id).await {
                Ok(view) => views.push(view.summary),
                // Removed for its age in between, or not readable by this program.
                Err(RolloutError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(views)
    }

    /// One rollout.
    pub async fn show(&self, id: RolloutId) -> Result<RolloutView, RolloutError> {
        let tries = self.jobs_of_rollout(id).await?;
        if let Some(view) = self.show_open(id, &tries) {
            return Ok(view);
        }
        let whole = self.inner.store.rollout(id).await;
        let whole = whole
            .map_err(|error| RolloutError::store(&error))?
            .ok_or_else(|| not_found(id))?;
        let about = About::of(&whole);
        let rollout = restored(whole).map_err(|error| {
            tracing::error!(rollout = %id, error = model::chain::chain(&*error), "a rollout cannot be read");
            not_found(id)
        })?;
        Ok(self.view(id, &about, &rollout, &tries))
    }

    /// The last job of each device of a rollout.
    async fn jobs_of_rollout(&self, id: RolloutId) -> Result<BTreeMap<DeviceId, JobId>, RolloutError> {
        let filter = JobFilter {
            rollout: Some(id),
            ..JobFilter::latest(10_000)
        };
        let jobs = self.inner.store.jobs(&filter).await;
        let jobs = jobs.map_err(|error| RolloutError::store(&error))?;
        // The newest comes first, and stays.
        let mut last = BTreeMap::new();
        for job in jobs {
            last.entry(job.device).or_insert(job.job);
        }
        Ok(last)
    }

    pub(super) fn show_open(&self, id: RolloutId, jobs: &BTreeMap<DeviceId, JobId>) -> Option<RolloutView> {
        let (about, rollout) = {
            let state = self.state();
            (state.about.get(&id)?.clone(), state.model.rollout(id)?.clone())
        };
        Some(self.view(id, &about, &rollout, jobs))
    }

    pub(super) fn view(
        &self,
        id: RolloutId,
        about: &About,
        rollout: &Rollout,
        jobs: &BTreeMap<DeviceId, JobId>,
    ) -> RolloutView {
        let plan = rollout.plan();
        let mut counts = BTreeMap::new();
        let mut firmware = BTreeSet::new();
        let mut members = Vec::with_capacity(plan.members.len());
        let now = self.inner.engine.clock().now();
        for (place, (member, standing)) in plan.members.iter().zip(rollout.members()).enumerate() {
            let waits_for_window = rollout.waits_for_window(place, now);
            let live = {
                let state = self.state();
                let running = state.running.get(&(id, member.device.clone()));
                running.map(|running| running.live.clone())
            };
            let (reason, text, next_step) = match &standing.state {
                MemberState::Ended(ended) => {
                    let (reason, text) = words(ended);
                    (reason, text, next_step(ended))
                }
                MemberState::Queued if !standing.online => (
                    Some("offline".to_owned()),
                    Some("It does not answer; it is updated when it is back.".to_owned()),
                    None,
                ),
                MemberState::Queued if waits_for_window => {
                    (Some("window".to_owned()), Some(waiting(rollout, now)), None)
                }
                MemberState::PuttingBack { failed, .. } => {
                    (failed.reason.clone(), Some(putting_back(member, failed)), None)
                }
                MemberState::Waiting { .. } => (
                    Some("retry".to_owned()),
                    Some("A try has failed; the next one comes soon.".to_owned()),
                    None,
                ),
                _ => (None, None, None),
            };
            let word = match (&standing.state, &live) {
                (MemberState::Running { .. }, Some(live)) => live.state,
                (MemberState::Running { .. }, None) => "looking",
                (MemberState::Queued, _) if !standing.online || waits_for_window => "waiting",
                (state, _) => state.name(),
            };
            *counts.entry(word.to_owned()).or_insert(0) += 1;
            firmware.insert(member.image_name.clone());
            let job = live.as_ref().and_then(|live| live.job);
            members.push(MemberView {
                device: member.device.key(),
                name: member.name.clone(),
                wave: standing.wave,
                runs: member.runs.clone(),
                sha256: member.image.to_string(),
                firmware: member.image_name.clone(),
                state: word.to_owned(),
                percent: live.as_ref().and_then(super::job::Live::percent),
                reason,
                text,
                next_step,
                job: job.or_else(|| jobs.get(&member.device).copied()).map(|job| job.0),
                n_tries: standing.n_tries,
                n_pushes: standing.n_pushes,
            });
        }
        members.sort_by_key(|member| member.wave);
        let course = rollout.course();
        let is_over = rollout.is_over();
        RolloutView {
            summary: RolloutSummaryView {
                id: id.0,
                name: about.name.clone(),
                kind: kind_of(about),
                state: course.state.name().to_owned(),
                cause: course.cause.as_ref().map(reason_view),
                firmware: firmware.into_iter().collect(),
                created_ms: about.created_ms,
                created_by: about.created_by.clone(),
                predecessor: about.predecessor.map(|old| old.0),
                ended_ms: about.ended_ms,
                opens_ms: opens_ms(rollout, now),
                wave: course.wave,
                n_waves: plan.n_waves,
                counts,
                n_devices: u32::try_from(members.len()).unwrap_or(u32::MAX),
                ok: is_over.then(|| all_well(rollout)),
            },
            rules: rules_view(&plan.rules),
            window: window_view(rollout, now),
            held: held(rollout, now, self.state().look_at_clock(now)),
            n_at_once: course.n_at_once,
            members,
            left_out: left_out_views(plan),
        }
    }

    /// Updates of devices, the newest first.
    pub async fn history(
        &self,
        device: Option<&str>,
        limit: u32,
        before: Option<JobId>,
    ) -> Result<Vec<JobView>, RolloutError> {
        let device = match device {
            Some(named) => Some(self.inner.fleet.known(named)?.id),
            None => None,
        };
        let filter = JobFilter {
            device,
            before,
            ..JobFilter::latest(limit.clamp(1, N_PAGE_MAX))
        };
        let jobs = self.inner.store.jobs(&filter).await;
        let jobs = jobs.map_err(|error| RolloutError::store(&error))?;
        Ok(jobs.iter().map(|job| self.job_view(job)).collect())
    }

    pub(super) fn job_view(&self, row: &JobRow) -> JobView {
        let live = {
            let state = self.state();
            let mut running = state.running.values();
            running
                .find(|running| running.live.job == Some(row.job))
                .map(|running| running.live.state)
        };
        let outcome = row.outcome.as_ref();
        JobView {
            id: row.job.0,
            device: row.device.key(),
            name: self
                .inner
                .fleet
                .known(&row.device.key())
                .ok()
                .map(|known| known.name),
            rollout: row.rollout.map(|rollout| rollout.0),
            sha256: row.image.to_string(),
            firmware: self.inner.repository.name_of(row.image),
            state: match outcome {
                Some(outcome) => outcome.ending.name(),
                None => live.unwrap_or(if row.finished { "unknown" } else { "interrupted" }),
            }
            .to_owned(),
            reason: outcome.and_then(|outcome| outcome.reason.clone()),
            text: outcome.map(|outcome| outcome.text.clone()),
            next_step: outcome.and_then(|outcome| outcome.next_step.clone()),
            started_ms: row.started_ms,
            ended_ms: row.ended_ms,
        }
    }

    /// One update with what proves it.
    pub async fn job(&self, id: JobId) -> Result<JobDetailView, RolloutError> {
        let row = self.inner.store.job_row(id).await;
        let (row, state) =
            row.map_err(|error| RolloutError::store(&error))?
                .ok_or_else(|| RolloutError::NotFound {
                    text: format!("There is no job {id}."),
                })?;
        let events = self.inner.store.events(id).await;
        let events = events.map_err(|error| RolloutError::store(&error))?;
        let job = serde_json::from_value::<Job>(state).ok();
        Ok(JobDetailView {
            job: self.job_view(&row),
            method: job.as_ref().map(|job| job.order.method.as_str().to_owned()),
            n_pushes: row.n_pushes,
            evidence: job.as_ref().map_or(Value::Null, evidence),
            events: events
                .into_iter()
                .map(|event| JobEventView {
                    seq: event.seq,
                    at_ms: event.now.wall_ms,
                    step: event.step,
                    attempt: event.attempt,
                })
                .collect(),
        })
    }

    /// How updates went since a moment; in steps of so many milliseconds too, where these are given.
    pub async fn stats(&self, since_ms: i64, step_ms: Option<i64>) -> Result<StatsView, RolloutError> {
        let filter = JobFilter {
            since_ms: Some(since_ms),
            ..JobFilter::latest(100_000)
        };
        let jobs = self.inner.store.jobs(&filter).await;
        let jobs = jobs.map_err(|error| RolloutError::store(&error))?;
        let mut stats = StatsView {
            since_ms,
            ..StatsView::default()
        };
        if let Some(step_ms) = step_ms {
            stats.course = self.course(&jobs, since_ms, step_ms).await?;
        }
        let (mut n_good, mut n_meant) = (0_u32, 0_u32);
        for job in jobs {
            let Some(outcome) = job.outcome else { continue };
            *stats
                .outcomes
                .entry(outcome.ending.name().to_owned())
                .or_default() += 1;
            if outcome.ending.is_success() {
                n_good += 1;
                n_meant += 1;
            } else if model::fleet::is_failure(outcome.ending) {
                n_meant += 1;
                let reason = outcome.reason.unwrap_or_else(|| outcome.ending.name().to_owned());
                *stats.reasons.entry(reason).or_default() += 1;
            }
        }
        stats.success_percent = (n_meant > 0).then(|| f64::from(n_good) * 100.0 / f64::from(n_meant));
        for known in self.inner.fleet.all_known() {
            if !known.enrolled {
                continue;
            }
            stats.n_enrolled += 1;
            *stats.running.entry(known.runs.name).or_default() += 1;
            if known.offer.is_none_or(|offer| offer.why_not.is_some()) {
                stats.n_current += 1;
            }
        }
        Ok(stats)
    }
}

/// The evidence as `push --json` tells it.
fn evidence(job: &Job) -> Value {
    let evidence = &job.evidence;
    let look = |look: Option<&model::job::Look>| {
        look.map_or((None, None, None), |look| {
            (
                look.snapshot.uptime.map(|uptime| uptime.as_secs_f64()),
                Some(look.snapshot.versions.to_string()),
                Some(look.snapshot.id.to_string()),
            )
        })
    };
    let before = look(evidence.before.as_ref());
    let after = look(evidence.after.as_ref());
    json!({
        "sha256": job.order.image.sha256.to_string(), "len_bytes": job.order.image.len_bytes,
        "verdict": evidence.verdict,
        "away_s": evidence.away.map(|away| away.as_secs_f64()),
        "uptime_before_s": before.0, "uptime_after_s": after.0,
        "version_before": before.1, "version_after": after.1,
        "identity_before": before.2, "identity_after": after.2,
        "push_s": evidence.push.map(|push| push.as_secs_f64()),
        "watched_s": evidence.watched.map(|watched| watched.as_secs_f64()),
    })
}

pub(super) fn not_found(id: RolloutId) -> RolloutError {
    RolloutError::NotFound {
        text: format!("There is no rollout {id}."),
    }
}
