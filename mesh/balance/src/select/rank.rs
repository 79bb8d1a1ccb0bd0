//! One endpoint by itself: may it serve, and how well does it fit.

use tulle_model::{
    Affinity, Failover, FailoverTarget, Health, Service, TrafficDistribution, TrafficPolicy,
    Workload,
};

use super::{Reason, Viewpoint};

/// What there is to know of one endpoint before it is compared with others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Its place in the order of failover, whether it may serve or not.
    pub(super) level: Level,
    /// How well it fits, or why it may not serve at all.
    pub(super) rank: Result<Rank, Reason>,
    pub(super) ejected: bool,
    pub(super) capacity: u32,
}

/// What connections found out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Doubt {
    /// About the endpoint.
    pub(super) ejected: bool,
    /// About its cluster.
    pub(super) out_of_reach: bool,
}

/// How well an endpoint fits; the smallest is best. Endpoints of one rank are a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) standing: Standing,
    pub(super) level: Level,
    pub(super) distance: u8,
}

/// How sure it is that an endpoint serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Ready, by word of a living cluster.
    Sure,
    /// Shutting down, or taken out of use by its weight, and still serving.
    Leaving,
    /// Ready, when its cluster was last heard or reached.
    Hearsay,
    /// Leaving, when its cluster was last heard or reached.
    LeavingHearsay,
}

/// A place in the order that affinity and failover make together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Level {
    pub(super) affinity: u8,
    pub(super) failover: usize,
}

impl Candidate {
    pub(super) fn of(
        from: Viewpoint<'_>,
        service: &Service,
        workload: &Workload,
        doubt: Doubt,
    ) -> Self {
        let place = Place::of(from, workload);
        let level = Level {
            affinity: place.affinity_tier(service.sharing.affinity),
            failover: failover_index(service.failover.as_ref(), workload),
        };
        // Who cannot reach its own cluster is the sick one.
        let is_hearsay = workload.demoted || doubt.out_of_reach && place == Place::Elsewhere;
        let rank = standing(service, workload, is_hearsay).and_then(|standing| {
            let near = place == Place::Node || !stays_on_node(service);
            let rank = Rank {
                standing,
                level,
                distance: distance(from, service, workload, place),
            };
            near.then_some(rank).ok_or(Reason::OtherNode)
        });
        Candidate {
            level,
            rank,
            ejected: doubt.ejected,
            capacity: workload.capacity,
        }
    }

    /// The rank of an endpoint that may serve and was not found unreachable.
    pub(super) fn sound_rank(&self) -> Option<Rank> {
        self.rank.ok().filter(|_| !self.ejected)
    }

    /// Ready by word of a living cluster, and not found unreachable.
    pub(super) fn is_healthy(&self) -> bool {
        self.sound_rank()
            .is_some_and(|rank| rank.standing == Standing::Sure)
    }

    /// Why an endpoint of this rank does not serve while one of rank `best` does.
    pub(super) fn reason(&self, rank: Rank, best: Rank) -> Reason {
        if rank.standing > best.standing {
            return match rank.standing {
                Standing::Hearsay | Standing::LeavingHearsay
                    if best.standing < Standing::Hearsay =>
                {
                    Reason::Demoted
                }
                Standing::Sure
                | Standing::Leaving
                | Standing::Hearsay
                | Standing::LeavingHearsay => self.reason_to_leave(),
            };
        }
        if self.ejected {
            Reason::Ejected
        } else if rank.level.affinity != best.level.affinity {
            Reason::Affinity
        } else if rank.level.failover != best.level.failover {
            Reason::Failover
        } else {
            Reason::Distance
        }
    }

    fn reason_to_leave(&self) -> Reason {
        if self.capacity == 0 {
            Reason::Drained
        } else {
            Reason::Terminating
        }
    }
}

/// The client's own node, its own cluster, or another one. Nodes of two clusters may have one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Node,
    Cluster,
    Elsewhere,
}

impl Place {
    fn of(from: Viewpoint<'_>, workload: &Workload) -> Self {
        if workload.cluster != *from.cluster {
            Place::Elsewhere
        } else if workload.node == from.node {
            Place::Node
        } else {
            Place::Cluster
        }
    }

    fn affinity_tier(self, affinity: Affinity) -> u8 {
        match (affinity, self) {
            (Affinity::None, _) => 0,
            (Affinity::Local, place) => u8::from(place == Place::Elsewhere),
            (Affinity::Remote, place) => u8::from(place != Place::Elsewhere),
            (Affinity::LocalNode, Place::Node) => 0,
            (Affinity::LocalNode, Place::Cluster) => 1,
            (Affinity::LocalNode, Place::Elsewhere) => 2,
        }
    }
}

fn standing(service: &Service, workload: &Workload, is_hearsay: bool) -> Result<Standing, Reason> {
    if workload.addresses.is_empty() {
        return Err(Reason::NoAddress);
    }
    let leaving = match workload.health {
        // As in an EndpointSlice: published addresses count as ready to their last moment.
        _ if service.publish_not_ready => false,
        Health::Healthy => false,
        Health::Terminating => true,
        Health::Unhealthy => return Err(Reason::NotReady),
    };
    Ok(match (is_hearsay, leaving || workload.capacity == 0) {
        (false, false) => Standing::Sure,
        (false, true) => Standing::Leaving,
        (true, false) => Standing::Hearsay,
        (true, true) => Standing::LeavingHearsay,
    })
}

fn stays_on_node(service: &Service) -> bool {
    service.internal_traffic_policy == TrafficPolicy::Local && !service.is_headless()
}

/// The first place of the order that the endpoint is at; behind the last, if it is at none.
fn failover_index(failover: Option<&Failover>, workload: &Workload) -> usize {
    let Some(failover) = failover else { return 0 };
    let at = |target: &FailoverTarget| match target {
        FailoverTarget::Cluster(name) => workload.cluster == *name,
        FailoverTarget::Region(name) => !name.is_empty() && workload.locality.region == *name,
    };
    let index = failover.order.iter().position(at);
    index.unwrap_or(failover.order.len())
}

/// 0 is nearest. An unknown region or zone is never the same as another.
fn distance(from: Viewpoint<'_>, service: &Service, workload: &Workload, place: Place) -> u8 {
    if service.is_headless() {
        return 0;
    }
    let (here, there) = (from.locality, &workload.locality);
    let same_region = here.region == there.region;
    let same_zone = same_region && here.zone == there.zone && !here.zone.is_empty();
    let steps = match place {
        Place::Node => 0,
        Place::Cluster | Place::Elsewhere if same_zone => 1,
        Place::Cluster | Place::Elsewhere if same_region && !here.region.is_empty() => 2,
        Place::Cluster => 3,
        Place::Elsewhere => 4,
    };
    match service.traffic_distribution {
        TrafficDistribution::Any => 0,
        // The own node is in the own zone.
        TrafficDistribution::PreferSameZone => steps.max(1),
        TrafficDistribution::PreferSameNode => steps,
    }
}
