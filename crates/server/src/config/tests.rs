//! What is accepted, what is refused, how that is told, and that no secret is told with it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;
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

/// The example of ../shared/INTERFACES.md 3, byte for byte.
const CONTRACT: &str = include_str!("../../tests/config/contract.yaml");
const SECRETS: &str =
    "mqtt: of-mqtt\nir_remote_ota: of-the-family\nliving_room: of-one\nkomfovent: of-the-unit\n";

/// What must never be seen.
const CANARY: &str = "cAnArY5eCr3t";

fn read(text: &str) -> Result<Config, ConfigError> {
    parse(text, Sources::given(BTreeMap::new()))
}

#[track_caller]
fn good(text: &str) -> Config {
    read(text).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn bad(text: &str) -> String {
    let error = read(text).expect_err(text);
    assert!(!error.problems.is_empty());
    error.to_string()
}

/// A folder with a configuration and, if there are any, secrets.
fn folder(text: &str, secrets: Option<&str>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reflash.yaml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    if let Some(secrets) = secrets {
        let path = folder.path().join("secrets.yaml");
        fs::write(&path, secrets).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    (folder, path)
}

fn password(secret: Option<&SecretString>) -> Option<&str> {
    secret.map(secrecy::ExposeSecret::expose_secret)
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
    assert_eq!(password(block.password.as_ref()), Some("ir_remote_update"));
    let devices = block.devices.iter();
    let names: Vec<_> = devices
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
fn the_contract_is_read_with_its_secrets() {
    let (_folder, path) = folder(CONTRACT, Some(SECRETS));
    let config = load(&path).unwrap_or_else(|error| panic!("{error}"));
    let mqtt = config.mqtt.as_ref().unwrap();
    assert_eq!(mqtt.broker.as_str(), "mqtt://127.0.0.1:1883");
    assert_eq!(password(mqtt.password.as_ref()), Some("of-mqtt"));
    let schedule = &config.schedules["nightly"];
    assert_eq!(
        (schedule.cron.as_str(), schedule.window.as_deref()),
        ("15 2 * * *", Some("night"))
    );
    let window = &config.windows["night"];
    assert_eq!(window.start, Time::constant(2, 0, 0, 0));
    assert_eq!(window.duration, Duration::from_hours(3));
    assert_eq!(window.days.len(), 5);
    assert_eq!(window.timezone.as_deref(), Some("Europe/Vilnius"));
    let ir_remote = config.family("ir-remote").unwrap();
    assert_eq!(password(ir_remote.password.as_ref()), Some("of-the-family"));
    assert_eq!(password(ir_remote.devices[0].password.as_ref()), Some("of-one"));
    let komfovent = config.family("komfovent").unwrap();
    assert_eq!(komfovent.poll_every, Duration::from_secs(30));
    assert_eq!(komfovent.update_check_every, Duration::from_hours(168));
    assert_eq!(komfovent.devices[0].username.as_deref(), Some("user"));
    assert_eq!(
        password(komfovent.devices[0].password.as_ref()),
        Some("of-the-unit")
    );
    assert_eq!(komfovent.feed_urls.len(), 2);
    // It says nothing but the defaults in these blocks.
    let ours = Config::default();
    for block in ["server.", "policy.", "notify.", "retention."] {
        let changes = ours.diff(&config);
        assert!(
            !changes.iter().any(|change| change.key.starts_with(block)),
            "{changes:?}"
        );
    }
}

#[test]
fn without_a_file_there_is_a_block_for_every_family() {
    for config in [
        Config::default(),
        good(""),
        good("# nothing\n"),
        good("server:\nmqtt: null\n"),
    ] {
        let names: Vec<&str> = config
            .families
            .iter()
            .map(|block| block.family.as_str())
            .collect();
        assert_eq!(names, families::NAMES);
        assert_eq!(config.server.listen, Some("127.0.0.1:8927".parse().unwrap()));
        assert!(config.mqtt.is_none());
        assert!(config.networks().contains("192.168.1.20".parse().unwrap()));
        assert!(!config.networks().contains("127.0.0.1".parse().unwrap()));
    }
}

#[test]
fn known_devices_are_asked_as_often_as_new_ones_are_looked_for() {
    let every = |text: &str| good(text).family("ir-remote").unwrap().poll_every.as_secs();
    assert_eq!(every(""), 60);
    assert_eq!(every("ir_remote_ota: { scan_interval: 300 }"), 60);
    assert_eq!(every("ir_remote_ota: { scan_interval: 20 }"), 20);
    assert_eq!(
        every("ir_remote_ota: { scan_interval: 20, poll_interval: 2m }"),
        120
    );
}

/// A document, and what its refusal must say.
const BAD: &[(&str, &[&str])] = &[
    // Keys.
    (
        "sever:\n  listen: x\n",
        &["1:1", "`sever`", "did you mean `server`?"],
    ),
    (
        "policy:\n  ota_password: x\n",
        &["2:3", "`ota_password` belongs into `ir_remote_ota`"],
    ),
    ("server:\n  windows: {}\n", &["`windows` stands at the very left"]),
    (
        "ir_remote_ota:\n  colour: red\n",
        &["the keys are `scan_interval`"],
    ),
    (
        "ir_remote_ota: 192.168.1.0/24\n",
        &["`ir_remote_ota` is a single value"],
    ),
    ("- a\n- b\n", &["the configuration is a list"]),
    (
        "policy:\n  canary: 1\n  canary: 2\n",
        &["3:3", "a second time", "line 2"],
    ),
    ("? [a]\n: b\n", &["this key is not a plain word"]),
    // Types and bounds.
    (
        "ir_remote_ota:\n  scan_interval: soon\n",
        &["2:18", "`soon`", "`scan_interval: 300`"],
    ),
    ("ir_remote_ota:\n  scan_interval: 1\n", &["from 10s to 30d"]),
    (
        "ir_remote_ota:\n  auto_discovery: perhaps\n",
        &["neither `true` nor `false`"],
    ),
    ("ir_remote_ota:\n  ota_port: 70000\n", &["from 1 to 65535"]),
    (
        "ir_remote_ota:\n  ota_port: [1]\n",
        &["is a list and not a single value"],
    ),
    (
        "server: { listen: 8927 }\n",
        &["not an address and a port", "127.0.0.1:8927"],
    ),
    ("server: { database: \"postgres://x\" }\n", &["not supported yet"]),
    (
        "server: { tls: { cert: a.pem } }\n",
        &["needs both `cert` and `key`"],
    ),
    ("server: { tls: letsencrypt }\n", &["`self-signed`"]),
    ("policy: { rollback: always }\n", &["`on_boot_loop`"]),
    ("policy: { at_once: 0 }\n", &["from 1 to 1000"]),
    (
        "policy: { require_signature: true }\n",
        &["no key to check a signature"],
    ),
    ("policy: { signing_keys: [abc] }\n", &["begins with `RW`"]),
    ("mqtt: { username: x }\n", &["`mqtt` has no `broker`"]),
    ("mqtt: { broker: \"http://x\" }\n", &["`mqtt://` or `mqtts://`"]),
    (
        "mqtt: { broker: \"mqtt://x\", prefix: \"a/#\" }\n",
        &["no `+`, no `#`"],
    ),
    ("mqtt: { broker: \"mqtt://x\", ca: a.pem }\n", &["not encrypted"]),
    (
        "notify: { webhook: { url: \"ftp://x\" } }\n",
        &["`https://` or `http://`"],
    ),
    (
        "notify: { webhook: { url: \"https://x\", form: xml } }\n",
        &["neither `json` nor `text`"],
    ),
    (
        "notify: { webhook: { secret: x } }\n",
        &["`notify.webhook.url` is missing"],
    ),
    (
        "notify: { mqtt: true }\n",
        &["no broker is named", "mqtt: { broker"],
    ),
    ("notify: { mqtt: maybe }\n", &["`mqtt: true`"]),
    ("notify: { about: [] }\n", &["`notify.about` is empty"]),
    (
        "notify: { about: [finished, explosions] }\n",
        &["nothing of that name", "halted, firmware, lost"],
    ),
    ("notify: { digest: 25h }\n", &["to 1d"]),
    // Times.
    (
        "windows: { night: { start: \"25:00\", duration: 3h } }\n",
        &["no time of day", "02:00"],
    ),
    (
        "windows: { night: { start: \"02:00\" } }\n",
        &["`windows.night.duration` is missing"],
    ),
    (
        "windows: { night: { start: \"02:00\", duration: 25h } }\n",
        &["from 1m to 1d"],
    ),
    (
        "windows: { night: { start: \"02:00\", duration: 3h, days: [mo] } }\n",
        &["no day of the week"],
    ),
    (
        "windows: { night: { start: \"02:00\", duration: 3h, days: [] } }\n",
        &["never opens"],
    ),
    (
        "windows: { night: { start: \"02:00\", duration: 3h, timezone: Europe/Vilnus } }\n",
        &["no time zone"],
    ),
    (
        "schedules: { a: { cron: \"15 2 * *\" } }\n",
        &["five parts, and this has 4"],
    ),
    (
        "schedules: { a: { cron: \"61 2 * * *\" } }\n",
        &["minute is from 0 to 59", "`61`"],
    ),
    (
        "windows: { night: { start: \"02:00\", duration: 3h } }\nschedules: { a: { cron: \"15 2 * * *\", window: nigth } }\n",
        &["did you mean `night`?"],
    ),
    // Networks (F6, T22).
    (
        "ir_remote_ota: { network_range: 10.0.0.0/21 }\n",
        &["larger than a /22", "allow_large_scan"],
    ),
    (
        "ir_remote_ota: { network_range: 10.0.0.0/15, allow_large_scan: true }\n",
        &["larger than a /16"],
    ),
    (
        "ir_remote_ota: { network_range: 0.0.0.0/0, allow_large_scan: true }\n",
        &["larger than a /16"],
    ),
    (
        "ir_remote_ota: { network_range: 8.8.8.0/24 }\n",
        &["does not lie within `server.allowed_networks`"],
    ),
    (
        "ir_remote_ota: { network_range: 127.0.0.0/24 }\n",
        &["does not lie within"],
    ),
    (
        "ir_remote_ota: { network_range: 169.254.1.0/24 }\n",
        &["does not lie within"],
    ),
    (
        "ir_remote_ota: { network_range: 224.0.0.0/24 }\n",
        &["does not lie within"],
    ),
    (
        "ir_remote_ota: { network_range: 192.167.255.0/22 }\n",
        &["does not lie within"],
    ),
    (
        "ir_remote_ota: { network_range: \"fd00::/64\" }\n",
        &["larger than a /16"],
    ),
    (
        "ir_remote_ota: { network_range: home }\n",
        &["neither an address nor a network"],
    ),
    (
        "server: { allowed_networks: [everything] }\n",
        &["`private`, `loopback` or `link-local`"],
    ),
    (
        "server: { allowed_networks: [224.0.0.0/4] }\n",
        &["no single device"],
    ),
    (
        "server: { allowed_networks: [] }\n",
        &["no device may be reached"],
    ),
    // Devices.
    ("ir_remote_ota: { devices: [{ name: x }] }\n", &["has no address"]),
    (
        "ir_remote_ota: { devices: [{ ip: 8.8.8.8 }] }\n",
        &["outside `server.allowed_networks`"],
    ),
    (
        "ir_remote_ota: { devices: [{ ip: 127.0.0.1 }] }\n",
        &["outside `server.allowed_networks`"],
    ),
    (
        "ir_remote_ota: { devices: [{ ip: \"::ffff:127.0.0.1\" }] }\n",
        &["outside"],
    ),
    (
        "ir_remote_ota: { devices: [{ ip: 2130706433 }] }\n",
        &["no complete address"],
    ),
    ("ir_remote_ota: { devices: [{ ip: 0.0.0.0 }] }\n", &["outside"]),
    (
        "ir_remote_ota: { devices: [192.168.1.1, { host: 192.168.1.1 }] }\n",
        &["listed twice"],
    ),
    (
        "ir_remote_ota: { devices: [{ ip: 192.168.1.1, host: a }] }\n",
        &["and not both"],
    ),
    (
        "ir_remote_ota: { devices: [{ ip: 192.168.1.1, chip: esp33 }] }\n",
        &["no chip that is known"],
    ),
    (
        "ir_remote_ota: { devices: [{ ip: 192.168.1.1, slot_bytes: 12 }] }\n",
        &["from 65536 to 16777216"],
    ),
    (
        "ir_remote_ota: { devices: [{ ip: 192.168.1.1, name: \"a\\nb\" }] }\n",
        &["only what can be seen"],
    ),
    (
        "komfovent: { devices: [{ host: 192.168.1.1, chip: esp32 }] }\n",
        &["no key `chip` in `komfovent.devices`"],
    ),
    (
        "komfovent: { firmware_urls: { C6: \"file:///etc/passwd\" } }\n",
        &["`https://` or `http://`"],
    ),
    (
        "firmware_path: /a\nir_remote_ota: { firmware_path: /b }\n",
        &["stands at two places"],
    ),
    // What YAML could do (T19).
    ("a: &a [x]\nb: *a\n", &["1:", "anchors and aliases"]),
    ("policy: *policy\n", &["anchors and aliases"]),
    ("<<: { a: b }\n", &["merges are not read"]),
    (
        "policy: !!python/object/apply:os.system [\"true\"]\n",
        &["only `!secret name` and `!env_var NAME`"],
    ),
    ("policy: !include policy.yaml\n", &["includes are not read"]),
    ("policy: !secret [a]\n", &["before a single word"]),
    (
        "ir_remote_ota: { ota_port: !!int 3232 }\n",
        &["only `!secret name`"],
    ),
    ("%YAML 1.2\n---\npolicy: {}\n", &["directive"]),
    ("---\npolicy: {}\n---\npolicy: {}\n", &["second document"]),
    ("policy:\n\tcanary: 1\n", &["2:2", "indent with spaces"]),
    ("policy: { canary: 1\n", &["cannot be read as YAML"]),
    // References.
    (
        "mqtt: { broker: \"mqtt://x\", password: !secret mqtt }\n",
        &["no secrets.yaml for the secret `mqtt`"],
    ),
    (
        "ir_remote_ota: { ota_password: !env_var OTA }\n",
        &["no variable `OTA`"],
    ),
    (
        "ir_remote_ota: { ota_password: \"\" }\n",
        &["`ir_remote_ota.ota_password` is empty"],
    ),
    (
        "ir_remote_ota: { ota_password: [a] }\n",
        &["is a list and not a single value"],
    ),
];

#[test]
fn each_mistake_is_told_where_it_is_and_with_what_to_write() {
    for (text, says) in BAD {
        let error = bad(text);
        for word in *says {
            assert!(error.contains(word), "{text}\nshould say {word:?}:\n{error}");
        }
        assert!(error.contains("\n  help: "), "{error}");
    }
}

#[test]
fn mistakes_look_like_this() {
    let shown: Vec<String> = BAD
        .iter()
        .map(|(text, _)| format!("{text}\n{}\n", bad(text)))
        .collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = "policy:\n  canry: 1\nserver:\n  listen: x\nir_remote_ota:\n  http_port: 0\n";
    let error = read(text).unwrap_err();
    let lines: Vec<usize> = error
        .problems
        .iter()
        .filter_map(|problem| problem.at)
        .map(|at| at.line)
        .collect();
    assert_eq!(lines, [2, 4, 6]);
    let many: String = std::iter::once("policy:\n".to_owned())
        .chain((0..500).map(|idx| format!("  wrong{idx}: 1\n")))
        .collect();
    let error = read(&many).unwrap_err();
    assert_eq!(error.problems.len(), 500);
    assert!(error.to_string().ends_with("and 480 more"));
}

#[test]
fn networks_are_allowed_up_to_their_size_and_where_they_are_listed() {
    let ranges = |text: &str| good(text).family("ir-remote").unwrap().scan_ranges.len();
    assert_eq!(ranges("ir_remote_ota: { network_range: 10.0.0.0/22 }"), 1);
    assert_eq!(
        ranges("ir_remote_ota: { network_range: 10.0.0.0/16, allow_large_scan: true }"),
        1
    );
    assert_eq!(
        ranges("ir_remote_ota: { network_range: [192.168.1.1/24, 192.168.1.0/24, 10.0.0.7] }"),
        2
    );
    assert_eq!(
        ranges("server: { allowed_networks: [loopback] }\nir_remote_ota: { network_range: 127.0.0.0/24 }"),
        1
    );
    assert_eq!(
        ranges(
            "server: { allowed_networks: [100.64.0.0/10] }\nir_remote_ota: { network_range: 100.64.1.0/24 }"
        ),
        1
    );
    let config = good("server: { allowed_networks: [private, link-local] }");
    assert!(config.networks().contains("169.254.1.1".parse().unwrap()));
    // Listing others takes the private ones away.
    bad("server: { allowed_networks: [loopback] }\nir_remote_ota: { devices: [192.168.1.1] }");
}

/// It becomes part of a header that browsers obey.
#[test]
fn who_may_show_the_page_in_a_frame_is_a_plain_origin() {
    let of = |origin: &str| format!("server: {{ frame_ancestors: [{origin:?}] }}");
    for (given, kept) in [
        (
            "http://homeassistant.local:8123",
            "http://homeassistant.local:8123",
        ),
        ("https://HA.lan/", "https://ha.lan"),
        ("http://192.168.1.9:8123", "http://192.168.1.9:8123"),
        ("http://[fd00::9]:8123", "http://[fd00::9]:8123"),
    ] {
        assert_eq!(good(&of(given)).server.frame_ancestors, [kept]);
    }
    for wrong in [
        "*",
        "'self'",
        "https:",
        "http://*.lan",
        "https://a.lan; script-src *",
        "https://a.lan/page",
        "https://a.lan/?x",
        "https://me@a.lan",
        "javascript://a.lan",
        "ha.lan:8123",
        "https://a.lan\r\nX: y",
        "",
    ] {
        bad(&of(wrong));
    }
}

#[test]
fn bombs_end_in_a_refusal_at_once() {
    let laughs: String = (1..12).fold("a0: &a0 [x, x]\n".to_owned(), |text, idx| {
        let alias = format!("*a{}", idx - 1);
        text + &format!("a{idx}: &a{idx} [{}]\n", vec![alias; 10].join(", "))
    });
    let bombs = [
        laughs,
        "[".repeat(100_000),
        "{a: ".repeat(100_000),
        "- ".repeat(100_000),
        (0..10_000).fold(String::new(), |text, idx| {
            text + &" ".repeat(idx.min(90)) + "a:\n"
        }),
        format!("policy: {}", "x".repeat(2 * 1024 * 1024)),
        "a: 1\n".repeat(200_000),
        format!("[{}]", "a,".repeat(500_000)),
        format!("a: \"{}", "\\u0041".repeat(100_000)),
        "? ".repeat(100_000),
        "!!a ".repeat(50_000),
    ];
    let begun = std::time::Instant::now();
    for bomb in bombs {
        let error = bad(&bomb);
        assert!(error.len() < 20_000, "{} bytes", error.len());
    }
    // Far more than it takes, and far less than a bomb that goes off would.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_tag_is_never_taken_for_the_text_behind_it() {
    let error = bad("ir_remote_ota: { ota_password: !secret ota }");
    assert!(error.contains("secret `ota`"), "{error}");
    bad("ir_remote_ota: { ota_password: !secrets ota }");
    bad("ir_remote_ota: { ota_password: !<!secret2> ota }");
    bad("ir_remote_ota: { ota_password: !!binary aGk= }");
    // A quoted text begins with whatever it likes.
    let config = good("ir_remote_ota: { ota_password: \"!secret ota\" }");
    let password = config.family("ir-remote").unwrap().password.clone().unwrap();
    assert_eq!(password.expose_secret(), "!secret ota");
}

#[test]
fn a_password_is_the_text_that_was_written() {
    for written in ["1234", "0x10", "1e3", "yes", "no", "1.10", "02:00", "~x"] {
        let config = good(&format!("ir_remote_ota: {{ ota_password: {written} }}"));
        let password = config.family("ir-remote").unwrap().password.clone().unwrap();
        assert_eq!(password.expose_secret(), written);
    }
}

#[test]
fn secrets_are_looked_for_beside_the_file_and_in_three_folders_above() {
    let top = tempfile::tempdir().unwrap();
    let deep = top.path().join("a/b/c/d");
    fs::create_dir_all(&deep).unwrap();
    let path = deep.join("reflash.yaml");
    fs::write(&path, "ir_remote_ota: { ota_password: !secret ota }").unwrap();
    let try_at = |folder: &Path| {
        let secrets = folder.join("secrets.yaml");
        fs::write(
            &secrets,
            format!("other: x\nota: of-{}\n", folder.file_name().unwrap().display()),
        )
        .unwrap();
        load(&path).map(|config| {
            password(config.family("ir-remote").unwrap().password.as_ref())
                .unwrap()
                .to_owned()
        })
    };
    // Four folders above is too far.
    assert!(try_at(top.path()).is_err());
    assert_eq!(try_at(&top.path().join("a")).unwrap(), "of-a");
    // The nearest that has it wins.
    assert_eq!(try_at(&deep).unwrap(), "of-d");
    fs::write(deep.join("secrets.yaml"), "other: x\n").unwrap();
    assert_eq!(load(&path).unwrap().origin.secrets.len(), 2);
}

#[test]
fn a_missing_secret_is_told_with_the_nearest_one() {
    let (_folder, path) = folder("komfovent: { password: !secret komfovnt }", Some(SECRETS));
    let error = load(&path).unwrap_err().to_string();
    assert!(
        error.contains("did you mean `komfovent`?") && error.contains("secrets.yaml"),
        "{error}"
    );
}

#[test]
fn a_secrets_file_that_cannot_be_read_is_no_reason_to_look_further() {
    for secrets in [
        "a: [",
        "- a\n",
        "ota: {a: b}\n",
        "ota: x\nota: y\n",
        "ota: &x y\n",
    ] {
        let (_folder, path) = folder("ir_remote_ota: { ota_password: !secret ota }", Some(secrets));
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("secrets.yaml"), "{secrets}\n{error}");
    }
}

#[test]
fn the_environment_is_read_with_a_default() {
    let variables = BTreeMap::from([("OTA_PASSWORD".to_owned(), "of-env".to_owned())]);
    let read = |text: &str| {
        let config = parse(text, Sources::given(variables.clone()))?;
        Ok::<_, ConfigError>(
            password(config.family("ir-remote").unwrap().password.as_ref())
                .unwrap()
                .to_owned(),
        )
    };
    assert_eq!(
        read("ir_remote_ota: { ota_password: !env_var OTA_PASSWORD }").unwrap(),
        "of-env"
    );
    assert_eq!(
        read("ir_remote_ota: { ota_password: !env_var OTA_PASSWORD other }").unwrap(),
        "of-env"
    );
    assert_eq!(
        read("ir_remote_ota: { ota_password: !env_var NOBODY two words }").unwrap(),
        "two words"
    );
    let error = read("ir_remote_ota: { ota_password: !env_var OTA_PASWORD }")
        .unwrap_err()
        .to_string();
    assert!(error.contains("did you mean `OTA_PASSWORD`?"), "{error}");
    assert!(read("ir_remote_ota: { ota_password: !env_var }").is_err());
}

#[test]
fn a_file_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = load(&folder.path().join("none.yaml")).unwrap_err().to_string();
    assert!(error.contains("none.yaml: it cannot be read"), "{error}");
    assert!(load(folder.path()).is_err());
    assert!(load(Path::new("/dev/zero")).is_err());
    let path = folder.path().join("latin1.yaml");
    fs::write(&path, b"policy: \xe9\n").unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("no UTF-8"));
    fs::write(&path, vec![b'#'; 2 * 1024 * 1024]).unwrap();
    assert!(
        load(&path)
            .unwrap_err()
            .to_string()
            .contains("longer than a megabyte")
    );
}

