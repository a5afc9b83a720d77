//! How simulated devices make themselves known, move and go, against programs that are not ours.
#![expect(
    clippy::disallowed_methods,
    reason = "this client stands for foreign programs and opens its own sockets"
)]
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: a failure here is a failed test"
)]

#[expect(dead_code, reason = "half of it is for pushes")]
mod client;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use client::http;
use mdns_sd::{IfKind, ResolvedService, ServiceDaemon, ServiceEvent};
use sim::{
    Event, EventKind, EventSink,
    ir_remote::{self, Auth, Config, Device, Fault, Mqtt},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const SOON: Duration = Duration::from_secs(20);
const SERVICE: &str = "_arduino._tcp.local.";

fn faults(texts: &[&str]) -> Vec<Fault> {
    texts.iter().map(|text| Fault::parse(text).unwrap()).collect()
}

/// A quick device, at an address that no other test has.
fn config(last_octets: [u8; 2], texts: &[&str]) -> Config {
    Config {
        boot: Duration::from_millis(200),
        faults: faults(texts),
        ..Config::new(Ipv4Addr::new(127, 5, last_octets[0], last_octets[1]))
    }
}

async fn started(config: Config) -> (Device, EventSink) {
    let events = EventSink::new();
    (ir_remote::start(config, events.clone()).await.unwrap(), events)
}

fn wait(events: &EventSink, kind: EventKind) -> impl Future<Output = Event> {
    let events = events.clone();
    async move {
        let found = events.wait_for(|event| event.kind == kind, SOON).await;
        found.unwrap_or_else(|| panic!("no {kind:?} in {:#?}", events.log()))
    }
}

// ---- Multicast DNS

/// A port of multicast DNS that no other program has.
fn free_port() -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.local_addr().unwrap().port()
}

/// A browser that is not ours, on loopback only.
struct Browser {
    daemon: ServiceDaemon,
    events: mdns_sd::Receiver<ServiceEvent>,
    resolved: BTreeMap<String, ResolvedService>,
    removed: BTreeSet<String>,
}

impl Browser {
    fn open(port: u16) -> Self {
        let daemon = ServiceDaemon::new_with_port(port).unwrap();
        daemon.disable_interface(IfKind::All).unwrap();
        daemon.enable_interface(IfKind::LoopbackV4).unwrap();
        let events = daemon.browse(SERVICE).unwrap();
        Self {
            daemon,
            events,
            resolved: BTreeMap::new(),
            removed: BTreeSet::new(),
        }
    }

    /// Browses until what was found so far is enough.
    async fn until(&mut self, mut enough: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + SOON;
        while !enough(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, self.events.recv_async()).await {
                Ok(Ok(ServiceEvent::ServiceResolved(found))) => {
                    self.removed.remove(found.get_fullname());
                    self.resolved.insert(found.get_fullname().to_owned(), *found);
                }
                Ok(Ok(ServiceEvent::ServiceRemoved(_, name))) => {
                    self.resolved.remove(&name);
                    self.removed.insert(name);
                }
                Ok(Ok(_)) => {}
                other => panic!("{other:?} after {:#?}", self.resolved),
            }
        }
    }

    fn addresses(&self) -> Vec<Ipv4Addr> {
        let mut addresses: Vec<_> = self
            .resolved
            .values()
            .flat_map(ResolvedService::get_addresses_v4)
            .collect();
        addresses.sort();
        addresses
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.daemon.shutdown();
    }
}

#[tokio::test]
async fn a_foreign_browser_finds_name_port_and_properties() {
    for (auth, word, octet) in [(Auth::Md5, "yes", 1), (Auth::None, "no", 2)] {
        let port = free_port();
        let mut browser = Browser::open(port);
        let config = Config {
            mdns_port: Some(port),
            auth,
            ..config([1, octet], &[])
        };
        let (device, events) = started(config).await;
        browser.until(|browser| browser.resolved.len() == 1).await;
        let found = browser.resolved.values().next().unwrap();
        assert_eq!(found.get_fullname(), "IR-Remote-Mini._arduino._tcp.local.");
        assert_eq!(found.get_hostname(), "IR-Remote-Mini.local.");
        assert_eq!(found.get_port(), device.ota_port());
        assert_eq!(browser.addresses(), [device.ip()]);
        for (key, value) in [
            ("board", "XIAO_ESP32C6"),
            ("tcp_check", "no"),
            ("ssh_upload", "no"),
            ("auth_upload", word),
        ] {
            assert_eq!(found.get_property_val_str(key), Some(value));
        }
        assert_eq!(
            wait(&events, EventKind::Announced).await.text("host"),
            Some("IR-Remote-Mini.local")
        );
    }
}

