//! The verdict about one connection, at its destination.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use tulle_model::{
    AddressRange, Authorization, AuthorizationAction, AuthorizationMatch, AuthorizationRule,
    Directory, Language, NamespacedName, Rules, RulesKey, ServiceAccountMatch, SpiffeId,
    StringMatch, Workload,
};

use crate::{
    compiled::HttpFacts,
    istio::http::{Readings, fits_request, fits_text},
};

/// What is known of a connection when it reaches its workload.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// Who the peer proved to be; `None` = it came in plain text.
    pub peer: Option<&'a SpiffeId>,
    /// The peer's address.
    pub source: IpAddr,
    /// The workload's address and the port at which the application listens (not 15008, not the service's port).
    pub destination: SocketAddr,
}

/// Whether a connection may pass, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It may.
    Allowed {
        /// The `ALLOW` policy that matched; `None` = no `ALLOW` policy speaks of the workload.
        by: Option<NamespacedName>,
    },
    /// It may not.
    Denied {
        /// Why.
        by: DenyReason,
    },
}

impl Verdict {
    /// Whether the connection may pass.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Verdict::Allowed { .. })
    }
}

/// Why a connection may not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DenyReason {
    /// This `DENY` policy matched.
    Policy(NamespacedName),
    /// `ALLOW` policies speak of the workload, and none matched.
    NoAllowMatched,
    /// The workload names this policy, and nobody has told us what it says.
    UnknownPolicy(NamespacedName),
}

impl DenyReason {
    /// A name for metrics, one of a closed set.
    pub fn name(&self) -> &'static str {
        match self {
            DenyReason::Policy(_) => "policy",
            DenyReason::NoAllowMatched => "no_allow_matched",
            DenyReason::UnknownPolicy(_) => "unknown_policy",
        }
    }
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DenyReason::Policy(key) => write!(f, "explicitly denied by {key}"),
            DenyReason::NoAllowMatched => f.write_str("allow policies exist, but none allowed"),
            DenyReason::UnknownPolicy(key) => {
                write!(f, "policy {key} is named by the workload but unknown")
            }
        }
    }
}

/// What is known of what is asked on a connection.
#[derive(Debug, Clone, Copy)]
pub enum Asked<'a> {
    /// Nobody has looked yet.
    Unseen,
    /// No HTTP: of an `ALLOW`, rules that speak of requests do not match; of a `DENY`, they match without that part.
    NotHttp,
    /// This request.
    Http(&'a HttpFacts<'a>),
}

/// A verdict, if there can be one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Judgement {
    /// Whatever else is asked.
    Decided(Verdict),
    /// It depends on the requests.
    NeedsRequest,
}

/// Decides whether `connection` may reach `workload` if it carries no HTTP.
///
/// The policies that count are those that the workload names, those of its namespace and those of the whole mesh, without
/// dry runs. First a match of any `DENY` refuses; then a named policy that is unknown refuses (ztunnel skips it, which
/// lets in what it would have refused); then the absence of any `ALLOW` allows; then a match of any `ALLOW` allows; all
/// else is refused. An `AUDIT` decides nothing.
pub fn authorize(
    directory: &Directory,
    workload: &Workload,
    connection: &Connection<'_>,
) -> Verdict {
    match judge(directory, workload, connection, Asked::NotHttp) {
        Judgement::Decided(verdict) => verdict,
        // Without requests nothing is left open; if it were, nobody must pass.
        Judgement::NeedsRequest => Verdict::Denied {
            by: DenyReason::NoAllowMatched,
        },
    }
}

