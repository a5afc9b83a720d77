//! What the tests share.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unreachable_pub, clippy::unwrap_used, reason = "helpers of tests are tests")]

pub mod children;

use std::net::IpAddr;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use model::id::{DeviceId, FamilyId, Sha256};
use model::time::Now;
use serde_json::Value;
use store::{Event, Store};

pub static DIGEST: LazyLock<Sha256> = LazyLock::new(|| Sha256::of(b"image"));
pub const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

pub fn id(hardware: &str) -> DeviceId {
    DeviceId::from_hardware(&FamilyId::new("test"), hardware)
}

pub fn now() -> Now {
    Now {
        boot: Duration::from_nanos(1_234_567_891),
        wall_ms: 1_700_000_000_123,
    }
}

pub fn event<'a>(step: &'a str, state: &'a Value) -> Event<'a> {
    Event::new(step, state, "boot", now())
}

pub async fn open(folder: &Path) -> Store {
    Store::open(folder).await.unwrap()
}

/// The store of this folder, with one device in it.
pub async fn device(folder: &Path, hardware: &str) -> Store {
    let store = open(folder).await;
    store
        .upsert_device(&id(hardware), ADDRESS, None, 1)
        .await
        .unwrap();
    store
}

/// A device as a server would store it when it hears of it first.
pub fn fleet_row(hardware: &str) -> store::FleetRow {
    store::FleetRow {
        address: Some(ADDRESS),
        sources: vec!["scan".to_owned()],
        ..store::FleetRow::new(id(hardware), 1)
    }
}

pub fn snapshot(hardware: &str, version: &str) -> model::device::Snapshot {
    model::device::Snapshot {
        id: id(hardware),
        versions: model::version::Versions::one("firmware", version),
        uptime: Some(Duration::from_secs(77)),
        ota: model::device::Ota::Enabled,
        busy: false,
        host_name: Some("IR-Remote-Mini".to_owned()),
        hardware: model::device::Hardware {
            model: Some("mini".to_owned()),
            chip: Some("esp32c6".to_owned()),
            chip_revision: Some(2),
            flash_bytes: Some(4 << 20),
        },
        health: model::device::Health {
            free_heap_bytes: Some(200_000),
            signal_dbm: Some(-61),
            running: None,
        },
    }
}

/// A connection to the folder's database from outside.
pub async fn outside(folder: &Path) -> sqlx::SqliteConnection {
    sqlx::ConnectOptions::connect(
        &sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join("reflash.db")),
    )
    .await
    .unwrap()
}

pub async fn tamper(folder: &Path, sql: &'static str) {
    let mut connection = outside(folder).await;
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
}

/// A look that went well, with a sample.
pub fn poll(hardware: &str, at_ms: i64) -> store::Poll {
    store::Poll {
        id: id(hardware),
        address: None,
        at_ms,
        online: true,
        snapshot: Some(snapshot(hardware, "1.0")),
        restarts: 0,
        sample: Some(sample(at_ms)),
    }
}

pub fn sample(at_ms: i64) -> store::Sample {
    store::Sample {
        at_ms,
        online: true,
        uptime_s: Some(u64::try_from(at_ms).unwrap()),
        free_heap_bytes: None,
        signal_dbm: Some(-70),
        restarted: false,
    }
}

pub fn audit_entry(action: &str) -> store::AuditEntry {
    store::AuditEntry {
        at_ms: 7,
        actor: "token 1 \"home\"".to_owned(),
        source: "127.0.0.1".to_owned(),
        action: action.to_owned(),
        target: "a0b1c2d3e4f5".to_owned(),
        detail: serde_json::json!({"b": 1, "a": "\u{e9}"}),
    }
}

/// An image that waits for approval.
pub fn firmware_row(image: &model::image::Image) -> store::FirmwareRow {
    store::FirmwareRow {
        digest: image.sha256(),
        len_bytes: image.len_bytes(),
        file_name: image.file_name().to_owned(),
        info: model::image::ImageInfo {
            family: Some(FamilyId::new("test")),
            kind: "esp-app".to_owned(),
            chip: Some("esp32c6".to_owned()),
            versions: Some(model::version::Versions::one("firmware", "1.0")),
            version_source: model::image::VersionSource::Image,
            hint: None,
            project: None,
            signature: None,
            len_bytes: image.len_bytes(),
            sha256: image.sha256(),
            warnings: Vec::new(),
        },
        refusals: Vec::new(),
        state: model::firmware::State::Waiting,
        source: "upload".to_owned(),
        origin: None,
        added_ms: 5,
        approved_by: None,
        approved_ms: None,
        notes: None,
        quarantine: None,
    }
}

/// A rollout that needs these images.
pub fn new_rollout(images: &[Sha256]) -> store::NewRollout<'_> {
    static PLAN: LazyLock<Value> =
        LazyLock::new(|| serde_json::json!({"waves": [1, 2], "text": "it's \u{fc}"}));
    static STATE: LazyLock<Value> = LazyLock::new(|| serde_json::json!("scheduled"));
    store::NewRollout {
        name: Some("autumn"),
        kind: "update",
        plan: &PLAN,
        state: &STATE,
        created_ms: 7,
        created_by: "Ann",
        asked: None,
        predecessor: None,
        images,
    }
}

pub fn member(hardware: &str, idx: u32, state: &Value) -> store::MemberRow {
    store::MemberRow {
        device: id(hardware),
        idx,
        state: state.clone(),
    }
}
