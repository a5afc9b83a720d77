//! The server with 1,000 simulated devices: CPU of a poll, memory, and how long it takes to serve.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::access_point::command_in;
use crate::simulator::Simulator;
use crate::system::{cpu_of, load_average, median, usage_of};

/// The first of the devices; a thousand of them lie in one /22.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 10, 0, 1);
const NETWORK: &str = "127.10.0.0/22";
/// How long the server may take to find all devices.
const FOUND_LIMIT: Duration = Duration::from_mins(1);
/// How long it may take to serve or to end.
const LIMIT: Duration = Duration::from_secs(20);
/// How often to look whether something is so. The server takes 600 requests a minute.
const OFTEN: Duration = Duration::from_millis(5);
const SELDOM: Duration = Duration::from_millis(500);
/// Targets of ../shared/PERFORMANCE.md E3, U8 and E7.
const POLL_MAX_US: f64 = 120.0;
const STEADY_MAX_PERCENT: f64 = 0.3;
const ANON_MAX_MB: f64 = 8.0;
const RSS_MAX_MB: f64 = 20.0;
const START_MAX_MS: f64 = 100.0;

#[derive(clap::Args)]
pub(crate) struct PollArguments {
    /// Devices.
    #[arg(long, default_value_t = 1000)]
    devices: usize,
    /// Turns of ours and the peer.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Rounds of each turn.
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Seconds between two polls of a device, in the turns.
    #[arg(long, default_value_t = 5)]
    every: u64,
    /// How long to watch it at one poll of each device a minute, seconds; 0 for not.
    #[arg(long, default_value_t = 180)]
    steady: u64,
    /// The interpreter that has aiohttp; empty for no peer.
    #[arg(long, default_value = "python3")]
    python: String,
}

#[derive(clap::Args)]
pub(crate) struct MemoryArguments {
    /// Devices.
    #[arg(long, default_value_t = 1000)]
    devices: usize,
    /// Servers, one after the other.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Seconds between two polls of a device.
    #[arg(long, default_value_t = 10)]
    every: u64,
    /// Rounds of polls before the memory is looked at.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The broker; empty for none.
    #[arg(long, default_value = "/usr/sbin/mosquitto")]
    mosquitto: String,
}

#[derive(clap::Args)]
pub(crate) struct StartArguments {
    /// Devices.
    #[arg(long, default_value_t = 1000)]
    devices: usize,
    /// Starts.
    #[arg(long, default_value_t = 10)]
    runs: usize,
}

/// Waits for something, with an end.
fn until(what: &str, limit: Duration, every: Duration, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    while !is_so()? {
        ensure!(Instant::now() < end, "waited too long until {what}");
        sleep(every);
    }
    Ok(())
}

/// A server; dropping it ends it.
pub(crate) struct Server {
    child: Child,
    socket: PathBuf,
}

/// What is in its configuration.
pub(crate) struct Home {
    folder: tempfile::TempDir,
    config: PathBuf,
    namespace: Option<String>,
}

impl Home {
    /// An empty data folder, and a configuration that finds the devices of a simulator and polls them so often.
    pub(crate) fn new(simulator: &Simulator, poll_every_s: u64, broker: Option<u16>) -> Result<Self> {
        Self::of(NETWORK, None, simulator, poll_every_s, broker)
    }

    /// The same for devices of a network, with the server in a namespace.
    pub(crate) fn of(
        network: &str,
        namespace: Option<&str>,
        simulator: &Simulator,
        poll_every_s: u64,
        broker: Option<u16>,
    ) -> Result<Self> {
        let folder = tempfile::tempdir().context("making a folder")?;
        let config = folder.path().join("reflash.yaml");
        let namespace = namespace.map(str::to_owned);
        let home = Self {
            folder,
            config,
            namespace,
        };
        home.configure(network, simulator, poll_every_s, broker)?;
        Ok(home)
    }

