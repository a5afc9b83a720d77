//! Windows and schedules that are made and changed while the server runs.
//!
//! What stands in the configuration is changed there and nowhere else, and wins over what was made here by the same name.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use model::id::RolloutId;
use serde_json::{Value, json};
use store::{Store, StoreError, TimetableKind, TimetableRow};
use tokio::sync::Notify;

use super::{Policy, Rollouts, window};
use crate::config::{self, Problem, Schedule, nearest};
use crate::views::{OriginView, ScheduleView, WindowView};

/// Windows, and schedules, that may be made here. Guess: more than anybody keeps apart.
const N_MADE_MAX: usize = 200;

/// Why a window or a schedule could not be shown or changed.
#[derive(Debug, thiserror::Error)]
pub enum TimetableError {
    /// There is none of that name.
    #[error("There is no {what} {name:?}.")]
    NotFound {
        /// `window` or `schedule`.
        what: &'static str,
        /// The name that was given.
        name: String,
        /// The name that was perhaps meant.
        near: Option<String>,
    },
    /// It stands in the configuration, and is only changed there.
    #[error("The {what} {name} stands in the configuration, as {key} in {file}.")]
    Configured {
        /// `window` or `schedule`.
        what: &'static str,
        /// Its name.
        name: String,
        /// Its place in the file.
        key: String,
        /// The file.
        file: String,
    },
    /// What was given makes no window or schedule.
    #[error("{text}.")]
    Wrong {
        /// `window` or `schedule`.
        what: &'static str,
        /// What is wrong, all of it.
        text: String,
        /// What to write instead.
        next_step: String,
    },
    /// Something goes by it.
    #[error("The window {name} is in use by {users}.")]
    InUse {
        /// Its name.
        name: String,
        /// By what.
        users: String,
    },
    /// There are very many already.
    #[error("There are {N_MADE_MAX} already.")]
    TooMany,
    /// It could not be stored or read.
    #[error("it could not be stored")]
    Store(#[from] StoreError),
}

/// What was made here.
#[derive(Debug, Default)]
pub(super) struct Timetable {
    made: RwLock<Made>,
    /// Held over a change, from the look at what uses what until it is stored.
    changing: tokio::sync::Mutex<()>,
    /// Told after a change: what is due next may be another.
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct Made {
    windows: BTreeMap<String, config::Window>,
    schedules: BTreeMap<String, Schedule>,
}

impl Timetable {
    /// What is kept in the store.
    pub(super) async fn load(store: &Store) -> Result<Self, StoreError> {
        let mut made = Made::default();
        for TimetableRow {
            kind, name, entry, ..
        } in store.timetable().await?
        {
            let problems = match kind {
                TimetableKind::Window => match config::window(&name, &entry) {
                    Ok(window) => {
                        made.windows.insert(name, window);
                        continue;
                    }
                    Err(problems) => problems,
                },
                TimetableKind::Schedule => {
                    // Whether its window is there is looked at when it is due: the configuration may have lost it.
                    let windows: Vec<String> =
                        entry["window"].as_str().map(str::to_owned).into_iter().collect();
                    match config::schedule(&name, &entry, &windows) {
                        Ok(schedule) => {
                            made.schedules.insert(name, schedule);
                            continue;
                        }
                        Err(problems) => problems,
                    }
                }
            };
            // It stays in the store: a newer program made it, or its zone is not known here any more.
            tracing::error!(
                name,
                problem = words(&problems),
                "a window or schedule cannot be read, and has no effect"
            );
        }
        Ok(Self {
            made: RwLock::new(made),
            ..Self::default()
        })
    }

    fn made(&self) -> RwLockReadGuard<'_, Made> {
        self.made.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn made_mut(&self) -> RwLockWriteGuard<'_, Made> {
        self.made.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what was made here to what the configuration says.
    pub(super) fn add_to(&self, policy: &mut Policy) {
        let made = self.made();
        for (name, window) in window::configured(&made.windows) {
            policy.windows.entry(name).or_insert(window);
        }
        for (name, schedule) in &made.schedules {
            policy
                .schedules
                .entry(name.clone())
                .or_insert_with(|| schedule.clone());
        }
    }

