//! The state folder: where it is, who may read it, and the locks in it.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long to wait for another process to finish opening the folder or storing an image.
const LOCK_WAIT: Duration = Duration::from_secs(30);
const LOCK_LOOK_EVERY: Duration = Duration::from_millis(10);

/// The folder that is used where none is named: `$XDG_STATE_HOME/reflash`, or `~/.local/state/reflash`; for root
/// `/var/lib/reflash`.
pub fn default_folder() -> PathBuf {
    folder_for(
        rustix::process::geteuid().is_root(),
        std::env::var_os("XDG_STATE_HOME"),
        std::env::var_os("HOME"),
    )
}

fn folder_for(root: bool, xdg_state_home: Option<OsString>, home: Option<OsString>) -> PathBuf {
    if root {
        return PathBuf::from("/var/lib/reflash");
    }
    // A relative path there is to be ignored (XDG Base Directory Specification).
    let absolute = |text: OsString| Some(PathBuf::from(text)).filter(|path| path.is_absolute());
    let base = xdg_state_home
        .and_then(absolute)
        .or_else(|| home.and_then(absolute).map(|home| home.join(".local/state")));
    // Without a home there is no better place than where we stand.
    base.unwrap_or_default().join("reflash")
}

/// Makes a folder that only this user can enter, and its parents; one that exists is left as it is.
pub(crate) fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Writes a folder's entries to disk.
pub(crate) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Waits for the lock at `path`; none when somebody kept it for too long. Dropping the file unlocks it, and so does death.
pub(crate) async fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = open_lock(path)?;
    let mut waited = Duration::ZERO;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(source)) => return Err(source),
            Err(TryLockError::WouldBlock) if waited >= LOCK_WAIT => return Ok(None),
            Err(TryLockError::WouldBlock) => {
                tokio::time::sleep(LOCK_LOOK_EVERY).await;
                waited += LOCK_LOOK_EVERY;
            }
        }
    }
}

/// The lock at `path` as it stands now; none where somebody has it.
pub(crate) fn try_lock(path: &Path) -> io::Result<Option<File>> {
    taken(open_lock(path)?, File::try_lock)
}

/// A place among those who share the lock at `path`; none where somebody has it alone.
pub(crate) fn try_share(path: &Path) -> io::Result<Option<File>> {
    taken(open_lock(path)?, File::try_lock_shared)
}

fn taken(file: File, take: fn(&File) -> Result<(), TryLockError>) -> io::Result<Option<File>> {
    match take(&file) {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::Error(source)) => Err(source),
        Err(TryLockError::WouldBlock) => Ok(None),
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(root: bool, xdg: Option<&str>, home: Option<&str>, expected: &str) {
        let folder = folder_for(root, xdg.map(Into::into), home.map(Into::into));
        assert_eq!(folder, Path::new(expected));
    }

    #[test]
    fn the_default_folder_follows_the_user() {
        check(false, Some("/x"), Some("/home/u"), "/x/reflash");
        check(false, None, Some("/home/u"), "/home/u/.local/state/reflash");
        check(false, Some("x"), Some("/home/u"), "/home/u/.local/state/reflash");
        check(false, Some(""), Some("/home/u"), "/home/u/.local/state/reflash");
        check(true, Some("/x"), Some("/root"), "/var/lib/reflash");
    }
}
