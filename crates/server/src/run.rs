//! The life of the server: what is opened in which order, what runs, and how it ends.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use model::chain::{chain, sentence};
use net::{Callback, Dialer, Site};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use store::{ServerLockError, Store, default_folder};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::announce::Announcer;
use crate::api::{self, Api, Reloaded};
use crate::bus;
use crate::config::{self, Config};
use crate::firmware::Repository;
use crate::fleet::Fleet;
use crate::home_assistant::HomeAssistant;
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::parents::Parents;
use crate::rollout::Rollouts;
use crate::secrets::Sealer;
use crate::settle;
use crate::signals::{ends, hang_ups, watchdog};
use crate::whoami::{about, announce, service_of, url_of};
use crate::wiring::{
    api_parts, fleet_settings, listeners, notify_settings, open_announcer, open_fleet, open_home_assistant,
    open_notifier, open_repository, open_rollouts, overlay, repository_settings, rollout_policy,
};

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
    pub(crate) fn new(text: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            next_step: next_step.into(),
        }
    }

    /// Something that was stored cannot be read.
    pub(crate) fn unreadable(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(sentence(&chain(error)), "Look at it with: reflash doctor.")
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
    /// The same as it was opened with, without what lies over it.
    base: Config,
    options: Options,
    store: Arc<Store>,
    engine: Engine,
    site: Site,
    fleet: Fleet,
    repository: Repository,
    rollouts: Rollouts,
    notifier: Notifier,
    listeners: Vec<api::Listener>,
    api: Api,
    /// Who holds it beside whoever started it.
    parents: Parents,
    home_assistant: HomeAssistant,
    /// Ends the streams of events.
    cancel: CancellationToken,
    reloads: mpsc::Receiver<oneshot::Sender<Result<Reloaded, String>>>,
    control: Control,
    ready: Ready,
    first_token: Option<(SecretString, PathBuf)>,
    bus: Option<net::mqtt::Bus>,
    announcer: Option<Announcer>,
    /// What is announced of the server itself.
    service: Option<net::Service>,
    /// What pushes need as long as they run: who calls back or fetches is let in, and the broker is kept.
    kept: Vec<bus::Keep>,
    /// Held for as long as the server lives.
    _lock: store::ServerLock,
}