/// A configuration full of secrets, in flow and in block notation.
fn with_canaries() -> String {
    format!(
        "mqtt:\n  broker: mqtts://broker.lan\n  username: u\n  password: {CANARY}\n\
         notify: {{ webhook: {{ url: \"https://example.org/{CANARY}\", secret: \"{CANARY}\" }} }}\n\
         ir_remote_ota:\n  scan_interval: 300\n  ota_password: '{CANARY}'\n  devices:\n\
         \x20   - {{ ip: 192.168.1.2, name: Hall, password: {CANARY}, tags: [up] }}\n\
         \x20   - ip: 192.168.1.3\n      password: \"{CANARY}\"\n      name: Attic\n\
         komfovent:\n  password: {CANARY}\n  poll_interval: 30\n"
    )
}

#[track_caller]
fn check_hidden(text: &str, result: &Result<Config, ConfigError>) {
    let told = match result {
        Ok(config) => format!(
            "{config:?} {:?} {:?}",
            config.warnings(),
            Config::default().diff(config)
        ),
        Err(error) => format!("{error} {error:?} {error:#?}"),
    };
    assert!(!told.contains(CANARY), "told in\n{told}\nof\n{text}");
}

#[test]
fn a_secret_is_in_no_debug_no_warning_and_no_difference() {
    let text = with_canaries();
    let config = good(&text);
    check_hidden(&text, &Ok(config.clone()));
    let other = good(&text.replace(CANARY, "other"));
    for changes in [config.diff(&other), other.diff(&config)] {
        assert!(
            changes.iter().any(|change| change.key == "komfovent.password"),
            "{changes:?}"
        );
        assert!(!format!("{changes:?}").contains(CANARY));
    }
}

