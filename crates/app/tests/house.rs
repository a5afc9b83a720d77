//! Keeps the house tidy: who may import whom (DESIGN.md section 1), held against what cargo itself says.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Our crates, and which of ours each may import outside its tests.
const MAY_IMPORT: [(&str, &[&str]); 10] = [
    ("model", &[]),
    ("proto", &[]),
    // It shares nothing with us, so that a wrong codec cannot agree with itself.
    ("sim", &[]),
    ("store", &["model"]),
    ("net", &["model"]),
    ("engine", &["model", "store"]),
    ("families", &["model", "proto", "net"]),
    ("discovery", &["model", "net"]),
    // Everything that works without a command line; it never runs a simulator.
    (
        "server",
        &[
            "model",
            "proto",
            "store",
            "net",
            "engine",
            "families",
            "discovery",
        ],
    ),
    (
        "app",
        &[
            "model",
            "proto",
            "sim",
            "store",
            "net",
            "engine",
            "families",
            "discovery",
            "server",
        ],
    ),
];

/// Crates that open sockets, or are of no use without one.
const NETWORK: [&str; 8] = [
    "hyper",
    "http-body-util",
    "mdns-sd",
    "reqwest",
    "rumqttc",
    "socket2",
    "tokio-modbus",
    "axum",
];

/// Crates that speak SQL.
const SQL: [&str; 4] = ["sqlx", "rusqlite", "libsqlite3-sys", "diesel"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The workspace as cargo sees it; without the crates of others, which would need the network.
fn workspace() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap()
}

/// The packages of the folder `crates`, by name.
fn our_crates(workspace: &Metadata) -> BTreeMap<&str, &Package> {
    let folder = workspace.workspace_root.join("crates");
    let packages = workspace.packages.iter();
    packages
        .filter(|package| package.manifest_path.starts_with(&folder))
        .map(|package| (package.name.as_str(), package))
        .collect()
}

/// What a package imports outside its tests: dependencies of the build count as well.
fn imports(package: &Package) -> BTreeSet<&str> {
    let dependencies = package.dependencies.iter();
    dependencies
        .filter(|dependency| dependency.kind != DependencyKind::Development)
        .map(|dependency| dependency.name.as_str())
        .collect()
}

fn allowed(name: &str) -> Option<&'static [&'static str]> {
    MAY_IMPORT
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, allowed)| *allowed)
}

#[test]
fn every_crate_in_the_folder_is_in_the_table() {
    let workspace = workspace();
    let crates = our_crates(&workspace);
    let folders: BTreeSet<String> = std::fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let names: BTreeSet<String> = crates.keys().map(|&name| name.to_owned()).collect();
    assert_eq!(folders, names, "a crate is named as its folder, and is a member");
    assert!(names.len() >= 8, "{names:?}");
    let unknown: Vec<&String> = names.iter().filter(|name| allowed(name).is_none()).collect();
    assert!(unknown.is_empty(), "not in the table: {unknown:?}");
}

