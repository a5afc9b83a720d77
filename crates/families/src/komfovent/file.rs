//! Firmware files: what their name, size and last bytes tell (PROTOCOLS.md A6). What is between is encrypted.

use model::id::FamilyId;
use model::image::{Image, ImageInfo, Inspection, Override, Refusal, Warning};
use proto::esp_image::{self, Kind};

use super::version::{Controller, Model, Numbers, Panel, Part, Parts, number};

/// Ending of the only files that are taken.
pub(crate) const SUFFIX: &str = ".mbin";
/// Smallest file taken, bytes (seed 002: 100 KB to 10 MB).
pub(super) const MIN_LEN_BYTES: u64 = 100 * 1024;
/// Largest file taken, bytes.
pub(super) const MAX_LEN_BYTES: u64 = 10 * 1024 * 1024;
/// Last bytes of the one real file whose end is known (a capture of C6 1.5.44.70).
const TRAILER: &[u8; 35] = b"5123456781234567800AA00AA00BB00BB\r\n";

/// What a file name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// The controller's version.
    pub controller: Controller,
    /// The panel's, which files from before 2019 do not name.
    pub panel: Option<Panel>,
}

impl Name {
    /// Reads `C6_1_5_46_72_P1_1_1_5_48.mbin` or `C6_1_3_28_38_20180428.mbin`; anything around it makes it another name.
    pub fn parse(file_name: &str) -> Option<Self> {
        let mut parts = file_name.strip_suffix(SUFFIX)?.split('_').peekable();
        let model = Model::parse(parts.next()?)?;
        let numbers = numbers(&mut parts)?;
        // P1 is the panel of type 0; no other is known.
        let panel = match parts.next_if_eq(&"P1") {
            Some(_) => Some(Panel(self::numbers(&mut parts)?)),
            None => None,
        };
        let is_date = |part: &&str| part.len() == 8 && part.bytes().all(|byte| byte.is_ascii_digit());
        let _built_on = parts.next_if(is_date);
        parts.next().is_none().then_some(Self {
            controller: Controller { model, numbers },
            panel,
        })
    }

    fn parts(self) -> Parts {
        Parts {
            controller: Some(self.controller),
            panel: self.panel.map_or(Part::Absent, Part::Known),
            second_panel: Part::Absent,
        }
    }
}

fn numbers<'a>(parts: &mut impl Iterator<Item = &'a str>) -> Option<Numbers> {
    let mut next = || parts.next().and_then(number);
    Numbers::new(next()?, next()?, next()?, next()?)
}

/// Inspects a file.
pub(super) fn inspect(family: &FamilyId, image: &Image) -> Inspection {
    if !image.file_name().to_ascii_lowercase().ends_with(SUFFIX) {
        return Inspection::NotMine;
    }
    let name = Name::parse(image.file_name());
    let foreign = foreign(image.bytes());
    let refusals: Vec<Refusal> = [
        name.is_none().then(bad_name),
        bad_size(image.len_bytes()),
        foreign,
    ]
    .into_iter()
    .flatten()
    .collect();
    let has_trailer = image.bytes().ends_with(TRAILER);
    let info = ImageInfo {
        version_source: model::image::VersionSource::FileName,
        family: Some(family.clone()),
        kind: "mbin".to_owned(),
        chip: None,
        versions: name.map(|name| name.parts().versions()),
        hint: None,
        project: None,
        signature: None,
        len_bytes: image.len_bytes(),
        sha256: image.sha256(),
        warnings: (!has_trailer).then(no_trailer).into_iter().collect(),
    };
    if refusals.is_empty() {
        Inspection::Accepted(info)
    } else {
        Inspection::Refused(info, refusals)
    }
}

