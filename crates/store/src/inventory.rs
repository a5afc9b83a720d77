//! The devices: where they are, what they are called, what they are believed to run.

use std::net::IpAddr;

use model::family::Notes;
use model::id::{DeviceId, FamilyId, Sha256, Strength};
use model::installed::Installed;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use crate::Store;
use crate::error::{InventoryError, StoreError};

/// A device as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRow {
    /// Which device it is.
    pub id: DeviceId,
    /// Where it was seen last.
    pub address: IpAddr,
    /// What people call it.
    pub name: Option<String>,
    /// When it was seen last, milliseconds since 1970.
    pub seen_wall_ms: i64,
    /// When it was enrolled, milliseconds since 1970; only an enrolled device gets a password answer or an image.
    pub enrolled_wall_ms: Option<i64>,
    /// What its family wants remembered.
    pub notes: Notes,
}

impl DeviceRow {
    /// Whether it may get a password answer or an image.
    pub fn enrolled(&self) -> bool {
        self.enrolled_wall_ms.is_some()
    }
}

impl Store {
    /// Stores that a device was seen at an address; a new address is a move, and a name that is not given stays.
    pub async fn upsert_device(
        &self,
        id: &DeviceId,
        address: IpAddr,
        name: Option<&str>,
        seen_wall_ms: i64,
    ) -> Result<(), StoreError> {
        let mut write = self.write("storing a device").await?;
        sqlx::query(
            "insert into device \
             (id, number, family, hardware, strength, address, name, seen_ms, first_seen_ms, notes, sources) \
             values ($1, (select coalesce(max(number), 0) + 1 from device), $2, $3, $4, $5, $6, $7, $7, $8, $9) \
             on conflict (id) do update set address = excluded.address, \
             name = coalesce(excluded.name, device.name), seen_ms = excluded.seen_ms, \
             first_seen_ms = case when device.removed then excluded.first_seen_ms else device.first_seen_ms end, \
             sources = case when device.removed then excluded.sources else device.sources end, removed = false",
        )
        .bind(key(id))
        .bind(id.family.as_str())
        .bind(&id.hardware)
        .bind(strength_name(id.strength))
        .bind(address.to_string())
        .bind(name)
        .bind(seen_wall_ms)
        .bind(to_json(&Notes::default()))
        .bind(to_json(&["push"]))
        .execute(write.connection())
        .await
        .map_err(write.failed())?;
        write.commit().await
    }

    /// A device; none if it was never stored, was removed, or has no address.
    pub async fn device(&self, id: &DeviceId) -> Result<Option<DeviceRow>, StoreError> {
        const DOING: &str = "reading a device";
        sqlx::query(
            "select family, hardware, strength, address, name, seen_ms, enrolled_ms, notes \
             from device where id = $1 and address <> ''",
        )
        .bind(key(id))
        .fetch_optional(self.readers())
        .await
        .and_then(|row| row.as_ref().map(device_row).transpose())
        .map_err(|source| StoreError::new(DOING, source))
    }

    /// The devices that were seen last at this address, the latest first: more than one only after a move.
    pub async fn devices_at(&self, address: IpAddr) -> Result<Vec<DeviceRow>, StoreError> {
        const DOING: &str = "reading the devices at an address";
        sqlx::query(
            "select family, hardware, strength, address, name, seen_ms, enrolled_ms, notes \
             from device where address = $1 order by seen_ms desc, id",
        )
        .bind(address.to_string())
        .fetch_all(self.readers())
        .await
        .and_then(|rows| rows.iter().map(device_row).collect())
        .map_err(|source| StoreError::new(DOING, source))
    }

    /// Enrols a device; the first time stays.
    pub async fn enroll(&self, id: &DeviceId, wall_ms: i64) -> Result<(), InventoryError> {
        let mut write = self.write("enrolling a device").await?;
        let changed = sqlx::query(
            "update device set enrolled_ms = coalesce(enrolled_ms, $2) where id = $1 and not removed",
        )
        .bind(key(id))
        .bind(wall_ms)
        .execute(write.connection())
        .await
        .map_err(write.failed())?
        .rows_affected();
        known(changed, id)?;
        Ok(write.commit().await?)
    }

    /// Stores what the family wants remembered of a device.
    pub async fn save_notes(&self, id: &DeviceId, notes: &Notes) -> Result<(), InventoryError> {
        let mut write = self.write("storing the notes on a device").await?;
        let changed = sqlx::query("update device set notes = $2 where id = $1 and not removed")
            .bind(key(id))
            .bind(to_json(notes))
            .execute(write.connection())
            .await
            .map_err(write.failed())?
            .rows_affected();
        known(changed, id)?;
        Ok(write.commit().await?)
    }

