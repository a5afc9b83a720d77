//! `reflash serve` on a host, asked through its socket as any local program would.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::netns::Host;
use crate::process::{Process, REFLASH, SOON};

/// How often it is asked whether something is so.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long an answer may take; a scan waits for addresses that are silent.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A server with a data folder of its own.
pub(crate) struct Server {
    process: Process,
    folder: TempDir,
    events: Arc<Mutex<Vec<Value>>>,
}

/// What it answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Server {
    /// Starts it with this configuration, and waits until it answers.
    #[track_caller]
    pub(crate) fn start(host: &Host, configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reflash.yaml");
        fs::write(&path, configuration).unwrap();
        let mut command = host.command(REFLASH);
        command
            .arg("serve")
            .arg("--config")
            .arg(&path)
            .arg("--data")
            .arg(folder.path().join("data"));
        let server = Self {
            process: Process::start(&mut command),
            folder,
            events: Arc::default(),
        };
        let deadline = Instant::now() + SOON;
        while server.try_ask("GET", "/api/v1/devices", None).is_err() {
            assert!(
                Instant::now() < deadline,
                "the server does not answer:\n{}",
                server.process.said().join("\n")
            );
            std::thread::sleep(LOOK_EVERY);
        }
        server.listen();
        server
    }

    /// Everything that it said on its outputs.
    pub(crate) fn said(&self) -> String {
        self.process.said().join("\n")
    }

    // Questions

    /// Waits where it was asked too often.
    #[track_caller]
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let deadline = Instant::now() + SOON;
        loop {
            let answer = self.try_ask(method, path, body).unwrap();
            if answer.status != 429 || Instant::now() > deadline {
                return answer;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Every device that it knows.
    #[track_caller]
    pub(crate) fn devices(&self) -> Vec<Value> {
        let answer = self.ask("GET", "/api/v1/devices", None);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let listed = if answer.body.is_array() {
            &answer.body
        } else {
            &answer.body["devices"]
        };
        listed.as_array().unwrap().clone()
    }

    /// The device of this key as it is once `fits` is true of it.
    #[track_caller]
    pub(crate) fn wait_for_device(&self, id: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.wait_until(id, SOON, || {
            self.devices()
                .into_iter()
                .find(|device| device["id"] == id && fits(device))
        })
    }

    /// What `look` gives, as soon as it gives something.
    #[track_caller]
    pub(crate) fn wait_until<T>(&self, what: &str, within: Duration, look: impl Fn() -> Option<T>) -> T {
        let deadline = Instant::now() + within;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "no {what} in {:#?}\nevents: {:#?}\n{}",
                self.devices(),
                self.events(),
                self.said()
            );
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// All events since the start, as the stream of events told them.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap().clone()
    }

    /// The first event of this kind about this device.
    #[track_caller]
    pub(crate) fn wait_for_event(&self, kind: &str, id: &str) -> Value {
        self.wait_until(kind, 2 * SOON, || {
            let fits = |event: &Value| event["kind"] == kind && event["device"] == id;
            self.events().into_iter().find(fits)
        })
    }

    /// How many events there are of this kind.
    pub(crate) fn n_events(&self, kind: &str) -> usize {
        self.events().iter().filter(|event| event["kind"] == kind).count()
    }

    // The way to it

    fn socket(&self) -> PathBuf {
        self.folder.path().join("data/reflash.sock")
    }

    fn try_ask(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        // In one piece: who is asked too often may answer and close before it has read everything.
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let broken = || io::Error::other(format!("no answer: {answer:?}"));
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or_else(broken)?;
        Ok(Answer {
            status,
            body: serde_json::from_str(body).unwrap_or(Value::Null),
        })
    }

    /// Collects all events from the first one on.
    fn listen(&self) {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        write!(
            stream,
            "GET /api/v1/events?after=0 HTTP/1.0\r\nHost: localhost\r\n\r\n"
        )
        .unwrap();
        let events = Arc::clone(&self.events);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines() {
                let Ok(line) = line else { return };
                let event = line
                    .strip_prefix("data:")
                    .and_then(|event| serde_json::from_str(event).ok());
                // The greeting of the stream is none.
                let event = event.filter(|event: &Value| event["kind"].is_string());
                events.lock().unwrap().extend(event);
            }
        });
    }
}
