//! Puts the management API together.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use anyhow::Context as _;
use tokio::{net::TcpListener, sync::watch};
use tulle_identity::{ClientAuthority, ServerTls};

use super::Parts;
use crate::{
    ads::operator_id,
    config::{Config, PeersConfig, StoreConfig},
    management::{self, Management, Peers, PublishingControl, RemoteFiles, WISH_FILE, Wish},
    snapshot::Snapshot,
    store::EtcdSettings,
    tokens::NodeTokens,
    world::MeshView,
};

/// What the API explains.
pub(super) struct Views {
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) mesh: watch::Receiver<Arc<MeshView>>,
}

/// Whether others may read this cluster, as the operator left it.
pub(super) async fn publishing(config: &Config) -> PublishingControl {
    let file = config.remotes.as_ref().map(|root| root.join(WISH_FILE));
    let own = match &config.store {
        StoreConfig::Etcd(settings) => settings.endpoints.clone(),
        StoreConfig::Memory => Vec::new(),
    };
    let given = &config.management;
    let endpoints = if given.advertise.is_empty() {
        own
    } else {
        given.advertise.clone()
    };
    let default = Wish {
        enabled: given.publish,
        endpoints: None,
    };
    PublishingControl::open(file, default, endpoints).await
}

impl Parts {
    pub(super) fn start_management(
        &self,
        listener: TcpListener,
        tls: Arc<ServerTls>,
        views: Views,
        root_pem: &str,
        peers: Peers,
    ) {
        let config = &self.config;
        let root = config.remotes.clone();
        let management = Management {
            cluster: config.cluster.clone(),
            operator: operator_id(&config.trust_domain),
            tokens: config
                .management
                .operator_tokens
                .clone()
                .map(NodeTokens::new),
            status: Arc::clone(&self.status),
            metrics: Arc::clone(&self.metrics),
            snapshots: views.snapshots,
            mesh: views.mesh,
            nodes: Arc::clone(&self.nodes),
            remotes: root.map(|root| RemoteFiles::new(root, config.cluster.clone())),
            publishing: Arc::clone(&self.publishing),
            etcd: own_etcd(config).cloned(),
            peers,
            root_pem: root_pem.to_owned(),
        };
        self.tasks.spawn(management::serve(
            listener,
            tls,
            Arc::new(management),
            self.tasks.clone(),
            self.stop.clone(),
        ));
    }
}

/// Where credentials for others come from.
pub(super) fn open_peers(config: &Config) -> anyhow::Result<Peers> {
    let (ca_cert, ca_key, admin_cert, admin_key) = match config.management.peers.clone() {
        PeersConfig::None => return Ok(Peers::None),
        PeersConfig::Shared { cert, key } => return Ok(Peers::Shared { cert, key }),
        PeersConfig::PerPeer {
            ca_cert,
            ca_key,
            admin_cert,
            admin_key,
        } => (ca_cert, ca_key, admin_cert, admin_key),
    };
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let authority = ClientAuthority::from_pem(&read(&ca_cert)?, &read(&ca_key)?, SystemTime::now())
        .context("cannot use --etcd-client-ca-cert and --etcd-client-ca-key")?;
    let own = own_etcd(config).context("--etcd-client-ca-cert: needs --store etcd")?;
    let admin = EtcdSettings {
        cert: admin_cert.into(),
        key: admin_key.into(),
        ..own.clone()
    };
    Ok(Peers::PerPeer {
        authority: Box::new(authority),
        admin,
    })
}

fn own_etcd(config: &Config) -> Option<&EtcdSettings> {
    match &config.store {
        StoreConfig::Etcd(settings) => Some(settings),
        StoreConfig::Memory => None,
    }
}
