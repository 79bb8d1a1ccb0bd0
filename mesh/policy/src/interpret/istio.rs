//! The semantics of Istio's policies, written down as plainly as possible: the objects as they were written, and one request at a time.

use std::{collections::BTreeMap, net::IpAddr};

use tulle_model::{
    AddressRange, AuthorizationAction, AuthorizationMatch, AuthorizationRule, AuthorizationScope,
    HeaderCondition, PathMatch, RequestMatch, StringMatch, Workload, WorkloadUid,
};

use crate::{
    compiled::{Flow, HttpFacts},
    istio::{ConvertedPolicy, MtlsMode, PeerAuthentication, ROOT_NAMESPACE},
};

/// All of them, and which workloads name a policy that nobody knows.
#[derive(Debug, Clone, Default)]
pub struct IstioPolicies {
    /// The AuthorizationPolicies.
    pub authorizations: Vec<ConvertedPolicy>,
    /// The PeerAuthentications.
    pub peers: Vec<PeerAuthentication>,
    /// Workloads that name a policy that was never sent.
    pub lost: Vec<WorkloadUid>,
}

impl IstioPolicies {
    /// Whether a flow to `subject` may pass with this request; `None` = it carries no HTTP.
    pub(super) fn allow(
        &self,
        subject: &Workload,
        flow: &Flow<'_>,
        request: Option<&HttpFacts<'_>>,
    ) -> bool {
        let is_plain_text = flow.proven.is_none();
        if is_plain_text && self.is_strict(subject, flow.destination.port()) {
            return false;
        }
        let enforced = |action| {
            let reaching = self.reaching(subject);
            reaching.filter(move |policy| {
                policy.authorization.action == action && !policy.authorization.dry_run
            })
        };
        if enforced(AuthorizationAction::Deny).any(|policy| matches(policy, flow, request)) {
            return false;
        }
        if self.lost.contains(&subject.uid) {
            return false;
        }
        enforced(AuthorizationAction::Allow).next().is_none()
            || enforced(AuthorizationAction::Allow).any(|policy| matches(policy, flow, request))
    }

    /// Whether a policy notes it: an `AUDIT`, or a `DENY` that is only tried.
    pub(super) fn note(
        &self,
        subject: &Workload,
        flow: &Flow<'_>,
        request: Option<&HttpFacts<'_>>,
    ) -> bool {
        self.reaching(subject).any(|policy| {
            let is_noting = match policy.authorization.action {
                AuthorizationAction::Audit => true,
                AuthorizationAction::Deny => policy.authorization.dry_run,
                AuthorizationAction::Allow => false,
            };
            is_noting && matches(policy, flow, request)
        })
    }

    /// Whether any policy that reaches `subject` speaks of requests.
    pub(super) fn speak_of_requests(&self, subject: &Workload) -> bool {
        self.reaching(subject)
            .any(|policy| policy.authorization.rules.iter().any(speaks_of_requests))
    }

    fn reaching(&self, subject: &Workload) -> impl Iterator<Item = &ConvertedPolicy> {
        self.authorizations.iter().filter(move |policy| {
            let is_near = policy.authorization.namespace.as_str() == subject.namespace.as_str();
            match policy.authorization.scope {
                AuthorizationScope::Global => true,
                AuthorizationScope::Namespace => is_near,
                AuthorizationScope::WorkloadSelector => {
                    (is_near || policy.selects_all_namespaces)
                        && policy
                            .selector
                            .as_ref()
                            .is_some_and(|wanted| has_labels(subject, wanted))
                }
            }
        })
    }

