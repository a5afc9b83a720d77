//! Judges the reply to `POST /update`, the web update that Arduino sketches offer.
//!
//! The servers differ, and some say `FAIL` with status 200; a status alone proves nothing.
//! A missing or cut reply is not for this file: the device may have restarted before the reply left.

use crate::espota::printable;

/// Bytes of the body that are looked at. Taste: known replies have under 100, with a page around it 2 kB.
const LOOK_LEN: usize = 4096;

/// Bytes of a reply that are shown.
const TEXT_MAX_LEN: usize = 256;

/// What a reply says about the update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// The device says that it took the image.
    Success,
    /// The device says that it did not; its text, printable, at most 256 bytes of it.
    /// It may restart nevertheless (IR Remote Mini does).
    Failure(String),
    /// Neither; its text, as above. Look at the device.
    Unclear(String),
}

/// Judges a complete reply.
///
/// Success is status 2xx or 307, no word of failure, and a body that is `OK` or contains `Success` as the known
/// servers write them (IR Remote Mini and `ElegantOTA`, arduino-esp32 `HTTPUpdateServer`); a bare 307 is one too
/// (arduino-esp32 `OTAWebUpdater`). Failure words count in any case. Both kinds of words at once are unclear.
pub fn judge(status: u16, body: &[u8]) -> Judgement {
    let body = body[..body.len().min(LOOK_LEN)].trim_ascii();
    let text = printable(body, TEXT_MAX_LEN);
    let is_accepted = matches!(status, 200..=299 | 307);
    if !is_accepted {
        let text = format!("HTTP {status} {text}").trim_ascii_end().to_owned();
        return if status >= 400 {
            Judgement::Failure(text)
        } else {
            Judgement::Unclear(text)
        };
    }
    let lower = body.to_ascii_lowercase();
    let is_success = body == b"OK" || contains(body, b"Success") || status == 307 && body.is_empty();
    let is_failure = contains(&lower, b"fail") || contains(&lower, b"error");
    match (is_success, is_failure) {
        (true, false) => Judgement::Success,
        (false, true) => Judgement::Failure(text),
        (true, true) | (false, false) => Judgement::Unclear(text),
    }
}

fn contains(body: &[u8], word: &[u8]) -> bool {
    body.windows(word.len()).any(|window| window == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, body: &str, expected: &Judgement) {
        assert_eq!(&judge(status, body.as_bytes()), expected, "{status} {body:?}");
    }

    fn failure(text: &str) -> Judgement {
        Judgement::Failure(text.to_owned())
    }

    fn unclear(text: &str) -> Judgement {
        Judgement::Unclear(text.to_owned())
    }

    #[test]
    fn known_servers_are_understood() {
        check(200, "OK", &Judgement::Success);
        check(200, "OK\r\n", &Judgement::Success);
        check(200, "FAIL", &failure("FAIL"));
        check(
            200,
            r#"<META http-equiv="refresh" content="15;URL=/">Update Success! Rebooting..."#,
            &Judgement::Success,
        );
        check(
            200,
            "Update error: ERROR[3]: Not Enough Space",
            &failure("Update error: ERROR[3]: Not Enough Space"),
        );
        check(307, "", &Judgement::Success);
        check(502, "Update failed", &failure("HTTP 502 Update failed"));
        check(
            400,
            "MD5 parameter invalid",
            &failure("HTTP 400 MD5 parameter invalid"),
        );
    }

    #[test]
    fn status_alone_is_no_success() {
        check(200, "", &unclear(""));
        check(204, "", &unclear(""));
        check(
            200,
            "<html>please log in</html>",
            &unclear("<html>please log in</html>"),
        );
        check(
            200,
            r#"{"status":"success"}"#,
            &unclear(r#"{"status":"success"}"#),
        );
        check(307, "moved", &unclear("moved"));
    }

    #[test]
    fn ok_counts_only_as_the_whole_body() {
        check(200, "NOT OK", &unclear("NOT OK"));
        check(200, "OK?", &unclear("OK?"));
        check(200, "ok", &unclear("ok"));
    }

    #[test]
    fn other_statuses_are_no_success_whatever_the_body_says() {
        check(404, "OK", &failure("HTTP 404 OK"));
        check(401, "", &failure("HTTP 401"));
        check(302, "", &unclear("HTTP 302"));
        check(302, "Update Success!", &unclear("HTTP 302 Update Success!"));
        check(308, "OK", &unclear("HTTP 308 OK"));
        check(0, "OK", &unclear("HTTP 0 OK"));
    }

    #[test]
    fn failure_words_spoil_a_success_in_any_case() {
        check(200, "fail", &failure("fail"));
        check(200, "ERROR: bad", &failure("ERROR: bad"));
        check(200, "Success? No: error", &unclear("Success? No: error"));
    }

    #[test]
    fn text_is_bounded_and_printable() {
        assert_eq!(judge(200, b"FAIL\x1b[2J\xff\\"), failure(r"FAIL\x1b[2J\xff\\"));
        assert_eq!(
            judge(500, &vec![b'x'; 100_000]),
            failure(&format!("HTTP 500 {}", "x".repeat(256)))
        );
    }

    #[test]
    fn words_beyond_the_looked_at_part_do_not_count() {
        let mut body = vec![b' '; LOOK_LEN];
        body.extend_from_slice(b"Success");
        assert_eq!(judge(200, &body), unclear(""));
    }
}
