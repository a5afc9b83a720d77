//! The firmware repository: images from the watch folder, from uploads and from vendors, and which of them is offered to whom.
//!
//! Images are inspected when they come; what is refused is kept and shown with its reasons, and never offered.

mod catalogue;
mod error;
mod feeds;
pub mod fetch;
mod folder;
mod index;
mod judge;
mod offers;
mod settings;
#[cfg(test)]
pub(crate) mod testing;
mod watch;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use engine::Clock;
use model::device::Device;
use model::family::Family;
use model::firmware::State;
use model::id::Sha256;
use model::image::{Image, ImageInfo, Inspection, Override, Refusal};
use model::installed::Installed;
use model::version::Relation;
use store::{FirmwareError, FirmwareRow, FirmwareUse, Quarantine, Store, StoreError};
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

use crate::views::{FirmwareListView, FirmwareView, FolderView, NoteView};
use catalogue::{Catalogue, Kept, family_of};
use fetch::{Fetcher, Limits};
use judge::{
    better, bounded_notes, failed_too_often, first_text, inspect, open_way, other_bytes, plainly_named,
};

pub use error::RepositoryError;
pub use feeds::{CheckError, FeedFile, UnknownFeed, fetch_once};
pub use settings::{Index, Pace, Settings};

/// How many judgements of an image for a kind of device are remembered. Guess: far more than a home has kinds of devices.
const N_FITS: usize = 4096;

/// How many changes wait for a slow listener, who then has to read the list again.
const N_CHANGES: usize = 256;

/// How an image comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Somebody uploads it.
    Upload,
    /// It lies in the watch folder.
    Folder,
    /// A vendor's download.
    Feed {
        /// Its name.
        name: String,
        /// Its address, without what could be secret.
        url: String,
        /// Whether nobody on the way could have changed it.
        is_private: bool,
    },
    /// Somebody's index.
    Index {
        /// Its address, without what could be secret.
        url: String,
        /// Whether nobody on the way could have changed it.
        is_private: bool,
    },
    /// It was pushed to a device by hand.
    Push,
    /// Its owner says that a device runs it.
    RunningOn,
}

impl Source {
    fn name(&self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Folder => "folder",
            Self::Feed { .. } => "feed",
            Self::Index { .. } => "index",
            Self::Push => "push",
            Self::RunningOn => "running-on",
        }
    }

    fn origin(&self) -> Option<String> {
        match self {
            Self::Feed { url, .. } | Self::Index { url, .. } => Some(url.clone()),
            Self::Upload | Self::Folder | Self::Push | Self::RunningOn => None,
        }
    }

    /// How far a good image may go at once.
    fn trust(&self) -> State {
        match self {
            Self::Upload | Self::Folder | Self::Feed { is_private: true, .. } => State::Approved,
            Self::Feed {
                is_private: false, ..
            }
            | Self::Index {
                is_private: false, ..
            } => State::Quarantined,
            // A way back, or somebody's offer: not for every device.
            Self::Index { is_private: true, .. } | Self::Push | Self::RunningOn => State::Waiting,
        }
    }

    fn is_from_outside(&self) -> bool {
        matches!(self, Self::Feed { .. } | Self::Index { .. })
    }
}

/// What became of an image that was brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// The image.
    pub digest: Sha256,
    /// How far it may go.
    pub state: State,
    /// Whether it was not known before.
    pub is_new: bool,
    /// Why it is refused, quarantined or blocked.
    pub refusals: Vec<Refusal>,
}

/// Something that has changed in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What.
    pub kind: ChangeKind,
    /// The image, where it is about one.
    pub digest: Option<Sha256>,
    /// The image's name, the feed's or the folder's.
    pub name: String,
    /// One sentence.
    pub text: String,
}

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// An image has come, or is known better than before.
    Added,
    /// An image may be offered from now on.
    Approved,
    /// An image has failed on too many devices, and is offered to none any more.
    Quarantined,
    /// An image has gone.
    Removed,
    /// Its notes are others.
    Notes,
    /// Something is wrong that its owner has to look at.
    Alarm,
    /// A feed was looked at.
    Feed,
    /// The watch folder is in trouble, or out of it.
    Folder,
    /// A device is known to run an image: what is kept of the device must be read again.
    Running,
}