/// Ways to write a secret wrongly that people really do.
#[test]
fn a_secret_beside_a_mistake_is_masked() {
    let mistakes = [
        "ir_remote_ota: { devices: [{ ip: 1.2, password: CANARY, nme: x }] }",
        "ir_remote_ota: { devices: [{ ip: 192.168.1.2, password:CANARY }] }",
        "ir_remote_ota: { devices: [{ ip: 192.168.1.2, password CANARY }] }",
        "ir_remote_ota: { devices: [{ ip: 192.168.1.2, password=CANARY }] }",
        "ir_remote_ota:\n  ota_pasword: CANARY\n",
        "ir_remote_ota:\n  ota_password CANARY\n",
        "ir_remote_ota:\n  ota_password:CANARY\n",
        "ir_remote_ota:\n  http_port: 80\n  ota_password CANARY\n",
        "ir_remote_ota:\n  http_port: 80\n    ota_password: CANARY\n",
        "ir_remote_ota:\n  http_port: 80\n    ota_password CANARY\n",
        "ir_remote_ota:\n  devices:\n    - ip: 192.168.1.2\n      name: Hall\n        password CANARY\u{7}\n",
        "ir_remote_ota:\n  http_port: \"80\n  ota_password: CANARY\n  x: \"\n",
        "ir_remote_ota:\n  ota_password: \"CANARY\n",
        "ir_remote_ota:\n  ota_password: !CANARY\n",
        "ir_remote_ota:\n  ota_password: *CANARY\n",
        "ir_remote_ota:\n  ota_password: &CANARY\n",
        "ir_remote_ota:\n  ota_password: @CANARY\n",
        "ir_remote_ota:\n  ota_password: %CANARY\n",
        "ir_remote_ota:\n  ota_password: `CANARY\n",
        "ir_remote_ota:\n  ota_password: [CANARY]\n",
        "ir_remote_ota:\n  ota_password: { CANARY: x }\n",
        "ir_remote_ota:\n  ota_password: { a: CANARY }\n",
        "ir_remote_ota:\n  ota_password: CANARY: x\n",
        "ir_remote_ota:\n  ota_password: CANARY # \n  ota_password: CANARY\n",
        "ir_remote_ota:\n  ota_password: |\n    CANARY\n    CANARY\n",
        "ir_remote_ota:\n  ota_password: !env_var NO-NAME CANARY\n",
        "ir_remote_ota: CANARY\n",
        "CANARY\n",
        "mqtt: { broker: \"mqtt://user:CANARY@broker\" }\n",
        "mqtt: mqtt://user:CANARY@broker\n",
        "mqtt:\n  broker:\n    mqtt://user:CANARY@broker\n",
        "notify: { webhook: \"https://example.org/CANARY\" }\n",
        "notify: { webhook: { url: \"ftp://example.org/CANARY\" } }\n",
        "server: { database: \"postgres://user:CANARY@db\" }\n",
        "komfovent: { username: [CANARY], password: CANARY }\n",
        "komfovent: { firmware_urls: { C6: \"https://user:CANARY@example.org/\" } }\n",
    ];
    for mistake in mistakes {
        let text = mistake.replace("CANARY", CANARY);
        let result = read(&text);
        assert!(result.is_err(), "{text}");
        check_hidden(&text, &result);
    }
}

