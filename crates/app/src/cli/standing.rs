//! How a device stands in a rollout, and how rollouts and their devices are called, in words.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;
use server::views::{LeftOutView, MemberView, RolloutKind, RolloutSummaryView};

use super::show::{counted, fact_in, safe, sentence, spoken};

/// Names of devices that are told for one reason before the rest is only counted.
const N_NAMES_SHOWN: usize = 8;

/// What a state's word means for who waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It has not begun, or begins again.
    Waits,
    /// It is going on, or it is a word of a newer server.
    Runs,
    /// It is proven to run the image.
    Good,
    /// It ran the image before.
    Nothing,
    /// It is over, and not as it was meant to be.
    Bad,
}

/// What the word of a state means.
pub(super) fn kind_of(state: &str) -> Kind {
    match state {
        "queued" | "waiting" => Kind::Waits,
        "updated" | "updated-label-unchanged" => Kind::Good,
        "already-current" => Kind::Nothing,
        "kept-old" | "rolled-back" | "failed" | "unverified" | "refused" | "skipped" | "cancelled"
        | "missed-window" => Kind::Bad,
        _ => Kind::Runs,
    }
}

/// A state for people: `updated (label unchanged)`, `kept old (upload cut)`.
pub(super) fn state_words(state: &str, reason: Option<&str>) -> String {
    let words = match state {
        "updated-label-unchanged" => return "updated (label unchanged)".to_owned(),
        "uploading" => "uploading".to_owned(),
        "rebooting" => "restarting".to_owned(),
        "soaking" => "being watched".to_owned(),
        "restoring" => "being put back".to_owned(),
        "preparing" => "being made ready".to_owned(),
        "looking" => "being looked at".to_owned(),
        other => other.replace('-', " "),
    };
    match reason {
        Some("seen later") => format!("{words} (seen later)"),
        Some(reason) if kind_of(state) != Kind::Good && !reason.is_empty() => format!("{words} ({reason})"),
        _ => words,
    }
}

/// How a device stands, in a few words.
pub(super) fn standing(member: &MemberView) -> String {
    let mut words = state_words(&member.state, member.reason.as_deref());
    if let (Some(percent), "uploading") = (member.percent, member.state.as_str()) {
        let _ = write!(words, " {percent} %");
    }
    words
}

/// How many stand how: `5 updated, 1 failed, 2 in progress, 4 queued`; what has ended comes first.
pub(super) fn counts<'a>(states: impl IntoIterator<Item = (&'a str, u32)>) -> String {
    let mut groups: Vec<(u8, String, u32)> = Vec::new();
    for (state, n) in states {
        if n == 0 {
            continue;
        }
        let (rank, words) = match kind_of(state) {
            Kind::Good => (0, state_words(state, None)),
            Kind::Nothing => (1, state_words(state, None)),
            Kind::Bad => (2, state_words(state, None)),
            Kind::Runs => (3, "in progress".to_owned()),
            Kind::Waits => (4, state_words(state, None)),
        };
        match groups.iter_mut().find(|(_, known, _)| *known == words) {
            Some((_, _, sum)) => *sum += n,
            None => groups.push((rank, words, n)),
        }
    }
    groups.sort_by_key(|(rank, _, _)| *rank);
    let words: Vec<String> = groups
        .into_iter()
        .map(|(_, words, n)| format!("{n} {words}"))
        .collect();
    words.join(", ")
}

/// `12 devices: 5 updated, 7 queued`.
pub(super) fn devices_by_state(members: &[MemberView]) -> String {
    let by_state = counts(members.iter().map(|member| (member.state.as_str(), 1)));
    let devices = counted(members.len(), "device");
    if by_state.is_empty() {
        devices
    } else {
        format!("{devices}: {by_state}")
    }
}

/// What a rollout is called: `Rollout 7`, `Rollout 7 "weekly"`.
pub(super) fn title(rollout: &RolloutSummaryView) -> String {
    match &rollout.name {
        Some(name) => format!("Rollout {} {:?}", rollout.id, safe(name)),
        None => format!("Rollout {}", rollout.id),
    }
}

/// What it does, as a noun.
pub(super) fn kind_words(kind: RolloutKind) -> &'static str {
    match kind {
        RolloutKind::Update => "update",
        RolloutKind::Rollback => "rollback",
    }
}

/// What it does, as a verb in the beginning of a sentence.
pub(super) fn kind_verb(kind: RolloutKind) -> &'static str {
    match kind {
        RolloutKind::Update => "Update",
        RolloutKind::Rollback => "Roll back",
    }
}

