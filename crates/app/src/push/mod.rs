//! One push, from an address and a file to a proven end: what `reflash push` and the demo do.

mod identify;
pub(crate) mod plan;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::{
    Engine, Finished, Lease, LeaseError, PutBack, Report, RunError, Start, Stop, Watcher, Way, Work,
};
use families::Ways;
use model::chain::{chain, sentence};
use model::device::{Device, Snapshot};
use model::family::{Answers, Family, Method, Notes, Target};
use model::id::DeviceId;
use model::image::{Image, ImageInfo, MAX_IMAGE_LEN_BYTES};
use model::installed::Installed;
use model::job::{Job, MAX_PUSHES, Order, Proof};
use model::outcome::{Ending, Outcome, before_first_byte};
use model::precheck::Permits;
use net::Site;
use secrecy::SecretString;
use store::Store;
use tokio::sync::watch;

use self::identify::{Known, look, refused_file};
use crate::error::{Exit, Trouble};

/// What is to be pushed where, and what its owner permits.
pub(crate) struct Request {
    pub(crate) address: IpAddr,
    /// The address as it was given.
    pub(crate) given_as: String,
    pub(crate) image: Image,
    /// A family by name; none to find out.
    pub(crate) family: Option<String>,
    pub(crate) method: Option<Method>,
    pub(crate) chip: Option<String>,
    pub(crate) username: Option<String>,
    pub(crate) secret: Option<SecretString>,
    pub(crate) slot_bytes: Option<u64>,
    pub(crate) permits: Permits,
    pub(crate) soak: Duration,
    pub(crate) return_within: Option<Duration>,
    pub(crate) proof: Proof,
    pub(crate) unlock: bool,
}

/// What this machine lends to a push.
#[derive(Clone)]
pub(crate) struct Bench {
    pub(crate) site: Site,
    pub(crate) ways: Ways,
    pub(crate) store: Arc<Store>,
    pub(crate) engine: Engine,
}

/// What is told while a push goes on.
pub(crate) enum News<'a> {
    /// The image was inspected.
    Image(&'a ImageInfo),
    /// The device was found.
    Device {
        family: &'a dyn Family,
        address: IpAddr,
        snapshot: &'a Snapshot,
        record: Option<&'a Installed>,
    },
    /// An unfinished job of an earlier command is settled first.
    Settling { what: String },
    /// The unfinished job was settled.
    Settled(&'a Outcome),
    /// The job itself.
    Job(Report<'a>),
    /// Something that its owner should know.
    Warning(String),
}

/// The result of a push.
pub(crate) struct Pushed {
    pub(crate) outcome: Outcome,
    pub(crate) info: ImageInfo,
    pub(crate) method: Option<Method>,
    /// The job; none where it did not come to one.
    pub(crate) job: Option<Job>,
    pub(crate) warnings: Vec<String>,
}

impl Pushed {
    /// What was seen of the device before.
    pub(crate) fn before(&self) -> Option<&Snapshot> {
        Some(&self.job.as_ref()?.evidence.before.as_ref()?.snapshot)
    }

    /// What was seen of it last.
    pub(crate) fn after(&self) -> Option<&Snapshot> {
        Some(&self.job.as_ref()?.evidence.after.as_ref()?.snapshot)
    }
}

/// Reads an image file, whole and bounded.
pub(crate) fn read_image(path: &Path) -> Result<Image, Trouble> {
    let shown = path.display();
    let not_read = |error: &std::io::Error| {
        let exit = if error.kind() == std::io::ErrorKind::NotFound {
            Exit::NotFound
        } else {
            Exit::Failed
        };
        Trouble::new(
            exit,
            format!("Reading {shown}: {error}."),
            "Check the name of the file and who may read it.",
        )
    };
    // Looked at before it is opened: opening a pipe that nobody writes to waits for ever.
    let metadata = std::fs::metadata(path).map_err(|error| not_read(&error))?;
    if !metadata.is_file() {
        return Err(Trouble::new(
            Exit::Failed,
            format!("{shown} is not a file."),
            "Name the firmware image itself.",
        ));
    }
    let file = std::fs::File::open(path).map_err(|error| not_read(&error))?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(MAX_IMAGE_LEN_BYTES)).unwrap_or(0));
    std::io::Read::read_to_end(
        &mut std::io::Read::take(file, MAX_IMAGE_LEN_BYTES + 1),
        &mut bytes,
    )
    .map_err(|error| not_read(&error))?;
    if bytes.len() as u64 > MAX_IMAGE_LEN_BYTES {
        return Err(Trouble::new(
            Exit::Failed,
            format!("{shown} is larger than 16 MiB: no device in reach takes such an image."),
            "Name the application image itself.",
        ));
    }
    let name = path
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok(Image::new(&name, bytes))
}

