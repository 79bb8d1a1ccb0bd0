//! What the tests of the rig share.

use std::{
    process::Output,
    time::{Duration, Instant},
};

use tulle_lab::{DownGuard, Kind, Lab, LabConfig, ObjectKey, UpOptions};

/// Long enough for a busy machine; nothing waits so long when all is well.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// One cluster with two nodes and no mesh, that takes itself down.
pub(crate) struct Rig {
    pub(crate) lab: Lab,
    _guard: DownGuard,
}

impl Rig {
    /// Brings up cluster koornacht of a rig without a mesh.
    pub(crate) fn up(name: &str) -> Rig {
        Rig::up_with(name, &["koornacht"], "")
    }

    /// Brings up some clusters, with more lines in the lab's file.
    pub(crate) fn up_with(name: &str, clusters: &[&str], lines: &str) -> Rig {
        let guard = DownGuard::fresh(name).unwrap();
        let lab = Lab::up(options(name, clusters, lines)).unwrap();
        Rig { lab, _guard: guard }
    }

    /// Applies a text to koornacht.
    pub(crate) fn apply(&self, text: &str) {
        self.lab.apply_text("koornacht", text).unwrap();
    }

    /// Waits until a deployment of koornacht is as it wants to be.
    pub(crate) fn wait_ready(&self, deployment: &str) {
        self.lab
            .wait_ready("koornacht", deployment, DEADLINE)
            .unwrap();
    }

    /// Runs a command in koornacht; its standard output.
    pub(crate) fn run(&self, target: &str, command: &[&str]) -> String {
        let output = self.lab.exec("koornacht", target, command).unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        text(&output)
    }

    /// A field of an object of koornacht, as JSON pointer.
    pub(crate) fn field(&self, kind: Kind, name: &str, pointer: &str) -> serde_json::Value {
        let key = ObjectKey::new(kind, "default", name);
        let object = self.lab.api("koornacht").unwrap().get(&key).unwrap();
        let value = object.map(|object| object.value).unwrap_or_default();
        value.pointer(pointer).cloned().unwrap_or_default()
    }

    /// The only pod of a deployment.
    pub(crate) fn only_pod(&self, deployment: &str) -> String {
        let pods = self.lab.pods("koornacht", deployment).unwrap();
        assert_eq!(pods.len(), 1, "{pods:?}");
        pods[0].key.name.clone()
    }

    /// The addresses of the pods of a deployment.
    pub(crate) fn addresses(&self, cluster: &str, deployment: &str) -> Vec<String> {
        let pods = self.lab.pods(cluster, deployment).unwrap();
        let address = |pod: &tulle_lab::Object| {
            pod.value
                .pointer("/status/podIP")
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned()
        };
        pods.iter().map(address).collect()
    }
}

/// How a rig without a mesh is brought up.
pub(crate) fn options(name: &str, clusters: &[&str], lines: &str) -> UpOptions {
    // Tests count pods; a name server of the cluster is one.
    let text = tulle_lab::BUILT_IN
        .replace("mesh: tulle", &format!("mesh: none\n{lines}"))
        .replace("clusterDns: true", "clusterDns: false");
    UpOptions {
        config: Some(LabConfig::parse("test.yaml", &text).unwrap()),
        clusters: clusters.iter().map(|name| (*name).to_owned()).collect(),
        rig: Some(name.to_owned()),
        binaries: None,
        no_mesh: false,
    }
}

/// Waits until a condition holds.
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl FnMut() -> bool) {
    let start = Instant::now();
    assert!(
        tulle_lab::wait_until(start + DEADLINE, condition),
        "{what}: not within {DEADLINE:?}"
    );
}

/// What a command wrote.
pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A deployment with one container; the lines belong to the container.
pub(crate) fn deployment(name: &str, replicas: u32, image: &str, container: &str) -> String {
    let container: String = container
        .lines()
        .map(|line| format!("        {line}\n"))
        .collect();
    format!(
        "---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
spec:
  replicas: {replicas}
  selector:
    matchLabels: {{app: {name}}}
  template:
    metadata:
      labels: {{app: {name}}}
    spec:
      containers:
      - name: main
        image: {image}
{container}"
    )
}
