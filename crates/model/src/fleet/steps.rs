//! What follows from what happened.

use std::sync::Arc;
use std::time::Duration;

use super::after::{not_put_back, why_left};
use super::counts::is_worth_another_try;
use super::{Changes, Command, Ended, Event, Fleet, MemberState, Opening, Rollout, State};
use crate::family;
use crate::id::{DeviceId, RolloutId};
use crate::outcome::{Ending, Outcome};
use crate::plan::{AtOnce, Member, QUARANTINED, Reason};
use crate::time::Now;

/// How long members that stopped answering are waited for once everybody else has ended, where no deadline was given.
/// Guess: longer than a restart of an access point, shorter than anybody watches.
const PATIENCE: Duration = Duration::from_mins(10);

/// The longest that is added to a retry, so that devices which failed together do not come back together (RELIABILITY.md 5, 16).
const MAX_JITTER_MS: u64 = 30_000;

/// Doublings of the pause before a retry; longer ones help nobody.
const MAX_DOUBLINGS: u32 = 8;

/// So many looks at the throughput, 100 ms each, with all places taken come before more are tried.
/// Guess: the first look after a growth still shows devices that are being asked; `bench/` measures rollouts with it.
const FULL_LOOKS: u8 = 2;

/// So many times as many are tried next. Guess: a home of 250 is at its full speed within a second, and one too many
/// steps costs a crowded access point no more than devices that wait for each other.
const GROWTH: u32 = 4;

/// So many failed devices are named.
const MAX_NAMED: usize = 3;

/// Takes what happened into account, and says what to do.
pub fn step(fleet: &mut Fleet, event: Event, now: Now) -> Vec<Command> {
    let mut commands = Vec::new();
    fleet.take(event, now, &mut commands);
    if !fleet.asleep {
        fleet.go_on(now, &mut commands);
        commands.extend(fleet.next_moment(now).map(|at| Command::Wake { at }));
    }
    commands
}

impl Fleet {
    /// What is to be stored since this was asked last.
    pub fn take_changes(&mut self) -> Vec<Changes> {
        self.rollouts
            .iter_mut()
            .filter_map(|(&id, rollout)| rollout.take_changes(id))
            .collect()
    }

    fn take(&mut self, event: Event, now: Now, commands: &mut Vec<Command>) {
        match event {
            Event::Add(id, plan) => {
                if !self.rollouts.contains_key(&id) {
                    let heard: Vec<(DeviceId, bool)> = plan
                        .members
                        .iter()
                        .filter_map(|member| self.heard.get_key_value(&member.device))
                        .map(|(device, &online)| (device.clone(), online))
                        .collect();
                    self.take_in(id, Rollout::new(plan));
                    self.recount_all(id);
                    for (device, online) in heard {
                        self.hear(&device, online);
                    }
                }
            }
            Event::Pause(id) => {
                if let Some(rollout) = self.rollouts.get_mut(&id)
                    && matches!(rollout.state(), State::Scheduled | State::Running)
                {
                    rollout.steer(|course| course.state = State::Paused);
                }
            }
            Event::Resume(id) => {
                if let Some(rollout) = self.rollouts.get_mut(&id) {
                    rollout.resume();
                }
            }
            Event::Abort { id, force } => self.abort(id, force, commands),
            Event::StopAll => {
                let ids: Vec<RolloutId> = self.rollouts.keys().copied().collect();
                for id in ids {
                    self.abort(id, false, commands);
                }
            }
            Event::Cancel(id, device) => {
                if let Some(idx) = self.idx_of(id, &device)
                    && self.leave(id, idx, Ended::Cancelled)
                {
                    commands.push(Command::Cancel {
                        id,
                        device,
                        force: false,
                    });
                }
            }
            Event::Standing { device, online } => {
                self.hear(&device, online);
                self.heard.insert(device, online);
            }
            Event::Exclude { device, reason } => {
                for (id, idx) in self.members_of.get(&device).cloned().unwrap_or_default() {
                    self.leave(id, idx, Ended::Skipped(reason.clone()));
                }
            }
            Event::Window { id, open_until, next } => {
                if let Some(rollout) = self.rollouts.get_mut(&id) {
                    rollout.hear_of_window(open_until, next, now);
                }
            }
            Event::Ended {
                id,
                device,
                outcome,
                n_pushes,
            } => {
                if let Some(idx) = self.running_idx_of(id, &device) {
                    self.job_ended(id, idx, outcome, n_pushes, now, commands);
                }
            }
            Event::NothingDone { id, device } => {
                if let Some(idx) = self.running_idx_of(id, &device) {
                    self.nothing_done(id, idx, commands);
                }
            }
            Event::Corrected { id, device, outcome } => self.correct(id, &device, outcome),
            Event::Quarantined { image, reason } => {
                for rollout in self.rollouts.values_mut() {
                    rollout.halt_for(image, &reason);
                }
            }
            Event::Recovered => self.wake_up(now, commands),
            Event::Throughput { bytes_per_s } => {
                for rollout in self.rollouts.values_mut() {
                    rollout.weigh(bytes_per_s);
                }
            }
            Event::Tick => {}
        }
    }

