//! Dead letters in numbers, as text.

use super::{
    row::letters,
    table::{self, Align, Column},
};
use crate::{
    cli::{
        date::rfc3339,
        paint::{DIM, Paint},
        words::safe,
    },
    letters::summary::{Count, Kind, Summary},
};

const COLUMNS: [Column; 7] = [
    ("ENDPOINT", Align::Left),
    ("REASON", Align::Left),
    ("STATUS", Align::Right),
    ("LETTERS", Align::Right),
    ("FIRST", Align::Left),
    ("LAST", Align::Left),
    ("OVER TIME", Align::Left),
];

/// From nothing to the most.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The table, and what a step of its bars stands for.
pub(super) fn text(summary: &Summary, paint: Paint) -> String {
    if summary.total() == 0 {
        return "no dead letters\n".to_owned();
    }
    let kinds = summary.kinds();
    let rows: Vec<_> = kinds.iter().map(|(kind, count)| cells(kind, count, summary)).collect();
    let mut text = table::render(&COLUMNS, &rows, paint);
    let begin = rfc3339(summary.begin().unwrap_or(0));
    let foot =
        format!("{}; over time: from {begin}, each bar {}", letters(summary.total()), slice(summary.slice()));
    text.push_str(&format!("{}\n", paint.paint(DIM, &foot)));
    text
}

fn cells(kind: &Kind, count: &Count, summary: &Summary) -> Vec<String> {
    let or_dash = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), |text| safe(text).into_owned());
    vec![
        or_dash(kind.endpoint.as_deref()),
        or_dash(kind.reason.as_deref()),
        kind.status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
        count.letters.to_string(),
        rfc3339(count.first),
        rfc3339(count.last),
        bars(&summary.spread(count)),
    ]
}

/// One letter shows, however many there are elsewhere.
fn bars(spread: &[u64]) -> String {
    let most = spread.iter().copied().max().unwrap_or(0).max(1);
    spread.iter().map(|count| BARS[usize::try_from((count * 8).div_ceil(most)).unwrap_or(0).min(8)]).collect()
}

/// A length of time that is a power of two of seconds, roughly.
fn slice(millis: i64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_show_the_shape() {
        assert_eq!(bars(&[0, 1, 4, 8]), " ▁▄█");
        assert_eq!(bars(&[1, 0, 1_000_000]), "▁ █");
        assert_eq!(bars(&[0, 0]), "  ");
        assert_eq!(bars(&[]), "");
    }

    #[test]
    fn slices_are_named_roughly() {
        for (millis, expected) in
            [(1_000, "1 s"), (64_000, "64 s"), (128_000, "2 min"), (8_192_000, "2 h"), (262_144_000, "3 d")]
        {
            assert_eq!(slice(millis), expected);
        }
    }
}
