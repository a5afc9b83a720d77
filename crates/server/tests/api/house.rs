//! A server's API in a temporary folder, and a client that can say anything.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use engine::{Clock, Engine};
use families::Ways;
use model::access::Role;
use model::device::{Hardware, Health, Ota, Snapshot};
use model::id::{DeviceId, FamilyId};
use model::version::Versions;
use net::{Dialer, Networks, Site};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use server::api::{
    About, Api, ApiSettings, Limits, ListenOn, Listener, NewToken, Parts, Protection, Rate, Reloaded,
    SOCKET_FILE, router, serve,
};
use server::firmware::{Repository, Settings};
use server::fleet::{FamilySettings, Fleet, FleetSettings};
use server::home_assistant::HomeAssistant;
use server::metrics::Metrics;
use server::notify::{self, Notifier};
use server::parents::Parents;
use server::rollout::{Policy, Rollouts};
use server::secrets::Sealer;
use store::{FleetRow, Store};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a reload of the configuration does in a test.
#[derive(Default)]
pub(crate) struct Reloading {
    pub(crate) n_begun: AtomicUsize,
    pub(crate) n_done: AtomicUsize,
    pub(crate) begun: Notify,
    /// Waits for `go` while set.
    pub(crate) waits: AtomicBool,
    pub(crate) go: Notify,
    pub(crate) panics: AtomicBool,
}

/// A served API.
pub(crate) struct House {
    pub(crate) folder: TempDir,
    pub(crate) store: Arc<Store>,
    pub(crate) address: SocketAddr,
    pub(crate) api: Api,
    pub(crate) parents: Parents,
    pub(crate) home_assistant: HomeAssistant,
    pub(crate) fleet: Fleet,
    pub(crate) rollouts: Rollouts,
    pub(crate) reloading: Arc<Reloading>,
    pub(crate) viewer: String,
    pub(crate) operator: String,
    pub(crate) admin: String,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

/// No limit on the number of requests: tests send many.
pub(crate) fn settings() -> ApiSettings {
    ApiSettings {
        rate: Rate {
            per_second: 1e6,
            burst: 1e6,
        },
        ..ApiSettings::default()
    }
}

impl House {
    pub(crate) async fn new() -> Self {
        Self::with(settings(), Limits::default()).await
    }

    pub(crate) async fn with(settings: ApiSettings, limits: Limits) -> Self {
        let listen_on = ListenOn::Tcp {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            protection: Protection::Loopback,
        };
        Self::listening(settings, limits, |_| listen_on).await
    }

    pub(crate) async fn listening(
        settings: ApiSettings,
        limits: Limits,
        listen_on: impl FnOnce(&Path) -> ListenOn,
    ) -> Self {
        Self::built(settings, limits, &Ways::default(), listen_on).await
    }

    /// A server that looks for devices on these ports.
    pub(crate) async fn looking_at(ways: &Ways) -> Self {
        let listen_on = ListenOn::Tcp {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            protection: Protection::Loopback,
        };
        Self::built(settings(), Limits::default(), ways, |_| listen_on).await
    }

