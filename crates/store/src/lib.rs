//! MEMORY: the journal, the inventory and the image files.
//!
//! One folder holds a database and the images; any number of processes may work in it at once.
//! What keeps them apart is one lease per device, whose epoch fences every write of the journal.
//! This is the only crate with SQL, and its SQL is plain enough for `PostgreSQL`.
#![warn(missing_docs)]

mod answers;
mod audit;
mod backup;
mod error;
mod events;
mod feeds;
mod firmware;
mod fleet;
mod folder;
mod history;
mod housekeeping;
mod idempotency;
mod images;
mod inventory;
mod journal;
mod lease;
mod line;
mod migrations;
mod open;
mod process;
mod rollouts;
mod samples;
mod server_lock;
mod settings;
mod timetable;
mod tokens;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{Sqlite, SqlitePool, Transaction};

pub use answers::AnswerId;
pub use audit::{AuditCheck, AuditEntry, AuditRow};
pub use backup::{Restored, next_aside};
pub use error::{
    BackupError, FirmwareError, FirmwareUse, ImageError, InventoryError, JournalError, LeaseError, OpenError,
    RemoveDeviceError, RestoreError, RolloutError, ServerLockError, StoreError, StoreErrorKind,
};
pub use events::{FleetEvent, NewEvent};
pub use feeds::FeedRow;
pub use firmware::{FirmwareRow, Quarantine};
pub use fleet::FleetRow;
pub use folder::default_folder;
pub use history::{JobFilter, JobRow, OutcomeCount, Unproven};
pub use housekeeping::{Housekept, Retention};
pub use idempotency::{ANSWERS_KEPT_MS, Answered, Asked, MADE};
pub use images::ImageName;
pub use inventory::DeviceRow;
pub use journal::{Change, Event, EventRow, OpenJob, PendingUndo};
pub use lease::LeaseGrant;
pub use model::lease::Liveness;
pub use process::{Holder, process_is_alive};
pub use rollouts::{MemberRow, NewRollout, RolloutChange, RolloutRow, WholeRollout};
pub use samples::{Poll, Sample};
pub use server_lock::{ServerLock, lock_server};
pub use timetable::{ScheduleTurn, TimetableKind, TimetableRow};
pub use tokens::TokenRow;

use line::{Alone, Line, NoPlace, Place, Turn};

/// An open state folder. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    /// One connection: writes of this process queue in its line, not at the database's lock.
    writer: SqlitePool,
    line: Line,
    /// One more connection, for what a power cut may take back: its commits do not wait for the disk.
    soon: SqlitePool,
    readers: SqlitePool,
    /// Set once a write could not be made durable; nothing is written from then on (RELIABILITY.md F74).
    lost: AtomicBool,
    /// That the folder is in use, for who wants to put a back-up there.
    _user: File,
}

impl Store {
    /// Opens the state folder, which is made if it is missing.
    ///
    /// The database is checked before anything is written to it, its modes are read back, and an older schema is
    /// brought up to date after a backup.
    pub async fn open(folder: &Path) -> Result<Self, OpenError> {
        let opened = open::open(folder, migrations::ALL).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                folder: folder.to_owned(),
                line: Line::new(opened.writer.clone()),
                writer: opened.writer,
                soon: opened.soon,
                readers: opened.readers,
                lost: AtomicBool::new(false),
                _user: opened.user,
            }),
        })
    }

    /// The state folder.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// Closes the database and waits until that is done. Dropping the last clone does the same, in the background.
    pub async fn close(self) {
        self.inner.readers.close().await;
        self.inner.line.clear().await;
        self.inner.soon.close().await;
        self.inner.writer.close().await;
    }

    /// Whether a write could not be made durable: nothing more is written by this process (RELIABILITY.md F74).
    pub fn is_lost(&self) -> bool {
        self.inner.lost.load(Ordering::SeqCst)
    }

    fn readers(&self) -> &SqlitePool {
        &self.inner.readers
    }

    /// Begins to write; whatever is not committed is undone.
    async fn write(&self, doing: &'static str) -> Result<Write<'_>, StoreError> {
        if self.is_lost() {
            return Err(StoreError::lost(doing));
        }
        let place = self.inner.line.place().await;
        let place = place.map_err(|none| self.inner.no_place(doing, none))?;
        Ok(Write {
            by: By::Shared(place),
            inner: &self.inner,
            doing,
        })
    }

    /// Begins to write what a power cut may take back: its commit does not wait for the disk, unless others wait for theirs.
    async fn write_soon(&self, doing: &'static str) -> Result<Write<'_>, StoreError> {
        if self.is_lost() {
            return Err(StoreError::lost(doing));
        }
        // Who writes soon queues for the writer too, so that this process still has one writer at a time.
        let alone = self.inner.line.alone().await;
        let by = match alone.map_err(|none| self.inner.no_place(doing, none))? {
            Alone::Yes(turn) => {
                let begun = self.inner.soon.begin_with("begin immediate").await;
                let transaction = begun.map_err(|source| self.inner.write_failed(doing, source))?;
                By::Soon(transaction, turn)
            }
            Alone::No(place) => By::Shared(place),
        };
        Ok(Write {
            by,
            inner: &self.inner,
            doing,
        })
    }
}

impl Inner {
    fn write_failed(&self, doing: &'static str, source: sqlx::Error) -> StoreError {
        self.notice(StoreError::new(doing, source))
    }

    fn no_place(&self, doing: &'static str, none: NoPlace) -> StoreError {
        match none {
            NoPlace::TooLong => StoreError::of_kind(doing, StoreErrorKind::Busy),
            NoPlace::Database(source) => self.write_failed(doing, source),
        }
    }

    /// Nothing more is written after what may not have become durable.
    fn notice(&self, error: StoreError) -> StoreError {
        if error.kind == StoreErrorKind::Io && !self.lost.swap(true, Ordering::SeqCst) {
            tracing::error!(
                doing = error.doing,
                "a write to the journal may be lost; nothing more is written by this process"
            );
        }
        error
    }
}

/// One who writes: all of it is stored, or nothing.
struct Write<'s> {
    by: By<'s>,
    inner: &'s Inner,
    doing: &'static str,
}

/// The connection that is written by.
enum By<'s> {
    /// Durable when it is committed, in one transaction with others.
    Shared(Place<'s>),
    /// Durable soon, with nobody else at the desk. The transaction is dropped before the turn.
    Soon(Transaction<'static, Sqlite>, Turn<'s>),
}

impl Write<'_> {
    fn connection(&mut self) -> &mut sqlx::SqliteConnection {
        match &mut self.by {
            By::Shared(place) => place.connection(),
            By::Soon(transaction, _) => transaction,
        }
    }

    /// Says what a failed statement means; what was written before it is undone.
    fn failed(&mut self) -> impl FnOnce(sqlx::Error) -> StoreError {
        |source| {
            let error = self.inner.write_failed(self.doing, source);
            if let By::Shared(place) = &mut self.by {
                place.fail(error.kind);
            }
            error
        }
    }

    /// Makes it durable: when this returns, it survives a power cut.
    async fn commit(self) -> Result<(), StoreError> {
        match self.by {
            By::Shared(place) => {
                let finished = place.finish().await;
                finished.map_err(|kind| self.inner.notice(StoreError::of_kind(self.doing, kind)))
            }
            By::Soon(transaction, _turn) => {
                let committed = transaction.commit().await;
                committed.map_err(|source| self.inner.write_failed(self.doing, source))
            }
        }
    }
}
