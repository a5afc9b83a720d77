use std::time::Duration;

use model::id::DeviceId;
pub use store::LeaseError;
use store::{LeaseGrant, process_is_alive};

use crate::Engine;

/// How often a lease is renewed (RELIABILITY.md section 5, 5).
pub(crate) const RENEW_EVERY: Duration = Duration::from_secs(10);

/// The right to work on one device (rule 3). It ends with [`Engine::release`], or when its holder dies.
#[derive(Debug)]
pub struct Lease {
    pub(crate) device: DeviceId,
    pub(crate) epoch: i64,
    /// How long the device must be left alone first: its former holder may have died in the middle of a push (rule 5).
    pub quiet: bool,
}

impl Engine {
    /// Takes the lease of a device that the store knows.
    pub async fn lease(&self, device: &DeviceId) -> Result<Lease, LeaseError> {
        let grant = self
            .store
            .acquire_lease(device, &self.holder, self.clock.now().wall_ms, process_is_alive)
            .await?;
        let quiet = !matches!(grant, LeaseGrant::Fresh { .. });
        Ok(Lease {
            device: device.clone(),
            epoch: grant.epoch(),
            quiet,
        })
    }

    /// Gives the lease back.
    pub async fn release(&self, lease: Lease) {
        if let Err(error) = self.store.release_lease(&lease.device, lease.epoch).await {
            // It is then free as soon as this process has ended.
            tracing::warn!(%error, device = %lease.device, "the lease could not be given back");
        }
    }

    pub(crate) async fn renew(&self, lease: &Lease) -> Result<(), LeaseError> {
        self.store
            .renew_lease(&lease.device, lease.epoch, self.clock.now().wall_ms)
            .await
    }
}
