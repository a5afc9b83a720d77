use std::path::PathBuf;

use proptest::prelude::*;
use sha2::{Digest, Sha256, Sha384};

use super::*;

/// What an image consists of, written down from the layout alone.
struct Build {
    chip: u16,
    min_rev: u8,
    min_rev_full: u16,
    max_rev_full: u16,
    hash: bool,
    segments: Vec<(u32, Vec<u8>)>,
}

impl Build {
    /// The synthetic image of the vectors: 432 bytes with everything an application has.
    fn app(chip: u16) -> Self {
        let mut first = descriptor(b"1.2.3", b"ir-remote-mini");
        first.extend([0xAA; 32]);
        Self::of(chip, vec![(0x3F40_0020, first), (0x4008_0000, (0..64).collect())])
    }

    fn of(chip: u16, segments: Vec<(u32, Vec<u8>)>) -> Self {
        Self {
            chip,
            min_rev: 0,
            min_rev_full: 0,
            max_rev_full: 0xFFFF,
            hash: true,
            segments,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0xE9, u8::try_from(self.segments.len()).unwrap(), 2, 0x20];
        out.extend(0x4080_0000_u32.to_le_bytes());
        out.extend([0xEE, 0, 0, 0]);
        out.extend(self.chip.to_le_bytes());
        out.push(self.min_rev);
        out.extend(self.min_rev_full.to_le_bytes());
        out.extend(self.max_rev_full.to_le_bytes());
        out.extend([0, 0, 0, 0, u8::from(self.hash)]);
        let mut checksum = 0xEF;
        for (address, contents) in &self.segments {
            out.extend(address.to_le_bytes());
            out.extend(u32::try_from(contents.len()).unwrap().to_le_bytes());
            out.extend(contents);
            checksum = contents.iter().fold(checksum, |sum, byte| sum ^ byte);
        }
        while (out.len() + 1) % 16 != 0 {
            out.push(0);
        }
        out.push(checksum);
        if self.hash {
            let digest = Sha256::digest(&out);
            out.extend(digest);
        }
        out
    }
}

fn descriptor(version: &[u8], project: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 256];
    let mut put = |at: usize, field: &[u8]| out[at..at + field.len()].copy_from_slice(field);
    put(0, &[0x32, 0x54, 0xCD, 0xAB]);
    put(16, version);
    put(48, project);
    put(80, b"12:00:00");
    put(96, b"Jan  1 2026");
    put(112, b"v5.5");
    put(144, &[0x11; 32]);
    put(178, &[99, 0, 16]);
    out
}

/// Bytes without order, by a generator of random numbers (Steele, Lea and Flood, `SplitMix64`).
fn random(len: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (word ^ (word >> 31)).to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}

fn rules(refusals: &[Refusal]) -> Vec<Rule> {
    refusals.iter().map(|refusal| refusal.rule).collect()
}

#[track_caller]
fn check(bytes: &[u8], kind: Kind, expected: &[Rule]) -> Reading {
    let reading = read(bytes);
    assert_eq!(
        (reading.kind, rules(&reading.refusals).as_slice()),
        (kind, expected),
        "{reading:#?}"
    );
    for refusal in &reading.refusals {
        check_sentences(refusal);
    }
    reading
}

#[track_caller]
fn check_sentences(refusal: &Refusal) {
    for sentence in [&refusal.text, &refusal.next_step] {
        assert!(
            sentence.ends_with('.') && !sentence.contains(". "),
            "not one sentence: {sentence}"
        );
        assert!(
            !sentence.contains(char::is_control) && !sentence.contains("  "),
            "not one line: {sentence}"
        );
    }
}

#[track_caller]
fn image_of(bytes: &[u8]) -> Image {
    read(bytes).image.expect("an image")
}

/// A real file, `None` where the folder is missing.
fn real(name: &str) -> Option<Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data")
        .join(name);
    let found = std::fs::read(&path).ok();
    if found.is_none() {
        println!("skipped: {} is not here", path.display());
    }
    found
}

// ---- what an image says ----

#[test]
fn synthetic_images_are_those_of_the_vectors_and_accepted() {
    let vectors = [
        (
            0,
            "53174b09fa9ff4dbbab9fada5ecf8e26dbc3ee8bfa67be3d9197f6976f09eef7",
            "c36004a3643ead68966d8afe2519ee773df300f37067acaeff9d992d5722a8c6",
        ),
        (
            13,
            "f03d9787e084d10b80d1b72df8a114b0be505642ce510299c513371eefb1c8b2",
            "2aa6c4941c569f1b31aa6f7514fa2eb1c34645dac9acb5d6c04de7136fc080c9",
        ),
    ];
    for (chip, file_sha256, appended) in vectors {
        let bytes = Build::app(chip).bytes();
        assert_eq!(hex::encode(Sha256::digest(&bytes)), file_sha256);
        assert_eq!(hex::encode(&bytes[400..]), appended);
        let reading = check(&bytes, Kind::App, &[]);
        assert!(reading.accepted());
        assert_eq!(
            reading.image.unwrap(),
            Image {
                chip: Chip(chip),
                revisions: Revisions {
                    min_full: 0,
                    max_full: None
                },
                n_segments: 2,
                entry: 0x4080_0000,
                descriptor: Some(AppDescriptor {
                    version: "1.2.3".to_owned(),
                    project: "ir-remote-mini".to_owned(),
                    time: "12:00:00".to_owned(),
                    date: "Jan  1 2026".to_owned(),
                    idf_version: "v5.5".to_owned(),
                    secure_version: 0,
                    elf_sha256: [0x11; 32],
                }),
                checksum: 0xB9,
                sha256_appended: true,
                end: 432,
                len_bytes: 432,
                signature: None,
            }
        );
    }
}

