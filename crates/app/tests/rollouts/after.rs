//! What comes after the end of a job: putting back, quarantine, and ends that are proven late.

use std::time::Duration;

use model::family::{Fault as Broken, FaultKind, Method, Reach, Reason, Timing};
use model::id::{DeviceId, FamilyId, RolloutId, Sha256};
use model::image::{ImageInfo, VersionSource};
use model::installed::Installed;
use model::job::{Evidence, Job, Look, Order, Phase, Proof};
use model::outcome::{End, Ending, Outcome};
use model::time::Now;
use model::version::Versions;
use serde_json::{Value, json};
use sim::EventKind;
use sim::ir_remote::Fault;
use store::{Event, Holder, Liveness, MemberRow, NewRollout, Store};

use crate::home::{Home, SOON, member_rows, name};
use crate::support::{image, sha256};

const FIRST: usize = 0;
/// Longer than the simulated crash loop needs for two restarts.
const SOAK_S: u64 = 8;

/// Devices that run 1.1, which is kept, and the digests of that and of 1.2.
async fn on_1_1(n_devices: usize) -> (Home, String, String) {
    let home = Home::quick(n_devices).await;
    let old = home.firmware(Some("1.1"), 1);
    let id = home.roll_out(&json!({ "canary": 0 }));
    home.until_state(id, "finished").await;
    let new = home.firmware(Some("1.2"), 2);
    (home, old, new)
}

/// Begins a rollout whose first device keeps restarting; the image that comes after this one runs well again.
async fn looping(home: &Home) -> i64 {
    home.fault(FIRST, Fault::ReturnsButCrashes);
    let mark = home.events.log().len();
    let id = home.roll_out(&json!({ "canary_soak_s": SOAK_S, "soak_s": SOAK_S }));
    home.wait(FIRST, mark, EventKind::Receiving).await;
    // It has taken that image as soon as it is seen to be watched.
    home.until_member(id, FIRST, "soaking").await;
    home.devices[FIRST].set_faults(Vec::new());
    id
}

fn text(member: &Value) -> &str {
    member["text"].as_str().unwrap_or_default()
}

pub(crate) async fn one_that_keeps_restarting() {
    let (home, old, new) = on_1_1(3).await;
    let before = home.n_pushes(FIRST);
    let plan = home.post("plans", &json!({ "all": true })).is(200);
    let sentences = plan["sentences"].to_string();
    assert!(
        sentences.contains("keeps restarting then is put back"),
        "{sentences}"
    );
    let id = looping(&home).await;
    // The others are safe from the moment on in which it is known, and not only when it is put back.
    let halted = home.until_state(id, "halted").await;
    assert_eq!(halted["cause"]["rule"], "canary-failed", "{halted:#}");
    let ended = home.until_member(id, FIRST, "failed").await;
    let member = home.member(&ended, FIRST);
    assert_eq!(member["reason"], "boot loop", "{member:#}");
    assert!(text(member).ends_with("It was put back to 1.1."), "{member:#}");
    assert!(home.runs(FIRST, &old), "{}", home.log());
    assert_eq!(home.n_pushes(FIRST) - before, 2, "{}", home.log());
    for idx in [1, 2] {
        assert!(!home.runs(idx, &new), "{}", home.log());
    }
    let device = home.until_device(FIRST, "told", |device| {
        device["installed"]["sha256"] == old.as_str()
    });
    device.await;
}

/// Killed while it is put back: it is looked at, and never put back twice.
pub(crate) async fn killed_while_it_is_put_back() {
    let (mut home, old, new) = on_1_1(2).await;
    let before = home.n_pushes(FIRST);
    let id = looping(&home).await;
    home.until_state(id, "halted").await;
    home.kill();
    home.start().await;
    let ended = home.until_member(id, FIRST, "failed").await;
    let member = home.member(&ended, FIRST);
    assert_eq!(member["reason"], "boot loop", "{member:#}");
    assert!(text(member).contains("put back to 1.1"), "{member:#}");
    assert_eq!(ended["state"], "halted", "{ended:#}");
    assert!(home.n_pushes(FIRST) - before <= 2, "{}", home.log());
    let is_back = home.runs(FIRST, &old);
    assert_eq!(
        is_back,
        text(member).ends_with("It was put back to 1.1."),
        "{member:#}"
    );
    assert!(!home.runs(1, &new), "{}", home.log());
}

