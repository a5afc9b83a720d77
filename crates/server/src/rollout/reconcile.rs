//! Jobs that ended as `unverified` are settled as soon as their device is seen again (RELIABILITY.md F51, G11).
//!
//! Each answer of such a device leads to one more look of our own, under its lease; what that proves is added to the journal,
//! and only then told to the rollout that the job belongs to.

use std::collections::HashMap;
use std::time::Duration;

use engine::Corrected;
use model::chain::chain;
use model::fleet::{Ended, Event, MemberState, Standing};
use model::id::{DeviceId, JobId, RolloutId};
use model::inventory::State as Presence;
use model::outcome::{Ending, Outcome};
use serde_json::json;
use store::{JobRow, Unproven};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Rollouts;

/// How long a device is watched for after a job that was not proven (RELIABILITY.md F50).
const WATCHED_FOR_MS: i64 = 24 * 3_600 * 1_000;
/// How often it is asked who has answered since: far more often than any device is looked at.
const ASK_EVERY: Duration = Duration::from_secs(2);

impl Rollouts {
    /// Settles what was not proven, until it is cancelled.
    pub async fn reconcile(&self, cancel: CancellationToken) {
        let mut turn = tokio::time::interval(ASK_EVERY);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.tell_what_was_corrected().await;
        self.tell_events(self.quarantine_what_is_due().await).await;
        // When each device had answered last when its job was looked at last, milliseconds since 1970.
        let mut looked = HashMap::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = turn.tick() => {}
            }
            // A look is short, and is not cut off: its lease would stay.
            self.reconcile_once(&mut looked, &cancel).await;
        }
    }

    async fn reconcile_once(&self, looked: &mut HashMap<JobId, i64>, cancel: &CancellationToken) {
        let since_ms = self.inner.engine.clock().now().wall_ms - WATCHED_FOR_MS;
        let unproven = match self.inner.store.unproven_jobs(since_ms).await {
            Ok(unproven) => unproven,
            Err(error) => {
                tracing::warn!(error = chain(&error), "which jobs were not proven cannot be read");
                return;
            }
        };
        looked.retain(|job, _| unproven.iter().any(|unproven| unproven.job == *job));
        for unproven in unproven {
            if cancel.is_cancelled() {
                return;
            }
            let Some(seen_ms) = self.seen_since(&unproven, looked.get(&unproven.job).copied()) else {
                continue;
            };
            if self.look_again(&unproven).await {
                looked.insert(unproven.job, seen_ms);
            }
        }
    }

    /// When a device answered last, if that was after its job and after it was looked at because of it.
    fn seen_since(&self, unproven: &Unproven, looked_ms: Option<i64>) -> Option<i64> {
        let known = self.inner.fleet.known(&unproven.device.key()).ok()?;
        let seen_ms = known.seen_ms?;
        let is_new = seen_ms > unproven.ended_ms && looked_ms.is_none_or(|looked_ms| seen_ms > looked_ms);
        let is_there = known.standing == Presence::Online && known.conflict.is_none();
        (is_new && is_there && !self.works_on(&unproven.device)).then_some(seen_ms)
    }

    /// Looks at the device of a job. Says whether it was looked at.
    async fn look_again(&self, unproven: &Unproven) -> bool {
        let (device, job) = (&unproven.device, unproven.job);
        let Some(way) = self.inner.fleet.way_to(device) else {
            return false;
        };
        // Whoever works on it settles it, or tells more.
        let Ok(lease) = self.inner.engine.lease(device).await else {
            return false;
        };
        let corrected = self.inner.engine.correct(&lease, &way, job).await;
        self.inner.engine.release(lease).await;
        match corrected {
            Ok(Some(corrected)) => {
                // What it runs is recorded otherwise now.
                self.inner.fleet.let_go(device).await;
                self.take_corrected(device, &corrected).await;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%device, %job, error = chain(&error), "an unproven job cannot be settled");
            }
        }
        true
    }

    async fn take_corrected(&self, device: &DeviceId, corrected: &Corrected) {
        let Corrected {
            job,
            rollout,
            image,
            was,
            outcome,
        } = corrected;
        tracing::info!(%device, %job, outcome = outcome.ending.name(), "an unproven job is settled");
        let known = self.inner.fleet.known(&device.key());
        let detail = json!({
            "rollout": rollout.map(|rollout| rollout.0), "job": job.0, "device": device.key(),
            "name": known.ok().map(|known| known.name), "was": was.ending.name(), "was_reason": was.reason,
            "state": outcome.ending.name(), "ok": outcome.ending.is_success(), "reason": outcome.reason,
            "text": outcome.text, "next_step": outcome.next_step,
        });
        self.inner.fleet.note("job.corrected", Some(device), detail);
        let mut events = Vec::new();
        if outcome.is_against_image() {
            events.extend(self.quarantine_if_due(*image).await);
        }
        if let Some(rollout) = *rollout {
            events.push(Event::Corrected {
                id: rollout,
                device: device.clone(),
                outcome: outcome.clone(),
            });
        }
        self.tell_events(events).await;
        if let Some(rollout) = *rollout {
            self.correct_ended(rollout, device, outcome).await;
        }
    }

    async fn tell_events(&self, events: Vec<Event>) {
        if !events.is_empty() && self.take(events.clone()).await.is_err() {
            self.later(events);
        }
    }

    /// Corrects the member of a rollout that is over.
    async fn correct_ended(&self, rollout: RolloutId, device: &DeviceId, outcome: &Outcome) {
        if self.state().model.rollout(rollout).is_some() {
            return;
        }
        if let Err(error) = self.try_correct_ended(rollout, device, outcome).await {
            // The next start does it.
            tracing::warn!(%rollout, %device, error = chain(&*error), "a member's end could not be corrected");
        }
    }

    async fn try_correct_ended(
        &self,
        rollout: RolloutId,
        device: &DeviceId,
        outcome: &Outcome,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let store = &self.inner.store;
        // Removed for its age, there is nothing to correct.
        let Some(whole) = store.rollout(rollout).await? else {
            return Ok(());
        };
        let member = whole.members.into_iter().find(|member| member.device == *device);
        let Some(member) = member.filter(|_| whole.row.ended_ms.is_some()) else {
            return Ok(());
        };
        let mut standing: Standing = serde_json::from_value(member.state)?;
        let is_unproven = matches!(
            &standing.state,
            MemberState::Ended(Ended::Outcome(outcome)) if outcome.ending == Ending::Unverified
        );
        if is_unproven {
            standing.state = MemberState::Ended(Ended::Outcome(outcome.clone()));
            store.correct_member(rollout, device, &json!(standing)).await?;
        }
        Ok(())
    }

    /// Tells rollouts of corrections that are in the journal, and that an earlier process may not have told them any more.
    async fn tell_what_was_corrected(&self) {
        let since_ms = self.inner.engine.clock().now().wall_ms - 2 * WATCHED_FOR_MS;
        let corrected = match self.inner.store.corrected_jobs(since_ms).await {
            Ok(corrected) => corrected,
            Err(error) => {
                tracing::warn!(error = chain(&error), "what was corrected cannot be read");
                return;
            }
        };
        for JobRow {
            device,
            rollout,
            outcome,
            ..
        } in corrected
        {
            let (Some(id), Some(outcome)) = (rollout, outcome) else {
                continue;
            };
            let event = Event::Corrected {
                id,
                device: device.clone(),
                outcome: outcome.clone(),
            };
            self.tell_events(vec![event]).await;
            self.correct_ended(id, &device, &outcome).await;
        }
    }
}
