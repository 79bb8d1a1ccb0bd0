//! Connections that the pod's applications open: where each goes, and over what.
//!
//! Decides the endpoint (the kernel's choice first, others of the same service while no byte was sent), and whether a tunnel or
//! plain TCP leads there, after the pod's own rules were asked. It does not decide whether the peer lets the connection in, and it
//! never falls back from a tunnel to plaintext.

mod candidates;
mod error;
mod silence;

use std::{
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Instant,
};

use tokio::net::{TcpListener, TcpStream};
use tulle_datapath::OriginalDestination;
use tulle_identity::Svid;
use tulle_model::{Directory, SpiffeId, TunnelProtocol};
use tulle_policy::compiled::Outcome;

use crate::{
    health::Witness,
    inbound::{DENIED, POLICY_CHANGED},
    judged::{Client, carry_plain, carry_tunnel},
    plane::{DeniedLook, Direction, Security, TunnelSide},
    pod::{ConnectionLimit, Pod, accept_all},
    policy::Judge,
    pump::AppSocket,
    tunnel::{ConnectHeaders, PoolKey, TunnelStream},
};
use candidates::{Candidate, Candidates};
use error::OutboundError;

/// Takes captured connections until the drain begins.
pub(crate) async fn serve(pod: Arc<Pod>, listener: TcpListener) {
    let limit = ConnectionLimit::new(pod.plane.settings.connections_per_pod_max);
    accept_all(
        &pod,
        &listener,
        Direction::Outbound,
        |stream, downstream| {
            let Some(permit) = limit.take() else {
                pod.plane
                    .metrics
                    .count_failed(Direction::Outbound, "connection_limit");
                return;
            };
            let connection_pod = Arc::clone(&pod);
            pod.tasks.spawn(async move {
                let _permit = permit;
                carry(&connection_pod, stream, downstream).await;
            });
        },
    )
    .await;
}

/// One connection from its first to its last byte. Whatever fails before the first byte resets it.
async fn carry(pod: &Arc<Pod>, stream: TcpStream, downstream: SocketAddr) {
    let metrics = &pod.plane.metrics;
    let application = AppSocket::new(stream);
    // Boxed: what is needed only until bytes flow must not live as long as the connection.
    let upstream = match Box::pin(reach_unless_broken(pod, &application, downstream)).await {
        Ok(upstream) => upstream,
        Err(error) => {
            tracing::debug!(
                pod = %pod.descriptor.name,
                error = &error as &dyn std::error::Error,
                "an outbound connection failed"
            );
            metrics.count_failed(Direction::Outbound, error.reason());
            let settings = &pod.plane.settings;
            if error.is_denial() && settings.denied_look == DeniedLook::Drop {
                Box::pin(silence::keep(
                    &application,
                    &pod.denied,
                    settings.denied_patience,
                ))
                .await;
            }
            return;
        }
    };
    let (upstream, judge) = upstream;
    let session = pod.sessions.open(judge);
    if !session.is_still_allowed() {
        metrics.count_failed(Direction::Outbound, DENIED);
        return;
    }
    let judge = session.request_judge();
    // Boxed: it waits as long as the connection lives.
    let forbidden = Box::pin(async move { session.forbidden().await });
    match *upstream {
        Upstream::Tunnel(stream) => {
            let open = metrics.open_connection(Direction::Outbound, Security::MutualTls);
            let _counted = metrics.stream_guard(TunnelSide::Client);
            let reason = tokio::select! {
                reason = carry_tunnel(pod, application, stream, Client::Application, judge) => reason,
                // What carries is dropped: both sides see a reset.
                () = forbidden => POLICY_CHANGED,
            };
            open.end(reason);
        }
        // Boxed: there are few of them, and tunnels need not have room for them.
        Upstream::Plain(other) => {
            Box::pin(go_plain(pod, application, other, judge, forbidden)).await
        }
    }
}

