//! The users of a cluster's etcd: its own xds-server may write below the cluster's prefix, other
//! clusters may read there, nobody may do more. A user is known by the common name of its client
//! certificate.

use std::{fs, process::Command};

use super::{Component, ComponentError, ETCD_PORT, etcd_certificates, etcd_directory};
use crate::{
    config::ClusterConfig,
    names::Places,
    netns,
    pki::{Holder, MakeCertificatesError},
    tool,
};

/// Makes what etcd needs before its first start.
pub(super) fn prepare(places: &Places, cluster: &ClusterConfig) -> Result<(), ComponentError> {
    etcd_certificates(places, &cluster.name)
        .create(cluster)
        .map_err(|error| match error {
            MakeCertificatesError::Openssl { source, .. } => ComponentError::EtcdUsers {
                component: name(cluster),
                source,
            },
            MakeCertificatesError::Io { path, source } => ComponentError::Io { path, source },
        })
}

/// Creates users and roles and switches authorization on. Done once per life of the data; a
/// half-done set-up is completed.
pub(super) fn create_users(places: &Places, cluster: &ClusterConfig) -> Result<(), ComponentError> {
    let done = etcd_directory(places, &cluster.name).join("users.done");
    if done.exists() {
        return Ok(());
    }
    let prefix = format!("/tulle/v1/{}/", cluster.name);
    let (own, remote) = (Holder::XdsServer.name(), Holder::Remote.name());
    let steps: &[&[&str]] = &[
        &["role", "add", "publisher"],
        &[
            "role",
            "grant-permission",
            "publisher",
            "readwrite",
            "--prefix=true",
            &prefix,
        ],
        &["role", "add", "reader"],
        &[
            "role",
            "grant-permission",
            "reader",
            "read",
            "--prefix=true",
            &prefix,
        ],
        &["user", "add", own, "--no-password"],
        &["user", "grant-role", own, "publisher"],
        &["user", "add", remote, "--no-password"],
        &["user", "grant-role", remote, "reader"],
        &["user", "add", Holder::Root.name(), "--no-password"],
        &["auth", "enable"],
    ];
    let namespace = places.control_plane_namespace(&cluster.name);
    let outcome = netns::inside(&namespace, || {
        for step in steps {
            run(places, cluster, step)?;
        }
        Ok(())
    });
    outcome
        .map_err(|source| ComponentError::Namespace {
            component: name(cluster),
            source,
        })?
        .map_err(|source| ComponentError::EtcdUsers {
            component: name(cluster),
            source,
        })?;
    fs::write(&done, "").map_err(|source| ComponentError::Io { path: done, source })
}

fn run(
    places: &Places,
    cluster: &ClusterConfig,
    arguments: &[&str],
) -> Result<(), tool::RunToolError> {
    let certificates = etcd_certificates(places, &cluster.name);
    let mut command = Command::new("etcdctl");
    command
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints=https://127.0.0.1:{ETCD_PORT}"))
        .arg("--cacert")
        .arg(certificates.ca())
        .arg("--cert")
        .arg(certificates.certificate(Holder::Root))
        .arg("--key")
        .arg(certificates.key(Holder::Root))
        .args(arguments);
    match tool::run(command, None) {
        // A starter that was killed half-way may have done this step already.
        Err(tool::RunToolError::Failed { message, .. }) if message.contains("already exists") => {
            Ok(())
        }
        outcome => outcome.map(drop),
    }
}

fn name(cluster: &ClusterConfig) -> String {
    Component::Etcd(cluster.clone()).to_string()
}
