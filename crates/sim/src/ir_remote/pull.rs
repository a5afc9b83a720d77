//! The update that a device is told of by MQTT and pulls by HTTP (PROTOCOLS.md E5).
//!
//! The firmware that was published has no such thing: this is how one would behave that has.
//! What E5 leaves open is decided here: the device says `rebooting` before it restarts, and `done` (or `failed`, where its boot loader went
//! back) once it is up again, because it keeps the request over the restart.
//! Like the web page, and unlike `ArduinoOTA`, it does not care whether OTA is switched on.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, lookup_host},
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{
    After, Reason,
    fault::Fault,
    ota::{RESTART_DELAY, Trouble, narrow, reset},
    pace::Pace,
    slot::{Command, Slot},
    state::{Method, Reply, Shared},
};
use crate::{EventKind, mqtt::Message};

/// Keys of a command; any other one is a command of somebody else, or of a later version.
const KEYS: [&str; 7] = ["request_id", "url", "size", "sha256", "md5", "version", "expires"];
/// Longest request id, version and address, bytes. Guess: what a sketch would have room for.
const ID_MAX_LEN: usize = 64;
const URL_MAX_LEN: usize = 512;
/// How long the server of the image may be silent (Arduino `HTTPClient`: `HTTPCLIENT_DEFAULT_TCP_TIMEOUT`).
const SERVER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest head of an answer, bytes. Guess: the real limit is the heap.
const HEAD_MAX_LEN: usize = 4096;
/// Largest read of an image, bytes (arduino-esp32 `HTTPUpdate` reads what TCP has, at most one segment).
const READ_MAX_LEN: usize = 1436;
/// Progress is told in steps of so many per cent. A matter of taste.
const PROGRESS_STEP: u64 = 5;
/// What [`Fault::MqttNonsenseProgress`] says in turn.
const NONSENSE: [&str; 7] = ["-5", "900", "\"many\"", "null", "3.75", "1e300", "40"];
/// How long an answer may take to reach the connection before the sketch goes on. A matter of taste.
const SAY_TIMEOUT: Duration = Duration::from_secs(2);

/// What a device listens to and speaks on (PROTOCOLS.md E5).
pub(super) struct Topics {
    pub(super) command: String,
    pub(super) answer: String,
    pub(super) availability: String,
}

impl Topics {
    /// Those of the device whose MAC is these twelve hex digits.
    pub(super) fn of(mac: &str) -> Self {
        let root = format!("home/ir_remote_mini/{mac}");
        Self {
            command: format!("{root}/cmd/update"),
            answer: format!("{root}/update"),
            availability: format!("{root}/availability"),
        }
    }
}

/// From the sketch to its connection to the broker.
pub(super) enum Said {
    /// An answer; it is told when that is written.
    Answer(String, oneshot::Sender<()>),
    /// The connection breaks.
    HangUp,
}

/// What a device remembers of commands.
#[derive(Default)]
pub(super) struct PullState {
    /// Where answers go while there is a connection.
    pub(super) said: Option<mpsc::UnboundedSender<Said>>,
    /// It lost the broker until its next restart.
    pub(super) lost: bool,
    /// What came and was not looked at yet.
    waiting: Option<Vec<u8>>,
    /// The last one of this life, and whether it is under way.
    last_id: Option<String>,
    busy: bool,
    n_nonsense: usize,
    /// Kept over the restart: the request, and the SHA-256 (hex) of what should run after it.
    kept: Option<(String, String)>,
}

impl PullState {
    /// The power goes, or the chip restarts: what is in memory is gone.
    pub(super) fn restart(&mut self) {
        let kept = self.kept.take();
        *self = Self {
            kept,
            ..Self::default()
        };
    }
}

/// A command that may be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Order {
    id: String,
    url: Url,
    size: u64,
    sha256: String,
    md5: Option<String>,
}

/// Where an image is: plain HTTP only, as a sketch has no room for certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Url {
    host: String,
    port: u16,
    path: String,
}

impl Shared {
    /// Something came on the topic of commands; what the connection is to answer at once.
    pub(super) fn commanded(&self, message: Message) -> Option<String> {
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        let id = request_id(&message.payload);
        let mut became = "taken";
        let mut answer = None;
        if message.retained {
            became = "ignored: retained";
        } else {
            let mut state = self.lock();
            state.counters.commands += 1;
            if id.is_some() && id == state.pull.last_id {
                became = "ignored: known";
            } else if state.pull.busy || state.pull.waiting.is_some() {
                became = "rejected: busy";
                drop(state);
                answer = Some(self.answer(id.as_deref(), "rejected", &Value::from(0), Some("busy")));
            } else {
                state.pull.waiting = Some(message.payload);
            }
        }
        self.emit(
            EventKind::Commanded,
            vec![
                ("request_id", id.into()),
                ("became", became.into()),
                ("payload", text.into()),
            ],
        );
        self.changed.notify_one();
        answer
    }

