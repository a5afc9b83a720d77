//! What the API says of things: plain data, written down once for the server, the command line and the documentation.
//!
//! Times are milliseconds since 1970 (UTC), sizes bytes, signal dBm; what is not known is `null`.

mod notify;
mod rollouts;
mod timetable;

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::access::Role;
use model::firmware::State;
use model::inventory::State as DeviceState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use notify::*;
pub use rollouts::*;
pub use timetable::*;

/// A device, as far as it is known.
#[expect(
    clippy::struct_excessive_bools,
    reason = "it is a record of facts for JSON, not a state machine"
)]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceView {
    /// Its key in every route: twelve hexadecimal digits where its identity is a MAC address.
    pub id: String,
    /// Its family, as `ir-remote`.
    pub family: String,
    /// What one of its family is called: "IR Remote Mini".
    pub title: String,
    /// What people call it; made of the family and the identity where nobody named it.
    pub name: String,
    /// Whether the name was given by its owner.
    pub named: bool,
    /// `hardware`, or `weak` where it is only an address or a host name.
    pub identity: String,
    /// Its MAC address as twelve hexadecimal digits, where its identity is one.
    pub mac: Option<String>,
    /// Where it was seen last; null where only a broker told of it.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// What it calls itself on the network.
    pub host_name: Option<String>,
    /// Who told of it: `config`, `added`, `scan`, `mdns`, `mqtt`, `push`.
    pub sources: Vec<String>,
    /// Whether it is listed in the configuration, where alone it can be taken away.
    pub configured: bool,
    /// Whether it may get a password answer or an image.
    pub enrolled: bool,
    /// When it was enrolled, and by whom.
    pub enrolled_ms: Option<i64>,
    /// `online`, `offline`, `unknown` (never reached), `unreadable` (answers, but not in a way that can be read).
    #[schema(value_type = String)]
    pub state: DeviceState,
    /// Why the last look failed; null after one that went well.
    pub trouble: Option<String>,
    /// When it was seen first.
    pub first_seen_ms: i64,
    /// When it answered last.
    pub last_seen_ms: Option<i64>,
    /// The version it reports, in one line.
    pub reported_version: Option<String>,
    /// The versions it reports, by part.
    pub versions: BTreeMap<String, String>,
    /// Its model, as its family names it.
    pub model: Option<String>,
    /// Its chip, as `esp32c6`.
    pub chip: Option<String>,
    /// Its chip's revision as major × 100 + minor.
    pub chip_revision: Option<u16>,
    /// Its flash.
    pub flash_bytes: Option<u64>,
    /// The largest image that it takes, where its owner says so.
    pub slot_bytes: Option<u64>,
    /// Free heap.
    pub free_heap_bytes: Option<u64>,
    /// How long it has been up, seconds.
    pub uptime_s: Option<u64>,
    /// Signal strength.
    pub signal_dbm: Option<i32>,
    /// Whether the machine that it controls is switched on.
    pub running: Option<bool>,
    /// How often it has restarted since it is known.
    pub restarts: u32,
    /// `enabled`, `disabled`, `unknown`.
    pub ota: String,
    /// Whether its owner wants updates to be possible; null where he has not said.
    pub ota_wanted: Option<bool>,
    /// Whether it is in the middle of an update.
    pub busy: bool,
    /// Whether a password is known for it.
    pub has_password: bool,
    /// What it is believed to run; null where it has never told.
    pub installed: Option<InstalledView>,
    /// The newest approved image that fits it.
    pub latest: Option<OfferView>,
    /// Whether that image is worth installing: it fits, is newer, and is neither skipped nor barred by a pin.
    pub offered: bool,
    /// Whether it can be updated at all.
    #[serde(default)]
    pub supported: SupportView,
    /// Its update that is under way, or waits, or was the last; null where there was none.
    #[serde(default)]
    pub job: Option<DeviceJobView>,
    /// Its last update that has ended.
    #[serde(default)]
    pub last_update: Option<LastUpdateView>,
    /// The images that it ran before and that are kept, the last first, in words: what it can go back to.
    #[serde(default)]
    pub way_back: Vec<String>,
    /// How long an update to the newest image would take, seconds, without the time that it is watched afterwards.
    #[serde(default)]
    pub estimate_s: Option<u64>,
    /// Words its owner sorts by.
    pub tags: Vec<String>,
    /// The group it belongs to.
    pub group: Option<String>,
    /// The version or digest that it is to stay at.
    pub pinned: Option<String>,
    /// Versions or digests that its owner does not want.
    pub skipped: Vec<String>,
    /// Set where two devices claim one identity or one address: nothing is sent until that is solved.
    pub conflict: Option<ConflictView>,
    /// What its owner should know.
    pub warnings: Vec<NoteView>,
}

