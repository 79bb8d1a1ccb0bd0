//! The lab by its command line: what a user would type.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;

use crate::{process::Run, workspace::Workspace};

/// A cluster is up well within this, or something is broken.
const UP_LIMIT: Duration = Duration::from_mins(2);
/// Everything else that the lab does.
const CHANGE_LIMIT: Duration = Duration::from_mins(1);

/// The running lab.
#[derive(Clone)]
pub(crate) struct Lab {
    program: PathBuf,
    rig: String,
}

impl Lab {
    pub(crate) fn new(workspace: &Workspace, rig: &str) -> Self {
        Self {
            program: workspace.tulle(),
            rig: rig.to_owned(),
        }
    }

    /// Where the lab's programs write their logs.
    pub(crate) fn logs(&self) -> PathBuf {
        Path::new("/run/tulle-lab").join(&self.rig).join("logs")
    }

    pub(crate) fn up(&self, cluster: &str) -> Result<()> {
        self.tulle(&["up", "--cluster", cluster])
            .limit(UP_LIMIT)
            .run()
    }

    pub(crate) fn down(&self) -> Result<()> {
        self.tulle(&["down"]).run()
    }

    pub(crate) fn apply(&self, cluster: &str, file: &Path) -> Result<()> {
        self.tulle(&["apply", cluster, "-f"]).arg(file).run()
    }

    pub(crate) fn annotate(&self, cluster: &str, service: &str, change: &str) -> Result<()> {
        self.tulle(&["annotate", cluster, "service", service, change])
            .run()
    }

    pub(crate) fn scale(&self, cluster: &str, deployment: &str, replicas: u32) -> Result<()> {
        let replicas = replicas.to_string();
        self.tulle(&[
            "scale",
            cluster,
            "deployment",
            deployment,
            "--replicas",
            &replicas,
        ])
        .run()
    }

    /// Stops, starts or kills a program of the lab, such as `koornacht/xds-server`.
    pub(crate) fn component(&self, action: &str, component: &str) -> Result<()> {
        self.tulle(&[action, component]).run()
    }

    /// A shell script inside a pod of a deployment.
    pub(crate) fn shell(&self, cluster: &str, deployment: &str, script: &str) -> Run {
        let target = format!("deployment/{deployment}");
        self.tulle(&["exec", cluster, &target, "--", "sh", "-c", script])
    }

    /// Records what passes a cluster's link, until its standard input ends.
    pub(crate) fn capture(&self, cluster: &str, file: &Path) -> Run {
        self.tulle(&["capture", cluster]).arg(file)
    }

    /// Waits until a deployment has its pods, all of them ready.
    pub(crate) fn wait(&self, cluster: &str, deployment: &str) -> Result<()> {
        self.tulle(&["wait", cluster, &format!("deployment/{deployment}")])
            .limit(UP_LIMIT)
            .run()
    }

    /// A command on the router between the clusters, outside of both and of the mesh.
    pub(crate) fn on_router(&self, program: &str) -> Run {
        Run::new("ip")
            .args(["netns", "exec", &format!("tl-{}-router", self.rig), program])
            .limit(CHANGE_LIMIT)
    }

    fn tulle(&self, arguments: &[&str]) -> Run {
        Run::new(&self.program)
            .shown_as("tulle")
            .args(["lab", "--rig", &self.rig])
            .args(arguments)
            .limit(CHANGE_LIMIT)
    }
}
