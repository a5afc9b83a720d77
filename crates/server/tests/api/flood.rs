//! A flood at the doors while the server pushes: RELIABILITY.md T37.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engine::{Engine, Finished, Start, Stop, Work};
use families::Ways;
use model::device::Device;
use model::family::{Notes, Target};
use model::image::{Image, Inspection};
use model::job::{MAX_PUSHES, Order, Proof};
use model::outcome::Ending;
use model::precheck::Permits;
use net::{Callback, Dialer, Networks, Site};
use server::api::{ApiSettings, Limits, Rate};
use sim::ir_remote::{self, Config};
use sim::{EventKind, EventSink};
use store::Store;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::house::{ALLOWED, House, Request};

const N_PUSHES: usize = 8;
/// Sockets that say nothing, or half a word. RELIABILITY.md says 2,000: that many are opened in the tests of the doors.
const N_IDLE: usize = 300;
/// Requests a second. RELIABILITY.md says 200; two cores do both sides here.
const N_REQUESTS_PER_S: u32 = 100;
const IMAGE_LEN: usize = 128 * 1024;
/// So slow that a push takes a good second.
const FLASH_BYTES_PER_S: u32 = 100_000;
const PASSWORD: &str = "ir_remote_update";

/// What pushes, as the server does: all of it in this process.
struct Bench {
    engine: Engine,
    store: Arc<Store>,
    site: Site,
    ways: Ways,
    _accepting: JoinSet<()>,
}

impl Bench {
    fn new(house: &House, ways: Ways) -> Self {
        let (callback, listening) = Callback::new(Ipv4Addr::LOCALHOST.into(), 0);
        let mut accepting = JoinSet::new();
        accepting.spawn(listening);
        Self {
            engine: Engine::new(Arc::clone(&house.store)).unwrap(),
            store: Arc::clone(&house.store),
            site: Site {
                dialer: Dialer::new(Networks::new([ALLOWED.parse().unwrap()]), None).into(),
                callback: Some(callback),
                pull: None,
            },
            ways,
            _accepting: accepting,
        }
    }

    async fn push(&self, address: Ipv4Addr, image: &Image) -> Finished {
        let family = families::named("ir-remote", &self.site, &self.ways).unwrap();
        let target = |answers| Target {
            address: address.into(),
            given_as: address.to_string(),
            username: None,
            secret: Some(PASSWORD.into()),
            chip: None,
            notes: Notes::default(),
            answers,
        };
        let snapshot = family
            .open(target(Arc::new(engine::NoAnswers)))
            .probe()
            .await
            .unwrap();
        let id = snapshot.id.clone();
        self.store
            .upsert_device(&id, address.into(), None, 1)
            .await
            .unwrap();
        self.store.enroll(&id, 1).await.unwrap();
        let device = Device {
            id: id.clone(),
            address: address.into(),
            hardware: snapshot.hardware.clone(),
            slot_bytes: None,
            versions: snapshot.versions.clone(),
        };
        let Inspection::Accepted(info) = family.inspect(image) else {
            panic!("it is an image");
        };
        let order = Order {
            device: id.clone(),
            image: info,
            method: family.methods(&device)[0].clone(),
            timing: family.timing(&device, image.len_bytes()),
            soak: Duration::from_secs(1),
            proof: Proof::Watched,
            record: None,
            rollout: None,
            max_pushes: MAX_PUSHES,
        };
        let lease = self.engine.lease(&id).await.unwrap();
        let (_stop, stopped) = watch::channel(Stop::No);
        let work = Work {
            family: &*family,
            driver: family.open(target(self.engine.answers(&id))),
            device,
            image,
            refusals: &[],
            permits: &Permits::default(),
            report: &|_| {},
            stop: stopped,
        };
        let finished = self
            .engine
            .run(&lease, work, Start::New(Box::new(order)))
            .await
            .unwrap();
        self.engine.release(lease).await;
        finished
    }

