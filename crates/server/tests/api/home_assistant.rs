//! What Home Assistant hands over and shows.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use server::home_assistant::HomeAssistant;
use server::secrets::Sealer;

use crate::house::{Answer, House, Request};

const BLOCK: &str = "/api/v1/configuration/home-assistant";

impl House {
    async fn put(&self, token: &str, path: &str, body: &Value) -> Answer {
        self.send(&Request::new("PUT", path).token(token).json(body))
            .await
    }

    async fn delete(&self, token: &str, path: &str) -> Answer {
        self.send(&Request::new("DELETE", path).token(token)).await
    }

    fn n_reloads(&self) -> usize {
        self.reloading.n_done.load(Ordering::SeqCst)
    }

    /// What a server knows that was started anew.
    async fn started_anew(&self) -> HomeAssistant {
        let sealer = Arc::new(Sealer::open_or_make(self.folder.path()).unwrap());
        HomeAssistant::load(Arc::clone(&self.store), sealer)
            .await
            .unwrap()
    }
}

fn block() -> Value {
    json!({
        "scan_interval": 300,
        "ota_password": "canary-common",
        "devices": [{ "ip": "192.168.1.100", "name": "Living Room IR", "password": "canary-own" }],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_is_kept_sealed_applied_once_and_never_told_with_its_secrets() {
    let house = House::new().await;
    let put = house.put(&house.admin, BLOCK, &block()).await;
    assert_eq!(put.status, 200, "{put:?}");
    assert_eq!(house.n_reloads(), 1);
    let seen = house.get(&house.viewer, BLOCK).await;
    for answer in [&put, &seen] {
        assert!(!answer.body.contains("canary"), "{answer:?}");
        let body = answer.json();
        assert_eq!(body["block"]["devices"][0]["name"], "Living Room IR");
        assert_eq!(body["secrets"], json!(["devices[0].password", "ota_password"]));
        assert!(
            body["given_ms"].is_i64() && body["given_by"].is_string(),
            "{body}"
        );
    }
    // The same once more, as at every start of Home Assistant.
    assert_eq!(house.put(&house.admin, BLOCK, &block()).await.status, 200);
    assert_eq!(house.n_reloads(), 1, "the same block changes nothing");
    let kept = house
        .store
        .setting("home_assistant_block")
        .await
        .unwrap()
        .unwrap();
    assert!(!kept.to_string().contains("canary"), "{kept}");
    let audit = format!("{:?}", house.audit().await);
    assert!(
        audit.contains("home-assistant.configure") && !audit.contains("canary"),
        "{audit}"
    );

    let mut config = server::config::Config::default();
    house.started_anew().await.lay_over(&mut config);
    let ir = config.family("ir-remote").unwrap();
    assert_eq!(ir.devices[0].host, "192.168.1.100");
    assert!(ir.devices[0].password.is_some() && ir.password.is_some());

    let gone = house.delete(&house.admin, BLOCK).await;
    assert_eq!((gone.status, &gone.json()["block"]), (200, &Value::Null));
    assert_eq!(house.n_reloads(), 2);
    let mut config = server::config::Config::default();
    house.started_anew().await.lay_over(&mut config);
    assert!(config.family("ir-remote").unwrap().devices.is_empty());
    assert_eq!(house.delete(&house.admin, BLOCK).await.status, 200);
    assert_eq!(house.n_reloads(), 2, "there was nothing to take back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_mistakes_of_a_block_come_at_once_and_nothing_changes() {
    let house = House::new().await;
    house.put(&house.admin, BLOCK, &block()).await;
    let wrong = json!({
        "scan_intervall": 300,
        "network_range": "10.0.0.0/8",
        "ota_password": ["canary-list"],
        "devices": [{ "ip": "192.168.1.100" }, { "ip": "192.168.1.100", "password": "canary-bell\u{7}" }, { "ip": "8.8.8.8" }],
    });
    let answer = house.put(&house.admin, BLOCK, &wrong).await;
    assert_eq!((answer.status, answer.problem().as_str()), (422, "configuration"));
    let problem = answer.json();
    let mistakes = problem["mistakes"].as_array().unwrap();
    let mut paths: Vec<_> = mistakes
        .iter()
        .map(|mistake| mistake["path"].as_str().unwrap())
        .collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "devices[1]",
            "devices[1].password",
            "devices[2].ip",
            "network_range",
            "ota_password",
            "scan_intervall"
        ]
    );
    for mistake in mistakes {
        assert!(!mistake["text"].as_str().unwrap().is_empty(), "{mistake}");
        assert!(!mistake["next_step"].as_str().unwrap().is_empty(), "{mistake}");
    }
    assert!(!answer.body.contains("canary"), "{answer:?}");
    assert_eq!(house.n_reloads(), 1);
    let seen = house.get(&house.admin, BLOCK).await.json();
    assert_eq!(seen["block"]["scan_interval"], 300);
    for (body, status) in [("[]", 422), ("5", 422), ("{", 400), ("\"x\"", 422)] {
        let request = Request::new("PUT", BLOCK)
            .token(&house.admin)
            .body("application/json", body.as_bytes());
        assert_eq!(house.send(&request).await.status, status, "{body}");
    }
    // Nothing said is a block with nothing in it.
    assert_eq!(house.put(&house.admin, BLOCK, &Value::Null).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_another_key_sealed_is_told_and_can_be_handed_over_again() {
    let house = House::new().await;
    house.put(&house.admin, BLOCK, &block()).await;
    let other = tempfile::tempdir().unwrap();
    let sealer = Arc::new(Sealer::open_or_make(other.path()).unwrap());
    let again = HomeAssistant::load(Arc::clone(&house.store), sealer)
        .await
        .unwrap();
    assert_eq!(again.troubles().len(), 1);
    assert!(again.block().is_none());
    assert!(again.set_block(Some(block()), "test", 5).await.unwrap());
    assert!(again.troubles().is_empty() && again.block().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_entry_shows_is_kept_until_it_is_gone() {
    let house = House::new().await;
    let shown = |devices: &[&str]| json!({ "devices": devices });
    let one = "/api/v1/home-assistant/01JD3W7X5Q6Y8Z9A";
    let other = "/api/v1/home-assistant/other";
    assert_eq!(
        house.put(&house.operator, one, &shown(&["a", "b"])).await.status,
        204
    );
    assert_eq!(
        house.put(&house.operator, other, &shown(&["b"])).await.status,
        204
    );
    assert!(house.home_assistant.shows("a") && house.home_assistant.shows("b"));
    assert!(!house.home_assistant.shows("c"));
    // The whole list each time.
    assert_eq!(house.put(&house.operator, one, &shown(&[])).await.status, 204);
    assert!(!house.home_assistant.shows("a") && house.home_assistant.shows("b"));
    assert!(house.started_anew().await.shows("b"));
    assert_eq!(house.delete(&house.operator, other).await.status, 204);
    assert_eq!(house.delete(&house.operator, other).await.status, 204);
    assert!(!house.home_assistant.shows("b"));
    assert!(!house.started_anew().await.shows("b"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_entry_shows_is_bounded() {
    let house = House::new().await;
    let path = |entry: &str| format!("/api/v1/home-assistant/{entry}");
    let good = json!({ "devices": ["a"] });
    for entry in ["a%20b", "..", &"x".repeat(65), "%00", "%F0%9F%92%A9"] {
        let answer = house.put(&house.operator, &path(entry), &good).await;
        assert!(matches!(answer.status, 404 | 422), "{entry}: {answer:?}");
    }
    let many = vec!["d"; 10_001];
    let long = "d".repeat(301);
    for wrong in [
        json!({}),
        json!({ "devices": "a" }),
        json!({ "devices": [5] }),
        json!({ "devices": [""] }),
        json!({ "devices": ["a\nb"] }),
        json!({ "devices": [long] }),
        json!({ "devices": many }),
        json!({ "devices": ["a"], "more": 1 }),
    ] {
        let answer = house.put(&house.operator, &path("e"), &wrong).await;
        assert_eq!(answer.status, 422, "{wrong}");
    }
    for n in 0..32 {
        assert_eq!(
            house
                .put(&house.operator, &path(&format!("e{n}")), &good)
                .await
                .status,
            204
        );
    }
    assert_eq!(
        house.put(&house.operator, &path("one-more"), &good).await.status,
        422
    );
    assert_eq!(house.put(&house.operator, &path("e5"), &good).await.status, 204);
}
