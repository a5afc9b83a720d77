//! The server of the demo: it is told of a network and of no device.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use families::Ways;
use server::config::Config;
use server::fleet::Fleet;
use server::run::{Options, Ready, Server};
use server::views::DeviceView;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{Exit, Trouble};

/// The network of the simulated devices.
const NETWORK: &str = "127.0.0.0/24";
/// How long finding them may take. Guess: a scan of loopback is over in a moment, and one lost on a busy machine comes again.
const FIND_WAIT: Duration = Duration::from_secs(20);
/// How often the list is looked at until then.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running server.
pub(super) struct Home {
    fleet: Fleet,
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
            block.poll_every = Duration::from_secs(2);
        }
        let server = Server::open(config, Options::default())
            .await
            .map_err(|error| not_started(error.text, error.next_step))?;
        let (fleet, ready) = (server.fleet(), server.ready().clone());
        let token = server.first_token().map(str::to_owned);
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(server.run(cancel.clone()));
        Ok(Self {
            fleet,
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

    /// Ends it in order.
    pub(super) async fn end(mut self) {
        self.cancel.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}
