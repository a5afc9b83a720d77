//! The configuration: `reflash.yaml` as typed values, every one of them checked.
//!
//! [`load`] reads a file and tells everything that is wrong with it at once; [`Config::default`] is a working server
//! without one. Secrets are [`SecretString`]s, and no error, snippet or `Debug` shows one.

mod change;
mod cron;
mod entry;
mod error;
pub(crate) mod handed;
mod keys;
mod parse;
mod read;
mod secrets;
mod values;
mod warn;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use jiff::civil::{Time, Weekday};
use model::id::FamilyId;
use secrecy::SecretString;
use url::Url;

pub use change::Change;
pub(crate) use cron::{Cron, Due};
pub(crate) use entry::{DAYS, schedule, schedule_entry, window, window_entry};
pub use error::{At, ConfigError, Problem};
pub use handed::Mistake;
pub use model::plan::{AtOnce, MaxFailures};
pub use parse::parse;
pub(crate) use read::nearest;
pub use secrets::{Sources, UsedFile};
pub use warn::{Flag, Warning};

/// The password that IR Remote Minis come with, which is public (document 000).
pub const DEFAULT_OTA_PASSWORD: &str = "ir_remote_update";

/// Everything that the owner can say.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server itself.
    pub server: Server,
    /// The MQTT broker; none = no MQTT.
    pub mqtt: Option<Mqtt>,
    /// How updates are done.
    pub policy: Policy,
    /// Updates at set times, by name.
    pub schedules: BTreeMap<String, Schedule>,
    /// Who is told.
    pub notify: Notify,
    /// Remote lists of firmware.
    pub firmware_index: Vec<FirmwareIndex>,
    /// When updates may begin, by name.
    pub windows: BTreeMap<String, Window>,
    /// Devices that share an access point, by name. A group that devices name and that is not here has
    /// [`Group::default`].
    pub groups: BTreeMap<String, Group>,
    /// How long what is kept.
    pub retention: Retention,
    /// The folder into which firmware files are dropped, absolute.
    pub firmware_path: Option<PathBuf>,
    /// One block for every family, in the order of [`families::NAMES`].
    pub families: Vec<FamilyBlock>,
    /// Where all this comes from.
    pub origin: Origin,
}

/// Where a configuration comes from: what its warnings are about.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The file; none for the defaults.
    pub file: Option<PathBuf>,
    /// Its permissions, as `chmod` takes them; none where it was not read from a file.
    pub mode: Option<u32>,
    /// Files of secrets that were used.
    pub secrets: Vec<UsedFile>,
    /// Keys whose secret stands in the file itself.
    pub plain_secrets: Vec<String>,
    /// Keys that are written and that nothing comes of in this version.
    pub idle: Vec<String>,
}

/// The server itself.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where the API listens besides its socket in the data folder; none = only there.
    pub listen: Option<SocketAddr>,
    /// The data folder, absolute; none = [`store::default_folder`].
    pub data: Option<PathBuf>,
    /// How the API is encrypted; none = not.
    pub tls: Option<Tls>,
    /// Names and addresses, without a port, by which clients may call the API besides those of this machine.
    pub hosts: Vec<String>,
    /// Origins of the pages that may show our page in a frame, as `http://homeassistant.local:8123`; nobody else may.
    pub frame_ancestors: Vec<String>,
    /// Proxies whose word about the client is believed, and that speak TLS in our place.
    pub trusted_proxies: Vec<IpNet>,
    /// Where devices may be.
    pub allowed_networks: Vec<IpNet>,
    /// Where devices connect back to.
    pub callback: Callback,
    /// Where devices fetch their image that are told by the broker.
    pub pull: Pull,
    /// Whether the server is announced by multicast DNS where it listens beyond this machine.
    pub announce: bool,
    /// What the API takes from one client.
    pub limits: Limits,
}

/// How the API is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// What the server shows of itself.
    pub certificate: Certificate,
    /// The authority whose client certificates are asked for; none = none are.
    pub client_ca: Option<PathBuf>,
}

/// What a TLS server shows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// One that the server makes and keeps in its data folder.
    SelfSigned,
    /// The owner's, both as PEM.
    Own {
        /// The certificate and those between it and its authority.
        cert: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
}

