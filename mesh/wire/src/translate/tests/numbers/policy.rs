//! Numbers of policies.

use super::{check, extension, raw, raw_extension};
use crate::security;

#[test]
fn authorization_fields() {
    let exact = |text: &str| security::StringMatch {
        match_type: Some(security::MatchType::Exact(text.into())),
    };
    let block = |byte, length| security::Address {
        address: vec![byte; 4],
        length,
    };
    let account = |name: &str| security::ServiceAccountMatch {
        namespace: "n".into(),
        service_account: name.into(),
    };
    let matched = security::Match {
        namespaces: vec![exact("1")],
        not_namespaces: vec![exact("2")],
        principals: vec![exact("3")],
        not_principals: vec![exact("4")],
        source_ips: vec![block(5, 5)],
        not_source_ips: vec![block(6, 6)],
        destination_ips: vec![block(7, 7)],
        not_destination_ips: vec![block(8, 8)],
        destination_ports: vec![9, 300],
        not_destination_ports: vec![10],
        service_accounts: vec![account("11")],
        not_service_accounts: vec![account("12")],
        extensions: vec![extension()],
    };
    let raw_block = |byte, length| raw().bytes(1, [byte; 4]).number(2, length);
    let raw_account = |name: &str| raw().bytes(1, "n").bytes(2, name);
    let raw_matched = raw()
        .message(1, raw().bytes(1, "1"))
        .message(2, raw().bytes(1, "2"))
        .message(3, raw().bytes(1, "3"))
        .message(4, raw().bytes(1, "4"))
        .message(5, raw_block(5, 5))
        .message(6, raw_block(6, 6))
        .message(7, raw_block(7, 7))
        .message(8, raw_block(8, 8))
        .bytes(9, raw().varint(9).varint(300).0)
        .bytes(10, [10])
        .message(11, raw_account("11"))
        .message(12, raw_account("12"))
        .message(13, raw_extension());
    let clause = security::Clause {
        matches: vec![matched],
    };
    let expected = security::Authorization {
        name: "name".into(),
        namespace: "namespace".into(),
        scope: 2,
        action: 1,
        rules: vec![security::Rule {
            clauses: vec![clause],
        }],
        dry_run: true,
        extensions: vec![extension()],
    };
    let made = raw()
        .bytes(1, "name")
        .bytes(2, "namespace")
        .number(3, 2)
        .number(4, 1)
        .message(5, raw().message(1, raw().message(2, raw_matched)))
        .number(6, 1)
        .message(7, raw_extension());
    check(made, expected);
}

#[test]
fn string_match_fields() {
    let of = |match_type| security::StringMatch {
        match_type: Some(match_type),
    };
    check(
        raw().bytes(1, "a"),
        of(security::MatchType::Exact("a".into())),
    );
    check(
        raw().bytes(2, "a"),
        of(security::MatchType::Prefix("a".into())),
    );
    check(
        raw().bytes(3, "a"),
        of(security::MatchType::Suffix("a".into())),
    );
    check(raw().bytes(4, []), of(security::MatchType::Presence(())));
}
