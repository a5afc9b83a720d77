//! The web server: synchronous like the real one, one connection at a time (PROTOCOLS.md C, E).

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    After, Reason,
    fault::{EnableAnswer, Fault, Nonsense},
    multipart::{Form, Step},
    ota::{RESTART_DELAY, Trouble, reset},
    pace::Pace,
    pages,
    slot::{Command, Slot},
    state::{FAIL, Method, Reply, Shared},
};

/// How long the server waits for the client, in either direction. Guess: `HTTP_MAX_DATA_WAIT` and `HTTP_MAX_POST_WAIT` of the
/// Arduino `WebServer`; to be measured on the device.
pub(super) const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest request head, bytes. Guess: the real limit is the heap.
const HEAD_MAX_LEN: usize = 8192;
/// Longest JSON body that is read, bytes. Guess: the real limit is the heap.
const JSON_MAX_LEN: u64 = 4096;
/// Largest read of a body, bytes (Arduino `WebServer`: `HTTP_UPLOAD_BUFLEN`).
const READ_MAX_LEN: usize = 1436;
/// Length of [`Nonsense::Huge`], bytes.
const HUGE_LEN: usize = 16 << 20;
/// [`Nonsense::Endless`] does end, so that a forgotten client cannot keep a device for ever.
const ENDLESS: Duration = Duration::from_mins(1);

/// Between two bytes of [`Fault::StatusSlow`]: a status of some 700 bytes takes minutes.
const SLOW_PAUSE: Duration = Duration::from_millis(200);

const JSON: &str = "application/json";
const PLAIN: &str = "text/plain";
const HTML: &str = "text/html";
const UPDATE_PAGE: &str = concat!(
    "<!DOCTYPE html><html><head><title>IR Remote Mini</title></head><body><h1>Firmware update</h1>",
    "<form method=\"POST\" action=\"/update\" enctype=\"multipart/form-data\">",
    "<input type=\"file\" name=\"firmware\" accept=\".bin\"><input type=\"submit\" value=\"Update\"></form></body></html>",
);

/// The head of a request, and how much of its body is to come.
struct Request {
    method: String,
    path: String,
    boundary: Option<String>,
    /// Bytes of the body that came with the head.
    early: Vec<u8>,
    /// Bytes of the body that are still to come.
    left: u64,
}

/// Serves one connection.
pub(super) async fn serve(device: &Shared, mut stream: TcpStream, peer: SocketAddr) -> After {
    let Some(mut request) = read_head(&mut stream).await else {
        return After::Idle;
    };
    device.lock().counters.http_requests += 1;
    let oddity = device.find(|fault| is_about_status(fault).then(|| fault.clone()));
    match (request.method.as_str(), request.path.as_str()) {
        (_, "/api/status") | ("GET", "/api/ota/status") if oddity.is_some() => {
            if let Some(fault) = oddity {
                device.struck(&fault);
                answer_oddly(device, &mut stream, &fault).await;
            }
        }
        (_, "/api/status") => answer(&mut stream, 200, JSON, &pages::status(device)).await,
        ("GET", "/api/ota/status") => answer(&mut stream, 200, JSON, &pages::ota_status(device)).await,
        ("GET", "/api/ota/progress") => answer(&mut stream, 200, JSON, &pages::ota_progress(device)).await,
        ("POST", "/api/ota/enable") => {
            discard_body(&mut stream, &mut request).await;
            let (status, body) = set_ota(device, true);
            answer(&mut stream, status, JSON, &body).await;
        }
        ("POST", "/api/ota/disable") => {
            discard_body(&mut stream, &mut request).await;
            let (status, body) = set_ota(device, false);
            answer(&mut stream, status, JSON, &body).await;
        }
        ("POST", "/api/ota/start") => {
            let body = read_json(&mut stream, &mut request).await;
            let (status, body) = start_ota(device, &body);
            answer(&mut stream, status, JSON, &body).await;
        }
        ("POST", "/api/restart") => {
            discard_body(&mut stream, &mut request).await;
            // Guess: the text of the answer is not in PROTOCOLS.md.
            answer(
                &mut stream,
                200,
                JSON,
                r#"{"status":"success","message":"Restarting"}"#,
            )
            .await;
            drop(stream);
            sleep(RESTART_DELAY).await;
            return After::Restart(Reason::Request, None);
        }
        (_, "/update") if device.strikes(&Fault::NoWebUpdate) => {
            // As with any other path that it does not know.
            answer(&mut stream, 404, PLAIN, "Not found").await;
        }
        ("GET", "/update") => answer(&mut stream, 200, HTML, UPDATE_PAGE).await,
        ("POST", "/update") => return Upload::new(device, stream, peer, &request).run().await,
        _ => answer(&mut stream, 404, PLAIN, "Not found").await,
    }
    After::Idle
}

