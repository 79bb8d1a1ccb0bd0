//! The management API over real TLS: who may call, what it tells, what it changes, and what it does with rubbish.

use std::time::SystemTime;

use bytes::Bytes;
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Duration, Instant},
};
use tulle_identity::{CertificateAuthority, KeyRequest, Svid};

use crate::{
    etcd_rig::Etcd,
    support::{Cluster, DEADLINE, pod, service, slice, token},
};

/// One request as an operator makes it, by the token or by `svid`.
struct Call<'a> {
    method: Method,
    path: &'a str,
    body: Vec<u8>,
    token: Option<&'a str>,
    svid: Option<&'a Svid>,
}

fn get(path: &str) -> Call<'_> {
    Call {
        method: Method::GET,
        path,
        body: Vec::new(),
        token: Some("token-of-operator"),
        svid: None,
    }
}

fn order<'a>(method: Method, path: &'a str, body: &Value) -> Call<'a> {
    Call {
        method,
        body: body.to_string().into_bytes(),
        ..get(path)
    }
}

impl Cluster {
    async fn call(&self, call: Call<'_>) -> (u16, Value) {
        let address = self.running().management.unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = self.client_tls(call.svid).connect(stream).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(call.method)
            .uri(format!("https://{address}{}", call.path));
        if let Some(token) = call.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = Full::new(Bytes::from(call.body));
        let response = sender
            .send_request(request.body(body).unwrap())
            .await
            .unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes);
        let value = serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{e}: {text}"));
        (code, value)
    }

    /// What the API tells; it must answer well.
    async fn told(&self, path: &'static str) -> Value {
        let (code, value) = self.call(get(path)).await;
        assert_eq!(code, 200, "{path}: {value}");
        value
    }

    /// The one sentence with which a call is refused.
    async fn refused(&self, call: Call<'_>, code: u16) -> String {
        let (found, value) = self.call(call).await;
        assert_eq!(found, code, "{value}");
        assert_eq!(value.as_object().unwrap().len(), 1, "{value}");
        value["error"].as_str().unwrap().to_owned()
    }

    async fn until_told(&self, path: &'static str, holds: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + DEADLINE;
        loop {
            let value = self.told(path).await;
            if holds(&value) {
                return value;
            }
            assert!(Instant::now() < until, "{path}: {value:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A certificate of the cluster's own authority for a service account of the system's namespace.
    fn certificate_of(&self, account: &str) -> Svid {
        let domain = self.trust_domain().parse().unwrap();
        let now = SystemTime::now();
        let authority = CertificateAuthority::open(&self.path("ca"), &domain, now).unwrap();
        let id = format!("spiffe://{domain}/ns/tulle-system/sa/{account}");
        let id = id.parse().unwrap();
        let key = KeyRequest::new(&id).unwrap();
        let hour = Duration::from_secs(3600);
        let issued = authority.sign_csr(key.csr_pem(), &id, hour, now).unwrap();
        key.into_svid(&issued.leaf_pem).unwrap()
    }
}

#[tokio::test]
async fn only_operators_are_answered() {
    let cluster = Cluster::start_alone().await;
    for path in ["/v1/status", "/v1/access", "/v1/nothing", "/"] {
        let without = Call {
            token: None,
            ..get(path)
        };
        cluster.refused(without, 401).await;
        for wrong in ["", "operator", &token("n1")] {
            let wrong = Call {
                token: Some(wrong),
                ..get(path)
            };
            let sentence = cluster.refused(wrong, 401).await;
            assert_eq!(
                sentence,
                "an operator's certificate or token is needed here"
            );
        }
    }
    let operator = cluster.certificate_of("operator");
    let call = Call {
        token: None,
        svid: Some(&operator),
        ..get("/v1/status")
    };
    assert_eq!(cluster.call(call).await.0, 200);
    // Whoever proves to be somebody else is not helped by a token that it may have found.
    let node = cluster.certificate_of("node-proxy");
    let call = Call {
        svid: Some(&node),
        ..get("/v1/status")
    };
    let sentence = cluster.refused(call, 403).await;
    assert!(sentence.contains("sa/operator"), "{sentence}");
    assert!(
        cluster
            .metric("tulle_management_requests_total{outcome=\"unauthenticated\"}")
            .await
            >= 12.0
    );
    assert_eq!(
        cluster
            .metric("tulle_management_requests_total{outcome=\"forbidden\"}")
            .await,
        1.0
    );
}

#[tokio::test]
async fn status_tells_nodes_and_what_they_acknowledged() {
    let cluster = Cluster::start_alone().await;
    cluster.apply("service", &service(""));
    let status = cluster
        .until_told("/v1/status", |s| s["view"]["services"] == 1)
        .await;
    assert_eq!(status["cluster"], "koornacht");
    assert_eq!(status["clusterId"], 1);
    assert_eq!(status["ready"], true);
    assert_eq!(status["publishing"]["store"], "memory");
    assert_eq!(status["publishing"]["enabled"], false);
    assert_eq!(status["nodes"][0]["name"], "n1");
    assert_eq!(status["nodes"][0]["connected"], false);
    assert_eq!(
        status["globalServices"],
        json!({"min": 0, "avg": 0.0, "max": 0})
    );
    let mut client = cluster.ads().await;
    client.subscribe_all().await;
    let nodes = cluster
        .until_told("/v1/nodes", |nodes| {
            let named = |n: &&Value| n["name"] == "node-proxy~n1" && n["current"] == true;
            nodes.as_array().unwrap().iter().any(|n| named(&n))
        })
        .await;
    assert!(nodes.as_array().unwrap().len() >= 3, "{nodes}");
    drop(client);
    cluster
        .until_told("/v1/nodes", |nodes| nodes.as_array().unwrap().len() == 2)
        .await;
}

#[tokio::test]
async fn service_is_explained() {
    let cluster = Cluster::start_alone().await;
    cluster.apply("service", &service("service.cilium.io/global: \"true\""));
    cluster.apply("pod-a", &pod("a", "n1", "10.1.1.1", "web"));
    cluster.apply(
        "pod-b",
        &pod("b", "n2", "10.1.1.2", "web").replace("\"True\"", "\"False\""),
    );
    cluster.apply("slice", &slice(&[("a", "10.1.1.1"), ("b", "10.1.1.2")]));
    let list = cluster
        .until_told("/v1/services", |l| {
            l[0]["included"]["koornacht"] == 2 || l[0]["excluded"] == 1
        })
        .await;
    assert_eq!(list[0]["name"], "web");
    assert_eq!(list[0]["ports"], json!(["80/TCP"]));
    let detail = cluster.told("/v1/services/shop/web").await;
    assert_eq!(detail["frontends"][0]["address"], "172.20.1.5:80");
    assert_eq!(detail["clusters"][0]["global"], true);
    assert_eq!(detail["backends"][0]["address"], "10.1.1.1:8080");
    assert_eq!(detail["backends"][0]["included"], true);
    assert_eq!(detail["backends"][0]["reason"], "in use");
    let sentence = cluster.refused(get("/v1/services/shop/nope"), 404).await;
    assert_eq!(
        sentence,
        "cluster koornacht has no service nope in namespace shop"
    );
    cluster.refused(get("/v1/services/shop"), 404).await;
}

#[tokio::test]
async fn cluster_without_etcd_says_that_nobody_can_read_it() {
    let cluster = Cluster::start_alone().await;
    let sentence = cluster.refused(get("/v1/access"), 409).await;
    assert!(sentence.contains("--store etcd"), "{sentence}");
    let call = order(Method::PUT, "/v1/publishing", &json!({"enabled": true}));
    cluster.refused(call, 409).await;
    let call = order(Method::PUT, "/v1/remotes/tion", &json!({}));
    assert!(cluster.refused(call, 409).await.contains("--remotes"));
}

async fn start_with_etcd(name: &str, id: u16) -> (Etcd, Cluster) {
    let etcd = Etcd::start(name).await;
    let mut cluster = Cluster::new(name, id, etcd.store());
    cluster.peers = etcd.peers();
    cluster.start().await;
    cluster
        .until_told("/v1/status", |s| s["publishing"]["published"] == true)
        .await;
    (etcd, cluster)
}

#[tokio::test]
async fn peer_gets_credentials_that_can_only_read() {
    let (etcd, cluster) = start_with_etcd("tion", 2).await;
    let (code, given) = cluster
        .call(order(Method::POST, "/v1/peers/koornacht", &json!(null)))
        .await;
    assert_eq!(code, 200, "{given}");
    assert_eq!(given["user"], "remote-koornacht");
    assert_eq!(given["access"]["cluster"], "tion");
    assert_eq!(given["access"]["endpoints"], json!([etcd.endpoint()]));
    assert!(
        given["access"]["bundle"]
            .as_str()
            .unwrap()
            .contains("BEGIN CERTIFICATE")
    );
    let text = |v: &Value| v.as_str().unwrap().as_bytes().to_vec();
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(text(&given["access"]["ca"])))
        .identity(Identity::from_pem(
            text(&given["cert"]),
            text(&given["key"]),
        ));
    let options = ConnectOptions::new()
        .with_tls(tls)
        .with_timeout(Duration::from_secs(5));
    let mut peer = Client::connect([etcd.endpoint()], Some(options))
        .await
        .unwrap();
    let info = "/tulle/v1/tion/info";
    assert_eq!(peer.get(info, None).await.unwrap().kvs().len(), 1);
    for refused in [
        peer.put(info, "mine", None).await.map(drop),
        peer.put("/tulle/v1/tion/workloads/a/b", "{}", None)
            .await
            .map(drop),
        peer.delete(info, None).await.map(drop),
        peer.get("/elsewhere", None).await.map(drop),
        peer.user_list().await.map(drop),
        peer.lease_grant(5, None).await.map(drop).and_then(|()| {
            // Anybody may have a lease; it is of no use without a key.
            Err(etcd_client::Error::InvalidArgs(
                "permission denied".to_owned(),
            ))
        }),
    ] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("permission denied"), "{error}");
    }
    // Asking again gives a certificate that works as well; the end of the peer ends both.
    let (_, again) = cluster
        .call(order(Method::POST, "/v1/peers/koornacht", &json!(null)))
        .await;
    assert_ne!(again["key"], given["key"]);
    let (_, gone) = cluster
        .call(order(Method::DELETE, "/v1/peers/koornacht", &json!(null)))
        .await;
    assert_eq!(gone, json!({"changed": true}));
    assert!(peer.get(info, None).await.is_err());
    let (_, gone) = cluster
        .call(order(Method::DELETE, "/v1/peers/koornacht", &json!(null)))
        .await;
    assert_eq!(gone, json!({"changed": false}));
    cluster
        .refused(order(Method::POST, "/v1/peers/tion", &json!(null)), 409)
        .await;
    cluster
        .refused(order(Method::POST, "/v1/peers/B_d", &json!(null)), 400)
        .await;
}

