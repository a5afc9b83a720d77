use super::*;
use crate::id::FamilyId;
use crate::inventory::State;

const MINUTE: Duration = Duration::from_mins(1);

/// Makes one thing right.
type Mend = fn(&mut Facts);

fn id(name: &str) -> DeviceId {
    DeviceId::from_hardware(&FamilyId::new("ir-remote"), name)
}

fn choice() -> Choice {
    Choice {
        image: Sha256::of(b"new"),
        image_name: "3.1.1".to_owned(),
        len_bytes: 1_000_000,
        methods: vec![Method::new("espota")],
        estimate: MINUTE,
        way_back: Some(Sha256::of(b"old")),
        weak: false,
        interrupts: None,
    }
}

fn facts(name: &str) -> Facts {
    Facts {
        device: id(name),
        name: name.to_owned(),
        model: Some("mini".to_owned()),
        runs: "3.0".to_owned(),
        standing: State::Online,
        signal_dbm: None,
        enrolled: true,
        conflict: None,
        group: None,
        busy_with: None,
        excluded: false,
        choice: Ok(choice()),
    }
}

fn many(n: usize) -> Vec<Facts> {
    (0..n).map(|idx| facts(&format!("d{idx:04}"))).collect()
}

fn when_back(rules: Rules) -> Rules {
    Rules {
        when_back_until_ms: Some(1),
        ..rules
    }
}

/// The names in each wave.
fn waves(plan: &Plan) -> Vec<Vec<&str>> {
    (0..plan.n_waves)
        .map(|wave| {
            let members = plan.members.iter().filter(|member| member.wave == wave);
            members.map(|member| member.name.as_str()).collect()
        })
        .collect()
}

fn sizes(plan: &Plan) -> Vec<usize> {
    waves(plan).iter().map(Vec::len).collect()
}

#[test]
fn the_first_reason_against_a_device_is_the_one_that_is_told() {
    // Each row still has all that is wrong in those after it.
    let mut wrong = facts("Hall");
    wrong.excluded = true;
    wrong.conflict = Some("It answers at two addresses.".to_owned());
    wrong.enrolled = false;
    wrong.busy_with = Some(RolloutId(7));
    wrong.choice = Err(Reason::new("pinned", "It is pinned.", "Unpin it."));
    wrong.standing = State::Offline;
    let mends: [(&str, Mend); 6] = [
        ("excluded", |facts| facts.excluded = false),
        ("conflict", |facts| facts.conflict = None),
        ("not-enrolled", |facts| facts.enrolled = true),
        ("busy", |facts| facts.busy_with = None),
        ("pinned", |facts| facts.choice = Ok(choice())),
        ("offline", |facts| facts.standing = State::Online),
    ];
    for (rule, mend) in mends {
        let made = plan(&[wrong.clone()], Rules::default());
        assert!(made.members.is_empty(), "{rule}");
        let reason = &made.left_out[0].reason;
        assert_eq!(reason.rule, rule);
        assert!(
            reason.text.ends_with('.') && !reason.next_step.is_empty(),
            "{reason:?}"
        );
        mend(&mut wrong);
    }
    assert_eq!(plan(&[wrong], Rules::default()).members.len(), 1);
}

#[test]
fn one_that_does_not_answer_is_a_member_only_if_it_is_waited_for() {
    for (standing, rule) in [
        (State::Offline, "offline"),
        (State::Unknown, "offline"),
        (State::Unreadable, "unreadable"),
    ] {
        let mut absent = facts("Hall");
        absent.standing = standing;
        let made = plan(&[absent.clone()], Rules::default());
        assert_eq!(made.left_out[0].reason.rule, rule);
        assert!(made.left_out[0].reason.next_step.contains("--when-back 12h"));
        let made = plan(&[absent], when_back(Rules::default()));
        assert!(made.left_out.is_empty());
        assert!(made.members[0].was_offline);
    }
}

