//! The server is killed or told to end in the middle, started again, and goes on by itself.

use std::pin::pin;
use std::time::Duration;

use serde_json::{Value, json};
use sim::EventKind;
use tokio::time::{Instant, sleep};

use crate::home::{Home, PATIENCE, prompt_mac};
use crate::{Claim, claim};

/// Who goes first, and who follows.
const CANARY: usize = 0;
const LATER: usize = 1;
/// How often a device's counters are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// When the server is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    /// As soon as the answer to the wish was read.
    Answered,
    /// Once the device was asked who it is.
    Asked(usize),
    /// At the invitation.
    Invited(usize),
    /// In the middle of the image.
    Cut(usize),
    /// At the last byte, before the device has said OK.
    Received(usize),
    /// While the device restarts.
    Rebooting(usize),
    /// While it is watched.
    Soaking(usize),
    /// Once its update has ended.
    Ended(usize),
}

impl Moment {
    async fn await_at(self, home: &Home, id: i64, asked: [u64; 2]) {
        match self {
            Self::Answered => {}
            Self::Asked(idx) => until_asked(home, idx, asked[idx]).await,
            Self::Invited(idx) => drop(home.wait(idx, 0, EventKind::Invited).await),
            Self::Cut(idx) => {
                home.until(id, "in the middle", |rollout| {
                    home.member(rollout, idx)["percent"].as_u64() >= Some(20)
                })
                .await;
                assert_eq!(home.devices[idx].counters().received, 0, "{self:?} came too late");
            }
            Self::Received(idx) => drop(home.wait(idx, 0, EventKind::Received).await),
            Self::Rebooting(idx) => drop(home.wait(idx, 0, EventKind::Rebooting).await),
            Self::Soaking(idx) => drop(home.until_member(id, idx, "soaking").await),
            Self::Ended(idx) => drop(home.until_member(id, idx, "updated").await),
        }
    }

    /// How many pushes of a device there may be.
    fn pushes(self, idx: usize) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Cut(cut) if cut == idx => 2..=2,
            // The first byte may have come before the kill.
            Self::Invited(invited) if invited == idx => 1..=2,
            // So may that of the one that follows.
            Self::Ended(ended) if ended != idx => 1..=2,
            _ => 1..=1,
        }
    }
}

async fn until_asked(home: &Home, idx: usize, n_before: u64) {
    let deadline = Instant::now() + PATIENCE;
    while home.devices[idx].counters().http_requests <= n_before {
        assert!(Instant::now() < deadline, "nobody asks: {}", home.log());
        sleep(LOOK_EVERY).await;
    }
}

fn asked(home: &Home) -> [u64; 2] {
    [CANARY, LATER].map(|idx| home.devices[idx].counters().http_requests)
}

async fn two_devices() -> Home {
    Home::with(2, |plan| {
        plan.device.mac = Some(prompt_mac(2));
        // Long enough to be met: an image takes 1.3 s.
        plan.device.rate_bytes_per_s = Some(100_000);
        plan.device.boot = Duration::from_secs(1);
    })
    .await
}

/// Waits for the end after a start, and says how often each device was asked before it was pushed to, if it was.
async fn finish(home: &Home, id: i64, since: usize, n_before: [u64; 2]) -> (Value, [Option<u64>; 2]) {
    let mut looks = [None; 2];
    let mut finished = pin!(home.until_state(id, "finished"));
    let mut canary = pin!(home.wait(CANARY, since, EventKind::Receiving));
    let mut later = pin!(home.wait(LATER, since, EventKind::Receiving));
    let n_asked = |idx: usize| Some(asked(home)[idx] - n_before[idx]);
    loop {
        // What waits is polled again or not needed any more.
        tokio::select! {
            biased;
            _ = &mut canary, if looks[CANARY].is_none() => looks[CANARY] = n_asked(CANARY),
            _ = &mut later, if looks[LATER].is_none() => looks[LATER] = n_asked(LATER),
            finished = &mut finished => return (finished, looks),
        }
    }
}

/// Both devices run the image, by one push each but for those that were cut, and after a look.
async fn ends_right(
    home: &Home,
    id: i64,
    what: &str,
    pushes: [std::ops::RangeInclusive<usize>; 2],
    since: usize,
    n_before: [u64; 2],
) {
    let new = home.rollout(id)["members"][0]["sha256"]
        .as_str()
        .unwrap()
        .to_owned();
    let (finished, looks) = finish(home, id, since, n_before).await;
    let what = format!("{what}: {finished:#}\n{}", home.log());
    home.check(&finished, &["updated", "updated"]);
    assert_eq!(finished["ok"], true, "{what}");
    for (idx, allowed) in pushes.into_iter().enumerate() {
        let n_pushes = home.n_pushes(idx);
        assert!(
            allowed.contains(&n_pushes),
            "device {idx} got {n_pushes} pushes; {what}"
        );
        assert!(
            looks[idx] != Some(0),
            "device {idx} was pushed to without a look; {what}"
        );
        assert!(home.runs(idx, &new), "device {idx}; {what}");
        assert_eq!(home.devices[idx].counters().flashed, 1, "device {idx}; {what}");
    }
}

