//! When the rules of one policy fit.

use proptest::prelude::*;
use tulle_model::{AddressRange, ServiceAccountMatch};

use super::*;

/// Whether rules fit a connection of `web` and one in plain text.
fn check(what: &str, rules: Vec<AuthorizationRule>, web_fits: bool, plain_fits: bool) {
    let policy = policy("p", AuthorizationAction::Allow, rules);
    assert_eq!(
        policy_matches(&policy, &connection(Some(&web()))),
        web_fits,
        "web, {what}"
    );
    assert_eq!(
        policy_matches(&policy, &connection(None)),
        plain_fits,
        "plain text, {what}"
    );
}

fn check_match(what: &str, matched: AuthorizationMatch, web_fits: bool, plain_fits: bool) {
    check(what, vec![rule(vec![vec![matched]])], web_fits, plain_fits);
}

#[test]
fn any_rule_is_enough() {
    check("no rule", vec![], false, false);
    check(
        "first",
        vec![rule(vec![vec![port(8080)]]), rule(vec![vec![port(1)]])],
        true,
        true,
    );
    check(
        "second",
        vec![rule(vec![vec![port(1)]]), rule(vec![vec![port(8080)]])],
        true,
        true,
    );
    check(
        "neither",
        vec![rule(vec![vec![port(1)]]), rule(vec![vec![port(2)]])],
        false,
        false,
    );
}

#[test]
fn all_clauses_are_needed() {
    check(
        "a rule without clauses fits everything",
        vec![rule(vec![])],
        true,
        true,
    );
    check(
        "both",
        vec![rule(vec![vec![port(8080)], vec![namespace("shop")]])],
        true,
        false,
    );
    check(
        "only the first",
        vec![rule(vec![vec![port(8080)], vec![namespace("x")]])],
        false,
        false,
    );
    check(
        "only the second",
        vec![rule(vec![vec![port(1)], vec![namespace("shop")]])],
        false,
        false,
    );
}

#[test]
fn any_match_of_a_clause_is_enough() {
    check(
        "a clause without matches is true",
        vec![rule(vec![vec![]])],
        true,
        true,
    );
    check(
        "it does not carry the others",
        vec![rule(vec![vec![], vec![port(1)]])],
        false,
        false,
    );
    check(
        "first",
        vec![rule(vec![vec![port(8080), port(1)]])],
        true,
        true,
    );
    check(
        "second",
        vec![rule(vec![vec![port(1), port(8080)]])],
        true,
        true,
    );
    check(
        "neither",
        vec![rule(vec![vec![port(1), port(2)]])],
        false,
        false,
    );
}

#[test]
fn an_empty_match_is_never_true() {
    let empty = AuthorizationMatch::default;
    check("alone", vec![rule(vec![vec![empty()]])], false, false);
    check(
        "beside another",
        vec![rule(vec![vec![empty(), port(8080)]])],
        true,
        true,
    );
}

#[test]
fn all_fields_of_a_match_are_needed() {
    let both = |name: &str, port| AuthorizationMatch {
        destination_ports: vec![port],
        ..namespace(name)
    };
    check_match("both", both("shop", 8080), true, false);
    check_match("namespace only", both("shop", 1), false, false);
    check_match("port only", both("x", 8080), false, false);
}

#[test]
fn any_value_of_a_field_is_enough() {
    let ports = |destination_ports| AuthorizationMatch {
        destination_ports,
        ..Default::default()
    };
    check_match("first", ports(vec![8080, 1]), true, true);
    check_match("second", ports(vec![1, 8080]), true, true);
    check_match("neither", ports(vec![1, 2]), false, false);
}

#[test]
fn a_negative_field_must_have_no_hit() {
    let not = |not_destination_ports| AuthorizationMatch {
        not_destination_ports,
        ..Default::default()
    };
    check_match("no hit", not(vec![1, 2]), true, true);
    check_match("one hit", not(vec![1, 8080]), false, false);
    let both = AuthorizationMatch {
        not_destination_ports: vec![8080],
        ..port(8080)
    };
    check_match("the negative wins", both, false, false);
}

#[test]
fn principals_are_compared_without_the_scheme() {
    let principal = |of| AuthorizationMatch {
        principals: vec![of],
        ..Default::default()
    };
    let prefix = |text: &str| StringMatch::Prefix(text.to_owned());
    let suffix = |text: &str| StringMatch::Suffix(text.to_owned());
    check_match("exact", principal(exact("td/ns/shop/sa/web")), true, false);
    check_match(
        "with the scheme",
        principal(exact("spiffe://td/ns/shop/sa/web")),
        false,
        false,
    );
    check_match(
        "another trust domain",
        principal(exact("other/ns/shop/sa/web")),
        false,
        false,
    );
    check_match("prefix", principal(prefix("td/ns/shop/")), true, false);
    check_match(
        "prefix of the scheme",
        principal(prefix("spiffe://")),
        false,
        false,
    );
    check_match("suffix", principal(suffix("/sa/web")), true, false);
    check_match("another suffix", principal(suffix("/sa/we")), false, false);
    check_match("presence", principal(StringMatch::Presence), true, false);
}

