//! A simulated device that is told to update by MQTT, against a broker and a web server that are not ours.
#![expect(
    clippy::disallowed_methods,
    reason = "these stand for foreign programs and open their own sockets"
)]
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: a failure here is a failed test"
)]

#[expect(dead_code, reason = "half of it is for pushes")]
mod client;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use client::{http, md5_hex, upload};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sim::{
    Event, EventKind, EventSink, firmware,
    ir_remote::{self, Config, Device, Fault, Mqtt},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

const SOON: Duration = Duration::from_secs(20);
/// How long a silence is listened to.
const SILENCE: Duration = Duration::from_millis(400);
const IMAGE_LEN: usize = 40_000;

/// What the web server does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Serves {
    Image,
    ImageOnce,
    Half,
    OtherBytes,
    OtherLength,
    Redirect,
    Nothing,
}

/// A device, its broker, and the server of its image.
struct Rig {
    device: Device,
    events: EventSink,
    broker: TcpListener,
    image: Vec<u8>,
    server: SocketAddr,
    n_served: Arc<AtomicUsize>,
    _server: JoinSet<()>,
}

/// The broker's end of one connection.
struct Session {
    stream: TcpStream,
    /// The body of its `CONNECT`, from the client id on.
    connect: Vec<u8>,
    flags: u8,
    topic: String,
}

async fn rig(faults: &[&str], serves: Serves) -> Rig {
    rig_at(None, faults, serves).await
}

async fn rig_at(rate: Option<u32>, faults: &[&str], serves: Serves) -> Rig {
    let broker = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let config = Config {
        boot: Duration::from_millis(200),
        rate_bytes_per_s: rate,
        faults: faults.iter().map(|text| Fault::parse(text).unwrap()).collect(),
        mqtt: Some(Mqtt {
            retry: Duration::from_millis(50),
            ..Mqtt::new(broker.local_addr().unwrap().to_string())
        }),
        ..Config::new(Ipv4Addr::LOCALHOST)
    };
    let image = firmware::image(config.chip, Some("2.0.0"), IMAGE_LEN, 1);
    let events = EventSink::new();
    let address = listener.local_addr().unwrap();
    let n_served = Arc::new(AtomicUsize::new(0));
    let mut task = JoinSet::new();
    task.spawn(serve(listener, image.clone(), serves, Arc::clone(&n_served)));
    Rig {
        device: ir_remote::start(config, events.clone()).await.unwrap(),
        events,
        broker,
        image,
        server: address,
        n_served,
        _server: task,
    }
}

async fn serve(listener: TcpListener, image: Vec<u8>, serves: Serves, n_served: Arc<AtomicUsize>) {
    let mut open = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
        assert!(
            head.starts_with(b"GET /token HTTP/1.1\r\n"),
            "{}",
            String::from_utf8_lossy(&head)
        );
        let n_before = n_served.fetch_add(1, Ordering::SeqCst);
        let mut body = image.clone();
        let mut status = "200 OK";
        let mut len = body.len();
        match serves {
            Serves::ImageOnce if n_before > 0 => (status, body, len) = ("410 Gone", vec![], 0),
            Serves::Image | Serves::ImageOnce => {}
            Serves::Half => body.truncate(len / 2),
            Serves::OtherBytes => body[len / 2] ^= 1,
            Serves::OtherLength => len += 1,
            Serves::Redirect => {
                (status, body, len) = ("302 Found\r\nLocation: http://127.0.0.1:9/x", vec![], 0);
            }
            Serves::Nothing => {
                open.push(stream);
                continue;
            }
        }
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {len}\r\n\r\n");
        // A device that has enough closes.
        let _cut = stream.write_all(&[head.as_bytes(), &body].concat()).await;
    }
}

