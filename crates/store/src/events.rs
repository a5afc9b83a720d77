//! What happened in the fleet, numbered without gaps, so that a listener that was away can catch up.

use serde_json::Value;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::error::StoreError;
use crate::inventory::{from_json, to_json};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetEvent {
    /// Its number: one more than that of the event before.
    pub seq: i64,
    /// When, milliseconds since 1970.
    pub at_ms: i64,
    /// What, as `device.found`.
    pub kind: String,
    /// The device it is about, as [`model::id::DeviceId::key`] names it.
    pub device: Option<String>,
    /// More of it.
    pub detail: Value,
}

impl Store {
    /// Adds an event and returns its number. When this returns, it survives a power cut.
    pub async fn append_event(
        &self,
        kind: &str,
        device: Option<&str>,
        detail: &Value,
        wall_ms: i64,
    ) -> Result<i64, StoreError> {
        let mut write = self.write("writing what happened in the fleet").await?;
        // The number is kept apart from the events, which go in time.
        let seq: i64 =
            sqlx::query_scalar("update log_head set seq = seq + 1 where log = 'event' returning seq")
                .fetch_one(write.connection())
                .await
                .map_err(write.failed())?;
        sqlx::query("insert into fleet_event (seq, at_ms, kind, device, detail) values ($1, $2, $3, $4, $5)")
            .bind(seq)
            .bind(wall_ms)
            .bind(kind)
            .bind(device)
            .bind(to_json(detail))
            .execute(write.connection())
            .await
            .map_err(write.failed())?;
        write.commit().await?;
        Ok(seq)
    }

    /// The events after one, in order, at most `limit` of them. The oldest are gone in time: see [`Store::housekeep`].
    pub async fn events_after(&self, seq: i64, limit: u32) -> Result<Vec<FleetEvent>, StoreError> {
        const DOING: &str = "reading what happened in the fleet";
        sqlx::query(
            "select seq, at_ms, kind, device, detail from fleet_event where seq > $1 order by seq limit $2",
        )
        .bind(seq)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .and_then(|rows| rows.iter().map(event_row).collect())
        .map_err(|source| StoreError::new(DOING, source))
    }

    /// The number of the latest event; 0 before the first.
    pub async fn last_event(&self) -> Result<i64, StoreError> {
        const DOING: &str = "reading what happened in the fleet";
        sqlx::query_scalar("select seq from log_head where log = 'event'")
            .fetch_one(self.readers())
            .await
            .map_err(|source| StoreError::new(DOING, source))
    }
}

fn event_row(row: &SqliteRow) -> Result<FleetEvent, sqlx::Error> {
    Ok(FleetEvent {
        seq: row.try_get("seq")?,
        at_ms: row.try_get("at_ms")?,
        kind: row.try_get("kind")?,
        device: row.try_get("device")?,
        detail: from_json(row.try_get("detail")?)?,
    })
}
