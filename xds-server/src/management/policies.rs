//! Explains the policies: which there are, and what both ends of a connection say of it.
//!
//! The verdicts are those of the compiler that the nodes use, on the directory that they are given; here they are only asked for and
//! put into words. What only a node knows is not known here: the names that its pods have asked for. A destination that is given as
//! a name therefore stands for an address that was learned for it and that no block but the world holds.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tulle_model::{
    ClusterName, Directory, NamespacedName, Protocol, Rules, SpiffeId, TunnelProtocol, Workload,
    WorkloadUid,
};
use tulle_policy::compiled::{
    Because, Compiler, CompilerSettings, Direction, Flow, FlowPeer, HttpFacts, LearnedNames,
    Limits, Outcome, PolicyTouched, RequestFacts, ServerName, Verdict, speaks_of,
};
use tulle_wire::management::{
    ExplainQuestion, ExplainRequest, ExplainedEnd, Explanation, PolicySummary,
};

use crate::catalog::CLUSTER_DOMAIN;

/// What is explained.
#[derive(Debug, Clone)]
pub(super) struct Policies {
    /// The own cluster: its policies are known, no other's.
    pub(super) cluster: ClusterName,
    /// What the nodes are given.
    pub(super) directory: Directory,
}

/// A question that has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum ExplainError {
    /// Nobody has the name.
    #[error(
        "{name:?} is nobody here: expected [NAMESPACE/]POD, [NAMESPACE/]deploy/NAME, CLUSTER/NAMESPACE/POD or an address"
    )]
    Unknown {
        /// The name.
        name: String,
    },
    /// The service cannot be asked at that port.
    #[error("service {name} has no endpoint at port {port}")]
    NoEndpoint {
        /// The service.
        name: String,
        /// The port.
        port: u16,
    },
    /// The protocol has no ports.
    #[error("{protocol:?} is no protocol here: expected tcp, udp or sctp")]
    Protocol {
        /// The protocol.
        protocol: String,
    },
}

/// One end of the connection.
struct End {
    text: String,
    address: IpAddr,
    workload: Option<Arc<Workload>>,
    /// It was given as a DNS name.
    name: Option<String>,
    /// The port at the end itself, if the name says one.
    port: Option<u16>,
}

impl Policies {
    /// A line about each policy.
    pub(super) fn list(&self) -> Vec<PolicySummary> {
        let own = self.directory.workloads();
        let own: Vec<&Arc<Workload>> = own
            .filter(|w| w.cluster == self.cluster && !w.host_network)
            .collect();
        let rules = self
            .directory
            .rules()
            .map(|rules| self.summary(rules, &own));
        let in_full: BTreeSet<NamespacedName> = self
            .directory
            .rules()
            .filter_map(|rules| match rules.as_ref() {
                Rules::Authorization(policy) => Some(policy.key()),
                Rules::Network(_) => None,
            })
            .collect();
        let others = self.directory.policies();
        let others = others.filter(|policy| !in_full.contains(&policy.key()));
        let others =
            others.map(|policy| self.summary(&Rules::Authorization(policy.as_ref().clone()), &own));
        rules.chain(others).collect()
    }

    fn summary(&self, rules: &Rules, own: &[&Arc<Workload>]) -> PolicySummary {
        let key = rules.key();
        let mut summary = PolicySummary {
            language: key.language.name().to_owned(),
            namespace: key.object.namespace.clone().into(),
            name: key.object.name.clone().into(),
            ..PolicySummary::default()
        };
        match rules {
            Rules::Network(rules) => {
                summary.audit = rules.audit;
                for spec in &rules.specs {
                    if let Some(section) = &spec.ingress {
                        *summary.ingress.get_or_insert(0) += section.rules.len();
                    }
                    if let Some(section) = &spec.egress {
                        *summary.egress.get_or_insert(0) += section.rules.len();
                    }
                }
                let speaks = |w: &&&Arc<Workload>| rules.specs.iter().any(|s| speaks_of(s, w));
                summary.subjects = own.iter().filter(speaks).count();
            }
            Rules::Authorization(policy) => {
                summary.audit = policy.dry_run;
                summary.ingress = Some(policy.rules.len());
                let name = key.object.to_string();
                let reached = |w: &&&Arc<Workload>| {
                    let reaching = self.directory.policies_reaching(&w.namespace);
                    w.authorization_policies.contains(&name)
                        || reaching.into_iter().any(|held| held.key() == key.object)
                };
                summary.subjects = own.iter().filter(reached).count();
            }
        }
        summary
    }

