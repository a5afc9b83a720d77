//! What must hold after a rollout, whatever happened in it (RELIABILITY.md section 4, I1 to I13).
//!
//! It reads what the simulators wrote, line by line, and the journal as the server tells it in the end; nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Between two transfers of which the first was cut: the device's own stall limit, seconds (PROTOCOLS.md B1a).
const QUIET_S: f64 = 4.3;
/// Wrong password answers of a day and device (DESIGN.md, "What is settled").
const N_ANSWERS_MAX: usize = 5;

/// What is known of one rollout.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    /// What was approved, as a digest.
    pub(crate) target: String,
    /// How many at the same time.
    pub(crate) n_at_once: usize,
    /// How long a device must stay up, seconds.
    pub(crate) soak_s: f64,
    /// How long a job may take, milliseconds.
    pub(crate) job_within_ms: i64,
    /// When its window opened, milliseconds since 1970.
    pub(crate) opens_ms: Option<i64>,
    /// How many lines there were when its end was answered, and who had not begun by then.
    pub(crate) stopped: Option<(usize, BTreeSet<String>)>,
    /// The simulators' lines.
    pub(crate) lines: Vec<Value>,
    /// The rollout, in the end.
    pub(crate) rollout: Value,
    /// All jobs, in the end.
    pub(crate) jobs: Vec<Value>,
}

/// A device in it.
struct Seen<'a> {
    name: &'a str,
    member: &'a Value,
    jobs: Vec<&'a Value>,
    lines: Vec<&'a Value>,
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(i64::MIN)
}

fn time(line: &Value) -> f64 {
    line["t"].as_f64().unwrap_or(f64::NAN)
}

impl Seen<'_> {
    fn of(&self, event: &str) -> impl Iterator<Item = &Value> {
        self.lines
            .iter()
            .copied()
            .filter(move |line| line["event"] == event)
    }

    fn is_updated(&self) -> bool {
        self.member["state"] == "updated"
    }
}

