//! What tests share: a small web server with bad manners, and a house with a repository.
#![expect(
    clippy::disallowed_methods,
    reason = "a test's server listens on loopback by itself"
)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::device::{Device, Hardware, Health, Ota, Snapshot};
use model::family::Family;
use model::id::{DeviceId, FamilyId};
use model::image::Image;
use model::release::Wishes;
use model::version::Versions;
use store::{FleetRow, Store};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use url::Url;

use super::fetch::{Fetcher, Limits};
use super::settings::Settings;
use super::{Added, Repository, Source};
use crate::views::{FirmwareView, OfferView};

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
    asked: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    asked.lock().unwrap().push(head.clone());
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

/// A repository in a folder of its own, with every family there is.
pub(crate) struct House {
    pub(crate) root: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) repository: Repository,
    pub(crate) families: Vec<Arc<dyn Family>>,
}

/// All families, as the program has them.
pub(crate) fn families() -> Vec<Arc<dyn Family>> {
    let site = net::Site {
        dialer: Arc::new(net::Dialer::new(net::Networks::private(), None)),
        callback: None,
        pull: None,
    };
    families::all(&site, &families::Ways::default())
}

impl House {
    pub(crate) async fn new(settings: Settings) -> Self {
        Self::with(tempfile::tempdir().unwrap(), settings, Fetcher::new).await
    }

    /// In this folder; the database is in `state` below it.
    pub(crate) async fn with(
        root: tempfile::TempDir,
        settings: Settings,
        fetcher: impl FnOnce(Limits) -> Fetcher,
    ) -> Self {
        let store = Store::open(&root.path().join("state")).await.unwrap();
        let families = families();
        let repository =
            Repository::open_with(store.clone(), families.clone(), engine::Clock, settings, fetcher)
                .await
                .unwrap();
        Self {
            root,
            store,
            repository,
            families,
        }
    }

    /// The same after a restart of the program.
    pub(crate) async fn restarted(self, settings: Settings) -> Self {
        let Self { root, store, .. } = self;
        store.close().await;
        Self::with(root, settings, Fetcher::new).await
    }

    pub(crate) fn family(&self, name: &str) -> Arc<dyn Family> {
        let family = self.families.iter().find(|family| family.id().as_str() == name);
        Arc::clone(family.unwrap())
    }

    /// Uploads a file.
    pub(crate) async fn upload(&self, file_name: &str, bytes: Vec<u8>) -> Added {
        let image = Image::new(file_name, bytes);
        self.repository.add(&image, &Source::Upload, "ada").await.unwrap()
    }

    /// The image with this file name.
    pub(crate) async fn view(&self, file_name: &str) -> Option<FirmwareView> {
        let list = self.repository.list().await.unwrap();
        list.firmware.into_iter().find(|view| view.file_name == file_name)
    }

    /// What is the newest for a device, and why it is not offered.
    pub(crate) async fn offer(&self, device: &Device) -> Option<OfferView> {
        let family = self.family(device.id.family.as_str());
        self.repository
            .latest_for(device, &*family, None, Wishes::default())
            .await
    }

    /// Puts a device into the fleet, as discovery would.
    pub(crate) async fn put(&self, device: &Device) {
        let snapshot = Snapshot {
            id: device.id.clone(),
            versions: device.versions.clone(),
            uptime: None,
            ota: Ota::Unknown,
            busy: false,
            host_name: None,
            hardware: device.hardware.clone(),
            health: Health::default(),
        };
        let row = FleetRow {
            address: Some(device.address),
            sources: vec!["config".to_owned()],
            seen_ms: Some(1),
            snapshot: Some(snapshot),
            online: true,
            ..FleetRow::new(device.id.clone(), 1)
        };
        self.store.put_fleet_row(&row).await.unwrap();
    }
}

/// An IR Remote Mini with this chip that shows this version.
pub(crate) fn mini(chip: &str, version: &str) -> Device {
    Device {
        id: DeviceId::from_hardware(&FamilyId::new("ir-remote"), "a0b1c2d3e4f5"),
        address: [192, 0, 2, 40].into(),
        hardware: Hardware {
            model: Some("mini".to_owned()),
            chip: Some(chip.to_owned()),
            ..Hardware::default()
        },
        slot_bytes: None,
        versions: Versions::one("firmware", version),
    }
}

/// A ventilation unit: `unit("C6", "C6 1.3.44.70", Some("P1 1.1.5.46"))`.
pub(crate) fn unit(model: &str, controller: &str, panel: Option<&str>) -> Device {
    let versions = Versions::one("controller", controller);
    Device {
        id: DeviceId::weak(&FamilyId::new("komfovent"), format!("192.0.2.60-{model}")),
        address: [192, 0, 2, 60].into(),
        hardware: Hardware {
            model: Some(model.to_owned()),
            ..Hardware::default()
        },
        slot_bytes: None,
        versions: panel.map_or(versions.clone(), |panel| versions.and("panel", panel)),
    }
}

/// An application image for a chip; `version` is what it states.
pub(crate) fn app(chip: &str, version: Option<&str>, seed: u8) -> Vec<u8> {
    sim::firmware::image(chip.parse().unwrap(), version, 64 * 1024, seed)
}

/// Waits until this is so, and fails after ten seconds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !is_so().await {
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
