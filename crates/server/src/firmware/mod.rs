//! The firmware repository: images from the watch folder, from uploads and from vendors, and which of them is offered to whom.
//!
//! Images are inspected when they come; what is refused is kept and shown with its reasons, and never offered.

mod catalogue;
mod feeds;
pub mod fetch;
mod folder;
mod index;
#[cfg(test)]
pub(crate) mod testing;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use engine::Clock;
use model::device::Device;
use model::family::Family;
use model::firmware::State;
use model::id::{FamilyId, Sha256};
use model::image::{Image, ImageInfo, Inspection, Override, Refusal, VersionSource};
use model::installed::Installed;
use model::release::{self, Runs, Wishes};
use model::version::{Relation, Versions};
use proto::content_disposition;
use store::{FirmwareError, FirmwareRow, FirmwareUse, ImageError, InventoryError, Store, StoreError};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::views::{FirmwareListView, FirmwareView, FolderView, InstalledView, NoteView, OfferView};
use catalogue::{Catalogue, Kept, family_of};
use fetch::{Fetcher, Limits};

pub use feeds::{CheckError, FeedFile, UnknownFeed, fetch_once};

/// Longest release notes kept, bytes.
pub const NOTES_MAX_LEN_BYTES: usize = 64 * 1024;

/// How many judgements of an image for a kind of device are remembered. Guess: far more than a home has kinds of devices.
const N_FITS: usize = 4096;

/// How many changes wait for a slow listener, who then has to read the list again.
const N_CHANGES: usize = 256;

/// What the owner has configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder that images can be dropped into.
    pub folder: Option<PathBuf>,
    /// Addresses of feeds that differ from the vendors', by family and key.
    pub feed_urls: BTreeMap<FamilyId, BTreeMap<String, String>>,
    /// How often the feeds of a family are looked at; those that are not named: weekly.
    pub check_every: BTreeMap<FamilyId, Duration>,
    /// Remote indexes.
    pub indexes: Vec<Index>,
    /// Whether only signed images may be offered. No signature is verified yet: then every image waits for its approval.
    pub require_signature: bool,
    /// Bounds of downloads.
    pub limits: Limits,
    /// How the folder is watched.
    pub pace: Pace,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            folder: None,
            feed_urls: BTreeMap::new(),
            check_every: BTreeMap::new(),
            indexes: Vec::new(),
            require_signature: false,
            limits: Limits::default(),
            pace: Pace::default(),
        }
    }
}

/// A list of images kept by somebody else.
#[derive(Clone, Debug)]
pub struct Index {
    /// Where it is.
    pub url: String,
    /// The key that it is signed with. Not used yet: images of an index wait for approval.
    pub public_key: Option<String>,
}

/// How the watch folder is read.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long a file must not change before it is taken for whole.
    pub settle: Duration,
    /// The same for a file about which the inspection warns: it may be a part of one.
    pub settle_doubtful: Duration,
    /// How often the folder is read without being told of a change: network shares tell nothing.
    pub rescan: Duration,
}

impl Default for Pace {
    /// Taste: with these, a dropped file is offered within 2 s, and a copy that stalls for 10 s is still not taken in half.
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(750),
            settle_doubtful: Duration::from_secs(10),
            rescan: Duration::from_secs(10),
        }
    }
}

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
            Self::Removed => "firmware.removed",
            Self::Notes => "firmware.notes",
            Self::Alarm => "firmware.alarm",
            Self::Feed => "firmware.feed",
            Self::Folder => "firmware.folder",
            Self::Running => "firmware.running",
        }
    }
}

