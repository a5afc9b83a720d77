//! The doors of the API: TCP with and without TLS, and a unix socket; how many may stand in them, and for how long.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// The local socket's file in the data folder.
pub const SOCKET_FILE: &str = "reflash.sock";

/// How much at once, and how long anybody may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections over the network at once; the one that has been idle longest makes room for a new one.
    pub connections: usize,
    /// Connections over the local socket at once: a flood from the network never takes these.
    pub local_connections: usize,
    /// How long a request's head may take, and how long a connection may be idle between two requests.
    pub head_timeout: Duration,
    /// How long a client may take nothing of what is written to him.
    pub stall: Duration,
    /// How long running requests have at the end.
    pub end: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            // Guess: command lines, Home Assistant and a backup program of one machine.
            local_connections: 64,
            head_timeout: Duration::from_secs(10),
            // Guess: longer than a phone's change from one access point to the next.
            stall: Duration::from_secs(30),
            end: Duration::from_secs(5),
        }
    }
}

/// The longest head of a request, bytes; a browser's with all its cookies for this host fits.
const HEAD_MAX_LEN: usize = 32 * 1024;
/// How long to wait after the system refused a connection, as it does when it has no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where to listen.
#[derive(Clone, Debug)]
pub enum ListenOn {
    /// A TCP address.
    Tcp {
        /// The address; port 0 lets the system choose.
        address: SocketAddr,
        /// What protects the tokens on their way.
        protection: Protection,
    },
    /// A unix socket, made with mode 0600; whoever connects as the server's user or as root may do everything.
    Unix {
        /// Its path.
        path: PathBuf,
    },
}

/// What protects tokens on the way to a TCP listener.
#[derive(Clone, Debug)]
pub enum Protection {
    /// Nothing: only for addresses of this machine.
    Loopback,
    /// TLS.
    Tls(Arc<rustls::ServerConfig>),
    /// A proxy before this server speaks TLS, as the configuration declares.
    Proxy,
}

/// Why it cannot be listened there.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Tokens would travel in the clear.
    #[error(
        "listening on {address} without TLS would send tokens in the clear: \
         listen on 127.0.0.1, set server.tls, or declare the proxy that speaks TLS for this server"
    )]
    Unprotected {
        /// The address.
        address: SocketAddr,
    },
    /// The address is taken or not ours.
    #[error("listening on {address}: choose another address or port if something else listens there")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("listening on the socket {}", path.display())]
    Unix {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Something else lives there.
    #[error("{} is no socket: move it away, or choose another data folder", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
}

/// An open door.
#[derive(Debug)]
pub struct Listener {
    door: Door,
}

#[derive(Debug)]
enum Door {
    Tcp(TcpListener, Protection),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Opens a door. A socket that a dead server left behind is replaced: the caller holds the folder's lock.
    pub async fn bind(listen_on: &ListenOn) -> Result<Self, ListenError> {
        let door = match listen_on {
            ListenOn::Tcp { address, protection } => {
                if matches!(protection, Protection::Loopback) && !address.ip().to_canonical().is_loopback() {
                    return Err(ListenError::Unprotected { address: *address });
                }
                #[expect(
                    clippy::disallowed_methods,
                    reason = "this accepts the clients of the API; devices are `net`'s"
                )]
                let bound = TcpListener::bind(address).await;
                let listener = bound.map_err(|source| ListenError::Tcp {
                    address: *address,
                    source,
                })?;
                Door::Tcp(listener, protection.clone())
            }
            ListenOn::Unix { path } => {
                let listener = bind_unix(path)?;
                Door::Unix(listener, path.clone())
            }
        };
        Ok(Self { door })
    }

    /// The TCP address, with the port that the system chose.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.door {
            Door::Tcp(listener, _) => listener.local_addr().ok(),
            Door::Unix(..) => None,
        }
    }
}

