//! `reflash simulate komfovent`.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use sim::EventSink;
use sim::komfovent::{Config, Controller, Device, Fault, Panel, Registers, start_many};

use super::{bad_fault, duration, not_started};
use crate::error::{Exit, Trouble};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  reflash simulate komfovent --bind 127.0.0.8 --rate 200000 --restart-s 5")]
pub(super) struct KomfoventArguments {
    /// Address of the first unit; the others take the next ones.
    #[arg(long, default_value = "127.0.0.1")]
    bind: Ipv4Addr,
    /// TCP port of the web server; 0 takes a free one.
    #[arg(long, default_value_t = 80)]
    http_port: u16,
    /// TCP port of Modbus; 0 takes a free one.
    #[arg(long, default_value_t = 502)]
    modbus_port: u16,
    /// How many units.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    count: u16,
    /// Controller and its version.
    #[arg(long, default_value = "C6_1_3_44_70", conflicts_with = "registers")]
    controller: Controller,
    /// Panel and its version, or `none`.
    #[arg(long, default_value = "P1_1_1_5_46", conflicts_with = "registers")]
    panel: String,
    /// Registers of a real unit, as JSON.
    #[arg(long, value_name = "FILE.json")]
    registers: Option<PathBuf>,
    /// Name to log in with.
    #[arg(long, default_value = "user")]
    username: String,
    /// Password to log in with.
    #[arg(long, default_value = "user")]
    password: String,
    /// Serial number of the first unit.
    #[arg(long)]
    serial: Option<String>,
    /// Bytes that it reads in a second.
    #[arg(long, value_name = "BYTES_PER_S", default_value_t = 19_000)]
    rate: u32,
    /// How long it restarts, as 90 or 500ms.
    #[arg(long, default_value = "90s", value_parser = duration)]
    restart_s: Duration,
    /// What goes wrong; may be given several times.
    #[arg(long = "fault", value_name = "NAME[=ARG]")]
    faults: Vec<String>,
}

/// Starts the units.
pub(super) fn start(arguments: KomfoventArguments, events: EventSink) -> Result<Vec<Device>, Trouble> {
    let faults = arguments
        .faults
        .iter()
        .map(|fault| Fault::parse(fault))
        .collect::<anyhow::Result<Vec<_>>>();
    let mut config = Config::new(arguments.bind);
    config.http_port = arguments.http_port;
    config.modbus_port = arguments.modbus_port;
    config.registers = registers(&arguments)?;
    config.username = arguments.username;
    config.password = arguments.password;
    config.serial = arguments.serial;
    config.rate_bytes_per_s = arguments.rate;
    config.restart = arguments.restart_s;
    config.faults = faults.map_err(|error| bad_fault(&error))?;
    start_many(config, usize::from(arguments.count), events).map_err(|error| not_started(&error))
}

fn registers(arguments: &KomfoventArguments) -> Result<Registers, Trouble> {
    let Some(path) = &arguments.registers else {
        let panel: Option<Panel> = match arguments.panel.as_str() {
            "none" => None,
            panel => Some(panel.parse().map_err(|error| {
                Trouble::new(
                    Exit::Usage,
                    format!("{error:#}."),
                    "Write it as P1_1_1_5_46, or none.",
                )
            })?),
        };
        return Ok(Registers::synthesize(arguments.controller, panel));
    };
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        Trouble::new(
            Exit::NotFound,
            format!("Reading {shown}: {error}."),
            "Name a file of registers as JSON.",
        )
    })?;
    Registers::from_json(&text).map_err(|error| {
        Trouble::new(
            Exit::Failed,
            format!("Reading {shown}: {error:#}."),
            "It holds blocks: the first register's number, and a list of words.",
        )
    })
}
