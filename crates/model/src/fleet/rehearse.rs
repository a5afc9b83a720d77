//! A plan played through in virtual time, by the very rules that carry it out.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Command, Event, Fleet, step};
use crate::id::RolloutId;
use crate::outcome::{Ending, Outcome};
use crate::plan::{Member, Plan};
use crate::time::Now;

/// How long a plan takes if every device that answers is updated at its first try, in the time that was estimated.
pub(crate) fn rehearse(plan: &Plan) -> Duration {
    let begun = Now {
        boot: Duration::ZERO,
        wall_ms: 0,
    };
    let id = RolloutId(0);
    let members: Vec<Member> = plan
        .members
        .iter()
        .filter(|member| !member.was_offline)
        .cloned()
        .collect();
    let estimate_of: std::collections::BTreeMap<_, _> = members
        .iter()
        .map(|member| (member.device.clone(), member.estimate))
        .collect();
    let mut fleet = Fleet::default();
    let mut now = begun;
    let mut running = BTreeSet::new();
    let mut event = Event::Add(
        id,
        Plan {
            members,
            // A window says when it begins, and not how long it takes.
            rules: crate::plan::Rules {
                window: None,
                ..plan.rules.clone()
            },
            ..plan.clone()
        },
    );
    loop {
        for command in step(&mut fleet, event, now) {
            if let Command::Start { device, .. } = command {
                let estimate = estimate_of.get(&device).copied().unwrap_or_default();
                let soak = fleet
                    .rollout(id)
                    .map_or(Duration::ZERO, |rollout| rollout.soak_of(&device));
                running.insert((now.boot.saturating_add(estimate).saturating_add(soak), device));
            }
        }
        let Some((ends, device)) = running.pop_first() else {
            return now.since(begun);
        };
        now = begun.later(ends);
        event = Event::Ended {
            id,
            device,
            outcome: Outcome::plain(Ending::Updated, ""),
            n_pushes: 1,
        };
    }
}