/// Where devices connect back to for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Callback {
    /// The address of this machine; unspecified = all.
    pub bind: IpAddr,
    /// The port; 0 = any free one.
    pub port: u16,
}

/// Where devices fetch their image that are told by the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// The address of this machine; unspecified = all.
    pub bind: IpAddr,
    /// The port; 0 = any free one.
    pub port: u16,
    /// The name or address by which devices reach it; none = the address of this machine on the way to them.
    pub host: Option<String>,
}

/// What the API takes from one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests of one address in a minute.
    pub requests_per_minute: u32,
    /// Wrong tokens of one address in a minute, once its first ones were wrong; 1 to 60.
    pub failed_logins_per_minute: u32,
    /// Connections at once, of all clients together.
    pub connections: u32,
    /// A request that is no image, bytes.
    pub body_bytes: u64,
    /// An image, bytes.
    pub image_bytes: u64,
}

/// The MQTT broker.
#[derive(Clone, Debug)]
pub struct Mqtt {
    /// `mqtt://` or `mqtts://` with host and port, and nothing else.
    pub broker: Url,
    /// Our user there.
    pub username: Option<String>,
    /// And its password.
    pub password: Option<SecretString>,
    /// What we are called there; none = something nobody else is called.
    pub client_id: Option<String>,
    /// The authority of the broker's certificate, PEM; none = those of the system.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key, PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Where devices tell their status: `PREFIX/status` and `PREFIX/+/status`.
    pub status_prefix: String,
    /// Where we tell ours.
    pub prefix: String,
    /// Whether devices are announced to Home Assistant.
    pub discovery: bool,
    /// Where they are announced.
    pub discovery_prefix: String,
    /// Whether commands are taken from there.
    pub commands: bool,
}

/// How updates are done.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Whether what is found belongs to us without a word of the owner.
    pub auto_enroll: bool,
    /// How many devices go first.
    pub canary: u32,
    /// How long they must stay up before the others follow.
    pub canary_soak: Duration,
    /// How many are updated at the same time.
    pub at_once: AtOnce,
    /// How much may fail before a rollout halts.
    pub max_failures: MaxFailures,
    /// How long a device must stay up after its update.
    pub soak: Duration,
    /// When the image from before is pushed again.
    pub rollback: Rollback,
    /// On how many devices an image fails before it is offered to none any more; 0 for never.
    pub quarantine_after: u32,
    /// Whether an image without a valid signature is refused.
    pub require_signature: bool,
    /// Whose signatures are valid: public keys of minisign.
    pub signing_keys: Vec<String>,
}

/// When the image from before is pushed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rollback {
    /// Only when somebody asks for it.
    Never,
    /// When a device keeps restarting after its update.
    OnBootLoop,
}

/// An update at set times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Minute, hour, day of the month, month, day of the week.
    pub cron: String,
    /// The window in which its updates begin, by name; none = at any time.
    pub window: Option<String>,
    /// What is installed.
    pub what: What,
    /// Only devices with one of these tags; empty = all.
    pub tags: BTreeSet<String>,
    /// Where the clock hangs, IANA name; none = that of the window, else of this machine.
    pub timezone: Option<String>,
}

/// What a schedule installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The newest approved release of each model.
    NewestApproved,
}

impl What {
    /// Its name in the configuration and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::NewestApproved => "newest-approved",
        }
    }
}

/// Who is told.
#[derive(Clone, Debug)]
pub struct Notify {
    /// An address in the web that is called.
    pub webhook: Option<Webhook>,
    /// Whether the broker is told.
    pub mqtt: bool,
    /// For how long messages are gathered into one.
    pub digest: Duration,
    /// Of what is told; never empty.
    pub about: BTreeSet<About>,
}

/// Of what somebody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// A rollout has ended.
    Finished,
    /// An update has failed.
    Failed,
    /// A rollout has halted.
    Halted,
    /// There is firmware that devices need.
    Firmware,
    /// A device does not answer any more, or again.
    Lost,
}

