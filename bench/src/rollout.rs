//! A rollout to many devices that take 100 kB/s each, by a real server: how near to the ideal, and what it costs.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::access_point::{self, AccessPoint, command_in};
use crate::server::{Broker, Home, Server, get};
use crate::simulator::Simulator;
use crate::system::{cpu_of, cpu_of_children, median, usage_of};

/// The simulator's usual password.
const PASSWORD: &str = "ir_remote_update";
/// How often the server is asked how far it is.
const EVERY: Duration = Duration::from_millis(250);
/// How long a rollout may take.
const LIMIT: Duration = Duration::from_mins(10);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Devices.
    #[arg(long, default_value_t = 250)]
    devices: usize,
    /// Length of the image, KiB.
    #[arg(long, default_value_t = 1024)]
    kib: usize,
    /// What each device takes, bytes per second.
    #[arg(long, default_value_t = 100_000)]
    rate: u32,
    /// Rollouts, each by a server of its own.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// How many at the same time: `auto` or a number.
    #[arg(long, default_value = "auto")]
    at_once: String,
    /// What all devices take together, bytes per second: they are behind one access point, a cable between two network
    /// namespaces (as root). Without it each has its own.
    #[arg(long)]
    access_point: Option<u64>,
    /// The broker that the server is connected to; empty for none. Never with an access point.
    #[arg(long, default_value = "/usr/sbin/mosquitto")]
    mosquitto: String,
    /// After each rollout the same image to all devices at once by senders that behave as `espota.py`, a process each.
    #[arg(long)]
    peers: bool,
    /// The sender.
    #[arg(long, default_value = "bench/espota_baseline.py")]
    baseline: PathBuf,
    /// The Python that runs it.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
}

/// What the same took by `espota.py`'s behaviour.
struct Peers {
    /// Until the last byte of the last device had arrived, seconds.
    sent_s: f64,
    /// CPU for each device, milliseconds.
    cpu_ms: f64,
    /// Private memory of all of them together at most, MiB.
    peak_mib: f64,
    /// Devices without an OK.
    n_failed: usize,
}

/// One rollout.
struct Run {
    /// Until the last byte of the last device had arrived, seconds.
    sent_s: f64,
    /// Until every device was proven, seconds.
    proven_s: f64,
    /// CPU of the server for each device, milliseconds.
    cpu_ms: f64,
    /// What private memory grew by at most, MiB.
    grown_mib: f64,
    /// Devices that were updated.
    n_updated: usize,
    /// The same by others.
    peers: Option<Peers>,
    /// For each device, from its answering again until the server told that it is proven, seconds, sorted.
    proofs_s: Vec<f64>,
}

/// Events of the server, each with when it came.
struct Told {
    events: std::sync::mpsc::Receiver<(Instant, Value)>,
}

impl Told {
    /// Listens from now on, until the server ends.
    fn by(server: &Server) -> Result<Self> {
        let mut stream = UnixStream::connect(server.socket())?;
        stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let (sender, events) = std::sync::mpsc::channel();
        let mut lines = BufReader::new(stream).lines();
        // Its first line is there once it listens.
        lines.next().context("no answer")??;
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(data) = line.strip_prefix("data:")
                    && let Ok(data) = serde_json::from_str(data)
                    && sender.send((Instant::now(), data)).is_err()
                {
                    break;
                }
            }
        });
        Ok(Self { events })
    }

    /// How long each device that answered at some time was not proven, seconds, sorted.
    fn proofs_s(&self, up: &HashMap<String, Instant>) -> Vec<f64> {
        let finished = self
            .events
            .try_iter()
            .filter(|(_, event)| event["kind"] == "job.finished");
        let mut proofs_s: Vec<f64> = finished
            .filter_map(|(at, event)| {
                let up = up.get(event["device"].as_str()?)?;
                Some(at.saturating_duration_since(*up).as_secs_f64())
            })
            .collect();
        proofs_s.sort_by(f64::total_cmp);
        proofs_s
    }
}

