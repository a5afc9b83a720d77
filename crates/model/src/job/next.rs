//! The transitions of a job: what is done next, after what was seen.

use std::time::Duration;

use super::{Act, Job, Look, Phase, Proof, Seen, Soak};
use crate::device::{Ota, Snapshot};
use crate::family::{Fault, FaultKind, Label, Reach, Reason, Undo, Verdict};
use crate::id::{DeviceId, Strength};
use crate::installed::Standing;
use crate::outcome::{
    Away, BOOT_LOOP, End, Ending, NOT_APPLIED, Outcome, before_first_byte, no_uptime, not_watched, outcome,
};
use crate::precheck::Precheck;
use crate::time::Now;

/// How often a device is looked at before it is called silent.
const MAX_FIRST_LOOKS: u8 = 3;
/// Pause between two first looks.
const BETWEEN_FIRST_LOOKS: Duration = Duration::from_secs(1);
/// Tries to put things back before it is left to the next command for the device.
const MAX_UNDOS: u8 = 3;
/// Silent looks in a row that can be a restart, on a device that tells no uptime: one may merely be lost. Taste.
const MIN_SILENT_LOOKS: u32 = 2;
/// How long a device is looked for after its job was taken over, however long ago its push was. Taste: several looks.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Restarts within the soak that make a boot loop.
const BOOT_LOOP_RESTARTS: u8 = 2;
/// The next state, and what to do in it.
pub fn next(mut job: Job, seen: Seen, now: Now) -> (Job, Act) {
    if seen == Seen::Restarted {
        return resume(job, now);
    }
    if seen == Seen::Cancel {
        job.cancelled = true;
        return match job.phase {
            Phase::Looking { .. } | Phase::CommittingUndo | Phase::Preparing | Phase::CommittingIntent => {
                not_begun(job, cancelled())
            }
            // The driver is told through `Progress`; later phases have nothing left to stop.
            _ => wait(job),
        };
    }
    match (job.phase.clone(), seen) {
        (Phase::Looking { .. }, Seen::Begun) => (
            job,
            Act::Probe {
                after: Duration::ZERO,
            },
        ),
        (Phase::Looking { n_silent }, Seen::Checked(result)) => checked(job, n_silent, result, now),
        (Phase::CommittingUndo, Seen::Committed) => {
            job.phase = Phase::Preparing;
            (job, Act::Prepare)
        }
        (Phase::Preparing, Seen::Prepared(result)) => prepared(job, result, now),
        (Phase::CommittingIntent, Seen::Committed) => {
            job.phase = Phase::Pushing;
            (job, Act::Push)
        }
        (Phase::CommittingIntent, Seen::NotCommitted) => {
            job.n_pushes = job.n_pushes.saturating_sub(1);
            not_begun(job, not_stored())
        }
        (Phase::Pushing, Seen::Pushed { result, took }) => pushed(job, result, took, now),
        (Phase::Watching { end, since, gone_at }, Seen::Looked(result)) => {
            watched(job, end, since, gone_at, result, now)
        }
        (Phase::Soaking(soak), Seen::Looked(result)) => soaked(job, soak, result, now),
        (Phase::Undoing { outcome, n_tries }, Seen::Undone(result)) => undone(job, outcome, n_tries, &result),
        // Anything else is late or doubled: it changes nothing, and what the phase waits for is asked for again.
        _ => wait(job),
    }
}

/// What the phase waits for.
fn wait(job: Job) -> (Job, Act) {
    let act = match &job.phase {
        Phase::Looking { .. } => Act::Probe {
            after: BETWEEN_FIRST_LOOKS,
        },
        Phase::CommittingUndo => Act::CommitUndo,
        Phase::Preparing => Act::Prepare,
        Phase::CommittingIntent => Act::CommitIntent,
        Phase::Pushing => Act::Push,
        Phase::Watching { .. } | Phase::Soaking(_) => Act::Watch {
            every: job.order.timing.look_every,
        },
        Phase::Undoing { .. } => Act::Undo {
            after: BETWEEN_FIRST_LOOKS,
        },
        Phase::Finished { .. } => Act::Finish,
    };
    (job, act)
}

