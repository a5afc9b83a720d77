//! ESP32 application images: what a file is, what it says about itself, and why it must not be pushed.
//!
//! The layout, its limits and the chip ids are those of the ESP-IDF headers (`esp_app_format.h`,
//! `esp_app_desc.h`, `esp_image_format.c`) and of esptool (`firmware-image-format.rst`, `bin_image.py`,
//! `targets/*.py`); the trailers are those of espsecure and of arduino-esp32 `tools/bin_signing.py`.
//!
//! [`read`] is a whitelist: a file without a [`Refusal`] is an application image that is complete, unharmed and
//! known down to its last byte. Whether it suits one device is [`Image::fits`]. Signatures are found, and held
//! against the bytes they claim to cover, but no key is involved: verifying them is somebody else's step.

mod chip;
mod foreign;
mod reader;
mod refusal;
mod signature;
#[cfg(test)]
mod tests;

use std::fmt;

/// First byte of every ESP32 (and ESP8266) image (`ESP_IMAGE_HEADER_MAGIC`).
const IMAGE_MAGIC: u8 = 0xE9;
/// Most segments an image may have (`ESP_IMAGE_MAX_SEGMENTS`).
const MAX_SEGMENTS: u8 = 16;
/// Project name in the descriptor of every sketch built with Arduino's prebuilt libraries. The descriptor is
/// that of the libraries, not of the sketch (read out of a real image, IR Remote Mini 2.0.0).
const ARDUINO_LIBRARIES: &str = "arduino-lib-builder";

/// What kind of file this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An application image, the only kind that may be pushed.
    App,
    /// The second stage bootloader.
    Bootloader,
    /// Bootloader, partition table and application in one file, for a cable and offset 0.
    Merged,
    /// A `SPIFFS`, `LittleFS` or `FAT` partition.
    Filesystem,
    /// Encrypted for the flash of one device (or compressed by something unknown).
    Encrypted,
    /// An image for the ESP8266.
    Esp8266,
    /// A gzip file.
    Gzip,
    /// An ELF file, what the linker leaves before the image is made.
    Elf,
    /// A web page.
    Html,
    /// Any other text.
    Text,
    /// UF2, for boards that show up as a USB drive.
    Uf2,
    /// A file of zero bytes.
    Empty,
    /// None of the others.
    Unknown,
}

impl Kind {
    /// The name in JSON and on the command line, for example `esp-app`.
    pub fn name(self) -> &'static str {
        match self {
            Self::App => "esp-app",
            Self::Bootloader => "esp-bootloader",
            Self::Merged => "esp-merged",
            Self::Filesystem => "esp-filesystem",
            Self::Encrypted => "esp-encrypted",
            Self::Esp8266 => "esp8266",
            Self::Gzip => "gzip",
            Self::Elf => "elf",
            Self::Html => "html",
            Self::Text => "text",
            Self::Uf2 => "uf2",
            Self::Empty => "empty",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The chip id of an image header (`esp_chip_id_t`), known or not.
///
/// `Display` writes the vendor's name (`ESP32-C6`), or `chip id 153` where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Chip(pub u16);

/// The chip revisions an image runs on. A revision is major * 100 + minor: v0.3 is 3, v3.1 is 301.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revisions {
    /// The oldest revision; 0 is every one.
    pub min_full: u16,
    /// The newest revision, `None` where the image sets no limit (0 or 0xFFFF in the header).
    pub max_full: Option<u16>,
}

impl Revisions {
    /// Whether a chip of this revision may run the image.
    pub fn allows(self, revision: u16) -> bool {
        revision >= self.min_full && self.max_full.is_none_or(|max_full| revision <= max_full)
    }
}

/// What the application says about itself (`esp_app_desc_t`).
///
/// Text is safe to print: whatever is not printable ASCII is escaped, `\n`, `\xff`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppDescriptor {
    /// The version as built in. Of a sketch built with Arduino's libraries it is the version of the libraries:
    /// use [`AppDescriptor::stated_version`].
    pub version: String,
    /// The name of the project.
    pub project: String,
    /// When it was compiled, `12:16:16`.
    pub time: String,
    /// The day it was compiled, `Jul 22 2025`.
    pub date: String,
    /// The ESP-IDF it was built with.
    pub idf_version: String,
    /// The anti-rollback counter: a device refuses an image with less than its eFuses say.
    pub secure_version: u32,
    /// SHA-256 of the ELF file. No identity: with Arduino's libraries it is a placeholder.
    pub elf_sha256: [u8; 32],
}

