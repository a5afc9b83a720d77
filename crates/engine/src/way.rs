//! How one device is reached, and what an earlier process has left undone at it.

use std::fmt;
use std::sync::Arc;

use model::device::Device;
use model::family::{Driver, Family, Notes, Target, Undo};
use model::image::Image;
use model::precheck::Permits;
use secrecy::SecretString;
use store::{JournalError, OpenJob, StoreError};
use tokio::sync::watch;

use crate::Engine;
use crate::lease::Lease;
use crate::run::{Finished, Report, RunError, Start, Stop, Work};

/// How one device is reached: by which family, where, and with which secret.
#[derive(Clone)]
pub struct Way {
    /// Its family.
    pub family: Arc<dyn Family>,
    /// The device, as far as it is known.
    pub device: Device,
    /// What its owner calls it: a host name or an address.
    pub given_as: String,
    /// The name to log in with.
    pub username: Option<String>,
    /// Its password.
    pub secret: Option<SecretString>,
    /// What its owner says of its chip.
    pub chip: Option<String>,
}

// The secret does not print; the family has nothing to print.
impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way")
            .field("device", &self.device)
            .field("given_as", &self.given_as)
            .finish_non_exhaustive()
    }
}

/// Who is told of a job, and who may stop it.
#[derive(Clone)]
pub struct Watcher<'a> {
    /// Told what happens.
    pub report: &'a (dyn Fn(Report<'_>) + Send + Sync),
    /// Whether its owner wants it stopped.
    pub stop: watch::Receiver<Stop>,
}

/// What became of something that was to be put back at a device.
#[derive(Debug)]
pub enum PutBack {
    /// There was nothing.
    Nothing,
    /// It is put back.
    Done(Undo),
    /// The device did not take it; the next one who works on the device tries again.
    Still(Undo),
}

/// Why what an earlier process has left could not be looked after.
#[derive(Debug, thiserror::Error)]
pub enum LeftError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal refused the write.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Engine {
    /// A driver for the device, with the notes of earlier calls and the ledger of its password answers.
    pub async fn driver(&self, way: &Way) -> Result<Box<dyn Driver>, StoreError> {
        let row = self.store.device(&way.device.id).await?;
        let notes = row.map_or_else(Notes::default, |row| row.notes);
        Ok(way.family.open(Target {
            address: way.device.address,
            given_as: way.given_as.clone(),
            username: way.username.clone(),
            secret: way.secret.clone(),
            chip: way.chip.clone(),
            notes,
            answers: self.answers(&way.device.id),
        }))
    }

    /// The image of a job that was left unfinished; the one at hand where it is that very image or the store has none.
    pub async fn image_of(&self, open: &OpenJob, at_hand: Option<&Image>) -> Option<Image> {
        if let Some(image) = at_hand.filter(|image| image.sha256() == open.image) {
            return Some(image.clone());
        }
        match self.store.image(open.image, "").await {
            Ok(Some(image)) => Some(image),
            Ok(None) => at_hand.cloned(),
            Err(error) => {
                tracing::warn!(%error, job = %open.job, "the image of an unfinished job cannot be read");
                at_hand.cloned()
            }
        }
    }

    /// Settles a job that a process which is gone has left, by looking at the device (rule 2).
    ///
    /// # Errors
    /// As [`Engine::run`]; where the notes of the device cannot be read, the job stays as it is.
    pub async fn settle(
        &self,
        lease: &Lease,
        way: &Way,
        (open, image): (OpenJob, &Image),
        permits: &Permits,
        watcher: Watcher<'_>,
    ) -> Result<Finished, RunError> {
        let driver = self.driver(way).await.map_err(RunError::NoNotes)?;
        let work = Work {
            family: &*way.family,
            driver,
            device: way.device.clone(),
            image,
            refusals: &[],
            permits,
            report: watcher.report,
            stop: watcher.stop,
        };
        self.run(lease, work, Start::Resume(open)).await
    }

    /// Puts back at the device what an earlier job has changed.
    pub async fn put_back(&self, lease: &Lease, way: &Way) -> Result<PutBack, LeftError> {
        let Some(undo) = self.store.pending_undo(&way.device.id).await? else {
            return Ok(PutBack::Nothing);
        };
        let mut driver = self.driver(way).await?;
        if let Err(fault) = driver.undo(&undo).await {
            tracing::info!(device = %way.device.id, text = fault.text, "not put back yet");
            return Ok(PutBack::Still(undo));
        }
        self.store.clear_undo(&way.device.id, lease.epoch()).await?;
        Ok(PutBack::Done(undo))
    }
}
