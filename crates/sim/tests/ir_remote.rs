//! The simulated IR Remote Mini against a client written from the protocol text alone.
#![expect(
    clippy::disallowed_methods,
    reason = "this client stands for foreign programs and opens its own sockets"
)]
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: a failure here is a failed test"
)]

mod client;

use std::{
    collections::HashSet,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use client::{Host, PASSWORD, http, image, invite_and_push, md5_hex, push, upload};
use sim::{
    EventKind, EventSink,
    ir_remote::{self, Auth, Config, Device, Fault},
};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(10);

/// A quick device with these faults.
fn config(faults: &[&str]) -> Config {
    Config {
        boot: Duration::from_millis(200),
        faults: faults.iter().map(|text| Fault::parse(text).unwrap()).collect(),
        ..Config::new(Ipv4Addr::LOCALHOST)
    }
}

async fn device(faults: &[&str]) -> (Device, EventSink) {
    started(config(faults)).await
}

async fn started(config: Config) -> (Device, EventSink) {
    let events = EventSink::new();
    (ir_remote::start(config, events.clone()).await.unwrap(), events)
}

async fn wait(events: &EventSink, device: &Device, kind: EventKind) -> sim::Event {
    let name = device.name();
    match events.wait_for(|event| event.is(kind, &name), SOON).await {
        Some(event) => event,
        None => panic!("no {kind:?} in {:#?}", events.log()),
    }
}

// ---- Authentication

#[tokio::test]
async fn each_kind_of_authentication_lets_the_right_password_in() {
    for (auth, nonce_len) in [(Auth::Md5, 32), (Auth::Pbkdf2, 64), (Auth::Pbkdf2Md5, 64)] {
        let (device, events) = started(Config { auth, ..config(&[]) }).await;
        let host = Host::open(&device).await;
        let nonce = host
            .invite(&image(13))
            .await
            .strip_prefix("AUTH ")
            .unwrap()
            .to_owned();
        assert_eq!(nonce.len(), nonce_len);
        assert!(
            nonce
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        );
        assert_eq!(
            host.authenticate(&nonce, PASSWORD, auth == Auth::Pbkdf2Md5).await,
            "OK"
        );
        let reply = push(host.accept().await, &image(13)).await;
        assert_eq!(reply, "432OK", "{auth:?}");
        wait(&events, &device, EventKind::Up).await;
        assert_eq!(device.running().version, "1.2.3");
    }
}

#[tokio::test]
async fn without_a_password_the_invitation_itself_is_answered_ok() {
    for config in [
        Config {
            auth: Auth::None,
            ..config(&[])
        },
        Config {
            password: None,
            ..config(&[])
        },
    ] {
        let (device, _events) = started(config).await;
        let host = Host::open(&device).await;
        assert_eq!(host.invite(&image(13)).await, "OK");
        assert_eq!(push(host.accept().await, &image(13)).await, "432OK");
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_and_the_next_invitation_is_answered() {
    for auth in [Auth::Md5, Auth::Pbkdf2] {
        let (device, _events) = started(Config { auth, ..config(&[]) }).await;
        let host = Host::open(&device).await;
        let nonce = host.nonce(&image(13)).await;
        assert_eq!(
            host.authenticate(&nonce, "guess", false).await,
            "Authentication Failed"
        );
        let second = host.nonce(&image(13)).await;
        assert_ne!(nonce, second);
        assert_eq!((device.counters().answers, device.counters().rejected), (1, 1));
    }
}

#[tokio::test]
async fn the_two_pbkdf2_forms_do_not_take_each_others_answers() {
    let (device, _events) = started(Config {
        auth: Auth::Pbkdf2Md5,
        ..config(&[])
    })
    .await;
    let host = Host::open(&device).await;
    let nonce = host.nonce(&image(13)).await;
    assert_eq!(
        host.authenticate(&nonce, PASSWORD, false).await,
        "Authentication Failed"
    );
}

#[tokio::test]
async fn an_answer_of_wrong_length_gets_silence_and_ends_the_handshake() {
    let (device, _events) = device(&[]).await;
    let host = Host::open(&device).await;
    host.nonce(&image(13)).await;
    host.send(b"200 abc def\n").await;
    host.hears_nothing().await;
    host.nonce(&image(13)).await;
}

#[tokio::test]
async fn the_answer_may_come_from_another_port() {
    let (device, _events) = device(&[]).await;
    let host = Host::open(&device).await;
    let nonce = host.nonce(&image(13)).await;
    let other = host.socket_at(Ipv4Addr::LOCALHOST).await;
    assert_eq!(other.authenticate(&nonce, PASSWORD, false).await, "OK");
    assert_eq!(push(host.accept().await, &image(13)).await, "432OK");
}

#[tokio::test]
async fn the_call_back_goes_to_the_source_of_the_last_packet() {
    let (device, _events) = device(&[]).await;
    let host = Host::open(&device).await;
    let nonce = host.nonce(&image(13)).await;
    let stranger = host.socket_at(Ipv4Addr::new(127, 0, 0, 2)).await;
    assert_eq!(stranger.authenticate(&nonce, PASSWORD, false).await, "OK");
    assert!(!host.is_called_back(Duration::from_millis(300)).await);
    assert_eq!((device.counters().strangers, device.counters().connected), (1, 0));
}

// ---- The state of the OTA port

#[tokio::test]
async fn an_invitation_after_an_abandoned_handshake_is_swallowed_and_the_next_one_answered() {
    let (device, events) = device(&[]).await;
    let host = Host::open(&device).await;
    host.nonce(&image(13)).await;
    host.send(&host.invitation(&image(13))).await;
    host.hears_nothing().await;
    host.nonce(&image(13)).await;
    let swallowed = |event: &sim::Event| event.get("swallowed") == Some(&true.into());
    assert_eq!(events.count(swallowed), 1);
    assert_eq!(device.counters().invitations, 3);
}

#[tokio::test]
async fn an_empty_datagram_leaves_the_handshake_open() {
    let (device, _events) = device(&[]).await;
    let host = Host::open(&device).await;
    let nonce = host.nonce(&image(13)).await;
    host.send(b"").await;
    assert_eq!(host.authenticate(&nonce, PASSWORD, false).await, "OK");
}

#[tokio::test]
async fn what_is_no_invitation_is_ignored() {
    let (device, _events) = device(&[]).await;
    let host = Host::open(&device).await;
    let md5 = "0".repeat(32);
    for text in [
        format!("7 4000 100 {md5}\n"),
        "0 4000 100 abc\n".to_owned(),
        "hello".to_owned(),
        " ".to_owned(),
    ] {
        host.send(text.as_bytes()).await;
        host.hears_nothing().await;
    }
    host.send(format!("  0  4000 100 {md5}").as_bytes()).await;
    assert!(host.hear().await.starts_with("AUTH "));
}

#[tokio::test]
async fn invitations_queue_up_while_ota_is_off_and_stale_ones_are_answered_afterwards() {
    let (device, _events) = device(&["ota-off"]).await;
    let host = Host::open(&device).await;
    for _ in 0..3 {
        host.send(&host.invitation(&image(13))).await;
    }
    host.hears_nothing().await;
    assert!(
        http(&device, "GET", "/api/status")
            .await
            .unwrap()
            .contains(r#""otaEnabled":false"#)
    );
    let answer = http(&device, "POST", "/api/ota/enable").await.unwrap();
    assert!(
        answer.ends_with(r#"{"status":"success","message":"OTA updates enabled","otaEnabled":true}"#),
        "{answer}"
    );
    // The first and the third are answered, the second is swallowed.
    assert!(host.hear().await.starts_with("AUTH "));
    assert!(host.hear().await.starts_with("AUTH "));
    host.hears_nothing().await;
}

// ---- The slot

#[tokio::test]
async fn one_byte_more_than_the_slot_is_accepted_and_then_there_is_silence() {
    let (device, _events) = device(&[]).await;
    for (len, fits) in [(1_310_720, true), (1_310_721, false), (0, false)] {
        let host = Host::open(&device).await;
        host.send(format!("0 {} {len} {}\n", host.port(), "a".repeat(32)).as_bytes())
            .await;
        let nonce = host.hear().await.strip_prefix("AUTH ").unwrap().to_owned();
        assert_eq!(host.authenticate(&nonce, PASSWORD, false).await, "OK");
        assert_eq!(
            host.is_called_back(Duration::from_millis(300)).await,
            fits,
            "{len}"
        );
    }
}

// ---- The transfer

#[tokio::test]
async fn a_push_is_reported_event_by_event_and_the_new_image_runs_after_a_restart() {
    let (device, events) = device(&[]).await;
    assert_eq!(invite_and_push(&device, &image(13)).await, "432OK");
    wait(&events, &device, EventKind::Up).await;
    let kinds: Vec<_> = events.log().iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "ready",
            "invited",
            "auth",
            "receiving",
            "received",
            "rebooting",
            "up"
        ]
    );
    let received = wait(&events, &device, EventKind::Received).await;
    assert_eq!(received.number("len_bytes"), Some(432));
    assert_eq!(received.text("method"), Some("espota"));
    let sha256 = received.text("sha256").unwrap().to_owned();
    assert!(sha256.starts_with("f03d9787"), "{sha256}");
    let running = device.running();
    assert_eq!(running.sha256, Some(sha256));
    assert_eq!(running.version, "1.2.3");
    assert!(running.uptime_s < 5, "{running:?}");
}

#[tokio::test]
async fn lock_step_and_streaming_ahead_both_end_in_ok() {
    let image = client::big_image(50_000);
    let (device, events) = device(&[]).await;
    let host = Host::open(&device).await;
    let stream = host.enter(&image).await;
    let reply = client::push_in_lock_step(stream, &image).await;
    assert_eq!(reply, format!("{}OK", "1024".repeat(48) + "848"));
    wait(&events, &device, EventKind::Up).await;
    let reply = invite_and_push(&device, &image).await;
    let counts = reply.strip_suffix("OK").unwrap();
    assert!(counts.bytes().all(|byte| byte.is_ascii_digit()), "{reply}");
}

#[tokio::test]
async fn the_kernel_does_not_take_what_the_device_has_not_read() {
    let config = Config {
        rate_bytes_per_s: Some(50_000),
        ..config(&[])
    };
    let (device, _events) = started(config).await;
    let image = client::big_image(100_000);
    let start = Instant::now();
    let host = Host::open(&device).await;
    let stream = host.enter(&image).await;
    let n_queued = client::queued_after(&stream, &image, Duration::from_millis(400)).await;
    assert!(n_queued > 40_000, "only {n_queued} bytes wait at the host");
    assert!(push(stream, &[]).await.ends_with("OK"));
    assert!(
        start.elapsed() > Duration::from_millis(1800),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn closing_one_side_before_the_verdict_aborts() {
    let (device, events) = device(&[]).await;
    let image = client::big_image(50_000);
    let stream = Host::open(&device).await.enter(&image).await;
    let reply = client::push_and_half_close(stream, &image).await;
    assert!(!reply.ends_with("OK"), "{reply}");
    assert_eq!(device.counters().flashed, 0);
    assert_eq!(events.count(|event| event.kind == EventKind::Rebooting), 0);
}

#[tokio::test]
async fn a_wrong_md5_is_told_at_the_end_and_nothing_restarts() {
    let (device, events) = device(&[]).await;
    let image = image(13);
    let host = Host::open(&device).await;
    host.send(format!("0 {} {} {}\n", host.port(), image.len(), md5_hex(b"other")).as_bytes())
        .await;
    let nonce = host.hear().await.strip_prefix("AUTH ").unwrap().to_owned();
    assert_eq!(host.authenticate(&nonce, PASSWORD, false).await, "OK");
    assert_eq!(push(host.accept().await, &image).await, "432MD5 Check Failed\r\n");
    assert_eq!(
        wait(&events, &device, EventKind::Received).await.text("reply"),
        Some("MD5 Check Failed")
    );
    assert!(
        invite_and_push(&device, &image).await.ends_with("OK"),
        "no restart: the next one works at once"
    );
    assert_eq!(device.counters().flashed, 1);
}

#[tokio::test]
async fn an_image_for_another_chip_is_refused_once_it_is_complete() {
    let (device, _events) = device(&[]).await;
    assert_eq!(
        invite_and_push(&device, &image(0)).await,
        "432Could Not Activate The Firmware\r\n"
    );
    assert_eq!(device.running().sha256, None);
    let (device, _events) = started(Config {
        chip: "esp32".parse().unwrap(),
        ..config(&[])
    })
    .await;
    assert_eq!(invite_and_push(&device, &image(0)).await, "432OK");
}

#[tokio::test]
async fn a_broken_image_is_refused_once_it_is_complete() {
    let (device, _events) = device(&[]).await;
    let mut image = image(13);
    image[100] ^= 1;
    assert!(
        invite_and_push(&device, &image)
            .await
            .ends_with("Could Not Activate The Firmware\r\n")
    );
}

#[tokio::test]
async fn a_first_byte_that_is_none_of_an_image_is_refused_with_the_first_buffer() {
    let (device, _events) = device(&[]).await;
    let text = vec![b'<'; 20_000];
    let stream = Host::open(&device).await.enter(&text).await;
    assert_eq!(
        client::push_in_lock_step(stream, &text).await,
        "1024102410241024Decryption error\r\n"
    );
    assert_eq!(device.counters().received, 0);
}

#[tokio::test]
async fn a_host_that_says_nothing_is_dropped_after_a_second() {
    let (device, _events) = device(&[]).await;
    let start = Instant::now();
    let stream = Host::open(&device).await.enter(&image(13)).await;
    assert_eq!(push(stream, &[]).await, "");
    assert!(
        (1.0..2.0).contains(&start.elapsed().as_secs_f64()),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_host_that_pauses_hears_the_last_count_three_times_and_is_dropped() {
    let (device, _events) = device(&[]).await;
    let image = client::big_image(5000);
    let start = Instant::now();
    let stream = Host::open(&device).await.enter(&image).await;
    assert_eq!(push(stream, &image[..1000]).await, "1000".repeat(4));
    assert!(
        (4.0..5.0).contains(&start.elapsed().as_secs_f64()),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_byte_too_many_never_ends_in_ok() {
    let (device, _events) = device(&[]).await;
    let mut image = client::big_image(1400);
    let stream = Host::open(&device).await.enter(&image).await;
    image.push(0);
    assert_eq!(push(stream, &image).await, "");
    assert_eq!(device.counters().received, 0);
}

#[tokio::test]
async fn a_file_system_needs_no_image_header_and_leaves_the_firmware_as_it_is() {
    let (device, events) = device(&[]).await;
    let bytes = vec![0x42; 9000];
    let host = Host::open(&device).await;
    host.send(format!("100 {} {} {}\n", host.port(), bytes.len(), md5_hex(&bytes)).as_bytes())
        .await;
    let nonce = host.hear().await.strip_prefix("AUTH ").unwrap().to_owned();
    assert_eq!(host.authenticate(&nonce, PASSWORD, false).await, "OK");
    assert!(push(host.accept().await, &bytes).await.ends_with("OK"));
    wait(&events, &device, EventKind::Up).await;
    assert_eq!(
        (device.running().sha256, device.running().version.as_str()),
        (None, "1.0")
    );
}

#[tokio::test]
async fn the_web_server_does_not_answer_during_a_transfer_and_refuses_during_a_restart() {
    let (device, events) = device(&[]).await;
    let image = client::big_image(5000);
    let stream = Host::open(&device).await.enter(&image).await;
    let mut requests = JoinSet::new();
    let (ip, port) = (device.ip(), device.http_port());
    requests.spawn(async move { client::http_at(ip, port, "GET", "/api/status").await });
    let during = tokio::time::timeout(Duration::from_millis(300), requests.join_next()).await;
    assert!(during.is_err(), "answered during a transfer: {during:?}");
    assert!(push(stream, &image).await.ends_with("OK"));
    wait(&events, &device, EventKind::Rebooting).await;
    let refused = http(&device, "GET", "/api/status").await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    wait(&events, &device, EventKind::Up).await;
    assert!(
        http(&device, "GET", "/api/status")
            .await
            .unwrap()
            .contains(r#""uptime":"0s""#)
    );
}

// ---- Labels

#[tokio::test]
async fn the_label_after_a_flash_is_the_configured_one_else_the_images_own_else_the_old_one() {
    let (device, events) = started(Config {
        version_after: Some("7.7".to_owned()),
        ..config(&[])
    })
    .await;
    assert!(invite_and_push(&device, &image(13)).await.ends_with("OK"));
    wait(&events, &device, EventKind::Up).await;
    assert_eq!(device.running().version, "7.7");
    device.set_version_after(None);
    let mark = events.mark();
    assert!(
        invite_and_push(&device, &client::big_image(5000))
            .await
            .ends_with("OK")
    );
    events
        .wait_after(mark, |event| event.kind == EventKind::Up, SOON)
        .await
        .unwrap();
    assert_eq!(
        device.running().version,
        "7.7",
        "the image states no version of its own"
    );
    let mark = events.mark();
    assert!(invite_and_push(&device, &image(13)).await.ends_with("OK"));
    events
        .wait_after(mark, |event| event.kind == EventKind::Up, SOON)
        .await
        .unwrap();
    assert_eq!(device.running().version, "1.2.3");
}

// ---- HTTP

#[tokio::test]
async fn the_status_pages_have_the_keys_in_the_order_of_the_real_ones() {
    let config = Config {
        mac: Some("A0:B1:C2:D3:E4:F5".parse().unwrap()),
        ..config(&[])
    };
    let (device, _events) = started(config).await;
    let body = |answer: String| answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    let status = body(http(&device, "GET", "/api/status").await.unwrap());
    assert_eq!(
        status,
        concat!(
            r#"{"lastButton":"None","lastTime":"Never","uptime":"4711s","wifiConnected":true,"mqttConnected":false,"#,
            r#""mqttEnabled":true,"mqttGivenUp":false,"mqttFailedAttempts":0,"mqttMaxAttempts":5,"mqttConnectedOnce":false,"#,
            r#""lastMQTTAttempt":12,"freeHeap":251234,"ipAddress":"127.0.0.1","mqttClientId":"IRReceiver_Mini_d3c2b1a0","#,
            r#""deviceType":"mini","buttonCount":"4 / 100","macAddress":"A0:B1:C2:D3:E4:F5","chipId":"d3c2b1a0","#,
            r#""hostname":"IR-Remote-Mini","firmwareVersion":"1.0","otaEnabled":true,"otaInProgress":false,"#,
            r#""otaStatus":"idle","otaProgress":0,"mqttNeedsSetup":false,"history":[]}"#
        )
    );
    let ota = body(http(&device, "GET", "/api/ota/status").await.unwrap());
    let value: serde_json::Value = serde_json::from_str(&ota).unwrap();
    assert_eq!(value["uptime"], 4711);
    assert_eq!(value["otaPassword"], PASSWORD, "the real one shows it too");
    let mut at = 0;
    for key in [
        "otaEnabled",
        "otaInProgress",
        "hostname",
        "firmwareVersion",
        "deviceType",
        "macAddress",
        "chipId",
        "chipModel",
        "chipRevision",
        "cpuFreq",
        "freeHeap",
        "totalHeap",
        "flashSize",
        "flashSpeed",
        "ipAddress",
        "rssi",
        "ssid",
        "uptime",
        "lastRestart",
        "otaPort",
        "otaPassword",
    ] {
        let found = ota[at..].find(&format!("\"{key}\":"));
        at += found.unwrap_or_else(|| panic!("{key} is missing or out of order in {ota}"));
    }
    let progress = body(http(&device, "GET", "/api/ota/progress").await.unwrap());
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&progress).unwrap()["otaStatus"],
        "idle"
    );
}

#[tokio::test]
async fn ota_start_says_each_of_its_errors() {
    let (device, _events) = device(&[]).await;
    for (body, off, expected) in [
        (
            "",
            false,
            r#"{"status":"error","message":"No JSON data received"}"#,
        ),
        ("{", false, r#"{"status":"error","message":"Invalid JSON"}"#),
        ("{}", true, r#"{"status":"error","message":"OTA is disabled"}"#),
    ] {
        device.set_ota_enabled(!off);
        let answer = client::http_with(
            &device,
            "POST",
            "/api/ota/start",
            body.as_bytes(),
            "application/json",
        )
        .await;
        let answer = answer.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.ends_with(expected), "{answer}");
    }
    device.set_ota_enabled(true);
    let answer = client::http_with(&device, "POST", "/api/ota/start", b"{}", "application/json")
        .await
        .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains(r#""otaReady":true"#),
        "{answer}"
    );
}

#[tokio::test]
async fn unknown_routes_and_wrong_methods_are_not_found() {
    let (device, _events) = device(&[]).await;
    for (method, path) in [
        ("GET", "/api/nothing"),
        ("GET", "/api/ota/enable"),
        ("POST", "/api/ota/status"),
    ] {
        let answer = http(&device, method, path).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404 "), "{method} {path}: {answer}");
    }
}

#[tokio::test]
async fn an_upload_works_with_ota_off_and_restarts_with_the_new_image() {
    let (device, events) = device(&["ota-off"]).await;
    let answer = upload(&device, &image(13)).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nOK"),
        "{answer}"
    );
    assert!(answer.contains("Connection: close"));
    wait(&events, &device, EventKind::Up).await;
    assert_eq!(
        wait(&events, &device, EventKind::Received).await.text("method"),
        Some("http")
    );
    assert_eq!(device.running().version, "1.2.3");
    assert!(!device.running().ota_enabled);
}

#[tokio::test]
async fn a_refused_upload_says_fail_with_status_200_and_restarts_with_the_old_image() {
    let text = vec![b'<'; 9000];
    for (faults, file) in [(&[][..], image(0)), (&[], text), (&["http-fail"], image(13))] {
        let (device, events) = device(faults).await;
        let answer = upload(&device, &file).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nFAIL"),
            "{answer}"
        );
        wait(&events, &device, EventKind::Up).await;
        assert_eq!(
            (device.running().sha256, device.running().version.as_str()),
            (None, "1.0")
        );
    }
}

#[tokio::test]
async fn a_restart_on_request_keeps_everything_but_the_uptime() {
    let (device, events) = device(&[]).await;
    device.set_ota_enabled(false);
    assert!(
        http(&device, "POST", "/api/restart")
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200 ")
    );
    wait(&events, &device, EventKind::Up).await;
    let running = device.running();
    assert!(running.ota_enabled, "the flag lives in RAM");
    assert!(running.uptime_s < 5 && running.version == "1.0");
}

// ---- Faults

/// What one push hears at a device with `fault`, and how the device is afterwards.
async fn push_at(fault: &str) -> (Device, EventSink, String) {
    let (device, events) = device(&[fault]).await;
    let reply = invite_and_push(&device, &client::big_image(20_000)).await;
    (device, events, reply)
}

#[tokio::test]
async fn faults_of_the_verdict_do_what_they_say() {
    for (fault, says_ok, flashes, restarts) in [
        ("md5-check-failed", false, false, false),
        ("error-text=Flash Erase Failed", false, false, false),
        ("ok-in-error-text", false, false, false),
        ("ok-lost", false, true, true),
        ("ok-lost-no-flash", false, false, false),
        ("ok-no-reboot", true, false, false),
        ("keeps-old", true, false, true),
        ("label-unchanged", true, true, true),
        ("split-acks", true, true, true),
        ("glued-acks", true, true, true),
        ("slow=200000", true, true, true),
    ] {
        let (device, events, reply) = push_at(fault).await;
        let anchored = reply
            .strip_suffix("OK")
            .is_some_and(|counts| counts.bytes().all(|byte| byte.is_ascii_digit()));
        assert_eq!(anchored, says_ok, "{fault}: {reply:?}");
        if restarts {
            wait(&events, &device, EventKind::Up).await;
        } else {
            // It still answers, without a restart.
            assert!(
                http(&device, "GET", "/api/status")
                    .await
                    .unwrap()
                    .contains(r#""uptime":"471"#),
                "{fault}"
            );
        }
        assert_eq!(device.running().sha256.is_some(), flashes, "{fault}");
        assert_eq!(
            events.count(|event| event.kind == EventKind::Rebooting),
            usize::from(restarts),
            "{fault}"
        );
        assert!(
            events.count(|event| event.kind == EventKind::Fault) >= usize::from(fault != "label-unchanged"),
            "{fault}"
        );
    }
}

#[tokio::test]
async fn label_faults_show_in_the_status_after_a_flash() {
    for (fault, version) in [("label-unchanged", "1.0"), ("other-version=0.3", "0.3")] {
        let (device, events) = started(Config {
            version_after: Some("2.0".to_owned()),
            ..config(&[fault])
        })
        .await;
        assert!(invite_and_push(&device, &image(13)).await.ends_with("OK"));
        wait(&events, &device, EventKind::Up).await;
        let status = http(&device, "GET", "/api/status").await.unwrap();
        assert!(
            status.contains(&format!(r#""firmwareVersion":"{version}""#)),
            "{fault}: {status}"
        );
    }
}

#[tokio::test]
async fn faults_within_the_image_cut_it_and_leave_the_old_one() {
    for (fault, again_ok) in [
        ("drop-after=10000", false),
        ("drop-once-after=10000", true),
        ("stall-once-at=10000", true),
        ("early-error=10000", false),
        ("reboot-at=10000", false),
        ("drop-after=0", false),
    ] {
        let (device, events, reply) = push_at(fault).await;
        assert!(!reply.ends_with("OK"), "{fault}: {reply}");
        assert_eq!(device.counters().received, 0, "{fault}");
        if fault.starts_with("reboot") {
            wait(&events, &device, EventKind::Up).await;
        }
        let again = invite_and_push(&device, &image(13)).await;
        assert_eq!(
            again.ends_with("OK"),
            again_ok || !fault.ends_with("=0"),
            "{fault}: a short image passes below it"
        );
        if again_ok {
            wait(&events, &device, EventKind::Up).await;
            assert!(
                invite_and_push(&device, &client::big_image(20_000))
                    .await
                    .ends_with("OK"),
                "{fault}"
            );
        }
    }
}

#[tokio::test]
async fn faults_of_the_handshake_do_what_they_say() {
    let (silent, _events) = device(&["silent"]).await;
    let host = Host::open(&silent).await;
    host.send(&host.invitation(&image(13))).await;
    host.hears_nothing().await;
    assert!(
        http(&silent, "GET", "/api/status")
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200 ")
    );

    let (dead, _events) = device(&["dead"]).await;
    let host = Host::open(&dead).await;
    host.send(&host.invitation(&image(13))).await;
    host.hears_nothing().await;
    http(&dead, "GET", "/api/status").await.unwrap_err();

    let (plain, _events) = device(&["no-status-api"]).await;
    http(&plain, "GET", "/api/status").await.unwrap_err();
    assert!(invite_and_push(&plain, &image(13)).await.ends_with("OK"));

    let (wrong, _events) = device(&["wrong-password"]).await;
    let host = Host::open(&wrong).await;
    let nonce = host.nonce(&image(13)).await;
    assert_eq!(
        host.authenticate(&nonce, PASSWORD, false).await,
        "Authentication Failed"
    );

    let (stuck, _events) = device(&["swallowed-invitation"]).await;
    let host = Host::open(&stuck).await;
    host.send(&host.invitation(&image(13))).await;
    host.hears_nothing().await;
    host.nonce(&image(13)).await;

    let (odd, _events) = device(&["bad-nonce=33"]).await;
    assert_eq!(Host::open(&odd).await.nonce(&image(13)).await.len(), 33);

    for fault in ["no-call-back", "slot-too-small"] {
        let (device, _events) = device(&[fault]).await;
        let host = Host::open(&device).await;
        let nonce = host.nonce(&image(13)).await;
        assert_eq!(host.authenticate(&nonce, PASSWORD, false).await, "OK");
        assert!(!host.is_called_back(Duration::from_millis(300)).await, "{fault}");
    }
}

#[tokio::test]
async fn faults_of_the_network_lose_the_datagram_they_name() {
    let (device, _events) = device(&["drop-udp=1", "drop-answer=2"]).await;
    let host = Host::open(&device).await;
    host.send(&host.invitation(&image(13))).await;
    host.hears_nothing().await;
    let nonce = host.nonce(&image(13)).await;
    host.send(&client::answer(&nonce, PASSWORD, false)).await;
    host.hears_nothing().await;
    assert!(
        push(host.accept().await, &image(13)).await.ends_with("OK"),
        "accepted, though its OK was lost"
    );
    assert_eq!(device.counters().invitations, 1);

    let (device, _events) = self::device(&["lost-auth-ok", "slow-auth=0.3"]).await;
    let host = Host::open(&device).await;
    let nonce = host.nonce(&image(13)).await;
    let start = Instant::now();
    host.send(&client::answer(&nonce, PASSWORD, false)).await;
    assert!(push(host.accept().await, &image(13)).await.ends_with("OK"));
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_downgrade_shows_64_digits_first_and_32_ever_after() {
    for auth in [Auth::Md5, Auth::Pbkdf2] {
        let (device, _events) = started(Config {
            auth,
            ..config(&["downgrade-nonce"])
        })
        .await;
        let host = Host::open(&device).await;
        let first = host.nonce(&image(13)).await;
        assert_eq!(
            host.authenticate(&first, "guess", false).await,
            "Authentication Failed"
        );
        assert_eq!((first.len(), host.nonce(&image(13)).await.len()), (64, 32));
    }
}

#[tokio::test]
async fn a_device_that_never_returns_stays_silent_until_it_is_switched_off_and_on() {
    let (device, events, reply) = push_at("never-returns").await;
    assert!(reply.ends_with("OK"));
    wait(&events, &device, EventKind::Fault).await;
    http(&device, "GET", "/api/status").await.unwrap_err();
    assert_eq!(events.count(|event| event.kind == EventKind::Up), 0);
    device.power_cycle();
    wait(&events, &device, EventKind::Up).await;
    assert!(device.running().sha256.is_some());
}

#[tokio::test]
async fn crashing_images_restart_once_or_for_ever() {
    let (ever, ever_events, _) = push_at("returns-but-crashes").await;
    let (once, once_events, _) = push_at("crashes-once").await;
    let mut n_up = 0;
    let third = |event: &sim::Event| {
        n_up += usize::from(event.is(EventKind::Up, &ever.name()));
        n_up == 3
    };
    ever_events
        .wait_for(third, SOON)
        .await
        .expect("it restarts again and again");
    let crashes = |event: &sim::Event| event.text("reason") == Some("crash");
    assert_eq!(once_events.count(crashes), 1);
    assert_eq!(once.counters().restarts, 2);
}

#[tokio::test]
async fn another_device_may_return_at_the_address() {
    let (device, events, _) = push_at("other-device-returns").await;
    wait(&events, &device, EventKind::Up).await;
    let status = http(&device, "GET", "/api/status").await.unwrap();
    assert!(!status.contains(&device.mac().to_string()), "{status}");
    assert!(status.contains(r#""uptime":"9000"#), "{status}");
}

#[tokio::test]
async fn ota_can_refuse_to_be_switched_on_in_two_ways() {
    for (fault, status) in [("ota-stays-off", "200"), ("ota-stays-off=error", "500")] {
        let (device, _events) = device(&[fault]).await;
        let answer = http(&device, "POST", "/api/ota/enable").await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(
            http(&device, "GET", "/api/status")
                .await
                .unwrap()
                .contains(r#""otaEnabled":false"#)
        );
    }
}

#[tokio::test]
async fn http_faults_reset_or_answer_early() {
    let (device, events) = device(&["http-reset"]).await;
    upload(&device, &client::big_image(20_000)).await.unwrap_err();
    wait(&events, &device, EventKind::Up).await;
    assert!(device.running().sha256.is_some());

    for status in [413, 500] {
        let (device, _events) = self::device(&[&format!("http-early-error={status}")]).await;
        let answer = upload(&device, &client::big_image(200_000)).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!((device.counters().received, device.counters().restarts), (0, 0));
    }

    let (device, _events) = self::device(&["drop-after=10000"]).await;
    upload(&device, &client::big_image(200_000)).await.unwrap_err();
    assert_eq!((device.counters().receiving, device.counters().received), (1, 0));
}

#[tokio::test]
async fn nonsense_comes_in_place_of_the_status() {
    for (kind, len) in [("binary", 256), ("empty", 0), ("huge", 16 << 20)] {
        let (device, _events) = device(&[&format!("nonsense-status={kind}")]).await;
        let answer = client::http_bytes(&device, "GET", "/api/status").await.unwrap();
        let body = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        assert_eq!(answer.len() - body, len, "{kind}");
    }
    for (kind, part) in [("types", r#""firmwareVersion":{"#), ("html", "<!DOCTYPE html>")] {
        let (device, _events) = device(&[&format!("nonsense-status={kind}")]).await;
        assert!(
            http(&device, "GET", "/api/ota/status")
                .await
                .unwrap()
                .contains(part),
            "{kind}"
        );
    }
    let (device, _events) = device(&["nonsense-status=endless"]).await;
    assert!(client::at_least(&device, "/api/status", 1 << 20).await);
}

#[tokio::test]
async fn a_device_can_die_and_revive_while_it_runs() {
    let (device, events) = device(&[]).await;
    device.set_faults(vec![Fault::Dead]);
    wait(&events, &device, EventKind::Fault).await;
    let host = Host::open(&device).await;
    host.send(&host.invitation(&image(13))).await;
    host.hears_nothing().await;
    device.set_faults(vec![]);
    wait(&events, &device, EventKind::Up).await;
    assert!(
        http(&device, "GET", "/api/status")
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200 ")
    );
    host.hears_nothing().await;
    // What was sent to a dead device reached nobody: no handshake is open, this invitation is the first.
    host.nonce(&image(13)).await;
    assert_eq!(device.counters().invitations, 1);
}

#[tokio::test]
async fn an_invitation_during_a_restart_reaches_nobody() {
    let (device, events) = device(&[]).await;
    device.power_cycle();
    wait(&events, &device, EventKind::Rebooting).await;
    let host = Host::open(&device).await;
    host.send(&host.invitation(&image(13))).await;
    wait(&events, &device, EventKind::Up).await;
    host.hears_nothing().await;
    host.nonce(&image(13)).await;
    assert_eq!(device.counters().invitations, 1);
}

#[tokio::test]
async fn reports_can_lie_about_chip_id_and_uptime() {
    let faults = config(&["duplicate-chip-id", "uptime-frozen"]);
    let events = EventSink::new();
    for device in ir_remote::start_many(faults, 2, events.clone()).await.unwrap() {
        device.power_cycle();
        wait(&events, &device, EventKind::Up).await;
        let status = http(&device, "GET", "/api/status").await.unwrap();
        assert!(status.contains(r#""chipId":"d3c2b1a0""#), "{status}");
        assert!(status.contains(r#""uptime":"4711s""#), "{status}");
    }
    let honest = ir_remote::start_many(config(&[]), 2, events).await.unwrap();
    let mut ids = HashSet::new();
    for device in &honest {
        let status = http(device, "GET", "/api/status").await.unwrap();
        ids.insert(status.split_once(r#""chipId":"#).unwrap().1[..10].to_owned());
    }
    assert_eq!(ids.len(), 2);
}

// ---- Many

#[tokio::test]
async fn a_hundred_devices_are_updated_at_once_from_their_own_addresses() {
    let events = EventSink::new();
    let devices = ir_remote::start_many(config(&[]), 100, events.clone())
        .await
        .unwrap();
    let macs: HashSet<_> = devices.iter().map(Device::mac).collect();
    let ips: HashSet<_> = devices.iter().map(Device::ip).collect();
    let ports: HashSet<_> = devices
        .iter()
        .map(|device| (device.ota_port(), device.http_port()))
        .collect();
    assert_eq!((macs.len(), ips.len(), ports.len()), (100, 100, 1));
    let mut pushes = JoinSet::new();
    for device in &devices {
        let (ip, port) = (device.ip(), device.ota_port());
        // `Host::accept` checks that the call-back comes from the device's own address.
        pushes.spawn(async move {
            let image = image(13);
            let host = Host::open_at(ip, port).await;
            let stream = host.enter(&image).await;
            push(stream, &image).await
        });
    }
    while let Some(reply) = pushes.join_next().await {
        assert_eq!(reply.unwrap(), "432OK");
    }
    let mut n_up = 0;
    let last = |event: &sim::Event| {
        n_up += usize::from(event.kind == EventKind::Up);
        n_up == 100
    };
    events
        .wait_for(last, Duration::from_secs(30))
        .await
        .expect("all come back");
    assert!(devices.iter().all(|device| device.running().version == "1.2.3"));
}

#[tokio::test]
async fn dropping_a_device_frees_its_ports() {
    let (device, _events) = device(&[]).await;
    let config = Config {
        ota_port: device.ota_port(),
        http_port: device.http_port(),
        ..config(&[])
    };
    assert!(
        ir_remote::start(config.clone(), EventSink::new()).await.is_err(),
        "taken"
    );
    drop(device);
    let deadline = Instant::now() + SOON;
    while let Err(err) = ir_remote::start(config.clone(), EventSink::new()).await {
        assert!(Instant::now() < deadline, "{err:#}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_real_image_installs_by_both_methods_and_leaves_the_label() {
    let Some(image) = client::real_image() else {
        println!("the real image is not beside the workspace: nothing checked");
        return;
    };
    for http in [false, true] {
        let (device, events) = device(&[]).await;
        if http {
            assert!(upload(&device, &image).await.unwrap().ends_with("\r\n\r\nOK"));
        } else {
            assert!(invite_and_push(&device, &image).await.ends_with("OK"));
        }
        wait(&events, &device, EventKind::Up).await;
        let running = device.running();
        let sha256 = "25be787cbfb3523cb0a1b48b3b98ebcc2b294c76bb92e65b2b7bdf2ab341a4fb";
        assert_eq!(
            (running.sha256.as_deref(), running.version.as_str()),
            (Some(sha256), "1.0")
        );
    }
}
