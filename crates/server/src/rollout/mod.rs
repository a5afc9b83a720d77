//! Rollouts: what `model::fleet` decides is stored first and done then.
//!
//! Every event goes through one door (`Rollouts::take`): the model says what changes and what is to be done, the store
//! keeps the changes, and only then the runner gets the commands. What could not be stored never happened.

mod clock;
mod course;
mod error;
mod held;
mod job;
mod quarantine;
mod reconcile;
mod restore;
mod run;
mod schedule;
mod show;
mod standing;
mod steer;
mod successor;
mod timetable;
mod wanted;
mod window;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use engine::{Engine, Stop};
use model::fleet::{Command, Event, Fleet as Model, MemberState};
use model::id::{DeviceId, JobId, RolloutId, Sha256};
use model::image::Image;
use model::plan::{AtOnce, MaxFailures, Rules};
use model::time::Now;
use model::window::Window;
use serde_json::json;
use store::{MemberRow, RolloutChange, Store};
use tokio::sync::{broadcast, mpsc, watch};

use crate::config::Schedule;
use crate::firmware::Repository;
use crate::fleet::Fleet;
use crate::metrics::Metrics;
use crate::views::EventView;
use job::Live;

pub use error::RolloutError;
pub use schedule::RunError;
pub use timetable::TimetableError;
pub(crate) use window::configured as windows;

/// Progress that a slow listener may be behind.
const N_LIVE_BEHIND: usize = 1024;

/// What the configuration says of updates.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// How many devices go first.
    pub canary: u32,
    /// How long they must stay up.
    pub canary_soak: Duration,
    /// How long the others must.
    pub soak: Duration,
    /// How many at the same time.
    pub at_once: AtOnce,
    /// How much may fail.
    pub max_failures: MaxFailures,
    /// Whether a device that keeps restarting is put back to what it ran before.
    pub put_back: bool,
    /// On how many devices an image fails before it is in quarantine; 0 for never.
    pub quarantine_after: u32,
    /// How many of each group at the same time.
    pub groups: BTreeMap<String, u32>,
    /// When updates may begin, by name.
    pub windows: BTreeMap<String, Window>,
    /// Rollouts that begin by themselves, by name.
    pub schedules: BTreeMap<String, Schedule>,
    /// The file that all of this stands in.
    pub file: Option<PathBuf>,
}

impl Default for Policy {
    fn default() -> Self {
        let rules = Rules::default();
        Self {
            canary: rules.canary,
            canary_soak: rules.canary_soak,
            soak: rules.soak,
            at_once: rules.at_once,
            max_failures: rules.max_failures,
            put_back: rules.put_back,
            quarantine_after: 0,
            groups: rules.groups,
            windows: BTreeMap::new(),
            schedules: BTreeMap::new(),
            file: None,
        }
    }
}

/// All rollouts. Cloning shares them.
#[derive(Clone)]
pub struct Rollouts {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<Store>,
    engine: Engine,
    fleet: Fleet,
    repository: Repository,
    metrics: Metrics,
    policy: RwLock<Policy>,
    /// Windows and schedules that the configuration does not know.
    timetable: timetable::Timetable,
    state: Mutex<State>,
    /// Held from the decision until it is stored: decisions come one after the other.
    deciding: tokio::sync::Mutex<()>,
    /// What is decided and stored goes to the runner.
    commands: mpsc::UnboundedSender<Command>,
    commands_wanted: Mutex<Option<mpsc::UnboundedReceiver<Command>>>,
    /// What has happened and could not be decided on, because that could not be stored.
    undecided: Mutex<Vec<Event>>,
    /// Images of running jobs.
    images: tokio::sync::Mutex<HashMap<Sha256, Image>>,
    /// What follows from the history of each device.
    past: Mutex<HashMap<DeviceId, standing::Past>>,
    /// Progress, which nobody stores.
    live: broadcast::Sender<EventView>,
}

struct State {
    model: Model,
    about: BTreeMap<RolloutId, About>,
    running: HashMap<(RolloutId, DeviceId), Running>,
    /// The last job of each device, of open rollouts and since the start of the program.
    last_jobs: BTreeMap<(RolloutId, DeviceId), JobId>,
    /// Why the last decision could not be stored; none after one that could.
    not_stored: Option<String>,
    /// Whether the wall clock can be believed.
    clock: clock::Watch,
    verdict: clock::Verdict,
}

/// What the model does not need to know of a rollout.
#[derive(Clone, Debug)]
struct About {
    name: Option<String>,
    kind: String,
    predecessor: Option<RolloutId>,
    created_ms: i64,
    created_by: String,
    ended_ms: Option<i64>,
}

