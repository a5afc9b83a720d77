//! A home: simulated devices, and a server that is started, killed and started again on one folder.

use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use model::fleet::Rollout;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::{Value, json};
use sim::ir_remote::{Config, Device, Fault, start_many};
use sim::{Event, EventKind, EventSink, Mac};
use store::MemberRow;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::support::{PASSWORD, Running, image, reflash, sha256};

/// How long anything may take that should come by itself.
pub(crate) const SOON: Duration = Duration::from_mins(1);
/// How long a rollout may take in which a transfer was cut: 30 s until the device is judged by (DESIGN.md, "Bounds"), 30 s and
/// some until the next try, and two busy cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);
/// How often the server is asked.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Slow enough that a moment in the middle can be met: an image takes 0.7 s.
const BYTES_PER_S: u32 = 200_000;
/// Addresses that are kept for each home.
const N_PLACES: u8 = 16;

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    /// Its body, which must have come with this status.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{:#}", self.body);
        self.body
    }
}

/// What a home is made of.
pub(crate) struct Plan {
    /// What all of its devices have in common.
    pub(crate) device: Config,
    /// Seconds between two looks of the server at a device.
    pub(crate) poll_s: u32,
    /// Groups of the devices, by place; the others have none.
    pub(crate) groups: Vec<&'static str>,
    /// Devices are listed in the configuration; otherwise they are added by the API, and can be removed.
    pub(crate) listed: bool,
    /// More blocks of the configuration.
    pub(crate) more: String,
}

/// Devices and their server.
pub(crate) struct Home {
    pub(crate) devices: Vec<Device>,
    pub(crate) events: EventSink,
    folder: TempDir,
    server: Option<Running>,
}

/// The first of a few addresses that no other home has.
fn own_addresses() -> Ipv4Addr {
    static N_TAKEN: AtomicU8 = AtomicU8::new(0);
    let n = N_TAKEN.fetch_add(1, Ordering::Relaxed);
    // Processes that run at the same time keep apart by their id, though a free port would do as well.
    let [.., high, low] = std::process::id().to_be_bytes();
    let (place, net) = (n % (u8::MAX / N_PLACES), n / (u8::MAX / N_PLACES));
    Ipv4Addr::new(127, 192 + high % 32 + net, low, 1 + place * N_PLACES)
}

/// A MAC whose devices wait little longer than 30 s before another try: what the model adds to that is the same for the same
/// device each time (`model::fleet`, `jitter`), up to 30 s. Any other MAC would do as well, and take longer.
pub(crate) fn prompt_mac(n_devices: usize) -> Mac {
    let added_ms = |mac: Mac| {
        let hash = mac.bare().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        hash % 30_001
    };
    let macs = (0..=u16::MAX).map(|n| {
        let [high, low] = n.to_be_bytes();
        Mac([0xA0, 0xB1, 0xC2, 0, high, low])
    });
    let mut macs = macs.filter(|mac| (0..n_devices).all(|n| added_ms(mac.nth(n)) < 2000));
    macs.next().unwrap()
}

impl Home {
    /// A home of so many faultless devices, each of them known and online.
    pub(crate) async fn of(n_devices: usize) -> Self {
        Self::with(n_devices, |_| {}).await
    }

    /// The same with devices that take an image at once.
    pub(crate) async fn quick(n_devices: usize) -> Self {
        Self::with(n_devices, |plan| {
            plan.device.rate_bytes_per_s = None;
            plan.device.boot = Duration::from_millis(300);
        })
        .await
    }

    /// The same with something changed.
    pub(crate) async fn with(n_devices: usize, change: impl FnOnce(&mut Plan)) -> Self {
        let mut device = Config::new(own_addresses());
        device.boot = Duration::from_millis(600);
        device.rate_bytes_per_s = Some(BYTES_PER_S);
        let mut plan = Plan {
            device,
            poll_s: 60,
            groups: Vec::new(),
            listed: true,
            more: String::new(),
        };
        change(&mut plan);
        let events = EventSink::new();
        let devices = start_many(plan.device.clone(), n_devices, events.clone())
            .await
            .unwrap();
        let mut home = Self {
            devices,
            events,
            folder: tempfile::tempdir().unwrap(),
            server: None,
        };
        std::fs::write(home.folder.path().join("reflash.yaml"), home.configuration(&plan)).unwrap();
        home.start().await;
        for idx in 0..n_devices {
            if !plan.listed {
                let new = json!({ "host": home.devices[idx].ip().to_string(), "name": name(idx), "password": PASSWORD });
                home.post("devices", &new).is(201);
            }
            home.until_device(idx, "online", |device| device["state"] == "online")
                .await;
        }
        home
    }