#[test]
fn real_image_is_accepted_and_says_what_is_known_of_it() {
    let Some(bytes) = real("ir_remote_v2.0.0.bin") else {
        return;
    };
    let image = check(&bytes, Kind::App, &[]).image.unwrap();
    assert_eq!(
        (image.chip, image.n_segments, image.checksum),
        (Chip::ESP32_C6, 5, 0x8B)
    );
    assert_eq!(
        (image.end, image.len_bytes, image.sha256_appended),
        (1_251_632, 1_251_632, true)
    );
    assert_eq!(
        (image.entry, image.revisions),
        (
            0x4080_0990,
            Revisions {
                min_full: 0,
                max_full: None
            }
        )
    );
    assert_eq!(image.signature, None);
    let descriptor = image.descriptor.as_ref().unwrap();
    assert_eq!(
        (descriptor.version.as_str(), descriptor.project.as_str()),
        ("afa5cdd", "arduino-lib-builder")
    );
    assert_eq!(
        (descriptor.time.as_str(), descriptor.date.as_str()),
        ("12:16:16", "Jul 22 2025")
    );
    assert_eq!(descriptor.idf_version, "v5.5-1-gb66b5448e0");
    assert_eq!(
        descriptor.stated_version(),
        None,
        "that is the version of the libraries"
    );
    assert!(
        image
            .fits(Some(Chip::ESP32_C6), Some(1), Some(0x14_0000))
            .is_empty()
    );
    assert_eq!(
        rules(&image.fits(Some(Chip::ESP32), Some(300), None)),
        [Rule::WrongChip]
    );
    assert_eq!(rules(&image.fits(None, None, Some(1_251_631))), [Rule::TooLarge]);
}

#[test]
fn real_image_with_one_byte_changed_is_refused() {
    let Some(mut bytes) = real("ir_remote_v2.0.0.bin") else {
        return;
    };
    bytes[600_000] ^= 0x20;
    check(&bytes, Kind::App, &[Rule::Checksum, Rule::Hash]);
}

#[test]
fn placeholder_with_a_firmware_name_is_text() {
    let Some(bytes) = real("ir_remote_v1.0.0.bin") else {
        return;
    };
    let reading = check(&bytes, Kind::Text, &[Rule::Text]);
    assert!(
        reading.refusals[0].text.contains("# Example firmware file"),
        "{}",
        reading.refusals[0]
    );
}

#[test]
fn image_without_appended_hash_is_accepted_by_its_checksum() {
    let image = check(
        &Build {
            hash: false,
            ..Build::app(13)
        }
        .bytes(),
        Kind::App,
        &[],
    )
    .image
    .unwrap();
    assert_eq!((image.end, image.sha256_appended), (400, false));
}

#[test]
fn checksum_is_found_wherever_the_segments_end() {
    for extra in 0..32 {
        let mut build = Build::app(13);
        build.segments[1].1.resize(64 + extra, 0x5A);
        check(&build.bytes(), Kind::App, &[]);
    }
}

#[test]
fn version_is_stated_only_for_the_own_project() {
    let stated = |version: &[u8], project: &[u8]| {
        let segments = vec![(0x4200_0020, descriptor(version, project))];
        let image = image_of(&Build::of(13, segments).bytes());
        image.descriptor.unwrap().stated_version().map(str::to_owned)
    };
    assert_eq!(stated(b"1.2.3", b"ir-remote-mini").as_deref(), Some("1.2.3"));
    assert_eq!(stated(b"afa5cdd", b"arduino-lib-builder"), None);
    assert_eq!(stated(b"1.2.3", b""), None);
    assert_eq!(stated(b"", b"ir-remote-mini"), None);
    assert_eq!(
        stated(&[b'v'; 32], b"full").as_deref(),
        Some("v".repeat(32).as_str()),
        "no zero at its end"
    );
    assert_eq!(
        stated(b"1\x1b[2J\xff\0junk", b"p").as_deref(),
        Some("1\\x1b[2J\\xff"),
        "printable"
    );
}

