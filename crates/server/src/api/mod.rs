//! The HTTP API: what anybody may ask of the server, who may, and how often.

pub mod listen;
pub mod problem;
pub mod tls;
