//! One window or schedule by itself, as the API takes it: the keys, checks and sentences are those of the file.

use std::collections::BTreeMap;

use jiff::civil::Weekday;
use serde_json::{Value, json};

use super::error::{At, Problem};
use super::read::Reader;
use super::values::in_words;
use super::yaml::{Key, Kind, Node, Scalar};
use super::{Schedule, Window};

/// What is given has no lines.
const NOWHERE: At = At {
    line: 1,
    column: 1,
    len: 1,
};

/// The words for days, from Monday.
pub(crate) const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Reads a window.
///
/// # Errors
/// Everything that is wrong with it; never empty.
pub(crate) fn window(name: &str, entry: &Value) -> Result<Window, Vec<Problem>> {
    read("windows", name, entry, |reader, node, path| {
        reader.window(node, path)
    })
}

/// Reads a schedule; its window must be one of these.
///
/// # Errors
/// Everything that is wrong with it; never empty.
pub(crate) fn schedule(name: &str, entry: &Value, windows: &[String]) -> Result<Schedule, Vec<Problem>> {
    read("schedules", name, entry, |reader, node, path| {
        reader.schedule(node, path, windows)
    })
}

/// A window as it is read.
pub(crate) fn window_entry(window: &Window) -> Value {
    json!({
        "start": window.start.to_string(),
        "duration": in_words(window.duration),
        "days": window.days.iter().map(|day| day_name(*day)).collect::<Vec<_>>(),
        "timezone": window.timezone,
    })
}

/// A schedule as it is read.
pub(crate) fn schedule_entry(schedule: &Schedule) -> Value {
    json!({
        "cron": schedule.cron,
        "window": schedule.window,
        "what": schedule.what.name(),
        "tags": schedule.tags,
        "timezone": schedule.timezone,
    })
}

fn day_name(day: Weekday) -> &'static str {
    let place = usize::try_from(day.to_monday_zero_offset()).unwrap_or(0);
    DAYS.get(place).copied().unwrap_or_default()
}

fn read<T>(
    block: &str,
    name: &str,
    entry: &Value,
    with: impl FnOnce(&mut Reader, &Node, &str) -> Option<T>,
) -> Result<T, Vec<Problem>> {
    let mut reader = Reader::default();
    let key = Key {
        text: name.to_owned(),
        at: NOWHERE,
    };
    let named = node(Kind::Map(vec![(key, tree(entry))]));
    let path = format!("{block}.{name}");
    let mut all = None;
    if let [(_, node)] = reader.names(&named, block)[..] {
        all = with(&mut reader, node, &path);
    }
    match all {
        Some(all) if reader.problems.is_empty() => Ok(all),
        _ if reader.problems.is_empty() => {
            let text = format!("`{path}` says nothing");
            Err(vec![Problem::at(NOWHERE, text, "say what it is to be")])
        }
        _ => Err(reader.problems),
    }
}

/// JSON as the file would hold it.
fn tree(value: &Value) -> Node {
    let scalar = |text: String| {
        Kind::Scalar(Scalar {
            text,
            hidden: false,
            is_here: true,
        })
    };
    node(match value {
        Value::Null => Kind::Null,
        Value::Bool(flag) => scalar(flag.to_string()),
        Value::Number(number) => scalar(number.to_string()),
        Value::String(text) => scalar(text.clone()),
        Value::Array(items) => Kind::List(items.iter().map(tree).collect()),
        Value::Object(entries) => {
            let entries: BTreeMap<_, _> = entries.iter().collect();
            let entries = entries.into_iter().map(|(name, value)| {
                let key = Key {
                    text: name.clone(),
                    at: NOWHERE,
                };
                (key, tree(value))
            });
            Kind::Map(entries.collect())
        }
    })
}

