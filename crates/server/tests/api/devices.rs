//! Devices through the API.

use std::net::Ipv4Addr;

use families::Ways;
use serde_json::{Value, json};
use sim::ir_remote::{Config, Fault};

use crate::house::{Answer, BEDROOM, House, LIVING_ROOM, Request};

impl House {
    async fn device(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let mut request = Request::new(method, &format!("/api/v1/devices/{path}")).token(&self.admin);
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.send(&request).await
    }
}

fn ids(answer: &Answer) -> Vec<String> {
    let devices = answer.json();
    devices
        .as_array()
        .unwrap()
        .iter()
        .map(|device| device["id"].as_str().unwrap().to_owned())
        .collect()
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
async fn devices_are_listed_and_sorted_out_by_what_is_asked_for() {
    let house = House::new().await;
    let patch = json!({ "name": "Living Room", "tags": ["ir", "ground"], "group": "house" });
    assert_eq!(house.device("PATCH", LIVING_ROOM, Some(patch)).await.status, 200);
    let list = async |query: &str| ids(&house.get(&house.viewer, &format!("/api/v1/devices{query}")).await);
    assert_eq!(list("").await, [LIVING_ROOM, BEDROOM]);
    for query in [
        "?tag=ir",
        "?group=house",
        "?q=living",
        "?q=192.0.2.1",
        "?q=E4F5",
        "?family=ir-remote&tag=ground",
    ] {
        assert_eq!(list(query).await, [LIVING_ROOM], "{query}");
    }
    for query in [
        "?tag=none",
        "?family=komfovent",
        "?state=unreadable",
        "?q=nothing",
    ] {
        assert!(list(query).await.is_empty(), "{query}");
    }
    let wrong = house.get(&house.viewer, "/api/v1/devices?tags=ir").await;
    check(&wrong, 400, "query");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_known_by_its_id_and_its_name() {
    let house = House::new().await;
    let patch = json!({ "name": "Living Room" });
    assert_eq!(house.device("PATCH", LIVING_ROOM, Some(patch)).await.status, 200);
    let shown = house.get(&house.viewer, "/api/v1/devices/Living%20Room").await;
    assert_eq!(shown.json()["id"], LIVING_ROOM);
    check(
        &house.get(&house.viewer, "/api/v1/devices/nobody").await,
        404,
        "not-found",
    );
    let taken = house
        .device("PATCH", BEDROOM, Some(json!({ "name": "Living Room" })))
        .await;
    assert!(matches!(taken.status, 409 | 422), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_are_enrolled_together_or_not_at_all() {
    let house = House::new().await;
    let enroll = async |devices: Value| {
        let body = json!({ "devices": devices });
        house.post(&house.admin, "/api/v1/devices/enroll", &body).await
    };
    check(&enroll(json!([LIVING_ROOM, "nobody"])).await, 404, "not-found");
    check(&enroll(json!([])).await, 422, "devices");
    assert_eq!(
        house.device("GET", LIVING_ROOM, None).await.json()["enrolled"],
        false
    );

    let enrolled = enroll(json!([LIVING_ROOM, BEDROOM])).await;
    assert_eq!(ids(&enrolled), [LIVING_ROOM, BEDROOM]);
    assert_eq!(enrolled.json()[0]["enrolled"], true);
    let withdrawn = house.device("DELETE", &format!("{BEDROOM}/enroll"), None).await;
    assert_eq!(withdrawn.json()["enrolled"], false);
    let again = house.device("POST", &format!("{BEDROOM}/enroll"), None).await;
    assert_eq!(again.json()["enrolled"], true);

    let audit = house.audit().await;
    let last = &audit.last().unwrap().entry;
    assert_eq!(
        (last.action.as_str(), last.target.as_str()),
        ("device.enroll", BEDROOM)
    );
    let together = audit
        .iter()
        .find(|row| row.entry.detail["status"] == 200)
        .unwrap();
    assert_eq!(together.entry.detail["devices"], json!([LIVING_ROOM, BEDROOM]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_and_skips_come_and_go() {
    let house = House::new().await;
    let pin = format!("{LIVING_ROOM}/pin");
    let skip = format!("{LIVING_ROOM}/skip");
    let version = |version: &str| Some(json!({ "version": version }));
    let pinned = house.device("PUT", &pin, version("1.2")).await.json();
    assert_eq!(pinned["pinned"], "1.2");
    let unpinned = house.device("DELETE", &pin, None).await.json();
    assert_eq!(unpinned["pinned"], Value::Null);

    house.device("PUT", &skip, version("1.3")).await;
    house.device("PUT", &skip, version("1.3")).await;
    let skipped = house.device("PUT", &skip, version("1.4")).await.json();
    assert_eq!(skipped["skipped"], json!(["1.3", "1.4"]));
    let fewer = house.device("DELETE", &format!("{skip}?version=1.3"), None).await;
    assert_eq!(fewer.json()["skipped"], json!(["1.4"]));
    let none = house.device("DELETE", &skip, None).await.json();
    assert_eq!(none["skipped"], json!([]));
    for wrong in ["", " ", "a\u{1b}b", &"1".repeat(200)] {
        check(&house.device("PUT", &pin, version(wrong)).await, 422, "invalid");
        check(&house.device("PUT", &skip, version(wrong)).await, 422, "invalid");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chip_is_one_that_is_known_in_any_spelling() {
    let house = House::new().await;
    let set = async |chip: Value| {
        house
            .device("PATCH", LIVING_ROOM, Some(json!({ "chip": chip })))
            .await
    };
    for wrong in ["foo", "esp33", "", "8266", "esp32c65"] {
        let refused = set(json!(wrong)).await;
        check(&refused, 422, "invalid");
        let next_step = refused.json()["next_step"].to_string();
        assert!(
            next_step.contains("esp32, ") && next_step.contains("esp32c6, "),
            "{next_step}"
        );
    }
    let added = json!({ "host": "192.0.2.9", "family": "ir-remote", "chip": "foo" });
    check(
        &house.post(&house.admin, "/api/v1/devices", &added).await,
        422,
        "invalid",
    );
    assert_eq!(set(json!("ESP32-C3")).await.status, 200);
    let rows = house.store.fleet().await.unwrap();
    let row = rows.iter().find(|row| row.id.key() == LIVING_ROOM).unwrap();
    assert_eq!(row.chip.as_deref(), Some("esp32c3"));
    assert_eq!(set(Value::Null).await.status, 200);
}

/// RELIABILITY.md T30.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_goes_in_and_never_comes_out() {
    let house = House::new().await;
    let canary = "canary-7c1e";
    let path = format!("{LIVING_ROOM}/password");
    let put = async |body: Value| house.device("PUT", &path, Some(body)).await;
    assert_eq!(put(json!({ "password": canary })).await.status, 204);
    assert_eq!(
        house.device("GET", LIVING_ROOM, None).await.json()["has_password"],
        true
    );
    // Wrong in form, each in another way: none of the answers repeats it.
    for wrong in [
        json!({ "password": [canary] }),
        json!({ "password": canary, "more": canary }),
        json!({ "password": format!("{canary}\n") }),
        json!({ "password": { canary: 1 } }),
        json!(canary),
        json!({}),
    ] {
        let answer = put(wrong).await;
        assert_eq!(answer.status, 422, "{answer:?}");
        assert!(!answer.body.contains(canary), "{answer:?}");
    }
    let paths = ["devices", "audit", "whoami", "settings", "discovery", "firmware"];
    for path in paths {
        let answer = house.get(&house.admin, &format!("/api/v1/{path}")).await;
        assert!(!answer.body.contains(canary), "{path}");
    }
    assert!(!house.get("", "/metrics").await.body.contains(canary));
    for file in crate::tokens::files(house.folder.path()) {
        let bytes = std::fs::read(&file).unwrap_or_default();
        let found = bytes
            .windows(canary.len())
            .any(|bytes| bytes == canary.as_bytes());
        assert!(!found, "{}", file.display());
    }
    assert_eq!(put(json!({ "password": null })).await.status, 204);
    assert_eq!(
        house.device("GET", LIVING_ROOM, None).await.json()["has_password"],
        false
    );
}

/// RELIABILITY.md T25.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_text_and_nothing_else() {
    let house = House::new().await;
    let named = async |name: &str| {
        house
            .device("PATCH", LIVING_ROOM, Some(json!({ "name": name })))
            .await
    };
    for name in [
        "<img src=x onerror=alert(1)>",
        "\"; DROP TABLE device; --",
        "\u{202e}abc",
    ] {
        let answer = named(name).await;
        if answer.status == 200 {
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert_eq!(answer.json()["name"], name);
        } else {
            assert_eq!(answer.status, 422, "{answer:?}");
        }
    }
    for name in ["a\nb", "\u{1b}[2J", "\u{0}", &"x".repeat(65)] {
        assert_eq!(named(name).await.status, 422, "{name:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_replaced_and_another_forgotten() {
    let house = House::new().await;
    let patch = json!({ "name": "Bedroom", "tags": ["ir"] });
    house.device("PATCH", BEDROOM, Some(patch)).await;
    let replace = async |old: &str, new: &str| {
        let body = json!({ "by": new });
        house.device("POST", &format!("{old}/replace"), Some(body)).await
    };
    check(&replace(BEDROOM, "nobody").await, 404, "not-found");
    // What still answers is not broken.
    check(&replace(LIVING_ROOM, BEDROOM).await, 409, "conflict");
    let new = replace("Bedroom", LIVING_ROOM).await;
    assert_eq!(
        (new.status, &new.json()["name"]),
        (200, &json!("Bedroom")),
        "{new:?}"
    );
    check(&house.device("GET", BEDROOM, None).await, 404, "not-found");
    assert_eq!(house.device("DELETE", "Bedroom", None).await.status, 204);
    assert!(ids(&house.get(&house.viewer, "/api/v1/devices").await).is_empty());
    let audit = house.audit().await;
    let last = &audit.last().unwrap().entry;
    assert_eq!(
        (last.action.as_str(), last.target.as_str()),
        ("device.remove", LIVING_ROOM)
    );
}

/// RELIABILITY.md T22: the API cannot be made to knock where the configuration does not allow it.
///
/// At each of the two addresses stands a device that would be added if it were asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_not_added_where_nothing_may_be() {
    let events = sim::EventSink::new();
    let start = async |address: Ipv4Addr, ways: &Ways| {
        let mut config = Config::new(address);
        (config.http_port, config.ota_port) = (ways.http_port, ways.ota_port);
        sim::ir_remote::start(config, events.clone()).await
    };
    let any = Ways {
        http_port: 0,
        ota_port: 0,
        ..Ways::default()
    };
    // A port that is free at the one address may be taken at the other.
    let (allowed, forbidden, ways) = loop {
        let allowed = start(Ipv4Addr::new(127, 77, 22, 1), &any).await.unwrap();
        let ways = Ways {
            http_port: allowed.http_port(),
            ota_port: allowed.ota_port(),
            ..Ways::default()
        };
        if let Ok(forbidden) = start(Ipv4Addr::LOCALHOST, &ways).await {
            break (allowed, forbidden, ways);
        }
    };
    let house = House::looking_at(&ways).await;
    let add = async |host: &str| {
        let body = json!({ "host": host });
        house.post(&house.admin, "/api/v1/devices", &body).await
    };
    for host in [
        "127.0.0.1",
        "localhost",
        "::ffff:127.0.0.1",
        "[::ffff:7f00:1]",
        "::1",
        "::",
        "0.0.0.0",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "127.77.22.1@127.0.0.1",
        "http://127.0.0.1/",
        "169.254.169.254",
        "fe80::1",
        "224.0.0.251",
        "255.255.255.255",
        "192.168.1.1",
        "8.8.8.8",
        "",
    ] {
        let answer = add(host).await;
        assert!(
            (400..500).contains(&answer.status) || answer.status == 502,
            "{host}: {answer:?}"
        );
        answer.problem();
        assert_eq!(forbidden.counters().http_requests, 0, "{host} was asked");
    }
    // Nor does the answer of a device that may be asked lead there.
    let lead = format!("status-redirect=http://127.0.0.1:{}/api/status", ways.http_port);
    allowed.set_faults(vec![Fault::parse(&lead).unwrap()]);
    let answer = add("127.77.22.1").await;
    assert!(!(200..300).contains(&answer.status), "{answer:?}");
    assert!(allowed.counters().http_requests > 0, "it was asked");
    assert_eq!(forbidden.counters().http_requests, 0, "the redirect was followed");
    assert_eq!(house.fleet.devices().len(), 2);

    allowed.set_faults(Vec::new());
    assert_eq!(
        add("127.77.22.1").await.status,
        201,
        "what is allowed can be added"
    );
    assert_eq!(forbidden.counters().http_requests, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_sources_and_scans_answer_what_they_know() {
    let house = House::new().await;
    let health = house
        .get(
            &house.viewer,
            &format!("/api/v1/devices/{LIVING_ROOM}/health?since_ms=0&limit=5"),
        )
        .await;
    assert_eq!((health.status, health.json()), (200, json!([])));
    let sources = house.get(&house.viewer, "/api/v1/discovery").await;
    assert!(sources.json().is_array(), "{sources:?}");
    // No network is configured here.
    let scan = house
        .post(&house.operator, "/api/v1/discovery/scan", &json!({}))
        .await;
    check(&scan, 422, "invalid");
}
