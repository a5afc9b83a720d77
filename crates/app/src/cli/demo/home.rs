//! The server of the demo: it is told of a network and of no device. Everything else is asked of its API.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use engine::Stop;
use families::Ways;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use server::config::Config;
use server::fleet::Fleet;
use server::run::{Options, Ready, Server};
use server::views::{DeviceView, RolloutSummaryView, RolloutView};
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cli::client::{Ask, Client, ServerArguments, read};
use crate::cli::watch::watch;
use crate::error::{Exit, Trouble};

/// The network of the simulated devices.
const NETWORK: &str = "127.0.0.0/24";
/// How long finding them may take. Guess: a scan of loopback is over in a moment, and one lost on a busy machine comes again.
const FIND_WAIT: Duration = Duration::from_secs(20);
/// How often the devices are asked: three silent answers are soon over.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// How long it may take until a device without power is noticed, or the first device is well. Guess: on a very busy machine.
const STORY_WAIT: Duration = Duration::from_mins(2);
/// How often the server is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How often the list is looked at until then.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running server.
pub(super) struct Home {
    fleet: Fleet,
    client: Client,
    server: ServerArguments,
    pub(super) ready: Ready,
    pub(super) token: Option<String>,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

impl Home {
    /// Starts a server over this folder. `ways` are those to each family that has devices in the demo.
    pub(super) async fn start(folder: &Path, ways: &[(&str, Ways)]) -> Result<Self, Trouble> {
        let not_started = |text: String, next_step: String| Trouble::new(Exit::Failed, text, next_step);
        let network = NETWORK.parse().expect("this is a network");
        let mut config = Config::default();
        config.server.listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        config.server.data = Some(folder.to_owned());
        config.server.allowed_networks = vec![network];
        for block in &mut config.families {
            // Nobody outside of this machine is to be found by a demo.
            block.auto_discovery = false;
            // Nor is any manufacturer asked for a file.
            block.update_check_every = Duration::ZERO;
            let Some((_, ways)) = ways.iter().find(|(family, _)| *family == block.family.as_str()) else {
                continue;
            };
            block.http_port = ways.http_port;
            block.ota_port = ways.ota_port;
            block.modbus_port = ways.modbus_port;
            block.auto_discovery = true;
            block.scan_ranges = vec![network];
            block.poll_every = POLL_EVERY;
        }
        let server = Server::open(config, Options::default())
            .await
            .map_err(|error| not_started(error.text, error.next_step))?;
        let (fleet, ready) = (server.fleet(), server.ready().clone());
        let token = server.first_token().map(str::to_owned);
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(server.run(cancel.clone()));
        let server = ServerArguments::in_folder(folder);
        Ok(Self {
            fleet,
            client: Client::new(&server)?,
            server,
            ready,
            token,
            cancel,
            tasks,
        })
    }

    /// Waits until a device was found at each of these addresses, and has told what it is. Says how long that took.
    pub(super) async fn find(&self, addresses: &[Ipv4Addr]) -> Result<(Vec<DeviceView>, Duration), Trouble> {
        let began = Instant::now();
        loop {
            let devices = self.fleet.devices();
            let at = |address: &Ipv4Addr| {
                let address = IpAddr::V4(*address);
                devices
                    .iter()
                    .find(|device| device.address == Some(address) && device.reported_version.is_some())
                    .cloned()
            };
            let found: Vec<DeviceView> = addresses.iter().filter_map(at).collect();
            if found.len() == addresses.len() {
                return Ok((found, began.elapsed()));
            }
            if began.elapsed() > FIND_WAIT {
                return Err(Trouble::new(
                    Exit::Failed,
                    format!("Only {} of {} devices were found.", found.len(), addresses.len()),
                    "Run it again; on a very busy machine with fewer devices: --devices 2.",
                ));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Enrols devices.
    pub(super) async fn enroll(&self, ids: &[String]) -> Result<(), Trouble> {
        let ask = Ask::post(["devices", "enroll"]).json(&json!({ "devices": ids }));
        self.client.ask(ask).await.map(drop)
    }

    /// Names a device, and the user to log in as where there is one.
    pub(super) async fn name(&self, id: &str, name: &str, username: Option<&str>) -> Result<(), Trouble> {
        let mut change = json!({ "name": name });
        if let Some(username) = username {
            change["username"] = json!(username);
        }
        let ask = Ask::patch(["devices", id]).json(&change);
        self.client.ask(ask).await.map(drop)
    }

    /// Tells the password of a device.
    pub(super) async fn password(&self, id: &str, password: &str) -> Result<(), Trouble> {
        let ask = Ask::put(["devices", id, "password"]).json(&json!({ "password": password }));
        self.client.ask(ask).await.map(drop)
    }

    /// Brings an image; `running_on` says which device runs it.
    pub(super) async fn add_firmware(
        &self,
        (file_name, bytes): &(&'static str, Vec<u8>),
        running_on: Option<&str>,
    ) -> Result<(), Trouble> {
        let ask = Ask::post(["firmware"])
            .query("file_name", *file_name)
            .maybe("running_on", running_on)
            .bytes("application/octet-stream", bytes.clone());
        self.client.ask(ask).await.map(drop)
    }

    /// Asks for a plan or a rollout.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        what: &str,
        wanted: &impl Serialize,
    ) -> Result<T, Trouble> {
        let answer = self.client.ask(Ask::post([what]).json(&json!(wanted))).await?;
        read(&answer)
    }

    /// Shows a rollout to its end.
    pub(super) async fn watch(
        &self,
        rollout: RolloutView,
        stopped: Receiver<Stop>,
    ) -> Result<RolloutView, Trouble> {
        let id = rollout.summary.id;
        let value: Value = json!(rollout);
        Box::pin(watch(&self.client, &self.server, value, stopped)).await?;
        let answer = self.client.ask(Ask::get(["rollouts", &id.to_string()])).await?;
        read(&answer)
    }

    /// Waits until a device counts as offline.
    pub(super) async fn offline(&self, id: &str) -> Result<(), Trouble> {
        self.until("the device without power was not noticed", || async {
            let device = self.fleet.device(id);
            Ok(device.is_ok_and(|device| device.state == model::inventory::State::Offline))
        })
        .await
    }

    /// Waits until the rollout has gone on to its second wave, or is over.
    pub(super) async fn canary_over(&self) -> Result<(), Trouble> {
        self.until("the first device was not updated", || async {
            let rollouts: Vec<RolloutSummaryView> = read(&self.client.ask(Ask::get(["rollouts"])).await?)?;
            Ok(rollouts
                .first()
                .is_some_and(|rollout| rollout.wave > 0 || rollout.state != "running"))
        })
        .await
    }

    async fn until<F: Future<Output = Result<bool, Trouble>>>(
        &self,
        what: &str,
        is: impl Fn() -> F,
    ) -> Result<(), Trouble> {
        let began = Instant::now();
        let mut pause = tokio::time::interval(ASK_EVERY);
        while !is().await? {
            if began.elapsed() > STORY_WAIT {
                return Err(Trouble::new(
                    Exit::Failed,
                    format!("The demo does not go on: {what}."),
                    "Run it again; on a very busy machine with fewer devices: --devices 2.",
                ));
            }
            pause.tick().await;
        }
        Ok(())
    }

    /// Ends it in order.
    pub(super) async fn end(mut self) {
        self.cancel.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}
