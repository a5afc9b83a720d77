//! Versions of controllers and panels: the packed word of the registers, and the text (PROTOCOLS.md A4, A5).
//!
//! The vendor calls the last of the four numbers the version ("1.3.17.20 means version 20").
//! The first three are lines of hardware and features, which exist side by side and have no order.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use model::version::{Relation, Versions};

/// Name of the controller's part of a version.
pub(super) const CONTROLLER: &str = "controller";
/// Name of the panel's part of a version.
pub(super) const PANEL: &str = "panel";
/// Name of the part of a second panel: shown, never judged, as nobody has said whether an update reaches it.
const SECOND_PANEL: &str = "second panel";
/// What a part is called that is there and tells no version that we know.
const UNKNOWN: &str = "unknown";

/// The oldest version of a C6 or C6M that takes `.mbin` files (vendor's instructions, PROTOCOLS.md A4).
pub(super) const OLDEST_CONTROLLER: u16 = 15;
/// The oldest version of a panel that an update of the controller takes along (same).
pub(super) const OLDEST_PANEL: u16 = 10;
/// The newest version of a controller whose address an update resets (same).
pub(super) const NEWEST_RESETTING: u16 = 10;

/// Four numbers: 4, 4, 8 and 12 bits wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    v1: u8,
    v2: u8,
    v3: u8,
    v4: u16,
}

/// Type of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// C6, type 0.
    C6,
    /// C6M, type 1: takes the files of the C6.
    C6M,
    /// C8, type 2.
    C8,
}

/// A controller's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Its type.
    pub model: Model,
    /// Its numbers.
    pub numbers: Numbers,
}

/// A panel's version: of the only type known, P1, type 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panel(pub Numbers);

/// A part as a unit shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<T> {
    /// There is none.
    Absent,
    /// There is one, of a type that we do not know or without a version.
    Unknown,
    /// There is this one.
    Known(T),
}

/// Versions as they were read, from a unit or from the name of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// The controller; always there.
    pub(super) controller: Option<Controller>,
    /// The panel that an update takes along.
    pub(super) panel: Part<Panel>,
    /// Another one.
    pub(super) second_panel: Part<Panel>,
}

impl Numbers {
    /// The numbers, if each fits its place.
    pub fn new(v1: u16, v2: u16, v3: u16, v4: u16) -> Option<Self> {
        let narrow = |number: u16, max: u8| u8::try_from(number).ok().filter(|number| *number <= max);
        Some(Self {
            v1: narrow(v1, 15)?,
            v2: narrow(v2, 15)?,
            v3: narrow(v3, 255)?,
            v4: (v4 <= 4095).then_some(v4)?,
        })
    }

    /// The first number.
    pub(super) fn first(self) -> u8 {
        self.v1
    }

    /// All four.
    pub fn all(self) -> [u16; 4] {
        [self.v1.into(), self.v2.into(), self.v3.into(), self.v4]
    }

    /// What the vendor calls the version: the last number.
    pub fn functional(self) -> u16 {
        self.v4
    }

    /// The type and the numbers of a packed word.
    fn unpack(word: u32) -> (u32, Self) {
        let field = |shift: u32, mask: u32| word >> shift & mask;
        let byte = |value: u32| u8::try_from(value & 0xff).unwrap_or(u8::MAX);
        let numbers = Self {
            v1: byte(field(24, 0xf)),
            v2: byte(field(20, 0xf)),
            v3: byte(field(12, 0xff)),
            v4: u16::try_from(field(0, 0xfff)).unwrap_or(u16::MAX),
        };
        (field(28, 0xf), numbers)
    }

    fn pack(self, kind: u32) -> u32 {
        let (v1, v2, v3, v4) = (
            u32::from(self.v1),
            u32::from(self.v2),
            u32::from(self.v3),
            u32::from(self.v4),
        );
        kind << 28 | v1 << 24 | v2 << 20 | v3 << 12 | v4
    }
}

impl Model {
    const ALL: [Self; 3] = [Self::C6, Self::C6M, Self::C8];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::C6 => "C6",
            Self::C6M => "C6M",
            Self::C8 => "C8",
        }
    }

    /// The type with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|model| model.name() == name)
    }

    /// Its number in registers and in stored versions.
    pub fn kind(self) -> u16 {
        match self {
            Self::C6 => 0,
            Self::C6M => 1,
            Self::C8 => 2,
        }
    }

    /// Whether a unit of this type takes a file for `file`: its own, and a C6M those of the C6.
    pub fn takes(self, file: Self) -> bool {
        self == file || (self, file) == (Self::C6M, Self::C6)
    }

    /// Whether versions of the two can be compared: C6 and C6M run one firmware.
    pub fn is_like(self, other: Self) -> bool {
        (self == Self::C8) == (other == Self::C8)
    }
}

