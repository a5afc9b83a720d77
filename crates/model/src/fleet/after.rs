//! What comes after the end of a job: a device is put back, an end is corrected, an image is in quarantine.

use super::counts::is_worth_another_try;
use super::{Command, Ended, Fleet, MemberState, Rollout, State, is_failure};
use crate::id::{DeviceId, RolloutId, Sha256};
use crate::outcome::{BOOT_LOOP, Ending, Outcome};
use crate::plan::{Member, Reason};
use crate::time::Now;

/// So many jobs may fail to reach a device that is to be put back: it answers for moments only. None of these sends it a byte.
/// Guess: enough to meet one that restarts every few seconds.
const MAX_MISSES: u8 = 5;

/// Whether a device that ended so is to be put back: it is of no use as it is, and yet it answers between two restarts.
///
/// One that stays silent is not: nobody can push to it, and when it is back it may well run the new image.
fn is_of_no_use(outcome: &Outcome) -> bool {
    outcome.ending == Ending::Failed && outcome.reason.as_deref() == Some(BOOT_LOOP)
}

impl Rollout {
    fn planned(&self, idx: u32) -> Option<&Member> {
        self.plan.members.get(usize::try_from(idx).ok()?)
    }

    /// How a member stands whose job has ended for good.
    pub(super) fn end_or_put_back(&self, idx: u32, outcome: Outcome, now: Now) -> MemberState {
        if !self.plan.rules.put_back || !is_of_no_use(&outcome) {
            return MemberState::Ended(Ended::Outcome(outcome));
        }
        match self.no_way_back(idx) {
            Some(why) => MemberState::Ended(Ended::Outcome(not_put_back(outcome, &why))),
            None => MemberState::PuttingBack {
                since: now,
                n_missed: 0,
                failed: outcome,
            },
        }
    }

    /// Why a member cannot be put back; none where it can.
    fn no_way_back(&self, idx: u32) -> Option<String> {
        let (member, standing) = self.planned(idx).zip(self.standing(idx))?;
        if let Some(leave) = &standing.leave {
            return Some(why_left(leave));
        }
        if self.state() == State::Aborted {
            return Some("its rollout was ended".to_owned());
        }
        match member.way_back {
            None => Some(format!("the image of {} is not kept here", member.runs)),
            Some(image) if image == member.image => {
                Some("what it ran before is the very image that fails".to_owned())
            }
            Some(_) => None,
        }
    }

    /// The command that puts a member back.
    pub(super) fn command_to_put_back(&self, id: RolloutId, idx: u32) -> Option<Command> {
        let device = self.planned(idx)?.device.clone();
        Some(Command::PutBack { id, device })
    }

    /// How a member stands after the job that was to put it back; none where it was no such job.
    pub(super) fn put_back(
        &mut self,
        idx: u32,
        outcome: &Outcome,
        n_pushes: u8,
        now: Now,
    ) -> Option<MemberState> {
        let (member, standing) = self.planned(idx).zip(self.standing(idx))?;
        let MemberState::PuttingBack { n_missed, failed, .. } = &standing.state else {
            return None;
        };
        let is_missed = outcome.ending == Ending::Failed
            && is_worth_another_try(outcome.ending, outcome.reason.as_deref());
        let may_go_on = standing.leave.is_none() && n_missed + 1 < MAX_MISSES;
        let state = if is_missed && may_go_on {
            MemberState::PuttingBack {
                since: now,
                n_missed: n_missed + 1,
                failed: failed.clone(),
            }
        } else {
            let ended = put_back(failed.clone(), &member.runs, outcome);
            MemberState::Ended(Ended::Outcome(ended))
        };
        self.change(idx, |standing| {
            standing.n_tries = standing.n_tries.saturating_add(1);
            standing.n_pushes = standing.n_pushes.saturating_add(n_pushes);
        });
        Some(state)
    }

