//! Firmware versions as the unit packs them into its registers, and as file names spell them.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail, ensure};

/// What kind of controller the unit has (type bits of registers 1000–1001).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerKind {
    /// C6, type 0.
    C6,
    /// C6M, type 1; takes the same files as a C6.
    C6m,
    /// C8, type 2; has files of its own.
    C8,
}

impl ControllerKind {
    fn type_bits(self) -> u32 {
        match self {
            Self::C6 => 0,
            Self::C6m => 1,
            Self::C8 => 2,
        }
    }

    fn from_type_bits(bits: u32) -> Option<Self> {
        match bits {
            0 => Some(Self::C6),
            1 => Some(Self::C6m),
            2 => Some(Self::C8),
            _ => None,
        }
    }

    /// The name in file names and on the settings page.
    pub fn name(self) -> &'static str {
        match self {
            Self::C6 => "C6",
            Self::C6m => "C6M",
            Self::C8 => "C8",
        }
    }

    /// Whether a file for `file` may be flashed into this controller: C6 and C6M share one firmware file.
    pub fn takes(self, file: Self) -> bool {
        (self == Self::C8) == (file == Self::C8)
    }
}

impl FromStr for ControllerKind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "C6" => Ok(Self::C6),
            "C6M" => Ok(Self::C6m),
            "C8" => Ok(Self::C8),
            _ => bail!("{text:?} is no controller: C6, C6M or C8"),
        }
    }
}

/// Four version numbers: at most 15, 15, 255 and 4095 (their widths in the registers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version([u16; 4]);

impl Version {
    /// Takes the four numbers, or none if one is too large for its register bits.
    pub fn new(numbers: [u16; 4]) -> Option<Self> {
        let limits = [15, 15, 255, 4095];
        numbers
            .iter()
            .zip(limits)
            .all(|(number, limit)| *number <= limit)
            .then_some(Self(numbers))
    }

    /// The last number, which the vendor calls "the firmware version".
    pub fn functional(self) -> u16 {
        self.0[3]
    }

    /// `type << 28 | v1 << 24 | v2 << 20 | v3 << 12 | v4`.
    fn pack(self, type_bits: u32) -> u32 {
        let [v1, v2, v3, v4] = self.0.map(u32::from);
        type_bits << 28 | v1 << 24 | v2 << 20 | v3 << 12 | v4
    }

    fn unpack(packed: u32) -> Self {
        let bits = |shift: u32, mask: u32| u16::try_from(packed >> shift & mask).unwrap_or(u16::MAX);
        Self([bits(24, 15), bits(20, 15), bits(12, 255), bits(0, 4095)])
    }

    fn parse(words: &[&str]) -> Result<Self> {
        let numbers: Vec<u16> = words
            .iter()
            .map(|word| {
                ensure!(
                    word.bytes().all(|byte| byte.is_ascii_digit()),
                    "{word:?} is no number"
                );
                word.parse()
                    .with_context(|| format!("{word:?} is no version number"))
            })
            .collect::<Result<_>>()?;
        let numbers = <[u16; 4]>::try_from(numbers)
            .map_err(|numbers| anyhow::anyhow!("a version has four numbers, not {}", numbers.len()))?;
        Self::new(numbers).context("a version is at most 15.15.255.4095")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [v1, v2, v3, v4] = self.0;
        write!(f, "{v1}.{v2}.{v3}.{v4}")
    }
}

/// A controller and its firmware; text forms `C6_1_3_44_70` (parsed) and `C6 1.3.44.70` (printed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Which controller.
    pub kind: ControllerKind,
    /// Its firmware.
    pub version: Version,
}

impl Controller {
    /// The value of registers 1000–1001, high word first.
    pub fn pack(self) -> u32 {
        self.version.pack(self.kind.type_bits())
    }

    /// Reads registers 1000–1001; none for 0 ("unknown") and for a type that is no controller.
    pub fn unpack(packed: u32) -> Option<Self> {
        let kind = ControllerKind::from_type_bits(packed >> 28)?;
        (packed != 0).then(|| Self {
            kind,
            version: Version::unpack(packed),
        })
    }
}

impl FromStr for Controller {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split('_').collect();
        let (kind, numbers) = words.split_first().context("no controller")?;
        Ok(Self {
            kind: kind.parse()?,
            version: Version::parse(numbers)?,
        })
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.version)
    }
}

/// A wall panel of type P1 and its firmware; text forms `P1_1_1_5_46` (parsed) and `P1 1.1.5.46` (printed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panel {
    /// Its firmware.
    pub version: Version,
}

impl Panel {
    /// `P1` in a name is panel type 0 in the registers.
    const TYPE_BITS: u32 = 0;

    /// The value of registers 1002–1003 or 1004–1005, high word first.
    pub fn pack(self) -> u32 {
        self.version.pack(Self::TYPE_BITS)
    }

    /// Reads a panel's register pair; none for 0 ("no panel") and for a type that is no panel.
    pub fn unpack(packed: u32) -> Option<Self> {
        (packed != 0 && packed >> 28 == Self::TYPE_BITS).then(|| Self {
            version: Version::unpack(packed),
        })
    }
}

impl FromStr for Panel {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text
            .strip_prefix("P1_")
            .with_context(|| format!("{text:?} is no P1 panel"))?;
        Ok(Self {
            version: Version::parse(&numbers.split('_').collect::<Vec<_>>())?,
        })
    }
}

impl fmt::Display for Panel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P1 {}", self.version)
    }
}

