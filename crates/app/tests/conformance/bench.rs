//! The real engine with a journal of its own, and a family's driver on a simulated device.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use engine::{Engine, Start, Stop, Work};
use families::Ways;
use model::device::{Device, Snapshot};
use model::family::{Answers, Driver, Family, Notes, Target, Timing};
use model::id::DeviceId;
use model::image::{Image, Inspection};
use model::job::{Job, MAX_PUSHES, Order, Proof};
use model::precheck::Permits;
use model::version::Versions;
use net::{Callback, Dialer, Networks, Site};
use secrecy::SecretString;
use store::Store;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::entries::{Entry, Simulated};

/// What the simulated devices need; a real one gets what its family says.
const QUIET: Duration = Duration::from_secs(2);
const GONE_WITHIN: Duration = Duration::from_secs(3);
const BACK_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long an updated device must stay up.
const SOAK: Duration = Duration::from_millis(500);

/// A loopback address that no other device of this process has.
pub(crate) fn own_address() -> Ipv4Addr {
    static N_TAKEN: AtomicU32 = AtomicU32::new(0);
    let n = N_TAKEN.fetch_add(1, Ordering::Relaxed);
    // Processes that run at the same time keep apart by their id, though a free port would do as well.
    let [.., process] = std::process::id().to_be_bytes();
    let [_, _, high, low] = (n * 4 + 4).to_be_bytes();
    Ipv4Addr::new(127, 64 + process / 2, high, low)
}

/// A site for what opens nothing.
pub(crate) fn nowhere() -> Site {
    Site {
        dialer: Dialer::new(Networks::new([]), None).into(),
        callback: None,
        pull: None,
    }
}

/// The family with this name.
pub(crate) fn family(name: &str, site: &Site, ways: &Ways) -> Arc<dyn Family> {
    let all = families::all(site, ways);
    all.into_iter()
        .find(|family| family.id().as_str() == name)
        .unwrap()
}

/// Whoever updates devices: a journal, an engine, and a family with its ways to one simulated device.
pub(crate) struct Bench<'a> {
    entry: &'a Entry,
    pub(crate) simulated: &'a dyn Simulated,
    pub(crate) family: Arc<dyn Family>,
    pub(crate) store: Arc<Store>,
    engine: Engine,
    _folder: TempDir,
    _listening: JoinSet<()>,
}

impl<'a> Bench<'a> {
    pub(crate) async fn new(entry: &'a Entry, simulated: &'a dyn Simulated) -> Self {
        let address = IpAddr::V4(simulated.ip());
        let (callback, listening) = Callback::new(Ipv4Addr::LOCALHOST.into(), 0);
        let mut tasks = JoinSet::new();
        tasks.spawn(listening);
        let site = Site {
            dialer: Dialer::new(Networks::only(address), None).into(),
            callback: Some(callback),
            pull: None,
        };
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path()).await.unwrap());
        Self {
            entry,
            simulated,
            family: family(entry.name, &site, &simulated.ways()),
            engine: Engine::new(store.clone()).unwrap(),
            store,
            _folder: folder,
            _listening: tasks,
        }
    }

    /// A driver as the program opens one.
    pub(crate) fn driver(&self, secret: &str, notes: Notes, answers: Arc<dyn Answers>) -> Box<dyn Driver> {
        let address = IpAddr::V4(self.simulated.ip());
        self.family.open(Target {
            address,
            given_as: address.to_string(),
            username: None,
            secret: Some(SecretString::from(secret.to_owned())),
            chip: self.entry.chip.map(str::to_owned),
            notes,
            answers,
        })
    }

    /// Looks at the device and enrols it, as naming it to `push` does.
    pub(crate) async fn enroll(&self) -> Snapshot {
        let mut driver = self.driver("", Notes::default(), Arc::new(engine::NoAnswers));
        let snapshot = driver.probe().await.unwrap();
        let now = self.engine.clock().now().wall_ms;
        let address = IpAddr::V4(self.simulated.ip());
        self.store
            .upsert_device(&snapshot.id, address, None, now)
            .await
            .unwrap();
        self.store.enroll(&snapshot.id, now).await.unwrap();
        snapshot
    }

    /// The ledger of an enrolled device.
    pub(crate) fn answers(&self, id: &DeviceId) -> Arc<dyn Answers> {
        self.engine.answers(id)
    }

    /// What is remembered of the device.
    pub(crate) async fn notes(&self, id: &DeviceId) -> Notes {
        self.store.device(id).await.unwrap().unwrap().notes
    }

    /// Pushes an image once, from the first look to the end.
    pub(crate) async fn push(&self, image: &Image, secret: &str) -> Job {
        let snapshot = self.enroll().await;
        let id = snapshot.id.clone();
        let Inspection::Accepted(info) = self.family.inspect(image) else {
            panic!("{}: its own image is refused", self.entry.name);
        };
        let now = self.engine.clock().now().wall_ms;
        self.store.put_image(image, now).await.unwrap();
        let device = Device {
            id: id.clone(),
            address: IpAddr::V4(self.simulated.ip()),
            hardware: snapshot.hardware,
            slot_bytes: None,
            versions: Versions::default(),
        };
        let order = Order {
            device: id.clone(),
            image: info,
            method: self.family.methods(&device)[0].clone(),
            timing: hurried(&self.family.timing(&device, image.len_bytes())),
            soak: SOAK,
            proof: Proof::Watched,
            record: self.store.installed(&id).await.unwrap(),
            rollout: None,
            max_pushes: MAX_PUSHES,
        };
        let driver = self.driver(secret, self.notes(&id).await, self.answers(&id));
        let (_stop, stopped) = watch::channel(Stop::No);
        let work = Work {
            family: &*self.family,
            driver,
            device,
            image,
            refusals: &[],
            permits: &Permits::default(),
            report: &|_| {},
            stop: stopped,
        };
        let lease = self.engine.lease(&id).await.unwrap();
        let finished = self.engine.run(&lease, work, Start::New(Box::new(order))).await;
        self.engine.release(lease).await;
        let finished = finished.unwrap();
        assert!(finished.unrecorded.is_none(), "{:?}", finished.unrecorded);
        finished.job
    }
}

/// Simulated devices restart in a second or two, and are never busy with a broken push for long.
fn hurried(timing: &Timing) -> Timing {
    Timing {
        push: timing.push,
        quiet: timing.quiet.min(QUIET),
        gone_within: timing.gone_within.min(GONE_WITHIN),
        back_within: timing.back_within.min(BACK_WITHIN),
        look_every: timing.look_every.min(LOOK_EVERY),
    }
}
