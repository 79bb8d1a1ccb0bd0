//! The methods that run something in a pod or in a namespace.

use std::{
    path::PathBuf,
    process::{Child, Output},
};

use super::Lab;
use crate::{
    error::LabError,
    exec::{self, Connection, ExecRequest},
    launch::Launch,
    netns,
};

impl Lab {
    /// Runs a command in a pod (of the default namespace) and waits for its end.
    ///
    /// # Errors
    /// If it cannot be started. A command that fails is an [`Output`] like any other.
    pub fn exec(&self, cluster: &str, target: &str, command: &[&str]) -> Result<Output, LabError> {
        self.exec_request(cluster, &request(target, command))
    }

    /// Runs a command as the request says and waits for its end.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn exec_request(&self, cluster: &str, request: &ExecRequest) -> Result<Output, LabError> {
        let mut child = self.spawn_request(cluster, request)?;
        drop(child.stdin.take());
        child.wait_with_output().map_err(|source| LabError::Io {
            action: "read the output of",
            path: PathBuf::from(request.command.first().cloned().unwrap_or_default()),
            source,
        })
    }

    /// Starts a command in a pod; its streams are pipes.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, cluster: &str, target: &str, command: &[&str]) -> Result<Child, LabError> {
        self.spawn_request(cluster, &request(target, command))
    }

    /// Starts a command as the request says; its streams are pipes.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn_request(&self, cluster: &str, request: &ExecRequest) -> Result<Child, LabError> {
        Ok(exec::spawn(self.prepare(
            cluster,
            request,
            Connection::Piped,
        )?)?)
    }

    /// Becomes the command: returns only if it cannot be started.
    pub fn exec_replace(&self, cluster: &str, request: &ExecRequest) -> LabError {
        match self.prepare(cluster, request, Connection::Inherit) {
            Ok(launch) => exec::ExecError::Launch(Box::new(launch.replace())).into(),
            Err(error) => error,
        }
    }

    fn prepare(
        &self,
        cluster: &str,
        request: &ExecRequest,
        connection: Connection,
    ) -> Result<Launch, LabError> {
        let config = self.cluster(cluster)?;
        let api = self.api(cluster)?;
        Ok(exec::prepare(
            &self.places,
            config,
            &api,
            request,
            connection,
        )?)
    }

    /// Runs code on a thread inside the network namespace of a node.
    ///
    /// # Errors
    /// If there is no such node or its namespace is gone.
    pub fn inside_node<T: Send>(
        &self,
        node: &str,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, LabError> {
        let (cluster, _) = self.node(node)?;
        Ok(netns::inside(
            &self.places.node_namespace(&cluster.name, node),
            work,
        )?)
    }

    /// Runs code on a thread inside the network namespace of a cluster's control plane.
    ///
    /// # Errors
    /// If the namespace is not there.
    pub fn inside_control_plane<T: Send>(
        &self,
        cluster: &str,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, LabError> {
        let cluster = self.cluster(cluster)?;
        Ok(netns::inside(
            &self.places.control_plane_namespace(&cluster.name),
            work,
        )?)
    }

    /// Runs code on a thread inside the router's network namespace, where no node proxy is near: a
    /// stranger to the mesh.
    ///
    /// # Errors
    /// If the namespace is not there.
    pub fn inside_router<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        Ok(netns::inside(&self.places.router_namespace(), work)?)
    }
}

fn request(target: &str, command: &[&str]) -> ExecRequest {
    ExecRequest {
        target: target.to_owned(),
        command: command.iter().map(Into::into).collect(),
        ..ExecRequest::default()
    }
}
