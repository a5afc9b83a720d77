//! A job that was not proven, and what a later look at its device proves.

use super::*;

const HOUR_S: u64 = 3_600;

/// A job whose push ended so, and whose device was not seen again in time; and its states as they were stored.
struct Unproven {
    bench: Bench,
    end: End,
    ended: Now,
}

impl Unproven {
    fn of(order: Order, result: Result<Verdict, Fault>) -> Self {
        let mut bench = Bench::of(order);
        bench.undo = None;
        bench.until_pushing().push(result);
        let stored = [bench.job.clone()];
        while bench.act != Act::Finish {
            bench.wait(2).silence();
        }
        bench.assert_ended(Ending::Unverified, Some("no return"));
        Self {
            end: end_in(stored.iter().chain([&bench.job])).unwrap(),
            ended: bench.now,
            bench,
        }
    }

    fn new(result: Result<Verdict, Fault>) -> Self {
        Self::of(order(), result)
    }

    fn judged(&self, label: &Label, same_boot: bool) -> Option<Correction> {
        let moments = (self.ended, self.bench.now);
        let seen = (self.bench.snapshot(), label);
        reconsider(&self.bench.job, &self.end, seen, moments, same_boot)
    }

    /// What is said of a device that shows this an hour later, having restarted with the push or never.
    fn later(mut self, restarted: bool, shows: &'static str, label: &Label) -> Option<Correction> {
        if restarted {
            self.bench.restart(shows);
        } else {
            self.bench.shows = shows;
        }
        self.bench.wait(HOUR_S);
        self.judged(label, true)
    }
}

#[track_caller]
fn check(judged: Option<Correction>, expected: (Ending, &str)) -> Correction {
    let correction = judged.expect("it proves something");
    let outcome = correction.job.outcome().unwrap();
    assert_eq!(
        (outcome.ending, outcome.reason.as_deref().unwrap()),
        expected,
        "{outcome:?}"
    );
    assert!(
        outcome
            .text
            .starts_with("It was seen again about 60 minutes after its update. "),
        "{}",
        outcome.text
    );
    correction
}

fn with_record(label_moves: bool) -> Order {
    Order {
        record: Some(Installed {
            digest: Some(Sha256::of(b"old")),
            label: versions(OLD),
            label_moves,
        }),
        ..order()
    }
}

#[test]
fn one_that_returns_late_with_the_new_label_is_updated_and_recorded_so() {
    let correction = check(
        Unproven::new(ok()).later(true, NEW, &Label::Target),
        (Ending::Updated, "seen later"),
    );
    assert_eq!(
        correction.record,
        Record::Set(Installed {
            digest: Some(Sha256::of(b"new")),
            label: versions(NEW),
            label_moves: true,
        })
    );
    check(
        Unproven::new(verdict_lost()).later(true, NEW, &Label::Target),
        (Ending::Updated, "seen later"),
    );
}

#[test]
fn one_that_returns_late_with_the_old_label_is_what_the_rules_of_outcomes_say() {
    let correction = check(
        Unproven::of(with_record(true), ok()).later(true, OLD, &Label::Old),
        (Ending::RolledBack, "old version came back"),
    );
    assert_eq!(correction.record, Record::Set(with_record(true).record.unwrap()));
    let correction = check(
        Unproven::new(died_in_mid_stream()).later(true, OLD, &Label::Unmoved),
        (Ending::KeptOld, "transfer broke off"),
    );
    assert_eq!(correction.record, Record::Clear);
    check(
        Unproven::new(verdict_lost()).later(false, OLD, &Label::Unmoved),
        (Ending::KeptOld, "verdict lost"),
    );
    let correction = check(
        Unproven::new(ok()).later(false, OLD, &Label::Unmoved),
        (Ending::Failed, "not applied"),
    );
    assert_eq!(correction.record, Record::Keep);
}

#[test]
fn a_label_that_cannot_tell_proves_nothing_an_hour_later() {
    for label in [Label::Unmoved, Label::Same] {
        assert_eq!(Unproven::new(ok()).later(true, OLD, &label), None, "{label:?}");
        assert_eq!(
            Unproven::new(verdict_lost()).later(true, OLD, &label),
            None,
            "{label:?}"
        );
    }
    for label in [Label::Other, Label::Unreadable] {
        assert_eq!(Unproven::new(ok()).later(true, "?", &label), None, "{label:?}");
    }
}

#[test]
fn the_new_label_without_a_restart_proves_nothing() {
    assert_eq!(Unproven::new(ok()).later(false, NEW, &Label::Target), None);
}

#[test]
fn another_device_at_its_address_proves_nothing() {
    let mut unproven = Unproven::new(ok());
    unproven.bench.restart(NEW).wait(HOUR_S);
    unproven.bench.id = stranger();
    assert_eq!(unproven.judged(&Label::Target, true), None);
}

