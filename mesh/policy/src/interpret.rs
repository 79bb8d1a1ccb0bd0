//! The semantics of network rules, written down as plainly as possible: every flow is held against every rule of every object.
//!
//! There are no identities, no sets, no tables and no prefixes here, and nothing is shared with the compiled form, so that a
//! mistake has to be made twice to go unseen. It is only for tests: those beside it, and those that hold real connections against it.

#[cfg(test)]
mod differential;
mod istio;
#[cfg(test)]
mod world;

use std::net::IpAddr;

use tulle_model::{
    ClusterName, Directory, Entity, HeaderMismatch, HttpRule, L7Rules, LabelSource, Language,
    NetworkRule, NetworkRules, Operator, Peer, Peers, PortMatch, Ports, RuleAction, RuleSection,
    Rules, Selector, Service, ServicePick, Text, Transport, TunnelProtocol, Workload, WorkloadUid,
};

use crate::{
    compiled::{Direction, Flow, FlowPeer, HttpFacts, LearnedNames, RequestFacts, ServerName},
    names::{matches_name, matches_server_name},
};

pub use istio::IstioPolicies;

/// Everything that a verdict depends on.
#[derive(Debug)]
pub struct Mesh<'a> {
    /// The workloads, services and network rules.
    pub directory: &'a Directory,
    /// Istio's policies.
    pub istio: &'a IstioPolicies,
    /// The names that pods asked for.
    pub learned: &'a LearnedNames,
    /// The cluster of the subject's node.
    pub cluster: ClusterName,
    /// The subject's node.
    pub own_node: WorkloadUid,
    /// All requests that there can be, for the question whether a verdict depends on them.
    pub requests: &'a [HttpFacts<'a>],
}

/// What the rules of one or of all languages say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It may pass.
    Allow,
    /// It may not.
    Deny,
    /// It depends on what was not told.
    Open,
}

/// The whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// What all languages say together.
    pub said: Said,
    /// What the languages of network rules say.
    pub by_network: Said,
    /// Some network rule's conditions decide, whatever they say.
    pub is_conditional: bool,
    /// What Istio's policies say.
    pub by_istio: Said,
    /// Some policy of Istio speaks of requests, and none was told.
    pub istio_asks_requests: bool,
    /// Audited policies would deny it.
    pub is_audited: bool,
    /// Audited policies would have to see requests.
    pub audits_requests: bool,
}

impl Answer {
    const ALLOWED: Answer = Answer {
        said: Said::Allow,
        by_network: Said::Allow,
        is_conditional: false,
        by_istio: Said::Allow,
        istio_asks_requests: false,
        is_audited: false,
        audits_requests: false,
    };
}

/// Who is at the far end.
struct FarEnd<'a> {
    address: IpAddr,
    workload: Option<&'a Workload>,
    node: Option<bool>,
    /// What else is known by the address: learned names, services, API servers.
    is_exact: bool,
    is_nobody: bool,
}

