//! The certificates of a cluster's etcd: a CA of its own, the server, and one client per role. Made
//! with the openssl program.
//!
//! These have nothing to do with the mesh's identities, which the xds-server issues itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use thiserror::Error;

use crate::{
    config::ClusterConfig,
    tool::{self, RunToolError},
};

/// Certificates could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MakeCertificatesError {
    /// The openssl program failed.
    #[error("cannot make the certificate of `{name}`")]
    Openssl {
        /// Whose.
        name: String,
        /// Why.
        #[source]
        source: RunToolError,
    },
    /// A file operation failed.
    #[error("cannot write {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The files of an etcd's certificates.
#[derive(Debug, Clone)]
pub(crate) struct EtcdCertificates {
    directory: PathBuf,
}

/// Who has a certificate of the etcd's CA. The common name is the etcd user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The server itself.
    Server,
    /// The administrator, who sets up the others.
    Root,
    /// The cluster's own xds-server.
    XdsServer,
    /// Other clusters.
    Remote,
}

impl Holder {
    /// The file's name, and for clients the etcd user.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Holder::Server => "server",
            Holder::Root => "root",
            Holder::XdsServer => "xds-server",
            Holder::Remote => "remote",
        }
    }
}

impl EtcdCertificates {
    /// The certificates in a directory.
    pub(crate) fn at(directory: PathBuf) -> EtcdCertificates {
        EtcdCertificates { directory }
    }

    /// The CA's certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// The CA's key.
    pub(crate) fn ca_key(&self) -> PathBuf {
        self.directory.join("ca.key")
    }

    /// A holder's certificate.
    pub(crate) fn certificate(&self, holder: Holder) -> PathBuf {
        self.directory.join(format!("{}.crt", holder.name()))
    }

    /// A holder's key.
    pub(crate) fn key(&self, holder: Holder) -> PathBuf {
        self.directory.join(format!("{}.key", holder.name()))
    }

    /// Makes all certificates that are not there.
    pub(crate) fn create(&self, cluster: &ClusterConfig) -> Result<(), MakeCertificatesError> {
        let done = self.directory.join("done");
        if done.exists() {
            return Ok(());
        }
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| MakeCertificatesError::Io { path, source }
        };
        fs::create_dir_all(&self.directory).map_err(io(&self.directory))?;
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(&self.directory, permissions).map_err(io(&self.directory))?;
        let config = self.directory.join("openssl.cnf");
        fs::write(&config, OPENSSL_CONFIG).map_err(io(&config))?;
        self.create_ca(cluster)?;
        for holder in [
            Holder::Server,
            Holder::Root,
            Holder::XdsServer,
            Holder::Remote,
        ] {
            self.create_leaf(cluster, holder)?;
        }
        fs::write(&done, "").map_err(io(&done))
    }

    fn create_ca(&self, cluster: &ClusterConfig) -> Result<(), MakeCertificatesError> {
        let mut command = self.request(&self.ca_key(), &self.ca());
        command
            .args(["-subj", &format!("/CN=etcd CA of {}", cluster.name)])
            .args(["-addext", "basicConstraints=critical,CA:TRUE"])
            .args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"])
            .args(["-addext", "subjectKeyIdentifier=hash"]);
        run(command, "ca")
    }

    fn create_leaf(
        &self,
        cluster: &ClusterConfig,
        holder: Holder,
    ) -> Result<(), MakeCertificatesError> {
        let mut command = self.request(&self.key(holder), &self.certificate(holder));
        command
            .arg("-CA")
            .arg(self.ca())
            .arg("-CAkey")
            .arg(self.ca_key())
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-addext", "keyUsage=critical,digitalSignature"]);
        if holder == Holder::Server {
            let names = format!(
                "subjectAltName=IP:{},IP:{},IP:127.0.0.1,DNS:localhost",
                cluster.control_plane(),
                cluster.control_plane_v6()
            );
            // No common name: etcd's own inner client uses this certificate and must not become a
            // user.
            command
                .args(["-subj", "/O=tulle-lab"])
                .args(["-addext", "extendedKeyUsage=serverAuth,clientAuth"])
                .args(["-addext", &names]);
        } else {
            command
                .args(["-subj", &format!("/CN={}", holder.name())])
                .args(["-addext", "extendedKeyUsage=clientAuth"])
                .args(["-addext", &format!("subjectAltName=DNS:{}", holder.name())]);
        }
        run(command, holder.name())
    }

    fn request(&self, key: &Path, certificate: &Path) -> Command {
        let mut command = Command::new("openssl");
        command
            .args(["req", "-x509", "-nodes", "-days", DAYS, "-config"])
            .arg(self.directory.join("openssl.cnf"))
            .args([
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-keyout",
            ])
            .arg(key)
            .arg("-out")
            .arg(certificate);
        command
    }
}

fn run(command: Command, name: &str) -> Result<(), MakeCertificatesError> {
    tool::run(command, None)
        .map(drop)
        .map_err(|source| MakeCertificatesError::Openssl {
            name: name.to_owned(),
            source,
        })
}

const DAYS: &str = "30";
/// Without this the system's own settings would add extensions of theirs.
const OPENSSL_CONFIG: &str = "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\n";
