//! What is said of a device that the fleet does not know: its update, its last one, its way back, how long the next takes.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use model::id::{DeviceId, JobId, RolloutId, Sha256};
use store::{JobFilter, JobRow};

use super::wanted::len_bytes_f64;
use super::{RolloutError, Rollouts};
use crate::fleet::Known;
use crate::views::{DeviceJobView, DeviceView, LastUpdateView, MemberView};

/// Jobs of one device that are looked through for one that has ended. Guess: there is one open job, and hardly ever two.
const N_JOBS_BACK: u32 = 5;

/// What follows from a device's history. It is read again once that has gone on.
#[derive(Clone, Default)]
pub(super) struct Past {
    last_job: Option<(JobId, bool)>,
    installed: Option<Sha256>,
    before: Vec<Sha256>,
    bytes_per_s: Option<f64>,
}

impl Rollouts {
    /// Completes what is shown of devices.
    pub async fn complete(&self, devices: &mut [DeviceView]) -> Result<(), RolloutError> {
        let known: HashMap<String, Known> = match &*devices {
            [one] => self
                .inner
                .fleet
                .known(&one.id)
                .ok()
                .into_iter()
                .collect::<Vec<_>>(),
            _ => self.inner.fleet.all_known(),
        }
        .into_iter()
        .map(|known| (known.id.key(), known))
        .collect();
        let last = match (devices.len(), known.values().next()) {
            (1, Some(known)) => self.jobs_of_device(&known.id, 1).await?,
            (1, None) => Vec::new(),
            _ => {
                let jobs = self.inner.store.last_jobs().await;
                jobs.map_err(|error| RolloutError::store(&error))?
            }
        };
        let last: HashMap<String, JobRow> = last.into_iter().map(|job| (job.device.key(), job)).collect();
        let members = self.open_members();
        for view in devices {
            let Some(known) = known.get(&view.id) else {
                continue;
            };
            let last = last.get(&view.id);
            self.complete_one(view, known, last, members.get(&view.id))
                .await?;
        }
        Ok(())
    }

    async fn complete_one(
        &self,
        view: &mut DeviceView,
        known: &Known,
        last: Option<&JobRow>,
        member: Option<&(i64, MemberView)>,
    ) -> Result<(), RolloutError> {
        view.job = match (member, last) {
            // It has ended there, and something else came since.
            (Some((_, member)), Some(job)) if member.job.is_some_and(|own| own < job.job.0) => {
                Some(self.of_job(job))
            }
            // A member that was left out before it began has no job, and is shown as long as its rollout goes on.
            (Some((rollout, member)), last) => {
                let mut job = of_member(*rollout, member);
                // After a restart only the store knows which job it was.
                let own = last.filter(|last| last.rollout.is_some_and(|of| of.0 == *rollout));
                job.id = job.id.or(own.map(|last| last.job.0));
                Some(job)
            }
            (None, Some(job)) => Some(self.of_job(job)),
            (None, None) => None,
        };
        view.last_update = match last {
            Some(job) if job.finished => Some(self.ended(job)),
            Some(_) => {
                let jobs = self.jobs_of_device(&known.id, N_JOBS_BACK).await?;
                jobs.iter().find(|job| job.finished).map(|job| self.ended(job))
            }
            None => None,
        };
        let past = self.past_of(known, last).await?;
        let repository = &self.inner.repository;
        view.way_back = past
            .before
            .iter()
            .filter_map(|digest| repository.name_of(*digest))
            .collect();
        view.estimate_s = known
            .offer
            .as_ref()
            .and_then(|offer| repository.inspected(&offer.sha256.parse().ok()?))
            .map(|(info, _, _)| {
                let len_bytes = info.len_bytes;
                let push = match past.bytes_per_s {
                    Some(bytes_per_s) => Duration::from_secs_f64(len_bytes_f64(len_bytes) / bytes_per_s),
                    None => known.family.timing(&known.device, len_bytes).push,
                };
                (push + known.family.restarts_within()).as_secs()
            });
        Ok(())
    }

    async fn jobs_of_device(&self, id: &DeviceId, limit: u32) -> Result<Vec<JobRow>, RolloutError> {
        let filter = JobFilter {
            device: Some(id.clone()),
            ..JobFilter::latest(limit)
        };
        let jobs = self.inner.store.jobs(&filter).await;
        jobs.map_err(|error| RolloutError::store(&error))
    }

    /// The members of all open rollouts, by their device's key.
    fn open_members(&self) -> HashMap<String, (i64, MemberView)> {
        let open: Vec<RolloutId> = self.state().model.rollouts().map(|(id, _)| id).collect();
        let mut members: HashMap<String, (i64, MemberView)> = HashMap::new();
        for id in open {
            let last_jobs = {
                let state = self.state();
                let own = state.last_jobs.iter().filter(|((of, _), _)| *of == id);
                own.map(|((_, device), job)| (device.clone(), *job)).collect()
            };
            for member in self
                .show_open(id, &last_jobs)
                .into_iter()
                .flat_map(|view| view.members)
            {
                // A device is in one rollout that is open to it; what has ended in an older one is history.
                members.insert(member.device.clone(), (id.0, member));
            }
        }
        members
    }

    fn of_job(&self, row: &JobRow) -> DeviceJobView {
        let job = self.job_view(row);
        DeviceJobView {
            id: Some(job.id),
            rollout: job.rollout,
            state: job.state,
            running: false,
            percent: None,
            firmware: job.firmware,
            reason: job.reason,
            text: job.text,
            next_step: job.next_step,
        }
    }

    fn ended(&self, row: &JobRow) -> LastUpdateView {
        let job = self.job_view(row);
        let ending = row.outcome.as_ref().map(|outcome| outcome.ending);
        LastUpdateView {
            job: job.id,
            rollout: job.rollout,
            outcome: job.state,
            ok: ending.is_some_and(|ending| {
                ending.is_success() || ending == model::outcome::Ending::AlreadyCurrent
            }),
            firmware: job.firmware,
            ended_ms: job.ended_ms,
            reason: job.reason,
            text: job.text,
            next_step: job.next_step,
        }
    }

    /// What follows from the history of a device; read from the store where that has gone on since.
    async fn past_of(&self, known: &Known, last: Option<&JobRow>) -> Result<Past, RolloutError> {
        let last_job = last.map(|job| (job.job, job.finished));
        let installed = known.installed.as_ref().and_then(|installed| installed.digest);
        let remembered = {
            let past = self.inner.past.lock().unwrap_or_else(PoisonError::into_inner);
            past.get(&known.id).cloned()
        };
        if let Some(past) = remembered.filter(|past| past.last_job == last_job && past.installed == installed)
        {
            return Ok(past);
        }
        let past = Past {
            last_job,
            installed,
            before: self.images_before(known).await?,
            bytes_per_s: self.speed(&known.id).await?,
        };
        let mut remembered = self.inner.past.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.insert(known.id.clone(), past.clone());
        Ok(past)
    }
}

fn of_member(rollout: i64, member: &MemberView) -> DeviceJobView {
    let is_running = matches!(
        member.state.as_str(),
        "looking"
            | "preparing"
            | "uploading"
            | "rebooting"
            | "soaking"
            | "restoring"
            | "finished"
            | "putting-back"
    );
    DeviceJobView {
        id: member.job,
        rollout: Some(rollout),
        state: member.state.clone(),
        running: is_running,
        percent: member.percent,
        firmware: Some(member.firmware.clone()),
        reason: member.reason.clone(),
        text: member.text.clone(),
        next_step: member.next_step.clone(),
    }
}