/// The vendor's files are opaque; but what is known to be something else is not one of them.
fn foreign(bytes: &[u8]) -> Option<Refusal> {
    let kind = esp_image::read(bytes).kind;
    // Only what has a mark of its own: opaque bytes may look like anything else.
    let has_mark = matches!(
        kind,
        Kind::Html | Kind::Gzip | Kind::Elf | Kind::Uf2 | Kind::App | Kind::Bootloader | Kind::Merged
    );
    if !has_mark {
        return None;
    }
    Some(Refusal {
        rule: "foreign-content".to_owned(),
        text: format!(
            "The file has the name of a Komfovent file, but what is in it is of another kind ({kind})."
        ),
        next_step: "Download the vendor's file again.".to_owned(),
        overriding: Override::Possible,
    })
}

fn bad_name() -> Refusal {
    Refusal {
        rule: "bad-name".to_owned(),
        text:
            "Only the name of a Komfovent file tells for which controller it is, and this is not such a name."
                .to_owned(),
        next_step: "Give the file the vendor's name back, such as C6_1_5_46_72_P1_1_1_5_48.mbin.".to_owned(),
        // Without a name nothing tells a C8's file from a C6's.
        overriding: Override::Never,
    }
}

fn bad_size(len_bytes: u64) -> Option<Refusal> {
    let (rule, text) = if len_bytes < MIN_LEN_BYTES {
        let text =
            format!("The file has {len_bytes} bytes; firmware for these units has at least {MIN_LEN_BYTES}.");
        ("too-small", text)
    } else if len_bytes > MAX_LEN_BYTES {
        let text =
            format!("The file has {len_bytes} bytes; firmware for these units has at most {MAX_LEN_BYTES}.");
        ("too-large", text)
    } else {
        return None;
    };
    Some(Refusal {
        rule: rule.to_owned(),
        text,
        next_step: "Download it again from the vendor.".to_owned(),
        overriding: Override::Possible,
    })
}

