//! One server with a real etcd: what it publishes, and what it survives.

use tulle_xds_server::store::{EtcdError, KeyState, Reader, WatchRange};

use crate::{
    etcd_rig::Etcd,
    support::{Cluster, endpoints, pod, service, slice},
};

const PREFIX: &str = "/tulle/v1/tion";

fn deploy(cluster: &Cluster) {
    cluster.apply("service", &service("service.cilium.io/global: \"true\""));
    cluster.apply("pod-a", &pod("a", "n1", "10.2.1.1", "web"));
    cluster.apply("slice", &slice(&[("a", "10.2.1.1")]));
}

async fn start(etcd: &Etcd) -> Cluster {
    let mut cluster = Cluster::new("tion", 2, etcd.store());
    deploy(&cluster);
    cluster.start().await;
    cluster
        .wait_status("publication", |s| s["store"]["published"] == true)
        .await;
    cluster
}

#[tokio::test]
async fn state_is_published_and_follows() {
    let etcd = Etcd::start("tion").await;
    let cluster = start(&etcd).await;
    let info = etcd.value(&format!("{PREFIX}/info")).await.unwrap();
    assert_eq!(
        info,
        r#"{"name":"tion","id":2,"trustDomain":"tion.tulle","version":2}"#
    );
    assert!(
        etcd.value(&format!("{PREFIX}/bundle"))
            .await
            .unwrap()
            .contains("BEGIN CERTIFICATE")
    );
    let slice = format!("{PREFIX}/slices/shop/0-0");
    assert!(etcd.value(&slice).await.unwrap().contains("10.2.1.1"));
    let web = format!("{PREFIX}/services/shop/web");
    assert!(etcd.value(&web).await.is_some());
    // A service that is no longer global is nobody else's business.
    cluster.apply("service", &service(""));
    etcd.wait_value(&web, |v| v.is_none()).await;
    cluster.delete("pod-a");
    etcd.wait_value(&slice, |v| v.is_none()).await;
    let beat = etcd.value(&format!("{PREFIX}/heartbeat")).await;
    etcd.wait_value(&format!("{PREFIX}/heartbeat"), |v| {
        v.is_some() && v != beat.as_deref()
    })
    .await;
}

#[tokio::test]
async fn remote_user_reads_and_cannot_write() {
    let etcd = Etcd::start("tion").await;
    // Setting up twice changes nothing.
    etcd.init("tion").await;
    let _cluster = start(&etcd).await;
    let key = format!("{PREFIX}/info");
    let mut remote = etcd.client("remote").await.unwrap();
    assert_eq!(remote.get(key.as_str(), None).await.unwrap().kvs().len(), 1);
    let refused = remote.put(key.as_str(), "mine", None).await.unwrap_err();
    assert!(
        refused.to_string().contains("permission denied"),
        "{refused}"
    );
    let refused = remote.delete(key.as_str(), None).await.unwrap_err();
    assert!(
        refused.to_string().contains("permission denied"),
        "{refused}"
    );
    let refused = remote
        .get("/tulle/v1/koornacht/info", None)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("permission denied"),
        "{refused}"
    );
    // The own user has no rights outside its prefix, a certificate without a user has none at all.
    let mut own = etcd.client("xds-server").await.unwrap();
    assert!(own.put("/elsewhere", "x", None).await.is_err());
    let mut stranger = etcd.client("stranger").await.unwrap();
    assert!(stranger.get(key.as_str(), None).await.is_err());
}

async fn listed(reader: &mut Reader) -> (Vec<(String, Vec<u8>)>, i64) {
    let mut list = reader.list(&format!("{PREFIX}/"), 0);
    let mut pairs = Vec::new();
    while let Some(page) = reader.next_page(&mut list).await.unwrap() {
        pairs.extend(page.pairs);
    }
    (pairs, list.revision())
}

#[tokio::test]
async fn reader_lists_and_watches() {
    let etcd = Etcd::start("tion").await;
    let cluster = start(&etcd).await;
    let info = format!("{PREFIX}/info");
    let mut reader = Reader::connect(&etcd.settings("remote"), 0, &info)
        .await
        .unwrap();
    assert!(reader.get(&info).await.unwrap().0.is_some());
    let (pairs, revision) = listed(&mut reader).await;
    let slices: Vec<_> = pairs
        .iter()
        .filter(|(k, _)| k.contains("/slices/"))
        .collect();
    assert_eq!(slices.len(), 1);
    let key = slices[0].0.clone();
    reader
        .watch(&[WatchRange::Prefix(format!("{PREFIX}/"))], revision)
        .await
        .unwrap();
    cluster.delete("pod-a");
    loop {
        let events = reader.next().await.unwrap();
        if let Some(event) = events.iter().find(|e| e.key == key) {
            assert_eq!(event.now, KeyState::Deleted);
            return;
        }
    }
}

