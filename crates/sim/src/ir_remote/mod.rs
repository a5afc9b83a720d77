//! A simulated IR Remote Mini: an ESP32 with `ArduinoOTA` and a small web server (PROTOCOLS.md B, C, E).
//!
//! One task plays the one thread of the sketch: while an image comes in, nothing else is answered.

mod auth;
mod config;
mod fault;
mod http;
mod image;
mod multipart;
mod ota;
mod pace;
mod pages;
mod presence;
mod pull;
mod slot;
mod state;

use std::{
    future::pending,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    select,
    task::JoinSet,
    time::{sleep, sleep_until, timeout_at},
};

pub use self::{
    config::{Auth, Chip, Config, Mqtt},
    fault::{EnableAnswer, Fault, Nonsense},
    state::{Counters, Running},
};
use self::{ota::Port, presence::Link, state::Shared};
use crate::{EventKind, EventSink, Mac, mdns, nth_address};

/// Connections that wait for the synchronous web server (Arduino `NetworkServer`: `max_clients` = 4).
const BACKLOG: i32 = 4;
/// How often free ports are looked for that are free at the next addresses as well.
const N_PORT_TRIES: u32 = 20;
/// Pause before a port that was taken during a restart is tried again.
const REBIND_PAUSE: Duration = Duration::from_millis(50);

/// A running simulated device; dropping it stops it.
pub struct Device {
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

/// Starts one device; it answers when this returns.
///
/// # Errors
/// When a port cannot be bound.
pub async fn start(config: Config, events: EventSink) -> Result<Device> {
    let mut devices = start_many(config, 1, events).await?;
    devices.pop().context("no device was started")
}

/// Starts `count` devices: the first on `config.bind` itself, the next ones on the following addresses, all on the same
/// ports, with MACs that are distinct and the same each time.
///
/// # Errors
/// When a port cannot be bound, there are not so many addresses, or something is to return that never vanishes.
pub async fn start_many(config: Config, count: usize, events: EventSink) -> Result<Vec<Device>> {
    let has = |fits: fn(&Fault) -> bool| config.faults.iter().any(fits);
    if has(|fault| matches!(fault, Fault::Return(_))) && !has(|fault| matches!(fault, Fault::Vanish(_))) {
        bail!("fault return needs fault vanish beside it");
    }
    let free_ports = config.ota_port == 0 || config.http_port == 0;
    let mut n_tries = if free_ports { N_PORT_TRIES } else { 1 };
    let sockets = loop {
        n_tries -= 1;
        match bind_all(&config, count).await {
            Ok(sockets) => break sockets,
            Err(err) if n_tries == 0 => return Err(err),
            Err(_) => {}
        }
    };
    let mut devices = Vec::with_capacity(count);
    for (i, (address, udp, door)) in sockets.into_iter().enumerate() {
        let ports = (udp.local_addr()?.port(), port_of(&door)?);
        let mac = config.mac.map_or(Mac::of_address(address), |mac| mac.nth(i));
        let shared = Arc::new(Shared::new(config.clone(), address, ports, mac, events.clone()));
        let server = open(&shared, door)?;
        let mut task = JoinSet::new();
        if let Some(port) = config.mdns_port {
            let sockets = mdns::Sockets::open(address, port)
                .with_context(|| format!("joining multicast DNS on port {port} from {address}"))?;
            let shared = Arc::clone(&shared);
            task.spawn(async move { presence::announce(&shared, port, sockets).await });
        }
        if let Some(mqtt) = config.mqtt.clone() {
            let shared = Arc::clone(&shared);
            task.spawn(async move { presence::report(&shared, &mqtt).await });
        }
        let fields = vec![
            ("ip", address.to_string().into()),
            ("ota_port", ports.0.into()),
            ("http_port", ports.1.into()),
            ("mac", mac.to_string().into()),
        ];
        shared.emit(EventKind::Ready, fields);
        task.spawn(run(Arc::clone(&shared), udp, server));
        devices.push(Device { shared, _task: task });
    }
    Ok(devices)
}

impl Device {
    /// Its address.
    pub fn ip(&self) -> Ipv4Addr {
        self.shared.ip()
    }

    /// UDP port for invitations.
    pub fn ota_port(&self) -> u16 {
        self.shared.ota_port
    }

    /// TCP port of the web server.
    pub fn http_port(&self) -> u16 {
        self.shared.http_port
    }

    /// The MAC that it was made with (not that of `other-device-returns`).
    pub fn mac(&self) -> Mac {
        self.shared.own_mac()
    }

    /// How it is named in events: twelve hex digits of its MAC.
    pub fn name(&self) -> String {
        self.mac().bare()
    }

    /// Replaces all faults, and counts datagrams for `drop-udp` and `drop-answer` from here.
    ///
    /// What concerns starting (`ota-off`, `no-status-api`) shows from the next restart on, what concerns an image from the
    /// next image on.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.shared.set_faults(faults);
    }

