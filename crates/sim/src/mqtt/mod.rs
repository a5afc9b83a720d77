//! A client that behaves as `PubSubClient` in a sketch does: a clean session, and nothing that it says is acknowledged.

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

use self::packet::Heard;
pub(crate) use self::packet::{Message, Will};

/// Keep-alive, seconds (`PubSubClient.h`: `MQTT_KEEPALIVE`).
const KEEP_ALIVE_S: u16 = 15;
/// How long a broker may take to answer (`PubSubClient.h`: `MQTT_SOCKET_TIMEOUT`).
const SOCKET_TIMEOUT: Duration = Duration::from_secs(15);
/// Silence after which the broker is asked whether it lives, and after which the connection is given up.
pub(crate) const PING_AFTER: Duration = Duration::from_secs(15);
/// Longest packet that is looked at, bytes; longer ones are dropped, as `PubSubClient` does.
/// Guess: what a sketch would give to `setBufferSize` for the commands of PROTOCOLS.md E5.
const PACKET_MAX_LEN: usize = 2048;

/// A connection to a broker.
pub(crate) struct Client {
    stream: TcpStream,
    /// What came and was not looked at yet.
    read: Vec<u8>,
    /// Bytes of a packet that is too long that are still to come.
    n_skipped: usize,
}

impl Client {
    /// Connects from `own`, where the broker can be reached from there.
    ///
    /// # Errors
    /// When the broker cannot be reached or does not let the client in.
    pub(crate) async fn connect(
        own: Ipv4Addr,
        broker: &str,
        client_id: &str,
        will: Option<Will<'_>>,
    ) -> Result<Self> {
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
                .write_all(&packet::connect(client_id, KEEP_ALIVE_S, will))
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
        Ok(Self {
            stream,
            read: Vec::new(),
            n_skipped: 0,
        })
    }

    /// Publishes; nobody acknowledges.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &[u8], retained: bool) -> Result<()> {
        self.send(&packet::publish(topic, payload, retained)).await
    }

    /// Listens to a topic.
    pub(crate) async fn subscribe(&mut self, topic: &str) -> Result<()> {
        self.send(&packet::subscribe(topic)).await
    }

    /// Asks the broker whether it lives.
    pub(crate) async fn ping(&mut self) -> Result<()> {
        self.send(&packet::PING).await
    }

    /// Acknowledges a message.
    pub(crate) async fn acknowledge(&mut self, packet_id: u16) -> Result<()> {
        self.send(&packet::acknowledge(packet_id)).await
    }

    /// The next thing that the broker says, which may be no message; to drop this future loses nothing.
    ///
    /// # Errors
    /// When the broker closed the connection, or talks nonsense.
    pub(crate) async fn hear(&mut self) -> Result<Option<Message>> {
        loop {
            let n_dropped = self.n_skipped.min(self.read.len());
            self.n_skipped -= n_dropped;
            self.read.drain(..n_dropped);
            if let Some((heard, len)) = packet::first_packet(&self.read, PACKET_MAX_LEN) {
                self.read.drain(..len);
                match heard {
                    Heard::Message(message) => return Ok(Some(message)),
                    Heard::Answer => return Ok(None),
                    Heard::TooLong(len) => {
                        self.n_skipped = len;
                        continue;
                    }
                    Heard::Nonsense => bail!("the broker talks nonsense"),
                }
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                bail!("the broker closed the connection");
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        timeout(SOCKET_TIMEOUT, self.stream.write_all(bytes)).await??;
        Ok(())
    }
}
