//! The real program against simulated ventilation units: what it says, what it must not have done, and what runs then.
//!
//! The rows say what DESIGN.md settles ("What is settled"); none was copied from what the program says.
//! Nothing is concluded from a broken push within a minute, so all that breaks runs at once.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sim::komfovent::{Config, Counters, Device, Fault, Registers, start};
use sim::{EventKind, EventSink};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use support::{Ended, PASSWORD_ENV, Running, own_address, reflash, run};

/// The file that most tests push; a usual unit runs `C6 1.3.44.70 / P1 1.1.5.46`.
const NEW: &str = "C6_1_5_46_72_P1_1_1_5_48.mbin";
/// What a unit runs after it.
const NEW_CONTROLLER: &str = "C6 1.5.46.72";
const NEW_PANEL: &str = "P1 1.1.5.48";
/// Length of the files, bytes: some more than the least that is taken.
const FILE_LEN: usize = 120_000;
/// What the frame around the file adds in the captured upload of a file with a name as long as [`NEW`], bytes
/// (PROTOCOLS.md A3): more would be something else that travels along.
const FRAME_LEN_BYTES: u64 = 218;
/// A password that is found wherever it leaks; the sign behind it is coded in the form.
const PASSWORD: &str = "canary-Zq7&3";
const CANARY: &str = "canary-Zq7";
/// Pace of the units, bytes/s.
const BYTES_PER_S: u32 = 400_000;
/// Pace of units that something is done to in mid-upload: it then takes 2 s.
const SLOW_BYTES_PER_S: u32 = 60_000;
/// From one start to the next of those that run at once: about as long as an upload takes.
const STAGGER: Duration = Duration::from_millis(400);
/// How often a unit's counters are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Longest wait for something at a unit.
const PATIENCE: Duration = Duration::from_secs(30);

/// A simulated unit, and the folder of whoever updates it.
struct Rig {
    unit: Device,
    events: EventSink,
    folder: TempDir,
}

