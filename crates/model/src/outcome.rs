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

/// The reason's name where a device keeps restarting with the image that it took.
pub const BOOT_LOOP: &str = "boot loop";
/// The reason's name where a device said yes and never restarted.
pub const NOT_APPLIED: &str = "not applied";
/// The reason's name where a device has not come back.
pub const NO_RETURN: &str = "no return";
/// The reason's name where the device reports a third version.
pub const MISMATCH: &str = "version mismatch";

impl Outcome {
    /// Whether it speaks against the image: the device itself would not have it, went back, did not restart with it or
    /// keeps restarting.
    ///
    /// What may be the network's or the device's own trouble does not, and neither does what is not proven.
    pub fn is_against_image(&self) -> bool {
        let reason = self.reason.as_deref();
        match self.ending {
            Ending::RolledBack => true,
            Ending::KeptOld => reason == Some(Reason::DeviceError.name()),
            Ending::Failed => [BOOT_LOOP, NOT_APPLIED].iter().any(|&name| reason == Some(name)),
            _ => false,
        }
    }

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
        End::Accepted(_) => "The device took the image, restarted, and reports the new version.",
        End::Rejected(_) => "The device reported an error, and yet it restarted and reports the new version.",
        End::Lost(_) => "The device's answer was lost, but it restarted and reports the new version.",
    };
    Outcome::plain(Ending::Updated, text)
}