/// Runs a server from its options to its end: a signal, or the end of standard input where a parent owns it.
pub async fn serve(options: Options, tell: &(dyn Fn(Notice<'_>) + Send + Sync)) -> Result<(), ServeError> {
    let config = read_config(&options)?;
    // Without a file there is nothing that its owner could mend in it.
    let warnings = options
        .config
        .as_ref()
        .map(|_| config.warnings())
        .unwrap_or_default();
    for warning in warnings {
        tell(Notice::Warning(format!("{} {}", warning.text, warning.next_step)));
    }
    let server = Server::open(config, options).await?;
    if let Some((token, path)) = &server.first_token {
        tell(Notice::FirstToken { token, path });
    }
    tell(Notice::Ready(&server.ready));
    let cancel = CancellationToken::new();
    let ends = ends(cancel.clone(), server.options.managed, server.parents.clone())?;
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
    pub async fn open(mut config: Config, options: Options) -> Result<Self, ServeError> {
        // TLS needs it before anything else; a second time it is there already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = config.server.data.clone().unwrap_or_else(default_folder);
        // Before anything else: whatever lies in the folder, as the socket, may be a running server's.
        let lock = store::lock_server(&folder).map_err(|error| not_locked(&folder, &error))?;
        let store = open_store(&folder).await?;
        let engine = Engine::new(store.clone())
            .map_err(|error| ServeError::new(format!("{error}."), "Look whether /proc is there."))?;
        let sealer = Arc::new(open_sealer(&folder)?);
        let first_token = first_token(&store, &folder, &engine).await?;
        let stored = api::stored_settings(&store)
            .await
            .map_err(|error| ServeError::unreadable(&error))?;
        let base = config.clone();
        let home_assistant = open_home_assistant(&store, &sealer).await?;
        home_assistant.lay_over(&mut config);
        overlay(&mut config, &stored);
        let (callback, listening) = Callback::new(config.server.callback.bind, config.server.callback.port);
        let bus::Parts { bus, pull, mut kept } = bus::open(&config, engine.clock());
        kept.push(Box::pin(listening));
        let site = Site {
            dialer: Dialer::new(config.networks(), None).into(),
            callback: Some(callback),
            pull,
        };
        let metrics = Metrics::new();
        let repository = open_repository(&config, &store, &engine, &site).await?;
        let fleet = open_fleet(&config, &engine, (&store, &repository, &site), sealer, &metrics).await?;
        let rollouts = open_rollouts(&config, &engine, (&store, &fleet, &repository), &metrics).await?;
        let notifier = open_notifier(
            &config,
            &engine,
            (&store, &fleet, &rollouts),
            &metrics,
            bus.clone(),
        )
        .await?;
        let told_of = (&store, &fleet, &rollouts, &home_assistant);
        let announcer = open_announcer(&config, &engine, told_of, bus.as_ref());
        let (reloads, reloads_wanted) = mpsc::channel(4);
        let control = Control { reloads };
        let listeners = listeners(&config, &folder).await?;
        let url = url_of(&listeners, &config);
        let about = about(&store, &listeners, &config, options.managed).await?;
        let service = service_of(&listeners, &config, &about);
        let cancel = CancellationToken::new();
        let parents = Parents::default();
        let api = Api::new(api_parts(
            &config,
            &fleet,
            &repository,
            &rollouts,
            &notifier,
            &store,
            &engine,
            metrics,
            &control,
            (about, parents.clone(), home_assistant.clone()),
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
            base,
            options,
            store,
            engine,
            site,
            fleet,
            repository,
            rollouts,
            notifier,
            listeners,
            api,
            parents,
            home_assistant,
            cancel,
            reloads: reloads_wanted,
            control,
            ready,
            first_token,
            bus,
            announcer,
            service,
            kept,
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

    /// The connection to the owner's broker; none where the configuration names none.
    pub fn bus(&self) -> Option<net::mqtt::Bus> {
        self.bus.clone()
    }

    /// Serves until it is cancelled, and then ends in order: no new work, what is to be written, the database.
    pub async fn run(self, cancel: CancellationToken) {
        let Self {
            config,
            base,
            options,
            store,
            engine,
            site,
            fleet,
            repository,
            rollouts,
            notifier,
            listeners,
            api,
            home_assistant,
            cancel: streams,
            mut reloads,
            announcer,
            service,
            kept,
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
            rollouts.clone(),
            cancel.clone(),
        ));
        // What pushes need until their end, which comes after the server's.
        let support = CancellationToken::new();
        tasks.spawn(roll_out(
            rollouts.clone(),
            cancel.clone(),
            support.clone().drop_guard(),
        ));
        {
            let (fleet, support) = (fleet.clone(), support.clone());
            tasks.spawn(async move { fleet.run(support).await });
        }
        {
            let (repository, cancel) = (repository.clone(), cancel.clone());
            tasks.spawn(async move { repository.run(cancel).await });
        }
        let parts = (&fleet, &repository, &notifier, &home_assistant);
        do_housework(&mut tasks, &store, &engine, parts, config.retention, &cancel);
        if let Some(announcer) = announcer {
            // The last pushes are told of as well.
            tasks.spawn(announcer.run(support.clone()));
        }
        for kept in kept {
            let support = support.clone();
            tasks.spawn(async move {
                // Whoever calls back at the end has nobody to talk to, and the broker says by itself that we are gone.
                support.run_until_cancelled(kept).await;
            });
        }
        let announced = service.and_then(|service| announce(&service));
        let mut now = config;
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                wanted = reloads.recv() => {
                    let Some(answer) = wanted else { break };
                    let parts = (&fleet, &repository, &rollouts, &notifier, &home_assistant);
                    let reloaded = reload(&mut now, &base, &options, &store, parts, &site).await;
                    let _ = answer.send(reloaded);
                }
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a part of the server has ended early");
                    }
                }
            }
        }
        drop(announced);
        while tasks.join_next().await.is_some() {}
        drop((fleet, repository, rollouts, notifier, home_assistant, engine));
        if let Some(store) = Arc::into_inner(store) {
            store.close().await;
        }
        drop(lock);
    }
}

async fn open_store(folder: &Path) -> Result<Arc<Store>, ServeError> {
    let store = Store::open(folder).await.map_err(|error| {
        ServeError::new(
            sentence(&chain(&error)),
            "Look at it with: reflash doctor. A back-up is restored with: reflash backup restore.",
        )
    })?;
    Ok(Arc::new(store))
}

fn open_sealer(folder: &Path) -> Result<Sealer, ServeError> {
    Sealer::open_or_make(folder).map_err(|error| {
        ServeError::new(
            sentence(&chain(&error)),
            "Without this file the stored passwords cannot be read: restore it from a back-up.",
        )
    })
}

/// What is the matter with a folder that cannot be locked.
fn not_locked(folder: &Path, error: &ServerLockError) -> ServeError {
    let shown = folder.display();
    let ServerLockError::Io { source, .. } = error else {
        return ServeError::new(
            sentence(&chain(error)),
            "Use the running server, or stop it first; another data folder is named with --data.",
        );
    };
    let (what, next_step) = match source.kind() {
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => (
            "it is a file, or below one, and no folder",
            "Name a folder with --data, or in the configuration with server.data.".to_owned(),
        ),
        ErrorKind::ReadOnlyFilesystem => (
            "it lies on a disk that can only be read",
            "Mount that disk for writing, or name a folder on another one with --data.".to_owned(),
        ),
        ErrorKind::PermissionDenied => (
            "this user may not write there",
            format!(
                "Give the folder to the user of the server (chown USER {shown}), or name another one with --data."
            ),
        ),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (
            "its disk is full",
            "Make room there, or name a folder on another disk with --data.".to_owned(),
        ),
        _ => (
            "its lock cannot be taken",
            "Name a folder on a disk of this machine with --data.".to_owned(),
        ),
    };
    ServeError::new(
        format!("The data folder {shown} cannot be used: {what} ({source})."),
        next_step,
    )
}

