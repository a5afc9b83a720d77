//! Images that have failed on too many devices: they go to no other until an administrator lets them out.

use std::collections::BTreeMap;

use model::chain::chain;
use model::fleet::Event;
use model::id::{DeviceId, Sha256};
use model::outcome::{Ending, Outcome};
use model::plan::Reason;
use serde_json::json;
use store::AuditEntry;

use super::Rollouts;

/// Jobs that ended within this time are looked through at the start: those after which the program was killed, and a few more.
const LOOK_BACK_MS: i64 = 24 * 3_600 * 1_000;

/// The devices that an image has failed on: those whose last job with it that says anything speaks against it.
fn failed_on(ends: Vec<(DeviceId, Outcome)>) -> Vec<DeviceId> {
    let mut last: BTreeMap<DeviceId, bool> = BTreeMap::new();
    for (device, outcome) in ends {
        if outcome.is_against_image() {
            last.insert(device, true);
        } else if outcome.ending.is_success() || outcome.ending == Ending::AlreadyCurrent {
            last.insert(device, false);
        }
    }
    let failed = last.into_iter().filter(|(_, failed)| *failed);
    failed.map(|(device, _)| device).collect()
}

impl Rollouts {
    /// What is to be told of images that are in quarantine.
    pub(super) fn quarantines(&self) -> Vec<Event> {
        let quarantines = self.inner.repository.quarantines().into_iter();
        quarantines
            .map(|(image, refusal)| Event::Quarantined {
                image,
                reason: Reason::new(refusal.rule, refusal.text, refusal.next_step),
            })
            .collect()
    }

    /// Puts an image in quarantine that has failed on as many devices as the policy says; what is to be told of that.
    pub(super) async fn quarantine_if_due(&self, image: Sha256) -> Vec<Event> {
        let most = self.policy().quarantine_after;
        if most == 0 || self.inner.repository.quarantine(image).is_some() {
            return Vec::new();
        }
        let failed = match self.inner.store.ends_of_image(image).await {
            Ok(ends) => failed_on(ends),
            Err(error) => {
                tracing::error!(%image, error = chain(&error), "how an image fared cannot be read");
                return Vec::new();
            }
        };
        if failed.len() < usize::try_from(most).unwrap_or(usize::MAX) {
            return Vec::new();
        }
        let names = failed.iter().map(|device| {
            let known = self.inner.fleet.known(&device.key());
            known.map_or_else(|_| device.key(), |known| known.name)
        });
        let put = self
            .inner
            .repository
            .put_in_quarantine(image, names.collect())
            .await;
        match put {
            Ok(true) => self.audit_quarantine(image, &failed).await,
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%image, error = chain(&error), "an image could not be put in quarantine");
            }
        }
        let reason = self.quarantined(image);
        reason
            .map(|reason| Event::Quarantined { image, reason })
            .into_iter()
            .collect()
    }

    async fn audit_quarantine(&self, image: Sha256, failed: &[DeviceId]) {
        let devices: Vec<String> = failed.iter().map(DeviceId::key).collect();
        let entry = AuditEntry {
            at_ms: self.inner.engine.clock().now().wall_ms,
            actor: "policy".to_owned(),
            source: "server".to_owned(),
            action: "firmware.quarantine".to_owned(),
            target: image.to_string(),
            detail: json!({ "devices": devices }),
        };
        if let Err(error) = self.inner.store.append_audit(&entry).await {
            tracing::error!(%image, error = chain(&error), "a quarantine could not be written into the audit");
        }
    }

    /// Images whose last failure was not counted any more before the program ended, or that were pushed without the server.
    pub(super) async fn quarantine_what_is_due(&self) -> Vec<Event> {
        let since_ms = self.inner.engine.clock().now().wall_ms - LOOK_BACK_MS;
        let counts = match self.inner.store.outcome_counts(since_ms).await {
            Ok(counts) => counts,
            Err(error) => {
                tracing::error!(error = chain(&error), "how images fared cannot be read");
                return Vec::new();
            }
        };
        let mut images: Vec<Sha256> = counts.into_iter().map(|count| count.image).collect();
        images.sort_unstable();
        images.dedup();
        let mut events = Vec::new();
        for image in images {
            events.extend(self.quarantine_if_due(image).await);
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use model::id::FamilyId;

    use super::*;

    fn id(name: &str) -> DeviceId {
        DeviceId::from_hardware(&FamilyId::new("f"), name)
    }

    #[test]
    fn a_device_counts_by_its_last_end_that_says_anything() {
        let end = |ending, reason: &str| Outcome::because(ending, reason, "", "");
        let ends = [
            ("a", end(Ending::KeptOld, "device error")),
            ("a", end(Ending::RolledBack, "")),
            ("b", end(Ending::Failed, "boot loop")),
            ("b", end(Ending::Failed, "no answer")),
            ("c", end(Ending::Failed, "not applied")),
            ("c", end(Ending::Updated, "")),
            ("d", end(Ending::KeptOld, "transfer broke off")),
            ("e", end(Ending::Unverified, "no return")),
            ("f", end(Ending::Refused, "wrong password")),
            ("g", end(Ending::Updated, "")),
            ("g", end(Ending::Failed, "not applied")),
        ];
        let ends = ends.map(|(device, outcome)| (id(device), outcome));
        assert_eq!(failed_on(ends.into()), [id("a"), id("b"), id("g")]);
    }
}
