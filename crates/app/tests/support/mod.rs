//! What the tests of the whole program share: a simulated device of its own for each, and the real binary as a process.
#![allow(dead_code, reason = "each test binary uses its share")]

use std::ffi::OsStr;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sim::ir_remote::{Chip, Config, Device, start};
use sim::{EventKind, EventSink};
use tempfile::TempDir;

/// A command that runs longer than this hangs.
const HANGS: Duration = Duration::from_mins(4);
/// How long anything may take that should come by itself.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// How often a process is asked whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Length of most images, bytes: more than all buffers on the way hold, so that a break in the middle is one.
pub(crate) const IMAGE_LEN: usize = 128 * 1024;
/// The password of the simulated devices unless a test sets another.
pub(crate) const PASSWORD: &str = "ir_remote_update";
/// The environment variable that commands read the password from.
pub(crate) const PASSWORD_ENV: &str = "REFLASH_TEST_PASSWORD";

/// A loopback address that no other device of this process has.
pub(crate) fn own_address() -> Ipv4Addr {
    static N_TAKEN: AtomicU32 = AtomicU32::new(0);
    let n = N_TAKEN.fetch_add(1, Ordering::Relaxed);
    // Processes that run at the same time keep apart by their id, though a free port would do as well.
    let [.., process] = std::process::id().to_be_bytes();
    let [_, _, high, low] = (n * 4 + 4).to_be_bytes();
    Ipv4Addr::new(127, 64 + process / 2, high, low)
}

/// An application image for the chip of [`Config::new`].
pub(crate) fn image(version: Option<&str>, seed: u8) -> Vec<u8> {
    sim::firmware::image(chip("esp32c6"), version, IMAGE_LEN, seed)
}

pub(crate) fn chip(name: &str) -> Chip {
    name.parse().unwrap()
}

/// SHA-256 in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A simulated device, and the state folder of whoever updates it.
pub(crate) struct Rig {
    pub(crate) device: Device,
    pub(crate) events: EventSink,
    pub(crate) folder: TempDir,
}

impl Rig {
    /// A device that is back 0.3 s after a restart.
    pub(crate) async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(own_address());
        config.boot = Duration::from_millis(300);
        change(&mut config);
        let events = EventSink::new();
        Self {
            device: start(config, events.clone()).await.unwrap(),
            events,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Writes a file into the folder beside the state.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Where the journal is.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// `reflash push` of this file to the device, with its ports and the journal in `state`.
    pub(crate) fn push_in(&self, state: &Path, file: &Path) -> Command {
        let mut command = reflash(["push"]);
        command
            .arg(self.device.ip().to_string())
            .arg(file)
            .args(["--ota-port", &self.device.ota_port().to_string()])
            .args(["--http-port", &self.device.http_port().to_string()])
            .arg("--state")
            .arg(state);
        command
    }

    /// The same with the journal in our own folder, the right password and a soak of 2 s.
    pub(crate) fn push_for_people(&self, file: &Path) -> Command {
        let mut command = self.push_in(&self.state(), file);
        command
            .args(["--soak", "2s", "--password-env", PASSWORD_ENV])
            .env(PASSWORD_ENV, PASSWORD);
        command
    }

    /// The same with a result in JSON.
    pub(crate) fn push(&self, file: &Path) -> Command {
        let mut command = self.push_for_people(file);
        command.arg("--json");
        command
    }

    /// How many pushes the device has seen: events, as INTERFACES.md says them.
    pub(crate) fn n_pushes(&self) -> usize {
        self.events.count(|event| event.kind == EventKind::Receiving)
    }

    /// Waits for an event after `mark`.
    #[track_caller]
    pub(crate) fn wait(&self, mark: usize, kind: EventKind) -> impl Future<Output = sim::Event> {
        let caller = std::panic::Location::caller();
        async move {
            let found = self
                .events
                .wait_after(mark, |event| event.kind == kind, HANGS)
                .await;
            found.unwrap_or_else(|| panic!("{caller}: no {kind:?} after {mark} in {:#?}", self.events.log()))
        }
    }

    /// Whether the device runs this image, by its own account.
    pub(crate) fn runs(&self, image: &[u8]) -> bool {
        self.device.running().sha256 == Some(sha256(image))
    }
}

/// The program with these arguments, and without anything of our environment that would change it.
pub(crate) fn reflash(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflash"));
    command
        .args(arguments)
        .env_remove("REFLASH_LOG")
        .env_remove("RUST_BACKTRACE")
        .env_remove("XDG_STATE_HOME")
        .stdin(Stdio::null());
    command
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(command: Command) -> impl Future<Output = Ended> {
    Running::start(command).end()
}

/// A command that runs. It is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    since: Instant,
    shown: String,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        command
            .stdout(stdout.try_clone().unwrap())
            .stderr(stderr.try_clone().unwrap());
        Self {
            child: command.spawn().unwrap(),
            stdout,
            stderr,
            since: Instant::now(),
            shown: format!("{command:?}"),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it without any warning, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.kill_now();
    }

    /// The same for somebody who keeps it.
    pub(crate) fn kill_now(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Closes its standard input, if that was a pipe.
    pub(crate) fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until this is on its standard output.
    pub(crate) async fn says(&self, text: &str) {
        while !read(&self.stdout).contains(text) {
            assert!(
                self.since.elapsed() < HANGS,
                "{} does not say {text:?}",
                self.shown
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until this is on its standard error.
    pub(crate) async fn tells(&self, text: &str) {
        while !self.told().contains(text) {
            assert!(
                self.since.elapsed() < HANGS,
                "{} does not tell {text:?}",
                self.shown
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How long it has been running.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// What is on its standard output so far.
    pub(crate) fn said(&self) -> String {
        read(&self.stdout)
    }

    /// What is on its standard error so far.
    pub(crate) fn told(&self) -> String {
        read(&self.stderr)
    }

    /// Waits for its end.
    pub(crate) async fn end(mut self) -> Ended {
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            assert!(
                self.since.elapsed() < HANGS,
                "{} hangs; so far it said {}{}",
                self.shown,
                read(&self.stdout),
                read(&self.stderr)
            );
            tokio::time::sleep(LOOK_EVERY).await;
        };
        Ended {
            code,
            took: self.since.elapsed(),
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
            shown: std::mem::take(&mut self.shown),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has mostly ended by now, and then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a file whose position the child moves.
fn read(file: &File) -> String {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    let n_bytes = file.read_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes[..n_bytes]).into_owned()
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// None when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
    pub(crate) shown: String,
}

impl Ended {
    /// What it said on standard output, which is one JSON value and nothing else.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// Outcome, reason and exit code.
    #[track_caller]
    pub(crate) fn verdict(&self) -> (String, Option<String>, Option<i32>) {
        let said = self.json();
        let text = |name: &str| said[name].as_str().map(str::to_owned);
        (text("outcome").unwrap_or_default(), text("reason"), self.code)
    }

    /// Checks outcome and exit code.
    #[track_caller]
    pub(crate) fn is(&self, outcome: &str, code: i32) -> &Self {
        let (found, _, found_code) = self.verdict();
        assert_eq!((found.as_str(), found_code), (outcome, Some(code)), "{self:#?}");
        self
    }
}