impl Mesh<'_> {
    /// What becomes of a flow, or of a request on it.
    pub fn answer(&self, flow: &Flow<'_>, request: Option<&RequestFacts<'_>>) -> Answer {
        let mut answer = Answer::ALLOWED;
        let Some(subject) = self.directory.workload(flow.subject) else {
            answer.said = Said::Deny;
            return answer;
        };
        let far = self.far_end(flow);
        if flow.direction == Direction::Ingress
            && (far.node == Some(true) || self.is_from_host(flow))
        {
            return answer;
        }
        self.ask_network(subject, flow, &far, request, &mut answer);
        // Istio's policies speak of TCP.
        if flow.direction == Direction::Ingress && flow.protocol == 6 {
            self.ask_istio(subject, flow, request, &mut answer);
        }
        answer.said = match (answer.by_network, answer.by_istio) {
            (Said::Deny, _) | (_, Said::Deny) => Said::Deny,
            (Said::Open, _) | (_, Said::Open) => Said::Open,
            (Said::Allow, Said::Allow) => Said::Allow,
        };
        if answer.said == Said::Deny {
            answer.is_audited = false;
            answer.audits_requests = false;
        }
        answer
    }

    fn ask_network(
        &self,
        subject: &Workload,
        flow: &Flow<'_>,
        far: &FarEnd<'_>,
        request: Option<&RequestFacts<'_>>,
        answer: &mut Answer,
    ) {
        let mut is_denied = false;
        for language in [Language::Cilium, Language::Kubernetes] {
            let case = Case {
                mesh: self,
                subject,
                flow,
                far,
                request,
                language,
            };
            let (enforced, is_conditional) = case.decide(false);
            let (audited, _) = case.decide(true);
            is_denied |= enforced == Said::Deny;
            answer.is_conditional |= is_conditional;
            if enforced == Said::Open {
                answer.by_network = Said::Open;
            }
            answer.is_audited |= audited == Said::Deny;
            answer.audits_requests |= audited == Said::Open && enforced == Said::Allow;
        }
        if is_denied {
            answer.by_network = Said::Deny;
        }
    }

    /// A verdict depends on the request if there are two that it differs for.
    fn ask_istio(
        &self,
        subject: &Workload,
        flow: &Flow<'_>,
        request: Option<&RequestFacts<'_>>,
        answer: &mut Answer,
    ) {
        let possible: Vec<Option<&HttpFacts<'_>>> = match request {
            Some(RequestFacts::Http(facts)) => vec![Some(facts)],
            None => {
                answer.istio_asks_requests = self.istio.speak_of_requests(subject);
                let requests = self.requests.iter().map(Some);
                requests.chain([None]).collect()
            }
            Some(RequestFacts::Dns(_) | RequestFacts::NotHttp) => vec![None],
        };
        let allow = |request: &Option<&HttpFacts<'_>>| self.istio.allow(subject, flow, *request);
        answer.by_istio = if possible.iter().all(allow) {
            Said::Allow
        } else if possible.iter().any(allow) {
            Said::Open
        } else {
            Said::Deny
        };
        let mut possible = possible.into_iter();
        answer.is_audited |= possible.all(|request| self.istio.note(subject, flow, request));
    }

    /// By TCP, nobody else can have the own node's address.
    fn is_from_host(&self, flow: &Flow<'_>) -> bool {
        flow.direction == Direction::Ingress
            && matches!(flow.peer, FlowPeer::Address)
            && flow.protocol == 6
            && self.directory.workload_at(flow.source).is_none()
            && self.node_at(flow.source) == Some(true)
    }

    fn far_end<'a>(&'a self, flow: &Flow<'a>) -> FarEnd<'a> {
        let address = match flow.direction {
            Direction::Ingress => flow.source,
            Direction::Egress => flow.destination.ip(),
        };
        let mut far = FarEnd {
            address,
            workload: None,
            node: None,
            is_exact: true,
            is_nobody: false,
        };
        match flow.peer {
            FlowPeer::Nobody => far.is_nobody = true,
            FlowPeer::Workload(workload) if workload.host_network => {
                far.node = self.node_at(address);
            }
            FlowPeer::Workload(workload) => far.workload = Some(workload),
            FlowPeer::Address if flow.direction == Direction::Ingress => far.is_exact = false,
            FlowPeer::Address => {
                far.workload = self.directory.workload_at(address).map(|w| w.as_ref());
                if far.workload.is_none() {
                    far.node = self.node_at(address);
                }
            }
        }
        far
    }

    /// Whether the node at an address is the own one; `None` = there is no node.
    fn node_at(&self, address: IpAddr) -> Option<bool> {
        let nodes = self.directory.workloads().filter(|w| w.uid.is_node());
        let here: Vec<_> = nodes.filter(|w| w.addresses.contains(&address)).collect();
        (!here.is_empty()).then(|| here.iter().any(|w| w.uid == self.own_node))
    }
}

/// One language's question.
struct Case<'a> {
    mesh: &'a Mesh<'a>,
    subject: &'a Workload,
    flow: &'a Flow<'a>,
    far: &'a FarEnd<'a>,
    request: Option<&'a RequestFacts<'a>>,
    language: Language,
}

