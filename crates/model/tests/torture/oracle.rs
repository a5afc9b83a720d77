//! What must hold, judged from the logs of the devices, the clock, what the owners said, and the journal as it is at the end.
//!
//! It asks neither the fleet nor a job machine. Of the invariants of RELIABILITY.md section 4:
//! I1, I2, I4, I5, I6, I7, I8, I10, I12 and I13, and that canaries go first and a halt holds.
//! Not here, because there is nothing of it at this layer: I3 (equal ends with and without a kill: `explore_fleet` and the
//! tests of whole processes), I9 (password answers) and I11 (secrets).

use std::collections::BTreeMap;
use std::time::Duration;

use model::fleet::{Ended, MemberState};
use model::id::RolloutId;
use model::outcome::Ending;
use model::plan::{AtOnce, Member, Plan};

use super::device::{Device, Entry, Img, Kind, Ms, idx_of};
use super::world::{Deed, JobRow, World, image_of};

/// What whole seconds of an uptime, and the time for a look, may make of a moment.
const SLACK: Ms = 3_500;

/// One session at a device, as its log has it.
struct Heard {
    device: usize,
    begun: Ms,
    ended: Ms,
    image: Img,
    /// The job that was open then.
    row: Option<usize>,
}

pub(crate) fn judge(world: &World) -> Vec<String> {
    let mut wrong = world.wrong.clone();
    let heard: Vec<Heard> = world
        .devices
        .iter()
        .flat_map(|device| sessions(world, device, &mut wrong))
        .collect();
    counts(world, &heard, &mut wrong);
    turns(world, &mut wrong);
    for row in &world.store.jobs {
        ends(world, row, &heard, &mut wrong);
    }
    wrong
}

fn member(plan: &Plan, device: usize) -> Option<&Member> {
    plan.members
        .iter()
        .find(|member| idx_of(&member.device) == device)
}

/// An earlier job has brought this image there, and could not prove it: its owner may send it once more (decision 0006).
fn is_in_doubt(world: &World, device: usize, image: Img, at: Ms) -> bool {
    world.store.jobs.iter().any(|row| {
        let was = row.corrected.as_ref().filter(|(corrected, _)| at < *corrected);
        let outcome = was.map(|(_, was)| was).or(row.outcome.as_ref());
        let outcome = outcome.map(|outcome| outcome.ending);
        let is_unproven = matches!(outcome, Some(Ending::Unverified | Ending::Failed)) && row.n_pushes > 0;
        let is_earlier = row.ended.is_some_and(|ended| ended <= at);
        row.device == device && row.image == image && is_unproven && is_earlier
    })
}

fn sessions(world: &World, device: &Device, wrong: &mut Vec<String>) -> Vec<Heard> {
    let mut all: Vec<Heard> = Vec::new();
    let mut runs = 0;
    let mut is_open = false;
    let approved: Vec<Img> = world
        .planned
        .values()
        .filter_map(|plan| Some((member(plan, device.idx)?, plan.rules.put_back)))
        .flat_map(|(member, puts_back)| {
            let way_back = member.way_back.filter(|_| puts_back);
            [Some(member.image), way_back]
        })
        .flatten()
        .map(image_of)
        .collect();
    for &(at, entry) in &device.log {
        let place = || format!("device {} at {}", device.idx, at);
        match entry {
            Entry::Boot(image) => runs = image,
            Entry::Begin(image) => {
                if is_open {
                    wrong.push(format!("I4 one session at a device: {}", place()));
                }
                is_open = true;
                if !approved.contains(&image) {
                    wrong.push(format!("I1 only approved images: {}", place()));
                }
                if runs == image && device.kind != Kind::Sticky && !is_in_doubt(world, device.idx, image, at)
                {
                    wrong.push(format!("I13 nothing is flashed again: {}", place()));
                }
                let of_now = |row: &JobRow| {
                    row.device == device.idx && row.begun <= at && row.ended.is_none_or(|ended| at <= ended)
                };
                let row = world.store.jobs.iter().position(of_now);
                if row.is_none_or(|row| world.store.jobs[row].image != image) {
                    wrong.push(format!("I10 the pinned image, by an open job: {}", place()));
                }
                all.push(Heard {
                    device: device.idx,
                    begun: at,
                    ended: Ms::MAX,
                    image,
                    row,
                });
            }
            Entry::Second => wrong.push(format!("I4 nobody sends while another does: {}", place())),
            Entry::End { .. } => {
                is_open = false;
                if let Some(last) = all.last_mut() {
                    last.ended = at;
                }
            }
            Entry::Look | Entry::Down => {}
        }
    }
    all
}

