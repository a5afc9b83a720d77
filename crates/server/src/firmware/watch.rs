//! Watches the folder: reads it when something changes, and every few seconds in case nobody tells.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::chain::chain;
use model::firmware::State;
use model::id::Sha256;
use model::image::{Image, Inspection};
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use store::FirmwareRow;
use tokio::sync::Notify;

use super::error::RepositoryError;
use super::folder::{self, Due, Turn};
use super::settings::Pace;
use super::{Change, ChangeKind, Repository, Source, locked};

/// How long changes are gathered before the folder is read. Taste: a copy makes many, and nobody sees a tenth of a second.
const GATHER: Duration = Duration::from_millis(100);
/// How long the folder may take to be read before it counts as dead. Guess: a network share that is asleep.
const PATIENCE: Duration = Duration::from_secs(15);

/// Watches until it is dropped.
pub(super) async fn run(repository: &Repository) {
    let woken = Arc::new(Notify::new());
    let mut watcher: Option<(RecommendedWatcher, (u64, u64))> = None;
    let mut place: Option<PathBuf> = None;
    loop {
        let settings = repository.settings();
        if place != settings.folder {
            watcher = None;
            place.clone_from(&settings.folder);
            locked(&repository.inner.folder).forget();
        }
        let Some(path) = &place else {
            repository.inner.applied.notified().await;
            continue;
        };
        read_folder(repository, path, &settings.pace).await;
        let (identity, next_due) = {
            let folder = locked(&repository.inner.folder);
            let now = repository.inner.clock.now().boot;
            (folder.identity(), folder.next_due(now, &settings.pace))
        };
        // Another folder in its place, or the same one after it had gone: the old watch is blind.
        let is_blind = match (&watcher, identity) {
            (Some((_, of)), Some(identity)) => *of != identity,
            (None, Some(_)) => true,
            (_, None) => {
                watcher = None;
                false
            }
        };
        if is_blind && let Some(identity) = identity {
            watcher = watch(path, &woken).map(|watcher| (watcher, identity));
            if watcher.is_some() {
                // What changed before the watch began.
                woken.notify_one();
            }
        }
        let rest = settings.pace.rescan;
        let rest = next_due
            .map_or(rest, |due| due.min(rest))
            .max(Duration::from_millis(10));
        // All are safe to drop: what is not waited for is kept by `Notify`.
        tokio::select! {
            () = woken.notified() => tokio::time::sleep(GATHER).await,
            () = repository.inner.applied.notified() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

fn watch(path: &Path, woken: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let woken = Arc::clone(woken);
    let told = move |event: notify::Result<notify::Event>| {
        // Our own reading is no change.
        let is_reading = event.as_ref().is_ok_and(|event| {
            matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
        });
        if !is_reading {
            woken.notify_one();
        }
    };
    let watcher = notify::recommended_watcher(told).and_then(|mut watcher| {
        watcher.watch(path, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watcher
        .inspect_err(|error| {
            let error: &dyn std::error::Error = error;
            tracing::debug!(error, "the firmware folder is only read every few seconds");
        })
        .ok()
}

/// Reads the folder once and takes in what is due.
async fn read_folder(repository: &Repository, path: &Path, pace: &Pace) {
    let reading = {
        let path = path.to_owned();
        patiently(repository, move || folder::list(&path)).await
    };
    let reading = match reading {
        Ok(reading) => reading,
        Err(error) => {
            let trouble = format!("{}.", folder::reason(&error));
            let turn = locked(&repository.inner.folder).lose(trouble.clone());
            if turn == Turn::Lost {
                tracing::warn!(folder = %path.display(), trouble, "the firmware folder cannot be read");
                tell(
                    repository,
                    path,
                    format!("The firmware folder cannot be read: {trouble}"),
                );
            }
            return;
        }
    };
    let notes = reading.notes();
    let now = repository.inner.clock.now().boot;
    let (due, turn) = locked(&repository.inner.folder).read(reading, now, pace);
    if turn == Turn::Found {
        tell(
            repository,
            path,
            "The firmware folder can be read again.".to_owned(),
        );
    }
    for due in due {
        if let Err(error) = take(repository, path, &due).await {
            let error = chain(&error);
            tracing::warn!(
                file_name = due.name,
                error,
                "a file of the firmware folder cannot be taken"
            );
            locked(&repository.inner.folder).put_off(&due, now, &error);
        }
    }
    let notes = locked(&repository.inner.folder).notes_due(&notes);
    for (digest, name) in notes {
        let path = path.to_owned();
        let read = patiently(repository, move || folder::read_notes(&path, &name)).await;
        if let Ok(text) = read
            && let Err(error) = repository.set_notes(&digest, &text).await
        {
            tracing::warn!(%digest, error = &error as &dyn std::error::Error, "release notes cannot be kept");
        }
    }
    if let Err(error) = forget_refused(repository).await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "what was refused cannot be forgotten"
        );
    }
}

/// Why a file was not taken.
#[derive(Debug, thiserror::Error)]
enum TakeError {
    #[error("it cannot be read")]
    Read(#[source] std::io::Error),
    #[error("it cannot be kept")]
    Keep(#[source] RepositoryError),
}

async fn take(repository: &Repository, path: &Path, due: &Due) -> Result<(), TakeError> {
    let bytes = {
        let (path, due) = (path.to_owned(), due.clone());
        patiently(repository, move || folder::read(&path, &due)).await
    };
    let Some(bytes) = bytes.map_err(TakeError::Read)? else {
        // It is changing: the next reading will see that.
        return Ok(());
    };
    let image = Image::new(&due.name, bytes);
    if !due.is_old && is_doubtful(repository, &image) {
        locked(&repository.inner.folder).doubt(due);
        return Ok(());
    }
    let before = superseded(repository, &due.name, image.sha256());
    let added = repository
        .add(&image, &Source::Folder, "folder")
        .await
        .map_err(TakeError::Keep)?;
    locked(&repository.inner.folder).take(due, added.digest);
    for digest in before {
        drop_half_copy(repository, digest, &image)
            .await
            .map_err(TakeError::Keep)?;
    }
    Ok(())
}

/// Whether a good file is odd in a way in which a part of one would be.
fn is_doubtful(repository: &Repository, image: &Image) -> bool {
    repository.inner.families.iter().any(
        |family| matches!(family.inspect(image), Inspection::Accepted(info) if !info.warnings.is_empty()),
    )
}

/// Other images that came from the folder under this name.
fn superseded(repository: &Repository, name: &str, digest: Sha256) -> Vec<Sha256> {
    let catalogue = repository.catalogue();
    let others = catalogue.all().iter().filter(|kept| {
        kept.row.digest != digest && kept.row.source == Source::Folder.name() && kept.row.file_name == name
    });
    others.map(|kept| kept.row.digest).collect()
}

/// Forgets what was only the beginning of this file: it was read while somebody was still copying.
async fn drop_half_copy(
    repository: &Repository,
    digest: Sha256,
    whole: &Image,
) -> Result<(), RepositoryError> {
    let half = repository.image(&digest).await?;
    let is_beginning = half.len_bytes() < whole.len_bytes() && whole.bytes().starts_with(half.bytes());
    if is_beginning {
        forget(repository, digest).await
    } else {
        Ok(())
    }
}

/// Refused files that no longer lie in the folder are of no use to anybody.
async fn forget_refused(repository: &Repository) -> Result<(), RepositoryError> {
    let Some(taken) = locked(&repository.inner.folder).all_taken() else {
        return Ok(());
    };
    let gone: Vec<Sha256> = {
        let is_gone = |row: &FirmwareRow| {
            row.state == State::Refused && row.source == Source::Folder.name() && !taken.contains(&row.digest)
        };
        let catalogue = repository.catalogue();
        let kept = catalogue.all().iter().filter(|kept| is_gone(&kept.row));
        kept.map(|kept| kept.row.digest).collect()
    };
    for digest in gone {
        forget(repository, digest).await?;
    }
    Ok(())
}

/// What is needed stays.
async fn forget(repository: &Repository, digest: Sha256) -> Result<(), RepositoryError> {
    match repository.remove(&digest).await {
        Err(
            RepositoryError::InUse { .. }
            | RepositoryError::NotFound { .. }
            | RepositoryError::InFolder { .. },
        ) => Ok(()),
        removed => removed,
    }
}

/// Does blocking work on the folder. A share that does not answer is shown as such, and waited for.
async fn patiently<T: Send + 'static>(
    repository: &Repository,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let mut working = tokio::task::spawn_blocking(work);
    let in_time = tokio::time::timeout(PATIENCE, &mut working).await;
    let done = if let Ok(done) = in_time {
        done
    } else {
        locked(&repository.inner.folder).lose("it does not answer.".to_owned());
        working.await
    };
    done.map_err(std::io::Error::other)?
}

fn tell(repository: &Repository, path: &Path, text: String) {
    let path: PathBuf = path.to_owned();
    repository.tell(Change {
        kind: ChangeKind::Folder,
        digest: None,
        name: path.display().to_string(),
        text,
    });
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
