//! Messages in sentences that can be read aloud: what happened, what the devices run now, what to do next.

use std::collections::BTreeMap;
use std::time::Duration;

use super::happened::{How, RolloutNews};
use super::message::{Kind, Message, Told};

/// How many names are told before the others are only counted.
const N_NAMES: usize = 5;
/// How many different failures are told with their words.
const N_FAILURES: usize = 4;
/// How many parts of a message are told in full; of more, only their titles are.
const N_IN_FULL: usize = 8;
/// How long a list of titles gets, characters; less than a message's text.
const TITLES_MAX_LEN: usize = 1900;

/// A part of a message; mostly it is all of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Section {
    kind: Kind,
    title: String,
    text: String,
    devices: Vec<Told>,
    rollout: Option<i64>,
    /// Numbers and times of the events that it tells of.
    of: Vec<(i64, i64)>,
}

/// One message of these parts, of which there is at least one.
pub(super) fn message(sections: Vec<Section>) -> Message {
    let is_one = sections.len() == 1;
    let first = sections.first();
    let kind = first.map_or(Kind::Digest, |first| first.kind);
    let kind = if is_one { kind } else { Kind::Digest };
    let rollout = first.and_then(|first| first.rollout).filter(|_| is_one);
    let titles: Vec<&str> = sections.iter().map(|section| section.title.as_str()).collect();
    let texts: Vec<&str> = sections.iter().map(|section| section.text.as_str()).collect();
    let text = if sections.len() > N_IN_FULL {
        in_brief(&titles)
    } else {
        texts.join("\n")
    };
    let of: Vec<_> = sections.iter().flat_map(|section| section.of.clone()).collect();
    let title = titles.join("; ");
    let devices = sections.into_iter().flat_map(|section| section.devices);
    Message::new(kind, (&title, &text), devices.collect(), rollout, &of)
}

/// A line for each, as far as there is room.
fn in_brief(titles: &[&str]) -> String {
    let mut text = String::new();
    let mut len = 0;
    for (idx, title) in titles.iter().enumerate() {
        len += title.chars().count() + 2;
        if len > TITLES_MAX_LEN {
            let n_more = titles.len() - idx;
            return format!("{text}{n_more} more: reflash rollout list, reflash history.");
        }
        text += title;
        text += ".\n";
    }
    text.truncate(text.trim_end().len());
    text
}

/// A rollout that does not go on.
pub(super) fn rollout(news: &RolloutNews, of: (i64, i64)) -> Section {
    let kind = match news.how {
        How::Halted => Kind::Halted,
        How::Finished | How::Aborted => Kind::Finished,
    };
    let (title, text) = match news.how {
        How::Halted => halted(news),
        How::Finished | How::Aborted => over(news),
    };
    let devices = news.failed.iter().chain(&news.well);
    Section {
        kind,
        title,
        text,
        devices: devices.cloned().collect(),
        rollout: Some(news.id),
        of: vec![of],
    }
}

fn called(news: &RolloutNews) -> String {
    match &news.name {
        Some(name) => format!("The rollout {name} (number {})", news.id),
        None => format!("Rollout {}", news.id),
    }
}

fn halted(news: &RolloutNews) -> (String, String) {
    let id = news.id;
    let failed = match news.n_failed {
        0 => String::new(),
        1 => ": one device failed".to_owned(),
        n_failed => format!(": {n_failed} devices failed"),
    };
    let title = format!("{} has halted{failed}", called(news));
    let mut text = vec![format!("{} has halted.", called(news))];
    text.extend(news.cause.clone());
    text.extend(failures(&news.failed));
    text.push(tally(news));
    text.push(news.next_step.clone().unwrap_or_else(|| {
        format!(
            "Look why: reflash rollout show {id}. Then go on (reflash rollout resume {id}), or end it (reflash rollout abort {id})."
        )
    }));
    (title, text.join(" "))
}

fn over(news: &RolloutNews) -> (String, String) {
    let done = if news.is_rollback { "back" } else { "updated" };
    let ended = match news.how {
        How::Aborted => "was ended by hand",
        How::Halted | How::Finished => "has finished",
    };
    if news.how == How::Finished
        && news.n_devices == 1
        && let Some(told) = news.well.first().or(news.failed.first())
    {
        return match &told.runs {
            Some(runs) if news.n_well == 1 => (
                format!("{} is {done}", told.name),
                format!(
                    "{} is {done}: it runs {runs} now. Nothing is left to do.",
                    told.name
                ),
            ),
            _ => {
                let told = std::slice::from_ref(told);
                (
                    format!("{}: the update failed", told[0].name),
                    failures(told).join(" "),
                )
            }
        };
    }
    let title = match (news.how, news.n_devices - news.n_well.min(news.n_devices)) {
        (How::Finished, 0) => format!("{}: all {} devices are {done}", called(news), news.n_devices),
        (How::Finished, _) => format!(
            "{}: {} of {} devices are {done}",
            called(news),
            news.n_well,
            news.n_devices
        ),
        _ => format!("{} {ended}", called(news)),
    };
    let mut text = vec![format!("{} {ended}.", called(news)), tally(news)];
    text.extend(failures(&news.failed));
    if news.n_well == news.n_devices {
        text.push("Nothing is left to do.".to_owned());
    } else if news.n_failed == 0 {
        text.push(format!("Which, and why: reflash rollout show {}.", news.id));
    }
    (title, text.join(" "))
}

