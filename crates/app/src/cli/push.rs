//! `reflash push`.

use std::io::IsTerminal as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::{Engine, Report, Stop};
use families::{Pace, Ways};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use model::chain::chain;
use model::family::{Method, Reason};
use model::job::Proof;
use model::outcome::Ending;
use model::precheck::Permits;
use model::progress::PushPhase;
use net::{Callback, Dialer, Networks, Site};
use serde_json::{Value, json};
use store::Store;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::secret::{self, PasswordArguments};
use super::{allow, duration, say, say_json, show};
use crate::error::{Exit, Trouble};
use crate::push::plan::Plan;
use crate::push::{Bench, News, Pushed, Request, read_image};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  reflash push 192.168.1.40 firmware.bin --password-env OTA_PASSWORD\n  \
    reflash push ir-remote-mini.local firmware.bin --dry-run\n  \
    reflash push 192.168.1.50 sketch.bin --family arduino --chip esp32"
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct PushArguments {
    /// Address or host name of the device (.local works).
    #[arg(value_name = "ADDR")]
    address: String,
    /// The image.
    file: PathBuf,
    /// What kind of device it is; arduino is never guessed.
    #[arg(long, default_value = "auto", value_parser = family_names())]
    family: String,
    /// Its chip, for devices that do not tell, such as esp32c6.
    #[arg(long)]
    chip: Option<String>,
    /// How to bring the image there; otherwise the best way of the family.
    #[arg(long, value_name = "espota|http")]
    method: Option<String>,
    #[command(flatten)]
    password: PasswordArguments,
    /// Name to log in with, for families that know such a thing.
    #[arg(long, value_name = "U")]
    username: Option<String>,
    /// UDP port of ArduinoOTA.
    #[arg(long, value_name = "PORT", default_value_t = 3232)]
    ota_port: u16,
    /// TCP port of the device's web server.
    #[arg(long, value_name = "PORT", default_value_t = 80)]
    http_port: u16,
    /// TCP port of the device's Modbus server.
    #[arg(long, value_name = "PORT", default_value_t = 502)]
    modbus_port: u16,
    /// Stop a machine before its update and start it again afterwards, where its vendor advises it.
    #[arg(long)]
    stop_unit: bool,
    /// Address of this machine to talk from.
    #[arg(long, value_name = "ADDR")]
    bind: Option<IpAddr>,
    /// Port that the device connects back to; fix it for firewalls and containers.
    #[arg(long, value_name = "P", default_value_t = 0)]
    callback_port: u16,
    /// How to send; otherwise what this device is known to need.
    #[arg(long, value_parser = ["pipelined", "stop-and-wait"])]
    pace: Option<String>,
    /// Override one refusal by its name, or all that can be with `any`.
    #[arg(long, value_name = "RULE", value_parser = allow::rule)]
    allow: Vec<String>,
    /// How long it must stay up afterwards.
    #[arg(long, value_name = "D", default_value = "10s", value_parser = duration)]
    soak: Duration,
    /// How soon after the push it must be back.
    #[arg(long, value_name = "D", value_parser = duration)]
    return_within: Option<Duration>,
    /// Largest image that its slot takes, bytes.
    #[arg(long, value_name = "N")]
    slot_bytes: Option<u64>,
    /// Push what is already current.
    #[arg(long)]
    force: bool,
    /// Confirm an image of which one part is newer and another older.
    #[arg(long)]
    yes: bool,
    /// Release the lock of five failed password answers, and forget how the device authenticated.
    #[arg(long)]
    unlock: bool,
    /// Folder of the journal and the images.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Stop after the device's answer: what it runs is then not proven.
    #[arg(long)]
    no_verify: bool,
    /// Look and say what would happen; send nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// What `--family` takes.
fn family_names() -> Vec<&'static str> {
    std::iter::once("auto").chain(families::NAMES).collect()
}

/// Pushes.
pub(crate) async fn run(arguments: PushArguments) -> Result<Exit, Trouble> {
    let json = arguments.json;
    match Box::pin(push(arguments)).await {
        Err(trouble) if json => {
            let result = json!({
                "outcome": "failed", "reason": "this machine", "text": trouble.what, "next_step": trouble.next_step,
                "method": null, "evidence": null,
            });
            say_json(&result);
            Ok(trouble.exit)
        }
        result => result,
    }
}