#[test]
fn what_stands_in_the_file_of_secrets_is_never_told() {
    let files = [
        "ota: CANARY\n",
        "ota CANARY\n",
        "ota: [CANARY]\n",
        "ota: !CANARY\n",
        "ota: \"CANARY\n",
        "ota: @CANARY\n",
        "ota: CANARY\nota: CANARY\n",
        "- CANARY\n",
        "ota: { CANARY: CANARY }\n",
    ];
    let uses = [
        "ir_remote_ota: { ota_port: !secret ota }",
        "ir_remote_ota: { network_range: !secret ota }",
        "ir_remote_ota: { devices: [!secret ota, { host: a, chip: !secret ota }] }",
        "mqtt: { broker: !secret ota }",
        "notify: { webhook: !secret ota }",
        "policy: !secret ota",
        "ir_remote_ota: { ota_password: !secret otta }",
    ];
    for secrets in files {
        for text in uses {
            let (_folder, path) = folder(text, Some(&secrets.replace("CANARY", CANARY)));
            let result = load(&path);
            assert!(result.is_err(), "{text} {secrets}");
            check_hidden(text, &result);
        }
    }
}

#[test]
fn warnings_name_what_is_not_as_it_should_be() {
    let rules = |config: &Config| {
        config
            .warnings()
            .iter()
            .map(|warning| warning.rule)
            .collect::<Vec<_>>()
    };
    assert_eq!(rules(&Config::default()), ["default-password"]);
    assert_eq!(Config::default().warnings()[0].flag, Flag::Red);
    let own = "ir_remote_ota: { ota_password: !env_var X secret }\n";
    assert!(rules(&good(own)).is_empty());
    let check = |text: &str, expected: &[&str]| {
        assert_eq!(rules(&good(&format!("{own}{text}"))), expected, "{text}");
    };
    check(
        "server: { listen: \"0.0.0.0:8927\" }",
        &["listens-without-tls", "no-hosts"],
    );
    check("server: { listen: \"192.168.1.5:8927\", tls: self-signed }", &[]);
    check(
        "server: { listen: \"192.168.1.5:8927\", trusted_proxies: [192.168.1.2] }",
        &[],
    );
    check("server: { listen: \"[::1]:8927\" }", &[]);
    check("server: { listen: null }", &[]);
    check("server: { allowed_networks: [0.0.0.0/0] }", &["public-network"]);
    check(
        "server: { allowed_networks: [private, loopback, link-local, 192.168.4.0/24] }",
        &[],
    );
    check(
        "policy: { auto_enroll: true, canary: 0 }",
        &["auto-enroll", "no-canary"],
    );
    check(
        "mqtt: { broker: \"mqtt://broker\", username: u, password: !env_var P p }",
        &["mqtt-without-tls"],
    );
    check(
        "mqtt: { broker: \"mqtts://broker\", username: u, password: !env_var P p }",
        &[],
    );
    check(
        "mqtt: { broker: \"mqtt://localhost\", commands: true }",
        &["open-commands", "without-effect"],
    );
    check("komfovent: { password: x }", &["plain-secret"]);
    let public = "arduino: { devices: [{ ip: 10.0.0.1, password: !env_var X ir_remote_update }] }";
    check(public, &["default-password"]);
}

