//! Policies of all languages, and what stands in them.

use std::sync::Arc;

use serde_json::{Value, json};
use tulle_model::{
    Authorization, AuthorizationAction, AuthorizationClause, AuthorizationMatch, AuthorizationRule,
    AuthorizationScope, Change, Directory, HttpRule, NamePattern, PathMatch, RequestMatch, Rules,
    StringMatch,
};
use tulle_policy::{
    DefaultCluster, ReadPolicy, ReadPolicyError, ReadSettings, compiled::HttpFacts,
    l7::HttpMatcher, names::matches_name, read_name_pattern, read_policy, read_policy_file,
};
use tulle_wire::{Message as _, decode_rules, encode_rules};

/// A file of policies.
pub(super) fn policy_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for (number, result) in read_policy_file(text, &settings(DefaultCluster::Any)) {
        assert!(number > 0);
        check(result);
    }
}

/// One object, as the API server has it.
pub(super) fn object(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    for default_cluster in [DefaultCluster::Any, DefaultCluster::Local] {
        check(read_policy(&value, &settings(default_cluster)));
    }
}

fn settings(default_cluster: DefaultCluster) -> ReadSettings {
    ReadSettings {
        cluster: "koornacht".parse().expect("a name"),
        default_cluster,
    }
}

/// What was read arrives at the node proxies as it was read; what was refused has a reason in one line.
fn check(result: Result<ReadPolicy, ReadPolicyError>) {
    let rules = match result {
        Ok(ReadPolicy::Rules(read)) => Rules::Network(read.rules),
        Ok(ReadPolicy::Authorization(converted)) => {
            assert!(!converted.authorization.l4_form().exceeds_l4());
            Rules::Authorization(converted.authorization)
        }
        Ok(ReadPolicy::PeerAuthentication(_)) => return,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let bytes = encode_rules(&rules).encode_to_vec();
    let read = decode_rules(&bytes).expect("what was written is read");
    assert_eq!(read, rules);
}

/// A pattern in its form is its own form, and names are held against it.
pub(super) fn name_pattern(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (pattern, name) = text.split_once('\n').unwrap_or((text, "a.b."));
    let Some(read) = read_name_pattern(pattern) else {
        return;
    };
    let (NamePattern::Exact(form) | NamePattern::Pattern(form)) = &read;
    assert_eq!(read_name_pattern(form).as_ref(), Some(&read));
    let fits = matches_name(&read, name);
    assert_eq!(fits, matches_name(&read, &name.to_ascii_uppercase()));
    if let NamePattern::Exact(exact) = &read {
        assert!(matches_name(&read, exact));
    }
}

/// An expression, and a value that it is held against.
pub(super) fn http_rule(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (expression, value) = text.split_once('\n').unwrap_or((text, "/"));
    let rule = HttpRule {
        path: Some(expression.to_owned()),
        ..HttpRule::default()
    };
    let facts = HttpFacts {
        method: "GET",
        path: value,
        authority: "x",
        headers: &[],
    };
    let matched = HttpMatcher::new(std::slice::from_ref(&rule)).matches(&facts);
    // Beside another rule it means the same.
    let other = HttpRule {
        method: Some("POST".to_owned()),
        ..HttpRule::default()
    };
    assert_eq!(HttpMatcher::new(&[other, rule]).matches(&facts), matched);
}

/// Whatever an `ALLOW` for a path lets in, a `DENY` for it refuses: no reading of a path fits between the two.
pub(super) fn istio_request(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (wanted, path) = text.split_once('\n').unwrap_or((text, "/"));
    let wanted = if wanted.contains('{') {
        PathMatch::Template(wanted.to_owned())
    } else {
        PathMatch::Text(StringMatch::Prefix(wanted.to_owned()))
    };
    let allowed = passes(AuthorizationAction::Allow, &wanted, path);
    let refused = !passes(AuthorizationAction::Deny, &wanted, path);
    assert!(refused || !allowed, "{wanted:?} {path:?}");
}

fn passes(action: AuthorizationAction, wanted: &PathMatch, path: &str) -> bool {
    let request = RequestMatch {
        paths: vec![wanted.clone()],
        ..RequestMatch::default()
    };
    let matched = AuthorizationMatch {
        request: Some(request),
        ..AuthorizationMatch::default()
    };
    let policy = Authorization {
        name: "p".to_owned(),
        namespace: "shop".to_owned(),
        scope: AuthorizationScope::Global,
        action,
        rules: vec![AuthorizationRule {
            clauses: vec![AuthorizationClause {
                matches: vec![matched],
            }],
        }],
        dry_run: false,
    };
    let mut directory = Directory::default();
    directory.apply(Change::Policy(Arc::new(policy)));
    let facts = HttpFacts {
        method: "GET",
        path,
        authority: "x",
        headers: &[],
    };
    super::values::judge_request(&directory, &facts)
}

pub(super) fn cilium_seeds() -> Vec<Vec<u8>> {
    let object = |spec: Value| {
        json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "p", "namespace": "shop"}, "spec": spec,
        })
    };
    let everything = json!({
        "endpointSelector": {"matchLabels": {"k8s:app": "web"}, "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["a"]}]},
        "enableDefaultDeny": {"ingress": false, "egress": true},
        "ingress": [{}, {"fromEndpoints": [{}], "authentication": {"mode": "required"}}, {"fromEntities": ["world"], "icmps": [{"fields": [{"type": 8, "family": "IPv4"}]}]}],
        "ingressDeny": [{"fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]}],
        "egress": [
            {"toFQDNs": [{"matchPattern": "*.example.com"}], "toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}], "serverNames": ["*.example.com"]}]},
            {"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"method": "GET", "path": "/v1/.*", "headers": ["X-Key: a"], "headerMatches": [{"name": "b", "value": "c", "mismatch": "ADD"}]}]}}]},
            {"toServices": [{"k8sService": {"serviceName": "api"}}], "toPorts": [{"ports": [{"port": "53", "endPort": 53}], "rules": {"dns": [{"matchName": "a.b"}]}}]},
        ],
        "egressDeny": [{"toCIDR": ["192.0.2.1"], "toPorts": [{"ports": [{"port": "1", "endPort": 9}]}]}],
    });
    bytes([
        object(everything),
        object(json!({"endpointSelector": {}, "ingress": [{}]})),
    ])
}

pub(super) fn kubernetes_seeds() -> Vec<Vec<u8>> {
    bytes([json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "web"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {}, "namespaceSelector": {"matchLabels": {"a": "b"}}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], "ports": [{"port": 80, "endPort": 90, "protocol": "TCP"}, {"port": "http"}]}],
            "egress": [{}],
        },
    })])
}

