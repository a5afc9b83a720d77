//! Simulated devices, and a real server that is killed and started again on one folder.
//!
//! Shared by the tests beside it and by the program `examples/torture.rs`.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, fcntl_lock};
use serde_json::{Value, json};
use sim::{EventKind, EventSink, Mac, ir_remote, komfovent};
use tempfile::TempDir;
use tokio::time::sleep;

/// How long anything may take that should come by itself.
pub(crate) const SOON: Duration = Duration::from_mins(1);
/// How long a rollout may take in which transfers were cut: a minute until a ventilation unit is judged by, or 30 s for a
/// remote, then 30 and 60 s and some until the next tries, and two busy cores.
pub(crate) const PATIENCE: Duration = Duration::from_mins(5);
/// How often the server is asked.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often the commits are counted.
const COUNT_EVERY: Duration = Duration::from_micros(500);
/// Commits that come so long after a rollout has ended are not its own.
const LAST_COMMITS: Duration = Duration::from_millis(300);
/// Addresses that are kept for each world, and worlds of one process.
const N_PLACES: u32 = 16;
const N_WORLDS: u32 = 1 << 10;
/// The password of the simulated remotes.
const PASSWORD: &str = "ir_remote_update";

/// One simulated device.
pub(crate) enum Unit {
    Remote(ir_remote::Device),
    Vent(komfovent::Device),
}

impl Unit {
    pub(crate) fn ip(&self) -> Ipv4Addr {
        match self {
            Self::Remote(device) => device.ip(),
            Self::Vent(device) => device.ip(),
        }
    }

    /// What it is called in its events.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Remote(device) => device.name(),
            Self::Vent(device) => device.serial().to_owned(),
        }
    }

    /// Questions that were asked of it: HTTP requests, uploads among them, or reads by Modbus.
    pub(crate) fn n_asked(&self) -> u64 {
        match self {
            Self::Remote(device) => device.counters().http_requests,
            Self::Vent(device) => device.counters().modbus_reads,
        }
    }

    /// Images that it has activated.
    pub(crate) fn n_flashed(&self) -> u64 {
        match self {
            Self::Remote(device) => device.counters().flashed,
            Self::Vent(device) => device.counters().flashed,
        }
    }

    pub(crate) fn remote(&self) -> &ir_remote::Device {
        match self {
            Self::Remote(device) => device,
            Self::Vent(_) => panic!("a ventilation unit is no remote"),
        }
    }
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// The commits of the server's database, counted and held up from outside.
pub(crate) struct Commits(File);

impl Commits {
    /// How many there were since the database was opened, of any kind.
    pub(crate) fn n(&self) -> u32 {
        // "iChange", the third word of the index of the log (sqlite.org/walformat.html, "The WAL-Index Header").
        let mut word = [0; 4];
        self.0.read_exact_at(&mut word, 8).unwrap();
        u32::from_ne_bytes(word)
    }

