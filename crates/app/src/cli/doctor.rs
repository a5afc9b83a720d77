//! `reflash doctor`: what is wrong on this machine, and how to mend it.
//!
//! It looks and does not touch: nothing is sent to anybody but the broker that is configured, and the database is
//! examined in a copy.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use families::Ways;
use model::chain::chain;
use net::{Callback, Dialer, Networks, Site, TcpOptions};
use secrecy::ExposeSecret as _;
use serde_json::json;
use server::config::{Certificate, Config, Flag, Tls};
use store::{ServerLockError, Store};

use super::serve::beside_the_data;
use super::{say, say_json, show};
use crate::error::{Exit, Trouble};

/// The database's file in the data folder.
const DATABASE: &str = "reflash.db";
/// A larger one is not copied to be looked at, bytes. Guess: copying it takes seconds.
const LARGE_DATABASE_BYTES: u64 = 512 * 1024 * 1024;
/// Less room than this is too little for an image and its journal, bytes: twice the largest image.
const NO_ROOM_BYTES: u64 = 32 * 1024 * 1024;
/// Less room than this is soon too little, bytes. Guess: some hundred images.
const LITTLE_ROOM_BYTES: u64 = 256 * 1024 * 1024;
/// This was written on 2026-11-22: a clock that shows an earlier time is wrong, milliseconds since 1970.
const WRITTEN_MS: i64 = 1_795_305_600_000;
/// A file written this much later than now was written by a clock that went backwards (RELIABILITY.md 5 (17)).
const CLOCK_JUMP_MS: i64 = 60_000;
/// How long the broker may take to let us in.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// How long it may take to refuse us, once connected. Guess: a round trip and TLS.
const REFUSAL_WAIT: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
#[command(
    after_help = "Exit codes: 0 nothing is wrong (warnings are told), 1 something is.\n\n\
    Example:\n  reflash doctor --config /etc/reflash/reflash.yaml"
)]
pub(crate) struct DoctorArguments {
    /// The configuration; otherwise reflash.yaml in the data folder, if it is there, as the server does it.
    #[arg(long, value_name = "F")]
    config: Option<PathBuf>,
    /// The data folder, where it is not the one of the configuration.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print JSON and nothing else on standard output.
    #[arg(long)]
    json: bool,
}

/// How one thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Ok,
    Warning,
    Wrong,
}

impl Standing {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Wrong => "wrong",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug)]
struct Check {
    name: &'static str,
    standing: Standing,
    text: String,
    next_step: Option<String>,
}

#[derive(Debug, Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn ok(&mut self, name: &'static str, text: impl Into<String>) {
        self.push(name, Standing::Ok, text, None);
    }

    fn warning(&mut self, name: &'static str, text: impl Into<String>, next_step: impl Into<String>) {
        self.push(name, Standing::Warning, text, Some(next_step.into()));
    }

    fn wrong(&mut self, name: &'static str, text: impl Into<String>, next_step: impl Into<String>) {
        self.push(name, Standing::Wrong, text, Some(next_step.into()));
    }

    fn push(
        &mut self,
        name: &'static str,
        standing: Standing,
        text: impl Into<String>,
        next_step: Option<String>,
    ) {
        self.0.push(Check {
            name,
            standing,
            text: text.into(),
            next_step,
        });
    }

    fn worst(&self) -> Standing {
        self.0
            .iter()
            .map(|check| check.standing)
            .max()
            .unwrap_or(Standing::Ok)
    }
}

/// Looks at everything and tells it.
pub(crate) async fn run(arguments: DoctorArguments) -> Result<Exit, Trouble> {
    // Asking the broker may need it; whoever was quicker chose the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut checks = Checks::default();
    // As `reflash serve` finds it.
    let path = arguments
        .config
        .or_else(|| beside_the_data(arguments.data.as_deref()));
    let config = configuration(&mut checks, path.as_deref());
    // Without a configuration that can be read, the rest is looked at as if there were none.
    let config = config.unwrap_or_default();
    let folder = arguments
        .data
        .or_else(|| config.server.data.clone())
        .unwrap_or_else(store::default_folder);
    certificates(&mut checks, &config);
    let has_server = data_folder(&mut checks, &folder).await;
    clock(&mut checks, &folder);
    firmware_folder(&mut checks, &config);
    network(&mut checks, &config);
    ports(&mut checks, &config, has_server).await;
    multicast(&mut checks, &config);
    broker(&mut checks, &config).await;
    notifications(&mut checks, &config).await;
    feeds(&mut checks, &config);
    tell(&checks, arguments.json);
    Ok(match checks.worst() {
        Standing::Ok | Standing::Warning => Exit::Done,
        Standing::Wrong => Exit::Failed,
    })
}

