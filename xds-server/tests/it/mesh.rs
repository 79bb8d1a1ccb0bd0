//! Two clusters with real etcds: global services, silence, restarts, refusals.

use tokio::time::Instant;
use tulle_model::Directory;
use tulle_wire::xds::DeltaDiscoveryRequest;

use crate::{
    etcd_rig::Etcd,
    support::{AdsClient, Cluster, endpoints, first_request, pod, service, slice},
};

const GLOBAL: &str = "service.cilium.io/global: \"true\"";

/// koornacht and tion, each with one pod behind `web`, connected both ways.
struct Mesh {
    koornacht: Cluster,
    tion: Cluster,
    koornacht_etcd: Etcd,
    tion_etcd: Etcd,
}

impl Mesh {
    async fn start(annotations: &str) -> Self {
        let (koornacht_etcd, tion_etcd) =
            (Etcd::start("koornacht").await, Etcd::start("tion").await);
        let mut koornacht = Cluster::new("koornacht", 1, koornacht_etcd.store());
        let mut tion = Cluster::new("tion", 2, tion_etcd.store());
        for (cluster, pod_name, ip) in [(&koornacht, "k", "10.1.1.1"), (&tion, "t", "10.2.1.1")] {
            cluster.apply("service", &service(annotations));
            cluster.apply("pod", &pod(pod_name, "n1", ip, "web"));
            cluster.apply("slice", &slice(&[(pod_name, ip)]));
        }
        tion_etcd.connect_from(&koornacht, "tion", &[&tion_etcd.endpoint()]);
        koornacht_etcd.connect_from(&tion, "koornacht", &[&koornacht_etcd.endpoint()]);
        koornacht.start().await;
        tion.start().await;
        let mesh = Mesh {
            koornacht,
            tion,
            koornacht_etcd,
            tion_etcd,
        };
        for (cluster, other) in [(&mesh.koornacht, "tion"), (&mesh.tion, "koornacht")] {
            cluster
                .wait_status("connection", |s| s["remotes"][other]["state"] == "ready")
                .await;
        }
        mesh
    }
}

async fn client(cluster: &Cluster) -> AdsClient {
    let mut client = cluster.ads().await;
    client.subscribe_all().await;
    client
}

/// Whether the remote pod is there, and demoted.
fn demoted(directory: &Directory, pod: &str) -> Option<bool> {
    directory
        .workloads()
        .find(|w| w.name == pod)
        .map(|w| w.demoted)
}

#[tokio::test]
async fn global_service_is_served_by_both_clusters() {
    let mesh = Mesh::start("").await;
    let mut k = client(&mesh.koornacht).await;
    let mut t = client(&mesh.tion).await;
    // The identities and roots of the other cluster are known before any service is global.
    for view in [&mut k, &mut t] {
        view.wait("both pods", |d| {
            d.workloads_len() == 2 && d.bundles().count() == 2
        })
        .await;
    }
    assert_eq!(
        (endpoints(&k.directory), endpoints(&t.directory)),
        (vec!["k".into()], vec!["t".into()])
    );
    // Global in one is not enough.
    mesh.koornacht.apply("service", &service(GLOBAL));
    k.wait("the annotation", |d| d.services().all(|s| s.sharing.global))
        .await;
    assert_eq!(endpoints(&k.directory), ["k"]);
    mesh.tion.apply("service", &service(GLOBAL));
    k.wait("both endpoints", |d| endpoints(d) == ["k", "t"])
        .await;
    t.wait("both endpoints", |d| endpoints(d) == ["k", "t"])
        .await;
    let remote = k.directory.workloads().find(|w| w.name == "t").unwrap();
    assert_eq!(&*remote.uid.0, "tion//Pod/shop/t");
    assert_eq!(
        remote.identity().to_string(),
        "spiffe://tion.tulle/ns/shop/sa/web"
    );
    assert!(!remote.demoted);
    // Only the own service is in the view.
    assert_eq!(k.directory.services_len(), 1);
    // Scaled to nothing here, then back.
    mesh.koornacht.apply("slice", &slice(&[]));
    k.wait("the other's only", |d| endpoints(d) == ["t"]).await;
    t.wait("its own only", |d| endpoints(d) == ["t"]).await;
    mesh.koornacht.apply("slice", &slice(&[("k", "10.1.1.1")]));
    t.wait("both endpoints", |d| endpoints(d) == ["k", "t"])
        .await;
    // koornacht no longer shares, but still uses.
    mesh.koornacht.apply(
        "service",
        &service(&format!("{GLOBAL}, service.cilium.io/shared: \"false\"")),
    );
    t.wait("its own only", |d| endpoints(d) == ["t"]).await;
    k.wait("both endpoints", |d| endpoints(d) == ["k", "t"])
        .await;
}