    /// Port over workload over namespace over mesh; the oldest of a level.
    fn is_strict(&self, subject: &Workload, port: u16) -> bool {
        let oldest = |fits: &dyn Fn(&PeerAuthentication) -> bool| {
            let fitting = self.peers.iter().filter(|object| fits(object));
            fitting.min_by_key(|object| (&object.created, &object.key))
        };
        let workload = oldest(&|object| {
            object.key.namespace == subject.namespace
                && object.key.namespace.as_str() != ROOT_NAMESPACE
                && !object.selector.is_empty()
                && has_labels(subject, &object.selector)
        });
        let level = |namespace: &str| {
            oldest(&|object| {
                object.key.namespace.as_str() == namespace && object.selector.is_empty()
            })
        };
        let modes = [
            workload.and_then(|object| object.ports.get(&port)).copied(),
            workload.map(|object| object.mode),
            level(&subject.namespace).map(|object| object.mode),
            level(ROOT_NAMESPACE).map(|object| object.mode),
        ];
        let mut said = modes.into_iter().flatten();
        said.find(|mode| *mode != MtlsMode::Unset) == Some(MtlsMode::Strict)
    }
}

fn has_labels(workload: &Workload, wanted: &BTreeMap<String, String>) -> bool {
    let mut wanted = wanted.iter();
    wanted.all(|(name, value)| {
        let found = workload.labels.get(name.as_str());
        found.is_some_and(|found| found.as_str() == value)
    })
}

fn speaks_of_requests(rule: &AuthorizationRule) -> bool {
    let mut matches = rule.clauses.iter().flat_map(|clause| &clause.matches);
    matches.any(|wanted| wanted.request.is_some())
}

fn matches(policy: &ConvertedPolicy, flow: &Flow<'_>, request: Option<&HttpFacts<'_>>) -> bool {
    let action = policy.authorization.action;
    policy.authorization.rules.iter().any(|rule| {
        // A rule about requests lets nothing else in, and notes nothing else.
        if request.is_none() && action != AuthorizationAction::Deny && speaks_of_requests(rule) {
            return false;
        }
        rule.clauses.iter().all(|clause| {
            clause.matches.is_empty()
                || clause
                    .matches
                    .iter()
                    .any(|wanted| holds(wanted, flow, request))
        })
    })
}

/// Every field that says something has to hold; where none does, nothing holds.
fn holds(wanted: &AuthorizationMatch, flow: &Flow<'_>, request: Option<&HttpFacts<'_>>) -> bool {
    let identity = flow.proven.map(ToString::to_string).unwrap_or_default();
    let principal = identity.strip_prefix("spiffe://").unwrap_or_default();
    let (domain_and_namespace, account) = principal.split_once("/sa/").unwrap_or_default();
    let (_, namespace) = domain_and_namespace.split_once("/ns/").unwrap_or_default();
    let is_account = |account_wanted: &tulle_model::ServiceAccountMatch| {
        !principal.is_empty()
            && account_wanted.namespace == namespace
            && account_wanted.service_account == account
    };
    let is_from = |block: &AddressRange| is_in(block, flow.source);
    let is_to = |block: &AddressRange| is_in(block, flow.destination.ip());
    let is_port = |port: &u16| *port == flow.destination.port();
    let fields = [
        any(&wanted.namespaces, |m| is_text(m, namespace)),
        none(&wanted.not_namespaces, |m| is_text(m, namespace)),
        any(&wanted.principals, |m| is_text(m, principal)),
        none(&wanted.not_principals, |m| is_text(m, principal)),
        any(&wanted.service_accounts, is_account),
        none(&wanted.not_service_accounts, is_account),
        any(&wanted.source_ips, is_from),
        none(&wanted.not_source_ips, is_from),
        any(&wanted.destination_ips, is_to),
        none(&wanted.not_destination_ips, is_to),
        any(&wanted.destination_ports, is_port),
        none(&wanted.not_destination_ports, is_port),
        // Only a DENY comes here without a request, and is held as if the request were the one that it speaks of.
        wanted
            .request
            .as_ref()
            .map(|wanted| request.is_none_or(|request| is_request(wanted, request))),
    ];
    let said: Vec<bool> = fields.into_iter().flatten().collect();
    !said.is_empty() && said.into_iter().all(|holds| holds)
}

