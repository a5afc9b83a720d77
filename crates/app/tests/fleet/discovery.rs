//! The server finds a home by itself, keeps knowing it, and is not fooled: "Done when" of discovery, T1, T9, T27 and T28.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::mosquitto::Mosquitto;
use crate::netns::{Home, Host};
use crate::process::Simulator;
use crate::server::Server;

/// The shortest interval that the configuration allows.
const INTERVAL: Duration = Duration::from_secs(10);
/// An address that is in no scan of these tests unless they name it.
const HUB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const WITH_MAC: [&str; 2] = ["--mqtt-topic", "home/ir_remote_mini/<mac>/status"];

/// The host of the server, and of the broker where there is one.
fn hub(home: &mut Home) -> Host {
    home.host("hub", HUB, "02:00:00:00:00:02")
}

/// A host 10.77.0.N whose interface has the MAC of the device on it.
fn device(home: &mut Home, n: u8) -> Host {
    home.host(&format!("dev{n}"), Ipv4Addr::new(10, 77, 0, n), &mac(n))
}

fn mac(n: u8) -> String {
    format!("a0:b1:c2:00:00:{n:02x}")
}

fn id(n: u8) -> String {
    mac(n).replace(':', "")
}

/// A device with the MAC of its host.
fn simulate(host: &Host, n: u8, arguments: &[&str]) -> Simulator {
    Simulator::start(host, &[&["--mac", &mac(n)], arguments].concat())
}

/// A configuration that looks at the known every 5 s and for the unknown in these ranges every 10 s.
fn configuration(ranges: &[&str], more: &str) -> String {
    let ranges = json!(ranges);
    format!("ir_remote_ota:\n  scan_interval: 10\n  poll_interval: 5\n  network_range: {ranges}\n{more}")
}

/// A broker, and a server on the same host that listens to nothing else; none where there is no mosquitto.
fn with_broker(home: &mut Home) -> Option<(Mosquitto, Server)> {
    let hub = hub(home);
    let broker = Mosquitto::start_at(&hub)?;
    let listening = format!("mqtt: {{ broker: \"mqtt://{}\" }}\n", broker.address());
    let server = Server::start(&hub, &configuration(&[], &listening));
    Some((broker, server))
}

/// Nobody has asked it for a password answer, invited it to an update, or sent it an image.
#[track_caller]
fn was_left_alone(simulator: &Simulator) {
    for kind in ["invited", "auth", "receiving", "received", "rebooting"] {
        let events = simulator.events(kind);
        assert!(events.is_empty(), "{events:#?}");
    }
}

#[test]
fn devices_of_all_four_sources_appear_within_one_interval_with_the_right_data() {
    let Some(mut home) = Home::build() else { return };
    let hub = hub(&mut home);
    let Some(broker) = Mosquitto::start_at(&hub) else {
        return;
    };
    let hosts: BTreeMap<u8, Host> = [11, 12, 13, 34].map(|n| (n, device(&mut home, n))).into();
    let broker = broker.address();
    let by_mqtt = [&["--mqtt", &broker, "--mqtt-heartbeat", "2s"][..], &WITH_MAC].concat();
    let simulators: Vec<_> = [
        (11, "mdns", &["--mdns", "--version", "1.1"][..]),
        (12, "mqtt", &by_mqtt),
        (13, "config", &["--version", "1.3"]),
        (34, "scan", &["--version", "3.4", "--chip", "esp32c3"]),
    ]
    .map(|(n, source, arguments)| (n, source, simulate(&hosts[&n], n, arguments)))
    .into();
    let more = format!(
        "  devices:\n    - {{ ip: \"10.77.0.13\", name: \"Living Room IR\" }}\nmqtt: {{ broker: \"mqtt://{broker}\" }}\n"
    );
    let server = Server::start(&hub, &configuration(&["10.77.0.32/29"], &more));
    let began = Instant::now();
    for (n, source, simulator) in &simulators {
        let found = server.wait_for_device(&id(*n), |device| device["state"] == "online");
        assert!(began.elapsed() < INTERVAL, "{source} took {:?}", began.elapsed());
        assert_eq!(found["sources"], json!([source]), "{found:#}");
        assert_eq!(found["address"], format!("10.77.0.{n}"));
        assert_eq!(found["mac"], id(*n));
        assert_eq!(found["family"], "ir-remote");
        assert_eq!(found["host_name"], "IR-Remote-Mini");
        assert_eq!(found["ota"], "enabled");
        assert_eq!(found["free_heap_bytes"], 251_234);
        assert!(found["uptime_s"].as_u64().unwrap() >= 4711, "{found:#}");
        assert_eq!(found["conflict"], Value::Null);
        let listed = *source == "config";
        assert_eq!(
            (&found["enrolled"], &found["configured"]),
            (&json!(listed), &json!(listed))
        );
        was_left_alone(simulator);
    }
    let devices = server.devices();
    let of = |n: u8| devices.iter().find(|device| device["id"] == id(n)).unwrap();
    assert_eq!(devices.len(), 4, "{devices:#?}");
    assert_eq!(of(13)["name"], "Living Room IR");
    assert_eq!(
        [11, 12, 13, 34].map(|n| of(n)["reported_version"].clone()),
        ["1.1", "1.0", "1.3", "3.4"]
    );
}

