//! Head of line: small requests by the clock beside a bulk upload between the same two pods, over a link of 300 Mbit/s.

use std::time::Duration;

use anyhow::Result;

use crate::bench::{
    Settings,
    figure::{Figure, Sample, Unit},
    part::Part,
    place::{BETWEEN_NODES, Path, Place, number},
    stage::{CLIENT, Stage, finish},
};

/// 200 requests per second, alone and beside the upload.
pub(in crate::bench) struct HeadOfLine;

impl Part for HeadOfLine {
    fn name(&self) -> &'static str {
        "head-of-line"
    }

    fn paths(&self, _: &Settings) -> &'static [Path] {
        &BETWEEN_NODES
    }

    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>> {
        let link = SlowLink::begin(place.stage)?;
        let length = (place.settings.length * 2).max(LENGTH_MIN);
        let alone = paced(place, length)?;
        let upload_length = (length + UPLOAD_MORE).as_secs_f64().to_string();
        let upload = place.start("upload", &["--seconds", &upload_length])?;
        // Until the upload has filled what it can fill.
        place.rest(UPLOAD_MORE / 2);
        let beside = paced(place, length)?;
        let output = finish(upload, length * 10)?;
        link.end()?;
        let moved = serde_json::from_slice(&output.stdout)?;
        let figure = |name: &str| Figure::new(name, Unit::Micros);
        Ok(vec![
            figure("alone, p50").of(number(&alone, "p50_us")?),
            figure("alone, p99").of(number(&alone, "p99_us")?),
            figure("beside bulk, p50")
                .headline(true)
                .of(number(&beside, "p50_us")?),
            figure("beside bulk, p99")
                .headline(true)
                .of(number(&beside, "p99_us")?),
            Figure::new("bulk", Unit::MegabytesPerSecond)
                .of(number(&moved, "bytes_per_second")? / 1e6),
        ])
    }
}

fn paced(place: &Place<'_>, length: Duration) -> Result<serde_json::Value> {
    let seconds = length.as_secs_f64().to_string();
    let arguments = ["--rate", "200", "--seconds", &seconds];
    Ok(place.load_exactly("paced", &arguments, length)?.answer)
}

/// The client's link while it is slow.
pub(super) struct SlowLink<'a> {
    stage: &'a Stage,
    is_over: bool,
}

impl SlowLink<'_> {
    pub(super) fn begin(stage: &Stage) -> Result<SlowLink<'_>> {
        stage.inside(CLIENT, &BEGIN)?;
        Ok(SlowLink {
            stage,
            is_over: false,
        })
    }

    pub(super) fn end(mut self) -> Result<()> {
        self.is_over = true;
        self.stage.inside(CLIENT, &END)
    }
}

impl Drop for SlowLink<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            // On the way out of an error, which is what is told.
            self.stage.inside(CLIENT, &END).ok();
        }
    }
}

const BEGIN: [&str; 13] = [
    "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "300mbit", "burst", "64kb",
    "latency", "50ms",
];
const END: [&str; 6] = ["tc", "qdisc", "del", "dev", "eth0", "root"];
const LENGTH_MIN: Duration = Duration::from_secs(1);
const UPLOAD_MORE: Duration = Duration::from_secs(1);
