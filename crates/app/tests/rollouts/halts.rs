//! What fails stops the rest.

use serde_json::json;
use sim::ir_remote::Fault;

use crate::home::{Home, name, prompt_mac};

/// The canary: all devices are equal, so the first by id goes first.
const FIRST: usize = 0;

/// A canary that ends like this halts the rest, which get no byte; resumed, it goes on without it.
async fn halted(home: &Home, ending: &str, n_pushes: usize) {
    let before = [0, 1, 2].map(|idx| home.n_pushes(idx));
    let datagrams = [0, 1, 2].map(|idx| home.devices[idx].counters().datagrams);
    let new = home.firmware(Some("1.2"), 2);
    let id = home.roll_out(&json!({}));
    let halted = home.until_state(id, "halted").await;
    assert_eq!(home.member(&halted, FIRST)["state"], ending, "{halted:#}");
    let cause = &halted["cause"];
    assert_eq!(cause["rule"], "canary-failed", "{halted:#}");
    assert!(
        cause["text"].as_str().unwrap().contains(&name(FIRST)),
        "{cause:#}"
    );
    for idx in [1, 2] {
        assert_eq!(home.member(&halted, idx)["state"], "queued", "{halted:#}");
        assert_eq!(
            home.devices[idx].counters().datagrams,
            datagrams[idx],
            "{}",
            home.log()
        );
    }
    assert_eq!(home.n_pushes(FIRST) - before[FIRST], n_pushes, "{}", home.log());

    // Its owner has seen it: the next one goes first, and the last one follows.
    home.post(&format!("rollouts/{id}/resume"), &json!({})).is(200);
    let finished = home.until_state(id, "finished").await;
    home.check(&finished, &[ending, "updated", "updated"]);
    assert_eq!(finished["ok"], false, "{finished:#}");
    assert!(home.runs(1, &new) && home.runs(2, &new), "{}", home.log());
    for idx in [1, 2] {
        assert_eq!(home.n_pushes(idx) - before[idx], 1, "{}", home.log());
    }
    assert_eq!(home.n_pushes(FIRST) - before[FIRST], n_pushes, "{}", home.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_canary_that_goes_back_by_itself_halts_the_rest_and_resuming_goes_on_without_it() {
    let home = Home::quick(3).await;
    // Only one whose label has moved before can be seen to go back (DESIGN.md, "Outcomes").
    home.firmware(Some("1.1"), 1);
    let id = home.roll_out(&json!({}));
    let finished = home.until_state(id, "finished").await;
    home.check(&finished, &["updated"; 3]);
    home.fault(FIRST, Fault::KeepsOld);
    halted(&home, "rolled-back", 1).await;
}

/// It is tried once more, as the old image was seen, and then it is enough.
pub(crate) async fn by_an_error_after_the_upload() {
    let home = Home::with(3, |plan| plan.device.mac = Some(prompt_mac(3))).await;
    home.fault(FIRST, Fault::ErrorText("Flash Write Failed".to_owned()));
    halted(&home, "kept-old", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_wrong_password_is_tried_once_and_halts_the_rest() {
    let home = Home::with(3, |plan| plan.device.password = Some("another".to_owned())).await;
    home.firmware(Some("1.1"), 1);
    let id = home.roll_out(&json!({}));
    let halted = home.until_state(id, "halted").await;
    let member = home.member(&halted, FIRST);
    assert_eq!(
        (&member["state"], &member["reason"], &member["n_tries"]),
        (&json!("refused"), &json!("wrong password"), &json!(1)),
        "{halted:#}"
    );
    let next_step = member["next_step"].as_str().unwrap();
    assert!(next_step.contains("password"), "{next_step}");
    assert!(
        halted["cause"]["text"].as_str().unwrap().contains(&name(FIRST)),
        "{halted:#}"
    );
    let counters = home.devices[FIRST].counters();
    assert_eq!(
        (counters.answers, counters.rejected, counters.receiving),
        (1, 1, 0),
        "{}",
        home.log()
    );
    for idx in [1, 2] {
        home.is_untouched(idx);
    }
}