#[test]
fn a_device_that_is_named_twice_is_updated_once() {
    let made = plan(&[facts("a"), facts("b"), facts("a")], Rules::default());
    assert_eq!(made.members.len(), 2);
}

#[test]
fn the_canary_answers_is_of_the_commonest_model_and_has_the_best_signal() {
    let of = |name: &str, model: &str, signal_dbm: Option<i32>, standing| Facts {
        model: Some(model.to_owned()),
        signal_dbm,
        standing,
        ..facts(name)
    };
    let fleet = [
        of("a", "rare", Some(-30), State::Online),
        of("b", "mini", None, State::Online),
        of("c", "mini", Some(-70), State::Online),
        of("d", "mini", Some(-60), State::Online),
        of("e", "mini", Some(-60), State::Online),
        of("f", "mini", Some(-20), State::Offline),
    ];
    let canaries = |canary| {
        let made = plan(
            &fleet,
            when_back(Rules {
                canary,
                ..Rules::default()
            }),
        );
        assert_eq!(made.n_canaries, canary);
        waves(&made)[0].join("")
    };
    assert_eq!(canaries(1), "d");
    assert_eq!(canaries(2), "de");
    assert_eq!(canaries(4), "bcde");
    // More than there are of that model: the next model helps out.
    assert_eq!(canaries(5), "abcde");
}

#[test]
fn models_of_two_families_are_two_models_even_if_they_are_called_the_same() {
    let mut fleet = many(3);
    for name in ["x", "y"] {
        let mut other = facts(name);
        other.device.family = FamilyId::new("arduino");
        other.signal_dbm = Some(-10);
        fleet.push(other);
    }
    let made = plan(&fleet, Rules::default());
    assert_eq!(waves(&made)[0], ["d0000"]);
}

#[test]
fn one_device_alone_is_no_canary() {
    let made = plan(&many(1), Rules::default());
    assert_eq!((made.n_canaries, sizes(&made)), (0, vec![1]));
}

#[test]
fn where_nobody_answers_the_canarys_place_is_left_free() {
    let mut fleet = many(3);
    for facts in &mut fleet {
        facts.standing = State::Offline;
    }
    let made = plan(&fleet, when_back(Rules::default()));
    assert_eq!((made.n_canaries, sizes(&made)), (1, vec![0, 3]));
}

#[test]
fn followers_come_in_one_wave_or_by_10_and_50_of_100_and_without_a_canary_all_at_once() {
    for (n_devices, canary, expected) in [
        (0, 1, vec![]),
        (2, 1, vec![1, 1]),
        (11, 1, vec![1, 10]),
        (12, 1, vec![1, 2, 4, 5]),
        (101, 1, vec![1, 10, 40, 50]),
        (10, 0, vec![10]),
        (20, 0, vec![20]),
        (3, 5, vec![3]),
    ] {
        let made = plan(
            &many(n_devices),
            Rules {
                canary,
                ..Rules::default()
            },
        );
        assert_eq!(sizes(&made), expected, "{n_devices} devices, {canary} canaries");
    }
}

#[test]
fn those_that_do_not_answer_are_in_the_last_wave_and_waves_without_members_are_none() {
    let mut fleet = many(21);
    for facts in &mut fleet[..5] {
        facts.standing = State::Offline;
    }
    let made = plan(&fleet, when_back(Rules::default()));
    assert_eq!(sizes(&made), [1, 2, 8, 10]);
    let absent = made.members.iter().filter(|member| member.was_offline);
    assert!(absent.clone().all(|member| member.wave == 3));
    assert_eq!(absent.count(), 5);
    for facts in &mut fleet[..19] {
        facts.standing = State::Offline;
    }
    let made = plan(&fleet, when_back(Rules::default()));
    assert_eq!(sizes(&made), [1, 1, 19]);
}

#[test]
fn the_plan_does_not_depend_on_the_order_of_the_facts() {
    let mut fleet = many(30);
    fleet[3].excluded = true;
    fleet[4].excluded = true;
    let made = plan(&fleet, Rules::default());
    fleet.reverse();
    assert_eq!(plan(&fleet, Rules::default()), made);
}

