//! The guard against regressions: ratios and counts of one run against those that were written down.
//!
//! Never times: those say how fast and how busy a machine is.

use std::{fmt, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Mode, Report};

/// What must hold.
#[derive(Debug)]
pub struct Baseline(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    part: String,
    path: String,
    figure: String,
    /// Compared is the ratio of the lowest values to direct TCP, which a busy machine changes least; otherwise the value itself, which must be a count.
    is_ratio: bool,
    baseline: f64,
    /// How much worse it may be, as a share of the baseline.
    tolerance: f64,
}

/// What one rule came to.
#[derive(Debug)]
pub struct Verdict {
    what: String,
    seen: Option<f64>,
    baseline: f64,
    most: f64,
}

impl Baseline {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read or a rule is not complete.
    pub fn read(file: &Path) -> Result<Baseline> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        Baseline::parse(&text).with_context(|| file.display().to_string())
    }

    pub(super) fn parse(text: &str) -> Result<Baseline> {
        let value: Value = serde_json::from_str(text)?;
        let rules = value.get("rules").and_then(Value::as_array);
        let rules = rules.context("there is no list `rules`")?;
        ensure!(!rules.is_empty(), "the list `rules` is empty");
        Ok(Baseline(
            rules.iter().map(Rule::read).collect::<Result<_>>()?,
        ))
    }

    /// Compares a run with it.
    pub fn judge(&self, report: &Report) -> Vec<Verdict> {
        self.0.iter().map(|rule| rule.judge(report)).collect()
    }
}

impl Rule {
    fn read(value: &Value) -> Result<Rule> {
        let text = |key| {
            let text = value.get(key).and_then(Value::as_str);
            let text = text.with_context(|| format!("no text `{key}` in {value}"))?;
            anyhow::Ok(text.to_owned())
        };
        let number = |key| {
            let number = value.get(key).and_then(Value::as_f64);
            let number = number.with_context(|| format!("no number `{key}` in {value}"))?;
            ensure!(
                number.is_finite() && number >= 0.0,
                "`{key}` is {number} in {value}"
            );
            anyhow::Ok(number)
        };
        let compare = text("compare")?;
        ensure!(
            matches!(compare.as_str(), "ratio" | "count"),
            "`compare` is `{compare}`, expected `ratio` or `count`"
        );
        Ok(Rule {
            part: text("part")?,
            path: text("path")?,
            figure: text("figure")?,
            is_ratio: compare == "ratio",
            baseline: number("baseline")?,
            tolerance: number("tolerance")?,
        })
    }

    fn judge(&self, report: &Report) -> Verdict {
        let series = report.samples.find(&self.part, &self.path, &self.figure);
        let seen = series.and_then(|series| {
            if self.is_ratio {
                series.ratio_of_lowest(Mode::Tulle, Mode::Direct)
            } else {
                Some(series.spread(Mode::Tulle)?.median)
            }
        });
        let kind = if self.is_ratio { "÷ direct" } else { "count" };
        Verdict {
            what: format!("{}, {}, {} ({kind})", self.part, self.path, self.figure),
            seen,
            baseline: self.baseline,
            most: self.baseline * (1.0 + self.tolerance),
        }
    }
}

impl Verdict {
    /// Whether it is no worse than it may be; what was not measured does not hold.
    pub fn holds(&self) -> bool {
        self.seen.is_some_and(|seen| seen <= self.most)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict {
            what,
            baseline,
            most,
            ..
        } = self;
        let word = if self.holds() { "ok" } else { "WORSE" };
        match self.seen {
            Some(seen) => write!(
                f,
                "{word}: {what}: {seen:.2}, baseline {baseline:.2}, at most {most:.2}"
            ),
            None => write!(f, "WORSE: {what}: not measured, at most {most:.2}"),
        }
    }
}
