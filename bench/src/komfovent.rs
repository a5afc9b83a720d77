//! Ventilation units: an upload against what the unit's pace allows, and the CPU of a Modbus read.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use async_trait::async_trait;
use families::Ways;
use model::family::{Answers, Driver, Family, Fault, Method, Notes, Target};
use model::id::FamilyId;
use model::image::Image;
use model::progress::Progress;
use net::{Dialer, IpNet, Networks, Site};
use secrecy::SecretString;
use serde_json::{Value, json};
use sim::EventSink;
use sim::komfovent::{Config, Registers};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::simulator;
use crate::system::{cpu_of, median};

/// The first simulated unit.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 30, 0, 1);
/// The unit without a panel, where registers are read.
const WITHOUT_PANEL: Ipv4Addr = Ipv4Addr::new(127, 30, 1, 1);
/// The simulator's usual user name, and its password.
const USER: &str = "user";
/// The captured upload: name and length of its file (../shared/PROTOCOLS.md A3).
const FILE_NAME: &str = "C6_1_5_44_70_P1_1_1_5_46.mbin";
const FILE_LEN: usize = 1_123_678;
/// What a unit reads in a second, bytes, and how long it is silent while it flashes (same capture).
const BYTES_PER_S: f64 = 19_000.0;
const SILENCE_S: f64 = 1.7;
/// At most this many times the ideal: a single upload, and each of many at once (../shared/PERFORMANCE.md U10).
const SINGLE_MAX: f64 = 1.03;
const EACH_MAX: f64 = 1.05;
/// CPU of one read at most, microseconds (../shared/PERFORMANCE.md E4).
const READ_MAX_US: f64 = 20.0;
/// How long units may take to start, and an event to come that is due.
const LIMIT: Duration = Duration::from_secs(30);
/// How long one upload may take, of which the ideal is 61 s.
const UPLOAD_LIMIT: Duration = Duration::from_mins(3);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    job: Job,
}

#[derive(clap::Subcommand)]
enum Job {
    /// One upload of 1.12 MB by `reflash push`, and at the same time one by `curl` to another unit.
    Upload {
        /// Runs of both.
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
    /// One upload of 1.12 MB to each of many units at once.
    Together {
        /// How many units.
        #[arg(long, default_value_t = 20)]
        units: usize,
        /// Runs.
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// CPU of one Modbus read, and of one by `pymodbus`.
    Modbus {
        /// Looks of each kind in a run; each is two to four reads.
        #[arg(long, default_value_t = 2000)]
        looks: u32,
        /// Runs of each.
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// The Python that runs the peer, and has `pymodbus`.
        #[arg(long, default_value = "python3")]
        python: PathBuf,
        /// The peer.
        #[arg(long, default_value = "bench/pymodbus_reads.py")]
        peer: PathBuf,
    },
    /// One unit in a process of its own, which tells how often it was read for each line that it is given.
    #[command(hide = true)]
    Unit {
        #[arg(long)]
        bind: Ipv4Addr,
        #[arg(long)]
        without_panel: bool,
    },
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
pub(crate) fn run(reflash: &Path, arguments: &Arguments) -> Result<()> {
    match &arguments.job {
        Job::Upload { runs } => upload(reflash, *runs),
        Job::Together { units, runs } => together(reflash, *units, *runs),
        Job::Modbus {
            looks,
            runs,
            python,
            peer,
        } => modbus(*looks, *runs, python, peer),
        Job::Unit { bind, without_panel } => unit(*bind, *without_panel),
    }
}

/// Seconds that no client can be below.
#[expect(clippy::cast_precision_loss, reason = "1.1 million")]
fn ideal_s() -> f64 {
    FILE_LEN as f64 / BYTES_PER_S + SILENCE_S
}

fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "MISSED" }
}

// Uploads.

/// One run of both.
#[expect(clippy::struct_field_names, reason = "units are part of the names")]
struct Pair {
    push_s: f64,
    /// From the first byte of the image to the last, by the simulator.
    received_s: f64,
    curl_s: f64,
    curl_received_s: f64,
    curl_login_s: f64,
}

fn upload(reflash: &Path, n_runs: usize) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let file = folder.path().join(FILE_NAME);
    std::fs::write(&file, sim::firmware::mbin(FILE_LEN, 1)).context("writing the image")?;
    let ideal_s = ideal_s();
    let mut pairs = Vec::new();
    for n_run in 0..n_runs {
        let pair = pair(reflash, &file, n_run)?;
        println!(
            "  reflash push_s {:.2} = {:.4} of the ideal, received in {:.2} s; curl {:.2} s = {:.4}, received in {:.2} s, login {:.3} s",
            pair.push_s,
            pair.push_s / ideal_s,
            pair.received_s,
            pair.curl_s,
            pair.curl_s / ideal_s,
            pair.curl_received_s,
            pair.curl_login_s,
        );
        pairs.push(pair);
    }
    let middle = |figure: &dyn Fn(&Pair) -> f64| median(&pairs.iter().map(figure).collect::<Vec<_>>());
    let (push_s, curl_s) = (middle(&|pair| pair.push_s), middle(&|pair| pair.curl_s));
    println!(
        "{FILE_LEN} bytes, ideal {ideal_s:.2} s, {n_runs} runs, medians: reflash {push_s:.2} s = {:.4} (at most {SINGLE_MAX}: {}), \
         of which received in {:.2} s; curl {curl_s:.2} s = {:.4}, of which received in {:.2} s; reflash / curl {:.4}",
        push_s / ideal_s,
        met(push_s <= SINGLE_MAX * ideal_s),
        middle(&|pair| pair.received_s),
        curl_s / ideal_s,
        middle(&|pair| pair.curl_received_s),
        push_s / curl_s,
    );
    Ok(())
}

