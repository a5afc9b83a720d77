//! The block `ir_remote_ota:` as Home Assistant hands it over: read by the parser of the file, laid over what that said.
//!
//! Its keys are those of the block in `reflash.yaml`; the blocks `arduino` and `komfovent` may stand in it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::error::{At, printable};
use super::parse::{BLOCKS, Block};
use super::read::Reader;
use super::yaml::{Key, Kind, Node, Scalar};
use super::{Config, FamilyBlock, keys};

/// The block that the others stand in.
const OUTER: &str = "ir_remote_ota";
/// Mistakes that are told at once. Guess: more than anybody mends in one go.
const MAX_TOLD: usize = 100;

/// One mistake in what was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it stands, as `devices[1].ip`; empty where it is the block as a whole.
    pub path: String,
    /// What is wrong, in one sentence without a full stop and without a secret.
    pub text: String,
    /// What to write instead.
    pub next_step: String,
}

/// Lays the block over a configuration: what it says wins, and its devices come before those of the file.
///
/// # Errors
/// Everything that is wrong with it, in the order of the block; the configuration then has what could be read.
pub(crate) fn lay_over(config: &mut Config, block: &Value) -> Result<(), Vec<Mistake>> {
    let Some(entries) = entries_of(block) else {
        return Err(vec![Mistake {
            path: String::new(),
            text: format!("`{OUTER}` is not a block of keys and values"),
            next_step: "hand over an object with the keys of the block".to_owned(),
        }]);
    };
    let mut reader = Reader::default();
    let mut tree = Tree::default();
    let allowed = config.server.allowed_networks.clone();
    for (place, family) in BLOCKS.iter().zip(&mut config.families) {
        let node = if place.name == OUTER {
            tree.map(entries.iter().filter(|(key, _)| !is_inner(key)), "")
        } else {
            match entries.get(place.name) {
                None | Some(Value::Null) => continue,
                Some(inner) => tree.node(inner, place.name),
            }
        };
        if let Some(path) = family_over(&mut reader, place, family, &node, &allowed) {
            config.firmware_path = Some(path);
        }
    }
    if reader.problems.is_empty() {
        return Ok(());
    }
    reader.problems.sort_by_key(|problem| problem.at);
    let mistakes = reader.problems.into_iter().take(MAX_TOLD);
    Err(mistakes
        .map(|problem| Mistake {
            path: tree.path_of(problem.at),
            text: problem.text,
            next_step: problem.help,
        })
        .collect())
}

fn is_inner(key: &str) -> bool {
    key != OUTER && BLOCKS.iter().any(|block| block.name == key)
}

/// The keys of a block; a block that says nothing has none.
fn entries_of(block: &Value) -> Option<&Map<String, Value>> {
    static NOTHING: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    match block {
        Value::Object(entries) => Some(entries),
        Value::Null => Some(&NOTHING),
        _ => None,
    }
}

/// Reads one family's block over what is there; the folder of firmware is given back.
fn family_over(
    reader: &mut Reader,
    place: &Block,
    family: &mut FamilyBlock,
    node: &Node,
    allowed: &[ipnet::IpNet],
) -> Option<std::path::PathBuf> {
    let before = family.clone();
    family.devices.clear();
    let read = reader.family(place, family, node, allowed, Path::new("/"));
    let says = |key: &str| matches!(&node.kind, Kind::Map(entries) if entries.iter().any(|(own, _)| own.text == key));
    if !says("network_range") {
        family.scan_ranges = before.scan_ranges;
    }
    if family.username.is_none() {
        family.username = before.username;
    }
    // A device that stands at both places is as it was handed over.
    for device in before.devices {
        if !family.devices.iter().any(|own| own.host == device.host) {
            family.devices.push(device);
        }
    }
    read.map(|(_, path)| path)
}

/// The devices that a block lists, as family and host.
pub(crate) fn hosts(block: &Value) -> Vec<(String, String)> {
    let mut config = Config::default();
    // Wherever devices may be: this is about names, and not about reaching them.
    config.server.allowed_networks = ["0.0.0.0/0", "::/0"]
        .iter()
        .filter_map(|network| network.parse().ok())
        .collect();
    let _ = lay_over(&mut config, block);
    let blocks = config.families.iter();
    blocks
        .flat_map(|block| {
            let family = block.family.as_str();
            block
                .devices
                .iter()
                .map(move |device| (family.to_owned(), device.host.clone()))
        })
        .collect()
}

/// The block without its secrets, and where they stand.
pub(crate) fn without_secrets(block: &Value) -> (Value, Vec<String>) {
    let mut secrets = Vec::new();
    let shown = shown(block, "", &mut secrets);
    (shown, secrets)
}

