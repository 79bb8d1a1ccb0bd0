//! The rules of delta xDS, one by one, and a model client that follows random histories.

use proptest::prelude::*;
use tulle_model::{Change, NamespacedName, WorkloadUid};

use super::*;
use crate::snapshot::tests::{service, workload};

const A: &str = "koornacht//Pod/shop/a";
const B: &str = "koornacht//Pod/shop/b";
const WEB: &str = "shop/web.shop.svc.cluster.local";

fn snapshot(pods: &[&str]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (n, pod) in pods.iter().enumerate() {
        put(&mut snapshot, pod, &format!("10.1.1.{n}"), None);
    }
    snapshot
}

fn put(snapshot: &mut Snapshot, pod: &str, ip: &str, of: Option<&str>) {
    snapshot.apply(Change::Workload(Arc::new(workload(pod, ip, of))));
}

fn gone(snapshot: &mut Snapshot, pod: &str) {
    snapshot.apply(Change::WorkloadGone(WorkloadUid(
        format!("koornacht//Pod/shop/{pod}").into(),
    )));
}

fn request(
    subscribe: &[&str],
    unsubscribe: &[&str],
    initial: &[(&str, &str)],
) -> DeltaDiscoveryRequest {
    let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    DeltaDiscoveryRequest {
        resource_names_subscribe: owned(subscribe),
        resource_names_unsubscribe: owned(unsubscribe),
        initial_resource_versions: initial
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn first(snapshot: &Snapshot, request: &DeltaDiscoveryRequest) -> (Subscription, Update) {
    Subscription::first(ResourceType::Address, request, snapshot).unwrap()
}

/// The last part of each name.
fn check(update: &Update, puts: &[&str], removed: &[&str]) {
    let short = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let found: Vec<String> = update.puts.iter().map(|e| short(&e.name)).collect();
    let gone: Vec<String> = update.removed.iter().map(|n| short(n)).collect();
    assert_eq!(
        (found, gone),
        (
            puts.iter().map(|s| (*s).to_owned()).collect(),
            removed.iter().map(|s| (*s).to_owned()).collect()
        )
    );
}

fn version(snapshot: &Snapshot, name: &str) -> String {
    snapshot.resources(ResourceType::Address)[name]
        .version
        .clone()
}

#[test]
fn legacy_and_explicit_wildcard_get_everything() {
    let snapshot = snapshot(&["a", "b"]);
    check(
        &first(&snapshot, &request(&[], &[], &[])).1,
        &["a", "b"],
        &[],
    );
    check(
        &first(&snapshot, &request(&["*"], &[], &[])).1,
        &["a", "b"],
        &[],
    );
}

#[test]
fn first_answer_is_due_even_when_empty() {
    check(&first(&snapshot(&[]), &request(&[], &[], &[])).1, &[], &[]);
    // ztunnel's on-demand mode: everything and nothing in one request.
    let (mut subscription, update) = first(&snapshot(&["a"]), &request(&["*"], &["*"], &[]));
    check(&update, &[], &[]);
    assert_eq!(subscription.refresh(&snapshot(&["a", "b"])), None);
}

#[test]
fn reconnect_gets_differences_and_removals() {
    let snapshot = snapshot(&["a", "b"]);
    let (a, b) = (version(&snapshot, A), version(&snapshot, B));
    let all = |initial: &[(&str, &str)]| first(&snapshot, &request(&[], &[], initial)).1;
    check(&all(&[(A, &a), (B, &b)]), &[], &[]);
    check(&all(&[(A, &a), (B, "old")]), &["b"], &[]);
    check(
        &all(&[(A, &a), (B, &b), ("koornacht//Pod/shop/z", "1")]),
        &[],
        &["z"],
    );
    // With names, only those are sent; what is gone is removed all the same.
    let named = first(&snapshot, &request(&[A], &[], &[(A, &a), ("x", "1")])).1;
    check(&named, &[], &["x"]);
    check(
        &first(&snapshot, &request(&[A, B], &[], &[(A, &a)])).1,
        &["b"],
        &[],
    );
}

#[test]
fn named_resource_is_always_answered() {
    let mut snapshot = snapshot(&["a"]);
    let (mut subscription, update) = first(&snapshot, &request(&[A, B], &[], &[]));
    check(&update, &["a"], &["b"]);
    // Again, although the client has it: it may have dropped it.
    let update = subscription
        .change(&request(&[A], &[], &[]), &snapshot)
        .unwrap()
        .unwrap();
    check(&update, &["a"], &[]);
    let update = subscription
        .change(&request(&["nonsense"], &[], &[]), &snapshot)
        .unwrap()
        .unwrap();
    check(&update, &[], &["nonsense"]);
    // It comes when it appears.
    put(&mut snapshot, "b", "10.1.1.2", None);
    put(&mut snapshot, "c", "10.1.1.3", None);
    check(&subscription.refresh(&snapshot).unwrap(), &["b"], &[]);
    gone(&mut snapshot, "b");
    gone(&mut snapshot, "c");
    check(&subscription.refresh(&snapshot).unwrap(), &[], &["b"]);
}

#[test]
fn pure_unsubscribe_needs_no_answer() {
    let mut snapshot = snapshot(&["a", "b"]);
    let (mut subscription, _) = first(&snapshot, &request(&[A, B], &[], &[]));
    assert_eq!(
        subscription
            .change(&request(&[], &[A], &[]), &snapshot)
            .unwrap(),
        None
    );
    put(&mut snapshot, "a", "10.9.9.9", None);
    gone(&mut snapshot, "b");
    check(&subscription.refresh(&snapshot).unwrap(), &[], &["b"]);
}

#[test]
fn wildcard_outlives_names_and_answers_their_end() {
    let mut snapshot = snapshot(&["a", "b"]);
    let (mut subscription, _) = first(&snapshot, &request(&[], &[], &[]));
    let update = subscription
        .change(&request(&[A], &[], &[]), &snapshot)
        .unwrap()
        .unwrap();
    check(&update, &["a"], &[]);
    put(&mut snapshot, "c", "10.1.1.3", None);
    check(&subscription.refresh(&snapshot).unwrap(), &["c"], &[]);
    let update = subscription
        .change(&request(&[], &[A, "gone"], &[]), &snapshot)
        .unwrap()
        .unwrap();
    check(&update, &["a"], &["gone"]);
    // Without the wildcard nothing is left to follow.
    assert_eq!(
        subscription
            .change(&request(&[], &["*"], &[]), &snapshot)
            .unwrap(),
        None
    );
    put(&mut snapshot, "d", "10.1.1.4", None);
    assert_eq!(subscription.refresh(&snapshot), None);
    // With it again, everything is sent.
    let update = subscription
        .change(&request(&["*"], &[], &[]), &snapshot)
        .unwrap()
        .unwrap();
    check(&update, &["a", "b", "c", "d"], &[]);
}

#[test]
fn empty_list_after_names_is_no_wildcard() {
    let snapshot = snapshot(&["a", "b"]);
    let (mut subscription, _) = first(&snapshot, &request(&[A], &[], &[]));
    assert_eq!(
        subscription
            .change(&request(&[], &[], &[]), &snapshot)
            .unwrap(),
        None
    );
}

#[test]
fn change_and_news_come_in_one_answer_without_doubles() {
    let mut snapshot = snapshot(&["a"]);
    let (mut subscription, _) = first(&snapshot, &request(&[], &[], &[]));
    put(&mut snapshot, "a", "10.9.9.9", None);
    put(&mut snapshot, "b", "10.1.1.2", None);
    let update = subscription
        .change(&request(&[A], &[], &[]), &snapshot)
        .unwrap()
        .unwrap();
    check(&update, &["a", "b"], &[]);
    assert_eq!(subscription.refresh(&snapshot), None);
}

#[test]
fn on_demand_address_brings_service_and_workloads() {
    let mut snapshot = Snapshot::default();
    put(&mut snapshot, "a", "10.1.1.1", Some("web"));
    snapshot.apply(Change::Service(Arc::new(service("web", "172.20.1.5"))));
    let (mut subscription, _) = first(&snapshot, &request(&["*"], &["*"], &[]));
    let update = subscription
        .change(&request(&["/172.20.1.5"], &[], &[]), &snapshot)
        .unwrap()
        .unwrap();
    check(&update, &["a", "web.shop.svc.cluster.local"], &[]);
    // Its later workloads follow, strangers do not.
    put(&mut snapshot, "b", "10.1.1.2", Some("web"));
    put(&mut snapshot, "c", "10.1.1.3", None);
    check(&subscription.refresh(&snapshot).unwrap(), &["b"], &[]);
    // A workload that leaves the service is told once more, so that the client knows.
    put(&mut snapshot, "b", "10.1.1.2", None);
    check(&subscription.refresh(&snapshot).unwrap(), &["b"], &[]);
    let update = subscription
        .change(&request(&["/10.1.1.3"], &[], &[]), &snapshot)
        .unwrap()
        .unwrap();
    check(&update, &["c"], &[]);
}

#[test]
fn service_that_appears_brings_its_workloads() {
    let mut snapshot = Snapshot::default();
    put(&mut snapshot, "a", "10.1.1.1", Some("web"));
    let (mut subscription, update) = first(&snapshot, &request(&["/172.20.1.5"], &[], &[]));
    check(&update, &[], &["172.20.1.5"]);
    snapshot.apply(Change::Service(Arc::new(service("web", "172.20.1.5"))));
    check(
        &subscription.refresh(&snapshot).unwrap(),
        &["a", "web.shop.svc.cluster.local"],
        &[],
    );
    snapshot.apply(Change::ServiceGone(WEB.parse::<NamespacedName>().unwrap()));
    check(
        &subscription.refresh(&snapshot).unwrap(),
        &[],
        &["web.shop.svc.cluster.local"],
    );
}

#[test]
fn unheard_clusters_are_not_taken_away() {
    let mut snapshot = snapshot(&["a"]);
    snapshot.unheard.insert("tion".parse().unwrap());
    let held = [
        ("tion//Pod/shop/x", "1"),
        ("tion//Pod/shop/y", "1"),
        ("yavin//Pod/shop/z", "1"),
    ];
    let (mut subscription, update) = first(&snapshot, &request(&[], &[], &held));
    check(&update, &["a"], &["z"]);
    assert_eq!(subscription.refresh(&snapshot), None);
    let mut remote = workload("x", "10.2.1.1", None);
    remote.uid = WorkloadUid("tion//Pod/shop/x".into());
    snapshot.apply(Change::Workload(Arc::new(remote)));
    check(&subscription.refresh(&snapshot).unwrap(), &["x"], &[]);
    // Heard: what it does not have is gone now.
    snapshot.unheard.clear();
    check(&subscription.refresh(&snapshot).unwrap(), &[], &["y"]);
    assert_eq!(subscription.refresh(&snapshot), None);
}

#[test]
fn too_many_names_end_the_stream() {
    let snapshot = snapshot(&[]);
    let (mut subscription, _) = first(&snapshot, &request(&["x"], &[], &[]));
    let names: Vec<String> = (0..NAMES_MAX).map(|n| n.to_string()).collect();
    let request = DeltaDiscoveryRequest {
        resource_names_subscribe: names,
        ..Default::default()
    };
    assert_eq!(subscription.change(&request, &snapshot), Err(TooManyNames));
}

#[test]
fn large_update_is_cut_and_complete() {
    let pods: Vec<String> = (0..20_000)
        .map(|n| format!("pod-{n:05}-with-a-long-name-to-fill-the-response"))
        .collect();
    let mut snapshot = Snapshot::default();
    for (n, pod) in pods.iter().enumerate() {
        put(
            &mut snapshot,
            pod,
            &format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255),
            None,
        );
    }
    let (_, mut update) = first(&snapshot, &request(&[], &[], &[("z", "1")]));
    let (mut parts, mut names, mut removed) = (0, BTreeSet::new(), 0);
    while !update.is_empty() {
        let (puts, gone) = update.next_part();
        let bytes: usize = puts.iter().map(|e| e.bytes.len()).sum();
        assert!(bytes <= RESPONSE_BYTES_MAX, "{bytes}");
        assert!(!puts.is_empty() || !gone.is_empty());
        parts += 1;
        removed += gone.len();
        names.extend(puts.iter().map(|e| Arc::clone(&e.name)));
    }
    assert!(parts > 3, "{parts}");
    assert_eq!((names.len(), removed), (20_000, 1));
}

#[test]
fn change_of_one_among_many_is_cheap() {
    let mut snapshot = Snapshot::default();
    for n in 0..20_000u32 {
        put(
            &mut snapshot,
            &format!("p{n}"),
            &std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string(),
            None,
        );
    }
    let (mut subscription, _) = first(&snapshot, &request(&[], &[], &[]));
    put(&mut snapshot, "p77", "10.9.9.9", None);
    // The walk skips what both maps share; counting its steps is not possible from here, its time is.
    let began = std::time::Instant::now();
    check(&subscription.refresh(&snapshot).unwrap(), &["p77"], &[]);
    assert!(
        began.elapsed() < std::time::Duration::from_millis(50),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn what_a_client_brings_along_is_followed_though_it_names_it_no_more() {
    let mut snapshot = Snapshot::default();
    snapshot.apply(Change::Service(Arc::new(service("web", "172.20.1.5"))));
    put(&mut snapshot, "p1", "10.1.1.0", Some("web"));
    let held = Client::connect(&snapshot, false, [pod_name(5)].into(), BTreeMap::new()).held;
    put(&mut snapshot, "p1", "10.1.1.0", None);
    let mut client = Client::connect(&snapshot, false, [pod_name(5)].into(), held);
    let newest = &snapshot.resources(ResourceType::Address)[pod_name(1).as_str()];
    assert_eq!(client.held[&newest.name], newest.version);
    gone(&mut snapshot, "p1");
    let update = client.subscription.refresh(&snapshot);
    client.take(update);
    assert!(!client.held.contains_key(pod_name(1).as_str()));
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8, bool),
    Gone(u8),
    Service(bool),
    Subscribe(Vec<u8>),
    Unsubscribe(Vec<u8>),
    Wildcard(bool),
    Refresh,
    Reconnect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..5u8, 0..3u8, any::<bool>()).prop_map(|(p, ip, s)| Step::Put(p, ip, s)),
        2 => (0..5u8).prop_map(Step::Gone),
        1 => any::<bool>().prop_map(Step::Service),
        2 => prop::collection::vec(0..7u8, 1..3).prop_map(Step::Subscribe),
        1 => prop::collection::vec(0..5u8, 1..3).prop_map(Step::Unsubscribe),
        1 => any::<bool>().prop_map(Step::Wildcard),
        3 => Just(Step::Refresh),
        1 => Just(Step::Reconnect),
    ];
    prop::collection::vec(step, 1..50)
}