/// Takes over from a process that is gone. Rule 2: whatever was under way, the device is looked at before it is touched.
fn resume(mut job: Job, now: Now) -> (Job, Act) {
    match job.phase {
        Phase::Looking { .. } | Phase::CommittingUndo | Phase::Preparing => not_begun(job, interrupted()),
        // The intent may have been followed by bytes: what became of them, only the device knows.
        Phase::CommittingIntent | Phase::Pushing => {
            job.bytes_left = true;
            job.phase = Phase::Watching {
                end: sender_lost(),
                since: now,
                gone_at: None,
            };
            let every = job.order.timing.look_every;
            (job, Act::Watch { every })
        }
        // Nobody has looked for a while: one silent look after a long pause is no "no return".
        Phase::Watching { end, since, gone_at } => {
            let longest = job.order.timing.back_within.saturating_sub(LOOK_AGAIN);
            let since = if now.since(since) > longest {
                now.earlier(longest)
            } else {
                since
            };
            job.phase = Phase::Watching { end, since, gone_at };
            wait(job)
        }
        _ => wait(job),
    }
}

/// How a push ended whose sender is gone: all of it may have arrived.
pub(super) fn sender_lost() -> End {
    End::Lost(Fault {
        kind: FaultKind::Unsure,
        reason: Reason::Interrupted,
        text: "The program was stopped while it was sending the image.".to_owned(),
        reach: Reach::Whole,
        failed_answers: 0,
        next_step: None,
        said: None,
    })
}

fn interrupted() -> Outcome {
    Outcome::because(
        Ending::Cancelled,
        "interrupted",
        "The program was stopped before it had sent anything; the device runs what it ran before.",
        "Push again when you like.",
    )
}

fn cancelled() -> Outcome {
    Outcome::because(
        Ending::Cancelled,
        Reason::Cancelled.name(),
        "Cancelled before the first byte; the device runs what it ran before.",
        "Push again when you like.",
    )
}

fn not_stored() -> Outcome {
    Outcome::because(
        Ending::Refused,
        "not stored",
        "What was about to be done could not be stored, so it was not done; the device runs what it ran before.",
        "Look at the room and the rights of the data folder: reflash doctor. Then push again.",
    )
}

/// Ends a job whose push did not begin.
///
/// Before a second push bytes had gone out already, and the old version was seen since: that is what its end must say.
fn not_begun(job: Job, outcome: Outcome) -> (Job, Act) {
    if !job.bytes_left {
        return give_up(job, outcome);
    }
    let reason = outcome.reason.unwrap_or_default();
    let text = format!(
        "A first transfer broke off, and the device was seen to run what it ran before. \
         A second one did not begin: {reason}."
    );
    let ending = match outcome.ending {
        Ending::Cancelled if job.cancelled => Ending::Cancelled,
        _ => Ending::KeptOld,
    };
    let next_step = outcome
        .next_step
        .unwrap_or_else(|| "Push again when you like.".to_owned());
    give_up(job, Outcome::because(ending, reason, text, next_step))
}

/// Puts back what was changed, then ends.
fn give_up(mut job: Job, outcome: Outcome) -> (Job, Act) {
    if job.undo.is_some() {
        job.phase = Phase::Undoing { outcome, n_tries: 0 };
        (
            job,
            Act::Undo {
                after: Duration::ZERO,
            },
        )
    } else {
        job.phase = Phase::Finished { outcome };
        (job, Act::Finish)
    }
}

fn checked(
    mut job: Job,
    n_silent: u8,
    result: Result<(Snapshot, Precheck, Option<Undo>), Fault>,
    now: Now,
) -> (Job, Act) {
    let (snapshot, precheck, undo) = match result {
        Ok(checked) => checked,
        Err(fault) if fault.kind == FaultKind::Unreachable && n_silent + 1 < MAX_FIRST_LOOKS => {
            job.phase = Phase::Looking {
                n_silent: n_silent + 1,
            };
            return (
                job,
                Act::Probe {
                    after: BETWEEN_FIRST_LOOKS,
                },
            );
        }
        Err(fault) => return give_up(job, before_first_byte(&fault)),
    };
    if snapshot.id != job.order.device {
        return give_up(job, other_device(&snapshot.id));
    }
    job.evidence.before = Some(Look::new(snapshot, now));
    job.overridden = precheck
        .overridden
        .iter()
        .map(|refusal| refusal.rule.clone())
        .collect();
    if let Some(first) = precheck.refusals.first() {
        let text = precheck
            .refusals
            .iter()
            .map(|refusal| refusal.text.as_str())
            .collect::<Vec<_>>()
            .join(" ");
        let outcome = Outcome::because(Ending::Refused, first.rule.clone(), text, first.next_step.clone());
        return give_up(job, outcome);
    }
    if precheck.standing == Standing::AlreadyCurrent {
        let doubt = job
            .order
            .record
            .as_ref()
            .is_some_and(|record| !record.label_moves);
        let text = if doubt {
            "This image is the last one that the device took, and its label has not changed since; nothing was sent. \
             To push it all the same, add --force."
        } else {
            "The device runs this image already; nothing was sent. To push it all the same, add --force."
        };
        let outcome = Outcome::plain(Ending::AlreadyCurrent, text);
        return give_up(job, outcome);
    }
    // Rule 1, first half: what must be put back is durable before anything is changed.
    job.undo = undo;
    job.phase = Phase::CommittingUndo;
    (job, Act::CommitUndo)
}

