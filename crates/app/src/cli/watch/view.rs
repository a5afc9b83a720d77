//! What is known of a rollout while it is watched: events and looks at it come in, lines to tell come out. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Deserialize;
use server::views::{EventView, MemberView, RolloutView};

use crate::cli::show::counted;
use crate::cli::standing::{Kind, devices_by_state, is_over, kind_of, kind_words, state_words, title, wave};

/// A rollout that is watched.
pub(super) struct View {
    /// As it was read last, with what events have told since.
    pub(super) rollout: RolloutView,
    /// The state of each device that was told last.
    told: BTreeMap<String, String>,
    /// Devices that had ended when the rollout was read last: nothing more comes of them.
    ended: BTreeSet<String>,
}

/// When the rollout has to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reread {
    /// The event told all.
    No,
    /// When nothing else comes for a moment.
    Soon,
    /// Before anything else.
    Now,
}

/// What an event means.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// Whether it is about this rollout.
    pub(super) ours: bool,
    pub(super) lines: Vec<String>,
    pub(super) reread: Reread,
}

/// What the detail of an event may hold. What is no such thing is not there.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Detail {
    rollout: Option<i64>,
    job: Option<i64>,
    device: Option<String>,
    state: Option<String>,
    reason: Option<String>,
    text: Option<String>,
    percent: Option<f64>,
}

impl View {
    /// Begins to watch, and says where it stands.
    pub(super) fn new(rollout: RolloutView) -> (Self, Vec<String>) {
        let told = rollout
            .members
            .iter()
            .map(|member| (member.device.clone(), member.state.clone()))
            .collect();
        let summary = &rollout.summary;
        let mut line = format!(
            "{}: {} of {}",
            title(summary),
            kind_words(summary.kind),
            counted(rollout.members.len(), "device")
        );
        if !summary.firmware.is_empty() {
            let _ = write!(line, " to {}", summary.firmware.join(", "));
        }
        let _ = write!(line, ", {}", summary.state);
        let wave = wave(summary);
        if !wave.is_empty() {
            let _ = write!(line, ", {wave}");
        }
        let lines = vec![line + "."];
        let ended = ended(&rollout);
        (Self { rollout, told, ended }, lines)
    }

    /// Takes the rollout as it was read anew.
    pub(super) fn reread(&mut self, mut rollout: RolloutView) -> Vec<String> {
        self.ended = ended(&rollout);
        // Which job it was is known from events where it is not told any more.
        let jobs: BTreeMap<&str, i64> = self
            .rollout
            .members
            .iter()
            .filter_map(|member| Some((member.device.as_str(), member.job?)))
            .collect();
        for member in &mut rollout.members {
            member.job = member.job.or_else(|| jobs.get(member.device.as_str()).copied());
        }
        let before = std::mem::replace(&mut self.rollout, rollout);
        let (was, is) = (&before.summary, &self.rollout.summary);
        let mut lines = Vec::new();
        if was.wave != is.wave && is.state == "running" {
            lines.push(format!("{}: {} begins.", title(is), wave(is)));
        }
        // A device that has stopped for good or for now is told even where no event told it.
        for member in &self.rollout.members {
            let known = self.told.get(&member.device);
            if kind_of(&member.state) != Kind::Runs
                && member.state != "queued"
                && known != Some(&member.state)
            {
                self.told.insert(member.device.clone(), member.state.clone());
                lines.push(member_line(member));
            }
        }
        // How it ended is told with all the rest.
        if (was.state != is.state || was.cause != is.cause) && !self.is_over() {
            let mut line = format!("{} is {}", title(is), is.state);
            if let Some(cause) = &is.cause {
                let _ = write!(line, ": {}", cause.text);
            }
            if !line.ends_with('.') {
                line.push('.');
            }
            lines.push(line);
        }
        lines
    }

