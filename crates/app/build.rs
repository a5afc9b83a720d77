//! How the program is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |part: &str| std::env::var(format!("CARGO_CFG_TARGET_{part}"));
    let is = |part: &str, wanted: &str| target(part).is_ok_and(|is| is == wanted);
    if is("OS", "linux") && is("ENV", "gnu") {
        // The addresses to be set at the start, packed: 1 MB less of the program. Needs glibc 2.36 (August 2022) to run.
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