#[test]
fn who_is_told_of_what_is_read_and_compared() {
    let text = "mqtt: { broker: \"mqtt://localhost\" }\nnotify: { webhook: { url: \"https://x/hook\", form: text }, mqtt: true, \
                digest: 0, about: [lost, failed, failed] }\n";
    let config = good(text);
    let notify = &config.notify;
    assert!(notify.mqtt && notify.digest == Duration::ZERO);
    assert_eq!(notify.about, [About::Failed, About::Lost].into());
    assert_eq!(notify.webhook.as_ref().unwrap().form, Form::Text);
    let changes = Config::default().diff(&config);
    let of_notify = changes.iter().filter(|change| change.key.starts_with("notify."));
    let told: Vec<_> = of_notify
        .map(|change| (change.text.as_str(), change.needs_restart))
        .collect();
    assert_eq!(
        told,
        [
            (
                "notify.about was finished, failed, halted, firmware, lost and is now failed, lost",
                false
            ),
            ("notify.digest was 10m and is now 0s", false),
            ("notify.mqtt was false and is now true", false),
            ("notify.webhook.form is now text", false),
            ("notify.webhook.url is now set", false),
        ]
    );
    // A word alone is a list of one; and nobody is told unless somebody is named.
    assert_eq!(
        good("notify: { about: halted }\n").notify.about,
        [About::Halted].into()
    );
    let nobody = Config::default().notify;
    assert!(nobody.webhook.is_none() && !nobody.mqtt && nobody.about.len() == 5);
}

