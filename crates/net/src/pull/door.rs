//! Who may fetch what, and the listener as long as anybody may.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::OfferError;
use crate::callback::listen;

/// Longest head of a request, bytes. Guess: an ESP32 sends a tenth of it.
const HEAD_MAX_LEN: usize = 4096;
/// How long a request may take to arrive. Guess: one packet, sent again a few times.
const HEAD_WAIT: Duration = Duration::from_secs(5);
/// Connections whose request is being read, in all and from one address. Guess: as many devices as are ever updated at
/// once, each with a connection that it has forgotten.
const READING_MAX: usize = 64;
const READING_MAX_OF_ONE: usize = 2;
/// Pause after `accept` failed, as in the call-back listener.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection on which nothing has been sent yet and the image was asked for.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) stream: TcpStream,
}

/// Who came and got nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections from addresses without an offer, and more of them than one device needs.
    pub strangers: u64,
    /// Requests that were none, or not for the image of the offer.
    pub refused: u64,
    /// Requests for an image that had been fetched or whose offer had ended: answered with 410.
    pub again: u64,
}

#[derive(Debug)]
pub(super) struct Door {
    state: Mutex<State>,
    /// An offer has ended.
    ended: Notify,
    listeners: mpsc::Sender<TcpListener>,
}

#[derive(Debug, Default)]
struct State {
    offers: HashMap<IpAddr, Open>,
    /// The port listened on, while it is.
    port: Option<u16>,
    next_id: u64,
    counts: Counts,
}

#[derive(Debug)]
struct Open {
    id: u64,
    path: String,
    until: Instant,
    /// None once the device has come.
    guest: Option<oneshot::Sender<Arrived>>,
    n_reading: usize,
}

/// What becomes of a request.
enum Answer {
    Serve(oneshot::Sender<Arrived>),
    Refuse(&'static str),
}

impl Door {
    pub(super) fn new() -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let (listeners, opened) = mpsc::channel(1);
        let door = Arc::new(Self {
            state: Mutex::default(),
            ended: Notify::new(),
            listeners,
        });
        let accept_loop = Arc::clone(&door).accept_from(opened);
        (door, accept_loop)
    }

    /// Opens the door for this address and path, and the listener if it is not open.
    pub(super) fn offer(
        &self,
        at: SocketAddr,
        device: IpAddr,
        path: &str,
        lasts: Duration,
    ) -> Result<(u16, u64, oneshot::Receiver<Arrived>), OfferError> {
        let mut state = self.state();
        if state.offers.contains_key(&device) {
            return Err(OfferError::AlreadyOffered { ip: device });
        }
        let port = match state.port {
            Some(port) => port,
            None => self.listen(at)?,
        };
        state.port = Some(port);
        state.next_id += 1;
        let id = state.next_id;
        let (guest, arrival) = oneshot::channel();
        let open = Open {
            id,
            path: path.to_owned(),
            until: Instant::now() + lasts,
            guest: Some(guest),
            n_reading: 0,
        };
        state.offers.insert(device, open);
        Ok((port, id, arrival))
    }

    fn listen(&self, at: SocketAddr) -> Result<u16, OfferError> {
        let bind_error = |source| OfferError::Bind {
            bind: at.ip(),
            port: at.port(),
            source,
        };
        let listener = listen(at).map_err(bind_error)?;
        let port = listener.local_addr().map_err(bind_error)?.port();
        self.listeners
            .try_send(listener)
            .map_err(|_| OfferError::Closed)?;
        tracing::debug!(bind = %at.ip(), port, "open for devices that fetch their image");
        Ok(port)
    }

    pub(super) fn withdraw(&self, device: IpAddr, id: u64) {
        if let Entry::Occupied(occupied) = self.state().offers.entry(device)
            && occupied.get().id == id
        {
            occupied.remove();
        }
        self.ended.notify_one();
    }

    pub(super) fn counts(&self) -> Counts {
        self.state().counts
    }

    async fn accept_from(self: Arc<Self>, mut opened: mpsc::Receiver<TcpListener>) {
        while let Some(listener) = opened.recv().await {
            self.accept(listener).await;
        }
    }

