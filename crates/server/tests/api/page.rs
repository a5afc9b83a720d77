//! The page at `/`: who gets it, how it may be kept, and what guards it.

use serde_json::json;

use crate::house::{House, Request};

/// The folder that the index names.
async fn folder(house: &House) -> String {
    let index = house.get("", "/").await;
    assert_eq!(index.status, 200);
    let (_, rest) = index.body.split_once("src=\"").unwrap();
    let (script, _) = rest.split_once('"').unwrap();
    script.strip_suffix("app.js").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_for_anybody_and_its_files_may_be_kept_for_ever() {
    let house = House::new().await;
    let index = house.get("", "/").await;
    assert_eq!(index.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(index.header("cache-control"), Some("no-cache"));
    let policy = index.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'self';") && !policy.contains("unsafe"),
        "{policy}"
    );
    let known = Request::new("GET", "/").header("If-None-Match", index.header("etag").unwrap());
    assert_eq!(house.send(&known).await.status, 304);

    let folder = folder(&house).await;
    for (name, kind) in [
        ("app.js", "text/javascript"),
        ("style.css", "text/css"),
        ("icon.svg", "image/svg+xml"),
    ] {
        let file = house.get("", &format!("{folder}{name}")).await;
        assert_eq!(file.status, 200, "{name}");
        assert!(file.header("content-type").unwrap().starts_with(kind), "{name}");
        assert!(
            file.header("cache-control").unwrap().contains("immutable"),
            "{name}"
        );
        assert_eq!(file.header("content-encoding"), None, "{name}");
        let packed = Request::new("GET", &format!("{folder}{name}")).header("Accept-Encoding", "br, gzip");
        assert_eq!(
            house.send(&packed).await.header("content-encoding"),
            Some("gzip"),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_chooses_among_the_files_of_the_page_and_opens_none() {
    let house = House::new().await;
    let folder = folder(&house).await;
    for path in [
        format!("{folder}../../../../etc/passwd"),
        format!("{folder}%2e%2e/%2e%2e/Cargo.toml"),
        format!("{folder}index.html"),
        format!("{folder}nothing.js"),
        "/page/another/app.js".to_owned(),
    ] {
        assert_eq!(house.get("", &path).await.status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        let status = house
            .send(&Request::new(method, "/").token(&house.admin))
            .await
            .status;
        assert_eq!(status, 405, "{method}");
    }
}

/// RELIABILITY.md T24: the page is not shown under a stranger's name either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_not_shown_under_another_name() {
    let house = House::new().await;
    let request = Request::new("GET", "/").host("evil.example");
    assert_eq!(house.send(&request).await.status, 421);
}

/// A browser goes on sending the cookie of a session that is over; it has to get the page, and to be able to sign in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_that_is_over_keeps_nobody_from_the_page() {
    let house = House::new().await;
    let over = |request: Request| request.header("Cookie", "reflash_session=0000");
    assert_eq!(house.send(&over(Request::new("GET", "/"))).await.status, 200);
    assert_eq!(
        house
            .send(&over(Request::new("GET", "/api/v1/whoami")))
            .await
            .status,
        401
    );
    let sign_in = Request::new("POST", "/api/v1/session").json(&json!({ "token": house.admin }));
    assert_eq!(house.send(&over(sign_in)).await.status, 200);
    // What is shown as a token is still judged.
    let wrong = Request::new("GET", "/").token("rfl_wrong");
    assert_eq!(house.send(&wrong).await.status, 401);
}
