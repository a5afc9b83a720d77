//! Files that are no ESP32 image, told by how they begin.

use super::{IMAGE_MAGIC, Kind, Reading, Refusal, slice_at, u16_at, u32_at};

/// How much of a file is looked at to call it text or a web page, bytes (taste).
const TEXT_SAMPLE_LEN: usize = 4096;
/// How much of a file is looked at to call it encrypted, bytes (taste).
const RANDOM_SAMPLE_LEN: usize = 0x1_0000;
/// Too little to call random, bytes: below, 256 counters hold too few bytes each (taste).
const RANDOM_SAMPLE_MIN: usize = 1024;
/// Length of a flash sector, bytes: partitions, and so file systems, are whole sectors (`SPI_FLASH_SEC_SIZE`).
const SECTOR_LEN: usize = 4096;
/// First bytes of a partition table entry (`ESP_PARTITION_MAGIC`).
const PARTITION_MAGIC: [u8; 2] = [0xAA, 0x50];
/// Where partition tables are looked for, bytes: 0x8000 by default, set by `CONFIG_PARTITION_TABLE_OFFSET`.
const PARTITION_TABLE_AT: std::ops::RangeInclusive<usize> = 0x8000..=0x2_0000;
/// Where the bootloader starts on chips whose flash does not begin with it, bytes
/// (esptool `targets/*.py`, `BOOTLOADER_FLASH_OFFSET`).
const BOOTLOADER_AT: [usize; 2] = [0x1000, 0x2000];

/// First bytes of files that are worth naming, though nobody would call them firmware.
const OTHERS: [(&[u8], &str); 8] = [
    (b"PK\x03\x04", "a ZIP archive"),
    (b"BZh", "a bzip2 file"),
    (b"\xFD7zXZ\0", "an xz file"),
    (b"7z\xBC\xAF\x27\x1C", "a 7-Zip archive"),
    (b"\x28\xB5\x2F\xFD", "a zstd file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xFF\xD8\xFF", "a JPEG picture"),
    (
        b"\x01\0\0\0\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
        "OTA data (such as `boot_app0.bin`)",
    ),
];

/// What the file is if it is no ESP32 image; `None` if it begins like one.
pub(super) fn recognise(bytes: &[u8]) -> Option<Reading> {
    let refused = |kind, refusal| Some(Reading::refused(kind, refusal));
    let n = bytes.len();
    if bytes.is_empty() {
        return refused(Kind::Empty, Refusal::empty());
    }
    // Before the image's magic: the counter at the start of a LittleFS may have any value.
    if let Some(system) = filesystem(bytes) {
        return refused(Kind::Filesystem, Refusal::filesystem(system, n));
    }
    if is_esp8266(bytes) {
        return refused(Kind::Esp8266, Refusal::esp8266(n));
    }
    if bytes[0] == IMAGE_MAGIC {
        return None;
    }
    match bytes {
        [0x1F, 0x8B, ..] => return refused(Kind::Gzip, Refusal::gzip(n)),
        [0x7F, b'E', b'L', b'F', ..] => return refused(Kind::Elf, Refusal::elf(n)),
        [b'U', b'F', b'2', b'\n', ..] => return refused(Kind::Uf2, Refusal::uf2(n)),
        _ => {}
    }
    if is_html(bytes) {
        return refused(Kind::Html, Refusal::html(n));
    }
    if is_text(bytes) {
        return refused(Kind::Text, Refusal::text(bytes));
    }
    let erased = bytes.iter().position(|byte| *byte != 0xFF);
    let Some(first_used) = erased else {
        return refused(
            Kind::Unknown,
            Refusal::something_else("erased flash (every byte is 0xFF)", n),
        );
    };
    if BOOTLOADER_AT.contains(&first_used) && bytes[first_used] == IMAGE_MAGIC {
        return refused(Kind::Merged, Refusal::merged(n));
    }
    if is_partition_entry(bytes) {
        return refused(Kind::Unknown, Refusal::something_else("a partition table", n));
    }
    if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return refused(Kind::Unknown, Refusal::something_else(what, n));
    }
    if looks_random(bytes) {
        return refused(Kind::Encrypted, Refusal::encrypted(n));
    }
    refused(Kind::Unknown, Refusal::not_an_image(bytes[0], n))
}

/// Whether a partition table stands behind an image that ends at `end`.
pub(super) fn has_partition_table(bytes: &[u8], end: usize) -> bool {
    PARTITION_TABLE_AT
        .step_by(SECTOR_LEN)
        .filter(|at| *at >= end)
        .any(|at| bytes.get(at..).is_some_and(is_partition_entry))
}

/// Magic, type application or data, and an offset of whole sectors (`esp_partition_info_t`).
fn is_partition_entry(bytes: &[u8]) -> bool {
    bytes.starts_with(&PARTITION_MAGIC)
        && bytes.get(2).is_some_and(|kind| *kind <= 1)
        && u32_at(bytes, 4).is_some_and(|offset| offset != 0 && offset.is_multiple_of(0x1000))
}

