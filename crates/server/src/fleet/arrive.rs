//! What an answer means for the fleet: a new device, the same one, a move, or two that claim one place.

use std::net::IpAddr;
use std::sync::Arc;

use model::device::Snapshot;
use model::family::{Family, Fault, FaultKind, Reason};
use model::id::DeviceId;
use model::inventory::{Finding, MISSES_TO_OFFLINE, QUARREL, State as Standing};
use serde_json::json;
use store::{FleetRow, Poll, Sample};
use tokio::time::Instant;

use super::entry::{Conflict, Entry};
use super::writer::Write;
use super::{Fleet, State};

/// How an answer came about.
#[derive(Clone, Debug)]
pub(super) struct How {
    /// Who told: `config`, `added`, `scan`, `mdns`, `mqtt`; a poll of what is known tells nothing new.
    pub(super) source: Option<&'static str>,
    /// Whether everything was read, or only what changes.
    pub(super) full: bool,
    /// The host under which its owner listed it.
    pub(super) given_as: Option<String>,
}

impl Fleet {
    /// A device has answered at an address. Looks at its old address first, where it seems to have moved.
    pub(super) async fn arrived(
        &self,
        family: &Arc<dyn Family>,
        address: IpAddr,
        snapshot: Snapshot,
        how: &How,
    ) -> DeviceId {
        let id = snapshot.id.clone();
        // Another answer may come in while the old address is asked: then there is a new doubt, or a first one.
        let mut asked: Option<(IpAddr, bool)> = None;
        loop {
            let known = {
                let mut state = self.state();
                match state.places.doubt(&id, address) {
                    Some(known) if asked.is_none_or(|(at, _)| at != known) => known,
                    _ => {
                        let still_there = asked.is_some_and(|(_, still_there)| still_there);
                        self.settle_in(&mut state, family, address, snapshot, how, still_there);
                        break;
                    }
                }
            };
            let look = self.glance(family, known, None).await;
            asked = Some((known, look.is_ok_and(|seen| seen.id == id)));
        }
        id
    }

    /// What an answer changes, once it is known whether the device also answers where it was.
    fn settle_in(
        &self,
        state: &mut State,
        family: &Arc<dyn Family>,
        address: IpAddr,
        snapshot: Snapshot,
        how: &How,
        still_there: bool,
    ) {
        let id = snapshot.id.clone();
        let now = self.boot();
        let findings = state.places.answered(&id, address, still_there, now);
        let key = id.key();
        if let [Finding::Clones { known, other }] = findings[..] {
            self.clones(state, &id, known, other);
            return;
        }
        let is_new = !state.entries.contains_key(&key);
        if is_new {
            let row = FleetRow::new(id.clone(), self.wall_ms());
            let mut entry = Entry::new(row, family.clone(), Standing::Unknown, Instant::now());
            // What only a closer look tells is still to be read.
            entry.next_look = Instant::now();
            state.entries.insert(key.clone(), entry.into());
        }
        self.take(state, &key, address, snapshot, how, is_new);
        let mut sooner = is_new;
        for finding in findings {
            match finding {
                Finding::Found if is_new => {
                    let detail = json!({ "address": address, "source": how.source });
                    self.tell(state, "device.found", &id, detail);
                }
                Finding::Moved { from } => {
                    let detail = json!({ "from": from, "to": address });
                    self.tell(state, "device.moved", &id, detail);
                }
                Finding::Displaced { id: displaced } => {
                    if let Some(entry) = state.entries.get_mut(&displaced.key()) {
                        entry.trouble = Some(format!("Another device, {id}, answers at {address} now."));
                        entry.next_look = Instant::now();
                        sooner = true;
                    }
                }
                Finding::Quarrel { with } => self.quarrel(state, &id, &with, address),
                Finding::Found | Finding::Clones { .. } => {}
            }
        }
        if sooner {
            self.inner.wake.notify_one();
        }
    }