pub(crate) async fn without_a_way_back() {
    let home = Home::quick(1).await;
    home.firmware(Some("1.2"), 2);
    let plan = home.post("plans", &json!({ "all": true })).is(200);
    assert_eq!(plan["members"][0]["notes"][0]["rule"], "no-way-back", "{plan:#}");
    home.fault(FIRST, Fault::ReturnsButCrashes);
    let id = home.roll_out(&json!({ "soak_s": SOAK_S }));
    let ended = home.until_member(id, FIRST, "failed").await;
    let member = home.member(&ended, FIRST);
    assert!(
        text(member).ends_with("It was not put back: the image of 1.0 is not kept here."),
        "{member:#}"
    );
    assert_eq!(home.n_pushes(FIRST), 1, "{}", home.log());
}

pub(crate) async fn an_image_that_fails_on_three() {
    let (home, _, new) = on_1_1(5).await;
    for idx in 0..3 {
        home.fault(idx, Fault::KeepsOld);
    }
    let wishes = json!({ "canary": 0, "at_once": "1", "max_failures": "90%" });
    let id = home.roll_out(&wishes);
    let halted = home.until_state(id, "halted").await;
    let cause = &halted["cause"];
    assert_eq!(cause["rule"], "quarantined", "{halted:#}");
    for idx in 0..3 {
        assert!(cause["text"].as_str().unwrap().contains(&name(idx)), "{cause:#}");
    }
    for idx in [3, 4] {
        assert_eq!(home.member(&halted, idx)["state"], "queued", "{halted:#}");
        assert!(!home.runs(idx, &new), "{}", home.log());
    }
    let image = home.get(&format!("firmware/{new}"));
    assert_eq!(
        (&image["state"], &image["refusals"][0]["rule"]),
        (&json!("quarantined"), &json!("quarantined")),
        "{image:#}"
    );
    // The same file once more does not let it out.
    home.post("rollouts/stop", &json!({}));
    for wishes in [
        json!({ "all": true }),
        json!({ "all": true, "firmware": new, "force": true }),
    ] {
        let plan = home.post("plans", &wishes).is(200);
        for idx in 0..5 {
            assert_eq!(home.left_out(&plan, idx), "quarantined", "{plan:#}");
        }
    }
    let audit = home.get("audit?limit=1000");
    let entries = audit.as_array().unwrap();
    let entry = entries
        .iter()
        .find(|entry| entry["action"] == "firmware.quarantine");
    assert_eq!(entry.unwrap()["target"], new.as_str(), "{audit:#}");

    home.post(&format!("firmware/{new}/approve"), &json!({})).is(200);
    assert_eq!(home.get(&format!("firmware/{new}"))["state"], "approved");
    for idx in 0..3 {
        home.devices[idx].set_faults(Vec::new());
    }
    let id = home.roll_out(&json!({ "canary": 0 }));
    let finished = home.until_state(id, "finished").await;
    home.check(&finished, &["updated"; 5]);
}

/// What the journal keeps of a push to a device that was not seen again for an hour.
struct Left {
    device: DeviceId,
    /// What the image states, and its digest.
    image: ImageInfo,
}

impl Left {
    fn of(home: &Home, idx: usize, version: &str, seed: u8) -> Self {
        let bytes = image(Some(version), seed);
        Self {
            device: DeviceId::from_hardware(&FamilyId::new("ir-remote"), home.key(idx)),
            image: ImageInfo {
                family: Some(FamilyId::new("ir-remote")),
                kind: "esp-app".to_owned(),
                chip: Some("esp32c6".to_owned()),
                versions: Some(Versions::one("firmware", version)),
                version_source: VersionSource::Image,
                hint: None,
                project: None,
                signature: None,
                len_bytes: bytes.len() as u64,
                sha256: sha256(&bytes).parse().unwrap(),
                warnings: Vec::new(),
            },
        }
    }

