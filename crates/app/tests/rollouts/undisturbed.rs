//! What goes on around a rollout and must change nothing of it.

use std::time::Duration;

use serde_json::json;
use sim::EventKind;
use tokio::time::sleep;

use crate::home::{Home, SOON};

/// How long all descriptors are taken.
const HELD: Duration = Duration::from_secs(2);

/// RELIABILITY.md F43: looks every 5 s, and a device that answers none of them for long enough to miss three.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_device_that_is_blind_while_it_flashes_is_not_called_offline() {
    let home = Home::with(1, |plan| {
        plan.poll_s = 5;
        plan.device.rate_bytes_per_s = Some(6_500);
    })
    .await;
    home.firmware(Some("1.1"), 1);
    let id = home.roll_out(&json!({ "canary": 0 }));
    home.wait(0, 0, EventKind::Receiving).await;
    let finished = home
        .until(id, "finished", |rollout| {
            let device = home.get(&format!("devices/{}", home.key(0)));
            assert_ne!(device["state"], "offline", "{device:#}\n{}", home.told());
            rollout["state"] == "finished"
        })
        .await;
    let log = home.events.log();
    let at = |kind| log.iter().find(|event| event.kind == kind).unwrap().t;
    let blind_s = at(EventKind::Received) - at(EventKind::Receiving);
    assert!(blind_s > 15.0, "it was blind for {blind_s} s only");
    home.check(&finished, &["updated"]);
}

/// RELIABILITY.md F89: what is planned stays, whatever becomes the newest image meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_image_that_comes_while_a_rollout_runs_changes_nothing_of_it() {
    let home = Home::of(3).await;
    let planned = home.firmware(Some("1.1"), 1);
    let id = home.roll_out(&json!({ "at_once": "1", "canary": 0 }));
    let before = home.rollout(id);
    home.wait(0, 0, EventKind::Receiving).await;
    home.firmware(Some("1.2"), 2);
    // A queued member is offered the newer one from now on, and still gets the one of its rollout.
    home.until_device(2, "offered the newer image", |device| {
        device["latest"].to_string().contains("1.2")
    })
    .await;
    let finished = home.until_state(id, "finished").await;
    home.check(&finished, &["updated"; 3]);
    for idx in 0..3 {
        assert!(home.runs(idx, &planned), "{}", home.log());
        assert_eq!(home.n_pushes(idx), 1);
        let image = |rollout| home.member(rollout, idx)["image"].clone();
        assert_eq!(image(&finished), image(&before));
    }
}

/// RELIABILITY.md F90: with hardly a descriptor left it refuses work or does it late, and lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_hardly_a_descriptor_left_it_lives_and_claims_nothing_that_is_not_so() {
    let home = Home::of(4).await;
    let first = home.firmware(Some("1.1"), 1);
    home.limit_descriptors(64);
    let id = home.roll_out(&json!({ "canary": 0, "at_once": "4" }));
    home.events
        .wait_for(|event| event.kind == EventKind::Receiving, SOON)
        .await
        .unwrap();
    // Somebody takes all that are left, for longer than a transfer lasts.
    let idle = home.idle_connections(64);
    sleep(HELD).await;
    drop(idle);
    let over = home
        .until(id, "over", |rollout| {
            !rollout["ended_ms"].is_null() || rollout["state"] == "halted"
        })
        .await;
    for idx in 0..4 {
        let is_updated = home.member(&over, idx)["state"] == "updated";
        assert_eq!(home.runs(idx, &first), is_updated, "{over:#}\n{}", home.log());
        assert!(home.n_pushes(idx) <= 2, "{}", home.log());
    }
    home.limit_descriptors(1024);
    if over["state"] == "halted" {
        home.post(&format!("rollouts/{id}/abort"), &json!({})).is(200);
    }
    let second = home.firmware(Some("1.2"), 2);
    let id = home.roll_out(&json!({ "canary": 0 }));
    let finished = home.until_state(id, "finished").await;
    home.check(&finished, &["updated"; 4]);
    assert!((0..4).all(|idx| home.runs(idx, &second)));
}
