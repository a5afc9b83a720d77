//! What is told of what happened, and when: events in, messages out, with the time as a value.
//!
//! A rollout is told when it halts or ends, and what its devices came to is inside that. Everything else is gathered: the first
//! at once, then one message for each period of the digest. Nothing is told twice: what was told is part of the state, which
//! its owner stores together with the number of the last event that it has taken in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::happened::{Happened, How, RolloutNews, What};
use super::message::{Message, Told};
use super::words::{self, Section};
use crate::config::About;

/// Messages of an hour, at most; what is more comes in one, later. Guess: more than that nobody reads.
pub(super) const N_AN_HOUR: usize = 20;
/// Of these, for anything but a rollout that has halted: that waits for somebody.
pub(super) const N_ORDINARY: usize = 15;
const HOUR: Duration = Duration::from_hours(1);
/// How long a device must be offline, which it is after three missed looks, before it is told as lost. Guess: longer than a
/// power cut's flicker, a restarting router or an access point that changes its channel.
pub(super) const LOST_AFTER: Duration = Duration::from_mins(10);
/// Devices that are about to be told as lost go along with the first: an access point takes all of its devices with it.
const LOST_TOGETHER: Duration = Duration::from_mins(1);
/// How long to wait for what comes at the same time: one image is offered to many devices, one after the other.
pub(super) const TOGETHER: Duration = Duration::from_secs(15);
/// Images of which it is kept that they were told.
const N_FIRMWARE_KEPT: usize = 200;
/// Rollouts that have halted or were ended of which it is kept what was told; jobs of older ones have long ended.
const N_STOPPED_KEPT: usize = 20;
/// Rollouts that wait to be told; of more, only the latest are. Guess: five hours of them, one in three minutes.
const N_ROLLOUTS_WAITING: usize = 100;
/// Rollouts of which it is kept that they go on. Guess: more than ever do at the same time.
const N_GOING_ON_KEPT: usize = 100;
/// Images that wait to be told of because something is the matter with them.
const N_ALARMS_WAITING: usize = 20;
/// Failures that wait to be told with their words; of more, only the latest are. Guess: more than anybody reads.
const N_FAILED_WAITING: usize = 200;

/// What its owner wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// For how long news are gathered.
    pub(super) digest: Duration,
    /// Of what is told.
    pub(super) about: BTreeSet<About>,
}

impl Rules {
    fn wants(&self, about: About) -> bool {
        self.about.contains(&about)
    }
}

/// How a device stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) name: String,
    /// What it runs, in words.
    pub(super) runs: Option<String>,
    pub(super) enrolled: bool,
    pub(super) offline: bool,
    /// A job of ours works on it.
    pub(super) busy: bool,
    /// The image that it is offered.
    pub(super) offered: Option<String>,
}

/// How the device with this key stands; none where there is none.
pub(super) type Look<'a> = &'a dyn Fn(&str) -> Option<Standing>;

/// An event's number and time.
type Of = (i64, i64);

/// Something that waits to be told, and since when (our own time).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Waiting<T> {
    of: Of,
    since: Duration,
    what: T,
}

/// An image that devices need.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Firmware {
    name: String,
    devices: BTreeSet<String>,
}

/// A device that was told as lost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Lost {
    since: Duration,
    /// It was told as an update from which it has not come back.
    by_update: bool,
}

/// How an update ended that no rollout tells of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Ended {
    told: Told,
    corrects: bool,
}