impl About {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Finished,
        Self::Failed,
        Self::Halted,
        Self::Firmware,
        Self::Lost,
    ];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Halted => "halted",
            Self::Firmware => "firmware",
            Self::Lost => "lost",
        }
    }
}

/// What the body of a web hook's request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// An object with everything.
    #[default]
    Json,
    /// The sentences alone, with the title in a header, as ntfy takes them.
    Text,
}

impl Form {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
        }
    }
}

/// An address in the web that is called; whoever knows it may call it, so it is a secret itself.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Its address, `http://` or `https://`.
    pub url: SecretString,
    /// With what its messages are signed.
    pub secret: Option<SecretString>,
    /// What it gets.
    pub form: Form,
}

/// A remote list of firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirmwareIndex {
    /// Its address, `https://` or `http://`.
    pub url: Url,
    /// Who signs it: a public key of minisign.
    pub public_key: String,
}

/// When updates may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// When it opens.
    pub start: Time,
    /// For how long, at most a day.
    pub duration: Duration,
    /// On which days it opens, from Monday; never empty.
    pub days: Vec<Weekday>,
    /// Where the clock hangs, IANA name; none = this machine's.
    pub timezone: Option<String>,
}

/// Devices that share an access point, or anything else that does not bear much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// How many of them are updated at the same time.
    pub at_once: u32,
}

impl Default for Group {
    fn default() -> Self {
        // RELIABILITY.md 5 (16): one for each access point.
        Self { at_once: 1 }
    }
}

/// How long what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Health of the devices: heap, uptime, signal.
    pub samples: Duration,
    /// What happened to devices.
    pub events: Duration,
    /// Finished updates and their evidence.
    pub jobs: Duration,
    /// Daily copies of the database, a number.
    pub backups: u32,
    /// Files of one vendor's feed that no device needs, a number.
    pub downloads: u32,
}

/// What concerns the devices of one family.
#[derive(Clone, Debug)]
pub struct FamilyBlock {
    /// The family.
    pub family: FamilyId,
    /// TCP port of the device's web server.
    pub http_port: u16,
    /// UDP port of `ArduinoOTA`.
    pub ota_port: u16,
    /// TCP port of Modbus.
    pub modbus_port: u16,
    /// How often a known device is asked how it is.
    pub poll_every: Duration,
    /// How often new devices are looked for.
    pub scan_every: Duration,
    /// Networks in which every address is asked, host bits cleared; each lies in what is allowed.
    pub scan_ranges: Vec<IpNet>,
    /// Whether devices are looked for at all; those that are listed are watched in any case.
    pub auto_discovery: bool,
    /// How often new firmware is looked for.
    pub update_check_every: Duration,
    /// Where the vendor's firmware is, by controller type.
    pub feed_urls: BTreeMap<String, String>,
    /// The user name where a device has none of its own.
    pub username: Option<String>,
    /// The password where a device has none of its own.
    pub password: Option<SecretString>,
    /// Whether a machine is stopped before its update and started afterwards.
    pub stop_unit: bool,
    /// The devices that are listed.
    pub devices: Vec<ConfiguredDevice>,
}

/// A device that is listed in the configuration.
#[derive(Clone, Debug)]
pub struct ConfiguredDevice {
    /// Its address, or its host name in small letters.
    pub host: String,
    /// What people call it.
    pub name: Option<String>,
    /// The user name for its login.
    pub username: Option<String>,
    /// Its own password.
    pub password: Option<SecretString>,
    /// Its chip, as `esp32c6`.
    pub chip: Option<String>,
    /// The largest image that it takes.
    pub slot_bytes: Option<u64>,
    /// What it shares with others: an access point.
    pub group: Option<String>,
    /// Words to sort by, each once.
    pub tags: Vec<String>,
}

/// Reads a configuration file and the secrets that it refers to.
///
/// The error holds everything that is wrong, as far as it can be told without the first being mended.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let (text, mode) = read_file(path).map_err(|error| {
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => "name another file with `--config`, or start without one",
            std::io::ErrorKind::PermissionDenied => "let the user of the server read it",
            _ => "name a file that holds a configuration",
        };
        ConfigError::unreadable(path, format!("it cannot be read: {error}"), help)
    })?;
    let mut config = parse(&text, Sources::beside(path))?;
    config.origin.mode = Some(mode);
    Ok(config)
}