fn tell(checks: &Checks, json: bool) {
    if json {
        let list = checks.0.iter().map(|check| {
            json!({ "check": check.name, "result": check.standing.name(), "text": check.text, "next_step": check.next_step })
        });
        say_json(&json!({ "result": checks.worst().name(), "checks": list.collect::<Vec<_>>() }));
        return;
    }
    let mut told = Vec::new();
    for check in &checks.0 {
        // A configuration error has lines of its own, which are shown as they stand.
        let mut lines = check.text.lines();
        let first = show::safe(lines.next().unwrap_or_default());
        told.push(format!("{:<8} {}: {first}\n", check.standing.name(), check.name));
        told.extend(lines.map(|line| format!("         {}\n", show::safe(line))));
        let next_step = check.next_step.iter();
        told.extend(next_step.map(|step| format!("         next: {}\n", show::safe(step))));
    }
    let count = |standing| checks.0.iter().filter(|check| check.standing == standing).count();
    let (n_wrong, n_warnings) = (count(Standing::Wrong), count(Standing::Warning));
    told.push(format!(
        "{} looked at, {n_wrong} wrong, {n_warnings} to know\n",
        checks.0.len()
    ));
    let told = told.concat();
    let _ = say(&told);
}

fn configuration(checks: &mut Checks, path: Option<&Path>) -> Option<Config> {
    let config = match path {
        None => {
            checks.ok(
                "configuration",
                "None is named with --config, and no reflash.yaml is in the data folder, so the defaults hold.",
            );
            Config::default()
        }
        Some(path) => match server::config::load(path) {
            Ok(config) => {
                let n_devices: usize = config.families.iter().map(|family| family.devices.len()).sum();
                checks.ok(
                    "configuration",
                    format!("{} is read, {n_devices} devices are listed.", path.display()),
                );
                config
            }
            Err(error) => {
                let text = format!("{} cannot be used.\n{error}", path.display());
                checks.wrong(
                    "configuration",
                    text,
                    "Mend the lines above; docs/guide/configuration.md has every key.",
                );
                return None;
            }
        },
    };
    for warning in config.warnings() {
        let text = match warning.flag {
            Flag::Red => format!("{} (dangerous)", warning.text.trim_end_matches('.')) + ".",
            Flag::Yellow => warning.text,
        };
        checks.warning(warning.rule, text, warning.next_step);
    }
    Some(config)
}

/// Files that are named and must be there.
fn certificates(checks: &mut Checks, config: &Config) {
    let mut files: Vec<&Path> = Vec::new();
    if let Some(Tls {
        certificate,
        client_ca,
    }) = &config.server.tls
    {
        if let Certificate::Own { cert, key } = certificate {
            files.extend([cert.as_path(), key.as_path()]);
            private_key(checks, key);
        }
        files.extend(client_ca.as_deref());
    }
    if let Some(mqtt) = &config.mqtt {
        files.extend(mqtt.ca.as_deref());
        if let Some((cert, key)) = &mqtt.certificate {
            files.extend([cert.as_path(), key.as_path()]);
            private_key(checks, key);
        }
    }
    for file in files {
        match fs::read(file) {
            Ok(text) if text.windows(11).any(|window| window == b"-----BEGIN ") => {
                checks.ok("certificate", format!("{} is there.", file.display()));
            }
            Ok(_) => checks.wrong(
                "certificate",
                format!("{} is no PEM file.", file.display()),
                "Name a file that begins with `-----BEGIN`.",
            ),
            Err(error) => checks.wrong(
                "certificate",
                format!("{} cannot be read: {error}.", file.display()),
                "Name a file that this user may read.",
            ),
        }
    }
}

fn private_key(checks: &mut Checks, key: &Path) {
    let mode = fs::metadata(key).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o004 != 0 {
        checks.warning(
            "private-key",
            format!("{} can be read by everybody on this machine.", key.display()),
            format!("Run `chmod 600 {}`.", key.display()),
        );
    }
}