/// What is known and not told yet, and what was told.
///
/// Its time is a clock of its own, which only goes forward and stands still while the server does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Digest {
    /// The number of the last event that was taken in.
    cursor: i64,
    now: Duration,
    rollouts: Vec<Waiting<RolloutNews>>,
    /// There was no room for a rollout: all that wait go into one message.
    held: bool,
    ended: Vec<Waiting<Ended>>,
    /// By SHA-256.
    firmware: BTreeMap<String, Waiting<Firmware>>,
    /// Devices that do not answer and are not told of.
    silent: BTreeMap<String, Waiting<()>>,
    /// Devices that answer again and are told as lost.
    back: BTreeMap<String, Waiting<()>>,
    lost: BTreeMap<String, Lost>,
    told_firmware: VecDeque<String>,
    /// Images with which something is the matter: name and sentence.
    alarms: Vec<Waiting<(String, String)>>,
    /// Rollouts that go on, and tell of their devices at their end.
    going_on: BTreeSet<i64>,
    /// Rollouts that do not go on, with the devices whose failure was told with them.
    stopped: BTreeMap<i64, BTreeSet<String>>,
    /// When the next gathering may be told.
    not_before: Duration,
    /// When messages went out, within the last hour.
    sent: VecDeque<Duration>,
}

impl Digest {
    /// Begins after the event with this number: what happened before is not told.
    pub(super) fn after(cursor: i64) -> Self {
        Self {
            cursor,
            ..Self::default()
        }
    }

    /// The number of the last event that was taken in.
    pub(super) fn cursor(&self) -> i64 {
        self.cursor
    }

    /// Its own time, as it was last told.
    pub(super) fn now(&self) -> Duration {
        self.now
    }

    /// Takes in an event. Says whether anything but the number has changed, so that it should be stored soon.
    pub(super) fn take(&mut self, happened: Happened, now: Duration, rules: &Rules) -> bool {
        // Whoever reads the events again after a crash begins where it was stored.
        if happened.seq <= self.cursor {
            return false;
        }
        let Happened { seq, at_ms, what } = happened;
        self.cursor = seq;
        self.now = self.now.max(now);
        let now = self.now;
        let of = (seq, at_ms);
        match what {
            What::Else => return false,
            What::GoesOn(id) => return self.goes_on(id),
            What::Stands(news) => self.stands(*news, of, rules),
            What::Failed { rollout, told } => return self.failed(rollout, told, of, rules),
            What::Corrected {
                rollout,
                told,
                is_well,
            } => return self.corrected(rollout, (told, is_well), of, rules),
            What::Alarm { name, text } => return self.alarm((name, text), of, rules),
            What::Offered { device, sha256, name } => {
                if !rules.wants(About::Firmware) || self.told_firmware.contains(&sha256) {
                    return false;
                }
                let firmware = self.firmware.entry(sha256).or_insert_with(|| Waiting {
                    of,
                    since: now,
                    what: Firmware {
                        name,
                        devices: BTreeSet::new(),
                    },
                });
                firmware.what.devices.insert(device);
            }
            What::Withdrawn { device } => return self.withdrawn(&device),
            What::Offline { device } => return self.offline(device, of, now, rules.wants(About::Lost)),
            What::Online { device } => {
                let was_silent = self.silent.remove(&device).is_some();
                if !self.lost.contains_key(&device) {
                    return was_silent;
                }
                let since = Waiting {
                    of,
                    since: now,
                    what: (),
                };
                self.back.insert(device, since);
            }
            What::Removed { device } => {
                self.silent.remove(&device);
                self.back.remove(&device);
                self.lost.remove(&device);
                self.withdrawn(&device);
            }
        }
        true
    }

    fn goes_on(&mut self, id: i64) -> bool {
        let had_stopped = self.stopped.remove(&id).is_some();
        let is_new = self.going_on.insert(id);
        while self.going_on.len() > N_GOING_ON_KEPT {
            self.going_on.pop_first();
        }
        had_stopped || is_new
    }

    fn stands(&mut self, mut news: RolloutNews, of: Of, rules: &Rules) {
        for told in &news.failed {
            self.not_come_back(told);
        }
        self.going_on.remove(&news.id);
        let told = std::mem::take(&mut news.failed_ids);
        if news.how == How::Finished {
            self.stopped.remove(&news.id);
        } else {
            self.stopped.insert(news.id, told);
            while self.stopped.len() > N_STOPPED_KEPT {
                self.stopped.pop_first();
            }
        }
        let has_failed = rules.wants(About::Failed) && news.n_failed > 0;
        let is_told = match news.how {
            How::Halted => rules.wants(About::Halted) || rules.wants(About::Failed),
            How::Finished | How::Aborted => rules.wants(About::Finished) || has_failed,
        };
        if !is_told {
            return;
        }
        if self.rollouts.len() >= N_ROLLOUTS_WAITING {
            self.rollouts.remove(0);
        }
        self.rollouts.push(Waiting {
            of,
            since: self.now,
            what: news,
        });
    }

