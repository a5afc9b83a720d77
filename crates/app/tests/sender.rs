//! What happens to the sender in the middle of a push: it is stopped and wakes up later, or is not the only one.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use model::id::DeviceId;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sim::EventKind;
use sim::ir_remote::Fault;
use store::{Holder, Store, process_is_alive};
use tokio::time::sleep;

use support::{Rig, Running, image, own_address, run};

/// Slow enough that a moment in the middle can be met: an image takes 1.3 s.
const BYTES_PER_S: u32 = 100_000;
/// About a third of an image.
const A_THIRD: Duration = Duration::from_millis(430);
/// Longer than the device waits for a silent sender: about 4 s (PROTOCOLS.md B1a).
const TOO_LONG: Duration = Duration::from_secs(8);

async fn slow_device() -> Rig {
    Rig::start(|config| {
        config.rate_bytes_per_s = Some(BYTES_PER_S);
        config.boot = Duration::from_millis(1200);
    })
    .await
}

fn signal(running: &Running, signal: Signal) {
    let process = Pid::from_raw(i32::try_from(running.id()).unwrap()).unwrap();
    kill_process(process, signal).unwrap();
}

/// A push that was stopped after about a third of its image.
async fn stopped(rig: &Rig) -> Running {
    let file = rig.file("firmware.bin", &image(Some("1.1"), 1));
    let running = Running::start(rig.push(&file));
    rig.wait(0, EventKind::Receiving).await;
    sleep(A_THIRD).await;
    signal(&running, Signal::STOP);
    assert_eq!(rig.device.counters().received, 0, "it came too late");
    running
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_stands_still_for_a_second_goes_on() {
    let rig = slow_device().await;
    let running = stopped(&rig).await;
    sleep(Duration::from_secs(1)).await;
    signal(&running, Signal::CONT);
    running.end().await.is("updated", 0);
    assert_eq!(rig.n_pushes(), 1);
    assert!(rig.runs(&image(Some("1.1"), 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_stands_still_for_too_long_looks_before_it_pushes_once_more() {
    let rig = slow_device().await;
    let running = stopped(&rig).await;
    sleep(TOO_LONG).await;
    let asked = rig.device.counters().http_requests;
    assert_eq!(rig.device.counters().received, 0);
    let mark = rig.events.mark();
    signal(&running, Signal::CONT);
    rig.wait(mark, EventKind::Receiving).await;
    assert!(
        rig.device.counters().http_requests > asked,
        "it pushed again without a look"
    );
    running.end().await.is("updated", 0);
    assert_eq!(rig.n_pushes(), 2);
    assert!(rig.runs(&image(Some("1.1"), 1)));
}

/// What the journal says of the device's one job.
async fn written(store: &Store, device: &DeviceId) -> String {
    let job = store.open_job(device).await.unwrap().unwrap();
    let events = store.events(job.job).await.unwrap();
    format!("{:?} {:?} {}", job.job, job.state, events.len())
}

/// RELIABILITY.md F38 and F71: a machine that was paused for minutes wakes up, and somebody else has the device.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_wakes_up_without_its_lease_writes_nothing_and_pushes_nothing() {
    let rig = slow_device().await;
    let running = stopped(&rig).await;
    let store = Store::open(&rig.state()).await.unwrap();
    let [device] = &store.devices_with_open_jobs().await.unwrap()[..] else {
        panic!("one job is open");
    };
    let now = |later: Duration| engine::Clock.now().later(later);
    let us = Holder::this_process().unwrap();
    // It lives, so it keeps its lease for a while ...
    let early = store
        .acquire_lease(device, &us, now(Duration::from_secs(5)), process_is_alive)
        .await;
    assert!(early.is_err(), "{early:?}");
    // ... but not for ten minutes.
    let grant = store
        .acquire_lease(device, &us, now(Duration::from_mins(10)), process_is_alive)
        .await
        .unwrap();
    assert!(grant.epoch() > 1);
    sleep(TOO_LONG).await;
    let before = written(&store, device).await;
    signal(&running, Signal::CONT);
    let ended = running.end().await;
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    let said: Value = ended.json();
    assert!(
        !said["outcome"]
            .as_str()
            .unwrap_or_default()
            .starts_with("updated"),
        "{said:#}"
    );
    assert_eq!(written(&store, device).await, before, "{ended:#?}");
    assert_eq!(rig.n_pushes(), 1, "{ended:#?}");
    // Whoever has the lease can still write and give it back.
    store
        .renew_lease(device, grant.epoch(), now(Duration::from_mins(10)))
        .await
        .unwrap();
    store.release_lease(device, grant.epoch()).await.unwrap();
    store.close().await;
    let file = rig.file("firmware.bin", &image(Some("1.1"), 1));
    run(rig.push(&file)).await.is("updated", 0);
    assert!(rig.runs(&image(Some("1.1"), 1)));
}

/// RELIABILITY.md F70: two that do not know of each other, as on two machines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_senders_that_know_nothing_of_each_other_neither_breaks_the_others_push() {
    for delay in [Duration::ZERO, A_THIRD] {
        let rig = slow_device().await;
        let image = image(Some("1.1"), 1);
        let file = rig.file("firmware.bin", &image);
        let first = Running::start(rig.push(&file));
        if !delay.is_zero() {
            rig.wait(0, EventKind::Receiving).await;
        }
        sleep(delay).await;
        let mut second = rig.push_in(&rig.folder.path().join("other"), &file);
        second
            .args(["--json", "--soak", "2s", "--password-env", support::PASSWORD_ENV])
            .env(support::PASSWORD_ENV, support::PASSWORD);
        let both = [Running::start(second).end().await, first.end().await];
        let log = rig.events.log();
        assert!(rig.runs(&image), "{both:#?}");
        // Each image that came was whole, and nobody says of what did not come that it did.
        let counters = rig.device.counters();
        assert_eq!(counters.receiving, counters.received, "{log:#?}");
        let n_updated = both.iter().filter(|ended| ended.verdict().0 == "updated").count();
        let n_updated = u64::try_from(n_updated).unwrap();
        assert!((1..=2).contains(&n_updated), "{both:#?}");
        assert!(
            (n_updated..=2).contains(&counters.received),
            "{both:#?}\n{log:#?}"
        );
    }
}

/// RELIABILITY.md F56, without a server that would find it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_back_at_another_address_is_not_called_updated_and_is_known_there() {
    let rig = slow_device().await;
    let image = image(Some("1.1"), 1);
    let file = rig.file("firmware.bin", &image);
    let mut push = rig.push(&file);
    push.args(["--return-within", "5s"]);
    let running = Running::start(push);
    rig.wait(0, EventKind::Received).await;
    let elsewhere = own_address();
    rig.device
        .set_faults(vec![Fault::MoveTo(elsewhere, Duration::ZERO)]);
    let ended = running.end().await;
    assert_eq!(
        ended.verdict(),
        ("unverified".to_owned(), Some("no return".to_owned()), Some(1)),
        "{ended:#?}"
    );
    assert_eq!(rig.device.ip(), elsewhere);
    // At its new address it is the same device: its open question is settled, and nothing is pushed again.
    let again = run(rig.push(&file)).await;
    again.is("already-current", 2);
    assert_eq!(rig.n_pushes(), 1);
    assert!(rig.runs(&image));
}