    /// Takes a rollout in, without its counts.
    pub(super) fn take_in(&mut self, id: RolloutId, rollout: Rollout) {
        let n_members = u32::try_from(rollout.members.len()).unwrap_or(u32::MAX);
        for (idx, (member, standing)) in (0..n_members).zip(rollout.plan.members.iter().zip(&rollout.members))
        {
            if matches!(standing.state, MemberState::Ended(_)) {
                continue;
            }
            self.members_of
                .entry(member.device.clone())
                .or_default()
                .push((id, idx));
            if standing.state.is_running() {
                self.occupy(id, member);
            }
        }
        self.rollouts.insert(id, rollout);
    }

    /// Counts all members of a rollout that was taken in; of several, after all were.
    pub(super) fn recount_all(&mut self, id: RolloutId) {
        let Some(rollout) = self.rollouts.get(&id) else {
            return;
        };
        let plan = Arc::clone(&rollout.plan);
        for (idx, member) in (0..).zip(&plan.members) {
            self.recount(id, idx, &member.device);
        }
    }

    /// Notes that a job of this rollout runs on this device.
    fn occupy(&mut self, id: RolloutId, member: &Member) {
        self.busy.insert(member.device.clone(), id);
        if let Some(group) = &member.group {
            self.in_group.entry(group.clone()).or_default().push(id);
        }
    }

    /// Notes that it no longer does.
    fn vacate(&mut self, id: RolloutId, member: &Member) {
        if self.busy.get(&member.device) == Some(&id) {
            self.busy.remove(&member.device);
        }
        if let Some(group) = &member.group
            && let Some(running) = self.in_group.get_mut(group)
        {
            if let Some(place) = running.iter().position(|&other| other == id) {
                running.swap_remove(place);
            }
            if running.is_empty() {
                self.in_group.remove(group);
            }
        }
    }

    fn recount(&mut self, id: RolloutId, idx: u32, device: &DeviceId) {
        let is_busy_elsewhere = self.busy.get(device).is_some_and(|&other| other != id);
        if let Some(rollout) = self.rollouts.get_mut(&id) {
            rollout.recount(idx, is_busy_elsewhere);
        }
    }

    /// The open member of this rollout that is this device.
    fn idx_of(&self, id: RolloutId, device: &DeviceId) -> Option<u32> {
        let members = self.members_of.get(device)?;
        members
            .iter()
            .find(|(rollout, _)| *rollout == id)
            .map(|&(_, idx)| idx)
    }

    fn running_idx_of(&self, id: RolloutId, device: &DeviceId) -> Option<u32> {
        let idx = self.idx_of(id, device)?;
        let state = &self.rollouts.get(&id)?.standing(idx)?.state;
        state.is_running().then_some(idx)
    }