fn bind_unix(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = |source| ListenError::Unix {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(path).map_err(failed)?,
        Ok(_) => {
            return Err(ListenError::NotASocket {
                path: path.to_owned(),
            });
        }
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(failed(err)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Until here the folder, which only its owner enters, protects it; and a peer's user is asked for in any case.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where the request comes from.
    pub from: Origin,
    /// The address of ours that was dialled.
    pub dialled: Option<IpAddr>,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An address.
    Network(IpAddr),
    /// The unix socket, from a process of this user.
    Local {
        /// The user's number (`SO_PEERCRED`).
        uid: u32,
    },
}

/// Serves until cancelled; then running requests get [`Limits::end`], and their connections end.
pub async fn serve(listeners: Vec<Listener>, router: Router, limits: Limits, cancel: CancellationToken) {
    let network = Arc::new(Room::new(limits.connections));
    let local = Arc::new(Room::new(limits.local_connections));
    let mut doors = JoinSet::new();
    for listener in listeners {
        let room = match &listener.door {
            Door::Tcp(..) => Arc::clone(&network),
            Door::Unix(..) => Arc::clone(&local),
        };
        doors.spawn(stand_at(
            listener.door,
            room,
            router.clone(),
            limits,
            cancel.clone(),
        ));
    }
    // The router holds what its handlers need; nobody keeps it longer than the last connection.
    drop(router);
    while doors.join_next().await.is_some() {}
}

async fn stand_at(door: Door, room: Arc<Room>, router: Router, limits: Limits, cancel: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        // All three can be dropped: an accepted connection is returned in the same poll, the others hold nothing.
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = door.accept() => match accepted {
                Ok(visitor) => {
                    if let Some(place) = Room::enter(&room) {
                        connections.spawn(attend(visitor, place, router.clone(), limits, cancel.clone()));
                    } else {
                        tracing::warn!("no room for another connection to the API");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the API could not be accepted");
                    room.make_room();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    // From now on nobody comes in, while those who are inside finish.
    match door {
        Door::Tcp(listener, _) => drop(listener),
        Door::Unix(listener, path) => {
            drop(listener);
            // A socket that stays behind is replaced at the next start.
            drop(std::fs::remove_file(path));
        }
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.end, ended).await.is_err() {
        tracing::warn!("requests still running at the end are cut off");
        connections.shutdown().await;
    }
}

struct Visitor {
    stream: Stream,
    peer: Peer,
}

enum Stream {
    Plain(Box<dyn Io>),
    Tls(TlsAcceptor, tokio::net::TcpStream),
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Door {
    async fn accept(&self) -> io::Result<Visitor> {
        match self {
            Self::Tcp(listener, protection) => {
                let (stream, peer) = listener.accept().await?;
                // Answers are small and complete: waiting for more to send with them only delays them.
                stream.set_nodelay(true)?;
                let peer = Peer {
                    from: Origin::Network(peer.ip().to_canonical()),
                    dialled: stream
                        .local_addr()
                        .ok()
                        .map(|address| address.ip().to_canonical()),
                    encrypted: matches!(protection, Protection::Tls(_)),
                };
                let stream = match protection {
                    Protection::Tls(config) => Stream::Tls(TlsAcceptor::from(Arc::clone(config)), stream),
                    Protection::Loopback | Protection::Proxy => Stream::Plain(Box::new(stream)),
                };
                Ok(Visitor { stream, peer })
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred()?.uid();
                Ok(Visitor {
                    stream: Stream::Plain(Box::new(stream)),
                    peer: Peer {
                        from: Origin::Local { uid },
                        dialled: None,
                        encrypted: false,
                    },
                })
            }
        }
    }
}

async fn attend(visitor: Visitor, place: Place, router: Router, limits: Limits, cancel: CancellationToken) {
    let Visitor { stream, peer } = visitor;
    let place = Arc::new(place);
    let leave = place.leave.clone();
    let io = match stream {
        Stream::Plain(io) => io,
        Stream::Tls(acceptor, stream) => {
            // A handshake that is dropped leaves nothing behind.
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(limits.head_timeout, acceptor.accept(stream)) => shaken,
                () = leave.cancelled() => return,
                () = cancel.cancelled() => return,
            };
            match shaken {
                Ok(Ok(stream)) => Box::new(stream) as Box<dyn Io>,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a TLS handshake failed");
                    return;
                }
                Err(_) => return,
            }
        }
    };
    let service = {
        let place = Arc::clone(&place);
        service_fn(move |mut request: Request<Incoming>| {
            let busy = Busy::begin(&place);
            request.extensions_mut().insert(peer.clone());
            let router = router.clone();
            async move {
                let answered = router.oneshot(request.map(Body::new)).await;
                answered.map(|response: Response<Body>| response.map(|body| Guarded { body, _busy: busy }))
            }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(HEAD_MAX_LEN)
        .serve_connection(TokioIo::new(Patient::new(io, limits.stall)), service);
    let mut connection = std::pin::pin!(connection);
    let mut ending = false;
    loop {
        // Dropping the connection closes it; only the first arm holds anything, and it is polled again.
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to the API broke");
                }
                return;
            }
            () = leave.cancelled() => return,
            () = cancel.cancelled(), if !ending => {
                if place.is_idle() {
                    return;
                }
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// How many connections there are, and which of them are between two requests.
struct Room {
    n_max: usize,
    state: Mutex<RoomState>,
}

#[derive(Default)]
struct RoomState {
    n_inside: usize,
    next_stamp: u64,
    /// The idle ones by the order in which they became idle.
    idle: BTreeMap<u64, CancellationToken>,
}

impl RoomState {
    fn stamp(&mut self) -> u64 {
        self.next_stamp += 1;
        self.next_stamp
    }

    fn evict(&mut self) -> bool {
        let Some((_, longest_idle)) = self.idle.pop_first() else {
            return false;
        };
        longest_idle.cancel();
        self.n_inside -= 1;
        true
    }
}

impl Room {
    fn new(n_max: usize) -> Self {
        Self {
            n_max,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, RoomState> {
        // Nothing in here can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection, at the cost of the one that has been idle longest; none where all are at work.
    fn enter(room: &Arc<Self>) -> Option<Place> {
        let mut state = room.state();
        if state.n_inside >= room.n_max && !state.evict() {
            return None;
        }
        state.n_inside += 1;
        let stamp = state.stamp();
        let leave = CancellationToken::new();
        state.idle.insert(stamp, leave.clone());
        drop(state);
        Some(Place {
            room: Arc::clone(room),
            standing: Mutex::new(Standing {
                n_requests: 0,
                idle_since: Some(stamp),
            }),
            leave,
        })
    }

    /// The system has no more descriptors: one idle connection goes.
    fn make_room(&self) {
        self.state().evict();
    }
}

struct Place {
    room: Arc<Room>,
    standing: Mutex<Standing>,
    leave: CancellationToken,
}

struct Standing {
    /// Requests whose answer is not given away yet.
    n_requests: u32,
    /// Where it stands among the idle ones; none while a request runs.
    idle_since: Option<u64>,
}

impl Place {
    fn standing(&self) -> std::sync::MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        self.standing().idle_since.is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let idle_since = self.standing().idle_since;
        let mut state = self.room.state();
        let evicted = idle_since.is_some_and(|stamp| state.idle.remove(&stamp).is_none());
        // Whoever was evicted while idle was counted as gone at that moment.
        if !evicted {
            state.n_inside -= 1;
        }
    }
}

/// A request that runs, until the last byte of its answer is given away.
struct Busy {
    place: Arc<Place>,
}

impl Busy {
    fn begin(place: &Arc<Place>) -> Self {
        let mut standing = place.standing();
        standing.n_requests += 1;
        if let Some(stamp) = standing.idle_since
            && place.room.state().idle.remove(&stamp).is_some()
        {
            standing.idle_since = None;
        }
        drop(standing);
        Self {
            place: Arc::clone(place),
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut standing = self.place.standing();
        standing.n_requests -= 1;
        if standing.n_requests == 0 && standing.idle_since.is_none() {
            let mut state = self.place.room.state();
            let now = state.stamp();
            state.idle.insert(now, self.place.leave.clone());
            standing.idle_since = Some(now);
        }
    }
}

/// A body that keeps its connection busy.
struct Guarded {
    body: Body,
    _busy: Busy,
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that gives up when the other side takes nothing for too long.
struct Patient {
    io: Box<dyn Io>,
    stall: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(io: Box<dyn Io>, stall: Duration) -> Self {
        Self {
            io,
            stall,
            waiting: None,
        }
    }

    fn patiently<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let stall = self.stall;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + stall)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client took nothing for too long",
        )))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.patiently(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.patiently(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.patiently(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(cx);
        self.patiently(cx, polled)
    }
}
