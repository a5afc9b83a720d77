//! Simulated devices with faults, for tests, rehearsals and the demo.
//!
//! Imports nothing of the project: a codec that is wrong on our side cannot agree with itself here.
//! Nothing is printed; everything that happens is an [`Event`] in an [`EventSink`].
#![expect(clippy::disallowed_methods, reason = "simulated devices own their sockets")]

mod address;
mod events;
pub mod firmware;
pub mod ir_remote;
pub mod komfovent;
mod mdns;
mod mqtt;

pub use address::{Mac, nth_address};
pub use events::{Event, EventKind, EventSink};
