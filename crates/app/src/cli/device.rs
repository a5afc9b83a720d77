//! `reflash device`.

mod words;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use model::inventory::State;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use server::views::{DeviceView, HealthView};

use super::client::{Ask, Client, ServerArguments, answer, nothing_to_do, read, waiting};
use super::confirm::Confirmation;
use super::nearest::{meant_by, nearest, one_of};
use super::secret::{self, PasswordArguments};
use super::show::{counted, safe, sentence};
use super::{say, say_json};
use crate::error::{Exit, Trouble};
use words::{covered, device_table, fared, listed, shown};

/// How long a scan may take: a /16 at 400 new addresses a second takes less than three minutes (DESIGN.md section 3).
const SCAN_WITHIN: Duration = Duration::from_mins(10);
/// How long it may take when a device is asked on the way.
const ASKING_WITHIN: Duration = Duration::from_mins(2);

#[derive(clap::Args)]
#[command(
    after_help = "DEVICE is a key, a name, an address, or the beginning of a key that only one device has.\n\n\
    Examples:\n  reflash device list\n  reflash device show \"Living Room IR\"\n  reflash device enroll --all"
)]
pub(crate) struct DeviceArguments {
    #[command(subcommand)]
    command: DeviceCommand,
    #[command(flatten)]
    pub(crate) server: ServerArguments,
}

#[derive(clap::Subcommand)]
enum DeviceCommand {
    /// List the devices that are known.
    #[command(
        after_help = "Examples:\n  reflash device list --state offline\n  reflash device list --tag upstairs --wide"
    )]
    List(ListArguments),
    /// Say all that is known of one device.
    #[command(after_help = "Example:\n  reflash device show a0b1c2d3e4f5")]
    Show(OneDevice),
    /// Add a device by its address or host name; that enrols it.
    #[command(
        after_help = "Examples:\n  reflash device add 192.168.1.40 --name \"Living Room IR\"\n  \
        reflash device add 192.168.1.60 --family komfovent --username user --password-env UNIT_PASSWORD"
    )]
    Add(Box<AddArguments>),
    /// Forget a device; its jobs stay in the history.
    #[command(after_help = "Example:\n  reflash device remove \"Living Room IR\" --yes")]
    Remove(RemoveArguments),
    /// Enrol devices: only an enrolled one gets a password answer or an image.
    #[command(
        after_help = "Examples:\n  reflash device enroll a0b1c2d3e4f5 kitchen\n  reflash device enroll --all"
    )]
    Enroll(EnrollArguments),
    /// Take the enrolment back: the device is still watched, and nothing is sent to it.
    #[command(after_help = "Example:\n  reflash device unenroll kitchen")]
    Unenroll(OneDevice),
    /// Keep a device at one version.
    #[command(after_help = "Example:\n  reflash device pin kitchen 1.4.2")]
    Pin(VersionArguments),
    /// Let a device have new versions again.
    #[command(after_help = "Example:\n  reflash device unpin kitchen")]
    Unpin(OneDevice),
    /// Leave one version out for a device.
    #[command(after_help = "Example:\n  reflash device skip kitchen 2.0.0")]
    Skip(VersionArguments),
    /// Offer versions again that were left out: one, or all of them.
    #[command(after_help = "Example:\n  reflash device unskip kitchen 2.0.0")]
    Unskip(UnskipArguments),
    /// Look for devices in the configured networks now, and say what that covered.
    #[command(after_help = "Example:\n  reflash device scan")]
    Scan,
    /// Name a device; an empty name takes the name away.
    #[command(after_help = "Example:\n  reflash device name a0b1c2d3e4f5 \"Living Room IR\"")]
    Name(NameArguments),
    /// Add tags (T or +T) and take tags away (-T).
    #[command(after_help = "Example:\n  reflash device tag kitchen +downstairs -new")]
    Tag(TagArguments),
    /// Say what a device does not tell: its group, chip, slot and the name to log in with; an empty text takes it away.
    #[command(after_help = "Example:\n  reflash device set kitchen --group attic --slot-bytes 1900544")]
    Set(SetArguments),
    /// Tell the server a device's password, or have it forgotten.
    #[command(after_help = "Examples:\n  reflash device password kitchen\n  \
        reflash device password kitchen --password-file kitchen.txt")]
    Password(PasswordOf),
    /// Let a new device take the place of broken hardware: name, tags, pin, password and enrolment.
    #[command(after_help = "Example:\n  reflash device replace kitchen a0b1c2d3e4f6")]
    Replace(ReplaceArguments),
    /// Show how a device has fared: memory, uptime, signal, restarts.
    #[command(after_help = "Example:\n  reflash device health kitchen --since 6h")]
    Health(HealthArguments),
    /// Turn on or off that a device takes updates.
    #[command(after_help = "Example:\n  reflash device ota on kitchen")]
    Ota(OtaArguments),
}

