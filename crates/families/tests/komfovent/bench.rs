//! A simulated unit, the family, and a job run over both without a journal.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use families::Ways;
use model::device::Device;
use model::family::{Answers, Driver, Family, Fault, Notes, Target, Timing, Undo};
use model::image::{Image, ImageInfo, Inspection};
use model::job::{Act, Job, MAX_PUSHES, Order, Phase, Proof, Seen, next};
use model::outcome::Ending;
use model::precheck::{Permits, precheck};
use model::progress::Progress;
use model::time::Now;
use net::{Dialer, Networks, Site};
use sim::EventSink;
use sim::komfovent::{Config, Device as Unit, Fault as SimFault, Registers, start};

pub(crate) const NEW: &str = "C6_1_5_46_72_P1_1_1_5_48.mbin";

/// Counts password answers, and how many of them were taken.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) given: AtomicU32,
    pub(crate) accepted: AtomicU32,
}

#[async_trait]
impl Answers for Tally {
    async fn count(&self) -> Result<(), Fault> {
        self.given.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::SeqCst);
    }
}

/// A quick unit: 2 MB/s, hardly silent, back after 1 s.
pub(crate) fn quick() -> Config {
    let mut config = Config::new(Ipv4Addr::LOCALHOST);
    config.rate_bytes_per_s = 2_000_000;
    config.silence = Duration::from_millis(100);
    config.restart = Duration::from_secs(1);
    config
}

pub(crate) fn with(faults: &[SimFault]) -> Config {
    let mut config = quick();
    config.faults = faults.to_vec();
    config
}

pub(crate) fn registers(json: &str) -> Config {
    let mut config = quick();
    config.registers = Registers::from_json(json).unwrap();
    config
}

/// A file of the right size and end; what is between is opaque.
pub(crate) fn image(name: &str) -> Image {
    let mut bytes = vec![0x5a; 150_000];
    bytes.extend_from_slice(b"5123456781234567800AA00AA00BB00BB\r\n");
    Image::new(name, bytes)
}

/// What is always put back.
pub(crate) fn log_out() -> Undo {
    Undo {
        text: "log out".to_owned(),
        value: serde_json::json!({ "logout": true, "start": false }),
    }
}

pub(crate) struct Bench {
    pub(crate) unit: Unit,
    pub(crate) ways: Ways,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<&'static str>,
    pub(crate) notes: Notes,
    pub(crate) tally: Arc<Tally>,
    pub(crate) timing: Timing,
    pub(crate) permits: Permits,
    begun: Instant,
}

impl Bench {
    pub(crate) fn new(config: Config) -> Self {
        let unit = start(config, EventSink::new()).unwrap();
        let ways = Ways {
            http_port: unit.http_port(),
            modbus_port: unit.modbus_port(),
            modbus_spacing: Duration::from_millis(10),
            ..Ways::default()
        };
        Self {
            unit,
            ways,
            username: None,
            password: Some("user"),
            notes: Notes::default(),
            tally: Arc::default(),
            timing: Timing {
                push: Duration::from_secs(1),
                quiet: Duration::from_secs(2),
                gone_within: Duration::from_secs(2),
                back_within: Duration::from_secs(6),
                look_every: Duration::from_millis(50),
            },
            permits: Permits::default(),
            begun: Instant::now(),
        }
    }

    pub(crate) fn family(&self) -> Arc<dyn Family> {
        let site = Site {
            dialer: Arc::new(Dialer::new(Networks::only(self.unit.ip().into()), None)),
            callback: None,
            pull: None,
        };
        let all = families::all(&site, &self.ways);
        all.into_iter()
            .find(|family| family.id().as_str() == "komfovent")
            .unwrap()
    }

    pub(crate) fn driver(&self) -> Box<dyn Driver> {
        self.family().open(Target {
            address: self.unit.ip().into(),
            given_as: "ventilation.local".to_owned(),
            username: self.username.clone(),
            secret: self.password.map(Into::into),
            chip: None,
            notes: self.notes.clone(),
            answers: self.tally.clone(),
        })
    }

