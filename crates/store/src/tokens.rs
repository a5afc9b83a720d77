//! Tokens of the API: only their digests are kept.

use model::access::Role;
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::Error as NotARole;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::error::StoreError;
use crate::inventory::decode;

/// A token, without the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Its number, which no other token ever gets.
    pub id: i64,
    /// What it is for.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made, milliseconds since 1970.
    pub created_ms: i64,
    /// When it was used last, milliseconds since 1970.
    pub used_ms: Option<i64>,
}

impl Store {
    /// Stores a token by its digest and returns its number.
    pub async fn create_token(
        &self,
        name: &str,
        role: Role,
        hash: [u8; 32],
        wall_ms: i64,
    ) -> Result<i64, StoreError> {
        let mut write = self.write("storing a token").await?;
        let id = sqlx::query_scalar(
            "insert into token (name, role, hash, created_ms) values ($1, $2, $3, $4) returning token",
        )
        .bind(name)
        .bind(role.name())
        .bind(&hash[..])
        .bind(wall_ms)
        .fetch_one(write.connection())
        .await
        .map_err(write.failed())?;
        write.commit().await?;
        Ok(id)
    }

    /// The tokens that are good, the oldest first.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        const DOING: &str = "reading the tokens";
        sqlx::query(
            "select token, name, role, created_ms, used_ms from token where not revoked order by token",
        )
        .fetch_all(self.readers())
        .await
        .and_then(|rows| rows.iter().map(token_row).collect())
        .map_err(|source| StoreError::new(DOING, source))
    }

    /// The token with this digest; none where there is none or it was revoked.
    ///
    /// All 32 bytes are compared. How long that takes tells nothing of use: who does not know the token cannot choose its digest.
    pub async fn token_by_hash(&self, hash: &[u8; 32]) -> Result<Option<TokenRow>, StoreError> {
        const DOING: &str = "looking for a token";
        sqlx::query(
            "select token, name, role, created_ms, used_ms from token where hash = $1 and not revoked",
        )
        .bind(&hash[..])
        .fetch_optional(self.readers())
        .await
        .and_then(|row| row.as_ref().map(token_row).transpose())
        .map_err(|source| StoreError::new(DOING, source))
    }

    /// Notes that a token was used. Not waited for: a power cut may lose it.
    pub async fn touch_token(&self, id: i64, wall_ms: i64) -> Result<(), StoreError> {
        let mut write = self.write_soon("noting the use of a token").await?;
        sqlx::query("update token set used_ms = $2 where token = $1")
            .bind(id)
            .bind(wall_ms)
            .execute(write.connection())
            .await
            .map_err(write.failed())?;
        write.commit().await
    }

    /// Makes a token useless for ever; false where there was none. Its row stays, so that its number is never given again.
    pub async fn revoke_token(&self, id: i64) -> Result<bool, StoreError> {
        let mut write = self.write("revoking a token").await?;
        let n_changed =
            sqlx::query("update token set revoked = true, hash = null where token = $1 and not revoked")
                .bind(id)
                .execute(write.connection())
                .await
                .map_err(write.failed())?
                .rows_affected();
        write.commit().await?;
        Ok(n_changed > 0)
    }
}

fn token_row(row: &SqliteRow) -> Result<TokenRow, sqlx::Error> {
    let role: &str = row.try_get("role")?;
    let role = Role::deserialize(role.into_deserializer()).map_err(|error: NotARole| decode(error))?;
    Ok(TokenRow {
        id: row.try_get("token")?,
        name: row.try_get("name")?,
        role,
        created_ms: row.try_get("created_ms")?,
        used_ms: row.try_get("used_ms")?,
    })
}