impl Story {
    fn devices(&self) -> Vec<Seen<'_>> {
        let members = self.rollout["members"].as_array().map_or(&[][..], Vec::as_slice);
        let seen = members.iter().map(|member| {
            let name = member["device"].as_str().unwrap_or_default();
            Seen {
                name,
                member,
                jobs: self.jobs.iter().filter(|job| job["device"] == name).collect(),
                lines: self.lines.iter().filter(|line| line["device"] == name).collect(),
            }
        });
        seen.collect()
    }

    /// What does not hold, by the number of the invariant.
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        let devices = self.devices();
        let known: BTreeSet<&str> = devices.iter().map(|device| device.name).collect();
        let strangers = self.lines.iter().filter(|line| line["event"] == "receiving");
        for line in strangers.filter(|line| !known.contains(line["device"].as_str().unwrap_or_default())) {
            found.push(format!("I1: bytes went to a device that is no member: {line}"));
        }
        if self.rollout["ended_ms"].is_null() {
            found.push(format!("I2: the rollout has no end: {}", self.rollout["state"]));
        }
        for device in &devices {
            let mut own = Vec::new();
            self.ends(device, &mut own);
            self.bytes(device, &mut own);
            self.claims(device, &mut own);
            found.extend(own.into_iter().map(|text| format!("{text} ({})", device.name)));
        }
        self.at_once(&mut found);
        self.starts(&mut found);
        found
    }

    /// I2, and the half of I4 that the journal tells.
    fn ends(&self, device: &Seen<'_>, found: &mut Vec<String>) {
        const OPEN: [&str; 8] = [
            "queued",
            "waiting",
            "looking",
            "preparing",
            "uploading",
            "rebooting",
            "soaking",
            "restoring",
        ];
        if device.member["state"]
            .as_str()
            .is_none_or(|state| OPEN.contains(&state))
        {
            found.push(format!("I2: it has not ended: {}", device.member["state"]));
        }
        let mut free_ms = i64::MIN;
        for job in &device.jobs {
            let (start, end) = (number(&job["started_ms"]), number(&job["ended_ms"]));
            if job["ended_ms"].is_null() {
                found.push(format!("I2: job {} has not ended", job["id"]));
            } else if end - start > self.job_within_ms {
                found.push(format!("I2: job {} took {} ms", job["id"], end - start));
            }
            if job["state"] != "updated" && job["text"].is_null() {
                found.push(format!("I2: job {} says no reason", job["id"]));
            }
            if start < free_ms {
                found.push(format!(
                    "I4: job {} began before the one before it had ended",
                    job["id"]
                ));
            }
            free_ms = end;
        }
    }

    /// I1, I4, I8, I10, I13: what came over the wire.
    fn bytes(&self, device: &Seen<'_>, found: &mut Vec<String>) {
        let n_pushes = device.of("receiving").count();
        let intents = device
            .jobs
            .iter()
            .flat_map(|job| job["events"].as_array().into_iter().flatten());
        let n_intents = intents.filter(|event| event["step"] == "intent").count();
        if n_pushes > n_intents {
            found.push(format!("I1: {n_pushes} pushes, and {n_intents} written intents"));
        }
        if n_pushes > 2 {
            found.push(format!("I8: {n_pushes} pushes"));
        }
        if device.of("auth").filter(|line| line["accepted"] == false).count() > N_ANSWERS_MAX {
            found.push("I9: too many wrong password answers".to_owned());
        }
        for line in device.of("received") {
            if line["sha256"] != self.target.as_str() {
                found.push(format!("I10: it got another image: {line}"));
            }
        }
        let (mut cut_at, mut done_at): (Option<f64>, Option<f64>) = (None, None);
        for line in &device.lines {
            match line["event"].as_str() {
                Some("receiving") => {
                    if done_at.is_some() {
                        found.push(format!("I13: it was pushed to when it had the image: {line}"));
                    }
                    if cut_at.is_some_and(|cut_at| time(line) - cut_at < QUIET_S) {
                        found.push(format!("I4: the push before it was not known to be over: {line}"));
                    }
                    cut_at = Some(time(line));
                }
                Some("received") => {
                    cut_at = None;
                    if line["flashed"] == true {
                        done_at = Some(time(line));
                    }
                }
                Some("rebooting") => cut_at = None,
                _ => {}
            }
        }
    }

    /// I3, I7: what is said of it is so.
    fn claims(&self, device: &Seen<'_>, found: &mut Vec<String>) {
        let has_it = device.of("received").any(|line| line["flashed"] == true);
        if device.is_updated() {
            if !has_it {
                found.push("I7: said to be updated, and it never got the image".to_owned());
            }
            let last = device.jobs.last();
            let watched_s = last.and_then(|job| job["evidence"]["watched_s"].as_f64());
            if watched_s.is_none_or(|watched_s| watched_s < self.soak_s) {
                found.push(format!("I7: said to be updated after {watched_s:?} s"));
            }
        }
        let state = &device.member["state"];
        if (state == "kept-old" || state == "refused" || state == "cancelled") && has_it {
            found.push(format!("I7: said to be {state}, and it has the image"));
        }
        if let Some(last) = device.jobs.last()
            && last["state"] != *state
            && !(state == "cancelled" || state == "missed-window")
        {
            found.push(format!(
                "I3: the rollout says {state}, its last job {}",
                last["state"]
            ));
        }
    }

    /// I5.
    fn at_once(&self, found: &mut Vec<String>) {
        let mut changes: BTreeMap<(i64, i32), i64> = BTreeMap::new();
        for job in &self.jobs {
            // Of two at the same millisecond the end comes first.
            *changes.entry((number(&job["started_ms"]), 1)).or_default() += 1;
            *changes.entry((number(&job["ended_ms"]), 0)).or_default() -= 1;
        }
        let mut n_running = 0;
        for ((at_ms, _), change) in changes {
            n_running += change;
            if n_running > i64::try_from(self.n_at_once).unwrap_or(i64::MAX) {
                found.push(format!("I5: {n_running} jobs at {at_ms}"));
            }
        }
    }

    /// I6 and I12.
    fn starts(&self, found: &mut Vec<String>) {
        let first_ms = self.jobs.iter().map(|job| number(&job["started_ms"])).min();
        if let (Some(opens_ms), Some(first_ms)) = (self.opens_ms, first_ms)
            && first_ms < opens_ms
        {
            found.push(format!(
                "I6: a job began {} ms before the window",
                opens_ms - first_ms
            ));
        }
        let Some((n_lines, unbegun)) = &self.stopped else {
            return;
        };
        for line in self.lines.iter().skip(*n_lines) {
            let begins = line["event"] == "invited" || line["event"] == "receiving";
            if begins && unbegun.contains(line["device"].as_str().unwrap_or_default()) {
                found.push(format!("I12: begun after the end was answered: {line}"));
            }
        }
    }
}

