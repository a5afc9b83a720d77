//! Walks an image from its header to the last byte of the file.

use sha2::{Digest, Sha256};

use super::{
    AppDescriptor, Chip, Image, Kind, MAX_SEGMENTS, Reading, Refusal, Revisions, Signature, foreign,
    signature, slice_at, u16_at, u32_at,
};

/// Length of the image header, bytes (`esp_image_header_t`).
const HEADER_LEN: usize = 24;
/// Length of the header in front of each segment, bytes (`esp_image_segment_header_t`).
const SEGMENT_HEADER_LEN: usize = 8;
/// Segments must be shorter than this, bytes (`SIXTEEN_MB` in `esp_image_format.c`).
const SEGMENT_LEN_LIMIT: u32 = 0x100_0000;
/// What the checksum starts from (`ESP_CHECKSUM_MAGIC` in esptool).
const CHECKSUM_SEED: u8 = 0xEF;
/// Length of the SHA-256 behind the checksum, bytes (`ESP_IMAGE_HASH_LEN`).
const HASH_LEN: usize = 32;
/// Where the first segment's contents start, and with them the descriptor of an application, bytes.
const DESCRIPTOR_AT: usize = HEADER_LEN + SEGMENT_HEADER_LEN;
/// Length of the application descriptor, bytes (`esp_app_desc_t`).
const DESCRIPTOR_LEN: usize = 256;
/// First word of the application descriptor (`ESP_APP_DESC_MAGIC_WORD`).
const DESCRIPTOR_MAGIC: u32 = 0xABCD_5432;
/// First byte of the descriptor that bootloaders carry since ESP-IDF 5.2 (`ESP_BOOTLOADER_DESC_MAGIC_BYTE`).
const BOOTLOADER_MAGIC: u8 = 80;

pub(super) fn read(bytes: &[u8]) -> Reading {
    if let Some(reading) = foreign::recognise(bytes) {
        return reading;
    }
    let Some(mut image) = read_header(bytes) else {
        return Reading::refused(Kind::Unknown, Refusal::truncated_header(bytes.len()));
    };
    let mut refusals = Vec::new();
    let walk = walk_segments(bytes, image.n_segments);
    image.checksum = walk.checksum;
    image.end = walk.at;
    let walked = walk.refusal.is_none();
    match walk.refusal {
        Some(refusal) => refusals.push(refusal),
        None => check_ending(bytes, &mut image, &mut refusals),
    }
    let foreign_end = if walked { image.end } else { HEADER_LEN };
    if image.descriptor.is_none() && foreign::has_partition_table(bytes, foreign_end) {
        return Reading::refused(Kind::Merged, Refusal::merged(bytes.len()));
    }
    if image.chip.name().is_none() {
        refusals.push(Refusal::unknown_chip(image.chip));
    }
    let kind = if image.descriptor.is_some() {
        Kind::App
    } else if is_bootloader(bytes, image.chip, &walk.addresses, walked) {
        refusals.insert(0, Refusal::bootloader(image.chip));
        Kind::Bootloader
    } else if walked {
        refusals.insert(0, Refusal::no_app_descriptor(image.chip));
        Kind::App
    } else {
        // Only the first byte is that of an image.
        Kind::Unknown
    };
    Reading {
        kind,
        image: Some(image),
        refusals,
    }
}

pub(super) fn head(bytes: &[u8]) -> Option<Image> {
    if foreign::recognise(bytes).is_some() {
        return None;
    }
    match read_header(bytes)? {
        image if image.descriptor.is_some() => Some(image),
        // What it is shows only behind its segments.
        _ => read(bytes).image,
    }
}

/// The image header and the descriptor; what needs the segments is filled in later.
fn read_header(bytes: &[u8]) -> Option<Image> {
    let header = bytes.get(..HEADER_LEN)?;
    let chip = Chip(u16_at(header, 12)?);
    let max_full = u16_at(header, 17)?;
    // Images for the ESP32 from before ESP-IDF 4.4 only have the major revision, in byte 14.
    let min_major = if chip == Chip::ESP32 {
        u16::from(*header.get(14)?)
    } else {
        0
    };
    Some(Image {
        chip,
        revisions: Revisions {
            min_full: u16_at(header, 15)?.max(min_major * 100),
            max_full: (max_full != 0 && max_full != 0xFFFF).then_some(max_full),
        },
        n_segments: *header.get(1)?,
        entry: u32_at(header, 4)?,
        descriptor: read_descriptor(bytes),
        checksum: CHECKSUM_SEED,
        sha256_appended: *header.get(23)? != 0,
        end: HEADER_LEN,
        len_bytes: bytes.len() as u64,
        signature: None,
    })
}

/// The descriptor at the start of the first segment, `None` if there is none.
fn read_descriptor(bytes: &[u8]) -> Option<AppDescriptor> {
    let found = slice_at(bytes, DESCRIPTOR_AT, DESCRIPTOR_LEN)?;
    if u32_at(found, 0)? != DESCRIPTOR_MAGIC {
        return None;
    }
    Some(AppDescriptor {
        secure_version: u32_at(found, 4)?,
        version: printable(slice_at(found, 16, 32)?),
        project: printable(slice_at(found, 48, 32)?),
        time: printable(slice_at(found, 80, 16)?),
        date: printable(slice_at(found, 96, 16)?),
        idf_version: printable(slice_at(found, 112, 32)?),
        elf_sha256: slice_at(found, 144, 32)?.try_into().ok()?,
    })
}

