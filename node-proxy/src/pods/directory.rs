//! The pod directory: files that describe pods, and the markers that answer them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    error::Error,
    fs, io,
    io::Read,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use super::PodDescriptor;

/// Reads descriptions and writes markers.
#[derive(Debug)]
pub(crate) struct PodDirectory {
    dir: PathBuf,
    /// What was read from each file and when that file was written, so that a scan reads only what is new.
    known: Mutex<HashMap<String, (FileStamp, Option<PodDescriptor>)>>,
}

/// Tells one writing of a file from the next.
type FileStamp = (SystemTime, u64, u64);

/// What the directory says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Pods by `<namespace>_<name>`.
    pub(crate) pods: BTreeMap<String, PodDescriptor>,
    /// Files that do not describe a pod; each has an `.error` marker.
    pub(crate) invalid: BTreeSet<String>,
}

/// How a pod is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marker {
    /// `.captured`: the content is the pod's uid.
    Captured,
    /// `.error`: the content is one sentence.
    Error,
}

impl Marker {
    fn suffix(self) -> &'static str {
        match self {
            Marker::Captured => "captured",
            Marker::Error => "error",
        }
    }
}

impl PodDirectory {
    pub(crate) fn new(dir: PathBuf) -> Self {
        PodDirectory {
            dir,
            known: Mutex::new(HashMap::new()),
        }
    }

    /// Reads all descriptions.
    ///
    /// # Errors
    /// The directory itself cannot be read, or holds more pods than a node can have.
    pub(crate) fn scan(&self) -> Result<Scan, ScanPodsError> {
        let failed = |source| ScanPodsError::Read {
            dir: self.dir.clone(),
            source,
        };
        let mut scan = Scan::default();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(key) = key_of(&entry.path()) else {
                continue;
            };
            if scan.pods.len() + scan.invalid.len() >= PODS_MAX {
                return Err(ScanPodsError::TooMany {
                    dir: self.dir.clone(),
                });
            }
            match self.read(&key, &entry.path()) {
                Some(Some(descriptor)) => drop(scan.pods.insert(key, descriptor)),
                Some(None) => drop(scan.invalid.insert(key)),
                // Gone between the listing and the look.
                None => {}
            }
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|key, _| scan.pods.contains_key(key) || scan.invalid.contains(key));
        Ok(scan)
    }

    /// One file, from memory if it is the same as before: `Some(None)` if it is no description, `None` if it is gone.
    fn read(&self, key: &str, path: &Path) -> Option<Option<PodDescriptor>> {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(path).ok()?;
        let stamp = (metadata.modified().ok()?, metadata.len(), metadata.ino());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, content)) = known.get(key).filter(|(seen, _)| *seen == stamp) {
            return Some(content.clone());
        }
        let content = match read_pod(key, path) {
            Ok(descriptor) => Some(descriptor),
            Err(ReadPodError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return None;
            }
            Err(error) => {
                let error = crate::run::chain(&error);
                tracing::warn!(error, "a pod's description cannot be used");
                self.mark(key, Marker::Error, &error);
                None
            }
        };
        known.insert(key.to_owned(), (stamp, content.clone()));
        Some(content)
    }

    /// Writes one marker and removes the other.
    pub(crate) fn mark(&self, key: &str, marker: Marker, content: &str) {
        let path = self.marker_path(key, marker);
        let draft = self.dir.join(format!(".{key}.{}.tmp", marker.suffix()));
        let written =
            fs::write(&draft, format!("{content}\n")).and_then(|()| fs::rename(&draft, &path));
        if let Err(error) = written {
            tracing::error!(%error, path = %path.display(), "a pod's marker cannot be written");
        }
        let other = match marker {
            Marker::Captured => Marker::Error,
            Marker::Error => Marker::Captured,
        };
        remove(&self.marker_path(key, other));
    }

    /// Removes both markers of a pod.
    pub(crate) fn unmark(&self, key: &str) {
        remove(&self.marker_path(key, Marker::Captured));
        remove(&self.marker_path(key, Marker::Error));
    }

    /// Removes the markers of all pods, also of such as are gone.
    pub(crate) fn remove_all_markers(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let suffix = path.extension().and_then(|suffix| suffix.to_str());
            if matches!(suffix, Some("captured" | "error")) {
                remove(&path);
            }
        }
    }

    fn marker_path(&self, key: &str, marker: Marker) -> PathBuf {
        self.dir.join(format!("{key}.{}", marker.suffix()))
    }
}

/// `<namespace>_<name>` of a description's file; drafts and markers have none.
fn key_of(path: &Path) -> Option<String> {
    let key = path.file_name()?.to_str()?.strip_suffix(".json")?;
    (!key.is_empty() && !key.starts_with('.')).then(|| key.to_owned())
}

fn read_pod(key: &str, path: &Path) -> Result<PodDescriptor, ReadPodError> {
    let failed = |source| ReadPodError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(FILE_LEN_MAX + 1)
        .read_to_end(&mut text)
        .map_err(failed)?;
    if u64::try_from(text.len()).is_ok_and(|len| len > FILE_LEN_MAX) {
        return Err(ReadPodError::TooLong {
            path: path.to_owned(),
        });
    }
    let mut json = serde_json::Deserializer::from_slice(&text);
    // The error names the field.
    let descriptor: PodDescriptor =
        serde_path_to_error::deserialize(&mut json).map_err(|source| ReadPodError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
    json.end().map_err(|source| ReadPodError::Parse {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    let invalid = |field, expected| ReadPodError::Field {
        path: path.to_owned(),
        field,
        expected,
    };
    if format!("{}_{}", descriptor.namespace, descriptor.name) != key {
        return Err(invalid(
            "name",
            "the file's name to be <namespace>_<name>.json",
        ));
    }
    let uid = descriptor
        .uid
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !uid || descriptor.uid.is_empty() || descriptor.uid.len() > UID_LEN_MAX {
        return Err(invalid("uid", "1–128 letters, digits and dashes"));
    }
    if descriptor.service_account.is_empty() {
        return Err(invalid("serviceAccount", "a name"));
    }
    if descriptor.addresses.is_empty() || descriptor.addresses.len() > ADDRESSES_MAX {
        return Err(invalid("addresses", "1–16 IP addresses"));
    }
    if !descriptor.netns.is_absolute() {
        return Err(invalid("netns", "an absolute path"));
    }
    Ok(descriptor)
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(%error, path = %path.display(), "a marker cannot be removed"),
    }
}

/// The pod directory cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanPodsError {
    /// The directory cannot be listed.
    #[error("the pod directory {} cannot be read", dir.display())]
    Read {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// More pods than a node can have.
    #[error("the pod directory {} holds more than {PODS_MAX} descriptions", dir.display())]
    TooMany {
        /// The directory.
        dir: PathBuf,
    },
}

/// A file does not describe a pod.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadPodError {
    /// The file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is longer than any description.
    #[error("{} is longer than {FILE_LEN_MAX} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The file is not JSON of the right shape.
    #[error("{} does not describe a pod", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A field has a value that no pod has.
    #[error("{} has a wrong {field}: expected {expected}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What would be right.
        expected: &'static str,
    },
}

/// The kubelet's default is 110; nobody runs thousands.
const PODS_MAX: usize = 4096;
/// A description has some hundred bytes.
const FILE_LEN_MAX: u64 = 64 * 1024;
/// As the datapath: the uid names a pin.
const UID_LEN_MAX: usize = 128;
const ADDRESSES_MAX: usize = 16;

#[cfg(test)]
mod tests;