    /// How often what happened.
    pub fn counters(&self) -> Counters {
        self.shared.lock().counters
    }

    /// What runs on it.
    pub fn running(&self) -> Running {
        self.shared.running()
    }

    /// Switches OTA on or off, as its web page does.
    pub fn set_ota_enabled(&self, enabled: bool) {
        self.shared.lock().ota_enabled = enabled;
        self.shared.changed.notify_one();
    }

    /// The label after the next flash; `None` = as the image states, else unchanged.
    pub fn set_version_after(&self, version: Option<String>) {
        self.shared.set_version_after(version);
    }

    /// Switches it off and on; takes effect once it is not busy, and wakes one that never returned.
    pub fn power_cycle(&self) {
        self.shared.lock().power_cycle = true;
        self.shared.changed.notify_one();
    }
}

/// Why a device restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// After an update, successful or not.
    Update,
    /// Somebody asked for it over HTTP.
    Request,
    /// The running image crashed.
    Crash,
    /// The power went.
    Power,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Request => "request",
            Self::Crash => "crash",
            Self::Power => "power",
        }
    }
}

/// What follows something that kept the device busy.
enum After {
    Idle,
    /// A connection that nobody answers until the device is back.
    Restart(Reason, Option<TcpStream>),
}

/// How a stretch of life between two restarts ended.
enum End {
    Restart(Reason, Option<TcpStream>),
    /// It is dead until its faults change.
    Off,
    /// It has another address from now on.
    Move(Ipv4Addr),
    /// It answers nothing until it returns or somebody switches it off and on.
    Vanish,
}

