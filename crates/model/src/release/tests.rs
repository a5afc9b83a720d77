use super::*;
use crate::device::{Hardware, Snapshot};
use crate::family::{Driver, Label, Method, Target, Timing, Undo};
use crate::id::{DeviceId, FamilyId};
use crate::image::{Image, Inspection, VersionSource};

/// Versions are two numbers, `firmware` and `panel`; what is no number is like nothing.
struct Fake;

fn number(versions: &Versions, part: &str) -> Option<u32> {
    versions.part(part)?.parse().ok()
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
    fn relate(&self, installed: &Versions, offered: &Versions) -> Relation {
        let (Some(was), Some(will_be)) = (number(installed, "firmware"), number(offered, "firmware")) else {
            return Relation::Unknown;
        };
        let panels = number(offered, "panel").cmp(&number(installed, "panel"));
        match (will_be.cmp(&was), panels) {
            (firmware, panel) if firmware == panel.reverse() && firmware.is_ne() => Relation::Mixed,
            (firmware, panel) => match firmware.then(panel) {
                std::cmp::Ordering::Less => Relation::Older,
                std::cmp::Ordering::Equal => Relation::Same,
                std::cmp::Ordering::Greater => Relation::Newer,
            },
        }
    }
    fn accepts(&self, _device: &Device, _image: &ImageInfo, _bytes: &Image) -> Vec<Refusal> {
        Vec::new()
    }
    fn methods(&self, _device: &Device) -> Vec<Method> {
        Vec::new()
    }
    fn timing(&self, _device: &Device, _image_len_bytes: u64) -> Timing {
        unreachable!("choosing an image asks for no times")
    }
    fn undo(&self, _before: &Snapshot) -> Option<Undo> {
        None
    }
    fn label(&self, _: &Snapshot, _: &ImageInfo, _: Option<&Installed>, _: &Snapshot) -> Label {
        Label::Unreadable
    }
    fn open(&self, _target: Target) -> Box<dyn Driver> {
        unreachable!("choosing an image opens nothing")
    }
}

/// `3` states firmware 3, `3/4` a panel 4 as well, `~3` is a hint of the file name, and an empty text is no version.
fn image(name: &str, version: &str) -> ImageInfo {
    let hint = version.strip_prefix('~');
    let versions = (!version.is_empty() && hint.is_none()).then(|| versions(version));
    ImageInfo {
        family: Some(FamilyId::new("fake")),
        kind: "esp-app".to_owned(),
        chip: None,
        versions,
        version_source: VersionSource::Image,
        hint: hint.map(self::versions),
        project: None,
        signature: None,
        len_bytes: 1,
        sha256: Sha256::of(name.as_bytes()),
        warnings: Vec::new(),
    }
}

fn versions(text: &str) -> Versions {
    match text.split_once('/') {
        Some((firmware, panel)) => Versions::one("firmware", firmware).and("panel", panel),
        None => Versions::one("firmware", text),
    }
}

/// An approved image that came then.
fn held<'a>(info: &'a ImageInfo, file_name: &'a str, added_ms: i64) -> Held<'a> {
    Held {
        info,
        state: State::Approved,
        file_name,
        added_ms,
    }
}

#[track_caller]
fn check_newest(images: &[(&str, &str, i64, State)], expected: Option<&str>) {
    let infos: Vec<ImageInfo> = images
        .iter()
        .map(|(name, version, ..)| image(name, version))
        .collect();
    let mut held: Vec<Held<'_>> = images
        .iter()
        .zip(&infos)
        .map(|((name, _, added_ms, state), info)| Held {
            info,
            state: *state,
            file_name: name,
            added_ms: *added_ms,
        })
        .collect();
    for _ in 0..2 {
        let found = newest(&held, &Fake).map(|held| held.file_name);
        assert_eq!(found, expected, "{images:?}");
        // Not by the order in which they are listed.
        held.reverse();
    }
}