/// Whether a server is at work in it.
async fn data_folder(checks: &mut Checks, folder: &Path) -> bool {
    let shown = folder.display();
    let metadata = match fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => {
            checks.wrong(
                "data",
                format!("{shown} is no folder."),
                "Name another one with `server.data`.",
            );
            return false;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            checks.ok(
                "data",
                format!("{shown} is not there yet; the first start makes it."),
            );
            room(
                checks,
                folder
                    .ancestors()
                    .find(|folder| folder.is_dir())
                    .unwrap_or(Path::new("/")),
            );
            return false;
        }
        Err(error) => {
            let next_step = "Run doctor as the user of the server.";
            checks.wrong(
                "data",
                format!("{shown} cannot be looked at: {error}."),
                next_step,
            );
            return false;
        }
    };
    let mode = metadata.permissions().mode() & 0o7777;
    let us = rustix::process::geteuid();
    if metadata.uid() != us.as_raw() && !us.is_root() {
        checks.wrong(
            "data",
            format!("{shown} belongs to another user (number {}).", metadata.uid()),
            "Run doctor and server as that user, or give the folder away with `chown`.",
        );
    } else if mode & 0o077 != 0 {
        checks.warning(
            "data",
            format!("{shown} can be entered by others (mode {mode:04o}); passwords and the token are in it."),
            format!("Run `chmod 700 {shown}`."),
        );
    } else {
        checks.ok("data", format!("{shown} is private."));
    }
    room(checks, folder);
    let has_server = server_lock(checks, folder);
    database(checks, folder, has_server).await;
    has_server
}

fn room(checks: &mut Checks, folder: &Path) {
    let free = match rustix::fs::statvfs(folder) {
        Ok(room) => room.f_bavail.saturating_mul(room.f_frsize),
        Err(error) => {
            let text = format!(
                "How much room there is in {} cannot be told: {error}.",
                folder.display()
            );
            checks.warning("room", text, "Look with `df`.");
            return;
        }
    };
    let text = format!(
        "{} MB are free for {}.",
        show::grouped(free / 1_000_000),
        folder.display()
    );
    let next_step = "Make room, or put the data folder on a larger disk with `server.data`.";
    if free < NO_ROOM_BYTES {
        checks.wrong("room", text, next_step);
    } else if free < LITTLE_ROOM_BYTES {
        checks.warning("room", text, next_step);
    } else {
        checks.ok("room", text);
    }
}

fn server_lock(checks: &mut Checks, folder: &Path) -> bool {
    // Without the file nobody holds it, and it is not ours to make.
    if !folder.join("server.lock").exists() {
        checks.ok("server", "No server is at work in the data folder.");
        return false;
    }
    match store::lock_server(folder) {
        Ok(lock) => {
            drop(lock);
            checks.ok("server", "No server is at work in the data folder.");
            false
        }
        Err(ServerLockError::Held { by }) => {
            let who = by.map_or(String::new(), |by| format!(", process {} on {}", by.pid, by.host));
            checks.ok("server", format!("A server is at work in the data folder{who}."));
            true
        }
        Err(error @ ServerLockError::Io { .. }) => {
            let text = format!("Whether a server is at work cannot be told: {}.", chain(&error));
            checks.wrong("server", text, "Run doctor as the user of the server.");
            false
        }
    }
}

async fn database(checks: &mut Checks, folder: &Path, has_server: bool) {
    let path = folder.join(DATABASE);
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            checks.ok("database", "There is none yet; the first start makes it.");
            return;
        }
        Err(error) => {
            let text = format!("{} cannot be looked at: {error}.", path.display());
            checks.wrong("database", text, "Run doctor as the user of the server.");
            return;
        }
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        checks.warning(
            "database",
            format!("{} can be opened by others (mode {mode:04o}).", path.display()),
            format!(
                "Run `chmod 600 {}`; the next start does it as well.",
                path.display()
            ),
        );
    }
    let restore = "Stop the server, keep the file, and restore the newest backup.";
    match header(&path) {
        Ok(Header::Wal) => checks.ok("database", "It keeps a write-ahead log, as it should."),
        Ok(Header::Other) => checks.warning(
            "database",
            "It keeps no write-ahead log, so a power cut may cost the last updates' records.",
            "Start the server on a local disk: network disks cannot do it.",
        ),
        Ok(Header::Foreign) => {
            checks.wrong(
                "database",
                format!("{} is no SQLite database.", path.display()),
                restore,
            );
            return;
        }
        Err(error) => {
            let text = format!("{} cannot be read: {error}.", path.display());
            checks.wrong("database", text, "Run doctor as the user of the server.");
            return;
        }
    }
    if has_server {
        checks.ok(
            "database",
            "The server that is at work examined it when it started.",
        );
    } else if metadata.len() > LARGE_DATABASE_BYTES {
        checks.ok(
            "database",
            "It is too large to be examined in a copy; the next start examines it.",
        );
    } else {
        match examine(folder).await {
            Ok(()) => checks.ok("database", "Its content is whole."),
            Err(why) => checks.wrong("database", format!("Its content is damaged: {why}."), restore),
        }
    }
}

enum Header {
    Wal,
    Other,
    Foreign,
}

