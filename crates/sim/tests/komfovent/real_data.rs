//! Compared with what real units showed, where that is at hand.

use std::path::{Path, PathBuf};

use sim::komfovent::Registers;

use super::Unit;
use super::client::{Modbus, position, version};

/// Captured pages and register dumps: `shared/data/komfovent` beside the project or further up.
fn captured(test: &str) -> Option<PathBuf> {
    let ancestors = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let found = ancestors
        .map(|folder| folder.join("shared/data/komfovent"))
        .find(|folder| folder.is_dir());
    if found.is_none() {
        println!("{test}: skipped, no captured data");
    }
    found
}

/// What a client may look for; each must stand where it stands on the real page, as often as there.
#[track_caller]
fn assert_alike(real: &[u8], ours: &[u8], markers: &[&str]) {
    assert_eq!(ours.len(), real.len());
    for marker in markers {
        let offset = position(real, marker).unwrap_or_else(|| panic!("the real page has no {marker:?}"));
        assert_eq!(position(ours, marker), Some(offset), "{marker}");
        let count = |page: &[u8]| {
            page.windows(marker.len())
                .filter(|window| *window == marker.as_bytes())
                .count()
        };
        assert_eq!(count(ours), count(real), "{marker}");
    }
}

const FRAME: [&str; 5] = [
    "<!DOCTYPE html><html><head><meta charset=\"windows-1252\"><title>Komfovent               </title>",
    "href=\"http://www.komfovent.com               \"",
    "name=\"",
    "id=\"",
    "</body></html>",
];

#[tokio::test]
async fn the_authorised_page_is_laid_out_as_the_real_one() {
    let Some(folder) = captured("authorised page") else {
        return;
    };
    let real = std::fs::read(folder.join("g1-authorized.html")).unwrap();
    let unit = Unit::start();
    let ours = unit.log_in().await.body;
    let idle = format!("<td id=\"st\">Status:{}</td>", " ".repeat(118 - 7));
    let markers = [
        "action=\"/\"",
        "<label>user    <input name=\"4\" value=\"Logout\" type=\"submit\"></label></form>",
        "enctype=\"multipart/form-data\"",
        "\"Status: uploading\"",
        "<input type=\"file\" name=\"11111\" accept=\".bin,.mbin,.pbin,.rbin,.cfg\">",
        "<input type=\"submit\" id=\"bs\" value=\"Upload\">",
        &idle,
        "Status:",
        "</table></form>",
    ];
    assert_alike(&real, &ours, &[&FRAME[..], &markers].concat());
    assert_eq!(
        ours[816 + 118..],
        real[816 + 118..],
        "the 39 bytes behind the status cell"
    );
}

#[tokio::test]
async fn the_login_pages_are_laid_out_as_the_real_ones() {
    let Some(folder) = captured("login pages") else {
        return;
    };
    let unit = Unit::start();
    let markers = |style: &str| {
        [
            "method=\"POST\"".to_owned(),
            format!("<div><p style=\"display:{style}\">Incorrect password!     </p></div>"),
            "<input type=\"text\" name=\"1\" value=\"user\" maxlength=\"7\">".to_owned(),
            " <input id=\"i_p\" type=\"password\" name=\"2\" value=\"               \"> ".to_owned(),
            "<input id=\"b_s\" type=\"submit\" value=\"Login          \"></form>".to_owned(),
            "Incorrect password!".to_owned(),
        ]
    };
    let first = unit.get("/g1.html").await.body;
    let failed = unit.post_form("/g1.html", "1=user&2=wrong").await.body;
    for (file, style, ours) in [
        ("g1-login.html", "none  ", first),
        ("g1-login-failed.html", "      ", failed),
    ] {
        let real = std::fs::read(folder.join(file)).unwrap();
        let markers = markers(style);
        let markers: Vec<&str> = FRAME
            .iter()
            .copied()
            .chain(markers.iter().map(String::as_str))
            .collect();
        assert_alike(&real, &ours, &markers);
    }
}

#[tokio::test]
async fn dumps_of_real_units_show_their_versions() {
    let Some(folder) = captured("register dumps") else {
        return;
    };
    // Type of the controller, controller, panel; from the README beside the dumps.
    let expected = [
        ("C6M_registers_0.json", 1, "1.4.33.51", Some("1.1.3.34")),
        ("C6M_registers_ZBP1CD.json", 1, "1.4.42.67", Some("2.1.1.9")),
        ("C6M_registers_issue161.json", 1, "1.4.45.71", Some("1.1.5.47")),
        ("C6_registers_8BXC01.json", 0, "1.3.43.68", Some("1.2.3.27")),
        ("C6_registers_0.json", 0, "1.3.28.38", Some("1.1.3.25")),
        ("C6_registers_1.3.17.20.json", 0, "1.3.17.20", None),
        ("C8_registers_0K01AJ.json", 2, "1.1.14.27", Some("1.1.5.46")),
    ];
    let is_dump = |entry: &PathBuf| entry.extension().is_some_and(|extension| extension == "json");
    let dumps = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(is_dump);
    assert_eq!(dumps.count(), expected.len(), "every dump is tested");
    for (file, kind, controller, panel) in expected {
        let registers = Registers::from_json(&std::fs::read_to_string(folder.join(file)).unwrap()).unwrap();
        let unit = Unit::with(|config| config.registers = registers);
        let mut modbus = Modbus::connect(&unit).await;
        let words = modbus
            .read(1000, 4)
            .await
            .unwrap_or_else(|code| panic!("{file}: exception {code}"));
        assert_eq!(
            (words[0] >> 12, version(words[0], words[1]).as_str()),
            (kind, controller),
            "{file}"
        );
        let connected = modbus.read(954, 1).await.unwrap()[0];
        let has_panel = connected != 0;
        assert_eq!(
            has_panel.then(|| version(words[2], words[3])).as_deref(),
            panel,
            "{file}"
        );
        let running = unit.device.running();
        assert!(
            running.controller.ends_with(&format!(" {controller}")),
            "{file}: {running:?}"
        );
        assert_eq!(running.panel, panel.map(|panel| format!("P1 {panel}")), "{file}");
    }
}

#[tokio::test]
async fn dumps_answer_across_block_borders_and_refuse_what_was_not_there() {
    let Some(folder) = captured("block borders") else {
        return;
    };
    let load = |file| Registers::from_json(&std::fs::read_to_string(folder.join(file)).unwrap()).unwrap();
    // Blocks 100 (57 words) and 157 (6 words) touch; 961 is an empty block, 1004 a missing one.
    let registers = load("C6M_registers_0.json");
    let unit = Unit::with(|config| config.registers = registers);
    let mut modbus = Modbus::connect(&unit).await;
    assert_eq!(modbus.read(150, 13).await.map(|words| words.len()), Ok(13));
    assert_eq!(modbus.read(150, 14).await, Err(2));
    assert_eq!(modbus.read(961, 1).await, Err(2));
    let registers = load("C6M_registers_issue161.json");
    let unit = Unit::with(|config| config.registers = registers);
    let mut modbus = Modbus::connect(&unit).await;
    assert_eq!(modbus.read(1004, 2).await, Err(2));
    assert_eq!(modbus.read(1000, 6).await, Err(2));
}
