//! Identities: one number for all far ends that no rule can tell apart.
//!
//! A workload is told apart by its cluster, namespace, service account, labels, its namespace's labels and its named ports; any far
//! end also by the services it serves that rules name, the learned names that rules mean, and the block of addresses that rules name
//! and that holds its address. What rules do not name is not part of an identity, so a mesh without address blocks in its policies
//! has no more identities than it has kinds of pods.
//!
//! **Invariant:** a number is not given away again before all other numbers were, so no table, event or snapshot that still holds
//! it can be about somebody else.

use std::{
    collections::{BTreeSet, HashMap, hash_map::RandomState},
    hash::{BuildHasher, Hash},
    sync::Arc,
};

use tulle_model::{Entity, LabelKey, Operator, Selector, TunnelProtocol, Workload};

use super::{
    IdentityId,
    labels::{is_workload_of, label_of, names_reserved, reserved_label},
    peers::{NameId, PeerKind, PickId},
    prefix::Prefix,
};

/// What rules can tell apart about a far end.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) owner: Owner,
    /// An API server of the local cluster is at its address.
    pub(super) is_api_server: bool,
    /// Patterns in use that mean a name with its address; sorted. Of those outside only.
    pub(super) names: Box<[NameId]>,
    /// Picks in use of services that it serves; sorted.
    pub(super) picks: Box<[PickId]>,
    /// The longest block in use that holds its address: for workloads and nodes of those that mean them, for others of all.
    pub(super) enclosing: Option<Prefix>,
}

/// Who has an address.
#[derive(Debug, Clone)]
pub(super) enum Owner {
    /// A workload like this one.
    Workload(Arc<Workload>),
    /// A node.
    Node {
        /// The own one.
        is_host: bool,
    },
    /// Nobody of the mesh.
    Outside,
}

impl Identity {
    /// Everyone in a block.
    pub(super) fn of_block(prefix: Prefix) -> Self {
        Identity {
            owner: Owner::Outside,
            is_api_server: false,
            names: Box::default(),
            picks: Box::default(),
            enclosing: Some(prefix),
        }
    }

    /// A workload wherever it is.
    pub(super) fn of_workload(workload: &Arc<Workload>) -> Self {
        Identity {
            owner: Owner::Workload(Arc::clone(workload)),
            is_api_server: false,
            names: Box::default(),
            picks: Box::default(),
            enclosing: None,
        }
    }

    pub(super) fn is_host(&self) -> bool {
        matches!(self.owner, Owner::Node { is_host: true })
    }

    fn is_same(&self, other: &Identity) -> bool {
        let is_same_owner = match (&self.owner, &other.owner) {
            (Owner::Workload(a), Owner::Workload(b)) => {
                Arc::ptr_eq(a, b) || features(a) == features(b)
            }
            (Owner::Node { is_host: a }, Owner::Node { is_host: b }) => a == b,
            (Owner::Outside, Owner::Outside) => true,
            (Owner::Workload(_) | Owner::Node { .. } | Owner::Outside, _) => false,
        };
        is_same_owner && self.place() == other.place()
    }

