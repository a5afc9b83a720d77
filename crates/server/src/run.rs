//! The life of the server: what is opened in which order, what runs, and how it ends.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use model::chain::chain;
use net::{Callback, Dialer, Site};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use store::{Store, default_folder};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Api, ApiSettings, Reloaded};
use crate::config::{self, Config};
use crate::firmware::{self, Repository};
use crate::fleet::{ConfiguredDevice, FamilySettings, Fleet, FleetSettings};
use crate::metrics::Metrics;
use crate::secrets::Sealer;
use crate::settle;
use crate::views::{HealthReport, NoteView};

/// How often the database is tidied and, once a day, backed up.
const HOUSEKEEPING: Duration = Duration::from_hours(1);
/// Back-ups that are kept (RELIABILITY.md section 5, 24).
const N_BACKUPS: usize = 7;

/// What `reflash serve` was told.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The configuration file; none for the defaults.
    pub config: Option<PathBuf>,
    /// The data folder, instead of the configuration's.
    pub data: Option<PathBuf>,
    /// Where to listen, instead of the configuration's.
    pub listen: Option<String>,
    /// Whether a parent owns this process: socket only, one `READY` line, and an end with standard input.
    pub managed: bool,
}

/// What is told to whoever started the server.
#[derive(Debug)]
pub enum Notice<'a> {
    /// The first start has made an administrator's token. It is told this once.
    FirstToken {
        /// The token.
        token: &'a SecretString,
        /// Where it is kept.
        path: &'a Path,
    },
    /// It serves.
    Ready(&'a Ready),
    /// Something that its owner should know.
    Warning(String),
    /// The configuration was read again.
    Reloaded(&'a Reloaded),
}

/// Where a server that serves can be reached.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Ready {
    /// The program's version.
    pub version: &'static str,
    /// Its process.
    pub pid: u32,
    /// The local socket.
    pub socket: PathBuf,
    /// The address of the API, where it listens on the network.
    pub url: Option<String>,
    /// The data folder.
    pub data: PathBuf,
    /// Devices known.
    pub n_devices: usize,
}

/// Why the server does not serve.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct ServeError {
    /// What happened, in a sentence.
    pub text: String,
    /// What to do about it.
    pub next_step: String,
}

impl ServeError {
    fn new(text: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            next_step: next_step.into(),
        }
    }
}

/// Asks a running server for things that only it can do. Cloning shares it.
#[derive(Clone)]
pub struct Control {
    reloads: mpsc::Sender<oneshot::Sender<Result<Reloaded, String>>>,
}

