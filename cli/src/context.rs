//! Which cluster a command speaks to, and how it proves who asks: from the command line, from a file of contexts, or from a
//! lab that runs on this machine. Decides that and opens no connection.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Deserialize;
use thiserror::Error;
use tulle_identity::Svid;
use tulle_lab::Lab;

/// The arguments that name a cluster.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ContextArguments {
    /// A context of the file, or a cluster of a lab that runs here: NAME or RIG/NAME
    #[arg(long, value_name = "NAME", global = true, conflicts_with = "server")]
    pub(crate) context: Option<String>,
    /// The file of contexts [default: ~/.config/tulle/contexts.yaml]
    #[arg(long, value_name = "FILE", global = true)]
    contexts: Option<PathBuf>,
    /// The management API of an xds-server, instead of a context: https://host:port
    #[arg(long, value_name = "URL", global = true, requires = "ca")]
    server: Option<String>,
    /// With --server: the cluster's root certificate
    #[arg(long, value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
    /// With --server: the operator's certificate
    #[arg(long, value_name = "FILE", global = true, requires = "key")]
    cert: Option<PathBuf>,
    /// With --server: the key of --cert
    #[arg(long, value_name = "FILE", global = true, requires = "cert")]
    key: Option<PathBuf>,
    /// With --server: the file of the operator's token
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "cert")]
    token_file: Option<PathBuf>,
}

/// Where a management API is, and how to prove oneself to it.
#[derive(Debug)]
pub(crate) struct Target {
    /// What people call it.
    pub(crate) name: String,
    /// `host:port`.
    pub(crate) address: String,
    /// The name that the server's certificate must have.
    pub(crate) server_name: String,
    /// The roots that the server is verified with.
    pub(crate) ca: String,
    /// The operator.
    pub(crate) proof: Proof,
    /// The network namespace to dial in, if not this process's.
    pub(crate) namespace: Option<PathBuf>,
}

/// How an operator proves who it is.
#[derive(Debug)]
pub(crate) enum Proof {
    Token(String),
    Certificate(Box<Svid>),
}

/// No cluster to speak to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum ContextError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not a file of contexts", path.display())]
    Syntax {
        path: PathBuf,
        #[source]
        source: serde_yaml_ng::Error,
    },
    #[error("there is no context {name}; {}", known(known_names))]
    Unknown {
        name: String,
        known_names: Vec<String>,
    },
    #[error("no context is given with --context; {}", known(known_names))]
    NoneChosen { known_names: Vec<String> },
    #[error("{url:?} is not the address of a server: expected https://host:port")]
    Address { url: String },
    #[error("context {name} needs a token or a certificate with its key: give one of the two")]
    NoProof { name: String },
    #[error("the operator's certificate {} cannot be used", path.display())]
    Certificate {
        path: PathBuf,
        #[source]
        source: tulle_identity::AcceptSvidError,
    },
}

fn known(names: &[String]) -> String {
    match names {
        [] => "none is configured, and no lab runs here".to_owned(),
        names => format!("there are {}", names.join(", ")),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContextFile {
    current: Option<String>,
    #[serde(default)]
    contexts: Vec<Entry>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: String,
    server: String,
    ca: PathBuf,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    token_file: Option<PathBuf>,
    server_name: Option<String>,
    network_namespace: Option<PathBuf>,
}

impl ContextArguments {
    /// The cluster that the arguments name; without any, the file's current one, or the only one there is.
    pub(crate) fn target(&self) -> Result<Target, ContextError> {
        if let (Some(server), Some(ca)) = (&self.server, &self.ca) {
            return self.given(server, ca);
        }
        let all = Contexts::read(self.contexts.clone())?;
        match &self.context {
            Some(name) => all.find(name),
            None => all.only(),
        }
    }

    /// Another cluster, of the same file and labs.
    pub(crate) fn other(&self, name: &str) -> Result<Target, ContextError> {
        Contexts::read(self.contexts.clone())?.find(name)
    }

    fn given(&self, server: &str, ca: &Path) -> Result<Target, ContextError> {
        let entry = Entry {
            name: server.to_owned(),
            server: server.to_owned(),
            ca: ca.to_owned(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            token_file: self.token_file.clone(),
            server_name: None,
            network_namespace: None,
        };
        entry.target(Path::new(""))
    }
}

/// Everything that can be named.
struct Contexts {
    directory: PathBuf,
    file: ContextFile,
    labs: Vec<(String, String, Entry)>,
}

impl Contexts {
    fn read(given: Option<PathBuf>) -> Result<Contexts, ContextError> {
        let must_exist = given.is_some();
        let path = given.or_else(default_file);
        let file = match &path {
            Some(path) => read_file(path, must_exist)?,
            None => ContextFile::default(),
        };
        let directory = path
            .as_deref()
            .and_then(Path::parent)
            .unwrap_or(Path::new(""));
        Ok(Contexts {
            directory: directory.to_owned(),
            file,
            labs: labs(),
        })
    }

    /// The file comes before the labs, and the default lab before others.
    fn find(&self, name: &str) -> Result<Target, ContextError> {
        if let Some(entry) = self.file.contexts.iter().find(|entry| entry.name == name) {
            return entry.target(&self.directory);
        }
        let exact = |rig: &str, cluster: &str| format!("{rig}/{cluster}") == name;
        let plain = |cluster: &str| cluster == name || format!("kind-{cluster}") == name;
        let mut fitting: Vec<_> = self
            .labs
            .iter()
            .filter(|(rig, cluster, _)| exact(rig, cluster) || plain(cluster))
            .collect();
        fitting.sort_by_key(|(rig, cluster, _)| (!exact(rig, cluster), rig != DEFAULT_RIG));
        match fitting.as_slice() {
            [(_, _, entry)] => entry.target(Path::new("")),
            [(rig, cluster, entry), ..] if rig == DEFAULT_RIG || exact(rig, cluster) => {
                entry.target(Path::new(""))
            }
            _ => Err(ContextError::Unknown {
                name: name.to_owned(),
                known_names: self.names(),
            }),
        }
    }

    fn only(&self) -> Result<Target, ContextError> {
        if let Some(current) = &self.file.current {
            return self.find(current);
        }
        match (self.file.contexts.as_slice(), self.labs.as_slice()) {
            ([entry], []) => entry.target(&self.directory),
            ([], [(_, _, entry)]) => entry.target(Path::new("")),
            _ => Err(ContextError::NoneChosen {
                known_names: self.names(),
            }),
        }
    }

    fn names(&self) -> Vec<String> {
        let labs = self.labs.iter().map(|(_, _, entry)| entry.name.clone());
        let file = self.file.contexts.iter().map(|entry| entry.name.clone());
        file.chain(labs).collect()
    }
}

/// What a lab's cluster is called, so that it is found again.
fn name_of(rig: &str, cluster: &str) -> String {
    if rig == DEFAULT_RIG {
        cluster.to_owned()
    } else {
        format!("{rig}/{cluster}")
    }
}

fn default_file() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".config"));
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    Some(base.or_else(home)?.join("tulle/contexts.yaml"))
}

