//! What a service has that istio's message has no field for.

use tulle_model::{
    Affinity, Algorithm, Failover, FailoverTarget, Protocol, Service, ServicePort,
    TrafficDistribution, TrafficPolicy,
};

use super::super::{DecodeResourceError, labels::write_labels};
use crate::tulle;

/// Everything that decides which endpoint is chosen, the order of failover aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Choice {
    pub(super) affinity: Affinity,
    pub(super) policy: TrafficPolicy,
    pub(super) distribution: TrafficDistribution,
    pub(super) algorithm: Algorithm,
}

pub(super) fn write_extras(service: &Service) -> tulle::ServiceExtras {
    let write_port = |port: &ServicePort| tulle::PortExtras {
        port: u32::from(port.port),
        name: port.name.clone(),
        protocol: port.protocol.to_string(),
    };
    // All or none: entries are matched to the ports in order.
    let special = service
        .ports
        .iter()
        .any(|p| !p.name.is_empty() || p.protocol != Protocol::Tcp);
    tulle::ServiceExtras {
        global: service.sharing.global,
        shared: service.sharing.shared,
        affinity: word(&AFFINITIES, service.sharing.affinity),
        ports: service
            .ports
            .iter()
            .filter(|_| special)
            .map(write_port)
            .collect(),
        publish_not_ready: service.publish_not_ready,
        external_name: service.external_name.clone().unwrap_or_default(),
        session_affinity_secs: service.session_affinity,
        internal_traffic_policy: word(&POLICIES, service.internal_traffic_policy),
        traffic_distribution: word(&DISTRIBUTIONS, service.traffic_distribution),
        algorithm: word(&ALGORITHMS, service.algorithm),
        failover: service.failover.as_ref().map(write_failover),
        labels: write_labels(&service.labels),
    }
}

pub(super) fn read_choice(extras: &tulle::ServiceExtras) -> Result<Choice, DecodeResourceError> {
    Ok(Choice {
        affinity: read(
            "affinity",
            &AFFINITIES,
            &extras.affinity,
            "none, local, remote or local-node",
        )?,
        policy: read(
            "internal_traffic_policy",
            &POLICIES,
            &extras.internal_traffic_policy,
            "Cluster or Local",
        )?,
        distribution: read(
            "traffic_distribution",
            &DISTRIBUTIONS,
            &extras.traffic_distribution,
            "PreferSameZone, PreferSameNode or nothing",
        )?,
        algorithm: read(
            "algorithm",
            &ALGORITHMS,
            &extras.algorithm,
            "random or maglev",
        )?,
    })
}

fn write_failover(failover: &Failover) -> tulle::FailoverExtras {
    let write = |target: &FailoverTarget| match target {
        FailoverTarget::Cluster(name) => tulle::FailoverTarget {
            cluster: Some(name.to_string()),
            region: None,
        },
        FailoverTarget::Region(name) => tulle::FailoverTarget {
            cluster: None,
            region: Some(name.clone()),
        },
    };
    tulle::FailoverExtras {
        order: failover.order.iter().map(write).collect(),
        spill_at: u32::from(failover.spill_at),
    }
}

pub(super) fn read_failover(
    extras: tulle::FailoverExtras,
) -> Result<Failover, DecodeResourceError> {
    let refuse = |name: &str, found: String, expected| {
        Err(DecodeResourceError::field(field(name), found, expected))
    };
    let len = extras.order.len();
    if len > Failover::ORDER_LEN_MAX {
        return refuse("failover.order", format!("{len} places"), "at most 64");
    }
    let mut order = Vec::with_capacity(len);
    for (i, target) in extras.order.into_iter().enumerate() {
        let name = format!("failover.order[{i}]");
        match (target.cluster, target.region) {
            (Some(cluster), None) => match cluster.parse() {
                Ok(cluster) => order.push(FailoverTarget::Cluster(cluster)),
                Err(_) => return refuse(&name, format!("{cluster:?}"), "the name of a cluster"),
            },
            (None, Some(region)) => order.push(FailoverTarget::Region(region)),
            (None, None) => return refuse(&name, "nothing".into(), "a cluster or a region"),
            (Some(_), Some(_)) => return refuse(&name, "both".into(), "a cluster or a region"),
        }
    }
    match u8::try_from(extras.spill_at) {
        Ok(spill_at @ 0..=100) => Ok(Failover { order, spill_at }),
        Ok(_) | Err(_) => refuse(
            "failover.spill_at",
            extras.spill_at.to_string(),
            "a percentage of 0–100",
        ),
    }
}

/// The word for a value; none for the default, so that a plain service needs no extras.
fn word<T: Copy + Default + PartialEq>(words: &[(&str, T)], value: T) -> String {
    let found = words.iter().find(|(_, v)| *v == value);
    let told = found.filter(|_| value != T::default());
    told.map(|(word, _)| (*word).to_owned()).unwrap_or_default()
}

fn read<T: Copy + Default>(
    name: &str,
    words: &[(&str, T)],
    text: &str,
    expected: &'static str,
) -> Result<T, DecodeResourceError> {
    if text.is_empty() {
        return Ok(T::default());
    }
    let found = words.iter().find(|(word, _)| *word == text);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| DecodeResourceError::field(field(name), format!("{text:?}"), expected))
}

fn field(name: &str) -> String {
    format!("service.extensions[{}].{name}", tulle::SERVICE_EXTENSION)
}

const AFFINITIES: [(&str, Affinity); 4] = [
    ("none", Affinity::None),
    ("local", Affinity::Local),
    ("remote", Affinity::Remote),
    ("local-node", Affinity::LocalNode),
];
const POLICIES: [(&str, TrafficPolicy); 2] = [
    ("Cluster", TrafficPolicy::Cluster),
    ("Local", TrafficPolicy::Local),
];
const DISTRIBUTIONS: [(&str, TrafficDistribution); 2] = [
    ("PreferSameZone", TrafficDistribution::PreferSameZone),
    ("PreferSameNode", TrafficDistribution::PreferSameNode),
];
const ALGORITHMS: [(&str, Algorithm); 2] =
    [("random", Algorithm::Random), ("maglev", Algorithm::Maglev)];
