//! `reflash token`.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use model::access::Role;
use serde_json::{Value, json};
use server::views::TokenView;

use super::client::{Ask, Client, ServerArguments, answer, read};
use super::nearest::{nearest, one_of};
use super::show::{ago, fact_in, safe, sentence};
use super::table::{Table, WIDTH};
use crate::error::{Exit, Trouble};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  reflash token create \"Home Assistant\" --role operator\n  reflash token list\n  \
    reflash token revoke 3"
)]
pub(crate) struct TokenArguments {
    #[command(subcommand)]
    command: TokenCommand,
    #[command(flatten)]
    pub(crate) server: ServerArguments,
}

#[derive(clap::Subcommand)]
enum TokenCommand {
    /// Make a token; it is shown once and kept nowhere.
    #[command(
        after_help = "Example:\n  reflash token create \"Home Assistant\" --role operator --output ha.token"
    )]
    Create(CreateArguments),
    /// List the tokens, without what makes them valid.
    #[command(after_help = "Example:\n  reflash token list")]
    List,
    /// Make a token invalid at once.
    #[command(after_help = "Example:\n  reflash token revoke 3")]
    Revoke(RevokeArguments),
}

#[derive(clap::Args)]
struct CreateArguments {
    /// What it is for.
    name: String,
    /// What it may do: look, update devices, or everything.
    #[arg(long, default_value = "viewer", value_parser = ["viewer", "operator", "admin"])]
    role: String,
    /// Write it into this new file, for its owner alone, instead of showing it.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(clap::Args)]
struct RevokeArguments {
    /// Its number, or its name where only one is called so.
    #[arg(value_name = "ID")]
    token: String,
}

/// Does what was asked of the tokens.
pub(crate) async fn run(arguments: TokenArguments) -> Result<Exit, Trouble> {
    let client = Client::new(&arguments.server)?;
    match &arguments.command {
        TokenCommand::Create(create) => make(&client, &arguments.server, create).await,
        TokenCommand::List => {
            let value = client.ask(Ask::get(["tokens"])).await?;
            answer(&arguments.server, &value, || {
                Ok(listed(&read::<Vec<TokenView>>(&value)?))
            })
        }
        TokenCommand::Revoke(revoke) => {
            let tokens: Vec<TokenView> = read(&client.ask(Ask::get(["tokens"])).await?)?;
            let token = meant(&tokens, &revoke.token)?;
            let value = client.ask(Ask::delete(["tokens", &token.id.to_string()])).await?;
            answer(&arguments.server, &value, || {
                Ok(sentence(&format!(
                    "{} (number {}) is not valid any more.",
                    token.name, token.id
                )))
            })
        }
    }
}

/// What the answer says of a new token beside the token itself.
#[derive(serde::Deserialize)]
struct Made {
    id: i64,
    name: String,
    role: Role,
}

async fn make(client: &Client, server: &ServerArguments, create: &CreateArguments) -> Result<Exit, Trouble> {
    // A file that cannot be written is found before there is a token that nobody has.
    let file = create.output.as_deref().map(new_file).transpose()?;
    let body = json!({ "name": create.name, "role": create.role });
    let asked = client.ask(Ask::post(["tokens"]).json(&body)).await;
    let mut value = match (asked, &create.output) {
        (Ok(value), _) => value,
        (Err(trouble), Some(path)) => {
            // The empty file is of no use to anybody.
            let _ = std::fs::remove_file(path);
            return Err(trouble);
        }
        (Err(trouble), None) => return Err(trouble),
    };
    let Some(token) = value["token"].as_str().map(str::to_owned) else {
        return Err(Trouble::new(
            Exit::Failed,
            "The server made a token and did not tell it.",
            "Let this program and the server have the same version; revoke the token: reflash token list.",
        ));
    };
    let place = match (file, &create.output) {
        (Some(mut file), Some(path)) => {
            file.write_all(format!("{token}\n").as_bytes())
                .and_then(|()| file.sync_all())
                .map_err(|error| not_written(path, &error))?;
            if let Value::Object(fields) = &mut value {
                fields.remove("token");
            }
            Some(path.display().to_string())
        }
        _ => None,
    };
    answer(server, &value, || {
        let made: Made = read(&value)?;
        let mut text = sentence(&format!(
            "The token {} has the number {} and the role {}.",
            made.name,
            made.id,
            made.role.name()
        ));
        if let Some(place) = place {
            text += &fact_in(2, "written to", &safe(&place));
        } else {
            // On a line of its own, unbroken, to be copied.
            text = text + "  " + &safe(&token) + "\n";
            text += &sentence("It is shown this once and kept nowhere: copy it now.");
        }
        Ok(text)
    })
}

/// A file that was not there and that only its owner reads.
fn new_file(path: &Path) -> Result<std::fs::File, Trouble> {
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| not_written(path, &error))
}

fn not_written(path: &Path, error: &std::io::Error) -> Trouble {
    Trouble::new(
        Exit::Failed,
        format!("Writing {}: {error}.", path.display()),
        "Name a file that does not exist yet, in a folder that you may write.",
    )
}

fn meant<'a>(tokens: &'a [TokenView], wanted: &str) -> Result<&'a TokenView, Trouble> {
    let number: Option<i64> = wanted.parse().ok();
    if let Some(token) = tokens.iter().find(|token| Some(token.id) == number) {
        return Ok(token);
    }
    let named: Vec<&TokenView> = tokens
        .iter()
        .filter(|token| token.name.to_lowercase() == wanted.to_lowercase())
        .collect();
    match named[..] {
        [token] => Ok(token),
        [] => {
            let near = nearest(wanted, tokens.iter().map(|token| token.name.as_str()));
            Err(Trouble::new(
                Exit::NotFound,
                format!("There is no token {wanted:?}."),
                if near.is_empty() {
                    "See which there are: reflash token list.".to_owned()
                } else {
                    format!("Perhaps you mean {}.", one_of(&near))
                },
            ))
        }
        _ => {
            let numbers: Vec<String> = named.iter().map(|token| token.id.to_string()).collect();
            let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
            Err(Trouble::new(
                Exit::NotFound,
                format!("{} tokens are called {wanted:?}.", named.len()),
                format!("Name one by its number: {}.", one_of(&numbers)),
            ))
        }
    }
}

fn listed(tokens: &[TokenView]) -> String {
    if tokens.is_empty() {
        return sentence("There are no tokens. Make one with `reflash token create NAME --role operator`.");
    }
    let mut table = Table::new(&[("ID", 2), ("NAME", 12), ("ROLE", 8), ("MADE", 8), ("USED", 8)]);
    for token in tokens {
        table.row([
            token.id.to_string(),
            token.name.clone(),
            token.role.name().to_owned(),
            ago(token.created_ms),
            token.used_ms.map_or_else(|| "never".to_owned(), ago),
        ]);
    }
    table.in_width(Some(WIDTH))
}
