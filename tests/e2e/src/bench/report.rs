//! The outcome of a run, as JSON and as a Markdown table.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::{
    Mode, Settings,
    figure::Figure,
    machine::Machine,
    memory::ProxyMemory,
    samples::{Samples, Spread},
    stage::PATHS,
};

/// Everything that a run has seen.
#[derive(Debug)]
pub struct Report {
    pub(super) machine: Machine,
    pub(super) settings: Settings,
    pub(super) rounds: usize,
    pub(super) elapsed: Duration,
    pub(super) samples: Samples,
    pub(super) memory: Vec<ProxyMemory>,
}

impl Report {
    /// All of it, every sample included.
    pub fn json(&self) -> Value {
        let paths: Vec<Value> = PATHS
            .iter()
            .enumerate()
            .map(|(index, place)| {
                let figures = self
                    .samples
                    .figures(index)
                    .map(|figure| self.figure(index, figure));
                json!({ "path": place.path, "figures": figures.collect::<Vec<_>>() })
            })
            .collect();
        json!({
            "date": self.machine.date,
            "machine": self.machine.json(),
            "rounds": self.rounds,
            "seconds_per_load": self.settings.seconds,
            "sockmap": self.settings.sockmap.as_deref().unwrap_or("default"),
            "elapsed_seconds": self.elapsed.as_secs_f64(),
            "paths": paths,
            "node_proxies": self.memory.iter().map(ProxyMemory::json).collect::<Vec<_>>(),
        })
    }

    fn figure(&self, path: usize, figure: Figure) -> Value {
        let side = |mode| {
            let spread = self.samples.spread(path, figure, mode)?;
            Some(json!({
                "median": spread.median,
                "min": spread.min,
                "max": spread.max,
                "samples": self.samples.values(path, figure, mode),
            }))
        };
        json!({
            "figure": figure.to_string(),
            "unit": figure.unit(),
            "direct": side(Mode::Direct),
            "mesh": side(Mode::Mesh),
            "ratio": self.samples.ratio(path, figure).map(|ratio| ratio.median),
        })
    }

    /// The tables for people.
    pub fn markdown(&self) -> String {
        let mut text = format!("{}.\n", self.machine);
        let seconds = self.settings.seconds;
        let mode = self.settings.sockmap.as_deref().unwrap_or("the default");
        let rounds = self.rounds;
        text += &format!(
            "Direct TCP and the mesh take turns: {rounds} rounds of {seconds} s per load; sockmap mode: {mode}. \
             Median (lowest to highest); the ratio is the median of the rounds' own ratios. \
             CPU per GB includes what a proxy uses when idle; connections may use memory that the proxy already had, so the difference is no price per connection.\n"
        );
        if self.machine.was_busy() {
            text += "\n**The machine was busy with other work: the figures are doubtful.**\n";
        }
        text += "\n| path | figure | direct | Tulle | Tulle ÷ direct |\n|---|---|--:|--:|--:|\n";
        for (index, place) in PATHS.iter().enumerate() {
            for figure in self.samples.figures(index) {
                text += &self.row(index, place.path, figure);
            }
        }
        text += "\n| node proxy | RSS idle | RSS with idle connections | connections |\n|---|--:|--:|--:|\n";
        for proxy in &self.memory {
            text += &memory_row(proxy);
        }
        text
    }

    fn row(&self, path: usize, name: &str, figure: Figure) -> String {
        let cell = |mode| {
            let spread = self.samples.spread(path, figure, mode);
            spread.map_or_else(|| "–".to_owned(), |spread| show(figure, spread))
        };
        let ratio = self.samples.ratio(path, figure);
        let ratio = ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{:.2}", ratio.median));
        let (direct, mesh) = (cell(Mode::Direct), cell(Mode::Mesh));
        format!("| {name} | {figure} | {direct} | {mesh} | {ratio} |\n")
    }
}

fn show(figure: Figure, spread: Spread) -> String {
    let [median, min, max] =
        [spread.median, spread.min, spread.max].map(|value| figure.show(value));
    format!("{median} ({min}–{max})")
}

fn memory_row(proxy: &ProxyMemory) -> String {
    let cell = |memory: super::proxy::Memory| {
        let mut text = format!("{:.1} MB", memory.resident as f64 / 1e6);
        // A `String` takes all that is written into it.
        write!(
            text,
            ", {:.1} of them anonymous",
            memory.anonymous as f64 / 1e6
        )
        .ok();
        text
    };
    format!(
        "| of the {}, two nodes | {} | {} | {} |\n",
        proxy.side,
        cell(proxy.idle),
        cell(proxy.loaded),
        proxy.connections
    )
}
