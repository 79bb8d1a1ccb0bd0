//! The verdict over all policies that speak of a workload.

use proptest::{collection::vec, prelude::*, sample::select};
use tulle_model::NamespacedName;

use super::*;

const ALLOW: AuthorizationAction = AuthorizationAction::Allow;
const DENY: AuthorizationAction = AuthorizationAction::Deny;

fn key(name: &str) -> NamespacedName {
    NamespacedName::new("shop", name)
}

fn fitting() -> Vec<AuthorizationRule> {
    vec![rule(vec![])]
}

fn failing() -> Vec<AuthorizationRule> {
    vec![rule(vec![vec![namespace("elsewhere")]])]
}

fn allowed(by: Option<&str>) -> Verdict {
    Verdict::Allowed { by: by.map(key) }
}

fn denied(by: DenyReason) -> Verdict {
    Verdict::Denied { by }
}

fn check(named: &[&str], policies: Vec<Authorization>, expected: Verdict) {
    let text = format!("{policies:?}");
    let verdict = authorize(
        &directory(policies),
        &workload(named),
        &connection(Some(&web())),
    );
    assert_eq!(
        verdict.is_allowed(),
        matches!(expected, Verdict::Allowed { .. })
    );
    assert_eq!(verdict, expected, "{text}");
}

#[test]
fn without_policies_all_is_allowed() {
    check(&[], vec![], allowed(None));
}

#[test]
fn without_allow_policies_all_that_is_not_denied_is_allowed() {
    check(&[], vec![policy("d", DENY, failing())], allowed(None));
    check(&[], vec![policy("d", DENY, vec![])], allowed(None));
}

#[test]
fn a_matching_deny_refuses_whatever_allows() {
    let reason = || denied(DenyReason::Policy(key("d")));
    check(&[], vec![policy("d", DENY, fitting())], reason());
    check(
        &[],
        vec![policy("a", ALLOW, fitting()), policy("d", DENY, fitting())],
        reason(),
    );
    check(
        &[],
        vec![policy("z", ALLOW, fitting()), policy("d", DENY, fitting())],
        reason(),
    );
}

#[test]
fn with_allow_policies_one_of_them_must_match() {
    let none = || denied(DenyReason::NoAllowMatched);
    check(&[], vec![policy("a", ALLOW, fitting())], allowed(Some("a")));
    check(&[], vec![policy("a", ALLOW, failing())], none());
    check(
        &[],
        vec![policy("a", ALLOW, failing()), policy("b", ALLOW, fitting())],
        allowed(Some("b")),
    );
    check(
        &[],
        vec![policy("a", ALLOW, failing()), policy("d", DENY, failing())],
        none(),
    );
    check(
        &[],
        vec![policy("a", ALLOW, fitting()), policy("d", DENY, failing())],
        allowed(Some("a")),
    );
}

#[test]
fn rules_that_say_nothing() {
    let none = || denied(DenyReason::NoAllowMatched);
    let empty_match = || vec![rule(vec![vec![AuthorizationMatch::default()]])];
    check(&[], vec![policy("a", ALLOW, vec![])], none());
    check(&[], vec![policy("a", ALLOW, empty_match())], none());
    check(&[], vec![policy("d", DENY, empty_match())], allowed(None));
}

#[test]
fn a_dry_run_decides_nothing() {
    let dry = |policy| Authorization {
        dry_run: true,
        ..policy
    };
    check(&[], vec![dry(policy("d", DENY, fitting()))], allowed(None));
    check(&[], vec![dry(policy("a", ALLOW, failing()))], allowed(None));
    check(
        &[],
        vec![
            dry(policy("a", ALLOW, fitting())),
            policy("b", ALLOW, failing()),
        ],
        denied(DenyReason::NoAllowMatched),
    );
    check(
        &["shop/d"],
        vec![dry(policy("d", DENY, fitting()))],
        allowed(None),
    );
}

#[test]
fn the_scope_says_whom_a_policy_reaches() {
    let scoped = |namespace: &str, scope| Authorization {
        namespace: namespace.to_owned(),
        scope,
        ..policy("d", DENY, fitting())
    };
    let from = |namespace: &str| denied(DenyReason::Policy(NamespacedName::new(namespace, "d")));
    check(
        &[],
        vec![scoped("shop", AuthorizationScope::Namespace)],
        from("shop"),
    );
    check(
        &[],
        vec![scoped("other", AuthorizationScope::Namespace)],
        allowed(None),
    );
    check(
        &[],
        vec![scoped("root", AuthorizationScope::Global)],
        from("root"),
    );
    // A selector reaches a workload only when the workload names the policy.
    check(
        &[],
        vec![scoped("shop", AuthorizationScope::WorkloadSelector)],
        allowed(None),
    );
    check(
        &["shop/d"],
        vec![scoped("shop", AuthorizationScope::WorkloadSelector)],
        from("shop"),
    );
    check(
        &["root/d"],
        vec![scoped("root", AuthorizationScope::WorkloadSelector)],
        from("root"),
    );
}

