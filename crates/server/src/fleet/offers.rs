//! Which image is the newest for each device: worked out when something that it depends on has changed.

use model::device::Device;
use model::family::Family;
use model::installed::Installed;
use model::release::Wishes;
use serde_json::json;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use super::Fleet;
use crate::views::OfferView;

/// What an offer depends on.
struct Asked {
    key: String,
    family: Arc<dyn Family>,
    device: Device,
    installed: Option<Installed>,
    pinned: Option<String>,
    skipped: Vec<String>,
}

impl Fleet {
    /// Keeps the offers true.
    pub(super) async fn keep_offers(self, cancel: CancellationToken) {
        let mut changes = self.inner.repository.changes();
        loop {
            self.refresh_offers().await;
            tokio::select! {
                () = cancel.cancelled() => return,
                // Also after changes that were missed: everything is worked out anew.
                change = changes.recv() => {
                    if matches!(change, Err(tokio::sync::broadcast::error::RecvError::Closed)) {
                        return;
                    }
                    self.offers_are_due();
                }
                () = self.inner.offers_due.notified() => {}
            }
        }
    }

    /// Every offer is to be worked out anew: there is other firmware.
    fn offers_are_due(&self) {
        for entry in self.state().entries.values_mut() {
            entry.offer_due = true;
        }
    }

    /// Every offer is true afterwards, as far as what is known now goes.
    pub(crate) async fn work_out_offers(&self) {
        // Firmware that has just come may not have been noticed yet.
        self.offers_are_due();
        self.refresh_offers().await;
    }

    /// Works out the offers that are due; all of them are true afterwards, also those that somebody else works out just now.
    pub(super) async fn refresh_offers(&self) {
        let _working_out = self.inner.working_out.lock().await;
        let asked: Vec<Asked> = {
            let mut state = self.state();
            let due = state.entries.iter_mut().filter(|(_, entry)| entry.offer_due);
            due.map(|(key, entry)| {
                entry.offer_due = false;
                Asked {
                    key: key.clone(),
                    family: entry.family.clone(),
                    device: entry.device(),
                    installed: entry.row.installed.clone(),
                    pinned: entry.row.pinned.clone(),
                    skipped: entry.row.skipped.clone(),
                }
            })
            .collect()
        };
        for asked in asked {
            let wishes = Wishes {
                pinned: asked.pinned.as_deref(),
                skipped: &asked.skipped,
            };
            let offer = self
                .inner
                .repository
                .latest_for(&asked.device, &*asked.family, asked.installed.as_ref(), wishes)
                .await;
            self.take_offer(&asked.key, offer);
        }
    }

    fn take_offer(&self, key: &str, offer: Option<OfferView>) {
        let mut state = self.state();
        let Some(entry) = state.entries.get_mut(key) else {
            return;
        };
        entry.offer = offer;
        let is_offered = entry.offer.as_ref().filter(|_| entry.is_offered()).cloned();
        let sha256 = is_offered.as_ref().map(|offer| offer.sha256.clone());
        let is_news = !std::mem::take(&mut entry.offer_told) && entry.told_offer != sha256;
        let was_offered = std::mem::replace(&mut entry.told_offer, sha256).is_some();
        let id = entry.row.id.clone();
        match is_offered {
            Some(offer) if is_news => {
                let detail = json!({ "sha256": offer.sha256, "name": offer.name });
                self.tell(&mut state, "device.update-offered", &id, detail);
            }
            None if was_offered => {
                self.tell(&mut state, "device.update-withdrawn", &id, json!({}));
            }
            _ => {}
        }
    }
}