#[derive(clap::Args)]
struct OneDevice {
    /// The device: its key, name or address, or the beginning of its key.
    device: String,
}

#[derive(clap::Args)]
struct ListArguments {
    /// Only those of one family.
    #[arg(long, value_parser = families::NAMES)]
    family: Option<String>,
    /// Only those in one state.
    #[arg(id = "wanted_state", long = "state", value_parser = State::ALL.map(State::name))]
    state: Option<String>,
    /// Only those with this tag.
    #[arg(long, value_name = "T")]
    tag: Option<String>,
    /// Show more of each, as wide as it gets.
    #[arg(long)]
    wide: bool,
    /// Folder of the server on this machine, in which its socket is.
    // It takes the place of the server's own argument, whose name is another thing here; its value goes there.
    #[arg(id = "folder", long = "data", value_name = "DIR", help_heading = "Server")]
    _folder: Option<PathBuf>,
}

#[derive(clap::Args)]
struct AddArguments {
    /// Its address or host name (.local works).
    host: String,
    /// What to call it.
    #[arg(long, value_name = "N")]
    name: Option<String>,
    /// What kind of device it is; otherwise it is asked.
    #[arg(long, value_parser = families::NAMES)]
    family: Option<String>,
    /// Name to log in with, for families that know such a thing.
    #[arg(long, value_name = "U")]
    username: Option<String>,
    #[command(flatten)]
    password: PasswordArguments,
    /// Its chip, for devices that do not tell, such as esp32c6.
    #[arg(long, value_name = "C")]
    chip: Option<String>,
    /// Largest image that its slot takes, bytes.
    #[arg(long, value_name = "N")]
    slot_bytes: Option<u64>,
}

#[derive(clap::Args)]
struct RemoveArguments {
    #[command(flatten)]
    device: OneDevice,
    #[command(flatten)]
    confirmation: Confirmation,
}

#[derive(clap::Args)]
struct EnrollArguments {
    /// The devices.
    #[arg(value_name = "DEVICE", conflicts_with = "all")]
    devices: Vec<String>,
    /// All that are known and not enrolled yet.
    #[arg(long)]
    all: bool,
}

#[derive(clap::Args)]
struct VersionArguments {
    #[command(flatten)]
    device: OneDevice,
    /// The version, or the SHA-256 of its image.
    version: String,
}

#[derive(clap::Args)]
struct UnskipArguments {
    #[command(flatten)]
    device: OneDevice,
    /// The version, or the SHA-256 of its image; all of them if it is left out.
    version: Option<String>,
}

#[derive(clap::Args)]
struct NameArguments {
    #[command(flatten)]
    device: OneDevice,
    /// Its name from now on.
    name: String,
}

#[derive(clap::Args)]
#[command(override_usage = "reflash device tag [OPTIONS] <DEVICE> <[+]TAG|-TAG>...")]
struct TagArguments {
    #[command(flatten)]
    device: OneDevice,
    /// Tags to add; -TAG takes one away.
    #[arg(value_name = "TAG", required_unless_present = "without")]
    tags: Vec<String>,
    /// What `-TAG` becomes.
    #[arg(long, hide = true)]
    without: Vec<String>,
}

