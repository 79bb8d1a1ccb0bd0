//! Puts the parts together and takes them apart again. No logic of its own.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::{mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tulle_identity::{CertificateAuthority, ServerTls, TrustBundles};
use tulle_model::TrustBundle;

use crate::{
    admin::{self, Admin},
    ads::{Ads, DRAIN_TIMEOUT},
    ca::Certificates,
    config::{AuthorityConfig, Config, StoreConfig},
    layout::{self, ClusterInfo},
    management::{NodeBoard, PublishingControl, PublishingTask},
    metrics::Metrics,
    remotes::{self, RemoteEvent, RemotesContext},
    server::{self, Services},
    snapshot::Snapshot,
    source::{Source, SourceEvent, manifests::ManifestDirectory},
    status::StatusBoard,
    store::PublishPlan,
    tokens::NodeTokens,
    world::{MeshView, Outputs, OwnState, World},
};

mod management;
mod nodes;

use self::{management::Views, nodes::NodesRuntime};

/// A server that runs.
#[derive(Debug)]
pub struct Running {
    /// Where gRPC is served.
    pub listen: std::net::SocketAddr,
    /// Where health and status are served.
    pub admin: std::net::SocketAddr,
    /// Where operators are served, if they are.
    pub management: Option<std::net::SocketAddr>,
    /// The root of the cluster's identities.
    pub root_pem: String,
    stop: CancellationToken,
    tasks: TaskTracker,
    _nodes: NodesRuntime,
}

impl Running {
    /// Ends everything and waits for it, but not for ever.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        let drained = tokio::time::timeout(DRAIN_TIMEOUT + DRAIN_MARGIN, self.tasks.wait()).await;
        if drained.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
    }

    /// Resolves when a part that the server cannot do without has ended by itself.
    pub async fn failed(&self) {
        self.stop.cancelled().await;
    }
}

/// Starts all parts.
///
/// # Errors
///
/// When the authority, the certificate or a port cannot be had.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    let authority = Arc::new(open_authority(&config)?);
    let tls = Arc::new(open_tls(&authority, &config.trust_domain)?);
    let listener = bind("--listen", config.listen).await?;
    let admin_listener = bind("--admin", config.admin).await?;
    let (listen, admin) = (listener.local_addr()?, admin_listener.local_addr()?);
    let management_listener = match config.management.listen {
        Some(address) => Some(bind("--management", address).await?),
        None => None,
    };
    let management = management_listener.as_ref().map(TcpListener::local_addr);
    let management = management.transpose()?;
    let root_pem = authority.root_pem().to_owned();
    let status = StatusBoard::new(
        config.cluster.clone(),
        config.cluster_id.value(),
        config.trust_domain.clone(),
    );
    let peers = management::open_peers(&config)?;
    let parts = Parts {
        status: Arc::new(status),
        nodes: Arc::default(),
        publishing: Arc::new(management::publishing(&config).await),
        config,
        metrics: Arc::new(Metrics::new()),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
    };
    let (snapshots, snapshots_rx) = watch::channel(Arc::new(Snapshot::default()));
    let (mesh, mesh_rx) = watch::channel(Arc::new(MeshView::default()));
    if let Some(listener) = management_listener {
        let views = Views {
            snapshots: snapshots_rx.clone(),
            mesh: mesh_rx,
        };
        parts.start_management(listener, Arc::clone(&tls), views, &root_pem, peers);
    }
    let nodes = NodesRuntime::start()?;
    parts
        .start_ports(
            Port {
                listener,
                tls,
                runtime: nodes.handle(),
            },
            admin_listener,
            authority,
            snapshots_rx,
        )
        .await;
    parts.start_world(snapshots, mesh, &root_pem).await;
    tracing::info!(%listen, %admin, "serving");
    Ok(Running {
        listen,
        admin,
        management,
        root_pem,
        stop: parts.stop,
        tasks: parts.tasks,
        _nodes: nodes,
    })
}

/// Where node proxies come in.
struct Port<'a> {
    listener: TcpListener,
    tls: Arc<ServerTls>,
    runtime: &'a Handle,
}

