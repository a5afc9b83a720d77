//! What real units have shown, where the captures are at hand (`../shared/data/komfovent`, see its README).

use std::path::PathBuf;

use super::modbus::word;
use super::page::{self, Page};
use super::version::{Controller, Panel};

/// The captures, which are no part of the project.
fn captures() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/komfovent");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: {} is not here", folder.display());
    None
}

#[test]
fn the_dumps_of_real_units_decode_to_what_their_readme_says() {
    let Some(folder) = captures() else { return };
    for (file, controller, panel) in [
        ("C6M_registers_0", "C6M 1.4.33.51", Some("P1 1.1.3.34")),
        ("C6M_registers_ZBP1CD", "C6M 1.4.42.67", Some("P1 2.1.1.9")),
        ("C6M_registers_issue161", "C6M 1.4.45.71", Some("P1 1.1.5.47")),
        ("C6_registers_8BXC01", "C6 1.3.43.68", Some("P1 1.2.3.27")),
        ("C6_registers_0", "C6 1.3.28.38", Some("P1 1.1.3.25")),
        ("C6_registers_1.3.17.20", "C6 1.3.17.20", None),
        ("C8_registers_0K01AJ", "C8 1.1.14.27", Some("P1 1.1.5.46")),
    ] {
        let text = std::fs::read_to_string(folder.join(format!("{file}.json"))).unwrap();
        let dump: serde_json::Value = serde_json::from_str(&text).unwrap();
        let words = |first: &str| -> Option<u32> {
            let words: Vec<u16> = serde_json::from_value(dump.get(first)?.clone()).unwrap();
            word(words.get(..2)?)
        };
        let found = words("1000").and_then(Controller::unpack).unwrap();
        assert_eq!(found.to_string(), controller, "{file}");
        let found = words("1002").and_then(Panel::unpack);
        assert_eq!(found.map(|panel| panel.to_string()).as_deref(), panel, "{file}");
    }
}

#[test]
fn the_captured_pages_are_told_apart() {
    let Some(folder) = captures() else { return };
    for (file, len_bytes, page) in [
        (
            "g1-authorized.html",
            973,
            Page::Upload(Some("Status:".to_owned())),
        ),
        (
            "g1-login.html",
            1078,
            Page::Login {
                error_shown: Some(false),
            },
        ),
        (
            "g1-login-failed.html",
            1078,
            Page::Login {
                error_shown: Some(true),
            },
        ),
    ] {
        let body = std::fs::read(folder.join(file)).unwrap();
        assert_eq!(body.len(), len_bytes, "{file}");
        assert_eq!(page::read(&body), page, "{file}");
    }
}
