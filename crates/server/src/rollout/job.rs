//! One device of a rollout: its lease, what was left undone at it, and its job from the first look to the last.

use std::time::Duration;

use engine::{Finished, Lease, LeaseError, Report, RunError, Start, Stop, Watcher, Way, Work};
use model::chain::chain;
use model::device::Device;
use model::fleet::untold;
use model::id::{DeviceId, JobId, RolloutId, Sha256};
use model::job::{Order, Proof};
use model::outcome::{Ending, Outcome};
use model::plan::{Member, Reason};
use model::precheck::Permits;
use tokio::sync::watch;

use super::Rollouts;

/// How long to wait for somebody else who works on the device.
const OTHER_HANDS: Duration = Duration::from_mins(2);
/// How often to ask whether he has finished.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// One job to do.
#[derive(Clone)]
pub(super) struct Assignment {
    pub(super) rollout: RolloutId,
    pub(super) member: Member,
    pub(super) soak: Duration,
    pub(super) permits: Permits,
    /// Which try of this device it is, from 0.
    pub(super) n_tries: u8,
    /// Pushes that it may begin.
    pub(super) max_pushes: u8,
    /// When it was decided, milliseconds since 1970.
    pub(super) since_ms: i64,
    /// Pushes of this image to this device that the rollout knows of.
    pub(super) n_told: u8,
    /// Only settle what an earlier process has left.
    pub(super) recover: bool,
}

/// What became of it.
pub(super) enum Done {
    /// The device's job has ended.
    Ended { outcome: Outcome, n_pushes: u8 },
    /// Something stands against it that came up after the plan.
    Excluded(Reason),
    /// Nothing was begun.
    Nothing,
    /// Another process has taken over the device, and with it the job: how that ends, the journal tells once it is released.
    TakenOver,
    /// The server ends; the journal tells the next one.
    Left,
}

impl Done {
    /// Whether it speaks against the image.
    pub(super) fn is_against_image(&self) -> bool {
        matches!(self, Self::Ended { outcome, .. } if outcome.is_against_image())
    }

    fn before(outcome: Outcome) -> Self {
        Self::Ended { outcome, n_pushes: 0 }
    }
}

impl Rollouts {
    /// Does one job. The device is not looked at by others meanwhile.
    pub(super) async fn work(&self, assignment: &Assignment, mut stop: watch::Receiver<Stop>) -> Done {
        let id = &assignment.member.device;
        let mut assignment = assignment.clone();
        loop {
            let lease = match self.lease(id, assignment.recover, &mut stop).await {
                Ok(lease) => lease,
                Err(done) => return done,
            };
            self.inner.fleet.hold(id);
            let done = self.work_leased(&assignment, &lease, stop.clone()).await;
            self.inner.engine.release(lease).await;
            self.inner.fleet.let_go(id).await;
            match done {
                // As after a restart: somebody else has had it, and has settled it, or has left it as it was.
                Done::TakenOver => assignment.recover = true,
                done => return done,
            }
        }
    }

    /// The right to work on the device; others are waited for.
    ///
    /// What an earlier process has left may have been sent already: nobody can call that off, and it is waited for as long as it
    /// takes, as only a look at the device ends it.
    async fn lease(
        &self,
        id: &DeviceId,
        recover: bool,
        stop: &mut watch::Receiver<Stop>,
    ) -> Result<Lease, Done> {
        let called_off = if recover { Stop::Leave } else { Stop::Cancel };
        let begun = tokio::time::Instant::now();
        loop {
            let by = match self.inner.engine.lease(id).await {
                Ok(lease) => return Ok(lease),
                Err(LeaseError::Held { by, .. }) => by,
                Err(error) => {
                    tracing::warn!(device = %id, error = chain(&error), "the device cannot be worked on");
                    return Err(Done::before(not_stored(&error)));
                }
            };
            if !recover && begun.elapsed() >= OTHER_HANDS {
                return Err(Done::before(Outcome::because(
                    Ending::Failed,
                    "in other hands",
                    format!(
                        "Nothing was sent: another reflash (process {} on {}) works on this device.",
                        by.pid, by.host
                    ),
                    "Wait until it has finished, look what the device runs then, and update it again.",
                )));
            }
            // Both arms only wait.
            tokio::select! {
                () = tokio::time::sleep(ASK_AGAIN) => {}
                stopped = stop.wait_for(|stop| *stop >= called_off) => {
                    return Err(match stopped.map(|stop| *stop) {
                        Ok(Stop::Leave) | Err(_) => Done::Left,
                        Ok(_) => Done::before(cancelled()),
                    });
                }
            }
        }
    }

