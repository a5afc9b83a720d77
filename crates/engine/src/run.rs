use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use model::device::{Device, Snapshot};
use model::family::{Driver, Family, Fault, FaultKind, Notes, Reason, Undo, Verdict};
use model::id::JobId;
use model::image::{Image, Refusal};
use model::job::{Act, Job, Order, Phase, Seen, next};
use model::precheck::{Permits, Precheck, precheck};
use model::progress::{Progress, PushPhase};
use model::time::Now;
use serde_json::{Value, json};
use store::{Change, Event, JournalError, LeaseError, OpenJob, StoreError};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::Engine;
use crate::lease::{Lease, RENEW_EVERY};

/// How often progress is reported (DESIGN.md section 2).
const SAMPLE_EVERY: Duration = Duration::from_millis(250);

/// How long ago the journal may have taken the intent for the lease to count as held before the push. Taste: far less than
/// the minute and a half in which nobody else can take it, and seldom exceeded by a program that is awake.
const JUST_NOW: Duration = Duration::from_secs(1);

/// How far its owner wants a job stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Go on.
    No,
    /// Cancel it as long as the last byte has not left.
    Cancel,
    /// Do not even wait for its end: the next command for the device settles it.
    Leave,
}

/// What happens while a job runs, for people.
#[derive(Debug)]
pub enum Report<'a> {
    /// The job is in the journal, under this number.
    Begun(JobId),
    /// The job entered another phase.
    Phase(&'a Job),
    /// Bytes of the image that have arrived.
    Progress {
        /// What the push is doing.
        phase: PushPhase,
        /// Acknowledged bytes.
        acked_bytes: u64,
        /// All bytes.
        len_bytes: u64,
    },
    /// It was to be cancelled, and every byte has left already.
    TooLate,
}

/// Everything a job needs to be run.
pub struct Work<'a> {
    /// The device's family.
    pub family: &'a dyn Family,
    /// Talks to the device.
    pub driver: Box<dyn Driver>,
    /// The device, as far as its owner describes it.
    pub device: Device,
    /// The image.
    pub image: &'a Image,
    /// What the inspection has against it.
    pub refusals: &'a [Refusal],
    /// What its owner permits.
    pub permits: &'a Permits,
    /// Told what happens.
    pub report: &'a (dyn Fn(Report<'_>) + Send + Sync),
    /// Whether its owner wants it stopped.
    pub stop: watch::Receiver<Stop>,
}

/// Where a job begins.
pub enum Start {
    /// Anew.
    New(Box<Order>),
    /// Where a process that is gone has left it.
    Resume(OpenJob),
}

/// A job that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its number.
    pub id: JobId,
    /// How it ended, and what proves it.
    pub job: Job,
    /// Why its end is not in the journal, if it is not: the next command settles it again.
    pub unrecorded: Option<JournalError>,
}

