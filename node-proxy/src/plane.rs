//! What every connection of every pod shares: the view of the mesh, identities, the kernel, limits, metrics.
//!
//! A context, not an actor: nothing here moves a byte or decides about a connection.

mod kernel;
mod metrics;
mod settings;
mod tasks;

use std::sync::Arc;

use tulle_identity::{MeshTls, SvidManager};
use tulle_model::{ClusterName, Directory, TrustDomain};

pub use kernel::Kernel;
pub(crate) use metrics::GaugeGuard;
pub use metrics::{
    ByteFlow, Direction, PacingDecision, PlaneMetrics, Security, Transport, TunnelSide,
};
pub use settings::{DeniedLook, InboundMode, PlaneSettings, Ports};
pub(crate) use tasks::Tasks;

use crate::{
    fair::FairShare,
    health::{Health, Probe},
    policy::PolicyView,
    published::Published,
    pump::BufferPool,
    tunnel::{HeldBytes, Probers},
};

/// The shared context of the data plane.
pub struct Plane {
    /// The mesh as this node knows it.
    pub directory: Published<Directory>,
    /// The rules of all policies, compiled.
    pub policy: PolicyView,
    /// The certificates of this node's workloads.
    pub svids: Arc<SvidManager>,
    /// Handshakes of the mesh.
    pub tls: Arc<MeshTls>,
    /// The kernel's side.
    pub kernel: Arc<dyn Kernel>,
    /// Limits, ports, modes.
    pub settings: PlaneSettings,
    /// What is counted.
    pub metrics: Arc<PlaneMetrics>,
    /// The name of this node.
    pub node: String,
    /// The cluster of this node.
    pub cluster: ClusterName,
    /// The trust domain of this cluster.
    pub trust_domain: TrustDomain,
    /// What the connections of all pods share beside this; `Default::default()` at start.
    pub shared: SharedState,
}

/// State that the data plane keeps for all pods together.
#[derive(Debug, Default)]
pub struct SharedState {
    pub(crate) buffers: Arc<BufferPool>,
    /// What connections found out about endpoints.
    pub health: Arc<Health>,
    pub(crate) probers: Arc<Probers>,
    pub(crate) held: Arc<HeldBytes>,
    /// Whose turn it is, among all pods.
    pub(crate) turns: Arc<FairShare>,
}

impl SharedState {
    /// Who can try from inside a pod whether somebody is at an address.
    pub fn prober(&self) -> Arc<dyn Probe> {
        let probers: Arc<Probers> = Arc::clone(&self.probers);
        probers
    }
}
