//! Komfovent ventilation units with a C6, C6M or C8 controller (PROTOCOLS.md section A).
//!
//! Versions are read over Modbus, images go to the web server. A unit tells no uptime: gone and back is its restart.
//! Its label always moves with the image, so an unmoved one is the old image.

mod driver;
mod feed;
pub(crate) mod file;
mod form;
pub(crate) mod link;
mod memory;
pub(crate) mod modbus;
pub(crate) mod page;
#[cfg(test)]
mod real;
mod sighting;
pub(crate) mod version;

use std::time::Duration;

use model::device::{Device, Snapshot};
use model::family::{Driver, Family, Label, Method, Target, Timing, Undo};
use model::feed::Feed;
use model::id::FamilyId;
use model::image::{Image, ImageInfo, Inspection, Override, Refusal};
use model::installed::Installed;
use model::sighting::{Candidate, Lookout, Sighting};
use model::version::{Relation, Versions};
use net::Site;
use serde::{Deserialize, Serialize};

use crate::Ways;
use version::{Controller, Model, Numbers, OLDEST_CONTROLLER, PANEL, Part, Parts};

/// The name of the only method: the upload to the unit's web page.
const HTTP: &str = "http";
/// What a unit takes in a second, bytes: its receive window is 735 bytes (PROTOCOLS.md A3, measured on a real C6).
const BYTES_PER_S: u64 = 19_000;
/// The silence after the last byte while the unit flashes, rounded up (same: 1.7 s).
const SILENCE: Duration = Duration::from_secs(2);
/// How long after a broken push nothing is concluded from an old version.
///
/// Guess: a unit that took the whole file falls silent within 2 s of it and restarts; one that did not take it has nothing to
/// flash. A minute is thirty times that, and as long as its TCP may hang on to a dead upload. To be measured on a real unit.
const QUIET: Duration = Duration::from_mins(1);
/// Where a unit with old firmware is found after an update (vendor's instructions, PROTOCOLS.md A3).
const RESET_ADDRESS: &str = "192.168.0.60";

/// What units are shipped with (PROTOCOLS.md A2).
const PUBLIC_PASSWORD: &str = "user";

/// The name of the family.
fn family_id() -> FamilyId {
    FamilyId::new("komfovent")
}

/// The family.
pub(crate) struct Komfovent {
    site: Site,
    ways: Ways,
}

impl Komfovent {
    pub(crate) fn new(site: Site, ways: Ways) -> Self {
        Self { site, ways }
    }
}

/// What is put back after a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PutBack {
    /// Log out: always, as every job logs in.
    logout: bool,
    /// Start the unit, which ran before and was stopped.
    start: bool,
}

impl Family for Komfovent {
    fn id(&self) -> FamilyId {
        family_id()
    }

    fn title(&self) -> &'static str {
        "Komfovent unit"
    }

    fn public_password(&self) -> Option<&'static str> {
        Some(PUBLIC_PASSWORD)
    }

    fn lookouts(&self) -> Vec<Lookout> {
        sighting::lookouts(&self.ways)
    }

    fn recognise(&self, sighting: &Sighting) -> Option<Candidate> {
        sighting::recognise(&self.id(), sighting)
    }

    fn inspect(&self, image: &Image) -> Inspection {
        file::inspect(&self.id(), image)
    }

    fn relate(&self, installed: &Versions, offered: &Versions) -> Relation {
        version::relate(installed, offered)
    }

    fn words(&self, versions: &Versions) -> String {
        version::words(versions)
    }

    fn models(&self, image: &ImageInfo) -> Vec<String> {
        version::models(image.versions.as_ref())
    }

    fn downloads(&self) -> Vec<Feed> {
        feed::downloads(&self.id())
    }

    fn accepts(&self, device: &Device, image: &ImageInfo, _bytes: &Image) -> Vec<Refusal> {
        accepts(&device.versions, image.versions.as_ref())
    }

    fn never_takes(&self, device: &Device) -> Option<Refusal> {
        let installed = Parts::read(&device.versions);
        match installed.controller {
            Some(unit) => of_unit(&installed, unit).into_iter().next(),
            None => Some(unknown_controller()),
        }
    }

    fn methods(&self, _device: &Device) -> Vec<Method> {
        vec![Method::new(HTTP)]
    }

    fn timing(&self, _device: &Device, image_len_bytes: u64) -> Timing {
        Timing {
            push: Duration::from_millis(image_len_bytes.saturating_mul(1000) / BYTES_PER_S) + SILENCE,
            quiet: QUIET,
            gone_within: Duration::from_secs(30),
            back_within: Duration::from_mins(5),
            look_every: Duration::from_secs(1),
        }
    }

    fn restarts_within(&self) -> Duration {
        // Document 002: 1 to 2 minutes.
        Duration::from_secs(90)
    }

    fn interrupts(&self, duration: Duration) -> Option<String> {
        let minutes = duration.as_secs().div_ceil(60).max(1);
        let plural = if minutes == 1 { "" } else { "s" };
        Some(format!("Ventilation pauses for about {minutes} minute{plural}."))
    }

    fn undo(&self, before: &Snapshot) -> Option<Undo> {
        let put_back = PutBack {
            logout: true,
            start: self.ways.stop_unit && before.health.running == Some(true),
        };
        let text = if put_back.start {
            "log out and start the unit again"
        } else {
            "log out"
        };
        Some(Undo {
            text: text.to_owned(),
            value: serde_json::to_value(put_back).unwrap_or_default(),
        })
    }

    fn label(
        &self,
        before: &Snapshot,
        image: &ImageInfo,
        _record: Option<&Installed>,
        after: &Snapshot,
    ) -> Label {
        label(&before.versions, image.versions.as_ref(), &after.versions)
    }

    fn open(&self, target: Target) -> Box<dyn Driver> {
        Box::new(driver::KomfoventDriver::new(
            self.site.clone(),
            self.ways.clone(),
            target,
        ))
    }
}