    fn failed(&mut self, rollout: Option<i64>, told: Told, of: Of, rules: &Rules) -> bool {
        if let Some(rollout) = rollout {
            // As long as it goes on it tells that itself, and so it did where it had stopped by then.
            let told_with = self.stopped.get_mut(&rollout);
            if !told_with.is_some_and(|devices| devices.insert(told.id.clone())) {
                return false;
            }
        }
        self.not_come_back(&told);
        if rules.wants(About::Failed) {
            self.push_ended(of, told, false);
        }
        true
    }

    fn corrected(
        &mut self,
        rollout: Option<i64>,
        (told, is_well): (Told, bool),
        of: Of,
        rules: &Rules,
    ) -> bool {
        // That tells how all of its devices have ended.
        if rollout.is_some_and(|rollout| self.going_on.contains(&rollout)) {
            return false;
        }
        let n_before = self.ended.len();
        self.ended
            .retain(|waiting| waiting.what.corrects || waiting.what.told.id != told.id);
        let was_told = n_before == self.ended.len();
        // Nobody has heard of what has turned out to be well.
        if rules.wants(About::Failed) && (was_told || !is_well) {
            self.push_ended(of, told, was_told);
        }
        true
    }

    fn alarm(&mut self, what: (String, String), of: Of, rules: &Rules) -> bool {
        if !(rules.wants(About::Failed) || rules.wants(About::Firmware)) {
            return false;
        }
        if self.alarms.len() >= N_ALARMS_WAITING {
            self.alarms.remove(0);
        }
        self.alarms.push(Waiting {
            of,
            since: self.now,
            what,
        });
        true
    }

    /// A device that is told as not come back from its update is not told as lost beside that.
    fn not_come_back(&mut self, told: &Told) {
        if told.reason.as_deref() == Some(NO_RETURN) {
            self.silent.remove(&told.id);
            let lost = Lost {
                since: self.now,
                by_update: true,
            };
            self.lost.insert(told.id.clone(), lost);
        }
    }

    fn push_ended(&mut self, of: Of, told: Told, corrects: bool) {
        if self.ended.len() >= N_FAILED_WAITING {
            self.ended.remove(0);
        }
        self.ended.push(Waiting {
            of,
            since: self.now,
            what: Ended { told, corrects },
        });
    }

    fn withdrawn(&mut self, device: &str) -> bool {
        let mut changed = false;
        self.firmware.retain(|_, waiting| {
            changed |= waiting.what.devices.remove(device);
            !waiting.what.devices.is_empty()
        });
        changed
    }

    fn offline(&mut self, device: String, of: Of, now: Duration, is_wanted: bool) -> bool {
        if self.back.remove(&device).is_some() {
            // It was told as lost, and nobody has heard that it was back.
            return true;
        }
        if let Some(lost) = self.lost.get(&device) {
            // One that has come back from its update without ever counting as offline is lost anew.
            if !lost.by_update || now.saturating_sub(lost.since) < LOST_AFTER {
                return false;
            }
            self.lost.remove(&device);
        }
        if is_wanted {
            let since = Waiting {
                of,
                since: now,
                what: (),
            };
            self.silent.entry(device).or_insert(since);
        }
        is_wanted
    }

