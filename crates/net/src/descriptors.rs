use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Where no limit is set, bytes of memory bound it: this many sockets are enough for 1,000 devices called back at once,
/// a scan, and the API.
const ENOUGH: u64 = 8192;

/// How many descriptors (files and sockets) this process may have open.
pub fn descriptors_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(ENOUGH)
}

/// Raises the limit of descriptors as far as the system lets us, to at most 8,192, and says what it is now.
///
/// The usual limit of 1,024 is for programs that use `select`; it is too low for a scan beside a rollout.
/// To be called once by a program, at its start: children inherit it.
pub fn allow_many_descriptors() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(ENOUGH, |maximum| maximum.min(ENOUGH));
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        // Refused, the limit stays as it is, and whoever opens sockets asks for it.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    descriptors_max()
}

/// Whether this machine had no descriptor, port, buffer or memory left: a state of this moment, which says nothing of the
/// peer (errno(3), as Linux has it).
pub fn is_want_of_resources(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| {
        [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOBUFS,
            libc::ENOMEM,
            libc::EAGAIN,
            libc::EADDRNOTAVAIL,
        ]
        .contains(&code)
    })
}
