//! Every fault of the simulator against the real program: what it must say, what it must not have done, and what runs then.
//!
//! The rows say what DESIGN.md settles ("What is settled", Outcomes); none was copied from what the program says.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sim::EventKind;
use sim::ir_remote::{Auth, Config, Fault};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use support::{Ended, IMAGE_LEN, PASSWORD, PASSWORD_ENV, Rig, chip, run, sha256};

/// Rows under way at once: most of them only wait.
const N_AT_ONCE: usize = 16;
/// A device that answers nonsense may cost this much ...
const NONSENSE_WITHIN: Duration = Duration::from_secs(5);
/// ... and starting the program on a busy machine this much.
const STARTING: Duration = Duration::from_secs(3);
/// A transfer that dies in mid-stream without a word is tried once more (DESIGN.md, "A push"); nothing else is.
const DIES_IN_MID_STREAM: [&str; 5] = [
    "drop-after",
    "drop-once-after",
    "stall-at",
    "stall-once-at",
    "reboot-at",
];

/// Length of a large image, bytes.
const LARGE_LEN: usize = 4 * IMAGE_LEN;

/// What is pushed.
#[derive(Clone, Copy)]
enum File {
    /// An image that states this version.
    States(&'static str),
    /// An image that states none, as Arduino builds them.
    Unlabelled,
    /// An image for this chip.
    For(&'static str),
    /// An image of which a tenth is more than all buffers on the way hold.
    Large,
    /// An image that is larger than the default slot.
    TooLarge,
    /// A text that is named like an image.
    Text,
}

impl File {
    fn bytes(self) -> Vec<u8> {
        let own = chip("esp32c6");
        match self {
            Self::States(version) => sim::firmware::image(own, Some(version), IMAGE_LEN, 1),
            Self::Unlabelled => sim::firmware::image(own, None, IMAGE_LEN, 2),
            Self::For(other) => sim::firmware::image(chip(other), Some("1.1"), IMAGE_LEN, 3),
            Self::Large => sim::firmware::image(own, Some("1.1"), LARGE_LEN, 5),
            // One byte row more than 0x140000, the slot of Arduino's default partition table.
            Self::TooLarge => sim::firmware::image(own, Some("1.1"), 0x14_0000 + 16, 4),
            Self::Text => b"This is a placeholder and no firmware.\n".repeat(100),
        }
    }
}

/// One command, and what must come of it.
struct Step {
    before: fn(&Rig),
    file: File,
    password: Option<&'static str>,
    arguments: Vec<&'static str>,
    outcome: &'static str,
    reason: Option<&'static str>,
    code: i32,
    n_pushes: usize,
    /// Password answers at the device; none = not looked at.
    n_answers: Option<u64>,
    /// Not one datagram may have reached it.
    untouched: bool,
    within: Option<Duration>,
    /// The outcome's text names a doubt, because the new image may not run.
    doubt: bool,
    also: fn(&Value, &Rig),
}

/// A push of an image that states version 1.1, with the right password, that must end like this.
fn ends(outcome: &'static str, reason: impl Into<Option<&'static str>>) -> Step {
    Step {
        before: |_| {},
        file: File::States("1.1"),
        password: Some(PASSWORD),
        arguments: Vec::new(),
        outcome,
        reason: reason.into(),
        // INTERFACES.md: 0 done (updated in either form), 2 nothing to do, 1 failed or refused or not proven.
        code: match outcome {
            "updated" | "updated-label-unchanged" => 0,
            "already-current" => 2,
            _ => 1,
        },
        n_pushes: 1,
        n_answers: None,
        untouched: false,
        within: None,
        doubt: false,
        also: |_, _| {},
    }
}

fn updated() -> Step {
    ends("updated", None)
}

/// It must end before the first byte.
fn not_pushed(outcome: &'static str, reason: &'static str) -> Step {
    ends(outcome, reason).pushes(0)
}

impl Step {
    fn before(mut self, before: fn(&Rig)) -> Self {
        self.before = before;
        self
    }

    fn file(mut self, file: File) -> Self {
        self.file = file;
        self
    }

    fn password(mut self, password: impl Into<Option<&'static str>>) -> Self {
        self.password = password.into();
        self
    }

    fn with(mut self, arguments: &[&'static str]) -> Self {
        self.arguments.extend(arguments);
        self
    }

    fn code(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    fn pushes(mut self, n_pushes: usize) -> Self {
        self.n_pushes = n_pushes;
        self
    }

    fn answers(mut self, n_answers: u64) -> Self {
        self.n_answers = Some(n_answers);
        self
    }

    fn untouched(mut self) -> Self {
        self.untouched = true;
        self
    }

    fn within(mut self, within: Duration) -> Self {
        self.within = Some(within);
        self
    }

    fn in_doubt(mut self) -> Self {
        self.doubt = true;
        self
    }

    fn also(mut self, also: fn(&Value, &Rig)) -> Self {
        self.also = also;
        self
    }
}

/// A device with faults, and what is done to it.
struct Row {
    name: String,
    faults: Vec<&'static str>,
    config: fn(&mut Config),
    steps: Vec<Step>,
    /// It waits for long, so it begins first.
    long: bool,
}

impl Row {
    fn config(mut self, config: fn(&mut Config)) -> Self {
        self.config = config;
        self
    }

    fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    fn long(mut self) -> Self {
        self.long = true;
        self
    }
}

fn row(name: &str, faults: &[&'static str], step: Step) -> Row {
    Row {
        name: name.to_owned(),
        faults: faults.to_vec(),
        config: |_| {},
        steps: vec![step],
        long: false,
    }
}

/// A row that is named after its faults.
fn fault(faults: &[&'static str], step: Step) -> Row {
    row(&faults.join(" "), faults, step)
}

fn fails_with(faults: &[&str]) -> Vec<Fault> {
    faults.iter().map(|fault| Fault::parse(fault).unwrap()).collect()
}

fn no_verdict(said: &Value, _: &Rig) {
    assert!(said["evidence"]["verdict"].is_null(), "{said:#}");
}

fn names_the_cause(said: &Value, _: &Rig) {
    let verdict = said["evidence"]["verdict"].as_str().unwrap_or_default();
    assert!(verdict.contains("Flash Write Failed"), "{said:#}");
}

fn ota_is_off(_: &Value, rig: &Rig) {
    assert!(!rig.device.running().ota_enabled);
}

fn called_back_the_inviter(_: &Value, rig: &Rig) {
    let log = rig.events.log();
    let peers = log
        .iter()
        .filter(|event| matches!(event.kind, EventKind::Invited | EventKind::Receiving));
    for event in peers {
        let peer = event.text("peer").unwrap_or_default();
        assert!(peer.starts_with("127.0.0.77:"), "{event}");
    }
}

fn hints_at_arduino(said: &Value, _: &Rig) {
    let next_step = said["next_step"].as_str().unwrap_or_default();
    assert!(next_step.contains("--family arduino --chip"), "{said:#}");
}

const HTTP: [&str; 2] = ["--method", "http"];
const ARDUINO: [&str; 4] = ["--family", "arduino", "--chip", "esp32c6"];
/// Long enough that a device which restarts every two seconds of uptime is caught, twice.
const SOAK_3S: [&str; 2] = ["--soak", "3s"];
const RETURN_WITHIN_4S: [&str; 2] = ["--return-within", "4s"];

fn rows() -> Vec<Row> {
    let mut rows = good_rows();
    rows.extend(handshake_rows());
    rows.extend(flag_rows());
    rows.extend(transfer_rows());
    rows.extend(cut_rows());
    rows.extend(restart_rows());
    rows.extend(http_rows());
    rows.extend(status_rows());
    rows.extend(arduino_rows());
    rows
}

fn good_rows() -> Vec<Row> {
    vec![
        row("md5", &[], updated().answers(1)),
        row("pbkdf2", &[], updated().answers(1)).config(|c| c.auth = Auth::Pbkdf2),
        // The form that worked is remembered: the second push needs one answer, not two.
        row("pbkdf2-md5", &[], updated().answers(2))
            .config(|c| c.auth = Auth::Pbkdf2Md5)
            .then(updated().file(File::States("1.2")).answers(1)),
        row("no password asked for", &[], updated().password(None).answers(0))
            .config(|c| c.auth = Auth::None),
        row("stop-and-wait", &[], updated().with(&["--pace", "stop-and-wait"])),
        // A machine with several addresses: the device calls back the one that it was invited from.
        row(
            "from an address of several",
            &[],
            updated()
                .with(&["--bind", "127.0.0.77"])
                .also(called_back_the_inviter),
        ),
        row("already current", &[], updated()).then(not_pushed("already-current", "").answers(0).untouched()),
        row("already current, forced", &[], updated()).then(
            // Its label was this already, so it proves nothing by itself; OK and the restart do.
            updated().with(&["--force"]),
        ),
        row(
            "an image without a version, pushed twice",
            &[],
            ends("updated-label-unchanged", "label unchanged").file(File::Unlabelled),
        )
        .then(
            not_pushed("already-current", "")
                .file(File::Unlabelled)
                .untouched(),
        ),
        row(
            "an image without a version, and the label moves",
            &[],
            updated().file(File::Unlabelled),
        )
        .config(|c| c.version_after = Some("2.0".to_owned())),
        row(
            "a downgrade",
            &[],
            not_pushed("refused", "downgrade")
                .file(File::States("0.9"))
                .untouched(),
        )
        .then(
            updated()
                .file(File::States("0.9"))
                .with(&["--allow", "downgrade"]),
        ),
        row(
            "for another chip",
            &[],
            not_pushed("refused", "wrong-chip")
                .file(File::For("esp32"))
                .untouched(),
        )
        .then(
            not_pushed("refused", "wrong-chip")
                .file(File::For("esp32"))
                .with(&["--allow", "any"])
                .untouched(),
        ),
        row(
            "larger than the slot",
            &[],
            not_pushed("refused", "too-large")
                .file(File::TooLarge)
                .untouched(),
        ),
        // Its owner insists, and the device's slot is too small all the same: it lets us in and never connects.
        row(
            "larger than the slot, insisted",
            &[],
            not_pushed("failed", "no call-back")
                .file(File::TooLarge)
                .with(&["--allow", "too-large"]),
        )
        .long(),
        row(
            "a text",
            &[],
            not_pushed("refused", "text").file(File::Text).untouched(),
        ),
        row(
            "not verified",
            &[],
            ends("unverified", "not asked").with(&["--no-verify"]).code(0),
        ),
        row(
            "not verified, and an error",
            &["md5-check-failed"],
            ends("kept-old", "device error").with(&["--no-verify"]),
        ),
    ]
}

fn handshake_rows() -> Vec<Row> {
    vec![
        row(
            "wrong password, md5",
            &[],
            not_pushed("refused", "wrong password")
                .password("guess")
                .answers(1),
        ),
        row(
            "wrong password, pbkdf2",
            &[],
            not_pushed("refused", "wrong password")
                .password("guess")
                .answers(2),
        )
        .config(|c| c.auth = Auth::Pbkdf2),
        row(
            "no password, md5",
            &[],
            not_pushed("refused", "password needed").password(None).answers(0),
        ),
        row(
            "no password, pbkdf2",
            &[],
            not_pushed("refused", "password needed").password(None).answers(0),
        )
        .config(|c| c.auth = Auth::Pbkdf2),
        // Five failed answers a day lock the device; the sixth is not given, and --unlock releases it.
        row(
            "locked",
            &[],
            not_pushed("refused", "wrong password")
                .password("guess")
                .answers(1),
        )
        .then(
            not_pushed("refused", "wrong password")
                .password("guess")
                .answers(1),
        )
        .then(
            not_pushed("refused", "wrong password")
                .password("guess")
                .answers(1),
        )
        .then(
            not_pushed("refused", "wrong password")
                .password("guess")
                .answers(1),
        )
        .then(
            not_pushed("refused", "wrong password")
                .password("guess")
                .answers(1),
        )
        .then(not_pushed("refused", "locked").password("guess").answers(0))
        .then(updated().with(&["--unlock"]).answers(1)),
        fault(
            &["wrong-password"],
            not_pushed("refused", "wrong password").answers(1),
        ),
        fault(&["silent"], not_pushed("failed", "no answer")).long(),
        fault(
            &["dead"],
            not_pushed("failed", "no answer")
                .with(&["--family", "ir-remote"])
                .untouched(),
        ),
        fault(&["swallowed-invitation"], updated()),
        fault(&["no-call-back"], not_pushed("failed", "no call-back")).long(),
        fault(&["slot-too-small"], not_pushed("failed", "no call-back")).long(),
        // Neither side says no: what the device asks makes no sense, and nothing is answered.
        fault(
            &["bad-nonce=17"],
            not_pushed("failed", "not understood").answers(0),
        ),
        // A right answer to the strong form, and then a weak one is asked for: it is not given.
        row("downgrade-nonce", &["downgrade-nonce"], updated().answers(1))
            .config(|c| c.auth = Auth::Pbkdf2)
            .then(
                not_pushed("refused", "authentication downgrade")
                    .file(File::States("1.2"))
                    .answers(0),
            ),
        // The invitation is lost, then the answer to the nonce.
        fault(&["drop-udp=1"], updated().answers(1)),
        row(
            "answer lost, md5",
            &["drop-udp=2"],
            not_pushed("failed", "no answer").answers(0),
        )
        .long(),
        row("answer lost, pbkdf2", &["drop-udp=2"], updated().answers(1))
            .config(|c| c.auth = Auth::Pbkdf2)
            .long(),
        // The nonce is lost, so the next invitation is swallowed; then the OK, but the device connects.
        fault(&["drop-answer=1"], updated().answers(1)),
        fault(&["drop-answer=2"], updated().answers(1)),
        fault(&["lost-auth-ok"], updated().answers(1)),
        fault(&["slow-auth=3"], updated().answers(1)),
    ]
}

/// OTA was off before: it is switched on for the push, and off again whatever comes of it.
fn flag_rows() -> Vec<Row> {
    vec![
        row("ota-off", &["ota-off"], updated().also(ota_is_off)),
        row(
            "ota-off, and it breaks",
            &["ota-off", "drop-after=20000"],
            ends("kept-old", "transfer broke off").pushes(2).also(ota_is_off),
        )
        .long(),
        row(
            "ota-off, and the wrong password",
            &["ota-off"],
            not_pushed("refused", "wrong password")
                .password("guess")
                .also(ota_is_off),
        ),
        fault(
            &["ota-stays-off=success"],
            not_pushed("refused", "OTA stays off").answers(0).also(ota_is_off),
        ),
        fault(
            &["ota-stays-off=error"],
            not_pushed("refused", "OTA stays off").answers(0).also(ota_is_off),
        ),
    ]
}

fn transfer_rows() -> Vec<Row> {
    vec![
        fault(
            &["drop-after=20000"],
            ends("kept-old", "transfer broke off").pushes(2),
        )
        .long(),
        // Cut right after the first byte.
        fault(
            &["drop-after=1"],
            ends("kept-old", "transfer broke off").pushes(2),
        )
        .long(),
        fault(&["drop-once-after=20000"], updated().pushes(2)),
        fault(
            &["stall-at=20000"],
            ends("kept-old", "transfer broke off").pushes(2),
        )
        .long(),
        fault(&["stall-once-at=20000"], updated().pushes(2)).long(),
        // Whatever the last byte of it was: the old image was seen, because it cannot have had all of the new one.
        fault(
            &["reboot-at=20000"],
            ends("kept-old", "transfer broke off").pushes(2),
        ),
        fault(&["md5-check-failed"], ends("kept-old", "device error")),
        fault(
            &["error-text=Flash Write Failed"],
            ends("kept-old", "device error").also(names_the_cause),
        ),
        fault(
            &["early-error=20000"],
            ends("kept-old", "device error").also(names_the_cause),
        ),
        fault(
            &["ok-in-error-text"],
            ends("kept-old", "device error").also(names_the_cause),
        ),
        fault(&["split-acks"], updated()),
        fault(&["glued-acks"], updated()),
        fault(&["slow=60000"], updated()),
        row(
            "slow, and stop-and-wait",
            &["slow=60000", "glued-acks"],
            updated().with(&["--pace", "stop-and-wait"]),
        )
        .long(),
    ]
}

/// Cut anywhere, a transfer is tried once more, unless the device may have had all of it (../shared/RELIABILITY.md, F36, F42).
fn cut_rows() -> Vec<Row> {
    let named = |fault: &str, at: usize, step: Step| {
        let fault = format!("{fault}={at}");
        row(&fault, &[fault.clone().leak()], step.file(File::Large))
    };
    let at = |percent: usize| LARGE_LEN * percent / 100;
    let mut rows: Vec<Row> = [1, 10, 25, 50, 75, 90]
        .into_iter()
        .map(|percent| named("drop-once-after", at(percent), updated().pushes(2)))
        .collect();
    for percent in [1, 50, 90] {
        let step = ends("kept-old", "transfer broke off").pushes(2);
        rows.push(named("reboot-at", at(percent), step));
    }
    // The device's system had taken every byte, and what became of the last ones was never said: it is only looked at.
    let last = LARGE_LEN - 1000;
    for last in [last, LARGE_LEN - 1] {
        let step = ends("kept-old", "verdict lost").also(no_verdict);
        rows.push(named("drop-once-after", last, step).long());
    }
    let step = ends("unverified", "verdict lost").also(no_verdict);
    rows.push(named("reboot-at", last, step));
    rows
}

fn restart_rows() -> Vec<Row> {
    vec![
        fault(&["ok-lost"], updated().also(no_verdict)),
        fault(
            &["ok-lost", "label-unchanged"],
            ends("unverified", "verdict lost").also(no_verdict),
        ),
        fault(
            &["ok-lost-no-flash"],
            ends("kept-old", "verdict lost").also(no_verdict),
        )
        .long(),
        fault(&["ok-no-reboot"], ends("failed", "not applied")).long(),
        fault(
            &["label-unchanged"],
            ends("updated-label-unchanged", "label unchanged"),
        ),
        fault(&["other-version=9.9"], ends("unverified", "version mismatch")),
        row(
            "keeps-old after a push that moved the label",
            &["label-unchanged"],
            ends("updated-label-unchanged", "label unchanged").file(File::Unlabelled),
        )
        .then(updated().before(|rig| rig.device.set_faults(Vec::new())))
        .then(
            ends("rolled-back", "old version came back")
                .before(|rig| rig.device.set_faults(fails_with(&["keeps-old"])))
                .file(File::States("1.2")),
        ),
        // Nothing is known of its label yet: a success with its own mark, whose text names the doubt.
        fault(
            &["keeps-old"],
            ends("updated-label-unchanged", "label unchanged").in_doubt(),
        ),
        fault(
            &["never-returns"],
            ends("unverified", "no return").with(&RETURN_WITHIN_4S),
        ),
        fault(
            &["other-device-returns"],
            ends("unverified", "no return").with(&RETURN_WITHIN_4S),
        ),
        fault(
            &["returns-but-crashes"],
            ends("failed", "boot loop").with(&SOAK_3S),
        ),
        fault(&["crashes-once"], updated().with(&SOAK_3S)),
        fault(&["uptime-frozen"], updated()),
        fault(
            &["uptime-frozen", "ok-no-reboot"],
            ends("unverified", "restart not seen"),
        )
        .long(),
        fault(&["duplicate-chip-id"], updated()),
    ]
}

fn http_rows() -> Vec<Row> {
    let http = |step: Step| step.with(&HTTP).answers(0).untouched();
    vec![
        row("http", &[], http(updated().password(None))),
        row(
            "http, label unchanged",
            &["label-unchanged"],
            http(ends("updated-label-unchanged", "label unchanged")),
        ),
        row(
            "http, for another chip",
            &[],
            http(not_pushed("refused", "wrong-chip").file(File::For("esp32s3"))),
        ),
        fault(&["http-fail"], http(ends("kept-old", "device error"))),
        fault(&["http-reset"], http(updated().also(no_verdict))),
        row(
            "http-reset, label unchanged",
            &["http-reset", "label-unchanged"],
            http(ends("unverified", "verdict lost")),
        ),
        fault(&["http-early-error=500"], http(ends("kept-old", "device error"))),
        fault(&["http-early-error=401"], http(ends("kept-old", "device error"))),
        fault(&["http-early-error=413"], http(ends("kept-old", "device error"))),
        // It said no before it had a byte of the image, but bytes had gone out.
        fault(
            &["no-web-update"],
            http(ends("kept-old", "device error")).pushes(0),
        ),
        row(
            "http, never-returns",
            &["never-returns"],
            http(ends("unverified", "no return").with(&RETURN_WITHIN_4S)),
        ),
        row(
            "http, drop-once",
            &["drop-once-after=20000"],
            http(updated().pushes(2)),
        ),
        row(
            "http, drop",
            &["drop-after=20000"],
            http(ends("kept-old", "transfer broke off").pushes(2)),
        )
        .long(),
        row(
            "http, stall-once",
            &["stall-once-at=20000"],
            http(updated().pushes(2)),
        )
        .long(),
        // An upload does not need OTA, but the flag is handled as for any push.
        row("http, ota-off", &["ota-off"], http(updated().also(ota_is_off))),
    ]
}

fn status_rows() -> Vec<Row> {
    ["huge", "binary", "types", "endless", "empty", "html"]
        .into_iter()
        .map(|kind| {
            let mut row = row(
                &format!("nonsense-status={kind}"),
                &[],
                not_pushed("refused", "not understood")
                    .within(NONSENSE_WITHIN + STARTING)
                    .untouched()
                    .answers(0),
            );
            row.faults = vec![match kind {
                "huge" => "nonsense-status=huge",
                "binary" => "nonsense-status=binary",
                "types" => "nonsense-status=types",
                "endless" => "nonsense-status=endless",
                "empty" => "nonsense-status=empty",
                _ => "nonsense-status=html",
            }];
            row
        })
        .collect()
}

fn arduino_rows() -> Vec<Row> {
    let sketch = |step: Step| row("", &["no-status-api"], step.with(&ARDUINO));
    let named = |name: &str, mut row: Row| {
        name.clone_into(&mut row.name);
        row
    };
    vec![
        row(
            "arduino, not named",
            &["no-status-api"],
            ends("refused", None).pushes(0).answers(0).also(hints_at_arduino),
        ),
        named("arduino", sketch(ends("unverified", "no status API"))),
        named(
            "arduino, not verified",
            sketch(ends("unverified", "not asked").with(&["--no-verify"]).code(0)),
        ),
        named(
            "arduino, wrong password",
            sketch(
                not_pushed("refused", "wrong password")
                    .password("guess")
                    .answers(1),
            ),
        ),
        named(
            "arduino, for another chip",
            sketch(
                not_pushed("refused", "wrong-chip")
                    .file(File::For("esp32"))
                    .answers(0),
            ),
        ),
        row(
            "arduino, chip not named",
            &["no-status-api"],
            not_pushed("refused", "chip-unknown")
                .with(&["--family", "arduino"])
                .answers(0),
        ),
        // Its error text is known, but not what it runs: "kept old" is only said of what was seen (job rule 6).
        row(
            "arduino, error",
            &["no-status-api", "md5-check-failed"],
            ends("unverified", "no status API").with(&ARDUINO),
        ),
        row(
            "arduino, never-returns",
            &["no-status-api", "never-returns"],
            ends("unverified", None).with(&ARDUINO).with(&RETURN_WITHIN_4S),
        ),
    ]
}

/// Faults that show while devices are looked for and looked at, not while one is updated: `fleet` and the server's own tests
/// hold them to their outcomes.
const OF_DISCOVERY: [&str; 12] = [
    "status-huge",
    "status-truncated",
    "status-wrong-types",
    "status-not-utf8",
    "status-slow",
    "status-redirect",
    "endless-headers",
    "mac-clone",
    "announces",
    "move-to",
    "vanish",
    "return",
];

/// Faults of a device that is told by MQTT to pull its image: only a server tells.
const OF_COMMANDS: [&str; 11] = [
    "no-mqtt-trigger",
    "mqtt-silent",
    "mqtt-rejects",
    "mqtt-never-pulls",
    "mqtt-pulls-twice",
    "mqtt-wrong-digest",
    "mqtt-other-id",
    "mqtt-no-flash",
    "mqtt-no-done",
    "mqtt-nonsense-progress",
    "mqtt-lost-at",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_fault_ends_as_settled_and_nothing_is_pushed_twice_without_need() {
    let mut rows = rows();
    let covered: BTreeSet<&str> = rows
        .iter()
        .flat_map(|row| &row.faults)
        .map(|fault| fault.split('=').next().unwrap())
        .collect();
    let missing: Vec<&str> = Fault::list()
        .iter()
        .map(|(name, ..)| *name)
        .filter(|name| !covered.contains(name) && !OF_DISCOVERY.contains(name) && !OF_COMMANDS.contains(name))
        .collect();
    assert!(missing.is_empty(), "no row for the faults {missing:?}");

    rows.sort_by_key(|row| !row.long);
    let free = Arc::new(Semaphore::new(N_AT_ONCE));
    let mut running = JoinSet::new();
    let n_rows = rows.len();
    for row in rows {
        let free = free.clone();
        running.spawn(async move {
            let _turn = free.acquire_owned().await.unwrap();
            let mut wrong = Vec::new();
            check(&row, &mut wrong).await;
            wrong
        });
    }
    let mut wrong = Vec::new();
    while let Some(done) = running.join_next().await {
        match done {
            Ok(found) => wrong.extend(found),
            Err(error) => wrong.push(error.to_string()),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {n_rows} rows are wrong:\n\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
}

/// Does the steps of a row, up to the first that is wrong.
async fn check(row: &Row, wrong: &mut Vec<String>) {
    let rig = Rig::start(|config| {
        config.faults = fails_with(&row.faults);
        (row.config)(config);
    })
    .await;
    for (step_idx, step) in row.steps.iter().enumerate() {
        (step.before)(&rig);
        let image = step.file.bytes();
        let file = rig.file("firmware.bin", &image);
        let mut command = rig.push_in(&rig.state(), &file);
        command.arg("--json").args(&step.arguments);
        if !step.arguments.contains(&"--soak") {
            command.args(["--soak", "2s"]);
        }
        if let Some(password) = step.password {
            command
                .args(["--password-env", PASSWORD_ENV])
                .env(PASSWORD_ENV, password);
        }
        let before = Before {
            running: rig.device.running(),
            counters: rig.device.counters(),
            n_pushes: rig.n_pushes(),
        };
        let ended = run(command).await;
        let complaints = complaints(row, step, &before, &ended, &rig, &image);
        if !complaints.is_empty() {
            wrong.push(format!(
                "{} (command {}, {:.1} s): {}\n{}{}",
                row.name,
                step_idx + 1,
                ended.took.as_secs_f64(),
                complaints.join("; "),
                ended.stdout,
                ended.stderr
            ));
            return;
        }
        // A wrong one panics, which names it.
        (step.also)(&ended.json(), &rig);
    }
}

/// The device before a command.
struct Before {
    running: sim::ir_remote::Running,
    counters: sim::ir_remote::Counters,
    n_pushes: usize,
}

fn complaints(
    row: &Row,
    step: &Step,
    before: &Before,
    ended: &Ended,
    rig: &Rig,
    image: &[u8],
) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut expect = |what: &str, is_so: bool| {
        if !is_so {
            complaints.push(what.to_owned());
        }
    };
    let Ok(said) = serde_json::from_str::<Value>(&ended.stdout) else {
        return vec!["what it said is no JSON".to_owned()];
    };
    let outcome = said["outcome"].as_str().unwrap_or_default();
    let reason = said["reason"].as_str();
    let expected = format!(
        "expected {} {:?} and exit {}",
        step.outcome, step.reason, step.code
    );
    let named = step
        .reason
        .is_none_or(|expected| reason.unwrap_or_default() == expected);
    expect(
        &expected,
        outcome == step.outcome && named && ended.code == Some(step.code),
    );
    expect(
        "a success has no reason",
        outcome != "updated" || reason.is_none(),
    );
    if !matches!(outcome, "updated" | "already-current") {
        expect("it says what to do next", said["next_step"].is_string());
    }

    let n_pushes = rig.n_pushes() - before.n_pushes;
    expect(
        &format!("{n_pushes} pushes reached the device, expected {}", step.n_pushes),
        n_pushes == step.n_pushes,
    );
    let dies = row
        .faults
        .iter()
        .any(|fault| DIES_IN_MID_STREAM.contains(&fault.split('=').next().unwrap()));
    expect("too many pushes", n_pushes <= if dies { 2 } else { 1 });
    let counters = rig.device.counters();
    let n_answers = counters.answers - before.counters.answers;
    expect(
        &format!("{n_answers} password answers"),
        step.n_answers.is_none_or(|expected| n_answers == expected),
    );
    expect(
        "a datagram reached the device",
        !step.untouched || counters.datagrams == before.counters.datagrams,
    );
    expect(
        "it took too long",
        step.within.is_none_or(|within| ended.took <= within),
    );

    // Whatever was said: what runs now?
    let running = rig.device.running();
    let runs_it = running.sha256 == Some(sha256(image));
    let keeps = running.sha256 == before.running.sha256;
    match outcome {
        "updated" => expect("it said updated, and the device runs something else", runs_it),
        "updated-label-unchanged" if !step.doubt => {
            expect(
                "it said updated (label unchanged), and the device runs something else",
                runs_it,
            );
        }
        "updated-label-unchanged" => {
            let text = said["text"].as_str().unwrap_or_default();
            expect("the doubt is not named", text.contains("cannot tell"));
        }
        "already-current" => expect(
            "it said already current, and the device runs something else",
            runs_it,
        ),
        "kept-old" | "rolled-back" | "refused" | "cancelled" => {
            expect(
                "it said that the old one runs, and the device runs something else",
                keeps,
            );
        }
        _ => {}
    }
    expect(
        "the OTA flag of the device is not what it was",
        running.ota_enabled == before.running.ota_enabled,
    );
    evidence(&said, row, step, rig, image, &mut expect);
    complaints
}

/// What the evidence must show.
fn evidence(
    said: &Value,
    row: &Row,
    step: &Step,
    rig: &Rig,
    image: &[u8],
    expect: &mut impl FnMut(&str, bool),
) {
    let evidence = &said["evidence"];
    let seconds = |name: &str| evidence[name].as_f64();
    let text = |name: &str| evidence[name].as_str().map(str::to_owned);
    expect("evidence: sha256", text("sha256") == Some(sha256(image)));
    expect(
        "evidence: length",
        evidence["len_bytes"].as_u64() == Some(image.len() as u64),
    );
    let is_success = step.outcome.starts_with("updated");
    if step.arguments.contains(&"arduino") {
        return;
    }
    if step.outcome != "already-current" && (is_success || step.n_pushes > 0) {
        expect(
            "evidence: the MAC before",
            text("identity_before") == Some(rig.device.name()),
        );
        expect("evidence: the version before", text("version_before").is_some());
        let method = if step.arguments.contains(&"http") {
            "http"
        } else {
            "espota"
        };
        expect("the method", said["method"].as_str() == Some(method));
        expect(
            "evidence: the push took time",
            seconds("push_s").is_some_and(|push| push > 0.0),
        );
    }
    if is_success {
        expect(
            "evidence: the MAC after",
            text("identity_after") == Some(rig.device.name()),
        );
        expect("evidence: away", seconds("away_s").is_some_and(|away| away > 0.0));
        let frozen = row.faults.contains(&"uptime-frozen");
        expect(
            "evidence: the uptime began anew",
            // It booted just before it was seen again.
            frozen
                || seconds("uptime_after_s")
                    .zip(seconds("watched_s"))
                    .is_some_and(|(up, watched)| up < watched + 2.0),
        );
        expect(
            "evidence: the version after",
            text("version_after") == Some(rig.device.running().version),
        );
        expect(
            "evidence: watched for the soak",
            seconds("watched_s").is_some_and(|watched| watched >= 2.0),
        );
        let lost = row
            .faults
            .iter()
            .any(|fault| matches!(*fault, "ok-lost" | "http-reset"));
        expect(
            "evidence: the verdict",
            lost || text("verdict").as_deref() == Some("OK"),
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_devices_with_one_chip_id_are_told_apart_by_their_mac() {
    let image = support::image(Some("1.1"), 9);
    let rigs = [
        Rig::start(|config| config.faults = fails_with(&["duplicate-chip-id"])).await,
        Rig::start(|config| config.faults = fails_with(&["duplicate-chip-id"])).await,
    ];
    let file = rigs[0].file("firmware.bin", &image);
    for rig in &rigs {
        // One state folder for both: a record of the first must not speak for the second.
        let mut command = rig.push_in(&rigs[0].state(), &file);
        command
            .args(["--json", "--soak", "1s", "--password-env", PASSWORD_ENV])
            .env(PASSWORD_ENV, PASSWORD);
        let ended = run(command).await;
        let said = ended.is("updated", 0).json();
        assert_eq!(said["evidence"]["identity_after"], rig.device.name().as_str());
        assert!(rig.runs(&image));
        assert_eq!(rig.n_pushes(), 1);
    }
}
