//! Makes the parts and connects them: who reads what whom publishes. Nothing runs yet.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use prometheus_client::registry::Registry;
use tokio::{runtime::Handle, task::JoinSet};
use tulle_datapath::{CapturePorts, Datapath, DatapathSettings, Enforcement, Pacing};
use tulle_identity::{
    CaClient, CaClientConfig, MeshTls, SVID_TTL_DEFAULT, SvidManager, SvidManagerSettings,
};
use tulle_model::{Directory, SpiffeId};

use super::{
    RunError, Stops,
    bundles::BundleKeeper,
    chain,
    collectors::{CertificateCollector, KernelCollector},
    memory, named,
    policy::{self, PolicyTasks},
};
use crate::{
    admin::{Admin, DumpSources, readiness::Readiness},
    config::{Config, Lanes, XdsAddress},
    dns::{DnsContext, NameKeeper},
    health::{HealthKeeper, Reaper},
    kernel_sync::{KernelSync, KernelSyncStatus, TouchLog, Touched, table::NodeView},
    metrics::{ControlMetrics, DnsMetrics, HeldCollector, ProcessCollector, TurnsCollector},
    plane::{DeniedLook, Kernel, Plane, PlaneMetrics, PlaneSettings, Ports, SharedState},
    pods::{self, PodKeeper, PodsView, ProxyRunner},
    policy::PolicyView,
    published::{Published, Publisher},
    tunnel::Congestion,
    xds::{MtlsChannel, XdsClient, XdsSettings},
};

/// All parts, made and connected, not yet running.
pub(super) struct Wired {
    pub(super) control: ControlParts,
    pub(super) pods: PodKeeper,
    pub(super) admin: Admin,
}

/// The parts of the control side, each a task as long as the process.
pub(super) struct ControlParts {
    xds: XdsClient,
    pub(super) kernel_sync: KernelSync,
    pub(super) policies: PolicyTasks,
    names: Arc<NameKeeper>,
    health: HealthKeeper,
    reaper: Reaper,
    bundles: BundleKeeper,
    pods: Published<PodsView>,
}

impl ControlParts {
    pub(super) fn spawn(self, stop: &Stops) -> JoinSet<&'static str> {
        let mut tasks = JoinSet::new();
        let end = || stop.everything.clone();
        tasks.spawn(named("the xDS client", self.xds.run(end())));
        let tables = self.kernel_sync.run(stop.tables.clone());
        tasks.spawn(named("the kernel's tables", tables));
        self.policies.spawn(stop, &mut tasks);
        let (names, cancel) = (self.names, end());
        tasks.spawn(named("the names that pods resolved", async move {
            names.run(cancel).await;
        }));
        tasks.spawn(named("the health of endpoints", self.health.run(end())));
        tasks.spawn(named("the reaper of connections", self.reaper.run(end())));
        tasks.spawn(named("the trust bundles", self.bundles.run(end())));
        tasks.spawn(named(
            "the keeper of memory",
            memory::keep(self.pods, end()),
        ));
        tasks
    }
}

pub(super) fn wire(
    config: &Config,
    datapath: Arc<Datapath>,
    stop: &Stops,
    data: &Handle,
) -> Result<Wired, RunError> {
    let node = node_view(config);
    let identity = own_identity(config);
    let mut registry = Registry::default();
    let metrics = ControlMetrics::default();
    metrics.register(&mut registry);
    let plane_metrics = Arc::new(PlaneMetrics::register(&mut registry));
    let svids = certificates(config, &identity)?;
    let tls = Arc::new(MeshTls::new());
    let touched = Arc::new(TouchLog::default());
    let mut xds = xds_client(config, &identity, &svids, &touched, &metrics);
    xds.load_saved();
    let directory = xds.directory();
    let pods_view = Publisher::new(adopt_pods(config, &datapath));
    let kernel: Arc<dyn Kernel> = Arc::<Datapath>::clone(&datapath);
    let policies = policy::policies(
        config,
        &directory,
        pods_view.subscribe(),
        &touched,
        &datapath,
        &metrics.dns,
        &mut registry,
    );
    let plane = data_plane(config, policies.view, &svids, &tls, &kernel, plane_metrics);
    plane.shared.health.metrics().register(&mut registry);
    let (keeper, reaper) = health_keepers(&plane, &touched, &datapath);
    let kernel_sync = KernelSync {
        directory: directory.clone(),
        pods: pods_view.subscribe(),
        touched: Arc::clone(&touched),
        health: Arc::clone(&plane.shared.health),
        tables: datapath,
        node: node.clone(),
        metrics: Arc::clone(&metrics.kernel),
        status: Publisher::new(KernelSyncStatus::default()),
    };
    register_collectors(&mut registry, kernel, &plane, data);
    let dump = DumpSources {
        node,
        trust_domain: config.trust_domain.clone(),
        directory: directory.clone(),
        xds: xds.status(),
        kernel: kernel_sync.status.subscribe(),
        health: Arc::clone(&plane.shared.health),
        pods: pods_view.subscribe(),
        svids: Arc::clone(&svids),
        tls: Arc::clone(&tls),
        recent: Arc::clone(&plane.policy.recent),
    };
    let admin = admin(registry, dump, stop);
    let (seen, domain) = (directory.clone(), config.trust_domain.clone());
    let bundles = BundleKeeper::new(seen, tls, svids, identity, domain);
    let dns = dns_context(config, &directory, &plane, &metrics.dns, &policies.names);
    let pods_seen = pods_view.subscribe();
    let pods = pod_keeper(config, plane, dns, &metrics, directory, touched, pods_view);
    let control = ControlParts {
        xds,
        kernel_sync,
        policies: policies.tasks,
        names: policies.names,
        health: keeper,
        reaper,
        bundles,
        pods: pods_seen,
    };
    Ok(Wired {
        control,
        pods,
        admin,
    })
}