async fn push(arguments: PushArguments) -> Result<Exit, Trouble> {
    let image = read_image(&arguments.file)?;
    let secret = arguments.password.read()?;
    let address = resolve(&arguments.address).await?;
    let bind = arguments.bind.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let (callback, listening) = Callback::new(bind, arguments.callback_port);
    // The listener runs as long as this push, and ends with it.
    let mut tasks = JoinSet::new();
    tasks.spawn(listening);
    let site = Site {
        dialer: Dialer::new(Networks::only(address), arguments.bind).into(),
        callback: Some(callback),
        pull: None,
    };
    let ways = Ways {
        ota_port: arguments.ota_port,
        http_port: arguments.http_port,
        modbus_port: arguments.modbus_port,
        stop_unit: arguments.stop_unit,
        pace: arguments.pace.as_deref().map(|pace| match pace {
            "stop-and-wait" => Pace::StopAndWait,
            _ => Pace::Pipelined,
        }),
        ..Ways::default()
    };
    let folder = arguments.state.clone().unwrap_or_else(store::default_folder);
    let store = Arc::new(Store::open(&folder).await.map_err(|error| {
        Trouble::new(
            Exit::Failed,
            format!("Nothing was sent: {}.", chain(&error)),
            "Mend what the message names, or choose another folder with --state DIR.",
        )
    })?);
    let engine = Engine::new(store.clone()).map_err(|error| {
        Trouble::new(
            Exit::Failed,
            format!("Nothing was sent: {error}."),
            "Mount /proc, which tells this process.",
        )
    })?;
    let bench = Bench {
        site,
        ways,
        store,
        engine,
    };
    let mut request = Request {
        address,
        given_as: arguments.address.clone(),
        image,
        family: (arguments.family != "auto").then(|| arguments.family.clone()),
        method: arguments.method.as_deref().map(Method::new),
        chip: arguments.chip.clone(),
        username: arguments.username.clone(),
        secret,
        slot_bytes: arguments.slot_bytes,
        permits: Permits {
            allow: arguments.allow.clone(),
            force: arguments.force,
            mixed: arguments.yes,
        },
        soak: arguments.soak,
        return_within: arguments.return_within,
        proof: if arguments.no_verify {
            Proof::NotAsked
        } else {
            Proof::Watched
        },
        unlock: arguments.unlock,
    };
    let screen = Screen::new(arguments.json, request.image.file_name());
    if arguments.dry_run {
        return plan(&bench, &request, &screen, arguments.json).await;
    }
    let (stop, stopped) = watch::channel(Stop::No);
    tasks.spawn(interrupts(stop));
    let news = |news: News<'_>| screen.show(&news);
    let mut pushed = bench.push(&request, &news, stopped.clone()).await?;
    let asked = pushed.outcome.ending == Ending::Refused
        && pushed.outcome.reason.as_deref() == Some(Reason::PasswordNeeded.name());
    if asked && !arguments.json && std::io::stdin().is_terminal() {
        screen.finish();
        request.secret = secret::prompt(&arguments.address)?;
        pushed = bench.push(&request, &news, stopped).await?;
    }
    screen.finish();
    if arguments.json {
        say_json(&result(&pushed));
    } else {
        let _ = say(&show::result(&pushed));
    }
    Ok(exit(&pushed, &request))
}

/// What the shell is told.
pub(super) fn exit(pushed: &Pushed, request: &Request) -> Exit {
    match pushed.outcome.ending {
        Ending::Updated | Ending::UpdatedLabelUnchanged => Exit::Done,
        Ending::AlreadyCurrent => Exit::Nothing,
        // The device said OK, and more was not asked for.
        Ending::Unverified if request.proof == Proof::NotAsked && said_yes(pushed) => Exit::Done,
        _ => Exit::Failed,
    }
}

fn said_yes(pushed: &Pushed) -> bool {
    pushed.outcome.reason.as_deref() == Some("not asked")
}

