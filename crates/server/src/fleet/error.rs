//! Why the fleet could not do what it was asked.

use model::family::{Fault, FaultKind, Reason};

/// Why the fleet could not do what it was asked, for programs and people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct FleetError {
    /// What kind of failure it is.
    pub kind: FleetErrorKind,
    /// What happened, in a sentence.
    pub text: String,
    /// What to do about it.
    pub next_step: String,
}

/// The kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FleetErrorKind {
    /// There is no such device.
    NotFound,
    /// It stands against what is there: an identity conflict, a name that is taken, a device in use.
    Conflict,
    /// What was asked makes no sense.
    Invalid,
    /// The device does not answer.
    Unreachable,
    /// The device, or a rule of ours, said no.
    Refused,
    /// It could not be stored.
    Store,
}

impl FleetError {
    pub(super) fn new(kind: FleetErrorKind, text: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            next_step: next_step.into(),
        }
    }

    pub(super) fn unknown(what: &str) -> Self {
        Self::new(
            FleetErrorKind::NotFound,
            format!("There is no device {what:?}."),
            "List the devices: reflash device list.",
        )
    }

    pub(super) fn storing(error: &dyn std::error::Error) -> Self {
        Self::new(
            FleetErrorKind::Store,
            format!("It could not be stored: {}.", model::chain::chain(error)),
            "Look at the room and the rights of the data folder: reflash doctor.",
        )
    }

    pub(super) fn of_fault(fault: &Fault) -> Self {
        let kind = match (fault.kind, fault.reason) {
            (FaultKind::Unreachable, _) => FleetErrorKind::Unreachable,
            (_, Reason::Local) => FleetErrorKind::Invalid,
            (_, Reason::NoSwitch) => {
                return Self::new(
                    FleetErrorKind::Refused,
                    fault.text.clone(),
                    "Pin the device to its version if it is not to be updated: reflash device pin.",
                );
            }
            _ => FleetErrorKind::Refused,
        };
        let next_step = fault.next_step.clone().unwrap_or_else(|| {
            match kind {
                FleetErrorKind::Unreachable => "Check the device's power, its address and the network.",
                _ => "Check that the address is the device's and lies in allowed_networks.",
            }
            .to_owned()
        });
        Self::new(kind, fault.text.clone(), next_step)
    }
}
