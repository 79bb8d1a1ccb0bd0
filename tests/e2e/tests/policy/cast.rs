//! Who takes part in random worlds of policies: pods with random labels, and services in front of some.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use anyhow::{Context as _, Result};
use serde_json::json;
use tulle_e2e::rig::{READY_DEADLINE, Rig};
use tulle_lab::{ClusterConfig, Kind, ObjectKey};
use tulle_model::{
    NamedPort, NamespacedName, Protocol, Service, SmallMap, TunnelProtocol, Workload, WorkloadUid,
};

use crate::{
    prober::{PYTHON, SCRIPT},
    random_policies::{Dice, NAMESPACES, PORTS},
};

/// So many pods of each namespace, with random labels, service accounts and names of ports; and a service in front of some of them.
pub(crate) fn make_pods(
    rig: &Rig,
    cluster: &ClusterConfig,
    names: &[&str],
    dice: &mut Dice,
) -> Result<Vec<Workload>> {
    let mut text = String::new();
    for namespace in NAMESPACES {
        let team = team_of(namespace);
        let object = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {"team": team}}});
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "web", "namespace": namespace}});
        let service = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": namespace},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
        write!(text, "---\n{object}\n---\n{account}\n---\n{service}\n")?;
    }
    let mut pods = Vec::new();
    let mut nodes = cluster.nodes.iter().cycle();
    for namespace in NAMESPACES {
        for name in names {
            let node = nodes.next().context("no nodes")?;
            let pod = random_pod(cluster, &node.name, namespace, name, dice)?;
            writeln!(text, "---\n{}", manifest_of(&pod))?;
            pods.push(pod);
        }
    }
    rig.lab.apply_text(&cluster.name, &text)?;
    for pod in &mut pods {
        let key = ObjectKey::new(Kind::Pod, pod.namespace.as_str(), pod.name.as_str());
        rig.lab
            .wait_pod_ready(&cluster.name, &key, READY_DEADLINE)?;
        let object = rig.lab.api(&cluster.name)?.get(&key)?;
        let object = object.context("no such pod")?;
        let address = object.value.pointer("/status/podIP");
        let address = address.and_then(|ip| ip.as_str()).context("no address")?;
        pod.addresses = vec![address.parse()?];
    }
    Ok(pods)
}

/// A service in front of the namespace's `app: web`.
pub(crate) fn web_service(namespace: &str) -> Service {
    Service {
        name: "web".into(),
        namespace: namespace.into(),
        hostname: web_hostname(namespace),
        ..Service::default()
    }
}

fn web_key(namespace: &str) -> NamespacedName {
    NamespacedName::new(namespace, web_hostname(namespace))
}

fn web_hostname(namespace: &str) -> String {
    format!("web.{namespace}.svc.cluster.local")
}

fn team_of(namespace: &str) -> &'static str {
    if namespace == "x" { "red" } else { "blue" }
}

fn random_pod(
    cluster: &ClusterConfig,
    node: &str,
    namespace: &str,
    name: &str,
    dice: &mut Dice,
) -> Result<Workload> {
    let mut pod = plain_workload(cluster, node)?;
    pod.uid = WorkloadUid::of_pod(&pod.cluster, namespace, name);
    pod.name = name.into();
    pod.namespace = namespace.into();
    pod.service_account = dice.pick(&["default", "web"]).into();
    let app = dice.pick(&["web", "db"]);
    pod.labels.insert("app".into(), app.into());
    if app == "web" {
        pod.services.insert(web_key(namespace), Vec::new());
    }
    if dice.one_in(2) {
        let tier = dice.pick(&["front", "back"]);
        pod.labels.insert("tier".into(), tier.into());
    }
    let team = ("team".into(), team_of(namespace).into());
    pod.namespace_labels = Arc::new([team].into_iter().collect());
    let (port, protocol) = (
        dice.pick(&PORTS),
        dice.pick(&[Protocol::Tcp, Protocol::Udp]),
    );
    pod.named_ports
        .insert("http".into(), NamedPort { port, protocol });
    Ok(pod)
}

pub(crate) fn plain_workload(cluster: &ClusterConfig, node: &str) -> Result<Workload> {
    let value = json!({
        "uid": "", "name": node, "namespace": "", "service_account": "", "node": node,
        "trust_domain": cluster.trust_domain, "cluster": cluster.name, "addresses": [],
    });
    let mut workload: Workload = serde_json::from_value(value)?;
    workload.tunnel_protocol = TunnelProtocol::Hbone;
    workload.labels = SmallMap::new();
    Ok(workload)
}

fn manifest_of(pod: &Workload) -> serde_json::Value {
    let mut command = vec![PYTHON, "-c", SCRIPT, "serve", &pod.name];
    let ports = PORTS.map(|port| port.to_string());
    command.extend(ports.iter().map(String::as_str));
    let labels = pod.labels.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let labels: BTreeMap<_, _> = labels.collect();
    let named: Vec<_> = pod
        .named_ports
        .iter()
        .map(|(name, named)| {
            let protocol = if named.protocol == Protocol::Udp {
                "UDP"
            } else {
                "TCP"
            };
            json!({"name": name, "containerPort": named.port, "protocol": protocol})
        })
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "labels": labels},
        "spec": {
            "nodeName": pod.node, "serviceAccountName": pod.service_account,
            "containers": [{"name": "main", "image": "tulle.test/host:1", "command": command, "ports": named}],
        },
    })
}
