//! Who is found by asking a whole network, and who is left alone. Each test has a network of its own, all on loopback.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use discovery::{Scan, scan};
use model::sighting::{Lookout, Sighting};
use net::{Dialer, Networks};
use tokio::sync::mpsc;

use support::{
    Device, SOON, STATUS, address, answer, check_sum, counts, listener, look, loopback_dialer, mini, net,
    page_at, status_at,
};

fn on(network: &str, lookouts: Vec<Lookout>) -> Scan {
    Scan::new(vec![net(network)], lookouts)
}

#[tokio::test]
async fn every_device_of_a_network_is_found_and_every_address_accounted_for() {
    let first = mini(Ipv4Addr::new(127, 81, 1, 1), 0);
    let port = first.addr.port();
    let _others: Vec<Device> = [77, 254]
        .map(|last| mini(Ipv4Addr::new(127, 81, 1, last), port))
        .into();
    // Not hosts of this network.
    let _outside = [0, 255].map(|last| mini(Ipv4Addr::new(127, 81, 1, last), port));

    let seen = look(&loopback_dialer(), &on("127.81.1.0/24", vec![status_at(port)])).await;
    let expected: Vec<IpAddr> = [1, 77, 254].map(|last| IpAddr::from([127, 81, 1, last])).into();
    assert_eq!(seen.addresses(), expected);
    assert_eq!(seen.sightings.len(), 3);
    assert!(seen.sightings.iter().any(|(_, sighting)| *sighting
        == Sighting::Http {
            address: expected[0],
            path: "/api/status".to_owned(),
            status: 200,
            server: None,
            body: STATUS.as_bytes().to_vec(),
        }));
    assert_eq!(counts(&seen.coverage), [254, 254, 3, 251, 0, 0, 0]);
    assert_eq!((seen.coverage.paced, seen.coverage.warning), (None, None));
    assert_eq!(first.asked(), ["GET /api/status HTTP/1.1"]);
    assert_eq!(first.n_connections(), 1, "one connection for one question");
}

#[tokio::test]
async fn an_address_in_several_ranges_is_asked_once() {
    let device = mini(Ipv4Addr::new(127, 81, 2, 9), 0);
    let lookouts = vec![status_at(device.addr.port()), status_at(device.addr.port())];
    let ranges = [
        "127.81.2.0/24",
        "127.81.2.8/29",
        "127.81.2.200/24",
        "127.81.2.9/32",
    ];
    let seen = look(&loopback_dialer(), &Scan::new(ranges.map(net).into(), lookouts)).await;
    assert_eq!(counts(&seen.coverage), [254, 254, 1, 253, 0, 0, 0]);
    assert_eq!(device.n_connections(), 1);
}