fn read_file(path: &Path, must_exist: bool) -> Result<ContextFile, ContextError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => {
            return Ok(ContextFile::default());
        }
        Err(source) => {
            let path = path.to_owned();
            return Err(ContextError::Read { path, source });
        }
    };
    serde_yaml_ng::from_str(&text).map_err(|source| ContextError::Syntax {
        path: path.to_owned(),
        source,
    })
}

/// Rig, cluster and context of every lab cluster that is up.
fn labs() -> Vec<(String, String, Entry)> {
    let mut found = Vec::new();
    for rig in Lab::running() {
        // A rig that goes down in this moment is none.
        let Ok(lab) = Lab::open(&rig) else { continue };
        for access in lab.management() {
            let entry = Entry {
                name: name_of(&rig, &access.cluster),
                server: access.server,
                ca: access.ca,
                cert: None,
                key: None,
                token_file: Some(access.token),
                server_name: None,
                network_namespace: Some(access.namespace),
            };
            found.push((rig.clone(), access.cluster, entry));
        }
    }
    found
}

impl Entry {
    /// Reads what the entry names; its paths are meant from `directory`.
    fn target(&self, directory: &Path) -> Result<Target, ContextError> {
        let read = |path: &Path| {
            let path = directory.join(path);
            fs::read_to_string(&path).map_err(|source| ContextError::Read { path, source })
        };
        let proof = match (&self.token_file, &self.cert, &self.key) {
            (Some(token), None, None) => Proof::Token(read(token)?.trim().to_owned()),
            (None, Some(cert), Some(key)) => {
                let svid = Svid::from_pem(&read(cert)?, &read(key)?);
                let svid = svid.map_err(|source| ContextError::Certificate {
                    path: cert.clone(),
                    source,
                })?;
                Proof::Certificate(Box::new(svid))
            }
            _ => {
                return Err(ContextError::NoProof {
                    name: self.name.clone(),
                });
            }
        };
        let server_name = self.server_name.as_deref().unwrap_or(SERVER_NAME);
        Ok(Target {
            name: self.name.clone(),
            address: address_of(&self.server)?,
            server_name: server_name.to_owned(),
            ca: read(&self.ca)?,
            proof,
            namespace: self.network_namespace.clone(),
        })
    }
}

/// `host:port` of `https://host:port`.
fn address_of(url: &str) -> Result<String, ContextError> {
    let bad = || ContextError::Address {
        url: url.to_owned(),
    };
    let uri: http::Uri = url.parse().map_err(|_| bad())?;
    let plain = uri.path() == "/" && uri.query().is_none();
    match (uri.scheme_str(), uri.host(), uri.port_u16()) {
        (Some("https"), Some(host), port) if plain && !host.is_empty() => {
            Ok(format!("{host}:{}", port.unwrap_or(DEFAULT_PORT)))
        }
        _ => Err(bad()),
    }
}

/// The rig that `tulle lab` makes when none is named.
const DEFAULT_RIG: &str = "lab";
/// A name that every xds-server's certificate has.
const SERVER_NAME: &str = "xds-server.tulle-system.svc";
const DEFAULT_PORT: u16 = 15013;

#[cfg(test)]
mod tests;
