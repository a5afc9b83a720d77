//! A server that answers what a test wants, and remembers what it was asked.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use crate::support::reflash;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// The path below `/api/v1`, with its query.
    pub(crate) path: String,
    /// The head as it came.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// Method and path.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// An answer: the status, further lines of the head, and the body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// 200 with this JSON.
pub(crate) fn good(value: &Value) -> Answer {
    Answer {
        status: 200,
        head: "content-type: application/json\r\n".to_owned(),
        body: value.to_string().into_bytes(),
    }
}

/// 204.
pub(crate) fn nothing() -> Answer {
    Answer {
        status: 204,
        head: String::new(),
        body: Vec::new(),
    }
}

/// A problem document.
pub(crate) fn problem(status: u16, detail: &str, next_step: Option<&str>) -> Answer {
    let document = json!({
        "type": "urn:reflash:problem:test", "title": "A title", "status": status, "detail": detail,
        "next_step": next_step,
    });
    Answer {
        status,
        head: "content-type: application/problem+json\r\n".to_owned(),
        body: document.to_string().into_bytes(),
    }
}

type Answers = Arc<dyn Fn(&Asked) -> Answer + Send + Sync>;

/// The server, on the socket in a state folder of its own.
pub(crate) struct Fake {
    pub(crate) folder: TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
    _running: JoinSet<()>,
}

impl Fake {
    pub(crate) fn start(answers: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("reflash.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answers, log): (Answers, _) = (Arc::new(answers), Arc::clone(&asked));
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(attend(stream, Arc::clone(&answers), Arc::clone(&log)));
            }
        });
        Self {
            folder,
            asked,
            _running: running,
        }
    }

    /// The program with these arguments, asking this server.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = reflash(arguments);
        command
            .args([Path::new("--data"), self.folder.path()])
            .env_remove("REFLASH_SERVER")
            .env_remove("REFLASH_TOKEN");
        command
    }

    /// All that was asked so far, and forgets it.
    pub(crate) fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    /// The questions that would have changed something.
    pub(crate) fn take_changes(&self) -> Vec<Asked> {
        self.take()
            .into_iter()
            .filter(|asked| asked.method != "GET")
            .collect()
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// Answers one connection to its end.
pub(crate) async fn attend(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answers: Answers,
    log: Arc<Mutex<Vec<Asked>>>,
) {
    while let Some(asked) = read(&mut stream).await {
        let answer = answers(&asked);
        log.lock().unwrap().push(asked);
        let head = format!(
            "HTTP/1.1 {} X\r\ncontent-length: {}\r\n{}\r\n",
            answer.status,
            answer.body.len(),
            answer.head
        );
        // A client that has gone is no failure of the server.
        if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(&answer.body).await.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Asked> {
    let mut bytes = Vec::new();
    let head_len = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_len]).into_owned();
    let mut words = head.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut asked = Asked {
        method,
        path: path.strip_prefix("/api/v1").unwrap_or(&path).to_owned(),
        body: bytes.split_off(head_len),
        head,
    };
    let body_len: usize = asked
        .header("content-length")
        .map_or(0, |len| len.parse().unwrap());
    while asked.body.len() < body_len {
        if stream.read_buf(&mut asked.body).await.ok()? == 0 {
            return None;
        }
    }
    Some(asked)
}
