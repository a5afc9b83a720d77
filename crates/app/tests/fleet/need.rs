//! What tests need of the machine, and what they say where it is missing.

/// Names of needs (`namespaces`, `mosquitto`), separated by commas, whose tests are to be left out on this machine.
pub(crate) const LEFT_OUT: &str = "REFLASH_TESTS_WITHOUT";

/// True when the tests that need this are left out on purpose, which is said.
#[expect(clippy::print_stderr, reason = "what is not tested is not kept quiet")]
pub(crate) fn is_left_out(need: &str) -> bool {
    let without = std::env::var(LEFT_OUT).unwrap_or_default();
    let left_out = without.split(',').any(|left_out| left_out.trim() == need);
    if left_out {
        eprintln!("NOT RUN: left out by {LEFT_OUT}={without}");
    }
    left_out
}

/// Ends the test with a sentence that says what is missing and what to do.
pub(crate) fn missing(need: &str, what: &str, remedy: &str) -> ! {
    panic!("{what} {remedy} To leave these tests out on this machine, set {LEFT_OUT}={need}.");
}