impl Control {
    /// Reads the configuration again; running work goes on. The error holds everything that is wrong with the file.
    pub async fn reload(&self) -> Result<Reloaded, String> {
        let (answer, answered) = oneshot::channel();
        let ended = || "the server is ending".to_owned();
        self.reloads.send(answer).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

/// A server that has opened everything and not yet begun to serve.
pub struct Server {
    config: Config,
    options: Options,
    store: Arc<Store>,
    engine: Engine,
    site: Site,
    fleet: Fleet,
    repository: Repository,
    listeners: Vec<api::Listener>,
    api: Api,
    /// Ends the streams of events.
    cancel: CancellationToken,
    reloads: mpsc::Receiver<oneshot::Sender<Result<Reloaded, String>>>,
    control: Control,
    ready: Ready,
    first_token: Option<(SecretString, PathBuf)>,
    callback: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Held for as long as the server lives.
    _lock: store::ServerLock,
}

/// Runs a server from its options to its end: a signal, or the end of standard input where a parent owns it.
pub async fn serve(options: Options, tell: &(dyn Fn(Notice<'_>) + Send + Sync)) -> Result<(), ServeError> {
    let config = read_config(&options)?;
    for warning in config.warnings() {
        tell(Notice::Warning(format!("{} {}", warning.text, warning.next_step)));
    }
    let server = Server::open(config, options).await?;
    if let Some((token, path)) = &server.first_token {
        tell(Notice::FirstToken { token, path });
    }
    tell(Notice::Ready(&server.ready));
    let cancel = CancellationToken::new();
    let ends = ends(cancel.clone(), server.options.managed)?;
    let hang_ups = hang_ups(server.control.clone(), tell)?;
    // A service manager that is not there is no error.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let watched = watchdog(server.store.clone());
    let run = server.run(cancel.clone());
    tokio::pin!(run);
    tokio::select! {
        () = &mut run => {}
        () = async { tokio::join!(hang_ups, watched); } => {}
        () = ends => {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
            cancel.cancel();
            run.await;
        }
    }
    Ok(())
}

/// The configuration that the options name, with what they say instead of it.
fn read_config(options: &Options) -> Result<Config, ServeError> {
    let mut config = match &options.config {
        Some(path) => config::load(path).map_err(|error| {
            ServeError::new(
                format!("The configuration cannot be used.\n{error}"),
                "Mend it, and try it with: reflash doctor --config FILE.",
            )
        })?,
        None => Config::default(),
    };
    if let Some(listen) = &options.listen {
        let address: SocketAddr = listen.parse().map_err(|_| {
            ServeError::new(
                format!("{listen:?} is no address to listen on."),
                "Write an address and a port: --listen 127.0.0.1:8927.",
            )
        })?;
        config.server.listen = Some(address);
    }
    if options.managed {
        config.server.listen = None;
    }
    if let Some(data) = &options.data {
        config.server.data = Some(data.clone());
    }
    Ok(config)
}

impl Server {
    /// Opens everything, in this order: lock, database (checked, modes read back, migrated), secrets, firmware, fleet, doors.
    pub async fn open(config: Config, options: Options) -> Result<Self, ServeError> {
        // TLS needs it before anything else; a second time it is there already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = config.server.data.clone().unwrap_or_else(default_folder);
        let lock = store::lock_server(&folder).map_err(|error| {
            ServeError::new(
                format!("{}.", chain(&error)),
                "Use the running server, or stop it first; another data folder is named with --data.",
            )
        })?;
        let store = Store::open(&folder).await.map_err(|error| {
            ServeError::new(
                format!("{}.", chain(&error)),
                "Look at it with: reflash doctor. A back-up is restored with: reflash backup restore.",
            )
        })?;
        let store = Arc::new(store);
        let engine = Engine::new(store.clone())
            .map_err(|error| ServeError::new(format!("{error}."), "Look whether /proc is there."))?;
        let sealer = Sealer::open_or_make(&folder).map_err(|error| {
            ServeError::new(
                format!("{}.", chain(&error)),
                "Without this file the stored passwords cannot be read: restore it from a back-up.",
            )
        })?;
        let first_token = api::first_token(&store, &folder, engine.clock())
            .await
            .map_err(|error| {
                ServeError::new(
                    format!("{}.", chain(&error)),
                    "Look at the room and rights of the data folder.",
                )
            })?
            .map(|first| (first.token, first.path));
        let (callback, listening) = Callback::new(config.server.callback.bind, config.server.callback.port);
        let site = Site {
            dialer: Dialer::new(config.networks(), None).into(),
            callback: Some(callback),
        };
        let metrics = Metrics::new();
        let repository = open_repository(&config, &store, &engine, &site).await?;
        let fleet = Fleet::load(
            store.clone(),
            engine.clone(),
            site.clone(),
            Arc::new(sealer),
            repository.clone(),
            metrics.clone(),
            fleet_settings(&config, &site),
        )
        .await
        .map_err(|error| {
            ServeError::new(format!("{}.", chain(&error)), "Look at it with: reflash doctor.")
        })?;
        let (reloads, reloads_wanted) = mpsc::channel(4);
        let control = Control { reloads };
        let listeners = listeners(&config, &folder).await?;
        let url = listeners.iter().find_map(api::Listener::address).map(|address| {
            let scheme = if config.server.tls.is_some() {
                "https"
            } else {
                "http"
            };
            format!("{scheme}://{address}")
        });
        let cancel = CancellationToken::new();
        let api = Api::new(api_parts(
            &config,
            &fleet,
            &repository,
            &store,
            &engine,
            metrics,
            &control,
            &cancel,
        ));
        let ready = Ready {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            socket: folder.join(api::SOCKET_FILE),
            url,
            data: folder,
            n_devices: fleet.n_devices(),
        };
        Ok(Self {
            config,
            options,
            store,
            engine,
            site,
            fleet,
            repository,
            listeners,
            api,
            cancel,
            reloads: reloads_wanted,
            control,
            ready,
            first_token,
            callback: Box::pin(listening),
            _lock: lock,
        })
    }

    /// Where it can be reached.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// The token that the first start has made.
    pub fn first_token(&self) -> Option<&str> {
        self.first_token.as_ref().map(|(token, _)| token.expose_secret())
    }

    /// The fleet.
    pub fn fleet(&self) -> Fleet {
        self.fleet.clone()
    }

    /// The firmware repository.
    pub fn repository(&self) -> Repository {
        self.repository.clone()
    }

    /// Serves until it is cancelled, and then ends in order: no new work, what is to be written, the database.
    pub async fn run(self, cancel: CancellationToken) {
        let Self {
            config,
            options,
            store,
            engine,
            site,
            fleet,
            repository,
            listeners,
            api,
            cancel: streams,
            mut reloads,
            callback,
            _lock: lock,
            ..
        } = self;
        let mut tasks = JoinSet::new();
        let limits = api::Limits {
            connections: usize::try_from(config.server.limits.connections).unwrap_or(usize::MAX),
            ..api::Limits::default()
        };
        {
            let cancel = cancel.clone();
            tasks.spawn(async move {
                api::serve(listeners, api::router(&api), limits, cancel).await;
                api.finish().await;
            });
        }
        {
            let cancel = cancel.clone();
            tasks.spawn(async move {
                cancel.cancelled().await;
                streams.cancel();
            });
        }
        tasks.spawn(settle::settle(
            store.clone(),
            engine.clone(),
            fleet.clone(),
            cancel.clone(),
        ));
        {
            let (fleet, cancel) = (fleet.clone(), cancel.clone());
            tasks.spawn(async move { fleet.run(cancel).await });
        }
        {
            let (repository, cancel) = (repository.clone(), cancel.clone());
            tasks.spawn(async move { repository.run(cancel).await });
        }
        tasks.spawn(tell_of_firmware(
            repository.clone(),
            fleet.clone(),
            cancel.clone(),
        ));
        tasks.spawn(keep_house(
            store.clone(),
            engine.clone(),
            config.retention.clone(),
            cancel.clone(),
        ));
        {
            let cancel = cancel.clone();
            tasks.spawn(async move {
                // Whoever calls back at the end has nobody to talk to.
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = callback => {}
                }
            });
        }
        let mut now = config;
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                wanted = reloads.recv() => {
                    let Some(answer) = wanted else { break };
                    let reloaded = reload(&mut now, &options, &fleet, &site);
                    let _ = answer.send(reloaded);
                }
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a part of the server has ended early");
                    }
                }
            }
        }
        while tasks.join_next().await.is_some() {}
        drop((fleet, repository, engine));
        if let Some(store) = Arc::into_inner(store) {
            store.close().await;
        }
        drop(lock);
    }
}