#[test]
fn a_failure_too_many_is_counted_or_a_share() {
    for (rule, n_failures, n_members, reached) in [
        (MaxFailures::Count(2), 1, 9, false),
        (MaxFailures::Count(2), 2, 9, true),
        (MaxFailures::Count(0), 0, 9, false),
        (MaxFailures::Count(0), 1, 9, true),
        (MaxFailures::Percent(5), 5, 100, false),
        (MaxFailures::Percent(5), 6, 100, true),
        (MaxFailures::Percent(5), 1, 3, true),
        (MaxFailures::Percent(0), 0, 3, false),
        (MaxFailures::Percent(100), 3, 3, false),
    ] {
        let is_reached = rule.is_reached(n_failures, n_members);
        assert_eq!(is_reached, reached, "{rule:?}: {n_failures} of {n_members}");
    }
}

#[test]
fn the_estimate_follows_waves_places_groups_and_soaks() {
    let rules = |at_once| Rules {
        canary: 1,
        canary_soak: 10 * MINUTE,
        soak: 2 * MINUTE,
        at_once,
        ..Rules::default()
    };
    let minutes = |facts: &[Facts], rules: Rules| plan(facts, rules).estimate().as_secs() / 60;
    // One device: its minute, and its soak.
    assert_eq!(minutes(&many(1), rules(AtOnce::Auto)), 3);
    // The canary's 11, then one wave of 8 in two rounds of 4.
    assert_eq!(minutes(&many(9), rules(AtOnce::Auto)), 11 + 2 * 3);
    assert_eq!(minutes(&many(9), rules(AtOnce::AtMost(8))), 11 + 3);
    // Waves of 2, 8 and 10 wait for each other: one round, two, three.
    assert_eq!(minutes(&many(21), rules(AtOnce::AtMost(4))), 11 + (1 + 2 + 3) * 3);
    // Four in one group go one after the other, while four others go beside them.
    let mut grouped = many(9);
    for facts in &mut grouped[1..5] {
        facts.group = Some("attic".to_owned());
    }
    assert_eq!(minutes(&grouped, rules(AtOnce::AtMost(8))), 11 + 4 * 3);
    let two = Rules {
        groups: BTreeMap::from([("attic".to_owned(), 2)]),
        ..rules(AtOnce::AtMost(8))
    };
    assert_eq!(minutes(&grouped, two), 11 + 2 * 3);
    // Nobody knows when those will be back that do not answer.
    grouped[8].standing = State::Offline;
    assert_eq!(minutes(&grouped, when_back(rules(AtOnce::AtMost(8)))), 11 + 4 * 3);
    assert_eq!(minutes(&[], rules(AtOnce::Auto)), 0);
}

#[test]
fn a_plan_survives_being_stored() {
    let mut fleet = many(12);
    fleet[2].group = Some("attic".to_owned());
    fleet[3].standing = State::Offline;
    fleet[4].excluded = true;
    fleet[5].choice = Ok(Choice {
        way_back: None,
        weak: true,
        interrupts: Some("Ventilation pauses about 3 minutes.".to_owned()),
        ..choice()
    });
    for (at_once, max_failures) in [
        (AtOnce::Auto, MaxFailures::Count(2)),
        (AtOnce::AtMost(3), MaxFailures::Percent(5)),
    ] {
        let rules = Rules {
            at_once,
            max_failures,
            groups: BTreeMap::from([("attic".to_owned(), 2)]),
            allow: vec!["downgrade".to_owned()],
            ..Rules::default()
        };
        let made = plan(&fleet, when_back(rules));
        let stored = serde_json::to_string(&made).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&stored).unwrap(), made);
    }
}

