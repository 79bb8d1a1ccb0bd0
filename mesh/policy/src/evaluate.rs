//! The verdict about one connection, at its destination.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use tulle_model::{
    AddressRange, Authorization, AuthorizationAction, AuthorizationMatch, AuthorizationRule,
    Directory, NamespacedName, ServiceAccountMatch, SpiffeId, StringMatch, Workload,
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

/// Decides whether `connection` may reach `workload`.
///
/// The policies that count are those that the workload names, those of its namespace and those of the whole mesh, without
/// dry runs. First a match of any `DENY` refuses; then a named policy that is unknown refuses (ztunnel skips it, which
/// lets in what it would have refused); then the absence of any `ALLOW` allows; then a match of any `ALLOW` allows; all
/// else is refused.
pub fn authorize(
    directory: &Directory,
    workload: &Workload,
    connection: &Connection<'_>,
) -> Verdict {
    let subject = Subject::of(connection);
    let mut allowed_by = None;
    let mut allow_exists = false;
    let mut unknown = None;
    let named = workload.authorization_policies.iter().filter_map(|name| {
        let key = parse_key(name);
        let policy = directory.policy(&key);
        if policy.is_none() {
            unknown.get_or_insert(key);
        }
        policy
    });
    for policy in named.chain(directory.policies_reaching(&workload.namespace)) {
        if policy.dry_run {
            continue;
        }
        match policy.action {
            AuthorizationAction::Deny => {
                if subject.fits(policy) {
                    return Verdict::Denied {
                        by: DenyReason::Policy(policy.key()),
                    };
                }
            }
            AuthorizationAction::Allow => {
                allow_exists = true;
                // A later DENY still wins, so the search goes on.
                if allowed_by.is_none() && subject.fits(policy) {
                    allowed_by = Some(policy.key());
                }
            }
        }
    }
    match (unknown, allow_exists, allowed_by) {
        (Some(key), _, _) => Verdict::Denied {
            by: DenyReason::UnknownPolicy(key),
        },
        (None, false, _) => Verdict::Allowed { by: None },
        (None, true, Some(key)) => Verdict::Allowed { by: Some(key) },
        (None, true, None) => Verdict::Denied {
            by: DenyReason::NoAllowMatched,
        },
    }
}

/// Whether a policy's rules fit a connection, whatever its action, scope and dry run say.
///
/// For explaining and for logging what a dry run would do; `authorize` decides.
pub fn policy_matches(policy: &Authorization, connection: &Connection<'_>) -> bool {
    Subject::of(connection).fits(policy)
}

/// A name that is no `namespace/name` cannot be known; it keeps its text for the report.
fn parse_key(text: &str) -> NamespacedName {
    text.parse()
        .unwrap_or_else(|_| NamespacedName::new("", text))
}

/// A connection with its identity written out once for all policies.
struct Subject<'a> {
    peer: Option<(&'a SpiffeId, String)>,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
}

impl<'a> Subject<'a> {
    fn of(connection: &Connection<'a>) -> Self {
        Subject {
            peer: connection.peer.map(|id| (id, id.principal())),
            // A dual-stack listener sees IPv4 peers as ::ffff:a.b.c.d; the blocks of policies are IPv4.
            source: connection.source.to_canonical(),
            destination: connection.destination.ip().to_canonical(),
            port: connection.destination.port(),
        }
    }

    /// Any rule; no rule = no.
    fn fits(&self, policy: &Authorization) -> bool {
        policy.rules.iter().any(|rule| self.fits_rule(rule))
    }

    /// All clauses; no clause = yes. A clause: any match; no match = yes.
    fn fits_rule(&self, rule: &AuthorizationRule) -> bool {
        rule.clauses.iter().all(|clause| {
            clause.matches.is_empty() || clause.matches.iter().any(|wanted| self.fits_match(wanted))
        })
    }

    /// All fields; a match with no field set is never true.
    fn fits_match(&self, wanted: &AuthorizationMatch) -> bool {
        if *wanted == AuthorizationMatch::default() {
            return false;
        }
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

fn fits_text(wanted: &StringMatch, text: &str) -> bool {
    match wanted {
        StringMatch::Exact(exact) => text == exact,
        StringMatch::Prefix(prefix) => text.starts_with(prefix),
        StringMatch::Suffix(suffix) => text.ends_with(suffix),
        StringMatch::Presence => !text.is_empty(),
    }
}

/// The trust domain does not count.
fn fits_account(wanted: &ServiceAccountMatch, id: &SpiffeId) -> bool {
    wanted.namespace == id.namespace && wanted.service_account == id.service_account
}

#[cfg(test)]
mod tests;
