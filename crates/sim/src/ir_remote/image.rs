//! What the chip's boot code checks in an application image, read as it streams by (PROTOCOLS.md D1, D2).

use std::mem;

use sha2::{Digest as _, Sha256};

/// First byte of every ESP image.
const MAGIC: u8 = 0xE9;
/// Bytes before the first segment header.
const HEADER_LEN: usize = 24;
/// Where the checksum of the segments starts.
const CHECKSUM_SEED: u8 = 0xEF;
/// First word of an application descriptor.
const DESCRIPTOR_MAGIC: [u8; 4] = 0xABCD_5432_u32.to_le_bytes();
/// Length of an application descriptor, bytes.
const DESCRIPTOR_LEN: usize = 256;
/// Project name that Arduino's prebuilt libraries put in every sketch; its version says nothing about the sketch.
const LIBRARY_BUILDER: &str = "arduino-lib-builder";

/// Where in the image the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Header,
    SegmentHeader,
    Segment {
        left: u64,
    },
    Padding,
    AppendedSha,
    Behind,
    /// The header is no header: nothing further is looked at.
    Nonsense,
}

/// Reads an image in pieces of any size; keeps no more than its header and descriptor.
pub(super) struct ImageReader {
    place: Place,
    n_bytes: u64,
    sha: Sha256,
    /// Header, segment header or appended digest, as far as it came.
    small: Vec<u8>,
    descriptor: Vec<u8>,
    n_segments_left: u8,
    chip_id: u16,
    min_revision: u16,
    has_sha: bool,
    checksum: u8,
    sha_at_checksum: [u8; 32],
    /// Checksum and digest were right so far.
    fits: bool,
    n_segments_read: u8,
}

/// What is known when the last byte has come.
pub(super) struct ImageFacts {
    /// SHA-256 of the whole file.
    pub(super) sha256: [u8; 32],
    /// Segments, checksum and digest are right.
    pub(super) whole: bool,
    /// `chip_id` of the header.
    pub(super) chip_id: u16,
    /// `min_rev_full` of the header.
    pub(super) min_revision: u16,
    /// Version of the descriptor, if it is the sketch's own.
    pub(super) version: Option<String>,
}

impl ImageReader {
    pub(super) fn new() -> Self {
        Self {
            place: Place::Header,
            n_bytes: 0,
            sha: Sha256::new(),
            small: Vec::with_capacity(32),
            descriptor: Vec::new(),
            n_segments_left: 0,
            chip_id: 0xFFFF,
            min_revision: 0,
            has_sha: false,
            checksum: CHECKSUM_SEED,
            sha_at_checksum: [0; 32],
            fits: true,
            n_segments_read: 0,
        }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let n = match self.place {
                Place::Header => self.collect(bytes, HEADER_LEN, Self::end_header),
                Place::SegmentHeader => self.collect(bytes, 8, Self::end_segment_header),
                Place::AppendedSha => self.collect(bytes, 32, Self::end_appended_sha),
                Place::Segment { left } => self.segment(bytes, left),
                Place::Padding => self.padding(bytes[0]),
                Place::Behind | Place::Nonsense => self.count(bytes),
            };
            bytes = &bytes[n..];
        }
    }

    pub(super) fn finish(self) -> ImageFacts {
        ImageFacts {
            sha256: self.sha.finalize().into(),
            whole: self.place == Place::Behind && self.fits,
            chip_id: self.chip_id,
            min_revision: self.min_revision,
            version: own_version(&self.descriptor),
        }
    }

    fn count(&mut self, bytes: &[u8]) -> usize {
        self.sha.update(bytes);
        self.n_bytes += bytes.len() as u64;
        bytes.len()
    }

    /// Gathers up to `len` bytes in `small`; when they are complete, hands them to `end`.
    fn collect(&mut self, bytes: &[u8], len: usize, end: fn(&mut Self, &[u8])) -> usize {
        let n = bytes.len().min(len - self.small.len());
        self.small.extend_from_slice(&bytes[..n]);
        self.count(&bytes[..n]);
        if self.small.len() == len {
            let small = mem::take(&mut self.small);
            end(self, &small);
            self.small = small;
            self.small.clear();
        }
        n
    }

    fn end_header(&mut self, header: &[u8]) {
        let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        self.n_segments_left = header[1];
        self.chip_id = word(12);
        self.min_revision = word(15);
        self.has_sha = header[23] == 1;
        let usable = header[0] == MAGIC && (1..=16).contains(&self.n_segments_left);
        self.place = if usable {
            Place::SegmentHeader
        } else {
            Place::Nonsense
        };
    }

    fn end_segment_header(&mut self, header: &[u8]) {
        let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        self.n_segments_left -= 1;
        self.n_segments_read += 1;
        self.begin_segment(u64::from(len));
    }

    fn begin_segment(&mut self, left: u64) {
        self.place = match (left, self.n_segments_left) {
            (0, 0) => Place::Padding,
            (0, _) => Place::SegmentHeader,
            _ => Place::Segment { left },
        };
    }

    fn segment(&mut self, bytes: &[u8], left: u64) -> usize {
        let n = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let part = &bytes[..n];
        self.checksum = part.iter().fold(self.checksum, |sum, byte| sum ^ byte);
        if self.n_segments_read == 1 {
            let missing = DESCRIPTOR_LEN - self.descriptor.len();
            self.descriptor.extend_from_slice(&part[..n.min(missing)]);
        }
        self.count(part);
        let left = left - n as u64;
        if left == 0 {
            self.begin_segment(0);
        } else {
            self.place = Place::Segment { left };
        }
        n
    }

    fn padding(&mut self, byte: u8) -> usize {
        self.count(&[byte]);
        if self.n_bytes.is_multiple_of(16) {
            self.fits &= byte == self.checksum;
            self.sha_at_checksum = self.sha.clone().finalize().into();
            self.place = if self.has_sha {
                Place::AppendedSha
            } else {
                Place::Behind
            };
        }
        1
    }

    fn end_appended_sha(&mut self, digest: &[u8]) {
        self.fits &= digest == self.sha_at_checksum;
        self.place = Place::Behind;
    }
}

