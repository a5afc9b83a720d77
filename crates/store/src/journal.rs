//! The journal: what happened in each job, append-only, gapless and fenced.

use std::time::Duration;

use model::family::Undo;
use model::id::{DeviceId, JobId, RolloutId, Sha256};
use model::installed::Installed;
use model::outcome::Outcome;
use model::time::Now;
use serde_json::Value;
use sqlx::Row;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::error::{JournalError, StoreError};
use crate::inventory::{decode, device_id, from_json, key, record_installed, to_json};
use crate::lease::is_held;
use crate::rollouts::is_open_member;

/// What to do with something that is kept beside the journal.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<'a, T> {
    /// Leave it.
    Keep,
    /// Replace it.
    Set(&'a T),
    /// Remove it.
    Clear,
}

// Not derived, because that would ask `T` to be `Copy` too.
impl<T> Clone for Change<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Change<'_, T> {}

/// One event to write. What changes with it is committed with it, or not at all.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// What happened, or is about to.
    pub step: &'a str,
    /// Which push it belongs to; 0 before the first.
    pub attempt: u8,
    /// The evidence.
    pub detail: &'a Value,
    /// The job after it.
    pub state: &'a Value,
    /// In which run of the machine (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: &'a str,
    /// When.
    pub now: Now,
    /// Whether it is the job's last.
    pub finished: bool,
    /// How the job ended; kept only with its last event.
    pub outcome: Option<&'a Outcome>,
    /// What the device is believed to run from now on.
    pub installed: Change<'a, Installed>,
    /// What has to be put back from now on.
    pub undo: Change<'a, Undo>,
}

impl<'a> Event<'a> {
    /// An event without evidence that changes nothing beside the job; the other fields are set where they matter.
    pub fn new(step: &'a str, state: &'a Value, boot_id: &'a str, now: Now) -> Self {
        Self {
            step,
            attempt: 0,
            detail: &Value::Null,
            state,
            boot_id,
            now,
            finished: false,
            outcome: None,
            installed: Change::Keep,
            undo: Change::Keep,
        }
    }
}

/// An event as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    /// Its number in the job, from 1, without gaps.
    pub seq: i64,
    /// The lease under which it was written.
    pub epoch: i64,
    /// Which push it belongs to.
    pub attempt: u8,
    /// What happened.
    pub step: String,
    /// The evidence.
    pub detail: Value,
    /// The job after it.
    pub state: Value,
    /// In which run of the machine.
    pub boot_id: String,
    /// When.
    pub now: Now,
}

/// A job that has not had its last event.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenJob {
    /// Its number.
    pub job: JobId,
    /// The image that it brings.
    pub image: Sha256,
    /// The job after its last event.
    pub state: Value,
    /// In which run of the machine its last event was written.
    pub boot_id: String,
    /// When its last event was written.
    pub last: Now,
}

/// Something that has to be put back at a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingUndo {
    /// The device.
    pub device: DeviceId,
    /// The job that made it necessary.
    pub job: Option<JobId>,
    /// What to do.
    pub undo: Undo,
    /// Since when, milliseconds since 1970.
    pub since_wall_ms: i64,
}

impl Store {
    /// Begins a job with its first event; for a rollout only while that is open, and only at a member of it.
    pub async fn start_job(
        &self,
        id: &DeviceId,
        epoch: i64,
        image: Sha256,
        rollout: Option<RolloutId>,
        event: &Event<'_>,
    ) -> Result<JobId, JournalError> {
        let device = key(id);
        let mut write = self.write("beginning a job").await?;
        let held = is_held(write.connection(), &device, epoch).await;
        if !held.map_err(write.failed())? {
            return Err(JournalError::Fenced);
        }
        let unfinished: Option<i64> =
            sqlx::query_scalar("select job from job where device = $1 and not finished")
                .bind(&device)
                .fetch_optional(write.connection())
                .await
                .map_err(write.failed())?;
        if let Some(job) = unfinished {
            return Err(JournalError::JobOpen(JobId(job)));
        }
        if let Some(rollout) = rollout {
            let open = is_open_member(write.connection(), rollout, &device).await;
            if !open.map_err(write.failed())? {
                return Err(JournalError::NotInRollout(rollout));
            }
        }
        let ended = Ended::of(event);
        let job: i64 = sqlx::query_scalar(
            "insert into job (device, image, started_ms, last_seq, finished, rollout, outcome, ending, ended_ms) \
             values ($1, $2, $3, 1, $4, $5, $6, $7, $8) returning job",
        )
        .bind(&device)
        .bind(image.to_string())
        .bind(event.now.wall_ms)
        .bind(event.finished)
        .bind(rollout.map(|rollout| rollout.0))
        .bind(ended.outcome)
        .bind(ended.ending)
        .bind(ended.at_ms)
        .fetch_one(write.connection())
        .await
        .map_err(write.failed())?;
        let inserted = insert(write.connection(), &device, JobId(job), 1, epoch, event).await;
        inserted.map_err(write.failed())?;
        write.commit().await?;
        Ok(JobId(job))
    }

