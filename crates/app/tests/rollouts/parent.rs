//! Home Assistant as the parent and the owner of a server: it starts it, leaves it, comes back, and hands over its block.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use sim::EventKind;
use sim::ir_remote::Fault;
use tokio::time::{Instant, sleep};

use crate::home::{Home, SOON};
use crate::support::{PASSWORD, Running, reflash};

/// How long a managed server waits for its next parent (../shared/INTERFACES.md 2).
const GRACE: Duration = Duration::from_secs(10);

/// A stream that holds a server, until it is dropped.
struct Attached {
    _lines: BufReader<UnixStream>,
}

impl Attached {
    /// Attaches, and says what the first line tells.
    fn new(home: &Home) -> (Self, Value) {
        let mut stream = UnixStream::connect(home.folder().join("reflash.sock")).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        write!(stream, "GET /api/v1/attach HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut lines = BufReader::new(stream);
        let first = loop {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the stream has ended");
            if line.starts_with('{') {
                break serde_json::from_str(&line).unwrap();
            }
        };
        (Self { _lines: lines }, first)
    }
}

/// All events that a server has stored.
fn events(home: &Home) -> Vec<Value> {
    let mut stream = UnixStream::connect(home.folder().join("reflash.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    write!(
        stream,
        "GET /api/v1/events?after=0 HTTP/1.0\r\nHost: localhost\r\n\r\n"
    )
    .unwrap();
    let mut text = Vec::new();
    // It goes on for ever; what was stored comes at once.
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn managed(home: &Home) -> Running {
    let mut command = reflash(["serve", "--managed", "--data"]);
    command.arg(home.folder()).stdin(Stdio::piped());
    Running::start(command)
}

/// The parent dies, another one holds the server, and when that goes as well in the middle of a push, the push is finished.
pub(crate) async fn two_parents_one_after_the_other() {
    let mut home = Home::with(1, |plan| {
        // An image takes longer than the server waits for a parent.
        plan.device.rate_bytes_per_s = Some(9_000);
    })
    .await;
    home.terminate().await;
    let mut server = managed(&home);
    server.says("READY {").await;
    let ready = server.said();
    let ready: Value = serde_json::from_str(ready.trim().strip_prefix("READY ").unwrap()).unwrap();
    let (attached, first) = tokio::task::block_in_place(|| Attached::new(&home));
    assert_eq!(
        (&first["attached"], &first["managed"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(first["pid"], ready["pid"]);
    assert_eq!(first["id"], home.get("server")["id"]);

    // The one that started it is gone: it lives on.
    server.close_input();
    let until = Instant::now() + GRACE + Duration::from_secs(3);
    while Instant::now() < until {
        assert!(!server.has_ended(), "{}", server.told());
        sleep(Duration::from_millis(200)).await;
    }
    home.until_device(0, "online", |device| device["state"] == "online")
        .await;

    // And so does one that comes within the time.
    drop(attached);
    sleep(Duration::from_secs(4)).await;
    let (attached, _) = tokio::task::block_in_place(|| Attached::new(&home));
    sleep(GRACE).await;
    assert!(!server.has_ended(), "{}", server.told());

    let digest = home.firmware(Some("1.1"), 7);
    let rollout = home.roll_out(&json!({}));
    home.wait(0, 0, EventKind::Receiving).await;
    let left = Instant::now();
    drop(attached);
    let ended = server.end().await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(left.elapsed() >= GRACE, "{:?}", left.elapsed());
    let received = home.events.count(|event| event.kind == EventKind::Received);
    assert_eq!(received, 1, "the push was finished: {}", home.log());
    home.start().await;
    let rollout = home.until_state(rollout, "finished").await;
    home.check(&rollout, &["updated"]);
    assert!(home.runs(0, &digest), "{}", home.log());
    assert_eq!(home.n_pushes(0), 1, "{}", home.log());
}

/// Without a parent beside it, a managed server ends with its standard input at once.
pub(crate) async fn a_parent_that_never_attached() {
    let mut home = Home::quick(1).await;
    home.terminate().await;
    let mut server = managed(&home);
    server.says("READY {").await;
    let left = Instant::now();
    server.close_input();
    let ended = server.end().await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(left.elapsed() < GRACE, "{:?}", left.elapsed());
}

/// What Home Assistant hands over is looked at, enrolled and updated, outlives a kill, and leaves with the block.
pub(crate) async fn a_block_that_is_handed_over() {
    let mut home = Home::with(3, |plan| {
        plan.listed = false;
        plan.device.rate_bytes_per_s = None;
        plan.device.boot = Duration::from_millis(300);
    })
    .await;
    // Nobody knows the first two any more; the third is somebody's own.
    for idx in [0, 1] {
        home.delete(&format!("devices/{}", home.key(idx))).is(204);
    }
    let line = |home: &Home, idx: usize, name: &str| json!({ "ip": home.devices[idx].ip().to_string(), "name": name, "password": PASSWORD });
    let all = json!({ "scan_interval": 300,
        "devices": [line(&home, 0, "Living Room IR"), line(&home, 1, "Bedroom IR"), line(&home, 2, "Kitchen IR")] });
    let path = "configuration/home-assistant";
    let answer = home.put(path, &all).is(200);
    assert!(!answer.to_string().contains(PASSWORD), "{answer}");
    let is_there = |device: &Value| {
        device["state"] == "online" && device["configured"] == true && device["enrolled"] == true
    };
    for (idx, name) in [(0, "Living Room IR"), (1, "Bedroom IR"), (2, "Kitchen IR")] {
        let device = home.until_device(idx, "handed over", is_there).await;
        assert_eq!(device["name"], name);
    }
    // What stands in a block is not taken away elsewhere.
    home.delete(&format!("devices/{}", home.key(0))).is(409);

    home.kill();
    home.start().await;
    for idx in 0..3 {
        home.until_device(idx, "known after a kill", is_there).await;
    }
    let digest = home.firmware(Some("1.1"), 3);
    let rollout = home.roll_out(&json!({ "devices": [home.key(0)] }));
    home.until_state(rollout, "finished").await;
    assert!(
        home.runs(0, &digest),
        "with the password of the block: {}",
        home.log()
    );

    let wrong = json!({ "devices": [{ "ip": "8.8.8.8" }] });
    let problem = home.put(path, &wrong).is(422);
    assert_eq!(problem["mistakes"][0]["path"], "devices[0].ip", "{problem}");
    // All but the first leave; the third was added by hand before.
    home.put(path, &json!({ "devices": [line(&home, 0, "Living Room IR")] }))
        .is(200);
    let gone = |device: &Value| device["status"] == 404;
    home.until_device(1, "forgotten", gone).await;
    let own = home
        .until_device(2, "its owner's", |device| device["configured"] == false)
        .await;
    assert_eq!(own["enrolled"], true);
    home.until_device(0, "still there", is_there).await;
    home.delete(path).is(200);
    home.until_device(0, "forgotten", gone).await;
}

/// An entity shows a device without knowing anything: words, what is offered, the update, the last one, the way back.
pub(crate) async fn a_device_as_an_entity_sees_it() {
    let mut home = Home::with(1, |plan| {
        plan.device.rate_bytes_per_s = Some(40_000);
    })
    .await;
    let device = home.get(&format!("devices/{}", home.key(0)));
    assert_eq!(
        device["installed"]["text"], device["reported_version"],
        "{device:#}"
    );
    assert_eq!(
        (&device["job"], &device["last_update"], &device["estimate_s"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!(device["supported"]["install"], true);
    home.firmware(Some("1.1"), 7);
    let offered = |device: &Value| device["offered"] == true;
    let device = home.until_device(0, "offered", offered).await;
    assert_eq!(device["latest"]["text"], "1.1");
    assert!(device["estimate_s"].as_u64().unwrap() > 0, "{device:#}");

    let rollout = home.roll_out(&json!({ "devices": [home.key(0)], "name": "evening" }));
    home.wait(0, 0, EventKind::Receiving).await;
    let is_uploading =
        |device: &Value| device["job"]["state"] == "uploading" && device["job"]["percent"].is_u64();
    let device = home.until_device(0, "uploading", is_uploading).await;
    assert_eq!(
        (&device["job"]["running"], &device["job"]["rollout"]),
        (&json!(true), &json!(rollout))
    );
    home.until_state(rollout, "finished").await;
    let settled = |device: &Value| device["last_update"]["outcome"] == "updated";
    let device = home.until_device(0, "updated", settled).await;
    assert_eq!(
        (
            &device["last_update"]["ok"],
            &device["offered"],
            &device["installed"]["text"]
        ),
        (&json!(true), &json!(false), &json!("1.1"))
    );
    assert_eq!(device["job"]["running"], false);
    let told = events(&home);
    let of_kind = |kind: &str| {
        let found = told
            .iter()
            .find(|event| event["kind"] == kind && event["detail"]["rollout"] == rollout);
        found.unwrap_or_else(|| panic!("no {kind} in {told:#?}"))["detail"].clone()
    };
    let finished = of_kind("job.finished");
    assert_eq!(
        (
            &finished["ok"],
            &finished["failed"],
            &finished["from"],
            &finished["to"]
        ),
        (&json!(true), &json!(false), &json!("1.0"), &json!("1.1")),
        "{finished:#}"
    );
    let ended = of_kind("rollout.finished");
    assert_eq!(
        (&ended["counts"]["updated"], &ended["ok"], &ended["n_devices"]),
        (&json!(1), &json!(true), &json!(1)),
        "{ended:#}"
    );

    // A second image: the first is the way back.
    home.firmware(Some("1.2"), 8);
    let rollout = home.roll_out(&json!({ "devices": [home.key(0)], "firmware": "1.2" }));
    home.until_state(rollout, "finished").await;
    let has_way_back = |device: &Value| device["way_back"] == json!(["1.1"]);
    home.until_device(0, "with a way back", has_way_back).await;
    // All of it is known to the next server as well.
    home.kill();
    home.start().await;
    let device = home.until_device(0, "with a way back", has_way_back).await;
    assert_eq!(device["last_update"]["rollout"], rollout);

    one_that_fails(&home).await;
}

/// It says so in one event, with what to do.
async fn one_that_fails(home: &Home) {
    home.firmware(Some("1.3"), 9);
    home.fault(0, Fault::KeepsOld);
    let failing = home.roll_out(&json!({ "devices": [home.key(0)] }));
    home.until(failing, "over or halted", |rollout| rollout["state"] != "running")
        .await;
    let told = events(home);
    let failed = told
        .iter()
        .find(|event| event["kind"] == "job.finished" && event["detail"]["rollout"] == failing);
    let failed = &failed.unwrap_or_else(|| panic!("{told:#?}"))["detail"];
    assert_eq!((&failed["failed"], &failed["ok"]), (&json!(true), &json!(false)));
    for key in [
        "device",
        "name",
        "state",
        "reason",
        "text",
        "next_step",
        "from",
        "to",
    ] {
        assert!(failed[key].is_string(), "{key}: {failed:#}");
    }
    let device = home.get(&format!("devices/{}", home.key(0)));
    assert_eq!(device["last_update"]["ok"], false);
    assert_eq!(device["last_update"]["outcome"], failed["state"]);
}
