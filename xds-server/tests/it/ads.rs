//! ADS over a real TLS connection: who may subscribe, and what a node proxy sees.

use std::{collections::BTreeMap, time::SystemTime};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;
use tulle_identity::testing::{Flaw, Forge};
use tulle_wire::{
    type_url,
    xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
};

use crate::support::{
    AdsClient, Cluster, DEADLINE, endpoints, first_request, pod, service, slice, token,
    write_by_rename,
};

fn deploy(cluster: &Cluster) {
    cluster.apply("service", &service(""));
    cluster.apply("pod-a", &pod("a", "n1", "10.1.1.1", "web"));
    cluster.apply("pod-b", &pod("b", "n2", "10.1.2.1", "web"));
    cluster.apply("slice", &slice(&[("a", "10.1.1.1"), ("b", "10.1.2.1")]));
}

#[tokio::test]
async fn node_proxy_follows_the_manifests() {
    let cluster = Cluster::start_alone().await;
    let mut client = cluster.ads().await;
    client.subscribe_all().await;
    assert_eq!(client.directory.bundles().count(), 1);
    deploy(&cluster);
    client
        .wait("both endpoints", |d| endpoints(d) == ["a", "b"])
        .await;
    // A file without a pod: one change, one resource.
    cluster.apply("slice", &slice(&[("b", "10.1.2.1")]));
    let response = client.next().await.unwrap();
    assert_eq!(
        (response.resources.len(), response.removed_resources.len()),
        (1, 0)
    );
    assert_eq!(endpoints(&client.directory), ["b"]);
    cluster.delete("pod-a");
    client
        .wait("the pod's end", |d| d.workloads_len() == 1)
        .await;
    cluster.delete("service");
    client
        .wait("the service's end", |d| d.services_len() == 0)
        .await;
    assert_eq!(
        cluster
            .metric("tulle_xds_nacks_total{type=\"address\"}")
            .await,
        0.0
    );
    assert!(
        cluster
            .metric("tulle_xds_acks_total{type=\"address\"}")
            .await
            >= 4.0
    );
}

#[tokio::test]
async fn strangers_get_nothing() {
    let cluster = Cluster::start_alone().await;
    deploy(&cluster);
    cluster
        .wait_status("the pods", |s| s["view"]["addresses"] == 3)
        .await;
    // Without a certificate.
    let refused = AdsClient::open(cluster.channel(None).await.unwrap())
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated);
    // With the certificate of a workload of this very cluster.
    let id = format!("spiffe://{}/ns/shop/sa/web", cluster.trust_domain());
    let svid = cluster.svid("n1", Some(&id)).await;
    let refused = AdsClient::open(cluster.channel(Some(&svid)).await.unwrap())
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(
        refused.message().contains("/ns/shop/sa/web"),
        "{}",
        refused.message()
    );
    let count = cluster
        .metric("tulle_xds_refused_streams_total{reason=\"identity\"}")
        .await;
    assert_eq!(count, 1.0);
}

/// As a stock ztunnel comes: TLS with the mesh's root, no certificate, a token in each request.
#[tokio::test]
async fn token_of_a_node_opens_the_mesh() {
    let cluster = Cluster::start_alone().await;
    deploy(&cluster);
    cluster
        .wait_status("the pods", |s| s["view"]["addresses"] == 3)
        .await;
    let channel = cluster.channel(None).await.unwrap();
    let mut client = AdsClient::open_with(channel, Some(&token("n2")))
        .await
        .unwrap();
    for url in [type_url::ADDRESS, type_url::AUTHORIZATION] {
        client.subscribe(url).await;
        // An answer is due even when there is nothing: until it has one of each type a ztunnel is not ready.
        while client.next().await.unwrap().type_url != url {}
    }
    assert_eq!(client.directory.workloads().count(), 2);
    // It goes on, and a change arrives.
    cluster.apply("pod-late", &pod("late", "n1", "10.1.1.77", "late"));
    client
        .wait("the pod", |d| {
            d.workload_at("10.1.1.77".parse().unwrap()).is_some()
        })
        .await;
    let refused = cluster.metric(REFUSED_UNKNOWN_TOKEN).await;
    assert_eq!(refused, 0.0);
}

#[tokio::test]
async fn bad_tokens_open_nothing() {
    let cluster = Cluster::start_alone().await;
    let channel = cluster.channel(None).await.unwrap();
    for (given, words, metric) in [
        (None, "a node's token", REFUSED_NO_CREDENTIAL),
        (Some(""), "a node's token", REFUSED_NO_CREDENTIAL),
        (
            Some("guess"),
            "the token is no node's",
            REFUSED_UNKNOWN_TOKEN,
        ),
    ] {
        let before = cluster.metric(metric).await;
        let opened = AdsClient::open_with(channel.clone(), given).await;
        let refused = opened.err().unwrap();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().contains(words), "{}", refused.message());
        assert_eq!(cluster.metric(metric).await, before + 1.0);
    }
    // A node that has a token and no object is told once the server knows the nodes.
    // The stream may have begun by then or not; it brings nothing.
    let refused = match AdsClient::open_with(channel, Some(&token("ghost"))).await {
        Ok(mut client) => client.next().await.unwrap_err(),
        Err(refused) => refused,
    };
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(
        refused.message().contains("\"ghost\" does not exist"),
        "{}",
        refused.message()
    );
    // A token adds nothing to a certificate that is not enough.
    let id = format!("spiffe://{}/ns/shop/sa/web", cluster.trust_domain());
    deploy(&cluster);
    cluster
        .wait_status("the pods", |s| s["view"]["addresses"] == 3)
        .await;
    let svid = cluster.svid("n1", Some(&id)).await;
    let channel = cluster.channel(Some(&svid)).await.unwrap();
    let opened = AdsClient::open_with(channel, Some(&token("n1"))).await;
    assert!(opened.err().unwrap().message().contains("/ns/shop/sa/web"));
}