/// Makes `--without=TAG` of the `-TAG` of `reflash device tag`, which would look like options.
pub(super) fn with_tags_to_remove(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    let of_devices = arguments.get(1).is_some_and(|noun| noun == "device");
    let Some(at) = arguments.iter().position(|argument| argument == "tag") else {
        return arguments;
    };
    if of_devices {
        for argument in arguments
            .iter_mut()
            .skip(at + 1)
            .take_while(|argument| *argument != "--")
        {
            let tag = argument.to_str().and_then(|text| text.strip_prefix('-'));
            if let Some(tag) = tag.filter(|tag| !tag.is_empty() && !tag.starts_with('-') && *tag != "h") {
                *argument = format!("--without={tag}").into();
            }
        }
    }
    arguments
}

#[derive(clap::Args)]
#[group(required = true, multiple = true)]
struct Facts {
    /// The group it belongs to.
    #[arg(long, value_name = "G")]
    group: Option<String>,
    /// Its chip, such as esp32c6.
    #[arg(long, value_name = "C")]
    chip: Option<String>,
    /// Largest image that its slot takes, bytes; 0 takes it away.
    #[arg(long, value_name = "N")]
    slot_bytes: Option<u64>,
    /// Name to log in with, for families that know such a thing.
    #[arg(long, value_name = "U")]
    username: Option<String>,
}

#[derive(clap::Args)]
struct SetArguments {
    #[command(flatten)]
    device: OneDevice,
    #[command(flatten)]
    facts: Facts,
}

#[derive(clap::Args)]
struct PasswordOf {
    #[command(flatten)]
    device: OneDevice,
    #[command(flatten)]
    password: PasswordArguments,
    /// Have it forgotten.
    #[arg(long, conflicts_with_all = ["password_file", "password_env"])]
    forget: bool,
}

#[derive(clap::Args)]
struct ReplaceArguments {
    /// The device that is broken.
    old: String,
    /// The device that takes its place.
    new: String,
}

#[derive(clap::Args)]
struct HealthArguments {
    #[command(flatten)]
    device: OneDevice,
    /// How far back.
    #[arg(long, value_name = "D", default_value = "24h", value_parser = super::duration)]
    since: Duration,
    /// At most so many looks, the newest.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
}

#[derive(clap::Args)]
struct OtaArguments {
    /// What it is to be.
    #[arg(value_parser = ["on", "off"])]
    state: String,
    #[command(flatten)]
    device: OneDevice,
}

/// Does what was asked of the devices.
pub(crate) async fn run(arguments: DeviceArguments) -> Result<Exit, Trouble> {
    let session = Session {
        client: Client::new(&arguments.server)?,
        server: &arguments.server,
    };
    match &arguments.command {
        DeviceCommand::List(list) => session.list(list).await,
        DeviceCommand::Show(one) => session.show(&one.device).await,
        DeviceCommand::Add(add) => session.add(add).await,
        DeviceCommand::Remove(remove) => session.remove(remove).await,
        DeviceCommand::Enroll(enroll) => session.enroll(enroll).await,
        DeviceCommand::Unenroll(one) => session.unenroll(&one.device).await,
        DeviceCommand::Pin(pin) => session.pin(&pin.device.device, Some(&pin.version)).await,
        DeviceCommand::Unpin(one) => session.pin(&one.device, None).await,
        DeviceCommand::Skip(skip) => session.skip(&skip.device.device, &skip.version).await,
        DeviceCommand::Unskip(unskip) => {
            session
                .unskip(&unskip.device.device, unskip.version.as_deref())
                .await
        }
        DeviceCommand::Scan => session.scan().await,
        DeviceCommand::Name(name) => session.name(&name.device.device, &name.name).await,
        DeviceCommand::Tag(tag) => session.tag(&tag.device.device, &tag.tags, &tag.without).await,
        DeviceCommand::Set(set) => session.set(&set.device.device, &set.facts).await,
        DeviceCommand::Password(password) => session.password(password).await,
        DeviceCommand::Replace(replace) => session.replace(&replace.old, &replace.new).await,
        DeviceCommand::Health(health) => session.health(health).await,
        DeviceCommand::Ota(ota) => session.ota(&ota.device.device, ota.state == "on").await,
    }
}

