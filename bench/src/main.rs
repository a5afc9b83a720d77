//! Measures Reflash beside its peers: ratios within one run, never times by themselves (`README.md` beside this crate).
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement is printed"
)]

mod access_point;
mod komfovent;
mod many;
mod proxy;
mod rollout;
mod round_trip;
mod scan;
mod server;
mod simulator;
mod system;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Reflash beside its peers.
#[derive(Parser)]
struct Cli {
    /// The release binary to measure.
    #[arg(long, default_value = "target/release/reflash", global = true)]
    reflash: PathBuf,
    /// Wait up to this many seconds until the load average is below 1.5.
    #[arg(long, value_name = "S", default_value_t = 0, global = true)]
    wait: u64,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// One push over a long round trip: pipelined, stop-and-wait, and a baseline that behaves as `espota.py`.
    RoundTrip(round_trip::Arguments),
    /// Whether the proxy has the round trip and the window that it says it has.
    ProxyCheck(round_trip::CheckArguments),
    /// 1,000 devices that call back at once to one port.
    CallBacks(many::Arguments),
    /// 250 devices, 1 MiB each: CPU and memory.
    Fleet(many::Arguments),
    /// Ventilation units: uploads, and what a Modbus read costs.
    Komfovent(komfovent::Arguments),
    /// A /24 and a /20 with absent hosts, in a network namespace, beside nmap and aiohttp.
    Scan(scan::Arguments),
    /// 1,000 devices: CPU of a poll with its database write, beside aiohttp with sqlite3.
    Poll(server::PollArguments),
    /// 1,000 devices: memory of the server with API, MQTT and SQLite.
    ServerMemory(server::MemoryArguments),
    /// 1,000 known devices: from the start of the process until it serves.
    ServerStart(server::StartArguments),
    /// 250 devices, 1 MiB each, by a server's rollout: time beside the ideal, CPU and memory.
    Rollout(rollout::Arguments),
    #[command(hide = true)]
    PushAll(many::PushArguments),
    #[command(hide = true)]
    ScanInside(scan::Arguments),
    #[command(hide = true)]
    ScanOnce(scan::OnceArguments),
    #[command(hide = true)]
    ScanDevice,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // What a measurement starts says only what it was asked for.
    let part = match &cli.what {
        What::PushAll(arguments) => Some(many::push_all(arguments).map(|said| println!("{said}"))),
        What::ScanInside(arguments) => Some(scan::inside(arguments)),
        What::ScanOnce(arguments) => Some(scan::once(arguments)),
        What::ScanDevice => Some(scan::device()),
        _ => None,
    };
    match part {
        None => {}
        Some(Ok(())) => return ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    system::wait_for_quiet(cli.wait);
    println!("{}", system::describe());
    let result = match cli.what {
        What::RoundTrip(arguments) => round_trip::run(&cli.reflash, &arguments),
        What::ProxyCheck(arguments) => round_trip::check(&arguments),
        What::CallBacks(arguments) => many::run(&cli.reflash, &arguments, many::Job::CallBacks),
        What::Fleet(arguments) => many::run(&cli.reflash, &arguments, many::Job::Fleet),
        What::Komfovent(arguments) => komfovent::run(&cli.reflash, &arguments),
        What::Scan(arguments) => scan::run(&arguments),
        What::Poll(arguments) => server::poll(&cli.reflash, &arguments),
        What::ServerMemory(arguments) => server::memory(&cli.reflash, &arguments),
        What::ServerStart(arguments) => server::start(&cli.reflash, &arguments),
        What::Rollout(arguments) => rollout::run(&cli.reflash, &arguments),
        What::PushAll(_) | What::ScanInside(_) | What::ScanOnce(_) | What::ScanDevice => Ok(()),
    };
    println!("load average at the end: {}", system::load_average());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
