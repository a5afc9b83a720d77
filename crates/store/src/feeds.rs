//! Vendors' downloads, and how the last look at each went.

use model::id::Sha256;
use serde_json::Value;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::error::StoreError;
use crate::inventory::{decode, from_json, to_json};

/// A vendor's download, as it was looked at last.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedRow {
    /// Its name, as `komfovent-C6`.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// When it was looked at last, milliseconds since 1970, whatever came of it.
    pub last_checked_ms: Option<i64>,
    /// When a look went well, milliseconds since 1970.
    pub last_ok_ms: Option<i64>,
    /// Why the last look failed.
    pub error: Option<String>,
    /// The file's name as the vendor gave it.
    pub file_name: Option<String>,
    /// The image.
    pub digest: Option<Sha256>,
    /// What the vendor's server calls this state of the file.
    pub etag: Option<String>,
    /// More of it.
    pub detail: Value,
}

impl Store {
    /// All feeds, by name.
    pub async fn feeds(&self) -> Result<Vec<FeedRow>, StoreError> {
        const DOING: &str = "reading the feeds";
        sqlx::query(
            "select name, url, last_checked_ms, last_ok_ms, error, file_name, digest, etag, detail \
             from feed order by name",
        )
        .fetch_all(self.readers())
        .await
        .and_then(|rows| rows.iter().map(feed_row).collect())
        .map_err(|source| StoreError::new(DOING, source))
    }

    /// Stores a feed under its name. When this returns, it survives a power cut.
    pub async fn put_feed(&self, feed: &FeedRow) -> Result<(), StoreError> {
        let mut write = self.write("storing a feed").await?;
        sqlx::query(
            "insert into feed (name, url, last_checked_ms, last_ok_ms, error, file_name, digest, etag, detail) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
             on conflict (name) do update set url = excluded.url, last_checked_ms = excluded.last_checked_ms, \
             last_ok_ms = excluded.last_ok_ms, error = excluded.error, file_name = excluded.file_name, \
             digest = excluded.digest, etag = excluded.etag, detail = excluded.detail",
        )
        .bind(&feed.name)
        .bind(&feed.url)
        .bind(feed.last_checked_ms)
        .bind(feed.last_ok_ms)
        .bind(&feed.error)
        .bind(&feed.file_name)
        .bind(feed.digest.map(|digest| digest.to_string()))
        .bind(&feed.etag)
        .bind(to_json(&feed.detail))
        .execute(write.connection())
        .await
        .map_err(write.failed())?;
        write.commit().await
    }
}

fn feed_row(row: &SqliteRow) -> Result<FeedRow, sqlx::Error> {
    let digest: Option<&str> = row.try_get("digest")?;
    Ok(FeedRow {
        name: row.try_get("name")?,
        url: row.try_get("url")?,
        last_checked_ms: row.try_get("last_checked_ms")?,
        last_ok_ms: row.try_get("last_ok_ms")?,
        error: row.try_get("error")?,
        file_name: row.try_get("file_name")?,
        digest: digest
            .map(str::parse)
            .transpose()
            .map_err(|_| decode("a feed's image is no digest"))?,
        etag: row.try_get("etag")?,
        detail: from_json(row.try_get("detail")?)?,
    })
}
