mod after;
mod simulation;
mod windows;

use super::*;
use crate::id::{FamilyId, Sha256};
use crate::plan::{AtOnce, MaxFailures, Rules};

const R1: RolloutId = RolloutId(1);
const R2: RolloutId = RolloutId(2);
const MINUTE: Duration = Duration::from_mins(1);

fn id(name: &str) -> DeviceId {
    DeviceId::from_hardware(&FamilyId::new("f"), name)
}

fn member(name: &str, wave: u32) -> Member {
    Member {
        device: id(name),
        name: name.to_owned(),
        runs: "1".to_owned(),
        image: Sha256::of(b"new"),
        image_name: "2".to_owned(),
        len_bytes: 1,
        methods: Vec::new(),
        estimate: MINUTE,
        wave,
        group: None,
        was_offline: false,
        way_back: None,
        interrupts: None,
        notes: Vec::new(),
    }
}

/// The waves' members by name; wave 0 are canaries.
fn plan(waves: &[&[&str]]) -> Plan {
    let members = (0..).zip(waves).flat_map(|(wave, names)| {
        let members = names.iter().map(move |name| member(name, wave));
        members.collect::<Vec<_>>()
    });
    Plan {
        members: members.collect(),
        left_out: Vec::new(),
        n_waves: u32::try_from(waves.len()).unwrap(),
        n_canaries: u32::try_from(waves[0].len()).unwrap(),
        rules: Rules {
            at_once: AtOnce::AtMost(8),
            max_failures: MaxFailures::Count(2),
            ..Rules::default()
        },
    }
}

/// All in one wave, no canary.
fn flat(names: &[&str]) -> Plan {
    Plan {
        n_canaries: 0,
        ..plan(&[names])
    }
}

fn with(mut plan: Plan, change: impl FnOnce(&mut Rules)) -> Plan {
    change(&mut plan.rules);
    plan
}

fn in_group(mut plan: Plan, group: &str, names: &[&str]) -> Plan {
    for member in &mut plan.members {
        if names.contains(&member.name.as_str()) {
            member.group = Some(group.to_owned());
        }
    }
    plan
}

fn away(mut plan: Plan, names: &[&str]) -> Plan {
    for member in &mut plan.members {
        member.was_offline = names.contains(&member.name.as_str());
    }
    plan
}

fn outcome(ending: Ending) -> Outcome {
    Outcome {
        ending,
        reason: None,
        text: String::new(),
        next_step: None,
    }
}

fn failed(reason: &str) -> Outcome {
    Outcome {
        reason: Some(reason.to_owned()),
        ..outcome(Ending::Failed)
    }
}

/// A fleet, its clock, and what it wants.
struct Bed {
    fleet: Fleet,
    now: Now,
    wake: Option<Now>,
}

impl Bed {
    fn new() -> Self {
        Self {
            fleet: Fleet::default(),
            now: Now {
                boot: Duration::from_secs(1_000),
                wall_ms: 1_000_000,
            },
            wake: None,
        }
    }

    fn with(plan: Plan) -> Self {
        let mut bed = Self::new();
        bed.add(R1, plan);
        bed
    }

    /// What is to be done, in short: "start a", "cancel a", "cancel! a", "recover a"; of other rollouts than 1 with its number.
    fn tell(&mut self, event: Event) -> Vec<String> {
        self.wake = None;
        let of = |id: RolloutId, device: &DeviceId| match id {
            R1 => device.hardware.clone(),
            other => format!("{} of {other}", device.hardware),
        };
        let mut said = Vec::new();
        for command in step(&mut self.fleet, event, self.now) {
            said.push(match command {
                Command::Start { id, device, .. } => format!("start {}", of(id, &device)),
                Command::PutBack { id, device } => format!("put back {}", of(id, &device)),
                Command::Recover { id, device } => format!("recover {}", of(id, &device)),
                Command::Cancel { id, device, force } => {
                    format!("cancel{} {}", if force { "!" } else { "" }, of(id, &device))
                }
                Command::Wake { at } => {
                    self.wake = Some(at);
                    continue;
                }
            });
        }
        said
    }

    fn add(&mut self, id: RolloutId, plan: Plan) -> Vec<String> {
        self.tell(Event::Add(id, plan))
    }

    fn end_of(&mut self, rollout: RolloutId, name: &str, outcome: Outcome, n_pushes: u8) -> Vec<String> {
        self.tell(Event::Ended {
            id: rollout,
            device: id(name),
            outcome,
            n_pushes,
        })
    }

    fn ends(&mut self, name: &str, ending: Ending) -> Vec<String> {
        self.end_of(R1, name, outcome(ending), 1)
    }

    fn no_answer(&mut self, name: &str) -> Vec<String> {
        self.end_of(R1, name, failed("no answer"), 0)
    }

    fn hears(&mut self, name: &str, online: bool) -> Vec<String> {
        self.tell(Event::Standing {
            device: id(name),
            online,
        })
    }

    fn after(&mut self, by: Duration) -> Vec<String> {
        self.now = self.now.later(by);
        self.tell(Event::Tick)
    }

    /// At the moment that was asked for, and not a millisecond earlier.
    #[track_caller]
    fn at_its_wake(&mut self) -> Vec<String> {
        let left = self.wake.expect("nothing is due").since(self.now);
        assert_eq!(
            self.after(left.checked_sub(Duration::from_millis(1)).unwrap()),
            [""; 0]
        );
        self.after(Duration::from_millis(1))
    }

    fn rollout(&self) -> &Rollout {
        self.fleet.rollout(R1).unwrap()
    }

