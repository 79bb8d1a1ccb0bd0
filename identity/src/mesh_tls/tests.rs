use std::{io, str::FromStr};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tulle_model::TrustDomain;

use super::*;
use crate::{
    InnerProtocol, REASONS, Sealer,
    testing::{CarelessPeer, Flaw, Forge, bundles},
};

const PIPE: usize = 64 * 1024;

fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

fn id(domain: &str, account: &str) -> SpiffeId {
    SpiffeId::from_str(&format!("spiffe://{domain}/ns/default/sa/{account}")).unwrap()
}

/// Two clusters with authorities of their own, and a mesh that knows both.
struct Mesh {
    north: Forge,
    south: Forge,
    tls: MeshTls,
}

impl Mesh {
    fn new() -> Self {
        let north = Forge::new(&domain("north.tulle")).unwrap();
        let south = Forge::new(&domain("south.tulle")).unwrap();
        let tls = MeshTls::new();
        tls.set_bundles(bundles(&[&north, &south]).unwrap());
        Mesh { north, south, tls }
    }

    fn client(&self) -> Arc<Svid> {
        self.north
            .svid(&id("north.tulle", "client"), Flaw::None)
            .unwrap()
    }

    fn server(&self) -> Arc<Svid> {
        self.north
            .svid(&id("north.tulle", "server"), Flaw::None)
            .unwrap()
    }

    /// What an honest server says to this client.
    async fn judge_client(&self, client: Option<&Svid>) -> HandshakeError {
        let (near, far) = duplex(PIPE);
        let careless = CarelessPeer::default();
        let (server, client) = tokio::join!(self.tls.accept(self.server(), near), async {
            // TLS 1.3: the client is done before the server has judged it, so it reads to learn the verdict.
            let mut stream = careless.connect(client, far).await?;
            stream.read_u8().await
        });
        assert!(client.is_err(), "the client saw no refusal");
        server.expect_err("the server accepted")
    }

    /// What an honest client says to this server, whom it calls by the identity that the certificate is nominally for.
    async fn judge_server(&self, server: &Svid) -> HandshakeError {
        let (near, far) = duplex(PIPE);
        let careless = CarelessPeer::default();
        let expected = [server.id().clone()];
        let (client, server) = tokio::join!(
            self.tls.connect(self.client(), &expected, near),
            careless.accept(server, far)
        );
        assert!(server.is_err(), "the server saw no refusal");
        client.expect_err("the client accepted")
    }
}

async fn connected(
    mesh: &Mesh,
    client: Arc<Svid>,
    server: Arc<Svid>,
) -> (
    (TlsStream<DuplexStream>, Peer),
    (TlsStream<DuplexStream>, Peer),
) {
    let (near, far) = duplex(PIPE);
    let expected = [server.id().clone()];
    let (client, server) = tokio::join!(
        mesh.tls.connect(client, &expected, near),
        mesh.tls.accept(server, far)
    );
    (client.unwrap(), server.unwrap())
}

#[tokio::test]
async fn both_ends_learn_each_others_identity_and_exchange_bytes() {
    let mesh = Mesh::new();
    let (client_svid, server_svid) = (mesh.client(), mesh.server());
    let ((mut client, seen_by_client), (mut server, seen_by_server)) =
        connected(&mesh, client_svid.clone(), server_svid.clone()).await;
    assert_eq!(seen_by_client.id, *server_svid.id());
    assert_eq!(seen_by_client.serial, server_svid.serial());
    assert_eq!(seen_by_server.id, *client_svid.id());
    assert_eq!(seen_by_server.serial, client_svid.serial());

    client.write_all(b"hello").await.unwrap();
    client.flush().await.unwrap();
    let mut buffer = [0_u8; 5];
    server.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"hello");
}

