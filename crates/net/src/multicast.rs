use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use mdns_sd::{IfKind, ServiceDaemon};
use socket2::{Domain, Protocol, Socket, Type};

/// The port of multicast DNS (RFC 6762 section 3).
const PORT: u16 = 5353;

/// How multicast DNS is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Multicast {
    /// The UDP port; 5353 everywhere but in tests.
    pub port: u16,
    /// The only interface to use, by name; none: all that there are, and those that come.
    pub interface: Option<String>,
}

impl Default for Multicast {
    fn default() -> Self {
        Self {
            port: PORT,
            interface: None,
        }
    }
}

/// Why multicast DNS cannot be spoken on this machine.
#[derive(Debug, thiserror::Error)]
pub enum MulticastError {
    /// The port cannot be had, even shared.
    #[error("opening UDP port {port} for multicast DNS")]
    Port {
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The thread could not be started or told what to do.
    #[error("starting multicast DNS")]
    Start(#[source] Box<mdns_sd::Error>),
}

/// A thread with sockets of its own that speaks multicast DNS; it ends when this is dropped.
///
/// It notices interfaces that come and go within 5 s.
pub struct MulticastDns(ServiceDaemon);

impl MulticastDns {
    /// Starts it. Where nothing can be sent now, because no interface is up, it waits for one.
    pub fn open(multicast: &Multicast) -> Result<Self, MulticastError> {
        // The thread would go on without a socket, and tell nobody.
        try_port(multicast.port).map_err(|source| MulticastError::Port {
            port: multicast.port,
            source,
        })?;
        let start = |error| MulticastError::Start(Box::new(error));
        let opened = Self(ServiceDaemon::new_with_port(multicast.port).map_err(start)?);
        if let Some(name) = &multicast.interface {
            opened.0.disable_interface(IfKind::All).map_err(start)?;
            opened.0.enable_interface(name.as_str()).map_err(start)?;
        }
        Ok(opened)
    }

    /// What it can be asked with.
    pub fn daemon(&self) -> &ServiceDaemon {
        &self.0
    }
}

impl Drop for MulticastDns {
    fn drop(&mut self) {
        // Its queue of commands may be full for a moment; any other failure means that the thread is gone already.
        for _ in 0..50 {
            match self.0.shutdown() {
                Err(mdns_sd::Error::Again) => std::thread::sleep(Duration::from_millis(1)),
                _ => return,
            }
        }
    }
}

/// Whether the port can be shared with others who speak multicast DNS.
fn try_port(port: u16) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port).into())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_port_that_somebody_keeps_for_himself_is_an_error() {
        let taken = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let multicast = Multicast {
            port: taken.local_addr().unwrap().port(),
            interface: Some("lo".to_owned()),
        };
        let error = MulticastDns::open(&multicast).err();
        assert!(matches!(error, Some(MulticastError::Port { .. })), "{error:?}");
    }
}
