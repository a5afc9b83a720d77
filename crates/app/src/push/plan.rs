//! What a push would do, without doing it.

use std::sync::Arc;
use std::time::Duration;

use model::device::Snapshot;
use model::family::{Family, Method};
use model::image::ImageInfo;
use model::installed::{Installed, Standing};
use model::precheck::{Precheck, precheck};

use super::{Bench, News, Pushed, Request, device_of, method_of, storing};
use crate::error::{Exit, Trouble};

/// What a dry run found.
pub(crate) struct Plan {
    pub(crate) info: ImageInfo,
    pub(crate) family: Arc<dyn Family>,
    pub(crate) snapshot: Snapshot,
    pub(crate) precheck: Precheck,
    pub(crate) method: Method,
    pub(crate) takes: Duration,
    pub(crate) record: Option<Installed>,
}

impl Bench {
    /// Looks at device and image and says what a push would do; changes nothing. The inner error is a refusal.
    pub(crate) async fn plan(
        &self,
        request: &Request,
        news: &(dyn Fn(News<'_>) + Send + Sync),
    ) -> Result<Result<Plan, Box<Pushed>>, Trouble> {
        let known = match self.identify(request, news).await? {
            Ok(known) => known,
            Err(refused) => return Ok(Err(refused)),
        };
        let Some(snapshot) = known.snapshot else {
            return Err(Trouble::new(
                Exit::Failed,
                "An earlier push to this device was interrupted and is not settled yet.",
                "Push without --dry-run: it looks first what became of it.",
            ));
        };
        let record = self.store.installed(&known.id).await.map_err(|e| storing(&e))?;
        let device = device_of(request, &known.id, &snapshot);
        let precheck = precheck(
            &*known.family,
            &device,
            &snapshot,
            (&request.image, &known.info, &known.refusals),
            record.as_ref(),
            &request.permits,
        );
        let method = method_of(&*known.family, &device, request)?;
        let timing = known.family.timing(&device, request.image.len_bytes());
        let takes = timing.push + Duration::from_secs(15) + request.soak;
        Ok(Ok(Plan {
            info: known.info,
            family: known.family,
            snapshot,
            precheck,
            method,
            takes,
            record,
        }))
    }
}

impl Plan {
    /// What the shell is told of it.
    pub(crate) fn exit(&self) -> Exit {
        if !self.precheck.refusals.is_empty() {
            Exit::Failed
        } else if self.precheck.standing == Standing::AlreadyCurrent {
            Exit::Nothing
        } else {
            Exit::Done
        }
    }
}