#[tokio::test]
async fn silent_cluster_is_demoted_within_three_seconds_and_never_removed() {
    let mut mesh = Mesh::start(GLOBAL).await;
    let mut k = client(&mesh.koornacht).await;
    k.wait("both endpoints", |d| {
        endpoints(d) == ["k", "t"] && demoted(d, "t") == Some(false)
    })
    .await;
    mesh.tion.stop().await;
    let silent_since = Instant::now();
    k.wait("the demotion", |d| demoted(d, "t") == Some(true))
        .await;
    let took = silent_since.elapsed().as_millis();
    assert!((1500..=3000).contains(&took), "demoted after {took} ms");
    assert_eq!(endpoints(&k.directory), ["k", "t"]);
    let status = mesh
        .koornacht
        .wait_status("the status", |s| s["remotes"]["tion"]["demoted"] == true)
        .await;
    assert!(
        status["remotes"]["tion"]["heartbeatAgeMs"]
            .as_u64()
            .unwrap()
            >= 2500
    );
    assert_eq!(status["remotes"]["tion"]["state"], "silent");
    mesh.tion.start().await;
    k.wait("the return", |d| demoted(d, "t") == Some(false))
        .await;
    assert_eq!(endpoints(&k.directory), ["k", "t"]);
}

#[tokio::test]
async fn etcd_of_the_other_cluster_may_stop() {
    let mut mesh = Mesh::start(GLOBAL).await;
    let mut k = client(&mesh.koornacht).await;
    k.wait("both endpoints", |d| endpoints(d) == ["k", "t"])
        .await;
    mesh.tion_etcd.stop();
    k.wait("the demotion", |d| demoted(d, "t") == Some(true))
        .await;
    let status = mesh
        .koornacht
        .wait_status("the error", |s| {
            s["remotes"]["tion"]["lastError"].is_string()
        })
        .await;
    assert_eq!(status["remotes"]["tion"]["connected"], false);
    // What changes meanwhile arrives when it is back.
    mesh.tion.apply("pod-u", &pod("u", "n2", "10.2.2.1", "web"));
    mesh.tion.apply("slice", &slice(&[("u", "10.2.2.1")]));
    mesh.tion_etcd.start_again().await;
    k.wait("the return", |d| {
        endpoints(d) == ["k", "u"] && demoted(d, "u") == Some(false)
    })
    .await;
}

#[tokio::test]
async fn restarted_server_keeps_what_nodes_hold_of_an_unreachable_cluster() {
    let mut mesh = Mesh::start(GLOBAL).await;
    let mut k = mesh.koornacht.ads().await;
    let mut held = std::collections::BTreeMap::new();
    k.subscribe(tulle_wire::type_url::ADDRESS).await;
    while held.len() < 3 {
        let response = k.next().await.unwrap();
        held.extend(response.resources.into_iter().map(|r| (r.name, r.version)));
    }
    mesh.tion_etcd.stop();
    mesh.koornacht.stop().await;
    mesh.koornacht.start().await;
    let mut k = mesh.koornacht.ads().await;
    held.insert("nowhere//Pod/shop/x".to_owned(), "1".to_owned());
    let request = DeltaDiscoveryRequest {
        initial_resource_versions: held,
        ..first_request(tulle_wire::type_url::ADDRESS)
    };
    k.send(request).await;
    let response = k.next().await.unwrap();
    assert_eq!(response.resources.len(), 0);
    assert_eq!(response.removed_resources, ["nowhere//Pod/shop/x"]);
    // Once tion is heard, what it no longer has is taken away.
    mesh.tion.delete("pod");
    mesh.tion_etcd.start_again().await;
    let removed = loop {
        let response = k.next().await.unwrap();
        if !response.removed_resources.is_empty() {
            break response.removed_resources;
        }
    };
    assert_eq!(removed, ["tion//Pod/shop/t"]);
}

#[tokio::test]
async fn wiped_etcd_of_the_other_cluster_removes_nothing() {
    let mut mesh = Mesh::start(GLOBAL).await;
    let mut k = client(&mesh.koornacht).await;
    k.wait("both endpoints", |d| endpoints(d) == ["k", "t"])
        .await;
    mesh.tion_etcd.stop();
    mesh.tion_etcd.wipe();
    mesh.tion_etcd.start_again().await;
    mesh.tion_etcd.init("tion").await;
    // Every state on the way is looked at: the remote endpoint is never gone.
    let until = Instant::now() + crate::support::DEADLINE;
    loop {
        assert_eq!(endpoints(&k.directory), ["k", "t"]);
        let back = k.directory.workloads().all(|w| !w.demoted);
        if back && mesh.tion.metric("tulle_store_published").await == 1.0 {
            break;
        }
        assert!(Instant::now() < until, "tion did not come back");
        if !back {
            k.next().await.unwrap();
        }
    }
}

