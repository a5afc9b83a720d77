//! The JSON of notifications.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What came of a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NotifyTestView {
    /// The test message's id, by which its receivers know it.
    pub id: String,
    /// Whether everybody took it.
    pub ok: bool,
    /// Everybody who is told.
    pub receivers: Vec<ReceiverTestView>,
}

/// What came of a test at one receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiverTestView {
    /// `webhook` or `mqtt`.
    pub receiver: String,
    /// Where it is: scheme, host and port of the web hook, or the topic at the broker.
    pub place: String,
    /// Whether it took the message.
    pub ok: bool,
    /// What it answered, or why it did not, in a sentence.
    pub text: String,
}