/// How far the segments could be followed.
struct Walk {
    /// The end of the last segment, or what the file needs at least where it is cut off.
    at: usize,
    /// Over all segments that are there.
    checksum: u8,
    /// Where the segments are loaded to; the first `n_segments` count.
    addresses: Vec<u32>,
    refusal: Option<Refusal>,
}

fn walk_segments(bytes: &[u8], n_segments: u8) -> Walk {
    let mut walk = Walk {
        at: HEADER_LEN,
        checksum: CHECKSUM_SEED,
        addresses: Vec::new(),
        refusal: None,
    };
    if n_segments == 0 || n_segments > MAX_SEGMENTS {
        walk.refusal = Some(Refusal::segment_count(n_segments));
        return walk;
    }
    for number in 1..=n_segments {
        let contents_at = walk.at + SEGMENT_HEADER_LEN;
        let (Some(address), Some(len)) = (u32_at(bytes, walk.at), u32_at(bytes, walk.at + 4)) else {
            walk.at = contents_at;
            walk.refusal = Some(Refusal::truncated_segment(
                bytes.len(),
                number,
                n_segments,
                walk.at,
            ));
            return walk;
        };
        if len >= SEGMENT_LEN_LIMIT {
            walk.refusal = Some(Refusal::segment_len(number, n_segments, len));
            return walk;
        }
        // Below 16 MiB, so it fits and 16 of them cannot overflow.
        let len = len as usize;
        walk.at = contents_at + len;
        let Some(contents) = slice_at(bytes, contents_at, len) else {
            walk.refusal = Some(Refusal::truncated_segment(
                bytes.len(),
                number,
                n_segments,
                walk.at,
            ));
            return walk;
        };
        walk.checksum ^= xor(contents);
        walk.addresses.push(address);
    }
    walk
}

/// Checks all that follows the segments: checksum, SHA-256, and whatever comes behind the image.
fn check_ending(bytes: &[u8], image: &mut Image, refusals: &mut Vec<Refusal>) {
    // The checksum is the last byte of a line of 16.
    let checksum_at = image.end | 15;
    let hash_at = checksum_at + 1;
    image.end = hash_at + if image.sha256_appended { HASH_LEN } else { 0 };
    let (Some(hashed), Some(behind)) = (bytes.get(..hash_at), bytes.get(image.end..)) else {
        refusals.push(Refusal::truncated_ending(bytes.len(), image.end));
        return;
    };
    let stored = hashed.get(checksum_at).copied().unwrap_or_default();
    if stored != image.checksum {
        refusals.push(Refusal::checksum(stored, image.checksum));
    }
    let mut digest = Sha256::new();
    if image.sha256_appended {
        digest.update(hashed);
        let computed = digest.clone().finalize();
        let stored = bytes.get(hash_at..image.end).unwrap_or_default();
        if computed.as_slice() != stored {
            refusals.push(Refusal::hash(stored, computed.as_slice()));
        }
        digest.update(stored);
    } else if !behind.is_empty() {
        // A Secure Boot V2 block needs it.
        digest.update(hashed);
    }
    if behind.is_empty() {
        return;
    }
    image.signature = signature::recognise(bytes, image.end, digest);
    match image.signature {
        None => refusals.push(Refusal::trailing_bytes(image.end, behind)),
        Some(Signature::SecureBootV2 {
            digest_ok, crc_ok, ..
        }) if !(digest_ok && crc_ok) => {
            refusals.push(Refusal::signature_block(digest_ok));
        }
        Some(_) => {}
    }
}

/// Whether an image without an application descriptor is a bootloader: it says so (since ESP-IDF 5.2), or all
/// of it is loaded into RAM, which no application is that runs from flash.
fn is_bootloader(bytes: &[u8], chip: Chip, addresses: &[u32], walked: bool) -> bool {
    let idf_version = slice_at(bytes, DESCRIPTOR_AT + 8, 32).unwrap_or_default();
    let says_so = bytes.get(DESCRIPTOR_AT) == Some(&BOOTLOADER_MAGIC)
        && idf_version.first().is_some_and(u8::is_ascii_graphic)
        && idf_version
            .iter()
            .all(|byte| *byte == 0 || byte.is_ascii_graphic());
    let in_ram =
        walked && chip.name().is_some() && !addresses.iter().any(|address| chip.maps_flash(*address));
    says_so || in_ram
}

/// All bytes combined by exclusive or, eight at a time.
fn xor(bytes: &[u8]) -> u8 {
    let (words, rest) = bytes.as_chunks::<8>();
    let word = words.iter().fold(0, |sum, word| sum ^ u64::from_ne_bytes(*word));
    word.to_ne_bytes()
        .iter()
        .chain(rest)
        .fold(0, |sum, byte| sum ^ byte)
}

/// A text field padded with zeros, or filling all of its room; what is not printable ASCII is escaped.
fn printable(field: &[u8]) -> String {
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => out.push_str(&byte.escape_ascii().to_string()),
        }
    }
    out
}
