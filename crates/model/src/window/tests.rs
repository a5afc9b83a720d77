use std::collections::BTreeSet;

use jiff::civil::{DateTime, date};

use super::*;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Zones of all kinds: changes at midnight, of half an hour, before midnight, the other half of the year, twice a year for a
/// fast, and zones that have changed their rules or given them up since 2020.
const ZONES: [&str; 26] = [
    "Europe/Vilnius",
    "Europe/London",
    "Europe/Dublin",
    "Europe/Lisbon",
    "Europe/Chisinau",
    "Europe/Volgograd",
    "America/New_York",
    "America/St_Johns",
    "America/Havana",
    "America/Santiago",
    "America/Asuncion",
    "America/Nuuk",
    "America/Scoresbysund",
    "America/Mexico_City",
    "America/Los_Angeles",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Africa/Juba",
    "Asia/Almaty",
    "Asia/Amman",
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Tehran",
    "Antarctica/Troll",
    "Australia/Lord_Howe",
    "Pacific/Auckland",
];

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn window(start: &str, duration: Duration) -> Window {
    let (hours, minutes) = start.split_once(':').unwrap();
    Window {
        name: "night".to_owned(),
        start_s: hours.parse::<u32>().unwrap() * 3_600 + minutes.parse::<u32>().unwrap() * 60,
        duration,
        days: ALL_DAYS,
        timezone: None,
    }
}

fn only(mut window: Window, days: &[Weekday]) -> Window {
    window.days = days.iter().map(|&day| day_bit(day)).fold(0, |all, day| all | day);
    window
}

fn utc(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_millisecond()
}

#[track_caller]
fn check_opens(window: &Window, zone: &TimeZone, after: &str, opens: &str, closes: &str) {
    let opens_ms = window.next_opening(zone, utc(after)).unwrap();
    assert_eq!(opens_ms, utc(opens), "it opens");
    assert_eq!(window.open_at(zone, opens_ms - 1), None, "not a moment sooner");
    assert_eq!(window.open_at(zone, opens_ms), Some(utc(closes)), "it closes");
    assert_eq!(window.open_at(zone, utc(closes) - 1), Some(utc(closes)));
    assert_eq!(window.open_at(zone, utc(closes)), None, "closed is closed");
    assert_eq!(window.next_closing(zone, utc(after)), Some(utc(closes)));
    assert_eq!(window.next_closing(zone, opens_ms), Some(utc(closes)));
}

#[test]
fn in_vilnius_a_window_opens_by_the_clock_on_the_wall() {
    let vilnius = zone("Europe/Vilnius");
    let night = window("02:00", Duration::from_hours(3));
    let check = |after, opens, closes| check_opens(&night, &vilnius, after, opens, closes);
    // Two hours before UTC in winter, three in summer.
    check(
        "2026-01-10T12:00:00Z",
        "2026-01-11T00:00:00Z",
        "2026-01-11T03:00:00Z",
    );
    check(
        "2026-07-10T12:00:00Z",
        "2026-07-10T23:00:00Z",
        "2026-07-11T02:00:00Z",
    );
    // 29 March 2026: 03:00 becomes 04:00. Open from 02:00 for three hours: until 06:00 on the wall.
    check(
        "2026-03-28T12:00:00Z",
        "2026-03-29T00:00:00Z",
        "2026-03-29T03:00:00Z",
    );
    // 25 October 2026: 04:00 becomes 03:00. Open from 02:00 for three hours: until 04:00 on the wall.
    check(
        "2026-10-24T12:00:00Z",
        "2026-10-24T23:00:00Z",
        "2026-10-25T02:00:00Z",
    );
}

#[test]
fn a_start_that_the_clock_leaps_over_is_the_end_of_the_leap() {
    let vilnius = zone("Europe/Vilnius");
    for start in ["03:00", "03:01", "03:30", "03:59", "04:00"] {
        check_opens(
            &window(start, Duration::from_hours(1)),
            &vilnius,
            "2026-03-28T12:00:00Z",
            "2026-03-29T01:00:00Z",
            "2026-03-29T02:00:00Z",
        );
    }
    let late = window("03:30", Duration::from_hours(1));
    let next = late.next_opening(&vilnius, utc("2026-03-29T01:00:00Z")).unwrap();
    assert_eq!(next, utc("2026-03-30T00:30:00Z"), "and the day after as always");
}

