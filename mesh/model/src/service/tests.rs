use super::{Affinity, Service, Sharing};

#[test]
fn a_service_is_known_by_its_hostname() {
    let stored = r#"{"name":"s","namespace":"n","hostname":"s.n.svc.cluster.local"}"#;
    let service: Service = serde_json::from_str(stored).unwrap();
    assert_eq!(service.key().to_string(), "n/s.n.svc.cluster.local");
    assert!(service.is_headless());
    assert_eq!(service.sharing, Sharing::default());
    assert!(!service.publish_not_ready);
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