    /// Writes the next event of a job and returns its number. When this returns, it survives a power cut.
    pub async fn append(&self, job: JobId, epoch: i64, event: &Event<'_>) -> Result<i64, JournalError> {
        let mut write = self.write("writing an event").await?;
        let ended = Ended::of(event);
        let next = sqlx::query(
            "update job set last_seq = last_seq + 1, finished = $3, outcome = $4, ending = $5, ended_ms = $6 \
             where job = $1 and not finished and exists \
             (select 1 from lease where lease.device = job.device and lease.epoch = $2 and lease.held) \
             returning last_seq, device",
        )
        .bind(job.0)
        .bind(epoch)
        .bind(event.finished)
        .bind(ended.outcome)
        .bind(ended.ending)
        .bind(ended.at_ms)
        .fetch_optional(write.connection())
        .await
        .map_err(write.failed())?;
        let Some(row) = next else {
            let finished: Option<bool> = sqlx::query_scalar("select finished from job where job = $1")
                .bind(job.0)
                .fetch_optional(write.connection())
                .await
                .map_err(write.failed())?;
            return Err(match finished {
                None => JournalError::NoSuchJob(job),
                Some(true) => JournalError::Finished(job),
                Some(false) => JournalError::Fenced,
            });
        };
        let seq: i64 = row.try_get("last_seq").map_err(write.failed())?;
        let device: String = row.try_get("device").map_err(write.failed())?;
        let inserted = insert(write.connection(), &device, job, seq, epoch, event).await;
        inserted.map_err(write.failed())?;
        write.commit().await?;
        Ok(seq)
    }

    /// Adds an event to a job that had ended as `unverified`: what is known of it by now. Its events before stay as they are;
    /// its outcome, and what the device is believed to run, are those of this event. When this returns, it survives a power cut.
    ///
    /// Refused where the job ended otherwise, or the device has had another job since.
    pub async fn correct(&self, job: JobId, epoch: i64, event: &Event<'_>) -> Result<i64, JournalError> {
        let mut write = self.write("correcting the end of a job").await?;
        let ended = Ended::of(event);
        let next = sqlx::query(
            "update job set last_seq = last_seq + 1, outcome = $3, ending = $4 \
             where job = $1 and finished and ending = 'unverified' \
             and not exists (select 1 from job as later where later.device = job.device and later.job > job.job) \
             and exists (select 1 from lease where lease.device = job.device and lease.epoch = $2 and lease.held) \
             returning last_seq, device",
        )
        .bind(job.0)
        .bind(epoch)
        .bind(ended.outcome)
        .bind(ended.ending)
        .fetch_optional(write.connection())
        .await
        .map_err(write.failed())?;
        let Some(row) = next else {
            let device: Option<String> = sqlx::query_scalar("select device from job where job = $1")
                .bind(job.0)
                .fetch_optional(write.connection())
                .await
                .map_err(write.failed())?;
            let Some(device) = device else {
                return Err(JournalError::NoSuchJob(job));
            };
            let held = is_held(write.connection(), &device, epoch).await;
            return Err(if held.map_err(write.failed())? {
                JournalError::NotUnproven(job)
            } else {
                JournalError::Fenced
            });
        };
        let seq: i64 = row.try_get("last_seq").map_err(write.failed())?;
        let device: String = row.try_get("device").map_err(write.failed())?;
        let inserted = insert(write.connection(), &device, job, seq, epoch, event).await;
        inserted.map_err(write.failed())?;
        write.commit().await?;
        Ok(seq)
    }

