//! One push over a long round trip.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::proxy::{Network, Proxy, carry};
use crate::simulator::Simulator;
use crate::system::median;

/// The simulated device.
const DEVICE: Ipv4Addr = Ipv4Addr::new(127, 20, 1, 1);
/// The proxy towards the host.
const AS_DEVICE: Ipv4Addr = Ipv4Addr::new(127, 20, 2, 1);
/// The proxy towards the device.
const AS_HOST: Ipv4Addr = Ipv4Addr::new(127, 20, 3, 1);
/// The simulator's usual password.
const PASSWORD: &str = "ir_remote_update";
/// How long one push may take.
const RUN_LIMIT: Duration = Duration::from_mins(2);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Round trips, milliseconds.
    #[arg(long, value_delimiter = ',', default_value = "20,100")]
    round_trips: Vec<u32>,
    /// The device's receive window, bytes (ESP32, lwIP's default).
    #[arg(long, default_value_t = 5744)]
    window: usize,
    /// The image, KiB.
    #[arg(long, default_value_t = 256)]
    kib: usize,
    /// Runs of each peer.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// The baseline.
    #[arg(long, default_value = "bench/espota_baseline.py")]
    baseline: PathBuf,
    /// The Python that runs it.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Only the pipelined push.
    #[arg(long)]
    pipelined_only: bool,
}

#[derive(clap::Args)]
pub(crate) struct CheckArguments {
    /// Round trips, milliseconds.
    #[arg(long, value_delimiter = ',', default_value = "20,100")]
    round_trips: Vec<u32>,
    /// The receive window, bytes.
    #[arg(long, default_value_t = 5744)]
    window: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Pipelined,
    StopAndWait,
    Espota,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Pipelined => "reflash, pipelined",
            Self::StopAndWait => "reflash, stop-and-wait",
            Self::Espota => "espota.py's behaviour",
        }
    }
}

/// What one run took, seconds.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// From the first invitation to the final OK, both seen at the host's end of the wire.
    transfer: f64,
    /// From the connection to the final OK, seen there too.
    upload: f64,
    /// What the sender itself says: `evidence.push_s`, or the baseline's own clock.
    own: f64,
    /// The whole process.
    process: f64,
}

/// Pushes with each peer in turn, and prints the medians and their ratios.
pub(crate) fn run(reflash: &Path, arguments: &Arguments) -> Result<()> {
    check(&CheckArguments {
        round_trips: arguments.round_trips.clone(),
        window: arguments.window,
    })?;
    let folder = TempDir::new().context("making a folder for the run")?;
    let file = folder.path().join("ir_remote_v2.0.0.bin");
    let chip = "esp32c6".parse()?;
    let image = sim::firmware::image(chip, Some("2.0.0"), arguments.kib * 1024, 1);
    std::fs::write(&file, &image)?;
    let peers = if arguments.pipelined_only {
        &[Peer::Pipelined][..]
    } else {
        &[Peer::Pipelined, Peer::StopAndWait, Peer::Espota]
    };
    for &round_trip_ms in &arguments.round_trips {
        let round_trip = Duration::from_millis(round_trip_ms.into());
        let mut runs: Vec<(Peer, Run)> = Vec::new();
        for n_run in 0..arguments.runs {
            for &peer in peers {
                let run = one(reflash, arguments, peer, &file, round_trip, folder.path())
                    .with_context(|| format!("{} at {round_trip_ms} ms", peer.name()))?;
                println!(
                    "  run {} {:<24} transfer {:.3} s, upload {:.3} s, own clock {:.3} s, process {:.3} s",
                    n_run + 1,
                    peer.name(),
                    run.transfer,
                    run.upload,
                    run.own,
                    run.process
                );
                runs.push((peer, run));
            }
        }
        println!(
            "{}",
            summary(&runs, peers, image.len(), round_trip, arguments.window)
        );
    }
    Ok(())
}