/// Killed at a moment and started again, the rollout goes on by itself and ends as if nothing had been.
async fn killed(moment: Moment) {
    let mut home = two_devices().await;
    home.firmware(Some("1.1"), 1);
    let before = asked(&home);
    let id = home.roll_out(&json!({ "soak_s": 3, "canary_soak_s": 3 }));
    moment.await_at(&home, id, before).await;
    home.kill();
    let (since, before) = (home.events.mark(), asked(&home));
    home.start().await;
    let pushes = [CANARY, LATER].map(|idx| moment.pushes(idx));
    ends_right(&home, id, &format!("{moment:?}"), pushes, since, before).await;
}

/// Killed again while it finds out what became of the first.
pub(crate) async fn killed_while_it_settles() {
    let mut home = two_devices().await;
    home.firmware(Some("1.1"), 1);
    let id = home.roll_out(&json!({}));
    Moment::Received(CANARY).await_at(&home, id, [0; 2]).await;
    home.kill();
    for _ in 0..2 {
        let before = asked(&home);
        home.start().await;
        until_asked(&home, CANARY, before[CANARY] + 1).await;
        home.kill();
        assert_eq!(
            home.n_pushes(CANARY),
            1,
            "it pushed before it had looked: {}",
            home.log()
        );
    }
    let (since, before) = (home.events.mark(), asked(&home));
    home.start().await;
    ends_right(&home, id, "twice more", [1..=1, 1..=1], since, before).await;
}

/// A server that dies in every push does not push for ever (RELIABILITY.md F65).
pub(crate) async fn killed_in_every_push() {
    let mut home = two_devices().await;
    home.firmware(Some("1.1"), 1);
    let id = home.roll_out(&json!({}));
    for n_pushes in 1..=2 {
        home.until(id, "in the middle", |rollout| {
            home.member(rollout, CANARY)["percent"].as_u64() >= Some(20)
        })
        .await;
        assert_eq!(home.n_pushes(CANARY), n_pushes, "{}", home.log());
        home.kill();
        if n_pushes == 2 {
            // Somebody pulls the plug: then nobody need wait for a restart that might still come.
            let mark = home.events.mark();
            home.devices[CANARY].power_cycle();
            home.wait(CANARY, mark, EventKind::Up).await;
        }
        home.start().await;
    }
    let halted = home.until_state(id, "halted").await;
    let member = home.member(&halted, CANARY);
    // It has restarted after bytes had come, and its label has never moved: nobody knows (DESIGN.md, "Outcomes").
    assert_eq!(
        (&member["state"], &member["n_pushes"]),
        (&json!("unverified"), &json!(2)),
        "{halted:#}"
    );
    assert_eq!(home.n_pushes(CANARY), 2, "{}", home.log());
    assert_eq!(home.devices[CANARY].counters().flashed, 0);
    home.is_untouched(LATER);
}

/// Kills at every moment there is.
pub(crate) fn moments() -> Vec<Claim> {
    let of_both = [CANARY, LATER].into_iter().flat_map(|idx| {
        [
            Moment::Asked,
            Moment::Invited,
            Moment::Cut,
            Moment::Received,
            Moment::Rebooting,
            Moment::Soaking,
        ]
        .map(|moment| moment(idx))
    });
    let all = of_both.chain([Moment::Answered, Moment::Ended(CANARY)]);
    all.map(|moment| {
        claim(
            &format!("killed at {moment:?}, started again, it goes on by itself"),
            killed(moment),
        )
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn told_to_end_in_mid_upload_it_ends_after_the_push_and_the_next_start_goes_on() {
    let mut home = two_devices().await;
    home.firmware(Some("1.1"), 1);
    let id = home.roll_out(&json!({}));
    Moment::Cut(CANARY).await_at(&home, id, [0; 2]).await;
    home.terminate().await;
    let counters = home.devices[CANARY].counters();
    assert_eq!(
        (counters.received, counters.flashed, home.n_pushes(CANARY)),
        (1, 1, 1),
        "the push was not let to its end: {}",
        home.log()
    );
    home.is_untouched(LATER);
    let (since, before) = (home.events.mark(), asked(&home));
    home.start().await;
    ends_right(&home, id, "after SIGTERM", [1..=1, 1..=1], since, before).await;
}
