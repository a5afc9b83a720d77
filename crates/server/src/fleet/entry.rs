//! One device in memory, and what is shown of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use model::device::{Device, Hardware, Ota, Snapshot};
use model::family::Family;
use model::id::{DeviceId, Strength};
use model::inventory::{Presence, State};
use model::version::Versions;
use store::FleetRow;
use tokio::time::Instant;

use crate::firmware::Repository;
use crate::views::{ConflictView, DeviceView, InstalledView, NoteView, OfferView, SupportView};

/// A health sample is kept at most this often unless something changed. Guess: a day of 144 points shows every trend,
/// and polls without a sample cost half.
const SAMPLE_EVERY_MS: i64 = 600_000;
/// How much an uptime may fall short of what had to be expected before it means a restart: whole seconds, and a late answer.
const UPTIME_SLACK: Duration = Duration::from_secs(3);

/// One device in memory.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, set and read in another place"
)]
pub(super) struct Entry {
    pub(super) row: FleetRow,
    pub(super) family: Arc<dyn Family>,
    pub(super) presence: Presence,
    /// Why the last look failed.
    pub(super) trouble: Option<String>,
    pub(super) conflict: Option<Conflict>,
    pub(super) next_look: Instant,
    pub(super) looking: bool,
    /// A job of ours works on it: it is not looked at meanwhile, and it is not offline (RELIABILITY.md F43).
    pub(super) held: bool,
    /// Looks since the last full one, and that one; none before it.
    pub(super) glances: u32,
    /// When the snapshot was taken, on the clock since boot.
    pub(super) snapshot_at: Option<Duration>,
    pub(super) sampled_ms: i64,
    /// The last heartbeat by a broker, on the clock since boot.
    pub(super) heard_at: Option<Duration>,
    /// The newest image that fits it, as it was worked out last.
    pub(super) offer: Option<OfferView>,
    /// What the offer depends on has changed since.
    pub(super) offer_due: bool,
    /// Whether the first offer that is worked out is no news.
    pub(super) offer_told: bool,
    /// The image that was told of as offered.
    pub(super) told_offer: Option<String>,
}

/// Two devices in one place, or one in two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    /// One identity at two addresses.
    Clones { addresses: [IpAddr; 2], misses: [u8; 2] },
    /// Two identities in turn at one address; it is over when they have kept apart until then.
    Quarrel {
        address: IpAddr,
        with: DeviceId,
        until: Duration,
    },
}

impl Conflict {
    fn view(&self) -> ConflictView {
        match self {
            Self::Clones { addresses: [one, other], .. } => ConflictView {
                kind: "one-mac-two-addresses".to_owned(),
                text: format!("Two devices claim this identity: one at {one} and one at {other}."),
                next_step: "Find out which of the two is yours and disconnect the other. Updates wait until only one answers."
                    .to_owned(),
            },
            Self::Quarrel { address, with, .. } => ConflictView {
                kind: "one-address-two-macs".to_owned(),
                text: format!("This device and {with} answer in turn at {address}."),
                next_step: "Give each of the two an address of its own. Updates wait until they keep apart.".to_owned(),
            },
        }
    }
}

impl Entry {
    pub(super) fn new(row: FleetRow, family: Arc<dyn Family>, state: State, now: Instant) -> Self {
        Self {
            row,
            family,
            presence: Presence::restored(state),
            trouble: None,
            conflict: None,
            next_look: now,
            looking: false,
            held: false,
            glances: 0,
            snapshot_at: None,
            sampled_ms: 0,
            heard_at: None,
            offer: None,
            offer_due: true,
            offer_told: false,
            told_offer: None,
        }
    }

    pub(super) fn key(&self) -> String {
        self.row.id.key()
    }

    /// What to call it.
    pub(super) fn name(&self) -> String {
        if let Some(name) = &self.row.name {
            return name.clone();
        }
        let id = &self.row.id;
        let tail = match id.mac() {
            // The last three bytes, as on its label (INTERFACES.md section 5).
            Some(mac) => mac[6..].to_uppercase(),
            None => id.hardware.clone(),
        };
        format!("{} {tail}", self.family.title())
    }

