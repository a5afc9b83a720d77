//! WHAT: types and decisions.
//!
//! Devices, images, jobs and their outcomes, and the two traits that a device family implements.
//! Nothing here opens a socket, reads a clock or knows an async runtime, so every decision can be tested with plain values.
#![warn(missing_docs)]

pub mod access;
pub mod chain;
pub mod device;
pub mod family;
pub mod feed;
pub mod firmware;
pub mod fleet;
pub mod id;
pub mod image;
pub mod installed;
pub mod inventory;
pub mod job;
pub mod lease;
pub mod outcome;
pub mod plan;
pub mod precheck;
pub mod progress;
pub mod release;
pub mod sighting;
pub mod time;
pub mod version;
pub mod window;
