//! Kills the server at system calls, and lets system calls fail: one job by espota, one by HTTP, one of a ventilation unit.
//!
//! Not part of CI: `just torture-kills` runs it. It needs `strace`, and the right to trace (root, or a child of its own).
//! strace attaches to the server when everything is ready, so that only the calls of the job count; it counts them for each
//! thread by itself, and each thread that gets so far is a point.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "a tool for developers, which shares what tests share"
)]

#[path = "../tests/kills/case.rs"]
mod case;
#[path = "../tests/kills/world.rs"]
mod world;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use case::{Case, Last, ROLLOUT, check, watch};
use world::{World, remote};

/// Calls at which the server is killed: what writes, what sends, what names files.
const KILLED_AT: [&str; 12] = [
    "write",
    "writev",
    "pwrite64",
    "fdatasync",
    "fsync",
    "ftruncate",
    "sendto",
    "sendmsg",
    "connect",
    "openat",
    "rename",
    "unlink",
];
/// Calls that fail, and how.
const FAILS: [(&str, &str); 8] = [
    ("pwrite64", "ENOSPC"),
    ("pwrite64", "EIO"),
    ("fsync", "EIO"),
    ("fsync", "ENOSPC"),
    ("openat", "EMFILE"),
    ("socket", "EMFILE"),
    ("accept4", "EMFILE"),
    ("sendto", "ENOBUFS"),
];
/// How long a rollout with a failed call may take before the server is killed and started again, as its owner would.
const OWNER_WAITS: Duration = Duration::from_secs(45);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often the server is asked: each question is system calls as well.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Kills the server at system calls, and lets system calls fail.
#[derive(Parser)]
struct Arguments {
    /// The program; else the one beside this one.
    #[arg(long)]
    reflash: Option<PathBuf>,
    /// Every so many calls of each kind and thread.
    #[arg(long, default_value_t = 1)]
    every: u32,
    /// At most so many points, drawn evenly from all.
    #[arg(long)]
    points: Option<usize>,
    /// Only calls that fail, or only kills.
    #[arg(long)]
    only: Option<Kind>,
    /// Which drawing.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rollouts at the same time: they mostly wait.
    #[arg(long, default_value_t = 6)]
    at_once: usize,
    /// Also how long a start takes in the middle of a rollout, so often.
    #[arg(long, default_value_t = 20)]
    restarts: u32,
}

/// What is done at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Kills,
    Errors,
}

/// One thing that is done to the server.
#[derive(Clone, Debug)]
struct Point {
    case: Case,
    call: &'static str,
    /// The error that it returns; none: the server is killed at it.
    error: Option<&'static str>,
    when: u32,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Met {
    /// It was killed there, and the next start has ended right.
    Killed,
    /// The call failed, and the server went on by itself and ended right.
    WentOn,
    /// The call failed, and a new start has ended right.
    StartedAgain,
    /// The call failed, and the rollout said truly that it did not succeed.
    SaidSo,
    /// No thread got that far.
    TooFar,
}

/// A strace of a server; detached when this is dropped.
struct Strace(Child);

impl Strace {
    async fn attach(pid: u32, output: &Path, arguments: &[String]) -> Self {
        let mut command = Command::new("strace");
        command
            .args(["-f", "-qq", "-p", &pid.to_string(), "-o"])
            .arg(output)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut strace = Self(command.spawn().unwrap());
        let deadline = Instant::now() + world::SOON;
        // The first call may be the one that kills it.
        while !is_traced(pid) && strace.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "strace does not attach");
            sleep(LOOK_EVERY).await;
        }
        strace
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // It ends by itself when the server is dead.
        if let Ok(None) = self.0.try_wait() {
            let _ = kill_process(Pid::from_child(&self.0), Signal::INT);
        }
        let _ = self.0.wait();
    }
}

/// Whether every thread of a process is traced.
fn is_traced(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    let mut threads = threads.flatten();
    threads.all(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        !status.contains("TracerPid:\t0\n")
    })
}

/// How often the busiest thread makes each call in one undisturbed job, and what is left in the end.
async fn count(case: Case, program: &Path) -> (BTreeMap<&'static str, u32>, Last) {
    let mut calls: Vec<&'static str> = KILLED_AT.into_iter().chain(FAILS.map(|(call, _)| call)).collect();
    calls.sort_unstable();
    calls.dedup();
    let world = case.world(program).await;
    let firmware = case.bring(&world);
    let log = world.data().join("../strace.log");
    let strace = Strace::attach(world.pid(), &log, &[format!("-etrace={}", calls.join(","))]).await;
    world.wish(&case.wanted(&firmware))().unwrap();
    world
        .until(ROLLOUT, "finished", |rollout| rollout["state"] == "finished")
        .await;
    drop(strace);
    check(case, &world, "undisturbed", None).await;
    let text = std::fs::read_to_string(log).unwrap();
    let mut by_thread: HashMap<(&str, &str), u32> = HashMap::new();
    for line in text.lines() {
        // A thread's number, its call and arguments; what goes on later is told again as "resumed".
        if let Some((thread, call)) = line.split_once(' ')
            && let Some((call, _)) = call.trim_start().split_once('(')
        {
            *by_thread.entry((thread, call)).or_default() += 1;
        }
    }
    let most = calls.into_iter().map(|call| {
        let of_threads = by_thread
            .iter()
            .filter(|((_, own), _)| *own == call)
            .map(|(_, n)| *n);
        (call, of_threads.max().unwrap_or(0))
    });
    (most.collect(), Case::last(&world))
}