    fn configuration(&self, plan: &Plan) -> String {
        let first = &self.devices[0];
        let mut text = format!(
            "server:\n  allowed_networks: [\"127.0.0.0/8\"]\n  limits: {{ requests_per_minute: 1000000 }}\n\
             policy: {{ canary_soak: 1s, soak: 1s }}\n\
             ir_remote_ota:\n  auto_discovery: false\n  poll_interval: {}\n  http_port: {}\n  ota_port: {}\n",
            plan.poll_s,
            first.http_port(),
            first.ota_port(),
        );
        if plan.listed {
            let devices = self.devices.iter().enumerate().map(|(idx, device)| {
                let group = plan.groups.get(idx).map(|group| format!(", group: {group}"));
                let (ip, name, group) = (device.ip(), name(idx), group.unwrap_or_default());
                format!("    - {{ ip: \"{ip}\", name: \"{name}\"{group} }}\n")
            });
            let devices: String = devices.collect();
            text = format!("{text}  ota_password: \"{PASSWORD}\"\n  devices:\n{devices}");
        }
        text += &plan.more;
        text
    }

    // The server's life

    /// Starts the server on the folder, whatever is in it.
    pub(crate) async fn start(&mut self) {
        assert!(self.server.is_none(), "it runs already");
        let program = reflash(["serve", "--listen", "127.0.0.1:0", "--data"]);
        // Where files may not grow, a write is to fail as on a full disk, and not to end the process.
        let mut command = Command::new("sh");
        command
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(program.get_program())
            .args(program.get_args())
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .env("REFLASH_LOG", "info");
        let running = Running::start(command);
        running.tells("serves at").await;
        self.server = Some(running);
    }

    /// Kills it without any warning.
    pub(crate) fn kill(&mut self) {
        self.server.take().unwrap().kill();
    }

    /// Tells it to end, as a service manager does, and waits until it has.
    pub(crate) async fn terminate(&mut self) {
        let server = self.server.take().unwrap();
        kill_process(process(&server), Signal::TERM).unwrap();
        let ended = server.end().await;
        assert_eq!(ended.code, Some(0), "{ended:#?}");
    }

    /// Where all that the server stores is.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How long the journal's newest part is, bytes.
    pub(crate) fn journal_len(&self) -> u64 {
        let files = std::fs::read_dir(self.folder.path()).unwrap().map(Result::unwrap);
        let mut journals = files.filter(|file| file.file_name().to_string_lossy().ends_with("-wal"));
        journals.next().unwrap().metadata().unwrap().len()
    }

