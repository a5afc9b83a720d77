//! An HTTP/1.1 client for small devices: lenient in what it reads, exact in what it sends, bounded in everything.
//!
//! One request to a connection, `Connection: close`, always with a `Content-Length`, never chunked, no `Expect`.

mod upload;
mod wire;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use tokio::net::TcpStream;

use crate::{DialError, Dialer, Outgoing, TcpOptions};
use wire::Wire;

pub use upload::{Upload, UploadError, UploadLimits, UploadReason, Uploaded, upload};

/// How much of a reply's body is read, and how long its head may be, bytes.
/// Guess: ten times the largest page of a Komfovent (../shared/RELIABILITY.md T36 wants this bound).
pub const REPLY_MAX_BYTES: usize = 64 * 1024;

/// A request.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// Its method, as `GET`.
    pub method: &'a str,
    /// Path and query, as `/api/status`.
    pub path: &'a str,
    /// Kind of the body, if there is one.
    pub content_type: Option<&'a str>,
    /// The body, empty for none.
    pub body: Bytes,
    /// More headers: name and value.
    pub headers: &'a [(&'a str, &'a str)],
}

impl<'a> Ask<'a> {
    /// A request for this path.
    pub fn get(path: &'a str) -> Self {
        Self {
            method: "GET",
            path,
            content_type: None,
            body: Bytes::new(),
            headers: &[],
        }
    }

    /// A request that brings this body.
    pub fn post(path: &'a str, content_type: &'a str, body: impl Into<Bytes>) -> Self {
        Self {
            method: "POST",
            path,
            content_type: Some(content_type),
            body: body.into(),
            headers: &[],
        }
    }
}

/// How long a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// To connect.
    pub connect: Duration,
    /// In all, connecting included.
    pub total: Duration,
}

impl Limits {
    /// 2 s to connect, 5 s in all (../shared/RELIABILITY.md T36).
    pub const USUAL: Self = Self {
        connect: Duration::from_secs(2),
        total: Duration::from_secs(5),
    };
}

/// What a device replied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status code; 200 for a bare body without a head (HTTP/0.9).
    pub status: u16,
    /// The body, at most [`REPLY_MAX_BYTES`].
    pub body: Vec<u8>,
    /// The body is not whole: it was longer than the bound, or ended early, or did not end in time.
    pub cut: bool,
    /// The `Server` header, if it is text.
    pub server: Option<String>,
}

impl Reply {
    /// The body as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Why there is no reply, not even a status.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No connection; nothing was asked.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The request cannot be written down: a path or header with characters that HTTP has no place for.
    #[error("the request for {path} is not valid HTTP")]
    NotAsked {
        /// The path asked for.
        path: String,
        /// What is wrong with it.
        source: hyper::http::Error,
    },
    /// No status in time.
    #[error("{addr} connected and did not reply within {} ms", after.as_millis())]
    TimedOut {
        /// The device.
        addr: SocketAddr,
        /// How long was waited in all.
        after: Duration,
    },
    /// The connection closed before there was a status.
    #[error("{addr} closed the connection without a reply")]
    Closed {
        /// The device.
        addr: SocketAddr,
    },
    /// The connection broke before there was a status.
    #[error("the connection to {addr} broke before a reply")]
    Io {
        /// The device.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The reply is not HTTP, or its head is longer than [`REPLY_MAX_BYTES`] or 100 headers.
    #[error("{addr} did not reply in HTTP that can be read")]
    NotHttp {
        /// The device.
        addr: SocketAddr,
        /// What was wrong with it.
        source: hyper::Error,
    },
}

/// Asks once. A reply is judged by its status: its body may be cut.
///
/// Dropping the future closes the connection.
pub async fn ask(
    dialer: &Dialer,
    peer: SocketAddr,
    host_header: &str,
    ask: Ask<'_>,
    limits: Limits,
) -> Result<Reply, AskError> {
    let dial = dialer.tcp(peer, TcpOptions::default(), limits.connect.min(limits.total));
    exchange(async { Ok(dial.await?) }, peer, host_header, ask, limits.total).await
}

/// The same over a connection that is there already, which is closed afterwards; `total` is how long it may take.
pub async fn ask_on(
    stream: TcpStream,
    peer: SocketAddr,
    host_header: &str,
    ask: Ask<'_>,
    total: Duration,
) -> Result<Reply, AskError> {
    exchange(async { Ok(stream) }, peer, host_header, ask, total).await
}

async fn exchange(
    connect: impl Future<Output = Result<TcpStream, AskError>>,
    peer: SocketAddr,
    host_header: &str,
    ask: Ask<'_>,
    total: Duration,
) -> Result<Reply, AskError> {
    let head = Head {
        method: ask.method,
        path: ask.path,
        host: host_header,
        content_type: ask.content_type,
        headers: ask.headers,
    };
    let request = head
        .request(Full::new(ask.body))
        .map_err(|source| AskError::NotAsked {
            path: ask.path.to_owned(),
            source,
        })?;
    let seen = Seen::default();
    let exchange = async {
        let stream = connect.await?;
        let wire = Wire::new(Arc::new(Outgoing::new(stream)));
        let broken = wire.broken();
        let failed = |error| failure(peer, error, broken.take());
        let (reply, connection) = send(wire, request, &seen).await.map_err(failed)?;
        with(connection, reply).await.map_err(failed)
    };
    let outcome = tokio::time::timeout(total, exchange).await;
    match (outcome, seen.take()) {
        (Ok(Err(AskError::Dial(error))), _) => Err(error.into()),
        (_, Some(reply)) => Ok(reply),
        (Ok(Err(error)), None) => Err(error),
        (Ok(Ok(())), None) => Err(AskError::Closed { addr: peer }),
        (Err(_), None) => Err(AskError::TimedOut {
            addr: peer,
            after: total,
        }),
    }
}

/// The head of a request.
struct Head<'a> {
    method: &'a str,
    path: &'a str,
    host: &'a str,
    content_type: Option<&'a str>,
    headers: &'a [(&'a str, &'a str)],
}

