//! New connections: connect, one request and its answer, close by the server.

use anyhow::Result;

use super::latency::plural;
use crate::bench::{
    Settings,
    figure::{Figure, Sample, Unit},
    part::Part,
    place::{IN_CLUSTER, PATHS, Path, Place},
};

/// So many clients at once.
pub(in crate::bench) struct Connect {
    pub(in crate::bench) clients: u32,
}

impl Part for Connect {
    fn name(&self) -> &'static str {
        "connect"
    }

    fn paths(&self, settings: &Settings) -> &'static [Path] {
        if settings.quick { &IN_CLUSTER } else { &PATHS }
    }

    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>> {
        let outcome = place.load("connect", &["--clients", &self.clients.to_string()])?;
        let name = |what: &str| format!("{}, {what}", plural(self.clients, "client"));
        let mut samples = vec![
            Figure::new(name("new connections"), Unit::PerSecond)
                .headline(true)
                .of(outcome.number("per_second")?),
            Figure::new(name("to the answer, p50"), Unit::Micros).of(outcome.number("p50_us")?),
            Figure::new(name("to the answer, p99"), Unit::Micros).of(outcome.number("p99_us")?),
        ];
        if let Some(millis) = outcome.millis_per_thousand()? {
            let figure = Figure::new(name("proxies"), Unit::MillisPerThousand);
            samples.push(figure.of(millis));
        }
        Ok(samples)
    }
}
