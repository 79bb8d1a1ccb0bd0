//! DNS names for strangers: the cluster's name server that knows them, and pods that ask for them.
//!
//! No policy selects who asks or who answers: which names a node knows is given, and what they let through is tried.

use std::{net::IpAddr, sync::Arc};

use anyhow::{Result, ensure};
use serde_json::json;
use tulle_e2e::rig::{READY_DEADLINE, Rig};
use tulle_lab::{ClusterConfig, Kind, ObjectKey};
use tulle_policy::compiled::LearnedNames;

use crate::prober::Prober;

/// What rules say of the names.
pub(crate) const PATTERNS: [(&str, &str); 5] = [
    ("matchName", "stranger.test"),
    ("matchName", "router.test"),
    ("matchName", "nobody.test"),
    ("matchPattern", "*.test"),
    ("matchPattern", "s*"),
];

/// The names, and on each node somebody who asks for them.
pub(crate) struct Names {
    known: Vec<(&'static str, IpAddr)>,
    askers: Vec<Prober>,
}

impl Names {
    /// Has the cluster's name server know the names, and waits until everybody is told.
    pub(crate) fn set_up(
        rig: &Rig,
        cluster: &ClusterConfig,
        stranger: IpAddr,
        router: IpAddr,
    ) -> Result<Names> {
        let known = vec![("stranger.test", stranger), ("router.test", router)];
        let its_own = ObjectKey::new(Kind::Deployment, "kube-system", "kube-dns");
        rig.lab.delete(&cluster.name, &its_own)?;
        let server = server(cluster, &known);
        rig.lab.apply_text(&cluster.name, &server.to_string())?;
        let mut askers = Vec::new();
        for node in &cluster.nodes {
            let name = format!("asks-{}", node.name);
            rig.pod(&cluster.name, &node.name, &name, &["sleep", "100000"])?;
            askers.push(Prober::start_asker(rig, &cluster.name, "default", &name)?);
        }
        let mut names = Names { known, askers };
        rig.wait_for("the names are told", READY_DEADLINE, || {
            names.learn().map(|()| true)
        })?;
        Ok(names)
    }

    /// Has every node learn the names again: it keeps only those that rules speak of at the time.
    pub(crate) fn learn(&mut self) -> Result<()> {
        for asker in &mut self.askers {
            for (name, address) in &self.known {
                let told = asker.look_up(name)?;
                ensure!(told == Some(*address), "{name} is {told:?}, not {address}");
            }
        }
        Ok(())
    }

    /// As the rules know them.
    pub(crate) fn learned(&self) -> LearnedNames {
        let names = self.known.iter();
        let names =
            names.map(|(name, address)| (Arc::from(format!("{name}.")), Arc::from([*address])));
        LearnedNames {
            names: names.collect(),
        }
    }
}

fn server(cluster: &ClusterConfig, known: &[(&str, IpAddr)]) -> serde_json::Value {
    let fixed = [
        "dnsmasq",
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--no-daemon",
        "--conf-file=/dev/null",
        "--pid-file",
        "--user=root",
        "--local-ttl=600",
    ];
    let told = known.iter();
    let told = told.map(|(name, address)| format!("--address=/{name}/{address}"));
    let command: Vec<String> = fixed.iter().map(ToString::to_string).chain(told).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "names", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
        "spec": {
            "nodeName": cluster.nodes.first().map(|node| &node.name),
            "containers": [{"name": "dnsmasq", "image": "tulle.test/host:1", "command": command}],
        },
    })
}
