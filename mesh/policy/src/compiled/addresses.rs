//! Who is at an address.
//!
//! Decides whose identity an address has while several claim it (a pod before other kinds, then the smaller uid, as the directory
//! says), that an address of a node means the node whoever else runs in its network, and that an address outside the mesh gets an
//! identity of its own only if rules can tell it apart from its block.

use std::{
    borrow::Borrow,
    collections::{BTreeSet, HashSet},
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

use imbl::OrdMap;
use tulle_model::{ClusterName, Directory, NamespacedName, Workload, WorkloadUid};

use super::{
    IdentityId, PolicyUpdate,
    demands::{Demands, Learned},
    identity::{Identities, Identity, Owner},
    prefix::Prefix,
};

/// Who is at an address. A mesh has a hundred thousand of these, so what nearly all have, one workload, takes no room of its own.
#[derive(Debug, Clone)]
pub(super) struct AddressState {
    /// Whose identity counts; [`IdentityId::ANY`] if nobody at the address has one.
    identity: IdentityId,
    /// The own node's.
    is_host: bool,
    /// Its identities count as used here.
    is_counted: bool,
    claims: Claims,
}

/// The workloads that claim an address.
#[derive(Debug, Clone, Default)]
enum Claims {
    #[default]
    Nobody,
    /// If the address is its own, it has the address's identity.
    One(Arc<Workload>),
    /// In no particular order; those whose own the address is have identities.
    Several(Arc<Vec<(Arc<Workload>, IdentityId)>>),
}

/// All addresses that somebody claims.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// As they were taken in: a newer directory may know more than was told of.
    workloads: HashSet<ByUid>,
    /// A clone shares everything.
    pub(super) states: OrdMap<IpAddr, AddressState>,
    /// Addresses whose identity did not fit.
    overflowing: BTreeSet<IpAddr>,
}

/// A workload, to be found by its uid.
#[derive(Debug)]
struct ByUid(Arc<Workload>);

/// What identities are made from.
pub(super) struct Surroundings<'a> {
    pub(super) local: &'a ClusterName,
    pub(super) own_node: &'a WorkloadUid,
    pub(super) directory: &'a Directory,
    pub(super) demands: &'a Demands,
    pub(super) learned: &'a Learned,
    pub(super) identities_max: usize,
}

impl AddressState {
    /// Whose identity counts, if anybody's.
    pub(super) fn identity(&self) -> Option<IdentityId> {
        (self.identity != IdentityId::ANY).then_some(self.identity)
    }

    /// The own node's.
    pub(super) fn is_host(&self) -> bool {
        self.is_host
    }

    /// Whether no workload has the address as its own; nodes do not count.
    pub(super) fn is_shared(&self) -> bool {
        self.own_claims().next().is_none()
    }

    /// The identity of a workload whose own address it is.
    pub(super) fn identity_of(&self, uid: &WorkloadUid) -> Option<IdentityId> {
        let mut claims = self.own_claims();
        claims
            .find(|(workload, _)| workload.uid == *uid)
            .map(|(_, identity)| identity)
    }

    fn own_claims(&self) -> impl Iterator<Item = (&Arc<Workload>, IdentityId)> {
        let claims = self.claims.iter();
        let own = claims.filter(|(workload, _)| !workload.host_network);
        own.map(|(workload, identity)| (workload, identity.unwrap_or(self.identity)))
    }

    /// Nobody's any more: its identities are used once less.
    fn release(&mut self, identities: &mut Identities) {
        if !std::mem::take(&mut self.is_counted) {
            return;
        }
        if self.is_shared() {
            identities.release(self.identity);
        }
        for (_, identity) in self.own_claims() {
            identities.release(identity);
        }
    }

    /// Takes in who is at the address now, the one that counts first.
    fn settle(&mut self, owners: &[Identity], ids: &[IdentityId], own: &[Arc<Workload>]) {
        self.is_host = owners.first().is_some_and(Identity::is_host);
        self.identity = ids.first().copied().unwrap_or(IdentityId::ANY);
        self.is_counted = !ids.is_empty();
        if let Claims::Several(claims) = &mut self.claims {
            for (workload, identity) in Arc::make_mut(claims) {
                let mut own = own.iter().zip(ids);
                let found = own.find(|(held, _)| Arc::ptr_eq(held, workload));
                *identity = found.map_or(IdentityId::ANY, |(_, id)| *id);
            }
        }
    }
}

impl Default for AddressState {
    fn default() -> Self {
        AddressState {
            identity: IdentityId::ANY,
            is_host: false,
            is_counted: false,
            claims: Claims::Nobody,
        }
    }
}

