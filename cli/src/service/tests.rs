use tulle_wire::management::Frontend;

use super::*;

fn summary() -> ServiceSummary {
    ServiceSummary {
        namespace: "default".to_owned(),
        name: "rebel-base".to_owned(),
        addresses: vec!["172.20.1.17".parse().unwrap()],
        ports: vec!["80/TCP".to_owned()],
        global: true,
        shared: true,
        affinity: "local".to_owned(),
        included: [("koornacht".to_owned(), 2)].into(),
        excluded: 2,
    }
}

#[test]
fn list_of_services() {
    assert_eq!(
        list(&[summary()]),
        "NAMESPACE   NAME         ADDRESS       PORTS    GLOBAL   SHARED   AFFINITY   ENDPOINTS IN USE\n\
         default     rebel-base   172.20.1.17   80/TCP   yes      yes      local      koornacht:2 (and 2 not in use)\n"
    );
    assert_eq!(list(&[]), "No services found\n");
}

#[test]
fn one_service() {
    let backend = |cluster: &str, included, reason: &str| Backend {
        cluster: cluster.to_owned(),
        node: format!("{cluster}-worker"),
        name: "rebel-base-x".to_owned(),
        address: "10.1.1.2:80".to_owned(),
        health: "healthy".to_owned(),
        included,
        reason: reason.to_owned(),
        ..Backend::default()
    };
    let detail = ServiceDetail {
        summary: summary(),
        seen_from_node: None,
        frontends: vec![Frontend {
            address: "172.20.1.17:80".to_owned(),
            protocol: "TCP".to_owned(),
            name: String::new(),
        }],
        clusters: vec![ServiceInCluster {
            cluster: "tion".to_owned(),
            endpoints: 1,
            ..ServiceInCluster::default()
        }],
        backends: vec![
            backend("koornacht", true, "in use"),
            backend("tion", false, "tion does not share the service"),
        ],
        warnings: vec!["unknown affinity".to_owned()],
    };
    assert_eq!(
        describe(&detail),
        "Service default/rebel-base: global, shared, affinity local

Frontends:
  172.20.1.17:80 TCP

Clusters:
  CLUSTER   GLOBAL   SHARED   ENDPOINTS   HEARD
  tion      -        -        1           yes

Backends:
  CLUSTER     NODE               ZONE   POD            ADDRESS       HEALTH    IN USE   REASON
  koornacht   koornacht-worker   -      rebel-base-x   10.1.1.2:80   healthy   yes      in use
  tion        tion-worker        -      rebel-base-x   10.1.1.2:80   healthy   no       tion does not share the service

⚠️  unknown affinity
"
    );
}
