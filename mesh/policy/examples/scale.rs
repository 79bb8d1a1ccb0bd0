//! What compiling costs: `cargo run --release --example scale -p tulle-policy [workloads] [identities] [policies] [subjects]`.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Instant};

use tulle_model::{
    Change, Directory, LabelKey, LabelSource, Language, NamespacedName, NetworkRule, NetworkRules,
    Operator, Peer, Peers, PortMatch, Ports, Requirement, RuleAction, RuleSection, RuleSpec, Rules,
    RulesKey, Selector, Transport, Workload, WorkloadUid,
};
use tulle_policy::compiled::{
    Compiler, CompilerSettings, LearnedNames, Limits, PolicyTouched, PolicyUpdate,
};

fn main() {
    let arguments: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    let argument = |place: usize, default| arguments.get(place).copied().unwrap_or(default);
    let (workloads, identities) = (argument(0, 100_000), argument(1, 10_000));
    let (policies, subjects) = (argument(2, 10_000), argument(3, 100));
    let mut directory = Directory::default();
    let mut ours = BTreeSet::new();
    for number in 0..workloads {
        let workload = workload(number % identities, number);
        if number < subjects {
            ours.insert(workload.uid.clone());
        }
        directory.apply(Change::Workload(Arc::new(workload)));
    }
    for number in 0..policies {
        let rules = policy(number, number % identities, identities);
        directory.apply(Change::Rules(Arc::new(rules)));
    }
    let before = resident();
    let mut compiler = Compiler::new(CompilerSettings {
        cluster: "a".parse().expect("a name"),
        node: "n1".to_owned(),
        limits: Limits::default(),
    });
    let mut update = |what: &str, directory: &Directory, touched: &PolicyTouched| {
        let started = Instant::now();
        let update = compiler.update(directory, &ours, &LearnedNames::default(), touched);
        show(&format!(
            "{what}: {:?}, {}",
            started.elapsed(),
            sizes(&update)
        ));
    };
    update("from nothing", &directory, &PolicyTouched::default());
    let after = resident();
    show(&format!(
        "memory: {} MiB",
        (after.saturating_sub(before)) / 1024
    ));

    let mut touched = PolicyTouched::default();
    let known = workload(3, workloads + 1);
    touched.workloads.insert(known.uid.clone());
    directory.apply(Change::Workload(Arc::new(known)));
    update("a workload of a known kind", &directory, &touched);
    let mut touched = PolicyTouched::default();
    let mut other = workload(3, workloads + 2);
    other.service_account = "other".into();
    touched.workloads.insert(other.uid.clone());
    directory.apply(Change::Workload(Arc::new(other)));
    update("a workload of a new kind", &directory, &touched);
    let mut touched = PolicyTouched::default();
    let changed = policy(5, 5, 7);
    touched.rules.insert(changed.key());
    directory.apply(Change::Rules(Arc::new(changed)));
    update("a changed policy", &directory, &touched);
    let mut touched = PolicyTouched::default();
    let removed = policy(6, 6, identities).key();
    touched.rules.insert(removed.clone());
    directory.apply(Change::RulesGone(removed));
    update("a policy that is gone", &directory, &touched);
}

fn sizes(update: &PolicyUpdate) -> String {
    format!(
        "{} addresses, {} peers, {} port sets changed; {:?}",
        update.identities.len(),
        update.peers.len() + update.peers_gone.len(),
        update.port_sets.len(),
        update.usage
    )
}

#[expect(clippy::print_stdout, reason = "figures are what this is for")]
fn show(line: &str) {
    println!("{line}");
}

/// Kilobytes that the process has in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

fn workload(kind: usize, number: usize) -> Workload {
    let name = format!("pod{number}");
    let namespace = format!("ns{}", kind % 100);
    let address = u32::try_from(number).unwrap_or_default() + 0x0a00_0000;
    let text = serde_json::json!({
        "uid": WorkloadUid::of_pod(&"a".parse().expect("a name"), &namespace, &name),
        "name": name, "namespace": namespace, "service_account": "default",
        "trust_domain": "td", "cluster": "a", "node": "n1",
        "addresses": [IpAddr::from(address.to_be_bytes())],
        "labels": {"app": format!("app{kind}"), "tier": format!("tier{}", kind % 7), "version": "v1"},
    });
    serde_json::from_value(text).expect("a workload")
}

fn app(kind: usize) -> Selector {
    Selector {
        requirements: vec![Requirement {
            key: LabelKey {
                source: LabelSource::Any,
                name: "app".to_owned(),
            },
            operator: Operator::In([format!("app{kind}")].into()),
        }],
    }
}

fn policy(number: usize, subject: usize, kinds: usize) -> Rules {
    let rule = NetworkRule {
        path: "spec.ingress[0]".to_owned(),
        action: RuleAction::Allow,
        peers: Peers::OneOf(
            (1..5)
                .map(|n| Peer::Endpoints(app((subject + n) % kinds)))
                .collect(),
        ),
        ports: vec![PortMatch {
            transport: Transport::Tcp,
            ports: Ports::Range(8000, 8100),
        }],
        l7: None,
        server_names: Vec::new(),
        authenticated: false,
    };
    Rules::Network(NetworkRules {
        key: RulesKey {
            language: Language::Cilium,
            object: NamespacedName::new("default", format!("policy{number}")),
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