/// What all parts share.
struct Parts {
    config: Config,
    status: Arc<StatusBoard>,
    nodes: Arc<NodeBoard>,
    publishing: Arc<PublishingControl>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Parts {
    async fn start_ports(
        &self,
        port: Port<'_>,
        admin_listener: TcpListener,
        authority: Arc<CertificateAuthority>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) {
        let config = &self.config;
        let tokens = Arc::new(NodeTokens::new(config.node_tokens.clone()));
        tokens.reload().await;
        let (metrics, stop) = (&self.metrics, &self.stop);
        let version = env!("CARGO_PKG_VERSION");
        let ads = Ads::new(
            &config.trust_domain,
            Arc::clone(&tokens),
            format!("tulle xds-server {version} of {}", config.cluster),
            snapshots.clone(),
            Arc::clone(metrics),
            self.tasks.clone(),
            stop.clone(),
        )
        .with_nodes(Arc::clone(&self.nodes));
        let certificates = Certificates::new(
            Arc::clone(&authority),
            Arc::clone(&tokens),
            config.svid_ttl,
            snapshots.clone(),
            Arc::clone(metrics),
        );
        let services = Services {
            ads,
            certificates,
            metrics: Arc::clone(metrics),
        };
        let Port {
            listener,
            tls,
            runtime,
        } = port;
        let renewal = server::renew_certificate(Arc::clone(&tls), authority, stop.clone());
        self.tasks.spawn(renewal);
        let serving = server::serve(listener, tls, services, self.tasks.clone(), stop.clone());
        self.tasks.spawn_on(serving, runtime);
        let admin = Admin {
            status: Arc::clone(&self.status),
            metrics: Arc::clone(metrics),
            snapshots,
            tokens,
        };
        self.tasks.spawn(admin::serve(
            admin_listener,
            admin,
            self.tasks.clone(),
            stop.clone(),
        ));
    }

    async fn start_world(
        &self,
        snapshots: watch::Sender<Arc<Snapshot>>,
        mesh: watch::Sender<Arc<MeshView>>,
        root_pem: &str,
    ) {
        let config = &self.config;
        let info = ClusterInfo {
            name: config.cluster.clone(),
            id: config.cluster_id,
            trust_domain: config.trust_domain.clone(),
            version: layout::VERSION,
        };
        let bundle = TrustBundle {
            trust_domain: config.trust_domain.clone(),
            roots_pem: root_pem.to_owned(),
        };
        let (own_state_tx, own_state) = watch::channel(OwnState::default());
        let (cilium_tx, cilium_state) = watch::channel(OwnState::default());
        let outputs = Outputs {
            snapshots,
            mesh,
            own_state: own_state_tx,
            cilium_state: config.publish_cilium.then_some(cilium_tx),
            status: Arc::clone(&self.status),
            metrics: Arc::clone(&self.metrics),
        };
        let world =
            World::new(info, bundle, outputs).with_namespaces_global(config.namespaces_global);
        let (source_tx, source_rx) = mpsc::channel(EVENTS_LEN_MAX);
        let (remotes_tx, remotes_rx) = mpsc::channel(EVENTS_LEN_MAX);
        self.tasks
            .spawn(world.run(source_rx, remotes_rx, self.stop.clone()));
        // The world must know of the other clusters before the source makes it ready.
        self.start_remotes(remotes_tx).await;
        self.start_source(source_tx);
        self.start_publishing(PublishPlan::tulle(&config.cluster), own_state);
        if config.publish_cilium {
            self.start_publishing(PublishPlan::cilium(&config.cluster), cilium_state);
        }
    }

    fn start_publishing(&self, plan: PublishPlan, state: watch::Receiver<OwnState>) {
        let StoreConfig::Etcd(settings) = &self.config.store else {
            return;
        };
        let publishing = PublishingTask {
            plan,
            settings: settings.clone(),
            state,
            status: Arc::clone(&self.status),
            metrics: Arc::clone(&self.metrics),
        };
        let wishes = self.publishing.subscribe();
        self.tasks.spawn(publishing.run(wishes, self.stop.clone()));
    }

    fn start_source(&self, events: mpsc::Sender<SourceEvent>) {
        let source = Box::new(ManifestDirectory::new(
            &self.config.manifests,
            self.config.policies.clone(),
        ));
        let (stop, status) = (self.stop.clone(), Arc::clone(&self.status));
        self.tasks.spawn(async move {
            if let Err(error) = source.run(events, stop.clone()).await {
                let text = crate::chain::Chain(&error).to_string();
                tracing::error!("the source ends: {text}");
                status.update(|s| s.source.stopped = Some(text));
                stop.cancel();
            }
        });
    }

    async fn start_remotes(&self, events: mpsc::Sender<RemoteEvent>) {
        let Some(root) = self.config.remotes.clone() else {
            return;
        };
        let context = RemotesContext {
            own: self.config.cluster.clone(),
            own_ca: match &self.config.store {
                StoreConfig::Etcd(settings) => Some(settings.ca.clone()),
                StoreConfig::Memory => None,
            },
            events,
            status: Arc::clone(&self.status),
            metrics: Arc::clone(&self.metrics),
            stop: self.stop.clone(),
        };
        remotes::announce(&root, &context).await;
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            if let Err(error) = remotes::run(root, context).await {
                tracing::error!(
                    "the remote clusters cannot be watched: {}",
                    crate::chain::Chain(&error)
                );
                stop.cancel();
            }
        });
    }
}

fn open_tls(
    authority: &CertificateAuthority,
    domain: &tulle_model::TrustDomain,
) -> anyhow::Result<ServerTls> {
    let bundles = TrustBundles::default()
        .with_pem(domain, authority.root_pem())
        .context("cannot use the own root")?;
    let svid = server::issue_own(authority).context("cannot sign the server's own certificate")?;
    ServerTls::new(&svid, Arc::new(bundles)).context("cannot serve TLS")
}

async fn bind(flag: &str, address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{flag}: cannot listen on {address}"))
}

fn open_authority(config: &Config) -> anyhow::Result<CertificateAuthority> {
    let AuthorityConfig { directory, given } = &config.authority;
    let Some((cert, key)) = given else {
        return CertificateAuthority::open(directory, &config.trust_domain, SystemTime::now())
            .context("cannot open the authority");
    };
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let authority = CertificateAuthority::from_pem(
        &read(cert)?,
        &read(key)?,
        &config.trust_domain,
        SystemTime::now(),
    )
    .context("cannot use --ca-cert and --ca-key")?;
    // Node proxies find the root at the same place, whoever made it.
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let path = directory.join(ROOT_CERTIFICATE);
    std::fs::write(&path, authority.root_pem())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(authority)
}

/// Where node proxies find the root.
const ROOT_CERTIFICATE: &str = "root-cert.pem";
const EVENTS_LEN_MAX: usize = 256;
const DRAIN_MARGIN: Duration = Duration::from_secs(1);
