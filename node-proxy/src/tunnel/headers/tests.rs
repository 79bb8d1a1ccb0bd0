use tulle_model::{Health, Locality, SmallMap, Text, TunnelProtocol, WorkloadUid};

use super::*;

fn check_authority(text: &str, expected: Option<Authority>) {
    assert_eq!(parse_authority(text), expected, "{text}");
}

#[test]
fn authorities_are_addresses_or_hostnames_with_a_port() {
    let address = |text: &str| Some(Authority::Address(text.parse().unwrap()));
    let host = |name: &str, port| Some(Authority::Host(name.to_owned(), port));
    check_authority("10.1.1.5:80", address("10.1.1.5:80"));
    check_authority("[fd00::1]:8080", address("[fd00::1]:8080"));
    check_authority(
        "rebel-base.default.svc.cluster.local:80",
        host("rebel-base.default.svc.cluster.local", 80),
    );
    check_authority("UPPER.test:65535", host("upper.test", 65535));
    for bad in [
        "",
        ":",
        ":80",
        "10.1.1.5",
        "10.1.1.5:",
        "10.1.1.5:0",
        "10.1.1.5:65536",
        "10.1.1.5:+80",
        "host:-1",
        "10.1.1.256:80",
        "fd00::1:80",
        "[fd00::1]",
        "[fd00::1]:x",
        "user@host:80",
        "a b:80",
        "host:80:80",
        "host/path:80",
        "ho\u{df}t:80",
    ] {
        check_authority(bad, None);
    }
    check_authority(&format!("{}:80", "a".repeat(254)), None);
}

fn forwarded(value: &str) -> Option<SocketAddr> {
    let mut headers = HeaderMap::new();
    headers.insert(
        http::header::FORWARDED,
        HeaderValue::from_str(value).unwrap(),
    );
    forwarded_client(&headers)
}

#[test]
fn the_client_is_read_from_forwarded() {
    let client: SocketAddr = "10.1.1.5:4711".parse().unwrap();
    assert_eq!(forwarded("for=\"10.1.1.5:4711\""), Some(client));
    assert_eq!(forwarded("For=10.1.1.5:4711;host=x.test"), Some(client));
    assert_eq!(
        forwarded("host=x.test; for=\"10.1.1.5:4711\""),
        Some(client)
    );
    assert_eq!(forwarded("for=\"[fd00::1]:9\""), "[fd00::1]:9".parse().ok());
    for bad in [
        "",
        "for",
        "for=",
        "for=unknown",
        "for=\"10.1.1.5\"",
        "by=10.1.1.5:4711",
        ",for=10.1.1.5:1",
    ] {
        assert_eq!(forwarded(bad), None, "{bad}");
    }
    assert_eq!(forwarded_client(&HeaderMap::new()), None);
}

fn workload() -> Workload {
    let cluster: ClusterName = "c1".parse().unwrap();
    Workload {
        uid: WorkloadUid::of_pod(&cluster, "default", "a-1"),
        name: "a-1".into(),
        namespace: "default".into(),
        service_account: "a".into(),
        trust_domain: "c1.test".parse().unwrap(),
        cluster,
        node: "n1".into(),
        addresses: Vec::new(),
        hostname: Text::default(),
        labels: SmallMap::new(),
        locality: Locality {
            region: "eu".into(),
            zone: "eu-1".into(),
            subzone: Text::default(),
        },
        canonical_name: "a".into(),
        canonical_revision: "v1".into(),
        kind: WorkloadKind::Deployment,
        owner_name: "a".into(),
        tunnel_protocol: TunnelProtocol::Hbone,
        health: Health::Healthy,
        host_network: false,
        services: SmallMap::new(),
        authorization_policies: Vec::new(),
        capacity: 1,
        namespace_labels: std::sync::Arc::default(),
        named_ports: tulle_model::SmallMap::new(),
        demoted: false,
    }
}

#[test]
fn baggage_has_the_form_of_ztunnel() {
    let cluster: ClusterName = "c1".parse().unwrap();
    let all = baggage(&workload(), &cluster).unwrap();
    assert_eq!(
        all,
        "k8s.cluster.name=c1,k8s.namespace.name=default,k8s.deployment.name=a,service.name=a,service.version=v1,cloud.region=eu,cloud.availability_zone=eu-1"
    );
    let mut bare = workload();
    bare.kind = WorkloadKind::Pod;
    bare.owner_name = Text::default();
    bare.canonical_revision = Text::default();
    bare.canonical_name = "not,fit=for\"baggage".into();
    bare.locality = Locality::default();
    let bare = baggage(&bare, &cluster).unwrap();
    assert_eq!(
        bare,
        "k8s.cluster.name=c1,k8s.namespace.name=default,k8s.pod.name=a-1"
    );
}

#[test]
fn headers_are_written_as_on_the_wire() {
    let headers = ConnectHeaders {
        destination: "10.1.1.6:80".parse().unwrap(),
        client: "10.1.1.5:4711".parse().unwrap(),
        service: Some("b.default.svc.cluster.local".into()),
        baggage: Some(HeaderValue::from_static("k=v")),
        trace: (0xab, 0xcd),
    };
    let mut map = HeaderMap::new();
    headers.write(&mut map);
    assert_eq!(
        map["forwarded"],
        "for=\"10.1.1.5:4711\";host=b.default.svc.cluster.local"
    );
    assert_eq!(
        map["traceparent"],
        "00-000000000000000000000000000000ab-00000000000000cd-00"
    );
    assert_eq!(map["baggage"], "k=v");
    assert_eq!(forwarded_client(&map), Some(headers.client));
}
