use std::collections::BTreeSet;

use tulle_model::{Directory, WorkloadUid};
use tulle_policy::compiled::{
    Compiler, CompilerSettings, IdentityId, LearnedNames, Limits, PolicyTouched, PolicyUpdate,
};

use super::may_narrow;
use crate::testing::{Fixture, pod};

#[test]
fn only_what_may_end_a_connection_has_them_all_looked_at() {
    let mut mesh = Fixture::default();
    mesh.add_pod(pod("koornacht", "default", "a", &["10.0.0.1"]));
    mesh.add_pod(pod("koornacht", "default", "b", &["10.0.0.2"]));
    let mut compiler = Compiler::new(CompilerSettings {
        cluster: "koornacht".parse().unwrap(),
        node: "koornacht-worker".to_owned(),
        limits: Limits::default(),
    });
    let mut update = |directory: &Directory, touched: PolicyTouched, subjects: &[&str]| {
        let subject = |name| WorkloadUid::of_pod(&"koornacht".parse().unwrap(), "default", name);
        let subjects: BTreeSet<WorkloadUid> = subjects.iter().map(|name| subject(name)).collect();
        let before = compiler.policy();
        let names = LearnedNames::default();
        let update = compiler.update(directory, &subjects, &names, &touched);
        (may_narrow(&update, &before), compiler.policy())
    };
    let everything = PolicyTouched {
        everything: true,
        ..PolicyTouched::default()
    };
    // A captured pod that is new may have had connections before.
    let (narrows, policy) = update(&mesh.directory(), everything.clone(), &["a"]);
    assert!(narrows);
    let other = |identity| PolicyUpdate {
        identities: vec![("10.0.0.2".parse().unwrap(), identity)],
        ..PolicyUpdate::default()
    };
    let known = policy.identity_of("10.0.0.2".parse().unwrap(), true);
    assert!(!may_narrow(&other(known.unwrap()), &policy));
    assert!(may_narrow(&other(IdentityId(4_711)), &policy));
    // One more of a kind that is known brings an address that nobody had.
    mesh.add_pod(pod("koornacht", "default", "c", &["10.0.0.3"]));
    let (narrows, _) = update(&mesh.directory(), everything, &["a"]);
    assert!(!narrows);
}
