//! Firmware images: their bytes, what was found in them, and why one is refused.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{FamilyId, Md5, Sha256};
use crate::version::Versions;

/// The largest image taken, bytes: 16 MiB, the flash of the largest device in reach.
pub const MAX_IMAGE_LEN_BYTES: u64 = 16 * 1024 * 1024;

/// An image's bytes, read once: what was checked is what is sent.
///
/// Cloning shares the bytes, so that one image is held once however many devices get it.
#[derive(Clone)]
pub struct Image {
    file_name: Arc<str>,
    bytes: Arc<[u8]>,
    sha256: Sha256,
    md5: Md5,
}

impl Image {
    /// Takes the bytes of a file and names them by their digests; `file_name` is the last component of its path.
    pub fn new(file_name: &str, bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self {
            file_name: file_name.into(),
            sha256: Sha256::of(&bytes),
            md5: Md5::of(&bytes),
            bytes,
        }
    }

    /// The name of the file it came from, without its folder.
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// Its length, bytes.
    pub fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Its name in the store.
    pub fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// What `ArduinoOTA` compares at the end of a transfer.
    pub fn md5(&self) -> Md5 {
        self.md5
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Image({}, {} bytes, {})",
            self.file_name,
            self.bytes.len(),
            self.sha256.short()
        )
    }
}

/// Where an image's version was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VersionSource {
    /// Stated inside the image.
    Image,
    /// Only in its file name.
    FileName,
}

impl VersionSource {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::FileName => "file-name",
        }
    }
}

/// What a family found in an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// The family whose device it is for; none where only the kind could be told.
    pub family: Option<FamilyId>,
    /// What kind of file it is: `esp-app`, `mbin`, `text`, … (INTERFACES.md section 1).
    pub kind: String,
    /// The chip it is built for, as `esp32c6`; none where the format does not say.
    pub chip: Option<String>,
    /// The versions that a device is expected to report after it: what the family holds the device to.
    pub versions: Option<Versions>,
    /// Where [`ImageInfo::versions`] were read.
    pub version_source: VersionSource,
    /// A version that only its file name tells and that the device need not report.
    pub hint: Option<Versions>,
    /// The project name inside the image, if it states one.
    pub project: Option<String>,
    /// The kind of signature it carries; recognised, not verified.
    pub signature: Option<String>,
    /// Its length, bytes.
    pub len_bytes: u64,
    /// Its name in the store.
    pub sha256: Sha256,
    /// Odd, but no reason to refuse.
    pub warnings: Vec<Warning>,
}

impl ImageInfo {
    /// The version to show for it, and where that was read.
    pub fn shown_version(&self) -> Option<(&Versions, VersionSource)> {
        let versions = self
            .versions
            .as_ref()
            .map(|versions| (versions, self.version_source));
        versions.or_else(|| self.hint.as_ref().map(|hint| (hint, VersionSource::FileName)))
    }
}

/// Whether the owner may override a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Override {
    /// `--allow RULE` overrides it.
    Possible,
    /// Nothing overrides it.
    Never,
}

/// One reason why an image is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The rule's short name, as `--allow` takes it: `truncated`, `wrong-chip`, ….
    pub rule: String,
    /// One sentence: what was found and why it is refused.
    pub text: String,
    /// One sentence: what to do instead.
    pub next_step: String,
    /// Whether the owner may override it.
    pub overriding: Override,
}

/// Something odd in an image that is accepted all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Its short name.
    pub rule: String,
    /// One sentence.
    pub text: String,
}

/// What a family says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspection {
    /// Not this family's kind of file.
    NotMine,
    /// A good image for devices of this family.
    Accepted(ImageInfo),
    /// This family's kind of file, or near it, and not fit to be pushed.
    Refused(ImageInfo, Vec<Refusal>),
}
