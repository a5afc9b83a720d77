//! When the windows of open rollouts open and close, told to the model as it needs them.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::fleet::{Event, Fleet as Model, Opening};
use model::id::RolloutId;
use model::time::Now;
use model::window::{Window, day_bit};

use super::clock::Verdict;
use crate::config;
use crate::views::{OpeningView, RefusalView};

/// A moment that has moved by less on the clock since boot is the same: clocks are put right by a little all the time.
const SAME: Duration = Duration::from_secs(1);

/// The windows of the configuration, as plans keep them.
pub(crate) fn configured(windows: &BTreeMap<String, config::Window>) -> BTreeMap<String, Window> {
    let windows = windows.iter().map(|(name, window)| {
        let part = |value: i8| u32::from(value.unsigned_abs());
        let start = window.start;
        let kept = Window {
            name: name.clone(),
            start_s: part(start.hour()) * 3_600 + part(start.minute()) * 60 + part(start.second()),
            duration: window.duration,
            days: window.days.iter().fold(0, |days, &day| days | day_bit(day)),
            timezone: window.timezone.clone().or_else(local_name),
        };
        (name.clone(), kept)
    });
    windows.collect()
}

/// What this machine's zone is called.
fn local_name() -> Option<String> {
    TimeZone::system().iana_name().map(str::to_owned)
}

/// The zone of this name, or this machine's; none for a name that the zones of this machine do not have any more.
pub(super) fn zone(name: Option<&str>) -> Option<TimeZone> {
    match name {
        Some(name) => TimeZone::get(name).ok(),
        None => Some(TimeZone::system()),
    }
}

/// A moment by the clock of a zone, as RFC 9557 writes it: `2026-11-23T02:00:00+02:00[Europe/Vilnius]`.
pub(super) fn local(zone: &TimeZone, at_ms: i64) -> Option<String> {
    let moment = Timestamp::from_millisecond(at_ms).ok()?;
    Some(moment.to_zoned(zone.clone()).to_string())
}

/// A moment by the clock of a zone, for people: `02:00 on Monday, 23 November`.
pub(super) fn spoken(zone: &TimeZone, at_ms: i64) -> Option<String> {
    let moment = Timestamp::from_millisecond(at_ms).ok()?.to_zoned(zone.clone());
    Some(moment.strftime("%H:%M on %A, %-d %B").to_string())
}

/// When a window is open, as it is shown.
pub(super) fn opening_view(zone: &TimeZone, until_ms: Option<i64>, next_ms: Option<i64>) -> OpeningView {
    OpeningView {
        open_until_ms: until_ms,
        open_until_local: until_ms.and_then(|at_ms| local(zone, at_ms)),
        next_ms,
        next_local: next_ms.and_then(|at_ms| local(zone, at_ms)),
    }
}

/// When a window opens, as one would write it.
pub(super) fn start(window: &Window) -> String {
    let text = format!("{:02}:{:02}", window.start_s / 3_600, window.start_s / 60 % 60);
    match window.start_s % 60 {
        0 => text,
        seconds => format!("{text}:{seconds:02}"),
    }
}

/// On which days a window opens, as one would write them.
pub(super) fn days(window: &Window) -> Vec<String> {
    let days = (0..7).zip(config::DAYS);
    days.filter(|(bit, _)| window.days & (1 << bit) != 0)
        .map(|(_, day)| day.to_owned())
        .collect()
}

/// Why no window of a zone opens.
pub(super) fn trouble(timezone: Option<&str>, verdict: Verdict) -> Option<RefusalView> {
    let trouble = |text: String, next_step: &str| RefusalView {
        rule: "clock".to_owned(),
        text,
        next_step: next_step.to_owned(),
    };
    match verdict {
        Verdict::Early => Some(trouble(
            "The server's clock shows a time that has passed, so no window opens and no schedule runs."
                .to_owned(),
            "Set the clock, or let a time server set it.",
        )),
        Verdict::Jumped => Some(trouble(
            "The server's clock was set a moment ago; windows are worked out anew.".to_owned(),
            "Wait ten seconds.",
        )),
        Verdict::Sane if zone(timezone).is_none() => Some(trouble(
            format!(
                "The zone {} is not known on the server's machine.",
                timezone.unwrap_or("of this machine")
            ),
            "Install the time zones there (tzdata), or name another zone.",
        )),
        Verdict::Sane => None,
    }
}

/// How a window stands by the clock on the wall.
fn opening(window: &Window, now: Now, verdict: Verdict) -> Opening {
    let zone = zone(window.timezone.as_deref());
    let Some(zone) = zone.filter(|_| verdict == Verdict::Sane) else {
        return Opening::default();
    };
    let moment = |at_ms: i64| {
        let left_ms = u64::try_from(at_ms.saturating_sub(now.wall_ms)).unwrap_or(0);
        Now {
            boot: now.boot.saturating_add(Duration::from_millis(left_ms)),
            wall_ms: at_ms,
        }
    };
    Opening {
        until: window.open_at(&zone, now.wall_ms).map(moment),
        next: window.next_opening(&zone, now.wall_ms).map(moment),
    }
}

