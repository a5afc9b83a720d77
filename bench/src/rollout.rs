//! A rollout to many devices that take 100 kB/s each, by a real server: how near to the ideal, and what it costs.

use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::server::{Home, Server, get};
use crate::simulator::Simulator;
use crate::system::{cpu_of, median, usage_of};

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
}

pub(crate) fn run(reflash: &Path, arguments: &Arguments) -> Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "sizes of images")]
    let ideal_s = (arguments.kib * 1024) as f64 / f64::from(arguments.rate);
    println!(
        "{} devices, {} KiB at {} B/s each: ideal {ideal_s:.2} s; at once: {}",
        arguments.devices, arguments.kib, arguments.rate, arguments.at_once
    );
    let mut runs = Vec::new();
    for _ in 0..arguments.runs {
        let run = once(reflash, arguments)?;
        println!(
            "sent {:.2} s ({:.3} of the ideal), proven {:.2} s, {:.2} ms CPU a device, {:.1} MiB above idle, {} updated",
            run.sent_s,
            run.sent_s / ideal_s,
            run.proven_s,
            run.cpu_ms,
            run.grown_mib,
            run.n_updated
        );
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
    Ok(())
}

fn once(reflash: &Path, arguments: &Arguments) -> Result<Run> {
    let rate = arguments.rate.to_string();
    let more = ["--rate", rate.as_str(), "--boot-s", "1"];
    let simulator = Simulator::start(reflash, Ipv4Addr::new(127, 10, 0, 1), arguments.devices, &more)?;
    let home = Home::new(&simulator, 60, None)?;
    let server = home.start(reflash, false)?;
    server.settle(arguments.devices, 0)?;
    let devices: Value = serde_json::from_str(&get(server.socket(), "/api/v1/devices")?)?;
    let ids: Vec<&str> = devices
        .as_array()
        .context("no list of devices")?
        .iter()
        .filter_map(|device| device["id"].as_str())
        .collect();
    post(
        &server,
        "devices/enroll",
        "application/json",
        json!({ "devices": ids }).to_string().as_bytes(),
    )?;
    let image = sim::firmware::image("esp32c6".parse()?, Some("2.0.0"), arguments.kib * 1024, 1);
    post(
        &server,
        "firmware?file_name=bench_v2.0.0.bin",
        "application/octet-stream",
        &image,
    )?;
    sleep(Duration::from_secs(2));
    simulator.drain();
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
    loop {
        let events = simulator.drain();
        if events.iter().any(|event| event["event"] == "received") {
            last_received = begun.elapsed();
        }
        grown_kib = grown_kib.max(usage_of(&pid).anon_kib.saturating_sub(idle.anon_kib));
        let list: Value = serde_json::from_str(&get(server.socket(), "/api/v1/rollouts?limit=1")?)?;
        if !["running", "scheduled"].contains(&list[0]["state"].as_str().unwrap_or_default()) {
            let n_updated = list[0]["counts"]["updated"].as_u64().unwrap_or(0);
            ensure!(list[0]["id"].as_i64() == Some(id), "another rollout");
            let proven_s = begun.elapsed().as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "numbers of devices and kibibytes")]
            let run = Run {
                sent_s: last_received.as_secs_f64(),
                proven_s,
                cpu_ms: (cpu_of(&pid) - cpu_s) * 1000.0 / arguments.devices as f64,
                grown_mib: grown_kib as f64 / 1024.0,
                n_updated: usize::try_from(n_updated)?,
            };
            server.end()?;
            return Ok(run);
        }
        ensure!(begun.elapsed() < LIMIT, "the rollout takes too long");
        sleep(EVERY);
    }
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
