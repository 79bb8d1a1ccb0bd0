//! A scripted client against one stream, without a network.

use std::time::Duration;

use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tulle_model::{
    Authorization, AuthorizationAction, AuthorizationScope, Change, NamespacedName, WorkloadUid,
};
use tulle_wire::{type_url, xds};

use super::*;
use crate::{ads::entrance::Entrance, snapshot::tests::workload};

struct Client {
    requests: Option<mpsc::Sender<Result<DeltaDiscoveryRequest, Status>>>,
    responses: mpsc::Receiver<Result<EncodedResponse, Status>>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    snapshot: Snapshot,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Client {
    fn connect() -> Self {
        let snapshot = Snapshot::default();
        let (snapshots, snapshots_rx) = watch::channel(Arc::new(snapshot.clone()));
        let (requests, requests_rx) = mpsc::channel(64);
        let (responses_tx, responses) = mpsc::channel(2);
        let (metrics, stop) = (Arc::new(Metrics::new()), CancellationToken::new());
        let context = StreamContext {
            snapshots: snapshots_rx,
            metrics: Arc::clone(&metrics),
            stop: stop.clone(),
            identifier: Arc::from("test"),
            nodes: Arc::default(),
            address: None,
            expired: CancellationToken::new(),
            credential: None,
            entrance: Entrance::new(metrics.xds_views_awaited.clone()),
        };
        tokio::spawn(drive(
            context,
            ReceiverStream::new(requests_rx),
            responses_tx,
        ));
        Client {
            requests: Some(requests),
            responses,
            snapshots,
            snapshot,
            metrics,
            stop,
        }
    }

    /// A client whose server has read its source.
    fn ready() -> Self {
        let mut client = Client::connect();
        client.snapshot.ready = true;
        client.publish();
        client
    }

    fn publish(&mut self) {
        self.snapshot.revision += 1;
        self.snapshots.send_replace(Arc::new(self.snapshot.clone()));
    }

    fn put(&mut self, pod: &str, ip: &str) {
        self.snapshot
            .apply(Change::Workload(Arc::new(workload(pod, ip, None))));
    }

    fn put_policy(&mut self, name: &str) {
        self.snapshot.apply(Change::Policy(Arc::new(Authorization {
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            scope: AuthorizationScope::WorkloadSelector,
            action: AuthorizationAction::Deny,
            rules: Vec::new(),
            dry_run: false,
        })));
    }

    async fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests
            .as_ref()
            .unwrap()
            .send(Ok(request))
            .await
            .unwrap();
    }

    /// The first request of a type, of all resources.
    async fn subscribe(&self, type_url: &str) {
        let node = Some(Node {
            id: "n1".to_owned(),
            ..Node::default()
        });
        self.send(DeltaDiscoveryRequest {
            node,
            type_url: type_url.to_owned(),
            ..Default::default()
        })
        .await;
    }

    async fn next(&mut self) -> Result<EncodedResponse, Status> {
        let next = timeout(Duration::from_secs(10), self.responses.recv()).await;
        next.expect("no response in time")
            .expect("the stream ended without a status")
    }

    /// The next response's type and names, short.
    async fn names(&mut self) -> (String, Vec<String>, Vec<String>) {
        let response = self.next().await.unwrap();
        names_of(&response)
    }

    /// Nothing is on its way: an unknown name is answered by its removal, and nothing comes before it.
    async fn expect_quiet(&mut self, type_url: &str) {
        let probe = request(type_url, &["probe"], &[], "");
        self.send(probe).await;
        let (_, puts, removed) = self.names().await;
        assert_eq!((puts.len(), removed), (0, vec!["probe".to_owned()]));
    }
}

fn names_of(response: &EncodedResponse) -> (String, Vec<String>, Vec<String>) {
    use prost::Message as _;
    let short = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let puts = response
        .resources
        .iter()
        .map(|bytes| short(&xds::Resource::decode(bytes.clone()).unwrap().name));
    let removed = response.removed_resources.iter().map(|n| short(n));
    let kind = response
        .type_url
        .rsplit('.')
        .next()
        .unwrap_or_default()
        .to_owned();
    (kind, puts.collect(), removed.collect())
}

