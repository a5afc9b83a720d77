//! What a stored event means for somebody who is to be told.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::FleetEvent;

use super::message::Told;
use crate::views::{MemberView, RolloutKind, RolloutView};

/// How many failures of a rollout are kept with their words. Guess: more than anybody reads.
const N_FAILURES_KEPT: usize = super::message::N_DEVICES_LISTED;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Happened {
    /// The event's number.
    pub(super) seq: i64,
    pub(super) at_ms: i64,
    pub(super) what: What,
}

/// What.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    /// A rollout works on, so that what its devices come to is told at its end.
    GoesOn(i64),
    /// A rollout has halted or ended.
    Stands(Box<RolloutNews>),
    /// The update of a device has failed.
    Failed { rollout: Option<i64>, told: Told },
    /// What became of a device is known better than it was.
    Corrected {
        rollout: Option<i64>,
        told: Told,
        is_well: bool,
    },
    /// Something is the matter with an image.
    Alarm { name: String, text: String },
    /// A device needs this image.
    Offered {
        device: String,
        sha256: String,
        name: String,
    },
    /// It needs none any more.
    Withdrawn { device: String },
    /// A device does not answer.
    Offline { device: String },
    /// It answers.
    Online { device: String },
    /// It was taken from the list.
    Removed { device: String },
    /// Nothing to tell of.
    Else,
}

/// How a rollout stands that does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum How {
    Halted,
    Finished,
    Aborted,
}

/// A rollout that does not go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RolloutNews {
    pub(super) id: i64,
    pub(super) name: Option<String>,
    pub(super) how: How,
    /// Whether its devices go back to what they ran before.
    pub(super) is_rollback: bool,
    /// The images, in words.
    pub(super) firmware: Vec<String>,
    /// Why it has halted.
    pub(super) cause: Option<String>,
    /// What to do about that.
    pub(super) next_step: Option<String>,
    pub(super) n_devices: usize,
    /// Run what they should.
    pub(super) n_well: usize,
    pub(super) n_failed: usize,
    /// Under way, at this moment.
    pub(super) n_running: usize,
    /// The devices of a rollout of one or two, as long as all is well.
    pub(super) well: Vec<Told>,
    /// Those that failed, as far as they are kept.
    pub(super) failed: Vec<Told>,
    /// The ids of all that failed.
    #[serde(skip)]
    pub(super) failed_ids: BTreeSet<String>,
}

/// The rollout that must be looked at to understand an event.
pub(super) fn rollout_of(event: &FleetEvent) -> Option<i64> {
    let stands = matches!(
        event.kind.as_str(),
        "rollout.halted" | "rollout.finished" | "rollout.aborted"
    );
    event.detail["rollout"].as_i64().filter(|_| stands)
}

impl Happened {
    /// What an event means; `rollout` is the one that it is about, as it is now, where it could be read.
    pub(super) fn of(event: &FleetEvent, rollout: Option<&RolloutView>) -> Self {
        Self {
            seq: event.seq,
            at_ms: event.at_ms,
            what: what(event, rollout).unwrap_or(What::Else),
        }
    }
}

fn what(event: &FleetEvent, rollout: Option<&RolloutView>) -> Option<What> {
    let detail = &event.detail;
    let text = |name: &str| detail[name].as_str().map(str::to_owned);
    let device = || event.device.clone().or_else(|| text("device"));
    let number = || detail["rollout"].as_i64();
    Some(match event.kind.as_str() {
        "rollout.created" | "rollout.opened" | "rollout.resumed" | "rollout.scheduled" => {
            What::GoesOn(number()?)
        }
        "rollout.halted" => What::Stands(news(How::Halted, number()?, detail, rollout)),
        "rollout.finished" => What::Stands(news(How::Finished, number()?, detail, rollout)),
        "rollout.aborted" => What::Stands(news(How::Aborted, number()?, detail, rollout)),
        "job.finished" if is_failure(detail["state"].as_str()?) => What::Failed {
            rollout: number(),
            told: ended(device()?, detail),
        },
        // An update that an earlier process has left; nothing of it was told.
        "job.settled" if is_failure(state_of(detail)?) => What::Failed {
            rollout: None,
            told: ended(device()?, detail),
        },
        "job.corrected" => What::Corrected {
            rollout: number(),
            told: ended(device()?, detail),
            is_well: is_well(state_of(detail)?),
        },
        "firmware.quarantined" | "firmware.alarm" => What::Alarm {
            name: text("name")?,
            text: text("text")?,
        },
        "device.update-offered" => What::Offered {
            device: device()?,
            sha256: text("sha256")?,
            name: text("name")?,
        },
        "device.update-withdrawn" => What::Withdrawn { device: device()? },
        "device.offline" => What::Offline { device: device()? },
        "device.online" => What::Online { device: device()? },
        "device.removed" => What::Removed { device: device()? },
        _ => return None,
    })
}

