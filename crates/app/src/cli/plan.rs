//! `reflash plan`.

use server::views::PlanView;

use super::client::{Client, ServerArguments, answer};
use super::show::sentence;
use super::standing::{about, left_out};
use super::table::{Table, WIDTH};
use super::wanted::{Rules, Which, planned};
use crate::error::{Exit, Trouble};

#[derive(clap::Args)]
#[command(
    after_help = "Nothing is changed and nothing is sent to a device. `reflash update` with the same words does it.\n\n\
    Exit codes: 0 something would be updated, 1 failed, 2 nothing would be, 3 there is no such device, 64 wrong usage.\n\n\
    Examples:\n  reflash plan --all\n  reflash plan kitchen attic --firmware 2.0.0\n  \
    reflash plan --tag upstairs --exclude \"Living Room IR\" --when-back 12h"
)]
pub(crate) struct PlanArguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    rules: Rules,
    /// Also where one part would get newer and another older.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    pub(crate) server: ServerArguments,
}

/// Plans.
pub(crate) async fn run(arguments: PlanArguments) -> Result<Exit, Trouble> {
    let client = Client::new(&arguments.server)?;
    let mut wanted = arguments.which.wanted(&client).await?;
    arguments.rules.put_into(&mut wanted);
    wanted.yes = arguments.yes;
    let (value, plan) = planned(&client, &arguments.server, &wanted).await?;
    answer(&arguments.server, &value, || {
        Ok(shown(&plan) + "Nothing was sent: this is a plan.\n")
    })?;
    Ok(exit(&plan))
}

/// What the shell is told of a plan.
pub(super) fn exit(plan: &PlanView) -> Exit {
    if plan.members.is_empty() {
        Exit::Nothing
    } else {
        Exit::Done
    }
}

/// A plan for people: what each device gets, why others get nothing, and all of it in the server's own sentences.
pub(super) fn shown(plan: &PlanView) -> String {
    let mut text = String::new();
    if !plan.members.is_empty() || !plan.left_out.is_empty() {
        let mut table = Table::new(&[
            ("DEVICE", 21),
            ("WAVE", 4),
            ("RUNS", 8),
            ("GETS", 22),
            ("TAKES", 5),
            ("", 9),
        ]);
        for member in &plan.members {
            table.row([
                member.name.clone(),
                wave(plan, member.wave),
                member.runs.clone(),
                format!("→ {}", member.firmware),
                about(member.estimate_s),
                if member.waits_until_back { "when back" } else { "" }.to_owned(),
            ]);
        }
        for device in &plan.left_out {
            table.row([
                device.name.clone(),
                "-".to_owned(),
                String::new(),
                format!("nothing: {}", device.reason.rule),
            ]);
        }
        text += &table.in_width(Some(WIDTH));
    }
    if plan.sentences.is_empty() {
        text += &left_out(&plan.left_out);
    }
    if plan.members.is_empty() && plan.sentences.is_empty() {
        text += "Nothing would be updated.\n";
    }
    for spoken in &plan.sentences {
        text += &sentence(spoken);
    }
    text
}

/// Which wave, as people count; who goes first is told.
fn wave(plan: &PlanView, wave: u32) -> String {
    if wave == 0 && plan.rules.canary > 0 && plan.n_waves > 1 {
        "first".to_owned()
    } else {
        wave.saturating_add(1).to_string()
    }
}
