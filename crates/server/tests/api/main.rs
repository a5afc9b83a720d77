//! The API over real sockets: who gets in, what is refused, what stays bounded, and what is remembered.
#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it")]

mod access;
mod devices;
mod doors;
mod events;
mod firmware;
mod flood;
mod home_assistant;
mod house;
mod openapi;
mod page;
mod parent;
mod requests;
mod tokens;
mod windows;
