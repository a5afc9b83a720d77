//! Writes behind: in order, polls in batches.

use std::time::Duration;

use model::id::DeviceId;
use model::inventory::State as Standing;
use serde_json::Value;
use store::{FleetRow, InventoryError, NewEvent, Poll, RemoveDeviceError, StoreError};
use tokio_util::sync::CancellationToken;

use super::Fleet;
use super::entry::Entry;
use crate::views::EventView;

/// Polls of one transaction (DESIGN.md, "What is settled": polls).
const N_POLLS: usize = 50;
/// Events of one transaction. Taste: all that a rollout to a large home tells in a moment; others who write wait meanwhile.
const N_EVENTS: usize = 100;
/// How long a poll may wait for others. Guess: what is lost at a power cut is then a few seconds of health.
const POLL_WAIT: Duration = Duration::from_secs(2);
/// How long to wait after a write that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// What may wait while the store takes nothing; then polls are dropped, and what matters is kept.
const N_WAITING: usize = 20_000;

/// Every how many turns to look at what was done beside the server: it reads all devices, so not at each.
const TAKE_OVER_TURNS: u32 = 3;
/// How far the looks at what was done beside the server overlap: as long as a write may wait for the database's lock, and more.
const OVERLAP_MS: i64 = 15_000;

/// One thing to write.
pub(super) enum Write {
    Row(Box<FleetRow>),
    Poll(Box<Poll>),
    Enroll {
        id: DeviceId,
        by: &'static str,
        at_ms: i64,
    },
    Forget(DeviceId),
    Event {
        kind: &'static str,
        device: Option<String>,
        detail: Value,
        at_ms: i64,
    },
}

/// What waits to be written, in order.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: Vec<Write>,
    n_polls: usize,
}

impl Outbox {
    pub(super) fn push(&mut self, write: Write) {
        if let Write::Poll(_) = write {
            if self.waiting.len() >= N_WAITING {
                return;
            }
            self.n_polls += 1;
        }
        self.waiting.push(write);
    }

    /// Whether there is a batch of polls, or anything that should not wait.
    fn is_due(&self) -> bool {
        self.n_polls >= N_POLLS || self.waiting.len() > self.n_polls
    }

    fn take(&mut self) -> Vec<Write> {
        self.n_polls = 0;
        std::mem::take(&mut self.waiting)
    }

    /// Puts back what could not be written, before what came since.
    fn put_back(&mut self, mut left: Vec<Write>) {
        left.append(&mut self.waiting);
        self.n_polls = left
            .iter()
            .filter(|write| matches!(write, Write::Poll(_)))
            .count();
        self.waiting = left;
    }
}

