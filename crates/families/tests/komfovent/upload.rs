//! The upload as it stands on the wire.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![expect(
    clippy::disallowed_methods,
    reason = "this test is the server that reads every byte"
)]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

use families::Ways;
use model::family::{Method, Notes, Target};
use model::progress::Progress;
use net::{Dialer, Networks, Site};

use crate::bench::{NEW, Tally, image};

const PAGE: &str = "<form><input name=\"4\"></form><form><input name=\"11111\"></form><td id=\"st\">Status: Firmware uploaded successfully   </td>";

/// Answers this many requests with the page and returns them, byte for byte.
fn requests(listener: &TcpListener, n_requests: usize) -> Vec<Vec<u8>> {
    (0..n_requests)
        .map(|_| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !is_whole(&request) {
                let n_bytes = stream.read(&mut buffer).unwrap();
                assert!(n_bytes > 0, "the request ends early");
                request.extend_from_slice(&buffer[..n_bytes]);
            }
            let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{PAGE}", PAGE.len());
            stream.write_all(reply.as_bytes()).unwrap();
            request
        })
        .collect()
}

fn is_whole(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&request[..end]);
    let len = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .map_or(0, |len| len.parse().unwrap());
    request.len() >= end + 4 + len
}

#[tokio::test]
async fn the_upload_is_one_part_with_its_length_and_without_the_password() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || requests(&listener, 2));
    let site = Site {
        dialer: Arc::new(Dialer::new(Networks::only(Ipv4Addr::LOCALHOST.into()), None)),
        callback: None,
        pull: None,
    };
    let ways = Ways {
        http_port: port,
        ..Ways::default()
    };
    let families = families::all(&site, &ways);
    let family = families
        .iter()
        .find(|family| family.id().as_str() == "komfovent")
        .unwrap();
    let mut driver = family.open(Target {
        address: Ipv4Addr::LOCALHOST.into(),
        given_as: "unit".to_owned(),
        username: Some("canary".to_owned()),
        secret: Some("canary".into()),
        chip: None,
        notes: Notes::default(),
        answers: Arc::new(Tally::default()),
    });
    let image = image(NEW);
    let verdict = driver
        .push(&Method::new("http"), &image, &Progress::default())
        .await
        .unwrap();
    assert_eq!(verdict.text, "Status: Firmware uploaded successfully");

    let upload = server.join().unwrap().remove(1);
    let end = upload.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(upload[..end].to_vec()).unwrap();
    let body = &upload[end + 4..];
    let boundary = head.split_once("boundary=").unwrap().1.lines().next().unwrap();
    let expected_head = format!(
        "POST /g1.html HTTP/1.1\r\n\
         Host: 127.0.0.1:{port}\r\n\
         Content-Length: {}\r\n\
         Origin: http://127.0.0.1:{port}\r\n\
         Referer: http://127.0.0.1:{port}/g1.html\r\n\
         Content-Type: multipart/form-data; boundary={boundary}\r\n\
         Connection: close",
        body.len()
    );
    assert_eq!(head, expected_head);
    // The overhead of the captured upload, PROTOCOLS.md A3.
    assert_eq!(body.len(), image.bytes().len() + 218);
    let mut expected = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"11111\"; filename=\"{NEW}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    )
    .into_bytes();
    expected.extend_from_slice(image.bytes());
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert!(body == expected, "the body is not the captured form");
    assert!(!String::from_utf8_lossy(&upload).contains("canary"));
}
