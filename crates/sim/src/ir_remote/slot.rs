//! The second slot of the flash, being written: what `Update` does on the device.

use md5::{Digest as _, Md5};

use super::image::{ImageFacts, ImageReader};

/// The flash is written in buffers of this size; the first byte is looked at with the first one (PROTOCOLS.md B1).
const BUFFER_LEN: u64 = 4096;

/// What is sent, in the invitation's first number (PROTOCOLS.md B1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// 0 = `U_FLASH`: an application.
    Flash,
    /// 100 = `U_SPIFFS`: a file system.
    Spiffs,
}

/// Error texts of `Update.printError`, without the line end (PROTOCOLS.md B1, B1a).
pub(super) mod error {
    pub(crate) const NOT_ENOUGH_SPACE: &str = "Not Enough Space";
    pub(crate) const FLASH_WRITE: &str = "Flash Write Failed";
    pub(crate) const MD5: &str = "MD5 Check Failed";
    /// Not of `Update`: of the command by MQTT, which is ours (PROTOCOLS.md E5).
    pub(crate) const SHA256: &str = "SHA-256 Check Failed";
    pub(crate) const ACTIVATE: &str = "Could Not Activate The Firmware";
    pub(crate) const ABORTED: &str = "Aborted";
    /// What the 3.x core says of a first byte that is not 0xE9.
    pub(crate) const DECRYPTION: &str = "Decryption error";
}

/// An image on its way into the slot.
pub(super) struct Slot {
    command: Command,
    capacity: u64,
    /// Announced size; `None` over HTTP.
    size: Option<u64>,
    /// Announced MD5, hex; `None` over HTTP.
    md5: Option<String>,
    /// Announced SHA-256, hex; only a command by MQTT announces one.
    sha256: Option<String>,
    n_written: u64,
    first: Option<u8>,
    hash: Md5,
    image: ImageReader,
}

/// A received image.
pub(super) struct Received {
    /// Bytes.
    pub(super) len: u64,
    /// What it is.
    pub(super) facts: ImageFacts,
    /// What it was sent as.
    pub(super) command: Command,
    /// `Err` = the text of the error.
    pub(super) verdict: Result<(), &'static str>,
}

impl Slot {
    pub(super) fn new(command: Command, capacity: u64, size: Option<u64>, md5: Option<String>) -> Self {
        Self {
            command,
            capacity,
            size,
            md5,
            sha256: None,
            n_written: 0,
            first: None,
            hash: Md5::new(),
            image: ImageReader::new(),
        }
    }

    /// The same, for an image whose SHA-256 (hex) was announced.
    pub(super) fn with_sha256(self, sha256: String) -> Self {
        Self {
            sha256: Some(sha256),
            ..self
        }
    }

    pub(super) fn n_written(&self) -> u64 {
        self.n_written
    }

    /// Bytes that are still expected; without an announced size, those that would fit.
    pub(super) fn n_left(&self) -> u64 {
        self.size.unwrap_or(self.capacity) - self.n_written
    }

    /// All announced bytes are here.
    pub(super) fn is_full(&self) -> bool {
        self.size == Some(self.n_written)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        if bytes.len() as u64 > self.n_left() {
            return Err(error::NOT_ENOUGH_SPACE);
        }
        self.first = self.first.or_else(|| bytes.first().copied());
        self.n_written += bytes.len() as u64;
        // The MD5 of an image that nobody announced one for is not needed.
        if self.md5.is_some() {
            self.hash.update(bytes);
        }
        self.image.feed(bytes);
        if self.n_written > BUFFER_LEN || self.is_full() {
            self.check_first_byte()
        } else {
            Ok(())
        }
    }

    fn check_first_byte(&self) -> Result<(), &'static str> {
        match (self.command, self.first) {
            (Command::Flash, Some(byte)) if byte != 0xE9 => Err(error::DECRYPTION),
            _ => Ok(()),
        }
    }

    /// Ends the update: all checks that the device makes, in its order.
    pub(super) fn finish(self, chip_id: u16, chip_revision: u16) -> Received {
        let first_byte = self.check_first_byte();
        let facts = self.image.finish();
        let md5_fits = self
            .md5
            .is_none_or(|md5| md5.eq_ignore_ascii_case(&hex::encode(self.hash.finalize())));
        let sha256_fits = self
            .sha256
            .is_none_or(|sha256| sha256.eq_ignore_ascii_case(&hex::encode(facts.sha256)));
        let boots = facts.whole && facts.chip_id == chip_id && facts.min_revision <= chip_revision;
        let verdict = match first_byte {
            Err(text) => Err(text),
            Ok(()) if !md5_fits => Err(error::MD5),
            Ok(()) if !sha256_fits => Err(error::SHA256),
            Ok(()) if self.command == Command::Flash && !boots => Err(error::ACTIVATE),
            Ok(()) => Ok(()),
        };
        Received {
            len: self.n_written,
            facts,
            command: self.command,
            verdict,
        }
    }
}
