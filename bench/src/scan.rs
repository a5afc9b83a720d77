//! A scan of networks with absent hosts, beside `nmap` with `curl`, and a scanner made with `aiohttp`.
//!
//! All of it happens in a network namespace: a bridge, and behind it a second one with ten devices.
//! Ten namespaces would be truer, but 254 broadcasts to ten ports are 2,540 packets, and the kernel's queue, which all
//! namespaces share, holds 1,000 (`netdev_max_backlog`): on a busy machine it drops them, whoever scans.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use discovery::{Pace, Scan};
use model::sighting::{Lookout, Sighting};
use net::{Dialer, Networks};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::system::{cpu_of_children, median, usage};

/// The two networks, and this machine's place in them.
const SMALL: &str = "10.9.1.0/24";
const LARGE: &str = "10.8.0.0/20";
const HERE: [&str; 2] = ["10.9.1.1/24", "10.8.0.1/20"];
const N_DEVICES: usize = 10;
const PORT: u16 = 80;
/// So many of the devices lose the first SYN of each connection, as a sleeping device does: they answer after 1 s.
const N_ASLEEP: usize = 2;
/// Targets of ../shared/PERFORMANCE.md U5 and E5.
const FIRST_MAX_S: f64 = 0.5;
const ALL_MAX_S: f64 = 1.6;
const CPU_MAX_MS: f64 = 15.0;
/// What a device says of itself.
const STATUS: &str = r#"{"deviceType":"mini","macAddress":"A0:B1:C2:D3:E4:F5","firmwareVersion":"1.0"}"#;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Scans of the /24 by ours.
    #[arg(long, default_value_t = 100)]
    runs: usize,
    /// Scans of the /24 by each of all, by turns.
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Scans of the /20 by ours; the peers get one each, which takes minutes.
    #[arg(long, default_value_t = 3)]
    large: usize,
    /// The interpreter that has aiohttp.
    #[arg(long, default_value = "python3")]
    python: String,
}

#[derive(clap::Args)]
pub(crate) struct OnceArguments {
    network: String,
    /// New addresses a second, instead of what the machine bears.
    #[arg(long)]
    per_s: Option<u32>,
}

/// Starts itself again as the only user of a fresh namespace.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut inside = Command::new("unshare");
    inside.arg("-rn").arg(std::env::current_exe()?).args([
        "scan-inside",
        "--runs",
        &arguments.runs.to_string(),
        "--turns",
        &arguments.turns.to_string(),
        "--large",
        &arguments.large.to_string(),
        "--python",
        &arguments.python,
    ]);
    let status = inside
        .status()
        .context("making a network namespace with unshare")?;
    ensure!(status.success(), "the measurement inside the namespace failed");
    Ok(())
}

/// One scan by ours, alone in its process; prints one JSON object.
pub(crate) fn once(arguments: &OnceArguments) -> Result<()> {
    let mut scan = Scan::new(
        vec![arguments.network.parse()?],
        vec![Lookout::Http {
            port: PORT,
            path: "/api/status",
        }],
    );
    if let Some(per_s) = arguments.per_s {
        scan.pace = Pace { per_s, ..scan.pace };
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let dialer = Dialer::new(Networks::private(), None);
    let (cpu_before, began) = (cpu_ns(), Instant::now());
    let mut came = Vec::new();
    let coverage = runtime.block_on(async {
        let (out, mut sightings) = mpsc::channel(64);
        let collecting = async {
            while let Some(sighting) = sightings.recv().await {
                if matches!(sighting, Sighting::Http { status: 200, .. }) {
                    came.push(began.elapsed().as_secs_f64());
                }
            }
        };
        let scanning = async {
            let coverage = discovery::scan(&dialer, &scan, &out).await;
            drop(out);
            coverage
        };
        tokio::join!(scanning, collecting).0
    });
    let took_s = began.elapsed().as_secs_f64();
    let cpu_ns = cpu_ns() - cpu_before;
    ensure!(
        coverage.n_addresses == coverage.n_asked + coverage.n_failed + coverage.n_skipped,
        "{coverage:?}"
    );
    println!(
        "{}",
        json!({
            "found": came.len(),
            "first_s": came.first(),
            "last_s": came.last(),
            "took_s": took_s,
            "cpu_ms": cpu_ns / 1e6,
            "anon_kib": usage().anon_kib,
            "counts": [coverage.n_answered, coverage.n_refused, coverage.n_silent, coverage.n_failed, coverage.n_skipped],
            "paced": coverage.paced,
        })
    );
    Ok(())
}

/// CPU of this thread, nanoseconds (`/proc/self/schedstat`); all of a scan is one thread's.
fn cpu_ns() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|ns| ns.parse().ok())
        .unwrap_or(f64::NAN)
}

/// A device, alone in its namespace.
#[expect(
    clippy::disallowed_methods,
    reason = "the device stands for another machine, and is none of ours"
)]
pub(crate) fn device() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    println!("ready");
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut head = [0; 1024];
        if stream.read(&mut head).is_ok_and(|n_bytes| n_bytes > 0) {
            let answer = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{STATUS}",
                STATUS.len()
            );
            // Whoever has gone does not need it.
            let _ = stream.write_all(answer.as_bytes());
        }
    }
    Ok(())
}