    /// Lets no further one happen until this is dropped; one that is under way is waited for.
    ///
    /// A shared lock on all of the index lets everybody read and nobody write, as a long write of another program does.
    pub(crate) fn hold(&self) {
        let deadline = Instant::now() + SOON;
        while fcntl_lock(&self.0, FlockOperation::NonBlockingLockShared).is_err() {
            assert!(Instant::now() < deadline, "somebody writes all the time");
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// Which commit is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// The one with this number, of whatever kind.
    Commits(u32),
    /// The one after which jobs have so many events.
    Events(usize),
}

/// What came of waiting for a commit.
#[derive(Debug)]
pub(crate) enum Reached {
    /// So many had happened, and no further one did.
    At(u32),
    /// The rollout was over before.
    Over,
}

/// Devices and their server.
pub(crate) struct World {
    pub(crate) units: Vec<Unit>,
    pub(crate) events: EventSink,
    program: PathBuf,
    folder: TempDir,
    server: Option<Child>,
    ids: Vec<String>,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // It may have ended by itself.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// The first of a few addresses that no other world of this process has.
fn own_addresses() -> Ipv4Addr {
    static N_TAKEN: AtomicU32 = AtomicU32::new(0);
    let n = N_TAKEN.fetch_add(1, Ordering::Relaxed) % N_WORLDS;
    // Processes that run at the same time keep apart by their id, though a free port would do as well.
    let process = std::process::id() % 128;
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 224, 0, 0).to_bits() + (process * N_WORLDS + n) * N_PLACES + 1)
}

/// MACs whose devices wait little longer than 30 s before another try: what the model adds to that is the same for the same
/// device each time (`model::fleet`, `jitter`), up to 30 s. Any other MAC would do as well, and take longer.
pub(crate) fn prompt_macs() -> impl Iterator<Item = Mac> {
    let added_ms = |mac: Mac| {
        let hash = mac.bare().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        hash % 30_001
    };
    let macs = (0..=u16::MAX).map(|n| {
        let [high, low] = n.to_be_bytes();
        Mac([0xA0, 0xB1, 0xC3, 0, high, low])
    });
    macs.filter(move |mac| added_ms(*mac) < 2000)
}

/// A remote that takes an image at once and is back soon.
pub(crate) fn remote() -> ir_remote::Config {
    let mut config = ir_remote::Config::new(Ipv4Addr::LOCALHOST);
    config.boot = Duration::from_millis(300);
    config
}

/// A ventilation unit that takes an image in 0.3 s and is back in 4 s.
pub(crate) fn vent() -> komfovent::Config {
    let mut config = komfovent::Config::new(Ipv4Addr::LOCALHOST);
    config.rate_bytes_per_s = 400_000;
    config.silence = Duration::from_millis(300);
    config.restart = Duration::from_secs(4);
    config
}

impl World {
    /// Remotes at addresses of their own, each known to the server and online. `policy` is further lines of that block.
    pub(crate) async fn of_remotes(program: &Path, configs: Vec<ir_remote::Config>, policy: &str) -> Self {
        let events = EventSink::new();
        let first = own_addresses();
        let mut units: Vec<Unit> = Vec::new();
        for (idx, (mut config, mac)) in configs.into_iter().zip(prompt_macs()).enumerate() {
            config.bind = sim::nth_address(first, idx).unwrap();
            config.mac = Some(mac);
            if let Some(first) = units.first() {
                config.ota_port = first.remote().ota_port();
                config.http_port = first.remote().http_port();
            }
            units.push(Unit::Remote(
                ir_remote::start(config, events.clone()).await.unwrap(),
            ));
        }
        let listed: Vec<String> = units
            .iter()
            .enumerate()
            .map(|(idx, unit)| format!("    - {{ ip: \"{}\", name: \"Room {idx}\" }}\n", unit.ip()))
            .collect();
        let listed = listed.concat();
        let first = units[0].remote();
        let block = format!(
            "ir_remote_ota:\n  auto_discovery: false\n  poll_interval: 5\n  http_port: {}\n  ota_port: {}\n  \
             ota_password: \"{PASSWORD}\"\n  devices:\n{listed}",
            first.http_port(),
            first.ota_port(),
        );
        Self::started(program, units, events, policy, &block).await
    }

    /// One ventilation unit, known to the server and online.
    pub(crate) async fn of_vent(program: &Path, mut config: komfovent::Config) -> Self {
        let events = EventSink::new();
        config.bind = own_addresses();
        let unit = komfovent::start(config, events.clone()).unwrap();
        let block = format!(
            "komfovent:\n  poll_interval: 60\n  update_check_interval: 0\n  http_port: {}\n  modbus_port: {}\n  devices:\n    \
             - {{ host: \"{}\", name: \"Ventilation\", username: user, password: user }}\n",
            unit.http_port(),
            unit.modbus_port(),
            unit.ip(),
        );
        Self::started(program, vec![Unit::Vent(unit)], events, "", &block).await
    }

    async fn started(program: &Path, units: Vec<Unit>, events: EventSink, policy: &str, block: &str) -> Self {
        let mut world = Self {
            units,
            events,
            program: program.to_owned(),
            folder: tempfile::tempdir().unwrap(),
            server: None,
            ids: Vec::new(),
        };
        let configuration = format!(
            "server:\n  allowed_networks: [\"127.0.0.0/8\"]\n  limits: {{ requests_per_minute: 1000000 }}\n\
             policy: {{ canary_soak: 1s, soak: 1s, rollback: never{policy} }}\n{block}"
        );
        std::fs::create_dir(world.data()).unwrap();
        std::fs::write(world.data().join("reflash.yaml"), configuration).unwrap();
        world.start().await;
        world.until_online().await;
        world
    }

    /// Waits until the server has seen every device, and knows them by that.
    pub(crate) async fn until_online(&mut self) {
        let deadline = Instant::now() + SOON;
        loop {
            let devices = self.get("devices");
            let online = self.units.iter().map(|unit| online_at(&devices, unit.ip()));
            if let Some(ids) = online.collect() {
                self.ids = ids;
                return;
            }
            assert!(
                Instant::now() < deadline,
                "not all are online: {devices:#}\n{}",
                self.told()
            );
            sleep(LOOK_EVERY).await;
        }
    }

