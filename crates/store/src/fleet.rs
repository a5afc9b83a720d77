//! The fleet: everything that a server knows of a device, and its removal and replacement.

use std::net::IpAddr;

use model::device::{Device, Hardware, Snapshot};
use model::family::Notes;
use model::id::{DeviceId, JobId};
use model::installed::Installed;
use model::version::Versions;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use crate::error::{InventoryError, RemoveDeviceError, StoreError};
use crate::inventory::{decode, device_id, from_json, key, known, strength_name, to_json};
use crate::{Store, Write};

/// A device as a server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetRow {
    /// Which device it is.
    pub id: DeviceId,
    /// Where it was seen last; none where only a broker told of it.
    pub address: Option<IpAddr>,
    /// The host as its owner wrote it.
    pub given_as: Option<String>,
    /// What people call it.
    pub name: Option<String>,
    /// Who told of it: `config`, `added`, `scan`, `mdns`, `mqtt`, `push`.
    pub sources: Vec<String>,
    /// When it was seen first, milliseconds since 1970.
    pub first_seen_ms: i64,
    /// When it answered last, milliseconds since 1970.
    pub seen_ms: Option<i64>,
    /// When it was enrolled, milliseconds since 1970.
    pub enrolled_ms: Option<i64>,
    /// Who enrolled it; none also where `push` did.
    pub enrolled_by: Option<String>,
    /// What it answered last.
    pub snapshot: Option<Snapshot>,
    /// Whether it counts as online.
    pub online: bool,
    /// How often it has restarted since it is known.
    pub restarts: u32,
    /// Words its owner sorts by.
    pub tags: Vec<String>,
    /// The group it belongs to.
    pub group: Option<String>,
    /// The version or digest that it is to stay at.
    pub pinned: Option<String>,
    /// Versions or digests that its owner does not want.
    pub skipped: Vec<String>,
    /// The user name for it.
    pub username: Option<String>,
    /// Its password, encrypted by the caller.
    pub sealed_password: Option<Vec<u8>>,
    /// Its chip, from its owner.
    pub chip: Option<String>,
    /// The largest image that it takes, from its owner, bytes.
    pub slot_bytes: Option<u64>,
    /// Whether its owner wants updates to be possible.
    pub ota_wanted: Option<bool>,
    /// What it is believed to run.
    pub installed: Option<Installed>,
    /// What its family wants remembered.
    pub notes: Notes,
}

impl FleetRow {
    /// A device nobody has heard of before `first_seen_ms`, milliseconds since 1970.
    pub fn new(id: DeviceId, first_seen_ms: i64) -> Self {
        Self {
            id,
            address: None,
            given_as: None,
            name: None,
            sources: Vec::new(),
            first_seen_ms,
            seen_ms: None,
            enrolled_ms: None,
            enrolled_by: None,
            snapshot: None,
            online: false,
            restarts: 0,
            tags: Vec::new(),
            group: None,
            pinned: None,
            skipped: Vec::new(),
            username: None,
            sealed_password: None,
            chip: None,
            slot_bytes: None,
            ota_wanted: None,
            installed: None,
            notes: Notes::default(),
        }
    }

    /// As its family needs it, without what only an answer would tell; none without an address.
    pub fn into_device(self) -> Option<Device> {
        let (hardware, versions) = match self.snapshot {
            Some(snapshot) => (snapshot.hardware, snapshot.versions),
            None => (Hardware::default(), Versions::default()),
        };
        Some(Device {
            id: self.id,
            address: self.address?,
            hardware,
            slot_bytes: self.slot_bytes,
            versions,
        })
    }
}

/// How many devices are read at once.
const N_AT_ONCE: i64 = 64;

/// The columns of a device that has not gone, and what is to follow.
macro_rules! select_fleet {
    ($tail:literal) => {
        concat!(
            "select family, hardware, strength, address, given_as, name, sources, first_seen_ms, seen_ms, \
             enrolled_ms, enrolled_by, snapshot, online, restarts, tags, group_name, pinned, skipped, username, \
             sealed_password, chip, slot_bytes, ota_wanted, installed, notes \
             from device where not removed",
            $tail
        )
    };
}