/// Reads the configuration again and applies what can be applied while the server runs.
fn reload(now: &mut Config, options: &Options, fleet: &Fleet, site: &Site) -> Result<Reloaded, String> {
    if options.config.is_none() {
        return Err("the server was started without a configuration file".to_owned());
    }
    let read = read_config(options).map_err(|error| error.text)?;
    let changes = now.diff(&read);
    fleet.apply(fleet_settings(&read, site));
    let in_words = |needs_restart: bool| {
        let changes = changes
            .iter()
            .filter(|change| change.needs_restart == needs_restart);
        changes.map(|change| change.text.clone()).collect()
    };
    let reloaded = Reloaded {
        changes: in_words(false),
        after_restart: in_words(true),
        warnings: read.warnings().into_iter().map(|warning| warning.text).collect(),
    };
    tracing::info!(changes = ?reloaded.changes, "the configuration was read again");
    *now = read;
    Ok(reloaded)
}

/// What the configuration says of the fleet.
fn fleet_settings(config: &Config, site: &Site) -> FleetSettings {
    let mut families = Vec::new();
    let mut scan_ranges = Vec::new();
    let mut scan_every = Duration::MAX;
    let mut mdns = false;
    for block in &config.families {
        let Some(family) = families::named(block.family.as_str(), site, &ways(config, block)) else {
            continue;
        };
        if block.auto_discovery {
            mdns = true;
            for range in &block.scan_ranges {
                if !scan_ranges.contains(range) {
                    scan_ranges.push(*range);
                }
                scan_every = scan_every.min(block.scan_every);
            }
        }
        families.push(FamilySettings {
            family,
            poll_every: block.poll_every,
            username: block.username.clone(),
            password: block.password.clone(),
            devices: block.devices.iter().map(configured).collect(),
        });
    }
    FleetSettings {
        families,
        scan_ranges,
        scan_every,
        mdns,
        multicast: net::Multicast::default(),
        broker: config.mqtt.as_ref().map(|mqtt| discovery::Broker {
            url: mqtt.broker.clone(),
            username: mqtt.username.clone(),
            password: mqtt.password.clone(),
            client_id: mqtt.client_id.clone(),
            ca: mqtt.ca.clone(),
            prefix: String::new(),
        }),
        auto_enroll: config.policy.auto_enroll,
    }
}

