//! A simulated Komfovent C6, C6M or C8 ventilation unit: web server and Modbus TCP.
//!
//! It listens on loopback (or wherever it is bound), takes firmware at the real unit's pace, restarts, and comes back
//! with the versions that the file's name states.

mod door;
pub mod fault;
pub mod firmware;
mod form;
mod http;
mod modbus;
mod pages;
pub mod registers;
mod unit;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::sleep;

use door::Door;
use firmware::{USUAL_CONTROLLER, USUAL_PANEL};
use unit::{FACTORY_ADDRESS, Return, Unit};

pub use fault::Fault;
pub use firmware::{Controller, Panel};
pub use pages::Language;
pub use registers::Registers;

use crate::{EventKind, EventSink, nth_address};

/// Longest user name, bytes (`maxlength` on the real login page).
const USERNAME_MAX_LEN: usize = 7;
/// How often free ports are looked for that are free at the next addresses as well.
const N_PORT_TRIES: u32 = 20;

/// What a simulated unit is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on.
    pub bind: Ipv4Addr,
    /// Port of the web server; 0 takes a free one.
    pub http_port: u16,
    /// Port of Modbus TCP; 0 takes a free one.
    pub modbus_port: u16,
    /// The unit's registers, which also say what controller and panel it has.
    pub registers: Registers,
    /// Name to log in with, at most 7 bytes.
    pub username: String,
    /// Password to log in with.
    pub password: String,
    /// Serial number; also names the unit in events. `None` = `S` and the last three bytes of the address in hex.
    pub serial: Option<String>,
    /// Bytes a second at which the unit reads.
    pub rate_bytes_per_s: u32,
    /// How long the unit is silent while it flashes.
    pub silence: Duration,
    /// How long the unit is away while it restarts.
    pub restart: Duration,
    /// What it does wrong from the start.
    pub faults: Vec<Fault>,
}

impl Config {
    /// A C6 1.3.44.70 with a panel P1 1.1.5.46 on free ports of `bind`, user and password `user`, with a real unit's
    /// timing: 19,000 bytes/s and 1.7 s of silence (capture of an upload), 90 s of restart ("1–2 minutes", vendor).
    pub fn new(bind: Ipv4Addr) -> Self {
        Self {
            bind,
            http_port: 0,
            modbus_port: 0,
            registers: Registers::synthesize(USUAL_CONTROLLER, Some(USUAL_PANEL)),
            username: "user".into(),
            password: "user".into(),
            serial: None,
            rate_bytes_per_s: 19_000,
            silence: Duration::from_millis(1700),
            restart: Duration::from_secs(90),
            faults: Vec::new(),
        }
    }
}

/// What happened at a unit, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests to the web server.
    pub requests: u64,
    /// Logins that were right.
    pub logins: u64,
    /// Logins that were wrong.
    pub failed_logins: u64,
    /// Logouts.
    pub logouts: u64,
    /// Uploads whose image began to arrive.
    pub receiving: u64,
    /// Uploads whose image arrived to its end, accepted or not.
    pub received: u64,
    /// Uploads that were reset by a fault.
    pub cut: u64,
    /// Uploads that were accepted and written.
    pub flashed: u64,
    /// Restarts.
    pub restarts: u64,
    /// Modbus reads.
    pub modbus_reads: u64,
    /// Modbus writes.
    pub writes: u64,
    /// Modbus requests answered with an exception.
    pub exceptions: u64,
    /// Modbus requests less than 500 ms after the one before.
    pub too_fast: u64,
}

/// What a unit runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Controller and firmware, such as `C6 1.3.44.70`.
    pub controller: String,
    /// Panel and firmware, such as `P1 1.1.5.46`.
    pub panel: Option<String>,
    /// Whether the unit ventilates (register 1).
    pub on: bool,
    /// How many addresses are logged in.
    pub n_sessions: usize,
}

/// A simulated unit; dropping it ends it.
pub struct Device {
    unit: Arc<Unit>,
    http_port: u16,
    modbus_port: u16,
    _tasks: JoinSet<()>,
}

impl Device {
    /// The address it listens on.
    pub fn ip(&self) -> Ipv4Addr {
        self.unit.ip
    }

    /// Port of its web server.
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// Port of its Modbus server.
    pub fn modbus_port(&self) -> u16 {
        self.modbus_port
    }

    /// Its serial number, which names it in events.
    pub fn serial(&self) -> &str {
        &self.unit.serial
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.unit.counters()
    }

    /// What it runs at the moment; while it restarts, what it ran before.
    pub fn running(&self) -> Running {
        self.unit.running()
    }

    /// Switches it off and on; wakes one that never returned.
    pub fn power_cycle(&self) {
        self.unit.restart.notify_one();
    }

    /// Replaces its faults; `cut-once-at` and `session-taken` start afresh.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.unit.set_faults(faults);
    }
}

/// Starts a unit in the current tokio runtime; its ports are open when this returns.
///
/// # Errors
/// When a port is taken, or the configuration is none that a unit could have.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn start(config: Config, events: EventSink) -> Result<Device> {
    start_many(config, 1, events)?
        .pop()
        .context("no unit was started")
}

