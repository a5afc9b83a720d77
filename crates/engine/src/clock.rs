use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::time::Now;
use rustix::time::{ClockId, clock_gettime};

/// The only place that reads the time.
#[derive(Clone, Copy, Debug)]
pub struct Clock;

impl Clock {
    /// This moment. Before 1970 the wall clock reads zero.
    pub fn now(self) -> Now {
        // `CLOCK_BOOTTIME` goes on while the machine sleeps: deadlines are about the device, which does not.
        let boot = clock_gettime(ClockId::Boottime);
        let boot = Duration::new(
            boot.tv_sec.unsigned_abs(),
            u32::try_from(boot.tv_nsec).unwrap_or(0),
        );
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the clock that everybody else takes the time from"
        )]
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            boot,
            wall_ms: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX),
        }
    }
}
