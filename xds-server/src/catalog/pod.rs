//! What the mesh takes from a pod, its node and its namespace.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use tulle_model::{NamedPort, Protocol, SmallMap, Text, WorkloadKind};

use super::{Placement, labels, service::annotations::global_namespace};

/// See the module's text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PodFacts {
    /// Empty until the pod has a place.
    pub(super) node: String,
    pub(super) service_account: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) hostname: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) host_network: bool,
    /// What the pod itself says; its namespace may say more.
    pub(super) mesh_mode: MeshMode,
    /// Its `Ready` condition, when it has one.
    pub(super) ready: Option<bool>,
    pub(super) terminating: bool,
    /// Succeeded or failed: it serves nobody any more.
    pub(super) finished: bool,
    pub(super) owner_kind: WorkloadKind,
    pub(super) owner_name: String,
    /// Ports by name, for services whose target port is a name and for policies.
    pub(super) ports: BTreeMap<String, NamedPort>,
}

/// `istio.io/dataplane-mode` of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MeshMode {
    Unset,
    In,
    Out,
}

impl PodFacts {
    pub(super) fn of(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let (owner_kind, owner_name) = owner_of(&pod.metadata);
        let phase = status.and_then(|s| s.phase.as_deref());
        let account = spec.and_then(|s| {
            let new = s.service_account_name.as_deref().filter(|a| !a.is_empty());
            new.or(s.service_account.as_deref().filter(|a| !a.is_empty()))
        });
        let containers = spec.into_iter().flat_map(|s| &s.containers);
        let ports = containers
            .flat_map(|c| c.ports.iter().flatten())
            .filter_map(|p| {
                let port = NamedPort {
                    port: u16::try_from(p.container_port).ok().filter(|p| *p != 0)?,
                    protocol: match p.protocol.as_deref() {
                        None | Some("TCP") => Protocol::Tcp,
                        Some("UDP") => Protocol::Udp,
                        Some(_) => return None,
                    },
                };
                Some((p.name.clone()?, port))
            });
        PodFacts {
            node: spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
            service_account: account.unwrap_or("default").to_owned(),
            addresses: status.map(addresses_of).unwrap_or_default(),
            hostname: spec.and_then(|s| s.hostname.clone()).unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            host_network: spec.and_then(|s| s.host_network).unwrap_or(false),
            mesh_mode: mesh_mode_of(&pod.metadata),
            ready: status.and_then(ready_of),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            finished: matches!(phase, Some("Succeeded" | "Failed")),
            owner_kind,
            owner_name,
            ports: ports.collect(),
        }
    }

    /// Where the pod's identity is in use; none while it has no node or after its end.
    pub(super) fn placement(&self) -> Option<PlacementOf<'_>> {
        (!self.node.is_empty() && !self.finished).then_some(PlacementOf {
            node: &self.node,
            service_account: &self.service_account,
        })
    }
}

/// A placement that still lacks the pod's namespace.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlacementOf<'a> {
    node: &'a str,
    service_account: &'a str,
}

impl PlacementOf<'_> {
    pub(super) fn in_namespace(self, namespace: &str) -> Placement {
        Placement {
            node: self.node.to_owned(),
            namespace: namespace.to_owned(),
            service_account: self.service_account.to_owned(),
        }
    }
}

/// What the mesh takes from a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct NamespaceFacts {
    /// Its pods are out of the mesh unless they say otherwise.
    pub(super) out_of_mesh: bool,
    /// Whether its services may be global, if it says so.
    pub(super) global: Option<bool>,
    pub(super) labels: Arc<SmallMap<Text, Text>>,
}

impl NamespaceFacts {
    /// The facts, and what its author should know.
    pub(super) fn of(metadata: &ObjectMeta) -> (Self, Vec<String>) {
        let mut warnings = Vec::new();
        let annotations = metadata.annotations.as_ref();
        let facts = NamespaceFacts {
            out_of_mesh: mesh_mode_of(metadata) == MeshMode::Out,
            global: annotations.and_then(|a| global_namespace(a, &mut warnings)),
            labels: Arc::new(labels::shared(metadata.labels.as_ref())),
        };
        (facts, warnings)
    }
}

fn mesh_mode_of(metadata: &ObjectMeta) -> MeshMode {
    let value = [&metadata.labels, &metadata.annotations]
        .into_iter()
        .find_map(|m| m.as_ref()?.get("istio.io/dataplane-mode"));
    match value.map(String::as_str) {
        Some("none") => MeshMode::Out,
        Some(_) => MeshMode::In,
        None => MeshMode::Unset,
    }
}

/// `podIPs`, or `podIP` of a status written by hand.
fn addresses_of(status: &PodStatus) -> Vec<IpAddr> {
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for text in all.chain(status.pod_ip.as_deref()) {
        match text.parse() {
            Ok(ip) if !addresses.contains(&ip) && addresses.len() < ADDRESSES_MAX => {
                addresses.push(ip)
            }
            Ok(_) | Err(_) => {}
        }
    }
    addresses
}

fn ready_of(status: &PodStatus) -> Option<bool> {
    let ready = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "Ready")?;
    Some(ready.status == "True")
}

/// A ReplicaSet stands for its Deployment, a Job with a time stamp for its CronJob.
fn owner_of(metadata: &ObjectMeta) -> (WorkloadKind, String) {
    let owners = metadata.owner_references.iter().flatten();
    let controller: Option<&OwnerReference> = owners
        .clone()
        .find(|o| o.controller == Some(true))
        .or_else(|| owners.clone().next());
    let Some(owner) = controller else {
        return (WorkloadKind::Pod, metadata.name.clone().unwrap_or_default());
    };
    match owner.kind.as_str() {
        "ReplicaSet" => (
            WorkloadKind::Deployment,
            deployment_name(&owner.name, metadata),
        ),
        "Deployment" => (WorkloadKind::Deployment, owner.name.clone()),
        "CronJob" => (WorkloadKind::CronJob, owner.name.clone()),
        "Job" => match owner.name.rsplit_once('-') {
            Some((cron, stamp))
                if (8..=10).contains(&stamp.len()) && stamp.bytes().all(|b| b.is_ascii_digit()) =>
            {
                (WorkloadKind::CronJob, cron.to_owned())
            }
            Some(_) | None => (WorkloadKind::Job, owner.name.clone()),
        },
        _ => (WorkloadKind::Pod, owner.name.clone()),
    }
}

fn deployment_name(replica_set: &str, metadata: &ObjectMeta) -> String {
    let hash = metadata
        .labels
        .as_ref()
        .and_then(|l| l.get("pod-template-hash"));
    let by_label = hash.and_then(|h| replica_set.strip_suffix(h.as_str())?.strip_suffix('-'));
    let by_form = || {
        let (name, hash) = replica_set.rsplit_once('-')?;
        let like_hash = (5..=10).contains(&hash.len())
            && hash
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        like_hash.then_some(name)
    };
    by_label.or_else(by_form).unwrap_or(replica_set).to_owned()
}

/// A pod has one address of each family; more is somebody's mistake, and each one costs an index entry on each node.
const ADDRESSES_MAX: usize = 8;
