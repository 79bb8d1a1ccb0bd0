//! Ends the established connections that policy no longer allows.
//!
//! Looked at are the sockets of applications that lead out of their pod without the proxy: direct connections, and those to backends
//! outside the mesh. What goes through the proxy leads to the pod's own loopback, and the proxy itself ends it; its own sockets in the
//! pod's namespace are known by their cgroup.

use std::{collections::HashSet, io, net::SocketAddr, os::fd::OwnedFd};

use tulle_abi::{Endpoint, PROTOCOL_TCP, TupleKey};

use super::{
    DestroyReport, destroy_here, everywhere, in_worker,
    netlink::{Diagnosis, LISTENERS, SocketSeen},
};
use crate::{DestroyConnectionsError, PolicyDirection};

/// A connection of an application that does not lead through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EstablishedConnection<'a> {
    /// The uid of the pod whose socket it is.
    pub uid: &'a str,
    /// The protocol's number: TCP, or UDP for a socket that is connected.
    pub protocol: u8,
    /// Whether it begins or ends at the pod.
    pub direction: PolicyDirection,
    /// The pod's end.
    pub local: SocketAddr,
    /// The other end.
    pub far: SocketAddr,
}

/// A pod, and where its sockets are.
pub(crate) struct PodSockets {
    pub(crate) uid: String,
    pub(crate) netns: OwnedFd,
}

/// Destroys the sockets that may no longer be, at most `limit`.
pub(crate) fn recheck(
    pods: &[PodSockets],
    proxy_cgroup: u64,
    is_direct: impl Fn(&TupleKey) -> bool + Sync,
    limit: usize,
    may: impl Fn(&EstablishedConnection<'_>) -> bool + Sync,
) -> Result<DestroyReport, DestroyConnectionsError> {
    if pods.is_empty() {
        return Ok(DestroyReport::default());
    }
    in_worker(|| {
        let namespaces = pods.iter().map(|pod| &pod.netns);
        everywhere(namespaces, limit, |index, report| {
            let Some(pod) = pods.get(index) else {
                return Ok(());
            };
            let listening = listening_ports()?;
            destroy_here(limit, report, |kind, socket| {
                if !is_applications(socket, proxy_cgroup) {
                    return false;
                }
                let protocol = kind.protocol();
                let direction = direction(socket, protocol, &listening, &is_direct);
                !may(&EstablishedConnection {
                    uid: &pod.uid,
                    protocol,
                    direction,
                    local: socket.local,
                    far: socket.far,
                })
            })
        })
    })
}

/// Whether it is an application's, and leads out of the pod. Where the kernel does not tell whose it is, it is left alone.
fn is_applications(socket: &SocketSeen, proxy_cgroup: u64) -> bool {
    let far = socket.far.ip();
    socket.cgroup.is_some_and(|cgroup| cgroup != proxy_cgroup)
        && !far.is_loopback()
        && !far.is_unspecified()
        && !socket.local.ip().is_loopback()
        && far != socket.local.ip()
}

/// The record of a direct connection says who began it; without one, whoever does not listen at his port did.
fn direction(
    socket: &SocketSeen,
    protocol: u8,
    listening: &HashSet<u16>,
    is_direct: impl Fn(&TupleKey) -> bool,
) -> PolicyDirection {
    let key = |acceptor: SocketAddr, connector: SocketAddr| TupleKey {
        netns: 0,
        local: Endpoint::from(acceptor),
        remote: Endpoint::from(connector),
    };
    let begins = protocol != PROTOCOL_TCP || is_direct(&key(socket.far, socket.local));
    let ends = !begins
        && (is_direct(&key(socket.local, socket.far)) || listening.contains(&socket.local.port()));
    if ends {
        PolicyDirection::Ingress
    } else {
        PolicyDirection::Egress
    }
}

/// The ports at which somebody listens in the namespace of the calling thread.
fn listening_ports() -> io::Result<HashSet<u16>> {
    let mut diagnosis = Diagnosis::open()?;
    let mut ports = HashSet::new();
    for kind in LISTENERS {
        diagnosis.list(kind, 0, |socket| {
            ports.insert(socket.local.port());
            false
        })?;
    }
    Ok(ports)
}
