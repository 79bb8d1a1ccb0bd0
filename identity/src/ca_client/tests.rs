use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::SystemTime,
};

use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Response,
    body::Body,
    server::{NamedService, UnaryService},
    transport::Server,
};

use super::*;
use crate::{
    GrpcStream, Peer, ServerTls,
    testing::{Forge, bundles},
};

const HOUR: Duration = Duration::from_secs(3600);
const LIMIT: Duration = Duration::from_secs(20);
const NAME: &str = "xds-server.tulle-system.svc";

fn id(text: &str) -> SpiffeId {
    format!("spiffe://a.tulle/ns/{text}").parse().unwrap()
}

/// What the authority saw of one request.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    authorization: String,
    cluster: String,
    impersonated: Option<String>,
    seconds: i64,
    peer: Option<Peer>,
}

/// How the authority answers.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Honest,
    Refusing,
    Rootless,
    Confused,
}

#[derive(Clone)]
struct Authority {
    forge: Arc<Forge>,
    mood: Arc<Mutex<Mood>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Authority {
    fn answer(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let text = |key: &str| {
            let value = request.metadata().get(key);
            value
                .map(|value| value.to_str().unwrap().to_owned())
                .unwrap_or_default()
        };
        let message = request.get_ref();
        let impersonated = message.impersonated_identity().map(str::to_owned);
        self.seen.lock().unwrap().push(Seen {
            authorization: text("authorization"),
            cluster: text("clusterid"),
            impersonated: impersonated.clone(),
            seconds: message.validity_duration,
            peer: request.extensions().get::<Option<Peer>>().unwrap().clone(),
        });
        let mood = *self.mood.lock().unwrap();
        let wanted = impersonated.map(|text| text.parse().unwrap());
        let id = match mood {
            Mood::Refusing => return Err(Status::unauthenticated("not your pod")),
            Mood::Confused => id("default/sa/wrong"),
            Mood::Honest | Mood::Rootless => {
                wanted.unwrap_or_else(|| id("tulle-system/sa/node-proxy"))
            }
        };
        let issued = self
            .forge
            .authority()
            .sign_csr(&message.csr, &id, HOUR, SystemTime::now())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut cert_chain = vec![issued.leaf_pem];
        if mood != Mood::Rootless {
            cert_chain.push(issued.root_pem);
        }
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

impl UnaryService<IstioCertificateRequest> for Authority {
    type Response = IstioCertificateResponse;
    type Future = std::future::Ready<Result<Response<IstioCertificateResponse>, Status>>;

    fn call(&mut self, request: Request<IstioCertificateRequest>) -> Self::Future {
        std::future::ready(self.answer(request))
    }
}

impl NamedService for Authority {
    const NAME: &'static str = grpc_path::CERTIFICATE_SERVICE;
}

impl tower::Service<http::Request<Body>> for Authority {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        assert_eq!(request.uri().path(), grpc_path::CREATE_CERTIFICATE);
        let authority = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<IstioCertificateResponse, IstioCertificateRequest>::default();
            Ok(tonic::server::Grpc::new(codec)
                .unary(authority, request)
                .await)
        })
    }
}

/// A running authority and the files of its client.
struct Rig {
    authority: Authority,
    config: CaClientConfig,
    runtime: Option<Runtime>,
    address: SocketAddr,
    _directory: TempDir,
}

impl Rig {
    async fn start() -> Self {
        let forge = Arc::new(Forge::new(&"a.tulle".parse().unwrap()).unwrap());
        let mood = Arc::new(Mutex::new(Mood::Honest));
        let authority = Authority {
            forge: forge.clone(),
            mood,
            seen: Arc::default(),
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let directory = TempDir::new().unwrap();
        let token = directory.path().join("token");
        std::fs::write(&token, "first-token\n").unwrap();
        let config = CaClientConfig {
            address: format!("https://{address}"),
            root_pem: forge.root_pem().to_owned(),
            server_name: NAME.to_owned(),
            token,
            cluster: "koornacht".to_owned(),
            own_id: id("tulle-system/sa/node-proxy"),
            ttl: HOUR,
        };
        let runtime = Some(serve(&authority, listener));
        Rig {
            authority,
            config,
            runtime,
            address,
            _directory: directory,
        }
    }

    /// Ends the authority and every connection to it.
    fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Starts the authority again where it was, once the place is free.
    async fn resume(&mut self) {
        let deadline = Instant::now() + LIMIT;
        let listener = loop {
            match std::net::TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::task::yield_now().await;
        };
        self.runtime = Some(serve(&self.authority, listener));
    }

    fn client(&self) -> CaClient {
        CaClient::new(self.config.clone()).unwrap()
    }

    fn seen(&self) -> Vec<Seen> {
        self.authority.seen.lock().unwrap().clone()
    }
}

/// The authority has a runtime of its own, so that it can die whole.
fn serve(authority: &Authority, listener: std::net::TcpListener) -> Runtime {
    let forge = &authority.forge;
    let server_id = id("tulle-system/sa/xds-server");
    let svid = forge
        .authority()
        .issue_server(&server_id, &[NAME], HOUR, SystemTime::now())
        .unwrap();
    let tls = ServerTls::new(&svid, bundles(&[forge]).unwrap()).unwrap();
    let router = Server::builder().add_service(authority.clone());
    listener.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (accepted, incoming) = mpsc::channel(16);
    runtime.spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        while let Ok((io, _address)) = listener.accept().await {
            if let Ok((stream, peer)) = tls.accept(io).await {
                let stream = GrpcStream::new(stream, peer);
                accepted
                    .send(Ok::<_, std::io::Error>(stream))
                    .await
                    .unwrap();
            }
        }
    });
    runtime.spawn(async move {
        router
            .serve_with_incoming(ReceiverStream::new(incoming))
            .await
            .unwrap();
    });
    runtime
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop();
    }
}

