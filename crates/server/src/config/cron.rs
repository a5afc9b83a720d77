//! Cron lines: minute, hour, day of the month, month, day of the week, each `*`, a number, a range, a list, with steps.

use std::ops::RangeInclusive;

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use model::window::moment_of;

use super::error::quoted;
use super::read::Reason;

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// So many days ahead are looked through: the 29th of February comes after eight years at the latest.
const DAYS_AHEAD: i64 = 9 * 366;

/// When something is due by a clock on a wall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    /// Bit 0 is Sunday.
    weekdays: u64,
    /// Whether days of the month, and of the week, are left open. Where neither is, one of the two is enough, as ever.
    any_day: bool,
    any_weekday: bool,
}

/// A moment at which something is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// The moment, milliseconds since 1970.
    pub(crate) at_ms: i64,
    /// Date and minute as they were written, as `2026-10-25T02:15`: each comes once.
    pub(crate) local: String,
}

impl Cron {
    /// Reads a line.
    pub(crate) fn parse(text: &str) -> Result<Self, Reason> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(format!(
                "a cron line has five parts, and this has {}",
                fields.len()
            ));
        };
        let mut cron = Self {
            minutes: field("minute", minute, 0..=59, &[], 0)?,
            hours: field("hour", hour, 0..=23, &[], 0)?,
            days: field("day of the month", day, 1..=31, &[], 0)?,
            months: field("month", month, 1..=12, &MONTHS, 1)?,
            weekdays: field("day of the week", weekday, 0..=7, &DAYS, 0)?,
            any_day: day.starts_with('*'),
            any_weekday: weekday.starts_with('*'),
        };
        // Sunday has two numbers.
        if has(cron.weekdays, 7) {
            cron.weekdays |= 1;
        }
        Ok(cron)
    }

    /// What is due next after this moment; none where that never comes, as on the 30th of February.
    ///
    /// A minute that the clock leaps over is due at the end of the leap, one that it shows twice at the first time.
    pub(crate) fn next(&self, zone: &TimeZone, after_ms: i64) -> Option<Due> {
        let after = Timestamp::from_millisecond(after_ms).ok()?;
        let today = zone.to_datetime(after).date();
        (-1..DAYS_AHEAD)
            .filter_map(|days| today.checked_add(Span::new().try_days(days).ok()?).ok())
            .filter(|date| self.is_on(*date))
            .find_map(|date| self.next_on(date, zone, after_ms))
    }

    fn is_on(&self, date: Date) -> bool {
        let day = has(self.days, u8::try_from(date.day()).unwrap_or(0));
        let weekday = date.weekday().to_sunday_zero_offset();
        let weekday = has(self.weekdays, u8::try_from(weekday).unwrap_or(0));
        let fits = match (self.any_day, self.any_weekday) {
            (false, false) => day || weekday,
            _ => day && weekday,
        };
        fits && has(self.months, u8::try_from(date.month()).unwrap_or(0))
    }

    fn next_on(&self, date: Date, zone: &TimeZone, after_ms: i64) -> Option<Due> {
        let hours = (0..24).filter(|hour| has(self.hours, *hour));
        let mut times = hours.flat_map(|hour| {
            let minutes = (0..60).filter(|minute| has(self.minutes, *minute));
            minutes.map(move |minute| (hour, minute))
        });
        times.find_map(|(hour, minute)| {
            let part = |value: u8| i8::try_from(value).ok();
            let time = Time::new(part(hour)?, part(minute)?, 0, 0).ok()?;
            let at_ms = moment_of(zone, date, time).filter(|at_ms| *at_ms > after_ms)?;
            Some(Due {
                at_ms,
                local: format!("{date}T{hour:02}:{minute:02}"),
            })
        })
    }
}

fn has(bits: u64, number: u8) -> bool {
    bits & (1 << number) != 0
}

