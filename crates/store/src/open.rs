//! Opening: check first, then read the modes back, then bring the schema up to date.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection, SqlitePool};

use crate::backup::{CopyError, vacuum_into};
use crate::error::{OpenError, StoreErrorKind, kind_of};
use crate::folder;
use crate::migrations::Migration;

pub(crate) const DATABASE: &str = "reflash.db";
pub(crate) const LOCK: &str = "open.lock";
/// Shared by all that have the folder open.
pub(crate) const USERS: &str = "users.lock";
/// A back-up on its way to become the database; where it lies, a restore was interrupted.
pub(crate) const RESTORING: &str = "reflash.db.restoring";
/// How long a statement waits for another process (RELIABILITY.md F73).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Guess: reads are short; as many at once as a small machine has cores.
const N_READERS: u32 = 4;
/// How long to wait for one of our own connections: several writers, each waiting its busy timeout.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// FULL as `pragma synchronous` tells it (`sqlite.org/pragma.html#pragma_synchronous`).
const DURABLE: &str = "2";
/// NORMAL: a commit is in the log, and the log is written to disk with the next commit of somebody who waits for it.
const SOON: &str = "1";
/// How much of the database each connection keeps in memory at most, KiB: seven of them share the server's 8 MB
/// (PERFORMANCE.md), and 1,000 devices are about 1 MB.
const CACHE_KIB: &str = "-128";

/// How long the log stays at most once its content is in the database, bytes; SQLite would leave it as long as it ever was.
/// SQLite moves it over after 1,000 pages of 4 kB (`sqlite.org/pragma.html#pragma_wal_autocheckpoint`).
const LOG_MAX_LEN_BYTES: &str = "8388608";

pub(crate) struct Opened {
    pub(crate) writer: SqlitePool,
    pub(crate) soon: SqlitePool,
    pub(crate) readers: SqlitePool,
    /// That the folder is in use.
    pub(crate) user: fs::File,
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
    let user = folder::try_share(&folder.join(USERS))
        .map_err(|source| at.io(source))?
        .ok_or_else(|| at.busy())?;
    if fs::exists(folder.join(RESTORING)).map_err(|source| at.io(source))? {
        return Err(at.corrupt("a restore was interrupted"));
    }
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
    let soon = at
        .one_writer(SOON)
        .connect_lazy_with(writing(&at.path).synchronous(SqliteSynchronous::Normal));
    drop(lock);
    Ok(Opened {
        writer,
        soon,
        readers,
        user,
    })
}

pub(crate) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .pragma("cache_size", CACHE_KIB)
        .disable_statement_logging()
}

