//! What a plan and a job need to know of devices, and holding one while a job works on it.

use std::sync::Arc;

use model::device::{Device, Snapshot};
use model::family::Family;
use model::id::DeviceId;
use model::installed::Installed;
use model::inventory::State as Standing;
use tokio::time::Instant;

use super::entry::Entry;
use super::{Fleet, FleetError, find};
use crate::views::{InstalledView, OfferView};

/// One device, as a plan needs it.
pub(crate) struct Known {
    pub(crate) id: DeviceId,
    pub(crate) name: String,
    pub(crate) family: Arc<dyn Family>,
    pub(crate) device: Device,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) standing: Standing,
    /// When it answered last, milliseconds since 1970.
    pub(crate) seen_ms: Option<i64>,
    /// When it was seen first, milliseconds since 1970.
    pub(crate) first_seen_ms: i64,
    pub(crate) enrolled: bool,
    /// Why nothing is sent to it.
    pub(crate) conflict: Option<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) group: Option<String>,
    pub(crate) pinned: Option<String>,
    pub(crate) skipped: Vec<String>,
    pub(crate) installed: Option<Installed>,
    /// What it runs, in words.
    pub(crate) runs: InstalledView,
    pub(crate) offer: Option<OfferView>,
}

impl Fleet {
    /// Every device, by key.
    pub(crate) fn all_known(&self) -> Vec<Known> {
        let state = self.state();
        state.entries.values().map(|entry| self.know(entry)).collect()
    }

    /// One device, by key, name, address, or the unique beginning of its key.
    pub(crate) fn known(&self, named: &str) -> Result<Known, FleetError> {
        let state = self.state();
        let key = find(&state, named)?;
        Ok(self.know(&state.entries[&key]))
    }

    fn know(&self, entry: &Entry) -> Known {
        let row = &entry.row;
        let runs = entry.runs(&self.inner.repository);
        Known {
            id: row.id.clone(),
            name: entry.name(),
            family: entry.family.clone(),
            device: entry.device(),
            snapshot: row.snapshot.clone(),
            standing: entry.presence.state(),
            seen_ms: row.seen_ms,
            first_seen_ms: row.first_seen_ms,
            enrolled: row.enrolled_ms.is_some(),
            conflict: entry.conflict_text(),
            tags: row.tags.clone(),
            group: row.group.clone(),
            pinned: row.pinned.clone(),
            skipped: row.skipped.clone(),
            installed: row.installed.clone(),
            runs,
            offer: entry.offer.clone(),
        }
    }

    /// A job begins to work on the device: until [`Fleet::let_go`] it is not looked at, and it is not offline.
    pub(crate) fn hold(&self, id: &DeviceId) {
        if let Some(entry) = self.state().entries.get_mut(&id.key()) {
            entry.held = true;
        }
    }

    /// The job has ended: what it has done is taken over, and the device is looked at.
    pub(crate) async fn let_go(&self, id: &DeviceId) {
        self.take_over_one(id).await;
        if let Some(entry) = self.state().entries.get_mut(&id.key()) {
            entry.held = false;
            entry.glances = 0;
            entry.next_look = Instant::now();
        }
        self.inner.wake.notify_one();
    }
}