fn summary(runs: &[(Peer, Run)], peers: &[Peer], len: usize, round_trip: Duration, window: usize) -> String {
    let middle = |wanted: Peer, figure: fn(&Run) -> f64| {
        let figures: Vec<f64> = runs
            .iter()
            .filter(|(peer, _)| *peer == wanted)
            .map(|(_, run)| figure(run))
            .collect();
        median(&figures)
    };
    let round_trip_s = round_trip.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "lengths of images are far below 2^52")]
    let (len, window) = (len as f64, window as f64);
    let formula = 3.0 * round_trip_s + len / (window / round_trip_s);
    let lock_step = 3.0 * round_trip_s + (len / 1024.0).ceil() * round_trip_s;
    let mut text = format!(
        "round trip {} ms, window {window} B, image {len} B; medians\n  formulas: 3R + S/(W/R) = {formula:.3} s, \
         3R + ceil(S/1024)R = {lock_step:.3} s\n",
        round_trip.as_millis()
    );
    for &peer in peers {
        let _ = writeln!(
            text,
            "  {:<24} transfer {:.3} s, upload {:.3} s, own clock {:.3} s, process {:.3} s",
            peer.name(),
            middle(peer, |run| run.transfer),
            middle(peer, |run| run.upload),
            middle(peer, |run| run.own),
            middle(peer, |run| run.process),
        );
    }
    let transfer = |peer| middle(peer, |run| run.transfer);
    let mut ratio = |name: &str, ratio: f64, target: f64, at_least: bool| {
        let met = if at_least {
            ratio >= target
        } else {
            ratio <= target
        };
        let _ = writeln!(
            text,
            "  {name}: {ratio:.3} (target {} {target}: {})",
            if at_least { "at least" } else { "at most" },
            if met { "met" } else { "MISSED" }
        );
    };
    let pipelined = transfer(Peer::Pipelined);
    ratio("pipelined / formula", pipelined / formula, 1.10, false);
    if peers.len() > 1 {
        let (own, espota) = (transfer(Peer::StopAndWait), transfer(Peer::Espota));
        ratio("stop-and-wait / pipelined", own / pipelined, 4.8, true);
        ratio("espota.py / pipelined", espota / pipelined, 5.0, true);
        ratio("stop-and-wait / espota.py", own / espota, 1.02, false);
    }
    text
}

fn one(
    reflash: &Path,
    arguments: &Arguments,
    peer: Peer,
    file: &Path,
    round_trip: Duration,
    folder: &Path,
) -> Result<Run> {
    let simulator = Simulator::start(reflash, DEVICE, 1, &["--boot-s", "200ms", "--version", "1.0.0"])?;
    let proxy = Proxy::start(Network {
        as_device: AS_DEVICE,
        as_host: AS_HOST,
        device_ota: (DEVICE, simulator.ota_port).into(),
        device_http: (DEVICE, simulator.http_port).into(),
        round_trip,
        window: arguments.window,
    })?;
    let state = TempDir::new_in(folder)?;
    let (address, ota_port) = (AS_DEVICE.to_string(), proxy.ota_port.to_string());
    let http_port = proxy.http_port.to_string();
    let mut command = match peer {
        Peer::Espota => {
            let mut command = Command::new(&arguments.python);
            command
                .arg(&arguments.baseline)
                .args([&address, &ota_port])
                .arg(file);
            command
        }
        Peer::Pipelined | Peer::StopAndWait => {
            let pace = if peer == Peer::Pipelined {
                "pipelined"
            } else {
                "stop-and-wait"
            };
            let mut command = Command::new(reflash);
            command
                .args(["push", &address])
                .arg(file)
                .args(["--ota-port", &ota_port, "--http-port", &http_port])
                .args(["--password-env", "OTA_PASSWORD", "--pace", pace])
                .args(["--soak", "0s", "--json", "--state"])
                .arg(state.path());
            command
        }
    };
    let begun = Instant::now();
    let mut child = command
        .env("OTA_PASSWORD", PASSWORD)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the sender")?;
    while child.try_wait()?.is_none() {
        if begun.elapsed() > RUN_LIMIT {
            child.kill()?;
            bail!("the sender did not end within {} s", RUN_LIMIT.as_secs());
        }
        // Coarse: only the time of the whole process is taken from here.
        std::thread::sleep(Duration::from_millis(20));
    }
    let process = begun.elapsed().as_secs_f64();
    let output = child.wait_with_output()?;
    let said: Value = serde_json::from_slice(&output.stdout).context("reading what the sender says")?;
    ensure!(output.status.success(), "the sender failed: {said}");
    let own = match peer {
        Peer::Espota => said["transfer_s"].as_f64(),
        _ => said["evidence"]["push_s"].as_f64(),
    };
    let flashed = simulator.wait(Duration::from_secs(1), |event| event["event"] == "received");
    ensure!(
        flashed.is_some_and(|event| event["flashed"] == true),
        "the device did not take the image"
    );
    let record = proxy.record();
    let transfer = record.transfer().context("the device did not say OK")?;
    let invited = record.invited.context("nobody was invited")?;
    let before_upload = record
        .connected
        .context("the device did not connect")?
        .duration_since(invited);
    ensure!(
        record.n_bytes == usize::try_from(file.metadata()?.len())?,
        "{} bytes came by",
        record.n_bytes
    );
    Ok(Run {
        transfer: transfer.as_secs_f64(),
        upload: transfer.saturating_sub(before_upload).as_secs_f64(),
        own: own.context("the sender tells no time")?,
        process,
    })
}

