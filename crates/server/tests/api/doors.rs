//! The doors: TLS, the local socket, floods, slow clients, and the end.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use server::api::{Certificate, Limits, ListenError, ListenOn, Listener, Protection, tls_config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use crate::house::{House, PATIENCE, Request, settings, talk};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn whoami(house: &House) -> Request {
    Request::new("GET", "/api/v1/whoami").token(&house.viewer)
}

/// Reads until the other side closes, for at most as long as a test waits.
async fn closes(stream: &mut tokio::net::TcpStream) -> Duration {
    let began = Instant::now();
    let mut bytes = [0; 1024];
    loop {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut bytes)).await;
        match read.expect("the connection stays open") {
            Ok(0) | Err(_) => return began.elapsed(),
            Ok(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_do_not_travel_in_the_clear() {
    for address in ["0.0.0.0:0", "192.0.2.1:0", "[::]:0"] {
        let listen_on = ListenOn::Tcp {
            address: address.parse().unwrap(),
            protection: Protection::Loopback,
        };
        let refused = Listener::bind(&listen_on).await;
        assert!(
            matches!(refused, Err(ListenError::Unprotected { .. })),
            "{address}"
        );
    }
    let proxied = ListenOn::Tcp {
        address: "0.0.0.0:0".parse().unwrap(),
        protection: Protection::Proxy,
    };
    Listener::bind(&proxied).await.unwrap();
}

/// A TLS client that trusts the server's generated certificate, with a certificate of its own where one is given.
async fn over_tls(house: &House, with: Option<(&str, &str)>) -> std::io::Result<crate::house::Answer> {
    let pem = std::fs::read(house.folder.path().join("tls-certificate.pem")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(rustls::pki_types::CertificateDer::from_pem_slice(&pem).unwrap())
        .unwrap();
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    let config = match with {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                vec![rustls::pki_types::CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    let stream = house.connect().await;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    // A server that wants a certificate says so only after the handshake of TLS 1.3.
    stream.write_all(&whoami(house).bytes()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    Ok(crate::house::Answer::read(&bytes))
}

async fn tls_house(client_ca: Option<String>) -> House {
    House::listening(settings(), Limits::default(), |folder| {
        let certificate = Certificate::Generated {
            folder: folder.to_owned(),
            names: vec!["reflash.example".to_owned()],
        };
        let client_ca = client_ca.map(|pem| {
            let path = folder.join("client-ca.pem");
            std::fs::write(&path, pem).unwrap();
            path
        });
        ListenOn::Tcp {
            address: LOOPBACK,
            protection: Protection::Tls(tls_config(&certificate, client_ca.as_deref()).unwrap()),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_certificate_serves_tls_and_nothing_in_the_clear() {
    let house = tls_house(None).await;
    let answer = over_tls(&house, None).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let clear = talk(house.connect().await, &whoami(&house).bytes()).await;
    assert_eq!(clear.status, 0, "{clear:?}");
    let key = std::fs::metadata(house.folder.path().join("tls-key.pem")).unwrap();
    assert_eq!(key.mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_client_ca_only_its_clients_get_in() {
    let mut ca_params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca_params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca_certificate = ca_params.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca_params, ca_key);
    let client_key = rcgen::KeyPair::generate().unwrap();
    let client = rcgen::CertificateParams::new(vec!["client".to_owned()])
        .unwrap()
        .signed_by(&client_key, &issuer)
        .unwrap();
    let stranger = rcgen::generate_simple_self_signed(vec!["client".to_owned()]).unwrap();

    let house = tls_house(Some(ca_certificate.pem())).await;
    assert!(over_tls(&house, None).await.is_err());
    let strangers = (stranger.cert.pem(), stranger.signing_key.serialize_pem());
    assert!(
        over_tls(&house, Some((&strangers.0, &strangers.1)))
            .await
            .is_err()
    );
    let own = (client.pem(), client_key.serialize_pem());
    let answer = over_tls(&house, Some((&own.0, &own.1))).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    // A certificate does not stand for a token.
    let without = Request::new("GET", "/api/v1/whoami");
    assert_eq!(house.send_locally(&without).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_socket_is_private_and_goes_with_the_server() {
    let mut house = House::new().await;
    let socket = house.socket();
    assert_eq!(std::fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    house.end().await;
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_a_dead_server_left_is_replaced_and_a_file_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reflash.sock");
    let listen_on = ListenOn::Unix { path: path.clone() };
    drop(Listener::bind(&listen_on).await.unwrap());
    assert!(path.exists());
    drop(Listener::bind(&listen_on).await.unwrap());

    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    let refused = Listener::bind(&listen_on).await;
    assert!(matches!(refused, Err(ListenError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

/// RELIABILITY.md T37.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_idle_sockets_do_not_keep_others_out() {
    let house = House::new().await;
    let mut idle = Vec::new();
    for n in 0..2000 {
        let mut stream = house.connect().await;
        // Half of them say something, as slow-loris does.
        if n % 2 == 0 {
            drop(
                stream
                    .write_all(b"GET /api/v1/whoami HTTP/1.1\r\nHost: loc")
                    .await,
            );
        }
        idle.push(stream);
        if n % 200 == 199 {
            let began = Instant::now();
            assert_eq!(house.send(&whoami(&house)).await.status, 200, "{n}");
            assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
            assert_eq!(house.send_locally(&whoami(&house)).await.status, 200, "{n}");
        }
    }
    // Nor do they cost more than the places that there are.
    let Limits {
        connections: places,
        head_timeout,
        ..
    } = Limits::default();
    // Sooner than those that say nothing are sent away for that.
    let deadline = Instant::now() + head_timeout / 2;
    loop {
        idle.retain(is_open);
        if idle.len() <= places {
            break;
        }
        assert!(Instant::now() < deadline, "{} are still open", idle.len());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether the other side has not closed it yet.
fn is_open(stream: &tokio::net::TcpStream) -> bool {
    let read = stream.try_read(&mut [0; 1024]);
    matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// RELIABILITY.md T37: where all places are taken by work, nobody from the network gets in, and the local socket does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_socket_has_places_of_its_own() {
    let few = Limits {
        connections: 2,
        ..Limits::default()
    };
    let house = House::with(settings(), few).await;
    house.reloading.waits.store(true, Ordering::SeqCst);
    let reload = Request::new("POST", "/api/v1/configuration/reload")
        .token(&house.admin)
        .json(&json!({}));
    let reloading = &house.reloading;
    let full = tokio::time::timeout(PATIENCE, async {
        let crowd = async {
            while reloading.n_begun.load(Ordering::SeqCst) < few.connections {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(house.send(&whoami(&house)).await.status, 0, "no place is left");
            assert_eq!(house.send_locally(&whoami(&house)).await.status, 200);
            while reloading.n_done.load(Ordering::SeqCst) < few.connections {
                reloading.go.notify_one();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::join!(house.send(&reload), house.send(&reload), crowd)
    });
    let (one, other, ()) = full.await.unwrap();
    assert_eq!((one.status, other.status), (200, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_at_work_is_not_sent_away_for_a_new_one() {
    let few = Limits {
        connections: 4,
        ..Limits::default()
    };
    let house = House::with(settings(), few).await;
    house.reloading.waits.store(true, Ordering::SeqCst);
    let request = Request::new("POST", "/api/v1/configuration/reload")
        .token(&house.admin)
        .json(&json!({}));
    let working = tokio::time::timeout(PATIENCE, async {
        let working = house.send(&request);
        let crowd = async {
            house.reloading.begun.notified().await;
            let mut idle = Vec::new();
            for _ in 0..40 {
                idle.push(house.connect().await);
            }
            assert_eq!(house.send(&whoami(&house)).await.status, 200);
            house.reloading.go.notify_one();
        };
        tokio::join!(working, crowd).0
    });
    assert_eq!(working.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_trickles_and_an_idle_connection_are_cut_off() {
    let hasty = Limits {
        head_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let house = House::with(settings(), hasty).await;
    let mut silent = house.connect().await;
    let mut loris = house.connect().await;
    loris.write_all(b"GET /api/v1/whoami HTTP/1.1\r\n").await.unwrap();
    let mut kept_alive = house.connect().await;
    let request = whoami(&house);
    let request = String::from_utf8(request.bytes())
        .unwrap()
        .replace("Connection: close\r\n", "");
    kept_alive.write_all(request.as_bytes()).await.unwrap();
    for stream in [&mut silent, &mut loris, &mut kept_alive] {
        let took = closes(stream).await;
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_is_bounded_in_length_and_number() {
    let house = House::new().await;
    let long = whoami(&house).header("X-Long", &"x".repeat(64 * 1024));
    assert_eq!(house.send(&long).await.status, 431);
    let mut many = whoami(&house);
    for n in 0..200 {
        many = many.header(&format!("X-{n}"), "x");
    }
    assert_eq!(house.send(&many).await.status, 431);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_does_not_wait_for_idle_clients_and_lets_a_change_finish() {
    let mut house = House::new().await;
    let _idle = [house.connect().await, house.connect().await];
    house.reloading.waits.store(true, Ordering::SeqCst);
    let request = Request::new("POST", "/api/v1/configuration/reload")
        .token(&house.admin)
        .json(&json!({}));
    let mut stream = house.connect().await;
    stream.write_all(&request.bytes()).await.unwrap();
    house.reloading.begun.notified().await;
    let address = house.address;
    let began = Instant::now();
    let reloading = Arc::clone(&house.reloading);
    let answer = async {
        // The door is closed before the last answer is given.
        loop {
            #[expect(
                clippy::disallowed_methods,
                reason = "a test is a client of the API, not of a device"
            )]
            let connected = tokio::net::TcpStream::connect(address).await;
            if connected.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        reloading.go.notify_one();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    let ((), text) = tokio::join!(house.end(), answer);
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_comes_even_if_a_client_does_not_let_go() {
    let short = Limits {
        end: Duration::from_millis(300),
        ..Limits::default()
    };
    let mut house = House::with(settings(), short).await;
    let mut half = house.connect().await;
    let request = Request::new("POST", "/api/v1/tokens")
        .token(&house.admin)
        .header("Content-Type", "application/json")
        .header("Content-Length", "1000");
    half.write_all(&request.bytes()).await.unwrap();
    // Its head has arrived once another request, sent later, was answered.
    assert_eq!(house.send(&whoami(&house)).await.status, 200);
    let began = Instant::now();
    house.end().await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