fn other_device(seen: &DeviceId) -> Outcome {
    Outcome::because(
        Ending::Refused,
        Reason::OtherDevice.name(),
        format!("Another device answers at this address now: {seen}."),
        "Find out where the device is now, and push to that address.",
    )
}

fn prepared(mut job: Job, result: Result<Snapshot, Fault>, now: Now) -> (Job, Act) {
    let snapshot = match result {
        Ok(snapshot) => snapshot,
        Err(fault) => return not_begun(job, before_first_byte(&fault)),
    };
    // Rule 4: the identity is read once more just before the push.
    if snapshot.id != job.order.device {
        return not_begun(job, other_device(&snapshot.id));
    }
    let before = job.evidence.before.as_ref();
    let weak = job.order.device.strength == Strength::Weak;
    let as_before = |before: &Look| {
        before.snapshot.versions == snapshot.versions
            && before.snapshot.hardware.model == snapshot.hardware.model
    };
    if weak && !before.is_some_and(as_before) {
        let text = "The device tells no identity of its own, and its model or version is not what it was a moment ago.";
        return not_begun(
            job,
            Outcome::because(
                Ending::Refused,
                Reason::OtherDevice.name(),
                text,
                "Look which device stands at this address, then push again.",
            ),
        );
    }
    if snapshot.ota == Ota::Disabled {
        let fault = Fault::before_push(
            FaultKind::Refused,
            Reason::OtaOff,
            "The device was told to take updates, and still says that it does not.",
        );
        return not_begun(job, before_first_byte(&fault));
    }
    job.evidence.before = Some(Look::new(snapshot, now));
    // Rule 1, second half: intent and number are durable before the first byte.
    job.n_pushes += 1;
    job.phase = Phase::CommittingIntent;
    (job, Act::CommitIntent)
}

fn pushed(mut job: Job, result: Result<Verdict, Fault>, took: Duration, now: Now) -> (Job, Act) {
    job.evidence.push = Some(took);
    let end = match result {
        Ok(verdict) => {
            job.evidence.verdict = Some(verdict.text.clone());
            End::Accepted(verdict)
        }
        Err(fault) if fault.reach == Reach::Nothing => return not_begun(job, before_first_byte(&fault)),
        Err(fault) if fault.kind == FaultKind::Refused && fault.reason != Reason::Cancelled => {
            job.evidence.verdict.clone_from(&fault.said);
            End::Rejected(fault)
        }
        Err(fault) => End::Lost(fault),
    };
    job.bytes_left = true;
    if job.order.proof == Proof::NotAsked && matches!(end, End::Accepted(_)) {
        return give_up(
            job,
            Outcome::because(
                Ending::Unverified,
                "not asked",
                "The device said OK. Whether it runs the image was not looked at, because you said --no-verify.",
                "Leave out --no-verify to have it proven.",
            ),
        );
    }
    // Rule 8: an answer is not an outcome; the device is watched.
    job.phase = Phase::Watching {
        end,
        since: now,
        gone_at: None,
    };
    let every = job.order.timing.look_every;
    (job, Act::Watch { every })
}

