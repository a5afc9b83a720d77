//! What a broker tells: a small one made for each test, and mosquitto where it is installed.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "the helpers of tests are tests"
)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use discovery::{Broker, BrokerError, MqttError, mqtt};
use model::sighting::{Lookout, Sighting};
use tokio::sync::mpsc;

use support::{SOON, listener};

fn topic(topic: &str) -> Lookout {
    Lookout::Mqtt {
        topic: topic.to_owned(),
    }
}

fn status() -> Lookout {
    topic("home/ir_remote_mini/status")
}

fn statuses() -> Lookout {
    topic("home/ir_remote_mini/+/status")
}

/// One packet of MQTT 3.1.1: first byte and body.
fn read_packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut first = [0];
    stream.read_exact(&mut first).ok()?;
    let (mut len, mut shift) = (0_usize, 0);
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        len |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).ok()?;
    Some((first[0], body))
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut len = body.len();
    loop {
        let byte = u8::try_from(len & 0x7f).unwrap();
        len >>= 7;
        packet.push(if len > 0 { byte | 0x80 } else { byte });
        if len == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
    body.extend(topic.as_bytes());
    body.extend(payload);
    packet(0x30, &body)
}

/// How many filters a subscription has: each is its length, itself, and the quality of service asked for.
fn n_filters(body: &[u8]) -> usize {
    let (mut n_filters, mut at) = (0, 2);
    while at < body.len() {
        at += 3 + usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
        n_filters += 1;
    }
    n_filters
}

/// A broker for one client: answers the connection with `connack`, each subscription with `subscribed`, and then sends.
fn broker(
    connack: u8,
    subscribed: u8,
    then: impl FnOnce(&mut TcpStream) + Send + 'static,
) -> (Broker, std::thread::JoinHandle<Vec<Vec<u8>>>) {
    let listener = listener(Ipv4Addr::LOCALHOST, 0, 4);
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut heard = vec![read_packet(&mut stream).unwrap().1];
        stream.write_all(&[0x20, 2, 0, connack]).unwrap();
        if connack == 0 {
            let (first, body) = read_packet(&mut stream).unwrap();
            assert_eq!(first, 0x82, "a subscription");
            let n_filters = n_filters(&body);
            let mut answer = body[0..2].to_vec();
            answer.extend(std::iter::repeat_n(subscribed, n_filters));
            heard.push(body);
            stream.write_all(&packet(0x90, &answer)).unwrap();
            then(&mut stream);
            // Until the client goes; what it says meanwhile is kept.
            while let Some((first, body)) = read_packet(&mut stream) {
                heard.push([&[first][..], &body].concat());
            }
        }
        heard
    });
    (Broker::at(&url).unwrap(), thread)
}

/// The first sightings that come, so many; or the error that came before.
async fn hear(broker: &Broker, lookouts: &[Lookout], n: usize) -> Result<Vec<Sighting>, MqttError> {
    let (out, mut sightings) = mpsc::channel(1);
    let collecting = async {
        let mut seen = Vec::new();
        while seen.len() < n {
            seen.push(sightings.recv().await.unwrap());
        }
        seen
    };
    tokio::select! {
        error = mqtt(broker, lookouts, &out) => Err(error),
        seen = collecting => Ok(seen),
        () = tokio::time::sleep(3 * SOON) => panic!("nothing was told"),
    }
}

fn message(topic: &str, payload: &[u8]) -> Sighting {
    Sighting::Mqtt {
        topic: topic.to_owned(),
        payload: payload.to_vec(),
    }
}

#[tokio::test]
async fn what_devices_tell_is_heard_and_nothing_is_published() {
    let (broker, thread) = broker(0, 0, |stream| {
        stream
            .write_all(&publish("home/ir_remote_mini/status", b"online"))
            .unwrap();
        stream
            .write_all(&publish("home/ir_remote_mini/aa/status", b"{}"))
            .unwrap();
    });
    let seen = hear(&broker, &[status(), statuses()], 2).await.unwrap();
    assert_eq!(
        seen,
        [
            message("home/ir_remote_mini/status", b"online"),
            message("home/ir_remote_mini/aa/status", b"{}"),
        ]
    );
    let heard = thread.join().unwrap();
    let text = String::from_utf8_lossy(&heard[1]).into_owned();
    assert!(text.contains("home/ir_remote_mini/status") && text.contains("home/ir_remote_mini/+/status"));
    let published = heard[2..].iter().filter(|packet| packet[0] >> 4 == 3).count();
    assert_eq!(published, 0);
}

