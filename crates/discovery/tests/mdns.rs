//! What multicast DNS tells, on the loopback interface and a port of each test's own.
#![expect(
    clippy::disallowed_methods,
    reason = "those who announce in these tests are plain sockets"
)]
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use discovery::{MdnsError, mdns};
use mdns_sd::{IfKind, ServiceDaemon, ServiceInfo};
use model::sighting::{Lookout, Sighting};
use net::{Dialer, Multicast, Networks};
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;

use support::{SOON, loopback_dialer};

const ARDUINO: Lookout = Lookout::Mdns {
    service: "_arduino._tcp",
};
const HOST: Lookout = Lookout::Host {
    name: "IR-Remote-Mini.local",
};
/// Where multicast DNS is spoken (RFC 6762).
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

fn on_loopback() -> Multicast {
    let free = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    Multicast {
        port: free.local_addr().unwrap().port(),
        interface: Some("lo".to_owned()),
    }
}

/// A device that announces itself.
struct Announced(ServiceDaemon);

impl Announced {
    fn start(multicast: &Multicast, name: &str, service: &str, address: &str) -> Self {
        let daemon = ServiceDaemon::new_with_port(multicast.port).unwrap();
        daemon.disable_interface(IfKind::All).unwrap();
        daemon.enable_interface("lo").unwrap();
        let host = format!("{name}.local.");
        let info = ServiceInfo::new(&format!("{service}.local."), name, &host, address, 3232, None).unwrap();
        daemon.register(info).unwrap();
        Self(daemon)
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        if let Ok(ended) = self.0.shutdown() {
            let _ = ended.recv_timeout(SOON);
        }
    }
}

/// Sightings until this one, with it; or the error that came first.
async fn until(
    lookouts: &[Lookout],
    multicast: &Multicast,
    dialer: &Dialer,
    is_last: impl Fn(&Sighting) -> bool,
) -> Result<Vec<Sighting>, MdnsError> {
    let (out, mut sightings) = mpsc::channel(16);
    let listening = mdns(lookouts, multicast, dialer, &out);
    let collecting = async {
        let mut seen = Vec::new();
        while let Some(sighting) = sightings.recv().await {
            let is_last = is_last(&sighting);
            seen.push(sighting);
            if is_last {
                break;
            }
        }
        seen
    };
    tokio::select! {
        error = listening => Err(error),
        seen = collecting => Ok(seen),
        () = tokio::time::sleep(3 * SOON) => panic!("nothing was told"),
    }
}

fn at(last: u8) -> IpAddr {
    IpAddr::from([127, 83, 1, last])
}

#[tokio::test]
async fn an_announced_service_and_a_host_by_its_name_are_seen() {
    let multicast = on_loopback();
    let _device = Announced::start(&multicast, "IR-Remote-Mini", "_arduino._tcp", "127.83.1.7");
    let _second = Announced::start(&multicast, "IR-Remote-Mini-2", "_other._tcp", "127.83.1.8");
    let service = Sighting::Mdns {
        service: "_arduino._tcp".to_owned(),
        instance: "IR-Remote-Mini".to_owned(),
        address: at(7),
        port: 3232,
    };
    let dialer = loopback_dialer();
    let seen = until(&[ARDUINO], &multicast, &dialer, |_| true).await.unwrap();
    assert_eq!(seen, [service]);
    for (name, last) in [("IR-Remote-Mini.local", 7), ("IR-Remote-Mini-2.local", 8)] {
        let host = Sighting::Host {
            name: name.to_owned(),
            address: at(last),
        };
        let seen = until(&[HOST], &multicast, &dialer, |sighting| *sighting == host)
            .await
            .unwrap();
        assert!(
            seen.iter()
                .all(|sighting| matches!(sighting, Sighting::Host { .. })),
            "{seen:?}"
        );
    }
}

#[tokio::test]
async fn addresses_outside_the_networks_are_dropped() {
    // RELIABILITY.md T7.
    let multicast = on_loopback();
    let _foreign: Vec<Announced> = [("a", "8.8.8.8"), ("b", "169.254.169.254"), ("c", "127.84.0.1")]
        .map(|(name, address)| Announced::start(&multicast, name, "_arduino._tcp", address))
        .into();
    let _ours = Announced::start(&multicast, "z", "_arduino._tcp", "127.83.1.9");
    let dialer = Dialer::new(Networks::new([support::net("127.83.1.0/24")]), None);
    // All four are known by then: the others were announced first, and twice.
    let (out, mut sightings) = mpsc::channel(16);
    let listening = mdns(&[ARDUINO], &multicast, &dialer, &out);
    let collecting = async {
        let mut seen = vec![sightings.recv().await.unwrap()];
        let end = Instant::now() + Duration::from_secs(3);
        while let Ok(Some(sighting)) = tokio::time::timeout_at(end.into(), sightings.recv()).await {
            seen.push(sighting);
        }
        seen
    };
    tokio::select! {
        error = listening => panic!("{error}"),
        seen = collecting => {
            let only_ours = |sighting: &Sighting| matches!(sighting, Sighting::Mdns { address, .. } if *address == at(9));
            assert!(seen.iter().all(only_ours), "{seen:?}");
        }
    }
}

