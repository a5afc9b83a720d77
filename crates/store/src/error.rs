//! What can go wrong, one enum per operation, so that callers match on it.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use model::id::{JobId, RolloutId, Sha256};

use crate::process::Holder;

/// What a failed read or write means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// Another process held the database for longer than the busy timeout; nothing changed, try again.
    Busy,
    /// The disk is full; nothing changed, try again when there is room.
    Full,
    /// The database's content is damaged, or contradicts itself.
    Corrupt,
    /// The database may not be written.
    ReadOnly,
    /// It could not be made durable, or an earlier write could not: stop, restart, and read what is on disk.
    Io,
}

impl std::fmt::Display for StoreErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Busy => "another process kept the database busy",
            Self::Full => "the disk is full",
            Self::Corrupt => "the database is damaged",
            Self::ReadOnly => "the database cannot be written",
            Self::Io => "the database could not be read or made durable",
        })
    }
}

/// A read or a write that failed.
///
/// Nothing was changed, except that after [`StoreErrorKind::Io`] the write may be found done at the next start.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {kind}")]
pub struct StoreError {
    /// What it means.
    pub kind: StoreErrorKind,
    /// What was being done.
    pub doing: &'static str,
    source: Option<sqlx::Error>,
}

impl StoreError {
    pub(crate) fn new(doing: &'static str, source: sqlx::Error) -> Self {
        Self {
            kind: kind_of(&source),
            doing,
            source: Some(source),
        }
    }

    pub(crate) fn corrupt(doing: &'static str) -> Self {
        Self {
            kind: StoreErrorKind::Corrupt,
            doing,
            source: None,
        }
    }

    pub(crate) fn lost(doing: &'static str) -> Self {
        Self::of_kind(doing, StoreErrorKind::Io)
    }

    /// One whose cause another writer has met.
    pub(crate) fn of_kind(doing: &'static str, kind: StoreErrorKind) -> Self {
        Self {
            kind,
            doing,
            source: None,
        }
    }
}

/// Primary result codes of `SQLite` (sqlite.org/rescode.html).
mod code {
    pub(super) const PERM: i32 = 3;
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const READONLY: i32 = 8;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const CONSTRAINT: i32 = 19;
    pub(super) const AUTH: i32 = 23;
    pub(super) const NOTADB: i32 = 26;
    /// Extended: the shared-memory file could not grow, which is a full disk.
    pub(super) const IOERR_SHMSIZE: i32 = 0x0a | (19 << 8);
}

pub(crate) fn kind_of(error: &sqlx::Error) -> StoreErrorKind {
    match error {
        sqlx::Error::Database(error) => {
            let extended: i32 = error
                .code()
                .as_deref()
                .map_or(0, |code| code.parse().unwrap_or(0));
            match (extended, extended & 0xff) {
                (code::IOERR_SHMSIZE, _) | (_, code::FULL) => StoreErrorKind::Full,
                (_, code::BUSY | code::LOCKED) => StoreErrorKind::Busy,
                (_, code::CORRUPT | code::NOTADB | code::CONSTRAINT) => StoreErrorKind::Corrupt,
                (_, code::READONLY | code::CANTOPEN | code::PERM | code::AUTH) => StoreErrorKind::ReadOnly,
                _ => StoreErrorKind::Io,
            }
        }
        sqlx::Error::PoolTimedOut => StoreErrorKind::Busy,
        sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::RowNotFound => StoreErrorKind::Corrupt,
        _ => StoreErrorKind::Io,
    }
}

