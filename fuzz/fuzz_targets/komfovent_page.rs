//! Whatever a unit's web server replies: no panic, bounded texts without control characters, no success without the word.
#![no_main]

use families::fuzzing::{Judgement, Page, judge, read, serial};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let is_upload_page = matches!(read(body), Page::Upload(_));
    match judge(body) {
        Judgement::Success(text) | Judgement::Mixed(text) => {
            assert!(is_upload_page && text.to_ascii_lowercase().contains("success"));
            assert!(text.chars().count() <= 200 && !text.contains(char::is_control));
        }
        Judgement::Failure(text) | Judgement::Unclear(text) => {
            assert!(is_upload_page && text.chars().count() <= 200 && !text.contains(char::is_control));
        }
        Judgement::LoggedOut => assert!(matches!(read(body), Page::Login { .. })),
        Judgement::Foreign => assert_eq!(read(body), Page::Other),
    }
    if let Some(serial) = serial(body) {
        assert!((1..=32).contains(&serial.len()));
        assert!(
            serial
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        );
    }
});
