//! The compiled form as proxies see it, and what it says of a flow.
//!
//! Decides with the very tables that the kernel has, and then with what the kernel cannot see: what was proven, which server a TLS hello
//! names, what is requested. A snapshot never changes and a lookup takes no lock.

use std::{net::IpAddr, sync::Arc};

use imbl::{HashMap, OrdMap};
use tulle_model::{Directory, Language, RulesKey, Workload, WorkloadUid};

use super::{
    Because, Direction, Flow, FlowPeer, IdentityId, Needs, Outcome, PortSetId, RequestFacts,
    RuleId, RuleRef, ServerName, Verdict,
    addresses::AddressState,
    demands::BlockUse,
    peers::TableKey,
    ports::{Cell, CellAudit, CellOutcome, LANGUAGES, PortSet, TCP},
    prefix::{Prefix, PrefixTable},
    rules::{CompiledRule, Numbered},
    tables::TableView,
};
use crate::{
    Asked, Connection, Judgement,
    evaluate::Verdict as Authorized,
    judge,
    l7::HeaderEdit,
    names::{matches_name, matches_server_name},
    noted,
};

/// The rules of a mesh, compiled for the captured pods of one node.
#[derive(Debug, Clone)]
pub struct CompiledPolicy {
    pub(super) subjects: HashMap<WorkloadUid, SubjectView>,
    pub(super) tables: HashMap<TableKey, Arc<TableView>>,
    pub(super) addresses: OrdMap<IpAddr, AddressState>,
    pub(super) blocks: PrefixTable<BlockUse>,
    pub(super) port_sets: HashMap<PortSetId, Arc<PortSet>>,
    pub(super) numbered: HashMap<RuleId, Numbered>,
    pub(super) directory: Directory,
}

/// A captured pod.
#[derive(Debug, Clone)]
pub(super) struct SubjectView {
    pub(super) workload: Arc<Workload>,
    pub(super) identity: IdentityId,
}

/// Whether what is known agrees with a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fits {
    Yes,
    No,
    /// This would have to be known.
    Unknown(Needs),
}

impl CompiledPolicy {
    pub(super) fn empty() -> Self {
        CompiledPolicy {
            subjects: HashMap::new(),
            tables: HashMap::new(),
            addresses: OrdMap::new(),
            blocks: PrefixTable::default(),
            port_sets: HashMap::new(),
            numbered: HashMap::new(),
            directory: Directory::default(),
        }
    }

    /// Whether a pod's rules are compiled.
    pub fn knows(&self, subject: &WorkloadUid) -> bool {
        self.subjects.contains_key(subject)
    }

    /// The identity of an address: its own if it has one and `is_exact`, else that of its block.
    pub fn identity_of(&self, address: IpAddr, is_exact: bool) -> Option<IdentityId> {
        let address = address.to_canonical();
        let own = self.addresses.get(&address).filter(|_| is_exact);
        own.and_then(AddressState::identity).or_else(|| {
            let (_, block) = self.blocks.longest(Prefix::host(address))?;
            block.identity
        })
    }

    /// Where the rule of a number stands.
    pub fn rule(&self, id: RuleId) -> Option<RuleRef> {
        self.numbered.get(&id).map(|held| held.reference().clone())
    }

    /// Whether a flow may pass, and why; `request` is one that is made on it.
    ///
    /// The tables of Cilium's and Kubernetes' languages decide first; for a flow to the subject by TCP, of which alone Istio's policies
    /// speak, those have to agree.
    pub fn evaluate(&self, flow: &Flow<'_>, request: Option<&RequestFacts<'_>>) -> Verdict {
        let Some(subject) = self.subjects.get(flow.subject) else {
            return verdict(Outcome::Deny, Because::NotCompiled);
        };
        if is_own(flow, &subject.workload) {
            return verdict(Outcome::Allow, Because::Own);
        }
        let by_tables = self.by_tables(subject, flow, request);
        self.and_authorized(by_tables, subject, flow, request)
    }

