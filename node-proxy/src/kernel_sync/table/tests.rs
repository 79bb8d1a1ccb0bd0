//! From a view of the mesh to the kernel's tables.

mod change;
mod choice;
mod history;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use tulle_balance::Ejected;
use tulle_datapath::KernelTable;
use tulle_model::{
    Affinity, Authorization, AuthorizationAction, AuthorizationScope, Change, Directory, Health,
    WorkloadUid,
};

use super::{NodeView, Sources, TableCache, kernel_table};
use crate::{
    config::SameNode,
    kernel_sync::Touched,
    plane::InboundMode,
    testing::{pod, service, serving},
};

fn node() -> NodeView {
    NodeView {
        cluster: "koornacht".parse().unwrap(),
        node: "koornacht-worker".to_owned(),
        same_node: SameNode::Direct,
        inbound: InboundMode::Permissive,
    }
}

fn captured(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|text| text.parse().unwrap()).collect()
}

/// The table as text: `vip/protocol -> backend path, …` and `address path`.
fn lines(table: &KernelTable) -> Vec<String> {
    let frontends = table.frontends.iter().map(|frontend| {
        let backends: Vec<String> = frontend
            .backends
            .iter()
            .map(|b| format!("{} {:?}", b.address, b.path))
            .collect();
        format!("{} -> {}", frontend.address, backends.join(", "))
    });
    let routes = table
        .workloads
        .iter()
        .map(|route| format!("{} {:?}", route.address, route.path));
    frontends.chain(routes).collect()
}

fn policy(scope: AuthorizationScope, namespace: &str) -> Change {
    Change::Policy(Arc::new(Authorization {
        name: "p".to_owned(),
        namespace: namespace.to_owned(),
        scope,
        action: AuthorizationAction::Allow,
        rules: Vec::new(),
        dry_run: false,
    }))
}
