//! A real etcd on loopback with TLS client certificates, and the certificates themselves.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tempfile::TempDir;
use tokio::time::Instant;
use tulle_xds_server::{
    config::{PeersConfig, StoreConfig},
    store::{EtcdInit, EtcdSettings, init},
};

use crate::support::{Cluster, DEADLINE, write_by_rename};

/// One etcd of one cluster; ends with the value.
pub(crate) struct Etcd {
    directory: TempDir,
    endpoint: String,
    peer: String,
    process: Option<Process>,
}

/// Killed by its id, whatever happens to the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Etcd {
    /// An etcd that is set up for `cluster`: users `xds-server` and `remote`, authentication on.
    pub(crate) async fn start(cluster: &str) -> Self {
        let directory = TempDir::new().unwrap();
        make_certificates(directory.path());
        let endpoint = format!("https://127.0.0.1:{}", free_port());
        let peer = format!("http://127.0.0.1:{}", free_port());
        let mut etcd = Etcd {
            directory,
            endpoint,
            peer,
            process: None,
        };
        etcd.start_again().await;
        etcd.init(cluster).await;
        etcd
    }

    /// Sets users and rights up, as the operator does once.
    pub(crate) async fn init(&self, cluster: &str) {
        let settings = EtcdInit {
            cluster: cluster.parse().unwrap(),
            etcd: self.settings("root"),
            user: "xds-server".to_owned(),
            remote_user: "remote".to_owned(),
        };
        init(&settings).await.unwrap();
    }

    /// Starts the process on the same ports and data.
    pub(crate) async fn start_again(&mut self) {
        let path = |part: &str| self.directory.path().join(part);
        let log = File::create(path("etcd.log")).unwrap();
        let child = Command::new("etcd")
            .args([
                "--name",
                "test",
                "--log-level",
                "warn",
                "--client-cert-auth",
                "--data-dir",
            ])
            .arg(path("data"))
            .args([
                "--listen-client-urls",
                &self.endpoint,
                "--advertise-client-urls",
                &self.endpoint,
            ])
            .args([
                "--listen-peer-urls",
                &self.peer,
                "--initial-advertise-peer-urls",
                &self.peer,
            ])
            .args([
                "--initial-cluster",
                &format!("test={}", self.peer),
                "--trusted-ca-file",
            ])
            .arg(path("ca.pem"))
            .arg("--cert-file")
            .arg(path("server.pem"))
            .arg("--key-file")
            .arg(path("server.key"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("this test needs etcd: apt-get install etcd-server");
        self.process = Some(Process(child));
        let until = Instant::now() + DEADLINE;
        loop {
            let answer = match self.client("root").await {
                Ok(mut client) => client.get("x", None).await.map(drop),
                Err(error) => Err(error),
            };
            let Err(error) = answer else { return };
            let log = fs::read_to_string(path("etcd.log")).unwrap();
            assert!(
                Instant::now() < until,
                "etcd does not answer: {error}\n{log}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills the process; the data stay.
    pub(crate) fn stop(&mut self) {
        self.process = None;
    }

    /// Throws the data away.
    pub(crate) fn wipe(&self) {
        fs::remove_dir_all(self.directory.path().join("data")).unwrap();
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// How the user `name` connects.
    pub(crate) fn settings(&self, name: &str) -> EtcdSettings {
        EtcdSettings {
            endpoints: vec![self.endpoint.clone()],
            ca: self.file("ca.pem"),
            cert: self.file(&format!("{name}.pem")),
            key: self.file(&format!("{name}.key")),
        }
    }

    pub(crate) fn store(&self) -> StoreConfig {
        StoreConfig::Etcd(self.settings("xds-server"))
    }

    /// What an xds-server needs to let each other cluster in by itself.
    pub(crate) fn peers(&self) -> PeersConfig {
        PeersConfig::PerPeer {
            ca_cert: self.file("ca.pem"),
            ca_key: self.file("ca.key"),
            admin_cert: self.file("root.pem"),
            admin_key: self.file("root.key"),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A plain client with the certificate of `name`.
    pub(crate) async fn client(&self, name: &str) -> Result<Client, etcd_client::Error> {
        let read = |name: String| fs::read(self.file(&name)).unwrap();
        let identity = Identity::from_pem(read(format!("{name}.pem")), read(format!("{name}.key")));
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(read("ca.pem".to_owned())))
            .identity(identity);
        let options = ConnectOptions::new()
            .with_tls(tls)
            .with_timeout(Duration::from_secs(5));
        Client::connect([&self.endpoint], Some(options)).await
    }

    /// The value of a key, as root.
    pub(crate) async fn value(&self, key: &str) -> Option<String> {
        let answer = self
            .client("root")
            .await
            .unwrap()
            .get(key, None)
            .await
            .unwrap();
        answer
            .kvs()
            .first()
            .map(|kv| kv.value_str().unwrap().to_owned())
    }

    pub(crate) async fn wait_value(&self, key: &str, holds: impl Fn(Option<&str>) -> bool) {
        let until = Instant::now() + DEADLINE;
        loop {
            let value = self.value(key).await;
            if holds(value.as_deref()) {
                return;
            }
            assert!(Instant::now() < until, "{key} is {value:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes `reader` read this etcd's cluster.
    pub(crate) fn connect_from(&self, reader: &Cluster, name: &str, endpoints: &[&str]) {
        let quoted: Vec<String> = endpoints.iter().map(|e| format!("{e:?}")).collect();
        let text = format!(
            "name: {name}\nendpoints: [{}]\nca: {}\ncert: {}\nkey: {}\n",
            quoted.join(", "),
            self.file("ca.pem").display(),
            self.file("remote.pem").display(),
            self.file("remote.key").display()
        );
        write_by_rename(&reader.path("remotes").join(format!("{name}.yaml")), &text);
    }
}

/// Free now; etcd takes no socket that somebody else opened, so a race is possible, though not likely.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A root, a server's certificate for 127.0.0.1, and one client certificate for each user by common name.
fn make_certificates(directory: &Path) {
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    let run = |args: &[&str]| {
        let output = Command::new("openssl")
            .args(args)
            .current_dir(directory)
            .output()
            .expect("this test needs the command openssl: apt-get install openssl");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let root = [
        "req",
        "-x509",
        "-days",
        "2",
        "-subj",
        "/CN=test root",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    ];
    run(&[&root[..], &key].concat());
    let extensions = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
    fs::write(directory.join("extensions"), extensions).unwrap();
    for name in ["server", "root", "xds-server", "remote", "stranger"] {
        let (subject, key_file) = (format!("/CN={name}"), format!("{name}.key"));
        let (request, certificate) = (format!("{name}.csr"), format!("{name}.pem"));
        run(&[
            &[
                "req", "-subj", &subject, "-keyout", &key_file, "-out", &request,
            ][..],
            &key,
        ]
        .concat());
        run(&[
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            &request,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-extfile",
            "extensions",
            "-out",
            &certificate,
        ]);
    }
}