#[tokio::test]
async fn a_prefix_is_subscribed_to_and_taken_off() {
    let (broker, thread) = broker(0, 0, |stream| {
        stream
            .write_all(&publish("garden/home/ir_remote_mini/status", b"1"))
            .unwrap();
    });
    let broker = Broker {
        prefix: "garden/".to_owned(),
        ..broker
    };
    let seen = hear(&broker, &[status()], 1).await.unwrap();
    assert_eq!(seen, [message("home/ir_remote_mini/status", b"1")]);
    let subscription = String::from_utf8_lossy(&thread.join().unwrap()[1]).into_owned();
    assert!(
        subscription.contains("garden/home/ir_remote_mini/status"),
        "{subscription:?}"
    );
}

#[tokio::test]
async fn a_message_too_long_for_a_status_is_passed_over() {
    // RELIABILITY.md T36. It does not end the connection: retained, it would end the next one too.
    let (broker, _thread) = broker(0, 0, |stream| {
        stream
            .write_all(&publish("home/ir_remote_mini/status", &vec![b'x'; 64 * 1024 + 1]))
            .unwrap();
        stream
            .write_all(&publish("home/ir_remote_mini/status", &vec![b'x'; 64 * 1024]))
            .unwrap();
    });
    let seen = hear(&broker, &[status()], 1).await.unwrap();
    assert_eq!(
        seen,
        [message("home/ir_remote_mini/status", &vec![b'x'; 64 * 1024])]
    );
}

#[tokio::test]
async fn a_packet_without_end_ends_the_connection() {
    // RELIABILITY.md T36.
    let (broker, _thread) = broker(0, 0, |stream| {
        let mut endless = publish("home/ir_remote_mini/status", b"");
        // 256 MB, MQTT's longest.
        endless.splice(1..2, [0xff, 0xff, 0xff, 0x7f]);
        stream.write_all(&endless).unwrap();
        // Twice what is read of one packet at most; the rest is never sent, so that only that bound can end it.
        for _ in 0..256 {
            let _ = stream.write_all(&[b'x'; 8192]);
        }
    });
    let began = Instant::now();
    let error = hear(&broker, &[status()], 1).await.unwrap_err();
    assert!(began.elapsed() < SOON / 2, "the broker gave up, and not we");
    assert!(
        matches!(error, MqttError::Broker(BrokerError::Connection(_))),
        "{error:?}"
    );
}

#[tokio::test]
async fn who_is_refused_is_told_why() {
    let (refusing, _thread) = broker(4, 0, |_| {});
    let error = hear(&refusing, &[status()], 1).await.unwrap_err();
    assert!(
        error.to_string().contains("wrong user name or password"),
        "{error}"
    );
    let (deaf, _thread) = broker(0, 0x80, |_| {});
    let error = hear(&deaf, &[status()], 1).await.unwrap_err();
    assert!(
        matches!(&error, MqttError::NotSubscribed { topic } if topic == "home/ir_remote_mini/status"),
        "{error:?}"
    );
}

#[tokio::test]
async fn credentials_are_sent_and_told_to_nobody() {
    let (broker, thread) = broker(5, 0, |_| {});
    let broker = Broker {
        username: Some("reflash".to_owned()),
        password: Some("canary-7".to_owned().into()),
        ..broker
    };
    let error = hear(&broker, &[status()], 1).await.unwrap_err();
    assert!(
        !format!("{error} {error:?} {broker:?}").contains("canary"),
        "{error:?}"
    );
    let connect = thread.join().unwrap().remove(0);
    let text = String::from_utf8_lossy(&connect).into_owned();
    assert!(text.contains("reflash") && text.contains("canary-7"), "{text:?}");
}

#[tokio::test]
async fn a_broker_that_goes_or_is_not_there_is_an_error_at_once() {
    let (leaving, _thread) = broker(0, 0, |stream| {
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    });
    let began = Instant::now();
    let error = hear(&leaving, &[status()], 1).await.unwrap_err();
    assert!(
        matches!(error, MqttError::Broker(BrokerError::Connection(_))),
        "{error:?}"
    );
    let absent = Broker::at("mqtt://127.83.2.1:1").unwrap();
    let error = hear(&absent, &[status()], 1).await.unwrap_err();
    assert!(
        matches!(error, MqttError::Broker(BrokerError::Connection(_))),
        "{error:?}"
    );
    assert!(began.elapsed() < SOON);
}