/// The bytes of a connection that leaves the mesh.
async fn go_plain(
    pod: &Pod,
    application: AppSocket,
    other: AppSocket,
    judge: Option<Arc<Judge>>,
    forbidden: impl Future<Output = ()>,
) {
    let metrics = &pod.plane.metrics;
    let open = metrics.open_connection(Direction::Outbound, Security::Plaintext);
    let reason = tokio::select! {
        reason = carry_plain(pod, application, other, Client::Application, judge) => reason,
        // What carries is dropped: both sides see a reset.
        () = forbidden => POLICY_CHANGED,
    };
    open.end(reason);
}

enum Upstream {
    Tunnel(TunnelStream),
    Plain(AppSocket),
}

async fn reach_unless_broken(
    pod: &Arc<Pod>,
    application: &AppSocket,
    downstream: SocketAddr,
) -> Result<(Box<Upstream>, Arc<Judge>), OutboundError> {
    let began = Instant::now();
    let original = pod
        .plane
        .kernel
        .original_destination(pod.namespace.cookie(), downstream)
        .ok_or(OutboundError::UnknownDestination { downstream })?;
    let mut reaching = pin!(reach(pod, original, downstream));
    let upstream = tokio::select! {
        // Both arms are cancel-safe: dropping `reach` at most leaves a tunnel for the next connection.
        result = &mut reaching => result?,
        // Bytes sent before a reset are the peer's to see, as they would be without a mesh.
        () = application.broken() => match application.has_unread() {
            true => reaching.await?,
            false => return Err(OutboundError::DownstreamGone),
        },
    };
    pod.plane
        .metrics
        .observe_connect(Direction::Outbound, began.elapsed().as_secs_f64());
    Ok(upstream)
}

/// Connects to the endpoint that the kernel chose, or to another of the same service when that one cannot be reached or is silent.
async fn reach(
    pod: &Arc<Pod>,
    original: OriginalDestination,
    downstream: SocketAddr,
) -> Result<(Box<Upstream>, Arc<Judge>), OutboundError> {
    let plane = &pod.plane;
    let health = &plane.shared.health;
    let directory = plane.directory.snapshot();
    let mut candidates = Candidates::new(pod, &directory, original);
    let mut failure = None;
    let attempts_max = plane.settings.connect_attempts_max.max(1);
    for attempt in 1..=attempts_max {
        let Some(candidate) = candidates.next(&health.ejected()) else {
            break;
        };
        if attempt > 1 {
            plane.metrics.connect_retries.inc();
        }
        let may_leave = attempt < attempts_max;
        let judge = judge(pod, &directory, &candidate);
        let verdict = judge.settled_connection().await;
        if verdict.outcome == Outcome::Deny {
            return Err(OutboundError::Denied {
                address: candidate.address,
                verdict: Box::new(verdict),
            });
        }
        let reached = match prepare(pod, &directory, &candidate, downstream).await {
            Ok(way) => go(pod, way, &candidate, may_leave.then_some(&candidates)).await,
            Err(error) => Err(error),
        };
        match reached {
            Ok(upstream) => {
                health.record_success(candidate.address);
                return Ok((Box::new(upstream), Arc::new(judge)));
            }
            Err(error) => {
                if let Some(failure) = error.failure() {
                    let endpoint = candidate.address;
                    let own = &plane.cluster;
                    health.record_failure(own, &directory, endpoint, failure, Witness::Proxy);
                }
                if !error.may_retry() {
                    return Err(error);
                }
                failure = Some(error);
            }
        }
    }
    Err(failure.unwrap_or(OutboundError::NoEndpoint {
        requested: original.requested,
    }))
}

