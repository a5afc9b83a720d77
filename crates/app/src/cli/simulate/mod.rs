//! `reflash simulate`.

mod ir_remote;
mod komfovent;

use std::fmt::Write as _;

use sim::{Event, EventSink};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{duration, say};
use crate::error::{Exit, Trouble};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  reflash simulate ir-remote --bind 127.0.0.2 --count 4 --fault drop-once-after=50000\n  \
    reflash simulate komfovent --bind 127.0.0.8 --rate 200000 --restart-s 5"
)]
pub(crate) struct SimulateArguments {
    #[command(subcommand)]
    device: Option<SimulatedDevice>,
    /// Name every fault and what it does.
    #[arg(long)]
    list_faults: bool,
}

#[derive(clap::Subcommand)]
enum SimulatedDevice {
    /// IR Remote Minis: ESP32 with ArduinoOTA and a status API.
    IrRemote(ir_remote::IrRemoteArguments),
    /// Komfovent ventilation units: C6, C6M or C8.
    Komfovent(komfovent::KomfoventArguments),
}

/// Simulates until interrupted, telling every event as a line of JSON.
pub(crate) async fn run(arguments: SimulateArguments) -> Result<Exit, Trouble> {
    if arguments.list_faults {
        let mut text = String::new();
        add_faults(&mut text, "ir-remote", sim::ir_remote::Fault::list());
        add_faults(&mut text, "komfovent", sim::komfovent::Fault::list());
        // A reader that has seen enough is no failure.
        let _ = say(&text);
        return Ok(Exit::Done);
    }
    let events = EventSink::new();
    let told = events.subscribe();
    match arguments.device {
        Some(SimulatedDevice::IrRemote(arguments)) => {
            let devices = ir_remote::start(arguments, events).await?;
            tell_until_interrupted(told).await;
            drop(devices);
        }
        Some(SimulatedDevice::Komfovent(arguments)) => {
            let units = komfovent::start(arguments, events)?;
            tell_until_interrupted(told).await;
            drop(units);
        }
        None => {
            return Err(Trouble::new(
                Exit::Usage,
                "Nothing to simulate was named.",
                "Name a device: reflash simulate ir-remote. All faults: reflash simulate --list-faults.",
            ));
        }
    }
    Ok(Exit::Done)
}

fn add_faults(text: &mut String, family: &str, faults: &[(&str, &str, &str)]) {
    let _ = writeln!(text, "{family}");
    for (name, argument, sentence) in faults {
        let equals = if argument.is_empty() { "" } else { "=" };
        let _ = writeln!(text, "  {name}{equals}{argument}\n      {sentence}");
    }
}

async fn tell_until_interrupted(mut told: UnboundedReceiver<Event>) {
    loop {
        // Both arms only wait; an event that is not taken now is taken next time.
        tokio::select! {
            event = told.recv() => match event {
                // Nobody reads any more: then nobody needs the devices either.
                Some(event) => if say(&format!("{event}\n")).is_err() { return },
                None => return,
            },
            _ = tokio::signal::ctrl_c() => return,
        }
    }
}

/// A fault that was not understood.
fn bad_fault(error: &anyhow::Error) -> Trouble {
    Trouble::new(
        Exit::Usage,
        format!("{error:#}."),
        "Every fault: reflash simulate --list-faults.",
    )
}

/// Devices that could not be started.
fn not_started(error: &anyhow::Error) -> Trouble {
    Trouble::new(
        Exit::Failed,
        format!("The devices could not be started: {error:#}."),
        "Choose other ports (those below 1024 need root), or another --bind.",
    )
}
