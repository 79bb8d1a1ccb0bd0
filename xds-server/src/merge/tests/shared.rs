//! Which endpoints of another cluster serve here, and at which ports.

use super::{super::rules::mapped_ports, *};

#[test]
fn endpoints_need_global_at_both_and_shared_there() {
    for local_global in [false, true] {
        for local_shared in [false, true] {
            for remote_global in [false, true] {
                for remote_shared in [false, true] {
                    let (local, remote) = (
                        sharing(local_global, local_shared),
                        sharing(remote_global, remote_shared),
                    );
                    let merge = mesh(local, remote);
                    // Whether it shares its own says nothing about what it uses.
                    let expected: &[&str] = if local_global && remote_global && remote_shared {
                        &["a", "b"]
                    } else {
                        &["a"]
                    };
                    assert_eq!(endpoints(&merge), expected, "{local:?} {remote:?}");
                    // As an identity it is there in any case.
                    assert!(!remote_workload(&merge).demoted);
                }
            }
        }
    }
}

#[test]
fn annotations_of_the_lab_act_at_once() {
    let mut merge = mesh(sharing(false, false), sharing(false, false));
    let tion = cluster("tion");
    assert_eq!(endpoints(&merge), ["a"]);
    merge.handle_local(put_service(service("web", true, true)));
    assert_eq!(endpoints(&merge), ["a"]);
    merge
        .handle_remote(&tion, put_service(service("web", true, true)))
        .unwrap();
    assert_eq!(endpoints(&merge), ["a", "b"]);
    // Scaled to nothing here: only the other cluster's are left.
    let gone = Change::WorkloadGone(WorkloadUid::of_pod(&cluster(OWN), "shop", "a"));
    merge.handle_local(gone);
    assert_eq!(endpoints(&merge), ["b"]);
    merge.handle_local(put(workload(OWN, "a", &[("web", 80, 8080)])));
    merge
        .handle_remote(&tion, put_service(service("web", true, false)))
        .unwrap();
    assert_eq!(endpoints(&merge), ["a"]);
    merge
        .handle_remote(&tion, put_service(service("web", true, true)))
        .unwrap();
    merge.handle_local(put_service(service("web", false, false)));
    assert_eq!(endpoints(&merge), ["a"]);
}

#[test]
fn remote_services_stay_where_they_are() {
    let mut merge = mesh(sharing(true, true), sharing(true, true));
    let mut other = service("only-there", true, true);
    other.addresses = vec!["172.20.2.9".parse().unwrap()];
    merge
        .handle_remote(&cluster("tion"), put_service(other))
        .unwrap();
    let lonely = workload("tion", "c", &[("only-there", 80, 8080)]);
    merge.handle_remote(&cluster("tion"), put(lonely)).unwrap();
    assert_eq!(merge.view().services().count(), 1);
    assert!(
        merge
            .view()
            .service_at("172.20.2.9".parse().unwrap())
            .is_none()
    );
    let uid = WorkloadUid::of_pod(&cluster("tion"), "shop", "c");
    assert!(merge.view().workload(&uid).unwrap().services.is_empty());
}

#[test]
fn service_that_goes_here_takes_the_remote_endpoints_along() {
    let mut merge = mesh(sharing(true, true), sharing(true, true));
    merge.handle_local(Change::ServiceGone(key("web")));
    assert!(remote_workload(&merge).services.is_empty());
    assert!(merge.view().service(&key("web")).is_none());
    merge.handle_local(put_service(service("web", true, true)));
    assert_eq!(endpoints(&merge), ["a", "b"]);
    merge
        .handle_remote(&cluster("tion"), Change::ServiceGone(key("web")))
        .unwrap();
    assert_eq!(endpoints(&merge), ["a"]);
}

