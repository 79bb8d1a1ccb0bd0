//! The certificate method: what is issued, and what is refused with which words.

use std::time::{Duration, SystemTime};

use tonic::Code;

use crate::support::{Cluster, pod, token};

async fn cluster() -> Cluster {
    let cluster = Cluster::start_alone().await;
    cluster.apply("pod-a", &pod("a", "n1", "10.1.1.1", "web"));
    cluster.apply("pod-b", &pod("b", "n2", "10.1.2.1", "db"));
    cluster
        .wait_status("the pods", |s| s["view"]["addresses"] == 2)
        .await;
    cluster
}

fn id(cluster: &Cluster, account: &str) -> String {
    format!("spiffe://{}/ns/shop/sa/{account}", cluster.trust_domain())
}

#[tokio::test]
async fn node_gets_certificates_for_itself_and_its_pods() {
    let cluster = cluster().await;
    let own = cluster.svid("n1", None).await;
    assert_eq!(*own.id(), cluster.node_proxy());
    let web = cluster.svid("n1", Some(&id(&cluster, "web"))).await;
    assert_eq!(web.id().to_string(), id(&cluster, "web"));
    let left = web.not_after().duration_since(SystemTime::now()).unwrap();
    assert!(
        left <= Duration::from_secs(3600) && left > Duration::from_secs(3500),
        "{left:?}"
    );
    assert_eq!(
        cluster.metric("tulle_ca_certificates_issued_total").await,
        2.0
    );
}

#[tokio::test]
async fn shorter_life_is_granted_longer_is_cut() {
    let cluster = cluster().await;
    for (asked, expected) in [(60, 60), (10_000_000, 3600), (0, 3600)] {
        let issued = cluster
            .create_certificate(Some(&token("n1")), None, |r| r.validity_duration = asked)
            .await;
        let (response, key) = issued.unwrap();
        assert_eq!(response.cert_chain.len(), 2);
        assert_eq!(
            *response.cert_chain.last().unwrap(),
            cluster.running().root_pem
        );
        let svid = key.into_svid(&response.cert_chain.concat()).unwrap();
        let left = svid
            .not_after()
            .duration_since(SystemTime::now())
            .unwrap()
            .as_secs();
        assert!(left <= expected && left + 30 > expected, "{asked}: {left}");
    }
}

#[tokio::test]
async fn a_node_gets_no_certificate_for_a_pod_elsewhere() {
    let cluster = cluster().await;
    let n1 = token("n1");
    let domain = cluster.trust_domain();
    let (db, web) = (id(&cluster, "db"), id(&cluster, "web"));
    let nobody = id(&cluster, "nobody");
    let foreign = "spiffe://tion.tulle/ns/shop/sa/web";
    let short = format!("spiffe://{domain}/web");
    let server = format!("spiffe://{domain}/ns/tulle-system/sa/xds-server");
    let ghost = token("ghost");
    let cases: [(Option<&str>, Option<&str>, &str); 10] = [
        (None, None, "no_token"),
        (Some("guess"), None, "unknown_token"),
        (Some("guess"), Some(&web), "unknown_token"),
        (Some(&ghost), None, "unknown_node"),
        (Some(&n1), Some(&db), "not_on_node"),
        (Some(&n1), Some(&nobody), "not_on_node"),
        (Some(&n1), Some(&server), "not_on_node"),
        (Some(&n1), Some(foreign), "foreign_domain"),
        (Some(&n1), Some(&short), "not_an_identity"),
        (Some(&n1), Some(""), "not_an_identity"),
    ];
    for (token, impersonate, reason) in cases {
        let refused = cluster
            .create_certificate(token, impersonate, |_| ())
            .await
            .err();
        let refused = refused.unwrap_or_else(|| panic!("{impersonate:?} was issued"));
        assert_eq!(refused.code(), Code::Unauthenticated, "{reason}");
        if impersonate.is_some() && token == Some(&n1) {
            let words = "request impersonation authentication failure";
            assert!(refused.message().contains(words), "{}", refused.message());
        }
        assert!(!refused.message().contains("token-of-"));
        let metric = format!("tulle_ca_requests_refused_total{{reason=\"{reason}\"}}");
        assert!(cluster.metric(&metric).await >= 1.0, "{metric}");
    }
    assert_eq!(
        cluster.metric("tulle_ca_certificates_issued_total").await,
        0.0
    );
}

#[tokio::test]
async fn pod_that_goes_takes_its_identity_along() {
    let cluster = cluster().await;
    let web = id(&cluster, "web");
    cluster.svid("n1", Some(&web)).await;
    cluster.delete("pod-a");
    cluster
        .wait_status("the pod's end", |s| s["view"]["addresses"] == 1)
        .await;
    let refused = cluster
        .create_certificate(Some(&token("n1")), Some(&web), |_| ())
        .await;
    assert_eq!(refused.err().unwrap().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn bad_requests_are_refused_in_words() {
    let cluster = cluster().await;
    let n1 = token("n1");
    for csr in [
        "",
        "nonsense",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    ] {
        let refused = cluster
            .create_certificate(Some(&n1), None, |r| r.csr = csr.to_owned())
            .await
            .err()
            .unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument, "{csr}");
    }
    let refused = cluster
        .create_certificate(Some(&n1), None, |r| r.validity_duration = -1)
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
    // A request beyond the limit does not get as far.
    let large = "x".repeat(100_000);
    let refused = cluster
        .create_certificate(Some(&n1), None, |r| r.csr = large)
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::OutOfRange);
}
