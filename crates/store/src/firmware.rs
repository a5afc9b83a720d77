//! The firmware repository: what is known of each image, and what must stay.

use std::path::Path;
use std::{fs, io};

use model::firmware::State;
use model::id::{JobId, Sha256};
use model::image::{ImageInfo, Refusal};
use model::installed::Installed;
use serde::de::IntoDeserializer as _;
use serde::de::value::Error as NotAState;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use crate::error::{FirmwareError, FirmwareUse, ImageError, StoreError};
use crate::images::{TEMPORARY, blocking, failed};
use crate::inventory::{decode, device_id, from_json, to_json};
use crate::rollouts::rollout_that_needs;
use crate::{Store, folder};

/// An image of the repository, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirmwareRow {
    /// Its name.
    pub digest: Sha256,
    /// Its length, bytes.
    pub len_bytes: u64,
    /// Its file's name.
    pub file_name: String,
    /// What a family found in it.
    pub info: ImageInfo,
    /// Why it is refused.
    pub refusals: Vec<Refusal>,
    /// How far it may go.
    pub state: State,
    /// How it came: `upload`, `folder`, `feed`, `push`, `running-on`, `index`.
    pub source: String,
    /// Where from: a feed's address.
    pub origin: Option<String>,
    /// When it came, milliseconds since 1970.
    pub added_ms: i64,
    /// Who approved it.
    pub approved_by: Option<String>,
    /// When it was approved, milliseconds since 1970.
    pub approved_ms: Option<i64>,
    /// Its release notes.
    pub notes: Option<String>,
    /// Why it is in quarantine, if it is, however far its way can be trusted. Only [`Store::quarantine_firmware`] writes it.
    pub quarantine: Option<Quarantine>,
}

/// Why an image is in quarantine: it has failed on too many devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Since when, milliseconds since 1970.
    pub since_ms: i64,
    /// What the owner calls the devices that it has failed on.
    pub devices: Vec<String>,
}

macro_rules! select_firmware {
    ($tail:literal) => {
        concat!(
            "select digest, len_bytes, file_name, info, refusals, state, source, origin, added_ms, approved_by, \
             approved_ms, notes, quarantine from firmware",
            $tail
        )
    };
}

impl Store {
    /// All images, the newest first.
    pub async fn firmware(&self) -> Result<Vec<FirmwareRow>, StoreError> {
        const DOING: &str = "reading the firmware repository";
        sqlx::query(select_firmware!(" order by added_ms desc, digest"))
            .fetch_all(self.readers())
            .await
            .and_then(|rows| rows.iter().map(firmware_row).collect())
            .map_err(|source| StoreError::new(DOING, source))
    }

    /// One image.
    pub async fn firmware_row(&self, digest: Sha256) -> Result<Option<FirmwareRow>, StoreError> {
        const DOING: &str = "reading the firmware repository";
        sqlx::query(select_firmware!(" where digest = $1"))
            .bind(digest.to_string())
            .fetch_optional(self.readers())
            .await
            .and_then(|row| row.as_ref().map(firmware_row).transpose())
            .map_err(|source| StoreError::new(DOING, source))
    }

    /// Stores what is known of an image, whose bytes are stored by [`Store::put_image`], before this.
    ///
    /// Of one that is known, the time it came and its approval stay: an approved image is only ever set back to blocked or
    /// refused. When this returns, it survives a power cut.
    pub async fn put_firmware(&self, row: &FirmwareRow) -> Result<(), StoreError> {
        let mut write = self.write("storing what is known of an image").await?;
        sqlx::query(
            "insert into firmware (digest, len_bytes, file_name, info, refusals, state, source, origin, added_ms, \
             approved_by, approved_ms, notes) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
             on conflict (digest) do update set len_bytes = excluded.len_bytes, file_name = excluded.file_name, \
             info = excluded.info, refusals = excluded.refusals, \
             state = case when firmware.state = 'approved' and excluded.state in ('waiting', 'quarantined') \
             then firmware.state else excluded.state end, \
             source = excluded.source, origin = excluded.origin, \
             approved_by = coalesce(firmware.approved_by, excluded.approved_by), \
             approved_ms = coalesce(firmware.approved_ms, excluded.approved_ms), notes = excluded.notes",
        )
        .bind(row.digest.to_string())
        .bind(row.len_bytes.cast_signed())
        .bind(&row.file_name)
        .bind(to_json(&row.info))
        .bind(to_json(&row.refusals))
        .bind(row.state.name())
        .bind(&row.source)
        .bind(&row.origin)
        .bind(row.added_ms)
        .bind(&row.approved_by)
        .bind(row.approved_ms)
        .bind(&row.notes)
        .execute(write.connection())
        .await
        .map_err(write.failed())?;
        write.commit().await
    }

