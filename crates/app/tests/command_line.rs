//! What the program says, to whom, and what it never says.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod support;

use std::fs::Permissions;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use insta::{Settings, assert_json_snapshot, assert_snapshot};
use serde_json::Value;
use sim::EventKind;
use sim::ir_remote::{Auth, Config, Fault};
use tokio::task::JoinSet;

use support::{Ended, PASSWORD, Rig, Running, chip, image, reflash, run};

/// A password that is nowhere else.
const CANARY: &str = "canary-7f3a-KEEP-OUT";
/// What of it is as good as the password (PROTOCOLS.md B2): its MD5 and SHA-256 in hex, by `md5sum` and `sha256sum`.
const CANARY_MD5: &str = "b773c74bee18f60ae68f206ab5bdb97c";
const CANARY_SHA256: &str = "d41a373e117a3ac845e741d8122b7e0f61d221ec34b2b41421d0bab182190499";
/// The variable that holds it.
const CANARY_ENV: &str = "REFLASH_TEST_CANARY";

// ---- Usage

#[tokio::test]
async fn wrong_usage_ends_with_64_and_a_hint() {
    for (arguments, hint) in [
        ("", "Usage:"),
        ("frobnicate", "--help"),
        ("push", "<ADDR>"),
        ("push 127.0.0.1", "<FILE>"),
        ("push 127.0.0.1 a.bin --frobnicate", "--help"),
        ("push 127.0.0.1 a.bin --forse", "--force"),
        ("push 127.0.0.1 a.bin --soak soon", "write 10s"),
        ("push 127.0.0.1 a.bin --return-within 10d", "write 10s"),
        ("push 127.0.0.1 a.bin --family toaster", "ir-remote"),
        ("push 127.0.0.1 a.bin --pace fast", "stop-and-wait"),
        ("push 127.0.0.1 a.bin --ota-port 70000", "65535"),
        (
            "push 127.0.0.1 a.bin --password-env A --password-file b",
            "cannot be used with",
        ),
        ("push 127.0.0.1 a.bin --password secret", "--password-"),
        ("simulate", "reflash simulate ir-remote"),
        ("simulate toaster", "--help"),
        ("simulate ir-remote --fault oklost", "ok-lost"),
        ("simulate ir-remote --fault drop-after", "drop-after=BYTES"),
        ("simulate ir-remote --chip z80", "esp32c6"),
        ("simulate ir-remote --auth sha1", "pbkdf2"),
        ("simulate ir-remote --count 0", "1..=4096"),
        ("simulate ir-remote --boot-s now", "write 10s"),
        ("firmware", "inspect"),
        ("firmware inspect", "<FILES>"),
        ("push 127.0.0.1 a.bin --allow downgrad", "downgrade"),
        ("push 127.0.0.1 a.bin --allow wrong-chip", "never"),
        ("device", "enroll"),
        ("device list --state offlin", "offline"),
        ("device tag kitchen", "TAG"),
        ("device ota maybe kitchen", "on, off"),
        ("device enroll", "--all"),
        ("device enroll kitchen --all", "cannot be used with"),
        ("device set kitchen", "--group"),
        ("device list --fingerprint 12", "64 hexadecimal digits"),
        ("token create x --role king", "operator"),
        ("completions tcsh", "zsh"),
        ("man", "--output"),
        ("backup restore", "<DIR>"),
        (
            "serve --managed --listen 127.0.0.1:0",
            "cannot be used with '--listen",
        ),
    ] {
        let ended = run(reflash(arguments.split_whitespace())).await;
        assert_eq!(ended.code, Some(64), "{arguments}: {ended:#?}");
        assert!(
            ended.stderr.contains(hint),
            "{arguments}: no {hint:?} in {ended:#?}"
        );
        assert_eq!(ended.stdout, "", "{arguments}");
    }
}

