//! One job by each way there is, what must hold after it, and what is left in the end.

use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sim::EventKind;
use sim::ir_remote::Fault;
use tokio::time::sleep;

use crate::world::{PATIENCE, SOON, Unit, World, remote, vent};

/// The number of the only rollout.
pub(crate) const ROLLOUT: i64 = 1;
/// The file that a ventilation unit gets; it runs `C6 1.3.44.70 / P1 1.1.5.46` before.
const VENT_FILE: &str = "C6_1_5_46_72_P1_1_1_5_48.mbin";

/// What is updated, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Case {
    Espota,
    Http,
    Vent,
}

/// What is left in the end, of the server and of the device; the same whatever happened on the way.
#[derive(Debug, PartialEq)]
pub(crate) struct Last {
    pub(crate) rollout: Value,
    pub(crate) member: Value,
    pub(crate) installed: Value,
    pub(crate) runs: String,
    pub(crate) n_flashed: u64,
    pub(crate) is_as_found: bool,
}

impl Case {
    pub(crate) async fn world(self, program: &Path) -> World {
        match self {
            // OTA is off at first, so that there is something to put back.
            Self::Espota | Self::Http => {
                let mut config = remote();
                config.faults = vec![Fault::OtaOff];
                World::of_remotes(program, vec![config], "").await
            }
            Self::Vent => World::of_vent(program, vent()).await,
        }
    }

    /// Runs of it at the same time; where most of a run is waiting, many.
    pub(crate) fn n_waiting(self) -> usize {
        match self {
            Self::Espota | Self::Http => 5,
            Self::Vent => 12,
        }
    }

    /// Brings the image, and says its digest.
    pub(crate) fn bring(self, world: &World) -> String {
        match self {
            Self::Espota | Self::Http => {
                let image = sim::firmware::image("esp32c6".parse().unwrap(), Some("1.1"), 64 * 1024, 1);
                world.firmware("remote.bin", &image)
            }
            Self::Vent => world.firmware(VENT_FILE, &sim::firmware::mbin(120_000, 1)),
        }
    }

    /// The wish for all devices to get this image, by this way alone.
    pub(crate) fn wanted(self, firmware: &str) -> Value {
        match self {
            Self::Espota => json!({ "all": true, "firmware": firmware, "method": "espota" }),
            Self::Http => json!({ "all": true, "firmware": firmware, "method": "http" }),
            // It knows one way only.
            Self::Vent => json!({ "all": true, "firmware": firmware }),
        }
    }

    pub(crate) fn last(world: &World) -> Last {
        let rollout = world.rollout(ROLLOUT);
        let member = &rollout["members"][0];
        let device = world.get(&format!("devices/{}", world.id(0)));
        let (runs, is_as_found) = match &world.units[0] {
            Unit::Remote(device) => {
                let running = device.running();
                (
                    format!("{:?} {}", running.sha256, running.version),
                    !running.ota_enabled,
                )
            }
            Unit::Vent(device) => {
                let running = device.running();
                (
                    format!("{} {:?}", running.controller, running.panel),
                    running.n_sessions == 0 && running.on,
                )
            }
        };
        Last {
            rollout: json!([rollout["state"], rollout["ok"], rollout["counts"]]),
            member: json!([
                member["state"],
                member["reason"],
                member["sha256"],
                member["firmware"]
            ]),
            installed: json!([
                device["installed"]["sha256"],
                device["reported_version"],
                device["busy"]
            ]),
            runs,
            n_flashed: world.units[0].n_flashed(),
            is_as_found,
        }
    }

    /// Questions that an upload is by itself, beside looks.
    fn n_asked_by_push(self) -> u64 {
        match self {
            Self::Http => 1,
            Self::Espota | Self::Vent => 0,
        }
    }
}

/// Waits for the end after a start, and says how often the device was asked before it was pushed to, if it was.
pub(crate) async fn watch(world: &World, mark: usize, asked: u64) -> Option<u64> {
    let name = world.units[0].name();
    let mut pushed = pin!(world.events.wait_after(
        mark,
        |event| event.is(EventKind::Receiving, &name),
        PATIENCE
    ));
    let mut finished = pin!(world.until(ROLLOUT, "finished", |rollout| rollout["state"] == "finished"));
    let mut looks = None;
    loop {
        // What waits is polled again or not needed any more.
        tokio::select! {
            biased;
            _ = &mut pushed, if looks.is_none() => looks = Some(world.units[0].n_asked() - asked),
            _ = &mut finished => return looks,
        }
    }
}

pub(crate) fn steps_told(world: &World) -> Vec<String> {
    let of_job = |job: &Value| -> Vec<String> {
        let events = job["events"].as_array().unwrap();
        events
            .iter()
            .map(|event| event["step"].as_str().unwrap().to_owned())
            .collect()
    };
    world.jobs().iter().flat_map(of_job).collect()
}

/// What must hold after every run, by the device's log and the journal.
pub(crate) async fn check(case: Case, world: &World, what: &str, looks: Option<u64>) {
    let what = format!("{what}:\n{}", world.story());
    let n_pushes = world.n_pushes(0);
    assert!((1..=2).contains(&n_pushes), "{n_pushes} pushes; {what}");
    if let Some(looks) = looks {
        assert!(looks > case.n_asked_by_push(), "pushed to without a look; {what}");
    }
    // The journal tells what the device has seen: no push without an intent, and one intent more at most, as the server may
    // have died between the two.
    let mut n_intents = 0;
    for job in world.jobs() {
        let events = job["events"].as_array().unwrap();
        let seqs = events.iter().map(|event| event["seq"].as_u64().unwrap());
        assert!(seqs.eq(1..=events.len() as u64), "{job:#}; {what}");
        assert_eq!(events.last().unwrap()["step"], "finished", "{job:#}; {what}");
        assert!(!job["ended_ms"].is_null(), "{job:#}; {what}");
        let own = events.iter().filter(|event| event["step"] == "intent").count();
        assert_eq!(job["n_pushes"], own, "{job:#}; {what}");
        n_intents += own;
    }
    assert!(
        n_intents == n_pushes || n_intents == n_pushes + 1,
        "{n_intents} intents; {what}"
    );
    assert_eq!(world.get("rollouts").as_array().unwrap().len(), 1, "{what}");
    // Nothing is stuck: the same wish again is answered by the right word, as soon as the device was seen again.
    let wanted = json!({ "all": true, "firmware": world.rollout(ROLLOUT)["members"][0]["sha256"] });
    let deadline = Instant::now() + SOON;
    loop {
        let plan = world.post("plans", &wanted).body;
        if plan["left_out"][0]["reason"]["rule"] == "already-current" {
            return;
        }
        assert!(Instant::now() < deadline, "{plan:#}; {what}");
        sleep(Duration::from_millis(100)).await;
    }
}
