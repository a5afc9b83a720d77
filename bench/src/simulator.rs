//! Simulated devices in a process of their own: `reflash simulate ir-remote`.

use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::access_point::command_in;

/// How long the simulator may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// An event, and when it was read.
pub(crate) type Timed = (Instant, Value);

/// The running simulator; dropping it ends it.
pub(crate) struct Simulator {
    child: Child,
    events: Receiver<Timed>,
    reader: Option<JoinHandle<()>>,
    /// UDP port of all devices.
    pub(crate) ota_port: u16,
    /// TCP port of all devices' web servers.
    pub(crate) http_port: u16,
}

impl Simulator {
    /// Starts `count` devices from `bind` on, on free ports, and waits until they answer.
    pub(crate) fn start(reflash: &Path, bind: Ipv4Addr, count: usize, more: &[&str]) -> Result<Self> {
        Self::start_in(None, reflash, bind, count, more)
    }

    /// The same in a network namespace.
    pub(crate) fn start_in(
        namespace: Option<&str>,
        reflash: &Path,
        bind: Ipv4Addr,
        count: usize,
        more: &[&str],
    ) -> Result<Self> {
        let mut child = command_in(namespace, reflash)
            .args(["simulate", "ir-remote", "--ota-port", "0", "--http-port", "0"])
            .args(["--bind", &bind.to_string(), "--count", &count.to_string()])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", reflash.display()))?;
        let (events, reader) = events(&mut child)?;
        let mut simulator = Self {
            child,
            events,
            reader: Some(reader),
            ota_port: 0,
            http_port: 0,
        };
        for _ in 0..count {
            let Some(ready) = simulator.wait(START_LIMIT, |event| event["event"] == "ready") else {
                bail!("the simulated devices did not start");
            };
            let port = |name: &str| ready[name].as_u64().and_then(|port| u16::try_from(port).ok());
            simulator.ota_port = port("ota_port").context("the simulator tells no OTA port")?;
            simulator.http_port = port("http_port").context("the simulator tells no HTTP port")?;
        }
        Ok(simulator)
    }

    /// Its process, as `/proc` names it.
    pub(crate) fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// The next event that fits, if it comes in time; those before it are dropped.
    pub(crate) fn wait(&self, limit: Duration, fits: impl Fn(&Value) -> bool) -> Option<Value> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let (_, event) = self.events.recv_timeout(left).ok()?;
            if fits(&event) {
                return Some(event);
            }
        }
    }

    /// All events that have come and not been looked at.
    pub(crate) fn drain(&self) -> Vec<Value> {
        self.drain_timed().into_iter().map(|(_, event)| event).collect()
    }

    /// The same with when each was told.
    pub(crate) fn drain_timed(&self) -> Vec<Timed> {
        self.events.try_iter().collect()
    }
}

/// What a simulator tells on its standard output, and who reads it there until it ends.
pub(crate) fn events(simulator: &mut Child) -> Result<(Receiver<Timed>, JoinHandle<()>)> {
    let out = simulator
        .stdout
        .take()
        .context("the simulator has no standard output")?;
    let (sender, events) = channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let Ok(event) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            if sender.send((Instant::now(), event)).is_err() {
                break;
            }
        }
    });
    Ok((events, reader))
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
