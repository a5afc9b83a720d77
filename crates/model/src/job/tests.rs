//! One test per sentence of DESIGN.md, "What is settled", that a job decides; in virtual time.

mod again;

use super::*;
use crate::device::{Hardware, Health, Ota};
use crate::family::{FaultKind, Reach, Reason};
use crate::id::FamilyId;
use crate::image::{Override, Refusal};
use crate::installed::Standing;

const OLD: &str = "1.0";
const NEW: &str = "2.0";
/// When the device booted, on our clock.
const BOOTED_S: u64 = 1_000;
/// When the job begins.
const BEGIN_S: u64 = 5_000;

fn ours() -> DeviceId {
    DeviceId::from_hardware(&FamilyId::new("ir-remote"), "a0b1c2d3e4f5")
}

fn stranger() -> DeviceId {
    DeviceId::from_hardware(&FamilyId::new("ir-remote"), "ffffffffffff")
}

fn versions(text: &str) -> Versions {
    Versions::one("firmware", text)
}

fn order() -> Order {
    Order {
        device: ours(),
        image: ImageInfo {
            version_source: crate::image::VersionSource::Image,
            family: None,
            kind: "esp-app".to_owned(),
            chip: None,
            versions: Some(versions(NEW)),
            hint: None,
            project: None,
            signature: None,
            len_bytes: 3,
            sha256: Sha256::of(b"new"),
            warnings: Vec::new(),
        },
        method: Method::new("espota"),
        timing: Timing {
            push: Duration::from_secs(20),
            quiet: Duration::from_secs(5),
            gone_within: Duration::from_secs(30),
            back_within: Duration::from_mins(3),
            look_every: Duration::from_secs(2),
        },
        soak: Duration::from_secs(10),
        proof: Proof::Watched,
        record: None,
        rollout: None,
        max_pushes: MAX_PUSHES,
    }
}

fn undo() -> Undo {
    Undo {
        text: "turn OTA off again".to_owned(),
        value: serde_json::Value::Null,
    }
}

fn fault(kind: FaultKind, reason: Reason, reach: Reach) -> Fault {
    Fault {
        kind,
        reason,
        text: "What happened.".to_owned(),
        reach,
        failed_answers: 0,
        next_step: None,
        said: None,
    }
}

fn silent() -> Fault {
    fault(FaultKind::Unreachable, Reason::NoAnswer, Reach::Nothing)
}

#[expect(clippy::unnecessary_wraps, reason = "it stands where the broken ends stand")]
fn ok() -> Result<Verdict, Fault> {
    Ok(Verdict {
        text: "OK".to_owned(),
    })
}

fn died_in_mid_stream() -> Result<Verdict, Fault> {
    Err(fault(FaultKind::Unsure, Reason::MidStream, Reach::Part))
}

fn verdict_lost() -> Result<Verdict, Fault> {
    Err(fault(FaultKind::Unsure, Reason::VerdictLost, Reach::Whole))
}

fn wanted() -> Precheck {
    Precheck {
        standing: Standing::Wanted,
        refusals: Vec::new(),
        overridden: Vec::new(),
    }
}

/// A job, what it asks for, and a device whose boots the test decides.
struct Bench {
    job: Job,
    act: Act,
    now: Now,
    booted: Now,
    shows: &'static str,
    tells_uptime: bool,
    id: DeviceId,
    undo: Option<Undo>,
}

impl Bench {
    fn of(order: Order) -> Self {
        let at = |boot_s| Now {
            boot: Duration::from_secs(boot_s),
            wall_ms: 1_700_000_000_000 + i64::try_from(boot_s).unwrap() * 1_000,
        };
        let id = order.device.clone();
        let (job, act) = next(Job::new(order), Seen::Begun, at(BEGIN_S));
        Self {
            job,
            act,
            now: at(BEGIN_S),
            booted: at(BOOTED_S),
            shows: OLD,
            tells_uptime: true,
            id,
            undo: Some(undo()),
        }
    }

    fn new() -> Self {
        Self::of(order())
    }

    fn see(&mut self, seen: Seen) -> &mut Self {
        let (job, act) = next(self.job.clone(), seen, self.now);
        self.job = job;
        self.act = act;
        self
    }

    fn wait(&mut self, secs: u64) -> &mut Self {
        self.now = self.now.later(Duration::from_secs(secs));
        self
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            id: self.id.clone(),
            versions: versions(self.shows),
            uptime: self.tells_uptime.then(|| self.now.since(self.booted)),
            ota: Ota::Enabled,
            busy: false,
            host_name: None,
            hardware: Hardware::default(),
            health: Health::default(),
        }
    }

    fn check_with(&mut self, precheck: Precheck) -> &mut Self {
        let undo = self.undo.clone();
        let snapshot = self.snapshot();
        self.see(Seen::Checked(Ok((snapshot, precheck, undo))))
    }

    fn prepare(&mut self) -> &mut Self {
        let snapshot = self.snapshot();
        self.see(Seen::Prepared(Ok(snapshot)))
    }

    /// From the first look to the moment when the image is sent.
    fn until_pushing(&mut self) -> &mut Self {
        self.check_with(wanted()).see(Seen::Committed).prepare();
        self.see(Seen::Committed);
        assert_eq!(self.act, Act::Push);
        self
    }

    fn push(&mut self, result: Result<Verdict, Fault>) -> &mut Self {
        let took = Duration::from_secs(20);
        self.wait(20);
        self.see(Seen::Pushed { result, took })
    }

    fn look(&mut self, label: Label) -> &mut Self {
        let snapshot = self.snapshot();
        self.see(Seen::Looked(Ok((snapshot, label))))
    }

    fn silence(&mut self) -> &mut Self {
        self.see(Seen::Looked(Err(silent())))
    }

    /// The device restarts now and shows this from then on.
    fn restart(&mut self, shows: &'static str) -> &mut Self {
        self.booted = self.now;
        self.shows = shows;
        self
    }

    fn restore(&mut self) -> &mut Self {
        assert!(matches!(self.act, Act::Undo { .. }), "{:?}", self.act);
        self.see(Seen::Undone(Ok(())))
    }

    /// The process is killed; another takes over the job as it stands.
    fn kill(&mut self) -> &mut Self {
        let stored = serde_json::to_string(&self.job).unwrap();
        self.job = serde_json::from_str(&stored).unwrap();
        self.see(Seen::Restarted)
    }

    #[track_caller]
    fn assert_watching(&self) {
        assert!(matches!(self.act, Act::Watch { .. }), "{:?}", self.job.phase);
    }

    #[track_caller]
    fn assert_ended(&self, ending: Ending, reason: Option<&str>) {
        assert_eq!(self.act, Act::Finish, "{:?}", self.job.phase);
        let outcome = self.job.outcome().unwrap();
        assert_eq!(
            (outcome.ending, outcome.reason.as_deref()),
            (ending, reason),
            "{outcome:?}"
        );
    }
}

