//! The set of endpoints that serve now.
//!
//! How the rules of a service compose, most important first. Each question splits what the one before it left together:
//!
//! | | question | answers, best first | from |
//! |---|---|---|---|
//! | 1 | may it serve at all? | only endpoints that are ready (or published unready, or shutting down) and have an address | health, `publishNotReadyAddresses` |
//! | 2 | is it near enough? | only those of the own node, if the service says so | `internalTrafficPolicy: Local` |
//! | 3 | does it serve for sure? | ready · shutting down, or of weight 0 · of a cluster that is silent or out of reach · both | health, weight, demotion, [`Ejected::clusters`] |
//! | 4 | which cluster is wanted? | `local`: own, others · `remote`: others, own · `local-node`: own node, own cluster, others | affinity |
//! | 5 | which place is next? | the order as written; whoever is not named comes last | `mesh.tulle.io/failover` |
//! | 6 | which is near? | `PreferSameZone`: own zone, region, cluster, others · `PreferSameNode`: own node, then the same | `trafficDistribution` |
//!
//! Those that answer 3 to 6 alike are a *group*. The first group with an endpoint that is not ejected serves, with all of its
//! endpoints that are not. Two things soften that:
//!
//! - **Panic.** If no group of that answer to 3 has few enough ejections to be believed (`panic_percent`), the group serves
//!   whole; and if everybody is ejected, nobody is. The observer may be the sick one.
//! - **Spill-over.** With `spillAt`, a place of the order (4 and 5 together) of which fewer percent are healthy gives a share
//!   of the connections to the next, in proportion to what it lacks; it takes them back some percent later.
//!   See `spill`.
//!
//! Kubernetes knows neither 2 nor 6 for headless services, and clients of those find the endpoints by DNS: both are left out.
//! Unlike Cilium (`pkg/clustermesh/loadbalancer`), a group is never filled up with endpoints that are not ready.
//!
//! A caller for whom only some endpoints will do (those with an IPv6 address, those that serve a certain port) filters the
//! endpoints, not the result: else a group that cannot serve hides one that can.
//!
//! **Invariant:** nobody serves only if no endpoint is usable (passes 1 and 2); the property tests hold it.

mod group;
mod rank;
mod spill;

use std::{net::SocketAddr, sync::Arc};

use tulle_model::{ClusterName, Locality, Service, Workload};

pub use self::spill::SpillState;
use self::{
    group::decide,
    rank::{Candidate, Doubt},
};
use crate::Ejected;

/// Where the client is.
#[derive(Debug, Clone, Copy)]
pub struct Viewpoint<'a> {
    /// The client's cluster.
    pub cluster: &'a ClusterName,
    /// The client's node.
    pub node: &'a str,
    /// Where the node is.
    pub locality: &'a Locality,
}

/// A workload, and the address at which it serves what is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'a> {
    /// Who serves.
    pub workload: &'a Arc<Workload>,
    /// Where it listens.
    pub address: SocketAddr,
}

/// An endpoint that serves.
#[derive(Debug, Clone, Copy)]
pub struct Serving<'a> {
    /// Who serves.
    pub workload: &'a Arc<Workload>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share, relative to those of the others; never 0.
    pub weight: u32,
}

/// The outcome of a choice.
#[derive(Debug, Clone)]
pub struct Selection<'a> {
    /// Who serves, in the order in which the endpoints came.
    pub serving: Vec<Serving<'a>>,
    /// What the next choice for this service should know.
    pub spill: SpillState,
}

/// What was decided about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It serves, with a share relative to those of the others.
    Serves {
        /// Never 0.
        weight: u32,
    },
    /// It does not.
    Out(Reason),
}

/// Why an endpoint does not serve now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It is not ready.
    NotReady,
    /// It has no address.
    NoAddress,
    /// `internalTrafficPolicy: Local`, and it is on another node.
    OtherNode,
    /// It could not be reached a moment ago.
    Ejected,
    /// It is shutting down, and others serve.
    Terminating,
    /// Its weight is 0, and others serve.
    Drained,
    /// Its cluster is silent or out of reach, and others serve.
    Demoted,
    /// The affinity prefers others.
    Affinity,
    /// The order of failover puts others first.
    Failover,
    /// Others are nearer.
    Distance,
}