#[test]
fn a_key_that_nothing_comes_of_is_warned_of_by_its_name() {
    let text = |text: &str| {
        let config = good(&format!(
            "ir_remote_ota: {{ ota_password: !env_var X secret }}\n{text}"
        ));
        let warnings = config.warnings();
        let of_keys = warnings.iter().find(|warning| warning.rule == "without-effect");
        of_keys.map(|warning| warning.text.clone())
    };
    let told = text(
        "windows: { night: { start: \"02:00\", duration: 3h } }\nnotify: { digest: 5m }\n\
         mqtt: { broker: \"mqtts://b\", discovery: true, client_id: y, prefix: x, commands: null }\n\
         policy: { canary: 2, rollback: never, auto_enroll: false, signing_keys: [\"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\"] }\n",
    )
    .unwrap();
    let (_, keys) = told.split_once(": ").unwrap();
    assert_eq!(keys, "policy.signing_keys.");
    let with_effect = "server: { limits: { failed_logins_per_minute: 60, body_bytes: 4096, image_bytes: 65536 } }\n\
         mqtt: { broker: \"mqtts://b\", cert: c.pem, key: k.pem }\nretention: { downloads: 4 }\n";
    assert_eq!(text(with_effect), None);
}

#[test]
fn permissions_of_files_are_warned_of() {
    let (home, path) = folder("ir_remote_ota: { ota_password: !secret ota }", Some("ota: x\n"));
    let rules = || {
        let config = load(&path).unwrap();
        config
            .warnings()
            .iter()
            .map(|warning| warning.rule)
            .collect::<Vec<_>>()
    };
    assert!(rules().is_empty(), "{:?}", rules());
    let secrets = home.path().join("secrets.yaml");
    let chmod = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    chmod(&secrets, 0o644);
    assert_eq!(rules(), ["readable-by-others"]);
    chmod(&secrets, 0o620);
    assert_eq!(rules(), ["writable-by-others"]);
    chmod(&secrets, 0o640);
    assert!(rules().is_empty());
    // Without a secret in it everybody may read the configuration.
    chmod(&path, 0o644);
    assert!(rules().is_empty());
    fs::write(&path, "ir_remote_ota: { ota_password: x }").unwrap();
    assert_eq!(rules(), ["plain-secret", "readable-by-others"]);
}

