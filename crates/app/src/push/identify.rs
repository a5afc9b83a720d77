//! Which device stands at an address, and which families take the file.

use std::sync::Arc;
use std::time::Duration;

use engine::NoAnswers;
use model::device::Snapshot;
use model::family::{Driver, Family, Fault, FaultKind, Notes, Reason};
use model::id::DeviceId;
use model::image::{ImageInfo, Inspection, Refusal};
use model::outcome::{Ending, Outcome, before_first_byte};
use model::precheck::Permits;

use super::{Bench, News, Pushed, Request, storing, target, without_job};
use crate::error::Trouble;

/// How often a device is asked who it is before it counts as silent. It does not answer while it still drops a broken push.
const IDENTITY_LOOKS: u32 = 3;
/// How long a device counts as missing after an unproven push, milliseconds (a day: RELIABILITY.md F50).
const MISSED_FOR_MS: i64 = 86_400_000;
/// Pause between two of these looks.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// A device that has told who it is, or whose unfinished job has.
pub(super) struct Known {
    pub(super) family: Arc<dyn Family>,
    pub(super) id: DeviceId,
    pub(super) info: ImageInfo,
    pub(super) refusals: Vec<Refusal>,
    /// What it showed; none where its unfinished job was found instead of asking it.
    pub(super) snapshot: Option<Snapshot>,
}

/// A family that takes the file, with what it says of it.
struct Candidate {
    family: Arc<dyn Family>,
    info: ImageInfo,
    refusals: Vec<Refusal>,
}

impl Bench {
    fn families(&self) -> Vec<Arc<dyn Family>> {
        families::all(&self.site, &self.ways)
    }

    /// The families that take this file, with what they say of it; an outcome where none does.
    fn candidates(&self, request: &Request) -> Result<Vec<Candidate>, Outcome> {
        let mut candidates = Vec::new();
        for family in self.families() {
            let wanted = match &request.family {
                Some(name) => family.id().as_str() == name,
                None => family.guessable(),
            };
            if !wanted {
                continue;
            }
            match family.inspect(&request.image) {
                Inspection::NotMine => {}
                Inspection::Accepted(info) => candidates.push(Candidate {
                    family,
                    info,
                    refusals: Vec::new(),
                }),
                Inspection::Refused(info, refusals) => candidates.push(Candidate {
                    family,
                    info,
                    refusals,
                }),
            }
        }
        if candidates.is_empty() {
            return Err(Outcome::because(
                Ending::Refused,
                "not this family's file",
                format!(
                    "{} is no firmware for this family of devices.",
                    request.image.file_name()
                ),
                "Choose the file that fits the device, or another --family.",
            ));
        }
        // A family whose inspection leaves nothing against the file goes first.
        candidates.sort_by_key(|candidate| !candidate.refusals.is_empty());
        Ok(candidates)
    }