async fn resolve(host: &str) -> Result<IpAddr, Trouble> {
    let addresses = net::resolve(host).await.map_err(|error| {
        Trouble::new(
            Exit::NotFound,
            format!("{}.", chain(&error)),
            "Check the name, or give the device's address.",
        )
    })?;
    addresses.first().copied().ok_or_else(|| {
        Trouble::new(
            Exit::NotFound,
            format!("{host} has no address."),
            "Give the device's address.",
        )
    })
}

/// The first interrupt (or request to end) cancels as long as that is possible, the second stops even the watching.
pub(super) async fn interrupts(stop: watch::Sender<Stop>) {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return;
    };
    for wanted in [Stop::Cancel, Stop::Leave] {
        // Both arms only wait for a signal; one that comes in between is kept for the next round.
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => if interrupted.is_err() { return },
            _ = terminate.recv() => {}
        }
        stop.send_replace(wanted);
    }
    std::future::pending::<()>().await;
}

async fn plan(bench: &Bench, request: &Request, screen: &Screen, json: bool) -> Result<Exit, Trouble> {
    let plan = match bench.plan(request, &|news| screen.show(&news)).await? {
        Ok(plan) => plan,
        Err(refused) => {
            if json {
                say_json(&result(&refused));
            } else {
                let _ = say(&show::result(&refused));
            }
            return Ok(exit(&refused, request));
        }
    };
    if json {
        say_json(&plan_json(&plan));
    } else {
        let _ = say(&plan_text(&plan, request));
    }
    Ok(plan.exit())
}

fn plan_text(plan: &Plan, request: &Request) -> String {
    let address = request.address.to_string();
    let mut text = show::fact(
        "device",
        &show::device_line(plan.family.title(), &address, &plan.snapshot),
    );
    for refusal in &plan.precheck.refusals {
        text += &show::fact(
            "refused",
            &format!("{} ({})", show::safe(&refusal.text), refusal.rule),
        );
        text += &show::fact("next", &show::safe(&refusal.next_step));
    }
    for refusal in &plan.precheck.overridden {
        text += &show::fact(
            "overridden",
            &format!("{} ({})", show::safe(&refusal.text), refusal.rule),
        );
    }
    match plan.exit() {
        Exit::Nothing => text += &show::fact("plan", "nothing to do: it runs this image already"),
        Exit::Done => {
            let takes = show::spoken(plan.takes);
            text += &show::fact("plan", &format!("push by {}, about {takes} in all", plan.method));
            text += &show::fact(
                "way back",
                way_back(plan.record.as_ref().and_then(|record| record.digest).is_some()),
            );
        }
        _ => text += &show::fact("plan", "it would be refused; nothing would be sent"),
    }
    text + "Nothing was sent: this was a dry run.\n"
}

fn way_back(known: bool) -> &'static str {
    if known {
        "the image that it runs now is in the store"
    } else {
        "none: the firmware that it runs now was never seen here, and a device cannot be read out"
    }
}

fn plan_json(plan: &Plan) -> Value {
    let refusals = |refusals: &[model::image::Refusal]| -> Vec<Value> {
        refusals
            .iter()
            .map(|refusal| json!({ "rule": refusal.rule, "text": refusal.text, "next_step": refusal.next_step }))
            .collect()
    };
    json!({
        "dry_run": true,
        "would": match plan.exit() { Exit::Done => "push", Exit::Nothing => "nothing", _ => "refuse" },
        "device": plan.snapshot.id.to_string(),
        "version": plan.snapshot.versions.to_string(),
        "method": plan.method,
        "takes_s": plan.takes.as_secs(),
        "way_back": plan.record.as_ref().and_then(|record| record.digest),
        "refusals": refusals(&plan.precheck.refusals),
        "overridden": refusals(&plan.precheck.overridden),
        "sha256": plan.info.sha256,
    })
}

