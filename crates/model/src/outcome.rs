//! How a job ends, and why.

use serde::{Deserialize, Serialize};

use crate::family::{Fault, Label, Reach, Reason, Verdict};

/// The word for how a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The device runs the image, and its label says so.
    Updated,
    /// The device took the image and restarted with it, and its label says the same as before.
    UpdatedLabelUnchanged,
    /// It ran the image before; nothing was sent.
    AlreadyCurrent,
    /// It was seen to run what it ran before.
    KeptOld,
    /// It took the image, restarted, and went back to the old one by itself.
    RolledBack,
    /// It was not done, for a reason that has a name.
    Failed,
    /// What it runs is not proven.
    Unverified,
    /// We, or the device, said no before the first byte.
    Refused,
    /// Its owner stopped it before the last byte.
    Cancelled,
}

impl Ending {
    /// Its name in JSON and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Updated => "updated",
            Self::UpdatedLabelUnchanged => "updated-label-unchanged",
            Self::AlreadyCurrent => "already-current",
            Self::KeptOld => "kept-old",
            Self::RolledBack => "rolled-back",
            Self::Failed => "failed",
            Self::Unverified => "unverified",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the image runs on the device, as far as can be proven.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Updated | Self::UpdatedLabelUnchanged)
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The word.
    pub ending: Ending,
    /// The reason's name, such as `no return`; none for a plain success.
    pub reason: Option<String>,
    /// One or two sentences: what happened.
    pub text: String,
    /// What to do next; none where nothing is to be done.
    pub next_step: Option<String>,
}

impl Outcome {
    /// An outcome without a reason: a success.
    pub fn plain(ending: Ending, text: impl Into<String>) -> Self {
        Self {
            ending,
            reason: None,
            text: text.into(),
            next_step: None,
        }
    }

    /// An outcome with its reason and what to do about it.
    pub fn because(
        ending: Ending,
        reason: impl Into<String>,
        text: impl Into<String>,
        next_step: impl Into<String>,
    ) -> Self {
        Self {
            ending,
            reason: Some(reason.into()),
            text: text.into(),
            next_step: Some(next_step.into()),
        }
    }
}

/// How the push itself ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The device said yes.
    Accepted(Verdict),
    /// The device said no after bytes had gone out.
    Rejected(Fault),
    /// Bytes had gone out, and nothing was said.
    Lost(Fault),
}

impl End {
    /// How much of the image may have reached the device.
    pub fn reach(&self) -> Reach {
        match self {
            Self::Accepted(_) => Reach::Whole,
            Self::Rejected(fault) | Self::Lost(fault) => fault.reach,
        }
    }
}

/// What was seen of the device after the push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Away {
    /// It has restarted: its uptime began anew, or, where it tells none, it was away and is back.
    Restarted,
    /// It has not restarted: its uptime ran on.
    Stayed,
    /// It answers, tells no uptime, and was not seen going away.
    Untold,
    /// It has not answered since.
    Gone,
}

/// Judges a push by what was seen of the device afterwards, once there is nothing more to wait for.
///
/// The rules are those of DESIGN.md, "Outcomes". The observed device decides, not the acknowledgement.
pub fn outcome(end: &End, away: Away, label: &Label) -> Outcome {
    if away == Away::Gone {
        return no_return();
    }
    match (end, away) {
        // The new label is there, and it was not there before: the image runs, whatever was said.
        (End::Accepted(_), Away::Restarted | Away::Untold)
        | (End::Rejected(_) | End::Lost(_), Away::Restarted)
            if *label == Label::Target =>
        {
            updated(end)
        }
        (End::Rejected(_) | End::Lost(_), Away::Untold) if *label == Label::Target => updated(end),
        (End::Accepted(_), Away::Stayed) => not_applied(),
        (End::Accepted(_), Away::Restarted) => restarted(label),
        (End::Accepted(_), Away::Untold) => match label {
            Label::Partial(part) => partial(part),
            Label::Other => mismatch(),
            Label::Unreadable => no_status(
                "The device said OK. It was not seen going away, and it tells neither uptime nor version.",
            ),
            _ => not_applied(),
        },
        (End::Rejected(fault) | End::Lost(fault), _) => broken(fault, away, label),
        (_, Away::Gone) => no_return(),
    }
}

fn updated(end: &End) -> Outcome {
    let text = match end {
        End::Accepted(_) => "The device took the image, restarted, and reports its version.",
        End::Rejected(_) => {
            "The device reported an error, and yet it restarted and reports the image's version."
        }
        End::Lost(_) => "The device's answer was lost, but it restarted and reports the image's version.",
    };
    Outcome::plain(Ending::Updated, text)
}

fn restarted(label: &Label) -> Outcome {
    match label {
        Label::Target | Label::Same => Outcome::plain(
            Ending::Updated,
            "The device took the image, restarted, and reports its version.",
        ),
        Label::Unmoved => Outcome {
            ending: Ending::UpdatedLabelUnchanged,
            reason: Some("label unchanged".to_owned()),
            text: "The device took the image and restarted, but its version label is the same as before: \
                   the label cannot tell whether the new image runs, or the old one again."
                .to_owned(),
            next_step: Some(
                "Try a function that only the new firmware has, or let the firmware report a version of its own."
                    .to_owned(),
            ),
        },
        Label::Old => Outcome::because(
            Ending::RolledBack,
            "old version came back",
            "The device took the image and restarted, but the old version is back: it went back to it by itself.",
            "The new image does not start on this device. Do not push it again; ask its author.",
        ),
        Label::Partial(part) => partial(part),
        Label::Other => mismatch(),
        Label::Unreadable => no_status("The device said OK, went away and is back, but it reports no version."),
    }
}