/// A client that does what it is told.
struct Client {
    subscription: Subscription,
    held: BTreeMap<Arc<str>, String>,
    wildcard: bool,
    names: BTreeSet<String>,
}

impl Client {
    fn connect(
        snapshot: &Snapshot,
        wildcard: bool,
        names: BTreeSet<String>,
        held: BTreeMap<Arc<str>, String>,
    ) -> Self {
        let mut subscribe: Vec<&str> = names.iter().map(String::as_str).collect();
        if wildcard {
            subscribe.push("*");
        }
        let unsubscribe: &[&str] = if subscribe.is_empty() { &["*"] } else { &[] };
        let initial: Vec<(&str, &str)> = held.iter().map(|(n, v)| (&**n, v.as_str())).collect();
        let (subscription, update) = first(snapshot, &request(&subscribe, unsubscribe, &initial));
        let mut client = Client {
            subscription,
            held,
            wildcard,
            names,
        };
        client.take(Some(update));
        client
    }

    fn take(&mut self, update: Option<Update>) {
        let Some(update) = update else { return };
        let names: BTreeSet<&str> = update.puts.iter().map(|e| &*e.name).collect();
        assert_eq!(names.len(), update.puts.len(), "doubles");
        assert!(
            update.removed.iter().all(|n| !names.contains(&**n)),
            "put and removed"
        );
        for encoded in update.puts {
            self.held
                .insert(Arc::clone(&encoded.name), encoded.version.clone());
        }
        for name in update.removed {
            self.held.remove(&name);
        }
    }

