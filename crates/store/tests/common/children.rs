//! Children: this test program once more, told by its environment what to be.
#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Runs the test `name` of this program as a child, behind the words of `wrapper`.
pub fn child(wrapper: &[&str], name: &str, folder: &Path) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut words: Vec<std::ffi::OsString> = wrapper.iter().map(Into::into).collect();
    words.push(program.into());
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args([name, "--exact", "--nocapture", "--test-threads", "1"])
        .env("STORE_CHILD_FOLDER", folder)
        .stdout(Stdio::piped());
    command
}

/// The folder of this child; none where this is no child.
pub fn childs_folder() -> Option<PathBuf> {
    std::env::var_os("STORE_CHILD_FOLDER").map(PathBuf::from)
}

/// What a child says in lines `seq N`.
pub fn told_seqs(lines: impl Iterator<Item = String>) -> impl Iterator<Item = i64> {
    lines.filter_map(|line| line.trim().strip_prefix("seq ").map(|seq| seq.parse().unwrap()))
}

/// Kills its process when dropped.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether this machine lets us mount; says so where it does not.
pub fn can_mount() -> bool {
    let tried = Command::new("unshare")
        .args(["--mount", "sh", "-c", "mount -t tmpfs none /mnt"])
        .stderr(Stdio::null())
        .status();
    let can = tried.is_ok_and(|status| status.success());
    if !can {
        println!("skipped: no permission to mount a small disk here");
    }
    can
}

/// Runs a child in which `folder` is a disk of its own.
#[track_caller]
pub fn run_on_disk(mount_options: &str, name: &str) {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script =
        format!("mount -t tmpfs -o {mount_options} none \"$STORE_CHILD_FOLDER\" && exec \"$0\" \"$@\"");
    let mut command = child(&["unshare", "--mount", "sh", "-c", &script], name, folder.path());
    let output = command.stderr(Stdio::piped()).output().unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("1 passed"), "{stdout}");
    assert!(stdout.contains("was a child"), "{stdout}");
}

pub fn fill(folder: &Path) -> PathBuf {
    let filler = folder.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 512]).is_ok() {}
    filler
}

/// Whether system calls can be made to fail here; says so where not.
pub fn can_inject() -> bool {
    let tried = Command::new("strace")
        .args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "inject=fdatasync:error=EIO",
            "true",
        ])
        .stderr(Stdio::null())
        .status();
    let can = tried.is_ok_and(|status| status.success());
    if !can {
        println!("skipped: no strace here to make fsync fail");
    }
    can
}