    /// Pushes to all at once, and says how long each took.
    async fn push_to_all(&self, devices: &[ir_remote::Device], version: &str) -> Vec<Duration> {
        let bytes = sim::firmware::image("esp32c6".parse().unwrap(), Some(version), IMAGE_LEN, 1);
        let image = Image::new("firmware.bin", bytes);
        let pushes = devices.iter().map(async |device| {
            let began = Instant::now();
            let finished = self.push(device.ip(), &image).await;
            let outcome = finished.job.outcome().unwrap();
            assert_eq!(outcome.ending, Ending::Updated, "{outcome:?}");
            assert!(finished.unrecorded.is_none(), "{finished:?}");
            assert_eq!(device.running().version, version);
            began.elapsed()
        });
        futures_util::future::join_all(pushes).await
    }
}

/// Keeps sockets open that ask for nothing, and asks again and again, until it is told to stop.
async fn flood(house: &House, stop: &AtomicBool, n_answered: &AtomicUsize, n_refused: &AtomicUsize) {
    let whoami = Request::new("GET", "/api/v1/whoami").token(&house.viewer).bytes();
    let mut idle = Vec::new();
    let mut asking = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / N_REQUESTS_PER_S);
    while !stop.load(Ordering::SeqCst) {
        ticks.tick().await;
        for _ in 0..3 {
            if idle.len() >= N_IDLE {
                break;
            }
            let mut stream = house.connect().await;
            drop(
                stream
                    .write_all(b"GET /api/v1/whoami HTTP/1.1\r\nHost: loc")
                    .await,
            );
            idle.push(stream);
        }
        let (address, whoami) = (house.address, whoami.clone());
        asking.spawn(async move { crate::house::talk(crate::house::connect(address).await, &whoami).await });
        while let Some(asked) = asking.try_join_next() {
            match asked.unwrap().status {
                200 => n_answered.fetch_add(1, Ordering::SeqCst),
                429 => n_refused.fetch_add(1, Ordering::SeqCst),
                _ => 0,
            };
        }
    }
    asking.shutdown().await;
    assert_eq!(idle.len(), N_IDLE, "the flood was one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_at_the_doors_changes_nothing_of_eight_pushes() {
    let events = EventSink::new();
    let mut config = Config::new(Ipv4Addr::new(127, 77, 37, 1));
    config.rate_bytes_per_s = Some(FLASH_BYTES_PER_S);
    config.boot = Duration::from_millis(300);
    let devices = ir_remote::start_many(config, N_PUSHES, events.clone())
        .await
        .unwrap();
    let ways = Ways {
        ota_port: devices[0].ota_port(),
        http_port: devices[0].http_port(),
        ..Ways::default()
    };
    let few = ApiSettings {
        rate: Rate {
            per_second: 10.0,
            burst: 20.0,
        },
        ..ApiSettings::default()
    };
    let house = House::with(few, Limits::default()).await;
    let bench = Bench::new(&house, ways);
    let n_pushed = || events.count(|event| event.kind == EventKind::Receiving);

    let quiet = bench.push_to_all(&devices, "1.1").await;
    assert_eq!(n_pushed(), N_PUSHES);

    let stop = AtomicBool::new(false);
    let (n_answered, n_refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let pushing = async {
        let flooded = bench.push_to_all(&devices, "1.2").await;
        stop.store(true, Ordering::SeqCst);
        flooded
    };
    let (flooded, ()) = tokio::join!(pushing, flood(&house, &stop, &n_answered, &n_refused));
    assert_eq!(n_pushed(), 2 * N_PUSHES, "nothing was pushed a second time");
    let slowest = |took: &[Duration]| *took.iter().max().unwrap();
    // A machine that others use too may halve its pace; a push that waited for the flood would take as long as that.
    assert!(
        slowest(&flooded) < 2 * slowest(&quiet) + Duration::from_secs(3),
        "{quiet:?}, and in the flood {flooded:?}"
    );
    let (n_answered, n_refused) = (n_answered.into_inner(), n_refused.into_inner());
    assert!(
        n_answered > 0 && n_refused > n_answered,
        "of one token's requests {n_answered} were answered and {n_refused} refused"
    );
}