impl Rig {
    /// A unit that is back 4 s after a restart.
    fn start(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(own_address());
        config.rate_bytes_per_s = BYTES_PER_S;
        config.silence = Duration::from_millis(300);
        config.restart = Duration::from_secs(4);
        config.password = PASSWORD.into();
        change(&mut config);
        let events = EventSink::new();
        Self {
            unit: start(config, events.clone()).unwrap(),
            events,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn with(fault: &str) -> Self {
        Self::start(|config| config.faults = vec![Fault::parse(fault).unwrap()])
    }

    /// A unit with these versions, written as in file names.
    fn running(controller: &str, panel: Option<&str>) -> Self {
        Self::start(|config| {
            let panel = panel.map(|panel| panel.parse().unwrap());
            config.registers = Registers::synthesize(controller.parse().unwrap(), panel);
        })
    }

    /// A file with this name and the right end; what is between is opaque.
    fn file(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, file_bytes()).unwrap();
        path
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// `reflash push` of this file with the right password and a short soak. The family is left to be guessed.
    fn push(&self, file_name: &str) -> Command {
        let mut command = reflash(["push"]);
        command
            .arg(self.unit.ip().to_string())
            .arg(self.file(file_name))
            .args(["--http-port", &self.unit.http_port().to_string()])
            .args(["--modbus-port", &self.unit.modbus_port().to_string()])
            .args(["--soak", "2s", "--json", "--password-env", PASSWORD_ENV])
            .env(PASSWORD_ENV, PASSWORD)
            .arg("--state")
            .arg(self.state());
        command
    }

    fn counters(&self) -> Counters {
        self.unit.counters()
    }

    fn runs_new(&self) -> bool {
        let running = self.unit.running();
        running.controller == NEW_CONTROLLER && running.panel.as_deref() == Some(NEW_PANEL)
    }

    fn runs_old(&self) -> bool {
        let running = self.unit.running();
        running.controller == "C6 1.3.44.70" && running.panel.as_deref() == Some("P1 1.1.5.46")
    }

    /// Nobody asked its web server for anything: no password can have reached it.
    #[track_caller]
    fn was_not_asked(&self) {
        let counters = self.counters();
        assert_eq!((counters.requests, counters.receiving), (0, 0));
    }

    /// Nobody is logged in.
    #[track_caller]
    fn is_logged_out(&self) {
        assert_eq!(self.unit.running().n_sessions, 0, "somebody is still logged in");
    }

    async fn wait(&self, kind: EventKind) {
        let found = self.events.wait_for(|event| event.kind == kind, PATIENCE).await;
        found.unwrap_or_else(|| panic!("no {kind:?} in {:#?}", self.events.log()));
    }

    /// Waits until about a third of the file has arrived.
    async fn wait_for_mid_upload(&self) {
        self.wait(EventKind::Receiving).await;
        sleep(Duration::from_secs(1) * u32::try_from(FILE_LEN / 3).unwrap() / SLOW_BYTES_PER_S).await;
        assert_eq!(self.counters().received, 0, "it came too late");
    }
}

fn file_bytes() -> Vec<u8> {
    let mut bytes = vec![0x5a; FILE_LEN];
    bytes.extend_from_slice(b"5123456781234567800AA00AA00BB00BB\r\n");
    bytes
}

#[track_caller]
fn until(is_so: impl Fn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let until = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < until, "{caller}: waited in vain");
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Checks outcome, reason and exit code.
#[track_caller]
fn check(ended: &Ended, what: &str, outcome: &str, reason: Option<&str>) {
    // INTERFACES.md: 0 done, 2 nothing to do, 1 failed or refused or not proven.
    let code = match outcome {
        "updated" => 0,
        "already-current" => 2,
        _ => 1,
    };
    let (found, found_reason, found_code) = ended.verdict();
    assert_eq!(
        (found.as_str(), found_reason.as_deref(), found_code),
        (outcome, reason, Some(code)),
        "{what}: {ended:#?}"
    );
}

fn next_step(ended: &Ended) -> String {
    ended.json()["next_step"].as_str().unwrap_or_default().to_owned()
}

/// Starts one more, a little after the ones before: an upload costs a packet for every 2 KB that a unit has room for, and a
/// busy machine that carries thirty at once starves some of them until they count as broken off.
fn start_later(all: &mut JoinSet<()>, test: impl Future<Output = ()> + Send + 'static) {
    let after = STAGGER * u32::try_from(all.len()).unwrap();
    all.spawn(async move {
        sleep(after).await;
        test.await;
    });
}

/// Waits for all, also after one has failed: each has said itself why.
async fn all_of(mut all: JoinSet<()>) {
    let mut n_failed = 0;
    while let Some(done) = all.join_next().await {
        n_failed += usize::from(done.is_err());
    }
    assert_eq!(n_failed, 0, "so many of them have failed, see above");
}

/// All at once, as each of them mostly waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_is_flashed_once_as_its_owner_wants_or_not_at_all() {
    let mut all = JoinSet::new();
    start_later(
        &mut all,
        a_unit_is_told_by_the_files_name_flashed_once_and_proven_by_its_registers(),
    );
    start_later(&mut all, a_dry_run_reads_the_versions_and_logs_nobody_in());
    start_later(
        &mut all,
        a_unit_is_stopped_only_if_its_owner_wants_that_and_then_started_again(),
    );
    start_later(&mut all, a_c6m_takes_the_file_of_the_c6());
    start_later(
        &mut all,
        another_controllers_file_is_refused_whatever_is_permitted(),
    );
    start_later(&mut all, a_unit_too_old_is_refused_with_the_vendors_advice());
    start_later(&mut all, versions_that_are_newer_and_older_need_a_yes());
    start_later(&mut all, a_file_that_is_none_is_refused_without_a_look());
    start_later(
        &mut all,
        a_password_is_never_said_logged_stored_or_sent_with_the_file(),
    );
    start_later(&mut all, a_wrong_password_is_refused_and_never_said_either());
    start_later(&mut all, a_killed_push_leaves_no_password_behind());
    all_of(all).await;
}

// The good way.

async fn a_unit_is_told_by_the_files_name_flashed_once_and_proven_by_its_registers() {
    let rig = Rig::start(|_| {});
    let ended = run(rig.push(NEW)).await;
    check(&ended, "push", "updated", None);
    let said = ended.json();
    let device = said["device"].as_str().unwrap();
    assert!(device.starts_with("komfovent"), "{device}");
    let evidence = &said["evidence"];
    assert_eq!(evidence["version_before"], "C6 1.3.44.70 / P1 1.1.5.46");
    assert_eq!(evidence["version_after"], "C6 1.5.46.72 / P1 1.1.5.48");
    assert!(evidence["away_s"].as_f64().unwrap() >= 2.0, "{said:#}");
    let verdict = evidence["verdict"].as_str().unwrap();
    assert!(verdict.contains("successfully"), "{verdict}");
    assert!(rig.runs_new());
    let counters = rig.counters();
    assert_eq!(
        (counters.logins, counters.failed_logins, counters.receiving),
        (1, 0, 1)
    );
    assert_eq!((counters.flashed, counters.restarts, counters.writes), (1, 1, 0));
    assert!(counters.logouts >= 1);
    assert_eq!(counters.too_fast, 0, "the vendor's pause between two questions");
    rig.is_logged_out();

    let again = run(rig.push(NEW)).await;
    check(&again, "again", "already-current", None);
    let after = rig.counters();
    assert_eq!(
        (after.logins, after.receiving),
        (1, 1),
        "what runs already was pushed"
    );
}

async fn a_dry_run_reads_the_versions_and_logs_nobody_in() {
    let rig = Rig::start(|_| {});
    let mut command = rig.push(NEW);
    command.args(["--dry-run", "--family", "komfovent"]);
    let ended = run(command).await;
    let said = ended.json();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!((&said["would"], &said["dry_run"]), (&"push".into(), &true.into()));
    assert_eq!(said["version"], "C6 1.3.44.70 / P1 1.1.5.46");
    rig.was_not_asked();
    assert!(rig.runs_old());
}

// Which file may go where.

async fn a_c6m_takes_the_file_of_the_c6() {
    let rig = Rig::running("C6M_1_4_45_71", Some("P1_1_1_5_47"));
    check(&run(rig.push(NEW)).await, "C6M", "updated", None);
    let running = rig.unit.running();
    assert_eq!(running.controller, "C6M 1.5.46.72");
    assert_eq!(rig.counters().receiving, 1);
}

async fn another_controllers_file_is_refused_whatever_is_permitted() {
    for (unit, file) in [
        ("C6_1_3_44_70", "C8_1_1_15_90.mbin"),
        ("C6M_1_4_45_71", "C8_1_1_15_90.mbin"),
        ("C8_1_1_14_27", NEW),
        // Only a C6M takes the other's file, not the other way round.
        ("C6_1_3_44_70", "C6M_1_4_47_74.mbin"),
    ] {
        let rig = Rig::running(unit, None);
        for permits in [&[][..], &["--allow", "any", "--force", "--yes"]] {
            let mut command = rig.push(file);
            command.args(permits);
            let ended = run(command).await;
            check(
                &ended,
                &format!("{file} to {unit} {permits:?}"),
                "refused",
                Some("wrong-controller"),
            );
        }
        rig.was_not_asked();
    }
}

async fn a_unit_too_old_is_refused_with_the_vendors_advice() {
    // Its first three numbers are above 1.3.15: the vendor means the last one.
    let rig = Rig::running("C6_1_3_17_14", None);
    let ended = run(rig.push(NEW)).await;
    check(&ended, "14", "refused", Some("unsupported-source-version"));
    assert!(next_step(&ended).contains("intermediate .bin"), "{ended:#?}");
    rig.was_not_asked();
    // And these are below it, with a last number that will do.
    let rig = Rig::running("C6_1_1_17_20", None);
    check(&run(rig.push(NEW)).await, "20", "updated", None);
}

async fn versions_that_are_newer_and_older_need_a_yes() {
    let rig = Rig::running("C6_1_3_44_70", Some("P1_1_1_5_50"));
    let ended = run(rig.push(NEW)).await;
    check(&ended, "mixed", "refused", Some("mixed-versions"));
    assert!(next_step(&ended).contains("--yes"), "{ended:#?}");
    rig.was_not_asked();
    let mut command = rig.push(NEW);
    command.arg("--yes");
    check(&run(command).await, "--yes", "updated", None);
    assert!(rig.runs_new());
}

async fn a_file_that_is_none_is_refused_without_a_look() {
    let rig = Rig::start(|_| {});
    for name in ["firmware.mbin", "C7_1_5_46_72.mbin", "C6_1_5_46.mbin"] {
        let mut command = rig.push(name);
        command.args(["--allow", "any"]);
        check(&run(command).await, name, "refused", Some("bad-name"));
    }
    let small = rig.folder.path().join(NEW);
    let command = rig.push(NEW);
    std::fs::write(&small, &file_bytes()[..100_000]).unwrap();
    check(&run(command).await, "small", "refused", Some("too-small"));
    let counters = rig.counters();
    assert_eq!((counters.requests, counters.modbus_reads), (0, 0));
}

// What units do wrong.

/// A unit with a fault, and what must come of a push to it.
struct Row {
    fault: &'static str,
    arguments: &'static [&'static str],
    password: &'static str,
    outcome: &'static str,
    reason: Option<&'static str>,
    /// Pushes that the unit may have seen.
    n_pushes: std::ops::RangeInclusive<u64>,
    /// What runs on it then.
    runs: Runs,
    also: fn(&Rig, &Ended),
}