/// How many have come to what, and what they run.
fn tally(news: &RolloutNews) -> String {
    let RolloutNews {
        n_devices,
        n_well,
        n_failed,
        n_running,
        ..
    } = *news;
    let firmware = match news.firmware.as_slice() {
        [one] => format!("run {one}"),
        _ => "run what they should".to_owned(),
    };
    let done = if news.is_rollback {
        "are back"
    } else {
        "are updated"
    };
    if n_devices == 0 {
        return "How many devices it has reached is not known any more: reflash history.".to_owned();
    }
    if n_well == n_devices {
        return format!("All {n_devices} devices {done} and {firmware} now.");
    }
    let n_left = n_devices.saturating_sub(n_well + n_failed + n_running);
    let mut parts = Vec::new();
    match n_well {
        0 => {}
        n_well => parts.push(format!(
            "{n_well} of {n_devices} devices {done} and {firmware} now"
        )),
    }
    match n_failed {
        0 => {}
        n_failed => parts.push(format!("{n_failed} failed")),
    }
    match n_running {
        0 => {}
        n_running => parts.push(format!("{n_running} still under way")),
    }
    match n_left {
        0 => {}
        1 => parts.push("one was left as it is".to_owned()),
        n_left => parts.push(format!("{n_left} were left as they are")),
    }
    if n_well == 0
        && let Some(first) = parts.first_mut()
    {
        *first = format!("Of {n_devices} devices {first}");
    }
    format!("{}.", parts.join(", "))
}

/// Failures in sentences, those with the same words together.
fn failures(failed: &[Told]) -> Vec<String> {
    let mut groups: Vec<(&Told, Vec<&str>)> = Vec::new();
    for told in failed {
        let same = |(other, _): &&mut (&Told, Vec<&str>)| {
            other.state == told.state
                && other.text == told.text
                && other.next_step == told.next_step
                && other.runs == told.runs
        };
        match groups.iter_mut().find(same) {
            Some((_, names)) => names.push(&told.name),
            None => groups.push((told, vec![&told.name])),
        }
    }
    let n_more: usize = groups.iter().skip(N_FAILURES).map(|(_, names)| names.len()).sum();
    let mut sentences: Vec<String> = groups
        .iter()
        .take(N_FAILURES)
        .map(|(told, names)| failure(told, names))
        .collect();
    match n_more {
        0 => {}
        1 => sentences.push("One more failed for another reason.".to_owned()),
        n_more => sentences.push(format!("{n_more} more failed for other reasons.")),
    }
    sentences
}

fn failure(told: &Told, names: &[&str]) -> String {
    let they = if names.len() == 1 {
        ("It", "runs", "it")
    } else {
        ("They", "run", "they")
    };
    let text = told
        .text
        .clone()
        .unwrap_or_else(|| format!("The update ended as {}.", told.state));
    let mut words = vec![format!("{}: {text}", named(names))];
    match &told.runs {
        Some(runs) => words.push(format!("{} {} {runs} now.", they.0, they.1)),
        None if told.state == "unverified" => {
            words.push(format!("What {} {} now is not proven.", they.2, they.1));
        }
        None => {}
    }
    words.extend(told.next_step.clone());
    words.join(" ")
}

/// Updates that failed, and that no rollout tells of.
pub(super) fn failed(told: Vec<Told>, of: Vec<(i64, i64)>) -> Section {
    let title = match told.as_slice() {
        [one] => format!("{}: the update failed", one.name),
        several => format!("{} updates failed", several.len()),
    };
    Section {
        kind: Kind::Failed,
        title,
        text: failures(&told).join(" "),
        devices: told,
        rollout: None,
        of,
    }
}

