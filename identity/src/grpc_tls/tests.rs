use std::time::SystemTime;

use tokio::io::duplex;

use super::*;
use crate::{
    CertificateAuthority,
    testing::{CarelessPeer, Flaw, Forge, bundles},
};

const PIPE: usize = 64 * 1024;
const NAME: &str = "xds-server.tulle-system.svc";
const HOUR: Duration = Duration::from_secs(3600);

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn server_id() -> SpiffeId {
    id("spiffe://a.tulle/ns/tulle-system/sa/xds-server")
}

struct Plane {
    forge: Forge,
    server: ServerTls,
}

impl Plane {
    fn new() -> Self {
        let forge = Forge::new(&"a.tulle".parse().unwrap()).unwrap();
        let svid = forge
            .authority()
            .issue_server(&server_id(), &[NAME], HOUR, SystemTime::now())
            .unwrap();
        let server = ServerTls::new(&svid, bundles(&[&forge]).unwrap()).unwrap();
        Plane { forge, server }
    }

    async fn call(
        &self,
        client: &ClientTls,
    ) -> (
        Result<(), HandshakeError>,
        Result<Option<Peer>, HandshakeError>,
    ) {
        let (near, far) = duplex(PIPE);
        let (client, server) = tokio::join!(client.connect(near), self.server.accept(far));
        (client.map(|_stream| ()), server.map(|(_stream, peer)| peer))
    }
}

#[tokio::test]
async fn a_server_is_recognised_by_name_or_by_identity() {
    let plane = Plane::new();
    for name in [NAME, &server_id().to_string()] {
        let client = ClientTls::new(plane.forge.root_pem(), name, None).unwrap();
        let (client, server) = plane.call(&client).await;
        client.unwrap();
        assert_eq!(server.unwrap(), None);
    }
}

#[tokio::test]
async fn a_client_that_shows_its_certificate_is_known() {
    let plane = Plane::new();
    let node = id("spiffe://a.tulle/ns/tulle-system/sa/node-proxy");
    let svid = plane.forge.svid(&node, Flaw::None).unwrap();
    let client = ClientTls::new(plane.forge.root_pem(), NAME, Some(&svid)).unwrap();
    let (client, server) = plane.call(&client).await;
    client.unwrap();
    assert_eq!(
        server.unwrap(),
        Some(Peer {
            id: node,
            serial: svid.serial(),
            not_after: svid.not_after(),
        })
    );
}

#[tokio::test]
async fn a_bad_client_certificate_is_refused_rather_than_overlooked() {
    let plane = Plane::new();
    let node = id("spiffe://a.tulle/ns/tulle-system/sa/node-proxy");
    for (flaw, reason) in [
        (Flaw::Expired, "expired"),
        (Flaw::SelfSigned, "unknown_authority"),
    ] {
        let svid = plane.forge.svid(&node, flaw).unwrap();
        let client = ClientTls::new(plane.forge.root_pem(), NAME, Some(&svid)).unwrap();
        let (_client, server) = plane.call(&client).await;
        assert_eq!(server.unwrap_err().reason(), reason);
    }
}

#[tokio::test]
async fn another_server_is_refused() {
    let plane = Plane::new();
    let stranger = CertificateAuthority::ephemeral(&"b.tulle".parse().unwrap(), SystemTime::now());
    let root = plane.forge.root_pem();
    let cases = [
        (
            stranger.unwrap().root_pem().to_owned(),
            NAME,
            "unknown_authority",
        ),
        (
            root.to_owned(),
            "other.tulle-system.svc",
            "unexpected_identity",
        ),
        (root.to_owned(), "10.0.0.1", "unexpected_identity"),
        (
            root.to_owned(),
            "spiffe://a.tulle/ns/tulle-system/sa/other",
            "unexpected_identity",
        ),
    ];
    for (root, name, reason) in cases {
        let client = ClientTls::new(&root, name, None).unwrap();
        let (client, _server) = plane.call(&client).await;
        let error = client.unwrap_err();
        assert_eq!(error.reason(), reason, "{name}: {error:?}");
    }
}

#[tokio::test]
async fn an_expired_server_is_refused() {
    let plane = Plane::new();
    let expired = plane.forge.svid(&server_id(), Flaw::Expired).unwrap();
    let name = server_id().to_string();
    let client = ClientTls::new(plane.forge.root_pem(), &name, None).unwrap();
    let (near, far) = duplex(PIPE);
    let careless = CarelessPeer::default();
    let (client, _server) = tokio::join!(client.connect(near), careless.accept(&expired, far));
    assert_eq!(client.unwrap_err().reason(), "expired");
}

#[tokio::test]
async fn a_rotated_certificate_is_presented_to_later_callers() {
    let plane = Plane::new();
    let renamed = plane
        .forge
        .authority()
        .issue_server(&server_id(), &["new.name"], HOUR, SystemTime::now())
        .unwrap();
    let client = ClientTls::new(plane.forge.root_pem(), "new.name", None).unwrap();
    plane.call(&client).await.0.unwrap_err();
    plane.server.set_svid(&renamed).unwrap();
    plane.call(&client).await.0.unwrap();
}

#[test]
fn unusable_names_roots_and_addresses_are_refused() {
    let forge = Forge::new(&"a.tulle".parse().unwrap()).unwrap();
    for name in ["", "a b", "spiffe://a.tulle/node/a"] {
        let outcome = ClientTls::new(forge.root_pem(), name, None);
        assert!(
            matches!(outcome, Err(OpenClientTlsError::ServerName { .. })),
            "{name:?}"
        );
    }
    let outcome = ClientTls::new("no roots", NAME, None);
    assert!(matches!(outcome, Err(OpenClientTlsError::Roots(_))));
    for address in [
        "",
        "host:1",
        "http://host:1",
        "https://host",
        "https://[::1",
        "https://h:x",
    ] {
        assert!(ClientTls::endpoint(address).is_err(), "{address:?}");
    }
    for address in [
        "https://host:15012",
        "https://10.0.0.1:15012",
        "https://[fd00::1]:15012",
    ] {
        ClientTls::endpoint(address).unwrap();
    }
}