#[tokio::test]
async fn pages_of_one_server_are_asked_one_after_the_other() {
    let device = Device::start(Ipv4Addr::new(127, 81, 3, 7), 0, |stream, head| {
        // Somebody else at the door meanwhile would mean two connections at a time.
        if head.starts_with("GET /api/status ") {
            answer(stream, "404 Not Found", "Server: C6\r\n", b"");
        } else {
            answer(stream, "200 OK", "Server: C6\r\n", b"<html>");
        }
    });
    let port = device.addr.port();
    let seen = look(
        &loopback_dialer(),
        &on("127.81.3.7/32", vec![status_at(port), page_at(port)]),
    )
    .await;
    let told: Vec<(&str, u16, Option<&str>)> = seen
        .sightings
        .iter()
        .map(|(_, sighting)| match sighting {
            Sighting::Http {
                path, status, server, ..
            } => (path.as_str(), *status, server.as_deref()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [("/api/status", 404, Some("C6")), ("/", 200, Some("C6"))]);
    assert_eq!(device.asked(), ["GET /api/status HTTP/1.1", "GET / HTTP/1.1"]);
}

#[tokio::test]
async fn registers_are_read_where_they_are_asked_for() {
    let reply = [0, 1, 0, 0, 0, 7, 254, 3, 4, 0x01, 0x32, 0xc0, 0x46];
    let device = Device::start(Ipv4Addr::new(127, 81, 4, 7), 0, move |stream, _| {
        let _ = stream.write_all(&reply);
    });
    let lookout = Lookout::Modbus {
        port: device.addr.port(),
        first: 1000,
        count: 2,
    };
    let seen = look(&loopback_dialer(), &on("127.81.4.0/28", vec![lookout])).await;
    assert_eq!(
        seen.sightings
            .into_iter()
            .map(|(_, sighting)| sighting)
            .collect::<Vec<_>>(),
        [Sighting::Modbus {
            address: device.addr.ip(),
            first: 1000,
            words: vec![306, 49222],
        }]
    );
    assert_eq!(
        device.asked(),
        ["\0\u{1}\0\0\0\u{6}\u{fffd}\u{3}\u{3}\u{fffd}\0\u{2}"]
    );
}

#[tokio::test]
async fn a_server_that_does_not_speak_the_language_is_counted_and_not_seen() {
    let device = Device::start(Ipv4Addr::new(127, 81, 5, 7), 0, |stream, _| {
        let _ = stream.write_all(b"220 mail ready\r\n");
    });
    let port = device.addr.port();
    let registers = Lookout::Modbus {
        port,
        first: 1,
        count: 125,
    };
    let seen = look(&loopback_dialer(), &on("127.81.5.7/32", vec![registers])).await;
    assert_eq!(counts(&seen.coverage), [1, 1, 1, 0, 0, 0, 0]);
    assert_eq!(seen.sightings, []);
}

/// A host that takes no more connections: what is sent to it is dropped, as by one that is not there.
fn silent(ip: Ipv4Addr, port: u16) -> (TcpListener, Vec<socket2::Socket>) {
    let listener = listener(ip, port, 0);
    let addr = listener.local_addr().unwrap().into();
    // With a queue of none, Linux lets one wait, and drops whoever comes after.
    let waiting = (0..4)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&addr);
            socket
        })
        .collect();
    (listener, waiting)
}

#[tokio::test]
async fn who_answers_is_shown_at_once_while_the_silent_are_waited_for() {
    let device = mini(Ipv4Addr::new(127, 81, 6, 200), 0);
    let port = device.addr.port();
    let _silent: Vec<_> = (1..=20)
        .map(|last| silent(Ipv4Addr::new(127, 81, 6, last), port))
        .collect();
    let seen = look(&loopback_dialer(), &on("127.81.6.0/24", vec![status_at(port)])).await;
    assert_eq!(counts(&seen.coverage), [254, 254, 1, 233, 20, 0, 0]);
    assert!(
        seen.sightings[0].0 < Duration::from_millis(500),
        "{:?}",
        seen.sightings[0].0
    );
    assert!(seen.took >= Duration::from_millis(1500), "{:?}", seen.took);
    assert!(seen.took < Duration::from_secs(3), "{:?}", seen.took);
}

#[tokio::test]
async fn a_host_with_one_open_port_has_answered_whatever_its_others_do() {
    let device = mini(Ipv4Addr::new(127, 81, 7, 1), 0);
    let port = device.addr.port();
    let (held, _waiting) = silent(Ipv4Addr::new(127, 81, 7, 1), 0);
    let lookouts = vec![status_at(port), page_at(held.local_addr().unwrap().port())];
    let seen = look(&loopback_dialer(), &on("127.81.7.0/30", lookouts)).await;
    assert_eq!(counts(&seen.coverage), [2, 2, 1, 1, 0, 0, 0]);
    assert_eq!(seen.sightings.len(), 1);
}

