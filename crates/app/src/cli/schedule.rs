//! `reflash schedule`.

use std::fmt::Write as _;

use serde_json::{Value, json};
use server::views::{RolloutView, ScheduleTurnView, ScheduleView};

use super::client::{Ask, Client, ServerArguments, answer, read};
use super::show::{ago, counted, fact_in, safe, sentence};
use super::standing::title;
use super::table::{Table, WIDTH};
use super::window::{kept_in, moment, place, there, trouble, with_names, with_zone, zone};
use crate::error::{Exit, Trouble};

#[derive(clap::Args)]
#[command(
    after_help = "A schedule makes rollouts by itself. Those of the configuration are changed there; the others here.\n\n\
    Examples:\n  reflash schedule set nightly --cron \"55 1 * * mon-fri\" --window night\n  reflash schedule list\n  \
    reflash schedule run-now nightly"
)]
pub(crate) struct ScheduleArguments {
    #[command(subcommand)]
    command: ScheduleCommand,
    #[command(flatten)]
    pub(crate) server: ServerArguments,
}

#[derive(clap::Subcommand)]
enum ScheduleCommand {
    /// List the schedules: when each is due, and what it did last.
    #[command(after_help = "Example:\n  reflash schedule list")]
    List,
    /// Say all of a schedule: what it did last, and what it does next.
    #[command(after_help = "Example:\n  reflash schedule show nightly")]
    Show(OneSchedule),
    /// Make a schedule, or change one; what is not said stays as it is.
    #[command(after_help = "It holds at once; what was due before is not made up for.\n\
        --cron has five parts: minute, hour, day of the month, month, day of the week.\n\n\
        Examples:\n  reflash schedule set nightly --cron \"55 1 * * *\" --window night --tag upstairs\n  \
        reflash schedule set nightly --at-any-time --all-devices")]
    Set(SetArguments),
    /// Remove a schedule; its rollouts stay.
    #[command(after_help = "Example:\n  reflash schedule remove nightly")]
    Remove(OneSchedule),
    /// Do now what a schedule does when it is due; its updates begin in its window all the same.
    #[command(
        after_help = "Exit codes: 0 it made a rollout, 2 nothing is to be done, 3 there is no such schedule.\n\n\
        Example:\n  reflash schedule run-now nightly"
    )]
    RunNow(OneSchedule),
}

#[derive(clap::Args)]
struct OneSchedule {
    /// Its name.
    name: String,
}

#[derive(clap::Args)]
struct SetArguments {
    /// Its name: letters, digits, - and _. Its rollouts are called so.
    name: String,
    /// When it is due, as "15 2 * * *" for every night at 2:15; a new schedule needs it.
    #[arg(long, value_name = "CRON")]
    cron: Option<String>,
    /// The window in which its updates begin.
    #[arg(long, value_name = "NAME")]
    window: Option<String>,
    /// Its updates begin at once, whenever it is due.
    #[arg(long, conflicts_with = "window")]
    at_any_time: bool,
    /// Only devices with this tag; may be given several times.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Devices with any tag and none.
    #[arg(long, conflicts_with = "tags")]
    all_devices: bool,
    /// Where its clock hangs, as Europe/Vilnius; otherwise that of its window, or of the server's machine.
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
}

/// Does what was asked of the schedules.
pub(crate) async fn run(arguments: ScheduleArguments) -> Result<Exit, Trouble> {
    let server = &arguments.server;
    let client = Client::new(server)?;
    match &arguments.command {
        ScheduleCommand::List => {
            let value = client.ask(Ask::get(["schedules"])).await?;
            answer(server, &value, || Ok(listed(&read::<Vec<ScheduleView>>(&value)?)))
        }
        ScheduleCommand::Show(one) => {
            let value = named(&client, one, Ask::get(["schedules", &one.name])).await?;
            answer(server, &value, || Ok(shown(&read(&value)?)))
        }
        ScheduleCommand::Set(set) => {
            let was: Option<ScheduleView> = there(&client, "schedules", &set.name).await?;
            let ask = Ask::put(["schedules", &set.name]).json(&entry(set, was.as_ref())?);
            let value = client.ask(ask).await?;
            answer(server, &value, || {
                let schedule: ScheduleView = read(&value)?;
                let verb = if was.is_some() { "is changed" } else { "is made" };
                let text = format!("The schedule {} {verb}. {}", schedule.name, next(&schedule));
                Ok(sentence(&text) + &trouble(schedule.trouble.as_ref()))
            })
        }
        ScheduleCommand::Remove(one) => {
            let value = named(&client, one, Ask::delete(["schedules", &one.name])).await?;
            answer(server, &value, || {
                Ok(sentence(&format!(
                    "The schedule {} is removed; its rollouts stay.",
                    one.name
                )))
            })
        }
        ScheduleCommand::RunNow(one) => {
            let ask = Ask::post(["schedules", &one.name, "run"]).once();
            let value = named(&client, one, ask).await?;
            answer(server, &value, || Ok(begun(&read(&value)?)))
        }
    }
}

