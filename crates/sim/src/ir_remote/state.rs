//! What one device remembers, shared between its task and whoever holds the `Device`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::{Notify, watch};

use super::{
    auth::{Scheme, md5_hex, sha256_hex},
    config::{Auth, Config},
    fault::Fault,
    presence::{Link, MqttReport},
    pull::PullState,
    slot::{
        Command, Received,
        error::{MD5 as MD5_FAILED, SHA256 as SHA256_FAILED},
    },
};
use crate::{EventKind, EventSink, Mac};

/// How often what happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams read on the OTA port, all kinds, lost ones (`drop-udp`) not counted.
    pub datagrams: u64,
    /// Invitations read, swallowed ones included.
    pub invitations: u64,
    /// Authentication answers read.
    pub answers: u64,
    /// Authentication answers rejected, those of wrong length included.
    pub rejected: u64,
    /// Packets after an invitation that came from another address than it.
    pub strangers: u64,
    /// Call-back connections that came about.
    pub connected: u64,
    /// Images of which the first byte arrived.
    pub receiving: u64,
    /// Images of which the last byte arrived.
    pub received: u64,
    /// Images of which the new one was activated.
    pub flashed: u64,
    /// Restarts, whatever the cause.
    pub restarts: u64,
    /// HTTP requests read.
    pub http_requests: u64,
    /// Commands to update that came by MQTT, those that the broker had kept not counted.
    pub commands: u64,
    /// Requests for the image of a command.
    pub pulls: u64,
}

/// What runs on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// SHA-256 (hex) of the running application image; `None` until one was flashed.
    pub sha256: Option<String>,
    /// Its label.
    pub version: String,
    /// Seconds since the last restart, as the device reports them.
    pub uptime_s: u32,
    /// The OTA port is served.
    pub ota_enabled: bool,
}

/// Which way an image came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Espota,
    Http,
    /// Told by MQTT, pulled by HTTP.
    Mqtt,
}

impl Method {
    fn as_str(self) -> &'static str {
        match self {
            Self::Espota => "espota",
            Self::Http => "http",
            Self::Mqtt => "mqtt",
        }
    }
}

/// What the device says and does once an image is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) reply: Reply,
    pub(super) restarts: bool,
}

/// What the host hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Ok,
    Error(String),
    /// Nothing but a reset.
    Reset,
}

/// What `otaStatus` and `otaError` say (PROTOCOLS.md E2).
#[derive(Clone, Debug)]
pub(super) struct OtaReport {
    pub(super) status: &'static str,
    pub(super) error: &'static str,
    pub(super) progress: u64,
}

impl OtaReport {
    const IDLE: Self = Self {
        status: "idle",
        error: "",
        progress: 0,
    };
}

pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) ota_port: u16,
    pub(super) http_port: u16,
    /// How many places after the first of several devices it is.
    pub(super) place: u32,
    mac: Mac,
    link: watch::Sender<Link>,
    events: EventSink,
    /// Something was changed from outside.
    pub(super) changed: Notify,
    state: Mutex<State>,
}