#[tokio::test]
async fn both_ends_offer_lanes_or_speak_http_2() {
    let mesh = Mesh::new();
    let (any, hbone) = (Offer::Any, Offer::Hbone);
    let cases = [
        (any, any, InnerProtocol::Lane),
        (any, hbone, InnerProtocol::Http2),
        (hbone, any, InnerProtocol::Http2),
        (hbone, hbone, InnerProtocol::Http2),
    ];
    for (by_client, by_server, agreed) in cases {
        let (near, far) = duplex(PIPE);
        let server = mesh.server();
        let expected = [server.id().clone()];
        let (client, server) = tokio::join!(
            mesh.tls
                .connect_offering(by_client, mesh.client(), &expected, near),
            mesh.tls.accept_offering(by_server, server, far)
        );
        let (client, server) = (client.unwrap().0, server.unwrap().0);
        assert_eq!(client.protocol(), Some(agreed));
        assert_eq!(server.protocol(), Some(agreed));
    }
}

#[tokio::test]
async fn only_the_two_ends_of_a_handshake_open_each_others_records() {
    let mesh = Mesh::new();
    let ((client, _), (server, _)) = connected(&mesh, mesh.client(), mesh.server()).await;
    let ((other, _), _) = connected(&mesh, mesh.client(), mesh.server()).await;
    let (_, mut client_seals, mut client_opens) = client.into_sealed().unwrap();
    let (_, mut server_seals, mut server_opens) = server.into_sealed().unwrap();
    let (_, mut other_seals, _) = other.into_sealed().unwrap();
    let record = |sealer: &mut Sealer| {
        let mut record = *b"question........0000000000000000";
        let (content, tag) = record.split_at_mut(16);
        tag.copy_from_slice(&sealer.seal(b"", content).unwrap());
        record
    };
    assert_eq!(
        server_opens.open(b"", &mut record(&mut client_seals)),
        Ok(16)
    );
    assert_eq!(
        client_opens.open(b"", &mut record(&mut server_seals)),
        Ok(16)
    );
    // What the own end sealed does not open here: a record cannot be sent back.
    assert!(
        client_opens
            .open(b"", &mut record(&mut client_seals))
            .is_err()
    );
    assert!(
        server_opens
            .open(b"", &mut record(&mut other_seals))
            .is_err()
    );
}

#[tokio::test]
async fn shutdown_ends_one_direction_and_keeps_the_other() {
    let mesh = Mesh::new();
    let ((mut client, _), (mut server, _)) = connected(&mesh, mesh.client(), mesh.server()).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = Vec::new();
    server.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
}

#[tokio::test]
async fn an_end_without_close_notify_is_an_error() {
    let mesh = Mesh::new();
    let ((client, _), (mut server, _)) = connected(&mesh, mesh.client(), mesh.server()).await;
    drop(client);
    let error = server.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(error.to_string().contains("close_notify"), "{error}");
}

#[tokio::test]
async fn vectored_writes_arrive_in_order_and_whole() {
    let mesh = Mesh::new();
    let ((mut client, _), (mut server, _)) = connected(&mesh, mesh.client(), mesh.server()).await;
    assert!(client.is_write_vectored());
    let parts: Vec<Vec<u8>> = (0_u8..64).map(|part| vec![part; 4096]).collect();
    let expected = parts.concat();
    let length = expected.len();
    let writer = async {
        let mut slices: Vec<io::IoSlice<'_>> =
            parts.iter().map(|part| io::IoSlice::new(part)).collect();
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            let written = client.write_vectored(rest).await.unwrap();
            io::IoSlice::advance_slices(&mut rest, written);
        }
        client.flush().await.unwrap();
    };
    let reader = async {
        let mut received = vec![0_u8; length];
        server.read_exact(&mut received).await.unwrap();
        received
    };
    let ((), received) = tokio::join!(writer, reader);
    assert!(received == expected);
}

#[tokio::test]
async fn peers_of_different_roots_verify_each_other() {
    let mesh = Mesh::new();
    let server = mesh
        .south
        .svid(&id("south.tulle", "server"), Flaw::None)
        .unwrap();
    let ((_, seen_by_client), (_, seen_by_server)) = connected(&mesh, mesh.client(), server).await;
    assert_eq!(seen_by_client.id, id("south.tulle", "server"));
    assert_eq!(seen_by_server.id, id("north.tulle", "client"));
}

