//! `reflash notify`.

use std::fmt::Write as _;
use std::time::Duration;

use server::views::NotifyTestView;

use super::client::{Ask, Client, ServerArguments, answer, read};
use super::show::safe;
use crate::error::{Exit, Trouble};

/// How long a test may take: the web hook has 10 s, the broker 5 s.
const TEST_WITHIN: Duration = Duration::from_mins(1);

#[derive(clap::Args)]
#[command(after_help = "Example:\n  reflash notify test")]
pub(crate) struct NotifyArguments {
    #[command(subcommand)]
    command: NotifyCommand,
    #[command(flatten)]
    pub(crate) server: ServerArguments,
}

#[derive(clap::Subcommand)]
enum NotifyCommand {
    /// Send a test message to everybody who is told, and say what came back.
    #[command(after_help = "Exit codes: 0 everybody took it, 1 somebody did not.\n\n\
        Example:\n  reflash notify test")]
    Test,
}

/// Sends a test message.
pub(crate) async fn run(arguments: NotifyArguments) -> Result<Exit, Trouble> {
    let NotifyCommand::Test = &arguments.command;
    let client = Client::new(&arguments.server)?;
    let value = client
        .ask(Ask::post(["notify", "test"]).within(TEST_WITHIN))
        .await?;
    let tested: NotifyTestView = read(&value)?;
    answer(&arguments.server, &value, || Ok(words(&tested)))?;
    Ok(if tested.ok { Exit::Done } else { Exit::Failed })
}

fn words(tested: &NotifyTestView) -> String {
    let mut words = String::new();
    for receiver in &tested.receivers {
        let result = if receiver.ok { "took it" } else { "did not take it" };
        // Writing to a string does not fail.
        let _ = writeln!(
            words,
            "{} at {} {result}. {}",
            receiver.receiver,
            safe(&receiver.place),
            safe(&receiver.text)
        );
    }
    words
}
