//! AuthorizationPolicy.

use super::*;
use crate::istio::{ConvertedPolicy, read_authorization_policy};

pub(super) const KIND: &str = "AuthorizationPolicy";

fn convert(manifest: &Value) -> ConvertedPolicy {
    read_authorization_policy(manifest, "root").unwrap()
}

/// Only the rules; action, scope and name have tests of their own.
fn check(action: &str, rule: &str, expected: &str) {
    let manifest = object(KIND, &format!("{{action: {action}, rules: [{rule}]}}"));
    let shown = show(&convert(&manifest).authorization.l4_form());
    assert_eq!(
        shown,
        format!("{action} Namespace shop/p: {expected}"),
        "{rule}"
    );
}

pub(super) fn check_field(spec: &str, field: &str) {
    check_refused(&object(KIND, spec), field);
}

pub(super) fn check_source(source: &str, expected: &str) {
    let rule = format!("{{from: [{{source: {source}}}]}}");
    check("ALLOW", &rule, expected);
    check("DENY", &rule, expected);
}

fn check_when(condition: &str, expected: &str) {
    let rule = format!("{{when: [{condition}]}}");
    check("ALLOW", &rule, expected);
    check("DENY", &rule, expected);
}

#[test]
fn no_rules_and_an_empty_rule() {
    let shown = |spec: &str| show(&convert(&object(KIND, spec)).authorization);
    assert_eq!(shown("{}"), "ALLOW Namespace shop/p: ");
    assert_eq!(shown("null"), "ALLOW Namespace shop/p: ");
    assert_eq!(shown("{rules: []}"), "ALLOW Namespace shop/p: ");
    assert_eq!(shown("{action: DENY}"), "DENY Namespace shop/p: ");
    assert_eq!(shown("{rules: [{}]}"), "ALLOW Namespace shop/p: true");
    assert_eq!(
        shown("{rules: [{}, {}]}"),
        "ALLOW Namespace shop/p: true | true"
    );
}

#[test]
fn the_scope_comes_from_selector_and_namespace() {
    let scope = |namespace: &str, spec: &str| {
        let ConvertedPolicy {
            authorization,
            selector,
            selects_all_namespaces,
            ..
        } = convert(&object_in(namespace, KIND, spec));
        (
            format!("{:?}", authorization.scope),
            selector.map(|labels| labels.len()),
            selects_all_namespaces,
        )
    };
    let labels = "{selector: {matchLabels: {app: db, tier: back}}}";
    assert_eq!(scope("shop", "{}"), ("Namespace".into(), None, false));
    assert_eq!(scope("root", "{}"), ("Global".into(), None, false));
    assert_eq!(
        scope("shop", labels),
        ("WorkloadSelector".into(), Some(2), false)
    );
    assert_eq!(
        scope("root", labels),
        ("WorkloadSelector".into(), Some(2), true)
    );
    assert_eq!(
        scope("shop", "{selector: {}}"),
        ("WorkloadSelector".into(), Some(0), false)
    );
    let of_default_root = from_istio_yaml(object_in("istio-system", KIND, "{}")).unwrap();
    assert_eq!(show(&of_default_root), "ALLOW Global istio-system/p: ");
}

#[test]
fn what_is_for_others_is_passed_over() {
    for (spec, reason) in [
        (
            "{action: CUSTOM, provider: {name: x}, rules: [{}]}",
            "CUSTOM",
        ),
        ("{targetRef: {kind: Gateway, name: w}}", "targets"),
        ("{targetRefs: [{kind: Service, name: w}]}", "targets"),
    ] {
        let error = from_istio_yaml(object(KIND, spec)).expect_err(spec);
        assert!(
            matches!(error, ReadPolicyError::NotForNodeProxies { .. }),
            "{spec}: {error}"
        );
        assert!(
            error.to_string().contains(reason) && error.to_string().contains("shop/p"),
            "{error}"
        );
    }
    // An empty list targets nothing.
    assert!(from_istio_yaml(object(KIND, "{targetRefs: []}")).is_ok());
}

#[test]
fn a_dry_run_is_marked() {
    let convert_annotated = |value: &str| {
        let mut manifest = object(KIND, "{}");
        manifest["metadata"]["annotations"] = serde_json::json!({ "istio.io/dry-run": value });
        let converted = convert(&manifest);
        (converted.authorization.dry_run, converted.warnings.len())
    };
    assert_eq!(convert_annotated("true"), (true, 0));
    assert_eq!(convert_annotated("1"), (true, 0));
    assert_eq!(convert_annotated("false"), (false, 0));
    assert_eq!(
        convert_annotated("yes"),
        (false, 1),
        "unreadable = enforced, and said"
    );
}