#[tokio::test]
async fn compacted_revision_ends_the_watch() {
    let etcd = Etcd::start("tion").await;
    let _cluster = start(&etcd).await;
    let info = format!("{PREFIX}/info");
    let mut reader = Reader::connect(&etcd.settings("remote"), 0, &info)
        .await
        .unwrap();
    let (_, revision) = listed(&mut reader).await;
    // Between the list and the watch, history goes on and is thrown away.
    let mut root = etcd.client("root").await.unwrap();
    for n in 0..5 {
        root.put(format!("{PREFIX}/later"), n.to_string(), None)
            .await
            .unwrap();
    }
    root.compact(revision + 4, None).await.unwrap();
    reader
        .watch(&[WatchRange::Prefix(format!("{PREFIX}/"))], revision)
        .await
        .unwrap();
    let ended = loop {
        if let Err(error) = reader.next().await {
            break error;
        }
    };
    assert!(
        matches!(&ended, EtcdError::WatchEnded { reason } if reason == "compacted"),
        "{ended}"
    );
}

#[tokio::test]
async fn stale_keys_of_an_earlier_life_are_removed() {
    let etcd = Etcd::start("tion").await;
    let mut cluster = start(&etcd).await;
    cluster.stop().await;
    cluster.delete("pod-a");
    let stranger = format!("{PREFIX}/slices/shop/stranger");
    etcd.client("root")
        .await
        .unwrap()
        .put(stranger.as_str(), "{}", None)
        .await
        .unwrap();
    cluster.start().await;
    etcd.wait_value(&format!("{PREFIX}/slices/shop/0-0"), |v| v.is_none())
        .await;
    etcd.wait_value(&stranger, |v| v.is_none()).await;
    assert!(
        etcd.value(&format!("{PREFIX}/services/shop/web"))
            .await
            .is_some()
    );
    // Only the differences were written.
    assert_eq!(cluster.metric("tulle_store_writes_total").await, 2.0);
}

#[tokio::test]
async fn etcd_that_stops_delays_publication_only() {
    let mut etcd = Etcd::start("tion").await;
    let cluster = start(&etcd).await;
    let mut client = cluster.ads().await;
    client.subscribe_all().await;
    client.wait("the pod", |d| endpoints(d) == ["a"]).await;
    etcd.stop();
    cluster
        .wait_status("the loss", |s| s["store"]["connected"] == false)
        .await;
    // The own nodes are served as if nothing were.
    cluster.apply("pod-b", &pod("b", "n1", "10.2.1.2", "web"));
    cluster.apply("slice", &slice(&[("b", "10.2.1.2")]));
    client.wait("the change", |d| endpoints(d) == ["b"]).await;
    assert_eq!(cluster.page("/readyz").await.0, 200);
    cluster.delete("pod-a");
    client
        .wait("the pod's end", |d| d.workloads_len() == 1)
        .await;
    etcd.start_again().await;
    cluster
        .wait_status("its return", |s| s["store"]["published"] == true)
        .await;
    let slice = etcd.value(&format!("{PREFIX}/slices/shop/0-0")).await;
    let slice = slice.unwrap();
    assert!(
        slice.contains("10.2.1.2") && !slice.contains("10.2.1.1"),
        "{slice}"
    );
    let status = cluster
        .wait_status("peace", |s| s["store"]["lastError"].is_null())
        .await;
    assert_eq!(status["store"]["connected"], true);
}

#[tokio::test]
async fn etcd_that_lost_everything_is_filled_again() {
    let mut etcd = Etcd::start("tion").await;
    let cluster = start(&etcd).await;
    etcd.stop();
    cluster
        .wait_status("the loss", |s| s["store"]["connected"] == false)
        .await;
    etcd.wipe();
    etcd.start_again().await;
    etcd.init("tion").await;
    cluster
        .wait_status("its return", |s| s["store"]["published"] == true)
        .await;
    for key in [
        "info",
        "bundle",
        "synced",
        "heartbeat",
        "slices/shop/0-0",
        "services/shop/web",
    ] {
        assert!(
            etcd.value(&format!("{PREFIX}/{key}")).await.is_some(),
            "{key}"
        );
    }
}

#[tokio::test]
async fn server_starts_before_its_etcd() {
    let mut etcd = Etcd::start("tion").await;
    etcd.stop();
    let mut cluster = Cluster::new("tion", 2, etcd.store());
    deploy(&cluster);
    cluster.start().await;
    let mut client = cluster.ads().await;
    client.subscribe_all().await;
    client.wait("the pod", |d| endpoints(d) == ["a"]).await;
    let status = cluster
        .wait_status("the error", |s| s["store"]["lastError"].is_string())
        .await;
    let error = status["store"]["lastError"].as_str().unwrap();
    assert!(error.contains(&etcd.endpoint()), "{error}");
    etcd.start_again().await;
    cluster
        .wait_status("publication", |s| s["store"]["published"] == true)
        .await;
}
