//! A job that was not proven is looked at once more, when its device is seen again.

use model::family::Undo;
use model::id::{JobId, RolloutId, Sha256};
use model::job::{Correction, Job, Record, end_in, reconsider};
use model::outcome::Outcome;
use serde_json::json;
use store::{Change, Event, JournalError, StoreError};

use crate::Engine;
use crate::lease::Lease;
use crate::way::Way;

/// What has become known of a job that had ended as `unverified`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrected {
    /// The job.
    pub job: JobId,
    /// The rollout that it belongs to.
    pub rollout: Option<RolloutId>,
    /// The image that it brought.
    pub image: Sha256,
    /// How it was said to have ended.
    pub was: Outcome,
    /// How it has ended.
    pub outcome: Outcome,
}

/// Why a job was not looked at once more.
#[derive(Debug, thiserror::Error)]
pub enum CorrectError {
    /// What is stored of it cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal did not take the correction.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It was written by another version.
    #[error("reading what is stored of job {0}")]
    Unreadable(JobId, #[source] serde_json::Error),
}

impl Engine {
    /// Looks at the device of a job that has ended as `unverified`, and if that proves how it has ended, adds it to the journal.
    ///
    /// None where the device does not answer, where what it shows proves nothing, and where its owner has said since what it
    /// runs. Nothing is sent to the device but the questions of a look.
    pub async fn correct(
        &self,
        lease: &Lease,
        way: &Way,
        job: JobId,
    ) -> Result<Option<Corrected>, CorrectError> {
        let Some((row, state)) = self.store.job_row(job).await? else {
            return Ok(None);
        };
        let unreadable = |source| CorrectError::Unreadable(job, source);
        let stored: Job = serde_json::from_value(state).map_err(unreadable)?;
        let left = stored.record_after();
        let installed = self.store.installed(&way.device.id).await?;
        if left.is_some() && installed != left {
            return Ok(None);
        }
        let events = self.store.events(job).await?;
        let Some(last) = events.last() else {
            return Ok(None);
        };
        let (ended, same_boot) = (last.now, last.boot_id == self.holder.boot_id);
        let mut states = Vec::with_capacity(events.len());
        for event in &events {
            states.push(serde_json::from_value::<Job>(event.state.clone()).map_err(unreadable)?);
        }
        let (Some(end), Some(before), Some(was)) = (
            end_in(states.iter()),
            stored.evidence.before.as_ref(),
            row.outcome.clone(),
        ) else {
            return Ok(None);
        };
        let mut driver = self.driver(way).await?;
        let snapshot = match driver.probe().await {
            Ok(snapshot) => snapshot,
            Err(fault) => {
                tracing::debug!(%job, text = fault.text, "the device of an unproven job did not answer");
                return Ok(None);
            }
        };
        let order = &stored.order;
        let label = way
            .family
            .label(&before.snapshot, &order.image, order.record.as_ref(), &snapshot);
        let now = self.clock.now();
        let seen = (snapshot, &label);
        let Some(Correction {
            job: corrected,
            record,
        }) = reconsider(&stored, &end, seen, (ended, now), same_boot)
        else {
            tracing::debug!(%job, ?label, "what the device shows proves nothing of its job");
            return Ok(None);
        };
        let Some(outcome) = corrected.outcome().cloned() else {
            return Ok(None);
        };
        let (state, detail) = (json!(corrected), json!(outcome));
        let event = Event {
            attempt: corrected.n_pushes,
            detail: &detail,
            finished: true,
            outcome: Some(&outcome),
            installed: match &record {
                Record::Keep => Change::Keep,
                Record::Set(installed) => Change::Set(installed),
                Record::Clear => Change::Clear,
            },
            undo: Change::<Undo>::Keep,
            ..Event::new("corrected", &state, &self.holder.boot_id, now)
        };
        self.store.correct(job, lease.epoch(), &event).await?;
        Ok(Some(Corrected {
            job,
            rollout: row.rollout,
            image: row.image,
            was,
            outcome,
        }))
    }
}
