//! A job that ended as `unverified`, judged once more by what is seen of its device later.
//!
//! The rules are those of the job itself, by the family's own judgement, and one is added: a label that cannot tell proves
//! nothing, the less the later it is seen.

use std::time::Duration;

use super::next::sender_lost;
use super::{BOOT_MOMENT_TOLERANCE, Job, Look, Phase, Proof};
use crate::device::Snapshot;
use crate::family::{Label, Verdict};
use crate::installed::Installed;
use crate::outcome::{Away, End, Ending, MISMATCH, NO_RETURN, NOT_APPLIED, Outcome, outcome};
use crate::plan::sentences::about;
use crate::time::Now;

/// How much two clocks may drift apart, one part of this many. Guess: a thousand parts in a million, ten times what a bad
/// crystal does.
const DRIFT: u32 = 1_000;

/// What has become known of a job that was not proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// The job, with its outcome and evidence as they are now.
    pub job: Job,
    /// What becomes of the record of what the device runs.
    pub record: Record,
}

/// What becomes of the record of what a device runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// It stays as it is.
    Keep,
    /// This is what it runs.
    Set(Installed),
    /// Nothing was recorded before the job, and that is true again.
    Clear,
}

/// How the last push of a job ended, from its states as they were stored, the oldest first; none if it never pushed.
pub fn end_in<'a>(states: impl DoubleEndedIterator<Item = &'a Job>) -> Option<End> {
    states.rev().find_map(|job| match &job.phase {
        Phase::Watching { end, .. } => Some(end.clone()),
        Phase::Soaking(soak) => Some(soak.end.clone()),
        // Stored is the intent; if more had been, it would have come first.
        Phase::CommittingIntent | Phase::Pushing => Some(sender_lost()),
        Phase::Undoing { .. } | Phase::Finished { .. } if job.order.proof == Proof::NotAsked => {
            let text = job.evidence.verdict.clone()?;
            Some(End::Accepted(Verdict { text }))
        }
        _ => None,
    })
}

/// Judges a job that ended as `unverified` by a later look at its device; none where that proves nothing.
///
/// `ended` is when it ended. Where the machine has started anew since, `same_boot` is false, and only an uptime that is
/// shorter than before tells of a restart.
pub fn reconsider(
    job: &Job,
    end: &End,
    (snapshot, label): (Snapshot, &Label),
    (ended, now): (Now, Now),
    same_boot: bool,
) -> Option<Correction> {
    let was = job.outcome().filter(|was| was.ending == Ending::Unverified)?;
    // Somebody else's hands: what is seen later proves nothing of this push.
    if was.reason.as_deref() == Some(MISMATCH) || snapshot.id != job.order.device {
        return None;
    }
    let look = Look::new(snapshot, now);
    let before = job.evidence.before.as_ref()?;
    let restarted = if same_boot && !before.earlier_boot {
        restarted(before, &look)
    } else {
        (look.snapshot.uptime < before.snapshot.uptime && look.snapshot.uptime.is_some()).then_some(true)
    };
    let went = was.reason.as_deref() == Some(NO_RETURN) && matches!(end, End::Accepted(_));
    let away = match restarted {
        Some(true) => Away::Restarted,
        Some(false) => Away::Stayed,
        None if went => Away::Restarted,
        None => Away::Untold,
    };
    let cannot_tell = matches!(label, Label::Unmoved | Label::Same);
    let old_seen = cannot_tell || *label == Label::Old;
    // "It never restarted and runs the old one": both must have been seen.
    let claims_too_much = |judged: &Outcome| {
        judged.reason.as_deref() == Some(NOT_APPLIED) && !(away == Away::Stayed && old_seen)
    };
    let judged = outcome(end, away, label);
    if judged.ending == Ending::Unverified
        || (cannot_tell && judged.ending.is_success())
        || claims_too_much(&judged)
    {
        return None;
    }
    let seen = about(Duration::from_millis(
        u64::try_from(now.wall_ms.saturating_sub(ended.wall_ms)).unwrap_or(0),
    ));
    let outcome = Outcome {
        text: format!("It was seen again about {seen} after its update. {}", judged.text),
        reason: judged.reason.or_else(|| Some("seen later".to_owned())),
        ..judged
    };
    let mut job = job.clone();
    job.evidence.after = Some(look);
    job.phase = Phase::Finished { outcome };
    let record = record(&job);
    Some(Correction { job, record })
}

/// Whether the device has restarted between two looks that may be a day apart; none where that cannot be told.
fn restarted(before: &Look, later: &Look) -> Option<bool> {
    let (was, is) = (before.snapshot.uptime?, later.snapshot.uptime?);
    if before.stands_still_until(later) {
        return None;
    }
    let passed = later.at.since(before.at);
    let expected = was.saturating_add(passed);
    let tolerance = BOOT_MOMENT_TOLERANCE + passed / DRIFT;
    if is < was || is.saturating_add(tolerance) < expected {
        Some(true)
    } else {
        (is <= expected.saturating_add(tolerance)).then_some(false)
    }
}

/// What the corrected end says of what the device runs.
fn record(job: &Job) -> Record {
    match job.outcome().map(|outcome| outcome.ending) {
        Some(Ending::Updated | Ending::UpdatedLabelUnchanged) => {
            job.record_after().map_or(Record::Keep, Record::Set)
        }
        // As it was before the job: that is what was seen.
        Some(Ending::KeptOld | Ending::RolledBack | Ending::Cancelled) => {
            job.order.record.clone().map_or(Record::Clear, Record::Set)
        }
        _ => Record::Keep,
    }
}
