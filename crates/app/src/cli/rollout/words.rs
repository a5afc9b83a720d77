//! What rollouts look like to a person.

use std::fmt::Write as _;

use server::views::{MemberView, RolloutSummaryView, RolloutView, RulesView};

use crate::cli::show::{ago, counted, fact_in, safe, sentence, spoken, wrapped};
use crate::cli::standing::{
    Kind, about, between, counts, devices_by_state, is_over, kind_of, kind_words, left_out, length, standing,
    title, wave,
};
use crate::cli::table::{Table, WIDTH};

pub(super) fn listed(rollouts: &[RolloutSummaryView]) -> String {
    if rollouts.is_empty() {
        return sentence(
            "There are no rollouts yet. See what one would do with `reflash plan --all`, and begin it with \
            `reflash update`.",
        );
    }
    let mut table = Table::new(&[
        ("ID", 2),
        ("NAME", 8),
        ("STATE", 8),
        ("TO", 8),
        ("WAVE", 6),
        ("DEVICES", 14),
        ("BEGUN", 8),
    ]);
    for rollout in rollouts {
        let wave = if rollout.n_waves > 1 && !is_over(rollout) {
            format!(
                "{} of {}",
                (rollout.wave + 1).min(rollout.n_waves),
                rollout.n_waves
            )
        } else {
            String::new()
        };
        table.row([
            rollout.id.to_string(),
            rollout
                .name
                .clone()
                .unwrap_or_else(|| kind_words(rollout.kind).to_owned()),
            rollout.state.clone(),
            rollout.firmware.join(", "),
            wave,
            counts(rollout.counts.iter().map(|(state, n)| (state.as_str(), *n))),
            ago(rollout.created_ms),
        ]);
    }
    table.in_width(Some(WIDTH))
}

/// All of a rollout.
pub(super) fn shown(rollout: &RolloutView) -> String {
    let summary = &rollout.summary;
    let mut text = format!("{}\n", title(summary));
    let mut add = |label: &str, value: &str| text += &fact_in(2, label, &safe(value));
    add(
        "kind",
        &format!("{} to {}", kind_words(summary.kind), summary.firmware.join(", ")),
    );
    let mut state = summary.state.clone();
    let wave = wave(summary);
    if !wave.is_empty() && !is_over(summary) {
        let _ = write!(state, " · {wave}");
    }
    if !is_over(summary) {
        let _ = write!(state, " · {} at once", rollout.n_at_once);
    }
    add("state", &state);
    if let Some(cause) = &summary.cause {
        add("why", &format!("{} ({})", cause.text, cause.rule));
        if !cause.next_step.is_empty() {
            add("next", &cause.next_step);
        }
    }
    let mut begun = format!("{} by {}", ago(summary.created_ms), summary.created_by);
    if let Some(ended_ms) = summary.ended_ms {
        let _ = write!(begun, " · took {}", spoken(between(summary.created_ms, ended_ms)));
    }
    add("begun", &begun);
    if let Some(old) = summary.predecessor {
        add("instead of", &format!("rollout {old}"));
    }
    add("rules", &rules(&rollout.rules));
    if !rollout.members.is_empty() {
        let mut table = Table::new(&[
            ("DEVICE", 12),
            ("WAVE", 4),
            ("STATE", 12),
            ("RAN", 8),
            ("GETS", 8),
            ("JOB", 3),
        ]);
        for member in &rollout.members {
            table.row([
                member.name.clone(),
                member.wave.saturating_add(1).to_string(),
                standing(member),
                member.runs.clone(),
                format!("→ {}", member.firmware),
                member.job.map(|job| job.to_string()).unwrap_or_default(),
            ]);
        }
        text += &table.in_width(Some(WIDTH));
    }
    for member in &rollout.members {
        text += &trouble(member);
    }
    text += &left_out(&rollout.left_out);
    text + &sentence(&format!("{}.", devices_by_state(&rollout.members)))
}

/// What became of a device that did not succeed, or waits, and what to do.
fn trouble(member: &MemberView) -> String {
    let mut text = String::new();
    if !matches!(kind_of(&member.state), Kind::Bad | Kind::Waits)
        || (member.text.is_none() && member.next_step.is_none())
    {
        return text;
    }
    text += &sentence(&member.name);
    if let Some(what) = &member.text {
        text += &fact_in(2, "what", &safe(what));
    }
    if let Some(next_step) = member
        .next_step
        .as_ref()
        .filter(|next_step| !next_step.is_empty())
    {
        text += &fact_in(2, "next", &safe(next_step));
    }
    text
}

fn rules(rules: &RulesView) -> String {
    let mut words = Vec::new();
    if rules.canary > 0 {
        words.push(format!(
            "{} first, up for {}",
            counted(rules.canary as usize, "device"),
            length(rules.canary_soak_s)
        ));
    }
    words.push(format!("{} at once", rules.at_once));
    words.push(format!("up for {}", length(rules.soak_s)));
    words.push(format!("halts at {} failed", rules.max_failures));
    if let Some(until_ms) = rules.when_back_until_ms {
        let now_ms = engine::Clock.now().wall_ms;
        words.push(if until_ms > now_ms {
            format!(
                "offline ones may come back for {} more",
                about(between(now_ms, until_ms).as_secs())
            )
        } else {
            "offline ones are not waited for any more".to_owned()
        });
    }
    words.join(" · ")
}

/// How it stands after somebody has changed it.
pub(super) fn standing_now(rollout: &RolloutView) -> String {
    let summary = &rollout.summary;
    let mut text = format!("{} is {}. ", title(summary), summary.state);
    text += &devices_by_state(&rollout.members);
    text.push('.');
    let n_running = n_of(rollout, Kind::Runs);
    if summary.state == "paused" && n_running > 0 {
        let _ = write!(text, " What is in progress is finished; nothing more begins.");
    }
    sentence(&text)
}

/// What an abort has done.
pub(super) fn aborted(rollout: &RolloutView) -> String {
    let mut text = format!(
        "{} is {}. {}.",
        title(&rollout.summary),
        rollout.summary.state,
        devices_by_state(&rollout.members)
    );
    if n_of(rollout, Kind::Runs) > 0 {
        let _ = write!(
            text,
            " What is in progress is finished, so that no device is left half written: \
            `reflash rollout watch {}` shows it.",
            rollout.summary.id
        );
    }
    sentence(&text)
}

/// What was stopped.
pub(super) fn stopped(rollouts: &[RolloutSummaryView]) -> String {
    let mut text = sentence(&format!("{} stopped:", counted(rollouts.len(), "rollout")));
    for rollout in rollouts {
        let counts = counts(rollout.counts.iter().map(|(state, n)| (state.as_str(), *n)));
        let _ = writeln!(
            text,
            "  {}",
            wrapped(&safe(&format!("{}: {counts}", title(rollout))), 2, WIDTH)
        );
    }
    let in_progress = |rollout: &&RolloutSummaryView| {
        rollout
            .counts
            .iter()
            .any(|(state, n)| *n > 0 && kind_of(state) == Kind::Runs)
    };
    if rollouts.iter().any(|rollout| in_progress(&rollout)) {
        text += &sentence("What is in progress is finished, so that no device is left half written.");
    }
    text
}

fn n_of(rollout: &RolloutView, kind: Kind) -> usize {
    rollout
        .members
        .iter()
        .filter(|member| kind_of(&member.state) == kind)
        .count()
}