impl Controller {
    /// Reads a packed word; none for 0 and for a type that we do not know.
    pub fn unpack(word: u32) -> Option<Self> {
        let (kind, numbers) = Numbers::unpack(word);
        let model = Model::ALL
            .into_iter()
            .find(|model| u32::from(model.kind()) == kind)?;
        (word != 0).then_some(Self { model, numbers })
    }

    /// The packed word.
    pub fn pack(self) -> u32 {
        self.numbers.pack(self.model.kind().into())
    }
}

impl Panel {
    /// Reads a packed word; none for 0 and for a type that we do not know.
    pub fn unpack(word: u32) -> Option<Self> {
        let (kind, numbers) = Numbers::unpack(word);
        (word != 0 && kind == 0).then_some(Self(numbers))
    }

    /// The packed word.
    pub fn pack(self) -> u32 {
        self.0.pack(0)
    }

    /// Whether an update takes it along.
    pub(super) fn moves(self) -> bool {
        self.0.functional() >= OLDEST_PANEL
    }
}

impl Part<Panel> {
    fn text(self) -> Option<String> {
        match self {
            Self::Absent => None,
            Self::Unknown => Some(UNKNOWN.to_owned()),
            Self::Known(panel) => Some(panel.to_string()),
        }
    }

    fn read(text: Option<&str>) -> Self {
        text.map_or(Self::Absent, |text| {
            text.parse().map_or(Self::Unknown, Self::Known)
        })
    }

    /// The panel, if it is there and an update takes it along.
    pub(super) fn moving(self) -> Option<Panel> {
        match self {
            Self::Known(panel) if panel.moves() => Some(panel),
            _ => None,
        }
    }
}

impl Parts {
    /// The parts of what [`Parts::versions`] has written.
    pub(super) fn read(versions: &Versions) -> Self {
        Self {
            controller: versions.part(CONTROLLER).and_then(|text| text.parse().ok()),
            panel: Part::read(versions.part(PANEL)),
            second_panel: Part::read(versions.part(SECOND_PANEL)),
        }
    }

    /// The versions in the model's words.
    pub(super) fn versions(&self) -> Versions {
        let controller = self
            .controller
            .map_or_else(|| UNKNOWN.to_owned(), |controller| controller.to_string());
        let mut versions = Versions::one(CONTROLLER, controller);
        for (name, part) in [(PANEL, self.panel), (SECOND_PANEL, self.second_panel)] {
            if let Some(text) = part.text() {
                versions = versions.and(name, text);
            }
        }
        versions
    }
}

/// How `offered` stands to `installed`, by the last numbers of controller and panel.
///
/// A part that only one of them has is left out, and so is a panel that no update takes along.
pub(super) fn relate(installed: &Versions, offered: &Versions) -> Relation {
    let (installed, offered) = (Parts::read(installed), Parts::read(offered));
    let (Some(was), Some(will_be)) = (installed.controller, offered.controller) else {
        return Relation::Unknown;
    };
    if !was.model.is_like(will_be.model) {
        return Relation::Unknown;
    }
    let by_controller = will_be.numbers.functional().cmp(&was.numbers.functional());
    let by_panel = match (installed.panel.moving(), offered.panel.moving()) {
        (Some(was), Some(will_be)) => will_be.0.functional().cmp(&was.0.functional()),
        _ => Ordering::Equal,
    };
    match (by_controller, by_panel) {
        (Ordering::Equal, Ordering::Equal) => Relation::Same,
        (Ordering::Less, Ordering::Greater) | (Ordering::Greater, Ordering::Less) => Relation::Mixed,
        (Ordering::Less, _) | (_, Ordering::Less) => Relation::Older,
        (Ordering::Greater, _) | (_, Ordering::Greater) => Relation::Newer,
    }
}

/// Versions for people: `1.5.46.72 / P 1.1.5.48` (INTERFACES.md 5). The type of controller is the device's, and P1 the only panel.
pub(super) fn words(versions: &Versions) -> String {
    let parts = Parts::read(versions);
    let Some(controller) = parts.controller else {
        return versions.to_string();
    };
    let panel = |mark: &str, panel: Part<Panel>| match panel {
        Part::Absent => None,
        Part::Unknown => Some(format!("{mark} {UNKNOWN}")),
        Part::Known(panel) => Some(format!("{mark} {}", panel.0)),
    };
    let words = [
        Some(controller.numbers.to_string()),
        panel("P", parts.panel),
        panel("P2", parts.second_panel),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(" / ")
}

/// The types of controllers that take a file with these versions.
pub(super) fn models(versions: Option<&Versions>) -> Vec<String> {
    let Some(file) = versions.and_then(|versions| Parts::read(versions).controller) else {
        return Vec::new();
    };
    Model::ALL
        .into_iter()
        .filter(|unit| unit.takes(file.model))
        .map(|unit| unit.name().to_owned())
        .collect()
}

/// A text that is no version of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a version of a Komfovent controller or panel")]
pub struct NotAVersion;

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.v1, self.v2, self.v3, self.v4)
    }
}

