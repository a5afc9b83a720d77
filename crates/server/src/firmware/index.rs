//! Remote indexes: lists of images that somebody else keeps. What they bring waits for approval.

use std::time::Duration;

use model::chain::chain;
use model::id::Sha256;
use model::image::{Image, MAX_IMAGE_LEN_BYTES};
use proto::content_disposition;
use serde::Deserialize;
use url::Url;

use super::error::RepositoryError;
use super::feeds::{Detail, finish, new_row};
use super::fetch::{FetchError, Fetched, Hosts, Naming, Wanted, Way, without_secrets};
use super::settings::Index;
use super::{Change, ChangeKind, Repository, Source};

/// How often an index is looked at. Taste: somebody who keeps one releases more often than a vendor.
pub(super) const EVERY: Duration = Duration::from_hours(24);
/// Longest index read, bytes. Guess: a hundred entries with a page of notes each.
const INDEX_MAX_LEN_BYTES: u64 = 1024 * 1024;
/// Entries looked at.
const N_ENTRIES: usize = 100;

/// What an index says: the list itself, or an object that holds it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Listing {
    Bare(Vec<Entry>),
    Wrapped { firmware: Vec<Entry> },
}

/// One image of an index.
#[derive(Deserialize)]
struct Entry {
    /// The file's name: the families read versions in it.
    file_name: String,
    /// Where it is; may be relative to the index.
    url: String,
    /// Its digest: without it nothing is taken.
    sha256: Sha256,
    /// Its release notes.
    #[serde(default)]
    notes: Option<String>,
}

/// Why an index, or an image of it, was not taken.
#[derive(Debug, thiserror::Error)]
enum IndexError {
    #[error("{url} is no address")]
    Address { url: String },
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the index cannot be read")]
    Format(#[source] serde_json::Error),
    #[error("{file_name:?} is no name for a firmware file")]
    Name { file_name: String },
    #[error("{file_name} has another SHA-256 than the index says (digest mismatch)")]
    Digest { file_name: String },
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

/// The names of the configured indexes.
pub(super) fn names(indexes: &[Index]) -> Vec<String> {
    named(indexes).into_iter().map(|(name, _)| name).collect()
}

/// The configured indexes with their names: `index-HOST`, and a number from the second one on that host on.
pub(super) fn named(indexes: &[Index]) -> Vec<(String, &Index)> {
    let mut named: Vec<(String, &Index)> = Vec::new();
    for index in indexes {
        let host = host_of(index);
        let n_before = named.iter().filter(|(_, other)| host_of(other) == host).count();
        let name = match n_before {
            0 => format!("index-{host}"),
            n => format!("index-{host}-{}", n + 1),
        };
        named.push((name, index));
    }
    named
}

fn host_of(index: &Index) -> String {
    let url: Option<Url> = index.url.parse().ok();
    url.as_ref()
        .and_then(Url::host_str)
        .unwrap_or("unreadable")
        .to_owned()
}

/// One look at one index.
pub(super) async fn check(
    repository: &Repository,
    name: &str,
    index: &Index,
    now_ms: i64,
) -> Result<(), RepositoryError> {
    let _looking = repository.inner.looking.lock().await;
    let store = &repository.inner.store;
    let stored = store.feeds().await?.into_iter().find(|row| row.name == name);
    let mut row = stored.unwrap_or_else(|| new_row(name));
    let parsed: Result<Url, _> = index.url.parse();
    row.url = parsed.as_ref().map_or_else(|_| String::new(), without_secrets);
    let mut detail = Detail::of(&row);
    let outcome = match parsed {
        Ok(url) => read(repository, &url).await,
        Err(_) => Err(IndexError::Address {
            url: index.url.chars().filter(|c| !c.is_control()).take(200).collect(),
        }),
    };
    finish(
        &mut row,
        &mut detail,
        outcome.map_err(|error| chain(&error)),
        now_ms,
    );
    store.put_feed(&row).await?;
    repository.tell(Change {
        kind: ChangeKind::Feed,
        digest: None,
        name: name.to_owned(),
        text: match &row.error {
            None => format!("The index {name} was read."),
            Some(error) => format!("The index {name} failed: {error}"),
        },
    });
    Ok(())
}

/// Takes what is new in an index; one image that fails does not keep the others back, and the first failure is told.
async fn read(repository: &Repository, url: &Url) -> Result<(), IndexError> {
    let hosts = Hosts::of([url]);
    let (bytes, way, from) = fetch(repository, url, &hosts, 2..=INDEX_MAX_LEN_BYTES).await?;
    let listing: Listing = serde_json::from_slice(&bytes).map_err(IndexError::Format)?;
    let (Listing::Bare(entries) | Listing::Wrapped { firmware: entries }) = listing;
    let mut failed = None;
    for entry in entries.into_iter().take(N_ENTRIES) {
        if repository.catalogue().get(entry.sha256).is_some() {
            continue;
        }
        if let Err(error) = take(repository, &from, &hosts, way, entry).await {
            failed.get_or_insert(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn take(
    repository: &Repository,
    index: &Url,
    hosts: &Hosts,
    way: Way,
    entry: Entry,
) -> Result<(), IndexError> {
    let file_name = content_disposition::last_component(&entry.file_name)
        .ok()
        .filter(|name| *name == entry.file_name)
        .ok_or_else(|| IndexError::Name {
            file_name: entry.file_name.chars().take(120).collect(),
        })?;
    let url = index.join(&entry.url).map_err(|_| IndexError::Address {
        url: entry.url.chars().filter(|c| !c.is_control()).take(200).collect(),
    })?;
    let (bytes, _, _) = fetch(repository, &url, hosts, 1..=MAX_IMAGE_LEN_BYTES).await?;
    let image = Image::new(&file_name, bytes);
    if image.sha256() != entry.sha256 {
        return Err(IndexError::Digest { file_name });
    }
    let source = Source::Index {
        url: without_secrets(index),
        // The digest is worth as much as the way by which the index came.
        is_private: way == Way::Private,
    };
    let added = repository.add(&image, &source, "index").await?;
    if let Some(notes) = entry.notes {
        repository.set_notes(&added.digest, &notes).await?;
    }
    Ok(())
}

async fn fetch(
    repository: &Repository,
    url: &Url,
    hosts: &Hosts,
    len_bytes: std::ops::RangeInclusive<u64>,
) -> Result<(Vec<u8>, Way, Url), FetchError> {
    let wanted = Wanted {
        url,
        hosts,
        len_bytes: &len_bytes,
        naming: Naming::Known,
        etag: None,
    };
    match repository.inner.fetcher.fetch_by_https_first(wanted).await? {
        (Fetched::File(download), url) => Ok((download.bytes, download.way, url)),
        // It was not asked whether anything has changed.
        (Fetched::Unchanged, _) => Err(FetchError::Status { status: 304 }),
    }
}
