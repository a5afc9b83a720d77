//! A rollout that takes the place of one that is open: what is running stays with the old one, the rest goes by new rules.

use std::collections::HashMap;

use model::fleet::{Event, MemberState, Rollout, State};
use model::id::{DeviceId, RolloutId, Sha256};
use model::plan::{Reason, Rules};

use super::{RolloutError, Rollouts};
use crate::views::{RolloutKind, WantedRollout};

/// What is taken over of an open rollout.
pub(super) struct TakenOver {
    pub(super) id: RolloutId,
    pub(super) rules: Rules,
    pub(super) kind: RolloutKind,
    /// The devices that have not begun, each with the image that was planned for it.
    pub(super) images: HashMap<DeviceId, Sha256>,
}

impl Rollouts {
    /// What a wish takes over; none where it is a rollout of its own.
    ///
    /// # Errors
    /// There is no such rollout, it is over, all of its devices have begun, or the wish names devices of its own.
    pub(super) async fn taken_over(&self, wanted: &WantedRollout) -> Result<Option<TakenOver>, RolloutError> {
        let Some(id) = wanted.instead_of.map(RolloutId) else {
            return Ok(None);
        };
        if wanted.all || !wanted.devices.is_empty() || !wanted.tags.is_empty() {
            return Err(RolloutError::invalid(
                "A rollout that takes the place of another goes to the devices of that one that have not begun.",
                "Name only those to leave out, or begin another rollout for other devices.",
            ));
        }
        if let Some(taken_over) = self.left_of(id)? {
            return Ok(Some(taken_over));
        }
        let state = self.show(id).await?.summary.state;
        Err(RolloutError::NotNow {
            text: format!("Rollout {id} is {state}: nothing is left of it to be changed."),
        })
    }

    /// What has not begun of a rollout; none where it is not open.
    fn left_of(&self, id: RolloutId) -> Result<Option<TakenOver>, RolloutError> {
        let state = self.state();
        let open = state.model.rollout(id).filter(|rollout| !is_over(rollout));
        let (Some(rollout), Some(about)) = (open, state.about.get(&id)) else {
            return Ok(None);
        };
        let members = rollout.plan().members.iter().zip(rollout.members());
        let images: HashMap<DeviceId, Sha256> = members
            .filter(|(_, standing)| {
                matches!(standing.state, MemberState::Queued | MemberState::Waiting { .. })
            })
            .map(|(member, _)| (member.device.clone(), member.image))
            .collect();
        if images.is_empty() {
            return Err(RolloutError::NotNow {
                text: format!("All devices of rollout {id} have begun: nothing is left of it to be changed."),
            });
        }
        let kind = match about.kind.as_str() {
            kind if kind == RolloutKind::Rollback.name() => RolloutKind::Rollback,
            _ => RolloutKind::Update,
        };
        Ok(Some(TakenOver {
            id,
            rules: rollout.plan().rules.clone(),
            kind,
            images,
        }))
    }
}

fn is_over(rollout: &Rollout) -> bool {
    matches!(rollout.state(), State::Aborted | State::Finished)
}

impl TakenOver {
    /// What its old rollout has to hear: the devices that have not begun are no longer its own.
    pub(super) fn handed_over(&self, successor: RolloutId) -> Vec<Event> {
        let mut devices: Vec<&DeviceId> = self.images.keys().collect();
        devices.sort_unstable_by_key(|device| device.key());
        let reason = Reason::new(
            "changed",
            format!(
                "Rollout {successor} has taken the place of this one; nothing was sent to it by this one."
            ),
            format!("See how it stands there: reflash rollout show {successor}."),
        );
        let handed_over = devices.into_iter().map(|device| Event::Exclude {
            device: device.clone(),
            reason: reason.clone(),
        });
        handed_over.collect()
    }
}