    /// A copy of all that the server has stored; it must not run.
    pub(crate) fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_files(self.folder.path(), copy.path());
        copy
    }

    /// Goes back to a copy; the server must not run.
    pub(crate) fn restore(&self, copy: &TempDir) {
        copy_files(copy.path(), self.folder.path());
    }

    /// Lets no file of the server grow beyond this length, bytes, or lets them grow again.
    pub(crate) fn limit_files(&self, len: Option<u64>) {
        let limit = Rlimit {
            current: len,
            maximum: None,
        };
        prlimit(
            Some(process(self.server.as_ref().unwrap())),
            Resource::Fsize,
            limit,
        )
        .unwrap();
    }

    /// Lets the server have so many open files and connections, at most 1,024.
    pub(crate) fn limit_descriptors(&self, n: u64) {
        let limit = Rlimit {
            current: Some(n),
            maximum: Some(1024),
        };
        let server = process(self.server.as_ref().unwrap());
        prlimit(Some(server), Resource::Nofile, limit).unwrap();
    }

    /// Connections to the server that say nothing.
    pub(crate) fn idle_connections(&self, n: usize) -> Vec<UnixStream> {
        let socket = self.folder.path().join("reflash.sock");
        let connect = || UnixStream::connect(&socket);
        std::iter::repeat_with(connect)
            .take(n)
            .map_while(Result::ok)
            .collect()
    }

    pub(crate) fn told(&self) -> String {
        self.server.as_ref().map(Running::told).unwrap_or_default()
    }

    // Questions

    fn try_ask(&self, method: &str, path: &str, body: &[u8], once: Option<&str>) -> io::Result<Answer> {
        let mut stream = UnixStream::connect(self.folder.path().join("reflash.sock"))?;
        stream.set_read_timeout(Some(SOON))?;
        let kind = if path.starts_with("firmware?") {
            "application/octet-stream"
        } else {
            "application/json"
        };
        let once = once
            .map(|key| format!("Idempotency-Key: {key}\r\n"))
            .unwrap_or_default();
        let head = format!(
            "{method} /api/v1/{path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {kind}\r\n{once}Content-Length: {}\r\n\r\n",
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

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        // The devices live on the same threads.
        let answer = tokio::task::block_in_place(|| self.try_ask(method, path, body, None));
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.told()))
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        self.ask("GET", path, b"").is(200)
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, body.to_string().as_bytes())
    }

    /// The same under an idempotency key.
    #[track_caller]
    pub(crate) fn post_once(&self, path: &str, body: &Value, key: &str) -> Answer {
        let body = body.to_string();
        let answer = tokio::task::block_in_place(|| self.try_ask("POST", path, body.as_bytes(), Some(key)));
        answer.unwrap_or_else(|error| panic!("{path}: {error}\n{}", self.told()))
    }

    #[track_caller]
    pub(crate) fn put(&self, path: &str, body: &Value) -> Answer {
        self.ask("PUT", path, body.to_string().as_bytes())
    }

    #[track_caller]
    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, b"")
    }

    /// Brings an image that states this version, and says its digest.
    #[track_caller]
    pub(crate) fn firmware(&self, version: Option<&str>, seed: u8) -> String {
        let bytes = image(version, seed);
        let answer = self.ask("POST", &format!("firmware?file_name=image{seed}.bin"), &bytes);
        assert_eq!(answer.status, 201, "{:#}", answer.body);
        assert_eq!(answer.body["state"], "approved", "{:#}", answer.body);
        sha256(&bytes)
    }

    /// Begins a rollout to all devices, with more wishes in `more`, and says its number.
    #[track_caller]
    pub(crate) fn roll_out(&self, more: &Value) -> i64 {
        let mut wanted = json!({ "all": true });
        wanted
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        if wanted["devices"].is_array() {
            wanted["all"] = json!(false);
        }
        let answer = self.post("rollouts", &wanted);
        assert_eq!(answer.status, 201, "{:#}\n{}", answer.body, self.told());
        answer.body["id"].as_i64().unwrap()
    }

    #[track_caller]
    pub(crate) fn rollout(&self, id: i64) -> Value {
        self.get(&format!("rollouts/{id}"))
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
                    "{caller}: never {what}: {rollout:#}\n{}\n{}",
                    self.log(),
                    self.told()
                );
                sleep(LOOK_EVERY).await;
            }
        }
    }

    /// The rollout once it stands so.
    #[track_caller]
    pub(crate) fn until_state<'a>(&'a self, id: i64, state: &'a str) -> impl Future<Output = Value> + 'a {
        self.until(id, state, move |rollout| rollout["state"] == state)
    }

    /// The rollout once one device stands so in it.
    #[track_caller]
    pub(crate) fn until_member<'a>(
        &'a self,
        id: i64,
        idx: usize,
        state: &'a str,
    ) -> impl Future<Output = Value> + 'a {
        self.until(id, state, move |rollout| {
            self.member(rollout, idx)["state"] == state
        })
    }

    /// One device as the server knows it, once `fits` is true of it.
    #[track_caller]
    pub(crate) fn until_device<'a>(
        &'a self,
        idx: usize,
        what: &'a str,
        fits: impl Fn(&Value) -> bool + 'a,
    ) -> impl Future<Output = Value> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = Instant::now() + SOON;
            loop {
                let device = self.ask("GET", &format!("devices/{}", self.key(idx)), b"").body;
                if fits(&device) {
                    return device;
                }
                assert!(
                    Instant::now() < deadline,
                    "{caller}: never {what}: {device:#}\n{}",
                    self.told()
                );
                sleep(LOOK_EVERY).await;
            }
        }
    }

    /// What a rollout says of one device.
    #[track_caller]
    pub(crate) fn member<'a>(&self, rollout: &'a Value, idx: usize) -> &'a Value {
        of_device(&rollout["members"], &self.key(idx))
            .unwrap_or_else(|| panic!("{} is no member: {rollout:#}", self.key(idx)))
    }

    /// Why a plan or a rollout leaves one device out, by the rule's name.
    #[track_caller]
    pub(crate) fn left_out<'a>(&self, rollout: &'a Value, idx: usize) -> &'a str {
        of_device(&rollout["left_out"], &self.key(idx))
            .and_then(|left_out| left_out["reason"]["rule"].as_str())
            .unwrap_or_else(|| panic!("{} is not left out: {rollout:#}", self.key(idx)))
    }

    /// Holds every member of a rollout, by place of the device, to how it must have ended.
    #[track_caller]
    pub(crate) fn check(&self, rollout: &Value, ends: &[&str]) {
        let found: Vec<_> = (0..ends.len())
            .map(|idx| self.member(rollout, idx)["state"].as_str().unwrap())
            .collect();
        assert_eq!(found, ends, "{rollout:#}\n{}", self.log());
    }

    // What the devices tell

    /// The device's id.
    pub(crate) fn key(&self, idx: usize) -> String {
        self.devices[idx].name()
    }

    /// How many pushes the device has seen: events, as INTERFACES.md says them.
    pub(crate) fn n_pushes(&self, idx: usize) -> usize {
        let key = self.key(idx);
        self.events.count(|event| event.is(EventKind::Receiving, &key))
    }

    /// Nobody has as much as invited the device to an update.
    #[track_caller]
    pub(crate) fn is_untouched(&self, idx: usize) {
        let counters = self.devices[idx].counters();
        assert_eq!(
            (counters.datagrams, counters.receiving),
            (0, 0),
            "{}: {}",
            name(idx),
            self.log()
        );
    }

    /// Waits for an event of one device, past ones after `mark` included.
    #[track_caller]
    pub(crate) fn wait(&self, idx: usize, mark: usize, kind: EventKind) -> impl Future<Output = Event> {
        let caller = std::panic::Location::caller();
        async move {
            let key = self.key(idx);
            let found = self
                .events
                .wait_after(mark, |event| event.is(kind, &key), PATIENCE)
                .await;
            found.unwrap_or_else(|| panic!("{caller}: no {kind:?} of {key} in {}", self.log()))
        }
    }

    /// Whether the device runs this image, by its own account.
    pub(crate) fn runs(&self, idx: usize, digest: &str) -> bool {
        self.devices[idx].running().sha256.as_deref() == Some(digest)
    }

    /// Gives one device faults of its own.
    pub(crate) fn fault(&self, idx: usize, fault: Fault) {
        self.devices[idx].set_faults(vec![fault]);
    }

    /// What happened at the devices, for people.
    pub(crate) fn log(&self) -> String {
        let lines = self.events.log().into_iter().map(|event| event.to_string());
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn copy_files(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

fn process(server: &Running) -> Pid {
    Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap()
}

/// What devices are called.
pub(crate) fn name(idx: usize) -> String {
    format!("Room {idx}")
}

fn of_device<'a>(list: &'a Value, key: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|entry| entry["device"] == key)
}

/// The members of a rollout as the store takes them.
pub(crate) fn member_rows(rollout: &Rollout) -> Vec<MemberRow> {
    (0..)
        .zip(rollout.plan().members.iter().zip(rollout.members()))
        .map(|(idx, (member, standing))| MemberRow {
            device: member.device.clone(),
            idx,
            state: json!(standing),
        })
        .collect()
}
