//! Registers over Modbus.

use super::client::{Modbus, version};
use super::{Unit, parsed};

#[tokio::test]
async fn the_documented_frame_is_answered_as_documented() {
    let unit = Unit::start();
    let answer = Modbus::connect(&unit)
        .await
        .ask(0xFE, &[3, 0x03, 0xE7, 0, 6])
        .await;
    assert_eq!(
        answer,
        [
            3, 0x0C, 0x01, 0x32, 0xC0, 0x46, 0x01, 0x10, 0x50, 0x2E, 0, 0, 0, 0
        ]
    );
}

#[tokio::test]
async fn any_unit_id_is_answered() {
    let unit = Unit::start();
    let mut modbus = Modbus::connect(&unit).await;
    for unit_id in [0, 1, 254, 255] {
        assert_eq!(modbus.ask(unit_id, &[3, 0, 0, 0, 1]).await, [3, 2, 0, 1]);
    }
}

#[tokio::test]
async fn missing_registers_answer_exception_2() {
    let unit = Unit::start();
    let mut modbus = Modbus::connect(&unit).await;
    assert_eq!(modbus.read(2, 1).await, Err(2));
    assert_eq!(modbus.read(999, 2).await, Err(2), "the first one is missing");
    assert_eq!(modbus.read(1000, 7).await, Err(2), "the last one is missing");
    assert_eq!(modbus.write(2, 1).await, Err(2));
    assert_eq!(
        modbus.ask(1, &[3, 0xFF, 0xFF, 0, 1]).await,
        [0x83, 2],
        "address 65535 has no number"
    );
    assert_eq!(unit.device.counters().exceptions, 5);
}

#[tokio::test]
async fn requests_that_make_no_sense_answer_exceptions() {
    let unit = Unit::start();
    let mut modbus = Modbus::connect(&unit).await;
    assert_eq!(modbus.read(1, 0).await, Err(3));
    assert_eq!(modbus.read(1, 126).await, Err(3));
    assert_eq!(modbus.ask(1, &[3, 0, 0, 0]).await, [0x83, 3]);
    assert_eq!(modbus.ask(1, &[4, 0, 0, 0, 1]).await, [0x84, 1]);
    assert_eq!(
        modbus.ask(1, &[16, 0, 0, 0, 2, 4, 0, 1]).await,
        [0x90, 3],
        "shorter than it says"
    );
    assert_eq!(modbus.ask(1, &[16, 0, 0, 0, 0, 0]).await, [0x90, 3]);
}

#[tokio::test]
async fn what_is_no_modbus_ends_the_connection() {
    let unit = Unit::start();
    let mut modbus = Modbus::connect(&unit).await;
    modbus.send(1, &[]).await;
    assert!(modbus.closed().await);
}

#[tokio::test]
async fn register_1_stops_and_starts_the_unit() {
    let unit = Unit::start();
    let mut modbus = Modbus::connect(&unit).await;
    assert!(unit.device.running().on);
    modbus.write(1, 0).await.unwrap();
    assert!(!unit.device.running().on);
    assert_eq!(modbus.read(1, 1).await, Ok(vec![0]));
    assert_eq!(
        modbus.ask(254, &[16, 0, 0, 0, 1, 2, 0, 1]).await,
        [16, 0, 0, 0, 1]
    );
    assert!(unit.device.running().on);
    assert_eq!(modbus.write(1, 2).await, Err(3));
    assert_eq!(unit.device.counters().writes, 2);
}

#[tokio::test]
async fn versions_cannot_be_written() {
    let unit = Unit::start();
    let mut modbus = Modbus::connect(&unit).await;
    for number in [954, 1000, 1001, 1003] {
        assert_eq!(modbus.write(number, 1).await, Err(2), "{number}");
    }
    assert_eq!(unit.versions().0, "C6 1.3.44.70");
}

#[tokio::test]
async fn requests_in_quick_succession_are_counted() {
    let unit = Unit::start();
    let mut modbus = Modbus::connect(&unit).await;
    modbus.read(1, 1).await.unwrap();
    assert_eq!(unit.device.counters().too_fast, 0);
    modbus.read(1, 1).await.unwrap();
    let mut other = Modbus::connect(&unit).await;
    other.read(1, 1).await.unwrap();
    assert_eq!(
        unit.device.counters().too_fast,
        2,
        "whatever connection they come from"
    );
    // The one wait here that is the claim itself: half a second without a request.
    tokio::time::sleep(std::time::Duration::from_millis(510)).await;
    modbus.read(1, 1).await.unwrap();
    assert_eq!(
        (
            unit.device.counters().too_fast,
            unit.device.counters().modbus_reads
        ),
        (2, 4)
    );
}

#[tokio::test]
async fn a_unit_without_panel_says_so() {
    let unit = Unit::running("C8_1_1_14_27", None);
    let mut modbus = Modbus::connect(&unit).await;
    assert_eq!(modbus.read(954, 1).await, Ok(vec![0]));
    let words = modbus.read(1000, 6).await.unwrap();
    assert_eq!(
        (version(words[0], words[1]), words[0] >> 12, &words[2..]),
        ("1.1.14.27".into(), 2, &[0; 4][..])
    );
}

#[tokio::test]
async fn silent_modbus_takes_requests_and_answers_nothing() {
    let unit = Unit::start();
    let mut modbus = Modbus::connect(&unit).await;
    modbus.read(1, 1).await.unwrap();
    unit.device.set_faults(parsed(&["modbus-silent"]));
    modbus.send(1, &[3, 0, 0, 0, 1]).await;
    unit.seen_fault("modbus-silent").await;
    unit.device.set_faults(Vec::new());
    assert_eq!(
        modbus.read(954, 1).await,
        Ok(vec![1]),
        "the first answer is that to the second request"
    );
}