#[tokio::test]
async fn five_devices_of_one_name_all_appear_under_names_of_their_own() {
    let port = free_port();
    let config = Config {
        mdns_port: Some(port),
        ..config([2, 1], &[])
    };
    let events = EventSink::new();
    let devices = ir_remote::start_many(config, 5, events).await.unwrap();
    let mut browser = Browser::open(port);
    let all: Vec<_> = devices.iter().map(Device::ip).collect();
    browser.until(|browser| browser.addresses() == all).await;
    let names: Vec<_> = browser
        .resolved
        .values()
        .map(|found| found.get_hostname().to_owned())
        .collect();
    assert_eq!(
        names,
        [
            "IR-Remote-Mini-2.local.",
            "IR-Remote-Mini-3.local.",
            "IR-Remote-Mini-4.local.",
            "IR-Remote-Mini-5.local.",
            "IR-Remote-Mini.local.",
        ]
    );
}

#[tokio::test]
async fn a_foreign_resolver_finds_the_address_of_a_host_name() {
    let port = free_port();
    let config = Config {
        mdns_port: Some(port),
        ..config([3, 1], &[])
    };
    let (device, events) = started(config).await;
    wait(&events, EventKind::Announced).await;
    let browser = Browser::open(port);
    let answers = browser
        .daemon
        .resolve_hostname("ir-remote-mini.local.", None)
        .unwrap();
    let deadline = Instant::now() + SOON;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = timeout(left, answers.recv_async()).await.unwrap().unwrap();
        if let mdns_sd::HostnameResolutionEvent::AddressesFound(_, addresses) = answer {
            let found: Vec<_> = addresses.iter().map(mdns_sd::ScopedIp::to_ip_addr).collect();
            assert_eq!(found, [device.ip()]);
            return;
        }
    }
}

#[tokio::test]
async fn who_ends_says_farewell_and_who_vanishes_does_not() {
    let port = free_port();
    let mut browser = Browser::open(port);
    let config = |octet, texts: &[&str]| Config {
        mdns_port: Some(port),
        ..config([4, octet], texts)
    };
    let (ending, _) = started(config(1, &[])).await;
    browser.until(|browser| browser.resolved.len() == 1).await;
    let (_vanishing, events) = started(config(2, &["vanish=2"])).await;
    browser.until(|browser| browser.resolved.len() == 2).await;
    assert_eq!(
        wait(&events, EventKind::Fault).await.text("fault"),
        Some("vanish")
    );
    drop(ending);
    browser.until(|browser| !browser.removed.is_empty()).await;
    assert_eq!(
        browser.removed.iter().collect::<Vec<_>>(),
        ["IR-Remote-Mini._arduino._tcp.local."]
    );
    assert!(
        browser
            .resolved
            .contains_key("IR-Remote-Mini-2._arduino._tcp.local.")
    );
}

#[tokio::test]
async fn a_device_that_moves_is_announced_at_its_new_address() {
    let port = free_port();
    let mut browser = Browser::open(port);
    let config = Config {
        mdns_port: Some(port),
        ..config([5, 1], &["move-to=127.5.5.100@2"])
    };
    let (device, events) = started(config).await;
    let old = device.ip();
    browser.until(|browser| browser.addresses() == [old]).await;
    let new = Ipv4Addr::new(127, 5, 5, 100);
    browser.until(|browser| browser.addresses().contains(&new)).await;
    assert_eq!(device.ip(), new);
    assert_eq!(events.count(|event| event.kind == EventKind::Rebooting), 0);
}

#[tokio::test]
async fn a_liar_announces_the_address_that_it_was_told_to() {
    let port = free_port();
    let mut browser = Browser::open(port);
    let config = Config {
        mdns_port: Some(port),
        ..config([6, 1], &["announces=127.5.6.77"])
    };
    let (_device, _events) = started(config).await;
    let lie = Ipv4Addr::new(127, 5, 6, 77);
    browser.until(|browser| browser.addresses() == [lie]).await;
}

// ---- MQTT

/// The part of a broker that a publisher needs: lets clients in, and reads what they publish.
struct Broker {
    listener: TcpListener,
}

struct Session {
    stream: TcpStream,
    client_id: String,
}

impl Broker {
    async fn open() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self { listener }
    }

    fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    /// Takes the next client, and answers with this code.
    async fn accept(&self, code: u8) -> Session {
        let (mut stream, _) = timeout(SOON, self.listener.accept()).await.unwrap().unwrap();
        let (head, body) = read_packet(&mut stream).await.unwrap();
        assert_eq!(head, 0x10);
        assert_eq!(&body[..10], b"\0\x04MQTT\x04\x02\0\x0f");
        let client_id = String::from_utf8(body[12..].to_vec()).unwrap();
        stream.write_all(&[0x20, 2, 0, code]).await.unwrap();
        Session { stream, client_id }
    }
}

