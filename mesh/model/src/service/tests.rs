use super::{
    Affinity, Algorithm, Failover, FailoverTarget, Service, Sharing, TrafficDistribution,
    TrafficPolicy,
};

#[test]
fn a_service_is_known_by_its_hostname() {
    let stored = r#"{"name":"s","namespace":"n","hostname":"s.n.svc.cluster.local"}"#;
    let service: Service = serde_json::from_str(stored).unwrap();
    assert_eq!(service.key().to_string(), "n/s.n.svc.cluster.local");
    assert!(service.is_headless());
    assert_eq!(service.sharing, Sharing::default());
    assert!(!service.publish_not_ready);
    assert_eq!(
        service,
        Service {
            name: "s".to_owned(),
            namespace: "n".to_owned(),
            hostname: "s.n.svc.cluster.local".to_owned(),
            ..Service::default()
        }
    );
    // A plain service costs no byte more than before the later fields came.
    assert!(
        !serde_json::to_string(&service)
            .unwrap()
            .contains("failover")
    );
}

#[test]
fn a_service_with_everything_survives_storage() {
    let service = Service {
        name: "s".to_owned(),
        session_affinity: Some(10800),
        internal_traffic_policy: TrafficPolicy::Local,
        traffic_distribution: TrafficDistribution::PreferSameNode,
        algorithm: Algorithm::Maglev,
        failover: Some(Failover {
            order: vec![
                FailoverTarget::Cluster("tion".parse().unwrap()),
                FailoverTarget::Region("eu".to_owned()),
            ],
            spill_at: 70,
        }),
        external_name: Some("example.com".to_owned()),
        ..Service::default()
    };
    let stored = serde_json::to_string(&service).unwrap();
    assert_eq!(serde_json::from_str::<Service>(&stored).unwrap(), service);
    assert!(!service.is_headless());
}

#[test]
fn with_an_address_it_is_not_headless() {
    let stored = r#"{"name":"s","namespace":"n","hostname":"h","addresses":["10.0.0.1"]}"#;
    assert!(
        !serde_json::from_str::<Service>(stored)
            .unwrap()
            .is_headless()
    );
}

/// The annotation's values and the stored ones are the same words.
#[test]
fn affinities_are_stored_as_annotations_write_them() {
    for (affinity, text) in [
        (Affinity::None, r#""none""#),
        (Affinity::Local, r#""local""#),
        (Affinity::Remote, r#""remote""#),
        (Affinity::LocalNode, r#""local-node""#),
    ] {
        assert_eq!(serde_json::to_string(&affinity).unwrap(), text);
        assert_eq!(serde_json::from_str::<Affinity>(text).unwrap(), affinity);
    }
}
