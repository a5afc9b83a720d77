//! Settings that are changed while the server runs.

use serde_json::Value;

use crate::Store;
use crate::error::StoreError;
use crate::inventory::{from_json, to_json};

impl Store {
    /// A setting; none where it was never set.
    pub async fn setting(&self, name: &str) -> Result<Option<Value>, StoreError> {
        const DOING: &str = "reading a setting";
        let text: Option<String> = sqlx::query_scalar("select value from setting where name = $1")
            .bind(name)
            .fetch_optional(self.readers())
            .await
            .map_err(|source| StoreError::new(DOING, source))?;
        text.map(|text| from_json(&text))
            .transpose()
            .map_err(|source| StoreError::new(DOING, source))
    }

    /// Stores a setting, or forgets it. When this returns, it survives a power cut.
    pub async fn set_setting(&self, name: &str, value: Option<&Value>) -> Result<(), StoreError> {
        let mut write = self.write("storing a setting").await?;
        let query = match value {
            Some(value) => sqlx::query(
                "insert into setting (name, value) values ($1, $2) \
                 on conflict (name) do update set value = excluded.value",
            )
            .bind(name)
            .bind(to_json(value)),
            None => sqlx::query("delete from setting where name = $1").bind(name),
        };
        query.execute(write.connection()).await.map_err(write.failed())?;
        write.commit().await
    }
}
