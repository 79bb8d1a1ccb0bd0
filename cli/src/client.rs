//! Calls to a management API: one connection for each call, bounded in time and size.

use std::{
    fs::File,
    io,
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    os::fd::AsFd as _,
    path::Path,
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::runtime::Runtime;
use tulle_identity::{ClientTls, HandshakeError, OpenClientTlsError};
use tulle_wire::management::Failure;

use crate::context::{Proof, Target};

/// The management API of one cluster.
#[derive(Debug)]
pub(crate) struct Client {
    target: Target,
    runtime: Runtime,
}

/// A call was not answered, or refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum CallError {
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("context {name}: the root certificate cannot be used")]
    Roots {
        name: String,
        #[source]
        source: OpenClientTlsError,
    },
    #[error("context {name}: cannot reach the xds-server at {address}")]
    Dial {
        name: String,
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("context {name}: no TLS with the xds-server at {address}")]
    Handshake {
        name: String,
        address: String,
        #[source]
        source: Box<HandshakeError>,
    },
    #[error("context {name}: the connection to the xds-server broke")]
    Broken {
        name: String,
        #[source]
        source: hyper::Error,
    },
    #[error("context {name}: no answer within {CALL_TIMEOUT:?}")]
    Late { name: String },
    #[error("context {name}: {sentence}")]
    Refused {
        name: String,
        code: StatusCode,
        sentence: String,
    },
    #[error("context {name}: the answer of the xds-server is not readable: {detail}")]
    Answer { name: String, detail: String },
}

impl CallError {
    /// Asking again may help: the server is not there, or not ready.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self,
            CallError::Dial { .. } | CallError::Broken { .. } | CallError::Late { .. }
        )
    }
}

impl Client {
    /// A client of that cluster; nothing is dialled yet.
    pub(crate) fn new(target: Target) -> Result<Client, CallError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(CallError::Runtime)?;
        Ok(Client { target, runtime })
    }

    /// What people call the cluster's context.
    pub(crate) fn name(&self) -> &str {
        &self.target.name
    }

    /// Asks.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        self.call(Method::GET, path, Vec::new())
    }

    /// Asks about what `content` says.
    pub(crate) fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        content: &impl Serialize,
    ) -> Result<T, CallError> {
        let content = serde_json::to_vec(content).map_err(|error| self.answer(&error))?;
        self.call(Method::POST, path, content)
    }

    /// Orders something, without content.
    pub(crate) fn order<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<T, CallError> {
        self.call(method, path, Vec::new())
    }

    /// Orders what `content` says.
    pub(crate) fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        content: &impl Serialize,
    ) -> Result<T, CallError> {
        let content = serde_json::to_vec(content).map_err(|error| self.answer(&error))?;
        self.call(Method::PUT, path, content)
    }

    /// Waits a moment before the next question.
    pub(crate) fn pause(&self, duration: Duration) {
        // The timer belongs to the runtime, so it is made inside.
        self.runtime
            .block_on(async { tokio::time::sleep(duration).await });
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content: Vec<u8>,
    ) -> Result<T, CallError> {
        let stream = dial(&self.target.address, self.target.namespace.as_deref());
        let stream = stream.map_err(|source| CallError::Dial {
            name: self.target.name.clone(),
            address: self.target.address.clone(),
            source,
        })?;
        let exchanged = self.runtime.block_on(async {
            let exchange = self.exchange(stream, method, path, content);
            tokio::time::timeout(CALL_TIMEOUT, exchange).await
        });
        let (code, body) = exchanged.map_err(|_| CallError::Late {
            name: self.target.name.clone(),
        })??;
        if code.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.answer(&error));
        }
        let failure: Failure =
            serde_json::from_slice(&body).map_err(|error| self.answer(&error))?;
        Err(CallError::Refused {
            name: self.target.name.clone(),
            code,
            sentence: failure.error,
        })
    }

    async fn exchange(
        &self,
        stream: TcpStream,
        method: Method,
        path: &str,
        content: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let name = || self.target.name.clone();
        let svid = match &self.target.proof {
            Proof::Certificate(svid) => Some(&**svid),
            Proof::Token(_) => None,
        };
        let tls = ClientTls::new(&self.target.ca, &self.target.server_name, svid);
        let tls = tls.map_err(|source| CallError::Roots {
            name: name(),
            source,
        })?;
        let address = self.target.address.clone();
        let stream = tokio::net::TcpStream::from_std(stream);
        let stream = stream.map_err(|source| CallError::Dial {
            name: name(),
            address: address.clone(),
            source,
        })?;
        let stream = tls.connect(stream).await;
        let stream = stream.map_err(|source| CallError::Handshake {
            name: name(),
            address: address.clone(),
            source: Box::new(source),
        })?;
        let broken = |source| CallError::Broken {
            name: name(),
            source,
        };
        let opened = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = opened.map_err(broken)?;
        // It ends with the sender; what goes wrong with it, the sender tells.
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://{address}{path}"));
        if let Proof::Token(token) = &self.target.proof {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(content)));
        let request = request.map_err(|error| self.answer(&error))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let code = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
        let body = body.await.map_err(|error| self.answer(&*error))?.to_bytes();
        connection.abort();
        Ok((code, body))
    }

    fn answer(&self, error: &dyn std::error::Error) -> CallError {
        CallError::Answer {
            name: self.target.name.clone(),
            detail: error.to_string(),
        }
    }
}

/// Connects, in another network namespace if one is given. The thread that enters it lives only for this.
fn dial(address: &str, namespace: Option<&Path>) -> io::Result<TcpStream> {
    let Some(path) = namespace else {
        return connect(address);
    };
    let namespace = File::open(path)?;
    thread::scope(|scope| {
        let dialler = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            connect(address)
        });
        dialler
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the dial broke off")))
    })
}

/// Tries every address of the name.
fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the server takes for anything.
const CALL_TIMEOUT: Duration = Duration::from_secs(35);
/// A list of ten thousand services.
const ANSWER_BYTES_MAX: usize = 64 << 20;