impl Claims {
    /// The workloads, with the identities of those that have one of their own.
    fn iter(&self) -> impl Iterator<Item = (&Arc<Workload>, Option<IdentityId>)> {
        let (one, several) = match self {
            Claims::Nobody => (None, None),
            Claims::One(workload) => (Some((workload, None)), None),
            Claims::Several(claims) => (None, Some(claims)),
        };
        let several = several.into_iter().flat_map(|claims| claims.iter());
        let several = several.map(|(workload, identity)| (workload, Some(*identity)));
        one.into_iter().chain(several)
    }

    /// The same without a workload, and with what took its place, if anything did.
    fn replaced(&self, uid: &WorkloadUid, now: Option<&Arc<Workload>>) -> Self {
        let others = self.iter().map(|(workload, _)| workload);
        let others = others.filter(|workload| workload.uid != *uid);
        let mut claims: Vec<_> = others
            .chain(now)
            .map(|workload| (Arc::clone(workload), IdentityId::ANY))
            .collect();
        match (claims.pop(), claims.is_empty()) {
            (None, _) => Claims::Nobody,
            (Some((only, _)), true) => Claims::One(only),
            (Some(last), false) => {
                claims.push(last);
                Claims::Several(Arc::new(claims))
            }
        }
    }
}

impl Addresses {
    pub(super) fn uids(&self) -> impl Iterator<Item = &WorkloadUid> {
        self.workloads.iter().map(|held| &held.0.uid)
    }

    /// Takes in what a workload is now; yields the addresses that it concerns, which have to be settled.
    pub(super) fn replace(
        &mut self,
        uid: &WorkloadUid,
        now: Option<&Arc<Workload>>,
        identities: &mut Identities,
        touched: &mut BTreeSet<IpAddr>,
    ) {
        let before = match now {
            Some(now) => self.workloads.replace(ByUid(Arc::clone(now))),
            None => self.workloads.take(uid),
        };
        let before = before.map(|held| held.0);
        if let (Some(before), Some(now)) = (&before, now)
            && Arc::ptr_eq(before, now)
        {
            return;
        }
        let mut claim = |address: &IpAddr, now| {
            let address = address.to_canonical();
            touched.insert(address);
            let state = self.states.entry(address).or_default();
            state.release(identities);
            state.claims = state.claims.replaced(uid, now);
        };
        for address in before.iter().flat_map(|workload| &workload.addresses) {
            claim(address, None);
        }
        for address in now.iter().flat_map(|workload| &workload.addresses) {
            claim(address, now);
        }
    }

    /// Addresses in a block that somebody claims.
    pub(super) fn claimed_in(&self, block: Prefix) -> impl Iterator<Item = IpAddr> {
        let (first, last) = block.ends();
        let states = self.states.range(first..=last);
        let claimed = states.filter(|(_, state)| !matches!(state.claims, Claims::Nobody));
        claimed.map(|(address, _)| *address)
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
        let (owners, own) = self.owners_of(address, around);
        let mut ids = Vec::with_capacity(owners.len());
        for owner in &owners {
            ids.push(identities.acquire(owner, around.identities_max));
        }
        self.overflowing.remove(&address);
        if ids.contains(&IdentityId::OVERFLOW) {
            self.overflowing.insert(address);
        }
        let state = self.states.entry(address).or_default();
        let old = state.identity();
        state.release(identities);
        state.settle(&owners, &ids, &own);
        match (old, state.identity()) {
            (old, Some(new)) if old != Some(new) => update.identities.push((address, new)),
            (Some(_), None) => update.identities_gone.push(address),
            (_, Some(_)) | (None, None) => {}
        }
        if state.identity().is_none() && matches!(state.claims, Claims::Nobody) {
            self.states.remove(&address);
        }
    }

    /// The identities at an address, the one that counts first, and the workloads that they are of.
    fn owners_of(
        &self,
        address: IpAddr,
        around: &Surroundings<'_>,
    ) -> (Vec<Identity>, Vec<Arc<Workload>>) {
        let state = self.states.get(&address).into_iter();
        let claims = state.flat_map(|state| state.claims.iter());
        let claims: Vec<&Arc<Workload>> = claims.map(|(workload, _)| workload).collect();
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
            let owners = own.iter().map(of).collect();
            return (owners, own.into_iter().cloned().collect());
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

impl Borrow<WorkloadUid> for ByUid {
    fn borrow(&self) -> &WorkloadUid {
        &self.0.uid
    }
}

// By the uid alone, as `Borrow` demands.
impl Hash for ByUid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.uid.hash(state);
    }
}

impl PartialEq for ByUid {
    fn eq(&self, other: &Self) -> bool {
        self.0.uid == other.0.uid
    }
}

impl Eq for ByUid {}