/// The devices that the server knows, as it tells them and as they are read.
pub(super) async fn devices(client: &Client) -> Result<Vec<(Value, DeviceView)>, Trouble> {
    let answer = client.ask(Ask::get(["devices"])).await?;
    let Value::Array(values) = answer else {
        return read::<Vec<DeviceView>>(&answer).map(|_| Vec::new());
    };
    values
        .into_iter()
        .map(|value| read(&value).map(|device| (value, device)))
        .collect()
}

/// The device that somebody means.
pub(super) async fn find(client: &Client, wanted: &str) -> Result<(Value, DeviceView), Trouble> {
    let mut devices = devices(client).await?;
    let views: Vec<&DeviceView> = devices.iter().map(|(_, view)| view).collect();
    let idx = meant(&views, wanted)?;
    Ok(devices.swap_remove(idx))
}

/// Which of the devices is meant: by its key, its name, its address or the beginning of its key, in this order.
pub(super) fn meant(devices: &[&DeviceView], wanted: &str) -> Result<usize, Trouble> {
    let key = wanted.to_lowercase();
    // A MAC address as most programs write it.
    let digits: String = key.chars().filter(|c| !matches!(c, ':' | '-' | '.')).collect();
    let address = wanted.parse::<IpAddr>().ok();
    let name = key.trim();
    let by_key = |device: &DeviceView| {
        device.id.to_lowercase() == key || device.mac.as_ref().is_some_and(|mac| *mac == digits)
    };
    let by_name = |device: &DeviceView| device.name.trim().to_lowercase() == name;
    let by_address = |device: &DeviceView| address.is_some() && device.address == address;
    let by_host = |device: &DeviceView| {
        device
            .host_name
            .as_ref()
            .is_some_and(|host| host.to_lowercase() == key || format!("{}.local", host.to_lowercase()) == key)
    };
    let by_beginning = |device: &DeviceView| !key.is_empty() && device.id.to_lowercase().starts_with(&key);
    let found = meant_by(
        &devices.iter().copied(),
        &[&by_key, &by_name, &by_address, &by_host, &by_beginning],
    );
    match found[..] {
        [] => Err(unknown(devices, wanted)),
        [idx] => Ok(idx),
        _ => {
            let some: Vec<String> = found
                .iter()
                .take(5)
                .map(|&idx| format!("{} ({})", devices[idx].id, devices[idx].name))
                .collect();
            let some: Vec<&str> = some.iter().map(String::as_str).collect();
            Err(Trouble::new(
                Exit::NotFound,
                format!("{} devices are meant by {wanted:?}.", found.len()),
                format!("Name one by its key: {}.", one_of(&some)),
            ))
        }
    }
}

fn unknown(devices: &[&DeviceView], wanted: &str) -> Trouble {
    let names = devices
        .iter()
        .flat_map(|device| [device.name.as_str(), device.id.as_str()]);
    let near = nearest(wanted, names);
    Trouble::new(
        Exit::NotFound,
        format!("No device {wanted:?} is known."),
        if devices.is_empty() {
            "No device is known at all yet: look for some with `reflash device scan`, or add one with \
            `reflash device add HOST`."
                .to_owned()
        } else if near.is_empty() {
            "See which there are: reflash device list.".to_owned()
        } else {
            format!("Perhaps you mean {}.", one_of(&near))
        },
    )
}

/// One command that talks to one server.
struct Session<'a> {
    client: Client,
    server: &'a ServerArguments,
}