    /// The same for a flow that no proxy sees, as the kernel judges it: a rule that wants to see requests, names or a tunnel's proof does
    /// not allow it. `flow.proven` is who the kernel knows to be at the far end.
    pub fn evaluate_unseen(&self, flow: &Flow<'_>) -> Verdict {
        let Some(subject) = self.subjects.get(flow.subject) else {
            return verdict(Outcome::Deny, Because::NotCompiled);
        };
        if is_own(flow, &subject.workload) {
            return verdict(Outcome::Allow, Because::Own);
        }
        let without_tunnel = Flow {
            proven: None,
            ..*flow
        };
        let by_tables = self.by_tables(subject, &without_tunnel, None);
        if by_tables.outcome != Outcome::Allow {
            return by_tables;
        }
        self.and_authorized(by_tables, subject, flow, None)
    }

    /// What the tables say, and for a flow to the subject also Istio's policies.
    fn and_authorized(
        &self,
        by_tables: Verdict,
        subject: &SubjectView,
        flow: &Flow<'_>,
        request: Option<&RequestFacts<'_>>,
    ) -> Verdict {
        let is_authorized = flow.direction == Direction::Ingress && flow.protocol == TCP;
        if !is_authorized || by_tables.outcome == Outcome::Deny {
            return by_tables;
        }
        if by_tables.because == Because::Host {
            return by_tables;
        }
        let connection = Connection {
            peer: flow.proven,
            source: flow.source,
            destination: flow.destination,
        };
        let asked = match request {
            Some(RequestFacts::Http(facts)) => Asked::Http(facts),
            Some(RequestFacts::Dns(_) | RequestFacts::NotHttp) => Asked::NotHttp,
            None => Asked::Unseen,
        };
        let mut said = by_tables;
        match judge(&self.directory, &subject.workload, &connection, asked) {
            Judgement::Decided(Authorized::Denied { by }) => {
                return verdict(Outcome::Deny, Because::Authorization(by));
            }
            Judgement::Decided(Authorized::Allowed { .. }) => {}
            Judgement::NeedsRequest => {
                let needs = match said.outcome {
                    Outcome::NeedsL7(needs) => needs,
                    Outcome::Allow | Outcome::Deny => Needs::default(),
                };
                said.outcome = Outcome::NeedsL7(Needs {
                    http: true,
                    ..needs
                });
            }
        }
        let noted = noted(&self.directory, &subject.workload, &connection, asked);
        said.audited.extend(noted.into_iter().map(|object| RuleRef {
            key: RulesKey {
                language: Language::Istio,
                object,
            },
            path: "spec.rules".into(),
        }));
        said
    }

    fn by_tables(
        &self,
        subject: &SubjectView,
        flow: &Flow<'_>,
        request: Option<&RequestFacts<'_>>,
    ) -> Verdict {
        if flow.direction == Direction::Ingress && self.is_host(flow) {
            return verdict(Outcome::Allow, Because::Host);
        }
        let Some(table) = self.tables.get(&(subject.identity, flow.direction)) else {
            return verdict(Outcome::Allow, Because::NoPolicy);
        };
        let Some(peer) = self.peer_of(flow) else {
            return verdict(Outcome::Deny, Because::NotCompiled);
        };
        if table.is_closed || peer == IdentityId::OVERFLOW {
            return verdict(Outcome::Deny, Because::LimitReached);
        }
        match table.find(peer) {
            PortSetId::ALLOW_ALL => verdict(Outcome::Allow, Because::NoPolicy),
            PortSetId::DENY_ALL => {
                let languages = LANGUAGES.into_iter().zip(table.deniers.iter());
                let mut denying = languages.filter(|(_, by)| !by.is_empty());
                let (language, _) = denying.next().unwrap_or((Language::Cilium, &Vec::new()));
                verdict(Outcome::Deny, default_deny(table, flow, language))
            }
            id => {
                let set = self.port_sets.get(&id);
                match set.and_then(|set| set.find(flow.protocol, flow.destination.port())) {
                    Some(cell) => self.by_cell(cell, table, flow, request),
                    None => verdict(Outcome::Deny, Because::NotCompiled),
                }
            }
        }
    }