fn configured(device: &config::ConfiguredDevice) -> ConfiguredDevice {
    ConfiguredDevice {
        host: device.host.clone(),
        name: device.name.clone(),
        username: device.username.clone(),
        password: device.password.clone(),
        chip: device.chip.clone(),
        slot_bytes: device.slot_bytes,
        group: device.group.clone(),
        tags: device.tags.clone(),
    }
}

/// What the configuration says of the repository.
fn repository_settings(config: &Config) -> firmware::settings::Settings {
    let blocks = || config.families.iter();
    firmware::settings::Settings {
        folder: config.firmware_path.clone(),
        feed_urls: blocks()
            .map(|block| (block.family.clone(), block.feed_urls.clone()))
            .collect(),
        check_every: blocks()
            .map(|block| (block.family.clone(), block.update_check_every))
            .collect(),
        indexes: config
            .firmware_index
            .iter()
            .map(|index| firmware::settings::Index {
                url: index.url.to_string(),
                public_key: Some(index.public_key.clone()),
            })
            .collect(),
        require_signature: config.policy.require_signature,
        ..firmware::settings::Settings::default()
    }
}

async fn open_repository(
    config: &Config,
    store: &Arc<Store>,
    engine: &Engine,
    site: &Site,
) -> Result<Repository, ServeError> {
    let families = config
        .families
        .iter()
        .filter_map(|block| families::named(block.family.as_str(), site, &ways(config, block)))
        .collect();
    Repository::open(
        Store::clone(store),
        families,
        engine.clock(),
        repository_settings(config),
    )
    .await
    .map_err(|error| ServeError::new(format!("{}.", chain(&error)), "Look at it with: reflash doctor."))
}

/// The ways to the devices of a family.
fn ways(config: &Config, block: &config::FamilyBlock) -> families::Ways {
    let mut ways = block.ways();
    if let Some(mqtt) = &config.mqtt {
        ways.status_topic.clone_from(&mqtt.status_prefix);
    }
    ways
}

/// What the API is made of.
#[expect(clippy::too_many_arguments, reason = "it brings everything together, once")]
fn api_parts(
    config: &Config,
    fleet: &Fleet,
    repository: &Repository,
    store: &Arc<Store>,
    engine: &Engine,
    metrics: Metrics,
    control: &Control,
    cancel: &CancellationToken,
) -> api::Parts {
    let per_second = f64::from(config.server.limits.requests_per_minute) / 60.0;
    let (of_metrics, of_health, of_events) = (fleet.clone(), fleet.clone(), fleet.clone());
    let (journal, firmware, control) = (store.clone(), repository.clone(), control.clone());
    api::Parts {
        store: store.clone(),
        clock: engine.clock(),
        settings: ApiSettings {
            hosts: config.server.hosts.clone(),
            proxies: config.server.trusted_proxies.clone(),
            rate: api::Rate {
                per_second,
                ..api::Rate::default()
            },
            ..ApiSettings::default()
        },
        metrics: Arc::new(move || metrics.render(&of_metrics)),
        health: Arc::new(move || health(&of_health, &firmware, &journal)),
        reload: Arc::new(move || {
            let control = control.clone();
            Box::pin(async move { control.reload().await })
        }),
        events: Arc::new(move || of_events.events()),
        cancel: cancel.clone(),
    }
}