    /// The job in three states: its intent, its push whose answer was lost, its end.
    fn states(&self, at: Now, rollout: Option<RolloutId>) -> [Job; 3] {
        let mut job = Job::new(Order {
            device: self.device.clone(),
            image: self.image.clone(),
            method: Method::new("espota"),
            timing: Timing {
                push: Duration::from_secs(1),
                quiet: Duration::from_secs(1),
                gone_within: Duration::from_secs(1),
                back_within: Duration::from_secs(1),
                look_every: Duration::from_secs(1),
            },
            soak: Duration::ZERO,
            proof: Proof::Watched,
            record: None,
            rollout,
            max_pushes: 2,
        });
        job.evidence = Evidence {
            before: Some(Look::new(
                model::device::Snapshot {
                    id: self.device.clone(),
                    versions: Versions::one("firmware", "0.9"),
                    // Longer than any simulated device has been up.
                    uptime: Some(Duration::from_hours(1_000)),
                    ota: model::device::Ota::Enabled,
                    busy: false,
                    host_name: None,
                    hardware: model::device::Hardware::default(),
                    health: model::device::Health::default(),
                },
                at,
            )),
            ..Evidence::default()
        };
        (job.n_pushes, job.bytes_left) = (1, true);
        let mut intent = job.clone();
        intent.phase = Phase::CommittingIntent;
        let mut pushed = job.clone();
        pushed.phase = Phase::Watching {
            end: End::Lost(Broken {
                kind: FaultKind::Unsure,
                reason: Reason::VerdictLost,
                text: "Every byte was taken, and no answer came.".to_owned(),
                reach: Reach::Whole,
                failed_answers: 0,
                next_step: None,
                said: None,
            }),
            since: at,
            gone_at: Some(at),
        };
        job.phase = Phase::Finished { outcome: no_return() };
        [intent, pushed, job]
    }

    /// Writes it into the journal of a server that does not run, as ended an hour ago on an earlier boot.
    async fn write(&self, store: &Store, rollout: Option<RolloutId>) {
        let at = an_hour_ago();
        let states = self.states(at, rollout);
        let grant = store
            .acquire_lease(&self.device, &Holder::this_process().unwrap(), at, |_| {
                Liveness::Dead
            })
            .await;
        let epoch = grant.unwrap().epoch();
        let installed = states[2].record_after().unwrap();
        let states = states.map(|job| json!(job));
        let event = |step, state| Event {
            attempt: 1,
            ..Event::new(step, state, "an earlier boot", at)
        };
        let digest = self.image.sha256;
        let first = event("intent", &states[0]);
        let job = store
            .start_job(&self.device, epoch, digest, rollout, &first)
            .await;
        let job = job.unwrap();
        store
            .append(job, epoch, &event("pushed", &states[1]))
            .await
            .unwrap();
        let outcome = no_return();
        let last = Event {
            finished: true,
            outcome: Some(&outcome),
            installed: store::Change::Set(&installed),
            ..event("finished", &states[2])
        };
        store.append(job, epoch, &last).await.unwrap();
        store.release_lease(&self.device, epoch).await.unwrap();
    }
}

fn no_return() -> Outcome {
    Outcome::because(Ending::Unverified, "no return", "It has not come back.", "Look.")
}

fn an_hour_ago() -> Now {
    let now = engine::Clock.now();
    Now {
        boot: Duration::from_hours(2_000),
        wall_ms: now.wall_ms - 3_600_000,
    }
}

