//! What changes in the middle of a push: the device at the address, and whether the journal can be written.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests, and a child says where it is"
)]

mod support;

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, fcntl_lock};
use serde_json::Value;
use sim::EventKind;
use sim::ir_remote::Fault;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use support::{Ended, Rig, Running, SOON, image, reflash, run};

// ---- Another device at the address

/// RELIABILITY.md T8 asks for 1,000 moments of real address changes; on loopback these are enough to meet each step.
const N_MOMENTS: u32 = 150;
/// Pushes under way at once.
const N_AT_ONCE: usize = 8;
/// Longer than a push takes from its start to its invitation.
const LAST_MOMENT: Duration = Duration::from_millis(250);
/// The other device.
const OTHER: &str = "02:00:00:00:00:99";

/// What came of one exchange.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Met {
    /// The push saw the other device first, and did what its owner said of this address: to push there.
    Before,
    /// The device was exchanged after it had been looked at, and before the push read its identity for the last time.
    Between,
    /// It was exchanged later than that; nothing but the device itself could notice.
    After,
}

/// Exchanges the device so long after the first look at it, and says what that met.
async fn exchange_after(first_look: Duration) -> Met {
    // OTA is off at first, so that there is more to do between the looks.
    let rig = Rig::start(|config| config.faults = vec![Fault::OtaOff]).await;
    let own = rig.device.name();
    let other = OTHER.replace(':', "");
    let n_asked = || rig.device.counters().http_requests;
    let file = rig.file("firmware.bin", &image(Some("1.1"), 1));
    let mut push = rig.push(&file);
    // What becomes of the device afterwards is not asked here.
    push.arg("--no-verify");
    let running = Running::start(push);
    let exchange = async {
        until(|| n_asked() > 0).await;
        tokio::time::sleep(first_look).await;
        let fault = Fault::parse(&format!("mac-clone={OTHER}")).unwrap();
        rig.device.set_faults(vec![fault]);
        n_asked()
    };
    let invitation = async {
        let invited = rig
            .events
            .wait_for(|event| event.kind == EventKind::Invited, SOON);
        invited.await.map(|_| n_asked())
    };
    let mut invitation = std::pin::pin!(invitation);
    let mut ending = std::pin::pin!(async { tokio::join!(running.end(), exchange) });
    let mut n_asked_before_push = None;
    let (ended, n_asked_before_exchange) = loop {
        // What has not ended is polled again.
        tokio::select! {
            biased;
            n_asked = &mut invitation, if n_asked_before_push.is_none() => n_asked_before_push = Some(n_asked),
            both = &mut ending => break both,
        }
    };
    let what = format!("{first_look:?}: {ended:#?}");
    let said = ended.json();
    let before = said["evidence"]["identity_before"].as_str();
    if rig.n_pushes() == 0 {
        assert_eq!(said["reason"], "identity", "{what}");
        assert_eq!(rig.device.counters().invitations, 0, "{what}");
        return Met::Between;
    }
    // Whom the job was for when it began, whatever the evidence says by now.
    let store = store::Store::open(&rig.state()).await.unwrap();
    let begun = store.events(model::id::JobId(1)).await.unwrap().remove(0);
    store.close().await;
    let meant = begun.state["order"]["device"].to_string();
    if meant.contains(&other) {
        assert_eq!(before, Some(other.as_str()), "{what}");
        return Met::Before;
    }
    assert!(meant.contains(&own), "{meant}");
    assert_eq!(
        before,
        Some(own.as_str()),
        "pushed to another device than the job was for: {what}"
    );
    // A look is two questions, and only the first is answered with an identity.
    let n_asked_before_push = n_asked_before_push.flatten().unwrap();
    assert!(
        n_asked_before_exchange + 1 >= n_asked_before_push,
        "pushed to another device than the one that was looked at last, \
         {n_asked_before_exchange} of {n_asked_before_push} questions before: {what}"
    );
    Met::After
}

