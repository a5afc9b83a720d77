//! Fleets as in a home: every device is a host of its own in a network namespace, with its own address and MAC, and real
//! programs run in them.
//!
//! Needs what a Linux machine has to allow or to have installed: network namespaces (root) and Mosquitto.
//! Where one is missing, its tests fail and say so; [`need::LEFT_OUT`] leaves them out on purpose.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: a failure here is a failed test"
)]

mod discovery;
mod mosquitto;
mod need;
mod netns;
mod partition;
mod presence;
mod process;
mod server;