    /// The only way from one state of a member to another.
    pub(super) fn put(&mut self, id: RolloutId, idx: u32, state: MemberState) {
        let Some(rollout) = self.rollouts.get_mut(&id) else {
            return;
        };
        let plan = Arc::clone(&rollout.plan);
        let Some(member) = usize::try_from(idx).ok().and_then(|idx| plan.members.get(idx)) else {
            return;
        };
        let ran = rollout
            .standing(idx)
            .is_some_and(|standing| standing.state.is_running());
        let runs = state.is_running();
        let ended = matches!(state, MemberState::Ended(_));
        rollout.change(idx, |standing| standing.state = state);
        if ran && !runs {
            self.vacate(id, member);
            self.unsettled.remove(&(id, idx));
        }
        if runs && !ran {
            self.occupy(id, member);
        }
        self.recount(id, idx, &member.device);
        if ended && let Some(others) = self.members_of.get_mut(&member.device) {
            others.retain(|&other| other != (id, idx));
            if others.is_empty() {
                self.members_of.remove(&member.device);
            }
        }
        // The same device in other rollouts may begin now, or no longer.
        if ran != runs {
            for (other, idx) in self.members_of.get(&member.device).cloned().unwrap_or_default() {
                self.recount(other, idx, &member.device);
            }
        }
    }

    /// Ends a member that has not begun; one that runs is only marked, and the answer is true.
    fn leave(&mut self, id: RolloutId, idx: u32, ended: Ended) -> bool {
        let Some(rollout) = self.rollouts.get_mut(&id) else {
            return false;
        };
        match rollout.standing(idx).map(|standing| &standing.state) {
            Some(MemberState::Running { .. } | MemberState::PuttingBack { .. }) => {
                rollout.change(idx, |standing| standing.leave = Some(ended));
                true
            }
            Some(MemberState::Queued | MemberState::Waiting { .. }) => {
                self.put(id, idx, MemberState::Ended(ended));
                false
            }
            Some(MemberState::Ended(_)) | None => false,
        }
    }

    fn abort(&mut self, id: RolloutId, force: bool, commands: &mut Vec<Command>) {
        let Some(rollout) = self.rollouts.get_mut(&id) else {
            return;
        };
        if rollout.derived.n_open == 0 {
            return;
        }
        rollout.steer(|course| course.state = State::Aborted);
        let plan = Arc::clone(&rollout.plan);
        for (idx, member) in (0..).zip(&plan.members) {
            if self.leave(id, idx, Ended::Cancelled) {
                commands.push(Command::Cancel {
                    id,
                    device: member.device.clone(),
                    force,
                });
            }
        }
    }

    fn hear(&mut self, device: &DeviceId, online: bool) {
        for (id, idx) in self.members_of.get(device).cloned().unwrap_or_default() {
            if let Some(rollout) = self.rollouts.get_mut(&id)
                && rollout
                    .standing(idx)
                    .is_some_and(|standing| standing.online != online)
            {
                rollout.change(idx, |standing| standing.online = online);
                self.recount(id, idx, device);
            }
        }
    }

    fn job_ended(
        &mut self,
        id: RolloutId,
        idx: u32,
        outcome: Outcome,
        n_pushes: u8,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        let was_interrupted = outcome.ending == Ending::Cancelled
            && outcome.reason.as_deref() == Some(family::Reason::Interrupted.name());
        if was_interrupted && n_pushes == 0 {
            return self.nothing_done(id, idx, commands);
        }
        let Some(rollout) = self.rollouts.get_mut(&id) else {
            return;
        };
        if let Some(state) = rollout.put_back(idx, &outcome, n_pushes, now) {
            if let MemberState::PuttingBack { .. } = state {
                commands.extend(rollout.command_to_put_back(id, idx));
                self.unsettled.remove(&(id, idx));
            }
            return self.put(id, idx, state);
        }
        rollout.change(idx, |standing| {
            standing.n_tries = standing.n_tries.saturating_add(1);
            standing.n_pushes = standing.n_pushes.saturating_add(n_pushes);
        });
        let state = match rollout.next_try(idx, &outcome) {
            Some(pause) => MemberState::Waiting {
                until: now.later(pause),
            },
            None => rollout.end_or_put_back(idx, outcome, now),
        };
        if let MemberState::PuttingBack { .. } = state {
            commands.extend(rollout.command_to_put_back(id, idx));
        }
        self.put(id, idx, state);
        if let Some(rollout) = self.rollouts.get_mut(&id) {
            rollout.halt_if_too_much_failed();
        }
    }