/// Both at the same time, each to a unit of its own; they change places from run to run.
fn pair(reflash: &Path, file: &Path, n_run: usize) -> Result<Pair> {
    let simulator = Simulated::start(Command::new(reflash).args(simulate(2)), 2)?;
    let (ours, curls) = (&simulator.units[n_run % 2], &simulator.units[(n_run + 1) % 2]);
    let (push_s, curl) = std::thread::scope(|scope| {
        let pushed = scope.spawn(|| push(reflash, file, ours));
        let curl = curl(file, curls);
        (pushed.join(), curl)
    });
    let Ok(push_s) = push_s else {
        bail!("the push panicked")
    };
    let (curl_login_s, curl_upload_s) = curl?;
    let push_s = push_s?;
    // Both have the reply, and what led to it was told before.
    let events = simulator
        .events
        .try_iter()
        .map(|(_, event)| event)
        .collect::<Vec<_>>();
    let (received_s, sha256) = reception(&events, &ours.serial)?;
    let (curl_received_s, curl_sha256) = reception(&events, &curls.serial)?;
    ensure!(sha256 == curl_sha256, "the two units have different images");
    Ok(Pair {
        push_s,
        received_s,
        curl_s: curl_upload_s,
        curl_received_s,
        curl_login_s,
    })
}

/// What starts simulated units with an older version, so that nothing needs force.
fn simulate(n_units: usize) -> Vec<String> {
    let mut words: Vec<String> = ["simulate", "komfovent", "--http-port", "0", "--modbus-port", "0"]
        .map(String::from)
        .to_vec();
    words.extend([
        "--bind".into(),
        FIRST.to_string(),
        "--count".into(),
        n_units.to_string(),
    ]);
    words.extend(["--controller", "C6_1_3_40_60", "--panel", "P1_1_1_5_40"].map(String::from));
    words.extend(["--rate", "19000", "--restart-s", "1"].map(String::from));
    words
}

/// Seconds of the push, by the evidence of the program itself.
fn push(reflash: &Path, file: &Path, unit: &At) -> Result<f64> {
    let state = tempfile::tempdir().context("making a folder")?;
    let output = Command::new(reflash)
        .arg("push")
        .arg(unit.ip.to_string())
        .arg(file)
        .args(["--family", "komfovent", "--password-env", "UNIT_PASSWORD"])
        .args(["--http-port", &unit.http_port.to_string()])
        .args(["--modbus-port", &unit.modbus_port.to_string()])
        .args(["--soak", "0s", "--json", "--state"])
        .arg(state.path())
        .env("UNIT_PASSWORD", USER)
        .stdin(Stdio::null())
        .output()
        .context("starting the push")?;
    let said: Value = serde_json::from_slice(&output.stdout).context("reading what the push says")?;
    ensure!(output.status.success(), "the push failed: {said}");
    said["evidence"]["push_s"]
        .as_f64()
        .with_context(|| format!("the push says no push_s: {said}"))
}

