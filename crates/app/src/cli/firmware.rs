//! `reflash firmware`: what the server keeps. `reflash firmware inspect`, which needs no server, is a file of its own.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::firmware::State;
use serde_json::{Value, json};
use server::views::{FeedView, FirmwareListView, FirmwareView};

use super::client::{Ask, Client, ServerArguments, answer, nothing_to_do, read, waiting};
use super::confirm::Confirmation;
use super::device;
use super::inspect::InspectArguments;
use super::nearest::{meant_by, nearest, one_of};
use super::show::{ago, counted, fact_in, grouped, safe, sentence, sized, wrapped};
use super::table::{Table, WIDTH};
use crate::error::{Exit, Trouble};
use crate::push::read_image;

/// How long a look at the vendors' downloads may take: 10 MB at the pace of a slow line. Guess.
const CHECK_WITHIN: Duration = Duration::from_mins(10);
/// How long the upload of an image may take. Guess: 16 MiB over a bad wireless network.
const UPLOAD_WITHIN: Duration = Duration::from_mins(5);
/// The longest release notes that are sent, bytes.
const MAX_NOTES_LEN: u64 = 64 * 1024;
/// Files of the folder that are named when they are left out; JSON has all.
const N_IGNORED_SHOWN: usize = 5;
/// Digits that name an image when they begin no other.
const MIN_DIGITS: usize = 4;
/// Digits that approve an image that anybody could have exchanged: as many as lists show.
const MIN_DIGITS_TO_TRUST: usize = 8;

#[derive(clap::Args)]
#[command(
    after_help = "FIRMWARE is a SHA-256 or its beginning, a version, or a file name.\n\n\
    Examples:\n  reflash firmware inspect ir_remote_v2.0.0.bin --chip esp32c6\n  \
    reflash firmware add ir_remote_v2.0.0.bin\n  reflash firmware list"
)]
pub(crate) struct FirmwareArguments {
    #[command(subcommand)]
    command: FirmwareCommand,
}

#[derive(clap::Subcommand)]
enum FirmwareCommand {
    /// Say what a file is, and whether it may be pushed; this needs no server.
    Inspect(InspectArguments),
    /// List the firmware that the server keeps.
    #[command(
        after_help = "Examples:\n  reflash firmware list\n  reflash firmware list --only waiting --wide"
    )]
    List(ListArguments),
    /// Say all that is known of one image.
    #[command(after_help = "Example:\n  reflash firmware show 2.0.0")]
    Show(OneFirmware),
    /// Give the server an image.
    #[command(
        after_help = "Examples:\n  reflash firmware add ir_remote_v2.0.0.bin --notes CHANGES.md\n  \
        reflash firmware add ir_remote_v1.0.0.bin --running-on kitchen"
    )]
    Add(AddArguments),
    /// Remove an image that no device runs.
    #[command(after_help = "Example:\n  reflash firmware remove 1.0.0 --yes")]
    Remove(RemoveArguments),
    /// Look at the vendors' downloads now.
    #[command(
        after_help = "Examples:\n  reflash firmware check\n  reflash firmware check komfovent --output C6.mbin"
    )]
    Check(CheckArguments),
    /// Approve an image that waits or is in quarantine, by its SHA-256.
    #[command(after_help = "Example:\n  reflash firmware approve 5a2f9c01")]
    Approve(OneFirmware),
    /// Print the release notes of an image.
    #[command(after_help = "Example:\n  reflash firmware notes 2.0.0")]
    Notes(OneFirmware),
}

#[derive(clap::Args)]
struct OneFirmware {
    /// The image: its SHA-256 or the beginning of it, its version, or its file name.
    firmware: String,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(clap::Args)]
struct ListArguments {
    /// Only those for one family.
    #[arg(long, value_parser = families::NAMES)]
    family: Option<String>,
    /// Only those in one state.
    #[arg(long, value_name = "STATE", value_parser = ["approved", "waiting", "quarantined", "blocked", "refused"])]
    only: Option<String>,
    /// Show more of each, as wide as it gets.
    #[arg(long)]
    wide: bool,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(clap::Args)]
struct AddArguments {
    /// The image.
    file: PathBuf,
    /// The device that runs just this image now: it becomes its way back.
    #[arg(long, value_name = "DEVICE")]
    running_on: Option<String>,
    /// File with its release notes (Markdown).
    #[arg(long, value_name = "F")]
    notes: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(clap::Args)]
