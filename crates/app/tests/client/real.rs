//! The same commands against the real server, over its socket and over the network.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Ended, Running, reflash, run};

/// `reflash serve` with a folder of its own.
struct Server {
    folder: TempDir,
    running: Running,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = reflash(["serve", "--listen", "127.0.0.1:0", "--data"]);
        command.arg(folder.path()).stdin(Stdio::null());
        let server = Self {
            running: Running::start(command),
            folder,
        };
        server.running.tells("serves at").await;
        server
    }

    fn data(&self) -> &Path {
        self.folder.path()
    }

    /// A command over the socket.
    fn here(&self, arguments: &[&str]) -> Command {
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

    fn file(&self, name: &str) -> PathBuf {
        self.data().join(name)
    }
}

#[track_caller]
fn done(ended: &Ended) -> Value {
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