#[tokio::test]
async fn nothing_is_dialed_that_may_not_be_reached() {
    // RELIABILITY.md T22.
    let device = mini(Ipv4Addr::new(127, 81, 8, 7), 0);
    let port = device.addr.port();
    let private = Dialer::new(Networks::private(), None);
    for range in [
        "127.81.8.0/28",
        "127.81.8.7/32",
        "::ffff:127.81.8.7/128",
        "::1/128",
        "0.0.0.0/32",
        "::/128",
        "169.254.169.254/32",
        "224.0.0.251/32",
        "255.255.255.255/32",
    ] {
        let seen = look(&private, &on(range, vec![status_at(port)])).await;
        let coverage = &seen.coverage;
        assert_eq!(
            (coverage.n_asked, coverage.n_failed),
            (0, 0),
            "{range}: {coverage:?}"
        );
        assert_eq!(
            (coverage.n_skipped, seen.sightings),
            (coverage.n_addresses, vec![]),
            "{range}"
        );
    }
    assert_eq!(device.n_connections(), 0);
}

#[tokio::test]
async fn a_range_that_is_too_large_is_not_asked_and_counted_as_failed() {
    // RELIABILITY.md F6: nobody should come here with one, and whoever does gets no silent miss.
    let device = mini(Ipv4Addr::new(127, 81, 9, 7), 0);
    let what = Scan::new(
        ["127.0.0.0/8", "127.80.0.0/15", "::/0"].map(net).into(),
        vec![status_at(device.addr.port())],
    );
    let seen = look(&loopback_dialer(), &what).await;
    assert_eq!(seen.coverage.n_failed, seen.coverage.n_addresses);
    assert!(seen.coverage.n_addresses > 1 << 24);
    assert_eq!(device.n_connections(), 0);
}

#[tokio::test]
async fn a_redirect_is_told_and_not_followed() {
    // RELIABILITY.md T22.
    let target = mini(Ipv4Addr::new(127, 81, 10, 200), 0);
    let location = format!("Location: http://{}/secret\r\n", target.addr);
    let device = Device::start(
        Ipv4Addr::new(127, 81, 10, 7),
        target.addr.port(),
        move |stream, _| {
            answer(stream, "302 Found", &location, b"");
        },
    );
    let seen = look(
        &loopback_dialer(),
        &on("127.81.10.0/28", vec![status_at(device.addr.port())]),
    )
    .await;
    assert!(
        matches!(seen.sightings[..], [(_, Sighting::Http { status: 302, .. })]),
        "{:?}",
        seen.sightings
    );
    assert_eq!(target.n_connections(), 0);
}

#[tokio::test]
async fn what_a_device_sends_is_cut_and_keeps_nobody_waiting() {
    // RELIABILITY.md T36: ten gigabytes, endless headers, a million pieces, one byte at a time, nothing at all.
    let behaviours: [fn(&mut std::net::TcpStream, &str); 5] = [
        |stream, _| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n");
            while stream.write_all(&[b'x'; 8192]).is_ok() {}
        },
        |stream, _| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            while stream.write_all(b"X-More: and more\r\n").is_ok() {}
        },
        |stream, _| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            while stream.write_all(b"1\r\nx\r\n").is_ok() {}
        },
        |stream, _| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        },
        |_, _| std::thread::sleep(Duration::from_secs(6)),
    ];
    let good = mini(Ipv4Addr::new(127, 81, 11, 200), 0);
    let port = good.addr.port();
    let _bad: Vec<Device> = behaviours
        .into_iter()
        .zip(1..)
        .map(|(behave, last)| Device::start(Ipv4Addr::new(127, 81, 11, last), port, behave))
        .collect();
    let seen = look(
        &loopback_dialer(),
        &on("127.81.11.0/24", vec![status_at(port), page_at(port)]),
    )
    .await;
    for (_, sighting) in &seen.sightings {
        let Sighting::Http { body, .. } = sighting else {
            panic!("{sighting:?}")
        };
        assert!(body.len() <= 64 * 1024, "{} bytes", body.len());
    }
    let of_the_good = seen
        .sightings
        .iter()
        .filter(|(_, sighting)| address(sighting) == good.addr.ip());
    let came: Vec<Duration> = of_the_good.map(|(came, _)| *came).collect();
    assert!(
        came.len() == 2 && came.iter().all(|came| *came < Duration::from_secs(2)),
        "{came:?}"
    );
    assert_eq!(counts(&seen.coverage), [254, 254, 6, 248, 0, 0, 0]);
    assert!(seen.took < Duration::from_secs(15), "{:?}", seen.took);
}

