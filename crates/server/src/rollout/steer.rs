//! What people ask of rollouts: plan, begin, pause, go on, abort, stop everything, cancel one device.

use std::collections::BTreeMap;

use model::fleet::{Event, MemberState, Rollout, State};
use model::id::{DeviceId, JobId, RolloutId, Sha256};
use model::plan::LeftOut;
use serde_json::json;
use store::{Asked, MemberRow, NewRollout};

use super::show::{not_found, plan_view};
use super::{About, RolloutError, Rollouts};
use crate::views::{JobDetailView, PlanView, RolloutSummaryView, RolloutView, WantedRollout};

/// Rollouts that may be open at the same time.
const N_OPEN_MAX: usize = 100;
/// The longest name, characters.
const NAME_MAX_LEN: usize = 120;

/// Why devices are left out, by the rules' names: `3 already-current, 1 offline`.
fn reasons(left_out: &[LeftOut]) -> String {
    let mut rules: Vec<(&str, usize)> = Vec::new();
    for LeftOut { reason, .. } in left_out {
        match rules.iter_mut().find(|(rule, _)| *rule == reason.rule) {
            Some((_, n_devices)) => *n_devices += 1,
            None => rules.push((&reason.rule, 1)),
        }
    }
    let rules: Vec<String> = rules
        .into_iter()
        .map(|(rule, n_devices)| format!("{n_devices} {rule}"))
        .collect();
    rules.join(", ")
}

impl Rollouts {
    /// What would happen; nothing is kept.
    pub async fn plan(&self, wanted: &WantedRollout) -> Result<PlanView, RolloutError> {
        Ok(plan_view(wanted.kind, &self.plan_of(wanted).await?))
    }

    /// Plans, keeps the plan, and begins. With `asked`, what was made is remembered for whoever sends the same request again.
    pub async fn create(
        &self,
        wanted: &WantedRollout,
        actor: &str,
        asked: Option<Asked<'_>>,
    ) -> Result<RolloutView, RolloutError> {
        let name = wanted
            .name
            .as_deref()
            .map(str::trim)
            .filter(|name| !name.is_empty());
        if name.is_some_and(|name| name.chars().count() > NAME_MAX_LEN || name.contains(char::is_control)) {
            return Err(RolloutError::invalid(
                format!("A name is at most {NAME_MAX_LEN} printable characters."),
                "Choose a shorter one.",
            ));
        }
        // What is known of devices is written behind, and a rollout may only name those that the store knows.
        if !self.inner.fleet.flush().await {
            return Err(RolloutError::Store("the devices are not stored yet".to_owned()));
        }
        let (plan, taken_over) = self.plan_and_predecessor(wanted).await?;
        if plan.members.is_empty() {
            let why = match plan.left_out.as_slice() {
                [] => "no device is meant".to_owned(),
                [one] => format!("{}: {}", one.name, one.reason.text),
                several => format!(
                    "none of {} devices would be updated ({})",
                    several.len(),
                    reasons(several)
                ),
            };
            return Err(RolloutError::Nothing {
                text: format!("Nothing is to be done: {why}"),
            });
        }
        if self.state().model.rollouts().count() >= N_OPEN_MAX {
            return Err(RolloutError::NotNow {
                text: format!("{N_OPEN_MAX} rollouts are open already."),
            });
        }
        let mut images: Vec<Sha256> = plan.members.iter().map(|member| member.image).collect();
        if plan.rules.put_back {
            images.extend(plan.members.iter().filter_map(|member| member.way_back));
        }
        images.sort_unstable();
        images.dedup();
        let rollout = Rollout::new(plan.clone());
        let members: Vec<MemberRow> = (0_u32..)
            .zip(plan.members.iter().zip(rollout.members()))
            .map(|(idx, (member, standing))| MemberRow {
                device: member.device.clone(),
                idx,
                state: json!(standing),
            })
            .collect();
        let kind = taken_over.as_ref().map_or(wanted.kind, |old| old.kind);
        let about = About {
            name: name.map(str::to_owned),
            kind: kind.name().to_owned(),
            predecessor: taken_over.as_ref().map(|old| old.id),
            created_ms: self.inner.engine.clock().now().wall_ms,
            created_by: actor.to_owned(),
            ended_ms: None,
        };
        let new = NewRollout {
            name,
            kind: kind.name(),
            plan: &json!(plan),
            state: &json!(rollout.course()),
            created_ms: about.created_ms,
            created_by: actor,
            predecessor: about.predecessor,
            images: &images,
            asked,
        };
        let id = self.inner.store.create_rollout(&new, &members).await;
        let id = id.map_err(|error| RolloutError::store(&error))?;
        self.state().about.insert(id, about.clone());
        // What is handed over leaves the old one before the new one has it.
        let mut events = taken_over.map_or_else(Vec::new, |old| old.handed_over(id));
        events.push(Event::Add(id, plan));
        events.extend(self.standings_of(&rollout));
        if self.take(events.clone()).await.is_err() {
            // It is kept, so it happens: it begins as soon as something can be stored again, or with the next start.
            self.later(events);
        }
        // That it cannot be read again just now takes nothing back.
        let shown = self.show(id).await;
        Ok(shown.unwrap_or_else(|_| self.view(id, &about, &rollout, &BTreeMap::new())))
    }