#[derive(Clone, Copy, Debug)]
enum Runs {
    New,
    Old,
    /// The new controller with the old panel.
    Mixed,
    /// It cannot be asked.
    Whatever,
}

fn ends(fault: &'static str, outcome: &'static str, reason: impl Into<Option<&'static str>>) -> Row {
    Row {
        fault,
        arguments: &[],
        password: PASSWORD,
        outcome,
        reason: reason.into(),
        n_pushes: 1..=1,
        runs: Runs::Old,
        also: |_, _| {},
    }
}

fn updated(fault: &'static str) -> Row {
    ends(fault, "updated", None).runs(Runs::New)
}

impl Row {
    fn with(mut self, arguments: &'static [&'static str]) -> Self {
        self.arguments = arguments;
        self
    }

    fn runs(mut self, runs: Runs) -> Self {
        self.runs = runs;
        self
    }

    fn pushes(mut self, n_pushes: std::ops::RangeInclusive<u64>) -> Self {
        self.n_pushes = n_pushes;
        self
    }

    fn password(mut self, password: &'static str) -> Self {
        self.password = password;
        self
    }

    fn also(mut self, also: fn(&Rig, &Ended)) -> Self {
        self.also = also;
        self
    }

    async fn check(self) {
        let rig = Rig::with(self.fault);
        let mut command = rig.push(NEW);
        command.args(self.arguments).env(PASSWORD_ENV, self.password);
        let ended = run(command).await;
        let what = format!("{} {:?}", self.fault, self.arguments);
        check(&ended, &what, self.outcome, self.reason);
        let counters = rig.counters();
        assert!(
            self.n_pushes.contains(&counters.receiving),
            "{what}: {counters:?}"
        );
        let running = rig.unit.running();
        let is_right = match self.runs {
            Runs::New => rig.runs_new(),
            Runs::Old => rig.runs_old(),
            Runs::Mixed => {
                running.controller == NEW_CONTROLLER && running.panel.as_deref() == Some("P1 1.1.5.46")
            }
            Runs::Whatever => true,
        };
        assert!(is_right, "{what}: it runs {running:?}, not {:?}", self.runs);
        if !matches!(self.runs, Runs::Whatever) {
            assert_eq!(running.n_sessions, 0, "{what}: somebody is still logged in");
        }
        assert_ne!(next_step(&ended).is_empty(), self.outcome != "updated", "{what}");
        (self.also)(&rig, &ended);
    }
}