#[test]
fn ports_belong_together_by_name() {
    let check = |here: Vec<ServicePort>,
                 there: Vec<ServicePort>,
                 own: &[(u16, u16)],
                 expected: Option<&[(u16, u16)]>| {
        let pairs = |pairs: &[(u16, u16)]| -> Vec<PortMapping> {
            let mapping = |(service_port, target_port): &(u16, u16)| PortMapping {
                service_port: *service_port,
                target_port: *target_port,
                ..PortMapping::default()
            };
            pairs.iter().map(mapping).collect()
        };
        let here = Service {
            ports: here,
            ..service("web", true, true)
        };
        let there = Service {
            ports: there,
            ..service("web", true, true)
        };
        assert_eq!(
            mapped_ports(&here, &there, &pairs(own)),
            expected.map(pairs),
            "{here:?} {there:?}"
        );
    };
    // The usual case: nothing to translate.
    check(
        vec![port("", 80, 8080)],
        vec![port("", 80, 8080)],
        &[(80, 8080)],
        Some(&[(80, 8080)]),
    );
    // Other target port there: the endpoint's own counts.
    check(
        vec![port("", 80, 8080)],
        vec![port("", 80, 9090)],
        &[(80, 9090)],
        Some(&[(80, 9090)]),
    );
    // Other service port there: found by its name.
    check(
        vec![port("http", 80, 8080)],
        vec![port("http", 8000, 9090)],
        &[(8000, 9090)],
        Some(&[(80, 9090)]),
    );
    // The endpoint says nothing: the service there does.
    check(
        vec![port("http", 80, 0)],
        vec![port("http", 80, 9090)],
        &[],
        Some(&[(80, 9090)]),
    );
    // Named differently, same number.
    check(
        vec![port("web", 80, 0)],
        vec![port("http", 80, 0)],
        &[(80, 7070)],
        Some(&[(80, 7070)]),
    );
    // A port that is not there is not served; when none is, nothing is.
    check(
        vec![port("a", 1, 1), port("b", 2, 2)],
        vec![port("a", 1, 1)],
        &[(1, 1)],
        Some(&[(1, 1)]),
    );
    check(
        vec![port("b", 2, 2)],
        vec![port("a", 1, 1)],
        &[(1, 1)],
        None,
    );
    // Headless services may have no ports at all.
    check(vec![], vec![], &[], Some(&[]));
}

/// Whoever owns the service's address and name decides what the service is; the others only lend endpoints.
#[test]
fn the_own_clusters_object_is_the_service() {
    let mut merge = mesh(sharing(true, true), sharing(true, true));
    let other = Service {
        session_affinity: Some(60),
        internal_traffic_policy: tulle_model::TrafficPolicy::Local,
        algorithm: tulle_model::Algorithm::Maglev,
        ports: vec![port("", 8080, 9090)],
        ..service("web", true, true)
    };
    let tion = cluster("tion");
    merge.handle_remote(&tion, put_service(other)).unwrap();
    let here = merge.view().service(&key("web")).unwrap();
    assert_eq!(**here, service("web", true, true));
    // What changes here, changes here at once, and no endpoint with it.
    let mine = Service {
        session_affinity: Some(30),
        ..service("web", true, true)
    };
    let told = merge.handle_local(put_service(mine.clone()));
    assert_eq!(told, [put_service(mine)]);
}

#[test]
fn each_protocol_of_a_port_is_mapped_by_itself() {
    let udp = |number, target| ServicePort {
        protocol: Protocol::Udp,
        ..port("dns", number, target)
    };
    let mapping = |service_port, target_port, protocol| PortMapping {
        service_port,
        target_port,
        protocol,
    };
    let of = |ports: Vec<ServicePort>| Service {
        ports,
        ..service("web", true, true)
    };
    let here = of(vec![udp(53, 0), port("dns-tcp", 53, 0)]);
    let there = of(vec![port("dns-tcp", 5300, 0), udp(5300, 0)]);
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let own = [mapping(5300, 2053, tcp), mapping(5300, 1053, udp)];
    assert_eq!(
        mapped_ports(&here, &there, &own).unwrap(),
        [mapping(53, 1053, udp), mapping(53, 2053, tcp)]
    );
}
