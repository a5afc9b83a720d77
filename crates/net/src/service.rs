use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::resolve;

/// How long one address of a service may take. Guess: as long as a device may take to connect, twice.
const CONNECT_WAIT: Duration = Duration::from_secs(4);

/// A connection to a service that the owner of this program named, as an MQTT broker; never one to a device, which goes
/// through a [`crate::Dialer`]: no network is closed to it.
///
/// All addresses of the host are tried in turn; a name under `.local` is asked for by multicast DNS.
pub async fn connect_service(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = resolve(host).await.map_err(io::Error::other)?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match tokio::time::timeout(CONNECT_WAIT, TcpStream::connect(SocketAddr::new(address, port))).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}
