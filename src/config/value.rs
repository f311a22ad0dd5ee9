//! Values written as text: durations, sizes, rates, and the names of retry tiers.
//!
//! Pure; an error says what is wrong without quoting the text, because the text may come from a reference.

use std::time::Duration;

use super::settings::Rate;

/// Why a text is no such value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It is not a number followed by a unit.
    #[error("is not a number and a unit")]
    Form,
    /// The unit is unknown.
    #[error("has an unknown unit")]
    Unit,
    /// It does not fit.
    #[error("is too large")]
    Large,
    /// A rate of nothing.
    #[error("is zero")]
    Zero,
}

/// Units of time, largest first, in milliseconds.
const TIME: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A century: far beyond any use, and far from overflow in any sum of times.
const LONGEST: u64 = 100 * 365 * 86_400_000;

/// The fastest rate: a slot per microsecond in every unit, which the limiter can still count in nanoseconds.
const MOST_PER_UNIT: u64 = 1_000_000;

/// Parses `250ms`, `5s`, `10m`, `2h`, `3d`.
pub fn parse_duration(text: &str) -> Result<Duration, Wrong> {
    let (count, unit) = number_and_unit(text)?;
    let (_, scale) = TIME.iter().find(|(name, _)| *name == unit).ok_or(Wrong::Unit)?;
    let millis = count.checked_mul(*scale).filter(|millis| *millis <= LONGEST).ok_or(Wrong::Large)?;
    Ok(Duration::from_millis(millis))
}

/// The delay of a tier as its topic's name has it: the largest unit that divides it, so that `60s` and `1m`
/// are the same tier. `parse_duration` reads it back.
pub fn tier_name(delay: Duration) -> String {
    let millis = delay.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let (unit, scale) = TIME
        .iter()
        .find(|(_, scale)| millis.is_multiple_of(u128::from(*scale)))
        .expect("one millisecond divides every delay");
    format!("{}{unit}", millis / u128::from(*scale))
}

/// Parses `512B`, `64KiB`, `1MiB`, `2GiB`.
pub fn parse_size(text: &str) -> Result<usize, Wrong> {
    let (count, unit) = number_and_unit(text)?;
    let scale: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(Wrong::Unit),
    };
    count.checked_mul(scale).and_then(|bytes| usize::try_from(bytes).ok()).ok_or(Wrong::Large)
}

/// Parses `50/s`, `600/m`, `10000/h`; `unlimited` is `None`.
pub fn parse_rate(text: &str) -> Result<Option<Rate>, Wrong> {
    if text == "unlimited" {
        return Ok(None);
    }
    let (count, unit) = number_and_unit(text)?;
    let per = match unit {
        "/s" => 1,
        "/m" => 60,
        "/h" => 3_600,
        _ => return Err(Wrong::Unit),
    };
    match count {
        0 => Err(Wrong::Zero),
        count if count > MOST_PER_UNIT => Err(Wrong::Large),
        count => {
            let count = u32::try_from(count).expect("bounded by MOST_PER_UNIT");
            Ok(Some(Rate { count, per: Duration::from_secs(per) }))
        }
    }
}

fn number_and_unit(text: &str) -> Result<(u64, &str), Wrong> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() || unit.is_empty() {
        return Err(Wrong::Form);
    }
    // Only digits are left, so the one way to fail is to overflow.
    Ok((number.parse().map_err(|_| Wrong::Large)?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("0s", Ok(0)),
            ("250ms", Ok(250)),
            ("5s", Ok(5_000)),
            ("10m", Ok(600_000)),
            ("2h", Ok(7_200_000)),
            ("3d", Ok(259_200_000)),
            ("", Err(Wrong::Form)),
            ("5", Err(Wrong::Form)),
            ("s", Err(Wrong::Form)),
            ("-5s", Err(Wrong::Form)),
            (" 5s", Err(Wrong::Form)),
            ("5 s", Err(Wrong::Unit)),
            ("1.5s", Err(Wrong::Unit)),
            ("5sec", Err(Wrong::Unit)),
            ("1h30m", Err(Wrong::Unit)),
            ("36501d", Err(Wrong::Large)),
            ("99999999999999999999s", Err(Wrong::Large)),
            ("18446744073709551615d", Err(Wrong::Large)),
        ] {
            assert_eq!(parse_duration(text), expected.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn tiers_have_one_name() {
        for (millis, expected) in [
            (0, "0s"),
            (250, "250ms"),
            (1_500, "1500ms"),
            (5_000, "5s"),
            (60_000, "1m"),
            (90_000, "90s"),
            (3_600_000, "1h"),
            (14_400_000, "4h"),
            (86_400_000, "1d"),
            (90_000_000, "25h"),
        ] {
            let delay = Duration::from_millis(millis);
            assert_eq!(tier_name(delay), expected);
            assert_eq!(parse_duration(expected), Ok(delay));
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("512B", Ok(512)),
            ("64KiB", Ok(65_536)),
            ("1MiB", Ok(1_048_576)),
            ("2GiB", Ok(2_147_483_648)),
            ("64", Err(Wrong::Form)),
            ("64KB", Err(Wrong::Unit)),
            ("64k", Err(Wrong::Unit)),
            ("99999999999GiB", Err(Wrong::Large)),
        ] {
            assert_eq!(parse_size(text), expected, "{text:?}");
        }
    }

    #[test]
    fn rates() {
        for (text, expected) in [
            ("unlimited", Ok(None)),
            ("50/s", Ok(Some((50, 1)))),
            ("600/m", Ok(Some((600, 60)))),
            ("10000/h", Ok(Some((10_000, 3_600)))),
            ("0/s", Err(Wrong::Zero)),
            ("1000001/s", Err(Wrong::Large)),
            ("50", Err(Wrong::Form)),
            ("50/d", Err(Wrong::Unit)),
            ("50 /s", Err(Wrong::Unit)),
            ("fast", Err(Wrong::Form)),
        ] {
            let expected =
                expected.map(|rate| rate.map(|(count, per)| Rate { count, per: Duration::from_secs(per) }));
            assert_eq!(parse_rate(text), expected, "{text:?}");
        }
    }
}