/// Seconds of the login and of the upload, by `curl` itself.
fn curl(file: &Path, unit: &At) -> Result<(f64, f64)> {
    let page = format!("http://{}:{}/g1.html", unit.ip, unit.http_port);
    let ask = |more: &[&str]| -> Result<(f64, String)> {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--max-time"])
            .arg(UPLOAD_LIMIT.as_secs().to_string())
            .args(["--write-out", "\n%{time_total}"])
            .args(more)
            .arg(&page)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("starting curl")?;
        ensure!(output.status.success(), "curl failed");
        let said = String::from_utf8_lossy(&output.stdout);
        let (page, total_s) = said.rsplit_once('\n').context("curl tells no time")?;
        Ok((
            total_s.parse().context("reading the time of curl")?,
            page.to_owned(),
        ))
    };
    let (login_s, _) = ask(&["--data", &format!("1={USER}&2={USER}")])?;
    let form = format!("11111=@{};type=application/octet-stream", file.display());
    let (upload_s, page) = ask(&["--header", "Expect:", "--form", &form])?;
    ensure!(
        page.contains("uploaded successfully"),
        "the upload of curl failed"
    );
    Ok((login_s, upload_s))
}

/// Seconds from the first byte of the image to its last, and its digest; an error when the unit did not take it whole.
fn reception(events: &[Value], serial: &str) -> Result<(f64, String)> {
    let find = |name: &str| {
        let mut own = events.iter().filter(|event| event["device"] == serial);
        own.find(|event| event["event"] == name)
            .with_context(|| format!("{serial} tells nothing of {name}"))
    };
    let (receiving, received) = (find("receiving")?, find("received")?);
    ensure!(
        received["accepted"] == true && received["len_bytes"] == FILE_LEN,
        "{serial} did not take the image: {received}"
    );
    let t = |event: &Value| event["t"].as_f64().context("an event without a time");
    let sha256 = received["sha256"]
        .as_str()
        .context("a reception without a digest")?;
    Ok((t(received)? - t(receiving)?, sha256.to_owned()))
}

fn together(reflash: &Path, n_units: usize, n_runs: usize) -> Result<()> {
    let ideal_s = ideal_s();
    let mut worst_ratio: f64 = 0.0;
    for _ in 0..n_runs {
        let simulator = Simulated::start(Command::new(reflash).args(simulate(n_units)), n_units)?;
        let runtime = multi_thread()?;
        let cpu_s = cpu_of("self");
        let seconds = runtime.block_on(push_all(&simulator.units))?;
        let cpu_s = cpu_of("self") - cpu_s;
        let events = simulator
            .events
            .try_iter()
            .map(|(_, event)| event)
            .collect::<Vec<_>>();
        let mut received = Vec::new();
        for unit in &simulator.units {
            received.push(reception(&events, &unit.serial)?.0);
        }
        let (least_s, most_s) = ends(&seconds);
        worst_ratio = worst_ratio.max(most_s / ideal_s);
        println!(
            "  {n_units} units: {least_s:.2} to {most_s:.2} s = {:.4} to {:.4} of the ideal, median {:.2} s, received in {:.2} to {:.2} s, \
             CPU for all {cpu_s:.2} s",
            least_s / ideal_s,
            most_s / ideal_s,
            median(&seconds),
            ends(&received).0,
            ends(&received).1,
        );
    }
    println!(
        "{n_units} units at once, {FILE_LEN} bytes each, ideal {ideal_s:.2} s, {n_runs} runs: the slowest of all is {worst_ratio:.4} of it \
         (at most {EACH_MAX}: {})",
        met(worst_ratio <= EACH_MAX)
    );
    Ok(())
}