/// What a device is believed to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstalledView {
    /// The image; null where a push could not be proven.
    pub sha256: Option<String>,
    /// In words: the release's name, else what the device reports.
    pub name: String,
    /// The same, to be compared with that of the newest image: two images never share it.
    #[serde(default)]
    pub text: String,
    /// Whether the image is kept here, so that there is a way back to it.
    pub kept: bool,
}

/// An image offered to a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OfferView {
    /// The image.
    pub sha256: String,
    /// In words: its version, else its file name.
    pub name: String,
    /// The same, to be compared with that of what is installed: two images never share it.
    #[serde(default)]
    pub text: String,
    /// Its file name.
    pub file_name: String,
    /// Why it is not offered although it is the newest; null where it is.
    pub why_not: Option<String>,
}

/// Whether a device can be updated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SupportView {
    /// Whether it takes images at all.
    pub install: bool,
    /// Why not.
    pub why_not: Option<String>,
    /// What to do about it.
    pub next_step: Option<String>,
}

impl Default for SupportView {
    fn default() -> Self {
        Self {
            install: true,
            why_not: None,
            next_step: None,
        }
    }
}

/// How an update of a device stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceJobView {
    /// The job's number; null while it waits in a rollout for its turn.
    pub id: Option<i64>,
    /// The rollout that it belongs to; null for a push by hand.
    pub rollout: Option<i64>,
    /// Where it stands, or how it ended: see the states of a rollout's devices.
    pub state: String,
    /// Whether it goes on now: it has begun and has not ended.
    pub running: bool,
    /// How much of the image has arrived, of a hundred; only while it is uploaded.
    pub percent: Option<u8>,
    /// The image that it brings, in words.
    pub firmware: Option<String>,
    /// The reason's name.
    pub reason: Option<String>,
    /// What happened, in a sentence.
    pub text: Option<String>,
    /// What to do about it.
    pub next_step: Option<String>,
}

/// How an update of a device ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastUpdateView {
    /// The job's number.
    pub job: i64,
    /// The rollout that it belonged to; null for a push by hand.
    pub rollout: Option<i64>,
    /// Its word: `updated`, `updated-label-unchanged`, `already-current`, `kept-old`, `rolled-back`, `failed`, `unverified`,
    /// `refused`, `cancelled`, or `unknown`.
    pub outcome: String,
    /// Whether the device runs the image, as far as can be proven.
    pub ok: bool,
    /// The image that it brought, in words.
    pub firmware: Option<String>,
    /// When it ended.
    pub ended_ms: Option<i64>,
    /// The reason's name.
    pub reason: Option<String>,
    /// What happened, in a sentence.
    pub text: Option<String>,
    /// What to do about it.
    pub next_step: Option<String>,
}

/// Two devices in one place, or one in two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConflictView {
    /// `one-mac-two-addresses` or `one-address-two-macs`.
    pub kind: String,
    /// What happened, in one sentence.
    pub text: String,
    /// What to do about it.
    pub next_step: String,
}

/// A named remark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NoteView {
    /// Its name, for programs.
    pub rule: String,
    /// Its sentence, for people.
    pub text: String,
}

/// One look at a device's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthView {
    /// When.
    pub at_ms: i64,
    /// Whether it answered.
    pub online: bool,
    /// How long it had been up, seconds.
    pub uptime_s: Option<u64>,
    /// Free heap.
    pub free_heap_bytes: Option<u64>,
    /// Signal strength.
    pub signal_dbm: Option<i32>,
    /// Whether it had restarted since the look before.
    pub restarted: bool,
}

/// A firmware image in the repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FirmwareView {
    /// The image's only name.
    pub sha256: String,
    /// Its file name.
    pub file_name: String,
    /// Every other name under which it came.
    pub also_named: Vec<String>,
    /// In words: its version, else its file name; no two images share it.
    pub name: String,
    /// Its length.
    pub len_bytes: u64,
    /// The family whose file it is.
    pub family: Option<String>,
    /// What kind of file it is, as `esp-app`.
    pub kind: String,
    /// The chip it is for.
    pub chip: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Where the version is from: `image`, `file-name`, `none`.
    pub version_source: String,
    /// The project it names.
    pub project: Option<String>,
    /// What is known of its signature.
    pub signature: Option<String>,
    /// Whether it may be offered at all.
    #[schema(value_type = String)]
    pub state: State,
    /// Why it is refused, quarantined or blocked.
    pub refusals: Vec<RefusalView>,
    /// What its owner should know.
    pub warnings: Vec<NoteView>,
    /// How it came: `upload`, `folder`, `feed`, `push`, `running-on`, `index`.
    pub source: String,
    /// Where from: a feed's address.
    pub origin: Option<String>,
    /// When it came.
    pub added_ms: i64,
    /// Who approved it.
    pub approved_by: Option<String>,
    /// When it was approved.
    pub approved_ms: Option<i64>,
    /// The models it is the newest for.
    pub latest_for: Vec<String>,
    /// The devices that run it, by id.
    pub running_on: Vec<String>,
    /// Whether it has release notes.
    pub has_notes: bool,
}