    /// The messages that are due. Whoever sends them stores this first.
    pub(super) fn turn(&mut self, now: Duration, rules: &Rules, look: Look<'_>) -> Vec<Message> {
        self.now = self.now.max(now);
        let now = self.now;
        self.not_before = self.not_before.min(now + rules.digest);
        while self
            .sent
            .front()
            .is_some_and(|sent| now.saturating_sub(*sent) >= HOUR)
        {
            self.sent.pop_front();
        }
        let mut messages = Vec::new();
        let mut left = Vec::new();
        for waiting in std::mem::take(&mut self.rollouts) {
            let is_halt = waiting.what.how == How::Halted;
            let has_room = self.has_room(if is_halt { N_AN_HOUR } else { N_ORDINARY });
            if has_room && (is_halt || !self.held) {
                messages.push(words::message(vec![words::rollout(&waiting.what, waiting.of)]));
                self.sent.push_back(now);
            } else {
                self.held |= !is_halt;
                left.push(waiting);
            }
        }
        let is_open = self.not_before <= now;
        if !self.has_room(N_ORDINARY) || !(is_open || self.held) {
            self.rollouts = left;
            return messages;
        }
        let (held, halted): (Vec<_>, Vec<_>) = left
            .into_iter()
            .partition(|waiting| waiting.what.how != How::Halted);
        self.rollouts = halted;
        self.held = false;
        let rollouts = held.iter();
        let mut sections: Vec<Section> = rollouts
            .map(|waiting| words::rollout(&waiting.what, waiting.of))
            .collect();
        let gathered = self.gather(now, look);
        if !gathered.is_empty() {
            self.not_before = now + rules.digest;
        }
        sections.extend(gathered);
        if !sections.is_empty() {
            messages.push(words::message(sections));
            self.sent.push_back(now);
        }
        messages
    }

    fn has_room(&self, n_an_hour: usize) -> bool {
        self.sent.len() < n_an_hour
    }

    /// Everything beside rollouts that is due.
    fn gather(&mut self, now: Duration, look: Look<'_>) -> Vec<Section> {
        let mut sections = Vec::new();
        let (corrects, failed): (Vec<_>, Vec<_>) = std::mem::take(&mut self.ended)
            .into_iter()
            .partition(|waiting| waiting.what.corrects);
        for (ended, section) in [
            (failed, words::failed as fn(Vec<Told>, Vec<Of>) -> Section),
            (corrects, words::corrected),
        ] {
            if !ended.is_empty() {
                let of = ended.iter().map(|waiting| waiting.of).collect();
                let told = ended.into_iter().map(|waiting| named(waiting.what.told, look));
                sections.push(section(told.collect(), of));
            }
        }
        for alarm in std::mem::take(&mut self.alarms) {
            let (name, text) = alarm.what;
            sections.push(words::alarm(&name, &text, alarm.of));
        }
        sections.extend(self.gather_firmware(now, look));
        sections.extend(self.gather_lost(now, look));
        let is_due = |waiting: &Waiting<()>| now.saturating_sub(waiting.since) >= TOGETHER;
        let back: Vec<_> = self.back.extract_if(.., |_, waiting| is_due(waiting)).collect();
        let mut told = Vec::new();
        let mut of = Vec::new();
        for (device, waiting) in back {
            self.lost.remove(&device);
            if let Some(standing) = look(&device) {
                told.push(stands(device, "online", standing));
                of.push(waiting.of);
            }
        }
        if !told.is_empty() {
            sections.push(words::found(told, of));
        }
        sections
    }

    fn gather_firmware(&mut self, now: Duration, look: Look<'_>) -> Vec<Section> {
        let is_due = |waiting: &Waiting<Firmware>| now.saturating_sub(waiting.since) >= TOGETHER;
        let due: Vec<_> = self
            .firmware
            .extract_if(.., |_, waiting| is_due(waiting))
            .collect();
        let mut sections = Vec::new();
        for (sha256, waiting) in due {
            let devices = waiting.what.devices.into_iter();
            let needing = devices.filter_map(|device| {
                let standing = look(&device)?;
                let needs = standing.enrolled && standing.offered.as_deref() == Some(sha256.as_str());
                needs.then(|| stands(device, "update-offered", standing))
            });
            let told: Vec<Told> = needing.collect();
            // It is offered anew to whoever needs it later.
            if told.is_empty() {
                continue;
            }
            sections.push(words::firmware(&waiting.what.name, told, waiting.of));
            self.told_firmware.push_back(sha256);
            if self.told_firmware.len() > N_FIRMWARE_KEPT {
                self.told_firmware.pop_front();
            }
        }
        sections
    }

