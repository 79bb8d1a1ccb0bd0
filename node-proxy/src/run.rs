//! Wires the program: runtimes, tasks, signals, the order of start and end. No decision about traffic is made here.
//!
//! Three runtimes: the data plane has all cores; the control side (xDS, kernel tables, certificates) and the admin server have a
//! thread each, so that neither a huge update nor a slow reader of the dump can hold up a connection.

mod bundles;
mod collectors;
mod limits;
mod memory;
mod policy;

use std::{
    error::Error,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use prometheus_client::registry::Registry;
use tokio::{
    runtime::{self, Handle, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    task::{JoinError, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tulle_datapath::{
    CapturePorts, Datapath, DatapathSettings, Enforcement, OpenDatapathError, ReconcileError,
};
use tulle_identity::{
    CaClient, CaClientConfig, MeshTls, OpenCaClientError, SVID_TTL_DEFAULT, SvidManager,
    SvidManagerSettings,
};
use tulle_model::{Directory, SpiffeId};

use crate::{
    admin::{Admin, DumpSources, readiness::Readiness},
    config::{Config, Lanes, XdsAddress, own_cgroup},
    dns::{DnsContext, NameKeeper},
    health::{HealthKeeper, Reaper},
    kernel_sync::{KernelSync, KernelSyncStatus, TouchLog, Touched, table::NodeView},
    metrics::{ControlMetrics, DnsMetrics, HeldCollector, ProcessCollector},
    plane::{DeniedLook, Kernel, Plane, PlaneMetrics, PlaneSettings, Ports, SharedState},
    pods::{self, PodKeeper, PodsView, ProxyRunner},
    policy::PolicyView,
    published::{Published, Publisher},
    xds::{MtlsChannel, XdsClient, XdsSettings},
};

use bundles::BundleKeeper;
use collectors::{CertificateCollector, KernelCollector};
use policy::PolicyTasks;

/// Runs the node proxy until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// Something that it cannot work without is missing.
pub fn run(config: Config) -> Result<(), RunError> {
    limits::raise_open_files();
    check_cgroup(&config)?;
    let admin_listener = TcpListener::bind(config.admin).map_err(|source| RunError::Admin {
        address: config.admin,
        source,
    })?;
    let datapath = Arc::new(Datapath::open_enforcing(
        &datapath_settings(&config),
        config.denied,
    )?);
    datapath
        .set_node_addresses(&config.host_addresses.iter().copied().collect())
        .map_err(RunError::NodeAddresses)?;
    let data = runtime::Builder::new_multi_thread()
        .thread_name("data-plane")
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let control = runtime::Builder::new_current_thread()
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let result = control.block_on(supervise(config, datapath, admin_listener, &data));
    // What still runs had its time; what it holds is in the kernel's hands.
    data.shutdown_timeout(SHUTDOWN_TIMEOUT);
    control.shutdown_timeout(SHUTDOWN_TIMEOUT);
    result
}

/// The kernel's side knows the proxy's own sockets by its cgroup: outside of it nothing would fail, but no application would
/// see its true peer.
fn check_cgroup(config: &Config) -> Result<(), RunError> {
    match own_cgroup() {
        Ok(own) if !own.starts_with(&config.proxy_cgroup) => Err(RunError::OutsideCgroup {
            own,
            expected: config.proxy_cgroup.clone(),
        }),
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::warn!(error = chain(&error), "the proxy's own cgroup is not known");
            Ok(())
        }
    }
}

/// Starts everything in order, waits for the end, ends everything in order.
async fn supervise(
    config: Config,
    datapath: Arc<Datapath>,
    admin_listener: TcpListener,
    data: &Runtime,
) -> Result<(), RunError> {
    // Before anything else: a signal that comes early must not end the process halfway.
    let mut signals = Signals::new().map_err(RunError::Signal)?;
    let stop = Stops::default();
    let wired = wire(&config, datapath, &stop, data.handle())?;
    let admin = serve_admin(wired.admin, admin_listener, stop.everything.clone())?;
    let mut tables = wired.control.kernel_sync.status.subscribe();
    let mut rules = wired.control.policies.keeper.status.subscribe();
    let mut control = wired.control.spawn(&stop);

    // A pod that is captured before the kernel knows the mesh would speak plaintext to it.
    let first_tables = async {
        let _tables = tables.wait_for(|status| status.applied > 0).await;
        rules.wait_for(|status| status.applied > 0).await
    };
    // All arms are cancel-safe: a signal stays pending, a wait and a join lose nothing.
    let mut outcome = tokio::select! {
        _applied = first_tables => Ok(None),
        () = signals.next() => Ok(Some(Ending::Signal)),
        ended = control.join_next() => Err(unexpected(ended)),
    };
    let mut pods = JoinSet::new();
    if let Ok(None) = outcome {
        pods.spawn_on(wired.pods.run(stop.pods.clone()), data.handle());
        memory::give_back();
        tracing::info!("the mesh is known: capturing pods");
        outcome = tokio::select! {
            () = signals.next() => Ok(Some(Ending::Signal)),
            ended = control.join_next() => Err(unexpected(ended)),
            _ended = pods.join_next() => Err(RunError::TaskEnded { task: "the keeper of pods".to_owned() }),
        };
    }

    tracing::info!(drain_timeout = ?config.drain_timeout, "ending: connections are drained");
    stop.draining.cancel();
    // The kernel keeps working from its last tables; pods that are being drained must not change them.
    stop.tables.cancel();
    stop.pods.cancel();
    tokio::select! {
        _all = pods.join_next() => {}
        () = signals.next() => tracing::warn!("a second signal: ending at once"),
    }
    stop.everything.cancel();
    let rest = async { while control.join_next().await.is_some() {} };
    if timeout(SHUTDOWN_TIMEOUT, rest).await.is_err() {
        tracing::warn!("the control side did not end in time");
    }
    drop(admin);
    outcome.map(|_ending| ())
}

/// Why the process ends in good order.
enum Ending {
    Signal,
}

/// What ends when; each on its own.
#[derive(Default)]
struct Stops {
    /// Readiness.
    draining: CancellationToken,
    /// Changes of the kernel's tables.
    tables: CancellationToken,
    /// Pods' proxies.
    pods: CancellationToken,
    /// The rest.
    everything: CancellationToken,
}

/// All parts, made and connected, not yet running.
struct Wired {
    control: ControlParts,
    pods: PodKeeper,
    admin: Admin,
}

/// The parts of the control side, each a task as long as the process.
struct ControlParts {
    xds: XdsClient,
    kernel_sync: KernelSync,
    policies: PolicyTasks,
    names: Arc<NameKeeper>,
    health: HealthKeeper,
    reaper: Reaper,
    bundles: BundleKeeper,
    pods: Published<PodsView>,
}

impl ControlParts {
    fn spawn(self, stop: &Stops) -> JoinSet<&'static str> {
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
        tasks.spawn(named("the keeper of memory", memory::keep(self.pods, end())));
        tasks
    }
}

fn wire(
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
    register_collectors(&mut registry, kernel, &svids, data);
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
    let dns = dns_context(config, &directory, &metrics.dns, &policies.names);
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
    svids: &Arc<SvidManager>,
    data: &Handle,
) {
    registry.register_collector(Box::new(HeldCollector::new(data.clone())));
    registry.register_collector(Box::new(ProcessCollector::new(SystemTime::now())));
    registry.register_collector(Box::new(KernelCollector::new(kernel)));
    registry.register_collector(Box::new(CertificateCollector::new(Arc::clone(svids))));
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
        inbound_mode: config.inbound,
        host_addresses: config.host_addresses.clone(),
        denied_look: match config.denied {
            Enforcement::Drop => DeniedLook::Drop,
            Enforcement::Reject | Enforcement::Off => DeniedLook::Reject,
        },
        ..defaults
    }
}

fn datapath_settings(config: &Config) -> DatapathSettings {
    let ports = Ports::default();
    DatapathSettings {
        pin_dir: config.pin_dir.clone(),
        capture_cgroup: config.capture_cgroup.clone(),
        proxy_cgroup: config.proxy_cgroup.clone(),
        sockmap: config.sockmap,
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
    metrics: &Arc<DnsMetrics>,
    names: &Arc<NameKeeper>,
) -> DnsContext {
    DnsContext {
        directory: directory.clone(),
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

/// Starts the admin server on a thread of its own.
fn serve_admin(
    admin: Admin,
    listener: TcpListener,
    cancel: CancellationToken,
) -> Result<thread::JoinHandle<()>, RunError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let serve = move || {
        if let Err(error) = runtime.block_on(admin.serve(listener, cancel)) {
            tracing::error!(%error, "the admin server failed");
        }
        runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    };
    thread::Builder::new()
        .name("admin".to_owned())
        .spawn(serve)
        .map_err(RunError::Runtime)
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

/// A task that runs as long as the process ended: it failed, whatever it says.
fn unexpected(ended: Option<Result<&'static str, JoinError>>) -> RunError {
    let task = match ended {
        Some(Ok(name)) => name.to_owned(),
        Some(Err(error)) => error.to_string(),
        None => "a task".to_owned(),
    };
    RunError::TaskEnded { task }
}

/// The two signals that end the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for either.
    ///
    /// # Cancel safety
    /// A signal that was not returned is returned by the next call.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// The proxy cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The admin server's address is not free.
    #[error("the admin server cannot listen at {address}")]
    Admin {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The kernel's side does not take the node's own addresses.
    #[error("the kernel's side does not take the node's own addresses")]
    NodeAddresses(#[source] ReconcileError),
    /// The process is not where its configuration says.
    #[error("this process is in the cgroup {}, expected below {}: applications would not see their true peers", own.display(), expected.display())]
    OutsideCgroup {
        /// Where it is.
        own: PathBuf,
        /// The proxy's cgroup.
        expected: PathBuf,
    },
    /// The kernel's side cannot be loaded.
    #[error("the kernel's side cannot be set up")]
    Datapath(#[from] OpenDatapathError),
    /// The client for certificates cannot be set up.
    #[error("the client for certificates cannot be set up")]
    Certificates(#[from] OpenCaClientError),
    /// A runtime or thread cannot be made.
    #[error("a runtime cannot be started")]
    Runtime(#[source] io::Error),
    /// Signals cannot be received.
    #[error("signals cannot be received")]
    Signal(#[source] io::Error),
    /// A task that must run for ever ended.
    #[error("{task} ended unexpectedly")]
    TaskEnded {
        /// Which.
        task: String,
    },
}

/// Where the mesh's own programs run.
const OWN_NAMESPACE: &str = "tulle-system";
/// What is done after the drain takes milliseconds; only a hanging disk takes longer.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