    /// Finds out which device stands at the address. The inner error is a push that is over already.
    pub(super) async fn identify(
        &self,
        request: &Request,
        news: &(dyn Fn(News<'_>) + Send + Sync),
    ) -> Result<Result<Known, Box<Pushed>>, Trouble> {
        let candidates = match self.candidates(request) {
            Ok(candidates) => candidates,
            Err(outcome) => return Ok(Err(Box::new(refused_file(request, outcome)))),
        };
        news(News::Image(&candidates[0].info));
        if let Some(outcome) = refused_by_inspection(&candidates, &request.permits) {
            let info = candidates[0].info.clone();
            return Ok(Err(Box::new(without_job(outcome, info))));
        }
        if let Some(known) = self.unfinished(request, &candidates).await? {
            return Ok(Ok(known));
        }
        let mut last = None;
        for Candidate {
            family,
            info,
            refusals,
        } in candidates
        {
            let target = target(request, Notes::default(), Arc::new(NoAnswers));
            let mut driver = family.open(target);
            match look(&mut *driver).await {
                Ok(snapshot) => {
                    let id = snapshot.id.clone();
                    return Ok(Ok(Known {
                        family,
                        id,
                        info,
                        refusals,
                        snapshot: Some(snapshot),
                    }));
                }
                Err(fault) => last = last.or(Some((fault, info))),
            }
        }
        let (fault, info) = last.expect("there is at least one candidate");
        let outcome = self.not_identified(request, &fault).await;
        Ok(Err(Box::new(without_job(outcome, info))))
    }

    /// The outcome where nobody at the address told who it is. Nothing was sent.
    /// Whether the device that was here a short while ago is missing since an unproven push, and another one stands here.
    ///
    /// Its owner would think that he pushes to the first one again.
    pub(super) async fn missing_device(
        &self,
        request: &Request,
        known: &Known,
        now_ms: i64,
    ) -> Result<Option<Outcome>, Trouble> {
        let rows = self
            .store
            .devices_at(request.address)
            .await
            .map_err(|e| storing(&e))?;
        let Some(last) = rows.first().filter(|row| row.id != known.id) else {
            return Ok(None);
        };
        let record = self.store.installed(&last.id).await.map_err(|e| storing(&e))?;
        let is_missing = record.is_some_and(|record| record.digest.is_none());
        if !is_missing || now_ms - last.seen_wall_ms > MISSED_FOR_MS {
            return Ok(None);
        }
        let (last, here) = (&last.id, &known.id);
        Ok(Some(Outcome::because(
            Ending::Refused,
            Reason::OtherDevice.name(),
            format!(
                "{here} answers at this address; {last}, which was here, is missing since a push that was not proven."
            ),
            format!(
                "Find {last} first. If {here} is the one you mean, push to it at another address or in a day."
            ),
        )))
    }

    async fn not_identified(&self, request: &Request, fault: &Fault) -> Outcome {
        let mut outcome = before_first_byte(fault);
        if fault.reason == Reason::NotUnderstood {
            // Somebody answers, and it is not a device that we know.
            outcome.ending = Ending::Refused;
        } else if fault.kind != FaultKind::Unreachable {
            return outcome;
        }
        if request.family.is_some() {
            return outcome;
        }
        outcome.next_step = Some(
            "Check the address and the device's power. If it is a plain ArduinoOTA sketch without a status API, \
             say so: --family arduino --chip esp32c6 (its chip)."
                .to_owned(),
        );
        if fault.kind == FaultKind::Unreachable && self.takes_updates_unasked(request).await {
            outcome.ending = Ending::Refused;
            outcome.reason = Some(Reason::NoStatusApi.name().to_owned());
            outcome.text += " Something is there that may take updates, but it does not tell what it is.";
        }
        outcome
    }

    /// Whether a device of a family that is never guessed seems to be at the address.
    async fn takes_updates_unasked(&self, request: &Request) -> bool {
        for family in self.families() {
            if family.guessable() || matches!(family.inspect(&request.image), Inspection::NotMine) {
                continue;
            }
            let target = target(request, Notes::default(), Arc::new(NoAnswers));
            if family.open(target).probe().await.is_ok() {
                return true;
            }
        }
        false
    }

    /// A device that was at this address when its job was cut short: it may be restarting now, so it is not asked first.
    async fn unfinished(
        &self,
        request: &Request,
        candidates: &[Candidate],
    ) -> Result<Option<Known>, Trouble> {
        for row in self
            .store
            .devices_at(request.address)
            .await
            .map_err(|e| storing(&e))?
        {
            let Some(Candidate {
                family,
                info,
                refusals,
            }) = candidates
                .iter()
                .find(|candidate| candidate.family.id() == row.id.family)
            else {
                continue;
            };
            if self
                .store
                .open_job(&row.id)
                .await
                .map_err(|e| storing(&e))?
                .is_some()
            {
                return Ok(Some(Known {
                    family: family.clone(),
                    id: row.id,
                    info: info.clone(),
                    refusals: refusals.clone(),
                    snapshot: None,
                }));
            }
        }
        Ok(None)
    }
}

/// Looks at a device, three times if it is silent.
pub(super) async fn look(driver: &mut dyn Driver) -> Result<Snapshot, Fault> {
    let mut n_looks = 1;
    loop {
        match driver.probe().await {
            Err(fault) if fault.kind == FaultKind::Unreachable && n_looks < IDENTITY_LOOKS => {
                n_looks += 1;
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
            result => return result,
        }
    }
}

fn refused_by_inspection(candidates: &[Candidate], permits: &Permits) -> Option<Outcome> {
    let standing = |refusals: &[Refusal]| -> Vec<Refusal> {
        refusals
            .iter()
            .filter(|refusal| !permits.covers(refusal))
            .cloned()
            .collect()
    };
    if candidates
        .iter()
        .any(|candidate| standing(&candidate.refusals).is_empty())
    {
        return None;
    }
    let refusals = standing(&candidates[0].refusals);
    let text: Vec<&str> = refusals.iter().map(|refusal| refusal.text.as_str()).collect();
    Some(Outcome::because(
        Ending::Refused,
        refusals[0].rule.clone(),
        text.join(" "),
        refusals[0].next_step.clone(),
    ))
}

pub(super) fn refused_file(request: &Request, outcome: Outcome) -> Pushed {
    let info = ImageInfo {
        version_source: model::image::VersionSource::Image,
        family: None,
        kind: "unknown".to_owned(),
        chip: None,
        versions: None,
        hint: None,
        project: None,
        signature: None,
        len_bytes: request.image.len_bytes(),
        sha256: request.image.sha256(),
        warnings: Vec::new(),
    };
    without_job(outcome, info)
}