/// How a job ended, under either of its names.
fn state_of(detail: &Value) -> Option<&str> {
    detail["state"].as_str().or_else(|| detail["outcome"].as_str())
}

/// Whether a word for an ended job says that the device runs what it should.
fn is_well(state: &str) -> bool {
    matches!(state, "updated" | "updated-label-unchanged" | "already-current")
}

/// Whether it counts against a rollout (`model::fleet::is_failure`).
fn is_failure(state: &str) -> bool {
    matches!(
        state,
        "kept-old" | "rolled-back" | "failed" | "unverified" | "refused"
    )
}

fn ended(device: String, detail: &Value) -> Told {
    let text = |name: &str| detail[name].as_str().map(str::to_owned);
    Told {
        name: text("name").unwrap_or_else(|| device.clone()),
        id: device,
        state: state_of(detail).unwrap_or_default().to_owned(),
        reason: text("reason"),
        runs: text("runs"),
        text: text("text"),
        next_step: text("next_step"),
    }
}

fn news(how: How, id: i64, detail: &Value, rollout: Option<&RolloutView>) -> Box<RolloutNews> {
    let text = |name: &str| detail[name].as_str().map(str::to_owned);
    let mut news = RolloutNews {
        id,
        name: text("name"),
        how,
        is_rollback: false,
        firmware: Vec::new(),
        cause: text("text"),
        next_step: None,
        n_devices: 0,
        n_well: 0,
        n_failed: 0,
        n_running: 0,
        well: Vec::new(),
        failed: Vec::new(),
        failed_ids: BTreeSet::new(),
    };
    let Some(view) = rollout else {
        return news.into();
    };
    news.is_rollback = view.summary.kind == RolloutKind::Rollback;
    news.firmware.clone_from(&view.summary.firmware);
    let cause = view.summary.cause.as_ref();
    news.next_step = cause.map(|cause| cause.next_step.clone());
    let members = &view.members;
    let count = |is: &dyn Fn(&str) -> bool| members.iter().filter(|member| is(&member.state)).count();
    news.n_devices = members.len();
    news.n_well = count(&is_well);
    news.n_failed = count(&is_failure);
    let is_running = |state: &str| {
        !is_well(state)
            && !is_failure(state)
            && !matches!(
                state,
                "queued" | "waiting" | "skipped" | "cancelled" | "missed-window"
            )
    };
    news.n_running = count(&is_running);
    let told = |is: fn(&str) -> bool| {
        let members = members.iter().filter(move |member| is(&member.state));
        members.map(of_member).take(N_FAILURES_KEPT).collect()
    };
    news.failed = told(is_failure);
    let failed = members.iter().filter(|member| is_failure(&member.state));
    news.failed_ids = failed.map(|member| member.device.clone()).collect();
    if members.len() <= 2 {
        news.well = told(is_well);
    }
    news.into()
}