fn request(
    url: &str,
    subscribe: &[&str],
    unsubscribe: &[&str],
    nonce: &str,
) -> DeltaDiscoveryRequest {
    let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    DeltaDiscoveryRequest {
        type_url: url.to_owned(),
        resource_names_subscribe: owned(subscribe),
        resource_names_unsubscribe: owned(unsubscribe),
        response_nonce: nonce.to_owned(),
        ..Default::default()
    }
}

fn expect(found: (String, Vec<String>, Vec<String>), kind: &str, puts: &[&str], removed: &[&str]) {
    let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(found, (kind.to_owned(), owned(puts), owned(removed)));
}

#[tokio::test]
async fn nothing_is_answered_before_the_source_is_read() {
    let mut client = Client::connect();
    client.subscribe(type_url::ADDRESS).await;
    client.put("a", "10.1.1.1");
    client.publish();
    assert!(
        timeout(Duration::from_millis(100), client.responses.recv())
            .await
            .is_err()
    );
    client.snapshot.ready = true;
    client.publish();
    expect(client.names().await, "Address", &["a"], &[]);
}

#[tokio::test]
async fn every_type_gets_a_first_answer() {
    let mut client = Client::ready();
    for (url, kind) in [
        (type_url::ADDRESS, "Address"),
        (type_url::AUTHORIZATION, "Authorization"),
        (type_url::TRUST_BUNDLE, "TrustBundle"),
    ] {
        client.subscribe(url).await;
        let response = client.next().await.unwrap();
        assert!(!response.nonce.is_empty());
        expect(names_of(&response), kind, &[], &[]);
    }
}

#[tokio::test]
async fn first_request_without_node_is_refused() {
    let mut client = Client::ready();
    client.send(request(type_url::ADDRESS, &[], &[], "")).await;
    assert_eq!(
        client.next().await.unwrap_err().code(),
        tonic::Code::InvalidArgument
    );
}

#[tokio::test]
async fn acknowledgement_is_not_answered() {
    let mut client = Client::ready();
    client.put("a", "10.1.1.1");
    client.publish();
    client.subscribe(type_url::ADDRESS).await;
    let nonce = client.next().await.unwrap().nonce;
    client
        .send(request(type_url::ADDRESS, &[], &[], &nonce))
        .await;
    client.expect_quiet(type_url::ADDRESS).await;
    assert!(
        client
            .metrics
            .render(&[])
            .contains("tulle_xds_acks_total{type=\"address\"} 1")
    );
}

#[tokio::test]
async fn refused_resource_is_sent_again_only_when_it_changes() {
    let mut client = Client::ready();
    client.put("a", "10.1.1.1");
    client.put("b", "10.1.1.2");
    client.publish();
    client.subscribe(type_url::ADDRESS).await;
    let nonce = client.next().await.unwrap().nonce;
    // As ztunnel writes it: code 0.
    let status = xds::Status {
        code: 0,
        message: "a: cannot".to_owned(),
        details: Vec::new(),
    };
    let nack = DeltaDiscoveryRequest {
        error_detail: Some(status),
        ..request(type_url::ADDRESS, &[], &[], &nonce)
    };
    client.send(nack).await;
    client.expect_quiet(type_url::ADDRESS).await;
    client.put("b", "10.9.9.9");
    client.publish();
    expect(client.names().await, "Address", &["b"], &[]);
    client.put("a", "10.9.9.8");
    client.publish();
    expect(client.names().await, "Address", &["a"], &[]);
    assert!(
        client
            .metrics
            .render(&[])
            .contains("tulle_xds_nacks_total{type=\"address\"} 1")
    );
}

