//! `reflash completions` and `reflash man`.

use std::path::PathBuf;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::show::{counted, sentence};
use super::{Cli, say};
use crate::error::{Exit, Trouble};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  reflash completions bash > ~/.local/share/bash-completion/completions/reflash\n  \
    reflash completions fish > ~/.config/fish/completions/reflash.fish"
)]
pub(crate) struct CompletionsArguments {
    /// The shell.
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  reflash man --output ~/.local/share/man/man1")]
pub(crate) struct ManArguments {
    /// Folder for the pages, which is made if it is missing.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

/// Prints what the shell reads.
pub(crate) fn completions(arguments: &CompletionsArguments) -> Exit {
    let shell = match arguments.shell.as_str() {
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        _ => Shell::Bash,
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "reflash", &mut text);
    // A reader that is gone is no failure.
    let _ = say(&String::from_utf8_lossy(&text));
    Exit::Done
}

/// Writes a page for every command.
pub(crate) fn man(arguments: &ManArguments) -> Result<Exit, Trouble> {
    let folder = &arguments.output;
    let written = std::fs::create_dir_all(folder).and_then(|()| {
        clap_mangen::generate_to(Cli::command(), folder)?;
        Ok(std::fs::read_dir(folder)?.count())
    });
    let n_pages = written.map_err(|error| {
        Trouble::new(
            Exit::Failed,
            format!("Writing the pages to {}: {error}.", folder.display()),
            "Name a folder that you may write.",
        )
    })?;
    let _ = say(&sentence(&format!(
        "{} in {}. Read one: man {}/reflash.1",
        counted(n_pages, "page"),
        folder.display(),
        folder.display()
    )));
    Ok(Exit::Done)
}
