//! The line of writers: one writes at a time, and those who wait share a commit.
//!
//! A commit waits for the disk.
//! So whoever has written does not commit at once but goes to the end of the line: those before it write into the same
//! transaction, and one commit then makes all of it durable.
//! Nobody returns before that, so that what is done next is as durable as if each had committed for itself.
//! Who finds the line empty commits at once: waiting for company would only cost time.
//!
//! What one of them takes back, or leaves half written, is undone by a savepoint and touches no other.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::{Sqlite, SqliteConnection, SqlitePool, Transaction};
use tokio::sync::{Mutex, MutexGuard, watch};

use crate::error::{StoreErrorKind, kind_of};

/// How long to wait for one's place: several writers before, each waiting its busy timeout.
const PLACE_WAIT: Duration = Duration::from_secs(30);

/// How a shared transaction has ended; none as long as it has not.
type End = Option<Result<(), StoreErrorKind>>;

/// The line of writers of one process.
#[derive(Debug)]
pub(crate) struct Line {
    desk: Mutex<Desk>,
}

/// Where one writes at a time.
struct Desk {
    writer: SqlitePool,
    state: State,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Desk")
    }
}

enum State {
    /// No transaction is open.
    Idle,
    /// A transaction is open.
    Open(Open),
    /// It is being committed; whoever comes next goes on with that if the one who began it is gone.
    Committing(
        Pin<Box<dyn Future<Output = Result<(), sqlx::Error>> + Send>>,
        Arc<Shared>,
    ),
}

struct Open {
    transaction: Transaction<'static, Sqlite>,
    shared: Arc<Shared>,
    /// How many have written all they had to.
    n_written: usize,
    savepoint: Savepoint,
    left: Left,
}

/// How the last one who wrote has left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// With all of it written.
    Whole,
    /// In the middle, by himself.
    Half,
    /// In the middle, after something had failed.
    Failed(StoreErrorKind),
}

/// Whether there is a savepoint before what is being written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Savepoint {
    No,
    Yes,
    /// Whoever wanted to make it was gone before it was known.
    Untold,
}

/// What those of one transaction share.
#[derive(Debug)]
struct Shared {
    end: watch::Sender<End>,
    /// How many wait for its end.
    n_waiting: AtomicUsize,
}

/// A place at the desk: what is written is undone unless it is finished.
pub(crate) struct Place<'l> {
    line: &'l Line,
    /// Given away when it is dropped or finished.
    desk: Option<MutexGuard<'l, Desk>>,
    /// What failed here first.
    failed: Option<StoreErrorKind>,
}

/// Why there is no place.
pub(crate) enum NoPlace {
    /// The line did not move.
    TooLong,
    /// The database.
    Database(sqlx::Error),
}

impl Line {
    pub(crate) fn new(writer: SqlitePool) -> Self {
        Self {
            desk: Mutex::new(Desk {
                writer,
                state: State::Idle,
            }),
        }
    }

    /// A place in the shared transaction, which is opened if need be.
    pub(crate) async fn place(&self) -> Result<Place<'_>, NoPlace> {
        let mut desk = self.desk().await?;
        desk.settle().await;
        desk.open().await.map_err(NoPlace::Database)?;
        Ok(Place {
            line: self,
            desk: Some(desk),
            failed: None,
        })
    }

    /// The desk alone, if nobody has written there: for who writes by another connection. Else a place as any other.
    pub(crate) async fn alone(&self) -> Result<Alone<'_>, NoPlace> {
        let mut desk = self.desk().await?;
        desk.settle().await;
        if matches!(desk.state, State::Idle) {
            return Ok(Alone::Yes(Turn { _desk: desk }));
        }
        desk.open().await.map_err(NoPlace::Database)?;
        Ok(Alone::No(Place {
            line: self,
            desk: Some(desk),
            failed: None,
        }))
    }

    /// Waits until nothing is open any more.
    pub(crate) async fn clear(&self) {
        let mut desk = self.desk.lock().await;
        desk.settle().await;
        desk.state = State::Idle;
    }

    async fn desk(&self) -> Result<MutexGuard<'_, Desk>, NoPlace> {
        let desk = tokio::time::timeout(PLACE_WAIT, self.desk.lock()).await;
        desk.map_err(|_| NoPlace::TooLong)
    }

    /// Undoes a transaction for whose end nobody waits any more.
    fn sweep(&self, shared: &Arc<Shared>) {
        if shared.n_waiting.load(Ordering::SeqCst) > 0 {
            return;
        }
        // Who is at the desk now does the same when leaving it.
        if let Ok(mut desk) = self.desk.try_lock() {
            desk.drop_if_deserted();
        }
    }
}

/// Whether somebody has the desk alone.
pub(crate) enum Alone<'l> {
    /// No shared transaction is open, and none is opened meanwhile.
    Yes(Turn<'l>),
    /// Others have written already, and wait for their commit.
    No(Place<'l>),
}

/// The desk, for as long as this lives.
pub(crate) struct Turn<'l> {
    _desk: MutexGuard<'l, Desk>,
}