#[test]
fn the_newest_image_is_the_approved_one_with_the_highest_version() {
    use State::{Approved, Blocked, Quarantined, Refused, Waiting};
    check_newest(&[], None);
    check_newest(
        &[
            ("a", "2", 30, Approved),
            ("b", "10", 10, Approved),
            ("c", "9", 20, Approved),
        ],
        Some("b"),
    );
    for state in [Refused, Blocked, Quarantined, Waiting] {
        check_newest(&[("a", "1", 10, Approved), ("b", "2", 20, state)], Some("a"));
        check_newest(&[("b", "2", 20, state)], None);
    }
}

#[test]
fn of_equal_versions_the_one_that_came_last_is_the_newest() {
    use State::Approved;
    check_newest(&[("a", "2", 10, Approved), ("b", "2", 20, Approved)], Some("b"));
    check_newest(&[("a", "2", 10, Approved), ("b", "~2", 20, Approved)], Some("b"));
    // One part newer and one older: neither is the newer one.
    check_newest(
        &[("a", "2/5", 20, Approved), ("b", "3/4", 10, Approved)],
        Some("a"),
    );
}

#[test]
fn an_image_without_a_version_is_the_newest_only_for_want_of_others() {
    use State::Approved;
    check_newest(&[("a", "1", 10, Approved), ("b", "", 99, Approved)], Some("a"));
    check_newest(&[("a", "", 10, Approved), ("b", "", 99, Approved)], Some("b"));
}

#[test]
fn an_image_that_compares_to_nothing_does_not_bring_an_old_one_to_the_top() {
    use State::Approved;
    check_newest(
        &[
            ("new", "3", 10, Approved),
            ("odd", "beta", 20, Approved),
            ("old", "1", 30, Approved),
        ],
        Some("odd"),
    );
    check_newest(
        &[
            ("new", "3", 40, Approved),
            ("odd", "beta", 20, Approved),
            ("old", "1", 50, Approved),
        ],
        Some("new"),
    );
}