/// The text of a file and its permissions. It must be a file, not too long, and text.
fn read_file(path: &Path) -> std::io::Result<(String, u32)> {
    let invalid = |text: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, text.to_owned());
    // Opening a pipe would wait for somebody to write to it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(invalid("it is no file"));
    }
    let file = std::fs::File::open(path)?;
    let mode = secrets::mode_of(&file.metadata()?);
    let limit = u64::try_from(yaml::MAX_LEN_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() > yaml::MAX_LEN_BYTES {
        return Err(invalid("it is longer than a megabyte"));
    }
    let text = String::from_utf8(bytes).map_err(|_| invalid("it is no UTF-8 text"))?;
    Ok((text, mode))
}

impl Config {
    /// The addresses that devices may have.
    pub fn networks(&self) -> net::Networks {
        net::Networks::new(self.server.allowed_networks.iter().copied())
    }

    /// The block of a family; none where there is no such family.
    pub fn family(&self, name: &str) -> Option<&FamilyBlock> {
        self.families.iter().find(|block| block.family.as_str() == name)
    }

    /// How many devices of a group are updated at the same time.
    pub fn at_once_in(&self, group: &str) -> u32 {
        self.groups.get(group).copied().unwrap_or_default().at_once
    }
}

impl FamilyBlock {
    /// The way to its devices.
    pub fn ways(&self) -> families::Ways {
        families::Ways {
            ota_port: self.ota_port,
            http_port: self.http_port,
            modbus_port: self.modbus_port,
            stop_unit: self.stop_unit,
            ..families::Ways::default()
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: Server::default(),
            mqtt: None,
            policy: Policy::default(),
            schedules: BTreeMap::new(),
            notify: Notify::default(),
            firmware_index: Vec::new(),
            windows: BTreeMap::new(),
            groups: BTreeMap::new(),
            retention: Retention::default(),
            firmware_path: None,
            families: parse::BLOCKS.iter().map(parse::Block::default).collect(),
            origin: Origin::default(),
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8927))),
            data: None,
            tls: None,
            hosts: Vec::new(),
            frame_ancestors: Vec::new(),
            trusted_proxies: Vec::new(),
            allowed_networks: values::private().to_vec(),
            callback: Callback::default(),
            pull: Pull::default(),
            announce: true,
            limits: Limits::default(),
        }
    }
}

impl Default for Callback {
    fn default() -> Self {
        Self {
            bind: Ipv4Addr::UNSPECIFIED.into(),
            port: 0,
        }
    }
}

impl Default for Pull {
    fn default() -> Self {
        Self {
            bind: Ipv4Addr::UNSPECIFIED.into(),
            port: 0,
            host: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Guess: a page asks for some 20 things when it opens, and a script once a second.
            requests_per_minute: 600,
            failed_logins_per_minute: 10,
            connections: 256,
            // RELIABILITY.md T19.
            body_bytes: 1024 * 1024,
            // The largest image that is accepted (DESIGN.md 3).
            image_bytes: 16 * 1024 * 1024,
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            auto_enroll: false,
            canary: 1,
            canary_soak: Duration::from_mins(10),
            at_once: AtOnce::Auto,
            max_failures: MaxFailures::Count(2),
            soak: Duration::from_mins(2),
            rollback: Rollback::OnBootLoop,
            quarantine_after: 3,
            require_signature: false,
            signing_keys: Vec::new(),
        }
    }
}

impl Default for Notify {
    fn default() -> Self {
        Self {
            webhook: None,
            mqtt: false,
            digest: Duration::from_mins(10),
            about: About::ALL.into(),
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        let days = |days: u64| Duration::from_hours(24 * days);
        Self {
            // Guess: a month shows a slow leak of memory.
            samples: days(30),
            events: days(365),
            jobs: days(3 * 365),
            // RELIABILITY.md 5 (24).
            backups: 7,
            // Guess: the newest, and two to go back to.
            downloads: 3,
        }
    }
}
