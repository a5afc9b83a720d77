//! A push that is killed, doubled or interrupted: the next command looks first, and ends right.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use sim::EventKind;
use sim::ir_remote::{Config, Fault};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use support::{Ended, IMAGE_LEN, PASSWORD_ENV, Rig, Running, image, run};

/// Slow enough that a moment in the middle can be met: an image takes 1.3 s.
const BYTES_PER_S: u32 = 100_000;
/// How often the device's counters are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Longest wait for something at the device.
const PATIENCE: Duration = Duration::from_secs(30);

/// When a push is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after its start.
    After(Duration),
    /// Once the device was asked who it is, before anything changed.
    Asked,
    /// Once the device was switched to take updates.
    Enabled,
    /// At the invitation.
    Invited,
    /// After about this share of the image.
    Percent(u32),
    /// At the last byte, before the device has said OK.
    Received,
    /// While the device restarts.
    Rebooting,
    /// While it is watched.
    Soaking,
}

impl Moment {
    /// Whether the device must have the image by then.
    fn is_flashed(self) -> bool {
        matches!(self, Self::Received | Self::Rebooting | Self::Soaking)
    }

    async fn await_at(self, rig: &Rig) {
        match self {
            Self::After(time) => sleep(time).await,
            Self::Asked => until(|| rig.device.counters().http_requests > 0).await,
            Self::Enabled => until(|| rig.device.running().ota_enabled).await,
            Self::Invited => drop(rig.wait(0, EventKind::Invited).await),
            Self::Percent(percent) => {
                rig.wait(0, EventKind::Receiving).await;
                let len = u32::try_from(IMAGE_LEN).unwrap();
                sleep(Duration::from_secs(1) * (len * percent / 100) / BYTES_PER_S).await;
                assert_eq!(rig.device.counters().received, 0, "{self:?} came too late");
            }
            Self::Received => drop(rig.wait(0, EventKind::Received).await),
            Self::Rebooting => drop(rig.wait(0, EventKind::Rebooting).await),
            Self::Soaking => {
                rig.wait(0, EventKind::Up).await;
                let n_requests = rig.device.counters().http_requests;
                until(|| rig.device.counters().http_requests > n_requests + 2).await;
            }
        }
    }
}

#[track_caller]
fn until(is_so: impl Fn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let until = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < until, "{caller}: waited in vain");
            sleep(LOOK_EVERY).await;
        }
    }
}

async fn slow_device(change: impl FnOnce(&mut Config)) -> Rig {
    Rig::start(|config| {
        config.rate_bytes_per_s = Some(BYTES_PER_S);
        config.boot = Duration::from_millis(1200);
        change(config);
    })
    .await
}

fn ota_off(config: &mut Config) {
    config.faults = vec![Fault::OtaOff];
}

/// Kills a push at this moment.
async fn kill_at(rig: &Rig, moment: Moment, version: Option<&str>) {
    let file = rig.file("firmware.bin", &image(version, 1));
    let mut running = Running::start(rig.push(&file));
    moment.await_at(rig).await;
    assert!(!running.has_ended(), "{moment:?}: it has ended already");
    running.kill();
}

/// The same command again; says how often the device was asked between the kill and a further push, if there was one.
async fn again(rig: &Rig, version: Option<&str>) -> (Ended, Option<u64>) {
    let file = rig.file("firmware.bin", &image(version, 1));
    let (mark, asked) = (rig.events.mark(), rig.device.counters().http_requests);
    let mut second = Box::pin(rig.wait(mark, EventKind::Receiving));
    let mut ended = Box::pin(Running::start(rig.push(&file)).end());
    let mut looks = None;
    loop {
        // What waits is polled again or not needed any more.
        tokio::select! {
            ended = &mut ended => return (ended, looks),
            _ = &mut second, if looks.is_none() => looks = Some(rig.device.counters().http_requests - asked),
        }
    }
}

