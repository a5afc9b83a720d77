//! What is checked on the live device before anything is changed.

use serde::{Deserialize, Serialize};

use crate::device::{Device, Ota, Snapshot};
use crate::family::Family;
use crate::image::{Image, ImageInfo, Override, Refusal};
use crate::installed::{Installed, Standing, standing};
use crate::version::Relation;

/// What the owner permits for one job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permits {
    /// Rules that the owner overrides by name; `any` stands for all that can be overridden.
    pub allow: Vec<String>,
    /// Push what is already current.
    pub force: bool,
    /// Push an image of which one part is newer and another older.
    pub mixed: bool,
}

impl Permits {
    /// Whether its owner overrides this refusal.
    pub fn covers(&self, refusal: &Refusal) -> bool {
        refusal.overriding == Override::Possible
            && self
                .allow
                .iter()
                .any(|rule| rule == "any" || *rule == refusal.rule)
    }
}

/// The result of the check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Precheck {
    /// How the image stands to what the device runs.
    pub standing: Standing,
    /// Why it may not go; empty where it may.
    pub refusals: Vec<Refusal>,
    /// What the owner has overridden.
    pub overridden: Vec<Refusal>,
}

/// Checks an image against the live device.
///
/// `image_refusals` are what the inspection found; they are weighed again here, because the permits belong to the job.
pub fn precheck(
    family: &dyn Family,
    device: &Device,
    snapshot: &Snapshot,
    image: (&Image, &ImageInfo, &[Refusal]),
    record: Option<&Installed>,
    permits: &Permits,
) -> Precheck {
    let (bytes, info, image_refusals) = image;
    let offered = info.versions.as_ref().or(info.hint.as_ref());
    let by_label = offered.map_or(Relation::Unknown, |offered| {
        family.relate(&snapshot.versions, offered)
    });
    let standing = standing(record, &snapshot.versions, info, by_label);
    let mut found = image_refusals.to_vec();
    for refusal in family.accepts(device, info, bytes) {
        if !found.iter().any(|known| known.rule == refusal.rule) {
            found.push(refusal);
        }
    }
    match standing {
        Standing::Downgrade => found.push(Refusal {
            rule: "downgrade".to_owned(),
            text: format!(
                "The device runs {} and the image is the older {}.",
                snapshot.versions,
                offered.map(ToString::to_string).unwrap_or_default()
            ),
            next_step: "If going back is what you want, add --allow downgrade.".to_owned(),
            overriding: Override::Possible,
        }),
        Standing::Mixed if !permits.mixed => found.push(Refusal {
            rule: "mixed-versions".to_owned(),
            text: format!(
                "One part of the image is newer and another older than what the device runs ({}).",
                snapshot.versions
            ),
            next_step: "Confirm with --yes if that is what you want.".to_owned(),
            overriding: Override::Possible,
        }),
        Standing::Mixed | Standing::AlreadyCurrent | Standing::Wanted => {}
    }
    if snapshot.busy {
        found.push(Refusal {
            rule: "busy".to_owned(),
            text: "The device is in the middle of an update that somebody else started.".to_owned(),
            next_step: "Wait until it has finished, look what it runs then, and try again.".to_owned(),
            overriding: Override::Never,
        });
    }
    let (overridden, refusals) = found.into_iter().partition(|refusal| permits.covers(refusal));
    let standing = if standing == Standing::AlreadyCurrent && permits.force {
        Standing::Wanted
    } else {
        standing
    };
    Precheck {
        standing,
        refusals,
        overridden,
    }
}

