use std::cell::RefCell;

use super::super::message::Kind;
use super::*;

const MINUTE: Duration = Duration::from_mins(1);
const DIGEST: Duration = Duration::from_mins(10);

/// A digest, the devices that it looks at, and its time.
struct Bench {
    digest: Digest,
    rules: Rules,
    devices: RefCell<BTreeMap<String, Standing>>,
    now: Duration,
    seq: i64,
}

fn standing(name: &str) -> Standing {
    Standing {
        name: name.to_owned(),
        runs: Some("1.0".to_owned()),
        enrolled: true,
        offline: false,
        busy: false,
        offered: None,
    }
}

fn failed(id: &str) -> Told {
    Told {
        id: id.to_owned(),
        name: format!("Name of {id}"),
        state: "kept-old".to_owned(),
        reason: Some("cut".to_owned()),
        runs: Some("1.0".to_owned()),
        text: Some("The push was cut.".to_owned()),
        next_step: Some("Try it again.".to_owned()),
    }
}

impl Bench {
    fn new() -> Self {
        let devices = (0..50).map(|n| (format!("d{n}"), standing(&format!("Device {n}"))));
        Self {
            digest: Digest::after(0),
            rules: Rules {
                digest: DIGEST,
                about: About::ALL.into(),
            },
            devices: RefCell::new(devices.collect()),
            now: Duration::from_hours(100),
            seq: 0,
        }
    }

    fn about(about: &[About]) -> Self {
        let mut bench = Self::new();
        bench.rules.about = about.iter().copied().collect();
        bench
    }

    fn happens(&mut self, what: What) -> bool {
        self.seq += 1;
        let happened = Happened {
            seq: self.seq,
            at_ms: 1000 * self.seq,
            what,
        };
        self.digest.take(happened, self.now, &self.rules)
    }

    fn change(&self, device: &str, change: impl FnOnce(&mut Standing)) {
        change(self.devices.borrow_mut().get_mut(device).unwrap());
    }

    fn turn(&mut self) -> Vec<Message> {
        let devices = &self.devices;
        self.digest
            .turn(self.now, &self.rules, &|key| devices.borrow().get(key).cloned())
    }

    fn after(&mut self, time: Duration) -> Vec<Message> {
        self.now += time;
        self.turn()
    }

    /// Lets time pass as its owner does: to the next moment that the digest names, until that is further than this.
    fn pass(&mut self, time: Duration) -> Vec<Message> {
        let until = self.now + time;
        let mut messages = self.turn();
        for _ in 0..10_000 {
            match self.digest.next() {
                Some(wait) if self.now + wait <= until => {
                    let before = self.digest.clone();
                    let told = self.after(wait);
                    assert!(
                        !told.is_empty() || before != self.digest,
                        "it turns without an end: {:?}",
                        self.digest
                    );
                    messages.extend(told);
                }
                _ => {
                    self.now = until;
                    return messages;
                }
            }
        }
        panic!("it turns without an end: {:?}", self.digest);
    }

    /// As the process would after its death: from what it has stored last.
    fn restart(&mut self) {
        let stored = serde_json::to_string(&self.digest).unwrap();
        self.digest = serde_json::from_str(&stored).unwrap();
    }

    fn fails(&mut self, device: &str) -> bool {
        self.happens(What::Failed {
            rollout: None,
            told: failed(device),
        })
    }

    fn offline(&mut self, device: &str) {
        self.change(device, |standing| standing.offline = true);
        self.happens(What::Offline {
            device: device.to_owned(),
        });
    }

    fn online(&mut self, device: &str) {
        self.change(device, |standing| standing.offline = false);
        self.happens(What::Online {
            device: device.to_owned(),
        });
    }

    fn offered(&mut self, device: &str, sha256: &str) {
        self.change(device, |standing| standing.offered = Some(sha256.to_owned()));
        self.happens(What::Offered {
            device: device.to_owned(),
            sha256: sha256.to_owned(),
            name: format!("1.2 of {sha256}"),
        });
    }
}

