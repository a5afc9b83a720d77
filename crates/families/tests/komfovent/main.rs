//! The Komfovent driver against a simulated unit that somebody else wrote.

mod bench;
mod upload;

use std::sync::atomic::Ordering;
use std::time::Duration;

use families::Ways;
use model::family::{FaultKind, Method, Notes, Reach, Reason};
use model::id::Strength;
use model::job::Job;
use model::outcome::Ending;
use model::progress::Progress;
use sim::komfovent::{Config, Fault, Language};

use bench::{Bench, NEW, image, log_out, quick, registers, with};

/// Runs a job against a unit with this fault and checks its end.
async fn check(config: Config, ending: Ending, reason: Option<&str>) -> (Bench, Job) {
    let bench = Bench::new(config);
    let job = bench.run(NEW).await;
    bench.assert_ends(&job, ending, reason);
    (bench, job)
}

// Looking.

#[tokio::test]
async fn a_look_reads_versions_and_logs_nobody_in() {
    let bench = Bench::new(quick());
    let snapshot = bench.driver().probe().await.unwrap();
    assert_eq!(snapshot.versions.to_string(), "C6 1.3.44.70 / P1 1.1.5.46");
    assert_eq!(snapshot.hardware.model.as_deref(), Some("C6"));
    assert_eq!(snapshot.id.strength, Strength::Weak);
    assert_eq!(
        snapshot.id.hardware,
        format!("ventilation.local:{}", bench.unit.modbus_port())
    );
    assert_eq!(bench.unit.counters().requests, 0);
}

#[tokio::test]
async fn looks_in_a_row_keep_the_vendors_spacing() {
    let mut bench = Bench::new(quick());
    bench.ways.modbus_spacing = Ways::default().modbus_spacing;
    let mut driver = bench.driver();
    driver.probe().await.unwrap();
    driver.probe().await.unwrap();
    bench.driver().probe().await.unwrap();
    let counters = bench.unit.counters();
    assert!(counters.modbus_reads >= 9);
    assert_eq!(counters.too_fast, 0);
}