impl AppDescriptor {
    /// The application's own version, `None` where the descriptor speaks of something else: of Arduino's
    /// prebuilt libraries, or of nothing.
    pub fn stated_version(&self) -> Option<&str> {
        let own = !self.project.is_empty() && self.project != ARDUINO_LIBRARIES;
        (own && !self.version.is_empty()).then_some(self.version.as_str())
    }
}

/// A signature behind the image. It was recognised by its form; no key has been tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// The last 4096 bytes, behind 0xFF padding, hold up to three blocks of 1216 bytes.
    SecureBootV2 {
        /// How many blocks there are, 1 to 3.
        blocks: u8,
        /// The scheme of the first block.
        scheme: Scheme,
        /// Whether every block names the digest of the bytes before the sector.
        digest_ok: bool,
        /// Whether every block's own CRC-32 is right.
        crc_ok: bool,
    },
    /// The last 68 bytes: a zero word and an ECDSA-P256 signature.
    SecureBootV1,
    /// The last 512 bytes: a signature padded with zeros (arduino-esp32 `tools/bin_signing.py`).
    Arduino512,
}

impl Signature {
    /// The name in JSON and on the command line, for example `secure-boot-v2`.
    pub fn name(self) -> &'static str {
        match self {
            Self::SecureBootV2 { .. } => "secure-boot-v2",
            Self::SecureBootV1 => "secure-boot-v1",
            Self::Arduino512 => "arduino-512",
        }
    }
}

/// How a Secure Boot V2 block is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// RSA-3072 with PSS over SHA-256.
    Rsa3072,
    /// ECDSA over NIST P-192 and SHA-256.
    EcdsaP192,
    /// ECDSA over NIST P-256 and SHA-256.
    EcdsaP256,
    /// ECDSA over NIST P-384 and SHA-384.
    EcdsaP384,
}

impl Scheme {
    /// The name in JSON and on the command line, for example `rsa-3072`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rsa3072 => "rsa-3072",
            Self::EcdsaP192 => "ecdsa-p192",
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
        }
    }
}

/// What an image's headers say, as far as they could be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The chip it is built for.
    pub chip: Chip,
    /// The revisions of that chip it runs on.
    pub revisions: Revisions,
    /// How many segments the header announces.
    pub n_segments: u8,
    /// The address of the first instruction.
    pub entry: u32,
    /// What the application says about itself, `None` for a bootloader and very old applications.
    pub descriptor: Option<AppDescriptor>,
    /// The checksum computed over the segments that are there; the stored one is equal, or refused.
    pub checksum: u8,
    /// Whether the header announces a SHA-256 behind the checksum.
    pub sha256_appended: bool,
    /// Where the image ends, checksum and SHA-256 included and signature excluded, bytes from the start. More
    /// than [`Image::len_bytes`] if the file is cut off; then it is what is needed at least.
    pub end: usize,
    /// Length of the whole file, signature included: what a device is told and what its slot must hold, bytes.
    pub len_bytes: u64,
    /// The signature behind the image, if one was recognised.
    pub signature: Option<Signature>,
}

impl Image {
    /// Why a device must not get this image; nothing where nothing speaks against it.
    ///
    /// `chip` and `revision` (major * 100 + minor) are the device's, `slot_bytes` is the room in the partition
    /// that takes the update; `None` leaves that check out.
    pub fn fits(&self, chip: Option<Chip>, revision: Option<u16>, slot_bytes: Option<u64>) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        match (chip, revision) {
            (Some(chip), _) if chip != self.chip => refusals.push(Refusal::wrong_chip(self.chip, chip)),
            // Revisions of two different chips cannot be compared.
            (_, Some(revision)) if !self.revisions.allows(revision) => {
                refusals.push(Refusal::chip_revision(self.chip, self.revisions, revision));
            }
            _ => {}
        }
        if let Some(slot_bytes) = slot_bytes
            && self.len_bytes > slot_bytes
        {
            refusals.push(Refusal::too_large(self.len_bytes, slot_bytes));
        }
        refusals
    }
}

