//! Housekeeping: what is old goes, and what is still needed stays however old it is.

use std::time::Duration;

use crate::error::StoreError;
use crate::{ANSWERS_KEPT_MS, Store, Write};

/// How many jobs go in one transaction, so that nobody waits long.
const JOBS_AT_ONCE: i64 = 100;
/// How many rollouts go in one transaction; each may have a thousand members.
const ROLLOUTS_AT_ONCE: i64 = 10;
/// How many devices' samples go in one transaction.
const DEVICES_AT_ONCE: usize = 100;
const DAY: Duration = Duration::from_hours(24);

/// How long things are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The health of devices.
    pub samples: Duration,
    /// What happened in the fleet.
    pub events: Duration,
    /// Finished jobs and ended rollouts. Of each device the jobs of its last two images stay, which are its way back, and all
    /// those of an open rollout.
    pub jobs: Duration,
    /// Counted password answers; a day of them decides whether a device is locked.
    pub answers: Duration,
}

impl Default for Retention {
    /// What is kept where nobody says otherwise.
    ///
    /// Guess: two weeks of health show a leak of memory; 1,000 devices with a sample in ten minutes are about 100 MB then.
    /// A job is a few kB and the only record of what was done to a device.
    fn default() -> Self {
        Self {
            samples: 14 * DAY,
            events: 90 * DAY,
            jobs: 730 * DAY,
            answers: 30 * DAY,
        }
    }
}

/// How much went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Housekept {
    /// Samples of health.
    pub n_samples: u64,
    /// Events of the fleet.
    pub n_events: u64,
    /// Jobs, with their events.
    pub n_jobs: u64,
    /// Rollouts, with their plans and members.
    pub n_rollouts: u64,
    /// Counted password answers.
    pub n_answers: u64,
    /// Answers to requests.
    pub n_request_answers: u64,
    /// Removed devices of which nothing else is left.
    pub n_devices: u64,
}

const DOING: &str = "removing what is old";

impl Store {
    /// Removes what is older than it is to be kept. Call it only while the clock can be believed.
    ///
    /// The audit, the firmware and the names of images are never removed here.
    pub async fn housekeep(&self, now_ms: i64, retention: &Retention) -> Result<Housekept, StoreError> {
        let before =
            |kept: Duration| now_ms.saturating_sub(i64::try_from(kept.as_millis()).unwrap_or(i64::MAX));
        let mut went = Housekept {
            n_samples: self.drop_samples(before(retention.samples)).await?,
            n_jobs: self.drop_jobs(before(retention.jobs)).await?,
            n_rollouts: self.drop_rollouts(before(retention.jobs)).await?,
            ..Housekept::default()
        };
        let mut write = self.write_soon(DOING).await?;
        // From the oldest on up to the first that is to stay: a clock that was wrong for a while makes no gap.
        went.n_events = drop_where(
            &mut write,
            "delete from fleet_event where seq < coalesce(\
             (select seq from fleet_event where at_ms >= $1 order by seq limit 1), \
             (select seq + 1 from log_head where log = 'event'))",
            before(retention.events),
        )
        .await?;
        // The latest stays: its number may be the one up to which a device was unlocked, and is not to be given again.
        // No less than two days, of which one decides about the lock.
        went.n_answers = drop_where(
            &mut write,
            "delete from answer where counted_ms < $1 and answer < (select max(answer) from answer)",
            before(retention.answers.max(2 * DAY)),
        )
        .await?;
        went.n_request_answers = drop_where(
            &mut write,
            "delete from request_answer where at_ms <= $1",
            now_ms.saturating_sub(ANSWERS_KEPT_MS),
        )
        .await?;
        went.n_devices = sqlx::query(
            "delete from device where removed \
             and not exists (select 1 from job where job.device = device.id) \
             and not exists (select 1 from lease where lease.device = device.id) \
             and not exists (select 1 from answer where answer.device = device.id) \
             and not exists (select 1 from rollout_member where rollout_member.device = device.id) \
             and not exists (select 1 from pending_undo where pending_undo.device = device.id)",
        )
        .execute(write.connection())
        .await
        .map_err(write.failed())?
        .rows_affected();
        write.commit().await?;
        Ok(went)
    }

