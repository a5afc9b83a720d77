//! Rollouts by the real server as a process of its own, over simulated devices on loopback, asked through its socket.
//!
//! What a device got is told by its simulator's log; what the server says of it is held against that.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../support/mod.rs"]
mod support;

mod absent;
mod after;
mod again;
mod broker;
mod discovery;
mod halts;
mod hands;
mod home;
mod kills;
mod limits;
mod notify;
mod parent;
mod pull;
#[path = "../../../server/tests/notify/receiver.rs"]
mod receiver;
mod steering;
mod undisturbed;
mod windows;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rollout_puts_back_what_keeps_restarting_and_knows_what_comes_back_late() {
    all(vec![
        claim(
            "one that keeps restarting is put back, and the rest is halted",
            after::one_that_keeps_restarting(),
        ),
        claim(
            "killed while it puts back, it does so once",
            after::killed_while_it_is_put_back(),
        ),
        claim(
            "where there is no way back, that is said before and after",
            after::without_a_way_back(),
        ),
        claim(
            "an image that fails on three devices goes to no other until it is approved",
            after::an_image_that_fails_on_three(),
        ),
        claim(
            "one that comes back an hour later is settled",
            after::one_that_comes_back_an_hour_later(),
        ),
        claim(
            "a label that tells nothing settles nothing",
            after::one_that_comes_back_as_it_was(),
        ),
        claim(
            "a member is settled with its job",
            after::a_rollout_whose_canary_comes_back_late(),
        ),
        claim(
            "what its owner has said of a device is not overruled",
            after::one_whose_owner_has_said_what_it_runs(),
        ),
    ])
    .await;
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
            "told by the broker, a device fetches its image once and is proven",
            pull::told_by_the_broker(),
        ),
        claim(
            "killed before a device that fetched its image has answered, it commands nothing more",
            pull::killed_before_the_answer(),
        ),
        claim(
            "killed after a command, it looks before it commands again",
            pull::killed_after_the_command(),
        ),
        claim(
            "a device that says no is not offered the image again",
            pull::rejected(),
        ),
        claim(
            "a device that is off is left out, missed, or updated when it is back",
            absent::off(),
        ),
    ]);
    all(claims).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn home_assistant_owns_a_server_and_knows_nothing_of_devices() {
    all(vec![
        claim(
            "a parent takes over from another, and the last one's push is finished",
            parent::two_parents_one_after_the_other(),
        ),
        claim(
            "without another parent it ends with its standard input",
            parent::a_parent_that_never_attached(),
        ),
        claim(
            "a block that is handed over is applied, kept and taken back",
            parent::a_block_that_is_handed_over(),
        ),
        claim(
            "a device tells all that an entity shows",
            parent::a_device_as_an_entity_sees_it(),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn home_assistant_finds_devices_at_the_broker() {
    all(vec![
        claim(
            "a device is announced, installed by a command, and offline with the server",
            discovery::from_the_offer_to_the_end(),
        ),
        claim(
            "killed in mid-push, nothing is in progress for ever",
            discovery::never_in_progress_for_ever(),
        ),
        claim(
            "nothing is announced or obeyed unless it is switched on",
            discovery::off_by_default(),
        ),
        claim(
            "what an entry shows is never announced",
            discovery::a_device_that_an_entry_shows(),
        ),
        claim(
            "forged and retained commands do nothing",
            discovery::forged_commands(),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rollout_shares_its_devices_with_other_processes_and_answers_twice() {
    all(vec![
        claim(
            "a job that was taken over ends as the device shows, once it is released",
            hands::taken_over_in_mid_push(),
        ),
        claim(
            "what was left is waited for, though nobody wants it any more",
            hands::left_and_in_other_hands(),
        ),
        claim(
            "the lease is renewed while a device is watched",
            hands::renewed_while_it_is_watched(),
        ),
        claim(
            "a request that is sent again after a kill is answered with what it made",
            hands::asked_again_after_a_kill(),
        ),
    ])
    .await;
}

async fn all(claims: Vec<Claim>) {
    let (mut tasks, mut named) = (JoinSet::new(), std::collections::HashMap::new());
    for Claim { what, test } in claims {
        named.insert(tasks.spawn(test).id(), what);
    }
    let mut failed = Vec::new();
    while let Some(done) = tasks.join_next().await {
        // What it says of itself is printed where it fails.
        if let Err(error) = done {
            failed.push(named[&error.id()].clone());
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
