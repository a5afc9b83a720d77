//! What an IR Remote Mini says of itself: any bytes are a status or none, and no secret comes through.
#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    families::fuzzing::read_status(body);
});