#[tokio::test]
async fn every_flaw_is_refused_with_its_reason_on_both_sides() {
    let mesh = Mesh::new();
    let cases = [
        (Flaw::Expired, "expired"),
        (Flaw::NotYetValid, "not_yet_valid"),
        (Flaw::NoSan, "no_san"),
        (Flaw::TwoSans, "several_sans"),
        (Flaw::NotAWorkloadId, "not_a_workload_id"),
        (Flaw::SelfSigned, "unknown_authority"),
        (Flaw::SelfSignedAuthority, "unknown_authority"),
        (Flaw::Authority, "not_a_workload_id"),
        (Flaw::SigningKey, "not_a_workload_id"),
        (Flaw::WrongPurpose, "not_a_workload_id"),
    ];
    for (flaw, reason) in cases {
        let forged = mesh.north.svid(&id("north.tulle", "victim"), flaw).unwrap();
        let by_server = mesh.judge_client(Some(&forged)).await;
        assert_eq!(
            by_server.reason(),
            reason,
            "{flaw:?} at the server: {by_server:?}"
        );
        let by_client = mesh.judge_server(&forged).await;
        assert_eq!(
            by_client.reason(),
            reason,
            "{flaw:?} at the client: {by_client:?}"
        );
        assert!(REASONS.contains(&reason));
    }
}

#[tokio::test]
async fn root_of_one_domain_cannot_sign_for_another() {
    let mesh = Mesh::new();
    let forged = mesh
        .north
        .svid(&id("south.tulle", "victim"), Flaw::None)
        .unwrap();
    assert_eq!(
        mesh.judge_client(Some(&forged)).await.reason(),
        "wrong_trust_domain"
    );
    assert_eq!(
        mesh.judge_server(&forged).await.reason(),
        "wrong_trust_domain"
    );
}

#[tokio::test]
async fn a_domain_without_bundle_is_refused() {
    let mesh = Mesh::new();
    let stranger = Forge::new(&domain("far.example")).unwrap();
    let svid = stranger
        .svid(&id("far.example", "client"), Flaw::None)
        .unwrap();
    assert_eq!(
        mesh.judge_client(Some(&svid)).await.reason(),
        "wrong_trust_domain"
    );
    assert_eq!(
        mesh.judge_server(&svid).await.reason(),
        "wrong_trust_domain"
    );
}

#[tokio::test]
async fn a_strange_root_of_a_known_domain_is_refused() {
    let mesh = Mesh::new();
    // The same name as the true root, another key.
    let impostor = Forge::new(&domain("north.tulle")).unwrap();
    let svid = impostor
        .svid(&id("north.tulle", "client"), Flaw::None)
        .unwrap();
    assert_eq!(
        mesh.judge_client(Some(&svid)).await.reason(),
        "unknown_authority"
    );
    assert_eq!(mesh.judge_server(&svid).await.reason(), "unknown_authority");
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let mesh = Mesh::new();
    let error = mesh.judge_client(None).await;
    assert_eq!(error.reason(), "no_certificate");
}

#[tokio::test]
async fn a_genuine_peer_that_was_not_called_is_refused_before_it_learns_who_calls() {
    let mesh = Mesh::new();
    let (near, far) = duplex(PIPE);
    let server = mesh.server();
    let expected = [id("north.tulle", "other"), id("south.tulle", "server")];
    let (client, server) = tokio::join!(
        mesh.tls.connect(mesh.client(), &expected, near),
        mesh.tls.accept(server, far)
    );
    let error = client.unwrap_err();
    assert_eq!(error.reason(), "unexpected_identity");
    // The server was turned away by an alert: no certificate of ours reached it.
    assert_eq!(server.unwrap_err().reason(), "protocol");
}

