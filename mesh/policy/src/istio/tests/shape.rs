//! Objects that are not of Istio's shape.

use proptest::prelude::*;

use super::{
    authorization_policy::{KIND, check_field, check_source},
    *,
};

#[test]
fn lists_that_look_like_none_and_mean_any_are_refused() {
    check_field("{rules: [{from: []}]}", "spec.rules[0].from");
    check_field("{rules: [{to: []}]}", "spec.rules[0].to");
    check_field("{rules: [{when: []}]}", "spec.rules[0].when");
    check_field(
        "{rules: [{from: [{source: {}}]}]}",
        "spec.rules[0].from[0].source",
    );
    check_field(
        "{rules: [{from: [{source: {principals: []}}]}]}",
        "spec.rules[0].from[0].source",
    );
    check_field("{rules: [{from: [{}]}]}", "spec.rules[0].from[0].source");
    check_field(
        "{rules: [{to: [{operation: {}}]}]}",
        "spec.rules[0].to[0].operation",
    );
    check_field(
        "{rules: [{from: [{source: {principals: ['']}}]}]}",
        "spec.rules[0].from[0].source.principals[0]",
    );
    // Beside a field that says something, Istio takes an empty list for an absent one.
    check_source("{principals: [], namespaces: [a]}", "[ns=a]");
}

#[test]
fn unknown_fields_are_refused() {
    for (spec, field) in [
        ("{rulez: []}", "spec.rulez"),
        ("{rules: [{form: []}]}", "spec.rules[0].form"),
        (
            "{rules: [{from: [{sauce: {}}]}]}",
            "spec.rules[0].from[0].sauce",
        ),
        (
            "{rules: [{from: [{source: {principal: [a]}}]}]}",
            "spec.rules[0].from[0].source.principal",
        ),
        (
            "{rules: [{to: [{operation: {port: ['1']}}]}]}",
            "spec.rules[0].to[0].operation.port",
        ),
        (
            "{selector: {matchExpressions: []}}",
            "spec.selector.matchExpressions",
        ),
        (
            "{selector: {matchLabels: {a: 1}}}",
            "spec.selector.matchLabels.a",
        ),
        ("{action: allow}", "spec.action"),
        ("{rules: {}}", "spec.rules"),
        ("{rules: [7]}", "spec.rules[0]"),
        ("7", "spec"),
    ] {
        check_field(spec, field);
    }
}

/// Any JSON at all: an answer, never a panic.
fn any_json() -> impl Strategy<Value = Value> {
    let names = proptest::sample::select(vec![
        "rules",
        "from",
        "to",
        "when",
        "source",
        "operation",
        "principals",
        "ipBlocks",
        "ports",
        "key",
        "values",
        "selector",
        "matchLabels",
        "action",
        "mtls",
        "mode",
        "portLevelMtls",
        "trustDomains",
        "x",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "(ALLOW|DENY|STRICT|source.ip|10.0.0.1|80|\\*|.{0,5})".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(names.clone(), inner, 0..4)
                .prop_map(|map| map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn any_spec_gets_an_answer(spec in any_json(), peer in any::<bool>()) {
        let mut manifest = object(if peer { "PeerAuthentication" } else { KIND }, "{}");
        manifest["spec"] = spec;
        if let Err(error) = from_istio_yaml(manifest) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