    fn nothing_done(&mut self, id: RolloutId, idx: u32, commands: &mut Vec<Command>) {
        let rollout = self.rollouts.get(&id);
        let Some((rollout, standing)) = rollout.and_then(|rollout| Some((rollout, rollout.standing(idx)?)))
        else {
            return;
        };
        let leave = standing.leave.clone();
        if let MemberState::PuttingBack { failed, .. } = &standing.state {
            if let Some(leave) = leave {
                let ended = Ended::Outcome(not_put_back(failed.clone(), &why_left(&leave)));
                self.put(id, idx, MemberState::Ended(ended));
            } else {
                commands.extend(rollout.command_to_put_back(id, idx));
                self.unsettled.remove(&(id, idx));
            }
            return;
        }
        self.put(id, idx, leave.map_or(MemberState::Queued, MemberState::Ended));
    }

    /// After a restart: moments come over to the clock of this boot, and what ran is settled.
    fn wake_up(&mut self, now: Now, commands: &mut Vec<Command>) {
        if !std::mem::take(&mut self.asleep) {
            return;
        }
        let ids: Vec<RolloutId> = self.rollouts.keys().copied().collect();
        for id in ids {
            let Some(rollout) = self.rollouts.get_mut(&id) else {
                continue;
            };
            rollout.steer(|course| course.idle_since = None);
            let plan = Arc::clone(&rollout.plan);
            for (idx, member) in (0..).zip(&plan.members) {
                let Some(rollout) = self.rollouts.get(&id) else {
                    continue;
                };
                let Some(standing) = rollout.standing(idx) else {
                    continue;
                };
                match &standing.state {
                    MemberState::Running { since } | MemberState::PuttingBack { since, .. } => {
                        let age =
                            Duration::from_millis(u64::try_from(now.wall_ms - since.wall_ms).unwrap_or(0));
                        // Its job is found in the journal by the time on the wall, which must not move.
                        let since = Now {
                            boot: now.earlier(age).boot,
                            ..*since
                        };
                        let state = match &standing.state {
                            MemberState::PuttingBack { n_missed, failed, .. } => MemberState::PuttingBack {
                                since,
                                n_missed: *n_missed,
                                failed: failed.clone(),
                            },
                            _ => MemberState::Running { since },
                        };
                        self.put(id, idx, state);
                        self.unsettled.insert((id, idx));
                        commands.push(Command::Recover {
                            id,
                            device: member.device.clone(),
                        });
                    }
                    MemberState::Waiting { until } => {
                        let left =
                            Duration::from_millis(u64::try_from(until.wall_ms - now.wall_ms).unwrap_or(0));
                        // A wall clock that was wrong cannot make it longer than it ever was.
                        let left = left.min(rollout.pause_after(idx, standing.n_tries));
                        let until = now.later(left);
                        self.put(id, idx, MemberState::Waiting { until });
                    }
                    MemberState::Queued | MemberState::Ended(_) => {}
                }
            }
        }
    }

    /// All that is due, and all that may begin.
    fn go_on(&mut self, now: Now, commands: &mut Vec<Command>) {
        let ids: Vec<RolloutId> = self
            .rollouts
            .iter()
            .filter(|(_, rollout)| {
                rollout.derived.n_open > 0 || !matches!(rollout.state(), State::Finished | State::Aborted)
            })
            .map(|(&id, _)| id)
            .collect();
        for &id in &ids {
            self.retry_what_is_due(id, now);
            self.give_up_on_absent(id, now);
        }
        for &id in &ids {
            self.fill_canary_places(id);
            if let Some(rollout) = self.rollouts.get_mut(&id) {
                rollout.advance();
            }
            if self.unsettled.is_empty() {
                self.begin_what_may(id, now, commands);
            }
            if let Some(rollout) = self.rollouts.get_mut(&id)
                && rollout.derived.n_open == 0
                && rollout.state() != State::Aborted
            {
                rollout.steer(|course| course.state = State::Finished);
            }
        }
    }

