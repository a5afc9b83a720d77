//! What is asked for: which image a word means, and which is offered to a device.

use std::path::Path;
use std::sync::Arc;

use model::device::Device;
use model::family::Family;
use model::id::Sha256;
use model::image::Refusal;
use model::installed::Installed;
use model::release::{self, Runs, Wishes};
use model::version::Versions;

use super::catalogue::Kept;
use super::error::RepositoryError;
use super::judge::not_readable;
use super::{N_FITS, Repository, locked};
use crate::views::{InstalledView, OfferView};

impl Repository {
    /// The image that a word means: a digest, a name, a version, a file name, or the path of a file in the watch folder.
    ///
    /// No other path is looked at (RELIABILITY.md T21): nothing that a caller names is ever opened.
    pub fn find(&self, word: &str) -> Result<Sha256, RepositoryError> {
        let word = word.trim();
        let not_found = || RepositoryError::NotFound {
            what: word.chars().filter(|c| !c.is_control()).take(120).collect(),
        };
        if word.is_empty() || ["unknown", "unavailable", "none"].contains(&word.to_ascii_lowercase().as_str())
        {
            return Err(not_found());
        }
        let is_path = word.contains('/');
        // "1.5.46.72 / P 1.1.5.48" is a name.
        let catalogue = self.catalogue();
        if let Some(kept) = catalogue.find(word) {
            return Ok(kept.row.digest);
        }
        let folder = locked(&self.inner.folder);
        if is_path {
            let settings = self.settings();
            let in_folder = settings.folder.as_deref().and_then(|path| {
                let rest = Path::new(word).strip_prefix(path).ok()?;
                rest.to_str().filter(|name| !name.contains('/'))
            });
            let Some(file_name) = in_folder else {
                return Err(RepositoryError::Outside {
                    path: word.chars().filter(|c| !c.is_control()).take(120).collect(),
                });
            };
            return folder.digest_of(file_name).ok_or_else(not_found);
        }
        folder.digest_of(word).ok_or_else(not_found)
    }

    /// Whether an owner's word for a version, name, file or digest means this image.
    pub(crate) fn is_meant(&self, word: &str, digest: Sha256) -> bool {
        let catalogue = self.catalogue();
        let kept = catalogue.get(digest);
        kept.is_some_and(|kept| release::means(word, &kept.held(), &kept.name))
    }

    /// What an image is called; none where it is not kept.
    pub(crate) fn name_of(&self, digest: Sha256) -> Option<String> {
        Some(self.catalogue().get(digest)?.name.clone())
    }

    /// The newest approved image for this device, and why it is not offered if it is not.
    ///
    /// An image is read from the disk once for each kind of device, a few milliseconds.
    pub async fn latest_for(
        &self,
        device: &Device,
        family: &dyn Family,
        installed: Option<&Installed>,
        wishes: Wishes<'_>,
    ) -> Option<OfferView> {
        let catalogue = self.catalogue();
        let mut candidates = catalogue.approved_of(&family.id());
        loop {
            let newest = release::newest(&candidates, family)?;
            let digest = newest.info.sha256;
            let kept = catalogue.get(digest)?;
            let refusals = self.refusals(kept, device, family).await;
            if release::is_for_another(&refusals) {
                candidates.retain(|held| held.info.sha256 != digest);
                continue;
            }
            let runs = Runs {
                record: installed,
                image: installed
                    .and_then(|record| record.digest)
                    .and_then(|digest| catalogue.get(digest))
                    .map(Kept::held),
            };
            let offered = (newest, kept.name.as_str());
            return Some(OfferView {
                sha256: digest.to_string(),
                name: kept.name.clone(),
                text: kept.name.clone(),
                file_name: kept.row.file_name.clone(),
                why_not: release::why_not(family, device, runs, offered, &refusals, wishes)
                    .or_else(|| kept.quarantine().map(|refusal| refusal.text)),
            });
        }
    }

    /// Why an image may not go to this very device.
    async fn refusals(&self, kept: &Kept, device: &Device, family: &dyn Family) -> Arc<[Refusal]> {
        let digest = kept.row.digest;
        // All that `Family::accepts` can know of a device, but for which one it is.
        let kind = format!(
            "{}|{:?}|{:?}|{:?}",
            device.id.family, device.hardware, device.slot_bytes, device.versions
        );
        let key = (digest, kind);
        if let Some(known) = locked(&self.inner.fits).get(&key) {
            return Arc::clone(known);
        }
        let image = match self.inner.store.image(digest, &kept.row.file_name).await {
            Ok(Some(image)) => image,
            Ok(None) => return Arc::new([not_readable("Its file is missing from the repository.")]),
            Err(error) => {
                tracing::error!(%digest, error = &error as &dyn std::error::Error, "an image cannot be read");
                return Arc::new([not_readable(
                    "Its file in the repository cannot be read or is damaged.",
                )]);
            }
        };
        let refusals: Arc<[Refusal]> = family.accepts(device, &kept.row.info, &image).into();
        let mut fits = locked(&self.inner.fits);
        if fits.len() >= N_FITS {
            fits.clear();
        }
        fits.insert(key, Arc::clone(&refusals));
        refusals
    }

    /// What a device is believed to run, in words: the image's name as long as the device's label has not changed since the
    /// record, else what it reports.
    pub fn installed_view(&self, family: &dyn Family, record: &Installed, seen: &Versions) -> InstalledView {
        let catalogue = self.catalogue();
        let kept = record.digest.and_then(|digest| catalogue.get(digest));
        let believed = kept.filter(|_| record.label == *seen);
        let name = believed.map_or_else(|| family.words(seen), |kept| kept.name.clone());
        InstalledView {
            sha256: record.digest.map(|digest| digest.to_string()),
            text: name.clone(),
            name,
            kept: kept.is_some(),
        }
    }
}