#[tokio::test]
async fn five_hundred_tarpits_delay_nobody() {
    // RELIABILITY.md T35: they take the connection, and that is all.
    let good = mini(Ipv4Addr::new(127, 81, 13, 250), 0);
    let port = good.addr.port();
    let _good: Vec<Device> = (231..250)
        .map(|last| mini(Ipv4Addr::new(127, 81, 13, last), port))
        .collect();
    let tarpit = |idx: u32| {
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 81, 12, 0)) + idx);
        // Not in the way of the good ones, which come last.
        listener(ip, port, 64)
    };
    let _tarpits: Vec<TcpListener> = (1..231).chain(256..256 + 231).map(tarpit).collect();
    let more = (1..=40).map(|last| listener(Ipv4Addr::new(127, 81, 14, last), port, 64));
    let _more: Vec<TcpListener> = more.collect();
    let what = Scan::new(
        ["127.81.14.0/26", "127.81.12.0/23"].map(net).into(),
        vec![status_at(port), page_at(port)],
    );
    let seen = look(&loopback_dialer(), &what).await;
    assert_eq!(seen.coverage.n_answered, 230 + 231 + 40 + 20);
    assert_eq!(seen.addresses().len(), 20);
    let last = seen.sightings.iter().map(|(came, _)| *came).max().unwrap();
    assert!(last < Duration::from_secs(2), "{last:?}");
    assert!(
        seen.took >= Duration::from_secs(5),
        "the tarpits were waited for: {:?}",
        seen.took
    );
    // Two questions are of no use to who does not answer the first.
    assert!(seen.took < Duration::from_secs(9), "{:?}", seen.took);
}

#[tokio::test]
async fn with_few_sockets_all_are_asked_all_the_same() {
    let device = mini(Ipv4Addr::new(127, 81, 15, 254), 0);
    let what = Scan {
        n_sockets: 3,
        ..on("127.81.15.0/24", vec![status_at(device.addr.port())])
    };
    let seen = look(&loopback_dialer(), &what).await;
    assert_eq!(counts(&seen.coverage), [254, 254, 1, 253, 0, 0, 0]);
    assert!(seen.coverage.paced.unwrap().contains("3 connections at once"));
}

#[tokio::test]
async fn nobody_listening_ends_the_scan() {
    let device = mini(Ipv4Addr::new(127, 81, 16, 1), 0);
    let port = device.addr.port();
    let _silent: Vec<_> = (2..=6)
        .map(|last| silent(Ipv4Addr::new(127, 81, 16, last), port))
        .collect();
    let (out, sightings) = mpsc::channel(1);
    drop(sightings);
    let what = Scan {
        deadline: SOON,
        ..on("127.81.16.0/24", vec![status_at(port)])
    };
    let began = Instant::now();
    let coverage = scan(&loopback_dialer(), &what, &out).await;
    check_sum(&coverage);
    assert!(coverage.n_failed >= 5, "{coverage:?}");
    assert!(began.elapsed() < SOON);
}

#[tokio::test]
async fn without_a_question_nobody_is_dialed() {
    let device = mini(Ipv4Addr::new(127, 81, 17, 1), 0);
    let lookouts = vec![
        Lookout::Mdns {
            service: "_arduino._tcp",
        },
        Lookout::Mqtt {
            topic: "home/+".to_owned(),
        },
    ];
    let seen = look(&loopback_dialer(), &on("127.81.17.0/24", lookouts)).await;
    assert_eq!(counts(&seen.coverage), [254, 0, 0, 0, 0, 0, 254]);
    assert_eq!(device.n_connections(), 0);
}

