//! A real broker, and the clients that come with it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::need;
use crate::netns::Host;
use crate::process::Process;

/// Mosquitto with a configuration of its own, which keeps what is to be kept over a restart.
pub(crate) struct Mosquitto {
    folder: TempDir,
    host: Option<Host>,
    process: Option<Process>,
    address: Ipv4Addr,
    port: u16,
}

impl Mosquitto {
    /// On a free port of loopback; `None` when such tests are left out on this machine.
    pub(crate) fn start() -> Option<Self> {
        Self::start_on(None, Ipv4Addr::LOCALHOST)
    }

    /// On the usual port of a host.
    pub(crate) fn start_at(host: &Host) -> Option<Self> {
        Self::start_on(Some(host.clone()), host.address)
    }

    fn start_on(host: Option<Host>, address: Ipv4Addr) -> Option<Self> {
        if need::is_left_out("mosquitto") {
            return None;
        }
        let port = if host.is_some() { 1883 } else { free_port() };
        let mut broker = Self {
            folder: tempfile::tempdir().unwrap(),
            host,
            process: None,
            address,
            port,
        };
        let folder = broker.folder.path().display();
        let user = if rustix::process::geteuid().is_root() {
            "user root\n"
        } else {
            ""
        };
        let configuration = format!(
            "listener {port} {address}\nallow_anonymous true\npersistence true\npersistence_location {folder}/\n\
            autosave_interval 1\nautosave_on_changes true\nlog_dest stderr\nlog_type all\n{user}"
        );
        fs::write(broker.folder.path().join("mosquitto.conf"), configuration).unwrap();
        broker.come_back();
        Some(broker)
    }

    /// `HOST:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    /// Ends it, as a restart of its machine does.
    pub(crate) fn go(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.interrupt();
        }
    }

    /// Starts it again, with what it had kept.
    #[track_caller]
    pub(crate) fn come_back(&mut self) {
        let configuration = self.folder.path().join("mosquitto.conf");
        let mut command = self.command(&program("mosquitto"));
        let process = Process::start(command.arg("-c").arg(configuration));
        // It says so once it listens.
        process.wait_for("broker", |line| line.contains("running").then_some(()));
        self.process = Some(process);
    }

    /// Waits until somebody has subscribed to this topic, since it came back.
    #[track_caller]
    pub(crate) fn wait_for_subscriber(&self, topic: &str) {
        let process = self.process.as_ref().unwrap();
        // As it logs it: a tab, the topic, and the quality of service.
        let subscribed = format!("\t{topic} (QoS ");
        process.wait_for("subscriber", |line| line.contains(&subscribed).then_some(()));
    }

    /// Every topic that somebody has subscribed to, since it came back.
    pub(crate) fn subscribed(&self) -> Vec<String> {
        let said = self.process.as_ref().map(Process::said).unwrap_or_default();
        let topic = |line: &String| Some(line.split_once('\t')?.1.split_once(" (QoS ")?.0.to_owned());
        said.iter().filter_map(topic).collect()
    }

    /// Publishes, and returns when the broker has it.
    #[track_caller]
    pub(crate) fn publish(&self, topic: &str, payload: &str, retained: bool) {
        let mut command = self.client("mosquitto_pub");
        command.args(["-q", "1", "-t", topic, "-m", payload]);
        if retained {
            command.arg("-r");
        }
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Says each message as a line: `retained topic payload`, where retained is 0 or 1.
    #[track_caller]
    pub(crate) fn subscribe(&self, topic: &str) -> Process {
        let mut command = self.client("mosquitto_sub");
        Process::start(command.args(["-t", topic, "-F", "%r %t %p"]))
    }

    fn client(&self, name: &str) -> Command {
        let mut command = self.command(&program(name));
        command.args(["-h", &self.address.to_string(), "-p", &self.port.to_string()]);
        command
    }

    fn command(&self, program: &str) -> Command {
        match &self.host {
            Some(host) => host.command(program),
            None => Command::new(program),
        }
    }
}

/// Debian keeps the broker where only root's search path looks.
fn program(name: &str) -> String {
    let folders = std::env::var("PATH").unwrap_or_default();
    let found = folders
        .split(':')
        .chain(["/usr/sbin", "/usr/local/sbin"])
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file());
    match found {
        Some(path) => path.display().to_string(),
        None => need::missing(
            "mosquitto",
            &format!("This test needs {name}, which is not installed."),
            "Install the packages mosquitto and mosquitto-clients.",
        ),
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
