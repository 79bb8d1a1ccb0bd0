//! Bytes from client to server, and the processor time that the proxies need for them.

use anyhow::Result;

use super::latency::plural;
use crate::bench::{
    Settings,
    figure::{Figure, Sample, Unit},
    part::Part,
    place::{IN_CLUSTER, PATHS, Path, Place},
};

/// So many streams at once.
pub(in crate::bench) struct Throughput {
    pub(in crate::bench) streams: u32,
}

impl Part for Throughput {
    fn name(&self) -> &'static str {
        "throughput"
    }

    fn paths(&self, settings: &Settings) -> &'static [Path] {
        if settings.quick { &IN_CLUSTER } else { &PATHS }
    }

    fn is_quick(&self) -> bool {
        self.streams < 16
    }

    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>> {
        let outcome = place.load("upload", &["--streams", &self.streams.to_string()])?;
        let name = |what: &str| format!("{}, {what}", plural(self.streams, "stream"));
        let rate = outcome.number("bytes_per_second")? / 1e6;
        let figure = Figure::new(name("upload"), Unit::MegabytesPerSecond);
        let mut samples = vec![figure.headline(self.streams < 16).of(rate)];
        if let Some(spent) = outcome.spent {
            let figure = Figure::new(name("proxies"), Unit::SecondsPerGigabyte);
            let per_gigabyte = spent.as_secs_f64() / (outcome.number("bytes")? / 1e9);
            samples.push(figure.headline(self.streams == 1).of(per_gigabyte));
        }
        Ok(samples)
    }
}
