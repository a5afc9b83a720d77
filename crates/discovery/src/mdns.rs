//! Listens to what hosts announce by multicast DNS.

use std::collections::{BTreeSet, HashSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, select_all};
use mdns_sd::{DaemonEvent, HostnameResolutionEvent, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent};
use model::sighting::{Lookout, Sighting};
use net::{Dialer, Multicast, MulticastDns, MulticastError};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, interval_at};

/// Hosts of one name call themselves `-2` to this (../shared/DESIGN.md, what is settled).
const N_OF_A_NAME: u32 = 9;
/// How often everything is asked for anew: the questions of one round come at 0, 1, 3, 7 … s, ever more rarely.
/// Guess: as often as a network is scanned (../shared/MISSION.md D7).
const ROUND: Duration = Duration::from_mins(5);
/// How long after a new address of this machine it is asked there. Guess: several addresses come together.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// How often the memory is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Most records that are kept in mind: eight (two services, addresses, texts) for each of 1,000 devices
/// (../shared/RELIABILITY.md T7).
const N_RECORDS_MAX: i64 = 8_000;
/// Most addresses that one announcement is believed. Guess: a host has few.
const N_ADDRESSES_MAX: usize = 8;

/// Why multicast DNS is not listened to any more.
#[derive(Debug, thiserror::Error)]
pub enum MdnsError {
    /// It cannot be spoken on this machine.
    #[error(transparent)]
    Multicast(#[from] MulticastError),
    /// It could not be asked.
    #[error("asking for {what} by multicast DNS")]
    Ask {
        /// The service or host.
        what: String,
        /// What went wrong.
        source: Box<mdns_sd::Error>,
    },
    /// Somebody announces more than any home has; all of it is forgotten.
    #[error("{n_records} records were announced by multicast DNS, more than a home has; all are forgotten")]
    Flooded {
        /// How many there were.
        n_records: i64,
    },
    /// Its thread has ended, or announcements came faster than they were taken.
    #[error("multicast DNS ended")]
    Ended,
    /// Nobody wants to know any more.
    #[error("nobody listens to what multicast DNS tells")]
    NobodyListens,
}

/// Browses the services and asks for the hosts of these lookouts, and hands on where they are said to be.
///
/// Runs until it fails; a broken network is no failure, as interfaces that come and go are noticed.
/// Addresses that may not be reached, and this machine's own, are dropped. Dropping the future ends its thread.
pub async fn mdns(
    lookouts: &[Lookout],
    multicast: &Multicast,
    allowed: &Dialer,
    out: &mpsc::Sender<Sighting>,
) -> MdnsError {
    match listen(lookouts, multicast, allowed, out).await {
        Err(error) => error,
    }
}

async fn listen(
    lookouts: &[Lookout],
    multicast: &Multicast,
    allowed: &Dialer,
    out: &mpsc::Sender<Sighting>,
) -> Result<Infallible, MdnsError> {
    let dns = MulticastDns::open(multicast)?;
    let names = Names::of(lookouts);
    let changes = dns.daemon().monitor().map_err(|source| MdnsError::Ask {
        what: "its interfaces".to_owned(),
        source: Box::new(source),
    })?;
    let mut round = interval(ROUND);
    let mut look = interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
    let mut told = select_all(Vec::new());
    loop {
        // Each arm is safe to drop: two timers, two channels, and a stream of channels.
        tokio::select! {
            _ = round.tick() => told = select_all(names.ask(dns.daemon())?),
            _ = look.tick() => {
                let n_records = n_records(dns.daemon()).await.ok_or(MdnsError::Ended)?;
                if n_records > N_RECORDS_MAX {
                    return Err(MdnsError::Flooded { n_records });
                }
            }
            change = changes.recv_async() => {
                // Whoever is behind a new interface was not asked, and may not be for minutes.
                if let DaemonEvent::IpAdd(_) = change.map_err(|_| MdnsError::Ended)? {
                    round.reset_after(ASK_AFTER);
                }
            }
            () = out.closed() => return Err(MdnsError::NobodyListens),
            event = told.next(), if !told.is_empty() => {
                for sighting in sightings(event.flatten().ok_or(MdnsError::Ended)?, allowed) {
                    out.send(sighting).await.map_err(|_| MdnsError::NobodyListens)?;
                }
            }
        }
    }
}

/// What is asked for; each once.
struct Names {
    /// As `_arduino._tcp.local.`.
    services: BTreeSet<String>,
    /// As `IR-Remote-Mini.local.`.
    hosts: BTreeSet<String>,
}

/// What multicast DNS tells.
enum Told {
    Service(Box<ResolvedService>),
    Host(String, HashSet<ScopedIp>),
    /// Of no use here.
    Other,
}

impl Names {
    fn of(lookouts: &[Lookout]) -> Self {
        let (mut services, mut hosts) = (BTreeSet::new(), BTreeSet::new());
        for lookout in lookouts {
            match lookout {
                Lookout::Mdns { service } => {
                    services.insert(format!("{service}.local."));
                }
                Lookout::Host { name } => {
                    let name = name.trim_end_matches('.').trim_end_matches(".local");
                    hosts.insert(format!("{name}.local."));
                    hosts.extend((2..=N_OF_A_NAME).map(|number| format!("{name}-{number}.local.")));
                }
                Lookout::Http { .. } | Lookout::Mqtt { .. } | Lookout::Modbus { .. } => {}
            }
        }
        Self { services, hosts }
    }

