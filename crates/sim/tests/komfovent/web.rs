//! Pages, logins and sessions.

use std::io::ErrorKind;
use std::net::Ipv4Addr;

use sim::EventKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::{exchange, field_part, form_head, multipart};
use super::{DEADLINE, Unit, parsed};

#[tokio::test]
async fn reply_headers_come_in_the_real_units_order() {
    let unit = Unit::start();
    let head = "HTTP/1.1 200 OK\r\nServer: C6\r\nConnection: close\r\nContent-Type: text/html\r\n\
        Content-Length: 1078\r\nCache-Control: no-cache";
    assert_eq!(unit.get("/g1.html").await.head, head);
    assert_eq!(unit.get("/no/such/page").await.head, head);
    assert_eq!(unit.log_in().await.head, head.replace("1078", "973"));
}

#[tokio::test]
async fn a_right_login_opens_a_session_that_outlives_its_connection() {
    let unit = Unit::start();
    assert!(!unit.get("/g1.html").await.is_authorised());
    let page = unit.log_in().await;
    assert!(page.is_authorised() && page.has("value=\"Logout\""));
    assert_eq!((page.body.len(), page.status().as_str()), (973, "Status:"));
    assert!(unit.get("/g1.html").await.is_authorised());
    assert_eq!(unit.n_events(EventKind::Login), 1);
    assert_eq!(unit.device.running().n_sessions, 1);

    assert!(!unit.log_out().await.is_authorised());
    assert!(!unit.get("/g1.html").await.is_authorised());
    let counters = unit.device.counters();
    assert_eq!(
        (counters.logins, counters.failed_logins, counters.logouts),
        (1, 0, 1)
    );
}

#[tokio::test]
async fn a_wrong_login_shows_the_text_that_every_login_page_hides() {
    let unit = Unit::start();
    let first = unit.get("/g1.html").await;
    assert!(first.has("<p style=\"display:none  \">Incorrect password!     </p>"));
    for body in ["1=user&2=wrong", "1=admin&2=user", "1=&2="] {
        let failed = unit.post_form("/g1.html", body).await;
        assert!(!failed.is_authorised());
        assert!(
            failed.has("<p style=\"display:      \">Incorrect password!     </p>"),
            "{body}"
        );
        let differing = first
            .body
            .iter()
            .zip(&failed.body)
            .filter(|(before, after)| before != after)
            .count();
        assert_eq!(
            (first.body.len(), failed.body.len(), differing),
            (1078, 1078, 4),
            "only the style differs"
        );
    }
    assert_eq!(unit.device.counters().failed_logins, 3);
    assert_eq!(unit.n_events(EventKind::Login), 0);
    assert!(unit.get("/g1.html").await.has("display:none"));
}

#[tokio::test]
async fn login_works_on_both_pages_and_decodes_its_fields() {
    let unit = Unit::with(|config| config.password = "p&s +ä".into());
    let page = unit.post_form("/", "1=user&2=p%26s+%2B%C3%A4").await;
    assert!(page.is_authorised());
    unit.log_out().await;
    assert!(
        !unit
            .post_form("/st.html", "1=user&2=p%26s+%2B%C3%A4")
            .await
            .is_authorised()
    );
    assert!(
        unit.post_form("/g1.html", "1=user&2=p%26s+%2b%c3%a4")
            .await
            .is_authorised()
    );
    assert!(
        unit.post_form("/g1.html", "4=Logout").await.is_authorised(),
        "the logout form goes to /"
    );
}

#[tokio::test]
async fn multipart_login_does_not_work() {
    let unit = Unit::start();
    for path in ["/", "/g1.html"] {
        let (head, body) = multipart(path, &[field_part("1", "user"), field_part("2", "user")]);
        let page = exchange(Ipv4Addr::LOCALHOST, unit.http_address(), &head, &body)
            .await
            .unwrap();
        assert!(!page.is_authorised());
    }
    assert_eq!(unit.device.running().n_sessions, 0);
}

