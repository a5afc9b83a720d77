//! `reflash demo`: a simulated fleet on loopback, found by a server, and updated canary first.

mod home;

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use engine::{Engine, Report, Stop};
use families::Ways;
use futures_util::future::join_all;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use model::chain::chain;
use model::image::Image;
use model::job::Proof;
use model::outcome::Ending;
use model::precheck::Permits;
use model::progress::PushPhase;
use net::{Callback, Dialer, Networks, Site};
use secrecy::SecretString;
use sim::ir_remote::{self, Config, Fault};
use sim::{EventSink, komfovent};
use store::Store;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::home::Home;
use super::push::{interrupts, phase_words};
use super::{say, show};
use crate::error::{Exit, Trouble};
use crate::push::{Bench, News, Pushed, Request};

/// Length of the image, bytes: about 2 s at [`RATE_BYTES_PER_S`].
const IMAGE_LEN_BYTES: usize = 512 * 1024;
/// What the simulated flash takes: a fast device, so that nobody has to wait.
const RATE_BYTES_PER_S: u32 = 300_000;
/// How long the simulated devices boot.
const BOOT: Duration = Duration::from_millis(1_500);
/// How long an updated device is watched (INTERFACES.md section 1).
const SOAK: Duration = Duration::from_secs(3);
/// The version that the fleet is brought to.
const NEW_VERSION: &str = "2.0.0";
/// The devices' password. It protects nothing: they live in this process.
const PASSWORD: &str = "demo-password";
/// How often a set of free ports is looked for.
const MAX_STARTS: u8 = 5;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  reflash demo --exit")]
pub(crate) struct DemoArguments {
    /// How many devices.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=100))]
    devices: u8,
    /// How many ventilation units besides.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=20))]
    komfovent: u8,
    /// End when every device has ended, even on a terminal.
    #[arg(long)]
    exit: bool,
    /// Makes another image of the same version.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u8,
}

/// One device of the demo: what happens to it, and how it must end.
struct Role {
    name: &'static str,
    story: &'static str,
    chip: &'static str,
    faults: &'static [&'static str],
    ending: Ending,
}

/// The roles in order; further devices play the last one again.
const ROLES: [Role; 5] = [
    Role {
        name: "Living room",
        story: "the canary",
        chip: "esp32c6",
        faults: &[],
        ending: Ending::Updated,
    },
    Role {
        name: "Kitchen",
        story: "its Wi-Fi breaks off once in the middle",
        chip: "esp32c6",
        faults: &["drop-once-after=200000"],
        ending: Ending::Updated,
    },
    Role {
        name: "Bedroom",
        story: "its version label never changes",
        chip: "esp32c6",
        faults: &["label-unchanged"],
        ending: Ending::UpdatedLabelUnchanged,
    },
    Role {
        name: "Garage",
        story: "it has another chip than the image",
        chip: "esp32",
        faults: &[],
        ending: Ending::Refused,
    },
    Role {
        name: "Attic",
        story: "nothing special",
        chip: "esp32c6",
        faults: &[],
        ending: Ending::Updated,
    },
];

/// The file for the ventilation units: what it brings them to, its name tells.
const UNIT_FILE: &str = "C6_1_5_46_72_P1_1_1_5_48.mbin";
/// Its length, bytes.
const UNIT_FILE_LEN_BYTES: usize = 300 * 1024;
/// What a simulated unit reads in a second: ten times a real one (INTERFACES.md section 1).
const UNIT_RATE_BYTES_PER_S: u32 = 200_000;
/// How long a simulated unit restarts (same).
const UNIT_RESTART: Duration = Duration::from_secs(5);
/// Where the first unit is; the others follow.
const FIRST_UNIT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 130);

/// A simulated device with its part in the demo.
struct Actor {
    name: String,
    story: &'static str,
    ending: Ending,
    address: Ipv4Addr,
    ways: Ways,
    username: Option<&'static str>,
    password: &'static str,
    image: Image,
    /// Keeps it running.
    device: Running,
}

impl Actor {
    /// The name of its family.
    fn family(&self) -> &'static str {
        match self.device {
            Running::IrRemote(_) => "ir-remote",
            Running::Komfovent(_) => "komfovent",
        }
    }
}

