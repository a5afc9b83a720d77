//! From a wish to a plan: which devices are meant, which image each gets, and what stands against it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use model::family::Method;
use model::firmware::State as FirmwareState;
use model::id::{DeviceId, Sha256, Strength};
use model::image::{Image, ImageInfo, Refusal};
use model::installed::Standing;
use model::job::Job;
use model::plan::{AtOnce, Choice, Facts, MaxFailures, Plan, Reason, Rules, plan};
use model::precheck::{Permits, precheck};
use model::window::Window;
use store::JobFilter;

use super::successor::TakenOver;
use super::{RolloutError, Rollouts};
use crate::fleet::Known;
use crate::views::{RolloutKind, WantedRollout};

/// Devices in one wish; more than anybody has.
const N_DEVICES_MAX: usize = 10_000;
/// How far a wish may look into the future for devices that are offline: a month.
const WHEN_BACK_MAX_S: u64 = 31 * 86_400;
/// The longest soak, a day.
const SOAK_MAX_S: u64 = 86_400;
/// Jobs that are looked through for how fast a device is, and for what it ran before.
const N_JOBS_BACK: u32 = 20;

/// An image that the plan is about, read once for all devices.
struct Held {
    image: Image,
    info: ImageInfo,
    refusals: Vec<Refusal>,
    state: FirmwareState,
    name: String,
}

/// The images that are settled before a plan is made.
#[derive(Default)]
struct Planned {
    for_all: Option<Sha256>,
    of_each: HashMap<DeviceId, Sha256>,
}

impl Planned {
    fn of(&self, device: &DeviceId) -> Option<Sha256> {
        self.for_all.or_else(|| self.of_each.get(device).copied())
    }
}

impl Rollouts {
    /// What would happen.
    pub(super) async fn plan_of(&self, wanted: &WantedRollout) -> Result<Plan, RolloutError> {
        Ok(self.plan_and_predecessor(wanted).await?.0)
    }

    /// What would happen, and what is taken over by it.
    pub(super) async fn plan_and_predecessor(
        &self,
        wanted: &WantedRollout,
    ) -> Result<(Plan, Option<TakenOver>), RolloutError> {
        let taken_over = self.taken_over(wanted).await?;
        let wanted = &WantedRollout {
            kind: taken_over.as_ref().map_or(wanted.kind, |old| old.kind),
            ..wanted.clone()
        };
        let rules = self.rules(wanted, taken_over.as_ref().map(|old| &old.rules))?;
        self.inner.fleet.work_out_offers().await;
        let mut planned = Planned::default();
        if let Some(word) = &wanted.firmware {
            planned.for_all = Some(self.inner.repository.find(word)?);
        } else if let Some(old) = &taken_over {
            planned.of_each.clone_from(&old.images);
        }
        let devices = match &taken_over {
            Some(old) => self.still_open(old),
            None => self.meant(wanted)?,
        };
        let excluded = self.excluded(wanted)?;
        let permits = Permits {
            allow: rules.allow.clone(),
            force: rules.force,
            mixed: rules.mixed,
        };
        let mut held: HashMap<Sha256, Result<Held, Reason>> = HashMap::new();
        let mut facts = Vec::with_capacity(devices.len());
        for known in devices {
            let choice = self.choice(&known, wanted, &planned, &permits, &mut held).await?;
            let busy_with = self.state().model.busy_with(&known.id);
            let busy_with = busy_with.filter(|&id| taken_over.as_ref().is_none_or(|old| old.id != id));
            facts.push(Facts {
                model: known.device.hardware.model.clone(),
                runs: known.runs.name.clone(),
                standing: known.standing,
                signal_dbm: known
                    .snapshot
                    .as_ref()
                    .and_then(|snapshot| snapshot.health.signal_dbm),
                enrolled: known.enrolled,
                conflict: known.conflict.clone(),
                group: known.group.clone(),
                busy_with,
                excluded: excluded.contains(&known.id),
                choice,
                device: known.id,
                name: known.name,
            });
        }
        Ok((plan(&facts, rules), taken_over))
    }

