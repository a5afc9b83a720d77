//! The network between sender and device goes in the middle of an update: RELIABILITY.md F35, F37, F61, F62 and F80.

use std::net::Ipv4Addr;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::mosquitto::Mosquitto;
use crate::netns::{Home, Host};
use crate::process::{REFLASH, SOON, Simulator};
use crate::server::Server;

const HUB: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const DEVICE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 11);
/// Slow enough that a moment in the middle can be met: an image takes 1.3 s.
const RATE: &str = "100000";
const PASSWORD: &str = "ir_remote_update";
const PASSWORD_ENV: &str = "REFLASH_TEST_PASSWORD";
/// Less than the device waits for a silent sender, and more: it gives up after about 4 s (PROTOCOLS.md B1a).
const A_MOMENT: Duration = Duration::from_millis(1500);
const TOO_LONG: Duration = Duration::from_secs(9);

/// When the network goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    AtTheStart,
    Sending,
    Rebooting,
}

/// What of it goes.
#[derive(Clone, Copy, Debug)]
enum What {
    /// The cable.
    Cable,
    /// What the device says is lost.
    In,
    /// What is said to the device is lost.
    Out,
    /// The sender has another address from now on.
    Address,
}

/// One disturbance, and what must come of it.
#[derive(Debug)]
struct Case {
    when: When,
    what: What,
    /// None: for good.
    lasts: Option<Duration>,
    outcome: &'static str,
    reason: Option<&'static str>,
    n_pushes: usize,
}

fn image(version: &str) -> Vec<u8> {
    sim::firmware::image("esp32c6".parse().unwrap(), Some(version), 128 * 1024, 1)
}

fn nft(host: &Host, rules: &str) {
    let output = host.command("nft").arg(rules).output().unwrap();
    assert!(output.status.success(), "nft {rules}: {}", said(&output));
}

fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

impl Case {
    fn begins(&self, hub: &Host) {
        match self.what {
            What::Cable => hub.unplug(),
            What::In | What::Out => {
                let hook = if matches!(self.what, What::In) {
                    "input"
                } else {
                    "output"
                };
                nft(hub, "add table ip cut");
                nft(
                    hub,
                    &format!("add chain ip cut way {{ type filter hook {hook} priority 0 ; policy drop ; }}"),
                );
            }
            What::Address => {
                // In this order: the last address of a network takes those that were added to it along.
                hub.remove_address(HUB);
                hub.add_address(Ipv4Addr::new(10, 78, 0, 3));
            }
        }
    }

    fn ends(&self, hub: &Host) {
        match self.what {
            What::Cable => hub.plug_in(),
            What::In | What::Out => nft(hub, "delete table ip cut"),
            What::Address => {}
        }
    }

    /// What is wrong about it.
    fn check(&self) -> Option<String> {
        let mut home = Home::build()?;
        let hub = home.host("hub", HUB, "02:00:00:00:00:02");
        let device = home.host("dev", DEVICE, "a0:b1:c2:00:00:0b");
        let simulator = Simulator::start(
            &device,
            &["--mac", "a0:b1:c2:00:00:0b", "--rate", RATE, "--boot-s", "2s"],
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("firmware.bin");
        std::fs::write(&file, image("1.1")).unwrap();
        let mut push = hub.command(REFLASH);
        push.arg("push")
            .arg(DEVICE.to_string())
            .arg(&file)
            .args([
                "--family",
                "ir-remote",
                "--json",
                "--soak",
                "2s",
                "--return-within",
                "20s",
            ])
            .args(["--password-env", PASSWORD_ENV])
            .env(PASSWORD_ENV, PASSWORD)
            .arg("--state")
            .arg(folder.path().join("state"));
        if self.when == When::AtTheStart {
            self.begins(&hub);
        }
        let output = std::thread::scope(|scope| {
            let running = scope.spawn(|| push.output().unwrap());
            match self.when {
                When::AtTheStart => {}
                When::Sending => {
                    simulator.wait_for("receiving");
                    std::thread::sleep(Duration::from_millis(300));
                    self.begins(&hub);
                }
                When::Rebooting => {
                    simulator.wait_for("rebooting");
                    self.begins(&hub);
                }
            }
            if let Some(lasts) = self.lasts {
                std::thread::sleep(lasts);
                self.ends(&hub);
            }
            running.join().unwrap()
        });
        let ended: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let n_pushes = simulator.events("receiving").len();
        let log = simulator.process.said().join("\n");
        let runs_it = simulator.events("received").iter().any(|event| {
            event["flashed"] == json!(true)
                && event["sha256"] == json!(hex::encode(Sha256::digest(image("1.1"))))
        });
        let right = ended["outcome"] == self.outcome
            && ended["reason"].as_str() == self.reason
            && n_pushes == self.n_pushes
            && (runs_it || !self.outcome.starts_with("updated"));
        (!right).then(|| format!("{self:?}: {n_pushes} pushes\n{}\n{log}", said(&output)))
    }
}

#[test]
fn wherever_the_network_goes_the_end_is_true_and_nothing_is_pushed_twice_without_a_look() {
    let case = |when, what, lasts, outcome, reason, n_pushes| Case {
        when,
        what,
        lasts,
        outcome,
        reason,
        n_pushes,
    };
    let (moment, long) = (Some(A_MOMENT), Some(TOO_LONG));
    let cases = [
        case(
            When::AtTheStart,
            What::Cable,
            None,
            "failed",
            Some("no answer"),
            0,
        ),
        case(When::AtTheStart, What::In, None, "failed", Some("no answer"), 0),
        case(When::AtTheStart, What::Out, None, "failed", Some("no answer"), 0),
        case(When::Sending, What::Cable, moment, "updated", None, 1),
        case(When::Sending, What::In, moment, "updated", None, 1),
        case(When::Sending, What::Out, moment, "updated", None, 1),
        // The device gives up and keeps its old image; that is seen, and then it is tried once more.
        case(When::Sending, What::Cable, long, "updated", None, 2),
        case(When::Sending, What::Out, long, "updated", None, 2),
        case(When::Sending, What::Address, None, "updated", None, 2),
        // What was not seen is not called kept.
        case(
            When::Sending,
            What::Cable,
            None,
            "unverified",
            Some("no return"),
            1,
        ),
        case(When::Sending, What::Out, None, "unverified", Some("no return"), 1),
        case(When::Rebooting, What::Cable, long, "updated", None, 1),
        case(When::Rebooting, What::In, long, "updated", None, 1),
        case(When::Rebooting, What::Out, long, "updated", None, 1),
        case(When::Rebooting, What::Address, None, "updated", None, 1),
        case(
            When::Rebooting,
            What::Cable,
            None,
            "unverified",
            Some("no return"),
            1,
        ),
    ];
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = cases.iter().map(|case| scope.spawn(|| case.check())).collect();
        running
            .into_iter()
            .filter_map(|case| case.join().unwrap())
            .collect()
    });
    assert!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
}

