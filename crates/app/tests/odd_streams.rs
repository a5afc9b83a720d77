//! Files and streams that are not what a program expects them to be.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

fn reflash() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflash"));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Runs it, but not for ever.
#[track_caller]
fn ended(command: &mut Command) -> ExitStatus {
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() >= deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_pipe_that_nobody_writes_to_is_no_image_and_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.bin");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let status = ended(reflash().args(["firmware", "inspect"]).arg(&pipe));
    assert_eq!(status.code(), Some(1));
    let status = ended(reflash().args(["push", "127.0.0.1"]).arg(&pipe));
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_full_standard_error_does_not_change_how_it_ends() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = ended(
        reflash()
            .args(["firmware", "inspect", "/nonexistent/a.bin"])
            .stderr(full),
    );
    assert_eq!(status.code(), Some(3));
}

#[test]
fn a_missing_file_with_a_name_that_is_no_text_is_reported_as_json() {
    let name = OsStr::from_bytes(b"/nonexistent/\xFF.bin");
    let output = reflash()
        .args(["firmware", "inspect", "--json"])
        .arg(name)
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["file"], "/nonexistent/\u{FFFD}.bin");
    assert_eq!(report["accepted"], false);
}
