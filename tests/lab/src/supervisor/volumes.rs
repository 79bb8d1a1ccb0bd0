//! The volumes of a pod: ConfigMaps as directories that change in one step, and empty directories.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{ConfigMap, ConfigMapVolumeSource, PodSpec};
use thiserror::Error;

use crate::{
    api::{ApiError, ClusterApi},
    kind::Kind,
    object::ObjectKey,
    random,
};

/// A volume cannot be filled (yet).
#[derive(Debug, Error)]
#[non_exhaustive]
pub(super) enum FillVolumeError {
    /// The ConfigMap is not there.
    #[error("configmap \"{name}\" not found")]
    NoConfigMap { name: String },
    /// The ConfigMap has not the key that the volume names.
    #[error("configmap \"{name}\" has no key `{key}`")]
    NoKey { name: String, key: String },
    /// The cluster's objects could not be read.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A file operation failed.
    #[error("cannot write {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The directory of a volume.
pub(super) fn directory(pod_directory: &Path, volume: &str) -> PathBuf {
    pod_directory.join("volumes").join(volume)
}

/// Brings every volume of the pod to what it should hold now.
pub(super) fn fill(
    api: &ClusterApi,
    namespace: &str,
    spec: &PodSpec,
    pod_directory: &Path,
) -> Result<(), FillVolumeError> {
    for volume in spec.volumes.iter().flatten() {
        let directory = directory(pod_directory, &volume.name);
        fs::create_dir_all(&directory).map_err(|source| FillVolumeError::Io {
            path: directory.clone(),
            source,
        })?;
        if let Some(source) = &volume.config_map {
            let files = files_of(api, namespace, source)?;
            publish(&directory, &files).map_err(|source| FillVolumeError::Io {
                path: directory.clone(),
                source,
            })?;
        }
    }
    Ok(())
}

/// The ConfigMaps that a pod uses.
pub(super) fn config_maps(spec: &PodSpec) -> BTreeSet<String> {
    let volumes = spec
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| volume.config_map.as_ref());
    let environment = spec
        .containers
        .iter()
        .flat_map(|container| container.env.iter().flatten())
        .filter_map(|variable| variable.value_from.as_ref()?.config_map_key_ref.as_ref());
    volumes
        .map(|source| source.name.clone())
        .chain(environment.map(|source| source.name.clone()))
        .collect()
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

fn files_of(
    api: &ClusterApi,
    namespace: &str,
    source: &ConfigMapVolumeSource,
) -> Result<Files, FillVolumeError> {
    let optional = source.optional.unwrap_or(false);
    let key = ObjectKey::new(Kind::ConfigMap, namespace, &source.name);
    let Some(map) = api.get_as::<ConfigMap>(&key)? else {
        return if optional {
            Ok(Files::new())
        } else {
            Err(FillVolumeError::NoConfigMap {
                name: source.name.clone(),
            })
        };
    };
    let text = map
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, text)| (key, text.into_bytes()));
    let binary = map
        .binary_data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, bytes)| (key, bytes.0));
    let content: BTreeMap<String, Vec<u8>> = text.chain(binary).collect();
    let Some(items) = source.items.as_ref().filter(|items| !items.is_empty()) else {
        return Ok(content
            .into_iter()
            .map(|(key, bytes)| (PathBuf::from(key), bytes))
            .collect());
    };
    let mut files = Files::new();
    for item in items {
        match content.get(&item.key) {
            Some(bytes) => drop(files.insert(PathBuf::from(&item.path), bytes.clone())),
            None if optional => {}
            None => {
                let (name, key) = (source.name.clone(), item.key.clone());
                return Err(FillVolumeError::NoKey { name, key });
            }
        }
    }
    Ok(files)
}

/// Writes the files into a fresh directory and lets `..data` point to it: readers see the old files
/// or the new ones.
fn publish(directory: &Path, files: &Files) -> io::Result<()> {
    let current = directory.join(DATA_LINK);
    if holds(&current, files) {
        return Ok(());
    }
    let old = fs::read_link(&current).ok();
    let fresh = format!("..{}", random::name_suffix(10));
    for (path, bytes) in files {
        let path = directory.join(&fresh).join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, bytes)?;
    }
    fs::create_dir_all(directory.join(&fresh))?;
    let next = directory.join("..data_next");
    if next.symlink_metadata().is_ok() {
        fs::remove_file(&next)?;
    }
    std::os::unix::fs::symlink(&fresh, &next)?;
    fs::rename(&next, &current)?;
    link_names(directory, files)?;
    match old {
        Some(old) => fs::remove_dir_all(directory.join(old)),
        None => Ok(()),
    }
}

/// Gives each file (or the first directory on its way) its name beside `..data`, and removes the
/// names of files that are gone.
fn link_names(directory: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<PathBuf> = files
        .keys()
        .filter_map(|path| {
            path.components()
                .next()
                .map(|first| PathBuf::from(first.as_os_str()))
        })
        .collect();
    for entry in fs::read_dir(directory)? {
        let name = PathBuf::from(entry?.file_name());
        if !wanted.contains(&name) && !name.to_string_lossy().starts_with("..") {
            fs::remove_file(directory.join(name))?;
        }
    }
    for name in wanted {
        let link = directory.join(&name);
        if link.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(Path::new(DATA_LINK).join(&name), link)?;
        }
    }
    Ok(())
}

fn holds(current: &Path, files: &Files) -> bool {
    fn count(directory: &Path) -> usize {
        let Ok(entries) = fs::read_dir(directory) else {
            return 0;
        };
        entries
            .flatten()
            .map(|entry| {
                if entry.path().is_dir() {
                    count(&entry.path())
                } else {
                    1
                }
            })
            .sum()
    }
    current.exists()
        && count(current) == files.len()
        && files.iter().all(|(path, bytes)| {
            fs::read(current.join(path)).is_ok_and(|existing| existing == *bytes)
        })
}

const DATA_LINK: &str = "..data";
