use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use model::family::Reach;
use model::progress::{Progress, PushPhase};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::wire::{Broken, Watch, Wire};
use super::{AskError, Head, Reply, Seen, failure, send};
use crate::{DialError, Dialer, Outgoing, SEND_BUFFER_LEN_BYTES, TcpOptions};

/// Handed to the system at a time, bytes. The last such piece cannot be cancelled, so it is small.
const CHUNK_LEN: usize = 8 * 1024;

/// How often progress is stored, and a cancel or a stall noticed.
const TICK: Duration = Duration::from_millis(50);

/// An image on its way to a device, as one `POST`.
#[derive(Clone, Debug)]
pub struct Upload<'a> {
    /// The `Host` header.
    pub host: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Kind of the body: `multipart/form-data; boundary=…`.
    pub content_type: &'a str,
    /// More headers: name and value.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body before the image.
    pub head: Bytes,
    /// The image, shared and never copied.
    pub image: Arc<[u8]>,
    /// The body after the image.
    pub tail: Bytes,
}

/// How long an upload may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadLimits {
    /// To connect.
    pub connect: Duration,
    /// Without the device acknowledging a byte.
    pub stall: Duration,
    /// From the acknowledgement of the last byte, or from an early status, to the end of the reply.
    pub reply: Duration,
    /// In all.
    pub total: Duration,
}

/// The device replied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// What it said; perhaps before it had the whole image.
    pub reply: Reply,
    /// How much of the image may have reached it.
    pub reach: Reach,
    /// Image bytes that its TCP has acknowledged.
    pub acked_image_bytes: u64,
}

/// The device did not reply.
#[derive(Debug, thiserror::Error)]
#[error("uploading to {addr}")]
pub struct UploadError {
    /// The device.
    pub addr: SocketAddr,
    /// Why.
    #[source]
    pub reason: UploadReason,
    /// How much of the image may have reached it: what the system took from us.
    pub reach: Reach,
    /// Image bytes that its TCP has acknowledged.
    pub acked_image_bytes: u64,
    /// Image bytes that the system took from us.
    pub handed_image_bytes: u64,
}