impl FromStr for Numbers {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let mut numbers = text.split('.').map(number);
        let mut next = || numbers.next().flatten().ok_or(NotAVersion);
        let version = Self::new(next()?, next()?, next()?, next()?);
        version.filter(|_| numbers.next().is_none()).ok_or(NotAVersion)
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.model.name(), self.numbers)
    }
}

impl FromStr for Controller {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let (model, numbers) = text.split_once(' ').ok_or(NotAVersion)?;
        Ok(Self {
            model: Model::parse(model).ok_or(NotAVersion)?,
            numbers: numbers.parse()?,
        })
    }
}

impl fmt::Display for Panel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P1 {}", self.0)
    }
}

impl FromStr for Panel {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let numbers = text.strip_prefix("P1 ").ok_or(NotAVersion)?;
        Ok(Self(numbers.parse()?))
    }
}

/// One to four decimal digits and nothing else.
pub(super) fn number(text: &str) -> Option<u16> {
    let is_number = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn word(high: u16, low: u16) -> u32 {
        u32::from(high) << 16 | u32::from(low)
    }

    fn versions(controller: &str, panel: Option<&str>) -> Versions {
        let versions = Versions::one(CONTROLLER, controller);
        panel.map_or(versions.clone(), |panel| versions.and(PANEL, panel))
    }

    #[test]
    fn words_of_real_units_decode_and_encode() {
        for (high, low, text) in [
            (305, 4116, "C6 1.3.17.20"),
            (305, 49190, "C6 1.3.28.38"),
            (306, 49222, "C6 1.3.44.70"),
            (290, 49222, "C6 1.2.44.70"),
            (273, 4116, "C6 1.1.17.20"),
            (4418, 61514, "C6M 1.4.47.74"),
            (8464, 57371, "C8 1.1.14.27"),
            (8464, 12301, "C8 1.1.3.13"),
            (338, 57416, "C6 1.5.46.72"),
        ] {
            let controller = Controller::unpack(word(high, low)).unwrap();
            assert_eq!(controller.to_string(), text);
            assert_eq!(text.parse(), Ok(controller));
            assert_eq!(controller.pack(), word(high, low), "{text}");
        }
        for (high, low, text) in [
            (272, 20526, "P1 1.1.5.46"),
            (528, 4105, "P1 2.1.1.9"),
            (272, 20528, "P1 1.1.5.48"),
        ] {
            let panel = Panel::unpack(word(high, low)).unwrap();
            assert_eq!(panel.to_string(), text);
            assert_eq!(text.parse(), Ok(panel));
            assert_eq!(panel.pack(), word(high, low), "{text}");
        }
        assert_eq!(Controller::unpack(18_886_660).unwrap().to_string(), "C6 1.2.3.4");
    }

    #[test]
    fn nothing_and_a_type_that_is_not_known_are_no_version() {
        for word in [0, u32::MAX, 0x3131_1014, 0xf131_1014] {
            assert_eq!(Controller::unpack(word), None, "{word:#x}");
        }
        for word in [0, u32::MAX, 0x1110_502e] {
            assert_eq!(Panel::unpack(word), None, "{word:#x}");
        }
    }

    #[test]
    fn texts_that_are_no_version_are_refused() {
        for text in [
            "",
            "C6",
            "1.2.3.4",
            "C7 1.2.3.4",
            "C6 1.2.3",
            "C6 1.2.3.4.5",
            "C6 16.2.3.4",
            "C6 1.16.3.4",
            "C6 1.2.256.4",
            "C6 1.2.3.4096",
            "C6 1.2.3.+4",
            "C6  1.2.3.4",
            "C6 1.2.3.00004",
            "P1 1.2.3.4",
        ] {
            assert_eq!(text.parse::<Controller>(), Err(NotAVersion), "{text}");
        }
        assert_eq!("P2 1.1.5.46".parse::<Panel>(), Err(NotAVersion));
    }

    #[test]
    fn a_c6m_takes_the_files_of_a_c6_and_nobody_takes_those_of_another_family() {
        use Model::{C6, C6M, C8};
        for (unit, file, takes) in [
            (C6, C6, true),
            (C6M, C6, true),
            (C6M, C6M, true),
            (C6, C6M, false),
            (C8, C8, true),
            (C8, C6, false),
            (C8, C6M, false),
            (C6, C8, false),
            (C6M, C8, false),
        ] {
            assert_eq!(unit.takes(file), takes, "{unit:?} {file:?}");
        }
    }

    #[test]
    fn people_read_numbers_without_types() {
        for (controller, panel, words) in [
            ("C6 1.5.46.72", Some("P1 1.1.5.48"), "1.5.46.72 / P 1.1.5.48"),
            ("C8 1.1.14.27", None, "1.1.14.27"),
            ("C6 1.5.46.72", Some("unknown"), "1.5.46.72 / P unknown"),
            ("unknown", None, "unknown"),
        ] {
            assert_eq!(super::words(&versions(controller, panel)), words);
        }
    }

    #[test]
    fn the_file_of_a_c6_is_for_c6_and_c6m() {
        for (file, models) in [
            ("C6 1.5.46.72", &["C6", "C6M"][..]),
            ("C6M 1.4.47.74", &["C6M"]),
            ("C8 1.1.14.27", &["C8"]),
            ("unknown", &[]),
        ] {
            assert_eq!(super::models(Some(&versions(file, None))), models, "{file}");
        }
        assert!(super::models(None).is_empty());
    }

    #[test]
    fn parts_survive_the_models_words() {
        for (panel, second_panel) in [
            (Part::Absent, Part::Absent),
            (Part::Known(Panel::unpack(17_846_318).unwrap()), Part::Absent),
            (Part::Unknown, Part::Known(Panel::unpack(17_846_318).unwrap())),
        ] {
            let parts = Parts {
                controller: Controller::unpack(20_103_238),
                panel,
                second_panel,
            };
            assert_eq!(Parts::read(&parts.versions()), parts);
        }
        let dark = Parts {
            controller: None,
            panel: Part::Absent,
            second_panel: Part::Absent,
        };
        assert!(!dark.versions().is_empty());
        assert_eq!(Parts::read(&dark.versions()), dark);
    }

    #[test]
    fn the_last_number_of_controller_or_panel_decides() {
        use Relation::{Mixed, Newer, Older, Same, Unknown};
        let p = |text| Some(text);
        for (installed, offered, relation) in [
            (("C6 1.3.44.70", None), ("C6 1.5.46.72", None), Newer),
            (
                ("C6 1.3.44.70", p("P1 1.1.5.46")),
                ("C6 1.3.44.70", p("P1 1.1.5.48")),
                Newer,
            ),
            (
                ("C6 1.3.44.70", p("P1 1.1.5.48")),
                ("C6 1.5.46.72", p("P1 1.1.5.46")),
                Mixed,
            ),
            (
                ("C6 1.5.46.72", p("P1 1.1.5.46")),
                ("C6 1.3.44.70", p("P1 1.1.5.48")),
                Mixed,
            ),
            (
                ("C6 1.5.46.72", p("P1 1.1.5.48")),
                ("C6 1.3.44.70", p("P1 1.1.5.48")),
                Older,
            ),
            // The first three numbers have no order: 70 is 70.
            (("C6 1.3.44.70", None), ("C6 1.2.44.70", None), Same),
            (("C6M 1.4.47.74", None), ("C6 1.5.46.72", None), Older),
            (("C6M 1.4.45.71", None), ("C6 1.5.46.72", None), Newer),
            // A part that one side does not have says nothing.
            (("C6 1.5.46.72", None), ("C6 1.5.46.72", p("P1 1.1.5.48")), Same),
            (("C6 1.3.28.38", p("P1 1.1.3.25")), ("C6 1.3.28.38", None), Same),
            // A panel that no update takes along cannot make an image newer.
            (
                ("C6M 1.4.42.72", p("P1 2.1.1.9")),
                ("C6 1.5.46.72", p("P1 1.1.5.48")),
                Same,
            ),
            (("C8 1.1.14.27", None), ("C6 1.5.46.72", None), Unknown),
            (("unknown", None), ("C6 1.5.46.72", None), Unknown),
        ] {
            let (installed, offered) = (versions(installed.0, installed.1), versions(offered.0, offered.1));
            assert_eq!(relate(&installed, &offered), relation, "{installed} <- {offered}");
            assert_eq!(
                relate(&offered, &installed),
                relation.reversed(),
                "{offered} <- {installed}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_word_that_is_a_version_is_written_back_the_same(word: u32) {
            if let Some(controller) = Controller::unpack(word) {
                prop_assert_eq!(controller.pack(), word);
                prop_assert_eq!(controller.to_string().parse(), Ok(controller));
            }
            if let Some(panel) = Panel::unpack(word) {
                prop_assert_eq!(panel.pack(), word);
                prop_assert_eq!(panel.to_string().parse(), Ok(panel));
            }
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,40}") {
            let _ = text.parse::<Controller>();
            let _ = text.parse::<Panel>();
        }
    }
}
