//! How often somebody may ask, and how often somebody may be wrong about his token.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use subtle::{Choice, ConstantTimeEq as _};

/// How many requests one token or address may make.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// In the long run, a second.
    pub per_second: f64,
    /// At once, after a pause.
    pub burst: f64,
}

impl Default for Rate {
    fn default() -> Self {
        // Guess: a page of a thousand devices and Home Assistant together stay far below; to be measured with both.
        Self {
            per_second: 50.0,
            burst: 200.0,
        }
    }
}

/// How many askers are remembered; the ones that asked least recently are forgotten first.
const N_REMEMBERED: usize = 4096;

/// Buckets that fill with time and are emptied by requests.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    rate: Rate,
    buckets: HashMap<K, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Duration,
}

impl<K: Eq + Hash + Copy> Buckets<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            rate,
            buckets: HashMap::new(),
        }
    }

    /// Takes one; else the time until there is one.
    pub(crate) fn take(&mut self, key: K, now: Duration) -> Result<(), Duration> {
        let Rate { per_second, burst } = self.rate;
        if self.buckets.len() >= N_REMEMBERED && !self.buckets.contains_key(&key) {
            self.forget(now);
        }
        let bucket = self.buckets.entry(key).or_insert(Bucket {
            tokens: burst,
            at: now,
        });
        let since = now.saturating_sub(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + since * per_second).min(burst);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - bucket.tokens) / per_second));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }

    fn forget(&mut self, now: Duration) {
        let full_after = Duration::from_secs_f64(self.rate.burst / self.rate.per_second);
        self.buckets
            .retain(|_, bucket| now.saturating_sub(bucket.at) < full_after);
        if self.buckets.len() >= N_REMEMBERED {
            drop_oldest(&mut self.buckets, |bucket| bucket.at);
        }
    }
}

fn drop_oldest<K: Eq + Hash + Copy, V>(map: &mut HashMap<K, V>, at: impl Fn(&V) -> Duration) {
    let oldest = map.iter().min_by_key(|(_, value)| at(value)).map(|(key, _)| *key);
    if let Some(oldest) = oldest {
        map.remove(&oldest);
    }
}

/// Failed tries of one address before it is slowed down (RELIABILITY.md T31).
const N_FREE_TRIES: u32 = 5;
/// After so long without a failed one, an address starts afresh. Guess.
const TRIES_FORGOTTEN_AFTER: Duration = Duration::from_mins(15);
/// How many good pairs of token and address are remembered.
const N_GOOD: usize = 256;

/// Who was wrong about his token, and how often.
#[derive(Debug)]
pub(crate) struct Tries {
    /// How often a try is looked at once too many were wrong.
    every: Duration,
    failed: HashMap<IpAddr, Failed>,
    /// Pairs that were right before: somebody who guesses beside them must not lock them out.
    good: Vec<([u8; 32], IpAddr)>,
}

#[derive(Clone, Copy, Debug)]
struct Failed {
    n_failed: u32,
    at: Duration,
}

impl Tries {
    pub(crate) fn new(every: Duration) -> Self {
        Self {
            every,
            failed: HashMap::new(),
            good: Vec::new(),
        }
    }

    /// Whether a try may be looked at; else the time until one may.
    pub(crate) fn may_try(&mut self, hash: &[u8; 32], from: IpAddr, now: Duration) -> Result<(), Duration> {
        let from = household(from);
        let Some(failed) = self.failed.get_mut(&from) else {
            return Ok(());
        };
        let since = now.saturating_sub(failed.at);
        if since >= TRIES_FORGOTTEN_AFTER {
            self.failed.remove(&from);
            return Ok(());
        }
        if failed.n_failed < N_FREE_TRIES || since >= self.every || self.is_good(hash, from) {
            return Ok(());
        }
        Err(self.every.saturating_sub(since))
    }

    fn is_good(&self, hash: &[u8; 32], from: IpAddr) -> bool {
        // All are compared, each in full.
        let good = self.good.iter().fold(Choice::from(0), |good, (known, address)| {
            good | (known.ct_eq(hash) & Choice::from(u8::from(*address == from)))
        });
        bool::from(good)
    }

    /// That try was wrong.
    pub(crate) fn was_wrong(&mut self, hash: &[u8; 32], from: IpAddr, now: Duration) {
        let from = household(from);
        self.good
            .retain(|(known, address)| *address != from || !bool::from(known.ct_eq(hash)));
        if self.failed.len() >= N_REMEMBERED && !self.failed.contains_key(&from) {
            self.failed
                .retain(|_, failed| now.saturating_sub(failed.at) < TRIES_FORGOTTEN_AFTER);
            if self.failed.len() >= N_REMEMBERED {
                drop_oldest(&mut self.failed, |failed| failed.at);
            }
        }
        let failed = self.failed.entry(from).or_insert(Failed { n_failed: 0, at: now });
        failed.n_failed = failed.n_failed.saturating_add(1);
        failed.at = now;
    }