/// `not_principals: presence` is how STRICT is written.
#[test]
fn plain_text_fits_no_positive_identity_and_every_negative_one() {
    let account = || ServiceAccountMatch {
        namespace: "shop".into(),
        service_account: "web".into(),
    };
    let identity = [
        AuthorizationMatch {
            namespaces: vec![StringMatch::Presence],
            ..Default::default()
        },
        AuthorizationMatch {
            principals: vec![StringMatch::Presence],
            ..Default::default()
        },
        AuthorizationMatch {
            service_accounts: vec![account()],
            ..Default::default()
        },
        AuthorizationMatch {
            namespaces: vec![StringMatch::Prefix(String::new())],
            ..Default::default()
        },
        AuthorizationMatch {
            principals: vec![StringMatch::Suffix(String::new())],
            ..Default::default()
        },
    ];
    for matched in identity {
        check_match(&format!("{matched:?}"), matched, true, false);
    }
    let not_identity = [
        AuthorizationMatch {
            not_namespaces: vec![StringMatch::Presence],
            ..Default::default()
        },
        AuthorizationMatch {
            not_principals: vec![StringMatch::Presence],
            ..Default::default()
        },
        AuthorizationMatch {
            not_service_accounts: vec![account()],
            ..Default::default()
        },
    ];
    for matched in not_identity {
        check_match(&format!("{matched:?}"), matched, false, true);
    }
}

#[test]
fn namespaces_and_accounts_ignore_the_trust_domain() {
    let account = |namespace: &str, service_account: &str| ServiceAccountMatch {
        namespace: namespace.into(),
        service_account: service_account.into(),
    };
    let accounts = |of| AuthorizationMatch {
        service_accounts: vec![of],
        ..Default::default()
    };
    let foreign = id("spiffe://elsewhere/ns/shop/sa/web");
    for (matched, fits) in [
        (namespace("shop"), true),
        (namespace("sho"), false),
        (accounts(account("shop", "web")), true),
        (accounts(account("shop", "db")), false),
        (accounts(account("other", "web")), false),
        // Nothing stands for "any".
        (accounts(account("", "web")), false),
        (accounts(account("shop", "*")), false),
    ] {
        let policy = policy(
            "p",
            AuthorizationAction::Allow,
            vec![rule(vec![vec![matched]])],
        );
        for peer in [&web(), &foreign] {
            assert_eq!(
                policy_matches(&policy, &connection(Some(peer))),
                fits,
                "{peer} {policy:?}"
            );
        }
    }
}

#[test]
fn ports_are_those_of_the_application() {
    check_match("the application's", port(8080), true, true);
    check_match("the tunnel's", port(15008), false, false);
    check_match("the service's", port(80), false, false);
    let not = AuthorizationMatch {
        not_destination_ports: vec![8080],
        ..Default::default()
    };
    check_match("not the application's", not, false, false);
}

#[test]
fn blocks_hold_what_their_prefix_says() {
    let block = |text: &str| {
        let (address, len) = text.split_once('/').unwrap();
        AddressRange {
            address: address.parse().unwrap(),
            prefix_len: len.parse().unwrap(),
        }
    };
    // The source is 10.0.0.1, the destination 10.0.0.9.
    for (text, source, destination) in [
        ("10.0.0.1/32", true, false),
        ("10.0.0.0/29", true, false),
        ("10.0.0.8/29", false, true),
        ("10.0.0.0/28", true, true),
        ("0.0.0.0/0", true, true),
        ("::/0", false, false),
        ("::ffff:10.0.0.1/128", false, false),
        ("11.0.0.0/8", false, false),
    ] {
        let ips = vec![block(text)];
        let of_source = AuthorizationMatch {
            source_ips: ips.clone(),
            ..Default::default()
        };
        let not_source = AuthorizationMatch {
            not_source_ips: ips.clone(),
            ..Default::default()
        };
        let of_destination = AuthorizationMatch {
            destination_ips: ips.clone(),
            ..Default::default()
        };
        let not_destination = AuthorizationMatch {
            not_destination_ips: ips,
            ..Default::default()
        };
        check_match(text, of_source, source, source);
        check_match(text, not_source, !source, !source);
        check_match(text, of_destination, destination, destination);
        check_match(text, not_destination, !destination, !destination);
    }
}

/// A dual-stack listener reports IPv4 peers in IPv6 form; a block must not be escaped by that.
#[test]
fn mapped_addresses_count_as_ipv4() {
    let range = AddressRange {
        address: "10.0.0.0".parse().unwrap(),
        prefix_len: 24,
    };
    let matched = AuthorizationMatch {
        source_ips: vec![range],
        destination_ips: vec![range],
        ..Default::default()
    };
    let policy = policy(
        "p",
        AuthorizationAction::Deny,
        vec![rule(vec![vec![matched]])],
    );
    let connection = Connection {
        peer: None,
        source: "::ffff:10.0.0.1".parse().unwrap(),
        destination: "[::ffff:10.0.0.9]:8080".parse().unwrap(),
    };
    assert!(policy_matches(&policy, &connection));
}

proptest! {
    /// Whatever the match, turning one text field into its negative turns a fit of that field into none.
    #[test]
    fn a_field_and_its_negative_are_never_both_true(
        text in "[a-z/]{0,6}", kind in 0..4u8, identified in any::<bool>(),
    ) {
        let matched = match kind {
            0 => StringMatch::Exact(text),
            1 => StringMatch::Prefix(text),
            2 => StringMatch::Suffix(text),
            _ => StringMatch::Presence,
        };
        let positive = AuthorizationMatch { principals: vec![matched.clone()], ..Default::default() };
        let negative = AuthorizationMatch { not_principals: vec![matched], ..Default::default() };
        let web = web();
        let connection = connection(identified.then_some(&web));
        let fits = |matched| {
            let rules = vec![rule(vec![vec![matched]])];
            policy_matches(&policy("p", AuthorizationAction::Allow, rules), &connection)
        };
        prop_assert_ne!(fits(positive), fits(negative));
    }
}