impl Session {
    /// Topic, payload and whether it is to be kept.
    async fn published(&mut self) -> (String, String, bool) {
        let (head, body) = timeout(SOON, read_packet(&mut self.stream))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(head & 0xFE, 0x30, "quality of service 0, no duplicate");
        let len = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(&body[2..2 + len]), text(&body[2 + len..]), head & 1 == 1)
    }
}

async fn read_packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let head = stream.read_u8().await.ok()?;
    let (mut len, mut shift) = (0, 0);
    loop {
        let byte = stream.read_u8().await.ok()?;
        len |= usize::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, body))
}

fn quick(broker: &Broker, topic: &str) -> Mqtt {
    Mqtt {
        topic: topic.to_owned(),
        heartbeat: Duration::from_millis(200),
        retry: Duration::from_millis(100),
        ..Mqtt::new(broker.address())
    }
}

#[tokio::test]
async fn it_says_online_for_all_to_keep_and_then_how_it_is() {
    let broker = Broker::open().await;
    let config = Config {
        mqtt: Some(quick(&broker, Mqtt::TOPIC)),
        ..config([11, 1], &["no-mqtt-trigger"])
    };
    let (device, events) = started(config).await;
    let mut session = broker.accept(0).await;
    let status = http(&device, "GET", "/api/status").await.unwrap();
    assert!(
        status.contains(&format!(r#""mqttClientId":"{}""#, session.client_id)),
        "{status}"
    );
    let topic = "home/ir_remote_mini/status".to_owned();
    assert_eq!(
        session.published().await,
        (topic.clone(), "online".to_owned(), true)
    );
    for _ in 0..2 {
        let (heard, payload, retained) = session.published().await;
        assert_eq!((&heard, retained), (&topic, false));
        let (uptime, rest) = payload
            .strip_prefix(r#"{"status":"online","uptime":"#)
            .unwrap()
            .split_once(',')
            .unwrap();
        assert!((4711..4800).contains(&uptime.parse::<u32>().unwrap()));
        assert_eq!(rest, r#""free_heap":251234,"device":"ir_receiver_mini"}"#);
    }
    assert_eq!(
        wait(&events, EventKind::Published).await.text("topic"),
        Some("home/ir_remote_mini/status")
    );
    let status = http(&device, "GET", "/api/status").await.unwrap();
    assert!(status.contains(r#""mqttConnected":true"#), "{status}");
}

#[tokio::test]
async fn a_topic_can_name_the_device_and_follows_a_cloned_mac() {
    let broker = Broker::open().await;
    let config = Config {
        mqtt: Some(quick(&broker, "home/ir_remote_mini/<mac>/status")),
        ..config([12, 1], &["mac-clone=A0:B1:C2:D3:E4:F5", "no-mqtt-trigger"])
    };
    let (device, _) = started(config).await;
    let mut session = broker.accept(0).await;
    assert_eq!(
        session.published().await.0,
        "home/ir_remote_mini/a0b1c2d3e4f5/status"
    );
    assert_ne!(device.name(), "a0b1c2d3e4f5");
    for page in ["/api/status", "/api/ota/status"] {
        let status = http(&device, "GET", page).await.unwrap();
        assert!(
            status.contains(r#""macAddress":"A0:B1:C2:D3:E4:F5","chipId":"d3c2b1a0""#),
            "{status}"
        );
    }
}

#[tokio::test]
async fn a_broker_that_goes_is_tried_again_for_ever_and_one_that_never_came_five_times() {
    let broker = Broker::open().await;
    let config = |octet| Config {
        mqtt: Some(quick(&broker, Mqtt::TOPIC)),
        ..config([13, octet], &["no-mqtt-trigger"])
    };
    let (known, _) = started(config(1)).await;
    drop(broker.accept(0).await);
    for _ in 0..7 {
        drop(broker.accept(2).await);
    }
    assert_eq!(broker.accept(0).await.published().await.1, "online");
    drop(known);
    let (unknown, _) = started(config(2)).await;
    for _ in 0..5 {
        drop(broker.accept(5).await);
    }
    assert!(
        timeout(Duration::from_millis(500), broker.listener.accept())
            .await
            .is_err()
    );
    let status = http(&unknown, "GET", "/api/status").await.unwrap();
    assert!(
        status.contains(
            r#""mqttConnected":false,"mqttEnabled":true,"mqttGivenUp":true,"mqttFailedAttempts":5"#
        ),
        "{status}"
    );
    // A restart begins anew.
    unknown.power_cycle();
    broker.accept(0).await;
}

#[tokio::test]
async fn a_device_that_vanishes_drops_its_broker_and_reports_again_when_it_returns() {
    let broker = Broker::open().await;
    let config = Config {
        mqtt: Some(quick(&broker, Mqtt::TOPIC)),
        ..config([14, 1], &["vanish=0.5", "return=0.5", "no-mqtt-trigger"])
    };
    let (device, events) = started(config).await;
    let mut session = broker.accept(0).await;
    assert!(http(&device, "GET", "/api/status").await.is_ok());
    while read_packet(&mut session.stream).await.is_some() {}
    assert!(http(&device, "GET", "/api/status").await.is_err());
    assert_eq!(broker.accept(0).await.published().await.1, "online");
    let up = wait(&events, EventKind::Up).await;
    assert_eq!(up.number("uptime_s"), Some(0));
    let status = http(&device, "GET", "/api/status").await.unwrap();
    assert!(status.contains(r#""uptime":"0s""#), "{status}");
}

// ---- Addresses

#[tokio::test]
async fn several_devices_move_side_by_side_and_keep_their_uptime() {
    let events = EventSink::new();
    let devices = ir_remote::start_many(config([21, 1], &["move-to=127.5.21.101@0.3"]), 3, events.clone())
        .await
        .unwrap();
    for (i, device) in devices.iter().enumerate() {
        let name = device.name();
        events
            .wait_for(|event| event.is(EventKind::Up, &name), SOON)
            .await
            .unwrap();
        assert_eq!(
            device.ip(),
            Ipv4Addr::new(127, 5, 21, 101 + u8::try_from(i).unwrap())
        );
        assert!(device.running().uptime_s >= 4711);
        let status = http(device, "GET", "/api/status").await.unwrap();
        assert!(
            status.contains(&format!(r#""ipAddress":"{}""#, device.ip())),
            "{status}"
        );
        assert!(
            TcpStream::connect((Ipv4Addr::new(127, 5, 21, 1), device.http_port()))
                .await
                .is_err()
        );
    }
}

#[tokio::test]
async fn a_return_without_a_vanishing_is_refused() {
    let error = ir_remote::start(config([22, 1], &["return=1"]), EventSink::new())
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("vanish"), "{error}");
}

// ---- Odd answers

#[tokio::test]
async fn each_odd_answer_is_odd_in_its_own_way() {
    let answer = async |octet, fault: &str| {
        let (device, _events) = started(config([31, octet], &[fault])).await;
        client::http_bytes(&device, "GET", "/api/status").await.unwrap()
    };
    let body = |answer: &[u8]| {
        let head_len = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        answer[head_len..].to_vec()
    };
    let promised = |answer: &[u8]| -> usize {
        let text = String::from_utf8_lossy(answer);
        let (_, rest) = text.split_once("Content-Length: ").unwrap();
        rest.split_once("\r\n").unwrap().0.parse().unwrap()
    };

    let cut = answer(1, "status-truncated").await;
    assert_eq!(body(&cut).len(), promised(&cut) / 2);
    assert!(serde_json::from_slice::<serde_json::Value>(&body(&cut)).is_err());

    let foreign = answer(2, "status-not-utf8").await;
    assert_eq!(body(&foreign).len(), promised(&foreign));
    assert!(std::str::from_utf8(&body(&foreign)).is_err());
    let mended = String::from_utf8_lossy(&body(&foreign)).into_owned();
    assert!(
        serde_json::from_str::<serde_json::Value>(&mended).is_ok(),
        "{mended}"
    );

    assert_eq!(body(&answer(3, "status-huge").await).len(), 16 << 20);
    let types = body(&answer(4, "status-wrong-types").await);
    let types: serde_json::Value = serde_json::from_slice(&types).unwrap();
    assert!(types["macAddress"].is_boolean());

    let elsewhere = answer(5, "status-redirect=http://127.9.9.9:1/x").await;
    let elsewhere = String::from_utf8(elsewhere).unwrap();
    assert!(elsewhere.starts_with("HTTP/1.1 302 "), "{elsewhere}");
    assert!(
        elsewhere.contains("\r\nLocation: http://127.9.9.9:1/x\r\n"),
        "{elsewhere}"
    );
}

#[tokio::test]
async fn headers_can_be_endless_and_a_status_slow() {
    let (device, _events) = started(config([32, 1], &["endless-headers"])).await;
    assert!(client::at_least(&device, "/api/status", 1 << 20).await);
    let (device, _events) = started(config([32, 2], &["status-slow"])).await;
    let mut stream = TcpStream::connect((device.ip(), device.http_port()))
        .await
        .unwrap();
    stream
        .write_all(b"GET /api/status HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let began = Instant::now();
    let mut first = [0; 6];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1");
    assert!(began.elapsed() >= Duration::from_millis(900));
}