#[tokio::test]
async fn what_is_no_broker_is_an_error() {
    for said in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"\xff\xff\xff\xff", b""] {
        let listener = listener(Ipv4Addr::LOCALHOST, 0, 4);
        let broker = Broker::at(&format!("mqtt://{}", listener.local_addr().unwrap())).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(said);
        });
        let error = hear(&broker, &[status()], 1).await.unwrap_err();
        assert!(
            matches!(error, MqttError::Broker(BrokerError::Connection(_))),
            "{error:?}"
        );
        thread.join().unwrap();
    }
}

#[tokio::test]
async fn nobody_listening_and_nothing_to_hear_are_ends() {
    let (out, sightings) = mpsc::channel(1);
    let nothing = Broker::at("mqtt://127.83.2.1:1").unwrap();
    assert!(matches!(mqtt(&nothing, &[], &out).await, MqttError::NoTopics));
    let (broker, _thread) = broker(0, 0, |_| {});
    drop(sightings);
    assert!(matches!(
        mqtt(&broker, &[status()], &out).await,
        MqttError::NobodyListens
    ));
}

#[tokio::test]
async fn a_secret_broker_needs_authorities_that_can_be_read_and_vouch_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Broker {
        ca: Some(folder.path().join("none.pem")),
        ..Broker::at("mqtts://127.0.0.1:1").unwrap()
    };
    let error = hear(&missing, &[status()], 1).await.unwrap_err();
    assert!(
        matches!(error, MqttError::Broker(BrokerError::File { .. })),
        "{error:?}"
    );
    // No authority in it: nothing is believed.
    let (plain, _thread) = broker(0, 0, |_| {});
    let path = folder.path().join("empty.pem");
    std::fs::write(&path, "").unwrap();
    let empty = Broker {
        ca: Some(path),
        ..Broker::at(&plain.url.as_str().replace("mqtt:", "mqtts:")).unwrap()
    };
    let error = hear(&empty, &[status()], 1).await.unwrap_err();
    assert!(
        matches!(error, MqttError::Broker(BrokerError::Tls(_))),
        "{error:?}"
    );
}

/// Mosquitto on a free port; none where it is not installed.
struct Mosquitto {
    child: Child,
    port: u16,
    /// What it says, from then on too: a broker that ends by itself says why.
    log: Arc<Mutex<String>>,
    _folder: tempfile::TempDir,
}

