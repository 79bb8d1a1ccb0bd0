//! The program's life, from the first start to a restart without a control plane.

use std::{fs, process::Command, sync::Arc};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use rustix::process::Signal;
use tulle_model::{
    AppProtocol, Change, Directory, Health, Locality, PortMapping, Protocol, Service, ServicePort,
    Sharing, SmallMap, TunnelProtocol, Workload, WorkloadKind, WorkloadUid,
};

use crate::{
    node::{Node, POD_ADDRESS},
    server::ControlPlane,
};

/// A service with one endpoint, which is the node's own pod.
fn mesh() -> Directory {
    let service = Service {
        name: "rebel-base".to_owned(),
        namespace: "default".to_owned(),
        hostname: "rebel-base.default.svc.cluster.local".to_owned(),
        addresses: vec!["172.20.1.7".parse().unwrap()],
        ports: vec![ServicePort {
            name: "http".to_owned(),
            port: 80,
            target_port: 8080,
            protocol: Protocol::Tcp,
            app_protocol: AppProtocol::Unknown,
        }],
        subject_alt_names: Vec::new(),
        sharing: Sharing::default(),
        ..Service::default()
    };
    let cluster = "koornacht".parse().unwrap();
    let port = PortMapping {
        service_port: 80,
        target_port: 8080,
        ..PortMapping::default()
    };
    let workload = Workload {
        uid: WorkloadUid::of_pod(&cluster, "default", "x-wing"),
        name: "x-wing".to_owned(),
        namespace: "default".into(),
        service_account: "pilot".into(),
        trust_domain: "koornacht.tulle".parse().unwrap(),
        cluster,
        node: "koornacht-worker".into(),
        addresses: vec![POD_ADDRESS.parse().unwrap()],
        hostname: String::new().into(),
        labels: SmallMap::new(),
        locality: Locality::default(),
        canonical_name: String::new().into(),
        canonical_revision: String::new().into(),
        kind: WorkloadKind::Pod,
        owner_name: String::new().into(),
        tunnel_protocol: TunnelProtocol::Hbone,
        health: Health::Healthy,
        host_network: false,
        services: [(service.key(), vec![port])].into_iter().collect(),
        authorization_policies: Vec::new(),
        capacity: 1,
        namespace_labels: Arc::default(),
        named_ports: SmallMap::new(),
        demoted: false,
    };
    let mut mesh = Directory::default();
    mesh.apply(Change::Service(Arc::new(service)));
    mesh.apply(Change::Workload(Arc::new(workload)));
    mesh
}

fn ask(node: &Node, name: &str) -> Message {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let socket = node.dns_socket();
    socket.send(&query.to_vec().unwrap()).unwrap();
    let mut buffer = [0; 4096];
    let len = socket.recv(&mut buffer).unwrap();
    Message::from_vec(&buffer[..len]).unwrap()
}

fn dump(node: &Node) -> serde_json::Value {
    let (status, body) = node.admin("/dump").unwrap();
    assert_eq!(status, 200);
    serde_json::from_str(&body).unwrap()
}

/// The pod's listeners, names, certificate, and what the admin server shows of it.
fn check_captured(node: &Node, server: &ControlPlane) {
    for address in [
        "127.0.0.1:15001",
        "10.99.0.5:15006",
        "10.99.0.5:15008",
        "127.0.0.1:15053",
    ] {
        assert!(node.listens(address), "nobody listens at {address}");
    }
    let answer = ask(node, "rebel-base.default.");
    assert_eq!(answer.answers[0].data.to_string(), "172.20.1.7");
    assert_eq!(
        ask(node, "nobody.default.svc.cluster.local.").response_code,
        ResponseCode::NXDomain
    );
    node.wait("the pod's certificate", || {
        let signed = server.signed.lock().unwrap();
        signed
            .iter()
            .any(|id| id == "spiffe://koornacht.tulle/ns/default/sa/pilot")
    });
    let seen = dump(node);
    assert_eq!(seen["pods"]["default_x-wing"]["state"], "captured");
    assert_eq!(seen["xds"]["origin"], "server");
    assert_eq!(seen["services"][0]["endpoints"][0]["chosen"], true);
    assert_eq!(seen["trustBundles"]["koornacht.tulle"], server.root_pem);
    let (_, metrics) = node.admin("/metrics").unwrap();
    for line in [
        "tulle_xds_connected 1",
        "tulle_pods{state=\"captured\"} 1",
        "tulle_kernel_frontends 1",
        "tulle_dns_queries_total{outcome=\"nxdomain\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_lives_through_signals_kills_and_the_loss_of_its_control_plane() {
    let server = ControlPlane::start(&mesh()).await;
    let node = Node::new("life");
    let mut proxy = node.start(&server);
    node.wait_ready();

    node.add_pod("uid-1");
    node.wait("the pod's capture", || {
        node.marker().as_deref() == Some("uid-1\n")
    });
    check_captured(&node, &server);

    // A signal ends it in good order; the kernel's side stays.
    proxy.signal(Signal::TERM);
    assert!(proxy.wait().success());
    assert_eq!(node.marker(), None);
    assert!(!node.listens("127.0.0.1:15001"));
    let pins = fs::read_dir(node.pin_dir()).unwrap().count();
    assert!(pins > 0, "the pins are gone");

    // Without a control plane it starts from what it knew.
    server.stop();
    let mut proxy = node.start(&server);
    node.wait_ready();
    node.wait("the pod's capture", || {
        node.marker().as_deref() == Some("uid-1\n")
    });
    assert_eq!(ask(&node, "rebel-base.").answers.len(), 1);
    assert_eq!(dump(&node)["xds"]["origin"], "saved");

    // A kill leaves a stale marker, which the next process replaces.
    proxy.signal(Signal::KILL);
    assert!(!proxy.wait().success());
    let _proxy = node.start(&server);
    node.wait_ready();
    node.wait("the pod's capture", || {
        node.marker().as_deref() == Some("uid-1\n")
    });

    // The pod goes.
    fs::remove_file(node.path("pods/default_x-wing.json")).unwrap();
    node.wait("the pod's release", || {
        node.marker().is_none() && !node.listens("127.0.0.1:15001")
    });
    node.wait("the pod is forgotten", || {
        dump(&node)["pods"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty)
    });
}

#[test]
fn a_wrong_command_line_names_every_fault() {
    let output = Command::new(env!("CARGO_BIN_EXE_node-proxy"))
        .args(["--cluster", "UPPER", "--admin", "0.0.0.0:1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    for fault in [
        "--cluster: ",
        "--node: is missing",
        "--admin: 0.0.0.0:1 is not on loopback",
    ] {
        assert!(said.contains(fault), "{fault} in {said}");
    }
}