#[test]
fn to_from_and_when_are_clauses() {
    let rule = "{from: [{source: {namespaces: [a]}}, {source: {principals: [b]}}],
                 to: [{operation: {ports: ['80']}}, {operation: {notPorts: ['81', '82']}}],
                 when: [{key: source.ip, values: [10.0.0.1]}, {key: destination.ip, notValues: [10.0.0.0/8]}]}";
    let expected =
        "[port=80 or !port=81 82] & [src=10.0.0.1/32] & [!dst=10.0.0.0/8] & [ns=a or principal=b]";
    check("ALLOW", rule, expected);
    check("DENY", rule, expected);
    check(
        "ALLOW",
        "{to: [{operation: {ports: ['0', '65535']}}]}",
        "[port=0 65535]",
    );
}

#[test]
fn values_may_be_exact_prefix_suffix_or_any() {
    check_source(
        "{principals: [abc, 'abc*', '*abc', '*']}",
        "[principal=abc abc... ...abc any]",
    );
    check_source("{notPrincipals: ['*']}", "[!principal=any]");
    check_source(
        "{namespaces: ['a*'], notNamespaces: ['*b']}",
        "[ns=a..., !ns=...b]",
    );
    for bad in ["a*b", "*a*", "**", "a**"] {
        let spec = format!("{{rules: [{{from: [{{source: {{principals: [ok, '{bad}']}}}}]}}]}}");
        check_field(&spec, "spec.rules[0].from[0].source.principals[1]");
    }
}

#[test]
fn addresses_are_single_or_blocks() {
    check_source(
        "{ipBlocks: [1.2.3.4, 10.0.0.0/8, 'fd00::1', 'fd00::/8']}",
        "[src=1.2.3.4/32 10.0.0.0/8 fd00::1/128 fd00::/8]",
    );
    check_source("{notIpBlocks: [0.0.0.0/0]}", "[!src=0.0.0.0/0]");
    // Dropped, as istiod would, the rest of the source would let in from anywhere.
    for bad in [
        "1.2.3",
        "1.2.3.4/33",
        "1.2.3.4/-1",
        "1.2.3.4/+8",
        "1.2.3.4/",
        "fd00::/129",
        "host",
        "1.2.3.4/8/8",
    ] {
        let spec = format!(
            "{{rules: [{{from: [{{source: {{ipBlocks: ['{bad}'], namespaces: [a]}}}}]}}]}}"
        );
        check_field(&spec, "spec.rules[0].from[0].source.ipBlocks[0]");
    }
}

#[test]
fn ports_are_texts_in_range() {
    for bad in [
        "'65536'", "'-1'", "'+80'", "http", "''", "80", "[]", "' 80'",
    ] {
        let spec = format!("{{rules: [{{to: [{{operation: {{ports: ['1', {bad}]}}}}]}}]}}");
        check_field(&spec, "spec.rules[0].to[0].operation.ports[1]");
    }
}

#[test]
fn service_accounts_have_a_namespace() {
    check_source(
        "{serviceAccounts: [web, other/web]}",
        "[sa=shop/web other/web]",
    );
    check_source(
        "{notServiceAccounts: [web], ipBlocks: [1.2.3.4]}",
        "[src=1.2.3.4/32, !sa=shop/web]",
    );
    check_when(
        "{key: source.serviceAccount, values: [web], notValues: [a/b]}",
        "[sa=shop/web, !sa=a/b]",
    );
    for bad in ["'*'", "a/b/c", "/b", "a/", "'web*'"] {
        let spec = format!("{{rules: [{{from: [{{source: {{serviceAccounts: [{bad}]}}}}]}}]}}");
        check_field(&spec, "spec.rules[0].from[0].source.serviceAccounts[0]");
    }
    let at = "spec.rules[0].from[0].source";
    let source = |source: &str| format!("{{rules: [{{from: [{{source: {source}}}]}}]}}");
    check_field(
        &source("{serviceAccounts: [a], namespaces: [b]}"),
        &format!("{at}.serviceAccounts"),
    );
    check_field(
        &source("{notServiceAccounts: [a], notPrincipals: [b]}"),
        &format!("{at}.notServiceAccounts"),
    );
    let many = |n: usize| {
        source(&format!(
            "{{serviceAccounts: [{}]}}",
            vec!["a"; n].join(", ")
        ))
    };
    check_field(&many(17), &format!("{at}.serviceAccounts"));
    assert!(from_istio_yaml(object(KIND, &many(16))).is_ok());
    let long = |n: usize| source(&format!("{{serviceAccounts: [{}]}}", "a".repeat(n)));
    check_field(&long(321), &format!("{at}.serviceAccounts[0]"));
    assert!(from_istio_yaml(object(KIND, &long(320))).is_ok());
}

