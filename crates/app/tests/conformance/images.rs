//! Inspection: a family takes its own images, and neither other formats nor what is cut.

use families::Ways;
use model::image::{Image, ImageInfo, Inspection};

use crate::bench::{family, nowhere};
use crate::entries::{self, Cuts, Entry};

fn inspect(entry: &Entry, image: &Image) -> Inspection {
    family(entry.name, &nowhere(), &Ways::default()).inspect(image)
}

fn accepted(entry: &Entry, image: &Image) -> Option<ImageInfo> {
    match inspect(entry, image) {
        Inspection::Accepted(info) => Some(info),
        Inspection::NotMine => None,
        Inspection::Refused(_, refusals) => {
            assert!(!refusals.is_empty(), "{}: refused for no reason", entry.name);
            for refusal in refusals {
                assert!(refusal.text.ends_with('.'), "{}", refusal.text);
                assert!(refusal.next_step.ends_with('.'), "{}", refusal.next_step);
            }
            None
        }
    }
}

/// Beginnings of other kinds of file.
const OTHER_FORMATS: [(&str, &[u8]); 10] = [
    ("empty", b""),
    ("text", b"This is a placeholder and no firmware.\n"),
    ("page", b"<!DOCTYPE html><html><body>404</body></html>"),
    ("elf", b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0"),
    ("zip", b"PK\x03\x04\x14\0\0\0\x08\0"),
    ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03"),
    ("png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
    ("intel hex", b":10010000214601360121470136007EFE09D2190140\r\n"),
    ("zeros", b"\0"),
    ("erased flash", b"\xff"),
];

/// Such a file of about this length.
fn file(beginning: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = beginning.to_vec();
    while !beginning.is_empty() && bytes.len() < len {
        bytes.extend_from_slice(beginning);
    }
    bytes
}

#[test]
fn a_family_takes_its_own_images_without_a_warning() {
    for entry in entries::all() {
        for image in (entry.images)() {
            let info = accepted(&entry, &image).unwrap_or_else(|| panic!("{}: {image:?}", entry.name));
            assert_eq!(info.family.unwrap().as_str(), entry.name);
            assert_eq!(info.kind, entry.kind, "{image:?}");
            assert!(info.versions.is_some(), "{image:?}");
            assert_eq!((info.len_bytes, info.sha256), (image.len_bytes(), image.sha256()));
            assert_eq!(info.warnings, [], "{image:?}");
        }
    }
}

#[test]
fn a_family_takes_no_other_format() {
    for entry in entries::all() {
        for (format, beginning) in OTHER_FORMATS {
            for len in [0, 1_000, 200_000] {
                for file_name in ["firmware.bin", "firmware.mbin", "firmware", ""] {
                    let image = Image::new(file_name, file(beginning, len));
                    assert_eq!(
                        accepted(&entry, &image),
                        None,
                        "{}: {format} as {file_name:?}",
                        entry.name
                    );
                }
            }
        }
    }
}

#[test]
fn a_family_that_reads_its_images_is_not_deceived_by_a_name() {
    for entry in entries::all().iter().filter(|entry| !entry.is_opaque) {
        for own in (entry.images)() {
            for (format, beginning) in OTHER_FORMATS {
                let image = Image::new(own.file_name(), file(beginning, 200_000));
                assert_eq!(
                    accepted(entry, &image),
                    None,
                    "{}: {format} as {image:?}",
                    entry.name
                );
            }
        }
    }
}

#[test]
fn a_family_takes_no_other_familys_images() {
    let all = entries::all();
    for entry in &all {
        for other in all.iter().filter(|other| other.kind != entry.kind) {
            for image in (other.images)() {
                assert_eq!(accepted(entry, &image), None, "{}: {image:?}", entry.name);
            }
        }
    }
}

#[test]
fn a_family_that_tells_its_files_by_their_name_takes_them_under_no_other() {
    for entry in entries::all().iter().filter(|entry| entry.is_opaque) {
        for own in (entry.images)() {
            let name = own.file_name();
            for name in [
                format!("x{name}"),
                format!("{name}.bin"),
                format!(" {name}"),
                "firmware.bin".to_owned(),
                name.to_lowercase(),
            ] {
                let image = Image::new(&name, own.bytes().clone());
                assert_eq!(accepted(entry, &image), None, "{}: {image:?}", entry.name);
            }
        }
    }
}

/// Lengths to cut to: every one of a small file, those near an end or a limit of a large one.
fn lengths(len: usize, cuts: &Cuts) -> Vec<usize> {
    if len <= 4096 {
        return (0..len).collect();
    }
    let mut near = vec![0, 1, len / 2];
    near.extend(len - 100..len);
    if let Cuts::To(shown, _) = cuts {
        near.extend([shown.end - 1, shown.end]);
    }
    near
}

#[test]
fn a_family_refuses_every_cut_that_the_format_shows_and_warns_of_the_others() {
    for entry in entries::all() {
        for image in (entry.images)() {
            for len in lengths(image.bytes().len(), &entry.cuts) {
                let cut = Image::new(image.file_name(), &image.bytes()[..len]);
                let accepted = accepted(&entry, &cut);
                match &entry.cuts {
                    Cuts::To(shown, rule) if !shown.contains(&len) => {
                        let info = accepted.unwrap_or_else(|| panic!("{}: cut to {len}", entry.name));
                        let rules: Vec<&str> = info.warnings.iter().map(|w| w.rule.as_str()).collect();
                        assert_eq!(rules, [*rule], "{}: cut to {len}", entry.name);
                    }
                    Cuts::All | Cuts::To(..) => {
                        assert_eq!(accepted, None, "{}: cut to {len}", entry.name);
                    }
                }
            }
        }
    }
}

#[test]
fn a_file_with_more_behind_it_is_not_taken_as_good() {
    for entry in entries::all() {
        for image in (entry.images)() {
            let longer = [image.bytes(), &b"and more"[..]].concat();
            let longer = Image::new(image.file_name(), longer);
            let warned = |info: &ImageInfo| !info.warnings.is_empty();
            let found = accepted(&entry, &longer);
            assert!(found.as_ref().is_none_or(warned), "{}: {longer:?}", entry.name);
        }
    }
}
