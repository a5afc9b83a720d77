//! Many pushes at once in this process, as the program does them: one listener, one image, a driver for each device.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use async_trait::async_trait;
use families::{Pace, Ways};
use model::family::{Answers, Family, Fault, Method, Notes, Target};
use model::id::FamilyId;
use model::image::Image;
use model::progress::Progress;
use net::{Callback, Dialer, IpNet, Networks, Site};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::simulator::Simulator;
use crate::system::{cpu_of, cpu_of_children, median, usage};

/// The first simulated device.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 10, 0, 1);
/// The simulator's usual password.
const PASSWORD: &str = "ir_remote_update";
/// How often memory is looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many devices; 1,000 for call-backs, 250 for the fleet.
    #[arg(long)]
    devices: Option<usize>,
    /// Images, KiB; 16, 64 and 256 for call-backs, 1,024 for the fleet.
    #[arg(long, value_delimiter = ',')]
    kib: Vec<usize>,
    /// What a device's flash takes, bytes/s; 0 = as fast as the host sends.
    #[arg(long, default_value_t = 100_000)]
    rate: u32,
    /// Runs of each.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Send as `espota.py` does.
    #[arg(long)]
    stop_and_wait: bool,
    /// Push to this many devices with the baseline as well, one after the other; 0 = none.
    #[arg(long, default_value_t = 20)]
    baseline_devices: usize,
    /// The baseline.
    #[arg(long, default_value = "bench/espota_baseline.py")]
    baseline: PathBuf,
    /// The Python that runs it.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
}

/// One run in a process of its own, so that its memory is its own; started by this program itself.
#[derive(clap::Args)]
pub(crate) struct PushArguments {
    #[arg(long)]
    devices: usize,
    #[arg(long)]
    len: usize,
    #[arg(long)]
    ota_port: u16,
    #[arg(long)]
    http_port: u16,
    #[arg(long)]
    stop_and_wait: bool,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// 1,000 at once: none may be lost.
    CallBacks,
    /// 250 with a large image: what one costs.
    Fleet,
}

/// What one run showed.
#[derive(Debug)]
struct Run {
    wall_s: f64,
    cpu_s: f64,
    simulator_cpu_s: f64,
    n_lost: usize,
    /// Private memory before the image was read, KiB.
    idle_kib: f64,
    /// The most of it until the last push had ended, KiB.
    peak_kib: f64,
    peak_rss_kib: f64,
    /// Devices that were receiving at the same time, at most.
    n_at_once: usize,
    reasons: Vec<String>,
    /// CPU of the baseline for one device, milliseconds.
    baseline_ms: Option<f64>,
}

/// No ledger: every answer is allowed, and nothing is stored.
struct Unbounded;

#[async_trait]
impl Answers for Unbounded {
    async fn count(&self) -> Result<(), Fault> {
        Ok(())
    }

    async fn accepted(&self) {}
}

/// Runs and prints.
pub(crate) fn run(reflash: &Path, arguments: &Arguments, job: Job) -> Result<()> {
    let (n_devices, sizes_kib, limit_mib) = match job {
        // Issue 2, "Speed and size"; ../shared/PERFORMANCE.md E2.
        Job::CallBacks => (1000, vec![16, 64, 256], 16.0),
        Job::Fleet => (250, vec![1024], 8.0),
    };
    let n_devices = arguments.devices.unwrap_or(n_devices);
    let sizes_kib = if arguments.kib.is_empty() {
        sizes_kib
    } else {
        arguments.kib.clone()
    };
    for kib in sizes_kib {
        let mut runs = Vec::new();
        for _ in 0..arguments.runs {
            let mut run = once(reflash, arguments, n_devices, kib * 1024)?;
            if job == Job::Fleet && arguments.baseline_devices > 0 {
                run.baseline_ms = Some(baseline(reflash, arguments, kib * 1024)?);
            }
            println!(
                "  {kib} KiB: {} lost of {n_devices}, wall {:.2} s, CPU {:.2} s, simulator CPU {:.2} s, at once {}, \
                 RssAnon idle {:.0} KiB, peak {:.0} KiB, peak RSS {:.0} KiB",
                run.n_lost,
                run.wall_s,
                run.cpu_s,
                run.simulator_cpu_s,
                run.n_at_once,
                run.idle_kib,
                run.peak_kib,
                run.peak_rss_kib,
            );
            for reason in &run.reasons {
                println!("    {reason}");
            }
            if let Some(baseline_ms) = run.baseline_ms {
                println!("    espota.py's behaviour: CPU {baseline_ms:.1} ms a device");
            }
            runs.push(run);
        }
        println!("{}", summary(&runs, n_devices, kib, arguments.rate, limit_mib));
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "small whole numbers")]
fn summary(runs: &[Run], n_devices: usize, kib: usize, rate: u32, limit_mib: f64) -> String {
    let middle = |figure: &dyn Fn(&Run) -> f64| median(&runs.iter().map(figure).collect::<Vec<_>>());
    let n_lost: usize = runs.iter().map(|run| run.n_lost).sum();
    let above_mib = |run: &Run| (run.peak_kib - run.idle_kib) / 1024.0;
    let worst_mib = runs.iter().map(above_mib).fold(0.0, f64::max);
    let ideal = if rate == 0 {
        "no limit at the device".to_owned()
    } else {
        format!(
            "{rate} B/s each: ideal {:.2} s",
            (kib * 1024) as f64 / f64::from(rate)
        )
    };
    let met = |is_met: bool| if is_met { "met" } else { "MISSED" };
    let each_ms = middle(&|run| run.cpu_s * 1000.0 / n_devices as f64);
    let baseline_ms = middle(&|run| run.baseline_ms.unwrap_or(f64::NAN));
    let beside = if baseline_ms.is_nan() {
        String::new()
    } else {
        format!(
            "  CPU a device: {each_ms:.2} ms (at most 5: {}), espota.py's behaviour {baseline_ms:.1} ms = {:.1} times as much \
             (at least 12: {})\n",
            met(each_ms <= 5.0),
            baseline_ms / each_ms,
            met(baseline_ms >= 12.0 * each_ms),
        )
    };
    format!(
        "{n_devices} x {kib} KiB ({ideal}), {} runs: {n_lost} lost in all ({}); medians: wall {:.2} s, CPU {:.2} s = {each_ms:.2} ms \
         a device, private memory above idle {:.1} MiB; worst {worst_mib:.1} MiB (at most {limit_mib}: {})\n{beside}",
        runs.len(),
        met(n_lost == 0),
        middle(&|run| run.wall_s),
        middle(&|run| run.cpu_s),
        middle(&above_mib),
        met(worst_mib <= limit_mib),
    )
}

