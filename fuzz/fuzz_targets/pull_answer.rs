//! What an IR Remote Mini answers over the broker: any bytes are an answer or none.
#![no_main]

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    families::fuzzing::read_pull_answer(payload);
});