    fn now(&self) -> Now {
        Now {
            boot: Duration::from_hours(1) + self.begun.elapsed(),
            wall_ms: 1_700_000_000_000 + i64::try_from(self.begun.elapsed().as_millis()).unwrap(),
        }
    }

    fn inspect(&self, image: &Image) -> ImageInfo {
        match self.family().inspect(image) {
            Inspection::Accepted(info) => info,
            other => panic!("{other:?}"),
        }
    }

    /// Runs a job from its first look to its end.
    pub(crate) async fn run(&self, file_name: &str) -> Job {
        let image = image(file_name);
        let info = self.inspect(&image);
        let family = self.family();
        let mut driver = self.driver();
        // Whoever enrols the device has read its identity; here a unit that is silent has none.
        let looked = driver.probe().await;
        let id = looked.map_or_else(
            |_| model::id::DeviceId::weak(&family.id(), "nobody"),
            |snapshot| snapshot.id,
        );
        let device = Device {
            id: id.clone(),
            address: self.unit.ip().into(),
            hardware: model::device::Hardware::default(),
            slot_bytes: None,
            versions: model::version::Versions::default(),
        };
        let order = Order {
            device: id,
            image: info.clone(),
            method: family.methods(&device)[0].clone(),
            timing: self.timing.clone(),
            soak: Duration::ZERO,
            proof: Proof::Watched,
            record: None,
            rollout: None,
            max_pushes: MAX_PUSHES,
        };
        let (mut job, mut act) = next(Job::new(order), Seen::Begun, self.now());
        loop {
            let seen = match act {
                Act::Probe { after } => {
                    tokio::time::sleep(after).await;
                    Seen::Checked(driver.probe().await.map(|snapshot| {
                        let mut device = device.clone();
                        device.versions = snapshot.versions.clone();
                        let checked = precheck(
                            &*family,
                            &device,
                            &snapshot,
                            (&image, &info, &[]),
                            None,
                            &self.permits,
                        );
                        let undo = family.undo(&snapshot);
                        (snapshot, checked, undo)
                    }))
                }
                Act::CommitUndo | Act::CommitIntent => Seen::Committed,
                Act::Prepare => Seen::Prepared(driver.prepare(job.undo.as_ref()).await),
                Act::Push => {
                    let begun = Instant::now();
                    let method = job.order.method.clone();
                    let result = driver.push(&method, &image, &Progress::default()).await;
                    Seen::Pushed {
                        result,
                        took: begun.elapsed(),
                    }
                }
                Act::Watch { every } => {
                    tokio::time::sleep(every).await;
                    let before = job.evidence.before.as_ref().map(|look| look.snapshot.clone());
                    Seen::Looked(driver.probe().await.map(|snapshot| {
                        let before = before.unwrap_or_else(|| snapshot.clone());
                        let label = family.label(&before, &info, None, &snapshot);
                        (snapshot, label)
                    }))
                }
                Act::Undo { after } => {
                    tokio::time::sleep(after).await;
                    Seen::Undone(driver.undo(job.undo.as_ref().unwrap()).await)
                }
                Act::Finish => return job,
            };
            (job, act) = next(job, seen, self.now());
        }
    }

    /// Runs a job with the usual file and checks how it ends, and that nobody is logged in then.
    #[track_caller]
    pub(crate) fn assert_ends(&self, job: &Job, ending: Ending, reason: Option<&str>) {
        assert!(matches!(job.phase, Phase::Finished { .. }));
        let outcome = job.outcome().unwrap();
        let counters = self.unit.counters();
        assert_eq!(
            (outcome.ending, outcome.reason.as_deref()),
            (ending, reason),
            "{outcome:?}\n{counters:?}\n{:?}",
            job.evidence
        );
        assert_eq!(self.unit.running().n_sessions, 0, "somebody is still logged in");
    }
}