/// The web server's port while the device lives, or a socket that only keeps it: connections to that are refused.
enum Door {
    Open(TcpListener),
    Closed(#[expect(dead_code, reason = "held so that nobody else takes the port")] Socket),
}

async fn bind_all(config: &Config, count: usize) -> Result<Vec<(Ipv4Addr, UdpSocket, Socket)>> {
    let (mut ota_port, mut http_port) = (config.ota_port, config.http_port);
    let mut sockets = Vec::with_capacity(count);
    for i in 0..count {
        let address = nth_address(config.bind, i)?;
        let udp = UdpSocket::bind((address, ota_port))
            .await
            .with_context(|| format!("binding UDP {address}:{ota_port} for invitations"))?;
        let door = reserve(address, http_port)
            .with_context(|| format!("binding TCP {address}:{http_port} for the web server"))?;
        ota_port = udp.local_addr()?.port();
        http_port = port_of(&door)?;
        sockets.push((address, udp, door));
    }
    Ok(sockets)
}

/// Takes a TCP port without listening.
fn reserve(address: Ipv4Addr, port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    ota::narrow(&SockRef::from(&socket))?;
    socket.bind(&SocketAddr::from((address, port)).into())?;
    Ok(socket)
}

fn port_of(socket: &Socket) -> Result<u16> {
    Ok(socket
        .local_addr()?
        .as_socket()
        .context("a TCP socket without an address")?
        .port())
}

/// Listens on a reserved port, unless the device has no web server or is dead.
fn open(device: &Shared, socket: Socket) -> Result<Door> {
    if device.has(&Fault::NoStatusApi) || device.has(&Fault::Dead) {
        return Ok(Door::Closed(socket));
    }
    socket.listen(BACKLOG).context("listening for the web server")?;
    Ok(Door::Open(TcpListener::from_std(socket.into())?))
}

/// Closes the web server and takes its port again.
async fn close(device: &Shared, door: Door) -> Socket {
    drop(door);
    let (ip, port) = (device.ip(), device.http_port);
    loop {
        match reserve(ip, port) {
            Ok(socket) => return socket,
            Err(err) => tracing::warn!(%err, %ip, port, "web server's port is taken"),
        }
        sleep(REBIND_PAUSE).await;
    }
}

/// Both ports at another address, as soon as they can be had there.
async fn open_at(device: &Shared, ip: Ipv4Addr) -> (UdpSocket, Socket) {
    loop {
        let udp = UdpSocket::bind((ip, device.ota_port)).await;
        match udp.and_then(|udp| Ok((udp, reserve(ip, device.http_port)?))) {
            Ok(sockets) => return sockets,
            Err(err) => tracing::warn!(%err, %ip, "the new address cannot be taken"),
        }
        sleep(REBIND_PAUSE).await;
    }
}

async fn run(device: Arc<Shared>, mut udp: UdpSocket, mut door: Door) {
    let mut port = Port::Idle;
    loop {
        let end = live(&device, &udp, &door, port).await;
        let mut ip = device.ip();
        device.set_link(Link { up: false, ip });
        let mut socket = close(&device, door).await;
        let held = match end {
            End::Move(address) => {
                ip = address;
                (udp, socket) = open_at(&device, ip).await;
                None
            }
            End::Vanish => {
                absent(&device).await;
                device.restart();
                None
            }
            End::Off => {
                while device.has(&Fault::Dead) {
                    device.changed.notified().await;
                }
                device.restart();
                None
            }
            End::Restart(reason, held) => {
                device.emit(EventKind::Rebooting, vec![("reason", reason.as_str().into())]);
                device.restart();
                if device.stays_away() {
                    device.struck(&Fault::NeverReturns);
                    while !device.take_power_cycle() {
                        device.changed.notified().await;
                    }
                    device.restart();
                }
                sleep(device.config.boot).await;
                held
            }
        };
        // What arrived meanwhile reached nobody.
        let mut byte = [0];
        while udp.try_recv_from(&mut byte).is_ok() {}
        if let Some(stream) = held {
            ota::reset(&stream);
        }
        door = match open(&device, socket) {
            Ok(door) => door,
            Err(err) => {
                tracing::error!("simulated device {ip} cannot come back: {err:#}");
                return;
            }
        };
        port = Port::Idle;
        device.set_link(Link { up: true, ip });
        let running = device.running();
        let fields = vec![
            ("version", running.version.into()),
            ("uptime_s", running.uptime_s.into()),
            ("ip", ip.to_string().into()),
        ];
        device.emit(EventKind::Up, fields);
    }
}

/// Lasts as long as a device that vanished stays away.
async fn absent(device: &Shared) {
    let after = device.find(|fault| {
        if let Fault::Return(after) = fault {
            Some(*after)
        } else {
            None
        }
    });
    let returns = after.map(|after| Instant::now() + after);
    let switched = async {
        while !device.take_power_cycle() {
            device.changed.notified().await;
        }
    };
    // Both arms only wait.
    select! {
        () = until(returns) => {}
        () = switched => {}
    }
}

/// The sketch's loop: OTA port and web server by turns, until something restarts the device.
async fn live(device: &Shared, udp: &UdpSocket, door: &Door, mut port: Port) -> End {
    let crash_time = device.crash_time();
    let mut client: Option<(TcpStream, SocketAddr, tokio::time::Instant)> = None;
    let mut datagram = [0; ota::DATAGRAM_MAX_LEN];
    loop {
        if device.has(&Fault::Dead) {
            device.struck(&Fault::Dead);
            return End::Off;
        }
        if device.take_power_cycle() {
            return End::Restart(Reason::Power, None);
        }
        if let Some(command) = device.take_command() {
            if let After::Restart(reason, held) = pull::obey(device, &command).await {
                return End::Restart(reason, held);
            }
            continue;
        }
        let upheaval = device.upheaval();
        let upheaval_time = upheaval.as_ref().map(|(time, _)| *time);
        let silent = device.has(&Fault::Silent);
        // Dropping any of these futures loses nothing: they only wait until a socket is ready or a time has come.
        let after = select! {
            () = device.changed.notified() => After::Idle,
            () = until(upheaval_time) => match upheaval {
                Some((_, fault)) => return overturn(device, &fault),
                None => After::Idle,
            },
            () = until(crash_time) => After::Restart(Reason::Crash, None),
            // OTA switched off: datagrams queue up unread (PROTOCOLS.md E3).
            received = udp.recv_from(&mut datagram), if device.running().ota_enabled => match received {
                Ok((n, from)) if !silent && !device.loses_datagram() => {
                    match port.datagram(device, udp, &datagram[..n], from).await {
                        Some(invitation) => ota::fetch(device, invitation).await,
                        None => After::Idle,
                    }
                }
                // Lost, or the network says that an earlier answer reached nobody.
                _ => After::Idle,
            },
            (stream, peer) = accept(door), if client.is_none() => {
                client = Some((stream, peer, tokio::time::Instant::now() + http::CLIENT_TIMEOUT));
                After::Idle
            }
            ready = first_byte(client.as_ref()) => match client.take() {
                Some((stream, peer, _)) if ready => http::serve(device, stream, peer).await,
                _ => After::Idle,
            },
        };
        if let After::Restart(reason, held) = after {
            return End::Restart(reason, held);
        }
    }
}

/// What a fault does to the network, once.
fn overturn(device: &Shared, fault: &Fault) -> End {
    device.struck(fault);
    device.spend(fault);
    match fault {
        Fault::MoveTo(first, _) => {
            // Each device of several keeps its place.
            End::Move(Ipv4Addr::from_bits(first.to_bits().wrapping_add(device.place)))
        }
        _ => End::Vanish,
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => pending().await,
    }
}

async fn accept(door: &Door) -> (TcpStream, SocketAddr) {
    let Door::Open(listener) = door else {
        return pending().await;
    };
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // The client is gone already, or there are no file descriptors: the next one may fare better.
            Err(err) => tracing::debug!(%err, "connection not accepted"),
        }
        sleep(REBIND_PAUSE).await;
    }
}

/// True when the waiting client has sent something, false when it did not in time.
async fn first_byte(client: Option<&(TcpStream, SocketAddr, tokio::time::Instant)>) -> bool {
    match client {
        Some((stream, _, deadline)) => timeout_at(*deadline, stream.readable()).await.is_ok(),
        None => pending().await,
    }
}