    /// Tells in the log what the configuration hides.
    pub(super) fn compare(&self, configured: &Policy) {
        let made = self.made();
        let windows = made
            .windows
            .keys()
            .filter(|name| configured.windows.contains_key(*name));
        for name in windows {
            tracing::warn!(
                name,
                "a window of the configuration takes the place of one that was made by the API"
            );
        }
        let schedules = made
            .schedules
            .keys()
            .filter(|name| configured.schedules.contains_key(*name));
        for name in schedules {
            tracing::warn!(
                name,
                "a schedule of the configuration takes the place of one that was made by the API"
            );
        }
    }
}

fn what(kind: TimetableKind) -> &'static str {
    match kind {
        TimetableKind::Window => "window",
        TimetableKind::Schedule => "schedule",
    }
}

fn block(kind: TimetableKind) -> &'static str {
    match kind {
        TimetableKind::Window => "windows",
        TimetableKind::Schedule => "schedules",
    }
}

fn words(problems: &[Problem]) -> String {
    let texts: Vec<&str> = problems.iter().map(|problem| problem.text.as_str()).collect();
    texts.join("; ")
}

fn wrong(kind: TimetableKind, problems: &[Problem]) -> TimetableError {
    TimetableError::Wrong {
        what: what(kind),
        text: words(problems),
        next_step: problems
            .first()
            .map(|problem| problem.help.clone())
            .unwrap_or_default(),
    }
}