enum Running {
    IrRemote(#[expect(dead_code, reason = "it runs until this is dropped")] ir_remote::Device),
    Komfovent(#[expect(dead_code, reason = "it runs until this is dropped")] komfovent::Device),
}

/// Runs the demo.
pub(crate) async fn run(arguments: DemoArguments) -> Result<Exit, Trouble> {
    let actors = cast(&arguments).await?;
    let folder = tempfile::tempdir().map_err(|error| {
        Trouble::new(
            Exit::Failed,
            format!("Making a temporary folder: {error}."),
            "Free some space in TMPDIR.",
        )
    })?;
    let (callback, listening) = Callback::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let mut tasks = JoinSet::new();
    tasks.spawn(listening);
    let (stop, stopped) = watch::channel(Stop::No);
    tasks.spawn(interrupts(stop));
    let home = Home::start(folder.path(), &ways_of(&actors)).await?;
    let bench = bench(folder.path(), callback).await?;
    introduce(&home, &actors).await?;

    let screen = Screen::new();
    let (canary, rest) = actors.split_first().expect("there is at least one device");
    screen.line(&format!("\nCanary: {}, alone.", canary.name));
    let first = update(&bench, canary, &screen, stopped.clone()).await;
    let mut results = vec![first];
    let go_on = matches!(&results[0], Ok(pushed) if pushed.outcome.ending.is_success());
    if go_on && !rest.is_empty() {
        let names: Vec<&str> = rest.iter().map(|actor| actor.name.as_str()).collect();
        screen.line(&format!(
            "\nThe canary is well. The rest, together: {}.",
            names.join(", ")
        ));
        let rest = rest
            .iter()
            .map(|actor| update(&bench, actor, &screen, stopped.clone()));
        results.extend(join_all(rest).await);
    } else if !rest.is_empty() {
        screen.line("\nThe canary is not well: nobody else is touched.");
    }
    screen.finish();
    let exit = conclude(&actors, results);
    if !arguments.exit && screen.live && *stopped.borrow() == Stop::No {
        stay(&home, stopped).await;
    }
    home.end().await;
    Ok(exit)
}

/// The ways to each family in the demo.
fn ways_of(actors: &[Actor]) -> Vec<(&'static str, Ways)> {
    let mut ways: Vec<(&'static str, Ways)> = Vec::new();
    for actor in actors {
        if !ways.iter().any(|(family, _)| *family == actor.family()) {
            ways.push((actor.family(), actor.ways.clone()));
        }
    }
    ways
}

/// Leaves the server to whoever wants to look around, until Ctrl-C.
async fn stay(home: &Home, mut stopped: watch::Receiver<Stop>) {
    let url = home.ready.url.as_deref().unwrap_or_default();
    let mut text = format!(
        "\nThe server goes on at {url} until Ctrl-C. In another terminal:\n  reflash device list --data {}\n",
        home.ready.data.display()
    );
    if let Some(token) = &home.token {
        let _ = writeln!(
            text,
            "  curl -H 'Authorization: Bearer {token}' {url}/api/v1/devices"
        );
    }
    let _ = say(&text);
    // A sender that is gone is the end as well.
    let _ = stopped.wait_for(|stop| *stop != Stop::No).await;
}

/// Starts the simulated devices; those of a family on the same free ports.
async fn cast(arguments: &DemoArguments) -> Result<Vec<Actor>, Trouble> {
    let mut n_starts = 0;
    loop {
        n_starts += 1;
        match try_cast(arguments).await {
            Ok(actors) => return Ok(actors),
            // A port that is free at the first address may be taken at the next.
            Err(_) if n_starts < MAX_STARTS => {}
            Err(error) => {
                return Err(Trouble::new(
                    Exit::Failed,
                    format!("The simulated devices could not be started: {error:#}."),
                    "The demo needs the addresses from 127.0.0.2 upwards, as Linux has them.",
                ));
            }
        }
    }
}

async fn try_cast(arguments: &DemoArguments) -> anyhow::Result<Vec<Actor>> {
    let events = EventSink::new();
    let image = sim::firmware::image(
        "esp32c6".parse()?,
        Some(NEW_VERSION),
        IMAGE_LEN_BYTES,
        arguments.seed,
    );
    let image = Image::new("ir_remote_v2.0.0.bin", image);
    let mut actors: Vec<Actor> = Vec::new();
    for idx in 0..arguments.devices {
        let role = ROLES.get(usize::from(idx)).unwrap_or(&ROLES[ROLES.len() - 1]);
        let mut config = Config::new(Ipv4Addr::new(127, 0, 0, 2 + idx));
        config.ota_port = actors.first().map_or(0, |first| first.ways.ota_port);
        config.http_port = actors.first().map_or(0, |first| first.ways.http_port);
        config.password = Some(PASSWORD.to_owned());
        config.chip = role.chip.parse()?;
        config.rate_bytes_per_s = Some(RATE_BYTES_PER_S);
        config.boot = BOOT;
        config.faults = role
            .faults
            .iter()
            .map(|fault| Fault::parse(fault))
            .collect::<anyhow::Result<_>>()?;
        let n_extra = (usize::from(idx) + 1).saturating_sub(ROLES.len());
        let device = ir_remote::start(config, events.clone()).await?;
        actors.push(Actor {
            name: if n_extra == 0 {
                role.name.to_owned()
            } else {
                format!("{} {}", role.name, n_extra + 1)
            },
            story: role.story,
            ending: role.ending,
            address: device.ip(),
            ways: Ways {
                ota_port: device.ota_port(),
                http_port: device.http_port(),
                ..Ways::default()
            },
            username: None,
            password: PASSWORD,
            image: image.clone(),
            device: Running::IrRemote(device),
        });
    }
    if arguments.komfovent > 0 {
        let mut config = komfovent::Config::new(FIRST_UNIT);
        config.rate_bytes_per_s = UNIT_RATE_BYTES_PER_S;
        config.restart = UNIT_RESTART;
        let image = Image::new(
            UNIT_FILE,
            sim::firmware::mbin(UNIT_FILE_LEN_BYTES, arguments.seed),
        );
        let units = komfovent::start_many(config, usize::from(arguments.komfovent), events)?;
        for (idx, device) in units.into_iter().enumerate() {
            actors.push(Actor {
                name: if idx == 0 {
                    "Ventilation".to_owned()
                } else {
                    format!("Ventilation {}", idx + 1)
                },
                story: "a ventilation unit with controller and panel",
                ending: Ending::Updated,
                address: device.ip(),
                ways: Ways {
                    http_port: device.http_port(),
                    modbus_port: device.modbus_port(),
                    ..Ways::default()
                },
                username: Some("user"),
                password: "user",
                image: image.clone(),
                device: Running::Komfovent(device),
            });
        }
    }
    Ok(actors)
}

async fn bench(folder: &std::path::Path, callback: Arc<Callback>) -> Result<Bench, Trouble> {
    let failed = |what: String| Trouble::new(Exit::Failed, what, "Free some space in TMPDIR.");
    let loopback = "127.0.0.0/8".parse().expect("this is a network");
    let site = Site {
        dialer: Dialer::new(Networks::new([loopback]), None).into(),
        callback: Some(callback),
    };
    let store = Store::open(folder)
        .await
        .map_err(|error| failed(format!("{}.", chain(&error))))?;
    let store = Arc::new(store);
    let engine = Engine::new(store.clone()).map_err(|error| failed(format!("{error}.")))?;
    Ok(Bench {
        site,
        ways: Ways::default(),
        store,
        engine,
    })
}

/// Shows what the server has found, and what is about to happen to each.
async fn introduce(home: &Home, actors: &[Actor]) -> Result<(), Trouble> {
    let addresses: Vec<Ipv4Addr> = actors.iter().map(|actor| actor.address).collect();
    let (found, took) = home.find(&addresses).await?;
    let mut text = format!(
        "The server was told of a network and of no device. It has found {} in {:.1} s:\n\n",
        found.len(),
        took.as_secs_f64()
    );
    let columns = [14, 36, 28];
    let rows = found.iter().zip(actors).map(|(device, actor)| {
        let runs = device.reported_version.clone().unwrap_or_default();
        [actor.address.to_string(), device.name.clone(), runs]
    });
    let header = ["address", "device", "runs"].map(str::to_owned);
    for cells in std::iter::once(header).chain(rows) {
        let row: Vec<(usize, &str)> = columns
            .iter()
            .copied()
            .zip(cells.iter().map(String::as_str))
            .collect();
        text += &show::row(&row);
    }
    let _ = writeln!(text, "\nUpdating them, the canary first.\n");
    for actor in actors {
        text += &show::row(&[
            (14, &actor.name),
            (14, &actor.address.to_string()),
            (40, actor.story),
        ]);
    }
    // A reader that is gone does not stop the demo.
    let _ = say(&text);
    Ok(())
}

async fn update(
    bench: &Bench,
    actor: &Actor,
    screen: &Screen,
    stop: watch::Receiver<Stop>,
) -> Result<Pushed, Trouble> {
    let request = Request {
        address: IpAddr::V4(actor.address),
        given_as: actor.address.to_string(),
        image: actor.image.clone(),
        family: None,
        method: None,
        chip: None,
        username: actor.username.map(str::to_owned),
        secret: Some(SecretString::from(actor.password)),
        slot_bytes: None,
        permits: Permits::default(),
        soak: SOAK,
        return_within: None,
        proof: Proof::Watched,
        unlock: false,
    };
    let bench = Bench {
        ways: actor.ways.clone(),
        ..bench.clone()
    };
    let bar = screen.bar(&actor.name);
    let result = bench
        .push(&request, &|news| screen.show(&bar, &actor.name, &news), stop)
        .await;
    bar.finish_and_clear();
    match &result {
        Ok(pushed) => screen.line(&format!("  {:<14}{}", actor.name, show::outcome(&pushed.outcome))),
        Err(trouble) => screen.line(&format!("  {:<14}{}", actor.name, trouble.what)),
    }
    result
}

/// Shows the evidence, and says whether every device has ended as its role says.
fn conclude(actors: &[Actor], results: Vec<Result<Pushed, Trouble>>) -> Exit {
    let columns = [14, 26, 8, 20, 16];
    let mut text = "\n".to_owned();
    let header = ["device", "outcome", "away", "uptime", "version"];
    text += &show::row(
        &columns
            .map(|width| width)
            .iter()
            .copied()
            .zip(header)
            .collect::<Vec<_>>(),
    );
    let mut explained = String::new();
    let mut as_told = results.len() == actors.len();
    for (actor, result) in actors.iter().zip(results) {
        let cells = match &result {
            Ok(pushed) => {
                as_told &= pushed.outcome.ending == actor.ending;
                if !pushed.outcome.ending.is_success() || pushed.outcome.next_step.is_some() {
                    let _ = writeln!(
                        explained,
                        "\n{}\n  {}",
                        actor.name,
                        show::wrapped(&show::safe(&pushed.outcome.text), 2, 80)
                    );
                    if let Some(next_step) = &pushed.outcome.next_step {
                        let _ = writeln!(
                            explained,
                            "  next: {}",
                            show::wrapped(&show::safe(next_step), 8, 80)
                        );
                    }
                }
                show::evidence_cells(pushed)
            }
            Err(trouble) => {
                as_told = false;
                [trouble.what.clone(), String::new(), String::new(), String::new()]
            }
        };
        let mut row = vec![(columns[0], actor.name.as_str())];
        row.extend(columns[1..].iter().copied().zip(cells.iter().map(String::as_str)));
        text += &show::row(&row);
    }
    text += &explained;
    text += if as_told {
        "\nEvery device ended as it should. Push to a real one: reflash push ADDR FILE\n"
    } else {
        "\nNot every device ended as it should.\n"
    };
    let _ = say(&text);
    if as_told { Exit::Done } else { Exit::Failed }
}

/// Progress bars on a terminal; elsewhere a line for every new phase.
struct Screen {
    bars: MultiProgress,
    live: bool,
}

impl Screen {
    fn new() -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let live = !bars.is_hidden();
        Self { bars, live }
    }

    fn line(&self, text: &str) {
        let _ = self.bars.suspend(|| say(&format!("{text}\n")));
    }

    fn bar(&self, name: &str) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new_spinner());
        bar.set_style(
            ProgressStyle::with_template("{spinner} {prefix:14}{msg}").expect("the template is right"),
        );
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }

    fn show(&self, bar: &ProgressBar, name: &str, news: &News<'_>) {
        match news {
            News::Job(Report::Phase(job)) => {
                let words = phase_words(job.phase.name());
                bar.set_message(format!("{words}…"));
                if !self.live && job.outcome().is_none() {
                    self.line(&format!("  {name:<14}{words}"));
                }
            }
            News::Job(Report::Progress {
                phase,
                acked_bytes,
                len_bytes,
            }) if *phase >= PushPhase::Uploading => {
                let percent = acked_bytes * 100 / (*len_bytes).max(1);
                bar.set_message(show::upload_bar(percent, *acked_bytes));
            }
            _ => {}
        }
    }

    fn finish(&self) {
        // Nothing is left to draw; an error means that the terminal is gone.
        let _ = self.bars.clear();
    }
}
