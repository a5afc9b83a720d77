//! Who is in, who is not, and who comes when.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{Choice, Facts, LeftOut, Member, Note, Plan, Reason, Rules};
use crate::inventory::State;

/// So many followers of the canary are one wave; more are three (RELIABILITY.md 5, 16).
const ONE_WAVE_UP_TO: usize = 10;

/// Shares of the followers that have been asked to begin by the end of each wave, of a hundred (RELIABILITY.md 5, 16).
const WAVES_PERCENT: [usize; 3] = [10, 50, 100];

/// A weaker signal is worth a note, dBm. Guess: below this transfers of minutes tend to break off; to be measured on devices.
const WEAK_SIGNAL_DBM: i32 = -80;

/// Decides for each device whether it is updated, and when. A device that is given twice counts once.
pub fn plan(facts: &[Facts], rules: Rules) -> Plan {
    let n_facts = facts.len();
    let mut seen = BTreeSet::new();
    let mut left_out = Vec::new();
    let mut candidates = Vec::new();
    for facts in facts {
        if !seen.insert(&facts.device) {
            continue;
        }
        match judge(facts, &rules, n_facts) {
            Ok(choice) => candidates.push((facts, choice)),
            Err(reason) => left_out.push(LeftOut {
                device: facts.device.clone(),
                name: facts.name.clone(),
                reason,
            }),
        }
    }
    let n_canaries = if candidates.len() > 1 {
        rules
            .canary
            .min(u32::try_from(candidates.len()).unwrap_or(u32::MAX))
    } else {
        0
    };
    let waves = waves(&candidates, n_canaries);
    let n_waves = waves.iter().max().map_or(0, |last| last + 1);
    let mut members: Vec<Member> = candidates
        .iter()
        .zip(waves)
        .map(|((facts, choice), wave)| member(facts, choice, wave))
        .collect();
    members.sort_by(|a, b| (a.wave, a.was_offline, &a.device).cmp(&(b.wave, b.was_offline, &b.device)));
    left_out.sort_by(|a, b| a.device.cmp(&b.device));
    Plan {
        members,
        left_out,
        n_waves,
        n_canaries,
        rules,
    }
}

fn is_online(facts: &Facts) -> bool {
    facts.standing == State::Online
}

/// Whether a device is updated; the first reason against it counts.
fn judge<'a>(facts: &'a Facts, rules: &Rules, n_facts: usize) -> Result<&'a Choice, Reason> {
    if facts.excluded {
        return Err(Reason::new(
            "excluded",
            "It was excluded by name.",
            "To update it as well, take it off --exclude.",
        ));
    }
    if let Some(conflict) = &facts.conflict {
        return Err(Reason::new(
            "conflict",
            conflict.clone(),
            "Solve the conflict first: reflash device show tells between whom it is.",
        ));
    }
    if !facts.enrolled {
        return Err(Reason::new(
            "not-enrolled",
            "It was found, but nobody has said that it belongs to you.",
            format!(
                "If it is yours, enrol it first: reflash device enroll {}",
                facts.device.key()
            ),
        ));
    }
    if let Some(rollout) = facts.busy_with {
        return Err(Reason::new(
            "busy",
            format!("It is part of rollout {rollout}, which is not over."),
            format!("Wait until that has ended, or end it: reflash rollout abort {rollout}"),
        ));
    }
    let choice = facts.choice.as_ref().map_err(Clone::clone)?;
    if let Some(reason) = too_long_for_its_window(choice, rules, n_facts) {
        return Err(reason);
    }
    if is_online(facts) || rules.when_back_until_ms.is_some() {
        return Ok(choice);
    }
    let next_step = "To update it when it is back, add --when-back 12h.";
    Err(match facts.standing {
        State::Unreadable => Reason::new(
            "unreadable",
            "Something answers in its place, but not in a way that can be read.",
            "Look at it with: reflash device show. To update it when it can be read again, add --when-back 12h.",
        ),
        State::Unknown => Reason::new("offline", "It was never reached.", next_step),
        State::Offline | State::Online => Reason::new("offline", "It does not answer.", next_step),
    })
}

