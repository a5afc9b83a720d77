//! The command line.

mod allow;
mod audit;
mod backup;
mod client;
mod completions;
mod confirm;
mod demo;
mod device;
mod doctor;
mod firmware;
mod history;
mod inspect;
mod job;
mod nearest;
mod notify;
mod plan;
mod push;
mod rollback;
mod rollout;
mod schedule;
mod secret;
mod serve;
mod show;
mod simulate;
mod sse;
mod standing;
mod stats;
mod table;
mod token;
mod update;
mod usage;
mod wanted;
mod watch;
mod window;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::OnceLock;

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
    /// Say what an update would do to each device, and why not; nothing is changed.
    Plan(Box<plan::PlanArguments>),
    /// Update devices, the first ones before the others, and prove what each of them runs.
    Update(Box<update::UpdateArguments>),
    /// Bring devices back to what they ran before.
    Rollback(Box<rollback::RollbackArguments>),
    /// Look at rollouts, follow them, hold them, end them.
    Rollout(Box<rollout::RolloutArguments>),
    /// Say when updates may begin.
    Window(window::WindowArguments),
    /// Have rollouts made by themselves, at set times.
    Schedule(schedule::ScheduleArguments),
    /// Look at the update of one device, or cancel it.
    Job(job::JobArguments),
    /// List the updates of the past.
    History(history::HistoryArguments),
    /// Count how updates went, and what runs where.
    Stats(stats::StatsArguments),
    /// Check that nobody has changed what the server wrote down of who did what.
    Audit(audit::AuditArguments),
    /// Try whether you are told of what happens.
    Notify(notify::NotifyArguments),
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
            Self::Plan(arguments) => arguments.server.json,
            Self::Rollout(arguments) => arguments.server.json,
            Self::Window(arguments) => arguments.server.json,
            Self::Schedule(arguments) => arguments.server.json,
            Self::Job(arguments) => arguments.server.json,
            Self::History(arguments) => arguments.server.json,
            Self::Stats(arguments) => arguments.server.json,
            Self::Audit(arguments) => arguments.server.json,
            Self::Notify(arguments) => arguments.server.json,
            Self::Token(arguments) => arguments.server.json,
            Self::Backup(arguments) => arguments.json(),
            // These tell their own.
            Self::Push(_)
            | Self::Update(_)
            | Self::Rollback(_)
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
        Err(error) => return with_unsaid(usage::tell(&error, arguments.into_iter().skip(1))).into(),
    };
    log();
    raise_file_limit();
    leave_no_core();
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
    let exit = exit.unwrap_or_else(|trouble| if json { tell_json(&trouble) } else { tell(&trouble) });
    with_unsaid(exit).into()
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
            Command::Serve(arguments) => Box::pin(serve::run(arguments)).await,
            Command::Push(arguments) => push::run(*arguments).await,
            Command::Device(arguments) => device::run(*arguments).await,
            Command::Firmware(arguments) => firmware::run(*arguments).await,
            Command::Plan(arguments) => plan::run(*arguments).await,
            Command::Update(arguments) => update::run(*arguments).await,
            Command::Rollback(arguments) => rollback::run(*arguments).await,
            Command::Rollout(arguments) => rollout::run(*arguments).await,
            Command::Window(arguments) => window::run(arguments).await,
            Command::Schedule(arguments) => schedule::run(arguments).await,
            Command::Job(arguments) => job::run(arguments).await,
            Command::History(arguments) => history::run(arguments).await,
            Command::Stats(arguments) => stats::run(arguments).await,
            Command::Audit(arguments) => audit::run(arguments).await,
            Command::Notify(arguments) => notify::run(arguments).await,
            Command::Token(arguments) => token::run(arguments).await,
            Command::Backup(arguments) => backup::run(arguments).await,
            Command::Doctor(arguments) => doctor::run(arguments).await,
            Command::Simulate(arguments) => simulate::run(arguments).await,
            Command::Completions(_) | Command::Man(_) => Ok(Exit::Done),
        }
    })
}

/// Why something that was said did not arrive, though somebody wants it.
///
/// It is kept here, and not returned through every command, so that none can forget it.
static UNSAID: OnceLock<io::Error> = OnceLock::new();

/// Says something on standard output. An error means that it did not arrive; only whoever says more needs to look at it.
fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let said = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    said.map_err(arrived_not)
}

/// Keeps in mind that something did not arrive. A reader that is gone has had enough, and nothing is wrong with that.
fn arrived_not(error: io::Error) -> io::Error {
    let kind = error.kind();
    if kind == io::ErrorKind::BrokenPipe {
        return error;
    }
    let _ = UNSAID.set(error);
    kind.into()
}

/// How it ends when not everything that was said has arrived: whoever waits for it must not take it for nothing.
fn with_unsaid(exit: Exit) -> Exit {
    match UNSAID.get() {
        None => exit,
        Some(error) => {
            let trouble = Trouble::new(
                if matches!(exit, Exit::Done | Exit::Nothing) {
                    Exit::Failed
                } else {
                    exit
                },
                format!("The result could not be written: {error}."),
                "Make room where standard output goes; what the command does apart from telling is done.",
            );
            tell(&trouble)
        }
    }
}

/// Says one JSON value on standard output.
fn say_json(value: &serde_json::Value) {
    // A reader that is gone does not change what was done.
    let _ = say(&format!("{}\n", show::safe_json(&format!("{value:#}"))));
}

/// Says one JSON value in one line on standard output.
fn say_json_line(value: &serde_json::Value) {
    let _ = say(&format!("{}\n", show::safe_json(&value.to_string())));
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
    let _ = writeln!(io::stderr(), "error: {what}\n  next: {next_step}");
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

/// No core dump is written, which would hold passwords (RELIABILITY.md T30).
fn leave_no_core() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Lowering a limit is always allowed; a system that says no has none to write either.
    let _ = setrlimit(Resource::Core, none);
}

/// Logs to standard error, as much as `REFLASH_LOG` asks for; nothing but errors by default.
fn log() {
    // By target and level only: filtering by what a span holds would bring an engine of regular expressions along.
    let filter = std::env::var("REFLASH_LOG")
        .ok()
        .and_then(|text| text.parse::<Targets>().ok());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
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

/// Reads a longer time, such as `12h`, `7d` or `2w`; a number alone is none.
fn span(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || "write a time as 90s, 30m, 12h, 7d or 2w".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds_each = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number
        .checked_mul(seconds_each)
        .map(std::time::Duration::from_secs)
        // Longer than anybody waits or remembers; and every sum with it stays in range.
        .filter(|span| *span <= std::time::Duration::from_hours(24 * 366 * 10))
        .ok_or_else(|| "that is longer than ten years".to_owned())
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
        assert_eq!(span("90s").unwrap().as_secs(), 90);
        assert_eq!(span("12h").unwrap().as_secs(), 43_200);
        assert_eq!(span("2w").unwrap().as_secs(), 14 * 86_400);
        for bad in [
            "",
            "d",
            "12",
            "1.5h",
            "-1d",
            "1d ",
            "9999999999999999999w",
            "12é",
            "4000d",
        ] {
            assert!(span(bad).is_err(), "{bad}");
        }
        for bad in ["", "s", "10 s", "-1s", "10d", "25h", "1e9"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
