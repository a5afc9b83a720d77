//! Uploads to slow, refusing and vanishing devices: what is reported against what the device really read.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod common;

use std::error::Error as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use model::family::Reach;
use model::progress::{Progress, PushPhase};
use net::http::{self, Upload, UploadError, UploadLimits, UploadReason, Uploaded};
use net::{DialError, Dialer, Networks};

use common::{
    SOON, content_length, loopback_dialer, read_head, read_request, refusing, reset, serve, wait_until,
};

const HEAD: &[u8] = b"--edge\r\nContent-Disposition: form-data; name=\"11111\"; filename=\"a.mbin\"\r\n\r\n";
const TAIL: &[u8] = b"\r\n--edge--\r\n";
const OK_REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK";

/// A receive buffer of about the least that Linux grants: the window of a small device.
const SMALL_WINDOW: Option<usize> = Some(2048);

const LIMITS: UploadLimits = UploadLimits {
    connect: SOON,
    stall: SOON,
    reply: SOON,
    total: Duration::from_mins(1),
};

/// Bytes of which no two stretches are alike.
fn image(len_bytes: usize) -> Arc<[u8]> {
    (0_u32..)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes())
        .take(len_bytes)
        .collect()
}

async fn upload(
    peer: SocketAddr,
    image: &Arc<[u8]>,
    progress: &Progress,
    limits: UploadLimits,
) -> Result<Uploaded, UploadError> {
    let upload = Upload {
        host: "10.0.0.7",
        path: "/g1.html",
        content_type: "multipart/form-data; boundary=edge",
        headers: &[],
        head: Bytes::from_static(HEAD),
        image: Arc::clone(image),
        tail: Bytes::from_static(TAIL),
    };
    http::upload(&loopback_dialer(), peer, upload, progress, limits).await
}

/// Reads the head of the request, the head of the body, and this much of the image.
fn read_image(stream: &mut TcpStream, n_bytes: usize) {
    read_head(stream);
    stream.read_exact(&mut vec![0; HEAD.len() + n_bytes]).unwrap();
}

/// Bytes until the end of the connection.
fn count_rest(stream: &mut TcpStream) -> (u64, Option<ErrorKind>) {
    let mut n_bytes = 0;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (n_bytes, None),
            Ok(n) => n_bytes += n as u64,
            Err(error) => return (n_bytes, Some(error.kind())),
        }
    }
}

#[tokio::test]
async fn the_device_gets_exactly_the_body() {
    for len_bytes in [0, 1, 8191, 8192, 8193, 100_000] {
        let image = image(len_bytes);
        let progress = Arc::new(Progress::default());
        let (addr, device) = serve(None, {
            let progress = Arc::clone(&progress);
            move |mut stream| {
                let request = read_request(&mut stream);
                let phase = progress.phase();
                stream.write_all(OK_REPLY).unwrap();
                (request, phase, count_rest(&mut stream).0)
            }
        });
        let uploaded = upload(addr, &image, &progress, LIMITS).await.unwrap();
        let ((head, body), phase, n_bytes_after) = device.join().unwrap();
        assert_eq!(content_length(&head), HEAD.len() + len_bytes + TAIL.len());
        assert!(
            head.starts_with("POST /g1.html HTTP/1.1\r\n") && head.contains("\r\nConnection: close\r\n"),
            "{head}"
        );
        assert!(
            !head.contains("Expect") && !head.contains("Transfer-Encoding"),
            "{head}"
        );
        assert!(
            body == [HEAD, &image, TAIL].concat(),
            "the body differs at {len_bytes} bytes"
        );
        assert_eq!((phase, n_bytes_after), (PushPhase::LastByte, 0));
        assert_eq!(
            (uploaded.reply.status, uploaded.reply.text().as_str()),
            (200, "OK")
        );
        assert_eq!(uploaded.acked_image_bytes, len_bytes as u64);
        assert_eq!(progress.acked_bytes(), len_bytes as u64);
        if len_bytes > 0 {
            assert_eq!(uploaded.reach, Reach::Whole);
        }
    }
}