pub(super) struct State {
    /// With a mark when it is spent.
    faults: Vec<(Fault, bool)>,
    /// Since when it has them.
    faulty_since: Instant,
    pub(super) counters: Counters,
    pub(super) ota_enabled: bool,
    pub(super) report: OtaReport,
    pub(super) mqtt: MqttReport,
    pub(super) pull: PullState,
    pub(super) power_cycle: bool,
    version: String,
    version_after: Option<String>,
    sha256: Option<String>,
    /// Runs from the next restart on.
    flashed: Option<(String, String)>,
    uptime_base_s: u32,
    boot: Instant,
    crashes: Crashes,
    other_mac: Option<Mac>,
    stays_away: bool,
    n_nonces: u64,
    n_datagrams: u64,
    n_replies: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Crashes {
    No,
    Once,
    Ever,
}

/// What the web server says of a failed update, with status 200 (PROTOCOLS.md C).
pub(super) const FAIL: &str = "FAIL";
/// Uptime that a crashing image reaches. A matter of taste.
const CRASH_UPTIME: Duration = Duration::from_secs(2);
/// Uptime of the device that answers in place of ours, seconds. A matter of taste, but far from a fresh restart.
const OTHER_UPTIME_S: u32 = 90_000;

impl Shared {
    pub(super) fn new(
        config: Config,
        address: Ipv4Addr,
        ports: (u16, u16),
        mac: Mac,
        events: EventSink,
    ) -> Self {
        let state = State {
            faults: config.faults.iter().map(|fault| (fault.clone(), false)).collect(),
            faulty_since: Instant::now(),
            counters: Counters::default(),
            ota_enabled: true,
            report: OtaReport::IDLE,
            mqtt: MqttReport::default(),
            pull: PullState::default(),
            power_cycle: false,
            version: config.version.clone(),
            version_after: config.version_after.clone(),
            sha256: None,
            flashed: None,
            uptime_base_s: config.uptime_s,
            boot: Instant::now(),
            crashes: Crashes::No,
            other_mac: None,
            stays_away: false,
            n_nonces: 0,
            n_datagrams: 0,
            n_replies: 0,
        };
        let place = address.to_bits().wrapping_sub(config.bind.to_bits());
        let shared = Self {
            config,
            ota_port: ports.0,
            http_port: ports.1,
            place,
            mac,
            link: watch::Sender::new(Link {
                up: true,
                ip: address,
            }),
            events,
            changed: Notify::new(),
            state: Mutex::new(state),
        };
        let ota_enabled = shared.boots_with_ota();
        shared.lock().ota_enabled = ota_enabled;
        shared
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn emit(&self, kind: EventKind, fields: Vec<(&'static str, Value)>) {
        self.events.emit(&self.mac.bare(), kind, fields);
    }

    // Network

    /// Its address now.
    pub(super) fn ip(&self) -> Ipv4Addr {
        self.link.borrow().ip
    }

    /// Follows where it is in the network, and whether.
    pub(super) fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// It is in the network at this address, or no longer.
    pub(super) fn set_link(&self, link: Link) {
        self.link
            .send_if_modified(|old| std::mem::replace(old, link) != link);
    }

    // Faults

    pub(super) fn set_faults(&self, faults: Vec<Fault>) {
        let mut state = self.lock();
        state.faults = faults.into_iter().map(|fault| (fault, false)).collect();
        state.faulty_since = Instant::now();
        state.n_datagrams = 0;
        state.n_replies = 0;
        drop(state);
        self.changed.notify_one();
    }

    /// True when the device has this very fault.
    pub(super) fn has(&self, fault: &Fault) -> bool {
        self.lock().has(fault)
    }

    /// The first answer of `pick` for a fault that is not spent.
    pub(super) fn find<T>(&self, pick: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        self.lock().find(pick)
    }

    /// True, with an event, when the device has this very fault and it is not spent.
    pub(super) fn strikes(&self, fault: &Fault) -> bool {
        let has = self.has(fault);
        if has {
            self.struck(fault);
        }
        has
    }

    /// Reports that a fault took effect.
    pub(super) fn struck(&self, fault: &Fault) {
        self.emit(EventKind::Fault, vec![("fault", fault.to_string().into())]);
    }

    /// From now on the device is without this fault.
    pub(super) fn spend(&self, fault: &Fault) {
        for (known, spent) in &mut self.lock().faults {
            *spent |= known == fault;
        }
    }

    /// The next change of the network that its faults ask for, and when.
    pub(super) fn upheaval(&self) -> Option<(Instant, Fault)> {
        let state = self.lock();
        let upheavals = state.faults().filter_map(|fault| match fault {
            Fault::MoveTo(_, after) | Fault::Vanish(after) => {
                Some((state.faulty_since + *after, fault.clone()))
            }
            _ => None,
        });
        upheavals.min_by_key(|(time, _)| *time)
    }

    // Identity and reports

    /// The MAC that the device reports now.
    pub(super) fn reported_mac(&self) -> Mac {
        let state = self.lock();
        let cloned = state.find(|fault| {
            if let Fault::MacClone(mac) = fault {
                Some(*mac)
            } else {
                None
            }
        });
        state.other_mac.or(cloned).unwrap_or(self.mac)
    }

    /// The MAC that the device was made with.
    pub(super) fn own_mac(&self) -> Mac {
        self.mac
    }

    pub(super) fn running(&self) -> Running {
        let state = self.lock();
        let frozen = state.has(&Fault::UptimeFrozen);
        let elapsed = u32::try_from(state.boot.elapsed().as_secs()).unwrap_or(u32::MAX);
        Running {
            sha256: state.sha256.clone(),
            version: state.version.clone(),
            uptime_s: if frozen {
                self.config.uptime_s
            } else {
                state.uptime_base_s.saturating_add(elapsed)
            },
            ota_enabled: state.ota_enabled,
        }
    }

    pub(super) fn set_version_after(&self, version: Option<String>) {
        self.lock().version_after = version;
    }

    pub(super) fn set_report(&self, status: &'static str, error: &'static str) {
        let mut state = self.lock();
        state.report.status = status;
        state.report.error = error;
    }

    // Datagrams

    /// True when the next datagram of the host is to be lost.
    pub(super) fn loses_datagram(&self) -> bool {
        let mut state = self.lock();
        state.n_datagrams += 1;
        let fault = Fault::DropUdp(state.n_datagrams);
        drop(state);
        self.strikes(&fault)
    }

    /// True when the next datagram of the device is to be lost.
    pub(super) fn loses_reply(&self) -> bool {
        let mut state = self.lock();
        state.n_replies += 1;
        let fault = Fault::DropAnswer(state.n_replies);
        drop(state);
        self.strikes(&fault)
    }

    /// A new nonce and the exchange that it begins; `None` when no password is asked for.
    pub(super) fn next_nonce(&self) -> Option<(String, Scheme)> {
        let configured = match self.config.auth() {
            Auth::None => return None,
            Auth::Md5 => Scheme::Md5,
            Auth::Pbkdf2 => Scheme::Pbkdf2,
            Auth::Pbkdf2Md5 => Scheme::Pbkdf2Md5,
        };
        let mut state = self.lock();
        let n = state.n_nonces;
        state.n_nonces += 1;
        let downgrades = state.has(&Fault::DowngradeNonce);
        let bad_len = state.find(|fault| {
            if let Fault::BadNonce(len) = fault {
                Some(*len)
            } else {
                None
            }
        });
        drop(state);
        let scheme = match (downgrades, n, configured) {
            (true, 0, Scheme::Md5) => Scheme::Pbkdf2,
            (true, 1.., _) => Scheme::Md5,
            _ => configured,
        };
        if downgrades && n > 0 {
            self.struck(&Fault::DowngradeNonce);
        }
        let source = format!("{}/{}/{n}", self.config.seed, self.mac);
        let mut nonce = if scheme == Scheme::Md5 {
            md5_hex(source)
        } else {
            sha256_hex(source)
        };
        if let Some(len) = bad_len {
            self.struck(&Fault::BadNonce(len));
            nonce = nonce.chars().cycle().take(usize::from(len)).collect();
        }
        Some((nonce, scheme))
    }

    // Images

    /// Capacity of what an image is written to, bytes.
    pub(super) fn capacity(&self, command: Command) -> u64 {
        match command {
            Command::Flash => u64::from(self.config.slot_bytes),
            // `spiffs` of the default partition table is what two application slots leave of 4 MiB (arduino-esp32
            // `tools/partitions/default.csv`: 0x160000); the same share is a guess for other sizes.
            Command::Spiffs => {
                let flash = u64::from(self.config.flash_bytes);
                flash.saturating_sub(2 * u64::from(self.config.slot_bytes) + 0x2_0000)
            }
        }
    }

    pub(super) fn receiving(&self, method: Method, peer: SocketAddr, len: Option<u64>) {
        let mut state = self.lock();
        state.counters.receiving += 1;
        state.report = OtaReport {
            status: "downloading",
            ..OtaReport::IDLE
        };
        drop(state);
        let mut fields = vec![
            ("method", method.as_str().into()),
            ("peer", peer.to_string().into()),
        ];
        if let Some(len) = len {
            fields.push(("len_bytes", len.into()));
        }
        self.emit(EventKind::Receiving, fields);
    }

    /// An image is complete: decides what the host hears, keeps the image if it is one, and reports it.
    pub(super) fn received(&self, method: Method, peer: SocketAddr, received: Received) -> Ending {
        let Received {
            len,
            facts,
            command,
            verdict,
        } = received;
        let sha256 = hex::encode(facts.sha256);
        let (ending, flashes) = self.decide(method, verdict);
        let mut state = self.lock();
        state.counters.received += 1;
        state.counters.flashed += u64::from(flashes);
        state.report.progress = 100;
        (state.report.status, state.report.error) = if ending.reply == Reply::Ok {
            ("complete", "")
        } else {
            ("error", "End Failed")
        };
        if flashes && command == Command::Flash {
            let version = state.next_version(facts.version);
            state.flashed = Some((sha256.clone(), version));
        }
        drop(state);
        let said = match &ending.reply {
            Reply::Ok => Value::from("OK"),
            Reply::Error(text) => Value::from(text.as_str()),
            Reply::Reset => Value::Null,
        };
        let fields = vec![
            ("len_bytes", len.into()),
            ("sha256", sha256.into()),
            ("peer", peer.to_string().into()),
            ("method", method.as_str().into()),
            ("reply", said),
            ("flashed", flashes.into()),
        ];
        self.emit(EventKind::Received, fields);
        ending
    }

    /// What to say and do after the device's own verdict, and whether the image is activated.
    fn decide(&self, method: Method, verdict: Result<(), &'static str>) -> (Ending, bool) {
        let http = method == Method::Http;
        let error = |text: &str| Ending {
            reply: Reply::Error(text.to_owned()),
            restarts: http,
        };
        if let Err(text) = verdict {
            return (error(if http { FAIL } else { text }), false);
        }
        let ours = |fault: &Fault| match fault {
            Fault::Md5CheckFailed => method == Method::Espota,
            Fault::MqttWrongDigest | Fault::MqttNoFlash => method == Method::Mqtt,
            Fault::HttpFail | Fault::HttpReset => http,
            Fault::ErrorText(_)
            | Fault::OkLost
            | Fault::OkLostNoFlash
            | Fault::OkNoReboot
            | Fault::OkInErrorText
            | Fault::KeepsOld => true,
            _ => false,
        };
        let Some(fault) = self.find(|fault| ours(fault).then(|| fault.clone())) else {
            return (
                Ending {
                    reply: Reply::Ok,
                    restarts: true,
                },
                true,
            );
        };
        self.struck(&fault);
        match fault {
            Fault::Md5CheckFailed => (error(MD5_FAILED), false),
            Fault::ErrorText(text) => (error(&text), false),
            Fault::OkInErrorText => (error("Flash Write Failed, this is NOT OK"), false),
            Fault::HttpFail => (error(FAIL), false),
            Fault::MqttWrongDigest => (error(SHA256_FAILED), false),
            Fault::OkLost | Fault::HttpReset => (
                Ending {
                    reply: Reply::Reset,
                    restarts: true,
                },
                true,
            ),
            Fault::OkLostNoFlash => (
                Ending {
                    reply: Reply::Reset,
                    restarts: false,
                },
                false,
            ),
            Fault::OkNoReboot | Fault::MqttNoFlash => (
                Ending {
                    reply: Reply::Ok,
                    restarts: false,
                },
                false,
            ),
            _ => (
                Ending {
                    reply: Reply::Ok,
                    restarts: true,
                },
                false,
            ),
        }
    }

    // Restarts

    /// The power goes or the chip restarts: what happens to the memory.
    pub(super) fn restart(&self) {
        let ota_enabled = self.boots_with_ota();
        let mut state = self.lock();
        state.counters.restarts += 1;
        state.ota_enabled = ota_enabled;
        state.report = OtaReport::IDLE;
        state.pull.restart();
        state.uptime_base_s = 0;
        state.boot = Instant::now();
        if state.crashes == Crashes::Once {
            state.crashes = Crashes::No;
        }
        let Some((sha256, version)) = state.flashed.take() else {
            return;
        };
        state.sha256 = Some(sha256);
        state.version = version;
        let has = |fault: Fault| state.has(&fault);
        let crashes = if has(Fault::ReturnsButCrashes) {
            Crashes::Ever
        } else if has(Fault::CrashesOnce) {
            Crashes::Once
        } else {
            Crashes::No
        };
        let stays_away = has(Fault::NeverReturns);
        let swapped = has(Fault::OtherDeviceReturns);
        state.crashes = crashes;
        state.stays_away = stays_away;
        if swapped {
            let mut octets = self.mac.0;
            octets[3] ^= 0x5A;
            octets[5] ^= 0xA5;
            state.other_mac = Some(Mac(octets));
            state.uptime_base_s = OTHER_UPTIME_S;
            state.version.clone_from(&self.config.version);
            state.sha256 = None;
        }
    }

    /// When the running image crashes, if it does.
    pub(super) fn crash_time(&self) -> Option<Instant> {
        let state = self.lock();
        (state.crashes != Crashes::No).then(|| Instant::now() + CRASH_UPTIME)
    }

    /// The device is never seen again.
    pub(super) fn stays_away(&self) -> bool {
        self.lock().stays_away
    }

    /// Somebody switched the device off and on.
    pub(super) fn take_power_cycle(&self) -> bool {
        let mut state = self.lock();
        let asked = std::mem::take(&mut state.power_cycle);
        if asked {
            state.stays_away = false;
        }
        asked
    }

    /// OTA is on after a restart: it lives in RAM and begins as true (PROTOCOLS.md E3).
    fn boots_with_ota(&self) -> bool {
        let off = self.find(|fault| matches!(fault, Fault::OtaOff | Fault::OtaStaysOff(_)).then_some(()));
        off.is_none()
    }
}

impl State {
    /// The faults that are not spent.
    pub(super) fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.faults
            .iter()
            .filter(|(_, spent)| !spent)
            .map(|(fault, _)| fault)
    }

    fn has(&self, fault: &Fault) -> bool {
        self.faults().any(|known| known == fault)
    }

    fn find<T>(&self, pick: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        self.faults().find_map(pick)
    }

    /// The label after a flash of an image whose own version is `own`.
    fn next_version(&self, own: Option<String>) -> String {
        if self.has(&Fault::LabelUnchanged) {
            return self.version.clone();
        }
        self.find(|fault| {
            if let Fault::OtherVersion(version) = fault {
                Some(version.clone())
            } else {
                None
            }
        })
        .or_else(|| self.version_after.clone())
        .or(own)
        .unwrap_or_else(|| self.version.clone())
    }
}
