//! A fleet in this process, over simulated devices on loopback.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use families::Ways;
use net::{Dialer, Networks, Site};
use server::firmware::Repository;
use server::fleet::{ConfiguredDevice, FamilySettings, Fleet, FleetSettings};
use server::metrics::Metrics;
use server::secrets::Sealer;
use server::views::{DeviceView, EventView};
use sim::EventSink;
use sim::ir_remote::{self, Config};
use store::Store;
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often devices are looked at.
pub(crate) const POLL: Duration = Duration::from_millis(150);

/// Devices of one test, all on the same ports of their own addresses.
pub(crate) struct Devices {
    pub(crate) running: Vec<ir_remote::Device>,
    pub(crate) events: EventSink,
    pub(crate) ways: Ways,
}

impl Devices {
    /// The first devices at these addresses; more can come later.
    pub(crate) async fn at(addresses: &[Ipv4Addr]) -> Self {
        // A port that is free at the first address may be taken at the next.
        for _ in 0..20 {
            if let Ok(devices) = Self::try_at(addresses).await {
                return devices;
            }
        }
        panic!("no common free ports at {addresses:?}");
    }

    async fn try_at(addresses: &[Ipv4Addr]) -> anyhow::Result<Self> {
        let mut all = Self {
            running: Vec::new(),
            events: EventSink::new(),
            ways: Ways {
                ota_port: 0,
                http_port: 0,
                ..Ways::default()
            },
        };
        for address in addresses {
            all.start(Config::new(*address), Duration::ZERO).await?;
        }
        Ok(all)
    }

    /// Starts one more on the common ports.
    pub(crate) async fn add(&mut self, config: Config) -> anyhow::Result<usize> {
        // The ports of one that was stopped are free as soon as its tasks have ended.
        self.start(config, PATIENCE).await
    }

    async fn start(&mut self, mut config: Config, patience: Duration) -> anyhow::Result<usize> {
        config.ota_port = self.ways.ota_port;
        config.http_port = self.ways.http_port;
        let deadline = tokio::time::Instant::now() + patience;
        let device = loop {
            match ir_remote::start(config.clone(), self.events.clone()).await {
                Err(_) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                started => break started?,
            }
        };
        self.ways.ota_port = device.ota_port();
        self.ways.http_port = device.http_port();
        self.running.push(device);
        Ok(self.running.len() - 1)
    }

    pub(crate) fn key(&self, idx: usize) -> String {
        self.running[idx]
            .mac()
            .to_string()
            .replace(':', "")
            .to_lowercase()
    }
}

/// A running fleet.
pub(crate) struct Bed {
    pub(crate) fleet: Fleet,
    pub(crate) store: Arc<Store>,
    pub(crate) events: broadcast::Receiver<EventView>,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
    folder: Option<tempfile::TempDir>,
}

/// What a test configures.
#[derive(Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) devices: Vec<ConfiguredDevice>,
    pub(crate) ranges: Vec<&'static str>,
    pub(crate) scan_every: Option<Duration>,
    pub(crate) auto_enroll: bool,
    pub(crate) password: Option<&'static str>,
    /// The family, if it is not the IR Remote Mini.
    pub(crate) family: Option<&'static str>,
}

pub(crate) fn listed(host: &str, name: Option<&str>) -> ConfiguredDevice {
    ConfiguredDevice {
        host: host.to_owned(),
        name: name.map(str::to_owned),
        username: None,
        password: None,
        chip: None,
        slot_bytes: None,
        group: None,
        tags: Vec::new(),
    }
}

fn site() -> Site {
    let loopback = "127.0.0.0/8".parse().unwrap();
    Site {
        dialer: Dialer::new(Networks::new([loopback]), None).into(),
        callback: None,
        pull: None,
    }
}

pub(crate) fn settings(wanted: &Wanted, ways: &Ways) -> FleetSettings {
    let family = families::named(wanted.family.unwrap_or("ir-remote"), &site(), ways).unwrap();
    FleetSettings {
        families: vec![FamilySettings {
            family,
            discovers: true,
            poll_every: POLL,
            username: None,
            password: wanted.password.map(secrecy::SecretString::from),
            devices: wanted.devices.clone(),
        }],
        scan_ranges: wanted.ranges.iter().map(|range| range.parse().unwrap()).collect(),
        scan_every: Some(wanted.scan_every.unwrap_or(Duration::from_mins(1))),
        mdns: false,
        multicast: net::Multicast::default(),
        broker: None,
        auto_enroll: wanted.auto_enroll,
    }
}

impl Bed {
    pub(crate) async fn start(wanted: &Wanted, ways: &Ways) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), wanted, ways).await
    }

    pub(crate) async fn start_in(folder: tempfile::TempDir, wanted: &Wanted, ways: &Ways) -> Self {
        let store = Arc::new(Store::open(folder.path()).await.unwrap());
        let engine = Engine::new(store.clone()).unwrap();
        let sealer = Arc::new(Sealer::open_or_make(folder.path()).unwrap());
        let families = families::all(&site(), ways);
        let repository = Repository::open(
            Store::clone(&store),
            families,
            engine.clock(),
            server::firmware::Settings::default(),
        )
        .await
        .unwrap();
        let fleet = Fleet::load(
            store.clone(),
            engine,
            site(),
            sealer,
            repository,
            Metrics::new(),
            settings(wanted, ways),
        )
        .await
        .unwrap();
        let events = fleet.events();
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (running, stop) = (fleet.clone(), cancel.clone());
        tasks.spawn(async move { running.run(stop).await });
        Self {
            fleet,
            store,
            events,
            cancel,
            tasks,
            folder: Some(folder),
        }
    }

    /// Ends it as a server ends, and starts it again over what it has stored.
    pub(crate) async fn restart(mut self, wanted: &Wanted, ways: &Ways) -> Self {
        let folder = self.stop().await;
        Self::start_in(folder, wanted, ways).await
    }

    pub(crate) async fn stop(&mut self) -> tempfile::TempDir {
        self.cancel.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.folder.take().unwrap()
    }

    /// Waits until a device is as it should be; says how it was last, where it never gets so.
    #[track_caller]
    pub(crate) fn until<'a>(
        &'a self,
        named: &'a str,
        fits: impl Fn(&DeviceView) -> bool + 'a,
    ) -> impl Future<Output = DeviceView> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            loop {
                let device = self.fleet.device(named);
                match device {
                    Ok(device) if fits(&device) => return device,
                    last => assert!(
                        tokio::time::Instant::now() < deadline,
                        "{caller}: {named} never got so; it is {last:#?}"
                    ),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Waits for an event of this kind about this device.
    #[track_caller]
    pub(crate) fn event<'a>(
        &'a mut self,
        kind: &'a str,
        device: &'a str,
    ) -> impl Future<Output = EventView> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let wait = async {
                loop {
                    let event = self.events.recv().await.unwrap();
                    if event.kind == kind && event.device.as_deref() == Some(device) {
                        return event;
                    }
                }
            };
            tokio::time::timeout(PATIENCE, wait)
                .await
                .unwrap_or_else(|_| panic!("{caller}: no {kind} of {device}"))
        }
    }
}

/// An address of this test program alone: the second and third numbers are the test's.
pub(crate) fn address(second: u8, third: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, second, third, last)
}

pub(crate) fn ip(address: Ipv4Addr) -> IpAddr {
    IpAddr::V4(address)
}
