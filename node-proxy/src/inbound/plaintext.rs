//! The door for plaintext: port 15006, to which the kernel steers what comes from outside the mesh.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use tokio::net::{TcpListener, TcpStream};
use tulle_policy::compiled::Outcome;

use super::{DENIED, POLICY_CHANGED, application};
use crate::{
    judged::{Client, carry_plain},
    plane::{Direction, InboundMode, Security},
    pod::{ConnectionLimit, Pod, accept_all},
    policy::{Judge, SessionGuard},
    pump::AppSocket,
};

/// Takes steered connections until the drain begins.
pub(crate) async fn serve(pod: Arc<Pod>, listener: TcpListener) {
    let limit = ConnectionLimit::new(pod.plane.settings.connections_per_pod_max);
    accept_all(&pod, &listener, Direction::Inbound, |stream, client| {
        let Some(permit) = limit.take() else {
            pod.plane
                .metrics
                .count_failed(Direction::Inbound, "connection_limit");
            return;
        };
        let Ok(local) = stream.local_addr() else {
            return;
        };
        let destination = pod.plane.kernel.inbound_destination(local);
        let connection_pod = Arc::clone(&pod);
        pod.tasks.spawn(async move {
            let _permit = permit;
            carry(&connection_pod, stream, client, destination).await;
        });
    })
    .await;
}

/// One connection from its first to its last byte. Whatever refuses it resets it.
async fn carry(pod: &Arc<Pod>, stream: TcpStream, client: SocketAddr, destination: SocketAddr) {
    let metrics = &pod.plane.metrics;
    let downstream = AppSocket::new(stream);
    let (application, judge) = match Box::pin(admit(pod, client, destination)).await {
        Ok(admitted) => admitted,
        Err(reason) => {
            metrics.count_failed(Direction::Inbound, reason);
            return;
        }
    };
    // The node's own probes belong to no session: policy does not speak of them, before or after.
    let session = judge.map(|judge| pod.sessions.open(judge));
    if let Some(session) = &session
        && !session.is_still_allowed()
    {
        metrics.count_failed(Direction::Inbound, DENIED);
        return;
    }
    let judge = session.as_ref().and_then(SessionGuard::request_judge);
    let forbidden = Box::pin(async {
        match &session {
            Some(session) => session.forbidden().await,
            None => std::future::pending().await,
        }
    });
    let open = metrics.open_connection(Direction::Inbound, Security::Plaintext);
    let reason = tokio::select! {
        reason = carry_plain(pod, application, downstream, Client::Peer, judge) => reason,
        // What carries is dropped: both sides see a reset.
        () = forbidden => POLICY_CHANGED,
    };
    open.end(reason);
}

/// Connects to the application, and says what goes on judging the connection.
async fn admit(
    pod: &Arc<Pod>,
    client: SocketAddr,
    destination: SocketAddr,
) -> Result<(AppSocket, Option<Arc<Judge>>), &'static str> {
    let began = Instant::now();
    let judge = check(pod, client, destination).await?;
    let application = application::connect(pod, destination, client)
        .await
        .map_err(|error| {
            application::log_failure(pod, &error);
            error.reason()
        })?;
    pod.plane
        .metrics
        .observe_connect(Direction::Inbound, began.elapsed().as_secs_f64());
    Ok((application, judge))
}

async fn check(
    pod: &Pod,
    client: SocketAddr,
    destination: SocketAddr,
) -> Result<Option<Arc<Judge>>, &'static str> {
    let settings = &pod.plane.settings;
    if settings.ports.is_ours(destination.port()) {
        return Err("recursive");
    }
    if !pod.descriptor.addresses.contains(&destination.ip()) {
        return Err("wrong_destination");
    }
    if is_of_node(pod, client) {
        return Ok(None);
    }
    if settings.inbound_mode == InboundMode::Strict {
        return Err("strict");
    }
    let directory = pod.plane.directory.snapshot();
    let workload = directory
        .workload_at(destination.ip())
        .filter(|workload| pod.is_workload(workload))
        .ok_or("unknown_workload")?;
    let view = pod.plane.policy.clone();
    let judge = Judge::inbound(view, workload.uid.clone(), None, client.ip(), destination);
    let verdict = judge.settled_connection().await;
    if verdict.outcome == Outcome::Deny {
        tracing::info!(pod = %pod.descriptor.name, %client, %destination, %verdict, "policy refuses a plaintext connection");
        return Err(DENIED);
    }
    Ok(Some(Arc::new(judge)))
}

/// The node's health probes decide whether the pod lives at all; neither mode nor policy speaks of them.
fn is_of_node(pod: &Pod, client: SocketAddr) -> bool {
    pod.plane.settings.host_addresses.contains(&client.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection costs its future for as long as it lives.
    #[test]
    fn the_future_of_a_connection_is_small() {
        fn size<A, B, C, D, F>(_carry: impl FnOnce(A, B, C, D) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(carry);
        assert!(size <= 1024, "{size} bytes");
    }
}
