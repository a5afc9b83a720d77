//! The sentences. Each names the file, the figures and a way out; they are read at two in the morning.

use super::{Chip, MAX_SEGMENTS, Refusal, Revisions, Rule};

const REBUILD: &str = "Copy or download the file again, or export it once more from the build.";
const EXPORT_APP: &str = "Export the application image (`….ino.bin`; PlatformIO: `firmware.bin`) from the build and push that one.";

impl Refusal {
    fn new(rule: Rule, text: String, next_step: &str) -> Self {
        Self {
            rule,
            text,
            next_step: next_step.to_owned(),
        }
    }

    pub(super) fn empty() -> Self {
        Self::new(
            Rule::Empty,
            "The file is empty (0 bytes), so there is nothing to install.".to_owned(),
            "Export or download it again, and check that the disk was not full.",
        )
    }

    pub(super) fn text(bytes: &[u8]) -> Self {
        let n = grouped(bytes.len());
        let start = excerpt(bytes);
        Self::new(
            Rule::Text,
            format!("This is a text file of {n} bytes that begins with \"{start}\", not compiled firmware."),
            "If it stands in for the real image, put that in its place: Sketch > Export Compiled Binary makes it.",
        )
    }

    pub(super) fn html(n: usize) -> Self {
        Self::new(
            Rule::Html,
            format!(
                "This is a web page of {} bytes, not firmware: a page was saved in place of the file.",
                grouped(n)
            ),
            "Download the file itself (on GitHub: the release asset, or \"Download raw file\"), logged in if need be.",
        )
    }

    pub(super) fn gzip(n: usize) -> Self {
        Self::new(
            Rule::Gzip,
            format!(
                "This is a gzip file of {} bytes; the device does not unpack it.",
                grouped(n)
            ),
            "Unpack it (`gunzip FILE`) and push the `.bin` inside.",
        )
    }

    pub(super) fn elf(n: usize) -> Self {
        Self::new(
            Rule::Elf,
            format!(
                "This is an ELF file of {} bytes, the linker's result before the image is made of it.",
                grouped(n)
            ),
            "Push the `.bin` that the build puts beside it, or make one with `esptool elf2image`.",
        )
    }

    pub(super) fn uf2(n: usize) -> Self {
        Self::new(
            Rule::Uf2,
            format!(
                "This is a UF2 file of {} bytes, for boards that show up as a USB drive.",
                grouped(n)
            ),
            "Push the `.bin` of the same build.",
        )
    }

    pub(super) fn esp8266(n: usize) -> Self {
        Self::new(
            Rule::Esp8266,
            format!(
                "This is an image of {} bytes for the ESP8266, which no ESP32 can run.",
                grouped(n)
            ),
            "Select the ESP32 board in the build and export the image again.",
        )
    }

    pub(super) fn bootloader(chip: Chip) -> Self {
        Self::new(
            Rule::Bootloader,
            format!(
                "This is a bootloader for the {chip}, not an application: in an app slot it would not start."
            ),
            "Push the application image of the same build (`….ino.bin`, without `bootloader` in its name).",
        )
    }

    pub(super) fn merged(n: usize) -> Self {
        Self::new(
            Rule::Merged,
            format!(
                "This is a merged image of {} bytes (bootloader, partition table and application), which only a \
                 cable can install.",
                grouped(n)
            ),
            "Export the application image (`….ino.bin`, without `merged` in its name) and push that one.",
        )
    }

    pub(super) fn filesystem(system: &str, n: usize) -> Self {
        Self::new(
            Rule::Filesystem,
            format!(
                "This is a {system} file system of {} bytes: files for the application, not the application.",
                grouped(n)
            ),
            EXPORT_APP,
        )
    }

    pub(super) fn encrypted(n: usize) -> Self {
        Self::new(
            Rule::Encrypted,
            format!(
                "These {} bytes look random from the first one on: an encrypted image, which cannot be checked and \
                 fits only the device it was encrypted for.",
                grouped(n)
            ),
            "Push the plain `.bin` of the build; a device with flash encryption encrypts it while writing.",
        )
    }

    pub(super) fn no_app_descriptor(chip: Chip) -> Self {
        Self::new(
            Rule::NoAppDescriptor,
            format!(
                "This image for the {chip} has no application descriptor at byte 32, so nothing says that it is an \
                 application."
            ),
            "Push the application image of the build; if this is it, rebuild it with Arduino-ESP32 2.0, ESP-IDF 4.0 or newer.",
        )
    }

    pub(super) fn segment_count(n_segments: u8) -> Self {
        Self::new(
            Rule::Segments,
            format!(
                "The header announces {n_segments} segments, but an ESP32 image has 1 to {MAX_SEGMENTS}: it is damaged or no image."
            ),
            REBUILD,
        )
    }

    pub(super) fn segment_len(number: u8, n_segments: u8, len: u32) -> Self {
        Self::new(
            Rule::Segments,
            format!(
                "Segment {number} of {n_segments} claims {} bytes, but none may have 16 MiB: the image is damaged.",
                grouped(len as usize)
            ),
            REBUILD,
        )
    }

    pub(super) fn truncated_header(n: usize) -> Self {
        Self::new(
            Rule::Truncated,
            format!(
                "The file is cut off: it has {} bytes, and the header of an image alone has 24.",
                grouped(n)
            ),
            REBUILD,
        )
    }

