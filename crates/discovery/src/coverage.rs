use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// What a scan has covered. Every address is accounted for:
/// `n_addresses = n_asked + n_failed + n_skipped`, and `n_asked = n_answered + n_refused + n_silent`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Addresses of hosts in the ranges, each counted once.
    pub n_addresses: u64,
    /// Addresses that were asked.
    pub n_asked: u64,
    /// Somebody took a connection, whatever he said then.
    pub n_answered: u64,
    /// Somebody is there, and nothing listens.
    pub n_refused: u64,
    /// Nobody answered in time, or a router said that nobody is there.
    pub n_silent: u64,
    /// This machine could not ask: these addresses are not covered.
    pub n_failed: u64,
    /// Addresses that are not to be asked: this machine's own, those of a whole network, and what may not be reached.
    pub n_skipped: u64,
    /// Whether it was kept slow, and why.
    pub paced: Option<String>,
    /// What else keeps it from being complete, for people.
    pub warning: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// How one attempt to connect ended; the later one counts where an address has several ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Silent,
    Refused,
    Failed,
    Answered,
}

/// Adds up attempts to addresses.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    open: HashMap<IpAddr, (usize, Outcome)>,
}

impl Tally {
    /// So many attempts at this address begin.
    pub(crate) fn began(&mut self, address: IpAddr, n_attempts: usize) {
        self.open.insert(address, (n_attempts, Outcome::Silent));
    }

    /// One of them has ended; the last one decides about the address.
    pub(crate) fn ended(&mut self, address: IpAddr, outcome: Outcome, coverage: &mut Coverage) {
        let Some((n_left, best)) = self.open.get_mut(&address) else {
            return;
        };
        *n_left -= 1;
        *best = outcome.max(*best);
        if *n_left == 0 {
            let best = *best;
            self.open.remove(&address);
            coverage.count(best);
        }
    }

    /// Addresses whose attempts have not all ended.
    pub(crate) fn n_open(&self) -> u64 {
        self.open.len() as u64
    }
}

impl Coverage {
    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Answered => self.n_answered += 1,
            Outcome::Refused => self.n_refused += 1,
            Outcome::Silent => self.n_silent += 1,
            Outcome::Failed => self.n_failed += 1,
        }
        self.n_asked = self.n_answered + self.n_refused + self.n_silent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

    #[track_caller]
    fn check(outcomes: &[Outcome], expected: &Coverage) {
        let (mut tally, mut coverage) = (Tally::default(), Coverage::default());
        tally.began(ADDRESS, outcomes.len());
        for outcome in outcomes {
            assert_eq!((tally.n_open(), coverage.clone()), (1, Coverage::default()));
            tally.ended(ADDRESS, *outcome, &mut coverage);
        }
        assert_eq!((tally.n_open(), &coverage), (0, expected), "{outcomes:?}");
    }

    #[test]
    fn an_address_is_counted_once_whatever_its_ports_did() {
        use Outcome::{Answered, Failed, Refused, Silent};
        let answered = Coverage {
            n_asked: 1,
            n_answered: 1,
            ..Coverage::default()
        };
        let refused = Coverage {
            n_asked: 1,
            n_refused: 1,
            ..Coverage::default()
        };
        let silent = Coverage {
            n_asked: 1,
            n_silent: 1,
            ..Coverage::default()
        };
        let failed = Coverage {
            n_failed: 1,
            ..Coverage::default()
        };
        for (outcomes, expected) in [
            (&[Silent][..], &silent),
            (&[Silent, Silent], &silent),
            (&[Refused, Silent], &refused),
            (&[Silent, Refused], &refused),
            (&[Answered, Silent, Failed], &answered),
            (&[Refused, Answered], &answered),
            // Half asked is not covered.
            (&[Failed, Refused], &failed),
            (&[Silent, Failed], &failed),
        ] {
            check(outcomes, expected);
        }
    }
}
