//! The extension point: what a device family must say and do.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::device::{Device, Snapshot};
use crate::feed::Feed;
use crate::id::FamilyId;
use crate::image::{Image, ImageInfo, Inspection, Refusal};
use crate::installed::Installed;
use crate::progress::Progress;
use crate::sighting::{Candidate, Lookout, Sighting};
use crate::version::{Relation, Versions};

/// A way to bring an image to a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Method(String);

impl Method {
    /// The method with this name, such as `espota` or `http`.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long things take with a device, and how long to wait before giving up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// How long the push itself should take.
    pub push: Duration,
    /// How long after a broken push the device may still be busy with it: no verdict about it is sound earlier.
    pub quiet: Duration,
    /// How soon after an accepted image the device must be gone.
    pub gone_within: Duration,
    /// How soon after an accepted image it must be back.
    pub back_within: Duration,
    /// How often to look while waiting.
    pub look_every: Duration,
}

/// What will have to be put back after a job, as its family understands it.
///
/// Committed to the journal before anything is changed, so that it happens even if we are killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    /// For people: "turn OTA off again".
    pub text: String,
    /// For the family.
    pub value: serde_json::Value,
}

/// What a family wants remembered of one device between calls: the authentication form that worked, the pace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Notes(pub serde_json::Value);

/// What the device's label says after a push.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Label {
    /// The image's version, which it was not before; or it moved where the image states none.
    Target,
    /// The image's version, which it was before too: it proves nothing by itself.
    Same,
    /// As before, on a device whose label is not known to move.
    Unmoved,
    /// As before, on a device whose label moves with the image.
    Old,
    /// Some parts are the image's, this one is not.
    Partial(String),
    /// Neither the image's nor the one before.
    Other,
    /// The device reports no version.
    Unreadable,
}

/// Everything needed to reach one device.
pub struct Target {
    /// Where it is.
    pub address: IpAddr,
    /// What its owner called it: the host name or address that was given. A weak identity is made of it.
    pub given_as: String,
    /// The name to log in with, where the family knows such a thing.
    pub username: Option<String>,
    /// Its password; none where none was given.
    pub secret: Option<SecretString>,
    /// What the owner says of its hardware, for devices that do not tell.
    pub chip: Option<String>,
    /// The family's own notes from earlier calls.
    pub notes: Notes,
    /// The ledger of password answers.
    pub answers: Arc<dyn Answers>,
}

/// The ledger of password answers of one device: each is counted before it is sent.
///
/// An answer hands an attacker the means to guess the password offline, so their number is bounded (DESIGN.md, espota authentication).
#[async_trait]
pub trait Answers: Send + Sync {
    /// Counts one answer durably; refuses with [`Reason::Locked`] when the device is locked.
    async fn count(&self) -> Result<(), Fault>;
    /// The device took the last answer, so it does not count as a failed one.
    async fn accepted(&self);
}

/// What went wrong with one act of a driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What it means for the job.
    pub kind: FaultKind,
    /// Its name.
    pub reason: Reason,
    /// One sentence: what was being done, to what, and what happened.
    pub text: String,
    /// How much of the image may have reached the device.
    pub reach: Reach,
    /// Password answers that the device turned down in this act.
    pub failed_answers: u8,
    /// What to do about it, where the family knows better than the general advice.
    pub next_step: Option<String>,
    /// The device's own words, bounded and printable, where it said something.
    #[serde(default)]
    pub said: Option<String>,
}

impl Fault {
    /// The same with advice of the family's own.
    #[must_use]
    pub fn advise(mut self, next_step: impl Into<String>) -> Self {
        self.next_step = Some(next_step.into());
        self
    }

    /// A fault before any image byte left.
    pub fn before_push(kind: FaultKind, reason: Reason, text: impl Into<String>) -> Self {
        Self {
            kind,
            reason,
            text: text.into(),
            reach: Reach::Nothing,
            failed_answers: 0,
            next_step: None,
            said: None,
        }
    }
}

/// What a fault means for the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Nobody answered; nothing changed.
    Unreachable,
    /// The device, or we, said no.
    Refused,
    /// Bytes went out and no verdict came back: look first.
    Unsure,
}

/// How much of the image may have reached the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// No image byte left this machine.
    Nothing,
    /// Some left, and the last one certainly did not.
    Part,
    /// All may have arrived.
    Whole,
}

/// The name of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Nobody answers at the address.
    NoAnswer,
    /// The device took the invitation and never connected to us.
    NoCallBack,
    /// It turned the password down.
    WrongPassword,
    /// It asks for a password and none was given.
    PasswordNeeded,
    /// Too many answers failed today.
    Locked,
    /// It offers a weaker authentication than it showed before.
    Downgrade,
    /// It does not take updates and cannot be brought to.
    OtaOff,
    /// It is in the middle of another update.
    Busy,
    /// Another device answers at the address.
    OtherDevice,
    /// It said why not, and goes on as it was.
    DeviceError,
    /// It said why not, and restarts all the same.
    DeviceErrorRestarts,
    /// The transfer died before everything was acknowledged.
    MidStream,
    /// Everything was acknowledged, and then no verdict came.
    VerdictLost,
    /// The program was stopped while it sent the image.
    Interrupted,
    /// It answered something that makes no sense.
    NotUnderstood,
    /// Its owner cancelled.
    Cancelled,
    /// This machine could not do its part: no port, no route.
    Local,
    /// The device has nothing to read: no status interface.
    NoStatusApi,
    /// The device has no switch for updates.
    NoSwitch,
}

