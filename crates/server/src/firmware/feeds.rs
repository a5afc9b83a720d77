//! Vendors' downloads: looked at weekly, kept if they fail, cleaned up behind.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use model::chain::chain;
use model::device::Device;
use model::feed::{Feed, Looked, NamedPart, due_ms};
use model::firmware::State;
use model::id::Sha256;
use model::image::Image;
use serde::{Deserialize, Serialize};
use store::{FeedRow, FleetRow};
use tokio::time::MissedTickBehavior;
use url::Url;

use super::error::RepositoryError;
use super::fetch::{
    Download, FetchError, Fetched, Fetcher, Hosts, Limits, Naming, Wanted, Way, without_secrets,
};
use super::{Change, ChangeKind, Repository, Source, index};
use crate::views::FeedView;

/// How often it is asked whether a feed is due. Taste: nobody waits for a weekly look.
const TICK: Duration = Duration::from_mins(1);
/// How often feeds are looked at (seed 002: weekly).
const EVERY: Duration = Duration::from_hours(7 * 24);

/// A file as a vendor's download gave it.
#[derive(Clone, Debug)]
pub struct FeedFile {
    /// The file, under the vendor's name.
    pub image: Image,
    /// What the name tells of its versions.
    pub parts: Vec<NamedPart>,
    /// Where it came from in the end.
    pub url: String,
    /// Whether nobody on the way could have changed it.
    pub is_private: bool,
}

/// There is no feed of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no download called {name}; there are: {}", known.join(", "))]
pub struct UnknownFeed {
    /// What was asked for.
    pub name: String,
    /// What there is.
    pub known: Vec<String>,
}

/// What is stored of a feed beside its columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Detail {
    /// How many looks have failed since the last one that went well.
    pub(super) n_failures: u32,
    /// The versions in the file's name, by part.
    pub(super) parts: BTreeMap<String, [u16; 5]>,
}

impl Detail {
    pub(super) fn of(row: &FeedRow) -> Self {
        serde_json::from_value(row.detail.clone()).unwrap_or_default()
    }

    pub(super) fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// Downloads the file of a feed once, without a repository; `url` takes the place of the vendor's address.
pub async fn fetch_once(feed: &Feed, url: Option<&str>, limits: Limits) -> Result<FeedFile, FetchError> {
    let url = parse(url.unwrap_or(feed.url))?;
    match fetch(&Fetcher::new(limits), feed, &url, None).await? {
        (Fetched::File(download), from) => Ok(file(feed, download, &from)),
        // It was not asked whether anything has changed.
        (Fetched::Unchanged, _) => Err(FetchError::Status { status: 304 }),
    }
}

fn parse(url: &str) -> Result<Url, FetchError> {
    url.parse().map_err(|_| FetchError::Address {
        url: url.chars().filter(|c| !c.is_control()).take(200).collect(),
    })
}

async fn fetch(
    fetcher: &Fetcher,
    feed: &Feed,
    url: &Url,
    etag: Option<&str>,
) -> Result<(Fetched, Url), FetchError> {
    let wanted = Wanted {
        url,
        hosts: &Hosts::of([url]),
        len_bytes: &feed.len_bytes,
        naming: Naming::Needed(feed.read_name),
        etag,
    };
    fetcher.fetch_by_https_first(wanted).await
}

fn file(feed: &Feed, download: Download, from: &Url) -> FeedFile {
    let file_name = download.file_name.unwrap_or_default();
    FeedFile {
        parts: (feed.read_name)(&file_name).unwrap_or_default(),
        image: Image::new(&file_name, download.bytes),
        url: without_secrets(from),
        is_private: download.way == Way::Private,
    }
}

/// Looks at the feeds when they are due, until it is dropped.
pub(super) async fn run(repository: &Repository) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now_ms = repository.inner.clock.now().wall_ms;
        if let Err(error) = repository.check_due(now_ms).await {
            tracing::warn!(error = chain(&error), "the feeds cannot be looked at");
        }
    }
}

