//! Ends the established connections that policy no longer allows.
//!
//! Looked at are the sockets of applications that lead out of their pod without the proxy: direct connections, and those to backends
//! outside the mesh. What goes through the proxy leads to the pod's own loopback, and the proxy itself ends it; its own sockets in the
//! pod's namespace are known by their cgroup.

use std::{collections::HashSet, io, net::SocketAddr, os::fd::OwnedFd};

use tulle_abi::{
    BEGUN_BY_FAR, BEGUN_TRUSTED, Endpoint, FlowKey, FlowValue, PROTOCOL_TCP, TupleKey,
};

use super::{
    DestroyReport, destroy_here, everywhere, in_worker,
    netlink::{Diagnosis, LISTENERS, SocketSeen},
};
use crate::{
    DestroyConnectionsError, PolicyDirection,
    raw::{Raw, Table},
};

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

/// What the kernel side noted of who began a connection.
pub(crate) struct Begun {
    /// Connections straight to a pod of this node.
    pub(crate) directs: Table<TupleKey, u32>,
    /// What passed the pods' gates.
    pub(crate) flows: Table<FlowKey, FlowValue>,
}

/// Destroys the sockets that may no longer be, at most `limit`.
pub(crate) fn recheck(
    pods: &[PodSockets],
    proxy_cgroup: u64,
    begun: &Begun,
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
                let Some(direction) = begun.direction(socket, protocol, &listening) else {
                    return false;
                };
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

impl Begun {
    /// Who began it; `None` = nobody who is judged.
    ///
    /// The record of a direct connection says so; without one, whoever does not listen at his port did. Of a UDP socket the gate
    /// knows: one that answers is connected as well as one that asks.
    fn direction(
        &self,
        socket: &SocketSeen,
        protocol: u8,
        listening: &HashSet<u16>,
    ) -> Option<PolicyDirection> {
        let ends = if protocol == PROTOCOL_TCP {
            !self.is_direct(socket.far, socket.local)
                && (self.is_direct(socket.local, socket.far)
                    || listening.contains(&socket.local.port()))
        } else {
            match self.flow(socket, protocol) {
                Some(BEGUN_TRUSTED) => return None,
                begun => begun == Some(BEGUN_BY_FAR),
            }
        };
        Some(if ends {
            PolicyDirection::Ingress
        } else {
            PolicyDirection::Egress
        })
    }

    fn is_direct(&self, acceptor: SocketAddr, connector: SocketAddr) -> bool {
        let key = TupleKey {
            netns: 0,
            local: Endpoint::from(acceptor),
            remote: Endpoint::from(connector),
        };
        self.directs.get(&Raw(key), 0).is_ok()
    }

    fn flow(&self, socket: &SocketSeen, protocol: u8) -> Option<u32> {
        let key = FlowKey {
            pod: Endpoint::from(socket.local),
            far: Endpoint::from(socket.far),
            protocol: u32::from(protocol),
        };
        Some(self.flows.get(&Raw(key), 0).ok()?.0.begun)
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
