//! `reflash demo`: a simulated fleet on loopback, found by a server, planned for, and updated, one first and then the rest.

mod cast;
mod home;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::net::Ipv4Addr;

use engine::Stop;
use server::views::{PlanView, RolloutKind, RolloutView, WantedRollout};
use sim::EventKind;
use sim::EventSink;
use tokio::sync::watch::{Receiver, channel};
use tokio::task::JoinSet;

use self::cast::{Actor, Expected, Images, NEW_VERSION, OLD_VERSION, Part, cast};
use self::home::Home;
use super::push::interrupts;
use super::{plan, say, show};
use crate::error::{Exit, Trouble};

/// How long an updated device is watched, seconds (INTERFACES.md section 1).
const SOAK_S: u64 = 3;
/// For how long a device without power may come back, seconds.
const WHEN_BACK_S: u64 = 300;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  reflash demo --exit")]
pub(crate) struct DemoArguments {
    /// How many devices.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=100))]
    devices: u8,
    /// How many ventilation units besides.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=20))]
    komfovent: u8,
    /// End when every device has ended, even on a terminal.
    #[arg(long)]
    exit: bool,
    /// Makes another image of the same version.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u8,
}

/// Runs the demo.
pub(crate) async fn run(arguments: DemoArguments) -> Result<Exit, Trouble> {
    let events = EventSink::new();
    let mut actors = cast(&arguments, &events).await?;
    let folder = tempfile::tempdir().map_err(|error| {
        Trouble::new(
            Exit::Failed,
            format!("Making a temporary folder: {error}."),
            "Free some space in TMPDIR.",
        )
    })?;
    let mut tasks = JoinSet::new();
    let (stop, stopped) = channel(Stop::No);
    tasks.spawn(interrupts(stop));
    let home = Home::start(folder.path(), &ways_of(&actors)).await?;
    if let (Some(url), Some(token)) = (&home.ready.url, &home.token) {
        let _ = say(&format!(
            "Watch and steer it in a browser: {url}/\nSign in with the token {token}\n\n"
        ));
    }
    let devices = introduce(&home, &actors).await?;
    move_in(&home, &actors, &devices, &Images::of(arguments.seed)?).await?;
    for (actor, id) in actors.iter_mut().zip(&devices) {
        if actor.part == Part::Away {
            actor.unplug();
            home.offline(id).await?;
        }
    }

    let mut story = Story::default();
    let wanted = WantedRollout {
        all: true,
        soak_s: Some(SOAK_S),
        canary_soak_s: Some(SOAK_S),
        when_back_s: Some(WHEN_BACK_S),
        name: Some("Demo".to_owned()),
        ..WantedRollout::default()
    };
    let planned: PlanView = home.ask("plans", &wanted).await?;
    chapter(&format!(
        "The plan for {NEW_VERSION}, before anything is sent (reflash plan --all):"
    ));
    let _ = say(&plan::shown(&planned));
    for left_out in &planned.left_out {
        story
            .left_out
            .insert(left_out.device.clone(), left_out.reason.rule.clone());
    }
    chapter("Doing it (reflash update --all):");
    let update: RolloutView = home.ask("rollouts", &wanted).await?;
    let update = tokio::try_join!(
        home.watch(update, stopped.clone()),
        power_returns(&home, &mut actors, &events)
    )?;
    story.take(&update.0);

    let mut back = None;
    for (actor, id) in actors.iter().zip(&devices) {
        if actor.part == Part::GoesBack && *stopped.borrow() == Stop::No {
            chapter(&format!(
                "{} is to go back to {OLD_VERSION} (reflash rollback):",
                actor.name
            ));
            let wanted = WantedRollout {
                devices: vec![id.clone()],
                kind: RolloutKind::Rollback,
                soak_s: Some(SOAK_S),
                canary_soak_s: Some(SOAK_S),
                ..WantedRollout::default()
            };
            let rollout: RolloutView = home.ask("rollouts", &wanted).await?;
            let rollout = home.watch(rollout, stopped.clone()).await?;
            story.n_pushes += n_pushes(&rollout);
            back = rollout.members.first().map(|member| member.state.clone());
        }
    }
    let exit = story.conclude(&actors, &devices, back.as_deref(), &events);
    if !arguments.exit && std::io::stderr().is_terminal() && *stopped.borrow() == Stop::No {
        stay(&home, stopped).await;
    }
    home.end().await;
    Ok(exit)
}

/// A heading between two parts.
fn chapter(text: &str) {
    // A reader that is gone does not stop the demo.
    let _ = say(&format!("\n{text}\n\n"));
}

