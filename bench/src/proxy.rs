//! A network between host and device that has a round trip and a receive window; on loopback, without root.
//!
//! The proxy stands at two addresses of its own: as the device towards the host, as the host towards the device.
//! Every datagram and every byte is handed on half a round trip after it came.
//! Towards the device at most `window` bytes are under way: the next ones are read from the host only when the
//! acknowledgement of earlier ones would have come back, a whole round trip after they were read.
//! The device's call-back costs the host one and a half round trips before it may send (SYN, SYN-ACK, ACK), so that
//! ../shared/PERFORMANCE.md's `3R + S/(W/R)` is what a perfect sender needs here.
//!
//! What is not modelled: loss, jitter, delayed acknowledgements, slow start (its first window is larger than the
//! device's), and a device that is slow to read (its window would close).
#![expect(
    clippy::disallowed_methods,
    reason = "this plays the network, which has sockets of its own"
)]

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use socket2::{Domain, Socket, Type};

/// Largest segment of the device, bytes (lwIP's `TCP_MSS` on an ESP32); a window of 5,744 bytes is four of them.
const SEGMENT: usize = 1436;
/// Acknowledgements that come this soon after one another count as one, lest the pieces become ever smaller. Taste.
const MERGE: Duration = Duration::from_millis(1);
/// Largest datagram handed on.
const DATAGRAM_MAX_LEN: usize = 2048;

/// Where the proxy stands and what it imitates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    /// Its address towards the host: the host takes it for the device's.
    pub(crate) as_device: Ipv4Addr,
    /// Its address towards the device: the device takes it for the host's.
    pub(crate) as_host: Ipv4Addr,
    /// Where the device takes invitations.
    pub(crate) device_ota: SocketAddr,
    /// Where the device's web server is.
    pub(crate) device_http: SocketAddr,
    /// From sending something to hearing of it.
    pub(crate) round_trip: Duration,
    /// The device's receive window, bytes.
    pub(crate) window: usize,
}

/// When what came by, at the host's end of the wire.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// The host's first invitation.
    pub(crate) invited: Option<Instant>,
    /// The host could send: the device's connection was made.
    pub(crate) connected: Option<Instant>,
    /// The device's last words reached the host.
    pub(crate) last_reply: Option<Instant>,
    /// All that the device said on its connection.
    pub(crate) reply: Vec<u8>,
    /// Bytes that the host sent on it.
    pub(crate) n_bytes: usize,
}

impl Record {
    /// From the first invitation to the final OK, both at the host; none unless the device said OK.
    pub(crate) fn transfer(&self) -> Option<Duration> {
        let said_ok = self.reply.ends_with(b"OK");
        let (invited, last_reply) = (self.invited?, self.last_reply?);
        said_ok.then(|| last_reply.duration_since(invited))
    }
}

