//! Images to push, made here: small, valid, and saying what they are told to say.

use sha2::{Digest as _, Sha256};

use crate::ir_remote::Chip;

/// Builds a valid application image for a chip: one descriptor, then filling up to `len_bytes` (rounded up to 16).
///
/// `version` is what the descriptor states as its own; none makes it one of Arduino's, which states nothing
/// (PROTOCOLS.md D1 and D2). `seed` changes the filling, so that two builds of one version differ.
pub fn image(chip: Chip, version: Option<&str>, len_bytes: usize, seed: u8) -> Vec<u8> {
    let descriptor = descriptor(version);
    // Header, segment header, checksum row and digest around the segment.
    let around = 24 + 8 + 16 + 32;
    let segment_len = (len_bytes.saturating_sub(around))
        .max(descriptor.len())
        .next_multiple_of(16);
    let mut segment = descriptor;
    let n_missing = segment_len - segment.len();
    segment.extend(filling(seed).take(n_missing));
    let checksum = segment.iter().fold(0xEF, |checksum, byte| checksum ^ byte);
    let mut image = vec![0xE9, 1, 2, 0x20];
    image.extend(0x4080_0000_u32.to_le_bytes());
    image.extend([0xEE, 0, 0, 0]);
    image.extend(chip.id.to_le_bytes());
    image.extend([0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0, 1]);
    image.extend(0x4200_0020_u32.to_le_bytes());
    image.extend(u32::try_from(segment.len()).unwrap_or(u32::MAX).to_le_bytes());
    image.extend(segment);
    while image.len() % 16 != 15 {
        image.push(0);
    }
    image.push(checksum);
    let digest = Sha256::digest(&image);
    image.extend(digest);
    image
}

/// Builds a Komfovent file: opaque bytes, and the 35 bytes that the one captured file ends with (PROTOCOLS.md A6).
///
/// What it brings a unit to, only its name tells.
pub fn mbin(len_bytes: usize, seed: u8) -> Vec<u8> {
    let mut file: Vec<u8> = filling(seed)
        .take(len_bytes.saturating_sub(MBIN_TRAILER.len()))
        .collect();
    file.extend(MBIN_TRAILER);
    file
}

const MBIN_TRAILER: &[u8] = b"5123456781234567800AA00AA00BB00BB\r\n";

/// Bytes that are not all alike, by a linear congruential generator (Numerical Recipes' constants).
fn filling(seed: u8) -> impl Iterator<Item = u8> {
    let mut state = u32::from(seed) | 0x5EED_0000;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
}

fn descriptor(version: Option<&str>) -> Vec<u8> {
    let (version, project) = match version {
        Some(version) => (version, "ir-remote-mini"),
        None => ("afa5cdd", "arduino-lib-builder"),
    };
    let mut descriptor = Vec::with_capacity(256);
    let text = |descriptor: &mut Vec<u8>, text: &str, len: usize| {
        let end = descriptor.len() + len;
        descriptor.extend(text.bytes().take(len));
        descriptor.resize(end, 0);
    };
    descriptor.extend(0xABCD_5432_u32.to_le_bytes());
    descriptor.extend([0; 12]);
    text(&mut descriptor, version, 32);
    text(&mut descriptor, project, 32);
    text(&mut descriptor, "12:00:00", 16);
    text(&mut descriptor, "Jan  1 2026", 16);
    text(&mut descriptor, "v5.5", 32);
    descriptor.extend([0x11; 32]);
    descriptor.extend([0, 0, 99, 0, 16]);
    descriptor.resize(256, 0);
    descriptor
}
