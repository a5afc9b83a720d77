//! The server: the fleet as it is known, the firmware repository, and the API that offers both.
#![warn(missing_docs)]

mod announce;
pub mod api;
mod bus;
pub mod config;
pub mod firmware;
pub mod fleet;
pub mod home_assistant;
pub mod metrics;
pub mod notify;
mod page;
pub mod parents;
pub mod rollout;
pub mod run;
pub mod secrets;
mod settle;
mod signals;
pub mod views;
mod whoami;
mod wiring;
pub use wiring::broker;