    /// How the devices of a rollout stand by now.
    fn standings_of(&self, rollout: &Rollout) -> Vec<Event> {
        let devices = rollout.plan().members.iter().map(|member| member.device.clone());
        devices
            .map(|device| Event::Standing {
                online: self
                    .inner
                    .fleet
                    .known(&device.key())
                    .is_ok_and(|known| known.standing == model::inventory::State::Online),
                device,
            })
            .collect()
    }

    /// Nothing more begins; what runs goes on.
    pub async fn pause(&self, id: RolloutId) -> Result<RolloutView, RolloutError> {
        self.open_in(id, &[State::Running, State::Scheduled], "pause")
            .await?;
        self.take(vec![Event::Pause(id)]).await?;
        self.show(id).await
    }

    /// It goes on, also after a halt: what has failed is forgiven.
    pub async fn resume(&self, id: RolloutId) -> Result<RolloutView, RolloutError> {
        self.open_in(id, &[State::Paused, State::Halted], "resume")
            .await?;
        self.take(vec![Event::Resume(id)]).await?;
        self.show(id).await
    }

    /// It ends: nothing more begins, and what has not sent its first byte is cancelled; by force also what has.
    pub async fn abort(&self, id: RolloutId, force: bool) -> Result<RolloutView, RolloutError> {
        let open = [
            State::Running,
            State::Scheduled,
            State::Paused,
            State::Halted,
            State::Aborted,
        ];
        self.open_in(id, &open, "abort").await?;
        self.take(vec![Event::Abort { id, force }]).await?;
        self.show(id).await
    }

    /// Everything ends. Says which rollouts that were.
    pub async fn stop_all(&self) -> Result<Vec<RolloutSummaryView>, RolloutError> {
        let open: Vec<RolloutId> = {
            let state = self.state();
            let rollouts = state.model.rollouts();
            rollouts
                .filter(|(_, rollout)| !matches!(rollout.state(), State::Aborted | State::Finished))
                .map(|(id, _)| id)
                .collect()
        };
        self.take(vec![Event::StopAll]).await?;
        let mut views = Vec::new();
        for id in open {
            views.push(self.show(id).await?.summary);
        }
        Ok(views)
    }

    /// One device of a rollout is left as it is.
    pub async fn cancel_device(&self, id: RolloutId, named: &str) -> Result<RolloutView, RolloutError> {
        let device = self.inner.fleet.known(named)?.id;
        {
            let state = self.state();
            let rollout = state.model.rollout(id).ok_or_else(|| not_found(id))?;
            let Some((_, standing)) = rollout.member(&device) else {
                return Err(RolloutError::NotFound {
                    text: format!("{named} is not part of rollout {id}."),
                });
            };
            if matches!(standing.state, MemberState::Ended(_)) {
                return Err(RolloutError::NotNow {
                    text: format!("{named} has ended in rollout {id} already."),
                });
            }
        }
        self.take(vec![Event::Cancel(id, device)]).await?;
        self.show(id).await
    }

    /// A running job is cancelled, as long as its last byte has not left.
    pub async fn cancel_job(&self, job: JobId) -> Result<JobDetailView, RolloutError> {
        let shown = self.job(job).await?;
        let running: Option<(RolloutId, DeviceId)> = {
            let state = self.state();
            let mut running = state.running.iter();
            running
                .find(|(_, running)| running.live.job == Some(job))
                .map(|(key, _)| key.clone())
        };
        let Some((id, device)) = running else {
            return Err(RolloutError::NotNow {
                text: match shown.job.ended_ms {
                    Some(_) => format!("Job {job} has ended already."),
                    None => format!(
                        "Job {job} is not run by this server: it is a push by hand, or it was interrupted."
                    ),
                },
            });
        };
        self.take(vec![Event::Cancel(id, device.clone())]).await?;
        // Whoever names the very job means it also while its bytes leave.
        if let Some(running) = self.state().running.get(&(id, device)) {
            running.stop.send_replace(engine::Stop::Cancel);
        }
        self.job(job).await
    }

    /// Whether a rollout is open and in one of these states.
    async fn open_in(&self, id: RolloutId, states: &[State], what: &str) -> Result<(), RolloutError> {
        let state = self.state().model.rollout(id).map(Rollout::state);
        let state = match state {
            Some(state) => state.name().to_owned(),
            None => self.show(id).await?.summary.state,
        };
        if states.iter().any(|allowed| allowed.name() == state) {
            return Ok(());
        }
        Err(RolloutError::NotNow {
            text: format!("Rollout {id} is {state}: there is nothing to {what}."),
        })
    }
}
