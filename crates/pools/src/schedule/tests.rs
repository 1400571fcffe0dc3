use super::*;

fn entry(start_hour: u32, end_hour: u32, days: &[u32]) -> Schedule {
    Schedule { start_hour, end_hour, days_of_week: days.to_vec(), desired_running: 1, ..Schedule::default() }
}

/// 2026-01-02 is a Friday.
fn at(day: u8, hour: u8) -> Timestamp {
    format!("2026-01-{day:02}T{hour:02}:30:00Z").parse().unwrap()
}

#[test]
fn an_entry_holds_by_hour_and_weekday() {
    for (entry, day, hour, expected) in [
        (entry(8, 18, &[]), 2, 7, false),
        (entry(8, 18, &[]), 2, 8, true),
        (entry(8, 18, &[]), 2, 17, true),
        (entry(8, 18, &[]), 2, 18, false),
        (entry(0, 24, &[]), 2, 23, true),
        (entry(9, 9, &[]), 2, 9, false),
        (entry(8, 18, &[5]), 2, 9, true),
        (entry(8, 18, &[4, 6]), 2, 9, false),
        (entry(22, 6, &[5]), 2, 3, true),
        (entry(22, 6, &[5]), 2, 23, true),
        (entry(22, 6, &[5]), 3, 3, false),
        (entry(24, 6, &[]), 2, 3, false),
        (entry(8, 25, &[]), 2, 9, false),
        (entry(u32::MAX, 6, &[]), 2, 3, false),
        (entry(8, 18, &[u32::MAX]), 2, 9, false),
    ] {
        let found = current(std::slice::from_ref(&entry), at(day, hour), &TimeZone::UTC);
        assert_eq!(found.is_some(), expected, "{entry:?} on day {day} at {hour}");
    }
}

#[test]
fn the_first_entry_wins() {
    let second = Schedule { desired_running: 7, ..entry(0, 24, &[]) };
    let both = [entry(8, 18, &[]), second];
    assert_eq!(current(&both, at(2, 9), &TimeZone::UTC).unwrap().desired_running, 1);
    assert_eq!(current(&both, at(2, 20), &TimeZone::UTC).unwrap().desired_running, 7);
}

#[test]
fn hours_are_those_of_the_zone_with_its_clock_changes() {
    let berlin = TimeZone::get("Europe/Berlin").unwrap();
    let holds = |entry: Schedule, now: &str| current(&[entry], now.parse().unwrap(), &berlin).is_some();
    // 7:30 UTC is half past eight in winter, half past nine in summer.
    assert!(holds(entry(8, 9, &[]), "2026-01-02T07:30:00Z"));
    assert!(!holds(entry(8, 9, &[]), "2026-07-02T07:30:00Z"));
    // On 2026-03-29 the clock goes from 2 to 3; on 2026-10-25 the hour from 2 to 3 comes twice.
    for minute in 0..24 * 60 {
        let now: Timestamp = "2026-03-28T23:00:00Z".parse().unwrap();
        let now = domain::clock::after(now, std::time::Duration::from_secs(minute * 60));
        assert!(current(&[entry(2, 3, &[0])], now, &berlin).is_none(), "{now}");
    }
    assert!(holds(entry(2, 3, &[0]), "2026-10-25T00:30:00Z") && holds(entry(2, 3, &[0]), "2026-10-25T01:30:00Z"));
    // The weekday is the local one: Thursday night in UTC is Friday here.
    assert!(holds(entry(0, 1, &[5]), "2026-01-01T23:30:00Z"));
}
