//! How a rollout ended, with the evidence for each device.

use std::collections::BTreeMap;

use serde_json::Value;
use server::views::{JobDetailView, MemberView, RolloutView};

use crate::cli::show::{counted, fact_in, safe, sentence};
use crate::cli::standing::{
    Kind, devices_by_state, evidence_cells, is_over, kind_of, names, state_words, title,
};
use crate::cli::table::{Table, WIDTH};

/// The table of the evidence, a next step for each device that did not succeed, and the end of it all.
pub(super) fn ended(rollout: &RolloutView, jobs: &BTreeMap<String, JobDetailView>) -> String {
    let mut text = String::from("\n");
    let ended: Vec<_> = rollout
        .members
        .iter()
        .filter(|member| !matches!(kind_of(&member.state), Kind::Waits | Kind::Runs))
        .collect();
    if !ended.is_empty() {
        let mut table = Table::new(&[
            ("DEVICE", 12),
            ("OUTCOME", 12),
            ("AWAY", 5),
            ("UPTIME", 10),
            ("RUNS", 8),
        ]);
        for member in &ended {
            let evidence = jobs.get(&member.device).map_or(&Value::Null, |job| &job.evidence);
            let [away, uptime, versions] = evidence_cells(evidence);
            table.row([
                member.name.clone(),
                state_words(&member.state, member.reason.as_deref()),
                away,
                uptime,
                versions,
            ]);
        }
        text += &table.in_width(Some(WIDTH));
    }
    text += &troubles(&ended);
    text.push('\n');
    text + &conclusion(rollout)
}

/// What to do about devices that did not succeed, or may not have; those with the same trouble together.
fn troubles(ended: &[&MemberView]) -> String {
    let mut groups: Vec<(Option<&str>, String, Vec<&str>)> = Vec::new();
    for member in ended {
        let told = member.next_step.as_deref();
        let told = told.filter(|next_step| !next_step.is_empty());
        if kind_of(&member.state) != Kind::Bad && told.is_none() {
            continue;
        }
        let next_step = match (told, member.job) {
            (Some(next_step), _) => next_step.to_owned(),
            (None, Some(job)) => format!("See what happened: reflash job show {job}."),
            (None, None) => format!("See how it is: reflash device show {}.", member.device),
        };
        let what = member.text.as_deref();
        match groups
            .iter_mut()
            .find(|(known, step, _)| *known == what && *step == next_step)
        {
            Some((_, _, names)) => names.push(&member.name),
            None => groups.push((what, next_step, vec![&member.name])),
        }
    }
    let mut text = String::new();
    for (what, next_step, who) in groups {
        text.push('\n');
        text += &sentence(&names(&who));
        if let Some(what) = what {
            text += &fact_in(2, "what", &safe(what));
        }
        text += &fact_in(2, "next", &safe(&next_step));
    }
    text
}

/// What came of all of it, and what to do where it is held.
fn conclusion(rollout: &RolloutView) -> String {
    let summary = &rollout.summary;
    let mut text = sentence(&format!(
        "{} is {}. {}.",
        title(summary),
        summary.state,
        devices_by_state(&rollout.members)
    ));
    if let Some(cause) = &summary.cause {
        text += &fact_in(2, "why", &safe(&cause.text));
        if !cause.next_step.is_empty() {
            text += &fact_in(2, "next", &safe(&cause.next_step));
        }
    }
    let id = summary.id;
    match summary.state.as_str() {
        "halted" => {
            text += &sentence(&format!(
                "Nothing more begins by itself: `reflash rollout resume {id}` goes on in spite of it, \
                `reflash rollout abort {id}` ends it."
            ));
        }
        "paused" if !is_over(summary) => {
            text += &sentence(&format!("`reflash rollout resume {id}` goes on."));
        }
        _ => {}
    }
    if !rollout.left_out.is_empty() {
        text += &sentence(&format!(
            "{} left out; why is in `reflash rollout show {id}`.",
            match rollout.left_out.len() {
                1 => "1 device was".to_owned(),
                n => format!("{} were", counted(n, "device")),
            }
        ));
    }
    text
}
