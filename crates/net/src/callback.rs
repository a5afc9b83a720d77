use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use crate::SEND_BUFFER_LEN_BYTES;

/// Connections that may wait to be accepted.
///
/// With the usual 1,024 exactly 90 of 1,000 devices that called back together were lost for ever
/// (measured, ../shared/PERFORMANCE.md finding 4). The system may cut it (`net.core.somaxconn`, 4,096 by default).
const BACKLOG: i32 = 4096;

/// Pause after `accept` failed, so that running out of descriptors does not become a busy loop.
/// Guess: short against the seconds that a device waits for the first byte.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The one listener for devices that connect to us to fetch an image.
///
/// A peer is let in only while an invitation to exactly its address is open; everybody else is dropped at once,
/// counted, and waited past.
#[derive(Debug)]
pub struct Callback {
    bind: IpAddr,
    port: u16,
    door: Arc<Door>,
    listener: AsyncMutex<Listener>,
}

/// Why there is no invitation.
#[derive(Debug, thiserror::Error)]
pub enum CallbackError {
    /// At most one at a time to an address.
    #[error("{ip} is being waited for already: another update of this device is under way")]
    AlreadyInvited {
        /// The device.
        ip: IpAddr,
    },
    /// The listener cannot be opened; the next invitation tries again.
    #[error("listening for devices on {bind} port {port}")]
    Bind {
        /// The address to listen on.
        bind: IpAddr,
        /// The port; 0 = any free one.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The accept loop is gone: the program is ending.
    #[error("no longer listening for devices")]
    Closed,
}

/// An open invitation; dropping it closes the door for its address.
#[derive(Debug)]
pub struct Invited {
    /// The port to tell the device.
    pub port: u16,
    ip: IpAddr,
    id: u64,
    arrival: Option<oneshot::Receiver<TcpStream>>,
    door: Arc<Door>,
}

#[derive(Debug)]
enum Listener {
    /// Not opened yet; the accept loop waits at the other end.
    Wanted(oneshot::Sender<TcpListener>),
    Open(u16),
    Gone,
}

/// Who may come in.
#[derive(Debug, Default)]
struct Door {
    invitations: Mutex<HashMap<IpAddr, Invitation>>,
    strangers: AtomicU64,
    next_id: AtomicU64,
}

#[derive(Debug)]
struct Invitation {
    id: u64,
    /// None once the device has come.
    guest: Option<oneshot::Sender<TcpStream>>,
}

impl Callback {
    /// A listener on this address and port (0 = any free one), and its accept loop, which the caller must run.
    ///
    /// Nothing is opened before the first invitation. The loop ends when it is dropped, and by itself only if the
    /// `Callback` is dropped before its first invitation.
    pub fn new(bind: IpAddr, port: u16) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let door = Arc::new(Door::default());
        let (opened, opening) = oneshot::channel();
        let callback = Self {
            bind,
            port,
            door: Arc::clone(&door),
            listener: AsyncMutex::new(Listener::Wanted(opened)),
        };
        let accept_loop = async move {
            if let Ok(listener) = opening.await {
                door.accept_from(listener).await;
            }
        };
        (Arc::new(callback), accept_loop)
    }

    /// Opens the door for this address until the result is dropped.
    pub async fn expect(&self, ip: IpAddr) -> Result<Invited, CallbackError> {
        let port = self.open().await?;
        self.door.invite(ip.to_canonical(), port)
    }

    /// Peers dropped so far: those that nobody had invited, and second connections.
    pub fn strangers(&self) -> u64 {
        self.door.strangers.load(Ordering::Relaxed)
    }

    /// The port listened on, opening it first if need be.
    async fn open(&self) -> Result<u16, CallbackError> {
        let mut state = self.listener.lock().await;
        if let Listener::Open(port) = *state {
            return Ok(port);
        }
        let bind_error = |source| CallbackError::Bind {
            bind: self.bind,
            port: self.port,
            source,
        };
        let listener = listen(SocketAddr::new(self.bind, self.port)).map_err(bind_error)?;
        let port = listener.local_addr().map_err(bind_error)?.port();
        let Listener::Wanted(opened) = std::mem::replace(&mut *state, Listener::Gone) else {
            return Err(CallbackError::Closed);
        };
        opened.send(listener).map_err(|_| CallbackError::Closed)?;
        *state = Listener::Open(port);
        tracing::info!(bind = %self.bind, port, "listening for devices");
        Ok(port)
    }
}

impl Invited {
    /// The device's connection; none if it does not come in time, or came before.
    ///
    /// Safe to drop and to call again: the door stays open in between.
    pub async fn peer(&mut self, timeout: Duration) -> Option<TcpStream> {
        let arrival = self.arrival.as_mut()?;
        let stream = tokio::time::timeout(timeout, arrival).await.ok()?;
        self.arrival = None;
        stream.ok()
    }
}

impl Drop for Invited {
    fn drop(&mut self) {
        self.door.uninvite(self.ip, self.id);
    }
}

impl Door {
    fn invite(self: &Arc<Self>, ip: IpAddr, port: u16) -> Result<Invited, CallbackError> {
        let (guest, arrival) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        match self.invitations().entry(ip) {
            Entry::Occupied(_) => return Err(CallbackError::AlreadyInvited { ip }),
            Entry::Vacant(vacant) => vacant.insert(Invitation {
                id,
                guest: Some(guest),
            }),
        };
        Ok(Invited {
            port,
            ip,
            id,
            arrival: Some(arrival),
            door: Arc::clone(self),
        })
    }

    fn uninvite(&self, ip: IpAddr, id: u64) {
        if let Entry::Occupied(occupied) = self.invitations().entry(ip)
            && occupied.get().id == id
        {
            occupied.remove();
        }
    }

    async fn accept_from(&self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.admit(stream, peer),
                // The peer hung up while it waited: no reason to make the others wait.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "accepting a device's connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let guest = self
            .invitations()
            .get_mut(&peer.ip().to_canonical())
            .and_then(|invitation| invitation.guest.take());
        let Some(guest) = guest else {
            self.turn_away(&stream, peer);
            return;
        };
        // Neither failure matters enough to turn a device away.
        // The receive buffer is left alone: its default is what devices were measured against.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_LEN_BYTES);
        if let Err(stream) = guest.send(stream) {
            self.turn_away(&stream, peer);
        }
    }

    /// The caller drops the stream: as a reset, so that a flood of strangers leaves no sockets in TIME-WAIT here.
    fn turn_away(&self, stream: &TcpStream, peer: SocketAddr) {
        let _ = stream.set_zero_linger();
        let n_strangers = self.strangers.fetch_add(1, Ordering::Relaxed) + 1;
        // The 1st, 2nd, 4th, 8th, …: a flood must not fill the log.
        if n_strangers.is_power_of_two() {
            tracing::warn!(%peer, n_strangers, "dropped a connection that nobody had invited");
        }
    }

    fn invitations(&self) -> MutexGuard<'_, HashMap<IpAddr, Invitation>> {
        // Never held across anything that can panic or wait, so a poisoned lock holds a sound map.
        self.invitations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener that holds many who wait, and comes back to its port after a restart.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    if addr.is_ipv6() {
        // IPv4 devices come in as well, as ::ffff:a.b.c.d.
        socket.set_only_v6(false)?;
    }
    if addr.port() != 0 {
        // Else a restart of this program fails while connections of the last run are in TIME-WAIT.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
