//! What istio's own words can say of the choice of an endpoint.

use tulle_model::{Affinity, Service, TrafficDistribution, TrafficPolicy};

use super::{
    super::{DecodeResourceError, field::read_enum},
    Choice,
};
use crate::workload::{HealthPolicy, LoadBalancing, Mode, RoutingScope};

/// ztunnel counts how many preferences an endpoint meets from the front, so the order here is the order of tiers.
///
/// It has no word for "others first" (`remote`) and none for an order of failover; with those, it takes all alike.
pub(super) fn write_load_balancing(service: &Service) -> Option<LoadBalancing> {
    use RoutingScope::{Cluster, Node, Region, Zone};
    let by_affinity: &[RoutingScope] = match service.sharing.affinity {
        Affinity::None | Affinity::Remote => &[],
        Affinity::Local => &[Cluster],
        Affinity::LocalNode => &[Cluster, Node],
    };
    let by_distance: &[RoutingScope] = match service.traffic_distribution {
        TrafficDistribution::Any => &[],
        TrafficDistribution::PreferSameZone => &[Region, Zone],
        TrafficDistribution::PreferSameNode => &[Region, Zone, Node],
    };
    let (mode, preference) = match service.internal_traffic_policy {
        TrafficPolicy::Local => (Mode::Strict, vec![Cluster, Node]),
        TrafficPolicy::Cluster => {
            let preference = [by_affinity, by_distance].concat();
            let mode = if preference.is_empty() {
                Mode::Unspecified
            } else {
                Mode::Failover
            };
            (mode, preference)
        }
    };
    let health = if service.publish_not_ready {
        HealthPolicy::AllowAll
    } else {
        HealthPolicy::OnlyHealthy
    };
    let wanted = LoadBalancing {
        routing_preference: preference.into_iter().map(Into::into).collect(),
        mode: mode.into(),
        health_policy: health.into(),
    };
    (wanted != LoadBalancing::default()).then_some(wanted)
}

/// The choice that comes nearest, and whether unhealthy endpoints serve.
///
/// The network is left out: the mesh's clusters reach each other. What has no place in the model is no preference.
pub(super) fn read_load_balancing(
    wire: Option<&LoadBalancing>,
) -> Result<(Choice, bool), DecodeResourceError> {
    use RoutingScope::{Cluster, Network, Node, Region, Subzone, Zone};
    let Some(wire) = wire else {
        return Ok((Choice::default(), false));
    };
    let mut preference = Vec::with_capacity(wire.routing_preference.len());
    for (i, scope) in wire.routing_preference.iter().enumerate() {
        let field = || format!("service.load_balancing.routing_preference[{i}]");
        match read_enum(field, *scope)? {
            RoutingScope::Unspecified => {
                return Err(DecodeResourceError::field(
                    field(),
                    "UNSPECIFIED_SCOPE",
                    "a scope",
                ));
            }
            Network => {}
            scope => preference.push(scope),
        }
    }
    let mode = read_enum(|| "service.load_balancing.mode".to_owned(), wire.mode)?;
    let health: HealthPolicy = read_enum(
        || "service.load_balancing.health_policy".to_owned(),
        wire.health_policy,
    )?;
    let mut choice = Choice::default();
    match (mode, preference.as_slice()) {
        (Mode::Failover, [Cluster]) => choice.affinity = Affinity::Local,
        (Mode::Failover, [Cluster, Node]) => choice.affinity = Affinity::LocalNode,
        (Mode::Failover, [Region, Zone]) => {
            choice.distribution = TrafficDistribution::PreferSameZone;
        }
        (Mode::Failover, [Region, Zone, Node] | [Region, Zone, Subzone, Node]) => {
            choice.distribution = TrafficDistribution::PreferSameNode;
        }
        (Mode::Strict, [Node] | [Cluster, Node]) => choice.policy = TrafficPolicy::Local,
        _ => {}
    }
    Ok((choice, health == HealthPolicy::AllowAll))
}
