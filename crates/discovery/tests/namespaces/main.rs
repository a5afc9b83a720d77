//! Networks with absent hosts, filters, loss, and cables that are pulled: hosts in namespaces of their own.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "the helpers of tests are tests"
)]

mod far;
#[path = "../support/mod.rs"]
mod support;

use std::net::IpAddr;
use std::time::Duration;

use discovery::{Coverage, Scan, mdns};
use model::sighting::{Lookout, Sighting};
use net::{Dialer, Multicast, Networks};
use tokio::sync::mpsc;

use far::{Far, be_far_host, inside, run};
use support::{SOON, counts, look, net, status_at};

/// Not a test: what the hosts of the tests do.
#[test]
fn far_host() {
    be_far_host();
}

fn home() -> Dialer {
    Dialer::new(Networks::private(), None)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn absent_hosts_cost_the_deadline_and_hold_up_nobody() {
    inside("absent_hosts_cost_the_deadline_and_hold_up_nobody", async {
        let last: Vec<u8> = (0..10).map(|idx| 20 + 23 * idx).collect();
        let addresses: Vec<String> = last.iter().map(|last| format!("10.9.1.{last}/24")).collect();
        let far = Far::start("near0", "10.9.1.1/24", &addresses);
        let seen = look(
            &home(),
            &Scan::new(vec![net("10.9.1.0/24")], vec![status_at(far.port)]),
        )
        .await;
        let expected: Vec<IpAddr> = last.iter().map(|last| IpAddr::from([10, 9, 1, *last])).collect();
        assert_eq!(seen.addresses(), expected);
        // 254, less our own.
        assert_eq!(counts(&seen.coverage), [254, 253, 10, 0, 243, 0, 1]);
        assert!(
            seen.sightings[9].0 < Duration::from_secs(1),
            "{:?}",
            seen.sightings[9].0
        );
        assert!(seen.took >= Duration::from_millis(1500), "{:?}", seen.took);
        assert!(seen.took < Duration::from_secs(3), "{:?}", seen.took);
        assert_eq!(seen.coverage.paced, None);
        // Whoever answered is known by his MAC address, and found by it.
        let mac = net::neighbour(expected[0]).unwrap();
        assert_eq!(net::address_of(mac), None, "ten addresses of one card are none");
    });
}

#[test]
fn a_card_is_found_by_its_mac_address() {
    inside("a_card_is_found_by_its_mac_address", async {
        let far = Far::start("near0", "10.9.1.1/24", &["10.9.1.77/24".to_owned()]);
        far.run("ip link set far0 address a0:b1:c2:d3:e4:f5");
        look(
            &home(),
            &Scan::new(vec![net("10.9.1.64/27")], vec![status_at(far.port)]),
        )
        .await;
        let mac = [0xa0, 0xb1, 0xc2, 0xd3, 0xe4, 0xf5];
        assert_eq!(net::address_of(mac), Some(address("10.9.1.77")));
        assert_eq!(net::neighbour(address("10.9.1.77")), Some(mac));
        assert_eq!(net::address_of([0xa0, 0xb1, 0xc2, 0xd3, 0xe4, 0xf6]), None);
    });
}

#[test]
fn a_large_network_is_asked_slowly_and_everybody_found() {
    // ../shared/PERFORMANCE.md finding 3. Faster than that, some are lost and nobody is told.
    inside("a_large_network_is_asked_slowly_and_everybody_found", async {
        let addresses: Vec<String> = (1..=10)
            .map(|number| format!("10.9.{}.{}/21", number % 8, 7 + number))
            .collect();
        let far = Far::start("near0", "10.9.7.1/21", &addresses);
        let seen = look(
            &home(),
            &Scan::new(vec![net("10.9.0.0/21")], vec![status_at(far.port)]),
        )
        .await;
        assert_eq!(seen.addresses().len(), 10);
        let coverage = &seen.coverage;
        assert_eq!(
            (
                coverage.n_addresses,
                coverage.n_answered,
                coverage.n_failed,
                coverage.n_skipped
            ),
            (2046, 10, 0, 1)
        );
        assert!(
            coverage
                .paced
                .as_ref()
                .is_some_and(|why| why.contains("a second")),
            "{coverage:?}"
        );
        // Its entries live for 3 s more, and the table is one for all namespaces: the next test needs their places.
        tokio::time::sleep(Duration::from_secs(3)).await;
    });
}

/// What a host far away does with what it gets, and how it is counted: (fault, rules of its filter, counts of the scan).
const FILTERED: [(&str, &str, [u64; 7]); 5] = [
    ("none", "", [1, 1, 1, 0, 0, 0, 0]),
    ("F1, silence", "drop", [1, 1, 0, 0, 1, 0, 0]),
    (
        "F1, nobody there",
        "reject with icmp type host-unreachable",
        [1, 1, 0, 0, 1, 0, 0],
    ),
    (
        "F1, nobody may",
        "reject with icmp type admin-prohibited",
        [1, 1, 0, 0, 1, 0, 0],
    ),
    ("F1, refused", "reject with tcp reset", [1, 1, 0, 1, 0, 0, 0]),
];

#[test]
fn whatever_a_filter_does_is_counted_as_what_it_is() {
    inside("whatever_a_filter_does_is_counted_as_what_it_is", async {
        let far = Far::start("near0", "10.9.1.1/24", &["10.9.1.2/24".to_owned()]);
        for (fault, rule, expected) in FILTERED {
            far.filter(&format!(
                "flush ruleset\ntable ip f {{\n chain i {{\n type filter hook input priority 0;\n {}\n }}\n}}\n",
                if rule.is_empty() {
                    "accept".to_owned()
                } else {
                    format!("tcp dport {} {rule}", far.port)
                }
            ));
            let seen = look(
                &home(),
                &Scan::new(vec![net("10.9.1.2/32")], vec![status_at(far.port)]),
            )
            .await;
            assert_eq!(counts(&seen.coverage), expected, "{fault}");
            assert_eq!(
                seen.sightings.len(),
                usize::try_from(expected[2]).unwrap(),
                "{fault}"
            );
        }
    });
}

#[test]
fn every_second_packet_lost_hides_nobody() {
    // RELIABILITY.md F2. The loss is regular, so that the test is: the first SYN is lost, the second comes a second later.
    inside("every_second_packet_lost_hides_nobody", async {
        let far = Far::start("near0", "10.9.1.1/24", &["10.9.1.2/24".to_owned()]);
        far.filter(&format!(
            "table ip f {{\n chain i {{\n type filter hook input priority 0;\n tcp dport {} numgen inc mod 2 0 drop;\n }}\n}}\n",
            far.port
        ));
        let what = Scan::new(vec![net("10.9.1.2/32")], vec![status_at(far.port)]);
        // Three scans may be needed where chance has its way; here the first one waits for the second SYN.
        let seen = look(&home(), &what).await;
        assert_eq!(seen.sightings.len(), 1, "{:?}", seen.coverage);
    });
}

#[test]
fn without_a_way_there_the_scan_says_so_and_finds_all_once_there_is_one() {
    // RELIABILITY.md F7: no route, a cable pulled, a cable in, another network.
    inside(
        "without_a_way_there_the_scan_says_so_and_finds_all_once_there_is_one",
        async {
            let scan = async |network: &str, port| {
                look(&home(), &Scan::new(vec![net(network)], vec![status_at(port)])).await
            };
            let failed = |coverage: &Coverage| (coverage.n_failed, coverage.n_asked);
            assert_eq!(
                failed(&scan("10.9.1.0/28", 80).await.coverage),
                (14, 0),
                "no route"
            );

            let mut far = Far::start("near0", "10.9.1.1/28", &["10.9.1.2/28".to_owned()]);
            assert_eq!(
                scan("10.9.1.0/28", far.port).await.addresses(),
                [address("10.9.1.2")]
            );
            run("ip link set near0 down");
            let seen = scan("10.9.1.0/28", far.port).await;
            // Our own address is not asked even then.
            assert_eq!(failed(&seen.coverage), (13, 0), "interface down");
            run("ip link set near0 up");
            assert_eq!(
                scan("10.9.1.0/28", far.port).await.addresses(),
                [address("10.9.1.2")]
            );

            far.unplug();
            far.plug_in("192.168.9.1/28", &["192.168.9.2/28".to_owned()]);
            assert_eq!(
                failed(&scan("10.9.1.0/28", far.port).await.coverage),
                (14, 0),
                "network gone"
            );
            assert_eq!(
                scan("192.168.9.0/28", far.port).await.addresses(),
                [address("192.168.9.2")]
            );
        },
    );
}

#[test]
fn devices_are_announced_over_interfaces_that_come_and_go() {
    // RELIABILITY.md F7, for multicast DNS.
    inside("devices_are_announced_over_interfaces_that_come_and_go", async {
        let lookouts = [
            Lookout::Mdns {
                service: "_arduino._tcp",
            },
            Lookout::Host {
                name: "IR-Remote-Mini.local",
            },
        ];
        let (out, mut sightings) = mpsc::channel(16);
        let (multicast, dialer) = (Multicast::default(), home());
        let listening = mdns(&lookouts, &multicast, &dialer, &out);
        let changing = async {
            let mut seen_at = async |text: &str| {
                let at = address(text);
                let seen = async {
                    while let Some(sighting) = sightings.recv().await {
                        match sighting {
                            Sighting::Mdns { address, .. } | Sighting::Host { address, .. }
                                if address == at =>
                            {
                                return;
                            }
                            _ => {}
                        }
                    }
                };
                tokio::time::timeout(4 * SOON, seen)
                    .await
                    .unwrap_or_else(|_| panic!("{text} is not seen"));
            };
            // It listens already, and there is nothing to listen at.
            tokio::task::yield_now().await;
            let mut far = Far::start("near0", "10.9.1.1/24", &["10.9.1.2/24".to_owned()]);
            far.announce();
            seen_at("10.9.1.2").await;
            far.unplug();
            far.plug_in("192.168.9.1/24", &["192.168.9.2/24".to_owned()]);
            seen_at("192.168.9.2").await;
        };
        tokio::select! {
            error = listening => panic!("{error}"),
            () = changing => {}
        }
    });
}