// The order of the acts.

#[test]
fn an_update_goes_from_a_look_to_a_soak_and_puts_back_what_it_changed() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.act,
        Act::Probe {
            after: Duration::ZERO
        }
    );
    bench.check_with(wanted());
    assert_eq!((&bench.act, bench.job.undo.is_some()), (&Act::CommitUndo, true));
    bench.see(Seen::Committed);
    assert_eq!(bench.act, Act::Prepare);
    bench.prepare();
    assert_eq!((&bench.act, bench.job.n_pushes), (&Act::CommitIntent, 1));
    bench.see(Seen::Committed);
    assert_eq!(bench.act, Act::Push);
    bench.push(ok());
    bench.assert_watching();
    bench.wait(2).silence().assert_watching();
    bench.wait(8).restart(NEW).wait(2).look(Label::Target);
    assert_eq!(bench.job.phase.name(), "soaking");
    bench.wait(9).look(Label::Target).assert_watching();
    bench.wait(1).look(Label::Target).restore();
    bench.assert_ended(Ending::Updated, None);
    assert_eq!(bench.job.undo, None);
    assert_eq!(bench.job.evidence.away, Some(Duration::from_secs(10)));
    assert_eq!(bench.job.evidence.watched, Some(Duration::from_secs(10)));
}

#[test]
fn without_an_undo_nothing_is_put_back() {
    let mut bench = Bench::new();
    bench.undo = None;
    bench.until_pushing().push(ok());
    bench.wait(5).restart(NEW).wait(2).look(Label::Target);
    bench.wait(10).look(Label::Target);
    bench.assert_ended(Ending::Updated, None);
}

#[test]
fn a_doubled_message_asks_for_the_same_again() {
    let mut bench = Bench::new();
    bench.check_with(wanted());
    let before = bench.job.clone();
    bench.check_with(wanted());
    assert_eq!((&bench.job, &bench.act), (&before, &Act::CommitUndo));
    bench.look(Label::Target);
    assert_eq!((&bench.job, &bench.act), (&before, &Act::CommitUndo));
}

// Before the first byte.

#[test]
fn a_silent_device_is_asked_three_times_and_then_failed_for_no_answer() {
    let mut bench = Bench::new();
    for _ in 0..2 {
        bench.see(Seen::Checked(Err(silent())));
        assert_eq!(
            bench.act,
            Act::Probe {
                after: Duration::from_secs(1)
            }
        );
    }
    bench.see(Seen::Checked(Err(silent())));
    bench.assert_ended(Ending::Failed, Some("no answer"));
    assert_eq!((bench.job.n_pushes, bench.job.record_after()), (0, None));
}

#[test]
fn a_device_that_says_no_is_not_asked_again() {
    let mut bench = Bench::new();
    let no = fault(FaultKind::Refused, Reason::WrongPassword, Reach::Nothing);
    bench.see(Seen::Checked(Err(no)));
    bench.assert_ended(Ending::Refused, Some("wrong password"));
}

#[test]
fn no_call_back_is_failed() {
    let mut bench = Bench::new();
    bench.until_pushing().push(Err(fault(
        FaultKind::Unreachable,
        Reason::NoCallBack,
        Reach::Nothing,
    )));
    bench.restore().assert_ended(Ending::Failed, Some("no call-back"));
    assert!(!bench.job.bytes_left);
}

#[test]
fn a_wrong_password_is_refused_and_not_tried_a_second_time() {
    let mut bench = Bench::new();
    bench.until_pushing().push(Err(fault(
        FaultKind::Refused,
        Reason::WrongPassword,
        Reach::Nothing,
    )));
    bench
        .restore()
        .assert_ended(Ending::Refused, Some("wrong password"));
}

#[test]
fn ota_that_stays_off_is_refused() {
    let mut bench = Bench::new();
    bench.check_with(wanted()).see(Seen::Committed);
    let mut snapshot = bench.snapshot();
    snapshot.ota = Ota::Disabled;
    bench.see(Seen::Prepared(Ok(snapshot))).restore();
    bench.assert_ended(Ending::Refused, Some("OTA stays off"));
    assert_eq!(bench.job.n_pushes, 0);
}

#[test]
fn a_refusal_of_the_precheck_ends_the_job_before_anything_is_changed() {
    let mut bench = Bench::new();
    let refusal = |rule: &str, text: &str| Refusal {
        rule: rule.to_owned(),
        text: text.to_owned(),
        next_step: format!("Mend {rule}."),
        overriding: Override::Never,
    };
    bench.check_with(Precheck {
        refusals: vec![
            refusal("wrong-chip", "Another chip."),
            refusal("truncated", "Cut off."),
        ],
        ..wanted()
    });
    bench.assert_ended(Ending::Refused, Some("wrong-chip"));
    assert_eq!(bench.job.outcome().unwrap().text, "Another chip. Cut off.");
    assert_eq!(bench.job.undo, None);
}

#[test]
fn what_was_overridden_is_recorded() {
    let mut bench = Bench::new();
    bench.check_with(Precheck {
        overridden: vec![Refusal {
            rule: "downgrade".to_owned(),
            text: String::new(),
            next_step: String::new(),
            overriding: Override::Possible,
        }],
        ..wanted()
    });
    assert_eq!(
        (&bench.act, &bench.job.overridden),
        (&Act::CommitUndo, &vec!["downgrade".to_owned()])
    );
}

#[test]
fn a_device_at_the_target_is_not_touched() {
    let mut bench = Bench::new();
    bench.check_with(Precheck {
        standing: Standing::AlreadyCurrent,
        ..wanted()
    });
    bench.assert_ended(Ending::AlreadyCurrent, None);
    assert_eq!(
        (
            bench.job.n_pushes,
            bench.job.undo.clone(),
            bench.job.record_after()
        ),
        (0, None, None)
    );
}

// Identity.

#[test]
fn another_device_at_the_first_look_is_refused() {
    let mut bench = Bench::new();
    bench.id = stranger();
    bench.check_with(wanted());
    bench.assert_ended(Ending::Refused, Some("identity"));
    assert_eq!(bench.job.undo, None);
}

#[test]
fn another_device_just_before_the_push_gets_no_byte() {
    let mut bench = Bench::new();
    bench.check_with(wanted()).see(Seen::Committed);
    bench.id = stranger();
    bench.prepare().restore();
    bench.assert_ended(Ending::Refused, Some("identity"));
    assert_eq!(bench.job.n_pushes, 0);
}