/// What policy is asked about a connection to the candidate.
fn judge(pod: &Pod, directory: &Directory, candidate: &Candidate) -> Judge {
    let address = candidate.address;
    let workload = directory.workload_at(address.ip());
    // A tunnel ends at whoever proves to be the workload, or nowhere.
    let proven = workload
        .filter(|workload| workload.tunnel_protocol == TunnelProtocol::Hbone)
        .map(|workload| workload.identity());
    Judge::outbound(
        pod.plane.policy.clone(),
        pod.workload_uid(),
        proven,
        source_ip(pod, address.ip()),
        address,
    )
}

/// How an endpoint is reached.
enum Way {
    Plain(SocketAddr),
    Tunnel {
        key: PoolKey,
        svid: Arc<Svid>,
        headers: Box<ConnectHeaders>,
    },
}

/// Goes a way. With `others`, an endpoint that is silent for too long is left for them; no byte was sent.
async fn go(
    pod: &Arc<Pod>,
    way: Way,
    candidate: &Candidate,
    others: Option<&Candidates<'_>>,
) -> Result<Upstream, OutboundError> {
    let mut connecting = pin!(connect(pod, way));
    let patience = pod.plane.settings.failover_patience;
    if let Ok(result) = tokio::time::timeout(patience, connecting.as_mut()).await {
        return result;
    }
    let ejected = pod.plane.shared.health.ejected();
    if others.is_some_and(|others| others.has_other(&ejected)) {
        return Err(OutboundError::Silent {
            address: candidate.address,
            patience,
        });
    }
    connecting.await
}

async fn connect(pod: &Arc<Pod>, way: Way) -> Result<Upstream, OutboundError> {
    match way {
        Way::Plain(address) => {
            let stream = pod.dialer.connect_plain(address).await?;
            Ok(Upstream::Plain(AppSocket::new(stream)))
        }
        Way::Tunnel { key, svid, headers } => {
            let stream = pod.pool.open_stream(&key, &svid, &headers).await?;
            Ok(Upstream::Tunnel(stream))
        }
    }
}

/// What is needed before the endpoint is asked; waiting for our own certificate is not the endpoint's silence.
async fn prepare(
    pod: &Arc<Pod>,
    directory: &Directory,
    candidate: &Candidate,
    downstream: SocketAddr,
) -> Result<Way, OutboundError> {
    let address = candidate.address;
    let workload = match directory.workload_at(address.ip()) {
        Some(workload) => workload,
        None if candidate.is_outside => return Ok(Way::Plain(address)),
        None => {
            let address = address.ip();
            return Err(OutboundError::UnknownWorkload { address });
        }
    };
    match workload.tunnel_protocol {
        TunnelProtocol::None => Ok(Way::Plain(address)),
        TunnelProtocol::Hbone => {
            let mut expected: Vec<SpiffeId> = vec![workload.identity()];
            let extra = candidate.service.iter().flat_map(|s| &s.subject_alt_names);
            expected.extend(extra.filter_map(|name| name.parse::<SpiffeId>().ok()));
            expected.sort_unstable();
            expected.dedup();
            let key = PoolKey {
                destination: SocketAddr::new(address.ip(), pod.plane.settings.peer_hbone_port),
                expected: expected.into(),
            };
            let headers = Box::new(ConnectHeaders {
                destination: address,
                client: SocketAddr::new(source_ip(pod, address.ip()), downstream.port()),
                service: candidate.service.as_ref().map(|s| s.hostname.clone()),
                baggage: pod.baggage(directory),
                trace: (rand::random(), rand::random()),
            });
            let svid = pod.svid().await?;
            Ok(Way::Tunnel { key, svid, headers })
        }
    }
}

/// The pod's address in the family of `destination`: the application's own end, which it reached by loopback.
fn source_ip(pod: &Pod, destination: IpAddr) -> IpAddr {
    let addresses = &pod.descriptor.addresses;
    let same_family = addresses
        .iter()
        .find(|ip| ip.is_ipv4() == destination.is_ipv4());
    same_family
        .or(addresses.first())
        .copied()
        .unwrap_or(destination)
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