/// The policy may be a DENY that has not come yet, or one that was refused: letting in would be a guess.
#[test]
fn an_unknown_named_policy_refuses() {
    let unknown = |namespace: &str, name: &str| {
        denied(DenyReason::UnknownPolicy(NamespacedName::new(
            namespace, name,
        )))
    };
    check(&["shop/gone"], vec![], unknown("shop", "gone"));
    check(
        &["shop/gone"],
        vec![policy("a", ALLOW, fitting())],
        unknown("shop", "gone"),
    );
    check(
        &["shop/a", "shop/gone"],
        vec![policy("a", ALLOW, fitting())],
        unknown("shop", "gone"),
    );
    check(&["shop/gone", "shop/lost"], vec![], unknown("shop", "gone"));
    check(&["not a key"], vec![], unknown("", "not a key"));
    check(&["a/b/c"], vec![], unknown("", "a/b/c"));
    check(&[""], vec![], unknown("", ""));
    // A known refusal says more.
    let known = denied(DenyReason::Policy(key("d")));
    check(&["shop/gone"], vec![policy("d", DENY, fitting())], known);
}

#[test]
fn strict_refuses_plain_text_only() {
    let plain = AuthorizationMatch {
        not_principals: vec![StringMatch::Presence],
        ..Default::default()
    };
    let directory = directory([policy("strict", DENY, vec![rule(vec![vec![plain]])])]);
    let workload = workload(&[]);
    assert!(authorize(&directory, &workload, &connection(Some(&web()))).is_allowed());
    let verdict = authorize(&directory, &workload, &connection(None));
    assert_eq!(verdict, denied(DenyReason::Policy(key("strict"))));
}

#[test]
fn reasons_are_named_and_said() {
    for (reason, name, text) in [
        (
            DenyReason::Policy(key("d")),
            "policy",
            "explicitly denied by shop/d",
        ),
        (
            DenyReason::NoAllowMatched,
            "no_allow_matched",
            "allow policies exist, but none allowed",
        ),
        (
            DenyReason::UnknownPolicy(key("g")),
            "unknown_policy",
            "policy shop/g is named by the workload but unknown",
        ),
    ] {
        assert_eq!((reason.name(), reason.to_string().as_str()), (name, text));
    }
}

prop_compose! {
    fn any_policy()(
        name in "[a-d]", namespace in select(vec!["shop", "other", "root"]), is_deny in any::<bool>(),
        scope in select(vec![
            AuthorizationScope::Global, AuthorizationScope::Namespace, AuthorizationScope::WorkloadSelector,
        ]),
        fits in any::<bool>(), dry_run in any::<bool>(),
    ) -> Authorization {
        let rules = if fits { fitting() } else { failing() };
        let action = if is_deny { DENY } else { ALLOW };
        Authorization { namespace: namespace.to_owned(), scope, dry_run, ..policy(&name, action, rules) }
    }
}

proptest! {
    /// The decision as the reference words it, over a plain list, agrees with the indexed one.
    #[test]
    fn the_verdict_is_that_of_the_plain_rule(
        policies in vec(any_policy(), 0..12), named in vec("(shop|other|root)/[a-e]", 0..3),
    ) {
        let directory = directory(policies);
        let names: Vec<&str> = named.iter().map(String::as_str).collect();
        let workload = workload(&names);
        let speaks = |p: &&Arc<Authorization>| {
            let by_scope = match p.scope {
                AuthorizationScope::Global => true,
                AuthorizationScope::Namespace => p.namespace == "shop",
                AuthorizationScope::WorkloadSelector => false,
            };
            !p.dry_run && (by_scope || named.contains(&p.key().to_string()))
        };
        let all: Vec<_> = directory.policies().filter(speaks).collect();
        let fits = |p: &&&Arc<Authorization>| p.rules == fitting();
        let denies = all.iter().filter(|p| p.action == DENY).any(|p| fits(&p));
        let mut allows = all.iter().filter(|p| p.action == ALLOW).peekable();
        let unknown = named.iter().any(|n| directory.policy(&n.parse().unwrap()).is_none());
        let expected = !denies && !unknown && (allows.peek().is_none() || allows.any(|p| fits(&p)));
        let verdict = authorize(&directory, &workload, &connection(Some(&web())));
        prop_assert_eq!(verdict.is_allowed(), expected, "{:?}", verdict);
    }

    /// One more DENY never lets anything in.
    #[test]
    fn a_further_deny_never_opens(policies in vec(any_policy(), 0..8), more in any_policy()) {
        let more = Authorization { action: DENY, name: "further".to_owned(), ..more };
        let before = authorize(&directory(policies.clone()), &workload(&[]), &connection(Some(&web())));
        let after = authorize(
            &directory(policies.into_iter().chain([more])), &workload(&[]), &connection(Some(&web())),
        );
        prop_assert!(before.is_allowed() || !after.is_allowed());
    }
}