/// A rollout of so many devices of which these have failed; the others are well, or left if it has not finished.
fn news(id: i64, how: How, n_devices: usize, failures: &[&str]) -> What {
    let n_well = match how {
        How::Finished => n_devices - failures.len(),
        How::Halted | How::Aborted => 0,
    };
    What::Stands(Box::new(RolloutNews {
        id,
        name: None,
        how,
        is_rollback: false,
        firmware: vec!["1.2".to_owned()],
        cause: (how == How::Halted).then(|| "Too much has failed.".to_owned()),
        next_step: None,
        n_devices,
        n_well,
        n_failed: failures.len(),
        n_running: 0,
        well: Vec::new(),
        failed: failures.iter().map(|id| failed(id)).collect(),
        failed_ids: failures.iter().map(|id| (*id).to_owned()).collect(),
    }))
}

fn in_rollout(id: i64, device: &str) -> What {
    What::Failed {
        rollout: Some(id),
        told: failed(device),
    }
}

#[track_caller]
fn kinds(messages: &[Message]) -> Vec<Kind> {
    messages.iter().map(|message| message.kind).collect()
}

#[track_caller]
fn only(messages: Vec<Message>) -> Message {
    let [message] = <[Message; 1]>::try_from(messages).unwrap_or_else(|all| panic!("{all:#?}"));
    message
}

#[test]
fn a_rollout_of_fifty_devices_is_one_message() {
    let mut bench = Bench::new();
    bench.happens(What::GoesOn(7));
    for n in [3, 4] {
        assert!(!bench.happens(in_rollout(7, &format!("d{n}"))));
    }
    assert_eq!(bench.pass(20 * MINUTE), []);
    bench.happens(news(7, How::Finished, 50, &["d3", "d4"]));
    let told = only(bench.pass(24 * 60 * MINUTE));
    assert_eq!((told.kind, told.rollout), (Kind::Finished, Some(7)));
    assert_eq!(told.title, "Rollout 7: 48 of 50 devices are updated");
    assert_eq!(
        told.text,
        "Rollout 7 has finished. 48 of 50 devices are updated and run 1.2 now, 2 failed. Name of d3 and Name of d4: \
         The push was cut. They run 1.0 now. Try it again."
    );
    assert_eq!(told.devices.len(), 2);
}

#[test]
fn a_rollout_of_one_device_speaks_of_the_device() {
    let mut bench = Bench::new();
    let What::Stands(mut rollout) = news(8, How::Finished, 1, &[]) else {
        unreachable!()
    };
    rollout.well = vec![Told {
        state: "updated".to_owned(),
        runs: Some("1.2".to_owned()),
        name: "Hall".to_owned(),
        ..failed("d1")
    }];
    bench.happens(What::Stands(rollout));
    let told = only(bench.turn());
    assert_eq!(told.title, "Hall is updated");
    assert_eq!(
        told.text,
        "Hall is updated: it runs 1.2 now. Nothing is left to do."
    );
    bench.happens(news(9, How::Finished, 1, &["d1"]));
    let told = only(bench.turn());
    assert_eq!(told.title, "Name of d1: the update failed");
    assert_eq!(
        told.text,
        "Name of d1: The push was cut. It runs 1.0 now. Try it again."
    );
}

#[test]
fn a_halt_is_told_at_once_with_its_cause_its_devices_and_the_next_step() {
    let mut bench = Bench::new();
    // The gathering is closed just now, and a halt does not wait for it.
    bench.fails("d9");
    only(bench.turn());
    bench.happens(in_rollout(7, "d3"));
    bench.happens(news(7, How::Halted, 50, &["d3"]));
    let told = only(bench.turn());
    assert_eq!((told.kind, told.rollout), (Kind::Halted, Some(7)));
    for words in [
        "Too much has failed.",
        "Name of d3: The push was cut.",
        "reflash rollout resume 7",
    ] {
        assert!(told.text.contains(words), "{}", told.text);
    }
    assert_eq!(bench.pass(60 * MINUTE), [], "nothing of it is told twice");
}