#[test]
fn a_device_that_only_a_broker_can_reach_is_known_without_an_address() {
    let Some(mut home) = Home::build() else { return };
    let Some((broker, server)) = with_broker(&mut home) else {
        return;
    };
    broker.publish(
        "home/ir_remote_mini/a0b1c2000063/status",
        r#"{"status":"online","uptime":77,"free_heap":1234,"device":"ir_receiver_mini"}"#,
        false,
    );
    let found = server.wait_for_device("a0b1c2000063", |_| true);
    assert_eq!(found["address"], Value::Null);
    assert_eq!(found["sources"], json!(["mqtt"]));
    assert_eq!(found["enrolled"], false);
}

#[test]
fn one_that_changes_its_address_is_the_same_device() {
    let Some(mut home) = Home::build() else { return };
    let hub = hub(&mut home);
    let host = device(&mut home, 34);
    let new = Ipv4Addr::new(10, 77, 0, 37);
    host.add_address(new);
    let _simulator = simulate(&host, 34, &["--fault", "move-to=10.77.0.37@6"]);
    let server = Server::start(&hub, &configuration(&["10.77.0.32/29"], ""));
    server.wait_for_device(&id(34), |device| {
        device["address"] == "10.77.0.34" && device["state"] == "online"
    });
    let moved = server.wait_for_event("device.moved", &id(34));
    assert_eq!(
        moved["detail"],
        json!({ "from": "10.77.0.34", "to": "10.77.0.37" })
    );
    let device = server.wait_for_device(&id(34), |device| device["state"] == "online");
    assert_eq!(device["address"], "10.77.0.37");
    assert_eq!(device["restarts"], 0);
    assert_eq!(device["conflict"], Value::Null);
    assert_eq!(server.devices().len(), 1);
    assert_eq!(server.n_events("device.found"), 1);
}

#[test]
fn two_addresses_with_one_mac_are_a_conflict_until_one_of_them_goes() {
    let Some(mut home) = Home::build() else { return };
    let hub = hub(&mut home);
    let (right, clone) = (device(&mut home, 34), device(&mut home, 35));
    let right = simulate(&right, 34, &[]);
    let copy = simulate(&clone, 35, &["--fault", &format!("mac-clone={}", mac(34))]);
    let server = Server::start(&hub, &configuration(&["10.77.0.32/29"], ""));
    let device = server.wait_for_device(&id(34), |device| device["conflict"] != Value::Null);
    assert_eq!(device["conflict"]["kind"], "one-mac-two-addresses");
    let text = device["conflict"]["text"].as_str().unwrap();
    assert!(
        text.contains("10.77.0.34") && text.contains("10.77.0.35"),
        "{text}"
    );
    assert_eq!(server.devices().len(), 1);
    // Its owner cannot approve what may be either of the two.
    let refused = server.ask(
        "POST",
        &format!("/api/v1/devices/{}/enroll", id(34)),
        Some(&json!({})),
    );
    assert_eq!(refused.status, 409, "{}", refused.body);
    was_left_alone(&right);
    was_left_alone(&copy);
    clone.unplug();
    server.wait_for_event("device.conflict-solved", &id(34));
    let device = server.wait_for_device(&id(34), |device| device["state"] == "online");
    assert_eq!(device["conflict"], Value::Null);
    assert_eq!(device["address"], "10.77.0.34");
}