fn shown(value: &Value, path: &str, secrets: &mut Vec<String>) -> Value {
    match value {
        Value::Object(entries) => Value::Object(
            entries
                .iter()
                .filter_map(|(key, value)| {
                    let path = below(path, key);
                    // `firmware_urls` are addresses that anybody may know; all that is called like a secret is one.
                    if keys::is_secret(key) && !value.is_null() {
                        secrets.push(path);
                        return None;
                    }
                    Some((key.clone(), shown(value, &path, secrets)))
                })
                .collect(),
        ),
        Value::Array(items) => Value::Array(
            items
                .iter()
                .enumerate()
                .map(|(idx, item)| shown(item, &format!("{path}[{idx}]"), secrets))
                .collect(),
        ),
        other => other.clone(),
    }
}

fn below(path: &str, key: &str) -> String {
    let key = printable(key, 60);
    if path.is_empty() {
        return key;
    }
    format!("{path}.{key}")
}

/// JSON as the file would hold it. Each value has a line of its own, which says where in the JSON it stands.
#[derive(Default)]
struct Tree {
    paths: Vec<String>,
}

impl Tree {
    fn at(&mut self, path: &str) -> At {
        self.paths.push(path.to_owned());
        At {
            line: self.paths.len(),
            column: 1,
            len: 1,
        }
    }

    fn path_of(&self, at: Option<At>) -> String {
        let path = at.and_then(|at| self.paths.get(at.line.checked_sub(1)?));
        path.cloned().unwrap_or_default()
    }

