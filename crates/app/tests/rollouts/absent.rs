//! Devices that are off.

use serde_json::json;
use sim::ir_remote::Fault;

use crate::home::Home;

/// The one that is off; it would be the second.
const OFF: usize = 1;

/// Nobody waits for it, or it misses the deadline, or it is updated when it is back.
pub(crate) async fn off() {
    let home = Home::with(3, |plan| plan.poll_s = 5).await;
    home.firmware(Some("1.1"), 1);
    home.fault(OFF, Fault::Dead);
    home.until_device(OFF, "offline", |device| device["state"] == "offline")
        .await;

    // Nobody wants to wait for it.
    let plan = home.post("plans", &json!({ "all": true })).is(200);
    assert_eq!(home.left_out(&plan, OFF), "offline");
    let text = plan["left_out"][0]["reason"]["next_step"].as_str().unwrap();
    assert!(text.contains("--when-back"), "{text}");
    let one = json!({ "devices": [home.key(OFF)] });
    home.post("rollouts", &one).is(422);

    // It does not come back in time.
    let id = home.roll_out(&json!({ "devices": [home.key(OFF)], "when_back_s": 2 }));
    let waiting = home.rollout(id);
    assert_eq!(home.member(&waiting, OFF)["state"], "waiting", "{waiting:#}");
    let missed = home.until_state(id, "finished").await;
    assert_eq!(home.member(&missed, OFF)["state"], "missed-window", "{missed:#}");
    assert_eq!(
        (&missed["ok"], &home.member(&missed, OFF)["n_tries"]),
        (&json!(false), &json!(0))
    );

    // It does, and nobody has waited for it meanwhile.
    let id = home.roll_out(&json!({ "when_back_s": 600 }));
    let others = home
        .until(id, "done with the others", |rollout| {
            [0, 2]
                .iter()
                .all(|&idx| home.member(rollout, idx)["state"] == "updated")
        })
        .await;
    assert_eq!(others["state"], "running", "{others:#}");
    let member = home.member(&others, OFF);
    assert_eq!(
        (&member["state"], &member["reason"]),
        (&json!("waiting"), &json!("offline")),
        "{others:#}"
    );
    home.is_untouched(OFF);
    home.devices[OFF].set_faults(Vec::new());
    let finished = home.until_state(id, "finished").await;
    home.check(&finished, &["updated"; 3]);
    for idx in 0..3 {
        assert_eq!(home.n_pushes(idx), 1, "{}", home.log());
    }
}