#[test]
fn what_changed_is_told_in_words_and_whether_it_needs_a_restart() {
    let before = good("ir_remote_ota: { ota_password: a, devices: [192.168.1.2] }");
    assert!(before.diff(&before.clone()).is_empty());
    let after = good(
        "server: { listen: \"127.0.0.1:9000\", tls: self-signed, hosts: [reflash.lan], frame_ancestors: [\"http://ha.lan:8123/\"] }\n\
         ir_remote_ota: { scan_interval: 10m, ota_password: b, devices: [192.168.1.3] }",
    );
    let told: Vec<(String, bool)> = before
        .diff(&after)
        .into_iter()
        .map(|change| (change.text, change.needs_restart))
        .collect();
    let expected = [
        ("ir_remote_ota.devices.192.168.1.2 is gone", false),
        ("ir_remote_ota.devices.192.168.1.3 is new", false),
        ("ir_remote_ota.password is another one", false),
        ("ir_remote_ota.scan_interval was 5m and is now 10m", false),
        (
            "server.frame_ancestors was none and is now http://ha.lan:8123",
            true,
        ),
        ("server.hosts was none and is now reflash.lan", true),
        ("server.listen was 127.0.0.1:8927 and is now 127.0.0.1:9000", true),
        ("server.tls.cert is now self-signed", true),
    ];
    assert_eq!(told, expected.map(|(text, restart)| (text.to_owned(), restart)));
    let moved = good(
        "server: { data: /srv/reflash, callback: { port: 40123 }, pull: { port: 40124, host: reflash.lan, bind: 10.0.0.1 } }\n\
         mqtt: { broker: \"mqtts://b\" }",
    );
    assert!(
        Config::default()
            .diff(&moved)
            .iter()
            .all(|change| change.needs_restart)
    );
}

