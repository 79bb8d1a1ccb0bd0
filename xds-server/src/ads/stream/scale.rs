//! What one change costs the server for each node, in a small and in a large mesh.
//!
//! `cargo test -p tulle-xds-server one_change -- --nocapture` prints the figures; all streams run on one thread, so that the time
//! for all of them is the CPU's.

use std::time::{Duration, Instant};

use tulle_model::Change;

use super::*;
use crate::{ads::entrance::Entrance, snapshot::tests::workload};

/// Nodes that hold a whole mesh.
struct Nodes {
    clients: Vec<mpsc::Receiver<Result<EncodedResponse, Status>>>,
    requests: Vec<mpsc::Sender<Result<DeltaDiscoveryRequest, Status>>>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    snapshot: Snapshot,
}

impl Nodes {
    async fn connect(nodes: usize, addresses: u32) -> Self {
        let mut snapshot = Snapshot::default();
        snapshot.ready = true;
        for n in 0..addresses {
            snapshot.apply(pod(n, "10.1.1.1"));
        }
        let (snapshots, snapshots_rx) = watch::channel(Arc::new(snapshot.clone()));
        let mut all = Nodes {
            clients: Vec::new(),
            requests: Vec::new(),
            snapshots,
            snapshot,
        };
        let metrics = Arc::new(Metrics::new());
        for n in 0..nodes {
            let (requests, requests_rx) = mpsc::channel(8);
            let (responses_tx, responses) = mpsc::channel(2);
            let context = StreamContext {
                snapshots: snapshots_rx.clone(),
                metrics: Arc::clone(&metrics),
                stop: CancellationToken::new(),
                identifier: Arc::from("test"),
                nodes: Arc::default(),
                address: None,
                expired: CancellationToken::new(),
                credential: None,
                entrance: Entrance::new(metrics.xds_views_awaited.clone()),
            };
            tokio::spawn(drive(
                context,
                tokio_stream::wrappers::ReceiverStream::new(requests_rx),
                responses_tx,
            ));
            let request = DeltaDiscoveryRequest {
                node: Some(Node {
                    id: format!("node-proxy~n{n}"),
                    ..Node::default()
                }),
                type_url: tulle_wire::type_url::ADDRESS.to_owned(),
                ..Default::default()
            };
            requests.send(Ok(request)).await.unwrap();
            all.requests.push(requests);
            all.clients.push(responses);
            // Nodes come one after the other, each gets the whole mesh.
            let mut held = 0;
            let client = all.clients.last_mut().unwrap();
            while held < addresses {
                let response = client.recv().await.unwrap().unwrap();
                held += u32::try_from(response.resources.len()).unwrap();
            }
        }
        all
    }

    /// One pod changes: how long each node waits for it, sorted.
    async fn change(&mut self, round: u8) -> Vec<Duration> {
        self.snapshot.apply(pod(7, &format!("10.9.9.{round}")));
        self.snapshot.revision += 1;
        let began = Instant::now();
        self.snapshots.send_replace(Arc::new(self.snapshot.clone()));
        let mut waits = Vec::new();
        for client in &mut self.clients {
            let response = client.recv().await.unwrap().unwrap();
            assert_eq!(response.resources.len(), 1);
            waits.push(began.elapsed());
        }
        waits.sort();
        waits
    }

    /// The quickest of some rounds, to leave the machine's other work out.
    async fn cost(&mut self) -> (Duration, Duration) {
        let mut best = (Duration::MAX, Duration::MAX);
        for round in 1..=9 {
            let waits = self.change(round).await;
            let len = u32::try_from(waits.len()).unwrap();
            let p99 = waits[waits.len() * 99 / 100];
            best = (best.0.min(waits[waits.len() - 1] / len), best.1.min(p99));
        }
        best
    }
}

fn pod(n: u32, ip: &str) -> Change {
    Change::Workload(Arc::new(workload(&format!("p{n}"), ip, Some("web"))))
}

#[tokio::test]
async fn one_change_costs_each_node_the_same_in_a_mesh_of_any_size() {
    let mut figures = Vec::new();
    for (nodes, addresses) in [(100, 250), (100, 5_000)] {
        let (each, p99) = Nodes::connect(nodes, addresses).await.cost().await;
        println!(
            "{nodes} nodes, {addresses} addresses: {each:?} of CPU for each node, p99 {p99:?}"
        );
        figures.push(each);
    }
    // Twenty times the mesh; the difference of two maps costs their depth.
    assert!(
        figures[1] < figures[0] * 6 + Duration::from_micros(100),
        "{figures:?}"
    );
}

#[tokio::test]
async fn a_thousand_nodes_receive_one_change_at_once() {
    let (each, p99) = Nodes::connect(1000, 200).await.cost().await;
    println!("1000 nodes, 200 addresses: {each:?} of CPU for each node, p99 {p99:?}");
    assert!(p99 < Duration::from_secs(1), "{p99:?}");
}
