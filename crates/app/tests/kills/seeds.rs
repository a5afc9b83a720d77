//! Whole rollouts: ten devices, some of them with faults, and a server that is killed at random moments.
//!
//! What a seed decides is which devices have which faults, after how many lines of theirs the server is killed, and whether
//! somebody ends the rollout. The rest is the machine's, so a replay has the same plan, and not the same microseconds.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sim::ir_remote::Fault;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::oracle::Story;
use crate::world::{PATIENCE, World, remote};

const N_DEVICES: usize = 10;
/// Seeds of every run; others by the environment variable [`SEEDS`], as `7` or `100..200`.
const USUAL_SEEDS: std::ops::RangeInclusive<u64> = 1..=20;
const SEEDS: &str = "REFLASH_SEEDS";
/// Servers that start at the same time.
const N_STARTS: usize = 4;
/// Rollouts under way at the same time: most of them only wait.
const N_AT_ONCE: usize = 20;
/// Twice as long as a device that keeps restarting stays up (`returns-but-crashes`): one restart may fall between two looks.
const SOAK_S: u64 = 5;
/// How long one job may take: 3 min until a device must be back, and its soak; and the time in which nobody served.
const JOB_WITHIN_MS: i64 = 240_000;
/// What a lost server costs before somebody starts it again.
const DOWN_MAX_MS: u64 = 400;

/// Numbers that a seed decides (`SplitMix64`, Steele, Lea and Flood 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// What is wrong with a device.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    None,
    BootLoop,
    Slow,
    /// Gone after so many milliseconds, for so many.
    Away(u64, u64),
    WrongPassword,
}

/// What a seed decides.
#[derive(Debug)]
struct Plan {
    troubles: Vec<Trouble>,
    /// Lines of the devices after which the server is killed, and for how long it is down, milliseconds.
    kills: Vec<(usize, u64)>,
    n_at_once: u64,
    /// Lines of the devices after which somebody ends it.
    abort_at: Option<usize>,
    /// It waits for a window that opens within a minute.
    has_window: bool,
}

impl Plan {
    fn of(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut troubles = vec![Trouble::None; N_DEVICES];
        for _ in 0..3 + dice.below(3) {
            let idx = usize::try_from(dice.below(N_DEVICES as u64)).unwrap();
            troubles[idx] = match dice.below(4) {
                0 => Trouble::BootLoop,
                1 => Trouble::Slow,
                2 => Trouble::Away(dice.below(6000), 1000 + dice.below(6000)),
                _ => Trouble::WrongPassword,
            };
        }
        let n_kills = 1 + dice.below(3);
        // A device writes six lines where nothing goes wrong.
        let mut kills: Vec<(usize, u64)> = (0..n_kills)
            .map(|_| {
                let line = dice.below(6 * N_DEVICES as u64);
                (usize::try_from(line).unwrap(), dice.below(DOWN_MAX_MS))
            })
            .collect();
        kills.sort_unstable();
        let abort_at = (seed % 5 == 4).then(|| usize::try_from(10 + dice.below(30)).unwrap());
        Self {
            troubles,
            kills,
            n_at_once: 2 + dice.below(4),
            abort_at,
            has_window: seed % 10 == 6,
        }
    }
}

async fn world(plan: &Plan) -> World {
    let configs = plan.troubles.iter().map(|trouble| {
        let mut config = remote();
        config.rate_bytes_per_s = Some(400_000);
        if *trouble == Trouble::WrongPassword {
            config.password = Some("another".to_owned());
        }
        config
    });
    let program = Path::new(env!("CARGO_BIN_EXE_reflash"));
    World::of_remotes(program, configs.collect(), "").await
}

fn begin_troubles(world: &World, plan: &Plan) {
    for (unit, trouble) in world.units.iter().zip(&plan.troubles) {
        let faults = match *trouble {
            Trouble::None | Trouble::WrongPassword => continue,
            Trouble::BootLoop => vec![Fault::ReturnsButCrashes],
            Trouble::Slow => vec![Fault::Slow(60_000)],
            Trouble::Away(after, back) => vec![
                Fault::Vanish(Duration::from_millis(after)),
                Fault::Return(Duration::from_millis(back)),
            ],
        };
        unit.remote().set_faults(faults);
    }
}

