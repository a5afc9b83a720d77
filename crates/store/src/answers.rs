//! The ledger of password answers: each is counted before it is sent.

use model::id::DeviceId;

use crate::Store;
use crate::error::{InventoryError, StoreError};
use crate::inventory::{key, known};

/// The number of a counted answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AnswerId(i64);

impl Store {
    /// Counts an answer as failed, before it is sent. When this returns, the count survives a power cut.
    pub async fn count_answer(&self, id: &DeviceId, wall_ms: i64) -> Result<AnswerId, InventoryError> {
        let mut write = self.write("counting a password answer").await?;
        let answer: Option<i64> = sqlx::query_scalar(
            "insert into answer (device, counted_ms, accepted) \
             select id, $2, false from device where id = $1 and not removed returning answer",
        )
        .bind(key(id))
        .bind(wall_ms)
        .fetch_optional(write.connection())
        .await
        .map_err(write.failed())?;
        known(u64::from(answer.is_some()), id)?;
        write.commit().await?;
        Ok(AnswerId(answer.unwrap_or_default()))
    }

    /// The device took the answer, so it did not fail. A power cut may take this back: it then counts as failed, the safe side.
    pub async fn answer_accepted(&self, answer: AnswerId) -> Result<(), StoreError> {
        let mut write = self
            .write_soon("storing that a password answer was accepted")
            .await?;
        sqlx::query("update answer set accepted = true where answer = $1")
            .bind(answer.0)
            .execute(write.connection())
            .await
            .map_err(write.failed())?;
        write.commit().await
    }

    /// How many answers failed from this moment on, those before the last unlock left out.
    pub async fn failed_answers_since(&self, id: &DeviceId, since_wall_ms: i64) -> Result<u32, StoreError> {
        const DOING: &str = "counting the failed password answers";
        let n_failed: i64 = sqlx::query_scalar(
            "select count(*) from answer join device on device.id = answer.device \
             where answer.device = $1 and not answer.accepted and answer.counted_ms >= $2 \
             and answer.answer > device.unlocked_answer",
        )
        .bind(key(id))
        .bind(since_wall_ms)
        .fetch_one(self.readers())
        .await
        .map_err(|source| StoreError::new(DOING, source))?;
        Ok(u32::try_from(n_failed).unwrap_or(u32::MAX))
    }

    /// Forgives all answers counted so far, by their order and not by the clock, which may have been set back.
    pub async fn unlock(&self, id: &DeviceId) -> Result<(), InventoryError> {
        let mut write = self
            .write("releasing the lock of failed password answers")
            .await?;
        let n_changed = sqlx::query(
            "update device set unlocked_answer = \
             (select coalesce(max(answer.answer), 0) from answer where answer.device = device.id) where id = $1 and not removed",
        )
        .bind(key(id))
        .execute(write.connection())
        .await
        .map_err(write.failed())?
        .rows_affected();
        known(n_changed, id)?;
        Ok(write.commit().await?)
    }
}
