//! The unit's web server: one request per connection, and 200 whatever happens.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::fault::Fault;
use super::form::{self, Part};
use super::pages;
use super::unit::{UPLOAD_FIELD, Unit};
use crate::EventKind;

/// The unit reads this much at a time, bytes: the smaller of its two window sizes in the capture of an upload.
const READ_LEN: usize = 735;
/// Longest request head, bytes. Guess: a real unit has a limit, its value is unknown.
const HEAD_MAX_LEN: usize = 8 * 1024;
/// Longest body, bytes: above every firmware file (they are below 10 MiB).
const BODY_MAX_LEN: usize = 16 * 1024 * 1024;
/// How late the pace may run and still catch up: hides the timer's coarseness, not a sender that was slow.
const CATCH_UP: Duration = Duration::from_millis(100);
/// How long the unit waits for the client to close after the reply. Guess: the client in the capture closed at once.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// How an exchange ended.
enum Ending {
    /// Replied; the connection is closed in the usual way.
    Replied,
    /// Replied to an upload: the client's FIN is answered with a reset.
    UploadReplied,
    /// Reset without a reply.
    Cut,
    /// The client went away, or sent what is no request.
    Dropped,
}

/// Serves the one request of a connection, and asks for the restart if it flashed the unit.
pub(super) async fn serve(unit: Arc<Unit>, mut stream: TcpStream) {
    let Ok(peer) = stream.peer_addr() else { return };
    let mut has_flashed = false;
    let ending = exchange(&unit, &mut stream, peer.ip(), &mut has_flashed).await;
    match ending {
        Ok(Ending::Replied) => {
            let _ = stream.shutdown().await;
            wait_for_fin(&mut stream).await;
        }
        Ok(Ending::UploadReplied) => {
            wait_for_fin(&mut stream).await;
            reset(&stream);
        }
        Ok(Ending::Cut) => reset(&stream),
        Ok(Ending::Dropped) => {}
        Err(error) => tracing::debug!(%peer, %error, "connection lost"),
    }
    drop(stream);
    if has_flashed {
        unit.restart.notify_one();
    }
}

async fn exchange(
    unit: &Unit,
    stream: &mut TcpStream,
    peer: IpAddr,
    has_flashed: &mut bool,
) -> io::Result<Ending> {
    if unit.takes_effect(&Fault::HttpSilent) {
        return std::future::pending().await;
    }
    let mut incoming = Incoming {
        stream,
        bytes: Vec::new(),
        pace: Pace::new(unit.config.rate_bytes_per_s),
    };
    let Some(request) = incoming.head(unit.compares_header_case()).await? else {
        return Ok(Ending::Dropped);
    };
    unit.count(|counters| counters.requests += 1);

    let boundary = if request.method == "POST" {
        form::boundary(&request.content_type)
    } else {
        None
    };
    let reply = if let Some(boundary) = boundary
        && request.path == "/g1.html"
        && unit.is_authorised(peer)
    {
        return upload(unit, incoming, peer, &request, boundary, has_flashed).await;
    } else {
        // Guess: a body that the unit has no use for is read to its end all the same.
        incoming.body(request.content_len).await?;
        page(unit, peer, &request, &incoming.bytes)
    };
    write_reply(stream, &reply).await?;
    Ok(Ending::Replied)
}

/// The page for any request but an upload.
fn page(unit: &Unit, peer: IpAddr, request: &Request, body: &[u8]) -> Vec<u8> {
    let is_form = request
        .content_type
        .to_ascii_lowercase()
        .starts_with("application/x-www-form-urlencoded");
    let field = |name| {
        if is_form {
            form::urlencoded(body, name)
        } else {
            None
        }
    };
    match (request.method.as_str(), request.path.as_str()) {
        (_, "/ajax.xml") => pages::AJAX.to_vec(),
        ("POST", path @ ("/" | "/g1.html")) => {
            if let (Some(user), Some(password)) = (field("1"), field("2")) {
                unit.log_in(peer, &user, &password)
            } else if path == "/" && field("4").is_some() {
                unit.log_out(peer)
            } else {
                unit.page(peer)
            }
        }
        (_, "/st.html") => unit.settings_page(peer),
        _ => unit.page(peer),
    }
}

