//! What the proxies do for one request: system calls and allocations, counted.
//!
//! Counts do not depend on how busy the machine is, so they can guard against regressions where times cannot.

use std::time::Duration;

use anyhow::Result;

use crate::bench::{
    Settings,
    figure::{Figure, Sample, Unit},
    part::Part,
    place::{BETWEEN_NODES, Path, Place},
    trace::Tracing,
};

/// System calls of all proxies on the path.
pub(in crate::bench) struct Syscalls;
/// Calls of the allocator of all proxies on the path.
pub(in crate::bench) struct Allocations;

impl Part for Syscalls {
    fn name(&self) -> &'static str {
        "syscalls"
    }

    fn paths(&self, _: &Settings) -> &'static [Path] {
        &BETWEEN_NODES
    }

    fn needs_proxy(&self) -> bool {
        true
    }

    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>> {
        let tracing = Tracing::begin()?;
        let proxies = place.proxies()?;
        let each = per_request(|requests| {
            tracing.system_calls(&proxies, || requests_of(place, requests))
        })?;
        let figure = Figure::new(PER_REQUEST, Unit::Count);
        Ok(vec![figure.headline(true).of(each)])
    }
}

impl Part for Allocations {
    fn name(&self) -> &'static str {
        "allocations"
    }

    fn paths(&self, _: &Settings) -> &'static [Path] {
        &BETWEEN_NODES
    }

    fn needs_proxy(&self) -> bool {
        true
    }

    fn not_for_peer(&self) -> Option<&'static str> {
        Some("a program without symbols cannot be watched")
    }

    fn measure(&self, place: &Place<'_>) -> Result<Vec<Sample>> {
        let mut tracing = Tracing::begin()?;
        let proxies = place.proxies()?;
        let program = place.settings.binaries.join("node-proxy").canonicalize()?;
        tracing.watch_functions(&program, &ALLOCATORS)?;
        let each = per_request(|requests| {
            tracing.function_calls(&proxies, || requests_of(place, requests))
        })?;
        let figure = Figure::new(PER_REQUEST, Unit::Count);
        Ok(vec![figure.headline(true).of(each)])
    }
}

/// Counts a short and a long load: what both need to begin and end cancels.
fn per_request(mut count: impl FnMut(u32) -> Result<usize>) -> Result<f64> {
    let (few, many) = (count(FEW)?, count(MANY)?);
    let more = many as f64 - few as f64;
    Ok((more / f64::from(MANY - FEW)).max(0.0))
}

fn requests_of(place: &Place<'_>, requests: u32) -> Result<()> {
    let arguments = ["--requests", &requests.to_string()];
    place.load_exactly("latency", &arguments, LONGEST)?;
    Ok(())
}

/// 64 bytes on one connection.
pub(in crate::bench) const PER_REQUEST: &str = "64 B, 1 connection, per request";
const FEW: u32 = 500;
const MANY: u32 = 4_500;
const LONGEST: Duration = Duration::from_secs(10);
/// What Rust's `alloc` calls; the compiler makes them for each program, whichever allocator is behind.
const ALLOCATORS: [&str; 3] = ["___rust_alloc", "___rust_alloc_zeroed", "___rust_realloc"];
