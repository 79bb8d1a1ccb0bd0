//! The same question at several sizes of the mesh: a figure for each, and whether the last is as good as the first.

use anyhow::{Context as _, Result};

use super::{
    figure::{Figure, Sample},
    place::Place,
    samples::Spread,
};

/// What was seen, size by size.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    seen: Vec<Vec<f64>>,
    samples: Vec<Sample>,
}

impl Sizes {
    /// Asks at one size, as often as the run has rounds.
    pub(super) fn ask(
        &mut self,
        place: &Place<'_>,
        figure: &Figure,
        mut ask: impl FnMut() -> Result<f64>,
    ) -> Result<()> {
        let values = (0..place.settings.rounds).map(|_| ask());
        let values: Vec<f64> = values.collect::<Result<_>>()?;
        let samples = values.iter().map(|value| figure.clone().of(*value));
        self.samples.extend(samples);
        self.seen.push(values);
        Ok(())
    }

    /// Everything, and as `figure` how the last size compares with the first: what one run saw of both, by their medians.
    ///
    /// # Errors
    /// When one of them was never measured.
    pub(super) fn compared(mut self, figure: Figure) -> Result<Vec<Sample>> {
        let median = |values: Option<&Vec<f64>>| {
            let spread = values.and_then(|values| Spread::of(values));
            anyhow::Ok(spread.context("a size was not measured")?.median)
        };
        let ratio = median(self.seen.last())? / median(self.seen.first())?;
        self.samples.push(figure.of(ratio));
        Ok(self.samples)
    }
}
