//! `reflash window`.

use serde_json::{Value, json};
use server::views::{OriginView, RefusalView, WindowView};

use super::client::{Ask, Client, ServerArguments, answer, read};
use super::nearest::{nearest, one_of};
use super::show::{fact_in, safe, sentence};
use super::standing::length;
use super::table::{Table, WIDTH};
use crate::error::{Exit, Trouble};

/// The words for days, from Monday.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

#[derive(clap::Args)]
#[command(
    after_help = "A window says when updates may begin. Those of the configuration are changed there; the others here.\n\n\
    Examples:\n  reflash window set night --start 02:00 --duration 3h --days mon,tue,wed,thu,fri --timezone Europe/Vilnius\n  \
    reflash window list\n  reflash update --all --window night"
)]
pub(crate) struct WindowArguments {
    #[command(subcommand)]
    command: WindowCommand,
    #[command(flatten)]
    pub(crate) server: ServerArguments,
}

#[derive(clap::Subcommand)]
enum WindowCommand {
    /// List the windows, and when each opens next.
    #[command(after_help = "Example:\n  reflash window list")]
    List,
    /// Say all of a window, and what goes by it.
    #[command(after_help = "Example:\n  reflash window show night")]
    Show(OneWindow),
    /// Make a window, or change one; what is not said stays as it is.
    #[command(
        after_help = "It holds at once. Rollouts that are open keep the window that they were planned with.\n\n\
        Examples:\n  reflash window set night --start 02:00 --duration 3h --timezone Europe/Vilnius\n  \
        reflash window set night --days sat,sun\n  reflash window set night --days all"
    )]
    Set(SetArguments),
    /// Remove a window that nothing goes by.
    #[command(after_help = "Example:\n  reflash window remove night")]
    Remove(OneWindow),
}

#[derive(clap::Args)]
struct OneWindow {
    /// Its name.
    name: String,
}

#[derive(clap::Args)]
struct SetArguments {
    /// Its name: letters, digits, - and _.
    name: String,
    /// When it opens, as 02:00; a new window needs it.
    #[arg(long, value_name = "HH:MM")]
    start: Option<String>,
    /// For how long, as 3h or 90m, up to 24h; a new window needs it.
    #[arg(long, value_name = "D")]
    duration: Option<String>,
    /// On which days: mon, tue, wed, thu, fri, sat, sun, separated by commas; or all.
    #[arg(long, value_name = "DAYS", value_delimiter = ',')]
    days: Option<Vec<String>>,
    /// Where its clock hangs, as Europe/Vilnius; otherwise that of the server's machine.
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
}

/// Does what was asked of the windows.
pub(crate) async fn run(arguments: WindowArguments) -> Result<Exit, Trouble> {
    let server = &arguments.server;
    let client = Client::new(server)?;
    match &arguments.command {
        WindowCommand::List => {
            let value = client.ask(Ask::get(["windows"])).await?;
            answer(server, &value, || Ok(listed(&read::<Vec<WindowView>>(&value)?)))
        }
        WindowCommand::Show(one) => {
            let value = client.ask(Ask::get(["windows", &one.name])).await;
            let value = match value {
                Ok(value) => value,
                Err(trouble) => return Err(with_names(&client, "windows", &one.name, trouble).await),
            };
            answer(server, &value, || Ok(shown(&read(&value)?)))
        }
        WindowCommand::Set(set) => {
            let was: Option<WindowView> = there(&client, "windows", &set.name).await?;
            let entry = entry(set, was.as_ref())?;
            let ask = Ask::put(["windows", &set.name]).json(&entry);
            let value = client.ask(ask).await?;
            answer(server, &value, || {
                let window: WindowView = read(&value)?;
                let verb = if was.is_some() { "now" } else { "is made; it" };
                let text = format!(
                    "The window {} {verb} opens at {}. {}",
                    window.name,
                    window.opens,
                    next(&window)
                );
                Ok(sentence(&text) + &trouble(window.trouble.as_ref()))
            })
        }
        WindowCommand::Remove(one) => {
            let value = match client.ask(Ask::delete(["windows", &one.name])).await {
                Ok(value) => value,
                Err(trouble) => return Err(with_names(&client, "windows", &one.name, trouble).await),
            };
            answer(server, &value, || {
                Ok(sentence(&format!("The window {} is removed.", one.name)))
            })
        }
    }
}

