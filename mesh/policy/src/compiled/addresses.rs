//! Who is at an address.
//!
//! Decides whose identity an address has while several claim it (a pod before other kinds, then the smaller uid, as the directory
//! says), that an address of a node means the node whoever else runs in its network, and that an address outside the mesh gets an
//! identity of its own only if rules can tell it apart from its block.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use tulle_model::{ClusterName, Directory, NamespacedName, Workload, WorkloadUid};

use super::{
    IdentityId, PolicyUpdate,
    demands::{Demands, Learned},
    identity::{Identities, Identity, Owner},
    prefix::Prefix,
};

/// Who is at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddressState {
    /// Whose identity counts.
    pub(super) identity: IdentityId,
    /// The own node's.
    pub(super) is_host: bool,
    /// The workloads that claim the address as their own; the one that counts first. None for nodes and others.
    pub(super) claimants: Arc<[(WorkloadUid, IdentityId)]>,
}

/// All addresses that somebody claims.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    workloads: HashMap<WorkloadUid, Arc<Workload>>,
    claims: BTreeMap<IpAddr, Vec<WorkloadUid>>,
    /// A clone shares everything.
    pub(super) states: imbl::HashMap<IpAddr, AddressState>,
    /// Addresses whose identity did not fit.
    overflowing: BTreeSet<IpAddr>,
}

/// What identities are made from.
pub(super) struct Surroundings<'a> {
    pub(super) local: &'a ClusterName,
    pub(super) own_node: &'a WorkloadUid,
    pub(super) directory: &'a Directory,
    pub(super) demands: &'a Demands,
    pub(super) learned: &'a Learned,
    pub(super) identities_max: usize,
}

impl Addresses {
    pub(super) fn uids(&self) -> impl Iterator<Item = &WorkloadUid> {
        self.workloads.keys()
    }

    /// Takes in what a workload is now; yields the addresses that it concerns.
    pub(super) fn replace(
        &mut self,
        uid: &WorkloadUid,
        now: Option<&Arc<Workload>>,
        touched: &mut BTreeSet<IpAddr>,
    ) {
        let before = match now {
            Some(now) => self.workloads.insert(uid.clone(), Arc::clone(now)),
            None => self.workloads.remove(uid),
        };
        if let (Some(before), Some(now)) = (&before, now)
            && Arc::ptr_eq(before, now)
        {
            return;
        }
        for address in before.iter().flat_map(|workload| &workload.addresses) {
            let address = address.to_canonical();
            touched.insert(address);
            if let Some(claims) = self.claims.get_mut(&address) {
                claims.retain(|held| held != uid);
                if claims.is_empty() {
                    self.claims.remove(&address);
                }
            }
        }
        for address in now.iter().flat_map(|workload| &workload.addresses) {
            let address = address.to_canonical();
            touched.insert(address);
            let claims = self.claims.entry(address).or_default();
            if !claims.contains(uid) {
                claims.push(uid.clone());
            }
        }
    }

    /// Addresses in a block that somebody claims.
    pub(super) fn claimed_in(&self, block: Prefix) -> impl Iterator<Item = IpAddr> {
        let (first, last) = block.ends();
        self.claims.range(first..=last).map(|(address, _)| *address)
    }

    /// Addresses whose identity did not fit the last time.
    pub(super) fn overflowing(&self) -> impl Iterator<Item = IpAddr> {
        self.overflowing.iter().copied()
    }