/// What the first page says (sqlite.org/fileformat2.html 1.3: text at 0, format versions at 18 and 19, 2 = WAL).
fn header(path: &Path) -> io::Result<Header> {
    use std::io::Read as _;
    let mut first = [0; 20];
    match fs::File::open(path)?.read_exact(&mut first) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Header::Foreign),
        Err(error) => return Err(error),
    }
    if !first.starts_with(b"SQLite format 3\0") {
        return Ok(Header::Foreign);
    }
    Ok(if first[18..] == [2, 2] {
        Header::Wal
    } else {
        Header::Other
    })
}

/// Opens a copy, which checks it from its first page to its last, reads the modes back, and brings the schema up to
/// date, all without touching the original.
async fn examine(folder: &Path) -> Result<(), String> {
    let copy = private_temporary_folder().map_err(|error| format!("no room for a copy: {error}"))?;
    for suffix in ["", "-wal"] {
        let name = format!("{DATABASE}{suffix}");
        match fs::copy(folder.join(&name), copy.path().join(&name)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("it cannot be copied: {error}")),
        }
    }
    let store = Store::open(copy.path()).await.map_err(|error| {
        // The copy's name would lead nobody to the file.
        chain(&error).replace(&copy.path().display().to_string(), &folder.display().to_string())
    })?;
    store.close().await;
    Ok(())
}

/// A folder that only we can enter, gone when it is dropped.
fn private_temporary_folder() -> io::Result<tempfile::TempDir> {
    let only_us = fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().permissions(only_us).tempdir()
}

fn clock(checks: &mut Checks, folder: &Path) {
    let now_ms = engine::Clock.now().wall_ms;
    let written_ms = fs::metadata(folder.join(DATABASE))
        .ok()
        .map_or(0, |metadata| metadata.mtime().saturating_mul(1000));
    let next_step = "Set the clock, best by NTP (`timedatectl set-ntp true`).";
    if now_ms < WRITTEN_MS {
        checks.wrong(
            "clock",
            "It shows a time before this program was written.",
            next_step,
        );
    } else if written_ms > now_ms + CLOCK_JUMP_MS {
        checks.wrong(
            "clock",
            "It shows a time before the database was last written, so it has gone backwards.",
            next_step,
        );
    } else {
        checks.ok("clock", "It shows a time that can be.");
    }
}

fn firmware_folder(checks: &mut Checks, config: &Config) {
    let Some(folder) = &config.firmware_path else {
        return;
    };
    match fs::read_dir(folder) {
        Ok(_) => checks.ok("firmware-folder", format!("{} can be read.", folder.display())),
        Err(error) => checks.wrong(
            "firmware-folder",
            format!("{} cannot be read: {error}.", folder.display()),
            "Make the folder, or name another one with `firmware_path`.",
        ),
    }
}

fn network(checks: &mut Checks, config: &Config) {
    let interfaces = match net::interfaces() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            let text = format!("The network interfaces cannot be listed: {error}.");
            checks.wrong("network", text, "Look with `ip address`.");
            return;
        }
    };
    let outer: Vec<String> = interfaces
        .iter()
        .filter(|interface| !interface.address.is_loopback())
        .map(|interface| interface.address.to_string())
        .collect();
    if outer.is_empty() {
        checks.warning(
            "network",
            "This machine has no address but its own loopback.",
            "Connect it to the network in which the devices are.",
        );
    } else {
        checks.ok("network", format!("This machine is {}.", outer.join(", ")));
    }
    let mut n_addresses: u64 = 0;
    for range in config.families.iter().flat_map(|family| &family.scan_ranges) {
        let bits = u32::from(range.max_prefix_len() - range.prefix_len());
        n_addresses = n_addresses.saturating_add(1_u64.checked_shl(bits).unwrap_or(u64::MAX));
        if interfaces
            .iter()
            .any(|interface| interface.network.contains(range))
        {
            checks.ok("scan", format!("{range} is on this machine's own link."));
        } else {
            checks.warning(
                "scan",
                format!("{range} lies behind a router: its devices are found more slowly, and their MAC addresses not at all."),
                "If it is meant to be here, compare `network_range` with the addresses above.",
            );
        }
    }
    let Some(max) = net::neighbours_max() else { return };
    if n_addresses > u64::from(max) / 2 {
        checks.warning(
            "neighbours",
            format!("{n_addresses} addresses are scanned, and the system remembers {max} neighbours; the scan is slowed down so that none is missed."),
            "Make `network_range` smaller, or raise `net.ipv4.neigh.default.gc_thresh3`.",
        );
    } else {
        checks.ok(
            "neighbours",
            format!("The system remembers {max} neighbours, which is enough."),
        );
    }
}

