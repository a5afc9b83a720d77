//! Whatever a device sends by TCP: no panic, bounded printable texts, and the same result in any split.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::espota::replies::{Ended, Replies, Verdict, explain};

fuzz_target!(|bytes: &[u8]| {
    let Some((&chunk_len, reply)) = bytes.split_first() else {
        return;
    };
    let mut whole = Replies::new();
    whole.feed(reply);
    let mut split = Replies::new();
    for chunk in reply.chunks(usize::from(chunk_len).max(1)) {
        split.feed(chunk);
        let _ = split.verdict();
    }
    assert_eq!(split.verdict(), whole.verdict());
    assert_eq!(split.at_end(), whole.at_end());

    let text_at = reply
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(reply.len());
    let is_ok = reply[text_at..]
        .strip_prefix(b"OK")
        .is_some_and(|rest| rest.iter().all(|byte| b"\r\n".contains(byte)));
    assert_eq!(whole.verdict() == Verdict::Ok, is_ok);
    assert_eq!(whole.at_end() == Ended::Ok, is_ok);
    if let Ended::Error(text) = whole.at_end() {
        assert!(!text.is_empty() && text.len() <= 4 * 256);
        assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        let _ = explain(&text);
    }
});
