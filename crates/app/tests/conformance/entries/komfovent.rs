//! Komfovent unit.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use families::Ways;
use model::family::Reason;
use model::image::Image;
use model::outcome::Ending;
use model::sighting::{Certainty, Sighting};
use model::version::Versions;
use sim::komfovent::{Config, Device, Fault, start};
use sim::{EventKind, EventSink};

use super::{Cut, Cuts, Entry, Later, Simulated, Wish};
use crate::bench::{Bench, own_address};

const PASSWORD: &str = "user";
/// Length of the files, bytes: some more than the least that is taken.
const LEN: usize = 150_000;
/// Last bytes of the one real file whose end is known (PROTOCOLS.md A6).
const TRAILER: &[u8] = b"5123456781234567800AA00AA00BB00BB\r\n";

pub(super) fn komfovent() -> Entry {
    Entry {
        name: "komfovent",
        images,
        kind: "mbin",
        cuts: Cuts::To(0..100 * 1024, "no-trailer"),
        is_opaque: true,
        sightings,
        versions,
        parts: &["controller", "panel"],
        chip: None,
        start: |wish| Box::pin(async move { boxed(simulated(wish, "12345678")) }),
        password: PASSWORD,
        best: (Ending::Updated, None),
        remembers,
    }
}

fn images() -> Vec<Image> {
    let mut bytes = vec![0x5a; LEN];
    bytes.extend_from_slice(TRAILER);
    vec![
        Image::new("C6_1_5_46_72_P1_1_1_5_48.mbin", bytes.clone()),
        Image::new("C6_1_3_28_38_20180428.mbin", bytes.clone()),
        Image::new("C8_1_1_14_27_P1_1_1_5_46.mbin", bytes),
    ]
}

fn sightings() -> Vec<(Sighting, Certainty)> {
    let address = IpAddr::from([192, 168, 0, 60]);
    let page = |server: &str| Sighting::Http {
        address,
        path: "/".to_owned(),
        status: 200,
        server: Some(server.to_owned()),
        body: b"<html></html>".to_vec(),
    };
    // C6 1.3.44.70, C6M 1.4.47.74 and C8 1.1.14.27 (PROTOCOLS.md A5).
    let registers = |words: [u16; 2]| Sighting::Modbus {
        address,
        first: 1000,
        words: words.to_vec(),
    };
    vec![
        (page("C6"), Certainty::Likely),
        (page("C6M"), Certainty::Likely),
        (page("C8"), Certainty::Likely),
        (registers([306, 49222]), Certainty::Told),
        (registers([4418, 61514]), Certainty::Told),
        (registers([8464, 57371]), Certainty::Told),
    ]
}

fn versions() -> Vec<Versions> {
    let controllers = [
        "C6 1.3.44.70",
        "C6 1.5.46.72",
        "C6 1.5.44.70",
        "C6M 1.4.47.74",
        "C8 1.1.14.27",
        "unknown",
        "C7 1.1.1.1",
        "",
    ];
    let panels = [
        None,
        Some("P1 1.1.5.46"),
        Some("P1 1.1.5.48"),
        Some("P1 2.1.1.9"),
        Some("unknown"),
    ];
    let mut versions = vec![Versions::default(), Versions::one("panel", "P1 1.1.5.46")];
    for controller in controllers {
        for panel in panels {
            let controller = Versions::one("controller", controller);
            versions.push(match panel {
                Some(panel) => controller.and("panel", panel),
                None => controller,
            });
        }
    }
    versions
}

struct Komfovent {
    unit: Device,
    events: EventSink,
}

fn simulated(wish: Wish, serial: &str) -> Komfovent {
    let mut config = Config::new(own_address());
    config.rate_bytes_per_s = 400_000;
    config.silence = Duration::from_millis(100);
    config.restart = Duration::from_millis(1500);
    config.serial = Some(serial.to_owned());
    if let Wish::CutAt(cut) = wish {
        config.faults.push(Fault::CutAt(match cut {
            Cut::AtOnce => 0,
            Cut::First => 1,
            Cut::Half => 50,
            // Of the whole body: the last bytes arrive, and nothing is made of them.
            Cut::Last => 100,
        }));
    }
    let events = EventSink::new();
    Komfovent {
        unit: start(config, events.clone()).unwrap(),
        events,
    }
}

fn boxed(simulated: Komfovent) -> Box<dyn Simulated> {
    Box::new(simulated)
}

impl Simulated for Komfovent {
    fn ip(&self) -> Ipv4Addr {
        self.unit.ip()
    }

    fn ways(&self) -> Ways {
        Ways {
            http_port: self.unit.http_port(),
            modbus_port: self.unit.modbus_port(),
            modbus_spacing: Duration::from_millis(10),
            stop_unit: true,
            ..Ways::default()
        }
    }

    fn n_pushes(&self) -> usize {
        self.events.count(|event| event.kind == EventKind::Receiving)
    }

    fn runs(&self, image: &Image) -> bool {
        // It tells no digest; its versions are those of the file's name.
        let running = self.unit.running();
        let panel = running.panel.unwrap_or_default();
        let name = format!("{} {panel}.mbin", running.controller).replace(" P", "_P");
        name.replace(' ', "_").replacen('.', "_", 6).as_str() == image.file_name()
    }

    fn standing(&self) -> String {
        let running = self.unit.running();
        format!("ventilates: {}, logged in: {}", running.on, running.n_sessions)
    }
}

/// The serial number, which only a login tells, is remembered; another unit in its place gets no image.
fn remembers() -> Later<()> {
    Box::pin(async {
        let entry = komfovent();
        let first = simulated(Wish::Good, "12345678");
        let bench = Bench::new(&entry, &first).await;
        let job = bench.push(&images()[0], PASSWORD).await;
        assert!(first.runs(&images()[0]), "{:?}", job.outcome());
        let id = bench.enroll().await.id;
        let notes = bench.notes(&id).await;
        let mut same = bench.driver(PASSWORD, notes.clone(), bench.answers(&id));
        same.prepare(None).await.unwrap();

        let second = simulated(Wish::Good, "87654321");
        let other = Bench::new(&entry, &second).await;
        let other_id = other.enroll().await.id;
        let mut driver = other.driver(PASSWORD, notes, other.answers(&other_id));
        let fault = driver.prepare(None).await.unwrap_err();
        assert_eq!(fault.reason, Reason::OtherDevice);
    })
}
