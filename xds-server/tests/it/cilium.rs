//! Cilium's Cluster Mesh with real etcds: a cluster of theirs is read, and one of ours is published for them.

use etcd_client::{Client, GetOptions};
use tokio::time::Instant;
use tulle_model::TunnelProtocol;

use crate::{
    etcd_rig::Etcd,
    support::{Cluster, endpoints, pod, service, slice},
};

const GLOBAL: &str = "service.cilium.io/global: \"true\"";
const CONFIG: &str = r#"{"id":3,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255,"serviceExportsEnabled":false,"endpointSlicesExportMode":"services-and-endpointslices"}}"#;
const SERVICE: &str = r#"{"cluster":"cluster3","namespace":"shop","name":"web","frontends":{"10.96.50.104":{"":{"Protocol":"TCP","Port":80}}},"backends":{"10.244.2.74":{"":{"Protocol":"TCP","Port":8080}}},"labels":{},"selector":{"name":"web"},"includeExternal":true,"shared":true,"clusterID":3}"#;
const ADDRESS: &str = r#"{"IP":"10.244.2.74","Mask":null,"HostIP":"172.18.0.2","ID":199475,"Key":5,"Metadata":"","K8sNamespace":"shop","K8sPodName":"c","K8sServiceAccount":"default"}"#;
const NODE: &str = r#"{"Name":"node-1","Cluster":"cluster3","IPAddresses":[{"Type":"InternalIP","IP":"172.18.0.2"}],"IPv4AllocCIDR":{"IP":"10.244.0.0","Mask":"////AA=="},"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":null,"IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"","IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":3,"Source":"custom-resource","EncryptionKey":0,"Labels":{"topology.kubernetes.io/zone":"z3"},"Annotations":null,"WireguardPubKey":"","BootID":""}"#;
const LABELS: &str =
    "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=cluster3;k8s:io.kubernetes.pod.namespace=shop;";
const KINDS: [&str; 4] = ["services/v1", "nodes/v1", "identities/v1", "ip/v1"];

async fn put(client: &mut Client, key: &str, value: &str) {
    client.put(key, value, None).await.unwrap();
}

/// What a clustermesh-apiserver of `cluster3` writes, marks last.
async fn write_cluster3(client: &mut Client) {
    for (key, value) in [
        ("cilium/cluster-config/cluster3", CONFIG),
        ("cilium/state/services/v1/cluster3/shop/web", SERVICE),
        ("cilium/state/nodes/v1/cluster3/node-1", NODE),
        ("cilium/state/identities/v1/id/199475", LABELS),
        ("cilium/state/ip/v1/default/10.244.2.74", ADDRESS),
        ("cilium/.heartbeat", "2026-01-01T00:00:00Z"),
    ] {
        put(client, key, value).await;
    }
    mark(client).await;
}

async fn mark(client: &mut Client) {
    for kind in KINDS {
        let key = format!("cilium/synced/cluster3/cilium/state/{kind}");
        put(client, &key, "2026-01-01T00:00:00Z").await;
    }
}

async fn koornacht() -> (Cluster, Etcd) {
    let etcd = Etcd::start("koornacht").await;
    let mut cluster = Cluster::new("koornacht", 1, etcd.store());
    cluster.apply("service", &service(GLOBAL));
    cluster.apply("pod", &pod("k", "n1", "10.1.1.1", "web"));
    cluster.apply("slice", &slice(&[("k", "10.1.1.1")]));
    cluster.start().await;
    (cluster, etcd)
}

async fn wait_state(cluster: &Cluster, remote: &str, state: &str) -> serde_json::Value {
    let status = cluster
        .wait_status(state, |s| s["remotes"][remote]["state"] == state)
        .await;
    status["remotes"][remote].clone()
}