/// The moment when the next full minute begins, by the server's clock, as hours, minutes and milliseconds since 1970.
fn next_minute(world: &World) -> (String, i64) {
    let devices = world.get("devices");
    let devices = devices
        .as_array()
        .or_else(|| devices["devices"].as_array())
        .unwrap();
    let now_ms = devices
        .iter()
        .filter_map(|device| device["last_seen_ms"].as_i64())
        .max()
        .unwrap();
    // So late that the server is back before it.
    let minute = (now_ms + 12_000) / 60_000 + 1;
    let (hour, of_hour) = (minute / 60 % 24, minute % 60);
    (format!("{hour:02}:{of_hour:02}"), minute * 60_000)
}

/// Rolls out as the seed wants it, and says what does not hold in the end, and how often the server was killed.
async fn rollout(seed: u64, starts: &Semaphore) -> (Vec<String>, usize) {
    let plan = Plan::of(seed);
    let place = starts.acquire().await.unwrap();
    let mut world = world(&plan).await;
    let image = sim::firmware::image("esp32c6".parse().unwrap(), Some("1.1"), 64 * 1024, 1);
    let target = world.firmware("remote.bin", &image);
    let mut wanted = json!({ "firmware": target, "soak_s": SOAK_S, "canary_soak_s": SOAK_S, "when_back_s": 600,
                             "max_failures": "9", "at_once": plan.n_at_once.to_string() });
    let mut opens_ms = None;
    if plan.has_window {
        let (start, at_ms) = next_minute(&world);
        let window = format!("windows: {{ soon: {{ start: \"{start}\", duration: 2h, timezone: UTC }} }}\n");
        world.kill();
        world.configure(&window);
        world.start().await;
        world.until_online().await;
        wanted["window"] = json!("soon");
        opens_ms = Some(at_ms);
    }
    drop(place);
    begin_troubles(&world, &plan);
    let first_line = world.events.mark();
    let id = world.roll_out(&wanted);
    if let Some(opens_ms) = opens_ms {
        assert_eq!(world.rollout(id)["opens_ms"], opens_ms);
    }

    let deadline = Instant::now() + PATIENCE;
    let mut kills = plan.kills.iter().peekable();
    let (mut stopped, mut n_kills) = (None, 0);
    loop {
        let rollout = world.rollout(id);
        let is_over = !rollout["ended_ms"].is_null();
        let n_lines = world.events.mark() - first_line;
        // What is over before its moment is killed all the same: then the next start must leave it alone.
        if let Some((_, down_ms)) = kills.next_if(|(line, _)| n_lines >= *line || is_over) {
            world.kill();
            n_kills += 1;
            sleep(Duration::from_millis(*down_ms)).await;
            let _place = starts.acquire().await.unwrap();
            world.start().await;
            continue;
        }
        if is_over {
            break;
        }
        if stopped.is_none() && plan.abort_at.is_some_and(|line| n_lines >= line) {
            let unbegun = unbegun(&rollout);
            let answer = world.post(&format!("rollouts/{id}/abort"), &json!({}));
            assert_eq!(answer.status, 200, "{:#}", answer.body);
            let still: BTreeSet<String> = self::unbegun(&answer.body);
            let cancelled = states(&answer.body, &["cancelled"]);
            // Who was neither begun before nor after.
            let unbegun = unbegun
                .into_iter()
                .filter(|name| still.contains(name) || cancelled.contains(name));
            stopped = Some((world.events.mark(), unbegun.collect()));
        }
        if rollout["state"] == "halted" && stopped.is_none() {
            // Its owner has seen it, and lets it go on.
            world.post(&format!("rollouts/{id}/resume"), &json!({}));
        }
        assert!(
            Instant::now() < deadline,
            "seed {seed} hangs: {rollout:#}\n{}",
            world.story()
        );
        sleep(Duration::from_millis(20)).await;
    }

    let story = Story {
        target,
        n_at_once: usize::try_from(plan.n_at_once).unwrap(),
        // Looks are 250 ms apart, and the soak is told in tenths.
        soak_s: Duration::from_secs(SOAK_S).as_secs_f64() - 0.1,
        job_within_ms: JOB_WITHIN_MS,
        opens_ms,
        stopped,
        lines: world
            .lines()
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
        rollout: world.rollout(id),
        jobs: world.jobs(),
    };
    let mut found = story.violations();
    found.extend(ends(&plan, &world, &story));
    if !found.is_empty() {
        println!(
            "seed {seed}: {plan:?}\n{:#}\n{:#?}\n{}\n{found:#?}",
            story.rollout,
            story.jobs,
            world.story()
        );
    }
    (found, n_kills)
}

