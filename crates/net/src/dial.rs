use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::Networks;

/// Opens connections to devices, and to nothing outside its networks.
#[derive(Clone, Debug)]
pub struct Dialer {
    networks: Networks,
    bind: Option<IpAddr>,
}

/// How a TCP connection is to be set up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// Size of the send buffer, bytes; none = as the system has it. See [`crate::SEND_BUFFER_LEN_BYTES`].
    pub send_buffer: Option<usize>,
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The address is outside the networks; nothing was sent.
    #[error("{addr} is outside the networks that may be reached")]
    NotAllowed {
        /// The address asked for.
        addr: IpAddr,
    },
    /// The host is up and nothing listens there.
    #[error("{addr} refused the connection")]
    Refused {
        /// The peer.
        addr: SocketAddr,
    },
    /// Nobody answered in time.
    #[error("{addr} did not answer within {} ms", after.as_millis())]
    TimedOut {
        /// The peer.
        addr: SocketAddr,
        /// How long was waited.
        after: Duration,
    },
    /// The network says that nobody is there.
    #[error("{addr} cannot be reached")]
    Unreachable {
        /// The peer.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// This machine could not send from the address it was told to.
    #[error("sending from {bind} to {addr}")]
    Bind {
        /// The configured source address.
        bind: IpAddr,
        /// The peer.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else.
    #[error("connecting to {addr}")]
    Io {
        /// The peer.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

impl Dialer {
    /// A dialer for these networks; `bind` is the source address, where the system's choice is not the right one.
    pub fn new(networks: Networks, bind: Option<IpAddr>) -> Self {
        Self { networks, bind }
    }

    /// Whether this address may be reached; asking opens nothing.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.networks.contains(address)
    }

    /// Whether every address of this network may be reached, but for those that name no single host.
    pub fn allows_all(&self, network: &ipnet::IpNet) -> bool {
        self.networks.holds(network)
    }

    /// A TCP connection without Nagle's delay. Dropping the future closes the socket.
    pub async fn tcp(
        &self,
        peer: SocketAddr,
        options: TcpOptions,
        timeout: Duration,
    ) -> Result<TcpStream, DialError> {
        let peer = self.allowed(peer)?;
        let io_error = |source| DialError::Io { addr: peer, source };
        let socket = if peer.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }
        .map_err(io_error)?;
        if let Some(len_bytes) = options.send_buffer {
            socket
                .set_send_buffer_size(u32::try_from(len_bytes).unwrap_or(u32::MAX))
                .map_err(io_error)?;
        }
        socket.set_nodelay(true).map_err(io_error)?;
        if let Some(bind) = self.bind {
            socket
                .bind(SocketAddr::new(bind, 0))
                .map_err(|source| DialError::Bind {
                    bind,
                    addr: peer,
                    source,
                })?;
        }
        match tokio::time::timeout(timeout, socket.connect(peer)).await {
            Ok(connected) => connected.map_err(|source| DialError::of(peer, timeout, source)),
            Err(_) => Err(DialError::TimedOut {
                addr: peer,
                after: timeout,
            }),
        }
    }

    /// A UDP socket that talks to this one peer and hears nobody else.
    pub async fn udp(&self, peer: SocketAddr) -> Result<UdpSocket, DialError> {
        let peer = self.allowed(peer)?;
        let any = if peer.is_ipv4() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        } else {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        };
        let bind = self.bind.unwrap_or(any);
        let socket = UdpSocket::bind(SocketAddr::new(bind, 0))
            .await
            .map_err(|source| DialError::Bind {
                bind,
                addr: peer,
                source,
            })?;
        socket
            .connect(peer)
            .await
            .map_err(|source| DialError::of(peer, Duration::ZERO, source))?;
        Ok(socket)
    }

    /// The peer in its plain spelling, so that what was checked is what is connected to.
    fn allowed(&self, peer: SocketAddr) -> Result<SocketAddr, DialError> {
        let addr = peer.ip().to_canonical();
        if !self.networks.contains(addr) {
            return Err(DialError::NotAllowed { addr });
        }
        // An IPv6 peer is kept whole: its scope says on which link it is.
        Ok(if addr == peer.ip() {
            peer
        } else {
            SocketAddr::new(addr, peer.port())
        })
    }
}

impl DialError {
    fn of(addr: SocketAddr, after: Duration, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused { addr },
            io::ErrorKind::TimedOut => Self::TimedOut { addr, after },
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => Self::Unreachable { addr, source },
            _ => Self::Io { addr, source },
        }
    }
}