    async fn work_leased(&self, assignment: &Assignment, lease: &Lease, stop: watch::Receiver<Stop>) -> Done {
        match self.try_work(assignment, lease, stop).await {
            Ok(done) => done,
            Err(error) => {
                let device = &assignment.member.device;
                tracing::warn!(%device, error = chain(&*error), "the job could not be done");
                Done::before(not_stored(&*error))
            }
        }
    }

    async fn try_work(
        &self,
        assignment: &Assignment,
        lease: &Lease,
        stop: watch::Receiver<Stop>,
    ) -> Result<Done, Failure> {
        let Assignment { rollout, member, .. } = assignment;
        let (engine, store) = (&self.inner.engine, &self.inner.store);
        let Some(way) = self.inner.fleet.way_to(&member.device) else {
            return Ok(Done::Excluded(Reason::new(
                "removed",
                "It was removed, or its address is not known any more.",
                "Add it again: reflash device add ADDRESS.",
            )));
        };
        let report = |report: Report<'_>| self.report(*rollout, &member.device, &report);
        let watcher = Watcher {
            report: &report,
            stop,
        };
        let again = watcher.clone();
        // Look first what an earlier process has left (rule 2): it may be the very job that is asked for, or one after it.
        if let Some(open) = store.open_job(&member.device).await? {
            let own = store
                .job_row(open.job)
                .await?
                .is_some_and(|(row, _)| row.rollout == Some(*rollout));
            let Some(image) = engine.image_of(&open, None).await else {
                return Ok(Done::before(Outcome::because(
                    Ending::Unverified,
                    "image missing",
                    "An interrupted update of this device cannot be settled: its image is not here any more.",
                    "Bring that image again (reflash firmware add FILE), or push by hand: reflash push ADDRESS FILE.",
                )));
            };
            let settled = engine
                .settle(lease, &way, (open, &image), &assignment.permits, watcher)
                .await;
            match ended(settled) {
                Ok(finished) if own => return Ok(of_job(&finished)),
                Ok(_) => {}
                Err(done) => return Ok(done),
            }
        }
        if assignment.recover {
            // It had ended, and only the rollout had not been told; or it had never begun.
            let jobs = store.jobs_of(*rollout, &member.device).await?;
            let of_image = jobs.into_iter().filter(|job| job.image == member.image);
            let mut jobs: Vec<_> = of_image.collect();
            let begun: Vec<_> = jobs.iter().map(|job| (job.n_pushes, job.started_ms)).collect();
            let last =
                untold(&begun, assignment.n_told, assignment.since_ms).map(|idx| jobs.swap_remove(idx));
            return Ok(match last.and_then(|job| Some((job.outcome?, job.n_pushes))) {
                Some((outcome, n_pushes)) => Done::Ended { outcome, n_pushes },
                None => Done::Nothing,
            });
        }
        engine.put_back(lease, &way).await?;
        if let Some(reason) = self.stands_against(member) {
            return Ok(Done::Excluded(reason));
        }
        self.new_job(assignment, lease, way, again).await
    }