impl Desk {
    /// Ends what earlier ones have left: a commit under way, or something half written.
    async fn settle(&mut self) {
        if let State::Committing(commit, shared) = &mut self.state {
            let committed = commit.await.map_err(|error| kind_of(&error));
            shared.end.send_replace(Some(committed));
            self.state = State::Idle;
        }
        let State::Open(open) = &mut self.state else {
            return;
        };
        if open.left == Left::Whole {
            return;
        }
        // It fails where SQLite has undone the whole transaction, as on a full disk: then nobody's is there any more.
        let undone = sqlx::raw_sql("rollback to written")
            .execute(&mut *open.transaction)
            .await;
        match undone {
            Ok(_) => open.left = Left::Whole,
            Err(error) => {
                let kind = match open.left {
                    Left::Failed(kind) => kind,
                    Left::Half | Left::Whole => kind_of(&error),
                };
                open.shared.end.send_replace(Some(Err(kind)));
                self.state = State::Idle;
            }
        }
    }

    /// Opens a transaction, or marks in the open one what is there already.
    async fn open(&mut self) -> Result<(), sqlx::Error> {
        if let State::Open(open) = &mut self.state {
            // One savepoint at a time: SQLite keeps what was before each of them.
            let sql = match open.savepoint {
                Savepoint::Yes => "release written; savepoint written",
                Savepoint::No | Savepoint::Untold => "savepoint written",
            };
            open.savepoint = Savepoint::Untold;
            sqlx::raw_sql(sql).execute(&mut *open.transaction).await?;
            open.savepoint = Savepoint::Yes;
            return Ok(());
        }
        // The write lock is taken at once: a read lock that grows later fails instead of waiting.
        let transaction = self.writer.begin_with("begin immediate").await?;
        self.state = State::Open(Open {
            transaction,
            shared: Arc::new(Shared {
                end: watch::Sender::new(None),
                n_waiting: AtomicUsize::new(0),
            }),
            n_written: 0,
            savepoint: Savepoint::No,
            left: Left::Whole,
        });
        Ok(())
    }

    /// Commits what was written, unless somebody has done so.
    async fn commit(&mut self, shared: &Arc<Shared>) {
        self.settle().await;
        if shared.end.borrow().is_some() {
            return;
        }
        self.state = match std::mem::replace(&mut self.state, State::Idle) {
            State::Open(open) => {
                State::Committing(Box::pin(open.transaction.commit()), Arc::clone(&open.shared))
            }
            other => other,
        };
        self.settle().await;
    }

    /// Undoes the open transaction if nobody waits for its end: it would keep other processes from writing.
    fn drop_if_deserted(&mut self) {
        if let State::Open(open) = &self.state
            && open.shared.n_waiting.load(Ordering::SeqCst) == 0
        {
            self.state = State::Idle;
        }
    }
}

impl Place<'_> {
    /// The connection to write by.
    pub(crate) fn connection(&mut self) -> &mut SqliteConnection {
        match self.desk.as_mut().map(|desk| &mut desk.state) {
            Some(State::Open(open)) => &mut open.transaction,
            _ => unreachable!("a place is given away with its transaction open, and leaves it so"),
        }
    }

    /// Something written here has failed: it cannot be finished any more.
    pub(crate) fn fail(&mut self, kind: StoreErrorKind) {
        self.failed.get_or_insert(kind);
    }

    /// Waits until what was written is durable, together with what others write meanwhile.
    pub(crate) async fn finish(mut self) -> Result<(), StoreErrorKind> {
        if let Some(kind) = self.failed {
            return Err(kind);
        }
        let (line, mut desk) = (self.line, self.desk.take());
        let Some(State::Open(open)) = desk.as_mut().map(|desk| &mut desk.state) else {
            unreachable!("a place is given away with its transaction open, and leaves it so");
        };
        open.n_written += 1;
        let waiting = Waiting::of(line, &open.shared);
        let mut end = waiting.shared.end.subscribe();
        drop(desk);
        // Dropped, the first arm only stops listening, and the second leaves the line.
        tokio::select! {
            biased;
            () = async { drop(end.wait_for(Option::is_some).await) } => {}
            mut desk = line.desk.lock() => desk.commit(&waiting.shared).await,
        }
        let end = *waiting.shared.end.borrow();
        // It was dropped as deserted only if nobody waited.
        end.unwrap_or(Err(StoreErrorKind::Io))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(mut desk) = self.desk.take() else { return };
        let State::Open(open) = &mut desk.state else {
            return;
        };
        let shared = Arc::clone(&open.shared);
        if open.n_written == 0 {
            // Nobody else has anything in it.
            desk.state = State::Idle;
            return;
        }
        open.left = self.failed.map_or(Left::Half, Left::Failed);
        desk.drop_if_deserted();
        drop(desk);
        // The last one may have stopped waiting while the desk was taken.
        self.line.sweep(&shared);
    }
}

/// Somebody who waits for the end of a transaction.
struct Waiting<'l> {
    line: &'l Line,
    shared: Arc<Shared>,
}

impl<'l> Waiting<'l> {
    fn of(line: &'l Line, shared: &Arc<Shared>) -> Self {
        shared.n_waiting.fetch_add(1, Ordering::SeqCst);
        Self {
            line,
            shared: Arc::clone(shared),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.n_waiting.fetch_sub(1, Ordering::SeqCst);
        self.line.sweep(&self.shared);
    }
}
