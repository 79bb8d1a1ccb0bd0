//! Random policies of Istio, and what a control plane makes of them: the forms that are sent, and whom they are bound to.

use std::{collections::BTreeMap, sync::Arc};

use tulle_model::{
    Authorization, AuthorizationAction, AuthorizationClause, AuthorizationMatch, AuthorizationRule,
    AuthorizationScope, Change, HeaderCondition, NamespacedName, PathMatch, RequestMatch, Rules,
    ServiceAccountMatch, SpiffeId, StringMatch, Workload,
};

use super::{Dice, LABELS, PORTS, World, block};
use crate::{
    compiled::{HttpFacts, PolicyTouched},
    istio::{ConvertedPolicy, MtlsMode, PeerAuthentication, PeerAuthentications, ROOT_NAMESPACE},
};

const METHODS: [&str; 3] = ["GET", "POST", "PUT"];
const PATHS: [&str; 6] = ["/a", "/ab", "/b", "/", "/a/b", "/a?x=/b"];
const HOSTS: [&str; 4] = ["web", "web:80", "db", "Web"];
const WITH_HEADER: &[(&str, &[u8])] = &[("x-a", b"1")];

/// Every request that a world knows.
pub(crate) fn requests() -> Vec<HttpFacts<'static>> {
    let mut requests = Vec::new();
    for method in METHODS {
        for path in PATHS {
            for authority in HOSTS {
                for headers in [WITH_HEADER, &[]] {
                    requests.push(HttpFacts {
                        method,
                        path,
                        authority,
                        headers,
                    });
                }
            }
        }
    }
    requests
}

pub(crate) fn identities() -> [SpiffeId; 3] {
    ["td/ns/x/sa/web", "td/ns/y/sa/default", "other/ns/x/sa/web"]
        .map(|text| format!("spiffe://{text}").parse().unwrap())
}

impl World {
    pub(super) fn change_authorization(&mut self, dice: &mut Dice, touched: &mut PolicyTouched) {
        let made = converted(dice);
        let key = made.authorization.key();
        let held = &mut self.istio.authorizations;
        held.retain(|policy| policy.authorization.key() != key);
        self.directory.apply(Change::PolicyGone(key.clone()));
        let rules = Rules::Authorization(made.authorization.clone());
        touched.authorizations = true;
        touched.rules.insert(rules.key());
        self.directory.apply(Change::RulesGone(rules.key()));
        if !dice.one_in(4) {
            let authorization = &made.authorization;
            let form = Arc::new(authorization.l4_form());
            self.directory.apply(Change::Policy(form));
            if authorization.exceeds_l4() {
                self.directory.apply(Change::Rules(Arc::new(rules)));
            }
            held.push(made);
        }
        self.bind(touched);
    }

    pub(super) fn change_peers(&mut self, dice: &mut Dice, touched: &mut PolicyTouched) {
        let made = peer_authentication(dice);
        let peers = &mut self.istio.peers;
        peers.retain(|object| object.key != made.key);
        if !dice.one_in(2) {
            peers.push(made);
        }
        touched.authorizations = true;
        let before = self.directory.policies().map(|policy| policy.key());
        let before: Vec<_> = before.filter(|key| key.name.contains('_')).collect();
        for key in before {
            self.directory.apply(Change::PolicyGone(key));
        }
        for policy in self.strictness().authorizations() {
            self.directory.apply(Change::Policy(Arc::new(policy)));
        }
        self.bind(touched);
    }

    pub(super) fn lose(&mut self, dice: &mut Dice, touched: &mut PolicyTouched) {
        let mut uids: Vec<_> = self.directory.workloads().map(|w| w.uid.clone()).collect();
        uids.sort();
        let lost = &mut self.istio.lost;
        if !lost.is_empty() {
            lost.clear();
        } else if !uids.is_empty() {
            lost.push(dice.pick(&uids));
        }
        self.bind(touched);
    }

    fn strictness(&self) -> PeerAuthentications {
        PeerAuthentications::new(ROOT_NAMESPACE, self.istio.peers.iter().cloned())
    }

    /// Has every workload name the policies that select it.
    pub(super) fn bind(&mut self, touched: &mut PolicyTouched) {
        let strictness = self.strictness();
        let workloads: Vec<Arc<Workload>> = self.directory.workloads().cloned().collect();
        for workload in workloads {
            let labels = workload.labels.iter();
            let labels: BTreeMap<String, String> = labels
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect();
            let selecting = self.istio.authorizations.iter().filter(|policy| {
                let is_near =
                    policy.authorization.namespace.as_str() == workload.namespace.as_str();
                (is_near || policy.selects_all_namespaces)
                    && policy
                        .selector
                        .as_ref()
                        .is_some_and(|s| s.iter().all(|(k, v)| labels.get(k) == Some(v)))
            });
            let mut names: Vec<String> = selecting
                .map(|policy| policy.authorization.key())
                .chain(strictness.bindings(&workload.namespace, &labels))
                .map(|key| key.to_string())
                .collect();
            if self.istio.lost.contains(&workload.uid) {
                names.push("x/lost".to_owned());
            }
            if names != workload.authorization_policies {
                touched.workloads.insert(workload.uid.clone());
                let mut bound = (*workload).clone();
                bound.authorization_policies = names;
                self.directory.apply(Change::Workload(Arc::new(bound)));
            }
        }
    }
}

fn selector(dice: &mut Dice) -> BTreeMap<String, String> {
    let labels = dice.some(1, |dice| {
        let (name, values) = dice.pick(&LABELS);
        (name.to_owned(), dice.pick(&values).to_owned())
    });
    labels.into_iter().collect()
}

