//! Puts the table between the markers of a file, and touches nothing else of it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

/// Replaces what stands between the markers `<!-- bench:begin -->` and `<!-- bench:end -->`.
///
/// # Errors
/// When the file cannot be read or written, or does not have each marker once, in this order.
pub fn write_table(file: &Path, table: &str) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let filled = replace(&text, table).with_context(|| file.display().to_string())?;
    // Renamed into place: a reader sees the old text or the new one.
    let beside = file.with_extension("md.new");
    fs::write(&beside, filled).with_context(|| beside.display().to_string())?;
    fs::rename(&beside, file).with_context(|| file.display().to_string())
}

pub(super) fn replace(text: &str, table: &str) -> Result<String> {
    for marker in [BEGIN, END] {
        let count = text.matches(marker).count();
        ensure!(
            count == 1,
            "the marker `{marker}` is there {count} times, expected once"
        );
    }
    let (before, rest) = text.split_once(BEGIN).context("no begin")?;
    let (_, after) = rest
        .split_once(END)
        .context("the end marker stands before the begin")?;
    Ok(format!(
        "{before}{BEGIN}\n{}\n{END}{after}",
        table.trim_end()
    ))
}

const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";
