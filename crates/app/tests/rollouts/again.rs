//! Once more, back, and what is told of it afterwards.

use serde_json::{Value, json};
use sim::EventKind;
use sim::ir_remote::Fault;

use crate::home::Home;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_device_whose_label_never_moves_is_updated_once() {
    let home = Home::quick(1).await;
    let new = home.firmware(None, 1);
    let wanted = json!({ "all": true, "firmware": new });
    let id = home.roll_out(&json!({ "firmware": new }));
    let finished = home.until_state(id, "finished").await;
    home.check(&finished, &["updated-label-unchanged"]);
    assert_eq!(finished["ok"], true, "{finished:#}");

    let plan = home.post("plans", &wanted).is(200);
    assert_eq!(home.left_out(&plan, 0), "already-current");
    home.post("rollouts", &wanted).is(422);
    assert_eq!(home.n_pushes(0), 1, "{}", home.log());

    let id = home.roll_out(&json!({ "firmware": new, "force": true }));
    let finished = home.until_state(id, "finished").await;
    home.check(&finished, &["updated-label-unchanged"]);
    assert_eq!(home.n_pushes(0), 2, "{}", home.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rollback_brings_the_image_before_and_where_none_is_kept_it_says_so() {
    let home = Home::quick(2).await;
    let mut images = Vec::new();
    for (version, seed) in [("1.1", 1), ("1.2", 2)] {
        let image = home.firmware(Some(version), seed);
        let id = home.roll_out(&json!({ "devices": [home.key(0)] }));
        let finished = home.until_state(id, "finished").await;
        home.check(&finished, &["updated"]);
        assert!(home.runs(0, &image), "{}", home.log());
        images.push(image);
    }
    let wanted = json!({ "all": true, "kind": "rollback" });
    let plan = home.post("plans", &wanted).is(200);
    assert_eq!(home.left_out(&plan, 1), "no-way-back");
    let id = home.roll_out(&json!({ "kind": "rollback" }));
    let finished = home.until_state(id, "finished").await;
    assert_eq!(finished["kind"], "rollback");
    home.check(&finished, &["updated"]);
    assert!(home.runs(0, &images[0]), "{}", home.log());
    assert_eq!(home.devices[0].running().version, "1.1");
    home.is_untouched(1);
    home.post(
        "rollouts",
        &json!({ "devices": [home.key(1)], "kind": "rollback" }),
    )
    .is(422);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_plan_knows_at_once_the_image_that_came_just_before_and_after_a_start_all_that_are_kept() {
    const N_DEVICES: usize = 12;
    let mut home = Home::quick(N_DEVICES).await;
    let mut newest = String::new();
    let check = |home: &Home, newest: &str, when: &str| {
        let plan = home.post("plans", &json!({ "all": true })).is(200);
        let members = plan["members"].as_array().unwrap();
        let images = members.iter().map(|member| member["sha256"].as_str().unwrap());
        assert_eq!(
            images.collect::<Vec<_>>(),
            [newest; N_DEVICES],
            "{when}: {plan:#}"
        );
    };
    for n in 1..=20 {
        newest = home.firmware(Some(&format!("1.{n}")), n);
        check(&home, &newest, &format!("image {n}"));
    }
    for n in 1..=10 {
        home.kill();
        home.start().await;
        check(&home, &newest, &format!("start {n}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_device_that_is_part_of_one_rollout_is_left_out_of_the_next() {
    let home = Home::quick(3).await;
    home.firmware(Some("1.1"), 1);
    let of = |idxs: [usize; 2]| json!({ "devices": idxs.map(|idx| home.key(idx)) });
    let first = home.roll_out(&of([0, 1]));
    let second = home.roll_out(&of([1, 2]));
    let shown = home.rollout(second);
    assert_eq!(home.left_out(&shown, 1), "busy");
    let busy = shown["left_out"][0]["reason"]["text"].as_str().unwrap();
    assert!(busy.contains(&format!("rollout {first}")), "{busy}");
    home.post("rollouts", &json!({ "devices": [home.key(0)] }))
        .is(422);
    for id in [first, second] {
        let finished = home.until_state(id, "finished").await;
        assert_eq!(finished["ok"], true, "{finished:#}");
    }
    for idx in 0..3 {
        assert_eq!(home.n_pushes(idx), 1, "{}", home.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn history_and_statistics_tell_what_the_devices_have_seen() {
    let home = Home::quick(3).await;
    home.firmware(Some("1.1"), 1);
    let first = home.roll_out(&json!({}));
    let finished = home.until_state(first, "finished").await;
    home.check(&finished, &["updated"; 3]);
    home.firmware(Some("1.2"), 2);
    home.fault(2, Fault::KeepsOld);
    let second = home.roll_out(&json!({ "max_failures": "3" }));
    let finished = home.until_state(second, "finished").await;
    home.check(&finished, &["updated", "updated", "rolled-back"]);

    let stats = home.get("stats");
    assert_eq!(
        stats["outcomes"],
        json!({ "updated": 5, "rolled-back": 1 }),
        "{stats:#}"
    );
    let percent = stats["success_percent"].as_f64().unwrap();
    assert!((percent - 500.0 / 6.0).abs() < 0.1, "{stats:#}");
    assert_eq!(stats["n_enrolled"], 3);
    assert_eq!(stats["course"], json!([]), "only where it is asked for");
    let stats = home.get("stats?step_s=86400");
    let course = stats["course"].as_array().unwrap();
    let sum = |key: &str| course.iter().map(|span| span[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("n_proven"), sum("n_meant")), (5, 6), "{stats:#}");
    assert_eq!(course.last().unwrap()["running"], stats["running"], "{stats:#}");

    let history = home.get("history");
    let jobs = history.as_array().unwrap();
    assert_eq!(jobs.len(), 6, "{history:#}");
    let received = home
        .events
        .log()
        .into_iter()
        .filter(|event| event.kind == EventKind::Received);
    let n_bytes: u64 = received.map(|event| event.number("len_bytes").unwrap()).sum();
    let mut n_told = 0;
    for idx in 0..3 {
        let key = home.key(idx);
        let own: Vec<&Value> = jobs.iter().filter(|job| job["device"] == key.as_str()).collect();
        assert_eq!(home.get(&format!("history?device={key}")), json!(own));
        // The newest comes first.
        let rollouts: Vec<_> = own.iter().map(|job| &job["rollout"]).collect();
        assert_eq!(rollouts, [second, first], "{history:#}");
        assert_eq!(own[0]["state"], home.member(&finished, idx)["state"]);
        let jobs: Vec<_> = own
            .iter()
            .map(|job| home.get(&format!("jobs/{}", job["id"])))
            .collect();
        let n_pushes: u64 = jobs.iter().map(|job| job["n_pushes"].as_u64().unwrap()).sum();
        assert_eq!(n_pushes, u64::try_from(home.n_pushes(idx)).unwrap(), "{jobs:#?}");
        n_told += jobs
            .iter()
            .map(|job| job["evidence"]["len_bytes"].as_u64().unwrap())
            .sum::<u64>();
    }
    assert_eq!(n_told, n_bytes, "{}", home.log());
}
