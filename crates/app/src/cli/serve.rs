//! `reflash serve`.

use std::path::PathBuf;

use crate::error::{Exit, Trouble};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  reflash serve\n  reflash serve --config /etc/reflash/reflash.yaml --data /var/lib/reflash"
)]
pub(crate) struct ServeArguments {
    /// The configuration (reflash.yaml); without one, the defaults hold.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Folder of database, images, socket and first token.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Address and port of the API; otherwise what the configuration says, else 127.0.0.1:8927.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<String>,
    /// For a parent that owns this process: no port but the socket in the folder of the data, one READY line, and an end when
    /// standard input closes.
    #[arg(long)]
    pub(crate) managed: bool,
}

/// Serves until it is told to end.
pub(crate) fn run(_arguments: ServeArguments) -> Result<Exit, Trouble> {
    Err(Trouble::new(
        Exit::Failed,
        "This build has no server yet.",
        "Use `reflash push`, which needs none.",
    ))
}
