//! What an update costs, what stays as it was, and what becomes of what does not fit.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use tulle_model::{
    AddressRange, Change, Directory, Health, LabelKey, LabelSource, Language, Locality,
    NamespacedName, NetworkRule, NetworkRules, Operator, Peer, Peers, PortMatch, Ports,
    Requirement, RuleAction, RuleSection, RuleSpec, Rules, RulesKey, Selector, SmallMap, Text,
    Transport, TunnelProtocol, Workload, WorkloadKind, WorkloadUid,
};

use super::*;
use crate::compiled::{Because, Flow, FlowPeer, Limits, Outcome, ServerName, Verdict};

fn workload(app: usize, number: u32) -> Workload {
    let name = format!("app{app}-{number}");
    let [_, b, c, d] = number.to_be_bytes();
    Workload {
        uid: WorkloadUid::of_pod(&"a".parse().unwrap(), "shop", &name),
        name,
        namespace: "shop".into(),
        service_account: "default".into(),
        trust_domain: "td".parse().unwrap(),
        cluster: "a".parse().unwrap(),
        node: "n1".into(),
        addresses: vec![IpAddr::from([10, b, c, d])],
        hostname: Text::default(),
        labels: [("app".into(), format!("app{app}").into())]
            .into_iter()
            .collect(),
        namespace_labels: Arc::default(),
        named_ports: SmallMap::new(),
        locality: Locality::default(),
        canonical_name: Text::default(),
        canonical_revision: Text::default(),
        kind: WorkloadKind::Pod,
        owner_name: Text::default(),
        tunnel_protocol: TunnelProtocol::Hbone,
        health: Health::Healthy,
        host_network: false,
        services: SmallMap::new(),
        authorization_policies: Vec::new(),
        capacity: 1,
        demoted: false,
    }
}

fn app(app: usize) -> Selector {
    Selector {
        requirements: vec![Requirement {
            key: LabelKey {
                source: LabelSource::Any,
                name: "app".to_owned(),
            },
            operator: Operator::In([format!("app{app}")].into()),
        }],
    }
}

/// `subject` may be asked at `port` by `peer`.
fn policy(name: usize, subject: usize, peer: Peer, port: u16) -> Rules {
    let rule = NetworkRule {
        path: "spec.ingress[0]".to_owned(),
        action: RuleAction::Allow,
        peers: Peers::OneOf(vec![peer]),
        ports: vec![PortMatch {
            transport: Transport::Tcp,
            ports: Ports::Range(port, port),
        }],
        l7: None,
        server_names: Vec::new(),
        authenticated: false,
    };
    Rules::Network(NetworkRules {
        key: RulesKey {
            language: Language::Cilium,
            object: NamespacedName::new("shop", format!("policy{name}")),
        },
        audit: false,
        specs: vec![RuleSpec {
            subject: app(subject),
            ingress: Some(RuleSection {
                default_deny: true,
                rules: vec![rule],
            }),
            egress: None,
        }],
    })
}

fn block(text: &str) -> Peer {
    let (address, len) = text.split_once('/').unwrap();
    Peer::Block {
        block: AddressRange {
            address: address.parse().unwrap(),
            prefix_len: len.parse().unwrap(),
        },
        except: Vec::new(),
        includes_workloads: false,
    }
}

struct Bench {
    directory: Directory,
    subjects: BTreeSet<WorkloadUid>,
    compiler: Compiler,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        Bench {
            directory: Directory::default(),
            subjects: BTreeSet::new(),
            compiler: Compiler::new(CompilerSettings {
                cluster: "a".parse().unwrap(),
                node: "n1".to_owned(),
                limits,
            }),
        }
    }

    fn put(&mut self, workload: Workload, touched: &mut PolicyTouched) {
        touched.workloads.insert(workload.uid.clone());
        self.directory.apply(Change::Workload(Arc::new(workload)));
    }

    fn rule(&mut self, rules: Rules, touched: &mut PolicyTouched) {
        touched.rules.insert(rules.key());
        self.directory.apply(Change::Rules(Arc::new(rules)));
    }

    fn update(&mut self, touched: &PolicyTouched) -> PolicyUpdate {
        let learned = LearnedNames::default();
        self.compiler
            .update(&self.directory, &self.subjects, &learned, touched)
    }

    /// From `peer` to the subject `app0-0`, at port 80.
    fn verdict(&self, peer: FlowPeer<'_>, source: IpAddr) -> Verdict {
        let subject = workload(0, 0);
        let flow = Flow {
            direction: Direction::Ingress,
            subject: &subject.uid,
            peer,
            proven: None,
            source,
            destination: (subject.addresses[0], 80).into(),
            protocol: 6,
            server_name: ServerName::NotSeen,
        };
        self.compiler.policy().evaluate(&flow, None)
    }
}