    fn is(&self, name: &str) -> &'static str {
        self.rollout().member(&id(name)).unwrap().1.state.name()
    }

    fn state(&self) -> State {
        self.rollout().state()
    }

    fn cause(&self) -> &Reason {
        self.rollout().course().cause.as_ref().unwrap()
    }

    /// As if the process had been killed and another had begun, on another boot of the machine.
    fn killed(&mut self, dead: Duration) {
        let rollouts: Vec<(RolloutId, Rollout)> = self
            .fleet
            .rollouts()
            .map(|(id, rollout)| {
                let restored = Rollout::restored(
                    reread(rollout.plan()),
                    reread(rollout.course()),
                    rollout.members().iter().map(reread).collect(),
                );
                (id, restored.unwrap())
            })
            .collect();
        self.fleet = Fleet::restored(rollouts);
        self.now = Now {
            boot: Duration::from_secs(5),
            wall_ms: self.now.later(dead).wall_ms,
        };
    }
}

fn reread<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

const NOTHING: [&str; 0] = [];

// How many, and who.

#[test]
fn no_more_than_were_asked_for_run_at_once() {
    let mut bed = Bed::new();
    let three = with(flat(&["a", "b", "c", "d", "e"]), |rules| {
        rules.at_once = AtOnce::AtMost(3);
    });
    assert_eq!(bed.add(R1, three), ["start a", "start b", "start c"]);
    assert_eq!(bed.ends("b", Ending::Updated), ["start d"]);
    assert_eq!(bed.ends("a", Ending::Updated), ["start e"]);
    assert_eq!(bed.ends("c", Ending::Updated), NOTHING);
    bed.ends("d", Ending::Updated);
    assert_eq!(bed.state(), State::Running);
    bed.ends("e", Ending::Updated);
    assert_eq!(bed.state(), State::Finished);
    assert!(bed.rollout().is_over());
}

#[test]
fn a_device_has_one_job_over_all_rollouts() {
    let mut bed = Bed::with(flat(&["a", "b"]));
    assert_eq!(bed.add(R2, flat(&["a", "c"])), ["start c of 2"]);
    assert_eq!(bed.fleet.busy_with(&id("a")), Some(R1));
    assert_eq!(bed.ends("a", Ending::Updated), ["start a of 2"]);
    assert_eq!(bed.fleet.busy_with(&id("a")), Some(R2));
}

#[test]
fn a_group_has_one_job_unless_the_rules_say_otherwise_over_all_rollouts() {
    let mut bed = Bed::new();
    let grouped = in_group(flat(&["a", "b", "c"]), "attic", &["a", "b"]);
    assert_eq!(bed.add(R1, grouped), ["start a", "start c"]);
    let other = in_group(flat(&["d"]), "attic", &["d"]);
    assert_eq!(bed.add(R2, other), NOTHING);
    assert_eq!(bed.ends("a", Ending::Updated), ["start b"]);
    assert_eq!(bed.ends("b", Ending::Updated), ["start d of 2"]);
    let mut bed = Bed::new();
    let two = with(
        in_group(flat(&["a", "b", "c"]), "attic", &["a", "b", "c"]),
        |rules| {
            rules.groups.insert("attic".to_owned(), 2);
        },
    );
    assert_eq!(bed.add(R1, two), ["start a", "start b"]);
}

#[test]
fn none_at_once_counts_as_one() {
    let mut bed = Bed::new();
    let none = with(in_group(flat(&["a", "b"]), "attic", &["a", "b"]), |rules| {
        rules.at_once = AtOnce::AtMost(0);
        rules.groups.insert("attic".to_owned(), 0);
    });
    assert_eq!(bed.add(R1, none), ["start a"]);
    assert_eq!(bed.ends("a", Ending::Updated), ["start b"]);
}

#[test]
fn of_two_limits_of_a_group_the_lower_one_counts() {
    let attic = |name: &str, most| {
        with(in_group(flat(&[name]), "attic", &[name]), |rules| {
            rules.groups.insert("attic".to_owned(), most);
        })
    };
    for (first, second) in [(1, 2), (2, 1)] {
        let mut bed = Bed::with(attic("a", first));
        assert_eq!(bed.add(R2, attic("b", second)), NOTHING, "{first}, then {second}");
    }
}

#[test]
fn a_rollout_number_that_is_taken_changes_nothing() {
    let mut bed = Bed::with(flat(&["a"]));
    assert_eq!(bed.add(R1, flat(&["b"])), NOTHING);
    assert_eq!(bed.is("a"), "running");
}

#[test]
fn a_rollout_without_members_is_finished_at_once() {
    let bed = Bed::with(flat(&[]));
    assert_eq!(bed.state(), State::Finished);
}

// Canaries and waves.

#[test]
fn nobody_begins_before_all_canaries_have_succeeded() {
    for proof in [Ending::Updated, Ending::UpdatedLabelUnchanged] {
        let mut bed = Bed::new();
        assert_eq!(
            bed.add(R1, plan(&[&["a", "b"], &["c", "d"]])),
            ["start a", "start b"]
        );
        assert_eq!(bed.ends("a", Ending::Updated), NOTHING);
        assert_eq!(bed.ends("b", proof), ["start c", "start d"]);
    }
}

#[test]
fn a_canary_that_proves_nothing_gives_its_place_to_the_next() {
    let already: fn(&mut Bed) -> Vec<String> = |bed| bed.ends("a", Ending::AlreadyCurrent);
    let cancelled: fn(&mut Bed) -> Vec<String> = |bed| bed.ends("a", Ending::Cancelled);
    for end in [already, cancelled] {
        let mut bed = Bed::with(plan(&[&["a"], &["b", "c"]]));
        assert_eq!(end(&mut bed), ["start b"]);
        assert_eq!(
            bed.rollout().soak_of(&id("b")),
            bed.rollout().plan().rules.canary_soak
        );
        assert_eq!(bed.ends("b", Ending::Updated), ["start c"]);
        assert_eq!(bed.rollout().soak_of(&id("c")), bed.rollout().plan().rules.soak);
    }
}

