//! Connections to other clusters, each with real etcds: names that move, credentials that change or are wrong, floods.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::Instant;
use tulle_xds_server::store::{EtcdSettings, Reader};

use crate::{
    etcd_rig::{Etcd, make_certificates, sign},
    support::{Cluster, DEADLINE, endpoints, pod, service, slice, write_by_rename},
};

const GLOBAL: &str = "service.cilium.io/global: \"true\"";

/// A cluster with one pod behind the global service `web`, published.
async fn publisher(name: &str, id: u16, etcd: &Etcd, pod_name: &str, ip: &str) -> Cluster {
    let mut cluster = Cluster::new(name, id, etcd.store());
    cluster.apply("service", &service(GLOBAL));
    cluster.apply("pod", &pod(pod_name, "n1", ip, "web"));
    cluster.apply("slice", &slice(&[(pod_name, ip)]));
    cluster.start().await;
    cluster
        .wait_status("publication", |s| s["store"]["published"] == true)
        .await;
    cluster
}

/// koornacht, which reads others; it has a pod of its own.
async fn reader() -> (Cluster, Etcd) {
    let etcd = Etcd::start("koornacht").await;
    let cluster = publisher("koornacht", 1, &etcd, "k", "10.1.1.1").await;
    (cluster, etcd)
}

async fn wait_state(cluster: &Cluster, remote: &str, state: &str) -> serde_json::Value {
    let what = format!("{remote} {state}");
    let status = cluster
        .wait_status(&what, |s| s["remotes"][remote]["state"] == state)
        .await;
    status["remotes"][remote].clone()
}

/// The refusal's one sentence.
async fn wait_refusal(cluster: &Cluster, remote: &str, part: &str) -> String {
    let what = format!("{remote}'s refusal for {part}");
    let status = cluster
        .wait_status(&what, |s| {
            let refused = s["remotes"][remote]["refused"].as_str();
            refused.is_some_and(|r| r.contains(part)) && s["remotes"][remote]["state"] == "refused"
        })
        .await;
    let refusal = status["remotes"][remote]["refused"].as_str().unwrap();
    assert!(!refusal.contains('\n'), "{refusal}");
    refusal.to_owned()
}

/// Lines of a remote's file that cannot work, and what the refusal must say.
fn wrong_credentials(tion: &Etcd, other: &Path) -> Vec<(String, &'static str)> {
    let pair = |place: &Path| format!("cert: {0}.pem\nkey: {0}.key", place.display());
    let refuses = "refuses this cluster's client certificate";
    let foreign_ca = format!("ca: {}", other.join("ca.pem").display());
    let foreign_key = format!("key: {}", tion.file("stranger.key").display());
    vec![
        (foreign_ca, "not signed by the CA"),
        // Somebody else's client certificate; one of the right name, out of date; one without rights.
        (pair(&other.join("remote")), refuses),
        (pair(&tion.sign_expired("remote-expired")), refuses),
        (pair(&tion.file("stranger")), "ermission denied"),
        // A key that is not the certificate's, and a file that is not there.
        (foreign_key, "cannot be used"),
        (
            "ca: /nowhere/ca.pem".to_owned(),
            "cannot read /nowhere/ca.pem",
        ),
        // The server's certificate is for other names than the one that is asked for.
        (
            "serverName: etcd.elsewhere".to_owned(),
            "is for another name",
        ),
    ]
}

#[tokio::test]
async fn wrong_ca_expired_and_unknown_certificates_are_refused_and_mended() {
    let (koornacht, _etcd) = reader().await;
    let tion_etcd = Etcd::start("tion").await;
    let tion = publisher("tion", 2, &tion_etcd, "t", "10.2.1.1").await;
    // A third cluster is not disturbed by any of it.
    let yavin_etcd = Etcd::start("yavin").await;
    let yavin = publisher("yavin", 3, &yavin_etcd, "y", "10.3.1.1").await;
    yavin_etcd.connect_from(&koornacht, "yavin", &[&yavin_etcd.endpoint()]);
    wait_state(&koornacht, "yavin", "ready").await;
    let mut view = koornacht.ads().await;
    view.subscribe_all().await;

    let other = TempDir::new().unwrap();
    make_certificates(other.path());
    let endpoint = tion_etcd.endpoint();
    let connect = |more: &str| tion_etcd.connect_with(&koornacht, "tion", &[&endpoint], more);
    for (more, expected) in wrong_credentials(&tion_etcd, other.path()) {
        connect(&more);
        println!("{}", wait_refusal(&koornacht, "tion", expected).await);
    }
    connect("serverName: etcd.example");
    let line = wait_state(&koornacht, "tion", "ready").await;
    assert!(line["failures"].as_u64().unwrap() >= 4, "{line}");
    assert!(
        line["lastErrorAt"].as_str().unwrap().ends_with('Z'),
        "{line}"
    );
    let yavin_line = wait_state(&koornacht, "yavin", "ready").await;
    assert_eq!(
        (&yavin_line["failures"], &yavin_line["reconnections"]),
        (&0.into(), &0.into())
    );
    view.wait("all three", |d| endpoints(d) == ["k", "t", "y"])
        .await;
    drop((tion, yavin));
}