fn states(rollout: &Value, wanted: &[&str]) -> BTreeSet<String> {
    let members = rollout["members"].as_array().unwrap().iter();
    let fitting = members.filter(|member| wanted.contains(&member["state"].as_str().unwrap()));
    fitting
        .map(|member| member["device"].as_str().unwrap().to_owned())
        .collect()
}

/// Who has had no job yet.
fn unbegun(rollout: &Value) -> BTreeSet<String> {
    let members = rollout["members"].as_array().unwrap().iter();
    let fitting = members.filter(|member| member["state"] == "queued" && member["n_tries"] == 0);
    fitting
        .map(|member| member["device"].as_str().unwrap().to_owned())
        .collect()
}

/// I3: what each device ends as is what its own trouble makes of it, as if nobody had been killed.
fn ends(plan: &Plan, world: &World, story: &Story) -> Vec<String> {
    let mut found = Vec::new();
    for (idx, trouble) in plan.troubles.iter().enumerate() {
        let name = world.id(idx);
        let members = story.rollout["members"].as_array().unwrap();
        let Some(member) = members.iter().find(|member| member["device"] == name) else {
            let left_out = &story.rollout["left_out"];
            found.push(format!("I3: {name} with {trouble:?} is no member: {left_out:#}"));
            continue;
        };
        let state = member["state"].as_str().unwrap();
        // A push that was cut twice, or that three tries did not get to, is not tried for ever.
        let is_spent = plan.kills.len() > 1 && member["n_pushes"] == 2 || member["n_tries"] == 3;
        let last = story.jobs.iter().rfind(|job| job["device"] == name);
        let expected: &[&str] = match trouble {
            Trouble::None | Trouble::Slow if is_spent => &["updated", "kept-old", "unverified"],
            Trouble::None | Trouble::Slow => &["updated"],
            // A restart of its own in the middle of a push that was cut leaves a doubt.
            Trouble::Away(..) => &["updated", "kept-old", "unverified", "failed"],
            Trouble::BootLoop => &["failed", "unverified", "kept-old"],
            // The next try of one that was killed while it asked for the password is by HTTP, which asks for none.
            Trouble::WrongPassword if last.is_some_and(|job| job["method"] == "http") => &["updated"],
            Trouble::WrongPassword => &["refused"],
        };
        // Nobody tries again in a rollout that its owner has ended.
        let is_ended = story.stopped.is_some() && ["cancelled", "kept-old", "unverified"].contains(&state);
        if !is_ended && !expected.contains(&state) {
            found.push(format!(
                "I3: {name} with {trouble:?} ended as {state}: {member:#}"
            ));
        }
    }
    found
}

fn seeds() -> Vec<u64> {
    let Ok(wanted) = std::env::var(SEEDS) else {
        return USUAL_SEEDS.collect();
    };
    match wanted.split_once("..") {
        Some((first, end)) => (first.parse().unwrap()..end.parse().unwrap()).collect(),
        None => vec![wanted.parse().unwrap()],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_rollouts_of_ten_devices_keep_every_invariant_whenever_the_server_is_killed() {
    let began = Instant::now();
    let (starts, places) = (
        Arc::new(Semaphore::new(N_STARTS)),
        Arc::new(Semaphore::new(N_AT_ONCE)),
    );
    let mut all = JoinSet::new();
    let mut seed_of = std::collections::HashMap::new();
    for seed in seeds() {
        let (starts, places) = (Arc::clone(&starts), Arc::clone(&places));
        let task = all.spawn(async move {
            let _place = places.acquire().await.unwrap();
            rollout(seed, &starts).await
        });
        seed_of.insert(task.id(), seed);
    }
    let (mut n_kills, mut failed) = (0, Vec::new());
    while let Some(done) = all.join_next_with_id().await {
        let (task, found) = match done {
            Ok((task, (found, n))) => {
                n_kills += n;
                (task, found)
            }
            Err(error) => (error.id(), vec![error.to_string()]),
        };
        if !found.is_empty() {
            let seed = seed_of[&task];
            let replay =
                format!("replay: {SEEDS}={seed} cargo test -p app --test kills seeds -- --nocapture");
            failed.push(format!("seed {seed}: {found:#?}\n{replay}"));
        }
    }
    println!(
        "{} rollouts, {n_kills} kills, {:?}",
        seed_of.len(),
        began.elapsed()
    );
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(n_kills >= seed_of.len());
}