    /// What both ends say.
    pub(super) fn explain(&self, question: &ExplainQuestion) -> Result<Explanation, ExplainError> {
        let protocol = protocol_number(&question.protocol)?;
        let source = self.find(&question.source, 0, protocol)?;
        let source = source.filter(|end| end.name.is_none());
        let source = source.ok_or_else(|| unknown(&question.source))?;
        let destination = self.find(&question.destination, question.port, protocol)?;
        let destination = destination.ok_or_else(|| unknown(&question.destination))?;
        let asked = Asked {
            policies: self,
            question,
            source: &source,
            destination: &destination,
            protocol,
        };
        let ends: Vec<ExplainedEnd> = [Direction::Egress, Direction::Ingress]
            .into_iter()
            .filter_map(|direction| asked.end(direction))
            .collect();
        let has = |outcome: &str| ends.iter().any(|end| end.outcome == outcome);
        let outcome = ["deny", "unknown", "depends"]
            .into_iter()
            .find(|word| has(word));
        Ok(Explanation {
            source: source.text,
            destination: destination.text,
            outcome: outcome.unwrap_or("allow").to_owned(),
            ends,
        })
    }

    /// Who is meant.
    fn find(&self, text: &str, port: u16, protocol: u8) -> Result<Option<End>, ExplainError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            let workload = self.directory.workload_at(address).cloned();
            let name = workload.as_ref().map(|w| format!("{} ({address})", w.uid));
            return Ok(Some(End {
                text: name.unwrap_or_else(|| address.to_string()),
                address,
                workload,
                name: None,
                port: None,
            }));
        }
        let words: Vec<&str> = text.split('/').collect();
        let found = match words.as_slice() {
            ["svc" | "service", name] => return self.service("default", name, port, protocol),
            [namespace, "svc" | "service", name] => {
                return self.service(namespace, name, port, protocol);
            }
            [kind, name] if KINDS.contains(kind) => self.of_owner("default", name),
            [namespace, kind, name] if KINDS.contains(kind) => self.of_owner(namespace, name),
            [name] => self.pod(&self.cluster, "default", name),
            [namespace, name] => self.pod(&self.cluster, namespace, name),
            [cluster, namespace, name] => cluster
                .parse()
                .ok()
                .and_then(|cluster| self.pod(&cluster, namespace, name)),
            _ => None,
        };
        let end = found.and_then(|workload| {
            Some(End {
                text: workload.uid.to_string(),
                address: *workload.addresses.first()?,
                workload: Some(workload),
                name: None,
                port: None,
            })
        });
        let is_name = words.len() == 1 && text.contains('.');
        Ok(end.or_else(|| {
            is_name.then(|| End {
                text: text.to_owned(),
                address: LEARNED.into(),
                workload: None,
                name: Some(format!(
                    "{}.",
                    text.trim_end_matches('.').to_ascii_lowercase()
                )),
                port: None,
            })
        }))
    }

    fn pod(&self, cluster: &ClusterName, namespace: &str, name: &str) -> Option<Arc<Workload>> {
        let uid = WorkloadUid::of_pod(cluster, namespace, name);
        self.directory.workload(&uid).cloned()
    }

    /// Any pod of an owner; one of the own cluster if there is one.
    fn of_owner(&self, namespace: &str, name: &str) -> Option<Arc<Workload>> {
        let pods = self.directory.workloads();
        let pods = pods.filter(|w| w.namespace == namespace && w.owner_name == name);
        pods.min_by_key(|w| (w.cluster != self.cluster, &w.uid))
            .cloned()
    }

    /// Any endpoint of a service; one of the own cluster if there is one.
    fn service(
        &self,
        namespace: &str,
        name: &str,
        port: u16,
        protocol: u8,
    ) -> Result<Option<End>, ExplainError> {
        let key = NamespacedName::new(
            namespace,
            format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}"),
        );
        let Some(service) = self.directory.service(&key) else {
            return Ok(None);
        };
        let wanted = if protocol == UDP {
            Protocol::Udp
        } else {
            Protocol::Tcp
        };
        let mut ports = service.ports.iter();
        let port_of = ports.find(|held| held.port == port && held.protocol == wanted);
        let endpoints = self.directory.endpoints(&key);
        let chosen = endpoints
            .min_by_key(|w| (w.cluster != self.cluster, &w.uid))
            .zip(port_of)
            .and_then(|(w, port)| Some((w, w.serving_addresses(&key, port).next()?)));
        let (workload, address) = chosen.ok_or_else(|| ExplainError::NoEndpoint {
            name: format!("{namespace}/{name}"),
            port,
        })?;
        Ok(Some(End {
            text: format!(
                "{} ({address}, an endpoint of {namespace}/{name})",
                workload.uid
            ),
            address: address.ip(),
            workload: Some(Arc::clone(workload)),
            name: None,
            port: Some(address.port()),
        }))
    }
}