/// The least and the most of some numbers.
fn ends(numbers: &[f64]) -> (f64, f64) {
    numbers
        .iter()
        .fold((f64::INFINITY, 0.0), |(least, most), &number| {
            (least.min(number), f64::max(most, number))
        })
}

/// Logs in everywhere, then pushes to all at once; the seconds of each push.
async fn push_all(units: &[At]) -> Result<Vec<f64>> {
    let image = Image::new(FILE_NAME, sim::firmware::mbin(FILE_LEN, 1));
    let mut logins = JoinSet::new();
    for unit in units {
        let mut driver = driver(unit, &Ways::default())?;
        logins.spawn(async move { driver.prepare(None).await.map(|_| driver) });
    }
    let mut drivers = Vec::new();
    while let Some(driver) = logins.join_next().await {
        drivers.push(driver.context("a login panicked")?.map_err(failed)?);
    }
    let mut pushes = JoinSet::new();
    for mut driver in drivers {
        let image = image.clone();
        pushes.spawn(async move {
            let begun = Instant::now();
            let verdict = driver
                .push(&Method::new("http"), &image, &Progress::default())
                .await;
            verdict.map(|_| begun.elapsed().as_secs_f64())
        });
    }
    let mut seconds = Vec::new();
    while let Some(pushed) = pushes.join_next().await {
        seconds.push(pushed.context("a push panicked")?.map_err(failed)?);
    }
    Ok(seconds)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(fault: Fault) -> anyhow::Error {
    anyhow::anyhow!("{:?}: {}", fault.reason, fault.text)
}

fn multi_thread() -> Result<Runtime> {
    // As the program has it.
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")
}

fn driver(unit: &At, ways: &Ways) -> Result<Box<dyn Driver>> {
    let networks: IpNet = "127.30.0.0/16".parse()?;
    let site = Site {
        dialer: Arc::new(Dialer::new(Networks::new([networks]), None)),
        callback: None,
    };
    let ways = Ways {
        http_port: unit.http_port,
        modbus_port: unit.modbus_port,
        ..ways.clone()
    };
    let families: Vec<Arc<dyn Family>> = families::all(&site, &ways);
    let family = families
        .into_iter()
        .find(|family| family.id() == FamilyId::new("komfovent"))
        .context("there is no family komfovent")?;
    Ok(family.open(Target {
        address: IpAddr::V4(unit.ip),
        given_as: unit.ip.to_string(),
        username: None,
        secret: Some(SecretString::from(USER)),
        chip: None,
        notes: Notes::default(),
        answers: Arc::new(Unbounded),
    }))
}

// Registers.

/// CPU microseconds of one run: of a look or of a read, as the name says.
#[expect(clippy::struct_field_names, reason = "units are part of the names")]
struct Reads {
    /// Looks of two reads, three (the usual one) and four.
    looks_us: [f64; 3],
    /// The usual look, everything on one thread.
    one_thread_look_us: f64,
    /// A read of the peer: one connection, one for each look, one connection with asyncio.
    peer_us: [f64; 3],
}

impl Reads {
    /// A read as a look's share, which is what the goal is about.
    fn read_us(&self) -> f64 {
        self.looks_us[1] / 3.0
    }

    /// What one more read on the same connection adds.
    fn further_read_us(&self) -> f64 {
        (self.looks_us[2] - self.looks_us[0]) / 2.0
    }

    /// What a look costs besides its reads: the connection, and the neighbour table.
    fn around_us(&self) -> f64 {
        self.looks_us[1] - 3.0 * self.further_read_us()
    }
}

fn modbus(n_looks: u32, n_runs: usize, python: &Path, peer: &Path) -> Result<()> {
    let itself = std::env::current_exe().context("finding this program")?;
    let unit = |bind: Ipv4Addr, more: &[&str]| {
        let bind = bind.to_string();
        Simulated::start(
            Command::new(&itself)
                .args(["komfovent", "unit", "--bind", &bind])
                .args(more),
            1,
        )
    };
    let without_panel = unit(WITHOUT_PANEL, &["--without-panel"])?;
    let with_panel = unit(FIRST, &[])?;
    let many = multi_thread()?;
    let one = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let mut runs = Vec::new();
    for _ in 0..n_runs {
        let reads = Reads {
            looks_us: [
                looks(&many, &without_panel, false, n_looks, 2)?,
                looks(&many, &with_panel, false, n_looks, 3)?,
                looks(&many, &with_panel, true, n_looks, 4)?,
            ],
            one_thread_look_us: looks(&one, &with_panel, false, n_looks, 3)?,
            peer_us: [
                peer_read(python, peer, &with_panel, n_looks, "one")?,
                peer_read(python, peer, &with_panel, n_looks, "each")?,
                peer_read(python, peer, &with_panel, n_looks, "asyncio")?,
            ],
        };
        println!("  {}", told(&reads));
        runs.push(reads);
    }
    let middle = |figure: &dyn Fn(&Reads) -> f64| median(&runs.iter().map(figure).collect::<Vec<_>>());
    let read_us = middle(&Reads::read_us);
    let peer_us = middle(&|reads| reads.peer_us[0]);
    let middle = Reads {
        looks_us: [0, 1, 2].map(|idx| middle(&|reads| reads.looks_us[idx])),
        one_thread_look_us: middle(&|reads| reads.one_thread_look_us),
        peer_us: [0, 1, 2].map(|idx| middle(&|reads| reads.peer_us[idx])),
    };
    println!(
        "{n_looks} looks of each, {n_runs} runs, medians: {}\n  a read {read_us:.1} us (at most {READ_MAX_US}: {}), pymodbus {:.1} times as much",
        told(&middle),
        met(read_us <= READ_MAX_US),
        peer_us / read_us,
    );
    Ok(())
}

fn told(reads: &Reads) -> String {
    let [two, three, four] = reads.looks_us;
    let [one, each, asyncio] = reads.peer_us;
    format!(
        "a look of 2 / 3 / 4 reads {two:.1} / {three:.1} / {four:.1} us (3 on one thread {:.1}), so a read of the usual 3 {:.1} us, \
         a further one {:.1} us, all but the reads {:.1} us; pymodbus a read {one:.1} us, with a connection a look {each:.1} us, asyncio {asyncio:.1} us",
        reads.one_thread_look_us,
        reads.read_us(),
        reads.further_read_us(),
        reads.around_us(),
    )
}

/// CPU of one look, microseconds.
fn looks(
    runtime: &Runtime,
    simulator: &Simulated,
    stop_unit: bool,
    n_looks: u32,
    n_reads: u64,
) -> Result<f64> {
    let ways = Ways {
        modbus_spacing: Duration::ZERO,
        stop_unit,
        ..Ways::default()
    };
    let mut driver = driver(&simulator.units[0], &ways)?;
    let n_read = simulator.reads()?;
    let cpu_s = cpu_of("self");
    let mut tasks = JoinSet::new();
    tasks.spawn_on(
        async move {
            for _ in 0..n_looks {
                driver.probe().await?;
            }
            Ok(())
        },
        runtime.handle(),
    );
    let looked = runtime.block_on(tasks.join_next());
    let cpu_s = cpu_of("self") - cpu_s;
    looked
        .context("nothing was started")?
        .context("a look panicked")?
        .map_err(failed)?;
    let n_read = simulator.reads()? - n_read;
    ensure!(
        n_read == n_reads * u64::from(n_looks),
        "the unit was read {n_read} times in {n_looks} looks, and not {n_reads} times in each"
    );
    Ok(cpu_s * 1e6 / f64::from(n_looks))
}

/// CPU of one read of the peer, microseconds.
fn peer_read(python: &Path, peer: &Path, simulator: &Simulated, n_looks: u32, how: &str) -> Result<f64> {
    let unit = &simulator.units[0];
    let n_read = simulator.reads()?;
    let output = Command::new(python)
        .arg(peer)
        .args([unit.ip.to_string(), unit.modbus_port.to_string()])
        .args([&n_looks.to_string(), how])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting the peer")?;
    ensure!(output.status.success(), "the peer failed");
    let n_read = simulator.reads()? - n_read;
    let said: Value = serde_json::from_slice(&output.stdout).context("reading what the peer says")?;
    ensure!(
        said["n_reads"] == n_read,
        "the unit was read {n_read} times; the peer says {said}"
    );
    let cpu_s = said["cpu_s"].as_f64().context("the peer tells no time")?;
    Ok(cpu_s * 1e6 / (3.0 * f64::from(n_looks)))
}

/// The unit of [`Job::Unit`]; ends with its input.
fn unit(bind: Ipv4Addr, without_panel: bool) -> Result<()> {
    let events = EventSink::new();
    let mut config = Config::new(bind);
    if without_panel {
        config.registers = Registers::synthesize("C6_1_3_44_70".parse()?, None);
    }
    let runtime = multi_thread()?;
    let unit = {
        let _inside = runtime.enter();
        sim::komfovent::start(config, events.clone())?
    };
    for event in events.log() {
        println!("{event}");
    }
    for line in std::io::stdin().lines() {
        line.context("reading a wish")?;
        println!(
            "{}",
            json!({ "event": "counters", "modbus_reads": unit.counters().modbus_reads })
        );
    }
    Ok(())
}

/// Where a unit is.
struct At {
    serial: String,
    ip: Ipv4Addr,
    http_port: u16,
    modbus_port: u16,
}

/// Simulated units in a process of their own; dropping this ends them.
struct Simulated {
    child: Child,
    events: Receiver<(Instant, Value)>,
    reader: Option<JoinHandle<()>>,
    units: Vec<At>,
}

impl Simulated {
    /// Starts `command`, and waits until that many units answer.
    fn start(command: &mut Command, n_units: usize) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the simulator")?;
        let (events, reader) = simulator::events(&mut child)?;
        let mut simulator = Self {
            child,
            events,
            reader: Some(reader),
            units: Vec::new(),
        };
        for _ in 0..n_units {
            let ready = simulator.wait("ready")?;
            simulator
                .units
                .push(At::read(&ready).with_context(|| format!("a unit tells not where it is: {ready}"))?);
        }
        Ok(simulator)
    }

    /// The next event of this name; those before it are dropped.
    fn wait(&self, name: &str) -> Result<Value> {
        let end = Instant::now() + LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).map(|(_, event)| event);
            let event = event.with_context(|| format!("the simulator does not say {name}"))?;
            if event["event"] == name {
                return Ok(event);
            }
        }
    }

    /// How often the unit of [`Job::Unit`] was read.
    fn reads(&self) -> Result<u64> {
        use std::io::Write as _;
        let mut wishes = self.child.stdin.as_ref().context("the unit takes no wishes")?;
        writeln!(wishes).context("asking the unit")?;
        self.wait("counters")?["modbus_reads"]
            .as_u64()
            .context("the unit tells no reads")
    }
}