async fn read_head(stream: &mut TcpStream) -> Option<Request> {
    let mut head = Vec::with_capacity(1024);
    let end = loop {
        if let Some(at) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at;
        }
        if head.len() >= HEAD_MAX_LEN {
            return None;
        }
        let n = timeout(CLIENT_TIMEOUT, stream.read_buf(&mut head))
            .await
            .ok()?
            .ok()?;
        if n == 0 {
            return None;
        }
    };
    let early = head.split_off(end + 4);
    let text = String::from_utf8_lossy(&head);
    let mut lines = text.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let method = words.next()?.to_owned();
    let path = words.next()?.split('?').next()?.to_owned();
    let (mut len, mut boundary) = (0, None);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            len = value.parse().ok()?;
        } else if name.eq_ignore_ascii_case("content-type") {
            boundary = value
                .split_once("boundary=")
                .map(|(_, text)| text.trim_matches('"').to_owned());
        }
    }
    let left = u64::saturating_sub(len, early.len() as u64);
    Some(Request {
        method,
        path,
        boundary,
        early,
        left,
    })
}

async fn read_json(stream: &mut TcpStream, request: &mut Request) -> Vec<u8> {
    let mut body = std::mem::take(&mut request.early);
    let mut rest = stream.take(request.left.min(JSON_MAX_LEN));
    // A body that does not come is judged as far as it came.
    let _late = timeout(CLIENT_TIMEOUT, rest.read_to_end(&mut body)).await;
    body
}

/// Reads a body that nobody looks at, so that the close is no reset.
async fn discard_body(stream: &mut TcpStream, request: &mut Request) {
    read_json(stream, request).await;
}

async fn answer(stream: &mut TcpStream, status: u16, kind: &str, body: &str) {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        _ => "Error",
    };
    let text = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    send(stream, text.as_bytes()).await;
    finish(stream).await;
}

/// False when the client is gone; it notices that itself.
async fn send(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    matches!(timeout(CLIENT_TIMEOUT, stream.write_all(bytes)).await, Ok(Ok(())))
}

async fn finish(stream: &mut TcpStream) {
    if let Err(err) = stream.shutdown().await {
        tracing::debug!(%err, "client was gone before its answer ended");
    }
}

fn is_about_status(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::NonsenseStatus(_)
            | Fault::StatusHuge
            | Fault::StatusTruncated
            | Fault::StatusWrongTypes
            | Fault::StatusNotUtf8
            | Fault::StatusSlow
            | Fault::StatusRedirect(_)
            | Fault::EndlessHeaders
    )
}