    /// Takes in one answer of a known device.
    fn take(
        &self,
        state: &mut State,
        key: &str,
        address: IpAddr,
        snapshot: Snapshot,
        how: &How,
        is_new: bool,
    ) {
        let now = self.inner.engine.clock().now();
        let settings = self.settings();
        let Some(entry) = state.entries.get_mut(key) else {
            return;
        };
        let id = entry.row.id.clone();
        let was = entry.presence;
        let versions = entry
            .row
            .snapshot
            .as_ref()
            .filter(|before| before.versions != snapshot.versions)
            .map(|before| (before.versions.clone(), snapshot.versions.clone()));
        let restarted = entry.take(snapshot, now.boot);
        if entry.offer_due {
            self.inner.offers_due.notify_one();
        }
        entry.presence = was.answered();
        entry.trouble = None;
        entry.glances = match (how.full, entry.glances) {
            (true, _) => 1,
            // Until everything was read once, every look is a full one.
            (false, 0) => 0,
            (false, glances) => glances.saturating_add(1),
        };
        let moved = entry.row.address != Some(address);
        entry.row.address = Some(address);
        entry.row.seen_ms = Some(now.wall_ms);
        entry.row.online = true;
        let mut kept = is_new || moved;
        kept |= note_source(entry, how);
        let came = was.state() != Standing::Online;
        if came && !how.full {
            // It was away: everything may be new.
            entry.glances = 0;
        }
        let over = match &entry.conflict {
            Some(Conflict::Quarrel { until, .. }) => now.boot >= *until,
            _ => false,
        };
        if over {
            entry.conflict = None;
        }
        let enrolls = entry.row.enrolled_ms.is_none() && entry.conflict.is_none();
        // What is listed is enrolled, also where that was lost before it was written: at the very place that is listed.
        let is_listed = entry.row.given_as.as_deref().is_some_and(|host| {
            let is_here = host.parse::<IpAddr>().map_or(true, |listed| listed == address);
            is_here && settings.configured(id.family.as_str(), host).is_some()
        });
        let by = if how.source == Some("config") || is_listed {
            Some("configuration")
        } else if settings.auto_enroll {
            Some("policy")
        } else {
            None
        };
        let by = by.filter(|_| enrolls);
        if let Some(by) = by {
            entry.row.enrolled_ms = Some(now.wall_ms);
            entry.row.enrolled_by = Some(by.to_owned());
            entry.offer_due = true;
            self.inner.offers_due.notify_one();
        }
        let sampled = entry.sample_due(now.wall_ms, came || restarted);
        if sampled {
            entry.sampled_ms = now.wall_ms;
        }
        let poll = poll_of(&entry.row, now.wall_ms, true, sampled.then_some(restarted));
        let uptime = entry.row.snapshot.as_ref().and_then(|seen| seen.uptime);
        if kept {
            let row = entry.row.clone();
            self.keep(state, &row);
        }
        if let Some(by) = by {
            state.outbox.push(Write::Enroll {
                id: id.clone(),
                by,
                at_ms: now.wall_ms,
            });
        }
        state.outbox.push(Write::Poll(Box::new(poll)));
        if came && !is_new {
            self.tell(state, "device.online", &id, json!({ "address": address }));
        }
        if by.is_some() {
            self.tell(state, "device.enrolled", &id, json!({ "by": by }));
        }
        if restarted {
            let uptime_s = uptime.map(|uptime| uptime.as_secs());
            self.tell(state, "device.restarted", &id, json!({ "uptime_s": uptime_s }));
        }
        if let Some((was, is)) = versions {
            let detail = json!({ "from": was.to_string(), "to": is.to_string() });
            self.tell(state, "device.version", &id, detail);
        }
        if over {
            self.tell(state, "device.conflict-solved", &id, json!({}));
        }
        self.inner.written.notify_one();
    }

    /// One identity answers at two addresses.
    fn clones(&self, state: &mut State, id: &DeviceId, known: IpAddr, other: IpAddr) {
        let Some(entry) = state.entries.get_mut(&id.key()) else {
            return;
        };
        entry.presence = entry.presence.answered();
        let addresses = [known, other];
        if matches!(&entry.conflict, Some(Conflict::Clones { addresses: already, .. }) if *already == addresses)
        {
            return;
        }
        entry.conflict = Some(Conflict::Clones {
            addresses,
            misses: [0, 0],
        });
        entry.offer_due = true;
        self.inner.offers_due.notify_one();
        let detail = json!({ "kind": "one-mac-two-addresses", "addresses": addresses });
        self.tell(state, "device.conflict", id, detail);
    }

    /// Two identities answer in turn at one address: both wait.
    fn quarrel(&self, state: &mut State, one: &DeviceId, other: &DeviceId, address: IpAddr) {
        let until = self.boot() + QUARREL;
        for (id, with) in [(one, other), (other, one)] {
            let Some(entry) = state.entries.get_mut(&id.key()) else {
                continue;
            };
            let is_new = entry.conflict.is_none();
            entry.conflict = Some(Conflict::Quarrel {
                address,
                with: with.clone(),
                until,
            });
            if is_new {
                let detail =
                    json!({ "kind": "one-address-two-macs", "address": address, "with": with.key() });
                self.tell(state, "device.conflict", id, detail);
            }
        }
    }

