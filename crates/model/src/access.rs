//! Who may do what.

use serde::{Deserialize, Serialize};

/// What somebody may do. Each may all that those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Update devices.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// Its name in JSON and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}