    /// What the wish says, and where it says nothing what the rollout said whose place it takes, or else the policy.
    fn rules(&self, wanted: &WantedRollout, base: Option<&Rules>) -> Result<Rules, RolloutError> {
        let policy = self.policy();
        let base = base.cloned().unwrap_or_else(|| Rules {
            canary: policy.canary,
            canary_soak: policy.canary_soak,
            soak: policy.soak,
            at_once: policy.at_once,
            max_failures: policy.max_failures,
            put_back: policy.put_back,
            ..Rules::default()
        });
        let soak = |wish: Option<u64>, usual: Duration| match wish {
            Some(seconds) if seconds > SOAK_MAX_S => Err(RolloutError::invalid(
                "A soak is at most a day.",
                "Name a shorter one.",
            )),
            Some(seconds) => Ok(Duration::from_secs(seconds)),
            None => Ok(usual),
        };
        let when_back_until_ms = match wanted.when_back_s {
            Some(seconds) if seconds > WHEN_BACK_MAX_S => {
                return Err(RolloutError::invalid(
                    "Devices that are offline are waited for at most 31 days.",
                    "Name a shorter time.",
                ));
            }
            Some(seconds) => {
                let seconds = i64::try_from(seconds).unwrap_or(i64::MAX / 1000);
                Some(self.inner.engine.clock().now().wall_ms + seconds * 1000)
            }
            None => base.when_back_until_ms,
        };
        let window = match &wanted.window {
            Some(name) => Some(window(name, &policy.windows)?),
            None => base.window.clone(),
        };
        let mut allow = base.allow.clone();
        allow.extend(wanted.allow.iter().cloned());
        let back = wanted.kind == RolloutKind::Rollback;
        if back {
            // Going back is what its owner has asked for.
            allow.push("downgrade".to_owned());
        }
        Ok(Rules {
            canary: wanted.canary.unwrap_or(base.canary),
            canary_soak: soak(wanted.canary_soak_s, base.canary_soak)?,
            soak: soak(wanted.soak_s, base.soak)?,
            at_once: match wanted.at_once.as_deref() {
                Some(words) => at_once(words)?,
                None => base.at_once,
            },
            groups: policy.groups.clone(),
            max_failures: match wanted.max_failures.as_deref() {
                Some(words) => max_failures(words)?,
                None => base.max_failures,
            },
            when_back_until_ms,
            window,
            force: wanted.force || base.force,
            allow,
            mixed: wanted.yes || back || base.mixed,
            // Whoever goes back is not brought forward again (RELIABILITY.md F91).
            put_back: base.put_back && !back,
            ..base
        })
    }

    /// The devices that have not begun in the rollout whose place is taken, in the order of their keys.
    fn still_open(&self, old: &TakenOver) -> Vec<Known> {
        let known = self.inner.fleet.all_known().into_iter();
        let mut open: Vec<Known> = known.filter(|known| old.images.contains_key(&known.id)).collect();
        open.sort_by_key(|known| known.id.key());
        open
    }

    /// The devices that are meant, each once, in the order of their keys.
    fn meant(&self, wanted: &WantedRollout) -> Result<Vec<Known>, RolloutError> {
        let has_tag =
            |known: &Known| wanted.tags.is_empty() || known.tags.iter().any(|tag| wanted.tags.contains(tag));
        if wanted.all || (wanted.devices.is_empty() && !wanted.tags.is_empty()) {
            if !wanted.devices.is_empty() {
                return Err(RolloutError::invalid(
                    "Either devices are named, or all of them are meant.",
                    "Leave one of the two out.",
                ));
            }
            let all = self.inner.fleet.all_known().into_iter();
            return Ok(all.filter(|known| known.enrolled && has_tag(known)).collect());
        }
        if wanted.devices.is_empty() {
            return Err(RolloutError::invalid(
                "No device is named.",
                "Name devices, or ask for all of them.",
            ));
        }
        if wanted.devices.len() > N_DEVICES_MAX {
            return Err(RolloutError::invalid(
                format!("At most {N_DEVICES_MAX} devices can be named."),
                "Ask for all of them, and exclude some.",
            ));
        }
        let mut seen = BTreeSet::new();
        let mut meant = Vec::new();
        for named in &wanted.devices {
            let known = self.inner.fleet.known(named)?;
            if seen.insert(known.id.clone()) && has_tag(&known) {
                meant.push(known);
            }
        }
        meant.sort_by_key(|known| known.id.key());
        Ok(meant)
    }

    fn excluded(&self, wanted: &WantedRollout) -> Result<BTreeSet<DeviceId>, RolloutError> {
        let ids = wanted
            .exclude
            .iter()
            .map(|named| Ok(self.inner.fleet.known(named)?.id));
        ids.collect()
    }

    /// Which image is meant for one device.
    async fn digest_for(
        &self,
        known: &Known,
        wanted: &WantedRollout,
        planned: &Planned,
    ) -> Result<Result<Sha256, Reason>, RolloutError> {
        Ok(match (planned.of(&known.id), wanted.kind) {
            (Some(digest), _) => Ok(digest),
            (None, RolloutKind::Update) => newest(known, wanted.force, |digest| self.quarantined(digest)),
            (None, RolloutKind::Rollback) => {
                self.images_before(known)
                    .await?
                    .into_iter()
                    .next()
                    .ok_or_else(|| {
                        Reason::new(
                            "no-way-back",
                            "The image that it ran before is not kept here.",
                            "Name the image: --to VERSION. A running image is registered with: \
                     reflash firmware add FILE --running-on DEVICE.",
                        )
                    })
            }
        })
    }

