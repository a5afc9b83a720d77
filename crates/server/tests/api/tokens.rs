//! Tokens and sessions: made, shown once, wrong, revoked.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use engine::Clock;
use model::access::Role;
use secrecy::ExposeSecret as _;
use serde_json::json;
use server::api::{TOKEN_FILE, first_token};
use store::Store;

use crate::house::{House, Request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_start_makes_one_administrator_and_later_ones_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let first = first_token(&store, folder.path(), Clock).await.unwrap().unwrap();
    assert_eq!(first.path, folder.path().join(TOKEN_FILE));
    assert_eq!(
        std::fs::read_to_string(&first.path).unwrap(),
        first.token.expose_secret()
    );
    assert_eq!(std::fs::metadata(&first.path).unwrap().mode() & 0o777, 0o600);
    let tokens = store.tokens().await.unwrap();
    assert_eq!((tokens.len(), tokens[0].role), (1, Role::Admin));
    assert!(!format!("{first:?}").contains("rfl_"), "{first:?}");

    assert!(first_token(&store, folder.path(), Clock).await.unwrap().is_none());
    // Whoever revokes all of them does not find a new one in a file.
    store.revoke_token(tokens[0].id).await.unwrap();
    assert!(first_token(&store, folder.path(), Clock).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_token_is_replaced_through_the_local_socket() {
    let house = House::new().await;
    let request = Request::new("POST", "/api/v1/tokens").json(&json!({ "name": "new", "role": "admin" }));
    assert_eq!(house.send(&request).await.status, 401);
    let made = house.send_locally(&request).await;
    assert_eq!(made.status, 201);
    let token = made.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(house.get(&token, "/api/v1/whoami").await.json()["role"], "admin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_shown_once_and_kept_nowhere() {
    let house = House::new().await;
    let request = Request::new("POST", "/api/v1/tokens")
        .token(&house.admin)
        .header("Idempotency-Key", "once")
        .json(&json!({ "name": "kitchen", "role": "operator" }));
    let made = house.send(&request).await;
    let token = made.json()["token"].as_str().unwrap().to_owned();
    let again = house.send(&request).await;
    assert_eq!((again.status, again.problem().as_str()), (409, "shown-once"));
    assert!(!again.body.contains(&token));
    let listed = house.get(&house.admin, "/api/v1/tokens").await;
    assert_eq!(listed.json().as_array().unwrap().len(), 4);
    assert!(
        !listed.body.contains("rfl_") && !listed.body.contains("hash"),
        "{listed:?}"
    );
    for file in files(house.folder.path()) {
        let bytes = std::fs::read(&file).unwrap_or_default();
        let found = bytes.windows(token.len()).any(|bytes| bytes == token.as_bytes());
        assert!(!found, "{}", file.display());
    }
}

pub(crate) fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// RELIABILITY.md T31.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_but_the_whole_token_opens() {
    let house = House::new().await;
    let admin = &house.admin;
    let flipped = format!("{}x", &admin[..admin.len() - 1]);
    let wrong = [
        "rfl_",
        &admin[..admin.len() - 1],
        &format!("{admin}0"),
        &flipped,
        &admin.to_uppercase(),
    ];
    for (idx, wrong) in wrong.iter().enumerate() {
        let answer = house.get(wrong, "/api/v1/whoami").await;
        assert_eq!(answer.status, 401, "{idx}");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
        assert!(!answer.body.contains("rfl_"), "{answer:?}");
    }
    // Five were wrong: from now on one a second is looked at.
    let mut statuses = Vec::new();
    for n in 0..50 {
        statuses.push(house.get(&format!("rfl_{n}"), "/api/v1/whoami").await.status);
    }
    assert!(
        statuses.iter().all(|status| matches!(status, 401 | 429)),
        "{statuses:?}"
    );
    assert!(
        statuses.iter().filter(|status| **status == 401).count() <= 2,
        "{statuses:?}"
    );
    let slowed = house.get("rfl_x", "/api/v1/whoami").await;
    assert_eq!((slowed.status, slowed.header("retry-after")), (429, Some("1")));
    assert_eq!(slowed.problem(), "too-many-tries");
    // A token that was not used from there before waits, too: else it could be guessed quickly.
    assert_eq!(house.get(&house.viewer, "/api/v1/whoami").await.status, 429);
    let begin = house
        .post("", "/api/v1/session", &json!({ "token": "rfl_wrong" }))
        .await;
    assert_eq!(begin.status, 429);
    // Whoever shows none is not kept out.
    assert_eq!(house.get("", "/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guesser_does_not_lock_out_whoever_was_in() {
    let house = House::new().await;
    assert_eq!(house.get(&house.viewer, "/api/v1/whoami").await.status, 200);
    for n in 0..20 {
        house.get(&format!("rfl_{n}"), "/api/v1/whoami").await;
    }
    assert_eq!(house.get(&house.viewer, "/api/v1/whoami").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_ways_to_send_a_token_do_not_work() {
    let house = House::new().await;
    let whoami = || Request::new("GET", "/api/v1/whoami");
    let basic = whoami().header("Authorization", &format!("Basic {}", house.admin));
    assert_eq!(house.send(&basic).await.status, 401);
    let two = whoami().token(&house.admin).token(&house.viewer);
    assert_eq!(house.send(&two).await.status, 401);
    let in_query = house
        .get("", &format!("/api/v1/whoami?token={}", house.admin))
        .await;
    assert_eq!(in_query.status, 401);
    let as_cookie = whoami().header("Cookie", &format!("reflash_session={}", house.admin));
    assert_eq!(house.send(&as_cookie).await.status, 401);
    assert_eq!(
        house.send(&whoami().header("Authorization", "")).await.status,
        401
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_ends_with_its_sessions() {
    let house = House::new().await;
    let answer = house
        .post("", "/api/v1/session", &json!({ "token": house.operator }))
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let cookie = answer
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    assert!(!cookie.contains("rfl_"));
    let with_cookie = Request::new("GET", "/api/v1/whoami").header("Cookie", &format!("a=b; {cookie}; c=d"));
    let whoami = house.send(&with_cookie).await.json();
    assert_eq!(whoami["role"], "operator");
    assert_eq!(whoami["csrf_token"], answer.json()["csrf_token"]);

    let revoked = Request::new("DELETE", "/api/v1/tokens/2").token(&house.admin);
    assert_eq!(house.send(&revoked).await.status, 204);
    assert_eq!(house.send(&revoked).await.status, 404);
    assert_eq!(house.send(&with_cookie).await.status, 401);
    assert_eq!(house.get(&house.operator, "/api/v1/whoami").await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_when_it_is_told_to() {
    let house = House::new().await;
    let answer = house
        .post("", "/api/v1/session", &json!({ "token": house.viewer }))
        .await;
    let cookie = answer
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let csrf = answer.json()["csrf_token"].as_str().unwrap().to_owned();
    let end = Request::new("DELETE", "/api/v1/session")
        .header("Cookie", &cookie)
        .header("X-CSRF-Token", &csrf);
    let ended = house.send(&end).await;
    assert_eq!(ended.status, 204);
    assert!(ended.header("set-cookie").unwrap().contains("Max-Age=0"));
    let whoami = Request::new("GET", "/api/v1/whoami").header("Cookie", &cookie);
    assert_eq!(house.send(&whoami).await.status, 401);
    let audit = house.audit().await;
    let actions: Vec<_> = audit.iter().map(|row| row.entry.action.as_str()).collect();
    assert_eq!(actions, ["session.begin", "session.end"]);
    assert_eq!(audit[0].entry.target, "test-viewer (token 1)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_of_a_token_is_short_and_printable() {
    let house = House::new().await;
    for name in ["", " a", "a\nb", "a\u{1b}[2J", "\u{0}", &"x".repeat(65)] {
        let body = json!({ "name": name, "role": "viewer" });
        let answer = house.post(&house.admin, "/api/v1/tokens", &body).await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (422, "name"),
            "{name:?}"
        );
    }
    // What looks like markup is text, and comes back as JSON.
    let name = "<script>alert(1)</script>";
    let body = json!({ "name": name, "role": "viewer" });
    let answer = house.post(&house.admin, "/api/v1/tokens", &body).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (201, Some("application/json"))
    );
    assert_eq!(answer.json()["name"], name);
}
