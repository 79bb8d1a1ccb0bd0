//! What services, slices and namespaces say about which endpoint serves.

use serde_json::{Value, json};
use tulle_model::{Algorithm, Failover, FailoverTarget, TrafficDistribution, TrafficPolicy};

use super::{super::*, catalog, gone, pod, put, service, slice, web_key, workload};

/// The service after one change, and its warnings.
fn read(value: Value) -> (Service, Vec<String>) {
    let mut catalog = catalog();
    let facts = catalog.apply([put(value)]);
    let service = facts.iter().find_map(|fact| match fact {
        Change::Service(service) => Some((**service).clone()),
        _ => None,
    });
    let warnings = catalog.warnings().into_iter().map(|w| w.message);
    (service.unwrap(), warnings.collect())
}

fn with_spec(spec: Value) -> (Service, Vec<String>) {
    let mut value = service("web", json!({}));
    for (key, part) in spec.as_object().unwrap() {
        value["spec"][key] = part.clone();
    }
    read(value)
}

#[test]
fn the_spec_says_how_endpoints_are_chosen() {
    let (plain, warnings) = with_spec(json!({}));
    assert_eq!(
        (
            plain.session_affinity,
            plain.internal_traffic_policy,
            plain.traffic_distribution
        ),
        (None, TrafficPolicy::Cluster, TrafficDistribution::Any)
    );
    assert_eq!(warnings, [""; 0]);
    let affinity = |spec: Value, expected, warned| {
        let (service, warnings) = with_spec(spec.clone());
        assert_eq!(service.session_affinity, expected, "{spec}");
        assert_eq!(warnings.len(), warned, "{spec}: {warnings:?}");
    };
    let client_ip = |seconds: Value| json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}});
    affinity(json!({"sessionAffinity": "None"}), None, 0);
    affinity(json!({"sessionAffinity": "ClientIP"}), Some(10_800), 0);
    affinity(client_ip(json!(30)), Some(30), 0);
    affinity(client_ip(json!(86_400)), Some(86_400), 0);
    affinity(client_ip(json!(86_401)), Some(10_800), 1);
    affinity(client_ip(json!(0)), Some(10_800), 1);
    affinity(client_ip(json!(-1)), Some(10_800), 1);
    affinity(json!({"sessionAffinity": "Cookie"}), None, 1);
    let policy = |word: &str, expected, warned| {
        let (service, warnings) = with_spec(json!({"internalTrafficPolicy": word}));
        assert_eq!(service.internal_traffic_policy, expected, "{word}");
        assert_eq!(warnings.len(), warned, "{word}: {warnings:?}");
    };
    policy("Cluster", TrafficPolicy::Cluster, 0);
    policy("Local", TrafficPolicy::Local, 0);
    policy("local", TrafficPolicy::Cluster, 1);
    let distribution = |word: &str, expected, warned| {
        let (service, warnings) = with_spec(json!({"trafficDistribution": word}));
        assert_eq!(service.traffic_distribution, expected, "{word}");
        assert_eq!(warnings.len(), warned, "{word}: {warnings:?}");
    };
    distribution("PreferClose", TrafficDistribution::PreferSameZone, 0);
    distribution("PreferSameZone", TrafficDistribution::PreferSameZone, 0);
    distribution("PreferSameNode", TrafficDistribution::PreferSameNode, 0);
    distribution("PreferFar", TrafficDistribution::Any, 1);
}

#[test]
fn the_algorithm_is_an_annotation() {
    let check = |word: &str, expected, warned| {
        let annotations = json!({"service.cilium.io/lb-algorithm": word});
        let (service, warnings) = read(service("web", annotations));
        assert_eq!(service.algorithm, expected, "{word}");
        assert_eq!(warnings.len(), warned, "{word}: {warnings:?}");
    };
    check("random", Algorithm::Random, 0);
    check("Maglev", Algorithm::Maglev, 0);
    check("roundrobin", Algorithm::Random, 1);
}

