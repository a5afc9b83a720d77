//! Wrong usage, told to people and to programs.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use serde_json::json;

use super::say_json;
use crate::error::Exit;

/// Tells a usage error with a hint, as JSON where that was asked for; asking for help is none.
pub(super) fn tell(error: &clap::Error, arguments: impl Iterator<Item = OsString>) -> Exit {
    if !error.use_stderr() {
        let _ = error.print().map_err(super::arrived_not);
        return Exit::Done;
    }
    // What comes after `--` is no option any more.
    let arguments: Vec<OsString> = arguments.take_while(|argument| argument != "--").collect();
    if arguments.iter().any(|argument| argument == "--json") {
        let (what, next_step) = words(error);
        if arguments.first().is_some_and(|command| command == "push") {
            say_json(&json!({
                "outcome": "failed", "reason": "wrong usage", "text": what, "next_step": next_step,
                "method": null, "evidence": null,
            }));
        } else {
            say_json(&json!({ "error": what, "next_step": next_step }));
        }
    } else {
        let _ = error.print();
    }
    Exit::Usage
}

/// What is wrong, and what to write instead.
fn words(error: &clap::Error) -> (String, String) {
    let text = error.render().to_string();
    let what = if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Its text is the whole help.
        "No command was given.".to_owned()
    } else {
        let lines = text.lines().take_while(|line| !line.trim().is_empty());
        let lines: Vec<&str> = lines.map(str::trim).collect();
        let what = lines.join(" ");
        what.strip_prefix("error: ").unwrap_or(&what).to_owned()
    };
    let meant = [
        ContextKind::SuggestedArg,
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedValue,
    ]
    .into_iter()
    .find_map(|kind| match error.get(kind) {
        Some(ContextValue::String(name)) => Some(name.clone()),
        Some(ContextValue::Strings(names)) => names.first().cloned(),
        _ => None,
    });
    let usage = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Usage: "))
        .map(str::to_owned);
    let next_step = match (meant, usage) {
        (Some(meant), _) => format!("Perhaps you mean {meant}; --help tells more."),
        (None, Some(usage)) => format!("Write: {usage}"),
        (None, None) => "Add --help to see what may be written.".to_owned(),
    };
    (what, next_step)
}