/// As `authorize`, for what is known of the requests. Once a request is there, or it is known that there is none, the answer is a verdict.
///
/// A policy that speaks of requests counts in full where the directory holds it in full (`Rules::Authorization`).
pub fn judge(
    directory: &Directory,
    workload: &Workload,
    connection: &Connection<'_>,
    asked: Asked<'_>,
) -> Judgement {
    let subject = Subject::of(connection, asked);
    let mut allow: Option<(Fit, NamespacedName)> = None;
    let mut allow_exists = false;
    let mut deny_perhaps = false;
    let (policies, unknown) = policies_of(directory, workload);
    for policy in policies.into_iter().filter(|policy| !policy.dry_run) {
        match policy.action {
            AuthorizationAction::Deny => match subject.fits(policy) {
                Fit::Yes => {
                    return denied(DenyReason::Policy(policy.key()));
                }
                Fit::Perhaps => deny_perhaps = true,
                Fit::No => {}
            },
            AuthorizationAction::Allow => {
                allow_exists = true;
                // A later DENY still wins, so the search goes on.
                if allow.as_ref().is_none_or(|(fit, _)| *fit < Fit::Yes) {
                    let fit = subject.fits(policy);
                    if allow.as_ref().is_none_or(|(best, _)| fit > *best) {
                        allow = Some((fit, policy.key()));
                    }
                }
            }
            AuthorizationAction::Audit => {}
        }
    }
    if let Some(key) = unknown {
        return denied(DenyReason::UnknownPolicy(key));
    }
    match (allow_exists, allow) {
        (true, None | Some((Fit::No, _))) => denied(DenyReason::NoAllowMatched),
        (_, Some((Fit::Perhaps, _))) => Judgement::NeedsRequest,
        _ if deny_perhaps => Judgement::NeedsRequest,
        (_, allow) => Judgement::Decided(Verdict::Allowed {
            by: allow.map(|(_, key)| key),
        }),
    }
}

fn denied(by: DenyReason) -> Judgement {
    Judgement::Decided(Verdict::Denied { by })
}

/// The policies that note the connection or the request without deciding: matches of `AUDIT`, and of dry runs of `DENY`.
pub fn noted(
    directory: &Directory,
    workload: &Workload,
    connection: &Connection<'_>,
    asked: Asked<'_>,
) -> Vec<NamespacedName> {
    let subject = Subject::of(connection, asked);
    let (policies, _) = policies_of(directory, workload);
    policies
        .into_iter()
        .filter(|policy| match policy.action {
            AuthorizationAction::Audit => true,
            AuthorizationAction::Deny => policy.dry_run,
            AuthorizationAction::Allow => false,
        })
        .filter(|policy| subject.fits(policy) == Fit::Yes)
        .map(Authorization::key)
        .collect()
}

/// Whether a policy's rules fit a connection without HTTP, whatever its action, scope and dry run say.
///
/// For explaining and for logging what a dry run would do; `authorize` decides.
pub fn policy_matches(policy: &Authorization, connection: &Connection<'_>) -> bool {
    Subject::of(connection, Asked::NotHttp).fits(policy) == Fit::Yes
}

/// The policies that reach a workload, in full where they are there in full, and the first that it names and nobody knows.
fn policies_of<'d>(
    directory: &'d Directory,
    workload: &Workload,
) -> (Vec<&'d Authorization>, Option<NamespacedName>) {
    let mut unknown = None;
    let mut policies = Vec::new();
    for name in &workload.authorization_policies {
        let key = parse_key(name);
        match (in_full(directory, &key), directory.policy(&key)) {
            (Some(policy), _) => policies.push(policy),
            (None, Some(policy)) => policies.push(policy.as_ref()),
            (None, None) => {
                unknown.get_or_insert(key);
            }
        }
    }
    for policy in directory.policies_reaching(&workload.namespace) {
        policies.push(in_full(directory, &policy.key()).unwrap_or(policy));
    }
    (policies, unknown)
}

fn in_full<'d>(directory: &'d Directory, key: &NamespacedName) -> Option<&'d Authorization> {
    let key = RulesKey {
        language: Language::Istio,
        object: key.clone(),
    };
    match directory.rules_of(&key)?.as_ref() {
        Rules::Authorization(policy) => Some(policy),
        Rules::Network(_) => None,
    }
}

/// A name that is no `namespace/name` cannot be known; it keeps its text for the report.
fn parse_key(text: &str) -> NamespacedName {
    text.parse()
        .unwrap_or_else(|_| NamespacedName::new("", text))
}

/// Whether something matches; in the order of certainty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    No,
    /// It depends on the request.
    Perhaps,
    Yes,
}

impl From<bool> for Fit {
    fn from(fits: bool) -> Self {
        if fits { Fit::Yes } else { Fit::No }
    }
}

/// A connection with its identity written out once for all policies.
struct Subject<'a> {
    peer: Option<(&'a SpiffeId, String)>,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    asked: Asked<'a>,
}