async fn answer_oddly(device: &Shared, stream: &mut TcpStream, fault: &Fault) {
    let status = pages::status(device);
    let head =
        |len: usize| format!("HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\nContent-Length: {len}\r\n\r\n");
    match fault {
        Fault::NonsenseStatus(kind) => answer_nonsense(stream, *kind).await,
        Fault::StatusHuge => answer_nonsense(stream, Nonsense::Huge).await,
        // Unlike that nonsense, it is JSON for every reader.
        Fault::StatusWrongTypes => {
            answer(stream, 200, JSON, &pages::WRONG_TYPES.replace("-1e400", "1")).await;
        }
        Fault::StatusTruncated => {
            let half = &status[..status.len() / 2];
            send(stream, format!("{}{half}", head(status.len())).as_bytes()).await;
            finish(stream).await;
        }
        Fault::StatusNotUtf8 => {
            let mut body = status.into_bytes();
            for key in [&br#""hostname":""#[..], br#""firmwareVersion":""#] {
                if let Some(at) = body.windows(key.len()).position(|bytes| bytes == key) {
                    let value = at + key.len();
                    // A lone continuation byte, a byte that is never used, and half of a character.
                    body.splice(value..value, [0x80, 0xFF, 0xC3]);
                }
            }
            send(stream, &[head(body.len()).as_bytes(), &body].concat()).await;
            finish(stream).await;
        }
        Fault::StatusSlow => {
            for byte in format!("{}{status}", head(status.len())).bytes() {
                if !send(stream, &[byte]).await {
                    return;
                }
                sleep(SLOW_PAUSE).await;
            }
            finish(stream).await;
        }
        Fault::StatusRedirect(url) => {
            let text = format!(
                "HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            send(stream, text.as_bytes()).await;
            finish(stream).await;
        }
        Fault::EndlessHeaders => {
            send(stream, b"HTTP/1.1 200 OK\r\n").await;
            let filling = format!("X-Filling: {}\r\n", "a".repeat(500));
            let sending = async { while send(stream, filling.as_bytes()).await {} };
            let _ended = timeout(ENDLESS, sending).await;
        }
        _ => {}
    }
}

async fn answer_nonsense(stream: &mut TcpStream, kind: Nonsense) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\nConnection: close\r\n");
    match kind {
        Nonsense::Types => answer(stream, 200, JSON, pages::WRONG_TYPES).await,
        Nonsense::Empty => answer(stream, 200, JSON, "").await,
        Nonsense::Html => answer(stream, 200, HTML, UPDATE_PAGE).await,
        Nonsense::Binary => {
            let mut bytes = format!("{head}Content-Length: 256\r\n\r\n").into_bytes();
            bytes.extend((0..=255_u8).rev());
            send(stream, &bytes).await;
            finish(stream).await;
        }
        Nonsense::Huge => {
            let (open, close) = (r#"{"deviceType":"mini","history":""#, r#""}"#);
            let n_filling = HUGE_LEN - open.len() - close.len();
            let filling = vec![b'a'; 1 << 16];
            let mut fine = send(
                stream,
                format!("{head}Content-Length: {HUGE_LEN}\r\n\r\n{open}").as_bytes(),
            )
            .await;
            let mut n_sent = 0;
            while fine && n_sent < n_filling {
                let n = filling.len().min(n_filling - n_sent);
                fine = send(stream, &filling[..n]).await;
                n_sent += n;
            }
            send(stream, close.as_bytes()).await;
            finish(stream).await;
        }
        Nonsense::Endless => {
            send(
                stream,
                format!("{head}\r\n{{\"deviceType\":\"mini\",\"history\":[").as_bytes(),
            )
            .await;
            let filling = "0,".repeat(512);
            let sending = async { while send(stream, filling.as_bytes()).await {} };
            let _ended = timeout(ENDLESS, sending).await;
        }
    }
}

fn set_ota(device: &Shared, on: bool) -> (u16, String) {
    let stays_off = device.find(|fault| {
        if let Fault::OtaStaysOff(how) = fault {
            Some(*how)
        } else {
            None
        }
    });
    if let (true, Some(how)) = (on, stays_off) {
        device.struck(&Fault::OtaStaysOff(how));
        if how == EnableAnswer::Error {
            return (
                500,
                r#"{"status":"error","message":"OTA setup failed"}"#.to_owned(),
            );
        }
    } else {
        device.lock().ota_enabled = on;
    }
    let word = if on { "enabled" } else { "disabled" };
    (
        200,
        format!(r#"{{"status":"success","message":"OTA updates {word}","otaEnabled":{on}}}"#),
    )
}

fn start_ota(device: &Shared, body: &[u8]) -> (u16, String) {
    let error = |message: &str| (400, format!(r#"{{"status":"error","message":"{message}"}}"#));
    if body.is_empty() {
        return error("No JSON data received");
    }
    if serde_json::from_slice::<serde_json::Value>(body).is_err() {
        return error("Invalid JSON");
    }
    if !device.running().ota_enabled {
        return error("OTA is disabled");
    }
    let host = serde_json::Value::from(device.config.host_name.as_str());
    let port = device.ota_port;
    let body = format!(
        concat!(
            r#"{{"status":"success","message":"OTA update initiated. Use ESP32 OTA tools to push firmware.","#,
            r#""otaReady":true,"otaPort":{port},"hostname":{host}}}"#
        ),
        port = port,
        host = host
    );
    (200, body)
}

/// `POST /update`: any file part is an image; OTA switched off does not matter (PROTOCOLS.md E3).
struct Upload<'a> {
    device: &'a Shared,
    stream: TcpStream,
    peer: SocketAddr,
    form: Form,
    left: u64,
    len: u64,
    pace: Pace,
    slot: Option<Slot>,
    failed: bool,
}

/// How an upload ended.
enum Stop {
    /// The whole body was read.
    Read,
    /// Nothing is said.
    Silent,
    /// An error status is due.
    Status(u16),
    /// The device dies for a while.
    PowerLoss,
}

impl<'a> Upload<'a> {
    fn new(device: &'a Shared, stream: TcpStream, peer: SocketAddr, request: &Request) -> Self {
        // Without a boundary no delimiter is ever found: the update fails, as it does without a file.
        let mut form = Form::new(request.boundary.as_deref().unwrap_or("\0"));
        form.push(&request.early);
        let len = request.left + request.early.len() as u64;
        Self {
            device,
            stream,
            peer,
            form,
            left: request.left,
            len,
            pace: Pace::new(device),
            slot: None,
            failed: false,
        }
    }

    async fn run(mut self) -> After {
        let device = self.device;
        match self.receive().await {
            Stop::Read => {}
            Stop::Silent => {
                device.set_report("error", "Update write failed");
                return After::Idle;
            }
            Stop::Status(status) => {
                answer(&mut self.stream, status, PLAIN, "Update error").await;
                // The rest of the body stays unread; the client gets a moment to read the answer before the reset.
                sleep(Duration::from_millis(500)).await;
                return After::Idle;
            }
            Stop::PowerLoss => return After::Restart(Reason::Power, Some(self.stream)),
        }
        let Some(slot) = self.slot.take().filter(|_| !self.failed) else {
            device.set_report("error", "Update end failed");
            answer(&mut self.stream, 200, PLAIN, FAIL).await;
            return self.restart().await;
        };
        let received = slot.finish(device.config.chip.id, 0);
        let ending = device.received(Method::Http, self.peer, received);
        match &ending.reply {
            Reply::Ok => answer(&mut self.stream, 200, PLAIN, "OK").await,
            Reply::Error(text) => answer(&mut self.stream, 200, PLAIN, text).await,
            Reply::Reset => reset(&self.stream),
        }
        if ending.restarts {
            self.restart().await
        } else {
            After::Idle
        }
    }

    async fn restart(self) -> After {
        drop(self.stream);
        sleep(RESTART_DELAY).await;
        After::Restart(Reason::Update, None)
    }

    async fn receive(&mut self) -> Stop {
        let early_error = self.device.find(|f| {
            if let Fault::HttpEarlyError(s) = f {
                Some(*s)
            } else {
                None
            }
        });
        loop {
            if let Some(status) = early_error
                && self.left < self.len / 2
            {
                self.device.struck(&Fault::HttpEarlyError(status));
                return Stop::Status(status);
            }
            match self.form.step() {
                Step::Begin => {
                    let capacity = self.device.capacity(Command::Flash);
                    self.slot = Some(Slot::new(Command::Flash, capacity, None, None));
                    self.failed = false;
                }
                Step::Bytes(n) => {
                    if let Some(stop) = self.write(n).await {
                        return stop;
                    }
                }
                Step::End => {}
                Step::NeedMore | Step::Done if self.left == 0 => return Stop::Read,
                Step::NeedMore | Step::Done => {
                    if self.read().await.is_err() {
                        return Stop::Silent;
                    }
                }
            }
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; READ_MAX_LEN];
        let limit = usize::try_from(self.left)
            .unwrap_or(READ_MAX_LEN)
            .min(READ_MAX_LEN);
        let n = timeout(CLIENT_TIMEOUT, self.stream.read(&mut buffer[..limit])).await??;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        self.form.push(&buffer[..n]);
        Ok(())
    }

    /// Takes the next `n` bytes of the image, or as many as come before a fault.
    async fn write(&mut self, n: usize) -> Option<Stop> {
        let device = self.device;
        let slot = self.slot.as_mut()?;
        if slot.n_written() == 0 {
            device.receiving(Method::Http, self.peer, None);
        }
        let mut n_taken = n;
        if let Some(trouble) = Trouble::next(device, Method::Http) {
            let n_before = trouble.at.saturating_sub(slot.n_written());
            if n_before == 0 {
                trouble.strike(device);
                return Some(self.strike(&trouble.fault).await);
            }
            n_taken = n.min(usize::try_from(n_before).unwrap_or(n));
        }
        if !self.failed {
            self.pace.write(n_taken).await;
            // After an error the rest is read and dropped; the answer says FAIL.
            self.failed = slot.write(self.form.front(n_taken)).is_err();
        }
        self.form.consume(n_taken);
        None
    }

    async fn strike(&mut self, fault: &Fault) -> Stop {
        match fault {
            Fault::RebootAt(_) => Stop::PowerLoss,
            Fault::StallAt(_) | Fault::StallOnceAt(_) => {
                sleep(CLIENT_TIMEOUT).await;
                Stop::Silent
            }
            _ => {
                reset(&self.stream);
                Stop::Silent
            }
        }
    }
}