/// `None` = the field says nothing.
fn any<T>(wanted: &[T], is_so: impl Fn(&T) -> bool) -> Option<bool> {
    (!wanted.is_empty()).then(|| wanted.iter().any(is_so))
}

fn none<T>(unwanted: &[T], is_so: impl Fn(&T) -> bool) -> Option<bool> {
    any(unwanted, is_so).map(|is_any| !is_any)
}

/// A text that is not there is like an empty one: it has no part that could be compared, and is not present.
fn is_text(wanted: &StringMatch, text: &str) -> bool {
    !text.is_empty()
        && match wanted {
            StringMatch::Exact(exact) => text == exact,
            StringMatch::Prefix(prefix) => text.get(..prefix.len()) == Some(prefix),
            StringMatch::Suffix(suffix) => {
                let at = text.len().checked_sub(suffix.len());
                at.and_then(|at| text.get(at..)) == Some(suffix)
            }
            StringMatch::Presence => true,
        }
}

/// Bit by bit.
fn is_in(block: &AddressRange, address: IpAddr) -> bool {
    let bits = |address: IpAddr| -> Vec<bool> {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let bits = octets
            .into_iter()
            .flat_map(|octet| (0..8).map(move |bit| octet >> (7 - bit) & 1 == 1));
        bits.collect()
    };
    let (wanted, found) = (bits(block.address), bits(address.to_canonical()));
    let len = usize::from(block.prefix_len);
    wanted.len() == found.len() && wanted.iter().zip(&found).take(len).all(|(a, b)| a == b)
}

fn is_request(wanted: &RequestMatch, request: &HttpFacts<'_>) -> bool {
    let path = request.path.split('?').next().unwrap_or_default();
    let host = request.authority.to_ascii_lowercase();
    let (name, _port) = host.split_once(':').unwrap_or((&host, ""));
    // The case of a host says nothing.
    let is_host = |wanted: &StringMatch| {
        let wanted = match wanted {
            StringMatch::Exact(text) => StringMatch::Exact(text.to_ascii_lowercase()),
            StringMatch::Prefix(text) => StringMatch::Prefix(text.to_ascii_lowercase()),
            StringMatch::Suffix(text) => StringMatch::Suffix(text.to_ascii_lowercase()),
            StringMatch::Presence => StringMatch::Presence,
        };
        is_text(&wanted, &host) || is_text(&wanted, name)
    };
    let is_path = |wanted: &PathMatch| match wanted {
        PathMatch::Text(wanted) => is_text(wanted, path),
        PathMatch::Template(template) => {
            let segments = regex::escape(template)
                .replace(r"\{\*\*\}", ".*")
                .replace(r"\{\*\}", "[^/]+");
            regex::Regex::new(&format!("^{segments}$")).is_ok_and(|regex| regex.is_match(path))
        }
    };
    let is_method = |wanted: &StringMatch| is_text(wanted, request.method);
    let fields = [
        any(&wanted.hosts, is_host),
        none(&wanted.not_hosts, is_host),
        any(&wanted.methods, is_method),
        none(&wanted.not_methods, is_method),
        any(&wanted.paths, is_path),
        none(&wanted.not_paths, is_path),
    ];
    fields.into_iter().flatten().all(|holds| holds)
        && wanted
            .headers
            .iter()
            .all(|header| is_header(header, request))
}

/// Of one value: the random requests have no header twice.
fn is_header(wanted: &HeaderCondition, request: &HttpFacts<'_>) -> bool {
    let mut found = request
        .headers
        .iter()
        .filter(|(name, _)| *name == wanted.name);
    match found.next() {
        None => wanted.values.is_empty(),
        Some((_, value)) => {
            let is_value =
                |m: &StringMatch| std::str::from_utf8(value).is_ok_and(|value| is_text(m, value));
            any(&wanted.values, is_value).unwrap_or(true)
                && none(&wanted.not_values, is_value).unwrap_or(true)
        }
    }
}
