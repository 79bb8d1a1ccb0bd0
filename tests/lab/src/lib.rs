//! Two clusters on one machine: namespaces, cgroups, real processes.
//!
//! A node is a network namespace, a cgroup and a node proxy; a pod is a namespace, a cgroup and a
//! mount namespace; a small kubelet and controller runs pods from a directory of Kubernetes YAML.
//! Everything is found again by its name: no command needs the memory of an earlier one.

mod api;
mod apply;
mod capture;
mod cgroup;
mod component;
mod config;
mod connect;
mod down;
mod error;
mod exec;
mod get;
mod kind;
mod lab;
mod launch;
mod manifest;
mod names;
mod netns;
mod network;
mod notes;
mod object;
mod os;
mod pki;
mod random;
mod rootfs;
mod status;
mod supervisor;
mod table;
mod tool;
mod up;
mod wait;

pub use self::{
    api::{ApiError, ClusterApi},
    apply::{Change, ChangeError, Changed},
    capture::{Capture, CaptureError},
    cgroup::CgroupError,
    component::ComponentError,
    config::{
        BUILT_IN, ClusterConfig, Connect, ImageRule, LabConfig, Mesh, NodeConfig, Program,
        ReadConfigError, Store,
    },
    connect::ConnectError,
    down::DownError,
    error::LabError,
    exec::{ExecError, ExecRequest},
    get::{ALL_NAMESPACES, OutputFormat},
    kind::Kind,
    lab::{DownGuard, Edited, ForeignProxy, Lab, ManagementAccess, NodeAccess, UpOptions},
    launch::LaunchError,
    manifest::{ManifestFault, ManifestText, ReadManifestError},
    netns::NamespaceError,
    object::{Object, ObjectKey},
    pki::MakeCertificatesError,
    rootfs::BuildRootError,
    supervisor::{SuperviseError, supervise},
    tool::RunToolError,
    up::UpError,
    wait::until as wait_until,
};

/// An error with all its causes, in one line.
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The objects that the story applies to cluster koornacht.
pub const KOORNACHT: &str = include_str!("../manifests/koornacht.yaml");
/// The objects that the story applies to cluster tion.
pub const TION: &str = include_str!("../manifests/tion.yaml");