fn broken(fault: &Fault, away: Away, label: &Label) -> Outcome {
    let unmoved = matches!(label, Label::Unmoved | Label::Old | Label::Same);
    let complete = fault.reach == Reach::Whole;
    let lost = !matches!(fault.reason, Reason::DeviceError | Reason::DeviceErrorRestarts);
    if *label == Label::Target && away == Away::Stayed {
        // Nothing restarted, so nothing of ours can be running: somebody else updated it, or it lies.
        return mismatch();
    }
    if let Label::Partial(part) = label {
        return partial(part);
    }
    if *label == Label::Other {
        return mismatch();
    }
    if fault.reason == Reason::Cancelled && unmoved && (away != Away::Restarted || !complete) {
        return Outcome::because(
            Ending::Cancelled,
            Reason::Cancelled.name(),
            "Cancelled before the last byte; the device was seen to run what it ran before.",
            "Push again when you like.",
        );
    }
    if *label == Label::Unreadable && away != Away::Stayed && (lost && complete) {
        return no_status(
            "The transfer ended without an answer, and the device reports nothing that could tell.",
        );
    }
    if unmoved && lost && complete && away != Away::Stayed {
        return Outcome::because(
            Ending::Unverified,
            Reason::VerdictLost.name(),
            format!(
                "{} The device has restarted since, and its version label is the same as before: \
                 it may run either image.",
                fault.text
            ),
            "Look at the device; if it runs the old firmware, push again.",
        );
    }
    if *label == Label::Unreadable {
        return no_status(&fault.text);
    }
    let (text, next_step) = if lost {
        (
            format!("{} The device was seen to run what it ran before.", fault.text),
            "Move the device nearer to its access point, or try --pace stop-and-wait; then push again.",
        )
    } else {
        (
            format!("{} It was seen to run what it ran before.", fault.text),
            "Push again if the cause is mended; the same image will meet the same answer.",
        )
    };
    let next_step = fault.next_step.clone().unwrap_or_else(|| next_step.to_owned());
    Outcome::because(Ending::KeptOld, fault.reason.name(), text, next_step)
}

fn partial(part: &str) -> Outcome {
    Outcome::because(
        Ending::Failed,
        "partial",
        format!("One part of the device took its image, but the {part} still runs the old one."),
        "Look at the device before you push again; this is not tried again by itself.",
    )
}

fn mismatch() -> Outcome {
    Outcome::because(
        Ending::Unverified,
        "version mismatch",
        "The device now reports a version that is neither the image's nor the one before.",
        "Find out who else updates this device; the image on its way may have been exchanged.",
    )
}

fn not_applied() -> Outcome {
    Outcome::because(
        Ending::Failed,
        "not applied",
        "The device said OK, but it never restarted: it still runs what it ran before.",
        "Check that the address is really the device and nothing in between answers for it; then push again.",
    )
}

fn no_return() -> Outcome {
    Outcome::because(
        Ending::Unverified,
        "no return",
        "The device has not come back since the push.",
        "Look at its power and its Wi-Fi. If it stays away, it needs a cable; the image before is in the store.",
    )
}

fn no_status(text: &str) -> Outcome {
    Outcome::because(
        Ending::Unverified,
        Reason::NoStatusApi.name(),
        text,
        "Look at the device: it offers nothing that could prove which image it runs.",
    )
}

/// The outcome of a fault that came before the first image byte, or of none at all.
pub fn before_first_byte(fault: &Fault) -> Outcome {
    let ending = match fault.reason {
        Reason::NoAnswer | Reason::NoCallBack | Reason::Local | Reason::NotUnderstood => Ending::Failed,
        Reason::Cancelled => Ending::Cancelled,
        _ => Ending::Refused,
    };
    Outcome::because(
        ending,
        fault.reason.name(),
        fault.text.clone(),
        advice(fault.reason),
    )
}

fn advice(reason: Reason) -> &'static str {
    match reason {
        Reason::NoAnswer => {
            "Check that the device is powered, on this network, and takes updates; then push again."
        }
        Reason::NoCallBack => {
            "The device must be able to connect to this machine: open the firewall for --callback-port P, \
             avoid NAT and Docker bridges, or the image is larger than its slot."
        }
        Reason::WrongPassword => "Check the password of this device; it is not tried a second time.",
        Reason::PasswordNeeded => "Give its password with --password-file F or --password-env VAR.",
        Reason::Locked => "Check the password, then release the lock with --unlock.",
        Reason::Downgrade => {
            "Somebody may be answering in the device's place; if it was re-flashed with an older core, \
             release it with --unlock."
        }
        Reason::OtaOff => "Turn updates on at the device and try again.",
        Reason::Busy => "Wait until the other update has finished, then look again.",
        Reason::OtherDevice => "Find out where the device is now, and push to that address.",
        Reason::Local => "Mend what the message names on this machine, then push again.",
        Reason::Cancelled => "Push again when you like.",
        _ => "Look at the device, then push again.",
    }
}
