//! How a device makes itself known without being asked: multicast DNS and MQTT (PROTOCOLS.md B4, E3).
//!
//! Both live beside the sketch's loop and end with its link: a restart, a loss of power or another address.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Result, bail};
use tokio::{
    select,
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{
    config::{Auth, Mqtt},
    fault::Fault,
    pages,
    pull::{Said, Topics},
    state::Shared,
};
use crate::{
    EventKind,
    mdns::{Service, Sockets, Voice},
    mqtt::{Client, PING_AFTER, Will},
};

/// Placeholder in a topic for the twelve hex digits of the MAC.
const MAC_IN_TOPIC: &str = "<mac>";
/// What it says of itself when it has come, and what the broker says once it is gone.
/// The first is the real firmware's (PROTOCOLS.md E3); the second is ours, as E5 does not say it.
const ONLINE: &str = "online";
const OFFLINE: &str = "offline";
/// Attempts without a single success after which the sketch leaves the broker alone until its next restart (`mqttMaxAttempts`).
pub(super) const MQTT_MAX_ATTEMPTS: u32 = 5;
/// Pause before sockets are opened again that could not be.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

/// Whether a device is in the network, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) up: bool,
    pub(super) ip: Ipv4Addr,
}

/// What a device knows of its broker (PROTOCOLS.md E2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MqttReport {
    pub(super) connected: bool,
    pub(super) given_up: bool,
    pub(super) n_failed: u32,
    pub(super) connected_once: bool,
}

impl MqttReport {
    /// A session ended, or did not come about; true when there will be no other.
    fn ended(&mut self) -> bool {
        if !std::mem::take(&mut self.connected) {
            self.n_failed += 1;
        }
        self.given_up = !self.connected_once && self.n_failed >= MQTT_MAX_ATTEMPTS;
        self.given_up
    }
}

/// Announces the device whenever it is in the network; `sockets` serve the first time.
pub(super) async fn announce(device: &Shared, port: u16, sockets: Sockets) {
    let mut link = device.link();
    let mut sockets = Some(sockets);
    loop {
        let ip = came_up(&mut link).await;
        let opened = match sockets.take() {
            Some(sockets) => Ok(sockets),
            None => Sockets::open(ip, port),
        };
        match opened {
            Ok(sockets) => {
                let lie = device.find(|fault| {
                    if let Fault::Announces(address) = fault {
                        Some(*address)
                    } else {
                        None
                    }
                });
                let address = lie.unwrap_or(ip);
                let mut voice = Voice::new(sockets, service(device), address, seed(device));
                let announced = |host: &str| {
                    device.emit(
                        EventKind::Announced,
                        vec![
                            ("host", format!("{host}.local").into()),
                            ("ip", address.to_string().into()),
                        ],
                    );
                };
                // The voice keeps what it knows; it is dropped, and says farewell, with the device only.
                select! {
                    () = voice.run(announced) => {}
                    () = went_down(&mut link, ip) => voice.hush(),
                }
            }
            Err(err) => {
                tracing::warn!(%err, %ip, port, "no multicast DNS");
                sleep(REOPEN_PAUSE).await;
            }
        }
    }
}

/// Reports to a broker whenever the device is in the network.
pub(super) async fn report(device: &Shared, mqtt: &Mqtt) {
    let mut link = device.link();
    loop {
        let ip = came_up(&mut link).await;
        device.lock().mqtt = MqttReport::default();
        // A session that is dropped closes its connection without a word, as a device does that loses its power.
        select! {
            () = attempts(device, mqtt, ip) => {}
            () = went_down(&mut link, ip) => {}
        }
        {
            let mut state = device.lock();
            state.mqtt.connected = false;
            state.pull.said = None;
        }
        went_down(&mut link, ip).await;
    }
}

/// One life of the device: ends only when the sketch gives up.
async fn attempts(device: &Shared, mqtt: &Mqtt, ip: Ipv4Addr) {
    loop {
        if let Err(err) = session(device, mqtt, ip).await {
            tracing::debug!("{}: {err:#}", device.own_mac());
        }
        let ended = {
            let mut state = device.lock();
            state.pull.said = None;
            state.mqtt.ended() || state.pull.lost
        };
        if ended {
            return;
        }
        sleep(mqtt.retry).await;
    }
}

