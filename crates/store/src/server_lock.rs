//! The server's lock: one server in a state folder, beside any number of other processes.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use model::lease::Liveness;

use crate::error::ServerLockError;
use crate::folder;
use crate::process::{Holder, process_is_alive};

const SERVER_LOCK: &str = "server.lock";

/// That this process is the server of its folder, until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct ServerLock {
    _file: File,
}

/// Makes this process the server of a state folder, which is made if it is missing.
pub fn lock_server(state: &Path) -> Result<ServerLock, ServerLockError> {
    let path = state.join(SERVER_LOCK);
    let failed = |source| ServerLockError::Io {
        path: path.clone(),
        source,
    };
    folder::make(state).map_err(failed)?;
    let Some(mut file) = folder::try_lock(&path).map_err(failed)? else {
        return Err(ServerLockError::Held { by: holder(&path) });
    };
    // The lock is what counts; the text only tells people whose it is.
    let told = Holder::this_process().and_then(|us| {
        file.set_len(0)?;
        file.write_all(text(&us).as_bytes())
    });
    told.map_err(failed)?;
    Ok(ServerLock { _file: file })
}

fn text(holder: &Holder) -> String {
    format!(
        "{}\n{}\n{}\n{}\n",
        holder.pid, holder.process_start_ticks, holder.boot_id, holder.host
    )
}

/// Who wrote the lock file; none where it cannot be read, or is of an earlier holder.
fn holder(path: &Path) -> Option<Holder> {
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    let holder = Holder {
        pid: lines.next()?.parse().ok()?,
        process_start_ticks: lines.next()?.parse().ok()?,
        boot_id: lines.next()?.to_owned(),
        host: lines.next()?.to_owned(),
    };
    (process_is_alive(&holder) != Liveness::Dead).then_some(holder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_folder_has_one_server_at_a_time_and_tells_which() {
        let parent = tempfile::tempdir().unwrap();
        let state = parent.path().join("state");
        let lock = lock_server(&state).unwrap();
        for _ in 0..2 {
            match lock_server(&state) {
                Err(ServerLockError::Held { by: Some(by) }) => {
                    assert_eq!(by, Holder::this_process().unwrap());
                }
                other => panic!("{other:?}"),
            }
        }
        let mode = fs::metadata(state.join(SERVER_LOCK))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(lock);
        lock_server(&state).unwrap();
    }

    #[test]
    fn what_an_earlier_server_wrote_is_not_believed() {
        let state = tempfile::tempdir().unwrap();
        let lock = lock_server(state.path()).unwrap();
        let mut earlier = Holder::this_process().unwrap();
        earlier.process_start_ticks -= 1;
        for left in [
            text(&earlier),
            String::new(),
            "7\n".to_owned(),
            "x\ny\nz\n\n".to_owned(),
        ] {
            fs::write(state.path().join(SERVER_LOCK), left).unwrap();
            let held = lock_server(state.path());
            assert!(
                matches!(held, Err(ServerLockError::Held { by: None })),
                "{held:?}"
            );
        }
        drop(lock);
        // A longer text of a server that was killed is gone altogether.
        fs::write(state.path().join(SERVER_LOCK), "x".repeat(1_000)).unwrap();
        let _lock = lock_server(state.path()).unwrap();
        let us = Holder::this_process().unwrap();
        let left = fs::read_to_string(state.path().join(SERVER_LOCK));
        assert_eq!(left.unwrap(), text(&us));
    }

    #[test]
    fn a_folder_that_cannot_be_one_is_refused_in_words() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, b"").unwrap();
        let locked = lock_server(&file);
        assert!(matches!(locked, Err(ServerLockError::Io { .. })), "{locked:?}");
    }
}