    /// The image for one device, or why there is none.
    async fn choice(
        &self,
        known: &Known,
        wanted: &WantedRollout,
        planned: &Planned,
        permits: &Permits,
        held: &mut HashMap<Sha256, Result<Held, Reason>>,
    ) -> Result<Result<Choice, Reason>, RolloutError> {
        let Some(snapshot) = &known.snapshot else {
            return Ok(Err(Reason::new(
                "never-seen",
                "It has never answered, so nobody knows what it runs.",
                "Check its power and its address, or wait until it answers.",
            )));
        };
        let digest = match self.digest_for(known, wanted, planned).await? {
            Ok(digest) => digest,
            Err(reason) => return Ok(Err(reason)),
        };
        if let Some(reason) = self.barred(known, digest).or_else(|| self.quarantined(digest)) {
            return Ok(Err(reason));
        }
        let held = match held.entry(digest) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(place) => place.insert(self.held(digest).await),
        };
        let held = match held {
            Ok(held) => held,
            Err(reason) => return Ok(Err(reason.clone())),
        };
        if held
            .info
            .family
            .as_ref()
            .is_some_and(|family| *family != known.id.family)
        {
            return Ok(Err(Reason::new(
                "other-family",
                format!("{} is not for devices of its kind.", held.name),
                "Leave it out, or name an image that fits it.",
            )));
        }
        // Its owner asks for what has run on this very device: that needs no other word.
        let is_own = wanted.kind == RolloutKind::Rollback
            && held.state == FirmwareState::Waiting
            && self.images_before(known).await?.contains(&digest);
        if held.state != FirmwareState::Approved && !is_own {
            return Ok(Err(not_approved(held, digest)));
        }
        let checked = precheck(
            &*known.family,
            &known.device,
            snapshot,
            (&held.image, &held.info, &held.refusals),
            known.installed.as_ref(),
            permits,
        );
        if checked.standing == Standing::AlreadyCurrent {
            return Ok(Err(Reason::new(
                "already-current",
                format!("It runs {} already.", held.name),
                "Nothing is to be done; --force installs it again.",
            )));
        }
        if let Some(refusal) = checked.refusals.into_iter().next() {
            return Ok(Err(Reason::new(refusal.rule, refusal.text, refusal.next_step)));
        }
        let mut methods = known.family.methods(&known.device);
        if let Some(wish) = &wanted.method {
            let offered: Vec<&str> = methods.iter().map(Method::as_str).collect();
            let why_not = no_such_method(wish, &offered);
            methods.retain(|method| method.as_str() == wish);
            if methods.is_empty() {
                return Ok(Err(why_not));
            }
        }
        if methods.is_empty() {
            return Ok(Err(Reason::new(
                "no-method",
                "It offers no way to bring it an image.",
                "Update it by cable.",
            )));
        }
        let len_bytes = held.image.len_bytes();
        let push = match self.speed(&known.id).await? {
            Some(bytes_per_s) => Duration::from_secs_f64(len_bytes_f64(len_bytes) / bytes_per_s),
            None => known.family.timing(&known.device, len_bytes).push,
        };
        let estimate = push + known.family.restarts_within();
        Ok(Ok(Choice {
            image: digest,
            image_name: held.name.clone(),
            len_bytes,
            methods,
            estimate,
            way_back: known
                .installed
                .as_ref()
                .and_then(|installed| installed.digest)
                .filter(|_| known.runs.kept),
            weak: known.id.strength == Strength::Weak,
            interrupts: known.family.interrupts(estimate),
        }))
    }

    /// What stands against this image on a device by now: it is not enrolled any more, in a conflict, pinned, or skips it.
    pub(super) fn against(&self, known: &Known, digest: Sha256) -> Option<Reason> {
        if let Some(conflict) = &known.conflict {
            return Some(Reason::new(
                "conflict",
                conflict,
                "Find out which of the two is yours and disconnect the other.",
            ));
        }
        if !known.enrolled {
            return Some(Reason::new(
                "not-enrolled",
                "It is not enrolled any more.",
                format!("Enrol it: reflash device enroll {}.", known.id.key()),
            ));
        }
        self.barred(known, digest)
    }

    /// Why an image goes to no device any more.
    pub(super) fn quarantined(&self, digest: Sha256) -> Option<Reason> {
        let refusal = self.inner.repository.quarantine(digest)?;
        Some(Reason::new(refusal.rule, refusal.text, refusal.next_step))
    }

    /// Pins and skips of the device, against this image.
    fn barred(&self, known: &Known, digest: Sha256) -> Option<Reason> {
        let repository = &self.inner.repository;
        if let Some(pinned) = known
            .pinned
            .as_deref()
            .filter(|word| !repository.is_meant(word, digest))
        {
            return Some(Reason::new(
                "pinned",
                format!("Its owner has pinned it to {pinned}."),
                format!("Lift the pin first: reflash device unpin {}.", known.id.key()),
            ));
        }
        let skipped = known
            .skipped
            .iter()
            .find(|word| repository.is_meant(word, digest))?;
        Some(Reason::new(
            "skipped",
            format!("Its owner has skipped {skipped} for it."),
            format!(
                "Take that back first: reflash device unskip {} {skipped}.",
                known.id.key()
            ),
        ))
    }

    async fn held(&self, digest: Sha256) -> Result<Held, Reason> {
        let gone = |text: String| {
            Reason::new(
                "image-missing",
                text,
                "Bring the image again: reflash firmware add FILE.",
            )
        };
        let (info, refusals, state) = self
            .inner
            .repository
            .inspected(&digest)
            .ok_or_else(|| gone("The image is not kept here any more.".to_owned()))?;
        let name = self
            .inner
            .repository
            .name_of(digest)
            .unwrap_or_else(|| digest.short());
        let image = self.inner.repository.image(&digest).await;
        let image = image.map_err(|error| {
            gone(format!(
                "Its image cannot be read: {}.",
                model::chain::chain(&error)
            ))
        })?;
        Ok(Held {
            image,
            info,
            refusals,
            state,
            name,
        })
    }

    /// What the device ran before what it runs now, the last first, as far as those images are kept.
    pub(super) async fn images_before(&self, known: &Known) -> Result<Vec<Sha256>, RolloutError> {
        let now = known.installed.as_ref().and_then(|installed| installed.digest);
        let recorded = self.inner.store.installed_before(&known.id).await;
        let recorded = recorded.map_err(|error| RolloutError::store(&error))?;
        let proven = self.jobs_back(&known.id).await?.into_iter().filter(succeeded);
        let mut before: Vec<Sha256> = Vec::new();
        for digest in recorded.into_iter().chain(proven.map(|job| job.image)) {
            let is_kept = self.inner.repository.inspected(&digest).is_some();
            if is_kept && Some(digest) != now && !before.contains(&digest) {
                before.push(digest);
            }
        }
        Ok(before)
    }

    /// How fast its last good push was, bytes per second; none where there was none.
    pub(super) async fn speed(&self, id: &DeviceId) -> Result<Option<f64>, RolloutError> {
        let Some(job) = self.jobs_back(id).await?.into_iter().find(succeeded) else {
            return Ok(None);
        };
        let row = self.inner.store.job_row(job.job).await;
        let Some((_, state)) = row.map_err(|error| RolloutError::store(&error))? else {
            return Ok(None);
        };
        // A job of an older or newer program may say it in other words: then it is not known.
        let Ok(job) = serde_json::from_value::<Job>(state) else {
            return Ok(None);
        };
        Ok(job
            .evidence
            .push
            .filter(|push| *push > Duration::from_millis(100))
            .map(|push| len_bytes_f64(job.order.image.len_bytes) / push.as_secs_f64()))
    }

    async fn jobs_back(&self, id: &DeviceId) -> Result<Vec<store::JobRow>, RolloutError> {
        let filter = JobFilter {
            device: Some(id.clone()),
            ..JobFilter::latest(N_JOBS_BACK)
        };
        self.inner
            .store
            .jobs(&filter)
            .await
            .map_err(|error| RolloutError::store(&error))
    }
}