/// The rule a file breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// Zero bytes.
    Empty,
    /// A text file.
    Text,
    /// A web page.
    Html,
    /// A gzip file.
    Gzip,
    /// An ELF file.
    Elf,
    /// A UF2 file.
    Uf2,
    /// An image for the ESP8266.
    Esp8266,
    /// A bootloader.
    Bootloader,
    /// A merged image, for a cable.
    Merged,
    /// A file system.
    Filesystem,
    /// Encrypted for one device's flash.
    Encrypted,
    /// An image that does not say that it is an application.
    NoAppDescriptor,
    /// Zero, too many or impossible segments.
    Segments,
    /// The file ends before the image does.
    Truncated,
    /// The checksum over the segments is wrong.
    Checksum,
    /// The appended SHA-256, or the digest or CRC of a Secure Boot V2 block, is wrong.
    Hash,
    /// Something unknown follows the image.
    TrailingBytes,
    /// Built for a chip that is not known.
    UnknownChip,
    /// Larger than the slot.
    TooLarge,
    /// Built for another chip than the device's.
    WrongChip,
    /// The device's chip is too old or too new.
    ChipRevision,
    /// Nothing that was recognised.
    NotAnImage,
}

impl Rule {
    /// Every rule, in the order of their declaration.
    pub const ALL: [Self; 22] = [
        Self::Empty,
        Self::Text,
        Self::Html,
        Self::Gzip,
        Self::Elf,
        Self::Uf2,
        Self::Esp8266,
        Self::Bootloader,
        Self::Merged,
        Self::Filesystem,
        Self::Encrypted,
        Self::NoAppDescriptor,
        Self::Segments,
        Self::Truncated,
        Self::Checksum,
        Self::Hash,
        Self::TrailingBytes,
        Self::UnknownChip,
        Self::TooLarge,
        Self::WrongChip,
        Self::ChipRevision,
        Self::NotAnImage,
    ];

    /// The name in JSON and on the command line, for example `no-app-descriptor`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Text => "text",
            Self::Html => "html",
            Self::Gzip => "gzip",
            Self::Elf => "elf",
            Self::Uf2 => "uf2",
            Self::Esp8266 => "esp8266",
            Self::Bootloader => "bootloader",
            Self::Merged => "merged",
            Self::Filesystem => "filesystem",
            Self::Encrypted => "encrypted",
            Self::NoAppDescriptor => "no-app-descriptor",
            Self::Segments => "segments",
            Self::Truncated => "truncated",
            Self::Checksum => "checksum",
            Self::Hash => "hash",
            Self::TrailingBytes => "trailing-bytes",
            Self::UnknownChip => "unknown-chip",
            Self::TooLarge => "too-large",
            Self::WrongChip => "wrong-chip",
            Self::ChipRevision => "chip-revision",
            Self::NotAnImage => "not-an-image",
        }
    }

    /// The rule of this name, `None` if there is none.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a file must not be pushed, in words for the one who wanted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rule it breaks; decide by this, never by the text.
    pub rule: Rule,
    /// One sentence: what the file is and why it is refused, with the figures.
    pub text: String,
    /// One sentence: what to do instead.
    pub next_step: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.text, self.next_step)
    }
}

/// All there is to know about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What kind of file it is, refused or not.
    pub kind: Kind,
    /// As much of an ESP32 image as could be read; `None` where the file has no such header, and for
    /// [`Kind::Merged`], which starts with the bootloader's or none.
    pub image: Option<Image>,
    /// Why it must not be pushed, the most telling reason first; empty means it is a sound application image.
    pub refusals: Vec<Refusal>,
}

impl Reading {
    /// Whether the file is a sound application image; [`Image::fits`] says for which device.
    pub fn accepted(&self) -> bool {
        self.refusals.is_empty()
    }

    fn refused(kind: Kind, refusal: Refusal) -> Self {
        Self {
            kind,
            image: None,
            refusals: vec![refusal],
        }
    }
}

/// Reads a whole file. Never panics, looks at every byte at most a few times and allocates only for the texts.
pub fn read(bytes: &[u8]) -> Reading {
    reader::read(bytes)
}

/// Returns what the image's head says of chip, revisions and descriptor, as [`read`] does, where the rest was read before:
/// of an application without looking at its segments, so that [`Image::fits`] costs the same for every length.
pub fn head(bytes: &[u8]) -> Option<Image> {
    reader::head(bytes)
}

fn slice_at(bytes: &[u8], at: usize, len: usize) -> Option<&[u8]> {
    bytes.get(at..at.checked_add(len)?)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(slice_at(bytes, at, 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(slice_at(bytes, at, 4)?.try_into().ok()?))
}
