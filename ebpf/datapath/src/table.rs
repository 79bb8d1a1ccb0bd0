//! What the kernel side should know: the mesh view, reduced to what a connection needs.

use std::net::{IpAddr, SocketAddr};

use tulle_model::ServiceAddress;

/// Everything the service and workload maps should hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KernelTable {
    /// Service addresses and their backends. A later entry for the same address replaces an earlier one.
    pub frontends: Vec<Frontend>,
    /// How to reach each workload's own address.
    pub workloads: Vec<WorkloadRoute>,
}

/// One address and port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// What clients ask for.
    pub address: ServiceAddress,
    /// Who may serve them, already filtered; empty: connections are refused at once.
    pub backends: Vec<Backend>,
}

/// One endpoint of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    /// How to get there.
    pub path: Path,
}

/// How to reach a workload that is asked for by its own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkloadRoute {
    /// The workload's address.
    pub address: IpAddr,
    /// How to get there.
    pub path: Path,
}

/// How a connection gets to its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Path {
    /// Straight: same node, plaintext allowed.
    Direct,
    /// Through the node proxy, which speaks HBONE to the far side.
    Proxy,
    /// Not in the mesh: load-balanced if it is a service's backend, else left alone.
    Plain,
}

impl Path {
    /// The number that the kernel side knows the path by.
    pub(crate) fn number(self) -> u32 {
        match self {
            Path::Direct => tulle_abi::PATH_DIRECT,
            Path::Proxy => tulle_abi::PATH_PROXY,
            Path::Plain => tulle_abi::PATH_PLAIN,
        }
    }
}

/// What a reconciliation did, counted in services, backend slots and workloads together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReconcileReport {
    /// Entries that are new.
    pub added: usize,
    /// Entries whose value changed.
    pub changed: usize,
    /// Entries that are gone.
    pub removed: usize,
}