/// Why a method that was asked for is not used.
fn no_such_method(wish: &str, methods: &[&str]) -> Reason {
    let next_step = match wish {
        "mqtt" => {
            "It takes a broker in the configuration, and a device that was heard there under its own name: \
                   see the guide, mqtt.md."
        }
        _ => "Leave out --method.",
    };
    Reason::new(
        "no-method",
        format!("It takes no images by {wish}, but by {}.", methods.join(" and ")),
        next_step,
    )
}

/// The newest image for a device, as the fleet has worked it out.
fn newest(
    known: &Known,
    force: bool,
    quarantined: impl Fn(Sha256) -> Option<Reason>,
) -> Result<Sha256, Reason> {
    let Some(offer) = &known.offer else {
        return Err(Reason::new(
            "no-firmware",
            "There is no approved firmware for it here.",
            "Bring one: reflash firmware add FILE.",
        ));
    };
    let quarantine = offer.sha256.parse().ok().and_then(quarantined);
    if let Some(reason) = quarantine.filter(|reason| offer.why_not.as_ref() == Some(&reason.text)) {
        return Err(reason);
    }
    if let Some(why_not) = offer.why_not.as_ref().filter(|_| !force) {
        return Err(Reason::new(
            "not-offered",
            why_not,
            "To install an image all the same, name it with --firmware.",
        ));
    }
    offer.sha256.parse().map_err(|_| {
        Reason::new(
            "no-firmware",
            "Its firmware cannot be named.",
            "Look at: reflash firmware list.",
        )
    })
}

