//! How fast the flash takes bytes.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{fault::Fault, state::Shared};

/// Lost time that is made up for, so that a coarse timer does not lower the pace.
const CREDIT: Duration = Duration::from_millis(50);
/// The flash is written in buffers of this size (PROTOCOLS.md B1).
const BUFFER_LEN: usize = 4096;

/// Holds writes back to the configured pace.
pub(super) struct Pace {
    bytes_per_s: Option<f64>,
    n_buffered: usize,
    ready: Instant,
}

impl Pace {
    pub(super) fn new(device: &Shared) -> Self {
        let slow = device.find(|fault| {
            if let Fault::Slow(pace) = fault {
                Some(*pace)
            } else {
                None
            }
        });
        if let Some(pace) = slow {
            device.struck(&Fault::Slow(pace));
        }
        let bytes_per_s = slow
            .or(device.config.rate_bytes_per_s)
            .map(|pace| f64::from(pace.max(1)));
        Self {
            bytes_per_s,
            n_buffered: 0,
            ready: Instant::now(),
        }
    }

    /// Returns when `n` more bytes are written.
    pub(super) async fn write(&mut self, n: usize) {
        let Some(bytes_per_s) = self.bytes_per_s else {
            return;
        };
        self.n_buffered += n;
        while self.n_buffered >= BUFFER_LEN {
            self.n_buffered -= BUFFER_LEN;
            #[expect(clippy::cast_precision_loss, reason = "4096 is exact")]
            let taken = Duration::from_secs_f64(BUFFER_LEN as f64 / bytes_per_s);
            let now = Instant::now();
            self.ready = self.ready.max(now.checked_sub(CREDIT).unwrap_or(now)) + taken;
            sleep_until(self.ready).await;
        }
    }
}