/// The token that the first start makes, and where it is kept.
async fn first_token(
    store: &Store,
    folder: &Path,
    engine: &Engine,
) -> Result<Option<(SecretString, PathBuf)>, ServeError> {
    let made = api::first_token(store, folder, engine.clock())
        .await
        .map_err(|error| {
            ServeError::new(
                sentence(&chain(&error)),
                "Look at the room and rights of the data folder.",
            )
        })?;
    Ok(made.map(|first| (first.token, first.path)))
}

/// Carries out rollouts, and begins those of schedules; what they need is let go of when they have ended, however that was.
async fn roll_out(rollouts: Rollouts, cancel: CancellationToken, support: DropGuard) {
    tokio::join!(
        rollouts.run(cancel.clone()),
        rollouts.keep_schedules(cancel.clone()),
        rollouts.reconcile(cancel),
    );
    drop(support);
}

/// Reads the configuration again and applies what can be applied while the server runs.
async fn reload(
    now: &mut Config,
    base: &Config,
    options: &Options,
    store: &Store,
    (fleet, repository, rollouts, notifier, home_assistant): (
        &Fleet,
        &Repository,
        &Rollouts,
        &Notifier,
        &HomeAssistant,
    ),
    site: &Site,
) -> Result<Reloaded, String> {
    let mut read = match &options.config {
        Some(_) => read_config(options).map_err(|error| error.text)?,
        // Without a file only what was set by the API can have changed.
        None => base.clone(),
    };
    home_assistant.lay_over(&mut read);
    let stored = api::stored_settings(store).await.map_err(|error| chain(&error))?;
    overlay(&mut read, &stored);
    let changes = now.diff(&read);
    fleet.apply(fleet_settings(&read, site));
    repository.apply(repository_settings(&read));
    rollouts.apply(rollout_policy(&read));
    notifier.apply(notify_settings(&read));
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

/// What is done beside all the rest, as long as it serves.
fn do_housework(
    tasks: &mut JoinSet<()>,
    store: &Arc<Store>,
    engine: &Engine,
    (fleet, repository, notifier, home_assistant): (&Fleet, &Repository, &Notifier, &HomeAssistant),
    retention: config::Retention,
    cancel: &CancellationToken,
) {
    tasks.spawn(tell_of_firmware(
        repository.clone(),
        fleet.clone(),
        cancel.clone(),
    ));
    tasks.spawn(notifier.clone().run(cancel.clone()));
    tasks.spawn(forget_what_left(
        home_assistant.clone(),
        fleet.clone(),
        cancel.clone(),
    ));
    tasks.spawn(keep_house(
        store.clone(),
        engine.clone(),
        retention,
        cancel.clone(),
    ));
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

/// Forgets devices that have left what Home Assistant hands over, as soon as nothing is under way with them.
async fn forget_what_left(home_assistant: HomeAssistant, fleet: Fleet, cancel: CancellationToken) {
    let mut events = fleet.events();
    loop {
        if home_assistant.has_leaving() {
            home_assistant.forget_leaving(&fleet).await;
        }
        loop {
            // An event that is missed costs nothing: the next one of its kind, or the next start, does it.
            let event = tokio::select! {
                () = cancel.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                Ok(event) if event.kind == "job.finished" => break,
                Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
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

/// The line that a managing parent waits for.
pub fn ready_line(ready: &Ready) -> String {
    format!("READY {}", json!(ready))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[track_caller]
    fn check(source: io::Error, what: &str, next_step: &str) {
        let error = ServerLockError::Io {
            path: "/var/lib/reflash/server.lock".into(),
            source,
        };
        let told = not_locked(Path::new("/var/lib/reflash"), &error);
        assert!(
            told.text.contains("/var/lib/reflash ") && told.text.contains(what),
            "{told:?}"
        );
        assert!(
            told.next_step.contains(next_step) && !told.next_step.contains("stop it"),
            "{told:?}"
        );
    }

    #[test]
    fn a_folder_that_cannot_be_locked_is_told_by_what_is_the_matter_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        for plain in [file.clone(), file.join("below")] {
            let Err(error) = store::lock_server(&plain) else {
                panic!("{} is locked", plain.display());
            };
            let told = not_locked(&plain, &error);
            assert!(told.text.contains("no folder"), "{told:?}");
        }
        check(io::ErrorKind::ReadOnlyFilesystem.into(), "only be read", "Mount");
        check(io::ErrorKind::PermissionDenied.into(), "may not write", "chown");
        check(io::ErrorKind::StorageFull.into(), "full", "Make room");
        check(
            io::Error::other("no locks here"),
            "no locks here",
            "of this machine",
        );
        let held = not_locked(folder.path(), &ServerLockError::Held { by: None });
        assert!(
            held.text.starts_with("A server is at work") && held.next_step.contains("stop it"),
            "{held:?}"
        );
    }
}
