//! `reflash rollback`: just another plan.

use super::client::{Client, ServerArguments};
use super::update::{Manner, in_lines, roll_out};
use super::wanted::{Rules, keys, known, rollback};
use crate::error::{Exit, Trouble};

#[derive(clap::Args)]
#[command(
    after_help = "It is a rollout like any other: with a plan, waves, and proof.\n\
    A device without a kept copy of what it ran before cannot go back by itself: name an image with --to.\n\n\
    Exit codes: 0 all are back, 1 something failed, was held, ended or is not proven, 2 nothing to do, 3 there is no such \
    device, 64 wrong usage.\n\n\
    Examples:\n  reflash rollback kitchen\n  reflash rollback kitchen attic --to 1.4.2 --yes"
)]
pub(crate) struct RollbackArguments {
    /// The devices: their keys, names or addresses.
    #[arg(value_name = "DEVICE", required = true)]
    devices: Vec<String>,
    /// The version to go back to, or its SHA-256; otherwise what each ran before.
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    #[command(flatten)]
    rules: Rules,
    #[command(flatten)]
    manner: Manner,
    #[command(flatten)]
    pub(crate) server: ServerArguments,
}

/// Rolls back.
pub(crate) async fn run(arguments: RollbackArguments) -> Result<Exit, Trouble> {
    in_lines(&arguments.server, async {
        let client = Client::new(&arguments.server)?;
        let devices = keys(&known(&client).await?, &arguments.devices)?;
        let mut wanted = rollback(devices, arguments.to.clone());
        arguments.rules.put_into(&mut wanted);
        roll_out(&client, &arguments.server, &arguments.manner, wanted).await
    })
    .await
}
