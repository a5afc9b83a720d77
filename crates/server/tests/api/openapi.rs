//! The contract in `api/openapi.json`.

use std::collections::BTreeSet;
use std::path::Path;

use server::api::{Least, OPENAPI, TABLE, document};

#[test]
fn the_contract_in_the_repository_is_the_one_of_the_routes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../api/openapi.json");
    let document = document();
    if std::env::var_os("REFLASH_ACCEPT").is_some() {
        std::fs::write(&path, &document).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(
        kept == document,
        "api/openapi.json is not what the routes say: run this test with REFLASH_ACCEPT=1 and look at the difference"
    );
    assert!(kept == OPENAPI || std::env::var_os("REFLASH_ACCEPT").is_some());
}

#[test]
fn every_route_of_the_contract_is_in_the_table_of_roles_and_none_else() {
    let document: serde_json::Value = serde_json::from_str(&document()).unwrap();
    let mut routes = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in [
            "get", "put", "post", "delete", "patch", "head", "options", "trace",
        ] {
            if item.get(method).is_some() {
                routes.insert((method.to_uppercase(), path.clone()));
            }
        }
    }
    let table: BTreeSet<_> = TABLE
        .iter()
        .map(|access| (access.method.to_string(), access.path.to_owned()))
        .collect();
    assert_eq!(routes, table);
}

#[test]
fn every_reference_of_the_contract_leads_somewhere() {
    let document: serde_json::Value = serde_json::from_str(&document()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut rest = vec![&document];
    while let Some(value) = rest.pop() {
        match value {
            serde_json::Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(|reference| reference.as_str()) {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                }
                rest.extend(fields.values());
            }
            serde_json::Value::Array(values) => rest.extend(values),
            _ => {}
        }
    }
}

#[test]
fn every_operation_has_a_name_of_its_own_and_a_sentence() {
    let document: serde_json::Value = serde_json::from_str(&document()).unwrap();
    let mut names = BTreeSet::new();
    for item in document["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name), "{name}");
            assert!(operation["summary"].is_string(), "{name}");
        }
    }
}

#[test]
fn the_guide_shows_every_route_with_its_role() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/api.md");
    let guide = std::fs::read_to_string(path).unwrap();
    let shown: BTreeSet<_> = guide
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let route = cells.next()?.trim_end_matches('`');
            Some((route.to_owned(), cells.next()?.to_owned()))
        })
        .collect();
    let table: BTreeSet<_> = TABLE
        .iter()
        .map(|access| {
            let least = match access.least {
                Least::Anyone => "anybody",
                Least::Metrics => "viewer, or this machine",
                Least::Role(role) => role.name(),
            };
            (format!("{} {}", access.method, access.path), least.to_owned())
        })
        .collect();
    assert_eq!(shown, table);
}