#[test]
fn the_guide_names_every_key_and_its_examples_are_read() {
    let guide = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/guide/configuration.md"
    ))
    .unwrap();
    for (place, keys) in keys::PLACES {
        for key in *keys {
            assert!(
                guide.contains(&format!("`{key}`")),
                "{place}: `{key}` is not in the guide"
            );
        }
    }
    let mut n_examples = 0;
    for block in guide.split("```yaml\n").skip(1) {
        let (example, _) = block.split_once("```").unwrap();
        let names = example.split("!secret ").skip(1);
        let names: BTreeSet<&str> = names
            .filter_map(|rest| rest.split([' ', ',', '}', '\n']).next())
            .collect();
        let secrets: Vec<String> = names
            .iter()
            .map(|name| format!("{name}: \"https://x\"\n"))
            .collect();
        let (_folder, path) = folder(example, Some(&secrets.concat()));
        load(&path).unwrap_or_else(|error| panic!("{example}\n{error}"));
        n_examples += 1;
    }
    assert!(n_examples > 10, "{n_examples}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        let _ = read(&text).map_err(|error| error.to_string());
    }

    #[test]
    fn any_text_of_yaml_is_read_or_refused(text in "[ \\-:{}\\[\\]\n\"'a-c,&*!|>#?%@`\t~é\u{0}]{0,200}") {
        let _ = read(&text).map_err(|error| error.to_string());
    }

    #[test]
    fn any_value_of_any_key_is_read_or_refused(
        (place, key) in proptest::sample::select(keys::PLACES.to_vec())
            .prop_flat_map(|(place, keys)| (Just(place), proptest::sample::select(keys.to_vec()))),
        value in "[ -~é\n]{0,30}",
    ) {
        let mut text = String::new();
        let mut indent = 0;
        for part in place.split('.').filter(|part| !part.is_empty()) {
            text = format!("{text}{}{}:\n", " ".repeat(indent), part.replace('*', "x"));
            indent += 2;
        }
        let item = if place.ends_with("devices") || place == "firmware_index" { "- " } else { "" };
        text = format!("{text}{}{item}{key}: {value}\n", " ".repeat(indent));
        let _ = read(&text).map(|config| (config.warnings(), Config::default().diff(&config)));
    }

    /// One slip of the finger anywhere in a file full of secrets shows none of them.
    #[test]
    fn a_slip_shows_no_secret(at in 0..1000_usize, remove in 0..3_usize, insert in "[ \\-:{}\\[\\]\n\"',&*!|>#?%@=x]{0,2}") {
        let mut text = with_canaries();
        let at = at % text.len();
        let end = (at + remove).min(text.len());
        // A secret that is itself cut in two is no longer the one that is looked for.
        let cut = text.match_indices(CANARY).any(|(start, _)| at < start + CANARY.len() && end > start);
        if cut {
            return Ok(());
        }
        text.replace_range(at..end, &insert);
        check_hidden(&text, &read(&text));
    }
}