#[test]
fn a_plan_of_an_earlier_version_can_be_read() {
    let stored = serde_json::json!({
        "members": [{
            "device": { "family": "ir-remote", "hardware": "a0b1c2d3e4f5", "strength": "hardware" },
            "name": "Hall", "runs": "3.0", "image": Sha256::of(b"new"), "image_name": "3.1.1",
            "len_bytes": 3, "wave": 0, "what-came-later": true
        }],
        "n_waves": 1,
        "rules": { "at_once": { "at-most": 3 }, "max_failures": { "percent": 5 }, "canary": 2 },
    });
    let read: Plan = serde_json::from_value(stored).unwrap();
    assert_eq!(read.members[0].name, "Hall");
    let rules = Rules {
        canary: 2,
        at_once: AtOnce::AtMost(3),
        max_failures: MaxFailures::Percent(5),
        ..Rules::default()
    };
    assert_eq!(read.rules, rules);
}

#[test]
fn what_a_job_is_permitted_comes_from_the_rules() {
    let rules = Rules {
        allow: vec!["downgrade".to_owned()],
        force: true,
        mixed: true,
        ..Rules::default()
    };
    let permits = Permits {
        allow: vec!["downgrade".to_owned()],
        force: true,
        mixed: true,
    };
    assert_eq!(rules.permits(), permits);
    assert_eq!(Rules::default().permits(), Permits::default());
}

#[test]
fn notes_tell_what_to_know_of_a_device() {
    let mut poor = facts("Hall");
    poor.signal_dbm = Some(-81);
    poor.choice = Ok(Choice {
        way_back: None,
        weak: true,
        ..choice()
    });
    let mut good = facts("Attic");
    good.signal_dbm = Some(-80);
    let made = plan(&[poor, good], Rules::default());
    let rules_of = |name: &str| -> Vec<&str> {
        let member = made.members.iter().find(|member| member.name == name).unwrap();
        member.notes.iter().map(|note| note.rule.as_str()).collect()
    };
    assert_eq!(rules_of("Hall"), ["no-way-back", "weak-identity", "weak-signal"]);
    assert!(rules_of("Attic").is_empty());
}

#[track_caller]
fn check_sentences(facts: &[Facts], rules: Rules, expected: &[&str]) {
    assert_eq!(plan(facts, rules).sentences(), expected);
}

#[test]
fn a_plan_for_one_device_reads_aloud() {
    check_sentences(
        &[facts("Hall")],
        Rules::default(),
        &[
            "Hall is updated: it runs 3.0 and gets 3.1.1.",
            "After that it is watched for 2 minutes.",
            "It takes about 3 minutes.",
        ],
    );
}

#[test]
fn a_plan_for_a_house_reads_aloud() {
    let mut hall = facts("Hall");
    hall.signal_dbm = Some(-40);
    let mut attic = facts("Attic");
    attic.group = Some("roof".to_owned());
    let mut bath = facts("Bath");
    bath.group = Some("roof".to_owned());
    bath.choice = Ok(Choice {
        image_name: "C6 1.4".to_owned(),
        interrupts: Some("Ventilation pauses about 3 minutes.".to_owned()),
        way_back: None,
        ..choice()
    });
    let mut cellar = facts("Cellar");
    cellar.standing = State::Offline;
    let mut shed = facts("Shed");
    shed.enrolled = false;
    check_sentences(
        &[hall, attic, bath, cellar, shed],
        when_back(Rules::default()),
        &[
            "3 devices get 3.1.1, 1 device gets C6 1.4.",
            "Hall goes first; the others follow only after it has been updated and has run for 10 minutes.",
            "At most 4 are updated at the same time to begin with, and more as long as that makes it quicker.",
            "Of the group roof, at most 1 at the same time.",
            "It halts if the one that goes first fails, and later with 2 failures.",
            "Each of the others is watched for 2 minutes after its update.",
            "It takes about 17 minutes for those that answer.",
            "Cellar does not answer; it is updated if it is back before the deadline.",
            "Bath: Ventilation pauses about 3 minutes.",
            "Bath: What it runs now is not kept here, so that could not be pushed again.",
            "Shed is left out: It was found, but nobody has said that it belongs to you. \
             If it is yours, enrol it first: reflash device enroll ir-remote-Shed",
        ],
    );
}

