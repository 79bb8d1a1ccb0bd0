use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{RData, Record, rdata::A},
};
use tulle_model::{
    Change, Language, NamespacedName, NetworkRule, NetworkRules, RuleAction, RuleSection, RuleSpec,
    RulesKey, Selector,
};

use super::*;
use crate::published::{Published, Publisher};

/// Keeps what it is told, and says when the kernel knows it.
struct Recorder {
    installed: Mutex<Vec<String>>,
    in_time: bool,
}

impl NameRules for Recorder {
    fn judge(&self, question: &NameQuestion<'_>) -> NameVerdict {
        match (question.resolver.port(), question.name) {
            (1, _) => NameVerdict::Unreachable("no rule".to_owned()),
            (_, "good.org.") => NameVerdict::Allowed,
            _ => NameVerdict::Forbidden("not among the names".to_owned()),
        }
    }

    fn settled(&self, _pod: IpAddr) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn install(&self, names: LearnedNames) -> BoxFuture<'_, bool> {
        let shown: Vec<String> = names
            .names
            .iter()
            .map(|(name, addresses)| {
                let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
                format!("{name}={}", addresses.join(","))
            })
            .collect();
        self.installed.lock().unwrap().push(shown.join(" "));
        Box::pin(async { self.in_time })
    }
}

fn recorder(in_time: bool) -> Arc<Recorder> {
    Arc::new(Recorder {
        installed: Mutex::default(),
        in_time,
    })
}

fn allowing(pattern: &str) -> Directory {
    let rule = NetworkRule {
        path: "spec.egress[0]".to_owned(),
        action: RuleAction::Allow,
        peers: Peers::OneOf(vec![Peer::Name(NamePattern::Pattern(pattern.to_owned()))]),
        ports: Vec::new(),
        l7: None,
        server_names: Vec::new(),
        authenticated: false,
    };
    let egress = RuleSection {
        default_deny: true,
        rules: vec![rule],
    };
    let rules = NetworkRules {
        key: RulesKey {
            language: Language::Cilium,
            object: NamespacedName::new("a", "p"),
        },
        audit: false,
        specs: vec![RuleSpec {
            subject: Selector::default(),
            ingress: None,
            egress: Some(egress),
        }],
    };
    let mut directory = Directory::default();
    directory.apply(Change::Rules(Arc::new(Rules::Network(rules))));
    directory
}

fn keeper(
    rules: &Arc<Recorder>,
    directory: Published<Directory>,
    file: Option<PathBuf>,
) -> NameKeeper {
    let rules: Arc<dyn NameRules> = Arc::<Recorder>::clone(rules);
    NameKeeper::new(
        rules,
        directory,
        Arc::default(),
        file,
        NameLimits::default(),
    )
}

fn answer(name: &str, ip: &str) -> (Name, Vec<u8>) {
    let name = Name::from_ascii(name).unwrap();
    let mut message = Message::new(7, MessageType::Response, OpCode::Query);
    message.metadata.response_code = ResponseCode::NoError;
    let data = RData::A(A(ip.parse().unwrap()));
    message.add_answer(Record::from_rdata(name.clone(), 60, data));
    (name, message.to_vec().unwrap())
}

#[tokio::test]
async fn answers_wait_until_rules_know_what_is_new() {
    let rules = recorder(true);
    let directory = Publisher::new(allowing("*.x.org."));
    let keeper = keeper(&rules, directory.subscribe(), None);
    let learn = async |name: &str, ip: &str| {
        let (name, bytes) = answer(name, ip);
        keeper.learn(&name, &bytes).await;
        rules.installed.lock().unwrap().clone()
    };
    assert_eq!(
        learn("API.x.org.", "192.0.2.1").await,
        ["api.x.org.=192.0.2.1"]
    );
    // Known already; and what no rule speaks of.
    assert_eq!(learn("api.x.org.", "192.0.2.1").await.len(), 1);
    assert_eq!(learn("x.org.", "192.0.2.9").await.len(), 1);
    assert_eq!(
        learn("api.x.org.", "192.0.2.2").await[1],
        "api.x.org.=192.0.2.1,192.0.2.2"
    );
    // The rules changed.
    directory.publish(allowing("x.org."));
    assert_eq!(
        learn("x.org.", "192.0.2.9").await[2],
        "api.x.org.=192.0.2.1,192.0.2.2 x.org.=192.0.2.9"
    );
}

#[tokio::test]
async fn what_was_not_installed_in_time_is_installed_with_the_next_answer() {
    let rules = recorder(false);
    let keeper = keeper(&rules, Published::fixed(allowing("*.")), None);
    let (name, bytes) = answer("a.org.", "192.0.2.1");
    keeper.learn(&name, &bytes).await;
    keeper.learn(&name, &bytes).await;
    assert_eq!(rules.installed.lock().unwrap().len(), 2);
    assert_eq!(keeper.metrics.names_late.get(), 2);
}

#[tokio::test]
async fn names_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("names");
    let rules = recorder(true);
    let open = || keeper(&rules, Published::fixed(allowing("*.")), Some(file.clone()));
    let before = open();
    let (name, bytes) = answer("a.org.", "192.0.2.1");
    before.learn(&name, &bytes).await;
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    before.run(cancelled.clone()).await;
    rules.installed.lock().unwrap().clear();
    let after = open();
    after.run(cancelled.clone()).await;
    assert_eq!(*rules.installed.lock().unwrap(), ["a.org.=192.0.2.1"]);
    // A broken file is no reason not to start.
    fs::write(&file, "something else").unwrap();
    open().run(cancelled).await;
    assert_eq!(rules.installed.lock().unwrap().len(), 1);
}

#[test]
fn one_resolver_that_may_be_asked_is_enough() {
    let rules = recorder(true);
    let keeper = keeper(&rules, Published::fixed(Directory::default()), None);
    let pod = Some("10.1.1.5".parse().unwrap());
    let judge = |ports: &[u16], name: &str| {
        let resolvers: Vec<SocketAddr> = ports
            .iter()
            .map(|port| SocketAddr::from(([10, 1, 1, 9], *port)))
            .collect();
        let name = Name::from_ascii(name).unwrap();
        match keeper.judge(pod, &resolvers, 17, &name) {
            NameVerdict::Allowed => "allowed",
            NameVerdict::Forbidden(_) => "forbidden",
            NameVerdict::Unreachable(_) => "unreachable",
            NameVerdict::NotYet => "not yet",
        }
    };
    assert_eq!(judge(&[53], "Good.ORG."), "allowed");
    assert_eq!(judge(&[1, 53], "good.org."), "allowed");
    assert_eq!(judge(&[1], "good.org."), "unreachable");
    assert_eq!(judge(&[53], "bad.org."), "forbidden");
    assert_eq!(judge(&[1, 53], "bad.org."), "forbidden");
    assert_eq!(judge(&[53, 1], "bad.org."), "forbidden");
    assert_eq!(judge(&[], "bad.org."), "allowed");
}
