//! Policies.

use prost::Message;
use tulle_model::{
    AddressRange, Authorization, AuthorizationAction, AuthorizationClause, AuthorizationMatch,
    AuthorizationRule, AuthorizationScope, ServiceAccountMatch, StringMatch,
};

use super::{
    DecodeResourceError,
    field::{check_key, read_enum, read_ip, read_port, read_prefix_len, write_ip},
};
use crate::security;

/// Writes a policy: of one that speaks of requests, its form for L4, since the message has no room for more.
pub fn encode_authorization(policy: &Authorization) -> security::Authorization {
    if policy.exceeds_l4() {
        write_policy(&policy.l4_form())
    } else {
        write_policy(policy)
    }
}

fn write_policy(policy: &Authorization) -> security::Authorization {
    let scope = match policy.scope {
        AuthorizationScope::Global => security::Scope::Global,
        AuthorizationScope::Namespace => security::Scope::Namespace,
        AuthorizationScope::WorkloadSelector => security::Scope::WorkloadSelector,
    };
    let action = match policy.action {
        AuthorizationAction::Allow => security::Action::Allow,
        // The form for L4 of an AUDIT is a DENY without rules.
        AuthorizationAction::Deny | AuthorizationAction::Audit => security::Action::Deny,
    };
    let write_clause = |clause: &AuthorizationClause| security::Clause {
        matches: clause.matches.iter().map(write_match).collect(),
    };
    let write_rule = |rule: &AuthorizationRule| security::Rule {
        clauses: rule.clauses.iter().map(write_clause).collect(),
    };
    security::Authorization {
        name: policy.name.clone(),
        namespace: policy.namespace.clone(),
        scope: scope.into(),
        action: action.into(),
        rules: policy.rules.iter().map(write_rule).collect(),
        dry_run: policy.dry_run,
        extensions: Vec::new(),
    }
}

/// Reads a policy.
///
/// A comparison that this build does not know makes the whole policy bad: left out, it would widen or empty a match.
///
/// # Errors
///
/// The bytes are not such a message, or a field holds what it must not: an unknown enum value or comparison, an address
/// that is not of 4 or 16 bytes, a prefix longer than its address, a port above 65535, an empty name.
pub fn decode_authorization(bytes: &[u8]) -> Result<Authorization, DecodeResourceError> {
    let policy = security::Authorization::decode(bytes)?;
    check_key("authorization", &policy.namespace, "name", &policy.name)?;
    let scope = match read_enum(|| "authorization.scope".to_owned(), policy.scope)? {
        security::Scope::Global => AuthorizationScope::Global,
        security::Scope::Namespace => AuthorizationScope::Namespace,
        security::Scope::WorkloadSelector => AuthorizationScope::WorkloadSelector,
    };
    let action = match read_enum(|| "authorization.action".to_owned(), policy.action)? {
        security::Action::Allow => AuthorizationAction::Allow,
        security::Action::Deny => AuthorizationAction::Deny,
    };
    let rules = policy
        .rules
        .into_iter()
        .enumerate()
        .map(|(i, rule)| read_rule(i, rule));
    Ok(Authorization {
        name: policy.name,
        namespace: policy.namespace,
        scope,
        action,
        rules: rules.collect::<Result<_, _>>()?,
        dry_run: policy.dry_run,
    })
}

fn read_rule(i: usize, rule: security::Rule) -> Result<AuthorizationRule, DecodeResourceError> {
    let read_clause = |(j, clause): (usize, security::Clause)| {
        let matches = clause.matches.into_iter().enumerate().map(|(k, wire)| {
            read_match(
                &format!("authorization.rules[{i}].clauses[{j}].matches[{k}]"),
                wire,
            )
        });
        Ok(AuthorizationClause {
            matches: matches.collect::<Result<_, _>>()?,
        })
    };
    let clauses = rule.clauses.into_iter().enumerate().map(read_clause);
    Ok(AuthorizationRule {
        clauses: clauses.collect::<Result<_, DecodeResourceError>>()?,
    })
}

