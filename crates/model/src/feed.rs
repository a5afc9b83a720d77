//! Vendors' downloads: which there are, and when each is to be looked at.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::device::Device;
use crate::id::FamilyId;

/// How long after the first failed look the next one comes; it doubles from one failure to the next.
///
/// Guess: a vendor's server that is down is mended within hours, and an hour's wait is no burden to it.
const FIRST_RETRY: Duration = Duration::from_hours(1);
/// A look comes later by up to this share of its interval, so that not all homes ask at once. Taste: 8 hours in a week.
const JITTER_SHARE: u64 = 20;

/// A vendor's download for some models of a family.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Whose devices it is for.
    pub family: FamilyId,
    /// Its key within the family, as the configuration names it: `C6`.
    pub key: &'static str,
    /// The models that take its files, as devices name themselves.
    pub models: &'static [&'static str],
    /// Where the vendor has it, where the configuration does not say otherwise.
    pub url: &'static str,
    /// Lengths that a file of it may have, bytes.
    pub len_bytes: RangeInclusive<u64>,
    /// What a file name tells; none where it is not one of the vendor's names.
    pub read_name: fn(&str) -> Option<Vec<NamedPart>>,
}

/// A version as the name of a vendor's file gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPart {
    /// The part it is of: `controller`, `panel`.
    pub part: &'static str,
    /// The part's type and four numbers, as the devices' registers hold them.
    pub numbers: [u16; 5],
}

impl Feed {
    /// Its name everywhere: `komfovent-C6`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.family, self.key)
    }

    /// Whether its files are for this device.
    pub fn is_for(&self, device: &Device) -> bool {
        device.id.family == self.family
            && device
                .hardware
                .model
                .as_deref()
                .is_some_and(|model| self.models.contains(&model))
    }
}

/// How the looks at a feed went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// When the last one was, milliseconds since 1970, whatever came of it.
    pub last_ms: i64,
    /// How many have failed since the last one that went well.
    pub n_failures: u32,
}

/// When a feed is to be looked at next, milliseconds since 1970.
///
/// A feed that was never looked at is due now. The clock may have been set back meanwhile: a look that lies ahead does not
/// put the next one off for longer than one interval from now.
pub fn due_ms(name: &str, looked: Option<Looked>, every: Duration, now_ms: i64) -> i64 {
    let Some(looked) = looked else {
        return now_ms;
    };
    let wait = match looked.n_failures {
        0 => every,
        n => FIRST_RETRY
            .saturating_mul(1_u32.checked_shl(n - 1).unwrap_or(u32::MAX))
            .min(every),
    };
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX / 2);
    let jitter_ms = scatter(name, looked.last_ms) % (wait_ms / JITTER_SHARE + 1);
    let wait_ms = i64::try_from(wait_ms.saturating_add(jitter_ms)).unwrap_or(i64::MAX);
    looked.last_ms.min(now_ms).saturating_add(wait_ms)
}

/// A number that looks random and is the same each time it is asked for (FNV-1a).
fn scatter(name: &str, seed: i64) -> u64 {
    name.bytes()
        .chain(seed.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEK: Duration = Duration::from_hours(7 * 24);
    const HOUR_MS: i64 = 3_600_000;
    const WEEK_MS: i64 = 7 * 24 * HOUR_MS;

    fn due_after(name: &str, last_ms: i64, n_failures: u32, now_ms: i64) -> i64 {
        due_ms(name, Some(Looked { last_ms, n_failures }), WEEK, now_ms)
    }

    /// How long after the last look the next one comes, hours, rounded down.
    fn hours(n_failures: u32) -> i64 {
        let last_ms = 1_000 * WEEK_MS;
        (due_after("komfovent-C6", last_ms, n_failures, last_ms + 1) - last_ms) / HOUR_MS
    }

    /// `test_weekly_schedule` of the founding document.
    #[test]
    fn a_feed_is_looked_at_weekly_by_the_wall_clock() {
        let last_ms = 5 * WEEK_MS;
        let due = due_after("komfovent-C6", last_ms, 0, last_ms + HOUR_MS);
        assert!(due >= last_ms + WEEK_MS, "not before a week is over");
        assert!(
            due <= last_ms + WEEK_MS + WEEK_MS / 20,
            "and then within some hours"
        );
        // Asked again later, also by a program that was started anew, the answer is the same.
        assert_eq!(due_after("komfovent-C6", last_ms, 0, last_ms + 3 * HOUR_MS), due);
    }

    #[test]
    fn a_feed_that_was_never_looked_at_is_due_now() {
        assert_eq!(due_ms("komfovent-C6", None, WEEK, 77), 77);
    }

    #[test]
    fn failed_looks_are_repeated_ever_later_and_at_least_weekly() {
        let found: Vec<i64> = (1..=9).map(hours).collect();
        for (found, expected) in found.iter().zip([1, 2, 4, 8, 16, 32, 64, 128, 168]) {
            assert!(
                (expected..=expected + expected / 20).contains(found),
                "{found} {expected}"
            );
        }
        assert!(hours(u32::MAX) >= 168);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_put_a_look_off_for_years() {
        let now_ms = 10 * WEEK_MS;
        let due = due_after("komfovent-C6", 500 * WEEK_MS, 0, now_ms);
        assert!(due <= now_ms + WEEK_MS + WEEK_MS / 20, "{due}");
    }

    #[test]
    fn two_feeds_are_not_asked_for_in_the_same_second() {
        let due = |name| due_after(name, WEEK_MS, 0, WEEK_MS);
        assert_ne!(due("komfovent-C6") / 1000, due("komfovent-C8") / 1000);
    }
}
