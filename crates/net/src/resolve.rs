use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use mdns_sd::{HostnameResolutionEvent, ServiceDaemon};
use tokio::time::Instant;

use crate::multicast::{Multicast, MulticastDns, MulticastError};

/// How long the system may take. Guess: the default of resolv.conf(5) is 5 s for one attempt.
const SYSTEM_WAIT: Duration = Duration::from_secs(5);

/// How long multicast DNS may take. Guess: two queries, a second apart, and the answer to the last.
const MDNS_WAIT: Duration = Duration::from_secs(3);

/// How long to wait for an IPv4 address once an IPv6 one is known: they may come in answers of their own.
/// Guess: the answers of one device are at most 120 ms apart (RFC 6762 section 6).
const IPV4_WAIT: Duration = Duration::from_millis(500);

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Nobody knows it.
    #[error("the name {host} is not known; check its spelling, or give the device's address instead")]
    Unknown {
        /// The name.
        host: String,
        /// What the system said, where it was the one asked.
        source: Option<io::Error>,
    },
    /// No device on this network calls itself so.
    #[error(
        "no device on this network answers to {host}; check that it is on and on the same network, \
         or give its address instead"
    )]
    NoDevice {
        /// The name.
        host: String,
    },
    /// The system's resolver did not answer.
    #[error(
        "looking up {host} took longer than 5 s; check the DNS server, or give the device's address instead"
    )]
    TimedOut {
        /// The name.
        host: String,
    },
    /// Multicast DNS cannot be used on this machine.
    #[error("looking up {host} by multicast DNS; give the device's address instead")]
    Mdns {
        /// The name.
        host: String,
        /// What went wrong.
        source: MulticastError,
    },
}

/// The addresses of a host, IPv4 first; at least one.
///
/// A literal address is itself. Else the system is asked, and for a name under `.local` that it does not know,
/// multicast DNS. Takes up to 8 s. Whether the addresses may be reached is the dialer's question.
pub async fn resolve(host: &str) -> Result<Vec<IpAddr>, ResolveError> {
    let host = host.trim();
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(vec![address.to_canonical()]);
    }
    let local = host
        .trim_end_matches('.')
        .to_ascii_lowercase()
        .ends_with(".local");
    match ask_system(host).await {
        Err(_) if local => ask_mdns(host).await,
        result => result,
    }
}

async fn ask_system(host: &str) -> Result<Vec<IpAddr>, ResolveError> {
    let unknown = |source| ResolveError::Unknown {
        host: host.to_owned(),
        source,
    };
    let found = tokio::time::timeout(SYSTEM_WAIT, tokio::net::lookup_host((host, 0)))
        .await
        .map_err(|_| ResolveError::TimedOut {
            host: host.to_owned(),
        })?
        .map_err(|source| unknown(Some(source)))?;
    let addresses = in_order(found.map(|addr| addr.ip()));
    if addresses.is_empty() {
        Err(unknown(None))
    } else {
        Ok(addresses)
    }
}

async fn ask_mdns(host: &str) -> Result<Vec<IpAddr>, ResolveError> {
    let failed = |source| ResolveError::Mdns {
        host: host.to_owned(),
        source,
    };
    let multicast = MulticastDns::open(&Multicast::default()).map_err(failed)?;
    let addresses = ask_daemon(multicast.daemon(), host)
        .await
        .map_err(|error| failed(MulticastError::Start(Box::new(error))))?;
    if addresses.is_empty() {
        return Err(ResolveError::NoDevice {
            host: host.to_owned(),
        });
    }
    Ok(addresses)
}

/// Empty if nobody answers.
async fn ask_daemon(daemon: &ServiceDaemon, host: &str) -> Result<Vec<IpAddr>, mdns_sd::Error> {
    let full_name = format!("{}.", host.trim_end_matches('.'));
    let wait_ms = u64::try_from(MDNS_WAIT.as_millis()).unwrap_or(u64::MAX);
    let events = daemon.resolve_hostname(&full_name, Some(wait_ms))?;
    let mut found = BTreeSet::new();
    let mut until = Instant::now() + MDNS_WAIT;
    while let Ok(Ok(event)) = tokio::time::timeout_at(until, events.recv_async()).await {
        match event {
            HostnameResolutionEvent::AddressesFound(_, addresses) => {
                found.extend(in_order(addresses.iter().map(mdns_sd::ScopedIp::to_ip_addr)));
                if found.iter().any(IpAddr::is_ipv4) {
                    break;
                }
                if !found.is_empty() {
                    until = until.min(Instant::now() + IPV4_WAIT);
                }
            }
            HostnameResolutionEvent::SearchTimeout(_) | HostnameResolutionEvent::SearchStopped(_) => break,
            _ => {}
        }
    }
    Ok(found.into_iter().collect())
}

/// IPv4 first, each once, without link-local IPv6, which is of no use without its link.
fn in_order(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    // `IpAddr` sorts IPv4 before IPv6.
    addresses
        .map(|address| address.to_canonical())
        .filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_literal_address_is_itself() {
        for (host, expected) in [
            ("192.168.1.20", "192.168.1.20"),
            ("fd12::1", "fd12::1"),
            ("[fd12::1]", "fd12::1"),
            ("::ffff:10.0.0.7", "10.0.0.7"),
        ] {
            assert_eq!(
                resolve(host).await.unwrap(),
                [expected.parse::<IpAddr>().unwrap()]
            );
        }
    }

    #[test]
    fn ipv4_comes_first_and_link_local_ipv6_not_at_all() {
        let found = ["fe80::1", "fd12::1", "10.0.0.7", "::ffff:10.0.0.7"].map(|text| text.parse().unwrap());
        let expected: [IpAddr; 2] = ["10.0.0.7", "fd12::1"].map(|text| text.parse().unwrap());
        assert_eq!(in_order(found.into_iter()), expected);
    }

    #[test]
    fn an_unknown_name_says_what_to_do() {
        let error = ResolveError::NoDevice {
            host: "IR-Remote-Mini.local".to_owned(),
        };
        assert!(error.to_string().contains("give its address instead"), "{error}");
    }
}
