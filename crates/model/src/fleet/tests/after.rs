//! What comes after the end of a job: putting back, corrections, quarantine.

use super::*;
use crate::plan::QUARANTINED;

/// A rollout that puts devices back; what they ran is kept.
fn putting_back(mut plan: Plan) -> Plan {
    for member in &mut plan.members {
        member.way_back = Some(Sha256::of(b"old"));
    }
    with(plan, |rules| rules.put_back = true)
}

fn boot_loop() -> Outcome {
    Outcome::because(Ending::Failed, "boot loop", "It keeps restarting.", "Ask.")
}

fn text_of(bed: &Bed, name: &str) -> String {
    match &bed.rollout().member(&id(name)).unwrap().1.state {
        MemberState::Ended(Ended::Outcome(outcome)) => {
            assert_eq!(outcome.reason.as_deref(), Some("boot loop"));
            assert_eq!(outcome.ending, Ending::Failed);
            outcome.text.clone()
        }
        state => panic!("{name} is {state:?}"),
    }
}

#[test]
fn one_that_keeps_restarting_is_put_back_once_and_its_end_tells_both() {
    for (ending, reason, told) in [
        (
            Ending::Updated,
            None,
            "It keeps restarting. It was put back to 1.",
        ),
        (
            Ending::AlreadyCurrent,
            None,
            "It keeps restarting. It was put back to 1.",
        ),
        (
            Ending::UpdatedLabelUnchanged,
            None,
            "It keeps restarting. It was put back to 1, as far as its label can tell.",
        ),
        (
            Ending::Failed,
            Some("boot loop"),
            "It keeps restarting. It was to be put back to 1, which ended as failed (boot loop): Why.",
        ),
        (
            Ending::KeptOld,
            Some("transfer broke off"),
            "It keeps restarting. It was to be put back to 1, which ended as kept-old (transfer broke off): Why.",
        ),
    ] {
        let mut bed = Bed::with(putting_back(flat(&["a", "b"])));
        assert_eq!(bed.end_of(R1, "a", boot_loop(), 1), ["put back a"]);
        assert_eq!(bed.is("a"), "putting-back");
        let back = Outcome {
            ending,
            reason: reason.map(str::to_owned),
            text: "Why.".to_owned(),
            next_step: None,
        };
        // Never a second time, whatever has become of it.
        assert_eq!(bed.end_of(R1, "a", back, 1), NOTHING);
        assert_eq!(text_of(&bed, "a"), told);
        let (_, standing) = bed.rollout().member(&id("a")).unwrap();
        assert_eq!((standing.n_tries, standing.n_pushes), (2, 2));
    }
}

#[test]
fn one_that_answers_only_between_restarts_is_tried_until_something_is_sent() {
    let mut bed = Bed::with(putting_back(flat(&["a"])));
    assert_eq!(bed.end_of(R1, "a", boot_loop(), 1), ["put back a"]);
    for _ in 0..4 {
        assert_eq!(bed.no_answer("a"), ["put back a"]);
    }
    // Enough is enough.
    assert_eq!(bed.no_answer("a"), NOTHING);
    assert!(
        text_of(&bed, "a").contains("failed (no answer)"),
        "{}",
        text_of(&bed, "a")
    );
    // Bytes have gone out: then never again.
    let mut bed = Bed::with(putting_back(flat(&["a"])));
    bed.end_of(R1, "a", boot_loop(), 1);
    bed.no_answer("a");
    assert_eq!(bed.ends("a", Ending::KeptOld), NOTHING);
    assert_eq!(bed.is("a"), "failed");
}

#[test]
fn only_what_keeps_restarting_is_put_back_and_only_where_the_rules_say_so() {
    for end in [
        failed("not applied"),
        outcome(Ending::Unverified),
        outcome(Ending::RolledBack),
    ] {
        let mut bed = Bed::with(putting_back(flat(&["a", "b"])));
        let word = end.ending.name();
        bed.end_of(R1, "a", end, 1);
        assert_eq!(bed.is("a"), word);
    }
    let mut bed = Bed::with(with(putting_back(flat(&["a", "b"])), |rules| {
        rules.put_back = false;
    }));
    assert_eq!(bed.end_of(R1, "a", boot_loop(), 1), NOTHING);
    assert_eq!(text_of(&bed, "a"), "It keeps restarting.");
}