#[test]
fn a_canary_that_stops_answering_gives_its_place_to_the_next_that_answers() {
    let mut bed = Bed::new();
    let slow = with(away(plan(&[&["a", "b"], &["c", "d", "e"]]), &["c"]), |rules| {
        rules.at_once = AtOnce::AtMost(1);
        rules.when_back_until_ms = Some(i64::MAX);
    });
    assert_eq!(bed.add(R1, slow), ["start a"]);
    assert_eq!(bed.hears("b", false), NOTHING);
    assert_eq!(bed.rollout().member(&id("d")).unwrap().1.wave, 0);
    assert_eq!(bed.rollout().member(&id("b")).unwrap().1.wave, 1);
    // Back, but its place is taken.
    assert_eq!(bed.hears("b", true), NOTHING);
    assert_eq!(bed.ends("a", Ending::Updated), ["start d"]);
    assert_eq!(bed.ends("d", Ending::Updated), ["start b"]);
}

#[test]
fn the_next_canary_is_one_with_the_same_image_if_there_is_one() {
    let mut mixed = with(plan(&[&["a"], &["b", "c"]]), |rules| {
        rules.when_back_until_ms = Some(i64::MAX);
    });
    mixed.members[1].image = Sha256::of(b"other");
    let mut bed = Bed::with(mixed);
    bed.no_answer("a");
    assert_eq!(bed.hears("a", false), ["start c"]);
}

#[test]
fn a_canary_that_runs_keeps_its_place_while_it_restarts() {
    let mut bed = Bed::with(plan(&[&["a"], &["b"]]));
    assert_eq!(bed.hears("a", false), NOTHING);
    assert_eq!(bed.ends("a", Ending::Updated), ["start b"]);
}

#[test]
fn where_nobody_answered_the_first_that_is_back_goes_first() {
    let mut bed = Bed::new();
    let mut absent = away(plan(&[&[], &["a", "b"]]), &["a", "b"]);
    absent.n_canaries = 1;
    absent.rules.when_back_until_ms = Some(i64::MAX);
    assert_eq!(bed.add(R1, absent), NOTHING);
    assert_eq!(bed.hears("b", true), ["start b"]);
    assert_eq!(bed.hears("a", true), NOTHING);
    assert_eq!(bed.ends("b", Ending::Updated), ["start a"]);
}

#[test]
fn a_wave_begins_when_those_that_answer_in_the_one_before_have_ended() {
    let mut bed = Bed::new();
    let waves = Plan {
        n_canaries: 0,
        ..with(plan(&[&["a", "b", "c"], &["d"], &["e"]]), |rules| {
            rules.when_back_until_ms = Some(i64::MAX);
        })
    };
    assert_eq!(bed.add(R1, away(waves, &["c"])), ["start a", "start b"]);
    assert_eq!(bed.ends("a", Ending::Updated), NOTHING);
    // One that waits for another try holds the others up, one that does not answer does not.
    assert_eq!(bed.no_answer("b"), NOTHING);
    assert_eq!(bed.rollout().course().wave, 0);
    assert_eq!(bed.hears("b", false), ["start d"]);
    assert_eq!(bed.rollout().course().wave, 1);
    // Who comes back late begins at once, and the last wave waits for it.
    assert_eq!(bed.hears("c", true), ["start c"]);
    assert_eq!(bed.ends("d", Ending::Updated), NOTHING);
    assert_eq!(bed.ends("c", Ending::Updated), ["start e"]);
}

#[test]
fn one_that_is_away_in_the_middle_of_its_update_holds_the_next_wave_up() {
    let mut bed = Bed::with(Plan {
        n_canaries: 0,
        ..plan(&[&["a", "b"], &["c"]])
    });
    bed.hears("a", false);
    assert_eq!(bed.ends("b", Ending::Updated), NOTHING);
    assert_eq!(bed.ends("a", Ending::Updated), ["start c"]);
}

#[test]
fn earlier_waves_and_places_go_first() {
    let mut bed = Bed::new();
    let mut one = with(flat(&["c", "b", "a"]), |rules| rules.at_once = AtOnce::AtMost(1));
    one.members[1].group = Some("attic".to_owned());
    assert_eq!(bed.add(R1, one), ["start c"]);
    assert_eq!(bed.ends("c", Ending::Updated), ["start b"]);
    assert_eq!(bed.ends("b", Ending::Updated), ["start a"]);
}

// Failures.

#[test]
fn a_failed_canary_halts_whatever_the_limit() {
    for ending in [
        Ending::RolledBack,
        Ending::Failed,
        Ending::Unverified,
        Ending::Refused,
    ] {
        let mut bed = Bed::with(with(plan(&[&["Hall", "b"], &["c"]]), |rules| {
            rules.max_failures = MaxFailures::Count(100);
        }));
        assert_eq!(bed.ends("Hall", ending), NOTHING);
        assert_eq!(bed.state(), State::Halted, "{ending:?}");
        assert_eq!(bed.cause().rule, "canary-failed");
        let named = format!("Hall ended as {};", ending.name());
        assert!(bed.cause().text.contains(&named), "{:?}", bed.cause());
        assert_eq!(bed.ends("b", Ending::Updated), NOTHING);
    }
}

#[test]
fn a_halted_rollout_goes_on_with_another_canary_when_its_owner_says_so() {
    let mut bed = Bed::with(plan(&[&["a"], &["b", "c"]]));
    bed.ends("a", Ending::Unverified);
    assert_eq!(bed.tell(Event::Resume(R1)), ["start b"]);
    assert_eq!(bed.rollout().course().cause, None);
    bed.ends("b", Ending::Failed);
    assert_eq!(bed.state(), State::Halted);
    assert!(!bed.cause().text.contains("a ended"), "{:?}", bed.cause());
    assert_eq!(bed.tell(Event::Resume(R1)), ["start c"]);
}

