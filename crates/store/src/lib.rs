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

use sqlx::pool::PoolConnection;
use sqlx::{Sqlite, SqlitePool, Transaction};

pub use answers::AnswerId;
pub use audit::{AuditCheck, AuditEntry, AuditRow};
pub use backup::{Restored, next_aside};
pub use error::{
    BackupError, FirmwareError, FirmwareUse, ImageError, InventoryError, JournalError, LeaseError, OpenError,
    RemoveDeviceError, RestoreError, RolloutError, ServerLockError, StoreError, StoreErrorKind,
};
pub use events::FleetEvent;
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

/// An open state folder. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    /// One connection: writes of this process queue here, not at the database's lock.
    writer: SqlitePool,
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
        // The write lock is taken at once: a read lock that grows later fails instead of waiting.
        let begun = self.inner.writer.begin_with("begin immediate").await;
        let transaction = begun.map_err(|source| self.inner.write_failed(doing, source))?;
        Ok(Write {
            transaction,
            _turn: None,
            inner: &self.inner,
            doing,
        })
    }

    /// Begins to write what a power cut may take back: its commit does not wait for the disk.
    async fn write_soon(&self, doing: &'static str) -> Result<Write<'_>, StoreError> {
        if self.is_lost() {
            return Err(StoreError::lost(doing));
        }
        let failed = |source| self.inner.write_failed(doing, source);
        // Who writes soon queues for the writer too, so that this process still has one writer at a time.
        let turn = self.inner.writer.acquire().await.map_err(failed)?;
        let transaction = self
            .inner
            .soon
            .begin_with("begin immediate")
            .await
            .map_err(failed)?;
        Ok(Write {
            transaction,
            _turn: Some(turn),
            inner: &self.inner,
            doing,
        })
    }
}

impl Inner {
    fn write_failed(&self, doing: &'static str, source: sqlx::Error) -> StoreError {
        let error = StoreError::new(doing, source);
        if error.kind == StoreErrorKind::Io {
            self.lost.store(true, Ordering::SeqCst);
            tracing::error!(
                doing,
                "a write to the journal may be lost; nothing more is written by this process"
            );
        }
        error
    }
}

/// One write transaction.
struct Write<'s> {
    transaction: Transaction<'static, Sqlite>,
    /// The writer's place in the queue, where the transaction is on another connection. Dropped after it.
    _turn: Option<PoolConnection<Sqlite>>,
    inner: &'s Inner,
    doing: &'static str,
}

impl Write<'_> {
    fn connection(&mut self) -> &mut sqlx::SqliteConnection {
        &mut self.transaction
    }

    fn failed(&self) -> impl Fn(sqlx::Error) -> StoreError + use<'_> {
        |source| self.inner.write_failed(self.doing, source)
    }

    /// Makes it durable: when this returns, it survives a power cut.
    async fn commit(self) -> Result<(), StoreError> {
        let committed = self.transaction.commit().await;
        committed.map_err(|source| self.inner.write_failed(self.doing, source))
    }
}