#[test]
fn revisions_are_read_from_old_and_new_fields() {
    let revisions = |chip, min_rev, min_rev_full, max_rev_full| {
        let build = Build {
            min_rev,
            min_rev_full,
            max_rev_full,
            ..Build::app(chip)
        };
        image_of(&build.bytes()).revisions
    };
    assert_eq!(
        revisions(13, 0, 0, 0),
        Revisions {
            min_full: 0,
            max_full: None
        }
    );
    assert_eq!(
        revisions(5, 3, 3, 199),
        Revisions {
            min_full: 3,
            max_full: Some(199)
        },
        "byte 14 is ESP32's"
    );
    assert_eq!(
        revisions(0, 3, 0, 0xFFFF),
        Revisions {
            min_full: 300,
            max_full: None
        }
    );
    assert_eq!(
        revisions(0, 3, 301, 399),
        Revisions {
            min_full: 301,
            max_full: Some(399)
        }
    );
    assert_eq!(
        revisions(0, 0xFF, 0, 0),
        Revisions {
            min_full: 25_500,
            max_full: None
        }
    );
    let range = Revisions {
        min_full: 3,
        max_full: Some(199),
    };
    assert_eq!(
        [2, 3, 199, 200].map(|revision| range.allows(revision)),
        [false, true, true, false]
    );
}

// ---- what fits a device ----

#[test]
fn the_head_alone_fits_the_same_devices() {
    let mut files = vec![Vec::new(), vec![0xE9; 7], b"<html>".repeat(9), random(700)];
    for chip in [0, 5, 9, 13, 77] {
        let whole = Build::of(
            chip,
            vec![(0x4200_0020, [descriptor(b"1.0", b"p"), random(900)].concat())],
        )
        .bytes();
        let bare = Build::of(chip, vec![(0x4200_0020, random(900))]).bytes();
        // As an image for a cable: a partition table where it stands in the flash.
        let mut merged = bare.clone();
        merged.resize(0x8000, 0xFF);
        merged.extend([0xAA, 0x50, 1, 2, 0, 0x90, 0, 0, 0, 0x60, 0, 0]);
        merged.resize(0x9000, 0xFF);
        let cut = whole.len() / 2;
        files.extend([whole[..cut].to_vec(), bare[..cut].to_vec(), whole, bare, merged]);
    }
    for bytes in files {
        let (whole, head) = (read(&bytes).image, head(&bytes));
        assert_eq!(whole.is_some(), head.is_some(), "{} bytes", bytes.len());
        let (Some(whole), Some(head)) = (whole, head) else {
            continue;
        };
        for chip in [None, Some(Chip(5)), Some(Chip(9))] {
            for (revision, slot_bytes) in [(None, None), (Some(0), Some(800)), (Some(399), Some(1 << 20))] {
                assert_eq!(
                    whole.fits(chip, revision, slot_bytes),
                    head.fits(chip, revision, slot_bytes)
                );
            }
        }
    }
}

#[test]
fn device_gets_only_what_fits_it() {
    let build = Build {
        min_rev_full: 3,
        max_rev_full: 199,
        ..Build::app(5)
    };
    let image = image_of(&build.bytes());
    let fits = |chip, revision, slot_bytes| {
        let refusals = image.fits(chip, revision, slot_bytes);
        refusals.iter().for_each(check_sentences);
        rules(&refusals)
    };
    assert_eq!(fits(None, None, None), []);
    assert_eq!(fits(Some(Chip::ESP32_C3), Some(4), Some(432)), []);
    assert_eq!(
        fits(Some(Chip::ESP32_C3), Some(2), Some(431)),
        [Rule::ChipRevision, Rule::TooLarge]
    );
    assert_eq!(fits(None, Some(200), None), [Rule::ChipRevision]);
    assert_eq!(
        fits(Some(Chip::ESP32), Some(300), None),
        [Rule::WrongChip],
        "no word on another chip's revision"
    );
    assert_eq!(
        fits(Some(Chip(0x99)), None, Some(0)),
        [Rule::WrongChip, Rule::TooLarge]
    );
    let text = &image.fits(None, Some(2), None)[0].text;
    assert!(text.contains("v0.3 to v1.99") && text.contains("v0.2"), "{text}");
}

#[test]
fn signature_counts_against_the_slot() {
    let mut bytes = Build::app(13).bytes();
    bytes.extend(random(512));
    let image = image_of(&bytes);
    assert_eq!((image.end, image.len_bytes), (432, 944));
    assert_eq!(rules(&image.fits(None, None, Some(943))), [Rule::TooLarge]);
}