#[tokio::test]
async fn expired_server_certificate_is_refused() {
    let (koornacht, _etcd) = reader().await;
    let directory = TempDir::new().unwrap();
    make_certificates(directory.path());
    sign(directory.path(), "server", "-1");
    let mut etcd = Etcd::start_unchecked(directory).await;
    etcd.connect_from(&koornacht, "tion", &[&etcd.endpoint()]);
    wait_refusal(&koornacht, "tion", "has expired").await;
    // Mended without touching koornacht.
    etcd.stop();
    sign(etcd.file("").as_path(), "server", "2");
    etcd.start_again().await;
    etcd.init("tion").await;
    let _tion = publisher("tion", 2, &etcd, "t", "10.2.1.1").await;
    wait_state(&koornacht, "tion", "ready").await;
}

#[tokio::test]
async fn a_cluster_is_not_meshed_with_itself_or_with_who_claims_its_domain() {
    let (koornacht, koornacht_etcd) = reader().await;
    koornacht_etcd.connect_from(&koornacht, "koornacht", &[&koornacht_etcd.endpoint()]);
    wait_refusal(&koornacht, "koornacht", "not connected with itself").await;
    koornacht_etcd.connect_from(&koornacht, "mirror", &[&koornacht_etcd.endpoint()]);
    wait_refusal(&koornacht, "mirror", "permission denied").await;
    // Another cluster that signs for koornacht's domain with other roots.
    let etcd = Etcd::start("tion").await;
    let mut root = etcd.client("root").await.unwrap();
    let put = async |root: &mut etcd_client::Client, key: &str, value: &str| {
        root.put(format!("/tulle/v1/tion/{key}"), value, None)
            .await
            .unwrap();
    };
    let thief = r#"{"name":"tion","id":2,"trustDomain":"koornacht.tulle","version":2}"#;
    put(
        &mut root,
        "bundle",
        r#"{"trust_domain":"koornacht.tulle","roots_pem":"mine"}"#,
    )
    .await;
    put(&mut root, "info", thief).await;
    etcd.connect_from(&koornacht, "tion", &[&etcd.endpoint()]);
    wait_refusal(
        &koornacht,
        "tion",
        "has the same trust domain koornacht.tulle with other roots",
    )
    .await;
    // A layout of the future, and an info that is none.
    put(
        &mut root,
        "info",
        &thief.replace("version\":2", "version\":3"),
    )
    .await;
    wait_refusal(
        &koornacht,
        "tion",
        "layout 3, and this server reads up to 2; upgrade this server",
    )
    .await;
    put(&mut root, "info", "{").await;
    wait_refusal(&koornacht, "tion", "not valid").await;
    root.delete("/tulle/v1/tion/info", None).await.unwrap();
    wait_refusal(
        &koornacht,
        "tion",
        "no cluster tion has published there yet",
    )
    .await;
    drop(root);
    // Mended: it publishes as itself.
    let _tion = publisher("tion", 2, &etcd, "t", "10.2.1.1").await;
    wait_state(&koornacht, "tion", "ready").await;
}

