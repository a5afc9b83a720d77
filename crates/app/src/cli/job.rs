//! `reflash job`.

use std::fmt::Write as _;

use server::views::JobDetailView;

use super::client::{Ask, Client, ServerArguments, answer, read};
use super::show::{ago, fact_in, grouped, safe, spoken};
use super::standing::{between, evidence_cells, state_words};
use super::table::{Table, WIDTH};
use crate::error::{Exit, Trouble};

#[derive(clap::Args)]
#[command(
    after_help = "A job is one update of one device; `reflash history` and `reflash rollout show` tell their numbers.\n\n\
    Examples:\n  reflash job show 17\n  reflash job cancel 17"
)]
pub(crate) struct JobArguments {
    #[command(subcommand)]
    command: JobCommand,
    #[command(flatten)]
    pub(crate) server: ServerArguments,
}

#[derive(clap::Subcommand)]
enum JobCommand {
    /// Say what happened in a job, with the evidence.
    #[command(after_help = "Example:\n  reflash job show 17")]
    Show(OneJob),
    /// Cancel a job, as long as the last byte has not left.
    #[command(after_help = "Example:\n  reflash job cancel 17")]
    Cancel(OneJob),
}

#[derive(clap::Args)]
struct OneJob {
    /// Its number.
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    id: i64,
}

/// Does what was asked of a job.
pub(crate) async fn run(arguments: JobArguments) -> Result<Exit, Trouble> {
    let client = Client::new(&arguments.server)?;
    let (ask, id) = match &arguments.command {
        JobCommand::Show(one) => (Ask::get(["jobs", &one.id.to_string()]), one.id),
        JobCommand::Cancel(one) => (Ask::post(["jobs", &one.id.to_string(), "cancel"]), one.id),
    };
    let value = client.ask(ask).await.map_err(|mut trouble| {
        if trouble.exit == Exit::NotFound {
            trouble.what = format!("There is no job {id}.");
            "See which there were: reflash history.".clone_into(&mut trouble.next_step);
        }
        trouble
    })?;
    answer(&arguments.server, &value, || Ok(shown(&read(&value)?)))
}

/// All of a job.
fn shown(detail: &JobDetailView) -> String {
    let job = &detail.job;
    let mut text = format!("Job {}\n", job.id);
    let mut add = |label: &str, value: &str| text += &fact_in(2, label, &safe(value));
    let name = job.name.as_ref().filter(|name| **name != job.device);
    add(
        "device",
        &name.map_or_else(|| job.device.clone(), |name| format!("{name} ({})", job.device)),
    );
    add(
        "rollout",
        &job.rollout
            .map_or_else(|| "none: by hand".to_owned(), |id| id.to_string()),
    );
    let sha256: String = job.sha256.chars().take(8).collect();
    add(
        "firmware",
        &match &job.firmware {
            Some(firmware) => format!("{firmware} · sha256 {sha256}…"),
            None => format!("sha256 {sha256}… (not kept here any more)"),
        },
    );
    let mut outcome = state_words(&job.state, job.reason.as_deref());
    if let Some(what) = &job.text {
        let _ = write!(outcome, ": {what}");
    }
    add("outcome", &outcome);
    if let Some(next_step) = job.next_step.as_ref().filter(|next_step| !next_step.is_empty()) {
        add("next", next_step);
    }
    let mut when = ago(job.started_ms);
    if let Some(ended_ms) = job.ended_ms {
        let _ = write!(when, " · took {}", spoken(between(job.started_ms, ended_ms)));
    }
    add("begun", &when);
    if let Some(method) = &detail.method {
        add(
            "push",
            &format!(
                "by {method} · {} begun",
                if detail.n_pushes == 1 {
                    "1 push".to_owned()
                } else {
                    format!("{} pushes", detail.n_pushes)
                }
            ),
        );
    }
    evidence(detail, &mut add);
    if !detail.events.is_empty() {
        let mut table = Table::new(&[("NO", 2), ("AFTER", 6), ("STEP", 20), ("PUSH", 4)]);
        for event in &detail.events {
            table.row([
                event.seq.to_string(),
                spoken(between(job.started_ms, event.at_ms)),
                event.step.clone(),
                if event.attempt == 0 {
                    String::new()
                } else {
                    event.attempt.to_string()
                },
            ]);
        }
        text += &table.in_width(Some(WIDTH));
    }
    text
}

/// What was seen.
fn evidence(detail: &JobDetailView, add: &mut impl FnMut(&str, &str)) {
    let evidence = &detail.evidence;
    if let Some(verdict) = evidence["verdict"].as_str() {
        add("verdict", &format!("\"{verdict}\""));
    }
    let push = evidence["push_s"].as_f64();
    let push = push.and_then(|push_s| std::time::Duration::try_from_secs_f64(push_s).ok());
    if let (Some(len_bytes), Some(push)) = (evidence["len_bytes"].as_u64(), push) {
        add(
            "sent",
            &format!("{} bytes in {}", grouped(len_bytes), spoken(push)),
        );
    }
    let [away, uptime, versions] = evidence_cells(evidence);
    for (label, value) in [("away", away), ("version", versions), ("uptime", uptime)] {
        if !value.is_empty() {
            add(label, &value);
        }
    }
    if let (Some(before), Some(after)) = (
        evidence["identity_before"].as_str(),
        evidence["identity_after"].as_str(),
    ) {
        let same = if before == after { "the same" } else { "another" };
        add("identity", &format!("{after} ({same})"));
    }
}
