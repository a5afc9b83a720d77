//! A plan, read aloud.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{AtOnce, MaxFailures, Member, Plan};

/// So many devices are named one by one.
const MAX_NAMED: usize = 3;

pub(super) fn of(plan: &Plan) -> Vec<String> {
    let mut said = Vec::new();
    match plan.members.as_slice() {
        [] => said.push("No device is updated.".to_owned()),
        [only] => said.push(format!(
            "{} is updated: it runs {} and gets {}.",
            only.name, only.runs, only.image_name
        )),
        members => {
            said.push(format!("{}.", images(members)));
            said.extend(order(plan));
            said.push(pace(plan));
            said.extend(groups(plan));
            said.push(halt(plan));
        }
    }
    if !plan.members.is_empty() {
        said.extend(window(plan));
        said.extend(soak(plan));
        said.extend(put_back(plan));
        said.extend(time(plan));
    }
    said.extend(absent(plan));
    said.extend(
        plan.members
            .iter()
            .filter_map(|member| Some(format!("{}: {}", member.name, member.interrupts.as_ref()?))),
    );
    said.extend(notes(plan));
    said.extend(left_out(plan));
    said
}

/// "11 devices get 3.1.1, 1 device gets 1.4".
fn images(members: &[Member]) -> String {
    let mut n_of: BTreeMap<&str, usize> = BTreeMap::new();
    for member in members {
        *n_of.entry(&member.image_name).or_default() += 1;
    }
    let mut n_of: Vec<(&str, usize)> = n_of.into_iter().collect();
    n_of.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
    let words: Vec<String> = n_of
        .iter()
        .map(|&(image, n)| {
            let gets = if n == 1 { "gets" } else { "get" };
            format!("{} {gets} {image}", devices(n))
        })
        .collect();
    words.join(", ")
}

fn order(plan: &Plan) -> Vec<String> {
    let mut said = Vec::new();
    let is_canary = |member: &&Member| plan.n_canaries > 0 && member.wave == 0;
    let canaries: Vec<&str> = plan
        .members
        .iter()
        .filter(is_canary)
        .map(|member| member.name.as_str())
        .collect();
    let n_followers = plan.members.len() - canaries.len();
    let n_canaries = usize::try_from(plan.n_canaries).unwrap_or(usize::MAX);
    if n_canaries > 0 {
        let proof = match duration(plan.rules.canary_soak) {
            Some(time) => format!("have been updated and have run for {time}"),
            None => "have been updated".to_owned(),
        };
        let (who, proof) = match (canaries.as_slice(), n_canaries) {
            ([], 1) => ("The first that is back goes first".to_owned(), singular(&proof)),
            ([], n) => (format!("The first {n} that are back go first"), proof),
            ([name], 1) => (format!("{name} goes first"), singular(&proof)),
            (names, n) if names.len() == n => (format!("{} go first", list(names, n)), proof),
            (names, n) => (
                format!(
                    "{} and the next {} that are back go first",
                    names.join(", "),
                    n - names.len()
                ),
                proof,
            ),
        };
        if n_followers == 0 {
            said.push(format!("{who}."));
        } else {
            let they = if n_canaries == 1 { "it" } else { "they" };
            said.push(format!("{who}; the others follow only after {they} {proof}."));
        }
    }
    let first = u32::from(plan.n_canaries > 0);
    let sizes: Vec<String> = (first..plan.n_waves)
        .map(|wave| plan.members.iter().filter(|member| member.wave == wave).count())
        .map(|size| size.to_string())
        .collect();
    if let [most @ .., last] = sizes.as_slice()
        && !most.is_empty()
    {
        said.push(format!(
            "{} come in {} waves of {} and {last}; each begins when those that answer in the one before have ended.",
            if n_canaries > 0 { "These" } else { "They" },
            sizes.len(),
            most.join(", "),
        ));
    }
    said
}

fn singular(proof: &str) -> String {
    proof.replace("have ", "has ")
}

fn pace(plan: &Plan) -> String {
    match plan.rules.at_once {
        AtOnce::Auto => format!(
            "At most {} are updated at the same time to begin with, and more as long as that makes it quicker.",
            super::AUTO_FIRST
        ),
        AtOnce::AtMost(0 | 1) => "They are updated one after the other.".to_owned(),
        AtOnce::AtMost(n) => format!("At most {n} are updated at the same time."),
    }
}

/// One sentence for each limit that a group of this plan has.
fn groups(plan: &Plan) -> Vec<String> {
    let mut n_of: BTreeMap<&str, usize> = BTreeMap::new();
    for group in plan.members.iter().filter_map(|member| member.group.as_deref()) {
        *n_of.entry(group).or_default() += 1;
    }
    let mut by_limit: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for (group, n) in n_of {
        let most = plan.rules.at_once_in(group);
        if n > usize::try_from(most).unwrap_or(usize::MAX) {
            by_limit.entry(most).or_default().push(group);
        }
    }
    by_limit
        .into_iter()
        .map(|(most, groups)| {
            let names = list(&groups, groups.len());
            let group = if groups.len() == 1 {
                "the group"
            } else {
                "each of the groups"
            };
            format!("Of {group} {names}, at most {most} at the same time.")
        })
        .collect()
}

