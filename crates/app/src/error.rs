//! How a command ends.

use std::process::ExitCode;

/// What the shell is told (INTERFACES.md, exit codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// Failed, refused, or not proven.
    Failed,
    /// Nothing to do.
    Nothing,
    /// What was named does not exist.
    NotFound,
    /// Wrong usage.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Nothing => 2,
            Exit::NotFound => 3,
            // `EX_USAGE` of sysexits.h.
            Exit::Usage => 64,
        })
    }
}

/// Why a command could not do its work at all, for a person.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) exit: Exit,
    /// What happened.
    pub(crate) what: String,
    /// What to do next.
    pub(crate) next_step: String,
}

impl Trouble {
    pub(crate) fn new(exit: Exit, what: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            next_step: next_step.into(),
        }
    }
}
