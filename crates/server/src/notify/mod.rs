//! Notifications.
#![expect(dead_code, reason = "not wired yet")]
mod digest;
mod happened;
mod message;
mod words;
