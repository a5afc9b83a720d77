//! Which devices are to be updated, and by which rules: the options that planning and updating share.

use std::time::Duration;

use server::views::{DeviceView, PlanView, RolloutKind, WantedRollout};

use super::client::{Ask, Client, ServerArguments, read, waiting};
use super::{allow, device, duration, span};
use crate::error::Trouble;

/// How long a plan may take: a thousand devices are read from memory, but their images from disk. Guess.
const PLAN_WITHIN: Duration = Duration::from_mins(2);

/// The devices.
#[derive(clap::Args)]
#[group(skip)]
pub(super) struct Which {
    /// The devices: their keys, names or addresses.
    #[arg(value_name = "DEVICE", conflicts_with = "all", required_unless_present_any = ["all", "tag"])]
    devices: Vec<String>,
    /// Every enrolled device.
    #[arg(long)]
    all: bool,
    /// Leave this device out; may be given again.
    #[arg(long, value_name = "D")]
    exclude: Vec<String>,
    /// Only devices with this tag, or with one of these if it is given again.
    #[arg(long, value_name = "T")]
    tag: Vec<String>,
    /// The image: a version, a name, a SHA-256 or a file name; otherwise the newest of each device.
    #[arg(long, value_name = "F")]
    firmware: Option<String>,
}

/// The rules.
#[derive(clap::Args)]
#[group(skip)]
pub(super) struct Rules {
    /// Also where it is installed already.
    #[arg(long)]
    force: bool,
    /// Override one refusal by its name, or all that can be with `any`.
    #[arg(long, value_name = "RULE", value_parser = allow::rule)]
    allow: Vec<String>,
    /// How many devices go first, alone; 0 for none.
    #[arg(long, value_name = "N")]
    canary: Option<u32>,
    /// How many at the same time: a number, or `auto` for as many as the network takes.
    #[arg(long, value_name = "N|auto", value_parser = at_once)]
    at_once: Option<String>,
    /// How many may fail before the rest is held back: a number, or a share such as 5%.
    #[arg(long, value_name = "N|N%", value_parser = max_failures)]
    max_failures: Option<String>,
    /// How long a device must stay up after its update.
    #[arg(long, value_name = "D", value_parser = duration)]
    soak: Option<Duration>,
    /// How long the first ones must, before the others begin.
    #[arg(long, value_name = "D", value_parser = duration)]
    canary_soak: Option<Duration>,
    /// For how long devices that are offline may come back and are updated then, such as 12h; otherwise they are left out.
    #[arg(long, value_name = "D", value_parser = span)]
    when_back: Option<Duration>,
    /// Begin only while this window is open.
    #[arg(long, value_name = "NAME")]
    window: Option<String>,
    /// Only by this method, such as espota, http or mqtt; otherwise each device by its own, one after the other.
    #[arg(long, value_name = "M")]
    method: Option<String>,
}

fn at_once(text: &str) -> Result<String, String> {
    match text {
        "auto" => Ok(text.to_owned()),
        _ if text.parse::<u32>().is_ok_and(|n| n > 0) => Ok(text.to_owned()),
        _ => Err("write a number from 1, or auto".to_owned()),
    }
}

fn max_failures(text: &str) -> Result<String, String> {
    let is_right = match text.strip_suffix('%') {
        Some(share) => share.parse::<u8>().is_ok_and(|share| share <= 100),
        None => text.parse::<u32>().is_ok(),
    };
    if is_right {
        Ok(text.to_owned())
    } else {
        Err("write a number, or a share such as 5%".to_owned())
    }
}

/// The keys of the devices that are meant, without those that were named twice.
pub(super) fn keys(devices: &[DeviceView], wanted: &[String]) -> Result<Vec<String>, Trouble> {
    let views: Vec<&DeviceView> = devices.iter().collect();
    let mut keys: Vec<String> = Vec::new();
    for wanted in wanted {
        let key = &views[device::meant(&views, wanted)?].id;
        if !keys.contains(key) {
            keys.push(key.clone());
        }
    }
    Ok(keys)
}

impl Which {
    /// What the server is asked for; the devices are looked up, so that nobody else is meant by a name than with other commands.
    pub(super) async fn wanted(&self, client: &Client) -> Result<WantedRollout, Trouble> {
        let mut wanted = WantedRollout {
            all: self.all || self.devices.is_empty(),
            tags: self.tag.clone(),
            firmware: self.firmware.clone(),
            ..WantedRollout::default()
        };
        if !self.devices.is_empty() || !self.exclude.is_empty() {
            let devices = known(client).await?;
            wanted.devices = keys(&devices, &self.devices)?;
            wanted.exclude = keys(&devices, &self.exclude)?;
        }
        Ok(wanted)
    }
}

/// The devices that the server knows.
pub(super) async fn known(client: &Client) -> Result<Vec<DeviceView>, Trouble> {
    let devices = device::devices(client).await?;
    Ok(devices.into_iter().map(|(_, device)| device).collect())
}

impl Rules {
    /// Puts the rules into what the server is asked for.
    pub(super) fn put_into(&self, wanted: &mut WantedRollout) {
        wanted.force = self.force;
        wanted.allow.clone_from(&self.allow);
        wanted.canary = self.canary;
        wanted.at_once.clone_from(&self.at_once);
        wanted.max_failures.clone_from(&self.max_failures);
        wanted.soak_s = self.soak.map(whole_seconds);
        wanted.canary_soak_s = self.canary_soak.map(whole_seconds);
        wanted.when_back_s = self.when_back.map(whole_seconds);
        wanted.window.clone_from(&self.window);
        wanted.method.clone_from(&self.method);
    }
}

/// At least as long as was asked for.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// What the server would do, as it tells it and as it is read.
pub(super) async fn planned(
    client: &Client,
    server: &ServerArguments,
    wanted: &WantedRollout,
) -> Result<(serde_json::Value, PlanView), Trouble> {
    let ask = Ask::post(["plans"]).json(&body(wanted)).within(PLAN_WITHIN);
    let value = waiting(server, "planning…", client.ask(ask)).await?;
    let plan = read(&value)?;
    Ok((value, plan))
}

/// What is wanted as JSON, without what is left to the server's policy.
pub(super) fn body(wanted: &WantedRollout) -> serde_json::Value {
    let mut body = serde_json::to_value(wanted).unwrap_or_default();
    if let Some(fields) = body.as_object_mut() {
        let empty = serde_json::to_value(WantedRollout::default()).unwrap_or_default();
        fields.retain(|name, value| name == "kind" || empty.get(name) != Some(value));
    }
    body
}

/// Back to an earlier image.
pub(super) fn rollback(devices: Vec<String>, to: Option<String>) -> WantedRollout {
    WantedRollout {
        devices,
        kind: RolloutKind::Rollback,
        firmware: to,
        ..WantedRollout::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_said_is_sent() {
        assert_eq!(
            body(&rollback(vec!["a".to_owned()], None)),
            serde_json::json!({ "devices": ["a"], "kind": "rollback" })
        );
    }

    #[test]
    fn a_time_is_never_made_shorter() {
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::from_mins(2)), 120);
    }
}
