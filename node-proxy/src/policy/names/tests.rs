use std::collections::BTreeSet;

use tulle_model::{Change, ClusterName, Directory, Rules, Workload, WorkloadUid};
use tulle_policy::{
    DefaultCluster, ReadPolicy, ReadSettings,
    compiled::{Compiler, CompilerSettings, Limits, PolicyTouched},
    read_policy_file,
};

use super::*;
use crate::{
    kernel_sync::TouchLog,
    policy::{Learned, PolicyStatus},
    published::Publisher,
};

const POD: &str = "10.1.0.1";
const RESOLVER: &str = "10.1.0.53";
const STRANGER: &str = "198.51.100.53";

/// A pod that may ask the cluster's resolver about `example.com`, and may ask nobody else.
const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
  - toEndpoints: [{matchLabels: {app: dns}}]
    toPorts:
    - ports: [{port: "53", protocol: UDP}]
      rules: {dns: [{matchName: example.com}, {matchPattern: "*.example.com"}]}
"#;

struct Scene {
    names: CompiledNames,
    compiled: Publisher<CompiledPolicy>,
    status: Publisher<PolicyStatus>,
    learned: crate::published::Published<Learned>,
    _directory: Publisher<Directory>,
    compiler: Compiler,
}

impl Scene {
    fn new(policy: &str) -> Self {
        let cluster: ClusterName = "a".parse().unwrap();
        let mut directory = Directory::default();
        directory.apply(Change::Workload(Arc::new(workload("web", POD))));
        directory.apply(Change::Workload(Arc::new(workload("dns", RESOLVER))));
        let settings = ReadSettings {
            cluster: cluster.clone(),
            default_cluster: DefaultCluster::Any,
        };
        for (_, read) in read_policy_file(policy, &settings) {
            let ReadPolicy::Rules(read) = read.unwrap() else {
                panic!("a policy of another language");
            };
            directory.apply(Change::Rules(Arc::new(Rules::Network(read.rules))));
        }
        let compiler = Compiler::new(CompilerSettings {
            cluster,
            node: "n".to_owned(),
            limits: Limits::default(),
        });
        let compiled = Publisher::from_arc(compiler.policy());
        let directory = Publisher::new(directory);
        let status = Publisher::new(PolicyStatus::default());
        let learned = Publisher::new(Learned::default());
        let learned_view = learned.subscribe();
        let touched = Arc::new(TouchLog::default());
        let learner = NameLearner::new(learned, touched, status.subscribe());
        let view = PolicyView {
            compiled: compiled.subscribe(),
            directory: directory.subscribe(),
            metrics: Arc::default(),
            recent: Arc::default(),
        };
        Scene {
            names: CompiledNames {
                view,
                learner: Arc::new(learner),
            },
            compiled,
            status,
            learned: learned_view,
            _directory: directory,
            compiler,
        }
    }

    fn compile(&mut self) {
        let directory = self.names.view.directory.snapshot();
        let subjects = BTreeSet::from([directory.workload_at(ip(POD)).unwrap().uid.clone()]);
        let everything = PolicyTouched {
            everything: true,
            ..PolicyTouched::default()
        };
        let learned = LearnedNames::default();
        let _update = self
            .compiler
            .update(&directory, &subjects, &learned, &everything);
        self.compiled.publish_arc(self.compiler.policy());
    }

    fn ask(&self, pod: &str, resolver: &str, protocol: u8, name: &str) -> NameVerdict {
        self.names.judge(&NameQuestion {
            pod: ip(pod),
            resolver: (ip(resolver), 53).into(),
            protocol,
            name,
        })
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn workload(app: &str, address: &str) -> Workload {
    let cluster: ClusterName = "a".parse().unwrap();
    serde_json::from_value(serde_json::json!({
        "uid": WorkloadUid::of_pod(&cluster, "default", app), "name": app, "namespace": "default",
        "service_account": app, "trust_domain": "a.test", "cluster": "a", "node": "n", "addresses": [address],
        "labels": {"app": app},
    }))
    .unwrap()
}

const UDP: u8 = 17;
const TCP: u8 = 6;

#[test]
fn questions_are_judged_by_name_and_resolver() {
    let mut scene = Scene::new(POLICY);
    scene.compile();
    for name in ["example.com.", "a.example.com."] {
        assert_eq!(scene.ask(POD, RESOLVER, UDP, name), NameVerdict::Allowed);
    }
    for name in ["example.org.", "a.b.example.com.", "."] {
        let verdict = scene.ask(POD, RESOLVER, UDP, name);
        let NameVerdict::Forbidden(reason) = verdict else {
            panic!("{name}: {verdict:?}");
        };
        assert!(reason.contains("cilium/default/names"), "{reason}");
    }
    // Another protocol and another resolver are not among what any rule allows.
    for (resolver, protocol) in [(RESOLVER, TCP), (STRANGER, UDP)] {
        let verdict = scene.ask(POD, resolver, protocol, "example.com.");
        assert!(
            matches!(&verdict, NameVerdict::Unreachable(reason) if reason.contains("no rule of")),
            "{verdict:?}"
        );
    }
}

#[test]
fn without_rules_about_names_any_may_be_asked() {
    let mut scene = Scene::new("");
    scene.compile();
    let verdict = scene.ask(POD, RESOLVER, UDP, "example.org.");
    assert_eq!(verdict, NameVerdict::Allowed);
}

#[tokio::test(start_paused = true)]
async fn a_new_pod_waits_for_its_rules_and_not_for_ever() {
    let mut scene = Scene::new(POLICY);
    let verdict = scene.ask(POD, RESOLVER, UDP, "example.com.");
    assert_eq!(verdict, NameVerdict::NotYet);
    // Somebody whom nobody knows has no rules, and gets none.
    let began = tokio::time::Instant::now();
    scene.names.settled(ip(STRANGER)).await;
    assert!(began.elapsed() >= COMPILE_PATIENCE);
    scene.compile();
    let began = tokio::time::Instant::now();
    scene.names.settled(ip(POD)).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    let verdict = scene.ask(POD, RESOLVER, UDP, "example.com.");
    assert_eq!(verdict, NameVerdict::Allowed);
}

#[tokio::test(start_paused = true)]
async fn an_answer_waits_until_the_kernel_knows_its_addresses() {
    let scene = Scene::new(POLICY);
    let mut names = LearnedNames::default();
    names
        .names
        .insert("example.com.".into(), Arc::from([ip(STRANGER)]));
    // Nobody writes it down: the answer goes out late, and it is told that it does.
    assert!(!scene.names.install(names.clone()).await);
    let installing = scene.names.install(names.clone());
    let mut learned = scene.learned.clone();
    let writing = async {
        let learned = learned.wait_for(|learned| learned.generation == 2).await;
        assert_eq!(learned.unwrap().names, names);
        scene.status.publish(PolicyStatus {
            learned: 2,
            ..PolicyStatus::default()
        });
    };
    let (in_time, ()) = tokio::join!(installing, writing);
    assert!(in_time);
}