/// What is to be stored: what was said, and otherwise what was there.
fn entry(set: &SetArguments, was: Option<&WindowView>) -> Result<Value, Trouble> {
    for (said, flag, example) in [
        (&set.start, "--start", "02:00"),
        (&set.duration, "--duration", "3h"),
    ] {
        if said.is_none() && was.is_none() {
            return Err(Trouble::new(
                Exit::Usage,
                format!(
                    "There is no window {:?} yet, and a new one needs {flag}.",
                    set.name
                ),
                format!("Say it, for example {flag} {example}."),
            ));
        }
    }
    let mut entry = json!({});
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            entry[key] = value;
        }
    };
    put(
        "start",
        set.start
            .as_deref()
            .or(was.map(|was| was.start.as_str()))
            .map(Value::from),
    );
    put(
        "duration",
        set.duration
            .as_deref()
            .map(Value::from)
            .or(was.map(|was| Value::from(was.duration_s))),
    );
    let days = match &set.days {
        Some(days) if days.iter().any(|day| day.eq_ignore_ascii_case("all")) => None,
        Some(days) => Some(days.clone()),
        None => was.map(|was| was.days.clone()),
    };
    put("days", days.map(Value::from));
    put(
        "timezone",
        set.timezone
            .as_deref()
            .or(was.and_then(|was| was.timezone.as_deref()))
            .map(Value::from),
    );
    Ok(entry)
}