#[tokio::test]
async fn a_cluster_of_cilium_shares_its_global_services() {
    let (koornacht, _etcd) = koornacht().await;
    let etcd = Etcd::start("cluster3").await;
    let mut root = etcd.client("root").await.unwrap();
    let connect = || etcd.connect_with(&koornacht, "cluster3", &[&etcd.endpoint()], "kind: cilium");
    connect();
    let status = koornacht
        .wait_status("the refusal", |s| {
            s["remotes"]["cluster3"]["refused"].is_string()
        })
        .await;
    let refusal = status["remotes"]["cluster3"]["refused"].as_str().unwrap();
    assert!(
        refusal.contains("no key cilium/cluster-config/cluster3"),
        "{refusal}"
    );
    write_cluster3(&mut root).await;
    let line = wait_state(&koornacht, "cluster3", "ready").await;
    assert_eq!(
        (&line["kind"], &line["clusterId"]),
        (&"cilium".into(), &3.into())
    );
    assert_eq!(line["counts"]["identities"], 1);
    assert_eq!(line["synced"]["services"], true);
    let mut view = koornacht.ads().await;
    view.subscribe_all().await;
    view.wait("both", |d| endpoints(d) == ["c", "k"]).await;
    let c = view.directory.workloads().find(|w| w.name == "c").unwrap();
    assert_eq!(c.tunnel_protocol, TunnelProtocol::None);
    assert_eq!(
        (c.node.as_str(), c.locality.zone.as_str()),
        ("node-1", "z3")
    );
    assert_eq!(
        (c.labels.get("app").unwrap().as_str(), c.demoted),
        ("web", false)
    );
    // Scaled to nothing, and back.
    let key = "cilium/state/services/v1/cluster3/shop/web";
    let empty = SERVICE.replace(r#""10.244.2.74":{"":{"Protocol":"TCP","Port":8080}}"#, "");
    put(&mut root, key, &empty).await;
    view.wait("its own", |d| endpoints(d) == ["k"]).await;
    put(&mut root, key, SERVICE).await;
    view.wait("both again", |d| endpoints(d) == ["c", "k"])
        .await;
    // Garbage under the same keys is counted, and the last good state stays.
    for (key, value) in [
        (key, "{"),
        (key, &SERVICE.replace("\"clusterID\":3", "\"clusterID\":4")),
        ("cilium/state/ip/v1/default/10.244.2.75", ADDRESS),
        ("cilium/state/identities/v1/id/7", LABELS),
    ] {
        put(&mut root, key, value).await;
    }
    koornacht
        .wait_status("the count", |s| s["remotes"]["cluster3"]["refusals"] == 4)
        .await;
    assert_eq!(endpoints(&view.directory), ["c", "k"]);
    // No longer global there.
    root.delete(key, None).await.unwrap();
    view.wait("its end", |d| endpoints(d) == ["k"]).await;
}

#[tokio::test]
async fn a_cilium_cluster_that_starts_anew_takes_nothing_away() {
    let (koornacht, _etcd) = koornacht().await;
    let mut etcd = Etcd::start("cluster3").await;
    write_cluster3(&mut etcd.client("root").await.unwrap()).await;
    etcd.connect_with(&koornacht, "cluster3", &[&etcd.endpoint()], "kind: cilium");
    wait_state(&koornacht, "cluster3", "ready").await;
    let mut view = koornacht.ads().await;
    view.subscribe_all().await;
    view.wait("both", |d| {
        endpoints(d) == ["c", "k"] && d.workloads().all(|w| !w.demoted)
    })
    .await;
    // As clustermesh-apiserver does at each start: an empty etcd, the config first, everything, then the marks.
    etcd.stop();
    let silent_since = Instant::now();
    view.wait("silence", |d| {
        d.workloads().any(|w| w.name == "c" && w.demoted)
    })
    .await;
    let took = silent_since.elapsed().as_millis();
    assert!((1500..=3300).contains(&took), "demoted after {took} ms");
    etcd.wipe();
    etcd.start_again().await;
    etcd.init("cluster3").await;
    let mut root = etcd.client("root").await.unwrap();
    put(&mut root, "cilium/cluster-config/cluster3", CONFIG).await;
    put(&mut root, "cilium/.heartbeat", "2026-01-01T00:10:00Z").await;
    view.wait("life", |d| d.workloads().all(|w| !w.demoted))
        .await;
    assert_eq!(endpoints(&view.directory), ["c", "k"]);
    wait_state(&koornacht, "cluster3", "syncing").await;
    // What it no longer has goes when it says that it is complete.
    put(
        &mut root,
        "cilium/state/services/v1/cluster3/shop/web",
        SERVICE,
    )
    .await;
    mark(&mut root).await;
    view.wait("its pod's end", |d| d.workloads().all(|w| w.name != "c"))
        .await;
    // The service's backend is there, though no pod is known behind it.
    view.wait("the backend", |d| endpoints(d) == ["10.244.2.74", "k"])
        .await;
    wait_state(&koornacht, "cluster3", "ready").await;
}

#[tokio::test]
async fn ours_is_published_as_a_cilium_cluster_reads_it() {
    let etcd = Etcd::start("tion").await;
    let mut tion = Cluster::new("tion", 2, etcd.store());
    tion.publish_cilium = true;
    tion.apply("service", &service(GLOBAL));
    tion.apply("pod", &pod("t", "n1", "10.2.1.1", "web"));
    tion.apply("slice", &slice(&[("t", "10.2.1.1")]));
    tion.start().await;
    tion.wait_status("publication", |s| s["store"]["cilium"] == true)
        .await;
    // Other clusters read it with the rights that they have there, and no others.
    let mut remote = etcd.client("remote").await.unwrap();
    let all = GetOptions::new().with_prefix();
    let state = remote.get("cilium/state/", Some(all)).await.unwrap();
    let keys: Vec<&str> = state.kvs().iter().map(|kv| kv.key_str().unwrap()).collect();
    assert!(
        keys.contains(&"cilium/state/services/v1/tion/shop/web"),
        "{keys:?}"
    );
    assert!(keys.contains(&"cilium/state/nodes/v1/tion/n1"), "{keys:?}");
    assert!(
        keys.contains(&"cilium/state/ip/v1/default/10.2.1.1"),
        "{keys:?}"
    );
    let config = remote
        .get("cilium/cluster-config/tion", None)
        .await
        .unwrap();
    let config = config.kvs().first().unwrap();
    assert!(
        config
            .value_str()
            .unwrap()
            .starts_with(r#"{"id":2,"capabilities":{"syncedCanaries":true,"#)
    );
    let first = state
        .kvs()
        .iter()
        .map(|kv| kv.mod_revision())
        .min()
        .unwrap();
    assert!(config.mod_revision() <= first, "the config comes first");
    for kind in KINDS {
        let key = format!("cilium/synced/tion/cilium/state/{kind}");
        let mark = remote.get(key.as_str(), None).await.unwrap();
        let mark = mark.kvs().first().unwrap();
        assert!(mark.mod_revision() > first && mark.lease() != 0, "{key}");
        assert!(mark.value_str().unwrap().ends_with('Z'));
    }
    let heartbeat = remote.get("cilium/.heartbeat", None).await.unwrap();
    assert_ne!(heartbeat.kvs().first().unwrap().lease(), 0);
    assert!(remote.put("cilium/state/x", "x", None).await.is_err());
    assert!(
        remote
            .get("cilium/cluster-config/other", None)
            .await
            .is_err()
    );
    // A service that is no longer shared is nobody else's business.
    tion.apply(
        "service",
        &service(&format!("{GLOBAL}, service.cilium.io/shared: \"false\"")),
    );
    etcd.wait_value("cilium/state/services/v1/tion/shop/web", |v| v.is_none())
        .await;
    tion.delete("pod");
    etcd.wait_value("cilium/state/ip/v1/default/10.2.1.1", |v| v.is_none())
        .await;
}

#[tokio::test]
async fn what_is_published_for_cilium_is_read_back() {
    let (koornacht, _etcd) = koornacht().await;
    let etcd = Etcd::start("tion").await;
    let mut tion = Cluster::new("tion", 2, etcd.store());
    tion.publish_cilium = true;
    tion.apply("service", &service(GLOBAL));
    tion.apply("pod", &pod("t", "n1", "10.2.1.1", "web"));
    tion.apply("slice", &slice(&[("t", "10.2.1.1")]));
    tion.start().await;
    etcd.connect_with(&koornacht, "tion", &[&etcd.endpoint()], "kind: cilium");
    let line = wait_state(&koornacht, "tion", "ready").await;
    assert_eq!(
        (&line["kind"], &line["counts"]["nodes"]),
        (&"cilium".into(), &2.into())
    );
    let mut view = koornacht.ads().await;
    view.subscribe_all().await;
    view.wait("both", |d| endpoints(d) == ["k", "t"]).await;
    tion.apply("slice", &slice(&[]));
    view.wait("its own", |d| endpoints(d) == ["k"]).await;
    tion.apply("slice", &slice(&[("t", "10.2.1.1")]));
    view.wait("both", |d| endpoints(d) == ["k", "t"]).await;
    // Now in our own layout, under the same name: another kind is another connection.
    etcd.connect_from(&koornacht, "tion", &[&etcd.endpoint()]);
    view.wait("tunnels", |d| {
        endpoints(d) == ["k", "t"]
            && d.workloads()
                .all(|w| w.tunnel_protocol == TunnelProtocol::Hbone)
    })
    .await;
}