#[test]
fn what_fails_after_a_halt_is_told_once() {
    let mut bench = Bench::new();
    bench.happens(news(7, How::Halted, 50, &["d3"]));
    only(bench.turn());
    // One of these was read with the rollout already.
    bench.happens(in_rollout(7, "d3"));
    bench.happens(in_rollout(7, "d4"));
    bench.happens(in_rollout(7, "d4"));
    let told = only(bench.turn());
    assert_eq!((told.kind, told.devices.len()), (Kind::Failed, 1));
    assert_eq!(told.title, "Device 4: the update failed");
    // It goes on: what its devices come to is told at its end.
    bench.happens(What::GoesOn(7));
    bench.happens(in_rollout(7, "d5"));
    assert_eq!(bench.pass(60 * MINUTE), []);
}

#[test]
fn single_failures_are_told_at_once_and_then_gathered() {
    let mut bench = Bench::new();
    bench.fails("d0");
    assert_eq!(only(bench.turn()).title, "Device 0: the update failed");
    for n in 1..30 {
        bench.now += Duration::from_secs(10);
        bench.fails(&format!("d{n}"));
        assert_eq!(bench.turn(), []);
    }
    assert_eq!(
        bench.digest.next(),
        Some(DIGEST.saturating_sub(Duration::from_secs(290)))
    );
    let told = only(bench.pass(30 * MINUTE));
    assert_eq!((told.title.as_str(), told.n_devices), ("29 updates failed", 29));
    assert!(
        told.text
            .starts_with("Device 1, Device 2, Device 3, Device 4, Device 5 and 24 others: The push was cut.")
    );
    assert_eq!(bench.digest.next(), None);
}

#[test]
fn without_a_digest_everything_is_told_at_once() {
    let mut bench = Bench::new();
    bench.rules.digest = Duration::ZERO;
    for n in 0..3 {
        bench.fails(&format!("d{n}"));
        assert_eq!(bench.turn().len(), 1);
    }
}

#[test]
fn firmware_is_told_once_for_all_devices_that_need_it() {
    let mut bench = Bench::new();
    for n in 0..50 {
        bench.offered(&format!("d{n}"), "aa");
        assert_eq!(bench.turn(), [], "the others come in a moment");
    }
    // One is offered something else meanwhile, one is taken from the fleet's hands, one is gone.
    bench.change("d0", |standing| standing.offered = None);
    bench.change("d1", |standing| standing.enrolled = false);
    bench.devices.borrow_mut().remove("d2");
    let told = only(bench.pass(60 * MINUTE));
    assert_eq!((told.kind, told.n_devices), (Kind::Firmware, 47));
    assert_eq!(told.title, "Firmware 1.2 of aa is there for 47 devices");
    assert!(
        told.text.contains("They run 1.0 now.") && told.text.contains("reflash plan"),
        "{}",
        told.text
    );
    bench.offered("d3", "aa");
    assert_eq!(bench.pass(60 * MINUTE), [], "that it is there is told");
    bench.offered("d3", "bb");
    assert_eq!(only(bench.pass(60 * MINUTE)).n_devices, 1);
}

#[test]
fn firmware_that_nobody_needs_any_more_is_not_told_and_may_be_later() {
    let mut bench = Bench::new();
    bench.offered("d3", "aa");
    bench.change("d3", |standing| standing.offered = None);
    bench.happens(What::Withdrawn {
        device: "d3".to_owned(),
    });
    assert_eq!(bench.pass(60 * MINUTE), []);
    bench.offered("d3", "aa");
    assert_eq!(only(bench.pass(60 * MINUTE)).kind, Kind::Firmware);
}

#[test]
fn a_device_is_lost_after_a_while_and_its_neighbours_with_it() {
    let mut bench = Bench::new();
    bench.offline("d1");
    bench.now += Duration::from_secs(30);
    bench.offline("d2");
    bench.now += 5 * MINUTE;
    bench.offline("d3");
    assert_eq!(bench.pass(4 * MINUTE), []);
    let told = only(bench.pass(MINUTE));
    assert_eq!(
        (told.kind, told.title.as_str()),
        (Kind::Lost, "2 devices do not answer")
    );
    assert_eq!(
        told.devices
            .iter()
            .map(|told| told.state.as_str())
            .collect::<Vec<_>>(),
        ["offline", "offline"]
    );
    let told = only(bench.pass(60 * MINUTE));
    assert!(
        told.text
            .starts_with("Device 3 has not answered for 14 minutes. It ran 1.0 when it was seen last."),
        "{}",
        told.text
    );
    assert_eq!(bench.pass(24 * 60 * MINUTE), [], "it is told once");
}

