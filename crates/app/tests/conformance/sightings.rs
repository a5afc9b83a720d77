//! Discovery: a family recognises its own devices and nobody else's.

use std::net::IpAddr;

use families::Ways;
use model::sighting::Sighting;

use crate::bench::{family, nowhere};
use crate::entries;

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 2));

/// What other things on a network show.
fn strangers() -> Vec<Sighting> {
    let page = |path: &str, status, server: Option<&str>, body: &[u8]| Sighting::Http {
        address: ADDRESS,
        path: path.to_owned(),
        status,
        server: server.map(str::to_owned),
        body: body.to_vec(),
    };
    let announced = |service: &str, instance: &str| Sighting::Mdns {
        service: service.to_owned(),
        instance: instance.to_owned(),
        address: ADDRESS,
        port: 80,
    };
    let message = |topic: &str, payload: &[u8]| Sighting::Mqtt {
        topic: topic.to_owned(),
        payload: payload.to_vec(),
    };
    let registers = |first, words: &[u16]| Sighting::Modbus {
        address: ADDRESS,
        first,
        words: words.to_vec(),
    };
    vec![
        page("/", 200, None, b""),
        page("/", 200, Some("nginx"), b"<html>C6</html>"),
        page("/api/status", 200, Some("lighttpd"), b"{}"),
        page("/api/status", 200, None, br#"{"deviceType":"maxi"}"#),
        page("/api/status", 404, None, br#"{"deviceType":"mini"}"#),
        page("/api/status", 200, None, b"\xff\xfe\0"),
        announced("_arduino._tcp", "esp32-garage"),
        announced("_http._tcp", "printer"),
        announced("_ipp._tcp", "IR-Remote-Mini"),
        Sighting::Host {
            name: "printer.local".to_owned(),
            address: ADDRESS,
        },
        message("home/ir_remote_mini/status", b"online"),
        message("zigbee2mqtt/bridge/state", br#"{"state":"online"}"#),
        registers(1000, &[0, 0]),
        registers(1000, &[0xffff, 0xffff]),
        registers(1, &[306, 49222]),
        registers(1000, &[]),
    ]
}

#[test]
fn a_family_recognises_its_own_sightings_and_says_how_sure_it_is() {
    for entry in entries::all() {
        let family = family(entry.name, &nowhere(), &Ways::default());
        for (sighting, certainty) in (entry.sightings)() {
            let candidate = family
                .recognise(&sighting)
                .unwrap_or_else(|| panic!("{} does not know {sighting:?}", entry.name));
            assert_eq!(candidate.family.as_str(), entry.name);
            assert_eq!(candidate.certainty, certainty, "{sighting:?}");
        }
    }
}

#[test]
fn a_family_recognises_nobody_elses_sightings() {
    let all = entries::all();
    for entry in &all {
        let family = family(entry.name, &nowhere(), &Ways::default());
        let others = all
            .iter()
            .filter(|other| other.name != entry.name)
            .flat_map(|other| (other.sightings)())
            .map(|(sighting, _)| sighting);
        for sighting in others.chain(strangers()) {
            let candidate = family.recognise(&sighting);
            assert_eq!(candidate, None, "{} takes {sighting:?} for its own", entry.name);
        }
    }
}
