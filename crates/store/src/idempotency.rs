//! Answers to requests that carried an idempotency key: who asks again is answered again, and nothing is done twice.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use crate::Store;
use crate::error::StoreError;
use crate::inventory::decode;

/// How long an answer is kept, milliseconds: a day.
///
/// Guess: longer than any client keeps trying.
pub const ANSWERS_KEPT_MS: i64 = 24 * 60 * 60 * 1000;

/// The status of a request that was carried out and not answered yet: the body is the number of what was made.
pub const MADE: u16 = 0;

/// A request that carries an idempotency key.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The key.
    pub request: &'a str,
    /// What the request is, so that another one under the same key is told apart.
    pub fingerprint: &'a str,
}

/// An answer as it was given, or what is to be answered: [`MADE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// What the request was, so that another one under the same key is told apart.
    pub fingerprint: String,
    /// The HTTP status, or [`MADE`].
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
             values ($1, $2, $3, $4, $5, $6) on conflict (request, actor) do update \
             set status = excluded.status, body = excluded.body where request_answer.status = 0",
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

/// Remembers within a write that a request has made something: whoever was killed before the answer gives it later.
pub(crate) async fn made(
    connection: &mut SqliteConnection,
    asked: &Asked<'_>,
    actor: &str,
    number: i64,
    wall_ms: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into request_answer (request, actor, fingerprint, status, body, at_ms) \
         values ($1, $2, $3, $4, $5, $6) on conflict (request, actor) do nothing",
    )
    .bind(asked.request)
    .bind(actor)
    .bind(asked.fingerprint)
    .bind(i64::from(MADE))
    .bind(number.to_string())
    .bind(wall_ms)
    .execute(connection)
    .await
    .map(drop)
}

fn answered(row: &SqliteRow) -> Result<Answered, sqlx::Error> {
    let status: i64 = row.try_get("status")?;
    Ok(Answered {
        fingerprint: row.try_get("fingerprint")?,
        status: u16::try_from(status).map_err(decode)?,
        body: row.try_get("body")?,
    })
}