async fn named(client: &Client, one: &OneSchedule, ask: Ask) -> Result<Value, Trouble> {
    match client.ask(ask).await {
        Ok(value) => Ok(value),
        Err(trouble) => Err(with_names(client, "schedules", &one.name, trouble).await),
    }
}

/// What is to be stored: what was said, and otherwise what was there.
fn entry(set: &SetArguments, was: Option<&ScheduleView>) -> Result<Value, Trouble> {
    let cron = set.cron.as_deref().or(was.map(|was| was.cron.as_str()));
    let Some(cron) = cron else {
        return Err(Trouble::new(
            Exit::Usage,
            format!(
                "There is no schedule {:?} yet, and a new one needs --cron.",
                set.name
            ),
            "Say when it is due, for example --cron \"15 2 * * *\", which is every night at 2:15.",
        ));
    };
    let window = match was {
        _ if set.window.is_some() => set.window.clone(),
        Some(was) if !set.at_any_time => was.window.clone(),
        _ => None,
    };
    let tags = match was {
        Some(was) if set.tags.is_empty() && !set.all_devices => was.tags.clone(),
        _ => set.tags.clone(),
    };
    // A zone that comes from the window stays with the window.
    let timezone = set.timezone.clone().or_else(|| was?.own_timezone.clone());
    Ok(json!({ "cron": cron, "window": window, "tags": tags, "timezone": timezone }))
}

fn listed(schedules: &[ScheduleView]) -> String {
    if schedules.is_empty() {
        return sentence(
            "There are no schedules: nothing is updated by itself. Make one with `reflash schedule set nightly --cron \
            \"55 1 * * *\" --window night`.",
        );
    }
    let mut table = Table::new(&[
        ("NAME", 8),
        ("CRON", 12),
        ("WINDOW", 8),
        ("NEXT", 16),
        ("LAST", 13),
        ("IN", 6),
    ]);
    for schedule in schedules {
        let next = match &schedule.next_local {
            _ if schedule.trouble.is_some() => "never (see show)".to_owned(),
            Some(next) => moment(next),
            None => "never".to_owned(),
        };
        let last = match &schedule.last {
            None => "nothing yet".to_owned(),
            Some(last) => did(last),
        };
        table.row([
            schedule.name.clone(),
            schedule.cron.clone(),
            schedule.window.clone().unwrap_or_else(|| "any time".to_owned()),
            next,
            last,
            kept_in(&schedule.origin),
        ]);
    }
    table.in_width(Some(WIDTH))
}

fn did(last: &ScheduleTurnView) -> String {
    match (last.rollout, last.did.as_str()) {
        (Some(id), _) => format!("rollout {id}"),
        (None, "nothing") => "nothing to do".to_owned(),
        (None, did) => did.to_owned(),
    }
}

fn shown(schedule: &ScheduleView) -> String {
    let mut text = sentence(&format!("Schedule {}", schedule.name));
    let mut add = |label: &str, value: &str| text += &fact_in(2, label, &safe(value));
    add(
        "due",
        &format!("{} ({})", schedule.cron, zone(schedule.timezone.as_deref())),
    );
    add(
        "window",
        schedule
            .window
            .as_deref()
            .unwrap_or("none: its updates begin at any time"),
    );
    let devices = if schedule.tags.is_empty() {
        "every enrolled device".to_owned()
    } else {
        format!("devices with the tag {}", schedule.tags.join(" or "))
    };
    add("what", &format!("{} for {devices}", schedule.what));
    match &schedule.last {
        None => add("last", "its time has not come yet"),
        Some(last) => {
            let at = last.at_local.as_deref().map_or_else(|| ago(last.at_ms), moment);
            let by = last
                .by
                .as_ref()
                .map(|by| format!(", run by {by}"))
                .unwrap_or_default();
            add("last", &format!("{at}{by}: {}", last.text));
        }
    }
    add("next", &next(schedule));
    add("kept in", &place(&schedule.origin));
    text + &trouble(schedule.trouble.as_ref())
}

/// What it does next, in sentences.
fn next(schedule: &ScheduleView) -> String {
    let Some(next) = &schedule.next_local else {
        return "It is never due.".to_owned();
    };
    let mut text = format!("It is due next at {}.", with_zone(next));
    if let (Some(window), Some(begins)) = (&schedule.window, &schedule.begins_local)
        && schedule.begins_ms != schedule.next_ms
    {
        let _ = write!(
            text,
            " Its updates begin when the window {window} opens, at {}.",
            with_zone(begins)
        );
    }
    text
}

fn begun(rollout: &RolloutView) -> String {
    let summary = &rollout.summary;
    let devices = counted(rollout.members.len(), "device");
    let held = rollout.held.as_ref().map(|held| format!(" {}", held.text));
    sentence(&format!(
        "{} is {} for {devices}.{} Follow it with `reflash rollout watch {}`.",
        title(summary),
        summary.state,
        held.unwrap_or_default(),
        summary.id
    ))
}
