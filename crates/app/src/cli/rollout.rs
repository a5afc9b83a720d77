//! `reflash rollout`.

mod words;

use engine::Stop;
use serde_json::{Value, json};
use server::views::{RolloutSummaryView, RolloutView, WantedRollout};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::client::{Ask, Client, ServerArguments, answer, nothing_to_do, read};
use super::push::interrupts;
use super::standing::{is_over, title};
use super::update::{Manner, in_lines, roll_out};
use super::wanted::{Rules, keys, known};
use crate::error::{Exit, Trouble};
use words::{aborted, listed, shown, standing_now, stopped};

/// How many rollouts are looked through for one that is open; only few are at the same time.
const N_LOOKED_THROUGH: u32 = 100;

#[derive(clap::Args)]
#[command(
    after_help = "ID is the number of a rollout; it may be left out where just one is open.\n\n\
    Examples:\n  reflash rollout list\n  reflash rollout watch\n  reflash rollout pause 7\n  reflash rollout stop"
)]
pub(crate) struct RolloutArguments {
    #[command(subcommand)]
    command: RolloutCommand,
    #[command(flatten)]
    pub(crate) server: ServerArguments,
}

#[derive(clap::Subcommand)]
enum RolloutCommand {
    /// List rollouts, the newest first.
    #[command(after_help = "Example:\n  reflash rollout list --limit 5")]
    List(ListArguments),
    /// Say how a rollout and each of its devices stand.
    #[command(after_help = "Example:\n  reflash rollout show 7")]
    Show(OneRollout),
    /// Follow a rollout to its end.
    #[command(
        after_help = "On a terminal it is drawn; elsewhere each change is a line, with --json one JSON object, and the \
        last line is the rollout.\nA restart of the server is waited for.\n\n\
        Exit codes: 0 all updated, 1 something failed, was held, ended or is not proven, 2 nothing was to do, 3 there is no \
        such rollout.\n\nExample:\n  reflash rollout watch 7"
    )]
    Watch(OneRollout),
    /// Let another rollout with other rules take the place of one: of its devices those that have not begun.
    #[command(
        after_help = "What is not said stays as it was, the image of each device too; what has begun ends in the old rollout.\n\
        The plan is shown first, and asked about as with update.\n\n\
        Examples:\n  reflash rollout change 7 --at-once 10\n  reflash rollout change --exclude attic --firmware 2.0.1 --dry-run"
    )]
    Change(Box<ChangeArguments>),
    /// Begin no more devices until it is resumed; what is going on is finished.
    #[command(after_help = "Example:\n  reflash rollout pause 7")]
    Pause(OneRollout),
    /// Go on with one that is paused or halted; failures so far do not count any more.
    #[command(after_help = "Example:\n  reflash rollout resume 7")]
    Resume(OneRollout),
    /// End a rollout: no device begins any more, and what nothing was sent to yet is cancelled.
    #[command(after_help = "Examples:\n  reflash rollout abort 7\n  reflash rollout abort 7 --force")]
    Abort(AbortArguments),
    /// Take one device out of a rollout.
    #[command(after_help = "Example:\n  reflash rollout cancel kitchen 7")]
    Cancel(CancelArguments),
    /// End every rollout at once, as abort does.
    #[command(after_help = "Example:\n  reflash rollout stop")]
    Stop,
}

#[derive(clap::Args)]
struct ListArguments {
    /// At most so many, up to 200.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// Only those before this one.
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    before: Option<i64>,
}

#[derive(clap::Args)]
struct OneRollout {
    /// Its number.
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    id: Option<i64>,
}

#[derive(clap::Args)]
struct ChangeArguments {
    #[command(flatten)]
    rollout: OneRollout,
    /// Leave this device out; may be given again.
    #[arg(long, value_name = "D")]
    exclude: Vec<String>,
    /// Another image: a version, a name, a SHA-256 or a file name.
    #[arg(long, value_name = "F")]
    firmware: Option<String>,
    #[command(flatten)]
    rules: Rules,
    #[command(flatten)]
    manner: Manner,
}

#[derive(clap::Args)]
struct AbortArguments {
    #[command(flatten)]
    rollout: OneRollout,
    /// Also break off what is being sent, unless its last byte has left.
    #[arg(long)]
    force: bool,
}

#[derive(clap::Args)]
struct CancelArguments {
    /// The device: its key, name or address.
    device: String,
    #[command(flatten)]
    rollout: OneRollout,
}

/// Does what was asked of the rollouts.
pub(crate) async fn run(arguments: RolloutArguments) -> Result<Exit, Trouble> {
    let server = &arguments.server;
    let session = Session {
        client: Client::new(server)?,
        server,
    };
    match &arguments.command {
        RolloutCommand::List(list) => session.list(list).await,
        RolloutCommand::Show(one) => {
            let value = session.get(one).await?;
            answer(server, &value, || Ok(shown(&read(&value)?)))
        }
        RolloutCommand::Watch(one) => in_lines(server, session.watch(one)).await,
        RolloutCommand::Change(change) => in_lines(server, session.succeed(change)).await,
        RolloutCommand::Pause(one) => session.change(one, "pause").await,
        RolloutCommand::Resume(one) => session.change(one, "resume").await,
        RolloutCommand::Abort(abort) => session.abort(abort).await,
        RolloutCommand::Cancel(cancel) => session.cancel(cancel).await,
        RolloutCommand::Stop => session.stop().await,
    }
}