    async fn built(
        settings: ApiSettings,
        limits: Limits,
        ways: &Ways,
        listen_on: impl FnOnce(&Path) -> ListenOn,
    ) -> Self {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path()).await.unwrap());
        for (mac, host) in [(LIVING_ROOM, 1), (BEDROOM, 2)] {
            store.put_fleet_row(&row(mac, host)).await.unwrap();
        }
        let (fleet, repository) = fleet(&store, folder.path(), ways).await;
        let rollouts = Rollouts::load(
            Arc::clone(&store),
            Engine::new(Arc::clone(&store)).unwrap(),
            fleet.clone(),
            repository.clone(),
            Metrics::new(),
            Policy::default(),
        )
        .await
        .unwrap();
        let notifier = Notifier::open(
            Arc::clone(&store),
            Clock,
            fleet.clone(),
            rollouts.clone(),
            Metrics::new(),
            None,
            notify::Settings::default(),
        )
        .await
        .unwrap();
        let reloading = Arc::new(Reloading::default());
        let cancel = CancellationToken::new();
        let parents = Parents::default();
        let sealer = Arc::new(Sealer::open_or_make(folder.path()).unwrap());
        let home_assistant = HomeAssistant::load(Arc::clone(&store), sealer).await.unwrap();
        let api = Api::new(Parts {
            store: Arc::clone(&store),
            clock: Clock,
            settings,
            fleet: fleet.clone(),
            repository,
            rollouts: rollouts.clone(),
            notifier: notifier.clone(),
            metrics: Metrics::new(),
            reload: {
                let reloading = Arc::clone(&reloading);
                Arc::new(move || Box::pin(reload(Arc::clone(&reloading))))
            },
            home_assistant: home_assistant.clone(),
            about: About {
                id: SERVER.to_owned(),
                name: "shed".to_owned(),
                managed: true,
                page: None,
            },
            parents: parents.clone(),
            cancel: cancel.clone(),
        });
        let tcp = Listener::bind(&listen_on(folder.path())).await.unwrap();
        let address = tcp.address().unwrap();
        let socket = ListenOn::Unix {
            path: folder.path().join(SOCKET_FILE),
        };
        let listeners = vec![tcp, Listener::bind(&socket).await.unwrap()];
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listeners, router(&api), limits, cancel.clone()));
        let mut house = Self {
            folder,
            store,
            address,
            api,
            parents,
            home_assistant,
            fleet,
            rollouts,
            reloading,
            viewer: String::new(),
            operator: String::new(),
            admin: String::new(),
            cancel,
            tasks,
        };
        house.viewer = house.token(Role::Viewer).await;
        house.operator = house.token(Role::Operator).await;
        house.admin = house.token(Role::Admin).await;
        house
    }

    pub(crate) async fn token(&self, role: Role) -> String {
        let made = NewToken::make().unwrap();
        let name = format!("test-{}", role.name());
        self.store.create_token(&name, role, made.hash, 1).await.unwrap();
        made.token.expose_secret().to_owned()
    }

    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join(SOCKET_FILE)
    }

    /// Ends the server and waits for it.
    pub(crate) async fn end(&mut self) {
        self.cancel.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(PATIENCE, ended).await.unwrap();
        self.api.finish().await;
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        connect(self.address).await
    }

    /// Sends a request over TCP.
    pub(crate) async fn send(&self, request: &Request) -> Answer {
        let stream = self.connect().await;
        talk(stream, &request.bytes()).await
    }

    /// Sends a request over the local socket.
    pub(crate) async fn send_locally(&self, request: &Request) -> Answer {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        talk(stream, &request.bytes()).await
    }

    pub(crate) async fn get(&self, token: &str, path: &str) -> Answer {
        self.send(&Request::new("GET", path).token(token)).await
    }

    pub(crate) async fn post(&self, token: &str, path: &str, body: &Value) -> Answer {
        self.send(&Request::new("POST", path).token(token).json(body))
            .await
    }

    pub(crate) async fn audit(&self) -> Vec<store::AuditRow> {
        self.store.audit(0, 10_000).await.unwrap()
    }
}

/// Two devices as they were known when the server ended: one that answered, and one that did not.
pub(crate) const LIVING_ROOM: &str = "a0b1c2d3e4f5";
pub(crate) const BEDROOM: &str = "a0b1c2d3e4f6";

fn row(mac: &str, host: u8) -> FleetRow {
    let id = DeviceId::from_hardware(&FamilyId::new("ir-remote"), mac);
    FleetRow {
        // TEST-NET-1: nobody is there, and the dialer is not allowed to ask.
        address: Some([192, 0, 2, host].into()),
        sources: vec!["scan".to_owned()],
        seen_ms: Some(2),
        snapshot: Some(Snapshot {
            id: id.clone(),
            versions: Versions::one("firmware", "1.0"),
            uptime: Some(Duration::from_mins(1)),
            ota: Ota::Enabled,
            busy: false,
            host_name: Some("IR-Remote-Mini".to_owned()),
            hardware: Hardware {
                model: Some("mini".to_owned()),
                chip: Some("esp32c6".to_owned()),
                ..Hardware::default()
            },
            health: Health::default(),
        }),
        online: mac == LIVING_ROOM,
        ..FleetRow::new(id, 1)
    }
}

/// The id of the server.
pub(crate) const SERVER: &str = "00112233445566778899aabbccddeeff";

/// The folder that images can be dropped into, beside the database.
pub(crate) const FIRMWARE: &str = "firmware";

/// Where devices may be: a part of this machine's own addresses, and not the usual one.
pub(crate) const ALLOWED: &str = "127.77.0.0/16";

