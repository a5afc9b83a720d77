//! What is checked on the live device before anything is changed.

use serde::{Deserialize, Serialize};

use crate::device::{Device, Ota, Snapshot};
use crate::family::Family;
use crate::image::{Image, ImageInfo, Override, Refusal};
use crate::installed::{Installed, Standing, standing};
use crate::version::Relation;

/// What the owner permits for one job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permits {
    /// Rules that the owner overrides by name; `any` stands for all that can be overridden.
    pub allow: Vec<String>,
    /// Push what is already current.
    pub force: bool,
    /// Push an image of which one part is newer and another older.
    pub mixed: bool,
}

impl Permits {
    fn covers(&self, refusal: &Refusal) -> bool {
        refusal.overriding == Override::Possible
            && self
                .allow
                .iter()
                .any(|rule| rule == "any" || *rule == refusal.rule)
    }
}

/// The result of the check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Precheck {
    /// How the image stands to what the device runs.
    pub standing: Standing,
    /// Why it may not go; empty where it may.
    pub refusals: Vec<Refusal>,
    /// What the owner has overridden.
    pub overridden: Vec<Refusal>,
}

/// Checks an image against the live device.
///
/// `image_refusals` are what the inspection found; they are weighed again here, because the permits belong to the job.
pub fn precheck(
    family: &dyn Family,
    device: &Device,
    snapshot: &Snapshot,
    image: (&Image, &ImageInfo, &[Refusal]),
    record: Option<&Installed>,
    permits: &Permits,
) -> Precheck {
    let (bytes, info, image_refusals) = image;
    let offered = info.versions.as_ref().or(info.hint.as_ref());
    let by_label = offered.map_or(Relation::Unknown, |offered| {
        family.relate(&snapshot.versions, offered)
    });
    let standing = standing(record, &snapshot.versions, info, by_label);
    let mut found = image_refusals.to_vec();
    for refusal in family.accepts(device, info, bytes) {
        if !found.iter().any(|known| known.rule == refusal.rule) {
            found.push(refusal);
        }
    }
    match standing {
        Standing::Downgrade => found.push(Refusal {
            rule: "downgrade".to_owned(),
            text: format!(
                "The device runs {} and the image is the older {}.",
                snapshot.versions,
                offered.map(ToString::to_string).unwrap_or_default()
            ),
            next_step: "If going back is what you want, add --allow downgrade.".to_owned(),
            overriding: Override::Possible,
        }),
        Standing::Mixed if !permits.mixed => found.push(Refusal {
            rule: "mixed-versions".to_owned(),
            text: format!(
                "One part of the image is newer and another older than what the device runs ({}).",
                snapshot.versions
            ),
            next_step: "Confirm with --yes if that is what you want.".to_owned(),
            overriding: Override::Possible,
        }),
        Standing::Mixed | Standing::AlreadyCurrent | Standing::Wanted => {}
    }
    if snapshot.busy {
        found.push(Refusal {
            rule: "busy".to_owned(),
            text: "The device is in the middle of an update that somebody else started.".to_owned(),
            next_step: "Wait until it has finished, look what it runs then, and try again.".to_owned(),
            overriding: Override::Never,
        });
    }
    let (overridden, refusals) = found.into_iter().partition(|refusal| permits.covers(refusal));
    let standing = if standing == Standing::AlreadyCurrent && permits.force {
        Standing::Wanted
    } else {
        standing
    };
    Precheck {
        standing,
        refusals,
        overridden,
    }
}

/// Whether a device takes updates as it stands.
pub fn takes_updates(snapshot: &Snapshot) -> bool {
    snapshot.ota != Ota::Disabled
}
