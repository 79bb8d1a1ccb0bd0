//! Which cluster has which services and endpoints: a pure function of the sizes.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tulle_model::{
    ClusterName, NamespacedName, PortMapping, Protocol, Service, TrustDomain, Workload, WorkloadUid,
};

/// The sizes of a simulated mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Simulated clusters, beside the real one.
    pub clusters: usize,
    /// Global services; each exists in the real cluster and in [`HOMES`] simulated ones.
    pub services: usize,
    /// Endpoints in all; all of them in simulated clusters.
    pub endpoints: usize,
}

impl Plan {
    /// # Errors
    /// When the sizes do not fit the addresses that the simulation has, or each other.
    pub fn check(self) -> Result<Self> {
        ensure!(
            (HOMES..=CLUSTERS_MAX).contains(&self.clusters),
            "{} clusters; {HOMES} to {CLUSTERS_MAX} are possible",
            self.clusters
        );
        ensure!(
            (1..=SERVICES_MAX).contains(&self.services),
            "{} services; 1 to {SERVICES_MAX} are possible",
            self.services
        );
        ensure!(
            self.endpoints >= self.services * HOMES,
            "{} endpoints; {} services need at least {HOMES} each",
            self.endpoints,
            self.services
        );
        let per_cluster = (0..self.clusters)
            .map(|c| self.endpoints_of(c).count())
            .max();
        ensure!(
            per_cluster.unwrap_or(0) <= ENDPOINTS_OF_CLUSTER_MAX,
            "a cluster has at most {ENDPOINTS_OF_CLUSTER_MAX} endpoints"
        );
        Ok(self)
    }

    /// The name of a simulated cluster.
    ///
    /// # Errors
    /// Never with a checked plan.
    pub fn cluster_name(self, cluster: usize) -> Result<ClusterName> {
        format!("sim-{cluster:03}")
            .parse()
            .context("a cluster's name")
    }

    /// The trust domain of a simulated cluster.
    ///
    /// # Errors
    /// Never with a checked plan.
    pub fn trust_domain(self, cluster: usize) -> Result<TrustDomain> {
        format!("sim-{cluster:03}.tulle")
            .parse()
            .context("a trust domain")
    }

    /// The services that a cluster has.
    pub fn services_of(self, cluster: usize) -> impl Iterator<Item = usize> {
        (0..self.services)
            .filter(move |service| (0..HOMES).any(|home| self.home(*service, home) == cluster))
    }

    /// The endpoints of a cluster, each with the service that it serves.
    pub fn endpoints_of(self, cluster: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..self.endpoints)
            .map(move |endpoint| (endpoint, endpoint % self.services))
            .filter(move |(endpoint, service)| {
                self.home(*service, endpoint / self.services % HOMES) == cluster
            })
    }

    fn home(self, service: usize, home: usize) -> usize {
        (service + home * (self.clusters / HOMES)) % self.clusters
    }

    /// A service as its simulated clusters publish it. Built from JSON, as a field of a later version has its default there.
    ///
    /// # Errors
    /// Never with a checked plan.
    pub fn service(self, service: usize) -> Result<Service> {
        Ok(serde_json::from_value(json!({
            "name": format!("svc-{service}"),
            "namespace": NAMESPACE,
            "hostname": hostname(service),
            "addresses": [service_address(service)?],
            "ports": [{"name": "http", "port": SERVICE_PORT, "target_port": TARGET_PORT}],
            "sharing": {"global": true, "shared": true, "affinity": "none"},
        }))?)
    }

    /// An endpoint's workload; `number` counts the workloads of its cluster.
    ///
    /// # Errors
    /// Never with a checked plan.
    pub fn workload(
        self,
        cluster: usize,
        number: usize,
        endpoint: usize,
        service: usize,
    ) -> Result<Workload> {
        let pod = format!("svc-{service}-{endpoint}");
        let name = self.cluster_name(cluster)?;
        let mut workload: Workload = serde_json::from_value(json!({
            "uid": WorkloadUid::of_pod(&name, NAMESPACE, &pod),
            "name": pod,
            "namespace": NAMESPACE,
            "service_account": format!("svc-{service}"),
            "trust_domain": self.trust_domain(cluster)?,
            "cluster": name,
            "node": format!("node-{}", number / PODS_OF_NODE),
            "addresses": [pod_address(cluster, number)?],
            "labels": {"name": format!("svc-{service}")},
            "locality": {"region": format!("region-{}", cluster % REGIONS)},
            "canonical_name": format!("svc-{service}"),
            "kind": "Deployment",
            "owner_name": format!("svc-{service}"),
            "tunnel_protocol": "Hbone",
        }))?;
        let key = NamespacedName::new(NAMESPACE, hostname(service));
        let mapping = PortMapping {
            service_port: SERVICE_PORT,
            target_port: TARGET_PORT,
            protocol: Protocol::Tcp,
        };
        workload.services = [(key, vec![mapping])].into_iter().collect();
        Ok(workload)
    }
}

/// The address of a service in the real cluster, inside its service range's neighbourhood.
///
/// # Errors
/// When there are more services than addresses.
pub fn service_address(service: usize) -> Result<Ipv4Addr> {
    let number = u32::try_from(service)?;
    Ok(Ipv4Addr::from(u32::from(SERVICE_ADDRESSES) + number))
}

fn pod_address(cluster: usize, number: usize) -> Result<IpAddr> {
    let offset = u32::try_from(cluster * ENDPOINTS_OF_CLUSTER_MAX + number)?;
    Ok(IpAddr::V4(Ipv4Addr::from(
        u32::from(POD_ADDRESSES) + offset,
    )))
}

fn hostname(service: usize) -> String {
    format!("svc-{service}.{NAMESPACE}.svc.cluster.local")
}

/// Each service lives in so many simulated clusters.
pub const HOMES: usize = 2;
/// The namespace of everything simulated.
pub const NAMESPACE: &str = "scale";
/// The port of every simulated service.
pub const SERVICE_PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const PODS_OF_NODE: usize = 30;
const REGIONS: usize = 5;
/// The mesh has 255 clusters of the default width; one is real.
const CLUSTERS_MAX: usize = 254;
const SERVICES_MAX: usize = 60_000;
const ENDPOINTS_OF_CLUSTER_MAX: usize = 4096;
/// 100.64.0.0/10 is nobody's in the lab: 4 million addresses.
const POD_ADDRESSES: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
const SERVICE_ADDRESSES: Ipv4Addr = Ipv4Addr::new(172, 21, 0, 0);

#[cfg(test)]
mod tests;
