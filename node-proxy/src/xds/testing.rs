//! A server that does what a test tells it, and resources for it to send.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::{Grpc, NamedService, StreamingService},
    transport::{Endpoint, Server, server::Connected},
};
use tonic_prost::ProstCodec;
use tulle_model::{Authorization, Service, Workload};
use tulle_wire::{
    Any, encode_authorization, encode_service, encode_workload, pack, type_url,
    xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
};

use super::{OpenChannel, OpenChannelError, Opened, ResourceKind};
use crate::testing::DEADLINE;

/// A server whose streams a test holds in its hands.
pub(crate) struct ScriptedServer {
    pub(crate) address: SocketAddr,
    streams: mpsc::Receiver<ServerStream>,
    task: JoinHandle<()>,
}

/// One stream, seen from the server.
pub(crate) struct ServerStream {
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

impl ScriptedServer {
    pub(crate) async fn start() -> Self {
        Self::listen("127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn listen(address: SocketAddr) -> Self {
        // A server that was stopped a moment ago may still be closing its listener.
        let bound = timeout(DEADLINE, async {
            loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        });
        let listener = bound.await.unwrap();
        let address = listener.local_addr().unwrap();
        Self::serve(address, TcpListenerStream::new(listener))
    }

    pub(crate) fn serve<IO>(
        address: SocketAddr,
        incoming: impl Stream<Item = std::io::Result<IO>> + Send + 'static,
    ) -> Self
    where
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let (sender, streams) = mpsc::channel(8);
        let server = Server::builder().add_service(Ads { streams: sender });
        let task = tokio::spawn(async move {
            server.serve_with_incoming(incoming).await.unwrap();
        });
        ScriptedServer {
            address,
            streams,
            task,
        }
    }

    pub(crate) async fn next_stream(&mut self) -> ServerStream {
        timeout(DEADLINE, self.streams.recv())
            .await
            .unwrap()
            .unwrap()
    }

    /// The first requests of a stream, by type.
    pub(crate) async fn greet(&mut self) -> (ServerStream, Vec<DeltaDiscoveryRequest>) {
        let mut stream = self.next_stream().await;
        let mut requests = Vec::new();
        for _ in ResourceKind::ALL {
            requests.push(stream.request().await);
        }
        (stream, requests)
    }

    pub(crate) fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ServerStream {
    pub(crate) async fn request(&mut self) -> DeltaDiscoveryRequest {
        timeout(DEADLINE, self.requests.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    }

    /// Sends a response and returns what the client says about it.
    pub(crate) async fn send(
        &mut self,
        url: &str,
        nonce: &str,
        resources: Vec<Resource>,
        removed: &[&str],
    ) -> DeltaDiscoveryRequest {
        let response = DeltaDiscoveryResponse {
            type_url: url.to_owned(),
            nonce: nonce.to_owned(),
            resources,
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryResponse::default()
        };
        self.send_response(response).await
    }

    /// Sends a response and returns its acknowledgement.
    pub(crate) async fn send_response(
        &mut self,
        response: DeltaDiscoveryResponse,
    ) -> DeltaDiscoveryRequest {
        let (url, nonce) = (response.type_url.clone(), response.nonce.clone());
        self.responses.send(Ok(response)).await.unwrap();
        let answer = self.request().await;
        assert_eq!(answer.response_nonce, nonce);
        assert_eq!(answer.type_url, url);
        answer
    }

    /// What comes after the last request.
    pub(crate) async fn end(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        self.requests.message().await
    }

    pub(crate) async fn fail(self, status: Status) {
        self.responses.send(Err(status)).await.unwrap();
    }
}

#[derive(Clone)]
struct Ads {
    streams: mpsc::Sender<ServerStream>,
}

impl NamedService for Ads {
    const NAME: &'static str = tulle_wire::grpc_path::AGGREGATED_DISCOVERY_SERVICE;
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl tower::Service<http::Request<Body>> for Ads {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        assert_eq!(
            request.uri().path(),
            tulle_wire::grpc_path::DELTA_AGGREGATED_RESOURCES
        );
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
        let streams = self.streams.clone();
        Box::pin(async move {
            let (responses, queue) = mpsc::channel(8);
            let stream = ServerStream {
                requests: request.into_inner(),
                responses,
            };
            streams
                .send(stream)
                .await
                .map_err(|_| Status::unavailable("the test is over"))?;
            Ok(Response::new(ReceiverStream::new(queue)))
        })
    }
}

/// Connects without TLS.
pub(crate) struct PlainChannel(pub(crate) SocketAddr);

#[async_trait]
impl OpenChannel for PlainChannel {
    async fn open(&self) -> Result<Opened, OpenChannelError> {
        let address = format!("http://{}", self.0);
        let endpoint = Endpoint::from_shared(address.clone()).unwrap();
        let channel = endpoint
            .connect()
            .await
            .map_err(|source| OpenChannelError::Connect { address, source })?;
        Ok(Opened {
            channel,
            renewed: Box::pin(std::future::pending()),
        })
    }
}

pub(crate) fn resource(name: &str, version: &str, body: Any) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(body),
        ..Resource::default()
    }
}

pub(crate) fn workload_resource(workload: &Workload, version: &str) -> Resource {
    let body = pack(type_url::ADDRESS, &encode_workload(workload));
    resource(&workload.uid.0, version, body)
}

pub(crate) fn service_resource(service: &Service, version: &str) -> Resource {
    let body = pack(type_url::ADDRESS, &encode_service(service));
    resource(&service.key().to_string(), version, body)
}

pub(crate) fn policy_resource(policy: &Authorization, version: &str) -> Resource {
    let body = pack(type_url::AUTHORIZATION, &encode_authorization(policy));
    resource(&policy.key().to_string(), version, body)
}