/// A controller of a real unit (a register dump of hass-komfovent's tests).
pub(super) const USUAL_CONTROLLER: Controller = Controller {
    kind: ControllerKind::C6,
    version: Version([1, 3, 44, 70]),
};
/// The panel of that unit.
pub(super) const USUAL_PANEL: Panel = Panel {
    version: Version([1, 1, 5, 46]),
};

/// How the file is packed; the real unit tells by the content, the simulated one by the extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Package {
    /// `.mbin`, for controllers from X.X.X.15 on.
    Mbin,
    /// `.bin`, the old form.
    Bin,
}

/// What a firmware file carries, read out of its name: the content is opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwareFile {
    /// The controller firmware.
    pub controller: Controller,
    /// The panel firmware, if the file has one.
    pub panel: Option<Panel>,
    /// How it is packed.
    pub package: Package,
}

impl FirmwareFile {
    /// Reads the modern names `C6_1_5_46_72_P1_1_1_5_48.mbin` (panel optional) and the legacy ones with a date,
    /// `C6_1_3_28_38_20180428.mbin`.
    pub fn parse(file_name: &str) -> Result<Self> {
        let (stem, extension) = file_name
            .rsplit_once('.')
            .context("the file name has no extension")?;
        let package = match extension {
            "mbin" => Package::Mbin,
            "bin" => Package::Bin,
            _ => bail!("{extension:?} is no firmware"),
        };
        let mut words: Vec<&str> = stem.split('_').collect();
        let is_date = |word: &str| word.len() == 8 && word.bytes().all(|byte| byte.is_ascii_digit());
        if words.len() > 5 && words.last().is_some_and(|word| is_date(word)) {
            words.pop();
        }
        let (controller, panel) = words
            .split_at_checked(5)
            .context("the file name has no version")?;
        Ok(Self {
            controller: controller.join("_").parse()?,
            panel: if panel.is_empty() {
                None
            } else {
                Some(panel.join("_").parse()?)
            },
            package,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(high: u16, low: u16, expected: &str) {
        let packed = u32::from(high) << 16 | u32::from(low);
        let controller = Controller::unpack(packed).unwrap();
        assert_eq!(controller.to_string(), expected);
        assert_eq!(controller.pack(), packed);
        assert_eq!(
            expected.replace([' ', '.'], "_").parse::<Controller>().unwrap(),
            controller
        );
    }

    #[test]
    fn real_units_registers_pack_as_documented() {
        check(305, 4116, "C6 1.3.17.20");
        check(305, 49190, "C6 1.3.28.38");
        check(306, 49222, "C6 1.3.44.70");
        check(290, 49222, "C6 1.2.44.70");
        check(273, 4116, "C6 1.1.17.20");
        check(4418, 61514, "C6M 1.4.47.74");
        check(8464, 57371, "C8 1.1.14.27");
        check(8464, 12301, "C8 1.1.3.13");
        assert_eq!("C6_1_5_46_72".parse::<Controller>().unwrap().pack(), 22_208_584);
        assert_eq!("P1_1_1_5_48".parse::<Panel>().unwrap().pack(), 17_846_320);
        assert_eq!(Panel::unpack(34_607_113).unwrap().to_string(), "P1 2.1.1.9");
    }

    #[test]
    fn zero_and_all_ones_are_no_version() {
        assert_eq!(Controller::unpack(0), None);
        assert_eq!(Controller::unpack(u32::MAX), None);
        assert_eq!(Panel::unpack(0), None);
        assert_eq!(Panel::unpack(u32::MAX), None);
    }

    #[test]
    fn modern_and_legacy_file_names_are_read() {
        let modern = FirmwareFile::parse("C6_1_5_46_72_P1_1_1_5_48.mbin").unwrap();
        assert_eq!(modern.controller.to_string(), "C6 1.5.46.72");
        assert_eq!(modern.panel.unwrap().to_string(), "P1 1.1.5.48");
        let legacy = FirmwareFile::parse("C6_1_3_28_38_20180428.mbin").unwrap();
        assert_eq!(
            (legacy.controller.to_string().as_str(), legacy.panel),
            ("C6 1.3.28.38", None)
        );
        let dated = FirmwareFile::parse("C6_1_5_46_72_P1_1_1_5_48_20240102.bin").unwrap();
        assert_eq!((dated.panel.is_some(), dated.package), (true, Package::Bin));
        assert_eq!(
            FirmwareFile::parse("C8_1_1_15_28.mbin").unwrap().controller.kind,
            ControllerKind::C8
        );
    }

    #[test]
    fn other_file_names_are_no_firmware() {
        for name in [
            "",
            "firmware.mbin",
            "C6_1_5_46.mbin",
            "C6_1_5_46_5000.mbin",
            "C6_1_16_46_72.mbin",
            "C6_1_5_46_72_P2_1_1_5_48.mbin",
            "C6_1_5_46_72_P1_1_1_5.mbin",
            "C6_1_5_46_72_2018042.mbin",
            "C6_1_5_46_72.cfg",
            "C6_1_5_46_72",
            "C7_1_5_46_72.mbin",
            "C6_1_5_+46_72.mbin",
        ] {
            assert!(FirmwareFile::parse(name).is_err(), "{name:?} was taken");
        }
    }

    #[test]
    fn c6_and_c6m_share_files_and_c8_has_its_own() {
        use ControllerKind::{C6, C6m, C8};
        for (unit, file, takes) in [
            (C6, C6, true),
            (C6m, C6, true),
            (C8, C8, true),
            (C6, C8, false),
            (C8, C6, false),
        ] {
            assert_eq!(unit.takes(file), takes, "{unit:?} and a file for {file:?}");
        }
    }
}