#[test]
fn another_device_at_the_address_afterwards_is_not_taken_for_ours() {
    let mut bench = Bench::new();
    bench.until_pushing().push(ok());
    bench.id = stranger();
    bench.restart(NEW).wait(60).look(Label::Target).assert_watching();
    bench.wait(120).look(Label::Target).restore();
    bench.assert_ended(Ending::Unverified, Some("no return"));
}

#[test]
fn another_device_in_the_soak_is_not_taken_for_ours() {
    let mut bench = Bench::new();
    bench.until_pushing().push(ok());
    bench.wait(5).restart(NEW).wait(1).look(Label::Target);
    bench.id = stranger();
    bench.wait(10).look(Label::Target).assert_watching();
    bench.wait(180).look(Label::Target).restore();
    bench.assert_ended(Ending::Unverified, Some("no return"));
}

fn weak_order() -> Order {
    Order {
        device: DeviceId::weak(&FamilyId::new("komfovent"), "10.0.0.7"),
        ..order()
    }
}

#[test]
fn a_weak_identity_is_pushed_to_while_the_versions_are_those_of_the_last_poll() {
    Bench::of(weak_order()).until_pushing();
}

#[test]
fn a_weak_identity_whose_versions_differ_from_the_last_poll_is_refused() {
    let mut bench = Bench::of(weak_order());
    bench.check_with(wanted()).see(Seen::Committed);
    bench.shows = "1.1";
    bench.prepare().restore();
    bench.assert_ended(Ending::Refused, Some("identity"));
    assert_eq!(bench.job.n_pushes, 0);
}

#[test]
fn a_weak_identity_whose_controller_type_differs_from_the_last_poll_is_refused() {
    let mut bench = Bench::of(weak_order());
    bench.check_with(wanted()).see(Seen::Committed);
    let mut snapshot = bench.snapshot();
    snapshot.hardware.model = Some("C6M".to_owned());
    bench.see(Seen::Prepared(Ok(snapshot))).restore();
    bench.assert_ended(Ending::Refused, Some("identity"));
}

#[test]
fn a_hardware_identity_may_show_another_version_than_at_the_last_poll() {
    let mut bench = Bench::new();
    bench.check_with(wanted()).see(Seen::Committed);
    bench.shows = "1.1";
    bench.prepare();
    assert_eq!(bench.act, Act::CommitIntent);
}

// Outcomes of an accepted push.

#[test]
fn ok_and_a_restart_under_an_unmoved_label_is_updated_label_unchanged() {
    let mut bench = Bench::new();
    bench.until_pushing().push(ok());
    bench.wait(5).restart(OLD).wait(2).look(Label::Unmoved);
    bench.wait(10).look(Label::Unmoved).restore();
    bench.assert_ended(Ending::UpdatedLabelUnchanged, Some("label unchanged"));
}

#[test]
fn a_third_version_is_unverified_without_a_soak() {
    let mut bench = Bench::new();
    bench.until_pushing().push(ok());
    bench.wait(5).restart("9.9").wait(2).look(Label::Other).restore();
    bench.assert_ended(Ending::Unverified, Some("version mismatch"));
}

#[test]
fn the_old_version_back_is_rolled_back() {
    let mut bench = Bench::new();
    bench.until_pushing().push(ok());
    bench.wait(5).restart(OLD).wait(2).look(Label::Old).restore();
    bench.assert_ended(Ending::RolledBack, Some("old version came back"));
}

#[test]
fn a_roll_back_in_the_soak_is_seen() {
    let mut bench = Bench::new();
    bench.until_pushing().push(ok());
    bench.wait(5).restart(NEW).wait(2).look(Label::Target);
    bench
        .wait(4)
        .restart(OLD)
        .wait(2)
        .look(Label::Old)
        .assert_watching();
    bench.wait(10).look(Label::Old).restore();
    bench.assert_ended(Ending::RolledBack, Some("old version came back"));
}

#[test]
fn ok_without_a_restart_is_not_applied_after_thirty_seconds_and_not_before() {
    let mut bench = Bench::new();
    bench.until_pushing().push(ok());
    bench.wait(29).look(Label::Unmoved).assert_watching();
    bench.wait(1).look(Label::Unmoved).restore();
    bench.assert_ended(Ending::Failed, Some("not applied"));
}

#[test]
fn a_device_that_is_gone_late_but_within_its_bound_is_updated() {
    let mut bench = Bench::new();
    bench.until_pushing().push(ok());
    bench.wait(29).look(Label::Unmoved).assert_watching();
    bench.wait(1).silence().assert_watching();
    bench.wait(149).restart(NEW).look(Label::Target);
    bench.wait(10).look(Label::Target).restore();
    bench.assert_ended(Ending::Updated, None);
}

#[test]
fn a_device_that_is_not_back_after_three_minutes_is_no_return() {
    let mut bench = Bench::new();
    bench.until_pushing().push(ok());
    bench.wait(179).silence().assert_watching();
    bench.wait(1).silence().restore();
    bench.assert_ended(Ending::Unverified, Some("no return"));
}

#[test]
fn the_bounds_are_those_of_the_order() {
    let mut order = order();
    order.timing.back_within = Duration::from_mins(5);
    let mut bench = Bench::of(order);
    bench.until_pushing().push(ok());
    bench.wait(299).silence().assert_watching();
    bench.wait(1).silence().restore();
    bench.assert_ended(Ending::Unverified, Some("no return"));
}

#[test]
fn a_fast_restart_between_two_looks_is_seen_by_the_uptime() {
    let mut bench = Bench::new();
    bench.booted = bench.now;
    bench.wait(3).until_pushing().push(ok());
    // Up for longer than before the push, and yet booted since.
    bench.restart(NEW).wait(25).look(Label::Target);
    bench.wait(10).look(Label::Target).restore();
    bench.assert_ended(Ending::Updated, None);
}

#[test]
fn one_part_alone_is_partial_once_the_other_had_its_time_and_is_not_tried_again() {
    let panel = || Label::Partial("panel".to_owned());
    let mut bench = Bench::new();
    bench.until_pushing().push(ok());
    bench.wait(5).restart("half").wait(2).look(panel());
    bench.wait(172).look(panel()).assert_watching();
    bench.wait(1).look(panel()).restore();
    bench.assert_ended(Ending::Failed, Some("partial"));
    assert_eq!(bench.job.n_pushes, 1);
}

#[test]
fn the_second_part_may_come_later() {
    let mut bench = Bench::new();
    bench.until_pushing().push(ok());
    bench
        .wait(5)
        .restart("half")
        .wait(2)
        .look(Label::Partial("panel".to_owned()));
    bench.wait(100).restart(NEW).look(Label::Target);
    bench.wait(10).look(Label::Target).restore();
    bench.assert_ended(Ending::Updated, None);
}

