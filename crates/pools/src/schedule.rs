//! Which of a pool's schedule entries holds at an instant. Pure.
//!
//! It is a test of the wall clock: an hour that the clock skips is not seen, one that it repeats is seen twice. An
//! entry over midnight looks at the weekday of the hour in question, so one for Friday, 22 to 6, holds on Friday
//! morning and on Friday night, not on Saturday morning.

use db::pools::Schedule;
use domain::clock::Timestamp;
use jiff::tz::TimeZone;

#[cfg(test)]
mod tests;

/// The first entry that holds at `now`.
pub fn current<'a>(schedules: &'a [Schedule], now: Timestamp, zone: &TimeZone) -> Option<&'a Schedule> {
    let local = zone.to_datetime(now);
    let hour = u32::try_from(local.hour()).unwrap_or(0);
    let weekday = u32::try_from(local.weekday().to_sunday_zero_offset()).unwrap_or(0);
    schedules.iter().find(|entry| holds(entry, hour, weekday))
}

fn holds(entry: &Schedule, hour: u32, weekday: u32) -> bool {
    let (start, end) = (entry.start_hour, entry.end_hour);
    let today = entry.days_of_week.is_empty() || entry.days_of_week.contains(&weekday);
    let within = if start <= end { start <= hour && hour < end } else { hour >= start || hour < end };
    is_readable(entry) && today && within
}

/// Whether its hours are hours. An entry with others never holds.
pub const fn is_readable(entry: &Schedule) -> bool {
    entry.start_hour <= 23 && entry.end_hour <= 24
}