/// A token that has expired is one that its issuer has taken out of the file.
#[tokio::test]
async fn withdrawn_token_ends_its_stream() {
    let cluster = Cluster::start_alone().await;
    let channel = cluster.channel(None).await.unwrap();
    let mut client = AdsClient::open_with(channel.clone(), Some(&token("n1")))
        .await
        .unwrap();
    client.subscribe(type_url::ADDRESS).await;
    client.next().await.unwrap();
    let tokens = cluster.path("tokens.json");
    let text = std::fs::read_to_string(&tokens).unwrap();
    write_by_rename(&tokens, &text.replace("\"n1\"", "\"n3\""));
    let refused = client.next().await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(
        refused.message().contains("or no longer"),
        "{}",
        refused.message()
    );
    assert_eq!(cluster.metric(REFUSED_UNKNOWN_TOKEN).await, 1.0);
    // Nobody else is touched by it.
    let other = AdsClient::open_with(channel, Some(&token("n2"))).await;
    other.unwrap();
}

const REFUSED_UNKNOWN_TOKEN: &str = "tulle_xds_refused_streams_total{reason=\"unknown_token\"}";
const REFUSED_NO_CREDENTIAL: &str = "tulle_xds_refused_streams_total{reason=\"no_credential\"}";

#[tokio::test]
async fn bad_certificates_do_not_pass_the_handshake() {
    let cluster = Cluster::start_alone().await;
    let own = Forge::open(
        &cluster.path("ca"),
        &cluster.trust_domain().parse().unwrap(),
    )
    .unwrap();
    let other = Forge::new(&"tion.tulle".parse().unwrap()).unwrap();
    let foreign_id = "spiffe://tion.tulle/ns/tulle-system/sa/node-proxy"
        .parse()
        .unwrap();
    let attempts = [
        (
            own.svid(&cluster.node_proxy(), Flaw::Expired).unwrap(),
            "expired",
        ),
        (
            own.svid(&cluster.node_proxy(), Flaw::NoSan).unwrap(),
            "no_san",
        ),
        (
            own.svid(&cluster.node_proxy(), Flaw::TwoSans).unwrap(),
            "several_sans",
        ),
        (
            own.svid(&cluster.node_proxy(), Flaw::SelfSigned).unwrap(),
            "unknown_authority",
        ),
        (
            other.svid(&foreign_id, Flaw::None).unwrap(),
            "wrong_trust_domain",
        ),
    ];
    for (svid, reason) in attempts {
        // With TLS 1.3 the client learns of the refusal only at its first read.
        let refused = match cluster.channel(Some(&svid)).await {
            Err(_) => true,
            Ok(channel) => AdsClient::open(channel).await.is_err(),
        };
        assert!(refused, "{reason}");
        let metric = format!("tulle_grpc_connections_refused_total{{reason=\"{reason}\"}}");
        cluster.wait_metric(&metric, 1.0).await;
    }
    // The genuine one passes.
    let svid = own.svid(&cluster.node_proxy(), Flaw::None).unwrap();
    AdsClient::open(cluster.channel(Some(&svid)).await.unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn reconnected_client_gets_only_differences() {
    let cluster = Cluster::start_alone().await;
    deploy(&cluster);
    let mut client = cluster.ads().await;
    client.subscribe(type_url::ADDRESS).await;
    let mut held = BTreeMap::new();
    while held.len() < 3 {
        let response = client.next().await.unwrap();
        held.extend(response.resources.into_iter().map(|r| (r.name, r.version)));
    }
    drop(client);
    let (client, response) = come_back(&cluster, held.clone()).await;
    assert_eq!(
        (response.resources.len(), response.removed_resources.len()),
        (0, 0)
    );
    drop(client);
    held.insert("koornacht//Pod/shop/long-gone".to_owned(), "1".to_owned());
    held.insert("koornacht//Pod/shop/a".to_owned(), "old".to_owned());
    let (_client, response) = come_back(&cluster, held).await;
    assert_eq!(response.resources[0].name, "koornacht//Pod/shop/a");
    assert_eq!(
        response.removed_resources,
        ["koornacht//Pod/shop/long-gone"]
    );
}

/// A client that says what it holds, and the server's answer to that.
async fn come_back(
    cluster: &Cluster,
    held: BTreeMap<String, String>,
) -> (AdsClient, DeltaDiscoveryResponse) {
    let mut client = cluster.ads().await;
    let request = DeltaDiscoveryRequest {
        initial_resource_versions: held,
        ..first_request(type_url::ADDRESS)
    };
    client.send(request).await;
    let response = client.next().await.unwrap();
    (client, response)
}

#[tokio::test]
async fn stream_ends_with_its_certificate_and_the_next_one_goes_on() {
    let cluster = Cluster::start_alone().await;
    deploy(&cluster);
    let mut other = cluster.ads().await;
    other.subscribe(type_url::ADDRESS).await;
    other.next().await.unwrap();
    let svid = cluster.svid_for("n1", SHORT_LIFE).await;
    let channel = cluster.channel(Some(&svid)).await.unwrap();
    let mut client = AdsClient::open(channel.clone()).await.unwrap();
    client.subscribe(type_url::ADDRESS).await;
    let mut held = BTreeMap::new();
    let ended = loop {
        match client.next().await {
            Ok(response) => {
                held.extend(response.resources.into_iter().map(|r| (r.name, r.version)))
            }
            Err(ended) => break ended,
        }
    };
    assert!(SystemTime::now() > svid.not_after(), "not before its time");
    assert_eq!(held.len(), 3);
    // A status by which a client tries again, and knows why.
    assert_eq!(ended.code(), Code::Unavailable);
    assert!(
        ended.message().contains("is over: connect anew"),
        "{}",
        ended.message()
    );
    // The connection itself ends as well: a new stream would need a new handshake, which fails.
    assert!(AdsClient::open(channel).await.is_err());
    let (_client, response) = come_back(&cluster, held).await;
    assert!(response.resources.is_empty() && response.removed_resources.is_empty());
    // Nobody else is touched by it.
    cluster.apply("pod-c", &pod("c", "n1", "10.1.1.9", "web"));
    other
        .wait("the new pod", |d| d.workloads().count() == 3)
        .await;
}

/// A client that goes on with its HTTP/2 connection whatever it is told.
#[tokio::test]
async fn connection_whose_certificate_is_over_is_closed() {
    let cluster = Cluster::start_alone().await;
    let svid = cluster.svid_for("n1", SHORT_LIFE).await;
    let stream = TcpStream::connect(cluster.running().listen).await.unwrap();
    let mut stream = cluster
        .client_tls(Some(&svid))
        .connect(stream)
        .await
        .unwrap();
    // The preface and empty settings; not one request.
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    stream.flush().await.unwrap();
    let mut frames = Vec::new();
    let end = timeout(DEADLINE, stream.read_to_end(&mut frames)).await;
    let _closed = end.expect("the connection goes on");
    assert!(SystemTime::now() > svid.not_after(), "not before its time");
    let goaway = |frames: &[u8]| {
        let mut rest = frames;
        while let Some((head, after)) = rest.split_first_chunk::<9>() {
            if head[3] == GOAWAY {
                return true;
            }
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            rest = after
                .get(usize::try_from(len).unwrap()..)
                .unwrap_or_default();
        }
        false
    };
    assert!(goaway(&frames), "{frames:?}");
}

const GOAWAY: u8 = 7;
/// Seconds; enough for a handshake on a busy machine.
const SHORT_LIFE: i64 = 4;

#[tokio::test]
async fn restarted_server_takes_nothing_away() {
    let mut cluster = Cluster::start_alone().await;
    deploy(&cluster);
    let mut client = cluster.ads().await;
    client.subscribe(type_url::ADDRESS).await;
    let mut held = BTreeMap::new();
    while held.len() < 3 {
        let response = client.next().await.unwrap();
        held.extend(response.resources.into_iter().map(|r| (r.name, r.version)));
    }
    cluster.stop().await;
    // The stream ends with a reason, not with a reset.
    let end = loop {
        if let Err(status) = client.next().await {
            break status;
        }
    };
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    cluster.start().await;
    let mut client = cluster.ads().await;
    let request = DeltaDiscoveryRequest {
        initial_resource_versions: held,
        ..first_request(type_url::ADDRESS)
    };
    client.send(request).await;
    let response = client.next().await.unwrap();
    assert_eq!(
        (response.resources.len(), response.removed_resources.len()),
        (0, 0)
    );
}

#[tokio::test]
async fn large_first_answer_comes_in_parts() {
    let cluster = Cluster::start_alone().await;
    let pods: String = (0..8000)
        .map(|n| {
            let ip = std::net::Ipv4Addr::from(0x0a01_0000 + n);
            format!(
                "---\n{}",
                pod(&format!("pod-{n:05}"), "n1", &ip.to_string(), "web")
            )
        })
        .collect();
    cluster.apply("pods", &pods);
    cluster
        .wait_status("the pods", |s| s["view"]["addresses"] == 8000)
        .await;
    let mut client = cluster.ads().await;
    client.subscribe(type_url::ADDRESS).await;
    let mut parts = 0;
    while client.directory.workloads_len() < 8000 {
        client.next().await.unwrap();
        parts += 1;
    }
    assert!(parts > 1, "{parts}");
}