    /// Takes an event.
    pub(super) fn event(&mut self, event: &EventView) -> Heard {
        let nothing = Heard {
            ours: false,
            lines: Vec::new(),
            reread: Reread::No,
        };
        let is_job = event.kind.starts_with("job.");
        if !is_job && !event.kind.starts_with("rollout.") {
            return nothing;
        }
        // What cannot be read may be ours: then it is asked for.
        let Ok(detail) = Detail::deserialize(&event.detail) else {
            return Heard {
                reread: Reread::Soon,
                ..nothing
            };
        };
        if detail.rollout != Some(self.rollout.summary.id) {
            return nothing;
        }
        let heard = Heard {
            ours: true,
            ..nothing
        };
        if !is_job {
            return Heard {
                reread: Reread::Now,
                ..heard
            };
        }
        // It had ended, and ended otherwise: what is counted has changed as well.
        if event.kind == "job.corrected" {
            return Heard {
                reread: Reread::Now,
                ..heard
            };
        }
        let device = detail.device.as_ref().or(event.device.as_ref());
        let member = device.and_then(|device| {
            self.rollout
                .members
                .iter_mut()
                .find(|member| member.device == *device)
        });
        let Some(member) = member else {
            return Heard {
                reread: Reread::Soon,
                ..heard
            };
        };
        // What is told of a try that is over comes late, and so does everything after the end.
        let is_of_old_try = match (detail.job, member.job) {
            (Some(job), Some(known)) => job <= known,
            (Some(_), None) => false,
            (None, _) => event.kind == "job.progress" && kind_of(&member.state) != Kind::Waits,
        };
        let is_late = match kind_of(&member.state) {
            Kind::Runs => false,
            Kind::Waits => is_of_old_try,
            Kind::Good | Kind::Nothing | Kind::Bad => is_of_old_try || detail.job.is_none(),
        };
        if is_late || self.ended.contains(&member.device) {
            return heard;
        }
        let is_progress = event.kind == "job.progress";
        if is_progress && detail.state.as_deref() == Some("finished") {
            // How, is told next.
            return heard;
        }
        member.job = detail.job.or(member.job);
        member.percent = detail.percent.map(whole_percent);
        let known = std::mem::take(&mut member.state);
        member.state = match detail.state {
            Some(state) => state,
            // That it has begun may come after how far it is.
            None if is_progress || kind_of(&known) == Kind::Runs => known,
            None => "looking".to_owned(),
        };
        if member.state != "uploading" {
            member.percent = None;
        }
        member.reason = detail.reason;
        member.text = detail.text;
        let mut lines = Vec::new();
        if self.told.get(&member.device) != Some(&member.state) {
            self.told.insert(member.device.clone(), member.state.clone());
            lines.push(member_line(member));
        }
        Heard {
            lines,
            reread: if is_progress { Reread::No } else { Reread::Soon },
            ..heard
        }
    }

    /// Whether there is nothing more to wait for: it is over, or it is held and nothing is going on any more.
    pub(super) fn is_over(&self) -> bool {
        let summary = &self.rollout.summary;
        is_over(summary) || (summary.state == "halted" && self.n_running() == 0)
    }

    /// Devices that something is going on with.
    pub(super) fn running(&self) -> impl Iterator<Item = &MemberView> {
        let members = self.rollout.members.iter();
        members.filter(|member| kind_of(&member.state) == Kind::Runs)
    }

    fn n_running(&self) -> usize {
        self.running().count()
    }

    /// All in a line.
    pub(super) fn counts(&self) -> String {
        devices_by_state(&self.rollout.members)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is between 0 and 100"
)]
fn whole_percent(percent: f64) -> u8 {
    percent.clamp(0.0, 100.0) as u8
}

/// The devices that have ended.
fn ended(rollout: &RolloutView) -> BTreeSet<String> {
    let members = rollout.members.iter();
    members
        .filter(|member| !matches!(kind_of(&member.state), Kind::Runs | Kind::Waits))
        .map(|member| member.device.clone())
        .collect()
}

