//! Policies that speak of requests.

use tulle_model::{NamespacedName, PathMatch, RequestMatch, Rules};

use super::*;
use crate::{
    compiled::HttpFacts,
    evaluate::{Asked, Judgement, judge, noted},
};

const ALLOW: AuthorizationAction = AuthorizationAction::Allow;
const DENY: AuthorizationAction = AuthorizationAction::Deny;
const AUDIT: AuthorizationAction = AuthorizationAction::Audit;

fn path(text: &str) -> AuthorizationMatch {
    AuthorizationMatch {
        request: Some(RequestMatch {
            paths: vec![PathMatch::Text(exact(text))],
            ..RequestMatch::default()
        }),
        ..AuthorizationMatch::default()
    }
}

fn key(name: &str) -> NamespacedName {
    NamespacedName::new("shop", name)
}

/// The policies as a node proxy has them: the form for L4 from one resource, the whole from another.
fn as_sent(policies: &[Authorization]) -> Directory {
    let mut directory = directory(policies.iter().map(Authorization::l4_form));
    for policy in policies {
        if policy.exceeds_l4() {
            directory.apply(Change::Rules(Arc::new(Rules::Authorization(
                policy.clone(),
            ))));
        }
    }
    directory
}

fn get(path: &str) -> HttpFacts<'_> {
    HttpFacts {
        method: "GET",
        path,
        authority: "shop.org",
        headers: &[],
    }
}

/// `+` allowed, `-` denied, `?` depends: for no HTTP, for what is not seen yet, for `/a` and for `/b`.
fn check(policies: &[Authorization], expected: &str) {
    let directory = as_sent(policies);
    let web = web();
    let connection = connection(Some(&web));
    let (a, b) = (get("/a"), get("/b"));
    let asked = [
        Asked::NotHttp,
        Asked::Unseen,
        Asked::Http(&a),
        Asked::Http(&b),
    ];
    let shown: String = asked
        .into_iter()
        .map(
            |asked| match judge(&directory, &workload(&[]), &connection, asked) {
                Judgement::Decided(verdict) if verdict.is_allowed() => '+',
                Judgement::Decided(_) => '-',
                Judgement::NeedsRequest => '?',
            },
        )
        .collect();
    assert_eq!(shown, expected, "{policies:?}");
}

#[test]
fn requests_are_judged_when_they_are_seen() {
    let rules = |matches: Vec<Vec<AuthorizationMatch>>| vec![rule(matches)];
    check(&[], "++++");
    check(&[policy("p", ALLOW, rules(vec![vec![path("/a")]]))], "-?+-");
    check(&[policy("p", DENY, rules(vec![vec![path("/a")]]))], "-?-+");
    // Alternatives: one that needs no request.
    check(
        &[policy(
            "p",
            ALLOW,
            vec![rule(vec![vec![path("/a")]]), rule(vec![vec![port(8080)]])],
        )],
        "++++",
    );
    check(
        &[policy(
            "p",
            ALLOW,
            rules(vec![vec![path("/a"), port(8080)]]),
        )],
        "-?++",
    );
    // Conditions that all must hold.
    check(
        &[policy(
            "p",
            ALLOW,
            rules(vec![vec![path("/a")], vec![port(1)]]),
        )],
        "----",
    );
    check(
        &[policy(
            "p",
            DENY,
            rules(vec![vec![path("/a")], vec![port(1)]]),
        )],
        "++++",
    );
    check(
        &[policy(
            "p",
            DENY,
            rules(vec![vec![path("/a")], vec![port(8080)]]),
        )],
        "-?-+",
    );
}

#[test]
fn a_deny_is_asked_before_an_allow() {
    let one =
        |name: &str, action, text: &str| policy(name, action, vec![rule(vec![vec![path(text)]])]);
    let all = |action| policy("all", action, vec![rule(vec![])]);
    check(&[all(ALLOW), one("d", DENY, "/a")], "-?-+");
    check(&[one("p", ALLOW, "/a"), one("d", DENY, "/a")], "-?--");
    check(&[one("p", ALLOW, "/a"), all(DENY)], "----");
    check(
        &[policy("none", ALLOW, vec![]), one("p", ALLOW, "/b")],
        "-?-+",
    );
    check(&[policy("none", ALLOW, vec![])], "----");
    // A match that says nothing is never true.
    check(
        &[policy(
            "p",
            ALLOW,
            vec![rule(vec![vec![AuthorizationMatch::default()]])],
        )],
        "----",
    );
}

#[test]
fn dry_runs_and_audits_only_note() {
    let mut dry = policy("dry", DENY, vec![rule(vec![vec![path("/a")]])]);
    dry.dry_run = true;
    let audit = policy("audit", AUDIT, vec![rule(vec![vec![path("/b")]])]);
    check(&[dry.clone(), audit.clone()], "++++");
    let directory = as_sent(&[dry, audit]);
    let web = web();
    let noted_for = |facts: &HttpFacts<'_>| {
        noted(
            &directory,
            &workload(&[]),
            &connection(Some(&web)),
            Asked::Http(facts),
        )
    };
    assert_eq!(noted_for(&get("/a")), [key("dry")]);
    assert_eq!(noted_for(&get("/b")), [key("audit")]);
    assert!(noted_for(&get("/c")).is_empty());
}

#[test]
fn a_proxy_that_sees_no_requests_allows_less_and_denies_more() {
    let form = |policy: &Authorization| policy.l4_form().rules.len();
    let both = vec![rule(vec![vec![path("/a")]]), rule(vec![vec![port(8080)]])];
    assert_eq!(form(&policy("p", ALLOW, both.clone())), 1);
    let denying = policy("p", DENY, both.clone()).l4_form();
    assert_eq!(denying.rules.len(), 2);
    assert!(!denying.exceeds_l4());
    let auditing = policy("p", AUDIT, both).l4_form();
    assert_eq!((auditing.action, auditing.rules.len()), (DENY, 0));
}