#[test]
fn nobody_imports_whom_they_may_not() {
    let workspace = workspace();
    let crates = our_crates(&workspace);
    let ours: BTreeSet<&str> = crates.keys().copied().collect();
    let mut wrong = Vec::new();
    for (name, package) in &crates {
        let allowed: BTreeSet<&str> = allowed(name).unwrap_or_default().iter().copied().collect();
        for import in imports(package).intersection(&ours) {
            if !allowed.contains(import) {
                wrong.push(format!("{name} -> {import}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn decisions_and_codecs_have_no_clock_and_no_sockets() {
    let workspace = workspace();
    let crates = our_crates(&workspace);
    for name in ["model", "proto"] {
        let imports = imports(crates[name]);
        assert!(!imports.contains("tokio"), "{name}: {imports:?}");
    }
    for name in ["model", "proto", "engine", "store", "families"] {
        let imports = imports(crates[name]);
        let network: Vec<&&str> = NETWORK.iter().filter(|known| imports.contains(**known)).collect();
        assert!(
            network.is_empty(),
            "{name} imports {network:?}: only `net` opens sockets"
        );
    }
    assert!(
        imports(crates["net"]).contains("socket2"),
        "the list of names is of use"
    );
}

#[test]
fn only_the_store_speaks_sql() {
    let workspace = workspace();
    for (name, package) in our_crates(&workspace) {
        let speaks = package
            .dependencies
            .iter()
            .any(|dependency| SQL.iter().any(|known| dependency.name.starts_with(known)));
        assert_eq!(speaks, name == "store", "{name}");
    }
}

#[test]
fn every_member_inherits_the_lints() {
    let workspace = workspace();
    assert!(workspace.packages.len() >= 8);
    for package in &workspace.packages {
        let manifest = std::fs::read_to_string(&package.manifest_path).unwrap();
        let (_, lints) = manifest
            .split_once("\n[lints]\n")
            .unwrap_or_else(|| panic!("{} has no lints", package.name));
        let section = lints.split("\n[").next().unwrap();
        assert_eq!(section.trim(), "workspace = true", "{}", package.name);
    }
}

/// What `docs/faults.md` must have a row of (../shared/RELIABILITY.md, sections 2 and 3), as first and last number.
const DEFENDED: [(char, u32, u32); 7] = [
    ('T', 1, 9),
    ('T', 15, 17),
    ('T', 19, 19),
    ('T', 21, 27),
    ('T', 30, 32),
    ('T', 35, 37),
    ('F', 1, 91),
];

/// Rows of what is not built yet: they say so in place of a test, and with what they come.
const NOT_BUILT: [&str; 1] = ["F79"];

/// The words in backticks that name a test: `FILE::NAME`.
fn tests_named_in(cell: &str) -> Vec<(&str, &str)> {
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted.filter_map(|words| words.split_once("::")).collect()
}

/// Whether this is the name of a test in this source, and not of anything else.
fn is_test(source: &str, name: &str) -> bool {
    let mut above = "";
    for line in source.lines().map(str::trim) {
        let declared = line.strip_prefix("async ").unwrap_or(line);
        if declared.starts_with(&format!("fn {name}(")) {
            return above.starts_with("#[test]") || above.starts_with("#[tokio::test");
        }
        // What stands between the two is about the test as well.
        if !(line.starts_with("//") || line.starts_with("#[expect") || line.starts_with("#[cfg")) {
            above = line;
        }
    }
    false
}

#[test]
fn every_defence_has_a_row_and_every_row_a_test() {
    let page = std::fs::read_to_string(root().join("docs/faults.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in page.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, what, met, tests, _] = cells[..] else {
            continue;
        };
        if number.starts_with(['T', 'F']) && number[1..].parse::<u32>().is_ok() {
            assert!(!what.is_empty() && !met.is_empty(), "{line}");
            assert!(
                rows.insert(number.to_owned(), tests).is_none(),
                "{number} is there twice"
            );
        }
    }
    let wanted: BTreeSet<String> = DEFENDED
        .iter()
        .flat_map(|&(kind, first, last)| (first..=last).map(move |number| format!("{kind}{number}")))
        .collect();
    assert_eq!(rows.keys().cloned().collect::<BTreeSet<_>>(), wanted);

    let mut wrong = Vec::new();
    for (number, tests) in &rows {
        let says_with_what_it_comes = tests.starts_with("comes with ");
        let tests = tests_named_in(tests);
        if tests.is_empty() != NOT_BUILT.contains(&number.as_str())
            || tests.is_empty() != says_with_what_it_comes
        {
            wrong.push(format!("{number} names no test, or says that it is not built"));
        }
        for (file, name) in tests {
            let source = std::fs::read_to_string(root().join(file)).unwrap_or_default();
            if !is_test(&source, name) {
                wrong.push(format!("{number}: there is no test {name} in {file}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");

    for link in page.split("](").skip(1) {
        let (target, _) = link.split_once(')').unwrap();
        let file = target.split('#').next().unwrap();
        let found = file.is_empty() || root().join("docs").join(file).exists();
        assert!(found, "{target} leads nowhere");
    }
}

/// RELIABILITY.md T5, and the part of T4 and T8 that nobody can mend.
#[test]
fn the_guide_says_what_is_not_protected() {
    let guide = std::fs::read_to_string(root().join("docs/guide/security.md")).unwrap();
    let (_, after) = guide.split_once("## What is not protected\n").unwrap();
    let section = after.split("\n## ").next().unwrap();
    for said in [
        "The image is readable on the wire",
        "Put no secrets into an image",
        "The image is not bound to the password",
        "The device does not prove who it is",
    ] {
        assert!(section.contains(said), "it no longer says: {said}");
    }
}
