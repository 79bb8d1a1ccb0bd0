use std::collections::BTreeSet;

use super::{HOMES, Plan};

const SMALL: Plan = Plan {
    clusters: 7,
    services: 20,
    endpoints: 93,
};

#[test]
fn every_endpoint_is_in_one_cluster_that_has_its_service() {
    let plan = SMALL.check().unwrap();
    let mut seen = BTreeSet::new();
    for cluster in 0..plan.clusters {
        let services: BTreeSet<usize> = plan.services_of(cluster).collect();
        for (endpoint, service) in plan.endpoints_of(cluster) {
            assert!(seen.insert(endpoint), "{endpoint} is in two clusters");
            assert!(services.contains(&service), "{cluster} lacks {service}");
        }
    }
    assert_eq!(seen.len(), plan.endpoints);
}

#[test]
fn every_service_is_in_as_many_clusters_as_it_should() {
    for service in 0..SMALL.services {
        let homes = (0..SMALL.clusters)
            .filter(|cluster| SMALL.services_of(*cluster).any(|s| s == service))
            .count();
        assert_eq!(homes, HOMES);
    }
}

#[test]
fn addresses_and_names_are_nobody_elses() {
    let mut addresses = BTreeSet::new();
    for cluster in 0..SMALL.clusters {
        for (number, (endpoint, service)) in SMALL.endpoints_of(cluster).enumerate() {
            let workload = SMALL.workload(cluster, number, endpoint, service).unwrap();
            assert!(addresses.insert(workload.addresses[0]));
            assert!(addresses.len() <= SMALL.endpoints);
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    for (clusters, services, endpoints) in [
        (1, 1, 2),
        (255, 1, 2),
        (2, 0, 2),
        (2, 10, 19),
        (2, 1, 100_000),
    ] {
        let plan = Plan {
            clusters,
            services,
            endpoints,
        };
        assert!(plan.check().is_err(), "{plan:?}");
    }
}
