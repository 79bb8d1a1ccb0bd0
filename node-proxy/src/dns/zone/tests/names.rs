//! Which names there are, and what is said of the others.

use proptest::prelude::*;

use super::*;

#[test]
fn a_service_is_found_by_every_form_of_its_name() {
    for name in [
        "rebel-base.",
        "rebel-base.default.",
        "rebel-base.default.svc.",
        "rebel-base.default.svc.cluster.local.",
        "Rebel-Base.DEFAULT.svc.Cluster.Local.",
    ] {
        check(name, RecordType::A, &["172.20.1.7"]);
        check(name, RecordType::AAAA, &["fd00:20:1::7"]);
        check(name, RecordType::ANY, &["172.20.1.7", "fd00:20:1::7"]);
    }
}

#[test]
fn the_owner_name_is_spelled_as_it_was_asked() {
    let Lookup::Records { answers, .. } = look_up(&mesh(), "Rebel-Base.default.", RecordType::A)
    else {
        panic!("an answer is expected");
    };
    assert_eq!(answers[0].name.to_string(), "Rebel-Base.default.");
}

#[test]
fn what_exists_without_such_records_is_nodata() {
    check(
        "only-v4.default.svc.cluster.local.",
        RecordType::AAAA,
        &["nodata"],
    );
    check("only-v4.", RecordType::AAAA, &["nodata"]);
    check(
        "rebel-base.default.svc.cluster.local.",
        RecordType::TXT,
        &["nodata"],
    );
    check(
        "rebel-base.default.svc.cluster.local.",
        RecordType::MX,
        &["nodata"],
    );
    check("default.svc.cluster.local.", RecordType::A, &["nodata"]);
    check("data.pod.cluster.local.", RecordType::A, &["nodata"]);
    check("svc.cluster.local.", RecordType::A, &["nodata"]);
    check("cluster.local.", RecordType::A, &["nodata"]);
    check(
        "_tcp.rebel-base.default.svc.cluster.local.",
        RecordType::SRV,
        &["nodata"],
    );
    check(
        "_http._tcp.rebel-base.default.svc.cluster.local.",
        RecordType::A,
        &["nodata"],
    );
    check("db.data.svc.cluster.local.", RecordType::AAAA, &["nodata"]);
}

#[test]
fn what_does_not_exist_under_the_cluster_domain_is_nxdomain() {
    for name in [
        "nobody.default.svc.cluster.local.",
        "rebel-base.elsewhere.svc.cluster.local.",
        "elsewhere.svc.cluster.local.",
        "rebel-base.cluster.local.",
        "a.b.c.d.e.svc.cluster.local.",
        "example.com.default.svc.cluster.local.",
        "_none._tcp.rebel-base.default.svc.cluster.local.",
        "_http._udp.rebel-base.default.svc.cluster.local.",
        "_udp.rebel-base.default.svc.cluster.local.",
        "http._tcp.rebel-base.default.svc.cluster.local.",
        "host.rebel-base.default.svc.cluster.local.",
        "9-9-9-9.data.pod.cluster.local.",
        "10-1-1-5.default.pod.cluster.local.",
        // No ready endpoint: Kubernetes DNS specification, 2.4.1.
        "empty.data.svc.cluster.local.",
        "db-3.db.data.svc.cluster.local.",
    ] {
        check(name, RecordType::A, &["nxdomain"]);
        check(name, RecordType::SRV, &["nxdomain"]);
    }
}

#[test]
fn other_names_are_forwarded() {
    for name in [
        "example.com.",
        "default.",
        "svc.",
        "nobody.",
        ".",
        "local.",
        "notcluster.local.",
    ] {
        check(name, RecordType::A, &["forward"]);
    }
    check("8.8.8.8.in-addr.arpa.", RecordType::PTR, &["forward"]);
    check("1.20.172.in-addr.arpa.", RecordType::PTR, &["forward"]);
}

#[test]
fn external_names_are_aliases() {
    let alias = "rebel-base.default.svc.cluster.local.";
    let name = |name: &str| format!("{name}.default.svc.cluster.local.");
    let (a, aaaa) = (RecordType::A, RecordType::AAAA);
    check(&name("inside"), a, &["172.20.1.7", alias]);
    check("inside.", a, &["172.20.1.7", alias]);
    check(&name("inside"), aaaa, &["fd00:20:1::7", alias]);
    check(&name("inside"), RecordType::CNAME, &[alias]);
    let outside = "db.example.org.";
    let forward = format!("forward {outside}");
    check(&name("outside"), a, &[outside, &forward]);
    check(&name("outside"), RecordType::TXT, &[outside, &forward]);
    check(&name("outside"), RecordType::CNAME, &[outside]);
    // Through two names to a third.
    let first = name("outside");
    check(&name("twice"), a, &[&first, outside, &forward]);
    // What is not there, and what leads in a circle: the alias alone.
    let nobody = name("nobody");
    check(&name("nowhere"), a, &[&nobody]);
    let circle = name("circle");
    check(&circle, a, &[circle.as_str(); 8]);
    // Nothing is served there, so nothing is below it.
    check(&name("_http._tcp.outside"), RecordType::SRV, &["nxdomain"]);
    check(&name("host.outside"), a, &["nxdomain"]);
    check(&name("host.koornacht.outside"), a, &["nxdomain"]);
}

#[test]
fn addresses_have_names() {
    check(
        "7.1.20.172.in-addr.arpa.",
        RecordType::PTR,
        &["rebel-base.default.svc.cluster.local."],
    );
    check(
        "5.1.1.10.in-addr.arpa.",
        RecordType::PTR,
        &["db-0.db.data.svc.cluster.local."],
    );
    check(
        "6.1.1.10.in-addr.arpa.",
        RecordType::PTR,
        &["10-1-1-6.db.data.svc.cluster.local."],
    );
    check("5.1.1.10.in-addr.arpa.", RecordType::A, &["nodata"]);
    let v6 = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa.";
    check(
        v6,
        RecordType::PTR,
        &["rebel-base.default.svc.cluster.local."],
    );
}

#[test]
fn the_schema_version_is_told() {
    check("dns-version.cluster.local.", RecordType::TXT, &["1.1.0"]);
}

#[test]
fn search_lists_of_pods_are_followed() {
    let list = |domains: &[&str]| {
        let domains: Vec<String> = domains.iter().map(|d| (*d).to_owned()).collect();
        search_list(&domains, "default")
            .iter()
            .map(|labels| labels.join("."))
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&[]), ["default.svc", "svc", ""]);
    assert_eq!(
        list(&["Data.svc.cluster.local.", "example.com", "cluster.local"]),
        ["data.svc", ""]
    );
    assert_eq!(list(&["example.com"]), Vec::<String>::new());
}

proptest! {
    #[test]
    fn no_name_makes_it_panic(labels in prop::collection::vec("[_a-z0-9-]{1,20}", 0..8), suffix in 0_usize..4) {
        let suffix = ["", "svc.cluster.local.", "in-addr.arpa.", "ip6.arpa."][suffix];
        let text = format!("{}.{suffix}", labels.join("."));
        if let Ok(name) = Name::from_ascii(&text) {
            let mesh = mesh();
            let cluster = "koornacht".parse().unwrap();
            let locality = Locality::default();
            let viewpoint = Viewpoint { cluster: &cluster, node: "n", locality: &locality };
            let search = search_list(&[], "default");
            let zone = Zone { directory: &mesh, viewpoint, ejected: &Ejected::none(), search: &search, rotation: 7 };
            for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::PTR, RecordType::ANY] {
                let _lookup = zone.look_up(&name, kind);
            }
        }
    }
}