fn watched(
    mut job: Job,
    end: End,
    since: Now,
    gone_at: Option<Now>,
    result: Result<(Snapshot, Label), Fault>,
    now: Now,
) -> (Job, Act) {
    let timing = job.order.timing.clone();
    let waited = now.since(since);
    let watch = Act::Watch {
        every: timing.look_every,
    };
    // Somebody else at the address is not our device: it is still away.
    let (snapshot, label) = match result {
        Ok(seen) if seen.0.id == job.order.device => seen,
        unseen => {
            if waited >= timing.back_within {
                return conclude(job, no_return(&end, &unseen));
            }
            job.phase = Phase::Watching {
                end,
                since,
                gone_at: gone_at.or(Some(now)),
            };
            return (job, watch);
        }
    };
    let look = Look::new(snapshot, now);
    let before = job.evidence.before.as_ref();
    let stands_still = gone_at.is_none() && before.is_some_and(|before| before.stands_still_until(&look));
    // This machine has itself restarted meanwhile, and cannot say how long it was away.
    let blind = before.is_some_and(|before| before.is_of_another_boot_than(&look));
    let restarted = before
        .filter(|_| !stands_still)
        .and_then(|before| before.restarted_until(&look))
        // `since` came over as the latest that it can have been.
        .or((blind && look.seems_booted_after(since)).then_some(true));
    // Where no uptime tells, only a silence can: a look that was merely lost must not count as one.
    let was_away = |gone_at: Now| now.since(gone_at) >= timing.look_every * MIN_SILENT_LOOKS;
    let gone_at = gone_at.filter(|gone_at| restarted.is_some() || was_away(*gone_at));
    let said_yes_and_went = gone_at.is_some() && matches!(end, End::Accepted(_));
    let away = match restarted {
        Some(true) => Away::Restarted,
        // It had only just booted before the push, so two moments of boot are too near to be told apart.
        Some(false) if said_yes_and_went && look.seems_booted_after(since) => Away::Restarted,
        Some(false) => Away::Stayed,
        // After a broken push silence proves nothing: the device does not answer while it receives. Neither does it where an
        // uptime could tell of the restart, but for its beginning.
        None if said_yes_and_went && (!blind || look.snapshot.uptime.is_none()) => Away::Restarted,
        None => Away::Untold,
    };
    if let (Away::Restarted, gone_at) = (away, gone_at) {
        let gone_at = gone_at.unwrap_or(since);
        job.evidence.away.get_or_insert(now.since(gone_at));
    }
    let nothing_moved = job
        .evidence
        .before
        .as_ref()
        .is_some_and(|before| before.snapshot.versions == look.snapshot.versions);
    job.evidence.after = Some(look.clone());
    // How long to wait for something that has not been seen yet.
    let tells_nothing = look.snapshot.uptime.is_none() && look.snapshot.versions.is_empty();
    let under_way = match &end {
        End::Accepted(_) => away == Away::Restarted,
        End::Lost(fault) => fault.reach == Reach::Whole,
        End::Rejected(_) => false,
    };
    let partial = matches!(label, Label::Partial(_));
    let may_still_come =
        partial && (under_way || !nothing_moved) || label == Label::Unreadable && !tells_nothing;
    let patience = match (&end, away) {
        // A second part, or a version, may still come.
        (_, Away::Restarted | Away::Untold) if may_still_come => timing.back_within,
        (_, Away::Restarted) => Duration::ZERO,
        (End::Rejected(fault), _) if fault.reason == Reason::DeviceErrorRestarts => timing.gone_within,
        (End::Rejected(_), _) => Duration::ZERO,
        // All of it may have arrived: the restart may still come.
        (End::Lost(fault), _) if fault.reach == Reach::Whole => timing.gone_within.max(timing.quiet),
        (End::Lost(_), _) => timing.quiet,
        (End::Accepted(_), _) => timing.gone_within,
    };
    if waited < patience {
        job.phase = Phase::Watching { end, since, gone_at };
        return (job, watch);
    }
    // A part that equals the image's is no proof of it where it equalled it before.
    let accepted = matches!(end, End::Accepted(_)) && away == Away::Restarted;
    let label = if partial && nothing_moved && !accepted {
        Label::Old
    } else {
        label
    };
    let judged = match outcome(&end, away, &label) {
        // "It never restarted" takes an uptime that runs, or a device without one that was watched all the time.
        judged if stands_still && judged.ending == Ending::Failed => no_uptime(),
        judged if blind && restarted.is_none() && judged.reason.as_deref() == Some(NOT_APPLIED) => {
            not_watched(&label)
        }
        judged => judged,
    };
    if may_push_again(&job, &end, &judged) {
        // The device was just seen; `Prepare` looks once more before the second push.
        job.phase = Phase::Preparing;
        return (job, Act::Prepare);
    }
    let worth_a_soak = judged.ending.is_success() || (tells_nothing && away == Away::Restarted);
    if !worth_a_soak || job.order.soak.is_zero() {
        job.evidence.watched = Some(Duration::ZERO);
        return conclude(job, judged);
    }
    let until = now.boot + job.order.soak;
    job.phase = Phase::Soaking(Box::new(Soak {
        end,
        since: now,
        until,
        n_restarts: 0,
        last: look,
    }));
    (job, watch)
}