impl Rig {
    fn command(&self, id: &str) -> Value {
        json!({
            "request_id": id,
            "url": format!("http://{}/token", self.server),
            "size": self.image.len(),
            "sha256": hex::encode(Sha256::digest(&self.image)),
            "md5": md5_hex(&self.image),
            "version": "2.0.0",
            "expires": "2999-01-01T00:00:00Z",
        })
    }

    /// Takes the device's next connection, up to its subscription.
    async fn session(&self) -> Session {
        let (mut stream, _) = timeout(SOON, self.broker.accept()).await.unwrap().unwrap();
        let (head, body) = read_packet(&mut stream).await.unwrap();
        assert_eq!((head, &body[..7]), (0x10, &b"\0\x04MQTT\x04"[..]));
        stream.write_all(&[0x20, 2, 0, 0]).await.unwrap();
        let mut session = Session {
            stream,
            flags: body[7],
            connect: body[10..].to_vec(),
            topic: String::new(),
        };
        let online = session.published().await.unwrap();
        assert_eq!(online.0, "home/ir_remote_mini/status");
        let (head, body) = read_packet(&mut session.stream).await.unwrap();
        assert_eq!(head, 0x82);
        // After the packet id and the length of the topic; before the quality of service.
        let topic = &body[4..body.len() - 1];
        session.topic = String::from_utf8(topic.to_vec()).unwrap();
        let answer = [0x90, 3, body[0], body[1], 1];
        session.stream.write_all(&answer).await.unwrap();
        let available = session.published().await.unwrap();
        let topic = format!("home/ir_remote_mini/{}/availability", self.device.name());
        assert_eq!(available, (topic, "online".to_owned(), true));
        session
    }

    async fn wait(&self, kind: EventKind) -> Event {
        let found = self.events.wait_for(|event| event.kind == kind, SOON).await;
        found.unwrap_or_else(|| panic!("no {kind:?} in {:#?}", self.events.log()))
    }

    fn n(&self, kind: EventKind) -> usize {
        self.events.count(|event| event.kind == kind)
    }
}

impl Session {
    async fn send(&mut self, payload: &[u8], retained: bool) {
        let mut body = u16::try_from(self.topic.len()).unwrap().to_be_bytes().to_vec();
        body.extend(self.topic.as_bytes());
        // Quality of service 1, packet 77.
        body.extend([0, 77]);
        body.extend(payload);
        let mut packet = vec![0x32 | u8::from(retained)];
        let mut len = body.len();
        while len > 0x7F {
            packet.push(u8::try_from(len & 0x7F).unwrap() | 0x80);
            len >>= 7;
        }
        packet.push(u8::try_from(len).unwrap());
        packet.extend(body);
        self.stream.write_all(&packet).await.unwrap();
    }

    async fn command(&mut self, command: &Value) {
        self.send(command.to_string().as_bytes(), false).await;
    }

    /// Topic, payload and whether it is to be kept, of the next message; acknowledgements and pings are passed over.
    async fn published(&mut self) -> Option<(String, String, bool)> {
        loop {
            let (head, body) = timeout(SOON, read_packet(&mut self.stream)).await.unwrap()?;
            if head == 0x40 {
                assert_eq!(body, [0, 77]);
                continue;
            }
            assert_eq!(head & 0xFE, 0x30, "quality of service 0, no duplicate");
            let len = usize::from(u16::from_be_bytes([body[0], body[1]]));
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            return Some((text(&body[2..2 + len]), text(&body[2 + len..]), head & 1 == 1));
        }
    }

    async fn answer(&mut self) -> Option<Value> {
        let (topic, payload, retained) = self.published().await?;
        assert_eq!(
            format!("{topic}\n"),
            self.topic.replace("/cmd/update", "/update\n")
        );
        assert!(!retained, "{payload}");
        Some(serde_json::from_str(&payload).unwrap())
    }

    /// All answers up to the end of the connection, or up to the one that says that it is over.
    async fn answers(&mut self) -> Vec<Value> {
        let mut answers = Vec::new();
        while let Some(answer) = self.answer().await {
            let over = matches!(answer["state"].as_str().unwrap(), "done" | "failed" | "rejected");
            answers.push(answer);
            if over {
                break;
            }
        }
        answers
    }