impl Session<'_> {
    async fn list(&self, wanted: &ListArguments) -> Result<Exit, Trouble> {
        let all = devices(&self.client).await?;
        let n_all = all.len();
        let (values, devices): (Vec<Value>, Vec<DeviceView>) = all
            .into_iter()
            .filter(|(_, device)| wanted.covers(device))
            .unzip();
        answer(self.server, &Value::Array(values), || {
            Ok(listed(&devices, n_all, wanted.wide))
        })
    }

    async fn show(&self, wanted: &str) -> Result<Exit, Trouble> {
        let (_, device) = find(&self.client, wanted).await?;
        // The list may leave out what only a look at one device tells.
        let value = self.client.ask(Ask::get(["devices", &device.id])).await?;
        answer(self.server, &value, || Ok(shown(&read(&value)?)))
    }

    async fn add(&self, add: &AddArguments) -> Result<Exit, Trouble> {
        let password = add.password.read()?;
        let body = json!({
            "host": add.host,
            "name": add.name,
            "family": add.family,
            "username": add.username,
            "password": password.as_ref().map(secrecy::SecretBox::expose_secret),
            "chip": add.chip,
            "slot_bytes": add.slot_bytes,
        });
        let ask = Ask::post(["devices"])
            .json(&without_nulls(body))
            .within(ASKING_WITHIN);
        let value = waiting(self.server, "asking the device…", self.client.ask(ask)).await?;
        answer(self.server, &value, || {
            let device: DeviceView = read(&value)?;
            let mut text = sentence(&format!("{} is known and enrolled.", full_name(&device)));
            text += &shown(&device);
            Ok(text)
        })
    }

    async fn remove(&self, remove: &RemoveArguments) -> Result<Exit, Trouble> {
        let (_, device) = find(&self.client, &remove.device.device).await?;
        if device.configured {
            return Err(Trouble::new(
                Exit::Failed,
                format!("{} is listed in the configuration.", full_name(&device)),
                "Take it out of reflash.yaml, then let the server read that again: kill -HUP its process, or restart it.",
            ));
        }
        let question = format!("Forget {}, with its name, tags and password?", full_name(&device));
        remove.confirmation.ask(&question, self.server.json)?;
        let value = self.client.ask(Ask::delete(["devices", &device.id])).await?;
        answer(self.server, &value, || {
            Ok(sentence(&format!(
                "{} is forgotten. If it is still there, the next scan finds it as a new one.",
                full_name(&device)
            )))
        })
    }

    async fn enroll(&self, enroll: &EnrollArguments) -> Result<Exit, Trouble> {
        if enroll.devices.is_empty() && !enroll.all {
            return Err(Trouble::new(
                Exit::Usage,
                "No device was named.",
                "Name those that are yours, or enrol all with `reflash device enroll --all`.",
            ));
        }
        let all = devices(&self.client).await?;
        let views: Vec<&DeviceView> = all.iter().map(|(_, view)| view).collect();
        let chosen: Vec<usize> = if enroll.all {
            (0..all.len()).collect()
        } else {
            let mut chosen = Vec::new();
            for wanted in &enroll.devices {
                let idx = meant(&views, wanted)?;
                if !chosen.contains(&idx) {
                    chosen.push(idx);
                }
            }
            chosen
        };
        let new: Vec<&DeviceView> = chosen
            .iter()
            .map(|&idx| views[idx])
            .filter(|device| !device.enrolled)
            .collect();
        if new.is_empty() {
            let known: Vec<Value> = chosen.iter().map(|&idx| all[idx].0.clone()).collect();
            let words = match &chosen[..] {
                [] => "No device is known yet: look for some with `reflash device scan`.".to_owned(),
                [idx] => format!("{} is enrolled already.", full_name(views[*idx])),
                _ => "All of them are enrolled already.".to_owned(),
            };
            return Ok(nothing_to_do(self.server, &Value::Array(known), &words));
        }
        let keys: Vec<&str> = new.iter().map(|device| device.id.as_str()).collect();
        let ask = Ask::post(["devices", "enroll"]).json(&json!({ "devices": keys }));
        let value = self.client.ask(ask).await?;
        answer(self.server, &value, || {
            let mut text = sentence(&format!("{} enrolled:", counted(new.len(), "device")));
            for device in &new {
                let _ = writeln!(text, "  {}", safe(&full_name(device)));
            }
            let locked: Vec<&str> = new
                .iter()
                .filter(|device| !device.has_password)
                .map(|device| device.name.as_str())
                .collect();
            if let Some(first) = locked.first() {
                text += &sentence(&format!(
                    "No password is known for {}: give it with reflash device password {first:?}.",
                    if locked.len() == 1 {
                        (*first).to_owned()
                    } else {
                        format!("{} of them", locked.len())
                    },
                ));
            }
            Ok(text)
        })
    }

    async fn unenroll(&self, wanted: &str) -> Result<Exit, Trouble> {
        let (known, device) = find(&self.client, wanted).await?;
        if !device.enrolled {
            let words = format!("{} is not enrolled.", full_name(&device));
            return Ok(nothing_to_do(self.server, &known, &words));
        }
        let value = self
            .client
            .ask(Ask::delete(["devices", &device.id, "enroll"]))
            .await?;
        answer(self.server, &value, || {
            Ok(sentence(&format!(
                "{} is not enrolled any more: it is watched, and nothing is sent to it.",
                full_name(&device)
            )))
        })
    }

    async fn pin(&self, wanted: &str, version: Option<&str>) -> Result<Exit, Trouble> {
        let (known, device) = find(&self.client, wanted).await?;
        let name = full_name(&device);
        if device.pinned.as_deref() == version {
            let words = match version {
                Some(version) => format!("{name} is pinned to {version} already."),
                None => format!("{name} is not pinned."),
            };
            return Ok(nothing_to_do(self.server, &known, &words));
        }
        let path = ["devices", &device.id, "pin"];
        let ask = match version {
            Some(version) => Ask::put(path).json(&json!({ "version": version })),
            None => Ask::delete(path),
        };
        let value = self.client.ask(ask).await?;
        answer(self.server, &value, || {
            Ok(sentence(&match version {
                Some(version) => format!("{name} stays at {version}; nothing else is offered to it."),
                None => format!("{name} gets new versions again."),
            }))
        })
    }

    async fn skip(&self, wanted: &str, version: &str) -> Result<Exit, Trouble> {
        let (known, device) = find(&self.client, wanted).await?;
        let name = full_name(&device);
        if device.skipped.iter().any(|skipped| skipped == version) {
            let words = format!("{name} leaves {version} out already.");
            return Ok(nothing_to_do(self.server, &known, &words));
        }
        let ask = Ask::put(["devices", &device.id, "skip"]).json(&json!({ "version": version }));
        let value = self.client.ask(ask).await?;
        answer(self.server, &value, || {
            Ok(sentence(&format!(
                "{name} leaves {version} out; the next version is offered again."
            )))
        })
    }

    async fn unskip(&self, wanted: &str, version: Option<&str>) -> Result<Exit, Trouble> {
        let (known, device) = find(&self.client, wanted).await?;
        let name = full_name(&device);
        let is_skipped = match version {
            Some(version) => device.skipped.iter().any(|skipped| skipped == version),
            None => !device.skipped.is_empty(),
        };
        if !is_skipped {
            let words = match version {
                Some(version) => format!("{name} does not leave {version} out."),
                None => format!("{name} leaves no version out."),
            };
            return Ok(nothing_to_do(self.server, &known, &words));
        }
        let ask = Ask::delete(["devices", &device.id, "skip"]).maybe("version", version);
        let value = self.client.ask(ask).await?;
        answer(self.server, &value, || {
            Ok(sentence(&match version {
                Some(version) => format!("{version} is offered to {name} again, where it fits."),
                None => format!("Every version is offered to {name} again, where it fits."),
            }))
        })
    }

    async fn scan(&self) -> Result<Exit, Trouble> {
        let before = devices(&self.client).await?;
        let ask = Ask::post(["discovery", "scan"]).within(SCAN_WITHIN);
        let scanned = waiting(self.server, "scanning the networks…", self.client.ask(ask)).await;
        let value = scanned.map_err(|mut trouble| {
            // There is no wrong way to write this: what is missing is in the configuration.
            if trouble.exit == Exit::Usage {
                trouble.exit = Exit::Failed;
            }
            trouble
        })?;
        if self.server.json {
            say_json(&value);
            return Ok(Exit::Done);
        }
        let mut text = sentence(&covered(&read(&value)?));
        let after = devices(&self.client).await?;
        let new: Vec<DeviceView> = after
            .into_iter()
            .map(|(_, device)| device)
            .filter(|device| before.iter().all(|(_, known)| known.id != device.id))
            .collect();
        if new.is_empty() {
            text += &sentence("No new device was found.");
        } else {
            text += &sentence(&format!("{} found:", counted(new.len(), "new device")));
            text += &device_table(&new, false);
            if new.iter().any(|device| !device.enrolled) {
                text += &sentence("Enrol those that are yours: reflash device enroll DEVICE… or --all.");
            }
        }
        let _ = say(&text);
        Ok(Exit::Done)
    }

    async fn name(&self, wanted: &str, name: &str) -> Result<Exit, Trouble> {
        let (known, device) = find(&self.client, wanted).await?;
        let name = Some(name.trim()).filter(|name| !name.is_empty());
        let now = Some(device.name.as_str()).filter(|_| device.named);
        if now == name {
            let words = match name {
                Some(name) => format!("{} is called {name} already.", device.id),
                None => format!("{} has no name of its own.", device.id),
            };
            return Ok(nothing_to_do(self.server, &known, &words));
        }
        let value = self.change(&device, &json!({ "name": name })).await?;
        answer(self.server, &value, || {
            let device: DeviceView = read(&value)?;
            Ok(sentence(&format!("{} is called {} now.", device.id, device.name)))
        })
    }

    async fn tag(&self, wanted: &str, more: &[String], without: &[String]) -> Result<Exit, Trouble> {
        let (known, device) = find(&self.client, wanted).await?;
        let tags = tagged(&device.tags, more, without)?;
        let mut before = device.tags.clone();
        before.sort();
        if tags == before {
            let words = format!("{} has these tags already.", full_name(&device));
            return Ok(nothing_to_do(self.server, &known, &words));
        }
        let value = self.change(&device, &json!({ "tags": tags })).await?;
        answer(self.server, &value, || {
            let device: DeviceView = read(&value)?;
            Ok(sentence(&if device.tags.is_empty() {
                format!("{} has no tags now.", full_name(&device))
            } else {
                format!(
                    "{} has the tags {} now.",
                    full_name(&device),
                    device.tags.join(", ")
                )
            }))
        })
    }

    async fn set(&self, wanted: &str, facts: &Facts) -> Result<Exit, Trouble> {
        let (_, device) = find(&self.client, wanted).await?;
        let mut change = json!({});
        for (field, value) in [
            ("group", &facts.group),
            ("chip", &facts.chip),
            ("username", &facts.username),
        ] {
            if let Some(value) = value {
                change[field] = json!(Some(value.trim()).filter(|value| !value.is_empty()));
            }
        }
        if let Some(slot_bytes) = facts.slot_bytes {
            change["slot_bytes"] = json!(Some(slot_bytes).filter(|n| *n > 0));
        }
        let value = self.change(&device, &change).await?;
        answer(self.server, &value, || Ok(shown(&read(&value)?)))
    }

    async fn change(&self, device: &DeviceView, change: &Value) -> Result<Value, Trouble> {
        self.client
            .ask(Ask::patch(["devices", &device.id]).json(change))
            .await
    }

    async fn password(&self, arguments: &PasswordOf) -> Result<Exit, Trouble> {
        let (known, device) = find(&self.client, &arguments.device.device).await?;
        let name = full_name(&device);
        let password = if arguments.forget {
            if !device.has_password {
                let words = format!("No password of {name} is known.");
                return Ok(nothing_to_do(self.server, &known, &words));
            }
            None
        } else if arguments.password.is_given() {
            arguments.password.read()?
        } else if std::io::stdin().is_terminal() && !self.server.json {
            secret::prompt(&name)?
        } else {
            return Err(Trouble::new(
                Exit::Usage,
                "There is no terminal to ask for the password on.",
                "Give it with --password-file F or --password-env VAR, or have it forgotten with --forget.",
            ));
        };
        if password.is_none() && !arguments.forget {
            return Err(Trouble::new(
                Exit::Usage,
                "The password is empty.",
                "Give one, or have it forgotten with --forget.",
            ));
        }
        let body = json!({ "password": password.as_ref().map(secrecy::SecretBox::expose_secret) });
        let ask = Ask::put(["devices", &device.id, "password"]).json(&body);
        let value = self.client.ask(ask).await?;
        answer(self.server, &value, || {
            Ok(sentence(&if arguments.forget {
                format!("The password of {name} is forgotten.")
            } else {
                format!("The password of {name} is kept, encrypted; it is used when the device asks for it.")
            }))
        })
    }

    async fn replace(&self, old: &str, new: &str) -> Result<Exit, Trouble> {
        let all = devices(&self.client).await?;
        let views: Vec<&DeviceView> = all.iter().map(|(_, view)| view).collect();
        let (old, new) = (views[meant(&views, old)?], views[meant(&views, new)?]);
        if old.id == new.id {
            return Err(Trouble::new(
                Exit::Usage,
                format!("Both mean {}.", full_name(old)),
                "Name the broken device first, then the one that takes its place.",
            ));
        }
        let ask = Ask::post(["devices", &old.id, "replace"]).json(&json!({ "by": new.id }));
        let value = self.client.ask(ask).await?;
        answer(self.server, &value, || {
            Ok(sentence(&format!(
                "{} has taken the place of {}: name, tags, group, pin, skips, password and enrolment.",
                new.id,
                full_name(old)
            )))
        })
    }

    async fn health(&self, arguments: &HealthArguments) -> Result<Exit, Trouble> {
        let (_, device) = find(&self.client, &arguments.device.device).await?;
        let since_ms = i64::try_from(arguments.since.as_millis()).unwrap_or(i64::MAX);
        let since_ms = engine::Clock.now().wall_ms.saturating_sub(since_ms).max(0);
        let ask = Ask::get(["devices", &device.id, "health"])
            .query("since_ms", since_ms.to_string())
            .query("limit", arguments.limit.to_string());
        let value = self.client.ask(ask).await?;
        answer(self.server, &value, || {
            let looks: Vec<HealthView> = read(&value)?;
            Ok(fared(&device, &looks, arguments.since))
        })
    }

    async fn ota(&self, wanted: &str, on: bool) -> Result<Exit, Trouble> {
        let (known, device) = find(&self.client, wanted).await?;
        let name = full_name(&device);
        let word = if on { "on" } else { "off" };
        let is_so = device.ota == if on { "enabled" } else { "disabled" };
        if device.ota_wanted == Some(on) && is_so {
            let words = format!("Updates of {name} are {word} already.");
            return Ok(nothing_to_do(self.server, &known, &words));
        }
        let ask = Ask::put(["devices", &device.id, "ota"])
            .json(&json!({ "enabled": on }))
            .within(ASKING_WITHIN);
        let value = waiting(self.server, "asking the device…", self.client.ask(ask)).await?;
        answer(self.server, &value, || {
            Ok(sentence(&format!(
                "Updates of {name} are {word}, and are made so again whenever it restarts."
            )))
        })
    }
}

