//! Back-ups: whole copies of the database, and the way back from one.
//!
//! A back-up holds everything but the images, which are files and stay where they are.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use crate::error::{BackupError, RestoreError, StoreError, StoreErrorKind, kind_of};
use crate::images::blocking;
use crate::open::{
    DATABASE, LOCK, RESTORING, USERS, create_private, is_full, options, remove, schema_is_text, with_suffix,
};
use crate::{Store, folder, migrations};

/// Where the daily back-ups lie in the state folder.
const BACKUPS: &str = "backups";
/// One back-up at a time: what is unfinished then is nobody's.
const BACKUP_LOCK: &str = "backup.lock";
const UNFINISHED: &str = ".part-";
/// What belongs to a database: the file, its log, the log's index, and the log of another journal mode.
const PARTS: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// What [`Store::restore`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The folder in which the database that was there lies now; none where there was none.
    pub aside: Option<PathBuf>,
    /// The schema of the back-up, which is brought up to date when the folder is opened.
    pub schema: i64,
}

/// How often a folder is looked at that somebody seems to use: who is just ending, or starting a process of his own, holds its
/// lock for a moment longer. Guess: a second in all.
const USERS_TRIES: u32 = 20;
/// The pause between two of these looks.
const USERS_PAUSE: Duration = Duration::from_millis(50);

impl Store {
    /// Writes a whole copy of the database to `to`, which is replaced if it is there.
    ///
    /// The copy is checked, only this user can read it, and `to` is there whole or not at all, also after a power cut.
    /// Other work goes on meanwhile. The images are not part of it.
    pub async fn back_up(&self, to: &Path) -> Result<(), BackupError> {
        let to = std::path::absolute(to).map_err(|source| io_failed(to, source))?;
        let (Some(into), Some(name)) = (to.parent(), to.file_name()) else {
            return Err(io_failed(&to, io::ErrorKind::InvalidInput.into()));
        };
        let state = fs::canonicalize(self.folder()).map_err(|source| io_failed(self.folder(), source))?;
        let beside = fs::canonicalize(into).map_err(|source| io_failed(into, source))?;
        if beside == state && name.as_encoded_bytes().starts_with(DATABASE.as_bytes()) {
            return Err(BackupError::OntoItself { path: to });
        }
        let lock = self.lock_backups().await?;
        let part = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(into)
            .map_err(|source| io_failed(&to, source))?;
        let mut connection = options(&self.folder().join(DATABASE))
            .connect()
            .await
            .map_err(|source| failed(&to, source))?;
        let copied = vacuum_into(&mut connection, part.path()).await;
        let closed = connection.close().await.map_err(|source| failed(&to, source));
        copied.map_err(|error| error.of_backup(&to))?;
        closed?;
        if let Err(what) = check(part.path()).await {
            return Err(match what {
                Unfit::Failed(source) => failed(&to, source),
                Unfit::Damaged(_) | Unfit::Newer { .. } => BackupError::Store(StoreError::corrupt(DOING)),
            });
        }
        let (into, whole) = (into.to_owned(), to.clone());
        blocking(move || {
            let _lock = lock;
            part.as_file().sync_all()?;
            part.persist(&whole).map_err(|error| error.error)?;
            folder::sync(&into)
        })
        .await
        .map_err(|source| io_failed(&to, source))
    }

    /// Makes the back-up of this day (UTC) in `backups/` and removes the oldest but `keep`; none where it is there already.
    pub async fn back_up_daily(&self, now_ms: i64, keep: usize) -> Result<Option<PathBuf>, BackupError> {
        let folder = self.folder().join(BACKUPS);
        folder::make(&folder).map_err(|source| io_failed(&folder, source))?;
        let day = jiff::Timestamp::from_millisecond(now_ms)
            .map_err(|source| io_failed(&folder, io::Error::new(io::ErrorKind::InvalidInput, source)))?
            .to_zoned(jiff::tz::TimeZone::UTC)
            .date();
        let path = folder.join(format!("reflash-{day}.db"));
        if fs::exists(&path).map_err(|source| io_failed(&path, source))? {
            return Ok(None);
        }
        self.back_up(&path).await?;
        let lock = self.lock_backups().await?;
        let newest = path.clone();
        let tidied = blocking(move || {
            let _lock = lock;
            tidy(&folder, &newest, keep)
        });
        if let Err(error) = tidied.await {
            // The back-up itself is there.
            tracing::warn!(error = &error as &dyn std::error::Error, "removing old back-ups");
        }
        Ok(Some(path))
    }

