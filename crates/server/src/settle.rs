//! What an earlier process left behind: its unfinished jobs are looked at, and what it changed is put back.
//!
//! Runs once after the start, before anything is scheduled (RELIABILITY.md section 5, 24).

use std::net::IpAddr;
use std::sync::Arc;

use engine::{Engine, Lease, Report, Start, Stop, Work};
use model::chain::chain;
use model::device::{Device, Hardware};
use model::family::{Driver, Family, Notes, Target};
use model::id::DeviceId;
use model::precheck::Permits;
use model::version::Versions;
use serde_json::json;
use store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::fleet::Fleet;

/// Settles everything that was left. Whatever cannot be settled now stays as it is, and the next command for its device does it.
pub(crate) async fn settle(store: Arc<Store>, engine: Engine, fleet: Fleet, cancel: CancellationToken) {
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
    let Some((family, address)) = fleet.way_to(device) else {
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
    let result = settle_leased(store, engine, fleet, &lease, &*family, device, address).await;
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
    fleet: &Fleet,
    lease: &Lease,
    family: &dyn Family,
    device: &DeviceId,
    address: IpAddr,
) -> Result<Option<model::outcome::Outcome>, Failure> {
    let mut outcome = None;
    if let Some(open) = store.open_job(device).await? {
        let image = store
            .image(open.image, "")
            .await?
            .ok_or("the image of the interrupted update is not here any more")?;
        let work = Work {
            family,
            driver: driver(store, engine, fleet, family, device, address).await?,
            device: Device {
                id: device.clone(),
                address,
                hardware: Hardware::default(),
                slot_bytes: None,
                versions: Versions::default(),
            },
            image: &image,
            refusals: &[],
            permits: &Permits::default(),
            report: &|_: Report<'_>| {},
            stop: watch::channel(Stop::No).1,
        };
        let finished = engine.run(lease, work, Start::Resume(open)).await?;
        outcome = finished.job.outcome().cloned();
    }
    if let Some(undo) = store.pending_undo(device).await? {
        let mut driver = driver(store, engine, fleet, family, device, address).await?;
        driver.undo(&undo).await.map_err(|fault| fault.text)?;
        store.clear_undo(device, lease.epoch()).await?;
        tracing::info!(undo = undo.text, "put back");
    }
    Ok(outcome)
}

async fn driver(
    store: &Store,
    engine: &Engine,
    fleet: &Fleet,
    family: &dyn Family,
    device: &DeviceId,
    address: IpAddr,
) -> Result<Box<dyn Driver>, store::StoreError> {
    let notes = store
        .device(device)
        .await?
        .map_or_else(Notes::default, |row| row.notes);
    let (username, given_as) = fleet.login(device);
    Ok(family.open(Target {
        address,
        given_as: given_as.unwrap_or_else(|| address.to_string()),
        username,
        secret: fleet.secret(device),
        chip: None,
        notes,
        answers: engine.answers(device),
    }))
}
