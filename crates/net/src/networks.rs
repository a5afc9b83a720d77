use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The addresses that may be reached.
///
/// An address that names no single host (multicast, broadcast, unspecified) is never among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// The addresses of these networks.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().collect())
    }

    /// This one address.
    pub fn only(address: IpAddr) -> Self {
        Self(vec![IpNet::from(address.to_canonical())])
    }

    /// The private networks: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 (RFC 1918) and `fc00::/7` (RFC 4193).
    pub fn private() -> Self {
        Self(vec![
            Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8).into(),
            Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12).into(),
            Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16).into(),
            Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7).into(),
        ])
    }

    /// Whether this address may be reached; an IPv4 address written as IPv6 (`::ffff:10.0.0.7`) is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        names_one_host(address) && self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether one of these networks holds all of that one.
    pub fn holds(&self, network: &IpNet) -> bool {
        self.0.iter().any(|ours| ours.contains(network))
    }
}

/// Connecting to 0.0.0.0 reaches this very host, so "unspecified" is a way around a rule against loopback.
fn names_one_host(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(networks: &Networks, address: &str, expected: bool) {
        assert_eq!(networks.contains(address.parse().unwrap()), expected, "{address}");
    }

    #[test]
    fn private_networks_hold_home_addresses_and_nothing_else() {
        let private = Networks::private();
        for address in [
            "10.0.0.7",
            "172.16.0.1",
            "172.31.255.254",
            "192.168.1.20",
            "fd12::1",
            "::ffff:10.0.0.7",
        ] {
            check(&private, address, true);
        }
        for address in [
            "127.0.0.1",
            "169.254.169.254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "0.0.0.0",
            "::",
            "::1",
            "::ffff:0.0.0.0",
            "::127.0.0.1",
            "::10.0.0.7",
            "172.15.255.255",
            "172.32.0.1",
            "192.167.1.1",
            "8.8.8.8",
            "224.0.0.251",
            "255.255.255.255",
            "fe80::1",
            "ff02::fb",
            "2001:db8::1",
        ] {
            check(&private, address, false);
        }
    }

    #[test]
    fn everything_still_leaves_out_what_names_no_single_host() {
        let everything = Networks::new(["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]);
        for address in [
            "0.0.0.0",
            "::",
            "::ffff:0.0.0.0",
            "255.255.255.255",
            "::ffff:255.255.255.255",
            "224.0.0.251",
            "ff02::fb",
        ] {
            check(&everything, address, false);
        }
        check(&everything, "8.8.8.8", true);
    }

    #[test]
    fn a_network_is_held_whole_or_not_at_all() {
        let private = Networks::private();
        for (network, expected) in [
            ("10.0.0.0/8", true),
            ("192.168.1.0/24", true),
            ("fd12::/64", true),
            ("10.0.0.0/7", false),
            ("0.0.0.0/0", false),
            ("127.0.0.0/24", false),
            ("::ffff:10.0.0.0/104", false),
        ] {
            assert_eq!(private.holds(&network.parse().unwrap()), expected, "{network}");
        }
    }

    #[test]
    fn one_address_is_that_one_in_both_spellings() {
        let only = Networks::only("::ffff:192.168.1.20".parse().unwrap());
        check(&only, "192.168.1.20", true);
        check(&only, "::ffff:192.168.1.20", true);
        check(&only, "192.168.1.21", false);
        check(&Networks::only("0.0.0.0".parse().unwrap()), "0.0.0.0", false);
        check(
            &Networks::only("224.0.0.251".parse().unwrap()),
            "224.0.0.251",
            false,
        );
    }
}
