//! The history: jobs as they began and ended, without their events.

use model::id::{DeviceId, FamilyId, JobId, RolloutId, Sha256};
use model::outcome::{Ending, Outcome};
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::Error as NotAnEnding;
use serde_json::Value;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::error::StoreError;
use crate::inventory::{decode, device_id, from_json, key};

/// A job, without its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    /// Its number, which is never given again.
    pub job: JobId,
    /// The device.
    pub device: DeviceId,
    /// The rollout that it belongs to; none also where that one was removed for its age.
    pub rollout: Option<RolloutId>,
    /// The image that it brings.
    pub image: Sha256,
    /// How often it has pushed, or was about to.
    pub n_pushes: u8,
    /// When it began, milliseconds since 1970.
    pub started_ms: i64,
    /// When it had its last event, milliseconds since 1970.
    pub ended_ms: Option<i64>,
    /// Whether it has had its last event.
    pub finished: bool,
    /// How it ended; none also where its last event did not say so.
    pub outcome: Option<Outcome>,
}

/// Which jobs are asked for; what is none does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFilter {
    /// Those of a device.
    pub device: Option<DeviceId>,
    /// Those of a rollout.
    pub rollout: Option<RolloutId>,
    /// Those that began at this moment or later, milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Those with a smaller number: the page that follows.
    pub before: Option<JobId>,
    /// How many at most.
    pub limit: u32,
}

impl JobFilter {
    /// The latest jobs, whosever they are.
    pub fn latest(limit: u32) -> Self {
        Self {
            device: None,
            rollout: None,
            since_ms: None,
            before: None,
            limit,
        }
    }
}

/// How many jobs ended alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutcomeCount {
    /// Of devices of this family.
    pub family: FamilyId,
    /// With this image.
    pub image: Sha256,
    /// With this word.
    pub ending: Ending,
    /// How many.
    pub n_jobs: u64,
}

/// A job that ended as `unverified` and was its device's last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unproven {
    /// Its number.
    pub job: JobId,
    /// The device.
    pub device: DeviceId,
    /// When it ended, milliseconds since 1970.
    pub ended_ms: i64,
}

/// The columns of a job, and what is to follow. Its last event tells how often it has pushed.
macro_rules! select_job {
    ($tail:literal) => {
        concat!(
            "select job.job, job.rollout, job.image, job.started_ms, job.ended_ms, job.finished, job.outcome, \
             job_event.attempt, job_event.state, family, hardware, strength \
             from job join job_event on job_event.job = job.job and job_event.seq = job.last_seq \
             join device on device.id = job.device ",
            $tail
        )
    };
}

// A text for each way to ask, so that each goes along its index: the table itself, `job_device`, `job_rollout`, `job_ended`.
const JOBS: &str = select_job!("where job.job < $1 and job.started_ms >= $2 order by job.job desc limit $3");
const JOBS_OF_DEVICE: &str = select_job!(
    "where job.job < $1 and job.started_ms >= $2 and job.device = $4 order by job.job desc limit $3"
);
const JOBS_OF_ROLLOUT: &str = select_job!(
    "where job.job < $1 and job.started_ms >= $2 and job.rollout = $4 order by job.job desc limit $3"
);
const JOBS_OF_BOTH: &str = select_job!(
    "where job.job < $1 and job.started_ms >= $2 and job.device = $4 and job.rollout = $5 \
     order by job.job desc limit $3"
);
const LAST_OF_EACH: &str = select_job!(
    "where job.job in (select (select max(job) from job as own where own.device = device.id) from device)"
);
const TRIES: &str = select_job!("where job.device = $1 and job.rollout = $2 order by job.job");
const UNPROVEN: &str = "select job.job, job.ended_ms, family, hardware, strength from job join device on device.id = job.device \
     where job.ending = 'unverified' and job.ended_ms >= $1 and not exists \
     (select 1 from job as later where later.device = job.device and later.job > job.job) order by job.ended_ms, job.job";
const CORRECTED: &str = select_job!(
    "where job.ended_ms >= $1 and job.rollout is not null and job_event.step = 'corrected' order by job.ended_ms, job.job"
);
const ENDS_OF_IMAGE: &str = "select job.outcome, family, hardware, strength from job join device on device.id = job.device \
     where job.image = $1 and job.outcome is not null and job.job > \
     coalesce((select cleared_job from firmware where digest = $1), 0) order by job.job";
const COUNTS: &str = "select family, job.image, job.ending, count(*) as n_jobs from job join device on device.id = job.device \
     where job.ended_ms >= $1 and job.ending is not null \
     group by family, job.image, job.ending order by family, job.image, job.ending";

