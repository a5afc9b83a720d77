//! What drivers share when they talk to a device: where it is, and what went wrong in words.

use std::net::{IpAddr, SocketAddr};

use model::chain::chain;
use model::family::{Fault, FaultKind, Reach, Reason};
use net::DialError;
use net::http::{AskError, UploadError, UploadReason};

/// The address of a service of a device.
pub(crate) fn endpoint(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// The `Host` of a request to a device: without the usual port.
pub(crate) fn host_header(device: SocketAddr) -> String {
    if device.port() == 80 {
        device.ip().to_string()
    } else {
        device.to_string()
    }
}

/// What it means that a question got no reply: an error of this machine is not the device's.
pub(crate) fn no_reply(error: &AskError) -> (FaultKind, Reason) {
    match error {
        AskError::NotHttp { .. } => (FaultKind::Refused, Reason::NotUnderstood),
        AskError::Dial(DialError::NotAllowed { .. } | DialError::Bind { .. } | DialError::Io { .. })
        | AskError::NotAsked { .. } => (FaultKind::Refused, Reason::Local),
        _ => (FaultKind::Unreachable, Reason::NoAnswer),
    }
}

/// Bytes went out, and nobody said how it ended.
pub(crate) fn unsure(reach: Reach, reason: Reason, text: &str) -> Fault {
    Fault {
        kind: FaultKind::Unsure,
        reason,
        text: text.to_owned(),
        reach,
        failed_answers: 0,
        next_step: None,
        said: None,
    }
}

/// Its owner stopped it.
pub(crate) fn cancelled(reach: Reach) -> Fault {
    let fault = unsure(reach, Reason::Cancelled, "Cancelled.");
    // Before the first byte nothing is unsure.
    if reach == Reach::Nothing {
        Fault {
            kind: FaultKind::Refused,
            ..fault
        }
    } else {
        fault
    }
}

/// An upload that brought no reply.
pub(crate) fn upload_fault(error: &UploadError, len_bytes: u64) -> Fault {
    let acked = error.acked_image_bytes;
    let cause = chain(error);
    match (&error.reason, error.reach) {
        (UploadReason::Cancelled, reach) => cancelled(reach),
        (_, Reach::Nothing) => Fault::before_push(
            FaultKind::Unreachable,
            Reason::NoAnswer,
            format!("Nothing could be uploaded: {cause}."),
        ),
        (_, reach) if acked >= len_bytes => unsure(
            reach,
            Reason::VerdictLost,
            &format!("The device has acknowledged all {len_bytes} bytes, and then no answer came: {cause}."),
        ),
        (_, reach) => unsure(
            reach,
            Reason::MidStream,
            &format!("The upload broke off at {acked} of {len_bytes} bytes: {cause}."),
        ),
    }
}