#[test]
fn the_limit_of_failures_halts_and_what_runs_ends() {
    let five = with(flat(&["a", "b", "c", "d", "e"]), |rules| {
        rules.at_once = AtOnce::AtMost(3);
    });
    let mut bed = Bed::with(five);
    assert_eq!(bed.ends("a", Ending::Failed), ["start d"]);
    assert_eq!(bed.ends("b", Ending::Unverified), NOTHING);
    assert_eq!(
        (bed.state(), bed.cause().rule.as_str()),
        (State::Halted, "too-many-failures")
    );
    assert!(
        bed.cause()
            .text
            .contains("a ended as failed, b ended as unverified")
    );
    assert_eq!(bed.ends("c", Ending::Updated), NOTHING);
    // Another failure of what still ran is told as well.
    assert_eq!(bed.ends("d", Ending::Refused), NOTHING);
    assert!(bed.cause().text.contains("d ended as refused"));
    assert_eq!(bed.is("e"), "queued");
    // Its owner has seen the three: they do not count any more.
    assert_eq!(bed.tell(Event::Resume(R1)), ["start e"]);
    assert_eq!(bed.rollout().course().forgiven, 3);
    bed.ends("e", Ending::Failed);
    assert_eq!(bed.state(), State::Finished);
}

#[test]
fn what_is_forgiven_counts_no_more_and_what_comes_after_does() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut bed = Bed::with(flat(&names));
    bed.ends("a", Ending::Failed);
    bed.ends("b", Ending::Failed);
    bed.tell(Event::Resume(R1));
    bed.ends("c", Ending::Failed);
    assert_eq!(bed.state(), State::Running);
    bed.ends("d", Ending::Failed);
    assert_eq!(bed.state(), State::Halted);
    assert!(!bed.cause().text.contains("a ended"), "{:?}", bed.cause());
    assert!(
        bed.cause().text.contains("c ended as failed, d ended"),
        "{:?}",
        bed.cause()
    );
}

#[test]
fn what_is_no_failure_never_halts() {
    let endings = [
        Ending::Updated,
        Ending::UpdatedLabelUnchanged,
        Ending::AlreadyCurrent,
        Ending::Cancelled,
    ];
    let mut bed = Bed::with(with(flat(&["a", "b", "c", "d", "e"]), |rules| {
        rules.max_failures = MaxFailures::Count(1);
    }));
    for (name, ending) in ["a", "b", "c", "d"].into_iter().zip(endings) {
        bed.ends(name, ending);
        assert_eq!(bed.state(), State::Running, "{ending:?}");
    }
}

#[test]
fn a_share_of_failures_is_of_all_members() {
    let names: Vec<String> = (0..40).map(|n| format!("d{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut bed = Bed::with(with(flat(&names), |rules| {
        rules.max_failures = MaxFailures::Percent(5);
        rules.at_once = AtOnce::AtMost(40);
    }));
    bed.ends("d00", Ending::Failed);
    bed.ends("d01", Ending::Failed);
    assert_eq!(bed.state(), State::Running);
    bed.ends("d02", Ending::Failed);
    assert_eq!(bed.state(), State::Halted);
}

#[test]
fn a_rollout_whose_last_members_fail_is_finished_and_not_halted() {
    let mut bed = Bed::with(flat(&["a", "b"]));
    bed.ends("a", Ending::Failed);
    bed.ends("b", Ending::Unverified);
    assert_eq!(bed.state(), State::Finished);
    assert_eq!(bed.rollout().course().cause, None);
    assert_eq!(bed.rollout().worst().unwrap().name(), "unverified");
}

#[test]
fn many_failures_are_not_all_named() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut bed = Bed::with(with(flat(&names), |rules| {
        rules.max_failures = MaxFailures::Count(5);
    }));
    for name in &names[..5] {
        bed.ends(name, Ending::Failed);
    }
    assert_eq!(
        bed.cause().text,
        "Too much has failed: a ended as failed, b ended as failed, c ended as failed, and 2 more failed. \
         Nothing more begins."
    );
}

// Another try.

#[test]
fn only_what_could_end_better_is_tried_again() {
    let cases = [
        (failed("no answer"), true),
        (failed("no call-back"), true),
        (outcome(Ending::KeptOld), true),
        (failed("not applied"), false),
        (failed("boot loop"), false),
        (outcome(Ending::Failed), false),
        (outcome(Ending::RolledBack), false),
        (outcome(Ending::Unverified), false),
        (outcome(Ending::Refused), false),
        (outcome(Ending::Cancelled), false),
        (outcome(Ending::Updated), false),
        (outcome(Ending::UpdatedLabelUnchanged), false),
        (outcome(Ending::AlreadyCurrent), false),
    ];
    for (end, again) in cases {
        let mut bed = Bed::with(flat(&["a", "b", "c"]));
        let word = end.ending.name();
        bed.end_of(R1, "a", end, 0);
        assert_eq!(bed.is("a"), if again { "waiting" } else { word });
    }
}

#[test]
fn tries_end_after_so_many_and_each_pause_is_twice_as_long() {
    let mut bed = Bed::with(with(flat(&["a"]), |rules| {
        rules.max_tries = 4;
        rules.retry_after = MINUTE;
    }));
    let mut pauses = Vec::new();
    for _ in 0..3 {
        assert_eq!(bed.no_answer("a"), NOTHING);
        pauses.push(bed.wake.unwrap().since(bed.now));
        assert_eq!(bed.at_its_wake(), ["start a"]);
    }
    bed.no_answer("a");
    assert_eq!((bed.is("a"), bed.state()), ("failed", State::Finished));
    let jitter = pauses[0].checked_sub(MINUTE).unwrap();
    assert!(jitter <= Duration::from_secs(30));
    assert_eq!(pauses[1..], [2 * MINUTE + jitter, 4 * MINUTE + jitter]);
}

#[test]
fn devices_that_fail_together_do_not_come_back_together() {
    let pause = |name: &str| {
        let mut bed = Bed::with(flat(&[name]));
        bed.no_answer(name);
        bed.wake.unwrap().since(bed.now)
    };
    let pauses: BTreeSet<Duration> = (0..100).map(|n| pause(&format!("d{n}"))).collect();
    assert!(pauses.len() > 90, "{}", pauses.len());
    let thirty = Duration::from_secs(30);
    assert!(pauses.iter().all(|pause| (thirty..=2 * thirty).contains(pause)));
    assert!(
        (*pauses.last().unwrap())
            .checked_sub(*pauses.first().unwrap())
            .unwrap()
            > 20 * thirty / 30
    );
    assert_eq!(pause("d1"), pause("d1"));
}