    /// The command that waits, if there is one.
    pub(super) fn take_command(&self) -> Option<Vec<u8>> {
        self.lock().pull.waiting.take()
    }

    /// What is to be said of a request that was kept over the restart, once.
    pub(super) fn answer_after_restart(&self) -> Option<String> {
        let (id, sha256) = self.lock().pull.kept.take()?;
        if self.strikes(&Fault::MqttNoDone) {
            return None;
        }
        let runs = self.running().sha256 == Some(sha256);
        let (state, error) = if runs {
            ("done", None)
        } else {
            ("failed", Some("Runs The Old Firmware"))
        };
        Some(self.answer(Some(&id), state, &Value::from(100), error))
    }

    /// An answer as it is published.
    fn answer(&self, id: Option<&str>, state: &str, progress: &Value, error: Option<&str>) -> String {
        let id = if self.strikes(&Fault::MqttOtherId) {
            Some("somebody-else")
        } else {
            id
        };
        json!({ "request_id": id, "state": state, "progress": progress, "error": error }).to_string()
    }

    /// Says something of a request, and waits until it is written; without a connection it is lost.
    async fn say(&self, id: Option<&str>, state: &str, progress: u64, error: Option<&str>) {
        let progress = if state == "downloading" && self.strikes(&Fault::MqttNonsenseProgress) {
            let mut state = self.lock();
            let n = state.pull.n_nonsense;
            state.pull.n_nonsense += 1;
            serde_json::from_str(NONSENSE[n % NONSENSE.len()]).unwrap_or_default()
        } else {
            Value::from(progress)
        };
        let answer = self.answer(id, state, &progress, error);
        let Some(said) = self.lock().pull.said.clone() else {
            return;
        };
        let (written, waits) = oneshot::channel();
        if said.send(Said::Answer(answer, written)).is_ok() {
            // A connection that ends meanwhile takes the answer with it.
            let _lost = timeout(SAY_TIMEOUT, waits).await;
        }
    }
}

/// The id of a command, even where nothing else of it makes sense.
fn request_id(payload: &[u8]) -> Option<String> {
    let command: Map<String, Value> = serde_json::from_slice(payload).ok()?;
    let id = command.get("request_id")?.as_str()?;
    (1..=ID_MAX_LEN).contains(&id.len()).then(|| id.to_owned())
}

/// Does what a command says, or says why not.
pub(super) async fn obey(device: &Shared, payload: &[u8]) -> After {
    let id = request_id(payload);
    {
        let mut state = device.lock();
        state.pull.busy = true;
        state.pull.last_id.clone_from(&id);
    }
    let after = follow(device, payload, id.as_deref()).await;
    device.lock().pull.busy = false;
    after
}

async fn follow(device: &Shared, payload: &[u8], id: Option<&str>) -> After {
    if device.strikes(&Fault::MqttSilent) {
        return After::Idle;
    }
    let refused = device.find(|fault| match fault {
        Fault::MqttRejects(_) | Fault::SlotTooSmall => Some(fault.clone()),
        _ => None,
    });
    let judged = match &refused {
        Some(fault @ Fault::MqttRejects(text)) => {
            device.struck(fault);
            Err(text.clone())
        }
        Some(fault) => {
            device.struck(fault);
            Err(TOO_LARGE.to_owned())
        }
        None => judge(payload, device.capacity(Command::Flash), now_s()),
    };
    let order = match judged {
        Ok(order) => order,
        Err(why) => {
            device.say(id, "rejected", 0, Some(&why)).await;
            return After::Idle;
        }
    };
    let id = order.id.as_str();
    device.say(Some(id), "accepted", 0, None).await;
    if device.strikes(&Fault::MqttNeverPulls) {
        return After::Idle;
    }
    if device.strikes(&Fault::MqttPullsTwice) {
        match pull(device, &order).await {
            Ok(_) => {}
            Err(stop) => return stopped(device, id, stop).await,
        }
    }
    let (slot, peer) = match pull(device, &order).await {
        Ok(pulled) => pulled,
        Err(stop) => return stopped(device, id, stop).await,
    };
    device.say(Some(id), "installing", 100, None).await;
    let received = slot.finish(device.config.chip.id, 0);
    let ending = device.received(Method::Mqtt, peer, received);
    match &ending.reply {
        Reply::Error(text) => {
            device.say(Some(id), "failed", 100, Some(text)).await;
        }
        // That it restarts, or what went wrong, is never said.
        Reply::Reset => {}
        Reply::Ok if device.has(&Fault::MqttNoFlash) => device.say(Some(id), "done", 100, None).await,
        Reply::Ok => device.say(Some(id), "rebooting", 100, None).await,
    }
    if !ending.restarts {
        return After::Idle;
    }
    device.lock().pull.kept = Some((order.id, order.sha256));
    sleep(RESTART_DELAY).await;
    After::Restart(Reason::Update, None)
}

