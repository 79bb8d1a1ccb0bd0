//! Where policy speaks of requests: over tunnels and in plain text, at the destination and at the source; and how a denial looks.

use std::{collections::BTreeSet, io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tulle_model::{
    Change, HttpRule, L7Rules, LabelKey, LabelSource, Language, NamespacedName, NetworkRule,
    NetworkRules, Operator, Peers, PortMatch, Ports, Requirement, RuleAction, RuleSection,
    RuleSpec, Rules, RulesKey, Selector, Transport,
};
use tulle_node_proxy::plane::DeniedLook;

use crate::support::{Mesh, eventually, in_time, listen_b};

/// What a policy says of one pod.
enum Says {
    /// Requests to it.
    Ingress,
    /// Requests from it.
    Egress,
}

/// Lets the mesh know that `pod` may be asked, or may ask, for `/public` only; without requests: that nothing may pass.
fn apply(mesh: &Mesh, pod: &str, says: &Says, requests: bool) {
    let rules = match requests {
        true => vec![public_only()],
        false => Vec::new(),
    };
    apply_rules(mesh, pod, says, rules, false);
}

/// Lets the mesh know these rules, or that they are to be tried only.
fn apply_rules(mesh: &Mesh, pod: &str, says: &Says, rules: Vec<NetworkRule>, audit: bool) {
    let section = RuleSection {
        default_deny: true,
        rules,
    };
    let (ingress, egress) = match says {
        Says::Ingress => (Some(section), None),
        Says::Egress => (None, Some(section)),
    };
    let subject = Selector {
        requirements: vec![Requirement {
            key: LabelKey {
                source: LabelSource::K8s,
                name: Selector::SERVICE_ACCOUNT.to_owned(),
            },
            operator: Operator::In(BTreeSet::from([pod.to_owned()])),
        }],
    };
    let rules = Rules::Network(NetworkRules {
        key: RulesKey {
            language: Language::Cilium,
            object: NamespacedName::new("default", "public"),
        },
        audit,
        specs: vec![RuleSpec {
            subject,
            ingress,
            egress,
        }],
    });
    let mut view = mesh.directory.snapshot().as_ref().clone();
    view.apply(Change::Rules(Arc::new(rules)));
    mesh.directory.publish(view);
}

fn public_only() -> NetworkRule {
    NetworkRule {
        path: "spec.ingress[0].toPorts[0]".to_owned(),
        action: RuleAction::Allow,
        peers: Peers::Any,
        ports: vec![PortMatch {
            transport: Transport::Tcp,
            ports: Ports::Range(1, u16::MAX),
        }],
        l7: Some(L7Rules::Http(vec![HttpRule {
            path: Some("/public.*".to_owned()),
            ..HttpRule::default()
        }])),
        server_names: Vec::new(),
        authenticated: false,
    }
}

/// A server that answers each request with its first line.
fn serve(listener: TcpListener) {
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut unread = Vec::new();
                while let Ok(1..) = stream.read_buf(&mut unread).await {
                    if !unread.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let line = unread.split(|b| *b == b'\r').next().unwrap_or_default();
                    let len = line.len();
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n");
                    let answer = [head.as_bytes(), line].concat();
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                    unread.clear();
                }
            });
        }
    });
}

async fn ask(client: &mut TcpStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: b\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    in_time("an answer", async {
        loop {
            assert_ne!(client.read_buf(&mut got).await.unwrap(), 0);
            let text = String::from_utf8_lossy(&got);
            if text.contains("\r\n\r\nAccess denied\r\n") || text.ends_with(" HTTP/1.1") {
                return text.lines().next().unwrap_or_default().to_owned();
            }
        }
    })
    .await
}

/// Connects until the new rules have arrived: until the forbidden path is answered so.
async fn connect_judged(mesh: &Mesh, address: SocketAddr) -> TcpStream {
    for _ in 0..1000 {
        let mut client = mesh.connect(address).await;
        if ask(&mut client, "/admin").await == "HTTP/1.1 403 Forbidden" {
            return client;
        }
    }
    panic!("the rules do not arrive");
}

#[tokio::test]
async fn requests_are_judged_at_both_ends_of_a_tunnel() {
    for (pod, says) in [("b", Says::Ingress), ("a", Says::Egress)] {
        let mesh = Mesh::start().await;
        let (listener, address) = listen_b().await;
        serve(listener);
        let mut before = mesh.connect(address).await;
        assert_eq!(ask(&mut before, "/admin").await, "HTTP/1.1 200 OK");
        apply(&mesh, pod, &says, true);
        let mut client = connect_judged(&mesh, address).await;
        assert_eq!(ask(&mut client, "/public").await, "HTTP/1.1 200 OK");
        assert_eq!(
            ask(&mut client, "/public/../admin").await,
            "HTTP/1.1 403 Forbidden"
        );
        assert_eq!(ask(&mut client, "/public/1").await, "HTTP/1.1 200 OK");
        // What was open before the rule, and was never looked into, is cut.
        let end = in_time("the cut", before.read(&mut [0; 1])).await;
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(mesh.metric("tulle_http_requests_total", &["denied"]) >= 2.0);
        drop(client);
        let clean = ["\"clean\""];
        eventually("a clean end", || {
            mesh.metric("tulle_connections_closed_total", &clean) >= 1.0
        })
        .await;
    }
}

