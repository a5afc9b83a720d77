//! The OTA port: invitations, authentication, and the call-back connection (PROTOCOLS.md B1, B1a, B2).

use std::{
    io,
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncWriteExt as _, Interest},
    net::{TcpSocket, TcpStream, UdpSocket},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{
    After, Reason,
    auth::Scheme,
    fault::Fault,
    pace::Pace,
    slot::{Command, Slot, error},
    state::{Method, Reply, Shared},
};
use crate::EventKind;

/// Largest datagram that is looked at; the real one reads as much of a packet as it needs.
pub(super) const DATAGRAM_MAX_LEN: usize = 2048;
/// One try to connect back (PROTOCOLS.md B1).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the last count is sent again (PROTOCOLS.md B1).
const N_RESENDS: u8 = 3;
/// How long an acknowledgement waits for an undrained socket (PROTOCOLS.md B1a).
const ACK_TIMEOUT: Duration = Duration::from_secs(10);
/// From OK to the restart (PROTOCOLS.md B1).
pub(super) const RESTART_DELAY: Duration = Duration::from_millis(100);
/// Largest read (PROTOCOLS.md B1).
const READ_MAX_LEN: usize = 1460;
/// Receive window of the real device, bytes (lwIP: 4 segments of 1436 B). The kernel doubles what it is given for its own books.
pub(super) const WINDOW: usize = 5744;
/// Largest segment of the real device, bytes (lwIP's `TCP_MSS` on an ESP32).
pub(super) const SEGMENT: u32 = 1436;
/// How long `glued-acks` holds acknowledgements back. A matter of taste, but far below [`Config::idle`](super::Config::idle).
const GLUE: Duration = Duration::from_millis(50);
/// Pause between the letters of a split OK. A matter of taste: long enough to arrive as two reads.
const SPLIT: Duration = Duration::from_millis(20);

/// State of the OTA port between two datagrams.
pub(super) enum Port {
    Idle,
    WaitAuth(Offer),
}

/// An invitation that waits for its authentication answer; there is no time-out.
pub(super) struct Offer {
    invitation: Invitation,
    nonce: String,
    scheme: Scheme,
}

/// What the host wants to send, and where to fetch it.
#[derive(Clone)]
pub(super) struct Invitation {
    command: Command,
    /// Source of the last packet.
    ip: Ipv4Addr,
    port: u16,
    size: u64,
    md5: String,
}

impl Port {
    /// A handshake that somebody abandoned: whatever its nonce was, nothing can answer it any more.
    fn abandoned(device: &Shared) -> Self {
        let invitation = Invitation {
            command: Command::Flash,
            ip: device.ip(),
            port: 0,
            size: 0,
            md5: String::new(),
        };
        Self::WaitAuth(Offer {
            invitation,
            nonce: String::new(),
            scheme: Scheme::Md5,
        })
    }

    /// Reads one datagram; an invitation comes back once the host may send.
    pub(super) async fn datagram(
        &mut self,
        device: &Shared,
        socket: &UdpSocket,
        bytes: &[u8],
        from: SocketAddr,
    ) -> Option<Invitation> {
        device.lock().counters.datagrams += 1;
        let IpAddr::V4(ip) = from.ip() else { return None };
        let mut text = Reader(bytes);
        // An empty datagram changes nothing (PROTOCOLS.md B1a).
        if bytes.is_empty() {
            return None;
        }
        if device.strikes(&Fault::SwallowedInvitation) {
            device.spend(&Fault::SwallowedInvitation);
            *self = Self::abandoned(device);
        }
        let command = text.int();
        match std::mem::replace(self, Self::Idle) {
            Self::Idle => self.invited(device, socket, command, text, ip, from).await,
            Self::WaitAuth(offer) if command == 200 => answered(device, socket, offer, text, ip, from).await,
            Self::WaitAuth(_) => {
                if matches!(command, 0 | 100) {
                    device.lock().counters.invitations += 1;
                    device.emit(
                        EventKind::Invited,
                        vec![("peer", from.to_string().into()), ("swallowed", true.into())],
                    );
                }
                None
            }
        }
    }