    /// One look of a device that claims two addresses: `at` says at which of them it answered.
    pub(super) fn clones_looked(&self, key: &str, at: [bool; 2]) {
        let mut state = self.state();
        let Some(entry) = state.entries.get_mut(key) else {
            return;
        };
        let Some(Conflict::Clones { addresses, misses }) = &mut entry.conflict else {
            return;
        };
        for (misses, answered) in misses.iter_mut().zip(at) {
            *misses = if answered { 0 } else { misses.saturating_add(1) };
        }
        let left = match misses.map(|misses| misses >= MISSES_TO_OFFLINE) {
            [false, true] => Some(addresses[0]),
            [true, false] => Some(addresses[1]),
            _ => None,
        };
        let Some(address) = left else {
            return;
        };
        entry.conflict = None;
        entry.offer_due = true;
        self.inner.offers_due.notify_one();
        entry.row.address = Some(address);
        let (id, row) = (entry.row.id.clone(), entry.row.clone());
        state.places.forget(&id);
        state.places.restore(&id, address);
        self.keep(&mut state, &row);
        self.tell(
            &mut state,
            "device.conflict-solved",
            &id,
            json!({ "address": address }),
        );
    }

    /// A look at a device has failed, or another one has answered in its place.
    pub(super) fn missed(&self, key: &str, fault: &Fault) {
        let wall_ms = self.wall_ms();
        let mut state = self.state();
        let Some(entry) = state.entries.get_mut(key) else {
            return;
        };
        entry.trouble = Some(fault.text.clone());
        // A fault of this machine says nothing about the device.
        if fault.reason == Reason::Local {
            return;
        }
        let was = entry.presence;
        let garbled = fault.kind == FaultKind::Refused && fault.reason == Reason::NotUnderstood;
        entry.presence = if garbled { was.garbled() } else { was.missed() };
        let turned = entry.presence.state() != was.state();
        let standing = entry.presence.state();
        if !turned {
            return;
        }
        entry.row.online = false;
        entry.sampled_ms = wall_ms;
        let id = entry.row.id.clone();
        let poll = poll_of(&entry.row, wall_ms, false, Some(false));
        let row = entry.row.clone();
        self.keep(&mut state, &row);
        state.outbox.push(Write::Poll(Box::new(poll)));
        let kind = if standing == Standing::Unreadable {
            "device.unreadable"
        } else {
            "device.offline"
        };
        self.tell(&mut state, kind, &id, json!({ "reason": fault.text }));
    }

    /// A broker told of a device that nobody can say the address of.
    pub(super) fn heard(&self, family: &Arc<dyn Family>, told: Snapshot) {
        let now = self.inner.engine.clock().now();
        let mut state = self.state();
        let key = match (told.id.mac(), told.uptime) {
            // It does not say which one it is: one that has been up for just as long is the same.
            (None, Some(uptime)) => {
                let same = state.entries.values().find(|entry| {
                    entry.row.id.family == told.id.family
                        && entry.row.address.is_some()
                        && entry.is_up_for(uptime, now.boot)
                });
                let nameless = told.id.key();
                match same.map(|entry| entry.key()) {
                    Some(same) => {
                        // The nameless one was this one all along.
                        let forgets = state
                            .entries
                            .get(&nameless)
                            .is_some_and(|entry| entry.row.enrolled_ms.is_none());
                        if forgets {
                            state.entries.remove(&nameless);
                            state.outbox.push(Write::Forget(told.id.clone()));
                        }
                        same
                    }
                    None => nameless,
                }
            }
            _ => told.id.key(),
        };
        let is_new = !state.entries.contains_key(&key);
        if is_new {
            let row = FleetRow::new(told.id.clone(), now.wall_ms);
            let entry = Entry::new(row, family.clone(), Standing::Unknown, Instant::now());
            state.entries.insert(key.clone(), entry.into());
        }
        let Some(entry) = state.entries.get_mut(&key) else {
            return;
        };
        let id = entry.row.id.clone();
        entry.heard_at = Some(now.boot);
        let mut kept = is_new;
        if !entry.row.sources.iter().any(|source| source == "mqtt") {
            entry.row.sources.push("mqtt".to_owned());
            kept = true;
        }
        let was = entry.presence;
        // What can be asked itself is believed more than a broker.
        if entry.row.address.is_none() {
            entry.take(told, now.boot);
            entry.presence = was.answered();
            entry.row.seen_ms = Some(now.wall_ms);
            entry.row.online = true;
        }
        let came = was.state() != Standing::Online && entry.presence.state() == Standing::Online;
        let poll = poll_of(&entry.row, now.wall_ms, true, (came && !is_new).then_some(false));
        let (row, has_address) = (entry.row.clone(), entry.row.address.is_some());
        if kept {
            self.keep(&mut state, &row);
        }
        if !has_address {
            state.outbox.push(Write::Poll(Box::new(poll)));
        }
        if is_new {
            self.tell(&mut state, "device.found", &id, json!({ "source": "mqtt" }));
        } else if came {
            self.tell(&mut state, "device.online", &id, json!({ "source": "mqtt" }));
        }
        drop(state);
        self.inner.wake.notify_one();
    }