#[tokio::test]
async fn without_expected_identities_nobody_is_accepted() {
    let mesh = Mesh::new();
    let (near, far) = duplex(PIPE);
    let (client, _server) = tokio::join!(
        mesh.tls.connect(mesh.client(), &[], near),
        mesh.tls.accept(mesh.server(), far)
    );
    assert_eq!(client.unwrap_err().reason(), "unexpected_identity");
}

#[tokio::test]
async fn peers_that_do_not_speak_h2_are_refused() {
    let mesh = Mesh::new();
    for alpn in [vec![b"http/1.1".to_vec()], vec![]] {
        let careless = CarelessPeer { alpn: alpn.clone() };
        let client_svid = mesh.client();
        let (near, far) = duplex(PIPE);
        let (server, _client) = tokio::join!(
            mesh.tls.accept(mesh.server(), near),
            careless.connect(Some(&client_svid), far)
        );
        assert_eq!(server.unwrap_err().reason(), "alpn", "client with {alpn:?}");

        let server_svid = mesh.server();
        let expected = [server_svid.id().clone()];
        let (near, far) = duplex(PIPE);
        let (client, _server) = tokio::join!(
            mesh.tls.connect(mesh.client(), &expected, near),
            careless.accept(&server_svid, far)
        );
        assert_eq!(client.unwrap_err().reason(), "alpn", "server with {alpn:?}");
    }
}

#[tokio::test]
async fn garbage_is_a_protocol_error_and_an_early_end_is_io() {
    let mesh = Mesh::new();
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 64],
        &[0x16, 0x03, 0x01, 0x00, 0x04, 0x01, 0x00, 0x00, 0x00],
        &[0x16, 0x03, 0x03, 0xff, 0xff, 0x00],
    ];
    for bytes in garbage {
        let (near, mut far) = duplex(PIPE);
        let (server, _sent) =
            tokio::join!(mesh.tls.accept(mesh.server(), near), far.write_all(bytes));
        assert_eq!(
            server.unwrap_err().reason(),
            "protocol",
            "server, {bytes:02x?}"
        );
        let (near, mut far) = duplex(PIPE);
        let expected = [id("north.tulle", "server")];
        let (client, _sent) = tokio::join!(
            mesh.tls.connect(mesh.client(), &expected, near),
            far.write_all(bytes)
        );
        assert_eq!(
            client.unwrap_err().reason(),
            "protocol",
            "client, {bytes:02x?}"
        );
    }
    let (near, far) = duplex(PIPE);
    drop(far);
    assert_eq!(
        mesh.tls
            .accept(mesh.server(), near)
            .await
            .unwrap_err()
            .reason(),
        "io"
    );
}

#[tokio::test]
async fn bundles_change_for_later_handshakes_and_leave_connections_alone() {
    let mesh = Mesh::new();
    let south = mesh
        .south
        .svid(&id("south.tulle", "client"), Flaw::None)
        .unwrap();
    let ((mut client, _), (mut server, _)) = connected(&mesh, south.clone(), mesh.server()).await;

    mesh.tls
        .set_bundles(Arc::new(mesh.tls.bundles().without(&domain("south.tulle"))));
    assert_eq!(
        mesh.judge_client(Some(&south)).await.reason(),
        "wrong_trust_domain"
    );
    client.write_all(b"still here").await.unwrap();
    client.flush().await.unwrap();
    let mut buffer = [0_u8; 10];
    server.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"still here");

    mesh.tls
        .set_bundles(bundles(&[&mesh.north, &mesh.south]).unwrap());
    connected(&mesh, south, mesh.server()).await;
}

#[tokio::test]
async fn a_root_in_rotation_is_trusted_beside_the_old_one() {
    let mesh = Mesh::new();
    let renewed = Forge::new(&domain("north.tulle")).unwrap();
    let both = format!("{}{}", mesh.north.root_pem(), renewed.root_pem());
    let bundles = mesh
        .tls
        .bundles()
        .with_pem(&domain("north.tulle"), &both)
        .unwrap();
    mesh.tls.set_bundles(Arc::new(bundles));
    let svid = renewed
        .svid(&id("north.tulle", "client"), Flaw::None)
        .unwrap();
    connected(&mesh, svid, mesh.server()).await;
    connected(&mesh, mesh.client(), mesh.server()).await;
}

