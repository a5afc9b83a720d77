//! What is said of an image when it comes: by the families, and by what is known already.

use std::sync::Arc;

use model::family::Family;
use model::firmware::State;
use model::id::Sha256;
use model::image::{Image, ImageInfo, Inspection, Override, Refusal, VersionSource};
use model::plan::QUARANTINED;
use proto::content_disposition;
use store::{FirmwareRow, Quarantine};

/// Longest release notes kept, bytes.
pub(super) const NOTES_MAX_LEN_BYTES: usize = 64 * 1024;

/// So many devices are named that an image has failed on.
const NAMED_MAX: usize = 5;

/// What the families say of a file: accepted by one is enough.
///
/// A family whose devices are never guessed takes a file only where no other does. Of those that refuse, the one that knows
/// whose file it is tells why.
pub(super) fn inspect(families: &[Arc<dyn Family>], image: &Image) -> (ImageInfo, Vec<Refusal>) {
    let mut refused: Option<(ImageInfo, Vec<Refusal>)> = None;
    let guessable_first = families
        .iter()
        .filter(|family| family.guessable())
        .chain(families.iter().filter(|family| !family.guessable()));
    for family in guessable_first {
        match family.inspect(image) {
            Inspection::NotMine => {}
            Inspection::Accepted(info) => return (info, Vec::new()),
            Inspection::Refused(info, refusals) => {
                let is_better = match &refused {
                    None => true,
                    Some((known, _)) => known.family.is_none() && info.family.is_some(),
                };
                if is_better {
                    refused = Some((info, refusals));
                }
            }
        }
    }
    refused.unwrap_or_else(|| (unknown(image), vec![nobodys()]))
}

/// The image under a name that is that of a plain file (RELIABILITY.md T17): the last component, or none worth keeping.
pub(super) fn plainly_named(image: &Image) -> Image {
    match content_disposition::last_component(image.file_name()) {
        Ok(name) if name == image.file_name() => image.clone(),
        Ok(name) => Image::new(&name, Arc::clone(image.bytes())),
        Err(_) => Image::new("unnamed", Arc::clone(image.bytes())),
    }
}

/// What is stored of an image that has come again, if that changes anything.
pub(super) fn better(known: FirmwareRow, new: FirmwareRow) -> Option<FirmwareRow> {
    let is_step_up = match (known.state, new.state) {
        // Under its right name it is no longer refused.
        (State::Refused, state) => state != State::Refused,
        (State::Quarantined | State::Waiting, State::Approved) => true,
        // What was blocked stays so, and nothing takes an approval back.
        _ => false,
    };
    is_step_up.then_some(FirmwareRow {
        added_ms: known.added_ms,
        notes: known.notes,
        ..new
    })
}

pub(super) fn first_text(refusals: &[Refusal]) -> String {
    refusals
        .first()
        .map(|refusal| refusal.text.clone())
        .unwrap_or_default()
}

fn unknown(image: &Image) -> ImageInfo {
    ImageInfo {
        family: None,
        kind: "unknown".to_owned(),
        chip: None,
        versions: None,
        version_source: VersionSource::FileName,
        hint: None,
        project: None,
        signature: None,
        len_bytes: image.len_bytes(),
        sha256: image.sha256(),
        warnings: Vec::new(),
    }
}

fn nobodys() -> Refusal {
    Refusal {
        rule: "unknown-kind".to_owned(),
        text: "No family of devices knows this kind of file.".to_owned(),
        next_step: "Give the file the name that its vendor gave it.".to_owned(),
        overriding: Override::Never,
    }
}

pub(super) fn other_bytes(file_name: &str, name: &str, other: Sha256) -> Refusal {
    Refusal {
        rule: "other-bytes".to_owned(),
        text: format!(
            "{file_name} came with other bytes than {name} ({}), which is here under this name or version.",
            other.short()
        ),
        next_step: "Ask the vendor which of the two is right before you use either.".to_owned(),
        overriding: Override::Never,
    }
}

pub(super) fn open_way() -> Refusal {
    Refusal {
        rule: "open-way".to_owned(),
        text: "It came over plain HTTP, where anybody on the way could have changed it.".to_owned(),
        next_step: "Compare its SHA-256 with the vendor's or another home's, then approve it.".to_owned(),
        overriding: Override::Possible,
    }
}

/// Why an image goes to no device any more that has failed on these.
pub(super) fn failed_too_often(name: &str, digest: Sha256, quarantine: &Quarantine) -> Refusal {
    let devices = &quarantine.devices;
    let n_devices = match devices.len() {
        1 => "1 device".to_owned(),
        n => format!("{n} devices"),
    };
    let named = match devices.as_slice() {
        [] => String::new(),
        [one] => format!(" ({one})"),
        [several @ .., last] if devices.len() <= NAMED_MAX => {
            format!(" ({} and {last})", several.join(", "))
        }
        many => {
            let (named, others) = many.split_at(NAMED_MAX);
            format!(" ({} and {} more)", named.join(", "), others.len())
        }
    };
    Refusal {
        rule: QUARANTINED.to_owned(),
        text: format!("{name} has failed on {n_devices}{named}, so it is in quarantine."),
        next_step: format!(
            "Find out why: reflash history. If it is to be installed all the same, an administrator lets it out: \
             reflash firmware approve {}.",
            digest.short()
        ),
        overriding: Override::Never,
    }
}

pub(super) fn not_readable(text: &str) -> Refusal {
    Refusal {
        rule: "artifact-corrupt".to_owned(),
        text: text.to_owned(),
        next_step: "Add the file again.".to_owned(),
        overriding: Override::Possible,
    }
}

/// Release notes as they are kept: without control characters, at most 64 KiB; none if nothing is left.
pub(super) fn bounded_notes(notes: &str) -> Option<String> {
    let mut kept: String = notes
        .chars()
        .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
        .collect();
    kept.truncate(kept.floor_char_boundary(NOTES_MAX_LEN_BYTES));
    let kept = kept.trim();
    (!kept.is_empty()).then(|| kept.to_owned())
}