impl Repository {
    /// Looks at the feeds now, whether they are due or not: at all that are in use and all indexes, or at those named.
    ///
    /// A name is that of a feed (`komfovent-C6`), in use or not, or of a family (`komfovent`): then all of its feeds that are
    /// in use, or all of them where none is.
    pub async fn check_feeds(&self, names: &[String]) -> Result<Vec<FeedView>, CheckError> {
        let settings = self.settings();
        let known: Vec<Feed> = self
            .inner
            .families
            .iter()
            .flat_map(|family| family.downloads())
            .collect();
        let mut known_names: Vec<String> = known.iter().map(Feed::name).collect();
        known_names.extend(index::names(&settings.indexes));
        for name in names {
            let is_family = known.iter().any(|feed| feed.family.as_str() == name);
            if !is_family && !known_names.contains(name) {
                return Err(CheckError::Unknown(UnknownFeed {
                    name: name.clone(),
                    known: known_names,
                }));
            }
        }
        let in_use = self.feeds_in_use().await.map_err(RepositoryError::from)?;
        let feeds: Vec<Feed> = if names.is_empty() {
            in_use
        } else {
            let is_named = |feed: &Feed| {
                let whole_family = names.iter().any(|name| name == feed.family.as_str());
                let is_used = in_use.iter().any(|used| used.name() == feed.name());
                let none_used = in_use.iter().all(|used| used.family != feed.family);
                names.contains(&feed.name()) || whole_family && (is_used || none_used)
            };
            known.into_iter().filter(is_named).collect()
        };
        let now_ms = self.inner.clock.now().wall_ms;
        for feed in feeds {
            self.check(&feed, now_ms).await?;
        }
        for (name, settings) in index::named(&settings.indexes) {
            if names.is_empty() || names.contains(&name) {
                index::check(self, &name, settings, now_ms).await?;
            }
        }
        Ok(self.feeds().await?)
    }

    /// Looks at the feeds that are due.
    pub(super) async fn check_due(&self, now_ms: i64) -> Result<(), RepositoryError> {
        let settings = self.settings();
        let stored = self.inner.store.feeds().await?;
        let is_due = |name: &str, every: Duration| {
            let looked = stored.iter().find(|row| row.name == name).and_then(|row| {
                Some(Looked {
                    last_ms: row.last_checked_ms?,
                    n_failures: Detail::of(row).n_failures,
                })
            });
            due_ms(name, looked, every, now_ms) <= now_ms
        };
        for feed in self.feeds_in_use().await? {
            let every = settings.check_every.get(&feed.family).copied().unwrap_or(EVERY);
            if !every.is_zero() && is_due(&feed.name(), every) {
                self.check(&feed, now_ms).await?;
            }
        }
        for (name, settings) in index::named(&settings.indexes) {
            if is_due(&name, index::EVERY) {
                index::check(self, &name, settings, now_ms).await?;
            }
        }
        Ok(())
    }

    /// The feeds and indexes, as they were looked at last.
    pub async fn feeds(&self) -> Result<Vec<FeedView>, RepositoryError> {
        let rows = self.inner.store.feeds().await?;
        Ok(rows.iter().map(|row| self.feed_view(row)).collect())
    }

    async fn feeds_in_use(&self) -> Result<Vec<Feed>, store::StoreError> {
        let fleet: Vec<Device> = self
            .inner
            .store
            .fleet()
            .await?
            .into_iter()
            .filter_map(FleetRow::into_device)
            .collect();
        Ok(self
            .inner
            .families
            .iter()
            .flat_map(|family| family.feeds(&fleet))
            .filter(|feed| self.url_of(feed).is_some())
            .collect())
    }

    /// Where a feed is; none where its owner has taken it out.
    fn url_of(&self, feed: &Feed) -> Option<String> {
        let settings = self.settings();
        match settings.feed_urls.get(&feed.family) {
            Some(urls) => urls.get(feed.key).cloned(),
            None => Some(feed.url.to_owned()),
        }
    }

    /// One look at one feed; whatever fails, what is known of it stays.
    async fn check(&self, feed: &Feed, now_ms: i64) -> Result<(), RepositoryError> {
        let _looking = self.inner.looking.lock().await;
        let name = feed.name();
        let Some(url) = self.url_of(feed) else {
            return Ok(());
        };
        let stored = self
            .inner
            .store
            .feeds()
            .await?
            .into_iter()
            .find(|row| row.name == name);
        let mut row = stored.unwrap_or_else(|| new_row(&name));
        // Another address is another download: what the old one called its states means nothing there.
        let shown_url = parse(&url).map_or_else(|_| String::new(), |url| without_secrets(&url));
        if row.url != shown_url {
            row.etag = None;
            row.url = shown_url;
        }
        // Without the file there is nothing that could be unchanged.
        let is_cached = match row.digest {
            Some(digest) => self.image(&digest).await.is_ok(),
            None => false,
        };
        let etag = row.etag.clone().filter(|_| is_cached);
        let looked = async {
            let url = parse(&url)?;
            fetch(&self.inner.fetcher, feed, &url, etag.as_deref()).await
        };
        let mut detail = Detail::of(&row);
        let outcome = match looked.await {
            Err(error) => Err(chain(&error)),
            Ok((Fetched::Unchanged, _)) => Ok(()),
            Ok((Fetched::File(download), from)) => {
                let etag = download.etag.clone();
                let file = file(feed, download, &from);
                let source = Source::Feed {
                    name: name.clone(),
                    url: row.url.clone(),
                    is_private: file.is_private,
                };
                match self.add(&file.image, &source, &format!("feed {name}")).await {
                    Ok(added) if matches!(added.state, State::Blocked | State::Refused) => {
                        Err(added.refusals.first().map_or_else(
                            || format!("the file is {}", added.state.name()),
                            |refusal| refusal.text.clone(),
                        ))
                    }
                    Ok(added) => {
                        row.digest = Some(added.digest);
                        row.file_name = Some(file.image.file_name().to_owned());
                        row.etag = etag;
                        detail.parts = file
                            .parts
                            .iter()
                            .map(|part| (part.part.to_owned(), part.numbers))
                            .collect();
                        Ok(())
                    }
                    Err(error) => Err(chain(&error)),
                }
            }
        };
        finish(&mut row, &mut detail, outcome, now_ms);
        self.inner.store.put_feed(&row).await?;
        self.tell(Change {
            kind: ChangeKind::Feed,
            digest: row.digest,
            text: match &row.error {
                None => format!("The download {name} was looked at."),
                Some(error) => format!("The download {name} failed: {error}"),
            },
            name,
        });
        if row.error.is_none() {
            self.clean_up(feed, row.digest).await?;
        }
        Ok(())
    }