#[test]
fn where_there_is_no_way_back_its_end_says_why() {
    let mut lost = putting_back(flat(&["a", "b"]));
    lost.members[0].way_back = None;
    let mut same = putting_back(flat(&["a", "b"]));
    same.members[0].way_back = Some(same.members[0].image);
    for (plan, why) in [
        (lost, "the image of 1 is not kept here"),
        (same, "what it ran before is the very image that fails"),
    ] {
        let mut bed = Bed::with(plan);
        assert_eq!(bed.end_of(R1, "a", boot_loop(), 1), NOTHING);
        let told = format!("It keeps restarting. It was not put back: {why}.");
        assert_eq!(text_of(&bed, "a"), told);
    }
}

#[test]
fn nobody_is_put_back_whose_update_was_called_off() {
    let reason = Reason::new("pinned", "Its owner has pinned it.", "");
    let exclude = Event::Exclude {
        device: id("a"),
        reason,
    };
    for (event, why) in [
        (Event::Cancel(R1, id("a")), "its owner has called it off"),
        (
            Event::Abort { id: R1, force: false },
            "its owner has called it off",
        ),
        (exclude, "its owner has pinned it"),
    ] {
        let mut bed = Bed::with(putting_back(flat(&["a", "b"])));
        bed.tell(event.clone());
        assert_eq!(bed.end_of(R1, "a", boot_loop(), 1), NOTHING);
        let told = format!("It keeps restarting. It was not put back: {why}.");
        assert_eq!(text_of(&bed, "a"), told);
        // Called off after it was asked for, and nothing was done yet.
        let mut bed = Bed::with(putting_back(flat(&["a", "b"])));
        bed.end_of(R1, "a", boot_loop(), 1);
        bed.tell(event);
        let nothing = Event::NothingDone {
            id: R1,
            device: id("a"),
        };
        assert_eq!(bed.tell(nothing), NOTHING);
        assert_eq!(text_of(&bed, "a"), told);
    }
}

#[test]
fn a_canary_that_is_put_back_halts_the_rest_at_once_and_holds_its_place() {
    let plan = with(putting_back(plan(&[&["a"], &["b", "c"]])), |rules| {
        rules.at_once = AtOnce::AtMost(1);
    });
    let mut bed = Bed::with(plan);
    assert_eq!(bed.end_of(R1, "a", boot_loop(), 1), ["put back a"]);
    assert_eq!(bed.state(), State::Halted);
    assert_eq!(bed.cause().rule, "canary-failed");
    assert!(
        bed.cause().text.contains("a ended as failed"),
        "{:?}",
        bed.cause()
    );
    // Its owner has seen it; there is one place, and it is taken.
    assert_eq!(bed.tell(Event::Resume(R1)), NOTHING);
    assert_eq!(bed.ends("a", Ending::Updated), ["start b"]);
    assert_eq!((bed.is("a"), bed.state()), ("failed", State::Running));
}

#[test]
fn one_alone_is_put_back_without_a_halt() {
    let mut bed = Bed::with(putting_back(flat(&["a"])));
    bed.end_of(R1, "a", boot_loop(), 1);
    assert_eq!(bed.state(), State::Running);
    bed.ends("a", Ending::Updated);
    assert_eq!((bed.state(), bed.is("a")), (State::Finished, "failed"));
}

#[test]
fn killed_while_it_puts_back_it_settles_that_first_and_then_goes_on_with_it() {
    let mut bed = Bed::with(putting_back(flat(&["a", "b"])));
    bed.end_of(R1, "a", boot_loop(), 1);
    bed.killed(MINUTE);
    assert_eq!(bed.tell(Event::Recovered), ["recover a", "recover b"]);
    assert_eq!(bed.is("a"), "putting-back");
    bed.ends("b", Ending::Updated);
    // The journal knows of no such job: it had not begun.
    let nothing = Event::NothingDone {
        id: R1,
        device: id("a"),
    };
    assert_eq!(bed.tell(nothing), ["put back a"]);
    bed.ends("a", Ending::Updated);
    assert_eq!(text_of(&bed, "a"), "It keeps restarting. It was put back to 1.");
    assert_eq!(bed.state(), State::Finished);
}