#[test]
fn one_that_vanishes_is_offline_after_three_misses_and_online_when_it_is_back() {
    let Some(mut home) = Home::build() else { return };
    let hub = hub(&mut home);
    let host = device(&mut home, 34);
    let _simulator = simulate(&host, 34, &[]);
    let server = Server::start(&hub, &configuration(&["10.77.0.32/29"], ""));
    let seen = server.wait_for_device(&id(34), |device| device["state"] == "online");
    host.unplug();
    let unplugged = Instant::now();
    server.wait_for_event("device.offline", &id(34));
    // Two more looks, 5 s apart, after the first that failed.
    assert!(
        unplugged.elapsed() > Duration::from_secs(10),
        "{:?}",
        unplugged.elapsed()
    );
    let gone = server.wait_for_device(&id(34), |device| device["state"] == "offline");
    assert!(gone["last_seen_ms"].as_i64() >= seen["last_seen_ms"].as_i64());
    assert_eq!(gone["reported_version"], "1.0");
    assert_ne!(gone["trouble"], Value::Null);
    host.plug_in();
    server.wait_for_device(&id(34), |device| device["state"] == "online");
    assert_eq!(server.n_events("device.found"), 1);
    assert_eq!(server.n_events("device.offline"), 1);
}

// T1
#[test]
fn a_stranger_gets_no_password_answer_and_no_image_in_a_thousand_scans() {
    let Some(mut home) = Home::build() else { return };
    let hub = hub(&mut home);
    let evil = device(&mut home, 66);
    let stranger = simulate(&evil, 66, &["--mdns"]);
    let server = Server::start(
        &hub,
        &configuration(&["10.77.0.66/32"], "  ota_password: a-password-of-this-home\n"),
    );
    server.wait_for_device(&id(66), |device| device["state"] == "online");
    for _ in 0..1000 {
        let answer = server.ask("POST", "/api/v1/discovery/scan", Some(&json!({})));
        assert!(
            (200..300).contains(&answer.status),
            "{}: {}",
            answer.status,
            answer.body
        );
    }
    let device = server.wait_for_device(&id(66), |_| true);
    assert_eq!(device["enrolled"], false);
    was_left_alone(&stranger);
    assert!(!server.said().contains("a-password-of-this-home"));
}

// T27
#[test]
fn commands_that_a_broker_keeps_do_nothing_however_often_it_restarts() {
    let Some(mut home) = Home::build() else { return };
    let hub = hub(&mut home);
    let Some(mut broker) = Mosquitto::start_at(&hub) else {
        return;
    };
    let host = device(&mut home, 13);
    let address = broker.address();
    let simulator = simulate(&host, 13, &[&["--mqtt", &address][..], &WITH_MAC].concat());
    let device_id = id(13);
    for (topic, payload) in [
        (format!("reflash/{device_id}/update/set"), "install"),
        (format!("reflash/{device_id}/ota/set"), "OFF"),
        (format!("reflash/{device_id}/rollback/set"), "1.0"),
        (
            format!("home/ir_remote_mini/{device_id}/cmd/update"),
            r#"{"request_id":"1","url":"http://10.77.0.66/x.bin","expires":4102444800}"#,
        ),
        (format!("homeassistant/update/reflash_{device_id}/set"), "install"),
    ] {
        broker.publish(&topic, payload, true);
    }
    let more = format!("  devices: [\"10.77.0.13\"]\nmqtt: {{ broker: \"mqtt://{address}\" }}\n");
    let server = Server::start(&hub, &configuration(&[], &more));
    server.wait_for_device(&device_id, |device| {
        device["state"] == "online" && device["sources"].to_string().contains("mqtt")
    });
    for n in 1..=10 {
        broker.go();
        broker.come_back();
        // The server waits longer each time that its broker goes; it is not waited for every time.
        if n <= 3 || n == 10 {
            broker.wait_for_subscriber("home/ir_remote_mini/status");
            broker.wait_for_subscriber("home/ir_remote_mini/+/availability");
        }
    }
    let device = server.wait_for_device(&device_id, |device| device["state"] == "online");
    assert_eq!(device["ota"], "enabled");
    assert_eq!(device["restarts"], 0);
    was_left_alone(&simulator);
    let mut subscribed = broker.subscribed();
    // There the device itself listens.
    let own = format!("home/ir_remote_mini/{device_id}/cmd/update");
    subscribed.retain(|topic| *topic != own);
    subscribed.sort();
    subscribed.dedup();
    assert_eq!(
        subscribed,
        [
            "home/ir_remote_mini/+/availability",
            "home/ir_remote_mini/+/status",
            "home/ir_remote_mini/status"
        ]
    );
    let strange: Vec<_> = server
        .events()
        .into_iter()
        .filter(|event| !event["kind"].as_str().unwrap_or_default().starts_with("device."))
        .collect();
    assert!(strange.is_empty(), "{strange:#?}");
}

