//! The outcome of a run, as JSON and as a Markdown table.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Failure, Mode, Settings,
    figure::Unit,
    machine::Machine,
    samples::{Samples, Series, Spread},
};

/// Everything that a run has seen.
#[derive(Debug)]
pub struct Report {
    pub(super) machine: Machine,
    pub(super) settings: Settings,
    pub(super) elapsed: Duration,
    pub(super) samples: Samples,
    pub(super) failures: Vec<Failure>,
    pub(super) cut: Vec<&'static str>,
}

impl Report {
    /// What could not be measured, one sentence each.
    pub fn failures(&self) -> Vec<String> {
        let sentence = |failure: &Failure| {
            let Failure {
                part,
                path,
                mode,
                reason,
            } = failure;
            format!("{part}, {path}, {mode}: not measured: {reason}")
        };
        self.failures.iter().map(sentence).collect()
    }

    /// All of it, every sample included.
    pub fn json(&self) -> Value {
        let figures: Vec<Value> = self.samples.all().map(series_json).collect();
        json!({
            "date": self.machine.date,
            "machine": self.machine.json(),
            "rounds": self.settings.rounds,
            "seconds_per_load": self.settings.length.as_secs_f64(),
            "quick": self.settings.quick,
            "sockmap": self.settings.sockmap.as_deref().unwrap_or("default"),
            "elapsed_seconds": self.elapsed.as_secs_f64(),
            "figures": figures,
            "failures": self.failures(),
            "cut_short": self.cut,
        })
    }

    /// The table for people: everything, or only what a reader in a hurry wants.
    pub fn markdown(&self, only_headlines: bool) -> String {
        let mut text = format!("{}.\n", self.machine);
        let (rounds, seconds) = (self.settings.rounds, self.settings.length.as_secs_f64());
        let mode = self.settings.sockmap.as_deref().unwrap_or("the default");
        text += &format!(
            "Direct TCP and the mesh (with a policy that judges every connection) take turns: {rounds} rounds of {seconds} s per load; \
             sockmap mode: {mode}. Median (lowest to highest); the ratio is the median of the rounds' own ratios. What the proxies use is \
             that of all proxies on the path together.\n"
        );
        if self.machine.was_busy() {
            text += "\n**The machine was busy with other work: the figures are doubtful.**\n";
        }
        if !self.cut.is_empty() {
            let parts = self.cut.join(", ");
            text += &format!("\n**The time was used up; fewer rounds than wanted of: {parts}.**\n");
        }
        for failure in self.failures() {
            text += &format!("\n**{failure}**\n");
        }
        text += "\n| part | path | figure | direct | Tulle | Tulle ÷ direct |\n|---|---|---|--:|--:|--:|\n";
        for series in self.samples.all() {
            if series.figure.is_headline || !only_headlines {
                text += &row(series);
            }
        }
        text
    }
}

fn series_json(series: &Series) -> Value {
    let side = |mode| {
        let spread = series.spread(mode)?;
        Some(json!({
            "median": spread.median,
            "min": spread.min,
            "max": spread.max,
            "samples": series.values(mode),
        }))
    };
    let ratio = series.ratio(Mode::Tulle, Mode::Direct);
    json!({
        "part": series.part,
        "path": series.path.to_string(),
        "figure": series.figure.name,
        "unit": series.figure.unit.text(),
        "less_is_better": series.figure.unit.is_less_better(),
        "headline": series.figure.is_headline,
        "direct": side(Mode::Direct),
        "tulle": side(Mode::Tulle),
        "ratio": ratio.map(|ratio| json!({ "median": ratio.median, "min": ratio.min, "max": ratio.max })),
    })
}

fn row(series: &Series) -> String {
    let unit = series.figure.unit;
    let cell = |mode| {
        let spread = series.spread(mode);
        spread.map_or_else(|| "–".to_owned(), |spread| show(unit, spread))
    };
    let ratio = series.ratio(Mode::Tulle, Mode::Direct);
    let ratio = ratio.map_or_else(|| "–".to_owned(), |ratio| show(Unit::Times, ratio));
    let (direct, tulle) = (cell(Mode::Direct), cell(Mode::Tulle));
    let (part, path, figure) = (series.part, series.path, series.figure.label());
    format!("| {part} | {path} | {figure} | {direct} | {tulle} | {ratio} |\n")
}

fn show(unit: Unit, spread: Spread) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(|value| unit.show(value));
    if min == max {
        return median;
    }
    format!("{median} ({min}–{max})")
}
