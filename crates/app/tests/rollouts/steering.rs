//! What its owner asks of a rollout that runs.

use serde_json::json;
use sim::EventKind;

use crate::home::{Home, name};

/// Who goes first; the others follow one by one.
const FIRST: usize = 0;

/// A rollout to all devices, one by one, in which the first one gets its image just now.
async fn one_by_one(home: &Home) -> i64 {
    home.firmware(Some("1.1"), 1);
    let id = home.roll_out(&json!({ "at_once": "1" }));
    home.wait(FIRST, 0, EventKind::Receiving).await;
    home.until_member(id, FIRST, "uploading").await;
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_it_is_paused_nothing_begins_and_what_runs_ends() {
    let mut home = Home::of(3).await;
    let id = one_by_one(&home).await;
    home.post(&format!("rollouts/{id}/pause"), &json!({})).is(200);
    let paused = home.until_member(id, FIRST, "updated").await;
    assert_eq!(paused["state"], "paused", "{paused:#}");
    for idx in [1, 2] {
        assert_eq!(home.member(&paused, idx)["state"], "queued", "{paused:#}");
        home.is_untouched(idx);
    }
    home.post(&format!("rollouts/{id}/pause"), &json!({})).is(409);

    // Neither does a restart begin anything.
    home.kill();
    home.start().await;
    home.until_device(1, "looked at", |device| device["state"] == "online")
        .await;
    assert_eq!(home.rollout(id)["state"], "paused");
    home.is_untouched(1);

    home.post(&format!("rollouts/{id}/resume"), &json!({})).is(200);
    let finished = home.until_state(id, "finished").await;
    home.check(&finished, &["updated"; 3]);
    for idx in 0..3 {
        assert_eq!(home.n_pushes(idx), 1, "{}", home.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn aborted_it_cancels_what_is_queued_with_not_a_byte_and_lets_a_push_end() {
    let home = Home::of(3).await;
    let id = one_by_one(&home).await;
    home.post(&format!("rollouts/{id}/abort"), &json!({})).is(200);
    let over = home
        .until(id, "over", |rollout| !rollout["ended_ms"].is_null())
        .await;
    assert_eq!(
        (&over["state"], &over["ok"]),
        (&json!("aborted"), &json!(false)),
        "{over:#}"
    );
    home.check(&over, &["updated", "cancelled", "cancelled"]);
    assert_eq!(home.n_pushes(FIRST), 1);
    for idx in [1, 2] {
        home.is_untouched(idx);
    }
    home.post(&format!("rollouts/{id}/resume"), &json!({})).is(409);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn aborted_by_force_it_breaks_off_a_push_and_the_old_image_runs_on() {
    let home = Home::of(2).await;
    let id = one_by_one(&home).await;
    home.post(&format!("rollouts/{id}/abort"), &json!({ "force": true }))
        .is(200);
    let over = home
        .until(id, "over", |rollout| !rollout["ended_ms"].is_null())
        .await;
    home.check(&over, &["cancelled", "cancelled"]);
    assert_eq!(
        (home.n_pushes(FIRST), home.devices[FIRST].counters().flashed),
        (1, 0),
        "{}",
        home.log()
    );
    assert_eq!(home.devices[FIRST].running().version, "1.0");
    home.is_untouched(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_device_that_is_cancelled_while_queued_gets_no_byte_and_the_others_go_on() {
    let home = Home::of(3).await;
    let id = one_by_one(&home).await;
    home.post(
        &format!("rollouts/{id}/devices/{}/cancel", home.key(1)),
        &json!({}),
    )
    .is(200);
    let finished = home.until_state(id, "finished").await;
    home.check(&finished, &["updated", "cancelled", "updated"]);
    home.is_untouched(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_stopped_means_every_rollout() {
    let home = Home::of(4).await;
    home.firmware(Some("1.1"), 1);
    let of = |idxs: [usize; 2]| idxs.map(|idx| home.key(idx));
    let first = home.roll_out(&json!({ "devices": of([0, 1]), "at_once": "1" }));
    let second = home.roll_out(&json!({ "devices": of([2, 3]), "at_once": "1" }));
    home.wait(0, 0, EventKind::Receiving).await;
    home.until_member(first, 0, "uploading").await;
    home.post(&format!("rollouts/{second}/pause"), &json!({})).is(200);
    let stopped = home.post("rollouts/stop", &json!({})).is(200);
    let mut ids: Vec<_> = stopped
        .as_array()
        .unwrap()
        .iter()
        .map(|rollout| &rollout["id"])
        .collect();
    ids.sort_by_key(|id| id.as_i64());
    assert_eq!(ids, [first, second], "{stopped:#}");
    for (id, queued) in [(first, 1), (second, 3)] {
        let over = home
            .until(id, "over", |rollout| !rollout["ended_ms"].is_null())
            .await;
        assert_eq!(over["state"], "aborted", "{over:#}");
        assert_eq!(home.member(&over, queued)["state"], "cancelled", "{over:#}");
        home.is_untouched(queued);
    }
    let again = home.post("rollouts/stop", &json!({})).is(200);
    assert_eq!(again, json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pinned_removed_or_not_enrolled_any_more_while_queued_a_device_gets_no_byte() {
    let home = Home::with(5, |plan| plan.listed = false).await;
    let id = one_by_one(&home).await;
    let device = |idx: usize| format!("devices/{}", home.key(idx));
    home.put(&format!("{}/pin", device(1)), &json!({ "version": "1.0" }))
        .is(200);
    home.delete(&device(2)).is(204);
    home.delete(&format!("{}/enroll", device(3))).is(200);
    home.put(&format!("{}/skip", device(4)), &json!({ "version": "1.1" }))
        .is(200);
    let finished = home.until_state(id, "finished").await;
    home.check(
        &finished,
        &["updated", "skipped", "skipped", "skipped", "skipped"],
    );
    for (idx, reason) in [(1, "pinned"), (2, "removed"), (3, "not-enrolled"), (4, "skipped")] {
        let member = home.member(&finished, idx);
        assert_eq!(
            (&member["reason"], &member["name"]),
            (&json!(reason), &json!(name(idx)))
        );
        assert!(
            !member["text"].as_str().unwrap().is_empty() && !member["next_step"].as_str().unwrap().is_empty()
        );
        home.is_untouched(idx);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn another_takes_over_what_has_not_begun_and_each_gets_its_image_once() {
    let home = Home::of(4).await;
    let id = one_by_one(&home).await;
    let ids: Vec<String> = (0..4).map(|idx| home.devices[idx].mac().bare()).collect();
    // Devices of its own it may not name.
    let wish = json!({ "instead_of": id, "all": true });
    home.post("rollouts", &wish).is(422);
    let wish = json!({ "instead_of": id, "canary": 0, "at_once": "2", "exclude": [ids[3]] });
    let successor: serde_json::Value = home.post("rollouts", &wish).is(201);
    let new = successor["id"].as_i64().unwrap();
    assert_eq!(successor["predecessor"], id, "{successor:#}");
    assert_eq!(successor["rules"]["at_once"], "2", "{successor:#}");
    // What was not said is as it was.
    assert_eq!(successor["rules"]["soak_s"], home.rollout(id)["rules"]["soak_s"]);
    let old = home.until_state(id, "finished").await;
    let member = |rollout: &serde_json::Value, idx: usize| home.member(rollout, idx).clone();
    assert_eq!(member(&old, FIRST)["state"], "updated", "{old:#}");
    for idx in 1..4 {
        assert_eq!(member(&old, idx)["state"], "skipped", "{old:#}");
        assert_eq!(member(&old, idx)["reason"], "changed", "{old:#}");
    }
    let over = home.until_state(new, "finished").await;
    assert_eq!(over["n_devices"], 2, "{over:#}");
    for idx in [1, 2] {
        assert_eq!(member(&over, idx)["state"], "updated", "{over:#}");
    }
    for idx in 0..3 {
        assert_eq!(home.n_pushes(idx), 1, "{}", home.log());
    }
    home.is_untouched(3);
    // Nothing is left to be taken over.
    home.post("rollouts", &json!({ "instead_of": id })).is(409);
}