/// I5 and I8.
fn counts(world: &World, heard: &[Heard], wrong: &mut Vec<String>) {
    for session in heard {
        let Some(rollout) = session.row.map(|row| world.store.jobs[row].rollout) else {
            continue;
        };
        let plan = &world.planned[&rollout];
        let group_of = |session: &Heard| {
            let rollout = world.store.jobs[session.row?].rollout;
            member(&world.planned[&rollout], session.device)?.group.clone()
        };
        let group = group_of(session);
        let (mut n_of_rollout, mut n_of_group) = (0_u32, 0_u32);
        for other in heard {
            if other.begun <= session.begun && session.begun < other.ended {
                let of_rollout = other
                    .row
                    .is_some_and(|row| world.store.jobs[row].rollout == rollout);
                n_of_rollout += u32::from(of_rollout);
                n_of_group += u32::from(group.is_some() && group_of(other) == group);
            }
        }
        let most = match plan.rules.at_once {
            AtOnce::AtMost(n) => n.max(1),
            AtOnce::Auto => u32::MAX,
        };
        if n_of_rollout > most {
            wrong.push(format!(
                "I5 at most {most} at once: {n_of_rollout} at {}",
                session.begun
            ));
        }
        if let Some(group) = group
            && n_of_group > plan.rules.at_once_in(&group)
        {
            wrong.push(format!(
                "I5 at most so many in {group}: {n_of_group} at {}",
                session.begun
            ));
        }
    }
    for device in &world.devices {
        let n_heard = heard
            .iter()
            .filter(|session| session.device == device.idx)
            .count();
        let permitted: usize = world
            .planned
            .values()
            .filter(|plan| member(plan, device.idx).is_some())
            .map(|plan| usize::from(plan.rules.max_pushes.max(1)) + usize::from(plan.rules.put_back))
            .sum();
        if n_heard > permitted {
            wrong.push(format!(
                "I8 at most {permitted} pushes: device {} has {n_heard}",
                device.idx
            ));
        }
    }
    for (number, row) in world.store.jobs.iter().enumerate() {
        let n_heard = heard.iter().filter(|session| session.row == Some(number)).count();
        if n_heard > usize::from(row.n_pushes) {
            wrong.push(format!(
                "I8 each push is counted first: device {} has {n_heard} of {}",
                row.device, row.n_pushes
            ));
        }
        if row.ended.is_none() {
            wrong.push(format!("I2 every job ends: device {}", row.device));
        }
    }
}

/// What the journal says of members that begin and end: I6, I12, canaries first, and halts.
fn turns(world: &World, wrong: &mut Vec<String>) {
    #[derive(Default)]
    struct Memory {
        n_running: u32,
        n_proven: u32,
        /// Of these, whose end was settled late: their place as a canary may have been given to another by then.
        n_late: u32,
        /// Who has failed since its owner let it go on, and whether as a canary.
        failed: BTreeMap<usize, bool>,
        n_deeds: usize,
        held: bool,
        quarantined: Vec<Img>,
    }
    let mut memories: BTreeMap<RolloutId, Memory> = BTreeMap::new();
    for (number, turn) in world.store.turns.iter().enumerate() {
        let plan = &world.planned[&turn.rollout];
        let memory = memories.entry(turn.rollout).or_default();
        while let Some(&(at, id, deed)) = world.deeds.get(memory.n_deeds)
            && at <= number
        {
            memory.n_deeds += 1;
            if id == turn.rollout {
                match deed {
                    Deed::Holds => memory.held = true,
                    Deed::LetsGo => {
                        memory.held = false;
                        memory.failed.clear();
                        memory.quarantined.clear();
                    }
                    Deed::Quarantines(image) => memory.quarantined.push(image),
                }
            }
        }
        let place = || format!("rollout {}, device {} at {}", turn.rollout, turn.device, turn.at);
        match &turn.state {
            MemberState::Running { .. } => {
                let n_members = u32::try_from(plan.members.len()).unwrap();
                if memory.held {
                    wrong.push(format!("I12 nothing begins after a stop: {}", place()));
                }
                let n_canaries = plan.n_canaries;
                let n_places = memory.n_running + memory.n_proven - memory.n_late;
                if memory.n_proven < n_canaries && n_places >= n_canaries {
                    wrong.push(format!("canaries go first: {}", place()));
                }
                let n_failed = u32::try_from(memory.failed.len()).unwrap();
                let too_many = n_failed > 0 && plan.rules.max_failures.is_reached(n_failed, n_members);
                let canary_failed = memory.failed.values().any(|as_canary| *as_canary);
                let image = member(plan, turn.device).map(|member| image_of(member.image));
                if image.is_some_and(|image| memory.quarantined.contains(&image)) {
                    wrong.push(format!("a quarantine holds: {}", place()));
                }
                if too_many || canary_failed && memory.n_proven < n_canaries {
                    wrong.push(format!("a halt holds: {}", place()));
                }
                if let Some(window) = &plan.rules.window {
                    let of_day = turn.wall_ms.rem_euclid(86_400_000) / 1_000;
                    let open_for = (of_day - i64::from(window.start_s)).rem_euclid(86_400);
                    if Duration::from_secs(open_for.unsigned_abs()) >= window.duration {
                        wrong.push(format!("I6 nothing begins outside its window: {}", place()));
                    }
                }
                memory.n_running += 1;
            }
            MemberState::Ended(Ended::Outcome(outcome)) if turn.corrects => {
                memory.n_proven += u32::from(outcome.ending.is_success());
                memory.n_late += u32::from(outcome.ending.is_success());
                if !model::fleet::is_failure(outcome.ending) {
                    memory.failed.remove(&turn.device);
                }
            }
            left => {
                memory.n_running -= 1;
                let ending = match left {
                    MemberState::Ended(Ended::Outcome(outcome)) => Some(outcome.ending),
                    MemberState::PuttingBack { .. } => Some(Ending::Failed),
                    _ => None,
                };
                memory.n_proven += u32::from(ending.is_some_and(Ending::is_success));
                if ending.is_some_and(model::fleet::is_failure) {
                    let as_canary = turn.wave == 0 && plan.n_canaries > 0;
                    memory.failed.insert(turn.device, as_canary);
                }
            }
        }
    }
}