#[test]
fn no_device_gets_more_pushes_than_permitted() {
    let mut bed = Bed::new();
    let begin = Event::Add(R1, with(flat(&["a"]), |rules| rules.max_pushes = 3));
    let n_pushes = |commands: &[Command]| match commands {
        [Command::Start { n_pushes, .. }, ..] => *n_pushes,
        other => panic!("{other:?}"),
    };
    assert_eq!(n_pushes(&step(&mut bed.fleet, begin, bed.now)), 3);
    bed.end_of(R1, "a", outcome(Ending::KeptOld), 2);
    bed.now = bed.wake.unwrap();
    assert_eq!(n_pushes(&step(&mut bed.fleet, Event::Tick, bed.now)), 1);
    bed.end_of(R1, "a", outcome(Ending::KeptOld), 1);
    assert_eq!(bed.is("a"), "kept-old");
    assert_eq!(bed.rollout().members()[0].n_pushes, 3);
}

#[test]
fn a_job_that_was_interrupted_before_its_first_byte_counts_as_nothing_done() {
    let interrupted = Outcome {
        reason: Some("interrupted".to_owned()),
        ..outcome(Ending::Cancelled)
    };
    let mut bed = Bed::with(flat(&["a"]));
    assert_eq!(bed.end_of(R1, "a", interrupted.clone(), 0), ["start a"]);
    assert_eq!(bed.rollout().members()[0].n_tries, 0);
    bed.tell(Event::Abort { id: R1, force: false });
    assert_eq!(bed.end_of(R1, "a", interrupted.clone(), 0), NOTHING);
    assert_eq!(bed.is("a"), "cancelled");
    let mut bed = Bed::with(flat(&["a"]));
    assert_eq!(bed.end_of(R1, "a", interrupted, 1), NOTHING);
    assert_eq!(bed.is("a"), "cancelled");
}

// What its owner wants.

#[test]
fn after_a_pause_nothing_begins_and_what_runs_ends() {
    let mut bed = Bed::with(with(flat(&["a", "b", "c"]), |rules| {
        rules.at_once = AtOnce::AtMost(2);
    }));
    assert_eq!(bed.tell(Event::Pause(R1)), NOTHING);
    assert_eq!(bed.ends("a", Ending::Updated), NOTHING);
    assert_eq!(bed.no_answer("b"), NOTHING);
    assert_eq!(bed.after(10 * MINUTE), NOTHING);
    assert_eq!(bed.state(), State::Paused);
    assert_eq!(bed.tell(Event::Resume(R1)), ["start b", "start c"]);
}

#[test]
fn a_paused_rollout_halts_when_what_runs_fails() {
    let mut bed = Bed::with(plan(&[&["a"], &["b"]]));
    bed.tell(Event::Pause(R1));
    bed.ends("a", Ending::Failed);
    assert_eq!(bed.state(), State::Halted);
    bed.tell(Event::Pause(R1));
    assert_eq!(bed.state(), State::Halted);
}

#[test]
fn an_abort_cancels_what_has_not_begun_and_asks_what_runs_to_stop() {
    let mut bed = Bed::with(with(flat(&["a", "b", "c", "d"]), |rules| {
        rules.at_once = AtOnce::AtMost(2);
    }));
    bed.no_answer("a");
    assert_eq!(
        bed.tell(Event::Abort { id: R1, force: false }),
        ["cancel b", "cancel c"]
    );
    assert_eq!((bed.is("a"), bed.is("d")), ("cancelled", "cancelled"));
    assert_eq!(
        bed.tell(Event::Abort { id: R1, force: true }),
        ["cancel! b", "cancel! c"]
    );
    assert_eq!(bed.end_of(R1, "b", failed("no answer"), 0), NOTHING);
    assert_eq!(bed.is("b"), "failed");
    assert_eq!(bed.tell(Event::Resume(R1)), NOTHING);
    assert_eq!(
        bed.tell(Event::NothingDone {
            id: R1,
            device: id("c")
        }),
        NOTHING
    );
    assert_eq!((bed.is("c"), bed.state()), ("cancelled", State::Aborted));
    assert!(bed.rollout().is_over());
}

#[test]
fn a_finished_rollout_cannot_be_aborted_any_more() {
    let mut bed = Bed::with(flat(&["a"]));
    bed.ends("a", Ending::Updated);
    bed.tell(Event::Abort { id: R1, force: true });
    assert_eq!(bed.state(), State::Finished);
}

#[test]
fn stopping_everything_aborts_every_rollout() {
    let mut bed = Bed::with(flat(&["a"]));
    bed.add(R2, flat(&["b", "a"]));
    assert_eq!(bed.tell(Event::StopAll), ["cancel a", "cancel b of 2"]);
    assert_eq!(bed.ends("a", Ending::Cancelled), NOTHING);
    for id in [R1, R2] {
        assert_eq!(bed.fleet.rollout(id).unwrap().state(), State::Aborted);
    }
}

#[test]
fn one_member_can_be_cancelled() {
    let mut bed = Bed::with(with(flat(&["a", "b", "c"]), |rules| {
        rules.at_once = AtOnce::AtMost(1);
    }));
    assert_eq!(bed.tell(Event::Cancel(R1, id("b"))), NOTHING);
    assert_eq!(bed.is("b"), "cancelled");
    assert_eq!(bed.tell(Event::Cancel(R1, id("a"))), ["cancel a"]);
    // It ended otherwise before the cancel came: it is not tried again for that.
    assert_eq!(bed.no_answer("a"), ["start c"]);
    assert_eq!(bed.is("a"), "failed");
}