    fn place(&self) -> impl Eq + Hash + '_ {
        (self.is_api_server, &self.names, &self.picks, self.enclosing)
    }

    fn hash_with(&self, hasher: &RandomState) -> u64 {
        let owner = match &self.owner {
            Owner::Workload(workload) => hasher.hash_one(features(workload)),
            Owner::Node { is_host } => u64::from(*is_host),
            Owner::Outside => 2,
        };
        hasher.hash_one((owner, self.place()))
    }

    /// Whether it belongs to a set that has a name.
    pub(super) fn belongs_to(&self, entity: Entity, local: &tulle_model::ClusterName) -> bool {
        let is_outside = matches!(self.owner, Owner::Outside);
        let is_v6 = self.enclosing.is_some_and(Prefix::is_v6);
        match (&self.owner, entity) {
            (_, Entity::All) => true,
            (_, Entity::KubeApiserver) => self.is_api_server,
            (Owner::Workload(workload), entity) => {
                self.is_api_server && entity == Entity::Cluster
                    || is_workload_of(workload, entity, workload.cluster == *local)
            }
            (Owner::Node { .. }, Entity::Cluster | Entity::ClusterMesh) => true,
            (Owner::Outside, Entity::Cluster | Entity::ClusterMesh) => self.is_api_server,
            (Owner::Node { is_host }, Entity::Host) => *is_host,
            (Owner::Node { is_host }, Entity::RemoteNode) => !is_host,
            (_, Entity::World) => is_outside,
            (_, Entity::WorldIpv4) => is_outside && !is_v6,
            (_, Entity::WorldIpv6) => is_outside && is_v6,
            (Owner::Node { .. } | Owner::Outside, _) => false,
        }
    }

    /// Whether a rule that names `kind` means it.
    pub(super) fn matches(&self, kind: &PeerKind, local: &tulle_model::ClusterName) -> bool {
        match kind {
            PeerKind::Endpoints(selector) => match &self.owner {
                Owner::Workload(workload) => selector.matches(|key| label_of(workload, key)),
                Owner::Node { .. } | Owner::Outside => {
                    names_reserved(selector)
                        && selector.matches(|key: &LabelKey| {
                            reserved_label(key, |entity| self.belongs_to(entity, local))
                        })
                }
            },
            PeerKind::Entity(entity) => self.belongs_to(*entity, local),
            PeerKind::Block {
                block,
                except,
                includes_workloads,
            } => {
                let is_meant = *includes_workloads || matches!(self.owner, Owner::Outside);
                is_meant
                    && self.enclosing.is_some_and(|held| {
                        block.covers(held) && !except.iter().any(|except| except.covers(held))
                    })
            }
            PeerKind::Name(name) => self.names.binary_search(name).is_ok(),
            PeerKind::Services(pick) => self.picks.binary_search(pick).is_ok(),
            PeerKind::HasPort(name) => match &self.owner {
                Owner::Workload(workload) => workload.named_ports.contains_key(name.as_str()),
                Owner::Node { .. } | Owner::Outside => false,
            },
        }
    }
}

/// All that rules can tell apart about a workload by itself.
fn features(workload: &Workload) -> impl Eq + Hash + '_ {
    (
        workload.cluster.as_str(),
        &workload.namespace,
        &workload.service_account,
        &workload.labels,
        &workload.namespace_labels,
        &workload.named_ports,
        workload.tunnel_protocol == TunnelProtocol::None,
    )
}

/// The identities in use, with their numbers.
#[derive(Debug, Default)]
pub(super) struct Identities {
    by_id: HashMap<IdentityId, Counted>,
    by_hash: HashMap<u64, Vec<IdentityId>>,
    hasher: RandomState,
    last: u32,
    /// Numbers given away since they were last asked for.
    pub(super) born: BTreeSet<IdentityId>,
    /// Numbers that nobody uses any more, since they were last asked for; still in the table.
    idle: Vec<IdentityId>,
    /// How many were refused a number since this was last reset.
    pub(super) refused: usize,
}

#[derive(Debug)]
struct Counted {
    identity: Arc<Identity>,
    hash: u64,
    uses: usize,
}

