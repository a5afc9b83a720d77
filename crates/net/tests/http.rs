//! Requests to odd, hostile and broken HTTP servers.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use net::http::{Ask, AskError, Limits, REPLY_MAX_BYTES, Reply};
use net::{DialError, Dialer, Networks, http};

use common::{
    SOON, listener, loopback_dialer, read_head, read_request, refusing, reset, serve, write_until_refused,
};

/// For servers that reply.
const LIMITS: Limits = Limits {
    connect: SOON,
    total: SOON,
};

async fn get(peer: SocketAddr, limits: Limits) -> Result<Reply, AskError> {
    http::ask(
        &loopback_dialer(),
        peer,
        "10.0.0.7",
        Ask::get("/api/status"),
        limits,
    )
    .await
}

/// Asks a server that replies with these bytes and closes.
async fn ask_server_that_writes(bytes: &'static [u8]) -> Result<Reply, AskError> {
    let (addr, server) = serve(None, |mut stream| {
        read_head(&mut stream);
        stream.write_all(bytes).unwrap();
    });
    let reply = get(addr, LIMITS).await;
    server.join().unwrap();
    reply
}

#[track_caller]
fn check(reply: Result<Reply, AskError>, status: u16, body: &str) {
    let reply = reply.unwrap();
    assert_eq!(
        (reply.status, reply.text().as_str(), reply.cut),
        (status, body, false)
    );
}

#[tokio::test]
async fn what_is_sent_is_plain_http_with_a_length() {
    let (addr, server) = serve(None, |mut stream| {
        let request = read_request(&mut stream);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: C6\r\n\r\nOK")
            .unwrap();
        request
    });
    let mut ask = Ask::post(
        "/g1.html?x=1",
        "application/x-www-form-urlencoded",
        "1=user&2=user",
    );
    ask.headers = &[("Authorization", "Basic dXNlcjp1c2Vy")];
    let reply = http::ask(&loopback_dialer(), addr, "10.0.0.7", ask, LIMITS)
        .await
        .unwrap();
    assert_eq!(reply.server.as_deref(), Some("C6"));
    let (head, body) = server.join().unwrap();
    assert_eq!(body, b"1=user&2=user");
    let mut lines: Vec<&str> = head.trim_end().split("\r\n").collect();
    assert_eq!(lines.remove(0), "POST /g1.html?x=1 HTTP/1.1");
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "Authorization: Basic dXNlcjp1c2Vy",
            "Connection: close",
            "Content-Length: 13",
            "Content-Type: application/x-www-form-urlencoded",
            "Host: 10.0.0.7",
        ]
    );
}