fn rows() -> Vec<Row> {
    let soon: &[&str] = &["--return-within", "20s"];
    vec![
        // The wire. These take longest, so they come first.
        ends("cut-at=50", "kept-old", "transfer broke off").pushes(2..=2),
        updated("cut-once-at=50").pushes(2..=2),
        // Before the first byte.
        ends("wrong-password", "refused", "wrong password")
            .pushes(0..=0)
            .also(|rig, _| {
                let counters = rig.counters();
                assert_eq!((counters.failed_logins, counters.logins), (1, 0));
            }),
        ends("hidden-error", "refused", "busy")
            .password("wrong")
            .pushes(0..=0)
            .also(|rig, _| assert!(rig.counters().failed_logins <= 2)),
        ends("modbus-silent", "failed", "no answer")
            .pushes(0..=0)
            .also(|rig, _| rig.was_not_asked()),
        ends("http-silent", "failed", "no answer").pushes(0..=0),
        // Harmless ones.
        updated("hidden-error"),
        updated("session-taken"),
        updated("no-serial"),
        updated("localised"),
        updated("localised=lt"),
        updated("slow=30000"),
        updated("stall=5"),
        updated("restart-long=15"),
        // The reply is what decides least.
        updated("reply-lost").also(|_, ended| assert!(ended.json()["evidence"]["verdict"].is_null())),
        // Silent for longer than is waited for its reply, and flashed after all.
        updated("stall=70"),
        ends("error-status", "kept-old", "device error")
            .also(|_, ended| assert!(ended.json()["text"].as_str().unwrap().contains("incorrect file"))),
        // Words that say neither yes nor no, and it was not seen going away: it may still have.
        ends("error-status=Status: niepoprawne", "unverified", "verdict lost"),
        // One part of two.
        ends("mixed-status", "failed", "partial")
            .with(soon)
            .runs(Runs::Mixed),
        ends("panel-not-updated", "failed", "partial")
            .with(soon)
            .runs(Runs::Mixed),
        ends("keeps-old", "rolled-back", "old version came back"),
        // Away.
        ends("never-returns", "unverified", "no return")
            .with(soon)
            .runs(Runs::Whatever),
        ends("restart-long=60", "unverified", "no return")
            .with(&["--return-within", "10s"])
            .runs(Runs::Whatever),
        ends("address-reset", "unverified", "no return")
            .with(soon)
            .runs(Runs::Whatever),
    ]
}