#[test]
fn the_order_of_failover_is_words_or_yaml() {
    let read = |text: &str| {
        let annotations = json!({"mesh.tulle.io/failover": text});
        let (service, warnings) = read(service("web", annotations));
        (service.failover, warnings)
    };
    let cluster = |name: &str| FailoverTarget::Cluster(name.parse().unwrap());
    let region = |name: &str| FailoverTarget::Region(name.to_owned());
    let check = |text: &str, order: Vec<FailoverTarget>, spill_at| {
        let (failover, warnings) = read(text);
        assert_eq!(failover, Some(Failover { order, spill_at }), "{text}");
        assert_eq!(warnings, [""; 0], "{text}");
    };
    check("tion", vec![cluster("tion")], 0);
    check(
        " tion,region/eu-west , cluster/naboo",
        vec![cluster("tion"), region("eu-west"), cluster("naboo")],
        0,
    );
    check(
        "{order: [koornacht, region/eu-west], spillAt: 70}",
        vec![cluster("koornacht"), region("eu-west")],
        70,
    );
    check(
        r#"{"order": ["tion"], "spillAt": 100}"#,
        vec![cluster("tion")],
        100,
    );
    check("order: [tion]\nspillAt: 5\n", vec![cluster("tion")], 5);
    for bad in [
        "",
        "tion,,naboo",
        "Tion",
        "zone/a",
        "region/",
        "{order: [], spillAt: 70}",
        "{order: [tion], spillAt: 101}",
        "{order: [tion], spillAt: 1000}",
        "{order: [tion], spill: 70}",
        "{order: tion}",
        "{order: [tion",
        &"tion,".repeat(65),
        &"x".repeat(20_000),
    ] {
        let (failover, warnings) = read(bad);
        assert_eq!(failover, None, "{bad}");
        assert_eq!(warnings.len(), 1, "{bad}");
        assert!(warnings[0].len() < 512, "{}", warnings[0]);
    }
}

/// `kubectl annotate` while everything runs: one service changes, and nothing else.
#[test]
fn annotations_act_at_once() {
    let mut catalog = catalog();
    let pods = [
        pod("p", "n1", "10.1.1.5"),
        slice("s", "web", &[("p", "10.1.1.5", json!({"ready": true}))]),
    ];
    catalog.apply(pods.map(put));
    let mut told = |annotations: Value| {
        let facts = catalog.apply([put(service("web", annotations))]);
        let services = facts.into_iter().filter_map(|fact| match fact {
            Change::Service(service) => Some(service.sharing),
            _ => None,
        });
        let sharing = services.last().unwrap();
        let warned = catalog.warnings().len();
        ((sharing.global, sharing.shared), sharing.affinity, warned)
    };
    use tulle_model::Affinity::{Local, None as Any, Remote};
    assert_eq!(told(json!({})), ((false, false), Any, 0));
    let global = "service.cilium.io/global";
    let (shared, affinity) = ("service.cilium.io/shared", "service.cilium.io/affinity");
    assert_eq!(told(json!({global: "true"})), ((true, true), Any, 0));
    assert_eq!(
        told(json!({global: "true", shared: "false"})),
        ((true, false), Any, 0)
    );
    assert_eq!(
        told(json!({global: "true", affinity: "local"})),
        ((true, true), Local, 0)
    );
    assert_eq!(
        told(json!({global: "true", affinity: "remote"})),
        ((true, true), Remote, 0)
    );
    assert_eq!(
        told(json!({global: "true", affinity: "nearest"})),
        ((true, true), Any, 1)
    );
    assert_eq!(
        told(json!({global: "true", affinity: "local"})),
        ((true, true), Local, 0)
    );
}

#[test]
fn a_namespace_gates_its_services() {
    let namespace = |value: Option<&str>| {
        let annotations = value.map_or(json!({}), |v| json!({"clustermesh.cilium.io/global": v}));
        put(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "annotations": annotations}}),
        )
    };
    let global = put(service("web", json!({"service.cilium.io/global": "true"})));
    let check = |default: bool, steps: Vec<ObjectChange>, expected: bool, warned: usize| {
        let mut catalog = Catalog::new(CatalogSettings {
            namespaces_global: default,
            ..catalog().settings
        });
        let mut last = None;
        for step in steps.clone() {
            for fact in catalog.apply([step]) {
                if let Change::Service(service) = fact {
                    last = Some((service.sharing.global, service.sharing.shared));
                }
            }
        }
        assert_eq!(last, Some((expected, expected)), "{default} {steps:?}");
        let warnings = catalog.warnings();
        assert_eq!(warnings.len(), warned, "{default} {steps:?}: {warnings:?}");
    };
    let (none, yes, no, odd) = (
        namespace(None),
        namespace(Some("true")),
        namespace(Some("false")),
        namespace(Some("yes")),
    );
    let all = |steps: &[&ObjectChange]| steps.iter().map(|s| (*s).clone()).collect::<Vec<_>>();
    check(true, all(&[&global]), true, 0);
    check(true, all(&[&none, &global]), true, 0);
    check(true, all(&[&no, &global]), false, 1);
    check(true, all(&[&global, &no]), false, 1);
    check(true, all(&[&global, &no, &yes]), true, 0);
    check(true, all(&[&global, &no, &gone(&no)]), true, 0);
    // The namespace's own warning beside the service's.
    check(true, all(&[&odd, &global]), false, 2);
    check(false, all(&[&global]), false, 1);
    check(false, all(&[&global, &yes]), true, 0);
    check(false, all(&[&yes, &global, &none]), false, 1);
}

