//! The same commands against the real server, over its socket and over the network.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Ended, Rig, Running, image, reflash, run};

/// `reflash serve` with a folder of its own.
pub(crate) struct Server {
    folder: TempDir,
    running: Running,
}

impl Server {
    async fn start() -> Self {
        Self::with("").await
    }

    /// With a configuration in its folder.
    pub(crate) async fn with(configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if !configuration.is_empty() {
            std::fs::write(folder.path().join("reflash.yaml"), configuration).unwrap();
        }
        let running = serving(folder.path()).await;
        Self { folder, running }
    }

    /// Is killed in mid-work, and started again on the same folder.
    pub(crate) async fn restart(&mut self) {
        self.running.kill_now();
        self.running = serving(self.folder.path()).await;
    }

    pub(crate) fn data(&self) -> &Path {
        self.folder.path()
    }

    /// A command over the socket.
    pub(crate) fn here(&self, arguments: &[&str]) -> Command {
        let mut command = reflash(arguments);
        command.arg("--data").arg(self.data()).arg("--json");
        command
    }

    /// The same over the network, with the token in a file.
    fn there(&self, arguments: &[&str], token: &Path) -> Command {
        let said = self.running.told();
        let (_, url) = said.split_once("serves at ").unwrap();
        let url = url.split(',').next().unwrap();
        let mut command = reflash(arguments);
        command
            .args(["--json", "--server", url, "--token-file"])
            .arg(token);
        command
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.data().join(name)
    }
}

async fn serving(folder: &Path) -> Running {
    let mut command = reflash(["serve", "--listen", "127.0.0.1:0", "--data"]);
    command.arg(folder).stdin(Stdio::null());
    let running = Running::start(command);
    running.tells("serves at").await;
    running
}