impl Bench {
    /// Pushes once, after settling what an earlier command has left undone.
    pub(crate) async fn push(
        &self,
        request: &Request,
        news: &(dyn Fn(News<'_>) + Send + Sync),
        stop: watch::Receiver<Stop>,
    ) -> Result<Pushed, Trouble> {
        let mut cancelled = stop.clone();
        // Identifying only reads: dropping it in the middle changes nothing at the device.
        let identified = tokio::select! {
            identified = self.identify(request, news) => identified?,
            Ok(_) = cancelled.wait_for(|stop| *stop >= Stop::Cancel) => return Ok(cancelled_early(request)),
        };
        let known = match identified {
            Ok(known) => known,
            Err(refused) => return Ok(*refused),
        };
        let now = self.engine.clock().now().wall_ms;
        if let Some(outcome) = self.missing_device(request, &known, now).await? {
            return Ok(without_job(outcome, known.info));
        }
        self.store
            .upsert_device(&known.id, request.address, None, now)
            .await
            .map_err(|e| storing(&e))?;
        // Naming an address to `push` enrols the device (DESIGN.md, espota authentication).
        self.store.enroll(&known.id, now).await.map_err(|e| storing(&e))?;
        if request.unlock {
            self.store.unlock(&known.id).await.map_err(|e| storing(&e))?;
            self.store
                .save_notes(&known.id, &Notes::default())
                .await
                .map_err(|e| storing(&e))?;
        }
        self.store
            .put_image(&request.image, now)
            .await
            .map_err(|e| storing(&e))?;
        let lease = self
            .engine
            .lease(&known.id)
            .await
            .map_err(|error| not_leased(&error))?;
        let result = self.push_leased(request, &known, &lease, news, stop).await;
        self.engine.release(lease).await;
        result
    }

    async fn push_leased(
        &self,
        request: &Request,
        known: &Known,
        lease: &Lease,
        news: &(dyn Fn(News<'_>) + Send + Sync),
        stop: watch::Receiver<Stop>,
    ) -> Result<Pushed, Trouble> {
        if let Some(open) = self.store.open_job(&known.id).await.map_err(|e| storing(&e))? {
            let settled = self
                .settle(request, known, lease, open, news, stop.clone())
                .await?;
            let outcome = settled
                .job
                .outcome()
                .expect("a finished job has an outcome")
                .clone();
            news(News::Settled(&outcome));
            // The command asked for what the interrupted one has done: that is its result.
            if outcome.ending.is_success() && settled.job.order.image.sha256 == request.image.sha256() {
                return Ok(of_job(settled, known.info.clone(), Vec::new()));
            }
        }
        let way = way(request, known);
        match self.engine.put_back(lease, &way).await {
            Ok(PutBack::Nothing) => {}
            Ok(PutBack::Done(undo)) => news(News::Settling { what: undo.text }),
            Ok(PutBack::Still(undo)) => {
                news(News::Warning(format!(
                    "Still to be put back at the device: {}.",
                    undo.text
                )));
            }
            Err(error) => return Err(storing(&error)),
        }
        let mut driver = self.engine.driver(&way).await.map_err(|e| storing(&e))?;
        let snapshot = match &known.snapshot {
            Some(snapshot) => snapshot.clone(),
            None => match look(&mut *driver).await {
                Ok(snapshot) => snapshot,
                Err(fault) => return Ok(without_job(before_first_byte(&fault), known.info.clone())),
            },
        };
        let record = self.store.installed(&known.id).await.map_err(|e| storing(&e))?;
        news(News::Device {
            family: &*known.family,
            address: request.address,
            snapshot: &snapshot,
            record: record.as_ref(),
        });
        let device = device_of(request, &known.id, &snapshot);
        let method = method_of(&*known.family, &device, request)?;
        let mut timing = known.family.timing(&device, request.image.len_bytes());
        if let Some(return_within) = request.return_within {
            timing.back_within = return_within;
        }
        let order = Order {
            device: known.id.clone(),
            image: known.info.clone(),
            method,
            timing,
            soak: request.soak,
            proof: request.proof,
            record,
            rollout: None,
            max_pushes: MAX_PUSHES,
        };
        let report = |report: Report<'_>| news(News::Job(report));
        let work = Work {
            family: &*known.family,
            driver,
            device,
            image: &request.image,
            refusals: &known.refusals,
            permits: &request.permits,
            report: &report,
            stop,
        };
        let finished = match self.engine.run(lease, work, Start::New(Box::new(order))).await {
            Ok(finished) => finished,
            Err(RunError::Left(job)) => return Ok(left(*job, known.info.clone())),
            Err(error) => return Err(not_run(&error)),
        };
        let mut warnings: Vec<String> = label_warning(&finished.job).into_iter().collect();
        if let Some(error) = &finished.unrecorded {
            warnings.push(format!("The result could not be recorded: {}.", chain(error)));
        }
        if let Some(undo) = &finished.job.undo {
            warnings.push(format!(
                "Still to be put back at the device: {}. The next command does it.",
                undo.text
            ));
        }
        Ok(of_job(finished, known.info.clone(), warnings))
    }

    /// Settles a job that a killed command has left, by looking at the device.
    async fn settle(
        &self,
        request: &Request,
        known: &Known,
        lease: &Lease,
        open: store::OpenJob,
        news: &(dyn Fn(News<'_>) + Send + Sync),
        stop: watch::Receiver<Stop>,
    ) -> Result<Finished, Trouble> {
        news(News::Settling {
            what: format!("look what became of the interrupted push (job {})", open.job),
        });
        let image = self
            .engine
            .image_of(&open, Some(&request.image))
            .await
            .unwrap_or_else(|| request.image.clone());
        let report = |report: Report<'_>| news(News::Job(report));
        let watcher = Watcher {
            report: &report,
            stop,
        };
        self.engine
            .settle(
                lease,
                &way(request, known),
                (open, &image),
                &request.permits,
                watcher,
            )
            .await
            .map_err(|error| not_run(&error))
    }
}

/// How the device is reached that the request means.
fn way(request: &Request, known: &Known) -> Way {
    let snapshot = known.snapshot.as_ref();
    Way {
        family: known.family.clone(),
        device: Device {
            id: known.id.clone(),
            address: request.address,
            hardware: snapshot
                .map(|snapshot| snapshot.hardware.clone())
                .unwrap_or_default(),
            slot_bytes: request.slot_bytes,
            versions: snapshot
                .map(|snapshot| snapshot.versions.clone())
                .unwrap_or_default(),
        },
        given_as: request.given_as.clone(),
        username: request.username.clone(),
        secret: request.secret.clone(),
        chip: request.chip.clone(),
    }
}

fn target(request: &Request, notes: Notes, answers: Arc<dyn Answers>) -> Target {
    Target {
        address: request.address,
        given_as: request.given_as.clone(),
        username: request.username.clone(),
        secret: request.secret.clone(),
        chip: request.chip.clone(),
        notes,
        answers,
    }
}

fn device_of(request: &Request, id: &DeviceId, snapshot: &Snapshot) -> Device {
    Device {
        id: id.clone(),
        address: request.address,
        hardware: snapshot.hardware.clone(),
        slot_bytes: request.slot_bytes,
        versions: snapshot.versions.clone(),
    }
}

fn method_of(family: &dyn Family, device: &Device, request: &Request) -> Result<Method, Trouble> {
    let methods = family.methods(device);
    match &request.method {
        Some(method) if method.as_str() == "mqtt" && !methods.contains(method) => Err(Trouble::new(
            Exit::Usage,
            "A push has no broker: a device is told by MQTT only by a server.",
            "Start one whose configuration has a broker, and say: reflash update DEVICE --method mqtt.",
        )),
        Some(method) if !methods.contains(method) => {
            let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
            Err(Trouble::new(
                Exit::Usage,
                format!("This device ({}) takes no images by {method}.", family.title()),
                format!("Choose --method {}.", names.join(" or --method ")),
            ))
        }
        Some(method) => Ok(method.clone()),
        None => methods.into_iter().next().ok_or_else(|| {
            Trouble::new(
                Exit::Failed,
                "This device offers no way to bring it an image.",
                "Update it by cable.",
            )
        }),
    }
}

fn without_job(outcome: Outcome, info: ImageInfo) -> Pushed {
    Pushed {
        outcome,
        info,
        method: None,
        job: None,
        warnings: Vec::new(),
    }
}

/// Where only the file name tells a version, and the device now reports another one.
fn label_warning(job: &Job) -> Option<String> {
    let image = &job.order.image;
    let (None, Some(hint)) = (&image.versions, &image.hint) else {
        return None;
    };
    let after = &job.evidence.after.as_ref()?.snapshot.versions;
    let moved = job
        .evidence
        .before
        .as_ref()
        .is_some_and(|before| before.snapshot.versions != *after);
    (moved && after != hint)
        .then(|| format!("The file name says {hint}, and the device now reports {after}."))
}

fn of_job(finished: Finished, info: ImageInfo, warnings: Vec<String>) -> Pushed {
    let outcome = finished
        .job
        .outcome()
        .expect("a finished job has an outcome")
        .clone();
    let method = Some(finished.job.order.method.clone());
    Pushed {
        outcome,
        info,
        method,
        job: Some(finished.job),
        warnings,
    }
}

/// Stopped while nothing but questions had been sent.
fn cancelled_early(request: &Request) -> Pushed {
    let outcome = Outcome::because(
        Ending::Cancelled,
        "cancelled",
        "Cancelled before anything was sent.",
        "Push again when you like.",
    );
    refused_file(request, outcome)
}

/// The job as it stood when its owner stopped watching.
fn left(job: Job, info: ImageInfo) -> Pushed {
    let outcome = Outcome::because(
        Ending::Unverified,
        "not watched",
        "You stopped watching before the end was known: the device may run either image.",
        "Run the same command again: it looks first what became of this push.",
    );
    Pushed {
        outcome,
        info,
        method: Some(job.order.method.clone()),
        job: Some(job),
        warnings: Vec::new(),
    }
}

fn storing(error: &dyn std::error::Error) -> Trouble {
    Trouble::new(
        Exit::Failed,
        format!("Nothing was sent: {}.", chain(error)),
        "Mend what the message names, or choose another folder with --state DIR.",
    )
}

fn not_leased(error: &LeaseError) -> Trouble {
    match error {
        LeaseError::Held { by, .. } => Trouble::new(
            Exit::Failed,
            format!(
                "Nothing was sent: another reflash (process {} on {}) works on this device.",
                by.pid, by.host
            ),
            "Wait until it has finished, then look what the device runs.",
        ),
        error => storing(error),
    }
}

fn not_run(error: &RunError) -> Trouble {
    let next_step = match error {
        RunError::Left(_) => "Run the same command again: it looks first.",
        RunError::Fenced => "Look at what the other process has done.",
        RunError::NotStored(_) | RunError::NoNotes(_) => "Mend what the message names, then push again.",
        RunError::Unreadable(..) => "Use the reflash version that began the job.",
    };
    Trouble::new(Exit::Failed, sentence(&chain(error)), next_step)
}
