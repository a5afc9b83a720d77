//! `reflash audit`.

use serde::Deserialize;

use super::client::{Ask, Client, ServerArguments, answer, read};
use super::show::{grouped, sentence};
use crate::error::{Exit, Trouble};

/// How long checking may take: every entry is read and hashed. Guess: a million entries on a small computer.
const CHECK_WITHIN: std::time::Duration = std::time::Duration::from_mins(5);

#[derive(clap::Args)]
#[command(after_help = "Example:\n  reflash audit verify")]
pub(crate) struct AuditArguments {
    #[command(subcommand)]
    command: AuditCommand,
    #[command(flatten)]
    pub(crate) server: ServerArguments,
}

#[derive(clap::Subcommand)]
enum AuditCommand {
    /// Check that every entry is as it was written.
    #[command(
        after_help = "Exit codes: 0 all is as it was written, 1 something was changed or is missing.\n\n\
        Example:\n  reflash audit verify"
    )]
    Verify,
}

#[derive(Deserialize)]
struct Check {
    n_rows: u64,
    broken_at: Option<i64>,
}

/// Checks the audit.
pub(crate) async fn run(arguments: AuditArguments) -> Result<Exit, Trouble> {
    let AuditCommand::Verify = &arguments.command;
    let client = Client::new(&arguments.server)?;
    let value = client
        .ask(Ask::get(["audit", "check"]).within(CHECK_WITHIN))
        .await?;
    let check: Check = read(&value)?;
    answer(&arguments.server, &value, || {
        Ok(sentence(&match check.broken_at {
            None => format!("{} entries, each as it was written.", grouped(check.n_rows)),
            Some(seq) => format!(
                "Entry {seq} was changed or is missing; the {} before it are as they were written. Somebody has changed the \
                database: compare it with a back-up (reflash backup list).",
                grouped(check.n_rows)
            ),
        }))
    })?;
    Ok(if check.broken_at.is_none() {
        Exit::Done
    } else {
        Exit::Failed
    })
}
