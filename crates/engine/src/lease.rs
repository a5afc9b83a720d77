use std::time::Duration;

use model::id::DeviceId;
pub use store::LeaseError;
use store::process_is_alive;

use crate::Engine;

/// How often a lease is renewed (RELIABILITY.md section 5, 5).
pub(crate) const RENEW_EVERY: Duration = Duration::from_secs(10);

/// The right to work on one device (rule 3). It ends with [`Engine::release`], or when its holder dies.
#[derive(Debug)]
pub struct Lease {
    pub(crate) device: DeviceId,
    pub(crate) epoch: i64,
}

impl Lease {
    /// Its number: whatever is written under an older one is refused (rule 7).
    pub fn epoch(&self) -> i64 {
        self.epoch
    }
}

impl Engine {
    /// Takes the lease of a device that the store knows.
    pub async fn lease(&self, device: &DeviceId) -> Result<Lease, LeaseError> {
        let grant = self
            .store
            .acquire_lease(device, &self.holder, self.clock.now(), process_is_alive)
            .await?;
        Ok(Lease {
            device: device.clone(),
            epoch: grant.epoch(),
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
            .renew_lease(&lease.device, lease.epoch, self.clock.now())
            .await
    }
}
