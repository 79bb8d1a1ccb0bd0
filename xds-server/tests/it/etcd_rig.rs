//! A real etcd on loopback with TLS client certificates, and the certificates themselves.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
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
    words: Vec<String>,
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
        Self::start_in(directory, cluster, &[]).await
    }

    /// The same with a directory that has certificates already, and more words for etcd.
    pub(crate) async fn start_in(directory: TempDir, cluster: &str, words: &[&str]) -> Self {
        let endpoint = format!("https://127.0.0.1:{}", free_port());
        let peer = format!("http://127.0.0.1:{}", free_port());
        let mut etcd = Etcd {
            directory,
            endpoint,
            peer,
            words: words.iter().map(|w| (*w).to_owned()).collect(),
            process: None,
        };
        etcd.start_again().await;
        etcd.init(cluster).await;
        etcd
    }

    /// An etcd that nobody has spoken to yet: its certificates need not be good.
    pub(crate) async fn start_unchecked(directory: TempDir) -> Self {
        let mut etcd = Etcd {
            directory,
            endpoint: format!("https://127.0.0.1:{}", free_port()),
            peer: format!("http://127.0.0.1:{}", free_port()),
            words: Vec::new(),
            process: None,
        };
        etcd.spawn();
        let address = etcd.endpoint.trim_start_matches("https://").to_owned();
        let until = Instant::now() + DEADLINE;
        while tokio::net::TcpStream::connect(&address).await.is_err() {
            assert!(Instant::now() < until, "etcd does not listen");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        etcd
    }

    /// A certificate of the etcd's root that is out of date; the answer is the place of both files without their endings.
    pub(crate) fn sign_expired(&self, name: &str) -> PathBuf {
        sign(self.directory.path(), name, "-1");
        self.file(name)
    }

    /// Sets users and rights up, as the operator does once.
    pub(crate) async fn init(&self, cluster: &str) {
        let settings = EtcdInit {
            cluster: cluster.parse().unwrap(),
            etcd: self.settings("root"),
            user: "xds-server".to_owned(),
            remote_user: "remote".to_owned(),
            cilium: true,
        };
        init(&settings).await.unwrap();
    }

    /// Starts the process on the same ports and data.
    pub(crate) async fn start_again(&mut self) {
        self.spawn();
        let until = Instant::now() + DEADLINE;
        loop {
            let answer = match self.client("root").await {
                Ok(mut client) => client.get("x", None).await.map(drop),
                Err(error) => Err(error),
            };
            let Err(error) = answer else { return };
            let log = fs::read_to_string(self.file("etcd.log")).unwrap();
            assert!(
                Instant::now() < until,
                "etcd does not answer: {error}\n{log}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn spawn(&mut self) {
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
            // What a killed process wrote is still there; only a machine's end would lose it.
            .arg("--unsafe-no-fsync")
            .args(&self.words)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("this test needs etcd: apt-get install etcd-server");
        self.process = Some(Process(child));
    }

    /// The next start listens at another address.
    pub(crate) fn move_to(&mut self, address: &str) {
        self.endpoint = format!("https://{address}:{}", self.port());
    }

    pub(crate) fn port(&self) -> String {
        self.endpoint.rsplit(':').next().unwrap().to_owned()
    }

    /// Kills the process; the data stay.
    pub(crate) fn stop(&mut self) {
        self.process = None;
    }

    /// Throws the data away.
    pub(crate) fn wipe(&self) {
        fs::remove_dir_all(self.directory.path().join("data")).unwrap();
    }

    pub(crate) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// How the user `name` connects.
    pub(crate) fn settings(&self, name: &str) -> EtcdSettings {
        EtcdSettings {
            endpoints: vec![self.endpoint.clone()],
            ca: self.file("ca.pem").into(),
            cert: self.file(&format!("{name}.pem")).into(),
            key: self.file(&format!("{name}.key")).into(),
            server_name: None,
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

    pub(crate) fn file(&self, name: &str) -> PathBuf {
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
        self.connect_with(reader, name, endpoints, "");
    }

    /// The same with more lines; a line that begins as another one takes its place.
    pub(crate) fn connect_with(
        &self,
        reader: &Cluster,
        name: &str,
        endpoints: &[&str],
        more: &str,
    ) {
        let quoted: Vec<String> = endpoints.iter().map(|e| format!("{e:?}")).collect();
        let mut lines = std::collections::BTreeMap::from([
            ("name", format!(" {name}")),
            ("endpoints", format!(" [{}]", quoted.join(", "))),
            ("ca", format!(" {}", self.file("ca.pem").display())),
            ("cert", format!(" {}", self.file("remote.pem").display())),
            ("key", format!(" {}", self.file("remote.key").display())),
        ]);
        for line in more.lines() {
            let (field, value) = line.split_once(':').unwrap();
            lines.insert(field, value.to_owned());
        }
        let text: String = lines.iter().map(|(f, v)| format!("{f}:{v}\n")).collect();
        write_by_rename(&reader.path("remotes").join(format!("{name}.yaml")), &text);
    }
}

/// A port that nobody gets by chance: a connection of another test could have a port of the kernel's own range while this etcd is down.
fn free_port() -> u16 {
    // Each process of tests begins elsewhere.
    static TURN: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id() * 64));
    let ports = || {
        let turn = TURN.fetch_add(1, Ordering::Relaxed);
        u16::try_from(turn % PORTS_LEN).unwrap() + PORTS_START
    };
    std::iter::repeat_with(ports)
        .take(1_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port below those that the kernel gives (ip_local_port_range)")
}

/// Below 32,768, where Linux begins to give ports to connections.
const PORTS_START: u16 = 20_000;
const PORTS_LEN: u32 = 12_000;

/// A root, a server's certificate for 127.0.0.1, and one client certificate for each user by common name.
pub(crate) fn make_certificates(directory: &Path) {
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
    openssl(directory, &[&root[..], &NEW_KEY].concat());
    let extensions = "subjectAltName=IP:127.0.0.1,IP:127.0.0.3,DNS:etcd.example\nextendedKeyUsage=serverAuth,clientAuth\n";
    fs::write(directory.join("extensions"), extensions).unwrap();
    for name in ["server", "root", "xds-server", "remote", "stranger"] {
        sign(directory, name, "2");
    }
}

/// A certificate of the directory's root for the common name `name`; `days` may be in the past.
pub(crate) fn sign(directory: &Path, name: &str, days: &str) {
    let (subject, key_file) = (format!("/CN={name}"), format!("{name}.key"));
    let (request, certificate) = (format!("{name}.csr"), format!("{name}.pem"));
    let ask = [
        "req", "-subj", &subject, "-keyout", &key_file, "-out", &request,
    ];
    openssl(directory, &[&ask[..], &NEW_KEY].concat());
    let sign = [
        "x509",
        "-req",
        "-days",
        days,
        "-in",
        &request,
        "-out",
        &certificate,
    ];
    let by = [
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "extensions",
    ];
    openssl(directory, &[&sign[..], &by].concat());
}

fn openssl(directory: &Path, args: &[&str]) {
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
}

const NEW_KEY: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-nodes",
];