/// The running proxy; dropping it ends it.
pub(crate) struct Proxy {
    /// UDP port for the host's invitations, at `as_device`.
    pub(crate) ota_port: u16,
    /// TCP port of the web server, at `as_device`.
    pub(crate) http_port: u16,
    shared: Arc<Shared>,
    udp: [(UdpSocket, SocketAddr); 2],
    doors: [SocketAddr; 2],
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    network: Network,
    stop: AtomicBool,
    record: Mutex<Record>,
    /// Where the host's last datagram came from.
    host: Mutex<Option<SocketAddr>>,
    /// The port in the host's last invitation.
    callback_port: Mutex<Option<u16>>,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }

    fn half(&self) -> Duration {
        self.network.round_trip / 2
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Stands up between host and device.
    pub(crate) fn start(network: Network) -> Result<Self> {
        let to_host = UdpSocket::bind((network.as_device, 0)).context("standing as the device (UDP)")?;
        let to_device = UdpSocket::bind((network.as_host, 0)).context("standing as the host (UDP)")?;
        let callback = narrow_listener(network.as_host, None).context("standing as the host (TCP)")?;
        let http = narrow_listener(network.as_device, Some(network.window))
            .context("standing as the device (TCP)")?;
        let shared = Arc::new(Shared {
            network,
            stop: AtomicBool::new(false),
            record: Mutex::default(),
            host: Mutex::new(None),
            callback_port: Mutex::new(None),
        });
        let udp = [
            (to_host.try_clone()?, to_host.local_addr()?),
            (to_device.try_clone()?, to_device.local_addr()?),
        ];
        let doors = [callback.local_addr()?, http.local_addr()?];
        let proxy_callback_port = doors[0].port();
        let mut threads = Vec::new();
        let (invitations, invitations_due) = channel();
        let (answers, answers_due) = channel();
        threads.push(spawn({
            let (shared, to_host) = (Arc::clone(&shared), to_host.try_clone()?);
            move || hear_host(&shared, &to_host, proxy_callback_port, &invitations)
        }));
        threads.push(spawn({
            let to_device = to_device.try_clone()?;
            move || {
                for (due, datagram) in invitations_due {
                    sleep_until(due);
                    // A datagram that cannot be sent is a lost one.
                    let _ = to_device.send_to(&datagram, network.device_ota);
                }
            }
        }));
        threads.push(spawn({
            let shared = Arc::clone(&shared);
            move || hear_device(&shared, &to_device, &answers)
        }));
        threads.push(spawn({
            let shared = Arc::clone(&shared);
            move || {
                for (due, datagram) in answers_due {
                    sleep_until(due);
                    let host = *lock(&shared.host);
                    if let Some(host) = host {
                        let _ = to_host.send_to(&datagram, host);
                    }
                }
            }
        }));
        threads.push(spawn({
            let shared = Arc::clone(&shared);
            move || accept(&shared, &callback, call_back)
        }));
        threads.push(spawn({
            let shared = Arc::clone(&shared);
            move || accept(&shared, &http, pass_web)
        }));
        Ok(Self {
            ota_port: udp[0].1.port(),
            http_port: doors[1].port(),
            shared,
            udp,
            doors,
            threads,
        })
    }

    /// What came by so far.
    pub(crate) fn record(&self) -> Record {
        self.shared.record().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes whoever waits for a datagram or a connection; where nobody does, nothing is lost.
        for (socket, own) in &self.udp {
            let _ = socket.send_to(b"", own);
        }
        for door in self.doors {
            let _ = TcpStream::connect(door);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Hands the host's datagrams on, with the port of an invitation replaced by ours.
fn hear_host(
    shared: &Shared,
    socket: &UdpSocket,
    proxy_callback_port: u16,
    out: &Sender<(Instant, Vec<u8>)>,
) {
    let mut datagram = [0; DATAGRAM_MAX_LEN];
    while let Ok((n, from)) = socket.recv_from(&mut datagram) {
        let now = Instant::now();
        if shared.stops() {
            return;
        }
        *lock(&shared.host) = Some(from);
        let mut bytes = datagram[..n].to_vec();
        if let Some((port, rewritten)) = rewritten(&bytes, proxy_callback_port) {
            *lock(&shared.callback_port) = Some(port);
            shared.record().invited.get_or_insert(now);
            bytes = rewritten;
        }
        if out.send((now + shared.half(), bytes)).is_err() {
            return;
        }
    }
}

fn hear_device(shared: &Shared, socket: &UdpSocket, out: &Sender<(Instant, Vec<u8>)>) {
    let mut datagram = [0; DATAGRAM_MAX_LEN];
    while let Ok((n, _)) = socket.recv_from(&mut datagram) {
        if shared.stops()
            || out
                .send((Instant::now() + shared.half(), datagram[..n].to_vec()))
                .is_err()
        {
            return;
        }
    }
}

/// The host's port in an invitation (`0 <port> <length> <md5>`), and the invitation with ours instead.
fn rewritten(datagram: &[u8], port: u16) -> Option<(u16, Vec<u8>)> {
    let text = std::str::from_utf8(datagram).ok()?;
    let mut words = text.split(' ');
    let (command, host_port) = (words.next()?, words.next()?.parse().ok()?);
    if command != "0" {
        return None;
    }
    let rest: Vec<&str> = words.collect();
    Some((
        host_port,
        format!("{command} {port} {}", rest.join(" ")).into_bytes(),
    ))
}

/// Gives each connection a thread of its own, which ends with the connection.
fn accept(
    shared: &Arc<Shared>,
    listener: &TcpListener,
    serve: fn(&Arc<Shared>, TcpStream) -> io::Result<()>,
) {
    let mut connections = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        if shared.stops() {
            break;
        }
        let shared = Arc::clone(shared);
        // A connection that fails is seen by both its ends.
        connections.push(spawn(move || drop(serve(&shared, stream))));
    }
    for connection in connections {
        let _ = connection.join();
    }
}

/// The device has connected to us: we connect to the host, when the device's connection would be made there.
fn call_back(shared: &Arc<Shared>, device: TcpStream) -> io::Result<()> {
    device.set_nodelay(true)?;
    sleep_until(Instant::now() + shared.half() * 3);
    let (Some(host), Some(port)) = (*lock(&shared.host), *lock(&shared.callback_port)) else {
        return Err(io::ErrorKind::NotConnected.into());
    };
    let network = shared.network;
    let host = narrow_connect(
        network.as_device,
        SocketAddr::new(host.ip(), port),
        network.window,
    )?;
    shared.record().connected = Some(Instant::now());
    let there = spawn({
        let (from, to) = (host.try_clone()?, device.try_clone()?);
        let (shared, half) = (Arc::clone(shared), shared.half());
        move || {
            carry(from, to, half, Some(network.window), move |bytes| {
                shared.record().n_bytes += bytes.len();
            });
        }
    });
    carry(device, host, shared.half(), None, {
        let shared = Arc::clone(shared);
        move |bytes| {
            let mut record = shared.record();
            record.last_reply = Some(Instant::now());
            record.reply.extend_from_slice(bytes);
        }
    });
    let _ = there.join();
    Ok(())
}

/// The host has connected to the device's web server.
fn pass_web(shared: &Arc<Shared>, host: TcpStream) -> io::Result<()> {
    host.set_nodelay(true)?;
    let device = TcpStream::connect(shared.network.device_http)?;
    device.set_nodelay(true)?;
    // SYN and SYN-ACK: the host's request leaves a round trip later than the kernel let it.
    sleep_until(Instant::now() + shared.half() * 2);
    let there = spawn({
        let (from, to) = (host.try_clone()?, device.try_clone()?);
        let (half, window) = (shared.half(), shared.network.window);
        move || carry(from, to, half, Some(window), |_| {})
    });
    carry(device, host, shared.half(), None, |_| {});
    let _ = there.join();
    Ok(())
}

/// Carries what comes `from` one end `to` the other, each byte `half` a round trip later, with at most `window` bytes
/// unacknowledged. `arrived` is told what was handed over. Ends when `from` ends or either connection breaks.
pub(crate) fn carry(
    from: TcpStream,
    to: TcpStream,
    half: Duration,
    window: Option<usize>,
    mut arrived: impl FnMut(&[u8]) + Send + 'static,
) {
    let (bytes, bytes_due) = channel::<(Instant, Vec<u8>)>();
    let (acks, acks_due) = channel();
    let writer = spawn(move || {
        let mut to = to;
        for (due, bytes) in bytes_due {
            sleep_until(due);
            let begun = Instant::now();
            if bytes.is_empty() {
                // The end of the other side's bytes; an error means that this side is gone as well.
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            if to.write_all(&bytes).is_err() {
                return;
            }
            // The time that this thread came late is not the network's; the time that the peer took is.
            let read = due + begun.elapsed();
            arrived(&bytes);
            if acks.send((read + half, bytes.len())).is_err() {
                return;
            }
        }
    });
    read_in_window(from, half, window, &bytes, &acks_due);
    drop(bytes);
    let _ = writer.join();
}

fn read_in_window(
    mut from: TcpStream,
    half: Duration,
    window: Option<usize>,
    bytes: &Sender<(Instant, Vec<u8>)>,
    acks_due: &Receiver<(Instant, usize)>,
) {
    let mut free = window.unwrap_or(usize::MAX);
    let mut next_ack: Option<(Instant, usize)> = None;
    let mut segment = [0; SEGMENT];
    loop {
        while free < SEGMENT {
            let ack = match next_ack.take() {
                Some(ack) => ack,
                None if free == 0 => match acks_due.recv() {
                    Ok(ack) => ack,
                    Err(_) => return,
                },
                None => match acks_due.try_recv() {
                    Ok(ack) => ack,
                    Err(_) => break,
                },
            };
            if free > 0 && ack.0 > Instant::now() + MERGE {
                next_ack = Some(ack);
                break;
            }
            sleep_until(ack.0);
            free += ack.1;
        }
        let n = from.read(&mut segment[..free.min(SEGMENT)]).unwrap_or(0);
        // An empty piece says that nothing more comes.
        if bytes
            .send((Instant::now() + half, segment[..n].to_vec()))
            .is_err()
            || n == 0
        {
            return;
        }
        if window.is_some() {
            free -= n;
        }
    }
}

/// A listener whose connections take no more from the host than a device would.
fn narrow_listener(address: Ipv4Addr, window: Option<usize>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if let Some(window) = window {
        narrow(&socket, window)?;
    }
    socket.bind(&SocketAddr::from((address, 0)).into())?;
    socket.listen(16)?;
    Ok(socket.into())
}

fn narrow_connect(own: Ipv4Addr, peer: SocketAddr, window: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    narrow(&socket, window)?;
    socket.bind(&SocketAddr::new(IpAddr::V4(own), 0).into())?;
    socket.connect(&peer.into())?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// So that the host's kernel cannot put more than about a window here that was not yet read (the kernel doubles the size
/// for its own books).
fn narrow(socket: &Socket, window: usize) -> io::Result<()> {
    socket.set_recv_buffer_size(window)?;
    socket.set_tcp_mss(u32::try_from(SEGMENT).unwrap_or(u32::MAX))
}

fn sleep_until(due: Instant) {
    sleep(due.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_an_invitation_is_replaced_and_everything_else_kept() {
        let (port, datagram) = rewritten(b"0 45678 3000 48d1\n", 7).unwrap();
        assert_eq!((port, &datagram[..]), (45678, &b"0 7 3000 48d1\n"[..]));
        for other in [
            &b"200 abc def\n"[..],
            b"200 45678 3000\n",
            b"",
            b"0",
            b"0 x 1 2\n",
            b"\xFF\xFE",
        ] {
            assert_eq!(rewritten(other, 7), None);
        }
    }

    #[test]
    fn a_transfer_without_ok_has_no_time() {
        let now = Instant::now();
        let record = |reply: &[u8]| Record {
            invited: Some(now),
            last_reply: Some(now + Duration::from_secs(1)),
            reply: reply.to_vec(),
            ..Record::default()
        };
        assert_eq!(record(b"1024OK").transfer(), Some(Duration::from_secs(1)));
        assert_eq!(record(b"1024").transfer(), None);
    }
}
