//! Devices that are told by the broker and fetch their image themselves: espota and the upload are shut.

use std::time::Duration;

use serde_json::{Value, json};
use sim::EventKind;
use sim::ir_remote::{Fault, Mqtt};
use tokio::time::{Instant, sleep};

use crate::broker::Mosquitto;
use crate::home::{Home, SOON, prompt_mac};

/// One device that takes images only by way of the broker, which the server has heard of it.
async fn home(broker: &Mosquitto, more: Vec<Fault>) -> Home {
    let address = broker.address();
    let home = Home::with(1, |plan| {
        plan.device.mac = Some(prompt_mac(1));
        // Long enough to be met: an image takes 1.3 s.
        plan.device.rate_bytes_per_s = Some(100_000);
        plan.device.mqtt = Some(Mqtt::new(&address));
        plan.device.faults = vec![Fault::Silent, Fault::NoWebUpdate];
        plan.device.faults.extend(more);
        plan.more = format!("mqtt: {{ broker: \"mqtt://{address}\" }}\n");
    })
    .await;
    home.firmware(Some("1.1"), 1);
    let deadline = Instant::now() + SOON;
    while planned_methods(&home).as_array().is_none_or(Vec::is_empty) {
        assert!(
            Instant::now() < deadline,
            "never heard: {}\n{}",
            home.log(),
            home.told()
        );
        sleep(Duration::from_millis(50)).await;
    }
    home
}

fn planned_methods(home: &Home) -> Value {
    let plan = home
        .post("plans", &json!({ "all": true, "method": "mqtt" }))
        .is(200);
    plan["members"][0]["methods"].clone()
}

fn n_commands(home: &Home) -> usize {
    let key = home.key(0);
    home.events.count(|event| event.is(EventKind::Commanded, &key))
}

fn ends_updated(home: &Home, finished: &Value) {
    let what = format!("{finished:#}\n{}\n{}", home.log(), home.told());
    home.check(finished, &["updated"]);
    let digest = finished["members"][0]["sha256"].as_str().unwrap();
    assert!(home.runs(0, digest), "{what}");
    assert_eq!(home.devices[0].counters().flashed, 1, "{what}");
}

/// The command leaves once, the image is fetched once, and what the device then runs is looked at.
pub(crate) async fn told_by_the_broker() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let home = home(&broker, Vec::new()).await;
    // By itself it is the last of three.
    let plan = home.post("plans", &json!({ "all": true })).is(200);
    assert_eq!(plan["members"][0]["methods"], json!(["espota", "http", "mqtt"]));
    let id = home.roll_out(&json!({ "method": "mqtt" }));
    let finished = home.until_state(id, "finished").await;
    ends_updated(&home, &finished);
    assert_eq!((n_commands(&home), home.n_pushes(0)), (1, 1), "{}", home.log());
}

/// Killed after the device has fetched everything and before it has said so, the server looks and commands nothing more.
pub(crate) async fn killed_before_the_answer() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let mut home = home(&broker, Vec::new()).await;
    let id = home.roll_out(&json!({ "method": "mqtt" }));
    home.wait(0, 0, EventKind::Received).await;
    home.kill();
    home.start().await;
    let finished = home.until_state(id, "finished").await;
    ends_updated(&home, &finished);
    assert_eq!(n_commands(&home), 1, "{}", home.log());
}

/// Killed as soon as the command has arrived, the server does not command again before it has seen the old version.
pub(crate) async fn killed_after_the_command() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let mut home = home(&broker, Vec::new()).await;
    let id = home.roll_out(&json!({ "method": "mqtt" }));
    home.wait(0, 0, EventKind::Commanded).await;
    home.kill();
    let n_asked = home.devices[0].counters().http_requests;
    let since = home.events.mark();
    home.start().await;
    home.wait(0, since, EventKind::Commanded).await;
    assert!(
        home.devices[0].counters().http_requests > n_asked,
        "commanded without a look: {}",
        home.log()
    );
    let finished = home.until_state(id, "finished").await;
    ends_updated(&home, &finished);
    assert_eq!(n_commands(&home), 2, "{}", home.log());
}

/// What the device says no to is its word, and the same for its second try: nothing was fetched.
pub(crate) async fn rejected() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let home = home(&broker, vec![Fault::MqttRejects("battery low".to_owned())]).await;
    let id = home.roll_out(&json!({ "method": "mqtt", "max_failures": "1" }));
    let halted = home
        .until(id, "over", |rollout| rollout["state"] != "running")
        .await;
    let member = home.member(&halted, 0);
    assert!(
        member.to_string().contains("battery low"),
        "{halted:#}\n{}",
        home.log()
    );
    assert_eq!((n_commands(&home), home.n_pushes(0)), (1, 0), "{}", home.log());
}
