//! The admin port.

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Cluster, pod, service, slice};

#[tokio::test]
async fn pages_say_what_is_so() {
    let cluster = Cluster::start_alone().await;
    cluster.apply("service", &service("service.cilium.io/affinity: nearest"));
    cluster.apply("pod-a", &pod("a", "n1", "10.1.1.1", "web"));
    cluster.apply("slice", &slice(&[("a", "10.1.1.1")]));
    cluster
        .wait_status("the pod", |s| s["view"]["addresses"] == 2)
        .await;
    assert_eq!(cluster.page("/healthz").await.0, 200);
    assert_eq!(cluster.page("/readyz").await.0, 200);
    assert_eq!(cluster.page("/nothing").await.0, 404);
    let dump: Value = serde_json::from_str(&cluster.page("/dump").await.1).unwrap();
    assert_eq!(dump["workloads"][0]["name"], "a");
    assert_eq!(
        dump["services"][0]["hostname"],
        "web.shop.svc.cluster.local"
    );
    assert_eq!(dump["nodes"], serde_json::json!(["n1", "n2"]));
    let status: Value = serde_json::from_str(&cluster.page("/status").await.1).unwrap();
    assert_eq!(
        status["source"]["warnings"][0]["object"],
        "Service shop/web"
    );
    assert_eq!(status["store"]["kind"], "memory");
    let metrics = cluster.page("/metrics").await.1;
    assert!(
        metrics.contains("tulle_view_addresses 2\n") && metrics.ends_with("# EOF\n"),
        "{metrics}"
    );
    // No page shows a key.
    for page in ["/dump", "/status", "/metrics"] {
        assert!(
            !cluster.page(page).await.1.contains("PRIVATE KEY"),
            "{page}"
        );
    }
}

#[tokio::test]
async fn bad_file_is_told_with_line_and_field_and_taken_back() {
    let cluster = Cluster::start_alone().await;
    cluster.apply("service", &service(""));
    cluster
        .wait_status("the service", |s| s["view"]["addresses"] == 1)
        .await;
    cluster.apply("service", &service("").replace("port: 80", "port: eighty"));
    let status = cluster
        .wait_status("the problem", |s| s["source"]["problems"][0].is_object())
        .await;
    let problem = &status["source"]["problems"][0];
    assert!(problem["path"].as_str().unwrap().ends_with("/service.yaml"));
    assert_eq!(problem["line"], 4);
    assert_eq!(problem["field"], "spec.ports[0].port");
    // The last good content stays in force.
    assert_eq!(status["view"]["addresses"], 1);
    cluster.apply("service", &service(""));
    cluster
        .wait_status("its end", |s| {
            s["source"]["problems"] == serde_json::json!([])
        })
        .await;
}

#[tokio::test]
async fn bad_node_tokens_are_told() {
    let cluster = Cluster::start_alone().await;
    crate::support::write_by_rename(&cluster.path("tokens.json"), "{");
    let refused = cluster.create_certificate(Some("x"), None, |_| ()).await;
    assert!(refused.is_err());
    let status = cluster
        .wait_status("the fault", |s| s["nodeTokens"].is_string())
        .await;
    assert!(
        status["nodeTokens"]
            .as_str()
            .unwrap()
            .contains("tokens.json")
    );
    // The tokens read before are still good.
    cluster.svid("n1", None).await;
}

#[tokio::test]
async fn bad_requests_do_not_stop_the_port() {
    let cluster = Cluster::start_alone().await;
    for bytes in [
        &b"\x00\x01\x02"[..],
        b"POST /dump HTTP/1.1\r\nhost: x\r\n\r\n",
        &[b'x'; 20_000],
    ] {
        let mut stream = TcpStream::connect(cluster.running().admin).await.unwrap();
        drop(stream.write_all(bytes).await);
        drop(stream.shutdown().await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(cluster.page("/healthz").await.0, 200);
}