impl Reason {
    /// Its name in a result, as DESIGN.md writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoAnswer => "no answer",
            Self::NoCallBack => "no call-back",
            Self::WrongPassword => "wrong password",
            Self::PasswordNeeded => "password needed",
            Self::Locked => "locked",
            Self::Downgrade => "authentication downgrade",
            Self::OtaOff => "OTA stays off",
            Self::Busy => "busy",
            Self::OtherDevice => "identity",
            Self::DeviceError | Self::DeviceErrorRestarts => "device error",
            Self::MidStream => "transfer broke off",
            Self::VerdictLost => "verdict lost",
            Self::Interrupted => "interrupted",
            Self::NotUnderstood => "not understood",
            Self::Cancelled => "cancelled",
            Self::Local => "this machine",
            Self::NoStatusApi => "no status API",
            Self::NoSwitch => "no OTA switch",
        }
    }
}

/// The device said yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its words, bounded and printable.
    pub text: String,
}

/// A device family. Pure, except [`Family::open`].
pub trait Family: Send + Sync {
    /// Its name.
    fn id(&self) -> FamilyId;

    /// What to call one of its devices to a person: "IR Remote Mini".
    fn title(&self) -> &'static str;

    /// Where discovery is to look for its devices; nowhere, unless it says so.
    fn lookouts(&self) -> Vec<Lookout> {
        Vec::new()
    }

    /// Whether a sighting is one of its devices.
    fn recognise(&self, _sighting: &Sighting) -> Option<Candidate> {
        None
    }

    /// What kind of file this is, and whether it is fit for devices of this family.
    fn inspect(&self, image: &Image) -> Inspection;

    /// The password that everybody knows, because the vendor ships its devices with it; none where there is none.
    fn public_password(&self) -> Option<&'static str> {
        None
    }

    /// Whether a device of this family can be told by asking it; one that tells nothing is only used when it is named.
    fn guessable(&self) -> bool {
        true
    }

    /// How `offered` stands to `installed`, by the labels alone.
    fn relate(&self, installed: &Versions, offered: &Versions) -> Relation;

    /// Versions as they are shown to people and to Home Assistant, in one line.
    fn words(&self, versions: &Versions) -> String {
        versions.to_string()
    }

    /// The models whose devices take this image, as people call them: its chip, unless its family knows better.
    fn models(&self, image: &ImageInfo) -> Vec<String> {
        image.chip.iter().cloned().collect()
    }

    /// Why this device takes no image of any kind; none where it may take one, unless the family knows better.
    fn never_takes(&self, _device: &Device) -> Option<Refusal> {
        None
    }

    /// Every download that the vendor offers; none, unless the family says so.
    fn downloads(&self) -> Vec<Feed> {
        Vec::new()
    }

    /// The downloads that are worth a look: those for the devices that there are.
    fn feeds(&self, fleet: &[Device]) -> Vec<Feed> {
        let mut feeds = self.downloads();
        feeds.retain(|feed| fleet.iter().any(|device| feed.is_for(device)));
        feeds
    }

    /// Why this image may not go to this very device; empty where it may.
    fn accepts(&self, device: &Device, image: &ImageInfo, bytes: &Image) -> Vec<Refusal>;

    /// How images can reach this device, best first.
    fn methods(&self, device: &Device) -> Vec<Method>;

    /// How long things take with this device.
    fn timing(&self, device: &Device, image_len_bytes: u64) -> Timing;

    /// How long such a device usually takes to restart with a new image: for estimates only, nothing waits by it.
    fn restarts_within(&self) -> Duration {
        // Guess: boot, Wi-Fi and DHCP of an ESP32 (PERFORMANCE.md section 3: 2 to 6 s), and the time to write what was sent.
        Duration::from_secs(10)
    }

    /// What stands still in the house while such a device is updated for that long, in a sentence; none where nobody notices.
    fn interrupts(&self, _duration: Duration) -> Option<String> {
        None
    }

    /// What will have to be put back after a job that begins with the device as in `before`.
    fn undo(&self, before: &Snapshot) -> Option<Undo>;

    /// What the device's label says after a push. `record` is what was recorded before it.
    fn label(
        &self,
        before: &Snapshot,
        image: &ImageInfo,
        record: Option<&Installed>,
        after: &Snapshot,
    ) -> Label;

    /// A driver for one device; opens nothing yet.
    fn open(&self, target: Target) -> Box<dyn Driver>;
}

/// Talks to one device. Acts once: retries, pauses and storing belong to the engine.
///
/// Resent invitations and a second authentication answer are part of one act: before the first image byte nothing counts as a push.
#[async_trait]
pub trait Driver: Send {
    /// Reads identity, versions, uptime, health and whether it takes updates.
    async fn probe(&mut self) -> Result<Snapshot, Fault>;

    /// Reads what changes from one moment to the next, with as little traffic as the family can: what a poll does.
    /// Hardware that only a closer look tells may be missing.
    async fn glance(&mut self) -> Result<Snapshot, Fault> {
        self.probe().await
    }

    /// Lets the device take updates, or not, and reads it back. Refused by families whose devices have no such switch.
    async fn switch_ota(&mut self, on: bool) -> Result<Snapshot, Fault> {
        let text = if on {
            "These devices have no switch for updates: they always take them."
        } else {
            "These devices have no switch for updates, so they cannot be turned off."
        };
        Err(Fault::before_push(FaultKind::Refused, Reason::NoSwitch, text))
    }

    /// Makes the device ready for a push (`undo` is what will be put back later), then reads it once more.
    async fn prepare(&mut self, undo: Option<&Undo>) -> Result<Snapshot, Fault>;

    /// Sends the image once.
    async fn push(&mut self, method: &Method, image: &Image, progress: &Progress) -> Result<Verdict, Fault>;

    /// Puts back what was changed. Doing it twice is as doing it once.
    async fn undo(&mut self, undo: &Undo) -> Result<(), Fault>;

    /// What the family wants remembered of this device.
    fn notes(&self) -> Notes;
}
