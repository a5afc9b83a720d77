//! Uploads, restarts, and what can go wrong with them.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use sim::komfovent::Device;
use sim::{Event, EventKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::{FILE_NAME, Modbus, field_part, file_part, multipart, read_reply, versions_over_modbus};
use super::{Unit, parsed};

const BOTH: &str = "Status: Firmware uploaded successfully, device is restarting. \
    Panel firmware upload success: wait until finished.";
const CONTROLLER_ONLY: &str = "Status: Firmware uploaded successfully, device is restarting.";
const PANEL_ERROR: &str = "Status: Panel firmware upload error: incorrect file.";
const FIRMWARE_ERROR: &str = "Status: Firmware upload error";

fn image() -> Vec<u8> {
    (0..25_000_u32).flat_map(u32::to_le_bytes).collect()
}

/// Uploads to a unit and expects its status; then the versions that it comes back with.
#[track_caller]
fn check(
    unit: Unit,
    file_name: &str,
    status: &str,
    controller: &str,
    panel: Option<&str>,
) -> impl Future<Output = ()> {
    let (file_name, status) = (file_name.to_owned(), status.to_owned());
    let versions = (controller.to_owned(), panel.map(str::to_owned));
    async move {
        assert_eq!(
            unit.flash(&file_name, &image()).await.status(),
            status,
            "{file_name}"
        );
        unit.seen(EventKind::Up).await;
        assert_eq!(unit.versions(), versions, "{file_name}");
    }
}

/// Uploads to a unit that refuses it: nothing changes and nothing restarts.
async fn check_refused(unit: &Unit, parts: &[Vec<u8>], status: &str) {
    let before = unit.versions();
    assert!(unit.log_in().await.is_authorised());
    assert_eq!(unit.upload(parts).await.status(), status);
    assert!(unit.get("/g1.html").await.is_authorised(), "the session goes on");
    assert_eq!((unit.versions(), unit.device.counters().flashed), (before, 0));
    assert_eq!(unit.n_events(EventKind::Rebooting), 0);
}

#[tokio::test]
async fn an_upload_is_flashed_and_the_unit_returns_with_new_versions_and_without_sessions() {
    let unit = Unit::start();
    assert_eq!(versions_over_modbus(&unit).await, "1.3.44.70 1.1.5.46");
    let reply = unit.flash(FILE_NAME, &image()).await;
    assert_eq!((reply.body.len(), reply.status().as_str()), (973, BOTH));

    let received = unit.seen(EventKind::Received).await;
    assert_eq!(
        (received.number("len_bytes"), received.text("method")),
        (Some(100_000), Some("komfovent"))
    );
    // `python3 -c` with hashlib over the same 100,000 bytes.
    let sha256 = "e47b2ef8f931a31c1167cdd8eeb73e8055b325f984e3adf8a01d8c3520d797d3";
    assert_eq!(
        (received.text("sha256"), received.text("peer")),
        (Some(sha256), Some("127.0.0.1"))
    );

    let up = unit.seen(EventKind::Up).await;
    assert_eq!(up.text("controller"), Some("C6 1.5.46.72"));
    assert_eq!(versions_over_modbus(&unit).await, "1.5.46.72 1.1.5.48");
    assert!(
        !unit.get("/g1.html").await.is_authorised(),
        "sessions do not outlive a restart"
    );
    let kinds: Vec<&str> = unit
        .events
        .log()
        .iter()
        .map(|event| event.kind.as_str())
        .collect();
    assert_eq!(
        kinds,
        ["ready", "login", "receiving", "received", "rebooting", "up"]
    );
    let counters = unit.device.counters();
    assert_eq!(
        (
            counters.receiving,
            counters.received,
            counters.flashed,
            counters.restarts
        ),
        (1, 1, 1, 1)
    );
}

#[tokio::test]
async fn the_reply_is_followed_by_a_reset() {
    let unit = Unit::start();
    unit.log_in().await;
    let (head, body) = multipart("/g1.html", &[file_part("11111", FILE_NAME, b"image")]);
    let mut stream = TcpStream::connect(unit.http_address()).await.unwrap();
    stream
        .write_all(&[head.as_bytes(), &body].concat())
        .await
        .unwrap();
    assert_eq!(read_reply(&mut stream).await.unwrap().status(), BOTH);
    stream.shutdown().await.unwrap();
    assert_eq!(
        stream.read(&mut [0; 16]).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn a_restarting_unit_refuses_connections_on_both_ports() {
    let unit = Unit::with(|config| config.restart = Duration::from_secs(2));
    let mut modbus = Modbus::connect(&unit).await;
    unit.flash(FILE_NAME, &image()).await;
    unit.seen(EventKind::Rebooting).await;
    for address in [unit.http_address(), unit.modbus_address()] {
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
    assert!(
        modbus.closed().await,
        "the connection from before is gone as well"
    );
    assert_eq!(unit.n_events(EventKind::Up), 0);
    unit.seen(EventKind::Up).await;
    assert_eq!(versions_over_modbus(&unit).await, "1.5.46.72 1.1.5.48");
}

#[tokio::test]
async fn a_unit_can_be_updated_twice() {
    let unit = Unit::start();
    unit.flash(FILE_NAME, &image()).await;
    unit.seen(EventKind::Up).await;
    unit.flash("C6_1_3_44_70_P1_1_1_5_46.mbin", &image()).await;
    let is_back =
        |event: &Event| event.kind == EventKind::Up && event.text("controller") == Some("C6 1.3.44.70");
    assert!(unit.events.wait_for(is_back, super::DEADLINE).await.is_some());
}

#[tokio::test]
async fn legacy_names_update_the_controller_only() {
    let expected = Some("P1 1.1.5.46");
    check(
        Unit::start(),
        "C6_1_3_28_38_20180428.mbin",
        CONTROLLER_ONLY,
        "C6 1.3.28.38",
        expected,
    )
    .await;
}

#[tokio::test]
async fn a_c6m_takes_c6_files_and_stays_a_c6m() {
    let unit = Unit::running("C6M_1_4_45_71", Some("P1_1_1_5_47"));
    check(unit, FILE_NAME, BOTH, "C6M 1.5.46.72", Some("P1 1.1.5.48")).await;
}

#[tokio::test]
async fn a_c8_takes_its_own_files_at_any_version() {
    let unit = Unit::running("C8_1_1_3_13", None);
    check(
        unit,
        "C8_1_1_14_27_P1_1_1_5_46.mbin",
        CONTROLLER_ONLY,
        "C8 1.1.14.27",
        None,
    )
    .await;
}

#[tokio::test]
async fn panels_before_10_are_not_updated_along() {
    let unit = Unit::running("C6_1_3_44_70", Some("P1_2_1_1_9"));
    check(
        unit,
        FILE_NAME,
        CONTROLLER_ONLY,
        "C6 1.5.46.72",
        Some("P1 2.1.1.9"),
    )
    .await;
    let unit = Unit::running("C6_1_3_44_70", Some("P1_2_1_1_10"));
    check(unit, FILE_NAME, BOTH, "C6 1.5.46.72", Some("P1 1.1.5.48")).await;
}

#[tokio::test]
async fn credentials_beside_the_file_are_refused() {
    let unit = Unit::start();
    let file = || file_part("11111", FILE_NAME, &image());
    check_refused(&unit, &[file(), field_part("1", "user")], PANEL_ERROR).await;
    check_refused(
        &unit,
        &[field_part("1", "user"), field_part("2", "user"), file()],
        PANEL_ERROR,
    )
    .await;
    check_refused(&unit, &[file(), file()], PANEL_ERROR).await;
    let is_refused = |event: &Event| event.get("accepted").is_some_and(|accepted| *accepted == false);
    assert_eq!(
        unit.events.count(is_refused),
        3,
        "the images arrived, and were refused"
    );
}

#[tokio::test]
async fn other_fields_and_no_fields_are_refused() {
    let unit = Unit::start();
    check_refused(&unit, &[file_part("firmware", FILE_NAME, &image())], PANEL_ERROR).await;
    check_refused(&unit, &[field_part("11111", "text")], PANEL_ERROR).await;
    check_refused(&unit, &[], PANEL_ERROR).await;
}

#[tokio::test]
async fn files_of_other_families_are_refused() {
    let file = |name| [file_part("11111", name, &image())];
    let c6 = Unit::start();
    for name in [
        "C8_1_1_15_28_P1_1_1_5_48.mbin",
        "ir_remote_v2.0.0.bin",
        "settings.cfg",
        "",
    ] {
        check_refused(&c6, &file(name), FIRMWARE_ERROR).await;
    }
    check_refused(&c6, &[file_part("11111", FILE_NAME, b"")], FIRMWARE_ERROR).await;
    check_refused(
        &Unit::running("C8_1_1_14_27", None),
        &file(FILE_NAME),
        FIRMWARE_ERROR,
    )
    .await;
}

#[tokio::test]
async fn controllers_before_15_cannot_read_mbin_files() {
    let unit = Unit::running("C6_1_3_17_14", None);
    check_refused(&unit, &[file_part("11111", FILE_NAME, &image())], FIRMWARE_ERROR).await;
    check(
        unit,
        "C6_1_3_28_38_20180428.bin",
        CONTROLLER_ONLY,
        "C6 1.3.28.38",
        None,
    )
    .await;
    let unit = Unit::running("C6_1_1_17_15", None);
    check(unit, FILE_NAME, CONTROLLER_ONLY, "C6 1.5.46.72", None).await;
}

#[tokio::test]
async fn an_upload_without_a_session_gets_the_login_page_and_is_not_flashed() {
    let unit = Unit::start();
    let page = unit.upload(&[file_part("11111", FILE_NAME, &image())]).await;
    assert!(!page.is_authorised());
    assert_eq!(unit.versions().0, "C6 1.3.44.70");
    let counters = unit.device.counters();
    assert_eq!(
        (
            counters.requests,
            counters.receiving,
            counters.received,
            counters.flashed
        ),
        (1, 0, 0, 0)
    );
}

#[tokio::test]
async fn an_error_status_is_shown_and_nothing_is_flashed() {
    let unit = Unit::with_faults(&["error-status"]);
    let parts = [file_part("11111", FILE_NAME, &image())];
    check_refused(&unit, &parts, PANEL_ERROR).await;
    unit.device
        .set_faults(parsed(&["error-status=Status: Firmware upload error: memory"]));
    check_refused(&unit, &parts, "Status: Firmware upload error: memory").await;
}

#[tokio::test]
async fn a_mixed_status_updates_the_controller_only() {
    let status = format!("{CONTROLLER_ONLY} Panel firmware upload error: incorrect file.");
    let unit = Unit::with_faults(&["mixed-status"]);
    check(unit, FILE_NAME, &status, "C6 1.5.46.72", Some("P1 1.1.5.46")).await;
}

#[tokio::test]
async fn a_unit_that_keeps_the_old_firmware_reports_success() {
    check(
        Unit::with_faults(&["keeps-old"]),
        FILE_NAME,
        BOTH,
        "C6 1.3.44.70",
        Some("P1 1.1.5.46"),
    )
    .await;
}

#[tokio::test]
async fn a_panel_that_is_not_updated_is_reported_as_updated() {
    let unit = Unit::with_faults(&["panel-not-updated"]);
    check(unit, FILE_NAME, BOTH, "C6 1.5.46.72", Some("P1 1.1.5.46")).await;
}

#[tokio::test]
async fn localised_statuses_keep_the_structure() {
    for language in ["localised=pl", "localised=lt"] {
        let unit = Unit::with_faults(&[language]);
        let status = unit.flash(FILE_NAME, &image()).await.status();
        assert!(
            !status.contains("Status") && !status.contains("success"),
            "{status}"
        );
        let shape: String = status.chars().filter(|letter| ":,.".contains(*letter)).collect();
        assert_eq!(shape, ":,.:.", "{status}");
        unit.seen(EventKind::Up).await;
        assert_eq!(unit.versions().0, "C6 1.5.46.72");
    }
}

#[tokio::test]
async fn a_cut_upload_leaves_the_unit_as_it_was() {
    let unit = Unit::with_faults(&["cut-at=50"]);
    unit.log_in().await;
    for n_cut in 1..=2 {
        unit.try_upload(&[file_part("11111", FILE_NAME, &image())])
            .await
            .unwrap_err();
        assert_eq!(unit.device.counters().cut, n_cut);
    }
    let counters = unit.device.counters();
    assert_eq!(
        (counters.receiving, counters.received, counters.restarts),
        (2, 0, 0)
    );
    assert!(
        unit.get("/g1.html").await.is_authorised(),
        "no restart, so the session is still there"
    );
    assert_eq!(unit.versions().0, "C6 1.3.44.70");
}

#[tokio::test]
async fn the_last_byte_can_be_the_one_that_is_cut() {
    let unit = Unit::with_faults(&["cut-at=100"]);
    unit.log_in().await;
    let cut = unit
        .try_upload(&[file_part("11111", FILE_NAME, &image())])
        .await
        .unwrap_err();
    assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
    unit.seen_fault("cut-at").await;
    assert_eq!(
        (unit.device.counters().received, unit.device.counters().flashed),
        (0, 0)
    );
}

#[tokio::test]
async fn an_upload_cut_once_succeeds_the_second_time() {
    let unit = Unit::with_faults(&["cut-once-at=10"]);
    unit.log_in().await;
    unit.try_upload(&[file_part("11111", FILE_NAME, &image())])
        .await
        .unwrap_err();
    assert_eq!(
        unit.upload(&[file_part("11111", FILE_NAME, &image())])
            .await
            .status(),
        BOTH
    );
    unit.seen(EventKind::Up).await;
    assert_eq!(unit.device.counters().receiving, 2);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_the_unit_as_it_was() {
    let unit = Unit::start();
    unit.log_in().await;
    let (head, body) = multipart("/g1.html", &[file_part("11111", FILE_NAME, &image())]);
    let mut stream = TcpStream::connect(unit.http_address()).await.unwrap();
    stream
        .write_all(&[head.as_bytes(), &body[..50_000]].concat())
        .await
        .unwrap();
    unit.seen(EventKind::Receiving).await;
    drop(stream);
    assert!(unit.get("/g1.html").await.is_authorised());
    assert_eq!(
        (unit.device.counters().received, unit.versions().0.as_str()),
        (0, "C6 1.3.44.70")
    );
}

#[tokio::test]
async fn a_lost_reply_does_not_undo_the_update() {
    let unit = Unit::with_faults(&["reply-lost"]);
    unit.log_in().await;
    let lost = unit
        .try_upload(&[file_part("11111", FILE_NAME, &image())])
        .await
        .unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::ConnectionReset);
    unit.seen(EventKind::Up).await;
    assert_eq!(
        unit.versions(),
        ("C6 1.5.46.72".into(), Some("P1 1.1.5.48".into()))
    );
}

#[tokio::test]
async fn a_unit_that_never_returns_refuses_connections_for_good() {
    let unit = Unit::with_faults(&["never-returns"]);
    unit.flash(FILE_NAME, &image()).await;
    unit.seen_fault("never-returns").await;
    for address in [unit.http_address(), unit.modbus_address()] {
        assert_eq!(
            TcpStream::connect(address).await.unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
    }
}

#[tokio::test]
async fn a_power_cycle_ends_sessions_and_wakes_a_unit_that_never_returned() {
    let unit = Unit::start();
    unit.log_in().await;
    unit.device.power_cycle();
    unit.seen(EventKind::Up).await;
    assert_eq!(unit.device.running().n_sessions, 0);
    assert_eq!(unit.versions().0, "C6 1.3.44.70");

    unit.device.set_faults(parsed(&["never-returns"]));
    unit.flash(FILE_NAME, &image()).await;
    unit.seen_fault("never-returns").await;
    let mark = unit.events.mark();
    unit.device.power_cycle();
    let is_up = |event: &Event| event.kind == EventKind::Up;
    assert!(
        unit.events
            .wait_after(mark, is_up, super::DEADLINE)
            .await
            .is_some()
    );
    assert_eq!(versions_over_modbus(&unit).await, "1.5.46.72 1.1.5.48");
}

#[tokio::test]
async fn many_units_share_ports_and_have_addresses_and_serials_of_their_own() {
    let mut config = sim::komfovent::Config::new(std::net::Ipv4Addr::new(127, 3, 0, 255));
    let events = sim::EventSink::new();
    let devices = sim::komfovent::start_many(config.clone(), 3, events.clone()).unwrap();
    let addresses: Vec<String> = devices.iter().map(|device| device.ip().to_string()).collect();
    assert_eq!(addresses, ["127.3.0.255", "127.3.1.0", "127.3.1.1"]);
    assert!(
        devices
            .iter()
            .all(|device| device.http_port() == devices[0].http_port())
    );
    assert!(
        devices
            .iter()
            .all(|device| device.modbus_port() == devices[0].modbus_port())
    );
    let serials: Vec<&str> = devices.iter().map(Device::serial).collect();
    assert_eq!(serials, ["S0300FF", "S030100", "S030101"]);
    assert_eq!(events.count(|event| event.kind == EventKind::Ready), 3);

    config.serial = Some("8BXC01".into());
    let devices = sim::komfovent::start_many(config, 2, events).unwrap();
    assert_eq!((devices[0].serial(), devices[1].serial()), ("8BXC01", "8BXC01-1"));
}

#[tokio::test]
async fn a_unit_with_a_reset_address_says_where_it_is() {
    let old = Unit::running("C8_1_1_3_10", None);
    let old_file = "C8_1_1_14_27.mbin";
    for (unit, file_name) in [
        (Unit::with_faults(&["address-reset"]), FILE_NAME),
        (old, old_file),
    ] {
        unit.flash(file_name, &image()).await;
        let moved = unit.seen_fault("address-reset").await;
        assert_eq!(moved.text("address"), Some("192.168.0.60"));
        let gone = TcpStream::connect(unit.http_address()).await.unwrap_err();
        assert_eq!(
            (gone.kind(), unit.n_events(EventKind::Up)),
            (ErrorKind::ConnectionRefused, 0)
        );
    }
    let young = Unit::running("C8_1_1_3_11", None);
    check(young, old_file, CONTROLLER_ONLY, "C8 1.1.14.27", None).await;
}

#[tokio::test]
async fn uploads_are_read_at_the_units_pace_and_followed_by_silence() {
    let unit = Unit::with(|config| {
        config.rate_bytes_per_s = 100_000;
        config.silence = Duration::from_millis(300);
    });
    unit.log_in().await;
    let start = Instant::now();
    unit.upload(&[file_part("11111", FILE_NAME, &image())]).await;
    // 100,000 bytes and 218 around them at 100,000 bytes/s, less the 100 ms that the pace may catch up.
    assert!(
        start.elapsed() >= Duration::from_millis(1200),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn slow_and_stall_change_the_pace_and_the_silence() {
    let unit = Unit::with_faults(&["slow=20000", "stall=0.4"]);
    unit.log_in().await;
    let start = Instant::now();
    unit.upload(&[file_part("11111", FILE_NAME, &image()[..10_000])])
        .await;
    assert!(
        start.elapsed() >= Duration::from_millis(800),
        "{:?}",
        start.elapsed()
    );
    unit.seen_fault("slow").await;
    unit.seen_fault("stall").await;
}

#[tokio::test]
async fn a_sender_cannot_run_far_ahead_of_the_unit() {
    let unit = Unit::with_faults(&["slow=1000"]);
    unit.log_in().await;
    let (head, body) = multipart("/g1.html", &[file_part("11111", FILE_NAME, &image())]);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(1).unwrap();
    let mut stream = socket.connect(unit.http_address()).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut n_sent = 0;
    let send = async {
        while n_sent < body.len() {
            n_sent += stream
                .write(&body[n_sent..(n_sent + 1470).min(body.len())])
                .await
                .unwrap();
        }
    };
    // A second of a unit that reads 1,000 bytes/s: the rest is what fits into the buffers of both sides.
    tokio::time::timeout(Duration::from_secs(1), send)
        .await
        .unwrap_err();
    assert!(n_sent < 20_000, "{n_sent} bytes are under way");
}

#[tokio::test]
async fn a_long_restart_takes_its_time() {
    let unit = Unit::with_faults(&["restart-long=0.6"]);
    unit.flash(FILE_NAME, &image()).await;
    let down = unit.seen(EventKind::Rebooting).await;
    let up = unit.seen(EventKind::Up).await;
    assert!(up.t - down.t >= 0.6, "{} s", up.t - down.t);
}

#[tokio::test]
async fn dropping_the_unit_closes_its_ports() {
    let unit = Unit::start();
    let mut modbus = Modbus::connect(&unit).await;
    let address = unit.http_address();
    drop(unit);
    assert!(modbus.closed().await);
    assert_eq!(
        TcpStream::connect(address).await.unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
}

#[tokio::test]
async fn user_names_longer_than_7_characters_are_no_configuration() {
    let mut config = sim::komfovent::Config::new(std::net::Ipv4Addr::LOCALHOST);
    config.username = "username".into();
    assert!(sim::komfovent::start(config, sim::EventSink::new()).is_err());
}