/// Reads an upload at the unit's pace, judges and flashes it.
async fn upload(
    unit: &Unit,
    mut incoming: Incoming<'_>,
    peer: IpAddr,
    request: &Request,
    boundary: &str,
    has_flashed: &mut bool,
) -> io::Result<Ending> {
    incoming.pace = Pace::new(unit.upload_rate());
    let cut_len = unit
        .cut_at_percent()
        .map(|percent| request.content_len * usize::from(percent) / 100);
    let mut is_announced = false;
    loop {
        if !is_announced && let Some(file_name) = image_begins(&incoming.bytes) {
            is_announced = true;
            unit.count(|counters| counters.receiving += 1);
            let len = request.content_len.into();
            unit.emit(
                EventKind::Receiving,
                vec![
                    ("peer", peer.to_string().into()),
                    ("file_name", file_name.into()),
                    ("body_len_bytes", len),
                ],
            );
        }
        if cut_len.is_some_and(|cut_len| incoming.bytes.len() >= cut_len) {
            unit.cut();
            return Ok(Ending::Cut);
        }
        if incoming.bytes.len() >= request.content_len {
            break;
        }
        incoming.some_of_body(request.content_len).await?;
    }

    let Incoming {
        stream, bytes: body, ..
    } = incoming;
    let parts = form::multipart(&body, boundary).unwrap_or_default();
    let verdict = unit.judge(&parts);
    if let Some(Part {
        file_name, content, ..
    }) = parts.iter().find(|part| part.name == UPLOAD_FIELD)
    {
        unit.count(|counters| counters.received += 1);
        let fields = vec![
            ("len_bytes", content.len().into()),
            ("sha256", hex::encode(Sha256::digest(content)).into()),
            ("peer", peer.to_string().into()),
            ("method", "komfovent".into()),
            ("file_name", (*file_name).into()),
            ("accepted", verdict.flash.is_some().into()),
        ];
        unit.emit(EventKind::Received, fields);
    }
    if let Some(flash) = verdict.flash {
        sleep(unit.silence()).await;
        unit.flash(flash);
        *has_flashed = true;
        if unit.takes_effect(&Fault::ReplyLost) {
            return Ok(Ending::Cut);
        }
    }
    write_reply(stream, &unit.status_page(&verdict.status)).await?;
    Ok(Ending::UploadReplied)
}

/// The file name, once the headers of the part with the image have arrived.
fn image_begins(body: &[u8]) -> Option<String> {
    let part = form::find(body, format!("name=\"{UPLOAD_FIELD}\"").as_bytes())?;
    let head_len = form::find(&body[part..], b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&body[part..part + head_len]);
    let file_name = head
        .split_once("filename=\"")
        .and_then(|(_, rest)| rest.split_once('"'));
    Some(file_name.map_or_else(String::new, |(file_name, _)| file_name.to_owned()))
}

/// Headers in exactly this order (capture of a real unit).
async fn write_reply(stream: &mut TcpStream, body: &[u8]) -> io::Result<()> {
    let len = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: C6\r\nConnection: close\r\nContent-Type: text/html\r\nContent-Length: {len}\r\n\
         Cache-Control: no-cache\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await
}

/// Waits until the client closes its side, but not for long; what it still sends is thrown away.
async fn wait_for_fin(stream: &mut TcpStream) {
    let mut rest = [0; 1024];
    let drain = async { while matches!(stream.read(&mut rest).await, Ok(len) if len > 0) {} };
    let _ = timeout(CLOSE_WAIT, drain).await;
}

/// Makes dropping the connection a reset.
fn reset(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "no reset");
    }
}

/// What matters of a request's head.
struct Request {
    method: String,
    path: String,
    content_len: usize,
    content_type: String,
}

/// A request coming in.
struct Incoming<'a> {
    stream: &'a mut TcpStream,
    bytes: Vec<u8>,
    pace: Pace,
}