/// Waits until something is so at the device, to the millisecond.
async fn until(is_so: impl Fn() -> bool) {
    until_asking(Duration::from_millis(1), is_so).await;
}

async fn until_asking(every: Duration, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain");
        tokio::time::sleep(every).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_exchanged_before_the_push_gets_no_byte() {
    let places = Arc::new(Semaphore::new(N_AT_ONCE));
    let mut all = JoinSet::new();
    for n in 0..N_MOMENTS {
        let places = Arc::clone(&places);
        // Squared, because the steps are closest together at the beginning.
        let moment = LAST_MOMENT.mul_f64((f64::from(n) / f64::from(N_MOMENTS)).powi(2));
        all.spawn(async move {
            let _place = places.acquire().await.unwrap();
            exchange_after(moment).await
        });
    }
    let mut met = all.join_all().await;
    met.sort();
    let count = |wanted: Met| met.iter().filter(|met| **met == wanted).count();
    let counts = [Met::Before, Met::Between, Met::After].map(count);
    println!("before, between, after: {counts:?}");
    assert!(counts[1] >= 50, "too few moments met what is tested: {counts:?}");
}

// ---- A journal that cannot be written

const CHILD: &str = "REFLASH_TEST_LOCKS";

/// Another process: it locks the database in the folder when it is told to, and unlocks it with its end.
///
/// A shared lock on all of the index of the log lets everybody read and nobody write, as a long write of another program does.
#[test]
fn child_locks_the_database() {
    let Some(folder) = std::env::var_os(CHILD) else {
        return;
    };
    let mut word = [0];
    std::io::stdin().read_exact(&mut word).unwrap();
    let index = std::fs::File::open(Path::new(&folder).join("reflash.db-shm")).unwrap();
    while fcntl_lock(&index, FlockOperation::NonBlockingLockShared).is_err() {
        std::thread::sleep(Duration::from_micros(100));
    }
    println!("\nlocked");
    // Until it is let go.
    let _ = std::io::stdin().read(&mut word);
}

struct Locker(Child);

impl Locker {
    fn new(folder: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["child_locks_the_database", "--exact", "--nocapture"])
            .env(CHILD, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// Locks, and returns once that is so.
    fn lock(&mut self) {
        use std::io::{BufRead as _, BufReader, Write as _};
        self.0.stdin.as_mut().unwrap().write_all(b"!").unwrap();
        let said = BufReader::new(self.0.stdout.as_mut().unwrap());
        assert!(said.lines().any(|line| line.unwrap() == "locked"));
    }

    fn unlock(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Locks the journal once the device was asked so often, and says how many pushes there were all the same.
async fn lock_after(n_asked: u64) -> usize {
    let rig = Rig::start(|config| config.faults = vec![Fault::OtaOff]).await;
    let good = image(Some("1.1"), 1);
    let file = rig.file("firmware.bin", &good);
    let mut dry = rig.push(&file);
    dry.arg("--dry-run");
    assert_eq!(run(dry).await.code, Some(0), "the folder is made");
    let before = rig.device.counters().http_requests;
    let mut locker = Locker::new(&rig.state());
    let running = Running::start(rig.push(&file));
    until(|| rig.device.counters().http_requests >= before + n_asked).await;
    locker.lock();
    let ended = running.end().await;
    let n_pushes = rig.n_pushes();
    assert!(!ended.stderr.contains("panicked"), "{ended:#?}");
    locker.unlock();

    let store = store::Store::open(&rig.state()).await.unwrap();
    let mut n_intents = 0;
    let mut job = 1;
    while let Ok(events) = store.events(model::id::JobId(job)).await
        && !events.is_empty()
    {
        n_intents += events.iter().filter(|event| event.step == "intent").count();
        job += 1;
    }
    store.close().await;
    assert!(
        n_pushes <= n_intents,
        "{n_pushes} pushes and {n_intents} intents: {ended:#?}"
    );
    if n_pushes == 0 {
        assert_eq!(ended.code, Some(1), "{ended:#?}");
        let said = ended.json();
        // Where the lock came after the intent, the device may have been invited; without an intent it hears nothing.
        let n_datagrams = rig.device.counters().datagrams;
        assert!(n_datagrams == 0 || n_intents > 0, "{n_datagrams}: {ended:#?}");
        assert!(
            said["text"].as_str().unwrap().contains("othing was sent"),
            "{ended:#?}"
        );
        assert!(said["next_step"].is_string(), "{ended:#?}");
    }
    // Whatever it was, the next command ends right.
    let ended: Ended = run(rig.push(&file)).await;
    assert!(matches!(ended.code, Some(0 | 2)), "{ended:#?}");
    assert!(rig.runs(&good), "{ended:#?}");
    n_pushes
}

/// RELIABILITY.md F73: a lock of another process that stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_journal_is_locked_nothing_is_pushed_without_a_written_intent() {
    let mut all = JoinSet::new();
    for n_asked in 1..=6 {
        all.spawn(lock_after(n_asked));
    }
    let n_pushes = all.join_all().await;
    println!("pushes: {n_pushes:?}");
    let n_without = n_pushes.iter().filter(|n_pushes| **n_pushes == 0).count();
    assert!(n_without >= 2, "the lock always came too late: {n_pushes:?}");
}

/// What the server says of itself over its socket.
fn health(data: &Path) -> Value {
    use std::io::Write as _;
    let mut stream = std::os::unix::net::UnixStream::connect(data.join("reflash.sock")).unwrap();
    stream
        .write_all(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
    serde_json::from_str(body.unwrap_or_else(|| panic!("{answer:?}"))).unwrap()
}

/// The server answers a few requests a second.
const NOT_TOO_OFTEN: Duration = Duration::from_millis(250);

fn is_in_trouble(data: &Path) -> bool {
    let health = health(data);
    let reasons = health["reasons"].as_array().unwrap();
    let found = reasons.iter().any(|reason| reason["rule"] == "database");
    assert!(!found || health["status"] == "degraded", "{health:#}");
    found
}

/// RELIABILITY.md F73: the server lives, says so, and has lost nothing once the lock is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_database_is_locked_lives_and_says_so() {
    let rig = Rig::start(|_| {}).await;
    let data = rig.state();
    std::fs::create_dir(&data).unwrap();
    let configuration = format!(
        "server:\n  allowed_networks: [\"127.0.0.0/8\"]\n\
         ir_remote_ota:\n  poll_interval: 5\n  devices: [\"{}\"]\n  http_port: {}\n  ota_port: {}\n",
        rig.device.ip(),
        rig.device.http_port(),
        rig.device.ota_port(),
    );
    std::fs::write(data.join("reflash.yaml"), configuration).unwrap();
    let mut command = reflash(["serve", "--listen", "127.0.0.1:0", "--data"]);
    command.arg(&data);
    let mut server = Running::start(command);
    server.tells("serves at").await;
    until(|| rig.device.counters().http_requests > 2).await;
    assert!(!is_in_trouble(&data));

    let mut locker = Locker::new(&data);
    locker.lock();
    // Something happens that has to be written down.
    rig.device.power_cycle();
    until_asking(NOT_TOO_OFTEN, || is_in_trouble(&data)).await;
    assert!(!server.has_ended(), "{}", server.told());
    locker.unlock();
    until_asking(NOT_TOO_OFTEN, || !is_in_trouble(&data)).await;
    let mut events = reflash(["device", "show", &rig.device.name(), "--json", "--data"]);
    events.arg(&data);
    let shown = run(events).await.json();
    assert_eq!(shown["restarts"], 1, "{shown:#}");
    server.interrupt();
    let ended = server.end().await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
}