#[test]
fn a_device_that_is_back_in_time_is_not_told_of() {
    let mut bench = Bench::new();
    bench.offline("d1");
    assert_eq!(bench.pass(9 * MINUTE), []);
    bench.online("d1");
    bench.offline("d2");
    // Its event may be late, and its state is not.
    bench.change("d2", |standing| standing.offline = false);
    bench.offline("d3");
    bench.devices.borrow_mut().remove("d3");
    bench.offline("d4");
    bench.change("d4", |standing| standing.enrolled = false);
    assert_eq!(bench.pass(60 * MINUTE), []);
}

#[test]
fn a_lost_device_that_is_found_is_told_unless_it_is_lost_again() {
    let mut bench = Bench::new();
    bench.offline("d1");
    only(bench.pass(10 * MINUTE));
    bench.online("d1");
    bench.offline("d1");
    assert_eq!(bench.pass(60 * MINUTE), [], "it was told as lost, and it is");
    bench.online("d1");
    let told = only(bench.pass(60 * MINUTE));
    assert_eq!(
        (told.kind, told.text.as_str()),
        (
            Kind::Found,
            "Device 1 answers again and runs 1.0. Nothing is left to do."
        )
    );
    bench.online("d1");
    assert_eq!(bench.pass(60 * MINUTE), []);
}

#[test]
fn a_device_is_not_lost_while_a_job_of_ours_works_on_it() {
    let mut bench = Bench::new();
    bench.offline("d1");
    bench.change("d1", |standing| standing.busy = true);
    assert_eq!(bench.pass(30 * MINUTE), []);
    bench.change("d1", |standing| standing.busy = false);
    assert_eq!(bench.pass(9 * MINUTE), [], "it has the whole time after its job");
    assert_eq!(only(bench.pass(11 * MINUTE)).kind, Kind::Lost);
}

#[test]
fn a_device_that_does_not_come_back_from_its_update_is_not_told_as_lost_beside_that() {
    let mut bench = Bench::new();
    let What::Stands(mut rollout) = news(7, How::Halted, 2, &["d1"]) else {
        unreachable!()
    };
    rollout.failed[0].reason = Some("no return".to_owned());
    bench.happens(What::Stands(rollout));
    only(bench.turn());
    bench.now += 3 * MINUTE;
    bench.offline("d1");
    assert_eq!(bench.pass(60 * MINUTE), []);
    bench.online("d1");
    assert_eq!(only(bench.pass(60 * MINUTE)).kind, Kind::Found);
    // One that was back before anybody missed it is lost like any other, much later.
    bench.happens(What::Failed {
        rollout: None,
        told: Told {
            reason: Some("no return".to_owned()),
            ..failed("d2")
        },
    });
    only(bench.turn());
    bench.now += 60 * MINUTE;
    bench.offline("d2");
    assert_eq!(only(bench.pass(60 * MINUTE)).kind, Kind::Lost);
}

#[test]
fn what_was_not_proven_and_is_known_now_is_told() {
    let mut bench = Bench::new();
    let unverified = Told {
        state: "unverified".to_owned(),
        runs: None,
        ..failed("d1")
    };
    let updated = Told {
        state: "updated".to_owned(),
        runs: Some("1.2".to_owned()),
        text: Some("The device reports the new version.".to_owned()),
        next_step: None,
        ..failed("d1")
    };
    let fails = || What::Failed {
        rollout: None,
        told: unverified.clone(),
    };
    let corrected = |is_well| What::Corrected {
        rollout: Some(7),
        told: updated.clone(),
        is_well,
    };
    bench.happens(fails());
    let told = only(bench.turn());
    assert!(
        told.text.contains("What it runs now is not proven."),
        "{}",
        told.text
    );
    bench.happens(corrected(true));
    let told = only(bench.pass(60 * MINUTE));
    assert_eq!(
        (told.kind, told.text.as_str()),
        (
            Kind::Corrected,
            "Device 1 is known to be updated after all: The device reports the new version. It runs 1.2 now."
        )
    );
    // Nobody has heard of this one.
    bench.happens(fails());
    bench.now += Duration::from_secs(1);
    bench.happens(corrected(true));
    assert_eq!(bench.pass(60 * MINUTE), []);
    bench.happens(fails());
    bench.happens(corrected(false));
    assert_eq!(kinds(&bench.pass(60 * MINUTE)), [Kind::Failed]);
}

