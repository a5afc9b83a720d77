//! Windows and schedules that were made while the server runs, and what schedules have done.

use serde_json::Value;
use sqlx::Row as _;

use crate::Store;
use crate::error::StoreError;
use crate::inventory::{decode, from_json, to_json};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimetableKind {
    /// When updates may begin.
    Window,
    /// Rollouts that begin by themselves.
    Schedule,
}

impl TimetableKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Schedule => "schedule",
        }
    }

    fn of(text: &str) -> Option<Self> {
        [Self::Window, Self::Schedule]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

/// A window or a schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct TimetableRow {
    /// Which of the two.
    pub kind: TimetableKind,
    /// What its owner calls it, once among those of its kind.
    pub name: String,
    /// What it says, with the keys of the configuration.
    pub entry: Value,
    /// When that was said, milliseconds since 1970.
    pub changed_ms: i64,
    /// Who said it.
    pub changed_by: String,
}

/// What a schedule has done.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleTurn {
    /// By which times: what was done by others does not count.
    pub times: String,
    /// Since when it is known with these times, milliseconds since 1970: nothing earlier is made up for.
    pub since_ms: i64,
    /// The dates and minutes that have come, the newest last.
    pub done: Vec<String>,
    /// What came of the last one.
    pub last: Option<Value>,
}

impl Store {
    /// All windows and schedules that were made here, by kind and name.
    pub async fn timetable(&self) -> Result<Vec<TimetableRow>, StoreError> {
        const DOING: &str = "reading windows and schedules";
        let rows = sqlx::query(
            "select kind, name, entry, changed_ms, changed_by from timetable order by kind, name",
        )
        .fetch_all(self.readers())
        .await
        .map_err(|source| StoreError::new(DOING, source))?;
        let read = |row: &sqlx::sqlite::SqliteRow| {
            let kind: &str = row.try_get("kind")?;
            Ok(TimetableRow {
                kind: TimetableKind::of(kind)
                    .ok_or_else(|| decode("an entry of the timetable of no kind"))?,
                name: row.try_get("name")?,
                entry: from_json(row.try_get("entry")?)?,
                changed_ms: row.try_get("changed_ms")?,
                changed_by: row.try_get("changed_by")?,
            })
        };
        rows.iter()
            .map(read)
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|source| StoreError::new(DOING, source))
    }

    /// Stores a window or a schedule in the place of the one of that name. When this returns, it survives a power cut.
    pub async fn save_timetable(&self, row: &TimetableRow) -> Result<(), StoreError> {
        let mut write = self.write("storing a window or schedule").await?;
        sqlx::query(
            "insert into timetable (kind, name, entry, changed_ms, changed_by) values ($1, $2, $3, $4, $5) \
             on conflict (kind, name) do update set entry = excluded.entry, \
             changed_ms = excluded.changed_ms, changed_by = excluded.changed_by",
        )
        .bind(row.kind.as_str())
        .bind(&row.name)
        .bind(to_json(&row.entry))
        .bind(row.changed_ms)
        .bind(&row.changed_by)
        .execute(write.connection())
        .await
        .map_err(write.failed())?;
        write.commit().await
    }

    /// Removes a window or a schedule, with what the schedule has done; false where there was none.
    pub async fn remove_timetable(&self, kind: TimetableKind, name: &str) -> Result<bool, StoreError> {
        let mut write = self.write("removing a window or schedule").await?;
        let n_removed = sqlx::query("delete from timetable where kind = $1 and name = $2")
            .bind(kind.as_str())
            .bind(name)
            .execute(write.connection())
            .await
            .map_err(write.failed())?
            .rows_affected();
        if kind == TimetableKind::Schedule {
            sqlx::query("delete from schedule_turn where schedule = $1")
                .bind(name)
                .execute(write.connection())
                .await
                .map_err(write.failed())?;
        }
        write.commit().await?;
        Ok(n_removed > 0)
    }

    /// What a schedule has done; none where it was never looked at.
    pub async fn schedule_turn(&self, schedule: &str) -> Result<Option<ScheduleTurn>, StoreError> {
        const DOING: &str = "reading what a schedule has done";
        let row = sqlx::query("select times, since_ms, done, last from schedule_turn where schedule = $1")
            .bind(schedule)
            .fetch_optional(self.readers())
            .await
            .map_err(|source| StoreError::new(DOING, source))?;
        let read = |row: sqlx::sqlite::SqliteRow| {
            let last: Option<&str> = row.try_get("last")?;
            Ok(ScheduleTurn {
                times: row.try_get("times")?,
                since_ms: row.try_get("since_ms")?,
                done: serde_json::from_str(row.try_get("done")?).map_err(decode)?,
                last: last.map(from_json).transpose()?,
            })
        };
        row.map(read)
            .transpose()
            .map_err(|source: sqlx::Error| StoreError::new(DOING, source))
    }

    /// Stores what a schedule has done. When this returns, it survives a power cut.
    pub async fn save_schedule_turn(&self, schedule: &str, turn: &ScheduleTurn) -> Result<(), StoreError> {
        let mut write = self.write("storing what a schedule has done").await?;
        sqlx::query(
            "insert into schedule_turn (schedule, times, since_ms, done, last) values ($1, $2, $3, $4, $5) \
             on conflict (schedule) do update set times = excluded.times, since_ms = excluded.since_ms, \
             done = excluded.done, last = excluded.last",
        )
        .bind(schedule)
        .bind(&turn.times)
        .bind(turn.since_ms)
        .bind(to_json(&Value::from(turn.done.clone())))
        .bind(turn.last.as_ref().map(to_json))
        .execute(write.connection())
        .await
        .map_err(write.failed())?;
        write.commit().await
    }
}
