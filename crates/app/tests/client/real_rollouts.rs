//! Rollouts of the real server at simulated devices: planned, watched, held, ended, taken back, and through its restart.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::real::{Server, done};
use crate::support::{Ended, PASSWORD, Rig, Running, SOON, image, reflash, run};

/// Short proofs, so that a test does not take minutes.
const QUICK: [&str; 4] = ["--soak", "1s", "--canary-soak", "1s"];

/// A server with enrolled devices of this pace on the same ports, called "Device 0" and so on.
struct Home {
    server: Server,
    rigs: Vec<Rig>,
}

impl Home {
    async fn start(n_devices: u8, rate_bytes_per_s: Option<u32>) -> Self {
        let mut rigs: Vec<Rig> = Vec::new();
        for idx in 0..n_devices {
            let ports = rigs
                .first()
                .map(|rig| (rig.device.ota_port(), rig.device.http_port()));
            let rig = Rig::start(|config| {
                config.mac = Some(format!("a0:b1:c2:d3:e4:0{idx}").parse().unwrap());
                config.rate_bytes_per_s = rate_bytes_per_s;
                if let Some((ota_port, http_port)) = ports {
                    config.ota_port = ota_port;
                    config.http_port = http_port;
                }
            });
            rigs.push(rig.await);
        }
        let ranges: Vec<String> = rigs
            .iter()
            .map(|rig| format!("\"{}/32\"", rig.device.ip()))
            .collect();
        let server = Server::with(&format!(
            "server:\n  allowed_networks: [\"127.0.0.0/8\"]\n\
             ir_remote_ota:\n  network_range: [{}]\n  http_port: {}\n  ota_port: {}\n  ota_password: {PASSWORD}\n",
            ranges.join(", "),
            rigs[0].device.http_port(),
            rigs[0].device.ota_port(),
        ))
        .await;
        let home = Self { server, rigs };
        home.wait_for("its devices", |devices| devices.len() == usize::from(n_devices))
            .await;
        done(&run(home.json(&["device", "enroll", "--all"])).await);
        for idx in 0..n_devices {
            let key = format!("a0b1c2d3e40{idx}");
            done(&run(home.json(&["device", "name", &key, &format!("Device {idx}")])).await);
        }
        home
    }

    /// Waits until the list of devices is like this.
    async fn wait_for(&self, what: &str, is: impl Fn(&[Value]) -> bool) {
        let begun = std::time::Instant::now();
        loop {
            let list = done(&run(self.json(&["device", "list"])).await);
            if is(list.as_array().unwrap()) {
                return;
            }
            assert!(begun.elapsed() < SOON, "no {what}: {list:#}");
        }
    }

    fn data(&self) -> &Path {
        self.server.data()
    }

    fn json(&self, arguments: &[&str]) -> Command {
        self.server.here(arguments)
    }

    /// For people.
    fn words(&self, arguments: &[&str]) -> Command {
        let mut command = reflash(arguments);
        command.arg("--data").arg(self.data());
        command
    }

    /// Gives the server an image, and waits until it is offered to all.
    async fn add(&self, version: &str, seed: u8) -> Vec<u8> {
        let bytes = image(Some(version), seed);
        let file = self.server.file(&format!("ir_remote_v{version}.bin"));
        std::fs::write(&file, &bytes).unwrap();
        done(&run(self.json(&["firmware", "add", file.to_str().unwrap()])).await);
        self.wait_for("offer", |devices| {
            devices.iter().all(|device| device["offered"] == true)
        })
        .await;
        bytes
    }

    /// Begins an update of all, one after the other, and watches it.
    fn update_all(&self) -> Running {
        let mut command = self.words(&["update", "--all", "--yes", "--canary", "0", "--at-once", "1"]);
        command.args(QUICK);
        Running::start(command)
    }
}

