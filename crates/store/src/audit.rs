//! The audit: who did what, append-only, each entry chained to the one before.
//!
//! The chain has no key: it shows a row that was changed, taken away or put elsewhere, not a forger who computes it anew from
//! there to its end. Against him stands a copy of the last hash in another place, as each back-up is.

use model::id::Sha256;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, Row};

use crate::Store;
use crate::error::StoreError;
use crate::inventory::{from_json, to_json};

/// Something that somebody did.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEntry {
    /// When, milliseconds since 1970.
    pub at_ms: i64,
    /// Who: a token's name and number, or a user of this machine.
    pub actor: String,
    /// From where: an address, or `socket`.
    pub source: String,
    /// What, as `device.enroll`.
    pub action: String,
    /// To what: a device, a digest.
    pub target: String,
    /// More of it; never a secret.
    pub detail: Value,
}

/// An entry as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditRow {
    /// Its number, from 1, without gaps.
    pub seq: i64,
    /// What somebody did.
    pub entry: AuditEntry,
    /// The digest of the hash before and of this entry, in hexadecimal digits.
    pub hash: String,
}

/// What a walk along the chain found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditCheck {
    /// How many entries hold together from the first.
    pub n_rows: u64,
    /// The number of the first entry that was changed or is missing; none where the whole audit is as it was written.
    pub broken_at: Option<i64>,
}

/// The hash of an entry: SHA-256 over the hash before, a line feed, and the entry as a JSON list.
fn chained(before: &str, seq: i64, at_ms: i64, texts: [&str; 5]) -> String {
    let entry = json!([seq, at_ms, texts]);
    Sha256::of(format!("{before}\n{entry}").as_bytes()).to_string()
}

impl Store {
    /// Adds an entry and returns its number. When this returns, it survives a power cut.
    pub async fn append_audit(&self, entry: &AuditEntry) -> Result<i64, StoreError> {
        let mut write = self.write("writing the audit").await?;
        let head = sqlx::query("select seq, hash from log_head where log = 'audit'")
            .fetch_one(write.connection())
            .await
            .and_then(|row| Ok((row.try_get::<i64, _>("seq")?, row.try_get::<String, _>("hash")?)));
        let (last, before) = head.map_err(write.failed())?;
        let seq = last + 1;
        let detail = to_json(&entry.detail);
        let hash = chained(
            &before,
            seq,
            entry.at_ms,
            [&entry.actor, &entry.source, &entry.action, &entry.target, &detail],
        );
        sqlx::query(
            "insert into audit (seq, at_ms, actor, source, action, target, detail, hash) \
             values ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(seq)
        .bind(entry.at_ms)
        .bind(&entry.actor)
        .bind(&entry.source)
        .bind(&entry.action)
        .bind(&entry.target)
        .bind(detail)
        .bind(&hash)
        .execute(write.connection())
        .await
        .map_err(write.failed())?;
        sqlx::query("update log_head set seq = $1, hash = $2 where log = 'audit'")
            .bind(seq)
            .bind(&hash)
            .execute(write.connection())
            .await
            .map_err(write.failed())?;
        write.commit().await?;
        Ok(seq)
    }

    /// The entries after one, in order, at most `limit` of them.
    pub async fn audit(&self, after: i64, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        const DOING: &str = "reading the audit";
        sqlx::query(
            "select seq, at_ms, actor, source, action, target, detail, hash from audit \
             where seq > $1 order by seq limit $2",
        )
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .and_then(|rows| rows.iter().map(audit_row).collect())
        .map_err(|source| StoreError::new(DOING, source))
    }

    /// Walks along the whole chain.
    pub async fn verify_audit(&self) -> Result<AuditCheck, StoreError> {
        let checked = self.walk_audit().await;
        checked.map_err(|source| StoreError::new("checking the audit", source))
    }

    async fn walk_audit(&self) -> Result<AuditCheck, sqlx::Error> {
        let mut connection = self.readers().acquire().await?;
        // One moment for the head and the rows.
        let mut moment = connection.begin().await?;
        let head = sqlx::query("select seq, hash from log_head where log = 'audit'")
            .fetch_optional(&mut *moment)
            .await?;
        let (last, last_hash): (i64, String) = match head {
            Some(row) => (row.try_get("seq")?, row.try_get("hash")?),
            None => (0, String::new()),
        };
        let (mut n_rows, mut expected, mut before) = (0_u64, 1, String::new());
        loop {
            let rows = sqlx::query(
                "select seq, at_ms, actor, source, action, target, detail, hash from audit \
                 where seq >= $1 order by seq limit 500",
            )
            .bind(if n_rows == 0 { i64::MIN } else { expected })
            .fetch_all(&mut *moment)
            .await?;
            for row in &rows {
                let seq: i64 = row.try_get("seq")?;
                let hash: &str = row.try_get("hash")?;
                let texts = [
                    row.try_get("actor")?,
                    row.try_get("source")?,
                    row.try_get("action")?,
                    row.try_get("target")?,
                    row.try_get("detail")?,
                ];
                if seq != expected || hash != chained(&before, seq, row.try_get("at_ms")?, texts) {
                    return Ok(AuditCheck {
                        n_rows,
                        broken_at: Some(seq.min(expected)),
                    });
                }
                hash.clone_into(&mut before);
                n_rows += 1;
                expected += 1;
            }
            if rows.is_empty() {
                break;
            }
        }
        // Without the head, taking away the latest would not be seen.
        let whole = last == expected - 1 && last_hash == before;
        Ok(AuditCheck {
            n_rows,
            broken_at: (!whole).then_some(expected.min(last + 1)),
        })
    }
}

fn audit_row(row: &SqliteRow) -> Result<AuditRow, sqlx::Error> {
    Ok(AuditRow {
        seq: row.try_get("seq")?,
        entry: AuditEntry {
            at_ms: row.try_get("at_ms")?,
            actor: row.try_get("actor")?,
            source: row.try_get("source")?,
            action: row.try_get("action")?,
            target: row.try_get("target")?,
            detail: from_json(row.try_get("detail")?)?,
        },
        hash: row.try_get("hash")?,
    })
}
