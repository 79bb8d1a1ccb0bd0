//! What was seen, and how it is summed up.

use std::collections::BTreeMap;

use super::{
    Mode,
    figure::{Figure, Sample},
    place::Path,
};

/// All samples of a run, in the order in which their figures first came.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<Series>);

/// The samples of one figure on one path.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) part: &'static str,
    pub(super) path: Path,
    pub(super) figure: Figure,
    values: BTreeMap<Mode, Vec<f64>>,
}

/// The middle and the ends of some samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Samples {
    pub(super) fn extend(
        &mut self,
        part: &'static str,
        path: Path,
        mode: Mode,
        seen: impl IntoIterator<Item = Sample>,
    ) {
        for (figure, value) in seen {
            self.add(part, path, mode, figure, value);
        }
    }

    fn add(&mut self, part: &'static str, path: Path, mode: Mode, figure: Figure, value: f64) {
        let of = |series: &Series| {
            series.part == part && series.path == path && series.figure.name == figure.name
        };
        let at = self.0.iter().position(of).unwrap_or_else(|| {
            self.0.push(Series {
                part,
                path,
                figure,
                values: BTreeMap::new(),
            });
            self.0.len() - 1
        });
        if let Some(series) = self.0.get_mut(at) {
            series.values.entry(mode).or_default().push(value);
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Series> {
        self.0.iter()
    }

    /// The series of a figure, by the names that the report uses.
    pub(super) fn find(&self, part: &str, path: &str, figure: &str) -> Option<&Series> {
        self.0.iter().find(|series| {
            series.part == part && series.path.to_string() == path && series.figure.name == figure
        })
    }
}

impl Series {
    /// The samples in the order in which they were taken.
    pub(super) fn values(&self, mode: Mode) -> &[f64] {
        self.values.get(&mode).map_or(&[], Vec::as_slice)
    }

    pub(super) fn spread(&self, mode: Mode) -> Option<Spread> {
        Spread::of(self.values(mode))
    }

    /// One mode's value per another's, round by round: both ran within seconds of each other, so the machine's moods cancel.
    pub(super) fn ratio(&self, mode: Mode, to: Mode) -> Option<Spread> {
        let pairs = self.values(mode).iter().zip(self.values(to));
        let ratios: Vec<f64> = pairs
            .filter(|(_, to)| **to > 0.0)
            .map(|(value, to)| value / to)
            .collect();
        Spread::of(&ratios)
    }

    /// What one mode has more than `base` per what another has more than it, round by round; rounds in which the other has not more do
    /// not count.
    pub(super) fn added_ratio(&self, mode: Mode, to: Mode, base: Mode) -> Option<Spread> {
        let pairs = self.values(mode).iter().zip(self.values(to));
        let ratios: Vec<f64> = pairs
            .zip(self.values(base))
            .filter(|((_, to), base)| to > base)
            .map(|((value, to), base)| (value - base) / (to - base))
            .collect();
        Spread::of(&ratios)
    }

    /// The lowest value of one mode per the lowest of another: of times, what no other work has disturbed.
    pub(super) fn ratio_of_lowest(&self, mode: Mode, to: Mode) -> Option<f64> {
        let (value, to) = (self.spread(mode)?.min, self.spread(to)?.min);
        (to > 0.0).then(|| value / to)
    }
}

impl Spread {
    /// `None` without samples.
    pub(super) fn of(samples: &[f64]) -> Option<Spread> {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        Some(Spread {
            median: f64::midpoint(lower, upper),
            min,
            max,
        })
    }
}