/// Measures the proxy itself with plain TCP: an echo for the round trip, a stream for the window.
pub(crate) fn check(arguments: &CheckArguments) -> Result<()> {
    const N_ECHOES: usize = 15;
    const STREAM_LEN: usize = 256 * 1024;
    for &round_trip_ms in &arguments.round_trips {
        let round_trip = Duration::from_millis(round_trip_ms.into());
        let (host, from_host) = pair()?;
        let (to_device, device) = pair()?;
        let half = round_trip / 2;
        let window = arguments.window;
        let there = {
            let (from, to) = (from_host.try_clone()?, to_device.try_clone()?);
            std::thread::spawn(move || carry(from, to, half, Some(window), |_| {}))
        };
        let back = std::thread::spawn(move || carry(to_device, from_host, half, None, |_| {}));
        let receiver = std::thread::spawn(move || receive(device, N_ECHOES, STREAM_LEN));
        let mut host = host;
        let mut byte = [0];
        let mut echoes = Vec::new();
        for _ in 0..N_ECHOES {
            let begun = Instant::now();
            host.write_all(b"x")?;
            host.read_exact(&mut byte)?;
            echoes.push(begun.elapsed().as_secs_f64());
        }
        let begun = Instant::now();
        host.write_all(&vec![0; STREAM_LEN])?;
        host.read_exact(&mut byte)?;
        let stream = begun.elapsed().as_secs_f64();
        drop(host);
        for thread in [there, back] {
            let _ = thread.join();
        }
        receiver
            .join()
            .ok()
            .context("the receiver of the check panicked")??;
        #[expect(clippy::cast_precision_loss, reason = "small whole numbers")]
        let ideal = STREAM_LEN as f64 / (window as f64 / round_trip.as_secs_f64());
        println!(
            "proxy, {round_trip_ms} ms and {window} B: echo {:.2} ms (median of {N_ECHOES}), {STREAM_LEN} B in {stream:.3} s, \
             {:.3} of S/(W/R) = {ideal:.3} s",
            median(&echoes) * 1000.0,
            stream / ideal
        );
        ensure!(
            stream >= ideal,
            "the proxy lets more than {window} B through in a round trip: nothing measured with it counts"
        );
    }
    Ok(())
}

fn receive(mut device: TcpStream, n_echoes: usize, stream_len: usize) -> Result<()> {
    let mut byte = [0];
    for _ in 0..n_echoes {
        device.read_exact(&mut byte)?;
        device.write_all(&byte)?;
    }
    device.read_exact(&mut vec![0; stream_len])?;
    device.write_all(&byte)?;
    Ok(())
}

/// Two ends of a connection without Nagle's delay.
#[expect(
    clippy::disallowed_methods,
    reason = "plain sockets are what is measured with"
)]
fn pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address: SocketAddr = listener.local_addr()?;
    let one = TcpStream::connect(address)?;
    let (other, _) = listener.accept()?;
    one.set_nodelay(true)?;
    other.set_nodelay(true)?;
    Ok((one, other))
}
