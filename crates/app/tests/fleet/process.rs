//! Programs that a test starts, and what they say, line by line.

use std::io::{BufRead as _, BufReader, Read};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::netns::Host;

/// How long anything may take that should come by itself.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// How often it is looked whether a program has ended, and how often it is asked to.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// The program under test.
pub(crate) const REFLASH: &str = env!("CARGO_BIN_EXE_reflash");

/// A program that runs; killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Arc<Lines>,
}

#[derive(Default)]
struct Lines {
    said: Mutex<Vec<String>>,
    more: Condvar,
}

impl Process {
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Lines::default());
        read_on(child.stdout.take().unwrap(), Arc::clone(&lines));
        read_on(child.stderr.take().unwrap(), Arc::clone(&lines));
        Self { child, lines }
    }

    /// Everything that it said, on both ways.
    pub(crate) fn said(&self) -> Vec<String> {
        self.lines.said.lock().unwrap().clone()
    }

    /// The first thing that `find` makes of a line, past ones included.
    #[track_caller]
    pub(crate) fn wait_for<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        let mut said = self.lines.said.lock().unwrap();
        let mut n_seen = 0;
        loop {
            if let Some(found) = said[n_seen..].iter().find_map(|line| find(line)) {
                return found;
            }
            n_seen = said.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let said = {
                    let mut said = said;
                    std::mem::take(&mut *said)
                };
                panic!("no {what} in:\n{}", said.join("\n"));
            }
            said = self.lines.more.wait_timeout(said, left).unwrap().0;
        }
    }

    /// Ctrl-C, and until it has ended.
    #[track_caller]
    pub(crate) fn interrupt(&mut self) {
        let id = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        let deadline = Instant::now() + SOON;
        let mut next = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(
                Instant::now() < deadline,
                "it does not end:\n{}",
                self.said().join("\n")
            );
            if Instant::now() >= next {
                // Mosquitto forgets one that comes right after it has said that it runs.
                let _ = kill_process(id, Signal::INT);
                next = Instant::now() + ASK_AGAIN;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_on(output: impl Read + Send + 'static, lines: Arc<Lines>) {
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { return };
            lines.said.lock().unwrap().push(line);
            lines.more.notify_all();
        }
    });
}

/// `reflash simulate ir-remote` on a host.
pub(crate) struct Simulator {
    pub(crate) process: Process,
}

impl Simulator {
    /// Starts it at the host's address, and waits until it answers.
    #[track_caller]
    pub(crate) fn start(host: &Host, arguments: &[&str]) -> Self {
        Self::start_by(host.command(REFLASH), host.address, arguments)
    }

    /// The same at the first address of loopback; the arguments have to name ports.
    #[track_caller]
    pub(crate) fn on_loopback(arguments: &[&str]) -> Self {
        Self::start_by(Command::new(REFLASH), Ipv4Addr::LOCALHOST, arguments)
    }

    #[track_caller]
    fn start_by(mut command: Command, address: Ipv4Addr, arguments: &[&str]) -> Self {
        command
            .args(["simulate", "ir-remote", "--bind", &address.to_string()])
            .args(arguments);
        let simulator = Self {
            process: Process::start(&mut command),
        };
        simulator.wait_for("ready");
        simulator
    }

    /// The first event of this kind, past ones included.
    #[track_caller]
    pub(crate) fn wait_for(&self, kind: &str) -> Value {
        self.process
            .wait_for(kind, |line| event(line).filter(|event| event["event"] == kind))
    }

    /// All events of this kind so far.
    pub(crate) fn events(&self, kind: &str) -> Vec<Value> {
        let events = self.process.said().into_iter().filter_map(|line| event(&line));
        events.filter(|event| event["event"] == kind).collect()
    }
}

fn event(line: &str) -> Option<Value> {
    serde_json::from_str(line).ok()
}
