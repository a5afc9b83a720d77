//! What the tests share.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unreachable_pub, reason = "a module of several test files")]

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
