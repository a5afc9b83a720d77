//! Why a rollout could not be planned or steered.

use crate::firmware::RepositoryError;
use crate::fleet::FleetError;

/// Why a rollout could not be planned or steered.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// A device that was named is not there, or means several.
    #[error(transparent)]
    Device(#[from] FleetError),
    /// The firmware that was named is not there.
    #[error(transparent)]
    Firmware(#[from] RepositoryError),
    /// There is no such rollout, or no such device in it.
    #[error("{text}")]
    NotFound {
        /// What, in a sentence.
        text: String,
    },
    /// The wish makes no sense.
    #[error("{text}")]
    Invalid {
        /// What, in a sentence.
        text: String,
        /// What to do about it.
        next_step: String,
    },
    /// No device would be updated.
    #[error("{text}")]
    Nothing {
        /// Why, in a sentence.
        text: String,
    },
    /// It is not in a state in which that can be done.
    #[error("{text}")]
    NotNow {
        /// Why, in a sentence.
        text: String,
    },
    /// It could not be stored.
    #[error("it could not be stored: {0}")]
    Store(String),
}

impl RolloutError {
    pub(super) fn store(error: &dyn std::error::Error) -> Self {
        let text = model::chain::chain(error);
        // Whoever asked is only told that it is so: which file it was is for whoever owns the server.
        tracing::error!(error = text, "the store could not be used for rollouts");
        Self::Store(text)
    }

    pub(super) fn invalid(text: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self::Invalid {
            text: text.into(),
            next_step: next_step.into(),
        }
    }
}
