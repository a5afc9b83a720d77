//! `reflash simulate ir-remote`.

use std::net::Ipv4Addr;
use std::time::Duration;

use sim::ir_remote::{Auth, Chip, Config, Device, Fault, Mqtt, start_many};
use sim::{EventSink, Mac};

use super::{bad_fault, duration, not_started};
use crate::error::Trouble;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  reflash simulate ir-remote --bind 127.0.0.2 --count 4 --fault drop-once-after=50000\n  \
    reflash simulate ir-remote --bind 192.168.7.20 --mdns --mqtt 192.168.7.2:1883"
)]
pub(super) struct IrRemoteArguments {
    /// Address of the first device; the others take the next ones.
    #[arg(long, default_value = "127.0.0.1")]
    bind: Ipv4Addr,
    /// UDP port of ArduinoOTA; 0 takes a free one.
    #[arg(long, default_value_t = 3232)]
    ota_port: u16,
    /// TCP port of the web server; 0 takes a free one.
    #[arg(long, default_value_t = 80)]
    http_port: u16,
    /// How many devices.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    count: u16,
    /// Their password.
    #[arg(long, default_value = "ir_remote_update")]
    password: String,
    /// How they ask for it: md5, pbkdf2, pbkdf2-md5 or none.
    #[arg(long, default_value = "md5")]
    auth: Auth,
    /// Their chip, such as esp32 or esp32c6.
    #[arg(long, default_value = "esp32c6")]
    chip: Chip,
    /// MAC address of the first device.
    #[arg(long)]
    mac: Option<Mac>,
    /// The version that they report.
    #[arg(long, default_value = "1.0")]
    version: String,
    /// The version that they report after a flash; else the image's own, or the same as before.
    #[arg(long)]
    version_after: Option<String>,
    /// Bytes that their flash takes in a second.
    #[arg(long, value_name = "BYTES_PER_S")]
    rate: Option<u32>,
    /// How long they boot, as 3 or 500ms.
    #[arg(long, default_value = "3s", value_parser = duration)]
    boot_s: Duration,
    /// Announce them by multicast DNS.
    #[arg(long)]
    mdns: bool,
    /// Port of multicast DNS; others than 5353 keep a test to itself.
    #[arg(long, hide = true, default_value_t = Config::MDNS_PORT, requires = "mdns")]
    mdns_port: u16,
    /// Broker to which they report, and where they are told to update.
    #[arg(long, value_name = "HOST:PORT", value_parser = broker)]
    mqtt: Option<String>,
    /// Where they report; `<mac>` stands for twelve digits.
    #[arg(long, value_name = "TOPIC", default_value = Mqtt::TOPIC, requires = "mqtt", value_parser = topic)]
    mqtt_topic: String,
    /// Time between two reports by MQTT, as 30 or 500ms.
    #[arg(long, hide = true, default_value = "30s", requires = "mqtt", value_parser = duration)]
    mqtt_heartbeat: Duration,
    /// What goes wrong; may be given several times.
    #[arg(long = "fault", value_name = "NAME[=ARG]")]
    faults: Vec<String>,
}

/// Starts the devices.
pub(super) async fn start(arguments: IrRemoteArguments, events: EventSink) -> Result<Vec<Device>, Trouble> {
    let faults = arguments
        .faults
        .iter()
        .map(|fault| Fault::parse(fault))
        .collect::<anyhow::Result<Vec<_>>>();
    let mut config = Config::new(arguments.bind);
    config.ota_port = arguments.ota_port;
    config.http_port = arguments.http_port;
    config.password = Some(arguments.password);
    config.auth = arguments.auth;
    config.chip = arguments.chip;
    config.mac = arguments.mac;
    config.version = arguments.version;
    config.version_after = arguments.version_after;
    config.rate_bytes_per_s = arguments.rate;
    config.boot = arguments.boot_s;
    config.mdns_port = arguments.mdns.then_some(arguments.mdns_port);
    config.mqtt = arguments.mqtt.map(|broker| Mqtt {
        topic: arguments.mqtt_topic,
        heartbeat: arguments.mqtt_heartbeat,
        ..Mqtt::new(broker)
    });
    config.faults = faults.map_err(|error| bad_fault(&error))?;
    start_many(config, usize::from(arguments.count), events)
        .await
        .map_err(|error| not_started(&error))
}

/// `HOST:PORT`.
fn broker(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
            Ok(text.to_owned())
        }
        _ => Err("write it as HOST:PORT, such as 127.0.0.1:1883".to_owned()),
    }
}

/// A topic that can be published to (MQTT 3.1.1, 4.7).
fn topic(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(['+', '#', '\0']) {
        return Err("a topic is not empty and has no +, # or NUL".to_owned());
    }
    Ok(text.to_owned())
}
