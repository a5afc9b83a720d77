//! `reflash history`.

use server::views::JobView;

use super::client::{Ask, Client, ServerArguments, answer, read};
use super::device;
use super::show::{ago, sentence};
use super::standing::{between, length, state_words};
use super::table::{Table, WIDTH};
use crate::error::{Exit, Trouble};

#[derive(clap::Args)]
#[command(
    after_help = "The newest comes first. `reflash job show JOB` tells all of one.\n\n\
    Examples:\n  reflash history\n  reflash history --device kitchen --limit 5"
)]
pub(crate) struct HistoryArguments {
    /// Only this device: its key, name or address.
    #[arg(long, value_name = "D")]
    device: Option<String>,
    /// At most so many, up to 200.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// Only those before this job.
    #[arg(long, value_name = "JOB", value_parser = clap::value_parser!(i64).range(1..))]
    before: Option<i64>,
    #[command(flatten)]
    pub(crate) server: ServerArguments,
}

/// Lists what was.
pub(crate) async fn run(arguments: HistoryArguments) -> Result<Exit, Trouble> {
    let client = Client::new(&arguments.server)?;
    let device = match &arguments.device {
        Some(wanted) => Some(device::find(&client, wanted).await?.1.id),
        None => None,
    };
    let ask = Ask::get(["history"])
        .maybe("device", device)
        .query("limit", arguments.limit.to_string())
        .maybe("before", arguments.before.map(|job| job.to_string()));
    let value = client.ask(ask).await?;
    answer(&arguments.server, &value, || {
        let jobs: Vec<JobView> = read(&value)?;
        Ok(listed(&jobs, &arguments))
    })
}

fn listed(jobs: &[JobView], arguments: &HistoryArguments) -> String {
    if jobs.is_empty() {
        return sentence(if arguments.before.is_some() {
            "There was nothing before that."
        } else {
            "Nothing was updated yet."
        });
    }
    let mut table = Table::new(&[
        ("JOB", 3),
        ("WHEN", 8),
        ("DEVICE", 12),
        ("OUTCOME", 22),
        ("FIRMWARE", 8),
        ("ROLLOUT", 7),
        ("TOOK", 4),
    ]);
    for job in jobs {
        table.row([
            job.id.to_string(),
            ago(job.started_ms),
            job.name.clone().unwrap_or_else(|| job.device.clone()),
            state_words(&job.state, job.reason.as_deref()),
            job.firmware
                .clone()
                .unwrap_or_else(|| format!("{}…", job.sha256.chars().take(8).collect::<String>())),
            job.rollout
                .map_or_else(|| "by hand".to_owned(), |id| id.to_string()),
            job.ended_ms
                .map(|ended_ms| length(between(job.started_ms, ended_ms).as_secs()))
                .unwrap_or_default(),
        ]);
    }
    let mut text = table.in_width(Some(WIDTH));
    if let Some(last) = jobs.last().filter(|_| jobs.len() >= arguments.limit as usize) {
        text += &sentence(&format!("Older ones: reflash history --before {}.", last.id));
    }
    text
}