#[test]
fn an_external_name_is_another_name_and_never_global() {
    let external = |name: &str, annotations: Value| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "shop", "annotations": annotations},
            "spec": {"type": "ExternalName", "externalName": name, "ports": [{"port": 5432}]}})
    };
    let (service, warnings) = read(external("DB.example.org.", json!({})));
    assert_eq!(service.external_name.as_deref(), Some("db.example.org"));
    assert_eq!((service.addresses.len(), service.is_headless()), (0, false));
    assert_eq!(warnings, [""; 0]);
    let (service, warnings) = read(external(
        "e.org",
        json!({"service.cilium.io/global": "true"}),
    ));
    assert!(!service.sharing.global);
    assert_eq!(warnings.len(), 1);
    for bad in ["", "..", "a b", &"x".repeat(64), &"abc.".repeat(70)] {
        let mut catalog = catalog();
        assert_eq!(catalog.apply([put(external(bad, json!({})))]), []);
        assert_eq!(catalog.warnings().len(), 1, "{bad}");
    }
}

#[test]
fn a_slice_weighs_its_endpoints() {
    let check = |weight: Value, expected: u32| {
        let mut value = slice("s", "web", &[("p", "10.1.1.5", json!({"ready": true}))]);
        value["metadata"]["annotations"] = json!({"service.cilium.io/weight": weight});
        let found = workload([pod("p", "n1", "10.1.1.5"), service("web", json!({})), value]);
        assert_eq!(found.capacity, expected, "{weight}");
    };
    check(json!("100"), 100);
    check(json!("0"), 0);
    check(json!("65535"), 65_535);
    check(json!("65536"), 1);
    check(json!("heavy"), 1);
}

/// cilium/cilium#45109: ports that have one target stay two ports.
#[test]
fn several_ports_at_one_target_do_not_collapse() {
    let mut web = service("web", json!({}));
    web["spec"]["ports"] = json!([
        {"name": "http", "port": 80, "targetPort": 8080},
        {"name": "alt", "port": 8000, "targetPort": 8080},
        {"name": "dns", "port": 53, "targetPort": "udp", "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "targetPort": "tcp"},
    ]);
    let mut of_web = slice("s", "web", &[("p", "10.1.1.5", json!({"ready": true}))]);
    of_web["ports"] = json!([
        {"name": "http", "port": 8080},
        {"name": "alt", "port": 8080},
        {"name": "dns", "port": 1053, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 2053},
    ]);
    let (service, _) = read(web.clone());
    assert_eq!(service.ports.len(), 4);
    let check = |slice: Value, expected: &[(u16, u16)]| {
        let mut pod = pod("p", "n1", "10.1.1.5");
        pod["spec"]["containers"][0]["ports"] = json!([
            {"name": "udp", "containerPort": 1053, "protocol": "UDP"}, {"name": "tcp", "containerPort": 2053},
        ]);
        let found = workload([pod, web.clone(), slice]);
        let served = |port: &tulle_model::ServicePort| {
            let mut addresses = found.serving_addresses(&web_key(), port);
            Some((port.port, addresses.next()?.port()))
        };
        let served: Vec<_> = service.ports.iter().filter_map(served).collect();
        assert_eq!(served, expected);
    };
    let expected = [(80, 8080), (8000, 8080), (53, 1053), (53, 2053)];
    check(of_web.clone(), &expected);
    // A slice that is older than the named ports: the pod's own names are found.
    of_web["ports"] = json!([{"name": "http", "port": 8080}, {"name": "alt", "port": 8080}]);
    check(of_web, &expected);
}