impl ListArguments {
    fn covers(&self, device: &DeviceView) -> bool {
        let family = self.family.as_ref().is_none_or(|family| *family == device.family);
        let state = self
            .state
            .as_ref()
            .is_none_or(|state| state == device.state.name());
        let tag = self
            .tag
            .as_ref()
            .is_none_or(|tag| device.tags.iter().any(|known| known == tag));
        family && state && tag
    }
}

/// A body without what was not given, so that the server's own defaults hold.
pub(super) fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, field| !field.is_null());
    }
    value
}

/// A device by its name and its key.
pub(super) fn full_name(device: &DeviceView) -> String {
    if device.name == device.id {
        device.id.clone()
    } else {
        format!("{} ({})", device.name, device.id)
    }
}

/// The tags after these changes.
fn tagged(tags: &[String], more: &[String], without: &[String]) -> Result<Vec<String>, Trouble> {
    let mut tags = tags.to_vec();
    for tag in more {
        let tag = tag.strip_prefix('+').unwrap_or(tag);
        if tag.is_empty() || tag.starts_with(['-', '+']) || without.iter().any(|gone| gone == tag) {
            return Err(Trouble::new(
                Exit::Usage,
                format!("{tag:?} is no tag to add."),
                "Add a tag with T or +T, take it away with -T, and not both.",
            ));
        }
        tags.push(tag.to_owned());
    }
    tags.retain(|tag| !without.contains(tag));
    tags.sort();
    tags.dedup();
    Ok(tags)
}