/// What became of a device, in a line.
fn member_line(member: &MemberView) -> String {
    let words = state_words(&member.state, member.reason.as_deref());
    match (&member.text, kind_of(&member.state)) {
        (Some(text), Kind::Bad | Kind::Waits) => format!("{}: {words}: {text}", member.name),
        _ => format!("{}: {words}", member.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rollout(state: &str, wave: u32, states: &[&str]) -> RolloutView {
        let members: Vec<Value> = states
            .iter()
            .enumerate()
            .map(|(idx, state)| {
                json!({
                    "device": format!("d{idx}"), "name": format!("Device {idx}"), "wave": 0, "runs": "1.0",
                    "sha256": "6b".repeat(32), "firmware": "2.0.0", "state": state, "percent": null, "reason": null,
                    "text": null, "next_step": null, "job": null, "n_tries": 0, "n_pushes": 0,
                })
            })
            .collect();
        serde_json::from_value(json!({
            "id": 7, "name": "weekly", "kind": "update", "state": state, "cause": null, "firmware": ["2.0.0"],
            "created_ms": 0, "created_by": "me", "ended_ms": null, "wave": wave, "n_waves": 3, "counts": {},
            "n_devices": states.len(), "ok": null, "n_at_once": 4, "members": members, "left_out": [],
            "rules": {
                "canary": 1, "canary_soak_s": 600, "soak_s": 120, "at_once": "auto", "max_failures": "2",
                "when_back_until_ms": null,
            },
        }))
        .unwrap()
    }

    fn event(kind: &str, detail: Value) -> EventView {
        EventView {
            seq: 1,
            at_ms: 0,
            kind: kind.to_owned(),
            device: None,
            detail,
        }
    }

    fn job(state: &str, job: i64) -> EventView {
        event(
            "job.state",
            json!({ "rollout": 7, "job": job, "device": "d0", "name": "Device 0", "state": state }),
        )
    }

    fn watched(states: &[&str]) -> View {
        View::new(rollout("running", 0, states)).0
    }

    #[test]
    fn the_first_line_says_where_it_stands() {
        let (_, lines) = View::new(rollout("running", 1, &["updated", "queued"]));
        assert_eq!(
            lines,
            ["Rollout 7 \"weekly\": update of 2 devices to 2.0.0, running, wave 2 of 3."]
        );
    }

    #[test]
    fn each_step_of_a_device_is_told_once() {
        let mut view = watched(&["queued"]);
        let heard = view.event(&job("looking", 1));
        assert_eq!(
            (heard.lines, heard.reread),
            (vec!["Device 0: being looked at".to_owned()], Reread::Soon)
        );
        assert_eq!(view.event(&job("looking", 1)).lines, [""; 0], "the same again");
        // What was read in between may be ahead of the events.
        assert_eq!(view.reread(rollout("running", 0, &["soaking"])), [""; 0]);
        assert_eq!(view.event(&job("uploading", 1)).lines, ["Device 0: uploading"]);
    }

    fn progress(state: &str, job: Option<i64>, percent: Option<f64>) -> EventView {
        event(
            "job.progress",
            json!({
                "rollout": 7, "job": job, "device": "d0", "state": state, "percent": percent, "acked_bytes": 1,
                "len_bytes": 2,
            }),
        )
    }

    #[test]
    fn progress_moves_the_bar_and_tells_only_of_a_new_step() {
        let mut view = watched(&["queued"]);
        let heard = view.event(&progress("looking", None, None));
        assert_eq!(heard.lines, ["Device 0: being looked at"]);
        let heard = view.event(&progress("uploading", Some(4), Some(62.4)));
        assert_eq!(
            (heard.lines, heard.reread),
            (vec!["Device 0: uploading".to_owned()], Reread::No)
        );
        assert_eq!(view.rollout.members[0].percent, Some(62));
        let heard = view.event(&progress("uploading", Some(4), Some(63.0)));
        assert_eq!((heard.lines, heard.reread), (vec![], Reread::No));
        view.event(&job("rebooting", 4));
        assert_eq!(view.rollout.members[0].percent, None);
        assert_eq!(view.event(&progress("finished", Some(4), None)).lines, [""; 0]);
    }

    #[test]
    fn progress_of_a_try_that_is_over_changes_nothing() {
        let mut view = watched(&["uploading"]);
        view.event(&progress("uploading", Some(4), Some(10.0)));
        view.reread(rollout("running", 0, &["waiting"]));
        assert_eq!(
            view.event(&progress("uploading", Some(4), Some(20.0))).lines,
            [""; 0]
        );
        assert_eq!(view.rollout.members[0].state, "waiting");
        assert_eq!(
            view.event(&progress("looking", Some(5), None)).lines,
            ["Device 0: being looked at"]
        );
        // The end knows no number, and nothing comes after it.
        let finished = json!({ "rollout": 7, "device": "d0", "state": "updated" });
        assert_eq!(
            view.event(&event("job.finished", finished)).lines,
            ["Device 0: updated"]
        );
        for late in [
            progress("soaking", Some(5), None),
            progress("soaking", None, None),
        ] {
            assert_eq!(view.event(&late).lines, [""; 0]);
        }
        assert_eq!(view.rollout.members[0].state, "updated");
        // That a try has begun may be told after its first steps.
        let mut begun = watched(&["queued"]);
        begun.event(&progress("preparing", None, None));
        let started = event("job.started", json!({ "rollout": 7, "job": 4, "device": "d0" }));
        assert_eq!(begun.event(&started).lines, [""; 0]);
        assert_eq!(begun.rollout.members[0].job, Some(4));
        // The number of the job is still known for its evidence.
        view.reread(rollout("running", 0, &["updated"]));
        assert_eq!(view.rollout.members[0].job, Some(5));
    }

    #[test]
    fn events_of_others_are_not_ours() {
        let mut view = watched(&["queued"]);
        for other in [
            event("device.online", json!({ "rollout": 7 })),
            event(
                "job.state",
                json!({ "rollout": 8, "device": "d0", "state": "failed" }),
            ),
            event("job.state", json!({ "device": "d0", "state": "failed" })),
            event("rollout.halted", json!({ "rollout": 8 })),
        ] {
            let heard = view.event(&other);
            assert_eq!((heard.ours, heard.reread), (false, Reread::No), "{other:?}");
        }
        assert_eq!(view.rollout.members[0].state, "queued");
        // What cannot be understood leads to a look, not to an end.
        for odd in [json!(null), json!("x"), json!({ "rollout": "seven" })] {
            assert_eq!(view.event(&event("job.state", odd)).reread, Reread::Soon);
        }
        let unknown = json!({ "rollout": 7, "device": "nobody", "state": "failed" });
        assert_eq!(view.event(&event("job.state", unknown)).reread, Reread::Soon);
    }

    #[test]
    fn what_comes_late_does_not_undo_an_end() {
        let mut view = watched(&["soaking"]);
        let mut read = rollout("running", 0, &["updated"]);
        read.members[0].job = Some(4);
        assert_eq!(view.reread(read), ["Device 0: updated"]);
        assert_eq!(view.event(&job("soaking", 4)).lines, [""; 0]);
        assert_eq!(view.rollout.members[0].state, "updated");
        assert_eq!(view.event(&job("updated", 4)).lines, [""; 0], "it was told");
    }

    #[test]
    fn a_second_try_is_told_again() {
        let mut view = watched(&["looking"]);
        let failed = json!({
            "rollout": 7, "job": 4, "device": "d0", "state": "failed", "reason": "no answer", "text": "It was silent.",
        });
        assert_eq!(
            view.event(&event("job.finished", failed)).lines,
            ["Device 0: failed (no answer): It was silent."]
        );
        let mut read = rollout("running", 0, &["waiting"]);
        read.members[0].text = Some("It is tried again in 30 s.".to_owned());
        assert_eq!(
            view.reread(read),
            ["Device 0: waiting: It is tried again in 30 s."]
        );
        assert_eq!(
            view.event(&job("looking", 5)).lines,
            ["Device 0: being looked at"]
        );
    }

    #[test]
    fn waves_and_a_halt_are_told_from_what_is_read() {
        let mut view = watched(&["updated", "failed"]);
        assert_eq!(
            view.event(&event("rollout.wave", json!({ "rollout": 7 }))).reread,
            Reread::Now
        );
        assert_eq!(
            view.reread(rollout("running", 1, &["updated", "failed"])),
            ["Rollout 7 \"weekly\": wave 2 of 3 begins."]
        );
        assert!(!view.is_over());
        let mut read = rollout("halted", 1, &["soaking", "failed"]);
        read.summary.cause = serde_json::from_value(
            json!({ "rule": "failures", "text": "Device 1 failed.", "next_step": "Look at it." }),
        )
        .unwrap();
        assert_eq!(
            view.reread(read),
            ["Rollout 7 \"weekly\" is halted: Device 1 failed."]
        );
    }

    #[test]
    fn it_is_over_when_nothing_more_comes() {
        for (state, ended, states, over) in [
            ("running", false, &["updated"][..], false),
            ("finished", true, &["updated"], true),
            ("aborted", false, &["uploading", "cancelled"], false),
            ("aborted", true, &["updated", "cancelled"], true),
            ("halted", false, &["failed", "soaking"], false),
            ("halted", false, &["failed", "queued"], true),
            ("paused", false, &["queued"], false),
        ] {
            let mut rollout = rollout(state, 0, states);
            rollout.summary.ended_ms = ended.then_some(1);
            let (view, _) = View::new(rollout);
            assert_eq!(view.is_over(), over, "{state} {states:?}");
        }
    }
}
