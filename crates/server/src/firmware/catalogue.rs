//! What the repository holds, in memory: all that is asked for without waiting.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use model::family::Family;
use model::firmware::State;
use model::id::{FamilyId, Sha256};
use model::image::{ImageInfo, Refusal, VersionSource};
use model::release::{self, Held};
use store::{FirmwareRow, ImageName};

use super::judge::failed_too_often;
use crate::views::{FirmwareView, NoteView, RefusalView};

/// All images at one moment.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    /// The newest first; release notes are left out, as they are long and rarely asked for.
    kept: Vec<Kept>,
    by_digest: HashMap<Sha256, usize>,
}

/// One image.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) row: FirmwareRow,
    /// What it is called.
    pub(super) name: String,
    /// Every name under which it came, its own included.
    pub(super) file_names: Vec<String>,
    /// The models that take it.
    pub(super) models: Vec<String>,
    has_notes: bool,
}

impl Kept {
    /// Why it goes to no device any more.
    pub(super) fn quarantine(&self) -> Option<Refusal> {
        let quarantine = self.row.quarantine.as_ref()?;
        Some(failed_too_often(&self.name, self.row.digest, quarantine))
    }

    pub(super) fn held(&self) -> Held<'_> {
        Held {
            info: &self.row.info,
            state: self.row.state,
            file_name: &self.row.file_name,
            added_ms: self.row.added_ms,
        }
    }
}

/// The family with this id.
pub(super) fn family_of<'f>(families: &'f [Arc<dyn Family>], id: &FamilyId) -> Option<&'f Arc<dyn Family>> {
    families.iter().find(|family| family.id() == *id)
}

impl Catalogue {
    /// Of the rows as they are stored, with the names of each image.
    pub(super) fn new(rows: Vec<(FirmwareRow, Vec<ImageName>)>, families: &[Arc<dyn Family>]) -> Self {
        let family = |info: &ImageInfo| info.family.as_ref().and_then(|id| family_of(families, id));
        let words = |info: &ImageInfo| {
            let versions = release::version(info)?;
            Some(family(info).map_or_else(|| versions.to_string(), |family| family.words(versions)))
        };
        let mut kept: Vec<Kept> = rows
            .into_iter()
            .map(|(mut row, names)| Kept {
                name: String::new(),
                file_names: names.into_iter().map(|name| name.file_name).collect(),
                models: family(&row.info)
                    .map(|family| family.models(&row.info))
                    .unwrap_or_default(),
                has_notes: row.notes.take().is_some(),
                row,
            })
            .collect();
        let held: Vec<Held<'_>> = kept.iter().map(Kept::held).collect();
        let names = release::names(&held, words);
        for (kept, name) in kept.iter_mut().zip(names) {
            kept.name = name;
        }
        let by_digest = kept
            .iter()
            .enumerate()
            .map(|(idx, kept)| (kept.row.digest, idx))
            .collect();
        Self { kept, by_digest }
    }

    pub(super) fn all(&self) -> &[Kept] {
        &self.kept
    }

    pub(super) fn get(&self, digest: Sha256) -> Option<&Kept> {
        self.by_digest.get(&digest).map(|&idx| &self.kept[idx])
    }

    /// The approved images of a family.
    pub(super) fn approved_of(&self, family: &FamilyId) -> Vec<Held<'_>> {
        self.kept
            .iter()
            .filter(|kept| kept.row.state == State::Approved && kept.row.info.family.as_ref() == Some(family))
            .map(Kept::held)
            .collect()
    }

    /// The image that a word means: a digest (or at least eight digits of one), a name, a version, a file name.
    ///
    /// Where several could be meant, an approved one goes first, and then the one that came last.
    pub(super) fn find(&self, word: &str) -> Option<&Kept> {
        let is_meant = |kept: &&Kept| {
            release::means(word, &kept.held(), &kept.name) || kept.file_names.iter().any(|name| name == word)
        };
        self.kept.iter().filter(is_meant).max_by_key(|kept| {
            (
                kept.name == word,
                kept.row.state == State::Approved,
                kept.row.added_ms,
            )
        })
    }

    /// Another image, not refused, of the same family with this file name or these versions.
    pub(super) fn rival(&self, digest: Sha256, file_name: &str, info: &ImageInfo) -> Option<&Kept> {
        self.kept.iter().find(|kept| {
            let is_other = kept.row.digest != digest && kept.row.state != State::Refused;
            let same_family = kept.row.info.family == info.family;
            let same_name = kept.file_names.iter().any(|name| name == file_name);
            let same_version = info.versions.is_some() && kept.row.info.versions == info.versions;
            is_other && same_family && (same_name || same_version)
        })
    }

    /// The models for which each image is the newest.
    pub(super) fn latest(&self, families: &[Arc<dyn Family>]) -> BTreeMap<Sha256, Vec<String>> {
        let mut latest: BTreeMap<Sha256, Vec<String>> = BTreeMap::new();
        for family in families {
            let of_family = |kept: &&Kept| kept.row.info.family.as_ref() == Some(&family.id());
            let kept: Vec<&Kept> = self.kept.iter().filter(of_family).collect();
            let models: BTreeSet<&String> = kept.iter().flat_map(|kept| &kept.models).collect();
            for model in models {
                let held: Vec<Held<'_>> = kept
                    .iter()
                    .filter(|kept| kept.models.contains(model))
                    .map(|kept| kept.held())
                    .collect();
                if let Some(newest) = release::newest(&held, &**family) {
                    latest.entry(newest.info.sha256).or_default().push(model.clone());
                }
            }
        }
        latest
    }
}

/// An image for the API.
pub(super) fn view(kept: &Kept, latest_for: Option<&Vec<String>>, running_on: Vec<String>) -> FirmwareView {
    let row = &kept.row;
    let shown = row.info.shown_version();
    FirmwareView {
        sha256: row.digest.to_string(),
        file_name: row.file_name.clone(),
        also_named: kept
            .file_names
            .iter()
            .filter(|name| **name != row.file_name)
            .cloned()
            .collect(),
        name: kept.name.clone(),
        len_bytes: row.len_bytes,
        family: row.info.family.as_ref().map(ToString::to_string),
        kind: row.info.kind.clone(),
        chip: row.info.chip.clone(),
        version: shown.map(|(versions, _)| versions.to_string()),
        version_source: shown
            .map_or("none", |(_, source): (_, VersionSource)| source.name())
            .to_owned(),
        project: row.info.project.clone(),
        signature: row.info.signature.clone(),
        state: match row.state {
            State::Approved | State::Waiting if row.quarantine.is_some() => State::Quarantined,
            state => state,
        },
        refusals: kept
            .quarantine()
            .iter()
            .chain(&row.refusals)
            .map(|refusal| RefusalView {
                rule: refusal.rule.clone(),
                text: refusal.text.clone(),
                next_step: refusal.next_step.clone(),
            })
            .collect(),
        warnings: row
            .info
            .warnings
            .iter()
            .map(|warning| NoteView {
                rule: warning.rule.clone(),
                text: warning.text.clone(),
            })
            .collect(),
        source: row.source.clone(),
        origin: row.origin.clone(),
        added_ms: row.added_ms,
        approved_by: row.approved_by.clone(),
        approved_ms: row.approved_ms,
        latest_for: latest_for.cloned().unwrap_or_default(),
        running_on,
        has_notes: kept.has_notes,
    }
}