fn writing(path: &Path) -> SqliteConnectOptions {
    options(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("journal_size_limit", LOG_MAX_LEN_BYTES)
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
        if !schema_is_text(&mut *connection)
            .await
            .map_err(|source| self.database(source))?
        {
            return Err(self.corrupt("its schema is no text"));
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
        self.one_writer(DURABLE)
            .connect_with(writing(&self.path))
            .await
            .map_err(|source| self.database(source))
    }

    /// A pool of one connection with the modes of [`writing`] and this `synchronous`.
    fn one_writer(&self, synchronous: &'static str) -> SqlitePoolOptions {
        let path = self.path.clone();
        SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            // SQLite undoes a transaction by itself when the disk is full; sqlx does not see that and counts it as open for ever.
            .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
            .after_connect(move |connection, _| {
                let path = path.clone();
                Box::pin(async move { read_modes_back(connection, path, synchronous).await })
            })
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

    /// Copies the database as it is to `reflash.db.schema-N.bak`.
    async fn back_up(&self, connection: &mut SqliteConnection, found: i64) -> Result<(), OpenError> {
        let copy = with_suffix(&self.path, &format!(".schema-{found}.bak"));
        let part = with_suffix(&copy, ".part");
        remove(&part).map_err(|source| self.io(source))?;
        create_private(&part).map_err(|source| self.io(source))?;
        vacuum_into(connection, &part)
            .await
            .map_err(|error| match error {
                CopyError::File(source) => self.io(source),
                CopyError::Database(source) => self.database(source),
            })?;
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
async fn read_modes_back(
    connection: &mut SqliteConnection,
    path: PathBuf,
    wanted_synchronous: &'static str,
) -> Result<(), sqlx::Error> {
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
        ("synchronous", synchronous.to_string(), wanted_synchronous),
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

/// Whether the names and types of all columns are text: the library panics over others, and whoever asked waits for ever.
pub(crate) async fn schema_is_text(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let schema: Vec<Vec<u8>> =
        sqlx::query_scalar("select cast(name || tbl_name || coalesce(sql, '') as blob) from sqlite_schema")
            .fetch_all(connection)
            .await?;
    Ok(schema.iter().all(|part| std::str::from_utf8(part).is_ok()))
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

pub(crate) fn create_private(path: &Path) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(source),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrations::ALL;

    /// The schema of parts 1 and 2 of this program.
    const FIRST: &[Migration] = ALL.split_at(1).0;
    /// The schema of part 3.
    const SECOND: &[Migration] = ALL.split_at(2).0;
    const NEXT: &[Migration] = &[
        Migration { version: 1, ..ALL[0] },
        Migration {
            version: 2,
            sql: "alter table device add column colour text; update device set colour = 'red'",
        },
    ];
    const BROKEN: &[Migration] = &[
        Migration { version: 1, ..ALL[0] },
        Migration {
            version: 2,
            sql: "alter table device add column colour text; update nothing set colour = 'red'",
        },
    ];

    async fn close(opened: Opened) {
        opened.readers.close().await;
        opened.soon.close().await;
        opened.writer.close().await;
    }

    /// A folder of schema 1 with one device.
    async fn of_schema_1() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let opened = open(folder.path(), FIRST).await.unwrap();
        sqlx::query(
            "insert into device (id, family, hardware, strength, address, seen_ms, notes) \
             values ('a', 'f', 'a', 'weak', '127.0.0.1', 1, 'null')",
        )
        .execute(&opened.writer)
        .await
        .unwrap();
        close(opened).await;
        folder
    }

    async fn versions(opened: &Opened) -> Vec<i64> {
        sqlx::query_scalar("select version from schema_version order by version")
            .fetch_all(&opened.readers)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn an_older_schema_is_brought_up_to_date_after_a_backup() {
        let folder = of_schema_1().await;
        let opened = open(folder.path(), NEXT).await.unwrap();
        let colour: String = sqlx::query_scalar("select colour from device")
            .fetch_one(&opened.readers)
            .await
            .unwrap();
        assert_eq!((colour.as_str(), versions(&opened).await), ("red", vec![1, 2]));
        close(opened).await;

        let backup = folder.path().join("reflash.db.schema-1.bak");
        assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
        let restored = tempfile::tempdir().unwrap();
        fs::copy(&backup, restored.path().join(DATABASE)).unwrap();
        let opened = open(restored.path(), FIRST).await.unwrap();
        assert_eq!(versions(&opened).await, [1], "the backup can be opened");
        let n_devices: i64 = sqlx::query_scalar("select count(*) from device")
            .fetch_one(&opened.readers)
            .await
            .unwrap();
        assert_eq!(n_devices, 1);
    }

    #[tokio::test]
    async fn devices_of_the_first_schema_are_kept_and_numbered() {
        let folder = of_schema_1().await;
        let opened = open(folder.path(), FIRST).await.unwrap();
        for id in ["c", "b"] {
            sqlx::query(
                "insert into device (id, family, hardware, strength, address, seen_ms, enrolled_ms, notes) \
                 values ($1, 'f', $1, 'weak', '127.0.0.1', 7, 5, '{}')",
            )
            .bind(id)
            .execute(&opened.writer)
            .await
            .unwrap();
        }
        close(opened).await;
        let opened = open(folder.path(), ALL).await.unwrap();
        let newest = ALL.last().unwrap().version;
        assert_eq!(versions(&opened).await.last(), Some(&newest));
        let rows: Vec<(String, i64, i64, Option<i64>, String, bool)> = sqlx::query_as(
            "select id, number, first_seen_ms, enrolled_ms, tags, removed from device order by id",
        )
        .fetch_all(&opened.readers)
        .await
        .unwrap();
        let row = |id: &str, number, seen, enrolled| {
            (id.to_owned(), number, seen, enrolled, "[]".to_owned(), false)
        };
        assert_eq!(
            rows,
            [
                row("a", 1, 1, None),
                row("b", 2, 7, Some(5)),
                row("c", 3, 7, Some(5))
            ]
        );
        assert!(folder.path().join("reflash.db.schema-1.bak").exists());
    }

    #[tokio::test]
    async fn jobs_of_the_second_schema_are_kept_and_tell_how_they_ended() {
        type Ended = (Option<i64>, Option<String>, Option<String>, Option<i64>);
        let folder = of_schema_1().await;
        let opened = open(folder.path(), SECOND).await.unwrap();
        let outcome = r#"{"ending":"kept-old","next_step":null,"reason":null,"text":"It runs 1.0."}"#;
        // Ended with an outcome, ended without one, ended in another way, damaged, not ended.
        let jobs = [
            (true, "finished", outcome),
            (true, "finished", "null"),
            (true, "settled", outcome),
            (true, "finished", "{"),
            (false, "finished", outcome),
        ];
        for (job, (finished, step, detail)) in (1_i64..).zip(jobs) {
            sqlx::query(
                "insert into job (job, device, image, started_ms, last_seq, finished) values ($1, 'a', '', 5, 2, $2)",
            )
            .bind(job)
            .bind(finished)
            .execute(&opened.writer)
            .await
            .unwrap();
            for (seq, step, detail) in [(1_i64, "finished", outcome), (2, step, detail)] {
                sqlx::query(
                    "insert into job_event (job, seq, epoch, attempt, step, detail, state, boot_id, boot_ns, wall_ms) \
                     values ($1, $2, 1, 0, $3, $4, 'null', '', 0, $2 + 70)",
                )
                .bind(job)
                .bind(seq)
                .bind(step)
                .bind(detail)
                .execute(&opened.writer)
                .await
                .unwrap();
            }
        }
        close(opened).await;
        let opened = open(folder.path(), ALL).await.unwrap();
        let newest = ALL.last().unwrap().version;
        assert_eq!(versions(&opened).await.last(), Some(&newest));
        assert!(folder.path().join("reflash.db.schema-2.bak").exists());
        let rows: Vec<Ended> =
            sqlx::query_as("select rollout, outcome, ending, ended_ms from job order by job")
                .fetch_all(&opened.readers)
                .await
                .unwrap();
        let untold: Ended = (None, None, None, Some(72));
        let told = (
            None,
            Some(outcome.to_owned()),
            Some("kept-old".to_owned()),
            Some(72),
        );
        assert_eq!(
            rows,
            [
                told,
                untold.clone(),
                untold.clone(),
                untold,
                (None, None, None, None)
            ]
        );
    }

    #[tokio::test]
    async fn a_migration_that_fails_changes_nothing() {
        let folder = of_schema_1().await;
        assert!(open(folder.path(), BROKEN).await.is_err());
        let opened = open(folder.path(), FIRST).await.unwrap();
        assert_eq!(versions(&opened).await, [1]);
        close(opened).await;
        let opened = open(folder.path(), NEXT).await.unwrap();
        assert_eq!(versions(&opened).await, [1, 2], "and can be tried again");
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused() {
        let folder = of_schema_1().await;
        close(open(folder.path(), NEXT).await.unwrap()).await;
        let opened = open(folder.path(), FIRST).await;
        assert!(matches!(
            opened,
            Err(OpenError::NewerSchema {
                found: 2,
                known: 1,
                ..
            })
        ));
        close(open(folder.path(), NEXT).await.unwrap()).await;
    }

    #[tokio::test]
    async fn a_database_of_another_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut connection = options(&folder.path().join(DATABASE))
            .create_if_missing(true)
            .connect()
            .await
            .unwrap();
        sqlx::raw_sql("create table theirs (a text)")
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        let opened = open(folder.path(), FIRST).await;
        assert!(matches!(opened, Err(OpenError::Corrupt { .. })));
    }

    #[tokio::test]
    async fn modes_that_would_lose_writes_are_refused() {
        let folder = of_schema_1().await;
        let path = folder.path().join(DATABASE);
        let weak = [
            (
                writing(&path).synchronous(SqliteSynchronous::Normal),
                "synchronous",
            ),
            (writing(&path).synchronous(SqliteSynchronous::Off), "synchronous"),
            (
                writing(&path).journal_mode(SqliteJournalMode::Delete),
                "journal_mode",
            ),
            (writing(&path).foreign_keys(false), "foreign_keys"),
        ];
        for (options, expected) in weak {
            let mut connection = options.connect().await.unwrap();
            let read = read_modes_back(&mut connection, path.clone(), DURABLE).await;
            connection.close().await.unwrap();
            let at = At {
                folder: folder.path().to_owned(),
                path: path.clone(),
            };
            let error = at.database(read.unwrap_err());
            assert!(
                matches!(error, OpenError::Modes { mode, .. } if mode == expected),
                "{error:?}"
            );
        }
    }

    #[tokio::test]
    async fn readers_cannot_write() {
        let folder = of_schema_1().await;
        let opened = open(folder.path(), FIRST).await.unwrap();
        assert!(
            sqlx::query("delete from device")
                .execute(&opened.readers)
                .await
                .is_err()
        );
    }
}