/// Why a state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be made, read or written.
    #[error(
        "using the state folder {}: make it readable and writable for this user, or name another with --state",
        folder.display()
    )]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is no room.
    #[error("opening the database in {}: the disk is full; make room and try again", folder.display())]
    Full {
        /// The folder.
        folder: PathBuf,
    },
    /// Other processes kept it busy for too long.
    #[error("opening the database in {}: another process keeps it busy; try again later", folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// A newer program wrote the database.
    #[error(
        "opening {}: it has schema {found} and this program knows {known}; use the newer program",
        path.display()
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema that this program knows.
        known: i64,
    },
    /// The file is damaged or not ours. It was left as it is.
    #[error(
        "opening {}: it is damaged or not a database of this program ({what}); \
         move the file away together with its -wal and -shm files to start afresh, or restore a backup",
        path.display()
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What was found.
        what: Cow<'static, str>,
    },
    /// The database does not keep what it is told as safely as we need.
    #[error(
        "opening {}: {mode} is {found} where {wanted} is needed to survive a power cut; use a local disk",
        path.display()
    )]
    Modes {
        /// The database.
        path: PathBuf,
        /// The mode's name.
        mode: &'static str,
        /// Its value as read back.
        found: String,
        /// The value that was set.
        wanted: &'static str,
    },
    /// Something else failed below.
    #[error("opening {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why the inventory could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The device was never stored.
    #[error("device {device} is not known")]
    UnknownDevice {
        /// The device.
        device: String,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a device was not removed or replaced. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveDeviceError {
    /// It is in the middle of a job, which must be settled first.
    #[error("job {0} of this device is not finished")]
    JobOpen(JobId),
    /// Something has to be put back at it first.
    #[error("something has to be put back at this device first")]
    UndoPending,
    /// It would take its own place.
    #[error("a device cannot replace itself")]
    SameDevice,
    /// The device was never stored, or has gone already.
    #[error("device {device} is not known")]
    UnknownDevice {
        /// The device.
        device: String,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why no back-up was made. What was there before is there still.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no room for it.
    #[error("writing a back-up to {}: the disk is full", path.display())]
    Full {
        /// Where it was to be.
        path: PathBuf,
    },
    /// It would replace what it is to save.
    #[error("writing a back-up to {}: that is the database itself; name another file", path.display())]
    OntoItself {
        /// Where it was to be.
        path: PathBuf,
    },
    /// Another process was making one for too long.
    #[error("another process is making a back-up")]
    Busy,
    /// The file could not be written.
    #[error("writing a back-up to {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a back-up was not restored. The folder is as it was, except after [`RestoreError::Io`]: restore again then.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Somebody works in the folder.
    #[error("restoring into {}: it is in use; stop the server and every other command first", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// It is no back-up, or is damaged.
    #[error("restoring {}: it is damaged or no back-up of this program ({what}); take another one", path.display())]
    Damaged {
        /// The back-up.
        path: PathBuf,
        /// What was found.
        what: Cow<'static, str>,
    },
    /// A newer program wrote it.
    #[error(
        "restoring {}: it has schema {found} and this program knows {known}; use the newer program",
        path.display()
    )]
    NewerSchema {
        /// The back-up.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema that this program knows.
        known: i64,
    },
    /// There is no room for it.
    #[error("restoring {}: the disk is full; make room and try again", path.display())]
    Full {
        /// The file or folder.
        path: PathBuf,
    },
    /// A file could not be read, written or moved.
    #[error("restoring {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl RestoreError {
    pub(crate) fn of(path: &std::path::Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if crate::open::is_full(&source) {
            Self::Full { path }
        } else {
            Self::Io { path, source }
        }
    }
}

/// Why this process is not the server of its folder.
#[derive(Debug, thiserror::Error)]
pub enum ServerLockError {
    /// Another process is.
    #[error("a server is at work in this folder already{}", by.as_ref().map(who).unwrap_or_default())]
    Held {
        /// Which one; none where it has not said.
        by: Option<Holder>,
    },
    /// The lock file cannot be used.
    #[error("locking {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn who(holder: &Holder) -> String {
    format!(": process {} on {}", holder.pid, holder.host)
}