#[test]
fn a_part_that_was_the_images_before_is_no_part_of_an_update_that_never_arrived() {
    let panel = || Label::Partial("panel".to_owned());
    let mut bench = Bench::new();
    bench.tells_uptime = false;
    bench.job.order.timing.quiet = Duration::from_mins(1);
    bench.until_pushing().push(died_in_mid_stream());
    bench.wait(59).look(panel()).assert_watching();
    bench.wait(1).look(panel());
    assert_eq!(bench.act, Act::Prepare);
    let busy = Err(fault(FaultKind::Refused, Reason::Busy, Reach::Whole));
    bench
        .prepare()
        .see(Seen::Committed)
        .push(busy)
        .look(panel())
        .restore();
    bench.assert_ended(Ending::KeptOld, Some("busy"));
}

#[test]
fn a_panel_may_still_come_after_a_lost_verdict_and_is_not_partial_if_it_does_not() {
    let panel = || Label::Partial("panel".to_owned());
    let mut bench = Bench::new();
    bench.tells_uptime = false;
    bench.until_pushing().push(verdict_lost());
    bench.wait(5).silence();
    bench.wait(90).look(panel()).assert_watching();
    bench.wait(85).look(panel()).restore();
    bench.assert_ended(Ending::Unverified, Some("verdict lost"));
}

#[test]
fn the_familys_advice_goes_with_a_device_that_does_not_come_back() {
    let mut bench = Bench::new();
    bench.until_pushing().push(ok());
    let advised = silent().advise("Look for it at 192.168.0.60.");
    bench.wait(180).see(Seen::Looked(Err(advised))).restore();
    bench.assert_ended(Ending::Unverified, Some("no return"));
    let next_step = bench.job.outcome().unwrap().next_step.clone();
    assert_eq!(next_step.as_deref(), Some("Look for it at 192.168.0.60."));
}

#[test]
fn the_familys_advice_goes_with_a_refusal_before_the_first_byte() {
    let mut bench = Bench::new();
    bench.check_with(wanted()).see(Seen::Committed);
    let busy = fault(FaultKind::Refused, Reason::Busy, Reach::Nothing).advise("Close its web page.");
    bench.see(Seen::Prepared(Err(busy))).restore();
    bench.assert_ended(Ending::Refused, Some("busy"));
    let next_step = bench.job.outcome().unwrap().next_step.clone();
    assert_eq!(next_step.as_deref(), Some("Close its web page."));
}

// Devices without an uptime, and without a status API.

#[test]
fn without_an_uptime_away_and_back_is_a_restart() {
    let mut bench = Bench::new();
    bench.tells_uptime = false;
    bench.until_pushing().push(ok());
    bench.wait(5).silence();
    bench.wait(60).restart(OLD).look(Label::Unmoved);
    bench.wait(10).look(Label::Unmoved).restore();
    bench.assert_ended(Ending::UpdatedLabelUnchanged, Some("label unchanged"));
}

#[test]
fn without_an_uptime_and_never_away_an_accepted_image_is_not_applied() {
    let mut bench = Bench::new();
    bench.tells_uptime = false;
    bench.until_pushing().push(ok());
    bench.wait(29).look(Label::Unmoved).assert_watching();
    bench.wait(1).look(Label::Unmoved).restore();
    bench.assert_ended(Ending::Failed, Some("not applied"));
}

#[test]
fn a_sketch_without_a_status_api_is_at_best_unverified() {
    let mut bench = Bench::of(weak_order());
    bench.tells_uptime = false;
    let bare = |bench: &Bench| Snapshot {
        versions: Versions::default(),
        ..bench.snapshot()
    };
    let snapshot = bare(&bench);
    bench.see(Seen::Checked(Ok((snapshot.clone(), wanted(), None))));
    bench.see(Seen::Committed).see(Seen::Prepared(Ok(snapshot)));
    bench.see(Seen::Committed).push(ok());
    bench.wait(2).silence();
    for _ in 0..2 {
        let snapshot = bare(&bench);
        bench
            .wait(10)
            .see(Seen::Looked(Ok((snapshot, Label::Unreadable))));
    }
    bench.assert_ended(Ending::Unverified, Some("no status API"));
}

// Broken pushes.

#[test]
fn a_device_error_with_the_old_version_seen_is_kept_old_at_once() {
    let mut bench = Bench::new();
    bench
        .until_pushing()
        .push(Err(fault(FaultKind::Refused, Reason::DeviceError, Reach::Whole)));
    bench.assert_watching();
    bench.wait(1).look(Label::Unmoved).restore();
    bench.assert_ended(Ending::KeptOld, Some("device error"));
}

#[test]
fn after_a_device_error_silence_is_not_kept_old() {
    let mut bench = Bench::new();
    bench
        .until_pushing()
        .push(Err(fault(FaultKind::Refused, Reason::DeviceError, Reach::Whole)));
    bench.wait(180).silence().restore();
    bench.assert_ended(Ending::Unverified, Some("no return"));
}

#[test]
fn after_an_http_fail_the_restart_is_waited_for_and_then_looked_at() {
    let fail = || {
        Err(fault(
            FaultKind::Refused,
            Reason::DeviceErrorRestarts,
            Reach::Whole,
        ))
    };
    let mut bench = Bench::new();
    bench.until_pushing().push(fail());
    bench.wait(1).look(Label::Unmoved).assert_watching();
    bench.wait(9).restart(OLD).wait(2).look(Label::Unmoved).restore();
    bench.assert_ended(Ending::KeptOld, Some("device error"));

    let mut bench = Bench::new();
    bench.until_pushing().push(fail());
    bench.wait(10).restart(NEW).wait(2).look(Label::Target);
    bench.wait(10).look(Label::Target).restore();
    bench.assert_ended(Ending::Updated, None);
}

#[test]
fn a_lost_verdict_with_the_new_label_seen_is_updated() {
    let mut bench = Bench::new();
    bench.until_pushing().push(verdict_lost());
    bench.wait(5).restart(NEW).wait(2).look(Label::Target);
    bench.wait(10).look(Label::Target).restore();
    bench.assert_ended(Ending::Updated, None);
}

#[test]
fn a_lost_verdict_without_a_restart_and_the_old_seen_is_kept_old_once_the_restart_is_overdue() {
    let mut bench = Bench::new();
    bench.until_pushing().push(verdict_lost());
    bench.wait(29).look(Label::Unmoved).assert_watching();
    bench.wait(1).look(Label::Unmoved).restore();
    bench.assert_ended(Ending::KeptOld, Some("verdict lost"));
    assert_eq!(bench.job.n_pushes, 1);
}