impl<'a> Subject<'a> {
    fn of(connection: &Connection<'a>, asked: Asked<'a>) -> Self {
        Subject {
            peer: connection.peer.map(|id| (id, id.principal())),
            // A dual-stack listener sees IPv4 peers as ::ffff:a.b.c.d; the blocks of policies are IPv4.
            source: connection.source.to_canonical(),
            destination: connection.destination.ip().to_canonical(),
            port: connection.destination.port(),
            asked,
        }
    }

    /// Any rule; no rule = no.
    fn fits(&self, policy: &Authorization) -> Fit {
        let rules = policy.rules.iter();
        let fits = rules.map(|rule| self.fits_rule(rule, policy.action));
        fits.max().unwrap_or(Fit::No)
    }

    /// All clauses; no clause = yes. A clause: any match; no match = yes.
    fn fits_rule(&self, rule: &AuthorizationRule, action: AuthorizationAction) -> Fit {
        // Of what lets in or notes, a rule about requests speaks of nothing else; so before anybody has looked, it is never sure.
        let sure_at_most = match self.asked {
            _ if action == AuthorizationAction::Deny || !rule.has_requests() => Fit::Yes,
            Asked::NotHttp => return Fit::No,
            Asked::Unseen => Fit::Perhaps,
            Asked::Http(_) => Fit::Yes,
        };
        let clauses = rule.clauses.iter().map(|clause| {
            if clause.matches.is_empty() {
                return Fit::Yes;
            }
            let matches = clause.matches.iter();
            let fits = matches.map(|wanted| self.fits_match(wanted, action));
            fits.max().unwrap_or(Fit::No)
        });
        clauses.min().unwrap_or(Fit::Yes).min(sure_at_most)
    }

    /// All fields; a match with no field set is never true.
    fn fits_match(&self, wanted: &AuthorizationMatch, action: AuthorizationAction) -> Fit {
        if *wanted == AuthorizationMatch::default() || !self.fits_connection(wanted) {
            return Fit::No;
        }
        let Some(request) = &wanted.request else {
            return Fit::Yes;
        };
        match self.asked {
            Asked::Unseen => Fit::Perhaps,
            // What cannot be held against a request is held as if it fitted, as Envoy does: a DENY refuses more.
            Asked::NotHttp => Fit::from(action == AuthorizationAction::Deny),
            Asked::Http(facts) => {
                let readings = match action {
                    AuthorizationAction::Allow => Readings::All,
                    AuthorizationAction::Deny | AuthorizationAction::Audit => Readings::Any,
                };
                Fit::from(fits_request(request, facts, readings))
            }
        }
    }

    /// The fields that speak of the connection.
    fn fits_connection(&self, wanted: &AuthorizationMatch) -> bool {
        let namespace = |m: &StringMatch| {
            self.peer
                .as_ref()
                .is_some_and(|(id, _)| fits_text(m, &id.namespace))
        };
        let principal = |m: &StringMatch| {
            self.peer
                .as_ref()
                .is_some_and(|(_, text)| fits_text(m, text))
        };
        let account = |m: &ServiceAccountMatch| {
            self.peer
                .as_ref()
                .is_some_and(|(id, _)| fits_account(m, id))
        };
        let source = |range: &AddressRange| range.contains(self.source);
        let destination = |range: &AddressRange| range.contains(self.destination);
        let port = |port: &u16| *port == self.port;
        fits_field(&wanted.namespaces, &wanted.not_namespaces, namespace)
            && fits_field(&wanted.principals, &wanted.not_principals, principal)
            && fits_field(
                &wanted.service_accounts,
                &wanted.not_service_accounts,
                account,
            )
            && fits_field(&wanted.source_ips, &wanted.not_source_ips, source)
            && fits_field(
                &wanted.destination_ips,
                &wanted.not_destination_ips,
                destination,
            )
            && fits_field(
                &wanted.destination_ports,
                &wanted.not_destination_ports,
                port,
            )
    }
}

/// Any of the one list (if it says anything), and none of the other.
fn fits_field<T>(any_of: &[T], none_of: &[T], fits: impl Fn(&T) -> bool) -> bool {
    (any_of.is_empty() || any_of.iter().any(&fits)) && !none_of.iter().any(&fits)
}

/// The trust domain does not count.
fn fits_account(wanted: &ServiceAccountMatch, id: &SpiffeId) -> bool {
    wanted.namespace == id.namespace && wanted.service_account == id.service_account
}

#[cfg(test)]
mod tests;