/// Does it to a server of its own.
async fn torture(point: Point, program: &Path, expected: &Last) -> Met {
    let Point {
        case,
        call,
        error,
        when,
    } = point.clone();
    let mut world = case.world(program).await;
    let firmware = case.bring(&world);
    let what = match error {
        Some(error) => format!("error={error}"),
        None => "signal=SIGKILL".to_owned(),
    };
    let inject = [
        format!("-etrace={call}"),
        format!("-einject={call}:{what}:when={when}"),
    ];
    let strace = Strace::attach(world.pid(), Path::new("/dev/null"), &inject).await;
    let wish = world.wish(&case.wanted(&firmware));
    // It may not be answered.
    let _ = tokio::task::spawn_blocking(wish.clone()).await.unwrap();
    let deadline = Instant::now()
        + if error.is_some() {
            OWNER_WAITS
        } else {
            world::PATIENCE
        };
    let mut is_over = false;
    while !is_over && !world.has_ended() && Instant::now() < deadline {
        sleep(ASK_EVERY).await;
        let asked = tokio::task::block_in_place(|| world.try_rollout(ROLLOUT));
        is_over = asked.is_ok_and(|answer| answer.body["ended_ms"].is_number());
    }
    let was_killed = world.has_ended();
    drop(strace);
    let mut looks = None;
    if was_killed || !is_over {
        world.kill();
        let (mark, asked) = (world.events.mark(), world.units[0].n_asked());
        world.start().await;
        let _ = tokio::task::block_in_place(wish);
        looks = watch(&world, mark, asked).await;
    }
    let told = format!("{point:?}, {}", if was_killed { "killed" } else { "not killed" });
    let rollout = world.rollout(ROLLOUT);
    if error.is_some() && rollout["ok"] != true {
        // Whatever it is called, it must be no success, and the device must not have been left in the middle.
        let member = &rollout["members"][0];
        assert!(
            member["state"].is_string() && member["text"].is_string(),
            "{told}: {rollout:#}"
        );
        assert!(world.n_pushes(0) <= 2, "{told}: {}", world.story());
        println!(
            "{told}: {}, {}, {}",
            member["state"], member["reason"], member["text"]
        );
        return Met::SaidSo;
    }
    if error.is_some() && is_over {
        // A store that could not be made durable writes nothing more, and an end that could not be written is found out anew:
        // both by the next start.
        let is_open = |world: &World| world.jobs().iter().any(|job| job["ended_ms"].is_null());
        if is_open(&world) {
            println!("{told}: the rollout is over, and a job is open until the next start");
        }
        world.kill();
        world.start().await;
        let deadline = Instant::now() + world::PATIENCE;
        while is_open(&world) {
            assert!(
                Instant::now() < deadline,
                "{told}: it stays open: {}",
                world.story()
            );
            sleep(ASK_EVERY).await;
        }
    }
    check(case, &world, &told, looks).await;
    // What a start has settled is taken over by the list of devices some seconds later.
    let deadline = Instant::now() + world::SOON;
    while Case::last(&world) != *expected && Instant::now() < deadline {
        sleep(ASK_EVERY).await;
    }
    assert_eq!(Case::last(&world), *expected, "{told}");
    match (error, was_killed, is_over) {
        (None, true, _) => Met::Killed,
        (None, false, _) => Met::TooFar,
        (Some(_), false, true) => Met::WentOn,
        (Some(_), ..) => Met::StartedAgain,
    }
}

/// CPU time of a process so far.
fn cpu(pid: u32) -> Duration {
    // User and system time, fields 14 and 15 of proc(5), in ticks of 10 ms; the name before them may hold spaces.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(10 * ticks)
}

