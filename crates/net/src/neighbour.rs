use std::io::Read as _;
use std::net::IpAddr;

/// The neighbour table of Linux, for IPv4.
const TABLE: &str = "/proc/net/arp";
/// How much of it is read, bytes: some 50,000 neighbours, more than any kernel keeps by default.
const TABLE_MAX_LEN: u64 = 4 * 1024 * 1024;
/// The entry holds an address that was answered (`ATF_COM`, Linux `if_arp.h`).
const COMPLETE: u32 = 0x02;
/// The entry is one that this machine answers for on behalf of another (`ATF_PUBL`, Linux `if_arp.h`).
const PUBLISHED: u32 = 0x08;

/// The MAC address of a host on our own link, as the system learnt it; none for a host behind a router, for IPv6, and
/// where the system has no such table (not Linux).
///
/// Ask right after something was received from the host: only then is the entry known to be there and fresh.
pub fn neighbour(address: IpAddr) -> Option<[u8; 6]> {
    in_table(&table()?, address)
}

/// The address of the host with this MAC address on our own link; none if nobody has it, or two addresses do.
///
/// The entry may be older than the host's last move: whoever answers there has to be asked who he is.
/// The system knows only hosts that this machine exchanged something with in the last minutes, as in a scan.
pub fn address_of(mac: [u8; 6]) -> Option<IpAddr> {
    address_in_table(&table()?, mac)
}

/// How many neighbours the system keeps in mind for IPv4; none where it does not tell, as in a container.
pub fn neighbours_max() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/neigh/default/gc_thresh3").ok()?;
    text.trim().parse().ok()
}

/// How often the system could not take in one more neighbour, since it started: what was to be sent then is lost, and
/// nobody was told. None where the system does not say, as in a container.
pub fn neighbours_lost() -> Option<u64> {
    n_lost(&std::fs::read_to_string("/proc/net/stat/arp_cache").ok()?)
}

/// The sum over all processors; the column is found by its name.
fn n_lost(table: &str) -> Option<u64> {
    let mut lines = table.lines();
    let column = lines
        .next()?
        .split_ascii_whitespace()
        .position(|name| name == "table_fulls")?;
    lines
        .map(|line| u64::from_str_radix(line.split_ascii_whitespace().nth(column)?, 16).ok())
        .sum()
}

fn table() -> Option<String> {
    let mut table = String::with_capacity(16 * 1024);
    std::fs::File::open(TABLE)
        .ok()?
        .take(TABLE_MAX_LEN)
        .read_to_string(&mut table)
        .ok()?;
    Some(table)
}

/// The one MAC address that the table has for this host; none if it has two.
fn in_table(table: &str, address: IpAddr) -> Option<[u8; 6]> {
    let address = address.to_canonical();
    the_only(known(table).filter(|(ip, _)| *ip == address).map(|(_, mac)| mac))
}

/// The one address that the table has for this card; none if it has two.
fn address_in_table(table: &str, mac: [u8; 6]) -> Option<IpAddr> {
    the_only(known(table).filter(|(_, of)| *of == mac).map(|(ip, _)| ip))
}

/// The entries that were answered.
fn known(table: &str) -> impl Iterator<Item = (IpAddr, [u8; 6])> {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (ip, _kind, flags, mac) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let flags = u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok()?;
        if flags & COMPLETE == 0 || flags & PUBLISHED != 0 {
            return None;
        }
        Some((ip.parse().ok()?, mac_of(mac)?))
    })
}

fn the_only<T: PartialEq>(mut found: impl Iterator<Item = T>) -> Option<T> {
    let first = found.next()?;
    found.all(|other| other == first).then_some(first)
}

