//! `reflash`: firmware updates that never say "done" without proof.

mod allocator;
mod cli;
mod error;
mod push;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
