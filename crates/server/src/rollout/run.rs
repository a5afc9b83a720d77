//! Carries out what is decided: jobs begin, are stopped, end; time passes; devices come and go.

use std::collections::HashMap;
use std::time::Duration;

use engine::{Report, Stop};
use model::fleet::{Command, Event, MemberState};
use model::id::{DeviceId, RolloutId};
use model::inventory::State as Standing;
use model::plan::{Member, Reason};
use model::time::Now;
use serde_json::json;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::job::{Assignment, Done, Live};
use super::{Rollouts, Running, State};
use crate::views::EventView;

/// How often throughput is measured (DESIGN.md, `at_once: auto`).
const MEASURE_EVERY: Duration = Duration::from_millis(100);
/// How often the clocks are compared while a rollout waits for its window: a clock that is set wakes nobody.
const COMPARE_EVERY: Duration = Duration::from_secs(15);
/// How often it is told how far a job is.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long to wait after a decision that could not be stored.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// How long pushes may take to their end when the server ends (RELIABILITY.md F66: at most 60 s).
const LAST_PUSHES: Duration = Duration::from_secs(45);
/// How long what only watches may take to stop.
const LAST_WATCHES: Duration = Duration::from_secs(5);

type Key = (RolloutId, DeviceId);

/// The jobs that run, and which task is whose.
#[derive(Default)]
struct Jobs {
    tasks: JoinSet<(Key, Done)>,
    of_task: HashMap<Id, (Key, Option<Assignment>)>,
}

