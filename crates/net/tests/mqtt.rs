//! The bus, at a small broker made for each test, and at Mosquitto where it is installed.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod common;

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use net::mqtt::{Broker, Bus, Commanded, Incoming, Outgoing, Weight};
use tokio::task::JoinSet;

use common::mosquitto::{Mosquitto, packet, published, read_packet, text};
use common::{SOON, listener};

const AVAILABILITY: &str = "reflash/bridge/availability";

fn result(topic: &str, payload: &[u8]) -> Outgoing {
    Outgoing {
        topic: topic.to_owned(),
        payload: payload.to_vec(),
        retain: false,
        weight: Weight::Result,
    }
}

/// A bus that runs until the set is dropped.
fn bus(broker: &Broker) -> (Bus, JoinSet<()>) {
    let (bus, keep) = Bus::new(broker, AVAILABILITY);
    let mut tasks = JoinSet::new();
    tasks.spawn(keep);
    (bus, tasks)
}

/// A broker for as many connections as there are turns.
fn broker(turns: Vec<Box<dyn FnOnce(TcpStream) + Send>>) -> (Broker, std::thread::JoinHandle<()>) {
    let (listener, addr) = listener(None);
    let thread = std::thread::spawn(move || {
        for turn in turns {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            turn(stream);
        }
    });
    (Broker::at(&format!("mqtt://{addr}")).unwrap(), thread)
}

/// Lets the client in; what it said to be let in.
fn let_in(stream: &mut TcpStream) -> Vec<u8> {
    let (first, body) = read_packet(stream).unwrap();
    assert_eq!(first, 0x10);
    stream.write_all(&[0x20, 2, 0, 0]).unwrap();
    body
}

/// The next message, not confirmed yet: topic, payload and number.
fn message(stream: &mut TcpStream) -> (String, Vec<u8>, [u8; 2]) {
    loop {
        let (first, body) = read_packet(stream).unwrap();
        if let Some((topic, payload, number)) = published(first, &body) {
            return (topic, payload, number.expect("quality of service 1"));
        }
    }
}

fn confirm(stream: &mut TcpStream, number: [u8; 2]) {
    stream.write_all(&packet(0x40, &number)).unwrap();
}

fn until_it_goes(stream: &mut TcpStream) {
    while read_packet(stream).is_some() {}
}

