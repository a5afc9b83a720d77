//! `reflash firmware inspect`.

use std::path::{Path, PathBuf};

use families::Ways;
use model::device::{Device, Hardware};
use model::id::DeviceId;
use model::image::{Image, ImageInfo, Inspection, Refusal};
use model::version::Versions;
use net::{Dialer, Networks, Site};
use serde_json::{Value, json};

use super::{say, say_json, show, tell};
use crate::error::{Exit, Trouble};
use crate::push::read_image;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  reflash firmware inspect ir_remote_v2.0.0.bin --chip esp32c6")]
pub(crate) struct InspectArguments {
    /// The files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Hold them against this chip, such as esp32c6.
    #[arg(long, value_name = "CHIP")]
    chip: Option<String>,
    /// Hold them against a slot of this many bytes.
    #[arg(long, value_name = "N")]
    slot_bytes: Option<u64>,
    /// Print JSON: an object for one file, an array for several.
    #[arg(long)]
    json: bool,
}

/// Inspects; nothing here needs the network.
pub(crate) fn run(arguments: &InspectArguments) -> Exit {
    let mut worst = Exit::Done;
    let mut reports = Vec::new();
    for path in &arguments.files {
        let image = match read_image(path) {
            Ok(image) => image,
            Err(trouble) => {
                worst = if worst == Exit::Done {
                    trouble.exit
                } else {
                    Exit::Failed
                };
                if arguments.json {
                    reports.push(unread(path, &trouble));
                } else {
                    tell(&trouble);
                }
                continue;
            }
        };
        let (info, refusals) = match inspect(&image, arguments) {
            Ok(found) => found,
            Err(trouble) if arguments.json => {
                worst = Exit::Failed;
                reports.push(unread(path, &trouble));
                continue;
            }
            Err(trouble) => return tell(&trouble),
        };
        if !refusals.is_empty() {
            worst = Exit::Failed;
        }
        if arguments.json {
            reports.push(report(&path.to_string_lossy(), &image, &info, &refusals));
        } else {
            let _ = say(&show::inspection(
                &path.to_string_lossy(),
                &image,
                &info,
                &refusals,
            ));
        }
    }
    if arguments.json {
        let value = if reports.len() == 1 {
            reports.remove(0)
        } else {
            Value::Array(reports)
        };
        say_json(&value);
    }
    worst
}

/// Asks the families; the first that takes the file answers for it, else the first that knows what it is.
fn inspect(image: &Image, arguments: &InspectArguments) -> Result<(ImageInfo, Vec<Refusal>), Trouble> {
    let site = Site {
        dialer: Dialer::new(Networks::new([]), None).into(),
        callback: None,
        pull: None,
    };
    let mut refused = None;
    for family in families::all(&site, &Ways::default()) {
        let (info, mut refusals) = match family.inspect(image) {
            Inspection::NotMine => continue,
            Inspection::Accepted(info) => (info, Vec::new()),
            Inspection::Refused(info, refusals) => (info, refusals),
        };
        if arguments.chip.is_some() || arguments.slot_bytes.is_some() {
            let device = Device {
                id: DeviceId::weak(&family.id(), "described"),
                address: std::net::IpAddr::from([0, 0, 0, 0]),
                // Without a chip named the image's own is taken: only the slot is then held against it.
                hardware: Hardware {
                    chip: arguments.chip.clone().or_else(|| info.chip.clone()),
                    ..Hardware::default()
                },
                slot_bytes: arguments.slot_bytes,
                versions: Versions::default(),
            };
            let known: Vec<String> = refusals.iter().map(|refusal| refusal.rule.clone()).collect();
            let more = family.accepts(&device, &info, image);
            refusals.extend(more.into_iter().filter(|refusal| !known.contains(&refusal.rule)));
        }
        if refusals.is_empty() {
            return Ok((info, refusals));
        }
        refused.get_or_insert((info, refusals));
    }
    refused.ok_or_else(|| {
        Trouble::new(
            Exit::Failed,
            "No family knows this kind of file.",
            "Choose the firmware image of the device.",
        )
    })
}

/// What is reported of a file that could not be inspected.
fn unread(path: &Path, trouble: &Trouble) -> Value {
    json!({
        "file": path.to_string_lossy(), "accepted": false, "error": trouble.what, "next_step": trouble.next_step,
    })
}

fn report(path: &str, image: &Image, info: &ImageInfo, refusals: &[Refusal]) -> Value {
    let version = show::version_of(info);
    json!({
        "file": path,
        "sha256": image.sha256(),
        "md5": image.md5().to_string(),
        "len_bytes": image.len_bytes(),
        "family": info.family,
        "kind": info.kind,
        "chip": info.chip,
        "version": version.as_ref().map(|(version, _)| version),
        "version_source": version.as_ref().map(|(_, source)| source),
        "project": info.project,
        "signature": info.signature,
        "accepted": refusals.is_empty(),
        "refusals": refusals.iter().map(|refusal| json!({
            "rule": refusal.rule, "text": refusal.text, "next_step": refusal.next_step,
        })).collect::<Vec<_>>(),
        "warnings": info.warnings,
    })
}
