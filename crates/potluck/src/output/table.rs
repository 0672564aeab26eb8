//! Tables whose columns align.

use super::{Style, Tone, clean};

/// A column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    right: bool,
}

impl Column {
    /// Text: aligned left.
    pub(crate) const fn left(title: &'static str) -> Self {
        Self { title, right: false }
    }

    /// Numbers: aligned right.
    pub(crate) const fn right(title: &'static str) -> Self {
        Self { title, right: true }
    }
}

/// Rows of cells under titles. Cells are cleaned of control characters: what nodes say of themselves ends up here.
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<(Tone, String)>>,
}

impl Table {
    /// No rows yet.
    pub(crate) fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self {
            columns: columns.into(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, with as many cells as there are columns.
    pub(crate) fn row<const N: usize>(&mut self, cells: [(Tone, String); N]) {
        debug_assert_eq!(N, self.columns.len(), "a cell for each column");
        self.rows.push(
            cells
                .into_iter()
                .map(|(tone, text)| (tone, clean(&text).into_owned()))
                .collect(),
        );
    }

    /// Cuts cells that have more characters than this, so that lines stay on a screen.
    pub(crate) fn cut(mut self, characters_max: usize) -> Self {
        for (_, text) in self.rows.iter_mut().flatten() {
            if text.chars().count() > characters_max {
                *text = text.chars().take(characters_max - 1).chain(['…']).collect();
            }
        }
        self
    }

    /// Lines, each ended by a line feed; two spaces between columns, none at the end.
    pub(crate) fn render(&self, style: Style) -> String {
        let titles: Vec<(Tone, String)> = self
            .columns
            .iter()
            .map(|column| (Tone::Dim, column.title.to_owned()))
            .collect();
        let mut widths = vec![0; self.columns.len()];
        for row in std::iter::once(&titles).chain(&self.rows) {
            for (width, (_, text)) in widths.iter_mut().zip(row) {
                *width = text.chars().count().max(*width);
            }
        }
        let mut out = String::new();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let mut pending = 0;
            for ((column, width), (tone, text)) in self.columns.iter().zip(&widths).zip(row) {
                let pad = width - text.chars().count();
                let (before, after) = if column.right { (pad, 0) } else { (0, pad) };
                if text.is_empty() {
                    pending += pad + 2;
                } else {
                    out.push_str(&" ".repeat(pending + before));
                    out.push_str(&style.paint(*tone, text));
                    pending = after + 2;
                }
            }
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_cells_are_cut() {
        let mut table = Table::new([Column::left("A")]);
        table.row([(Tone::Plain, "é".repeat(5))]);
        table.row([(Tone::Plain, "é".repeat(4))]);
        assert_eq!(table.cut(4).render(Style::PLAIN), "A\nééé…\néééé\n");
    }

    #[test]
    fn columns_align_and_lines_do_not_end_in_spaces() {
        let mut table = Table::new([Column::left("NODE"), Column::right("BYTES"), Column::left("NOTE")]);
        let plain = |text: &str| (Tone::Plain, text.to_owned());
        table.row([plain("a"), plain("1"), plain("x\x1b[31my")]);
        table.row([plain("long-name"), plain("12345"), plain("")]);
        table.row([plain(""), plain(""), plain("end")]);
        assert_eq!(
            table.render(Style::PLAIN),
            "NODE       BYTES  NOTE\na              1  x\u{fffd}[31my\nlong-name  12345\n                  end\n"
        );
    }
}