/// Whether the addresses to listen on can be listened on.
async fn ports(checks: &mut Checks, config: &Config, has_server: bool) {
    if has_server {
        checks.ok("ports", "The server that is at work has them.");
        return;
    }
    let callback = config.server.callback;
    let mut wanted = vec![(
        "callback",
        SocketAddr::new(callback.bind, callback.port),
        "`server.callback`",
    )];
    if let Some(listen) = config.server.listen {
        wanted.push(("listen", listen, "`server.listen`"));
    }
    for (name, address, key) in wanted {
        match can_listen(address).await {
            Ok(()) => checks.ok(name, format!("{address} is free.")),
            Err(why) => checks.wrong(
                name,
                format!("Nobody can listen on {address}: {why}."),
                format!("End the program that has it, or write another one into {key}."),
            ),
        }
    }
}

async fn can_listen(address: SocketAddr) -> Result<(), String> {
    let (callback, accepting) = Callback::new(address.ip(), address.port());
    // Nobody is invited from there, so nobody is let in.
    let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    tokio::select! {
        invited = callback.expect(nobody) => invited.map(drop).map_err(|error| chain(&error)),
        () = accepting => Err("listening ended".to_owned()),
    }
}

fn multicast(checks: &mut Checks, config: &Config) {
    if !config.families.iter().any(|family| family.auto_discovery) {
        checks.ok("multicast", "Devices are not looked for.");
        return;
    }
    let able = interfaces_with_multicast(Path::new("/sys/class/net"));
    if able.is_empty() {
        checks.warning(
            "multicast",
            "No interface takes multicast, so devices that announce themselves are not heard.",
            "List the devices or a `network_range`; in a container use the host's network.",
        );
    } else {
        checks.ok("multicast", format!("It is heard on {}.", able.join(", ")));
    }
}

/// Interfaces that are up and take multicast (Linux `if.h`: `IFF_UP` 0x1, `IFF_LOOPBACK` 0x8, `IFF_MULTICAST` 0x1000).
fn interfaces_with_multicast(folder: &Path) -> Vec<String> {
    let mut able = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let flags = fs::read_to_string(entry.path().join("flags")).unwrap_or_default();
        let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
        if flags & 0x1009 == 0x1001 {
            able.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    able.sort_unstable();
    able
}

async fn broker(checks: &mut Checks, config: &Config) {
    let Some(mqtt) = &config.mqtt else {
        checks.ok("broker", "None is configured.");
        return;
    };
    let (host, port) = (
        mqtt.broker.host_str().unwrap_or_default(),
        mqtt.broker.port().unwrap_or(1883),
    );
    let next_step = "Look at `mqtt.broker`, and whether the broker runs.";
    match tokio::time::timeout(CONNECT_WAIT, reach(host, port)).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => {
            checks.wrong(
                "broker",
                format!("{host} port {port} cannot be reached: {why}."),
                next_step,
            );
            return;
        }
        Err(_) => {
            checks.wrong(
                "broker",
                format!("{host} port {port} does not answer."),
                next_step,
            );
            return;
        }
    }
    let site = Site {
        dialer: Dialer::new(Networks::new([]), None).into(),
        callback: None,
        pull: None,
    };
    let families = families::all(&site, &Ways::default());
    let lookouts: Vec<_> = families.iter().flat_map(|family| family.lookouts()).collect();
    let (out, mut sightings) = tokio::sync::mpsc::channel(1);
    let listener = discovery::Broker {
        // Under the server's own name we would throw it out.
        client_id: None,
        ..server::broker(mqtt)
    };
    let ended = tokio::select! {
        error = discovery::mqtt(&listener, &lookouts, &out) => Some(error),
        // Whatever comes shows that we are let in.
        _ = sightings.recv() => None,
        () = tokio::time::sleep(REFUSAL_WAIT) => None,
    };
    match ended {
        None => checks.ok("broker", format!("{host} port {port} takes us.")),
        Some(error) => checks.wrong(
            "broker",
            format!("{host} port {port} does not take us: {}.", chain(&error)),
            "Look at `mqtt.username`, `mqtt.password`, `mqtt.ca`, `mqtt.cert` and `mqtt.key`.",
        ),
    }
}