#[test]
fn an_excluded_device_does_not_begin_any_more() {
    let gone = Reason::new("removed", "It was removed.", "Add it again.");
    let exclude = |name: &str| Event::Exclude {
        device: id(name),
        reason: gone.clone(),
    };
    let mut bed = Bed::with(with(flat(&["a", "b", "c", "d"]), |rules| {
        rules.at_once = AtOnce::AtMost(2);
    }));
    bed.no_answer("b");
    for name in ["b", "d", "a"] {
        assert_eq!(bed.tell(exclude(name)), NOTHING);
    }
    assert_eq!(
        [bed.is("a"), bed.is("b"), bed.is("d")],
        ["running", "skipped", "skipped"]
    );
    bed.tell(Event::NothingDone {
        id: R1,
        device: id("a"),
    });
    let standing = bed.rollout().member(&id("a")).unwrap().1;
    assert_eq!(standing.state, MemberState::Ended(Ended::Skipped(gone)));
    bed.ends("c", Ending::Updated);
    assert_eq!(bed.state(), State::Finished);
}

// Those that do not answer.

#[test]
fn one_that_does_not_answer_is_begun_when_it_is_back() {
    let mut bed = Bed::new();
    let waits = with(away(flat(&["a", "b"]), &["b"]), |rules| {
        rules.when_back_until_ms = Some(2_000_000);
    });
    assert_eq!(bed.add(R1, waits), ["start a"]);
    bed.ends("a", Ending::Updated);
    assert_eq!(bed.hears("b", true), ["start b"]);
}

#[test]
fn who_has_come_or_gone_since_the_plan_was_made_is_known() {
    let mut bed = Bed::new();
    bed.hears("a", false);
    bed.hears("b", true);
    let waits = with(away(flat(&["a", "b"]), &["b"]), |rules| {
        rules.when_back_until_ms = Some(i64::MAX);
    });
    assert_eq!(bed.add(R1, waits), ["start b"]);
    assert_eq!(bed.fleet.take_changes()[0].members, [0, 1]);
    assert_eq!(bed.hears("a", true), ["start a"]);
}

#[test]
fn one_that_is_not_back_by_the_deadline_has_missed_it_and_one_that_is_has_not() {
    let mut bed = Bed::new();
    let waits = with(away(flat(&["a", "b", "c"]), &["b"]), |rules| {
        rules.when_back_until_ms = Some(2_000_000);
        rules.at_once = AtOnce::AtMost(1);
    });
    bed.add(R1, waits);
    assert_eq!(bed.at_its_wake(), NOTHING);
    assert_eq!(bed.now.wall_ms, 2_000_000);
    assert_eq!((bed.is("b"), bed.is("c")), ("missed-window", "queued"));
    assert_eq!(bed.ends("a", Ending::Updated), ["start c"]);
    bed.ends("c", Ending::Updated);
    assert_eq!(bed.state(), State::Finished);
    assert_eq!(bed.rollout().worst().unwrap().name(), "missed-window");
}

#[test]
fn the_deadline_passes_for_a_paused_rollout_too() {
    let mut bed = Bed::new();
    bed.add(
        R1,
        with(away(flat(&["a"]), &["a"]), |rules| {
            rules.when_back_until_ms = Some(2_000_000);
        }),
    );
    bed.tell(Event::Pause(R1));
    bed.at_its_wake();
    assert_eq!((bed.is("a"), bed.state()), ("missed-window", State::Finished));
}

#[test]
fn without_a_deadline_who_stays_away_is_skipped_a_while_after_everybody_else() {
    let mut bed = Bed::with(with(flat(&["a", "b", "c"]), |rules| {
        rules.at_once = AtOnce::AtMost(1);
    }));
    bed.hears("b", false);
    bed.hears("c", false);
    assert_eq!(bed.after(60 * MINUTE), NOTHING);
    assert_eq!(bed.is("b"), "queued");
    bed.ends("a", Ending::Updated);
    // Back in time.
    assert_eq!(bed.after(9 * MINUTE), NOTHING);
    assert_eq!(bed.hears("c", true), ["start c"]);
    bed.ends("c", Ending::Updated);
    assert_eq!(bed.at_its_wake(), NOTHING);
    assert_eq!((bed.is("b"), bed.state()), ("skipped", State::Finished));
    let Ended::Skipped(reason) = bed.rollout().worst().unwrap() else {
        panic!("{:?}", bed.rollout().worst());
    };
    assert!(reason.next_step.contains("--when-back"));
}

#[test]
fn patience_does_not_run_out_while_its_owner_holds_the_rollout_up() {
    let mut bed = Bed::with(flat(&["a", "b"]));
    bed.tell(Event::Pause(R1));
    bed.tell(Event::NothingDone {
        id: R1,
        device: id("a"),
    });
    bed.ends("b", Ending::Updated);
    bed.hears("a", false);
    bed.after(60 * MINUTE);
    assert_eq!(bed.is("a"), "queued");
    bed.tell(Event::Resume(R1));
    assert_eq!(bed.is("a"), "queued");
    bed.at_its_wake();
    assert_eq!(bed.is("a"), "skipped");
}

// As many as make it quicker.