/// The numbers of one part, as bits.
fn field(
    what: &str,
    field: &str,
    bounds: RangeInclusive<u8>,
    names: &[&str],
    first: u8,
) -> Result<u64, Reason> {
    let value = |text: &str| -> Result<u8, Reason> {
        let text_lower = text.to_ascii_lowercase();
        let by_name = names.iter().zip(first..).find(|(name, _)| **name == text_lower);
        let number = match by_name {
            Some((_, number)) => Some(number),
            None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            None => None,
        };
        number.filter(|number| bounds.contains(number)).ok_or_else(|| {
            format!(
                "its {what} is from {} to {}, and not {}",
                bounds.start(),
                bounds.end(),
                quoted(text)
            )
        })
    };
    let mut bits = 0;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (part, None),
        };
        let every = match step {
            None => 1,
            Some(step) => step
                .parse::<u8>()
                .ok()
                .filter(|step| (1..=*bounds.end()).contains(step))
                .ok_or_else(|| format!("its {what} has the step {}, which is none", quoted(step)))?,
        };
        let (low, high) = if range == "*" {
            (*bounds.start(), *bounds.end())
        } else if let Some((low, high)) = range.split_once('-') {
            let (low, high) = (value(low)?, value(high)?);
            if low > high {
                return Err(format!("its {what} runs backwards in {}", quoted(range)));
            }
            (low, high)
        } else {
            let low = value(range)?;
            // A step from one number on goes to the end.
            (low, if step.is_some() { *bounds.end() } else { low })
        };
        for number in (low..=high).step_by(usize::from(every)) {
            bits |= 1 << number;
        }
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    /// The next times by the clock of the wall.
    #[track_caller]
    fn check(line: &str, zone: &str, after: &str, expected: &[(&str, &str)]) {
        let cron = Cron::parse(line).unwrap();
        let zone = TimeZone::get(zone).unwrap();
        let mut at_ms = ms(after);
        for (local, utc) in expected {
            let due = cron.next(&zone, at_ms).unwrap();
            assert_eq!((due.local.as_str(), due.at_ms), (*local, ms(utc)), "{line}");
            at_ms = due.at_ms;
        }
    }

    #[test]
    fn each_part_says_when_something_is_due() {
        let after = "2026-11-20T12:00:00Z"; // A Friday.
        check(
            "15 2 * * *",
            "UTC",
            after,
            &[
                ("2026-11-21T02:15", "2026-11-21T02:15:00Z"),
                ("2026-11-22T02:15", "2026-11-22T02:15:00Z"),
            ],
        );
        check(
            "*/20 12,14 * * *",
            "UTC",
            after,
            &[
                ("2026-11-20T12:20", "2026-11-20T12:20:00Z"),
                ("2026-11-20T12:40", "2026-11-20T12:40:00Z"),
                ("2026-11-20T14:00", "2026-11-20T14:00:00Z"),
            ],
        );
        check(
            "0 4 * * sun",
            "UTC",
            after,
            &[("2026-11-22T04:00", "2026-11-22T04:00:00Z")],
        );
        check(
            "0 4 * * 7",
            "UTC",
            after,
            &[("2026-11-22T04:00", "2026-11-22T04:00:00Z")],
        );
        check(
            "50/5 4 1-5/2 jan *",
            "UTC",
            after,
            &[
                ("2027-01-01T04:50", "2027-01-01T04:50:00Z"),
                ("2027-01-01T04:55", "2027-01-01T04:55:00Z"),
                ("2027-01-03T04:50", "2027-01-03T04:50:00Z"),
            ],
        );
        // Both days are named: one of them is enough.
        check(
            "0 0 23 * mon-tue",
            "UTC",
            after,
            &[
                ("2026-11-23T00:00", "2026-11-23T00:00:00Z"),
                ("2026-11-24T00:00", "2026-11-24T00:00:00Z"),
                ("2026-11-30T00:00", "2026-11-30T00:00:00Z"),
            ],
        );
        check(
            "0 0 29 2 *",
            "UTC",
            after,
            &[("2028-02-29T00:00", "2028-02-29T00:00:00Z")],
        );
        let never = Cron::parse("0 0 30 2 *").unwrap();
        assert_eq!(never.next(&TimeZone::UTC, ms(after)), None);
        assert_eq!(never.next(&TimeZone::UTC, i64::MAX), None);
    }

    /// RELIABILITY.md F84.
    #[test]
    fn when_clocks_are_moved_each_minute_still_comes_once() {
        check(
            "30 3 * * *",
            "Europe/Vilnius",
            "2026-03-28T12:00:00Z",
            &[
                ("2026-03-29T03:30", "2026-03-29T01:00:00Z"),
                ("2026-03-30T03:30", "2026-03-30T00:30:00Z"),
            ],
        );
        check(
            "30 3 * * *",
            "Europe/Vilnius",
            "2026-10-24T12:00:00Z",
            &[
                ("2026-10-25T03:30", "2026-10-25T00:30:00Z"),
                ("2026-10-26T03:30", "2026-10-26T01:30:00Z"),
            ],
        );
        // Several that were leapt over are one.
        check(
            "*/15 3-4 * * *",
            "Europe/Vilnius",
            "2026-03-28T12:00:00Z",
            &[
                ("2026-03-29T03:00", "2026-03-29T01:00:00Z"),
                ("2026-03-29T04:15", "2026-03-29T01:15:00Z"),
            ],
        );
    }
}
