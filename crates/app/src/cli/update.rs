//! `reflash update`: the plan, the question, the rollout, and watching it.

use std::fmt::Write as _;

use engine::Stop;
use serde_json::Value;
use server::views::{PlanView, RolloutView, WantedRollout};
use tokio::sync::watch::{self, Receiver};
use tokio::task::JoinSet;

use super::client::{Ask, Client, NoAnswer, ServerArguments, read};
use super::confirm::Confirmation;
use super::plan::{exit, shown};
use super::push::interrupts;
use super::show::{counted, sentence};
use super::standing::{kind_verb, title};
use super::wanted::{Rules, Which, body, planned};
use super::{say, say_json_line};
use crate::error::{Exit, Trouble};

/// How often a rollout is asked for when the server does not answer: with the same key, so that there is only one.
const MAX_ASKED: u8 = 3;

#[derive(clap::Args)]
#[command(
    after_help = "The plan is shown first. More than one device needs a yes: on the terminal, or --yes.\n\
    With --json every event is a line, and the last line is the rollout.\n\n\
    Exit codes: 0 all updated, 1 something failed, was held, ended or is not proven, 2 nothing to do, 3 there is no such \
    device, 64 wrong usage.\n\n\
    Examples:\n  reflash update kitchen\n  reflash update --all --exclude attic --when-back 12h\n  \
    reflash update --tag upstairs --firmware 2.0.0 --canary 2 --max-failures 5% --yes --detach"
)]
pub(crate) struct UpdateArguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    rules: Rules,
    #[command(flatten)]
    pub(super) manner: Manner,
    #[command(flatten)]
    pub(crate) server: ServerArguments,
}

/// How the command itself goes about it.
#[derive(clap::Args)]
#[group(skip)]
pub(super) struct Manner {
    /// What to call this rollout.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Only say what would happen.
    #[arg(long, conflicts_with = "detach")]
    dry_run: bool,
    /// Do not watch: end as soon as the server has taken it on.
    #[arg(long)]
    detach: bool,
    /// Do not ask; and update also where one part gets newer and another older.
    #[arg(long)]
    yes: bool,
}

/// Updates.
pub(crate) async fn run(arguments: UpdateArguments) -> Result<Exit, Trouble> {
    in_lines(&arguments.server, async {
        let client = Client::new(&arguments.server)?;
        let mut wanted = arguments.which.wanted(&client).await?;
        arguments.rules.put_into(&mut wanted);
        roll_out(&client, &arguments.server, &arguments.manner, wanted).await
    })
    .await
}

/// Tells what went wrong in one line, as everything else of a command that tells JSON line by line.
pub(super) async fn in_lines(
    server: &ServerArguments,
    work: impl Future<Output = Result<Exit, Trouble>>,
) -> Result<Exit, Trouble> {
    match work.await {
        Err(trouble) if server.json => {
            say_json_line(&serde_json::json!({ "error": trouble.what, "next_step": trouble.next_step }));
            Ok(trouble.exit)
        }
        result => result,
    }
}

/// Plans, asks, begins and watches.
pub(super) async fn roll_out(
    client: &Client,
    server: &ServerArguments,
    manner: &Manner,
    mut wanted: WantedRollout,
) -> Result<Exit, Trouble> {
    wanted.name.clone_from(&manner.name);
    wanted.yes = manner.yes;
    let (value, plan) = planned(client, server, &wanted).await?;
    let told = manner.dry_run || plan.members.is_empty();
    if !server.json {
        let _ = say(&shown(&plan));
        if manner.dry_run {
            let _ = say("Nothing was sent: this was a dry run.\n");
        }
    } else if told {
        say_json_line(&value);
    }
    if told {
        return Ok(exit(&plan));
    }
    if plan.members.len() > 1 {
        Confirmation::new(manner.yes).ask(&question(&plan), server.json)?;
    }
    // From here on an interrupt must not leave somebody without the number of what he began.
    let mut tasks = JoinSet::new();
    let stopped = (!manner.detach).then(|| {
        let (stop, stopped) = watch::channel(Stop::No);
        tasks.spawn(interrupts(stop));
        stopped
    });
    let value = begin(client, &wanted).await?;
    let rollout: RolloutView = read(&value)?;
    if !server.json {
        let _ = say(&since_planned(&rollout, &plan));
    }
    match stopped {
        Some(stopped) => watched(client, server, value, stopped).await,
        None if server.json => {
            say_json_line(&value);
            Ok(Exit::Done)
        }
        None => {
            let _ = say(&sentence(&format!(
                "{} has begun and goes on in the server; follow it with `reflash rollout watch {}`.",
                title(&rollout.summary),
                rollout.summary.id
            )));
            Ok(Exit::Done)
        }
    }
}

async fn watched(
    client: &Client,
    server: &ServerArguments,
    rollout: Value,
    stopped: Receiver<Stop>,
) -> Result<Exit, Trouble> {
    Box::pin(super::watch::watch(client, server, rollout, stopped)).await
}

/// Begins it, once, however often that has to be asked for.
async fn begin(client: &Client, wanted: &WantedRollout) -> Result<Value, Trouble> {
    let ask = Ask::post(["rollouts"]).json(&body(wanted)).once();
    let mut n_asked = 0;
    loop {
        n_asked += 1;
        match client.try_ask(ask.clone()).await {
            Ok(value) => return Ok(value),
            Err(NoAnswer::Gone(_)) if n_asked < MAX_ASKED => {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
            Err(NoAnswer::Gone(mut trouble)) => {
                // Whether it began, nobody knows.
                trouble.next_step = format!(
                    "It may have begun all the same: look with `reflash rollout list`. {}",
                    trouble.next_step
                );
                return Err(trouble);
            }
            Err(NoAnswer::Refused(trouble)) => return Err(trouble),
        }
    }
}

fn question(plan: &PlanView) -> String {
    let mut question = format!(
        "{} {}",
        kind_verb(plan.kind),
        counted(plan.members.len(), "device")
    );
    if plan.n_waves > 1 {
        let _ = write!(question, " in {} waves", plan.n_waves);
    }
    question + "?"
}

/// What is more than was planned: the fleet may have changed while somebody read the plan.
fn since_planned(rollout: &RolloutView, plan: &PlanView) -> String {
    let is_planned = |device: &str| plan.members.iter().any(|member| member.device == device);
    let more: Vec<&str> = rollout
        .members
        .iter()
        .filter(|member| !is_planned(&member.device))
        .map(|member| member.name.as_str())
        .collect();
    if more.is_empty() {
        return String::new();
    }
    sentence(&format!(
        "Since the plan was made, there is more to update: {}.",
        more.join(", ")
    ))
}
