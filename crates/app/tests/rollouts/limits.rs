//! How many at the same time, and what is done where nothing can be kept.

use serde_json::json;
use sim::EventKind;

use crate::home::Home;

/// A page of the database with its head in the journal, bytes (SQLite, "WAL File Format").
const PAGE_LEN: u64 = 4096 + 24;

/// When each device got an image: from its first byte until it was back.
fn busy_times(home: &Home, idxs: impl Iterator<Item = usize>) -> Vec<(f64, f64)> {
    let log = home.events.log();
    let mut times = Vec::new();
    for idx in idxs {
        let key = home.key(idx);
        let at = |kind| {
            let mut events = log.iter().filter(|event| event.is(kind, &key));
            events.next_back().unwrap().t
        };
        times.push((at(EventKind::Receiving), at(EventKind::Up)));
    }
    times
}

/// The most that overlap anywhere.
fn n_at_once(times: &[(f64, f64)]) -> usize {
    let at = |moment: f64| {
        times
            .iter()
            .filter(|(from, to)| *from <= moment && moment < *to)
            .count()
    };
    times.iter().map(|(from, _)| at(*from)).max().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn never_more_at_once_than_the_wish_and_the_group_allow() {
    let home = Home::with(6, |plan| plan.groups = vec!["west"; 3]).await;
    home.firmware(Some("1.1"), 1);
    let id = home.roll_out(&json!({ "canary": 0, "at_once": "2" }));
    let finished = home.until_state(id, "finished").await;
    home.check(&finished, &["updated"; 6]);
    assert_eq!(n_at_once(&busy_times(&home, 0..6)), 2, "{}", home.log());
    assert_eq!(n_at_once(&busy_times(&home, 0..3)), 1, "{}", home.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_group_one_gets_its_image_at_a_time_whatever_else_is_allowed() {
    let home = Home::with(2, |plan| plan.groups = vec!["west"; 2]).await;
    home.firmware(Some("1.1"), 1);
    let of = |idx: usize| json!({ "devices": [home.key(idx)], "canary": 0, "at_once": "8" });
    // Also over two rollouts.
    for id in [home.roll_out(&of(0)), home.roll_out(&of(1))] {
        let finished = home.until_state(id, "finished").await;
        assert_eq!(finished["ok"], true, "{finished:#}");
    }
    assert_eq!(n_at_once(&busy_times(&home, 0..2)), 1, "{}", home.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_cannot_be_stored_is_not_begun_wherever_the_disk_is_full() {
    let mut home = Home::quick(2).await;
    home.firmware(Some("1.1"), 1);
    let wanted = json!({ "all": true });
    home.kill();
    let before = home.copy();
    let mut n_refused = 0;
    let id = loop {
        home.start().await;
        for idx in 0..2 {
            home.until_device(idx, "online", |device| device["state"] == "online")
                .await;
        }
        // A little more room each time: each write that belongs to it is once the first that fails.
        home.limit_files(Some(home.journal_len() + n_refused * PAGE_LEN));
        let answer = home.post("rollouts", &wanted);
        // What cannot be written down in the audit is told as a failure that names what was done.
        let detail = answer.body["detail"].as_str().unwrap_or_default();
        let begun = answer.status == 201 || detail.contains("answered with 201");
        assert!(
            begun || answer.status == 503 || detail.contains("answered with 503"),
            "{answer:#?}"
        );
        // Who could not write does not try again: the journal may be lost (RELIABILITY.md F74).
        home.kill();
        home.start().await;
        let rollouts = home.get("rollouts");
        if begun {
            assert_eq!(rollouts[0]["n_devices"], 2, "{rollouts:#}");
            break rollouts[0]["id"].as_i64().unwrap();
        }
        assert_eq!(
            rollouts,
            json!([]),
            "with room for {n_refused} pages: {:#}",
            answer.body
        );
        home.kill();
        home.restore(&before);
        n_refused += 1;
        assert!(n_refused < 50, "{:#}\n{}", answer.body, home.told());
    };
    assert!(n_refused > 0, "the disk was never full");
    // What was answered is kept, and goes on.
    let finished = home.until_state(id, "finished").await;
    home.check(&finished, &["updated"; 2]);
    for idx in 0..2 {
        assert_eq!(home.n_pushes(idx), 1, "{}", home.log());
    }
}