    /// Adds to the configuration; the server reads it when it starts.
    pub(crate) fn configure(&self, more: &str) {
        let path = self.data().join("reflash.yaml");
        let before = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{before}{more}")).unwrap();
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    // The server's life

    /// Starts the server on the folder, whatever is in it, and says how long it took until it answered.
    pub(crate) async fn start(&mut self) -> Duration {
        assert!(self.server.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.log_file());
        let mut command = Command::new(&self.program);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(self.data())
            .env("REFLASH_LOG", "info")
            .env_remove("XDG_STATE_HOME")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.unwrap());
        let since = Instant::now();
        self.server = Some(command.spawn().unwrap());
        while !self
            .try_ask("GET", "/health", b"")
            .is_ok_and(|answer| answer.status == 200)
        {
            let ended = self.server.as_mut().and_then(|server| server.try_wait().unwrap());
            assert!(
                ended.is_none() && since.elapsed() < SOON,
                "it does not serve, {ended:?}:\n{}",
                self.told()
            );
            sleep(Duration::from_millis(1)).await;
        }
        since.elapsed()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.server.as_ref().unwrap().id()
    }

    /// Kills it without any warning; it may be dead already.
    pub(crate) fn kill(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.server
            .as_mut()
            .is_none_or(|server| server.try_wait().unwrap().is_some())
    }

    /// What it wrote to its log.
    pub(crate) fn told(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// All that happened, for people.
    pub(crate) fn story(&self) -> String {
        format!("{}\n{}", self.lines().join("\n"), self.told())
    }

    /// The simulators' JSON lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.events
            .log()
            .into_iter()
            .map(|event| event.to_string())
            .collect()
    }

    // Commits

    pub(crate) fn commits(&self) -> Commits {
        Commits(File::open(self.data().join("reflash.db-shm")).unwrap())
    }

    /// Waits until the goal is reached, and lets no further commit happen while `commits` lives. Commits count since there
    /// were `from`.
    pub(crate) fn hold_at(&self, commits: &Commits, from: u32, goal: Option<Goal>, rollout: i64) -> Reached {
        let (mut asked, mut over) = (Instant::now(), None);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is_reached = match goal {
                Some(Goal::Commits(k)) => commits.n().wrapping_sub(from) >= k,
                Some(Goal::Events(n)) => self.n_events() >= n,
                None => false,
            };
            if is_reached {
                commits.hold();
                return Reached::At(commits.n().wrapping_sub(from));
            }
            if over.is_some_and(|since: Instant| since.elapsed() > LAST_COMMITS) {
                return Reached::Over;
            }
            if over.is_none() && asked.elapsed() > LOOK_EVERY {
                // It may not be there yet.
                let rollout = self.ask("GET", &format!("rollouts/{rollout}"), b"");
                over = rollout.body["ended_ms"].is_number().then(Instant::now);
                asked = Instant::now();
            }
            assert!(Instant::now() < deadline, "it hangs: {}", self.story());
            std::thread::sleep(COUNT_EVERY);
        }
    }

    /// Events of all jobs so far.
    fn n_events(&self) -> usize {
        let jobs = (1..).map_while(|job| {
            let answer = self.ask("GET", &format!("jobs/{job}"), b"");
            answer.body["events"].as_array().map(Vec::len)
        });
        jobs.sum()
    }

    /// The steps of all jobs that are on the disk, in order; the server must not run.
    pub(crate) async fn steps(&self) -> Vec<String> {
        // On a copy, so that the server's next start has to recover by itself.
        let copy = tempfile::tempdir().unwrap();
        for name in ["reflash.db", "reflash.db-wal"] {
            std::fs::copy(self.data().join(name), copy.path().join(name)).unwrap();
        }
        let store = store::Store::open(copy.path()).await.unwrap();
        let mut steps = Vec::new();
        for job in 1.. {
            let events = store.events(model::id::JobId(job)).await.unwrap();
            if events.is_empty() {
                break;
            }
            steps.extend(events.into_iter().map(|event| event.step));
        }
        store.close().await;
        steps
    }

    // Questions

    fn try_ask(&self, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
        ask(&self.data(), method, path, "", body)
    }