/// Why an upload brought no reply.
#[derive(Debug, thiserror::Error)]
pub enum UploadReason {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The request cannot be written down.
    #[error("the request is not valid HTTP")]
    NotAsked(#[source] hyper::http::Error),
    /// The device stopped acknowledging.
    #[error("it acknowledged nothing for {} ms", after.as_millis())]
    Stalled {
        /// For how long.
        after: Duration,
    },
    /// The connection broke before everything was sent.
    #[error("the connection broke before everything was sent")]
    Broke(#[source] io::Error),
    /// Everything was sent, and the connection ended, or nothing came, before there was a status.
    #[error("everything was sent and no reply came")]
    NoReply(#[source] Option<io::Error>),
    /// It replied something that is not HTTP, or whose head is too long.
    #[error("it did not reply in HTTP that can be read")]
    NotHttp(#[source] hyper::Error),
    /// Its owner cancelled; nothing is on its way any more.
    #[error("cancelled")]
    Cancelled,
    /// It took longer than allowed in all.
    #[error("it took longer than {} ms in all", after.as_millis())]
    TimedOut {
        /// How long was allowed.
        after: Duration,
    },
}

/// Sends an image once, and waits for the reply.
///
/// `progress` enters `Uploading` before the first image byte and `LastByte` before the last piece of it; a cancel in
/// between resets the connection, so that nothing more leaves. The acknowledged image bytes are stored about 20 times
/// a second. A status that says no ends the sending; a reset after a complete reply changes nothing.
/// Dropping the future closes the connection.
pub async fn upload(
    dialer: &Dialer,
    peer: SocketAddr,
    upload: Upload<'_>,
    progress: &Progress,
    limits: UploadLimits,
) -> Result<Uploaded, UploadError> {
    let started = Instant::now();
    let nothing_sent = |reason| UploadError {
        addr: peer,
        reason,
        reach: Reach::Nothing,
        acked_image_bytes: 0,
        handed_image_bytes: 0,
    };
    let head = Head {
        method: "POST",
        path: upload.path,
        host: upload.host,
        content_type: Some(upload.content_type),
        headers: upload.headers,
    };
    let (feed, pieces) = mpsc::channel(PIECES_AT_ONCE);
    let body = PiecewiseBody {
        pieces,
        left: (upload.head.len() + upload.image.len() + upload.tail.len()) as u64,
    };
    let request = head
        .request(body)
        .map_err(|source| nothing_sent(UploadReason::NotAsked(source)))?;
    let options = TcpOptions {
        send_buffer: Some(SEND_BUFFER_LEN_BYTES),
    };
    let stream = dialer
        .tcp(peer, options, limits.connect.min(limits.total))
        .await
        .map_err(|error| nothing_sent(error.into()))?;

    let outgoing = Arc::new(Outgoing::new(stream));
    let wire = Wire::new(Arc::clone(&outgoing));
    let mut sending = Sending {
        watch: wire.watch(),
        broken: wire.broken(),
        outgoing: &outgoing,
        progress,
        feed,
        head: upload.head,
        image: Bytes::from_owner(upload.image),
        tail: upload.tail,
        n_fed: 0,
        acked: 0,
        last_ack: Instant::now(),
        replying_since: None,
        limits,
        deadline: started + limits.total,
    };
    let seen = Seen::default();
    let reason = match send(wire, request, &seen).await {
        Err(error) => Some(sending.name(failure(peer, error, None))),
        Ok((reply, connection)) => match sending.run(connection, reply, &seen).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(sending.name(failure(peer, error, sending.broken.take()))),
            Err(reason) => Some(reason),
        },
    };
    let (acked_image_bytes, handed_image_bytes) = (sending.acked_image_bytes(), sending.handed_image_bytes());
    let reach = sending.reach();
    progress.set_acked_bytes(acked_image_bytes);
    match (seen.take(), reason) {
        (Some(reply), reason) if !matches!(reason, Some(UploadReason::Cancelled)) => Ok(Uploaded {
            reply,
            reach,
            acked_image_bytes,
        }),
        (_, reason) => Err(UploadError {
            addr: peer,
            reason: reason.unwrap_or(UploadReason::NoReply(None)),
            reach,
            acked_image_bytes,
            handed_image_bytes,
        }),
    }
}

/// The most that is fed in one go: what precedes the image, one piece of it, and what follows.
const PIECES_AT_ONCE: usize = 3;

/// Feeds the body piece by piece, each when the one before is with the system, and watches.
struct Sending<'a> {
    outgoing: &'a Outgoing,
    watch: Watch,
    broken: Broken,
    progress: &'a Progress,
    feed: mpsc::Sender<Bytes>,
    head: Bytes,
    image: Bytes,
    tail: Bytes,
    /// Image bytes fed.
    n_fed: usize,
    /// Bytes acknowledged at the last look, of the whole connection.
    acked: u64,
    last_ack: Instant,
    /// Since when only the reply is missing.
    replying_since: Option<Instant>,
    limits: UploadLimits,
    deadline: Instant,
}

impl Sending<'_> {
    /// Ends with the reply, or with the reason why it is no longer waited for.
    async fn run(
        &mut self,
        connection: impl Future,
        reply: impl Future<Output = hyper::Result<()>>,
        seen: &Seen,
    ) -> Result<hyper::Result<()>, UploadReason> {
        let mut reply = pin!(reply);
        let mut connection = pin!(connection);
        let mut connected = true;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut all_fed = false;
        let result = loop {
            // No arm loses anything when dropped: the two exchanges are pinned outside, the others only wake us.
            tokio::select! {
                biased;
                outcome = &mut reply => break Ok(outcome),
                _ = &mut connection, if connected => connected = false,
                _ = tick.tick() => {
                    if let Err(reason) = self.look(all_fed, seen) {
                        break Err(reason);
                    }
                }
                () = self.watch.moved() => {}
            }
            let refused = seen.status().is_some_and(|status| status >= 300);
            if !all_fed && !refused && !self.broken.is_broken() && self.caught_up() {
                match self.feed_next() {
                    Ok(last) => all_fed = last,
                    Err(reason) => break Err(reason),
                }
            }
        };
        if result.is_err() && self.reach() != Reach::Whole {
            // What still waits here must not reach the device after we have said how far it got. After the last byte
            // the device may still be about to finish, and a reset could stop it.
            self.outgoing.reset_on_drop();
        }
        result
    }

    /// Whether the system took everything fed so far.
    fn caught_up(&self) -> bool {
        let fed = if self.n_fed == 0 {
            0
        } else {
            self.head.len() + self.n_fed
        };
        self.watch
            .head_len()
            .is_some_and(|head_len| self.outgoing.handed() >= head_len + fed as u64)
    }

    /// Feeds the next piece of the image, with what precedes and follows it; says whether it was the last.
    fn feed_next(&mut self) -> Result<bool, UploadReason> {
        let first = self.n_fed == 0;
        let end = self.image.len().min(self.n_fed + CHUNK_LEN);
        let last = end == self.image.len();
        if first {
            self.progress
                .enter(PushPhase::Uploading)
                .map_err(|_| UploadReason::Cancelled)?;
        }
        if last {
            self.progress
                .enter(PushPhase::LastByte)
                .map_err(|_| UploadReason::Cancelled)?;
        } else if self.progress.phase() == PushPhase::Cancelled {
            return Err(UploadReason::Cancelled);
        }
        let piece = self.image.slice(self.n_fed..end);
        self.n_fed = end;
        let before = if first { self.head.clone() } else { Bytes::new() };
        let after = if last { self.tail.clone() } else { Bytes::new() };
        for bytes in [before, piece, after] {
            if !bytes.is_empty() {
                // Full is impossible, as everything fed before was taken out; closed means that the connection ended,
                // which the reply tells.
                let _ = self.feed.try_send(bytes);
            }
        }
        Ok(last)
    }

    /// Stores the progress and checks the limits.
    fn look(&mut self, all_fed: bool, seen: &Seen) -> Result<(), UploadReason> {
        let now = Instant::now();
        let acked = self.outgoing.acked();
        if acked > self.acked {
            self.acked = acked;
            self.last_ack = now;
            self.progress.set_acked_bytes(self.acked_image_bytes());
        }
        if self.progress.phase() == PushPhase::Cancelled {
            return Err(UploadReason::Cancelled);
        }
        if now >= self.deadline {
            return Err(UploadReason::TimedOut {
                after: self.limits.total,
            });
        }
        let all_acked = all_fed && acked >= self.sent_in_all();
        let refused = seen.status().is_some_and(|status| status >= 300);
        if all_acked || refused {
            let since = *self.replying_since.get_or_insert(now);
            if now - since >= self.limits.reply {
                return Err(UploadReason::NoReply(None));
            }
        } else if now - self.last_ack >= self.limits.stall {
            return Err(UploadReason::Stalled {
                after: self.limits.stall,
            });
        }
        Ok(())
    }

    /// Bytes of the whole request, once its head is out.
    fn sent_in_all(&self) -> u64 {
        let body_len = (self.head.len() + self.image.len() + self.tail.len()) as u64;
        self.watch
            .head_len()
            .map_or(u64::MAX, |head_len| head_len + body_len)
    }

    fn acked_image_bytes(&self) -> u64 {
        self.image_bytes_in(self.outgoing.acked())
    }

    fn handed_image_bytes(&self) -> u64 {
        self.image_bytes_in(self.outgoing.handed())
    }

    /// Image bytes among the first `n_bytes` of the connection.
    fn image_bytes_in(&self, n_bytes: u64) -> u64 {
        let Some(head_len) = self.watch.head_len() else {
            return 0;
        };
        n_bytes
            .saturating_sub(head_len + self.head.len() as u64)
            .min(self.image.len() as u64)
    }

    fn reach(&self) -> Reach {
        match self.handed_image_bytes() {
            0 => Reach::Nothing,
            n_bytes if n_bytes < self.image.len() as u64 => Reach::Part,
            _ => Reach::Whole,
        }
    }

    /// The reason behind a failed exchange.
    fn name(&self, error: AskError) -> UploadReason {
        let all_sent = self.outgoing.handed() >= self.sent_in_all();
        match error {
            AskError::NotHttp { source, .. } => UploadReason::NotHttp(source),
            AskError::Io { source, .. } if all_sent => UploadReason::NoReply(Some(source)),
            AskError::Io { source, .. } => UploadReason::Broke(source),
            _ if all_sent => UploadReason::NoReply(None),
            _ => UploadReason::Broke(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A body of known length whose pieces come one by one.
struct PiecewiseBody {
    pieces: mpsc::Receiver<Bytes>,
    left: u64,
}

impl Body for PiecewiseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        match self.pieces.poll_recv(cx) {
            Poll::Ready(Some(piece)) => {
                self.left = self.left.saturating_sub(piece.len() as u64);
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            // Ending early would have hyper close the connection as it likes: how it ends is not the body's business.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