    /// Puts an image in quarantine, unless it is. Says whether it was put there now. When this returns, it survives a power cut.
    pub async fn quarantine_firmware(
        &self,
        digest: Sha256,
        quarantine: &Quarantine,
    ) -> Result<bool, StoreError> {
        let mut write = self.write("putting an image in quarantine").await?;
        let n_changed =
            sqlx::query("update firmware set quarantine = $2 where digest = $1 and quarantine is null")
                .bind(digest.to_string())
                .bind(to_json(quarantine))
                .execute(write.connection())
                .await
                .map_err(write.failed())?
                .rows_affected();
        write.commit().await?;
        Ok(n_changed > 0)
    }

    /// Lets an image that waits or is quarantined be offered; who did so first, and when, stay. A quarantine ends, and what
    /// has failed until now counts no more.
    pub async fn approve_firmware(
        &self,
        digest: Sha256,
        who: &str,
        wall_ms: i64,
    ) -> Result<(), FirmwareError> {
        let mut write = self.write("approving an image").await?;
        let n_changed = sqlx::query(
            "update firmware set state = 'approved', \
             approved_by = case when approved_ms is null then $2 else approved_by end, \
             approved_ms = coalesce(approved_ms, $3), \
             cleared_job = case when quarantine is null then cleared_job \
             else (select coalesce(max(job), 0) from job) end, quarantine = null \
             where digest = $1 and state in ('waiting', 'quarantined', 'approved')",
        )
        .bind(digest.to_string())
        .bind(who)
        .bind(wall_ms)
        .execute(write.connection())
        .await
        .map_err(write.failed())?
        .rows_affected();
        if n_changed == 0 {
            let state = sqlx::query("select state from firmware where digest = $1")
                .bind(digest.to_string())
                .fetch_optional(write.connection())
                .await
                .and_then(|row| row.as_ref().map(state).transpose())
                .map_err(write.failed())?;
            return Err(match state {
                None => FirmwareError::Unknown(digest),
                Some(state) => FirmwareError::NotApprovable { digest, state },
            });
        }
        Ok(write.commit().await?)
    }

    /// Removes an image: what is known of it, and its file. The names under which it came stay, for the history.
    ///
    /// Refused while a device runs it, could go back to it or is to stay at it, and while a job that is not finished brings it
    /// or a rollout that has not ended needs it.
    pub async fn remove_firmware(&self, digest: Sha256) -> Result<(), FirmwareError> {
        let path = self.image_path(digest);
        // Nobody puts the same image in the meantime.
        let lock = self.lock_images(&path).await?;
        let mut write = self.write("removing an image").await?;
        // Within the write no job or rollout can begin and no device can be found to run it.
        let needed = needed(write.connection(), digest).await;
        if let Some(by) = needed.map_err(write.failed())? {
            return Err(FirmwareError::InUse { digest, by });
        }
        let n_changed = sqlx::query("delete from firmware where digest = $1")
            .bind(digest.to_string())
            .execute(write.connection())
            .await
            .map_err(write.failed())?
            .rows_affected();
        write.commit().await?;
        // After the commit: a file without a row only takes room, a row without a file would promise what is not there.
        let file = path.clone();
        let removed = blocking(move || {
            let _lock = lock;
            match fs::remove_file(&file) {
                Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(source) => Err(source),
                Ok(()) => {
                    if let Some(folder) = file.parent() {
                        folder::sync(folder)?;
                    }
                    Ok(true)
                }
            }
        })
        .await;
        if removed.map_err(|source| failed(&path, source))? || n_changed > 0 {
            return Ok(());
        }
        Err(FirmwareError::Unknown(digest))
    }

    /// The room that all image files take, bytes, unfinished ones included.
    pub async fn images_len_bytes(&self) -> Result<u64, ImageError> {
        let images = self.folder().join("images/sha256");
        let walked = images.clone();
        blocking(move || {
            let mut len_bytes = 0;
            each_file(&walked, |entry| {
                len_bytes += entry.metadata()?.len();
                Ok(())
            })?;
            Ok(len_bytes)
        })
        .await
        .map_err(|source| failed(&images, source))
    }

