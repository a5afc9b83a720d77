//! A publisher that behaves as `PubSubClient` in a sketch does: quality of service 0, clean session, no last will.

mod packet;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, lookup_host},
    time::timeout,
};

/// Keep-alive, seconds (`PubSubClient.h`: `MQTT_KEEPALIVE`).
const KEEP_ALIVE_S: u16 = 15;
/// How long a broker may take to answer (`PubSubClient.h`: `MQTT_SOCKET_TIMEOUT`).
const SOCKET_TIMEOUT: Duration = Duration::from_secs(15);
/// Silence after which the broker is asked whether it lives, and after which the connection is given up.
const PING_AFTER: Duration = Duration::from_secs(15);

/// A connection to a broker.
pub(crate) struct Publisher {
    stream: TcpStream,
}

impl Publisher {
    /// Connects from `own`, where the broker can be reached from there.
    ///
    /// # Errors
    /// When the broker cannot be reached or does not let the client in.
    pub(crate) async fn connect(own: Ipv4Addr, broker: &str, client_id: &str) -> Result<Self> {
        let address = lookup_host(broker)
            .await
            .with_context(|| format!("looking up {broker}"))?
            .find(SocketAddr::is_ipv4)
            .with_context(|| format!("{broker} has no IPv4 address"))?;
        let connecting = async {
            let socket = TcpSocket::new_v4()?;
            if own.is_loopback() == address.ip().is_loopback() {
                socket.bind(SocketAddr::from((own, 0)))?;
            }
            let mut stream = socket.connect(address).await?;
            stream.set_nodelay(true)?;
            stream
                .write_all(&packet::connect(client_id, KEEP_ALIVE_S))
                .await?;
            let mut connack = [0; packet::CONNACK_LEN];
            stream.read_exact(&mut connack).await?;
            io::Result::Ok((stream, connack))
        };
        let (stream, connack) = timeout(SOCKET_TIMEOUT, connecting)
            .await
            .with_context(|| format!("{broker} does not answer"))?
            .with_context(|| format!("connecting to {broker}"))?;
        if !packet::is_welcome(connack) {
            bail!("{broker} refuses {client_id}: code {}", connack[3]);
        }
        Ok(Self { stream })
    }

    /// Publishes; nobody acknowledges.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &[u8], retained: bool) -> Result<()> {
        let bytes = packet::publish(topic, payload, retained);
        timeout(SOCKET_TIMEOUT, self.stream.write_all(&bytes)).await??;
        Ok(())
    }

    /// Keeps the connection alive for so long, or until it ends.
    pub(crate) async fn keep(&mut self, for_so_long: Duration) -> Result<()> {
        let end = tokio::time::Instant::now() + for_so_long;
        let mut asked = false;
        let mut bytes = [0; 256];
        loop {
            let now = tokio::time::Instant::now();
            let pause = end.saturating_duration_since(now);
            if pause.is_zero() {
                return Ok(());
            }
            match timeout(pause.min(PING_AFTER), self.stream.read(&mut bytes)).await {
                // Nothing was subscribed to, so that only answers to pings come.
                Ok(Ok(1..)) => asked = false,
                Ok(Ok(0)) => bail!("the broker closed the connection"),
                Ok(Err(err)) => return Err(err.into()),
                Err(_) if pause <= PING_AFTER => {}
                Err(_) if asked => bail!("the broker is silent"),
                Err(_) => {
                    timeout(SOCKET_TIMEOUT, self.stream.write_all(&packet::PING)).await??;
                    asked = true;
                }
            }
        }
    }
}