async fn fleet(store: &Arc<Store>, folder: &Path, ways: &Ways) -> (Fleet, Repository) {
    let site = Site {
        dialer: Dialer::new(Networks::new([ALLOWED.parse().unwrap()]), None).into(),
        callback: None,
        pull: None,
    };
    let families = families::all(&site, ways);
    let engine = Engine::new(Arc::clone(store)).unwrap();
    let dropped = folder.join(FIRMWARE);
    std::fs::create_dir(&dropped).unwrap();
    let settings = Settings {
        folder: Some(dropped),
        ..Settings::default()
    };
    let repository = Repository::open(Store::clone(store), families.clone(), engine.clock(), settings)
        .await
        .unwrap();
    let settings = FleetSettings {
        families: families
            .into_iter()
            .map(|family| FamilySettings {
                discovers: true,
                family,
                poll_every: Duration::from_hours(1),
                username: None,
                password: None,
                devices: Vec::new(),
            })
            .collect(),
        scan_ranges: Vec::new(),
        scan_every: Some(Duration::from_hours(1)),
        mdns: false,
        multicast: net::Multicast::default(),
        broker: None,
        auto_enroll: false,
    };
    let sealer = Arc::new(Sealer::open_or_make(folder).unwrap());
    let fleet = Fleet::load(
        Arc::clone(store),
        engine,
        site,
        sealer,
        repository.clone(),
        Metrics::new(),
        settings,
    )
    .await
    .unwrap();
    (fleet, repository)
}

async fn reload(reloading: Arc<Reloading>) -> Result<Reloaded, String> {
    reloading.n_begun.fetch_add(1, Ordering::SeqCst);
    reloading.begun.notify_one();
    assert!(!reloading.panics.load(Ordering::SeqCst), "asked to");
    if reloading.waits.load(Ordering::SeqCst) {
        reloading.go.notified().await;
    }
    reloading.n_done.fetch_add(1, Ordering::SeqCst);
    Ok(Reloaded::default())
}

pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test is a client of the API, not of a device"
    )]
    let connected = TcpStream::connect(address).await;
    connected.unwrap()
}

/// A request, head and body, as it goes over the wire.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: vec![("Host".to_owned(), "localhost".to_owned())],
            body: Vec::new(),
        }
    }

    pub(crate) fn header(mut self, name: &str, text: &str) -> Self {
        self.headers.push((name.to_owned(), text.to_owned()));
        self
    }

    pub(crate) fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.headers[0].1);
        self
    }

    pub(crate) fn token(self, token: &str) -> Self {
        if token.is_empty() {
            return self;
        }
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string().as_bytes())
    }

    pub(crate) fn body(mut self, content_type: &str, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self.header("Content-Type", content_type)
            .header("Content-Length", &body.len().to_string())
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, text) in &self.headers {
            bytes.extend([name, ": ", text, "\r\n"]);
        }
        bytes += "Connection: close\r\n\r\n";
        let mut bytes = bytes.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// An answer, head and body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or_default();
        Self {
            status,
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(this, _)| this.eq_ignore_ascii_case(name))
            .map(|(_, text)| text)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|err| panic!("{err}: {self:?}"))
    }

    /// The name of the problem, which must be a whole problem document.
    #[track_caller]
    pub(crate) fn problem(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let problem: server::views::Problem = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem.status, self.status);
        assert!(!problem.detail.is_empty(), "{problem:?}");
        let name = problem.kind.strip_prefix("urn:reflash:problem:");
        name.unwrap_or_else(|| panic!("{problem:?}")).to_owned()
    }
}

/// Sends bytes and reads an answer until the other side closes.
pub(crate) async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> Answer {
    Answer::read(&raw(stream, request).await)
}

/// Sends bytes and reads until the other side closes.
pub(crate) async fn raw(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> Vec<u8> {
    let talked = async {
        // A server that has already answered may not want the rest.
        drop(stream.write_all(request).await);
        drop(stream.flush().await);
        let mut bytes = Vec::new();
        drop(stream.read_to_end(&mut bytes).await);
        bytes
    };
    tokio::time::timeout(PATIENCE, talked)
        .await
        .expect("no answer in time")
}

/// A route's path with something in the places of its parameters.
pub(crate) fn filled(path: &str) -> String {
    path.replace("{id}", "0")
        .replace("{entry_id}", "x")
        .replace("{name}", "x")
        .replace("{sha256}", &"0".repeat(64))
}
