//! Questions before something is gone for good.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use super::show;
use crate::error::{Exit, Trouble};

/// Whether the answer is given beforehand.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Confirmation {
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

impl Confirmation {
    /// With the answer of a command whose `--yes` means more than this.
    pub(crate) fn new(yes: bool) -> Self {
        Self { yes }
    }

    /// Whether nobody is to be asked.
    pub(crate) fn is_given(&self) -> bool {
        self.yes
    }

    /// Asks on a terminal; elsewhere `--yes` is needed. Anything but a yes is an error.
    pub(crate) fn ask(&self, question: &str, json: bool) -> Result<(), Trouble> {
        if self.yes {
            return Ok(());
        }
        if json || !std::io::stdin().is_terminal() {
            return Err(Trouble::new(
                Exit::Usage,
                format!("Not without a yes: {question}"),
                "Confirm it with --yes.",
            ));
        }
        let mut answer = String::new();
        let asked = write!(std::io::stderr(), "{} [y/N] ", show::safe(question))
            .and_then(|()| std::io::stdin().lock().read_line(&mut answer));
        match asked {
            Ok(_) if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") => Ok(()),
            _ => Err(Trouble::new(
                Exit::Failed,
                "Nothing was changed.",
                "Answer with y, or confirm it with --yes.",
            )),
        }
    }
}