fn halt(plan: &Plan) -> String {
    let much = match plan.rules.max_failures {
        MaxFailures::Count(0 | 1) => return "It halts as soon as one device fails.".to_owned(),
        MaxFailures::Count(most) => format!("with {most} failures"),
        MaxFailures::Percent(percent) => {
            format!("as soon as more than {percent} % of the devices have failed")
        }
    };
    match plan.n_canaries {
        0 => format!("It halts {much}."),
        1 => format!("It halts if the one that goes first fails, and later {much}."),
        _ => format!("It halts if one of those that go first fails, and later {much}."),
    }
}

fn window(plan: &Plan) -> Option<String> {
    let window = plan.rules.window.as_ref()?;
    Some(format!(
        "Nothing begins outside the window {}, which opens at {}; what would not have ended when it closes waits for the next.",
        window.name,
        window.words()
    ))
}

fn soak(plan: &Plan) -> Option<String> {
    let time = duration(plan.rules.soak)?;
    Some(match (plan.members.len(), plan.n_canaries) {
        (1, _) => format!("After that it is watched for {time}."),
        (_, 0) => format!("Each is watched for {time} after its update."),
        _ => format!("Each of the others is watched for {time} after its update."),
    })
}

fn put_back(plan: &Plan) -> Option<String> {
    let can_be = plan.members.iter().any(|member| member.way_back.is_some());
    (plan.rules.put_back && can_be).then(|| {
        if plan.members.len() == 1 {
            "If it keeps restarting then, it is put back to what it runs now, once.".to_owned()
        } else {
            "One that keeps restarting then is put back to what it runs now, once.".to_owned()
        }
    })
}

fn time(plan: &Plan) -> Option<String> {
    let n_absent = plan.members.iter().filter(|member| member.was_offline).count();
    let time = about(plan.estimate());
    if n_absent == 0 {
        Some(format!("It takes about {time}."))
    } else if n_absent < plan.members.len() {
        Some(format!("It takes about {time} for those that answer."))
    } else {
        None
    }
}

fn absent(plan: &Plan) -> Option<String> {
    let absent: Vec<&str> = plan
        .members
        .iter()
        .filter(|member| member.was_offline)
        .map(|member| member.name.as_str())
        .collect();
    let names = list(&absent, MAX_NAMED);
    match absent.len() {
        0 => None,
        1 => Some(format!(
            "{names} does not answer; it is updated if it is back before the deadline."
        )),
        _ => Some(format!(
            "{names} do not answer; they are updated if they are back before the deadline."
        )),
    }
}

/// Devices with the same note share a sentence.
fn notes(plan: &Plan) -> Vec<String> {
    let mut names_of: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for member in &plan.members {
        for note in &member.notes {
            names_of
                .entry((&note.rule, &note.text))
                .or_default()
                .push(&member.name);
        }
    }
    names_of
        .into_iter()
        .map(|((_, text), names)| format!("{}: {text}", list(&names, MAX_NAMED)))
        .collect()
}

/// Devices that are left out for the same reason share it.
fn left_out(plan: &Plan) -> Vec<String> {
    let mut names_of: BTreeMap<(&str, &str, &str), Vec<&str>> = BTreeMap::new();
    for left_out in &plan.left_out {
        let reason = &left_out.reason;
        names_of
            .entry((&reason.rule, &reason.text, &reason.next_step))
            .or_default()
            .push(&left_out.name);
    }
    names_of
        .into_iter()
        .map(|((_, text, next_step), names)| {
            let are = if names.len() == 1 { "is" } else { "are" };
            format!("{} {are} left out: {text} {next_step}", list(&names, MAX_NAMED))
        })
        .collect()
}

fn devices(n: usize) -> String {
    match n {
        1 => "1 device".to_owned(),
        n => format!("{n} devices"),
    }
}

/// "Hall", "Hall and Attic", "Hall, Attic and 4 more".
fn list(names: &[&str], most: usize) -> String {
    match names {
        [] => String::new(),
        [name] => (*name).to_owned(),
        [all @ .., last] if names.len() <= most => format!("{} and {last}", all.join(", ")),
        _ => {
            let (first, others) = names.split_at(most.min(names.len()));
            format!("{} and {} more", first.join(", "), others.len())
        }
    }
}

/// A time that was set; none for no time at all.
pub(crate) fn duration(time: Duration) -> Option<String> {
    let seconds = time.as_secs();
    match seconds {
        0 => None,
        1 => Some("1 second".to_owned()),
        60 => Some("1 minute".to_owned()),
        3_600 => Some("1 hour".to_owned()),
        _ if seconds.is_multiple_of(3_600) => Some(format!("{} hours", seconds / 3_600)),
        _ if seconds.is_multiple_of(60) => Some(format!("{} minutes", seconds / 60)),
        _ => Some(format!("{seconds} seconds")),
    }
}

/// A time that was estimated, never too short: in steps of 10 seconds, of a minute, of 10 minutes.
pub(crate) fn about(time: Duration) -> String {
    let up = |unit: u64| time.as_secs().div_ceil(unit).max(1);
    if time <= Duration::from_secs(90) {
        return format!("{} seconds", up(10) * 10);
    }
    if time <= Duration::from_mins(90) {
        return format!("{} minutes", up(60));
    }
    let minutes = up(600) * 10;
    let hours = match minutes / 60 {
        1 => "1 hour".to_owned(),
        hours => format!("{hours} hours"),
    };
    match minutes % 60 {
        0 => hours,
        minutes => format!("{hours} and {minutes} minutes"),
    }
}