pub(crate) fn run(reflash: &Path, arguments: &Arguments) -> Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "sizes of images")]
    let (one_s, together_s) = {
        let len_bytes = (arguments.kib * 1024) as f64;
        let of_all = |rate: u64| len_bytes * arguments.devices as f64 / rate as f64;
        (
            len_bytes / f64::from(arguments.rate),
            arguments.access_point.map_or(0.0, of_all),
        )
    };
    let ideal_s = one_s.max(together_s);
    println!(
        "{} devices, {} KiB at {} B/s each, {} together: ideal {ideal_s:.2} s; at once: {}",
        arguments.devices,
        arguments.kib,
        arguments.rate,
        arguments
            .access_point
            .map_or("as much as they like".to_owned(), |rate| format!("{rate} B/s")),
        arguments.at_once
    );
    let mut runs = Vec::new();
    for _ in 0..arguments.runs {
        let run = once(reflash, arguments)?;
        println!(
            "sent {:.2} s ({:.3} of the ideal), proven {:.2} s, {:.2} ms CPU a device, {:.1} MiB above idle, {} updated, \
             proven after answering again: half within {:.2} s, 99 of 100 within {:.2} s",
            run.sent_s,
            run.sent_s / ideal_s,
            run.proven_s,
            run.cpu_ms,
            run.grown_mib,
            run.n_updated,
            share(&run.proofs_s, 0.5),
            share(&run.proofs_s, 0.99)
        );
        if let Some(peers) = &run.peers {
            println!(
                "  espota.py's behaviour, a process each: sent {:.2} s ({:.3} of the ideal), {:.1} ms CPU a device, {:.0} MiB, {} failed",
                peers.sent_s,
                peers.sent_s / ideal_s,
                peers.cpu_ms,
                peers.peak_mib,
                peers.n_failed
            );
        }
        ensure!(run.n_updated == arguments.devices, "not all were updated");
        runs.push(run);
    }
    let of = |figure: fn(&Run) -> f64| median(&runs.iter().map(figure).collect::<Vec<_>>());
    println!(
        "median: {:.3} of the ideal, {:.2} ms CPU a device, {:.1} MiB above idle",
        of(|run| run.sent_s) / ideal_s,
        of(|run| run.cpu_ms),
        of(|run| run.grown_mib)
    );
    if runs.iter().all(|run| run.peers.is_some()) {
        let of_peers = |figure: fn(&Peers) -> f64| {
            median(
                &runs
                    .iter()
                    .filter_map(|run| run.peers.as_ref())
                    .map(figure)
                    .collect::<Vec<_>>(),
            )
        };
        println!(
            "median of the peers: {:.3} of the ideal, {:.1} ms CPU a device = {:.1} times ours, {:.0} MiB",
            of_peers(|peers| peers.sent_s) / ideal_s,
            of_peers(|peers| peers.cpu_ms),
            of_peers(|peers| peers.cpu_ms) / of(|run| run.cpu_ms),
            of_peers(|peers| peers.peak_mib)
        );
    }
    Ok(())
}

/// A rollout by a server, and what it is compared with.
fn once(reflash: &Path, arguments: &Arguments) -> Result<Run> {
    let first = Ipv4Addr::new(10, 78, 0, 1);
    let access_point = arguments
        .access_point
        .map(|rate| AccessPoint::build(first, arguments.devices, rate))
        .transpose()?;
    let mut run = ours(reflash, arguments, access_point.as_ref())?;
    if arguments.peers {
        run.peers = Some(theirs(reflash, arguments, access_point.as_ref())?);
    }
    Ok(run)
}

/// The devices, before they are behind anything else than what they are behind.
fn simulator(
    reflash: &Path,
    arguments: &Arguments,
    access_point: Option<&AccessPoint>,
) -> Result<(Simulator, Ipv4Addr)> {
    let rate = arguments.rate.to_string();
    let more = ["--rate", rate.as_str(), "--boot-s", "1"];
    let first = match access_point {
        Some(_) => Ipv4Addr::new(10, 78, 0, 1),
        None => Ipv4Addr::new(127, 10, 0, 1),
    };
    let namespace = access_point.map(|access_point| access_point.devices.as_str());
    Ok((
        Simulator::start_in(namespace, reflash, first, arguments.devices, &more)?,
        first,
    ))
}

/// The image to all devices at once, by a process for each.
#[expect(clippy::cast_precision_loss, reason = "numbers of devices and kibibytes")]
fn theirs(reflash: &Path, arguments: &Arguments, access_point: Option<&AccessPoint>) -> Result<Peers> {
    let (simulator, first) = simulator(reflash, arguments, access_point)?;
    let file = tempfile::NamedTempFile::new().context("making a file for the image")?;
    std::fs::write(&file, image(arguments)?)?;
    let namespace = access_point.map(|access_point| access_point.home.as_str());
    let (cpu_s, begun) = (cpu_of_children(), Instant::now());
    let mut senders = Vec::new();
    for n_device in 0..arguments.devices {
        let sender = command_in(namespace, &arguments.python)
            .arg(&arguments.baseline)
            .args([
                sim::nth_address(first, n_device)?.to_string(),
                simulator.ota_port.to_string(),
            ])
            .arg(file.path())
            .env("OTA_PASSWORD", PASSWORD)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting a sender")?;
        senders.push(sender);
    }
    let (mut peak_kib, mut n_failed) = (0, 0);
    while !senders.is_empty() {
        sleep(EVERY);
        let kib = senders
            .iter()
            .map(|sender| usage_of(&sender.id().to_string()).anon_kib);
        peak_kib = peak_kib.max(kib.sum());
        let mut running = Vec::new();
        for mut sender in senders {
            match sender.try_wait()? {
                Some(status) => n_failed += usize::from(!status.success()),
                None => running.push(sender),
            }
        }
        senders = running;
        ensure!(begun.elapsed() < LIMIT, "the senders take too long");
    }
    let events = simulator.drain_timed();
    let received = events.iter().filter(|(_, event)| event["event"] == "received");
    let last = received.map(|(at, _)| at.duration_since(begun)).max();
    // The simulator is still running, so its time is not among that of the children.
    Ok(Peers {
        sent_s: last.context("nothing was received")?.as_secs_f64(),
        cpu_ms: (cpu_of_children() - cpu_s) * 1000.0 / arguments.devices as f64,
        peak_mib: peak_kib as f64 / 1024.0,
        n_failed,
    })
}

