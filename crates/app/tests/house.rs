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
