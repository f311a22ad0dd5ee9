//! Aligned columns as text.

use crate::cli::paint::{DIM, Paint};

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A heading and its alignment.
pub(super) type Column = (&'static str, Align);

/// The table, two spaces between columns, a dimmed head. Every row has a cell for each column.
pub(super) fn render(columns: &[Column], rows: &[Vec<String>], paint: Paint) -> String {
    let width = |(at, (name, _)): (usize, &Column)| {
        let cells = rows.iter().map(|cells| cells[at].chars().count());
        cells.chain([name.len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = columns.iter().enumerate().map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let aligned = cells.zip(columns).zip(&widths).map(|((text, (_, align)), width)| match align {
            Align::Left => format!("{text:width$}"),
            Align::Right => format!("{text:>width$}"),
        });
        aligned.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut table = paint.paint(DIM, &line(&mut columns.iter().map(|(name, _)| *name)));
    table.push('\n');
    for row in rows {
        table.push_str(&line(&mut row.iter().map(String::as_str)));
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let columns = [("ID", Align::Left), ("TRIES", Align::Right), ("WHY", Align::Left)];
        let rows = [
            vec!["über".to_owned(), "7".to_owned(), String::new()],
            vec!["a".to_owned(), "1234567".to_owned(), "gone".to_owned()],
        ];
        let expected = "ID      TRIES  WHY\nüber        7\na     1234567  gone\n";
        assert_eq!(render(&columns, &rows, Paint::none()), expected);
    }
}