#[test]
fn what_is_proven_or_in_other_hands_is_not_judged_again() {
    let mut unproven = Unproven::new(ok());
    unproven.bench.restart(NEW).wait(HOUR_S);
    for (ending, reason) in [
        (Ending::KeptOld, "device error"),
        (Ending::Updated, ""),
        (Ending::Unverified, "version mismatch"),
    ] {
        let outcome = Outcome::because(ending, reason, "", "");
        unproven.bench.job.phase = Phase::Finished { outcome };
        assert_eq!(unproven.judged(&Label::Target, true), None, "{ending:?} {reason}");
    }
}

#[test]
fn a_clock_that_drifts_for_a_day_is_no_restart_and_after_a_boot_of_ours_only_a_short_uptime_is_one() {
    let mut unproven = Unproven::new(verdict_lost());
    unproven.bench.wait(23 * HOUR_S);
    // Its clock is 20 s behind ours.
    unproven.bench.booted = unproven.bench.booted.later(Duration::from_secs(20));
    let judged = unproven.judged(&Label::Unmoved, true).unwrap();
    assert_eq!(judged.job.outcome().unwrap().ending, Ending::KeptOld);
    // "It stayed up" is not said across a boot of this machine.
    assert_eq!(unproven.judged(&Label::Unmoved, false), None);
    unproven.bench.restart(NEW).wait(60);
    let judged = unproven.judged(&Label::Target, false).unwrap();
    assert_eq!(judged.job.outcome().unwrap().ending, Ending::Updated);
}

/// Booted half a minute before the push, restarted with it: a day later the two boots are too near to be told apart.
#[test]
fn one_that_was_young_before_the_push_is_not_said_to_have_stayed_for_what_clocks_may_drift() {
    let mut job = Unproven::new(verdict_lost());
    let age = Duration::from_secs(30);
    if let Some(uptime) = job
        .bench
        .job
        .evidence
        .before
        .as_mut()
        .and_then(|look| look.snapshot.uptime.as_mut())
    {
        *uptime = age;
    }
    // With the push, three minutes before the job ended.
    job.bench.booted = job.ended.earlier(Duration::from_mins(3));
    job.bench.wait(24 * HOUR_S);
    assert_eq!(job.judged(&Label::Unmoved, true), None);
}

#[test]
fn without_an_uptime_one_that_was_away_has_restarted() {
    let mut unproven = Unproven::of(with_record(true), ok());
    unproven.bench.tells_uptime = false;
    unproven.bench.wait(HOUR_S);
    let judged = unproven.judged(&Label::Old, true).unwrap();
    assert_eq!(judged.job.outcome().unwrap().ending, Ending::RolledBack);
    // The verdict is lost as well: then nothing says whether it has.
    let mut unproven = Unproven::of(with_record(true), verdict_lost());
    unproven.bench.tells_uptime = false;
    unproven.bench.wait(HOUR_S);
    assert_eq!(unproven.judged(&Label::Old, true), None);
}

#[test]
fn how_the_last_push_ended_is_read_from_the_stored_states() {
    let mut bench = Bench::new();
    let mut stored = vec![bench.job.clone()];
    bench.check_with(wanted()).see(Seen::Committed).prepare();
    stored.push(bench.job.clone());
    let lost = end_in(stored.iter()).unwrap();
    assert!(
        matches!(&lost, End::Lost(fault) if fault.reason == Reason::Interrupted && fault.reach == Reach::Whole),
        "{lost:?}"
    );
    bench.see(Seen::Committed).push(ok());
    stored.push(bench.job.clone());
    assert!(matches!(end_in(stored.iter()), Some(End::Accepted(_))));
    assert_eq!(end_in(stored[..1].iter()), None);
}

/// Every end × label × uptime: what no later look may say.
#[test]
fn no_later_look_claims_more_than_was_seen() {
    let device_error = || {
        Err(fault(
            FaultKind::Refused,
            Reason::DeviceErrorRestarts,
            Reach::Whole,
        ))
    };
    let results = [ok, died_in_mid_stream, verdict_lost, device_error];
    let labels = [
        Label::Target,
        Label::Same,
        Label::Unmoved,
        Label::Old,
        Label::Partial("panel".to_owned()),
        Label::Other,
        Label::Unreadable,
    ];
    for result in results {
        for label in &labels {
            for restarted in [Some(true), Some(false), None] {
                let mut unproven = Unproven::new(result());
                if restarted == Some(true) {
                    unproven.bench.restart(NEW);
                }
                unproven.bench.tells_uptime = restarted.is_some();
                unproven.bench.wait(HOUR_S);
                let Some(correction) = unproven.judged(label, true) else {
                    continue;
                };
                let case = format!("{:?} {label:?} {restarted:?}: {correction:?}", unproven.end);
                let old_seen = matches!(label, Label::Unmoved | Label::Old | Label::Same);
                match correction.job.outcome().unwrap().ending {
                    Ending::Updated => {
                        assert!(*label == Label::Target && restarted != Some(false), "{case}");
                    }
                    Ending::KeptOld => assert!(old_seen, "{case}"),
                    Ending::RolledBack => assert!(*label == Label::Old, "{case}"),
                    Ending::Failed => {
                        let partial = matches!(label, Label::Partial(_));
                        assert!(partial || restarted == Some(false) && old_seen, "{case}");
                    }
                    other => panic!("{other:?}: {case}"),
                }
            }
        }
    }
}
