//! The rules that `--allow` knows.

use super::nearest::{nearest, one_of};

/// What stands for every rule that can be overridden.
const ANY: &str = "any";

/// Every rule that its owner can override: those of the families, and those of the look before a push.
const RULES: [&str; 27] = [
    "bootloader",
    "checksum",
    "chip-revision",
    "chip-unknown",
    "downgrade",
    "elf",
    "encrypted",
    "esp8266",
    "filesystem",
    "foreign-content",
    "gzip",
    "hash",
    "html",
    "merged",
    "mixed-versions",
    "no-app-descriptor",
    "not-an-image",
    "segments",
    "text",
    "too-large",
    "too-small",
    "trailing-bytes",
    "truncated",
    "uf2",
    "unknown-chip",
    "unknown-panel",
    "unsupported-source-version",
];

/// The rules that nobody overrides.
const NEVER: [&str; 6] = [
    "bad-name",
    "busy",
    "empty",
    "unknown-controller",
    "wrong-chip",
    "wrong-controller",
];

/// Reads the name of a rule that can be overridden; an unknown one is answered with the nearest.
pub(super) fn rule(name: &str) -> Result<String, String> {
    if name == ANY || RULES.contains(&name) {
        return Ok(name.to_owned());
    }
    if NEVER.contains(&name) {
        return Err("this rule is never overridden".to_owned());
    }
    let near = nearest(name, RULES);
    Err(if near.is_empty() {
        format!("there is no such rule; there are {ANY}, {}", RULES.join(", "))
    } else {
        format!("there is no such rule; perhaps you mean {}", one_of(&near))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The names in `rule: "…"` of a folder's code, outside its tests.
    fn named_in_code(folder: &Path, names: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                named_in_code(&path, names);
                continue;
            }
            if path.ends_with("tests.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            // A warning has a rule as well, but no way to override it.
            for part in code.split("Refusal {").skip(1) {
                let name = part.trim_start().strip_prefix("rule: \"");
                names.extend(name.and_then(|rest| Some(rest.split_once('"')?.0.to_owned())));
            }
        }
    }

    #[test]
    fn every_rule_in_the_code_is_known_here() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut names: Vec<String> = proto::esp_image::Rule::ALL
            .map(|rule| rule.name().to_owned())
            .into();
        for folder in ["model/src", "families/src"] {
            named_in_code(&crates.join(folder), &mut names);
        }
        assert!(names.len() > 25, "{names:?}");
        for name in names {
            let known = RULES.contains(&name.as_str()) || NEVER.contains(&name.as_str());
            assert!(known, "{name} is not known to --allow");
        }
    }

    #[test]
    fn an_unknown_rule_is_answered_with_the_nearest() {
        assert_eq!(rule("downgrade").unwrap(), "downgrade");
        assert_eq!(rule("any").unwrap(), "any");
        assert!(rule("downgrad").unwrap_err().contains("downgrade"));
        assert!(rule("wrong-chip").unwrap_err().contains("never"));
        assert!(rule("everything").unwrap_err().contains("too-large"));
    }
}