impl At {
    fn read(ready: &Value) -> Option<Self> {
        let port = |name: &str| u16::try_from(ready[name].as_u64()?).ok();
        Some(Self {
            serial: ready["device"].as_str()?.to_owned(),
            ip: ready["ip"].as_str()?.parse().ok()?,
            http_port: port("http_port")?,
            modbus_port: port("modbus_port")?,
        })
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, device: &str, t: f64, accepted: bool) -> Value {
        json!({
            "event": name, "device": device, "t": t, "accepted": accepted, "len_bytes": FILE_LEN, "sha256": "d",
        })
    }

    #[test]
    fn a_reception_is_between_the_events_of_the_same_unit() {
        let events = [
            event("receiving", "A", 1.0, true),
            event("receiving", "B", 1.5, true),
            event("received", "B", 60.0, true),
            event("received", "A", 61.25, true),
        ];
        assert_eq!(reception(&events, "A").unwrap(), (60.25, "d".to_owned()));
        assert!(reception(&events, "C").is_err());
    }

    #[test]
    fn an_image_that_was_not_taken_is_no_reception() {
        let events = [
            event("receiving", "A", 1.0, true),
            event("received", "A", 2.0, false),
        ];
        assert!(reception(&events, "A").is_err());
        assert!(reception(&events[..1], "A").is_err());
    }

    #[test]
    fn the_ideal_is_that_of_the_goal() {
        assert!((ideal_s() - 60.841).abs() < 1e-3);
    }
}