    /// Puts every device that the configuration lists among the devices, also those never reached so far.
    pub(super) fn place_configured(&self) {
        let settings = self.settings();
        let wall_ms = self.wall_ms();
        let mut state = self.state();
        // One that was only listed, and is no more, was never anybody.
        state.entries.retain(|_, entry| {
            let host = entry.row.given_as.as_deref().unwrap_or_default();
            entry.row.seen_ms.is_some()
                || entry.row.sources != ["config"]
                || settings.configured(entry.row.id.family.as_str(), host).is_some()
        });
        for (family, device) in settings.all_configured() {
            let family_id = family.family.id();
            let listed = |entry: &&mut Box<Entry>| {
                entry.row.id.family == family_id
                    && entry.row.given_as.as_deref() == Some(device.host.as_str())
            };
            let found = state.entries.values_mut().find(listed);
            let entry = if let Some(entry) = found {
                entry
            } else {
                let id = DeviceId::weak(&family_id, device.host.as_str());
                let mut row = FleetRow::new(id.clone(), wall_ms);
                row.given_as = Some(device.host.clone());
                row.address = device.host.parse().ok();
                row.sources.push("config".to_owned());
                let entry = Entry::new(row, family.family.clone(), Standing::Unknown, Instant::now());
                state.entries.entry(id.key()).or_insert(entry.into())
            };
            let row = &mut entry.row;
            let before = (
                row.name.clone(),
                row.chip.clone(),
                row.slot_bytes,
                row.group.clone(),
                row.tags.clone(),
            );
            row.name = device.name.clone().or_else(|| row.name.take());
            row.chip = device.chip.clone().or_else(|| row.chip.take());
            row.slot_bytes = device.slot_bytes.or(row.slot_bytes);
            row.group = device.group.clone().or_else(|| row.group.take());
            if !device.tags.is_empty() {
                row.tags.clone_from(&device.tags);
            }
            row.username = device.username.clone().or_else(|| row.username.take());
            entry.next_look = Instant::now();
            // One that was never reached is kept in memory only: it has no identity yet.
            let after = (
                row.name.clone(),
                row.chip.clone(),
                row.slot_bytes,
                row.group.clone(),
                row.tags.clone(),
            );
            if before != after && row.seen_ms.is_some() {
                let row = row.clone();
                self.keep(&mut state, &row);
            }
        }
    }

    /// The device listed at this host has told who it is: what was listed goes over to it.
    pub(super) fn identified(&self, placeholder: &DeviceId, id: &DeviceId) {
        if placeholder == id {
            return;
        }
        let mut state = self.state();
        let listed = state.entries.get(&placeholder.key());
        if listed.is_none_or(|entry| entry.row.seen_ms.is_some()) {
            return;
        }
        let Some(listed) = state.entries.remove(&placeholder.key()) else {
            return;
        };
        let Some(entry) = state.entries.get_mut(&id.key()) else {
            return;
        };
        let (row, from) = (&mut entry.row, listed.row);
        row.name = from.name.or_else(|| row.name.take());
        row.chip = from.chip.or_else(|| row.chip.take());
        row.slot_bytes = from.slot_bytes.or(row.slot_bytes);
        row.group = from.group.or_else(|| row.group.take());
        row.username = from.username.or_else(|| row.username.take());
        if !from.tags.is_empty() {
            row.tags = from.tags;
        }
        let row = row.clone();
        self.keep(&mut state, &row);
    }
}

/// Notes who told of a device. Says whether that was news.
fn note_source(entry: &mut Entry, how: &How) -> bool {
    let mut news = false;
    if let Some(source) = how.source
        && !entry.row.sources.iter().any(|known| known == source)
    {
        entry.row.sources.push(source.to_owned());
        news = true;
    }
    if let Some(host) = &how.given_as
        && entry.row.given_as.as_ref() != Some(host)
    {
        entry.row.given_as = Some(host.clone());
        news = true;
    }
    news
}

/// What is stored of one look; `restarted` is given where it is worth a sample.
fn poll_of(row: &FleetRow, at_ms: i64, online: bool, restarted: Option<bool>) -> Poll {
    let snapshot = row.snapshot.as_ref();
    Poll {
        id: row.id.clone(),
        address: row.address,
        at_ms,
        online,
        snapshot: if online { row.snapshot.clone() } else { None },
        restarts: row.restarts,
        sample: restarted.map(|restarted| Sample {
            at_ms,
            online,
            uptime_s: snapshot
                .and_then(|seen| seen.uptime)
                .map(|uptime| uptime.as_secs())
                .filter(|_| online),
            free_heap_bytes: snapshot
                .and_then(|seen| seen.health.free_heap_bytes)
                .filter(|_| online),
            signal_dbm: snapshot
                .and_then(|seen| seen.health.signal_dbm)
                .filter(|_| online),
            restarted,
        }),
    }
}
