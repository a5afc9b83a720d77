//! A receiver of web hooks made of plain threads, which can misbehave.
#![allow(dead_code, reason = "each test binary uses its share")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How it behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Answers so, with this body.
    Says(u16, String),
    /// Sends on to another address.
    Redirects(String),
    /// Reads the request, and answers nothing for as long as it behaves so.
    Hangs,
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(this, _)| this.eq_ignore_ascii_case(name))
            .map(|(_, text)| text)
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The check of the guide, computed by hand (RFC 2104).
    pub(crate) fn is_signed_by(&self, secret: &str) -> bool {
        let mut key = [0; 64];
        key[..secret.len()].copy_from_slice(secret.as_bytes());
        let pad = |with: u8| key.map(|byte| byte ^ with);
        let at = self.header("X-Reflash-Timestamp").unwrap();
        let inner = Sha256::digest([&pad(0x36), at.as_bytes(), b".", &self.body].concat());
        let expected = Sha256::digest([&pad(0x5c)[..], &inner].concat());
        self.header("X-Reflash-Signature") == Some(&format!("sha256={}", hex::encode(expected)))
    }
}

/// A receiver. Its threads end with the test's process.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    mode: Arc<Mutex<Mode>>,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    pub(crate) fn start(mode: Mode) -> Self {
        let listener = listener();
        let address = listener.local_addr().unwrap();
        let receiver = Self {
            address,
            mode: Arc::new(Mutex::new(mode)),
            got: Arc::default(),
        };
        let (mode, got) = (Arc::clone(&receiver.mode), Arc::clone(&receiver.got));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (mode, got) = (Arc::clone(&mode), Arc::clone(&got));
                std::thread::spawn(move || answer(&stream, &mode, &got));
            }
        });
        receiver
    }

    pub(crate) fn well() -> Self {
        Self::start(Mode::Says(200, "ok".to_owned()))
    }

    pub(crate) fn behave(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Waits until so many requests have come, and gives them all.
    #[track_caller]
    pub(crate) fn until(&self, n_requests: usize) -> impl Future<Output = Vec<Got>> {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let got = self.got();
                if got.len() >= n_requests {
                    return got;
                }
                assert!(Instant::now() < deadline, "{caller}: only {got:#?}");
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "it is a foreign program")]
fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn answer(stream: &TcpStream, mode: &Mutex<Mode>, got: &Mutex<Vec<Got>>) {
    let Some(request) = read(stream) else { return };
    // As it behaves when the request is there.
    let behaves = mode.lock().unwrap().clone();
    got.lock().unwrap().push(request);
    let answer = match &behaves {
        Mode::Says(status, body) => {
            format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )
        }
        Mode::Redirects(to) => {
            format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        }
        Mode::Hangs => {
            while *mode.lock().unwrap() == Mode::Hangs {
                std::thread::sleep(Duration::from_millis(10));
            }
            return;
        }
    };
    // Whoever asks may be gone.
    let _ = { stream }.write_all(answer.as_bytes());
}

fn read(stream: &TcpStream) -> Option<Got> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let mut request = Got {
        head,
        body: Vec::new(),
    };
    let len = request.header("Content-Length")?.trim().parse().ok()?;
    request.body.resize(len, 0);
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}
