//! The queues of a socket: what waits to be acknowledged, and how much must wait here before anybody is woken.
#![cfg_attr(
    target_os = "linux",
    expect(
        unsafe_code,
        reason = "one queue can be read by ioctl only, the other set by setsockopt only, and no safe wrapper has these two"
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

/// From how many received bytes on the socket counts as readable (`SO_RCVLOWAT`, socket(7)); its end always does.
///
/// Bytes that wait already are told of if they suffice. A failure changes nothing: every byte then wakes, as before.
#[cfg(target_os = "linux")]
pub(crate) fn readable_from(stream: &TcpStream, n_bytes: u16) {
    use std::os::fd::AsRawFd as _;

    let n_bytes = libc::c_int::from(n_bytes);
    let len = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the descriptor is open as long as `stream` is borrowed, and the option takes one int, which is read only
    // during the call.
    let _ = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const n_bytes).cast(),
            len,
        )
    };
}

/// Every byte wakes on this system.
#[cfg(not(target_os = "linux"))]
pub(crate) fn readable_from(_stream: &TcpStream, _n_bytes: u16) {}