#[test]
fn the_table_has_every_fault_of_the_simulator() {
    let known: BTreeSet<&str> = Fault::list().iter().map(|(name, ..)| *name).collect();
    let in_table: BTreeSet<&str> = rows()
        .iter()
        .map(|row| row.fault.split('=').next().unwrap())
        .collect();
    assert_eq!(in_table, known);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_unit_ends_in_the_outcome_of_its_fault_and_is_not_pushed_to_twice_without_a_look() {
    let mut all = JoinSet::new();
    for row in rows() {
        start_later(&mut all, row.check());
    }
    start_later(
        &mut all,
        a_unit_whose_address_an_update_resets_is_said_to_be_at_the_vendors_address(),
    );
    start_later(&mut all, a_unit_that_comes_back_without_registers_is_unverified());
    start_later(
        &mut all,
        a_unit_that_comes_back_without_its_pages_is_proven_by_its_registers(),
    );
    start_later(&mut all, a_user_name_too_long_is_not_sent());
    start_later(
        &mut all,
        five_wrong_passwords_a_day_lock_a_unit_until_it_is_released(),
    );
    all_of(all).await;
}

async fn a_unit_whose_address_an_update_resets_is_said_to_be_at_the_vendors_address() {
    // A C8 has no minimum; one with a last number of 10 or less is found at 192.168.0.60 afterwards.
    let rig = Rig::running("C8_1_1_3_9", None);
    let mut command = rig.push("C8_1_1_14_27.mbin");
    command.args(["--return-within", "15s"]);
    let ended = run(command).await;
    check(&ended, "C8 1.1.3.9", "unverified", Some("no return"));
    assert!(next_step(&ended).contains("192.168.0.60"), "{ended:#?}");
}

/// A push whose unit has this fault from its restart on.
async fn pushed_and_then(fault: &str) -> (Rig, Ended) {
    let rig = Rig::start(|_| {});
    let mut command = rig.push(NEW);
    command.args(["--return-within", "15s"]);
    let running = Running::start(command);
    rig.wait(EventKind::Rebooting).await;
    rig.unit.set_faults(vec![Fault::parse(fault).unwrap()]);
    let ended = running.end().await;
    let counters = rig.counters();
    assert_eq!((counters.receiving, counters.flashed), (1, 1), "{fault}");
    (rig, ended)
}

/// RELIABILITY.md F60.
async fn a_unit_that_comes_back_without_registers_is_unverified() {
    let (_rig, ended) = pushed_and_then("modbus-silent").await;
    check(&ended, "modbus-silent", "unverified", Some("no return"));
}

/// Its registers say what runs (DESIGN.md, "Outcomes"); its pages have nothing to add to that.
async fn a_unit_that_comes_back_without_its_pages_is_proven_by_its_registers() {
    let (rig, ended) = pushed_and_then("http-silent").await;
    check(&ended, "http-silent", "updated", None);
    assert!(rig.runs_new());
}

async fn a_user_name_too_long_is_not_sent() {
    let rig = Rig::start(|_| {});
    let mut command = rig.push(NEW);
    command.args(["--username", "username"]);
    let ended = run(command).await;
    check(&ended, "8 letters", "refused", Some("wrong password"));
    let counters = rig.counters();
    assert_eq!((counters.logins, counters.failed_logins), (0, 0));
}

// Stopped on the way.

/// When a push is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Login,
    MidUpload,
    Silence,
    Restart,
}

