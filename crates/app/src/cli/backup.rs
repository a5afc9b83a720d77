//! `reflash backup`.

use std::path::PathBuf;

use super::confirm::Confirmation;
use crate::error::{Exit, Trouble};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  reflash backup create /mnt/usb\n  reflash backup list\n  reflash backup restore /mnt/usb/reflash-2026-11-22.db"
)]
pub(crate) struct BackupArguments {
    #[command(subcommand)]
    command: BackupCommand,
    /// State folder of the server.
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum BackupCommand {
    /// Copy.
    #[command(after_help = "Example:\n  reflash backup create /mnt/usb")]
    Create { folder: PathBuf },
    /// List.
    #[command(after_help = "Example:\n  reflash backup list")]
    List,
    /// Restore.
    #[command(after_help = "Example:\n  reflash backup restore FILE")]
    Restore {
        backup: PathBuf,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

impl BackupArguments {
    pub(crate) fn json(&self) -> bool {
        self.json
    }
}

pub(crate) async fn run(_arguments: BackupArguments) -> Result<Exit, Trouble> {
    Err(Trouble::new(Exit::Failed, "Not yet.", "Wait."))
}