#[tokio::test]
async fn a_chunked_login_is_not_read() {
    let unit = Unit::start();
    let head = form_head("/", 0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    let page = exchange(
        Ipv4Addr::LOCALHOST,
        unit.http_address(),
        &head,
        b"d\r\n1=user&2=user\r\n0\r\n\r\n",
    )
    .await;
    assert!(!page.unwrap().is_authorised());
}

#[tokio::test]
async fn old_firmware_wants_the_length_header_spelt_right() {
    let head = form_head("/", 13).replace("Content-Length", "content-length");
    for (controller, works) in [("C6_1_3_17_20", false), ("C6_1_3_44_70", true)] {
        let unit = Unit::running(controller, None);
        let page = exchange(Ipv4Addr::LOCALHOST, unit.http_address(), &head, b"1=user&2=user")
            .await
            .unwrap();
        assert_eq!(page.is_authorised(), works, "{controller}");
    }
}

#[tokio::test]
async fn a_request_without_host_gets_no_reply() {
    let unit = Unit::start();
    let lost = exchange(
        Ipv4Addr::LOCALHOST,
        unit.http_address(),
        "GET / HTTP/1.1\r\n\r\n",
        b"",
    )
    .await;
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn sessions_belong_to_addresses() {
    let unit = Unit::start();
    unit.log_in().await;
    let elsewhere = Ipv4Addr::new(127, 0, 0, 2);
    let get = "GET /g1.html HTTP/1.1\r\nHost: unit\r\n\r\n";
    assert!(
        !exchange(elsewhere, unit.http_address(), get, b"")
            .await
            .unwrap()
            .is_authorised()
    );
    assert!(unit.get("/g1.html").await.is_authorised());
}

#[tokio::test]
async fn one_connection_carries_one_request() {
    let unit = Unit::start();
    let mut stream = TcpStream::connect(unit.http_address()).await.unwrap();
    let get = b"GET /g1.html HTTP/1.1\r\nHost: unit\r\n\r\n";
    stream.write_all(&[&get[..], get].concat()).await.unwrap();
    let mut bytes = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&bytes).matches("HTTP/1.1 200 OK").count(),
        1
    );
    assert_eq!(unit.device.counters().requests, 1);
}

#[tokio::test]
async fn the_settings_page_shows_firmware_and_serial_only_after_login() {
    let unit = Unit::with(|config| config.serial = Some("8BXC01".into()));
    let closed = unit.get("/st.html").await;
    assert!(!closed.has("8BXC01") && !closed.is_authorised());
    unit.log_in().await;
    let open = unit.get("/st.html").await;
    assert_eq!(open.element("c6sn").as_deref(), Some("8BXC01"));
    assert_eq!(open.element("mmf1").as_deref(), Some("C6 1.3.44.70"));

    unit.device.set_faults(parsed(&["no-serial"]));
    let without = unit.get("/st.html").await;
    assert_eq!(
        (without.element("c6sn"), without.element("mmf1").is_some()),
        (None, true)
    );
}

#[tokio::test]
async fn ajax_is_answered_without_a_session() {
    let unit = Unit::start();
    let reply = unit.post_form("/ajax.xml", "3=2").await;
    assert_eq!(
        reply.body,
        b"<?xml version=\"1.0\" encoding=\"windows-1252\"?>\r\n<V>\r\n\t<A>c6</A>\r\n</V>"
    );
}

#[tokio::test]
async fn wrong_password_refuses_what_is_right() {
    let unit = Unit::with_faults(&["wrong-password"]);
    let page = unit.log_in().await;
    assert!(!page.is_authorised() && page.has("display:      "));
    unit.seen_fault("wrong-password").await;
}

#[tokio::test]
async fn a_hidden_error_leaves_the_login_page_as_it_was() {
    let unit = Unit::with_faults(&["hidden-error"]);
    let first = unit.get("/g1.html").await;
    assert_eq!(
        unit.post_form("/g1.html", "1=user&2=wrong").await.body,
        first.body
    );
    assert!(unit.log_in().await.is_authorised());
}

#[tokio::test]
async fn a_taken_session_is_freed_by_logging_out() {
    let unit = Unit::with_faults(&["session-taken"]);
    let taken = unit.log_in().await;
    assert!(
        !taken.is_authorised() && taken.has("display:none"),
        "the password was right"
    );
    unit.log_out().await;
    assert!(unit.log_in().await.is_authorised());
    unit.seen_fault("session-taken").await;
}

#[tokio::test]
async fn localised_pages_keep_their_sizes_and_markers() {
    for language in ["localised", "localised=lt"] {
        let unit = Unit::with_faults(&[language]);
        let failed = unit.post_form("/g1.html", "1=user&2=wrong").await;
        assert!(!failed.is_authorised() && !failed.has("Incorrect") && failed.has("display:      "));
        let page = unit.log_in().await;
        assert!(page.is_authorised() && page.status().ends_with(':') && page.status() != "Status:");
        assert_eq!((failed.body.len(), page.body.len()), (1078, 973));
    }
}

#[tokio::test]
async fn a_silent_web_server_takes_connections_and_says_nothing() {
    let unit = Unit::with_faults(&["http-silent"]);
    let mut stream = TcpStream::connect(unit.http_address()).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: unit\r\n\r\n")
        .await
        .unwrap();
    unit.seen_fault("http-silent").await;
    assert_eq!(unit.device.counters().requests, 0);
    let first = stream.try_read(&mut [0; 16]).map_err(|error| error.kind());
    assert_eq!(first, Err(ErrorKind::WouldBlock));
}