impl Rollouts {
    /// The policy as the configuration has it.
    pub(super) fn configured(&self) -> Policy {
        self.inner
            .policy
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Where a window or a schedule stands.
    pub(super) fn origin(&self, kind: TimetableKind, name: &str) -> OriginView {
        let configured = self.configured();
        let key = format!("{}.{name}", block(kind));
        if names(&configured, kind).any(|known| known == name) {
            OriginView {
                kept_in: "configuration".to_owned(),
                file: configured.file.map(|file| file.display().to_string()),
                key,
            }
        } else {
            OriginView {
                kept_in: "api".to_owned(),
                file: None,
                key,
            }
        }
    }

    /// That there is none of that name, and which was perhaps meant.
    pub(super) fn unknown(&self, kind: TimetableKind, name: &str) -> TimetableError {
        let policy = self.policy();
        TimetableError::NotFound {
            what: what(kind),
            near: nearest(name, names(&policy, kind)).map(str::to_owned),
            name: name.chars().filter(|c| !c.is_control()).take(40).collect(),
        }
    }

    /// That there is no window of that name.
    pub fn no_window(&self, name: &str) -> TimetableError {
        self.unknown(TimetableKind::Window, name)
    }

    fn not_configured(&self, kind: TimetableKind, name: &str) -> Result<(), TimetableError> {
        let OriginView { kept_in, file, key } = self.origin(kind, name);
        if kept_in == "api" {
            return Ok(());
        }
        Err(TimetableError::Configured {
            what: what(kind),
            name: name.to_owned(),
            key,
            file: file.unwrap_or_else(|| "reflash.yaml".to_owned()),
        })
    }

    /// Makes a window or exchanges it, with the keys of the configuration; it holds at once, and rollouts that are open keep
    /// theirs. Also says what was there before.
    ///
    /// # Errors
    /// It stands in the configuration, makes no sense, or cannot be stored.
    pub async fn set_window(
        &self,
        name: &str,
        entry: &Value,
        actor: &str,
    ) -> Result<(WindowView, Option<Value>), TimetableError> {
        let timetable = &self.inner.timetable;
        let _changing = timetable.changing.lock().await;
        self.not_configured(TimetableKind::Window, name)?;
        let window =
            config::window(name, entry).map_err(|problems| wrong(TimetableKind::Window, &problems))?;
        let (was, n_made) = {
            let made = timetable.made();
            (
                made.windows.get(name).map(config::window_entry),
                made.windows.len(),
            )
        };
        if was.is_none() && n_made >= N_MADE_MAX {
            return Err(TimetableError::TooMany);
        }
        let entry = config::window_entry(&window);
        self.keep_entry(TimetableKind::Window, name, &entry, actor)
            .await?;
        timetable.made_mut().windows.insert(name.to_owned(), window);
        self.changed("window.changed", name, &entry);
        let view = self
            .window(name)
            .ok_or_else(|| self.unknown(TimetableKind::Window, name))?;
        Ok((view, was))
    }

    /// Makes a schedule or exchanges it, with the keys of the configuration; it holds at once. Also says what was there before.
    ///
    /// # Errors
    /// It stands in the configuration, makes no sense, or cannot be stored.
    pub async fn set_schedule(
        &self,
        name: &str,
        entry: &Value,
        actor: &str,
    ) -> Result<(ScheduleView, Option<Value>), TimetableError> {
        let timetable = &self.inner.timetable;
        let _changing = timetable.changing.lock().await;
        self.not_configured(TimetableKind::Schedule, name)?;
        let windows: Vec<String> = self.policy().windows.into_keys().collect();
        let schedule = config::schedule(name, entry, &windows)
            .map_err(|problems| wrong(TimetableKind::Schedule, &problems))?;
        let (was, n_made) = {
            let made = timetable.made();
            (
                made.schedules.get(name).map(config::schedule_entry),
                made.schedules.len(),
            )
        };
        if was.is_none() && n_made >= N_MADE_MAX {
            return Err(TimetableError::TooMany);
        }
        let entry = config::schedule_entry(&schedule);
        self.keep_entry(TimetableKind::Schedule, name, &entry, actor)
            .await?;
        timetable.made_mut().schedules.insert(name.to_owned(), schedule);
        self.changed("schedule.changed", name, &entry);
        Ok((self.schedule(name).await?, was))
    }

    /// Removes a window that was made by the API, and says what it was.
    ///
    /// # Errors
    /// There is none, it stands in the configuration, something goes by it, or it cannot be stored.
    pub async fn remove_window(&self, name: &str) -> Result<Value, TimetableError> {
        let timetable = &self.inner.timetable;
        let _changing = timetable.changing.lock().await;
        self.not_configured(TimetableKind::Window, name)?;
        let was = timetable.made().windows.get(name).map(config::window_entry);
        let was = was.ok_or_else(|| self.unknown(TimetableKind::Window, name))?;
        let schedules = self.schedules_by(name);
        let rollouts = self.rollouts_by(name);
        let users = schedules
            .iter()
            .map(|schedule| format!("the schedule {schedule}"));
        let users: Vec<String> = users
            .chain(rollouts.iter().map(|id| format!("rollout {id}")))
            .collect();
        if !users.is_empty() {
            return Err(TimetableError::InUse {
                name: name.to_owned(),
                users: users.join(", "),
            });
        }
        self.inner
            .store
            .remove_timetable(TimetableKind::Window, name)
            .await?;
        timetable.made_mut().windows.remove(name);
        self.changed("window.removed", name, &Value::Null);
        Ok(was)
    }

    /// Removes a schedule that was made by the API, and says what it was; its rollouts stay.
    ///
    /// # Errors
    /// There is none, it stands in the configuration, or it cannot be stored.
    pub async fn remove_schedule(&self, name: &str) -> Result<Value, TimetableError> {
        let timetable = &self.inner.timetable;
        let _changing = timetable.changing.lock().await;
        self.not_configured(TimetableKind::Schedule, name)?;
        let was = timetable.made().schedules.get(name).map(config::schedule_entry);
        let was = was.ok_or_else(|| self.unknown(TimetableKind::Schedule, name))?;
        self.inner
            .store
            .remove_timetable(TimetableKind::Schedule, name)
            .await?;
        timetable.made_mut().schedules.remove(name);
        self.changed("schedule.removed", name, &Value::Null);
        Ok(was)
    }

    async fn keep_entry(
        &self,
        kind: TimetableKind,
        name: &str,
        entry: &Value,
        actor: &str,
    ) -> Result<(), StoreError> {
        let row = TimetableRow {
            kind,
            name: name.to_owned(),
            entry: entry.clone(),
            changed_ms: self.inner.engine.clock().now().wall_ms,
            changed_by: actor.to_owned(),
        };
        self.inner.store.save_timetable(&row).await
    }

    fn changed(&self, kind: &'static str, name: &str, entry: &Value) {
        self.inner.timetable.changed.notify_one();
        self.inner
            .fleet
            .note(kind, None, json!({ "name": name, "entry": entry }));
    }

    /// The schedules that go by a window.
    pub(super) fn schedules_by(&self, window: &str) -> Vec<String> {
        let schedules = self.policy().schedules.into_iter();
        schedules
            .filter(|(_, schedule)| schedule.window.as_deref() == Some(window))
            .map(|(name, _)| name)
            .collect()
    }

    /// The open rollouts that were planned with a window of this name.
    pub(super) fn rollouts_by(&self, window: &str) -> Vec<RolloutId> {
        let state = self.state();
        let rollouts = state.model.rollouts().filter(|(_, rollout)| {
            let goes_by = rollout.plan().rules.window.as_ref();
            !rollout.is_over() && goes_by.is_some_and(|goes_by| goes_by.name == window)
        });
        rollouts.map(|(id, _)| id).collect()
    }
}

fn names(policy: &Policy, kind: TimetableKind) -> impl Iterator<Item = &str> {
    let (windows, schedules) = match kind {
        TimetableKind::Window => (Some(policy.windows.keys()), None),
        TimetableKind::Schedule => (None, Some(policy.schedules.keys())),
    };
    let windows = windows.into_iter().flatten().map(String::as_str);
    windows.chain(schedules.into_iter().flatten().map(String::as_str))
}