/// How long it takes from the start of a server that was killed in the middle of a rollout until it answers.
async fn restarts(program: &Path, n: u32) {
    let mut took = Vec::new();
    while took.len() < n as usize {
        let configs = (0..10).map(|_| {
            let mut config = remote();
            config.rate_bytes_per_s = Some(60_000);
            config
        });
        let mut world = World::of_remotes(program, configs.collect(), "").await;
        let image = sim::firmware::image("esp32c6".parse().unwrap(), Some("1.1"), 64 * 1024, 1);
        let firmware = world.firmware("remote.bin", &image);
        let id = world.roll_out(&json!({ "firmware": firmware, "canary": 4, "at_once": "4" }));
        for _ in 0..4.min(n as usize - took.len()) {
            let uploads = |rollout: &serde_json::Value| {
                let members = rollout["members"].as_array().unwrap();
                members.iter().any(|member| {
                    ["uploading", "rebooting", "soaking"].contains(&member["state"].as_str().unwrap())
                })
            };
            world.until(id, "in the middle", uploads).await;
            world.kill();
            let wall = world.start().await;
            took.push((wall, cpu(world.pid())));
        }
    }
    took.sort();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let mut cpu: Vec<Duration> = took.iter().map(|(_, cpu)| *cpu).collect();
    cpu.sort();
    println!(
        "restarts: {} in the middle of a rollout of 10; serving again after {:?} (median), {:?} (longest); \
         CPU until then {:?}, {:?}; load average {load}",
        took.len(),
        took[took.len() / 2].0,
        took.last().unwrap().0,
        cpu[cpu.len() / 2],
        cpu.last().unwrap(),
    );
}

/// All points, or so many of them, drawn evenly.
fn points(counts: &BTreeMap<Case, BTreeMap<&'static str, u32>>, arguments: &Arguments) -> Vec<Point> {
    let mut all = Vec::new();
    for (&case, counts) in counts {
        let kills = KILLED_AT.iter().map(|call| (*call, None));
        let fails = FAILS.iter().map(|(call, error)| (*call, Some(*error)));
        let wanted = |error: Option<&str>| match arguments.only {
            Some(Kind::Kills) => error.is_none(),
            Some(Kind::Errors) => error.is_some(),
            None => true,
        };
        for (call, error) in kills.chain(fails).filter(|(_, error)| wanted(*error)) {
            let every = usize::try_from(arguments.every).unwrap();
            let whens = (1..=counts.get(call).copied().unwrap_or(0)).step_by(every);
            all.extend(whens.map(|when| Point {
                case,
                call,
                error,
                when,
            }));
        }
    }
    println!("{} points in all", all.len());
    let wanted = arguments.points.unwrap_or(all.len()).min(all.len());
    let mut drawn = Vec::new();
    let mut state = arguments.seed;
    while drawn.len() < wanted {
        // Numerical Recipes' constants, in 64 bits.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let idx = usize::try_from(state >> 33).unwrap() % all.len();
        drawn.push(all.swap_remove(idx));
    }
    drawn
}

#[tokio::main(flavor = "multi_thread", worker_threads = 4)]
async fn main() {
    let arguments = Arguments::parse();
    if Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        println!("strace is missing: apt-get install strace");
        std::process::exit(64);
    }
    let beside = || std::env::current_exe().unwrap().with_file_name("../reflash");
    let program = Arc::new(arguments.reflash.clone().unwrap_or_else(beside));
    println!("{}", program.display());
    if arguments.restarts > 0 {
        restarts(&program, arguments.restarts).await;
    }
    let (mut counts, mut expected) = (BTreeMap::new(), BTreeMap::new());
    for case in [Case::Espota, Case::Http, Case::Vent] {
        let (count, last) = count(case, &program).await;
        println!("{case:?}, calls of the busiest thread: {count:?}");
        counts.insert(case, count);
        expected.insert(case, Arc::new(last));
    }
    let places = Arc::new(Semaphore::new(arguments.at_once));
    let mut all = JoinSet::new();
    for point in points(&counts, &arguments) {
        let (places, program) = (Arc::clone(&places), Arc::clone(&program));
        let expected = Arc::clone(&expected[&point.case]);
        all.spawn(async move {
            let _place = places.acquire().await.unwrap();
            let shown = point.clone();
            // What a panic says is printed where it happens.
            let met =
                tokio::task::JoinSet::from_iter([async move { torture(point, &program, &expected).await }])
                    .join_next()
                    .await;
            (shown, met.unwrap().ok())
        });
    }
    let mut sums: BTreeMap<(Case, &str, Option<Met>), u32> = BTreeMap::new();
    let mut failed = Vec::new();
    while let Some(done) = all.join_next().await {
        let (point, met) = done.unwrap();
        println!("{point:?}: {met:?}");
        let kind = point.error.unwrap_or("SIGKILL");
        *sums.entry((point.case, kind, met)).or_default() += 1;
        if met.is_none() {
            failed.push(point);
        }
    }
    for ((case, kind, met), n) in &sums {
        let met = met.map_or("FAILED".to_owned(), |met| format!("{met:?}"));
        println!("{case:?}\t{kind}\t{met}\t{n}");
    }
    println!(
        "{} points, {} failed: {failed:#?}",
        sums.values().sum::<u32>(),
        failed.len()
    );
    std::process::exit(i32::from(!failed.is_empty()));
}
