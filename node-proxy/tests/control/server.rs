//! A control plane of one cluster, as small as can be: it signs what it is asked for and serves a fixed view.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::{Grpc, NamedService, StreamingService, UnaryService},
    transport::Server,
};
use tonic_prost::ProstCodec;
use tulle_identity::{CertificateAuthority, GrpcStream, ServerTls, TrustBundles};
use tulle_model::{Directory, SpiffeId, TrustBundle};
use tulle_wire::{
    Message,
    citadel::{IstioCertificateRequest, IstioCertificateResponse},
    encode_bundle, encode_service, encode_workload, grpc_path, pack, resource_version, type_url,
    xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
};

/// The control plane; it ends when it is dropped.
pub(crate) struct ControlPlane {
    pub(crate) address: SocketAddr,
    pub(crate) root_pem: String,
    /// Who was given a certificate.
    pub(crate) signed: Arc<Mutex<Vec<String>>>,
    tasks: Vec<JoinHandle<()>>,
}

const TTL: Duration = Duration::from_secs(600);

impl ControlPlane {
    pub(crate) async fn start(directory: &Directory) -> Self {
        let domain = "koornacht.tulle".parse().unwrap();
        let authority = CertificateAuthority::ephemeral(&domain, SystemTime::now()).unwrap();
        let id = "spiffe://koornacht.tulle/ns/tulle-system/sa/xds-server"
            .parse()
            .unwrap();
        let svid = authority
            .issue_server(&id, &[], TTL, SystemTime::now())
            .unwrap();
        let root_pem = authority.root_pem().to_owned();
        let bundles = TrustBundles::default()
            .with_pem(&domain, &root_pem)
            .unwrap();
        let tls = Arc::new(ServerTls::new(&svid, Arc::new(bundles)).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, incoming) = mpsc::channel(8);
        let accept = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, sender) = (Arc::clone(&tls), sender.clone());
                tokio::spawn(async move {
                    if let Ok((stream, peer)) = tls.accept(stream).await {
                        let stream: std::io::Result<GrpcStream<TcpStream>> =
                            Ok(GrpcStream::new(stream, peer));
                        let _server_is_gone = sender.send(stream).await;
                    }
                });
            }
        });
        let bundle = TrustBundle {
            trust_domain: domain,
            roots_pem: root_pem.clone(),
        };
        let ads = Ads {
            resources: Arc::new(resources(directory, &bundle)),
        };
        let signed = Arc::new(Mutex::new(Vec::new()));
        let signer = Signer {
            authority: Arc::new(authority),
            signed: Arc::clone(&signed),
        };
        let serve = tokio::spawn(async move {
            let server = Server::builder().add_service(ads).add_service(signer);
            server
                .serve_with_incoming(ReceiverStream::new(incoming))
                .await
                .unwrap();
        });
        ControlPlane {
            address,
            root_pem,
            signed,
            tasks: vec![accept, serve],
        }
    }
}

impl ControlPlane {
    /// Closes the listener and ends all streams.
    pub(crate) fn stop(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.stop();
    }
}

fn resources(directory: &Directory, bundle: &TrustBundle) -> Vec<(&'static str, Resource)> {
    let resource = |url: &'static str, name: String, message: &dyn Fn() -> tulle_wire::Any| {
        let body = message();
        let version = resource_version(&body.value);
        (
            url,
            Resource {
                name,
                version,
                resource: Some(body),
                ..Resource::default()
            },
        )
    };
    let address = |name: String, message: tulle_wire::workload::Address| {
        resource(type_url::ADDRESS, name, &|| {
            pack(type_url::ADDRESS, &message)
        })
    };
    let services = directory
        .services()
        .map(|s| address(s.key().to_string(), encode_service(s)));
    let workloads = directory
        .workloads()
        .map(|w| address(w.uid.0.to_string(), encode_workload(w)));
    let mut all: Vec<_> = services.chain(workloads).collect();
    let name = bundle.trust_domain.to_string();
    all.push(resource(type_url::TRUST_BUNDLE, name, &|| {
        pack(type_url::TRUST_BUNDLE, &encode_bundle(bundle))
    }));
    all
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Answers each type's first request with all that there is, and then listens.
#[derive(Clone)]
struct Ads {
    resources: Arc<Vec<(&'static str, Resource)>>,
}

impl NamedService for Ads {
    const NAME: &'static str = grpc_path::AGGREGATED_DISCOVERY_SERVICE;
}

impl tower::Service<http::Request<Body>> for Ads {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<DeltaDiscoveryResponse, DeltaDiscoveryRequest>::default();
            Ok(Grpc::new(codec).streaming(method, request).await)
        })
    }
}

impl StreamingService<DeltaDiscoveryRequest> for Ads {
    type Response = DeltaDiscoveryResponse;
    type ResponseStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;
    type Future = BoxFuture<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let resources = Arc::clone(&self.resources);
        Box::pin(async move {
            let (sender, responses) = mpsc::channel(8);
            tokio::spawn(async move {
                let mut requests = request.into_inner();
                while let Some(Ok(request)) = requests.next().await {
                    if !request.response_nonce.is_empty() {
                        assert_eq!(request.error_detail, None);
                        continue;
                    }
                    let of_type = resources.iter().filter(|(url, _)| *url == request.type_url);
                    let response = DeltaDiscoveryResponse {
                        resources: of_type.map(|(_, resource)| resource.clone()).collect(),
                        nonce: format!("{}-{}", request.type_url, request.encoded_len()),
                        type_url: request.type_url,
                        ..DeltaDiscoveryResponse::default()
                    };
                    let _client_is_gone = sender.send(Ok(response)).await;
                }
            });
            Ok(Response::new(ReceiverStream::new(responses)))
        })
    }
}

/// Signs for everybody who shows the token.
#[derive(Clone)]
struct Signer {
    authority: Arc<CertificateAuthority>,
    signed: Arc<Mutex<Vec<String>>>,
}

impl NamedService for Signer {
    const NAME: &'static str = grpc_path::CERTIFICATE_SERVICE;
}

impl tower::Service<http::Request<Body>> for Signer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<IstioCertificateResponse, IstioCertificateRequest>::default();
            Ok(Grpc::new(codec).unary(method, request).await)
        })
    }
}

impl UnaryService<IstioCertificateRequest> for Signer {
    type Response = IstioCertificateResponse;
    type Future = BoxFuture<Result<Response<IstioCertificateResponse>, Status>>;

    fn call(&mut self, request: Request<IstioCertificateRequest>) -> Self::Future {
        let signer = self.clone();
        Box::pin(async move {
            let token = request.metadata().get("authorization").cloned();
            if token.is_none_or(|token| token != "Bearer the-token") {
                return Err(Status::unauthenticated("no token"));
            }
            let request = request.into_inner();
            let own = "spiffe://koornacht.tulle/ns/tulle-system/sa/node-proxy";
            let id: SpiffeId = request
                .impersonated_identity()
                .unwrap_or(own)
                .parse()
                .unwrap();
            let issued = signer
                .authority
                .sign_csr(&request.csr, &id, TTL, SystemTime::now())
                .unwrap();
            signer.signed.lock().unwrap().push(id.to_string());
            let cert_chain = vec![issued.leaf_pem, issued.root_pem];
            Ok(Response::new(IstioCertificateResponse { cert_chain }))
        })
    }
}