/// Why an image that nobody has approved is not installed: what was found wrong with it goes before who would have to approve it.
fn not_approved(held: &Held, digest: Sha256) -> Reason {
    match held.refusals.first() {
        Some(refusal) if held.state == FirmwareState::Refused => Reason::new(
            "not-approved",
            format!("{} is refused: {}", held.name, refusal.text),
            &refusal.next_step,
        ),
        _ => Reason::new(
            "not-approved",
            format!("{} is not approved: {}.", held.name, held.state.name()),
            format!("Approve it: reflash firmware approve {}.", digest.short()),
        ),
    }
}

/// Whether a job has proven its image.
fn succeeded(job: &store::JobRow) -> bool {
    job.outcome
        .as_ref()
        .is_some_and(|outcome| outcome.ending.is_success())
}

/// The window of this name.
fn window(name: &str, windows: &BTreeMap<String, Window>) -> Result<Window, RolloutError> {
    if let Some(window) = windows.get(name) {
        return Ok(window.clone());
    }
    let names: Vec<&str> = windows.keys().map(String::as_str).collect();
    let next_step = match (
        crate::config::nearest(name, names.iter().copied()),
        names.as_slice(),
    ) {
        (Some(near), _) => format!("Did you mean {near}?"),
        (None, []) => "Make one: reflash window set night --start 02:00 --duration 3h.".to_owned(),
        (None, names) => format!("There are {}.", names.join(", ")),
    };
    Err(RolloutError::invalid(
        format!("There is no window {:?}.", shown(name)),
        next_step,
    ))
}

/// `auto`, or a number from 1.
fn at_once(words: &str) -> Result<AtOnce, RolloutError> {
    if words.eq_ignore_ascii_case("auto") {
        return Ok(AtOnce::Auto);
    }
    match words.parse::<u32>() {
        Ok(n_devices @ 1..) => Ok(AtOnce::AtMost(n_devices)),
        _ => Err(RolloutError::invalid(
            format!("{:?} is no number of devices.", shown(words)),
            "Write `auto` or a number from 1.",
        )),
    }
}

/// A number from 1, or a share below 100 as `5%`.
fn max_failures(words: &str) -> Result<MaxFailures, RolloutError> {
    let wrong = || {
        RolloutError::invalid(
            format!("{:?} is no number of failures.", shown(words)),
            "Write a number from 1, or a share as 5%.",
        )
    };
    match words.strip_suffix('%') {
        Some(percent) => match percent.trim().parse::<u8>() {
            Ok(percent @ 0..100) => Ok(MaxFailures::Percent(percent)),
            _ => Err(wrong()),
        },
        None => match words.parse::<u32>() {
            Ok(n_failures @ 1..) => Ok(MaxFailures::Count(n_failures)),
            _ => Err(wrong()),
        },
    }
}

/// What somebody wrote, bounded and printable.
fn shown(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(40).collect()
}

#[expect(clippy::cast_precision_loss, reason = "an estimate of images below 16 MiB")]
pub(super) fn len_bytes_f64(len_bytes: u64) -> f64 {
    len_bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_many_at_once_is_auto_or_a_number_from_one() {
        assert_eq!(at_once("auto").unwrap(), AtOnce::Auto);
        assert_eq!(at_once("3").unwrap(), AtOnce::AtMost(3));
        for wrong in ["0", "-1", "", "many", "1.5", "99999999999"] {
            assert!(at_once(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn how_much_may_fail_is_a_number_or_a_share() {
        assert_eq!(max_failures("2").unwrap(), MaxFailures::Count(2));
        assert_eq!(max_failures("5%").unwrap(), MaxFailures::Percent(5));
        for wrong in ["0", "100%", "-1%", "%", "a lot"] {
            assert!(max_failures(wrong).is_err(), "{wrong}");
        }
    }
}
