//! What is remembered of one unit.

use model::family::Notes;
use serde::{Deserialize, Serialize};

/// What is remembered of one unit between calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    /// Its serial number, once it was read after a login: an alias of its identity, which the poll cannot read.
    pub(super) serial: Option<String>,
    /// It ran firmware so old that an update resets its address.
    pub(super) may_reset: bool,
}

impl Memory {
    /// Reads what was remembered; anything that cannot be read is as nothing.
    pub(super) fn read(notes: &Notes) -> Self {
        serde_json::from_value(notes.0.clone()).unwrap_or_default()
    }

    /// What is to be remembered.
    pub(super) fn write(&self) -> Notes {
        Notes(serde_json::to_value(self).unwrap_or_default())
    }
}