#[tokio::test]
async fn progress_is_what_the_device_has_read() {
    // 200 kB at 100 kB/s.
    const PIECE: usize = 1000;
    let image = image(200_000);
    let progress = Arc::new(Progress::default());
    let (addr, device) = serve(SMALL_WINDOW, {
        let progress = Arc::clone(&progress);
        move |mut stream| {
            read_image(&mut stream, 0);
            let since = Instant::now();
            let mut errors = Vec::new();
            for n_pieces in 1..=200_u32 {
                stream.read_exact(&mut [0; PIECE]).unwrap();
                let due = since + n_pieces * Duration::from_millis(10);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let read = u64::from(n_pieces) * PIECE as u64;
                errors.push(progress.acked_bytes().abs_diff(read));
            }
            stream.read_exact(&mut [0; TAIL.len()]).unwrap();
            stream.write_all(OK_REPLY).unwrap();
            errors.sort_unstable();
            errors
        }
    });
    let uploaded = upload(addr, &image, &progress, LIMITS).await.unwrap();
    assert_eq!(uploaded.acked_image_bytes, 200_000);
    let errors = device.join().unwrap();
    // Half of the time within what is read between two looks at the counter, plus the window. Counting what the
    // system took would be off by the send buffer all the time.
    let (median, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
    assert!(median <= 8_000, "median {median}, worst {worst} of 200,000 bytes");
    assert!(worst <= 20_000, "median {median}, worst {worst} of 200,000 bytes");
}

#[tokio::test]
async fn a_cancel_in_the_middle_stops_the_bytes() {
    let image = image(400_000);
    let progress = Arc::new(Progress::default());
    let read = Arc::new(AtomicU64::new(0));
    let (addr, device) = serve(SMALL_WINDOW, {
        let (progress, read) = (Arc::clone(&progress), Arc::clone(&read));
        move |mut stream| {
            read_image(&mut stream, 0);
            for _ in 0..50 {
                stream.read_exact(&mut [0; 1000]).unwrap();
                read.fetch_add(1000, Ordering::SeqCst);
            }
            wait_until("progress is told", || progress.acked_bytes() >= 50_000);
            assert!(progress.cancel(), "it is not too late");
            // Nothing is read until the sender has given up, so that what it had in hand is still there.
            stream.set_read_timeout(Some(SOON)).unwrap();
            std::thread::sleep(Duration::from_millis(300));
            count_rest(&mut stream)
        }
    });
    let error = upload(addr, &image, &progress, LIMITS).await.unwrap_err();
    assert!(matches!(error.reason, UploadReason::Cancelled), "{error:?}");
    assert_eq!(error.reach, Reach::Part);
    let (rest, end) = device.join().unwrap();
    assert_eq!(
        end,
        Some(ErrorKind::ConnectionReset),
        "what waited here is thrown away, and the device told"
    );
    let received = read.load(Ordering::SeqCst) + rest;
    let (acked, handed) = (error.acked_image_bytes, error.handed_image_bytes);
    assert!(
        acked <= received && received < handed && received < 70_000,
        "{acked} acknowledged, {received} received, {handed} handed over"
    );
}

#[tokio::test]
async fn a_cancel_before_the_first_byte_sends_no_image() {
    let progress = Progress::default();
    progress.enter(PushPhase::Inviting).unwrap();
    assert!(progress.cancel());
    let (addr, device) = serve(None, |mut stream| {
        read_head(&mut stream);
        count_rest(&mut stream).0
    });
    let error = upload(addr, &image(100_000), &progress, LIMITS)
        .await
        .unwrap_err();
    assert!(matches!(error.reason, UploadReason::Cancelled), "{error:?}");
    assert_eq!((error.reach, error.handed_image_bytes), (Reach::Nothing, 0));
    assert_eq!(device.join().unwrap(), 0);
}

#[tokio::test]
async fn a_device_that_stops_reading_is_a_stall() {
    let (end, wait) = std::sync::mpsc::channel::<()>();
    let (addr, device) = serve(SMALL_WINDOW, move |mut stream| {
        read_image(&mut stream, 50_000);
        wait.recv().unwrap();
    });
    let after = Duration::from_millis(400);
    let limits = UploadLimits {
        stall: after,
        ..LIMITS
    };
    let progress = Progress::default();
    let since = Instant::now();
    let error = upload(addr, &image(400_000), &progress, limits)
        .await
        .unwrap_err();
    assert!(since.elapsed() < SOON);
    assert!(
        matches!(error.reason, UploadReason::Stalled { after: waited } if waited == after),
        "{error:?}"
    );
    assert_eq!(error.reach, Reach::Part);
    assert!(
        (50_000..70_000).contains(&error.acked_image_bytes),
        "{}",
        error.acked_image_bytes
    );
    end.send(()).unwrap();
    device.join().unwrap();
}

#[tokio::test]
async fn a_slow_device_is_not_a_stall() {
    let (addr, device) = serve(SMALL_WINDOW, |mut stream| {
        read_head(&mut stream);
        let mut left = HEAD.len() + 40_000 + TAIL.len();
        while left > 0 {
            let n_bytes = left.min(4000);
            stream.read_exact(&mut vec![0; n_bytes]).unwrap();
            left -= n_bytes;
            std::thread::sleep(Duration::from_millis(100));
        }
        stream.write_all(OK_REPLY).unwrap();
    });
    // It takes 1 s in all.
    let limits = UploadLimits {
        stall: Duration::from_millis(600),
        ..LIMITS
    };
    upload(addr, &image(40_000), &Progress::default(), limits)
        .await
        .unwrap();
    device.join().unwrap();
}

#[tokio::test]
async fn an_early_401_ends_the_sending_and_is_the_reply() {
    let (addr, device) = serve(SMALL_WINDOW, |mut stream| {
        read_image(&mut stream, 5_000);
        stream
            .write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\n")
            .unwrap();
        // As slow as devices are: on loopback the reply would be overtaken by the rest of the image.
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut n_bytes = 5_000;
        while let Ok(n @ 1..) = stream.read(&mut [0; 1000]) {
            n_bytes += n as u64;
            std::thread::sleep(Duration::from_millis(1));
        }
        stream.write_all(b"login").unwrap();
        n_bytes
    });
    let uploaded = upload(addr, &image(400_000), &Progress::default(), LIMITS)
        .await
        .unwrap();
    assert_eq!(
        (
            uploaded.reply.status,
            uploaded.reply.text().as_str(),
            uploaded.reply.cut
        ),
        (401, "login", false)
    );
    assert_eq!(uploaded.reach, Reach::Part);
    let received = device.join().unwrap();
    assert!(received < 100_000, "{received}");
    assert!(
        (5_000..=received).contains(&uploaded.acked_image_bytes),
        "{}",
        uploaded.acked_image_bytes
    );
}

#[tokio::test]
async fn an_early_401_that_ends_in_a_reset_is_the_reply() {
    for _ in 0..20 {
        let (addr, device) = serve(SMALL_WINDOW, |mut stream| {
            read_image(&mut stream, 5_000);
            stream
                .write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\nlogin")
                .unwrap();
            // Closing with bytes unread resets the connection.
        });
        let uploaded = upload(addr, &image(400_000), &Progress::default(), LIMITS)
            .await
            .unwrap();
        assert_eq!(
            (uploaded.reply.status, uploaded.reply.text().as_str()),
            (401, "login")
        );
        assert_eq!(uploaded.reach, Reach::Part);
        device.join().unwrap();
    }
}

#[tokio::test]
async fn a_reset_in_the_middle_is_a_broken_transfer() {
    let (addr, device) = serve(SMALL_WINDOW, |mut stream| {
        read_image(&mut stream, 50_000);
        reset(stream);
    });
    let error = upload(addr, &image(400_000), &Progress::default(), LIMITS)
        .await
        .unwrap_err();
    device.join().unwrap();
    assert!(
        matches!(&error.reason, UploadReason::Broke(source)
            if matches!(source.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)),
        "{error:?}"
    );
    assert_eq!(error.reach, Reach::Part);
    // The last acknowledgement may have been on its way when the device broke off.
    assert!(
        (30_000..90_000).contains(&error.acked_image_bytes),
        "{}",
        error.acked_image_bytes
    );
}

#[tokio::test]
async fn a_reset_after_the_last_byte_is_no_reply() {
    let (addr, device) = serve(None, |mut stream| {
        read_request(&mut stream);
        reset(stream);
    });
    let error = upload(addr, &image(100_000), &Progress::default(), LIMITS)
        .await
        .unwrap_err();
    device.join().unwrap();
    assert!(
        matches!(&error.reason, UploadReason::NoReply(Some(source)) if source.kind() == ErrorKind::ConnectionReset),
        "{error:?}"
    );
    assert_eq!((error.reach, error.acked_image_bytes), (Reach::Whole, 100_000));
}

#[tokio::test]
async fn closing_after_the_last_byte_is_no_reply() {
    let (addr, device) = serve(None, |mut stream| drop(read_request(&mut stream)));
    let error = upload(addr, &image(100_000), &Progress::default(), LIMITS)
        .await
        .unwrap_err();
    device.join().unwrap();
    assert!(matches!(&error.reason, UploadReason::NoReply(_)), "{error:?}");
    assert_eq!(error.reach, Reach::Whole);
}

#[tokio::test]
async fn a_complete_reply_counts_whatever_follows() {
    for _ in 0..20 {
        let (addr, device) = serve(None, |mut stream| {
            read_request(&mut stream);
            stream.write_all(OK_REPLY).unwrap();
            reset(stream);
        });
        let uploaded = upload(addr, &image(20_000), &Progress::default(), LIMITS)
            .await
            .unwrap();
        assert_eq!(
            (uploaded.reply.text().as_str(), uploaded.reply.cut),
            ("OK", false)
        );
        device.join().unwrap();
    }
}

#[tokio::test]
async fn silence_after_the_last_byte_ends_with_the_limit() {
    let (end, wait) = std::sync::mpsc::channel::<()>();
    let (addr, device) = serve(None, move |mut stream| {
        read_request(&mut stream);
        wait.recv().unwrap();
    });
    let limits = UploadLimits {
        reply: Duration::from_millis(300),
        ..LIMITS
    };
    let error = upload(addr, &image(100_000), &Progress::default(), limits)
        .await
        .unwrap_err();
    assert!(matches!(error.reason, UploadReason::NoReply(None)), "{error:?}");
    assert_eq!((error.reach, error.acked_image_bytes), (Reach::Whole, 100_000));
    end.send(()).unwrap();
    device.join().unwrap();
}

#[tokio::test]
async fn it_all_ends_with_the_limit_in_all() {
    let (addr, device) = serve(SMALL_WINDOW, |mut stream| {
        read_image(&mut stream, 0);
        while matches!(stream.read(&mut [0; 100]), Ok(1..)) {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let total = Duration::from_millis(500);
    let limits = UploadLimits { total, ..LIMITS };
    let error = upload(addr, &image(400_000), &Progress::default(), limits)
        .await
        .unwrap_err();
    assert!(
        matches!(error.reason, UploadReason::TimedOut { after } if after == total),
        "{error:?}"
    );
    assert_eq!(error.reach, Reach::Part);
    device.join().unwrap();
}

#[tokio::test]
async fn without_a_connection_nothing_left() {
    let progress = Progress::default();
    let (_bound, addr) = refusing();
    let error = upload(addr, &image(1000), &progress, LIMITS).await.unwrap_err();
    assert!(
        matches!(error.reason, UploadReason::Dial(DialError::Refused { .. })),
        "{error:?}"
    );
    assert_eq!(
        (error.reach, progress.phase()),
        (Reach::Nothing, PushPhase::Inviting)
    );
    assert!(
        error
            .source()
            .unwrap()
            .to_string()
            .contains("refused the connection"),
        "{error}"
    );

    let upload = Upload {
        host: "h",
        path: "/",
        content_type: "text/plain",
        headers: &[],
        head: Bytes::new(),
        image: image(1000),
        tail: Bytes::new(),
    };
    let private = Dialer::new(Networks::private(), None);
    let error = http::upload(&private, addr, upload, &progress, LIMITS)
        .await
        .unwrap_err();
    assert!(
        matches!(error.reason, UploadReason::Dial(DialError::NotAllowed { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn garbage_instead_of_a_reply_is_named() {
    let (addr, device) = serve(None, |mut stream| {
        read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 yes\r\n\r\n").unwrap();
    });
    let error = upload(addr, &image(1000), &Progress::default(), LIMITS)
        .await
        .unwrap_err();
    device.join().unwrap();
    assert!(matches!(error.reason, UploadReason::NotHttp(_)), "{error:?}");
    assert_eq!(error.reach, Reach::Whole);
}
