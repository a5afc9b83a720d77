//! HOW: one folder per device family, and what several of them share.
//!
//! The only place that knows a vendor. A new family is a folder here and a line in [`all`].
#![warn(missing_docs)]

mod arduino;
mod esp;
mod ir_remote;
mod komfovent;
mod talk;

use std::sync::Arc;
use std::time::Duration;

use model::family::Family;
use net::Site;

/// What the owner says of the way to the devices: ports that differ from the usual ones, and the pace.
#[derive(Clone, Debug)]
pub struct Ways {
    /// UDP port of `ArduinoOTA`.
    pub ota_port: u16,
    /// TCP port of the device's web server.
    pub http_port: u16,
    /// TCP port of Modbus.
    pub modbus_port: u16,
    /// Where devices tell their status at a broker: at this topic and `/status`, with or without a name between.
    pub status_topic: String,
    /// Pause between two Modbus questions to one unit; its vendor asks for 500 ms.
    pub modbus_spacing: Duration,
    /// Stop a ventilation unit before its update and start it afterwards, as its vendor advises, if it ran.
    pub stop_unit: bool,
    /// The pace to keep, whatever was remembered of a device.
    pub pace: Option<Pace>,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            ota_port: proto::espota::PORT,
            http_port: 80,
            modbus_port: komfovent::modbus::PORT,
            status_topic: "home/ir_remote_mini".to_owned(),
            modbus_spacing: komfovent::link::SPACING,
            stop_unit: false,
            pace: None,
        }
    }
}

pub use esp::Pace;

/// The names of all families, in the order of [`all`].
pub const NAMES: [&str; 3] = ["ir-remote", "arduino", "komfovent"];

/// Every family there is, in the order in which they are asked about a file or a device.
pub fn all(site: &Site, ways: &Ways) -> Vec<Arc<dyn Family>> {
    vec![
        Arc::new(ir_remote::IrRemote::new(site.clone(), ways.clone())),
        Arc::new(arduino::Arduino::new(site.clone(), ways.clone())),
        Arc::new(komfovent::Komfovent::new(site.clone(), ways.clone())),
    ]
}

/// One family by its name, with ways of its own; none where there is no such family.
pub fn named(name: &str, site: &Site, ways: &Ways) -> Option<Arc<dyn Family>> {
    all(site, ways)
        .into_iter()
        .find(|family| family.id().as_str() == name)
}

/// Parsers of foreign bytes, for `fuzz/` alone.
#[doc(hidden)]
pub mod fuzzing {
    /// Reads a status; whether it is one does not matter here.
    pub fn read_status(body: &[u8]) {
        let _ = crate::ir_remote::status::Status::parse(body);
    }

    /// Reads what a device answers to the command to fetch its image; whether it is an answer does not matter here.
    pub fn read_pull_answer(payload: &[u8]) {
        let mut conversation = crate::ir_remote::pull::words::Conversation::new("r1");
        let _ = conversation.hear(payload, false);
    }

    pub use crate::komfovent::file::Name;
    pub use crate::komfovent::modbus::{Answer, NotAnAnswer, Question};
    pub use crate::komfovent::page::{Judgement, Page, judge, read, serial};
    pub use crate::komfovent::version::{Controller, Panel};
}
