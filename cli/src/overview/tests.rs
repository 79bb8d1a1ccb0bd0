use tulle_wire::management::{NodeStatus, PublishingStatus, RemoteStatus, ViewStatus};

use super::*;

#[test]
fn cluster_at_a_glance() {
    let node = |name: &str, connected| NodeStatus {
        name: name.to_owned(),
        connected,
        current: connected,
        ..NodeStatus::default()
    };
    let mut status = ClusterStatus {
        cluster: "tion".to_owned(),
        cluster_id: 2,
        trust_domain: "tion.tulle".to_owned(),
        version: "0.1.0".to_owned(),
        ready: true,
        uptime_seconds: 7,
        nodes: vec![node("n1", true), node("n2", false)],
        view: ViewStatus {
            services: 3,
            workloads: 8,
            ..ViewStatus::default()
        },
        ..ClusterStatus::default()
    };
    assert_eq!(
        summary(&status),
        "Cluster:       tion (id 2, trust domain tion.tulle)
Xds-server:    OK, version 0.1.0, up 7 s
Etcd:          disabled
Nodes:         1/2 connected, 1/2 up to date
ClusterMesh:   disabled
Services:      3, 0 global
Workloads:     8
Policies:      0
❌ the node proxy of n2 is not connected
"
    );
    status.nodes.pop();
    assert!(faults(&status).is_empty(), "standing alone is no fault");
    status.publishing = PublishingStatus {
        enabled: true,
        last_error: Some("refused".to_owned()),
        ..PublishingStatus::default()
    };
    status.remotes.push(RemoteStatus {
        name: "koornacht".to_owned(),
        ..RemoteStatus::default()
    });
    assert_eq!(
        faults(&status),
        [
            "the cluster's state is not published: refused",
            "cluster koornacht is not ready: `tulle clustermesh status` says more"
        ]
    );
}