/// Whether a device takes updates as it stands.
pub fn takes_updates(snapshot: &Snapshot) -> bool {
    snapshot.ota != Ota::Disabled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Hardware, Health};
    use crate::family::{Driver, Label, Method, Target, Timing, Undo};
    use crate::id::{DeviceId, FamilyId, Sha256};
    use crate::image::Inspection;
    use crate::version::Versions;

    /// A family that answers what the test wants.
    struct Fake {
        relation: Relation,
        refusals: Vec<Refusal>,
    }

    impl Family for Fake {
        fn id(&self) -> FamilyId {
            FamilyId::new("fake")
        }
        fn title(&self) -> &'static str {
            "Fake"
        }
        fn inspect(&self, _image: &Image) -> Inspection {
            Inspection::NotMine
        }
        fn relate(&self, _installed: &Versions, _offered: &Versions) -> Relation {
            self.relation
        }
        fn accepts(&self, _device: &Device, _image: &ImageInfo, _bytes: &Image) -> Vec<Refusal> {
            self.refusals.clone()
        }
        fn methods(&self, _device: &Device) -> Vec<Method> {
            Vec::new()
        }
        fn timing(&self, _device: &Device, _image_len_bytes: u64) -> Timing {
            unreachable!("the check of an image asks for no times")
        }
        fn undo(&self, _before: &Snapshot) -> Option<Undo> {
            None
        }
        fn label(
            &self,
            _before: &Snapshot,
            _image: &ImageInfo,
            _record: Option<&Installed>,
            _after: &Snapshot,
        ) -> Label {
            Label::Unreadable
        }
        fn open(&self, _target: Target) -> Box<dyn Driver> {
            unreachable!("the check of an image opens nothing")
        }
    }

    fn refusal(rule: &str, overriding: Override) -> Refusal {
        Refusal {
            rule: rule.to_owned(),
            text: "Why.".to_owned(),
            next_step: "What now.".to_owned(),
            overriding,
        }
    }

    fn allow(rules: &[&str]) -> Permits {
        Permits {
            allow: rules.iter().map(|&rule| rule.to_owned()).collect(),
            ..Permits::default()
        }
    }

    struct Case {
        relation: Relation,
        found: Vec<Refusal>,
        by_device: Vec<Refusal>,
        record: Option<Installed>,
        busy: bool,
        permits: Permits,
    }

    impl Case {
        fn new() -> Self {
            Self {
                relation: Relation::Newer,
                found: Vec::new(),
                by_device: Vec::new(),
                record: None,
                busy: false,
                permits: Permits::default(),
            }
        }

        /// The standing, and the rules that refuse.
        fn check(&self) -> (Standing, Vec<String>) {
            let checked = self.checked();
            let rules = checked.refusals.into_iter().map(|refusal| refusal.rule);
            (checked.standing, rules.collect())
        }

        fn checked(&self) -> Precheck {
            let id = DeviceId::from_hardware(&FamilyId::new("fake"), "aa");
            let label = Versions::one("firmware", "1.0");
            let device = Device {
                id: id.clone(),
                address: [127, 0, 0, 1].into(),
                hardware: Hardware::default(),
                slot_bytes: None,
                versions: label.clone(),
            };
            let snapshot = Snapshot {
                id,
                versions: label.clone(),
                uptime: None,
                ota: Ota::Enabled,
                busy: self.busy,
                host_name: None,
                hardware: Hardware::default(),
                health: Health::default(),
            };
            let image = Image::new("new.bin", b"new".to_vec());
            let info = ImageInfo {
                version_source: crate::image::VersionSource::Image,
                family: None,
                kind: "esp-app".to_owned(),
                chip: None,
                versions: Some(label),
                hint: None,
                project: None,
                signature: None,
                len_bytes: image.len_bytes(),
                sha256: image.sha256(),
                warnings: Vec::new(),
            };
            let family = Fake {
                relation: self.relation,
                refusals: self.by_device.clone(),
            };
            precheck(
                &family,
                &device,
                &snapshot,
                (&image, &info, &self.found),
                self.record.as_ref(),
                &self.permits,
            )
        }
    }

    fn rules(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_newer_image_without_complaint_is_wanted() {
        assert_eq!(Case::new().check(), (Standing::Wanted, Vec::new()));
    }

    #[test]
    fn a_downgrade_needs_its_permit() {
        let mut case = Case::new();
        case.relation = Relation::Older;
        assert_eq!(case.check(), (Standing::Downgrade, rules(&["downgrade"])));
        case.permits = allow(&["downgrade"]);
        assert_eq!(case.check(), (Standing::Downgrade, Vec::new()));
        assert_eq!(case.checked().overridden[0].rule, "downgrade");
    }

    #[test]
    fn a_downgrade_is_not_permitted_by_force_or_yes() {
        let mut case = Case::new();
        case.relation = Relation::Older;
        case.permits.force = true;
        case.permits.mixed = true;
        assert_eq!(case.check(), (Standing::Downgrade, rules(&["downgrade"])));
    }

    #[test]
    fn mixed_versions_need_a_yes() {
        let mut case = Case::new();
        case.relation = Relation::Mixed;
        assert_eq!(case.check(), (Standing::Mixed, rules(&["mixed-versions"])));
        case.permits.mixed = true;
        assert_eq!(case.check(), (Standing::Mixed, Vec::new()));
    }

    #[test]
    fn what_can_never_be_overridden_is_not() {
        for permits in [allow(&["wrong-chip"]), allow(&["any"])] {
            let mut case = Case::new();
            case.by_device = vec![refusal("wrong-chip", Override::Never)];
            case.permits = permits;
            assert_eq!(case.check().1, rules(&["wrong-chip"]));
        }
    }

    #[test]
    fn a_permit_covers_only_the_rule_it_names() {
        let mut case = Case::new();
        case.found = vec![refusal("truncated", Override::Possible)];
        case.permits = allow(&["too-large"]);
        assert_eq!(case.check().1, rules(&["truncated"]));
        case.permits = allow(&["truncated"]);
        assert!(case.check().1.is_empty());
        case.permits = allow(&["any"]);
        assert!(case.check().1.is_empty());
    }

    #[test]
    fn what_image_and_device_both_find_is_named_once() {
        let mut case = Case::new();
        case.found = vec![refusal("too-large", Override::Possible)];
        case.by_device = vec![
            refusal("too-large", Override::Possible),
            refusal("wrong-chip", Override::Never),
        ];
        assert_eq!(case.check().1, rules(&["too-large", "wrong-chip"]));
    }

    #[test]
    fn a_busy_device_is_refused_whatever_is_permitted() {
        let mut case = Case::new();
        case.busy = true;
        case.permits = allow(&["any"]);
        case.permits.force = true;
        assert_eq!(case.check().1, rules(&["busy"]));
    }

    #[test]
    fn already_current_is_pushed_only_by_force() {
        let mut case = Case::new();
        case.record = Some(Installed {
            digest: Some(Sha256::of(b"new")),
            label: Versions::one("firmware", "1.0"),
            label_moves: false,
        });
        assert_eq!(case.check().0, Standing::AlreadyCurrent);
        case.permits.force = true;
        assert_eq!(case.check().0, Standing::Wanted);
    }

    #[test]
    fn force_overrides_no_refusal() {
        let mut case = Case::new();
        case.found = vec![refusal("truncated", Override::Possible)];
        case.permits.force = true;
        assert_eq!(case.check().1, rules(&["truncated"]));
    }

    #[test]
    fn only_a_device_that_says_off_takes_no_updates() {
        for (ota, takes) in [(Ota::Enabled, true), (Ota::Unknown, true), (Ota::Disabled, false)] {
            let snapshot = Snapshot {
                id: DeviceId::from_hardware(&FamilyId::new("fake"), "aa"),
                versions: Versions::default(),
                uptime: None,
                ota,
                busy: false,
                host_name: None,
                hardware: Hardware::default(),
                health: Health::default(),
            };
            assert_eq!(takes_updates(&snapshot), takes, "{ota:?}");
        }
    }
}