async fn until_history(home: &Home, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let history = home.get("history");
        if fits(&history[0]) {
            return history[0].clone();
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "never {what}: {history:#}\n{}",
            home.told()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The server was away when its device came back; it sees it again, and the journal tells both.
pub(crate) async fn one_that_comes_back_an_hour_later() {
    let mut home = Home::with(1, |plan| "1.2".clone_into(&mut plan.device.version)).await;
    let left = Left::of(&home, FIRST, "1.2", 2);
    home.firmware(Some("1.2"), 2);
    home.terminate().await;
    let store = Store::open(home.folder()).await.unwrap();
    left.write(&store, None).await;
    store.close().await;
    home.start().await;
    let job = until_history(&home, "settled", |job| job["state"] == "updated").await;
    assert_eq!(job["reason"], "seen later", "{job:#}");
    assert!(
        job["text"].as_str().unwrap().contains("about 61 minutes"),
        "{job:#}"
    );
    let shown = home.get(&format!("jobs/{}", job["id"]));
    let steps: Vec<&str> = shown["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["step"].as_str())
        .collect();
    assert_eq!(steps, ["intent", "pushed", "finished", "corrected"], "{shown:#}");
    let device = home.until_device(FIRST, "known to run it", |device| {
        device["installed"]["sha256"] == left.image.sha256.to_string()
    });
    device.await;
    assert_eq!(home.n_pushes(FIRST), 0, "{}", home.log());
}

/// A label that tells nothing leaves it as it was; and so does another device's job since.
pub(crate) async fn one_that_comes_back_as_it_was() {
    let mut home = Home::with(1, |plan| "0.9".clone_into(&mut plan.device.version)).await;
    let left = Left::of(&home, FIRST, "0.9", 2);
    home.terminate().await;
    let store = Store::open(home.folder()).await.unwrap();
    left.write(&store, None).await;
    store.close().await;
    home.start().await;
    // The device is looked at, and that it was is told; then there is nothing more to wait for.
    let seen = |home: &Home| home.get(&format!("devices/{}", home.key(FIRST)))["last_seen_ms"].clone();
    let first = seen(&home);
    home.post("discovery/scan", &json!({}));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(8);
    while tokio::time::Instant::now() < deadline {
        let history = home.get("history");
        assert_eq!(history[0]["state"], "unverified", "{first} {history:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The member of a rollout is corrected with its job: one that is over, and one that has halted because of it.
pub(crate) async fn a_rollout_whose_canary_comes_back_late() {
    for is_over in [true, false] {
        let mut home = Home::with(2, |plan| "1.2".clone_into(&mut plan.device.version)).await;
        let left = Left::of(&home, FIRST, "1.2", 2);
        let digest = left.image.sha256;
        home.firmware(Some("1.2"), 2);
        home.terminate().await;
        let store = Store::open(home.folder()).await.unwrap();
        let id = stored_rollout(&store, &home, &left, digest).await;
        left.write(&store, Some(id)).await;
        let (course, members) = halted(&store, id, is_over).await;
        let ended_ms = is_over.then_some(an_hour_ago().wall_ms);
        store.save_rollout(id, &course, ended_ms, &members).await.unwrap();
        store.close().await;
        home.start().await;
        until_history(&home, "settled", |job| job["state"] == "updated").await;
        let deadline = tokio::time::Instant::now() + SOON;
        let rollout = loop {
            let rollout = home.rollout(id.0);
            if home.member(&rollout, FIRST)["state"] == "updated" {
                break rollout;
            }
            assert!(tokio::time::Instant::now() < deadline, "{rollout:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        // It waits for its owner all the same.
        let state = if is_over { "aborted" } else { "halted" };
        assert_eq!(rollout["state"], state, "{rollout:#}");
        home.is_untouched(1);
    }
}

async fn stored_rollout(store: &Store, home: &Home, left: &Left, image: Sha256) -> RolloutId {
    let members: Vec<Value> = (0..2)
        .map(|idx| {
            json!({ "device": DeviceId::from_hardware(&FamilyId::new("ir-remote"), home.key(idx)), "name": name(idx),
                    "runs": "0.9", "image": image, "image_name": "1.2", "len_bytes": left.image.len_bytes, "wave": idx })
        })
        .collect();
    let plan = json!({ "members": members, "n_waves": 2, "n_canaries": 1 });
    let rollout = model::fleet::Rollout::new(serde_json::from_value(plan.clone()).unwrap());
    let new = NewRollout {
        name: None,
        kind: "update",
        plan: &plan,
        state: &json!(rollout.course()),
        created_ms: an_hour_ago().wall_ms,
        created_by: "Ann",
        asked: None,
        predecessor: None,
        images: &[image],
    };
    store.create_rollout(&new, &member_rows(&rollout)).await.unwrap()
}

/// Its first member was not proven; the other waits, or was taken off.
async fn halted(store: &Store, id: RolloutId, is_over: bool) -> (Value, Vec<MemberRow>) {
    let whole = store.rollout(id).await.unwrap().unwrap();
    let mut course = whole.row.state;
    course["state"] = json!(if is_over { "aborted" } else { "halted" });
    let mut members = whole.members;
    members[0].state["state"] = json!({ "ended": { "outcome": no_return() } });
    if is_over {
        members[1].state["state"] = json!({ "ended": "cancelled" });
    }
    (course, members)
}

/// A record that somebody has made since outweighs what is seen.
pub(crate) async fn one_whose_owner_has_said_what_it_runs() {
    let mut home = Home::with(1, |plan| "1.2".clone_into(&mut plan.device.version)).await;
    let left = Left::of(&home, FIRST, "1.2", 2);
    home.terminate().await;
    let store = Store::open(home.folder()).await.unwrap();
    left.write(&store, None).await;
    let said = Installed {
        digest: Some(Sha256::of(b"another")),
        label: Versions::one("firmware", "1.2"),
        label_moves: true,
    };
    store.set_installed(&left.device, Some(&said), 1).await.unwrap();
    store.close().await;
    home.start().await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(8);
    while tokio::time::Instant::now() < deadline {
        assert_eq!(home.get("history")[0]["state"], "unverified");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