pub(super) fn istio_seeds() -> Vec<Vec<u8>> {
    let object = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "security.istio.io/v1", "kind": kind,
            "metadata": {"name": "p", "namespace": "shop", "annotations": {"istio.io/dry-run": "true"}}, "spec": spec,
        })
    };
    bytes([
        object(
            "AuthorizationPolicy",
            json!({
                "selector": {"matchLabels": {"app": "web"}}, "action": "DENY",
                "rules": [{
                    "from": [{"source": {"principals": ["td/ns/a/sa/*"], "notNamespaces": ["*b"], "ipBlocks": ["10.0.0.0/8"], "trustDomains": ["td"]}}],
                    "to": [{"operation": {"hosts": ["*.x.org"], "methods": ["GET"], "paths": ["/a/{*}/{**}", "/b*"], "notPorts": ["80"]}}],
                    "when": [{"key": "request.headers[x-key]", "values": ["a*"], "notValues": ["*"]}, {"key": "source.ip", "values": ["::/0"]}],
                }],
            }),
        ),
        object(
            "AuthorizationPolicy",
            json!({"action": "AUDIT", "rules": [{}]}),
        ),
        object(
            "PeerAuthentication",
            json!({
                "selector": {"matchLabels": {"app": "web"}}, "mtls": {"mode": "STRICT"}, "portLevelMtls": {"80": {"mode": "PERMISSIVE"}},
            }),
        ),
    ])
}

fn bytes(values: impl IntoIterator<Item = Value>) -> Vec<Vec<u8>> {
    values
        .into_iter()
        .map(|value| value.to_string().into_bytes())
        .collect()
}

pub(super) fn name_seeds() -> Vec<Vec<u8>> {
    [
        "*.example.com\na.example.com.",
        "**.x.org\na.b.x.org",
        "*",
        "a*b**c.d\nab.d",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

pub(super) fn http_seeds() -> Vec<Vec<u8>> {
    [
        "/v1/.*\n/v1/x?y=z",
        "GET|PUT\nGET",
        "(a*)*b\naaaaaaaaaaaaaaaaaaaaaaaaaaaac",
        "(?i)[^[:space:]]{1,9}\nAbc",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

pub(super) fn request_seeds() -> Vec<Vec<u8>> {
    [
        "/admin\n/x/../admin",
        "/a/{*}/{**}\n/a/b//c",
        "/public/\n/public/%2e%2e/admin\\x",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

/// The words of all languages.
pub(super) const WORDS: &[&str] = &[
    "\"endpointSelector\"",
    "\"matchLabels\"",
    "\"matchExpressions\"",
    "\"ingress\"",
    "\"egressDeny\"",
    "\"toPorts\"",
    "\"ports\"",
    "\"port\"",
    "\"endPort\"",
    "\"protocol\"",
    "\"TCP\"",
    "\"ANY\"",
    "\"rules\"",
    "\"http\"",
    "\"dns\"",
    "\"fromEndpoints\"",
    "\"toFQDNs\"",
    "\"toEntities\"",
    "\"world\"",
    "\"cidr\"",
    "\"except\"",
    "\"::/0\"",
    "\"10.0.0.0/8\"",
    "\"from\"",
    "\"to\"",
    "\"when\"",
    "\"key\"",
    "\"values\"",
    "null",
    "true",
    "{}",
    "[]",
    "[{}]",
    ",",
    ":",
    "{",
    "}",
    "[",
    "]",
    "\n",
    "  ",
    "- ",
    "---\n",
    "&a ",
    "*a",
    "<<: ",
    "!!str ",
    "k8s:",
    "reserved:host",
];