/// Why something was not done with an image. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// There is no such image.
    #[error("there is no image {what}")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// A path that does not lie in the watch folder.
    #[error("{path} is not a file of the firmware folder")]
    Outside {
        /// The path.
        path: String,
    },
    /// It is needed.
    #[error("{name} is kept: {reason}")]
    InUse {
        /// The image's name.
        name: String,
        /// A device, or a job, and what for.
        reason: String,
    },
    /// Its file lies in the watch folder and would bring it back.
    #[error("{name} would come back at once: its file {file_name} lies in the firmware folder")]
    InFolder {
        /// The image's name.
        name: String,
        /// The file.
        file_name: String,
    },
    /// Approval does not help it.
    #[error("{name} is {} and cannot be approved", state.name())]
    NotApprovable {
        /// The image's name.
        name: String,
        /// How it stands.
        state: State,
    },
    /// It cannot be what the device runs.
    #[error("{name} cannot be what the device runs: {reason}")]
    NotRunning {
        /// The image's name.
        name: String,
        /// Why not.
        reason: String,
    },
    /// The device is not known.
    #[error("storing what the device runs")]
    Device(#[source] InventoryError),
    /// Its file could not be read or written.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RepositoryError {
    /// What to do about it, in one sentence.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "Look at the list of images for its name or its digest.",
            Self::Outside { .. } => "Name the image by its version, its file name or its digest.",
            Self::InUse { .. } => "Update these devices to other images first, or leave it.",
            Self::InFolder { .. } => "Take the file out of the folder first.",
            Self::NotApprovable {
                state: State::Blocked,
                ..
            } => {
                "Compare both files with the vendor's; if this one is right, remove it here and upload it yourself."
            }
            Self::NotApprovable { .. } => "See the reasons why it is refused.",
            Self::NotRunning { .. } => "Look up which file the device was flashed with.",
            Self::Device(_) => "Add the device first.",
            Self::Image(ImageError::Full { .. }) => {
                "Make room on the disk of the state folder, and try again."
            }
            Self::Image(ImageError::Corrupt { .. }) => "Add the file again.",
            Self::Image(_) | Self::Store(_) => "See the server's log.",
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
    settings: Settings,
    fetcher: Fetcher,
    catalogue: RwLock<Arc<Catalogue>>,
    /// Why an image does not fit a kind of device, as it was found out.
    fits: Mutex<HashMap<(Sha256, String), Arc<[Refusal]>>>,
    folder: Mutex<folder::Folder>,
    changes: broadcast::Sender<Change>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
    /// One look at the feeds at a time.
    looking: tokio::sync::Mutex<()>,
}

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
                settings,
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
            let in_folder = self.inner.settings.folder.as_deref().and_then(|path| {
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
        };
        if !row.refusals.is_empty() {
            row.state = State::Refused;
        } else if let Some((name, other)) = rival.flatten() {
            row.state = State::Blocked;
            row.refusals = vec![other_bytes(image.file_name(), &name, other)];
        } else if row.state == State::Approved && self.inner.settings.require_signature {
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
                file_name: kept.row.file_name.clone(),
                why_not: release::why_not(family, device, runs, offered, &refusals, wishes),
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
        InstalledView {
            sha256: record.digest.map(|digest| digest.to_string()),
            name: believed.map_or_else(|| family.words(seen), |kept| kept.name.clone()),
            kept: kept.is_some(),
        }
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
        let path = self.inner.settings.folder.as_deref()?;
        Some(locked(&self.inner.folder).view(path))
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

/// What the families say of a file: accepted by one is enough.
///
/// A family whose devices are never guessed takes a file only where no other does. Of those that refuse, the one that knows
/// whose file it is tells why.
fn inspect(families: &[Arc<dyn Family>], image: &Image) -> (ImageInfo, Vec<Refusal>) {
    let mut refused: Option<(ImageInfo, Vec<Refusal>)> = None;
    let guessable_first = families
        .iter()
        .filter(|family| family.guessable())
        .chain(families.iter().filter(|family| !family.guessable()));
    for family in guessable_first {
        match family.inspect(image) {
            Inspection::NotMine => {}
            Inspection::Accepted(info) => return (info, Vec::new()),
            Inspection::Refused(info, refusals) => {
                let is_better = match &refused {
                    None => true,
                    Some((known, _)) => known.family.is_none() && info.family.is_some(),
                };
                if is_better {
                    refused = Some((info, refusals));
                }
            }
        }
    }
    refused.unwrap_or_else(|| (unknown(image), vec![nobodys()]))
}

/// The image under a name that is that of a plain file (RELIABILITY.md T17): the last component, or none worth keeping.
fn plainly_named(image: &Image) -> Image {
    match content_disposition::last_component(image.file_name()) {
        Ok(name) if name == image.file_name() => image.clone(),
        Ok(name) => Image::new(&name, Arc::clone(image.bytes())),
        Err(_) => Image::new("unnamed", Arc::clone(image.bytes())),
    }
}

/// What is stored of an image that has come again, if that changes anything.
fn better(known: FirmwareRow, new: FirmwareRow) -> Option<FirmwareRow> {
    let is_step_up = match (known.state, new.state) {
        // Under its right name it is no longer refused.
        (State::Refused, state) => state != State::Refused,
        (State::Quarantined | State::Waiting, State::Approved) => true,
        // What was blocked stays so, and nothing takes an approval back.
        _ => false,
    };
    is_step_up.then(|| FirmwareRow {
        added_ms: known.added_ms,
        notes: known.notes,
        ..new
    })
}

fn first_text(refusals: &[Refusal]) -> String {
    refusals
        .first()
        .map(|refusal| refusal.text.clone())
        .unwrap_or_default()
}

fn unknown(image: &Image) -> ImageInfo {
    ImageInfo {
        family: None,
        kind: "unknown".to_owned(),
        chip: None,
        versions: None,
        version_source: VersionSource::FileName,
        hint: None,
        project: None,
        signature: None,
        len_bytes: image.len_bytes(),
        sha256: image.sha256(),
        warnings: Vec::new(),
    }
}

fn nobodys() -> Refusal {
    Refusal {
        rule: "unknown-kind".to_owned(),
        text: "No family of devices knows this kind of file.".to_owned(),
        next_step: "Give the file the name that its vendor gave it.".to_owned(),
        overriding: Override::Never,
    }
}

fn other_bytes(file_name: &str, name: &str, other: Sha256) -> Refusal {
    Refusal {
        rule: "other-bytes".to_owned(),
        text: format!(
            "{file_name} came with other bytes than {name} ({}), which is here under this name or version.",
            other.short()
        ),
        next_step: "Ask the vendor which of the two is right before you use either.".to_owned(),
        overriding: Override::Never,
    }
}

fn open_way() -> Refusal {
    Refusal {
        rule: "open-way".to_owned(),
        text: "It came over plain HTTP, where anybody on the way could have changed it.".to_owned(),
        next_step: "Compare its SHA-256 with the vendor's or another home's, then approve it.".to_owned(),
        overriding: Override::Possible,
    }
}

fn not_readable(text: &str) -> Refusal {
    Refusal {
        rule: "artifact-corrupt".to_owned(),
        text: text.to_owned(),
        next_step: "Add the file again.".to_owned(),
        overriding: Override::Possible,
    }
}

/// Release notes as they are kept: without control characters, at most 64 KiB; none if nothing is left.
fn bounded_notes(notes: &str) -> Option<String> {
    let mut kept: String = notes
        .chars()
        .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
        .collect();
    kept.truncate(kept.floor_char_boundary(NOTES_MAX_LEN_BYTES));
    let kept = kept.trim();
    (!kept.is_empty()).then(|| kept.to_owned())
}

/// The room left on the disk of a folder.
fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests;