/// What is there by that name; none where nothing is.
pub(super) async fn there<T: serde::de::DeserializeOwned>(
    client: &Client,
    block: &str,
    name: &str,
) -> Result<Option<T>, Trouble> {
    match client.ask(Ask::get([block, name])).await {
        Ok(value) => Ok(Some(read(&value)?)),
        Err(trouble) if trouble.exit == Exit::NotFound => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

/// Says which names there are, where the one that was given is none of them.
pub(super) async fn with_names(client: &Client, block: &str, name: &str, mut trouble: Trouble) -> Trouble {
    if trouble.exit != Exit::NotFound {
        return trouble;
    }
    let Ok(value) = client.ask(Ask::get([block])).await else {
        return trouble;
    };
    let names: Vec<&str> = value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry["name"].as_str())
        .collect();
    let near = nearest(name, names.iter().copied());
    let one = block.trim_end_matches('s');
    trouble.next_step = match (near.as_slice(), names.as_slice()) {
        ([], []) => format!("There are no {block}. Make one: reflash {one} set NAME --help."),
        ([], _) => format!("See which there are: reflash {one} list."),
        (near, _) => format!("Perhaps you mean {}.", one_of(near)),
    };
    trouble
}

fn listed(windows: &[WindowView]) -> String {
    if windows.is_empty() {
        return sentence(
            "There are no windows: updates begin at any time. Make one with `reflash window set night --start 02:00 \
            --duration 3h`.",
        );
    }
    let mut table = Table::new(&[
        ("NAME", 8),
        ("OPENS", 5),
        ("DAYS", 8),
        ("FOR", 4),
        ("ZONE", 8),
        ("NEXT", 16),
        ("IN", 6),
    ]);
    for window in windows {
        let opening = &window.opening;
        let next = match (&opening.open_until_local, &opening.next_local) {
            _ if window.trouble.is_some() => "never (see show)".to_owned(),
            (Some(until), _) => format!("open until {}", clock(until)),
            (None, Some(next)) => moment(next),
            (None, None) => "never".to_owned(),
        };
        table.row([
            window.name.clone(),
            window.start.clone(),
            days(&window.days),
            length(window.duration_s),
            zone(window.timezone.as_deref()),
            next,
            kept_in(&window.origin),
        ]);
    }
    table.in_width(Some(WIDTH))
}

fn shown(window: &WindowView) -> String {
    let mut text = sentence(&format!("Window {}", window.name));
    let mut add = |label: &str, value: &str| text += &fact_in(2, label, &safe(value));
    add("opens", &window.opens);
    if let Some(until) = &window.opening.open_until_local {
        add("now", &format!("open until {}", with_zone(until)));
    }
    if let Some(next) = &window.opening.next_local {
        add("next", &with_zone(next));
    }
    if !window.schedules.is_empty() {
        add("schedules", &window.schedules.join(", "));
    }
    if !window.rollouts.is_empty() {
        let ids: Vec<String> = window.rollouts.iter().map(i64::to_string).collect();
        add("rollouts", &ids.join(", "));
    }
    add("kept in", &place(&window.origin));
    text + &trouble(window.trouble.as_ref())
}

fn next(window: &WindowView) -> String {
    match (&window.opening.open_until_local, &window.opening.next_local) {
        (Some(until), _) => format!("It is open until {}.", with_zone(until)),
        (None, Some(next)) => format!("It opens next at {}.", with_zone(next)),
        (None, None) => "It never opens.".to_owned(),
    }
}

/// Why it does not do what it should.
pub(super) fn trouble(trouble: Option<&RefusalView>) -> String {
    let Some(trouble) = trouble else {
        return String::new();
    };
    fact_in(2, "why not", &safe(&trouble.text)) + &fact_in(2, "next step", &safe(&trouble.next_step))
}

/// Where it was written down, in a word.
pub(super) fn kept_in(origin: &OriginView) -> String {
    match origin.kept_in.as_str() {
        "api" => "server".to_owned(),
        "configuration" => "file".to_owned(),
        other => other.to_owned(),
    }
}

/// Where it was written down, and where it is changed.
pub(super) fn place(origin: &OriginView) -> String {
    match &origin.file {
        Some(file) => format!("{file}, as {}; it is changed there", origin.key),
        None if origin.kept_in == "api" => "the server".to_owned(),
        None => origin.kept_in.clone(),
    }
}

pub(super) fn zone(timezone: Option<&str>) -> String {
    timezone.unwrap_or("the server's").to_owned()
}

/// A moment as the server writes it, `2026-11-23T02:00:00+02:00[Europe/Vilnius]`, as a person does: `2026-11-23 02:00`.
pub(super) fn moment(local: &str) -> String {
    let minute: String = local.chars().take("2026-11-23T02:00".len()).collect();
    minute.replace('T', " ")
}

/// The same with its zone: `2026-11-23 02:00 (Europe/Vilnius)`.
pub(super) fn with_zone(local: &str) -> String {
    let zone = local.split_once('[').and_then(|(_, rest)| rest.strip_suffix(']'));
    match zone {
        Some(zone) => format!("{} ({zone})", moment(local)),
        None => moment(local),
    }
}

/// Only its time of day.
fn clock(local: &str) -> String {
    local
        .chars()
        .skip("2026-11-23T".len())
        .take("02:00".len())
        .collect()
}

/// Days in short: `every day`, `mon-fri`, `sat,sun`.
fn days(days: &[String]) -> String {
    let places: Vec<usize> = DAYS
        .iter()
        .enumerate()
        .filter(|(_, day)| days.iter().any(|named| named == *day))
        .map(|(place, _)| place)
        .collect();
    match places[..] {
        _ if places.len() != days.len() => days.join(","),
        [0, 1, 2, 3, 4, 5, 6] => "every day".to_owned(),
        [first, .., last] if places.len() > 2 && last - first + 1 == places.len() => {
            format!("{}-{}", DAYS[first], DAYS[last])
        }
        _ => days.join(","),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_told_in_short_and_none_is_lost() {
        let of = |text: &str| days(&text.split(',').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("mon,tue,wed,thu,fri,sat,sun"), "every day");
        assert_eq!(of("mon,tue,wed,thu,fri"), "mon-fri");
        assert_eq!(of("sat,sun"), "sat,sun");
        assert_eq!(of("mon,tue,wed,fri"), "mon,tue,wed,fri");
        assert_eq!(of("mon,new"), "mon,new");
    }

    #[test]
    fn moments_are_told_by_the_clock_that_they_hang_on() {
        let local = "2026-11-23T02:00:00+02:00[Europe/Vilnius]";
        assert_eq!(with_zone(local), "2026-11-23 02:00 (Europe/Vilnius)");
        assert_eq!(
            (moment(local).as_str(), clock(local).as_str()),
            ("2026-11-23 02:00", "02:00")
        );
        assert_eq!(with_zone("soon"), "soon");
    }
}
