//! `reflash serve`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;
use server::api::Reloaded;
use server::run::{Notice, Options, ready_line};

use super::{say, show};
use crate::error::{Exit, Trouble};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  reflash serve\n  reflash serve --config /etc/reflash/reflash.yaml --data /var/lib/reflash"
)]
pub(crate) struct ServeArguments {
    /// The configuration; otherwise reflash.yaml in the folder of the data, if it is there.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Folder of database, images, socket and first token.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Address and port of the API; otherwise what the configuration says, else 127.0.0.1:8927.
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "managed")]
    pub(crate) listen: Option<String>,
    /// For a parent that owns this process: no port but the socket in the folder of the data, one READY line, and an end when
    /// standard input closes.
    #[arg(long)]
    pub(crate) managed: bool,
}

/// Serves until it is told to end.
pub(crate) async fn run(arguments: ServeArguments) -> Result<Exit, Trouble> {
    let managed = arguments.managed;
    let options = Options {
        config: arguments
            .config
            .or_else(|| beside_the_data(arguments.data.as_deref())),
        data: arguments.data,
        listen: arguments.listen,
        managed,
    };
    let tell = move |notice: Notice<'_>| tell(managed, &notice);
    // On the heap: it holds the whole configuration, and is made once.
    Box::pin(server::run::serve(options, &tell))
        .await
        .map(|()| Exit::Done)
        .map_err(|error| {
            // The mistakes of a configuration have a line each: they are shown above what went wrong.
            let (what, mistakes) = error.text.split_once('\n').unwrap_or((error.text.as_str(), ""));
            let _ = std::io::stderr()
                .lock()
                .write_all(show::safe_lines(mistakes).as_bytes());
            Trouble::new(Exit::Failed, what, error.next_step)
        })
}

/// The configuration in the folder of the data, if it is there.
pub(super) fn beside_the_data(data: Option<&Path>) -> Option<PathBuf> {
    let folder = data.map_or_else(store::default_folder, Path::to_owned);
    Some(folder.join("reflash.yaml")).filter(|path| path.is_file())
}

/// What happens is for people and goes to standard error; standard output belongs to the parent.
fn tell(managed: bool, notice: &Notice<'_>) {
    let text = match notice {
        Notice::FirstToken { token, path } if !managed => format!(
            "The first start has made an administrator's token. It is shown this once, and kept in {}:\n\n  {}\n\n\
             A lost token is replaced on this machine with: reflash token create NAME --role admin\n",
            path.display(),
            token.expose_secret(),
        ),
        Notice::FirstToken { path, .. } => format!("The first token is kept in {}.\n", path.display()),
        Notice::Ready(ready) if managed => {
            // The parent waits for this line; without it, it ends us.
            let _ = say(&format!("{}\n", ready_line(ready)));
            return;
        }
        Notice::Ready(ready) => {
            let url = ready.url.as_deref().unwrap_or("the local socket only");
            let devices = match ready.n_devices {
                0 => "No device is known yet".to_owned(),
                1 => "1 device is known".to_owned(),
                n_devices => format!("{n_devices} devices are known"),
            };
            format!(
                "Reflash {} serves at {url}, with its data in {}.\n{devices}; list them with: reflash device list\n",
                ready.version,
                ready.data.display(),
            )
        }
        Notice::Warning(warning) => format!("warning: {warning}\n"),
        Notice::Reloaded(reloaded) => told_of_reload(reloaded),
    };
    // Nobody may be reading it any more; the server goes on.
    let _ = std::io::stderr()
        .lock()
        .write_all(show::safe_lines(&text).as_bytes());
}

fn told_of_reload(reloaded: &Reloaded) -> String {
    let mut text = "The configuration was read again.\n".to_owned();
    for change in &reloaded.changes {
        let _ = writeln!(text, "  {change}");
    }
    for change in &reloaded.after_restart {
        let _ = writeln!(text, "  after a restart: {change}");
    }
    if reloaded.changes.is_empty() && reloaded.after_restart.is_empty() {
        text += "  Nothing has changed.\n";
    }
    for warning in &reloaded.warnings {
        let _ = writeln!(text, "  warning: {warning}");
    }
    text
}
