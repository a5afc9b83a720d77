//! What a family wants remembered of a device, from one driver to the next.

use std::sync::Arc;

use engine::NoAnswers;
use model::family::Notes;
use tokio::task::JoinSet;

use crate::bench::Bench;
use crate::entries::{self, Wish};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_driver_behaves_by_what_an_earlier_one_has_learned() {
    let mut all = JoinSet::new();
    for entry in entries::all() {
        all.spawn((entry.remembers)());
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notes_are_given_back_as_they_were_taken() {
    for entry in entries::all() {
        let simulated = (entry.start)(Wish::Good).await;
        let bench = Bench::new(&entry, &*simulated).await;
        bench.push(&(entry.images)()[0], entry.password).await;
        let id = bench.enroll().await.id;
        let notes = bench.notes(&id).await;
        let text = serde_json::to_string(&notes).unwrap();
        assert!(!text.contains(entry.password), "{}: {text}", entry.name);
        let read: Notes = serde_json::from_str(&text).unwrap();
        let driver = bench.driver(entry.password, read, Arc::new(NoAnswers));
        assert_eq!(driver.notes(), notes, "{}", entry.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notes_that_make_no_sense_are_as_none() {
    for entry in entries::all() {
        let simulated = (entry.start)(Wish::Good).await;
        let bench = Bench::new(&entry, &*simulated).await;
        let of_none = bench
            .driver(entry.password, Notes::default(), Arc::new(NoAnswers))
            .notes();
        for nonsense in [
            serde_json::json!(7),
            serde_json::json!("espota"),
            serde_json::json!({ "serial": 7, "form": [], "pace": "warp" }),
        ] {
            let driver = bench.driver(entry.password, Notes(nonsense), Arc::new(NoAnswers));
            assert_eq!(driver.notes(), of_none, "{}", entry.name);
        }
    }
}
