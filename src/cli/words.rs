//! Numbers as people say them, and text as a terminal may see it.

use std::{borrow::Cow, time::Duration};

/// The two largest units of a time; a second at least.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// How many of something there are.
pub(super) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Text of a record as a terminal may see it: anyone can write headers, so no character controls anything.
pub(super) fn safe(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if is_harmful(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// Control characters, and those that turn the direction of writing around.
fn is_harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_controls_the_terminal() {
        for (text, expected) in [
            ("order.paid", "order.paid"),
            ("grüße ✓", "grüße ✓"),
            ("\x1b[31mred\x07", "\\u{1b}[31mred\\u{7}"),
            ("two\nlines", "two\\nlines"),
            ("\u{202e}dlrow", "\\u{202e}dlrow"),
        ] {
            assert_eq!(safe(text), expected);
        }
    }

    #[test]
    fn times_are_said_in_two_units() {
        for (millis, expected) in [
            (0, "0s"),
            (1, "1s"),
            (59_000, "59s"),
            (61_000, "1m 1s"),
            (3_660_000, "1h 1m"),
            (90_000_000, "1d 1h"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "lane")), ["0 lanes", "1 lane", "2 lanes"]);
    }
}
