//! Who gets in: hosts, roles, sites, for all routes as the table and the router have them.

use http::Method;
use model::access::Role;
use serde_json::json;
use server::api::{Access, ApiSettings, Least, Limits, TABLE, Takes};

use crate::house::{Answer, House, Request, filled, settings};

/// A request that would be let through as far as its form goes.
fn request(access: &Access) -> Request {
    let request = Request::new(access.method.as_str(), &filled(access.path));
    match (access.takes, &access.method) {
        (_, &Method::GET | &Method::DELETE) => request,
        (Takes::Image, _) => {
            let mut request = request.body("application/octet-stream", b"x");
            request.path += "?file_name=x.bin";
            request
        }
        (Takes::Json | Takes::Token, _) => request.json(&json!({})),
    }
}

/// Events never end by themselves; their head is enough. Nor does a parent's stream, which is for the socket alone.
fn is_endless(access: &Access) -> bool {
    matches!(access.path, "/api/v1/events" | "/api/v1/attach")
}

/// RELIABILITY.md T32: the matrix of roles and routes, made of the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_is_for_its_role_and_no_lesser_one() {
    let house = House::new().await;
    for access in TABLE.iter().filter(|access| !is_endless(access)) {
        let name = format!("{} {}", access.method, access.path);
        let nobody = house.send(&request(access)).await.status;
        let callers = [
            (Role::Viewer, &house.viewer),
            (Role::Operator, &house.operator),
            (Role::Admin, &house.admin),
        ];
        let Least::Role(least) = access.least else {
            // These three are open; a session wants a token in its body.
            let expected = if access.path == "/api/v1/session" {
                422
            } else {
                200
            };
            assert_eq!(nobody, expected, "{name}");
            continue;
        };
        assert_eq!(nobody, 401, "{name}");
        for (role, token) in callers {
            let answer = house.send(&request(access).token(token)).await;
            if role < least {
                assert_eq!(answer.status, 403, "{name} as {}", role.name());
                assert_eq!(answer.problem(), "forbidden");
            } else {
                assert!(
                    !matches!(answer.status, 401 | 403 | 405 | 500 | 501),
                    "{name} as {}: {answer:?}",
                    role.name()
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_no_table_is_for_nobody() {
    let house = House::new().await;
    let answer = house.get("", "/api/v1/nothing").await;
    assert_eq!((answer.status, answer.problem().as_str()), (401, "unauthorized"));
    let answer = house.get(&house.admin, "/api/v1/nothing").await;
    assert_eq!((answer.status, answer.problem().as_str()), (404, "not-found"));
    for method in ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
        let request = Request::new(method, "/api/v1/audit");
        assert_eq!(house.send(&request).await.status, 401, "{method}");
        let answer = house.send(&request.token(&house.admin)).await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (405, "method-not-allowed"),
            "{method}"
        );
        assert_eq!(answer.header("allow"), Some("GET"));
    }
    let head = house
        .send(&Request::new("HEAD", "/api/v1/whoami").token(&house.viewer))
        .await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

/// RELIABILITY.md T24.
const FOREIGN_HOSTS: [&str; 50] = [
    "evil.example",
    "evil.example:8927",
    "localhost.evil.example",
    "evil.example.localhost",
    "127.0.0.1.evil.example",
    "127.0.0.1.nip.io",
    "localhost@evil.example",
    "localhost:80@evil.example",
    "localhost#evil.example",
    "localhost/evil",
    "localhost\\evil",
    "localhost?x",
    "localhost,evil.example",
    "localhost;evil.example",
    "localhost evil.example",
    "evil.example localhost",
    "localhost:",
    "localhost:port",
    "localhost:99999",
    "localhost:80:80",
    "localhost:-1",
    "localhost:+80",
    "localhost..",
    ".localhost",
    ".",
    "",
    "*",
    "_",
    "%6c%6f%63%61%6c%68%6f%73%74",
    "localh\u{f6}st",
    "\u{ff4c}ocalhost",
    "localhost\u{0}",
    "0.0.0.0",
    "0",
    "127.1",
    "127.0.0.2",
    "127.0.0.01",
    "2130706433",
    "0x7f000001",
    "017700000001",
    "192.168.1.1",
    "10.0.0.1:8927",
    "[::]",
    "[::2]",
    "::1",
    "[::1",
    "[::1]evil.example",
    "[::ffff:127.0.0.1%25lo]",
    "[fe80::1]",
    "reflash.example.evil",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_host_gets_nothing_from_any_route() {
    let named = ApiSettings {
        hosts: vec!["reflash.example".to_owned()],
        ..settings()
    };
    let house = House::with(named, Limits::default()).await;
    for access in TABLE {
        // Over the local socket as well: a process of this user could be made to speak for a page.
        let foreign = request(access).host("evil.example");
        assert_eq!(house.send_locally(&foreign).await.problem(), "misdirected");
    }
    for (host, access) in FOREIGN_HOSTS
        .iter()
        .flat_map(|host| TABLE.iter().map(move |access| (host, access)))
    {
        let request = request(access).token(&house.admin).host(host);
        let answer = house.send(&request).await;
        // What is no host at all is refused before we see it.
        assert!(
            matches!(answer.status, 421 | 400),
            "{host:?} {} {}: {answer:?}",
            access.method,
            access.path
        );
        assert!(!answer.body.contains("reflash_devices"), "{host:?}");
    }
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1:8927",
        "[::1]:8927",
        "localhost.",
        "Reflash.Example",
    ] {
        let request = Request::new("GET", "/api/v1/whoami")
            .token(&house.viewer)
            .host(host);
        assert_eq!(house.send(&request).await.status, 200, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_missing_doubled_or_contradicted_is_refused() {
    let house = House::new().await;
    let whoami = || Request::new("GET", "/api/v1/whoami").token(&house.viewer);
    let mut missing = whoami();
    missing.headers.remove(0);
    assert_eq!(house.send(&missing).await.status, 421);
    assert_eq!(
        house.send(&whoami().header("Host", "evil.example")).await.status,
        421
    );
    let mut absolute = whoami();
    absolute.path = "http://evil.example/api/v1/whoami".to_owned();
    assert_eq!(house.send(&absolute).await.status, 421);
    absolute.path = "http://localhost/api/v1/whoami".to_owned();
    assert_eq!(house.send(&absolute).await.status, 200);
}

/// A session of an administrator, as a browser has it.
struct Browser {
    cookie: String,
    csrf: String,
}

impl Browser {
    async fn log_in(house: &House) -> Self {
        let answer = house
            .post("", "/api/v1/session", &json!({ "token": house.admin }))
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let cookie = answer.header("set-cookie").unwrap();
        for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        Self {
            cookie: cookie.split(';').next().unwrap().to_owned(),
            csrf: answer.json()["csrf_token"].as_str().unwrap().to_owned(),
        }
    }

    fn sends(&self, request: Request) -> Request {
        request.header("Cookie", &self.cookie)
    }
}

/// RELIABILITY.md T23: what a page of another site can make a browser send, for all routes that change anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_site_changes_nothing() {
    let house = House::new().await;
    let browser = Browser::log_in(&house).await;
    let n_before = house.audit().await.len();
    for access in TABLE.iter().filter(|access| !access.action.is_empty()) {
        let name = format!("{} {}", access.method, access.path);
        let cases = [
            // A form of another site; SameSite keeps the cookie back, we do not rely on it alone.
            browser
                .sends(Request::new(access.method.as_str(), &filled(access.path)))
                .header("Origin", "http://evil.example")
                .header("Sec-Fetch-Site", "cross-site")
                .body("application/x-www-form-urlencoded", b"a=b"),
            browser
                .sends(request(access))
                .header("X-CSRF-Token", &browser.csrf)
                .header("Origin", "http://evil.example"),
            browser
                .sends(request(access))
                .header("X-CSRF-Token", &browser.csrf)
                .header("Origin", "null"),
            browser
                .sends(request(access))
                .header("X-CSRF-Token", &browser.csrf)
                .header("Sec-Fetch-Site", "same-site"),
            // Another port of this machine is another site, too.
            browser
                .sends(request(access))
                .header("X-CSRF-Token", &browser.csrf)
                .header("Origin", "http://localhost:1"),
        ];
        for request in &cases {
            let answer = house.send(request).await;
            assert_eq!(
                (answer.status, answer.problem().as_str()),
                (403, "cross-site"),
                "{name}"
            );
        }
        if access.least == Least::Anyone {
            continue;
        }
        for wrong in [None, Some(""), Some("0"), Some(&browser.csrf[1..])] {
            let mut request = browser
                .sends(request(access))
                .header("Origin", "http://localhost")
                .header("Sec-Fetch-Site", "same-origin");
            if let Some(wrong) = wrong {
                request = request.header("X-CSRF-Token", wrong);
            }
            let answer = house.send(&request).await;
            assert_eq!(
                (answer.status, answer.problem().as_str()),
                (403, "csrf"),
                "{name} {wrong:?}"
            );
        }
    }
    assert_eq!(house.audit().await.len(), n_before);

    let own = browser
        .sends(Request::new("PATCH", "/api/v1/settings"))
        .header("Origin", "http://localhost")
        .header("Sec-Fetch-Site", "same-origin")
        .header("X-CSRF-Token", &browser.csrf)
        .json(&json!({ "auto_enroll": true }));
    assert_eq!(house.send(&own).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_json_changes_anything() {
    let house = House::new().await;
    for access in TABLE.iter().filter(|access| !access.action.is_empty()) {
        let other = match access.takes {
            Takes::Image => "application/json",
            Takes::Json | Takes::Token => "application/octet-stream",
        };
        for content_type in [
            other,
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonp",
            "",
        ] {
            let request = Request::new(access.method.as_str(), &filled(access.path))
                .token(&house.admin)
                .body(content_type, b"{}");
            let answer = house.send(&request).await;
            assert_eq!(
                (answer.status, answer.problem().as_str()),
                (415, "media-type"),
                "{} {} {content_type:?}",
                access.method,
                access.path
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_changes_nothing() {
    let house = House::new().await;
    let last_event = house.store.last_event().await.unwrap();
    for access in TABLE
        .iter()
        .filter(|access| access.action.is_empty() && !is_endless(access))
    {
        for method in ["GET", "HEAD"] {
            let mut request = request(access).token(&house.admin);
            method.clone_into(&mut request.method);
            house.send(&request).await;
        }
    }
    assert!(house.audit().await.is_empty());
    assert_eq!(house.store.last_event().await.unwrap(), last_event);
    assert_eq!(house.store.tokens().await.unwrap().len(), 3);
}

fn check_headers(answer: &Answer, name: &str) {
    let has = |header: &str, part: &str| answer.header(header).is_some_and(|text| text.contains(part));
    assert!(
        has("content-security-policy", "default-src 'self'"),
        "{name}: {answer:?}"
    );
    assert!(has("content-security-policy", "frame-ancestors 'none'"), "{name}");
    assert!(!has("content-security-policy", "unsafe"), "{name}");
    assert!(has("x-content-type-options", "nosniff"), "{name}");
    assert!(has("referrer-policy", "no-referrer"), "{name}");
    assert!(has("cache-control", "no-store"), "{name}");
    assert!(answer.header("access-control-allow-origin").is_none(), "{name}");
    assert!(answer.header("server").is_none(), "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_tells_browsers_what_not_to_do() {
    let house = House::new().await;
    for access in TABLE.iter().filter(|access| !is_endless(access)) {
        for token in ["", &house.admin] {
            let answer = house.send(&request(access).token(token)).await;
            check_headers(&answer, access.path);
        }
    }
    check_headers(&house.get(&house.admin, "/nothing").await, "404");
    let foreign = Request::new("GET", "/health").host("evil.example");
    check_headers(&house.send(&foreign).await, "421");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_open_to_this_machine_unless_a_proxy_or_the_configuration_says_otherwise() {
    let house = House::new().await;
    let metrics = Request::new("GET", "/metrics");
    assert_eq!(house.send(&metrics).await.status, 200);
    assert_eq!(house.send_locally(&metrics).await.status, 200);
    let proxied = metrics.clone().header("X-Forwarded-For", "192.0.2.1");
    assert_eq!(house.send(&proxied).await.status, 401);
    assert_eq!(house.send(&proxied.token(&house.viewer)).await.status, 200);

    let closed = ApiSettings {
        metrics_need_token: true,
        ..settings()
    };
    let house = House::with(closed, Limits::default()).await;
    assert_eq!(house.send(&metrics).await.status, 401);
    assert_eq!(house.get(&house.viewer, "/metrics").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_tells_strangers_the_status_only() {
    let house = House::new().await;
    let stranger = house.get("", "/health").await.json();
    let known = house.get(&house.viewer, "/health").await.json();
    // The fleet of this test is not running, so no source works.
    assert_eq!(
        (&stranger["status"], &known["status"]),
        (&json!("degraded"), &json!("degraded"))
    );
    assert_eq!(
        (&stranger["version"], &stranger["reasons"]),
        (&json!(""), &json!([]))
    );
    assert_eq!(known["version"], env!("CARGO_PKG_VERSION"));
    assert!(!known["reasons"].as_array().unwrap().is_empty());
    assert_eq!(house.get("rfl_wrong", "/health").await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_user_of_the_server_is_an_administrator_on_the_local_socket() {
    let house = House::new().await;
    let whoami = Request::new("GET", "/api/v1/whoami");
    let local = house.send_locally(&whoami).await.json();
    assert_eq!(
        (local["role"].as_str(), local["source"].as_str()),
        (Some("admin"), Some("socket"))
    );
    // Whoever shows a token is who the token says.
    let as_viewer = house
        .send_locally(&whoami.clone().token(&house.viewer))
        .await
        .json();
    assert_eq!(as_viewer["role"], "viewer");
    let wrong = house.send_locally(&whoami.token("rfl_wrong")).await;
    assert_eq!(wrong.status, 401);
}