fn node_view(config: &Config) -> NodeView {
    NodeView {
        cluster: config.cluster.clone(),
        node: config.node.clone(),
        same_node: config.same_node,
        inbound: config.inbound,
    }
}

fn register_collectors(
    registry: &mut Registry,
    kernel: Arc<dyn Kernel>,
    plane: &Plane,
    data: &Handle,
) {
    let turns = TurnsCollector::new(Arc::clone(&plane.shared.turns));
    registry.register_collector(Box::new(turns));
    registry.register_collector(Box::new(HeldCollector::new(data.clone())));
    registry.register_collector(Box::new(ProcessCollector::new(SystemTime::now())));
    registry.register_collector(Box::new(KernelCollector::new(kernel)));
    registry.register_collector(Box::new(CertificateCollector::new(Arc::clone(
        &plane.svids,
    ))));
}

fn data_plane(
    config: &Config,
    policy: PolicyView,
    svids: &Arc<SvidManager>,
    tls: &Arc<MeshTls>,
    kernel: &Arc<dyn Kernel>,
    metrics: Arc<PlaneMetrics>,
) -> Arc<Plane> {
    Arc::new(Plane {
        directory: policy.directory.clone(),
        policy,
        svids: Arc::clone(svids),
        tls: Arc::clone(tls),
        kernel: Arc::clone(kernel),
        settings: plane_settings(config),
        metrics,
        node: config.node.clone(),
        cluster: config.cluster.clone(),
        trust_domain: config.trust_domain.clone(),
        shared: SharedState::default(),
    })
}

fn health_keepers(
    plane: &Arc<Plane>,
    touched: &Arc<TouchLog>,
    datapath: &Arc<Datapath>,
) -> (HealthKeeper, Reaper) {
    let health = &plane.shared.health;
    let keeper = HealthKeeper {
        health: Arc::clone(health),
        cluster: plane.cluster.clone(),
        directory: plane.directory.clone(),
        touched: Arc::clone(touched),
        events: datapath.take_connect_events(),
    };
    let reaper = Reaper {
        health: Arc::clone(health),
        directory: plane.directory.clone(),
        connections: Arc::<Datapath>::clone(datapath),
        probe: plane.shared.prober(),
        tunnel_port: plane.settings.peer_hbone_port,
    };
    (keeper, reaper)
}

fn own_identity(config: &Config) -> SpiffeId {
    SpiffeId {
        trust_domain: config.trust_domain.clone(),
        namespace: OWN_NAMESPACE.into(),
        service_account: "node-proxy".into(),
    }
}

/// What the xds-server must prove: the DNS name by which it is called, or, called by address, its identity.
fn server_name(config: &Config) -> String {
    let XdsAddress { host, .. } = &config.xds;
    if host.parse::<IpAddr>().is_err() {
        return host.clone();
    }
    let identity = SpiffeId {
        trust_domain: config.trust_domain.clone(),
        namespace: OWN_NAMESPACE.into(),
        service_account: "xds-server".into(),
    };
    identity.to_string()
}

fn certificates(config: &Config, identity: &SpiffeId) -> Result<Arc<SvidManager>, RunError> {
    let client = CaClient::new(CaClientConfig {
        address: config.xds.url.clone(),
        root_pem: config.xds_root_pem.clone(),
        server_name: server_name(config),
        token: config.token.clone(),
        cluster: config.cluster.to_string(),
        own_id: identity.clone(),
        ttl: SVID_TTL_DEFAULT,
    })?;
    Ok(Arc::new(SvidManager::new(
        Arc::new(client),
        SvidManagerSettings::default(),
    )))
}

