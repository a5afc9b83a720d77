//! Any text is a configuration or none: no panic, bounded messages, every problem with something to do about it.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use server::config::{Config, Sources, parse};

fuzz_target!(|text: &str| {
    let sources = Sources::given(BTreeMap::from([("NAME".to_owned(), "value".to_owned())]));
    match parse(text, sources) {
        Ok(config) => {
            assert_eq!(config.families.len(), Config::default().families.len());
            assert!(config.diff(&config).is_empty());
            for range in config.families.iter().flat_map(|family| &family.scan_ranges) {
                assert!(range.max_prefix_len() - range.prefix_len() <= 16);
                assert!(
                    config
                        .server
                        .allowed_networks
                        .iter()
                        .any(|network| network.contains(range))
                );
            }
            let _ = (config.warnings(), Config::default().diff(&config));
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            assert!(
                error
                    .problems
                    .iter()
                    .all(|problem| !problem.text.is_empty() && !problem.help.is_empty())
            );
            let told = error.to_string();
            assert!(
                told.chars()
                    .all(|character| character == '\n' || !character.is_control()),
                "{told}"
            );
            assert!(told.len() < 64 * 1024);
        }
    }
});