/// How the server fares: anything that works less than it should makes it degraded.
fn health(fleet: &Fleet, _repository: &Repository, store: &Store) -> HealthReport {
    let mut reasons = fleet.troubles();
    if store.is_lost() {
        reasons.push(NoteView {
            rule: "storage".to_owned(),
            text: "A write to the database may be lost: nothing more is stored. Restart the server once the disk is well.".to_owned(),
        });
    }
    HealthReport {
        status: if reasons.is_empty() { "ok" } else { "degraded" }.to_owned(),
        reasons,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Opens the doors: the local socket always, and the network where it is configured.
async fn listeners(config: &Config, folder: &Path) -> Result<Vec<api::Listener>, ServeError> {
    let failed = |error: &dyn std::error::Error| {
        ServeError::new(
            format!("{}.", chain(error)),
            "Set server.listen or server.tls in the configuration.",
        )
    };
    let socket = api::ListenOn::Unix {
        path: folder.join(api::SOCKET_FILE),
    };
    let mut listeners = vec![
        api::Listener::bind(&socket)
            .await
            .map_err(|error| failed(&error))?,
    ];
    if let Some(address) = config.server.listen {
        let protection = match &config.server.tls {
            Some(tls) => {
                let certificate = match &tls.certificate {
                    config::Certificate::Own { cert, key } => api::Certificate::Own {
                        chain: cert.clone(),
                        key: key.clone(),
                    },
                    config::Certificate::SelfSigned => api::Certificate::Generated {
                        folder: folder.to_owned(),
                        names: tls_names(config, address.ip()),
                    },
                };
                let protected = api::tls_config(&certificate, tls.client_ca.as_deref());
                api::Protection::Tls(protected.map_err(|error| failed(&error))?)
            }
            None if config.server.trusted_proxies.is_empty() => api::Protection::Loopback,
            None => api::Protection::Proxy,
        };
        let tcp = api::ListenOn::Tcp { address, protection };
        listeners.push(api::Listener::bind(&tcp).await.map_err(|error| failed(&error))?);
    }
    Ok(listeners)
}

/// The names that a generated certificate is for.
fn tls_names(config: &Config, address: IpAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned()];
    if !address.is_unspecified() {
        names.push(address.to_string());
    }
    names.extend(config.server.hosts.iter().cloned());
    names
}

/// Tells of new firmware as of everything else.
async fn tell_of_firmware(repository: Repository, fleet: Fleet, cancel: CancellationToken) {
    let mut changes = repository.changes();
    loop {
        let change = tokio::select! {
            () = cancel.cancelled() => return,
            change = changes.recv() => change,
        };
        match change {
            Ok(change) => {
                let detail = json!({
                    "sha256": change.digest.map(|digest| digest.to_string()),
                    "name": change.name,
                    "text": change.text,
                });
                fleet.announce(change.kind.event(), &detail).await;
            }
            // What was missed is in the list of firmware all the same.
            Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
            Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Tidies the database, and backs it up once a day.
async fn keep_house(
    store: Arc<Store>,
    engine: Engine,
    retention: config::Retention,
    cancel: CancellationToken,
) {
    let kept = store::Retention {
        samples: retention.samples,
        events: retention.events,
        jobs: retention.jobs,
        ..store::Retention::default()
    };
    let n_backups = usize::try_from(retention.backups).unwrap_or(N_BACKUPS).max(1);
    loop {
        let now_ms = engine.clock().now().wall_ms;
        match store.back_up_daily(now_ms, n_backups).await {
            Ok(Some(path)) => tracing::info!(path = %path.display(), "backed up"),
            Ok(None) => {}
            Err(error) => tracing::warn!(error = chain(&error), "the database could not be backed up"),
        }
        if let Err(error) = store.housekeep(now_ms, &kept).await {
            tracing::warn!(error = chain(&error), "the database could not be tidied");
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(HOUSEKEEPING) => {}
        }
    }
}

/// Comes back when the server is to end.
fn ends(cancel: CancellationToken, managed: bool) -> Result<impl Future<Output = ()>, ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: std::io::Error| {
        ServeError::new(format!("Listening for signals: {error}."), "Start it again.")
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            _ = terminate.recv() => tracing::info!("asked to end"),
            _ = interrupt.recv() => tracing::info!("interrupted"),
            () = parent_gone(), if managed => tracing::info!("the parent is gone"),
        }
    })
}

/// Comes back when standard input has ended.
async fn parent_gone() {
    use tokio::io::AsyncReadExt as _;
    let mut input = tokio::io::stdin();
    let mut bytes = [0; 64];
    loop {
        match input.read(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Reads the configuration again on SIGHUP.
fn hang_ups<'a>(
    control: Control,
    tell: &'a (dyn Fn(Notice<'_>) + Send + Sync),
) -> Result<impl Future<Output = ()> + 'a, ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: std::io::Error| {
        ServeError::new(format!("Listening for signals: {error}."), "Start it again.")
    };
    let mut hang_up = signal(SignalKind::hangup()).map_err(failed)?;
    Ok(async move {
        while hang_up.recv().await.is_some() {
            match control.reload().await {
                Ok(reloaded) => tell(Notice::Reloaded(&reloaded)),
                Err(error) => tell(Notice::Warning(format!(
                    "The configuration stays as it was: {error}"
                ))),
            }
        }
    })
}

/// Tells the service manager that the server lives, where it asks; not once the journal is lost.
async fn watchdog(store: Arc<Store>) {
    let Some(every) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(every / 2).await;
        if !store.is_lost() {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }
}

/// The line that a managing parent waits for.
pub fn ready_line(ready: &Ready) -> String {
    format!("READY {}", json!(ready))
}
