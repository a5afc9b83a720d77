//! How far a push has got, shared between the driver that pushes and whoever watches or cancels it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What a push is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum PushPhase {
    /// Asking the device to take an image; no image byte has left.
    Inviting = 0,
    /// Proving that we know the password; no image byte has left.
    Authenticating = 1,
    /// Waiting for the device to connect to us; no image byte has left.
    AwaitingCallBack = 2,
    /// Image bytes are leaving.
    Uploading = 3,
    /// The last byte is about to leave or has left: too late to cancel.
    LastByte = 4,
    /// Cancelled before the last byte.
    Cancelled = 5,
}

impl PushPhase {
    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Inviting,
            1 => Self::Authenticating,
            2 => Self::AwaitingCallBack,
            3 => Self::Uploading,
            4 => Self::LastByte,
            _ => Self::Cancelled,
        }
    }
}

/// The push was cancelled before its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelled;

/// Counters of one push: the driver stores, everybody else samples.
///
/// One atomic decides between a cancel and the last byte, so that exactly one of them happens.
#[derive(Debug, Default)]
pub struct Progress {
    acked_bytes: AtomicU64,
    phase: AtomicU8,
    of_all: Option<Arc<AtomicU64>>,
}

impl Progress {
    /// One that adds what its device acknowledges to the bytes of all pushes.
    pub fn of_all(bytes: &Arc<AtomicU64>) -> Self {
        Self {
            of_all: Some(Arc::clone(bytes)),
            ..Self::default()
        }
    }

    /// Image bytes that the device's TCP has acknowledged.
    pub fn acked_bytes(&self) -> u64 {
        self.acked_bytes.load(Ordering::Relaxed)
    }

    /// Stores the acknowledged bytes; within one push they never go back.
    pub fn set_acked_bytes(&self, bytes: u64) {
        let before = self.acked_bytes.fetch_max(bytes, Ordering::Relaxed);
        if let Some(of_all) = &self.of_all {
            of_all.fetch_add(bytes.saturating_sub(before), Ordering::Relaxed);
        }
    }

    /// What the push is doing.
    pub fn phase(&self) -> PushPhase {
        PushPhase::from_u8(self.phase.load(Ordering::SeqCst))
    }

    /// The driver enters a phase; refused once the push was cancelled, and nothing may then be sent.
    pub fn enter(&self, phase: PushPhase) -> Result<(), Cancelled> {
        self.phase
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
                (now != PushPhase::Cancelled as u8).then_some(phase as u8)
            })
            .map(|_| ())
            .map_err(|_| Cancelled)
    }

    /// Cancels the push unless its last byte has been let go; says whether it is now cancelled.
    pub fn cancel(&self) -> bool {
        self.phase
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
                (now != PushPhase::LastByte as u8).then_some(PushPhase::Cancelled as u8)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_before_the_last_byte_stops_the_driver() {
        let progress = Progress::default();
        progress.enter(PushPhase::Uploading).unwrap();
        assert!(progress.cancel());
        assert_eq!(progress.enter(PushPhase::LastByte), Err(Cancelled));
    }

    #[test]
    fn a_cancel_after_the_last_byte_is_too_late() {
        let progress = Progress::default();
        progress.enter(PushPhase::LastByte).unwrap();
        assert!(!progress.cancel());
        assert_eq!(progress.phase(), PushPhase::LastByte);
    }

    #[test]
    fn what_is_acknowledged_is_added_up_over_all_pushes() {
        let all = Arc::default();
        let (one, other) = (Progress::of_all(&all), Progress::of_all(&all));
        one.set_acked_bytes(10);
        one.set_acked_bytes(4);
        other.set_acked_bytes(5);
        one.set_acked_bytes(12);
        assert_eq!(all.load(Ordering::Relaxed), 17);
    }

    #[test]
    fn acknowledged_bytes_never_go_back() {
        let progress = Progress::default();
        progress.set_acked_bytes(10);
        progress.set_acked_bytes(4);
        assert_eq!(progress.acked_bytes(), 10);
    }
}
