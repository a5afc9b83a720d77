//! One push by upload to `/update` (PROTOCOLS.md section C).

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use model::family::{Fault, FaultKind, Reach, Reason, Verdict};
use model::image::Image;
use model::progress::Progress;
use net::Site;
use net::http;
use proto::multipart::Multipart;
use proto::web_update::{Judgement, judge};

use crate::talk::{host_header, unsure, upload_fault};

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
        Err(error) => Err(upload_fault(&error, image.len_bytes())),
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
            said: Some(text),
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
