//! Tables that fit a terminal, whatever is in them.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::show::safe;

/// Width that tables keep to, columns: what the narrowest usual terminal shows.
pub(super) const WIDTH: usize = 80;
/// Space between two columns.
const GAP: usize = 2;

/// A table for people.
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

struct Column {
    title: &'static str,
    /// It is not made narrower than this.
    least: usize,
}

impl Table {
    /// With these columns: the title, and the width that a column keeps at least when the table is made narrower.
    pub(super) fn new(columns: &[(&'static str, usize)]) -> Self {
        Self {
            columns: columns
                .iter()
                .map(|&(title, least)| Column { title, least })
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; a missing cell is empty.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().map(|cell| safe(&cell)).collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// In at most `width` columns of the terminal, or as wide as it gets; the widest columns give way first.
    pub(super) fn in_width(&self, width: Option<usize>) -> String {
        let mut widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(idx, column)| {
                let cells = self.rows.iter().map(|row| row[idx].width());
                cells.max().unwrap_or(0).max(column.title.width())
            })
            .collect();
        if let Some(width) = width {
            let room = width.saturating_sub(GAP * self.columns.len().saturating_sub(1));
            while widths.iter().sum::<usize>() > room {
                let yielding = widths
                    .iter()
                    .enumerate()
                    .filter(|&(idx, &width)| width > self.columns[idx].least.max(1))
                    .max_by_key(|&(idx, &width)| (width, idx));
                let Some((idx, _)) = yielding else { break };
                widths[idx] -= 1;
            }
        }
        let titles: Vec<String> = self
            .columns
            .iter()
            .map(|column| column.title.to_owned())
            .collect();
        let mut text = String::new();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let mut line = String::new();
            for (cell, &width) in row.iter().zip(&widths) {
                let cell = fitted(cell, width);
                line += &cell;
                line.extend(std::iter::repeat_n(' ', width + GAP - cell.width()));
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// A text in at most `width` columns of the terminal, with `…` where something is left out.
pub(super) fn fitted(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut fitted = String::new();
    let mut taken = 1;
    for c in text.chars() {
        taken += c.width().unwrap_or(0);
        if taken > width {
            break;
        }
        fitted.push(c);
    }
    fitted.push('…');
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_by_its_width_on_the_screen() {
        assert_eq!(fitted("abc", 3), "abc");
        assert_eq!(fitted("abcd", 3), "ab…");
        // Each of these takes two columns.
        assert_eq!(fitted("居間のリモコン", 7), "居間の…");
        assert_eq!(fitted("居間のリモコン", 6), "居間…");
        assert_eq!(fitted("e\u{301}e\u{301}e\u{301}", 2), "e\u{301}…");
    }

    #[test]
    fn a_table_never_gets_wider_than_it_may() {
        let mut table = Table::new(&[("NAME", 8), ("STATE", 5), ("RUNS", 6)]);
        table.row(["居間のリモコン".repeat(9), "online".to_owned(), "1.0".repeat(30)]);
        table.row(["a".to_owned()]);
        for width in [30, 40, 80] {
            let text = table.in_width(Some(width));
            assert!(text.lines().all(|line| line.width() <= width), "{text}");
            assert_eq!(text.lines().count(), 3);
        }
        let wide = table.in_width(None);
        assert!(!wide.contains('…'), "{wide}");
    }

    #[test]
    fn columns_stand_below_each_other_with_wide_characters() {
        let mut table = Table::new(&[("NAME", 4), ("STATE", 5)]);
        table.row(["居間".to_owned(), "online".to_owned()]);
        table.row(["attic".to_owned(), "offline".to_owned()]);
        assert_eq!(
            table.in_width(Some(80)),
            "NAME   STATE\n居間   online\nattic  offline\n"
        );
    }

    #[test]
    fn what_the_network_says_cannot_break_a_row() {
        let mut table = Table::new(&[("NAME", 4)]);
        table.row(["a\nb\u{1b}[2J\u{9b}x\u{202e}y\u{2028}z".to_owned()]);
        let text = table.in_width(Some(80));
        assert_eq!(text.lines().count(), 2);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(!text.contains(['\u{202e}', '\u{2028}']), "{text:?}");
    }
}