fn of_member(member: &MemberView) -> Told {
    let runs = match member.state.as_str() {
        state if is_well(state) => Some(member.firmware.clone()),
        // It was seen to run this, or nothing has reached it.
        "kept-old" | "rolled-back" | "refused" => Some(member.runs.clone()),
        _ => None,
    };
    Told {
        id: member.device.clone(),
        name: member.name.clone(),
        state: member.state.clone(),
        reason: member.reason.clone(),
        runs: runs.filter(|runs| !runs.is_empty()),
        text: member.text.clone(),
        next_step: member.next_step.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(kind: &str, device: Option<&str>, detail: Value) -> FleetEvent {
        FleetEvent {
            seq: 3,
            at_ms: 1000,
            kind: kind.to_owned(),
            device: device.map(str::to_owned),
            detail,
        }
    }

    #[track_caller]
    fn of(kind: &str, device: Option<&str>, detail: Value) -> What {
        Happened::of(&event(kind, device, detail), None).what
    }

    fn member(device: &str, state: &str) -> Value {
        json!({ "device": device, "name": device.to_uppercase(), "wave": 0, "runs": "1.0", "sha256": "aa", "firmware": "1.2",
                "state": state, "percent": null, "reason": null, "text": format!("It ended as {state}."), "next_step": "Look.",
                "job": null, "n_tries": 1, "n_pushes": 1 })
    }

    fn view(members: &[Value]) -> RolloutView {
        let counts = json!({});
        serde_json::from_value(json!({
            "id": 7, "name": "night", "kind": "update", "state": "halted",
            "cause": { "rule": "canary-failed", "text": "Too much.", "next_step": "Resume it." }, "firmware": ["1.2"],
            "created_ms": 1, "created_by": "x", "ended_ms": null, "opens_ms": null, "wave": 0, "n_waves": 2, "counts": counts,
            "n_devices": members.len(), "ok": null, "members": members, "left_out": [], "n_at_once": 4,
            "rules": { "canary": 1, "canary_soak_s": 1, "soak_s": 1, "at_once": "auto", "max_failures": "2",
                       "when_back_until_ms": null, "window": null, "rollback": "never" },
        }))
        .unwrap()
    }

    #[test]
    fn a_rollout_that_stands_is_counted_and_its_failures_are_told_with_what_the_devices_run() {
        let states = [
            "updated",
            "already-current",
            "kept-old",
            "unverified",
            "queued",
            "uploading",
            "skipped",
        ];
        let members: Vec<Value> = states
            .iter()
            .map(|state| member(&state.replace('-', ""), state))
            .collect();
        let halted = event(
            "rollout.halted",
            None,
            json!({ "rollout": 7, "name": "night", "text": "Too much." }),
        );
        assert_eq!(rollout_of(&halted), Some(7));
        let What::Stands(news) = Happened::of(&halted, Some(&view(&members))).what else {
            panic!("it stands");
        };
        assert_eq!(
            (news.n_devices, news.n_well, news.n_failed, news.n_running),
            (7, 2, 2, 1)
        );
        let failed: Vec<_> = news
            .failed
            .iter()
            .map(|told| (told.state.as_str(), told.runs.as_deref()))
            .collect();
        assert_eq!(failed, [("kept-old", Some("1.0")), ("unverified", None)]);
        assert_eq!(
            (news.cause.as_deref(), news.next_step.as_deref()),
            (Some("Too much."), Some("Resume it."))
        );
        assert_eq!(
            news.failed_ids,
            BTreeSet::from(["keptold".to_owned(), "unverified".to_owned()])
        );
    }

    #[test]
    fn a_rollout_that_cannot_be_read_any_more_is_told_all_the_same() {
        let What::Stands(news) = of("rollout.finished", None, json!({ "rollout": 7 })) else {
            panic!("it stands");
        };
        assert_eq!((news.id, news.how, news.n_devices), (7, How::Finished, 0));
    }

    #[test]
    fn only_failures_of_jobs_mean_something() {
        for (state, is_failure) in [
            ("updated", false),
            ("updated-label-unchanged", false),
            ("already-current", false),
            ("cancelled", false),
            ("skipped", false),
            ("missed-window", false),
            ("kept-old", true),
            ("rolled-back", true),
            ("failed", true),
            ("unverified", true),
            ("refused", true),
        ] {
            let detail = json!({ "rollout": 7, "device": "d", "name": "Hall", "state": state, "text": "So.", "reason": "no return" });
            let what = of("job.finished", Some("d"), detail);
            assert_eq!(
                matches!(what, What::Failed { rollout: Some(7), .. }),
                is_failure,
                "{state}"
            );
            let what = of(
                "job.settled",
                None,
                json!({ "device": "d", "outcome": state, "text": "So." }),
            );
            assert_eq!(
                matches!(what, What::Failed { rollout: None, .. }),
                is_failure,
                "{state}"
            );
        }
        let detail = json!({ "rollout": null, "device": "d", "name": "Hall", "was": "unverified", "state": "updated", "text": "So." });
        let What::Corrected { told, is_well, .. } = of("job.corrected", Some("d"), detail) else {
            panic!("it is corrected");
        };
        assert!(is_well && told.name == "Hall");
    }

    #[test]
    fn an_event_that_says_too_little_or_is_of_another_version_means_nothing() {
        for kind in [
            "rollout.finished",
            "job.finished",
            "job.settled",
            "job.corrected",
            "device.update-offered",
            "device.offline",
            "firmware.alarm",
            "device.version",
            "something.new",
            "",
        ] {
            assert_eq!(of(kind, None, json!({})), What::Else, "{kind}");
            assert_eq!(of(kind, None, json!(["x"])), What::Else, "{kind}");
        }
        let detail = json!({ "sha256": "aa", "name": "1.2" });
        assert!(matches!(
            of("device.update-offered", Some("d"), detail),
            What::Offered { .. }
        ));
    }
}