fn read_match(at: &str, wire: security::Match) -> Result<AuthorizationMatch, DecodeResourceError> {
    let accounts =
        |of: Vec<security::ServiceAccountMatch>| of.into_iter().map(read_account).collect();
    Ok(AuthorizationMatch {
        namespaces: read_strings(at, "namespaces", wire.namespaces)?,
        not_namespaces: read_strings(at, "not_namespaces", wire.not_namespaces)?,
        principals: read_strings(at, "principals", wire.principals)?,
        not_principals: read_strings(at, "not_principals", wire.not_principals)?,
        source_ips: read_ranges(at, "source_ips", &wire.source_ips)?,
        not_source_ips: read_ranges(at, "not_source_ips", &wire.not_source_ips)?,
        destination_ips: read_ranges(at, "destination_ips", &wire.destination_ips)?,
        not_destination_ips: read_ranges(at, "not_destination_ips", &wire.not_destination_ips)?,
        destination_ports: read_ports(at, "destination_ports", &wire.destination_ports)?,
        not_destination_ports: read_ports(
            at,
            "not_destination_ports",
            &wire.not_destination_ports,
        )?,
        service_accounts: accounts(wire.service_accounts),
        not_service_accounts: accounts(wire.not_service_accounts),
        request: None,
    })
}

fn write_match(of: &AuthorizationMatch) -> security::Match {
    let strings = |of: &[StringMatch]| of.iter().map(write_string).collect();
    let ranges = |of: &[AddressRange]| of.iter().map(write_range).collect();
    let ports = |of: &[u16]| of.iter().copied().map(u32::from).collect();
    let accounts = |of: &[ServiceAccountMatch]| of.iter().map(write_account).collect();
    security::Match {
        namespaces: strings(&of.namespaces),
        not_namespaces: strings(&of.not_namespaces),
        principals: strings(&of.principals),
        not_principals: strings(&of.not_principals),
        source_ips: ranges(&of.source_ips),
        not_source_ips: ranges(&of.not_source_ips),
        destination_ips: ranges(&of.destination_ips),
        not_destination_ips: ranges(&of.not_destination_ips),
        destination_ports: ports(&of.destination_ports),
        not_destination_ports: ports(&of.not_destination_ports),
        service_accounts: accounts(&of.service_accounts),
        not_service_accounts: accounts(&of.not_service_accounts),
        extensions: Vec::new(),
    }
}

fn read_strings(
    at: &str,
    field: &str,
    of: Vec<security::StringMatch>,
) -> Result<Vec<StringMatch>, DecodeResourceError> {
    let read = |(i, wire): (usize, security::StringMatch)| match wire.match_type {
        Some(security::MatchType::Exact(text)) => Ok(StringMatch::Exact(text)),
        Some(security::MatchType::Prefix(text)) => Ok(StringMatch::Prefix(text)),
        Some(security::MatchType::Suffix(text)) => Ok(StringMatch::Suffix(text)),
        Some(security::MatchType::Presence(())) => Ok(StringMatch::Presence),
        None => {
            let path = format!("{at}.{field}[{i}].match_type");
            Err(DecodeResourceError::field(
                path,
                "nothing",
                "exact, prefix, suffix or presence",
            ))
        }
    };
    of.into_iter().enumerate().map(read).collect()
}

fn write_string(of: &StringMatch) -> security::StringMatch {
    let match_type = match of {
        StringMatch::Exact(text) => security::MatchType::Exact(text.clone()),
        StringMatch::Prefix(text) => security::MatchType::Prefix(text.clone()),
        StringMatch::Suffix(text) => security::MatchType::Suffix(text.clone()),
        StringMatch::Presence => security::MatchType::Presence(()),
    };
    security::StringMatch {
        match_type: Some(match_type),
    }
}

fn read_ranges(
    at: &str,
    field: &str,
    of: &[security::Address],
) -> Result<Vec<AddressRange>, DecodeResourceError> {
    let read = |(i, wire): (usize, &security::Address)| {
        let address = read_ip(|| format!("{at}.{field}[{i}].address"), &wire.address)?;
        let prefix_len =
            read_prefix_len(|| format!("{at}.{field}[{i}].length"), address, wire.length)?;
        Ok(AddressRange {
            address,
            prefix_len,
        })
    };
    of.iter().enumerate().map(read).collect()
}

fn write_range(of: &AddressRange) -> security::Address {
    security::Address {
        address: write_ip(of.address),
        length: u32::from(of.prefix_len),
    }
}

fn read_ports(at: &str, field: &str, of: &[u32]) -> Result<Vec<u16>, DecodeResourceError> {
    let read = |(i, port): (usize, &u32)| read_port(|| format!("{at}.{field}[{i}]"), *port);
    of.iter().enumerate().map(read).collect()
}

fn read_account(wire: security::ServiceAccountMatch) -> ServiceAccountMatch {
    ServiceAccountMatch {
        namespace: wire.namespace,
        service_account: wire.service_account,
    }
}

fn write_account(of: &ServiceAccountMatch) -> security::ServiceAccountMatch {
    security::ServiceAccountMatch {
        namespace: of.namespace.clone(),
        service_account: of.service_account.clone(),
    }
}