fn once(reflash: &Path, arguments: &Arguments, n_devices: usize, len: usize) -> Result<Run> {
    let rate = arguments.rate.to_string();
    // None comes back within the run: only the pushes are measured.
    let mut more = vec!["--boot-s", "600"];
    if arguments.rate > 0 {
        more.extend(["--rate", &rate]);
    }
    let simulator = Simulator::start(reflash, FIRST, n_devices, &more)?;
    let simulator_cpu_s = cpu_of(&simulator.pid());
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command
        .args([
            "push-all",
            "--devices",
            &n_devices.to_string(),
            "--len",
            &len.to_string(),
        ])
        .args(["--ota-port", &simulator.ota_port.to_string()])
        .args(["--http-port", &simulator.http_port.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    if arguments.stop_and_wait {
        command.arg("--stop-and-wait");
    }
    let output = command.output().context("starting the pushes")?;
    let simulator_cpu_s = cpu_of(&simulator.pid()) - simulator_cpu_s;
    let said: Value = serde_json::from_slice(&output.stdout).context("reading what the pushes say")?;
    let number = |name: &str| {
        said[name]
            .as_f64()
            .with_context(|| format!("the pushes say no {name}"))
    };
    let n_ok = said["n_ok"].as_u64().and_then(|n_ok| usize::try_from(n_ok).ok());
    let n_ok = n_ok.context("the pushes say no n_ok")?;
    // What was emitted before the last OK may still be on its way here.
    sleep(Duration::from_millis(300));
    let (n_at_once, n_flashed) = looked_at(&simulator.drain());
    ensure!(
        n_flashed >= n_ok,
        "{n_ok} pushes said OK, and only {n_flashed} devices have the image"
    );
    let reasons = said["reasons"].as_array().into_iter().flatten();
    Ok(Run {
        wall_s: number("wall_s")?,
        cpu_s: number("cpu_s")?,
        simulator_cpu_s,
        n_lost: n_devices - n_ok,
        idle_kib: number("idle_kib")?,
        peak_kib: number("peak_kib")?,
        peak_rss_kib: number("peak_rss_kib")?,
        n_at_once,
        reasons: reasons.filter_map(Value::as_str).map(str::to_owned).collect(),
        baseline_ms: None,
    })
}

/// CPU of the baseline for one device, milliseconds: a process for each, one after the other, no pace at the device.
#[expect(clippy::cast_precision_loss, reason = "small whole numbers")]
fn baseline(reflash: &Path, arguments: &Arguments, len: usize) -> Result<f64> {
    let n_devices = arguments.baseline_devices;
    let file = tempfile::NamedTempFile::new().context("making a file for the image")?;
    std::fs::write(&file, image(len)?)?;
    let cpu_s = {
        let simulator = Simulator::start(reflash, FIRST, n_devices, &["--boot-s", "600"])?;
        let before = cpu_of_children();
        for n_device in 0..n_devices {
            let status = Command::new(&arguments.python)
                .arg(&arguments.baseline)
                .args([
                    sim::nth_address(FIRST, n_device)?.to_string(),
                    simulator.ota_port.to_string(),
                ])
                .arg(file.path())
                .env("OTA_PASSWORD", PASSWORD)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .status()
                .context("starting the baseline")?;
            ensure!(status.success(), "the baseline failed");
        }
        // The simulator is still running, so its time is not among that of the children.
        cpu_of_children() - before
    };
    Ok(cpu_s * 1000.0 / n_devices as f64)
}

fn image(len: usize) -> Result<Vec<u8>> {
    Ok(sim::firmware::image("esp32c6".parse()?, Some("2.0.0"), len, 1))
}

/// Devices that were receiving at the same time, at most, and devices that have flashed, by the simulator's events.
fn looked_at(events: &[Value]) -> (usize, usize) {
    let (mut n_receiving, mut n_at_once, mut n_flashed) = (0_usize, 0, 0);
    for event in events {
        match event["event"].as_str() {
            Some("receiving") => n_receiving += 1,
            Some("received") => {
                n_receiving = n_receiving.saturating_sub(1);
                n_flashed += usize::from(event["flashed"] == true);
            }
            _ => {}
        }
        n_at_once = n_at_once.max(n_receiving);
    }
    (n_at_once, n_flashed)
}

/// Pushes to all devices at once and says what it cost, as JSON.
pub(crate) fn push_all(arguments: &PushArguments) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let (callback, listening) = Callback::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let mut tasks = JoinSet::new();
        tasks.spawn(listening);
        let family = family(arguments, Arc::clone(&callback))?;
        let idle_kib = usage().anon_kib;
        let image = Image::new("ir_remote_v2.0.0.bin", image(arguments.len)?);
        let sampler = Sampler::start();
        let cpu_s = cpu_of("self");
        let begun = Instant::now();
        let mut pushes = JoinSet::new();
        for n_device in 0..arguments.devices {
            let address = sim::nth_address(FIRST, n_device)?;
            pushes.spawn(push(Arc::clone(&family), address, image.clone()));
        }
        let mut reasons = Vec::new();
        let mut n_ok = 0;
        while let Some(pushed) = pushes.join_next().await {
            match pushed.context("a push panicked")? {
                Ok(()) => n_ok += 1,
                Err(fault) => reasons.push(format!("{:?}: {}", fault.reason, fault.text)),
            }
        }
        let wall_s = begun.elapsed().as_secs_f64();
        let cpu_s = cpu_of("self") - cpu_s;
        let Some((peak_kib, peak_rss_kib)) = sampler.stop() else {
            bail!("the memory could not be watched");
        };
        reasons.sort();
        reasons.truncate(5);
        if callback.strangers() > 0 {
            reasons.push(format!("{} connections were turned away", callback.strangers()));
        }
        Ok(json!({
            "n_ok": n_ok, "wall_s": wall_s, "cpu_s": cpu_s, "idle_kib": idle_kib,
            "peak_kib": peak_kib, "peak_rss_kib": peak_rss_kib, "reasons": reasons,
        }))
    })
}