#[tokio::test]
async fn a_denied_connection_is_silent_or_reset() {
    for look in [DeniedLook::Drop, DeniedLook::Reject] {
        let mesh = Mesh::with(|settings| {
            settings.denied_look = look;
            settings.denied_patience = Duration::from_millis(700);
        })
        .await;
        let (listener, address) = listen_b().await;
        serve(listener);
        apply(&mesh, "b", &Says::Ingress, false);
        let refused = ["Outbound", "refused_by_policy"];
        let mut client = loop {
            let mut client = mesh.connect(address).await;
            let before = mesh.metric("tulle_connections_failed_total", &refused);
            let _sent = client
                .write_all(b"GET /public HTTP/1.1\r\nHost: b\r\n\r\n")
                .await;
            let mut byte = [0; 1];
            let answered = tokio::time::timeout(Duration::from_millis(300), client.read(&mut byte));
            match (answered.await, look) {
                // The rule has not arrived yet.
                (Ok(Ok(1)), _) => continue,
                (Err(_), DeniedLook::Drop) => break client,
                (Ok(Err(error)), DeniedLook::Reject) => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                    break client;
                }
                (other, _) => panic!("{other:?} with {look:?}, {before} refused"),
            }
        };
        assert!(mesh.metric("tulle_connections_failed_total", &refused) >= 1.0);
        if look == DeniedLook::Drop {
            // The end of patience.
            let end = in_time("the end", client.read(&mut [0; 1])).await;
            assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    }
}

#[tokio::test]
async fn what_only_audited_rules_deny_passes_and_is_counted() {
    for (pod, says) in [("b", Says::Ingress), ("a", Says::Egress)] {
        let mesh = Mesh::start().await;
        let (listener, address) = listen_b().await;
        serve(listener);
        apply_rules(&mesh, pod, &says, vec![public_only()], true);
        let audited = || mesh.metric("tulle_policy_verdicts_total", &["\"audit\""]);
        // Connections from before the rule are not looked into.
        for _ in 0..1000 {
            let mut client = mesh.connect(address).await;
            assert_eq!(ask(&mut client, "/public").await, "HTTP/1.1 200 OK");
            assert_eq!(audited(), 0.0);
            assert_eq!(ask(&mut client, "/admin").await, "HTTP/1.1 200 OK");
            if audited() > 0.0 {
                break;
            }
        }
        assert_eq!(audited(), 1.0);
        assert_eq!(mesh.metric("tulle_http_requests_total", &["denied"]), 0.0);
    }
}

#[tokio::test]
async fn names_in_tls_hellos_are_judged() {
    for (pod, says) in [("b", Says::Ingress), ("a", Says::Egress)] {
        let mesh = Mesh::start().await;
        let (listener, address) = listen_b().await;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    let _end = tokio::io::copy(&mut reader, &mut writer).await;
                });
            }
        });
        let rule = NetworkRule {
            l7: None,
            server_names: vec!["*.example.com".to_owned()],
            ..public_only()
        };
        apply_rules(&mesh, pod, &says, vec![rule], false);
        let say = async |said: Vec<u8>| {
            let mut client = mesh.connect(address).await;
            client.write_all(&said).await.unwrap();
            let mut heard = vec![0; said.len()];
            let heard_all = in_time("an end", client.read_exact(&mut heard)).await;
            heard_all.map(|_| assert_eq!(heard, said)).is_ok()
        };
        let plain = b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n".to_vec();
        let mut tries = 0;
        // Until the rule has arrived.
        while say(plain.clone()).await {
            tries += 1;
            assert!(tries < 1000);
        }
        assert!(say(hello("a.example.com")).await);
        assert!(say(hello("A.EXAMPLE.com")).await);
        assert!(!say(hello("example.com")).await);
        assert!(!say(hello("a.example.org")).await);
        assert!(mesh.metric("tulle_connections_closed_total", &["server_name_denied"]) >= 2.0);
    }
}

/// The first message of TLS 1.3, with a name and nothing else that is not needed.
fn hello(name: &str) -> Vec<u8> {
    fn with_len<const N: usize>(body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&len[4 - N..], body].concat()
    }
    let entry = [&[0][..], &with_len::<2>(name.as_bytes())].concat();
    let names = with_len::<2>(&with_len::<2>(&entry));
    let extensions = with_len::<2>(&[&[0, 0][..], &names].concat());
    let fixed = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    let message = [&[1][..], &with_len::<3>(&[fixed, extensions].concat())].concat();
    [&[22, 3, 1][..], &with_len::<2>(&message)].concat()
}
