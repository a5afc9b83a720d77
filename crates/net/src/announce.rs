//! Announcing a service of this machine by multicast DNS.

use std::net::IpAddr;

use mdns_sd::ServiceInfo;

use crate::multicast::{Multicast, MulticastDns, MulticastError};

/// Longest label of a DNS name, bytes (RFC 1035 section 2.3.4).
const LABEL_MAX_LEN: usize = 63;

/// A service of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its kind, as `_reflash._tcp`.
    pub kind: String,
    /// What people call it; cut where it is too long.
    pub name: String,
    /// What its machine is called below `.local`: letters, digits and `-`.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its address; none: all that this machine has, and those that come.
    pub address: Option<IpAddr>,
    /// What else is said of it.
    pub properties: Vec<(String, String)>,
}

/// What is announced until it is dropped; whoever has heard of it is told then.
pub struct Announced(#[expect(dead_code, reason = "its end is what it is for")] MulticastDns);

/// Announces a service.
pub fn announce(service: &Service, multicast: &Multicast) -> Result<Announced, MulticastError> {
    let failed = |error| MulticastError::Start(Box::new(error));
    let dns = MulticastDns::open(multicast)?;
    let kind = format!("{}.local.", service.kind);
    let host = format!("{}.local.", service.host);
    let name = cut(&service.name);
    let addresses: Vec<IpAddr> = service.address.into_iter().collect();
    let properties: Vec<(&str, &str)> = service
        .properties
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let info = ServiceInfo::new(
        &kind,
        name,
        &host,
        addresses.as_slice(),
        service.port,
        properties.as_slice(),
    );
    let mut info = info.map_err(failed)?;
    if service.address.is_none() {
        info = info.enable_addr_auto();
    }
    dns.daemon().register(info).map_err(failed)?;
    Ok(Announced(dns))
}

/// As much of a name as a label holds.
fn cut(name: &str) -> &str {
    let fits = (0..=name.len().min(LABEL_MAX_LEN)).rev();
    let end = fits.into_iter().find(|end| name.is_char_boundary(*end));
    &name[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};
    use std::time::Duration;

    use mdns_sd::ServiceEvent;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn a_name_is_cut_where_a_label_ends() {
        assert_eq!(cut("Reflash on shed"), "Reflash on shed");
        assert_eq!(cut(&"x".repeat(100)).len(), 63);
        let cut = cut(&"ü".repeat(40)).to_owned();
        assert_eq!((cut.len(), cut.chars().count()), (62, 31));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_announced_is_found_with_all_it_says_and_gone_when_it_is_dropped() {
        let free = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let multicast = Multicast {
            port,
            interface: Some("lo".to_owned()),
        };
        let service = Service {
            kind: "_reflash._tcp".to_owned(),
            name: "Reflash on shed".to_owned(),
            host: "reflash-0011".to_owned(),
            port: 8927,
            address: Some(Ipv4Addr::LOCALHOST.into()),
            properties: vec![
                ("id".to_owned(), "0011".to_owned()),
                ("tls".to_owned(), "1".to_owned()),
            ],
        };
        let announced = announce(&service, &multicast).unwrap();
        let browser = MulticastDns::open(&multicast).unwrap();
        let events = browser.daemon().browse("_reflash._tcp.local.").unwrap();
        let next = async || {
            tokio::time::timeout(SOON, events.recv_async())
                .await
                .unwrap()
                .unwrap()
        };
        let found = loop {
            if let ServiceEvent::ServiceResolved(found) = next().await {
                break found;
            }
        };
        assert_eq!(found.get_fullname(), "Reflash on shed._reflash._tcp.local.");
        assert_eq!(
            (found.get_hostname(), found.get_port()),
            ("reflash-0011.local.", 8927)
        );
        assert_eq!(found.get_property_val_str("id"), Some("0011"));
        assert_eq!(found.get_property_val_str("tls"), Some("1"));
        assert!(found.get_addresses_v4().contains(&Ipv4Addr::LOCALHOST));
        drop(announced);
        while !matches!(next().await, ServiceEvent::ServiceRemoved(..)) {}
    }
}
