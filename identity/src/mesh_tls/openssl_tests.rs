//! Another implementation's opinion of our certificates and handshakes.

use std::{path::PathBuf, process::Stdio, time::SystemTime};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
    time::{Duration, timeout},
};

use super::*;
use crate::{CertificateAuthority, TrustBundles};

const LIMIT: Duration = Duration::from_secs(20);

/// An authority, and a certificate whose key and request OpenSSL made.
struct Rig {
    directory: TempDir,
    authority: CertificateAuthority,
    tls: MeshTls,
}

impl Rig {
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let domain = "a.tulle".parse().unwrap();
        let authority =
            CertificateAuthority::open(&directory.path().join("ca"), &domain, SystemTime::now())
                .unwrap();
        let bundles = TrustBundles::default()
            .with_pem(&domain, authority.root_pem())
            .unwrap();
        let tls = MeshTls::new();
        tls.set_bundles(Arc::new(bundles));
        let rig = Rig {
            directory,
            authority,
            tls,
        };

        let (key, csr) = (rig.path("key.pem"), rig.path("csr.pem"));
        rig.openssl(&[
            "ecparam",
            "-name",
            "prime256v1",
            "-genkey",
            "-noout",
            "-out",
            &key,
        ])
        .await;
        rig.openssl(&[
            "req",
            "-new",
            "-key",
            &key,
            "-subj",
            "/CN=ignored",
            "-out",
            &csr,
        ])
        .await;
        let csr = std::fs::read_to_string(csr).unwrap();
        let issued = rig
            .authority
            .sign_csr(
                &csr,
                &id("foreign"),
                Duration::from_secs(600),
                SystemTime::now(),
            )
            .unwrap();
        std::fs::write(rig.path("leaf.pem"), issued.leaf_pem).unwrap();
        rig
    }

    fn path(&self, name: &str) -> String {
        let path: PathBuf = self.directory.path().join(name);
        path.to_str().unwrap().to_owned()
    }

    async fn openssl(&self, arguments: &[&str]) -> String {
        let output = openssl(arguments).output().await.expect(OPENSSL_MISSING);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "openssl {arguments:?} failed: {text}{errors}"
        );
        text
    }

    fn own_svid(&self) -> Arc<Svid> {
        let hour = Duration::from_secs(3600);
        let svid = self
            .authority
            .issue_server(&id("own"), &[], hour, SystemTime::now());
        Arc::new(svid.unwrap())
    }
}

const OPENSSL_MISSING: &str = "the program openssl is needed: run apt-get install openssl";

fn openssl(arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://a.tulle/ns/default/sa/{account}")
        .parse()
        .unwrap()
}

#[tokio::test]
async fn openssl_verifies_our_chain_strictly_for_both_purposes() {
    let rig = Rig::new().await;
    let (root, leaf) = (rig.path("ca/root-cert.pem"), rig.path("leaf.pem"));
    for purpose in ["sslclient", "sslserver"] {
        let arguments = [
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            &root,
            &leaf,
        ];
        assert!(rig.openssl(&arguments).await.contains("OK"));
    }
    let text = rig
        .openssl(&["x509", "-noout", "-text", "-in", &leaf])
        .await;
    assert!(
        text.contains("URI:spiffe://a.tulle/ns/default/sa/foreign"),
        "{text}"
    );
    assert!(
        text.contains("X509v3 Subject Alternative Name: critical"),
        "{text}"
    );
    assert!(!text.contains("ignored"), "{text}");
}

#[tokio::test]
async fn openssl_as_client_is_accepted_with_a_certificate_and_refused_without() {
    let rig = Rig::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (root, leaf, key) = (
        rig.path("ca/root-cert.pem"),
        rig.path("leaf.pem"),
        rig.path("key.pem"),
    );
    let common = [
        "s_client",
        "-connect",
        &address,
        "-CAfile",
        &root,
        "-verify_return_error",
    ];
    let tls = ["-tls1_3", "-alpn", "h2", "-quiet", "-noservername"];

    let mut with = openssl(&common);
    with.args(tls).args(["-cert", &leaf, "-key", &key]);
    with.stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut client = with.spawn().expect(OPENSSL_MISSING);
    let (io, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    let (mut stream, peer) = timeout(LIMIT, rig.tls.accept(rig.own_svid(), io))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(peer.id, id("foreign"));
    stream.write_all(b"from tulle\n").await.unwrap();
    stream.flush().await.unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let line = timeout(LIMIT, lines.next_line()).await.unwrap().unwrap();
    assert_eq!(line.as_deref(), Some("from tulle"));
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(b"from openssl\n").await.unwrap();
    let mut received = [0_u8; 13];
    timeout(LIMIT, stream.read_exact(&mut received))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&received, b"from openssl\n");
    stream.shutdown().await.unwrap();

    let mut without = openssl(&common);
    without
        .args(tls)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _client = without.spawn().expect(OPENSSL_MISSING);
    let (io, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    let error = timeout(LIMIT, rig.tls.accept(rig.own_svid(), io))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.reason(), "no_certificate");

    let mut old = openssl(&["s_client", "-connect", &address, "-tls1_2", "-alpn", "h2"]);
    let _client = old
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect(OPENSSL_MISSING);
    let (io, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    let error = timeout(LIMIT, rig.tls.accept(rig.own_svid(), io))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.reason(), "protocol");
}

#[tokio::test]
async fn openssl_as_server_is_accepted_and_learns_who_calls() {
    let rig = Rig::new().await;
    let (root, leaf, key) = (
        rig.path("ca/root-cert.pem"),
        rig.path("leaf.pem"),
        rig.path("key.pem"),
    );
    let mut command = openssl(&["s_server", "-accept", "127.0.0.1:0", "-CAfile", &root]);
    command.args([
        "-cert",
        &leaf,
        "-key",
        &key,
        "-Verify",
        "1",
        "-verify_return_error",
    ]);
    command.args(["-tls1_3", "-alpn", "h2", "-rev", "-naccept", "1"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut server = command.spawn().expect(OPENSSL_MISSING);
    // It says "ACCEPT 127.0.0.1:<port>" when it is ready.
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let address = timeout(LIMIT, async {
        loop {
            let line = lines
                .next_line()
                .await
                .unwrap()
                .expect("openssl s_server ended");
            if let Some(address) = line.strip_prefix("ACCEPT ") {
                break address.to_owned();
            }
        }
    });
    let address = address.await.unwrap();
    let io = TcpStream::connect(address).await.unwrap();
    let (stream, peer) = timeout(LIMIT, rig.tls.connect(rig.own_svid(), &[id("foreign")], io))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(peer.id, id("foreign"));
    let mut stream = BufReader::new(stream);
    stream.write_all(b"abc\n").await.unwrap();
    stream.flush().await.unwrap();
    let mut line = String::new();
    timeout(LIMIT, stream.read_line(&mut line))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(line, "cba\n");
}