    /// Puts a back-up in the place of the database of a folder, in which no process may be at work.
    ///
    /// The back-up is copied and the copy checked before anything else is touched; the database that was there is kept beside,
    /// in a folder `replaced-N`. A restore that was interrupted leaves a folder that cannot be opened until it is run again.
    /// The images of the folder stay.
    pub async fn restore(folder: &Path, backup: &Path) -> Result<Restored, RestoreError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| RestoreError::of(&path, source)
        };
        fs::metadata(backup).map_err(at(backup))?;
        folder::make(folder).map_err(at(folder))?;
        let opening = folder::lock(&folder.join(LOCK)).await.map_err(at(folder))?;
        let mut users = None;
        for _ in 0..USERS_TRIES {
            users = folder::try_lock(&folder.join(USERS)).map_err(at(folder))?;
            if users.is_some() {
                break;
            }
            tokio::time::sleep(USERS_PAUSE).await;
        }
        let (Some(opening), Some(users)) = (opening, users) else {
            return Err(RestoreError::InUse {
                folder: folder.to_owned(),
            });
        };
        let restoring = folder.join(RESTORING);
        let copy = with_suffix(&restoring, ".part");
        let (from, to) = (backup.to_owned(), copy.clone());
        blocking(move || {
            remove(&to)?;
            create_private(&to)?;
            io::copy(
                &mut fs::File::open(from)?,
                &mut fs::OpenOptions::new().write(true).open(&to)?,
            )?;
            fs::File::open(&to)?.sync_all()
        })
        .await
        .map_err(at(backup))?;
        let schema = match check(&copy).await {
            Ok(schema) => schema,
            Err(unfit) => {
                remove(&copy).map_err(at(&copy))?;
                return Err(unfit.of_restore(backup));
            }
        };
        let (folder, failed) = (folder.to_owned(), at(folder));
        let aside = blocking(move || {
            let _locks = (opening, users);
            // From here on the folder cannot be opened, until the last rename.
            fs::rename(&copy, &restoring)?;
            folder::sync(&folder)?;
            let aside = put_aside(&folder)?;
            fs::rename(&restoring, folder.join(DATABASE))?;
            folder::sync(&folder)?;
            Ok(aside)
        })
        .await
        .map_err(failed)?;
        Ok(Restored { aside, schema })
    }

    async fn lock_backups(&self) -> Result<fs::File, BackupError> {
        let path = self.folder().join(BACKUP_LOCK);
        folder::lock(&path)
            .await
            .map_err(|source| io_failed(&path, source))?
            .ok_or(BackupError::Busy)
    }
}

const DOING: &str = "writing a back-up";

fn failed(path: &Path, source: sqlx::Error) -> BackupError {
    match kind_of(&source) {
        // Whose disk it is, is not told: the copy is what grows.
        StoreErrorKind::Full => BackupError::Full {
            path: path.to_owned(),
        },
        _ => BackupError::Store(StoreError::new(DOING, source)),
    }
}

fn io_failed(path: &Path, source: io::Error) -> BackupError {
    let path = path.to_owned();
    if is_full(&source) {
        BackupError::Full { path }
    } else {
        BackupError::Io { path, source }
    }
}

/// Why a copy was not made.
pub(crate) enum CopyError {
    File(io::Error),
    Database(sqlx::Error),
}

impl CopyError {
    fn of_backup(self, to: &Path) -> BackupError {
        match self {
            Self::File(source) => io_failed(to, source),
            Self::Database(source) => failed(to, source),
        }
    }
}

/// Copies a database into an empty file of ours, because `SQLite` would make one that others can read.
pub(crate) async fn vacuum_into(connection: &mut SqliteConnection, to: &Path) -> Result<(), CopyError> {
    let to = to
        .to_str()
        .ok_or_else(|| CopyError::File(io::ErrorKind::InvalidFilename.into()))?;
    sqlx::query("vacuum into $1")
        .bind(to)
        .execute(connection)
        .await
        .map(drop)
        .map_err(CopyError::Database)
}

