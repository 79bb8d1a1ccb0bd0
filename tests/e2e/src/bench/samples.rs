//! What was seen, and how it is summed up.

use std::collections::BTreeMap;

use super::{Mode, figure::Figure};

/// All samples of a run, by path, figure and mode.
#[derive(Debug, Default)]
pub(super) struct Samples(BTreeMap<(usize, Figure), BTreeMap<Mode, Vec<f64>>>);

/// The middle and the ends of some samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Samples {
    pub(super) fn add(&mut self, path: usize, figure: Figure, mode: Mode, value: f64) {
        self.0
            .entry((path, figure))
            .or_default()
            .entry(mode)
            .or_default()
            .push(value);
    }

    /// The figures of a path, in the order of the table.
    pub(super) fn figures(&self, path: usize) -> impl Iterator<Item = Figure> {
        self.0
            .keys()
            .filter(move |(of, _)| *of == path)
            .map(|(_, figure)| *figure)
    }

    /// The samples in the order in which they were taken.
    pub(super) fn values(&self, path: usize, figure: Figure, mode: Mode) -> &[f64] {
        let modes = self.0.get(&(path, figure));
        modes
            .and_then(|modes| modes.get(&mode))
            .map_or(&[], Vec::as_slice)
    }

    pub(super) fn spread(&self, path: usize, figure: Figure, mode: Mode) -> Option<Spread> {
        Spread::of(self.values(path, figure, mode))
    }

    /// The mesh's value per direct value, round by round: both ran within seconds of each other, so the machine's moods cancel.
    pub(super) fn ratio(&self, path: usize, figure: Figure) -> Option<Spread> {
        let direct = self.values(path, figure, Mode::Direct);
        let mesh = self.values(path, figure, Mode::Mesh);
        let ratios: Vec<f64> = mesh
            .iter()
            .zip(direct)
            .map(|(mesh, direct)| mesh / direct)
            .collect();
        Spread::of(&ratios)
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
