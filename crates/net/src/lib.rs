//! DOOR: the only crate that opens a socket.
//!
//! Whoever wants to reach a device goes through a [`Dialer`], which refuses addresses outside its [`Networks`].
//! Devices that connect to us come in through the one [`Callback`], which lets in only who was invited.
//! Nothing here knows a device family, retries, or runs by itself: every future is polled by its caller.
#![warn(missing_docs)]
#![expect(
    clippy::disallowed_methods,
    reason = "this is the crate that the lint sends everybody to: it alone opens sockets"
)]

mod announce;
mod callback;
mod descriptors;
mod dial;
pub mod http;
mod interfaces;
pub mod mqtt;
mod multicast;
mod neighbour;
mod networks;
mod outgoing;
mod presence;
pub mod pull;
mod queue;
mod resolve;
mod service;
mod site;

pub use ipnet::IpNet;

pub use announce::{Announced, Service, announce};
pub use callback::{Callback, CallbackError, Invited};
pub use descriptors::{allow_many_descriptors, descriptors_max, is_want_of_resources};
pub use dial::{DialError, Dialer, TcpOptions};
pub use interfaces::{Interface, interfaces};
pub use multicast::{Multicast, MulticastDns, MulticastError};
pub use neighbour::{address_of, neighbour, neighbours_lost, neighbours_max};
pub use networks::Networks;
pub use outgoing::Outgoing;
pub use presence::{Presence, present};
pub use resolve::{ResolveError, resolve};
pub use service::connect_service;
pub use site::Site;

/// Send buffer for a socket that carries an image, bytes.
///
/// Whatever waits in this buffer cannot be called back by a cancel other than by a reset, and counts as sent
/// before the device has seen it; so it is small. It does not slow a device down: what may be in flight is bounded
/// by the device's receive window anyway, 5,744 bytes on an ESP32 (57 KB/s at a round trip of 100 ms) and 735 on a
/// Komfovent C6 (../shared/PERFORMANCE.md section 3, ../shared/PROTOCOLS.md A3).
pub const SEND_BUFFER_LEN_BYTES: usize = 16 * 1024;
