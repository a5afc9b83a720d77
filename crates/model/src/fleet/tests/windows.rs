//! A rollout begins its jobs only while its window is open, and only those that have ended when it closes.

use super::*;
use crate::window::{ALL_DAYS, Window};

/// Updates take a minute and are watched for two.
fn at_night(plan: Plan) -> Plan {
    let night = Window {
        name: "night".to_owned(),
        start_s: 7_200,
        duration: Duration::from_mins(30),
        days: ALL_DAYS,
        timezone: Some("Europe/Vilnius".to_owned()),
    };
    with(plan, |rules| rules.window = Some(night))
}

fn one_by_one(plan: Plan) -> Plan {
    with(plan, |rules| rules.at_once = AtOnce::AtMost(1))
}

impl Bed {
    /// The window is open for so long, or opens after so long.
    fn window(&mut self, open_for: Option<Duration>, opens_in: Option<Duration>) -> Vec<String> {
        let now = self.now;
        self.tell(Event::Window {
            id: R1,
            open_until: open_for.map(|left| now.later(left)),
            next: opens_in.map(|left| now.later(left)),
        })
    }

    fn pass(&mut self, time: Duration) -> Vec<String> {
        self.now = self.now.later(time);
        self.tell(Event::Tick)
    }

    fn stands(&self) -> State {
        self.fleet.rollout(R1).unwrap().state()
    }

    fn waits(&self, place: usize) -> bool {
        self.fleet.rollout(R1).unwrap().waits_for_window(place, self.now)
    }

    fn words(&self) -> Vec<&'static str> {
        let members = self.fleet.rollout(R1).unwrap().members().iter();
        members.map(|standing| standing.state.name()).collect()
    }
}

#[test]
fn nothing_begins_before_the_window_opens() {
    let mut bed = Bed::new();
    assert!(bed.add(R1, at_night(flat(&["a", "b"]))).is_empty());
    assert_eq!(bed.stands(), State::Scheduled);
    assert!(bed.window(None, Some(10 * MINUTE)).is_empty());
    assert_eq!(
        bed.wake,
        Some(bed.now.later(10 * MINUTE)),
        "it comes back for the opening"
    );
    assert!(bed.waits(0) && bed.waits(1));
    assert!(
        bed.tell(Event::Resume(R1)).is_empty(),
        "nobody can talk it into beginning"
    );
    assert_eq!(bed.stands(), State::Scheduled);
    assert!(
        bed.pass(10 * MINUTE).is_empty(),
        "only the calendar says that it is open"
    );
    assert_eq!(bed.window(Some(30 * MINUTE), None), ["start a", "start b"]);
    assert_eq!(bed.stands(), State::Running);
    assert!(!bed.waits(0));
}

#[test]
fn only_what_fits_in_before_the_window_closes_begins() {
    let mut plan = flat(&["a", "b", "c"]);
    plan.members[0].estimate = 10 * MINUTE;
    let mut bed = Bed::with(at_night(plan));
    // Two minutes of soak each: a would take twelve, the others three.
    let almost = (12 * MINUTE).saturating_sub(Duration::from_millis(1));
    assert_eq!(bed.window(Some(almost), None), ["start b", "start c"]);
    assert!(bed.waits(0), "and whoever does not fit in says so");
    bed.ends("b", Ending::Updated);
    bed.ends("c", Ending::Updated);
    assert!(bed.pass(MINUTE).is_empty());
    assert_eq!(
        bed.window(Some(12 * MINUTE), None),
        ["start a"],
        "to the very end"
    );
}

#[test]
fn who_does_not_fit_in_holds_up_nobody_of_its_group() {
    let mut plan = in_group(flat(&["a", "b"]), "attic", &["a", "b"]);
    plan.members[0].estimate = 10 * MINUTE;
    let mut bed = Bed::with(at_night(plan));
    assert_eq!(bed.window(Some(5 * MINUTE), None), ["start b"]);
}

#[test]
fn the_longer_soak_of_a_canary_has_to_fit_in() {
    let mut bed = Bed::with(at_night(plan(&[&["a"], &["b"]])));
    // A minute, and ten as a canary.
    let almost = (11 * MINUTE).saturating_sub(Duration::from_millis(1));
    assert!(bed.window(Some(almost), None).is_empty());
    assert_eq!(bed.window(Some(11 * MINUTE), None), ["start a"]);
    bed.now = bed.now.later(MINUTE);
    assert_eq!(bed.ends("a", Ending::Updated), ["start b"]);
}

/// RELIABILITY.md F46.
#[test]
fn what_runs_when_the_window_closes_goes_on_and_no_other_begins() {
    let mut bed = Bed::with(one_by_one(at_night(flat(&["a", "b"]))));
    assert_eq!(bed.window(Some(5 * MINUTE), None), ["start a"]);
    assert_eq!(
        bed.wake,
        Some(bed.now.later(5 * MINUTE)),
        "it asks again when it closes"
    );
    assert!(bed.pass(6 * MINUTE).is_empty(), "nothing is cancelled");
    assert_eq!(bed.wake, None, "a moment that has passed wakes nobody");
    assert!(
        bed.ends("a", Ending::Updated).is_empty(),
        "nothing begins by what was said before"
    );
    assert!(bed.window(None, Some(60 * MINUTE)).is_empty());
    assert_eq!(bed.words(), ["updated", "queued"]);
    assert!(bed.waits(1));
    assert_eq!(bed.stands(), State::Running, "it was open already");
    bed.now = bed.now.later(60 * MINUTE);
    assert_eq!(bed.window(Some(5 * MINUTE), None), ["start b"]);
}

