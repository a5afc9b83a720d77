//! What is counted of a rollout, so that no step has to look at all of its members.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Changes, Ended, MemberState, Rollout, Standing};
use crate::id::RolloutId;
use crate::outcome::Ending;

/// Sums over the members; [`Rollout::recount`] keeps them true.
#[derive(Clone, Debug, Default)]
pub(super) struct Derived {
    /// What each member adds to the sums.
    shares: Vec<Share>,
    /// Members that have not ended.
    pub(super) n_open: u32,
    /// Members whose job runs.
    pub(super) n_running: u32,
    /// Members that do not answer and are waited for.
    pub(super) n_away: u32,
    /// Members that have failed.
    pub(super) n_failed: u32,
    /// Canaries that have succeeded.
    pub(super) n_proven: u32,
    /// Canaries that have succeeded or still can, as things are.
    pub(super) n_places: u32,
    /// For each wave the members that later ones wait for.
    n_holding: BTreeMap<u32, u32>,
    /// Members that may begin as soon as their wave and group let them, by group, wave and place.
    pub(super) ready: BTreeMap<Option<String>, BTreeSet<(u32, u32)>>,
    /// When members that wait for another try may begin, on the clock of this boot.
    pub(super) waits: BTreeSet<(Duration, u32)>,
    /// Full looks at the throughput in a row, and the most that was seen in them.
    pub(super) n_full_looks: u8,
    pub(super) rate_peak: u64,
    course_changed: bool,
    members_changed: BTreeSet<u32>,
}

/// What one member adds to the sums.
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each sum, independent of each other"
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    open: bool,
    running: bool,
    away: bool,
    failed: bool,
    proven: bool,
    place: bool,
    holds_up: Option<u32>,
    ready: Option<u32>,
    waits: Option<Duration>,
}

impl Share {
    fn of(standing: &Standing, is_canary: bool, is_busy_elsewhere: bool) -> Self {
        let Standing {
            state, wave, online, ..
        } = standing;
        let (wave, online) = (*wave, *online);
        match state {
            MemberState::Ended(ended) => {
                let proven =
                    is_canary && matches!(ended, Ended::Outcome(outcome) if outcome.ending.is_success());
                Self {
                    failed: ended.is_failure(),
                    proven,
                    place: proven,
                    ..Self::default()
                }
            }
            MemberState::Running { .. } => Self {
                open: true,
                running: true,
                place: is_canary,
                holds_up: Some(wave),
                ..Self::default()
            },
            MemberState::PuttingBack { .. } => Self {
                open: true,
                running: true,
                failed: true,
                holds_up: Some(wave),
                ..Self::default()
            },
            MemberState::Queued | MemberState::Waiting { .. } => Self {
                open: true,
                away: !online,
                place: is_canary && online,
                holds_up: online.then_some(wave),
                ready: (online && !is_busy_elsewhere && *state == MemberState::Queued).then_some(wave),
                waits: match state {
                    MemberState::Waiting { until } => Some(until.boot),
                    _ => None,
                },
                ..Self::default()
            },
        }
    }
}

impl Rollout {
    /// Makes the sums true again after this member has changed.
    pub(super) fn recount(&mut self, idx: u32, is_busy_elsewhere: bool) {
        let Some((standing, place)) = self.standing(idx).zip(usize::try_from(idx).ok()) else {
            return;
        };
        let share = Share::of(standing, self.is_canary(standing), is_busy_elsewhere);
        let sums = &mut self.derived;
        sums.shares.resize(self.members.len(), Share::default());
        let before = std::mem::replace(&mut sums.shares[place], share);
        if before == share {
            return;
        }
        let count = |sum: &mut u32, before: bool, now: bool| {
            *sum = *sum + u32::from(now) - u32::from(before);
        };
        count(&mut sums.n_open, before.open, share.open);
        count(&mut sums.n_running, before.running, share.running);
        count(&mut sums.n_away, before.away, share.away);
        count(&mut sums.n_failed, before.failed, share.failed);
        count(&mut sums.n_proven, before.proven, share.proven);
        count(&mut sums.n_places, before.place, share.place);
        if let Some(n_holding) = before.holds_up.and_then(|wave| sums.n_holding.get_mut(&wave)) {
            *n_holding -= 1;
        }
        if let Some(wave) = share.holds_up {
            *sums.n_holding.entry(wave).or_default() += 1;
        }
        let group = &self.plan.members[place].group;
        if let Some(wave) = before.ready
            && let Some(ready) = sums.ready.get_mut(group)
        {
            ready.remove(&(wave, idx));
            if ready.is_empty() {
                sums.ready.remove(group);
            }
        }
        if let Some(wave) = share.ready {
            sums.ready.entry(group.clone()).or_default().insert((wave, idx));
        }
        if let Some(until) = before.waits {
            sums.waits.remove(&(until, idx));
        }
        if let Some(until) = share.waits {
            sums.waits.insert((until, idx));
        }
    }

    /// One member, by its place in the plan.
    pub(super) fn standing(&self, idx: u32) -> Option<&Standing> {
        self.members.get(usize::try_from(idx).ok()?)
    }

    /// Members that hold up whatever comes after this wave.
    pub(super) fn n_holding_up_to(&self, wave: u32) -> u32 {
        self.derived.n_holding.range(..=wave).map(|(_, n)| n).sum()
    }

    /// Changes the course, to be stored if it differs.
    pub(super) fn steer(&mut self, change: impl FnOnce(&mut super::Course)) {
        let before = self.course.clone();
        change(&mut self.course);
        self.derived.course_changed |= self.course != before;
    }

    /// Changes a member, to be stored; the sums follow only with [`Rollout::recount`].
    pub(super) fn change(&mut self, idx: u32, change: impl FnOnce(&mut Standing)) {
        if let Some(standing) = usize::try_from(idx)
            .ok()
            .and_then(|idx| self.members.get_mut(idx))
        {
            change(standing);
            self.derived.members_changed.insert(idx);
        }
    }

    /// Whether an image was proven on enough canaries, or there are none.
    pub(super) fn is_proven(&self) -> bool {
        self.derived.n_proven >= self.plan.n_canaries
    }

    pub(super) fn take_changes(&mut self, id: RolloutId) -> Option<Changes> {
        let changes = Changes {
            id,
            course: std::mem::take(&mut self.derived.course_changed),
            members: std::mem::take(&mut self.derived.members_changed)
                .into_iter()
                .collect(),
        };
        (changes.course || !changes.members.is_empty()).then_some(changes)
    }
}

/// Whether another try could end better: nobody was reached, or the device was seen to run what it ran before.
pub(super) fn is_worth_another_try(ending: Ending, reason: Option<&str>) -> bool {
    use crate::family::Reason;
    match ending {
        Ending::KeptOld => true,
        Ending::Failed => [Reason::NoAnswer, Reason::NoCallBack]
            .iter()
            .any(|worth| Some(worth.name()) == reason),
        _ => false,
    }
}