    /// What the device is believed to run; none without a record.
    pub async fn installed(&self, id: &DeviceId) -> Result<Option<Installed>, StoreError> {
        const DOING: &str = "reading what a device runs";
        let text: Option<String> = sqlx::query_scalar("select installed from device where id = $1")
            .bind(key(id))
            .fetch_optional(self.readers())
            .await
            .map_err(|source| StoreError::new(DOING, source))?
            .flatten();
        text.map(|text| from_json(&text))
            .transpose()
            .map_err(|source| StoreError::new(DOING, source))
    }

    /// The image that it ran before the one of its record, as far as was recorded; whether it is kept is another question.
    pub async fn installed_before(&self, id: &DeviceId) -> Result<Option<Sha256>, StoreError> {
        const DOING: &str = "reading what a device ran before";
        let text: Option<String> = sqlx::query_scalar("select before_installed from device where id = $1")
            .bind(key(id))
            .fetch_optional(self.readers())
            .await
            .map_err(|source| StoreError::new(DOING, source))?
            .flatten();
        text.map(|text| text.parse().map_err(decode))
            .transpose()
            .map_err(|source| StoreError::new(DOING, source))
    }

    /// Stores what the device is believed to run. Within a job, let the event carry it: see [`crate::Event::installed`].
    pub async fn set_installed(
        &self,
        id: &DeviceId,
        installed: Option<&Installed>,
        wall_ms: i64,
    ) -> Result<(), InventoryError> {
        let mut write = self.write("storing what a device runs").await?;
        let recorded = record_installed(write.connection(), &key(id), installed, wall_ms).await;
        known(recorded.map_err(write.failed())?, id)?;
        Ok(write.commit().await?)
    }
}

/// Records what a device runs from now on, and keeps the image before as its way back; the number of devices that took it.
pub(crate) async fn record_installed(
    connection: &mut SqliteConnection,
    device: &str,
    installed: Option<&Installed>,
    wall_ms: i64,
) -> Result<u64, sqlx::Error> {
    let before: Option<String> =
        sqlx::query_scalar("select installed from device where id = $1 and not removed")
            .bind(device)
            .fetch_optional(&mut *connection)
            .await?
            .flatten();
    // Read leniently: a row that cannot be understood is replaced all the same.
    let before = before.and_then(|text| from_json::<Installed>(&text).ok()?.digest);
    let way_back = before.filter(|digest| installed.and_then(|installed| installed.digest) != Some(*digest));
    let n_changed = sqlx::query(
        "update device set installed = $2, installed_ms = $3, before_installed = coalesce($4, before_installed) \
         where id = $1 and not removed",
    )
    .bind(device)
    .bind(installed.map(to_json))
    .bind(wall_ms)
    .bind(way_back.map(|digest| digest.to_string()))
    .execute(connection)
    .await?
    .rows_affected();
    Ok(n_changed)
}

/// The device's key in the database. The strength is part of it: a host may be named like somebody's MAC address.
pub(crate) fn key(id: &DeviceId) -> String {
    format!("{}/{}/{}", id.family, strength_name(id.strength), id.hardware)
}

pub(crate) fn device_id(row: &SqliteRow) -> Result<DeviceId, sqlx::Error> {
    let strength: String = row.try_get("strength")?;
    Ok(DeviceId {
        family: FamilyId::new(row.try_get("family")?),
        hardware: row.try_get("hardware")?,
        strength: match strength.as_str() {
            "hardware" => Strength::Hardware,
            "weak" => Strength::Weak,
            other => return Err(decode(format!("no strength of an identity: {other}"))),
        },
    })
}

pub(crate) fn known(n_changed: u64, id: &DeviceId) -> Result<(), InventoryError> {
    if n_changed == 0 {
        return Err(InventoryError::UnknownDevice {
            device: id.to_string(),
        });
    }
    Ok(())
}

pub(crate) fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("our types are plain data with text as keys")
}

pub(crate) fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(text).map_err(decode)
}

pub(crate) fn decode(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}

fn device_row(row: &SqliteRow) -> Result<DeviceRow, sqlx::Error> {
    let address: String = row.try_get("address")?;
    Ok(DeviceRow {
        id: device_id(row)?,
        address: address.parse().map_err(decode)?,
        name: row.try_get("name")?,
        seen_wall_ms: row.try_get("seen_ms")?,
        enrolled_wall_ms: row.try_get("enrolled_ms")?,
        notes: from_json(row.try_get("notes")?)?,
    })
}

pub(crate) fn strength_name(strength: Strength) -> &'static str {
    match strength {
        Strength::Hardware => "hardware",
        Strength::Weak => "weak",
    }
}
