//! The real server under SIGKILL: at every commit of a job, and at random moments of whole rollouts.
//!
//! What a device got is told by its simulator's log, what the server says of it by its journal; one is held against the other.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests, and say what they met"
)]

mod case;
mod commits;
mod oracle;
mod seeds;
#[allow(dead_code, reason = "the program that tortures it uses more of it")]
mod world;
