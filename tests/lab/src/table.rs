//! A table of text with aligned columns.

/// Rows with named columns; the first row names the columns of all.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn add(&mut self, row: Vec<(&'static str, String)>) {
        if self.rows.is_empty() {
            self.rows.push(
                row.iter()
                    .map(|(heading, _)| (*heading).to_owned())
                    .collect(),
            );
        }
        self.rows
            .push(row.into_iter().map(|(_, cell)| cell).collect());
    }

    pub(crate) fn print(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line += &format!("{cell:<width$}   ");
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}
