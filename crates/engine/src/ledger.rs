use std::sync::Arc;
use std::sync::Mutex;

use async_trait::async_trait;
use model::family::{Answers, Fault, FaultKind, Reason};
use model::id::DeviceId;
use store::{AnswerId, Store};

use crate::Clock;

/// Failed password answers a day after which a device is locked (DESIGN.md, espota authentication).
pub const MAX_FAILED_ANSWERS_A_DAY: u32 = 5;
const DAY_MS: i64 = 86_400_000;

/// Counts the answers of one device in the store.
pub(crate) struct Ledger {
    store: Arc<Store>,
    clock: Clock,
    device: DeviceId,
    last: Mutex<Option<AnswerId>>,
}

impl Ledger {
    pub(crate) fn new(store: Arc<Store>, clock: Clock, device: DeviceId) -> Self {
        Self {
            store,
            clock,
            device,
            last: Mutex::new(None),
        }
    }
}

#[async_trait]
impl Answers for Ledger {
    async fn count(&self) -> Result<(), Fault> {
        let now = self.clock.now().wall_ms;
        let not_counted = |error: &dyn std::fmt::Display| {
            Fault::before_push(
                FaultKind::Refused,
                Reason::Local,
                format!("The password answer could not be counted, so it was not given: {error}."),
            )
        };
        let failed = self
            .store
            .failed_answers_since(&self.device, now - DAY_MS)
            .await
            .map_err(|error| not_counted(&error))?;
        if failed >= MAX_FAILED_ANSWERS_A_DAY {
            return Err(Fault::before_push(
                FaultKind::Refused,
                Reason::Locked,
                format!(
                    "{failed} password answers to this device failed within a day: no more are given, \
                     because each one helps to guess the password."
                ),
            ));
        }
        let answer = self
            .store
            .count_answer(&self.device, now)
            .await
            .map_err(|error| not_counted(&error))?;
        *self.last.lock().expect("nobody panics while holding it") = Some(answer);
        Ok(())
    }

    async fn accepted(&self) {
        let answer = self.last.lock().expect("nobody panics while holding it").take();
        if let Some(answer) = answer
            && let Err(error) = self.store.answer_accepted(answer).await
        {
            // It then counts as a failed one: the safe side.
            tracing::warn!(%error, "an accepted password answer could not be recorded");
        }
    }
}

/// The ledger of a device that is not enrolled: it allows nothing.
pub struct NoAnswers;

#[async_trait]
impl Answers for NoAnswers {
    async fn count(&self) -> Result<(), Fault> {
        let text = "The device is not enrolled, so no password answer is given to it.";
        Err(Fault::before_push(
            FaultKind::Refused,
            Reason::PasswordNeeded,
            text,
        ))
    }

    async fn accepted(&self) {}
}
