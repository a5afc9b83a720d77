//! Why a rollout waits, and for how long.

use model::fleet::{MemberState, Rollout, State};
use model::time::Now;

use super::clock::Verdict;
use super::window;
use crate::views::{RefusalView, RolloutWindowView};

/// When the window of a rollout opens; none while it is open, or where nothing waits for it.
pub(super) fn opens_ms(rollout: &Rollout, now: Now) -> Option<i64> {
    let waits = !rollout.is_over() && !rollout.is_open(now);
    let next = waits.then(|| rollout.opening().next).flatten();
    next.map(|next| next.wall_ms)
}

/// The window of a rollout, and when it opens.
pub(super) fn window_view(rollout: &Rollout, now: Now) -> Option<RolloutWindowView> {
    let window = rollout.plan().rules.window.as_ref()?;
    let opening = rollout.opening();
    let zone = window::zone(window.timezone.as_deref()).filter(|_| !rollout.is_over());
    let opening = zone.map(|zone| {
        let until = opening.until.filter(|_| rollout.is_open(now));
        let ms = |moment: Option<Now>| moment.map(|moment| moment.wall_ms);
        window::opening_view(&zone, ms(until), ms(opening.next))
    });
    Some(RolloutWindowView {
        name: window.name.clone(),
        opens: window.words(),
        opening: opening.unwrap_or_default(),
    })
}

/// Why nothing of a rollout begins now, though devices wait and nothing goes on.
pub(super) fn held(rollout: &Rollout, now: Now, verdict: Verdict) -> Option<RefusalView> {
    let waits = |state: &MemberState| matches!(state, MemberState::Queued | MemberState::Waiting { .. });
    let members = rollout.members();
    let goes_on = members.iter().any(|standing| standing.state.is_running());
    if rollout.is_over() || goes_on || !members.iter().any(|standing| waits(&standing.state)) {
        return None;
    }
    let held = |rule: &str, text: String, next_step: &str| {
        Some(RefusalView {
            rule: rule.to_owned(),
            text,
            next_step: next_step.to_owned(),
        })
    };
    if let State::Paused | State::Halted = rollout.state() {
        let text = format!("It is {}, so nothing begins.", rollout.state().name());
        return held(
            rollout.state().name(),
            text,
            "Let it go on: reflash rollout resume.",
        );
    }
    if let Some(window) = &rollout.plan().rules.window {
        let zone = window::zone(window.timezone.as_deref());
        if let Some(trouble) = window::trouble(window.timezone.as_deref(), verdict) {
            return Some(trouble);
        }
        let name = &window.name;
        let at = |moment: Option<Now>| window::spoken(zone.as_ref()?, moment?.wall_ms);
        if !rollout.is_open(now) {
            let text = match at(rollout.opening().next) {
                Some(next) => format!("The window {name} is closed; it opens at {next}."),
                None => format!("The window {name} is closed, and does not open again."),
            };
            return held(
                "window",
                text,
                "Wait for it, or abort this and begin one without a window.",
            );
        }
        let is_late = |place: usize| rollout.waits_for_window(place, now);
        let mut online = (0..members.len()).filter(|place| {
            let standing = &members[*place];
            standing.online && waits(&standing.state)
        });
        if online.clone().next().is_some() && online.all(is_late) {
            let closes = at(rollout.opening().until).unwrap_or_default();
            let text = format!("The window {name} closes at {closes}: no update would have ended by then.");
            return held("window", text, "Wait for its next opening, or make it longer.");
        }
    }
    let mut waiting = members.iter().filter(|standing| waits(&standing.state));
    if waiting.all(|standing| !standing.online) {
        let text = "No device that waits answers.".to_owned();
        return held(
            "offline",
            text,
            "Switch them on; each is updated when it is back.",
        );
    }
    if members
        .iter()
        .any(|standing| matches!(standing.state, MemberState::Waiting { .. }))
    {
        let text = "A try has failed, and the next one comes soon.".to_owned();
        return held("retry", text, "Wait half a minute.");
    }
    None
}