/// One connection to the broker: reports, and hands on what somebody commands.
async fn session(device: &Shared, mqtt: &Mqtt, ip: Ipv4Addr) -> Result<()> {
    let client_id = pages::mqtt_client_id(device);
    let mac = device.reported_mac().bare();
    let topic = mqtt.topic.replace(MAC_IN_TOPIC, &mac);
    let topics = Topics::of(&mac);
    let has_trigger = !device.has(&Fault::NoMqttTrigger);
    let will = has_trigger.then_some(Will {
        topic: &topics.availability,
        payload: OFFLINE,
    });
    let mut client = Client::connect(ip, &mqtt.broker, &client_id, will).await?;
    client.publish(&topic, ONLINE.as_bytes(), true).await?;
    // Dropped with the session: what is said without one is lost.
    let (said, mut to_say) = mpsc::unbounded_channel();
    if has_trigger {
        client.subscribe(&topics.command).await?;
        client
            .publish(&topics.availability, ONLINE.as_bytes(), true)
            .await?;
        if let Some(answer) = device.answer_after_restart() {
            client.publish(&topics.answer, answer.as_bytes(), false).await?;
        }
    }
    {
        let mut state = device.lock();
        state.pull.said = has_trigger.then_some(said);
        state.mqtt = MqttReport {
            connected: true,
            connected_once: true,
            ..MqttReport::default()
        };
    }
    device.emit(
        EventKind::Published,
        vec![
            ("broker", mqtt.broker.as_str().into()),
            ("topic", topic.as_str().into()),
        ],
    );
    let mut beat = Instant::now() + mqtt.heartbeat;
    let mut silence = Instant::now() + PING_AFTER;
    let mut asked = false;
    loop {
        // Dropping any of these futures loses nothing: `hear` keeps what it read, the others only wait.
        select! {
            heard = client.hear() => {
                (asked, silence) = (false, Instant::now() + PING_AFTER);
                let Some(message) = heard? else { continue };
                if let Some(packet_id) = message.packet_id {
                    client.acknowledge(packet_id).await?;
                }
                if message.topic == topics.command
                    && let Some(answer) = device.commanded(message)
                {
                    client.publish(&topics.answer, answer.as_bytes(), false).await?;
                }
            }
            Some(said) = to_say.recv() => match said {
                Said::Answer(answer, written) => {
                    client.publish(&topics.answer, answer.as_bytes(), false).await?;
                    // Who does not wait for that is fine without it.
                    let _gone = written.send(());
                }
                Said::HangUp => bail!("the broker is lost"),
            },
            () = sleep_until(beat) => {
                beat += mqtt.heartbeat;
                let payload = pages::heartbeat(device);
                client.publish(&topic, payload.as_bytes(), false).await?;
            }
            () = sleep_until(silence) => {
                if asked {
                    bail!("the broker is silent");
                }
                client.ping().await?;
                (asked, silence) = (true, Instant::now() + PING_AFTER);
            }
        }
    }
}

async fn came_up(link: &mut watch::Receiver<Link>) -> Ipv4Addr {
    let ip = link.wait_for(|link| link.up).await.map(|link| link.ip);
    match ip {
        Ok(ip) => ip,
        // The device is gone, and this task with it.
        Err(_) => std::future::pending().await,
    }
}

async fn went_down(link: &mut watch::Receiver<Link>, ip: Ipv4Addr) {
    let gone = link.wait_for(|link| !link.up || link.ip != ip).await.is_err();
    if gone {
        std::future::pending::<()>().await;
    }
}

fn service(device: &Shared) -> Service {
    let config = &device.config;
    let board = match config.chip.name {
        "esp32c6" => "XIAO_ESP32C6",
        name => name,
    };
    let auth = if config.auth() == Auth::None { "no" } else { "yes" };
    Service {
        host: config.host_name.clone(),
        kind: ["_arduino", "_tcp"],
        port: device.ota_port,
        txt: vec![
            format!("board={board}"),
            "tcp_check=no".to_owned(),
            "ssh_upload=no".to_owned(),
            format!("auth_upload={auth}"),
        ],
    }
}

/// Distinct for each device, and for each address of it.
fn seed(device: &Shared) -> u64 {
    let mac = device
        .own_mac()
        .0
        .iter()
        .fold(0, |mac, octet| mac << 8 | u64::from(*octet));
    (mac << 16) ^ u64::from(device.ip().to_bits()) ^ device.config.seed.rotate_left(32)
}
