//! What one change does, and what it costs.

use super::*;

#[test]
fn an_address_is_gone_when_nobody_has_it_any_more() {
    let node = node();
    let mut directory = Directory::default();
    let mut cache = TableCache::default();
    let (captured, ejected) = (BTreeSet::new(), Ejected::none());
    let mut step = |change: Change| {
        let mut touched = Touched::default();
        touched.note(&directory, &change);
        directory.apply(change);
        let sources = Sources {
            directory: &directory,
            node: &node,
            captured: &captured,
            ejected: &ejected,
        };
        let update = cache.update(&sources, &touched);
        (update.gone, cache.silent().len())
    };
    let put = |workload| Change::Workload(Arc::new(workload));
    let gone = |name| {
        let cluster = "tion".parse().unwrap();
        Change::WorkloadGone(WorkloadUid::of_pod(&cluster, "default", name))
    };
    let a = pod("tion", "default", "a", &["10.2.1.5"]);
    let address: IpAddr = "10.2.1.5".parse().unwrap();
    assert_eq!(step(put(a.clone())), (vec![], 0));
    let mut unready = a.clone();
    unready.health = Health::Unhealthy;
    assert_eq!(step(put(unready)), (vec![], 0), "it is still there");
    let mut silent = a.clone();
    silent.demoted = true;
    assert_eq!(step(put(silent)), (vec![], 1));
    assert_eq!(step(put(a)), (vec![], 0));
    // Another pod has the address before the first one leaves.
    assert_eq!(
        step(put(pod("tion", "default", "b", &["10.2.1.5"]))),
        (vec![], 0)
    );
    assert_eq!(step(gone("a")), (vec![], 0));
    assert_eq!(step(gone("b")), (vec![address], 0));
    // The address of a pod on its host's network is the host's.
    let mut host = pod("tion", "default", "h", &["172.18.2.11"]);
    host.host_network = true;
    assert_eq!(step(put(host)), (vec![], 0));
    assert_eq!(step(gone("h")), (vec![], 0));
}

/// Prints what one endpoint's change costs in a mesh of 10,000 services with ten endpoints each.
#[test]
fn one_endpoints_change_costs_what_it_touches() {
    let mut directory = Directory::default();
    let put = |workload| Change::Workload(Arc::new(workload));
    let endpoint = |number: u32| {
        let [_, a, b, c] = number.to_be_bytes();
        let name = format!("s{}", number / 10);
        let key = service("default", &name, &[]).key();
        let ip = format!("10.{a}.{b}.{c}");
        serving(pod("tion", "default", &format!("p{number}"), &[&ip]), &key)
    };
    for number in 0..10_000_u32 {
        let [_, _, a, b] = number.to_be_bytes();
        let vip = format!("172.20.{a}.{b}");
        let service = service("default", &format!("s{number}"), &[&vip]);
        directory.apply(Change::Service(Arc::new(service)));
    }
    for number in 0..100_000 {
        directory.apply(put(endpoint(number)));
    }
    let (node, captured, ejected) = (node(), BTreeSet::new(), Ejected::none());
    let mut cache = TableCache::default();
    let mut times = Vec::new();
    for round in 0..200_u32 {
        let mut touched = Touched {
            everything: round == 0,
            ..Touched::default()
        };
        let mut workload = endpoint(round * 499);
        workload.health = Health::Unhealthy;
        let change = put(workload);
        touched.note(&directory, &change);
        directory.apply(change);
        let sources = Sources {
            directory: &directory,
            node: &node,
            captured: &captured,
            ejected: &ejected,
        };
        let began = std::time::Instant::now();
        let update = cache.update(&sources, &touched);
        times.push(began.elapsed());
        if round > 0 {
            assert_eq!(update.changes.frontends.len(), 1);
            assert_eq!(update.changes.frontends[0].backends.len(), 9);
        }
    }
    let whole = times.remove(0);
    times.sort_unstable();
    println!(
        "the whole table {whole:?}, one change {:?}, at worst {:?}",
        times[99], times[198]
    );
    assert!(times[99] * 100 < whole, "{:?} of {whole:?}", times[99]);
}