struct RemoveArguments {
    #[command(flatten)]
    one: OneFirmware,
    #[command(flatten)]
    confirmation: Confirmation,
}

#[derive(clap::Args)]
struct CheckArguments {
    /// Only the downloads for one family.
    #[arg(value_parser = families::NAMES)]
    family: Option<String>,
    /// Also write what the download holds into this new file, or every one into this folder.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArguments,
}

impl FirmwareArguments {
    /// Whether the answer is to be JSON.
    pub(crate) fn json(&self) -> bool {
        match &self.command {
            // It tells its own errors, one for each file.
            FirmwareCommand::Inspect(_) => false,
            FirmwareCommand::List(list) => list.server.json,
            FirmwareCommand::Add(add) => add.server.json,
            FirmwareCommand::Remove(remove) => remove.one.server.json,
            FirmwareCommand::Check(check) => check.server.json,
            FirmwareCommand::Show(one) | FirmwareCommand::Approve(one) | FirmwareCommand::Notes(one) => {
                one.server.json
            }
        }
    }

    /// The inspection that was asked for, if it was one.
    pub(crate) fn inspect(&self) -> Option<&InspectArguments> {
        match &self.command {
            FirmwareCommand::Inspect(inspect) => Some(inspect),
            _ => None,
        }
    }
}

/// Does what was asked of the firmware.
pub(crate) async fn run(arguments: FirmwareArguments) -> Result<Exit, Trouble> {
    match &arguments.command {
        FirmwareCommand::Inspect(inspect) => Ok(super::inspect::run(inspect)),
        FirmwareCommand::List(arguments) => list(arguments).await,
        FirmwareCommand::Show(one) => show(one).await,
        FirmwareCommand::Add(arguments) => add(arguments).await,
        FirmwareCommand::Remove(arguments) => remove(arguments).await,
        FirmwareCommand::Check(arguments) => check(arguments).await,
        FirmwareCommand::Approve(one) => approve(one).await,
        FirmwareCommand::Notes(one) => notes(one).await,
    }
}

async fn list(arguments: &ListArguments) -> Result<Exit, Trouble> {
    let client = Client::new(&arguments.server)?;
    let mut value = client.ask(Ask::get(["firmware"])).await?;
    if let Some(images) = value["firmware"].as_array_mut() {
        let is = |image: &Value, field: &str, wanted: Option<&String>| {
            wanted.is_none_or(|wanted| image[field].as_str() == Some(wanted))
        };
        images.retain(|image| {
            is(image, "family", arguments.family.as_ref()) && is(image, "state", arguments.only.as_ref())
        });
    }
    answer(&arguments.server, &value, || {
        Ok(listed(&read(&value)?, arguments))
    })
}

async fn show(one: &OneFirmware) -> Result<Exit, Trouble> {
    let client = Client::new(&one.server)?;
    let (_, found) = find(&client, &one.firmware).await?;
    let value = client.ask(Ask::get(["firmware", &found.sha256])).await?;
    answer(&one.server, &value, || Ok(shown(&read(&value)?)))
}

async fn add(arguments: &AddArguments) -> Result<Exit, Trouble> {
    let image = read_image(&arguments.file)?;
    let notes = arguments.notes.as_deref().map(read_notes).transpose()?;
    let client = Client::new(&arguments.server)?;
    let running_on = match &arguments.running_on {
        Some(wanted) => Some(device::find(&client, wanted).await?.1),
        None => None,
    };
    let ask = Ask::post(["firmware"])
        .query("file_name", image.file_name())
        .maybe("running_on", running_on.as_ref().map(|device| device.id.as_str()))
        .bytes("application/octet-stream", image.bytes().to_vec())
        .within(UPLOAD_WITHIN);
    let mut value = waiting(&arguments.server, "sending the image…", client.ask(ask)).await?;
    if let Some(notes) = notes {
        let sha256 = image.sha256().to_string();
        let ask = Ask::put(["firmware", &sha256, "notes"]).json(&json!({ "notes": notes }));
        client.ask(ask).await?;
        value["has_notes"] = Value::Bool(true);
    }
    let added: FirmwareView = read(&value)?;
    answer(&arguments.server, &value, || {
        let mut text = shown(&added);
        if let Some(device) = &running_on {
            text += &sentence(&format!(
                "{} has a way back to this image now.",
                device::full_name(device)
            ));
        }
        Ok(text)
    })?;
    // It is kept, so that its refusal can be read; and it will not be offered.
    Ok(match added.state {
        State::Refused | State::Blocked => Exit::Failed,
        State::Approved | State::Waiting | State::Quarantined => Exit::Done,
    })
}