/// I7: what the journal says of a job's end is true.
fn ends(world: &World, row: &JobRow, heard: &[Heard], wrong: &mut Vec<String>) {
    let (Some(ended), Some(outcome)) = (row.ended, &row.outcome) else {
        return;
    };
    let corrected = row.corrected.as_ref().map(|(corrected, _)| *corrected);
    let ended = corrected.unwrap_or(ended);
    let device = &world.devices[row.device];
    let runs_at = |at: Ms| {
        let boots = device.log.iter().take_while(|(when, _)| *when <= at);
        boots
            .filter_map(|(when, entry)| match entry {
                Entry::Boot(image) => Some((*when, *image)),
                _ => None,
            })
            .last()
            .unwrap_or((0, 0))
    };
    let (booted, runs) = runs_at(ended);
    let place = || format!("device {}, {} at {ended}", row.device, outcome.ending.name());
    let own = |session: &&Heard| {
        session.device == row.device && row.begun <= session.begun && session.begun <= ended
    };
    let last = heard.iter().rfind(own);
    let is_sticky = device.kind == Kind::Sticky;
    match outcome.ending {
        Ending::Updated => {
            if runs != row.image {
                wrong.push(format!("I7 updated: it runs the image: {}", place()));
            }
            let rules = &world.planned[&row.rollout].rules;
            let soak = Ms::try_from(rules.soak.min(rules.canary_soak).as_millis()).unwrap();
            // What is settled late was seen once.
            if corrected.is_none() && device.kind == Kind::Esp && booted + soak > ended + SLACK {
                wrong.push(format!("I7 updated: it was stable: {}", place()));
            }
        }
        // After an image of which the label could not tell, this end names the same doubt.
        Ending::AlreadyCurrent
            if !is_sticky && runs != row.image && !outcome.text.contains("has not changed since") =>
        {
            wrong.push(format!("I7 already current: it runs the image: {}", place()));
        }
        Ending::KeptOld | Ending::Cancelled | Ending::RolledBack if last.is_some() => {
            let is_in_doubt = is_in_doubt(world, row.device, row.image, row.begun);
            if runs == row.image && !is_in_doubt {
                wrong.push(format!("I7 it runs the old image: {}", place()));
            }
            let since = last.map_or(0, |session| session.ended);
            let seen = |(at, entry): &(Ms, Entry)| *entry == Entry::Look && since <= *at && *at <= ended;
            if !device.log.iter().any(seen) {
                wrong.push(format!("I7 the old image was seen: {}", place()));
            }
            let next_push = heard
                .iter()
                .filter(|session| {
                    session.device == row.device && session.image == row.image && session.begun > ended
                })
                .map(|session| session.begun)
                .min();
            let comes_later = |(at, entry): &(Ms, Entry)| {
                *entry == Entry::Boot(row.image) && *at > ended && next_push.is_none_or(|next| *at < next)
            };
            if device.log.iter().any(comes_later) && !is_in_doubt {
                wrong.push(format!("I7 the old image stays: {}", place()));
            }
        }
        Ending::Refused if last.is_some() => {
            wrong.push(format!("I7 refused: no byte was sent: {}", place()));
        }
        _ => {}
    }
}