#[test]
fn a_start_that_the_clock_shows_twice_is_the_first_of_them() {
    let vilnius = zone("Europe/Vilnius");
    let night = window("03:30", Duration::from_mins(20));
    check_opens(
        &night,
        &vilnius,
        "2026-10-24T12:00:00Z",
        "2026-10-25T00:30:00Z",
        "2026-10-25T00:50:00Z",
    );
    let again = utc("2026-10-25T01:30:00Z");
    assert_eq!(night.open_at(&vilnius, again), None, "03:30 for the second time");
    assert_eq!(
        night.next_opening(&vilnius, utc("2026-10-25T00:30:00Z")),
        Some(utc("2026-10-26T01:30:00Z"))
    );
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_of_its_opening() {
    let vilnius = zone("Europe/Vilnius");
    // 6 November 2026 is a Friday.
    let weekend = only(window("23:00", Duration::from_hours(4)), &[Weekday::Friday]);
    check_opens(
        &weekend,
        &vilnius,
        "2026-11-01T00:00:00Z",
        "2026-11-06T21:00:00Z",
        "2026-11-07T01:00:00Z",
    );
    assert_eq!(
        weekend.next_opening(&vilnius, utc("2026-11-06T21:00:00Z")),
        Some(utc("2026-11-13T21:00:00Z"))
    );
    let two = only(
        window("02:00", Duration::from_hours(3)),
        &[Weekday::Saturday, Weekday::Monday],
    );
    let mut at = utc("2026-11-06T12:00:00Z");
    let mut opened = Vec::new();
    for _ in 0..3 {
        at = two.next_opening(&vilnius, at).unwrap();
        opened.push(at);
    }
    let expected = [
        "2026-11-07T00:00:00Z",
        "2026-11-09T00:00:00Z",
        "2026-11-14T00:00:00Z",
    ];
    assert_eq!(opened, expected.map(utc));
}

#[test]
fn a_window_of_a_whole_day_is_open_at_every_moment_of_a_long_day_but_one_hour() {
    let vilnius = zone("Europe/Vilnius");
    let day = window("00:00", Duration::from_hours(24));
    assert!(day.open_at(&vilnius, utc("2026-07-10T20:59:59Z")).is_some());
    // 25 October has 25 hours, and a window has never more than 24.
    assert_eq!(day.open_at(&vilnius, utc("2026-10-25T21:30:00Z")), None);
    // 29 March has 23: the next opens before the last closes, and it closes last.
    assert_eq!(
        day.open_at(&vilnius, utc("2026-03-29T21:30:00Z")),
        Some(utc("2026-03-30T21:00:00Z"))
    );
}

#[test]
fn a_day_that_a_calendar_has_left_out_has_no_opening() {
    // Samoa went from the 29th to the 31st of December 2011, which was a Saturday.
    let apia = zone("Pacific/Apia");
    let friday = only(window("02:00", Duration::from_hours(1)), &[Weekday::Friday]);
    let next = friday.next_opening(&apia, utc("2011-12-25T00:00:00Z")).unwrap();
    assert_eq!(
        apia.to_datetime(Timestamp::from_millisecond(next).unwrap()),
        date(2012, 1, 6).at(2, 0, 0, 0)
    );
}

#[test]
fn a_zone_that_changes_its_rules_is_followed() {
    // Almaty went from +06 to +05 on 1 March 2024 and stays there; Mexico has had no summer time since 2022.
    let night = window("02:00", Duration::from_hours(1));
    let almaty = zone("Asia/Almaty");
    let opens = |zone: &TimeZone, after| night.next_opening(zone, utc(after)).unwrap();
    assert_eq!(
        opens(&almaty, "2024-02-27T00:00:00Z"),
        utc("2024-02-27T20:00:00Z")
    );
    assert_eq!(
        opens(&almaty, "2024-03-02T00:00:00Z"),
        utc("2024-03-02T21:00:00Z")
    );
    let mexico = zone("America/Mexico_City");
    assert_eq!(
        opens(&mexico, "2022-07-01T00:00:00Z"),
        utc("2022-07-01T07:00:00Z")
    );
    assert_eq!(
        opens(&mexico, "2023-07-01T00:00:00Z"),
        utc("2023-07-01T08:00:00Z")
    );
}

#[test]
fn a_window_without_days_never_opens() {
    let never = only(window("02:00", Duration::from_hours(1)), &[]);
    let vilnius = zone("Europe/Vilnius");
    assert_eq!(never.next_opening(&vilnius, 0), None);
    assert_eq!(never.open_at(&vilnius, 0), None);
    assert_eq!(never.next_closing(&vilnius, 0), None);
}

#[test]
fn at_the_ends_of_time_there_is_no_opening_and_no_panic() {
    let night = window("02:00", Duration::from_hours(24));
    for at_ms in [i64::MIN, i64::MAX, -377_705_116_800_000, 253_402_207_200_000] {
        let _ = night.open_at(&zone("Europe/Vilnius"), at_ms);
        let _ = night.next_opening(&zone("Europe/Vilnius"), at_ms);
    }
    assert_eq!(night.next_opening(&TimeZone::UTC, i64::MAX), None);
}

/// Every fifth minute around a change of the clock, and for each the latest time that the clock has shown so far.
///
/// The moment at which the clock first shows a time, or a later one, is where that becomes true: nothing here knows of
/// offsets, gaps or folds.
struct Minutes {
    from_ms: i64,
    shown: Vec<DateTime>,
    latest: Vec<DateTime>,
}

impl Minutes {
    fn around(zone: &TimeZone, change_ms: i64) -> Self {
        let from_ms = change_ms - 3 * DAY_MS;
        let shown: Vec<DateTime> = (0..6 * 24 * 12)
            .map(|fifth| {
                let moment = Timestamp::from_millisecond(from_ms + fifth * 300_000).unwrap();
                zone.to_datetime(moment)
            })
            .collect();
        let latest = shown.iter().scan(DateTime::MIN, |latest, &shown| {
            *latest = (*latest).max(shown);
            Some(*latest)
        });
        Self {
            latest: latest.collect(),
            from_ms,
            shown,
        }
    }

    fn first_at(&self, wanted: DateTime) -> i64 {
        let fifth = self.latest.partition_point(|latest| *latest < wanted);
        self.from_ms + i64::try_from(fifth).unwrap() * 300_000
    }
}

/// RELIABILITY.md F84, G6.
#[test]
fn over_all_changes_of_many_zones_a_window_opens_once_a_day_and_for_its_whole_duration() {
    let from = utc("2020-01-01T00:00:00Z");
    let until = Timestamp::from_millisecond(utc("2038-01-01T00:00:00Z")).unwrap();
    let mut n_changes = 0;
    let mut n_openings = 0;
    for name in ZONES {
        let zone = zone(name);
        let changes = zone.following(Timestamp::from_millisecond(from).unwrap());
        let changes: Vec<i64> = changes
            .map(|change| change.timestamp())
            .take_while(|change| *change < until)
            .map(Timestamp::as_millisecond)
            .collect();
        for change_ms in changes {
            n_changes += 1;
            let minutes = Minutes::around(&zone, change_ms);
            let dates: BTreeSet<Date> = minutes.shown.iter().map(|shown| shown.date()).collect();
            // The first and the last are not there as a whole.
            let dates: Vec<Date> = dates.iter().copied().skip(1).take(dates.len() - 2).collect();
            for number in 0..31 {
                let start = format!(
                    "{}:{}",
                    (number * 45 + number % 3 * 5) / 60,
                    (number * 45 + number % 3 * 5) % 60
                );
                let window = window(&start, Duration::from_mins(170));
                let time = time_of_day(window.start_s).unwrap();
                let mut at = minutes.first_at(dates[0].at(0, 0, 0, 0)) - 1;
                for date in &dates {
                    let expected = minutes.first_at(DateTime::from_parts(*date, time));
                    at = window.next_opening(&zone, at).unwrap();
                    assert_eq!(at, expected, "{name}: {start} on {date}, change at {change_ms}");
                    let closes = window.open_at(&zone, at);
                    assert_eq!(closes, Some(at + 170 * 60_000), "{name}: {start} on {date}");
                    n_openings += 1;
                }
            }
        }
    }
    assert!(n_changes > 600, "{n_changes}");
    assert!(n_openings > 100_000, "{n_openings}");
}
