//! The parts, in the order in which they are measured: what leaves traces in a rig comes after what does not.

mod churn;
mod connect;
mod endpoints;
mod fairness;
mod head_of_line;
mod http;
mod latency;
mod memory;
mod pods;
mod policies;
mod services;
mod syscalls;
mod throughput;
mod udp;

use anyhow::{Result, ensure};

#[cfg(test)]
pub(super) use self::{
    churn::figures as churn_figures,
    http::{h2load, wrk},
};
use super::{Settings, part::Part};

/// All parts; those of one name are one part with several loads.
pub(super) fn all() -> Vec<Box<dyn Part>> {
    let mut parts: Vec<Box<dyn Part>> = vec![
        // Before the loads, which leave the proxies with more memory than an idle one has.
        Box::new(memory::Idle),
        Box::new(memory::Held),
    ];
    for connections in [1, 16, 64] {
        for size in [64, 1024, 16 * 1024] {
            parts.push(Box::new(latency::Latency { connections, size }));
        }
    }
    for streams in [1, 4, 16] {
        parts.push(Box::new(throughput::Throughput { streams }));
    }
    for clients in [1, 32] {
        parts.push(Box::new(connect::Connect { clients }));
    }
    parts.push(Box::new(udp::Udp));
    parts.push(Box::new(http::Http));
    parts.push(Box::new(syscalls::Syscalls));
    parts.push(Box::new(syscalls::Allocations));
    parts.push(Box::new(head_of_line::HeadOfLine));
    parts.push(Box::new(fairness::Elephant));
    parts.push(Box::new(fairness::Flood));
    parts.push(Box::new(churn::Churn));
    parts.push(Box::new(memory::Moved));
    parts.push(Box::new(pods::Pods));
    parts.push(Box::new(services::Services));
    parts.push(Box::new(endpoints::Endpoints));
    parts.push(Box::new(policies::Policies));
    parts
}

/// What the gate looks at: ratios and counts, which a busy machine changes little.
fn gate() -> Vec<Box<dyn Part>> {
    vec![
        Box::new(latency::Latency {
            connections: 1,
            size: 64,
        }),
        Box::new(syscalls::Syscalls),
        Box::new(syscalls::Allocations),
    ]
}

/// The parts that the filter names, or all.
pub(super) fn chosen(settings: &Settings) -> Result<Vec<Box<dyn Part>>> {
    let all = if settings.gate { gate() } else { all() };
    for wanted in &settings.filter {
        let known: Vec<_> = super::part_names();
        ensure!(
            known.contains(&wanted.as_str()),
            "there is no part `{wanted}`; there are {}",
            known.join(", ")
        );
    }
    let is_wanted = |part: &dyn Part| match settings.filter.as_slice() {
        [] => !settings.quick || part.is_quick(),
        names => names.iter().any(|name| name == part.name()),
    };
    Ok(all
        .into_iter()
        .filter(|part| is_wanted(part.as_ref()))
        .collect())
}