#[test]
fn what_is_corrected_while_its_rollout_goes_on_is_told_by_that() {
    let mut bench = Bench::new();
    let corrected = || What::Corrected {
        rollout: Some(7),
        told: failed("d1"),
        is_well: false,
    };
    bench.happens(What::GoesOn(7));
    assert!(!bench.happens(corrected()));
    assert_eq!(bench.pass(60 * MINUTE), []);
    bench.happens(news(7, How::Finished, 50, &["d1"]));
    only(bench.turn());
    bench.happens(corrected());
    assert_eq!(kinds(&bench.turn()), [Kind::Corrected]);
}

#[test]
fn an_image_with_which_something_is_the_matter_is_told() {
    let mut bench = Bench::new();
    bench.happens(What::Alarm {
        name: "1.2".to_owned(),
        text: "1.2 has failed on 2 devices, so it is in quarantine.".to_owned(),
    });
    let told = only(bench.turn());
    assert_eq!(
        (told.kind, told.title.as_str()),
        (Kind::Alarm, "1.2: look at this firmware")
    );
    assert!(
        told.text
            .starts_with("1.2 has failed on 2 devices, so it is in quarantine.")
    );
    assert_eq!(bench.pass(60 * MINUTE), []);
}

#[test]
fn news_of_several_kinds_are_one_message() {
    let mut bench = Bench::new();
    bench.fails("d0");
    only(bench.turn());
    bench.fails("d1");
    bench.offered("d2", "aa");
    bench.offline("d3");
    let told = only(bench.pass(10 * MINUTE));
    assert_eq!((told.kind, told.rollout, told.n_devices), (Kind::Digest, None, 3));
    assert_eq!(
        told.title,
        "Device 1: the update failed; Firmware 1.2 of aa is there for Device 2; Device 3 does not answer"
    );
    assert_eq!(told.text.lines().count(), 3);
}

#[test]
fn no_more_than_twenty_messages_an_hour_and_nothing_is_forgotten() {
    let mut bench = Bench::new();
    let mut told = Vec::new();
    for id in 0..40 {
        bench.happens(news(id, How::Finished, 2, &[]));
        told.extend(bench.after(Duration::from_secs(1)));
    }
    assert_eq!(told.len(), N_ORDINARY);
    for id in 40..50 {
        bench.happens(news(id, How::Halted, 50, &["d1"]));
        told.extend(bench.after(Duration::from_secs(1)));
    }
    assert_eq!(told.len(), N_AN_HOUR, "a halt finds room");
    bench.restart();
    assert_eq!(bench.pass(50 * MINUTE), [], "also after a restart");
    let rest = bench.pass(61 * MINUTE);
    let digest: Vec<_> = rest
        .iter()
        .filter(|message| message.kind == Kind::Digest)
        .collect();
    assert_eq!(digest.len(), 1, "{rest:#?}");
    for id in 15..40 {
        let words = format!("Rollout {id}: all 2 devices are updated.");
        assert!(digest[0].text.contains(&words), "{}", digest[0].text);
    }
    assert_eq!(
        rest.iter().filter(|message| message.kind == Kind::Halted).count(),
        5
    );
    assert_eq!(bench.digest.next(), None);
}