#[track_caller]
fn last(ended: &Ended) -> Value {
    serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_is_planned_updated_watched_and_taken_back() {
    let home = Home::start(2, None).await;
    let first = home.add("1.5.0", 5).await;
    let plan = done(&run(home.json(&["plan", "--all"])).await);
    assert_eq!(plan["members"].as_array().unwrap().len(), 2, "{plan:#}");
    let ended = run(home.words(&["plan", "--all"])).await;
    assert!(
        ended.stdout.lines().all(|line| line.chars().count() <= 80),
        "{ended:#?}"
    );
    assert!(
        ended.stdout.contains("Device 0") && ended.stdout.contains("1.5.0"),
        "{ended:#?}"
    );

    let mut update = home.words(&["update", "--all", "--yes", "--name", "first"]);
    update.args(QUICK);
    let ended = run(update).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:#?}");
    for said in [
        "Device 0: uploading",
        "Device 0: updated",
        "Device 1: updated",
        "wave 2 of 2 begins",
        "is finished. 2 devices: 2 updated.",
    ] {
        assert!(ended.stdout.contains(said), "no {said:?} in {}", ended.stdout);
    }
    assert!(home.rigs.iter().all(|rig| rig.runs(&first)));
    // The evidence of both is in the table: each was away, and each label has moved.
    assert_eq!(
        ended.stdout.matches("→ 1.5.0").count(),
        4,
        "plan and table: {}",
        ended.stdout
    );

    let again = run(home.words(&["update", "--all", "--yes"])).await;
    assert_eq!(again.code, Some(2), "{again:#?}");

    // In JSON, one device, without a question.
    home.add("2.0.0", 6).await;
    let mut update = home.json(&["update", "device 1", "--soak", "1s"]);
    update.arg("--force");
    let ended = run(update).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:#?}");
    let rollout = last(&ended);
    assert_eq!(rollout["members"][0]["state"], "updated", "{rollout:#}");
    assert!(ended.stdout.contains("\"job.progress\""), "{}", ended.stdout);

    let mut back = home.json(&["rollback", "device 1", "--soak", "1s"]);
    back.arg("--yes");
    let ended = run(back).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:#?}");
    assert!(home.rigs[1].runs(&first), "it is back");
    assert_eq!(last(&ended)["kind"], "rollback");

    // What is left of it.
    let history = done(&run(home.json(&["history"])).await);
    assert_eq!(history.as_array().unwrap().len(), 4, "{history:#}");
    let job = history[0]["id"].to_string();
    let shown = run(home.words(&["job", "show", &job])).await;
    assert_eq!(shown.code, Some(0), "{shown:#?}");
    assert!(
        shown.stdout.contains("(the same)") && shown.stdout.contains("→ 1.5.0"),
        "{shown:#?}"
    );
    let own = done(&run(home.json(&["history", "--device", "device 0"])).await);
    assert_eq!(own.as_array().unwrap().len(), 1, "{own:#}");
    let list = done(&run(home.json(&["rollout", "list"])).await);
    assert_eq!(list.as_array().unwrap().len(), 3, "{list:#}");
    let stats = done(&run(home.json(&["stats"])).await);
    assert_eq!(stats["outcomes"]["updated"], 4, "{stats:#}");
    done(&run(home.json(&["audit", "verify"])).await);
    for arguments in [
        &["rollout", "list"][..],
        &["rollout", "show", "1"],
        &["history"],
        &["stats"],
    ] {
        let ended = run(home.words(arguments)).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:#?}");
        assert!(
            ended.stdout.lines().all(|line| line.chars().count() <= 80),
            "{ended:#?}"
        );
    }
    // Nothing is open any more.
    assert_eq!(run(home.words(&["rollout", "watch"])).await.code, Some(3));
    assert_eq!(run(home.words(&["rollout", "stop"])).await.code, Some(2));
    assert_eq!(run(home.words(&["rollout", "pause", "1"])).await.code, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_is_paused_resumed_and_aborted_while_it_is_watched() {
    // About 4 s for each.
    let home = Home::start(3, Some(32 * 1024)).await;
    let new = home.add("1.5.0", 5).await;
    let watching = home.update_all();
    watching.says("uploading").await;
    let paused = done(&run(home.json(&["rollout", "pause"])).await);
    assert_eq!(paused["state"], "paused", "{paused:#}");
    watching.says("is paused").await;
    watching.says(": updated").await;
    let shown = done(&run(home.json(&["rollout", "show"])).await);
    assert_eq!(
        shown["counts"]["queued"],
        2,
        "nothing more has begun: {shown:#} {}",
        watching.said()
    );
    done(&run(home.json(&["rollout", "resume"])).await);
    let two = || home.rigs.iter().filter(|rig| rig.n_pushes() > 0).count() == 2;
    let begun = std::time::Instant::now();
    while !two() {
        assert!(begun.elapsed() < SOON, "the second one does not begin");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let aborted = run(home.words(&["rollout", "abort"])).await;
    assert_eq!(aborted.code, Some(0), "{aborted:#?}");
    assert!(aborted.stdout.contains("1 cancelled"), "{aborted:#?}");
    let ended = watching.end().await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(1), ""), "{ended:#?}");
    assert!(
        ended
            .stdout
            .contains("is aborted. 3 devices: 2 updated, 1 cancelled."),
        "{ended:#?}"
    );
    assert_eq!(
        home.rigs.iter().filter(|rig| rig.runs(&new)).count(),
        2,
        "what was begun is finished"
    );
    assert_eq!(home.rigs.iter().map(Rig::n_pushes).sum::<usize>(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watching_goes_on_through_a_kill_of_the_server() {
    let mut home = Home::start(2, Some(32 * 1024)).await;
    let new = home.add("1.5.0", 5).await;
    let watching = home.update_all();
    watching.says("uploading").await;
    home.server.restart().await;
    watching.says("Server gone, waiting").await;
    watching.says("The server is back.").await;
    let ended = watching.end().await;
    assert_eq!(ended.stderr, "", "{ended:#?}");
    assert!(ended.stdout.contains("Rollout 1 is finished."), "{ended:#?}");
    // What became of the first one, only its own look tells; the second was not harmed.
    assert!(ended.stdout.contains("Device 1: updated"), "{ended:#?}");
    assert!(home.rigs[1].runs(&new));
    let is_well = home.rigs[0].runs(&new);
    assert_eq!(ended.code == Some(0), is_well, "{ended:#?}");
}