#[test]
fn a_lost_verdict_and_a_restart_under_an_unmoved_label_is_unverified() {
    let mut bench = Bench::new();
    bench.until_pushing().push(verdict_lost());
    bench.wait(5).restart(OLD).wait(2).look(Label::Unmoved).restore();
    bench.assert_ended(Ending::Unverified, Some("verdict lost"));
}

#[test]
fn without_an_uptime_silence_after_a_broken_push_is_no_restart() {
    let mut bench = Bench::new();
    bench.tells_uptime = false;
    bench.until_pushing().push(died_in_mid_stream());
    bench.wait(2).silence();
    // It answers again and is still busy with the dead transfer.
    bench.wait(2).look(Label::Unmoved).assert_watching();
    bench.wait(1).look(Label::Unmoved);
    assert_eq!(bench.act, Act::Prepare);
}

// The second push.

/// To the end of a first push that died in mid-stream, with the old version seen.
fn after_one_death() -> Bench {
    let mut bench = Bench::new();
    bench.until_pushing().push(died_in_mid_stream());
    bench.wait(4).look(Label::Unmoved).assert_watching();
    bench.wait(1).look(Label::Unmoved);
    bench
}

#[test]
fn a_death_in_mid_stream_is_followed_by_one_more_push_once_the_device_is_quiet() {
    let mut bench = after_one_death();
    assert_eq!(bench.act, Act::Prepare);
    bench.prepare();
    assert_eq!((&bench.act, bench.job.n_pushes), (&Act::CommitIntent, 2));
    bench.see(Seen::Committed);
    assert_eq!(bench.act, Act::Push);
    bench.push(ok()).wait(5).restart(NEW).wait(2).look(Label::Target);
    bench.wait(10).look(Label::Target).restore();
    bench.assert_ended(Ending::Updated, None);
}

#[test]
fn a_second_death_is_the_last() {
    let mut bench = after_one_death();
    bench.prepare().see(Seen::Committed).push(died_in_mid_stream());
    bench.wait(5).look(Label::Unmoved).restore();
    bench.assert_ended(Ending::KeptOld, Some("transfer broke off"));
    assert_eq!(bench.job.n_pushes, 2);
}

#[test]
fn no_other_end_is_followed_by_a_second_push() {
    for result in [
        Err(fault(FaultKind::Refused, Reason::DeviceError, Reach::Part)),
        verdict_lost(),
        Err(fault(FaultKind::Unsure, Reason::Cancelled, Reach::Part)),
        ok(),
    ] {
        let mut bench = Bench::new();
        bench.until_pushing().push(result).wait(30).look(Label::Unmoved);
        assert!(matches!(bench.act, Act::Undo { .. }), "{:?}", bench.act);
        assert_eq!(bench.job.n_pushes, 1);
    }
}

#[test]
fn a_death_in_mid_stream_is_not_followed_by_a_push_unless_the_old_version_was_seen() {
    for label in [Label::Other, Label::Unreadable, Label::Target] {
        let mut bench = Bench::new();
        bench.until_pushing().push(died_in_mid_stream());
        bench.wait(180).look(label.clone()).restore();
        assert_eq!(bench.act, Act::Finish, "{label:?}");
    }
}

#[test]
fn before_the_second_push_the_identity_is_read_again() {
    let mut bench = after_one_death();
    bench.id = stranger();
    bench.prepare().restore();
    assert_eq!((&bench.act, bench.job.n_pushes), (&Act::Finish, 1));
}

#[test]
fn a_second_push_that_does_not_begin_is_kept_old_for_bytes_had_gone_out() {
    let mut bench = after_one_death();
    bench.see(Seen::Prepared(Err(silent()))).restore();
    bench.assert_ended(Ending::KeptOld, Some("no answer"));

    let mut bench = after_one_death();
    bench.id = stranger();
    bench.prepare().restore();
    bench.assert_ended(Ending::KeptOld, Some("identity"));

    let mut bench = after_one_death();
    let no = fault(FaultKind::Refused, Reason::WrongPassword, Reach::Nothing);
    bench.prepare().see(Seen::Committed).push(Err(no)).restore();
    bench.assert_ended(Ending::KeptOld, Some("wrong password"));

    let mut bench = after_one_death();
    bench.kill().restore();
    bench.assert_ended(Ending::KeptOld, Some("interrupted"));
}

#[test]
fn without_a_stored_intent_there_is_no_second_push() {
    let mut bench = after_one_death();
    bench.prepare().see(Seen::NotCommitted).restore();
    bench.assert_ended(Ending::KeptOld, Some("not stored"));
    assert_eq!(bench.job.n_pushes, 1);
}

#[test]
fn a_cancel_before_the_second_push_does_not_say_that_no_byte_was_sent() {
    let mut bench = after_one_death();
    bench.see(Seen::Cancel).restore();
    bench.assert_ended(Ending::Cancelled, Some("cancelled"));
    let text = &bench.job.outcome().unwrap().text;
    assert!(text.contains("broke off"), "{text}");
}

// --no-verify.

#[test]
fn no_verify_ends_with_the_devices_ok_and_says_so() {
    let mut order = order();
    order.proof = Proof::NotAsked;
    let mut bench = Bench::of(order);
    bench.until_pushing().push(ok()).restore();
    bench.assert_ended(Ending::Unverified, Some("not asked"));
    assert_eq!(bench.job.record_after().unwrap().digest, None);
}

#[test]
fn no_verify_still_looks_after_a_push_without_an_ok() {
    let mut order = order();
    order.proof = Proof::NotAsked;
    let mut bench = Bench::of(order);
    bench.until_pushing().push(verdict_lost()).assert_watching();
}

// The soak.

fn soaking() -> Bench {
    let mut bench = Bench::new();
    bench.until_pushing().push(ok());
    bench.wait(5).restart(NEW).wait(2).look(Label::Target);
    bench
}

#[test]
fn a_first_restart_in_the_soak_soaks_once_more() {
    let mut bench = soaking();
    bench
        .wait(5)
        .restart(NEW)
        .wait(1)
        .look(Label::Target)
        .assert_watching();
    bench.wait(9).look(Label::Target).assert_watching();
    bench.wait(1).look(Label::Target).restore();
    bench.assert_ended(Ending::Updated, None);
}

#[test]
fn a_second_restart_in_the_soak_is_a_boot_loop() {
    let mut bench = soaking();
    bench.wait(5).restart(NEW).wait(1).look(Label::Target);
    bench.wait(5).restart(NEW).wait(1).look(Label::Target).restore();
    bench.assert_ended(Ending::Failed, Some("boot loop"));
}