    fn configure(
        &self,
        network: &str,
        simulator: &Simulator,
        poll_every_s: u64,
        broker: Option<u16>,
    ) -> Result<()> {
        let mut text = format!(
            "server:\n  allowed_networks: [\"{network}\"]\nir_remote_ota:\n  network_range: \"{network}\"\n  \
             scan_interval: 1d\n  poll_interval: {poll_every_s}\n  http_port: {}\n  ota_port: {}\n",
            simulator.http_port, simulator.ota_port
        );
        if let Some(port) = broker {
            // Writing to a string does not fail.
            let _ = write!(text, "mqtt:\n  broker: \"mqtt://127.0.0.1:{port}\"\n");
        }
        std::fs::write(&self.config, text).context("writing the configuration")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The command that serves here: owned by us, or on the network as well.
    fn serve(&self, reflash: &Path, managed: bool) -> Command {
        let mut command = command_in(self.namespace.as_deref(), reflash);
        command
            .arg("serve")
            .arg("--config")
            .arg(&self.config)
            .arg("--data")
            .arg(self.data())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if managed {
            command.arg("--managed");
        } else {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command
    }

    pub(crate) fn start(&self, reflash: &Path, managed: bool) -> Result<Server> {
        let child = self
            .serve(reflash, managed)
            .spawn()
            .context("starting the server")?;
        let server = Server {
            child,
            socket: self.data().join("reflash.sock"),
        };
        until("it serves", LIMIT, OFTEN, || {
            Ok(get(&server.socket, "/health").is_ok())
        })?;
        Ok(server)
    }
}

impl Server {
    pub(crate) fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// All polls so far, and those that failed.
    fn polls(&self) -> Result<(u64, u64)> {
        polls_in(&get(&self.socket, "/metrics")?)
    }

    fn n_online(&self) -> Result<usize> {
        let metrics = get(&self.socket, "/metrics")?;
        let online = metrics
            .lines()
            .find_map(|line| line.strip_prefix("reflash_devices{state=\"online\"} "));
        Ok(online.and_then(|number| number.parse().ok()).unwrap_or(0))
    }

    /// Until all devices are known and each was polled so often.
    pub(crate) fn settle(&self, n_devices: usize, rounds: usize) -> Result<()> {
        until("all devices are online", FOUND_LIMIT, SELDOM, || {
            Ok(self.n_online()? >= n_devices)
        })?;
        let wanted = self.polls()?.0 + u64::try_from(n_devices * rounds)?;
        until("all were polled", 10 * FOUND_LIMIT, SELDOM, || {
            Ok(self.polls()?.0 >= wanted)
        })
    }

    /// CPU seconds, polls and failures of some time.
    fn watch(&self, for_: Duration) -> Result<(f64, u64, u64)> {
        let (cpu_s, (polls, failed)) = (cpu_of(&self.pid()), self.polls()?);
        sleep(for_);
        let now = self.polls()?;
        Ok((cpu_of(&self.pid()) - cpu_s, now.0 - polls, now.1 - failed))
    }

    /// Its local socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn end(mut self) -> Result<()> {
        let ended = Command::new("kill")
            .args(["-TERM", &self.pid()])
            .status()
            .context("ending the server")?;
        ensure!(ended.success(), "the server was gone");
        let status = self.child.wait()?;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All polls of a page of metrics, and those that failed.
fn polls_in(metrics: &str) -> Result<(u64, u64)> {
    let (mut all, mut failed) = (0, 0);
    for line in metrics
        .lines()
        .filter(|line| line.starts_with("reflash_polls_total"))
    {
        let number = line.rsplit(' ').next().context("an empty line")?;
        let number: u64 = number.parse().with_context(|| format!("no number in {line:?}"))?;
        all += number;
        if line.contains("result=\"failed\"") {
            failed += number;
        }
    }
    Ok((all, failed))
}

/// The body of a 200 of the local socket.
pub(crate) fn get(socket: &Path, path: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{path} answered {head}");
    Ok(body.to_owned())
}

/// A broker on loopback; dropping it ends it.
pub(crate) struct Broker {
    child: Child,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

impl Broker {
    pub(crate) fn start(program: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = free_port()?;
        let config = folder.path().join("mosquitto.conf");
        std::fs::write(
            &config,
            format!("listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n"),
        )?;
        let child = Command::new(program)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        Ok(Self {
            child,
            port,
            _folder: folder,
        })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the broker cannot be asked which port it took"
)]
fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// What a poll costs, beside a poller made with `aiohttp`; and what a fleet costs at one poll a minute.
#[expect(clippy::cast_precision_loss, reason = "small whole numbers")]
pub(crate) fn poll(reflash: &Path, arguments: &PollArguments) -> Result<()> {
    let n_devices = arguments.devices;
    let simulator = Simulator::start(reflash, FIRST, n_devices, &[])?;
    let home = Home::new(&simulator, arguments.every, None)?;
    let window = Duration::from_secs(arguments.every) * u32::try_from(arguments.rounds)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..arguments.runs {
        let load = load_average();
        let server = home.start(reflash, true)?;
        server.settle(n_devices, 1)?;
        let (cpu_s, polls, failed) = server.watch(window)?;
        server.end()?;
        let each_us = cpu_s * 1e6 / polls as f64;
        ours.push(each_us);
        println!(
            "  reflash: {polls} polls ({failed} failed), CPU {cpu_s:.2} s, {each_us:.0} us a poll; load before {load}"
        );
        if !arguments.python.is_empty() {
            let report = aiohttp(arguments, &simulator)?;
            let (polls, cpu_s) = (report["polls"].as_f64(), report["cpu_s"].as_f64());
            let each_us = cpu_s.context("no CPU")? * 1e6 / polls.context("no polls")?;
            theirs.push(each_us);
            println!("  aiohttp: {report}, {each_us:.0} us a poll");
        }
    }
    let (each_us, their_us) = (median(&ours), median(&theirs));
    println!(
        "a poll with its database write, medians of {}: {each_us:.0} us (at most {POLL_MAX_US}: {}); aiohttp {their_us:.0} us, \
         {:.1} times as much",
        ours.len(),
        met(each_us <= POLL_MAX_US),
        their_us / each_us
    );
    if arguments.steady > 0 {
        home.configure(NETWORK, &simulator, 60, None)?;
        let server = home.start(reflash, true)?;
        server.settle(n_devices, 1)?;
        let (cpu_s, polls, failed) = server.watch(Duration::from_secs(arguments.steady))?;
        server.end()?;
        let percent = cpu_s * 100.0 / arguments.steady as f64;
        println!(
            "{n_devices} devices every 60 s, for {} s: {polls} polls ({failed} failed), CPU {cpu_s:.2} s = {percent:.2} % of a core \
             (at most {STEADY_MAX_PERCENT}: {}), {:.0} us a poll with all that the server does besides",
            arguments.steady,
            met(percent <= STEADY_MAX_PERCENT),
            cpu_s * 1e6 / polls as f64
        );
    }
    Ok(())
}

fn aiohttp(arguments: &PollArguments, simulator: &Simulator) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("aiohttp_poll.py");
    let output = Command::new(&arguments.python)
        .arg(script)
        .args([FIRST.to_string(), arguments.devices.to_string()])
        .args([simulator.http_port.to_string(), arguments.every.to_string()])
        .arg(arguments.rounds.to_string())
        .arg(folder.path().join("poll.db"))
        .stderr(Stdio::inherit())
        .output()
        .context("starting the peer")?;
    ensure!(output.status.success(), "the peer failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The memory of a server that has polled all devices some times and has told of them once.
#[expect(clippy::cast_precision_loss, reason = "small whole numbers")]
pub(crate) fn memory(reflash: &Path, arguments: &MemoryArguments) -> Result<()> {
    let mb = |kib: u64| kib as f64 * 1024.0 / 1e6;
    let broker = match arguments.mosquitto.as_str() {
        "" => None,
        program => Some(Broker::start(program)?),
    };
    let port = broker.as_ref().map(|broker| broker.port);
    let reported = port.map(|port| format!("127.0.0.1:{port}"));
    let mut more = Vec::new();
    if let Some(reported) = &reported {
        more.extend([
            "--mqtt",
            reported,
            "--mqtt-topic",
            "home/ir_remote_mini/<mac>/status",
        ]);
    }
    let simulator = Simulator::start(reflash, FIRST, arguments.devices, &more)?;
    let (mut anon, mut rss, mut anon_known) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.runs {
        let load = load_average();
        let home = Home::new(&simulator, arguments.every, port)?;
        // Once as the one that found them all, and once with them known from the beginning.
        for is_first in [true, false] {
            let server = home.start(reflash, false)?;
            server.settle(arguments.devices, arguments.rounds)?;
            let before = usage_of(&server.pid());
            let listed = get(&server.socket, "/api/v1/devices")?.len();
            let sources = get(&server.socket, "/api/v1/discovery")?;
            sleep(Duration::from_secs(2));
            let after = usage_of(&server.pid());
            let threads = std::fs::read_dir(format!("/proc/{}/task", server.pid()))?.count();
            server.end()?;
            println!(
                "  {}: RssAnon {:.2} MB ({:.2} before the list of {listed} B), RSS {:.2} MB, peak RSS {:.2} MB, {threads} threads; \
                 load before {load}",
                if is_first {
                    "having found them"
                } else {
                    "having known them"
                },
                mb(after.anon_kib),
                mb(before.anon_kib),
                mb(after.rss_kib),
                mb(after.peak_rss_kib),
            );
            if is_first {
                println!("    sources: {sources}");
                anon.push(mb(after.anon_kib));
            } else {
                anon_known.push(mb(after.anon_kib));
            }
            rss.push(mb(after.rss_kib));
        }
    }
    let (anon_mb, rss_mb) = (median(&anon), median(&rss));
    println!(
        "{} devices, medians of {}: RssAnon {anon_mb:.2} MB having found them (at most {ANON_MAX_MB}: {}), {:.2} MB having known \
         them, RSS {rss_mb:.2} MB (at most {RSS_MAX_MB}: {})",
        arguments.devices,
        anon.len(),
        met(anon_mb <= ANON_MAX_MB),
        median(&anon_known),
        met(rss_mb <= RSS_MAX_MB),
    );
    Ok(())
}

/// From the start of the process to the READY line, and to the first 200 of `/health`.
pub(crate) fn start(reflash: &Path, arguments: &StartArguments) -> Result<()> {
    let simulator = Simulator::start(reflash, FIRST, arguments.devices, &[])?;
    let home = Home::new(&simulator, 60, None)?;
    let server = home.start(reflash, true)?;
    server.settle(arguments.devices, 0)?;
    server.end()?;
    let (mut ready_ms, mut health_ms) = (Vec::new(), Vec::new());
    for _ in 0..arguments.runs {
        let began = Instant::now();
        let mut child = home.serve(reflash, true).spawn().context("starting the server")?;
        let out = child.stdout.take().context("no standard output")?;
        let server = Server {
            child,
            socket: home.data().join("reflash.sock"),
        };
        let mut said = BufReader::new(out);
        let mut line = String::new();
        said.read_line(&mut line)?;
        let ready = began.elapsed();
        if !line.starts_with("READY") {
            bail!("the server said {line:?}");
        }
        until("it serves", LIMIT, OFTEN, || {
            Ok(get(&server.socket, "/health").is_ok())
        })?;
        let health = began.elapsed();
        let devices: Vec<Value> = serde_json::from_str(&get(&server.socket, "/api/v1/devices")?)?;
        ensure!(devices.len() == arguments.devices, "{} devices", devices.len());
        server.end()?;
        ready_ms.push(ready.as_secs_f64() * 1e3);
        health_ms.push(health.as_secs_f64() * 1e3);
    }
    let worst_ms = health_ms.iter().copied().fold(0.0, f64::max);
    println!(
        "start to serving with {} known devices, medians of {}: READY {:.0} ms, first 200 of /health {:.0} ms, worst {worst_ms:.0} ms \
         (at most {START_MAX_MS}: {})",
        arguments.devices,
        arguments.runs,
        median(&ready_ms),
        median(&health_ms),
        met(median(&health_ms) <= START_MAX_MS),
    );
    Ok(())
}

fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "MISSED" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_of_all_families_and_results_are_added() {
        let metrics = "# TYPE reflash_polls counter\n\
                       reflash_polls_total{family=\"ir-remote\",result=\"answered\"} 40\n\
                       reflash_polls_total{family=\"ir-remote\",result=\"failed\"} 2\n\
                       reflash_polls_total{family=\"komfovent\",result=\"answered\"} 5\n\
                       reflash_scans_total 3\n";
        assert_eq!(polls_in(metrics).unwrap(), (47, 2));
        assert_eq!(polls_in("").unwrap(), (0, 0));
    }
}