/// Why a file may not go to a unit with these versions.
fn accepts(installed: &Versions, offered: Option<&Versions>) -> Vec<Refusal> {
    let installed = Parts::read(installed);
    let Some(unit) = installed.controller else {
        return vec![unknown_controller()];
    };
    let Some(file) = offered.and_then(|offered| Parts::read(offered).controller) else {
        // Its name was refused already, and that can never be overridden.
        return Vec::new();
    };
    let mut refusals = Vec::new();
    if !unit.model.takes(file.model) {
        refusals.push(wrong_controller(unit, file));
    }
    refusals.extend(of_unit(&installed, unit));
    refusals
}

/// What stands against any file for this unit.
fn of_unit(installed: &Parts, unit: Controller) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if unit.model != Model::C8 && unit.numbers.functional() < OLDEST_CONTROLLER {
        refusals.push(too_old(unit));
    }
    if installed.panel == Part::Unknown {
        refusals.push(unknown_panel());
    }
    refusals
}

fn unknown_controller() -> Refusal {
    Refusal {
        rule: "unknown-controller".to_owned(),
        text: "The unit does not say that its controller is a C6, C6M or C8.".to_owned(),
        next_step: "If it has just been switched on, try again in two minutes; else it cannot be updated by this program.".to_owned(),
        overriding: Override::Never,
    }
}

fn wrong_controller(unit: Controller, file: Controller) -> Refusal {
    let (unit, file) = (unit.model.name(), file.model.name());
    Refusal {
        rule: "wrong-controller".to_owned(),
        text: format!("The file is for a {file} controller, and this unit has a {unit}."),
        next_step: format!("Download the vendor's file for the {unit}."),
        overriding: Override::Never,
    }
}

fn too_old(unit: Controller) -> Refusal {
    let mut next_step =
        "Update it once by hand with the vendor's intermediate .bin file, then come back with the .mbin."
            .to_owned();
    if may_reset(unit) {
        next_step.push_str(" That update resets its address to ");
        next_step.push_str(RESET_ADDRESS);
        next_step.push('.');
    }
    Refusal {
        rule: "unsupported-source-version".to_owned(),
        text: format!(
            "The unit runs {unit}; .mbin files need a last number of {OLDEST_CONTROLLER} or more (the vendor's \"v1.3.15\")."
        ),
        next_step,
        overriding: Override::Possible,
    }
}

fn unknown_panel() -> Refusal {
    Refusal {
        rule: "unknown-panel".to_owned(),
        text: "The unit has a panel that tells no version, or is of a type other than P1.".to_owned(),
        next_step: "Look whether the panel works and is connected, then try again.".to_owned(),
        overriding: Override::Possible,
    }
}

/// Whether an update resets the unit's address.
fn may_reset(unit: Controller) -> bool {
    unit.numbers.functional() <= version::NEWEST_RESETTING
}

/// What one part shows after a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// The image's version, which it was not before.
    Target,
    /// The image's version, which it was before too.
    Same,
    /// What it was before.
    Old,
    /// Something else.
    Other,
    /// Nothing.
    Nothing,
}