#[tokio::test]
async fn http_1_0_without_a_length_is_read_to_the_end() {
    check(
        ask_server_that_writes(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<p>C6</p>").await,
        200,
        "<p>C6</p>",
    );
}

#[tokio::test]
async fn line_feeds_alone_will_do() {
    check(
        ask_server_that_writes(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nOK").await,
        200,
        "OK",
    );
}

#[tokio::test]
async fn a_bare_body_is_a_reply() {
    check(
        ask_server_that_writes(b"<html>login</html>").await,
        200,
        "<html>login</html>",
    );
}

#[tokio::test]
async fn a_space_before_the_colon_is_read_over() {
    check(
        ask_server_that_writes(b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nOK").await,
        200,
        "OK",
    );
}

#[tokio::test]
async fn a_garbage_header_line_is_read_over() {
    check(
        ask_server_that_writes(b"HTTP/1.1 200 OK\r\n\x01garbage\r\nContent-Length: 2\r\n\r\nOK").await,
        200,
        "OK",
    );
}

#[tokio::test]
async fn a_header_on_two_lines_is_read_over() {
    check(
        ask_server_that_writes(b"HTTP/1.1 200 OK\r\nX-Note: a\r\n  b\r\nContent-Length: 2\r\n\r\nOK").await,
        200,
        "OK",
    );
}

#[tokio::test]
async fn a_status_without_a_reason_phrase_is_a_status() {
    check(
        ask_server_that_writes(b"HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n").await,
        404,
        "",
    );
}

#[tokio::test]
async fn a_body_that_ends_early_is_cut_and_its_status_counts() {
    let reply = ask_server_that_writes(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nOK")
        .await
        .unwrap();
    assert_eq!(
        (reply.status, reply.text().as_str(), reply.cut),
        (200, "OK", true)
    );
}

#[tokio::test]
async fn a_reset_after_the_answer_does_not_matter() {
    let (addr, server) = serve(None, |mut stream| {
        read_head(&mut stream);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
            .unwrap();
        reset(stream);
    });
    check(get(addr, LIMITS).await, 200, "OK");
    server.join().unwrap();
}

#[tokio::test]
async fn an_early_401_is_seen_although_the_rest_was_refused() {
    let (addr, server) = serve(None, |mut stream| {
        stream.read_exact(&mut [0; 5000]).unwrap();
        stream
            .write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\nlogin")
            .unwrap();
        // Closing with bytes unread resets the connection.
    });
    let ask = Ask::post("/g1.html", "text/plain", vec![b'x'; 60_000]);
    let reply = http::ask(&loopback_dialer(), addr, "10.0.0.7", ask, LIMITS).await;
    check(reply, 401, "login");
    server.join().unwrap();
}

#[tokio::test]
async fn an_endless_head_is_cut() {
    let (addr, server) = serve(None, |mut stream| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
        write_until_refused(&mut stream, &b"X-More: and more and more and more\r\n".repeat(50));
    });
    let error = get(addr, LIMITS).await.unwrap_err();
    assert!(matches!(error, AskError::NotHttp { .. }), "{error}");
    server.join().unwrap();
}

#[tokio::test]
async fn an_endless_header_line_is_cut() {
    let (addr, server) = serve(None, |mut stream| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nX-More: ").unwrap();
        write_until_refused(&mut stream, &[b'x'; 4096]);
    });
    let error = get(addr, LIMITS).await.unwrap_err();
    assert!(matches!(error, AskError::NotHttp { .. }), "{error}");
    server.join().unwrap();
}

/// A body without end, after this head, in these pieces.
async fn check_endless_body(head: &'static [u8], piece: &'static [u8]) {
    let (addr, server) = serve(None, |mut stream| {
        read_head(&mut stream);
        stream.write_all(head).unwrap();
        write_until_refused(&mut stream, piece);
    });
    let reply = get(addr, LIMITS).await.unwrap();
    assert_eq!(
        (reply.status, reply.body.len(), reply.cut),
        (200, REPLY_MAX_BYTES, true)
    );
    server.join().unwrap();
}

#[tokio::test]
async fn a_body_of_ten_gigabytes_is_cut() {
    check_endless_body(
        b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n",
        &[b'x'; 4096],
    )
    .await;
}

#[tokio::test]
async fn an_endless_body_is_cut() {
    check_endless_body(b"HTTP/1.0 200 OK\r\n\r\n", &[b'x'; 4096]).await;
}

#[tokio::test]
async fn a_million_chunks_are_cut() {
    check_endless_body(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\nx\r\n",
    )
    .await;
}

#[tokio::test]
async fn a_body_of_exactly_the_bound_is_whole() {
    let (addr, server) = serve(None, |mut stream| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
        stream.write_all(&vec![b'x'; REPLY_MAX_BYTES]).unwrap();
    });
    let reply = get(addr, LIMITS).await.unwrap();
    assert_eq!((reply.body.len(), reply.cut), (REPLY_MAX_BYTES, false));
    server.join().unwrap();
}

const SHORT: Limits = Limits {
    connect: Duration::from_secs(2),
    total: Duration::from_millis(300),
};

/// Writes one byte in 20 ms until nobody listens any more.
fn trickle(stream: &mut TcpStream, bytes: &[u8]) {
    let since = Instant::now();
    for byte in bytes.iter().cycle() {
        if since.elapsed() > SOON || stream.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn a_trickling_head_ends_with_the_deadline() {
    let (addr, server) = serve(None, |mut stream| {
        read_head(&mut stream);
        trickle(&mut stream, b"HTTP/1.1 200 OK and so on");
    });
    let since = Instant::now();
    let error = get(addr, SHORT).await.unwrap_err();
    assert!(
        matches!(error, AskError::TimedOut { after, .. } if after == SHORT.total),
        "{error}"
    );
    assert!(since.elapsed() < SHORT.total + Duration::from_secs(1));
    server.join().unwrap();
}

#[tokio::test]
async fn a_trickling_body_ends_with_the_deadline_and_its_status_counts() {
    let (addr, server) = serve(None, |mut stream| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 503 Busy\r\n\r\n").unwrap();
        trickle(&mut stream, b"x");
    });
    let reply = get(addr, SHORT).await.unwrap();
    assert!(
        reply.cut && reply.status == 503 && !reply.body.is_empty(),
        "{reply:?}"
    );
    server.join().unwrap();
}

#[tokio::test]
async fn silence_ends_with_the_deadline() {
    let (listener, addr) = listener(None);
    let error = get(addr, SHORT).await.unwrap_err();
    assert!(matches!(error, AskError::TimedOut { .. }), "{error}");
    drop(listener);
}

#[tokio::test]
async fn closing_without_a_word_is_told_apart_from_a_reset() {
    let (addr, server) = serve(None, |mut stream| drop(read_head(&mut stream)));
    let error = get(addr, LIMITS).await.unwrap_err();
    assert!(matches!(error, AskError::Closed { .. }), "{error:?}");
    server.join().unwrap();

    let (addr, server) = serve(None, |mut stream| {
        read_head(&mut stream);
        reset(stream);
    });
    let error = get(addr, LIMITS).await.unwrap_err();
    assert!(
        matches!(&error, AskError::Io { source, .. } if source.kind() == std::io::ErrorKind::ConnectionReset),
        "{error:?}"
    );
    server.join().unwrap();
}

#[tokio::test]
async fn a_path_that_is_no_path_is_not_asked() {
    let ask = Ask::get("/a b\r\nX-Injected: 1");
    let error = http::ask(&loopback_dialer(), refusing().1, "h", ask, LIMITS)
        .await
        .unwrap_err();
    assert!(matches!(error, AskError::NotAsked { .. }), "{error}");
}

#[tokio::test]
async fn a_redirect_is_a_reply_and_is_not_followed() {
    let (elsewhere, location) = listener(None);
    elsewhere.set_nonblocking(true).unwrap();
    let (addr, server) = serve(None, move |mut stream| {
        read_head(&mut stream);
        write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: http://{location}/\r\nContent-Length: 0\r\n\r\n"
        )
        .unwrap();
    });
    check(get(addr, LIMITS).await, 302, "");
    server.join().unwrap();
    assert_eq!(
        elsewhere.accept().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
}

#[tokio::test]
async fn an_address_out_of_reach_is_not_asked() {
    let dialer = Dialer::new(Networks::private(), None);
    let error = http::ask(&dialer, refusing().1, "h", Ask::get("/"), LIMITS)
        .await
        .unwrap_err();
    assert!(
        matches!(error, AskError::Dial(DialError::NotAllowed { .. })),
        "{error}"
    );
}