    /// A wish for a rollout to all devices that may be sent again, as whoever got no answer does.
    pub(crate) fn wish(&self, wanted: &Value) -> impl Fn() -> io::Result<Answer> + Clone + Send + 'static {
        let data = self.data();
        let body = wanted.to_string();
        move || {
            ask(
                &data,
                "POST",
                "/api/v1/rollouts",
                "Idempotency-Key: the-same\r\n",
                body.as_bytes(),
            )
        }
    }

    #[track_caller]
    pub(crate) fn ask(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        // The devices live on the same threads.
        let path = format!("/api/v1/{path}");
        let answer = tokio::task::block_in_place(|| self.try_ask(method, &path, body));
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.told()))
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, b"");
        assert_eq!(answer.status, 200, "{path}: {:#}", answer.body);
        answer.body
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, body.to_string().as_bytes())
    }

    /// Brings an image, and says its digest.
    #[track_caller]
    pub(crate) fn firmware(&self, file_name: &str, bytes: &[u8]) -> String {
        let answer = self.ask("POST", &format!("firmware?file_name={file_name}"), bytes);
        assert_eq!(answer.status, 201, "{:#}", answer.body);
        assert_eq!(answer.body["state"], "approved", "{:#}", answer.body);
        answer.body["sha256"].as_str().unwrap().to_owned()
    }

    /// Begins a rollout to all devices, with more wishes in `more`, and says its number.
    #[track_caller]
    pub(crate) fn roll_out(&self, more: &Value) -> i64 {
        let mut wanted = json!({ "all": true });
        let more = more.as_object().unwrap().clone();
        wanted.as_object_mut().unwrap().extend(more);
        let answer = self.post("rollouts", &wanted);
        assert_eq!(answer.status, 201, "{:#}\n{}", answer.body, self.told());
        answer.body["id"].as_i64().unwrap()
    }

    /// The rollout, of a server that may be gone.
    pub(crate) fn try_rollout(&self, id: i64) -> io::Result<Answer> {
        self.try_ask("GET", &format!("/api/v1/rollouts/{id}"), b"")
    }

    #[track_caller]
    pub(crate) fn rollout(&self, id: i64) -> Value {
        self.get(&format!("rollouts/{id}"))
    }

    /// What the server calls the device.
    pub(crate) fn id(&self, idx: usize) -> &str {
        &self.ids[idx]
    }

    /// All jobs with their evidence and steps, the oldest first.
    #[track_caller]
    pub(crate) fn jobs(&self) -> Vec<Value> {
        let history = self.get("history?limit=200");
        let ids = history
            .as_array()
            .unwrap()
            .iter()
            .map(|job| job["id"].as_i64().unwrap());
        let mut ids: Vec<i64> = ids.collect();
        ids.sort_unstable();
        ids.into_iter()
            .map(|id| self.get(&format!("jobs/{id}")))
            .collect()
    }

    /// The rollout as it is once `fits` is true of it.
    #[track_caller]
    pub(crate) fn until<'a>(
        &'a self,
        id: i64,
        what: &'a str,
        fits: impl Fn(&Value) -> bool + 'a,
    ) -> impl Future<Output = Value> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let rollout = self.rollout(id);
                if fits(&rollout) {
                    return rollout;
                }
                // What is over does not change any more.
                assert!(
                    Instant::now() < deadline && rollout["ended_ms"].is_null(),
                    "{caller}: never {what}: {rollout:#}\n{}",
                    self.story()
                );
                sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Pushes that the device has seen: events, as INTERFACES.md says them.
    pub(crate) fn n_pushes(&self, idx: usize) -> usize {
        let name = self.units[idx].name();
        self.events.count(|event| event.is(EventKind::Receiving, &name))
    }
}

/// Asks the server of this folder through its socket.
fn ask(data: &Path, method: &str, path: &str, more: &str, body: &[u8]) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(data.join("reflash.sock"))?;
    stream.set_read_timeout(Some(SOON))?;
    let kind = if path.contains("/firmware") {
        "application/octet-stream"
    } else {
        "application/json"
    };
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {kind}\r\n{more}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let broken = || io::Error::other(format!("no answer: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Answer {
        status: status.ok_or_else(broken)?,
        body: serde_json::from_str(body).unwrap_or(Value::Null),
    })
}

/// The id of the device that is online at this address.
fn online_at(devices: &Value, ip: Ipv4Addr) -> Option<String> {
    let devices = devices.as_array().or_else(|| devices["devices"].as_array())?;
    let ip = ip.to_string();
    let device =
        (devices.iter()).find(|device| device["address"] == ip.as_str() && device["state"] == "online")?;
    Some(device["id"].as_str()?.to_owned())
}