#[tokio::test]
async fn credentials_are_rotated_without_a_flap() {
    let (koornacht, _etcd) = reader().await;
    let etcd = Etcd::start("tion").await;
    let _tion = publisher("tion", 2, &etcd, "t", "10.2.1.1").await;
    let files = TempDir::new().unwrap();
    let copy = |from: &str, to: &str| {
        let text = fs::read_to_string(etcd.file(from)).unwrap();
        write_by_rename(&files.path().join(to), &text);
    };
    copy("remote.pem", "c.pem");
    copy("remote.key", "c.key");
    let place = |file: &str| files.path().join(file).display().to_string();
    let more = format!("cert: {}\nkey: {}", place("c.pem"), place("c.key"));
    etcd.connect_with(&koornacht, "tion", &[&etcd.endpoint()], &more);
    let before = wait_state(&koornacht, "tion", "ready").await;
    let mut view = koornacht.ads().await;
    view.subscribe_all().await;
    view.wait("both", |d| {
        endpoints(d) == ["k", "t"] && d.workloads().all(|w| !w.demoted)
    })
    .await;
    // A new certificate, whose key comes a moment later: what was in force counts until both are there.
    sign(etcd.file("").as_path(), "remote", "2");
    copy("remote.pem", "c.pem");
    koornacht
        .wait_status("the half rotation", |s| {
            let error = s["remotes"]["tion"]["lastError"].as_str();
            error.is_some_and(|e| e.contains("changed settings do not work"))
        })
        .await;
    assert_eq!(
        wait_state(&koornacht, "tion", "ready").await["failures"],
        before["failures"]
    );
    copy("remote.key", "c.key");
    koornacht
        .wait_status("the new connection", |s| {
            s["remotes"]["tion"]["reconnections"] == 1
        })
        .await;
    wait_state(&koornacht, "tion", "ready").await;
    // No update took the endpoint away or demoted it meanwhile.
    koornacht.apply("pod-v", &pod("v", "n1", "10.1.1.9", "web"));
    while view.directory.workloads_len() < 3 {
        view.next().await.unwrap();
        assert_eq!(endpoints(&view.directory), ["k", "t"]);
        assert!(view.directory.workloads().all(|w| !w.demoted));
    }
    // Settings that never work count in the end.
    let text = fs::read_to_string(etcd.file("stranger.key")).unwrap();
    write_by_rename(&files.path().join("c.key"), &text);
    wait_refusal(&koornacht, "tion", "cannot be used").await;
    assert_eq!(endpoints(&view.directory), ["k", "t"]);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_disconnects_nobody() {
    let (koornacht, _etcd) = reader().await;
    let etcd = Etcd::start("tion").await;
    let _tion = publisher("tion", 2, &etcd, "t", "10.2.1.1").await;
    etcd.connect_from(&koornacht, "tion", &[&etcd.endpoint()]);
    wait_state(&koornacht, "tion", "ready").await;
    write_by_rename(
        &koornacht.path("remotes").join("tion.yaml"),
        "name: tion\nend",
    );
    let status = koornacht
        .wait_status("the problem", |s| s["remotesProblems"][0].is_object())
        .await;
    assert_eq!(status["remotes"]["tion"]["state"], "ready", "{status:#}");
}

#[tokio::test]
async fn first_connections_that_are_silent_do_not_flap() {
    let (koornacht, _etcd) = reader().await;
    let etcd = Etcd::start("tion").await;
    let mut tion = publisher("tion", 2, &etcd, "t", "10.2.1.1").await;
    // Its xds-server dies; its last heartbeat stays in etcd for a while.
    tion.stop().await;
    let mut view = koornacht.ads().await;
    view.subscribe_all().await;
    etcd.connect_from(&koornacht, "tion", &[&etcd.endpoint()]);
    view.wait("its pod", |d| endpoints(d) == ["k", "t"]).await;
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        assert!(
            view.directory
                .workloads()
                .all(|w| w.demoted == (w.name == "t"))
        );
        let change = tokio::time::timeout_at(until, view.next()).await;
        assert!(
            change.is_err(),
            "an old sign of life was taken for a new one"
        );
    }
    tion.start().await;
    view.wait("life", |d| d.workloads().all(|w| !w.demoted))
        .await;
}

/// An xds-server of its own, whose `/etc/hosts` is ours: names are the system's, addresses the test's.
struct Hosts {
    directory: TempDir,
    process: Child,
}

impl Drop for Hosts {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Hosts {
    fn start(koornacht: &Cluster, etcd: &EtcdSettings, hosts: &str) -> Self {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("hosts"), hosts).unwrap();
        let path = |part: &str| directory.path().join(part).display().to_string();
        let pem =
            |source: &tulle_xds_server::store::PemSource| format!("{source:?}").replace('"', "");
        let server = format!(
            "mount --bind {} /etc/hosts && exec {} --cluster koornacht --cluster-id 1 --trust-domain koornacht.tulle \
             --listen 127.0.0.1:0 --admin 127.0.0.1:0 --manifests {} --remotes {} --ca-dir {} --node-tokens {} \
             --store etcd --etcd {} --etcd-ca {} --etcd-cert {} --etcd-key {}",
            path("hosts"),
            env!("CARGO_BIN_EXE_xds-server"),
            koornacht.path("manifests").display(),
            koornacht.path("remotes").display(),
            path("ca"),
            koornacht.path("tokens.json").display(),
            etcd.endpoints[0],
            pem(&etcd.ca),
            pem(&etcd.cert),
            pem(&etcd.key),
        );
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let process = Command::new("unshare")
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "--",
                "sh",
                "-c",
                &server,
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("this test needs the command unshare");
        Hosts { directory, process }
    }