    pub(super) fn truncated_segment(n: usize, number: u8, n_segments: u8, needed: usize) -> Self {
        Self::new(
            Rule::Truncated,
            format!(
                "The file is cut off: it has {} bytes, and segment {number} of {n_segments} ends at {}.",
                grouped(n),
                grouped(needed)
            ),
            REBUILD,
        )
    }

    pub(super) fn truncated_ending(n: usize, end: usize) -> Self {
        Self::new(
            Rule::Truncated,
            format!(
                "The file is cut off: it has {} bytes, and the image with its checksums has {}.",
                grouped(n),
                grouped(end)
            ),
            REBUILD,
        )
    }

    pub(super) fn checksum(stored: u8, computed: u8) -> Self {
        Self::new(
            Rule::Checksum,
            format!(
                "The image is damaged: its checksum is 0x{stored:02x}, but its contents add up to 0x{computed:02x}."
            ),
            REBUILD,
        )
    }

    pub(super) fn hash(stored: &[u8], computed: &[u8]) -> Self {
        let start = |digest: &[u8]| hex::encode(digest.get(..4).unwrap_or_default());
        Self::new(
            Rule::Hash,
            format!(
                "The image is damaged: the SHA-256 at its end begins with {}, but that of its bytes with {}.",
                start(stored),
                start(computed)
            ),
            REBUILD,
        )
    }

    pub(super) fn signature_block(digest_ok: bool) -> Self {
        let text = if digest_ok {
            "The Secure Boot V2 signature is damaged: its CRC-32 is wrong."
        } else {
            "The Secure Boot V2 signature is for other bytes: the image was changed after it was signed."
        };
        Self::new(
            Rule::Hash,
            text.to_owned(),
            "Sign the image again, after everything else was done to it.",
        )
    }

    pub(super) fn trailing_bytes(end: usize, behind: &[u8]) -> Self {
        let what = match behind.first() {
            Some(first @ (0x00 | 0xFF)) if behind.iter().all(|byte| byte == first) => {
                format!("padding (0x{first:02X}) follows")
            }
            _ => "what follows is no signature that is known".to_owned(),
        };
        let len = grouped(end + behind.len());
        Self::new(
            Rule::TrailingBytes,
            format!(
                "The image ends at byte {}, but the file at {len}: {what}.",
                grouped(end)
            ),
            &format!(
                "Export it again from the build; of an image read back from flash keep the first {end} bytes."
            ),
        )
    }

    pub(super) fn unknown_chip(chip: Chip) -> Self {
        Self::new(
            Rule::UnknownChip,
            format!(
                "The image is built for a chip with the id {}, which is not a known one.",
                chip.0
            ),
            "Check that the file is unharmed; a chip newer than this program needs a newer program.",
        )
    }

    pub(super) fn too_large(len_bytes: u64, slot_bytes: u64) -> Self {
        Self::new(
            Rule::TooLarge,
            format!(
                "The image has {} bytes, {} more than the slot of {} bytes that takes updates.",
                grouped(len_bytes),
                grouped(len_bytes.saturating_sub(slot_bytes)),
                grouped(slot_bytes)
            ),
            "Make the firmware smaller, or install once by cable with a partition scheme that has larger app slots.",
        )
    }

    pub(super) fn wrong_chip(image: Chip, device: Chip) -> Self {
        Self::new(
            Rule::WrongChip,
            format!("The image is built for the {image}, but the device has the {device}."),
            &format!("Select a board with the {device} in the build and export the image again."),
        )
    }

    pub(super) fn chip_revision(chip: Chip, revisions: Revisions, device: u16) -> Self {
        let version = |revision: u16| format!("v{}.{}", revision / 100, revision % 100);
        let range = match revisions.max_full {
            Some(max_full) => format!("{} to {}", version(revisions.min_full), version(max_full)),
            None => format!("{} and newer", version(revisions.min_full)),
        };
        Self::new(
            Rule::ChipRevision,
            format!(
                "The image runs on the {chip} of revision {range}, but the device's is {}.",
                version(device)
            ),
            "Build it for this revision (ESP-IDF: \"Minimum Supported Chip Revision\"), or choose another device.",
        )
    }

    pub(super) fn something_else(what: &str, n: usize) -> Self {
        Self::new(
            Rule::NotAnImage,
            format!("This is {what}, {} bytes, not an application image.", grouped(n)),
            EXPORT_APP,
        )
    }

    pub(super) fn not_an_image(first: u8, n: usize) -> Self {
        Self::new(
            Rule::NotAnImage,
            format!(
                "This is no ESP32 image: its first byte is 0x{first:02X}, not 0xE9, and nothing else about its {} \
                 bytes is known.",
                grouped(n)
            ),
            EXPORT_APP,
        )
    }
}

/// A count with its thousands set apart: 1,251,632.
fn grouped(n: impl TryInto<u64>) -> String {
    let digits = n.try_into().unwrap_or(u64::MAX).to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The beginning of a text's first line that is not blank, at most 40 characters, printable ASCII only.
fn excerpt(bytes: &[u8]) -> String {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]);
    let line = start
        .trim_start_matches('\u{FEFF}')
        .trim_start()
        .lines()
        .next()
        .unwrap_or_default()
        .trim_end();
    let mut chars = line.chars();
    let printable = |char: char| if matches!(char, ' '..='~') { char } else { '?' };
    let mut out: String = chars.by_ref().take(40).map(printable).collect();
    if chars.next().is_some() {
        out.push('…');
    }
    out
}
