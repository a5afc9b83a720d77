//! Which image is the newest, what images are called, and whether one is offered to a device.

use std::collections::BTreeMap;

use crate::device::Device;
use crate::family::Family;
use crate::firmware::State;
use crate::id::Sha256;
use crate::image::{ImageInfo, Override, Refusal};
use crate::installed::{Installed, Standing, standing};
use crate::version::{Relation, Versions};

/// An image of the repository, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// What was found in it.
    pub info: &'a ImageInfo,
    /// How far it may go.
    pub state: State,
    /// The name of the file it came as.
    pub file_name: &'a str,
    /// When it came, milliseconds since 1970.
    pub added_ms: i64,
}

/// The newest of these images, of which only approved ones count; none where none is approved.
///
/// An image is the newest if its family knows of no newer one.
/// Where that leaves several, one that tells a version goes before one that does not, and then the one that came last.
/// So an image without a version is never the newest by its label, but it may be so for want of others.
pub fn newest<'a>(images: &[Held<'a>], family: &dyn Family) -> Option<Held<'a>> {
    let approved = || images.iter().filter(|held| held.state == State::Approved);
    let is_newer = |offered: &Held<'_>, than: &Held<'_>| match (version(offered.info), version(than.info)) {
        (Some(offered), Some(than)) => family.relate(than, offered) == Relation::Newer,
        _ => false,
    };
    approved()
        .filter(|held| !approved().any(|other| is_newer(other, held)))
        .max_by_key(|held| {
            (
                version(held.info).is_some(),
                held.added_ms,
                // Only so that the answer is the same each time.
                held.info.sha256,
            )
        })
        .copied()
}

/// What each image is called: its version in its family's words, else its file name. No two are called the same.
///
/// Where two would be, the approved one that came last keeps the name, and the others are told apart by their digests.
/// The answers are in the order of the images; `words` is how an image's family writes its versions.
pub fn names(images: &[Held<'_>], words: impl Fn(&ImageInfo) -> Option<String>) -> Vec<String> {
    let plain: Vec<String> = images
        .iter()
        .map(|held| {
            words(held.info)
                .filter(|words| !words.is_empty())
                .unwrap_or_else(|| held.file_name.to_owned())
        })
        .collect();
    let rank = |idx: usize| {
        let held = &images[idx];
        (
            held.state == State::Approved,
            !matches!(held.state, State::Refused | State::Blocked),
            held.added_ms,
            held.info.sha256,
        )
    };
    let mut keeper: BTreeMap<&str, usize> = BTreeMap::new();
    for (idx, name) in plain.iter().enumerate() {
        let best = keeper.entry(name).or_insert(idx);
        if rank(idx) > rank(*best) {
            *best = idx;
        }
    }
    plain
        .iter()
        .enumerate()
        .map(|(idx, name)| {
            if keeper.get(name.as_str()) == Some(&idx) {
                name.clone()
            } else {
                format!("{name} ({})", images[idx].info.sha256.short())
            }
        })
        .collect()
}

/// The version that an image is compared by: what it states, else what only its file name tells.
pub fn version(info: &ImageInfo) -> Option<&Versions> {
    info.shown_version().map(|(versions, _)| versions)
}

/// What the owner wants of a device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes<'a> {
    /// The version, name or digest that it is to stay at.
    pub pinned: Option<&'a str>,
    /// Versions, names or digests that are not wanted on it.
    pub skipped: &'a [String],
}

/// What a device is believed to run, as far as the repository knows it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Runs<'a> {
    /// The record of the last push.
    pub record: Option<&'a Installed>,
    /// The image of that record, where it is in the repository.
    pub image: Option<Held<'a>>,
}

impl<'a> Runs<'a> {
    /// The image of the record, as long as the device's label has not changed since then.
    fn believed(&self, seen: &Versions) -> Option<Held<'a>> {
        let record = self.record?;
        let digest = record.digest?;
        self.image
            .filter(|held| held.info.sha256 == digest && record.label == *seen)
    }
}

/// Whether an owner's word (a version, a name, a file name or a digest) means this image.
pub fn means(word: &str, held: &Held<'_>, name: &str) -> bool {
    let word = word.trim();
    let digest = held.info.sha256.to_string();
    let is_digest = word.len() >= 8
        && word.bytes().all(|b| b.is_ascii_hexdigit())
        && digest.starts_with(&word.to_lowercase());
    is_digest
        || word == name
        || word == held.file_name
        || version(held.info).is_some_and(|versions| versions.to_string() == word)
}

/// Why the newest image is not offered to a device; none where it is.
///
/// `name` is what the image is called, `refusals` what the family says of this image and this very device.
/// An image is offered if it fits, if it is newer (of several parts: if one is), and if it is neither skipped nor barred by a pin.
/// Where labels say nothing, one that came after the image which the device is known to run counts as newer.
pub fn why_not(
    family: &dyn Family,
    device: &Device,
    runs: Runs<'_>,
    (offered, name): (Held<'_>, &str),
    refusals: &[Refusal],
    wishes: Wishes<'_>,
) -> Option<String> {
    let believed = runs.believed(&device.versions);
    let current = believed
        .and_then(|held| version(held.info))
        .unwrap_or(&device.versions);
    let by_label = version(offered.info).map_or(Relation::Unknown, |offered| family.relate(current, offered));
    match standing(runs.record, &device.versions, offered.info, by_label) {
        Standing::AlreadyCurrent => return Some("The device runs it already.".to_owned()),
        Standing::Downgrade => return Some(format!("The device runs {current}, which is newer.")),
        // F8 of the mission: offered as soon as one part is newer.
        Standing::Mixed => {}
        Standing::Wanted => match by_label {
            Relation::Same => {
                return Some(format!(
                    "The device says that it runs {current}, which is this version."
                ));
            }
            Relation::Unknown => {
                let came_later = believed.is_some_and(|held| held.added_ms < offered.added_ms);
                if !came_later {
                    return Some(
                        "Nothing tells whether it is newer than what the device runs; name it to install it."
                            .to_owned(),
                    );
                }
            }
            Relation::Newer | Relation::Older | Relation::Mixed => {}
        },
    }
    if let Some(refusal) = refusals.first() {
        return Some(format!("{} {}", refusal.text, refusal.next_step));
    }
    if wishes.skipped.iter().any(|word| means(word, &offered, name)) {
        return Some("Its owner has skipped it for this device.".to_owned());
    }
    let pinned = wishes.pinned.filter(|word| !means(word, &offered, name))?;
    Some(format!("Its owner has pinned the device to {pinned}."))
}

/// Whether an image is for another kind of device, so that it does not even count when the newest is looked for.
///
/// What the owner may override, such as a slot that is too small, does not make it another's: it is shown with its reason.
pub fn is_for_another(refusals: &[Refusal]) -> bool {
    refusals
        .iter()
        .any(|refusal| refusal.overriding == Override::Never)
}

/// The digest that a word names in full; none where it is something else.
pub fn digest(word: &str) -> Option<Sha256> {
    word.trim().to_ascii_lowercase().parse().ok()
}

#[cfg(test)]
mod tests;