    /// Asks for all; the streams of the last time end. A stream that ends by itself gives none as its last.
    fn ask(&self, daemon: &ServiceDaemon) -> Result<Vec<BoxStream<'static, Option<Told>>>, MdnsError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| MdnsError::Ask {
                what,
                source: Box::new(source),
            }
        };
        let mut streams = Vec::new();
        for service in &self.services {
            let events = daemon.browse(service).map_err(failed(service))?;
            let told = events.into_stream().map(|event| {
                Some(match event {
                    ServiceEvent::ServiceResolved(service) => Told::Service(service),
                    _ => Told::Other,
                })
            });
            streams.push(told.chain(ended()).boxed());
        }
        for host in &self.hosts {
            let events = daemon.resolve_hostname(host, None).map_err(failed(host))?;
            let host = host.trim_end_matches('.').to_owned();
            let told = events.into_stream().map(move |event| {
                Some(match event {
                    HostnameResolutionEvent::AddressesFound(_, addresses) => {
                        Told::Host(host.clone(), addresses)
                    }
                    _ => Told::Other,
                })
            });
            streams.push(told.chain(ended()).boxed());
        }
        Ok(streams)
    }
}

fn ended() -> futures_util::stream::Once<std::future::Ready<Option<Told>>> {
    futures_util::stream::once(std::future::ready(None))
}

/// Records in its memory; none if its thread is gone.
async fn n_records(daemon: &ServiceDaemon) -> Option<i64> {
    let metrics = match daemon.get_metrics() {
        Ok(metrics) => metrics.recv_async().await.ok()?,
        // Busy with what it was told before: it is asked again.
        Err(mdns_sd::Error::Again) => return Some(0),
        Err(_) => return None,
    };
    Some(
        metrics
            .iter()
            .filter(|(name, _)| name.starts_with("cached-"))
            .map(|(_, number)| number)
            .sum(),
    )
}

fn sightings(told: Told, allowed: &Dialer) -> Vec<Sighting> {
    match told {
        Told::Service(service) => {
            let instance = service
                .fullname
                .strip_suffix(service.ty_domain.as_str())
                .unwrap_or(&service.fullname)
                .trim_end_matches('.');
            let name = service.ty_domain.trim_end_matches('.').trim_end_matches(".local");
            let sighting = |address| Sighting::Mdns {
                service: name.to_owned(),
                instance: instance.to_owned(),
                address,
                port: service.port,
            };
            reachable(&service.addresses, allowed)
                .into_iter()
                .map(sighting)
                .collect()
        }
        Told::Host(name, addresses) => reachable(&addresses, allowed)
            .into_iter()
            .map(|address| Sighting::Host {
                name: name.clone(),
                address,
            })
            .collect(),
        Told::Other => Vec::new(),
    }
}

/// The addresses that may be reached, IPv4 first.
fn reachable(addresses: &HashSet<ScopedIp>, allowed: &Dialer) -> BTreeSet<IpAddr> {
    if addresses.is_empty() {
        return BTreeSet::new();
    }
    let here = crate::here::Here::look();
    addresses
        .iter()
        .map(|address| address.to_ip_addr().to_canonical())
        .filter(|address| allowed.allows(*address) && !here.is_ours(*address))
        .collect::<BTreeSet<IpAddr>>()
        .into_iter()
        .take(N_ADDRESSES_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_one_name_are_asked_for_up_to_the_ninth() {
        let names = Names::of(&[
            Lookout::Host {
                name: "IR-Remote-Mini.local",
            },
            Lookout::Mdns {
                service: "_arduino._tcp",
            },
            Lookout::Mdns {
                service: "_arduino._tcp",
            },
            Lookout::Http { port: 80, path: "/" },
        ]);
        assert_eq!(
            names.services.into_iter().collect::<Vec<_>>(),
            ["_arduino._tcp.local."]
        );
        let numbered = (2..=9).map(|number| format!("IR-Remote-Mini-{number}.local."));
        let expected: BTreeSet<String> = numbered.chain(["IR-Remote-Mini.local.".to_owned()]).collect();
        assert_eq!(names.hosts, expected);
    }

    #[test]
    fn addresses_that_may_not_be_reached_are_not_handed_on() {
        let home = Dialer::new(net::Networks::private(), None);
        let said: HashSet<ScopedIp> = [
            "192.168.250.7",
            "10.250.0.7",
            "127.0.0.1",
            "169.254.169.254",
            "8.8.8.8",
            "::1",
            "fe80::1",
            "::ffff:127.0.0.1",
        ]
        .map(|text| ScopedIp::from(text.parse::<IpAddr>().unwrap()))
        .into();
        let kept: Vec<IpAddr> = reachable(&said, &home).into_iter().collect();
        assert_eq!(
            kept,
            ["10.250.0.7", "192.168.250.7"].map(|text| text.parse::<IpAddr>().unwrap())
        );
    }

    #[test]
    fn one_announcement_is_believed_few_addresses() {
        let home = Dialer::new(net::Networks::private(), None);
        let said = (0..=255)
            .map(|last| ScopedIp::from(IpAddr::from([10, 250, 0, last])))
            .collect();
        assert_eq!(reachable(&said, &home).len(), N_ADDRESSES_MAX);
    }
}