#[test]
fn a_device_that_goes_away_in_the_soak_and_stays_away_is_no_return() {
    let mut bench = soaking();
    bench.wait(5).silence();
    bench.wait(184).silence().assert_watching();
    bench.wait(1).silence().restore();
    bench.assert_ended(Ending::Unverified, Some("no return"));
}

#[test]
fn a_soak_of_no_length_is_left_out() {
    let mut order = order();
    order.soak = Duration::ZERO;
    let mut bench = Bench::of(order);
    bench.until_pushing().push(ok());
    bench.wait(5).restart(NEW).wait(2).look(Label::Target).restore();
    bench.assert_ended(Ending::Updated, None);
}

// Cancel.

#[test]
fn a_cancel_before_the_first_byte_ends_the_job_and_puts_back() {
    let mut bench = Bench::new();
    bench
        .see(Seen::Cancel)
        .assert_ended(Ending::Cancelled, Some("cancelled"));

    let steps: [fn(&mut Bench); 3] = [
        |_| {},
        |bench| {
            bench.see(Seen::Committed);
        },
        |bench| {
            bench.see(Seen::Committed).prepare();
        },
    ];
    for step in steps {
        let mut bench = Bench::new();
        bench.check_with(wanted());
        step(&mut bench);
        let phase = bench.job.phase.clone();
        bench.see(Seen::Cancel).restore();
        bench.assert_ended(Ending::Cancelled, Some("cancelled"));
        assert!(!bench.job.bytes_left, "{phase:?}");
        // What was asked for before may still be answered.
        bench.see(Seen::Committed);
        assert_eq!(bench.act, Act::Finish);
    }
}

#[test]
fn a_cancel_before_the_invitation_is_answered_is_cancelled() {
    let mut bench = Bench::new();
    bench.until_pushing().see(Seen::Cancel);
    assert!(bench.job.cancelled);
    bench.push(Err(fault(FaultKind::Refused, Reason::Cancelled, Reach::Nothing)));
    bench.restore().assert_ended(Ending::Cancelled, Some("cancelled"));
}

#[test]
fn a_cancel_in_mid_stream_is_cancelled_once_the_old_version_was_seen() {
    let mut bench = Bench::new();
    bench.until_pushing().see(Seen::Cancel);
    bench.push(Err(fault(FaultKind::Refused, Reason::Cancelled, Reach::Part)));
    bench.wait(4).look(Label::Unmoved).assert_watching();
    bench.wait(1).look(Label::Unmoved).restore();
    bench.assert_ended(Ending::Cancelled, Some("cancelled"));
}

#[test]
fn a_cancel_after_the_last_byte_is_too_late() {
    let mut bench = Bench::new();
    bench.until_pushing().see(Seen::Cancel).push(ok());
    bench.see(Seen::Cancel).assert_watching();
    bench.wait(5).restart(NEW).wait(2).look(Label::Target);
    bench.see(Seen::Cancel).assert_watching();
    bench.wait(10).look(Label::Target);
    bench.see(Seen::Cancel).restore();
    bench.see(Seen::Cancel).assert_ended(Ending::Updated, None);
}

#[test]
fn a_cancelled_job_is_not_pushed_a_second_time() {
    let mut bench = Bench::new();
    bench.until_pushing().push(died_in_mid_stream()).see(Seen::Cancel);
    bench.wait(5).look(Label::Unmoved).restore();
    bench.assert_ended(Ending::KeptOld, Some("transfer broke off"));
    assert_eq!(bench.job.n_pushes, 1);
}

// Undo.

#[test]
fn an_undo_that_fails_is_tried_three_times_and_then_left_pending() {
    let mut bench = Bench::new();
    bench.until_pushing().push(ok()).wait(180).silence();
    for _ in 0..2 {
        bench.see(Seen::Undone(Err(silent())));
        assert_eq!(
            bench.act,
            Act::Undo {
                after: Duration::from_secs(1)
            }
        );
    }
    bench.see(Seen::Undone(Err(silent())));
    bench.assert_ended(Ending::Unverified, Some("no return"));
    assert_eq!(bench.job.undo, Some(undo()));
}

#[test]
fn an_undo_that_succeeds_later_is_no_longer_pending() {
    let mut bench = Bench::new();
    bench.until_pushing().push(ok()).wait(180).silence();
    bench.see(Seen::Undone(Err(silent()))).restore();
    bench.assert_ended(Ending::Unverified, Some("no return"));
    assert_eq!(bench.job.undo, None);
}

// After a kill.

#[test]
fn killed_before_anything_was_changed_the_job_is_over() {
    let mut bench = Bench::new();
    bench.kill().assert_ended(Ending::Cancelled, Some("interrupted"));
}

#[test]
fn killed_while_preparing_the_undo_is_done() {
    for n_committed in 0..2 {
        let mut bench = Bench::new();
        bench.check_with(wanted());
        for _ in 0..n_committed {
            bench.see(Seen::Committed);
        }
        bench.kill().restore();
        bench.assert_ended(Ending::Cancelled, Some("interrupted"));
        assert_eq!((bench.job.n_pushes, bench.job.undo.clone()), (0, None));
    }
}

#[test]
fn killed_with_the_intent_stored_the_device_is_looked_at_and_not_pushed() {
    for committed in [false, true] {
        let mut bench = Bench::new();
        bench.check_with(wanted()).see(Seen::Committed).prepare();
        if committed {
            bench.see(Seen::Committed);
        }
        bench.kill().assert_watching();
        assert_eq!(bench.job.n_pushes, 1);
    }
}

#[test]
fn killed_while_sending_the_target_seen_afterwards_is_updated() {
    let mut bench = Bench::new();
    bench.until_pushing().kill();
    bench.wait(15).restart(NEW).wait(2).look(Label::Target);
    bench.wait(10).look(Label::Target).restore();
    bench.assert_ended(Ending::Updated, None);
}

#[test]
fn killed_while_sending_a_restart_under_an_unmoved_label_is_unverified() {
    let mut bench = Bench::new();
    bench.until_pushing().kill();
    bench.wait(15).restart(OLD).wait(2).look(Label::Unmoved).restore();
    bench.assert_ended(Ending::Unverified, Some("verdict lost"));
}

#[test]
fn killed_while_sending_the_old_seen_without_a_restart_is_kept_old_and_not_pushed_again() {
    let mut bench = Bench::new();
    bench.until_pushing().kill();
    bench.wait(1).look(Label::Unmoved).assert_watching();
    bench.wait(40).look(Label::Unmoved).restore();
    bench.assert_ended(Ending::KeptOld, Some("interrupted"));
    assert_eq!(bench.job.n_pushes, 1);
}

