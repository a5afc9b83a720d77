//! Whether the wall clock can be believed (RELIABILITY.md F83, 5 (17)).
//!
//! Windows hang on it, and everything else on the clock since boot, which nobody sets.

use std::time::Duration;

use model::time::Now;

/// A wall clock before this is wrong: this program was not built yet, milliseconds since 1970.
///
/// Packagers set `SOURCE_DATE_EPOCH`, in seconds, to the date of the source; otherwise it is 1 November 2026.
const BUILT_MS: i64 = match option_env!("SOURCE_DATE_EPOCH") {
    Some(seconds) => match i64::from_str_radix(seconds, 10) {
        Ok(seconds) => seconds.saturating_mul(1_000),
        Err(_) => SOURCE_MS,
    },
    None => SOURCE_MS,
};
const SOURCE_MS: i64 = 1_793_491_200_000;

/// A wall clock that goes so much faster or slower than the clock since boot was set (RELIABILITY.md 5 (17)).
const JUMP_MS: u64 = 60_000;

/// So long nothing begins after that: whoever sets a clock may set it twice. Guess.
const HOLD: Duration = Duration::from_secs(10);

/// What is to be thought of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It can be believed.
    Sane,
    /// It was set a moment ago.
    Jumped,
    /// It shows a time that has passed for certain.
    Early,
}

/// Compares the two clocks from one look to the next.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    not_before_ms: i64,
    last: Option<Now>,
    hold_until: Duration,
}

impl Watch {
    /// `newest_ms`: the newest time in the journal when the program began, milliseconds since 1970.
    pub(super) fn new(newest_ms: i64) -> Self {
        Self {
            not_before_ms: newest_ms.max(BUILT_MS),
            last: None,
            hold_until: Duration::ZERO,
        }
    }

    /// One look at both clocks.
    pub(super) fn look(&mut self, now: Now) -> Verdict {
        if let Some(last) = self.last.replace(now) {
            let by_boot = i64::try_from(now.since(last).as_millis()).unwrap_or(i64::MAX);
            let by_wall = now.wall_ms.saturating_sub(last.wall_ms);
            if by_wall.abs_diff(by_boot) > JUMP_MS {
                self.hold_until = now.boot.saturating_add(HOLD);
            }
        }
        if now.wall_ms < self.not_before_ms {
            Verdict::Early
        } else if now.boot < self.hold_until {
            Verdict::Jumped
        } else {
            Verdict::Sane
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWEST_MS: i64 = 2_000_000_000_000;
    const DAY_MS: i64 = 86_400_000;

    fn at(boot_s: u64, wall_ms: i64) -> Now {
        Now {
            boot: Duration::from_secs(boot_s),
            wall_ms,
        }
    }

    fn watch() -> Watch {
        let mut watch = Watch::new(NEWEST_MS);
        assert_eq!(watch.look(at(100, NEWEST_MS)), Verdict::Sane);
        watch
    }

    #[test]
    fn clocks_that_go_together_are_believed() {
        let mut watch = watch();
        assert_eq!(watch.look(at(3_700, NEWEST_MS + 3_600_000)), Verdict::Sane);
        // Put right by a minute, as a time server does in an hour.
        assert_eq!(
            watch.look(at(7_300, NEWEST_MS + 7_200_000 - 60_000)),
            Verdict::Sane
        );
        assert_eq!(watch.look(at(7_300, NEWEST_MS + 7_200_000)), Verdict::Sane);
    }

    #[test]
    fn a_clock_that_was_set_is_not_believed_at_once() {
        let year = 365 * DAY_MS;
        for jump_ms in [60_001, -60_001, DAY_MS, -DAY_MS, 10 * year] {
            let mut watch = Watch::new(0);
            let begun_ms = NEWEST_MS;
            assert_eq!(watch.look(at(100, begun_ms)), Verdict::Sane);
            assert_eq!(
                watch.look(at(100, begun_ms + jump_ms)),
                Verdict::Jumped,
                "{jump_ms}"
            );
            assert_eq!(watch.look(at(109, begun_ms + jump_ms + 9_000)), Verdict::Jumped);
            assert_eq!(
                watch.look(at(110, begun_ms + jump_ms + 10_000)),
                Verdict::Sane,
                "and then it is the time"
            );
        }
    }

    #[test]
    fn a_clock_that_shows_what_has_passed_is_never_believed() {
        assert_eq!(Watch::new(NEWEST_MS).look(at(5, NEWEST_MS - 1)), Verdict::Early);
        assert_eq!(Watch::new(NEWEST_MS).look(at(5, NEWEST_MS)), Verdict::Sane);
        let mut without_battery = Watch::new(0);
        assert_eq!(without_battery.look(at(5, 0)), Verdict::Early);
        assert_eq!(without_battery.look(at(60, 55_000)), Verdict::Early);
        assert_eq!(without_battery.look(at(65, BUILT_MS - 1)), Verdict::Early);
        assert_eq!(
            without_battery.look(at(66, NEWEST_MS)),
            Verdict::Jumped,
            "it was set"
        );
        assert_eq!(without_battery.look(at(80, NEWEST_MS + 14_000)), Verdict::Sane);
        let mut back = watch();
        assert_eq!(back.look(at(200, NEWEST_MS - DAY_MS)), Verdict::Early);
        assert_eq!(back.look(at(260, NEWEST_MS - DAY_MS + 60_000)), Verdict::Early);
    }
}