#[test]
fn no_two_images_are_called_the_same() {
    let (a, b, c, d) = (image("a", "2"), image("b", "2"), image("c", ""), image("d", "2"));
    let mut images = vec![
        held(&a, "x.bin", 10),
        held(&b, "x.bin", 20),
        held(&c, "x.bin", 5),
        held(&d, "x.bin", 30),
    ];
    let names = |images: &[Held<'_>]| super::names(images, |info| version(info).map(ToString::to_string));
    let short = |info: &ImageInfo| info.sha256.short();
    assert_eq!(
        names(&images),
        [
            format!("2 ({})", short(&a)),
            format!("2 ({})", short(&b)),
            "x.bin".to_owned(),
            "2".to_owned(),
        ],
        "the one that came last has the name"
    );
    images[3].state = State::Blocked;
    assert_eq!(names(&images)[1], "2", "and a blocked one takes it from nobody");
}

struct Case {
    offered: ImageInfo,
    added_ms: i64,
    seen: &'static str,
    record: Option<(ImageInfo, &'static str)>,
    pinned: Option<&'static str>,
    skipped: Vec<String>,
    refusals: Vec<Refusal>,
}

impl Case {
    fn new(seen: &'static str, offered: &str) -> Self {
        Self {
            offered: image("offered", offered),
            added_ms: 20,
            seen,
            record: None,
            pinned: None,
            skipped: Vec::new(),
            refusals: Vec::new(),
        }
    }

    /// With a proven push of this image, which came at 10 and left the device showing `label`.
    fn runs(mut self, name: &str, version: &str, label: &'static str) -> Self {
        self.record = Some((image(name, version), label));
        self
    }

    fn why_not(&self) -> Option<String> {
        let device = Device {
            id: DeviceId::from_hardware(&FamilyId::new("fake"), "aa"),
            address: [192, 0, 2, 1].into(),
            hardware: Hardware::default(),
            slot_bytes: None,
            versions: versions(self.seen),
        };
        let record = self.record.as_ref().map(|(info, label)| Installed {
            digest: Some(info.sha256),
            label: versions(label),
            label_moves: false,
        });
        let runs = Runs {
            record: record.as_ref(),
            image: self.record.as_ref().map(|(info, _)| held(info, "was.bin", 10)),
        };
        let offered = held(&self.offered, "offered.bin", self.added_ms);
        let wishes = Wishes {
            pinned: self.pinned,
            skipped: &self.skipped,
        };
        super::why_not(
            &Fake,
            &device,
            runs,
            (offered, "2 (name)"),
            &self.refusals,
            wishes,
        )
    }

    #[track_caller]
    fn is_offered(&self) {
        assert_eq!(self.why_not(), None);
    }

    #[track_caller]
    fn is_not_offered(&self, because: &str) {
        let why_not = self.why_not().expect("it is offered");
        assert!(why_not.contains(because), "{why_not}");
    }
}

#[test]
fn what_is_newer_by_its_label_is_offered_and_what_is_not_is_not() {
    Case::new("1", "2").is_offered();
    Case::new("1", "~2").is_offered();
    Case::new("2", "2").is_not_offered("already");
    Case::new("2", "~2").is_not_offered("this version");
    Case::new("3", "2").is_not_offered("newer");
    Case::new("3", "~2").is_not_offered("newer");
}

#[test]
fn one_newer_part_of_several_is_enough() {
    Case::new("1/1", "1/2").is_offered();
    Case::new("1/1", "2/1").is_offered();
    Case::new("2/1", "1/2").is_offered();
    Case::new("1/2", "2/1").is_offered();
    Case::new("2/2", "1/2").is_not_offered("newer");
}

#[test]
fn the_image_that_a_device_runs_is_not_offered_whatever_its_label_says() {
    let case = Case::new("1", "~2").runs("offered", "~2", "1");
    case.is_not_offered("already");
    // The device was seen to run something else since.
    Case::new("0", "~2").runs("offered", "~2", "1").is_offered();
}

#[test]
fn an_older_image_is_not_offered_to_a_device_whose_label_never_moves() {
    Case::new("1", "~2")
        .runs("other", "~3", "1")
        .is_not_offered("newer");
    Case::new("1", "~4").runs("other", "~3", "1").is_offered();
    // Once the label has moved, the record no longer tells.
    Case::new("0", "~2").runs("other", "~3", "1").is_offered();
}

#[test]
fn without_versions_only_what_came_later_than_the_known_image_is_offered() {
    Case::new("1", "").is_not_offered("Nothing tells");
    let mut case = Case::new("1", "").runs("other", "", "1");
    case.is_offered();
    case.added_ms = 5;
    case.is_not_offered("Nothing tells");
    Case::new("0", "")
        .runs("other", "", "1")
        .is_not_offered("Nothing tells");
}

#[test]
fn an_image_that_does_not_fit_is_shown_with_the_reason() {
    let mut case = Case::new("1", "2");
    case.refusals = vec![Refusal {
        rule: "too-large".to_owned(),
        text: "It is too large.".to_owned(),
        next_step: "Name the slot.".to_owned(),
        overriding: Override::Possible,
    }];
    case.is_not_offered("It is too large. Name the slot.");
    assert!(!is_for_another(&case.refusals));
    case.refusals[0].overriding = Override::Never;
    assert!(is_for_another(&case.refusals));
}

#[test]
fn a_skip_holds_for_its_image_alone() {
    let digest = image("offered", "2").sha256;
    for word in [
        "2",
        "2 (name)",
        "offered.bin",
        &digest.to_string(),
        &digest.short(),
    ] {
        let mut case = Case::new("1", "2");
        case.skipped = vec!["0".to_owned(), word.to_owned()];
        case.is_not_offered("skipped");
    }
    for word in ["", "2.0", "3", "offered", "abc", "deadbeefdeadbeef"] {
        let mut case = Case::new("1", "2");
        case.skipped = vec![word.to_owned()];
        case.is_offered();
    }
}

#[test]
fn a_pin_bars_everything_but_its_image() {
    let mut case = Case::new("1", "2");
    case.pinned = Some("1");
    case.is_not_offered("pinned the device to 1");
    case.pinned = Some("2");
    case.is_offered();
    // Not even a pin brings an older one.
    let mut case = Case::new("3", "2");
    case.pinned = Some("2");
    case.is_not_offered("newer");
}
