//! Times as people write them, and unix milliseconds.

use crate::{config::value::parse_duration, date};

/// What a time may look like, for help texts and errors.
pub(super) const FORMS: &str = "2h (ago), today, yesterday, 2026-01-31, 2026-01-31T08:00:00Z or unix seconds";

const DAY: i64 = 86_400_000;

/// Unix milliseconds of such a time. Days are those of UTC, as all times that are printed.
pub(super) fn parse(text: &str, now: i64) -> Option<i64> {
    match text {
        "now" => return Some(now),
        "today" => return Some(now - now.rem_euclid(DAY)),
        "yesterday" => return Some(now - now.rem_euclid(DAY) - DAY),
        _ => {}
    }
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(i64::from(seconds) * 1000);
    }
    if let Ok(ago) = parse_duration(text) {
        return Some(now - i64::try_from(ago.as_millis()).ok()?);
    }
    let written: toml::value::Datetime = text.parse().ok()?;
    match written {
        toml::value::Datetime { date: Some(day), time: None, offset: None } => {
            Some(days_from_civil(i64::from(day.year), i64::from(day.month), i64::from(day.day)) * DAY)
        }
        date => unix_millis(&date),
    }
}

/// Unix milliseconds of an RFC 3339 date with its offset; TOML's dates are the same.
pub(super) fn unix_millis(date: &toml::value::Datetime) -> Option<i64> {
    let (day, time) = (date.date?, date.time?);
    let offset = match date.offset? {
        toml::value::Offset::Z => 0,
        toml::value::Offset::Custom { minutes } => i64::from(minutes),
    };
    let seconds =
        i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(time.second.unwrap_or(0));
    let days = days_from_civil(i64::from(day.year), i64::from(day.month), i64::from(day.day));
    Some((days * 86_400 + seconds - offset * 60) * 1000 + i64::from(time.nanosecond.unwrap_or(0) / 1_000_000))
}

/// An RFC 3339 date of unix milliseconds, to the second.
pub(super) fn rfc3339(millis: i64) -> String {
    date::rfc3339(millis)
}

/// Days since 1970-01-01: <https://howardhinnant.github.io/date_algorithms.html#days_from_civil>.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_write_them() {
        let now = 1_700_000_000_123; // 2023-11-14T22:13:20.123Z
        for (text, expected) in [
            ("now", Some(now)),
            ("today", Some(1_699_920_000_000)),
            ("yesterday", Some(1_699_833_600_000)),
            ("2h", Some(now - 7_200_000)),
            ("3d", Some(now - 3 * DAY)),
            ("1700000000", Some(1_700_000_000_000)),
            ("2023-11-14T22:13:20Z", Some(1_700_000_000_000)),
            ("2023-11-14T23:13:20.5+01:00", Some(1_700_000_000_500)),
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2024-02-29", Some(1_709_164_800_000)),
            ("2023-02-29", None),
            // Whose clock?
            ("2023-11-14T22:13:20", None),
            ("22:13:20", None),
            ("tomorrow", None),
            ("", None),
        ] {
            assert_eq!(parse(text, now), expected, "{text}");
        }
    }

    #[test]
    fn there_and_back() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59Z", -1_000),
            ("2000-02-29T12:00:00Z", 951_825_600_000),
            ("2023-11-14T22:13:20Z", 1_700_000_000_000),
            ("2024-02-29T00:00:00Z", 1_709_164_800_000),
            ("2026-03-01T00:00:01Z", 1_772_323_201_000),
            ("2100-12-31T23:59:59Z", 4_133_980_799_000),
        ] {
            assert_eq!(rfc3339(millis), text);
            assert_eq!(rfc3339(millis + 999), text);
            assert_eq!(unix_millis(&text.parse().unwrap()), Some(millis), "{text}");
        }
        assert_eq!(unix_millis(&"2023-11-14T23:13:20.5+01:00".parse().unwrap()), Some(1_700_000_000_500));
        assert_eq!(unix_millis(&"2023-11-14".parse().unwrap()), None);
    }
}
