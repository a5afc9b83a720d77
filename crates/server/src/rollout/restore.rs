//! What was under way when the program ended.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, RwLock};

use engine::Engine;
use model::fleet::{Course, Fleet as Model, Rollout, Standing};
use model::plan::Plan;
use store::{JobFilter, Store, WholeRollout};
use tokio::sync::{broadcast, mpsc};

use super::clock::{Verdict, Watch};
use super::timetable::Timetable;
use super::{About, Inner, N_LIVE_BEHIND, Policy, Rollouts, State};
use crate::firmware::Repository;
use crate::fleet::Fleet;
use crate::metrics::Metrics;

impl Rollouts {
    /// Takes in the rollouts that were not over. Nothing is done before [`Rollouts::run`].
    pub async fn load(
        store: Arc<Store>,
        engine: Engine,
        fleet: Fleet,
        repository: Repository,
        metrics: Metrics,
        policy: Policy,
    ) -> Result<Self, store::StoreError> {
        let mut rollouts = Vec::new();
        let mut about = BTreeMap::new();
        for whole in store.open_rollouts().await? {
            let id = whole.row.id;
            about.insert(id, About::of(&whole));
            match restored(whole) {
                Ok(rollout) => rollouts.push((id, rollout)),
                // It stays in the store, and nothing is done for it: a newer program wrote it, or it is damaged.
                Err(error) => {
                    tracing::error!(rollout = %id, error = model::chain::chain(&*error), "a rollout cannot be read");
                    about.remove(&id);
                }
            }
        }
        let newest_ms = newest_ms(&store).await?;
        let timetable = Timetable::load(&store).await?;
        timetable.compare(&policy);
        let (commands, commands_wanted) = mpsc::unbounded_channel();
        let (live, _) = broadcast::channel(N_LIVE_BEHIND);
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                engine,
                fleet,
                repository,
                metrics,
                policy: RwLock::new(policy),
                timetable,
                state: Mutex::new(State {
                    model: Model::restored(rollouts),
                    about,
                    running: HashMap::new(),
                    last_jobs: BTreeMap::new(),
                    not_stored: None,
                    clock: Watch::new(newest_ms),
                    verdict: Verdict::Sane,
                }),
                deciding: tokio::sync::Mutex::new(()),
                commands,
                commands_wanted: Mutex::new(Some(commands_wanted)),
                undecided: Mutex::default(),
                images: tokio::sync::Mutex::default(),
                past: Mutex::default(),
                live,
            }),
        })
    }
}

impl About {
    pub(super) fn of(whole: &WholeRollout) -> Self {
        Self {
            name: whole.row.name.clone(),
            kind: whole.row.kind.clone(),
            predecessor: whole.row.predecessor,
            created_ms: whole.row.created_ms,
            created_by: whole.row.created_by.clone(),
            ended_ms: whole.row.ended_ms,
        }
    }
}

/// The newest time in the journal, milliseconds since 1970; 0 where nothing was ever done.
async fn newest_ms(store: &Store) -> Result<i64, store::StoreError> {
    let jobs = store.jobs(&JobFilter::latest(1)).await?;
    let jobs = jobs.iter().map(|job| job.ended_ms.unwrap_or(job.started_ms));
    let rollouts = store.rollouts(1, None).await?;
    let rollouts = rollouts.iter().map(|rollout| rollout.created_ms);
    Ok(jobs.chain(rollouts).max().unwrap_or(0))
}

/// A rollout from its rows.
pub(super) fn restored(whole: WholeRollout) -> Result<Rollout, Box<dyn std::error::Error + Send + Sync>> {
    let plan: Plan = serde_json::from_value(whole.plan)?;
    let course: Course = serde_json::from_value(whole.row.state)?;
    let mut members = whole.members;
    members.sort_by_key(|member| member.idx);
    let members: Result<Vec<Standing>, _> = members
        .into_iter()
        .map(|member| serde_json::from_value(member.state))
        .collect();
    Ok(Rollout::restored(plan, course, members?)?)
}