    /// Takes in what a look has shown. Says whether the device has restarted since the look before.
    pub(super) fn take(&mut self, mut seen: Snapshot, at: Duration) -> bool {
        let mut restarted = false;
        if let Some(before) = &self.row.snapshot {
            fill(&mut seen.hardware, &before.hardware);
            seen.health.signal_dbm = seen.health.signal_dbm.or(before.health.signal_dbm);
            seen.host_name = seen.host_name.or_else(|| before.host_name.clone());
            self.offer_due |= before.versions != seen.versions || before.hardware != seen.hardware;
            if let (Some(was), Some(is)) = (before.uptime, seen.uptime) {
                let expected = match self.snapshot_at {
                    Some(then) => was + at.saturating_sub(then),
                    None => was,
                };
                restarted = is + UPTIME_SLACK < expected && is < was;
            }
        }
        self.row.snapshot = Some(seen);
        self.snapshot_at = Some(at);
        if restarted {
            self.row.restarts = self.row.restarts.saturating_add(1);
        }
        restarted
    }

    /// Whether its health is worth a sample now.
    pub(super) fn sample_due(&self, wall_ms: i64, changed: bool) -> bool {
        changed || wall_ms - self.sampled_ms >= SAMPLE_EVERY_MS
    }

    /// Why nothing is sent to it; none where nothing stands against it.
    pub(super) fn conflict_text(&self) -> Option<String> {
        self.conflict.as_ref().map(|conflict| conflict.view().text)
    }

    /// The device as its family needs it to decide.
    pub(super) fn device(&self) -> Device {
        let snapshot = self.row.snapshot.as_ref();
        let mut hardware = snapshot
            .map(|snapshot| snapshot.hardware.clone())
            .unwrap_or_default();
        hardware.chip = hardware.chip.or_else(|| self.row.chip.clone());
        Device {
            id: self.row.id.clone(),
            address: self.row.address.unwrap_or(IpAddr::from([0, 0, 0, 0])),
            hardware,
            slot_bytes: self.row.slot_bytes,
            versions: snapshot
                .map(|snapshot| snapshot.versions.clone())
                .unwrap_or_default(),
        }
    }

    /// How long it has been up by now, if it still is.
    fn uptime_s(&self, now: Duration) -> Option<u64> {
        let uptime = self.row.snapshot.as_ref()?.uptime?;
        let since = match (self.presence.state(), self.snapshot_at) {
            (State::Online, Some(at)) => now.saturating_sub(at),
            _ => Duration::ZERO,
        };
        Some((uptime + since).as_secs())
    }

    /// Whether its uptime is the one that a heartbeat tells.
    pub(super) fn is_up_for(&self, uptime: Duration, now: Duration) -> bool {
        /// A heartbeat and a look are seconds apart, and both tell whole seconds.
        const APART_S: u64 = 5;
        self.uptime_s(now)
            .is_some_and(|own| own.abs_diff(uptime.as_secs()) <= APART_S)
    }

    /// What the API says of it.
    pub(super) fn view(&self, repository: &Repository, facts: Facts, now: Duration) -> DeviceView {
        let row = &self.row;
        let snapshot = row.snapshot.as_ref();
        let device = self.device();
        let online = self.presence.state() == State::Online;
        let (installed, latest) = self.installed_and_latest(repository);
        let (reported_version, versions) = match snapshot {
            Some(snapshot) if !snapshot.versions.is_empty() => {
                (Some(snapshot.versions.to_string()), snapshot.versions.parts())
            }
            _ => (None, Vec::new()),
        };
        DeviceView {
            id: row.id.key(),
            family: row.id.family.as_str().to_owned(),
            title: self.family.title().to_owned(),
            name: self.name(),
            named: row.name.is_some(),
            identity: match row.id.strength {
                Strength::Hardware => "hardware",
                Strength::Weak => "weak",
            }
            .to_owned(),
            mac: row.id.mac().map(str::to_owned),
            address: row.address,
            host_name: snapshot.and_then(|snapshot| snapshot.host_name.clone()),
            sources: row.sources.clone(),
            configured: facts.configured,
            enrolled: row.enrolled_ms.is_some(),
            enrolled_ms: row.enrolled_ms,
            state: self.presence.state(),
            trouble: self.trouble.clone(),
            first_seen_ms: row.first_seen_ms,
            last_seen_ms: row.seen_ms,
            reported_version,
            versions: versions
                .into_iter()
                .map(|(part, text)| (part.to_owned(), text.to_owned()))
                .collect(),
            model: device.hardware.model.clone(),
            chip: device.hardware.chip.clone(),
            chip_revision: device.hardware.chip_revision,
            flash_bytes: device.hardware.flash_bytes,
            slot_bytes: row.slot_bytes,
            free_heap_bytes: snapshot.and_then(|snapshot| snapshot.health.free_heap_bytes),
            uptime_s: if online { self.uptime_s(now) } else { None },
            signal_dbm: snapshot.and_then(|snapshot| snapshot.health.signal_dbm),
            running: snapshot.and_then(|snapshot| snapshot.health.running),
            restarts: row.restarts,
            ota: match snapshot.map_or(Ota::Unknown, |snapshot| snapshot.ota) {
                Ota::Enabled => "enabled",
                Ota::Disabled => "disabled",
                Ota::Unknown => "unknown",
            }
            .to_owned(),
            ota_wanted: row.ota_wanted,
            busy: snapshot.is_some_and(|snapshot| snapshot.busy),
            has_password: facts.has_password,
            installed,
            latest,
            offered: self.is_offered(),
            supported: self.supported(),
            job: None,
            last_update: None,
            way_back: Vec::new(),
            estimate_s: None,
            tags: row.tags.clone(),
            group: row.group.clone(),
            pinned: row.pinned.clone(),
            skipped: row.skipped.clone(),
            conflict: self.conflict.as_ref().map(Conflict::view),
            warnings: self.warnings(facts),
        }
    }

