use std::collections::HashSet;
use std::net::IpAddr;

use net::{Interface, IpNet};

use crate::range;

/// This machine's place in the networks.
pub(crate) struct Here {
    /// Its own addresses, and those that reach a whole network.
    ours: HashSet<IpAddr>,
    /// The networks on its own links; none if it does not know them.
    links: Option<Vec<IpNet>>,
}

impl Here {
    pub(crate) fn look() -> Self {
        match net::interfaces() {
            Ok(interfaces) => Self::of(&interfaces),
            Err(error) => {
                tracing::warn!(%error, "own addresses are not known, and so may be asked");
                Self {
                    ours: HashSet::new(),
                    links: None,
                }
            }
        }
    }

    fn of(interfaces: &[Interface]) -> Self {
        let outward = || {
            interfaces
                .iter()
                .filter(|interface| !interface.address.is_loopback())
        };
        Self {
            ours: outward()
                .flat_map(|interface| [Some(interface.address), interface.broadcast])
                .flatten()
                .collect(),
            links: Some(outward().map(|interface| interface.network).collect()),
        }
    }

    pub(crate) fn is_ours(&self, address: IpAddr) -> bool {
        self.ours.contains(&address.to_canonical())
    }

    /// Whether asking it takes an entry of the table of neighbours.
    pub(crate) fn is_new(&self, address: IpAddr) -> bool {
        match &self.links {
            _ if address.is_loopback() => false,
            None => true,
            Some(links) => links.iter().any(|link| link.contains(&address)),
        }
    }

    pub(crate) fn n_new(&self, ranges: &[IpNet]) -> u64 {
        let n_new = |range: &IpNet| match &self.links {
            _ if range.network().is_loopback() => 0,
            None => range::n_hosts(range),
            Some(links) => {
                let held = links.iter().any(|link| link.contains(range));
                let held_in_part: u64 = range::apart(links)
                    .iter()
                    .filter(|link| range.contains(*link))
                    .map(range::n_hosts)
                    .sum();
                if held { range::n_hosts(range) } else { held_in_part }
            }
        };
        ranges.iter().map(n_new).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(interfaces: &[(&str, Option<&str>)]) -> Here {
        let interfaces: Vec<Interface> = interfaces
            .iter()
            .map(|(text, broadcast)| {
                let network: IpNet = text.parse().unwrap();
                Interface {
                    address: network.addr(),
                    network: network.trunc(),
                    broadcast: broadcast.map(|address| address.parse().unwrap()),
                }
            })
            .collect();
        Here::of(&interfaces)
    }

    const HOME: [(&str, Option<&str>); 2] =
        [("127.0.0.1/8", None), ("192.168.1.5/24", Some("192.168.1.255"))];

    #[test]
    fn own_addresses_and_those_of_all_are_ours_but_loopback_is_not() {
        let here = here(&HOME);
        for (address, expected) in [
            ("192.168.1.5", true),
            ("::ffff:192.168.1.5", true),
            ("192.168.1.255", true),
            ("192.168.1.6", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(here.is_ours(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn only_addresses_on_a_link_of_ours_take_a_place_in_the_table() {
        let ranges = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.parse().unwrap())
                .collect::<Vec<IpNet>>()
        };
        for (of, n_new) in [
            (&["192.168.1.0/24"][..], 254),
            (&["192.168.1.64/26"], 62),
            (&["192.168.2.0/24"], 0),
            (&["192.168.0.0/16"], 254),
            (&["192.168.1.0/24", "127.0.0.0/16"], 254),
        ] {
            assert_eq!(here(&HOME).n_new(&ranges(of)), n_new, "{of:?}");
        }
        let unknown = Here {
            ours: HashSet::new(),
            links: None,
        };
        assert_eq!(unknown.n_new(&ranges(&["10.0.0.0/16", "127.0.0.0/16"])), 65_534);
        assert!(unknown.is_new([10, 0, 0, 1].into()) && !unknown.is_new([127, 0, 0, 1].into()));
    }
}