    async fn new_job(
        &self,
        assignment: &Assignment,
        lease: &Lease,
        way: Way,
        watcher: Watcher<'_>,
    ) -> Result<Done, Failure> {
        let Assignment { rollout, member, .. } = assignment;
        let (engine, store) = (&self.inner.engine, &self.inner.store);
        let Some((info, refusals, _)) = self.inner.repository.inspected(&member.image) else {
            return Ok(Done::before(artifact_missing(&member.image_name)));
        };
        let image = match self.image(member.image).await {
            Ok(image) => image,
            Err(error) => {
                tracing::warn!(image = %member.image, error = chain(&error), "the image cannot be read");
                return Ok(Done::before(artifact_missing(&member.image_name)));
            }
        };
        let offered = way.family.methods(&way.device);
        let planned: Vec<_> = member
            .methods
            .iter()
            .filter(|method| offered.contains(method))
            .collect();
        let Some(&method) = planned.get(usize::from(assignment.n_tries) % planned.len().max(1)) else {
            return Ok(Done::Excluded(Reason::new(
                "no-method",
                "It does not take images any more by any method of the plan.",
                "Make a new plan: reflash plan DEVICE.",
            )));
        };
        let order = Order {
            device: member.device.clone(),
            image: info,
            method: method.clone(),
            timing: way.family.timing(&way.device, image.len_bytes()),
            soak: assignment.soak,
            proof: Proof::Watched,
            record: store.installed(&member.device).await?,
            rollout: Some(*rollout),
            max_pushes: assignment.max_pushes,
        };
        let work = Work {
            family: &*way.family,
            driver: engine.driver(&way).await?,
            device: Device::clone(&way.device),
            image: &image,
            refusals: &refusals,
            permits: &assignment.permits,
            report: watcher.report,
            stop: watcher.stop,
        };
        let finished = engine.run(lease, work, Start::New(Box::new(order))).await;
        Ok(match ended(finished) {
            Ok(finished) => of_job(&finished),
            Err(done) => done,
        })
    }

    /// What has come up against a device since the plan was made (RELIABILITY.md F88).
    fn stands_against(&self, member: &Member) -> Option<Reason> {
        let Ok(known) = self.inner.fleet.known(&member.device.key()) else {
            return Some(Reason::new(
                "removed",
                "It was removed.",
                "Add it again: reflash device add ADDRESS.",
            ));
        };
        self.against(&known, member.image)
            .or_else(|| self.quarantined(member.image))
    }

    /// The image, once in memory however many devices get it, and no longer than one of them does.
    async fn image(&self, digest: Sha256) -> Result<model::image::Image, crate::firmware::RepositoryError> {
        let mut images = self.inner.images.lock().await;
        if let Some(image) = images.get(&digest) {
            return Ok(image.clone());
        }
        let image = self.inner.repository.image(&digest).await?;
        images.insert(digest, image.clone());
        Ok(image)
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn of_job(finished: &Finished) -> Done {
    let outcome = finished.job.outcome().cloned().unwrap_or_else(|| {
        Outcome::because(
            Ending::Unverified,
            "no outcome",
            "The job ended without a word.",
            "Look at what the device runs.",
        )
    });
    Done::Ended {
        outcome,
        n_pushes: finished.job.n_pushes,
    }
}

/// What a job that was not run to its end means for its device.
fn ended(result: Result<Finished, RunError>) -> Result<Finished, Done> {
    let error = match result {
        Ok(finished) => return Ok(finished),
        Err(error) => error,
    };
    tracing::warn!(error = chain(&error), "a job was not run to its end");
    Err(match error {
        RunError::Left(_) => Done::Left,
        RunError::NotStored(_) | RunError::NoNotes(_) => Done::before(not_stored(&error)),
        RunError::Unreadable(..) => Done::before(Outcome::because(
            Ending::Unverified,
            "unreadable job",
            "An interrupted update of this device was written by another version of Reflash and cannot be settled.",
            "Use the version that began it, or look at what the device runs.",
        )),
        RunError::Fenced => Done::TakenOver,
    })
}

fn not_stored(error: &(dyn std::error::Error + 'static)) -> Outcome {
    Outcome::because(
        Ending::Failed,
        "not stored",
        format!("Nothing was sent: {}.", chain(error)),
        "Look at the room and the rights of the data folder: reflash doctor.",
    )
}

fn artifact_missing(name: &str) -> Outcome {
    Outcome::because(
        Ending::Failed,
        "artifact missing",
        format!("Nothing was sent: {name} is not kept here any more, or its file is damaged."),
        "Bring the image again: reflash firmware add FILE.",
    )
}

fn cancelled() -> Outcome {
    Outcome::because(
        Ending::Cancelled,
        "cancelled",
        "Cancelled before anything was sent.",
        "Update it again when you like.",
    )
}

/// The live state of a job's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) job: Option<JobId>,
    /// The phase's word.
    pub(super) state: &'static str,
    pub(super) acked_bytes: u64,
    pub(super) len_bytes: u64,
}

impl Live {
    pub(super) fn percent(&self) -> Option<u8> {
        let percent = self.acked_bytes.saturating_mul(100).checked_div(self.len_bytes)?;
        (self.state == "uploading").then(|| u8::try_from(percent.min(100)).unwrap_or(100))
    }
}