    fn retry_what_is_due(&mut self, id: RolloutId, now: Now) {
        while let Some(&(until, idx)) = self
            .rollouts
            .get(&id)
            .and_then(|rollout| rollout.derived.waits.first())
            && until <= now.boot
        {
            self.put(id, idx, MemberState::Queued);
        }
    }

    /// Ends members that do not answer: at the deadline, or, where there is none, a while after everybody else has ended.
    /// With a window, the deadline ends all whose turn has not come.
    fn give_up_on_absent(&mut self, id: RolloutId, now: Now) {
        let Some(rollout) = self.rollouts.get_mut(&id) else {
            return;
        };
        let nobody_else = rollout.derived.n_open > 0 && rollout.n_holding_up_to(u32::MAX) == 0;
        let window = rollout.plan.rules.window.as_ref();
        let missed = |online: bool| match window.filter(|_| online) {
            Some(window) => Ended::MissedWindow(missed_window(&window.name)),
            None => Ended::MissedWindow(missed_deadline()),
        };
        let (of_absent, of_present) = (missed(false), window.map(|_| missed(true)));
        let mut of_present = of_present.filter(|_| rollout.derived.n_open > rollout.derived.n_running);
        let ended = match rollout.plan.rules.when_back_until_ms {
            Some(deadline_ms) => (now.wall_ms >= deadline_ms).then_some(of_absent),
            None if nobody_else && rollout.state() == State::Running => {
                of_present = None;
                let since = rollout.course.idle_since.unwrap_or(now);
                rollout.steer(|course| course.idle_since = Some(since));
                (now.since(since) >= PATIENCE).then(|| Ended::Skipped(stopped_answering()))
            }
            None => {
                rollout.steer(|course| course.idle_since = None);
                None
            }
        };
        let Some(ended) = ended.filter(|_| rollout.derived.n_away > 0 || of_present.is_some()) else {
            return;
        };
        let mut missed: Vec<(u32, Ended)> = Vec::new();
        for (idx, standing) in (0..).zip(&rollout.members) {
            if matches!(standing.state, MemberState::Queued | MemberState::Waiting { .. }) {
                let ended = if standing.online {
                    of_present.as_ref()
                } else {
                    Some(&ended)
                };
                missed.extend(ended.map(|ended| (idx, ended.clone())));
            }
        }
        for (idx, ended) in missed {
            self.put(id, idx, MemberState::Ended(ended));
        }
    }

    /// Gives the place of a canary that cannot take it to the next that can.
    fn fill_canary_places(&mut self, id: RolloutId) {
        loop {
            let Some(rollout) = self.rollouts.get_mut(&id) else {
                return;
            };
            let n_canaries = rollout.plan.n_canaries;
            let sums = &rollout.derived;
            if rollout.course.wave > 0 || sums.n_places >= n_canaries || rollout.state() != State::Running {
                return;
            }
            let absent = (0..).zip(&rollout.members).find(|(_, standing)| {
                standing.wave == 0
                    && !standing.online
                    && matches!(standing.state, MemberState::Queued | MemberState::Waiting { .. })
            });
            let absent = absent.map(|(idx, _): (u32, _)| idx);
            let image = |idx: u32| {
                let idx = usize::try_from(idx).ok()?;
                rollout.plan.members.get(idx).map(|member| member.image)
            };
            let wanted = absent.and_then(image);
            let Some((_, _, next)) = sums
                .ready
                .values()
                .flatten()
                .filter(|(wave, _)| *wave > 0)
                .map(|&(wave, idx)| (wanted.is_some() && image(idx) != wanted, wave, idx))
                .min()
            else {
                return;
            };
            let last_wave = rollout.plan.n_waves.saturating_sub(1);
            let moves = [(Some(next), 0), (absent, last_wave)];
            for (idx, wave) in moves {
                let Some(idx) = idx else { continue };
                let Some(rollout) = self.rollouts.get_mut(&id) else {
                    return;
                };
                rollout.change(idx, |standing| standing.wave = wave);
                // Neither runs in another rollout: the one is ready, the other absent.
                rollout.recount(idx, false);
            }
        }
    }