/// How a pull ended that brought no image.
enum Stop {
    /// To be told.
    Failed(String),
    /// The device dies for a while, its connection with it.
    PowerLoss(TcpStream),
}

async fn stopped(device: &Shared, id: &str, stop: Stop) -> After {
    match stop {
        Stop::Failed(why) => {
            device.set_report("error", "Receive Failed");
            device.say(Some(id), "failed", 0, Some(&why)).await;
            After::Idle
        }
        Stop::PowerLoss(stream) => After::Restart(Reason::Power, Some(stream)),
    }
}

// Commands

const TOO_LARGE: &str = "too large";

/// Seconds since 1970 by the clock of this machine; a device asks a time server.
fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// What to do, or why not.
fn judge(payload: &[u8], capacity: u64, now_s: u64) -> Result<Order, String> {
    let command: Map<String, Value> =
        serde_json::from_slice(payload).map_err(|_| "not a JSON object".to_owned())?;
    if let Some(unknown) = command.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("unknown key {unknown}"));
    }
    let text = |key: &str| command.get(key).and_then(Value::as_str);
    let digest = |key: &str, len: usize| {
        text(key)
            .filter(|hex| hex.len() == len && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .map(str::to_ascii_lowercase)
            .ok_or_else(|| format!("bad {key}"))
    };
    let id = request_id(payload).ok_or("bad request_id")?;
    let url = text("url").and_then(Url::parse).ok_or("bad url")?;
    let size = command.get("size").and_then(Value::as_u64).ok_or("bad size")?;
    if size == 0 {
        return Err("bad size".to_owned());
    }
    let sha256 = digest("sha256", 64)?;
    let md5 = if command.contains_key("md5") {
        Some(digest("md5", 32)?)
    } else {
        None
    };
    if let Some(version) = command.get("version")
        && !version.is_null()
        && version.as_str().is_none_or(|version| version.len() > ID_MAX_LEN)
    {
        return Err("bad version".to_owned());
    }
    let expires_s = command
        .get("expires")
        .and_then(unix_seconds)
        .ok_or("bad expires")?;
    if expires_s <= now_s {
        return Err("expired".to_owned());
    }
    if size > capacity {
        return Err(TOO_LARGE.to_owned());
    }
    Ok(Order {
        id,
        url,
        size,
        sha256,
        md5,
    })
}

impl Url {
    fn parse(text: &str) -> Option<Self> {
        if text.len() > URL_MAX_LEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let rest = text.strip_prefix("http://")?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)?),
            None => (authority, 80),
        };
        let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
        if host.is_empty() || !host.bytes().all(named) || path.contains('#') {
            return None;
        }
        Some(Self {
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        })
    }
}

/// Seconds since 1970, or a time as RFC 3339 writes it: E5 does not say which.
fn unix_seconds(time: &Value) -> Option<u64> {
    match time {
        Value::Number(seconds) => seconds.as_u64(),
        Value::String(text) => rfc_3339(text),
        _ => None,
    }
}

fn rfc_3339(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
        digits.parse().ok()
    };
    let separator = |at: usize, of: &str| text.get(at..=at).is_some_and(|found| of.contains(found));
    let separated = separator(4, "-")
        && separator(7, "-")
        && separator(10, "Tt ")
        && separator(13, ":")
        && separator(16, ":");
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let fits = separated
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61;
    fits.then_some(())?;
    let mut zone = text.get(19..)?;
    if let Some(fraction) = zone.strip_prefix('.') {
        zone = fraction.trim_start_matches(|letter: char| letter.is_ascii_digit());
    }
    let offset_s = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign @ ("+" | "-"), rest) => {
            let (hours, minutes) = rest.split_once(':')?;
            let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            if sign == "+" { seconds } else { -seconds }
        }
        _ => return None,
    };
    // Days from 1970 to a date of the Gregorian calendar, with years that begin in March.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    u64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second - offset_s).ok()
}

