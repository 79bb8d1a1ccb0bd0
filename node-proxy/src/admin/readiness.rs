//! What it takes to be ready: a view, the kernel's tables made from it, and every pod of the node looked after.

use tokio_util::sync::CancellationToken;

use crate::{kernel_sync::KernelSyncStatus, pods::PodsView, published::Published, xds::XdsStatus};

/// Watches what readiness depends on.
#[derive(Debug, Clone)]
pub struct Readiness {
    /// The stream from the xds-server.
    pub xds: Published<XdsStatus>,
    /// The kernel's tables.
    pub kernel: Published<KernelSyncStatus>,
    /// The pods of this node.
    pub pods: Published<PodsView>,
    /// Cancelled when the process begins to end.
    pub draining: CancellationToken,
}

impl Readiness {
    /// What is missing, one sentence each; empty when ready.
    ///
    /// A pod that cannot be captured does not make the node unready: it would take all the others with it. The metrics and the
    /// pod's own marker tell of it.
    pub fn missing(&self) -> Vec<&'static str> {
        let pods = self.pods.snapshot();
        let conditions = [
            (self.draining.is_cancelled(), "the process is ending"),
            (
                !self.xds.snapshot().has_view(),
                "no view of the mesh has arrived",
            ),
            (
                self.kernel.snapshot().applied == 0,
                "the kernel's tables have not been written",
            ),
            (!pods.scanned, "the pods of this node have not been read"),
            (!pods.settled(), "some pods are still being captured"),
        ];
        conditions
            .into_iter()
            .filter_map(|(is_so, what)| is_so.then_some(what))
            .collect()
    }
}
