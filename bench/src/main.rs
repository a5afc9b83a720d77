//! Measures Reflash beside its peers: ratios within one run, never times by themselves (`README.md` beside this crate).
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement is printed"
)]

mod komfovent;
mod many;
mod proxy;
mod round_trip;
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
    #[command(hide = true)]
    PushAll(many::PushArguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let What::PushAll(arguments) = &cli.what {
        return match many::push_all(arguments) {
            Ok(said) => {
                println!("{said}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    system::wait_for_quiet(cli.wait);
    println!("{}", system::describe());
    let result = match cli.what {
        What::RoundTrip(arguments) => round_trip::run(&cli.reflash, &arguments),
        What::ProxyCheck(arguments) => round_trip::check(&arguments),
        What::CallBacks(arguments) => many::run(&cli.reflash, &arguments, many::Job::CallBacks),
        What::Fleet(arguments) => many::run(&cli.reflash, &arguments, many::Job::Fleet),
        What::Komfovent(arguments) => komfovent::run(&cli.reflash, &arguments),
        What::PushAll(_) => Ok(()),
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