    fn send(&mut self, request: &DeltaDiscoveryRequest, snapshot: &Snapshot) {
        let update = self.subscription.change(request, snapshot).unwrap();
        self.take(update);
    }
}

fn pod_name(n: u8) -> String {
    match n {
        5 => "/172.20.1.5".to_owned(),
        6 => "/10.1.1.1".to_owned(),
        _ => format!("koornacht//Pod/shop/p{n}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    /// After each refresh the client holds the newest version of all that it wants, and nothing that no longer exists.
    #[test]
    fn client_follows_the_snapshots(history in steps(), wildcard in any::<bool>()) {
        let mut snapshot = Snapshot::default();
        let mut client = Client::connect(&snapshot, wildcard, BTreeSet::new(), BTreeMap::new());
        for step in history {
            match step {
                Step::Put(p, ip, serves) => put(&mut snapshot, &format!("p{p}"), &format!("10.1.{p}.{ip}"), serves.then_some("web")),
                Step::Gone(p) => gone(&mut snapshot, &format!("p{p}")),
                Step::Service(true) => snapshot.apply(Change::Service(Arc::new(service("web", "172.20.1.5")))),
                Step::Service(false) => snapshot.apply(Change::ServiceGone(WEB.parse().unwrap())),
                Step::Subscribe(names) => {
                    let names: Vec<String> = names.into_iter().map(pod_name).collect();
                    let refs: Vec<&str> = names.iter().map(String::as_str).collect();
                    client.send(&request(&refs, &[], &[]), &snapshot);
                    client.names.extend(names.clone());
                }
                Step::Unsubscribe(names) => {
                    let names: Vec<String> = names.into_iter().map(pod_name).collect();
                    for name in &names {
                        client.names.remove(name);
                        client.held.remove(name.as_str());
                    }
                    let refs: Vec<&str> = names.iter().map(String::as_str).collect();
                    client.send(&request(&[], &refs, &[]), &snapshot);
                }
                Step::Wildcard(on) => {
                    let request = if on { request(&["*"], &[], &[]) } else { request(&[], &["*"], &[]) };
                    client.wildcard = on;
                    client.send(&request, &snapshot);
                    if !on {
                        // A client that gives the wildcard up keeps what it named.
                        let names = client.names.clone();
                        client.held.retain(|n, _| names.contains(&**n));
                    }
                }
                Step::Refresh => {}
                Step::Reconnect => client = Client::connect(&snapshot, client.wildcard, client.names, client.held),
            }
            let update = client.subscription.refresh(&snapshot);
            client.take(update);
            let resources = snapshot.resources(ResourceType::Address);
            for name in &client.names {
                for encoded in snapshot.resolve(ResourceType::Address, name) {
                    if client.names.contains(&*encoded.name) {
                        prop_assert_eq!(client.held.get(&encoded.name), Some(&encoded.version));
                    }
                }
            }
            if client.wildcard {
                let all: BTreeMap<Arc<str>, String> = resources.iter().map(|(n, e)| (Arc::clone(n), e.version.clone())).collect();
                prop_assert_eq!(&client.held, &all);
            } else {
                for name in client.held.keys().filter(|n| client.names.contains(&***n)) {
                    prop_assert!(resources.contains_key(name), "{} is gone", name);
                }
            }
            prop_assert_eq!(client.subscription.refresh(&snapshot), None);
        }
    }
}
