//! One push by upload to `/update` (PROTOCOLS.md section C).

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use model::family::{Fault, FaultKind, Reach, Reason, Verdict};
use model::image::Image;
use model::progress::Progress;
use net::Site;
use net::http::{self, UploadReason};
use proto::multipart::Multipart;
use proto::web_update::{Judgement, judge};

use super::espota::chain;

/// Path that `ArduinoOTA`-era sketches serve (PROTOCOLS.md C).
const PATH: &str = "/update";
/// Field name of the page of the IR Remote Mini; the server ignores it (PROTOCOLS.md E2).
const FIELD: &str = "firmware";
/// How long the device may take nothing before the transfer counts as dead (RELIABILITY.md F37).
const STALL: Duration = Duration::from_secs(15);
/// How long its answer may take after the last byte: it checks the whole image first.
const REPLY_WAIT: Duration = Duration::from_secs(30);
/// Slowest upload that is waited for, bytes/s. Guess: a tenth of the slowest rate in the field reports (PERFORMANCE.md 3).
const SLOWEST_BYTES_PER_S: u64 = 2_000;

/// Pushes once.
pub(crate) async fn push(
    site: &Site,
    device: SocketAddr,
    image: &Image,
    progress: &Progress,
) -> Result<Verdict, Fault> {
    let local = |text: String| {
        Fault::before_push(
            FaultKind::Refused,
            Reason::Local,
            format!("Preparing the upload: {text}."),
        )
    };
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| local(error.to_string()))?;
    let boundary = format!("reflash-{}", hex::encode(random));
    let body = Multipart::one_file(
        &boundary,
        FIELD,
        &plain_name(image.file_name()),
        "application/octet-stream",
    )
    .map_err(|error| local(error.to_string()))?;
    let limits = http::UploadLimits {
        connect: Duration::from_secs(3),
        stall: STALL,
        reply: REPLY_WAIT,
        total: Duration::from_secs(60 + image.len_bytes() / SLOWEST_BYTES_PER_S),
    };
    let content_type = body.content_type_header();
    let host = host_header(device);
    let upload = http::Upload {
        host: &host,
        headers: &[],
        path: PATH,
        content_type: &content_type,
        head: Bytes::from(body.head),
        image: image.bytes().clone(),
        tail: Bytes::from(body.tail),
    };
    match http::upload(&site.dialer, device, upload, progress, limits).await {
        Ok(uploaded) => judged(uploaded.reach, uploaded.reply.status, &uploaded.reply.body),
        Err(error) => Err(fault(&error, image.len_bytes())),
    }
}

/// The `Host` of a request to a device: without the usual port.
pub(crate) fn host_header(device: SocketAddr) -> String {
    if device.port() == 80 {
        device.ip().to_string()
    } else {
        device.to_string()
    }
}

/// A name that needs no quoting; the device ignores it.
fn plain_name(file_name: &str) -> String {
    let plain: String = file_name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c))
        .take(64)
        .collect();
    if plain.is_empty() {
        "firmware.bin".to_owned()
    } else {
        plain
    }
}

fn judged(reach: Reach, status: u16, body: &[u8]) -> Result<Verdict, Fault> {
    match judge(status, body) {
        Judgement::Success if reach == Reach::Whole => Ok(Verdict {
            text: "OK".to_owned(),
        }),
        Judgement::Success => Err(unsure(
            reach,
            Reason::MidStream,
            "The device said OK before it had every byte.",
        )),
        Judgement::Failure(text) => Err(Fault {
            kind: FaultKind::Refused,
            // `/update` restarts in both cases; an HTTP error comes from a server that never took the image.
            reason: if (200..300).contains(&status) {
                Reason::DeviceErrorRestarts
            } else {
                Reason::DeviceError
            },
            text: format!("The device answered \"{text}\"."),
            reach,
            failed_answers: 0,
            next_step: None,
        }),
        Judgement::Unclear(text) => Err(unsure(
            reach,
            if reach == Reach::Whole {
                Reason::VerdictLost
            } else {
                Reason::MidStream
            },
            &format!("The device answered \"{text}\", which says neither yes nor no."),
        )),
    }
}

fn unsure(reach: Reach, reason: Reason, text: &str) -> Fault {
    Fault {
        kind: FaultKind::Unsure,
        reason,
        text: text.to_owned(),
        reach,
        failed_answers: 0,
        next_step: None,
    }
}

fn fault(error: &http::UploadError, len_bytes: u64) -> Fault {
    let acked = error.acked_image_bytes;
    let cause = chain(error);
    match (&error.reason, error.reach) {
        (UploadReason::Cancelled, reach) => Fault {
            kind: if reach == Reach::Nothing {
                FaultKind::Refused
            } else {
                FaultKind::Unsure
            },
            reason: Reason::Cancelled,
            text: "Cancelled.".to_owned(),
            reach,
            failed_answers: 0,
            next_step: None,
        },
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
