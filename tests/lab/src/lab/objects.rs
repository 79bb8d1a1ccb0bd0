//! The methods about a cluster's objects.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::Lab;
use crate::{
    api::ClusterApi,
    apply::{self, Changed},
    error::LabError,
    exec,
    get::{self, OutputFormat},
    kind::Kind,
    manifest::ManifestText,
    object::{DEFAULT_NAMESPACE, Object, ObjectKey},
    status,
    supervisor::is_ready,
    wait,
};

/// Which of an object's maps is edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edited {
    /// Its annotations.
    Annotations,
    /// Its labels.
    Labels,
}

impl Lab {
    /// The objects of a cluster that is up.
    ///
    /// # Errors
    /// If it is not up.
    pub fn api(&self, cluster: &str) -> Result<ClusterApi, LabError> {
        self.cluster(cluster)?;
        Ok(ClusterApi::open(&self.places, cluster)?)
    }

    /// Makes a cluster's objects as the manifests say; all of them or none.
    ///
    /// # Errors
    /// With every fault of the manifests.
    pub fn apply(&self, cluster: &str, texts: &[ManifestText]) -> Result<Vec<Changed>, LabError> {
        let config = self.cluster(cluster)?;
        Ok(apply::apply(
            &self.config,
            config,
            &self.api(cluster)?,
            texts,
        )?)
    }

    /// Makes a cluster's objects as a text says.
    ///
    /// # Errors
    /// With every fault of the text.
    pub fn apply_text(&self, cluster: &str, text: &str) -> Result<Vec<Changed>, LabError> {
        let text = ManifestText {
            file: "text".to_owned(),
            text: text.to_owned(),
        };
        self.apply(cluster, &[text])
    }

    /// Makes a cluster's objects as files say.
    ///
    /// # Errors
    /// If a file cannot be read, or with every fault of the files.
    pub fn apply_files(&self, cluster: &str, files: &[PathBuf]) -> Result<Vec<Changed>, LabError> {
        let read = |path: &PathBuf| {
            fs::read_to_string(path)
                .map(|text| ManifestText {
                    file: path.display().to_string(),
                    text,
                })
                .map_err(|source| LabError::Io {
                    action: "read",
                    path: path.clone(),
                    source,
                })
        };
        let texts = files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        self.apply(cluster, &texts)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// If it is not there.
    pub fn delete(&self, cluster: &str, key: &ObjectKey) -> Result<Changed, LabError> {
        Ok(apply::delete(&self.api(cluster)?, key)?)
    }

    /// Sets (`key=value`) and removes (`key-`) annotations of a service in the default namespace.
    ///
    /// # Errors
    /// If the service is not there.
    pub fn annotate(
        &self,
        cluster: &str,
        service: &str,
        edits: &[&str],
    ) -> Result<Changed, LabError> {
        let key = ObjectKey::new(Kind::Service, DEFAULT_NAMESPACE, service);
        self.edit(cluster, &key, Edited::Annotations, &owned(edits))
    }

    /// Sets and removes annotations or labels of any object.
    ///
    /// # Errors
    /// If it is not there.
    pub fn edit(
        &self,
        cluster: &str,
        key: &ObjectKey,
        what: Edited,
        edits: &[String],
    ) -> Result<Changed, LabError> {
        let map = match what {
            Edited::Annotations => "annotations",
            Edited::Labels => "labels",
        };
        Ok(apply::edit_map(&self.api(cluster)?, key, map, edits)?)
    }

    /// Sets the number of replicas of a deployment in the default namespace.
    ///
    /// # Errors
    /// If the deployment is not there.
    pub fn scale(
        &self,
        cluster: &str,
        deployment: &str,
        replicas: u32,
    ) -> Result<Changed, LabError> {
        let key = ObjectKey::new(Kind::Deployment, DEFAULT_NAMESPACE, deployment);
        self.scale_object(cluster, &key, replicas)
    }

    /// Sets the number of replicas of a deployment.
    ///
    /// # Errors
    /// If it is not there.
    pub fn scale_object(
        &self,
        cluster: &str,
        key: &ObjectKey,
        replicas: u32,
    ) -> Result<Changed, LabError> {
        Ok(apply::scale(&self.api(cluster)?, key, replicas)?)
    }

    /// The pods of a deployment in the default namespace that nobody has asked to end.
    ///
    /// # Errors
    /// If the cluster is not up.
    pub fn pods(&self, cluster: &str, deployment: &str) -> Result<Vec<Object>, LabError> {
        Ok(exec::pods_of(
            &self.api(cluster)?,
            DEFAULT_NAMESPACE,
            deployment,
        )?)
    }

    /// Waits until a deployment has just the pods that it wants, all of them ready and none left
    /// that ends.
    ///
    /// # Errors
    /// If that takes longer than `deadline`; says what is missing.
    pub fn wait_ready(
        &self,
        cluster: &str,
        deployment: &str,
        deadline: Duration,
    ) -> Result<(), LabError> {
        let key = ObjectKey::new(Kind::Deployment, DEFAULT_NAMESPACE, deployment);
        self.wait_ready_object(cluster, &key, deadline)
    }

    /// As [`Lab::wait_ready`], for a deployment of any namespace.
    ///
    /// # Errors
    /// If that takes longer than `deadline`; says what is missing.
    pub fn wait_ready_object(
        &self,
        cluster: &str,
        key: &ObjectKey,
        deadline: Duration,
    ) -> Result<(), LabError> {
        let api = self.api(cluster)?;
        let mut missing = Ok(());
        let met = wait::until(Instant::now() + deadline, || {
            missing = status::missing_of_deployment(&api, key);
            missing.is_ok()
        });
        match missing {
            Ok(()) if met => Ok(()),
            outcome => Err(LabError::NotReady {
                what: format!("{key} in {cluster}"),
                deadline,
                message: outcome.err().unwrap_or_default(),
            }),
        }
    }

    /// Waits until a pod is ready.
    ///
    /// # Errors
    /// If that takes longer than `deadline`.
    pub fn wait_pod_ready(
        &self,
        cluster: &str,
        key: &ObjectKey,
        deadline: Duration,
    ) -> Result<(), LabError> {
        let api = self.api(cluster)?;
        let ready = || {
            api.get(key)
                .is_ok_and(|pod| pod.is_some_and(|pod| is_ready(&pod)))
        };
        if wait::until(Instant::now() + deadline, ready) {
            return Ok(());
        }
        let message = status::pod_trouble(&api, key);
        Err(LabError::NotReady {
            what: format!("{key} in {cluster}"),
            deadline,
            message,
        })
    }

    /// Lists objects as `kubectl get` does.
    ///
    /// # Errors
    /// If the kind is unknown or the cluster is not up.
    pub fn get(
        &self,
        cluster: &str,
        kind: &str,
        name: Option<&str>,
        namespace: Option<&str>,
        format: OutputFormat,
    ) -> Result<String, LabError> {
        get::get(&self.api(cluster)?, kind, name, namespace, format)
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