/// Connects, and hangs up.
async fn reach(host: &str, port: u16) -> Result<(), String> {
    let addresses = net::resolve(host).await.map_err(|error| chain(&error))?;
    let mut why = "it has no address".to_owned();
    for address in addresses {
        // The broker is the owner's to name, wherever it is.
        let dialer = Dialer::new(Networks::only(address), None);
        let wait = CONNECT_WAIT;
        match dialer
            .tcp(SocketAddr::new(address, port), TcpOptions::default(), wait)
            .await
        {
            Ok(_) => return Ok(()),
            Err(error) => why = chain(&error),
        }
    }
    Err(why)
}

/// Whether somebody is told of what happens, and can be reached; nothing is sent.
async fn notifications(checks: &mut Checks, config: &Config) {
    let notify = &config.notify;
    let about: Vec<&str> = notify.about.iter().map(|about| about.name()).collect();
    let about = about.join(", ");
    if notify.mqtt {
        checks.ok("notify", format!("The broker is told of: {about}."));
    }
    let Some(webhook) = &notify.webhook else {
        if !notify.mqtt {
            checks.ok("notify", "Nobody is told of what happens.");
        }
        return;
    };
    // Only the host is shown: whoever knows the rest may call it.
    let Ok(url) = reqwest::Url::parse(webhook.url.expose_secret()) else {
        return;
    };
    let place = url.origin().ascii_serialization();
    let (host, port) = (
        url.host_str().unwrap_or_default(),
        url.port_or_known_default().unwrap_or(443),
    );
    let next_step = "Look at `notify.webhook.url`, and whether its receiver runs.";
    match tokio::time::timeout(CONNECT_WAIT, reach(host, port)).await {
        Ok(Ok(())) => checks.ok(
            "notify",
            format!("The web hook at {place} can be reached; it is told of: {about}. To try it: reflash notify test."),
        ),
        Ok(Err(why)) => checks.warning(
            "notify",
            format!("The web hook at {place} cannot be reached: {why}."),
            next_step,
        ),
        Err(_) => checks.warning(
            "notify",
            format!("The web hook at {place} does not answer."),
            next_step,
        ),
    }
}

