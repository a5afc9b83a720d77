//! Its owner is told of rollouts by a web hook, in few messages and each once.

use serde_json::{Value, json};
use sim::ir_remote::Fault;

use crate::home::{Home, name};
use crate::receiver::{Got, Mode, Receiver};
use crate::support::{reflash, run};

/// In the address and the secret of the web hook, and in nothing that anybody may see (RELIABILITY.md T30).
const CANARY: &str = "cAnArY-7041";
const N_DEVICES: usize = 5;

fn text(got: &Got) -> String {
    got.json()["text"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rollout_is_one_message_and_a_killed_server_tells_nothing_twice() {
    let receiver = Receiver::well();
    let mut home = Home::with(N_DEVICES, |plan| {
        plan.device.rate_bytes_per_s = None;
        plan.device.boot = std::time::Duration::from_millis(300);
        plan.more = format!(
            "notify: {{ webhook: {{ url: \"{}?token={CANARY}\", secret: {CANARY} }}, about: [finished, failed, halted] }}\n",
            receiver.url()
        );
    })
    .await;
    home.firmware(Some("1.1"), 1);
    let first = home.roll_out(&json!({}));
    home.until_state(first, "finished").await;
    let got = receiver.until(1).await;
    assert_eq!(
        text(&got[0]),
        format!(
            "Rollout {first} has finished. All {N_DEVICES} devices are updated and run 1.1 now. Nothing is left to do."
        )
    );
    assert!(got[0].is_signed_by(CANARY));

    // The first one goes back by itself, and the rest halts; whoever is told does not answer just then.
    receiver.behave(Mode::Hangs);
    home.fault(0, Fault::KeepsOld);
    home.firmware(Some("1.2"), 2);
    let second = home.roll_out(&json!({ "name": "night" }));
    home.until_state(second, "halted").await;
    receiver.until(2).await;
    home.kill();
    receiver.behave(Mode::Says(200, String::new()));
    home.start().await;
    let got = receiver.until(3).await;
    assert_eq!(got[1].json(), got[2].json(), "it is the same message");
    let halted = got[2].json();
    assert_eq!(
        (&halted["kind"], &halted["rollout"]),
        (&Value::from("halted"), &Value::from(second))
    );
    assert_eq!(
        (&halted["devices"][0]["name"], &halted["devices"][0]["state"]),
        (&Value::from(name(0)), &Value::from("rolled-back"))
    );
    let words = text(&got[2]);
    for part in [
        format!("The rollout night (number {second}) has halted."),
        format!("{}: The device took the image", name(0)),
        "It runs 1.1 now.".to_owned(),
        "reflash rollout resume".to_owned(),
    ] {
        assert!(words.contains(&part), "{part:?} in {words}");
    }

    // Its owner lets it go on: the end is told, and nothing before it again.
    home.post(&format!("rollouts/{second}/resume"), &json!({}))
        .is(200);
    home.until_state(second, "finished").await;
    let got = receiver.until(4).await;
    let last = got[3].json();
    assert_eq!(
        (&last["kind"], &last["n_devices"]),
        (&Value::from("finished"), &Value::from(1))
    );
    assert!(
        text(&got[3]).contains(&format!(
            "{} of {N_DEVICES} devices are updated and run 1.2 now, 1 failed.",
            N_DEVICES - 1
        )),
        "{}",
        text(&got[3])
    );

    let mut test = reflash(["notify", "test", "--state"]);
    test.arg(home.folder());
    let ended = run(test).await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let place = format!(
        "webhook at http://{} took it. It answers HTTP 200.\n",
        receiver.address
    );
    assert_eq!(ended.stdout, place);
    let got = receiver.until(5).await;
    assert_eq!((got.len(), &got[4].json()["kind"]), (5, &Value::from("test")));
    receiver.behave(Mode::Says(500, String::new()));
    let mut test = reflash(["notify", "test", "--state"]);
    test.arg(home.folder());
    let refused = run(test).await;
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    for output in [home.told(), format!("{ended:?}{refused:?}")] {
        assert!(!output.contains(CANARY), "{output}");
    }
}
