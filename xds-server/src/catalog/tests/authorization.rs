//! Policies that workloads are bound to.

use tulle_model::Directory;

use super::*;

#[test]
fn selectors_bind_workloads() {
    let policy = |name: &str, app: Option<&str>| {
        let selector = app.map(|a| json!({"matchLabels": {"app": a}}));
        let mut spec = json!({"rules": [{}]});
        if let Some(selector) = selector {
            spec["selector"] = selector;
        }
        json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
    };
    let strict = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "default", "namespace": "shop"}, "spec": {"mtls": {"mode": "STRICT"}}});
    let mut catalog = catalog();
    let mut directory = Directory::default();
    let mut apply = |changes: Vec<ObjectChange>| {
        catalog
            .apply(changes)
            .into_iter()
            .for_each(|c| directory.apply(c));
        let bound: Vec<String> = directory
            .workloads()
            .flat_map(|w| w.authorization_policies.clone())
            .collect();
        let known: Vec<String> = directory.policies().map(|p| p.key().to_string()).collect();
        (bound, known)
    };
    let chosen = put(policy("web-only", Some("web")));
    let (bound, known) = apply(vec![
        put(pod("p", "n1", "10.1.1.1")),
        chosen.clone(),
        put(policy("other", Some("db"))),
        put(policy("all", None)),
    ]);
    assert_eq!(bound, ["shop/web-only"]);
    assert_eq!(known, ["shop/all", "shop/other", "shop/web-only"]);
    let (bound, known) = apply(vec![put(strict.clone())]);
    assert_eq!(
        bound,
        [
            "istio-system/istio_converted_static_strict",
            "shop/web-only"
        ]
    );
    assert!(known.contains(&"istio-system/istio_converted_static_strict".to_owned()));
    let (bound, known) = apply(vec![gone(&chosen), gone(&put(strict))]);
    assert_eq!(bound, [""; 0]);
    assert_eq!(known, ["shop/all", "shop/other"]);
}

#[test]
fn a_policy_that_speaks_of_requests_travels_in_full_beside_its_form_for_l4() {
    let policy = |operation: serde_json::Value| {
        put(
            json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": "shop"},
            "spec": {"rules": [{"to": [{"operation": operation}]}]}}),
        )
    };
    let mut catalog = catalog();
    let mut directory = Directory::default();
    let mut apply = |change: ObjectChange| {
        let facts = catalog.apply([change]);
        facts.into_iter().for_each(|c| directory.apply(c));
        let rules = directory.rules().map(|rules| rules.key().to_string());
        (directory.policies().count(), rules.collect::<Vec<_>>())
    };
    let with_requests = policy(json!({"methods": ["GET"]}));
    let full = vec!["istio/shop/p".to_owned()];
    assert_eq!(apply(with_requests.clone()), (1, full.clone()));
    assert_eq!(apply(policy(json!({"ports": ["80"]}))), (1, vec![]));
    assert_eq!(apply(with_requests.clone()), (1, full));
    assert_eq!(apply(gone(&with_requests)), (0, vec![]));
}