/// The oracle is blind to nothing that it is for: each lie is found, and found as what it is.
#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// One device that was cut once, and then updated.
    fn good() -> Story {
        let events =
            |steps: &[&str]| -> Vec<Value> { steps.iter().map(|step| json!({ "step": step })).collect() };
        Story {
            target: "new".to_owned(),
            n_at_once: 1,
            soak_s: 1.0,
            job_within_ms: 60_000,
            opens_ms: Some(900),
            stopped: Some((7, BTreeSet::from(["b".to_owned()]))),
            lines: vec![
                json!({ "event": "invited", "device": "a", "t": 1.0 }),
                json!({ "event": "receiving", "device": "a", "t": 1.1 }),
                json!({ "event": "invited", "device": "a", "t": 40.0 }),
                json!({ "event": "receiving", "device": "a", "t": 40.1 }),
                json!({ "event": "received", "device": "a", "t": 41.0, "sha256": "new", "flashed": true }),
                json!({ "event": "rebooting", "device": "a", "t": 41.1 }),
                json!({ "event": "up", "device": "a", "t": 42.0, "version": "1.1" }),
            ],
            rollout: json!({ "state": "aborted", "ended_ms": 50_000, "members": [
                { "device": "a", "state": "updated" }, { "device": "b", "state": "cancelled" }] }),
            jobs: vec![
                json!({ "id": 1, "device": "a", "state": "kept-old", "text": "It was cut.", "started_ms": 1000,
                        "ended_ms": 30_000, "events": events(&["begun", "intent", "finished"]) }),
                json!({ "id": 2, "device": "a", "state": "updated", "started_ms": 39_000, "ended_ms": 45_000,
                        "evidence": { "watched_s": 1.5 }, "events": events(&["begun", "intent", "finished"]) }),
            ],
        }
    }

    type Lie = fn(&mut Story);

    #[test]
    fn the_oracle_finds_each_planted_lie() {
        assert_eq!(good().violations(), Vec::<String>::new());
        let lies: [(&str, Lie); 17] = [
            ("I1", |story| {
                story
                    .lines
                    .push(json!({ "event": "receiving", "device": "c", "t": 50.0 }));
            }),
            ("I1", |story| story.jobs[0]["events"] = json!([])),
            ("I2", |story| story.rollout["ended_ms"] = Value::Null),
            ("I2", |story| {
                story.rollout["members"][1]["state"] = json!("waiting");
            }),
            ("I2", |story| story.jobs[0]["text"] = Value::Null),
            ("I2", |story| story.job_within_ms = 1000),
            ("I3", |story| story.jobs[1]["state"] = json!("failed")),
            ("I4", |story| story.jobs[1]["started_ms"] = json!(29_000)),
            ("I4", |story| story.lines[1]["t"] = json!(39.0)),
            ("I5", |story| story.n_at_once = 0),
            ("I6", |story| story.opens_ms = Some(1001)),
            ("I7", |story| story.lines[4]["flashed"] = json!(false)),
            ("I7", |story| story.jobs[1]["evidence"]["watched_s"] = json!(0.5)),
            ("I8", |story| {
                let line = json!({ "event": "receiving", "device": "a", "t": 20.0 });
                story.lines.insert(2, line);
                story.jobs[0]["events"][0]["step"] = json!("intent");
            }),
            ("I10", |story| story.lines[4]["sha256"] = json!("other")),
            ("I12", |story| {
                story
                    .lines
                    .push(json!({ "event": "invited", "device": "b", "t": 60.0 }));
            }),
            ("I13", |story| story.lines.swap(3, 4)),
        ];
        for (number, lie) in lies {
            let mut story = good();
            lie(&mut story);
            let found = story.violations();
            assert!(
                found.iter().any(|text| text.starts_with(&format!("{number}:"))),
                "{number} was not found: {found:?}"
            );
        }
    }
}