fn no_trailer() -> Warning {
    Warning {
        rule: "no-trailer".to_owned(),
        text: "The file does not end as the vendor's known file does: it may be cut short.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn real(len_bytes: usize) -> Vec<u8> {
        let mut bytes = vec![0xa7; len_bytes - TRAILER.len()];
        bytes.extend_from_slice(TRAILER);
        bytes
    }

    fn inspected(name: &str, bytes: Vec<u8>) -> Inspection {
        inspect(&FamilyId::new("komfovent"), &Image::new(name, bytes))
    }

    #[track_caller]
    fn check(name: &str, bytes: Vec<u8>, rules: &[&str]) {
        match inspected(name, bytes) {
            Inspection::Accepted(_) => assert!(rules.is_empty(), "{name} was accepted"),
            Inspection::Refused(_, refusals) => {
                let found: Vec<&str> = refusals.iter().map(|refusal| refusal.rule.as_str()).collect();
                assert_eq!(found, rules, "{name}");
            }
            Inspection::NotMine => panic!("{name} was not taken for a Komfovent file"),
        }
    }

    const MODERN: &str = "C6_1_5_46_72_P1_1_1_5_48.mbin";

    #[test]
    fn modern_and_legacy_names_tell_their_versions() {
        for (name, versions) in [
            (MODERN, "C6 1.5.46.72 / P1 1.1.5.48"),
            ("C6_1_3_28_38_20180428.mbin", "C6 1.3.28.38"),
            ("C6_1_3_28_38.mbin", "C6 1.3.28.38"),
            ("C6M_1_4_47_74_P1_1_1_5_48.mbin", "C6M 1.4.47.74 / P1 1.1.5.48"),
            ("C8_1_1_14_27_P1_1_1_5_46.mbin", "C8 1.1.14.27 / P1 1.1.5.46"),
            (
                "C6_1_5_44_70_P1_1_1_5_46_20240101.mbin",
                "C6 1.5.44.70 / P1 1.1.5.46",
            ),
        ] {
            let parts = Name::parse(name).unwrap().parts();
            assert_eq!(parts.versions().to_string(), versions, "{name}");
        }
    }

    #[test]
    fn panel_p1_of_a_name_is_the_type_that_registers_call_0() {
        let panel = Name::parse(MODERN).unwrap().panel.unwrap();
        assert_eq!(panel.pack(), 17_846_320);
    }

    #[test]
    fn a_name_with_anything_around_or_missing_is_another_name() {
        for name in [
            "x_C6_1_5_46_72.mbin",
            " C6_1_5_46_72.mbin",
            "C6_1_5_46_72.mbin.bin",
            "C6_1_5_46_72.bin",
            "C6_1_5_46_72.MBIN",
            "c6_1_5_46_72.mbin",
            "C7_1_5_46_72.mbin",
            "C6_1_5_46.mbin",
            "C6_1_5_46_72_.mbin",
            "C6_1_5_46_72_P1_1_1_5.mbin",
            "C6_1_5_46_72_P2_1_1_5_48.mbin",
            "C6_1_5_46_72_P1_1_1_5_48_P1_1_1_5_48.mbin",
            "C6_1_5_46_72_2018042.mbin",
            "C6_1_5_46_72_20180428_20180428.mbin",
            "C6_16_5_46_72.mbin",
            "C6_1_5_256_72.mbin",
            "C6_1_5_46_4096.mbin",
            "C6_1_5_46_-72.mbin",
            "C6_1_5_46_72\n.mbin",
            "../C6_1_5_46_72.mbin",
            ".mbin",
            "",
        ] {
            assert_eq!(Name::parse(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_file_of_the_right_name_size_and_end_is_accepted_without_a_warning() {
        let Inspection::Accepted(info) = inspected(MODERN, real(1_123_678)) else {
            panic!("refused");
        };
        assert_eq!((info.kind.as_str(), info.warnings.len()), ("mbin", 0));
        assert_eq!(info.family, Some(FamilyId::new("komfovent")));
    }

    #[test]
    fn only_mbin_files_are_this_familys() {
        for name in ["C6_1_5_46_72.bin", "ir_remote_v2.0.0.bin", "mbin", "a.mbin.txt"] {
            assert_eq!(inspected(name, real(200_000)), Inspection::NotMine, "{name}");
        }
        check("firmware.mbin", real(200_000), &["bad-name"]);
        check("C6_1_5_46_72.MBIN", real(200_000), &["bad-name"]);
    }

    #[test]
    fn a_file_below_100_kib_or_above_10_mib_is_refused() {
        check(MODERN, real(100 * 1024 - 1), &["too-small"]);
        check(MODERN, real(100 * 1024), &[]);
        check(MODERN, real(10 * 1024 * 1024), &[]);
        check(MODERN, real(10 * 1024 * 1024 + 1), &["too-large"]);
        check("firmware.mbin", Vec::new(), &["bad-name", "too-small"]);
    }

    #[test]
    fn a_truncated_file_is_warned_of() {
        let mut bytes = real(200_000);
        bytes.pop();
        let Inspection::Accepted(info) = inspected(MODERN, bytes) else {
            panic!("refused");
        };
        assert_eq!(info.warnings[0].rule, "no-trailer");
    }

    proptest! {
        #[test]
        fn any_name_is_read_without_a_panic(name in "[C6M8P1_0-9.\\PC]{0,60}(\\.mbin)?") {
            let _ = Name::parse(&name);
        }
    }

    #[test]
    fn what_carries_the_mark_of_something_else_is_refused() {
        let html = [b"<!DOCTYPE html><html><body>".to_vec(), vec![b' '; 150_000]].concat();
        let Inspection::Refused(_, refusals) = inspect(
            &FamilyId::new("komfovent"),
            &Image::new("C6_1_5_46_72_P1_1_1_5_48.mbin", html),
        ) else {
            panic!("a page is no firmware");
        };
        assert_eq!(refusals[0].rule, "foreign-content");
    }
}
