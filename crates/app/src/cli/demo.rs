//! `reflash demo`.

use crate::error::{Exit, Trouble};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  reflash demo --exit")]
pub(crate) struct DemoArguments {
    /// How many devices.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(2..=100))]
    devices: u8,
    /// End when every device has ended.
    #[arg(long)]
    exit: bool,
}

pub(crate) async fn run(_arguments: DemoArguments) -> Result<Exit, Trouble> {
    Ok(Exit::Done)
}