    /// The job of a device that has not had its last event.
    pub async fn open_job(&self, id: &DeviceId) -> Result<Option<OpenJob>, StoreError> {
        const DOING: &str = "reading the unfinished job of a device";
        sqlx::query(
            "select job.job, job.image, job_event.state, job_event.boot_id, job_event.boot_ns, job_event.wall_ms \
             from job join job_event on job_event.job = job.job and job_event.seq = job.last_seq \
             where job.device = $1 and not job.finished",
        )
        .bind(key(id))
        .fetch_optional(self.readers())
        .await
        .and_then(|row| row.as_ref().map(open_job).transpose())
        .map_err(|source| StoreError::new(DOING, source))
    }

    /// The devices with a job that has not had its last event, the job that was begun first at the front.
    pub async fn devices_with_open_jobs(&self) -> Result<Vec<DeviceId>, StoreError> {
        const DOING: &str = "reading the unfinished jobs";
        sqlx::query(
            "select family, hardware, strength from job join device on device.id = job.device \
             where not job.finished order by job.job",
        )
        .fetch_all(self.readers())
        .await
        .and_then(|rows| rows.iter().map(device_id).collect())
        .map_err(|source| StoreError::new(DOING, source))
    }

    /// All events of a job, in order.
    pub async fn events(&self, job: JobId) -> Result<Vec<EventRow>, StoreError> {
        const DOING: &str = "reading the events of a job";
        sqlx::query(
            "select seq, epoch, attempt, step, detail, state, boot_id, boot_ns, wall_ms \
             from job_event where job = $1 order by seq",
        )
        .bind(job.0)
        .fetch_all(self.readers())
        .await
        .and_then(|rows| rows.iter().map(event_row).collect())
        .map_err(|source| StoreError::new(DOING, source))
    }

    /// Stores what has to be put back, outside of an event; a later one replaces it.
    pub async fn set_undo(
        &self,
        id: &DeviceId,
        epoch: i64,
        job: Option<JobId>,
        undo: &Undo,
        wall_ms: i64,
    ) -> Result<(), JournalError> {
        let device = key(id);
        let mut write = self.write("storing what has to be put back").await?;
        let held = is_held(write.connection(), &device, epoch).await;
        if !held.map_err(write.failed())? {
            return Err(JournalError::Fenced);
        }
        let put = put_undo(write.connection(), &device, job, undo, wall_ms).await;
        put.map_err(write.failed())?;
        Ok(write.commit().await?)
    }

    /// Stores that it was put back.
    pub async fn clear_undo(&self, id: &DeviceId, epoch: i64) -> Result<(), JournalError> {
        let device = key(id);
        let mut write = self.write("storing that it was put back").await?;
        let held = is_held(write.connection(), &device, epoch).await;
        if !held.map_err(write.failed())? {
            return Err(JournalError::Fenced);
        }
        let dropped = drop_undo(write.connection(), &device).await;
        dropped.map_err(write.failed())?;
        Ok(write.commit().await?)
    }

    /// What has to be put back at a device.
    pub async fn pending_undo(&self, id: &DeviceId) -> Result<Option<Undo>, StoreError> {
        const DOING: &str = "reading what has to be put back";
        let text: Option<String> = sqlx::query_scalar("select value from pending_undo where device = $1")
            .bind(key(id))
            .fetch_optional(self.readers())
            .await
            .map_err(|source| StoreError::new(DOING, source))?;
        text.map(|text| from_json(&text))
            .transpose()
            .map_err(|source| StoreError::new(DOING, source))
    }

    /// All that has to be put back, the oldest first.
    pub async fn pending_undos(&self) -> Result<Vec<PendingUndo>, StoreError> {
        const DOING: &str = "reading what has to be put back";
        sqlx::query(
            "select family, hardware, strength, job, value, since_ms \
             from pending_undo join device on device.id = pending_undo.device order by since_ms, device.id",
        )
        .fetch_all(self.readers())
        .await
        .and_then(|rows| rows.iter().map(undo_row).collect())
        .map_err(|source| StoreError::new(DOING, source))
    }
}

/// What a job's row says of its end, once it has had its last event.
#[derive(Default)]
struct Ended {
    outcome: Option<String>,
    ending: Option<&'static str>,
    at_ms: Option<i64>,
}