/// Whether nothing of it will happen any more.
pub(super) fn is_over(rollout: &RolloutSummaryView) -> bool {
    rollout.ended_ms.is_some() || rollout.state == "finished"
}

/// Where it is among its waves: `wave 2 of 3`; empty where there is but one.
pub(super) fn wave(rollout: &RolloutSummaryView) -> String {
    if rollout.n_waves > 1 {
        let wave = rollout.wave.saturating_add(1).min(rollout.n_waves);
        format!("wave {wave} of {}", rollout.n_waves)
    } else {
        String::new()
    }
}

/// How long something is expected to take: whole minutes, because nobody knows better.
pub(super) fn about(seconds: u64) -> String {
    match seconds.div_ceil(60) {
        minutes @ 0..120 => format!("{} min", minutes.max(1)),
        minutes if minutes % 60 == 0 => format!("{} h", minutes / 60),
        minutes => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

/// How long something took or is to take: seconds where it is short, else whole minutes.
pub(super) fn length(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        _ => about(seconds),
    }
}

/// How long ago or how long, between two moments.
pub(super) fn between(from_ms: i64, until_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(until_ms.saturating_sub(from_ms)).unwrap_or(0))
}

/// Time away, uptimes and versions, as the evidence of a push names them.
pub(super) fn evidence_cells(evidence: &Value) -> [String; 3] {
    let seconds = |name: &str| {
        let seconds = evidence[name].as_f64()?;
        Duration::try_from_secs_f64(seconds).ok().map(spoken)
    };
    let words = |name: &str| evidence[name].as_str().map(str::to_owned);
    let pair = |before: Option<String>, after: Option<String>| match (before, after) {
        (Some(before), Some(after)) => format!("{before} → {after}"),
        (before, after) => before.or(after).unwrap_or_default(),
    };
    [
        seconds("away_s").unwrap_or_default(),
        pair(seconds("uptime_before_s"), seconds("uptime_after_s")),
        pair(words("version_before"), words("version_after")),
    ]
}

/// Names in a row; of very many only the first.
pub(super) fn names(names: &[&str]) -> String {
    let mut text = names[..names.len().min(N_NAMES_SHOWN)].join(", ");
    if names.len() > N_NAMES_SHOWN {
        let _ = write!(text, " and {} more", names.len() - N_NAMES_SHOWN);
    }
    text
}

/// The devices that a plan leaves out, those with one reason together.
pub(super) fn left_out(left_out: &[LeftOutView]) -> String {
    let mut groups: Vec<(&LeftOutView, Vec<&str>)> = Vec::new();
    for device in left_out {
        match groups.iter_mut().find(|(first, _)| first.reason == device.reason) {
            Some((_, names)) => names.push(&device.name),
            None => groups.push((device, vec![&device.name])),
        }
    }
    let mut text = String::new();
    for (first, names) in groups {
        text += &sentence(&format!("Left out: {}", self::names(&names)));
        text += &fact_in(
            2,
            "why",
            &safe(&format!("{} ({})", first.reason.text, first.reason.rule)),
        );
        if !first.reason.next_step.is_empty() {
            text += &fact_in(2, "next", &safe(&first.reason.next_step));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_counted_by_what_people_want_to_know() {
        let states = [
            ("queued", 3),
            ("uploading", 1),
            ("soaking", 2),
            ("failed", 1),
            ("updated-label-unchanged", 1),
            ("updated", 4),
            ("skipped", 0),
        ];
        assert_eq!(
            counts(states),
            "1 updated (label unchanged), 4 updated, 1 failed, 3 in progress, 3 queued"
        );
        assert_eq!(counts([]), "");
    }

    #[test]
    fn only_what_is_proven_is_good() {
        for bad in [
            "kept-old",
            "rolled-back",
            "failed",
            "unverified",
            "refused",
            "skipped",
            "cancelled",
            "missed-window",
        ] {
            assert_eq!(kind_of(bad), Kind::Bad, "{bad}");
        }
        assert_eq!(kind_of("updated"), Kind::Good);
        assert_eq!(kind_of("updated-label-unchanged"), Kind::Good);
        assert_eq!(kind_of("already-current"), Kind::Nothing);
        assert_eq!(kind_of("a word of tomorrow"), Kind::Runs, "it is no success");
    }

    #[test]
    fn estimates_are_whole_minutes() {
        for (seconds, text) in [
            (0, "1 min"),
            (61, "2 min"),
            (7_140, "119 min"),
            (7_200, "2 h"),
            (7_201, "2 h 1 min"),
        ] {
            assert_eq!(about(seconds), text);
        }
    }
}
