//! What is asked: bounds of bodies, problem documents, once and not twice, and the audit.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use server::api::{ApiSettings, Limits, Rate};
use tokio::io::AsyncWriteExt as _;

use crate::house::{House, PATIENCE, Request, settings, talk};

const RELOAD: &str = "/api/v1/configuration/reload";

#[track_caller]
fn check(answer: &crate::house::Answer, status: u16, problem: &str) {
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (status, problem),
        "{answer:?}"
    );
}

/// RELIABILITY.md T19.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_bounded_in_depth_length_and_form() {
    let house = House::new().await;
    let send = async |body: &[u8]| {
        let request = Request::new("POST", "/api/v1/tokens")
            .token(&house.admin)
            .body("application/json", body);
        house.send(&request).await
    };
    check(&send("[".repeat(100_000).as_bytes()).await, 400, "json-depth");
    let nested = format!("{{\"name\":{}1{}}}", "[".repeat(40), "]".repeat(40));
    check(&send(nested.as_bytes()).await, 400, "json-depth");
    check(&send(&vec![b' '; 1024 * 1024 + 1]).await, 413, "too-large");
    check(&send(b"{").await, 400, "json");
    check(&send(b"\xff\xfe").await, 400, "json");
    check(&send(b"[]").await, 422, "body");
    check(&send(b"{}").await, 422, "body");
    check(&send(b"").await, 422, "body");
    check(&send(br#"{"name":"a","role":"root"}"#).await, 422, "body");
    check(
        &send(br#"{"name":"a","role":"viewer","more":1}"#).await,
        422,
        "body",
    );
    check(
        &send(br#"{"name":"a","name":"b","role":"viewer"}"#).await,
        422,
        "body",
    );
    assert_eq!(house.store.tokens().await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_a_length_is_bounded_as_well() {
    let house = House::new().await;
    let mut request = Request::new("POST", "/api/v1/tokens")
        .token(&house.admin)
        .header("Content-Type", "application/json")
        .header("Transfer-Encoding", "chunked");
    let chunk = vec![b' '; 65536];
    for _ in 0..20 {
        request.body.extend_from_slice(b"10000\r\n");
        request.body.extend_from_slice(&chunk);
        request.body.extend_from_slice(b"\r\n");
    }
    check(&house.send(&request).await, 413, "too-large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_s_body_is_a_small_one() {
    let house = House::new().await;
    let large = json!({ "token": "x".repeat(5000) });
    check(&house.post("", "/api/v1/session", &large).await, 413, "too-large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_is_not_understood_is_refused() {
    let house = House::new().await;
    for query in ["after=x", "after=1&after=2", "limit=-1", "more=1"] {
        let path = format!("/api/v1/audit?{query}");
        check(&house.get(&house.admin, &path).await, 400, "query");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_a_problem_and_the_server_lives() {
    let house = House::new().await;
    house.reloading.panics.store(true, Ordering::SeqCst);
    let answer = house.post(&house.admin, RELOAD, &json!({})).await;
    check(&answer, 500, "internal");
    assert!(!answer.body.contains("asked to"), "{answer:?}");
    assert_eq!(house.get(&house.viewer, "/api/v1/whoami").await.status, 200);
    let audit = house.audit().await;
    assert_eq!(audit.last().unwrap().entry.detail["status"], 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_requests_of_one_are_refused_and_others_are_not() {
    let slow = ApiSettings {
        rate: Rate {
            per_second: 0.5,
            burst: 10.0,
        },
        ..settings()
    };
    let house = House::with(slow, Limits::default()).await;
    let mut refused = Vec::new();
    for _ in 0..15 {
        let answer = house.get(&house.viewer, "/api/v1/whoami").await;
        if answer.status != 200 {
            refused.push(answer);
        }
    }
    assert!((4..=5).contains(&refused.len()), "{refused:?}");
    check(&refused[0], 429, "too-many-requests");
    let wait: u64 = refused[0].header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    assert_eq!(house.get(&house.operator, "/api/v1/whoami").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_goes_on_when_its_sender_hangs_up_and_is_written_down() {
    let house = House::new().await;
    house.reloading.waits.store(true, Ordering::SeqCst);
    let mut stream = house.connect().await;
    let request = Request::new("POST", RELOAD).token(&house.admin).json(&json!({}));
    stream.write_all(&request.bytes()).await.unwrap();
    tokio::time::timeout(PATIENCE, house.reloading.begun.notified())
        .await
        .unwrap();
    drop(stream);
    // The server notices before the change is done.
    assert_eq!(house.get(&house.viewer, "/api/v1/whoami").await.status, 200);
    house.reloading.go.notify_one();
    house.api.finish().await;
    assert_eq!(house.reloading.n_done.load(Ordering::SeqCst), 1);
    let audit = house.audit().await;
    assert_eq!(audit.len(), 1);
    assert_eq!(audit[0].entry.action, "configuration.reload");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_takes_too_long_is_answered_and_goes_on() {
    let hasty = ApiSettings {
        request_timeout: Duration::from_millis(200),
        ..settings()
    };
    let house = House::with(hasty, Limits::default()).await;
    house.reloading.waits.store(true, Ordering::SeqCst);
    let request = Request::new("POST", RELOAD)
        .token(&house.admin)
        .json(&json!({}))
        .header("Idempotency-Key", "k");
    check(&house.send(&request).await, 504, "timeout");
    check(&house.send(&request).await, 409, "idempotency-running");
    house.reloading.go.notify_one();
    house.api.finish().await;
    let again = house.send(&request).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(house.reloading.n_begun.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_trickles_is_cut_off() {
    let hasty = ApiSettings {
        request_timeout: Duration::from_millis(200),
        ..settings()
    };
    let house = House::with(hasty, Limits::default()).await;
    let mut request = Request::new("POST", RELOAD)
        .token(&house.admin)
        .json(&json!({ "a": "b" }));
    request.body.truncate(3);
    check(&talk(house.connect().await, &request.bytes()).await, 408, "slow");
    assert_eq!(house.reloading.n_begun.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_makes_a_request_happen_once() {
    let house = House::new().await;
    let request = |body: &Value, key: &str, token: &str| {
        Request::new("POST", RELOAD)
            .token(token)
            .json(body)
            .header("Idempotency-Key", key)
    };
    let n_begun = || house.reloading.n_begun.load(Ordering::SeqCst);
    let first = house.send(&request(&json!({}), "key-1", &house.admin)).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, None));
    let again = house.send(&request(&json!({}), "key-1", &house.admin)).await;
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.header("content-type"), Some("application/json"));
    assert_eq!(n_begun(), 1);

    let other = house
        .send(&request(&json!({ "a": 1 }), "key-1", &house.admin))
        .await;
    check(&other, 422, "idempotency-reused");
    // Another administrator's keys are his own.
    let other_admin = house.token(model::access::Role::Admin).await;
    assert_eq!(
        house
            .send(&request(&json!({}), "key-1", &other_admin))
            .await
            .status,
        200
    );
    assert_eq!(n_begun(), 2);
    // A viewer gets nothing of it.
    check(
        &house.send(&request(&json!({}), "key-1", &house.viewer)).await,
        403,
        "forbidden",
    );
    for key in ["", "a b", &"k".repeat(256)] {
        let answer = house.send(&request(&json!({}), key, &house.admin)).await;
        check(&answer, 400, "idempotency-key");
    }
    assert_eq!(n_begun(), 2);
    assert_eq!(
        house.audit().await.len(),
        2,
        "what was replayed is not done again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_replayed_as_the_problem_it_was() {
    let house = House::new().await;
    let request = Request::new("POST", "/api/v1/tokens")
        .token(&house.admin)
        .json(&json!({ "name": " ", "role": "viewer" }))
        .header("Idempotency-Key", "k");
    check(&house.send(&request).await, 422, "name");
    let again = house.send(&request).await;
    check(&again, 422, "name");
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_of_ours_may_be_tried_again_under_its_key() {
    let house = House::new().await;
    let request = Request::new("POST", RELOAD)
        .token(&house.admin)
        .header("Idempotency-Key", "k");
    house.reloading.panics.store(true, Ordering::SeqCst);
    assert_eq!(house.send(&request).await.status, 500);
    house.reloading.panics.store(false, Ordering::SeqCst);
    assert_eq!(house.send(&request).await.status, 200);
}

/// RELIABILITY.md T33.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_is_written_down_with_who_and_where_and_no_secret() {
    let house = House::new().await;
    let made = house
        .post(
            &house.admin,
            "/api/v1/tokens",
            &json!({ "name": "kitchen", "role": "viewer" }),
        )
        .await;
    assert_eq!(made.status, 201);
    let token = made.json()["token"].as_str().unwrap().to_owned();
    let id = made.json()["id"].as_i64().unwrap();
    let revoke = Request::new("DELETE", &format!("/api/v1/tokens/{id}"));
    assert_eq!(house.send_locally(&revoke).await.status, 204);
    let settings = Request::new("PATCH", "/api/v1/settings")
        .token(&house.admin)
        .json(&json!({ "scan_interval_s": 60, "auto_enroll": null }));
    assert_eq!(house.send(&settings).await.status, 200);

    let listed = house.get(&house.admin, "/api/v1/audit").await.json();
    let listed: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            (
                entry["actor"].as_str().unwrap(),
                entry["source"].as_str().unwrap(),
                entry["action"].as_str().unwrap(),
                entry["target"].as_str().unwrap(),
                entry["detail"].clone(),
            )
        })
        .collect();
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(house.folder.path()).unwrap());
    assert_eq!(
        listed,
        [
            (
                "test-admin (token 3)",
                "127.0.0.1",
                "token.create",
                format!("token {id}").as_str(),
                json!({ "status": 201, "name": "kitchen", "role": "viewer" })
            ),
            (
                format!("local user {uid}").as_str(),
                "socket",
                "token.revoke",
                id.to_string().as_str(),
                json!({ "status": 204 })
            ),
            (
                "test-admin (token 3)",
                "127.0.0.1",
                "settings.change",
                "",
                json!({ "status": 200, "scan_interval_s": 60, "auto_enroll": null })
            ),
        ]
    );
    let check = house.get(&house.admin, "/api/v1/audit/check").await.json();
    assert_eq!(check, json!({ "n_rows": 3, "broken_at": null }));
    let later = house
        .get(&house.admin, "/api/v1/audit?after=1&limit=1")
        .await
        .json();
    assert_eq!(later[0]["seq"], 2);
    let text = format!("{:?}", house.audit().await);
    assert!(!text.contains(&token) && !text.contains("rfl_"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_merged_and_bounded() {
    let house = House::new().await;
    let patch = async |body: Value| {
        let request = Request::new("PATCH", "/api/v1/settings")
            .token(&house.admin)
            .json(&body);
        house.send(&request).await
    };
    let answer = patch(json!({ "auto_enroll": true, "scan_interval_s": 60 })).await;
    assert_eq!(
        answer.json(),
        json!({ "auto_enroll": true, "auto_discovery": null, "scan_interval_s": 60 })
    );
    let answer = patch(json!({ "auto_enroll": null })).await;
    assert_eq!(
        answer.json(),
        json!({ "auto_enroll": null, "auto_discovery": null, "scan_interval_s": 60 })
    );
    check(&patch(json!({ "scan_interval_s": 29 })).await, 422, "settings");
    check(&patch(json!({ "auto_enrol": true })).await, 422, "body");
    assert_eq!(
        house.reloading.n_done.load(Ordering::SeqCst),
        2,
        "each is applied"
    );
}
