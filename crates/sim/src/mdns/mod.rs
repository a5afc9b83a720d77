//! A multicast DNS responder for one service of one host (RFC 6762, RFC 6763), as ESP32 sketches have it.

mod packet;
mod responder;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::{Duration, Instant},
};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::{net::UdpSocket, select, time::sleep_until};

use self::responder::{Outgoing, Responder};

/// Port of the group (RFC 6762 3).
pub(crate) const PORT: u16 = 5353;
/// The group (RFC 6762 3).
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
/// Time to live of each packet (RFC 6762 11).
const IP_TTL: u32 = 255;
/// Longest packet, bytes (RFC 6762 17).
const PACKET_MAX_LEN: usize = 9000;

/// What is announced.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Host name without `.local`; the service instance has the same name.
    pub(crate) host: String,
    /// As in `["_arduino", "_tcp"]`.
    pub(crate) kind: [&'static str; 2],
    /// Where the service is.
    pub(crate) port: u16,
    /// `key=value` each.
    pub(crate) txt: Vec<String>,
}

/// The two sockets of a responder.
pub(crate) struct Sockets {
    /// Hears what is said to the group.
    group: UdpSocket,
    /// Speaks, with the host's own address as the sender, and hears what is said to the host alone.
    own: UdpSocket,
    port: u16,
}

impl Sockets {
    /// Joins the group on the interface that has `address`.
    ///
    /// # Errors
    /// When no interface has the address, or a program that does not share has the port.
    pub(crate) fn open(address: Ipv4Addr, port: u16) -> io::Result<Self> {
        let bind = |to: Ipv4Addr| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&SocketAddr::from((to, port)).into())?;
            UdpSocket::from_std(socket.into())
        };
        // Bound to the group, it gets nothing that is said to one host alone.
        let group = bind(GROUP)?;
        {
            let socket = SockRef::from(&group);
            // Otherwise it would hear what is said on interfaces that other programs of this machine have joined.
            #[cfg(target_os = "linux")]
            socket.set_multicast_all_v4(false)?;
            socket.join_multicast_v4(&GROUP, &address)?;
        }
        let own = bind(address)?;
        {
            let socket = SockRef::from(&own);
            socket.set_multicast_if_v4(&address)?;
            socket.set_multicast_ttl_v4(IP_TTL)?;
            // Others on this machine hear it as well.
            socket.set_multicast_loop_v4(true)?;
        }
        Ok(Self { group, own, port })
    }

    /// Never waits: a packet that finds no room in the queue is lost, like any on the way.
    fn send(&self, to: Option<SocketAddrV4>, bytes: &[u8]) {
        let to = to.unwrap_or(SocketAddrV4::new(GROUP, self.port));
        if let Err(err) = SockRef::from(&self.own).send_to(bytes, &SocketAddr::V4(to).into()) {
            tracing::debug!(%err, %to, "multicast DNS packet not sent");
        }
    }
}

/// A responder with its sockets; says farewell when dropped.
pub(crate) struct Voice {
    sockets: Sockets,
    responder: Responder,
    start: Instant,
    hushed: bool,
}

impl Voice {
    /// A responder that begins to claim its names for this address; `seed` decides its delays.
    pub(crate) fn new(sockets: Sockets, service: Service, address: Ipv4Addr, seed: u64) -> Self {
        let responder = Responder::new(service, address, sockets.port, seed, Duration::ZERO);
        Self {
            sockets,
            responder,
            start: Instant::now(),
            hushed: false,
        }
    }

    /// Responds for ever; `announced` is called with the host name each time that it has become the host's own.
    pub(crate) async fn run(&mut self, mut announced: impl FnMut(&str)) {
        let mut was_settled = false;
        let (mut said_to_all, mut said_to_us) = (vec![0; PACKET_MAX_LEN], vec![0; PACKET_MAX_LEN]);
        loop {
            for Outgoing { to, bytes } in self.responder.send(self.start.elapsed()) {
                self.sockets.send(to, &bytes);
            }
            let is_settled = self.responder.is_settled();
            if is_settled && !was_settled {
                announced(&self.responder.host());
            }
            was_settled = is_settled;
            let due = self.responder.due().map(|due| self.start + due);
            // Dropping any of these futures loses nothing: they only wait until a socket is ready or a time has come.
            let heard = select! {
                () = until(due) => None,
                heard = self.sockets.group.recv_from(&mut said_to_all) => heard.ok().map(|(n, from)| (&said_to_all[..n], from)),
                heard = self.sockets.own.recv_from(&mut said_to_us) => heard.ok().map(|(n, from)| (&said_to_us[..n], from)),
            };
            if let Some((bytes, SocketAddr::V4(from))) = heard {
                self.responder.receive(bytes, from, self.start.elapsed());
            }
        }
    }

    /// Ends without a farewell, as if the power went.
    pub(crate) fn hush(&mut self) {
        self.hushed = true;
    }
}

impl Drop for Voice {
    fn drop(&mut self) {
        if !self.hushed
            && let Some(farewell) = self.responder.farewell()
        {
            self.sockets.send(None, &farewell);
        }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
