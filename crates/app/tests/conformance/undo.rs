//! Putting back: by whoever comes next, and as often as it takes.

use model::family::Undo;
use model::image::Image;

use crate::bench::Bench;
use crate::entries::{self, Wish};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn putting_back_twice_is_as_once_also_by_another_driver() {
    for entry in entries::all() {
        let simulated = (entry.start)(Wish::ToBePutBack).await;
        let bench = Bench::new(&entry, &*simulated).await;
        let standing = simulated.standing();
        let before = bench.enroll().await;
        let driver = || async {
            let notes = bench.notes(&before.id).await;
            bench.driver(entry.password, notes, bench.answers(&before.id))
        };
        let undo = bench.family.undo(&before);
        driver().await.prepare(undo.as_ref()).await.unwrap();
        let changed = simulated.standing() != standing;
        assert_eq!(
            changed,
            undo.is_some(),
            "{}: {undo:?}, {}",
            entry.name,
            simulated.standing()
        );
        // What is stored has to be read again, as after a crash.
        let stored = serde_json::to_string(&undo).unwrap();
        let undo: Option<Undo> = serde_json::from_str(&stored).unwrap();
        let undo = undo.unwrap_or_else(|| Undo {
            text: String::new(),
            value: serde_json::Value::Null,
        });
        for n_times in 1..=2 {
            driver().await.undo(&undo).await.unwrap();
            assert_eq!(simulated.standing(), standing, "{}: {n_times}", entry.name);
        }
        let mut same = driver().await;
        for n_times in 3..=4 {
            same.undo(&undo).await.unwrap();
            assert_eq!(simulated.standing(), standing, "{}: {n_times}", entry.name);
        }
        assert_eq!(simulated.n_pushes(), 0, "{}", entry.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_changed_for_a_push_is_put_back_after_it() {
    for entry in entries::all() {
        let simulated = (entry.start)(Wish::ToBePutBack).await;
        let bench = Bench::new(&entry, &*simulated).await;
        let standing = simulated.standing();
        let image: &Image = &(entry.images)()[0];
        let job = bench.push(image, entry.password).await;
        assert!(simulated.runs(image), "{}: {:?}", entry.name, job.outcome());
        assert_eq!(simulated.standing(), standing, "{}", entry.name);
        assert_eq!(job.undo, None, "{}", entry.name);
    }
}