    /// In place: a bind mount is of the file, not of its name.
    fn set(&self, hosts: &str) {
        fs::write(self.directory.path().join("hosts"), hosts).unwrap();
    }

    async fn wait_log(&self, part: &str, times: usize) {
        let until = Instant::now() + DEADLINE;
        loop {
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
            if log.matches(part).count() >= times {
                return;
            }
            assert!(
                Instant::now() < until,
                "{part:?} is not {times} times in\n{log}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn names_are_resolved_at_each_dial_and_all_addresses_tried() {
    let koornacht_etcd = Etcd::start("koornacht").await;
    let koornacht = Cluster::new("koornacht", 1, koornacht_etcd.store());
    let mut etcd = Etcd::start("tion").await;
    let tion = publisher("tion", 2, &etcd, "t", "10.2.1.1").await;
    let endpoint = format!("https://etcd.example:{}", etcd.port());
    etcd.connect_from(&koornacht, "tion", &[&endpoint]);
    // Nobody listens at the first address; the second is no address of the name at first.
    let server = Hosts::start(
        &koornacht,
        &koornacht_etcd.settings("xds-server"),
        "127.0.0.9 etcd.example\n",
    );
    server.wait_log("a remote cluster cannot be read", 1).await;
    server.set("127.0.0.9 etcd.example\n127.0.0.1 etcd.example\n");
    server.wait_log("reading the cluster's state", 1).await;
    // The load balancer moves.
    etcd.stop();
    etcd.move_to("127.0.0.3");
    etcd.start_again().await;
    server.set("127.0.0.9 etcd.example\n127.0.0.3 etcd.example\n");
    server.wait_log("reading the cluster's state", 2).await;
    drop(tion);
}

/// An etcd that takes values far larger than usual.
async fn roomy_etcd(cluster: &str) -> Etcd {
    let directory = TempDir::new().unwrap();
    make_certificates(directory.path());
    let words = [
        "--max-request-bytes",
        "33554432",
        "--quota-backend-bytes",
        "2147483648",
    ];
    Etcd::start_in(directory, cluster, &words).await
}

async fn flood(mut root: etcd_client::Client) {
    for n in 0..3_000_u32 {
        let key = format!("/tulle/v1/flood/slices/shop/9-{:x}", n % 500);
        if root.put(key, n.to_string(), None).await.is_err() {
            return;
        }
    }
}

/// What one cluster may do to another at worst: all of it at once, while a third one lives on.
#[tokio::test]
async fn flood_and_garbage_of_one_cluster_harm_no_other() {
    let (koornacht, _etcd) = reader().await;
    let flood_etcd = roomy_etcd("flood").await;
    let _flood = publisher("flood", 2, &flood_etcd, "f", "10.2.1.1").await;
    let tion_etcd = Etcd::start("tion").await;
    let tion = publisher("tion", 3, &tion_etcd, "t", "10.3.1.1").await;
    let mut root = flood_etcd.client("root").await.unwrap();
    let mut put = async |slice: &str, value: &str| {
        let key = format!("/tulle/v1/flood/slices/shop/{slice}");
        root.put(key, value, None).await.unwrap();
    };
    // Before anybody reads: the list must get over it.
    let huge = "x".repeat(10 << 20);
    put("0-a", &huge).await;
    put("0-b", &"y".repeat(20 << 20)).await;
    for (connection, name) in [(&flood_etcd, "flood"), (&tion_etcd, "tion")] {
        connection.connect_from(&koornacht, name, &[&connection.endpoint()]);
    }
    let line = wait_state(&koornacht, "flood", "ready").await;
    assert!(line["refusals"].as_u64().unwrap() >= 2, "{line}");
    assert!(
        line["lastError"]
            .as_str()
            .unwrap()
            .contains("larger than anything"),
        "{line}"
    );
    wait_state(&koornacht, "tion", "ready").await;
    let mut view = koornacht.ads().await;
    view.subscribe_all().await;
    view.wait("all", |d| endpoints(d) == ["f", "k", "t"]).await;
    // A slice that was good and is garbage now keeps its last meaning, also over a new list.
    for garbage in ["{", huge.as_str(), "[]"] {
        put("0-0", garbage).await;
    }
    // And as many changes as an etcd takes.
    let flooding = tokio::spawn(flood(flood_etcd.client("root").await.unwrap()));
    let mut slowest = Duration::ZERO;
    for n in 0..10 {
        let (name, ip) = (format!("t{n}"), format!("10.3.1.{}", n + 10));
        let began = Instant::now();
        tion.apply("pod", &pod(&name, "n1", &ip, "web"));
        tion.apply("slice", &slice(&[(&name, &ip)]));
        view.wait("tion's change", |d| endpoints(d).contains(&name))
            .await;
        slowest = slowest.max(began.elapsed());
    }
    println!("tion's changes while flood floods: slowest after {slowest:?}");
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    assert!(endpoints(&view.directory).contains(&"f".to_owned()));
    flooding.await.unwrap();
    koornacht
        .wait_status("the count", |s| {
            s["remotes"]["flood"]["refusals"].as_u64() >= Some(100)
        })
        .await;
    assert_eq!(wait_state(&koornacht, "tion", "ready").await["refusals"], 0);
    wait_state(&koornacht, "flood", "ready").await;
}

/// One change costs one slice, whatever else there is.
#[tokio::test]
async fn one_change_costs_one_slice() {
    let (koornacht, _etcd) = reader().await;
    let etcd = Etcd::start("tion").await;
    let tion = publisher("tion", 2, &etcd, "t", "10.2.1.1").await;
    etcd.connect_from(&koornacht, "tion", &[&etcd.endpoint()]);
    wait_state(&koornacht, "tion", "ready").await;
    let manifests: String = (0..500)
        .map(|n| {
            pod(
                &format!("p{n}"),
                "n1",
                &format!("10.2.{}.{}", 2 + n / 250, 1 + n % 250),
                "web",
            )
        })
        .collect::<Vec<_>>()
        .join("---\n");
    tion.apply("many", &manifests);
    koornacht
        .wait_status("all of them", |s| {
            s["remotes"]["tion"]["counts"]["endpoints"] == 501
        })
        .await;
    let settled = tion
        .wait_status("the store", |s| s["store"]["published"] == true)
        .await;
    let keys = settled["store"]["keys"].as_u64().unwrap();
    let written = tion.metric("tulle_store_written_bytes_total").await;
    let read = koornacht
        .metric("tulle_remote_read_bytes_total{target_cluster=\"tion\"}")
        .await;
    let changed = manifests.replace("name: p7,", "name: p7x,");
    tion.apply("many", &changed);
    let status = koornacht
        .wait_status("the change", |s| {
            s["remotes"]["tion"]["changes"].as_u64() >= Some(2)
                && s["remotes"]["tion"]["bytes"]["lastChange"].as_u64() < Some(20_000)
        })
        .await;
    let tion_status = tion
        .wait_status("the write", |s| {
            s["store"]["lastChangeBytes"].as_u64() > Some(0)
        })
        .await;
    let cost = tion.metric("tulle_store_written_bytes_total").await - written;
    let all_read = koornacht
        .metric("tulle_remote_read_bytes_total{target_cluster=\"tion\"}")
        .await;
    println!(
        "501 endpoints in {keys} keys, {written} bytes; one pod replaced: {cost} bytes written ({}), {} read ({} since)",
        tion_status["store"]["lastChangeBytes"],
        status["remotes"]["tion"]["bytes"]["lastChange"],
        all_read - read,
    );
    assert!(cost < 20_000.0, "{cost}");
    assert!(keys < 60, "{keys}");
}

/// Every page and every message is one that fits, whatever the values are.
#[tokio::test]
async fn list_gets_over_values_of_any_size() {
    let etcd = roomy_etcd("tion").await;
    let mut root = etcd.client("root").await.unwrap();
    let prefix = "/tulle/v1/tion/";
    // Together more than a message, then one that is too large alone, then one that is small again.
    for n in 0..12 {
        let value = vec![b'a'; 1_400 << 10];
        root.put(format!("{prefix}a{n:02}"), value, None)
            .await
            .unwrap();
    }
    root.put(format!("{prefix}b"), vec![b'b'; 20 << 20], None)
        .await
        .unwrap();
    root.put(format!("{prefix}c"), vec![b'c'; 2 << 20], None)
        .await
        .unwrap();
    for n in 0..600 {
        root.put(format!("{prefix}d{n:03}"), "small", None)
            .await
            .unwrap();
    }
    let mut reader = Reader::connect(&etcd.settings("remote"), 0, prefix)
        .await
        .unwrap();
    let mut list = reader.list(prefix, 0);
    let (mut pairs, mut too_large) = (0, Vec::new());
    while let Some(page) = reader.next_page(&mut list).await.unwrap() {
        pairs += page.pairs.len();
        too_large.extend(page.too_large);
    }
    assert_eq!(pairs, 612);
    assert_eq!(too_large, [format!("{prefix}b"), format!("{prefix}c")]);
}