/// What an image is still needed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirmwareUse {
    /// The device is believed to run it.
    Runs {
        /// The device, as [`model::id::DeviceId::key`] names it.
        device: String,
    },
    /// The device could go back to it.
    WayBack {
        /// The device.
        device: String,
    },
    /// The device is to stay at it.
    Pinned {
        /// The device.
        device: String,
    },
    /// A job that is not finished brings it.
    Job(JobId),
    /// A rollout that has not ended needs it.
    Rollout(RolloutId),
}

impl std::fmt::Display for FirmwareUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Runs { device } => write!(f, "device {device} runs it"),
            Self::WayBack { device } => write!(f, "device {device} could go back to it"),
            Self::Pinned { device } => write!(f, "device {device} is to stay at it"),
            Self::Job(job) => write!(f, "job {job} brings it"),
            Self::Rollout(rollout) => write!(f, "rollout {rollout} needs it"),
        }
    }
}

/// Why an image was not removed or approved.
#[derive(Debug, thiserror::Error)]
pub enum FirmwareError {
    /// It is needed; nothing was changed.
    #[error("image {digest} is needed: {by}")]
    InUse {
        /// The image.
        digest: Sha256,
        /// What for: the first reason found.
        by: FirmwareUse,
    },
    /// It is no image that approval helps.
    #[error("image {digest} is {} and cannot be approved", state.name())]
    NotApprovable {
        /// The image.
        digest: Sha256,
        /// How it stands.
        state: model::firmware::State,
    },
    /// It is not in the repository.
    #[error("there is no image {0}")]
    Unknown(Sha256),
    /// Its file could not be removed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a lease was not granted, renewed or released.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else works on the device.
    #[error("the device is held by process {} on {}", by.pid, by.host)]
    Held {
        /// Who.
        by: Holder,
        /// How long it stays so at most, if it is not renewed.
        free_in: Duration,
    },
    /// The lease was taken over: stop, and write nothing more.
    #[error("the lease was taken over by somebody else")]
    Fenced,
    /// The device was never stored.
    #[error("device {device} is not known")]
    UnknownDevice {
        /// The device.
        device: String,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an event was not written. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The lease is not ours any more: stop, and write nothing more.
    #[error("the lease was taken over by somebody else")]
    Fenced,
    /// The job has had its last event.
    #[error("job {0} is finished")]
    Finished(JobId),
    /// The device has an unfinished job, which must be settled first.
    #[error("job {0} of this device is not finished")]
    JobOpen(JobId),
    /// There is no such job.
    #[error("there is no job {0}")]
    NoSuchJob(JobId),
    /// The job has not ended as unverified, or the device has had another since: its end stays as it is.
    #[error("the end of job {0} is not to be corrected")]
    NotUnproven(JobId),
    /// There is no such rollout, it has ended, or the device is no member of it.
    #[error("rollout {0} is not open for this device")]
    NotInRollout(RolloutId),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a rollout was not stored. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// There is no such rollout.
    #[error("there is no rollout {0}")]
    Unknown(RolloutId),
    /// It has ended, and nothing in it changes any more.
    #[error("rollout {0} has ended")]
    Ended(RolloutId),
    /// The device is not the member of it at that place.
    #[error("device {device} has another place in rollout {rollout}, or none")]
    NotAMember {
        /// The rollout.
        rollout: RolloutId,
        /// The device.
        device: String,
    },
    /// The device was never stored, or has gone.
    #[error("device {device} is not known")]
    UnknownDevice {
        /// The device.
        device: String,
    },
    /// The image is not in the repository, or not any more.
    #[error("there is no image {0}")]
    NoSuchImage(Sha256),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an image could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The stored bytes are not the image's any more.
    #[error("image {digest} in the store is damaged ({}); add the file again", path.display())]
    Corrupt {
        /// The image.
        digest: Sha256,
        /// The damaged file.
        path: PathBuf,
    },
    /// There is no room for it.
    #[error("storing an image at {}: the disk is full", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Another process kept the image folder locked for too long.
    #[error("storing an image at {}: another process keeps the folder locked", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be read or written.
    #[error("reading or writing {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