impl Mosquitto {
    fn start(more: &str) -> Option<Self> {
        // Somebody else may have got the port that was free a moment ago: it is ours once Mosquitto says that it
        // runs. That somebody can be connected to says nothing, as that may be another test.
        for _ in 0..5 {
            let mut mosquitto = Self::try_start(more)?;
            let began = Instant::now();
            while mosquitto.child.try_wait().unwrap().is_none() {
                if mosquitto.says().contains(" running") {
                    return Some(mosquitto);
                }
                assert!(
                    began.elapsed() < SOON,
                    "mosquitto does not listen: {}",
                    mosquitto.says()
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("mosquitto does not start");
    }

    fn try_start(more: &str) -> Option<Self> {
        let port = listener(Ipv4Addr::LOCALHOST, 0, 1).local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("mosquitto.conf");
        std::fs::write(
            &config,
            format!("listener {port} 127.0.0.1\nlog_dest stderr\n{more}\n"),
        )
        .unwrap();
        let started = Command::new("mosquitto")
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = started else {
            println!("skipped: mosquitto is not installed");
            return None;
        };
        let log = Arc::new(Mutex::new(String::new()));
        let (mut stderr, heard) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut bytes) {
                heard
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        Some(Self {
            child,
            port,
            log,
            _folder: folder,
        })
    }

    fn says(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    fn connect(&self) -> Option<TcpStream> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let addr = std::net::SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.port);
        socket.connect_timeout(&addr.into(), SOON).ok()?;
        Some(socket.into())
    }

    /// A retained message, as a device leaves it.
    fn retain(&self, topic: &str, payload: &[u8]) {
        let mut stream = self.connect().unwrap();
        let connect = [&[0, 4][..], b"MQTT", &[4, 2, 0, 60, 0, 1, b'd']].concat();
        stream.write_all(&packet(0x10, &connect)).unwrap();
        assert_eq!(read_packet(&mut stream).unwrap().1, [0, 0]);
        let mut retained = publish(topic, payload);
        retained[0] |= 1;
        stream.write_all(&retained).unwrap();
        stream.write_all(&packet(0xe0, &[])).unwrap();
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn mosquitto_hands_on_what_a_device_left() {
    let Some(mosquitto) = Mosquitto::start("allow_anonymous true") else {
        return;
    };
    let heartbeat = br#"{"status":"online","device":"ir_receiver_mini"}"#;
    mosquitto.retain("home/ir_remote_mini/status", heartbeat);
    let broker = Broker::at(&format!("mqtt://127.0.0.1:{}", mosquitto.port)).unwrap();
    let seen = hear(&broker, &[status(), statuses()], 1).await.unwrap();
    assert_eq!(seen, [message("home/ir_remote_mini/status", heartbeat)]);
}

#[tokio::test]
async fn mosquitto_refuses_a_stranger() {
    let Some(mosquitto) = Mosquitto::start("allow_anonymous false") else {
        return;
    };
    let broker = Broker::at(&format!("mqtt://127.0.0.1:{}", mosquitto.port)).unwrap();
    let error = hear(&broker, &[status()], 1).await.unwrap_err();
    assert!(
        matches!(error, MqttError::Broker(BrokerError::Refused { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn mosquitto_with_a_certificate_is_believed_only_by_its_own_authority() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let certificate = write("cert.pem", made.cert.pem());
    let key = write("key.pem", made.signing_key.serialize_pem());
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let other = write("other.pem", other.cert.pem());
    let config = format!(
        "allow_anonymous true\nuser root\ncertfile {}\nkeyfile {}",
        certificate.display(),
        key.display()
    );
    let Some(mosquitto) = Mosquitto::start(&config) else {
        return;
    };
    let broker = |ca: Option<&std::path::Path>| Broker {
        ca: ca.map(Into::into),
        ..Broker::at(&format!("mqtts://127.0.0.1:{}", mosquitto.port)).unwrap()
    };
    for ca in [Some(other.as_path()), None] {
        let error = hear(&broker(ca), &[status()], 1).await.unwrap_err();
        assert!(
            matches!(error, MqttError::Broker(BrokerError::Tls(_))),
            "{ca:?}: {error:?}"
        );
    }
    // Let in, it listens until it is told to stop.
    let (out, _sightings) = mpsc::channel(1);
    let believed = broker(Some(&certificate));
    let listening = tokio::time::timeout(Duration::from_secs(2), mqtt(&believed, &[status()], &out)).await;
    assert!(listening.is_err(), "{listening:?}; {}", mosquitto.says());
}

#[tokio::test]
async fn mosquitto_that_wants_a_certificate_lets_in_only_who_shows_one() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let made = |name: &str| {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let certificate = write(&format!("{name}.pem"), made.cert.pem());
        (
            certificate,
            write(&format!("{name}.key"), made.signing_key.serialize_pem()),
        )
    };
    let (theirs, ours, strange) = (made("theirs"), made("ours"), made("strange"));
    let config = format!(
        "allow_anonymous true\nuser root\ncertfile {}\nkeyfile {}\ncafile {}\nrequire_certificate true",
        theirs.0.display(),
        theirs.1.display(),
        ours.0.display()
    );
    let Some(mosquitto) = Mosquitto::start(&config) else {
        return;
    };
    let broker = |certificate| Broker {
        ca: Some(theirs.0.clone()),
        certificate,
        ..Broker::at(&format!("mqtts://127.0.0.1:{}", mosquitto.port)).unwrap()
    };
    for certificate in [None, Some(strange), Some((ours.0.clone(), theirs.1.clone()))] {
        let error = hear(&broker(certificate.clone()), &[status()], 1).await;
        assert!(error.is_err(), "{certificate:?}");
    }
    let unread = broker(Some((ours.0.clone(), folder.path().join("none.key"))));
    let error = hear(&unread, &[status()], 1).await.unwrap_err();
    assert!(
        matches!(error, MqttError::Broker(BrokerError::File { .. })),
        "{error:?}"
    );
    // Let in, it listens until it is told to stop.
    let (out, _sightings) = mpsc::channel(1);
    let believed = broker(Some(ours));
    let listening = tokio::time::timeout(Duration::from_secs(2), mqtt(&believed, &[status()], &out)).await;
    assert!(listening.is_err(), "{listening:?}; {}", mosquitto.says());
}
