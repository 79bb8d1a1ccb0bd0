//! The door for tunnels: port 15008.
//!
//! A tunnel, or a lane, takes nothing new once a certificate that it was opened with is over: it is told to the peer (GOAWAY; a lane
//! just closes), who comes back with a proof that holds. Connections that it carries go on to their own end, as everywhere: an
//! application must not lose a transfer of hours to its proxy's housekeeping, and policy can cut it at any time.

use std::{
    error::Error,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use tokio::net::{TcpListener, TcpStream};
use tulle_identity::{HandshakeError, InnerProtocol, Peer, Term, TlsStream};
use tulle_model::{Directory, NamespacedName, Protocol, Workload};
use tulle_policy::compiled::Outcome;

use super::{DENIED, POLICY_CHANGED, application, lane};
use crate::{
    judged::{Client, carry_tunnel},
    plane::{Direction, Security, Transport, TunnelSide},
    pod::{ConnectionLimit, Pod, accept_all},
    policy::Judge,
    pump::AppSocket,
    tunnel::{
        self, Authority, IncomingStream, Refusal, TunnelIo, forwarded_client, parse_authority,
    },
};

/// Takes tunnels until the drain begins.
pub(crate) async fn serve(pod: Arc<Pod>, listener: TcpListener) {
    let settings = &pod.plane.settings;
    let tunnels = ConnectionLimit::new(settings.tunnels_per_pod_max);
    let handshakes = ConnectionLimit::new(settings.handshakes_per_pod_max);
    accept_all(&pod, &listener, Direction::Inbound, |stream, peer| {
        let (Some(permit), Some(handshake)) = (tunnels.take(), handshakes.take()) else {
            pod.plane
                .metrics
                .count_handshake(TunnelSide::Server, "limit");
            return;
        };
        let tunnel_pod = Arc::clone(&pod);
        pod.tasks.spawn(async move {
            let _permit = permit;
            let established = Box::pin(shake_hands(&tunnel_pod, stream, peer)).await;
            drop(handshake);
            if let Some((tls, end)) = established {
                match tls.protocol() {
                    Some(InnerProtocol::Lane) => Box::pin(lane::serve(&tunnel_pod, tls, end)).await,
                    Some(InnerProtocol::Http2) | None => {
                        Box::pin(serve_tunnel(&tunnel_pod, tls, end)).await;
                    }
                }
            }
        });
    })
    .await;
}

/// Both ends of an established tunnel or lane.
pub(super) struct TunnelEnd {
    pub(super) proven: Arc<Peer>,
    /// The end of the certificates that both proved.
    pub(super) term: Term,
    pub(super) peer: SocketAddr,
    pub(super) local: IpAddr,
}

/// TLS; `None` when the peer did not prove itself, which was counted.
async fn shake_hands(
    pod: &Arc<Pod>,
    stream: TcpStream,
    peer: SocketAddr,
) -> Option<(TlsStream<TunnelIo>, TunnelEnd)> {
    let metrics = &pod.plane.metrics;
    let limit = pod.plane.settings.handshake_timeout;
    let began = Instant::now();
    let local = stream.local_addr().ok()?.ip();
    let svid = match pod.svid().await {
        Ok(svid) => svid,
        Err(error) => {
            tracing::warn!(pod = %pod.descriptor.name, error = &error as &dyn Error, "no tunnel can be accepted");
            metrics.count_handshake(TunnelSide::Server, "no_svid");
            return None;
        }
    };
    let io = TunnelIo::new(stream, Arc::clone(&pod.plane.shared.buffers));
    let offer = pod.plane.settings.offer();
    let accept = pod.plane.tls.accept_offering(offer, Arc::clone(&svid), io);
    let result = tokio::time::timeout(limit, accept).await;
    match result.unwrap_or(Err(HandshakeError::Timeout { limit })) {
        Ok((tls, proven)) => {
            metrics.count_handshake(TunnelSide::Server, "ok");
            metrics.observe_handshake(TunnelSide::Server, began.elapsed().as_secs_f64());
            let end = TunnelEnd {
                term: Term::of_both(&svid, &proven),
                proven: Arc::new(proven),
                peer,
                local,
            };
            Some((tls, end))
        }
        Err(error) => {
            tracing::debug!(pod = %pod.descriptor.name, error = &error as &dyn Error, "a handshake failed");
            metrics.count_handshake(TunnelSide::Server, error.reason());
            None
        }
    }
}

async fn serve_tunnel(pod: &Arc<Pod>, tls: TlsStream<TunnelIo>, end: TunnelEnd) {
    let _guard = pod
        .plane
        .metrics
        .tunnel_guard(TunnelSide::Server, Transport::Hbone);
    if let Some(congestion) = pod.plane.settings.congestion {
        congestion.settle(tls.io().socket());
    }
    let end = Arc::new(end);
    let ending = async {
        tokio::select! { // Cancel-safe: both only wait.
            () = pod.tasks.draining() => {}
            () = end.term.end(|| pod.plane.svids.now()) => {}
        }
    };
    tunnel::serve(tls, &pod.plane, end.term, ending, |incoming| {
        let (stream_pod, end) = (Arc::clone(pod), Arc::clone(&end));
        // Boxed: the request is not needed once it is answered.
        let incoming = Box::new(incoming);
        pod.tasks
            .spawn(async move { carry(&stream_pod, &end, incoming).await });
    })
    .await;
}

/// One stream from its first to its last byte.
async fn carry(pod: &Arc<Pod>, end: &TunnelEnd, incoming: Box<IncomingStream>) {
    let metrics = &pod.plane.metrics;
    // Boxed: what is needed only until bytes flow must not live as long as the connection.
    let admitted = match request_of(&incoming) {
        Ok(request) => Box::pin(admit(pod, end, &request)).await,
        Err(refusal) => Err(refusal),
    };
    let admitted = match admitted {
        Ok(admitted) => admitted,
        Err((refusal, reason)) => {
            metrics.count_failed(Direction::Inbound, reason);
            incoming.refuse(refusal);
            return;
        }
    };
    // Before the answer: from the first byte on, the connection ends when policy says so.
    let Admitted {
        application,
        judge,
        judged,
    } = admitted;
    let session = pod.sessions.open(judge);
    if !session.is_still_allowed() {
        metrics.count_failed(Direction::Inbound, DENIED);
        incoming.refuse(Refusal::Denied);
        return;
    }
    let baggage = pod.baggage(&judged);
    drop(judged);
    let Ok(stream) = incoming.accept(baggage) else {
        metrics.count_failed(Direction::Inbound, "peer_gone");
        return;
    };
    let _guard = metrics.stream_guard(TunnelSide::Server);
    let open = metrics.open_connection(Direction::Inbound, Security::MutualTls);
    let reason = tokio::select! {
        reason = carry_tunnel(pod, application, stream, Client::Peer, session.request_judge()) => reason,
        // What carries is dropped: both sides see a reset.
        () = session.forbidden() => POLICY_CHANGED,
    };
    open.end(reason);
}

/// Which connection a peer asks for.
pub(super) struct Request {
    pub(super) authority: Authority,
    /// The client's own end, if its proxy tells it.
    pub(super) client: Option<SocketAddr>,
}

fn request_of(incoming: &IncomingStream) -> Result<Request, (Refusal, &'static str)> {
    let text = incoming
        .connect_authority()
        .ok_or((Refusal::BadRequest, "bad_method"))?;
    Ok(Request {
        authority: parse_authority(text).ok_or((Refusal::BadRequest, "bad_authority"))?,
        client: forwarded_client(incoming.headers()),
    })
}

/// A request that may be answered with yes.
pub(super) struct Admitted {
    pub(super) application: AppSocket,
    pub(super) judge: Arc<Judge>,
    /// The view by which policy allowed it.
    pub(super) judged: Arc<Directory>,
}

/// Checks a request and connects to the application; a refusal comes with its name in metrics.
pub(super) async fn admit(
    pod: &Arc<Pod>,
    end: &TunnelEnd,
    request: &Request,
) -> Result<Admitted, (Refusal, &'static str)> {
    let began = Instant::now();
    let directory = pod.plane.directory.snapshot();
    let (workload, destination) = destination(pod, &directory, end.local, &request.authority)?;
    let judge = Judge::inbound(
        pod.plane.policy.clone(),
        workload.uid.clone(),
        Some(end.proven.id.clone()),
        end.peer.ip(),
        destination,
    );
    let verdict = judge.settled_connection().await;
    if verdict.outcome == Outcome::Deny {
        tracing::info!(pod = %pod.descriptor.name, peer = %end.proven.id, %destination, %verdict, "policy refuses a connection");
        return Err((Refusal::Denied, DENIED));
    }
    // The port of the application itself, if its proxy tells it; its address must be the proven tunnel's.
    let client = request
        .client
        .filter(|client| client.ip() == end.peer.ip())
        .unwrap_or(end.peer);
    let application = application::connect(pod, destination, client)
        .await
        .map_err(|error| {
            application::log_failure(pod, &error);
            (Refusal::Unavailable, error.reason())
        })?;
    pod.plane
        .metrics
        .observe_connect(Direction::Inbound, began.elapsed().as_secs_f64());
    Ok(Admitted {
        application,
        judge: Arc::new(judge),
        judged: directory,
    })
}

/// Whom the request addresses: this pod's workload, and the address of its application.
fn destination<'a>(
    pod: &Pod,
    directory: &'a Directory,
    local: IpAddr,
    authority: &Authority,
) -> Result<(&'a Workload, SocketAddr), (Refusal, &'static str)> {
    let workload = directory
        .workload_at(local)
        .filter(|workload| pod.is_workload(workload))
        .ok_or((Refusal::Unavailable, "unknown_workload"))?;
    let address = match authority {
        Authority::Address(address) if address.ip() == local => *address,
        Authority::Address(_) => return Err((Refusal::BadRequest, "wrong_destination")),
        Authority::Host(host, port) => service_address(directory, workload, local, host, *port)
            .ok_or((Refusal::Unavailable, "unknown_service"))?,
    };
    if pod.plane.settings.ports.is_ours(address.port()) {
        return Err((Refusal::BadRequest, "recursive"));
    }
    Ok((workload, address))
}

/// Where the workload serves `port` of the service `host`; the service of its own namespace wins.
fn service_address(
    directory: &Directory,
    workload: &Workload,
    local: IpAddr,
    host: &str,
    port: u16,
) -> Option<SocketAddr> {
    let own = NamespacedName::new(workload.namespace.clone(), host);
    let key = if workload.services.contains_key(&own) {
        own
    } else {
        workload
            .services
            .keys()
            .find(|key| key.name == host)?
            .clone()
    };
    let service_port = directory
        .service(&key)?
        .ports
        .iter()
        .find(|p| p.port == port && p.protocol == Protocol::Tcp)?;
    workload
        .serving_addresses(&key, service_port)
        .find(|address| address.ip() == local)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection costs its future for as long as it lives.
    #[test]
    fn the_future_of_a_connection_is_small() {
        fn size<A, B, C, F>(_carry: impl FnOnce(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(carry);
        assert!(size <= 1024, "{size} bytes");
    }
}