/// Runs a command of which nothing but success is expected.
fn sh(command: &str) -> Result<()> {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().context("an empty command")?)
        .args(words)
        .output()?;
    ensure!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The devices behind the bridge; dropping it ends them.
struct House(Child);

impl House {
    fn build() -> Result<Self> {
        sh("ip link set lo up")?;
        sh("ip link add br0 type bridge")?;
        for address in HERE {
            sh(&format!("ip address add {address} dev br0"))?;
        }
        sh("ip link set br0 up")?;
        let mut child = Command::new("unshare")
            .arg("-n")
            .arg(std::env::current_exe()?)
            .arg("scan-device")
            .stdout(Stdio::piped())
            .spawn()?;
        let said = child
            .stdout
            .take()
            .context("the devices have no standard output")?;
        let pid = child.id();
        let house = Self(child);
        let is_ready = BufReader::new(said)
            .lines()
            .map_while(Result::ok)
            .any(|line| line == "ready");
        ensure!(is_ready, "the devices did not start");
        sh(&format!("ip link add near0 type veth peer name far0 netns {pid}"))?;
        sh("ip link set near0 master br0 up")?;
        let far = |command: String| sh(&format!("nsenter -t {pid} -n {command}"));
        for idx in 0..N_DEVICES {
            far(format!("ip address add {}/24 dev far0", in_small(idx)))?;
            far(format!("ip address add {}/20 dev far0", in_large(idx)))?;
        }
        far("ip link set far0 up".to_owned())?;
        lose_first_syn(pid)?;
        // Until all of them can be reached.
        let end = Instant::now() + Duration::from_secs(20);
        while found(&scan_once(SMALL, None)?) < N_DEVICES {
            ensure!(Instant::now() < end, "the devices cannot be reached");
        }
        Ok(house)
    }
}

/// Addresses of a device, spread over the networks.
fn in_small(idx: usize) -> String {
    format!("10.9.1.{}", 20 + 23 * idx)
}

fn in_large(idx: usize) -> String {
    format!("10.8.{}.{}", 1 + idx * 14 / 9, 7 + idx)
}

impl Drop for House {
    fn drop(&mut self) {
        // They may have ended by themselves.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lose_first_syn(pid: u32) -> Result<()> {
    let mut nft = Command::new("nsenter")
        .args(["-t", &pid.to_string(), "-n", "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    let asleep: Vec<String> = (0..N_ASLEEP)
        .flat_map(|idx| [in_small(idx), in_large(idx)])
        .collect();
    let rules = format!(
        "table ip asleep {{
            set seen {{ type ipv4_addr . inet_service; flags timeout; }}
            chain i {{
                type filter hook input priority 0
                ip daddr != {{ {} }} accept
                tcp flags & (syn | ack) == syn ip daddr . tcp sport @seen accept
                tcp flags & (syn | ack) == syn add @seen {{ ip daddr . tcp sport timeout 5s }} drop
            }}
        }}\n",
        asleep.join(", ")
    );
    nft.stdin
        .take()
        .context("nft takes no rules")?
        .write_all(rules.as_bytes())?;
    ensure!(nft.wait()?.success(), "nft refused the rules");
    Ok(())
}

fn json_of(command: &mut Command) -> Result<Value> {
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{command:?} failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn scan_once(network: &str, per_s: Option<u32>) -> Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["scan-once", network]);
    if let Some(per_s) = per_s {
        command.args(["--per-s", &per_s.to_string()]);
    }
    json_of(&mut command)
}

fn aiohttp(python: &str, network: &str, at_once: usize, timeout_s: f64) -> Result<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("aiohttp_scan.py");
    json_of(Command::new(python).arg(script).args([
        network,
        &PORT.to_string(),
        &at_once.to_string(),
        &timeout_s.to_string(),
    ]))
}

/// `nmap` for whom to ask, and then `curl` to each at once.
fn nmap(network: &str) -> Result<Value> {
    let began = Instant::now();
    let output = Command::new("nmap")
        .args([
            "-n",
            "-T4",
            "-p",
            &PORT.to_string(),
            "--open",
            "-oG",
            "-",
            network,
        ])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "nmap failed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let open = text.lines().filter(|line| line.contains("/open/"));
    let mut curls = Vec::new();
    for address in open.filter_map(|line| line.split_whitespace().nth(1)) {
        let curl = Command::new("curl")
            .args([
                "--silent",
                "--max-time",
                "5",
                &format!("http://{address}:{PORT}/api/status"),
            ])
            .stdout(Stdio::piped())
            .spawn()?;
        curls.push(curl);
    }
    let (mut found, mut first_s) = (0, None);
    for curl in curls {
        if curl.wait_with_output()?.stdout.starts_with(b"{") {
            found += 1;
            first_s.get_or_insert(began.elapsed().as_secs_f64());
        }
    }
    Ok(json!({ "found": found, "first_s": first_s, "took_s": began.elapsed().as_secs_f64() }))
}