#[tokio::test]
async fn publishing_ends_and_begins_again() {
    let (etcd, mut cluster) = start_with_etcd("tion", 2).await;
    let off = || order(Method::PUT, "/v1/publishing", &json!({"enabled": false}));
    assert_eq!(cluster.call(off()).await.1, json!({"changed": true}));
    assert_eq!(cluster.call(off()).await.1, json!({"changed": false}));
    for key in ["info", "heartbeat", "synced", "bundle"] {
        etcd.wait_value(&format!("/tulle/v1/tion/{key}"), |v| v.is_none())
            .await;
    }
    let status = cluster
        .until_told("/v1/status", |s| s["publishing"]["published"] == false)
        .await;
    assert_eq!(status["publishing"]["enabled"], false);
    let call = order(Method::POST, "/v1/peers/koornacht", &json!(null));
    let sentence = cluster.refused(call, 409).await;
    assert!(sentence.contains("tulle clustermesh enable"), "{sentence}");
    // The wish outlives the server.
    cluster.stop().await;
    cluster.start().await;
    assert_eq!(
        cluster.told("/v1/status").await["publishing"]["enabled"],
        false
    );
    let on = json!({"enabled": true, "endpoints": ["https://tion.example:2379"]});
    assert_eq!(
        cluster
            .call(order(Method::PUT, "/v1/publishing", &on))
            .await
            .1,
        json!({"changed": true})
    );
    etcd.wait_value("/tulle/v1/tion/synced", |v| v.is_some())
        .await;
    let access = cluster.told("/v1/access").await;
    assert_eq!(access["endpoints"], on["endpoints"]);
    for bad in [
        json!({"enabled": true, "endpoints": ["http://x"]}),
        json!({"enabled": "yes"}),
    ] {
        cluster
            .refused(order(Method::PUT, "/v1/publishing", &bad), 400)
            .await;
    }
}

