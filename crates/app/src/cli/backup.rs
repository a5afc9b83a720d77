//! `reflash backup`: the whole state folder, copied and brought back. It needs no server, and disturbs none.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use model::chain::chain;
use serde_json::json;
use store::Store;

use super::confirm::Confirmation;
use super::show::{ago, counted, fact_in, safe, sentence, sized};
use super::table::Table;
use super::{say, say_json};
use crate::error::{Exit, Trouble};

/// The database in a state folder and in a back-up.
const DATABASE: &str = "reflash.db";
/// Where the server puts its daily copies of the database.
const DAILY: &str = "backups";
/// The image files.
const IMAGES: &str = "images";
/// What unfinished files begin with.
const UNFINISHED: &str = ".part-";

#[derive(clap::Args)]
#[command(
    after_help = "A back-up holds the database, the images, the key of the stored passwords, certificates and tokens: keep it \
    as safe as they are.\n\n\
    Examples:\n  reflash backup create /mnt/usb/reflash\n  reflash backup list\n  reflash backup restore /mnt/usb/reflash"
)]
pub(crate) struct BackupArguments {
    #[command(subcommand)]
    command: BackupCommand,
    /// State folder of the server.
    #[arg(long, visible_alias = "data", global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum BackupCommand {
    /// Copy everything into a new folder; a server may run meanwhile.
    #[command(after_help = "Example:\n  reflash backup create /mnt/usb/reflash")]
    Create {
        /// The folder to make.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// List the copies of the database that the server makes every day.
    #[command(after_help = "Example:\n  reflash backup list")]
    List,
    /// Put a back-up, or one of the daily copies, in the place of what is there, which is kept aside; no server may run.
    #[command(after_help = "Examples:\n  reflash backup restore /mnt/usb/reflash\n  \
        reflash backup restore ~/.local/state/reflash/backups/reflash-2026-11-21.db --yes")]
    Restore {
        /// The folder that `reflash backup create` made, or a copy of a database.
        #[arg(value_name = "DIR")]
        backup: PathBuf,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

impl BackupArguments {
    /// Whether the answer is to be JSON.
    pub(crate) fn json(&self) -> bool {
        self.json
    }
}

/// Does what was asked of the back-ups.
pub(crate) async fn run(arguments: BackupArguments) -> Result<Exit, Trouble> {
    let state = arguments.state.clone().unwrap_or_else(store::default_folder);
    match &arguments.command {
        BackupCommand::Create { folder } => create(&state, folder, arguments.json).await,
        BackupCommand::List => list(&state, arguments.json),
        BackupCommand::Restore { backup, confirmation } => {
            let plan = planned(&state, backup)?;
            if confirmation.is_given() && !arguments.json {
                let _ = io::Write::write_all(&mut io::stderr(), sentence(&plan).as_bytes());
            }
            confirmation.ask(&format!("{plan} Go on?"), arguments.json)?;
            restore(&state, backup, arguments.json).await
        }
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Trouble {
    Trouble::new(
        if error.kind() == io::ErrorKind::NotFound {
            Exit::NotFound
        } else {
            Exit::Failed
        },
        format!("{what} {}: {error}.", path.display()),
        "Check the name, who may read and write there, and that the disk has room.",
    )
}

async fn create(state: &Path, to: &Path, json: bool) -> Result<Exit, Trouble> {
    if !state.join(DATABASE).is_file() {
        return Err(Trouble::new(
            Exit::NotFound,
            format!("There is nothing to copy: {} holds no database.", state.display()),
            "Name the server's folder with --state DIR.",
        ));
    }
    let is_empty = match fs::read_dir(to) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(failed("Looking into", to, &error)),
    };
    if !is_empty {
        return Err(Trouble::new(
            Exit::Failed,
            format!("{} is not empty.", to.display()),
            "Name a folder that does not exist yet.",
        ));
    }
    let to = std::path::absolute(to).map_err(|error| failed("Finding", to, &error))?;
    let parent = to.parent().unwrap_or(&to).to_owned();
    fs::create_dir_all(&parent).map_err(|error| failed("Making", &parent, &error))?;
    // It is whole under its name, or not there under it at all.
    let part = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(&parent)
        .map_err(|error| failed("Making a folder in", &parent, &error))?;
    let store = Store::open(state).await.map_err(|error| {
        Trouble::new(
            Exit::Failed,
            format!("Nothing was copied: {}.", chain(&error)),
            "Mend what the message names, or ask `reflash doctor`.",
        )
    })?;
    store
        .back_up(&part.path().join(DATABASE))
        .await
        .map_err(|error| {
            Trouble::new(
                Exit::Failed,
                format!("Nothing was copied: {}.", chain(&error)),
                "Choose a folder on a disk with room that you may write.",
            )
        })?;
    // After the database, so that every image that it names is there; images are never changed, only added and removed.
    let copied = copy_files(state, part.path(), None).map_err(|error| failed("Copying", state, &error))?;
    let n_bytes = copied.bytes + len(&part.path().join(DATABASE));
    let made = part.keep();
    fs::rename(&made, &to)
        .and_then(|()| sync(&parent))
        .map_err(|error| {
            // It would only be found by its odd name.
            let _ = fs::remove_dir_all(&made);
            failed("Making", &to, &error)
        })?;
    if json {
        say_json(&json!({ "backup": to, "files": copied.files + 1, "len_bytes": n_bytes }));
    } else {
        let text = format!(
            "{} with {} copied to {}. It holds the key of the passwords: keep it where only you can read it.",
            counted(copied.files + 1, "file"),
            sized(n_bytes),
            to.display()
        );
        let _ = say(&sentence(&text));
    }
    Ok(Exit::Done)
}

fn list(state: &Path, json: bool) -> Result<Exit, Trouble> {
    let folder = state.join(DAILY);
    let mut copies = Vec::new();
    match fs::read_dir(&folder) {
        Ok(entries) => {
            for entry in entries.flatten() {
                let path = entry.path();
                if path.extension().is_none_or(|extension| extension != "db") {
                    continue;
                }
                let Ok(metadata) = entry.metadata() else { continue };
                let made = metadata
                    .modified()
                    .ok()
                    .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                let made_ms = made.map_or(0, |made| i64::try_from(made.as_millis()).unwrap_or(i64::MAX));
                copies.push((path, metadata.len(), made_ms));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("Looking into", &folder, &error)),
    }
    copies.sort();
    copies.reverse();
    if json {
        let copies = copies.iter();
        let copies = copies.map(
            |(path, len_bytes, made_ms)| json!({ "file": path, "len_bytes": len_bytes, "made_ms": made_ms }),
        );
        say_json(&copies.collect());
    } else if copies.is_empty() {
        let text = format!(
            "There are none in {}: a server makes one every day. Make a whole back-up with `reflash backup create DIR`.",
            folder.display()
        );
        let _ = say(&sentence(&text));
    } else {
        let mut table = Table::new(&[("MADE", 10), ("SIZE", 8), ("FILE", 24)]);
        for (path, len_bytes, made_ms) in &copies {
            table.row([ago(*made_ms), sized(*len_bytes), path.display().to_string()]);
        }
        // A path that is cut off is of no use.
        let _ = say(&table.in_width(None));
    }
    Ok(Exit::Done)
}

/// What a restore will replace, and where that is kept.
fn planned(state: &Path, backup: &Path) -> Result<String, Trouble> {
    let (into, from) = (state.display(), backup.display());
    if !state.join(DATABASE).exists() {
        return Ok(format!("This brings {from} to {into}, where no database is."));
    }
    let kept = store::next_aside(state).map_err(|error| failed("Looking into", state, &error))?;
    let others = if backup.is_dir() {
        ", and all other files there that differ"
    } else {
        "; images and keys stay as they are"
    };
    Ok(format!(
        "This replaces the database in {into} by that of {from}{others}. What is there now is kept in {}.",
        kept.display()
    ))
}

async fn restore(state: &Path, backup: &Path, json: bool) -> Result<Exit, Trouble> {
    let whole = backup.is_dir();
    let database = if whole {
        backup.join(DATABASE)
    } else {
        backup.to_owned()
    };
    if !database.is_file() {
        return Err(Trouble::new(
            Exit::NotFound,
            format!("There is no back-up in {}.", backup.display()),
            "Name a folder that `reflash backup create` made, or a file of `reflash backup list`.",
        ));
    }
    let restored = Store::restore(state, &database).await.map_err(|error| {
        Trouble::new(
            Exit::Failed,
            sentence(&chain(&error)),
            "What was there is as it was, unless a file could not be written: then do it again.",
        )
    })?;
    let mut aside = restored.aside;
    if whole {
        let kept = match &aside {
            Some(folder) => folder.clone(),
            None => state.join("replaced-files"),
        };
        let copied = copy_files(backup, state, Some(&kept)).map_err(|error| {
            let mut trouble = failed(
                "The database is restored, the other files are not; copying",
                backup,
                &error,
            );
            "Make room, then restore once more.".clone_into(&mut trouble.next_step);
            trouble
        })?;
        if copied.aside > 0 {
            aside = Some(kept);
        }
    }
    if json {
        say_json(&json!({ "state": state, "restored": backup, "kept_aside": aside }));
    } else {
        let mut text = sentence(&format!(
            "{} is as it was when the back-up was made. Start the server: reflash serve.",
            state.display()
        ));
        if let Some(aside) = aside {
            text += &fact_in(2, "kept aside", &safe(&aside.display().to_string()));
        }
        if !whole {
            text += &sentence(
                "Only the database came back; images and keys are those that were there. What devices were made to run since \
                then is found out by looking at them.",
            );
        }
        let _ = say(&text);
    }
    Ok(Exit::Done)
}

/// What was copied.
#[derive(Debug, Default)]
struct Copied {
    files: usize,
    bytes: u64,
    /// Files that were there with other bytes, and are now in the folder for them.
    aside: usize,
}

/// Copies what is beside the database: the files of the folder, and the images.
///
/// With a folder to put things aside in, files that are there and differ go there first; without one there are none.
fn copy_files(from: &Path, to: &Path, aside: Option<&Path>) -> io::Result<Copied> {
    let mut copied = Copied::default();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_file = entry.file_type()?.is_file();
        if is_file && is_kept(&name.to_string_lossy()) {
            copy(&entry.path(), &to.join(&name), aside, &mut copied)?;
        }
    }
    let images = from.join(IMAGES);
    if images.is_dir() {
        copy_folder(&images, &to.join(IMAGES), &mut copied)?;
    }
    sync(to)?;
    Ok(copied)
}

/// Whether a file of a state folder belongs into a back-up: not the database, which is copied as one, and no locks.
fn is_kept(name: &str) -> bool {
    let is_database = name.starts_with(DATABASE);
    let is_lock = Path::new(name)
        .extension()
        .is_some_and(|extension| extension == "lock");
    !is_database && !is_lock && !name.starts_with(UNFINISHED) && !name.starts_with("restoring")
}

fn copy_folder(from: &Path, to: &Path, copied: &mut Copied) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_folder(&path, &to.join(&name), copied)?;
        } else if kind.is_file() && is_kept(&name.to_string_lossy()) {
            match copy(&path, &to.join(&name), None, copied) {
                // A server may have removed an image meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
    }
    sync(to)
}

/// Copies one file, whole or not at all, readable by this user alone; one that is the same stays.
fn copy(from: &Path, to: &Path, aside: Option<&Path>, copied: &mut Copied) -> io::Result<()> {
    let bytes = fs::read(from)?;
    if to.is_file() && fs::read(to)? == bytes {
        return Ok(());
    }
    if let (Some(aside), true, Some(name)) = (aside, to.is_file(), to.file_name()) {
        DirBuilder::new().recursive(true).mode(0o700).create(aside)?;
        fs::rename(to, aside.join(name))?;
        copied.aside += 1;
    }
    let mut part = to.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)?;
    io::Write::write_all(&mut file, &bytes)?;
    file.sync_all()?;
    fs::rename(&part, to)?;
    copied.files += 1;
    copied.bytes += bytes.len() as u64;
    Ok(())
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
