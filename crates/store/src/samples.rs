//! Looks at devices: what each answered last, and the history of their health.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::LazyLock;

use model::device::Snapshot;
use model::id::DeviceId;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::error::StoreError;
use crate::inventory::{decode, key, to_json};
use crate::{Store, Write};

/// How many rows one statement holds (PERFORMANCE.md E3: 50 to a transaction).
const N_MANY: usize = 50;
/// The statement for a few.
const N_FEW: usize = 4;

/// What came of one look at a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// The device.
    pub id: DeviceId,
    /// Where it was looked for; none leaves the address that is stored.
    pub address: Option<IpAddr>,
    /// When, milliseconds since 1970.
    pub at_ms: i64,
    /// Whether it counts as online from now on.
    pub online: bool,
    /// What it answered; none where it did not, which leaves what is stored and when it answered last.
    pub snapshot: Option<Snapshot>,
    /// How often it has restarted since it is known.
    pub restarts: u32,
    /// What to add to its history; none in most polls, for a history needs no more than a sample in ten minutes.
    pub sample: Option<Sample>,
}

/// A device's health at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When, milliseconds since 1970.
    pub at_ms: i64,
    /// Whether it answered.
    pub online: bool,
    /// How long it had been up, seconds.
    pub uptime_s: Option<u64>,
    /// Free heap, bytes.
    pub free_heap_bytes: Option<u64>,
    /// Signal strength, dBm.
    pub signal_dbm: Option<i32>,
    /// Whether it had restarted since the look before.
    pub restarted: bool,
}

/// Rows of parameters: `($1, $2), ($3, $4)`.
fn values(n_rows: usize, n_columns: usize) -> String {
    let mut text = String::new();
    for row in 0..n_rows {
        text += if row == 0 { "(" } else { ", (" };
        for column in 1..=n_columns {
            let comma = if column == 1 { "" } else { ", " };
            let _ = write!(text, "{comma}${}", row * n_columns + column);
        }
        text += ")";
    }
    text
}

fn update_sql(n_rows: usize) -> String {
    format!(
        "with poll (id, address, at_ms, online, snapshot, restarts) as (values {}) \
         update device set address = coalesce(poll.address, device.address), online = poll.online, \
         seen_ms = case when poll.snapshot is null then device.seen_ms else poll.at_ms end, \
         snapshot = coalesce(poll.snapshot, device.snapshot), restarts = poll.restarts \
         from poll where device.id = poll.id and not device.removed",
        values(n_rows, 6)
    )
}

fn insert_sql(n_rows: usize) -> String {
    format!(
        "with look (id, at_ms, online, uptime_s, free_heap_bytes, signal_dbm, restarted) as (values {}) \
         insert into sample (device, at_ms, online, uptime_s, free_heap_bytes, signal_dbm, restarted) \
         select device.number, look.at_ms, look.online, look.uptime_s, look.free_heap_bytes, look.signal_dbm, \
         look.restarted from look join device on device.id = look.id and not device.removed \
         where true on conflict (device, at_ms) do nothing",
        values(n_rows, 7)
    )
}

static UPDATE_MANY: LazyLock<String> = LazyLock::new(|| update_sql(N_MANY));
static UPDATE_FEW: LazyLock<String> = LazyLock::new(|| update_sql(N_FEW));
static INSERT_MANY: LazyLock<String> = LazyLock::new(|| insert_sql(N_MANY));
static INSERT_FEW: LazyLock<String> = LazyLock::new(|| insert_sql(N_FEW));

/// The statement for so many rows, and how many it holds; the rest are empty and match no device.
fn pick(
    n_rows: usize,
    few: &'static LazyLock<String>,
    many: &'static LazyLock<String>,
) -> (&'static str, usize) {
    if n_rows <= N_FEW {
        (few, N_FEW)
    } else {
        (many, N_MANY)
    }
}