async fn remove(arguments: &RemoveArguments) -> Result<Exit, Trouble> {
    let one = &arguments.one;
    let client = Client::new(&one.server)?;
    let (_, found) = find(&client, &one.firmware).await?;
    let question = format!("Remove {}? No device can go back to it then.", full_name(&found));
    arguments.confirmation.ask(&question, one.server.json)?;
    let value = client.ask(Ask::delete(["firmware", &found.sha256])).await?;
    answer(&one.server, &value, || {
        Ok(sentence(&format!("{} is removed.", full_name(&found))))
    })
}

async fn check(arguments: &CheckArguments) -> Result<Exit, Trouble> {
    let client = Client::new(&arguments.server)?;
    let mut body = json!({});
    if let Some(family) = &arguments.family {
        body["family"] = json!(family);
    }
    let ask = Ask::post(["firmware", "check"]).json(&body).within(CHECK_WITHIN);
    let value = waiting(
        &arguments.server,
        "looking at the vendors' downloads…",
        client.ask(ask),
    )
    .await?;
    let feeds: Vec<FeedView> = read(&value)?;
    let mut written = String::new();
    if let Some(output) = &arguments.output {
        for (feed, path) in to_write(&feeds, output)? {
            let Some(sha256) = &feed.sha256 else { continue };
            let bytes = client
                .fetch(Ask::get(["firmware", sha256, "image"]).within(UPLOAD_WITHIN))
                .await?;
            let found = model::id::Sha256::of(&bytes).to_string();
            if found != *sha256 {
                return Err(Trouble::new(
                    Exit::Failed,
                    format!(
                        "The server sent other bytes for {}… than it named.",
                        short(sha256)
                    ),
                    "Try again; look at the server's log if it stays so.",
                ));
            }
            write_new(&path, &bytes)?;
            written += &sentence(&format!(
                "{} bytes written to {}.",
                grouped(bytes.len() as u64),
                path.display()
            ));
        }
    }
    answer(&arguments.server, &value, || Ok(checked(&feeds) + &written))?;
    Ok(if feeds.iter().any(|feed| feed.error.is_some()) {
        Exit::Failed
    } else {
        Exit::Done
    })
}

async fn approve(one: &OneFirmware) -> Result<Exit, Trouble> {
    let client = Client::new(&one.server)?;
    let (known, found) = find(&client, &one.firmware).await?;
    match found.state {
        State::Approved => {
            let words = format!("{} is approved already.", full_name(&found));
            return Ok(nothing_to_do(&one.server, &known, &words));
        }
        // A name can be given to other bytes; what is approved here are these.
        State::Quarantined
            if one.firmware.len() < MIN_DIGITS_TO_TRUST || !is_digest_of(&one.firmware, &found) =>
        {
            return Err(Trouble::new(
                Exit::Usage,
                format!(
                    "{} came by a way that anybody could have changed.",
                    full_name(&found)
                ),
                format!(
                    "Compare its SHA-256 with what the vendor says, then approve it by that: \
                    reflash firmware approve {}",
                    found.sha256
                ),
            ));
        }
        State::Waiting | State::Quarantined | State::Blocked | State::Refused => {}
    }
    let value = client
        .ask(Ask::post(["firmware", &found.sha256, "approve"]))
        .await?;
    answer(&one.server, &value, || {
        Ok(sentence(&format!(
            "{} is approved, and is offered to the devices that it fits.",
            full_name(&found)
        )))
    })
}

async fn notes(one: &OneFirmware) -> Result<Exit, Trouble> {
    let client = Client::new(&one.server)?;
    let (_, found) = find(&client, &one.firmware).await?;
    if !found.has_notes {
        return Err(Trouble::new(
            Exit::NotFound,
            format!("{} has no release notes.", full_name(&found)),
            format!(
                "Put them beside the image as {}.md, or add them: reflash firmware add FILE --notes F.",
                found
                    .file_name
                    .rsplit_once('.')
                    .map_or(found.file_name.as_str(), |(stem, _)| stem)
            ),
        ));
    }
    let value = client.ask(Ask::get(["firmware", &found.sha256, "notes"])).await?;
    answer(&one.server, &value, || {
        let notes = value["notes"].as_str().unwrap_or_default();
        let mut text: String = notes.lines().map(|line| safe(line) + "\n").collect();
        if text.is_empty() {
            text.push('\n');
        }
        Ok(text)
    })
}