    /// Whether there is something worth installing.
    pub(super) fn is_offered(&self) -> bool {
        let may_be_updated = self.row.enrolled_ms.is_some() && self.conflict.is_none();
        may_be_updated && self.offer.as_ref().is_some_and(|offer| offer.why_not.is_none())
    }

    /// What it runs: what is recorded of it, else what it says.
    pub(super) fn runs(&self, repository: &Repository) -> InstalledView {
        let nothing = Versions::default();
        let snapshot = self.row.snapshot.as_ref();
        let seen = snapshot.map_or(&nothing, |snapshot| &snapshot.versions);
        if let Some(record) = &self.row.installed {
            return repository.installed_view(&*self.family, record, seen);
        }
        let name = self.family.words(seen);
        InstalledView {
            sha256: None,
            text: name.clone(),
            name,
            kept: false,
        }
    }

    /// What it runs, and the newest image for it; where these are two and are called the same, the latter is told apart.
    fn installed_and_latest(&self, repository: &Repository) -> (Option<InstalledView>, Option<OfferView>) {
        let runs = self.runs(repository);
        let mut latest = self.offer.clone();
        if let Some(offer) = &mut latest {
            let is_this = runs.sha256.as_ref() == Some(&offer.sha256);
            let is_another = runs.sha256.is_some() || self.is_offered();
            if !is_this && is_another && offer.text == runs.text {
                let short: String = offer.sha256.chars().take(8).collect();
                offer.text = format!("{} ({short})", offer.text);
            }
        }
        let told = self.row.installed.is_some() || !runs.name.is_empty();
        (told.then_some(runs), latest)
    }

    /// Whether it can be updated at all, as far as it has told what it is.
    fn supported(&self) -> SupportView {
        let device = self.device();
        let refusal = self
            .row
            .snapshot
            .as_ref()
            .and_then(|_| self.family.never_takes(&device));
        refusal.map_or_else(SupportView::default, |refusal| SupportView {
            install: false,
            why_not: Some(refusal.text),
            next_step: Some(refusal.next_step),
        })
    }

    fn warnings(&self, facts: Facts) -> Vec<NoteView> {
        let mut warnings = Vec::new();
        let mut warn = |rule: &str, text: &str| {
            warnings.push(NoteView {
                rule: rule.to_owned(),
                text: text.to_owned(),
            });
        };
        if facts.default_password && self.row.enrolled_ms.is_some() {
            warn(
                "default-password",
                "Its password is the one that everybody knows: give it its own.",
            );
        }
        if self.row.id.strength == Strength::Weak {
            warn(
                "identity-weak",
                "It does not tell a MAC address or serial number: another device could stand there tomorrow.",
            );
        }
        warnings
    }
}

/// What only the settings tell of a device.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    pub(super) configured: bool,
    pub(super) has_password: bool,
    pub(super) default_password: bool,
}

/// What an earlier, closer look has told stays true.
fn fill(hardware: &mut Hardware, before: &Hardware) {
    let Hardware {
        model,
        chip,
        chip_revision,
        flash_bytes,
    } = before;
    hardware.model = hardware.model.take().or_else(|| model.clone());
    hardware.chip = hardware.chip.take().or_else(|| chip.clone());
    hardware.chip_revision = hardware.chip_revision.or(*chip_revision);
    hardware.flash_bytes = hardware.flash_bytes.or(*flash_bytes);
}