// The image

/// Fetches the image of an order; what goes wrong after that is the slot's to say.
async fn pull(device: &Shared, order: &Order) -> Result<(Slot, SocketAddr), Stop> {
    let failed = |why: &str| Stop::Failed(why.to_owned());
    device.lock().counters.pulls += 1;
    let Ok(Ok((mut stream, peer))) = timeout(SERVER_TIMEOUT, connect(device, &order.url)).await else {
        return Err(failed("connection refused"));
    };
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}:{}\r\nUser-Agent: ESP32HTTPClient\r\nConnection: close\r\nAccept-Encoding: identity;q=1\r\n\r\n",
        order.url.path, order.url.host, order.url.port
    );
    if stream.write_all(request.as_bytes()).await.is_err() {
        return Err(failed("connection lost"));
    }
    let mut early = answered(&mut stream, order.size).await.map_err(Stop::Failed)?;
    let slot = Slot::new(
        Command::Flash,
        device.capacity(Command::Flash),
        Some(order.size),
        order.md5.clone(),
    );
    let mut slot = slot.with_sha256(order.sha256.clone());
    let mut pace = Pace::new(device);
    let mut told = 0;
    device.receiving(Method::Mqtt, peer, Some(order.size));
    device.say(Some(&order.id), "downloading", 0, None).await;
    while !slot.is_full() {
        let mut limit = usize::try_from(slot.n_left())
            .unwrap_or(READ_MAX_LEN)
            .min(READ_MAX_LEN);
        if let Some(trouble) = Trouble::next(device, Method::Mqtt) {
            let n_before = trouble.at.saturating_sub(slot.n_written());
            if n_before == 0 {
                trouble.strike(device);
                return Err(strike(&trouble.fault, stream).await);
            }
            limit = limit.min(usize::try_from(n_before).unwrap_or(limit));
        }
        lose_broker(device, slot.n_written());
        if early.is_empty() {
            early.resize(limit, 0);
            let n = match timeout(SERVER_TIMEOUT, stream.read(&mut early)).await {
                Ok(Ok(n @ 1..)) => n,
                Ok(Ok(_) | Err(_)) => return Err(failed("connection lost")),
                Err(_) => return Err(failed("read Timeout")),
            };
            early.truncate(n);
        }
        let n = early.len().min(limit);
        pace.write(n).await;
        if let Err(text) = slot.write(&early[..n]) {
            return Err(failed(text));
        }
        early.drain(..n);
        let percent = slot.n_written() * 100 / order.size;
        if percent >= told + PROGRESS_STEP {
            told = percent;
            device.lock().report.progress = percent;
            device.say(Some(&order.id), "downloading", percent, None).await;
        }
    }
    Ok((slot, peer))
}

async fn connect(device: &Shared, url: &Url) -> io::Result<(TcpStream, SocketAddr)> {
    let address = lookup_host((url.host.as_str(), url.port))
        .await?
        .find(SocketAddr::is_ipv4)
        .ok_or(io::ErrorKind::AddrNotAvailable)?;
    let own = device.ip();
    let socket = TcpSocket::new_v4()?;
    narrow(&socket2::SockRef::from(&socket))?;
    if own.is_loopback() == address.ip().is_loopback() {
        socket.bind(SocketAddr::new(IpAddr::V4(own), 0))?;
    }
    Ok((socket.connect(address).await?, address))
}

/// Reads the head of the answer; the bytes of the image that came with it. Nobody is followed elsewhere.
async fn answered(stream: &mut TcpStream, size: u64) -> Result<Vec<u8>, String> {
    let mut head = Vec::with_capacity(1024);
    let end = loop {
        if let Some(at) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at;
        }
        if head.len() >= HEAD_MAX_LEN {
            return Err("answer too long".to_owned());
        }
        match timeout(SERVER_TIMEOUT, stream.read_buf(&mut head)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(_) | Err(_)) => return Err("connection lost".to_owned()),
            Err(_) => return Err("read Timeout".to_owned()),
        }
    };
    let early = head.split_off(end + 4);
    let text = String::from_utf8_lossy(&head);
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .unwrap_or("?");
    if status != "200" {
        return Err(format!("HTTP {status}"));
    }
    let len = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, len)| len.trim().parse::<u64>().ok());
    if len != Some(size) || early.len() as u64 > size {
        return Err("another size than the command says".to_owned());
    }
    Ok(early)
}