impl Identities {
    pub(super) fn get(&self, id: IdentityId) -> Option<&Arc<Identity>> {
        self.by_id.get(&id).map(|counted| &counted.identity)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The number of an identity, one more use of it. Beyond `max`, who has none yet shares the one that is always refused.
    pub(super) fn acquire(&mut self, identity: &Identity, max: usize) -> IdentityId {
        let hash = identity.hash_with(&self.hasher);
        let held = self.by_hash.get(&hash).into_iter().flatten();
        let mut held = held.filter_map(|id| Some((*id, self.by_id.get(id)?)));
        let found = held.find(|(_, counted)| counted.identity.is_same(identity));
        if let Some(id) = found.map(|(id, _)| id) {
            if let Some(counted) = self.by_id.get_mut(&id) {
                counted.uses += 1;
            }
            return id;
        }
        if self.by_id.len() >= max {
            self.refused += 1;
            return IdentityId::OVERFLOW;
        }
        let id = self.next_id(identity);
        let counted = Counted {
            identity: Arc::new(identity.clone()),
            hash,
            uses: 1,
        };
        self.by_id.insert(id, counted);
        self.by_hash.entry(hash).or_default().push(id);
        self.born.insert(id);
        id
    }

    /// One use less. The number stays until `take_dead`: somebody may use it again before.
    pub(super) fn release(&mut self, id: IdentityId) {
        if let Some(counted) = self.by_id.get_mut(&id) {
            counted.uses = counted.uses.saturating_sub(1);
            if counted.uses == 0 {
                self.idle.push(id);
            }
        }
    }

    /// Removes whom nobody uses any more. Whoever was also born since the last time is in neither list.
    pub(super) fn take_dead(&mut self) -> Vec<(IdentityId, Arc<Identity>)> {
        let mut idle = std::mem::take(&mut self.idle);
        idle.sort_unstable();
        idle.dedup();
        idle.retain(|id| self.by_id.get(id).is_some_and(|counted| counted.uses == 0));
        let mut dead = Vec::with_capacity(idle.len());
        for id in idle {
            let Some(counted) = self.by_id.remove(&id) else {
                continue;
            };
            if let Some(ids) = self.by_hash.get_mut(&counted.hash) {
                ids.retain(|held| *held != id);
                if ids.is_empty() {
                    self.by_hash.remove(&counted.hash);
                }
            }
            if !self.born.contains(&id) {
                dead.push((id, counted.identity));
            }
        }
        let by_id = &self.by_id;
        self.born.retain(|id| by_id.contains_key(id));
        dead
    }

    fn next_id(&mut self, identity: &Identity) -> IdentityId {
        for (reserved, id) in [
            (Identity::of_block(Prefix::WORLD[0]), IdentityId::WORLD_IPV4),
            (Identity::of_block(Prefix::WORLD[1]), IdentityId::WORLD_IPV6),
            (host(), IdentityId::HOST),
        ] {
            if reserved.is_same(identity) {
                return id;
            }
        }
        loop {
            self.last = self.last.wrapping_add(1).max(IdentityId::FIRST.0);
            let id = IdentityId(self.last);
            if !self.by_id.contains_key(&id) {
                return id;
            }
        }
    }
}

/// The own node, as long as no rule tells one of its addresses apart.
fn host() -> Identity {
    Identity {
        owner: Owner::Node { is_host: true },
        is_api_server: false,
        names: Box::default(),
        picks: Box::default(),
        enclosing: None,
    }
}

/// Labels as places to look a selector up by, and to look up by.
pub(super) mod tokens {
    use super::*;

    /// A fact about a far end, or what a rule wants, hashed.
    pub(in crate::compiled) type Token = u64;

    /// Makes tokens.
    #[derive(Debug, Clone, Default)]
    pub(in crate::compiled) struct Tokens {
        hasher: RandomState,
    }

    impl Tokens {
        /// Every fact about an identity that a rule could ask for.
        pub(in crate::compiled) fn of(
            &self,
            identity: &Identity,
            local: &tulle_model::ClusterName,
        ) -> Vec<Token> {
            let mut tokens = Vec::new();
            match &identity.owner {
                Owner::Workload(workload) => self.of_workload(workload, &mut tokens),
                Owner::Node { .. } | Owner::Outside => {
                    tokens.push(self.hasher.hash_one(NO_WORKLOAD))
                }
            }
            for entity in ENTITIES {
                if identity.belongs_to(entity, local) {
                    tokens.push(self.entity(entity));
                }
            }
            tokens.extend(
                identity
                    .names
                    .iter()
                    .map(|name| self.hasher.hash_one(("name", name.0))),
            );
            tokens.extend(
                identity
                    .picks
                    .iter()
                    .map(|pick| self.hasher.hash_one(("pick", pick.0))),
            );
            tokens.sort_unstable();
            tokens.dedup();
            tokens
        }