struct Session<'a> {
    client: Client,
    server: &'a ServerArguments,
}

impl Session<'_> {
    async fn list(&self, list: &ListArguments) -> Result<Exit, Trouble> {
        let ask = Ask::get(["rollouts"])
            .query("limit", list.limit.to_string())
            .maybe("before", list.before.map(|id| id.to_string()));
        let value = self.client.ask(ask).await?;
        answer(self.server, &value, || Ok(listed(&read::<Vec<_>>(&value)?)))
    }

    /// The number that was given, or that of the only one that is open.
    async fn id(&self, one: &OneRollout) -> Result<String, Trouble> {
        if let Some(id) = one.id {
            return Ok(id.to_string());
        }
        let ask = Ask::get(["rollouts"]).query("limit", N_LOOKED_THROUGH.to_string());
        let rollouts: Vec<RolloutSummaryView> = read(&self.client.ask(ask).await?)?;
        let open: Vec<&RolloutSummaryView> = rollouts.iter().filter(|rollout| !is_over(rollout)).collect();
        match open[..] {
            [rollout] => Ok(rollout.id.to_string()),
            [] => Err(Trouble::new(
                Exit::NotFound,
                "No rollout is open.",
                "Name one by its number: reflash rollout list tells which there were.",
            )),
            _ => {
                let titles: Vec<String> = open.iter().map(|rollout| title(rollout)).collect();
                Err(Trouble::new(
                    Exit::NotFound,
                    format!("{} rollouts are open: {}.", open.len(), titles.join(", ")),
                    "Name one by its number.",
                ))
            }
        }
    }

    async fn get(&self, one: &OneRollout) -> Result<Value, Trouble> {
        let id = self.id(one).await?;
        self.client
            .ask(Ask::get(["rollouts", &id]))
            .await
            .map_err(|trouble| unknown(trouble, &id))
    }

    async fn watch(&self, one: &OneRollout) -> Result<Exit, Trouble> {
        let value = self.get(one).await?;
        let (stop, stopped) = watch::channel(Stop::No);
        let mut tasks = JoinSet::new();
        tasks.spawn(interrupts(stop));
        Box::pin(super::watch::watch(&self.client, self.server, value, stopped)).await
    }

    async fn succeed(&self, change: &ChangeArguments) -> Result<Exit, Trouble> {
        let id = self.id(&change.rollout).await?;
        let mut wanted = WantedRollout {
            instead_of: id.parse().ok(),
            firmware: change.firmware.clone(),
            ..WantedRollout::default()
        };
        if !change.exclude.is_empty() {
            wanted.exclude = keys(&known(&self.client).await?, &change.exclude)?;
        }
        change.rules.put_into(&mut wanted);
        Box::pin(roll_out(&self.client, self.server, &change.manner, wanted)).await
    }

    async fn change(&self, one: &OneRollout, verb: &str) -> Result<Exit, Trouble> {
        let id = self.id(one).await?;
        let value = self.client.ask(Ask::post(["rollouts", &id, verb])).await;
        let value = value.map_err(|trouble| unknown(trouble, &id))?;
        answer(self.server, &value, || Ok(standing_now(&read(&value)?)))
    }

    async fn abort(&self, abort: &AbortArguments) -> Result<Exit, Trouble> {
        let id = self.id(&abort.rollout).await?;
        let ask = Ask::post(["rollouts", &id, "abort"]).json(&json!({ "force": abort.force }));
        let value = self
            .client
            .ask(ask)
            .await
            .map_err(|trouble| unknown(trouble, &id))?;
        answer(self.server, &value, || Ok(aborted(&read(&value)?)))
    }

    async fn cancel(&self, cancel: &CancelArguments) -> Result<Exit, Trouble> {
        let value = self.get(&cancel.rollout).await?;
        let rollout: RolloutView = read(&value)?;
        let id = rollout.summary.id.to_string();
        let named = rollout.members.iter().find(|member| {
            member.device == cancel.device || member.name.to_lowercase() == cancel.device.to_lowercase()
        });
        let device = match named {
            Some(member) => member.device.clone(),
            None => keys(&known(&self.client).await?, std::slice::from_ref(&cancel.device))?.remove(0),
        };
        if !rollout.members.iter().any(|member| member.device == device) {
            return Err(Trouble::new(
                Exit::NotFound,
                format!("{:?} is no device of rollout {id}.", cancel.device),
                format!("See which are: reflash rollout show {id}."),
            ));
        }
        let ask = Ask::post(["rollouts", &id, "devices", &device, "cancel"]);
        let value = self.client.ask(ask).await?;
        answer(self.server, &value, || Ok(standing_now(&read(&value)?)))
    }

    async fn stop(&self) -> Result<Exit, Trouble> {
        let value = self.client.ask(Ask::post(["rollouts", "stop"])).await?;
        let rollouts: Vec<RolloutSummaryView> = read(&value)?;
        if rollouts.is_empty() {
            return Ok(nothing_to_do(
                self.server,
                &value,
                "No rollout is open: there was nothing to stop.",
            ));
        }
        answer(self.server, &value, || Ok(stopped(&rollouts)))
    }
}

/// Says where to look for the number of a rollout.
fn unknown(mut trouble: Trouble, id: &str) -> Trouble {
    if trouble.exit == Exit::NotFound {
        trouble.what = format!("There is no rollout {id}.");
        "See which there are: reflash rollout list.".clone_into(&mut trouble.next_step);
    }
    trouble
}