impl Rollouts {
    /// Carries out rollouts until it is cancelled; then what pushes may finish, and what watches is left to the next start.
    pub async fn run(&self, cancel: CancellationToken) {
        let wanted = self.inner.commands_wanted.lock();
        let wanted = wanted.unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(mut commands) = wanted else { return };
        let mut jobs = Jobs::default();
        let mut fleet_events = self.inner.fleet.events();
        let mut waiting = self.standings();
        waiting.extend(self.quarantines());
        waiting.push(Event::Recovered);
        let mut wake: Option<Instant> = None;
        let mut measure = tokio::time::interval(MEASURE_EVERY);
        measure.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut measured, mut was_measuring) = (0, false);
        let mut compare = tokio::time::interval(COMPARE_EVERY);
        compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let undecided = std::mem::take(&mut *self.undecided());
            if !undecided.is_empty() {
                waiting.extend(undecided);
                // Devices may have come and gone since.
                waiting.extend(self.standings());
            }
            if !waiting.is_empty() {
                let events = std::mem::take(&mut waiting);
                if self.take(events.clone()).await.is_err() {
                    // Nothing has changed: the same again later. What was decided before goes on.
                    waiting = events;
                    wake = Some(Instant::now() + AFTER_FAILURE);
                }
            }
            let is_failing = !waiting.is_empty();
            let due = wake.unwrap_or_else(|| Instant::now() + Duration::from_hours(1));
            let (is_measuring, windows_matter) = {
                let state = self.state();
                let is_measuring = !state.running.is_empty() && state.model.weighs_throughput();
                (is_measuring, super::window::matter(&state.model))
            };
            if is_measuring && !was_measuring {
                // What came while nobody asked is no throughput.
                measured = self.inner.engine.acked_bytes();
                measure.reset();
            }
            was_measuring = is_measuring;
            // All arms can be dropped: they only wait, or take from queues.
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(command) = commands.recv() => {
                    self.carry_out(command, &mut jobs, &mut wake);
                    while let Ok(command) = commands.try_recv() {
                        self.carry_out(command, &mut jobs, &mut wake);
                    }
                }
                Some(ended) = jobs.tasks.join_next_with_id() => {
                    waiting.extend(self.job_ended(ended, &mut jobs).await);
                    while let Some(ended) = jobs.tasks.try_join_next_with_id() {
                        waiting.extend(self.job_ended(ended, &mut jobs).await);
                    }
                }
                () = tokio::time::sleep_until(due) => {
                    wake = None;
                    if !is_failing {
                        waiting.push(Event::Tick);
                    }
                }
                _ = compare.tick(), if windows_matter && !is_failing => waiting.push(Event::Tick),
                _ = measure.tick(), if is_measuring && !is_failing => {
                    let acked = self.inner.engine.acked_bytes();
                    let bytes_per_s = acked.saturating_sub(measured) * 1000 / u64::try_from(MEASURE_EVERY.as_millis()).unwrap_or(100);
                    measured = acked;
                    // Silence has nothing to say: it only ever lets more begin.
                    if bytes_per_s > 0 {
                        waiting.push(Event::Throughput { bytes_per_s });
                    }
                }
                event = fleet_events.recv() => {
                    let mut event = event;
                    // What has come together is decided on together.
                    loop {
                        match event {
                            Ok(event) => {
                                let events = self.of_fleet(&event, waiting.is_empty());
                                waiting.extend(events);
                            }
                            // Some were missed: everything anew.
                            Err(broadcast::error::RecvError::Lagged(_)) => waiting.extend(self.standings()),
                            Err(broadcast::error::RecvError::Closed) => break,
                        }
                        match fleet_events.try_recv() {
                            Ok(next) => event = Ok(next),
                            Err(broadcast::error::TryRecvError::Lagged(n)) => {
                                event = Err(broadcast::error::RecvError::Lagged(n));
                            }
                            // If it is closed, the next turn meets that.
                            Err(_) => break,
                        }
                    }
                }
            }
        }
        self.wind_up(&mut commands, &mut jobs).await;
    }

    /// How every device stands.
    fn standings(&self) -> Vec<Event> {
        let known = self.inner.fleet.all_known();
        known
            .into_iter()
            .map(|known| Event::Standing {
                online: known.standing == Standing::Online,
                device: known.id,
            })
            .collect()
    }

    /// What a change of the fleet means for rollouts, where everything before it is decided or something is not.
    fn of_fleet(&self, event: &EventView, all_decided: bool) -> Vec<Event> {
        let Some(key) = event.device.as_deref() else {
            return Vec::new();
        };
        if event.kind.starts_with("job.") {
            // Told by ourselves.
            return Vec::new();
        }
        if event.kind == "device.removed" {
            let Some(device) = self.member_called(key) else {
                return Vec::new();
            };
            let reason = Reason::new(
                "removed",
                "It was removed.",
                "Add it again: reflash device add ADDRESS.",
            );
            return vec![Event::Exclude { device, reason }];
        }
        let Ok(known) = self.inner.fleet.known(key) else {
            return Vec::new();
        };
        let online = known.standing == Standing::Online;
        let mut events = Vec::new();
        // Each decision costs a copy of all rollouts: none for what is known.
        if !all_decided || self.state().model.answers(&known.id) != Some(online) {
            events.push(Event::Standing {
                online,
                device: known.id.clone(),
            });
        }
        let image = {
            let state = self.state();
            let id = state.model.busy_with(&known.id);
            let rollout = id.and_then(|id| state.model.rollout(id));
            rollout.and_then(|rollout| Some(rollout.member(&known.id)?.0.image))
        };
        if let Some(reason) = image.and_then(|image| self.against(&known, image)) {
            events.push(Event::Exclude {
                device: known.id,
                reason,
            });
        }
        events
    }

    /// The device with this key, if a rollout is to update it.
    fn member_called(&self, key: &str) -> Option<DeviceId> {
        let state = self.state();
        let members = state
            .model
            .rollouts()
            .flat_map(|(_, rollout)| &rollout.plan().members);
        let mut devices = members.map(|member| &member.device);
        devices.find(|device| device.key() == key).cloned()
    }

    fn carry_out(&self, command: Command, jobs: &mut Jobs, wake: &mut Option<Instant>) {
        match command {
            Command::Start { id, device, n_pushes } => self.begin(id, device, n_pushes, false, jobs),
            Command::PutBack { id, device } => self.begin(id, device, 1, false, jobs),
            Command::Recover { id, device } => self.begin(id, device, 1, true, jobs),
            Command::Cancel { id, device, force } => {
                let state = self.state();
                let Some(running) = state.running.get(&(id, device)) else {
                    return;
                };
                // Once bytes are leaving, only force stops them.
                if force || running.live.state != "uploading" {
                    running.stop.send_replace(Stop::Cancel);
                }
            }
            Command::Wake { at } => *wake = Some(self.instant(at)),
        }
    }

    /// A moment of the model on the clock of the runtime.
    fn instant(&self, at: Now) -> Instant {
        let now = self.inner.engine.clock().now();
        let by_boot = at.boot.saturating_sub(now.boot);
        Instant::now() + by_boot
    }

    fn begin(&self, id: RolloutId, device: DeviceId, n_pushes: u8, recover: bool, jobs: &mut Jobs) {
        let (stop, stopped) = watch::channel(Stop::No);
        let assignment = {
            let mut state = self.state();
            let Some(rollout) = state.model.rollout(id) else {
                return;
            };
            let Some((member, standing)) = rollout.member(&device) else {
                return;
            };
            let since_ms = match &standing.state {
                MemberState::Running { since } | MemberState::PuttingBack { since, .. } => since.wall_ms,
                _ => 0,
            };
            let back = matches!(standing.state, MemberState::PuttingBack { .. });
            let rules = &rollout.plan().rules;
            let (member, soak, permits, n_tries) = if back {
                // By the method that has just brought it an image.
                let n_tries = standing.n_tries.saturating_sub(1);
                (
                    self.member_back(member),
                    rules.soak,
                    rules.permits_back(),
                    n_tries,
                )
            } else {
                let soak = rollout.soak_of(&device);
                (member.clone(), soak, rules.permits(), standing.n_tries)
            };
            let assignment = Assignment {
                rollout: id,
                member,
                soak,
                permits,
                n_tries,
                max_pushes: n_pushes,
                since_ms,
                // One that is put back is sent one image more, once.
                n_told: if back { 0 } else { standing.n_pushes },
                recover,
            };
            let live = Live {
                job: None,
                state: "looking",
                acked_bytes: 0,
                len_bytes: assignment.member.len_bytes,
            };
            state.running.insert(
                (id, device.clone()),
                Running {
                    stop,
                    live,
                    told: None,
                },
            );
            assignment
        };
        self.spawn((id, device), assignment, stopped, jobs);
    }

    /// A member that gets what it ran before.
    fn member_back(&self, member: &Member) -> Member {
        let mut back = member.clone();
        if let Some(image) = member.way_back {
            let repository = &self.inner.repository;
            let info = repository.inspected(&image).map(|(info, _, _)| info);
            back.image_name = repository.name_of(image).unwrap_or_else(|| member.runs.clone());
            back.len_bytes = info.map_or(member.len_bytes, |info| info.len_bytes);
            back.image = image;
        }
        back
    }

    fn spawn(&self, key: Key, assignment: Assignment, stopped: watch::Receiver<Stop>, jobs: &mut Jobs) {
        let rollouts = self.clone();
        let span = tracing::info_span!("update", rollout = %key.0, device = %key.1);
        let (own, again) = (key.clone(), assignment.clone());
        let task = async move {
            let done = rollouts.work(&assignment, stopped).await;
            (own, done)
        };
        let task = jobs.tasks.spawn(task.instrument(span));
        jobs.of_task.insert(task.id(), (key, Some(again)));
    }

    async fn job_ended(&self, ended: Result<(Id, (Key, Done)), JoinError>, jobs: &mut Jobs) -> Vec<Event> {
        let (task, done) = match ended {
            Ok((task, (_, done))) => (task, Some(done)),
            Err(error) => {
                tracing::error!(%error, "a job has ended by a fault of the program");
                (error.id(), None)
            }
        };
        let Some((key, again)) = jobs.of_task.remove(&task) else {
            return Vec::new();
        };
        let event = match done {
            Some(done) => {
                let image = again.as_ref().map(|assignment| assignment.member.image);
                // Before the end itself: nothing may begin in between.
                let mut events = match image.filter(|_| done.is_against_image()) {
                    Some(image) => self.quarantine_if_due(image).await,
                    None => Vec::new(),
                };
                events.extend(self.after(&key, done));
                events
            }
            None => return self.after_fault(key, again, jobs).await,
        };
        let is_last = {
            let mut state = self.state();
            state.running.remove(&key);
            state.running.is_empty()
        };
        if is_last {
            self.inner.images.lock().await.clear();
        }
        event
    }

    fn after(&self, (id, device): &Key, done: Done) -> Vec<Event> {
        let (id, device) = (*id, device.clone());
        match done {
            Done::Ended { outcome, n_pushes } => {
                self.inner.metrics.job_ended(
                    device.family.as_str(),
                    outcome.ending.name(),
                    outcome.reason.as_deref().unwrap_or(""),
                );
                vec![Event::Ended {
                    id,
                    device,
                    outcome,
                    n_pushes,
                }]
            }
            Done::Excluded(reason) => vec![
                Event::Exclude {
                    device: device.clone(),
                    reason,
                },
                Event::NothingDone { id, device },
            ],
            Done::Nothing => vec![Event::NothingDone { id, device }],
            // Of what was taken over, the work is not over.
            Done::Left | Done::TakenOver => Vec::new(),
        }
    }

    /// A fault of ours in a job is that job's: what became of the device is found out as after a crash (RELIABILITY.md F67).
    async fn after_fault(&self, key: Key, again: Option<Assignment>, jobs: &mut Jobs) -> Vec<Event> {
        self.inner.fleet.let_go(&key.1).await;
        let was_recovery = again.as_ref().is_none_or(|assignment| assignment.recover);
        match again {
            Some(mut assignment) if !was_recovery => {
                assignment.recover = true;
                let stopped = {
                    let mut state = self.state();
                    let (stop, stopped) = watch::channel(Stop::No);
                    if let Some(running) = state.running.get_mut(&key) {
                        running.stop = stop;
                    }
                    stopped
                };
                self.spawn(key, assignment, stopped, jobs);
                Vec::new()
            }
            _ => {
                self.state().running.remove(&key);
                let outcome = model::outcome::Outcome::because(
                    model::outcome::Ending::Unverified,
                    "internal error",
                    "Reflash has failed in the middle of this update: what the device runs is not known.",
                    "Look at what the device runs, and send the log to the authors.",
                );
                vec![Event::Ended {
                    id: key.0,
                    device: key.1,
                    outcome,
                    n_pushes: model::job::MAX_PUSHES,
                }]
            }
        }
    }

    /// Tells how far a job is.
    pub(super) fn report(&self, id: RolloutId, device: &DeviceId, report: &Report<'_>) {
        let mut state = self.state();
        let State {
            running,
            last_jobs,
            model,
            ..
        } = &mut *state;
        let Some(running) = running.get_mut(&(id, device.clone())) else {
            return;
        };
        match report {
            Report::Begun(job) => {
                running.live.job = Some(*job);
                last_jobs.insert((id, device.clone()), *job);
                let member = model.rollout(id).and_then(|rollout| rollout.member(device));
                let member = member.map(|(member, _)| member);
                let detail = json!({ "rollout": id.0, "job": job.0, "device": device.key(),
                                     "name": member.map(|member| &member.name),
                                     "from": member.map(|member| &member.runs),
                                     "to": member.map(|member| &member.image_name) });
                self.inner.fleet.note("job.started", Some(device), detail);
            }
            Report::Phase(job) => {
                running.live.state = job.phase.name();
                if running.live.state != "uploading" {
                    running.live.acked_bytes = 0;
                }
            }
            Report::Progress {
                acked_bytes,
                len_bytes,
                ..
            } => {
                running.live.acked_bytes = *acked_bytes;
                running.live.len_bytes = *len_bytes;
            }
            Report::TooLate => return,
        }
        let live = running.live.clone();
        // Every turn is told, and how far it is once a second.
        let now = Instant::now();
        let is_turn = running.told.as_ref().is_none_or(|(of, _)| *of != live.state);
        if !is_turn
            && running
                .told
                .as_ref()
                .is_some_and(|(_, at)| now < *at + TELL_EVERY)
        {
            return;
        }
        running.told = Some((live.state, now));
        drop(state);
        // Its end is told by the rollout.
        if self.inner.live.receiver_count() == 0 || live.state == "finished" {
            return;
        }
        // Nobody listens any more: then nobody misses it.
        let _ = self.inner.live.send(EventView {
            seq: 0,
            at_ms: self.inner.engine.clock().now().wall_ms,
            kind: "job.progress".to_owned(),
            device: Some(device.key()),
            detail: json!({ "rollout": id.0, "job": live.job.map(|job| job.0), "device": device.key(), "state": live.state,
                            "percent": live.percent(), "acked_bytes": live.acked_bytes, "len_bytes": live.len_bytes }),
        });
    }

    /// The server ends: what pushes gets its time, what watches is left to the journal.
    async fn wind_up(&self, commands: &mut mpsc::UnboundedReceiver<Command>, jobs: &mut Jobs) {
        commands.close();
        let until = Instant::now() + LAST_PUSHES;
        let mut turn = tokio::time::interval(MEASURE_EVERY);
        while !jobs.tasks.is_empty() && Instant::now() < until {
            for running in self.state().running.values() {
                if running.live.state != "uploading" && *running.stop.borrow() != Stop::Leave {
                    running.stop.send_replace(Stop::Leave);
                }
            }
            tokio::select! {
                Some(ended) = jobs.tasks.join_next_with_id() => self.keep(ended, jobs).await,
                _ = turn.tick() => {}
            }
        }
        for running in self.state().running.values() {
            running.stop.send_replace(Stop::Leave);
        }
        let last = async {
            while let Some(ended) = jobs.tasks.join_next_with_id().await {
                self.keep(ended, jobs).await;
            }
        };
        if tokio::time::timeout(LAST_WATCHES, last).await.is_err() {
            tracing::warn!("jobs are left in the middle; the next start looks at their devices");
        }
        jobs.tasks.shutdown().await;
    }

    /// Keeps the end of a job; what follows from it is for the next start.
    async fn keep(&self, ended: Result<(Id, (Key, Done)), JoinError>, jobs: &mut Jobs) {
        let events = self.job_ended(ended, jobs).await;
        if !events.is_empty()
            && let Err(error) = self.take(events).await
        {
            tracing::warn!(
                error = model::chain::chain(&error),
                "the end of a job is told by the journal alone"
            );
        }
    }
}