/// istiod leaves these out, which lets in every trust domain; principals begin with theirs.
#[test]
fn trust_domains_are_held() {
    check_source(
        "{trustDomains: [td, 'a*', '*']}",
        "[principal=td/... a... any]",
    );
    check_source(
        "{notTrustDomains: [td], notPrincipals: [x]}",
        "[!principal=x td/...]",
    );
    check_source(
        "{trustDomains: [td], namespaces: [a]}",
        "[ns=a, principal=td/...]",
    );
    check_source(
        "{trustDomains: [td], principals: ['*/sa/web']}",
        "[principal=.../sa/web] & [principal=td/...]",
    );
    check_when(
        "{key: source.trustDomain, values: [td], notValues: [x]}",
        "[principal=td/..., !principal=x/...]",
    );
    let rule = "{to: [{operation: {ports: ['80']}}],
                 from: [{source: {principals: [x], trustDomains: [td]}}, {source: {namespaces: [a]}}]}";
    check(
        "ALLOW",
        rule,
        "[port=80] & [ns=a] | [port=80] & [principal=x] & [principal=td/...]",
    );
    // "Ends with" cannot be said of a text's beginning.
    check(
        "ALLOW",
        "{from: [{source: {trustDomains: ['*.org'], namespaces: [a]}}]}",
        "",
    );
    check(
        "DENY",
        "{from: [{source: {trustDomains: ['*.org'], namespaces: [a]}}]}",
        "[ns=a]",
    );
}

#[test]
fn conditions_that_a_node_proxy_sees() {
    check_when(
        "{key: source.ip, values: [1.2.3.4], notValues: [1.0.0.0/8]}",
        "[src=1.2.3.4/32, !src=1.0.0.0/8]",
    );
    check_when("{key: source.namespace, values: ['a*']}", "[ns=a...]");
    check_when(
        "{key: source.principal, notValues: ['*']}",
        "[!principal=any]",
    );
    check_when(
        "{key: destination.ip, values: [1.2.3.4]}",
        "[dst=1.2.3.4/32]",
    );
    check_when("{key: destination.port, values: ['80']}", "[port=80]");
    let field = |condition: &str, field: &str| {
        check_field(
            &format!("{{rules: [{{when: [{condition}]}}]}}"),
            &format!("spec.rules[0].when[0]{field}"),
        );
    };
    field("{values: [a]}", ".key");
    field("{key: source.ip}", "");
    field("{key: source.ip, values: [], notValues: []}", "");
    field("{key: source.ip, values: [x]}", ".values[0]");
    field("{key: no.such.key, values: [x]}", ".key");
    field("{key: source.ip, values: [1.2.3.4], more: 1}", ".more");
}

/// Rule by rule: what only HTTP shows is never read as if it were not there in an ALLOW.
#[test]
fn http_narrows_allow_and_widens_deny() {
    let l7_sources = [
        "remoteIpBlocks",
        "notRemoteIpBlocks",
        "requestPrincipals",
        "notRequestPrincipals",
    ];
    for name in l7_sources {
        let rule = format!("{{from: [{{source: {{namespaces: [a], {name}: [x]}}}}]}}");
        check("ALLOW", &rule, "");
        check("DENY", &rule, "[ns=a]");
        let alone = format!("{{from: [{{source: {{{name}: [x]}}}}]}}");
        check("ALLOW", &alone, "");
        check("DENY", &alone, "[never]");
    }
    for name in [
        "hosts",
        "notHosts",
        "methods",
        "notMethods",
        "paths",
        "notPaths",
    ] {
        let rule = format!("{{to: [{{operation: {{ports: ['80'], {name}: [x]}}}}]}}");
        check("ALLOW", &rule, "");
        check("DENY", &rule, "[port=80]");
        // As in istiod: a DENY of which nothing is left does nothing.
        let alone = format!("{{to: [{{operation: {{{name}: [x]}}}}]}}");
        check("ALLOW", &alone, "");
        check("DENY", &alone, "[never]");
    }
    let keys = [
        "'request.headers[x]'",
        "remote.ip",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "'request.auth.claims[a][b]'",
        "connection.sni",
        "'experimental.envoy.filters.a.b[c]'",
    ];
    for key in keys {
        let rule = format!(
            "{{from: [{{source: {{namespaces: [a]}}}}], when: [{{key: {key}, values: [x]}}]}}"
        );
        check("ALLOW", &rule, "");
        check("DENY", &rule, "[never] & [ns=a]");
    }
    // Other rules of the policy stay.
    let two = "{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {ports: ['80']}}]}";
    check("ALLOW", two, "[port=80]");
    check("DENY", two, "[never] | [port=80]");
}

