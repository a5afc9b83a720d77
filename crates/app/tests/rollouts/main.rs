//! Rollouts by the real server as a process of its own, over simulated devices on loopback, asked through its socket.
//!
//! What a device got is told by its simulator's log; what the server says of it is held against that.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../support/mod.rs"]
mod support;

mod absent;
mod again;
mod halts;
mod home;
mod kills;
mod limits;
mod notify;
#[path = "../../../server/tests/notify/receiver.rs"]
mod receiver;
mod steering;

use std::pin::Pin;

use tokio::task::JoinSet;

/// Something that must hold, and how that is found out.
pub(crate) struct Claim {
    what: String,
    test: Pin<Box<dyn Future<Output = ()> + Send>>,
}

pub(crate) fn claim(what: &str, test: impl Future<Output = ()> + Send + 'static) -> Claim {
    Claim {
        what: what.to_owned(),
        test: Box::pin(test),
    }
}

/// Claims that mostly wait, side by side: one after the other they would take minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rollout_outlives_kills_failures_and_absence() {
    let mut claims = kills::moments();
    claims.extend([
        claim(
            "killed while it settles, it pushes nothing before it has looked",
            kills::killed_while_it_settles(),
        ),
        claim(
            "killed in every push, it pushes twice and no more",
            kills::killed_in_every_push(),
        ),
        claim(
            "a canary that says an error twice halts the rest",
            halts::by_an_error_after_the_upload(),
        ),
        claim(
            "a device that is off is left out, missed, or updated when it is back",
            absent::off(),
        ),
    ]);
    let (mut all, mut named) = (JoinSet::new(), std::collections::HashMap::new());
    for Claim { what, test } in claims {
        named.insert(all.spawn(test).id(), what);
    }
    let mut failed = Vec::new();
    while let Some(done) = all.join_next().await {
        // What it says of itself is printed where it fails.
        if let Err(error) = done {
            failed.push(named[&error.id()].clone());
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