impl Case<'_> {
    /// What the language says, and whether conditions had a part in it.
    fn decide(&self, with_audited: bool) -> (Said, bool) {
        let mut is_default_deny = false;
        let mut plain = false;
        let mut conditional = Vec::new();
        for rules in self.mesh.directory.rules() {
            let Rules::Network(rules) = rules.as_ref() else {
                continue;
            };
            if rules.key.language != self.language || (rules.audit && !with_audited) {
                continue;
            }
            for section in self.sections(rules) {
                is_default_deny |= section.default_deny;
                for rule in section.rules.iter().filter(|rule| self.matches(rule)) {
                    let is_plain =
                        rule.l7.is_none() && !rule.authenticated && rule.server_names.is_empty();
                    match rule.action {
                        RuleAction::Deny => return (Said::Deny, false),
                        RuleAction::Allow if is_plain => plain = true,
                        RuleAction::Allow => conditional.push(self.conditions(rule)),
                    }
                }
            }
        }
        if plain {
            return (Said::Allow, false);
        }
        if conditional.contains(&Said::Allow) {
            return (Said::Allow, true);
        }
        if conditional.contains(&Said::Open) {
            return (Said::Open, true);
        }
        if !conditional.is_empty() {
            return (Said::Deny, true);
        }
        let said = if is_default_deny {
            Said::Deny
        } else {
            Said::Allow
        };
        (said, false)
    }

    fn sections<'r>(&self, rules: &'r NetworkRules) -> Vec<&'r RuleSection> {
        let specs = rules.specs.iter();
        let selected = specs.filter(|spec| selects_workload(&spec.subject, self.subject));
        selected
            .filter_map(|spec| match self.flow.direction {
                Direction::Ingress => spec.ingress.as_ref(),
                Direction::Egress => spec.egress.as_ref(),
            })
            .collect()
    }

    fn matches(&self, rule: &NetworkRule) -> bool {
        let is_peer = match &rule.peers {
            Peers::Any => true,
            Peers::OneOf(peers) => peers.iter().any(|peer| self.is_peer(peer)),
        };
        is_peer && (rule.ports.is_empty() || rule.ports.iter().any(|port| self.is_port(port)))
    }

    fn is_peer(&self, peer: &Peer) -> bool {
        let far = self.far;
        if far.is_nobody {
            return *peer == Peer::Entity(Entity::All);
        }
        let is_outside = far.workload.is_none() && far.node.is_none();
        match peer {
            Peer::Endpoints(selector) => match far.workload {
                Some(workload) => selects_workload(selector, workload),
                None => self.selects_reserved(selector),
            },
            Peer::Entity(entity) => self.is_entity(*entity),
            Peer::Block {
                block,
                except,
                includes_workloads,
            } => {
                (is_outside || *includes_workloads)
                    && block.contains(far.address)
                    && !except.iter().any(|except| except.contains(far.address))
            }
            Peer::Name(pattern) => {
                let mut names = self.mesh.learned.names.iter();
                is_outside
                    && far.is_exact
                    && names.any(|(name, addresses)| {
                        addresses.contains(&far.address) && matches_name(pattern, name)
                    })
            }
            Peer::Services {
                namespace,
                services,
            } => {
                far.is_exact
                    && self.services_here().iter().any(|service| {
                        namespace.as_ref().is_none_or(|n| *n == service.namespace)
                            && match services {
                                ServicePick::Name(name) => *name == service.name,
                                ServicePick::Labels(selector) => selects_service(selector, service),
                            }
                    })
            }
        }
    }

    /// The services that the far end serves: the workload's own, and those of whoever shares its address.
    fn services_here(&self) -> Vec<&Service> {
        let address = self.far.address;
        let mut keys = Vec::new();
        for workload in self.mesh.directory.workloads() {
            let is_it = self.far.workload.is_some_and(|far| far.uid == workload.uid);
            if is_it || (workload.host_network && workload.addresses.contains(&address)) {
                keys.extend(workload.services.keys());
            }
        }
        let services = keys
            .iter()
            .filter_map(|key| self.mesh.directory.service(key));
        services.map(AsRef::as_ref).collect()
    }

    fn is_entity(&self, entity: Entity) -> bool {
        let far = self.far;
        let is_outside = far.workload.is_none() && far.node.is_none();
        let is_api_server = far.is_exact
            && self.mesh.directory.workloads().any(|workload| {
                workload.cluster == self.mesh.cluster
                    && workload.addresses.contains(&far.address)
                    && workload.services.keys().any(|service| {
                        service.namespace == "default" && service.name.starts_with("kubernetes.")
                    })
            });
        match entity {
            Entity::All => true,
            Entity::World => is_outside,
            Entity::WorldIpv4 => is_outside && far.address.is_ipv4(),
            Entity::WorldIpv6 => is_outside && far.address.is_ipv6(),
            Entity::Cluster => {
                let is_local = far.workload.is_some_and(|w| w.cluster == self.mesh.cluster);
                is_local || far.node.is_some() || is_api_server
            }
            Entity::ClusterMesh => far.workload.is_some() || far.node.is_some() || is_api_server,
            Entity::Host => far.node == Some(true),
            Entity::RemoteNode => far.node == Some(false),
            Entity::KubeApiserver => is_api_server,
            Entity::Ingress => far.workload.is_some_and(|workload| {
                workload
                    .labels
                    .contains_key("gateway.networking.k8s.io/gateway-name")
            }),
            Entity::Unmanaged => far
                .workload
                .is_some_and(|workload| workload.tunnel_protocol == TunnelProtocol::None),
            Entity::Init | Entity::Health | Entity::None => false,
        }
    }

    fn selects_reserved(&self, selector: &Selector) -> bool {
        let asks = |operator: &Operator| matches!(operator, Operator::In(_) | Operator::Exists);
        let mut requirements = selector.requirements.iter();
        requirements.any(|r| r.key.source == LabelSource::Reserved && asks(&r.operator))
            && selector.matches(|key| {
                let entity = match key.name.as_str() {
                    "host" => Entity::Host,
                    "remote-node" => Entity::RemoteNode,
                    "kube-apiserver" => Entity::KubeApiserver,
                    "world" => Entity::World,
                    _ => return None,
                };
                (key.source != LabelSource::K8s && self.is_entity(entity)).then_some("")
            })
    }

    fn is_port(&self, wanted: &PortMatch) -> bool {
        let protocol = self.flow.protocol;
        let is_transport = match wanted.transport {
            Transport::AnyWithPorts => [6, 17, 132].contains(&protocol),
            Transport::Tcp => protocol == 6,
            Transport::Udp => protocol == 17,
            Transport::Sctp => protocol == 132,
            Transport::IcmpV4 => protocol == 1,
            Transport::IcmpV6 => protocol == 58,
        };
        let port = self.flow.destination.port();
        let asked = match self.flow.direction {
            Direction::Ingress => Some(self.subject),
            Direction::Egress => self.far.workload,
        };
        is_transport
            && match &wanted.ports {
                Ports::All => true,
                Ports::Range(first, last) => (*first..=*last).contains(&port),
                Ports::Named(name) => asked
                    .and_then(|workload| workload.named_ports.get(name.as_str()))
                    .is_some_and(|named| named.port == port && named.protocol.number() == protocol),
            }
    }

    fn conditions(&self, rule: &NetworkRule) -> Said {
        if rule.authenticated && self.flow.proven.is_none() {
            return Said::Deny;
        }
        let mut is_open = false;
        if !rule.server_names.is_empty() {
            match self.flow.server_name {
                ServerName::Absent => return Said::Deny,
                ServerName::NotSeen => is_open = true,
                ServerName::Name(name) => {
                    if !rule
                        .server_names
                        .iter()
                        .any(|p| matches_server_name(p, name))
                    {
                        return Said::Deny;
                    }
                }
            }
        }
        match (&rule.l7, self.request) {
            (None, _) => {}
            (Some(_), None) => is_open = true,
            (Some(L7Rules::Http(rules)), Some(RequestFacts::Http(facts))) => {
                if !rules.iter().any(|rule| matches_http(rule, facts)) {
                    return Said::Deny;
                }
            }
            (Some(L7Rules::Dns(names)), Some(RequestFacts::Dns(name))) => {
                if !names.iter().any(|pattern| matches_name(pattern, name)) {
                    return Said::Deny;
                }
            }
            (Some(_), Some(_)) => return Said::Deny,
        }
        if is_open { Said::Open } else { Said::Allow }
    }
}