impl Fleet {
    pub(super) async fn write_behind(self, cancel: CancellationToken) {
        let mut n_turns: u32 = 0;
        let mut turn = tokio::time::interval(POLL_WAIT);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Dropping a notification loses nothing: the outbox is looked at after each; and a turn comes however many there are.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.inner.written.notified() => {}
                _ = turn.tick() => {
                    self.flush().await;
                    n_turns += 1;
                    if n_turns.is_multiple_of(TAKE_OVER_TURNS) {
                        self.take_over().await;
                    }
                    continue;
                }
            }
            if self.state().outbox.is_due() && !self.flush().await {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(AFTER_FAILURE) => {}
                }
            }
        }
    }

    /// Takes over what a command beside the server has done: a push enrols its device and records what it runs.
    async fn take_over(&self) {
        let _writing = self.inner.writing.lock().await;
        let now_ms = self.wall_ms();
        let since = self.state().taken_over_ms;
        // A write that began before the last look may have been committed after it.
        let rows = match self
            .inner
            .store
            .fleet_since(since.saturating_sub(OVERLAP_MS))
            .await
        {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(
                    error = model::chain::chain(&error),
                    "what was done beside the server is not known yet"
                );
                return;
            }
        };
        self.state().taken_over_ms = now_ms;
        self.take_rows(rows);
    }

    /// Takes over what a job of ours has done to a device: its record, its notes.
    pub(crate) async fn take_over_one(&self, id: &DeviceId) {
        let _writing = self.inner.writing.lock().await;
        match self.inner.store.fleet_row(id).await {
            Ok(row) => self.take_rows(row.into_iter().collect()),
            Err(error) => tracing::warn!(
                error = model::chain::chain(&error),
                device = %id,
                "what was done to the device is not known yet"
            ),
        }
    }

    fn take_rows(&self, rows: Vec<FleetRow>) {
        let settings = self.settings();
        let mut state = self.state();
        for row in rows {
            let Some(family) = settings.family(row.id.family.as_str()) else {
                continue;
            };
            let id = row.id.clone();
            let key = id.key();
            let Some(entry) = state.entries.get_mut(&key) else {
                if let Some(address) = row.address {
                    state.places.restore(&id, address);
                }
                let now = tokio::time::Instant::now();
                let mut row = row;
                row.sources.push("push".to_owned());
                let entry = Entry::new(row, family.family.clone(), Standing::Unknown, now);
                state.entries.insert(key, entry.into());
                self.tell(
                    &mut state,
                    "device.found",
                    &id,
                    serde_json::json!({ "source": "push" }),
                );
                continue;
            };
            entry.row.notes = row.notes;
            if entry.row.enrolled_ms.is_none() && row.enrolled_ms.is_some() {
                entry.row.enrolled_ms = row.enrolled_ms;
                entry.row.enrolled_by = row.enrolled_by;
            }
            if entry.row.installed != row.installed {
                entry.row.installed = row.installed;
                entry.offer_due = true;
                // It has just restarted: everything may be new.
                entry.glances = 0;
                entry.next_look = tokio::time::Instant::now();
                self.inner.offers_due.notify_one();
                self.tell(&mut state, "device.installed", &id, serde_json::json!({}));
            }
        }
        drop(state);
        self.inner.wake.notify_one();
    }

    /// Writes everything that waits. Says whether that went well; what could not be written waits on.
    pub(crate) async fn flush(&self) -> bool {
        let _writing = self.inner.writing.lock().await;
        let waiting = self.state().outbox.take();
        if waiting.is_empty() {
            return true;
        }
        let mut waiting = waiting.into_iter().peekable();
        while waiting.peek().is_some() {
            let mut several = Vec::new();
            let first = waiting.peek().map(std::mem::discriminant);
            let n_max = match waiting.peek() {
                Some(Write::Poll(_)) => usize::MAX,
                Some(Write::Event { .. }) => N_EVENTS,
                _ => 1,
            };
            while several.len() < n_max
                && let Some(write) = waiting.next_if(|write| Some(std::mem::discriminant(write)) == first)
            {
                several.push(write);
            }
            // A device that is new and enrolled is stored as both or not at all.
            if let [Write::Row(row)] = several.as_slice()
                && let Some(enroll) =
                    waiting.next_if(|next| matches!(next, Write::Enroll { id, .. } if *id == row.id))
            {
                several.push(enroll);
            }
            let result = match several.as_slice() {
                [Write::Poll(_), ..] => self.write_polls(&several).await,
                [Write::Event { .. }, ..] => self.write_events(&several).await,
                [Write::Row(row), Write::Enroll { by, at_ms, .. }] => {
                    self.inner.store.put_enrolled_row(row, by, *at_ms).await
                }
                [write] => self.write_one(write).await,
                _ => Ok(()),
            };
            if let Err(error) = result {
                tracing::warn!(error = %model::chain::chain(&error), "the fleet could not be stored; tried again");
                let left = several.into_iter().chain(waiting).collect();
                let mut state = self.state();
                state.outbox.put_back(left);
                state.not_stored = Some(model::chain::chain(&error));
                return false;
            }
        }
        self.state().not_stored = None;
        true
    }

    async fn write_one(&self, write: &Write) -> Result<(), StoreError> {
        match write {
            Write::Row(row) => self.inner.store.put_fleet_row(row).await,
            // A device that is gone in the meantime, or cannot go, is no reason to try again.
            Write::Enroll { id, by, at_ms } => match self.inner.store.enroll_by(id, by, *at_ms).await {
                Err(InventoryError::Store(error)) => Err(error),
                Ok(()) | Err(InventoryError::UnknownDevice { .. }) => Ok(()),
            },
            Write::Forget(id) => match self.inner.store.remove_device(id).await {
                Err(RemoveDeviceError::Store(error)) => Err(error),
                _ => Ok(()),
            },
            Write::Poll(_) => self.write_polls(std::slice::from_ref(write)).await,
            Write::Event { .. } => self.write_events(std::slice::from_ref(write)).await,
        }
    }

    /// Writes polls, one after the other, in one transaction.
    async fn write_polls(&self, writes: &[Write]) -> Result<(), StoreError> {
        let polls: Vec<Poll> = writes
            .iter()
            .filter_map(|write| match write {
                Write::Poll(poll) => Some(Poll::clone(poll)),
                _ => None,
            })
            .collect();
        self.inner.store.save_polls(&polls).await
    }

    /// Writes events in one transaction, and tells of them in their order.
    async fn write_events(&self, writes: &[Write]) -> Result<(), StoreError> {
        let events: Vec<NewEvent<'_>> = writes
            .iter()
            .filter_map(|write| match write {
                Write::Event {
                    kind,
                    device,
                    detail,
                    at_ms,
                } => Some(NewEvent {
                    at_ms: *at_ms,
                    kind,
                    device: device.as_deref(),
                    detail,
                }),
                _ => None,
            })
            .collect();
        self.write_and_tell(&events).await
    }

    async fn write_and_tell(&self, events: &[NewEvent<'_>]) -> Result<(), StoreError> {
        let first = self.inner.store.append_events(events).await?;
        for (seq, event) in (first..).zip(events) {
            // Nobody may be listening.
            let _ = self.inner.events.send(EventView {
                seq,
                at_ms: event.at_ms,
                kind: event.kind.to_owned(),
                device: event.device.map(str::to_owned),
                detail: event.detail.clone(),
            });
        }
        Ok(())
    }

    /// Stores and tells something that is not about one device, such as new firmware.
    pub async fn announce(&self, kind: &str, detail: &Value) {
        let _writing = self.inner.writing.lock().await;
        let event = NewEvent {
            at_ms: self.wall_ms(),
            kind,
            device: None,
            detail,
        };
        if let Err(error) = self.write_and_tell(&[event]).await {
            tracing::warn!(error = %model::chain::chain(&error), kind, "an event could not be stored");
        }
    }
}