/// Starts `count` units: the first on `config.bind` itself, the next ones on the following addresses, all on the same
/// ports. A serial number in `config` is the first one's, the n-th after it has `-n` added.
///
/// # Errors
/// When a port is taken, there are not so many addresses, or the configuration is none that a unit could have.
///
/// # Panics
/// Outside of a tokio runtime.
#[expect(
    clippy::needless_pass_by_value,
    reason = "parallel to `start` and to the other family"
)]
pub fn start_many(config: Config, count: usize, events: EventSink) -> Result<Vec<Device>> {
    ensure!(
        (1..=USERNAME_MAX_LEN).contains(&config.username.len()),
        "the user name has 1 to 7 characters: {:?}",
        config.username
    );
    ensure!(
        config.rate_bytes_per_s > 0,
        "a unit that reads 0 bytes a second never answers"
    );
    let has_free_port = config.http_port == 0 || config.modbus_port == 0;
    let mut n_tries = if has_free_port { N_PORT_TRIES } else { 1 };
    let doors = loop {
        n_tries -= 1;
        match reserve_all(&config, count) {
            Ok(doors) => break doors,
            Err(error) if n_tries == 0 => return Err(error),
            Err(_) => {}
        }
    };
    let mut devices = Vec::with_capacity(count);
    for (idx, doors) in doors.into_iter().enumerate() {
        let ip = nth_address(config.bind, idx)?;
        let serial = match &config.serial {
            Some(serial) if idx == 0 => serial.clone(),
            Some(serial) => format!("{serial}-{idx}"),
            None => {
                let [_, b, c, d] = ip.octets();
                format!("S{b:02X}{c:02X}{d:02X}")
            }
        };
        let unit = Arc::new(Unit::new(config.clone(), ip, serial, events.clone()));
        devices.push(begin(unit, doors)?);
    }
    Ok(devices)
}

/// Ports for `count` units on as many addresses, the same on each.
fn reserve_all(config: &Config, count: usize) -> Result<Vec<Doors>> {
    let mut reserved: Vec<Doors> = Vec::with_capacity(count);
    for idx in 0..count {
        let ip = nth_address(config.bind, idx)?;
        let (http_port, modbus_port) = match reserved.first() {
            Some(first) => (first.http.port(), first.modbus.port()),
            None => (config.http_port, config.modbus_port),
        };
        let reserve = |port| Door::reserve(ip, port).with_context(|| format!("reserving {ip}:{port}"));
        reserved.push(Doors {
            http: reserve(http_port)?,
            modbus: reserve(modbus_port)?,
        });
    }
    Ok(reserved)
}

fn begin(unit: Arc<Unit>, doors: Doors) -> Result<Device> {
    let (http_port, modbus_port) = (doors.http.port(), doors.modbus.port());
    let listeners = doors.open()?;
    let running = unit.running();
    unit.emit(
        EventKind::Ready,
        vec![
            ("ip", unit.ip.to_string().into()),
            ("http_port", http_port.into()),
            ("modbus_port", modbus_port.into()),
            ("serial", unit.serial.as_str().into()),
            ("controller", running.controller.into()),
            ("panel", running.panel.into()),
        ],
    );
    let mut tasks = JoinSet::new();
    tasks.spawn(live(Arc::clone(&unit), doors, listeners));
    Ok(Device {
        unit,
        http_port,
        modbus_port,
        _tasks: tasks,
    })
}

struct Doors {
    http: Door,
    modbus: Door,
}

struct Listeners {
    http: tokio::net::TcpListener,
    modbus: tokio::net::TcpListener,
}

impl Doors {
    fn open(&self) -> Result<Listeners> {
        Ok(Listeners {
            http: self.http.open().context("listening for HTTP")?,
            modbus: self.modbus.open().context("listening for Modbus")?,
        })
    }
}

/// The unit's life: on, restarting, on again.
async fn live(unit: Arc<Unit>, doors: Doors, mut listeners: Listeners) {
    loop {
        serve_until_restart(&unit, listeners).await;
        unit.emit(EventKind::Rebooting, vec![]);
        sleep(unit.restart_time()).await;
        match unit.power_cycle() {
            Return::Here => {}
            Return::Never => unit.restart.notified().await,
            Return::AtFactoryAddress => {
                let fields = vec![
                    ("fault", "address-reset".into()),
                    ("address", FACTORY_ADDRESS.to_string().into()),
                ];
                unit.emit(EventKind::Fault, fields);
                return;
            }
        }
        listeners = match doors.open() {
            Ok(listeners) => listeners,
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the simulated unit cannot come back"
                );
                return;
            }
        };
        let running = unit.running();
        unit.emit(
            EventKind::Up,
            vec![
                ("controller", running.controller.into()),
                ("panel", running.panel.into()),
            ],
        );
    }
}

/// Serves both doors. When it returns, all connections are gone and new ones are refused.
async fn serve_until_restart(unit: &Arc<Unit>, listeners: Listeners) {
    let mut connections = JoinSet::new();
    loop {
        // Dropping any of these futures loses nothing: a connection not yet accepted stays queued, the wish to restart is
        // kept until it is read, a task not yet joined stays in its set.
        tokio::select! {
            Ok((stream, _)) = listeners.http.accept() => {
                connections.spawn(http::serve(Arc::clone(unit), stream));
            }
            Ok((stream, _)) = listeners.modbus.accept() => {
                let unit = Arc::clone(unit);
                connections.spawn(async move { modbus::serve(&unit, stream).await });
            }
            Some(_) = connections.join_next() => {}
            () = unit.restart.notified() => break,
        }
    }
    drop(listeners);
    connections.shutdown().await;
}
