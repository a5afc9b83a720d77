//! The chips: their ids, their many spellings, and where they show their flash.

use std::fmt;

use super::Chip;

/// Id, name in tools and configuration, the vendor's name (esptool `targets/*.py`, `IMAGE_CHIP_ID`).
const CHIPS: [(Chip, &str, &str); 14] = [
    (Chip::ESP32, "esp32", "ESP32"),
    (Chip::ESP32_S2, "esp32s2", "ESP32-S2"),
    (Chip::ESP32_C3, "esp32c3", "ESP32-C3"),
    (Chip::ESP32_S3, "esp32s3", "ESP32-S3"),
    (Chip::ESP32_C2, "esp32c2", "ESP32-C2"),
    (Chip::ESP32_C6, "esp32c6", "ESP32-C6"),
    (Chip::ESP32_H2, "esp32h2", "ESP32-H2"),
    (Chip::ESP32_P4, "esp32p4", "ESP32-P4"),
    (Chip::ESP32_C61, "esp32c61", "ESP32-C61"),
    (Chip::ESP32_C5, "esp32c5", "ESP32-C5"),
    (Chip::ESP32_H21, "esp32h21", "ESP32-H21"),
    (Chip::ESP32_H4, "esp32h4", "ESP32-H4"),
    (Chip::ESP32_E22, "esp32e22", "ESP32-E22"),
    (Chip::ESP32_S31, "esp32s31", "ESP32-S31"),
];

/// What follows `ESP32-` in the names of chips, packages, modules and boards that hold a plain ESP32
/// (esptool `targets/esp32.py`, `get_chip_description`; Arduino's `ESP.getChipModel()`).
const PLAIN_ESP32: [&str; 8] = ["d0wd", "d2wd", "s0wd", "u4wdh", "pico", "wroom", "wrover", "dev"];

impl Chip {
    /// The plain ESP32.
    pub const ESP32: Self = Self(0);
    /// ESP32-S2.
    pub const ESP32_S2: Self = Self(2);
    /// ESP32-C3.
    pub const ESP32_C3: Self = Self(5);
    /// ESP32-S3.
    pub const ESP32_S3: Self = Self(9);
    /// ESP32-C2, also sold as ESP8684.
    pub const ESP32_C2: Self = Self(12);
    /// ESP32-C6.
    pub const ESP32_C6: Self = Self(13);
    /// ESP32-H2.
    pub const ESP32_H2: Self = Self(16);
    /// ESP32-P4.
    pub const ESP32_P4: Self = Self(18);
    /// ESP32-C61.
    pub const ESP32_C61: Self = Self(20);
    /// ESP32-C5.
    pub const ESP32_C5: Self = Self(23);
    /// ESP32-H21.
    pub const ESP32_H21: Self = Self(25);
    /// ESP32-H4.
    pub const ESP32_H4: Self = Self(28);
    /// ESP32-E22.
    pub const ESP32_E22: Self = Self(31);
    /// ESP32-S31.
    pub const ESP32_S31: Self = Self(32);

    /// The name in JSON, configuration and on the command line (`esp32c6`), `None` for an unknown id.
    pub fn name(self) -> Option<&'static str> {
        CHIPS
            .iter()
            .find(|(chip, ..)| *chip == self)
            .map(|(_, name, _)| *name)
    }

    /// The names of all chips that are known.
    pub fn names() -> impl Iterator<Item = &'static str> {
        CHIPS.iter().map(|(_, name, _)| *name)
    }

    /// The chip a text names, in whatever spelling: `esp32c6`, `ESP32-C6`, `ESP32C6`, and chip models as
    /// devices report them, `ESP32-D0WD-V3`, `ESP32-PICO-D4`, `ESP32-C3FH4`. `None` if it names no known chip,
    /// and where it could be a newer one (`ESP32-C65`).
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let model = text.strip_prefix("esp32")?.trim_start_matches(['-', '_', ' ']);
        if model.is_empty() || PLAIN_ESP32.iter().any(|plain| model.starts_with(plain)) {
            return Some(Self::ESP32);
        }
        // `esp32c61` also begins with `esp32c6`, but is followed by a digit then, which no model of one chip is.
        CHIPS.iter().find_map(|(chip, name, _)| {
            let suffix = name.strip_prefix("esp32").filter(|suffix| !suffix.is_empty())?;
            let rest = model.strip_prefix(suffix)?;
            (!rest.starts_with(|next: char| next.is_ascii_digit())).then_some(*chip)
        })
    }

    /// Whether the chip sees its flash at this address, so that a segment there runs or is read in place
    /// (esptool `targets/*.py`, `IROM_MAP_START`, `DROM_MAP_START` and their ends).
    pub(super) fn maps_flash(self, address: u32) -> bool {
        match self {
            Self::ESP32 => matches!(address, 0x3F40_0000..0x3F80_0000 | 0x400D_0000..0x4040_0000),
            Self::ESP32_S2 => matches!(address, 0x3F00_0000..0x3F3F_0000 | 0x4008_0000..0x40B8_0000),
            Self::ESP32_P4 => matches!(address, 0x4000_0000..0x4C00_0000),
            Self::ESP32_S31 => matches!(address, 0x4000_0000..0x5400_0000),
            Self::ESP32_E22 => matches!(address, 0x3C00_0000..0x4000_0000),
            _ => matches!(address, 0x3C00_0000..0x3E00_0000 | 0x4200_0000..0x4400_0000),
        }
    }
}

impl fmt::Display for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match CHIPS.iter().find(|(chip, ..)| chip == self) {
            Some((_, _, vendor_name)) => f.write_str(vendor_name),
            None => write!(f, "chip id {}", self.0),
        }
    }
}