/// One that sends what it likes to all that speak multicast DNS.
fn speaker() -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
    socket
        .bind(&SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0).into())
        .unwrap();
    socket.into()
}

/// An answer (RFC 1035 section 4) that says that each of these names is at one address.
fn answer(names: &[String]) -> Vec<u8> {
    let n_names = u16::try_from(names.len()).unwrap();
    let mut packet = vec![0, 0, 0x84, 0, 0, 0];
    packet.extend(n_names.to_be_bytes());
    packet.extend([0; 4]);
    for name in names {
        for label in name.split('.') {
            packet.push(u8::try_from(label.len()).unwrap());
            packet.extend(label.as_bytes());
        }
        // End of the name, type A, class IN, 75 minutes, four bytes.
        packet.extend([0, 0, 1, 0, 1, 0, 0, 0x11, 0x94, 0, 4, 127, 83, 1, 66]);
    }
    packet
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_names_is_forgotten_and_said_so() {
    // RELIABILITY.md T7: nobody asked for these names, and what asks for nobody's leave fills the memory.
    let multicast = on_loopback();
    let group = SocketAddr::new(GROUP.into(), multicast.port);
    let (over, is_over) = std::sync::mpsc::channel::<()>();
    let flood = std::thread::spawn(move || {
        let socket = speaker();
        let mut number = 0_u64;
        while is_over.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            let names: Vec<String> = (number..number + 20)
                .map(|number| format!("h{number}.local"))
                .collect();
            let _ = socket.send_to(&answer(&names), group);
            number += 20;
            std::thread::sleep(Duration::from_micros(500));
        }
    });
    let error = until(&[ARDUINO, HOST], &multicast, &loopback_dialer(), |_| false)
        .await
        .unwrap_err();
    drop(over);
    flood.join().unwrap();
    let MdnsError::Flooded { n_records } = error else {
        panic!("{error}")
    };
    assert!(n_records > 8_000, "{n_records}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_of_nonsense_do_not_keep_a_device_from_being_seen() {
    // RELIABILITY.md T7.
    let multicast = on_loopback();
    let group = SocketAddr::new(GROUP.into(), multicast.port);
    let well = answer(&["IR-Remote-Mini.local".to_owned()]);
    let nonsense = std::thread::spawn(move || {
        let socket = speaker();
        let mut state = 1_u64;
        for number in 0..20_000_usize {
            // A linear congruential generator (Knuth, MMIX), so that every run sends the same.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let mut packet = well.clone();
            let at = usize::try_from(state >> 33).unwrap() % packet.len();
            packet[at] ^= u8::try_from(state >> 56).unwrap();
            packet.truncate(if number % 3 == 0 { at } else { packet.len() });
            let _ = socket.send_to(&packet, group);
        }
    });
    let device = tokio::task::spawn_blocking({
        let multicast = multicast.clone();
        move || {
            nonsense.join().unwrap();
            Announced::start(&multicast, "IR-Remote-Mini", "_arduino._tcp", "127.83.1.7")
        }
    });
    let is_device =
        |sighting: &Sighting| matches!(sighting, Sighting::Mdns { address, .. } if *address == at(7));
    until(&[ARDUINO, HOST], &multicast, &loopback_dialer(), is_device)
        .await
        .unwrap();
    drop(device.await);
}

/// Threads of this process that speak multicast DNS.
fn n_threads() -> usize {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.trim() == "mDNS_daemon")
        .count()
}

#[tokio::test]
async fn an_end_ends_its_thread() {
    // Those of the other tests come and go meanwhile, so a number of its own is made: 40 more than they ever have.
    let multicast = on_loopback();
    let dialer = loopback_dialer();
    for _ in 0..40 {
        let (out, sightings) = mpsc::channel(1);
        drop(sightings);
        let error = mdns(&[ARDUINO], &multicast, &dialer, &out).await;
        assert!(matches!(error, MdnsError::NobodyListens), "{error}");
    }
    let began = Instant::now();
    while n_threads() >= 40 {
        assert!(began.elapsed() < SOON, "{} threads", n_threads());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_port_that_cannot_be_had_is_told_and_not_waited_for() {
    let taken = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let multicast = Multicast {
        port: taken.local_addr().unwrap().port(),
        ..on_loopback()
    };
    let (out, _sightings) = mpsc::channel(1);
    let error = mdns(&[ARDUINO], &multicast, &loopback_dialer(), &out).await;
    assert!(matches!(error, MdnsError::Multicast(_)), "{error}");
}