/// A mesh in which every app may be asked by the next, and one pod of each of the first `subjects` apps is ours.
fn chain(apps: usize, per_app: u32, policies: usize, subjects: usize) -> Bench {
    let mut bench = Bench::new(Limits::default());
    let mut touched = PolicyTouched::default();
    for number in 0..per_app {
        for app in 0..apps {
            let number = number * u32::try_from(apps).unwrap() + u32::try_from(app).unwrap();
            let workload = workload(app, number);
            if number < u32::try_from(subjects).unwrap() {
                bench.subjects.insert(workload.uid.clone());
            }
            bench.put(workload, &mut touched);
        }
    }
    for number in 0..policies {
        let peer = Peer::Endpoints(app((number + 1) % apps));
        bench.rule(policy(number, number % apps, peer, 80), &mut touched);
    }
    bench.update(&touched);
    bench
}

#[test]
fn a_new_workload_costs_only_those_whose_selectors_match_it() {
    let mut bench = chain(1_000, 100, 1_000, 30);
    let before = bench.compiler.work();

    // One of a kind that is known already: nobody's table changes.
    let mut touched = PolicyTouched::default();
    bench.put(workload(7, 200_000), &mut touched);
    let update = bench.update(&touched);
    let after = bench.compiler.work();
    assert_eq!(update.identities.len(), 1);
    assert!(update.peers.is_empty() && update.port_sets.is_empty());
    assert_eq!(after.addresses_settled - before.addresses_settled, 1);
    assert_eq!(after.peers_compared, before.peers_compared);
    assert_eq!(after.specs_compared, before.specs_compared);
    assert_eq!(after.port_sets_compiled, before.port_sets_compiled);

    // One of a new kind that a single subject's selector matches.
    let mut touched = PolicyTouched::default();
    let mut other = workload(7, 200_001);
    other.service_account = "other".into();
    bench.put(other, &mut touched);
    let update = bench.update(&touched);
    let work = bench.compiler.work();
    assert_eq!(update.peers.len(), 1);
    assert_eq!(work.pairs_compiled - after.pairs_compiled, 1);
    assert_eq!(work.tables_compiled, after.tables_compiled);
    // The selector, and the set of the own node's identities is not even looked at.
    assert_eq!(work.peers_compared - after.peers_compared, 1);
}

#[test]
fn a_changed_policy_costs_only_its_subject() {
    let mut bench = chain(1_000, 10, 1_000, 30);
    let before = bench.compiler.work();
    let mut touched = PolicyTouched::default();
    bench.rule(policy(3, 3, Peer::Endpoints(app(9)), 443), &mut touched);
    let update = bench.update(&touched);
    let after = bench.compiler.work();
    assert_eq!(after.tables_compiled - before.tables_compiled, 1);
    assert_eq!((update.peers.len(), update.peers_gone.len()), (1, 1));
    assert!(after.peers_compared - before.peers_compared < 4);

    // One that speaks of nobody here costs a comparison with each subject.
    let mut touched = PolicyTouched::default();
    bench.rule(policy(500, 500, Peer::Endpoints(app(9)), 443), &mut touched);
    assert!(bench.update(&touched).is_empty());
    assert_eq!(bench.compiler.work().tables_compiled, after.tables_compiled);
}

#[test]
fn what_is_touched_and_is_the_same_changes_nothing() {
    let mut bench = chain(10, 2, 10, 5);
    let everything = PolicyTouched {
        everything: true,
        authorizations: true,
        ..PolicyTouched::default()
    };
    let work = bench.compiler.work();
    assert!(bench.update(&everything).is_empty());
    assert_eq!(bench.compiler.work().tables_compiled, work.tables_compiled);
    let mut touched = PolicyTouched::default();
    bench.rule(policy(3, 3, Peer::Endpoints(app(4)), 80), &mut touched);
    assert!(bench.update(&touched).is_empty());
}