fn image(arguments: &Arguments) -> Result<Vec<u8>> {
    let chip = "esp32c6".parse()?;
    Ok(sim::firmware::image(chip, Some("2.0.0"), arguments.kib * 1024, 1))
}

fn ours(reflash: &Path, arguments: &Arguments, access_point: Option<&AccessPoint>) -> Result<Run> {
    let (simulator, _) = simulator(reflash, arguments, access_point)?;
    let with_broker = access_point.is_none() && !arguments.mosquitto.is_empty();
    let broker = with_broker
        .then(|| Broker::start(&arguments.mosquitto))
        .transpose()?;
    let home = match access_point {
        Some(access_point) => Home::of(
            access_point::BEHIND,
            Some(&access_point.home),
            &simulator,
            60,
            None,
        )?,
        None => Home::new(&simulator, 60, broker.as_ref().map(|broker| broker.port))?,
    };
    let server = home.start(reflash, false)?;
    fill(&server, arguments)?;
    sleep(Duration::from_secs(2));
    simulator.drain();
    let told = Told::by(&server)?;
    let pid = server.pid();
    let (cpu_s, idle) = (cpu_of(&pid), usage_of(&pid));
    let wanted = json!({ "all": true, "canary": 0, "soak_s": 0, "at_once": arguments.at_once });
    let begun = Instant::now();
    let rollout = post(
        &server,
        "rollouts",
        "application/json",
        wanted.to_string().as_bytes(),
    )?;
    let id = rollout["id"].as_i64().context("no number of a rollout")?;
    let (mut grown_kib, mut last_received) = (0, Duration::ZERO);
    let mut up = HashMap::new();
    loop {
        for (at, event) in simulator.drain_timed() {
            let device = event["device"].as_str().unwrap_or_default().to_owned();
            match event["event"].as_str() {
                Some("received") => last_received = at.duration_since(begun),
                Some("up") => drop(up.insert(device, at)),
                _ => {}
            }
        }
        grown_kib = grown_kib.max(usage_of(&pid).anon_kib.saturating_sub(idle.anon_kib));
        let list: Value = serde_json::from_str(&get(server.socket(), "/api/v1/rollouts?limit=1")?)?;
        if !["running", "scheduled"].contains(&list[0]["state"].as_str().unwrap_or_default()) {
            let n_updated = list[0]["counts"]["updated"].as_u64().unwrap_or(0);
            if usize::try_from(n_updated)? < arguments.devices {
                println!("not all were updated: {}", list[0]["counts"]);
            }
            ensure!(list[0]["id"].as_i64() == Some(id), "another rollout");
            let proven_s = begun.elapsed().as_secs_f64();
            let used_s = cpu_of(&pid) - cpu_s;
            sleep(EVERY);
            #[expect(clippy::cast_precision_loss, reason = "numbers of devices and kibibytes")]
            let run = Run {
                sent_s: last_received.as_secs_f64(),
                proven_s,
                cpu_ms: used_s * 1000.0 / arguments.devices as f64,
                grown_mib: grown_kib as f64 / 1024.0,
                n_updated: usize::try_from(n_updated)?,
                peers: None,
                proofs_s: told.proofs_s(&up),
            };
            server.end()?;
            return Ok(run);
        }
        ensure!(begun.elapsed() < LIMIT, "the rollout takes too long");
        sleep(EVERY);
    }
}

/// All devices are found and enrolled, and the image is there.
fn fill(server: &Server, arguments: &Arguments) -> Result<()> {
    server.settle(arguments.devices, 0)?;
    let devices: Value = serde_json::from_str(&get(server.socket(), "/api/v1/devices")?)?;
    let ids: Vec<&str> = devices
        .as_array()
        .context("no list of devices")?
        .iter()
        .filter_map(|device| device["id"].as_str())
        .collect();
    post(
        server,
        "devices/enroll",
        "application/json",
        json!({ "devices": ids }).to_string().as_bytes(),
    )?;
    let image = image(arguments)?;
    post(
        server,
        "firmware?file_name=bench_v2.0.0.bin",
        "application/octet-stream",
        &image,
    )?;
    Ok(())
}

/// What so large a share of them is not above; NaN of none.
fn share(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list"
    )]
    let at = ((sorted.len() as f64 * share).ceil() as usize).max(1) - 1;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// Asks the local socket to do something.
fn post(server: &Server, path: &str, kind: &str, body: &[u8]) -> Result<Value> {
    let mut stream = UnixStream::connect(server.socket())?;
    stream.set_read_timeout(Some(Duration::from_mins(1)))?;
    let head = format!(
        "POST /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 2"), "{path} answered {answer}");
    serde_json::from_str(body).context("no JSON")
}