/// Kills at a moment, and does the same command again: it must end right.
async fn killed(moment: Moment, change: fn(&mut Config), version: Option<&'static str>) {
    let rig = slow_device(change).await;
    let flag = rig.device.running().ota_enabled;
    kill_at(&rig, moment, version).await;
    let (ended, looks) = again(&rig, version).await;
    let what = format!("{moment:?}, version {version:?}: {ended:#?}");
    let expected = if version.is_some() {
        "updated"
    } else {
        "updated-label-unchanged"
    };
    let (outcome, _, code) = ended.verdict();
    assert_eq!((outcome.as_str(), code), (expected, Some(0)), "{what}");
    assert!(rig.runs(&image(version, 1)), "{what}");
    assert!(looks != Some(0), "it pushed again without a look; {what}");
    let n_pushes = rig.n_pushes();
    assert!(n_pushes <= 2, "{n_pushes} pushes; {what}");
    if moment.is_flashed() && version.is_some() {
        assert_eq!(n_pushes, 1, "what ran already was pushed again; {what}");
    }
    assert_eq!(rig.device.running().ota_enabled, flag, "the OTA flag; {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_kill_at_any_moment_the_same_command_looks_first_and_ends_right() {
    let mut all = JoinSet::new();
    let moments = [
        Moment::Asked,
        Moment::Invited,
        Moment::Percent(1),
        Moment::Percent(30),
        Moment::Percent(90),
        Moment::Received,
        Moment::Rebooting,
        Moment::Soaking,
    ];
    for moment in moments {
        all.spawn(killed(moment, |_| {}, Some("1.1")));
    }
    // Wherever it falls.
    for time in [10, 40, 80, 160, 320, 640] {
        let moment = Moment::After(Duration::from_millis(time));
        all.spawn(killed(moment, |_| {}, Some("1.1")));
    }
    // The label cannot tell, so a second push is allowed; a wrong word is not.
    for moment in [Moment::Percent(30), Moment::Rebooting, Moment::Soaking] {
        all.spawn(killed(moment, |_| {}, None));
    }
    // What was changed at the device is put back.
    for moment in [Moment::Enabled, Moment::Percent(30), Moment::Rebooting] {
        all.spawn(killed(moment, ota_off, Some("1.1")));
    }
    all.spawn(undone_whatever_comes_of_it());
    all.spawn(killed_while_it_settles());
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
}

/// The next command cannot push, but it still puts back what the killed one has changed.
async fn undone_whatever_comes_of_it() {
    let rig = slow_device(ota_off).await;
    kill_at(&rig, Moment::Percent(30), Some("1.1")).await;
    assert!(
        rig.device.running().ota_enabled,
        "the killed push had switched it on"
    );
    let file = rig.file("firmware.bin", &image(Some("1.1"), 1));
    let mut command = rig.push(&file);
    command.env(PASSWORD_ENV, "guess");
    run(command).await.is("refused", 1);
    assert!(!rig.device.running().ota_enabled);
    assert_eq!(rig.n_pushes(), 1);
}

/// The look is cut short as well.
async fn killed_while_it_settles() {
    let rig = slow_device(|_| {}).await;
    kill_at(&rig, Moment::Percent(30), Some("1.1")).await;
    for _ in 0..2 {
        let file = rig.file("firmware.bin", &image(Some("1.1"), 1));
        let asked = rig.device.counters().http_requests;
        let running = Running::start(rig.push(&file));
        until(|| rig.device.counters().http_requests > asked + 1).await;
        running.kill();
        assert_eq!(rig.n_pushes(), 1, "it pushed before it had looked");
    }
    let (ended, looks) = again(&rig, Some("1.1")).await;
    ended.is("updated", 0);
    assert!(looks > Some(0));
    assert_eq!(rig.n_pushes(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_kills_in_a_row_do_not_lock_the_password() {
    let rig = slow_device(|config| {
        // A restart that shows although it comes soon after the last one.
        config.boot = Duration::from_millis(2500);
    })
    .await;
    let file = rig.file("firmware.bin", &image(Some("1.1"), 1));
    for n_kills in 1..=5 {
        let mark = rig.events.mark();
        let running = Running::start(rig.push(&file));
        rig.wait(mark, EventKind::Receiving).await;
        running.kill();
        assert_eq!(rig.n_pushes(), n_kills);
        // Somebody pulls the plug: then the next command need not wait for a restart that might still come.
        let mark = rig.events.mark();
        rig.device.power_cycle();
        rig.wait(mark, EventKind::Up).await;
    }
    run(rig.push(&file)).await.is("updated", 0);
    assert!(rig.runs(&image(Some("1.1"), 1)));
    let counters = rig.device.counters();
    assert_eq!((counters.answers, counters.rejected), (6, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_pushes_to_one_device_one_wins_and_the_other_says_who_holds_it() {
    let rig = slow_device(|_| {}).await;
    let file = rig.file("firmware.bin", &image(Some("1.1"), 1));
    let first = Running::start(rig.push(&file));
    rig.wait(0, EventKind::Receiving).await;
    let second = run(rig.push(&file)).await;
    second.is("failed", 1);
    let said = second.json()["text"].as_str().unwrap().to_owned();
    assert!(said.contains(&format!("process {}", first.id())), "{said}");
    assert!(said.contains("Nothing was sent"), "{said}");
    first.end().await.is("updated", 0);
    assert_eq!(rig.n_pushes(), 1);
    assert!(rig.runs(&image(Some("1.1"), 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pushes_at_the_same_moment_are_one_push() {
    let rig = slow_device(|_| {}).await;
    let file = rig.file("firmware.bin", &image(Some("1.1"), 1));
    let both = [Running::start(rig.push(&file)), Running::start(rig.push(&file))];
    let mut codes = Vec::new();
    for running in both {
        let ended = running.end().await;
        codes.push((ended.verdict().0, ended.code));
    }
    codes.sort();
    assert_eq!(
        codes,
        [("failed".to_owned(), Some(1)), ("updated".to_owned(), Some(0))]
    );
    assert_eq!(rig.n_pushes(), 1);
    assert_eq!(rig.device.counters().answers, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_in_mid_transfer_cancels_and_the_old_one_runs_on() {
    let rig = slow_device(ota_off).await;
    let old = rig.device.running().sha256;
    let file = rig.file("firmware.bin", &image(Some("1.1"), 1));
    let running = Running::start(rig.push(&file));
    Moment::Percent(30).await_at(&rig).await;
    running.interrupt();
    let ended = running.end().await;
    ended.is("cancelled", 1);
    assert_eq!(rig.device.running().sha256, old);
    assert_eq!(rig.device.counters().flashed, 0);
    assert_eq!(rig.n_pushes(), 1, "a cancelled push is not tried again");
    assert!(!rig.device.running().ota_enabled, "what was changed was put back");
    // And nothing is left that would hold up the next one.
    run(rig.push(&file)).await.is("updated", 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_before_the_first_byte_cancels_at_once() {
    let rig = Rig::start(|config| config.faults = vec![Fault::NoCallBack]).await;
    let file = rig.file("firmware.bin", &image(Some("1.1"), 1));
    let running = Running::start(rig.push(&file));
    rig.wait(0, EventKind::Auth).await;
    let since = Instant::now();
    running.interrupt();
    running.end().await.is("cancelled", 1);
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!(rig.n_pushes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_after_the_last_byte_goes_on() {
    let rig = slow_device(|_| {}).await;
    let file = rig.file("firmware.bin", &image(Some("1.1"), 1));
    let running = Running::start(rig.push(&file));
    rig.wait(0, EventKind::Received).await;
    running.interrupt();
    running.end().await.is("updated", 0);
    assert_eq!(rig.n_pushes(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_interrupt_stops_the_watching_and_the_next_command_settles_it() {
    let rig = slow_device(|_| {}).await;
    let file = rig.file("firmware.bin", &image(Some("1.1"), 1));
    let running = Running::start(rig.push_for_people(&file));
    rig.wait(0, EventKind::Rebooting).await;
    running.interrupt();
    running.says("every byte is sent").await;
    running.interrupt();
    let left = running.end().await;
    assert_eq!(left.code, Some(1), "{left:#?}");
    assert!(left.stdout.contains("unverified (not watched)"), "{left:#?}");
    let (ended, looks) = again(&rig, Some("1.1")).await;
    ended.is("updated", 0);
    assert_eq!((rig.n_pushes(), looks), (1, None));
}
