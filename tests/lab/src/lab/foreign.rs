//! A proxy that is not Tulle's own, in the place of a node's proxy (`mesh: control-plane`): what it has to know, and its process.
//!
//! Whoever starts it stands in for the CNI plugin as well: a pod waits for the file `captured` beside its own, as with Tulle's proxy.

use std::{ffi::OsString, net::Ipv4Addr, path::PathBuf};

use super::Lab;
use crate::{
    component::{self, Component, ComponentError},
    config::{ClusterConfig, NodeConfig},
    error::LabError,
    launch::Launch,
};

/// What a node's proxy has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAccess {
    /// The node's cluster.
    pub cluster: String,
    /// The trust domain of its pods.
    pub trust_domain: String,
    /// The node's own address.
    pub address: Ipv4Addr,
    /// Where the cluster's xds-server serves: `https://host:port`.
    pub server: String,
    /// The file of the root that the server is verified with.
    pub root: PathBuf,
    /// The file of the node's token.
    pub token: PathBuf,
    /// The directory with a file for each pod of the node.
    pub pod_files: PathBuf,
    /// A directory that is the node's own.
    pub directory: PathBuf,
}

/// A program that is to be a node's proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignProxy {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// All of its environment.
    pub environment: Vec<(String, String)>,
    /// Its working directory.
    pub directory: PathBuf,
}

impl Lab {
    /// What the proxy of a node has to know.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn node_access(&self, node: &str) -> Result<NodeAccess, LabError> {
        let (cluster, node) = self.node(node)?;
        let places = &self.places;
        Ok(NodeAccess {
            cluster: cluster.name.clone(),
            trust_domain: cluster.trust_domain.clone(),
            address: cluster.node_address(node),
            server: component::xds_url(cluster),
            root: component::ca_directory(places, &cluster.name).join("root-cert.pem"),
            token: component::token_file(places, &cluster.name, &node.name),
            pod_files: places.pod_files(&cluster.name, &node.name),
            directory: places.node(&cluster.name, &node.name),
        })
    }

    /// Starts a program in the node's namespace and in the cgroup of the node's proxy.
    ///
    /// # Errors
    /// If there is no such node, or the program cannot be started.
    pub fn start_foreign(&self, node: &str, program: ForeignProxy) -> Result<(), LabError> {
        let place = self.foreign(node)?;
        let mut launch = Launch::daemon(
            program.command,
            place.cgroup(&self.places),
            self.places.log(&place.to_string()),
        );
        launch.namespace = place.namespace(&self.places);
        launch.environment = Some(program.environment);
        launch.directory = program.directory;
        // It outlives its starter; whoever asks for it finds it by its cgroup.
        launch.spawn().map_err(|source| ComponentError::Launch {
            component: place.to_string(),
            source: Box::new(source),
        })?;
        Ok(())
    }

    /// Asks the program to end, waits, and kills it if it takes too long.
    ///
    /// # Errors
    /// If there is no such node, or the program survives.
    pub fn stop_foreign(&self, node: &str) -> Result<(), LabError> {
        Ok(self.foreign(node)?.stop(&self.places)?)
    }

    /// The program's process, if it runs.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn foreign_process(&self, node: &str) -> Result<Option<i32>, LabError> {
        Ok(self.foreign(node)?.process(&self.places))
    }

    /// The file that takes what the program writes.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn foreign_log(&self, node: &str) -> Result<PathBuf, LabError> {
        Ok(self.places.log(&self.foreign(node)?.to_string()))
    }

    fn foreign(&self, node: &str) -> Result<Component, LabError> {
        let (cluster, node) = self.node(node)?;
        Ok(Component::NodeProxy(cluster.clone(), node.clone()))
    }

    pub(super) fn node(&self, name: &str) -> Result<(&ClusterConfig, &NodeConfig), LabError> {
        let of = |cluster: &ClusterConfig| cluster.nodes.iter().position(|n| n.name == name);
        self.config
            .clusters
            .iter()
            .find_map(|cluster| Some((cluster, cluster.nodes.get(of(cluster)?)?)))
            .ok_or_else(|| LabError::UnknownNode {
                name: name.to_owned(),
            })
    }
}
