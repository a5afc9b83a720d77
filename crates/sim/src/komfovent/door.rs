//! A port that is the unit's even while nothing listens on it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

/// Segments as on the wire of a real unit, bytes (capture of an upload).
const MSS: u32 = 1470;
/// Connections waiting to be accepted.
const BACKLOG: i32 = 16;

/// A reserved port.
///
/// The reservation is a bound socket that never listens: connections are refused, and no other program is given the port
/// while the unit restarts.
pub(super) struct Door {
    _reservation: Socket,
    address: SocketAddr,
}

/// Bytes that may have arrived without the unit having read them.
///
/// Not the smallest that the kernel gives: with 2,304 bytes loopback falls into window probes with ever longer pauses as soon
/// as the machine is loaded, and uploads break off that no unit would have broken off (bench/RESULTS.md).
const RECEIVE_BUFFER_LEN: usize = 8 * 1024;

impl Door {
    /// Takes `port`, or a free one for 0.
    pub(super) fn reserve(ip: Ipv4Addr, port: u16) -> io::Result<Self> {
        let reservation = bound(SocketAddr::from((ip, port)))?;
        let address = reservation
            .local_addr()?
            .as_socket()
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self {
            _reservation: reservation,
            address,
        })
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Listens, with a small window, so that a sender cannot run far ahead of the unit.
    pub(super) fn open(&self) -> io::Result<TcpListener> {
        let socket = bound(self.address)?;
        // Accepted connections inherit both.
        socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN)?;
        socket.set_tcp_mss(MSS)?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    }
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // Both this and the reservation need it to share the port; Linux lets them as long as the other does not listen.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