/// What has to be told of windows: those that stand otherwise than the model knows.
pub(super) fn turns(model: &Model, now: Now, verdict: Verdict) -> Vec<Event> {
    let mut turns = Vec::new();
    for (id, rollout) in model.rollouts() {
        let Some(window) = rollout
            .plan()
            .rules
            .window
            .as_ref()
            .filter(|_| !rollout.is_over())
        else {
            continue;
        };
        let (knows, is) = (rollout.opening(), opening(window, now, verdict));
        if !is_same(knows.until, is.until) || !is_same(knows.next, is.next) {
            turns.push(turn(id, is));
        }
    }
    turns
}

fn turn(id: RolloutId, Opening { until, next }: Opening) -> Event {
    Event::Window {
        id,
        open_until: until,
        next,
    }
}

fn is_same(one: Option<Now>, other: Option<Now>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => one.wall_ms == other.wall_ms && one.boot.abs_diff(other.boot) <= SAME,
        _ => false,
    }
}

/// Whether any rollout waits for a window, so that the clocks have to be looked at now and then.
pub(super) fn matter(model: &Model) -> bool {
    let mut rollouts = model.rollouts();
    rollouts.any(|(_, rollout)| rollout.plan().rules.window.is_some() && !rollout.is_over())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use model::fleet::{Command, State, step};
    use model::id::{DeviceId, FamilyId, Sha256};
    use model::plan::{Member, Plan, Rules};

    use super::*;

    const ID: RolloutId = RolloutId(1);

    fn at(boot_s: u64, wall: &str) -> Now {
        Now {
            boot: Duration::from_secs(boot_s),
            wall_ms: wall.parse::<Timestamp>().unwrap().as_millisecond(),
        }
    }

    fn night() -> Window {
        let text = "windows: { night: { start: \"02:00\", duration: 3h, days: [mon, sun], timezone: Europe/Vilnius } }\n";
        let config = config::parse(text, config::Sources::beside(std::path::Path::new("/"))).unwrap();
        configured(&config.windows).remove("night").unwrap()
    }

    fn fleet(window: Option<Window>, now: Now) -> Model {
        let member = Member {
            device: DeviceId::from_hardware(&FamilyId::new("f"), "a"),
            name: "Hall".to_owned(),
            runs: "1".to_owned(),
            image: Sha256::of(b"new"),
            image_name: "2".to_owned(),
            len_bytes: 1,
            methods: Vec::new(),
            estimate: Duration::from_mins(1),
            wave: 0,
            group: None,
            was_offline: false,
            way_back: None,
            interrupts: None,
            notes: Vec::new(),
        };
        let plan = Plan {
            members: vec![member],
            left_out: Vec::new(),
            n_waves: 1,
            n_canaries: 0,
            rules: Rules {
                window,
                ..Rules::default()
            },
        };
        let mut model = Model::default();
        step(&mut model, Event::Add(ID, plan), now);
        model
    }

    /// Tells the model what there is to tell; whether a job begins.
    fn begins(model: &mut Model, now: Now, verdict: Verdict) -> bool {
        let commands = turns(model, now, verdict)
            .into_iter()
            .flat_map(|turn| step(model, turn, now))
            .collect::<Vec<_>>();
        commands
            .iter()
            .any(|command| matches!(command, Command::Start { .. }))
    }

    #[test]
    fn a_window_of_the_configuration_is_kept_as_it_is_written() {
        let night = night();
        assert_eq!((night.start_s, night.days), (7_200, 0b100_0001));
        assert_eq!(
            night.words(),
            "02:00 on Monday and Sunday (Europe/Vilnius) for 3 hours"
        );
    }

    #[test]
    fn a_rollout_begins_when_its_window_opens_and_not_before() {
        // Sunday, 29 March 2026, is the day on which the clocks leap; 02:00 is midnight UTC.
        let saturday = at(1_000, "2026-03-28T23:59:59Z");
        let mut model = fleet(Some(night()), saturday);
        assert!(!begins(&mut model, saturday, Verdict::Sane));
        let rollout = model.rollout(ID).unwrap();
        assert_eq!(rollout.state(), State::Scheduled);
        assert_eq!(rollout.opening().next, Some(at(1_001, "2026-03-29T00:00:00Z")));
        assert!(turns(&model, saturday, Verdict::Sane).is_empty(), "told once");
        let sunday = at(1_001, "2026-03-29T00:00:00Z");
        assert!(begins(&mut model, sunday, Verdict::Sane));
        let until = model.rollout(ID).unwrap().opening().until;
        assert_eq!(until, Some(at(1_001 + 3 * 3_600, "2026-03-29T03:00:00Z")));
    }

    /// RELIABILITY.md F83.
    #[test]
    fn while_the_clock_cannot_be_believed_no_window_is_open() {
        let open = at(1_000, "2026-03-29T01:00:00Z");
        let mut model = fleet(Some(night()), open);
        for verdict in [Verdict::Jumped, Verdict::Early] {
            assert!(!begins(&mut model, open, verdict));
            assert_eq!(model.rollout(ID).unwrap().state(), State::Scheduled);
        }
        assert!(begins(&mut model, open, Verdict::Sane));
        // What was told before no longer holds once the clock is set.
        let mut model = fleet(Some(night()), open);
        step(
            &mut model,
            Event::Standing {
                device: DeviceId::from_hardware(&FamilyId::new("f"), "a"),
                online: false,
            },
            open,
        );
        assert!(!begins(&mut model, open, Verdict::Sane));
        assert!(model.rollout(ID).unwrap().is_open(open));
        assert!(!begins(&mut model, open, Verdict::Jumped));
        assert!(!model.rollout(ID).unwrap().is_open(open));
    }

    #[test]
    fn a_clock_that_is_put_right_moves_the_opening() {
        let before = at(1_000, "2026-03-28T23:00:00Z");
        let mut model = fleet(Some(night()), before);
        begins(&mut model, before, Verdict::Sane);
        assert!(turns(&model, at(1_600, "2026-03-28T23:10:00Z"), Verdict::Sane).is_empty());
        let late = at(1_600, "2026-03-28T23:10:30Z");
        assert_eq!(
            turns(&model, late, Verdict::Sane).len(),
            1,
            "half a minute sooner"
        );
    }

    #[test]
    fn a_rollout_without_a_window_is_told_nothing() {
        let now = at(1_000, "2026-03-29T01:00:00Z");
        let model = fleet(None, now);
        assert!(turns(&model, now, Verdict::Sane).is_empty());
        assert!(!matter(&model));
        assert!(matter(&fleet(Some(night()), now)));
    }

    #[test]
    fn a_zone_that_is_not_there_any_more_keeps_the_window_closed() {
        let open = at(1_000, "2026-03-29T01:00:00Z");
        let nowhere = Window {
            timezone: Some("Nowhere/Atlantis".to_owned()),
            ..night()
        };
        assert!(!begins(&mut fleet(Some(nowhere), open), open, Verdict::Sane));
    }

    fn device() -> DeviceId {
        DeviceId::from_hardware(&FamilyId::new("f"), "a")
    }

    fn comes_back(model: &mut Model, now: Now) -> bool {
        let event = Event::Standing {
            device: device(),
            online: true,
        };
        let commands = step(model, event, now);
        commands
            .iter()
            .any(|command| matches!(command, Command::Start { .. }))
    }

    /// RELIABILITY.md F85: the clock since boot goes on while the machine sleeps, and so does the window.
    #[test]
    fn a_window_that_closed_while_the_machine_slept_is_closed_before_anybody_has_told() {
        // Long after this program was built; the calendar is that of 2026.
        let open = at(1_000, "2037-03-29T00:00:00Z");
        let away = |model: &mut Model| {
            let event = Event::Standing {
                device: device(),
                online: false,
            };
            step(model, event, open);
        };
        for (hours, wakes, is_open) in [
            (2, "2037-03-29T02:00:00Z", true),
            (4, "2037-03-29T04:00:00Z", false),
        ] {
            let mut watch = super::super::clock::Watch::new(0);
            let mut model = fleet(Some(night()), open);
            away(&mut model);
            watch.look(open);
            assert!(!begins(&mut model, open, Verdict::Sane), "nobody is there");
            let woken = at(1_000 + hours * 3_600, wakes);
            let verdict = watch.look(woken);
            assert_eq!(verdict, Verdict::Sane, "both clocks went on: nothing was set");
            assert_eq!(model.rollout(ID).unwrap().is_open(woken), is_open, "{wakes}");
            assert_eq!(comes_back(&mut model, woken), is_open, "{wakes}");
            assert!(!begins(&mut model, woken, verdict), "{wakes}");
            assert_eq!(
                model.rollout(ID).unwrap().opening().next,
                Some(at(1_000 + 23 * 3_600, "2037-03-29T23:00:00Z")),
                "summer has begun meanwhile"
            );
        }
    }

    /// RELIABILITY.md F84: the zone of a window is told by its name, so that a move of the machine does not move it, and rules
    /// of a country that change come with the zones of the machine.
    #[test]
    fn moments_are_told_by_the_clock_of_the_window() {
        let zone = TimeZone::get("Europe/Vilnius").unwrap();
        let leap = at(0, "2026-03-29T00:59:59Z").wall_ms;
        assert_eq!(
            local(&zone, leap).unwrap(),
            "2026-03-29T02:59:59+02:00[Europe/Vilnius]"
        );
        assert_eq!(
            local(&zone, leap + 1_000).unwrap(),
            "2026-03-29T04:00:00+03:00[Europe/Vilnius]"
        );
        assert_eq!(spoken(&zone, leap + 1_000).unwrap(), "04:00 on Sunday, 29 March");
        assert_eq!(start(&night()), "02:00");
        assert_eq!(days(&night()), ["mon", "sun"]);
    }
}