/// The outcome of a device that stayed away, with what the last look told of it.
fn no_return(end: &End, last: &Result<(Snapshot, Label), Fault>) -> Outcome {
    let mut no_return = outcome(end, Away::Gone, &Label::Unreadable);
    match last {
        Ok((stranger, _)) => {
            no_return.text = format!(
                "{} Another device answers at its address: {}.",
                no_return.text, stranger.id
            );
        }
        // What the family knows of where a device that is away may be found.
        Err(fault) => no_return.next_step = fault.next_step.clone().or(no_return.next_step),
    }
    no_return
}

/// A second push is allowed only after a death in mid-stream without a word from the device, with the old version seen.
fn may_push_again(job: &Job, end: &End, judged: &Outcome) -> bool {
    matches!(end, End::Lost(fault) if fault.reason == Reason::MidStream)
        && judged.ending == Ending::KeptOld
        && job.n_pushes < job.order.max_pushes
        && !job.cancelled
}

fn soaked(
    mut job: Job,
    mut soak: Box<Soak>,
    result: Result<(Snapshot, Label), Fault>,
    now: Now,
) -> (Job, Act) {
    let watch = Act::Watch {
        every: job.order.timing.look_every,
    };
    let seen = result
        .ok()
        .filter(|(snapshot, _)| snapshot.id == job.order.device);
    let Some((snapshot, label)) = seen else {
        if now.boot >= soak.until + job.order.timing.back_within {
            job.evidence.watched = Some(now.since(soak.since));
            return conclude(job, outcome(&soak.end, Away::Gone, &Label::Unreadable));
        }
        job.phase = Phase::Soaking(soak);
        return (job, watch);
    };
    let look = Look::new(snapshot, now);
    job.evidence.after = Some(look.clone());
    // Without an uptime a silence is all there is, and that may be the network's: no boot loop is read into it.
    // A look of an earlier boot came over as the latest that it can have been.
    let restarted_since = soak.last.is_of_another_boot_than(&look) && look.seems_booted_after(soak.last.at);
    if restarted_since || soak.last.restarted_until(&look) == Some(true) {
        soak.n_restarts += 1;
        soak.until = now.boot + job.order.soak;
        if soak.n_restarts >= BOOT_LOOP_RESTARTS {
            job.evidence.watched = Some(now.since(soak.since));
            return conclude(job, boot_loop());
        }
    }
    if now.boot < soak.until {
        soak.last = look;
        job.phase = Phase::Soaking(soak);
        return (job, watch);
    }
    job.evidence.watched = Some(now.since(soak.since));
    // Judged anew: what it shows at the end counts, not what it showed when it came back.
    let judged = outcome(&soak.end, Away::Restarted, &label);
    conclude(job, judged)
}

fn boot_loop() -> Outcome {
    Outcome::because(
        Ending::Failed,
        BOOT_LOOP,
        "The device took the image and keeps restarting.",
        "Push the image that it ran before, as long as it answers between two restarts.",
    )
}

/// The outcome is known; what was changed is put back before the job ends.
fn conclude(job: Job, outcome: Outcome) -> (Job, Act) {
    give_up(job, outcome)
}

fn undone(mut job: Job, outcome: Outcome, n_tries: u8, result: &Result<(), Fault>) -> (Job, Act) {
    if result.is_err() && n_tries + 1 < MAX_UNDOS {
        job.phase = Phase::Undoing {
            outcome,
            n_tries: n_tries + 1,
        };
        return (
            job,
            Act::Undo {
                after: BETWEEN_FIRST_LOOKS,
            },
        );
    }
    if result.is_ok() {
        job.undo = None;
    }
    job.phase = Phase::Finished { outcome };
    (job, Act::Finish)
}