#[tokio::test]
async fn stale_nonce_does_not_lose_the_subscription() {
    let mut client = Client::ready();
    let node = Some(Node {
        id: "n1".to_owned(),
        ..Node::default()
    });
    let first = DeltaDiscoveryRequest {
        node,
        ..request(type_url::ADDRESS, &["*"], &["*"], "")
    };
    client.send(first).await;
    expect(client.names().await, "Address", &[], &[]);
    client.put("a", "10.1.1.1");
    client.publish();
    client
        .send(request(
            type_url::ADDRESS,
            &["koornacht//Pod/shop/a"],
            &[],
            "stale",
        ))
        .await;
    expect(client.names().await, "Address", &["a"], &[]);
    assert!(
        client
            .metrics
            .render(&[])
            .contains("tulle_xds_stale_acks_total{type=\"address\"} 1")
    );
}

#[tokio::test]
async fn unknown_type_keeps_the_stream_open() {
    let mut client = Client::ready();
    client
        .subscribe("type.googleapis.com/envoy.config.cluster.v3.Cluster")
        .await;
    client.subscribe("").await;
    client.subscribe(type_url::ADDRESS).await;
    expect(client.names().await, "Address", &[], &[]);
    assert!(
        client
            .metrics
            .render(&[])
            .contains("tulle_xds_unknown_types_total 2")
    );
}

#[tokio::test]
async fn policies_come_before_workloads_and_leave_after_them() {
    let mut client = Client::ready();
    for url in [type_url::ADDRESS, type_url::AUTHORIZATION] {
        client.subscribe(url).await;
        client.next().await.unwrap();
    }
    client.put("a", "10.1.1.1");
    client.put_policy("p");
    client.put_policy("q");
    client.publish();
    expect(client.names().await, "Authorization", &["p", "q"], &[]);
    expect(client.names().await, "Address", &["a"], &[]);
    client.put("a", "10.1.1.2");
    client.put_policy("r");
    client
        .snapshot
        .apply(Change::PolicyGone(NamespacedName::new("shop", "p")));
    client.publish();
    expect(client.names().await, "Authorization", &["r"], &[]);
    expect(client.names().await, "Address", &["a"], &[]);
    expect(client.names().await, "Authorization", &[], &["p"]);
}

#[tokio::test]
async fn types_that_were_not_asked_for_are_not_sent() {
    let mut client = Client::ready();
    client.subscribe(type_url::AUTHORIZATION).await;
    client.next().await.unwrap();
    client.put("a", "10.1.1.1");
    client.publish();
    client.expect_quiet(type_url::AUTHORIZATION).await;
}

#[tokio::test]
async fn slow_client_gets_the_newest_state_in_few_answers() {
    let mut client = Client::ready();
    client.subscribe(type_url::ADDRESS).await;
    client.next().await.unwrap();
    // Nobody reads while the mesh changes a thousand times.
    for n in 0..1000u32 {
        client.put("a", &std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string());
        client.put(
            &format!("p{n}"),
            &std::net::Ipv4Addr::from(0x0b00_0000 + n).to_string(),
        );
        client.publish();
        tokio::task::yield_now().await;
    }
    client.snapshot.apply(Change::WorkloadGone(WorkloadUid(
        "koornacht//Pod/shop/p0".into(),
    )));
    client.publish();
    let mut seen = std::collections::BTreeSet::new();
    let mut responses = 0;
    while seen.len() < 1000 || seen.contains("p0") {
        let (_, puts, removed) = client.names().await;
        seen.extend(puts);
        removed.iter().for_each(|n| assert!(seen.remove(n)));
        responses += 1;
    }
    // Two wait in the channel, one in the outbox; the rest is one difference.
    assert!(responses <= 6, "{responses}");
    client.expect_quiet(type_url::ADDRESS).await;
}

#[tokio::test]
async fn end_of_the_server_ends_the_stream_with_a_reason() {
    let mut client = Client::ready();
    client.subscribe(type_url::ADDRESS).await;
    client.next().await.unwrap();
    client.stop.cancel();
    assert_eq!(
        client.next().await.unwrap_err().code(),
        tonic::Code::Unavailable
    );
}

#[tokio::test]
async fn end_of_the_client_ends_the_stream() {
    let mut client = Client::ready();
    client.subscribe(type_url::ADDRESS).await;
    client.next().await.unwrap();
    client.requests = None;
    let end = timeout(Duration::from_secs(10), client.responses.recv())
        .await
        .unwrap();
    assert!(end.is_none());
}