impl Store {
    /// Stores looks at devices, all or none of them, in the order given; a device that is not known is left out.
    ///
    /// In one transaction that is not waited for: a power cut loses the latest, and breaks nothing.
    pub async fn save_polls(&self, polls: &[Poll]) -> Result<(), StoreError> {
        if polls.is_empty() {
            return Ok(());
        }
        let mut write = self.write_soon("storing looks at devices").await?;
        let mut seen = HashSet::with_capacity(N_MANY);
        let mut first = 0;
        for (idx, poll) in polls.iter().enumerate() {
            // One statement takes one look at a device: with two it would take either.
            if idx - first == N_MANY || !seen.insert(&poll.id) {
                save(&mut write, &polls[first..idx]).await?;
                seen.clear();
                seen.insert(&poll.id);
                first = idx;
            }
        }
        save(&mut write, &polls[first..]).await?;
        write.commit().await
    }

    /// The health of a device from a moment on, the oldest first; of more than `limit` samples the latest.
    pub async fn samples(&self, id: &DeviceId, since_ms: i64, limit: u32) -> Result<Vec<Sample>, StoreError> {
        const DOING: &str = "reading the health of a device";
        let mut samples: Vec<Sample> = sqlx::query(
            "select at_ms, sample.online, uptime_s, free_heap_bytes, signal_dbm, restarted \
             from sample join device on device.number = sample.device \
             where device.id = $1 and at_ms >= $2 order by at_ms desc limit $3",
        )
        .bind(key(id))
        .bind(since_ms)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .and_then(|rows| rows.iter().map(sample_row).collect())
        .map_err(|source| StoreError::new(DOING, source))?;
        samples.reverse();
        Ok(samples)
    }
}

async fn save(write: &mut Write<'_>, polls: &[Poll]) -> Result<(), StoreError> {
    let (sql, n_rows) = pick(polls.len(), &UPDATE_FEW, &UPDATE_MANY);
    let mut query = sqlx::query(sql);
    for idx in 0..n_rows {
        let poll = polls.get(idx);
        query = query
            .bind(poll.map(|poll| key(&poll.id)))
            .bind(poll.and_then(|poll| Some(poll.address?.to_string())))
            .bind(poll.map(|poll| poll.at_ms))
            .bind(poll.map(|poll| poll.online))
            .bind(poll.and_then(|poll| Some(to_json(poll.snapshot.as_ref()?))))
            .bind(poll.map(|poll| i64::from(poll.restarts)));
    }
    query.execute(write.connection()).await.map_err(write.failed())?;

    let n_samples = polls.iter().filter(|poll| poll.sample.is_some()).count();
    if n_samples == 0 {
        return Ok(());
    }
    let mut samples = polls
        .iter()
        .filter_map(|poll| Some((&poll.id, poll.sample.as_ref()?)));
    let (sql, n_rows) = pick(n_samples, &INSERT_FEW, &INSERT_MANY);
    let mut query = sqlx::query(sql);
    for _ in 0..n_rows {
        let row = samples.next();
        let sample = row.map(|(_, sample)| sample);
        query = query
            .bind(row.map(|(id, _)| key(id)))
            .bind(sample.map(|sample| sample.at_ms))
            .bind(sample.map(|sample| sample.online))
            .bind(sample.and_then(|sample| sample.uptime_s).map(u64::cast_signed))
            .bind(
                sample
                    .and_then(|sample| sample.free_heap_bytes)
                    .map(u64::cast_signed),
            )
            .bind(sample.and_then(|sample| sample.signal_dbm).map(i64::from))
            .bind(sample.map(|sample| sample.restarted));
    }
    query.execute(write.connection()).await.map_err(write.failed())?;
    Ok(())
}

fn sample_row(row: &SqliteRow) -> Result<Sample, sqlx::Error> {
    let unsigned = |column| {
        let value: Option<i64> = row.try_get(column)?;
        value.map(u64::try_from).transpose().map_err(decode)
    };
    let signal_dbm: Option<i64> = row.try_get("signal_dbm")?;
    Ok(Sample {
        at_ms: row.try_get("at_ms")?,
        online: row.try_get("online")?,
        uptime_s: unsigned("uptime_s")?,
        free_heap_bytes: unsigned("free_heap_bytes")?,
        signal_dbm: signal_dbm.map(i32::try_from).transpose().map_err(decode)?,
        restarted: row.try_get("restarted")?,
    })
}