/// Why a copy cannot take the place of a database.
enum Unfit {
    Damaged(Cow<'static, str>),
    Newer { found: i64, known: i64 },
    Failed(sqlx::Error),
}

impl Unfit {
    fn of_restore(self, backup: &Path) -> RestoreError {
        let path = backup.to_owned();
        match self {
            Self::Damaged(what) => RestoreError::Damaged { path, what },
            Self::Newer { found, known } => RestoreError::NewerSchema { path, found, known },
            Self::Failed(source) if kind_of(&source) == StoreErrorKind::Corrupt => RestoreError::Damaged {
                path,
                what: source.to_string().into(),
            },
            Self::Failed(source) => RestoreError::Io {
                path,
                source: io::Error::other(source),
            },
        }
    }
}

/// The schema of a copy that is whole. Nothing is written, not even beside it.
async fn check(copy: &Path) -> Result<i64, Unfit> {
    if fs::metadata(copy).is_ok_and(|metadata| metadata.len() == 0) {
        return Err(Unfit::Damaged("the file is empty".into()));
    }
    let mut connection = options(copy)
        .read_only(true)
        .immutable(true)
        .connect()
        .await
        .map_err(Unfit::Failed)?;
    let checked = check_with(&mut connection).await;
    connection.close().await.map_err(Unfit::Failed)?;
    checked
}

async fn check_with(connection: &mut SqliteConnection) -> Result<i64, Unfit> {
    let first: String = sqlx::query_scalar("pragma integrity_check(1)")
        .fetch_one(&mut *connection)
        .await
        .map_err(Unfit::Failed)?;
    if first != "ok" {
        return Err(Unfit::Damaged(first.into()));
    }
    if !schema_is_text(&mut *connection).await.map_err(Unfit::Failed)? {
        return Err(Unfit::Damaged("its schema is no text".into()));
    }
    let n_ours: i64 = sqlx::query_scalar("select count(*) from sqlite_schema where name = 'schema_version'")
        .fetch_one(&mut *connection)
        .await
        .map_err(Unfit::Failed)?;
    if n_ours == 0 {
        return Err(Unfit::Damaged("it has no schema version".into()));
    }
    let found: i64 = sqlx::query_scalar("select coalesce(max(version), 0) from schema_version")
        .fetch_one(&mut *connection)
        .await
        .map_err(Unfit::Failed)?;
    let known = migrations::ALL.last().map_or(0, |migration| migration.version);
    if found > known {
        return Err(Unfit::Newer { found, known });
    }
    if found < 1 {
        return Err(Unfit::Damaged("it has no schema version".into()));
    }
    Ok(found)
}

/// Moves the database and all that belongs to it into a new folder; none where nothing is there.
fn put_aside(folder: &Path) -> io::Result<Option<PathBuf>> {
    let mut aside = None;
    for part in PARTS {
        let from = with_suffix(&folder.join(DATABASE), part);
        if !fs::exists(&from)? {
            continue;
        }
        let to = match &aside {
            Some(aside) => aside,
            None => aside.insert(new_aside(folder)?),
        };
        fs::rename(&from, to.join(from.file_name().unwrap_or_default()))?;
        folder::sync(folder)?;
        folder::sync(to)?;
    }
    Ok(aside)
}

fn new_aside(folder: &Path) -> io::Result<PathBuf> {
    let aside = next_aside(folder)?;
    folder::make(&aside)?;
    Ok(aside)
}

/// The folder in a state folder into which the next restore will put what it replaces.
pub fn next_aside(state: &Path) -> io::Result<PathBuf> {
    let mut nth = 1_u32;
    loop {
        let aside = state.join(format!("replaced-{nth}"));
        if !fs::exists(&aside)? {
            return Ok(aside);
        }
        nth += 1;
    }
}

/// Removes the daily back-ups but the `keep` latest, and what was left unfinished.
fn tidy(folder: &Path, newest: &Path, keep: usize) -> io::Result<()> {
    let mut days = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
            remove(&entry.path())?;
        } else if name.to_str().is_some_and(is_daily) && entry.path() != newest {
            days.push(entry.path());
        }
    }
    // By their names, which are in the order of the days. The one just made stays, though the clock may have been set back.
    days.sort_unstable();
    let n_removed = (days.len() + 1).saturating_sub(keep.max(1));
    for path in &days[..n_removed] {
        remove(path)?;
    }
    folder::sync(folder)
}

/// Whether a file is a daily back-up by its name: `reflash-2026-01-31.db`.
fn is_daily(name: &str) -> bool {
    let day = name
        .strip_prefix("reflash-")
        .and_then(|rest| rest.strip_suffix(".db"));
    day.is_some_and(|day| {
        day.len() == 10
            && day.bytes().enumerate().all(|(idx, byte)| match idx {
                4 | 7 => byte == b'-',
                _ => byte.is_ascii_digit(),
            })
    })
}
