//! The files that name the other clusters: one YAML document each.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use tulle_model::ClusterName;

use super::dialect::RemoteKind;
use crate::{
    source::Problem,
    store::{EtcdSettings, PemSource},
};

/// A file of the directory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RemoteFile {
    name: ClusterName,
    #[serde(default)]
    kind: RemoteKind,
    endpoints: Vec<String>,
    /// That of the own etcd, when it is missing.
    ca: Option<String>,
    cert: String,
    key: String,
    server_name: Option<String>,
}

/// What a file asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) path: PathBuf,
    pub(super) kind: RemoteKind,
    pub(super) etcd: EtcdSettings,
    /// Of all files that the settings name: when one changes, the connection does.
    pub(super) contents: u64,
}

/// All clusters of the directory by name, and what is wrong.
pub(super) fn read_directory(
    root: &Path,
    own_ca: Option<&PemSource>,
) -> (BTreeMap<ClusterName, Wanted>, Vec<Problem>) {
    let mut configured: BTreeMap<ClusterName, Wanted> = BTreeMap::new();
    let mut problems = Vec::new();
    let problem = |path: &Path, message: String| Problem {
        path: path.to_path_buf(),
        line: None,
        field: None,
        message,
    };
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) => {
            return (
                configured,
                vec![problem(root, format!("cannot list it: {error}"))],
            );
        }
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.sort();
    let yaml = |p: &&PathBuf| p.extension().is_some_and(|e| e == "yaml" || e == "yml");
    for path in paths.iter().filter(yaml).take(FILES_MAX) {
        match read_file(root, path, own_ca) {
            Ok(file) if configured.contains_key(&file.0) => problems.push(problem(
                path,
                format!(
                    "cluster {} is already configured in another file, which counts",
                    file.0
                ),
            )),
            Ok((name, wanted)) => {
                configured.insert(name, wanted);
            }
            Err(message) => problems.push(message),
        }
    }
    (configured, problems)
}

pub(super) fn read_file(
    root: &Path,
    path: &Path,
    own_ca: Option<&PemSource>,
) -> Result<(ClusterName, Wanted), Problem> {
    let problem = |line, message| Problem {
        path: path.to_path_buf(),
        line,
        field: None,
        message,
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| problem(None, format!("cannot read it: {error}")))?;
    let file: RemoteFile = serde_yaml_ng::from_str(&text)
        .map_err(|error| problem(error.location().map(|l| l.line()), error.to_string()))?;
    let bad = file.endpoints.iter().find(|e| !is_https(e));
    if file.endpoints.is_empty() || bad.is_some() {
        let found = bad.map_or("none", String::as_str);
        return Err(problem(
            None,
            format!("endpoints: {found} is given: expected https://host:port"),
        ));
    }
    // Paths are meant from where the file is.
    let pem = |text: String| {
        if text.contains("-----BEGIN") {
            PemSource::Inline(Arc::from(text))
        } else {
            PemSource::File(root.join(text))
        }
    };
    let ca = file.ca.map(pem).or_else(|| own_ca.cloned());
    let no_ca = || {
        problem(
            None,
            "ca: is missing, and this server has no etcd of its own".to_owned(),
        )
    };
    let etcd = EtcdSettings {
        endpoints: file.endpoints,
        ca: ca.ok_or_else(no_ca)?,
        cert: pem(file.cert),
        key: pem(file.key),
        server_name: file.server_name,
    };
    let wanted = Wanted {
        path: path.to_path_buf(),
        kind: file.kind,
        contents: contents_of(&etcd),
        etcd,
    };
    Ok((file.name, wanted))
}

/// A hash of what the files hold now; a file that cannot be read is told when it is needed.
fn contents_of(etcd: &EtcdSettings) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    for source in [&etcd.ca, &etcd.cert, &etcd.key] {
        if let PemSource::File(path) = source {
            std::fs::read(path).ok().hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// `https://host` with an optional port and nothing behind it.
pub(crate) fn is_https(endpoint: &str) -> bool {
    endpoint.parse::<http::Uri>().is_ok_and(|uri| {
        uri.scheme_str() == Some("https")
            && uri.host().is_some_and(|h| !h.is_empty())
            && uri.path() == "/"
    })
}

/// Ids end at 511.
const FILES_MAX: usize = 511;

#[cfg(test)]
mod tests;