    fn begin_what_may(&mut self, id: RolloutId, now: Now, commands: &mut Vec<Command>) {
        while let Some(idx) = self.next_to_begin(id, now) {
            self.put(id, idx, MemberState::Running { since: now });
            let Some(rollout) = self.rollouts.get(&id) else {
                return;
            };
            let Some((member, standing)) = usize::try_from(idx)
                .ok()
                .and_then(|idx| rollout.plan.members.get(idx).zip(rollout.members.get(idx)))
            else {
                return;
            };
            commands.push(Command::Start {
                id,
                device: member.device.clone(),
                n_pushes: rollout
                    .plan
                    .rules
                    .max_pushes
                    .saturating_sub(standing.n_pushes)
                    .max(1),
            });
        }
    }

    /// The first member that may begin now: of the lowest wave, and of that the first in the plan. One that would not have
    /// ended when the window closes holds up nobody.
    fn next_to_begin(&self, id: RolloutId, now: Now) -> Option<u32> {
        let rollout = self.rollouts.get(&id)?;
        let sums = &rollout.derived;
        let may_begin = rollout.state() == State::Running && rollout.is_open(now);
        if !may_begin || sums.n_running >= rollout.course.n_at_once {
            return None;
        }
        sums.ready
            .iter()
            .filter_map(|(group, ready)| {
                let mut in_turn = ready.iter().take_while(|(wave, _)| *wave <= rollout.course.wave);
                let first = in_turn.find(|(_, idx)| {
                    let place = usize::try_from(*idx);
                    place.is_ok_and(|place| rollout.fits(place, now))
                })?;
                let has_place = group.as_ref().is_none_or(|group| self.has_place(group, rollout));
                has_place.then_some(*first)
            })
            .min()
            .map(|(_, idx)| idx)
    }

    /// Whether one more job may run in a group: by the rules of this rollout, and of all that have jobs in it.
    fn has_place(&self, group: &str, rollout: &Rollout) -> bool {
        let running = self.in_group.get(group).map_or(&[][..], Vec::as_slice);
        let most = running
            .iter()
            .filter_map(|other| self.rollouts.get(other))
            .chain([rollout])
            .map(|rollout| rollout.plan.rules.at_once_in(group))
            .min();
        most.is_some_and(|most| running.len() < usize::try_from(most).unwrap_or(usize::MAX))
    }

    /// When something will be due.
    fn next_moment(&self, now: Now) -> Option<Now> {
        let moments = self.rollouts.values().flat_map(|rollout| {
            let sums = &rollout.derived;
            let waits_for_window = rollout.plan.rules.window.is_some() && sums.n_open > sums.n_running;
            let turn = if rollout.is_open(now) {
                rollout.opening.until
            } else {
                rollout.opening.next
            };
            // A moment that has passed is no reason to come back: whoever knows the calendar tells the next.
            let turn = turn
                .filter(|turn| waits_for_window && turn.boot > now.boot)
                .map(|turn| turn.boot.saturating_sub(now.boot));
            let retry = sums
                .waits
                .first()
                .map(|&(until, _)| until.saturating_sub(now.boot));
            let deadline = rollout
                .plan
                .rules
                .when_back_until_ms
                .filter(|_| sums.n_away > 0 || waits_for_window)
                .map(|deadline_ms| {
                    Duration::from_millis(u64::try_from(deadline_ms - now.wall_ms).unwrap_or(0))
                });
            let patience = rollout
                .course
                .idle_since
                .filter(|_| sums.n_open > 0)
                .map(|since| PATIENCE.saturating_sub(now.since(since)));
            [turn, retry, deadline, patience]
        });
        moments.flatten().min().map(|left| now.later(left))
    }
}