/// Empties a row whose device has gone; what its jobs, its lease and its counted answers need stays.
const EMPTY: &str = "update device set address = '', given_as = null, name = null, sources = '[]', first_seen_ms = 0, \
     seen_ms = 0, enrolled_ms = null, enrolled_by = null, snapshot = null, online = false, restarts = 0, tags = '[]', \
     group_name = null, pinned = null, skipped = '[]', username = null, sealed_password = null, chip = null, \
     slot_bytes = null, ota_wanted = null, installed = null, installed_ms = null, before_installed = null, \
     notes = 'null', removed = true where id = $1 and not removed";

impl Store {
    /// All devices, in the order of their identities.
    pub async fn fleet(&self) -> Result<Vec<FleetRow>, StoreError> {
        const DOING: &str = "reading the fleet";
        let failed = |source| StoreError::new(DOING, source);
        // In one transaction, so that it is the fleet of one moment; a part at a time, because a row as it is read takes some
        // ten times the memory of what it says.
        let mut read = self.readers().begin().await.map_err(failed)?;
        let mut fleet: Vec<FleetRow> = Vec::new();
        loop {
            let after = fleet.last().map(|row| key(&row.id)).unwrap_or_default();
            let rows = sqlx::query(select_fleet!(" and id > $1 order by id limit $2"))
                .bind(after)
                .bind(N_AT_ONCE)
                .fetch_all(&mut *read)
                .await
                .map_err(failed)?;
            if rows.is_empty() {
                return Ok(fleet);
            }
            for row in &rows {
                fleet.push(fleet_row(row).map_err(failed)?);
            }
        }
    }

    /// The devices that were enrolled, or whose record of what they run was written, at this moment or later: what a
    /// command beside the server may have done.
    pub async fn fleet_since(&self, wall_ms: i64) -> Result<Vec<FleetRow>, StoreError> {
        const DOING: &str = "reading what has changed in the fleet";
        sqlx::query(select_fleet!(
            " and (installed_ms >= $1 or enrolled_ms >= $1) order by id"
        ))
        .bind(wall_ms)
        .fetch_all(self.readers())
        .await
        .and_then(|rows| rows.iter().map(fleet_row).collect())
        .map_err(|source| StoreError::new(DOING, source))
    }

    /// One device; none if it was never stored or was removed.
    pub async fn fleet_row(&self, id: &DeviceId) -> Result<Option<FleetRow>, StoreError> {
        const DOING: &str = "reading a device";
        sqlx::query(select_fleet!(" and id = $1"))
            .bind(key(id))
            .fetch_optional(self.readers())
            .await
            .and_then(|row| row.as_ref().map(fleet_row).transpose())
            .map_err(|source| StoreError::new(DOING, source))
    }

    /// Stores a device, new or known: all of the row but its enrolment, its notes and what it runs, which have their own
    /// ways in. One that was removed is new again. When this returns, it survives a power cut.
    pub async fn put_fleet_row(&self, row: &FleetRow) -> Result<(), StoreError> {
        let mut write = self.write("storing a device").await?;
        put(&mut write, row).await?;
        write.commit().await
    }

    /// The same with its enrolment, both or none: one that is known and was never enrolled is not enrolled by itself later.
    pub async fn put_enrolled_row(&self, row: &FleetRow, who: &str, wall_ms: i64) -> Result<(), StoreError> {
        let mut write = self.write("storing a device").await?;
        put(&mut write, row).await?;
        enroll(&mut write, &row.id, who, wall_ms).await?;
        write.commit().await
    }

    /// Enrols a device; the first time, and who did it then, stay.
    pub async fn enroll_by(&self, id: &DeviceId, who: &str, wall_ms: i64) -> Result<(), InventoryError> {
        let mut write = self.write("enrolling a device").await?;
        let n_changed = enroll(&mut write, id, who, wall_ms).await?;
        known(n_changed, id)?;
        Ok(write.commit().await?)
    }

    /// Takes the enrolment back: no password answer and no image goes to the device from then on.
    pub async fn unenroll(&self, id: &DeviceId) -> Result<(), InventoryError> {
        let mut write = self.write("taking back the enrolment of a device").await?;
        let n_changed = sqlx::query(
            "update device set enrolled_ms = null, enrolled_by = null where id = $1 and not removed",
        )
        .bind(key(id))
        .execute(write.connection())
        .await
        .map_err(write.failed())?
        .rows_affected();
        known(n_changed, id)?;
        Ok(write.commit().await?)
    }

