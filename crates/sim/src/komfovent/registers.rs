//! The unit's Modbus registers, by their documented 1-based numbers.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use super::firmware::{Controller, Panel};

/// On (1) or off (0); writing it starts or stops the unit.
pub(super) const POWER: u16 = 1;
/// Which panels are connected: 0 none, 1 the first, 2 the second, 3 both.
pub(super) const CONNECTED_PANELS: u16 = 954;
/// Controller firmware, two words.
pub(super) const CONTROLLER: u16 = 1000;
/// Firmware of the first and of the second panel, two words each.
pub(super) const PANELS: [u16; 2] = [1002, 1004];

/// A unit's registers: 1-based number to word. What is missing answers exception 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers(BTreeMap<u16, u16>);

impl Registers {
    /// The few registers that matter for an update, made from a controller and at most one panel.
    pub fn synthesize(controller: Controller, panel: Option<Panel>) -> Self {
        let mut registers = Self(BTreeMap::from([
            (POWER, 1),
            (CONNECTED_PANELS, u16::from(panel.is_some())),
        ]));
        registers.put(CONTROLLER, controller.pack());
        registers.put(PANELS[0], panel.map_or(0, Panel::pack));
        registers.put(PANELS[1], 0);
        registers
    }

    /// Reads a dump of a real unit: a JSON object, key = first register of a block (1-based), value = its words
    /// (an empty or missing block is one that the unit does not have).
    pub fn from_json(json: &str) -> Result<Self> {
        let blocks: BTreeMap<String, Vec<u16>> = serde_json::from_str(json)
            .context("reading a register dump: blocks of words by first register")?;
        let mut registers = BTreeMap::new();
        for (first, words) in blocks {
            let first: u16 = first
                .parse()
                .with_context(|| format!("register number {first:?}"))?;
            ensure!(first > 0, "registers are counted from 1");
            for (offset, word) in words.into_iter().enumerate() {
                let number = u16::try_from(usize::from(first) + offset);
                registers.insert(
                    number.with_context(|| format!("block {first} runs past 65535"))?,
                    word,
                );
            }
        }
        let registers = Self(registers);
        ensure!(
            registers.controller().is_some(),
            "registers 1000 and 1001 hold no controller version"
        );
        Ok(registers)
    }

    /// The controller and its firmware, registers 1000–1001.
    pub fn controller(&self) -> Option<Controller> {
        Controller::unpack(self.pair(CONTROLLER)?)
    }

    /// The firmware of the connected panels, first and second.
    pub fn panels(&self) -> [Option<Panel>; 2] {
        let connected = self.get(CONNECTED_PANELS).unwrap_or(0);
        [0, 1].map(|idx| {
            if connected >> idx & 1 == 0 {
                return None;
            }
            Panel::unpack(self.pair(PANELS[idx])?)
        })
    }

    /// Whether the unit runs (register 1).
    pub fn on(&self) -> bool {
        self.get(POWER).is_some_and(|word| word != 0)
    }

    /// The word of one register, if the unit has it.
    pub(super) fn get(&self, number: u16) -> Option<u16> {
        self.0.get(&number).copied()
    }

    /// Overwrites one register that the unit has.
    pub(super) fn set(&mut self, number: u16, word: u16) {
        if let Some(held) = self.0.get_mut(&number) {
            *held = word;
        }
    }

    pub(super) fn set_controller(&mut self, controller: Controller) {
        self.put(CONTROLLER, controller.pack());
    }

    pub(super) fn set_panel(&mut self, idx: usize, panel: Panel) {
        self.put(PANELS[idx], panel.pack());
    }

    fn pair(&self, first: u16) -> Option<u32> {
        Some(u32::from(self.get(first)?) << 16 | u32::from(self.get(first + 1)?))
    }

    /// High word first.
    fn put(&mut self, first: u16, packed: u32) {
        let [high, low] = [packed >> 16, packed & 0xFFFF].map(|word| u16::try_from(word).unwrap_or(u16::MAX));
        self.0.insert(first, high);
        self.0.insert(first + 1, low);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_synthesized_unit_has_its_versions_and_nothing_else() {
        let controller = "C6_1_3_44_70".parse().unwrap();
        let registers = Registers::synthesize(controller, Some("P1_1_1_5_46".parse().unwrap()));
        let words: Vec<_> = (1000..=1006).map(|number| registers.get(number)).collect();
        assert_eq!(
            words,
            [
                Some(306),
                Some(49222),
                Some(272),
                Some(20526),
                Some(0),
                Some(0),
                None
            ]
        );
        assert_eq!(registers.get(CONNECTED_PANELS), Some(1));
        let bare = Registers::synthesize(controller, None);
        assert_eq!(
            (bare.get(CONNECTED_PANELS), bare.panels()),
            (Some(0), [None, None])
        );
    }

    #[test]
    fn dumps_that_cannot_be_a_unit_are_refused() {
        for json in [
            "{}",
            "[]",
            r#"{"1000": [0, 0]}"#,
            r#"{"0": [1]}"#,
            r#"{"65535": [1, 2]}"#,
            r#"{"x": [1]}"#,
            r#"{"1": [70000]}"#,
        ] {
            assert!(Registers::from_json(json).is_err(), "{json}");
        }
    }
}