    /// Until there is no offer left.
    async fn accept(self: &Arc<Self>, listener: TcpListener) {
        let mut reading = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.ended.notified() => {
                    let mut state = self.state();
                    if state.offers.is_empty() {
                        state.port = None;
                        // Before anybody else can open it again: the port may be a fixed one.
                        drop(listener);
                        return;
                    }
                    continue;
                }
                Some(_) = reading.join_next() => continue,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let device = peer.ip().to_canonical();
                    if reading.len() < READING_MAX && self.admit(device) {
                        let door = Arc::clone(self);
                        reading.spawn(async move { door.read(stream, device).await });
                    } else {
                        self.turn_away(&stream, peer);
                    }
                }
                // The peer hung up while it waited: no reason to make the others wait.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "accepting a device's connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, device: IpAddr) -> bool {
        match self.state().offers.get_mut(&device) {
            Some(open) if open.n_reading < READING_MAX_OF_ONE => {
                open.n_reading += 1;
                true
            }
            _ => false,
        }
    }

    /// The caller drops the stream: as a reset, so that a flood of strangers leaves no sockets in TIME-WAIT here.
    fn turn_away(&self, stream: &TcpStream, peer: SocketAddr) {
        let _ = stream.set_zero_linger();
        let mut state = self.state();
        state.counts.strangers += 1;
        // The 1st, 2nd, 4th, 8th, …: a flood must not fill the log.
        if state.counts.strangers.is_power_of_two() {
            tracing::warn!(%peer, n_strangers = state.counts.strangers, "dropped a connection that nobody had invited");
        }
    }

    /// Reads the request and does what it says, if it may.
    async fn read(&self, stream: TcpStream, device: IpAddr) {
        let head = tokio::time::timeout(HEAD_WAIT, read_head(&stream)).await;
        let request = head.ok().flatten();
        let answer = self.decide(request.as_deref(), device);
        match answer {
            Answer::Serve(guest) => {
                let _ = stream.set_nodelay(true);
                let _ = socket2::SockRef::from(&stream).set_send_buffer_size(crate::SEND_BUFFER_LEN_BYTES);
                // Whoever made the offer has gone meanwhile: the connection closes without a byte.
                let _ = guest.send(Arrived { stream });
            }
            Answer::Refuse(status) => {
                let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                // It is short enough for an empty buffer; and if not, nobody is owed it.
                let _ = stream.try_write(reply.as_bytes());
            }
        }
    }

    fn decide(&self, head: Option<&str>, device: IpAddr) -> Answer {
        let mut state = self.state();
        let State { offers, counts, .. } = &mut *state;
        let Some(open) = offers.get_mut(&device) else {
            counts.again += 1;
            return Answer::Refuse("410 Gone");
        };
        open.n_reading = open.n_reading.saturating_sub(1);
        let refused = |counts: &mut Counts, status| {
            counts.refused += 1;
            Answer::Refuse(status)
        };
        let Some((method, path)) = head.and_then(request_line) else {
            return refused(counts, "400 Bad Request");
        };
        if !is_same(path, &open.path) {
            return refused(counts, "404 Not Found");
        }
        if method != "GET" {
            return refused(counts, "405 Method Not Allowed\r\nAllow: GET");
        }
        if Instant::now() < open.until
            && let Some(guest) = open.guest.take()
        {
            return Answer::Serve(guest);
        }
        counts.again += 1;
        Answer::Refuse("410 Gone")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Never held across anything that can wait, and sound at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The head of a request, with its empty line; none where it does not come or is too long.
async fn read_head(stream: &TcpStream) -> Option<String> {
    let mut head = Vec::with_capacity(512);
    let mut buffer = [0; 512];
    loop {
        stream.readable().await.ok()?;
        match stream.try_read(&mut buffer) {
            Ok(0) => return None,
            Ok(n_bytes) => head.extend_from_slice(&buffer[..n_bytes]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return None,
        }
        if head.windows(4).any(|end| end == b"\r\n\r\n") {
            return String::from_utf8(head).ok();
        }
        if head.len() > HEAD_MAX_LEN {
            return None;
        }
    }
}

/// Method and path of a request line.
fn request_line(head: &str) -> Option<(&str, &str)> {
    let mut parts = head.lines().next()?.split(' ');
    let (method, path, version) = (parts.next()?, parts.next()?, parts.next()?);
    (parts.next().is_none() && matches!(version, "HTTP/1.1" | "HTTP/1.0")).then_some((method, path))
}

/// Compares without telling by its time how much of the secret was right.
fn is_same(told: &str, path: &str) -> bool {
    told.len() == path.len()
        && told
            .bytes()
            .zip(path.bytes())
            .fold(0, |differs, (a, b)| differs | (a ^ b))
            == 0
}
