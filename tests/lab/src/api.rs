//! What a cluster's API server would be: objects as files in the manifests directory, changed under
//! one lock.
//!
//! Everybody reads the files as they are: each is replaced whole. Whoever reads an object to write
//! it back holds the lock.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use crate::{
    kind::Kind,
    names::Places,
    object::{Object, ObjectKey},
};

/// A cluster's objects could not be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The cluster is not up.
    #[error("cluster {cluster} is not up; `tulle lab up --cluster {cluster}` brings it up")]
    NotUp {
        /// The cluster.
        cluster: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An object's file holds something else.
    #[error("{} is not an object: {message}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// An object cannot be written as YAML.
    #[error("cannot write {key} as YAML")]
    Encode {
        /// The object.
        key: ObjectKey,
        /// Why.
        #[source]
        source: serde_yaml_ng::Error,
    },
}

/// The objects of one cluster.
#[derive(Debug, Clone)]
pub struct ClusterApi {
    cluster: String,
    directory: PathBuf,
    lock: PathBuf,
}

/// Held while objects are read to be written back.
#[must_use]
#[derive(Debug)]
pub(crate) struct ApiLock {
    _file: File,
}

impl ClusterApi {
    /// The objects of a cluster that is up.
    pub(crate) fn open(places: &Places, cluster: &str) -> Result<ClusterApi, ApiError> {
        let api = ClusterApi::at(places, cluster);
        if places.clusters_up().join(cluster).exists() {
            Ok(api)
        } else {
            Err(ApiError::NotUp {
                cluster: cluster.to_owned(),
            })
        }
    }

    /// The objects of a cluster, whether it is up or not.
    pub(crate) fn at(places: &Places, cluster: &str) -> ClusterApi {
        ClusterApi {
            cluster: cluster.to_owned(),
            directory: places.manifests(cluster),
            lock: places.cluster(cluster).join("manifests.lock"),
        }
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The directory of the files.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes the directories, so that they can be watched.
    pub(crate) fn create_directories(&self) -> Result<(), ApiError> {
        for kind in Kind::ALL {
            let path = self.directory.join(kind.directory());
            fs::create_dir_all(&path).map_err(|source| fault("create", &path, source))?;
        }
        Ok(())
    }

    /// Keeps others from changing objects until the answer is dropped.
    pub(crate) fn lock(&self) -> Result<ApiLock, ApiError> {
        let file = File::create(&self.lock).map_err(|source| fault("open", &self.lock, source))?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| fault("lock", &self.lock, error.into()))?;
        Ok(ApiLock { _file: file })
    }

    /// One object.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn get(&self, key: &ObjectKey) -> Result<Option<Object>, ApiError> {
        read_file(&self.directory.join(key.file_name()))
    }

    /// One object as its Kubernetes type.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn get_as<T: DeserializeOwned>(&self, key: &ObjectKey) -> Result<Option<T>, ApiError> {
        Ok(self.get(key)?.and_then(|object| object.view()))
    }

    /// All objects of a kind, by namespace and name.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn list(&self, kind: Kind) -> Result<Vec<Object>, ApiError> {
        let directory = self.directory.join(kind.directory());
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(fault("list", &directory, source)),
        };
        let mut objects = BTreeMap::new();
        for entry in entries {
            let path = entry
                .map_err(|source| fault("list", &directory, source))?
                .path();
            if !is_object_file(&path) {
                continue;
            }
            // A file that has gone since the directory was listed was deleted: that is no error.
            if let Some(object) = read_file(&path)? {
                objects.insert(object.key.clone(), object);
            }
        }
        Ok(objects.into_values().collect())
    }

    /// Writes an object: the old one or the new one is seen, never a part.
    pub(crate) fn write(&self, object: &Object) -> Result<(), ApiError> {
        let text = serde_yaml_ng::to_string(&object.value).map_err(|source| ApiError::Encode {
            key: object.key.clone(),
            source,
        })?;
        write_whole(
            &self.directory.join(object.key.file_name()),
            text.as_bytes(),
            0o644,
        )
        .map_err(|(path, source)| fault("write", &path, source))
    }

    /// Removes an object's file; says whether there was one.
    pub(crate) fn remove(&self, key: &ObjectKey) -> Result<bool, ApiError> {
        let path = self.directory.join(key.file_name());
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(fault("remove", &path, source)),
        }
    }
}

/// Whether a path in the manifests directory is an object, not somebody's half-written file.
pub(crate) fn is_object_file(path: &Path) -> bool {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    name.ends_with(".yaml") && !name.starts_with('.')
}

/// Reads an object's file; `None` if it is not there.
pub(crate) fn read_file(path: &Path) -> Result<Option<Object>, ApiError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(fault("read", path, source)),
    };
    let broken = |message: String| ApiError::Broken {
        path: path.to_owned(),
        message,
    };
    let value: Value = serde_yaml_ng::from_str(&text).map_err(|error| broken(error.to_string()))?;
    Object::from_value(value)
        .map(Some)
        .ok_or_else(|| broken("kind or metadata.name is missing or unknown".to_owned()))
}

/// Writes a file whole, by renaming. On failure says which path was the trouble.
pub(crate) fn write_whole(path: &Path, text: &[u8], mode: u32) -> Result<(), (PathBuf, io::Error)> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(|source| (parent.to_owned(), source))?;
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    // Two writers of one file never share a temporary one.
    let temporary =
        parent.join(format!(".{name}.{:?}", std::thread::current().id()).replace(['(', ')'], ""));
    let written = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| file.write_all(text))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| (path.to_owned(), source))
}

fn fault(action: &'static str, path: &Path, source: io::Error) -> ApiError {
    ApiError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