fn remote() -> Value {
    let pem = |label: &str| format!("-----BEGIN {label}-----\nAA==\n-----END {label}-----\n");
    json!({
        "name": "koornacht",
        "endpoints": ["https://192.0.2.1:2379"],
        "ca": pem("CERTIFICATE"), "cert": pem("CERTIFICATE"), "key": pem("PRIVATE KEY"),
    })
}

#[tokio::test]
async fn remote_cluster_is_written_and_removed() {
    let (_etcd, cluster) = start_with_etcd("tion", 2).await;
    let path = "/v1/remotes/koornacht";
    let put = || order(Method::PUT, path, &remote());
    assert_eq!(cluster.call(put()).await, (200, json!({"changed": true})));
    assert_eq!(cluster.call(put()).await, (200, json!({"changed": false})));
    let file = cluster.path("remotes/koornacht.yaml");
    let written: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(written, remote());
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let delete = || order(Method::DELETE, path, &json!(null));
    assert_eq!(
        cluster.call(delete()).await,
        (200, json!({"changed": true}))
    );
    assert_eq!(
        cluster.call(delete()).await,
        (200, json!({"changed": false}))
    );
    assert!(!file.exists());
    // Somebody else's file is not overwritten, but an order to forget the cluster counts.
    let other = cluster.path("remotes/mine.yaml");
    std::fs::write(&other, "name: koornacht\n").unwrap();
    assert!(cluster.refused(put(), 409).await.contains("mine.yaml"));
    assert_eq!(
        cluster.call(delete()).await,
        (200, json!({"changed": true}))
    );
    assert!(!other.exists());
}

