//! Images in the repository: how far each may go.

use serde::{Deserialize, Serialize};

/// How far an image may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is offered.
    Approved,
    /// It waits for approval.
    Waiting,
    /// It came by a way that anybody could have changed: it waits for approval of its digest.
    Quarantined,
    /// Its name was known with other bytes: it is never offered.
    Blocked,
    /// It is no firmware for any device.
    Refused,
}

impl State {
    /// Its name in JSON and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Waiting => "waiting",
            Self::Quarantined => "quarantined",
            Self::Blocked => "blocked",
            Self::Refused => "refused",
        }
    }
}