// T28
#[test]
fn topics_name_devices_by_twelve_digits_and_by_nothing_else() {
    let Some(mut home) = Home::build() else { return };
    let Some((broker, server)) = with_broker(&mut home) else {
        return;
    };
    broker.wait_for_subscriber("home/ir_remote_mini/+/status");
    let heartbeat = r#"{"status":"online","uptime":77,"free_heap":1234,"device":"ir_receiver_mini"}"#;
    let long = "a".repeat(4000);
    for name in [
        "a0b1c20000",
        "a0b1c200006300",
        "a0b1c200006g",
        "../../a0b1c2000063",
        "..",
        "'; drop table device; --",
        "<script>alert(1)</script>",
        "a0b1c200006\u{661}",
        "a0b1c2 00063",
        "",
        &long,
    ] {
        broker.publish(&format!("home/ir_remote_mini/{name}/status"), heartbeat, true);
    }
    for mac in ["+", "#", "a/b", "a0:b1:c2:00:00:6g", "\\u0000", "../x"] {
        let status = format!(r#"{{"deviceType":"mini","macAddress":"{mac}","status":"online","uptime":78}}"#);
        broker.publish("home/ir_remote_mini/status", &status, false);
    }
    // The one that is right comes last; by then the others have been read.
    broker.publish("home/ir_remote_mini/a0b1c2000063/status", heartbeat, false);
    server.wait_for_device("a0b1c2000063", |_| true);
    for device in server.devices() {
        let id = device["id"].as_str().unwrap();
        let is_mac = id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        // One that says no name at all is known as the nameless one of its topic.
        assert!(
            id == "a0b1c2000063" || (!is_mac && device["identity"] == "weak"),
            "{device:#}"
        );
        assert!(
            id.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)),
            "{id}"
        );
    }
}

// T7, T22
#[test]
fn announced_addresses_are_no_more_than_hints() {
    let Some(mut home) = Home::build() else { return };
    let hub = hub(&mut home);
    let honest = simulate(&device(&mut home, 11), 11, &["--version", "1.1"]);
    // Would be found if anybody looked at loopback.
    let _own = Simulator::start(&hub.at(Ipv4Addr::LOCALHOST), &["--mac", &mac(1)]);
    // The same for its own address in the network.
    let _here = simulate(&hub, 2, &[]);
    let evil = device(&mut home, 66);
    let liars: Vec<_> = [
        "127.0.0.1",
        "169.254.169.254",
        "8.8.8.8",
        "10.77.0.2",
        "10.77.0.200",
        "224.0.0.251",
        "0.0.0.0",
    ]
    .iter()
    .zip(70..)
    .map(|(lie, n)| {
        let address = Ipv4Addr::new(10, 77, 0, n);
        evil.add_address(address);
        Simulator::start(
            &evil.at(address),
            &["--mdns", "--mac", &mac(n), "--fault", &format!("announces={lie}")],
        )
    })
    .collect();
    let server = Server::start(&hub, &configuration(&[], ""));
    for liar in &liars {
        liar.wait_for("announced");
    }
    // The last one speaks of a device that is there; by then the others have been heard.
    let address = Ipv4Addr::new(10, 77, 0, 66);
    let last = Simulator::start(
        &evil.at(address),
        &["--mdns", "--mac", &mac(66), "--fault", "announces=10.77.0.11"],
    );
    let found = server.wait_for_device(&id(11), |device| device["state"] == "online");
    assert_eq!(found["address"], "10.77.0.11");
    assert_eq!(found["reported_version"], "1.1");
    let others: Vec<_> = server
        .devices()
        .into_iter()
        .filter(|device| device["id"] != id(11))
        .collect();
    assert!(others.is_empty(), "{others:#?}");
    for simulator in liars.iter().chain([&honest, &last]) {
        was_left_alone(simulator);
    }
}