    fn map<'v>(&mut self, entries: impl Iterator<Item = (&'v String, &'v Value)>, path: &str) -> Node {
        let at = self.at(path);
        let entries: BTreeMap<_, _> = entries.collect();
        let entries = entries.into_iter().map(|(name, value)| {
            let path = below(path, name);
            let key = Key {
                text: name.clone(),
                at: self.at(&path),
            };
            (key, self.node(value, &path))
        });
        Node {
            at,
            kind: Kind::Map(entries.collect()),
        }
    }

    fn node(&mut self, value: &Value, path: &str) -> Node {
        let scalar = |text: String| {
            Kind::Scalar(Scalar {
                text,
                hidden: false,
                is_here: true,
            })
        };
        let kind = match value {
            Value::Object(entries) => return self.map(entries.iter(), path),
            Value::Null => Kind::Null,
            Value::Bool(flag) => scalar(flag.to_string()),
            Value::Number(number) => scalar(number.to_string()),
            Value::String(text) => scalar(text.clone()),
            Value::Array(items) => {
                let at = self.at(path);
                let items = items.iter().enumerate();
                let items = items.map(|(idx, item)| self.node(item, &format!("{path}[{idx}]")));
                return Node {
                    at,
                    kind: Kind::List(items.collect()),
                };
            }
        };
        Node {
            at: self.at(path),
            kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;
    use serde_json::json;

    use super::super::{Sources, parse};
    use super::*;

    fn file(text: &str) -> Config {
        parse(text, Sources::beside(Path::new("/reflash.yaml"))).unwrap()
    }

    #[test]
    fn what_is_handed_over_wins_and_the_rest_stays_as_the_file_has_it() {
        let mut config = file(
            "ir_remote_ota:\n  scan_interval: 600\n  http_port: 8080\n  network_range: 192.168.1.0/24\n  \
             devices:\n    - { ip: 192.168.1.9, name: From the file }\n    - { ip: 192.168.1.10, name: Old }\n\
             komfovent:\n  username: admin\n",
        );
        let block = json!({
            "scan_interval": 120, "ota_password": "own", "firmware_path": "/config/ir_remote_firmware/",
            "devices": [{ "ip": "192.168.1.10", "name": "New", "password": "its" }, "192.168.1.11"],
            "komfovent": { "devices": [{ "host": "192.168.1.60" }] },
        });
        lay_over(&mut config, &block).unwrap();
        let ir = config.family("ir-remote").unwrap();
        assert_eq!((ir.scan_every.as_secs(), ir.http_port), (120, 8080));
        assert_eq!(ir.scan_ranges.len(), 1);
        assert_eq!(ir.password.as_ref().unwrap().expose_secret(), "own");
        let devices: Vec<_> = ir
            .devices
            .iter()
            .map(|device| (device.host.as_str(), device.name.as_deref()))
            .collect();
        assert_eq!(
            devices,
            [
                ("192.168.1.10", Some("New")),
                ("192.168.1.11", None),
                ("192.168.1.9", Some("From the file"))
            ]
        );
        let komfovent = config.family("komfovent").unwrap();
        assert_eq!(komfovent.username.as_deref(), Some("admin"));
        assert_eq!(komfovent.devices[0].host, "192.168.1.60");
        assert_eq!(
            config.firmware_path.as_deref(),
            Some(Path::new("/config/ir_remote_firmware"))
        );
    }

    #[test]
    fn nothing_handed_over_changes_nothing() {
        for nothing in [json!(null), json!({})] {
            let mut config = file("ir_remote_ota: { scan_interval: 600, network_range: 10.0.0.0/24 }\n");
            let before = config.clone();
            lay_over(&mut config, &nothing).unwrap();
            assert!(before.diff(&config).is_empty(), "{:?}", before.diff(&config));
        }
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_place_and_without_a_secret() {
        let block = json!({
            "scan_intervall": 300, "scan_interval": "soon", "ota_password": ["canary-1"],
            "devices": [{ "ip": "192.168.1.10" }, { "ip": "8.8.8.8", "password": "canary-2\u{7}" }, { "name": "x" }, 5.5],
            "komfovent": { "ota_port": 1, "devices": [{ "host": "192.168.1.60", "chip": "esp32" }] },
        });
        let mistakes = lay_over(&mut Config::default(), &block).unwrap_err();
        let paths: Vec<_> = mistakes.iter().map(|mistake| mistake.path.as_str()).collect();
        for path in [
            "scan_intervall",
            "scan_interval",
            "ota_password",
            "devices[1].ip",
            "devices[1].password",
            "devices[2]",
            "devices[3]",
            "komfovent.ota_port",
            "komfovent.devices[0].chip",
        ] {
            assert!(paths.contains(&path), "{path} is not in {paths:?}");
        }
        assert_eq!(paths.len(), 9, "{mistakes:?}");
        let all = format!("{mistakes:?}");
        assert!(!all.contains("canary"), "{all}");
        assert!(all.contains("did you mean `scan_interval`?"), "{all}");
        for no_block in [json!([1]), json!("x"), json!(5)] {
            assert_eq!(lay_over(&mut Config::default(), &no_block).unwrap_err().len(), 1);
        }
    }

    #[test]
    fn a_tag_or_a_reference_is_text_and_opens_nothing() {
        // What Home Assistant could not put in is not looked up on this machine.
        let block = json!({ "ota_password": "!secret wifi", "devices": [{ "ip": "!env_var HOME" }] });
        let mut config = Config::default();
        let mistakes = lay_over(&mut config, &block).unwrap_err();
        assert_eq!(mistakes.len(), 1);
        assert_eq!(mistakes[0].path, "devices[0].ip");
        let ir = config.family("ir-remote").unwrap();
        assert_eq!(ir.password.as_ref().unwrap().expose_secret(), "!secret wifi");
    }

    #[test]
    fn so_many_mistakes_are_told_and_no_more() {
        let devices: Vec<_> = (0..1000).map(|n| json!({ "name": n })).collect();
        let mistakes = lay_over(&mut Config::default(), &json!({ "devices": devices })).unwrap_err();
        assert_eq!(mistakes.len(), MAX_TOLD);
    }

    #[test]
    fn what_is_shown_holds_no_secret_and_says_where_they_are() {
        let block = json!({
            "ota_password": "canary-1", "scan_interval": 5, "komfovent": { "password": "canary-2", "username": "user" },
            "devices": [{ "ip": "192.168.1.10" }, { "ip": "192.168.1.11", "password": "canary-3" }],
        });
        let (shown, secrets) = without_secrets(&block);
        assert!(!shown.to_string().contains("canary"), "{shown}");
        assert_eq!(shown["devices"][1], json!({ "ip": "192.168.1.11" }));
        assert_eq!(shown["komfovent"], json!({ "username": "user" }));
        let mut secrets = secrets;
        secrets.sort();
        assert_eq!(
            secrets,
            ["devices[1].password", "komfovent.password", "ota_password"]
        );
    }

    #[test]
    fn the_devices_of_a_block_are_known_wherever_they_are() {
        let block = json!({ "devices": ["8.8.8.8", { "host": "Mini.local" }], "komfovent": { "devices": ["10.0.0.1"] } });
        let pair = |family: &str, host: &str| (family.to_owned(), host.to_owned());
        assert_eq!(
            hosts(&block),
            [
                pair("ir-remote", "8.8.8.8"),
                pair("ir-remote", "mini.local"),
                pair("komfovent", "10.0.0.1")
            ]
        );
    }
}
