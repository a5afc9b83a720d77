//! Small devices made of plain threads and blocking sockets, so that nothing of ours tests itself.
#![allow(dead_code, reason = "each test binary uses its share")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use net::{Dialer, Networks};
use socket2::{Domain, SockRef, Socket, Type};

pub(crate) mod mosquitto;

pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// For what must happen: generous, because the machine is shared.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn loopback_dialer() -> Dialer {
    Dialer::new(Networks::new(["127.0.0.0/8".parse().unwrap()]), None)
}

/// A listener on a free port; `receive_buffer` makes the window of a small device.
pub(crate) fn listener(receive_buffer: Option<usize>) -> (std::net::TcpListener, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    if let Some(len_bytes) = receive_buffer {
        socket.set_recv_buffer_size(len_bytes).unwrap();
    }
    socket.bind(&SocketAddr::new(LOOPBACK, 0).into()).unwrap();
    socket.listen(16).unwrap();
    let listener = std::net::TcpListener::from(socket);
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// A port that refuses: bound, so that no other test gets it, and nobody listens.
pub(crate) fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(LOOPBACK, 0).into()).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, addr)
}

/// Serves one connection on a thread.
pub(crate) fn serve<T: Send + 'static>(
    receive_buffer: Option<usize>,
    behave: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let (listener, addr) = listener(receive_buffer);
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        behave(stream)
    });
    (addr, thread)
}

/// A connection from this source address.
pub(crate) fn connect_from(source: Ipv4Addr, peer: SocketAddr) -> TcpStream {
    try_connect_from(source, peer).unwrap()
}

/// The same, for those who may be reset before they notice that they were connected.
pub(crate) fn try_connect_from(source: Ipv4Addr, peer: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source.into(), 0).into()).unwrap();
    socket.connect_timeout(&peer.into(), SOON)?;
    Ok(socket.into())
}

/// Closes with a reset.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Reads the head of a request, one byte at a time so that nothing of the body is taken.
pub(crate) fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

pub(crate) fn content_length(head: &str) -> usize {
    let line = head
        .lines()
        .find(|line| line.starts_with("Content-Length: "))
        .expect("a Content-Length");
    line["Content-Length: ".len()..].parse().unwrap()
}

/// Reads a request: head and body.
pub(crate) fn read_request(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let head = read_head(stream);
    let has_body = head.contains("Content-Length: ");
    let mut body = vec![0; if has_body { content_length(&head) } else { 0 }];
    stream.read_exact(&mut body).unwrap();
    (head, body)
}

/// Writes until the peer has had enough.
pub(crate) fn write_until_refused(stream: &mut TcpStream, piece: &[u8]) {
    let since = Instant::now();
    while since.elapsed() < SOON && stream.write_all(piece).is_ok() {}
}

/// Waits on a thread until this holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < SOON, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
