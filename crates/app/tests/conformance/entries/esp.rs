//! IR Remote Mini and plain `ArduinoOTA` sketch.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use families::Ways;
use model::family::Notes;
use model::image::Image;
use model::outcome::Ending;
use model::sighting::{Certainty, Sighting};
use model::version::Versions;
use sha2::{Digest as _, Sha256};
use sim::ir_remote::{Auth, Config, Device, Fault, start};
use sim::{EventKind, EventSink};

use super::{Cut, Cuts, Entry, Simulated, Wish};
use crate::bench::{Bench, own_address};

const CHIP: &str = "esp32c6";
const PASSWORD: &str = "ir_remote_update";
/// Length of the images that are pushed, bytes: more than all buffers on the way hold.
const LEN: usize = 128 * 1024;

pub(super) fn ir_remote() -> Entry {
    Entry {
        name: "ir-remote",
        images,
        kind: "esp-app",
        cuts: Cuts::All,
        is_opaque: false,
        sightings,
        versions,
        parts: &["firmware"],
        chip: None,
        start: |wish| Box::pin(async move { boxed(simulated(wish, Auth::Md5, true).await) }),
        password: PASSWORD,
        best: (Ending::Updated, None),
        remembers: || Box::pin(the_form_that_worked_is_the_first_one_next_time(ir_remote(), true)),
    }
}

pub(super) fn arduino() -> Entry {
    Entry {
        name: "arduino",
        images,
        kind: "esp-app",
        cuts: Cuts::All,
        is_opaque: false,
        // It is never guessed.
        sightings: Vec::new,
        versions,
        parts: &["firmware"],
        chip: Some(CHIP),
        start: |wish| Box::pin(async move { boxed(simulated(wish, Auth::Md5, false).await) }),
        password: PASSWORD,
        best: (Ending::Unverified, Some("no status API")),
        remembers: || Box::pin(the_form_that_worked_is_the_first_one_next_time(arduino(), false)),
    }
}

fn image(version: &str, len: usize, seed: u8) -> Image {
    let bytes = sim::firmware::image(CHIP.parse().unwrap(), Some(version), len, seed);
    Image::new("firmware.bin", bytes)
}

/// The first is the one that is pushed, the second the smallest there is.
fn images() -> Vec<Image> {
    vec![image("1.1", LEN, 1), image("2.0", 0, 2)]
}

fn sightings() -> Vec<(Sighting, Certainty)> {
    let address = IpAddr::from([192, 168, 1, 40]);
    let status = br#"{"deviceType":"mini","macAddress":"A0:B1:C2:D3:E4:F5","firmwareVersion":"1.0"}"#;
    let announced = |service: &str| Sighting::Mdns {
        service: service.to_owned(),
        instance: "IR-Remote-Mini".to_owned(),
        address,
        port: 3232,
    };
    vec![
        (
            Sighting::Http {
                address,
                path: "/api/status".to_owned(),
                status: 200,
                server: None,
                body: status.to_vec(),
            },
            Certainty::Told,
        ),
        (announced("_arduino._tcp"), Certainty::Likely),
        (announced("_http._tcp"), Certainty::Likely),
        (
            Sighting::Host {
                name: "IR-Remote-Mini-2.local".to_owned(),
                address,
            },
            Certainty::Likely,
        ),
        (
            Sighting::Mqtt {
                topic: "home/ir_remote_mini/status".to_owned(),
                payload: br#"{"device":"ir_receiver_mini","uptime":12}"#.to_vec(),
            },
            Certainty::Likely,
        ),
    ]
}

fn versions() -> Vec<Versions> {
    let texts = [
        "1.0",
        "1.0.0",
        "v1.0",
        "1.9",
        "1.10",
        "2.0.0",
        "beta",
        "1.0-rc1",
        "",
        "1..0",
        "4294967296.0",
    ];
    let mut versions: Vec<Versions> = texts
        .iter()
        .map(|text| Versions::one("firmware", *text))
        .collect();
    versions.push(Versions::default());
    versions
}

struct Esp {
    device: Device,
    events: EventSink,
}

async fn simulated(wish: Wish, auth: Auth, has_status: bool) -> Esp {
    let mut config = Config::new(own_address());
    config.auth = auth;
    // Long enough to be missed by one who looks now and then.
    config.boot = Duration::from_millis(1500);
    if !has_status {
        config.faults.push(Fault::NoStatusApi);
    }
    match wish {
        Wish::ToBePutBack if has_status => config.faults.push(Fault::OtaOff),
        // What tells nothing cannot be told to take updates either.
        Wish::Good | Wish::ToBePutBack => {}
        Wish::CutAt(cut) => {
            let len = u32::try_from(images()[0].len_bytes()).unwrap();
            config.faults.push(Fault::DropAfter(match cut {
                Cut::AtOnce => 0,
                Cut::First => 1,
                Cut::Half => len / 2,
                Cut::Last => len - 1,
            }));
        }
    }
    let events = EventSink::new();
    let device = start(config, events.clone()).await.unwrap();
    Esp { device, events }
}

fn boxed(simulated: Esp) -> Box<dyn Simulated> {
    Box::new(simulated)
}

impl Simulated for Esp {
    fn ip(&self) -> Ipv4Addr {
        self.device.ip()
    }

    fn ways(&self) -> Ways {
        Ways {
            ota_port: self.device.ota_port(),
            http_port: self.device.http_port(),
            ..Ways::default()
        }
    }

    fn n_pushes(&self) -> usize {
        self.events.count(|event| event.kind == EventKind::Receiving)
    }

    fn runs(&self, image: &Image) -> bool {
        self.device.running().sha256 == Some(hex::encode(Sha256::digest(image.bytes())))
    }

    fn standing(&self) -> String {
        format!("OTA enabled: {}", self.device.running().ota_enabled)
    }
}

/// A device that keeps its password in a form of its own turns down one answer, and only the first time.
async fn the_form_that_worked_is_the_first_one_next_time(entry: Entry, has_status: bool) {
    let esp = simulated(Wish::Good, Auth::Pbkdf2Md5, has_status).await;
    let bench = Bench::new(&entry, &esp).await;
    for (image, n_answers) in [(image("1.1", LEN, 1), 2), (image("1.2", LEN, 2), 3)] {
        let job = bench.push(&image, PASSWORD).await;
        assert!(esp.runs(&image), "{:?}", job.outcome());
        let counters = esp.device.counters();
        assert_eq!((counters.answers, counters.rejected), (n_answers, 1));
    }
    let id = bench.enroll().await.id;
    assert_ne!(bench.notes(&id).await, Notes::default());
}