/// Why something is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusalView {
    /// The rule's name.
    pub rule: String,
    /// What is wrong, in one sentence.
    pub text: String,
    /// What to do.
    pub next_step: String,
}

/// All images, and the room they take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FirmwareListView {
    /// The images, the newest first.
    pub firmware: Vec<FirmwareView>,
    /// The room that all image files take.
    pub used_bytes: u64,
    /// The room left on that disk.
    pub free_bytes: Option<u64>,
    /// The feeds, and how the last look at each went.
    pub feeds: Vec<FeedView>,
    /// The folder that images can be dropped into; null where none is configured.
    pub folder: Option<FolderView>,
}

/// The folder that images can be dropped into, as it was read last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FolderView {
    /// Where it is on the server; only administrators see it.
    pub path: String,
    /// Why it cannot be read; null while it can.
    pub trouble: Option<String>,
    /// How many images lie in it.
    pub n_files: u64,
    /// Files that are left out, each with its reason.
    pub ignored: Vec<NoteView>,
}

/// A vendor's download, as it was looked at last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FeedView {
    /// Its name, as `komfovent-C6`.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// When it was looked at last, whatever came of it.
    pub last_checked_at: Option<i64>,
    /// When a look went well.
    pub last_ok_at: Option<i64>,
    /// Why the last look failed.
    pub error: Option<String>,
    /// The file's name as the vendor gave it.
    pub filename: Option<String>,
    /// The image.
    pub sha256: Option<String>,
    /// The controller's version: type and four numbers.
    pub controller_version: Option<[u16; 5]>,
    /// The panel's version: type and four numbers.
    pub panel_version: Option<[u16; 5]>,
    /// Where the file lies on the server; only administrators see it.
    pub file_path: Option<String>,
}

/// A token, without the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Its number.
    pub id: i64,
    /// What it is for.
    pub name: String,
    /// What it may do.
    #[schema(value_type = String)]
    pub role: Role,
    /// When it was made.
    pub created_ms: i64,
    /// When it was used last.
    pub used_ms: Option<i64>,
}

/// An error, as RFC 9457 wants it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Its kind: `about:blank` or `urn:reflash:problem:` and a name.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened, in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, in a sentence.
    pub detail: String,
    /// What to do about it.
    pub next_step: Option<String>,
}

/// How the server fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthReport {
    /// `ok`, `degraded`.
    pub status: String,
    /// What is wrong, each with a name.
    pub reasons: Vec<NoteView>,
    /// The program's version.
    pub version: String,
}

/// A source of sightings, and how it fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SourceView {
    /// `mdns`, `scan`, `mqtt`, `config`.
    pub name: String,
    /// Whether it works now.
    pub working: bool,
    /// Why not.
    pub trouble: Option<String>,
    /// Sightings since the start.
    pub n_sightings: u64,
    /// What the last scan covered; only of `scan`.
    pub coverage: Option<CoverageView>,
}

/// What a scan has covered: every address is accounted for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CoverageView {
    /// Addresses in the ranges.
    pub n_addresses: u64,
    /// Of these, asked.
    pub n_asked: u64,
    /// Of these, somebody answered.
    pub n_answered: u64,
    /// Somebody is there and nothing listens.
    pub n_refused: u64,
    /// Nobody answered in time.
    pub n_silent: u64,
    /// This machine could not ask: the address counts as not covered.
    pub n_failed: u64,
    /// Addresses that are never asked: this machine's own.
    #[serde(default)]
    pub n_skipped: u64,
    /// What may have been missed, and why.
    #[serde(default)]
    pub warning: Option<String>,
    /// Whether it was kept slow, and why.
    pub paced: Option<String>,
    /// How long it took.
    pub took_ms: u64,
    /// When it ended.
    pub ended_ms: Option<i64>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// Its number: gapless, and the id of the SSE event.
    pub seq: i64,
    /// When.
    pub at_ms: i64,
    /// What, as `device.found`, `device.online`, `device.offline`, `device.moved`, `device.conflict`, `firmware.added`.
    pub kind: String,
    /// The device it is about.
    pub device: Option<String>,
    /// More of it.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
}
