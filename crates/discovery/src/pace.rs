use std::time::Duration;

/// Neighbours that Linux keeps in mind for IPv4 unless told otherwise (`gc_thresh3`, ../shared/PERFORMANCE.md finding 3).
const NEIGHBOURS_USUAL: u32 = 1024;
/// How long an address that nobody has keeps its entry, seconds: three questions, one a second (Linux `neighbour.c`,
/// `mcast_solicit` and `retrans_time_ms`). Measured with 4,094 addresses and a table of 1,024: at 320 a second it never
/// was full, at 340 it was 366 times, and at 400 a scan found 8 of 10 hosts.
const ENTRY_LIFE_S: u32 = 3;
/// Where there is room for all: so many a second. Each is a broadcast, and 250 in one moment are more than the queues of
/// an access point may hold; what is lost there is asked again only after a second.
/// Guess: a home network of 254 then takes 51 ms, and its last address has its 1.5 s within 1.6 s.
const MANY_PER_S: u32 = 5_000;
/// How often addresses are let go: 50 or 13 of them at the usual paces.
const EVERY: Duration = Duration::from_millis(10);
const EVERY_SLOW: Duration = Duration::from_millis(50);
/// What was missed more ticks ago than this is not made up for: those of a long pause would go all at once.
/// Guess: as much as timers are late on a busy machine.
const LATE_MAX_TICKS: u32 = 2;

/// How fast new addresses on a link of our own may be asked.
///
/// Each takes an entry of the system's neighbour table for some 3 s, whether anybody is there or not; where the table is
/// full, what is sent is lost and nobody is told. So a scan that might fill it is kept slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// So many may be asked within a moment.
    pub at_once: u32,
    /// Where there are more: so many a second.
    pub per_s: u32,
    /// Neighbours that the system keeps in mind.
    pub n_neighbours: u32,
}

impl Pace {
    /// What this machine bears.
    pub fn of_this_machine() -> Self {
        Self::for_neighbours(net::neighbours_max().unwrap_or(NEIGHBOURS_USUAL))
    }

    /// What a table of this size bears.
    pub fn for_neighbours(n_neighbours: u32) -> Self {
        // Guess: a quarter is left for those whom the machine speaks with anyway.
        let at_once = n_neighbours - n_neighbours / 4;
        Self {
            at_once,
            per_s: (at_once / ENTRY_LIFE_S).max(1),
            n_neighbours,
        }
    }

    /// In words, for so many addresses; none where they may go within a moment.
    pub(crate) fn reason(&self, n_new: u64) -> Option<String> {
        (n_new > u64::from(self.at_once)).then(|| {
            format!(
                "{n_new} addresses on this machine's own links, asked at {} a second: it keeps {} neighbours in mind, \
                 and more at once would be lost without a word",
                self.per_s, self.n_neighbours
            )
        })
    }
}

/// Lets new addresses go, as time passes.
#[derive(Debug)]
pub(crate) struct Pacer {
    /// Between two addresses.
    between: Duration,
    /// Between two looks at the clock: what is due goes together, so that the machine can sleep meanwhile.
    every: Duration,
    /// When the next one is due, since the start.
    due: Duration,
}

impl Pacer {
    /// For so many new addresses.
    pub(crate) fn new(pace: &Pace, n_new: u64) -> Self {
        let (per_s, every) = if n_new > u64::from(pace.at_once) {
            (pace.per_s.max(1), EVERY_SLOW)
        } else {
            (MANY_PER_S, EVERY)
        };
        Self {
            between: Duration::from_secs(1) / per_s,
            every,
            due: Duration::ZERO,
        }
    }

    /// One goes, if it may `after` this time since the start; else, says when to ask again.
    pub(crate) fn go(&mut self, after: Duration) -> Result<(), Duration> {
        if after < self.due {
            return Err(self.due.max(after + self.every));
        }
        self.due = (self.due + self.between).max(after.saturating_sub(self.every * LATE_MAX_TICKS));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many have gone after each of these times.
    fn gone(pace: &Pace, n_new: u64, after_ms: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut pacer = Pacer::new(pace, n_new);
        let mut n_gone = 0;
        let mut until = |after_ms| {
            while n_gone < n_new && pacer.go(Duration::from_millis(after_ms)).is_ok() {
                n_gone += 1;
            }
            n_gone
        };
        after_ms.into_iter().map(&mut until).collect()
    }

    #[test]
    fn a_home_network_goes_within_a_moment_but_not_in_one_burst() {
        let pace = Pace::for_neighbours(1024);
        let every_tick = gone(&pace, 254, (0..=60).step_by(10));
        assert_eq!(every_tick, [1, 51, 101, 151, 201, 251, 254]);
        assert_eq!(gone(&pace, 768, (0..=160).step_by(10)).last(), Some(&768));
        assert_eq!(pace.reason(768), None);
    }

    #[test]
    fn what_might_fill_the_table_goes_as_fast_as_entries_end() {
        let pace = Pace::for_neighbours(1024);
        // In 3 s, as long as an entry lives, three quarters of the table.
        assert_eq!((pace.at_once, pace.per_s), (768, 256));
        let every_tick = gone(&pace, 4094, (0..=16_050).step_by(50));
        assert_eq!(every_tick[0..2], [1, 13]);
        assert_eq!(
            (every_tick[20], every_tick[200]),
            (257, 2561),
            "after 1 s and 10 s"
        );
        assert_eq!(every_tick.last(), Some(&4094));
        let reason = pace.reason(4094).unwrap();
        assert!(
            reason.contains("256 a second") && reason.contains("1024 neighbours"),
            "{reason}"
        );
    }

    #[test]
    fn a_long_pause_is_not_made_up_for() {
        let pace = Pace::for_neighbours(1024);
        let late_timers = gone(&pace, 4094, (0..=10_000).step_by(100));
        assert_eq!(late_timers.last(), Some(&2561));
        let asleep = gone(&pace, 4094, [0, 60_000]);
        assert!(asleep[1] <= 30, "{asleep:?}");
        let at_home = gone(&pace, 254, [0, 60_000]);
        assert!(at_home[1] <= 110, "{at_home:?}");
    }

    #[test]
    fn whoever_has_to_wait_is_told_how_long() {
        let mut pacer = Pacer::new(&Pace::for_neighbours(1024), 4094);
        assert_eq!(pacer.go(Duration::ZERO), Ok(()));
        assert_eq!(pacer.go(Duration::ZERO), Err(EVERY_SLOW));
        assert_eq!(pacer.go(EVERY_SLOW), Ok(()));
        let mut slow = Pacer::new(&Pace::for_neighbours(4), 100);
        assert_eq!(slow.go(Duration::ZERO), Ok(()));
        assert_eq!(slow.go(Duration::ZERO), Err(Duration::from_secs(1)));
    }

    #[test]
    fn a_larger_table_bears_more_and_a_smaller_one_less() {
        assert_eq!(Pace::for_neighbours(8192).per_s, 2048);
        assert_eq!(
            gone(&Pace::for_neighbours(8192), 4094, (0..=820).step_by(10)).last(),
            Some(&4094)
        );
        assert_eq!(Pace::for_neighbours(128).per_s, 32);
        assert_eq!(
            gone(&Pace::for_neighbours(128), 254, (0..=1000).step_by(50)).last(),
            Some(&33)
        );
        assert_eq!(Pace::for_neighbours(0).per_s, 1);
    }
}