async fn strike(fault: &Fault, stream: TcpStream) -> Stop {
    match fault {
        Fault::RebootAt(_) => Stop::PowerLoss(stream),
        Fault::StallAt(_) | Fault::StallOnceAt(_) => {
            sleep(SERVER_TIMEOUT).await;
            reset(&stream);
            Stop::Failed("stalled".to_owned())
        }
        _ => {
            reset(&stream);
            Stop::Failed("connection lost".to_owned())
        }
    }
}

/// Loses the broker, once, where a fault says so.
fn lose_broker(device: &Shared, n_written: u64) {
    let due = device.find(|fault| match fault {
        Fault::MqttLostAt(at) if n_written >= u64::from(*at) => Some(fault.clone()),
        _ => None,
    });
    let Some(fault) = due else { return };
    device.struck(&fault);
    device.spend(&fault);
    let mut state = device.lock();
    state.pull.lost = true;
    if let Some(said) = state.pull.said.take() {
        // A connection that is gone already needs no breaking.
        let _gone = said.send(Said::HangUp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_790_000_000;

    fn command() -> Map<String, Value> {
        let Value::Object(command) = json!({
            "request_id": "job-7",
            "url": "http://192.168.7.2:8099/pull/token",
            "size": 3000,
            "sha256": "a".repeat(64),
            "md5": "B".repeat(32),
            "version": "2.0.0",
            "expires": NOW_S + 60,
        }) else {
            unreachable!("it is an object")
        };
        command
    }

    fn judged(command: &Map<String, Value>) -> Result<Order, String> {
        judge(&serde_json::to_vec(command).unwrap(), 4000, NOW_S)
    }

    #[test]
    fn a_command_is_followed_only_when_all_of_it_makes_sense() {
        let order = judged(&command()).unwrap();
        assert_eq!((order.id.as_str(), order.size), ("job-7", 3000));
        assert_eq!(order.md5, Some("b".repeat(32)));
        for (key, value, why) in [
            ("request_id", json!(""), "bad request_id"),
            ("request_id", json!(7), "bad request_id"),
            ("url", json!("https://192.168.7.2/"), "bad url"),
            ("url", json!("http://a@192.168.7.2/"), "bad url"),
            ("url", json!("http://192.168.7.2:0/"), "bad url"),
            ("url", json!("http:///x"), "bad url"),
            ("url", json!("http://192.168.7.2/a b"), "bad url"),
            ("url", json!("http://192.168.7.2/a\r\nX: y"), "bad url"),
            ("url", json!("file:///etc/passwd"), "bad url"),
            ("size", json!(-1), "bad size"),
            ("size", json!(0), "bad size"),
            ("size", json!("3000"), "bad size"),
            ("size", json!(4001), "too large"),
            ("sha256", json!("a".repeat(63)), "bad sha256"),
            ("sha256", json!("g".repeat(64)), "bad sha256"),
            ("md5", json!(null), "bad md5"),
            ("version", json!(2), "bad version"),
            ("expires", json!(NOW_S), "expired"),
            ("expires", json!("2001-09-09T01:46:40Z"), "expired"),
            ("expires", json!("soon"), "bad expires"),
            ("force", json!(true), "unknown key force"),
        ] {
            let mut odd = command();
            odd.insert(key.to_owned(), value.clone());
            assert_eq!(judged(&odd), Err(why.to_owned()), "{key}: {value}");
        }
        for key in ["request_id", "url", "size", "sha256", "expires"] {
            let mut short = command();
            short.remove(key);
            assert_eq!(judged(&short), Err(format!("bad {key}")));
        }
        assert_eq!(judge(b"[]", 4000, NOW_S), Err("not a JSON object".to_owned()));
    }

    #[test]
    fn times_are_read_in_both_forms() {
        // 1,234,567,890 s and 1,000,000,000 s are known dates; the rest by `date -u -d ... +%s`.
        for (text, expected) in [
            ("2009-02-13T23:31:30Z", Some(1_234_567_890)),
            ("2001-09-09T01:46:40.5Z", Some(1_000_000_000)),
            ("2001-09-09T03:46:40+02:00", Some(1_000_000_000)),
            ("2024-02-29T00:00:00Z", Some(1_709_164_800)),
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1969-12-31T23:59:59Z", None),
            ("2001-13-09T01:46:40Z", None),
            ("2001-09-09T01:46:40", None),
            ("2001-09-09", None),
            ("tomorrow", None),
        ] {
            assert_eq!(rfc_3339(text), expected, "{text}");
        }
        assert_eq!(unix_seconds(&json!(12)), Some(12));
        assert_eq!(unix_seconds(&json!(1.5)), None);
    }
}
