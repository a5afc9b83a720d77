//! Why something was not done with an image.

use model::firmware::State;
use store::{ImageError, InventoryError, StoreError};

/// Why something was not done with an image. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// There is no such image.
    #[error("there is no image {what}")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// A path that does not lie in the watch folder.
    #[error("{path} is not a file of the firmware folder")]
    Outside {
        /// The path.
        path: String,
    },
    /// It is needed.
    #[error("{name} is kept: {reason}")]
    InUse {
        /// The image's name.
        name: String,
        /// A device, or a job, and what for.
        reason: String,
    },
    /// Its file lies in the watch folder and would bring it back.
    #[error("{name} would come back at once: its file {file_name} lies in the firmware folder")]
    InFolder {
        /// The image's name.
        name: String,
        /// The file.
        file_name: String,
    },
    /// Approval does not help it.
    #[error("{name} is {} and cannot be approved", state.name())]
    NotApprovable {
        /// The image's name.
        name: String,
        /// How it stands.
        state: State,
    },
    /// It cannot be what the device runs.
    #[error("{name} cannot be what the device runs: {reason}")]
    NotRunning {
        /// The image's name.
        name: String,
        /// Why not.
        reason: String,
    },
    /// The device is not known.
    #[error("storing what the device runs")]
    Device(#[source] InventoryError),
    /// Its file could not be read or written.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RepositoryError {
    /// What to do about it, in one sentence.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "Look at the list of images for its name or its digest.",
            Self::Outside { .. } => "Name the image by its version, its file name or its digest.",
            Self::InUse { .. } => "Update these devices to other images first, or leave it.",
            Self::InFolder { .. } => "Take the file out of the folder first.",
            Self::NotApprovable {
                state: State::Blocked,
                ..
            } => {
                "Compare both files with the vendor's; if this one is right, remove it here and upload it yourself."
            }
            Self::NotApprovable { .. } => "See the reasons why it is refused.",
            Self::NotRunning { .. } => "Look up which file the device was flashed with.",
            Self::Device(_) => "Add the device first.",
            Self::Image(ImageError::Full { .. }) => {
                "Make room on the disk of the state folder, and try again."
            }
            Self::Image(ImageError::Corrupt { .. }) => "Add the file again.",
            Self::Image(_) | Self::Store(_) => "See the server's log.",
        }
    }
}
