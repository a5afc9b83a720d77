//! The command line.

mod allow;
mod backup;
mod client;
mod completions;
mod confirm;
mod demo;
mod device;
mod doctor;
mod firmware;
mod inspect;
mod nearest;
mod push;
mod secret;
mod serve;
mod show;
mod simulate;
mod table;
mod token;
mod usage;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::error::{Exit, Trouble};

/// Threads of the server that run tasks: SQLite, hashing and names have threads of their own. Measured: with one, a look
/// costs less than with two (bench/RESULTS-server.md).
const N_SERVER_WORKERS: usize = 1;

/// Firmware updates for the devices in a home, which never say "done" without proof.
#[derive(Parser)]
#[command(
    name = "reflash",
    version,
    disable_help_subcommand = true,
    max_term_width = 100
)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, refused or not proven, 2 nothing to do, 3 not found, 64 wrong usage.\n\n\
    Example:\n  reflash push 192.168.1.40 firmware.bin --password-env OTA_PASSWORD"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show on a simulated fleet what the program can do.
    Demo(demo::DemoArguments),
    /// Run the server: it finds devices, watches them, keeps firmware, and answers the commands below.
    Serve(serve::ServeArguments),
    /// Push an image to one device, watch it come back, and prove what it runs: a better espota.py.
    Push(Box<push::PushArguments>),
    /// Look at devices, enrol them, name them, keep them at a version.
    Device(Box<device::DeviceArguments>),
    /// Look at firmware files; keep, approve and remove them.
    Firmware(Box<firmware::FirmwareArguments>),
    /// Make and revoke the tokens by which others ask the server.
    Token(token::TokenArguments),
    /// Copy the state folder's database, and bring a copy back.
    Backup(backup::BackupArguments),
    /// Look at configuration, data folder and network: what is wrong, and how to mend it.
    Doctor(doctor::DoctorArguments),
    /// Simulate devices with faults, to rehearse.
    Simulate(simulate::SimulateArguments),
    /// Print the completions for a shell.
    Completions(completions::CompletionsArguments),
    /// Write the manual pages.
    Man(completions::ManArguments),
}

impl Command {
    /// Whether an error is to be told as JSON.
    fn json(&self) -> bool {
        match self {
            Self::Device(arguments) => arguments.server.json,
            Self::Firmware(arguments) => arguments.json(),
            Self::Token(arguments) => arguments.server.json,
            Self::Backup(arguments) => arguments.json(),
            // A push tells its own.
            Self::Push(_)
            | Self::Demo(_)
            | Self::Doctor(_)
            | Self::Serve(_)
            | Self::Simulate(_)
            | Self::Completions(_)
            | Self::Man(_) => false,
        }
    }
}

/// Runs the command that was given.
pub(crate) fn main() -> ExitCode {
    let arguments = device::with_tags_to_remove(std::env::args_os());
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return usage::tell(&error, arguments.into_iter().skip(1)).into(),
    };
    log();
    raise_file_limit();
    let json = cli.command.json();
    // Some need no runtime, and start quicker without one.
    let inspect = match &cli.command {
        Command::Firmware(arguments) => arguments.inspect(),
        _ => None,
    };
    let exit = match (inspect, &cli.command) {
        (Some(inspect), _) => Ok(inspect::run(inspect)),
        (None, Command::Completions(arguments)) => Ok(completions::completions(arguments)),
        (None, Command::Man(arguments)) => completions::man(arguments),
        (None, _) => in_runtime(cli.command),
    };
    exit.unwrap_or_else(|trouble| if json { tell_json(&trouble) } else { tell(&trouble) })
        .into()
}

fn in_runtime(command: Command) -> Result<Exit, Trouble> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Command::Serve(_) = command {
        runtime.worker_threads(N_SERVER_WORKERS);
    }
    let runtime = runtime.enable_all().build();
    let runtime = runtime.map_err(|error| {
        Trouble::new(
            Exit::Failed,
            format!("Starting: {error}."),
            "Free some memory or file handles.",
        )
    })?;
    runtime.block_on(async {
        match command {
            Command::Demo(arguments) => demo::run(arguments).await,
            Command::Serve(arguments) => serve::run(arguments).await,
            Command::Push(arguments) => push::run(*arguments).await,
            Command::Device(arguments) => device::run(*arguments).await,
            Command::Firmware(arguments) => firmware::run(*arguments).await,
            Command::Token(arguments) => token::run(arguments).await,
            Command::Backup(arguments) => backup::run(arguments).await,
            Command::Doctor(arguments) => doctor::run(arguments).await,
            Command::Simulate(arguments) => simulate::run(arguments).await,
            Command::Completions(_) | Command::Man(_) => Ok(Exit::Done),
        }
    })
}

/// Says something on standard output. An error means that nobody reads it any more.
fn say(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Says one JSON value on standard output.
fn say_json(value: &serde_json::Value) {
    // A reader that is gone does not change what was done.
    let _ = say(&format!("{}\n", show::safe_json(&format!("{value:#}"))));
}

/// Tells a program why a command could not do its work.
fn tell_json(trouble: &Trouble) -> Exit {
    say_json(&serde_json::json!({ "error": trouble.what, "next_step": trouble.next_step }));
    trouble.exit
}

/// Tells why a command could not do its work.
fn tell(trouble: &Trouble) -> Exit {
    // What is told may hold names of files, which may hold anything.
    let (what, next_step) = (show::safe(&trouble.what), show::safe(&trouble.next_step));
    // A reader that is gone must not turn an error into a crash.
    let _ = writeln!(std::io::stderr(), "error: {what}\n  next: {next_step}");
    trouble.exit
}

/// Takes as many file handles as the system allows: a fleet that calls back at once needs one for each device.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without them the program works as before, for smaller fleets.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Logs to standard error, as much as `REFLASH_LOG` asks for; nothing but errors by default.
fn log() {
    // By target and level only: filtering by what a span holds would bring an engine of regular expressions along.
    let filter = std::env::var("REFLASH_LOG")
        .ok()
        .and_then(|text| text.parse::<Targets>().ok());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry()
        .with(filter.unwrap_or_default())
        .with(lines)
        .init();
}

/// Reads a duration such as `10s`, `500ms`, `3m`, `1h` or a bare number of seconds.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let start = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(start);
    let seconds_each = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit:?} is no unit of time: write 10s, 500ms, 3m or 1h")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "write a time as 10s, 500ms, 3m or 1h".to_owned())?;
    std::time::Duration::try_from_secs_f64(number * seconds_each)
        .ok()
        .filter(|duration| *duration <= std::time::Duration::from_hours(24))
        .ok_or_else(|| "that is longer than a day".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_read_with_their_units() {
        assert_eq!(duration("10s").unwrap().as_millis(), 10_000);
        assert_eq!(duration("500ms").unwrap().as_millis(), 500);
        assert_eq!(duration("3m").unwrap().as_secs(), 180);
        assert_eq!(duration("1.5").unwrap().as_millis(), 1_500);
        for bad in ["", "s", "10 s", "-1s", "10d", "25h", "1e9"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