impl Store {
    /// A job and its state after its last event; none where it was never begun or was removed for its age.
    pub async fn job_row(&self, job: JobId) -> Result<Option<(JobRow, Value)>, StoreError> {
        const DOING: &str = "reading a job";
        sqlx::query(select_job!("where job.job = $1"))
            .bind(job.0)
            .fetch_optional(self.readers())
            .await
            .and_then(|row| {
                row.map(|row| Ok((job_row(&row)?, from_json(row.try_get("state")?)?)))
                    .transpose()
            })
            .map_err(|source| StoreError::new(DOING, source))
    }

    /// A page of the jobs, the newest first.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError> {
        const DOING: &str = "reading the history of jobs";
        let sql = match (&filter.device, filter.rollout) {
            (None, None) => JOBS,
            (Some(_), None) => JOBS_OF_DEVICE,
            (None, Some(_)) => JOBS_OF_ROLLOUT,
            (Some(_), Some(_)) => JOBS_OF_BOTH,
        };
        let mut query = sqlx::query(sql)
            .bind(filter.before.map_or(i64::MAX, |before| before.0))
            .bind(filter.since_ms.unwrap_or(i64::MIN))
            .bind(i64::from(filter.limit));
        if let Some(device) = &filter.device {
            query = query.bind(key(device));
        }
        if let Some(rollout) = filter.rollout {
            query = query.bind(rollout.0);
        }
        query
            .fetch_all(self.readers())
            .await
            .and_then(|rows| rows.iter().map(job_row).collect())
            .map_err(|source| StoreError::new(DOING, source))
    }

    /// The last job of each device that has had one.
    pub async fn last_jobs(&self) -> Result<Vec<JobRow>, StoreError> {
        const DOING: &str = "reading the last job of each device";
        sqlx::query(LAST_OF_EACH)
            .fetch_all(self.readers())
            .await
            .and_then(|rows| rows.iter().map(job_row).collect())
            .map_err(|source| StoreError::new(DOING, source))
    }

    /// The jobs of a device in a rollout, the oldest first: how many tries and pushes it had.
    pub async fn jobs_of(&self, rollout: RolloutId, device: &DeviceId) -> Result<Vec<JobRow>, StoreError> {
        const DOING: &str = "reading the jobs of a device in a rollout";
        sqlx::query(TRIES)
            .bind(key(device))
            .bind(rollout.0)
            .fetch_all(self.readers())
            .await
            .and_then(|rows| rows.iter().map(job_row).collect())
            .map_err(|source| StoreError::new(DOING, source))
    }

    /// The jobs that ended at this moment or later as `unverified`, and that no other job of their device has followed.
    pub async fn unproven_jobs(&self, since_ms: i64) -> Result<Vec<Unproven>, StoreError> {
        const DOING: &str = "reading the jobs that were not proven";
        sqlx::query(UNPROVEN)
            .bind(since_ms)
            .fetch_all(self.readers())
            .await
            .and_then(|rows| rows.iter().map(unproven_row).collect())
            .map_err(|source| StoreError::new(DOING, source))
    }

    /// The jobs of rollouts that ended at this moment or later, and whose end was corrected.
    pub async fn corrected_jobs(&self, since_ms: i64) -> Result<Vec<JobRow>, StoreError> {
        const DOING: &str = "reading the jobs whose end was corrected";
        sqlx::query(CORRECTED)
            .bind(since_ms)
            .fetch_all(self.readers())
            .await
            .and_then(|rows| rows.iter().map(job_row).collect())
            .map_err(|source| StoreError::new(DOING, source))
    }

    /// How the jobs ended that brought this image, the oldest first, since its last quarantine was lifted.
    pub async fn ends_of_image(&self, image: Sha256) -> Result<Vec<(DeviceId, Outcome)>, StoreError> {
        const DOING: &str = "reading how an image fared";
        sqlx::query(ENDS_OF_IMAGE)
            .bind(image.to_string())
            .fetch_all(self.readers())
            .await
            .and_then(|rows| {
                let ends = rows.iter();
                ends.map(|row| Ok((device_id(row)?, from_json(row.try_get("outcome")?)?)))
                    .collect()
            })
            .map_err(|source| StoreError::new(DOING, source))
    }

    /// How the jobs ended that had their last event at this moment or later: of each family and image, each word and
    /// how often.
    pub async fn outcome_counts(&self, since_ms: i64) -> Result<Vec<OutcomeCount>, StoreError> {
        const DOING: &str = "counting how jobs ended";
        sqlx::query(COUNTS)
            .bind(since_ms)
            .fetch_all(self.readers())
            .await
            .and_then(|rows| rows.iter().map(count_row).collect())
            .map_err(|source| StoreError::new(DOING, source))
    }
}