    /// Takes away old images of a feed, but for what somebody needs.
    async fn clean_up(&self, feed: &Feed, current: Option<Sha256>) -> Result<(), RepositoryError> {
        let of_feed: Vec<(Sha256, bool)> = {
            let catalogue = self.catalogue();
            let is_of_feed = |kept: &&super::Kept| {
                kept.row.source == "feed"
                    && kept.row.info.family.as_ref() == Some(&feed.family)
                    && kept
                        .models
                        .iter()
                        .any(|model| feed.models.contains(&model.as_str()))
            };
            let rows = catalogue.all().iter().filter(is_of_feed);
            rows.map(|kept| {
                let is_bad = matches!(kept.row.state, State::Blocked | State::Refused);
                (kept.row.digest, is_bad)
            })
            .collect()
        };
        let n_kept = self.settings().n_kept;
        // The newest come first; what is blocked is counted apart, so that it drives nothing good out.
        let mut n_seen = [0; 2];
        for (digest, is_bad) in of_feed {
            let n_seen = &mut n_seen[usize::from(is_bad)];
            *n_seen += 1;
            if *n_seen <= n_kept || current == Some(digest) {
                continue;
            }
            match self.remove(&digest).await {
                Ok(())
                | Err(
                    RepositoryError::InUse { .. }
                    | RepositoryError::InFolder { .. }
                    | RepositoryError::NotFound { .. },
                ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn feed_view(&self, row: &FeedRow) -> FeedView {
        let parts = Detail::of(row).parts;
        FeedView {
            name: row.name.clone(),
            url: row.url.clone(),
            last_checked_at: row.last_checked_ms,
            last_ok_at: row.last_ok_ms,
            error: row.error.clone(),
            filename: row.file_name.clone(),
            sha256: row.digest.map(|digest| digest.to_string()),
            controller_version: parts.get("controller").copied(),
            panel_version: parts.get("panel").copied(),
            file_path: row
                .digest
                .and_then(|digest| file_path(self.inner.store.folder(), digest)),
        }
    }
}

/// Why the feeds were not looked at.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No such feed.
    #[error(transparent)]
    Unknown(#[from] UnknownFeed),
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

pub(super) fn new_row(name: &str) -> FeedRow {
    FeedRow {
        name: name.to_owned(),
        url: String::new(),
        last_checked_ms: None,
        last_ok_ms: None,
        error: None,
        file_name: None,
        digest: None,
        etag: None,
        detail: Detail::default().to_value(),
    }
}

/// Writes down how a look went.
pub(super) fn finish(row: &mut FeedRow, detail: &mut Detail, outcome: Result<(), String>, now_ms: i64) {
    row.last_checked_ms = Some(now_ms);
    match outcome {
        Ok(()) => {
            row.last_ok_ms = Some(now_ms);
            row.error = None;
            detail.n_failures = 0;
        }
        Err(error) => {
            row.error = Some(error);
            detail.n_failures = detail.n_failures.saturating_add(1);
        }
    }
    row.detail = detail.to_value();
}

/// Where an image's file lies, absolute; none if it is not there.
fn file_path(folder: &Path, digest: Sha256) -> Option<String> {
    let hex = digest.to_string();
    // The layout of the store's image folder.
    let path = folder.join("images/sha256").join(&hex[..2]).join(&hex);
    let path = std::path::absolute(path).ok()?;
    path.is_file().then(|| path.display().to_string())
}

#[cfg(test)]
#[path = "feeds_tests.rs"]
mod tests;
