//! What discovery may see of a unit (PROTOCOLS.md A1 and A5). Nothing here logs in.

use std::net::IpAddr;

use model::id::FamilyId;
use model::sighting::{Candidate, Certainty, Lookout, Sighting};

use super::modbus::word;
use super::version::{Controller, Model};
use crate::Ways;

/// The page asked for: any will do, as all replies carry the header that tells.
const PATH: &str = "/";
/// The first register of the controller's version, counted from 1; it has two.
const CONTROLLER: u16 = 1000;
const N_CONTROLLER: u16 = 2;
/// Smallest first number of a controller's version. Guess: every unit known has 1; a stranger's registers mostly hold small
/// numbers, which would read as 0.
const FIRST_NUMBER_MIN: u8 = 1;

/// Where units are to be looked for.
pub(super) fn lookouts(ways: &Ways) -> Vec<Lookout> {
    vec![
        Lookout::Http {
            port: ways.http_port,
            path: PATH,
        },
        Lookout::Modbus {
            port: ways.modbus_port,
            first: CONTROLLER,
            count: N_CONTROLLER,
        },
    ]
}

/// Whether a sighting is a unit: its web server names the controller, its registers prove it.
pub(super) fn recognise(family: &FamilyId, sighting: &Sighting) -> Option<Candidate> {
    let candidate = |address: IpAddr, certainty| Candidate {
        family: family.clone(),
        address: Some(address),
        // The serial number takes a login, and the MAC address a closer look.
        id: None,
        certainty,
        told: None,
    };
    match sighting {
        Sighting::Http { address, server, .. } => {
            Model::parse(server.as_deref()?.trim())?;
            Some(candidate(*address, Certainty::Likely))
        }
        Sighting::Modbus {
            address,
            first,
            words,
        } => {
            let at = usize::from(CONTROLLER.checked_sub(*first)?);
            let words = words.get(at..at.checked_add(usize::from(N_CONTROLLER))?)?;
            let controller = Controller::unpack(word(words)?)?;
            (controller.numbers.first() >= FIRST_NUMBER_MIN).then(|| candidate(*address, Certainty::Told))
        }
        Sighting::Mdns { .. } | Sighting::Host { .. } | Sighting::Mqtt { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 0, 60));

    fn certainty(sighting: &Sighting) -> Option<Certainty> {
        let candidate = recognise(&FamilyId::new("komfovent"), sighting)?;
        assert_eq!((candidate.address, candidate.id), (Some(ADDRESS), None));
        Some(candidate.certainty)
    }

    fn web(server: Option<&str>) -> Option<Certainty> {
        certainty(&Sighting::Http {
            address: ADDRESS,
            path: "/".to_owned(),
            status: 200,
            server: server.map(str::to_owned),
            body: b"<html>".to_vec(),
        })
    }

    fn registers(first: u16, words: &[u16]) -> Option<Certainty> {
        certainty(&Sighting::Modbus {
            address: ADDRESS,
            first,
            words: words.to_vec(),
        })
    }

    #[test]
    fn a_web_server_that_calls_itself_a_controller_is_likely_a_unit() {
        for server in ["C6", "C6M", "C8", " C6 "] {
            assert_eq!(web(Some(server)), Some(Certainty::Likely), "{server:?}");
        }
    }

    #[test]
    fn a_web_server_with_another_name_or_none_is_no_unit() {
        for server in ["", "C7", "c6", "C6/1.0", "C64", "nginx", "Apache (C6)"] {
            assert_eq!(web(Some(server)), None, "{server:?}");
        }
        assert_eq!(web(None), None);
    }

    #[test]
    fn registers_with_a_controllers_version_tell_the_unit() {
        // C6 1.3.44.70, C6M 1.4.47.74 and C8 1.1.14.27 (PROTOCOLS.md A5), alone and in a longer block.
        for words in [[306, 49222], [4418, 61514], [8464, 57371]] {
            assert_eq!(registers(1000, &words), Some(Certainty::Told), "{words:?}");
            let block = [&[0, 7][..], &words, &[272, 20526]].concat();
            assert_eq!(registers(998, &block), Some(Certainty::Told), "{words:?}");
        }
    }

    #[test]
    fn registers_of_something_else_are_no_unit() {
        for (first, words) in [
            (1000, &[0, 0][..]),
            (1000, &[0, 230]),
            (1000, &[0xffff, 0xffff]),
            // Type 3 is no controller.
            (1000, &[0x3132, 0xc046]),
            (1000, &[306]),
            (1000, &[]),
            // Another block, whatever it holds.
            (1001, &[306, 49222]),
            (999, &[306, 49222]),
            (1, &[306, 49222]),
            (0, &[306, 49222]),
        ] {
            assert_eq!(registers(first, words), None, "{first} {words:?}");
        }
    }

    #[test]
    fn announcements_and_messages_are_never_a_units() {
        let announced = Sighting::Mdns {
            service: "_http._tcp".to_owned(),
            instance: "C6".to_owned(),
            address: ADDRESS,
            port: 80,
        };
        let message = Sighting::Mqtt {
            topic: "C6".to_owned(),
            payload: b"C6".to_vec(),
        };
        assert_eq!((certainty(&announced), certainty(&message)), (None, None));
    }

    #[test]
    fn it_is_looked_for_at_the_ports_that_its_owner_names() {
        let ways = Ways {
            http_port: 8080,
            modbus_port: 1502,
            ..Ways::default()
        };
        let expected = [
            Lookout::Http {
                port: 8080,
                path: "/",
            },
            Lookout::Modbus {
                port: 1502,
                first: 1000,
                count: 2,
            },
        ];
        assert_eq!(lookouts(&ways), expected);
    }
}