fn xds_client(
    config: &Config,
    identity: &SpiffeId,
    svids: &Arc<SvidManager>,
    touched: &Arc<TouchLog>,
    metrics: &ControlMetrics,
) -> XdsClient {
    let channel = MtlsChannel {
        url: config.xds.url.clone(),
        server_name: server_name(config),
        root_pem: config.xds_root_pem.clone(),
        svids: Arc::clone(svids),
        identity: identity.clone(),
    };
    let settings = XdsSettings {
        cluster: config.cluster.clone(),
        node: config.node.clone(),
        trust_domain: config.trust_domain.clone(),
        state: config.state.clone(),
    };
    XdsClient::new(
        settings,
        Arc::new(channel),
        Arc::clone(touched),
        Arc::clone(&metrics.xds),
    )
}

fn plane_settings(config: &Config) -> PlaneSettings {
    let defaults = PlaneSettings::default();
    PlaneSettings {
        lanes_per_destination_max: match config.lanes {
            Lanes::On => defaults.lanes_per_destination_max,
            Lanes::Off => 0,
        },
        congestion: congestion(config),
        inbound_mode: config.inbound,
        host_addresses: config.host_addresses.clone(),
        denied_look: match config.denied {
            Enforcement::Drop => DeniedLook::Drop,
            Enforcement::Reject | Enforcement::Off => DeniedLook::Reject,
        },
        ..defaults
    }
}

/// What to do about pacing; `None` where the system does not pace, or is to have its way.
fn congestion(config: &Config) -> Option<Congestion> {
    if config.pacing == Pacing::System {
        return None;
    }
    Congestion::of_system().unwrap_or_else(|error| {
        tracing::warn!(%error, "the system's congestion control cannot be read: all connections keep it");
        None
    })
}

pub(super) fn datapath_settings(config: &Config) -> DatapathSettings {
    let ports = Ports::default();
    DatapathSettings {
        pin_dir: config.pin_dir.clone(),
        capture_cgroup: config.capture_cgroup.clone(),
        proxy_cgroup: config.proxy_cgroup.clone(),
        sockmap: config.sockmap,
        // A kernel whose default does not pace need not be asked at each connection.
        pacing: congestion(config).map_or(Pacing::System, |_| Pacing::Auto),
        dns_capture: true,
        ports: CapturePorts {
            outbound: ports.outbound,
            inbound: ports.inbound,
            tunnel: ports.hbone,
            dns: ports.dns,
        },
    }
}

/// Takes over the pods that an earlier process captured, and releases those that are gone since.
fn adopt_pods(config: &Config, datapath: &Datapath) -> PodsView {
    let adoption = pods::adopt(&config.pod_dir, &datapath.captured_pods());
    for uid in &adoption.gone {
        match datapath.release_pod(uid) {
            Ok(()) => tracing::info!(uid, "a pod that is gone was released"),
            Err(error) => {
                tracing::warn!(uid, error = chain(&error), "a pod leaves something behind")
            }
        }
    }
    adoption.view
}

fn dns_context(
    config: &Config,
    directory: &Published<Directory>,
    plane: &Plane,
    metrics: &Arc<DnsMetrics>,
    names: &Arc<NameKeeper>,
) -> DnsContext {
    DnsContext {
        directory: directory.clone(),
        health: Arc::clone(&plane.shared.health),
        cluster: config.cluster.clone(),
        node: config.node.clone(),
        metrics: Arc::clone(metrics),
        names: Some(Arc::clone(names)),
    }
}

fn pod_keeper(
    config: &Config,
    plane: Arc<Plane>,
    dns: DnsContext,
    metrics: &ControlMetrics,
    directory: Published<Directory>,
    touched: Arc<TouchLog>,
    view: Publisher<PodsView>,
) -> PodKeeper {
    PodKeeper {
        dir: config.pod_dir.clone(),
        runner: Arc::new(ProxyRunner::new(plane, Arc::new(dns))),
        drain_timeout: config.drain_timeout,
        view,
        on_change: Box::new(move |addresses| {
            let mut changed = Touched::default();
            changed.note_addresses(&directory.snapshot(), addresses.iter().copied());
            // Also has the rules compiled for the pods that there are now.
            touched.add(changed);
        }),
        metrics: Arc::clone(&metrics.pods),
    }
}

fn admin(registry: Registry, dump: DumpSources, stop: &Stops) -> Admin {
    let readiness = Readiness {
        xds: dump.xds.clone(),
        kernel: dump.kernel.clone(),
        pods: dump.pods.clone(),
        draining: stop.draining.clone(),
    };
    Admin {
        readiness,
        registry,
        dump: Arc::new(dump),
    }
}

/// Where the mesh's own programs run.
const OWN_NAMESPACE: &str = "tulle-system";
