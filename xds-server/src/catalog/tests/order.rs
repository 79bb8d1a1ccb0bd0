//! The order in which objects are seen does not matter.

use std::collections::BTreeSet;

use proptest::prelude::*;
use tulle_model::Directory;

use super::*;

/// A small world of objects that touch each other.
fn objects() -> Vec<ObjectChange> {
    let strict = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "web", "namespace": "shop"}, "spec": {"selector": {"matchLabels": {"app": "web"}}, "mtls": {"mode": "STRICT"}}});
    let mut moved = pod("p1", "n2", "10.1.2.1");
    moved["status"]["conditions"][0]["status"] = json!("False");
    let mut manual = slice("manual", "web", &[]);
    manual["endpoints"] = json!([{"addresses": ["192.0.2.7"], "nodeName": "n1"}]);
    [
        node("n1", "z1"),
        node("n1", "z2"),
        node("n2", "z1"),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"istio.io/dataplane-mode": "none"}}}),
        pod("p1", "n1", "10.1.1.1"),
        moved,
        pod("p2", "n1", "10.1.1.2"),
        service("web", json!({})),
        service("web", json!({"service.cilium.io/global": "true"})),
        slice("s1", "web", &[("p1", "10.1.1.1", json!({"ready": true})), ("p2", "10.1.1.2", json!({"ready": false}))]),
        slice("s1", "web", &[("p2", "10.1.1.2", json!({"ready": true}))]),
        slice("s2", "other", &[("p1", "10.1.1.1", json!({"ready": true}))]),
        manual,
        strict,
    ]
    .into_iter()
    .map(put)
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    /// Any history of puts and removals ends in the facts of a catalog that sees only the final objects, in any order.
    #[test]
    fn order_of_objects_does_not_matter(steps in prop::collection::vec((0..14usize, any::<bool>(), any::<bool>()), 1..40)) {
        let all = objects();
        let mut catalog = catalog();
        let mut facts = Directory::default();
        let mut last: BTreeMap<ObjectKey, ObjectChange> = BTreeMap::new();
        let mut batch = Vec::new();
        for (which, remove, flush) in steps {
            let change = if remove { gone(&all[which]) } else { all[which].clone() };
            let (ObjectChange::Put(key, _) | ObjectChange::Gone(key)) = &change;
            last.insert(key.clone(), change.clone());
            batch.push(change);
            if flush {
                catalog.apply(std::mem::take(&mut batch)).into_iter().for_each(|c| facts.apply(c));
            }
        }
        catalog.apply(batch).into_iter().for_each(|c| facts.apply(c));
        let mut fresh = self::catalog();
        let mut expected = Directory::default();
        for change in last.into_values().rev() {
            fresh.apply([change]).into_iter().for_each(|c| expected.apply(c));
        }
        prop_assert_eq!(sorted(&facts), sorted(&expected));
        prop_assert_eq!(catalog.placements(), fresh.placements());
        prop_assert_eq!(catalog.warnings(), fresh.warnings());
    }
}

fn sorted(directory: &Directory) -> (Vec<Workload>, Vec<String>, Vec<String>) {
    let workloads: BTreeMap<_, _> = directory
        .workloads()
        .map(|w| (w.uid.clone(), (**w).clone()))
        .collect();
    let services: BTreeSet<String> = directory.services().map(|s| format!("{s:?}")).collect();
    let policies = directory.policies().map(|p| format!("{p:?}")).collect();
    (
        workloads.into_values().collect(),
        services.into_iter().collect(),
        policies,
    )
}