fn matches_http(rule: &HttpRule, facts: &HttpFacts<'_>) -> bool {
    let fits = |expression: &Option<String>, value: &str| {
        expression.as_ref().is_none_or(|expression| {
            regex::Regex::new(&format!("^(?:{expression})$"))
                .is_ok_and(|regex| regex.is_match(value))
        })
    };
    fits(&rule.path, facts.path)
        && fits(&rule.method, facts.method)
        && fits(&rule.host, facts.authority)
        && rule.headers.iter().all(|header| {
            let values = facts
                .headers
                .iter()
                .filter(|(name, _)| *name == header.name);
            let values: Vec<&[u8]> = values.map(|(_, value)| *value).collect();
            let joined = values.join(&b","[..]);
            let is_so = !values.is_empty()
                && header
                    .value
                    .as_ref()
                    .is_none_or(|wanted| wanted.as_bytes() == joined);
            is_so || header.mismatch != HeaderMismatch::Fail
        })
}

fn selects_service(selector: &Selector, service: &Service) -> bool {
    selector.matches(|key| service.labels.get(key.name.as_str()).map(Text::as_str))
}

fn selects_workload(selector: &Selector, workload: &Workload) -> bool {
    selector.matches(|key| {
        if key.source == LabelSource::Reserved {
            return None;
        }
        let name = key.name.as_str();
        if name == "io.kubernetes.pod.namespace" {
            Some(workload.namespace.as_str())
        } else if name == "io.cilium.k8s.policy.cluster" {
            Some(workload.cluster.as_str())
        } else if name == "io.cilium.k8s.policy.serviceaccount" {
            Some(workload.service_account.as_str())
        } else if let Some(name) = name.strip_prefix("io.cilium.k8s.namespace.labels.") {
            workload.namespace_labels.get(name).map(Text::as_str)
        } else {
            workload.labels.get(name).map(Text::as_str)
        }
    })
}