#[test]
fn killed_while_sending_the_restart_is_waited_for_as_after_a_lost_verdict() {
    let mut bench = Bench::new();
    bench.until_pushing().kill();
    bench.wait(29).look(Label::Unmoved).assert_watching();
    bench.wait(1).restart(NEW).wait(2).look(Label::Target);
    bench.wait(10).look(Label::Target).restore();
    bench.assert_ended(Ending::Updated, None);
}

#[test]
fn killed_while_sending_silence_is_unverified() {
    let mut bench = Bench::new();
    bench.until_pushing().kill();
    bench.wait(180).silence().restore();
    bench.assert_ended(Ending::Unverified, Some("no return"));
}

#[test]
fn killed_while_watching_the_watch_goes_on() {
    let mut bench = Bench::new();
    bench.until_pushing().push(ok()).wait(2).silence().wait(50).kill();
    bench.assert_watching();
    bench.restart(NEW).wait(2).look(Label::Target);
    bench.wait(10).look(Label::Target).restore();
    bench.assert_ended(Ending::Updated, None);
}

#[test]
fn killed_in_the_soak_a_restart_meanwhile_is_counted() {
    let mut bench = soaking();
    bench.wait(5).restart(NEW).wait(1).look(Label::Target);
    bench.kill().assert_watching();
    bench.wait(3).restart(NEW).wait(30).look(Label::Target).restore();
    bench.assert_ended(Ending::Failed, Some("boot loop"));
}

#[test]
fn killed_while_restoring_it_is_done_again() {
    let mut bench = soaking();
    bench.wait(10).look(Label::Target).kill().restore();
    bench.assert_ended(Ending::Updated, None);
}

#[test]
fn killed_when_finished_it_stays_finished() {
    let mut bench = soaking();
    bench.wait(10).look(Label::Target).restore();
    let before = bench.job.clone();
    bench.kill().assert_ended(Ending::Updated, None);
    assert_eq!(bench.job, before);
}

// A restart of this machine.

const DAY_S: i64 = 86_400;

/// Shifts the job to another boot of this machine, which is up for `up_s`, and takes over; the wall clock says that `wall_s` have
/// passed.
fn host_reboot(bench: &mut Bench, wall_s: i64, up_s: u64) {
    let last = bench.now;
    let now = Now {
        boot: Duration::from_secs(up_s),
        wall_ms: last.wall_ms + wall_s * 1_000,
    };
    bench.job.rebase(last, now);
    bench.now = now;
    bench.see(Seen::Restarted);
}

/// What the device answers after a reboot of this machine, when it has been up for so long.
fn look_up_for(bench: &mut Bench, version: &str, uptime: Duration, label: Label) {
    let mut snapshot = bench.snapshot();
    snapshot.versions = versions(version);
    snapshot.uptime = Some(uptime);
    bench.see(Seen::Looked(Ok((snapshot, label))));
}

/// It restarted with the push, and has been up for a day since, in which nobody looked. The wall clock says what it likes of that.
#[test]
fn over_a_reboot_of_this_machine_a_longer_uptime_under_an_unmoved_label_proves_nothing() {
    for wall_s in [-DAY_S, 60, DAY_S, DAY_S + 3_600, 3_650 * DAY_S] {
        for up_s in [10, 5_000] {
            let mut bench = Bench::new();
            bench.until_pushing();
            host_reboot(&mut bench, wall_s, up_s);
            look_up_for(&mut bench, OLD, Duration::from_hours(24), Label::Unmoved);
            bench.wait(40);
            look_up_for(&mut bench, OLD, Duration::from_secs(86_440), Label::Unmoved);
            bench.restore();
            bench.assert_ended(Ending::Unverified, Some("verdict lost"));

            let mut bench = Bench::new();
            bench.until_pushing().push(ok());
            host_reboot(&mut bench, wall_s, up_s);
            bench.wait(40);
            look_up_for(&mut bench, OLD, Duration::from_secs(86_440), Label::Unmoved);
            bench.restore();
            bench.assert_ended(Ending::Unverified, Some("restart not seen"));
        }
    }
}

/// An uptime that is what it would be without a restart is what it would be after one as well.
#[test]
fn over_a_reboot_of_this_machine_an_uptime_that_fits_the_wall_clock_is_no_proof_that_it_stayed() {
    let mut bench = Bench::new();
    bench.until_pushing().push(ok());
    let uptime = bench.now.since(bench.booted);
    host_reboot(&mut bench, 60, 10);
    bench.wait(40);
    look_up_for(&mut bench, OLD, uptime + Duration::from_secs(100), Label::Unmoved);
    bench.restore();
    bench.assert_ended(Ending::Unverified, Some("restart not seen"));
}

#[test]
fn over_a_reboot_of_this_machine_a_shorter_uptime_is_a_restart() {
    for wall_s in [-DAY_S, 60, DAY_S] {
        let mut bench = Bench::new();
        bench.wait(100).until_pushing().push(ok());
        host_reboot(&mut bench, wall_s, 5_000);
        look_up_for(&mut bench, OLD, Duration::from_secs(50), Label::Unmoved);
        assert_eq!(bench.job.phase.name(), "soaking");
    }
}

#[test]
fn over_a_reboot_of_this_machine_a_label_that_moved_proves_the_image_whatever_the_uptime() {
    for wall_s in [-DAY_S, 60, DAY_S] {
        let mut bench = Bench::new();
        bench.booted = bench.now;
        bench.wait(30).until_pushing().push(ok());
        host_reboot(&mut bench, wall_s, 10);
        bench.wait(30);
        look_up_for(&mut bench, NEW, Duration::from_secs(85), Label::Target);
        assert_eq!(bench.job.phase.name(), "soaking");
    }
}

/// Nobody knows how long nobody has looked: a device on its way back gets the whole time for it, and no more.
#[test]
fn over_a_reboot_of_this_machine_a_silent_device_is_waited_for_as_long_as_it_may_take_and_no_longer() {
    for wall_s in [-3_650 * DAY_S, -DAY_S, 60, DAY_S, 3_650 * DAY_S] {
        for up_s in [5, 5_000] {
            let mut bench = Bench::new();
            bench.until_pushing().push(ok()).wait(2).silence();
            host_reboot(&mut bench, wall_s, up_s);
            bench.wait(170).silence().assert_watching();
            bench.wait(10).silence().restore();
            bench.assert_ended(Ending::Unverified, Some("no return"));
        }
    }
}

#[test]
fn over_a_reboot_of_this_machine_a_restart_in_the_soak_is_counted_where_its_uptime_began_after_the_last_look()
{
    let mut bench = soaking();
    bench.wait(5).restart(NEW).wait(1).look(Label::Target);
    host_reboot(&mut bench, 60, 5_000);
    bench.wait(5);
    look_up_for(&mut bench, NEW, Duration::from_secs(4), Label::Target);
    bench.restore();
    bench.assert_ended(Ending::Failed, Some("boot loop"));
}