fn converted(dice: &mut Dice) -> ConvertedPolicy {
    let namespace = dice.pick(&["x", "x", "y", ROOT_NAMESPACE]);
    let selector = dice.one_in(2).then(|| selector(dice));
    let scope = match (&selector, namespace) {
        (Some(_), _) => AuthorizationScope::WorkloadSelector,
        (None, ROOT_NAMESPACE) => AuthorizationScope::Global,
        (None, _) => AuthorizationScope::Namespace,
    };
    use AuthorizationAction::*;
    let action = dice.pick(&[Allow, Allow, Deny, Deny, Audit]);
    let authorization = Authorization {
        name: format!("a{}", dice.below(3)),
        namespace: namespace.to_owned(),
        scope,
        action,
        rules: dice.some(2, rule),
        dry_run: action != Audit && dice.one_in(6),
    };
    ConvertedPolicy {
        authorization,
        selects_all_namespaces: selector.is_some() && namespace == ROOT_NAMESPACE,
        selector,
        warnings: Vec::new(),
    }
}

fn rule(dice: &mut Dice) -> AuthorizationRule {
    AuthorizationRule {
        clauses: dice.some(2, |dice| AuthorizationClause {
            matches: dice.some(2, wanted),
        }),
    }
}

fn wanted(dice: &mut Dice) -> AuthorizationMatch {
    let mut wanted = AuthorizationMatch::default();
    for _ in 0..dice.below(3) {
        match dice.below(14) {
            0 => wanted.namespaces = texts(dice, &["x", "y"]),
            1 => wanted.not_namespaces = texts(dice, &["x", "y"]),
            2 => wanted.principals = texts(dice, &PRINCIPALS),
            3 => wanted.not_principals = texts(dice, &PRINCIPALS),
            4 => wanted.service_accounts = dice.some(2, account),
            5 => wanted.not_service_accounts = dice.some(2, account),
            6 => wanted.source_ips = dice.some(2, block),
            7 => wanted.not_source_ips = dice.some(2, block),
            8 => wanted.destination_ips = dice.some(2, block),
            9 => wanted.not_destination_ips = dice.some(2, block),
            10 => wanted.destination_ports = dice.some(2, |dice| dice.pick(&PORTS)),
            11 => wanted.not_destination_ports = dice.some(2, |dice| dice.pick(&PORTS)),
            _ => wanted.request = request(dice),
        }
    }
    wanted
}

fn account(dice: &mut Dice) -> ServiceAccountMatch {
    ServiceAccountMatch {
        namespace: dice.pick(&["x", "y"]).to_owned(),
        service_account: dice.pick(&["web", "default"]).to_owned(),
    }
}

/// Whole texts, their halves, or that there is one.
fn text(dice: &mut Dice, texts: &[&str]) -> StringMatch {
    let text = dice.pick(texts);
    let (first, last) = text.split_at(text.len() / 2);
    match dice.below(5) {
        0 => StringMatch::Presence,
        1 => StringMatch::Prefix(first.to_owned()),
        2 => StringMatch::Suffix(last.to_owned()),
        _ => StringMatch::Exact(text.to_owned()),
    }
}

fn texts(dice: &mut Dice, of: &[&str]) -> Vec<StringMatch> {
    dice.some(2, |dice| text(dice, of))
}

fn request(dice: &mut Dice) -> Option<RequestMatch> {
    let path = |dice: &mut Dice| match dice.below(6) {
        0 => PathMatch::Template("/{*}".to_owned()),
        1 => PathMatch::Template("/a/{**}".to_owned()),
        _ => PathMatch::Text(text(dice, &["/a", "/ab", "/b", "/a/b"])),
    };
    let mut wanted = RequestMatch::default();
    match dice.below(7) {
        0 => wanted.hosts = texts(dice, &HOSTS),
        1 => wanted.not_hosts = texts(dice, &HOSTS),
        2 => wanted.methods = texts(dice, &METHODS),
        3 => wanted.not_methods = texts(dice, &METHODS),
        4 => wanted.paths = dice.some(2, path),
        5 => wanted.not_paths = dice.some(2, path),
        _ => {
            wanted.headers = dice.some(1, |dice| HeaderCondition {
                name: "x-a".to_owned(),
                values: texts(dice, &["1", "22"]),
                not_values: texts(dice, &["1", "22"]),
            });
        }
    }
    // The reader makes none of one that says nothing.
    (wanted != RequestMatch::default()).then_some(wanted)
}

fn peer_authentication(dice: &mut Dice) -> PeerAuthentication {
    use MtlsMode::*;
    let namespace = dice.pick(&["x", "y", ROOT_NAMESPACE]);
    let selector = selector(dice);
    let mode = |dice: &mut Dice| dice.pick(&[Unset, Disable, Permissive, Strict]);
    let mut ports = BTreeMap::new();
    if !selector.is_empty() {
        ports.extend(dice.some(2, |dice| (dice.pick(&PORTS[1..]), mode(dice))));
    }
    PeerAuthentication {
        key: NamespacedName::new(namespace, format!("p{}", dice.below(3))),
        created: format!("2026-01-01T00:00:0{}Z", dice.below(3)),
        selector,
        mode: mode(dice),
        ports,
    }
}

const PRINCIPALS: [&str; 3] = ["td/ns/x/sa/web", "td/ns/y/sa/default", "other/ns/x/sa/web"];
