use tulle_wire::management::{NodeStatus, PublishingStatus, Spread};

use super::*;

fn well() -> ClusterStatus {
    let node = |name: &str| NodeStatus {
        name: name.to_owned(),
        connected: true,
        current: true,
        ..NodeStatus::default()
    };
    ClusterStatus {
        cluster: "koornacht".to_owned(),
        version: "0.1.0".to_owned(),
        ready: true,
        publishing: PublishingStatus {
            enabled: true,
            connected: true,
            published: true,
            keys: 12,
            endpoints: vec!["https://172.18.1.10:2379".to_owned()],
            credentials: "per-peer".to_owned(),
            ..PublishingStatus::default()
        },
        nodes: vec![node("n1"), node("n2")],
        ..ClusterStatus::default()
    }
}

#[test]
fn lonely_cluster() {
    assert_eq!(
        summary(&well()),
        "✅ Cluster access information is available:\n  \
           - https://172.18.1.10:2379\n\
         ✅ Etcd is ready (12 keys published)\n\
         ✅ Xds-server 0.1.0 is ready\n\
         ✅ All 2 nodes are connected and up to date\n\
         🔌 No cluster connected\n\
         🔀 Global services: [ min:0 / avg:0.0 / max:0 ]\n"
    );
    assert_eq!(json(&well())["ready"], true);
}

#[test]
fn connected_cluster() {
    let mut status = well();
    status.global_services = Spread::of([1, 1]);
    status.remotes = vec![RemoteStatus {
        name: "tion".to_owned(),
        state: RemoteState::Ready,
        heartbeat_age_ms: Some(340),
        synced: [("services".to_owned(), true)].into(),
        counts: [("services".to_owned(), 1), ("workloads".to_owned(), 4)].into(),
        ..RemoteStatus::default()
    }];
    let text = summary(&status);
    let expected = "\
🔌 Cluster Connections:
  - tion: ready, 1 services, 4 workloads, heartbeat 0.3 s ago, 0 reconnections
    └  synchronization status: services=true
🔀 Global services: [ min:1 / avg:1.0 / max:1 ]
";
    assert!(text.ends_with(expected), "{text}");
    assert!(faults(&status).is_empty());
}

#[test]
fn every_fault_is_told() {
    let disabled = ClusterStatus {
        publishing: PublishingStatus::default(),
        ..well()
    };
    let mut node = well();
    node.nodes[1].connected = false;
    let mut refused = well();
    refused.nodes[0].last_refusal = Some("bad bytes".to_owned());
    let mut behind = well();
    behind.nodes[0].current = false;
    let remote = |state| ClusterStatus {
        remotes: vec![RemoteStatus {
            name: "tion".to_owned(),
            state,
            last_error: Some("no route".to_owned()),
            ..RemoteStatus::default()
        }],
        ..well()
    };
    let mut etcd = well();
    etcd.publishing.connected = false;
    let mut problems = well();
    problems.remotes_problems = vec!["tion.yaml:3: no such file".to_owned()];
    let table = [
        (
            disabled,
            "cluster koornacht is not enabled: `tulle clustermesh enable` lets others read it",
        ),
        (node, "the node proxy of n2 is not connected"),
        (refused, "the node proxy of n1 refused something: bad bytes"),
        (behind, "the node proxy of n1 is behind"),
        (
            remote(RemoteState::Connecting),
            "cluster tion is not connected: no route",
        ),
        (
            remote(RemoteState::Refused),
            "cluster tion is refused: no route",
        ),
        (
            remote(RemoteState::Silent),
            "cluster tion is silent; its endpoints are used last: no route",
        ),
        (etcd, "the etcd of koornacht is not reached: not tried yet"),
        (problems, "tion.yaml:3: no such file"),
    ];
    for (status, expected) in table {
        assert_eq!(faults(&status), [expected]);
        let text = summary(&status);
        assert!(
            text.ends_with(&format!("❌ 1 Errors:\n  ❌ {expected}\n")),
            "{text}"
        );
        assert_eq!(json(&status)["errors"][0], expected);
    }
}
