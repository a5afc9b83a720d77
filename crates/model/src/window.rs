//! Windows of maintenance: times of local clocks as moments, milliseconds since 1970.
//!
//! What the owner writes hangs on a clock on a wall, which is moved twice a year; what a rollout needs are two moments.
//! A window opens once on each of its days and stays open for its duration in real time, whatever the clock does meanwhile.

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, Timestamp};
use serde::{Deserialize, Serialize};

/// The longest window, a day (INTERFACES.md 3).
pub const MAX_DURATION: Duration = Duration::from_hours(24);

/// Every day of the week as a number of [`Window::days`].
pub const ALL_DAYS: u8 = 0b111_1111;

/// So many days before a moment a window that is open then may have opened: it is no longer than a day, and a clock is moved
/// by a day at most.
const DAYS_BACK: i64 = 2;

/// So many days ahead the next opening lies at most: a week, and another where a calendar has left out its day.
const DAYS_AHEAD: i64 = 15;

/// When updates may begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// What its owner calls it.
    pub name: String,
    /// When it opens, seconds after midnight by the clock of its zone; below a day.
    pub start_s: u32,
    /// For how long, up to [`MAX_DURATION`].
    pub duration: Duration,
    /// The days on which it opens: bit 0 is Monday, bit 6 Sunday. A window over midnight belongs to the day of its opening.
    pub days: u8,
    /// Where the clock hangs, IANA name; none where this machine's zone has no name.
    #[serde(default)]
    pub timezone: Option<String>,
}

impl Window {
    /// When it opens, in words: "02:00 on Monday and Friday (Europe/Vilnius) for 3 hours".
    pub fn words(&self) -> String {
        let time = format!("{:02}:{:02}", self.start_s / 3_600, self.start_s / 60 % 60);
        let seconds = match self.start_s % 60 {
            0 => String::new(),
            seconds => format!(":{seconds:02}"),
        };
        let zone = self.timezone.as_deref().unwrap_or("local time");
        let duration = crate::plan::sentences::duration(self.duration).unwrap_or_default();
        format!(
            "{time}{seconds} on {} ({zone}) for {duration}",
            self.days_in_words()
        )
    }

    fn days_in_words(&self) -> String {
        const NAMES: [&str; 7] = [
            "Monday",
            "Tuesday",
            "Wednesday",
            "Thursday",
            "Friday",
            "Saturday",
            "Sunday",
        ];
        if self.days & ALL_DAYS == ALL_DAYS {
            return "every day".to_owned();
        }
        let names: Vec<&str> = (0..7)
            .filter(|day| self.days & (1 << day) != 0)
            .filter_map(|day: usize| NAMES.get(day).copied())
            .collect();
        match names.as_slice() {
            [] => "no day".to_owned(),
            [only] => (*only).to_owned(),
            [all @ .., last] => format!("{} and {last}", all.join(", ")),
        }
    }

    /// When it closes, if it is open at this moment. It is open at the moment of its opening, and no more at that of its closing.
    pub fn open_at(&self, zone: &TimeZone, at_ms: i64) -> Option<i64> {
        let openings = self.openings(zone, at_ms);
        openings
            .filter(|opens_ms| *opens_ms <= at_ms)
            .map(|opens_ms| opens_ms.saturating_add(self.duration_ms()))
            .filter(|closes_ms| at_ms < *closes_ms)
            .max()
    }

    /// When it opens next, after this moment; none where it opens on no day, or only after the end of all calendars.
    pub fn next_opening(&self, zone: &TimeZone, after_ms: i64) -> Option<i64> {
        let openings = self.openings(zone, after_ms);
        openings.filter(|opens_ms| *opens_ms > after_ms).min()
    }

    /// When the opening closes that is open at this moment, or else the next one.
    pub fn next_closing(&self, zone: &TimeZone, at_ms: i64) -> Option<i64> {
        self.open_at(zone, at_ms).or_else(|| {
            let opens_ms = self.next_opening(zone, at_ms)?;
            Some(opens_ms.saturating_add(self.duration_ms()))
        })
    }

    fn duration_ms(&self) -> i64 {
        i64::try_from(self.duration.min(MAX_DURATION).as_millis()).unwrap_or(i64::MAX)
    }

    /// The openings around a moment, in no order.
    fn openings(&self, zone: &TimeZone, at_ms: i64) -> impl Iterator<Item = i64> {
        let today = Timestamp::from_millisecond(at_ms)
            .ok()
            .map(|moment| zone.to_datetime(moment).date());
        let start = time_of_day(self.start_s);
        let dates = (-DAYS_BACK..=DAYS_AHEAD).filter_map(move |days| {
            let date = today?.checked_add(Span::new().try_days(days).ok()?).ok()?;
            self.opens_on(date.weekday()).then_some(date)
        });
        dates.filter_map(move |date| moment_of(zone, date, start?))
    }

    fn opens_on(&self, day: Weekday) -> bool {
        self.days & day_bit(day) != 0
    }
}

/// The bit of a day in [`Window::days`].
pub fn day_bit(day: Weekday) -> u8 {
    1 << day.to_monday_zero_offset()
}

fn time_of_day(start_s: u32) -> Option<Time> {
    let part = |value: u32| i8::try_from(value).ok();
    Time::new(
        part(start_s / 3_600)?,
        part(start_s / 60 % 60)?,
        part(start_s % 60)?,
        0,
    )
    .ok()
}

/// The one moment at which a clock shows this time on this date, milliseconds since 1970.
///
/// A time that a clock shows twice means the first; one that it leaps over means the end of the leap. None for a date that a
/// calendar has left out, and for what lies outside of all calendars.
pub fn moment_of(zone: &TimeZone, date: Date, time: Time) -> Option<i64> {
    let wanted = DateTime::from_parts(date, time);
    let ambiguous = zone.to_ambiguous_timestamp(wanted);
    let moment = match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(wanted).ok()?,
        // The offset from before gives the first of the two.
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(wanted).ok()?,
        AmbiguousOffset::Gap { before, after } => {
            // By the offset from after, the time that was leapt over lies before the leap.
            let sooner = after.to_timestamp(wanted).ok()?;
            let leap = zone.following(sooner).next()?.timestamp();
            let (from, to) = (before.to_datetime(leap), after.to_datetime(leap));
            let (midnight, next) = (date.at(0, 0, 0, 0), date.tomorrow().ok()?.at(0, 0, 0, 0));
            if from <= midnight && to >= next {
                return None;
            }
            leap
        }
    };
    Some(moment.as_millisecond())
}