impl Rollout {
    fn resume(&mut self) {
        match self.state() {
            State::Paused => {
                let waits = self.plan.rules.window.is_some() && !self.course.has_opened;
                self.steer(|course| {
                    course.state = if waits { State::Scheduled } else { State::Running };
                });
            }
            State::Halted => {
                let failed: Vec<u32> = (0..)
                    .zip(&self.members)
                    .filter(|(_, standing)| is_unforgiven(standing))
                    .map(|(idx, _)| idx)
                    .collect();
                for idx in failed {
                    self.change(idx, |standing| standing.forgiven = true);
                }
                let forgiven = self.derived.n_failed;
                self.steer(|course| {
                    course.state = State::Running;
                    course.cause = None;
                    course.forgiven = forgiven;
                });
            }
            State::Scheduled | State::Running | State::Finished | State::Aborted => {}
        }
    }

    /// Its window opens, closes, or was moved.
    fn hear_of_window(&mut self, until: Option<Now>, next: Option<Now>, now: Now) {
        self.opening = Opening { until, next };
        if self.plan.rules.window.is_none() || !self.is_open(now) {
            return;
        }
        self.steer(|course| {
            course.has_opened = true;
            if course.state == State::Scheduled {
                course.state = State::Running;
            }
        });
    }

    /// The pause before another try; none where there is to be no other.
    fn next_try(&self, idx: u32, outcome: &Outcome) -> Option<Duration> {
        let standing = self.standing(idx)?;
        let rules = &self.plan.rules;
        let another = is_worth_another_try(outcome.ending, outcome.reason.as_deref())
            && standing.n_tries < rules.max_tries
            && standing.n_pushes < rules.max_pushes
            && standing.leave.is_none();
        another.then(|| self.pause_after(idx, standing.n_tries))
    }

    /// The pause after so many tries.
    fn pause_after(&self, idx: u32, n_tries: u8) -> Duration {
        let doublings = u32::from(n_tries).saturating_sub(1).min(MAX_DOUBLINGS);
        let pause = self.plan.rules.retry_after.saturating_mul(1 << doublings);
        let member = usize::try_from(idx)
            .ok()
            .and_then(|idx| self.plan.members.get(idx));
        pause + member.map_or(Duration::ZERO, |member| jitter(&member.device))
    }

    /// Halts where a canary has failed, or too many others.
    fn halt_if_too_much_failed(&mut self) {
        if !matches!(self.state(), State::Running | State::Paused | State::Halted) || self.derived.n_open == 0
        {
            return;
        }
        let n_failures = self.derived.n_failed.saturating_sub(self.course.forgiven);
        // Where the image is in quarantine, that is the cause, however much fails beside; and where nobody is left to begin,
        // there is nothing to halt.
        let is_quarantined =
            |cause: &Option<Reason>| cause.as_ref().is_some_and(|cause| cause.rule == QUARANTINED);
        let is_last =
            |state: &MemberState| matches!(state, MemberState::Ended(_) | MemberState::PuttingBack { .. });
        let all_began = self.members.iter().all(|standing| is_last(&standing.state));
        if n_failures == 0 || is_quarantined(&self.course.cause) || all_began {
            return;
        }
        let rules = &self.plan.rules;
        let n_members = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let too_many = rules.max_failures.is_reached(n_failures, n_members);
        if !too_many && self.course.wave > 0 {
            return;
        }
        let failed: Vec<(&Member, &super::Standing)> = self
            .plan
            .members
            .iter()
            .zip(&self.members)
            .filter(|(_, standing)| is_unforgiven(standing))
            .collect();
        let canaries: Vec<_> = failed
            .iter()
            .filter(|(_, standing)| self.is_canary(standing))
            .copied()
            .collect();
        let cause = if !canaries.is_empty() {
            canary_failed(&canaries)
        } else if too_many {
            too_many_failed(&failed)
        } else {
            return;
        };
        self.steer(|course| {
            course.state = State::Halted;
            course.cause = Some(cause);
        });
    }

    /// On to the next wave, as soon as nobody who answers is left in those before, and the image has proven itself.
    fn advance(&mut self) {
        if self.state() != State::Running {
            return;
        }
        while self.course.wave + 1 < self.plan.n_waves
            && self.n_holding_up_to(self.course.wave) == 0
            && self.is_proven()
        {
            self.steer(|course| course.wave += 1);
        }
    }