fn found(report: &Value) -> usize {
    report["found"]
        .as_u64()
        .and_then(|found| usize::try_from(found).ok())
        .unwrap_or(0)
}

/// Each scan starts with nobody known.
fn forget() -> Result<()> {
    sh("ip neighbour flush all")?;
    // Entries that are being asked for go when that ends, which takes 3 s.
    std::thread::sleep(Duration::from_millis(3200));
    sh("ip neighbour flush all")
}

/// One peer's reports, with the CPU of its processes (seconds).
struct Series {
    name: &'static str,
    reports: Vec<(Value, f64)>,
}

impl Series {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            reports: Vec::new(),
        }
    }

    fn measure(&mut self, act: impl FnOnce() -> Result<Value>) -> Result<()> {
        forget()?;
        let before = cpu_of_children();
        let report = act()?;
        self.reports.push((report, cpu_of_children() - before));
        Ok(())
    }

    fn print(&self) {
        let number = |key: &str| {
            let numbers: Vec<f64> = self
                .reports
                .iter()
                .filter_map(|(report, _)| report[key].as_f64())
                .collect();
            median(&numbers)
        };
        let cpu: Vec<f64> = self.reports.iter().map(|(_, cpu)| *cpu * 1e3).collect();
        let least = self
            .reports
            .iter()
            .map(|(report, _)| found(report))
            .min()
            .unwrap_or(0);
        println!(
            "{:28} found {least} of {N_DEVICES} at least; first {:.3} s, all {:.3} s, CPU of its processes {:.0} ms ({} runs)",
            self.name,
            number("first_s"),
            number("took_s"),
            median(&cpu),
            self.reports.len()
        );
    }
}

/// All measurements, inside the namespace.
pub(crate) fn inside(arguments: &Arguments) -> Result<()> {
    let _house = House::build()?;
    println!("/24 ({SMALL}): {N_DEVICES} devices, of which {N_ASLEEP} lose every first SYN; nobody else");
    small(arguments)?;
    let mut ours = Series::new("reflash");
    let mut nmaps = Series::new("nmap -T4, curl");
    let mut aio = Series::new("aiohttp, 254 at once, 1.5 s");
    for _ in 0..arguments.turns {
        ours.measure(|| scan_once(SMALL, None))?;
        nmaps.measure(|| nmap(SMALL))?;
        aio.measure(|| aiohttp(&arguments.python, SMALL, 254, 1.5))?;
    }
    for series in [&ours, &nmaps, &aio] {
        series.print();
    }
    if arguments.large > 0 {
        println!("/20 ({LARGE}): the same devices");
        let mut ours = Series::new("reflash");
        for _ in 0..arguments.large {
            ours.measure(|| scan_once(LARGE, None))?;
        }
        ours.print();
        if let Some((report, _)) = ours.reports.first() {
            println!("  {report}");
        }
        for per_s in [320, 400, 4000] {
            forget()?;
            let report = scan_once(LARGE, Some(per_s))?;
            println!(
                "  reflash, made to ask {per_s} a second: found {}",
                found(&report)
            );
        }
        for (name, at_once) in [
            ("aiohttp, 254 at once, 1.5 s", 254),
            ("aiohttp, 1000 at once, 1.5 s", 1000),
        ] {
            let mut series = Series::new(name);
            series.measure(|| aiohttp(&arguments.python, LARGE, at_once, 1.5))?;
            series.print();
        }
        let mut series = Series::new("nmap -T4, curl");
        series.measure(|| nmap(LARGE))?;
        series.print();
    }
    Ok(())
}

/// Ours alone, often: whether all are found every time, and what it takes.
fn small(arguments: &Arguments) -> Result<()> {
    let mut reports = Vec::new();
    for _ in 0..arguments.runs {
        sh("ip neighbour flush all")?;
        reports.push(scan_once(SMALL, None)?);
    }
    let numbers =
        |key: &str| -> Vec<f64> { reports.iter().filter_map(|report| report[key].as_f64()).collect() };
    let worst = |key: &str| numbers(key).into_iter().fold(f64::NEG_INFINITY, f64::max);
    let whole = reports.iter().filter(|report| found(report) == N_DEVICES).count();
    println!(
        "reflash, {} scans: all {N_DEVICES} found in {whole}",
        reports.len()
    );
    for (what, key, bound) in [
        ("first result, s", "first_s", FIRST_MAX_S),
        ("last result, s", "last_s", ALL_MAX_S),
        ("complete, s", "took_s", ALL_MAX_S),
        ("CPU, ms", "cpu_ms", CPU_MAX_MS),
    ] {
        println!(
            "  {what}: median {:.3}, worst {:.3} (target at most {bound})",
            median(&numbers(key)),
            worst(key)
        );
    }
    println!(
        "  RssAnon at the end, KiB: median {:.0}",
        median(&numbers("anon_kib"))
    );
    if whole < reports.len() {
        bail!("a scan did not find all");
    }
    Ok(())
}