/// Which methods there are depends on the device, so it is asked first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_the_device_does_not_know_is_wrong_usage() {
    let rig = Rig::start(|_| {}).await;
    let file = rig.file("firmware.bin", &image(Some("1.1"), 7));
    let mut command = rig.push_for_people(&file);
    command.args(["--method", "pigeon"]);
    let ended = run(command).await;
    assert_eq!(ended.code, Some(64), "{ended:#?}");
    assert!(
        ended.stderr.contains("--method espota or --method http"),
        "{ended:#?}"
    );
    assert_eq!((rig.device.counters().datagrams, rig.n_pushes()), (0, 0));
}

#[tokio::test]
async fn what_does_not_exist_ends_with_3() {
    for arguments in [
        "push 127.0.0.1 no-such-file.bin",
        "push 127.0.0.1 Cargo.toml --password-file no-such-file",
        "push 127.0.0.1 Cargo.toml --password-env REFLASH_NO_SUCH_VARIABLE",
        "firmware inspect no-such-file.bin",
    ] {
        let ended = run(reflash(arguments.split_whitespace())).await;
        assert_eq!(ended.code, Some(3), "{arguments}: {ended:#?}");
        assert!(ended.stderr.contains("next:"), "{arguments}: {ended:#?}");
        assert_eq!(ended.stdout, "", "{arguments}");

        let ended = run(reflash(arguments.split_whitespace().chain(["--json"]))).await;
        assert_eq!(ended.code, Some(3), "{arguments}: {ended:#?}");
        assert!(ended.json()["next_step"].is_string(), "{arguments}: {ended:#?}");
        assert_eq!(ended.stderr, "", "{arguments}");
    }
}

#[tokio::test]
async fn the_help_of_every_command_has_an_example() {
    let mut commands = vec![Vec::new()];
    let mut n_seen = 0;
    while let Some(command) = commands.pop() {
        let ended = run(reflash(command.iter().map(String::as_str).chain(["--help"]))).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{command:?}");
        let (_, example) = ended
            .stdout
            .split_once("Example")
            .unwrap_or_else(|| panic!("{command:?} has no example: {}", ended.stdout));
        let shown = ["reflash".to_owned()].into_iter().chain(command.clone());
        let shown = shown.collect::<Vec<_>>().join(" ");
        assert!(example.contains(&shown), "{command:?}: {example}");
        n_seen += 1;
        let listed = ended.stdout.split_once("Commands:\n").map(|(_, listed)| listed);
        let names = listed.into_iter().flat_map(|listed| {
            let lines = listed.lines().take_while(|line| !line.is_empty());
            // A sentence that is broken into lines goes on further to the right.
            let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
            names.map(|line| line.split_whitespace().next().unwrap().to_owned())
        });
        for name in names {
            commands.push(command.iter().cloned().chain([name]).collect());
        }
    }
    // The program, its ten commands, and more than thirty below them.
    assert!(n_seen >= 41, "only {n_seen} commands were found");
}

// ---- What a person and a program read

fn inspect(arguments: &[&str], folder: &Path) -> Command {
    let mut command = reflash(["firmware", "inspect"]);
    command.args(arguments).current_dir(folder);
    command
}

#[tokio::test]
async fn an_inspection_in_json() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let good = image(Some("1.1"), 7);
    write("good.bin", &good);
    let said = run(inspect(&["good.bin", "--json"], folder.path())).await;
    assert_eq!(said.code, Some(0));
    let said = said.json();
    assert_eq!(said["sha256"], support::sha256(&good));
    assert_json_snapshot!("inspect_good", said);

    let mut broken = good;
    broken[1000] ^= 1;
    write("broken.bin", &broken);
    let said = run(inspect(&["broken.bin", "--json"], folder.path())).await;
    assert_eq!(said.code, Some(1));
    assert_json_snapshot!("inspect_refused", said.json());

    write("named-like-firmware.bin", b"This is a placeholder.\n");
    let said = run(inspect(&["named-like-firmware.bin", "--json"], folder.path())).await;
    assert_eq!(said.code, Some(1));
    assert_json_snapshot!("inspect_text", said.json());

    let said = run(inspect(
        &["good.bin", "--chip", "esp32", "--slot-bytes", "1000", "--json"],
        folder.path(),
    ))
    .await;
    assert_eq!(said.code, Some(1));
    let said = said.json();
    let rules: Vec<&str> = said["refusals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|refusal| refusal["rule"].as_str().unwrap())
        .collect();
    assert_eq!(rules, ["wrong-chip", "too-large"]);
}