/// Their notation was checked when the configuration was read; nobody is asked.
fn feeds(checks: &mut Checks, config: &Config) {
    for family in &config.families {
        for (kind, url) in &family.feed_urls {
            if url.starts_with("http://") {
                checks.warning(
                    "feed",
                    format!("{kind}: {url} comes without TLS, so what it brings waits until it is approved."),
                    "Let the address begin with `https://` if its server can.",
                );
            } else {
                checks.ok("feed", format!("{kind}: {url} (not asked now)."));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn private_folder() -> tempfile::TempDir {
        private_temporary_folder().unwrap()
    }

    #[track_caller]
    fn check(checks: &Checks, name: &str, standing: Standing, text: &str) {
        let found = checks.0.iter().any(|check| {
            check.name == name
                && check.standing == standing
                && check.text.contains(text)
                && (standing == Standing::Ok || check.next_step.is_some())
        });
        assert!(found, "{name} {standing:?} {text:?} in {checks:#?}");
    }

    fn read(text: &str) -> (tempfile::TempDir, Checks, Option<Config>) {
        let folder = private_folder();
        let path = folder.path().join("reflash.yaml");
        fs::write(&path, text).unwrap();
        let mut checks = Checks::default();
        let config = configuration(&mut checks, Some(&path));
        (folder, checks, config)
    }

    #[test]
    fn a_configuration_that_cannot_be_read_is_wrong_and_shown_where() {
        let (_folder, checks, config) = read("policy:\n  canry: 1\n");
        assert!(config.is_none());
        check(&checks, "configuration", Standing::Wrong, "reflash.yaml:2:3");
        assert_eq!(checks.worst(), Standing::Wrong);
    }

    #[test]
    fn warnings_of_the_configuration_are_told_and_are_no_failure() {
        let (_folder, checks, config) = read("ir_remote_ota: { ota_password: cAnArY }\n");
        assert!(config.is_some());
        check(
            &checks,
            "plain-secret",
            Standing::Warning,
            "ir_remote_ota.ota_password",
        );
        assert_eq!(checks.worst(), Standing::Warning);
        assert!(!format!("{checks:?}").contains("cAnArY"));
    }

    #[tokio::test]
    async fn a_data_folder_is_private_and_its_database_whole() {
        let folder = private_folder();
        Store::open(folder.path()).await.unwrap().close().await;
        let mut checks = Checks::default();
        assert!(!data_folder(&mut checks, folder.path()).await);
        check(&checks, "data", Standing::Ok, "private");
        check(&checks, "database", Standing::Ok, "write-ahead log");
        check(&checks, "database", Standing::Ok, "whole");
        assert_eq!(checks.worst(), Standing::Ok, "{checks:?}");
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_not_made() {
        let folder = private_folder();
        let missing = folder.path().join("a/b");
        let mut checks = Checks::default();
        assert!(!data_folder(&mut checks, &missing).await);
        check(&checks, "data", Standing::Ok, "the first start makes it");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_damaged_database_is_found_and_left_as_it_is() {
        let folder = private_folder();
        Store::open(folder.path()).await.unwrap().close().await;
        let path = folder.path().join(DATABASE);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..].fill(0xff);
        fs::write(&path, &bytes).unwrap();
        let mut checks = Checks::default();
        data_folder(&mut checks, folder.path()).await;
        check(&checks, "database", Standing::Wrong, "damaged");
        assert_eq!(fs::read(&path).unwrap(), bytes);
        fs::write(&path, b"not at all").unwrap();
        let mut checks = Checks::default();
        data_folder(&mut checks, folder.path()).await;
        check(&checks, "database", Standing::Wrong, "no SQLite database");
    }

    #[tokio::test]
    async fn what_others_may_enter_is_told() {
        let folder = private_folder();
        Store::open(folder.path()).await.unwrap().close().await;
        let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        chmod(folder.path(), 0o755);
        chmod(&folder.path().join(DATABASE), 0o644);
        let mut checks = Checks::default();
        data_folder(&mut checks, folder.path()).await;
        check(&checks, "data", Standing::Warning, "mode 0755");
        check(&checks, "database", Standing::Warning, "mode 0644");
    }

    #[tokio::test]
    async fn a_server_at_work_is_told_and_its_ports_are_its_own() {
        let folder = private_folder();
        Store::open(folder.path()).await.unwrap().close().await;
        let lock = store::lock_server(folder.path()).unwrap();
        let mut checks = Checks::default();
        assert!(data_folder(&mut checks, folder.path()).await);
        check(
            &checks,
            "server",
            Standing::Ok,
            &format!("process {}", std::process::id()),
        );
        ports(&mut checks, &Config::default(), true).await;
        check(&checks, "ports", Standing::Ok, "has them");
        drop(lock);
        let mut checks = Checks::default();
        assert!(!data_folder(&mut checks, folder.path()).await);
        check(&checks, "server", Standing::Ok, "No server");
    }

    #[tokio::test]
    async fn a_port_that_somebody_has_is_wrong() {
        let (holder, accepting) = Callback::new(Ipv4Addr::LOCALHOST.into(), 0);
        let holding = async {
            let invited = holder.expect([127, 0, 0, 9].into()).await.unwrap();
            let mut config = Config::default();
            config.server.listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, invited.port)));
            config.server.callback.bind = Ipv4Addr::LOCALHOST.into();
            let mut checks = Checks::default();
            ports(&mut checks, &config, false).await;
            checks
        };
        let checks = tokio::select! {
            checks = holding => checks,
            () = accepting => panic!("the listener ended"),
        };
        check(&checks, "listen", Standing::Wrong, "Nobody can listen");
        check(&checks, "callback", Standing::Ok, "is free");
    }

    #[tokio::test]
    async fn a_broker_that_does_not_answer_is_wrong() {
        // Taken and given back, so nobody listens there.
        let (holder, accepting) = Callback::new(Ipv4Addr::LOCALHOST.into(), 0);
        let port = tokio::select! {
            invited = holder.expect([127, 0, 0, 9].into()) => invited.unwrap().port,
            () = accepting => panic!("the listener ended"),
        };
        let (_folder, mut checks, config) = read(&format!(
            "mqtt: {{ broker: \"mqtt://127.0.0.1:{port}\", username: u, password: cAnArY }}\n"
        ));
        broker(&mut checks, &config.unwrap()).await;
        check(&checks, "broker", Standing::Wrong, "cannot be reached");
        assert!(!format!("{checks:?}").contains("cAnArY"));
    }

    #[expect(clippy::disallowed_methods, reason = "it is a foreign program")]
    fn foreign_listener() -> std::net::TcpListener {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap()
    }

    #[tokio::test]
    async fn a_web_hook_is_told_by_its_host_alone_and_a_silent_one_is_a_warning() {
        let listener = foreign_listener();
        let port = listener.local_addr().unwrap().port();
        let (_folder, mut checks, config) = read(&format!(
            "notify: {{ webhook: {{ url: \"http://127.0.0.1:{port}/hook/cAnArY?key=cAnArY\", secret: cAnArY }}, about: [lost] }}\n"
        ));
        notifications(&mut checks, &config.unwrap()).await;
        drop(listener);
        let place = format!("http://127.0.0.1:{port}");
        let text = format!("The web hook at {place} can be reached; it is told of: lost.");
        check(&checks, "notify", Standing::Ok, &text);
        // Nobody listens there any more.
        let (_folder, more, config) =
            read(&format!("notify: {{ webhook: {{ url: \"{place}/cAnArY\" }} }}\n"));
        checks.0.extend(more.0);
        notifications(&mut checks, &config.unwrap()).await;
        check(
            &checks,
            "notify",
            Standing::Warning,
            &format!("{place} cannot be reached"),
        );
        assert!(!format!("{checks:?}").contains("cAnArY"));
        let mut checks = Checks::default();
        notifications(&mut checks, &Config::default()).await;
        check(&checks, "notify", Standing::Ok, "Nobody is told");
    }

    #[test]
    fn a_clock_that_has_gone_backwards_is_wrong() {
        let folder = private_folder();
        let mut checks = Checks::default();
        clock(&mut checks, folder.path());
        check(&checks, "clock", Standing::Ok, "can be");
        let path = folder.path().join(DATABASE);
        let file = fs::File::create(&path).unwrap();
        let later = file.metadata().unwrap().modified().unwrap() + Duration::from_hours(1);
        file.set_modified(later).unwrap();
        let mut checks = Checks::default();
        clock(&mut checks, folder.path());
        check(&checks, "clock", Standing::Wrong, "backwards");
    }

    #[test]
    fn a_range_behind_a_router_and_one_too_large_for_the_table_are_told() {
        let (_folder, mut checks, config) = read(
            "server: { allowed_networks: [loopback, 203.0.113.0/24, 10.0.0.0/8] }\n\
             ir_remote_ota: { network_range: [127.0.0.0/24, 203.0.113.0/24, 10.9.0.0/16], allow_large_scan: true }\n",
        );
        network(&mut checks, &config.unwrap());
        check(&checks, "scan", Standing::Ok, "127.0.0.0/24 is on");
        check(
            &checks,
            "scan",
            Standing::Warning,
            "203.0.113.0/24 lies behind a router",
        );
        if net::neighbours_max().is_some_and(|max| max < 65_536) {
            check(&checks, "neighbours", Standing::Warning, "slowed down");
        }
    }

    #[test]
    fn interfaces_that_are_down_or_our_own_take_no_multicast() {
        let folder = private_folder();
        for (name, flags) in [
            ("eth0", "0x1003"),
            ("lo", "0x9"),
            ("lo2", "0x1009"),
            ("eth1", "0x1002"),
            ("tun0", "0x91"),
        ] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("flags"), format!("{flags}\n")).unwrap();
        }
        assert_eq!(interfaces_with_multicast(folder.path()), ["eth0"]);
        assert!(interfaces_with_multicast(&folder.path().join("none")).is_empty());
    }

    #[test]
    fn the_brokers_certificates_must_be_there_and_private() {
        let (folder, mut checks, config) =
            read("mqtt: { broker: \"mqtts://broker\", cert: cert.pem, key: key.pem }\n");
        fs::write(folder.path().join("key.pem"), "-----BEGIN PRIVATE KEY-----\n").unwrap();
        fs::set_permissions(folder.path().join("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
        certificates(&mut checks, &config.unwrap());
        check(&checks, "certificate", Standing::Wrong, "cert.pem cannot be read");
        check(&checks, "certificate", Standing::Ok, "key.pem");
        check(&checks, "private-key", Standing::Warning, "everybody");
    }

    #[test]
    fn keys_that_nothing_comes_of_are_told() {
        let (_folder, checks, config) = read(
            "policy: { signing_keys: [\"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\"] }\n",
        );
        assert!(config.is_some());
        check(
            &checks,
            "without-effect",
            Standing::Warning,
            ": policy.signing_keys.",
        );
    }

    #[test]
    fn certificates_and_folders_that_are_named_must_be_there() {
        let (folder, mut checks, config) =
            read("server: { tls: { cert: cert.pem, key: key.pem, client_ca: ca.pem } }\nfirmware_path: fw\n");
        let config = config.unwrap();
        fs::write(folder.path().join("cert.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        fs::write(folder.path().join("key.pem"), "nothing").unwrap();
        fs::set_permissions(folder.path().join("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
        certificates(&mut checks, &config);
        firmware_folder(&mut checks, &config);
        check(&checks, "certificate", Standing::Ok, "cert.pem");
        check(&checks, "certificate", Standing::Wrong, "key.pem is no PEM file");
        check(&checks, "certificate", Standing::Wrong, "ca.pem cannot be read");
        check(&checks, "private-key", Standing::Warning, "everybody");
        check(&checks, "firmware-folder", Standing::Wrong, "cannot be read");
    }
}
