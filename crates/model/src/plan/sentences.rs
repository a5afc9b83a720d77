//! A plan, read aloud.

use super::Plan;

pub(super) fn of(plan: &Plan) -> Vec<String> {
    vec![format!("{} devices are updated.", plan.members.len())]
}