/// Lets it in and takes what it says of itself.
fn welcome(stream: &mut TcpStream) {
    let_in(stream);
    let (topic, payload, number) = message(stream);
    assert_eq!(
        (topic.as_str(), payload.as_slice()),
        (AVAILABILITY, &b"online"[..])
    );
    confirm(stream, number);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_leaves_a_last_will_and_says_that_it_is_there() {
    let (seen, told) = tokio::sync::oneshot::channel();
    let (broker, thread) = broker(vec![Box::new(|mut stream| {
        let connect = let_in(&mut stream);
        // MQTT 3.1.1 section 3.1.2.3: clean session, will, at least once, retained.
        assert_eq!(connect[7] & 0x3e, 0x2e, "{connect:?}");
        let will = [text(AVAILABILITY), text("offline")].concat();
        assert!(
            connect.windows(will.len()).any(|part| part == will),
            "{connect:?}"
        );
        let (first, body) = read_packet(&mut stream).unwrap();
        assert_eq!(first & 0x0f, 0x03, "retained, at least once");
        assert_eq!(published(first, &body).unwrap().0, AVAILABILITY);
        seen.send(()).unwrap();
        until_it_goes(&mut stream);
    })]);
    let (bus, mut tasks) = bus(&broker);
    assert!(bus.connected(SOON).await);
    told.await.unwrap();
    tasks.shutdown().await;
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_confirmed_is_told_again_and_a_command_is_not() {
    // RELIABILITY.md F80.
    let (broker, thread) = broker(vec![
        Box::new(|mut stream| {
            welcome(&mut stream);
            let mut seen = Vec::new();
            while seen.len() < 3 {
                seen.push(message(&mut stream).0);
            }
            assert!(seen.contains(&"cmd".to_owned()), "{seen:?}");
            // It goes without having confirmed anything.
        }),
        Box::new(|mut stream| {
            welcome(&mut stream);
            let mut seen = Vec::new();
            while seen.last().is_none_or(|topic| topic != "reflash/last") {
                let (topic, _, number) = message(&mut stream);
                confirm(&mut stream, number);
                seen.push(topic);
            }
            assert_eq!(seen, ["reflash/first", "reflash/second", "reflash/last"]);
        }),
    ]);
    let (bus, _tasks) = bus(&broker);
    assert!(bus.publish(result("reflash/first", b"1")));
    assert!(bus.publish(result("reflash/second", b"2")));
    assert!(bus.connected(SOON).await);
    let ended = bus.command("cmd", b"do it".to_vec(), SOON).await;
    assert_eq!(ended, Commanded::Unknown);
    assert!(bus.publish(result("reflash/last", b"3")));
    tokio::task::spawn_blocking(move || thread.join().unwrap())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_not_sent_later() {
    let nobody = Broker::at("mqtt://127.83.2.1:1").unwrap();
    let (bus, _tasks) = bus(&nobody);
    let ended = bus.command("cmd", Vec::new(), SOON).await;
    assert_eq!(ended, Commanded::NotSent);
    assert!(!bus.connected(Duration::from_millis(50)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_takes_nothing_holds_up_nobody() {
    // RELIABILITY.md F81: it answers the connection and then never again.
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (broker, thread) = broker(vec![Box::new(move |mut stream| {
        let_in(&mut stream);
        let _ = released.recv_timeout(3 * SOON);
    })]);
    let (bus, _tasks) = bus(&broker);
    assert!(bus.connected(SOON).await);
    let began = Instant::now();
    for n in 0..10_000 {
        let progress = Outgoing {
            weight: Weight::Progress,
            ..result("reflash/a/update", format!("{n}").as_bytes())
        };
        assert!(bus.publish(progress));
    }
    assert!(bus.publish(result("reflash/a/update", b"done")));
    assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
    assert!(bus.given_up() >= 8_000, "{}", bus.given_up());
    let ended = bus.command("cmd", Vec::new(), Duration::from_millis(100)).await;
    // Behind what is on its way already, it has not left.
    assert_eq!(ended, Commanded::NotSent);
    release.send(()).unwrap();
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_printed() {
    let (broker, thread) = broker(vec![Box::new(|mut stream| {
        let connect = let_in(&mut stream);
        assert!(String::from_utf8_lossy(&connect).contains("canary-7"));
        until_it_goes(&mut stream);
    })]);
    let broker = Broker {
        username: Some("reflash".to_owned()),
        password: Some("canary-7".to_owned().into()),
        ..broker
    };
    let (bus, mut tasks) = bus(&broker);
    assert!(bus.connected(SOON).await);
    assert!(!format!("{bus:?} {broker:?}").contains("canary"));
    tasks.shutdown().await;
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_too_long_is_not_heard_and_does_not_end_the_connection() {
    // RELIABILITY.md T36.
    let (broker, thread) = broker(vec![Box::new(|mut stream| {
        welcome(&mut stream);
        let (first, body) = read_packet(&mut stream).unwrap();
        assert_eq!(first, 0x82);
        stream.write_all(&packet(0x90, &[body[0], body[1], 1])).unwrap();
        for len in [64 * 1024 + 1, 64 * 1024] {
            let said = [text("home/a"), vec![b'x'; len]].concat();
            stream.write_all(&packet(0x30, &said)).unwrap();
        }
        let _ = read_packet(&mut stream);
    })]);
    let (bus, mut tasks) = bus(&broker);
    let mut listening = bus.listen(&["home/+".to_owned()]);
    assert!(listening.ready(SOON).await);
    let heard = tokio::time::timeout(SOON, listening.next()).await.unwrap();
    assert_eq!(heard.payload.len(), 64 * 1024);
    tasks.shutdown().await;
    assert!(!bus.is_connected());
    thread.join().unwrap();
}

fn at(mosquitto: &Mosquitto) -> Broker {
    Broker::at(&format!("mqtt://127.0.0.1:{}", mosquitto.port)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_says_offline_when_the_bus_ends() {
    let Some(mosquitto) = Mosquitto::start("allow_anonymous true") else {
        return;
    };
    let mut other = mosquitto.client("other", &[AVAILABILITY]);
    let (bus, tasks) = bus(&at(&mosquitto));
    assert!(bus.connected(SOON).await);
    assert_eq!(other.hear().1, b"online");
    drop(tasks);
    assert_eq!(other.hear().1, b"offline");
    // And whoever comes later is told so too.
    let mut later = mosquitto.client("later", &[AVAILABILITY]);
    assert_eq!(later.hear(), (AVAILABILITY.to_owned(), b"offline".to_vec(), true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_restarts_and_nothing_is_lost() {
    // RELIABILITY.md F80, twice instead of ten times: the pauses grow.
    let Some(mut mosquitto) = Mosquitto::start("allow_anonymous true") else {
        return;
    };
    let (bus, _tasks) = bus(&at(&mosquitto));
    let mut listening = bus.listen(&["home/+/update".to_owned()]);
    for turn in 0..3 {
        assert!(listening.ready(3 * SOON).await, "{turn}: {}", mosquitto.says());
        let mut other = mosquitto.client("other", &["reflash/+"]);
        let topic = "home/a0b1c2d3e4f5/update";
        other.say(topic, turn.to_string().as_bytes(), false);
        let heard = tokio::time::timeout(SOON, listening.next()).await.unwrap();
        let expected = Incoming {
            topic: topic.to_owned(),
            payload: turn.to_string().into_bytes(),
            retained: false,
        };
        assert_eq!(heard, expected);
        assert!(bus.publish(result("reflash/a", turn.to_string().as_bytes())));
        assert_eq!(other.hear().1, turn.to_string().as_bytes());
        if turn < 2 {
            mosquitto.restart();
            let began = Instant::now();
            while bus.is_connected() {
                assert!(began.elapsed() < SOON);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_mosquitto_had_kept_is_told_as_such() {
    // RELIABILITY.md T27: a retained command is recognised, however often it comes.
    let Some(mosquitto) = Mosquitto::start("allow_anonymous true") else {
        return;
    };
    mosquitto.client("device", &[]).say("home/a/update", b"old", true);
    let (bus, _tasks) = bus(&at(&mosquitto));
    let mut listening = bus.listen(&["home/a/update".to_owned()]);
    let heard = tokio::time::timeout(SOON, listening.next()).await.unwrap();
    assert!(heard.retained, "{heard:?}");
    let ended = bus.command("home/a/cmd/update", b"{}".to_vec(), SOON).await;
    assert_eq!(ended, Commanded::Taken);
    // Nothing of a command stays at the broker.
    let mut late = mosquitto.client("late", &["home/a/#"]);
    assert_eq!(late.hear().0, "home/a/update");
    mosquitto.client("device", &[]).say("home/a/end", b"", false);
    assert_eq!(late.hear().0, "home/a/end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_mosquitto_refuses_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let acl = folder.path().join("acl");
    std::fs::write(&acl, "topic readwrite reflash/#\n").unwrap();
    let Some(mosquitto) = Mosquitto::start(&format!(
        "allow_anonymous true\nuser root\nacl_file {}",
        acl.display()
    )) else {
        return;
    };
    let (bus, _tasks) = bus(&at(&mosquitto));
    let mut allowed = bus.listen(&["reflash/a".to_owned()]);
    assert!(allowed.ready(SOON).await);
    let mut none = bus.listen(&["a/#/b".to_owned()]);
    assert!(!none.ready(SOON).await);
    assert!(allowed.ready(SOON).await && bus.is_connected());
}