impl Incoming<'_> {
    /// The head; none if the client closes or sends what is no request. Leaves the bytes behind it.
    async fn head(&mut self, compares_case: bool) -> io::Result<Option<Request>> {
        loop {
            if let Some(len) = form::find(&self.bytes, b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.bytes[..len]).into_owned();
                self.bytes.drain(..len + 4);
                return Ok(Request::parse(&head, compares_case));
            }
            if self.bytes.len() > HEAD_MAX_LEN || !self.read_up_to(READ_LEN).await? {
                return Ok(None);
            }
        }
    }

    /// The whole body of `content_len` bytes.
    async fn body(&mut self, content_len: usize) -> io::Result<()> {
        while self.bytes.len() < content_len {
            self.some_of_body(content_len).await?;
        }
        self.bytes.truncate(content_len);
        Ok(())
    }

    /// A few more bytes of the body; an error if the client is gone.
    async fn some_of_body(&mut self, content_len: usize) -> io::Result<()> {
        let missing = content_len.saturating_sub(self.bytes.len());
        if self.read_up_to(missing.min(READ_LEN)).await? {
            return Ok(());
        }
        Err(ErrorKind::UnexpectedEof.into())
    }

    /// Reads once, and waits for as long as the unit takes for it; false at the end.
    async fn read_up_to(&mut self, len: usize) -> io::Result<bool> {
        let mut chunk = [0; READ_LEN];
        let len = self.stream.read(&mut chunk[..len]).await?;
        self.bytes.extend_from_slice(&chunk[..len]);
        self.pace.wait_for(len).await;
        Ok(len > 0)
    }
}

impl Request {
    fn parse(head: &str, compares_case: bool) -> Option<Self> {
        let (line, headers) = head.split_once("\r\n")?;
        let mut words = line.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        words.next().filter(|version| version.starts_with("HTTP/1."))?;
        let header = |wanted: &str| {
            headers.split("\r\n").find_map(|header| {
                let (name, value) = header.split_once(':')?;
                let is_same = if compares_case {
                    name == wanted
                } else {
                    name.eq_ignore_ascii_case(wanted)
                };
                is_same.then(|| value.trim().to_owned())
            })
        };
        header("Host")?;
        // Without a length there is no body: chunks are not known to work.
        let content_len = header("Content-Length").map_or(Some(0), |len| len.parse().ok())?;
        let path = target.split('?').next()?.to_owned();
        let content_type = header("Content-Type").unwrap_or_default();
        (content_len <= BODY_MAX_LEN).then(|| Self {
            method: method.to_owned(),
            path,
            content_len,
            content_type,
        })
    }
}

/// Keeps to a number of bytes a second.
struct Pace {
    bytes_per_s: u32,
    due: Instant,
}

impl Pace {
    fn new(bytes_per_s: u32) -> Self {
        Self {
            bytes_per_s,
            due: Instant::now(),
        }
    }

    async fn wait_for(&mut self, len: usize) {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let now = Instant::now();
        let start = self.due.max(now.checked_sub(CATCH_UP).unwrap_or(now));
        self.due = start + Duration::from_secs_f64(f64::from(len) / f64::from(self.bytes_per_s.max(1)));
        // Sleeping is never shorter than a millisecond; smaller debts add up until they are worth it.
        if self.due > now + Duration::from_millis(1) {
            sleep_until(self.due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOWER: &str = "POST / HTTP/1.1\r\nHost: unit\r\ncontent-length: 5";

    #[test]
    fn old_firmware_compares_header_names_case_by_case() {
        assert_eq!(Request::parse(LOWER, false).unwrap().content_len, 5);
        assert_eq!(Request::parse(LOWER, true).unwrap().content_len, 0);
        let upper = LOWER.replace("content-length", "Content-Length");
        assert_eq!(Request::parse(&upper, true).unwrap().content_len, 5);
    }

    #[test]
    fn what_is_no_request_is_dropped() {
        for head in [
            "",
            "GET /\r\nHost: unit",
            "GET / HTTP/1.1\r\nAccept: */*",
            "POST / HTTP/1.1\r\nHost: unit\r\nContent-Length: many",
            "POST / HTTP/1.1\r\nHost: unit\r\nContent-Length: 99999999999",
        ] {
            assert!(Request::parse(head, false).is_none(), "{head:?}");
        }
    }
}