impl Reason {
    /// One word for outputs of programs.
    pub fn name(self) -> &'static str {
        match self {
            Reason::NotReady => "not-ready",
            Reason::NoAddress => "no-address",
            Reason::OtherNode => "other-node",
            Reason::Ejected => "ejected",
            Reason::Terminating => "terminating",
            Reason::Drained => "drained",
            Reason::Demoted => "cluster-silent",
            Reason::Affinity => "affinity",
            Reason::Failover => "failover",
            Reason::Distance => "distance",
        }
    }
}

/// Chooses the endpoints that serve a client at `from` now: see the module's table.
pub fn select<'a>(
    from: Viewpoint<'_>,
    service: &Service,
    endpoints: impl IntoIterator<Item = Endpoint<'a>>,
    ejected: &Ejected,
    spill: &SpillState,
) -> Selection<'a> {
    let endpoints: Vec<Endpoint<'a>> = endpoints.into_iter().collect();
    let (verdicts, spill) = judge(from, service, &endpoints, ejected, spill);
    let serving = endpoints.iter().zip(verdicts).filter_map(serving_of);
    Selection {
        serving: serving.collect(),
        spill,
    }
}

/// The verdict on each of the endpoints, in their order: what [`select`] does, with its reasons.
pub fn explain<'a>(
    from: Viewpoint<'_>,
    service: &Service,
    endpoints: impl IntoIterator<Item = Endpoint<'a>>,
    ejected: &Ejected,
    spill: &SpillState,
) -> Vec<(Endpoint<'a>, Verdict)> {
    let endpoints: Vec<Endpoint<'a>> = endpoints.into_iter().collect();
    let (verdicts, _) = judge(from, service, &endpoints, ejected, spill);
    endpoints.into_iter().zip(verdicts).collect()
}

/// As [`select`], for those who look for whole workloads and have no use for addresses or weights.
///
/// `used` are the addresses at which an endpoint would be asked; it counts as ejected when all of them are, since one that is
/// left is enough to serve. An endpoint without such an address is nobody of whom a connection could have found out anything.
pub fn select_endpoints<'a, A>(
    from: Viewpoint<'_>,
    service: &Service,
    endpoints: impl Iterator<Item = &'a Arc<Workload>>,
    ejected: &Ejected,
    used: impl Fn(&'a Workload) -> A,
) -> Vec<&'a Arc<Workload>>
where
    A: IntoIterator<Item = SocketAddr>,
{
    let workloads: Vec<&Arc<Workload>> = endpoints.collect();
    let candidate = |workload: &&'a Arc<Workload>| {
        let doubt = Doubt {
            ejected: ejected.has_addresses() && ejected.contains_all(used(workload)),
            out_of_reach: ejected.is_out_of_reach(&workload.cluster),
        };
        Candidate::of(from, service, workload, doubt)
    };
    let candidates: Vec<_> = workloads.iter().map(candidate).collect();
    let (verdicts, _) = decide(service, &candidates, ejected, &SpillState::default());
    let serves = |verdict: &Verdict| matches!(verdict, Verdict::Serves { .. });
    let chosen = workloads.into_iter().zip(verdicts);
    chosen.filter(|(_, v)| serves(v)).map(|(w, _)| w).collect()
}

fn judge(
    from: Viewpoint<'_>,
    service: &Service,
    endpoints: &[Endpoint<'_>],
    ejected: &Ejected,
    spill: &SpillState,
) -> (Vec<Verdict>, SpillState) {
    let candidate = |endpoint: &Endpoint<'_>| {
        let doubt = Doubt {
            ejected: ejected.contains(endpoint.address),
            out_of_reach: ejected.is_out_of_reach(&endpoint.workload.cluster),
        };
        Candidate::of(from, service, endpoint.workload, doubt)
    };
    let candidates: Vec<Candidate> = endpoints.iter().map(candidate).collect();
    decide(service, &candidates, ejected, spill)
}

fn serving_of<'a>((endpoint, verdict): (&Endpoint<'a>, Verdict)) -> Option<Serving<'a>> {
    match verdict {
        Verdict::Serves { weight } => Some(Serving {
            workload: endpoint.workload,
            address: endpoint.address,
            weight,
        }),
        Verdict::Out(_) => None,
    }
}

#[cfg(test)]
mod tests;