#[test]
fn what_is_left_out_is_said() {
    let warning = |action: &str, rules: &str| {
        let spec = format!("{{action: {action}, rules: [{rules}]}}");
        convert(&object(KIND, &spec)).warnings.join("; ")
    };
    let tokens = "{from: [{source: {requestPrincipals: [x], remoteIpBlocks: [10.0.0.1]}}]}";
    let seen = "node proxies do not see remoteIpBlocks, requestPrincipals; ";
    assert_eq!(
        warning("ALLOW", tokens),
        format!("{seen}rules with them are left out: less is allowed than written")
    );
    assert_eq!(
        warning("AUDIT", tokens),
        format!("{seen}rules with them are left out: less is noted than written")
    );
    assert_eq!(
        warning("DENY", tokens),
        format!("{seen}nothing else is left: the policy has no effect")
    );
    let with_namespace =
        "{from: [{source: {requestPrincipals: [x], remoteIpBlocks: [10.0.0.1], namespaces: [a]}}]}";
    assert_eq!(
        warning("DENY", with_namespace),
        format!("{seen}rules are held without them: more is denied than written")
    );
    assert_eq!(warning("ALLOW", "{}"), "");
    assert_eq!(
        warning("ALLOW", "{to: [{operation: {methods: [GET]}}]}"),
        ""
    );
}

#[test]
fn what_requests_must_be_is_held_in_full() {
    let request = |rule: &str| {
        let manifest = object(KIND, &format!("{{rules: [{rule}]}}"));
        let policy = convert(&manifest).authorization;
        assert!(policy.exceeds_l4(), "{rule}");
        let clause = policy.rules[0].clauses[0].clone();
        clause.matches[0].request.clone().unwrap()
    };
    let exact = |text: &str| StringMatch::Exact(text.to_owned());
    let read = request(
        "{to: [{operation: {hosts: [a.org, '*.b.org'], notHosts: ['x*'], methods: [GET], notMethods: ['*'], paths: [/a, '/b*', '/c/{*}/{**}'], notPaths: [/d]}}]}",
    );
    assert_eq!(
        read.hosts,
        [exact("a.org"), StringMatch::Suffix(".b.org".to_owned())]
    );
    assert_eq!(read.not_hosts, [StringMatch::Prefix("x".to_owned())]);
    assert_eq!(read.methods, [exact("GET")]);
    assert_eq!(read.not_methods, [StringMatch::Presence]);
    let text = |m: StringMatch| PathMatch::Text(m);
    assert_eq!(
        read.paths,
        [
            text(exact("/a")),
            text(StringMatch::Prefix("/b".to_owned())),
            PathMatch::Template("/c/{*}/{**}".to_owned()),
        ]
    );
    assert_eq!(read.not_paths, [text(exact("/d"))]);
    let read = request("{when: [{key: 'request.headers[X-Key]', values: [a], notValues: ['b*']}]}");
    assert_eq!(
        read.headers,
        [HeaderCondition {
            name: "x-key".to_owned(),
            values: vec![exact("a")],
            not_values: vec![StringMatch::Prefix("b".to_owned())],
        }]
    );
    let path = |path: &str, expected: &str| {
        let spec = format!("{{rules: [{{to: [{{operation: {{paths: ['{path}']}}}}]}}]}}");
        let error = from_istio_yaml(object(KIND, &spec)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "AuthorizationPolicy shop/p: field spec.rules[0].to[0].operation.paths[0] holds \"{path}\", expected {expected}"
            )
        );
    };
    let whole = "a template whose operators {*} and {**} are whole segments";
    path("/a/{x}", whole);
    path("/a/{*}b", whole);
    path("/a*/{*}", whole);
    path("/{**}/{*}", "no operator behind {**}");
    path("/{**}/{**}", "no operator behind {**}");
    path("/a*b", "at most one '*', at the beginning or at the end");
    check_field(
        "{rules: [{when: [{key: 'request.headers[]', values: [x]}]}]}",
        "spec.rules[0].when[0].key",
    );
    check_field(
        "{rules: [{when: [{key: 'request.headersx', values: [x]}]}]}",
        "spec.rules[0].when[0].key",
    );
}

#[test]
fn an_audit_is_held_and_does_nothing_at_l4() {
    let converted = convert(&object(KIND, "{action: AUDIT, rules: [{}]}"));
    assert_eq!(
        show(&converted.authorization),
        "AUDIT Namespace shop/p: true"
    );
    assert!(converted.authorization.exceeds_l4());
    assert_eq!(
        show(&converted.authorization.l4_form()),
        "DENY Namespace shop/p: "
    );
}
