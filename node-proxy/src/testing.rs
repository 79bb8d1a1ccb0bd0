//! Small meshes and deadlines for the tests of the control side.

use std::{sync::Arc, time::Duration};

use tulle_model::{
    AppProtocol, Change, Directory, Locality, NamespacedName, PortMapping, Protocol, Service,
    ServicePort, Sharing, Text, TunnelProtocol, Workload, WorkloadKind, WorkloadUid,
};

/// A mesh under construction.
#[derive(Default)]
pub(crate) struct Fixture {
    directory: Directory,
}

impl Fixture {
    pub(crate) fn add_service(&mut self, service: Service) {
        self.directory.apply(Change::Service(Arc::new(service)));
    }

    pub(crate) fn add_pod(&mut self, workload: Workload) {
        self.directory.apply(Change::Workload(Arc::new(workload)));
    }

    pub(crate) fn directory(&self) -> Directory {
        self.directory.clone()
    }
}

/// A service with port 80 at the pods' port 8080.
pub(crate) fn service(namespace: &str, name: &str, addresses: &[&str]) -> Service {
    Service {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        hostname: format!("{name}.{namespace}.svc.cluster.local"),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        ports: vec![ServicePort {
            name: String::new(),
            port: 80,
            target_port: 8080,
            protocol: Protocol::Tcp,
            app_protocol: AppProtocol::Unknown,
        }],
        subject_alt_names: Vec::new(),
        sharing: Sharing::default(),
        ..Service::default()
    }
}

/// A healthy pod of the mesh on the node `<cluster>-worker`.
pub(crate) fn pod(cluster: &str, namespace: &str, name: &str, addresses: &[&str]) -> Workload {
    let cluster_name = cluster.parse().unwrap();
    Workload {
        uid: WorkloadUid::of_pod(&cluster_name, namespace, name),
        name: name.to_owned(),
        namespace: namespace.into(),
        service_account: "default".into(),
        trust_domain: format!("{cluster}.tulle").parse().unwrap(),
        cluster: cluster_name,
        node: format!("{cluster}-worker").into(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        hostname: Text::default(),
        labels: tulle_model::SmallMap::new(),
        locality: Locality::default(),
        canonical_name: Text::default(),
        canonical_revision: Text::default(),
        kind: WorkloadKind::Pod,
        owner_name: Text::default(),
        tunnel_protocol: TunnelProtocol::Hbone,
        health: tulle_model::Health::Healthy,
        host_network: false,
        services: tulle_model::SmallMap::new(),
        authorization_policies: Vec::new(),
        capacity: 1,
        namespace_labels: std::sync::Arc::default(),
        named_ports: tulle_model::SmallMap::new(),
        demoted: false,
    }
}

/// The pod serves port 80 of the service at port 8080.
pub(crate) fn serving(mut workload: Workload, service: &NamespacedName) -> Workload {
    let port = PortMapping {
        service_port: 80,
        target_port: 8080,
        ..PortMapping::default()
    };
    workload.services.insert(service.clone(), vec![port]);
    workload
}

/// Waits for a condition; fails the test when it does not come true in time.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "not in time: {what}");
}

/// Long enough for a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