    fn gather_lost(&mut self, now: Duration, look: Look<'_>) -> Option<Section> {
        let mut standings = BTreeMap::new();
        self.silent.retain(|device, waiting| {
            let standing = look(device).filter(|standing| standing.enrolled);
            let Some(standing) = standing else { return false };
            if standing.busy {
                // Its job sees it come back, or tells that it has not.
                waiting.since = now;
                return true;
            }
            let is_silent = standing.offline;
            standings.insert(device.clone(), standing);
            is_silent
        });
        let for_long = |waiting: &Waiting<()>, long: Duration| now.saturating_sub(waiting.since) >= long;
        if !self.silent.values().any(|waiting| for_long(waiting, LOST_AFTER)) {
            return None;
        }
        let lost: Vec<_> = self
            .silent
            .extract_if(.., |_, waiting| {
                for_long(waiting, LOST_AFTER.saturating_sub(LOST_TOGETHER))
            })
            .collect();
        let mut told = Vec::new();
        let mut of = Vec::new();
        let mut longest = Duration::ZERO;
        for (device, waiting) in lost {
            longest = longest.max(now.saturating_sub(waiting.since));
            let since = Lost {
                since: now,
                by_update: false,
            };
            self.lost.insert(device.clone(), since);
            of.push(waiting.of);
            if let Some(standing) = standings.remove(&device) {
                told.push(stands(device, "offline", standing));
            }
        }
        Some(words::lost(told, longest, of))
    }

    /// How long nothing will be due, unless something happens; none where nothing waits.
    pub(super) fn next(&self) -> Option<Duration> {
        let of_rollouts = self.rollouts.iter().map(|waiting| {
            self.room_at(match waiting.what.how {
                How::Halted => N_AN_HOUR,
                How::Finished | How::Aborted => N_ORDINARY,
            })
        });
        let of_items = [
            self.ended.iter().map(|waiting| waiting.since).min(),
            self.alarms.iter().map(|waiting| waiting.since).min(),
            self.firmware
                .values()
                .map(|waiting| waiting.since + TOGETHER)
                .min(),
            self.silent
                .values()
                .map(|waiting| waiting.since + LOST_AFTER)
                .min(),
            self.back.values().map(|waiting| waiting.since + TOGETHER).min(),
        ];
        let item = of_items.into_iter().flatten().min();
        let gathered = item.map(|due| due.max(self.not_before).max(self.room_at(N_ORDINARY)));
        let next = of_rollouts.chain(gathered).min()?;
        Some(next.saturating_sub(self.now))
    }

    /// When there is room for another message.
    fn room_at(&self, n_an_hour: usize) -> Duration {
        let n_too_many = (self.sent.len() + 1).saturating_sub(n_an_hour);
        let last_of_these = n_too_many.checked_sub(1).and_then(|idx| self.sent.get(idx));
        last_of_these.map_or(Duration::ZERO, |sent| *sent + HOUR)
    }
}

/// The reason of an update from which a device has not come back (`model::outcome`).
const NO_RETURN: &str = "no return";

/// What is told of a device by how it stands.
fn stands(device: String, state: &str, standing: Standing) -> Told {
    Told {
        id: device,
        name: standing.name,
        state: state.to_owned(),
        reason: None,
        runs: standing.runs,
        text: None,
        next_step: None,
    }
}

/// The same with the name that it has.
fn named(told: Told, look: Look<'_>) -> Told {
    let name = look(&told.id).map(|standing| standing.name);
    Told {
        name: name.unwrap_or(told.name),
        ..told
    }
}

#[cfg(test)]
#[path = "digest_tests.rs"]
mod tests;
