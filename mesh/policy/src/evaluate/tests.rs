//! One test for each sentence of the semantics; sources: Istio's AuthorizationPolicy reference and ztunnel's `rbac.rs`.

mod decision;
mod matching;
mod requests;

use std::sync::Arc;

use tulle_model::{
    Authorization, AuthorizationAction, AuthorizationClause, AuthorizationMatch, AuthorizationRule,
    AuthorizationScope, Change, Directory, Health, Locality, SpiffeId, StringMatch, Text,
    TunnelProtocol, Workload, WorkloadKind, WorkloadUid,
};

use super::{Connection, DenyReason, Verdict, authorize, policy_matches};

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

/// The client of most tests: `td/ns/shop/sa/web` at 10.0.0.1, to port 8080 of 10.0.0.9.
fn web() -> SpiffeId {
    id("spiffe://td/ns/shop/sa/web")
}

fn connection(peer: Option<&SpiffeId>) -> Connection<'_> {
    let source = "10.0.0.1".parse().unwrap();
    Connection {
        peer,
        source,
        destination: "10.0.0.9:8080".parse().unwrap(),
    }
}

/// A workload of namespace `shop`.
fn workload(authorization_policies: &[&str]) -> Workload {
    Workload {
        uid: WorkloadUid("a//Pod/shop/db".into()),
        name: "db".to_owned(),
        namespace: "shop".into(),
        service_account: "db".into(),
        trust_domain: "td".parse().unwrap(),
        cluster: "a".parse().unwrap(),
        node: "n".into(),
        addresses: vec!["10.0.0.9".parse().unwrap()],
        hostname: Text::default(),
        labels: Default::default(),
        locality: Locality::default(),
        canonical_name: Text::default(),
        canonical_revision: Text::default(),
        kind: WorkloadKind::Pod,
        owner_name: Text::default(),
        tunnel_protocol: TunnelProtocol::Hbone,
        health: Health::Healthy,
        host_network: false,
        services: Default::default(),
        authorization_policies: authorization_policies
            .iter()
            .map(|name| (*name).to_owned())
            .collect(),
        capacity: 1,
        namespace_labels: Arc::default(),
        named_ports: tulle_model::SmallMap::new(),
        demoted: false,
    }
}

fn rule(clauses: Vec<Vec<AuthorizationMatch>>) -> AuthorizationRule {
    let clause = |matches| AuthorizationClause { matches };
    AuthorizationRule {
        clauses: clauses.into_iter().map(clause).collect(),
    }
}

/// A policy of namespace `shop`.
fn policy(name: &str, action: AuthorizationAction, rules: Vec<AuthorizationRule>) -> Authorization {
    Authorization {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        scope: AuthorizationScope::Namespace,
        action,
        rules,
        dry_run: false,
    }
}

fn directory(policies: impl IntoIterator<Item = Authorization>) -> Directory {
    let mut directory = Directory::default();
    for policy in policies {
        directory.apply(Change::Policy(Arc::new(policy)));
    }
    directory
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.to_owned())
}

fn namespace(name: &str) -> AuthorizationMatch {
    AuthorizationMatch {
        namespaces: vec![exact(name)],
        ..Default::default()
    }
}

fn port(port: u16) -> AuthorizationMatch {
    AuthorizationMatch {
        destination_ports: vec![port],
        ..Default::default()
    }
}