    async fn drop_samples(&self, before_ms: i64) -> Result<u64, StoreError> {
        let devices: Vec<i64> = sqlx::query_scalar("select number from device order by number")
            .fetch_all(self.readers())
            .await
            .map_err(|source| StoreError::new(DOING, source))?;
        let mut n_samples = 0;
        for devices in devices.chunks(DEVICES_AT_ONCE) {
            let mut write = self.write_soon(DOING).await?;
            for device in devices {
                n_samples += sqlx::query("delete from sample where device = $1 and at_ms < $2")
                    .bind(device)
                    .bind(before_ms)
                    .execute(write.connection())
                    .await
                    .map_err(write.failed())?
                    .rows_affected();
            }
            write.commit().await?;
        }
        Ok(n_samples)
    }

    async fn drop_jobs(&self, before_ms: i64) -> Result<u64, StoreError> {
        let mut n_jobs = 0;
        loop {
            let mut write = self.write_soon(DOING).await?;
            // The latest stays too, so that its number is never given again.
            let jobs: Vec<i64> = sqlx::query_scalar(
                "select job from job where finished and started_ms < $1 \
                 and job < (select max(job) from job) \
                 and not exists (select 1 from pending_undo where pending_undo.job = job.job) \
                 and not exists (select 1 from rollout where rollout.rollout = job.rollout \
                 and rollout.ended_ms is null) \
                 and job not in (select last_job from (select max(job.job) as last_job, row_number() over \
                 (partition by job.device order by max(job.job) desc) as nth \
                 from job join device on device.id = job.device and not device.removed \
                 where finished group by job.device, job.image) as recent where nth <= 2) \
                 order by job limit $2",
            )
            .bind(before_ms)
            .bind(JOBS_AT_ONCE)
            .fetch_all(write.connection())
            .await
            .map_err(write.failed())?;
            if jobs.is_empty() {
                return Ok(n_jobs);
            }
            let mut n_gone = 0;
            for job in jobs {
                drop_where(&mut write, "delete from job_event where job = $1", job).await?;
                n_gone += drop_where(&mut write, "delete from job where job = $1", job).await?;
            }
            write.commit().await?;
            n_jobs += some(n_gone)?;
        }
    }

    async fn drop_rollouts(&self, before_ms: i64) -> Result<u64, StoreError> {
        let mut n_rollouts = 0;
        loop {
            let mut write = self.write_soon(DOING).await?;
            // The latest stays too, so that its number is never given again.
            let rollouts: Vec<i64> = sqlx::query_scalar(
                "select rollout from rollout where ended_ms < $1 \
                 and rollout < (select max(rollout) from rollout) \
                 and not exists (select 1 from rollout as next where next.predecessor = rollout.rollout \
                 and next.ended_ms is null) \
                 order by rollout limit $2",
            )
            .bind(before_ms)
            .bind(ROLLOUTS_AT_ONCE)
            .fetch_all(write.connection())
            .await
            .map_err(write.failed())?;
            if rollouts.is_empty() {
                return Ok(n_rollouts);
            }
            let mut n_gone = 0;
            for rollout in rollouts {
                drop_where(
                    &mut write,
                    "delete from rollout_member where rollout = $1",
                    rollout,
                )
                .await?;
                drop_where(
                    &mut write,
                    "delete from rollout_image where rollout = $1",
                    rollout,
                )
                .await?;
                n_gone += drop_where(&mut write, "delete from rollout where rollout = $1", rollout).await?;
            }
            write.commit().await?;
            n_rollouts += some(n_gone)?;
        }
    }
}

async fn drop_where(write: &mut Write<'_>, sql: &'static str, value: i64) -> Result<u64, StoreError> {
    let went = sqlx::query(sql).bind(value).execute(write.connection()).await;
    Ok(went.map_err(write.failed())?.rows_affected())
}

/// What has gone, if anything: an index that tells of rows which its table has not is damage, and would be asked for ever.
fn some(n_gone: u64) -> Result<u64, StoreError> {
    if n_gone == 0 {
        return Err(StoreError::corrupt(DOING));
    }
    Ok(n_gone)
}