    /// Gives an address the identity that it has now.
    pub(super) fn settle(
        &mut self,
        address: IpAddr,
        around: &Surroundings<'_>,
        identities: &mut Identities,
        update: &mut PolicyUpdate,
    ) {
        let (owners, claimants) = self.owners_of(address, around);
        let mut ids = Vec::with_capacity(owners.len());
        for owner in &owners {
            ids.push(identities.acquire(owner, around.identities_max));
        }
        self.overflowing.remove(&address);
        if ids.contains(&IdentityId::OVERFLOW) {
            self.overflowing.insert(address);
        }
        let state = ids.first().map(|identity| AddressState {
            identity: *identity,
            is_host: owners.first().is_some_and(Identity::is_host),
            claimants: claimants.into_iter().zip(ids.iter().copied()).collect(),
        });
        let before = match &state {
            Some(state) => self.states.insert(address, state.clone()),
            None => self.states.remove(&address),
        };
        let old = before.as_ref().map(|before| before.identity);
        match (old, state.map(|state| state.identity)) {
            (old, Some(new)) if old != Some(new) => update.identities.push((address, new)),
            (Some(_), None) => update.identities_gone.push(address),
            (_, Some(_)) | (None, None) => {}
        }
        match before {
            Some(before) if before.claimants.is_empty() => identities.release(before.identity),
            Some(before) => {
                for (_, id) in before.claimants.iter() {
                    identities.release(*id);
                }
            }
            None => {}
        }
    }

    /// The identities at an address, the one that counts first, and the workloads that they are of.
    fn owners_of(
        &self,
        address: IpAddr,
        around: &Surroundings<'_>,
    ) -> (Vec<Identity>, Vec<WorkloadUid>) {
        let claims = self.claims.get(&address).into_iter().flatten();
        let claims: Vec<&Arc<Workload>> =
            claims.filter_map(|uid| self.workloads.get(uid)).collect();
        let place = Prefix::host(address);
        let of_workloads = around.demands.workload_blocks.longest(place);
        let of_workloads = of_workloads.map(|(prefix, _)| prefix);
        // What shares the address serves with it: endpoints that are no pods, and pods in their node's network.
        let shared = claims.iter().filter(|workload| workload.host_network);
        let shared: Vec<&NamespacedName> = shared.flat_map(|w| w.services.keys()).collect();
        let identity = |owner, own: Option<&Workload>, enclosing| {
            let services = own.into_iter().flat_map(|w| w.services.keys());
            let services = services.chain(shared.iter().copied());
            let picks = around.demands.picks_of(services, around.directory);
            Identity {
                owner,
                is_api_server: claims.iter().any(|w| is_api_server(w, around.local)),
                names: Box::default(),
                picks: picks.into_iter().collect(),
                enclosing,
            }
        };
        let mut own: Vec<&Arc<Workload>> =
            claims.iter().copied().filter(|w| !w.host_network).collect();
        own.sort_by_key(|workload| (!workload.uid.0.contains("//Pod/"), &workload.uid));
        if !own.is_empty() {
            let of = |w: &&Arc<Workload>| {
                identity(Owner::Workload(Arc::clone(w)), Some(w), of_workloads)
            };
            let uids = own.iter().map(|workload| workload.uid.clone()).collect();
            return (own.iter().map(of).collect(), uids);
        }
        let mut nodes = claims.iter().filter(|workload| workload.uid.is_node());
        if nodes.clone().next().is_some() {
            let is_host = nodes.any(|node| node.uid == *around.own_node);
            let node = identity(Owner::Node { is_host }, None, of_workloads);
            return (vec![node], Vec::new());
        }
        let enclosing = around.demands.blocks.longest(place);
        let mut outside = identity(Owner::Outside, None, enclosing.map(|(prefix, _)| prefix));
        outside.names = around.learned.meaning(address).into_iter().collect();
        let is_told_apart =
            outside.is_api_server || !outside.names.is_empty() || !outside.picks.is_empty();
        let owners = is_told_apart.then_some(outside);
        (owners.into_iter().collect(), Vec::new())
    }
}

/// Whether a workload serves the API of the local cluster.
fn is_api_server(workload: &Workload, local: &ClusterName) -> bool {
    workload.cluster == *local
        && workload.services.keys().any(|service| {
            service.namespace == "default" && service.name.split('.').next() == Some("kubernetes")
        })
}
