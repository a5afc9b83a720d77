use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::queue;

/// A TCP connection that knows how much of what it was given has arrived.
///
/// All methods take `&self`, so that one task can send, receive and look at the counters without splitting it;
/// one sender and one receiver at a time. It has no way to half-close: `ArduinoOTA` gives up on a socket whose other
/// side was shut (../shared/PROTOCOLS.md B1a). Dropping it closes; [`Outgoing::reset_on_drop`] makes that a reset.
#[derive(Debug)]
pub struct Outgoing {
    stream: TcpStream,
    handed: AtomicU64,
    acked: AtomicU64,
}

impl Outgoing {
    /// Counts from here on: the stream must not have sent anything yet.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            handed: AtomicU64::new(0),
            acked: AtomicU64::new(0),
        }
    }

    /// The peer's address.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// Bytes that the system took; some may still wait here.
    pub fn handed(&self) -> u64 {
        self.handed.load(Ordering::Relaxed)
    }

    /// Bytes that the peer's TCP has acknowledged; never goes back.
    ///
    /// Within one receive window of what the device has read. Where the system does not tell (not Linux), the bytes
    /// handed over.
    pub fn acked(&self) -> u64 {
        // Read before the queue: a write in between then makes the result too small, never too large.
        let handed = self.handed();
        let unacknowledged = queue::unacknowledged(&self.stream).unwrap_or(0);
        let acked = handed.saturating_sub(unacknowledged);
        self.acked.fetch_max(acked, Ordering::Relaxed).max(acked)
    }

    /// Sends some of these bytes and says how many. Safe to drop: nothing is sent unless this returns.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_write(cx, bytes)).await
    }

    /// Sends all of these bytes. Dropping the future in between leaves a part sent; [`Outgoing::handed`] says how much.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n_bytes = self.write(bytes).await?;
            bytes = &bytes[n_bytes..];
        }
        Ok(())
    }

    /// Sends what fits without waiting; [`io::ErrorKind::WouldBlock`] if nothing does.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.count(self.stream.try_write(bytes))
    }

    /// Waits until something of `interest` is possible. Safe to drop.
    pub async fn ready(&self, interest: Interest) -> io::Result<()> {
        self.stream.ready(interest).await.map(|_| ())
    }

    /// From how many received bytes on [`Outgoing::ready`] tells of them; the end of the stream it always tells. 1 at first.
    ///
    /// What is below is not lost, only not looked at: whoever sets it sets it back as soon as each byte matters.
    pub fn readable_from(&self, n_bytes: u16) {
        queue::readable_from(&self.stream, n_bytes);
    }

    /// Receives what is there without waiting; 0 is the end of file, [`io::ErrorKind::WouldBlock`] nothing yet.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.try_read(buffer)
    }

    /// Receives some bytes; 0 is the end of file. Safe to drop: nothing is received unless this returns.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_read(cx, buffer)).await
    }

    /// Makes the drop of this connection a reset: what still waits here is then thrown away and never sent.
    pub fn reset_on_drop(&self) {
        // A failure means that the connection is gone already, and then there is nothing to reset.
        let _ = self.stream.set_zero_linger();
    }

    /// Makes the drop of this connection a usual end again.
    pub fn close_on_drop(&self) {
        // As above.
        let _ = socket2::SockRef::from(&self.stream).set_linger(None);
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    pub(crate) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(self.count(result)),
            }
        }
    }

    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn count(&self, written: io::Result<usize>) -> io::Result<usize> {
        if let Ok(n_bytes) = written {
            self.handed.fetch_add(n_bytes as u64, Ordering::Relaxed);
        }
        written
    }
}