fn auto(n_devices: usize) -> Bed {
    let names: Vec<String> = (0..n_devices).map(|n| format!("d{n:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Bed::with(with(flat(&names), |rules| rules.at_once = AtOnce::Auto))
}

/// As many at once as are tried after so many looks, when so many share so many bytes per second.
fn tried(bed: &mut Bed, n_looks: usize, each: u64, shared: u64) -> u32 {
    for _ in 0..n_looks {
        let n_running = bed.fleet.n_running() as u64;
        bed.tell(Event::Throughput {
            bytes_per_s: (n_running * each).min(shared),
        });
    }
    bed.rollout().course().n_at_once
}

#[test]
fn auto_begins_with_four_and_grows_fourfold_while_that_helps() {
    let mut bed = auto(100);
    assert_eq!(bed.fleet.n_running(), 4);
    assert_eq!(tried(&mut bed, 1, 100, u64::MAX), 4);
    assert_eq!(tried(&mut bed, 1, 100, u64::MAX), 16);
    assert_eq!(bed.fleet.n_running(), 16);
    assert_eq!(tried(&mut bed, 2, 100, u64::MAX), 64);
    // Never more than are left.
    assert_eq!(tried(&mut bed, 40, 100, u64::MAX), 100);
}

#[test]
fn auto_holds_when_growth_brought_less_than_half_of_its_promise() {
    // 4 bring 400, so 16 must bring 1,000 and, having brought 1,600, 64 must bring 4,000 of them.
    for (shared, expected) in [
        (400, 16),
        (999, 16),
        (1_000, 64),
        (1_600, 64),
        (3_999, 64),
        (4_000, 256),
    ] {
        let mut bed = auto(300);
        assert_eq!(tried(&mut bed, 40, 100, shared), expected, "{shared}");
    }
}

#[test]
fn auto_does_not_grow_on_nothing_or_while_places_are_free() {
    let mut bed = auto(100);
    assert_eq!(tried(&mut bed, 40, 0, 0), 4);
    let mut bed = Bed::with(with(
        in_group(
            flat(&["a", "b", "c", "d", "e"]),
            "attic",
            &["a", "b", "c", "d", "e"],
        ),
        |rules| rules.at_once = AtOnce::Auto,
    ));
    assert_eq!(tried(&mut bed, 40, 100, u64::MAX), 4);
    let mut bed = Bed::with(with(flat(&["a", "b", "c"]), |rules| {
        rules.at_once = AtOnce::AtMost(2);
    }));
    assert_eq!(tried(&mut bed, 40, 100, u64::MAX), 2);
}

// After a restart.

#[test]
fn after_a_restart_nothing_begins_until_every_job_is_settled() {
    let four = || {
        with(flat(&["a", "b", "c", "d"]), |rules| {
            rules.at_once = AtOnce::AtMost(3);
        })
    };
    let mut bed = Bed::with(four());
    bed.add(R2, flat(&["e"]));
    bed.ends("a", Ending::Updated);
    bed.killed(MINUTE);
    // Not even before it was told to go on.
    assert_eq!(bed.add(RolloutId(3), flat(&["f"])), NOTHING);
    assert_eq!(
        bed.tell(Event::Recovered),
        ["recover b", "recover c", "recover d", "recover e of 2"]
    );
    assert_eq!(bed.ends("b", Ending::Updated), NOTHING);
    assert_eq!(bed.ends("c", Ending::Updated), NOTHING);
    assert_eq!(
        bed.tell(Event::NothingDone {
            id: R1,
            device: id("d")
        }),
        NOTHING
    );
    assert_eq!(bed.is("d"), "queued");
    assert_eq!(
        bed.end_of(R2, "e", outcome(Ending::Updated), 1),
        ["start d", "start f of 3"]
    );
}

#[test]
fn told_to_go_on_twice_nothing_is_settled_twice() {
    let mut bed = Bed::with(flat(&["a"]));
    bed.killed(MINUTE);
    assert_eq!(bed.tell(Event::Recovered), ["recover a"]);
    assert_eq!(bed.tell(Event::Recovered), NOTHING);
}

#[test]
fn a_restart_keeps_what_was_counted_and_wanted() {
    let mut bed = Bed::with(with(plan(&[&["a"], &["b", "c", "d"]]), |rules| {
        rules.at_once = AtOnce::AtMost(1);
        rules.max_tries = 2;
    }));
    bed.no_answer("a");
    bed.killed(MINUTE);
    assert_eq!(bed.tell(Event::Recovered), ["start a"]);
    bed.no_answer("a");
    assert_eq!(bed.state(), State::Halted);
    bed.killed(MINUTE);
    assert_eq!(bed.tell(Event::Recovered), NOTHING);
    assert_eq!(bed.state(), State::Halted);
    assert_eq!(bed.tell(Event::Resume(R1)), ["start b"]);
    bed.tell(Event::Abort { id: R1, force: false });
    bed.killed(MINUTE);
    assert_eq!(bed.tell(Event::Recovered), ["recover b"]);
    assert_eq!(
        bed.tell(Event::NothingDone {
            id: R1,
            device: id("b")
        }),
        NOTHING
    );
    assert_eq!((bed.is("b"), bed.state()), ("cancelled", State::Aborted));
}

/// Otherwise a job that had ended just before the machine went down is not found, and done once more (I8).
#[test]
fn after_a_restart_of_the_machine_a_job_is_still_known_by_the_time_at_which_it_began() {
    let mut bed = Bed::with(flat(&["a"]));
    let since = |bed: &Bed| match bed.fleet.rollout(R1).unwrap().members()[0].state {
        MemberState::Running { since } => since,
        _ => panic!("a runs"),
    };
    let begun = since(&bed);
    bed.killed(MINUTE);
    assert_eq!(bed.tell(Event::Recovered), ["recover a"]);
    let since = since(&bed);
    assert_eq!(since.wall_ms, begun.wall_ms);
    assert!(since.boot <= bed.now.boot, "a moment of this boot");
}

#[test]
fn a_pause_before_a_retry_goes_on_after_a_restart_and_never_grows() {
    let pause_after = |dead: Duration| {
        let mut bed = Bed::with(flat(&["a"]));
        bed.no_answer("a");
        let before = bed.wake.unwrap().since(bed.now);
        bed.killed(dead);
        let begun = bed.tell(Event::Recovered);
        (before, bed.wake.map(|wake| wake.since(bed.now)), begun.len())
    };
    let (before, left, n_begun) = pause_after(Duration::from_secs(10));
    assert_eq!((left, n_begun), (before.checked_sub(Duration::from_secs(10)), 0));
    assert_eq!(pause_after(60 * MINUTE).2, 1);
    // The wall clock had been ahead by years.
    let mut bed = Bed::new();
    bed.now.wall_ms = 1_000_000_000_000;
    bed.add(R1, flat(&["a"]));
    bed.no_answer("a");
    bed.killed(MINUTE);
    bed.now.wall_ms = 1_000_000;
    bed.tell(Event::Recovered);
    assert_eq!(bed.wake.map(|wake| wake.since(bed.now)), Some(before));
}

#[test]
fn an_answer_for_a_job_that_does_not_run_is_not_listened_to() {
    let mut bed = Bed::with(with(flat(&["a", "b"]), |rules| rules.at_once = AtOnce::AtMost(1)));
    for name in ["b", "x"] {
        assert_eq!(bed.ends(name, Ending::Failed), NOTHING);
    }
    assert_eq!(bed.is("b"), "queued");
    bed.ends("a", Ending::Updated);
    assert_eq!(bed.ends("a", Ending::Failed), NOTHING);
    assert_eq!(bed.is("a"), "updated");
}

#[test]
fn parts_that_do_not_belong_together_are_no_rollout() {
    let rollout = Rollout::new(flat(&["a", "b"]));
    let torn = Rollout::restored(flat(&["a"]), rollout.course().clone(), rollout.members().to_vec());
    assert_eq!(
        torn.unwrap_err(),
        TornRollout {
            n_planned: 1,
            n_stored: 2
        }
    );
}

// What is stored, and how much is done.

#[test]
fn what_changes_is_named_once_and_nothing_else() {
    let changes = |course, members: &[u32]| {
        vec![Changes {
            id: R1,
            course,
            members: members.to_vec(),
        }]
    };
    let mut bed = Bed::with(with(plan(&[&["a"], &["b", "c"]]), |rules| {
        rules.at_once = AtOnce::AtMost(1);
    }));
    assert_eq!(bed.fleet.take_changes(), changes(false, &[0]));
    assert_eq!(bed.fleet.take_changes(), []);
    bed.tell(Event::Tick);
    bed.tell(Event::Pause(R2));
    assert_eq!(bed.fleet.take_changes(), []);
    bed.ends("a", Ending::Updated);
    assert_eq!(bed.fleet.take_changes(), changes(true, &[0, 1]));
    bed.tell(Event::Pause(R1));
    assert_eq!(bed.fleet.take_changes(), changes(true, &[]));
}

#[test]
fn the_stored_form_is_the_one_that_earlier_versions_wrote() {
    let standing = serde_json::json!({
        "state": { "waiting": { "until": { "boot": { "secs": 3, "nanos": 0 }, "wall_ms": 4 } } },
        "wave": 1, "what-came-later": true,
    });
    let read: Standing = serde_json::from_value(standing).unwrap();
    assert_eq!((read.state.name(), read.n_tries), ("waiting", 0));
    for (state, word) in [
        (serde_json::json!("queued"), "queued"),
        (
            serde_json::json!({ "running": { "since": { "boot": { "secs": 3, "nanos": 0 }, "wall_ms": 4 } } }),
            "running",
        ),
        (serde_json::json!({ "ended": "cancelled" }), "cancelled"),
        (
            serde_json::json!({ "ended": { "skipped": { "rule": "r", "text": "t", "next_step": "n" } } }),
            "skipped",
        ),
        (
            serde_json::json!({ "ended": { "missed-window": { "rule": "r", "text": "t", "next_step": "n" } } }),
            "missed-window",
        ),
        (
            serde_json::json!({ "ended": { "outcome": { "ending": "kept-old", "text": "t" } } }),
            "kept-old",
        ),
    ] {
        let read: MemberState = serde_json::from_value(state.clone()).unwrap();
        assert_eq!(read.name(), word);
        assert_eq!(reread(&read), read);
    }
    let course = serde_json::json!({ "state": "halted", "wave": 2, "n_at_once": 4 });
    let read: Course = serde_json::from_value(course).unwrap();
    assert_eq!((read.state, read.forgiven), (State::Halted, 0));
    for state in [
        State::Scheduled,
        State::Running,
        State::Paused,
        State::Halted,
        State::Finished,
        State::Aborted,
    ] {
        assert_eq!(serde_json::to_value(state).unwrap(), state.name());
    }
}

#[test]
fn a_rollout_is_taken_off_only_when_it_is_over() {
    let mut bed = Bed::with(flat(&["a"]));
    assert!(bed.fleet.remove(R1).is_none());
    bed.ends("a", Ending::Updated);
    assert_eq!(
        bed.fleet.remove(R1).unwrap().tally(),
        BTreeMap::from([("updated", 1)])
    );
    assert!(bed.fleet.rollout(R1).is_none());
}

#[test]
fn the_word_of_a_rollout_is_that_of_its_worst_member() {
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let mut bed = Bed::with(with(flat(&names), |rules| {
        rules.max_failures = MaxFailures::Count(9);
    }));
    for (name, ending) in names.into_iter().zip([
        Ending::Updated,
        Ending::UpdatedLabelUnchanged,
        Ending::Cancelled,
        Ending::Refused,
        Ending::RolledBack,
        Ending::Failed,
        Ending::Unverified,
    ]) {
        bed.ends(name, ending);
        assert_eq!(bed.rollout().worst().unwrap().name(), ending.name());
    }
}

#[test]
fn of_a_thousand_devices_that_are_due_at_once_one_begins_for_each_place_that_becomes_free() {
    let names: Vec<String> = (0..1_000).map(|n| format!("d{n:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut grouped = with(flat(&names), |rules| rules.at_once = AtOnce::AtMost(1_000));
    for (idx, member) in grouped.members.iter_mut().enumerate() {
        member.group = Some(format!("g{}", idx % 20));
    }
    let mut bed = Bed::new();
    let mut running = bed.add(R1, grouped);
    assert_eq!(running.len(), 20);
    let mut n_ended = 0;
    while let Some(begun) = running.pop() {
        let name = begun.trim_start_matches("start ").to_owned();
        let next = bed.ends(&name, Ending::Updated);
        assert!(next.len() <= 1, "one place became free");
        running.extend(next);
        n_ended += 1;
    }
    assert_eq!((n_ended, bed.state()), (1_000, State::Finished));
}
