//! What we believe a device runs.

use serde::{Deserialize, Serialize};

use crate::id::Sha256;
use crate::image::ImageInfo;
use crate::version::{Relation, Versions};

/// The record of the last proven push to a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// The image that it runs; none after a push whose end was not proven.
    pub digest: Option<Sha256>,
    /// The label that it showed when this was recorded.
    pub label: Versions,
    /// Whether its label has ever moved with an image: where it has, an unmoved label means the old image.
    pub label_moves: bool,
}

/// How an image stands to what a device runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// The device runs it already: nothing to send.
    AlreadyCurrent,
    /// It is to be pushed.
    Wanted,
    /// By the labels it is older than what the device runs.
    Downgrade,
    /// By the labels one part is newer and another older.
    Mixed,
}

/// Judges an image against the record and what the device shows now.
///
/// The digest decides as long as the label has not changed since the record; only without a recorded digest do labels say
/// "already current". A downgrade is told by the labels alone.
pub fn standing(
    record: Option<&Installed>,
    seen: &Versions,
    image: &ImageInfo,
    by_label: Relation,
) -> Standing {
    let recorded = record.and_then(|record| record.digest.map(|digest| (digest, &record.label)));
    match recorded {
        Some((digest, label)) if digest == image.sha256 && label == seen => return Standing::AlreadyCurrent,
        None if by_label == Relation::Same && image.versions.is_some() => return Standing::AlreadyCurrent,
        Some(_) | None => {}
    }
    match by_label {
        Relation::Older => Standing::Downgrade,
        Relation::Mixed => Standing::Mixed,
        Relation::Same | Relation::Newer | Relation::Unknown => Standing::Wanted,
    }
}