/// Kills a push, and does the same command again: it logs out, looks, and ends right.
async fn killed(moment: Moment) {
    let rig = Rig::start(|config| {
        config.rate_bytes_per_s = SLOW_BYTES_PER_S;
        config.silence = Duration::from_secs(3);
    });
    let mut running = Running::start(rig.push(NEW));
    match moment {
        Moment::Login => rig.wait(EventKind::Login).await,
        Moment::MidUpload => rig.wait_for_mid_upload().await,
        Moment::Silence => {
            rig.wait(EventKind::Received).await;
            assert_eq!(rig.counters().flashed, 0, "it came too late");
        }
        Moment::Restart => rig.wait(EventKind::Rebooting).await,
    }
    assert!(!running.has_ended());
    running.kill();
    let before = rig.counters();
    assert_eq!(
        rig.unit.running().n_sessions,
        1,
        "{moment:?}: the killed one was logged in"
    );

    let second = Running::start(rig.push(NEW));
    if matches!(moment, Moment::Login | Moment::MidUpload) {
        // Before anything else is sent, the old session is ended and the registers are read.
        until_slowly(|| rig.counters().logins > before.logins).await;
        let at_login = rig.counters();
        assert!(at_login.logouts > before.logouts, "{moment:?}: {at_login:?}");
        assert!(at_login.modbus_reads > before.modbus_reads, "{moment:?}");
        assert_eq!(at_login.receiving, before.receiving, "{moment:?}");
    }
    let ended = second.end().await;
    check(&ended, &format!("{moment:?}"), "updated", None);
    assert!(rig.runs_new(), "{moment:?}");
    rig.is_logged_out();
    let counters = rig.counters();
    let n_pushes = if moment == Moment::MidUpload { 2 } else { 1 };
    assert_eq!(
        (counters.receiving, counters.flashed),
        (n_pushes, 1),
        "{moment:?}"
    );
    assert!(counters.logouts >= 1, "{moment:?}: {counters:?}");
    assert_eq!(counters.failed_logins, 0, "{moment:?}");
}

/// As [`until`], for what a broken push may hold up for a minute.
async fn until_slowly(is_so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(100);
    while !is_so() {
        assert!(Instant::now() < until, "waited in vain");
        sleep(LOOK_EVERY).await;
    }
}

async fn interrupted_in_mid_upload() {
    let rig = Rig::start(|config| config.rate_bytes_per_s = SLOW_BYTES_PER_S);
    let running = Running::start(rig.push(NEW));
    rig.wait_for_mid_upload().await;
    running.interrupt();
    let ended = running.end().await;
    check(&ended, "interrupt", "cancelled", Some("cancelled"));
    let counters = rig.counters();
    assert_eq!((counters.receiving, counters.flashed), (1, 0));
    assert!(rig.runs_old());
    rig.is_logged_out();
    // Nothing is left that would hold up the next one.
    check(&run(rig.push(NEW)).await, "the next one", "updated", None);
}

async fn interrupted_in_the_silence() {
    let rig = Rig::start(|config| config.silence = Duration::from_secs(3));
    let running = Running::start(rig.push(NEW));
    rig.wait(EventKind::Received).await;
    running.interrupt();
    // Every byte is there: too late to cancel.
    check(&running.end().await, "interrupt", "updated", None);
    assert!(rig.runs_new());
    assert_eq!(rig.counters().receiving, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_off_push_is_logged_out_looked_at_and_ended_right_by_the_next_one() {
    let mut all = JoinSet::new();
    for moment in [Moment::Login, Moment::MidUpload, Moment::Silence, Moment::Restart] {
        start_later(&mut all, killed(moment));
    }
    start_later(&mut all, interrupted_in_mid_upload());
    start_later(&mut all, interrupted_in_the_silence());
    start_later(&mut all, a_unit_that_was_away_is_logged_out_by_the_next_command());
    all_of(all).await;
}

/// It is away at the end, so its log-out is left to the next command.
async fn a_unit_that_was_away_is_logged_out_by_the_next_command() {
    let rig = Rig::with("never-returns");
    let mut command = rig.push(NEW);
    command.args(["--return-within", "8s"]);
    let ended = run(command).await;
    check(&ended, "away", "unverified", Some("no return"));
    let warnings = ended.json()["warnings"].to_string();
    assert!(warnings.contains("log out"), "{warnings}");
    let n_logouts = rig.counters().logouts;
    rig.unit.set_faults(Vec::new());
    rig.unit.power_cycle();
    rig.wait(EventKind::Up).await;
    let again = run(rig.push(NEW)).await;
    check(&again, "back", "already-current", None);
    assert!(rig.counters().logouts > n_logouts);
    assert_eq!(rig.counters().receiving, 1);
}

// What must never be seen.

/// The files under a folder that hold this text.
fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if std::fs::read(&path)
            .unwrap()
            .windows(text.len())
            .any(|window| window == text.as_bytes())
        {
            found.push(path);
        }
    }
    found
}

