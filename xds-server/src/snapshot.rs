//! What the ADS streams serve: every resource encoded once, in persistent maps.
//!
//! A stream remembers the map that it has sent and sends the difference to the newest one; unchanged parts of two maps are shared,
//! so the difference costs what changed. A slow client therefore skips what it missed and its memory does not grow.

use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use prost::Message as _;
use tulle_model::{Change, ClusterName, Directory, NamespacedName, Service, Workload, WorkloadUid};
use tulle_wire::{
    encode_authorization, encode_bundle, encode_rules, encode_service, encode_workload, pack,
    resource_version, type_url, xds,
};

use crate::catalog::Placement;

/// The resources of one type by name.
pub type Resources = OrdMap<Arc<str>, Arc<Encoded>>;

/// The types that are served, in the order in which changes are sent: roots before identities, policies before the
/// workloads that name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// Roots of a trust domain.
    TrustBundle,
    /// Policies.
    Authorization,
    /// Rules that policies of that type have no room for.
    Rules,
    /// Workloads and services.
    Address,
}

impl ResourceType {
    /// All types in sending order.
    pub const ALL: [ResourceType; 4] = [
        ResourceType::TrustBundle,
        ResourceType::Authorization,
        ResourceType::Rules,
        ResourceType::Address,
    ];

    /// The type of that URL.
    pub fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.url() == url)
    }

    /// The URL that names the type.
    pub fn url(self) -> &'static str {
        match self {
            ResourceType::TrustBundle => type_url::TRUST_BUNDLE,
            ResourceType::Authorization => type_url::AUTHORIZATION,
            ResourceType::Rules => type_url::RULES,
            ResourceType::Address => type_url::ADDRESS,
        }
    }

    /// A short name for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            ResourceType::TrustBundle => "trust_bundle",
            ResourceType::Authorization => "authorization",
            ResourceType::Rules => "rules",
            ResourceType::Address => "address",
        }
    }
}

/// One resource, ready to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Its name.
    pub name: Arc<str>,
    /// A hash of its content.
    pub version: String,
    /// The encoded `envoy.service.discovery.v3.Resource`.
    pub bytes: Bytes,
    /// Other keys under which a client may follow it: addresses, and the services that a workload serves.
    pub keys: Vec<Arc<str>>,
}

/// An immutable state of the mesh as the nodes shall see it.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The source has delivered everything; before that nothing is answered.
    pub ready: bool,
    /// Counts the snapshots, for people.
    pub revision: u64,
    /// The facts.
    pub directory: Directory,
    addresses: Resources,
    policies: Resources,
    rules: Resources,
    bundles: Resources,
    /// Clusters that are configured but were not heard since the start: what nodes still hold of them stays.
    pub unheard: imbl::OrdSet<ClusterName>,
    /// Who runs where, for the certificate authority.
    pub placements: imbl::HashMap<Placement, u32>,
    /// The nodes that exist.
    pub nodes: imbl::HashSet<String>,
}

impl Snapshot {
    /// The resources of a type.
    pub fn resources(&self, kind: ResourceType) -> &Resources {
        match kind {
            ResourceType::TrustBundle => &self.bundles,
            ResourceType::Authorization => &self.policies,
            ResourceType::Rules => &self.rules,
            ResourceType::Address => &self.addresses,
        }
    }

    /// Takes one change of the view in.
    pub fn apply(&mut self, change: Change) {
        match &change {
            Change::Workload(workload) => put(&mut self.addresses, workload_resource(workload)),
            Change::Service(service) => put(&mut self.addresses, service_resource(service)),
            Change::Policy(policy) => {
                let message = encode_authorization(policy);
                let name = policy.key().to_string();
                put(
                    &mut self.policies,
                    encode(
                        ResourceType::Authorization,
                        Arc::from(name),
                        &message,
                        vec![],
                    ),
                );
            }
            Change::Rules(rules) => {
                let name = Arc::from(rules.key().to_string());
                let message = encode_rules(rules);
                put(
                    &mut self.rules,
                    encode(ResourceType::Rules, name, &message, vec![]),
                );
            }
            Change::RulesGone(key) => {
                self.rules.remove(key.to_string().as_str());
            }
            Change::Bundle(bundle) => {
                let message = encode_bundle(bundle);
                let name = bundle.trust_domain.to_string();
                put(
                    &mut self.bundles,
                    encode(ResourceType::TrustBundle, Arc::from(name), &message, vec![]),
                );
            }
            Change::WorkloadGone(uid) => {
                self.addresses.remove(&uid.0);
            }
            Change::ServiceGone(key) => {
                self.addresses.remove(key.to_string().as_str());
            }
            Change::PolicyGone(key) => {
                self.policies.remove(key.to_string().as_str());
            }
            Change::BundleGone(domain) => {
                self.bundles.remove(domain.as_str());
            }
        }
        self.directory.apply(change);
    }

