use std::sync::Arc;

use crate::pull::PullSite;
use crate::{Callback, Dialer};

/// What every family needs of this machine; cloning shares it.
#[derive(Clone)]
pub struct Site {
    /// The way out.
    pub dialer: Arc<Dialer>,
    /// The door for devices that connect to us; none where nothing is pushed.
    pub callback: Option<Arc<Callback>>,
    /// The broker, and the door for devices that fetch their image; none where there is no broker.
    pub pull: Option<Arc<PullSite>>,
}
