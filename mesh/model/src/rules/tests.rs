use super::*;

#[test]
fn keys_come_back_as_they_were_written() {
    for text in [
        "cilium/default/deny",
        "kubernetes/a/b",
        "cilium//everywhere",
        "istio/x/y",
    ] {
        let key: RulesKey = text.parse().unwrap();
        assert_eq!(key.to_string(), text);
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<RulesKey>(&json).unwrap(), key);
    }
}

#[test]
fn what_is_no_key_is_refused_in_one_sentence() {
    for text in ["", "cilium", "cilium/x", "cilium/x/", "calico/x/y"] {
        let error = text.parse::<RulesKey>().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{text:?} is no policy: expected <language>/<namespace>/<name>")
        );
    }
}

#[test]
fn a_selector_needs_all_of_its_requirements() {
    let requirement = |name: &str, operator| Requirement {
        key: LabelKey {
            source: LabelSource::Any,
            name: name.to_owned(),
        },
        operator,
    };
    let values = |text: &str| text.split(',').map(str::to_owned).collect();
    let labels = |key: &LabelKey| (key.name == "app").then_some("web");
    let check = |requirements, expected| {
        let selector = Selector { requirements };
        assert_eq!(selector.matches(labels), expected, "{selector:?}");
    };
    check(vec![], true);
    check(
        vec![requirement("app", Operator::In(values("db,web")))],
        true,
    );
    check(
        vec![requirement("app", Operator::NotIn(values("web")))],
        false,
    );
    check(
        vec![requirement("tier", Operator::NotIn(values("web")))],
        true,
    );
    check(vec![requirement("tier", Operator::Exists)], false);
    check(
        vec![
            requirement("tier", Operator::DoesNotExist),
            requirement("app", Operator::Exists),
        ],
        true,
    );
}