/// Judges one part. The last number is the version: a file for the line 1.5 may show as 1.3 on older hardware.
fn shown(before: Option<Numbers>, image: Numbers, after: Option<Numbers>) -> Shown {
    let Some(after) = after else {
        return Shown::Nothing;
    };
    let is_images = after.functional() == image.functional();
    match (is_images, before == Some(after)) {
        (true, false) => Shown::Target,
        (true, true) => Shown::Same,
        (false, true) => Shown::Old,
        (false, false) => Shown::Other,
    }
}

/// What a unit's versions say after a push: controller and panel each for itself.
fn label(before: &Versions, image: Option<&Versions>, after: &Versions) -> Label {
    let (before, after) = (Parts::read(before), Parts::read(after));
    let image = image.map(Parts::read);
    let (Some(stated), Some(now)) = (image.and_then(|image| image.controller), after.controller) else {
        return Label::Unreadable;
    };
    if before.controller.is_some_and(|before| before.model != now.model) {
        return Label::Other;
    }
    let numbers = |controller: Option<Controller>| controller.map(|controller| controller.numbers);
    let controller = shown(numbers(before.controller), stated.numbers, Some(now.numbers));
    // Files without a panel leave it as it is, and so does a panel that is too old, or not there.
    let panel = match (image.map(|image| image.panel), before.panel.moving()) {
        (Some(Part::Known(stated)), Some(before)) => {
            let after = match after.panel {
                Part::Known(panel) => Some(panel.0),
                Part::Absent | Part::Unknown => None,
            };
            shown(Some(before.0), stated.0, after)
        }
        _ => Shown::Same,
    };
    match (controller, panel) {
        (Shown::Other, _) | (_, Shown::Other) => Label::Other,
        (Shown::Nothing, _) | (_, Shown::Nothing) => Label::Unreadable,
        (Shown::Same, Shown::Same) => Label::Same,
        (Shown::Target, Shown::Target | Shown::Same) | (Shown::Same, Shown::Target) => Label::Target,
        (Shown::Target | Shown::Same, Shown::Old) => Label::Partial(PANEL.to_owned()),
        (Shown::Old, Shown::Target) => Label::Partial(version::CONTROLLER.to_owned()),
        (Shown::Old, Shown::Same | Shown::Old) => Label::Old,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(text: &str) -> Versions {
        let mut parts = text.split(" / ");
        let versions = Versions::one(version::CONTROLLER, parts.next().unwrap());
        parts
            .next()
            .map_or(versions.clone(), |panel| versions.and(PANEL, panel))
    }

    const IMAGE: &str = "C6 1.5.46.72 / P1 1.1.5.48";

    #[track_caller]
    fn check_label(image: &str, before: &str, after: &str, expected: &Label) {
        let found = label(&versions(before), Some(&versions(image)), &versions(after));
        assert_eq!(&found, expected, "{before} -> {after} with {image}");
    }

    #[test]
    fn controller_and_panel_are_judged_each_for_itself() {
        let panel = Label::Partial(PANEL.to_owned());
        let controller = Label::Partial(version::CONTROLLER.to_owned());
        let old = "C6 1.3.44.70 / P1 1.1.5.46";
        for (before, after, label) in [
            (old, IMAGE, Label::Target),
            (old, old, Label::Old),
            (old, "C6 1.5.46.72 / P1 1.1.5.46", panel.clone()),
            (old, "C6 1.3.44.70 / P1 1.1.5.48", controller),
            (old, "C6 1.5.46.73 / P1 1.1.5.48", Label::Other),
            (old, "C6 1.5.46.72 / P1 1.1.5.47", Label::Other),
            (old, "C6 1.5.46.72", Label::Unreadable),
            (old, "C6 1.5.46.72 / unknown", Label::Unreadable),
            (old, "unknown / P1 1.1.5.48", Label::Unreadable),
            (old, "C8 1.5.46.72 / P1 1.1.5.48", Label::Other),
            (IMAGE, IMAGE, Label::Same),
            // Only the panel is new in the file: until it has moved, the update is not there.
            ("C6 1.5.46.72 / P1 1.1.5.46", IMAGE, Label::Target),
            ("C6 1.5.46.72 / P1 1.1.5.46", "C6 1.5.46.72 / P1 1.1.5.46", panel),
            (
                "C6 1.3.44.70 / P1 1.1.5.48",
                "C6 1.3.44.70 / P1 1.1.5.48",
                Label::Old,
            ),
        ] {
            check_label(IMAGE, before, after, &label);
        }
    }

    #[test]
    fn a_unit_on_another_hardware_line_shows_the_image_by_its_last_number() {
        check_label(
            IMAGE,
            "C6M 1.4.45.71 / P1 1.1.5.47",
            "C6M 1.4.46.72 / P1 1.1.5.48",
            &Label::Target,
        );
    }

    #[test]
    fn a_panel_below_10_is_not_expected_to_change() {
        let before = "C6 1.4.42.67 / P1 2.1.1.9";
        check_label(IMAGE, before, "C6 1.5.46.72 / P1 2.1.1.9", &Label::Target);
        check_label(IMAGE, before, before, &Label::Old);
        let ten = "C6 1.4.42.67 / P1 2.1.1.10";
        check_label(
            IMAGE,
            ten,
            "C6 1.5.46.72 / P1 2.1.1.10",
            &Label::Partial(PANEL.to_owned()),
        );
    }

    #[test]
    fn without_a_panel_in_file_or_unit_the_controller_decides() {
        check_label(IMAGE, "C6 1.3.17.20", "C6 1.5.46.72", &Label::Target);
        check_label(
            "C6 1.3.28.38",
            "C6 1.3.17.20 / P1 1.1.3.25",
            "C6 1.3.28.38 / P1 1.1.3.25",
            &Label::Target,
        );
    }

    #[track_caller]
    #[test]
    fn a_unit_says_before_any_file_whether_it_takes_one() {
        let rule = |installed: &str| {
            let of_device = Parts::read(&versions(installed));
            let unit = of_device.controller?;
            of_unit(&of_device, unit)
                .into_iter()
                .next()
                .map(|refusal| refusal.rule)
        };
        assert_eq!(
            rule("C6 1.3.17.14").as_deref(),
            Some("unsupported-source-version")
        );
        for good in ["C6 1.3.17.15", "C8 1.1.3.13", "C6M 1.4.47.74"] {
            assert_eq!(rule(good), None, "{good}");
        }
    }

    fn check_accepts(installed: &str, image: &str, rules: &[&str]) {
        let refusals = accepts(&versions(installed), Some(&versions(image)));
        let found: Vec<&str> = refusals.iter().map(|refusal| refusal.rule.as_str()).collect();
        assert_eq!(found, rules, "{image} on {installed}");
    }

    #[test]
    fn a_c6m_takes_the_c6_file_and_no_unit_takes_another_familys() {
        check_accepts("C6 1.3.44.70", IMAGE, &[]);
        check_accepts("C6M 1.4.47.74", IMAGE, &[]);
        check_accepts("C8 1.1.14.27", "C8 1.1.15.30", &[]);
        check_accepts("C8 1.1.14.27", IMAGE, &["wrong-controller"]);
        check_accepts("C6 1.3.44.70", "C8 1.1.14.27", &["wrong-controller"]);
        check_accepts("C6M 1.4.47.74", "C8 1.1.14.27", &["wrong-controller"]);
        check_accepts("unknown", IMAGE, &["unknown-controller"]);
    }

    #[test]
    fn what_would_reach_the_wrong_controller_can_never_be_overridden() {
        for installed in ["C8 1.1.14.27", "unknown"] {
            let refusals = accepts(&versions(installed), Some(&versions(IMAGE)));
            assert_eq!(refusals[0].overriding, Override::Never, "{installed}");
        }
    }

    #[test]
    fn the_last_number_decides_whether_a_unit_is_too_old() {
        // "v1.3.15 or later" is the vendor's version 15, not the three numbers 1.3.15.
        check_accepts("C6 1.3.17.14", IMAGE, &["unsupported-source-version"]);
        check_accepts("C6M 1.4.17.14", IMAGE, &["unsupported-source-version"]);
        check_accepts("C6 1.3.17.15", IMAGE, &[]);
        check_accepts("C6 1.2.44.70", IMAGE, &[]);
        check_accepts("C6 1.1.17.20", IMAGE, &[]);
        check_accepts("C8 1.1.3.13", "C8 1.1.14.27", &[]);
    }

    #[test]
    fn a_unit_whose_address_an_update_resets_is_told_where_it_will_be() {
        let next_step = |installed| {
            accepts(&versions(installed), Some(&versions(IMAGE)))
                .remove(0)
                .next_step
        };
        assert!(next_step("C6 1.1.5.10").contains(RESET_ADDRESS));
        assert!(!next_step("C6 1.1.5.11").contains(RESET_ADDRESS));
    }

    #[test]
    fn an_unknown_panel_is_refused() {
        check_accepts("C6 1.3.44.70 / unknown", IMAGE, &["unknown-panel"]);
    }
}