/// The version in a descriptor, unless there is none or it is the library builder's.
fn own_version(descriptor: &[u8]) -> Option<String> {
    if descriptor.len() < DESCRIPTOR_LEN || !descriptor.starts_with(&DESCRIPTOR_MAGIC) {
        return None;
    }
    let text = |at: usize| {
        let field = &descriptor[at..at + 32];
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        String::from_utf8_lossy(&field[..end]).into_owned()
    };
    let version = text(16);
    (text(48) != LIBRARY_BUILDER && !version.is_empty()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The synthetic image of PROTOCOLS.md D5: 432 bytes.
    fn vector(chip_id: u8) -> Vec<u8> {
        let mut descriptor = Vec::new();
        descriptor.extend(DESCRIPTOR_MAGIC);
        descriptor.extend([0; 12]);
        for (text, len) in [
            ("1.2.3", 32),
            ("ir-remote-mini", 32),
            ("12:00:00", 16),
            ("Jan  1 2026", 16),
            ("v5.5", 32),
        ] {
            let mut field = text.as_bytes().to_vec();
            field.resize(len, 0);
            descriptor.extend(field);
        }
        descriptor.extend([0x11; 32]);
        descriptor.extend([0, 0, 99, 0, 16]);
        descriptor.extend([0; 75]);
        descriptor.extend([0xAA; 32]);
        let mut image = vec![0xE9, 2, 2, 0x20, 0, 0, 0x80, 0x40, 0xEE, 0, 0, 0];
        image.extend([chip_id, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0, 1]);
        image.extend(0x3F40_0020_u32.to_le_bytes());
        image.extend(288_u32.to_le_bytes());
        image.extend(descriptor);
        image.extend(0x4008_0000_u32.to_le_bytes());
        image.extend(64_u32.to_le_bytes());
        image.extend(0..64);
        image.resize(399, 0);
        image.push(0xB9);
        let digest = Sha256::digest(&image);
        image.extend(digest);
        image
    }

    fn read(image: &[u8], piece: usize) -> ImageFacts {
        let mut reader = ImageReader::new();
        image.chunks(piece).for_each(|bytes| reader.feed(bytes));
        reader.finish()
    }

    #[test]
    fn the_vector_is_whole_however_it_is_cut() {
        for piece in [1, 7, 24, 1460] {
            let facts = read(&vector(13), piece);
            assert!(
                hex::encode(facts.sha256).starts_with("f03d9787"),
                "{}",
                hex::encode(facts.sha256)
            );
            assert!(facts.whole);
            assert_eq!(facts.chip_id, 13);
            assert_eq!(facts.version.as_deref(), Some("1.2.3"));
        }
        assert!(hex::encode(read(&vector(0), 9).sha256).starts_with("53174b09"));
    }

    #[test]
    fn a_flipped_bit_anywhere_in_segments_checksum_or_digest_shows() {
        for at in (32..320).chain(328..432) {
            let mut image = vector(13);
            image[at] ^= 4;
            assert!(!read(&image, 100).whole, "byte {at}");
        }
    }

    #[test]
    fn a_cut_image_and_text_are_not_whole() {
        assert!(!read(&vector(13)[..431], 100).whole);
        assert!(!read(b"this is a text placeholder named like a firmware", 10).whole);
        assert!(!read(&[], 1).whole);
    }

    #[test]
    fn bytes_behind_the_image_do_no_harm() {
        let mut image = vector(13);
        image.extend([0xFF; 600]);
        assert!(read(&image, 100).whole);
    }

    #[test]
    fn the_real_image_is_whole_and_states_no_version_of_its_own() {
        let name = "shared/data/ir_remote_v2.0.0.bin";
        let folders = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        let Some(image) = folders
            .map(|folder| folder.join(name))
            .find_map(|path| std::fs::read(path).ok())
        else {
            println!("no {name} beside the workspace: nothing checked");
            return;
        };
        let facts = read(&image, 1460);
        assert_eq!(
            hex::encode(facts.sha256),
            "25be787cbfb3523cb0a1b48b3b98ebcc2b294c76bb92e65b2b7bdf2ab341a4fb"
        );
        assert!(facts.whole);
        assert_eq!((facts.chip_id, facts.version), (13, None));
    }
}