    /// Removes what killed processes left unfinished among the images; returns how many files that were.
    pub async fn sweep_images(&self) -> Result<u64, ImageError> {
        let images = self.folder().join("images/sha256");
        if !images.is_dir() {
            return Ok(0);
        }
        let lock = self.lock_images(&images).await?;
        let walked = images.clone();
        blocking(move || {
            let _lock = lock;
            let mut n_removed = 0;
            each_file(&walked, |entry| {
                if entry
                    .file_name()
                    .as_encoded_bytes()
                    .starts_with(TEMPORARY.as_bytes())
                {
                    fs::remove_file(entry.path())?;
                    n_removed += 1;
                }
                Ok(())
            })?;
            Ok(n_removed)
        })
        .await
        .map_err(|source| failed(&images, source))
    }
}

/// What an image is needed for, if for anything.
async fn needed(
    connection: &mut SqliteConnection,
    digest: Sha256,
) -> Result<Option<FirmwareUse>, sqlx::Error> {
    let image = digest.to_string();
    let job: Option<i64> = sqlx::query_scalar("select job from job where image = $1 and not finished")
        .bind(&image)
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(job) = job {
        return Ok(Some(FirmwareUse::Job(JobId(job))));
    }
    if let Some(rollout) = rollout_that_needs(&mut *connection, &image).await? {
        return Ok(Some(FirmwareUse::Rollout(rollout)));
    }
    let rows = sqlx::query(
        "select family, hardware, strength, installed, before_installed, pinned from device where not removed \
         order by id",
    )
    .fetch_all(&mut *connection)
    .await?;
    for row in &rows {
        let device = |row| Ok::<_, sqlx::Error>(device_id(row)?.key());
        let installed: Option<&str> = row.try_get("installed")?;
        let installed: Option<Installed> = installed.map(from_json).transpose()?;
        if installed.and_then(|installed| installed.digest) == Some(digest) {
            return Ok(Some(FirmwareUse::Runs { device: device(row)? }));
        }
        if row.try_get::<Option<&str>, _>("before_installed")? == Some(&image) {
            return Ok(Some(FirmwareUse::WayBack { device: device(row)? }));
        }
        if row.try_get::<Option<&str>, _>("pinned")? == Some(&image) {
            return Ok(Some(FirmwareUse::Pinned { device: device(row)? }));
        }
    }
    // The last two images of each device: one of them it runs, the other one is its way back.
    sqlx::query(
        "select family, hardware, strength from (select device, image, \
         row_number() over (partition by device order by max(job) desc) as nth \
         from job where finished group by device, image) as recent \
         join device on device.id = recent.device \
         where nth <= 2 and image = $1 and not removed order by device.id limit 1",
    )
    .bind(&image)
    .fetch_optional(connection)
    .await?
    .map(|row| {
        Ok(FirmwareUse::WayBack {
            device: device_id(&row)?.key(),
        })
    })
    .transpose()
}

/// Each file in the folders below this one.
fn each_file(folder: &Path, mut look: impl FnMut(&fs::DirEntry) -> io::Result<()>) -> io::Result<()> {
    let entries = |folder: &Path| match fs::read_dir(folder) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        entries => entries.map(Some),
    };
    for below in entries(folder)?.into_iter().flatten() {
        let below = below?;
        if !below.file_type()?.is_dir() {
            continue;
        }
        for entry in entries(&below.path())?.into_iter().flatten() {
            match look(&entry?) {
                // It was renamed or removed in between.
                Err(source) if source.kind() == io::ErrorKind::NotFound => {}
                looked => looked?,
            }
        }
    }
    Ok(())
}

fn state(row: &SqliteRow) -> Result<State, sqlx::Error> {
    let state: &str = row.try_get("state")?;
    State::deserialize(state.into_deserializer()).map_err(|error: NotAState| decode(error))
}

fn firmware_row(row: &SqliteRow) -> Result<FirmwareRow, sqlx::Error> {
    let quarantine: Option<&str> = row.try_get("quarantine")?;
    let digest: &str = row.try_get("digest")?;
    let len_bytes: i64 = row.try_get("len_bytes")?;
    Ok(FirmwareRow {
        digest: digest
            .parse()
            .map_err(|_| decode("an image's name is no digest"))?,
        len_bytes: u64::try_from(len_bytes).map_err(decode)?,
        file_name: row.try_get("file_name")?,
        info: from_json(row.try_get("info")?)?,
        refusals: from_json(row.try_get("refusals")?)?,
        state: state(row)?,
        source: row.try_get("source")?,
        origin: row.try_get("origin")?,
        added_ms: row.try_get("added_ms")?,
        approved_by: row.try_get("approved_by")?,
        approved_ms: row.try_get("approved_ms")?,
        notes: row.try_get("notes")?,
        quarantine: quarantine.map(from_json).transpose()?,
    })
}