    async fn hears_nothing(&mut self) {
        if let Ok(answer) = timeout(SILENCE, self.answer()).await {
            panic!("expected silence, heard {answer:?}");
        }
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

/// The states, each told once however often it was said.
fn states(answers: &[Value]) -> Vec<&str> {
    let mut states: Vec<_> = answers
        .iter()
        .map(|answer| answer["state"].as_str().unwrap())
        .collect();
    states.dedup();
    states
}

#[tokio::test]
async fn it_pulls_what_it_is_told_to_and_says_done_after_its_restart() {
    let rig = rig(&[], Serves::ImageOnce).await;
    let mut session = rig.session().await;
    let name = rig.device.name();
    assert_eq!(session.topic, format!("home/ir_remote_mini/{name}/cmd/update"));
    // Its last will: a kept "offline" where it says "online" itself.
    assert_eq!(session.flags, 0x26);
    let topic = format!("home/ir_remote_mini/{name}/availability");
    let will = [topic.as_bytes(), &[0, 7], b"offline"].concat();
    assert!(session.connect.ends_with(&will));

    session.command(&rig.command("job-1")).await;
    let answers = session.answers().await;
    assert_eq!(
        states(&answers),
        ["accepted", "downloading", "installing", "rebooting"]
    );
    let percents: Vec<_> = answers
        .iter()
        .map(|answer| answer["progress"].as_u64().unwrap())
        .collect();
    assert!(percents.is_sorted() && percents.len() > 10, "{percents:?}");
    assert_eq!(percents.last(), Some(&100));
    for answer in &answers {
        assert_eq!(
            (&answer["request_id"], &answer["error"]),
            (&json!("job-1"), &Value::Null)
        );
    }
    // The connection ended without a word: the broker says that it is offline.
    let mut session = rig.session().await;
    let done = json!({"request_id": "job-1", "state": "done", "progress": 100, "error": null});
    assert_eq!(session.answer().await.unwrap(), done);

    let received = rig.wait(EventKind::Received).await;
    assert_eq!(received.text("method"), Some("mqtt"));
    assert_eq!(received.number("len_bytes"), Some(rig.image.len() as u64));
    assert_eq!(received.text("sha256"), rig.command("")["sha256"].as_str());
    assert_eq!(received.text("peer"), Some(rig.server.to_string().as_str()));
    assert_eq!((rig.n(EventKind::Receiving), rig.n(EventKind::Rebooting)), (1, 1));
    assert_eq!(rig.device.running().version, "2.0.0");
    assert_eq!(rig.device.running().sha256.as_deref(), received.text("sha256"));
    session.hears_nothing().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_rejected_and_nothing_is_pulled() {
    let rig = rig(&[], Serves::Image).await;
    let mut session = rig.session().await;
    for (n, (key, value, why)) in [
        ("expires", json!(1_000_000_000), "expired"),
        ("expires", json!("2001-09-09T01:46:40Z"), "expired"),
        ("url", json!("https://127.0.0.1/token"), "bad url"),
        ("url", json!("ftp://127.0.0.1/token"), "bad url"),
        ("sha256", json!("00"), "bad sha256"),
        ("size", json!(0x14_0001), "too large"),
        ("reboot", json!(true), "unknown key reboot"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut command = rig.command(&format!("job-{n}"));
        command[key] = value;
        session.command(&command).await;
        let answer = session.answer().await.unwrap();
        assert_eq!(
            (&answer["state"], &answer["error"], &answer["request_id"]),
            (&json!("rejected"), &json!(why), &command["request_id"])
        );
    }
    session.send(b"reboot", false).await;
    let answer = session.answer().await.unwrap();
    assert_eq!(
        (&answer["state"], &answer["request_id"]),
        (&json!("rejected"), &Value::Null)
    );
    // Longer than a sketch has room for: dropped, and the connection lives.
    session.send(&[b' '; 9000], false).await;
    session.hears_nothing().await;
    assert_eq!(rig.n_served.load(Ordering::SeqCst), 0);
    session.command(&rig.command("job-99")).await;
    assert_eq!(session.answer().await.unwrap()["state"], "accepted");
}

#[tokio::test]
async fn a_command_that_the_broker_had_kept_is_ignored() {
    let rig = rig(&[], Serves::Image).await;
    let mut session = rig.session().await;
    session
        .send(rig.command("old").to_string().as_bytes(), true)
        .await;
    session.hears_nothing().await;
    let told = rig.wait(EventKind::Commanded).await;
    assert_eq!(told.text("became"), Some("ignored: retained"));
    assert_eq!(
        (rig.device.counters().commands, rig.device.counters().pulls),
        (0, 0)
    );
}

#[tokio::test]
async fn during_one_update_another_is_rejected_and_the_same_is_heard_once() {
    let rig = rig_at(Some(20_000), &[], Serves::Image).await;
    let mut session = rig.session().await;
    session.command(&rig.command("job-1")).await;
    rig.wait(EventKind::Receiving).await;
    session.command(&rig.command("job-1")).await;
    session.command(&rig.command("job-2")).await;
    let mut rejected = Vec::new();
    while let Some(answer) = session.answer().await {
        if answer["request_id"] != "job-1" {
            rejected.push(answer);
        }
    }
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    assert_eq!(
        (&rejected[0]["state"], &rejected[0]["error"]),
        (&json!("rejected"), &json!("busy"))
    );
    assert_eq!(rig.session().await.answer().await.unwrap()["request_id"], "job-1");
    assert_eq!(
        (rig.device.counters().commands, rig.device.counters().pulls),
        (3, 1)
    );
}

#[tokio::test]
async fn what_is_not_the_image_of_the_command_is_not_flashed() {
    for (serves, why) in [
        (Serves::Half, "connection lost"),
        (Serves::OtherBytes, "MD5 Check Failed"),
        (Serves::OtherLength, "another size than the command says"),
        (Serves::Redirect, "HTTP 302"),
        (Serves::Nothing, "read Timeout"),
    ] {
        let rig = rig(&[], serves).await;
        let mut session = rig.session().await;
        session.command(&rig.command("job-1")).await;
        let answers = session.answers().await;
        let last = answers.last().unwrap();
        assert_eq!(
            (&last["state"], &last["error"]),
            (&json!("failed"), &json!(why)),
            "{serves:?}"
        );
        assert_eq!(rig.device.counters().flashed, 0, "{serves:?}");
        assert_eq!(rig.n(EventKind::Rebooting), 0, "{serves:?}");
        assert_eq!(rig.n_served.load(Ordering::SeqCst), 1, "{serves:?}");
    }
    // Only the SHA-256 is another one.
    let rig = rig(&[], Serves::Image).await;
    let mut session = rig.session().await;
    let mut command = rig.command("job-1");
    command["sha256"] = json!("0".repeat(64));
    session.command(&command).await;
    assert_eq!(
        session.answers().await.last().unwrap()["error"],
        "SHA-256 Check Failed"
    );
    assert_eq!(rig.device.counters().flashed, 0);
}

/// What a fault makes of a command: the states up to the end of the first connection or of the request, flashes, restarts, pulls.
async fn check(fault: &str, serves: Serves, expected: &[&str], counted: (u64, u64, u64)) -> Rig {
    let rig = rig(&[fault], serves).await;
    let mut session = rig.session().await;
    session.command(&rig.command("job-1")).await;
    let mut answers = Vec::new();
    // A silence ends the request as well.
    while let Ok(Some(answer)) = timeout(SILENCE * 2, session.answer()).await {
        answers.push(answer);
    }
    assert_eq!(states(&answers), expected, "{fault}: {answers:?}");
    drop(session);
    if counted.1 > 0 {
        rig.wait(EventKind::Up).await;
    }
    let counters = rig.device.counters();
    assert_eq!(
        (counters.flashed, counters.restarts, counters.pulls),
        counted,
        "{fault}"
    );
    let name = fault.split('=').next().unwrap();
    // That one shows in the next connection.
    if name != "mqtt-no-done" {
        let struck = rig.wait(EventKind::Fault).await;
        assert_eq!(struck.text("fault"), Some(name));
    }
    rig
}

#[tokio::test]
async fn each_fault_of_commands_does_what_it_says() {
    let loaded = &["accepted", "downloading", "installing", "rebooting"][..];
    let failed = &["accepted", "downloading", "installing", "failed"][..];
    let broken = &["accepted", "downloading", "failed"][..];
    for (fault, expected, counted) in [
        ("mqtt-silent", &[][..], (0, 0, 0)),
        ("mqtt-rejects=no battery", &["rejected"][..], (0, 0, 0)),
        ("slot-too-small", &["rejected"][..], (0, 0, 0)),
        ("mqtt-never-pulls", &["accepted"][..], (0, 0, 0)),
        ("mqtt-wrong-digest", failed, (0, 0, 1)),
        ("error-text=Bad Day", failed, (0, 0, 1)),
        (
            "mqtt-no-flash",
            &["accepted", "downloading", "installing", "done"][..],
            (0, 0, 1),
        ),
        ("ok-no-reboot", loaded, (0, 0, 1)),
        ("drop-after=20000", broken, (0, 0, 1)),
        ("mqtt-no-done", loaded, (1, 1, 1)),
        ("keeps-old", loaded, (0, 1, 1)),
        ("reboot-at=20000", &["accepted", "downloading"][..], (0, 1, 1)),
        ("mqtt-lost-at=20000", &["accepted", "downloading"][..], (1, 1, 1)),
    ] {
        check(fault, Serves::Image, expected, counted).await;
    }
    check("mqtt-pulls-twice", Serves::Image, loaded, (1, 1, 2)).await;
    check("mqtt-pulls-twice", Serves::ImageOnce, broken, (0, 0, 2)).await;
}

#[tokio::test]
async fn what_is_said_after_the_restart_is_what_runs() {
    for (fault, expected) in [
        ("mqtt-lost-at=20000", Some("done")),
        ("keeps-old", Some("failed")),
        ("mqtt-no-done", None),
        ("reboot-at=20000", None),
    ] {
        let rig = rig(&[fault], Serves::Image).await;
        let mut session = rig.session().await;
        session.command(&rig.command("job-1")).await;
        while session.answer().await.is_some() {}
        let mut session = rig.session().await;
        match expected {
            Some(state) => assert_eq!(session.answer().await.unwrap()["state"], state, "{fault}"),
            None => session.hears_nothing().await,
        }
    }
}

#[tokio::test]
async fn a_stalled_pull_fails_after_a_while() {
    let rig = rig(&["stall-at=20000"], Serves::Image).await;
    let mut session = rig.session().await;
    session.command(&rig.command("job-1")).await;
    let answers = session.answers().await;
    assert_eq!(states(&answers), ["accepted", "downloading", "failed"]);
    assert_eq!(rig.device.counters().flashed, 0);
}

#[tokio::test]
async fn another_id_and_progress_without_sense_can_be_asked_for() {
    let rig = rig(&["mqtt-other-id", "mqtt-nonsense-progress"], Serves::Image).await;
    let mut session = rig.session().await;
    session.command(&rig.command("job-1")).await;
    let answers = session.answers().await;
    assert!(
        answers
            .iter()
            .all(|answer| answer["request_id"] == "somebody-else")
    );
    let progress: Vec<_> = answers.iter().map(|answer| &answer["progress"]).collect();
    for odd in [json!(-5), json!(900), json!("many"), Value::Null] {
        assert!(progress.contains(&&odd), "{odd} in {progress:?}");
    }
}

#[tokio::test]
async fn a_web_server_without_an_update_page_refuses_uploads_and_nothing_else() {
    let rig = rig(&["no-web-update", "silent"], Serves::Image).await;
    let mut session = rig.session().await;
    let answer = upload(&rig.device, &rig.image).await.unwrap_or_default();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 404 "),
        "{answer}"
    );
    assert!(
        http(&rig.device, "GET", "/api/status")
            .await
            .unwrap()
            .contains("mini")
    );
    assert_eq!(
        (rig.n(EventKind::Receiving), rig.device.counters().restarts),
        (0, 0)
    );
    // With its other two ways shut, it can still be told by MQTT.
    session.command(&rig.command("job-1")).await;
    assert_eq!(states(&session.answers().await).last(), Some(&"rebooting"));
    assert_eq!(rig.session().await.answer().await.unwrap()["state"], "done");
}

/// A broker that is not ours, without a configuration: it is for this machine only, and lets everybody in.
struct Mosquitto {
    child: std::process::Child,
    port: u16,
    folder: std::path::PathBuf,
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
        let _left = std::fs::remove_dir_all(&self.folder);
    }
}

impl Mosquitto {
    /// One that runs; none where it is not installed.
    fn start() -> Option<Self> {
        // Somebody else may take the port before it does.
        for _ in 0..20 {
            let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let folder = std::env::temp_dir().join(format!("sim-pull-{}-{port}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let log = std::fs::File::create(folder.join("log")).unwrap();
            let child = std::process::Command::new("mosquitto")
                .args(["-v", "-p", &port.to_string()])
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .ok()?;
            let mut mosquitto = Self { child, port, folder };
            let deadline = std::time::Instant::now() + SOON;
            while mosquitto.child.try_wait().unwrap().is_none() && std::time::Instant::now() < deadline {
                if mosquitto.log().contains(" running") {
                    return Some(mosquitto);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("mosquitto does not start");
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn client(&self, program: &str, arguments: &[&str]) -> String {
        let output = std::process::Command::new(program)
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_not_ours_hands_the_command_on_and_tells_of_the_end() {
    let Some(mosquitto) = Mosquitto::start() else {
        eprintln!("skipped: mosquitto is not installed");
        return;
    };
    let rig = rig(&["no-mqtt-trigger"], Serves::ImageOnce).await;
    let events = EventSink::new();
    let device = ir_remote::start(
        Config {
            boot: Duration::from_millis(200),
            mqtt: Some(Mqtt::new(format!("127.0.0.1:{}", mosquitto.port))),
            ..Config::new(Ipv4Addr::new(127, 5, 90, 1))
        },
        events.clone(),
    )
    .await
    .unwrap();
    let root = format!("home/ir_remote_mini/{}", device.name());
    events
        .wait_for(|event| event.kind == EventKind::Published, SOON)
        .await
        .unwrap();
    let command = rig.command("job-1").to_string();
    // It may not have subscribed yet where the broker has it let in: a command that nobody hears is repeated.
    let deadline = std::time::Instant::now() + SOON;
    while events.count(|event| event.kind == EventKind::Commanded) == 0 {
        assert!(std::time::Instant::now() < deadline, "{}", mosquitto.log());
        let topic = format!("{root}/cmd/update");
        mosquitto.client("mosquitto_pub", &["-q", "1", "-t", &topic, "-m", &command]);
    }
    let done = events
        .wait_for(|event| event.kind == EventKind::Up, SOON)
        .await
        .unwrap();
    assert_eq!(done.text("version"), Some("2.0.0"));
    drop(device);
    let topic = format!("{root}/availability");
    while mosquitto.client("mosquitto_sub", &["-C", "1", "-W", "5", "-t", &topic]) != "offline\n" {
        assert!(std::time::Instant::now() < deadline + SOON, "{}", mosquitto.log());
    }
}
