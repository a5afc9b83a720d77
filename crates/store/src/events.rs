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

/// Something that is to be written; it gets its number then.
#[derive(Clone, Copy, Debug)]
pub struct NewEvent<'a> {
    /// When, milliseconds since 1970.
    pub at_ms: i64,
    /// What, as `device.found`.
    pub kind: &'a str,
    /// The device it is about, as [`model::id::DeviceId::key`] names it.
    pub device: Option<&'a str>,
    /// More of it.
    pub detail: &'a Value,
}

impl Store {
    /// Adds events, all or none of them, and returns the number of the first; each has one more than the one before.
    /// When this returns, they survive a power cut.
    pub async fn append_events(&self, events: &[NewEvent<'_>]) -> Result<i64, StoreError> {
        const DOING: &str = "writing what happened in the fleet";
        let n_events = i64::try_from(events.len()).map_err(|_| StoreError::corrupt(DOING))?;
        let mut write = self.write(DOING).await?;
        // The number is kept apart from the events, which go in time.
        let last: i64 =
            sqlx::query_scalar("update log_head set seq = seq + $1 where log = 'event' returning seq")
                .bind(n_events)
                .fetch_one(write.connection())
                .await
                .map_err(write.failed())?;
        let first = last - n_events + 1;
        for (seq, event) in (first..).zip(events) {
            // The same text each time, which is prepared once and kept by the connection.
            sqlx::query(
                "insert into fleet_event (seq, at_ms, kind, device, detail) values ($1, $2, $3, $4, $5)",
            )
            .bind(seq)
            .bind(event.at_ms)
            .bind(event.kind)
            .bind(event.device)
            .bind(to_json(event.detail))
            .execute(write.connection())
            .await
            .map_err(write.failed())?;
        }
        write.commit().await?;
        Ok(first)
    }

    /// Adds an event and returns its number. When this returns, it survives a power cut.
    pub async fn append_event(
        &self,
        kind: &str,
        device: Option<&str>,
        detail: &Value,
        wall_ms: i64,
    ) -> Result<i64, StoreError> {
        let event = NewEvent {
            at_ms: wall_ms,
            kind,
            device,
            detail,
        };
        self.append_events(&[event]).await
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