    fn by_cell(
        &self,
        cell: &Cell,
        table: &TableView,
        flow: &Flow<'_>,
        request: Option<&RequestFacts<'_>>,
    ) -> Verdict {
        let mut said = match &cell.outcome {
            CellOutcome::Allow(rule) => verdict(Outcome::Allow, self.because_of(*rule)),
            CellOutcome::Deny(rule) => verdict(Outcome::Deny, self.because_of(*rule)),
            CellOutcome::DefaultDeny(language) => {
                verdict(Outcome::Deny, default_deny(table, flow, *language))
            }
            CellOutcome::Conditional(lists) => self.by_lists(lists, flow, request),
        };
        if said.outcome == Outcome::Deny {
            return said;
        }
        for audit in &cell.audits {
            match audit {
                CellAudit::Deny(rules) => said.audited.extend(self.references(rules)),
                CellAudit::Conditional(rules) => match self.any_fits(rules, flow, request).0 {
                    Fits::Yes => {}
                    Fits::No => said.audited.extend(self.references(rules)),
                    Fits::Unknown(_) => said.audits_requests = true,
                },
            }
        }
        said
    }

    /// One rule of each list has to agree.
    fn by_lists(
        &self,
        lists: &[Vec<RuleId>],
        flow: &Flow<'_>,
        request: Option<&RequestFacts<'_>>,
    ) -> Verdict {
        let mut allowed_by = None;
        let mut edits = Vec::new();
        let mut open: Option<(RuleId, Needs)> = None;
        for list in lists {
            let (fits, rule, edit) = self.any_fits(list, flow, request);
            match fits {
                Fits::Yes => {
                    allowed_by = allowed_by.or(rule);
                    edits.extend(edit);
                }
                Fits::No => {
                    let rules = self.references(list).collect();
                    return verdict(Outcome::Deny, Because::NotAmong(rules));
                }
                Fits::Unknown(needs) => {
                    let first = rule.or_else(|| list.first().copied()).unwrap_or_default();
                    let held = open.get_or_insert((first, Needs::default()));
                    held.1 = held.1.and(needs);
                }
            }
        }
        if let Some((rule, needs)) = open {
            return verdict(Outcome::NeedsL7(needs), self.because_of(rule));
        }
        let because = self.because_of(allowed_by.unwrap_or_default());
        Verdict {
            edits,
            ..verdict(Outcome::Allow, because)
        }
    }

    /// Whether any rule of a list agrees; which, and what it does to the request.
    fn any_fits(
        &self,
        list: &[RuleId],
        flow: &Flow<'_>,
        request: Option<&RequestFacts<'_>>,
    ) -> (Fits, Option<RuleId>, Vec<HeaderEdit>) {
        let mut open: Option<(RuleId, Needs)> = None;
        for id in list {
            let Some(Numbered::Rule(rule)) = self.numbered.get(id) else {
                continue;
            };
            let (fits, edits) = fits(rule, flow, request);
            match fits {
                Fits::Yes => return (Fits::Yes, Some(*id), edits),
                Fits::No => {}
                Fits::Unknown(needs) => {
                    let held = open.get_or_insert((*id, Needs::default()));
                    held.1 = held.1.and(needs);
                }
            }
        }
        match open {
            Some((id, needs)) => (Fits::Unknown(needs), Some(id), Vec::new()),
            None => (Fits::No, None, Vec::new()),
        }
    }

    fn references(&self, rules: &[RuleId]) -> impl Iterator<Item = RuleRef> {
        rules.iter().filter_map(|rule| self.rule(*rule))
    }

    fn because_of(&self, rule: RuleId) -> Because {
        self.rule(rule).map_or(Because::NoPolicy, Because::Rule)
    }

    /// The own node, or what runs in its network: whoever has its address. By TCP nobody else can have it, since the answers of a
    /// handshake would not leave the node.
    fn is_host(&self, flow: &Flow<'_>) -> bool {
        let may_be = match flow.peer {
            FlowPeer::Workload(workload) => workload.host_network,
            FlowPeer::Address => flow.protocol == TCP,
            FlowPeer::Nobody => false,
        };
        let state = self.addresses.get(&flow.source.to_canonical());
        may_be && state.is_some_and(AddressState::is_host)
    }