    async fn invited(
        &mut self,
        device: &Shared,
        socket: &UdpSocket,
        command: u64,
        mut text: Reader<'_>,
        ip: Ipv4Addr,
        from: SocketAddr,
    ) -> Option<Invitation> {
        let command = match command {
            0 => Command::Flash,
            100 => Command::Spiffs,
            _ => return None,
        };
        let port = u16::try_from(text.int()).ok();
        let size = text.int();
        text.skip_one();
        let md5 = text.until(b'\n').trim().to_owned();
        if md5.len() != 32 {
            return None;
        }
        device.lock().counters.invitations += 1;
        device.emit(
            EventKind::Invited,
            vec![
                ("peer", from.to_string().into()),
                ("swallowed", false.into()),
                ("port", port.into()),
                ("len_bytes", size.into()),
                ("md5", md5.as_str().into()),
            ],
        );
        let port = port?;
        let invitation = Invitation {
            command,
            ip,
            port,
            size,
            md5,
        };
        let Some((nonce, scheme)) = device.next_nonce() else {
            reply(device, socket, from, b"OK").await;
            return Some(invitation);
        };
        reply(device, socket, from, format!("AUTH {nonce}").as_bytes()).await;
        *self = Self::WaitAuth(Offer {
            invitation,
            nonce,
            scheme,
        });
        None
    }
}

/// Judges an authentication answer; the port is idle after it in any case.
async fn answered(
    device: &Shared,
    socket: &UdpSocket,
    offer: Offer,
    mut text: Reader<'_>,
    ip: Ipv4Addr,
    from: SocketAddr,
) -> Option<Invitation> {
    text.skip_one();
    let cnonce = text.until(b' ').into_owned();
    let response = text.until(b'\n').into_owned();
    let Offer {
        mut invitation,
        nonce,
        scheme,
    } = offer;
    {
        let mut state = device.lock();
        state.counters.answers += 1;
        state.counters.strangers += u64::from(ip != invitation.ip);
    }
    let fields = |accepted: bool| {
        vec![
            ("peer", from.to_string().into()),
            ("scheme", scheme.as_str().into()),
            ("accepted", accepted.into()),
        ]
    };
    if cnonce.len() != scheme.len() || response.len() != scheme.len() {
        device.lock().counters.rejected += 1;
        device.emit(EventKind::Auth, fields(false));
        return None;
    }
    let slow = device.find(|fault| {
        if let Fault::SlowAuth(seconds) = fault {
            Some(*seconds)
        } else {
            None
        }
    });
    if let Some(seconds) = slow {
        device.struck(&Fault::SlowAuth(seconds));
        sleep(Duration::from_secs_f64(seconds)).await;
    }
    let password = device.config.password.clone().unwrap_or_default();
    // 10,000 rounds are too long for a thread that other devices share.
    let expected = spawn_blocking(move || scheme.response(&password, &nonce, &cnonce))
        .await
        .ok()?;
    let accepted = response == expected && !device.strikes(&Fault::WrongPassword);
    device.emit(EventKind::Auth, fields(accepted));
    if !accepted {
        device.lock().counters.rejected += 1;
        device.set_report("error", "Auth Failed");
        reply(device, socket, from, b"Authentication Failed").await;
        return None;
    }
    if !device.strikes(&Fault::LostAuthOk) {
        reply(device, socket, from, b"OK").await;
    }
    invitation.ip = ip;
    Some(invitation)
}

async fn reply(device: &Shared, socket: &UdpSocket, to: SocketAddr, bytes: &[u8]) {
    if !device.loses_reply() {
        // A datagram that cannot be sent is a lost one; the host invites again.
        let _lost = socket.send_to(bytes, to).await;
    }
}

/// Reads a datagram as the sketch's `parseInt` and `readStringUntil` do.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    /// Leading spaces skipped, ends at the first non-digit; none = 0.
    fn int(&mut self) -> u64 {
        self.0 = self.0.trim_ascii_start();
        let n = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(n);
        self.0 = rest;
        digits.iter().fold(0, |sum: u64, digit| {
            sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
        })
    }

    fn skip_one(&mut self) {
        self.0 = self.0.get(1..).unwrap_or_default();
    }

    fn until(&mut self, end: u8) -> std::borrow::Cow<'_, str> {
        let mut parts = self.0.splitn(2, |byte| *byte == end);
        let text = parts.next().unwrap_or_default();
        self.0 = parts.next().unwrap_or_default();
        String::from_utf8_lossy(text)
    }
}