#[test]
fn chip_is_understood_in_every_spelling() {
    let cases = [
        ("esp32", Some(Chip::ESP32)),
        ("ESP32", Some(Chip::ESP32)),
        (" ESP32-C6 ", Some(Chip::ESP32_C6)),
        ("ESP32C6", Some(Chip::ESP32_C6)),
        ("esp32_c6", Some(Chip::ESP32_C6)),
        ("ESP32-C6FH4", Some(Chip::ESP32_C6)),
        ("ESP32-C61", Some(Chip::ESP32_C61)),
        ("ESP32-C61HF4", Some(Chip::ESP32_C61)),
        ("esp32s3", Some(Chip::ESP32_S3)),
        ("ESP32-S31", Some(Chip::ESP32_S31)),
        ("ESP32-S2FNR2", Some(Chip::ESP32_S2)),
        ("ESP32-H2", Some(Chip::ESP32_H2)),
        ("ESP32-H21", Some(Chip::ESP32_H21)),
        ("ESP32-D0WDQ6", Some(Chip::ESP32)),
        ("ESP32-D0WD-V3", Some(Chip::ESP32)),
        ("ESP32-D0WDR2-V3", Some(Chip::ESP32)),
        ("ESP32-PICO-V3-02", Some(Chip::ESP32)),
        ("ESP32-U4WDH", Some(Chip::ESP32)),
        ("ESP32-S0WD", Some(Chip::ESP32)),
        ("ESP32-C6 (QFN40) (revision v0.1)", Some(Chip::ESP32_C6)),
        ("ESP32-C65", None),
        ("ESP32-X9", None),
        ("ESP32-C", None),
        ("ESP8266", None),
        ("esp", None),
        ("", None),
    ];
    for (text, expected) in cases {
        assert_eq!(Chip::parse(text), expected, "{text}");
    }
}

#[test]
fn known_chips_have_names_that_are_understood() {
    let known: Vec<u16> = (0..=u16::MAX).filter(|id| Chip(*id).name().is_some()).collect();
    assert_eq!(known, [0, 2, 5, 9, 12, 13, 16, 18, 20, 23, 25, 28, 31, 32]);
    for chip in known.into_iter().map(Chip) {
        assert_eq!(Chip::parse(chip.name().unwrap()), Some(chip));
        assert_eq!(Chip::parse(&chip.to_string()), Some(chip));
    }
    assert_eq!(
        (Chip(13).name(), Chip(13).to_string()),
        (Some("esp32c6"), "ESP32-C6".to_owned())
    );
    assert_eq!(Chip(153).to_string(), "chip id 153");
}

#[test]
fn rules_have_different_names_that_are_understood() {
    for rule in Rule::ALL {
        assert_eq!(Rule::parse(rule.name()), Some(rule));
    }
    assert_eq!(Rule::parse("any"), None);
}

// ---- damage ----

#[test]
fn every_truncation_is_refused() {
    for build in [
        Build::app(0),
        Build {
            hash: false,
            ..Build::app(13)
        },
    ] {
        let bytes = build.bytes();
        for len in 1..bytes.len() {
            let reading = read(&bytes[..len]);
            assert_eq!(rules(&reading.refusals), [Rule::Truncated], "{len} bytes");
            check_sentences(&reading.refusals[0]);
        }
    }
}

#[test]
fn truncated_image_says_what_it_needs() {
    let bytes = Build::app(13).bytes();
    let end = |len: usize| image_of(&bytes[..len]).end;
    assert_eq!((end(30), end(300), end(330), end(420)), (32, 320, 392, 432));
    assert_eq!(image_of(&bytes[..300]).chip, Chip::ESP32_C6);
}

#[test]
fn every_flipped_byte_of_segment_data_is_refused() {
    let segment_data = (32..320).chain(328..392);
    for at in segment_data {
        for hash in [true, false] {
            let mut bytes = Build {
                hash,
                ..Build::app(13)
            }
            .bytes();
            bytes[at] ^= 0x01;
            let refused = rules(&read(&bytes).refusals);
            assert!(refused.contains(&Rule::Checksum), "byte {at}: {refused:?}");
            assert_eq!(refused.contains(&Rule::Hash), hash, "byte {at}: {refused:?}");
        }
    }
}

#[test]
fn every_flipped_byte_of_an_image_with_hash_is_refused() {
    let sound = Build::app(13).bytes();
    for at in 0..sound.len() {
        for flip in [0x01, 0x80, 0xFF] {
            let mut bytes = sound.clone();
            bytes[at] ^= flip;
            assert!(!read(&bytes).accepted(), "byte {at} ^ {flip:#x}");
        }
    }
}

#[test]
fn changed_hash_and_checksum_are_told_apart() {
    let mut bytes = Build::app(13).bytes();
    bytes[431] ^= 1;
    check(&bytes, Kind::App, &[Rule::Hash]);
    let mut bytes = Build {
        hash: false,
        ..Build::app(13)
    }
    .bytes();
    bytes[399] ^= 1;
    check(&bytes, Kind::App, &[Rule::Checksum]);
    // Two changes that cancel out in the checksum.
    let mut bytes = Build::app(13).bytes();
    bytes[300] ^= 1;
    bytes[301] ^= 1;
    check(&bytes, Kind::App, &[Rule::Hash]);
}

#[test]
fn impossible_segments_are_refused() {
    for n_segments in [0, 17, 255] {
        let mut bytes = Build::app(13).bytes();
        bytes[1] = n_segments;
        check(&bytes, Kind::App, &[Rule::Segments]);
    }
    for len in [0x100_0000_u32, u32::MAX] {
        let mut bytes = Build::app(13).bytes();
        bytes[324..328].copy_from_slice(&len.to_le_bytes());
        check(&bytes, Kind::App, &[Rule::Segments]);
    }
    let mut bytes = Build::app(13).bytes();
    bytes[324..328].copy_from_slice(&0xFF_FFFF_u32.to_le_bytes());
    check(&bytes, Kind::App, &[Rule::Truncated]);
}