    /// More at once, as long as that makes it quicker.
    fn weigh(&mut self, bytes_per_s: u64) {
        if self.plan.rules.at_once != AtOnce::Auto || self.state() != State::Running {
            return;
        }
        let n_at_once = self.course.n_at_once;
        let n_open = self.derived.n_open;
        let sums = &mut self.derived;
        if sums.n_running < n_at_once {
            sums.n_full_looks = 0;
            sums.rate_peak = 0;
            return;
        }
        sums.n_full_looks = sums.n_full_looks.saturating_add(1);
        sums.rate_peak = sums.rate_peak.max(bytes_per_s);
        let rate = sums.rate_peak;
        // So many times as many promise so many times the rate; at least half of what that adds must have come.
        let wanted = self.course.rate_before.saturating_mul(u64::from(GROWTH) + 1);
        let kept_promise = rate > 0 && rate.saturating_mul(2) >= wanted;
        if sums.n_full_looks >= FULL_LOOKS && kept_promise && n_at_once < n_open {
            sums.n_full_looks = 0;
            sums.rate_peak = 0;
            self.steer(|course| {
                course.rate_before = rate;
                course.n_at_once = n_at_once.saturating_mul(GROWTH).min(n_open);
            });
        }
    }
}

fn is_unforgiven(standing: &super::Standing) -> bool {
    let has_failed = match &standing.state {
        MemberState::Ended(ended) => ended.is_failure(),
        state => matches!(state, MemberState::PuttingBack { .. }),
    };
    has_failed && !standing.forgiven
}

/// What is added to the pause of a device, always the same: FNV-1a of its name.
fn jitter(device: &DeviceId) -> Duration {
    let hash = device
        .key()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    Duration::from_millis(hash % (MAX_JITTER_MS + 1))
}

fn missed_deadline() -> Reason {
    Reason::new(
        "missed-window",
        "It did not answer until the deadline of the rollout, so nothing was sent to it.",
        "Update it when it is back, or give it more time with --when-back.",
    )
}

fn missed_window(name: &str) -> Reason {
    Reason::new(
        "missed-window",
        format!("Its turn did not come in the window {name} before the deadline of the rollout."),
        "It comes with the next rollout; a longer window, or more devices at once, makes room for more.",
    )
}

fn stopped_answering() -> Reason {
    Reason::new(
        "offline",
        "It stopped answering before its turn, and all others have ended; nothing was sent to it.",
        "Update it when it is back, or wait for it with --when-back 12h.",
    )
}

fn canary_failed(canaries: &[(&Member, &super::Standing)]) -> Reason {
    Reason::new(
        "canary-failed",
        format!(
            "Of those that go first, {}; the others have not been touched.",
            named(canaries)
        ),
        "Look why: reflash rollout show. Then let the next one go first (reflash rollout resume), or end it (reflash rollout abort).",
    )
}

fn too_many_failed(failed: &[(&Member, &super::Standing)]) -> Reason {
    Reason::new(
        "too-many-failures",
        format!("Too much has failed: {}. Nothing more begins.", named(failed)),
        "Look why: reflash rollout show. Then go on (reflash rollout resume), which forgives these failures, or end it (reflash rollout abort).",
    )
}

/// "Hall ended as kept-old, Attic as unverified, and 2 more failed".
fn named(failed: &[(&Member, &super::Standing)]) -> String {
    let mut words: Vec<String> = failed
        .iter()
        .take(MAX_NAMED)
        .map(|(member, standing)| match &standing.state {
            MemberState::PuttingBack { failed, .. } => {
                format!("{} ended as {}", member.name, failed.ending.name())
            }
            state => format!("{} ended as {}", member.name, state.name()),
        })
        .collect();
    match failed.len().saturating_sub(MAX_NAMED) {
        0 => {}
        n_more => words.push(format!("and {n_more} more failed")),
    }
    words.join(", ")
}
