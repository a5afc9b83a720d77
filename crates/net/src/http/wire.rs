use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::sync::Notify;

use crate::Outgoing;

/// Read at a time, bytes: more than a small device sends in one segment.
const READ_LEN: usize = 4096;

/// Our socket as hyper sees it.
///
/// A failed send is not reported to hyper, which would give up at once: an early refusal closes the connection with
/// our bytes unread, and its text is often still there to be read after the reset. So what follows a failed send is
/// swallowed, and the failure is kept for whoever has to name the cause.
pub(super) struct Wire {
    outgoing: Arc<Outgoing>,
    state: Arc<State>,
}

/// Why sending failed, if it did.
pub(super) struct Broken(Arc<State>);

/// What the uploader watches.
pub(super) struct Watch(Arc<State>);

#[derive(Default)]
struct State {
    broken: Mutex<Option<io::Error>>,
    /// Bytes sent when hyper first said that all it had so far is out: the head of the request.
    head_len: OnceLock<u64>,
    moved: Notify,
}

impl Wire {
    pub(super) fn new(outgoing: Arc<Outgoing>) -> Self {
        Self {
            outgoing,
            state: Arc::default(),
        }
    }

    pub(super) fn broken(&self) -> Broken {
        Broken(Arc::clone(&self.state))
    }

    pub(super) fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.state))
    }

    fn sent(&self, result: io::Result<usize>, len_bytes: usize) -> usize {
        self.state.moved.notify_one();
        result.unwrap_or_else(|error| {
            self.state.broken().get_or_insert(error);
            len_bytes
        })
    }
}

impl State {
    fn broken(&self) -> std::sync::MutexGuard<'_, Option<io::Error>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broken {
    pub(super) fn take(&self) -> Option<io::Error> {
        self.0.broken().take()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.0.broken().is_some()
    }
}

impl Watch {
    /// Length of the request's head, once it is out, bytes.
    pub(super) fn head_len(&self) -> Option<u64> {
        self.0.head_len.get().copied()
    }

    /// Ends when bytes have been handed to the system since the last time. Safe to drop.
    pub(super) async fn moved(&self) {
        self.0.moved.notified().await;
    }
}

impl Read for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut buffer = [0; READ_LEN];
        let len_bytes = cursor.remaining().min(READ_LEN);
        let n_bytes = ready!(self.outgoing.poll_read(cx, &mut buffer[..len_bytes]))?;
        cursor.put_slice(&buffer[..n_bytes]);
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.state.broken().is_some() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let result = ready!(self.outgoing.poll_write(cx, bytes));
        Poll::Ready(Ok(self.sent(result, bytes.len())))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len_bytes = slices.iter().map(|slice| slice.len()).sum();
        if self.state.broken().is_some() {
            return Poll::Ready(Ok(len_bytes));
        }
        let result = ready!(self.outgoing.poll_write_vectored(cx, slices));
        Poll::Ready(Ok(self.sent(result, len_bytes)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Hyper flushes when its own buffer is empty, and the body gives nothing before this.
        let handed = self.outgoing.handed();
        if handed > 0 && self.state.head_len.set(handed).is_ok() {
            self.state.moved.notify_one();
        }
        Poll::Ready(Ok(()))
    }

    /// Does nothing: small devices take the end of our side for the end of the connection.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
