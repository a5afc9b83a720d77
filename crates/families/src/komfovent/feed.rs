//! The vendor's downloads (PROTOCOLS.md A6): one for C6 and C6M, one for C8. There is no list of versions and no checksum.

use model::feed::{Feed, NamedPart};
use model::id::FamilyId;

use super::file::{MAX_LEN_BYTES, MIN_LEN_BYTES, Name};
use super::version::{CONTROLLER, PANEL};

/// The type of panel that names call P1: 0 in registers and in stored versions (MISSION.md 3, correction 9).
const P1: u16 = 0;

/// All of them.
pub(super) fn downloads(family: &FamilyId) -> Vec<Feed> {
    let feed = |key, models, url| Feed {
        family: family.clone(),
        key,
        models,
        url,
        len_bytes: MIN_LEN_BYTES..=MAX_LEN_BYTES,
        read_name,
    };
    vec![
        feed(
            "C6",
            &["C6", "C6M"],
            "https://www.komfovent.com/Update/Controllers/firmware.php?file=mbin",
        ),
        feed(
            "C8",
            &["C8"],
            "https://www.komfovent.com/Update/Controllers/C8/firmware.php?file=mbin",
        ),
    ]
}

/// The versions that one of the vendor's names tells; none for any other name.
fn read_name(file_name: &str) -> Option<Vec<NamedPart>> {
    let name = Name::parse(file_name)?;
    let part = |part, kind, [v1, v2, v3, v4]: [u16; 4]| NamedPart {
        part,
        numbers: [kind, v1, v2, v3, v4],
    };
    let controller = name.controller;
    let mut parts = vec![part(
        CONTROLLER,
        controller.model.kind(),
        controller.numbers.all(),
    )];
    parts.extend(name.panel.map(|panel| part(PANEL, P1, panel.0.all())));
    Some(parts)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use model::device::{Device, Hardware};
    use model::id::DeviceId;
    use model::version::Versions;

    use super::*;

    #[track_caller]
    fn check(file_name: &str, expected: &[(&str, [u16; 5])]) {
        let found = read_name(file_name).unwrap_or_default();
        let found: Vec<(&str, [u16; 5])> = found.iter().map(|named| (named.part, named.numbers)).collect();
        assert_eq!(found, expected, "{file_name}");
    }

    /// `test_parse_version_from_modern_filename`; the panel `P1` is type 0.
    #[test]
    fn a_modern_file_name_tells_the_versions_of_controller_and_panel() {
        check(
            "C6_1_5_46_72_P1_1_1_5_48.mbin",
            &[("controller", [0, 1, 5, 46, 72]), ("panel", [0, 1, 1, 5, 48])],
        );
        check(
            "C8_1_1_14_27_P1_1_1_5_46.mbin",
            &[("controller", [2, 1, 1, 14, 27]), ("panel", [0, 1, 1, 5, 46])],
        );
    }

    /// `test_parse_version_from_legacy_filename`.
    #[test]
    fn a_legacy_file_name_tells_the_version_of_the_controller() {
        check("C6_1_3_28_38_20180428.mbin", &[("controller", [0, 1, 3, 28, 38])]);
        check("C6M_1_4_47_74.mbin", &[("controller", [1, 1, 4, 47, 74])]);
    }

    #[test]
    fn any_other_file_name_tells_nothing() {
        for name in ["firmware.mbin", "C6_1_5_46_72.bin", "../C6_1_5_46_72.mbin", ""] {
            check(name, &[]);
        }
    }

    #[test]
    fn only_the_downloads_for_controllers_in_use_are_worth_a_look() {
        let family = FamilyId::new("komfovent");
        let device = |family: &FamilyId, model: &str| Device {
            id: DeviceId::weak(family, model),
            address: IpAddr::from([192, 0, 2, 1]),
            hardware: Hardware {
                model: Some(model.to_owned()),
                ..Hardware::default()
            },
            slot_bytes: None,
            versions: Versions::default(),
        };
        let foreign = device(&FamilyId::new("ir-remote"), "C6");
        for (fleet, keys) in [
            (vec![], &[][..]),
            (vec![foreign.clone()], &[]),
            (vec![device(&family, "C6")], &["C6"]),
            (vec![device(&family, "C6M"), device(&family, "C6")], &["C6"]),
            (vec![device(&family, "C8"), device(&family, "C6M")], &["C6", "C8"]),
        ] {
            let mut feeds = downloads(&family);
            feeds.retain(|feed| fleet.iter().any(|device| feed.is_for(device)));
            let found: Vec<&str> = feeds.iter().map(|feed| feed.key).collect();
            assert_eq!(found, keys);
        }
    }
}