/// The ways to each family in the demo.
fn ways_of(actors: &[Actor]) -> Vec<(&'static str, families::Ways)> {
    let mut ways: Vec<(&'static str, families::Ways)> = Vec::new();
    for actor in actors {
        if !ways.iter().any(|(family, _)| *family == actor.family()) {
            ways.push((actor.family(), actor.ways.clone()));
        }
    }
    ways
}

/// Shows what the server has found, and what each of them is. Their ids, in the order of the cast.
async fn introduce(home: &Home, actors: &[Actor]) -> Result<Vec<String>, Trouble> {
    let addresses: Vec<Ipv4Addr> = actors.iter().map(|actor| actor.address).collect();
    let (found, took) = home.find(&addresses).await?;
    let mut text = format!(
        "The server was told of a network and of no device. It has found {} in {:.1} s:\n\n",
        found.len(),
        took.as_secs_f64()
    );
    let columns = [14, 28, 36];
    text += &show::row(&[
        (columns[0], "address"),
        (columns[1], "device"),
        (columns[2], "runs"),
    ]);
    for (device, actor) in found.iter().zip(actors) {
        let runs = device.reported_version.clone().unwrap_or_default();
        text += &show::row(&[
            (columns[0], &actor.address.to_string()),
            (columns[1], &device.name),
            (columns[2], &runs),
        ]);
    }
    text += "\nTheir owner names them, enrols them and brings new firmware:\n\n";
    for actor in actors {
        text += &show::row(&[
            (14, &actor.name),
            (14, &actor.address.to_string()),
            (50, actor.story),
        ]);
    }
    let _ = say(&text);
    Ok(found.into_iter().map(|device| device.id).collect())
}

/// Names, enrols, passwords, firmware: what an owner does once.
async fn move_in(home: &Home, actors: &[Actor], devices: &[String], images: &Images) -> Result<(), Trouble> {
    home.enroll(devices).await?;
    for (actor, id) in actors.iter().zip(devices) {
        home.name(id, &actor.name, actor.username).await?;
        home.password(id, actor.password).await?;
        if actor.part == Part::GoesBack {
            home.add_firmware(&images.old, Some(id)).await?;
        }
    }
    home.add_firmware(&images.new, None).await?;
    if actors.iter().any(|actor| actor.family() == "komfovent") {
        home.add_firmware(&images.unit, None).await?;
    }
    Ok(())
}

/// Gives the device without power its power back as soon as the one that goes first is well.
async fn power_returns(home: &Home, actors: &mut [Actor], events: &EventSink) -> Result<(), Trouble> {
    for actor in actors {
        if actor.part == Part::Away {
            home.canary_over().await?;
            actor.plug_in(events).await?;
        }
    }
    Ok(())
}

/// Leaves the server to whoever wants to look around, until Ctrl-C.
async fn stay(home: &Home, mut stopped: Receiver<Stop>) {
    let url = home.ready.url.as_deref().unwrap_or_default();
    let data = home.ready.data.display();
    let mut text = format!(
        "\nThe server and its page go on at {url} until Ctrl-C. In another terminal:\n  reflash device list --data {data}\n  \
         reflash history --data {data}\n"
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

/// Pushes of a rollout that came to a first byte.
fn n_pushes(rollout: &RolloutView) -> usize {
    let members = rollout.members.iter();
    members
        .filter(|member| member.state != "refused")
        .map(|member| usize::from(member.n_pushes))
        .sum()
}

/// What has become of the devices.
#[derive(Default)]
struct Story {
    /// By id, the rule.
    left_out: BTreeMap<String, String>,
    /// By id, the word.
    ended: BTreeMap<String, String>,
    n_pushes: usize,
}

impl Story {
    fn take(&mut self, rollout: &RolloutView) {
        for member in &rollout.members {
            self.ended.insert(member.device.clone(), member.state.clone());
        }
        self.n_pushes += n_pushes(rollout);
    }

    /// Says whether every device has ended as its part says, and whether the history tells what the devices tell.
    fn conclude(&self, actors: &[Actor], devices: &[String], back: Option<&str>, events: &EventSink) -> Exit {
        let mut as_told = true;
        let mut text = "\n".to_owned();
        for (actor, id) in actors.iter().zip(devices) {
            let (is, words) = match actor.expected {
                Expected::State(state) => {
                    let is = self.ended.get(id).map(String::as_str);
                    (is == Some(state), is.unwrap_or("not in the rollout").to_owned())
                }
                Expected::LeftOut(rule) => {
                    let is = self.left_out.get(id).map(String::as_str);
                    (
                        is == Some(rule),
                        is.map_or("not left out".to_owned(), |rule| format!("left out ({rule})")),
                    )
                }
            };
            let goes_back = actor.part == Part::GoesBack;
            let back_is = !goes_back || back == Some("updated");
            as_told &= is && back_is;
            let mut words = words;
            if goes_back {
                let _ = write!(
                    words,
                    ", then back to {OLD_VERSION}: {}",
                    back.unwrap_or("not done")
                );
            }
            let mark = if is && back_is { "as told" } else { "NOT as told" };
            text += &show::row(&[(14, &actor.name), (46, &words), (14, mark)]);
        }
        let received = events.count(|event| event.kind == EventKind::Receiving);
        let same = received == self.n_pushes;
        as_told &= same;
        let _ = writeln!(
            text,
            "\nThe history tells of {} pushes; the simulated devices have received {received}.",
            self.n_pushes
        );
        text += if as_told {
            "Every device ended as it should. Push to a real one: reflash push ADDR FILE\n"
        } else {
            "Not every device ended as it should.\n"
        };
        let _ = say(&text);
        if as_told { Exit::Done } else { Exit::Failed }
    }
}
