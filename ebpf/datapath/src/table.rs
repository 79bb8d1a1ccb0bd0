//! What the kernel side should know: the mesh view, reduced to what a connection needs.

use std::net::{IpAddr, SocketAddr};

use tulle_model::{Algorithm, ServiceAddress};

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
    /// For how many seconds after its last connection a client pod keeps its backend; 0 = not at all.
    pub session_affinity: u32,
    /// How a backend is chosen where none is kept. A Maglev table goes by the client pod's address: the same backend from every socket
    /// and port, and after every restart, for as long as it serves.
    pub algorithm: Algorithm,
}

/// One endpoint of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    /// How to get there.
    pub path: Path,
    /// Its share of the connections, relative to the others'; 0 = none while another has some.
    pub weight: u32,
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

/// What differs from the table that was written last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TableChanges {
    /// Services that are new or different, each with all that it has now. A later entry for the same address replaces an earlier one.
    pub frontends: Vec<Frontend>,
    /// Services that are gone. One that was never there counts as gone.
    pub frontends_gone: Vec<ServiceAddress>,
    /// Workloads that are new or are reached in another way.
    pub workloads: Vec<WorkloadRoute>,
    /// Workloads that are gone.
    pub workloads_gone: Vec<IpAddr>,
}

impl TableChanges {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty()
            && self.frontends_gone.is_empty()
            && self.workloads.is_empty()
            && self.workloads_gone.is_empty()
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
    /// Services that should have a Maglev table and choose at random, since there are as many tables as the kernel side may hold.
    pub without_table: usize,
}
