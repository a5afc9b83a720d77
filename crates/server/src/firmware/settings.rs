//! What the owner has configured of the firmware repository.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use model::id::FamilyId;

use super::fetch::Limits;

/// What the owner has configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder that images can be dropped into.
    pub folder: Option<PathBuf>,
    /// Addresses of feeds that differ from the vendors', by family and key.
    pub feed_urls: BTreeMap<FamilyId, BTreeMap<String, String>>,
    /// How often the feeds of a family are looked at; those that are not named: weekly. Zero: only when somebody asks.
    pub check_every: BTreeMap<FamilyId, Duration>,
    /// Remote indexes.
    pub indexes: Vec<Index>,
    /// Whether only signed images may be offered. No signature is verified yet: then every image waits for its approval.
    pub require_signature: bool,
    /// How many images of a feed are kept, beside what is run or could be gone back to.
    pub n_kept: usize,
    /// Bounds of downloads.
    pub limits: Limits,
    /// How the folder is watched.
    pub pace: Pace,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            folder: None,
            feed_urls: BTreeMap::new(),
            check_every: BTreeMap::new(),
            indexes: Vec::new(),
            require_signature: false,
            // Taste: this one, the last, and one more.
            n_kept: 3,
            limits: Limits::default(),
            pace: Pace::default(),
        }
    }
}

/// A list of images kept by somebody else.
#[derive(Clone, Debug)]
pub struct Index {
    /// Where it is.
    pub url: String,
    /// The key that it is signed with. Not used yet: images of an index wait for approval.
    pub public_key: Option<String>,
}

/// How the watch folder is read.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long a file must not change before it is taken for whole.
    pub settle: Duration,
    /// The same for a file about which the inspection warns: it may be a part of one.
    pub settle_doubtful: Duration,
    /// How often the folder is read without being told of a change: network shares tell nothing.
    pub rescan: Duration,
}

impl Default for Pace {
    /// Taste: with these, a dropped file is offered within 2 s, and a copy that stalls for 10 s is still not taken in half.
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(750),
            settle_doubtful: Duration::from_secs(10),
            rescan: Duration::from_secs(10),
        }
    }
}