impl Head<'_> {
    /// `Content-Length` comes from the body, whose length is known exactly.
    fn request<B>(&self, body: B) -> Result<Request<B>, hyper::http::Error> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header("host", self.host);
        for (name, value) in self.headers {
            request = request.header(*name, *value);
        }
        if let Some(content_type) = self.content_type {
            request = request.header("content-type", content_type);
        }
        request.header("connection", "close").body(body)
    }
}

/// What has been seen of the reply, as it comes in: it outlives the exchange, however that ends.
#[derive(Default)]
struct Seen(Mutex<Option<Reply>>);

impl Seen {
    fn status(&self) -> Option<u16> {
        self.with(|seen| seen.as_ref().map(|reply| reply.status))
    }

    fn take(&self) -> Option<Reply> {
        self.with(Option::take)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Option<Reply>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads a reply until its end or its bound; what fails after the status makes it a cut one.
    async fn read(&self, response: Response<Incoming>) {
        let (parts, mut body) = response.into_parts();
        let server = parts
            .headers
            .get("server")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        self.with(|seen| {
            *seen = Some(Reply {
                status: parts.status.as_u16(),
                body: Vec::new(),
                cut: true,
                server,
            });
        });
        let whole = loop {
            match body.frame().await {
                None => break true,
                Some(Err(_)) => break false,
                Some(Ok(frame)) => {
                    let Ok(chunk) = frame.into_data() else { continue };
                    if !self.append(&chunk) {
                        break false;
                    }
                }
            }
        };
        self.with(|seen| {
            if let Some(reply) = seen {
                reply.cut = !whole;
            }
        });
    }

    /// Says whether there was room for all of it.
    fn append(&self, chunk: &[u8]) -> bool {
        self.with(|seen| {
            seen.as_mut().is_some_and(|reply| {
                let room = REPLY_MAX_BYTES - reply.body.len();
                reply.body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                chunk.len() <= room
            })
        })
    }
}

/// Sends a request; the first future ends with the reply read into `seen`, the second moves the bytes.
async fn send<B>(
    wire: Wire,
    request: Request<B>,
    seen: &Seen,
) -> Result<
    (
        impl Future<Output = hyper::Result<()>> + Send,
        http1::Connection<Wire, B>,
    ),
    hyper::Error,
>
where
    B: Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        // Devices look for `Content-Length` by comparing letters, and write their own heads by hand
        // (nine odd servers, ../shared/DEPENDENCIES.md 2.1).
        .title_case_headers(true)
        .http09_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .max_buf_size(REPLY_MAX_BYTES)
        .handshake(wire)
        .await?;
    let reply = async move {
        let response = sender.send_request(request).await?;
        seen.read(response).await;
        Ok(())
    };
    Ok((reply, connection))
}

/// Polls the connection for as long as the reply needs it.
async fn with<T>(connection: impl Future, reply: impl Future<Output = T>) -> T {
    let forever = async {
        // How the connection ends is told by the reply.
        let _ = connection.await;
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        biased;
        reply = reply => reply,
        // Dropping it closes the socket, which is the end of it anyway.
        never = forever => match never {},
    }
}

/// Names the failure of an exchange that brought no status. `broken` is why sending failed, if it did.
fn failure(addr: SocketAddr, error: hyper::Error, broken: Option<io::Error>) -> AskError {
    if let Some(source) = broken {
        return AskError::Io { addr, source };
    }
    if error.is_parse() {
        return AskError::NotHttp { addr, source: error };
    }
    match io_error_in(&error) {
        Some(source) => AskError::Io { addr, source },
        None => AskError::Closed { addr },
    }
}

/// The input or output error at the root of this one, if there is one.
fn io_error_in(error: &hyper::Error) -> Option<io::Error> {
    let source = std::error::Error::source(error)?;
    let source = source.downcast_ref::<io::Error>()?;
    // An error cannot be cloned; its code says it all.
    Some(
        source
            .raw_os_error()
            .map_or_else(|| source.kind().into(), io::Error::from_raw_os_error),
    )
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}, {} bytes", self.status, self.body.len())
    }
}