/// Why an update would never begin, if it fits into no opening of its window: whoever may go first soaks as a canary.
fn too_long_for_its_window(choice: &Choice, rules: &Rules, n_facts: usize) -> Option<Reason> {
    let window = rules.window.as_ref()?;
    let soak = if rules.canary > 0 && n_facts > 1 {
        rules.soak.max(rules.canary_soak)
    } else {
        rules.soak
    };
    let needed = choice.estimate.saturating_add(soak);
    if needed <= window.duration {
        return None;
    }
    Some(Reason::new(
        "window-too-short",
        format!(
            "Its update takes about {} with the time that it is watched, and the window {} is open for {}.",
            super::sentences::about(needed),
            window.name,
            super::sentences::about(window.duration)
        ),
        "Choose a longer window, or a shorter --soak and --canary-soak.",
    ))
}

/// The wave of each candidate, in their order.
fn waves(candidates: &[(&Facts, &Choice)], n_canaries: u32) -> Vec<u32> {
    let canaries = canaries(candidates, n_canaries);
    let first = u32::from(n_canaries > 0);
    let mut followers: Vec<usize> = (0..candidates.len())
        .filter(|idx| !canaries.contains(idx))
        .collect();
    followers.sort_by_key(|&idx| {
        let facts = candidates[idx].0;
        (!is_online(facts), &facts.device)
    });
    let n_followers = followers.len();
    let last = WAVES_PERCENT.len() - 1;
    let rough = |place: usize, idx: usize| {
        // Whoever wants nobody to go first wants no caution of this kind at all.
        if n_canaries == 0 || n_followers <= ONE_WAVE_UP_TO || !is_online(candidates[idx].0) {
            return last;
        }
        WAVES_PERCENT
            .iter()
            .position(|percent| place * 100 < n_followers * percent)
            .unwrap_or(last)
    };
    let rough: BTreeMap<usize, usize> = followers
        .iter()
        .enumerate()
        .map(|(place, &idx)| (idx, rough(place, idx)))
        .collect();
    // A wave without members is none.
    let used: BTreeSet<usize> = rough.values().copied().collect();
    let number = |wave: usize| u32::try_from(used.range(..wave).count()).unwrap_or(u32::MAX);
    (0..candidates.len())
        .map(|idx| rough.get(&idx).map_or(0, |&wave| first + number(wave)))
        .collect()
}

/// Who goes first: devices that answer, of the model that most share, the best signal first.
fn canaries(candidates: &[(&Facts, &Choice)], n_canaries: u32) -> BTreeSet<usize> {
    let kind = |facts: &Facts| (facts.device.family.clone(), facts.model.clone());
    let mut n_of: BTreeMap<_, usize> = BTreeMap::new();
    for (facts, _) in candidates {
        *n_of.entry(kind(facts)).or_default() += 1;
    }
    let mut online: Vec<usize> = (0..candidates.len())
        .filter(|&idx| is_online(candidates[idx].0))
        .collect();
    online.sort_by_cached_key(|&idx| {
        let facts = candidates[idx].0;
        let kind = kind(facts);
        // One that tells no signal comes after those that do.
        let signal_dbm = facts.signal_dbm.unwrap_or(i32::MIN);
        (
            Reverse(n_of[&kind]),
            kind,
            Reverse(signal_dbm),
            facts.device.clone(),
        )
    });
    online.truncate(usize::try_from(n_canaries).unwrap_or(usize::MAX));
    online.into_iter().collect()
}

fn member(facts: &Facts, choice: &Choice, wave: u32) -> Member {
    let mut notes = Vec::new();
    let mut note = |rule: &str, text: String| {
        notes.push(Note {
            rule: rule.to_owned(),
            text,
        });
    };
    if choice.way_back.is_none() {
        note(
            "no-way-back",
            "What it runs now is not kept here, so that could not be pushed again.".to_owned(),
        );
    }
    if choice.weak {
        note(
            "weak-identity",
            "Its identity is weak, so its version and model are compared once more just before the push."
                .to_owned(),
        );
    }
    if let Some(signal_dbm) = facts.signal_dbm.filter(|&dbm| dbm < WEAK_SIGNAL_DBM) {
        note(
            "weak-signal",
            format!("Its signal is weak ({signal_dbm} dBm), so the transfer may break off."),
        );
    }
    Member {
        device: facts.device.clone(),
        name: facts.name.clone(),
        runs: facts.runs.clone(),
        image: choice.image,
        image_name: choice.image_name.clone(),
        len_bytes: choice.len_bytes,
        methods: choice.methods.clone(),
        estimate: choice.estimate,
        wave,
        group: facts.group.clone(),
        was_offline: !is_online(facts),
        way_back: choice.way_back,
        interrupts: choice.interrupts.clone(),
        notes,
    }
}