/// A question with both ends found.
struct Asked<'a> {
    policies: &'a Policies,
    question: &'a ExplainQuestion,
    source: &'a End,
    destination: &'a End,
    protocol: u8,
}

impl Asked<'_> {
    /// What one end says; `None` = nobody's policies speak there.
    fn end(&self, direction: Direction) -> Option<ExplainedEnd> {
        let (own, far) = match direction {
            Direction::Egress => (self.source, self.destination),
            Direction::Ingress => (self.destination, self.source),
        };
        let subject = own.workload.as_ref()?;
        let end = |outcome: &str, because: String| ExplainedEnd {
            direction: direction.name().to_owned(),
            subject: subject.uid.to_string(),
            outcome: outcome.to_owned(),
            because,
            ..ExplainedEnd::default()
        };
        if subject.cluster != self.policies.cluster {
            let cluster = &subject.cluster;
            let because = format!("the policies of cluster {cluster} decide; ask its xds-server");
            return Some(end("unknown", because));
        }
        if subject.host_network || subject.tunnel_protocol == TunnelProtocol::None {
            let because = "it is not in the mesh, so its end enforces no policies".to_owned();
            return Some(end("allow", because));
        }
        let verdict = self.verdict(direction, subject, far);
        let outcome = match verdict.outcome {
            Outcome::Allow => "allow",
            Outcome::Deny => "deny",
            Outcome::NeedsL7(_) => "depends",
        };
        let decided = match &verdict.because {
            Because::Rule(rule) => Some((rule.key.to_string(), Some(rule.path.to_string()))),
            Because::DefaultDeny { by, .. } => by.first().map(|key| (key.to_string(), None)),
            Because::NotAmong(rules) => {
                let first = rules.first();
                first.map(|rule| (rule.key.to_string(), Some(rule.path.to_string())))
            }
            _ => None,
        };
        let (policy, rule) = decided.map_or((None, None), |(policy, rule)| (Some(policy), rule));
        Some(ExplainedEnd {
            policy,
            rule,
            audited: verdict.audited.iter().map(ToString::to_string).collect(),
            missing: self.missing(direction, &verdict, far),
            ..end(outcome, verdict.to_string())
        })
    }

    fn verdict(&self, direction: Direction, subject: &Arc<Workload>, far: &End) -> Verdict {
        let mut compiler = Compiler::new(CompilerSettings {
            cluster: self.policies.cluster.clone(),
            node: subject.node.clone().into(),
            limits: Limits::default(),
        });
        let mut learned = LearnedNames::default();
        if let Some(name) = &self.destination.name {
            let addresses = [self.destination.address].into();
            learned.names.insert(name.as_str().into(), addresses);
        }
        let subjects = BTreeSet::from([subject.uid.clone()]);
        let everything = PolicyTouched {
            everything: true,
            ..PolicyTouched::default()
        };
        compiler.update(&self.policies.directory, &subjects, &learned, &everything);
        let proven = self.proven(far);
        let peer = match (&far.workload, direction) {
            (Some(workload), Direction::Egress) => FlowPeer::Workload(workload),
            (Some(workload), Direction::Ingress) if proven.is_some() => {
                FlowPeer::Workload(workload)
            }
            (_, Direction::Egress | Direction::Ingress) => FlowPeer::Address,
        };
        let flow = Flow {
            direction,
            subject: &subject.uid,
            peer,
            proven: proven.as_ref(),
            source: self.source.address,
            destination: SocketAddr::new(self.destination.address, self.port()),
            protocol: self.protocol,
            server_name: match &self.question.server_name {
                Some(name) => ServerName::Name(name),
                None if self.question.http.is_some() => ServerName::Absent,
                None => ServerName::NotSeen,
            },
        };
        let headers = self.question.http.as_ref().map(header_list);
        let http = self.question.http.as_ref().zip(headers.as_deref());
        let request = http.map(|(request, headers)| {
            RequestFacts::Http(HttpFacts {
                method: &request.method,
                path: &request.path,
                authority: &request.host,
                headers,
            })
        });
        compiler.policy().evaluate(&flow, request.as_ref())
    }

    fn port(&self) -> u16 {
        self.destination.port.unwrap_or(self.question.port)
    }

    /// What the far end proves: both are in the mesh, and it is TCP, which alone travels in the tunnel.
    fn proven(&self, far: &End) -> Option<SpiffeId> {
        let in_mesh = |end: &End| {
            let workload = end.workload.as_ref();
            workload.is_some_and(|w| w.tunnel_protocol == TunnelProtocol::Hbone)
        };
        let both = self.protocol == TCP && in_mesh(self.source) && in_mesh(self.destination);
        far.workload.as_ref().filter(|_| both).map(|w| w.identity())
    }

    /// What would make it pass.
    fn missing(&self, direction: Direction, verdict: &Verdict, far: &End) -> Option<String> {
        let Outcome::Deny = verdict.outcome else {
            return match verdict.outcome {
                Outcome::NeedsL7(_) => {
                    Some("say what is asked, with --http or --server-name".to_owned())
                }
                Outcome::Allow | Outcome::Deny => None,
            };
        };
        let (port, protocol) = (self.port(), &self.question.protocol);
        let word = match direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        match &verdict.because {
            Because::DefaultDeny { language, .. } => Some(format!(
                "a {} rule that allows {} {word} {} at port {port}/{protocol}",
                language.name(),
                direction.name(),
                far.text
            )),
            Because::NotAmong(_) => Some(format!(
                "a rule whose requests, server names or proof {word} {} fit",
                far.text
            )),
            Because::Rule(rule) => Some(format!("{rule} is a deny, which wins over every allow")),
            Because::Authorization(_) => Some(format!(
                "an AuthorizationPolicy that allows it, and none that denies it, {word} {}",
                far.text
            )),
            Because::NoPolicy
            | Because::Host
            | Because::Own
            | Because::NotCompiled
            | Because::LimitReached => None,
        }
    }
}

fn header_list(request: &ExplainRequest) -> Vec<(&str, &[u8])> {
    let headers = request.headers.iter();
    headers
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect()
}

fn unknown(name: &str) -> ExplainError {
    ExplainError::Unknown {
        name: name.chars().take(200).collect(),
    }
}

fn protocol_number(protocol: &str) -> Result<u8, ExplainError> {
    match protocol {
        "tcp" => Ok(TCP),
        "udp" => Ok(UDP),
        "sctp" => Ok(132),
        other => Err(ExplainError::Protocol {
            protocol: other.chars().take(200).collect(),
        }),
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Words for what owns pods; which of them it is does not matter, since a namespace rarely has two of one name.
const KINDS: [&str; 8] = [
    "deploy",
    "deployment",
    "sts",
    "statefulset",
    "ds",
    "daemonset",
    "job",
    "cronjob",
];
/// Stands for whatever a name is answered with (RFC 5737: nobody's).
const LEARNED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

#[cfg(test)]
mod tests;