#[test]
fn another_try_waits_for_the_window_too() {
    let mut bed = Bed::with(at_night(flat(&["a"])));
    bed.window(Some(3 * MINUTE), None);
    assert!(bed.no_answer("a").is_empty());
    assert!(bed.pass(2 * MINUTE).is_empty());
    assert!(bed.waits(0));
    assert_eq!(bed.window(Some(3 * MINUTE), None), ["start a"]);
}

/// RELIABILITY.md F19.
#[test]
fn whose_turn_does_not_come_before_the_deadline_has_missed_the_window() {
    let mut bed = Bed::new();
    let deadline_ms = bed.now.later(30 * MINUTE).wall_ms;
    let plan = with(one_by_one(away(flat(&["a", "b", "c"]), &["c"])), |rules| {
        rules.when_back_until_ms = Some(deadline_ms);
    });
    bed.add(R1, at_night(plan));
    assert_eq!(bed.window(Some(4 * MINUTE), Some(60 * MINUTE)), ["start a"]);
    bed.now = bed.now.later(5 * MINUTE);
    assert!(bed.window(None, Some(60 * MINUTE)).is_empty());
    assert_eq!(
        bed.wake,
        Some(bed.now.later(25 * MINUTE)),
        "it comes back for the deadline"
    );
    assert!(bed.pass(25 * MINUTE).is_empty());
    assert_eq!(bed.words(), ["running", "missed-window", "missed-window"]);
    bed.ends("a", Ending::Updated);
    assert_eq!(bed.stands(), State::Finished);
    let rollout = bed.fleet.rollout(R1).unwrap();
    let text = |place: usize| match &rollout.members()[place].state {
        MemberState::Ended(Ended::MissedWindow(reason)) => reason.text.clone(),
        other => panic!("{other:?}"),
    };
    assert!(text(1).contains("window night"), "{}", text(1));
    assert!(text(2).contains("did not answer"), "{}", text(2));
}

#[test]
fn without_a_window_a_deadline_ends_only_who_does_not_answer() {
    let mut bed = Bed::new();
    let deadline_ms = bed.now.later(MINUTE).wall_ms;
    let plan = one_by_one(away(flat(&["a", "b", "c"]), &["c"]));
    bed.add(
        R1,
        with(plan, |rules| rules.when_back_until_ms = Some(deadline_ms)),
    );
    bed.pass(2 * MINUTE);
    assert_eq!(bed.words(), ["running", "queued", "missed-window"]);
}

#[test]
fn a_pause_before_the_first_opening_leads_back_to_waiting_for_it() {
    let mut bed = Bed::with(at_night(flat(&["a"])));
    bed.tell(Event::Pause(R1));
    assert_eq!(bed.stands(), State::Paused);
    assert!(bed.window(Some(30 * MINUTE), None).is_empty(), "paused is paused");
    assert_eq!(bed.stands(), State::Paused);
    assert_eq!(bed.tell(Event::Resume(R1)), ["start a"]);

    let mut bed = Bed::with(at_night(flat(&["a"])));
    bed.tell(Event::Pause(R1));
    assert!(bed.tell(Event::Resume(R1)).is_empty());
    assert_eq!(bed.stands(), State::Scheduled);
    assert_eq!(bed.window(Some(30 * MINUTE), None), ["start a"]);
}

#[test]
fn after_a_restart_the_window_is_closed_until_it_is_told_of() {
    let mut bed = Bed::with(at_night(flat(&["a"])));
    bed.hears("a", false);
    assert!(bed.window(Some(30 * MINUTE), None).is_empty());
    bed.killed(MINUTE);
    bed.hears("a", true);
    assert!(bed.tell(Event::Recovered).is_empty());
    assert_eq!((bed.stands(), bed.waits(0)), (State::Running, true));
    assert_eq!(bed.window(Some(30 * MINUTE), None), ["start a"]);
}

#[test]
fn what_is_told_of_a_window_is_nothing_to_a_rollout_without_one() {
    let mut bed = Bed::with(one_by_one(flat(&["a", "b"])));
    assert!(bed.window(None, None).is_empty());
    assert!(!bed.waits(1));
    assert_eq!(bed.ends("a", Ending::Updated), ["start b"]);
}

#[test]
fn a_rollout_that_waits_for_its_window_can_be_ended() {
    let mut bed = Bed::with(at_night(flat(&["a"])));
    bed.tell(Event::Abort { id: R1, force: false });
    assert_eq!((bed.stands(), bed.words()), (State::Aborted, vec!["cancelled"]));
    assert!(bed.window(Some(30 * MINUTE), None).is_empty());
    let mut bed = Bed::with(at_night(flat(&["a"])));
    bed.tell(Event::Cancel(R1, id("a")));
    assert_eq!((bed.stands(), bed.words()), (State::Finished, vec!["cancelled"]));
}