fn node(kind: Kind) -> Node {
    Node { at: NOWHERE, kind }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Sources, parse};
    use super::*;

    /// What is wrong in the file is wrong here, in the same words.
    #[track_caller]
    fn check(block: &str, entry: &Value) {
        let night = if block == "schedules" {
            "windows: { night: { start: \"02:00\", duration: 3h } }\n"
        } else {
            ""
        };
        let text = format!("{night}{block}: {{ it: {entry} }}\n");
        let file = parse(&text, Sources::beside(Path::new("/"))).unwrap_err();
        let here = match block {
            "windows" => window("it", entry).unwrap_err(),
            _ => schedule("it", entry, &["night".to_owned()]).unwrap_err(),
        };
        let words = |problems: &[Problem]| {
            let mut words: Vec<_> = problems
                .iter()
                .map(|problem| (problem.text.clone(), problem.help.clone()))
                .collect();
            words.sort();
            words
        };
        assert_eq!(words(&here), words(&file.problems), "{entry}");
    }

    #[test]
    fn what_the_file_refuses_is_refused_in_the_same_words() {
        for wrong in [
            json!({}),
            json!({ "start": "25:00", "duration": "3h" }),
            json!({ "start": "02:00" }),
            json!({ "start": "02:00", "duration": "25h" }),
            json!({ "start": "02:00", "duration": 5 }),
            json!({ "start": "02:00", "duration": "3h", "days": ["mo"] }),
            json!({ "start": "02:00", "duration": "3h", "days": [] }),
            json!({ "start": "02:00", "duration": "3h", "timezone": "Europe/Vilnus" }),
            json!({ "start": "02:00", "duration": "3h", "day": ["mon"] }),
            json!({ "start": ["02:00"], "duration": { "h": 3 } }),
            json!({ "start": "26:00", "duration": "99h", "days": ["x"], "colour": "red" }),
        ] {
            check("windows", &wrong);
        }
        for wrong in [
            json!({}),
            json!({ "cron": "15 2 * *" }),
            json!({ "cron": "61 2 * * *" }),
            json!({ "cron": "15 2 * * *", "window": "nigth" }),
            json!({ "cron": "15 2 * * *", "window": "noon-and-later" }),
            json!({ "cron": "15 2 * * *", "what": "oldest" }),
            json!({ "cron": "15 2 * * *", "timezone": "Mars" }),
            json!({ "cron": "15 2 * * *", "tags": [["x"]] }),
            json!({ "cron": "15 2 * * *", "widow": "night" }),
        ] {
            check("schedules", &wrong);
        }
        for (entry, what) in [(json!(5), "single value"), (json!([1]), "a list")] {
            let problems = window("it", &entry).unwrap_err();
            assert!(problems[0].text.contains(what), "{problems:?}");
        }
        assert!(
            window("it", &Value::Null).unwrap_err()[0]
                .text
                .contains("says nothing")
        );
        for name in ["", "a b", "../x", "a/b", &"x".repeat(65), "a\u{7}"] {
            let entry = json!({ "start": "02:00", "duration": "3h" });
            let problems = window(name, &entry).unwrap_err();
            assert!(problems[0].text.contains("the name"), "{problems:?}");
        }
    }

    #[test]
    fn what_is_kept_is_read_as_it_was_given() {
        let given = json!({ "start": "02:30", "duration": 5400, "days": ["sun", "mon", "mon"] });
        let read = window("night", &given).unwrap();
        assert_eq!((read.start.hour(), read.duration.as_secs()), (2, 5_400));
        assert_eq!(read.days, [Weekday::Monday, Weekday::Sunday]);
        assert_eq!(window("night", &window_entry(&read)).unwrap(), read);
        let given = json!({ "cron": "15 2 * * mon-fri", "window": "night", "tags": "upstairs" });
        let windows = ["night".to_owned()];
        let read = schedule("nightly", &given, &windows).unwrap();
        assert_eq!((read.window.as_deref(), read.tags.len()), (Some("night"), 1));
        assert_eq!(
            schedule("nightly", &schedule_entry(&read), &windows).unwrap(),
            read
        );
    }
}