fn image(row: &SqliteRow) -> Result<Sha256, sqlx::Error> {
    let image: &str = row.try_get("image")?;
    image.parse().map_err(|_| decode("an image's name is no digest"))
}

fn job_row(row: &SqliteRow) -> Result<JobRow, sqlx::Error> {
    let rollout: Option<i64> = row.try_get("rollout")?;
    let attempt: i64 = row.try_get("attempt")?;
    let outcome: Option<&str> = row.try_get("outcome")?;
    Ok(JobRow {
        job: JobId(row.try_get("job")?),
        device: device_id(row)?,
        rollout: rollout.map(RolloutId),
        image: image(row)?,
        n_pushes: u8::try_from(attempt).map_err(decode)?,
        started_ms: row.try_get("started_ms")?,
        ended_ms: row.try_get("ended_ms")?,
        finished: row.try_get("finished")?,
        outcome: outcome.map(from_json).transpose()?,
    })
}

fn unproven_row(row: &SqliteRow) -> Result<Unproven, sqlx::Error> {
    Ok(Unproven {
        job: JobId(row.try_get("job")?),
        device: device_id(row)?,
        ended_ms: row.try_get("ended_ms")?,
    })
}

fn count_row(row: &SqliteRow) -> Result<OutcomeCount, sqlx::Error> {
    let ending: &str = row.try_get("ending")?;
    let n_jobs: i64 = row.try_get("n_jobs")?;
    Ok(OutcomeCount {
        family: FamilyId::new(row.try_get("family")?),
        image: image(row)?,
        ending: Ending::deserialize(ending.into_deserializer())
            .map_err(|error: NotAnEnding| decode(error))?,
        n_jobs: u64::try_from(n_jobs).map_err(decode)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_job_of_each_device_is_found_without_reading_all_jobs() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        assert!(store.last_jobs().await.unwrap().is_empty());
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("explain query plan {LAST_OF_EACH}")))
                .fetch_all(store.readers())
                .await
                .unwrap();
        let steps: Vec<String> = plan.into_iter().map(|(_, _, _, step)| step).collect();
        let begins = |start: &str| steps.iter().any(|step| step.starts_with(start));
        assert!(begins("SEARCH job USING INTEGER PRIMARY KEY"), "{steps:#?}");
        assert!(begins("SEARCH own USING COVERING INDEX job_device"), "{steps:#?}");
        assert!(!begins("SCAN job") && !begins("SCAN own"), "{steps:#?}");
    }

    #[tokio::test]
    async fn a_page_goes_along_an_index_and_is_not_sorted() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        for (sql, first, sorts) in [
            (JOBS, "SEARCH job USING INTEGER PRIMARY KEY (rowid<?)", false),
            (
                JOBS_OF_DEVICE,
                "SEARCH job USING INDEX job_device (device=? AND job<?)",
                false,
            ),
            (
                JOBS_OF_ROLLOUT,
                "SEARCH job USING INDEX job_rollout (rollout=? AND job<?)",
                false,
            ),
            // Both have few: the planner may take either.
            (JOBS_OF_BOTH, "SEARCH job USING INDEX job_", false),
            (TRIES, "SEARCH job USING INDEX job_", false),
            (COUNTS, "SEARCH job USING INDEX job_ended (ended_ms>?)", true),
            (
                UNPROVEN,
                "SEARCH job USING INDEX job_unverified (ended_ms>?)",
                false,
            ),
            (CORRECTED, "SEARCH job USING INDEX job_ended (ended_ms>?)", false),
            (
                ENDS_OF_IMAGE,
                "SEARCH job USING INDEX job_image (image=? AND job>?)",
                false,
            ),
        ] {
            let plan: Vec<(i64, i64, i64, String)> =
                sqlx::query_as(sqlx::AssertSqlSafe(format!("explain query plan {sql}")))
                    .fetch_all(store.readers())
                    .await
                    .unwrap();
            let steps: Vec<String> = plan.into_iter().map(|(_, _, _, step)| step).collect();
            assert!(
                steps.iter().any(|step| step.starts_with(first)),
                "{sql}\n{steps:#?}"
            );
            assert!(
                !steps.iter().any(|step| step.starts_with("SCAN")),
                "{sql}\n{steps:#?}"
            );
            let sorted = steps.iter().any(|step| step.contains("TEMP B-TREE"));
            assert_eq!(sorted, sorts, "{sql}\n{steps:#?}");
        }
    }
}