/// A device whose identity is the same in every run.
async fn snapshot_rig(faults: &[&str]) -> Rig {
    Rig::start(|config| {
        config.mac = Some("a0:b1:c2:d3:e4:f5".parse().unwrap());
        config.faults = faults.iter().map(|fault| Fault::parse(fault).unwrap()).collect();
    })
    .await
}

/// Hides what differs from run to run.
fn settings() -> Settings {
    let mut settings = Settings::clone_current();
    for (pattern, shown) in [
        (r"127\.\d+\.\d+\.\d+", "[address]"),
        (r"\d+ min \d+ s\b", "[minutes]"),
        (r"\d+\.\d s\b", "[seconds]"),
        (r"\b\d+ s\b", "[seconds]"),
        (r"\(\d+ kB/s\)", "([rate])"),
    ] {
        settings.add_filter(pattern, shown);
    }
    settings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_in_json() {
    let rig = snapshot_rig(&[]).await;
    let file = rig.file("firmware.bin", &image(Some("1.1"), 7));
    let ended = run(rig.push(&file)).await;
    assert_eq!(ended.stderr, "", "progress is for terminals");
    let said = ended.is("updated", 0).json();
    settings().bind(|| {
        assert_json_snapshot!("push_updated", said, {
            ".evidence.away_s" => "[seconds]",
            ".evidence.push_s" => "[seconds]",
            ".evidence.watched_s" => "[seconds]",
            ".evidence.uptime_before_s" => "[seconds]",
            ".evidence.uptime_after_s" => "[seconds]",
        });
    });
}

/// The lines as they were before they were wrapped: where they break depends on the length of the device's address.
fn unwrapped(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let continues =
            line.starts_with("           ") || line.starts_with("  ") && !line[2..].contains("  ");
        match lines.last_mut() {
            Some(last) if continues => {
                last.push(' ');
                last.push_str(line.trim_start());
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_for_people() {
    let rig = snapshot_rig(&[]).await;
    let file = rig.file("firmware.bin", &image(Some("1.1"), 7));
    let updated = run(rig.push_for_people(&file)).await;
    let current = run(rig.push_for_people(&file)).await;
    assert_eq!((updated.code, current.code), (Some(0), Some(2)));
    rig.device
        .set_faults(vec![Fault::parse("error-text=Flash Write Failed").unwrap()]);
    let other = rig.file("other.bin", &image(Some("1.2"), 8));
    let mut planning = rig.push_for_people(&other);
    planning.arg("--dry-run");
    let planned = run(planning).await;
    assert_eq!((planned.code, rig.n_pushes()), (Some(0), 1));
    let failed = run(rig.push_for_people(&other)).await;
    let mut refusing = rig.push_for_people(&rig.file("other-chip.bin", &{
        sim::firmware::image(chip("esp32"), Some("1.2"), 4096, 9)
    }));
    refusing.arg("--json");
    assert_eq!(run(refusing).await.verdict().1.as_deref(), Some("wrong-chip"));
    assert_eq!(failed.code, Some(1));
    rig.device.set_faults(vec![Fault::DropAfter(20_000)]);
    let broken = run(rig.push_for_people(&other)).await;
    assert_eq!(broken.code, Some(1));
    assert!(
        !broken.stdout.contains("131,072 bytes in"),
        "it was cut off long before: {}",
        broken.stdout
    );
    for ended in [&updated, &current, &planned, &failed, &broken] {
        assert_eq!(ended.stderr, "", "progress is for terminals");
    }
    settings().bind(|| {
        assert_snapshot!("push_for_people", unwrapped(&updated.stdout));
        assert_snapshot!("push_for_people_already_current", unwrapped(&current.stdout));
        assert_snapshot!("push_for_people_dry_run", unwrapped(&planned.stdout));
        assert_snapshot!("push_for_people_kept_old", unwrapped(&failed.stdout));
    });
    for line in updated.stdout.lines().chain(failed.stdout.lines()) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

// ---- Secrets

/// Fails if the password, or what is as good as it, is in the text.
#[track_caller]
fn keeps_the_secret(what: &str, bytes: &[u8]) {
    for secret in [CANARY, CANARY_MD5, CANARY_SHA256] {
        let found = bytes
            .windows(secret.len())
            .position(|window| window.eq_ignore_ascii_case(secret.as_bytes()));
        if let Some(at) = found {
            let around = &bytes[at.saturating_sub(200)..bytes.len().min(at + 100)];
            panic!("{secret} is in {what}: …{}…", String::from_utf8_lossy(around));
        }
    }
}

#[track_caller]
fn keep_the_secret(ended: &Ended, state: &Path) -> usize {
    keeps_the_secret("the standard output", ended.stdout.as_bytes());
    keeps_the_secret("the log", ended.stderr.as_bytes());
    let mut n_files = 0;
    let mut folders = vec![state.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            n_files += 1;
            keeps_the_secret(&path.display().to_string(), &std::fs::read(&path).unwrap());
        }
    }
    n_files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_password_is_in_no_output_no_log_and_no_file() {
    fn has_the_canary(config: &mut Config) {
        // It leaks its password to everybody who asks for its status, as the real one does.
        config.password = Some(CANARY.to_owned());
    }
    let mut all = JoinSet::new();
    for auth in [Auth::Md5, Auth::Pbkdf2] {
        for (fault, outcome) in [
            (None, "updated"),
            (Some("wrong-password"), "refused"),
            (Some("md5-check-failed"), "kept-old"),
        ] {
            for by_file in [true, false] {
                all.spawn(async move {
                    let rig = Rig::start(|config| {
                        has_the_canary(config);
                        config.auth = auth;
                        config.faults = fault
                            .into_iter()
                            .map(|fault| Fault::parse(fault).unwrap())
                            .collect();
                    })
                    .await;
                    let file = rig.file("firmware.bin", &image(Some("1.1"), 7));
                    let mut command = rig.push_in(&rig.state(), &file);
                    command
                        .args(["--soak", "1s", "--json"])
                        .env("REFLASH_LOG", "trace");
                    if by_file {
                        let path = rig.file("password", format!("{CANARY}\r\n").as_bytes());
                        command.arg("--password-file").arg(path);
                    } else {
                        command
                            .args(["--password-env", CANARY_ENV])
                            .env(CANARY_ENV, CANARY);
                    }
                    let ended = run(command).await;
                    ended.is(outcome, i32::from(outcome != "updated"));
                    assert!(ended.stderr.contains(" INFO "), "the log was not on: {ended:#?}");
                    assert!(keep_the_secret(&ended, &rig.state()) > 0);
                });
            }
        }
    }
    // Killed with everything still in the write-ahead log.
    all.spawn(async {
        let rig = Rig::start(|config| {
            has_the_canary(config);
            config.rate_bytes_per_s = Some(50_000);
        })
        .await;
        let file = rig.file("firmware.bin", &image(Some("1.1"), 7));
        let mut command = rig.push_in(&rig.state(), &file);
        command
            .args(["--password-env", CANARY_ENV])
            .env(CANARY_ENV, CANARY);
        let running = Running::start(command);
        rig.wait(0, EventKind::Receiving).await;
        running.kill();
        let nothing = Ended {
            code: None,
            stdout: String::new(),
            stderr: String::new(),
            took: Duration::ZERO,
            shown: String::new(),
        };
        assert!(keep_the_secret(&nothing, &rig.state()) > 0);
    });
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
}

// ---- Foreign text

/// Fails if a terminal would do more with this than show it.
#[track_caller]
fn is_harmless(text: &str) {
    let control = text.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(control, None, "{text:?}");
    let injected = text
        .lines()
        .find(|line| line.trim_start().starts_with("INJECTED"));
    assert_eq!(injected, None, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_characters_of_a_device_do_not_reach_the_terminal() {
    const EVIL: &str = "1.0\u{1b}[2J\u{1b}]0;title\u{7}\r\nINJECTED\u{9b}31m\u{8}";
    let rig = Rig::start(|config| {
        config.version = EVIL.to_owned();
        config.host_name = EVIL.to_owned();
        config.version_after = Some(format!("{EVIL}2"));
    })
    .await;
    let evil_image = sim::firmware::image(chip("esp32c6"), Some("2\u{1b}[2J\nINJECTED"), 8192, 1);
    let file = rig.file("firm\u{1b}[2J\nINJECTED.bin", &evil_image);
    // An error text of the device, then a label of it that has moved.
    for (log, faults) in [
        ("off", vec![Fault::ErrorText(EVIL.to_owned())]),
        ("trace", vec![Fault::ErrorText(EVIL.to_owned())]),
        ("trace", Vec::new()),
    ] {
        rig.device.set_faults(faults);
        let mut command = rig.push_for_people(&file);
        command.env("REFLASH_LOG", log).args(["--allow", "any"]);
        let ended = run(command).await;
        assert_eq!(ended.code, Some(1), "{ended:#?}");
        assert!(ended.stdout.contains("verdict"), "{ended:#?}");
        is_harmless(&ended.stdout);
        is_harmless(&ended.stderr);
    }
    let ended = run(inspect(&[file.to_str().unwrap()], rig.folder.path())).await;
    is_harmless(&ended.stdout);
    is_harmless(&ended.stderr);
    let missing = rig.folder.path().join("missing\u{1b}[2J\nINJECTED");
    let ended = run(inspect(&[missing.to_str().unwrap()], rig.folder.path())).await;
    assert_eq!(ended.code, Some(3));
    is_harmless(&ended.stderr);
}

// ---- Output that nobody reads

/// Runs a command whose standard output is closed; what it said on standard error, and its exit code.
async fn unread(mut command: Command) -> (String, Option<i32>) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = child.stderr.take().unwrap();
    tokio::task::spawn_blocking(move || {
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        (said, child.wait().unwrap().code())
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_standard_output_changes_nothing_else() {
    let rig = Rig::start(|_| {}).await;
    let good = image(Some("1.1"), 7);
    let file = rig.file("firmware.bin", &good);
    let bind = support::own_address().to_string();
    let simulate = [
        "simulate",
        "ir-remote",
        "--bind",
        &bind,
        "--ota-port",
        "0",
        "--http-port",
        "0",
    ];
    for (what, command, code) in [
        ("push", rig.push_for_people(&file), 0),
        ("push --json", rig.push(&file), 2),
        ("inspect", inspect(&["firmware.bin"], rig.folder.path()), 0),
        (
            "inspect --json",
            inspect(&["firmware.bin", "--json"], rig.folder.path()),
            0,
        ),
        ("help", reflash(["--help"]), 0),
        ("list of faults", reflash(["simulate", "--list-faults"]), 0),
        ("simulate", reflash(simulate), 0),
    ] {
        let (stderr, found) = unread(command).await;
        assert_eq!((stderr.as_str(), found), ("", Some(code)), "{what}");
    }
    assert!(rig.runs(&good), "the push was not given up because nobody read");
}

// ---- The state folder

/// Checks that a push was not even begun, and that it says what to mend.
#[track_caller]
fn not_begun(what: &str, ended: &Ended, rig: &Rig) {
    ended.is("failed", 1);
    let said = ended.json();
    let text = said["text"].as_str().unwrap();
    assert!(text.starts_with("Nothing was sent: "), "{what}: {text}");
    assert!(said["next_step"].is_string(), "{what}: {said:#}");
    assert_eq!(rig.device.counters().datagrams, 0, "{what}");
    assert_eq!(rig.n_pushes(), 0, "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_folder_that_cannot_be_written_is_told_before_anything_is_sent() {
    let rig = Rig::start(|_| {}).await;
    let file = rig.file("firmware.bin", &image(Some("1.1"), 7));
    let push = |state: &Path| {
        let mut command = rig.push_in(state, &file);
        command
            .args(["--soak", "1s", "--json", "--password-env", CANARY_ENV])
            .env(CANARY_ENV, PASSWORD);
        command
    };
    let beneath_a_file = file.join("state");
    for state in [
        // Nobody makes a folder here, not even root.
        Path::new("/proc/reflash"),
        beneath_a_file.as_path(),
        file.as_path(),
    ] {
        let ended = run(push(state)).await;
        not_begun(&state.display().to_string(), &ended, &rig);
        let text = ended.json()["text"].as_str().unwrap().to_owned();
        assert!(
            text.contains(state.to_str().unwrap()),
            "it does not name the folder: {text}"
        );
    }
    // One that was written before, and cannot be any more. Root writes all the same, so it needs a read-only mount.
    let state = rig.folder.path().join("read-only");
    run({
        let mut command = push(&state);
        command.arg("--dry-run");
        command
    })
    .await;
    if rustix::process::geteuid().is_root() {
        let script = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@""#;
        let Some(ended) = in_a_namespace(script, &state, push(&state)).await else {
            return;
        };
        not_begun("read-only mount", &ended, &rig);
    } else {
        std::fs::set_permissions(&state, Permissions::from_mode(0o500)).unwrap();
        let ended = run(push(&state)).await;
        std::fs::set_permissions(&state, Permissions::from_mode(0o700)).unwrap();
        not_begun("read-only folder", &ended, &rig);
    }
}

/// RELIABILITY.md F77: a folder or a database of another user is refused in words, at once, and left as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_user_owns_is_refused_in_words() {
    let nobody = |inner: &Command| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .stdin(Stdio::null());
        command
    };
    // The program itself may lie where only we may look.
    let may_run = nobody(Command::new(env!("CARGO_BIN_EXE_reflash")).arg("--version")).output();
    if !may_run.is_ok_and(|output| output.status.success()) {
        println!("skipped: nothing can be run as another user here");
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    std::fs::set_permissions(parent.path(), Permissions::from_mode(0o755)).unwrap();
    let state = parent.path().join("state");
    let rig = Rig::start(|_| {}).await;
    let file = parent.path().join("firmware.bin");
    std::fs::write(&file, image(Some("1.1"), 7)).unwrap();
    let mut ours = rig.push_in(&state, &file);
    ours.args(["--dry-run", "--json"]);
    assert_eq!(run(ours).await.code, Some(0));
    for (what, of_folder, of_files) in [
        ("the folder", 0o700, 0o600),
        ("the folder, which may be read", 0o755, 0o644),
        ("the files in it", 0o777, 0o600),
    ] {
        let mode = |path: &Path, mode: u32| {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        mode(&state, of_folder);
        for entry in std::fs::read_dir(&state).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                mode(&path, of_files);
            }
        }
        let database = std::fs::read(state.join("reflash.db")).unwrap();
        let mut push = rig.push_in(&state, &file);
        push.arg("--json");
        let ended = run(nobody(&push)).await;
        not_begun(what, &ended, &rig);
        assert!(
            ended.stdout.contains(state.to_str().unwrap()),
            "{what}: {ended:#?}"
        );
        assert!(
            ended.stdout.contains("readable and writable"),
            "{what}: {ended:#?}"
        );
        assert!(ended.took < Duration::from_secs(20), "{what}: {ended:#?}");

        let mut serve = reflash(["serve", "--listen", "127.0.0.1:0", "--data"]);
        serve.arg(&state);
        let ended = run(nobody(&serve)).await;
        assert_eq!(ended.code, Some(1), "{what}: {ended:#?}");
        assert!(
            ended.stderr.contains(state.to_str().unwrap()),
            "{what}: {ended:#?}"
        );
        assert!(!ended.stderr.contains("panicked"), "{what}: {ended:#?}");
        assert!(ended.took < Duration::from_secs(20), "{what}: {ended:#?}");
        let after = std::fs::read(state.join("reflash.db")).unwrap();
        assert!(after == database, "{what}: the database was changed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_folder_that_is_missing_is_made_for_its_owner_alone() {
    let rig = Rig::start(|_| {}).await;
    let file = rig.file("firmware.bin", &image(Some("1.1"), 7));
    let state = rig.folder.path().join("a").join("b");
    let mut command = rig.push_in(&state, &file);
    command.args(["--dry-run", "--json"]);
    let ended = run(command).await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join("reflash.db")), 0o600);
    assert_eq!(rig.device.counters().datagrams, 0, "a dry run sends nothing");
}

/// Runs a command after a shell script (`$0` is the folder, `$@` the command) in mounts of its own; none, with a word about
/// it, where this machine does not allow that.
async fn in_a_namespace(script: &str, folder: &Path, inner: Command) -> Option<Ended> {
    let command = |script: &str| {
        let mut outer = Command::new("unshare");
        outer.args(["-rm", "sh", "-c", script]).arg(folder);
        outer
    };
    let allowed = command("mount -t tmpfs none \"$0\"").output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        println!("skipped: no mounts of its own for a process here");
        return None;
    }
    let mut outer = command(script);
    outer.arg(inner.get_program()).args(inner.get_args());
    outer.stdin(Stdio::null());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    Some(run(outer).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_a_full_disk_it_says_so_and_sends_nothing_or_ends_right() {
    let mut all = JoinSet::new();
    // From not even a database to all that is needed, KiB; the image itself needs 128.
    for size in [4, 32, 96, 160, 248, 256, 260, 268, 284, 312, 318, 324, 336, 1024] {
        all.spawn(async move {
            let rig = Rig::start(|_| {}).await;
            let good = image(Some("1.1"), 7);
            let file = rig.file("firmware.bin", &good);
            let state = rig.folder.path().join("disk");
            std::fs::create_dir(&state).unwrap();
            let mut command = rig.push_in(&state, &file);
            command
                .args(["--soak", "1s", "--json", "--password-env", CANARY_ENV])
                .env(CANARY_ENV, PASSWORD);
            let script = format!(r#"mount -t tmpfs -o size={size}k none "$0" && exec "$@""#);
            let Some(ended) = in_a_namespace(&script, &state, command).await else {
                return;
            };
            let what = format!("{size} KiB: {ended:#?}");
            assert!(!ended.stderr.contains("panicked"), "{what}");
            if ended.json()["outcome"] == "updated" {
                assert_eq!(ended.code, Some(0), "{what}");
                assert!(rig.runs(&good), "{what}");
                assert_eq!(rig.n_pushes(), 1, "{what}");
            } else {
                assert_eq!(ended.code, Some(1), "{what}");
                assert_eq!(rig.n_pushes(), 0, "{what}");
                assert_eq!(rig.device.counters().answers, 0, "{what}");
                assert!(!rig.device.running().version.contains("1.1"), "{what}");
                let said = ended.json();
                let text = said["text"].as_str().unwrap();
                let names_it = text.contains("full") || text.contains("No space left");
                assert!(names_it, "it does not name the cause; {what}");
                assert!(said["next_step"].is_string(), "{what}");
            }
            assert!(size > 4 || ended.json()["outcome"] == "failed", "{what}");
            assert!(size < 1024 || ended.json()["outcome"] == "updated", "{what}");
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_is_one_json_value_whatever_happens() {
    let rig = Rig::start(|config| config.faults = vec![Fault::Dead]).await;
    let file = rig.file("firmware.bin", &image(Some("1.1"), 7));
    let said: Value = run(rig.push(&file)).await.json();
    for field in ["outcome", "reason", "next_step", "method", "evidence"] {
        assert!(said.get(field).is_some(), "{field} is missing: {said:#}");
    }
}
