//! The fleet over simulated devices: who is found, where, and how it fares.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bed;

use std::time::Duration;

use bed::{Bed, Devices, Wanted, address, ip, listed};
use model::inventory::State;
use server::fleet::{AddDevice, DeviceChange, FleetErrorKind};
use sim::ir_remote::{Config, Fault};

fn online(device: &server::views::DeviceView) -> bool {
    device.state == State::Online
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_device_appears_with_all_that_it_tells() {
    let devices = Devices::at(&[address(41, 0, 1)]).await;
    let wanted = Wanted {
        devices: vec![listed("127.41.0.1", Some("Living Room IR"))],
        ..Wanted::default()
    };
    let bed = Bed::start(&wanted, &devices.ways).await;
    let device = bed.until("Living Room IR", online).await;
    assert_eq!(device.id, devices.key(0));
    assert_eq!(device.mac, Some(devices.key(0)));
    assert_eq!(device.address, Some(ip(address(41, 0, 1))));
    assert_eq!(device.chip.as_deref(), Some("esp32c6"));
    assert_eq!(device.flash_bytes, Some(4 * 1024 * 1024));
    assert_eq!(device.reported_version.as_deref(), Some("1.0"));
    assert_eq!(device.ota, "enabled");
    assert!(device.free_heap_bytes.is_some() && device.uptime_s.is_some() && device.signal_dbm.is_some());
    assert!(device.enrolled && device.configured && device.named);
    assert_eq!(
        bed.fleet.devices().len(),
        1,
        "the line of the configuration is the device itself"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_device_that_never_answered_is_shown_as_unknown() {
    let devices = Devices::at(&[address(41, 1, 1)]).await;
    let wanted = Wanted {
        devices: vec![listed("127.41.1.99", Some("Cellar"))],
        ..Wanted::default()
    };
    let bed = Bed::start(&wanted, &devices.ways).await;
    let device = bed.until("Cellar", |device| device.trouble.is_some()).await;
    assert_eq!(device.state, State::Unknown);
    assert!(!device.enrolled, "nobody knows which device that is");
    bed.fleet.apply(bed::settings(&Wanted::default(), &devices.ways));
    assert_eq!(
        bed.fleet.devices(),
        [],
        "what is no longer listed was never anybody"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_finds_devices_and_enrols_none() {
    let devices = Devices::at(&[address(41, 2, 7), address(41, 2, 9)]).await;
    let wanted = Wanted {
        ranges: vec!["127.41.2.0/28"],
        ..Wanted::default()
    };
    let bed = Bed::start(&wanted, &devices.ways).await;
    for idx in [0, 1] {
        let device = bed.until(&devices.key(idx), |device| device.chip.is_some()).await;
        assert_eq!(device.sources, ["scan"]);
        assert!(!device.enrolled);
    }
    let coverage = bed.fleet.scan("a test").await.unwrap();
    assert_eq!(
        (coverage.n_addresses, coverage.n_asked, coverage.n_answered),
        (14, 14, 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_vanishes_is_offline_after_three_misses_and_keeps_its_last_sight() {
    let mut devices = Devices::at(&[address(41, 3, 1), address(41, 3, 2)]).await;
    let wanted = Wanted {
        devices: vec![listed("127.41.3.1", None), listed("127.41.3.2", None)],
        ..Wanted::default()
    };
    let mut bed = Bed::start(&wanted, &devices.ways).await;
    let (stays, goes) = (devices.key(0), devices.key(1));
    bed.until(&stays, online).await;
    let before = bed.until(&goes, online).await;
    drop(devices.running.remove(1));
    bed.event("device.offline", &goes).await;
    let gone = bed.fleet.device(&goes).unwrap();
    assert_eq!(gone.state, State::Offline);
    assert!(gone.last_seen_ms >= before.last_seen_ms && gone.trouble.is_some());
    assert_eq!(gone.uptime_s, None, "nobody knows whether it is up");
    assert!(online(&bed.fleet.device(&stays).unwrap()));
    let mut config = Config::new(address(41, 3, 2));
    config.mac = Some(goes.parse().unwrap());
    devices.add(config).await.unwrap();
    bed.event("device.online", &goes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn most_looks_at_a_known_device_ask_it_one_thing_only() {
    const N_LOOKS: u64 = 6;
    let devices = Devices::at(&[address(41, 14, 1)]).await;
    let wanted = Wanted {
        devices: vec![listed("127.41.14.1", None)],
        ..Wanted::default()
    };
    let bed = Bed::start(&wanted, &devices.ways).await;
    let key = devices.key(0);
    // The look after the one that told of the hardware.
    let known = bed.until(&key, |device| device.chip.is_some()).await;
    let mut last = bed
        .until(&key, |device| device.last_seen_ms > known.last_seen_ms)
        .await;
    let before = devices.running[0].counters().http_requests;
    for _ in 0..N_LOOKS {
        last = bed
            .until(&key, |device| device.last_seen_ms > last.last_seen_ms)
            .await;
    }
    let n_requests = devices.running[0].counters().http_requests - before;
    // One more look may be on its way; full looks would be two requests each.
    assert!(
        (N_LOOKS..=N_LOOKS + 1).contains(&n_requests),
        "{n_requests} requests"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_at_a_new_address_is_the_same_device() {
    let mut devices = Devices::at(&[address(41, 4, 1)]).await;
    let wanted = Wanted {
        devices: vec![listed("127.41.4.1", Some("Hall"))],
        ranges: vec!["127.41.4.0/28"],
        scan_every: Some(Duration::from_millis(300)),
        ..Wanted::default()
    };
    let mut bed = Bed::start(&wanted, &devices.ways).await;
    let key = devices.key(0);
    bed.until(&key, |device| online(device) && device.name == "Hall")
        .await;
    drop(devices.running.remove(0));
    let mut config = Config::new(address(41, 4, 5));
    config.mac = Some(key.parse().unwrap());
    devices.add(config).await.unwrap();
    let moved = bed.event("device.moved", &key).await;
    assert_eq!(moved.detail["to"], "127.41.4.5");
    let device = bed
        .until(&key, |device| device.address == Some(ip(address(41, 4, 5))))
        .await;
    assert_eq!(device.name, "Hall");
    assert!(device.enrolled && device.conflict.is_none());
    assert_eq!(bed.fleet.devices().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_mac_at_two_addresses_is_a_conflict_until_one_is_gone() {
    let mut devices = Devices::at(&[address(41, 5, 1)]).await;
    let key = devices.key(0);
    let mut clone = Config::new(address(41, 5, 2));
    clone.mac = Some(key.parse().unwrap());
    let clone = devices.add(clone).await.unwrap();
    let wanted = Wanted {
        ranges: vec!["127.41.5.0/28"],
        auto_enroll: true,
        password: Some("secret"),
        ..Wanted::default()
    };
    let mut bed = Bed::start(&wanted, &devices.ways).await;
    bed.event("device.conflict", &key).await;
    let device = bed.fleet.device(&key).unwrap();
    assert_eq!(device.conflict.unwrap().kind, "one-mac-two-addresses");
    let id = model::id::DeviceId::from_hardware(&model::id::FamilyId::new("ir-remote"), key.as_str());
    assert!(
        bed.fleet.secret(&id).is_none(),
        "nobody gets a password answer in a conflict"
    );
    let refused = bed
        .fleet
        .enroll(std::slice::from_ref(&key), "a test")
        .await
        .unwrap_err();
    assert_eq!(refused.kind, FleetErrorKind::Conflict);
    let refused = bed.fleet.set_ota(&key, false, "a test").await.unwrap_err();
    assert_eq!(refused.kind, FleetErrorKind::Conflict);
    drop(devices.running.remove(clone));
    bed.event("device.conflict-solved", &key).await;
    assert_eq!(
        bed.fleet.device(&key).unwrap().address,
        Some(ip(address(41, 5, 1)))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_at_a_known_address_is_another_device_and_not_enrolled() {
    let mut devices = Devices::at(&[address(41, 6, 1)]).await;
    let wanted = Wanted {
        devices: vec![listed("127.41.6.1", Some("Hall"))],
        ..Wanted::default()
    };
    let bed = Bed::start(&wanted, &devices.ways).await;
    let hall = devices.key(0);
    bed.until(&hall, |device| online(device) && device.enrolled).await;
    drop(devices.running.remove(0));
    let mut config = Config::new(address(41, 6, 1));
    config.mac = Some("02:00:00:00:00:99".parse().unwrap());
    let stranger = devices.add(config).await.unwrap();
    let stranger = bed.until(&devices.key(stranger), online).await;
    assert!(!stranger.enrolled && stranger.name != "Hall");
    let hall = bed.until(&hall, |device| device.state == State::Offline).await;
    assert!(hall.trouble.unwrap().contains(&stranger.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_counted_and_told() {
    let devices = Devices::at(&[address(41, 7, 1)]).await;
    let wanted = Wanted {
        devices: vec![listed("127.41.7.1", None)],
        ..Wanted::default()
    };
    let mut bed = Bed::start(&wanted, &devices.ways).await;
    let key = devices.key(0);
    bed.until(&key, |device| device.uptime_s.is_some()).await;
    devices.running[0].power_cycle();
    bed.event("device.restarted", &key).await;
    assert_eq!(bed.fleet.device(&key).unwrap().restarts, 1);
    let health = bed.fleet.health(&key, 0, 100).await.unwrap();
    assert!(health.iter().any(|sample| sample.restarted), "{health:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_unreadable_and_not_offline() {
    let devices = Devices::at(&[address(41, 8, 1)]).await;
    let wanted = Wanted {
        devices: vec![listed("127.41.8.1", None)],
        ..Wanted::default()
    };
    let bed = Bed::start(&wanted, &devices.ways).await;
    let key = devices.key(0);
    for fault in [
        "status-truncated",
        "status-huge",
        "status-wrong-types",
        "status-not-utf8",
        "status-redirect",
    ] {
        bed.until(&key, online).await;
        devices.running[0].set_faults(vec![Fault::parse(fault).unwrap()]);
        let device = bed.until(&key, |device| device.state == State::Unreadable).await;
        assert_eq!(
            device.reported_version.as_deref(),
            Some("1.0"),
            "{fault}: what was known stays"
        );
        devices.running[0].set_faults(Vec::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_answers_hold_up_nobody_else() {
    let addresses: Vec<_> = (1..=40).map(|last| address(41, 14, last)).collect();
    let devices = Devices::at(&addresses).await;
    let hosts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let wanted = Wanted {
        devices: hosts.iter().map(|host| listed(host, None)).collect(),
        ..Wanted::default()
    };
    let bed = Bed::start(&wanted, &devices.ways).await;
    for idx in 0..devices.running.len() {
        bed.until(&devices.key(idx), online).await;
    }
    // All but the last dribble, or never end. A look at one that dribbles takes its 5 s, and there are more of them than
    // places for looks at devices that answered last time.
    let good = devices.key(39);
    for (idx, device) in devices.running.iter().enumerate().take(39) {
        let fault = if idx % 13 == 0 {
            "endless-headers"
        } else {
            "status-slow"
        };
        device.set_faults(vec![Fault::parse(fault).unwrap()]);
    }
    // The first look at each of them was made among the prompt ones; from then on they wait in a line of their own.
    for idx in 0..39 {
        bed.until(&devices.key(idx), |device| device.trouble.is_some())
            .await;
    }
    let seen = |bed: &Bed| bed.fleet.device(&good).unwrap().last_seen_ms.unwrap();
    let mut before = seen(&bed);
    for _ in 0..20 {
        let now = bed
            .until(&good, |device| device.last_seen_ms > Some(before))
            .await
            .last_seen_ms
            .unwrap();
        // On a quiet machine about 150 ms; a slow look in its way would make it 5 s.
        assert!(now - before < 2_500, "held up for {} ms", now - before);
        before = now;
    }
    assert!(online(&bed.fleet.device(&good).unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_outlives_the_server() {
    let devices = Devices::at(&[address(41, 9, 1)]).await;
    let wanted = Wanted {
        ranges: vec!["127.41.9.0/29"],
        ..Wanted::default()
    };
    let bed = Bed::start(&wanted, &devices.ways).await;
    let key = devices.key(0);
    bed.until(&key, |device| device.chip.is_some()).await;
    let change = DeviceChange {
        name: Some(Some("Kitchen".to_owned())),
        tags: Some(vec!["upstairs".to_owned()]),
        pinned: Some(Some("1.0".to_owned())),
        ..DeviceChange::default()
    };
    bed.fleet.change(&key, change, "a test").await.unwrap();
    bed.fleet
        .enroll(std::slice::from_ref(&key), "a test")
        .await
        .unwrap();
    bed.fleet
        .set_password("Kitchen", Some("canary-4711".into()), "a test")
        .await
        .unwrap();
    let bed = bed.restart(&Wanted::default(), &devices.ways).await;
    let device = bed.fleet.device("kitchen").unwrap();
    assert_eq!(
        (device.id.as_str(), device.tags.as_slice()),
        (key.as_str(), &["upstairs".to_owned()][..])
    );
    assert!(device.enrolled && device.has_password && device.chip.is_some());
    assert_eq!(device.pinned.as_deref(), Some("1.0"));
    bed.until(&key, online).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_added_by_its_address_and_forgotten_again() {
    let devices = Devices::at(&[address(41, 10, 1)]).await;
    let bed = Bed::start(&Wanted::default(), &devices.ways).await;
    let wanted = |host: &str| AddDevice {
        host: host.to_owned(),
        name: Some("Attic".to_owned()),
        ..AddDevice::default()
    };
    let device = bed.fleet.add(wanted("127.41.10.1"), "a test").await.unwrap();
    assert_eq!(device.id, devices.key(0));
    assert!(device.enrolled, "its owner named it");
    let twice = bed.fleet.add(wanted("127.41.10.9"), "a test").await.unwrap_err();
    assert_eq!(twice.kind, FleetErrorKind::Conflict, "the name is taken: {twice}");
    let outside = bed
        .fleet
        .add(
            AddDevice {
                name: None,
                ..wanted("192.0.2.1")
            },
            "a test",
        )
        .await
        .unwrap_err();
    assert_eq!(outside.kind, FleetErrorKind::Invalid, "{outside}");
    let absent = bed
        .fleet
        .add(
            AddDevice {
                name: None,
                ..wanted("127.41.10.9")
            },
            "a test",
        )
        .await
        .unwrap_err();
    assert_eq!(absent.kind, FleetErrorKind::Unreachable, "{absent}");
    bed.fleet.remove("Attic", "a test").await.unwrap();
    assert_eq!(bed.fleet.devices(), []);
    assert_eq!(bed.store.fleet().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_a_weak_identity_stays_one_device() {
    let mut devices = Devices::at(&[]).await;
    let mut sketch = Config::new(address(41, 15, 1));
    sketch.faults = vec![Fault::parse("no-status-api").unwrap()];
    devices.add(sketch).await.unwrap();
    let unit = sim::komfovent::start(
        sim::komfovent::Config::new(address(41, 15, 2)),
        devices.events.clone(),
    )
    .unwrap();
    let unit_ways = families::Ways {
        http_port: unit.http_port(),
        modbus_port: unit.modbus_port(),
        modbus_spacing: Duration::from_millis(1),
        ..families::Ways::default()
    };
    let cases = [
        ("arduino", "127.41.15.1", &devices.ways),
        ("komfovent", "127.41.15.2", &unit_ways),
    ];
    for (family, host, ways) in cases {
        let wanted = Wanted {
            family: Some(family),
            ranges: vec!["127.41.15.0/29"],
            ..Wanted::default()
        };
        let bed = Bed::start(&wanted, ways).await;
        let added = AddDevice {
            host: host.to_owned(),
            family: Some(family.to_owned()),
            chip: Some("esp32c6".to_owned()),
            ..AddDevice::default()
        };
        let device = bed.fleet.add(added, "a test").await.unwrap();
        assert_eq!(device.identity, "weak", "{family}");
        let seen = device.last_seen_ms;
        // Three looks and a scan later it is still the only one.
        for _ in 0..3 {
            let before = bed.fleet.device(&device.id).unwrap().last_seen_ms.max(seen);
            bed.until(&device.id, |device| device.last_seen_ms > before).await;
        }
        bed.fleet.scan("a test").await.unwrap();
        let ids: Vec<String> = bed.fleet.devices().into_iter().map(|device| device.id).collect();
        assert_eq!(ids, [device.id], "{family}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_never_means_another_device() {
    let devices = Devices::at(&[address(41, 16, 1), address(41, 16, 2)]).await;
    let wanted = Wanted {
        devices: vec![listed("127.41.16.1", Some("Hall")), listed("127.41.16.2", None)],
        ..Wanted::default()
    };
    let bed = Bed::start(&wanted, &devices.ways).await;
    let (hall, other) = (devices.key(0), devices.key(1));
    bed.until(&hall, online).await;
    bed.until(&other, online).await;
    let named = |name: &str| DeviceChange {
        name: Some(Some(name.to_owned())),
        ..DeviceChange::default()
    };
    for name in [hall.as_str(), "127.41.16.1", "hall", "A0:B1"] {
        let change = bed.fleet.change(&other, named(name), "a test").await;
        assert_eq!(change.is_err(), name != "A0:B1", "{name}");
    }
    let listed = bed
        .fleet
        .change(&hall, named("Porch"), "a test")
        .await
        .unwrap_err();
    assert_eq!(
        listed.kind,
        FleetErrorKind::Conflict,
        "the configuration would win at the next start"
    );
    let listed = bed.fleet.unenroll(&hall, "a test").await.unwrap_err();
    assert_eq!(listed.kind, FleetErrorKind::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_at_a_device_that_is_not_enrolled() {
    let devices = Devices::at(&[address(41, 17, 1)]).await;
    let wanted = Wanted {
        ranges: vec!["127.41.17.0/29"],
        password: Some("secret"),
        ..Wanted::default()
    };
    let bed = Bed::start(&wanted, &devices.ways).await;
    let key = devices.key(0);
    bed.until(&key, |device| device.chip.is_some()).await;
    let id = model::id::DeviceId::from_hardware(&model::id::FamilyId::new("ir-remote"), key.as_str());
    assert!(bed.fleet.secret(&id).is_none(), "a stranger gets no password");
    let refused = bed.fleet.set_ota(&key, false, "a test").await.unwrap_err();
    assert_eq!(refused.kind, FleetErrorKind::Refused);
    assert_eq!(bed.fleet.device(&key).unwrap().ota, "enabled");
    bed.fleet
        .enroll(std::slice::from_ref(&key), "a test")
        .await
        .unwrap();
    assert!(bed.fleet.secret(&id).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_push_beside_the_server_has_recorded_is_taken_over() {
    let devices = Devices::at(&[address(41, 18, 1)]).await;
    let wanted = Wanted {
        devices: vec![listed("127.41.18.1", None)],
        ..Wanted::default()
    };
    let bed = Bed::start(&wanted, &devices.ways).await;
    let key = devices.key(0);
    let device = bed.until(&key, online).await;
    let id = model::id::DeviceId::from_hardware(&model::id::FamilyId::new("ir-remote"), key.as_str());
    let installed = model::installed::Installed {
        digest: Some(model::id::Sha256::of(b"an image")),
        label: model::version::Versions::one("firmware", "1.0"),
        label_moves: false,
    };
    bed.store
        .set_installed(&id, Some(&installed), device.last_seen_ms.unwrap())
        .await
        .unwrap();
    bed.until(&key, |device| device.installed.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_sealed_with_a_lost_key_are_told_of() {
    let devices = Devices::at(&[address(41, 19, 1)]).await;
    let wanted = Wanted {
        devices: vec![listed("127.41.19.1", None)],
        ..Wanted::default()
    };
    let mut bed = Bed::start(&wanted, &devices.ways).await;
    let key = devices.key(0);
    bed.until(&key, online).await;
    bed.fleet
        .set_password(&key, Some("its own".into()), "a test")
        .await
        .unwrap();
    let rules =
        |bed: &Bed| -> Vec<String> { bed.fleet.troubles().into_iter().map(|note| note.rule).collect() };
    assert_eq!(rules(&bed), Vec::<String>::new());
    let folder = bed.stop().await;
    std::fs::remove_file(folder.path().join("secret.key")).unwrap();
    let bed = Bed::start_in(folder, &wanted, &devices.ways).await;
    assert_eq!(rules(&bed), ["passwords-lost"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ota_switch_is_put_back_as_wanted_after_a_restart() {
    let devices = Devices::at(&[address(41, 11, 1)]).await;
    let wanted = Wanted {
        devices: vec![listed("127.41.11.1", None)],
        ..Wanted::default()
    };
    let bed = Bed::start(&wanted, &devices.ways).await;
    let key = devices.key(0);
    bed.until(&key, online).await;
    let device = bed.fleet.set_ota(&key, false, "a test").await.unwrap();
    assert_eq!(
        (device.ota.as_str(), device.ota_wanted),
        ("disabled", Some(false))
    );
    devices.running[0].power_cycle();
    // After its restart the device takes updates again by itself.
    bed.until(&key, |device| device.restarts == 1).await;
    let put_back = || async {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while bed.fleet.device(&key).unwrap().ota != "disabled" {
            assert!(tokio::time::Instant::now() < deadline, "the switch stays on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    put_back().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_hardware_takes_the_place_of_broken_hardware() {
    let mut devices = Devices::at(&[address(41, 12, 1)]).await;
    let wanted = Wanted {
        ranges: vec!["127.41.12.0/29"],
        scan_every: Some(Duration::from_millis(300)),
        ..Wanted::default()
    };
    let bed = Bed::start(&wanted, &devices.ways).await;
    let old = devices.key(0);
    bed.until(&old, |device| device.chip.is_some()).await;
    let change = DeviceChange {
        name: Some(Some("Bath".to_owned())),
        ..DeviceChange::default()
    };
    bed.fleet.change(&old, change, "a test").await.unwrap();
    bed.fleet
        .set_password(&old, Some("its own".into()), "a test")
        .await
        .unwrap();
    bed.fleet
        .enroll(std::slice::from_ref(&old), "a test")
        .await
        .unwrap();
    let new = devices.add(Config::new(address(41, 12, 2))).await.unwrap();
    let new = devices.key(new);
    bed.until(&new, online).await;
    let refused = bed.fleet.replace(&old, &new, "a test").await.unwrap_err();
    assert_eq!(
        refused.kind,
        FleetErrorKind::Conflict,
        "the old one still answers"
    );
    drop(devices.running.remove(0));
    bed.until(&old, |device| device.state == State::Offline).await;
    let device = bed.fleet.replace(&old, &new, "a test").await.unwrap();
    assert_eq!((device.id.as_str(), device.name.as_str()), (new.as_str(), "Bath"));
    assert!(device.enrolled && device.has_password);
    let id = model::id::DeviceId::from_hardware(&model::id::FamilyId::new("ir-remote"), new.as_str());
    let password = bed.fleet.secret(&id).unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(&password), "its own");
    assert!(bed.fleet.device(&old).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_everybody_knows_is_flagged() {
    let devices = Devices::at(&[address(41, 13, 1)]).await;
    let wanted = Wanted {
        devices: vec![listed("127.41.13.1", None)],
        password: Some("ir_remote_update"),
        ..Wanted::default()
    };
    let bed = Bed::start(&wanted, &devices.ways).await;
    let key = devices.key(0);
    let flagged = |device: &server::views::DeviceView| {
        device
            .warnings
            .iter()
            .any(|warning| warning.rule == "default-password")
    };
    bed.until(&key, flagged).await;
    bed.fleet
        .set_password(&key, Some("its own".into()), "a test")
        .await
        .unwrap();
    assert!(!flagged(&bed.fleet.device(&key).unwrap()));
}