impl ChangeKind {
    /// Its name as an event.
    pub fn event(self) -> &'static str {
        match self {
            Self::Added => "firmware.added",
            Self::Approved => "firmware.approved",
            Self::Quarantined => "firmware.quarantined",
            Self::Removed => "firmware.removed",
            Self::Notes => "firmware.notes",
            Self::Alarm => "firmware.alarm",
            Self::Feed => "firmware.feed",
            Self::Folder => "firmware.folder",
            Self::Running => "firmware.running",
        }
    }
}

/// The repository. Cloning shares it.
#[derive(Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    families: Vec<Arc<dyn Family>>,
    clock: Clock,
    settings: RwLock<Arc<Settings>>,
    /// Wakes the watch of the folder: other settings have come.
    applied: Notify,
    fetcher: Fetcher,
    catalogue: RwLock<Arc<Catalogue>>,
    /// Why an image does not fit a kind of device, as it was found out.
    fits: Mutex<HashMap<Fit, Arc<[Refusal]>>>,
    folder: Mutex<folder::Folder>,
    changes: broadcast::Sender<Change>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
    /// One look at the feeds at a time.
    looking: tokio::sync::Mutex<()>,
}

/// An image, and all that [`Family::accepts`] can know of a device.
type Fit = (Sha256, String);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Repository {
    /// Opens the repository of a state folder; what a killed process left unfinished in it is swept away.
    pub async fn open(
        store: Store,
        families: Vec<Arc<dyn Family>>,
        clock: Clock,
        settings: Settings,
    ) -> Result<Self, RepositoryError> {
        Self::open_with(store, families, clock, settings, Fetcher::new).await
    }

    async fn open_with(
        store: Store,
        families: Vec<Arc<dyn Family>>,
        clock: Clock,
        settings: Settings,
        fetcher: impl FnOnce(Limits) -> Fetcher,
    ) -> Result<Self, RepositoryError> {
        store.sweep_images().await?;
        let repository = Self {
            inner: Arc::new(Inner {
                store,
                families,
                clock,
                fetcher: fetcher(settings.limits),
                folder: Mutex::new(folder::Folder::default()),
                settings: RwLock::new(Arc::new(settings)),
                applied: Notify::new(),
                catalogue: RwLock::default(),
                fits: Mutex::default(),
                changes: broadcast::Sender::new(N_CHANGES),
                changing: tokio::sync::Mutex::new(()),
                looking: tokio::sync::Mutex::new(()),
            }),
        };
        repository.reload().await?;
        repository.adopt().await?;
        Ok(repository)
    }

    /// Watches the folder and looks at the feeds, until it is cancelled. Whatever fails is shown and tried again.
    pub async fn run(&self, cancel: CancellationToken) {
        let work = async {
            tokio::join!(watch::run(self), feeds::run(self));
        };
        // Dropping the work is safe: each image and each row is stored whole or not at all.
        tokio::select! {
            () = work => {}
            () = cancel.cancelled() => {}
        }
    }

    /// Takes other settings, from now on; the bounds of downloads stay as they were at the start.
    pub fn apply(&self, settings: Settings) {
        *self
            .inner
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        self.inner.applied.notify_one();
    }

    fn settings(&self) -> Arc<Settings> {
        let settings = self.inner.settings.read();
        Arc::clone(&settings.unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells of every change from now on.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.inner.changes.subscribe()
    }

    /// All images, the newest first, with the room they take, the feeds and the folder.
    pub async fn list(&self) -> Result<FirmwareListView, RepositoryError> {
        let running = self.adopt().await?;
        let catalogue = self.catalogue();
        let latest = catalogue.latest(&self.inner.families);
        let firmware = catalogue
            .all()
            .iter()
            .map(|kept| {
                let digest = kept.row.digest;
                let running_on = running.get(&digest).cloned().unwrap_or_default();
                catalogue::view(kept, latest.get(&digest), running_on)
            })
            .collect();
        Ok(FirmwareListView {
            firmware,
            used_bytes: self.inner.store.images_len_bytes().await?,
            free_bytes: free_bytes(self.inner.store.folder()),
            feeds: self.feeds().await?,
            folder: self.folder(),
        })
    }

    /// One image.
    pub async fn get(&self, digest: &Sha256) -> Result<Option<FirmwareView>, RepositoryError> {
        let running = self.running().await?;
        let catalogue = self.catalogue();
        let latest = catalogue.latest(&self.inner.families);
        Ok(catalogue.get(*digest).map(|kept| {
            let running_on = running.get(digest).cloned().unwrap_or_default();
            catalogue::view(kept, latest.get(digest), running_on)
        }))
    }

    /// The bytes of an image, checked against its digest once more.
    pub async fn image(&self, digest: &Sha256) -> Result<Image, RepositoryError> {
        let not_found = || RepositoryError::NotFound {
            what: digest.to_string(),
        };
        let file_name = {
            let catalogue = self.catalogue();
            catalogue
                .get(*digest)
                .ok_or_else(not_found)?
                .row
                .file_name
                .clone()
        };
        self.inner
            .store
            .image(*digest, &file_name)
            .await?
            .ok_or_else(not_found)
    }

    /// What was found in an image, and why it is refused; none where it is not known.
    pub fn inspected(&self, digest: &Sha256) -> Option<(ImageInfo, Vec<Refusal>, State)> {
        let catalogue = self.catalogue();
        let row = &catalogue.get(*digest)?.row;
        Some((row.info.clone(), row.refusals.clone(), row.state))
    }

    /// Inspects an image and keeps it.
    ///
    /// What its owner brings is approved by that, what comes from outside as far as the way can be trusted.
    /// The same bytes are one image, however often and under whatever names they come.
    pub async fn add(&self, image: &Image, source: &Source, actor: &str) -> Result<Added, RepositoryError> {
        let _changing = self.inner.changing.lock().await;
        let image = plainly_named(image);
        let found = inspect(&self.inner.families, &image);
        self.put(&image, found, source, actor).await
    }

    async fn put(
        &self,
        image: &Image,
        (info, refusals): (ImageInfo, Vec<Refusal>),
        source: &Source,
        actor: &str,
    ) -> Result<Added, RepositoryError> {
        let digest = image.sha256();
        let now_ms = self.inner.clock.now().wall_ms;
        let known = self.inner.store.firmware_row(digest).await?;
        let rival = source.is_from_outside().then(|| {
            let catalogue = self.catalogue();
            catalogue
                .rival(digest, image.file_name(), &info)
                .map(|rival| (rival.name.clone(), rival.row.digest))
        });
        let mut row = FirmwareRow {
            digest,
            len_bytes: image.len_bytes(),
            file_name: image.file_name().to_owned(),
            info,
            refusals,
            state: source.trust(),
            source: source.name().to_owned(),
            origin: source.origin(),
            added_ms: now_ms,
            approved_by: None,
            approved_ms: None,
            notes: None,
            quarantine: None,
        };
        if !row.refusals.is_empty() {
            row.state = State::Refused;
        } else if let Some((name, other)) = rival.flatten() {
            row.state = State::Blocked;
            row.refusals = vec![other_bytes(image.file_name(), &name, other)];
        } else if row.state == State::Approved && self.settings().require_signature {
            row.state = State::Waiting;
        }
        if row.state == State::Quarantined {
            row.refusals = vec![open_way()];
        }
        if row.state == State::Approved {
            row.approved_by = Some(actor.to_owned());
            row.approved_ms = Some(now_ms);
        }
        let is_new = known.is_none();
        let changed = match known {
            None => Some(row),
            Some(known) => better(known, row),
        };
        self.inner.store.put_image(image, now_ms).await?;
        if let Some(row) = &changed {
            self.inner.store.put_firmware(row).await?;
        }
        self.reload().await?;
        let catalogue = self.catalogue();
        let kept = catalogue.get(digest).ok_or_else(|| RepositoryError::NotFound {
            what: digest.to_string(),
        })?;
        let added = Added {
            digest,
            state: kept.row.state,
            is_new,
            refusals: kept.row.refusals.clone(),
        };
        if changed.is_some() {
            self.tell_of(kept, is_new);
        }
        Ok(added)
    }

    fn tell_of(&self, kept: &Kept, is_new: bool) {
        let digest = Some(kept.row.digest);
        let name = kept.name.clone();
        let verb = if is_new { "came" } else { "is known better" };
        let reason = kept
            .row
            .refusals
            .first()
            .map(|refusal| refusal.text.as_str())
            .unwrap_or_default();
        let text = format!(
            "{} {verb} and is {}. {reason}",
            kept.row.file_name,
            kept.row.state.name()
        );
        self.tell(Change {
            kind: ChangeKind::Added,
            digest,
            name: name.clone(),
            text: text.trim_end().to_owned(),
        });
        if kept.row.state == State::Blocked {
            tracing::error!(file_name = kept.row.file_name, digest = %kept.row.digest, "a vendor's file came with other bytes");
            self.tell(Change {
                kind: ChangeKind::Alarm,
                digest,
                name,
                text: reason.to_owned(),
            });
        }
    }

    /// Keeps an image and remembers it as what this device runs, so that there is a way back to it.
    ///
    /// It waits for approval: that one device runs it is no reason to offer it to others.
    pub async fn add_running_on(
        &self,
        image: &Image,
        device: &Device,
        actor: &str,
    ) -> Result<Added, RepositoryError> {
        let _changing = self.inner.changing.lock().await;
        let not_running = |reason: String| RepositoryError::NotRunning {
            name: image.file_name().to_owned(),
            reason,
        };
        let family = family_of(&self.inner.families, &device.id.family)
            .ok_or_else(|| not_running("its family is not known".to_owned()))?;
        let found = match family.inspect(image) {
            Inspection::NotMine => return Err(not_running("it is no file for such a device".to_owned())),
            Inspection::Refused(_, refusals) => return Err(not_running(first_text(&refusals))),
            Inspection::Accepted(info) => info,
        };
        let never: Vec<Refusal> = family
            .accepts(device, &found, image)
            .into_iter()
            .filter(|refusal| refusal.overriding == Override::Never)
            .collect();
        if !never.is_empty() {
            return Err(not_running(first_text(&never)));
        }
        if let Some(stated) = &found.versions
            && !matches!(
                family.relate(&device.versions, stated),
                Relation::Same | Relation::Unknown
            )
        {
            return Err(not_running(format!(
                "the device reports {}, and this is {stated}",
                device.versions
            )));
        }
        let mut added = self
            .put(image, (found, Vec::new()), &Source::RunningOn, actor)
            .await?;
        let before = self.inner.store.installed(&device.id).await?;
        let installed = Installed {
            digest: Some(added.digest),
            label: device.versions.clone(),
            label_moves: before.is_some_and(|before| before.label_moves),
        };
        let now_ms = self.inner.clock.now().wall_ms;
        self.inner
            .store
            .set_installed(&device.id, Some(&installed), now_ms)
            .await
            .map_err(RepositoryError::Device)?;
        let catalogue = self.catalogue();
        if let Some(kept) = catalogue.get(added.digest) {
            added.state = kept.row.state;
            self.tell(Change {
                kind: ChangeKind::Running,
                digest: Some(added.digest),
                name: device.id.key(),
                text: format!("{} runs {}.", device.id, kept.name),
            });
        }
        Ok(added)
    }

    /// Lets an image that waits or is quarantined be offered.
    pub async fn approve(&self, digest: &Sha256, actor: &str) -> Result<(), RepositoryError> {
        let _changing = self.inner.changing.lock().await;
        let name = self.name(digest)?;
        let now_ms = self.inner.clock.now().wall_ms;
        self.inner
            .store
            .approve_firmware(*digest, actor, now_ms)
            .await
            .map_err(|error| self.in_words(error))?;
        // What kept it back has been answered.
        if let Some(row) = self.inner.store.firmware_row(*digest).await?
            && !row.refusals.is_empty()
        {
            let row = FirmwareRow {
                refusals: Vec::new(),
                ..row
            };
            self.inner.store.put_firmware(&row).await?;
        }
        self.reload().await?;
        self.tell(Change {
            kind: ChangeKind::Approved,
            digest: Some(*digest),
            text: format!("{actor} has approved {name}."),
            name,
        });
        Ok(())
    }

    /// Offers an image to no device any more, because it has failed on these. Says whether that is new.
    pub(crate) async fn put_in_quarantine(
        &self,
        digest: Sha256,
        devices: Vec<String>,
    ) -> Result<bool, RepositoryError> {
        let _changing = self.inner.changing.lock().await;
        let name = self.name(&digest)?;
        let quarantine = Quarantine {
            since_ms: self.inner.clock.now().wall_ms,
            devices,
        };
        if !self.inner.store.quarantine_firmware(digest, &quarantine).await? {
            return Ok(false);
        }
        self.reload().await?;
        self.tell(Change {
            kind: ChangeKind::Quarantined,
            digest: Some(digest),
            text: failed_too_often(&name, digest, &quarantine).text,
            name,
        });
        Ok(true)
    }

    /// Why an image is in quarantine because it has failed; none where it is not.
    pub(crate) fn quarantine(&self, digest: Sha256) -> Option<Refusal> {
        self.catalogue().get(digest)?.quarantine()
    }

    /// The images that are in quarantine because they have failed.
    pub(crate) fn quarantines(&self) -> Vec<(Sha256, Refusal)> {
        let catalogue = self.catalogue();
        let all = catalogue.all().iter();
        all.filter_map(|kept| Some((kept.row.digest, kept.quarantine()?)))
            .collect()
    }

    /// Takes an image away, unless a device runs it or could go back to it, or its file still lies in the watch folder.
    pub async fn remove(&self, digest: &Sha256) -> Result<(), RepositoryError> {
        let _changing = self.inner.changing.lock().await;
        let name = self.name(digest)?;
        if let Some(file_name) = locked(&self.inner.folder).file_of(*digest) {
            return Err(RepositoryError::InFolder { name, file_name });
        }
        self.inner
            .store
            .remove_firmware(*digest)
            .await
            .map_err(|error| self.in_words(error))?;
        self.reload().await?;
        self.tell(Change {
            kind: ChangeKind::Removed,
            digest: Some(*digest),
            text: format!("{name} was removed."),
            name,
        });
        Ok(())
    }

    /// The release notes of an image.
    pub async fn notes(&self, digest: &Sha256) -> Result<Option<String>, RepositoryError> {
        let row = self.inner.store.firmware_row(*digest).await?;
        let row = row.ok_or_else(|| RepositoryError::NotFound {
            what: digest.to_string(),
        })?;
        Ok(row.notes)
    }

    /// Gives an image release notes, of which the first 64 KiB are kept; empty ones take them away.
    pub async fn set_notes(&self, digest: &Sha256, notes: &str) -> Result<(), RepositoryError> {
        let _changing = self.inner.changing.lock().await;
        let name = self.name(digest)?;
        let notes = bounded_notes(notes);
        let Some(row) = self.inner.store.firmware_row(*digest).await? else {
            return Ok(());
        };
        if row.notes == notes {
            return Ok(());
        }
        self.inner
            .store
            .put_firmware(&FirmwareRow { notes, ..row })
            .await?;
        self.reload().await?;
        self.tell(Change {
            kind: ChangeKind::Notes,
            digest: Some(*digest),
            text: format!("The release notes of {name} are others."),
            name,
        });
        Ok(())
    }

    /// What is wrong with the folder and the feeds, for the report on health.
    pub async fn troubles(&self) -> Vec<NoteView> {
        let mut troubles = Vec::new();
        if let Some(FolderView {
            path,
            trouble: Some(trouble),
            ..
        }) = self.folder()
        {
            troubles.push(NoteView {
                rule: "firmware-folder".to_owned(),
                text: format!("The firmware folder {path}: {trouble}"),
            });
        }
        for feed in self.feeds().await.unwrap_or_default() {
            if let Some(error) = feed.error {
                troubles.push(NoteView {
                    rule: "feed".to_owned(),
                    text: format!("The download {}: {error}", feed.name),
                });
            }
        }
        troubles
    }

    /// The watch folder as it was read last; none where none is configured.
    pub fn folder(&self) -> Option<FolderView> {
        let settings = self.settings();
        Some(locked(&self.inner.folder).view(settings.folder.as_deref()?))
    }

    fn catalogue(&self) -> Arc<Catalogue> {
        let catalogue = self.inner.catalogue.read();
        Arc::clone(&catalogue.unwrap_or_else(PoisonError::into_inner))
    }

    async fn reload(&self) -> Result<(), StoreError> {
        let mut rows = Vec::new();
        for row in self.inner.store.firmware().await? {
            let names = self.inner.store.image_names(row.digest).await?;
            rows.push((row, names));
        }
        let catalogue = Arc::new(Catalogue::new(rows, &self.inner.families));
        *self
            .inner
            .catalogue
            .write()
            .unwrap_or_else(PoisonError::into_inner) = catalogue;
        Ok(())
    }

    /// The devices that run each image, by their keys.
    async fn running(&self) -> Result<HashMap<Sha256, Vec<String>>, StoreError> {
        let mut running: HashMap<Sha256, Vec<String>> = HashMap::new();
        for row in self.inner.store.fleet().await? {
            if let Some(digest) = row.installed.as_ref().and_then(|installed| installed.digest) {
                running.entry(digest).or_default().push(row.id.key());
            }
        }
        Ok(running)
    }

    /// Takes in what was pushed by hand, past the repository: it is kept as a way back and has to be told of.
    async fn adopt(&self) -> Result<HashMap<Sha256, Vec<String>>, RepositoryError> {
        let running = self.running().await?;
        for &digest in running.keys() {
            if self.catalogue().get(digest).is_some() {
                continue;
            }
            let names = self.inner.store.image_names(digest).await?;
            let Some(name) = names.first() else { continue };
            match self.inner.store.image(digest, &name.file_name).await {
                Ok(Some(image)) => {
                    self.add(&image, &Source::Push, "push").await?;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%digest, error = &error as &dyn std::error::Error, "an image that was pushed cannot be read");
                }
            }
        }
        Ok(running)
    }

    fn name(&self, digest: &Sha256) -> Result<String, RepositoryError> {
        let catalogue = self.catalogue();
        let kept = catalogue.get(*digest).ok_or_else(|| RepositoryError::NotFound {
            what: digest.to_string(),
        })?;
        Ok(kept.name.clone())
    }

    fn in_words(&self, error: FirmwareError) -> RepositoryError {
        let name = |digest: Sha256| self.name(&digest).unwrap_or_else(|_| digest.short());
        match error {
            FirmwareError::InUse { digest, by } => RepositoryError::InUse {
                name: name(digest),
                reason: match by {
                    FirmwareUse::Runs { device } => format!("device {device} runs it"),
                    FirmwareUse::WayBack { device } => format!("it is the way back of device {device}"),
                    FirmwareUse::Pinned { device } => format!("device {device} is pinned to it"),
                    FirmwareUse::Job(job) => format!("job {job} is about to send it"),
                    FirmwareUse::Rollout(rollout) => format!("rollout {rollout} needs it"),
                },
            },
            FirmwareError::NotApprovable { digest, state } => RepositoryError::NotApprovable {
                name: name(digest),
                state,
            },
            FirmwareError::Unknown(digest) => RepositoryError::NotFound {
                what: digest.to_string(),
            },
            FirmwareError::Image(error) => error.into(),
            FirmwareError::Store(error) => error.into(),
        }
    }

    fn tell(&self, change: Change) {
        tracing::info!(event = change.kind.event(), name = change.name, "{}", change.text);
        // Without listeners it is only logged.
        let _ = self.inner.changes.send(change);
    }
}

/// The room left on the disk of a folder.
fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests;