/// An image for the ESP8266: the same magic, but the first segment follows a header of 8 bytes, and is loaded
/// to where only an ESP8266 has memory (esptool `bin_image.py`, `ESP8266ROMFirmwareImage` and `…V2…`).
fn is_esp8266(bytes: &[u8]) -> bool {
    let memory = |address: Option<u32>| {
        matches!(
            address,
            Some(0x3FFE_8000..0x4000_0000 | 0x4010_0000..0x4011_0000 | 0x4020_0000..0x4040_0000)
        )
    };
    match bytes {
        [IMAGE_MAGIC, 1..=16, ..] => memory(u32_at(bytes, 8)) && memory(u32_at(bytes, 4)),
        [0xEA, 4, ..] => memory(u32_at(bytes, 4)),
        _ => false,
    }
}

/// The name of the file system, `None` if it is none.
fn filesystem(bytes: &[u8]) -> Option<&'static str> {
    // The superblock's entry, in either of the first two blocks (littlefs `SPEC.md`).
    if [8, SECTOR_LEN + 8]
        .into_iter()
        .any(|at| slice_at(bytes, at, 8) == Some(b"littlefs"))
    {
        return Some("LittleFS");
    }
    // Jump, sector length and the boot sector's signature (Microsoft, FAT specification, section 3.1).
    if bytes.first() == Some(&0xEB) && u16_at(bytes, 510) == Some(0xAA55) {
        return Some("FAT");
    }
    is_spiffs(bytes).then_some("SPIFFS")
}

/// `SPIFFS` with pages of 256 bytes, Arduino's and ESP-IDF's default: the first page of a block lists the owners of
/// its other pages, at most 31 words; then erased words, the magic in the last but one, and one more erased.
///
/// Guess: from memory of `spiffs_nucleus.h`; to be held against an image of `spiffsgen.py`.
fn is_spiffs(bytes: &[u8]) -> bool {
    let (Some(erased), Some(magic), Some(last)) =
        (slice_at(bytes, 64, 188), u16_at(bytes, 252), u16_at(bytes, 254))
    else {
        return false;
    };
    bytes.len().is_multiple_of(SECTOR_LEN)
        && erased.iter().all(|byte| *byte == 0xFF)
        && magic != 0xFFFF
        && last == 0xFFFF
}

/// A web page, in whatever encoding: it begins with a tag, and one of the first tags is one that only pages have.
fn is_html(bytes: &[u8]) -> bool {
    let sample = sample(bytes, 1024)
        .strip_prefix(b"\xEF\xBB\xBF")
        .unwrap_or(sample(bytes, 1024));
    let sample = sample.trim_ascii_start().to_ascii_lowercase();
    let tags: [&[u8]; 6] = [
        b"<!doctype html",
        b"<html",
        b"<head",
        b"<body",
        b"<title",
        b"<meta",
    ];
    sample.starts_with(b"<")
        && tags
            .iter()
            .any(|tag| sample.windows(tag.len()).any(|window| window == *tag))
}

/// UTF-8 without the control characters that no text has, as far as the sample goes.
fn is_text(bytes: &[u8]) -> bool {
    let sample = sample(bytes, TEXT_SAMPLE_LEN);
    let text = match std::str::from_utf8(sample) {
        Ok(text) => text,
        // The sample may have cut the last character.
        Err(err) if err.error_len().is_none() && sample.len() < bytes.len() => {
            std::str::from_utf8(&sample[..err.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text.is_empty()
        && text
            .chars()
            .all(|char| !char.is_control() || matches!(char, '\t' | '\n' | '\r' | '\x0C' | '\x1B'))
}

/// Whether the bytes have no order at all, neither by themselves nor from one to the next (a counter has).
/// Flash encryption works on 16 bytes at a time, so the length is a multiple of that.
fn looks_random(bytes: &[u8]) -> bool {
    let sample = sample(bytes, RANDOM_SAMPLE_LEN);
    if sample.len() < RANDOM_SAMPLE_MIN || !bytes.len().is_multiple_of(16) {
        return false;
    }
    let steps = sample
        .iter()
        .zip(&sample[1..])
        .map(|(byte, next)| next.wrapping_sub(*byte));
    is_uniform(sample.iter().copied()) && is_uniform(steps)
}

/// Whether the entropy is that of random bytes, 8 bits less the bias of counting n of them (Miller and Madow:
/// 255 / (2 n ln 2)), less 0.1 bits: six standard deviations at the shortest sample.
fn is_uniform(bytes: impl Iterator<Item = u8>) -> bool {
    let mut counts = [0_u32; 256];
    for byte in bytes {
        counts[usize::from(byte)] += 1;
    }
    let n = f64::from(counts.iter().sum::<u32>());
    let entropy: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| f64::from(*count) / n)
        .map(|share| -share * share.log2())
        .sum();
    entropy > 8.0 - 255.0 / (2.0 * n * std::f64::consts::LN_2) - 0.1
}

fn sample(bytes: &[u8], len: usize) -> &[u8] {
    &bytes[..len.min(bytes.len())]
}