#[test]
fn sixteen_segments_are_accepted() {
    let mut build = Build::app(13);
    build.segments.resize(16, (0x4080_0000, vec![1, 2, 3, 4]));
    check(&build.bytes(), Kind::App, &[]);
}

#[test]
fn unknown_chips_are_refused() {
    for chip in [1, 4, 153, 0xFFFF] {
        check(&Build::app(chip).bytes(), Kind::App, &[Rule::UnknownChip]);
    }
}

// ---- what is behind the image ----

#[test]
fn trailing_bytes_are_refused() {
    let sound = Build::app(13).bytes();
    let junk: [&[u8]; 9] = [
        b"\0",
        b"\r\n------WebKitFormBoundary--\r\n",
        &[0xFF; 68],
        &[0; 68],
        &[0xFF; 512],
        &[0; 512],
        &[0xFF; 4096 - 432],
        &[0xFF; 8192 - 432],
        &random(513),
    ];
    for behind in junk {
        let bytes = [&sound, behind].concat();
        let image = check(&bytes, Kind::App, &[Rule::TrailingBytes]).image.unwrap();
        assert_eq!((image.end, image.signature), (432, None));
    }
    let reading = read(&[sound.as_slice(), &[0xFF; 100]].concat());
    assert!(
        reading.refusals[0]
            .text
            .ends_with("byte 432, but the file at 532: padding (0xFF) follows."),
        "{}",
        reading.refusals[0]
    );
    let twice = [sound.clone(), sound].concat();
    check(&twice, Kind::App, &[Rule::TrailingBytes]);
}

#[test]
fn text_of_a_signature_length_is_no_signature() {
    let text = "a line of a log that somebody appended\n".repeat(20);
    for len in [68, 512] {
        let bytes = [&Build::app(13).bytes(), &text.as_bytes()[..len]].concat();
        check(&bytes, Kind::App, &[Rule::TrailingBytes]);
    }
}

#[test]
fn arduino_signatures_are_recognised() {
    let padded = |signature: &[u8]| {
        let mut out = signature.to_vec();
        out.resize(512, 0);
        out
    };
    let mut der = vec![0x30, 70, 0x02, 33, 0];
    der.extend(random(32));
    der.extend([0x02, 33, 0]);
    der.extend(random(64).split_off(32));
    for hash in [true, false] {
        for signature in [&random(256)[..], &random(384), &random(512), &der] {
            let bytes = [
                Build {
                    hash,
                    ..Build::app(13)
                }
                .bytes(),
                padded(signature),
            ]
            .concat();
            let image = check(&bytes, Kind::App, &[]).image.unwrap();
            assert_eq!(image.signature, Some(Signature::Arduino512));
        }
        // Something between the sizes of keys.
        let bytes = [
            Build {
                hash,
                ..Build::app(13)
            }
            .bytes(),
            padded(&random(300)),
        ]
        .concat();
        check(&bytes, Kind::App, &[Rule::TrailingBytes]);
    }
    let ends_in_zero = [&random(255)[..], &[0]].concat();
    let bytes = [Build::app(13).bytes(), padded(&ends_in_zero)].concat();
    assert_eq!(image_of(&bytes).signature, Some(Signature::Arduino512));
}

#[test]
fn secure_boot_v1_signature_is_recognised() {
    let trailer = [&[0; 4][..], &random(64)].concat();
    let bytes = [Build::app(0).bytes(), trailer].concat();
    assert_eq!(
        check(&bytes, Kind::App, &[]).image.unwrap().signature,
        Some(Signature::SecureBootV1)
    );
    let other_version = [&[1, 0, 0, 0][..], &random(64)].concat();
    check(
        &[Build::app(0).bytes(), other_version].concat(),
        Kind::App,
        &[Rule::TrailingBytes],
    );
}

/// An image padded to a sector, and a sector with blocks that sign it.
fn secure_boot_v2(schemes: &[Scheme]) -> Vec<u8> {
    let mut bytes = Build::app(13).bytes();
    bytes.resize(4096, 0xFF);
    let (sha256, sha384) = (Sha256::digest(&bytes), Sha384::digest(&bytes));
    for scheme in schemes {
        let mut block = random(1196);
        let (head, curve_at, curve, digest): ([u8; 4], _, _, &[u8]) = match scheme {
            Scheme::Rsa3072 => ([0xE7, 2, 0, 0], 1195, block[1195], &sha256),
            Scheme::EcdsaP192 => ([0xE7, 3, 0, 0], 36, 1, &sha256),
            Scheme::EcdsaP256 => ([0xE7, 3, 0, 0], 36, 2, &sha256),
            Scheme::EcdsaP384 => ([0xE7, 3, 1, 0], 52, 3, &sha384),
        };
        block[..4].copy_from_slice(&head);
        block[4..4 + digest.len()].copy_from_slice(digest);
        block[curve_at] = curve;
        let crc = crc32fast::hash(&block);
        bytes.extend(block);
        bytes.extend(crc.to_le_bytes());
        bytes.extend([0; 16]);
    }
    bytes.resize(8192, 0xFF);
    bytes
}