/// The result in the shape of INTERFACES.md section 1.
pub(super) fn result(pushed: &Pushed) -> Value {
    let seconds = |duration: Option<Duration>| {
        duration.map(|duration| (duration.as_secs_f64() * 1000.0).round() / 1000.0)
    };
    let evidence = pushed.job.as_ref().map(|job| &job.evidence);
    let (before, after) = (pushed.before(), pushed.after());
    json!({
        "outcome": pushed.outcome.ending.name(),
        "reason": pushed.outcome.reason,
        "text": pushed.outcome.text,
        "next_step": pushed.outcome.next_step,
        "method": pushed.method,
        "device": before.or(after).map(|snapshot| snapshot.id.to_string()),
        "attempts": pushed.job.as_ref().map_or(0, |job| job.n_pushes),
        "overridden": pushed.job.as_ref().map(|job| job.overridden.clone()).unwrap_or_default(),
        "warnings": pushed.warnings,
        "evidence": {
            "sha256": pushed.info.sha256,
            "len_bytes": pushed.info.len_bytes,
            "verdict": evidence.and_then(|evidence| evidence.verdict.clone()),
            "away_s": seconds(evidence.and_then(|evidence| evidence.away)),
            "uptime_before_s": before.and_then(|snapshot| snapshot.uptime).map(|uptime| uptime.as_secs()),
            "uptime_after_s": after.and_then(|snapshot| snapshot.uptime).map(|uptime| uptime.as_secs()),
            "version_before": before.filter(|s| !s.versions.is_empty()).map(|s| s.versions.to_string()),
            "version_after": after.filter(|s| !s.versions.is_empty()).map(|s| s.versions.to_string()),
            "identity_before": before.map(|snapshot| snapshot.id.hardware.clone()),
            "identity_after": after.map(|snapshot| snapshot.id.hardware.clone()),
            "push_s": seconds(evidence.and_then(|evidence| evidence.push)),
            "watched_s": seconds(evidence.and_then(|evidence| evidence.watched)),
        },
    })
}

/// Shows what happens: facts on standard output, progress on standard error if that is a terminal.
struct Screen {
    quiet: bool,
    file_name: String,
    bar: ProgressBar,
}

impl Screen {
    fn new(quiet: bool, file_name: &str) -> Self {
        // `stderr` hides itself where it is no terminal.
        let target = if quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("the template is right"));
        Self {
            quiet,
            file_name: file_name.to_owned(),
            bar,
        }
    }

    fn line(&self, label: &str, text: &str) {
        if !self.quiet {
            // A reader that is gone does not stop the push.
            let _ = self.bar.suspend(|| say(&show::fact(label, text)));
        }
    }

    fn show(&self, news: &News<'_>) {
        match news {
            News::Image(info) => self.line("image", &show::image_line(&self.file_name, info)),
            News::Device {
                family,
                address,
                snapshot,
                record,
            } => {
                self.line(
                    "device",
                    &show::device_line(family.title(), &address.to_string(), snapshot),
                );
                if record.and_then(|record| record.digest).is_none() {
                    self.line("way back", way_back(false));
                }
            }
            News::Settling { what } => self.line("first", &show::safe(what)),
            News::Settled(outcome) => {
                self.line(
                    "settled",
                    &format!("{}: {}", show::outcome(outcome), show::safe(&outcome.text)),
                );
            }
            News::Warning(text) => self.line("warning", &show::safe(text)),
            News::Job(Report::Begun(_)) => {}
            News::Job(Report::Phase(job)) => {
                self.bar
                    .set_message(format!("{}…", phase_words(job.phase.name())));
                self.bar.enable_steady_tick(Duration::from_millis(120));
            }
            News::Job(Report::Progress {
                phase,
                acked_bytes,
                len_bytes,
            }) => {
                let percent = acked_bytes * 100 / (*len_bytes).max(1);
                self.bar.set_message(match phase {
                    PushPhase::Inviting => "inviting the device…".to_owned(),
                    PushPhase::Authenticating => "proving the password…".to_owned(),
                    PushPhase::AwaitingCallBack => "waiting for the device to connect…".to_owned(),
                    PushPhase::Cancelled => "cancelling…".to_owned(),
                    PushPhase::Uploading | PushPhase::LastByte => show::upload_bar(percent, *acked_bytes),
                });
            }
            News::Job(Report::TooLate) => self.line(
                "too late",
                "every byte is sent; watching what the device makes of it (interrupt again to stop watching)",
            ),
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// What a phase is called in progress.
pub(super) fn phase_words(phase: &str) -> &str {
    match phase {
        "looking" => "looking at the device",
        "preparing" => "making it ready",
        "rebooting" => "waiting for it to come back",
        "soaking" => "watching that it stays up",
        "restoring" => "putting things back",
        other => other,
    }
}