/// A job that runs.
struct Running {
    stop: watch::Sender<Stop>,
    live: Live,
    /// What was told of it last, and when.
    told: Option<(&'static str, tokio::time::Instant)>,
}

impl Rollouts {
    /// The policy as it is now: what the configuration says, and the windows and schedules that were made beside it.
    fn policy(&self) -> Policy {
        let mut policy = self.configured();
        self.inner.timetable.add_to(&mut policy);
        policy
    }

    /// Exchanges the policy; rollouts that are under way keep theirs.
    pub fn apply(&self, policy: Policy) {
        self.inner.timetable.compare(&policy);
        *self.inner.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
        self.inner.timetable.changed.notify_one();
    }

    /// Progress of jobs as it comes; it is not stored, and whoever is slow misses some.
    pub fn live(&self) -> broadcast::Receiver<EventView> {
        self.inner.live.subscribe()
    }

    /// Why the last decision could not be stored.
    pub fn trouble(&self) -> Option<String> {
        self.state().not_stored.clone()
    }

    /// Whether a rollout works on the device, or is about to find out what became of it.
    pub(crate) fn works_on(&self, device: &DeviceId) -> bool {
        let state = self.state();
        let id = state.model.busy_with(device);
        let rollout = id.and_then(|id| state.model.rollout(id));
        let standing = rollout.and_then(|rollout| rollout.member(device));
        standing.is_some_and(|(_, standing)| standing.state.is_running())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides what these events mean, stores it, and hands on what is to be done.
    ///
    /// # Errors
    /// It could not be stored: nothing has changed then, and nothing is done.
    async fn take(&self, events: Vec<Event>) -> Result<(), RolloutError> {
        let _deciding = self.inner.deciding.lock().await;
        let now = self.inner.engine.clock().now();
        let (mut model, verdict) = {
            let mut state = self.state();
            (state.model.clone(), state.look_at_clock(now))
        };
        let mut commands = Vec::new();
        let mut happen = |model: &mut Model, event: Event| {
            // Each step tells the next moment anew.
            commands.retain(|command| !matches!(command, Command::Wake { .. }));
            commands.extend(model::fleet::step(model, event, now));
        };
        // First what the clock says of windows, so that nothing begins by what it said before.
        for event in window::turns(&model, now, verdict) {
            happen(&mut model, event);
        }
        let is_new = events.iter().any(|event| matches!(event, Event::Add(..)));
        for event in events {
            happen(&mut model, event);
        }
        if is_new {
            for event in window::turns(&model, now, verdict) {
                happen(&mut model, event);
            }
        }
        let stored = self.store_changes(&mut model, now.wall_ms).await;
        if let Err(error) = stored {
            self.state().not_stored = Some(model::chain::chain(&error));
            return Err(RolloutError::store(&error));
        }
        let news = {
            let mut state = self.state();
            state.not_stored = None;
            let before = std::mem::replace(&mut state.model, model);
            news(&before, &mut state, now.wall_ms)
        };
        for command in commands {
            // The runner is gone at the end of the server: the next one carries on from the store.
            let _ = self.inner.commands.send(command);
        }
        for News { kind, device, detail } in news {
            self.inner.fleet.note(kind, device.as_ref(), detail);
        }
        Ok(())
    }

    /// Leaves it to the runner to decide on these events, as soon as that can be stored.
    fn later(&self, events: Vec<Event>) {
        self.undecided().extend(events);
        let at = self.inner.engine.clock().now();
        // Without a runner the next start carries on from the store.
        let _ = self.inner.commands.send(Command::Wake { at });
    }

    fn undecided(&self) -> MutexGuard<'_, Vec<Event>> {
        self.inner
            .undecided
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn store_changes(&self, model: &mut Model, wall_ms: i64) -> Result<(), store::RolloutError> {
        let changes = model.take_changes();
        let mut stored = Vec::with_capacity(changes.len());
        for change in &changes {
            let Some(rollout) = model.rollout(change.id) else {
                continue;
            };
            let members = change.members.iter().filter_map(|&idx| {
                let at = usize::try_from(idx).ok()?;
                Some(MemberRow {
                    device: rollout.plan().members.get(at)?.device.clone(),
                    idx,
                    state: json!(rollout.members().get(at)?),
                })
            });
            let ended_ms = rollout.is_over().then_some(wall_ms);
            let members: Vec<MemberRow> = members.collect();
            stored.push((change.id, json!(rollout.course()), ended_ms, members));
        }
        let rows: Vec<RolloutChange<'_>> = stored
            .iter()
            .map(|(id, state, ended_ms, changed)| RolloutChange {
                id: *id,
                state,
                ended_ms: *ended_ms,
                changed,
            })
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        self.inner.store.save_rollouts(&rows).await
    }
}

impl State {
    /// Whether the wall clock can be believed now; a change is told in the log.
    fn look_at_clock(&mut self, now: Now) -> clock::Verdict {
        let verdict = self.clock.look(now);
        if std::mem::replace(&mut self.verdict, verdict) != verdict {
            match verdict {
                clock::Verdict::Sane => {
                    tracing::info!("the clock can be believed: windows open and close by it");
                }
                clock::Verdict::Jumped => {
                    tracing::warn!("the clock was set by more than a minute: windows are worked out anew");
                }
                clock::Verdict::Early => tracing::warn!(
                    "the clock shows a time that has passed: until it is set, nothing begins that waits for a window"
                ),
            }
        }
        verdict
    }
}

/// Something to be told.
struct News {
    kind: &'static str,
    device: Option<DeviceId>,
    detail: serde_json::Value,
}

/// What has become of rollouts and their devices, for whoever listens.
fn news(before: &Model, state: &mut State, wall_ms: i64) -> Vec<News> {
    let mut news = Vec::new();
    let mut over = Vec::new();
    for (id, rollout) in state.model.rollouts() {
        let was = before.rollout(id);
        let about = state.about.get(&id);
        let name = about.and_then(|about| about.name.clone());
        let kind_name = about.map(|about| about.kind.clone());
        for (idx, (member, standing)) in rollout.plan().members.iter().zip(rollout.members()).enumerate() {
            let earlier = was.and_then(|was| was.members().get(idx));
            // An end that is corrected is told by whoever has corrected it.
            let had_ended = earlier.is_some_and(|earlier| matches!(earlier.state, MemberState::Ended(_)));
            if earlier == Some(standing) || had_ended {
                continue;
            }
            let was_put_back =
                earlier.is_some_and(|earlier| matches!(earlier.state, MemberState::PuttingBack { .. }));
            if let MemberState::PuttingBack { failed, .. } = &standing.state
                && !was_put_back
            {
                news.push(News {
                    kind: "job.putting-back",
                    device: Some(member.device.clone()),
                    detail: json!({ "rollout": id.0, "device": member.device.key(), "name": member.name,
                                    "job": state.last_jobs.get(&(id, member.device.clone())).map(|job| job.0),
                                    "state": standing.state.name(), "reason": failed.reason,
                                    "text": show::putting_back(member, failed) }),
                });
            }
            if let MemberState::Ended(ended) = &standing.state {
                let (reason, text) = show::words(ended);
                news.push(News {
                    kind: "job.finished",
                    device: Some(member.device.clone()),
                    detail: json!({ "rollout": id.0, "device": member.device.key(), "name": member.name,
                                    "job": state.last_jobs.get(&(id, member.device.clone())).map(|job| job.0),
                                    "state": ended.name(), "ok": ended.is_success(), "failed": ended.is_failure(),
                                    "from": member.runs, "to": member.image_name, "sha256": member.image.to_string(),
                                    "reason": reason, "text": text, "next_step": show::next_step(ended) }),
                });
            }
        }
        let (course, was_course) = (rollout.course(), was.map(model::fleet::Rollout::course));
        let mut tell = |kind: &'static str| {
            let cause = course.cause.as_ref();
            let mut counts = BTreeMap::new();
            for standing in rollout.members() {
                *counts.entry(standing.state.name()).or_insert(0_u32) += 1;
            }
            news.push(News {
                kind,
                device: None,
                detail: json!({ "rollout": id.0, "name": name, "kind": kind_name, "state": course.state.name(), "wave": course.wave,
                                "n_devices": rollout.members().len(), "counts": counts,
                                "ok": rollout.is_over().then(|| show::all_well(rollout)),
                                "reason": cause.map(|cause| &cause.rule), "text": cause.map(|cause| &cause.text),
                                "next_step": cause.map(|cause| &cause.next_step) }),
            });
        };
        if was_course.is_some_and(|was| was.wave != course.wave) {
            tell("rollout.wave");
        }
        if was_course.map(|was| was.state) != Some(course.state) {
            tell(show::event(was_course.map(|was| was.state), course.state));
        }
        let is_over = rollout.is_over();
        if is_over {
            over.push(id);
        }
    }
    for id in over {
        if let Some(about) = state.about.get_mut(&id) {
            about.ended_ms.get_or_insert(wall_ms);
        }
        // Whoever asks for it gets it from the store from now on.
        state.model.remove(id);
        state.about.remove(&id);
        state.last_jobs.retain(|(of, _), _| *of != id);
    }
    news
}
