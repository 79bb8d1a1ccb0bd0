//! Policies that are refused.

use prost::Message;

use super::{super::super::decode_authorization, check};
use crate::security;

fn check_match(matched: security::Match, field: &str) {
    let clause = security::Clause {
        matches: vec![security::Match::default(), matched],
    };
    let policy = security::Authorization {
        name: "p".into(),
        namespace: "ns".into(),
        rules: vec![security::Rule {
            clauses: vec![clause],
        }],
        ..Default::default()
    };
    let field = format!("authorization.rules[0].clauses[0].matches[1].{field}");
    check(
        decode_authorization(&policy.encode_to_vec()).map(drop),
        &field,
    );
}

#[test]
fn bad_policies_are_refused() {
    let policy = |name: &str, namespace: &str, scope, action| security::Authorization {
        name: name.into(),
        namespace: namespace.into(),
        scope,
        action,
        ..Default::default()
    };
    for (policy, field) in [
        (policy("", "ns", 0, 0), "authorization.name"),
        (policy("a/b", "ns", 0, 0), "authorization.name"),
        (policy("p", "", 0, 0), "authorization.namespace"),
        (policy("p", "ns", 3, 0), "authorization.scope"),
        (policy("p", "ns", 0, 2), "authorization.action"),
    ] {
        check(
            decode_authorization(&policy.encode_to_vec()).map(drop),
            field,
        );
    }
}

#[test]
fn unknown_comparisons_are_refused() {
    let unknown = || vec![security::StringMatch { match_type: None }];
    let check = |edit: fn(&mut security::Match) -> &mut Vec<security::StringMatch>, field: &str| {
        let mut matched = security::Match::default();
        *edit(&mut matched) = unknown();
        check_match(matched, &format!("{field}[0].match_type"));
    };
    check(|m| &mut m.namespaces, "namespaces");
    check(|m| &mut m.not_namespaces, "not_namespaces");
    check(|m| &mut m.principals, "principals");
    check(|m| &mut m.not_principals, "not_principals");
}

#[test]
fn bad_blocks_are_refused() {
    let check = |edit: fn(&mut security::Match) -> &mut Vec<security::Address>,
                 bytes: usize,
                 length,
                 field: &str| {
        let mut matched = security::Match::default();
        *edit(&mut matched) = vec![security::Address {
            address: vec![1; bytes],
            length,
        }];
        check_match(matched, field);
    };
    check(|m| &mut m.source_ips, 3, 8, "source_ips[0].address");
    check(|m| &mut m.not_source_ips, 4, 33, "not_source_ips[0].length");
    check(
        |m| &mut m.destination_ips,
        0,
        0,
        "destination_ips[0].address",
    );
    check(
        |m| &mut m.not_destination_ips,
        16,
        129,
        "not_destination_ips[0].length",
    );
}

#[test]
fn ports_of_a_match_above_the_range_are_refused() {
    let check = |edit: fn(&mut security::Match) -> &mut Vec<u32>, field: &str| {
        let mut matched = security::Match::default();
        *edit(&mut matched) = vec![80, 65_536];
        check_match(matched, &format!("{field}[1]"));
    };
    check(|m| &mut m.destination_ports, "destination_ports");
    check(|m| &mut m.not_destination_ports, "not_destination_ports");
}
