//! Devices that another process has in its hands, and requests that come again.

use std::time::Duration;

use engine::Clock;
use model::fleet::Rollout;
use model::id::{DeviceId, RolloutId};
use model::plan::Plan;
use serde_json::json;
use sim::EventKind;
use store::{Asked, Holder, LeaseError, NewRollout, Store, process_is_alive};
use tokio::time::{Instant, sleep};

use crate::home::{Home, SOON, member_rows};
use crate::support::sha256;

const ONLY: usize = 0;

/// The device's job, once it is in the journal.
async fn at_work(home: &Home, store: &Store) -> DeviceId {
    let deadline = Instant::now() + SOON;
    loop {
        if let [device] = &store.devices_with_open_jobs().await.unwrap()[..] {
            return device.clone();
        }
        assert!(Instant::now() < deadline, "nothing begins: {}", home.told());
        sleep(Duration::from_millis(10)).await;
    }
}

/// The lease is taken in mid-push, as by a process that found it expired after the machine had slept.
pub(crate) async fn taken_over_in_mid_push() {
    let home = Home::of(1).await;
    let new = home.firmware(Some("1.1"), 1);
    let id = home.roll_out(&json!({}));
    home.wait(ONLY, 0, EventKind::Receiving).await;
    let store = Store::open(home.folder()).await.unwrap();
    let device = at_work(&home, &store).await;
    let us = Holder::this_process().unwrap();
    let later = Clock.now().later(Duration::from_mins(10));
    let grant = store
        .acquire_lease(&device, &us, later, process_is_alive)
        .await
        .unwrap();
    home.wait(ONLY, 0, EventKind::Received).await;
    // While somebody else has the device, nothing is said of its job, and nobody can call it off.
    home.wait(ONLY, 0, EventKind::Up).await;
    let member = home.rollout(id);
    assert!(member["ended_ms"].is_null(), "{member:#}");
    store.release_lease(&device, grant.epoch()).await.unwrap();
    let finished = home.until_state(id, "finished").await;
    home.check(&finished, &["updated"]);
    assert!(home.runs(ONLY, &new), "{}", home.log());
    assert_eq!(home.n_pushes(ONLY), 1, "{}", home.log());
    assert!(store.devices_with_open_jobs().await.unwrap().is_empty());
    store.close().await;
}

/// What a server left that was killed, while somebody else has the device: waited for, though its owner calls the rollout off.
pub(crate) async fn left_and_in_other_hands() {
    let mut home = Home::of(1).await;
    let new = home.firmware(Some("1.1"), 1);
    let id = home.roll_out(&json!({}));
    home.wait(ONLY, 0, EventKind::Received).await;
    home.kill();
    let store = Store::open(home.folder()).await.unwrap();
    let device = at_work(&home, &store).await;
    let us = Holder::this_process().unwrap();
    let grant = store
        .acquire_lease(&device, &us, Clock.now(), process_is_alive)
        .await
        .unwrap();
    home.start().await;
    home.post(&format!("rollouts/{id}/abort"), &json!({})).is(200);
    // It asks every two seconds; whoever gave up would have done so with the first of them.
    sleep(Duration::from_secs(5)).await;
    let aborted = home.rollout(id);
    let member = home.member(&aborted, ONLY);
    assert!(
        !["cancelled", "skipped", "failed", "unverified"].contains(&member["state"].as_str().unwrap()),
        "{aborted:#}"
    );
    store.release_lease(&device, grant.epoch()).await.unwrap();
    let ended = home.until_member(id, ONLY, "updated").await;
    assert!(home.runs(ONLY, &new), "{ended:#}");
    assert_eq!(home.n_pushes(ONLY), 1, "{}", home.log());
    store.close().await;
}

/// A watch is longer than a lease lasts: it is renewed all the time.
pub(crate) async fn renewed_while_it_is_watched() {
    const SOAK_S: u64 = 30;
    let home = Home::quick(1).await;
    home.firmware(Some("1.1"), 1);
    let id = home.roll_out(&json!({ "canary_soak_s": SOAK_S, "soak_s": SOAK_S }));
    home.until_member(id, ONLY, "soaking").await;
    let store = Store::open(home.folder()).await.unwrap();
    let device = at_work(&home, &store).await;
    let us = Holder::this_process().unwrap();
    let begun = Instant::now();
    // Ten seconds, and what a busy machine adds.
    let shortest = (model::lease::TTL + model::lease::GRACE).saturating_sub(Duration::from_secs(20));
    while home.member(&home.rollout(id), ONLY)["state"] == "soaking" {
        match store
            .acquire_lease(&device, &us, Clock.now(), process_is_alive)
            .await
        {
            Err(LeaseError::Held { free_in, .. }) => assert!(free_in > shortest, "{free_in:?}"),
            Ok(_) => break,
            Err(error) => panic!("{error:?}"),
        }
        sleep(Duration::from_millis(500)).await;
    }
    assert!(
        begun.elapsed() > Duration::from_secs(SOAK_S - 5),
        "it was not watched for long"
    );
    store.close().await;
}

/// A server that made a rollout and was killed before it had answered.
pub(crate) async fn asked_again_after_a_kill() {
    let mut home = Home::quick(1).await;
    home.firmware(Some("1.1"), 1);
    let first = home.roll_out(&json!({}));
    home.until_state(first, "finished").await;
    home.kill();
    let wanted = json!({ "all": true, "name": "again" });
    let request = format!("POST /api/v1/rollouts\n{wanted}");
    let store = Store::open(home.folder()).await.unwrap();
    let whole = store.rollout(RolloutId(first)).await.unwrap().unwrap();
    let plan: Plan = serde_json::from_value(whole.plan.clone()).unwrap();
    let fresh = Rollout::new(plan);
    let new = NewRollout {
        name: Some("again"),
        kind: "update",
        plan: &whole.plan,
        state: &json!(fresh.course()),
        created_ms: Clock.now().wall_ms,
        created_by: &whole.row.created_by,
        predecessor: None,
        images: &[],
        asked: Some(Asked {
            request: "wish-1",
            fingerprint: &sha256(request.as_bytes()),
        }),
    };
    let made = store.create_rollout(&new, &member_rows(&fresh)).await.unwrap();
    store.close().await;
    home.start().await;
    for turn in ["the answer that was lost", "the answer that was kept"] {
        let answer = home.post_once("rollouts", &wanted, "wish-1").is(201);
        assert_eq!(answer["id"], made.0, "{turn}: {answer:#}");
    }
    let other = home.post_once("rollouts", &json!({ "all": true, "name": "another" }), "wish-1");
    assert_eq!(
        other.is(422)["type"],
        json!("urn:reflash:problem:idempotency-reused")
    );
    assert_eq!(home.get("rollouts").as_array().unwrap().len(), 2);
}