#[tokio::test]
async fn unusable_remote_clusters_are_refused() {
    let (_etcd, cluster) = start_with_etcd("tion", 2).await;
    let with = |key: &str, value: Value| {
        let mut remote = remote();
        remote[key] = value;
        remote
    };
    let table = [
        (with("name", json!("other")), "names cluster koornacht"),
        (with("endpoints", json!(["ftp://x"])), "https://host:port"),
        (with("endpoints", json!([])), "expected 1 to 16"),
        (with("ca", json!("/etc/shadow")), "is not PEM"),
        (
            with("key", json!("-----BEGIN CERTIFICATE-----")),
            "PRIVATE KEY",
        ),
        (with("kind", json!("istio")), "tulle or cilium"),
        (with("colour", json!("red")), "colour"),
        (json!([1, 2]), "not as expected"),
    ];
    for (body, expected) in table {
        let call = order(Method::PUT, "/v1/remotes/koornacht", &body);
        let sentence = cluster.refused(call, 400).await;
        assert!(sentence.contains(expected), "{sentence}");
    }
    let own = order(
        Method::PUT,
        "/v1/remotes/tion",
        &with("name", json!("tion")),
    );
    assert!(cluster.refused(own, 409).await.contains("with itself"));
    for path in [
        "/v1/remotes/..%2f..%2fetc",
        "/v1/remotes/a/b",
        "/v1/remotes/A",
    ] {
        let (code, _) = cluster.call(order(Method::PUT, path, &remote())).await;
        assert!((400..=404).contains(&code), "{path}: {code}");
    }
    assert_eq!(
        std::fs::read_dir(cluster.path("remotes")).unwrap().count(),
        0
    );
}

#[tokio::test]
async fn rubbish_is_refused_and_the_port_goes_on() {
    let cluster = Cluster::start_alone().await;
    let large = Call {
        method: Method::PUT,
        body: vec![b' '; 300 << 10],
        ..get("/v1/publishing")
    };
    // Without an etcd the order is refused, but only after its content was read.
    cluster.refused(large, 413).await;
    for body in [&b""[..], b"{", b"\xff\xfe", b"nul", &[b'['; 10_000]] {
        let call = Call {
            method: Method::PUT,
            body: body.to_vec(),
            ..get("/v1/publishing")
        };
        cluster.refused(call, 400).await;
    }
    for (method, path) in [
        (Method::POST, "/v1/status"),
        (Method::DELETE, "/v1/services"),
        (Method::PATCH, "/v1/remotes/x"),
        (Method::GET, "/v1/publishing"),
    ] {
        let call = Call {
            method,
            ..get(path)
        };
        cluster.refused(call, 405).await;
    }
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 5000],
        b"\x16\x03\x01\xff\xff",
    ] {
        let address = cluster.running().management.unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        drop(stream.write_all(bytes).await);
        drop(stream.shutdown().await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
    }
    cluster.told("/v1/status").await;
    cluster
        .wait_metric(
            "tulle_management_requests_total{outcome=\"handshake\"}",
            3.0,
        )
        .await;
}