#[tokio::test]
async fn a_certificate_comes_with_its_roots_and_the_request_says_what_istiod_wants() {
    let rig = Rig::start().await;
    let client = rig.client();
    let svid = client.fetch(&id("default/sa/app")).await.unwrap();
    assert_eq!(*svid.id(), id("default/sa/app"));
    assert_eq!(
        svid.issuer_roots_pem(),
        Some(rig.authority.forge.root_pem())
    );
    assert_eq!(
        rig.seen(),
        [Seen {
            authorization: "Bearer first-token".to_owned(),
            cluster: "koornacht".to_owned(),
            impersonated: Some(id("default/sa/app").to_string()),
            seconds: 3600,
            peer: None,
        }]
    );
}

#[tokio::test]
async fn the_own_identity_is_not_impersonated() {
    let rig = Rig::start().await;
    let own = id("tulle-system/sa/node-proxy");
    let svid = rig.client().fetch(&own).await.unwrap();
    assert_eq!(*svid.id(), own);
    assert_eq!(rig.seen()[0].impersonated, None);
}

#[tokio::test]
async fn the_token_is_read_anew_for_each_request() {
    let rig = Rig::start().await;
    let client = rig.client();
    client.fetch(&id("default/sa/app")).await.unwrap();
    std::fs::write(&rig.config.token, "second-token").unwrap();
    client.fetch(&id("default/sa/app")).await.unwrap();
    assert_eq!(rig.seen()[1].authorization, "Bearer second-token");

    for bad in ["", "  \n", "two\nlines", "t\u{f6}ken\u{7f}"] {
        std::fs::write(&rig.config.token, bad).unwrap();
        let error = client.fetch(&id("default/sa/app")).await.unwrap_err();
        assert!(
            matches!(error, FetchSvidError::TokenForm { .. }),
            "{bad:?}: {error:?}"
        );
    }
    std::fs::remove_file(&rig.config.token).unwrap();
    let error = client.fetch(&id("default/sa/app")).await.unwrap_err();
    assert!(matches!(error, FetchSvidError::Token { .. }), "{error:?}");
    assert_eq!(rig.seen().len(), 2);
}

#[tokio::test]
async fn every_key_is_new() {
    let rig = Rig::start().await;
    let client = rig.client();
    let public_key = |svid: &Svid| {
        let chain = crate::pem::certificates(&svid.chain_pem()).unwrap();
        crate::leaf::Leaf::parse(&chain[0])
            .unwrap()
            .public_key_info()
            .to_vec()
    };
    let first = client.fetch(&id("default/sa/app")).await.unwrap();
    let second = client.fetch(&id("default/sa/app")).await.unwrap();
    assert_ne!(public_key(&first), public_key(&second));
}

#[tokio::test]
async fn bad_answers_are_told_apart() {
    let rig = Rig::start().await;
    let client = rig.client();
    let cases = [
        (
            Mood::Refusing,
            "gave no certificate (Unauthenticated): not your pod",
        ),
        (
            Mood::Rootless,
            "sent 1 certificates, expected a leaf and its roots",
        ),
        (Mood::Confused, "not usable"),
    ];
    for (mood, expected) in cases {
        *rig.authority.mood.lock().unwrap() = mood;
        let error = client.fetch(&id("default/sa/app")).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn an_authority_that_cannot_prove_itself_gets_no_token() {
    let rig = Rig::start().await;
    let mut config = rig.config.clone();
    config.server_name = "other.name".to_owned();
    let client = CaClient::new(config).unwrap();
    let error = client.fetch(&id("default/sa/app")).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("expected other.name"), "{text}");
    assert!(rig.seen().is_empty());
}

#[tokio::test]
async fn an_authority_that_went_away_is_an_error_and_its_return_is_found() {
    let mut rig = Rig::start().await;
    let client = rig.client();
    client.fetch(&id("default/sa/app")).await.unwrap();
    rig.stop();
    let deadline = Instant::now() + LIMIT;
    while client.fetch(&id("default/sa/app")).await.is_ok() {
        assert!(Instant::now() < deadline, "the authority never went away");
    }
    let error = client.fetch(&id("default/sa/app")).await.unwrap_err();
    assert!(matches!(error, FetchSvidError::Refused { .. }), "{error:?}");
    rig.resume().await;
    while let Err(error) = client.fetch(&id("default/sa/app")).await {
        assert!(
            Instant::now() < deadline,
            "the client never came back: {error}"
        );
    }
}

#[tokio::test]
async fn an_unusable_config_is_refused() {
    let rig = Rig::start().await;
    let refused = |change: fn(&mut CaClientConfig), expected: &str| {
        let mut config = rig.config.clone();
        change(&mut config);
        let error = CaClient::new(config).unwrap_err();
        assert!(format!("{error:?}").contains(expected), "{error:?}");
    };
    refused(|config| config.address = "http://a:1".to_owned(), "Address");
    refused(|config| config.root_pem = String::new(), "Tls");
    refused(|config| config.cluster = "new\nline".to_owned(), "Cluster");
}