/// The image that somebody means.
async fn find(client: &Client, wanted: &str) -> Result<(Value, FirmwareView), Trouble> {
    let answer = client.ask(Ask::get(["firmware"])).await?;
    let list: FirmwareListView = read(&answer)?;
    let idx = meant(&list.firmware, wanted)?;
    let view = list.firmware.into_iter().nth(idx);
    let view = view.ok_or_else(|| unknown(wanted, &[]))?;
    Ok((answer["firmware"][idx].clone(), view))
}

fn meant(images: &[FirmwareView], wanted: &str) -> Result<usize, Trouble> {
    let lower = wanted.to_lowercase();
    let by_digest = |image: &FirmwareView| image.sha256 == lower;
    let by_name = |image: &FirmwareView| image.name.to_lowercase() == lower;
    let by_file = |image: &FirmwareView| {
        image.file_name == wanted || image.also_named.iter().any(|name| name == wanted)
    };
    let by_version = |image: &FirmwareView| image.version.as_deref() == Some(wanted);
    let by_beginning = |image: &FirmwareView| is_digest_of(wanted, image);
    let found = meant_by(
        &images.iter(),
        &[&by_digest, &by_name, &by_file, &by_version, &by_beginning],
    );
    match found[..] {
        [] => Err(unknown(wanted, images)),
        [idx] => Ok(idx),
        _ => {
            let some: Vec<String> = found
                .iter()
                .take(5)
                .map(|&idx| format!("{} ({})", short(&images[idx].sha256), images[idx].file_name))
                .collect();
            let some: Vec<&str> = some.iter().map(String::as_str).collect();
            Err(Trouble::new(
                Exit::NotFound,
                format!("{} images are meant by {wanted:?}.", found.len()),
                format!(
                    "Name one by its SHA-256 or the beginning of it: {}.",
                    one_of(&some)
                ),
            ))
        }
    }
}

fn unknown(wanted: &str, images: &[FirmwareView]) -> Trouble {
    let names = images
        .iter()
        .flat_map(|image| [image.name.as_str(), image.file_name.as_str()]);
    let near = nearest(wanted, names);
    Trouble::new(
        Exit::NotFound,
        format!("No firmware {wanted:?} is kept."),
        if near.is_empty() {
            "See which there is: reflash firmware list.".to_owned()
        } else {
            format!("Perhaps you mean {}.", one_of(&near))
        },
    )
}

/// Whether this is the image's SHA-256, or enough of its beginning.
fn is_digest_of(wanted: &str, image: &FirmwareView) -> bool {
    wanted.len() >= MIN_DIGITS && image.sha256.starts_with(&wanted.to_lowercase())
}

fn short(sha256: &str) -> String {
    sha256.chars().take(8).collect()
}

fn full_name(image: &FirmwareView) -> String {
    if image.name == image.file_name {
        format!("{} (sha256 {}…)", image.name, short(&image.sha256))
    } else {
        format!(
            "{} ({}, sha256 {}…)",
            image.name,
            image.file_name,
            short(&image.sha256)
        )
    }
}

fn read_notes(path: &Path) -> Result<String, Trouble> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_NOTES_LEN + 1).read_to_string(&mut text))
        .map_err(|error| {
            Trouble::new(
                if error.kind() == std::io::ErrorKind::NotFound {
                    Exit::NotFound
                } else {
                    Exit::Failed
                },
                format!("Reading the notes in {}: {error}.", path.display()),
                "Name a text file.",
            )
        })?;
    if text.len() as u64 > MAX_NOTES_LEN {
        return Err(Trouble::new(
            Exit::Failed,
            format!("The notes in {} are longer than 64 KiB.", path.display()),
            "Shorten them.",
        ));
    }
    Ok(text)
}