/// Two looks that were lost are no restart of a device that tells its uptime.
#[test]
fn over_a_reboot_of_this_machine_silence_is_no_restart_unless_the_uptime_began_after_it() {
    for (uptime_s, is_restart) in [(9_000, false), (20, true)] {
        let mut bench = Bench::new();
        bench.booted = bench.now;
        bench.until_pushing().push(ok());
        host_reboot(&mut bench, 60, 300);
        bench.wait(2).silence().wait(2).silence().wait(40);
        look_up_for(&mut bench, OLD, Duration::from_secs(uptime_s), Label::Unmoved);
        if is_restart {
            assert_eq!(bench.job.phase.name(), "soaking");
        } else {
            bench.restore();
            bench.assert_ended(Ending::Unverified, Some("restart not seen"));
        }
    }
}

/// A look that was lost just before the machine went down is no silence, however long the machine was down.
#[test]
fn a_device_without_an_uptime_is_not_called_away_for_the_time_in_which_nobody_looked() {
    let mut bench = Bench::new();
    bench.tells_uptime = false;
    bench.until_pushing().push(ok()).wait(2).silence();
    host_reboot(&mut bench, 600, 300);
    bench.look(Label::Unmoved).assert_watching();
    assert_eq!(bench.job.evidence.away, None);
}

/// Two clocks of this machine and the device's own: what was seen on one of them says nothing on another.
#[test]
fn a_look_of_an_earlier_boot_stays_one_over_a_second_reboot_and_in_the_journal() {
    let mut bench = Bench::new();
    bench.until_pushing().push(ok());
    host_reboot(&mut bench, 60, 10);
    let stored = serde_json::to_string(&bench.job).unwrap();
    bench.job = serde_json::from_str(&stored).unwrap();
    host_reboot(&mut bench, 60, 10);
    bench.wait(40);
    look_up_for(&mut bench, OLD, Duration::from_hours(24), Label::Unmoved);
    bench.restore();
    bench.assert_ended(Ending::Unverified, Some("restart not seen"));
}

#[test]
fn over_a_reboot_of_this_machine_the_soak_begins_anew() {
    let mut bench = soaking();
    bench.wait(9);
    host_reboot(&mut bench, 60, 5_000);
    let uptime = Duration::from_secs(2 + 9 + 60);
    for (wait_s, over) in [(9, false), (1, true)] {
        bench.wait(wait_s);
        let mut snapshot = bench.snapshot();
        snapshot.uptime = Some(uptime + bench.now.boot.checked_sub(Duration::from_secs(5_000)).unwrap());
        bench.see(Seen::Looked(Ok((snapshot, Label::Target))));
        assert_eq!(
            matches!(bench.act, Act::Undo { .. }),
            over,
            "{:?}",
            bench.job.phase
        );
    }
}

// The record.

#[test]
fn a_proven_update_is_recorded_with_what_its_label_did() {
    let mut bench = soaking();
    bench.wait(10).look(Label::Target).restore();
    let record = bench.job.record_after().unwrap();
    assert_eq!(
        record,
        Installed {
            digest: Some(Sha256::of(b"new")),
            label: versions(NEW),
            label_moves: true
        }
    );

    let mut bench = Bench::new();
    bench.until_pushing().push(ok());
    bench.wait(5).restart(OLD).wait(2).look(Label::Unmoved);
    bench.wait(10).look(Label::Unmoved).restore();
    let record = bench.job.record_after().unwrap();
    assert_eq!(
        (record.digest, record.label_moves),
        (Some(Sha256::of(b"new")), false)
    );
}

#[test]
fn a_label_that_has_moved_once_is_remembered_to_move() {
    let mut order = order();
    order.record = Some(Installed {
        digest: Some(Sha256::of(b"old")),
        label: versions(OLD),
        label_moves: true,
    });
    let mut bench = Bench::of(order);
    bench.until_pushing().push(ok()).wait(180).silence().restore();
    assert!(bench.job.record_after().unwrap().label_moves);
}

#[test]
fn what_is_not_proven_takes_the_old_digest_off_the_record() {
    let ends: [fn(&mut Bench); 3] = [
        |bench| {
            bench.wait(180).silence();
        },
        |bench| {
            bench.wait(5).restart("9.9").wait(2).look(Label::Other);
        },
        |bench| {
            bench.wait(30).look(Label::Unmoved);
        },
    ];
    for end in ends {
        let mut bench = Bench::new();
        bench.until_pushing().push(ok());
        end(&mut bench);
        bench.restore();
        assert_eq!(bench.job.record_after().unwrap().digest, None);
    }
}

#[test]
fn killed_while_sending_and_not_proven_takes_the_old_digest_off_the_record() {
    let mut order = order();
    order.record = Some(Installed {
        digest: Some(Sha256::of(b"old")),
        label: versions(OLD),
        label_moves: false,
    });
    let mut bench = Bench::of(order);
    bench.until_pushing().kill();
    bench.wait(15).restart(OLD).wait(2).look(Label::Unmoved).restore();
    bench.assert_ended(Ending::Unverified, Some("verdict lost"));
    assert_eq!(bench.job.record_after().unwrap().digest, None);
}

#[test]
fn kept_old_leaves_the_record_as_it_is() {
    let mut bench = Bench::new();
    bench.until_pushing().push(verdict_lost());
    bench.wait(30).look(Label::Unmoved).restore();
    assert_eq!(bench.job.record_after(), None);
}

// The journal.

#[test]
fn a_job_comes_back_from_the_journal_as_it_went_in() {
    let mut phases = Vec::new();
    let mut bench = Bench::new();
    let mut keep = |bench: &Bench| {
        let stored = serde_json::to_string(&bench.job).unwrap();
        let read: Job = serde_json::from_str(&stored).unwrap();
        assert_eq!(read, bench.job);
        phases.push(bench.job.phase.name());
    };
    keep(&bench);
    bench.check_with(wanted());
    keep(&bench);
    bench.see(Seen::Committed).prepare();
    keep(&bench);
    bench.see(Seen::Committed).push(verdict_lost());
    keep(&bench);
    bench.wait(5).silence();
    keep(&bench);
    bench.restart(NEW).wait(2).look(Label::Target);
    keep(&bench);
    bench.wait(10).look(Label::Target);
    keep(&bench);
    bench.restore();
    keep(&bench);
    assert_eq!(
        phases,
        [
            "looking",
            "preparing",
            "uploading",
            "rebooting",
            "rebooting",
            "soaking",
            "restoring",
            "finished"
        ]
    );
}
