//! `reflash stats`.

use std::collections::BTreeMap;
use std::time::Duration;

use server::views::StatsView;

use super::client::{Ask, Client, ServerArguments, answer, read};
use super::show::{grouped, sentence, spoken};
use super::span;
use super::standing::state_words;
use super::table::{Table, WIDTH};
use crate::error::{Exit, Trouble};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  reflash stats\n  reflash stats --since 7d --json")]
pub(crate) struct StatsArguments {
    /// How far back, such as 12h, 30d or 8w.
    #[arg(long, value_name = "D", default_value = "30d", value_parser = span)]
    since: Duration,
    #[command(flatten)]
    pub(crate) server: ServerArguments,
}

/// Counts.
pub(crate) async fn run(arguments: StatsArguments) -> Result<Exit, Trouble> {
    let client = Client::new(&arguments.server)?;
    let since_ms = i64::try_from(arguments.since.as_millis()).unwrap_or(i64::MAX);
    let since_ms = engine::Clock.now().wall_ms.saturating_sub(since_ms).max(0);
    let value = client
        .ask(Ask::get(["stats"]).query("since_ms", since_ms.to_string()))
        .await?;
    answer(&arguments.server, &value, || {
        Ok(shown(&read(&value)?, arguments.since))
    })
}

fn shown(stats: &StatsView, since: Duration) -> String {
    let n_ended: u64 = stats.outcomes.values().sum();
    let mut text = match (n_ended, stats.success_percent) {
        (0, _) => sentence(&format!("No update ended in the last {}.", spoken(since))),
        (n, Some(percent)) => sentence(&format!(
            "{} ended in the last {}; {percent:.1} % of those that were to be done are proven.",
            if n == 1 {
                "1 update".to_owned()
            } else {
                format!("{} updates", grouped(n))
            },
            spoken(since)
        )),
        (n, None) => sentence(&format!(
            "{} updates ended in the last {}.",
            grouped(n),
            spoken(since)
        )),
    };
    let outcomes = stats
        .outcomes
        .iter()
        .map(|(state, n)| (state_words(state, None), *n));
    text += &table("OUTCOME", outcomes);
    text += &table("WHY NOT", named(&stats.reasons));
    text += &table("RUNNING NOW", named(&stats.running));
    text + &sentence(&format!(
        "{} of {} enrolled devices have the newest that is offered.",
        grouped(stats.n_current),
        grouped(stats.n_enrolled)
    ))
}

fn named(counts: &BTreeMap<String, u64>) -> impl Iterator<Item = (String, u64)> {
    counts.iter().map(|(name, n)| (name.clone(), *n))
}

/// What there is most of comes first; nothing at all where there is nothing.
fn table(title: &'static str, counts: impl Iterator<Item = (String, u64)>) -> String {
    let mut counts: Vec<(String, u64)> = counts.filter(|(_, n)| *n > 0).collect();
    if counts.is_empty() {
        return String::new();
    }
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let mut table = Table::new(&[(title, 30), ("DEVICES", 7)]);
    if title != "RUNNING NOW" {
        table = Table::new(&[(title, 30), ("UPDATES", 7)]);
    }
    for (name, n) in counts {
        table.row([name, grouped(n)]);
    }
    table.in_width(Some(WIDTH))
}
