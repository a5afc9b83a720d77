//! What an earlier process left behind: its unfinished jobs are looked at, and what it changed is put back.
//!
//! Runs once after the start, before anything is scheduled (RELIABILITY.md section 5, 24).

use std::sync::Arc;

use engine::{Engine, Lease, PutBack, Report, Stop, Watcher, Way};
use model::chain::chain;
use model::id::DeviceId;
use model::precheck::Permits;
use serde_json::json;
use store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::fleet::Fleet;
use crate::rollout::Rollouts;

/// Settles everything that was left. Whatever cannot be settled now stays as it is, and the next command for its device does it.
pub(crate) async fn settle(
    store: Arc<Store>,
    engine: Engine,
    fleet: Fleet,
    rollouts: Rollouts,
    cancel: CancellationToken,
) {
    let left = match left_behind(&store).await {
        Ok(left) => left,
        Err(error) => {
            tracing::error!(
                error = chain(&error),
                "what an earlier process left could not be read"
            );
            return;
        }
    };
    for device in left {
        // Its rollout looks after it, and is told.
        if rollouts.works_on(&device) {
            continue;
        }
        let span = tracing::info_span!("settle", %device);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = settle_one(&store, &engine, &fleet, &device).instrument(span) => {}
        }
    }
}

/// The devices with an unfinished job, or with something to put back.
async fn left_behind(store: &Store) -> Result<Vec<DeviceId>, store::StoreError> {
    let mut left = store.devices_with_open_jobs().await?;
    for undo in store.pending_undos().await? {
        if !left.contains(&undo.device) {
            left.push(undo.device);
        }
    }
    Ok(left)
}

async fn settle_one(store: &Store, engine: &Engine, fleet: &Fleet, device: &DeviceId) {
    let Some(way) = fleet.way_to(device) else {
        tracing::warn!("the address of the device is not known; nothing is settled yet");
        return;
    };
    // A process that is alive has the device in hand itself.
    let lease = match engine.lease(device).await {
        Ok(lease) => lease,
        Err(error) => {
            tracing::info!(error = chain(&error), "somebody else works on the device");
            return;
        }
    };
    let result = settle_leased(store, engine, &lease, &way).await;
    engine.release(lease).await;
    match result {
        Ok(Some(outcome)) => {
            tracing::info!(outcome = outcome.text, "an interrupted update is settled");
            let detail =
                json!({ "device": device.key(), "outcome": outcome.ending.name(), "text": outcome.text });
            fleet.announce("job.settled", &detail).await;
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(error = chain(&*error), "an interrupted update is not settled yet"),
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn settle_leased(
    store: &Store,
    engine: &Engine,
    lease: &Lease,
    way: &Way,
) -> Result<Option<model::outcome::Outcome>, Failure> {
    let mut outcome = None;
    if let Some(open) = store.open_job(&way.device.id).await? {
        let image = engine
            .image_of(&open, None)
            .await
            .ok_or("the image of the interrupted update is not here any more")?;
        let watcher = Watcher {
            report: &|_: Report<'_>| {},
            stop: watch::channel(Stop::No).1,
        };
        let finished = engine
            .settle(lease, way, (open, &image), &Permits::default(), watcher)
            .await?;
        outcome = finished.job.outcome().cloned();
    }
    match engine.put_back(lease, way).await? {
        PutBack::Done(undo) => tracing::info!(undo = undo.text, "put back"),
        PutBack::Still(undo) => return Err(format!("still to be put back: {}", undo.text).into()),
        PutBack::Nothing => {}
    }
    Ok(outcome)
}