#[tokio::test]
async fn cluster_that_is_no_longer_configured_goes() {
    let mesh = Mesh::start(GLOBAL).await;
    let mut k = client(&mesh.koornacht).await;
    k.wait("both endpoints", |d| {
        endpoints(d) == ["k", "t"] && d.bundles().count() == 2
    })
    .await;
    let file = mesh.koornacht.path("remotes").join("tion.yaml");
    std::fs::remove_file(&file).unwrap();
    k.wait("its end", |d| {
        endpoints(d) == ["k"] && d.bundles().count() == 1 && d.workloads_len() == 1
    })
    .await;
    mesh.koornacht
        .wait_status("its end", |s| s["remotes"]["tion"].is_null())
        .await;
    // And comes again, by the second of two endpoints.
    mesh.tion_etcd.connect_from(
        &mesh.koornacht,
        "tion",
        &["https://127.0.0.1:1", &mesh.tion_etcd.endpoint()],
    );
    k.wait("its return", |d| {
        endpoints(d) == ["k", "t"] && d.bundles().count() == 2
    })
    .await;
}

#[tokio::test]
async fn clusters_of_one_name_or_id_never_connect() {
    let etcd = Etcd::start("koornacht").await;
    let twin_etcd = Etcd::start("twin").await;
    let mut koornacht = Cluster::new("koornacht", 1, etcd.store());
    let mut twin = Cluster::new("twin", 1, twin_etcd.store());
    twin.apply("pod", &pod("t", "n1", "10.2.1.1", "web"));
    twin.start().await;
    twin.wait_status("publication", |s| s["store"]["published"] == true)
        .await;
    twin_etcd.connect_from(&koornacht, "twin", &[&twin_etcd.endpoint()]);
    etcd.connect_from(&koornacht, "koornacht", &[&etcd.endpoint()]);
    koornacht.start().await;
    let status = koornacht
        .wait_status("the refusal", |s| {
            s["remotes"]["twin"]["refused"].is_string()
        })
        .await;
    let refusal = status["remotes"]["twin"]["refused"].as_str().unwrap();
    assert!(
        refusal.contains("twin (id 1) is refused: cluster koornacht (id 1) has the same id 1"),
        "{refusal}"
    );
    let problem = status["remotesProblems"][0]["message"].as_str().unwrap();
    assert!(problem.contains("own name"), "{problem}");
    assert_eq!(status["remotes"]["koornacht"]["state"], "refused");
    assert_eq!(status["view"]["addresses"], 0);
    // With another id it is taken in by itself.
    twin.stop().await;
    twin.id = 7;
    twin.start().await;
    koornacht
        .wait_status("the connection", |s| {
            s["remotes"]["twin"]["counts"]["endpoints"] == 1
        })
        .await;
}

#[tokio::test]
async fn etcd_of_another_cluster_is_noticed() {
    let etcd = Etcd::start("tion").await;
    let mut root = etcd.client("root").await.unwrap();
    let info = r#"{"name":"yavin","id":3,"trustDomain":"yavin.tulle","version":2}"#;
    root.put("/tulle/v1/tion/info", info, None).await.unwrap();
    let own = Etcd::start("koornacht").await;
    let mut koornacht = Cluster::new("koornacht", 1, own.store());
    etcd.connect_from(&koornacht, "tion", &[&etcd.endpoint()]);
    koornacht.start().await;
    let status = koornacht
        .wait_status("the refusal", |s| {
            s["remotes"]["tion"]["refused"].is_string()
        })
        .await;
    assert!(
        status["remotes"]["tion"]["refused"]
            .as_str()
            .unwrap()
            .contains("yavin"),
        "{status:#}"
    );
}

#[tokio::test]
async fn bad_values_of_another_cluster_harm_nobody() {
    let mesh = Mesh::start(GLOBAL).await;
    let mut k = client(&mesh.koornacht).await;
    k.wait("both endpoints", |d| endpoints(d) == ["k", "t"])
        .await;
    let prefix = "/tulle/v1/tion";
    let own = mesh
        .koornacht_etcd
        .value("/tulle/v1/koornacht/slices/shop/0-0");
    let own = own.await.unwrap();
    let mut root = mesh.tion_etcd.client("root").await.unwrap();
    // Not JSON, somebody else's workload, a deep nest, and a slice of another namespace.
    let garbage = [
        (format!("{prefix}/slices/shop/9-1"), "{".to_owned()),
        (format!("{prefix}/slices/shop/9-2"), own.clone()),
        (format!("{prefix}/slices/shop/9-3"), "[".repeat(100_000)),
        (format!("{prefix}/slices/mill/0-0"), own),
    ];
    for (key, value) in garbage {
        root.put(key, value, None).await.unwrap();
    }
    mesh.koornacht
        .wait_metric("tulle_remote_refusals_total", 4.0)
        .await;
    mesh.koornacht
        .apply("pod-v", &pod("v", "n1", "10.1.1.9", "web"));
    k.wait("life", |d| d.workloads_len() == 3).await;
    assert_eq!(endpoints(&k.directory), ["k", "t"]);
    assert!(
        k.directory
            .workloads()
            .filter(|w| w.name == "k")
            .all(|w| w.cluster.as_str() == "koornacht")
    );
}
