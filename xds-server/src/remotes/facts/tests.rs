//! Facts that keys say.

use std::sync::Arc;

use tulle_model::WorkloadUid;

use super::*;
use crate::snapshot::tests::workload;

fn fact(name: &str, ip: &str) -> Change {
    Change::Workload(Arc::new(workload(name, ip, None)))
}

fn gone(name: &str) -> Change {
    let uid = WorkloadUid::of_pod(&"koornacht".parse().unwrap(), "shop", name);
    Change::WorkloadGone(uid)
}

#[test]
fn a_fact_is_gone_when_no_key_says_it() {
    let mut facts = Facts::default();
    let mut step = |key: &str, new: Option<Vec<Change>>| {
        let mut out = Vec::new();
        match new {
            Some(new) => facts.replace(key, new, &mut out).unwrap(),
            None => facts.remove(key, &mut out),
        }
        out
    };
    let (a, b) = (fact("a", "10.1.1.1"), fact("b", "10.1.1.2"));
    let changed = fact("a", "10.1.1.9");
    let both = vec![a.clone(), b.clone()];
    assert_eq!(step("1", Some(both.clone())), both);
    // The same again is nothing.
    assert_eq!(step("1", Some(vec![b.clone(), a])), []);
    let next = vec![changed.clone(), b.clone()];
    assert_eq!(step("1", Some(next)), vec![changed.clone()]);
    // A workload moves to another slice: it is never gone.
    assert_eq!(step("2", Some(vec![b.clone()])), vec![b]);
    assert_eq!(step("1", Some(vec![changed])), []);
    assert_eq!(step("2", None), [gone("b")]);
    assert_eq!(step("1", Some(vec![])), [gone("a")]);
    assert_eq!(step("1", None), []);
    assert_eq!(facts.nodes_len(), 0);
}