impl Ended {
    fn of(event: &Event<'_>) -> Self {
        if !event.finished {
            return Self::default();
        }
        Self {
            outcome: event.outcome.map(to_json),
            ending: event.outcome.map(|outcome| outcome.ending.name()),
            at_ms: Some(event.now.wall_ms),
        }
    }
}

async fn insert(
    connection: &mut SqliteConnection,
    device: &str,
    job: JobId,
    seq: i64,
    epoch: i64,
    event: &Event<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into job_event (job, seq, epoch, attempt, step, detail, state, boot_id, boot_ns, wall_ms) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(job.0)
    .bind(seq)
    .bind(epoch)
    .bind(i64::from(event.attempt))
    .bind(event.step)
    .bind(to_json(event.detail))
    .bind(to_json(event.state))
    .bind(event.boot_id)
    .bind(boot_ns(event.now))
    .bind(event.now.wall_ms)
    .execute(&mut *connection)
    .await?;
    match event.installed {
        Change::Keep => {}
        Change::Set(installed) => {
            record_installed(&mut *connection, device, Some(installed), event.now.wall_ms).await?;
        }
        Change::Clear => {
            record_installed(&mut *connection, device, None, event.now.wall_ms).await?;
        }
    }
    match event.undo {
        Change::Keep => Ok(()),
        Change::Set(undo) => put_undo(connection, device, Some(job), undo, event.now.wall_ms).await,
        Change::Clear => drop_undo(connection, device).await,
    }
}

async fn put_undo(
    connection: &mut SqliteConnection,
    device: &str,
    job: Option<JobId>,
    undo: &Undo,
    wall_ms: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into pending_undo (device, job, value, since_ms) values ($1, $2, $3, $4) \
         on conflict (device) do update set job = excluded.job, value = excluded.value, \
         since_ms = excluded.since_ms",
    )
    .bind(device)
    .bind(job.map(|job| job.0))
    .bind(to_json(undo))
    .bind(wall_ms)
    .execute(connection)
    .await
    .map(drop)
}

async fn drop_undo(connection: &mut SqliteConnection, device: &str) -> Result<(), sqlx::Error> {
    sqlx::query("delete from pending_undo where device = $1")
        .bind(device)
        .execute(connection)
        .await
        .map(drop)
}

fn open_job(row: &SqliteRow) -> Result<OpenJob, sqlx::Error> {
    let image: String = row.try_get("image")?;
    Ok(OpenJob {
        job: JobId(row.try_get("job")?),
        image: image
            .parse()
            .map_err(|_| decode("an image's name is no digest"))?,
        state: from_json(row.try_get("state")?)?,
        boot_id: row.try_get("boot_id")?,
        last: now(row)?,
    })
}

fn event_row(row: &SqliteRow) -> Result<EventRow, sqlx::Error> {
    let attempt: i64 = row.try_get("attempt")?;
    Ok(EventRow {
        seq: row.try_get("seq")?,
        epoch: row.try_get("epoch")?,
        attempt: u8::try_from(attempt).map_err(decode)?,
        step: row.try_get("step")?,
        detail: from_json(row.try_get("detail")?)?,
        state: from_json(row.try_get("state")?)?,
        boot_id: row.try_get("boot_id")?,
        now: now(row)?,
    })
}

fn undo_row(row: &SqliteRow) -> Result<PendingUndo, sqlx::Error> {
    let job: Option<i64> = row.try_get("job")?;
    Ok(PendingUndo {
        device: device_id(row)?,
        job: job.map(JobId),
        undo: from_json(row.try_get("value")?)?,
        since_wall_ms: row.try_get("since_ms")?,
    })
}

/// The clock since boot as it is stored, nanoseconds.
pub(crate) fn boot_ns(now: Now) -> i64 {
    i64::try_from(now.boot.as_nanos()).unwrap_or(i64::MAX)
}

fn now(row: &SqliteRow) -> Result<Now, sqlx::Error> {
    let boot_ns: i64 = row.try_get("boot_ns")?;
    Ok(Now {
        boot: Duration::from_nanos(u64::try_from(boot_ns).map_err(decode)?),
        wall_ms: row.try_get("wall_ms")?,
    })
}
