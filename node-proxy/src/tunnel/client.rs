//! The end of a tunnel that connects: opens streams by CONNECT.

use std::{
    error::Error,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use h2::client::{self, SendRequest};
use http::{Method, Request, StatusCode};
use tulle_identity::{Svid, Term, TlsStream};

use super::{
    CLIENT_HEADER_LIST_LEN_MAX, CONNECTION_WINDOW_LEN, FRAME_LEN_MAX, STREAM_UNSENT_LEN_MAX,
    STREAM_WINDOW_LEN,
    chunk::Chunk,
    error::OpenTunnelError,
    headers::ConnectHeaders,
    io::TunnelIo,
    keepalive::Keepalive,
    load::{StreamLoad, TunnelLoad},
    stream::{HboneStream, TunnelReceive, TunnelSend, TunnelStream},
};
use crate::plane::{Plane, Transport, TunnelSide};

/// An open tunnel to one destination, proven as one identity.
pub(crate) struct Tunnel {
    sender: SendRequest<Chunk>,
    load: Arc<TunnelLoad>,
    svid: Arc<Svid>,
    term: Term,
    destination: SocketAddr,
}

/// Why CONNECT on an open tunnel did not end in a stream.
pub(crate) enum ConnectFailure {
    /// The tunnel was unusable, or became so before the peer answered; another tunnel may do.
    Tunnel(OpenTunnelError),
    /// The peer's answer, or its silence.
    Peer(OpenTunnelError),
}

impl Tunnel {
    /// Begins HTTP/2 on an established TLS connection. The returned future drives the tunnel and must be spawned.
    pub(crate) async fn start(
        io: TlsStream<TunnelIo>,
        plane: &Plane,
        (svid, term): (Arc<Svid>, Term),
        destination: SocketAddr,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>), h2::Error> {
        let writer = io.io().writer();
        let (sender, mut connection) = client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW_LEN)
            .initial_connection_window_size(CONNECTION_WINDOW_LEN)
            .max_frame_size(FRAME_LEN_MAX)
            .max_header_list_size(CLIENT_HEADER_LIST_LEN_MAX)
            .max_send_buffer_size(STREAM_UNSENT_LEN_MAX)
            .handshake::<_, Chunk>(io)
            .await?;
        writer.take_over();
        let settings = &plane.settings;
        let load = TunnelLoad::new(settings, &plane.shared.held);
        let guard = plane
            .metrics
            .tunnel_guard(TunnelSide::Client, Transport::Hbone);
        let mut keepalive = connection
            .ping_pong()
            .map(|pings| Keepalive::new(pings, settings.ping_interval, settings.ping_timeout));
        let tunnel = Tunnel {
            sender,
            load: Arc::clone(&load),
            svid,
            term,
            destination,
        };
        let drive = async move {
            let _guard = guard;
            let closing = CloseOnDrop(load);
            let mut connection = pin!(connection);
            let mut window_len = CONNECTION_WINDOW_LEN;
            poll_fn(|cx| {
                let wanted = closing.0.window_len();
                if wanted != window_len {
                    window_len = wanted;
                    connection.set_target_window_size(wanted);
                }
                if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                    if let Err(error) = result {
                        tracing::debug!(%destination, error = &error as &dyn Error, "a tunnel broke");
                    }
                    return Poll::Ready(());
                }
                if let Poll::Ready(Err(error)) = writer.poll_write_out(cx) {
                    tracing::debug!(%destination, %error, "a tunnel broke");
                    return Poll::Ready(());
                }
                match &mut keepalive {
                    Some(keepalive) => keepalive.poll_lost(cx),
                    None => Poll::Pending,
                }
            })
            .await;
            drop(closing);
        };
        Ok((tunnel, drive))
    }

    pub(crate) fn load(&self) -> &Arc<TunnelLoad> {
        &self.load
    }

    /// Whether new streams would still prove this certificate to a peer whose own proof holds.
    pub(crate) fn proves(&self, svid: &Arc<Svid>, now: SystemTime) -> bool {
        Arc::ptr_eq(&self.svid, svid) && !self.term.is_over(now)
    }

    /// How many streams the peer allows.
    pub(crate) fn streams_max(&self) -> usize {
        self.sender.current_max_send_streams()
    }

    /// Opens a stream: sends CONNECT and waits for 200. No byte of the application is sent before.
    pub(crate) async fn connect(
        &self,
        load: Arc<StreamLoad>,
        headers: &ConnectHeaders,
        patience: Duration,
    ) -> Result<TunnelStream, ConnectFailure> {
        match tokio::time::timeout(patience, self.connect_patiently(load, headers)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectFailure::Peer(OpenTunnelError::ResponseTimeout {
                destination: self.destination,
                limit: patience,
            })),
        }
    }

    async fn connect_patiently(
        &self,
        load: Arc<StreamLoad>,
        headers: &ConnectHeaders,
    ) -> Result<TunnelStream, ConnectFailure> {
        let request = self.request(headers)?;
        let mut sender = self
            .sender
            .clone()
            .ready()
            .await
            .map_err(|e| self.lost(e))?;
        let (response, send) = sender
            .send_request(request, false)
            .map_err(|e| self.lost(e))?;
        drop(sender);
        let response = response.await.map_err(|e| self.lost(e))?;
        if response.status() != StatusCode::OK {
            return Err(ConnectFailure::Peer(OpenTunnelError::Refused {
                destination: self.destination,
                status: response.status().as_u16(),
            }));
        }
        Ok(TunnelStream::Hbone(HboneStream {
            send: TunnelSend::new(send, Arc::clone(&load)),
            receive: TunnelReceive::new(response.into_body(), load),
        }))
    }

    fn request(&self, headers: &ConnectHeaders) -> Result<Request<()>, ConnectFailure> {
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(headers.destination.to_string())
            .body(())
            .map_err(|e| {
                ConnectFailure::Peer(OpenTunnelError::Lost {
                    destination: self.destination,
                    source: Arc::new(e),
                })
            })?;
        headers.write(request.headers_mut());
        Ok(request)
    }

    fn lost(&self, error: h2::Error) -> ConnectFailure {
        if error.is_go_away() || error.is_io() {
            // No newcomer shall try it again.
            self.load.close();
        }
        ConnectFailure::Tunnel(OpenTunnelError::Lost {
            destination: self.destination,
            source: Arc::new(error),
        })
    }
}

/// Marks the tunnel closed however its driver ends.
struct CloseOnDrop(Arc<TunnelLoad>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}
