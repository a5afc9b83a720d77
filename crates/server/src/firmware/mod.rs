//! The firmware repository; this file is replaced by the real one.
use crate::views::{FirmwareView, OfferView};

/// The repository.
#[derive(Clone, Debug)]
pub struct Repository;

impl Repository {
    /// One image.
    pub fn get(&self, _digest: &model::id::Sha256) -> Option<FirmwareView> {
        None
    }

    /// The newest for a device.
    pub fn latest_for(
        &self,
        _device: &model::device::Device,
        _family: &dyn model::family::Family,
        _installed: Option<&model::installed::Installed>,
    ) -> Option<OfferView> {
        None
    }
}