    /// Halts, if it would bring this image to one more device.
    pub(super) fn halt_for(&mut self, image: Sha256, reason: &Reason) {
        let mut members = self.plan.members.iter().zip(&self.members);
        let concerns = members.any(|(member, standing)| {
            let is_open = !matches!(
                standing.state,
                MemberState::Ended(_) | MemberState::PuttingBack { .. }
            );
            is_open && member.image == image
        });
        if concerns && !matches!(self.state(), State::Finished | State::Aborted) {
            self.steer(|course| {
                course.state = State::Halted;
                course.cause = Some(reason.clone());
            });
        }
    }
}

impl Fleet {
    /// What was not proven is known by now. It changes what is counted, and nothing else: a rollout that has halted waits for
    /// its owner, and no job begins again.
    pub(super) fn correct(&mut self, id: RolloutId, device: &DeviceId, outcome: Outcome) {
        let Some(rollout) = self.rollouts.get_mut(&id) else {
            return;
        };
        let place = rollout
            .plan
            .members
            .iter()
            .position(|member| member.device == *device);
        let Some(idx) = place.and_then(|idx| u32::try_from(idx).ok()) else {
            return;
        };
        let Some(standing) = rollout.standing(idx) else {
            return;
        };
        let is_unproven = matches!(
            &standing.state,
            MemberState::Ended(Ended::Outcome(outcome)) if outcome.ending == Ending::Unverified
        );
        if !is_unproven {
            return;
        }
        if standing.forgiven && !is_failure(outcome.ending) {
            rollout.change(idx, |standing| standing.forgiven = false);
            rollout.steer(|course| course.forgiven = course.forgiven.saturating_sub(1));
        }
        self.put(id, idx, MemberState::Ended(Ended::Outcome(outcome)));
    }
}

/// Why a member that runs was to be left as it is, to go on a sentence.
pub(super) fn why_left(leave: &Ended) -> String {
    match leave {
        Ended::Skipped(reason) | Ended::MissedWindow(reason) => {
            let text = reason.text.trim_end_matches('.');
            let mut letters = text.chars();
            let first = letters.next().map(|first| first.to_lowercase().to_string());
            format!("{}{}", first.unwrap_or_default(), letters.as_str())
        }
        Ended::Cancelled | Ended::Outcome(_) => "its owner has called it off".to_owned(),
    }
}

/// The end of a device that was to be put back and could not be.
pub(super) fn not_put_back(failed: Outcome, why: &str) -> Outcome {
    Outcome {
        text: format!("{} It was not put back: {why}.", failed.text),
        next_step: Some(
            "Bring the image that it ran before (reflash firmware add FILE) and go back to it: reflash rollback DEVICE --to VERSION. \
             If it answers too rarely for that, it needs a cable."
                .to_owned(),
        ),
        ..failed
    }
}

/// The end of a device that was put back, or was tried to be.
fn put_back(failed: Outcome, runs: &str, back: &Outcome) -> Outcome {
    let next_step = "The new image does not run on this device. Do not push it again; ask its author.";
    let (text, next_step) = match back.ending {
        Ending::Updated | Ending::AlreadyCurrent => {
            (format!("It was put back to {runs}."), next_step.to_owned())
        }
        Ending::UpdatedLabelUnchanged => (
            format!("It was put back to {runs}, as far as its label can tell."),
            next_step.to_owned(),
        ),
        ending => {
            let reason = back.reason.as_ref().map(|reason| format!(" ({reason})"));
            let text = format!(
                "It was to be put back to {runs}, which ended as {}{}: {}",
                ending.name(),
                reason.unwrap_or_default(),
                back.text
            );
            let cable = "Look at the device; this is not tried again by itself. If it does not take images any more, it needs a cable.";
            (text, back.next_step.clone().unwrap_or_else(|| cable.to_owned()))
        }
    };
    Outcome {
        text: format!("{} {text}", failed.text),
        next_step: Some(next_step),
        ..failed
    }
}