#[tokio::test]
async fn units_without_some_registers_are_read() {
    for (json, versions) in [
        (r#"{"1000":[305,4116],"1002":[0,0],"954":[0]}"#, "C6 1.3.17.20"),
        (r#"{"1000":[4418,61514]}"#, "C6M 1.4.47.74"),
        (
            r#"{"1000":[8464,57371],"1002":[272,20526],"1004":[0,0]}"#,
            "C8 1.1.14.27 / P1 1.1.5.46",
        ),
        (
            r#"{"954":[3],"1000":[306,49222],"1002":[272,20526],"1004":[528,4105]}"#,
            "C6 1.3.44.70 / P1 1.1.5.46 / P1 2.1.1.9",
        ),
        (
            r#"{"954":[2],"1000":[306,49222],"1002":[0,0],"1004":[528,4105]}"#,
            "C6 1.3.44.70 / P1 2.1.1.9",
        ),
    ] {
        let bench = Bench::new(registers(json));
        let snapshot = bench.driver().probe().await.unwrap();
        assert_eq!(snapshot.versions.to_string(), versions, "{json}");
    }
}

#[tokio::test]
async fn a_unit_that_answers_only_http_is_no_answer_and_gets_no_password() {
    let (bench, _) = check(with(&[Fault::ModbusSilent]), Ending::Failed, Some("no answer")).await;
    let counters = bench.unit.counters();
    assert_eq!((counters.requests, counters.receiving), (0, 0));
}

#[tokio::test]
async fn a_unit_that_answers_only_modbus_is_no_answer_and_costs_no_password_answer() {
    let bench = Bench::new(with(&[Fault::HttpSilent]));
    let fault = bench.driver().prepare(Some(&log_out())).await.unwrap_err();
    assert_eq!(
        (fault.kind, fault.reason),
        (FaultKind::Unreachable, Reason::NoAnswer)
    );
    assert_eq!(bench.tally.given.load(Ordering::SeqCst), 0);
}

// Logging in and out.

#[tokio::test]
async fn login_and_logout() {
    let bench = Bench::new(quick());
    let mut driver = bench.driver();
    let probed = driver.probe().await.unwrap();
    let prepared = driver.prepare(Some(&log_out())).await.unwrap();
    assert_eq!(prepared.id, probed.id);
    assert_eq!(prepared.versions, probed.versions);
    assert_eq!(bench.unit.running().n_sessions, 1);
    assert_eq!(bench.tally.accepted.load(Ordering::SeqCst), 1);
    for _ in 0..2 {
        driver.undo(&log_out()).await.unwrap();
        assert_eq!(bench.unit.running().n_sessions, 0);
    }
}

#[tokio::test]
async fn after_a_crash_another_process_logs_out() {
    let bench = Bench::new(quick());
    let mut gone = bench.driver();
    gone.prepare(Some(&log_out())).await.unwrap();
    drop(gone);
    bench.driver().undo(&log_out()).await.unwrap();
    assert_eq!(bench.unit.running().n_sessions, 0);
}

#[tokio::test]
async fn a_wrong_password_is_refused_without_a_second_try() {
    let mut bench = Bench::new(quick());
    bench.password = Some("canary-7f3a");
    let job = bench.run(NEW).await;
    bench.assert_ends(&job, Ending::Refused, Some("wrong password"));
    let counters = bench.unit.counters();
    assert_eq!(
        (counters.failed_logins, counters.logins, counters.receiving),
        (1, 0, 0)
    );
    assert_eq!(bench.tally.accepted.load(Ordering::SeqCst), 0);
    assert!(!format!("{job:?}").contains("canary"));
}

#[tokio::test]
async fn a_wrong_password_is_told_in_any_language() {
    for language in [Language::Polish, Language::Lithuanian] {
        let mut bench = Bench::new(with(&[Fault::Localised(language)]));
        bench.password = Some("wrong");
        let fault = bench.driver().prepare(None).await.unwrap_err();
        assert_eq!(fault.reason, Reason::WrongPassword, "{language:?}");
        assert_eq!(fault.failed_answers, 1);
        assert_eq!(bench.unit.counters().failed_logins, 1);
    }
}

#[tokio::test]
async fn a_login_that_fails_without_an_error_is_busy_after_one_more_try() {
    let mut bench = Bench::new(with(&[Fault::HiddenError]));
    bench.password = Some("wrong");
    let fault = bench.driver().prepare(None).await.unwrap_err();
    assert_eq!((fault.kind, fault.reason), (FaultKind::Refused, Reason::Busy));
    assert_eq!(bench.unit.counters().failed_logins, 2);
}

#[tokio::test]
async fn a_session_that_somebody_else_holds_is_ended_and_taken_over() {
    let (bench, _) = check(with(&[Fault::SessionTaken]), Ending::Updated, None).await;
    assert_eq!(bench.unit.counters().received, 1);
}

#[tokio::test]
async fn without_a_password_or_with_too_long_a_name_nothing_is_sent() {
    let mut bench = Bench::new(quick());
    bench.password = None;
    let fault = bench.driver().prepare(None).await.unwrap_err();
    assert_eq!(fault.reason, Reason::PasswordNeeded);
    bench.password = Some("user");
    bench.username = Some("username".to_owned());
    let fault = bench.driver().prepare(None).await.unwrap_err();
    assert_eq!(
        (fault.kind, fault.reason),
        (FaultKind::Refused, Reason::WrongPassword)
    );
    assert!(fault.text.contains("7 characters"), "{}", fault.text);
    assert_eq!(bench.unit.counters().requests, 0);
    assert_eq!(bench.tally.given.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_serial_number_is_an_alias_and_another_one_is_another_device() {
    let mut config = quick();
    config.serial = Some("12345678".to_owned());
    let mut bench = Bench::new(config);
    let mut driver = bench.driver();
    let before = driver.probe().await.unwrap().id;
    assert_eq!(driver.prepare(None).await.unwrap().id, before);
    bench.notes = driver.notes();
    assert_eq!(bench.notes.0["serial"], "12345678");
    bench.driver().prepare(None).await.unwrap();
    bench.notes = Notes(serde_json::json!({ "serial": "87654321" }));
    let fault = bench.driver().prepare(None).await.unwrap_err();
    assert_eq!(
        (fault.kind, fault.reason),
        (FaultKind::Refused, Reason::OtherDevice)
    );
}

#[tokio::test]
async fn a_unit_without_a_serial_number_is_prepared_all_the_same() {
    let bench = Bench::new(with(&[Fault::NoSerial]));
    let mut driver = bench.driver();
    driver.prepare(None).await.unwrap();
    assert_eq!(driver.notes().0["serial"], serde_json::Value::Null);
}

// Updating.

#[tokio::test]
async fn an_update_ends_in_new_versions_of_controller_and_panel() {
    let (bench, job) = check(quick(), Ending::Updated, None).await;
    let running = bench.unit.running();
    assert_eq!(running.controller, "C6 1.5.46.72");
    assert_eq!(running.panel.as_deref(), Some("P1 1.1.5.48"));
    let counters = bench.unit.counters();
    assert_eq!(
        (
            counters.logins,
            counters.received,
            counters.flashed,
            counters.restarts
        ),
        (1, 1, 1, 1)
    );
    assert!(job.evidence.verdict.unwrap().contains("successfully"));
    assert!(job.evidence.away.is_some());
}

#[tokio::test]
async fn the_same_file_again_is_already_current() {
    let (bench, _) = check(quick(), Ending::Updated, None).await;
    let again = bench.run(NEW).await;
    bench.assert_ends(&again, Ending::AlreadyCurrent, None);
    assert_eq!(bench.unit.counters().logins, 1);
}

#[tokio::test]
async fn the_same_file_by_force_is_updated() {
    let mut bench = Bench::new(registers(
        r#"{"1":[1],"954":[1],"1000":[338,57416],"1002":[272,20528]}"#,
    ));
    bench.permits.force = true;
    let job = bench.run(NEW).await;
    bench.assert_ends(&job, Ending::Updated, None);
}

#[tokio::test]
async fn a_c6m_takes_the_c6_file() {
    let config = registers(r#"{"1":[1],"954":[1],"1000":[4418,53319],"1002":[272,20527]}"#);
    let (bench, _) = check(config, Ending::Updated, None).await;
    assert!(bench.unit.running().controller.ends_with(".72"));
}

#[tokio::test]
async fn a_panel_too_old_to_move_is_no_partial_update() {
    let config = registers(r#"{"1":[1],"954":[1],"1000":[306,49222],"1002":[528,4105]}"#);
    let (bench, _) = check(config, Ending::Updated, None).await;
    assert_eq!(bench.unit.running().panel.as_deref(), Some("P1 2.1.1.9"));
}

#[tokio::test]
async fn a_unit_without_a_panel_is_updated() {
    let config = registers(r#"{"1":[1],"954":[0],"1000":[305,4116],"1002":[0,0]}"#);
    check(config, Ending::Updated, None).await;
}

#[tokio::test]
async fn an_image_for_another_controller_is_refused_before_a_login() {
    let config = registers(r#"{"1":[1],"954":[0],"1000":[8464,57371]}"#);
    let (bench, _) = check(config, Ending::Refused, Some("wrong-controller")).await;
    assert_eq!(bench.unit.counters().requests, 0);
}

#[tokio::test]
async fn a_unit_too_old_is_refused_before_a_login() {
    // C6 1.3.17.14
    let config = registers(r#"{"1":[1],"954":[0],"1000":[305,4110]}"#);
    let (bench, _) = check(config, Ending::Refused, Some("unsupported-source-version")).await;
    assert_eq!(bench.unit.counters().requests, 0);
}

#[tokio::test]
async fn a_long_silence_while_flashing_is_survived() {
    check(
        with(&[Fault::Stall(Duration::from_secs(3))]),
        Ending::Updated,
        None,
    )
    .await;
}

#[tokio::test]
async fn a_slow_unit_is_updated() {
    check(with(&[Fault::Slow(60_000)]), Ending::Updated, None).await;
}

#[tokio::test]
async fn a_refused_file_is_kept_old_in_the_units_own_words() {
    let (bench, job) = check(
        with(&[Fault::ErrorStatus(None)]),
        Ending::KeptOld,
        Some("device error"),
    )
    .await;
    assert!(job.outcome().unwrap().text.contains("incorrect file"));
    assert_eq!(bench.unit.counters().receiving, 1);
}

#[tokio::test]
async fn one_part_of_two_is_failed_partial() {
    for fault in [Fault::MixedStatus, Fault::PanelNotUpdated] {
        let (bench, job) = check(with(&[fault]), Ending::Failed, Some("partial")).await;
        assert!(job.outcome().unwrap().text.contains("panel"));
        assert_eq!(bench.unit.counters().receiving, 1, "it was tried again");
    }
}

#[tokio::test]
async fn a_cut_is_tried_once_more_and_then_kept_old() {
    let (bench, _) = check(
        with(&[Fault::CutAt(50)]),
        Ending::KeptOld,
        Some("transfer broke off"),
    )
    .await;
    assert_eq!(bench.unit.counters().cut, 2);
}

#[tokio::test]
async fn after_one_cut_the_second_push_updates() {
    let (bench, _) = check(with(&[Fault::CutOnceAt(50)]), Ending::Updated, None).await;
    assert_eq!((bench.unit.counters().cut, bench.unit.counters().flashed), (1, 1));
}

#[tokio::test]
async fn a_lost_reply_is_settled_by_the_registers() {
    let (_, job) = check(with(&[Fault::ReplyLost]), Ending::Updated, None).await;
    assert_eq!(job.evidence.verdict, None);
}

#[tokio::test]
async fn a_unit_that_comes_back_old_is_rolled_back() {
    check(
        with(&[Fault::KeepsOld]),
        Ending::RolledBack,
        Some("old version came back"),
    )
    .await;
}

#[tokio::test]
async fn success_in_another_language_is_settled_by_the_registers() {
    for language in [Language::Polish, Language::Lithuanian] {
        check(with(&[Fault::Localised(language)]), Ending::Updated, None).await;
    }
}

#[tokio::test]
async fn an_error_in_another_language_is_no_success() {
    let faults = [Fault::Localised(Language::Polish), Fault::ErrorStatus(None)];
    let bench = Bench::new(with(&faults));
    let job = bench.run(NEW).await;
    assert!(!job.outcome().unwrap().ending.is_success(), "{:?}", job.outcome());
    assert_eq!(bench.unit.running().n_sessions, 0);
}

#[tokio::test]
async fn a_unit_that_never_returns_is_unverified_and_stays_to_be_logged_out() {
    let (_, job) = check(
        with(&[Fault::NeverReturns]),
        Ending::Unverified,
        Some("no return"),
    )
    .await;
    assert!(job.undo.is_some());
}

#[tokio::test]
async fn a_unit_whose_address_was_reset_is_said_to_be_at_its_factory_address() {
    // C8 1.1.3.9: old enough for the reset, and a C8 has no minimum.
    let mut config = registers(r#"{"1":[1],"954":[0],"1000":[8464,12297]}"#);
    config.faults = vec![Fault::AddressReset];
    let bench = Bench::new(config);
    let job = bench.run("C8_1_1_14_27.mbin").await;
    bench.assert_ends(&job, Ending::Unverified, Some("no return"));
    let next_step = job.outcome().unwrap().next_step.clone().unwrap();
    assert!(next_step.contains("192.168.0.60"), "{next_step}");
}

#[tokio::test]
async fn a_unit_that_ran_is_stopped_and_started_again_if_its_owner_wants_that() {
    let on = r#"{"1":[1],"954":[1],"1000":[306,49222],"1002":[272,20526]}"#;
    let mut bench = Bench::new(registers(on));
    bench.ways.stop_unit = true;
    let mut driver = bench.driver();
    let before = driver.probe().await.unwrap();
    assert_eq!(before.health.running, Some(true));
    let undo = bench.family().undo(&before).unwrap();
    driver.prepare(Some(&undo)).await.unwrap();
    assert!(!bench.unit.running().on);
    drop(driver);
    // Another process, after a crash.
    for _ in 0..2 {
        bench.driver().undo(&undo).await.unwrap();
        assert!(bench.unit.running().on);
        assert_eq!(bench.unit.running().n_sessions, 0);
    }
}

#[tokio::test]
async fn a_unit_that_was_off_stays_off_and_without_the_option_nothing_is_written() {
    for (on, stop_unit) in [(0, true), (1, false)] {
        let mut bench = Bench::new(registers(&format!(r#"{{"1":[{on}],"1000":[306,49222]}}"#)));
        bench.ways.stop_unit = stop_unit;
        let mut driver = bench.driver();
        let before = driver.probe().await.unwrap();
        let undo = bench.family().undo(&before).unwrap();
        driver.prepare(Some(&undo)).await.unwrap();
        driver.undo(&undo).await.unwrap();
        assert_eq!(bench.unit.counters().writes, 0);
        assert_eq!(bench.unit.running().on, on == 1);
    }
}

#[tokio::test]
async fn a_push_without_a_session_is_busy_and_sends_no_byte() {
    let bench = Bench::new(quick());
    let mut driver = bench.driver();
    let fault = driver
        .push(&Method::new("http"), &image(NEW), &Progress::default())
        .await
        .unwrap_err();
    assert_eq!((fault.reason, fault.reach), (Reason::Busy, Reach::Nothing));
    assert_eq!(bench.unit.counters().receiving, 0);
}

#[tokio::test]
async fn a_cancelled_push_sends_no_byte() {
    let bench = Bench::new(quick());
    let mut driver = bench.driver();
    driver.prepare(None).await.unwrap();
    let progress = Progress::default();
    assert!(progress.cancel());
    let fault = driver
        .push(&Method::new("http"), &image(NEW), &progress)
        .await
        .unwrap_err();
    assert_eq!((fault.reason, fault.reach), (Reason::Cancelled, Reach::Nothing));
    assert_eq!(bench.unit.counters().receiving, 0);
}

#[tokio::test]
async fn progress_ends_at_the_whole_image() {
    let bench = Bench::new(quick());
    let mut driver = bench.driver();
    driver.prepare(None).await.unwrap();
    let (image, progress) = (image(NEW), Progress::default());
    driver
        .push(&Method::new("http"), &image, &progress)
        .await
        .unwrap();
    assert_eq!(progress.acked_bytes(), image.len_bytes());
}
