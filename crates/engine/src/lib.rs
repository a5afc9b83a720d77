//! WHEN: runs jobs.
//!
//! Takes each act that the model decides, does it with a driver, stores it, and comes back with what was seen.
//! Names no family and has no network of its own: it only knows the traits.
#![warn(missing_docs)]

mod again;
mod clock;
mod lease;
mod ledger;
mod run;
mod way;

pub use again::{CorrectError, Corrected};
pub use clock::Clock;
pub use lease::{Lease, LeaseError};
pub use ledger::{MAX_FAILED_ANSWERS_A_DAY, NoAnswers};
pub use run::{Finished, Report, RunError, Start, Stop, Work};
pub use way::{LeftError, PutBack, Watcher, Way};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::family::Answers;
use model::id::DeviceId;
use store::{Holder, Store};

/// Runs jobs against one store.
#[derive(Clone)]
pub struct Engine {
    store: Arc<Store>,
    clock: Clock,
    holder: Arc<Holder>,
    acked_bytes: Arc<AtomicU64>,
}

impl Engine {
    /// An engine of this process. Fails where the system does not tell which process and boot this is.
    pub fn new(store: Arc<Store>) -> std::io::Result<Self> {
        let holder = Arc::new(Holder::this_process()?);
        Ok(Self {
            store,
            clock: Clock,
            holder,
            acked_bytes: Arc::default(),
        })
    }

    /// Image bytes that devices have acknowledged since the start of the program, over all pushes of all devices.
    pub fn acked_bytes(&self) -> u64 {
        self.acked_bytes.load(Ordering::Relaxed)
    }

    /// The clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The ledger of password answers of an enrolled device.
    pub fn answers(&self, device: &DeviceId) -> Arc<dyn Answers> {
        Arc::new(ledger::Ledger::new(
            self.store.clone(),
            self.clock,
            device.clone(),
        ))
    }
}
