//! Answers to requests that carried an idempotency key: who asks again is answered again, and nothing is done twice.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::error::StoreError;
use crate::inventory::decode;

/// How long an answer is kept, milliseconds: a day.
///
/// Guess: longer than any client keeps trying.
pub const ANSWERS_KEPT_MS: i64 = 24 * 60 * 60 * 1000;

/// An answer as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// What the request was, so that another one under the same key is told apart.
    pub fingerprint: String,
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Store {
    /// What this key of this actor was answered; none where it is new or too old.
    pub async fn answer_to(&self, request: &str, actor: &str) -> Result<Option<Answered>, StoreError> {
        const DOING: &str = "looking for an earlier answer";
        sqlx::query("select fingerprint, status, body from request_answer where request = $1 and actor = $2")
            .bind(request)
            .bind(actor)
            .fetch_optional(self.readers())
            .await
            .and_then(|row| row.as_ref().map(answered).transpose())
            .map_err(|source| StoreError::new(DOING, source))
    }

    /// Keeps an answer for [`ANSWERS_KEPT_MS`]; the first one under a key stays. Older ones of anybody go.
    pub async fn save_answer(
        &self,
        request: &str,
        actor: &str,
        answered: &Answered,
        wall_ms: i64,
    ) -> Result<(), StoreError> {
        let mut write = self.write("keeping an answer").await?;
        sqlx::query("delete from request_answer where at_ms <= $1")
            .bind(wall_ms.saturating_sub(ANSWERS_KEPT_MS))
            .execute(write.connection())
            .await
            .map_err(write.failed())?;
        sqlx::query(
            "insert into request_answer (request, actor, fingerprint, status, body, at_ms) \
             values ($1, $2, $3, $4, $5, $6) on conflict (request, actor) do nothing",
        )
        .bind(request)
        .bind(actor)
        .bind(&answered.fingerprint)
        .bind(i64::from(answered.status))
        .bind(&answered.body)
        .bind(wall_ms)
        .execute(write.connection())
        .await
        .map_err(write.failed())?;
        write.commit().await
    }
}

fn answered(row: &SqliteRow) -> Result<Answered, sqlx::Error> {
    let status: i64 = row.try_get("status")?;
    Ok(Answered {
        fingerprint: row.try_get("fingerprint")?,
        status: u16::try_from(status).map_err(decode)?,
        body: row.try_get("body")?,
    })
}