#[test]
fn a_plan_for_many_reads_aloud() {
    let mut fleet = many(25);
    for facts in &mut fleet[20..] {
        facts.excluded = true;
    }
    check_sentences(
        &fleet,
        Rules {
            canary: 2,
            canary_soak: Duration::ZERO,
            soak: Duration::ZERO,
            at_once: AtOnce::AtMost(1),
            max_failures: MaxFailures::Percent(5),
            ..Rules::default()
        },
        &[
            "20 devices get 3.1.1.",
            "d0000 and d0001 go first; the others follow only after they have been updated.",
            "These come in 3 waves of 2, 7 and 9; each begins when those that answer in the one before have ended.",
            "They are updated one after the other.",
            "It halts if one of those that go first fails, and later as soon as more than 5 % of the devices have failed.",
            "It takes about 20 minutes.",
            "d0020, d0021, d0022 and 2 more are left out: It was excluded by name. To update it as well, take it off --exclude.",
        ],
    );
}

fn in_window(duration: Duration) -> Rules {
    Rules {
        window: Some(crate::window::Window {
            name: "night".to_owned(),
            start_s: 7_200,
            duration,
            days: 0b1_0001,
            timezone: Some("Europe/Vilnius".to_owned()),
        }),
        ..Rules::default()
    }
}

#[test]
fn a_plan_with_a_window_says_when_it_opens() {
    let plan = plan(&many(2), in_window(Duration::from_hours(3)));
    let said = plan.sentences();
    assert!(
        said.contains(
            &"Nothing begins outside the window night, which opens at 02:00 on Monday and Friday (Europe/Vilnius) \
              for 3 hours; what would not have ended when it closes waits for the next."
                .to_owned()
        ),
        "{said:?}"
    );
    let without = super::plan(&many(2), Rules::default());
    assert_eq!(plan.estimate(), without.estimate(), "it takes as long as without");
}

#[test]
fn an_update_that_fits_into_no_opening_of_its_window_is_left_out() {
    let minutes = |n_facts: usize, minutes| {
        let plan = plan(&many(n_facts), in_window(Duration::from_mins(minutes)));
        let left_out = plan.left_out.iter().map(|left_out| left_out.reason.rule.clone());
        (plan.members.len(), left_out.collect::<Vec<_>>())
    };
    // A minute, and two that it is watched; whoever may go first is watched for ten.
    assert_eq!(minutes(1, 3), (1, vec![]));
    assert_eq!(minutes(1, 2), (0, vec!["window-too-short".to_owned()]));
    assert_eq!(minutes(2, 11), (2, vec![]));
    assert_eq!(minutes(2, 10).0, 0);
}

#[test]
fn a_plan_for_nobody_reads_aloud() {
    let mut hall = facts("Hall");
    hall.standing = State::Offline;
    check_sentences(
        &[hall.clone()],
        Rules::default(),
        &[
            "No device is updated.",
            "Hall is left out: It does not answer. To update it when it is back, add --when-back 12h.",
        ],
    );
    // Waited for, but nothing can be said of how long that takes.
    let mut attic = hall.clone();
    attic.device = id("Attic");
    attic.name = "Attic".to_owned();
    check_sentences(
        &[hall, attic],
        when_back(Rules::default()),
        &[
            "2 devices get 3.1.1.",
            "The first that is back goes first; the others follow only after it has been updated and has run for 10 minutes.",
            "At most 4 are updated at the same time to begin with, and more as long as that makes it quicker.",
            "It halts if the one that goes first fails, and later with 2 failures.",
            "Each of the others is watched for 2 minutes after its update.",
            "Attic and Hall do not answer; they are updated if they are back before the deadline.",
        ],
    );
}