/// Why a job was not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The journal could not be written before the first byte; nothing was sent.
    #[error("storing the job before it is done: nothing was sent to the device")]
    NotStored(#[source] JournalError),
    /// The device's stored job cannot be read.
    #[error("reading the unfinished job {0} of the device")]
    Unreadable(JobId, #[source] serde_json::Error),
    /// What is remembered of the device cannot be read; nothing was done.
    #[error("reading what is remembered of the device: nothing was done")]
    NoNotes(#[source] StoreError),
    /// Another process works on the device now.
    #[error("another process has taken over the device; this one has stopped")]
    Fenced,
    /// Its owner did not want to wait for the end.
    #[error("stopped watching: the job stays open, and the next command for this device settles it")]
    Left(Box<Job>),
}

/// One running job.
struct Run<'a> {
    engine: &'a Engine,
    lease: &'a Lease,
    work: Work<'a>,
    id: JobId,
    job: Job,
    notes: Notes,
    unrecorded: Option<JournalError>,
    cancel_seen: bool,
    /// When the lease was renewed last.
    renewed: Now,
    /// When the journal last took an event, which it does only under a lease that holds.
    stored: Option<Now>,
    /// Whether nothing is stored that would have to be put back, and the job has nothing either.
    nothing_to_put_back: bool,
}

impl Engine {
    /// Runs a job to its end.
    pub async fn run(&self, lease: &Lease, work: Work<'_>, start: Start) -> Result<Finished, RunError> {
        let now = self.clock.now();
        let notes = work.driver.notes();
        let (id, job, seen) = match start {
            Start::New(order) => {
                let job = Job::new(*order);
                let state = state_of(&job);
                let event = Event::new("begun", &state, &self.holder.boot_id, now);
                let id = self
                    .store
                    .start_job(
                        &lease.device,
                        lease.epoch,
                        job.order.image.sha256,
                        job.order.rollout,
                        &event,
                    )
                    .await
                    .map_err(fenced_or(RunError::NotStored))?;
                (id, job, Seen::Begun)
            }
            Start::Resume(open) => {
                let mut job: Job = serde_json::from_value(open.state)
                    .map_err(|source| RunError::Unreadable(open.job, source))?;
                if open.boot_id != self.holder.boot_id {
                    job.rebase(open.last, now);
                }
                (open.job, job, Seen::Restarted)
            }
        };
        let cancel_seen = false;
        let mut run = Run {
            engine: self,
            lease,
            work,
            id,
            job,
            notes,
            unrecorded: None,
            cancel_seen,
            renewed: now,
            stored: None,
            nothing_to_put_back: false,
        };
        (run.work.report)(Report::Begun(id));
        let (job, act) = next(run.job.clone(), seen, now);
        run.job = job;
        run.go(act).await
    }
}

fn fenced_or(other: fn(JournalError) -> RunError) -> impl Fn(JournalError) -> RunError {
    move |error| {
        if matches!(error, JournalError::Fenced) {
            RunError::Fenced
        } else {
            other(error)
        }
    }
}

/// Faults of a driver; those of mere looks are expected while a device restarts.
fn log_fault(seen: &Seen, job: JobId) {
    match seen {
        Seen::Checked(Err(fault)) | Seen::Prepared(Err(fault)) | Seen::Undone(Err(fault)) => {
            tracing::warn!(%job, reason = fault.reason.name(), text = fault.text, "the device could not be used");
        }
        Seen::Pushed {
            result: Err(fault), ..
        } => {
            tracing::warn!(%job, reason = fault.reason.name(), text = fault.text, "the push did not end in a yes");
        }
        Seen::Looked(Err(fault)) => {
            tracing::debug!(%job, text = fault.text, "the device did not answer a look");
        }
        _ => {}
    }
}

fn is_away(job: &Job) -> bool {
    matches!(job.phase, Phase::Watching { gone_at: Some(_), .. })
}

fn state_of(job: &Job) -> Value {
    serde_json::to_value(job).expect("a job holds nothing that JSON cannot say")
}

impl Run<'_> {
    async fn go(mut self, mut act: Act) -> Result<Finished, RunError> {
        self.tell_phase();
        loop {
            if act == Act::Finish {
                self.commit("finished", json!(self.job.outcome()), true).await?;
                return Ok(Finished {
                    id: self.id,
                    job: self.job,
                    unrecorded: self.unrecorded,
                });
            }
            let seen = if let Some(seen) = self.take_cancel() {
                seen
            } else {
                self.keep_lease(act == Act::Push).await?;
                self.perform(act).await?
            };
            let before = self.job.phase.name();
            log_fault(&seen, self.id);
            let was_away = is_away(&self.job);
            let pushed = matches!(seen, Seen::Pushed { .. });
            let now = self.engine.clock.now();
            let (job, next_act) = next(self.job, seen, now);
            self.job = job;
            act = next_act;
            if self.job.phase.name() != before {
                self.tell_phase();
            }
            // The intent is stored by its own act; the end by the last one.
            let stored_by_act = matches!(act, Act::CommitUndo | Act::CommitIntent | Act::Push | Act::Finish);
            // Where no uptime tells of a restart, the silence is the only trace of it: a resumed job must know.
            let went_away = is_away(&self.job) && !was_away;
            if !stored_by_act && (pushed || went_away || self.job.phase.name() != before) {
                let step = if pushed { "pushed" } else { self.job.phase.name() };
                self.commit(step, json!(self.job.evidence), false).await?;
            }
        }
    }

    /// Renews the lease where that is due; before a push always, so that one who was asleep sends nothing under a lease that
    /// another has taken (rules 3 and 5). Where the intent was stored just now, the lease has held just now.
    async fn keep_lease(&mut self, before_push: bool) -> Result<(), RunError> {
        let now = self.engine.clock.now();
        let has_held = self.stored.is_some_and(|stored| now.since(stored) < JUST_NOW);
        if now.since(self.renewed) < RENEW_EVERY && (!before_push || has_held) {
            return Ok(());
        }
        match self.engine.renew(self.lease).await {
            Ok(()) => self.renewed = now,
            Err(LeaseError::Fenced) => return Err(RunError::Fenced),
            Err(error) => tracing::warn!(%error, "the lease could not be renewed"),
        }
        Ok(())
    }

    fn tell_phase(&self) {
        let (job, device, phase) = (self.id, &self.lease.device, self.job.phase.name());
        match self.job.outcome() {
            Some(outcome) => tracing::info!(
                %job, %device, outcome = outcome.ending.name(), reason = outcome.reason, "the job has ended"
            ),
            None => {
                tracing::info!(%job, %device, phase, n_pushes = self.job.n_pushes, "the job entered a phase");
            }
        }
        (self.work.report)(Report::Phase(&self.job));
    }

    /// Whether a cancel has come that the job has not been told of.
    fn take_cancel(&mut self) -> Option<Seen> {
        let wanted = *self.work.stop.borrow() >= Stop::Cancel;
        if wanted && !self.cancel_seen {
            self.cancel_seen = true;
            if matches!(self.job.phase, Phase::Watching { .. } | Phase::Soaking { .. }) {
                (self.work.report)(Report::TooLate);
            }
            return Some(Seen::Cancel);
        }
        None
    }

    async fn perform(&mut self, act: Act) -> Result<Seen, RunError> {
        Ok(match act {
            Act::Probe { after } => {
                self.pause(after).await?;
                Seen::Checked(self.check().await?)
            }
            Act::CommitUndo => {
                self.commit("preparing", json!(self.job.undo), false).await?;
                Seen::Committed
            }
            Act::Prepare => {
                let undo = self.job.undo.clone();
                let prepared =
                    guarded(self.engine, self.lease, self.work.driver.prepare(undo.as_ref())).await?;
                self.remember().await;
                Seen::Prepared(prepared)
            }
            Act::CommitIntent => {
                if let Err(error) = self
                    .commit("intent", json!({ "push": self.job.n_pushes }), false)
                    .await
                {
                    self.put_back_after_failure().await;
                    return Err(error);
                }
                // Where bytes of an earlier push have left, the job goes on without its journal, but pushes no more.
                if self.unrecorded.is_some() {
                    Seen::NotCommitted
                } else {
                    Seen::Committed
                }
            }
            Act::Push => {
                let begun = self.engine.clock.now();
                let result = self.push().await?;
                self.remember().await;
                Seen::Pushed {
                    result,
                    took: self.engine.clock.now().since(begun),
                }
            }
            Act::Watch { every } => {
                self.pause(every).await?;
                Seen::Looked(self.look().await?)
            }
            Act::Undo { after } => {
                self.pause(after).await?;
                Seen::Undone(self.put_back().await?)
            }
            Act::Finish => unreachable!("the loop ends before this act is performed"),
        })
    }

    /// Waits, but not for a job whose owner has left it, nor for one that is to be cancelled.
    async fn pause(&mut self, duration: Duration) -> Result<(), RunError> {
        let mut stop = self.work.stop.clone();
        let wanted = if self.cancel_seen {
            Stop::Leave
        } else {
            Stop::Cancel
        };
        let stopped = async {
            // An error means that nobody can stop it any more.
            if stop.wait_for(|stop| *stop >= wanted).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        // Both arms only wait.
        tokio::select! {
            () = sleep(duration) => {}
            () = stopped => {}
        }
        let watching = matches!(self.job.phase, Phase::Watching { .. } | Phase::Soaking { .. });
        if *self.work.stop.borrow() == Stop::Leave && watching {
            return Err(RunError::Left(Box::new(self.job.clone())));
        }
        Ok(())
    }

    async fn check(&mut self) -> Result<Result<(Snapshot, Precheck, Option<Undo>), Fault>, RunError> {
        let probed = guarded(self.engine, self.lease, self.work.driver.probe()).await?;
        self.remember().await;
        Ok(probed.map(|snapshot| {
            let mut device = self.work.device.clone();
            device.hardware = snapshot.hardware.clone();
            device.versions = snapshot.versions.clone();
            let checked = precheck(
                self.work.family,
                &device,
                &snapshot,
                (self.work.image, &self.job.order.image, self.work.refusals),
                self.job.order.record.as_ref(),
                self.work.permits,
            );
            let undo = self.work.family.undo(&snapshot);
            (snapshot, checked, undo)
        }))
    }

    async fn look(&mut self) -> Result<Result<(Snapshot, model::family::Label), Fault>, RunError> {
        let probed = guarded(self.engine, self.lease, self.work.driver.probe()).await?;
        let order = &self.job.order;
        let before = self.job.evidence.before.as_ref().map(|look| &look.snapshot);
        Ok(probed.map(|snapshot| {
            let before = before.unwrap_or(&snapshot);
            let label = self
                .work
                .family
                .label(before, &order.image, order.record.as_ref(), &snapshot);
            (snapshot, label)
        }))
    }

    async fn push(&mut self) -> Result<Result<Verdict, Fault>, RunError> {
        let progress = Progress::of_all(&self.engine.acked_bytes);
        if self.cancel_seen {
            // It was cancelled while its intent was being stored: the driver then sends nothing.
            progress.cancel();
        }
        let len_bytes = self.work.image.len_bytes();
        let method = self.job.order.method.clone();
        let mut stop = self.work.stop.clone();
        let report = self.work.report;
        let mut cancel_seen = self.cancel_seen;
        let mut left = self.work.stop.clone();
        let job = self.job.clone();
        let push = self.work.driver.push(&method, self.work.image, &progress);
        let mut push = pin!(guarded(self.engine, self.lease, push));
        let mut samples = interval(SAMPLE_EVERY);
        samples.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let sample = |progress: &Progress| {
            report(Report::Progress {
                phase: progress.phase(),
                acked_bytes: progress.acked_bytes(),
                len_bytes,
            });
        };
        let result = loop {
            // The push is only polled here, never dropped before it ends; the other arms only wait.
            tokio::select! {
                result = &mut push => break result,
                _ = samples.tick() => sample(&progress),
                changed = stop.wait_for(|stop| *stop >= Stop::Cancel), if !cancel_seen => {
                    cancel_seen = true;
                    if changed.is_ok() && !progress.cancel() {
                        report(Report::TooLate);
                    }
                }
                // The push is dropped with its connection; the journal has its intent, and the next command looks.
                Ok(_) = left.wait_for(|stop| *stop == Stop::Leave), if progress.phase() == PushPhase::LastByte => {
                    return Err(RunError::Left(Box::new(job)));
                }
            }
        };
        sample(&progress);
        self.cancel_seen = cancel_seen;
        self.job.cancelled |= cancel_seen;
        result
    }

    /// Stores the job as it is.
    ///
    /// Before a push a failure ends the job; after it, the job goes on and says at its end that it could not be recorded.
    async fn commit(&mut self, step: &str, detail: Value, finished: bool) -> Result<(), RunError> {
        let now = self.engine.clock.now();
        let state = state_of(&self.job);
        let record = if finished { self.job.record_after() } else { None };
        let event = Event {
            attempt: self.job.n_pushes,
            detail: &detail,
            finished,
            outcome: if finished { self.job.outcome() } else { None },
            installed: record.as_ref().map_or(Change::Keep, Change::Set),
            undo: match &self.job.undo {
                Some(undo) => Change::Set(undo),
                None if self.nothing_to_put_back => Change::Keep,
                None => Change::Clear,
            },
            ..Event::new(step, &state, &self.engine.holder.boot_id, now)
        };
        match self.engine.store.append(self.id, self.lease.epoch, &event).await {
            Ok(_) => {
                self.unrecorded = None;
                self.stored = Some(now);
                self.nothing_to_put_back = self.job.undo.is_none();
                Ok(())
            }
            // One who wakes late may find that another has ended its job.
            Err(JournalError::Fenced | JournalError::Finished(_)) => Err(RunError::Fenced),
            Err(error) if self.job.bytes_left || finished => {
                tracing::error!(%error, job = %self.id, "the journal cannot be written; the job goes on without it");
                self.unrecorded = Some(error);
                Ok(())
            }
            Err(error) => Err(RunError::NotStored(error)),
        }
    }

    /// Puts back what was changed, at our device only: another one may stand at its address by now.
    async fn put_back(&mut self) -> Result<Result<(), Fault>, RunError> {
        let Some(undo) = self.job.undo.clone() else {
            return Ok(Ok(()));
        };
        let device = self.job.order.device.clone();
        let driver = &mut self.work.driver;
        let act = async move {
            let snapshot = driver.probe().await?;
            if snapshot.id != device {
                let text = format!("Another device answers at this address now: {}.", snapshot.id);
                return Err(Fault::before_push(FaultKind::Refused, Reason::OtherDevice, text));
            }
            driver.undo(&undo).await
        };
        guarded(self.engine, self.lease, act).await
    }

    async fn put_back_after_failure(&mut self) {
        if let Ok(Err(fault)) = self.put_back().await {
            tracing::warn!(
                fault = fault.text,
                "what was changed could not be put back; the next command does it"
            );
        }
    }

    /// Stores what the family wants remembered, if that has changed.
    async fn remember(&mut self) {
        let notes = self.work.driver.notes();
        if notes != self.notes {
            match self.engine.store.save_notes(&self.lease.device, &notes).await {
                Ok(()) => self.notes = notes,
                Err(error) => tracing::warn!(%error, "the notes on the device could not be stored"),
            }
        }
    }
}

/// Does one act of a driver while the lease is kept; stops when it is lost.
async fn guarded<T>(engine: &Engine, lease: &Lease, act: impl Future<Output = T>) -> Result<T, RunError> {
    let mut act = pin!(act);
    loop {
        // The act is only polled here; it is dropped, and its connection closed, when the lease is lost.
        tokio::select! {
            done = &mut act => return Ok(done),
            () = sleep(RENEW_EVERY) => match engine.renew(lease).await {
                Ok(()) => {}
                Err(LeaseError::Fenced) => return Err(RunError::Fenced),
                Err(error) => tracing::warn!(%error, "the lease could not be renewed"),
            },
        }
    }
}
