use std::net::IpAddr;

use net::{IpNet, Networks};

/// Bits of an address that may vary within the largest range: a /16 of IPv4 (../shared/RELIABILITY.md T22).
const BITS_MAX: u8 = 16;
/// The same without `allow_large_scan`: a /22 of IPv4 (../shared/RELIABILITY.md T22).
const BITS_USUAL: u8 = 10;

/// Why a range is not scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Nobody may ask so many.
    #[error(
        "{range} has more than 65,536 addresses; name the networks that hold devices, at most a /16 each"
    )]
    TooLarge {
        /// The range.
        range: IpNet,
    },
    /// So many only if its owner says so.
    #[error(
        "{range} has more than 1,024 addresses; allow_large_scan: true lets it be scanned, which takes minutes"
    )]
    Large {
        /// The range.
        range: IpNet,
    },
    /// It is somebody else's network.
    #[error(
        "{range} is not a private network; only addresses of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 and fc00::/7 \
         are scanned"
    )]
    NotPrivate {
        /// The range.
        range: IpNet,
    },
}

/// Whether this range of a private network may be scanned.
pub fn check_range(range: IpNet, allow_large: bool) -> Result<(), RangeError> {
    check_range_within(range, allow_large, &Networks::private())
}

/// Whether this range may be scanned where these networks may be reached.
pub fn check_range_within(range: IpNet, allow_large: bool, allowed: &Networks) -> Result<(), RangeError> {
    if is_too_large(&range) {
        Err(RangeError::TooLarge { range })
    } else if !allowed.holds(&range) {
        Err(RangeError::NotPrivate { range })
    } else if host_bits(&range) > BITS_USUAL && !allow_large {
        Err(RangeError::Large { range })
    } else {
        Ok(())
    }
}

/// Whether it is never scanned, whoever asks.
pub(crate) fn is_too_large(range: &IpNet) -> bool {
    host_bits(range) > BITS_MAX
}

/// How many addresses of hosts it has: without those of the network and of all its hosts, in IPv4.
pub(crate) fn n_hosts(range: &IpNet) -> u64 {
    let n_addresses = 1_u64.checked_shl(host_bits(range).into()).unwrap_or(u64::MAX);
    match range {
        IpNet::V4(v4) if v4.prefix_len() < 31 => n_addresses - 2,
        _ => n_addresses,
    }
}

/// The addresses of its hosts, in order.
pub(crate) fn hosts(range: &IpNet) -> impl Iterator<Item = IpAddr> + use<> {
    range.hosts()
}

/// The ranges without those that others hold: no address is in two of them.
pub(crate) fn apart(ranges: &[IpNet]) -> Vec<IpNet> {
    let mut apart: Vec<IpNet> = ranges.iter().map(IpNet::trunc).collect();
    apart.sort_unstable();
    apart.dedup();
    let all = apart.clone();
    apart.retain(|range| !all.iter().any(|other| other != range && other.contains(range)));
    apart
}

fn host_bits(range: &IpNet) -> u8 {
    range.max_prefix_len() - range.prefix_len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(range: &str, allow_large: bool, expected: Result<(), RangeError>) {
        assert_eq!(check_range(net(range), allow_large), expected, "{range}");
    }

    #[test]
    fn a_home_network_may_be_scanned() {
        for range in [
            "192.168.1.0/24",
            "192.168.1.7/32",
            "10.0.4.0/22",
            "172.16.0.0/30",
            "fd12::/118",
        ] {
            check(range, false, Ok(()));
            check(range, true, Ok(()));
        }
    }

    #[test]
    fn a_large_one_needs_its_owners_word() {
        for text in ["192.168.0.0/21", "10.0.0.0/16", "fd12::/117", "fd12::/112"] {
            let range = net(text);
            check(text, false, Err(RangeError::Large { range }));
            check(text, true, Ok(()));
        }
    }

    #[test]
    fn a_huge_one_is_refused_whatever_is_said() {
        for text in [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "172.16.0.0/15",
            "::/0",
            "fd12::/64",
            "fd12::/111",
        ] {
            let range = net(text);
            check(text, false, Err(RangeError::TooLarge { range }));
            check(text, true, Err(RangeError::TooLarge { range }));
        }
    }

    #[test]
    fn somebody_elses_network_is_refused() {
        for text in [
            "8.8.8.0/24",
            "127.0.0.0/24",
            "169.254.169.254/32",
            "224.0.0.0/24",
            "0.0.0.0/32",
            "192.167.255.0/24",
            "::1/128",
            "fe80::/120",
            "::ffff:10.0.0.0/120",
        ] {
            let range = net(text);
            check(text, true, Err(RangeError::NotPrivate { range }));
        }
    }

    #[test]
    fn loopback_may_be_scanned_where_it_may_be_reached() {
        let loopback = Networks::new([net("127.0.0.0/8")]);
        assert_eq!(check_range_within(net("127.0.1.0/24"), false, &loopback), Ok(()));
        let private = net("192.168.1.0/24");
        assert_eq!(
            check_range_within(private, false, &loopback),
            Err(RangeError::NotPrivate { range: private })
        );
    }

    #[test]
    fn an_error_says_what_to_do() {
        let text = check_range(net("10.0.0.0/20"), false).unwrap_err().to_string();
        assert!(
            text.contains("10.0.0.0/20") && text.contains("allow_large_scan: true"),
            "{text}"
        );
    }

    #[test]
    fn the_addresses_of_the_network_and_of_all_are_no_hosts() {
        for (range, n, first, last) in [
            ("192.168.1.0/24", 254, "192.168.1.1", "192.168.1.254"),
            ("192.168.1.9/32", 1, "192.168.1.9", "192.168.1.9"),
            ("192.168.1.8/31", 2, "192.168.1.8", "192.168.1.9"),
            ("10.1.0.0/16", 65_534, "10.1.0.1", "10.1.255.254"),
        ] {
            let range = net(range);
            let all: Vec<IpAddr> = hosts(&range).collect();
            assert_eq!((n_hosts(&range), all.len()), (n, usize::try_from(n).unwrap()));
            assert_eq!(all[0], first.parse::<IpAddr>().unwrap());
            assert_eq!(all[all.len() - 1], last.parse::<IpAddr>().unwrap());
        }
    }

    #[test]
    fn no_address_is_in_two_ranges() {
        let ranges = [
            "192.168.1.7/24",
            "192.168.0.0/24",
            "192.168.1.0/24",
            "192.168.1.64/26",
            "10.0.0.0/30",
        ];
        assert_eq!(
            apart(&ranges.map(net)),
            ["10.0.0.0/30", "192.168.0.0/24", "192.168.1.0/24"].map(net)
        );
    }
}