fn corrected(name: &str, ending: Ending) -> Event {
    Event::Corrected {
        id: R1,
        device: id(name),
        outcome: outcome(ending),
    }
}

#[test]
fn what_is_proven_later_counts_anew_and_a_halted_rollout_waits_for_its_owner() {
    let mut bed = Bed::with(plan(&[&["a"], &["b", "c"]]));
    bed.ends("a", Ending::Unverified);
    assert_eq!(bed.state(), State::Halted);
    assert_eq!(bed.tell(corrected("a", Ending::Updated)), NOTHING);
    assert_eq!((bed.is("a"), bed.state()), ("updated", State::Halted));
    // The canary has succeeded after all: nobody else needs to go first.
    assert_eq!(bed.tell(Event::Resume(R1)), ["start b", "start c"]);
    assert_eq!(bed.rollout().course().forgiven, 0);
}

#[test]
fn a_failure_that_was_forgiven_and_was_none_frees_no_other() {
    let mut bed = Bed::with(with(flat(&["a", "b", "c", "d"]), |rules| {
        rules.max_failures = MaxFailures::Count(1);
    }));
    bed.ends("a", Ending::Unverified);
    bed.tell(Event::Resume(R1));
    assert_eq!(bed.rollout().course().forgiven, 1);
    bed.tell(corrected("a", Ending::Updated));
    assert_eq!(bed.rollout().course().forgiven, 0);
    bed.ends("b", Ending::Refused);
    assert_eq!(bed.state(), State::Halted);
}

#[test]
fn what_was_proven_is_not_corrected() {
    let mut bed = Bed::with(flat(&["a", "b", "c"]));
    bed.ends("a", Ending::Updated);
    bed.tell(corrected("a", Ending::RolledBack));
    assert_eq!(bed.is("a"), "updated");
    bed.tell(corrected("b", Ending::RolledBack));
    assert_eq!(bed.is("b"), "running");
}

#[test]
fn a_quarantine_halts_what_would_bring_that_image_to_one_more() {
    let quarantined = |image: &[u8]| Event::Quarantined {
        image: Sha256::of(image),
        reason: Reason::new(QUARANTINED, "It has failed on a, b and c.", ""),
    };
    let plan = || with(flat(&["a", "b"]), |rules| rules.at_once = AtOnce::AtMost(1));
    let mut bed = Bed::with(plan());
    bed.tell(quarantined(b"another"));
    assert_eq!(bed.state(), State::Running);
    bed.tell(quarantined(b"new"));
    assert_eq!(
        (bed.state(), bed.cause().rule.as_str()),
        (State::Halted, QUARANTINED)
    );
    // What runs ends, and what it ends as does not hide the cause.
    assert_eq!(bed.ends("a", Ending::RolledBack), NOTHING);
    assert_eq!(bed.cause().rule, QUARANTINED);
    assert_eq!(bed.tell(Event::Resume(R1)), ["start b"]);
    bed.ends("b", Ending::Updated);
    bed.tell(quarantined(b"new"));
    assert_eq!(bed.state(), State::Finished);
}

#[test]
fn a_job_that_pushed_is_told_once_wherever_the_wall_clock_was_set() {
    const DAY_MS: i64 = 86_400_000;
    let decided_ms = 10 * DAY_MS;
    for set_ms in [-DAY_MS, 0, DAY_MS] {
        let begun_ms = decided_ms + set_ms;
        assert_eq!(untold(&[(1, begun_ms)], 0, decided_ms), Some(0));
        assert_eq!(untold(&[(1, begun_ms)], 1, decided_ms), None, "an earlier try");
        assert_eq!(untold(&[(1, begun_ms), (1, begun_ms)], 1, decided_ms), Some(1));
        assert_eq!(untold(&[(1, begun_ms), (2, begun_ms)], 3, decided_ms), None);
    }
    assert_eq!(untold(&[], 0, decided_ms), None);
}

#[test]
fn a_job_that_sent_nothing_is_told_if_it_began_after_it_was_decided() {
    assert_eq!(untold(&[(1, 5), (0, 20)], 1, 10), Some(1));
    assert_eq!(untold(&[(1, 5), (0, 9)], 1, 10), None);
}