    /// Removes a device with its password, its enrolment and its health history.
    ///
    /// Its jobs stay readable, and so do its counted password answers: who comes back does not get five new tries.
    /// Refused while a job of it is not finished or something has to be put back at it.
    pub async fn remove_device(&self, id: &DeviceId) -> Result<(), RemoveDeviceError> {
        let mut write = self.write("removing a device").await?;
        leave(&mut write, id).await?;
        Ok(write.commit().await?)
    }

    /// Puts a new device in the place of a broken one, which is removed.
    ///
    /// The new one takes its name, tags, group, pin, skipped versions, user name, password, slot and whether updates are
    /// wanted, and its enrolment, each where the old one has it; its own identity, address and chip stay.
    /// Refused as [`Store::remove_device`] is, and where the new one was never stored.
    pub async fn replace_device(&self, old: &DeviceId, new: &DeviceId) -> Result<(), RemoveDeviceError> {
        if old == new {
            return Err(RemoveDeviceError::SameDevice);
        }
        let mut write = self.write("replacing a device").await?;
        let n_changed = sqlx::query(
            "update device set name = coalesce(old.name, device.name), \
             tags = case when old.tags = '[]' then device.tags else old.tags end, \
             group_name = coalesce(old.group_name, device.group_name), \
             pinned = coalesce(old.pinned, device.pinned), \
             skipped = case when old.skipped = '[]' then device.skipped else old.skipped end, \
             username = coalesce(old.username, device.username), \
             sealed_password = coalesce(old.sealed_password, device.sealed_password), \
             slot_bytes = coalesce(old.slot_bytes, device.slot_bytes), \
             ota_wanted = coalesce(old.ota_wanted, device.ota_wanted), \
             enrolled_ms = coalesce(device.enrolled_ms, old.enrolled_ms), \
             enrolled_by = case when device.enrolled_ms is null then old.enrolled_by else device.enrolled_by end \
             from device as old \
             where device.id = $2 and not device.removed and old.id = $1 and not old.removed",
        )
        .bind(key(old))
        .bind(key(new))
        .execute(write.connection())
        .await
        .map_err(write.failed())?
        .rows_affected();
        if n_changed == 0 {
            let n_old: i64 = sqlx::query_scalar("select count(*) from device where id = $1 and not removed")
                .bind(key(old))
                .fetch_one(write.connection())
                .await
                .map_err(write.failed())?;
            let missing = if n_old == 0 { old } else { new };
            return Err(RemoveDeviceError::UnknownDevice {
                device: missing.to_string(),
            });
        }
        leave(&mut write, old).await?;
        Ok(write.commit().await?)
    }
}

async fn put(write: &mut Write<'_>, row: &FleetRow) -> Result<(), StoreError> {
    sqlx::query(
        "insert into device (id, number, family, hardware, strength, address, given_as, name, sources, \
         first_seen_ms, seen_ms, snapshot, online, restarts, tags, group_name, pinned, skipped, username, \
         sealed_password, chip, slot_bytes, ota_wanted, notes) \
         values ($1, (select coalesce(max(number), 0) + 1 from device), $2, $3, $4, $5, $6, $7, $8, \
         $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, 'null') \
         on conflict (id) do update set address = excluded.address, given_as = excluded.given_as, \
         name = excluded.name, sources = excluded.sources, first_seen_ms = excluded.first_seen_ms, \
         seen_ms = excluded.seen_ms, snapshot = excluded.snapshot, online = excluded.online, \
         restarts = excluded.restarts, tags = excluded.tags, group_name = excluded.group_name, \
         pinned = excluded.pinned, skipped = excluded.skipped, username = excluded.username, \
         sealed_password = excluded.sealed_password, chip = excluded.chip, slot_bytes = excluded.slot_bytes, \
         ota_wanted = excluded.ota_wanted, removed = false",
    )
    .bind(key(&row.id))
    .bind(row.id.family.as_str())
    .bind(&row.id.hardware)
    .bind(strength_name(row.id.strength))
    .bind(row.address.map(|address| address.to_string()).unwrap_or_default())
    .bind(&row.given_as)
    .bind(&row.name)
    .bind(to_json(&row.sources))
    .bind(row.first_seen_ms)
    .bind(row.seen_ms.unwrap_or_default())
    .bind(row.snapshot.as_ref().map(to_json))
    .bind(row.online)
    .bind(i64::from(row.restarts))
    .bind(to_json(&row.tags))
    .bind(&row.group)
    .bind(&row.pinned)
    .bind(to_json(&row.skipped))
    .bind(&row.username)
    .bind(&row.sealed_password)
    .bind(&row.chip)
    .bind(row.slot_bytes.map(u64::cast_signed))
    .bind(row.ota_wanted)
    .execute(write.connection())
    .await
    .map(drop)
    .map_err(write.failed())
}

