//! When the right to work on a device may be taken from somebody who holds it.
//!
//! Measured on the clock since boot alone. The wall clock is set, by a day and by ten years, and what it says must neither free a
//! lease that lives nor lock one that does not.

use std::time::Duration;

/// How long a lease lasts after it was renewed (RELIABILITY.md section 5, 5).
pub const TTL: Duration = Duration::from_mins(1);
/// How much longer another one waits before it takes over (RELIABILITY.md section 5, 5).
pub const GRACE: Duration = Duration::from_secs(30);

/// Whether a process still lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It does.
    Alive,
    /// It certainly does not.
    Dead,
    /// It cannot be told from here.
    Unknown,
}

/// A lease that somebody holds, as the one who asks for it sees it. All moments are on the clock of this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whether the holder still lives.
    pub holder: Liveness,
    /// When it was renewed last; none where that was not on the clock of this boot.
    pub renewed: Option<Duration>,
    /// When somebody of this boot first asked for it in vain; none where it was renewed since.
    pub asked: Option<Duration>,
}

/// What is to become of one who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It has it: the holder is dead.
    TakesFromDead,
    /// It has it: the holder did not renew it in time.
    Takes,
    /// It waits, this long at most if the lease is not renewed.
    Waits(Duration),
}

/// Whether the lease changes hands now.
///
/// Where the last renewal cannot be compared with this clock, as it was on another machine's, it is enough to see that none came
/// for [`TTL`] and [`GRACE`]: for that the first question in vain is remembered.
pub fn ruling(held: Held, now: Duration) -> Ruling {
    if held.holder == Liveness::Dead {
        return Ruling::TakesFromDead;
    }
    // A renewal ahead of this clock is of another one, whatever it is called.
    let since = held
        .renewed
        .filter(|renewed| *renewed <= now)
        .or(held.asked.filter(|asked| *asked <= now))
        .unwrap_or(now);
    let waited = now.saturating_sub(since);
    match (TTL + GRACE).checked_sub(waited) {
        None | Some(Duration::ZERO) => Ruling::Takes,
        Some(left) => Ruling::Waits(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[track_caller]
    fn check(holder: Liveness, renewed_s: Option<u64>, asked_s: Option<u64>, now_s: u64, expected: Ruling) {
        let held = Held {
            holder,
            renewed: renewed_s.map(s),
            asked: asked_s.map(s),
        };
        assert_eq!(ruling(held, s(now_s)), expected, "{held:?}");
    }

    #[test]
    fn of_a_dead_holder_nothing_is_waited_for() {
        check(Liveness::Dead, Some(100), None, 100, Ruling::TakesFromDead);
        check(Liveness::Dead, None, None, 100, Ruling::TakesFromDead);
    }

    #[test]
    fn who_may_live_keeps_it_for_its_time_and_the_grace_after_the_last_renewal() {
        for holder in [Liveness::Alive, Liveness::Unknown] {
            check(holder, Some(100), None, 100, Ruling::Waits(s(90)));
            check(holder, Some(100), Some(10), 189, Ruling::Waits(s(1)));
            check(holder, Some(100), Some(189), 190, Ruling::Takes);
        }
    }

    #[test]
    fn where_the_last_renewal_is_on_another_clock_the_time_runs_from_the_first_question() {
        for renewed_s in [None, Some(1_000)] {
            check(Liveness::Unknown, renewed_s, None, 100, Ruling::Waits(s(90)));
            check(Liveness::Unknown, renewed_s, Some(100), 189, Ruling::Waits(s(1)));
            check(Liveness::Unknown, renewed_s, Some(100), 190, Ruling::Takes);
        }
    }
}
