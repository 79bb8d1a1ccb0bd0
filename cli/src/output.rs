//! How answers reach the user: standard output, tables, JSON.

use std::{
    error::Error,
    io::{self, Write as _},
};

use clap::ValueEnum;
use serde::Serialize;

/// What a command comes to.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// How an answer is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Summary,
    /// For programs
    Json,
}

/// Writes to standard output.
pub(crate) fn print(text: &str) -> Outcome<()> {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has read enough (`| head`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Writes a value as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Outcome<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Aligned columns, the first row being the headings; `indent` spaces in front of each line.
pub(crate) fn table(indent: usize, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widths = cells.map(|cell| cell.chars().count());
        widths.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:<width$}   "))
            .collect();
        text += &format!("{:indent$}{}\n", "", line.trim_end());
    }
    text
}

/// A row of a table.
pub(crate) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

/// `yes` or `no`.
pub(crate) fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}