/// What was not proven is known.
pub(super) fn corrected(told: Vec<Told>, of: Vec<(i64, i64)>) -> Section {
    let title = match told.as_slice() {
        [one] => format!("{}: what became of its update is known now", one.name),
        several => format!("What became of {} updates is known now", several.len()),
    };
    let text = told.iter().take(N_FAILURES).map(|told| {
        let text = told.text.clone().unwrap_or_default();
        let mut words = vec![format!(
            "{} is known to be {} after all: {text}",
            told.name,
            told.state.replace('-', " ")
        )];
        words.extend(told.runs.as_ref().map(|runs| format!("It runs {runs} now.")));
        words.extend(told.next_step.clone());
        words.join(" ")
    });
    let mut text: Vec<String> = text.collect();
    match told.len().saturating_sub(N_FAILURES) {
        0 => {}
        n_more => text.push(format!("{n_more} more are known, too: reflash history.")),
    }
    Section {
        kind: Kind::Corrected,
        title,
        text: text.join(" "),
        devices: told,
        rollout: None,
        of,
    }
}

/// Firmware that devices need.
pub(super) fn firmware(name: &str, told: Vec<Told>, of: (i64, i64)) -> Section {
    let whom = match told.as_slice() {
        [one] => one.name.clone(),
        several => format!("{} devices", several.len()),
    };
    let mut running: BTreeMap<&str, usize> = BTreeMap::new();
    for runs in told.iter().filter_map(|told| told.runs.as_deref()) {
        *running.entry(runs).or_default() += 1;
    }
    let they = if told.len() == 1 { "It runs" } else { "They run" };
    let runs = match running.into_iter().collect::<Vec<_>>().as_slice() {
        [(runs, n_devices)] if *n_devices == told.len() => format!(" {they} {runs} now."),
        _ => String::new(),
    };
    let names: Vec<&str> = told.iter().map(|told| told.name.as_str()).collect();
    let text = format!(
        "Firmware {name} is there for {}.{runs} See what it would do: reflash plan --all; install it: reflash update --all.",
        self::named(&names)
    );
    Section {
        kind: Kind::Firmware,
        title: format!("Firmware {name} is there for {whom}"),
        text,
        devices: told,
        rollout: None,
        of: vec![of],
    }
}

/// An image with which something is the matter.
pub(super) fn alarm(name: &str, text: &str, of: (i64, i64)) -> Section {
    Section {
        kind: Kind::Alarm,
        title: format!("{name}: look at this firmware"),
        text: format!("{text} Look at it: reflash firmware list."),
        devices: Vec::new(),
        rollout: None,
        of: vec![of],
    }
}

/// Devices that do not answer any more.
pub(super) fn lost(told: Vec<Told>, longest: Duration, of: Vec<(i64, i64)>) -> Section {
    let names: Vec<&str> = told.iter().map(|told| told.name.as_str()).collect();
    let minutes = longest.as_secs() / 60;
    let (title, text) = match told.as_slice() {
        [one] => {
            let ran = one
                .runs
                .as_ref()
                .map(|runs| format!(" It ran {runs} when it was seen last."));
            let ran = ran.unwrap_or_default();
            (
                format!("{} does not answer", one.name),
                format!(
                    "{} has not answered for {minutes} minutes.{ran} Look whether it has power and reaches the network; more: reflash device show.",
                    one.name
                ),
            )
        }
        several => (
            format!("{} devices do not answer", several.len()),
            format!(
                "{} have not answered for up to {minutes} minutes. Look at what they have in common, as an access point, and whether they have power; more: reflash device list.",
                self::named(&names)
            ),
        ),
    };
    Section {
        kind: Kind::Lost,
        title,
        text,
        devices: told,
        rollout: None,
        of,
    }
}

/// Devices that answer again.
pub(super) fn found(told: Vec<Told>, of: Vec<(i64, i64)>) -> Section {
    let names: Vec<&str> = told.iter().map(|told| told.name.as_str()).collect();
    let (title, text) = match told.as_slice() {
        [one] => {
            let runs = one.runs.as_ref().map(|runs| format!(" and runs {runs}"));
            let runs = runs.unwrap_or_default();
            (
                format!("{} answers again", one.name),
                format!("{} answers again{runs}. Nothing is left to do.", one.name),
            )
        }
        several => (
            format!("{} devices answer again", several.len()),
            format!("{} answer again. Nothing is left to do.", self::named(&names)),
        ),
    };
    Section {
        kind: Kind::Found,
        title,
        text,
        devices: told,
        rollout: None,
        of,
    }
}

/// "A, B and C", or "A, B, C, D, E and 45 others".
fn named(names: &[&str]) -> String {
    let mut words: Vec<String> = names
        .iter()
        .take(N_NAMES)
        .map(|name| (*name).to_owned())
        .collect();
    match names.len().saturating_sub(N_NAMES) {
        0 => {}
        // One name is as short as "one other".
        1 => words.extend(names.last().map(|name| (*name).to_owned())),
        n_more => words.push(format!("{n_more} others")),
    }
    listed(&words)
}

fn listed(words: &[String]) -> String {
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}