/// Fetches an image from the host that was answered OK.
pub(super) async fn fetch(device: &Shared, invitation: Invitation) -> After {
    let fits = (1..=device.capacity(invitation.command)).contains(&invitation.size);
    if !fits || device.strikes(&Fault::SlotTooSmall) {
        // Nothing tells the host: that is what makes this case hard (PROTOCOLS.md B1).
        device.set_report("error", "Begin Failed");
        return After::Idle;
    }
    if device.strikes(&Fault::NoCallBack) {
        device.set_report("error", "Connect Failed");
        return After::Idle;
    }
    let host = SocketAddrV4::new(invitation.ip, invitation.port);
    let Ok(Ok(stream)) = timeout(CONNECT_TIMEOUT, connect(device.ip(), host)).await else {
        device.set_report("error", "Connect Failed");
        return After::Idle;
    };
    device.lock().counters.connected += 1;
    let slot = Slot::new(
        invitation.command,
        device.capacity(invitation.command),
        Some(invitation.size),
        Some(invitation.md5),
    );
    let link = Link {
        device,
        stream,
        peer: SocketAddr::V4(host),
        slot,
        last: 0,
        held: String::new(),
        splits: device.strikes(&Fault::SplitAcks),
        glues: device.strikes(&Fault::GluedAcks),
    };
    link.run(invitation.size).await
}

async fn connect(own: Ipv4Addr, host: SocketAddrV4) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    narrow(&SockRef::from(&socket))?;
    socket.bind(SocketAddr::from((own, 0)))?;
    let stream = socket.connect(SocketAddr::V4(host)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Gives a socket the window and segments of the chip, as near as the kernel allows; before it connects or listens.
pub(super) fn narrow(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_recv_buffer_size(WINDOW)?;
    #[cfg(unix)]
    socket.set_tcp_mss(SEGMENT)?;
    Ok(())
}

/// A receiving connection.
struct Link<'a> {
    device: &'a Shared,
    stream: TcpStream,
    peer: SocketAddr,
    slot: Slot,
    /// The last count that was acknowledged.
    last: usize,
    /// Acknowledgements that are held back.
    held: String,
    splits: bool,
    glues: bool,
}

/// How receiving ended.
enum Stop {
    /// All bytes are here.
    Full,
    /// An error text is due.
    Text(String),
    /// The connection just ends.
    Silent,
    /// The device dies for a while.
    PowerLoss,
}

impl Link<'_> {
    async fn run(mut self, size: u64) -> After {
        let device = self.device;
        match self.receive(size).await {
            Stop::Full => {}
            Stop::Text(text) => {
                device.set_report("error", "End Failed");
                self.say(&format!("{text}\r\n")).await;
                return After::Idle;
            }
            Stop::Silent => {
                device.set_report("error", "Receive Failed");
                return After::Idle;
            }
            Stop::PowerLoss => return After::Restart(Reason::Power, Some(self.stream)),
        }
        // A host that has closed its side gets no OK (PROTOCOLS.md B1a).
        if half_closed(&self.stream) {
            device.set_report("error", "End Failed");
            self.say(&format!("{}\r\n", error::ABORTED)).await;
            return After::Idle;
        }
        let slot = std::mem::replace(&mut self.slot, Slot::new(Command::Flash, 0, None, None));
        let received = slot.finish(device.config.chip.id, 0);
        let ending = device.received(Method::Espota, self.peer, received);
        match &ending.reply {
            Reply::Ok => self.say("OK").await,
            Reply::Error(text) => self.say(&format!("{text}\r\n")).await,
            Reply::Reset => reset(&self.stream),
        }
        drop(self);
        if !ending.restarts {
            return After::Idle;
        }
        sleep(RESTART_DELAY).await;
        After::Restart(Reason::Update, None)
    }

    async fn receive(&mut self, size: u64) -> Stop {
        let device = self.device;
        let mut pace = Pace::new(device);
        let mut buffer = [0; READ_MAX_LEN];
        let mut n_resent = 0;
        while !self.slot.is_full() {
            let trouble = Trouble::next(device, Method::Espota);
            let n_before = trouble
                .as_ref()
                .map(|trouble| trouble.at.saturating_sub(self.slot.n_written()));
            if let (Some(trouble), Some(0)) = (&trouble, n_before) {
                return self.strike(trouble).await;
            }
            let waiting = if self.held.is_empty() {
                device.config.idle
            } else {
                GLUE
            };
            match timeout(waiting, self.stream.ready(Interest::READABLE)).await {
                Ok(Ok(ready)) if ready.is_read_closed() => return Stop::Text(error::ABORTED.to_owned()),
                Ok(Ok(_)) => {}
                Err(_) if !self.held.is_empty() => {
                    self.say("").await;
                    continue;
                }
                Err(_) if self.last > 0 && n_resent < N_RESENDS => {
                    n_resent += 1;
                    self.say(&self.last.to_string()).await;
                    continue;
                }
                Ok(Err(_)) | Err(_) => return Stop::Silent,
            }
            let limit = n_before.map_or(READ_MAX_LEN, |n| usize::try_from(n).unwrap_or(READ_MAX_LEN));
            let n = match self.stream.try_read(&mut buffer[..limit.min(READ_MAX_LEN)]) {
                Ok(0) => return Stop::Text(error::ABORTED.to_owned()),
                Ok(n) => n,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return Stop::Silent,
            };
            if self.slot.n_written() == 0 {
                device.receiving(Method::Espota, self.peer, Some(size));
            }
            n_resent = 0;
            // Bytes beyond the size are not written and not acknowledged, and the update never ends (PROTOCOLS.md B1a).
            if n as u64 > self.slot.n_left() {
                continue;
            }
            pace.write(n).await;
            if let Err(text) = self.slot.write(&buffer[..n]) {
                return Stop::Text(text.to_owned());
            }
            self.last = n;
            self.acknowledge(n).await;
        }
        Stop::Full
    }

    async fn acknowledge(&mut self, n: usize) {
        let count = n.to_string();
        if self.glues {
            self.held.push_str(&count);
            return;
        }
        self.say(&count).await;
    }

    /// Sends what is held back and `text`; a failure is only logged on the real device.
    async fn say(&mut self, text: &str) {
        let mut line = std::mem::take(&mut self.held);
        line.push_str(text);
        let sending = async {
            if !self.splits {
                return self.stream.write_all(line.as_bytes()).await;
            }
            for byte in line.as_bytes() {
                self.stream.write_all(&[*byte]).await?;
                if !byte.is_ascii_digit() {
                    sleep(SPLIT).await;
                }
            }
            Ok(())
        };
        if !matches!(timeout(ACK_TIMEOUT, sending).await, Ok(Ok(()))) {
            tracing::debug!(device = %self.device.own_mac(), text, "reply not taken");
        }
    }

    async fn strike(&mut self, trouble: &Trouble) -> Stop {
        trouble.strike(self.device);
        match trouble.fault {
            Fault::RebootAt(_) => Stop::PowerLoss,
            Fault::StallAt(_) | Fault::StallOnceAt(_) => {
                sleep(self.device.config.idle * (u32::from(N_RESENDS) + 1)).await;
                Stop::Silent
            }
            Fault::EarlyError(_) => {
                // The host's next bytes are here and stay unread.
                let _more = timeout(self.device.config.idle, self.stream.readable()).await;
                Stop::Text(error::FLASH_WRITE.to_owned())
            }
            _ => {
                reset(&self.stream);
                Stop::Silent
            }
        }
    }
}