#[tokio::test]
async fn this_machines_own_addresses_are_never_dialed() {
    // RELIABILITY.md T22. Needs an address other than loopback, which a machine without a network has not.
    let interfaces = net::interfaces().unwrap();
    let Some(own) = interfaces
        .iter()
        .map(|interface| interface.address)
        .find(|address| address.is_ipv4() && !address.is_loopback())
    else {
        println!("skipped: this machine has no address but loopback");
        return;
    };
    let IpAddr::V4(ip) = own else {
        unreachable!("it is IPv4")
    };
    let door = listener(ip, 0, 1);
    door.set_nonblocking(true).unwrap();
    let everything = Dialer::new(Networks::new([net("0.0.0.0/0")]), None);
    let what = Scan::new(
        vec![own.into()],
        vec![status_at(door.local_addr().unwrap().port())],
    );
    let seen = look(&everything, &what).await;
    assert_eq!(counts(&seen.coverage), [1, 0, 0, 0, 0, 0, 1]);
    assert_eq!(door.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

/// The address of a device says nothing of what it is asked for: a strange port is written down, a usual one is not.
#[tokio::test]
async fn the_host_header_is_the_address_as_a_browser_would_write_it() {
    let device = Device::start(Ipv4Addr::new(127, 81, 18, 7), 0, |stream, head| {
        answer(stream, "200 OK", "", head.as_bytes());
    });
    let seen = look(
        &loopback_dialer(),
        &on("127.81.18.7/32", vec![status_at(device.addr.port())]),
    )
    .await;
    let [(_, Sighting::Http { body, .. })] = &seen.sightings[..] else {
        panic!("{:?}", seen.sightings)
    };
    let head = String::from_utf8_lossy(body).to_lowercase();
    let host = format!(
        "\r\nhost: {}\r\n",
        SocketAddr::new(device.addr.ip(), device.addr.port())
    );
    assert!(head.contains(&host), "{head}");
    assert!(
        !head.contains("authorization") && !head.contains("cookie"),
        "{head}"
    );
}

#[tokio::test]
async fn nonsense_is_handed_on_as_it_came() {
    // RELIABILITY.md F4: wrong types, cut short, not UTF-8, empty. What it means is the families' question.
    let bodies: [&[u8]; 4] = [
        br#"{"deviceType":7,"macAddress":[]}"#,
        br#"{"deviceType":"mi"#,
        b"\xff\xfe\0\x80",
        b"",
    ];
    let first = Ipv4Addr::new(127, 81, 19, 1);
    let mut devices = vec![Device::start(first, 0, move |stream, _| {
        answer(stream, "200 OK", "", bodies[0]);
    })];
    let port = devices[0].addr.port();
    for (body, last) in bodies.into_iter().zip(1..).skip(1) {
        devices.push(Device::start(
            Ipv4Addr::new(127, 81, 19, last),
            port,
            move |stream, _| {
                answer(stream, "200 OK", "", body);
            },
        ));
    }
    let seen = look(&loopback_dialer(), &on("127.81.19.0/28", vec![status_at(port)])).await;
    let mut told: Vec<(IpAddr, Vec<u8>)> = seen
        .sightings
        .into_iter()
        .map(|(_, sighting)| match sighting {
            Sighting::Http { address, body, .. } => (address, body),
            other => panic!("{other:?}"),
        })
        .collect();
    told.sort();
    let expected: Vec<(IpAddr, Vec<u8>)> = bodies
        .into_iter()
        .zip(1..)
        .map(|(body, last)| (IpAddr::from([127, 81, 19, last]), body.to_vec()))
        .collect();
    assert_eq!(told, expected);
}
