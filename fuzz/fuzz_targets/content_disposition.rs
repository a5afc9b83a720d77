//! Any header: no panic, and a name that comes out is that of a plain file.
#![no_main]

use proto::content_disposition::{NAME_MAX_CHARS, file_name};

libfuzzer_sys::fuzz_target!(|header: &[u8]| {
    if let Ok(name) = file_name(header) {
        assert!(!name.is_empty() && name.chars().count() <= NAME_MAX_CHARS);
        assert!(!name.contains(['/', '\\']) && !name.contains("..") && name != ".");
        assert!(!name.chars().any(char::is_control));
    }
});
