//! How much of what was handed to a socket has not been acknowledged yet.
#![cfg_attr(
    target_os = "linux",
    expect(
        unsafe_code,
        reason = "the queue of a socket can be read by ioctl only, and no safe wrapper has this one"
    )
)]

use tokio::net::TcpStream;

/// Bytes in the send queue that the peer's TCP has not acknowledged, sent or not (Linux `SIOCOUTQ`, tcp(7)).
///
/// None where the system does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn unacknowledged(stream: &TcpStream) -> Option<u64> {
    use std::os::fd::AsRawFd as _;

    let mut n_bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as `stream` is borrowed, and the request (`SIOCOUTQ` is `TIOCOUTQ`)
    // writes one int, to which we hold the only reference.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut n_bytes) };
    if result == 0 {
        u64::try_from(n_bytes).ok()
    } else {
        None
    }
}

/// Unknown on this system.
#[cfg(not(target_os = "linux"))]
pub(crate) fn unacknowledged(_stream: &TcpStream) -> Option<u64> {
    None
}