        /// Every fact about a workload's labels that a selector could ask for.
        pub(in crate::compiled) fn of_workload(
            &self,
            workload: &Workload,
            tokens: &mut Vec<Token>,
        ) {
            let mut add = |name: &str, value: &str| {
                tokens.push(self.value(name, value));
                tokens.push(self.key(name));
            };
            add(Selector::NAMESPACE, &workload.namespace);
            add(Selector::CLUSTER, workload.cluster.as_str());
            add(Selector::SERVICE_ACCOUNT, &workload.service_account);
            for (name, value) in workload.namespace_labels.iter() {
                add(&format!("{}{name}", Selector::NAMESPACE_LABELS), value);
            }
            for (name, value) in workload.labels.iter() {
                add(name, value);
            }
            for name in workload.named_ports.keys() {
                tokens.push(self.hasher.hash_one(("port", name)));
            }
            tokens.push(self.hasher.hash_one(WORKLOAD));
        }

        /// Of these facts, whoever matches has at least one.
        pub(in crate::compiled) fn wanted(&self, kind: &PeerKind) -> Vec<Token> {
            match kind {
                PeerKind::Endpoints(selector) => self.wanted_by(selector),
                PeerKind::Entity(entity) => vec![self.entity(*entity)],
                PeerKind::Name(name) => vec![self.hasher.hash_one(("name", name.0))],
                PeerKind::Services(pick) => vec![self.hasher.hash_one(("pick", pick.0))],
                PeerKind::HasPort(name) => vec![self.hasher.hash_one(("port", name))],
                // Blocks are looked up by their prefix.
                PeerKind::Block { .. } => Vec::new(),
            }
        }

        /// The same for a selector: the requirement that is likely to hold for the fewest.
        pub(in crate::compiled) fn wanted_by(&self, selector: &Selector) -> Vec<Token> {
            if names_reserved(selector) {
                return vec![
                    self.hasher.hash_one(NO_WORKLOAD),
                    self.hasher.hash_one(WORKLOAD),
                ];
            }
            let positive = selector.requirements.iter().filter_map(|requirement| {
                let name = &requirement.key.name;
                let breadth = breadth_of(name);
                match &requirement.operator {
                    Operator::In(values) => {
                        let tokens = values.iter().map(|v| self.value(name, v)).collect();
                        Some((breadth, values.len(), tokens))
                    }
                    Operator::Exists => Some((breadth + 8, 1, vec![self.key(name)])),
                    Operator::NotIn(_) | Operator::DoesNotExist => None,
                }
            });
            positive
                .min_by_key(|(breadth, values, _)| (*breadth, *values))
                .map_or_else(
                    || vec![self.hasher.hash_one(WORKLOAD)],
                    |(_, _, tokens)| tokens,
                )
        }

        fn entity(&self, entity: Entity) -> Token {
            self.hasher.hash_one(("entity", entity))
        }

        fn value(&self, name: &str, value: &str) -> Token {
            self.hasher.hash_one(("value", name, value))
        }

        fn key(&self, name: &str) -> Token {
            self.hasher.hash_one(("key", name))
        }
    }

    /// How many workloads usually share a value of the label, from few to many.
    fn breadth_of(name: &str) -> u8 {
        match name {
            Selector::SERVICE_ACCOUNT => 1,
            Selector::NAMESPACE => 2,
            Selector::CLUSTER => 4,
            name if name.starts_with(Selector::NAMESPACE_LABELS) => 3,
            _ => 0,
        }
    }

    const WORKLOAD: &str = "workload";
    const NO_WORKLOAD: &str = "no workload";
    const ENTITIES: [Entity; 12] = [
        Entity::All,
        Entity::World,
        Entity::WorldIpv4,
        Entity::WorldIpv6,
        Entity::Cluster,
        Entity::ClusterMesh,
        Entity::Host,
        Entity::RemoteNode,
        Entity::KubeApiserver,
        Entity::Ingress,
        Entity::Unmanaged,
        Entity::Init,
    ];
}
