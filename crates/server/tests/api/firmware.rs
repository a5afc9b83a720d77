//! Firmware through the API.

use serde_json::{Value, json};
use sim::firmware::image;

use crate::house::{Answer, House, LIVING_ROOM, Request};

const IMAGE_LEN: usize = 200_000;

impl House {
    pub(crate) async fn upload(&self, query: &str, bytes: &[u8]) -> Answer {
        let request = Request::new("POST", &format!("/api/v1/firmware?{query}"))
            .token(&self.admin)
            .body("application/octet-stream", bytes);
        self.send(&request).await
    }
}

pub(crate) fn mini(version: &str, seed: u8) -> Vec<u8> {
    image("esp32c6".parse().unwrap(), Some(version), IMAGE_LEN, seed)
}

#[track_caller]
fn check(answer: &Answer, status: u16, problem: &str) {
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (status, problem),
        "{answer:?}"
    );
    assert!(answer.json()["next_step"].is_string(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_goes_in_and_comes_out_as_it_was() {
    let house = House::new().await;
    let bytes = mini("1.2", 1);
    let added = house.upload("file_name=mini_1.2.bin", &bytes).await;
    assert_eq!(added.status, 201, "{added:?}");
    let sha256 = added.json()["sha256"].as_str().unwrap().to_owned();
    assert_eq!(sha256, model::id::Sha256::of(&bytes).to_string());
    assert_eq!(added.json()["state"], "approved");
    assert_eq!(house.upload("name=other.bin", &bytes).await.status, 200);

    for word in [&sha256, "1.2", "mini_1.2.bin"] {
        let shown = house
            .get(&house.viewer, &format!("/api/v1/firmware/{word}"))
            .await;
        assert_eq!(shown.json()["sha256"], sha256.as_str(), "{word}");
    }
    let stream = house.connect().await;
    let request = Request::new("GET", &format!("/api/v1/firmware/{sha256}/image")).token(&house.operator);
    let raw = crate::house::raw(stream, &request.bytes()).await;
    let body = raw.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    assert!(raw[body..] == bytes[..]);

    let audit = house.audit().await;
    assert_eq!(audit[0].entry.action, "firmware.add");
    assert_eq!(audit[0].entry.target, sha256);
    assert_eq!(audit[0].entry.detail["len_bytes"], IMAGE_LEN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_firmware_is_kept_refused_with_its_reason() {
    let house = House::new().await;
    let added = house
        .upload("file_name=notes.bin", b"<html>not found</html>")
        .await;
    assert_eq!(added.status, 201, "{added:?}");
    assert_eq!(added.json()["state"], "refused");
    assert!(added.json()["refusals"][0]["next_step"].is_string(), "{added:?}");
    let approve = format!(
        "/api/v1/firmware/{}/approve",
        added.json()["sha256"].as_str().unwrap()
    );
    check(
        &house.post(&house.admin, &approve, &json!({})).await,
        409,
        "not-approvable",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_bounded_and_its_name_is_a_name() {
    let house = House::new().await;
    for name in [
        "",
        "..",
        ".hidden",
        "..%2F..%2Fetc%2Fpasswd",
        "a%5Cb.bin",
        "a%00.bin",
        "a%0Ab.bin",
        &"x".repeat(130),
    ] {
        let answer = house.upload(&format!("file_name={name}"), b"x").await;
        check(&answer, 400, "file-name");
    }
    check(&house.upload("", b"x").await, 400, "query");
    check(&house.upload("file_name=a.bin", b"").await, 400, "empty");
    let request = Request::new("POST", "/api/v1/firmware?file_name=a.bin")
        .token(&house.admin)
        .header("Content-Type", "application/octet-stream")
        .header("Content-Length", &(16 * 1024 * 1024 + 1).to_string());
    assert_eq!(house.send(&request).await.problem(), "too-large");
    assert!(house.store.firmware().await.unwrap().is_empty());
}

/// RELIABILITY.md T21.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_of_the_host_can_be_named() {
    let house = House::new().await;
    let secret = house.folder.path().join("secret.key");
    assert!(secret.exists());
    let inside = house.folder.path().join(crate::house::FIRMWARE);
    let up = inside.join("../secret.key");
    let paths = [
        "/etc/shadow".to_owned(),
        "/etc/passwd".to_owned(),
        "../../etc/shadow".to_owned(),
        "/proc/self/environ".to_owned(),
        "file:///etc/shadow".to_owned(),
        secret.display().to_string(),
        up.display().to_string(),
        inside.join("a/../../secret.key").display().to_string(),
    ];
    for path in paths {
        let encoded = path.replace('%', "%25").replace('/', "%2F");
        for route in ["", "/image", "/notes"] {
            let answer = house
                .get(&house.admin, &format!("/api/v1/firmware/{encoded}{route}"))
                .await;
            assert_eq!(
                (answer.status, answer.problem().as_str()),
                (400, "outside"),
                "{path}{route}: {answer:?}"
            );
        }
        let approve = format!("/api/v1/firmware/{encoded}/approve");
        check(
            &house.post(&house.admin, &approve, &json!({})).await,
            400,
            "outside",
        );
        let remove = Request::new("DELETE", &format!("/api/v1/firmware/{encoded}")).token(&house.admin);
        check(&house.send(&remove).await, 400, "outside");
    }
    assert!(secret.exists());
    check(
        &house.get(&house.admin, "/api/v1/firmware/none").await,
        404,
        "not-found",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notes_are_kept_and_images_removed() {
    let house = House::new().await;
    let added = house
        .upload("file_name=mini_1.2.bin", &mini("1.2", 1))
        .await
        .json();
    let path = format!("/api/v1/firmware/{}", added["sha256"].as_str().unwrap());
    let notes = format!("{path}/notes");
    assert_eq!(
        house.get(&house.viewer, &notes).await.json()["notes"],
        Value::Null
    );
    let put = |body: Value| Request::new("PUT", &notes).token(&house.admin).json(&body);
    let kept = house.send(&put(json!({ "notes": "# 1.2\n<script>" }))).await;
    assert_eq!(kept.json()["notes"], "# 1.2\n<script>");
    assert_eq!(house.send(&put(json!({}))).await.problem(), "body");
    let gone = house.send(&put(json!({ "notes": null }))).await;
    assert_eq!(gone.json()["notes"], Value::Null);

    let remove = Request::new("DELETE", &path).token(&house.admin);
    assert_eq!(house.send(&remove).await.status, 204);
    check(&house.send(&remove).await, 404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_a_device_runs_is_its_way_back() {
    let house = House::new().await;
    let bytes = mini("1.0", 1);
    let query = format!("file_name=mini_1.0.bin&running_on={LIVING_ROOM}");
    let added = house.upload(&query, &bytes).await;
    assert_eq!(added.status, 201, "{added:?}");
    assert_eq!(added.json()["running_on"], json!([LIVING_ROOM]), "{added:?}");
    let path = format!("/api/v1/firmware/{}", added.json()["sha256"].as_str().unwrap());
    let remove = Request::new("DELETE", &path).token(&house.admin);
    check(&house.send(&remove).await, 409, "in-use");

    check(
        &house.upload("file_name=a.bin&running_on=nobody", &bytes).await,
        404,
        "not-found",
    );
    let wrong = image("esp32".parse().unwrap(), Some("1.0"), IMAGE_LEN, 2);
    let query = format!("file_name=b.bin&running_on={LIVING_ROOM}");
    check(&house.upload(&query, &wrong).await, 422, "not-running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_files_lie_on_the_server_is_for_administrators() {
    let house = House::new().await;
    let folder = house.folder.path().display().to_string();
    let list = async |token: &str| house.get(token, "/api/v1/firmware").await;
    assert!(list(&house.admin).await.body.contains(&folder));
    for token in [&house.viewer, &house.operator] {
        let answer = list(token).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.body.contains(&folder), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_nobody_knows_is_refused() {
    let house = House::new().await;
    let check_feeds = async |body: Value| house.post(&house.operator, "/api/v1/firmware/check", &body).await;
    check(
        &check_feeds(json!({ "feeds": ["evil"] })).await,
        422,
        "unknown-feed",
    );
    // None is in use: nothing is fetched.
    let none = check_feeds(json!({})).await;
    assert_eq!(none.status, 200, "{none:?}");
}