/// RELIABILITY.md F80.
#[test]
fn a_broker_that_restarts_ten_times_changes_nothing_of_a_rollout() {
    let Some(mut home) = Home::build() else { return };
    let hub = home.host("hub", HUB, "02:00:00:00:00:02");
    let Some(mut broker) = Mosquitto::start_at(&hub) else {
        return;
    };
    let address = broker.address();
    let simulators: Vec<_> = (11..14_u8)
        .map(|n| {
            let mac = format!("a0:b1:c2:00:00:{n:02x}");
            let host = home.host(&format!("dev{n}"), Ipv4Addr::new(10, 78, 0, n), &mac);
            let arguments = [
                "--mac", &mac, "--rate", "30000", "--boot-s", "500ms", "--mqtt", &address,
            ];
            (mac.replace(':', ""), Simulator::start(&host, &arguments))
        })
        .collect();
    let firmware = TempDir::new().unwrap();
    std::fs::write(firmware.path().join("ir_remote_v1.1.0.bin"), image("1.1.0")).unwrap();
    let server = Server::start(
        &hub,
        &format!(
            "policy: {{ canary_soak: 1s, soak: 1s }}\n\
             ir_remote_ota:\n  auto_discovery: false\n  poll_interval: 5\n  ota_password: \"{PASSWORD}\"\n  \
             firmware_path: \"{}\"\n  devices: [\"10.78.0.11\", \"10.78.0.12\", \"10.78.0.13\"]\n\
             mqtt: {{ broker: \"mqtt://{address}\" }}\n",
            firmware.path().display()
        ),
    );
    for (id, _) in &simulators {
        server.wait_for_device(id, |device| {
            device["state"] == "online" && device["offered"] == true
        });
    }
    let begun = server.ask(
        "POST",
        "/api/v1/rollouts",
        Some(&json!({ "all": true, "at_once": "1" })),
    );
    assert_eq!(begun.status, 201, "{:#}", begun.body);
    let rollout = format!("/api/v1/rollouts/{}", begun.body["id"]);
    let deadline = Instant::now() + 5 * SOON;
    let mut n_restarts = 0;
    let finished = loop {
        let now = server.ask("GET", &rollout, None).body;
        if !now["ended_ms"].is_null() {
            break now;
        }
        assert!(Instant::now() < deadline, "{now:#}\n{}", server.said());
        if n_restarts < 10 {
            broker.go();
            std::thread::sleep(Duration::from_millis(300));
            broker.come_back();
            n_restarts += 1;
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    assert_eq!(n_restarts, 10, "the rollout was over too soon");
    assert_eq!(
        (&finished["state"], &finished["ok"]),
        (&json!("finished"), &json!(true)),
        "{finished:#}"
    );
    for (id, simulator) in &simulators {
        assert_eq!(simulator.events("receiving").len(), 1, "{id}");
        server.wait_for_device(id, |device| {
            device["state"] == "online" && device["reported_version"] == "1.1.0"
        });
    }
    assert_eq!(server.n_events("device.offline"), 0, "{:#?}", server.events());
}