/// Enrols a device, and says how many were.
async fn enroll(write: &mut Write<'_>, id: &DeviceId, who: &str, wall_ms: i64) -> Result<u64, StoreError> {
    Ok(sqlx::query(
        "update device set enrolled_ms = coalesce(enrolled_ms, $2), \
         enrolled_by = case when enrolled_ms is null then $3 else enrolled_by end \
         where id = $1 and not removed",
    )
    .bind(key(id))
    .bind(wall_ms)
    .bind(who)
    .execute(write.connection())
    .await
    .map_err(write.failed())?
    .rows_affected())
}

/// Lets a device go within a write. Whoever holds its lease is fenced off.
async fn leave(write: &mut Write<'_>, id: &DeviceId) -> Result<(), RemoveDeviceError> {
    let open: Option<i64> = sqlx::query_scalar("select job from job where device = $1 and not finished")
        .bind(key(id))
        .fetch_optional(write.connection())
        .await
        .map_err(write.failed())?;
    if let Some(job) = open {
        return Err(RemoveDeviceError::JobOpen(JobId(job)));
    }
    let n_undos: i64 = sqlx::query_scalar("select count(*) from pending_undo where device = $1")
        .bind(key(id))
        .fetch_one(write.connection())
        .await
        .map_err(write.failed())?;
    if n_undos > 0 {
        return Err(RemoveDeviceError::UndoPending);
    }
    let gone = empty(write.connection(), id).await;
    if !gone.map_err(write.failed())? {
        return Err(RemoveDeviceError::UnknownDevice {
            device: id.to_string(),
        });
    }
    Ok(())
}

async fn empty(connection: &mut SqliteConnection, id: &DeviceId) -> Result<bool, sqlx::Error> {
    let n_gone = sqlx::query(EMPTY)
        .bind(key(id))
        .execute(&mut *connection)
        .await?
        .rows_affected();
    sqlx::query("delete from sample where device = (select number from device where id = $1)")
        .bind(key(id))
        .execute(&mut *connection)
        .await?;
    sqlx::query("update lease set held = false where device = $1")
        .bind(key(id))
        .execute(connection)
        .await?;
    Ok(n_gone == 1)
}

fn fleet_row(row: &SqliteRow) -> Result<FleetRow, sqlx::Error> {
    let address: &str = row.try_get("address")?;
    let seen_ms: i64 = row.try_get("seen_ms")?;
    let snapshot: Option<&str> = row.try_get("snapshot")?;
    let installed: Option<&str> = row.try_get("installed")?;
    let restarts: i64 = row.try_get("restarts")?;
    let slot_bytes: Option<i64> = row.try_get("slot_bytes")?;
    Ok(FleetRow {
        id: device_id(row)?,
        address: match address {
            "" => None,
            address => Some(address.parse().map_err(decode)?),
        },
        given_as: row.try_get("given_as")?,
        name: row.try_get("name")?,
        sources: from_json(row.try_get("sources")?)?,
        first_seen_ms: row.try_get("first_seen_ms")?,
        seen_ms: (seen_ms != 0).then_some(seen_ms),
        enrolled_ms: row.try_get("enrolled_ms")?,
        enrolled_by: row.try_get("enrolled_by")?,
        snapshot: snapshot.map(from_json).transpose()?,
        online: row.try_get("online")?,
        restarts: u32::try_from(restarts).map_err(decode)?,
        tags: from_json(row.try_get("tags")?)?,
        group: row.try_get("group_name")?,
        pinned: row.try_get("pinned")?,
        skipped: from_json(row.try_get("skipped")?)?,
        username: row.try_get("username")?,
        sealed_password: row.try_get("sealed_password")?,
        chip: row.try_get("chip")?,
        slot_bytes: slot_bytes.map(u64::try_from).transpose().map_err(decode)?,
        ota_wanted: row.try_get("ota_wanted")?,
        installed: installed.map(from_json).transpose()?,
        notes: from_json(row.try_get("notes")?)?,
    })
}