    /// The resources that a key stands for: a name, `network/ip`, or a service, which brings its workloads along.
    pub fn resolve(&self, kind: ResourceType, key: &str) -> Vec<Arc<Encoded>> {
        let resources = self.resources(kind);
        if kind != ResourceType::Address {
            return resources.get(key).into_iter().cloned().collect();
        }
        if self.directory.workload(&WorkloadUid(key.into())).is_some() {
            return resources.get(key).into_iter().cloned().collect();
        }
        if let Some(ip) = ip_of_key(key) {
            if let Some(workload) = self.directory.workload_at(ip) {
                return resources
                    .get(&workload.uid.0)
                    .into_iter()
                    .cloned()
                    .collect();
            }
            let service = self.directory.service_at(ip).map(|s| s.key());
            return service
                .map(|s| self.service_and_workloads(&s))
                .unwrap_or_default();
        }
        key.parse()
            .map(|key| self.service_and_workloads(&key))
            .unwrap_or_default()
    }

    /// The service that a `network/ip` key names, so that its workloads can be followed too.
    pub fn service_behind(&self, key: &str) -> Option<Arc<str>> {
        let service = self.directory.service_at(ip_of_key(key)?)?;
        Some(Arc::from(service.key().to_string()))
    }

    /// Whether a resource that is missing here may be missing only because its cluster was not heard yet.
    pub fn may_still_come(&self, kind: ResourceType, name: &str) -> bool {
        match kind {
            ResourceType::Address => {
                let cluster = name.split('/').next().unwrap_or_default();
                name.matches('/').count() > 1 && self.unheard.iter().any(|c| c.as_str() == cluster)
            }
            // A trust domain does not tell its cluster.
            ResourceType::TrustBundle => !self.unheard.is_empty(),
            ResourceType::Authorization | ResourceType::Rules => false,
        }
    }

    fn service_and_workloads(&self, key: &NamespacedName) -> Vec<Arc<Encoded>> {
        let Some(service) = self.addresses.get(key.to_string().as_str()) else {
            return Vec::new();
        };
        let workloads = self.directory.endpoints(key);
        let workloads = workloads.filter_map(|w| self.addresses.get(&w.uid.0));
        [service].into_iter().chain(workloads).cloned().collect()
    }
}

/// The network of every address here is the unnamed one, so a key is `/<ip>`; a client that names a network means it too.
fn ip_of_key(key: &str) -> Option<std::net::IpAddr> {
    let (_network, ip) = key.split_once('/')?;
    ip.parse().ok()
}

fn put(resources: &mut Resources, encoded: Encoded) {
    let same = resources
        .get(&encoded.name)
        .is_some_and(|old| **old == encoded);
    if !same {
        resources.insert(Arc::clone(&encoded.name), Arc::new(encoded));
    }
}

fn workload_resource(workload: &Workload) -> Encoded {
    let addresses = workload.addresses.iter().filter(|_| !workload.host_network);
    let addresses = addresses.map(|ip| Arc::from(format!("/{ip}")));
    let services = workload.services.keys().map(|k| Arc::from(k.to_string()));
    let keys = addresses.chain(services).collect();
    encode(
        ResourceType::Address,
        Arc::clone(&workload.uid.0),
        &encode_workload(workload),
        keys,
    )
}

fn service_resource(service: &Service) -> Encoded {
    let keys = service
        .addresses
        .iter()
        .map(|ip| Arc::from(format!("/{ip}")))
        .collect();
    encode(
        ResourceType::Address,
        Arc::from(service.key().to_string()),
        &encode_service(service),
        keys,
    )
}

fn encode(
    kind: ResourceType,
    name: Arc<str>,
    message: &impl prost::Message,
    keys: Vec<Arc<str>>,
) -> Encoded {
    let content = pack(kind.url(), message);
    let version = resource_version(&content.value);
    let aliases = keys
        .iter()
        .filter(|k| k.starts_with('/'))
        .map(|k| k.to_string())
        .collect();
    let resource = xds::Resource {
        version: version.clone(),
        resource: Some(content),
        name: name.to_string(),
        aliases,
        ttl: None,
        cache_control: None,
    };
    Encoded {
        name,
        version,
        bytes: resource.encode_to_vec().into(),
        keys,
    }
}

#[cfg(test)]
pub(crate) mod tests;