/// What of the vendors' downloads is written, and where.
fn to_write<'a>(feeds: &'a [FeedView], output: &Path) -> Result<Vec<(&'a FeedView, PathBuf)>, Trouble> {
    let with_file: Vec<&FeedView> = feeds.iter().filter(|feed| feed.sha256.is_some()).collect();
    if with_file.is_empty() {
        let why = feeds.iter().find_map(|feed| feed.error.clone());
        return Err(Trouble::new(
            Exit::Failed,
            match why {
                Some(why) => format!("There is nothing to write: {why}"),
                None => "There is nothing to write: no download has brought a file.".to_owned(),
            },
            "Check the addresses of the downloads (firmware_urls in reflash.yaml) and the network.",
        ));
    }
    if output.is_dir() {
        return Ok(with_file
            .into_iter()
            .map(|feed| {
                // The name is the vendor's: only its last part, and no hidden file.
                let name = feed.filename.as_deref().unwrap_or_default();
                let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
                let name = safe(name.trim_start_matches('.'));
                let name = if name.is_empty() {
                    feed.sha256.clone().unwrap_or_default()
                } else {
                    name
                };
                (feed, output.join(name))
            })
            .collect());
    }
    match with_file[..] {
        [feed] => Ok(vec![(feed, output.to_owned())]),
        _ => Err(Trouble::new(
            Exit::Usage,
            format!(
                "There are {} files, and {} is one.",
                with_file.len(),
                output.display()
            ),
            "Name a folder that exists: --output .",
        )),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Trouble> {
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| {
            std::io::Write::write_all(&mut file, bytes)?;
            file.sync_all()
        });
    written.map_err(|error| {
        Trouble::new(
            Exit::Failed,
            format!("Writing {}: {error}.", path.display()),
            "Name a file that does not exist yet, in a folder that you may write.",
        )
    })
}

fn listed(list: &FirmwareListView, arguments: &ListArguments) -> String {
    let images = &list.firmware;
    let mut text = if images.is_empty() {
        sentence(if arguments.family.is_some() || arguments.only.is_some() {
            "No firmware is like that; `reflash firmware list` shows all."
        } else {
            "No firmware is kept yet. Add some with `reflash firmware add FILE`, or put files into firmware_path."
        })
    } else {
        let mut columns = vec![
            ("NAME", 10),
            ("FOR", 9),
            ("STATE", 11),
            ("SIZE", 7),
            ("CAME", 10),
            ("SHA256", 8),
            ("FILE", 12),
        ];
        if arguments.wide {
            columns.extend([("KIND", 7), ("SOURCE", 6), ("LATEST FOR", 10), ("RUNNING ON", 10)]);
        }
        let mut table = Table::new(&columns);
        for image in images {
            let made_for = match (&image.chip, &image.family) {
                (Some(chip), _) => chip.clone(),
                (None, Some(family)) => family.clone(),
                (None, None) => String::new(),
            };
            let mut cells = vec![
                image.name.clone(),
                made_for,
                image.state.name().to_owned(),
                sized(image.len_bytes),
                ago(image.added_ms),
                short(&image.sha256),
                image.file_name.clone(),
            ];
            if arguments.wide {
                cells.extend([
                    image.kind.clone(),
                    image.source.clone(),
                    image.latest_for.join(", "),
                    image.running_on.join(", "),
                ]);
            }
            table.row(cells);
        }
        table.in_width((!arguments.wide).then_some(WIDTH))
    };
    let mut footer = format!(
        "{} on disk: {}",
        counted(images.len(), "image"),
        sized(list.used_bytes)
    );
    if arguments.family.is_some() || arguments.only.is_some() {
        footer = format!("All firmware takes {}", sized(list.used_bytes));
    }
    if let Some(free) = list.free_bytes {
        let _ = write!(footer, ", {} free", sized(free));
    }
    text += &sentence(&(footer + "."));
    let waiting = |image: &&FirmwareView| matches!(image.state, State::Waiting | State::Quarantined);
    if let Some(image) = images.iter().find(waiting) {
        text += &sentence(&format!(
            "{} waiting for approval: reflash firmware approve {}",
            images.iter().filter(waiting).count(),
            short(&image.sha256)
        ));
    }
    for feed in &list.feeds {
        if let Some(error) = &feed.error {
            text += &sentence(&format!("The download {} failed: {error}", feed.name));
        }
    }
    if let Some(folder) = &list.folder {
        let path = if folder.path.is_empty() {
            String::new()
        } else {
            format!(" {}", folder.path)
        };
        if let Some(trouble) = &folder.trouble {
            text += &sentence(&format!("The folder{path} cannot be read: {trouble}"));
        }
        if !folder.ignored.is_empty() {
            let n_files = counted(folder.ignored.len(), "file");
            text += &sentence(&format!("{n_files} in the folder{path} left out:"));
        }
        for note in folder.ignored.iter().take(N_IGNORED_SHOWN) {
            text = text + "  " + &wrapped(&safe(&note.text), 2, WIDTH) + "\n";
        }
        let n_more = folder.ignored.len().saturating_sub(N_IGNORED_SHOWN);
        if n_more > 0 {
            let _ = writeln!(text, "  and {n_more} more");
        }
    }
    text
}

/// All that is known of an image.
fn shown(image: &FirmwareView) -> String {
    let mut text = format!("{}\n", safe(&image.name));
    let mut add = |label: &str, value: &str| text += &fact_in(2, label, &safe(value));
    add("file", &image.file_name);
    if !image.also_named.is_empty() {
        add("also", &image.also_named.join(", "));
    }
    match &image.family {
        Some(family) => add("kind", &format!("{} ({family})", image.kind)),
        None => add("kind", &image.kind),
    }
    add("length", &format!("{} bytes", grouped(image.len_bytes)));
    if let Some(chip) = &image.chip {
        add("chip", chip);
    }
    match (&image.version, image.version_source.as_str()) {
        (Some(version), "file-name") => add("version", &format!("{version} (only its file name says so)")),
        (Some(version), _) => add("version", version),
        (None, _) => add("version", "it states none"),
    }
    if let Some(project) = &image.project {
        add("project", project);
    }
    if let Some(signature) = &image.signature {
        add("signature", signature);
    }
    add("sha256", &image.sha256);
    let came = match &image.origin {
        Some(origin) => format!("{} · {} · {origin}", ago(image.added_ms), image.source),
        None => format!("{} · {}", ago(image.added_ms), image.source),
    };
    add("came", &came);
    let mut state = image.state.name().to_owned();
    if let (Some(by), Some(at)) = (&image.approved_by, image.approved_ms) {
        let _ = write!(state, " by {by}, {}", ago(at));
    }
    add("state", &state);
    for refusal in &image.refusals {
        add("refused", &format!("{} ({})", refusal.text, refusal.rule));
        add("next", &refusal.next_step);
    }
    if matches!(image.state, State::Waiting | State::Quarantined) {
        add(
            "next",
            &format!("Approve it: reflash firmware approve {}", short(&image.sha256)),
        );
    }
    for warning in &image.warnings {
        add("warning", &format!("{} ({})", warning.text, warning.rule));
    }
    if !image.latest_for.is_empty() {
        add("newest for", &image.latest_for.join(", "));
    }
    if !image.running_on.is_empty() {
        add("runs on", &image.running_on.join(", "));
    }
    if image.has_notes {
        add(
            "notes",
            &format!("reflash firmware notes {}", short(&image.sha256)),
        );
    }
    text
}

/// How the looks at the vendors' downloads went.
fn checked(feeds: &[FeedView]) -> String {
    if feeds.is_empty() {
        return sentence(
            "There is no download to look at: none belongs to a device that is known (firmware_urls in reflash.yaml).",
        );
    }
    let mut text = String::new();
    for feed in feeds {
        let _ = writeln!(text, "{}", safe(&feed.name));
        let mut add = |label: &str, value: &str| text += &fact_in(2, label, &safe(value));
        add("url", &feed.url);
        if let Some(file_name) = &feed.filename {
            add("file", file_name);
        }
        let version = |label: &str, version: [u16; 5]| {
            let [_, a, b, c, d] = version;
            format!("{label} {a}.{b}.{c}.{d}")
        };
        let versions: Vec<String> = [
            feed.controller_version
                .map(|numbers| version("controller", numbers)),
            feed.panel_version.map(|numbers| version("panel", numbers)),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !versions.is_empty() {
            add("versions", &versions.join(" · "));
        }
        if let Some(sha256) = &feed.sha256 {
            add("sha256", sha256);
        }
        match (&feed.error, feed.last_ok_at) {
            (Some(error), Some(ok)) => add("failed", &format!("{error} · the file of {} stays", ago(ok))),
            (Some(error), None) => add("failed", error),
            (None, Some(ok)) => add("checked", &ago(ok)),
            (None, None) => add("checked", "never"),
        }
    }
    text
}