#[test]
fn in_no_hour_are_there_more_messages_than_promised() {
    let mut bench = Bench::new();
    bench.rules.digest = Duration::ZERO;
    let mut times: Vec<Duration> = Vec::new();
    for n in 0..3000 {
        bench.now += Duration::from_secs(n % 7);
        match n % 5 {
            0 => drop(bench.fails(&format!("d{}", n % 50))),
            1 => drop(bench.happens(news(i64::try_from(n).unwrap(), How::Halted, 5, &["d1"]))),
            2 => bench.offline(&format!("d{}", n % 50)),
            3 => bench.online(&format!("d{}", n % 50)),
            _ => drop(bench.happens(news(i64::try_from(n).unwrap(), How::Finished, 5, &[]))),
        }
        let n_told = bench.turn().len();
        times.extend(std::iter::repeat_n(bench.now, n_told));
    }
    for (idx, begin) in times.iter().enumerate() {
        let in_hour = times[idx..]
            .iter()
            .take_while(|time| time.saturating_sub(*begin) < HOUR);
        assert!(in_hour.count() <= N_AN_HOUR);
    }
    assert!(times.len() > N_AN_HOUR, "{}", times.len());
}

#[test]
fn a_restart_tells_nothing_again_and_forgets_nothing() {
    let mut bench = Bench::new();
    bench.fails("d0");
    bench.happens(news(7, How::Halted, 50, &["d1"]));
    bench.offered("d2", "aa");
    bench.offline("d3");
    let before = bench.digest.clone();
    let told = bench.turn();
    assert_eq!(told.len(), 2);
    // Killed before it was stored: the same again, under the same names.
    bench.digest = before;
    bench.restart();
    assert_eq!(bench.turn(), told);
    // Killed after it was stored, and the events are read again from the beginning.
    bench.restart();
    let seq = std::mem::take(&mut bench.seq);
    assert!(!bench.fails("d0"));
    bench.seq = seq;
    bench.happens(in_rollout(7, "d1"));
    let told = only(bench.pass(60 * MINUTE));
    assert_eq!(
        (told.kind, told.n_devices),
        (Kind::Digest, 2),
        "firmware and a lost device"
    );
    bench.restart();
    assert_eq!(bench.pass(24 * 60 * MINUTE), []);
}

#[test]
fn only_what_was_asked_for_is_told() {
    let everything = |bench: &mut Bench| {
        bench.happens(news(1, How::Finished, 50, &[]));
        bench.happens(news(2, How::Finished, 50, &["d1"]));
        bench.happens(news(3, How::Halted, 50, &["d2"]));
        bench.fails("d3");
        bench.offered("d4", "aa");
        bench.offline("d5");
        bench.pass(60 * MINUTE)
    };
    let told = |about: About| kinds(&everything(&mut Bench::about(&[about])));
    assert_eq!(told(About::Finished), [Kind::Finished, Kind::Finished]);
    assert_eq!(told(About::Failed), [Kind::Finished, Kind::Halted, Kind::Failed]);
    assert_eq!(told(About::Halted), [Kind::Halted]);
    assert_eq!(told(About::Firmware), [Kind::Firmware]);
    assert_eq!(told(About::Lost), [Kind::Lost]);
}

#[test]
fn what_is_kept_stays_bounded() {
    let mut bench = Bench::about(&[About::Failed, About::Firmware, About::Finished, About::Halted]);
    for n in 0..2000 {
        bench.fails(&format!("x{n}"));
        bench.happens(news(n, How::Halted, 50, &["d1"]));
    }
    let len = serde_json::to_string(&bench.digest).unwrap().len();
    assert!(len < 200_000, "{len} bytes");
    let told = bench.turn();
    assert!(
        told.iter()
            .all(|message| message.json().to_string().len() < 20_000)
    );
}

#[test]
fn an_event_that_means_nothing_here_needs_no_storing() {
    let mut bench = Bench::new();
    assert!(!bench.happens(What::Else));
    assert!(bench.happens(What::GoesOn(1)) && !bench.happens(What::GoesOn(1)));
    assert!(!bench.happens(in_rollout(1, "d1")));
    assert!(!bench.happens(What::Online {
        device: "d1".to_owned()
    }));
    assert_eq!((bench.digest.cursor(), bench.digest.next()), (5, None));
}