    /// The far end's identity; `None` = it is a workload that came after the last update.
    fn peer_of(&self, flow: &Flow<'_>) -> Option<IdentityId> {
        let address = match flow.direction {
            Direction::Ingress => flow.source,
            Direction::Egress => flow.destination.ip(),
        };
        match flow.peer {
            FlowPeer::Nobody => Some(IdentityId::ANY),
            FlowPeer::Address => self.identity_of(address, flow.direction == Direction::Egress),
            FlowPeer::Workload(workload) => {
                let state = self.addresses.get(&address.to_canonical())?;
                if workload.host_network {
                    return state.identity().filter(|_| state.is_shared());
                }
                state.identity_of(&workload.uid)
            }
        }
    }
}

impl Needs {
    fn and(self, other: Needs) -> Needs {
        Needs {
            server_name: self.server_name || other.server_name,
            http: self.http || other.http,
            dns: self.dns || other.dns,
        }
    }
}

fn verdict(outcome: Outcome, because: Because) -> Verdict {
    Verdict {
        outcome,
        because,
        audited: Vec::new(),
        audits_requests: false,
        edits: Vec::new(),
    }
}

fn default_deny(table: &TableView, flow: &Flow<'_>, language: Language) -> Because {
    let languages = LANGUAGES.into_iter().zip(table.deniers.iter());
    let mut by = languages.filter(|(held, _)| *held == language);
    Because::DefaultDeny {
        direction: flow.direction,
        language,
        by: by.next().map(|(_, by)| by.clone()).unwrap_or_default(),
    }
}

/// A pod's connection to one of its own addresses does not leave it.
fn is_own(flow: &Flow<'_>, subject: &Workload) -> bool {
    match flow.peer {
        FlowPeer::Workload(workload) => workload.uid == subject.uid,
        FlowPeer::Address => {
            let (to, from) = (
                flow.destination.ip().to_canonical(),
                flow.source.to_canonical(),
            );
            flow.direction == Direction::Egress
                && (to.is_loopback() || to == from)
                && (to.is_loopback() || subject.addresses.contains(&to))
        }
        FlowPeer::Nobody => false,
    }
}

/// Whether what is known agrees with all conditions of a rule, and what the rule does to the request then.
fn fits(
    rule: &CompiledRule,
    flow: &Flow<'_>,
    request: Option<&RequestFacts<'_>>,
) -> (Fits, Vec<HeaderEdit>) {
    if rule.rule.authenticated && flow.proven.is_none() {
        return (Fits::No, Vec::new());
    }
    let mut needs = Needs::default();
    if !rule.rule.server_names.is_empty() {
        match flow.server_name {
            ServerName::Absent => return (Fits::No, Vec::new()),
            ServerName::NotSeen => needs.server_name = true,
            ServerName::Name(name) => {
                let mut patterns = rule.rule.server_names.iter();
                if !patterns.any(|pattern| matches_server_name(pattern, name)) {
                    return (Fits::No, Vec::new());
                }
            }
        }
    }
    let mut edits = Vec::new();
    if let Some(http) = rule.http() {
        match request {
            None => needs.http = true,
            Some(RequestFacts::Http(facts)) => match http.matches(facts) {
                Some(found) => edits = found,
                None => return (Fits::No, Vec::new()),
            },
            Some(RequestFacts::Dns(_) | RequestFacts::NotHttp) => return (Fits::No, Vec::new()),
        }
    }
    if let Some(names) = rule.dns() {
        match request {
            None => needs.dns = true,
            Some(RequestFacts::Dns(name)) => {
                if !names.iter().any(|pattern| matches_name(pattern, name)) {
                    return (Fits::No, Vec::new());
                }
            }
            Some(RequestFacts::Http(_) | RequestFacts::NotHttp) => return (Fits::No, Vec::new()),
        }
    }
    if needs == Needs::default() {
        (Fits::Yes, edits)
    } else {
        (Fits::Unknown(needs), Vec::new())
    }
}