/// A MAC address that names one card: not all zero, not a group address.
fn mac_of(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut octets = text.split(':');
    for octet in &mut mac {
        let is_octet = |text: &&str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let text = octets.next().filter(is_octet)?;
        *octet = u8::from_str_radix(text, 16).ok()?;
    }
    let names_one = mac != [0; 6] && mac[0] & 1 == 0;
    (names_one && octets.next().is_none()).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "IP address       HW type     Flags       HW address            Mask     Device\n";

    #[track_caller]
    fn check(lines: &str, address: &str, expected: Option<[u8; 6]>) {
        let table = format!("{HEAD}{lines}");
        assert_eq!(
            in_table(&table, address.parse().unwrap()),
            expected,
            "{address} in {lines:?}"
        );
    }

    const OURS: &str = "192.168.1.60     0x1         0x2         a0:b1:c2:d3:e4:f5     *        eth0\n";
    const MAC: [u8; 6] = [0xa0, 0xb1, 0xc2, 0xd3, 0xe4, 0xf5];

    #[test]
    fn a_neighbour_that_has_answered_is_known_by_its_mac() {
        check(OURS, "192.168.1.60", Some(MAC));
        check(OURS, "::ffff:192.168.1.60", Some(MAC));
    }

    #[test]
    fn another_address_is_not_taken_for_it() {
        check(OURS, "192.168.1.6", None);
        check(OURS, "192.168.1.61", None);
        check(OURS, "fe80::1", None);
        check("", "192.168.1.60", None);
    }

    #[test]
    fn an_entry_that_nobody_answered_tells_nothing() {
        let line = "192.168.1.60     0x1         0x0         00:00:00:00:00:00     *        eth0\n";
        check(line, "192.168.1.60", None);
        check(&OURS.replace("0x2 ", "0x0 "), "192.168.1.60", None);
        check(&OURS.replace("0x2 ", "0xa "), "192.168.1.60", None);
    }

    #[test]
    fn two_cards_for_one_address_are_none() {
        let other = OURS.replace("e4:f5", "e4:f6").replace("eth0", "wlan0");
        check(&format!("{OURS}{other}"), "192.168.1.60", None);
        check(&format!("{OURS}{OURS}"), "192.168.1.60", Some(MAC));
    }

    #[test]
    fn what_is_no_mac_of_one_card_is_none() {
        for mac in [
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
            "a0:b1:c2:d3:e4",
            "a0:b1:c2:d3:e4:f5:00",
            "a0:b1:c2:d3:e4:f",
            "+2:b1:c2:d3:e4:f5",
            "a0b1c2d3e4f5",
        ] {
            check(&OURS.replace("a0:b1:c2:d3:e4:f5", mac), "192.168.1.60", None);
        }
    }

    #[track_caller]
    fn check_address(lines: &str, expected: Option<&str>) {
        let table = format!("{HEAD}{lines}");
        let expected = expected.map(|address| address.parse().unwrap());
        assert_eq!(address_in_table(&table, MAC), expected, "{lines:?}");
    }

    #[test]
    fn a_card_is_found_at_its_one_address() {
        check_address(OURS, Some("192.168.1.60"));
        check_address(&OURS.replace("a0:b1", "A0:B1"), Some("192.168.1.60"));
        check_address(&OURS.replace("e4:f5", "e4:f6"), None);
        check_address(&OURS.replace("0x2 ", "0x0 "), None);
        check_address(&format!("{OURS}{}", OURS.replace(".60 ", ".61 ")), None);
        check_address("", None);
    }

    #[test]
    fn what_the_system_lost_is_added_up_over_its_processors() {
        let head = "entries  allocs   table_fulls\n";
        assert_eq!(
            n_lost(&format!(
                "{head}00000004 00000003 0000000a\n00000004 00000001 00000001\n"
            )),
            Some(11)
        );
        assert_eq!(n_lost("entries  allocs\n00000004 00000003\n"), None);
        assert_eq!(n_lost(&format!("{head}00000004 00000003\n")), None);
        assert_eq!(n_lost(""), None);
    }

    #[test]
    fn loopback_has_no_neighbour() {
        assert_eq!(neighbour([127, 0, 0, 1].into()), None);
    }
}
