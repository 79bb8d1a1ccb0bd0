//! The ratios as a picture: one bar for each figure, from 1 (direct TCP) to what was seen, on a logarithmic scale.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::{Mode, Report, samples::Series};

/// Writes `ratios.svg` into a folder, which is made if it is not there.
///
/// # Errors
/// When it cannot be written.
pub fn write_charts(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let file = folder.join("ratios.svg");
    fs::write(&file, ratios(report)).with_context(|| file.display().to_string())
}

/// The chart's text.
pub(super) fn ratios(report: &Report) -> String {
    let rows: Vec<String> = report
        .samples
        .all()
        .filter(|series| series.figure.is_headline)
        .filter_map(bar)
        .enumerate()
        .map(|(at, bar)| {
            let y = TOP + at * ROW_HEIGHT;
            format!("<g transform=\"translate(0,{y})\">{bar}</g>\n")
        })
        .collect();
    let height = TOP + rows.len() * ROW_HEIGHT + BOTTOM;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">Tulle ÷ direct TCP (green: better than direct)</text>\n\
         <text x=\"10\" y=\"36\" fill=\"#666\">{}</text>\n",
        escape(&report.machine.to_string())
    );
    for tick in TICKS {
        let x = x_of(tick);
        let end = height - BOTTOM;
        let color = if tick == 1.0 { "#000" } else { "#ddd" };
        text += &format!(
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{end}\" stroke=\"{color}\"/>\n\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666\">{tick}</text>\n",
            end + 14
        );
    }
    text += &rows.concat();
    text + "</svg>\n"
}

fn bar(series: &Series) -> Option<String> {
    let ratio = series.ratio(Mode::Tulle, Mode::Direct)?;
    let is_better = (ratio.median < 1.0) == series.figure.unit.is_less_better();
    let color = if is_better { "#2a9d5c" } else { "#c8553d" };
    let (one, end) = (x_of(1.0), x_of(ratio.median));
    let (left, width) = (one.min(end), (one - end).abs().max(1.0));
    let (low, high) = (x_of(ratio.min), x_of(ratio.max));
    let label = format!("{}: {}, {}", series.path, series.part, series.figure.name);
    Some(format!(
        "<text x=\"{}\" y=\"13\" text-anchor=\"end\">{}</text>\
         <rect x=\"{left:.1}\" y=\"3\" width=\"{width:.1}\" height=\"12\" fill=\"{color}\"/>\
         <line x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"9\" y2=\"9\" stroke=\"#333\"/>\
         <text x=\"{}\" y=\"13\">{:.2}×</text>",
        LEFT - 8,
        escape(&label),
        WIDTH - RIGHT + 8,
        ratio.median
    ))
}

/// Where a ratio lies.
fn x_of(ratio: f64) -> f64 {
    let (low, high) = (TICKS[0].ln(), TICKS[TICKS.len() - 1].ln());
    let share = (ratio.max(f64::MIN_POSITIVE).ln() - low) / (high - low);
    let (left, right) = (LEFT as f64, (WIDTH - RIGHT) as f64);
    left + share.clamp(0.0, 1.0) * (right - left)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

const TICKS: [f64; 9] = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0];
const WIDTH: usize = 1000;
const LEFT: usize = 420;
const RIGHT: usize = 80;
const TOP: usize = 48;
const BOTTOM: usize = 24;
const ROW_HEIGHT: usize = 20;
