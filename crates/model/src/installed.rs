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
/// The digest decides as long as the label has not changed since the record; only without a record do labels say "already
/// current". A record without a digest is one of an unproven push: a label that has moved since then is believed, one that
/// has not says nothing. A downgrade is told by the labels alone.
pub fn standing(
    record: Option<&Installed>,
    seen: &Versions,
    image: &ImageInfo,
    by_label: Relation,
) -> Standing {
    let equal_label = by_label == Relation::Same && image.versions.is_some();
    let current = match record {
        None => equal_label,
        Some(Installed {
            digest: None, label, ..
        }) => equal_label && label != seen,
        Some(Installed {
            digest: Some(digest),
            label,
            ..
        }) => *digest == image.sha256 && label == seen,
    };
    if current {
        return Standing::AlreadyCurrent;
    }
    match by_label {
        Relation::Older => Standing::Downgrade,
        Relation::Mixed => Standing::Mixed,
        Relation::Same | Relation::Newer | Relation::Unknown => Standing::Wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(text: &str) -> Versions {
        Versions::one("firmware", text)
    }

    fn image(bytes: &[u8], stated: Option<&str>) -> ImageInfo {
        ImageInfo {
            version_source: crate::image::VersionSource::Image,
            family: None,
            kind: "esp-app".to_owned(),
            chip: None,
            versions: stated.map(versions),
            hint: None,
            project: None,
            signature: None,
            len_bytes: bytes.len() as u64,
            sha256: Sha256::of(bytes),
            warnings: Vec::new(),
        }
    }

    fn record(bytes: &[u8], label: &str) -> Installed {
        Installed {
            digest: Some(Sha256::of(bytes)),
            label: versions(label),
            label_moves: false,
        }
    }

    #[track_caller]
    fn check(
        record: Option<&Installed>,
        seen: &str,
        image: &ImageInfo,
        by_label: Relation,
        expected: Standing,
    ) {
        assert_eq!(standing(record, &versions(seen), image, by_label), expected);
    }

    #[test]
    fn the_recorded_digest_under_the_recorded_label_is_already_current() {
        let record = record(b"new", "1.0");
        check(
            Some(&record),
            "1.0",
            &image(b"new", None),
            Relation::Unknown,
            Standing::AlreadyCurrent,
        );
    }

    #[test]
    fn the_recorded_digest_under_another_label_is_not_believed() {
        let record = record(b"new", "1.0");
        check(
            Some(&record),
            "0.9",
            &image(b"new", None),
            Relation::Unknown,
            Standing::Wanted,
        );
    }

    #[test]
    fn with_a_record_an_equal_label_is_not_already_current() {
        let record = record(b"old", "1.0");
        check(
            Some(&record),
            "1.0",
            &image(b"new", Some("1.0")),
            Relation::Same,
            Standing::Wanted,
        );
    }

    #[test]
    fn without_a_record_labels_are_compared() {
        let image = image(b"new", Some("1.0"));
        check(None, "1.0", &image, Relation::Same, Standing::AlreadyCurrent);
        check(None, "0.9", &image, Relation::Newer, Standing::Wanted);
        check(None, "1.1", &image, Relation::Older, Standing::Downgrade);
        check(None, "1.1", &image, Relation::Mixed, Standing::Mixed);
        check(None, "?", &image, Relation::Unknown, Standing::Wanted);
    }

    #[test]
    fn a_version_that_only_the_file_name_tells_is_never_already_current() {
        let mut image = image(b"new", None);
        image.hint = Some(versions("1.0"));
        check(None, "1.0", &image, Relation::Same, Standing::Wanted);
    }

    #[test]
    fn a_record_does_not_hide_a_downgrade() {
        let record = record(b"other", "1.1");
        check(
            Some(&record),
            "1.1",
            &image(b"new", Some("1.0")),
            Relation::Older,
            Standing::Downgrade,
        );
    }

    #[test]
    fn after_an_unproven_push_a_label_that_has_moved_to_the_images_is_believed() {
        let unproven = Installed {
            digest: None,
            ..record(b"", "0.9")
        };
        check(
            Some(&unproven),
            "1.0",
            &image(b"new", Some("1.0")),
            Relation::Same,
            Standing::AlreadyCurrent,
        );
    }

    /// The last push of an image with an unmoving label was not proven: its label says nothing, so it may be pushed again.
    #[test]
    fn after_an_unproven_push_a_label_that_has_not_moved_is_not_already_current() {
        let unproven = Installed {
            digest: None,
            ..record(b"", "1.0")
        };
        check(
            Some(&unproven),
            "1.0",
            &image(b"new", Some("1.0")),
            Relation::Same,
            Standing::Wanted,
        );
    }
}