#[test]
fn a_verdict_says_why_in_one_sentence() {
    let bench = chain(10, 2, 10, 5);
    let (right, wrong) = (workload(1, 1), workload(5, 5));
    let said = |workload: &Workload| {
        let peer = FlowPeer::Workload(workload);
        bench.verdict(peer, workload.addresses[0]).to_string()
    };
    assert_eq!(
        said(&right),
        "allowed: cilium/shop/policy0 (spec.ingress[0])"
    );
    assert_eq!(
        said(&wrong),
        "denied: no rule of cilium/shop/policy0 allows it at ingress"
    );
    let stranger = workload(1, 300_000);
    assert_eq!(
        said(&stranger),
        "denied: the rules for this pod are not compiled yet"
    );
}

#[test]
fn who_gets_no_identity_is_refused_until_there_is_room() {
    let mut bench = Bench::new(Limits {
        identities_max: 4,
        ..Limits::default()
    });
    let mut touched = PolicyTouched::default();
    for number in 0..4u32 {
        bench.put(
            workload(usize::try_from(number).unwrap(), number),
            &mut touched,
        );
    }
    bench.subjects.insert(workload(0, 0).uid);
    bench.rule(policy(0, 0, Peer::Endpoints(app(3)), 80), &mut touched);
    let update = bench.update(&touched);
    assert_eq!(
        update.limits_reached.len(),
        1,
        "{:?}",
        update.limits_reached
    );
    assert!(
        update.limits_reached[0]
            .to_string()
            .starts_with("policies need ")
    );
    let overflowing = update
        .identities
        .iter()
        .filter(|(_, id)| *id == IdentityId::OVERFLOW);
    let overflowing: Vec<IpAddr> = overflowing.map(|(address, _)| *address).collect();
    assert!(!overflowing.is_empty());
    let far = workload(3, 3);
    let refused = bench.verdict(FlowPeer::Workload(&far), far.addresses[0]);
    assert_eq!(refused.because, Because::LimitReached);

    let mut touched = PolicyTouched::default();
    for number in 1..3u32 {
        let uid = workload(usize::try_from(number).unwrap(), number).uid;
        touched.workloads.insert(uid.clone());
        bench.directory.apply(Change::WorkloadGone(uid));
    }
    let _gone = bench.update(&touched);
    let update = bench.update(&PolicyTouched::default());
    assert!(update.limits_reached.is_empty(), "{update:?}");
    let allowed = bench.verdict(FlowPeer::Workload(&far), far.addresses[0]);
    assert_eq!(allowed.outcome, Outcome::Allow, "{allowed}");
}

#[test]
fn a_table_that_does_not_fit_refuses_everyone_until_it_does() {
    let mut bench = Bench::new(Limits {
        prefixes_max: 3,
        ..Limits::default()
    });
    let mut touched = PolicyTouched::default();
    bench.put(workload(0, 0), &mut touched);
    bench.subjects.insert(workload(0, 0).uid);
    bench.rule(policy(0, 0, block("192.0.2.0/24"), 80), &mut touched);
    let source: IpAddr = "192.0.2.1".parse().unwrap();
    assert!(bench.update(&touched).limits_reached.is_empty());
    assert!(bench.verdict(FlowPeer::Address, source).is_allowed());

    let mut touched = PolicyTouched::default();
    bench.rule(policy(1, 0, block("198.51.100.0/24"), 80), &mut touched);
    let update = bench.update(&touched);
    assert_eq!(update.limits_reached[0].kind, LimitKind::Prefixes);
    let refused = bench.verdict(FlowPeer::Address, source);
    assert_eq!(refused.because, Because::LimitReached);

    let mut touched = PolicyTouched::default();
    let key = policy(1, 0, block("198.51.100.0/24"), 80).key();
    touched.rules.insert(key.clone());
    bench.directory.apply(Change::RulesGone(key));
    assert!(bench.update(&touched).limits_reached.is_empty());
    assert!(bench.verdict(FlowPeer::Address, source).is_allowed());
}
