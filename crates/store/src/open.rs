//! Opening: check first, then read the modes back, then bring the schema up to date.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection, SqlitePool};

use crate::error::{OpenError, StoreErrorKind, kind_of};
use crate::folder;
use crate::migrations::Migration;

const DATABASE: &str = "reflash.db";
const LOCK: &str = "open.lock";
/// How long a statement waits for another process (RELIABILITY.md F73).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Guess: reads are short; as many at once as a small machine has cores.
const N_READERS: u32 = 4;
/// How long to wait for one of our own connections: several writers, each waiting its busy timeout.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct Opened {
    pub(crate) writer: SqlitePool,
    pub(crate) readers: SqlitePool,
}

pub(crate) async fn open(folder: &Path, migrations: &'static [Migration]) -> Result<Opened, OpenError> {
    let at = At {
        folder: folder.to_owned(),
        path: folder.join(DATABASE),
    };
    folder::make(folder).map_err(|source| at.io(source))?;
    // One process at a time looks, creates and migrates.
    let lock = folder::lock(&folder.join(LOCK))
        .await
        .map_err(|source| at.io(source))?
        .ok_or_else(|| at.busy())?;
    if fs::exists(&at.path).map_err(|source| at.io(source))? {
        at.check().await?;
    } else {
        at.create(migrations).await?;
    }
    let writer = at.writer().await?;
    at.migrate(&writer, migrations).await?;
    let readers = SqlitePoolOptions::new()
        .max_connections(N_READERS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_lazy_with(options(&at.path).pragma("query_only", "on"));
    drop(lock);
    Ok(Opened { writer, readers })
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .disable_statement_logging()
}

fn writing(path: &Path) -> SqliteConnectOptions {
    options(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
}

/// What is being opened; makes the errors.
struct At {
    folder: PathBuf,
    path: PathBuf,
}

impl At {
    /// Looks for damage without writing to the file.
    async fn check(&self) -> Result<(), OpenError> {
        // The path is only looked at, never opened: closing a file of our own would drop the locks that SQLite holds on it.
        let metadata = fs::metadata(&self.path).map_err(|source| self.io(source))?;
        if metadata.len() == 0 {
            return Err(self.corrupt("the file is empty"));
        }
        let mut connection = options(&self.path)
            .read_only(true)
            .connect()
            .await
            .map_err(|source| self.database(source))?;
        let checked = self.check_with(&mut connection).await;
        let closed = connection.close().await.map_err(|source| self.database(source));
        checked.and(closed)?;
        if metadata.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(&self.path, fs::Permissions::from_mode(0o600))
                .map_err(|source| self.io(source))?;
        }
        Ok(())
    }

    async fn check_with(&self, connection: &mut SqliteConnection) -> Result<(), OpenError> {
        let first: String = sqlx::query_scalar("pragma quick_check(1)")
            .fetch_one(&mut *connection)
            .await
            .map_err(|source| self.database(source))?;
        if first != "ok" {
            return Err(self.corrupt(first));
        }
        let ours: i64 =
            sqlx::query_scalar("select count(*) from sqlite_schema where name = 'schema_version'")
                .fetch_one(&mut *connection)
                .await
                .map_err(|source| self.database(source))?;
        if ours == 0 {
            return Err(self.corrupt("it has no schema version"));
        }
        Ok(())
    }

    /// Makes the database under another name and moves it into place, so that it is there whole or not at all.
    async fn create(&self, migrations: &'static [Migration]) -> Result<(), OpenError> {
        for suffix in ["-wal", "-shm", "-journal"] {
            let left = with_suffix(&self.path, suffix);
            if fs::exists(&left).map_err(|source| self.io(source))? {
                // A log without its database would be played into the new one.
                return Err(self.corrupt(format!("it is missing, and {} is there", left.display())));
            }
        }
        let new = At {
            folder: self.folder.clone(),
            path: with_suffix(&self.path, ".new"),
        };
        for suffix in ["", "-wal", "-shm", "-journal"] {
            remove(&with_suffix(&new.path, suffix)).map_err(|source| self.io(source))?;
        }
        create_private(&new.path).map_err(|source| self.io(source))?;
        let writer = new.writer().await?;
        let migrated = new.migrate(&writer, migrations).await;
        writer.close().await;
        migrated?;
        fs::File::open(&new.path)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&new.path, &self.path))
            .and_then(|()| folder::sync(&self.folder))
            .map_err(|source| self.io(source))
    }

    /// The one writing connection; its modes are read back whenever it is made.
    async fn writer(&self) -> Result<SqlitePool, OpenError> {
        let path = self.path.clone();
        SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .after_connect(move |connection, _| {
                let path = path.clone();
                Box::pin(async move { read_modes_back(connection, path).await })
            })
            .connect_with(writing(&self.path))
            .await
            .map_err(|source| self.database(source))
    }

    async fn migrate(&self, writer: &SqlitePool, migrations: &'static [Migration]) -> Result<(), OpenError> {
        let failed = |source| self.database(source);
        let mut connection = writer.acquire().await.map_err(failed)?;
        let found: i64 = if sqlx::query_scalar::<_, i64>(
            "select count(*) from sqlite_schema where name = 'schema_version'",
        )
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?
            == 0
        {
            0
        } else {
            sqlx::query_scalar("select coalesce(max(version), 0) from schema_version")
                .fetch_one(&mut *connection)
                .await
                .map_err(failed)?
        };
        let known = migrations.last().map_or(0, |migration| migration.version);
        if found > known {
            return Err(OpenError::NewerSchema {
                path: self.path.clone(),
                found,
                known,
            });
        }
        if 0 < found && found < known {
            self.back_up(&mut connection, found).await?;
        }
        for migration in migrations.iter().filter(|migration| migration.version > found) {
            let mut transaction = connection.begin_with("begin immediate").await.map_err(failed)?;
            if migration.version == 1 {
                sqlx::raw_sql("create table schema_version (version bigint not null primary key)")
                    .execute(&mut *transaction)
                    .await
                    .map_err(failed)?;
            }
            sqlx::raw_sql(migration.sql)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
            sqlx::query("insert into schema_version (version) values ($1)")
                .bind(migration.version)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
            transaction.commit().await.map_err(failed)?;
        }
        Ok(())
    }

    /// Copies the database as it is to `reflash.db.before-schema-N`.
    async fn back_up(&self, connection: &mut SqliteConnection, found: i64) -> Result<(), OpenError> {
        let copy = with_suffix(&self.path, &format!(".schema-{found}.bak"));
        let part = with_suffix(&copy, ".part");
        remove(&part).map_err(|source| self.io(source))?;
        // Copied into an empty file of ours, because SQLite would make one that others can read.
        create_private(&part).map_err(|source| self.io(source))?;
        sqlx::query("vacuum into $1")
            .bind(part.to_string_lossy().into_owned())
            .execute(&mut *connection)
            .await
            .map_err(|source| self.database(source))?;
        fs::File::open(&part)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&part, &copy))
            .and_then(|()| folder::sync(&self.folder))
            .map_err(|source| self.io(source))
    }

    fn io(&self, source: io::Error) -> OpenError {
        if is_full(&source) {
            return self.full();
        }
        OpenError::Folder {
            folder: self.folder.clone(),
            source,
        }
    }

    fn full(&self) -> OpenError {
        OpenError::Full {
            folder: self.folder.clone(),
        }
    }

    fn busy(&self) -> OpenError {
        OpenError::Busy {
            folder: self.folder.clone(),
        }
    }

    fn corrupt(&self, what: impl Into<Cow<'static, str>>) -> OpenError {
        OpenError::Corrupt {
            path: self.path.clone(),
            what: what.into(),
        }
    }

    fn database(&self, source: sqlx::Error) -> OpenError {
        let source = match source {
            sqlx::Error::Configuration(source) => match source.downcast::<OpenError>() {
                Ok(error) => return *error,
                Err(source) => sqlx::Error::Configuration(source),
            },
            source => source,
        };
        match kind_of(&source) {
            StoreErrorKind::Busy => self.busy(),
            StoreErrorKind::Full => self.full(),
            StoreErrorKind::Corrupt => self.corrupt(source.to_string()),
            StoreErrorKind::ReadOnly => OpenError::Folder {
                folder: self.folder.clone(),
                source: io::Error::other(source),
            },
            StoreErrorKind::Io => OpenError::Io {
                path: self.path.clone(),
                source: Box::new(source),
            },
        }
    }
}

/// Refuses a connection that does not keep what it is told: a failed switch can go unseen (RELIABILITY.md finding 7).
async fn read_modes_back(connection: &mut SqliteConnection, path: PathBuf) -> Result<(), sqlx::Error> {
    let journal_mode: String = sqlx::query_scalar("pragma journal_mode")
        .fetch_one(&mut *connection)
        .await?;
    let synchronous: i64 = sqlx::query("pragma synchronous")
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    let foreign_keys: i64 = sqlx::query("pragma foreign_keys")
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    let modes = [
        ("journal_mode", journal_mode, "wal"),
        // 2 is FULL (sqlite.org/pragma.html#pragma_synchronous).
        ("synchronous", synchronous.to_string(), "2"),
        ("foreign_keys", foreign_keys.to_string(), "1"),
    ];
    for (mode, found, wanted) in modes {
        if found != wanted {
            return Err(sqlx::Error::Configuration(Box::new(OpenError::Modes {
                path,
                mode,
                found,
                wanted,
            })));
        }
    }
    Ok(())
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn create_private(path: &Path) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(source),
        _ => Ok(()),
    }
}
