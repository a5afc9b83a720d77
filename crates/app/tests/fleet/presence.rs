//! The simulators in a home, against programs that are not ours: no server takes part.

use std::net::Ipv4Addr;
use std::process::Command;

use crate::mosquitto::Mosquitto;
use crate::netns::Home;
use crate::process::{REFLASH, Simulator};

const ONLINE: &str = "1 home/ir_remote_mini/status online";

#[test]
fn hosts_of_a_home_hear_each_other_and_sort_out_who_has_the_name() {
    let Some(mut home) = Home::build() else { return };
    let simulators: Vec<_> = (1..=3)
        .map(|n| {
            let host = home.host(
                &format!("dev{n}"),
                Ipv4Addr::new(10, 77, 0, 10 + n),
                &format!("a0:b1:c2:00:00:0{n}"),
            );
            Simulator::start(&host, &["--mdns"])
        })
        .collect();
    let mut names: Vec<_> = simulators
        .iter()
        .map(|simulator| {
            simulator.wait_for("announced")["host"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "IR-Remote-Mini-2.local",
            "IR-Remote-Mini-3.local",
            "IR-Remote-Mini.local"
        ]
    );
}

#[test]
fn mosquitto_keeps_online_and_hears_the_heartbeat_again_after_a_restart() {
    let Some(mut broker) = Mosquitto::start() else {
        return;
    };
    let flags = [
        "--ota-port",
        "0",
        "--http-port",
        "0",
        "--mqtt",
        &broker.address(),
        "--mqtt-heartbeat",
        "300ms",
    ];
    let simulator = Simulator::on_loopback(&flags);
    simulator.wait_for("published");
    let heartbeat = |line: &str| {
        let payload =
            line.strip_prefix("0 home/ir_remote_mini/status {\"status\":\"online\",\"uptime\":47")?;
        payload
            .ends_with("\"device\":\"ir_receiver_mini\"}")
            .then_some(())
    };
    let subscriber = broker.subscribe("home/ir_remote_mini/#");
    subscriber.wait_for("retained word", |line| (line == ONLINE).then_some(()));
    subscriber.wait_for("heartbeat", heartbeat);
    broker.go();
    broker.come_back();
    let subscriber = broker.subscribe("home/ir_remote_mini/#");
    subscriber.wait_for("heartbeat after the restart", heartbeat);
}

#[test]
fn a_broker_or_a_topic_that_cannot_be_is_wrong_usage() {
    for (arguments, named) in [
        (&["--mqtt", "10.77.0.2"][..], "HOST:PORT"),
        (&["--mqtt", ":1883"], "HOST:PORT"),
        (&["--mqtt", "broker:0"], "HOST:PORT"),
        (
            &["--mqtt", "broker:1883", "--mqtt-topic", "home/+/status"],
            "a topic",
        ),
        (&["--mqtt-topic", "home/status"], "--mqtt"),
        (&["--fault", "return=1"], "vanish"),
    ] {
        let output = Command::new(REFLASH)
            .args(["simulate", "ir-remote", "--ota-port", "0", "--http-port", "0"])
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let expected = if named == "vanish" { 1 } else { 64 };
        assert_eq!(output.status.code(), Some(expected), "{arguments:?}: {said}");
        assert!(said.contains(named), "{arguments:?}: {said}");
    }
}
