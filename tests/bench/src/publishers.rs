//! The simulated clusters: each publishes its own state to etcd, heartbeat included, by the code that an xds-server does it with.

use std::{sync::Arc, time::SystemTime};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use imbl::OrdMap;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tulle_identity::CertificateAuthority;
use tulle_model::{Health, Service, TrustBundle, Workload};
use tulle_xds_server::{
    layout::{self, ClusterInfo, Slices},
    metrics::Metrics,
    status::StatusBoard,
    store::{self, EtcdSettings, PublishPlan},
    world::OwnState,
};

use crate::plan::Plan;

/// All simulated clusters, publishing until dropped.
#[derive(Debug)]
pub struct Publishers {
    clusters: Vec<Cluster>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Cluster {
    state: watch::Sender<OwnState>,
    workloads: Vec<Workload>,
    slices: Slices,
    prefix: String,
    board: Arc<StatusBoard>,
}

impl Publishers {
    /// Starts to publish everything in the plan.
    ///
    /// # Errors
    /// When an authority cannot be made.
    pub fn start(plan: Plan, etcd: &EtcdSettings) -> Result<Publishers> {
        let mut publishers = Publishers {
            clusters: Vec::new(),
            metrics: Arc::new(Metrics::new()),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        for number in 0..plan.clusters {
            let name = plan.cluster_name(number)?;
            let cluster = Cluster::new(plan, number)?;
            let publish = store::publish(
                PublishPlan::tulle(&name),
                etcd.clone(),
                cluster.state.subscribe(),
                Arc::clone(&cluster.board),
                Arc::clone(&publishers.metrics),
                publishers.stop.clone(),
            );
            publishers.tasks.spawn(publish);
            publishers.clusters.push(cluster);
        }
        Ok(publishers)
    }

    /// How many clusters have published everything.
    pub fn published(&self) -> usize {
        let done = |cluster: &&Cluster| cluster.board.read().store.published;
        self.clusters.iter().filter(done).count()
    }

    /// The last fault that a publisher met, if any has one now.
    pub fn fault(&self) -> Option<String> {
        let fault = |cluster: &Cluster| cluster.board.read().store.last_error;
        self.clusters.iter().find_map(fault)
    }

    /// The name of an endpoint in the mesh.
    ///
    /// # Errors
    /// When the cluster has no endpoint.
    pub fn name(&mut self, cluster: usize, endpoint: usize) -> Result<String> {
        Ok(self.endpoint(cluster, endpoint)?.uid.0.to_string())
    }

    /// Makes an endpoint ready or unready.
    ///
    /// # Errors
    /// When the cluster has no endpoint.
    pub fn flip(&mut self, cluster: usize, endpoint: usize) -> Result<()> {
        let cluster = self.clusters.get_mut(cluster).context("no such cluster")?;
        let count = cluster.workloads.len().max(1);
        let workload = cluster.workloads.get_mut(endpoint % count);
        let workload = workload.context("the cluster has no endpoint")?;
        let old = workload.clone();
        workload.health = match workload.health {
            Health::Healthy => Health::Unhealthy,
            _ => Health::Healthy,
        };
        cluster.slices.put(Some(&old), &Arc::new(workload.clone()));
        let (prefix, changed) = (&cluster.prefix, cluster.slices.take_changed());
        cluster
            .state
            .send_modify(|state| store_slices(prefix, changed, &mut state.entries));
        Ok(())
    }

    /// Makes a cluster publish services that nobody asked for: these numbers, beside what it has published.
    ///
    /// # Errors
    /// When there is no such cluster.
    pub fn flood(&mut self, cluster: usize, services: std::ops::Range<usize>) -> Result<()> {
        let cluster = self.clusters.get_mut(cluster).context("no such cluster")?;
        let prefix = &cluster.prefix;
        let mut flood = Vec::with_capacity(services.len());
        for number in services {
            let service = Service {
                name: format!("flood-{number}"),
                namespace: "flood".to_owned(),
                hostname: format!("flood-{number}.flood.svc.cluster.local"),
                ..Service::default()
            };
            let key = format!("{prefix}{}", layout::service_key(&service.key()));
            flood.push((Arc::from(key), layout::encode(&service)));
        }
        cluster
            .state
            .send_modify(|state| state.entries.extend(flood));
        Ok(())
    }

    /// How many keys a cluster has published.
    ///
    /// # Errors
    /// When there is no such cluster.
    pub fn keys(&self, cluster: usize) -> Result<usize> {
        let cluster = self.clusters.get(cluster).context("no such cluster")?;
        Ok(cluster.board.read().store.keys)
    }

    fn endpoint(&self, cluster: usize, endpoint: usize) -> Result<&Workload> {
        let cluster = self.clusters.get(cluster).context("no such cluster")?;
        let count = cluster.workloads.len().max(1);
        let workload = cluster.workloads.get(endpoint % count);
        workload.context("the cluster has no endpoint")
    }
}

impl Drop for Publishers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Cluster {
    fn new(plan: Plan, number: usize) -> Result<Cluster> {
        let name = plan.cluster_name(number)?;
        let trust_domain = plan.trust_domain(number)?;
        let id = u16::try_from(number)? + FIRST_ID;
        let authority = CertificateAuthority::ephemeral(&trust_domain, SystemTime::now())?;
        let info = ClusterInfo {
            name: name.clone(),
            id: id.try_into()?,
            trust_domain: trust_domain.clone(),
            version: layout::VERSION,
        };
        let bundle = TrustBundle {
            trust_domain: trust_domain.clone(),
            roots_pem: authority.root_pem().to_owned(),
        };
        let prefix = layout::prefix(&name);
        let key = |key: &str| Arc::from(format!("{prefix}{key}"));
        let mut entries = OrdMap::new();
        entries.insert(key(layout::INFO), layout::encode(&info));
        entries.insert(key(layout::BUNDLE), layout::encode(&bundle));
        for service in plan.services_of(number) {
            let service = plan.service(service)?;
            entries.insert(
                key(&layout::service_key(&service.key())),
                layout::encode(&service),
            );
        }
        let (mut workloads, mut slices) = (Vec::new(), Slices::default());
        for (count, (endpoint, service)) in plan.endpoints_of(number).enumerate() {
            let workload = plan.workload(number, count, endpoint, service)?;
            slices.put(None, &Arc::new(workload.clone()));
            workloads.push(workload);
        }
        store_slices(&prefix, slices.take_changed(), &mut entries);
        let (state, _) = watch::channel(OwnState {
            complete: true,
            entries,
        });
        Ok(Cluster {
            state,
            workloads,
            slices,
            prefix,
            board: Arc::new(StatusBoard::new(name, id, trust_domain)),
        })
    }
}

/// The slices that changed, as an xds-server stores them.
fn store_slices(
    prefix: &str,
    changed: Vec<(String, Option<Bytes>)>,
    entries: &mut OrdMap<Arc<str>, Bytes>,
) {
    for (key, value) in changed {
        let key = format!("{prefix}{key}");
        match value {
            Some(value) => entries.insert(Arc::from(key), value),
            None => entries.remove(key.as_str()),
        };
    }
}

/// The real cluster is number 1.
const FIRST_ID: u16 = 2;
