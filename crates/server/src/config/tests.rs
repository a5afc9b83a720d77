//! What is accepted, what is refused, and how that is told.

use std::collections::BTreeMap;

use secrecy::ExposeSecret as _;

use super::*;

/// The block of document 000, byte for byte.
const FOUNDING: &str = r#"ir_remote_ota:
  scan_interval: 300  # seconds
  network_range: "192.168.1.0/24"
  firmware_path: "/config/ir_remote_firmware/"
  auto_discovery: true
  update_check_interval: 3600  # seconds
  devices:
    - ip: "192.168.1.100"
      name: "Living Room IR"
    - ip: "192.168.1.101"
      name: "Bedroom IR"
"#;

fn read(text: &str) -> Result<Config, ConfigError> {
    parse(text, Sources::given(BTreeMap::new()))
}

#[track_caller]
fn good(text: &str) -> Config {
    read(text).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn bad(text: &str) -> String {
    read(text).expect_err(text).to_string()
}

#[test]
fn the_founding_block_is_read_as_it_stands() {
    let config = good(FOUNDING);
    assert_eq!(
        config.firmware_path.as_deref(),
        Some(Path::new("/config/ir_remote_firmware/"))
    );
    let block = config.family("ir-remote").unwrap();
    assert_eq!(block.scan_every, Duration::from_mins(5));
    assert_eq!(block.update_check_every, Duration::from_hours(1));
    assert_eq!(block.scan_ranges, ["192.168.1.0/24".parse().unwrap()]);
    assert!(block.auto_discovery);
    assert_eq!(
        block.password.as_ref().unwrap().expose_secret(),
        DEFAULT_OTA_PASSWORD
    );
    let names: Vec<_> = block
        .devices
        .iter()
        .map(|device| (device.host.as_str(), device.name.as_deref()))
        .collect();
    assert_eq!(
        names,
        [
            ("192.168.1.100", Some("Living Room IR")),
            ("192.168.1.101", Some("Bedroom IR"))
        ]
    );
}

#[test]
fn an_unknown_key_is_refused_and_the_nearest_one_is_named() {
    let error = bad("ir_remote_ota:\n  scan_intervall: 300\n");
    assert!(
        error.contains("reflash.yaml:2:3") && error.contains("`scan_interval`"),
        "{error}"
    );
}
