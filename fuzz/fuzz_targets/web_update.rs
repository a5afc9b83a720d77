//! Whatever a web server replies to an update: no panic, bounded printable texts, no success by an odd status.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::web_update::{Judgement, judge};

fuzz_target!(|bytes: &[u8]| {
    let Some((status, body)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let status = u16::from_be_bytes(*status) % 600;
    match judge(status, body) {
        Judgement::Success => assert!((200..300).contains(&status) || status == 307),
        Judgement::Failure(text) | Judgement::Unclear(text) => {
            assert!(text.len() <= 4 * 256 + 16 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
    }
});