#[test]
fn secure_boot_v2_blocks_are_recognised_and_held_against_the_image() {
    let cases: [(&[Scheme], Scheme); 6] = [
        (&[Scheme::Rsa3072], Scheme::Rsa3072),
        (&[Scheme::EcdsaP192], Scheme::EcdsaP192),
        (&[Scheme::EcdsaP256], Scheme::EcdsaP256),
        (&[Scheme::EcdsaP384], Scheme::EcdsaP384),
        (&[Scheme::Rsa3072, Scheme::Rsa3072], Scheme::Rsa3072),
        (
            &[Scheme::EcdsaP256, Scheme::EcdsaP384, Scheme::Rsa3072],
            Scheme::EcdsaP256,
        ),
    ];
    for (schemes, scheme) in cases {
        let image = check(&secure_boot_v2(schemes), Kind::App, &[]).image.unwrap();
        let blocks = u8::try_from(schemes.len()).unwrap();
        let expected = Signature::SecureBootV2 {
            blocks,
            scheme,
            digest_ok: true,
            crc_ok: true,
        };
        assert_eq!((image.signature, image.end), (Some(expected), 432));
    }
}

#[test]
fn damaged_secure_boot_v2_is_refused() {
    let sound = secure_boot_v2(&[Scheme::Rsa3072, Scheme::EcdsaP256]);
    let damaged = |at: usize, to: u8| {
        let mut bytes = sound.clone();
        assert_ne!(bytes[at], to);
        bytes[at] = to;
        bytes
    };
    let ok = |bytes: &[u8], rules: &[Rule]| match check(bytes, Kind::App, rules).image.unwrap().signature {
        Some(Signature::SecureBootV2 {
            blocks: 2,
            digest_ok,
            crc_ok,
            ..
        }) => (digest_ok, crc_ok),
        other => panic!("{other:?}"),
    };
    // In the signature, in the digest, in the CRC of the second block.
    assert_eq!(
        ok(&damaged(4096 + 900, !sound[4096 + 900]), &[Rule::Hash]),
        (true, false)
    );
    assert_eq!(
        ok(&damaged(4096 + 4, !sound[4096 + 4]), &[Rule::Hash]),
        (false, false)
    );
    assert_eq!(
        ok(
            &damaged(4096 + 1216 + 1196, !sound[4096 + 1216 + 1196]),
            &[Rule::Hash]
        ),
        (true, false)
    );
    // Block magic, version, padding before and behind.
    for at in [4096, 4097, 3000, 8191] {
        check(&damaged(at, 0x55), Kind::App, &[Rule::TrailingBytes]);
    }
    // Another image under the same signature: here, one for another chip.
    let other = [&Build::app(5).bytes(), &sound[432..]].concat();
    assert_eq!(ok(&other, &[Rule::Hash]), (false, true));
    for len in [8191, 4096 + 1216, 4097] {
        check(&sound[..len], Kind::App, &[Rule::TrailingBytes]);
    }
    check(&[&sound[..], &[0xFF]].concat(), Kind::App, &[Rule::TrailingBytes]);
}

// ---- what is no application image ----

#[test]
fn files_of_other_kinds_are_named() {
    let padded = |start: &[u8], len: usize, with: u8| {
        let mut out = start.to_vec();
        out.resize(len, with);
        out
    };
    check(b"", Kind::Empty, &[Rule::Empty]);
    check(b"#!/bin/sh\nexit 1\n", Kind::Text, &[Rule::Text]);
    check("Größe: 1 µs\r\n".as_bytes(), Kind::Text, &[Rule::Text]);
    check("é".repeat(5000).as_bytes(), Kind::Text, &[Rule::Text]);
    check(
        format!("x{}", "é".repeat(5000)).as_bytes(),
        Kind::Text,
        &[Rule::Text],
    );
    check(b"{\"message\":\"Not Found\"}", Kind::Text, &[Rule::Text]);
    check(
        b":100000000C9434000C943E000C943E000C943E0082\n",
        Kind::Text,
        &[Rule::Text],
    );
    check(
        b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code></Error>",
        Kind::Text,
        &[Rule::Text],
    );
    check(b"<!DOCTYPE html>\n<title>404</title>", Kind::Html, &[Rule::Html]);
    check(b"\xEF\xBB\xBF\r\n  <HTML><HEAD>", Kind::Html, &[Rule::Html]);
    check(
        b"<!-- cached --><html><p>Stra\xDFe</p>",
        Kind::Html,
        &[Rule::Html],
    );
    check(b"\x1F\x8B\x08\0abcdef", Kind::Gzip, &[Rule::Gzip]);
    check(b"\x7FELF\x01\x01\x01\0", Kind::Elf, &[Rule::Elf]);
    check(&padded(b"UF2\n\x57\x51\x5D\x9E", 512, 0), Kind::Uf2, &[Rule::Uf2]);
    check(&random(4096), Kind::Encrypted, &[Rule::Encrypted]);
    check(&random(0x2_0000), Kind::Encrypted, &[Rule::Encrypted]);
    check(&random(1000), Kind::Unknown, &[Rule::NotAnImage]);
    check(b"\x03\0\0\0\xFE\x10", Kind::Unknown, &[Rule::NotAnImage]);
    check(b"PK\x03\x04\x14\0\0\0", Kind::Unknown, &[Rule::NotAnImage]);
    check(&[0xFF; 8192], Kind::Unknown, &[Rule::NotAnImage]);
    check(&[0; 8192], Kind::Unknown, &[Rule::NotAnImage]);
    check(&partition_table(), Kind::Unknown, &[Rule::NotAnImage]);
    check(
        &padded(&[1, 0, 0, 0], 8192, 0xFF),
        Kind::Unknown,
        &[Rule::NotAnImage],
    );
}