/// A fault in the middle of an image.
pub(super) struct Trouble {
    /// Bytes of the image after which it strikes.
    pub(super) at: u64,
    pub(super) fault: Fault,
}

impl Trouble {
    /// The fault of the device that strikes first within an image that comes by `method`.
    pub(super) fn next(device: &Shared, method: Method) -> Option<Self> {
        let at = |fault: &Fault| match fault {
            Fault::EarlyError(_) if method != Method::Espota => None,
            Fault::DropAfter(at)
            | Fault::DropOnceAfter(at)
            | Fault::StallAt(at)
            | Fault::StallOnceAt(at)
            | Fault::RebootAt(at)
            | Fault::EarlyError(at) => Some(u64::from(*at)),
            _ => None,
        };
        let state = device.lock();
        let (at, fault) = state
            .faults()
            .filter_map(|fault| Some((at(fault)?, fault)))
            .min_by_key(|(at, _)| *at)?;
        Some(Self {
            at,
            fault: fault.clone(),
        })
    }

    /// Reports it, and forgets it if it strikes once only.
    pub(super) fn strike(&self, device: &Shared) {
        device.struck(&self.fault);
        if matches!(self.fault, Fault::DropOnceAfter(_) | Fault::StallOnceAt(_)) {
            device.spend(&self.fault);
        }
    }
}

/// Makes the coming close a reset.
pub(super) fn reset(stream: &TcpStream) {
    if let Err(err) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::warn!(%err, "closing without a reset");
    }
}

/// True when the host has closed its side and everything before is read.
fn half_closed(stream: &TcpStream) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    matches!(SockRef::from(stream).peek(&mut byte), Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_end_at_the_first_non_digit_and_skip_spaces() {
        let mut text = Reader(b"0   45678 3000 48d1\nrest");
        assert_eq!((text.int(), text.int(), text.int()), (0, 45678, 3000));
        text.skip_one();
        assert_eq!(text.until(b'\n'), "48d1");
        assert_eq!(text.until(b'\n'), "rest");
        assert_eq!(text.until(b'\n'), "");
        assert_eq!(Reader(b"12x").int(), 12);
        assert_eq!(Reader(b"hello").int(), 0);
    }
}
