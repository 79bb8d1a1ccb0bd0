//! Hangs a pod's gate on its link: two programs that see every packet that leaves the pod or reaches it.
//!
//! The place is the host's side of the link, where nobody in the pod can take them off. If that side is not in the node's own
//! namespace, or the link is no pair of two interfaces, they hang inside the pod's namespace: then they hold only as long as nobody
//! in the pod has the right to take them off (`CAP_NET_ADMIN`).

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    attach::adopt_or_create_at,
    load::Gate,
    rtnetlink::{Interface, interfaces},
    sys::AttachType,
};

/// On which side of its link a pod's gate hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GateSide {
    /// On the host's side.
    Host,
    /// Inside the pod's namespace.
    Pod,
}

/// Where a gate is to hang.
pub(crate) struct GatePlace {
    pub(crate) side: GateSide,
    /// The interfaces, in the namespace of that side.
    indexes: Vec<u32>,
}

/// Finds the interfaces of a pod's links: all on the host's side if all of them can be there. The node's namespace is that of the
/// calling thread.
pub(crate) fn find_place(netns: BorrowedFd<'_>) -> io::Result<GatePlace> {
    let home = std::fs::File::open("/proc/thread-self/ns/net")?;
    let found = in_netns(netns, || interfaces(home.as_fd()))?;
    if found.is_empty() {
        let sentence = "the pod's namespace has no interface but the loopback";
        return Err(io::Error::new(io::ErrorKind::NotFound, sentence));
    }
    let peers: Option<Vec<u32>> = found.iter().map(|link: &Interface| link.peer).collect();
    Ok(match peers {
        Some(indexes) => GatePlace {
            side: GateSide::Host,
            indexes,
        },
        None => GatePlace {
            side: GateSide::Pod,
            indexes: found.iter().map(|link| link.index).collect(),
        },
    })
}

/// Hangs the gate there, or exchanges its programs in place. `pin` says where each link is pinned.
pub(crate) fn attach(
    place: &GatePlace,
    gate: &Gate,
    netns: BorrowedFd<'_>,
    pin: impl Fn(&str, u32) -> std::path::PathBuf + Sync,
) -> io::Result<()> {
    // What leaves the pod comes in on the host's side.
    let (from_pod, to_pod) = match place.side {
        GateSide::Host => (AttachType::TcxIngress, AttachType::TcxEgress),
        GateSide::Pod => (AttachType::TcxEgress, AttachType::TcxIngress),
    };
    let attach = || {
        for index in &place.indexes {
            for (name, program, attach_type) in [
                ("to", &gate.to_pod, to_pod),
                ("from", &gate.from_pod, from_pod),
            ] {
                let pin: &Path = &pin(name, *index);
                adopt_or_create_at(pin, program.program.as_fd(), attach_type, *index)?;
            }
        }
        Ok(())
    };
    match place.side {
        GateSide::Host => attach(),
        GateSide::Pod => in_netns(netns, attach),
    }
}

/// A thread of its own enters the namespace and ends there.
fn in_netns<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("pod-gate".to_owned())
            .spawn_scoped(scope, || {
                move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
                work()
            })?;
        worker.join().unwrap_or_else(|_panic| {
            Err(io::Error::other(
                "the thread in the pod's namespace panicked",
            ))
        })
    })
}
