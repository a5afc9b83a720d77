//! A real broker, where one is installed.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::Running;

/// Mosquitto on a free port of loopback; it ends with this value.
pub(crate) struct Mosquitto {
    port: u16,
    _running: Running,
    _folder: TempDir,
}

impl Mosquitto {
    /// None where it is not installed, which is said.
    #[expect(clippy::print_stdout, reason = "what is not tested is not kept quiet")]
    pub(crate) async fn start() -> Option<Self> {
        // Debian keeps it where only root's search path looks.
        let places = [
            "/usr/sbin/mosquitto",
            "/usr/local/sbin/mosquitto",
            "/usr/bin/mosquitto",
        ];
        let Some(program) = places.into_iter().find(|place| Path::new(place).is_file()) else {
            println!("NOT RUN: mosquitto is not installed");
            return None;
        };
        // Somebody else may have got the port that was free a moment ago: it is ours once Mosquitto says that it runs.
        for _ in 0..5 {
            let port = free_port();
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("mosquitto.conf");
            let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\nlog_dest stderr\n");
            std::fs::write(&file, text).unwrap();
            let mut command = Command::new(program);
            command.arg("-c").arg(&file).stdin(Stdio::null());
            let mut running = Running::start(command);
            while !running.has_ended() {
                if running.told().contains(" running") {
                    return Some(Self {
                        port,
                        _running: running,
                        _folder: folder,
                    });
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
        panic!("mosquitto does not start");
    }

    /// `HOST:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "asks the system for a port, as a foreign program would"
)]
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}