    /// That try was right.
    pub(crate) fn was_right(&mut self, hash: &[u8; 32], from: IpAddr) {
        let from = household(from);
        if self.is_good(hash, from) {
            return;
        }
        if self.good.len() >= N_GOOD {
            self.good.remove(0);
        }
        self.good.push((*hash, from));
    }
}

/// The address, or for IPv6 its /64: one household has all of it.
pub(crate) fn household(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RELIABILITY.md T31.
    const TRY_EVERY: Duration = Duration::from_secs(1);
    const ATTACKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn guess(n: u32) -> [u8; 32] {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&n.to_be_bytes());
        hash
    }

    #[test]
    fn of_a_hundred_thousand_guesses_five_and_one_a_second_are_looked_at() {
        let mut tries = Tries::new(TRY_EVERY);
        let mut n_looked_at = 0;
        for n in 0..100_000 {
            // 1,000 a second for 100 seconds
            let now = Duration::from_millis(u64::from(n));
            if tries.may_try(&guess(n), ATTACKER, now).is_ok() {
                n_looked_at += 1;
                tries.was_wrong(&guess(n), ATTACKER, now);
            }
        }
        assert!((5..=5 + 100).contains(&n_looked_at), "{n_looked_at}");
    }

    #[test]
    fn an_address_that_was_wrong_too_often_waits_as_long_as_it_is_told() {
        let mut tries = Tries::new(Duration::from_secs(20));
        let start = Duration::from_secs(100);
        for n in 0..5 {
            tries.may_try(&guess(n), ATTACKER, start).unwrap();
            tries.was_wrong(&guess(n), ATTACKER, start);
        }
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(
            tries.may_try(&guess(9), ATTACKER, after(19)),
            Err(Duration::from_secs(1))
        );
        tries.may_try(&guess(9), ATTACKER, after(20)).unwrap();
        tries.was_wrong(&guess(9), ATTACKER, after(20));
        assert_eq!(
            tries.may_try(&guess(9), ATTACKER, after(21)),
            Err(Duration::from_secs(19))
        );
    }

    #[test]
    fn a_guesser_locks_out_neither_other_addresses_nor_a_token_that_was_good_there() {
        let mut tries = Tries::new(TRY_EVERY);
        let now = Duration::from_secs(10);
        tries.was_right(&guess(7), ATTACKER);
        for n in 100..110 {
            tries.was_wrong(&guess(n), ATTACKER, now);
        }
        assert!(tries.may_try(&guess(1), OTHER, now).is_ok());
        assert!(tries.may_try(&guess(7), ATTACKER, now).is_ok());
        assert!(tries.may_try(&guess(8), ATTACKER, now).is_err());
        tries.was_wrong(&guess(7), ATTACKER, now);
        assert!(
            tries.may_try(&guess(7), ATTACKER, now).is_err(),
            "a revoked one is good no longer"
        );
    }

    #[test]
    fn a_household_of_ipv6_is_one_guesser() {
        let mut tries = Tries::new(TRY_EVERY);
        let now = Duration::from_secs(10);
        for n in 0_u16..5 {
            let address = IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, n]);
            tries.was_wrong(&guess(u32::from(n)), address, now);
        }
        let next = IpAddr::from([0x2001, 0xdb8, 0, 1, 9, 9, 9, 9]);
        assert!(tries.may_try(&guess(9), next, now).is_err());
    }

    #[test]
    fn a_burst_is_free_and_then_the_rate_holds() {
        let mut buckets = Buckets::new(Rate {
            per_second: 50.0,
            burst: 200.0,
        });
        let n_taken = |buckets: &mut Buckets<u8>, key, n: u32, now| {
            (0..n).filter(|_| buckets.take(key, now).is_ok()).count()
        };
        let start = Duration::from_secs(5);
        assert_eq!(n_taken(&mut buckets, 1, 1000, start), 200);
        assert_eq!(
            n_taken(&mut buckets, 2, 10, start),
            10,
            "another one's bucket is full"
        );
        assert_eq!(n_taken(&mut buckets, 1, 1000, start + Duration::from_secs(1)), 50);
        assert_eq!(buckets.take(1, start), Err(Duration::from_millis(20)));
    }

    #[test]
    fn memory_is_bounded_by_forgetting_the_oldest() {
        let mut buckets = Buckets::new(Rate::default());
        let mut tries = Tries::new(TRY_EVERY);
        for n in 0..20_000_u32 {
            let now = Duration::from_millis(u64::from(n) / 10);
            buckets.take(n, now).unwrap();
            tries.was_wrong(&guess(n), IpAddr::from(n.to_be_bytes()), now);
            tries.was_right(&guess(n), IpAddr::from(n.to_be_bytes()));
        }
        assert!(buckets.buckets.len() <= N_REMEMBERED);
        assert!(tries.failed.len() <= N_REMEMBERED);
        assert!(tries.good.len() <= N_GOOD);
    }
}