fn restarted(label: &Label) -> Outcome {
    match label {
        Label::Target => Outcome::plain(
            Ending::Updated,
            "The device took the image, restarted, and reports the new version.",
        ),
        Label::Same => Outcome::plain(
            Ending::Updated,
            "The device took the image, restarted, and reports its version, which it reported before too.",
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
    let lost = !matches!(
        fault.reason,
        Reason::DeviceError | Reason::DeviceErrorRestarts | Reason::Busy
    );
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
    // Not one byte may have left before the program was stopped. A label that moves with every image has not moved: whether
    // the device restarted or not, it does not run this one.
    let proves_old = fault.reason == Reason::Interrupted && *label == Label::Old && away == Away::Untold;
    if unmoved && !proves_old && lost && complete && away != Away::Stayed {
        return Outcome::because(
            Ending::Unverified,
            Reason::VerdictLost.name(),
            format!(
                "{} The device {} since, and its version label is the same as before: it may run either image.",
                fault.text,
                if away == Away::Restarted {
                    "has restarted"
                } else {
                    "may have restarted"
                },
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
            "Move the device nearer to its access point, then push again.",
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
        MISMATCH,
        "The device now reports a version that is neither the image's nor the one before.",
        "Find out who else updates this device; the image on its way may have been exchanged.",
    )
}

fn not_applied() -> Outcome {
    Outcome::because(
        Ending::Failed,
        NOT_APPLIED,
        "The device said OK, but it never restarted: it still runs what it ran before.",
        "Check that the address is really the device and nothing in between answers for it; then push again.",
    )
}

/// The outcome where the device said yes, was not seen going away, and its uptime does not run.
pub(crate) fn no_uptime() -> Outcome {
    Outcome::because(
        Ending::Unverified,
        "restart not seen",
        "The device said OK, but it was not seen going away, and its uptime and its version label are the same as before.",
        "Look at the device; if it runs the old firmware, push again.",
    )
}

/// The outcome where the device said yes, and whether it restarted then cannot be told because this machine itself did.
pub(crate) fn not_watched(label: &Label) -> Outcome {
    if *label == Label::Old {
        return Outcome::because(
            Ending::Failed,
            NOT_APPLIED,
            "The device said OK, but it runs what it ran before; whether it restarted was not seen, because this machine \
             was restarted meanwhile.",
            "Push again; if the old version is back once more, the new image does not start on this device.",
        );
    }
    Outcome::because(
        Ending::Unverified,
        "restart not seen",
        "The device said OK. Whether it restarted was not seen, because this machine was restarted meanwhile, and its version \
         label is the same as before.",
        "Look at the device; if it runs the old firmware, push again.",
    )
}

fn no_return() -> Outcome {
    Outcome::because(
        Ending::Unverified,
        NO_RETURN,
        "The device has not come back since the push.",
        "Look at its power and its Wi-Fi. When it is back, look what it runs before you push again. If it stays away, it needs a cable.",
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
        Reason::NoAnswer
        | Reason::NoCallBack
        | Reason::Local
        | Reason::NotUnderstood
        | Reason::MidStream
        | Reason::VerdictLost => Ending::Failed,
        Reason::Cancelled => Ending::Cancelled,
        _ => Ending::Refused,
    };
    Outcome::because(
        ending,
        fault.reason.name(),
        fault.text.clone(),
        fault.next_step.as_deref().unwrap_or(advice(fault.reason)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::FaultKind;

    fn accepted() -> End {
        End::Accepted(Verdict {
            text: "OK".to_owned(),
        })
    }

    fn fault(kind: FaultKind, reason: Reason, reach: Reach) -> Fault {
        Fault {
            kind,
            reason,
            text: "What happened.".to_owned(),
            reach,
            failed_answers: 0,
            next_step: None,
            said: None,
        }
    }

    fn rejected(reason: Reason, reach: Reach) -> End {
        End::Rejected(fault(FaultKind::Refused, reason, reach))
    }

    fn lost(reason: Reason, reach: Reach) -> End {
        End::Lost(fault(FaultKind::Unsure, reason, reach))
    }

    fn panel() -> Label {
        Label::Partial("panel".to_owned())
    }

    #[track_caller]
    fn check(end: &End, away: Away, label: &Label, expected: (Ending, Option<&str>)) {
        let judged = outcome(end, away, label);
        assert_eq!(
            (judged.ending, judged.reason.as_deref()),
            expected,
            "{end:?}, {away:?}, {label:?}"
        );
    }

    #[test]
    fn a_label_that_equals_the_images_is_updated() {
        check(
            &accepted(),
            Away::Restarted,
            &Label::Target,
            (Ending::Updated, None),
        );
        check(
            &accepted(),
            Away::Restarted,
            &Label::Same,
            (Ending::Updated, None),
        );
        check(&accepted(), Away::Untold, &Label::Target, (Ending::Updated, None));
    }

    #[test]
    fn an_unmoved_label_after_ok_and_restart_is_a_success_that_names_its_doubt() {
        let judged = outcome(&accepted(), Away::Restarted, &Label::Unmoved);
        assert_eq!(judged.ending, Ending::UpdatedLabelUnchanged);
        assert!(judged.ending.is_success());
        assert!(judged.text.contains("cannot tell"), "{}", judged.text);
    }

    #[test]
    fn a_third_version_is_a_mismatch() {
        let expected = (Ending::Unverified, Some("version mismatch"));
        check(&accepted(), Away::Restarted, &Label::Other, expected);
        check(
            &lost(Reason::VerdictLost, Reach::Whole),
            Away::Restarted,
            &Label::Other,
            expected,
        );
        check(
            &rejected(Reason::DeviceError, Reach::Part),
            Away::Stayed,
            &Label::Other,
            expected,
        );
    }

    #[test]
    fn a_device_error_with_the_old_version_seen_is_kept_old() {
        for label in [Label::Unmoved, Label::Old, Label::Same] {
            for away in [Away::Stayed, Away::Restarted, Away::Untold] {
                for reach in [Reach::Part, Reach::Whole] {
                    check(
                        &rejected(Reason::DeviceError, reach),
                        away,
                        &label,
                        (Ending::KeptOld, Some("device error")),
                    );
                    check(
                        &rejected(Reason::DeviceErrorRestarts, reach),
                        away,
                        &label,
                        (Ending::KeptOld, Some("device error")),
                    );
                }
            }
        }
    }

    #[test]
    fn a_cut_in_mid_stream_with_the_old_version_seen_is_kept_old() {
        for label in [Label::Unmoved, Label::Old, Label::Same] {
            for away in [Away::Stayed, Away::Restarted, Away::Untold] {
                check(
                    &lost(Reason::MidStream, Reach::Part),
                    away,
                    &label,
                    (Ending::KeptOld, Some("transfer broke off")),
                );
            }
        }
    }

    #[test]
    fn an_interrupted_push_is_kept_old_where_a_label_that_always_moves_has_not() {
        let end = lost(Reason::Interrupted, Reach::Whole);
        check(
            &end,
            Away::Untold,
            &Label::Old,
            (Ending::KeptOld, Some("interrupted")),
        );
        // One that may stay proves nothing, nor does one that came back after a restart.
        for (away, label) in [
            (Away::Untold, Label::Unmoved),
            (Away::Untold, Label::Same),
            (Away::Restarted, Label::Old),
        ] {
            check(&end, away, &label, (Ending::Unverified, Some("verdict lost")));
        }
    }

    #[test]
    fn kept_old_is_never_said_of_a_version_that_was_not_read() {
        for end in [
            lost(Reason::MidStream, Reach::Part),
            lost(Reason::VerdictLost, Reach::Whole),
            rejected(Reason::DeviceError, Reach::Part),
        ] {
            for away in [Away::Stayed, Away::Restarted, Away::Untold] {
                check(
                    &end,
                    away,
                    &Label::Unreadable,
                    (Ending::Unverified, Some("no status API")),
                );
            }
        }
    }

    #[test]
    fn the_old_label_back_on_a_device_whose_label_moves_is_rolled_back() {
        check(
            &accepted(),
            Away::Restarted,
            &Label::Old,
            (Ending::RolledBack, Some("old version came back")),
        );
    }

    #[test]
    fn ok_without_a_restart_is_not_applied() {
        for label in [Label::Unmoved, Label::Old, Label::Same] {
            for away in [Away::Stayed, Away::Untold] {
                check(&accepted(), away, &label, (Ending::Failed, Some("not applied")));
            }
        }
    }

    #[test]
    fn a_device_that_never_came_back_is_unverified_whatever_was_said() {
        for end in [
            accepted(),
            rejected(Reason::DeviceError, Reach::Part),
            lost(Reason::MidStream, Reach::Part),
            lost(Reason::Cancelled, Reach::Part),
        ] {
            check(
                &end,
                Away::Gone,
                &Label::Unreadable,
                (Ending::Unverified, Some("no return")),
            );
        }
    }

    #[test]
    fn a_lost_verdict_is_settled_in_three_ways() {
        for reason in [Reason::VerdictLost, Reason::Interrupted] {
            let end = lost(reason, Reach::Whole);
            check(&end, Away::Restarted, &Label::Target, (Ending::Updated, None));
            check(
                &end,
                Away::Stayed,
                &Label::Unmoved,
                (Ending::KeptOld, Some(reason.name())),
            );
            for label in [Label::Unmoved, Label::Same] {
                check(
                    &end,
                    Away::Restarted,
                    &label,
                    (Ending::Unverified, Some("verdict lost")),
                );
            }
        }
    }

    #[test]
    fn the_observed_device_decides_against_its_own_error() {
        check(
            &rejected(Reason::DeviceErrorRestarts, Reach::Whole),
            Away::Restarted,
            &Label::Target,
            (Ending::Updated, None),
        );
    }

    #[test]
    fn one_of_two_parts_is_partial() {
        for end in [accepted(), lost(Reason::VerdictLost, Reach::Whole)] {
            check(&end, Away::Restarted, &panel(), (Ending::Failed, Some("partial")));
        }
        assert!(
            outcome(&accepted(), Away::Restarted, &panel())
                .text
                .contains("panel")
        );
    }

    #[test]
    fn a_device_without_a_status_api_is_never_a_success() {
        check(
            &accepted(),
            Away::Restarted,
            &Label::Unreadable,
            (Ending::Unverified, Some("no status API")),
        );
    }

    #[test]
    fn cancelled_in_mid_stream_needs_the_old_version_seen() {
        let end = lost(Reason::Cancelled, Reach::Part);
        check(
            &end,
            Away::Stayed,
            &Label::Unmoved,
            (Ending::Cancelled, Some("cancelled")),
        );
        check(
            &end,
            Away::Stayed,
            &Label::Other,
            (Ending::Unverified, Some("version mismatch")),
        );
    }

    #[test]
    fn before_the_first_byte_silence_is_failed_and_a_no_is_refused() {
        for (reason, ending) in [
            (Reason::NoAnswer, Ending::Failed),
            (Reason::NoCallBack, Ending::Failed),
            (Reason::WrongPassword, Ending::Refused),
            (Reason::PasswordNeeded, Ending::Refused),
            (Reason::Locked, Ending::Refused),
            (Reason::OtaOff, Ending::Refused),
            (Reason::Busy, Ending::Refused),
            (Reason::OtherDevice, Ending::Refused),
            (Reason::DeviceError, Ending::Refused),
            (Reason::Cancelled, Ending::Cancelled),
        ] {
            let judged = before_first_byte(&fault(FaultKind::Refused, reason, Reach::Nothing));
            assert_eq!(judged.ending, ending, "{reason:?}");
            assert_eq!(judged.reason.as_deref(), Some(reason.name()));
        }
    }

    /// Every end × what was seen × label: what no combination may say.
    #[test]
    fn no_combination_claims_more_than_was_seen() {
        let ends = [
            accepted(),
            rejected(Reason::DeviceError, Reach::Part),
            rejected(Reason::DeviceError, Reach::Whole),
            rejected(Reason::DeviceErrorRestarts, Reach::Whole),
            lost(Reason::MidStream, Reach::Part),
            lost(Reason::VerdictLost, Reach::Whole),
            lost(Reason::Interrupted, Reach::Whole),
            lost(Reason::Cancelled, Reach::Part),
        ];
        let labels = [
            Label::Target,
            Label::Same,
            Label::Unmoved,
            Label::Old,
            panel(),
            Label::Other,
            Label::Unreadable,
        ];
        for end in &ends {
            for away in [Away::Restarted, Away::Stayed, Away::Untold, Away::Gone] {
                for label in &labels {
                    let judged = outcome(end, away, label);
                    let case = format!("{end:?}, {away:?}, {label:?}: {judged:?}");
                    let old_seen =
                        away != Away::Gone && matches!(label, Label::Unmoved | Label::Old | Label::Same);
                    match judged.ending {
                        Ending::Updated => {
                            assert!(away == Away::Restarted || away == Away::Untold, "{case}");
                            assert!(matches!(label, Label::Target | Label::Same), "{case}");
                        }
                        Ending::UpdatedLabelUnchanged => {
                            assert!(matches!(end, End::Accepted(_)), "{case}");
                            assert_eq!((away, label), (Away::Restarted, &Label::Unmoved), "{case}");
                        }
                        Ending::KeptOld | Ending::Cancelled => assert!(old_seen, "{case}"),
                        Ending::RolledBack => assert_eq!(label, &Label::Old, "{case}"),
                        Ending::Failed | Ending::Unverified => {}
                        Ending::AlreadyCurrent | Ending::Refused => panic!("bytes had gone out: {case}"),
                    }
                    let named = judged.ending == Ending::Updated || judged.reason.is_some();
                    assert!(named, "no reason: {case}");
                }
            }
        }
    }
}