#[track_caller]
pub(crate) fn done(ended: &Ended) -> Value {
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:#?}");
    if ended.stdout.trim() == "null" {
        Value::Null
    } else {
        ended.json()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_the_real_server_open_and_stop_opening() {
    let server = Server::start().await;
    // The first start has made one.
    let first = done(&run(server.there(&["token", "list"], &server.file("token"))).await);
    assert_eq!(first.as_array().unwrap().len(), 1, "{first:#}");
    let file = server.file("viewer.token");
    let path = file.to_str().unwrap();
    let create = [
        "token", "create", "a viewer", "--role", "viewer", "--output", path,
    ];
    let made = done(&run(server.here(&create)).await);
    assert_eq!(made["role"], "viewer", "{made:#}");
    // A viewer may not look at tokens.
    let ended = run(server.there(&["token", "list"], &file)).await;
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    let next_step = ended.json()["next_step"].as_str().unwrap().to_owned();
    assert!(!next_step.is_empty());
    done(&run(server.here(&["token", "revoke", "A Viewer"])).await);
    let ended = run(server.there(&["token", "list"], &file)).await;
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(
        ended.json()["next_step"]
            .as_str()
            .unwrap()
            .contains("--token-file"),
        "{ended:#?}"
    );
    let ended = run(server.here(&["token", "revoke", "a viewer"])).await;
    assert_eq!(ended.code, Some(3), "{ended:#?}");
    let ended = run(server.here(&["token", "create", " "])).await;
    assert_eq!(ended.code, Some(64), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_back_up_is_made_beside_the_real_server_and_not_restored_beside_it() {
    let server = Server::start().await;
    let copy = server.data().with_extension("copy");
    let create = ["backup", "create", copy.to_str().unwrap()];
    done(&run(server.here(&create)).await);
    assert!(copy.join("secret.key").is_file() && copy.join("token").is_file());
    let ended = run(server.here(&["backup", "restore", copy.to_str().unwrap(), "--yes"])).await;
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    std::fs::remove_dir_all(&copy).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limits_of_the_configuration_hold() {
    let server = Server::with(
        "server: { limits: { failed_logins_per_minute: 2, body_bytes: 1024, image_bytes: 1000000 } }\n\
         policy: { signing_keys: [\"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\"] }\n",
    )
    .await;
    assert!(
        server.running.told().contains("policy.signing_keys"),
        "a key without effect is told"
    );
    let (fits, large) = (server.file("fits.bin"), server.file("large.bin"));
    std::fs::write(&fits, image(Some("1.1"), 7)).unwrap();
    std::fs::write(&large, vec![0xe9; 1_000_001]).unwrap();
    let add = |file: &Path| server.here(&["firmware", "add", file.to_str().unwrap()]);
    let ended = run(add(&large)).await;
    assert!(
        ended.code == Some(1) && ended.stdout.contains("at most 1000000 bytes"),
        "{ended:#?}"
    );
    done(&run(add(&fits)).await);
    let name = "n".repeat(1024);
    let ended = run(server.here(&["token", "create", &name])).await;
    assert!(
        ended.code == Some(1) && ended.stdout.contains("at most 1024 bytes"),
        "{ended:#?}"
    );
    let guess = server.file("guess");
    let mut told = String::new();
    for n in 0..6 {
        std::fs::write(&guess, format!("rfl_{n}")).unwrap();
        told = run(server.there(&["device", "list"], &guess)).await.stdout;
    }
    let wait = told
        .split_once("ait ")
        .and_then(|(_, wait)| wait.split(' ').next()?.parse().ok());
    assert!(
        matches!(wait, Some(20..=30)),
        "half a minute, less what went by: {told}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_on_the_same_folder_ends_and_leaves_the_first_its_socket() {
    let server = Server::start().await;
    let mut second = reflash(["serve", "--managed", "--data"]);
    second.arg(server.data()).stdin(Stdio::null());
    let ended = run(second).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:#?}");
    assert!(
        ended.stderr.contains("A server is at work") && ended.stderr.contains("stop it first"),
        "{ended:#?}"
    );
    done(&run(server.here(&["device", "list"])).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_leaves_no_core() {
    let server = Server::start().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.running.id())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let words: Vec<&str> = core.split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{core}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_folder_that_is_a_file_is_told_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut command = reflash(["serve", "--data"]);
    command.arg(&file).stdin(Stdio::null());
    let ended = run(command).await;
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(
        ended.stderr.contains("it is a file") && ended.stderr.contains("--data"),
        "{ended:#?}"
    );
    assert!(!ended.stderr.contains("running server"), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_reads_the_configuration_that_the_server_would() {
    let folder = tempfile::tempdir().unwrap();
    let doctor = || {
        let mut command = reflash(["doctor", "--json", "--data"]);
        command.arg(folder.path());
        command
    };
    let told = run(doctor()).await.json();
    let first = told["checks"][0]["text"].as_str().unwrap();
    assert!(first.contains("no reflash.yaml is in"), "{first}");
    std::fs::write(folder.path().join("reflash.yaml"), "polcy: {}\n").unwrap();
    let ended = run(doctor()).await;
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stdout.contains("reflash.yaml:1:1"), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_of_the_real_server_is_scanned_enrolled_named_and_forgotten() {
    let rig = Rig::start(|config| config.mac = Some("a0:b1:c2:d3:e4:f5".parse().unwrap())).await;
    let address = rig.device.ip();
    let server = Server::with(&format!(
        "server:\n  allowed_networks: [\"127.0.0.0/8\"]\n\
         ir_remote_ota:\n  network_range: \"{address}/32\"\n  http_port: {}\n  ota_port: {}\n",
        rig.device.http_port(),
        rig.device.ota_port(),
    ))
    .await;
    let key = "a0b1c2d3e4f5";
    // It looks by itself, too.
    let list = loop {
        let list = done(&run(server.here(&["device", "list"])).await);
        if list.as_array().unwrap().iter().any(|device| device["id"] == key) {
            break list;
        }
        assert!(server.running.age() < crate::support::SOON, "{list:#}");
    };
    let scanned = done(&run(server.here(&["device", "scan"])).await);
    assert_eq!(
        (&scanned["n_asked"], &scanned["n_answered"]),
        (&Value::from(1), &Value::from(1)),
        "{scanned:#}"
    );
    assert_eq!(list[0]["state"], "online", "{list:#}");
    assert_eq!(list[0]["enrolled"], false);

    // For people, in the width of a terminal.
    let mut command = reflash(["device", "list", "--data"]);
    command.arg(server.data());
    let said = run(command).await.stdout;
    assert!(
        said.contains("not enrolled") && said.contains(&address.to_string()),
        "{said}"
    );
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");

    done(&run(server.here(&["device", "enroll", "--all"])).await);
    let again = run(server.here(&["device", "enroll", "A0:B1:C2:D3:E4:F5"])).await;
    assert_eq!(again.code, Some(2), "{again:#?}");
    let named = done(&run(server.here(&["device", "name", key, "Living Room IR"])).await);
    assert_eq!(named["name"], "Living Room IR");
    let tagged = done(&run(server.here(&["device", "tag", "living room ir", "attic", "+new"])).await);
    assert_eq!(tagged["tags"], serde_json::json!(["attic", "new"]));
    let tagged = done(&run(server.here(&["device", "tag", "living room ir", "-new"])).await);
    assert_eq!(tagged["tags"], serde_json::json!(["attic"]));
    done(
        &run(server.here(&[
            "device",
            "set",
            "a0b1",
            "--group",
            "west",
            "--slot-bytes",
            "1900544",
        ]))
        .await,
    );
    let pinned = done(&run(server.here(&["device", "pin", "living room ir", "1.0"])).await);
    assert_eq!(pinned["pinned"], "1.0");
    done(&run(server.here(&["device", "unpin", &address.to_string()])).await);
    done(&run(server.here(&["device", "skip", key, "2.0.0"])).await);
    let unskipped = done(&run(server.here(&["device", "unskip", key, "2.0.0"])).await);
    assert_eq!(unskipped["skipped"], serde_json::json!([]));
    let password = server.file("password");
    std::fs::write(&password, "canary-KEEP-OUT").unwrap();
    let path = password.to_str().unwrap();
    let ended = run(server.here(&["device", "password", key, "--password-file", path])).await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let shown = done(&run(server.here(&["device", "show", key])).await);
    assert_eq!(
        (&shown["has_password"], &shown["group"]),
        (&Value::Bool(true), &Value::from("west"))
    );
    assert!(!shown.to_string().contains("canary"), "{shown:#}");
    let looks = done(&run(server.here(&["device", "health", key])).await);
    assert!(looks.is_array(), "{looks:#}");
    let off = run(server.here(&["device", "ota", "off", key])).await;
    assert_eq!(done(&off)["ota_wanted"], false);
    let unknown = run(server.here(&["device", "show", "Livingroom IR"])).await;
    assert_eq!(unknown.code, Some(3));
    assert!(unknown.stdout.contains("Living Room IR"), "{unknown:#?}");

    // Over the network a viewer may look, and no more.
    let viewer = server.file("viewer.token");
    let create = ["token", "create", "v", "--output", viewer.to_str().unwrap()];
    done(&run(server.here(&create)).await);
    done(&run(server.there(&["device", "list"], &viewer)).await);
    let ended = run(server.there(&["device", "remove", key, "--yes"], &viewer)).await;
    assert_eq!(ended.code, Some(1), "{ended:#?}");

    done(&run(server.here(&["device", "unenroll", key])).await);
    let ended = run(server.here(&["device", "remove", key, "--yes"])).await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn firmware_of_the_real_server_is_added_shown_and_removed() {
    let server = Server::start().await;
    let bytes = image(Some("2.0.0"), 3);
    let digest = crate::support::sha256(&bytes);
    let (file, notes) = (server.file("ir_remote_v2.0.0.bin"), server.file("notes.md"));
    std::fs::write(&file, &bytes).unwrap();
    std::fs::write(&notes, "# 2.0.0\nFaster.\n").unwrap();
    let (file, notes) = (file.to_str().unwrap(), notes.to_str().unwrap());
    let added = done(&run(server.here(&["firmware", "add", file, "--notes", notes])).await);
    assert_eq!(added["sha256"], digest.as_str(), "{added:#}");
    let list = done(&run(server.here(&["firmware", "list"])).await);
    assert_eq!(list["firmware"][0]["sha256"], digest.as_str(), "{list:#}");
    let shown = done(&run(server.here(&["firmware", "show", "ir_remote_v2.0.0.bin"])).await);
    assert_eq!(shown["has_notes"], true, "{shown:#}");
    let told = done(&run(server.here(&["firmware", "notes", &digest[..6]])).await);
    assert_eq!(told["notes"].as_str().unwrap().trim(), "# 2.0.0\nFaster.");
    let approved = run(server.here(&["firmware", "approve", &digest[..8]])).await;
    assert!(matches!(approved.code, Some(0 | 2)), "{approved:#?}");
    let text = server.file("firmware.bin");
    std::fs::write(&text, "This is a placeholder.\n").unwrap();
    let refused = run(server.here(&["firmware", "add", text.to_str().unwrap()])).await;
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert_eq!(refused.json()["state"], "refused", "{refused:#?}");
    let ended = run(server.here(&["firmware", "remove", &digest, "--yes"])).await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let ended = run(server.here(&["firmware", "show", &digest])).await;
    assert_eq!(ended.code, Some(3), "{ended:#?}");
    let checked = run(server.here(&["firmware", "check"])).await;
    assert_eq!(
        checked.code,
        Some(0),
        "no unit is known, so there is nothing to look at: {checked:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_name_of_a_server_is_none() {
    let server = Server::start().await;
    let mut command = server.here(&["device", "list"]);
    command.env("REFLASH_SERVER", "");
    let ended = run(command).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}