#[test]
fn counter_is_not_called_encrypted() {
    let counter: Vec<u8> = (0..=255).cycle().skip(128).take(4096).collect();
    check(&counter, Kind::Unknown, &[Rule::NotAnImage]);
}

#[test]
fn excerpt_of_a_text_is_short_and_printable() {
    let text = format!("\u{FEFF}\n\n  caf\u{e9} \u{202e}{}\nsecond line", "x".repeat(100));
    let reading = check(text.as_bytes(), Kind::Text, &[Rule::Text]);
    let expected = format!("\"caf? ?{}…\"", "x".repeat(34));
    assert!(
        reading.refusals[0].text.contains(&expected),
        "{}",
        reading.refusals[0]
    );
}

#[test]
fn filesystems_are_named() {
    let mut little = vec![0xFF; 8192];
    little[..16].copy_from_slice(b"\x01\0\0\0\xF0\x0F\xFF\xF7littlefs");
    assert!(
        check(&little, Kind::Filesystem, &[Rule::Filesystem]).refusals[0]
            .text
            .contains("LittleFS")
    );
    // Its counter may look like the first byte of an image.
    little[0] = 0xE9;
    check(&little, Kind::Filesystem, &[Rule::Filesystem]);
    little.rotate_right(4096);
    check(&little, Kind::Filesystem, &[Rule::Filesystem]);

    let mut spiffs = vec![0xFF; 0x1_0000];
    for block in spiffs.chunks_mut(4096) {
        block[..6].copy_from_slice(&[0x01, 0x80, 0x01, 0x00, 0x02, 0x80]);
        block[252..254].copy_from_slice(&[0x39, 0x04]);
    }
    assert!(
        check(&spiffs, Kind::Filesystem, &[Rule::Filesystem]).refusals[0]
            .text
            .contains("SPIFFS")
    );

    let mut fat = vec![0; 8192];
    fat[..3].copy_from_slice(&[0xEB, 0xFE, 0x90]);
    fat[510..512].copy_from_slice(&[0x55, 0xAA]);
    check(&fat, Kind::Filesystem, &[Rule::Filesystem]);
}

#[test]
fn esp8266_images_are_named() {
    // Arduino's: the loader comes first. Then ESP-IDF's second version, and one that starts with data.
    let arduino = b"\xE9\x01\x02\x40\x80\xF4\x10\x40\x00\xF0\x10\x40\x00\x0E\x00\x00";
    let v2 = b"\xEA\x04\x00\x00\x04\x00\x10\x40\x00\x00\x00\x00\x00\x10\x00\x00";
    let data_first = b"\xE9\x03\x02\x40\x04\x00\x10\x40\x00\x80\xFE\x3F\x00\x0E\x00\x00";
    for start in [arduino, v2, data_first] {
        let mut bytes = start.to_vec();
        bytes.resize(4096, 0x24);
        check(&bytes, Kind::Esp8266, &[Rule::Esp8266]);
    }
}

fn bootloader(chip: u16, address: u32, named: bool) -> Vec<u8> {
    let mut contents = vec![0x20; 512];
    if named {
        contents[..8].copy_from_slice(&[80, 0, 0, 0, 1, 0, 0, 0]);
        contents[8..40].fill(0);
        contents[8..14].copy_from_slice(b"v5.5.1");
    }
    Build::of(chip, vec![(address, contents)]).bytes()
}

fn partition_table() -> Vec<u8> {
    let mut out = b"\xAA\x50\x01\x02\0\x90\0\0\0\x50\0\0nvs\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    out.resize(0xC00, 0xFF);
    out
}

#[test]
fn bootloaders_are_named() {
    check(
        &bootloader(13, 0x4080_0000, true),
        Kind::Bootloader,
        &[Rule::Bootloader],
    );
    check(
        &bootloader(0, 0x3FFF_0030, false),
        Kind::Bootloader,
        &[Rule::Bootloader],
    );
    check(
        &bootloader(2, 0x3FFE_8100, false),
        Kind::Bootloader,
        &[Rule::Bootloader],
    );
    check(
        &bootloader(18, 0x4FF2_CBD0, false),
        Kind::Bootloader,
        &[Rule::Bootloader],
    );
}