fn family(arguments: &PushArguments, callback: Arc<Callback>) -> Result<Arc<dyn Family>> {
    let networks: IpNet = "127.10.0.0/16".parse()?;
    let site = Site {
        dialer: Arc::new(Dialer::new(Networks::new([networks]), None)),
        callback: Some(callback),
        pull: None,
    };
    let ways = Ways {
        ota_port: arguments.ota_port,
        http_port: arguments.http_port,
        pace: Some(if arguments.stop_and_wait {
            Pace::StopAndWait
        } else {
            Pace::Pipelined
        }),
        ..Ways::default()
    };
    families::all(&site, &ways)
        .into_iter()
        .find(|family| family.id() == FamilyId::new("ir-remote"))
        .context("there is no family ir-remote")
}

async fn push(family: Arc<dyn Family>, address: Ipv4Addr, image: Image) -> Result<(), Fault> {
    let mut driver = family.open(Target {
        address: IpAddr::V4(address),
        given_as: address.to_string(),
        username: None,
        secret: Some(SecretString::from(PASSWORD)),
        chip: None,
        notes: Notes::default(),
        answers: Arc::new(Unbounded),
    });
    let progress = Progress::default();
    driver
        .push(&Method::new("espota"), &image, &progress)
        .await
        .map(|_| ())
}

/// Looks at this process's memory until it is told to stop.
struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, u64)>,
}

impl Sampler {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = spawn(move || {
            let (mut anon_kib, mut rss_kib) = (0, 0);
            loop {
                let is_last = stopped.load(Ordering::SeqCst);
                let now = usage();
                anon_kib = anon_kib.max(now.anon_kib);
                rss_kib = rss_kib.max(now.rss_kib);
                if is_last {
                    return (anon_kib, rss_kib);
                }
                sleep(SAMPLE_EVERY);
            }
        });
        Self { stop, thread }
    }

    /// The most private and the most resident memory seen, KiB.
    fn stop(self) -> Option<(u64, u64)> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_at_once_are_those_between_first_and_last_byte() {
        let event = |name: &str| json!({ "event": name, "flashed": true });
        let names = [
            "receiving",
            "receiving",
            "received",
            "receiving",
            "received",
            "received",
        ];
        let events: Vec<Value> = names.into_iter().map(event).collect();
        assert_eq!(looked_at(&events), (2, 3));
        assert_eq!(looked_at(&[]), (0, 0));
    }
}
