//! Passwords: never an argument, but a file, an environment variable or a prompt.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::show;
use crate::error::{Exit, Trouble};

/// The largest password file that is read, bytes.
const MAX_FILE_LEN: u64 = 4096;

/// Where a device's password is.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct PasswordArguments {
    /// File that holds the device's password; a trailing line end does not count.
    #[arg(long, value_name = "F", conflicts_with = "password_env")]
    password_file: Option<PathBuf>,
    /// Environment variable that holds the device's password.
    #[arg(long, value_name = "VAR")]
    password_env: Option<String>,
}

impl PasswordArguments {
    /// The password that was given; none where none was, or an empty one.
    pub(crate) fn read(&self) -> Result<Option<SecretString>, Trouble> {
        read(self.password_file.as_deref(), self.password_env.as_deref())
    }

    /// Whether one was given, if only an empty one.
    pub(crate) fn is_given(&self) -> bool {
        self.password_file.is_some() || self.password_env.is_some()
    }
}

/// Reads a password from a file or from the environment.
pub(crate) fn read(file: Option<&Path>, variable: Option<&str>) -> Result<Option<SecretString>, Trouble> {
    let text = if let Some(path) = file {
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE_LEN).read_to_string(&mut text))
            .map_err(|error| {
                Trouble::new(
                    Exit::NotFound,
                    format!("Reading the password from {}: {error}.", path.display()),
                    "Name a text file that holds only the password.",
                )
            })?;
        text
    } else if let Some(name) = variable {
        std::env::var(name).map_err(|_| {
            Trouble::new(
                Exit::NotFound,
                format!("The environment variable {name} is not set, or is no text."),
                format!("Set it first: export {name}=…"),
            )
        })?
    } else {
        return Ok(None);
    };
    let password = text.trim_end_matches(['\r', '\n']);
    Ok((!password.is_empty()).then(|| SecretString::from(password.to_owned())))
}

/// Asks for a password on the terminal.
pub(crate) fn prompt(device: &str) -> Result<Option<SecretString>, Trouble> {
    let password =
        rpassword::prompt_password(format!("Password of {}: ", show::safe(device))).map_err(|error| {
            Trouble::new(
                Exit::Failed,
                format!("Reading the password: {error}."),
                "Give it with --password-file F or --password-env VAR.",
            )
        })?;
    Ok((!password.is_empty()).then(|| SecretString::from(password)))
}