#[test]
fn bootloader_that_says_so_is_named_even_if_cut_off_or_for_an_unknown_chip() {
    let cut_off = &bootloader(13, 0x4080_0000, true)[..400];
    check(cut_off, Kind::Bootloader, &[Rule::Bootloader, Rule::Truncated]);
    check(
        &bootloader(99, 0x4080_0000, true),
        Kind::Bootloader,
        &[Rule::Bootloader, Rule::UnknownChip],
    );
}

#[test]
fn application_without_descriptor_is_refused_as_such() {
    let places = [
        (0, 0x3F40_0020),
        (0, 0x400D_0020),
        (2, 0x3F00_0020),
        (13, 0x4200_0020),
        (9, 0x3C00_0020),
        (18, 0x4000_0020),
    ];
    for (chip, address) in places {
        check(
            &bootloader(chip, address, false),
            Kind::App,
            &[Rule::NoAppDescriptor],
        );
    }
    check(
        &bootloader(99, 0x4200_0020, false),
        Kind::App,
        &[Rule::NoAppDescriptor, Rule::UnknownChip],
    );
}

#[test]
fn merged_images_are_named() {
    let merged = |bootloader_at: usize, table_at: usize, bootloader: &[u8]| {
        let mut out = vec![0xFF; 0x1_0000];
        out[bootloader_at..bootloader_at + bootloader.len()].copy_from_slice(bootloader);
        out[table_at..table_at + 0xC00].copy_from_slice(&partition_table());
        out.extend(Build::app(13).bytes());
        out
    };
    for named in [true, false] {
        let first = bootloader(13, 0x4080_0000, named);
        check(&merged(0, 0x8000, &first), Kind::Merged, &[Rule::Merged]);
        check(&merged(0, 0xF000, &first), Kind::Merged, &[Rule::Merged]);
        check(&merged(0x1000, 0x8000, &first), Kind::Merged, &[Rule::Merged]);
        check(&merged(0x2000, 0x8000, &first), Kind::Merged, &[Rule::Merged]);
    }
    let mut damaged = merged(0, 0x8000, &bootloader(13, 0x4080_0000, false));
    damaged[29] = 0xFF;
    damaged[31] = 0xFF;
    assert_eq!(check(&damaged, Kind::Merged, &[Rule::Merged]).image, None);
}

#[test]
fn application_that_holds_a_partition_table_is_no_merged_image() {
    for (first, rules) in [
        (descriptor(b"1", b"p"), &[][..]),
        (vec![0; 256], &[Rule::NoAppDescriptor]),
    ] {
        let mut second = vec![0; 0x2_0000];
        let at = 0x8000 - 296;
        second[at..at + 0xC00].copy_from_slice(&partition_table());
        let bytes = Build::of(13, vec![(0x4200_0020, first), (0x4201_0128, second)]).bytes();
        assert_eq!(bytes[0x8000..0x8002], [0xAA, 0x50]);
        check(&bytes, Kind::App, rules);
    }
}

// ---- any bytes at all ----

/// What must hold for every reading.
fn check_invariants(bytes: &[u8]) {
    let reading = read(bytes);
    reading.refusals.iter().for_each(check_sentences);
    if reading.accepted() {
        let image = reading.image.as_ref().expect("accepted, so it was read");
        assert!(reading.kind == Kind::App && image.descriptor.is_some() && image.chip.name().is_some());
        assert!(image.end == bytes.len() || image.signature.is_some());
    }
    if let Some(image) = reading.image {
        image
            .fits(Some(Chip(13)), Some(0), Some(0))
            .iter()
            .for_each(check_sentences);
        image
            .fits(Some(image.chip), Some(u16::MAX), None)
            .iter()
            .for_each(check_sentences);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn arbitrary_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        check_invariants(&bytes);
    }

    #[test]
    fn arbitrary_bytes_behind_the_magic_are_read_without_panic(
        n_segments in 0_u8..20,
        bytes in proptest::collection::vec(any::<u8>(), 0..2048),
    ) {
        check_invariants(&[&[0xE9, n_segments][..], &bytes].concat());
    }

    #[test]
    fn changed_images_are_read_without_panic(
        changes in proptest::collection::vec((0_usize..8192, any::<u8>()), 1..8),
        len in 0_usize..9000,
    ) {
        let mut bytes = secure_boot_v2(&[Scheme::EcdsaP384, Scheme::Rsa3072, Scheme::EcdsaP192]);
        for (at, to) in changes {
            bytes[at] = to;
        }
        bytes.resize(len, 0);
        check_invariants(&bytes);
    }

    #[test]
    fn checksum_is_the_exclusive_or_of_all_bytes(contents in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut build = Build::app(13);
        build.segments[1].1 = contents;
        prop_assert!(read(&build.bytes()).accepted());
    }
}