#[track_caller]
fn is_nowhere(rig: &Rig, ended: &Ended) {
    for said in [&ended.stdout, &ended.stderr] {
        assert!(!said.contains(CANARY), "{said}");
    }
    assert_eq!(files_with(rig.folder.path(), CANARY), Vec::<PathBuf>::new());
}

fn traced(rig: &Rig) -> Command {
    let mut command = rig.push(NEW);
    command.env("REFLASH_LOG", "trace");
    command
}

async fn a_password_is_never_said_logged_stored_or_sent_with_the_file() {
    let rig = Rig::start(|_| {});
    let ended = run(traced(&rig)).await;
    check(&ended, "traced", "updated", None);
    is_nowhere(&rig, &ended);
    // The unit refuses whatever has a second part, and there is no room for one.
    let event = |kind| {
        let log = rig.events.log();
        log.into_iter().find(|event| event.kind == kind).unwrap()
    };
    let (receiving, received) = (event(EventKind::Receiving), event(EventKind::Received));
    assert_eq!(received.get("accepted"), Some(&true.into()));
    let len_bytes = received.number("len_bytes").unwrap();
    assert_eq!(len_bytes, u64::try_from(file_bytes().len()).unwrap());
    assert_eq!(
        receiving.number("body_len_bytes"),
        Some(len_bytes + FRAME_LEN_BYTES)
    );
    assert_eq!(
        received.text("sha256"),
        Some(support::sha256(&file_bytes()).as_str())
    );
}

async fn a_wrong_password_is_refused_and_never_said_either() {
    let rig = Rig::start(|config| config.password = "another".into());
    let ended = run(traced(&rig)).await;
    check(&ended, "wrong password", "refused", Some("wrong password"));
    let counters = rig.counters();
    assert_eq!((counters.failed_logins, counters.receiving), (1, 0));
    is_nowhere(&rig, &ended);
}

async fn a_killed_push_leaves_no_password_behind() {
    let rig = Rig::start(|config| config.rate_bytes_per_s = SLOW_BYTES_PER_S);
    let running = Running::start(traced(&rig));
    rig.wait(EventKind::Login).await;
    running.kill();
    assert_eq!(files_with(rig.folder.path(), CANARY), Vec::<PathBuf>::new());
}

async fn five_wrong_passwords_a_day_lock_a_unit_until_it_is_released() {
    let rig = Rig::start(|_| {});
    for n_failed in 1..=5 {
        let mut command = rig.push(NEW);
        command.env(PASSWORD_ENV, "guess");
        check(&run(command).await, "guess", "refused", Some("wrong password"));
        assert_eq!(rig.counters().failed_logins, n_failed);
    }
    check(&run(rig.push(NEW)).await, "locked", "refused", Some("locked"));
    assert_eq!(rig.counters().logins, 0);
    let mut command = rig.push(NEW);
    command.arg("--unlock");
    check(&run(command).await, "released", "updated", None);
}

async fn a_unit_is_stopped_only_if_its_owner_wants_that_and_then_started_again() {
    let rig = Rig::start(|config| config.silence = Duration::from_secs(2));
    let mut command = rig.push(NEW);
    command.arg("--stop-unit");
    let running = Running::start(command);
    until(|| rig.counters().receiving == 1).await;
    assert!(!rig.unit.running().on, "it ventilates while it is flashed");
    check(&running.end().await, "--stop-unit", "updated", None);
    assert!(rig.unit.running().on, "it was left standing");
}
