use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::{DialError, Dialer, TcpOptions};

/// How long a port-unreachable message may take to come back. Guess: three times a round trip with modem sleep.
const UDP_WAIT: Duration = Duration::from_millis(300);

/// How long a host may take to refuse a connection. Guess: ARP and a first retransmission fit into it.
const TCP_WAIT: Duration = Duration::from_secs(1);

/// What can be told of a device that has no status interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The host is up, and its UDP port is not closed.
    Listening,
    /// The host is up, and says that nothing listens on its UDP port.
    NotListening,
    /// No sign of the host.
    Gone,
}

/// Looks whether a host is up and whether its UDP port is open, in about a second.
///
/// An empty datagram shows a closed port (it leaves a waiting `ArduinoOTA` as it is, ../shared/PROTOCOLS.md B1a), and
/// an attempt to connect to the TCP port of the same number shows the host: it refuses, or else it is gone.
/// An error is a failure of this machine and says nothing about the device.
pub async fn present(dialer: &Dialer, peer: SocketAddr) -> Result<Presence, DialError> {
    let (port_closed, host_up) = tokio::join!(port_closed(dialer, peer), host_up(dialer, peer));
    Ok(match (port_closed?, host_up?) {
        (true, _) => Presence::NotListening,
        (false, true) => Presence::Listening,
        (false, false) => Presence::Gone,
    })
}

async fn port_closed(dialer: &Dialer, peer: SocketAddr) -> Result<bool, DialError> {
    let socket = dialer.udp(peer).await?;
    let exchange = async {
        socket.send(&[]).await?;
        socket.recv(&mut [0; 64]).await
    };
    Ok(match tokio::time::timeout(UDP_WAIT, exchange).await {
        Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        // An answer, or silence, which is how an open port takes an empty datagram.
        Ok(Ok(_)) | Err(_) => false,
    })
}

async fn host_up(dialer: &Dialer, peer: SocketAddr) -> Result<bool, DialError> {
    match dialer.tcp(peer, TcpOptions::default(), TCP_WAIT).await {
        Ok(stream) => {
            let _ = stream.set_zero_linger();
            Ok(true)
        }
        Err(DialError::Refused { .. }) => Ok(true),
        Err(DialError::TimedOut { .. }) => Ok(false),
        // Without a route we see nothing, which is not the same as nobody being there.
        Err(DialError::Unreachable { source, .. }) if source.kind() == io::ErrorKind::HostUnreachable => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
