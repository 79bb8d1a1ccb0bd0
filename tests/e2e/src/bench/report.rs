//! The outcome of a run, as JSON and as a Markdown table.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Failure, LeftOut, Mode, Settings,
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
    pub(super) left_out: Vec<LeftOut>,
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
        let has_peer = self.settings.peer.is_some();
        let series = |series| series_json(series, has_peer);
        let figures: Vec<Value> = self.samples.all().map(series).collect();
        let left_out: Vec<String> = self.left_out.iter().map(LeftOut::to_string).collect();
        json!({
            "date": self.machine.date,
            "machine": self.machine.json(),
            "rounds": self.settings.rounds,
            "seconds_per_load": self.settings.length.as_secs_f64(),
            "quick": self.settings.quick,
            "sockmap": self.settings.sockmap.as_deref().unwrap_or("default"),
            "pacing": self.settings.pacing.as_deref().unwrap_or("default"),
            "elapsed_seconds": self.elapsed.as_secs_f64(),
            "figures": figures,
            "failures": self.failures(),
            "cut_short": self.cut,
            "not_asked_of_the_peer": left_out,
        })
    }

    /// The table for people: everything, or only what a reader in a hurry wants, and no figure there that nothing compares with.
    pub fn markdown(&self, only_headlines: bool) -> String {
        let mut text = format!("{}.\n", self.machine);
        let (rounds, seconds) = (self.settings.rounds, self.settings.length.as_secs_f64());
        let told = self.settings.node_proxy_arguments().join(" ");
        let mode = match told.as_str() {
            "" => "as they are by default",
            told => told,
        };
        text += &format!(
            "Direct TCP and the mesh (with a policy that judges every connection) take turns: {rounds} rounds of {seconds} s per load; \
             the node proxies: {mode}. Median (lowest to highest); the ratio is the median of the rounds' own ratios. What the proxies use is \
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
        let has_peer = self.settings.peer.is_some();
        if has_peer {
            text += PEER_TEXT;
            if !self.left_out.is_empty() {
                text += "It is not asked:\n\n";
            }
            for left_out in &self.left_out {
                text += &format!("- {left_out}\n");
            }
            text += "\n";
        }
        text += if has_peer { PEER_HEAD } else { HEAD };
        for series in self.samples.all() {
            if !only_headlines || (series.figure.is_headline && has_ratio(series)) {
                text += &row(series, has_peer);
            }
        }
        text
    }
}

fn series_json(series: &Series, has_peer: bool) -> Value {
    let side = |mode| {
        let spread = series.spread(mode)?;
        Some(json!({
            "median": spread.median,
            "min": spread.min,
            "max": spread.max,
            "samples": series.values(mode),
        }))
    };
    let ratio = |mode, to| series.ratio(mode, to).map(ratio_json);
    let mut value = json!({
        "part": series.part,
        "path": series.path.to_string(),
        "figure": series.figure.name,
        "unit": series.figure.unit.text(),
        "less_is_better": series.figure.unit.is_less_better(),
        "headline": series.figure.is_headline,
        "direct": side(Mode::Direct),
        "tulle": side(Mode::Tulle),
        "ratio": ratio(Mode::Tulle, Mode::Direct),
    });
    if let Some(fields) = value.as_object_mut().filter(|_| has_peer) {
        let added = added_ratio(series).map(ratio_json);
        fields.insert("ztunnel".to_owned(), json!(side(Mode::Ztunnel)));
        fields.insert(
            "ztunnel_ratio".to_owned(),
            json!(ratio(Mode::Ztunnel, Mode::Direct)),
        );
        fields.insert(
            "ratio_to_ztunnel".to_owned(),
            json!(ratio(Mode::Tulle, Mode::Ztunnel)),
        );
        fields.insert("added_ratio_to_ztunnel".to_owned(), json!(added));
    }
    value
}

fn ratio_json(ratio: Spread) -> Value {
    json!({ "median": ratio.median, "min": ratio.min, "max": ratio.max })
}

/// What Tulle adds to direct TCP per what the peer adds to it; only times have something added.
fn added_ratio(series: &Series) -> Option<Spread> {
    match series.figure.unit {
        Unit::Micros => series.added_ratio(Mode::Tulle, Mode::Ztunnel, Mode::Direct),
        _ => None,
    }
}

fn has_ratio(series: &Series) -> bool {
    let to = |mode| series.ratio(Mode::Tulle, mode).is_some();
    to(Mode::Direct) || to(Mode::Ztunnel)
}

fn row(series: &Series, has_peer: bool) -> String {
    let unit = series.figure.unit;
    let cell = |mode| {
        let spread = series.spread(mode);
        spread.map_or_else(|| "–".to_owned(), |spread| show(unit, spread))
    };
    let times = |ratio: Option<Spread>| {
        ratio.map_or_else(|| "–".to_owned(), |ratio| show(Unit::Times, ratio))
    };
    let ratio = times(series.ratio(Mode::Tulle, Mode::Direct));
    let (direct, tulle) = (cell(Mode::Direct), cell(Mode::Tulle));
    let (part, path, figure) = (series.part, series.path, series.figure.label());
    let mut row = format!("| {part} | {path} | {figure} | {direct} | {tulle} | {ratio} |");
    if has_peer {
        let (peer, ratio) = (
            cell(Mode::Ztunnel),
            times(series.ratio(Mode::Tulle, Mode::Ztunnel)),
        );
        row += &format!(" {peer} | {ratio} | {} |", times(added_ratio(series)));
    }
    row + "\n"
}

fn show(unit: Unit, spread: Spread) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(|value| unit.show(value));
    if min == max {
        return median;
    }
    format!("{median} ({min}–{max})")
}

const HEAD: &str =
    "\n| part | path | figure | direct | Tulle | Tulle ÷ direct |\n|---|---|---|--:|--:|--:|\n";
const PEER_HEAD: &str = "\n| part | path | figure | direct | Tulle | Tulle ÷ direct | ztunnel | Tulle ÷ ztunnel | added: Tulle ÷ ztunnel |\n\
    |---|---|---|--:|--:|--:|--:|--:|--:|\n";
const PEER_TEXT: &str = "\nztunnel takes turns with them, in the same lab, with the same control plane and a policy of its own language; `added` compares \
    what each adds to direct TCP. ";
