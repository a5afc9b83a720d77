//! The time as decisions see it: an argument, never read here.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One moment, on two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Since this machine booted, suspended time included (`CLOCK_BOOTTIME`): all durations are measured on it.
    pub boot: Duration,
    /// Milliseconds since 1970, UTC: only for people, and to compare moments of two different boots.
    pub wall_ms: i64,
}

impl Now {
    /// The same moment a while later.
    #[must_use]
    pub fn later(self, by: Duration) -> Self {
        Self {
            boot: self.boot + by,
            wall_ms: self.wall_ms + i64::try_from(by.as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// The same moment a while earlier; not before this machine booted.
    #[must_use]
    pub fn earlier(self, by: Duration) -> Self {
        let by = by.min(self.boot);
        Self {
            boot: self.boot.saturating_sub(by),
            wall_ms: self.wall_ms - i64::try_from(by.as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        self.boot.saturating_sub(earlier.boot)
    }
}
