//! Round trips on kept connections, and the processor time that the proxies need for them.

use anyhow::Result;

use crate::bench::{
    Settings,
    figure::{Figure, Sample, Unit},
    part::Part,
    place::{IN_CLUSTER, PATHS, Path, Place},
};

/// One number of connections, one size of messages.
pub(in crate::bench) struct Latency {
    pub(in crate::bench) connections: u32,
    pub(in crate::bench) size: u32,
}

impl Part for Latency {
    fn name(&self) -> &'static str {
        "latency"
    }

    fn paths(&self, settings: &Settings) -> &'static [Path] {
        if settings.quick { &IN_CLUSTER } else { &PATHS }
    }

    fn is_quick(&self) -> bool {
        matches!(
            (self.connections, self.size),
            (1 | 16 | 64, 64) | (1, 16_384)
        )
    }

    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>> {
        let (connections, size) = (self.connections.to_string(), self.size.to_string());
        let outcome = place.load("latency", &["--connections", &connections, "--size", &size])?;
        let name = |what: &str| {
            let connections = plural(self.connections, "connection");
            format!("{}, {connections}, {what}", bytes(self.size))
        };
        let is_first = self.connections == 1 && self.size == 64;
        let is_small = self.size == 64;
        let mut samples = vec![
            Figure::new(name("p50"), Unit::Micros)
                .headline(is_small)
                .of(outcome.number("p50_us")?),
            Figure::new(name("p90"), Unit::Micros).of(outcome.number("p90_us")?),
            Figure::new(name("p99"), Unit::Micros)
                .headline(is_first)
                .of(outcome.number("p99_us")?),
            Figure::new(name("requests"), Unit::PerSecond).of(outcome.number("per_second")?),
        ];
        if let Some(millis) = outcome.millis_per_thousand()? {
            let figure = Figure::new(name("proxies"), Unit::MillisPerThousand);
            samples.push(figure.headline(is_first).of(millis));
        }
        Ok(samples)
    }
}

fn bytes(size: u32) -> String {
    match size {
        size if size >= 1024 => format!("{} KiB", size / 1024),
        size => format!("{size} B"),
    }
}

pub(in crate::bench) fn plural(count: u32, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}
