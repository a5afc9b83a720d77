//! A small web server with bad manners, for tests.
#![expect(
    clippy::disallowed_methods,
    reason = "a test's server listens on loopback by itself"
)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use url::Url;

/// What the server does, one after the other; then it closes the connection.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends this for ever, with a pause in between.
    Repeat(Vec<u8>, Duration),
    /// Says nothing more, and does not close either.
    Hang,
}

/// A running server; it stops when this is dropped.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    scheme: &'static str,
    asked: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Site {
    pub(crate) fn url(&self, path: &str) -> Url {
        let host = if self.scheme == "https" {
            "localhost".to_owned()
        } else {
            self.address.ip().to_string()
        };
        format!("{}://{host}:{}{path}", self.scheme, self.address.port())
            .parse()
            .unwrap()
    }

    /// The heads of the requests so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Answers each request by what `answer` says of its head.
pub(crate) async fn serve(answer: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static) -> Site {
    start(None, answer).await
}

/// The same over TLS, as `localhost`, with a certificate of its own.
pub(crate) async fn serve_tls(
    answer: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static,
) -> (Site, reqwest::Certificate) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = reqwest::Certificate::from_der(made.cert.der()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    (start(Some(tls), answer).await, certificate)
}

async fn start(
    tls: Option<tokio_rustls::TlsAcceptor>,
    answer: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static,
) -> Site {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (answer, heard) = (Arc::new(answer), Arc::clone(&asked));
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (answer, heard, tls) = (Arc::clone(&answer), Arc::clone(&heard), tls.clone());
            connections.spawn(async move {
                match tls {
                    None => converse(stream, &*answer, &heard).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            converse(stream, &*answer, &heard).await;
                        }
                    }
                }
            });
        }
    });
    Site {
        address,
        scheme,
        asked,
        _tasks: tasks,
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &(impl Fn(&str) -> Vec<Step> + ?Sized),
    heard: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    heard.lock().unwrap().push(head.clone());
    for step in answer(&head) {
        let sent = match step {
            Step::Send(bytes) => stream.write_all(&bytes).await,
            Step::Repeat(bytes, pause) => loop {
                if let Err(error) = stream.write_all(&bytes).await {
                    break Err(error);
                }
                let _ = stream.flush().await;
                tokio::time::sleep(pause).await;
            },
            Step::Hang => std::future::pending().await,
        };
        if sent.is_err() {
            return;
        }
        let _ = stream.flush().await;
    }
    let _ = stream.shutdown().await;
}

/// A whole answer.
pub(crate) fn answer(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<Step> {
    let mut headers = headers.to_vec();
    let len = body.len().to_string();
    headers.push(("content-length", &len));
    vec![Step::Send([head(status, &headers), body.to_vec()].concat())]
}

/// The head of an answer.
pub(crate) fn head(status: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// The header that names a file.
pub(crate) fn disposition(file_name: &str) -> (&'static str, String) {
    (
        "content-disposition",
        format!("attachment; filename=\"{file_name}\""),
    )
}

/// Bytes like those of a file for ventilation units; different ones for each mark.
pub(crate) fn mbin(mark: u8) -> Vec<u8> {
    let mut bytes = vec![mark | 0x80; 150_000];
    bytes.extend_from_slice(b"5123456781234567800AA00AA00BB00BB\r\n");
    bytes
}