#[tokio::test]
async fn configs_are_built_once_per_certificate_and_die_with_it() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.client(), mesh.server());
    for _ in 0..3 {
        connected(&mesh, client.clone(), server.clone()).await;
    }
    let client_config = client.mesh_client(Offer::Hbone).unwrap();
    let server_config = server.mesh_server(Offer::Hbone).unwrap();
    assert!(Arc::ptr_eq(
        &client_config,
        &client.mesh_client(Offer::Hbone).unwrap()
    ));
    assert!(Arc::ptr_eq(
        &server_config,
        &server.mesh_server(Offer::Hbone).unwrap()
    ));
    assert!(!client_config.enable_sni);
    let (weak_client, weak_server) = (
        Arc::downgrade(&client_config),
        Arc::downgrade(&server_config),
    );
    drop((client_config, server_config, client, server));
    assert!(weak_client.upgrade().is_none());
    assert!(weak_server.upgrade().is_none());
}

#[tokio::test]
async fn verification_outside_of_a_handshake_refuses() {
    let mesh = Mesh::new();
    let (near, far) = duplex(PIPE);
    let client_svid = mesh.client();
    let careless = CarelessPeer::default();
    let acceptor = TlsAcceptor::from(mesh.server().mesh_server(Offer::Hbone).unwrap());
    let (server, _client) = tokio::join!(
        acceptor.accept(near),
        careless.connect(Some(&client_svid), far)
    );
    assert!(server.is_err());
}

#[tokio::test]
async fn the_suites_are_aes_gcm_of_tls_1_3() {
    let suites: Vec<_> = crate::provider::provider()
        .cipher_suites
        .iter()
        .map(|suite| suite.suite())
        .collect();
    assert_eq!(
        suites,
        [
            rustls::CipherSuite::TLS13_AES_256_GCM_SHA384,
            rustls::CipherSuite::TLS13_AES_128_GCM_SHA256
        ]
    );
}

#[test]
fn a_timeout_of_the_caller_has_its_reason() {
    let error = HandshakeError::Timeout {
        limit: std::time::Duration::from_secs(3),
    };
    assert_eq!(error.reason(), "timeout");
    assert!(REASONS.contains(&error.reason()));
}

/// What one handshake expects must never reach another, though all share one config.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn handshakes_at_once_do_not_mix_up_their_expectations() {
    let mesh = Arc::new(Mesh::new());
    let (client, server) = (mesh.client(), mesh.server());
    let handshakes: Vec<_> = (0..200)
        .map(|number| {
            let (mesh, client, server) = (mesh.clone(), client.clone(), server.clone());
            tokio::spawn(async move {
                let right = number % 2 == 0;
                let account = if right { "server" } else { "other" };
                let expected = [id("north.tulle", account)];
                let (near, far) = duplex(512);
                let (made, taken) = tokio::join!(
                    mesh.tls.connect(client, &expected, near),
                    mesh.tls.accept(server, far)
                );
                assert_eq!(made.is_ok(), right);
                assert_eq!(taken.is_ok(), right);
            })
        })
        .collect();
    for handshake in handshakes {
        handshake.await.unwrap();
    }
}

/// Many of them are alive at once, and whoever awaits them carries their size.
#[tokio::test]
async fn handshakes_and_streams_stay_small() {
    let mesh = Mesh::new();
    let (near, far) = duplex(512);
    let accept = size_of_val(&mesh.tls.accept(mesh.server(), near));
    let connect = size_of_val(&mesh.tls.connect(mesh.client(), &[], far));
    let stream = size_of::<TlsStream<tokio::net::TcpStream>>();
    assert!(accept <= 512, "{accept} bytes");
    assert!(connect <= 512, "{connect} bytes");
    assert!(stream <= 16, "{stream} bytes");
}
